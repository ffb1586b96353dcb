//! What the system's allocator keeps of buffers that are as large as a component.

/// Blocks from this size on are mapped, and given back when they are freed. glibc raises the limit to the largest
/// block that was ever freed, up to 32 MiB, and then keeps such blocks for each thread that had one: dropping in a
/// Python checker of 18 MB, which is read, examined and compiled on threads of their own, left 118 MiB behind, against
/// 13 MiB with a fixed limit, and a pod has 128.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: libc::c_int = 1 << 20;

/// Free memory at the end of a heap that is kept for later: twice as much, the ratio that glibc keeps itself.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 2 * MAPPED_FROM;

/// Makes the allocator give back large blocks. To be called before there are threads, by whoever owns the process.
pub fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the allocator's own switches are a function of C")]
    // SAFETY: it takes two numbers, and nobody else allocates meanwhile. A refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Gives back what is free between small blocks as well: examining a component of 18 MB leaves 4.5 MiB of it on each
/// thread that did. It looks at all heaps, so it is for the end of something large.
pub(crate) fn give_back_what_is_free() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: it takes the heaps' own locks and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

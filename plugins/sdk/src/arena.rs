//! The memory a check works in. An instance lives for one check of a few microseconds, so most of what it needs is
//! a little memory that nobody gives back: growing the linear memory alone costs more than the whole judgement.

#![expect(unsafe_code, reason = "an allocator hands out raw memory")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;

/// Enough for a check that asks a dozen questions. What does not fit is served as usual, so this is no limit.
const SIZE: usize = 16 << 10;

#[global_allocator]
static ARENA: Arena = Arena { arena: UnsafeCell::new(MaybeUninit::uninit()), used: Cell::new(0) };

/// Hands out an arena from the start, and never takes any of it back; then the usual allocator.
struct Arena {
    arena: UnsafeCell<MaybeUninit<[u8; SIZE]>>,
    used: Cell<usize>,
}

// SAFETY: this target has no threads.
unsafe impl Sync for Arena {}

// SAFETY: each piece of the arena is handed out once, aligned and inside of it; all else is the usual allocator.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.arena.get().cast::<u8>();
        let at = (start.addr() + self.used.get()).next_multiple_of(layout.align()) - start.addr();
        match at.checked_add(layout.size()) {
            Some(end) if end <= SIZE => {
                self.used.set(end);
                // SAFETY: `at` is inside the arena, as `end` is.
                unsafe { start.add(at) }
            }
            // SAFETY: the caller's layout.
            _ => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let start = self.arena.get().addr();
        if !(start..start + SIZE).contains(&memory.addr()) {
            // SAFETY: it came from there, with the caller's layout.
            unsafe { System.dealloc(memory, layout) }
        }
    }
}

//! From component to machine code. Compiling, not running, is what kills a small daemon: a Python guest takes 350 MB
//! to compile and 30 to run. So it happens in a child, one at a time, with limits of its own, and only if the
//! container has room for it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock;
use crate::engine::{Compile, Inner};
use crate::limits;
use crate::settings;

/// Peak memory of a compile beyond its size-dependent part. Measured against C, Rust, QuickJS, StarlingMonkey and
/// Python.
const ESTIMATE_BASE: u64 = 25_000_000;
/// Peak memory per byte of component, the steepest of the five.
const ESTIMATE_PER_BYTE: u64 = 30;
/// Address space is more than memory: code, stacks, and what the allocator keeps.
const ADDRESS_SPACE_EXTRA: u64 = 256 << 20;
/// A worker that compiles a small component still maps its own program and heap arenas.
const ADDRESS_SPACE_MIN: u64 = 768 << 20;
/// Twenty-five times the largest artefact seen.
const ARTEFACT_MAX: u64 = 1 << 30;
/// Input, output, errors, and what the runtime opens.
const OPEN_FILES: u64 = 16;
/// Compiling may wait; checks may not.
const NICENESS: i32 = 19;
/// A worker that was starved gets this many times its CPU time before it is given up.
const PATIENCE: u32 = 3;
/// What is kept of a worker's complaints.
const COMPLAINTS: u64 = 4096;

/// After the artefact: proof that the worker came to its end.
const TRAILER: &[u8; 8] = b"apgar-ok";
const TRAILER_LEN: u64 = 8 + 32;

/// The estimated peak memory of compiling a component of this size, in bytes.
#[must_use]
pub fn compile_estimate(size: u64) -> u64 {
    ESTIMATE_BASE + ESTIMATE_PER_BYTE * size
}

/// Compiles `bytes` and writes the artefact to `out`, which is then as long as the artefact is. The error is the
/// detail of a death `compile`.
pub(crate) async fn compile(inner: &Inner, bytes: &[u8], deadline: Duration, out: File) -> Result<File, String> {
    match &inner.compile {
        Compile::InProcess => tokio::task::block_in_place(|| {
            let artefact = inner.wasmtime.precompile_component(bytes).map_err(|error| format!("{error:#}"))?;
            write_all(out, &artefact)
        }),
        Compile::Child { program } => {
            room_for(compile_estimate(bytes.len() as u64))?;
            in_child(program, bytes, deadline, out).await
        }
    }
}

fn write_all(mut out: File, artefact: &[u8]) -> Result<File, String> {
    out.write_all(artefact).map_err(|error| format!("the artefact cannot be written: {error}"))?;
    Ok(out)
}

async fn in_child(program: &Path, bytes: &[u8], deadline: Duration, out: File) -> Result<File, String> {
    let cannot = |what: &str, error: std::io::Error| format!("the compile worker {what}: {error}");
    let handle = out.try_clone().map_err(|error| cannot("cannot be given its output", error))?;
    let mut worker = tokio::process::Command::new(program)
        .arg("compile-worker")
        .arg(bytes.len().to_string())
        .arg(deadline.as_secs().max(1).to_string())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::from(handle))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| cannot(&format!("{} cannot be started", program.display()), error))?;
    let (mut input, complaints) = (worker.stdin.take(), worker.stderr.take());
    let feed = async {
        if let Some(mut input) = input.take() {
            // A worker that ends early closes its end; what it has to say is in its status.
            if input.write_all(bytes).await.is_ok() && input.shutdown().await.is_err() {
                tracing::debug!("the compile worker closed its input early");
            }
        }
    };
    let listen = async {
        let mut text = Vec::new();
        if let Some(complaints) = complaints
            && let Err(error) = complaints.take(COMPLAINTS).read_to_end(&mut text).await
        {
            tracing::debug!(%error, "the compile worker's complaints cannot be read");
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let patience = deadline * PATIENCE;
    let work = async {
        let ((), said) = tokio::join!(feed, listen);
        (worker.wait().await, said)
    };
    let Ok((status, said)) = tokio::time::timeout(patience, work).await else {
        // Gone before the next one begins: there is room for one at a time.
        worker.kill().await.map_err(|error| cannot("cannot be ended", error))?;
        return Err(format!("not done after {} s", patience.as_secs()));
    };
    let status = status.map_err(|error| cannot("cannot be waited for", error))?;
    if !status.success() {
        return Err(ended(status, &said, deadline));
    }
    accept(out)
}

/// What an end without success means, in words that name the limit.
fn ended(status: ExitStatus, said: &str, deadline: Duration) -> String {
    use std::os::unix::process::ExitStatusExt;
    let how = match status.signal() {
        Some(signal) if signal == Signal::XCPU.as_raw() => {
            format!("ended by signal {signal}: it has {} s of CPU time", deadline.as_secs())
        }
        Some(signal) if signal == Signal::KILL.as_raw() => {
            format!("killed by signal {signal}: by the kernel for want of memory, or by somebody else")
        }
        Some(signal) if signal == Signal::ABORT.as_raw() => format!("ended by signal {signal}: out of memory"),
        Some(signal) => format!("ended by signal {signal}"),
        None => format!("ended with {}", status.code().unwrap_or_default()),
    };
    if said.is_empty() { how } else { format!("{how}: {said}") }
}

/// Checks the trailer and cuts it off.
fn accept(mut out: File) -> Result<File, String> {
    let unreadable = |error: std::io::Error| format!("the artefact cannot be read: {error}");
    let size = out.metadata().map_err(unreadable)?.len();
    let Some(artefact_size) = size.checked_sub(TRAILER_LEN) else {
        return Err("the compile worker wrote no artefact".to_owned());
    };
    out.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let mut hash = Sha256::new();
    std::io::copy(&mut Read::by_ref(&mut out).take(artefact_size), &mut hash).map_err(unreadable)?;
    let mut trailer = Vec::new();
    out.read_to_end(&mut trailer).map_err(unreadable)?;
    if trailer.strip_prefix(TRAILER) != Some(hash.finalize().as_slice()) {
        return Err("the compile worker's artefact is incomplete".to_owned());
    }
    out.set_len(artefact_size).map_err(unreadable)?;
    Ok(out)
}

/// The hidden subcommand `compile-worker`: reads a component from standard input and writes its artefact to
/// standard output, under limits it sets itself before it reads a byte. `args` are the arguments after the
/// subcommand: the component's size in bytes and the CPU time in seconds.
pub fn compile_worker_main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let mut numbers = args.into_iter().map(|arg| arg.parse::<u64>().ok());
    let (Some(Some(size)), Some(Some(cpu_seconds)), None) = (numbers.next(), numbers.next(), numbers.next()) else {
        eprintln!("compile-worker is Apgar's own: it takes a size in bytes and a time in seconds");
        return ExitCode::from(2);
    };
    match work(size, cpu_seconds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn work(size: u64, cpu_seconds: u64) -> Result<(), String> {
    confine(size, cpu_seconds)?;
    let mut bytes = Vec::new();
    std::io::stdin().take(size.min(limits::FILE_SIZE)).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 != size {
        return Err(format!("{} of {size} bytes arrived", bytes.len()));
    }
    let engine = settings::engine(false).map_err(|error| format!("{error:#}"))?;
    let artefact = engine.precompile_component(&bytes).map_err(|error| format!("{error:#}"))?;
    let mut out = std::io::stdout().lock();
    let parts: [&[u8]; 3] = [&artefact, TRAILER, &Sha256::digest(&artefact)];
    parts.into_iter().try_for_each(|part| out.write_all(part)).and_then(|()| out.flush()).map_err(|e| e.to_string())
}

fn confine(size: u64, cpu_seconds: u64) -> Result<(), String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: rustix::io::Errno| format!("{what} cannot be set: {error}")
    };
    let between = |resource, current: u64, maximum: u64| {
        let hard = rustix::process::getrlimit(resource).maximum.map_or(maximum, |hard| hard.min(maximum));
        rustix::process::setrlimit(resource, Rlimit { current: Some(current.min(hard)), maximum: Some(hard) })
            .map_err(failed("a resource limit"))
    };
    let limit = |resource, most| between(resource, most, most);
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("the parent's death signal"))?;
    if rustix::process::getppid() != parent {
        return Err("the daemon is gone".to_owned());
    }
    rustix::thread::set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    rustix::process::nice(NICENESS).map_err(failed("the priority"))?;
    limit(Resource::As, (compile_estimate(size) + ADDRESS_SPACE_EXTRA).max(ADDRESS_SPACE_MIN))?;
    // A second apart: the first has a signal of its own, and by that it is known from a kill that is none of ours.
    between(Resource::Cpu, cpu_seconds, cpu_seconds.saturating_add(1))?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, ARTEFACT_MAX)?;
    limit(Resource::Nofile, OPEN_FILES)
}

/// Refuses a compile the container has no memory for: the kernel's answer would be to kill the daemon.
fn room_for(estimate: u64) -> Result<(), String> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = control_groups(Path::new("/sys/fs/cgroup"), &own).iter().filter_map(|group| headroom(group)).min();
    match left {
        Some(left) if left < estimate => Err(format!(
            "compiling needs about {} MiB and the container has {} MiB left: give it more memory, or use a toolchain \
             with smaller components (Rust, C, QuickJS)",
            estimate >> 20,
            left >> 20
        )),
        Some(_) | None => Ok(()),
    }
}

/// Our control group and those around it, by what `/proc/self/cgroup` says: the limit may be on any of them.
fn control_groups(root: &Path, own: &str) -> Vec<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = Path::new(own.trim());
    own.ancestors().map(|group| root.join(group)).collect()
}

/// Memory left under the limit of the control group at `group`; None if there is no limit to be seen. Page cache
/// that nobody uses counts as free, since the kernel gives it up first.
fn headroom(group: &Path) -> Option<u64> {
    let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    let limit = number("memory.max")?;
    let used = number("memory.current")?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let inactive = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok());
    Some(limit.saturating_sub(used.saturating_sub(inactive.unwrap_or(0))))
}

/// How long it took, beside the result.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = clock::now();
    let result = work.await;
    (result, started.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headroom_is_the_limit_less_what_is_really_used() {
        let group = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(group.path().join(file), text).unwrap();
        assert_eq!(headroom(group.path()), None);
        write("memory.current", "70\n");
        write("memory.max", "max\n");
        assert_eq!(headroom(group.path()), None);
        write("memory.max", "100\n");
        assert_eq!(headroom(group.path()), Some(30));
        write("memory.stat", "anon 5\ninactive_file 20\n");
        assert_eq!(headroom(group.path()), Some(50));
    }

    #[test]
    fn a_limit_on_any_group_around_us_counts() {
        let groups = control_groups(Path::new("/g"), "1:name=x:/y\n0::/system.slice/apgar.service\n");
        assert_eq!(groups, ["/g/system.slice/apgar.service", "/g/system.slice", "/g/"].map(PathBuf::from));
        assert_eq!(control_groups(Path::new("/g"), "0::/\n"), [PathBuf::from("/g/")]);
    }

    #[test]
    fn an_artefact_without_its_trailer_is_not_taken() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"artefact").unwrap();
        assert!(accept(file.try_clone().unwrap()).is_err());
        file.write_all(TRAILER).unwrap();
        file.write_all(&Sha256::digest(b"artefact")).unwrap();
        let accepted = accept(file).unwrap();
        assert_eq!(accepted.metadata().unwrap().len(), 8);
    }
}

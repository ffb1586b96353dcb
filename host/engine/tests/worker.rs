//! Compiling in a child: the child is this test program again, so it brings its own `main`. A child holds a lock while
//! it lives, so of two at once one would fail.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails loudly")]

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use apgar_core::node::Node;
use apgar_engine::{
    Candidate, Cause, Compile, Engine, EngineConfig, Grants, Limits, LoadError, Plugin, Source, Stage,
    compile_worker_main,
};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use rustix::fs::{FileType, Mode};

#[path = "it/component.rs"]
mod component;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("compile-worker") {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        if program.try_lock().is_err() {
            eprintln!("another worker is at work");
            return ExitCode::FAILURE;
        }
        return compile_worker_main(args);
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run());
    ExitCode::SUCCESS
}

async fn run() {
    a_child_compiles_what_the_daemon_runs().await;
    a_child_that_fails_is_a_death_in_compiling().await;
    a_program_that_is_no_worker_is_a_death_in_compiling().await;
    a_kill_from_outside_is_not_told_as_a_limit().await;
    a_load_that_is_dropped_takes_its_child_with_it().await;
    one_compiles_at_a_time_and_the_others_judge_on().await;
    a_bomb_ends_its_worker_and_the_daemon_does_not_feel_it().await;
    println!("worker: 7 passed");
}

fn engine(program: &str, cache: &Path) -> Engine {
    let compile = Compile::Child { program: program.into() };
    Engine::new(EngineConfig { cache_dir: Some(cache.to_owned()), compile }).unwrap()
}

fn candidate(limits: Limits) -> Candidate {
    offer(component::GUEST.clone(), limits)
}

fn offer(bytes: Arc<[u8]>, limits: Limits) -> Candidate {
    Candidate {
        key: "guest".into(),
        bytes,
        settings: serde_json::json!({}),
        grants: Grants::new(),
        limits,
        source: Source::Directory,
    }
}

fn files(cache: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(cache).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file());
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn a_child_compiles_what_the_daemon_runs() {
    let this = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let engine = engine(this.to_str().unwrap(), &cache);
    let plugin = engine.load(candidate(Limits::default())).await.unwrap();
    assert!(!plugin.compiled().cached);
    let done = engine.check(&plugin, Arc::new(Node::named("fails"))).await;
    assert_eq!(done.verdict.result(), "fail");
    let kept = files(&cache);
    assert_eq!(kept.len(), 2, "the artefact and its digest, and no draft: {kept:?}");
    assert!(kept[0].ends_with(".cwasm") && kept[1].ends_with(".sha256"));
    let again = engine.load(candidate(Limits::default())).await.unwrap();
    assert!(again.compiled().cached, "what the worker compiled is what the daemon would have");
}

async fn dies_compiling(program: &str, words: &str) {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let error = engine(program, &cache).load(candidate(Limits::default())).await.unwrap_err();
    let LoadError::Death(death) = error else { panic!("{error}") };
    assert_eq!((death.cause, death.stage), (Cause::Compile, Stage::Load));
    assert!(death.detail.contains(words), "{death}");
    assert_eq!(files(&cache).len(), 0, "no draft is left behind");
}

async fn a_child_that_fails_is_a_death_in_compiling() {
    dies_compiling("/bin/false", "ended with 1").await;
    dies_compiling("/nonexistent/apgar", "cannot be started").await;
}

async fn a_program_that_is_no_worker_is_a_death_in_compiling() {
    dies_compiling("/bin/true", "no artefact").await;
    dies_compiling("/bin/echo", "no artefact").await;
}

async fn a_kill_from_outside_is_not_told_as_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("killed");
    std::fs::write(&program, "#!/bin/sh\nkill -KILL $$\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    dies_compiling(program.to_str().unwrap(), "killed by signal 9: by the kernel for want of memory, or by").await;
}

async fn a_load_that_is_dropped_takes_its_child_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (program, pipe) = (dir.path().join("never-ends"), dir.path().join("pipe"));
    // The pipe is open as long as the child lives.
    std::fs::write(&program, format!("#!/bin/sh\nexec 3> '{}'\nexec sleep 600\n", pipe.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let cache = dir.path().join("cache");
    let engine = engine(program.to_str().unwrap(), &cache);
    let load = engine.load(candidate(Limits::default()));
    let pipe = tokio::select! {
        pipe = tokio::task::spawn_blocking(move || File::open(pipe)) => pipe.unwrap().unwrap(),
        loaded = load => panic!("{loaded:?}"),
    };
    let read = tokio::task::spawn_blocking(move || std::io::read_to_string(pipe));
    let read = tokio::time::timeout(Duration::from_secs(10), read).await.unwrap();
    assert_eq!(read.unwrap().unwrap(), "");
}

/// All at once; were two to compile together, the lock of this program would fail one.
async fn one_compiles_at_a_time_and_the_others_judge_on() {
    const NEWCOMERS: u8 = 12;
    let this = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(this.to_str().unwrap(), &dir.path().join("cache"));
    let running = engine.load(candidate(Limits::default())).await.unwrap();
    let loads = (0..NEWCOMERS).map(|number| {
        // Other bytes to compile, by a section for people.
        let bytes = [&component::GUEST[..], &[0, 3, 1, b'n', number]].concat();
        engine.load(offer(bytes.into(), Limits::default()))
    });
    let mut loads: FuturesUnordered<_> = loads.collect();
    while let Some(loaded) = loads.next().await {
        assert!(!loaded.unwrap().compiled().cached);
        judges_on(&engine, &running).await;
    }
}

async fn judges_on(engine: &Engine, running: &Arc<Plugin>) {
    for _ in 0..10 {
        let done = engine.check(running, Arc::new(Node::named("fails"))).await;
        assert_eq!(done.verdict.result(), "fail", "{done:?}");
    }
}

/// What the daemon may be larger by while its child compiles: its own bookkeeping, of which a quarter of a MiB was
/// measured, and room for an allocator that takes memory by the arena.
const FELT: u64 = 16 << 20;

/// The limits a worker may meet, each in the words of its death. Which one a bomb meets first is for the machine to
/// say: a slow one is out of time before it is out of memory, and a busy one out of patience before either.
const LIMITS: [&str; 3] = ["it has 1 s of CPU time", "out of memory", "not done after 3 s"];

async fn a_bomb_ends_its_worker_and_the_daemon_does_not_feel_it() {
    let this = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(this.to_str().unwrap(), &dir.path().join("cache"));
    let running = engine.load(candidate(Limits::default())).await.unwrap();
    let limits = Limits { compile_deadline: Duration::from_secs(1), ..Limits::default() };
    let bombs = [
        ("loops in loops", loops_in_loops()),
        ("a huge branch table", huge_branch_table()),
        ("components of components", component_of_components()),
    ];
    for (what, bytes) in bombs {
        let size = bytes.len();
        let before = peak_memory();
        let mut load = pin!(engine.load(offer(bytes.into(), limits.clone())));
        tokio::select! {
            biased;
            loaded = &mut load => panic!("{what}: no bomb, {loaded:?} came before ten checks"),
            () = judges_on(&engine, &running) => {}
        }
        let error = load.await.unwrap_err();
        let felt = peak_memory().saturating_sub(before);
        let LoadError::Death(death) = error else { panic!("{what}: {error}") };
        println!("{what}, {size} bytes: {death}; {felt} bytes felt");
        assert_eq!((death.cause, death.stage), (Cause::Compile, Stage::Load), "{what}: {death}");
        assert!(LIMITS.iter().any(|limit| death.detail.contains(limit)), "{what}: {death}");
        assert!(felt < FELT, "{what}: {felt} bytes were felt");
    }
}

/// The most memory this process ever had resident, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// A checker beside a module with this function. It is never instantiated: that it is there is enough to be compiled.
fn checker_beside(locals: usize, code: &[u8]) -> Vec<u8> {
    let body = [&[1], &leb128(locals)[..], &[0x7f], code, &[0x0b]].concat();
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend(section(1, &[1, 0x60, 0, 0]));
    module.extend(section(3, &[1, 0]));
    module.extend(section(10, &[&[1][..], &leb128(body.len()), &body].concat()));
    [&component::GUEST[..], &section(1, &module)].concat()
}

/// Adds one to each local.
fn changes_all(locals: usize) -> Vec<u8> {
    let change = |local| [&[0x20][..], &leb128(local), &[0x41, 1, 0x6a, 0x21], &leb128(local)].concat();
    (0..locals).flat_map(change).collect()
}

/// Thousands of loops in each other, each of which may be begun again from inside of the innermost, where thousands
/// of locals change: for the compiler every loop has its own of every local.
fn loops_in_loops() -> Vec<u8> {
    const LOOPS: usize = 3_000;
    const LOCALS: usize = 3_000;
    let again = (0..LOOPS).flat_map(|depth| [&[0x20, 0, 0x0d][..], &leb128(depth)].concat()).collect::<Vec<u8>>();
    let code = [[0x03, 0x40].repeat(LOOPS), changes_all(LOCALS), again, vec![0x0b; LOOPS]].concat();
    checker_beside(LOCALS, &code)
}

/// A branch table about as long as one may be, each branch of which takes a thousand changed locals along.
fn huge_branch_table() -> Vec<u8> {
    const TARGETS: usize = 65_000;
    const LOCALS: usize = 1_000;
    let table = [&[0x20, 0, 0x0e][..], &leb128(TARGETS), &[0; TARGETS + 1]].concat();
    checker_beside(LOCALS, &[&[0x03, 0x40][..], &changes_all(LOCALS), &table, &[0x0b]].concat())
}

/// Ten of ten of ten, nine times: a billion core instances in a kilobyte.
fn component_of_components() -> Vec<u8> {
    let ten = |what: &str| what.repeat(10);
    let mut text = format!("(core module $m) (component $c1 {})", ten("(core instance (instantiate $m))"));
    for level in 2..=9 {
        text += &format!("(component $c{level} {})", ten(&format!("(instance (instantiate $c{}))", level - 1)));
    }
    let bomb = wat::parse_str(format!("(component {text} (instance (instantiate $c9)))")).unwrap();
    // Two components are in the guest already: of the two interfaces it has to do with.
    [&component::GUEST[..], &section(4, &bomb), &section(5, &[1, 0, 1, 0])].concat()
}

fn section(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number][..], &leb128(content.len()), content].concat()
}

fn leb128(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

//! Compiling in a child: the child is this test program again, so it brings its own `main`.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails loudly")]

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use apgar_core::node::Node;
use apgar_engine::{
    Candidate, Cause, Compile, Engine, EngineConfig, Grants, Limits, LoadError, Source, Stage, compile_worker_main,
};

use rustix::fs::{FileType, Mode};

#[path = "it/component.rs"]
mod component;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("compile-worker") {
        return compile_worker_main(args);
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run());
    ExitCode::SUCCESS
}

async fn run() {
    a_child_compiles_what_the_daemon_runs().await;
    a_child_that_fails_is_a_death_in_compiling().await;
    a_program_that_is_no_worker_is_a_death_in_compiling().await;
    a_load_that_is_dropped_takes_its_child_with_it().await;
    println!("worker: 4 passed");
}

fn engine(program: &str, cache: &Path) -> Engine {
    let compile = Compile::Child { program: program.into() };
    Engine::new(EngineConfig { cache_dir: Some(cache.to_owned()), compile }).unwrap()
}

fn candidate(limits: Limits) -> Candidate {
    Candidate {
        key: "guest".into(),
        bytes: component::GUEST.clone(),
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

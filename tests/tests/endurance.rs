//! What is left of guests once they are gone: nothing. It is a test program of its own, since the memory and the files
//! of a process are only its test's if it has one test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test says where")]

use std::sync::Arc;
use std::time::Duration;

use apgar_core::node::Node;
use apgar_engine::{Candidate, Compile, Engine, EngineConfig, Grants, Limits, LoadError, Plugin, Source, limits};
use apgar_guests::Behaviour;
use apgar_tests::guests::{GUESTS, guest};
use apgar_tests::resident;

/// How often each behaviour is met, and each special guest offered.
const ROUNDS: u64 = 100;

/// Rounds before the first look. The pool goes on to another slot for another component and keeps up to 2 MiB of each
/// resident; after thirty rounds it has come round.
const WARM_UP: u64 = 40;

/// Growth per check or load that passes for none: a page. Whatever could be left of one (its store, its stack, a
/// memory of its own, its code) is more than that.
const PAGE: u64 = 4096;

/// Files that come and go: what a slot of the pool was last filled with. Of every load one would be left, or none.
const SLOTS: usize = limits::POOL_SLOTS as usize;

#[tokio::test]
async fn after_a_hundred_of_each_memory_and_files_are_what_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let cache_dir = Some(dir.path().join("cache"));
    let engine = Engine::new(EngineConfig { cache_dir, compile: Compile::InProcess }).unwrap();
    let guest = load(&engine, "guest").await.unwrap();
    for _ in 0..WARM_UP {
        round(&engine, &guest).await;
    }
    let (files, memory) = (open_files(), resident("self").unwrap());
    let mut met = 0;
    for _ in 0..ROUNDS {
        met += round(&engine, &guest).await;
    }
    let (opened, grown) = (open_files().saturating_sub(files), resident("self").unwrap().saturating_sub(memory));
    println!(
        "{met} checks and loads: {opened} files and {} KiB more than {files} and {} KiB",
        grown >> 10,
        memory >> 10
    );
    assert!(opened < SLOTS, "{opened} files are left of {met} checks and loads");
    assert!(grown < met * PAGE, "{grown} bytes are left of {met} checks and loads");
}

/// Meets every behaviour and every special guest once.
async fn round(engine: &Engine, guest: &Arc<Plugin>) -> u64 {
    for behaviour in Behaviour::ALL {
        let done = engine.check(guest, Arc::new(Node::named(behaviour.node()))).await;
        assert_eq!(done.fault, None, "{behaviour:?}");
    }
    for (name, _) in &GUESTS {
        if let Err(LoadError::Engine(what)) = load(engine, name).await {
            panic!("{name}: {what}");
        }
    }
    (Behaviour::ALL.len() + GUESTS.len()) as u64
}

/// With little time and memory, so that those that use up theirs do so quickly: a limit is met all the same.
async fn load(engine: &Engine, name: &str) -> Result<Arc<Plugin>, LoadError> {
    let bytes = guest(name).unwrap();
    let limits = Limits {
        call_deadline: Duration::from_millis(10),
        startup_deadline: Duration::from_millis(20),
        memory: 16 << 20,
        host_calls: 500,
        ..Limits::default()
    };
    let candidate = Candidate {
        key: name.into(),
        bytes: bytes.into(),
        settings: serde_json::json!({}),
        grants: Grants::new(),
        limits,
        source: Source::Directory,
    };
    engine.load(candidate).await
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

//! Components that need WASI get one that stands still and reaches nothing.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use apgar_engine::{
    Candidate, Capability, Cause, CheckDone, Grants, LoadError, LogLevel, Plugin, RefusalReason, Stage,
};

use crate::support::{ENGINE, candidate, node, world};

/// As much of WASI as the guest uses.
const WIT: &str = "
    package a:b;
    world plugin {
        import apgar:checker/node@0.1.0;
        import wasi:cli/exit@0.2.6; import wasi:cli/stdout@0.2.6; import wasi:io/streams@0.2.6;
        import wasi:io/poll@0.2.6;
        import wasi:clocks/monotonic-clock@0.2.6; import wasi:clocks/wall-clock@0.2.6;
        import wasi:random/random@0.2.6; import wasi:random/insecure@0.2.6; import wasi:random/insecure-seed@0.2.6;
        export apgar:checker/checker@0.1.0;
    }
    package wasi:cli@0.2.6 {
        interface exit { exit: func(status: result); }
        interface stdout { use wasi:io/streams@0.2.6.{output-stream}; get-stdout: func() -> output-stream; }
    }
    package wasi:io@0.2.6 {
        interface error { resource error; }
        interface poll { resource pollable { block: func(); } }
        interface streams {
            use error.{error};
            variant stream-error { last-operation-failed(error), closed }
            resource output-stream {
                blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
            }
        }
    }
    package wasi:clocks@0.2.6 {
        interface monotonic-clock {
            use wasi:io/poll@0.2.6.{pollable};
            now: func() -> u64;
            subscribe-duration: func(when: u64) -> pollable;
        }
        interface wall-clock {
            record datetime { seconds: u64, nanoseconds: u32 }
            now: func() -> datetime;
        }
    }
    package wasi:random@0.2.6 {
        interface random { get-random-u64: func() -> u64; }
        interface insecure { get-insecure-random-u64: func() -> u64; }
        interface insecure-seed { insecure-seed: func() -> tuple<u64, u64>; }
    }
";

static GUEST: LazyLock<Arc<[u8]>> = LazyLock::new(|| world(WIT, include_str!("wasi.wat")));

async fn plugin() -> Arc<Plugin> {
    ENGINE.load(candidate("wasi", &GUEST)).await.unwrap()
}

async fn check(plugin: &Arc<Plugin>, name: &str) -> CheckDone {
    ENGINE.check(plugin, node(name)).await
}

/// All five that could tell one check from another, added up in the threshold.
#[tokio::test]
async fn clocks_and_random_numbers_stand_still_so_the_guest_is_pure() {
    let plugin = plugin().await;
    assert!(plugin.pure());
    assert!(plugin.imports().contains(&"wasi:random/random@0.2.6".to_owned()));
    let (first, second) = (check(&plugin, "n").await, check(&plugin, "n").await);
    assert_eq!(first.verdict.result(), "pass");
    assert_eq!(first.verdict, second.verdict);
    assert!(first.remember);

    let clock = Candidate { grants: Grants::from([Capability::Clock]), ..candidate("wasi", &GUEST) };
    let plugin = ENGINE.load(clock).await.unwrap();
    assert!(!plugin.pure(), "a real clock costs purity");
    let (first, second) = (check(&plugin, "n").await, check(&plugin, "n").await);
    assert_ne!(first.verdict, second.verdict);
    assert!(!first.remember);
}

/// `supervision` P-17.
#[tokio::test]
async fn a_clean_exit_is_a_death_too() {
    let death = check(&plugin().await, "x").await.death.unwrap();
    assert_eq!((death.cause, death.stage, death.detail.as_str()), (Cause::Exit, Stage::Check, "code 0"));
}

/// `supervision` P-20.
#[tokio::test]
async fn a_sleeping_guest_is_ended_after_its_call_deadline() {
    let done = check(&plugin().await, "w").await;
    let death = done.death.unwrap();
    assert!(matches!(death.cause, Cause::ImportTimeout | Cause::HostStarved), "{death}");
    assert!(done.took >= Duration::from_millis(100) && done.took < Duration::from_secs(1), "{:?}", done.took);
    assert!(done.guest_time < Duration::from_millis(50), "waiting is not guest time: {:?}", done.guest_time);
}

#[tokio::test]
async fn what_is_printed_becomes_log_lines_and_floods_nothing() {
    let done = check(&plugin().await, "p").await;
    assert_eq!(done.verdict.result(), "pass");
    assert_eq!(done.log_lines.len(), 16);
    assert!(done.log_lines.iter().all(|line| line.level == LogLevel::Info));
    assert_eq!((done.log_lines[0].text.as_str(), done.log_lines[1].text.as_str()), ("one", "two"));
    assert_eq!(done.corrections.log_dropped, 64);
}

#[tokio::test]
async fn nobody_gets_a_socket() {
    let wit = "package a:b; world plugin { import wasi:sockets/tcp@0.2.6; export apgar:checker/checker@0.1.0; }
        package wasi:sockets@0.2.6 { interface tcp { f: func(); } }";
    let text = r#"(module (import "wasi:sockets/tcp@0.2.6" "f" (func $f)) (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
        (func (export "apgar:checker/checker@0.1.0#check") (result i32) (call $f) (i32.const 0))
        (func (export "apgar:checker/checker@0.1.0#describe") (result i32) (i32.const 0)))"#;
    let error = ENGINE.load(candidate("net", &world(wit, text))).await.unwrap_err();
    let LoadError::Refusal(refusal) = error else { panic!("{error}") };
    assert_eq!(refusal.reason, RefusalReason::UnknownImport);
    assert!(refusal.message.contains("no checker gets a socket"), "{refusal}");
}

//! What is let in, and what is said to the rest.

use apgar_engine::{
    Candidate, Capability, Cause, Compile, Engine, EngineConfig, Grants, Limits, LoadError, RefusalReason, Stage,
    limits,
};
use serde_json::json;

use crate::component::{GUEST, component};
use crate::support::{CHECK, DESCRIBE, ENGINE, candidate, minimal, node, world};

async fn refused(candidate: Candidate, reason: RefusalReason, words: &[&str]) {
    match ENGINE.load(candidate).await {
        Err(LoadError::Refusal(refusal)) => {
            assert_eq!(refusal.reason, reason, "{refusal}");
            for word in words {
                assert!(refusal.message.contains(word), "{word:?} is not in {:?}", refusal.message);
            }
        }
        other => panic!("not refused: {other:?}"),
    }
}

async fn died(candidate: Candidate, cause: Cause, stage: Stage) {
    match ENGINE.load(candidate).await {
        Err(LoadError::Death(death)) => assert_eq!((death.cause, death.stage), (cause, stage), "{death}"),
        other => panic!("not dead: {other:?}"),
    }
}

#[tokio::test]
async fn a_component_shows_what_it_is() {
    let plugin = ENGINE.load(candidate("guest", &GUEST)).await.unwrap();
    let description = plugin.description();
    assert_eq!((description.name.as_str(), description.version.as_str()), ("guestish", "1.2.3"));
    assert_eq!(description.summary, "Judges by the name.");
    assert_eq!(description.reasons, ["NodeReady", "NodeNotReady"]);
    assert_eq!(plugin.imports(), ["apgar:checker/log@0.1.0", "apgar:checker/node@0.1.0"]);
    assert!(plugin.pure() && !plugin.takes_settings());
    assert_eq!(plugin.size(), GUEST.len() as u64);
    assert!(plugin.compiled().size > plugin.size());
    let other = Candidate { settings: json!({"a": 1}), ..candidate("guest", &GUEST) };
    let other = ENGINE.load(other).await.unwrap();
    assert_eq!(other.digest(), plugin.digest());
    assert_ne!(other.generation(), plugin.generation());
    assert!(other.compiled().cached, "new settings of the same bytes compile nothing");
}

#[tokio::test]
async fn what_is_no_component_is_told_what_it_is() {
    let as_bytes = |bytes: &[u8]| candidate("gpu", &bytes.into());
    let not = RefusalReason::NotAComponent;
    refused(as_bytes(b""), not, &["gpu.wasm is empty", "rename"]).await;
    refused(as_bytes(b"#!/bin/sh"), not, &["not WebAssembly"]).await;
    refused(as_bytes(b" (module)"), not, &["WebAssembly text", "wasm-tools component new"]).await;
    refused(as_bytes(&wat::parse_str("(module)").unwrap()), not, &["a core module", "wasm-tools component new"]).await;
    refused(as_bytes(b"\x7fELF\x02\x01\x01"), not, &["native code"]).await;
    refused(as_bytes(&GUEST[..GUEST.len() / 2]), not, &["at byte", "too early"]).await;
    refused(as_bytes(&GUEST[..9]), not, &["gpu.wasm"]).await;
    let mut garbled = GUEST.to_vec();
    garbled[8..24].fill(0xff);
    refused(as_bytes(&garbled), not, &["not a valid component, at byte"]).await;
}

#[tokio::test]
async fn a_file_beyond_the_limit_is_refused_with_both_numbers() {
    let limits = Limits { file_size: 1000, ..Limits::default() };
    let size = GUEST.len().to_string();
    let candidate = Candidate { limits, ..candidate("gpu", &GUEST) };
    refused(candidate, RefusalReason::TooLarge, &["gpu.wasm has", &size, "the limit is 1000"]).await;
}

#[tokio::test]
async fn another_world_is_refused_with_what_it_has_and_what_is_served() {
    let wrong = RefusalReason::WrongWorld;
    let other = world("package a:b; world plugin { export run: func(); }", r#"(module (func (export "run")))"#);
    refused(candidate("gpu", &other), wrong, &["exports run", "apgar:checker/checker@0.1.2"]).await;

    let newer = "package apgar:checker@0.2.0; interface checker { check: func(); describe: func(); }
        world plugin { export checker; }";
    let exports = r#"(module (func (export "apgar:checker/checker@0.2.0#check"))
        (func (export "apgar:checker/checker@0.2.0#describe")))"#;
    refused(candidate("gpu", &world(newer, exports)), wrong, &["checker@0.2.0", "serves 0.1.2"]).await;

    let half = "package apgar:checker@0.1.0; interface checker { check: func(); } world plugin { export checker; }";
    let exports = r#"(module (func (export "apgar:checker/checker@0.1.0#check")))"#;
    refused(candidate("gpu", &world(half, exports)), wrong, &["without `describe`"]).await;
}

/// A checker that imports `import`, an interface with one function `f`, from a package written here.
fn importing(package: &str, interface: &str) -> std::sync::Arc<[u8]> {
    let (name, version) = package.split_once('@').unwrap();
    let wit = format!(
        "package {package}; interface {interface} {{ f: func(); }} interface checker {{ check: func(); describe: func(); }}
         world plugin {{ import {interface}; export checker; }}"
    );
    let text = format!(
        r#"(module (import "{name}/{interface}@{version}" "f" (func $f))
          (func (export "{name}/checker@{version}#check") (call $f))
          (func (export "{name}/checker@{version}#describe")))"#
    );
    world(&wit, &text)
}

#[tokio::test]
async fn an_import_without_its_grant_names_the_line_that_grants_it() {
    let http = importing("apgar:checker@0.1.0", "http");
    let words = ["gpu.wasm imports apgar:checker/http, not granted.", r#"[checker.gpu] grants = ["http"]"#];
    refused(candidate("gpu", &http), RefusalReason::ImportNotGranted, &words).await;
    let granted = Candidate { grants: Grants::from([Capability::Http]), ..candidate("gpu", &http) };
    refused(granted, RefusalReason::UnknownImport, &["of which `f` is newer than this Apgar"]).await;
    refused(
        candidate("gpu", &importing("apgar:checker@0.1.0", "gpus")),
        RefusalReason::UnknownImport,
        &["apgar:checker/gpus@0.1.0", "no interface"],
    )
    .await;
    refused(
        candidate("gpu", &importing("apgar:checker@0.1.7", "log")),
        RefusalReason::UnknownImport,
        &["of which `f` is newer than this Apgar", "serves apgar:checker@0.1.2"],
    )
    .await;
}

#[tokio::test]
async fn settings_are_given_at_load_and_a_no_is_the_guests_own_words() {
    // Rejects whatever is longer than `{}`.
    let text = minimal(&format!(
        r#"{DESCRIBE} {CHECK} (data (i32.const 128) "unknown key treshold")
        (func (export "apgar:checker/settings@0.1.0#configure") (param i32 i32) (result i32)
          (i32.store8 (i32.const 700) (i32.gt_u (local.get 1) (i32.const 2)))
          (i32.store (i32.const 704) (i32.const 128)) (i32.store (i32.const 708) (i32.const 20))
          (i32.const 700))"#
    ));
    let bytes = component("configurable-plugin", &text);
    let plugin = ENGINE.load(candidate("disk", &bytes)).await.unwrap();
    assert!(plugin.takes_settings());
    assert_eq!(ENGINE.check(&plugin, node("n")).await.verdict.result(), "pass");
    let rejected = Candidate { settings: json!({"treshold": 1}), ..candidate("disk", &bytes) };
    refused(rejected, RefusalReason::SettingsRejected, &["[checker.disk] settings", "unknown key treshold"]).await;
    let no_table = Candidate { settings: json!([1]), ..candidate("disk", &bytes) };
    refused(no_table, RefusalReason::SettingsRejected, &["must be a table"]).await;
}

#[tokio::test]
async fn a_start_that_breaks_is_a_death_with_its_stage() {
    let plugin = |more: &str| candidate("gpu", &component("plugin", &minimal(more)));
    let spin = "(loop $spin (br $spin)) (i32.const 0)";
    let short = Limits { startup_deadline: std::time::Duration::from_millis(100), ..Limits::default() };
    let describe =
        plugin(&format!(r#"{CHECK} (func (export "apgar:checker/checker@0.1.0#describe") (result i32) {spin})"#));
    died(Candidate { limits: short.clone(), ..describe }, Cause::Deadline, Stage::Describe).await;
    let start = plugin(&format!("{DESCRIBE} {CHECK} (func $start (drop (block (result i32) {spin}))) (start $start)"));
    died(Candidate { limits: short, ..start }, Cause::Deadline, Stage::Instantiate).await;
    let check =
        plugin(&format!(r#"{DESCRIBE} (func (export "apgar:checker/checker@0.1.0#check") (result i32) unreachable)"#));
    died(check, Cause::Trap, Stage::SelfCheck).await;
}

#[tokio::test]
async fn a_memory_beyond_the_limit_is_one_before_it_is_made() {
    let large = minimal(&format!("{DESCRIBE} {CHECK}")).replace("\"memory\") 1)", "\"memory\") 2000)");
    died(candidate("gpu", &component("plugin", &large)), Cause::Memory, Stage::Instantiate).await;
}

#[tokio::test]
async fn a_component_with_more_parts_than_the_pool_has_room_for_is_a_death_in_linking() {
    let with = |parts: &str, times| {
        let text = minimal(&format!("{DESCRIBE} {CHECK} {}", parts.repeat(times)));
        candidate("gpu", &component("plugin", &text))
    };
    let (memories, tables) = (limits::MEMORIES as usize, limits::TABLES as usize);
    // The first memory is there in any case, and all of them may be one module's.
    died(with("(memory 1)", memories), Cause::Link, Stage::Instantiate).await;
    ENGINE.load(with("(memory 1)", memories - 1)).await.unwrap();
    died(with("(table 1 funcref)", tables + 1), Cause::Link, Stage::Instantiate).await;
    ENGINE.load(with("(table 1 funcref)", tables)).await.unwrap();
}

#[tokio::test]
async fn a_cache_that_is_not_ours_alone_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = EngineConfig { cache_dir: Some(dir.path().to_owned()), compile: Compile::InProcess };
    let engine = Engine::new(config).unwrap();
    assert!(engine.cache_trouble().unwrap().contains("chmod 700"));
    let plugin = engine.load(candidate("guest", &GUEST)).await.unwrap();
    assert!(!plugin.compiled().cached);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_artefact_that_was_touched_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache_dir = dir.path().join("cache");
    let config = EngineConfig { cache_dir: Some(cache_dir.clone()), compile: Compile::InProcess };
    let bytes = component("plugin", &minimal(&format!("{DESCRIBE} {CHECK}")));
    let engine = Engine::new(config).unwrap();
    let compiled = async || engine.load(candidate("gpu", &bytes)).await.unwrap().compiled().cached;
    assert!(!compiled().await);
    assert!(compiled().await);
    for entry in std::fs::read_dir(&cache_dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "cwasm") {
            let mut artefact = std::fs::read(&path).unwrap();
            *artefact.last_mut().unwrap() ^= 1;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, artefact).unwrap();
        }
    }
    assert!(!compiled().await, "a changed artefact is a miss");
    assert!(compiled().await);
}

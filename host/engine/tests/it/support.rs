//! An engine that all tests share: what was compiled once is found in its cache.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use apgar_core::node::Node;
use apgar_core::verdict::CheckerKey;
use apgar_engine::{Candidate, Compile, Engine, EngineConfig, Grants, Limits, Source};
use wit_parser::Resolve;

use crate::component::{contract, encode};

/// One engine for all tests: its threads and permits are shared, as in the daemon.
pub(crate) static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let cache_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-cache");
    Engine::new(EngineConfig { cache_dir: Some(cache_dir), compile: Compile::InProcess }).unwrap()
});

/// A component of the world `plugin` of a text in WIT, which may use the contract.
pub(crate) fn world(wit: &str, text: &str) -> Arc<[u8]> {
    let mut resolve = Resolve::default();
    if !wit.contains("package apgar:checker") {
        contract(&mut resolve);
    }
    let package = resolve.push_str("world.wit", wit).unwrap();
    encode(&resolve, package, "plugin", text)
}

pub(crate) fn candidate(name: &str, bytes: &Arc<[u8]>) -> Candidate {
    Candidate {
        key: CheckerKey::from(name),
        bytes: bytes.clone(),
        settings: serde_json::json!({}),
        grants: Grants::new(),
        limits: Limits::default(),
        source: Source::Directory,
    }
}

pub(crate) fn node(name: &str) -> Arc<Node> {
    Arc::new(Node::named(name))
}

/// A checker of nothing: `describe` and `check` are the smallest there are, with more put beside them.
pub(crate) fn minimal(more: &str) -> String {
    format!(
        r#"(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (data (i32.const 64) "Fine")
  (func $describe (result i32) (i32.const 512))
  (func $check (result i32)
    (i32.store8 (i32.const 608) (i32.const 1))
    (i32.store (i32.const 612) (i32.const 64)) (i32.store (i32.const 616) (i32.const 4))
    (i32.const 600))
  {more}
)"#
    )
}

/// The exports of [`minimal`], unless a test exports something else in their place.
pub(crate) const DESCRIBE: &str = r#"(export "apgar:checker/checker@0.1.0#describe" (func $describe))"#;
pub(crate) const CHECK: &str = r#"(export "apgar:checker/checker@0.1.0#check" (func $check))"#;

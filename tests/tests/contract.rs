//! A published version of the contract never changes, and components built for it load for ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use apgar_core::node::Node;
use apgar_core::verdict::Verdict;
use apgar_engine::{Candidate, Compile, Digest, Engine, EngineConfig, Grants, Limits, Source};

/// The files of each published version, by digest. A change of one breaks every compiled checker: add a new
/// interface or a new version beside it instead (`wit/README.md`).
const PUBLISHED: [(&str, &str); 5] = [
    ("checker-0.1.0/checker.wit", "27ffffa8f136030c1291a782061a1c012d19d8fe24fd6e26816a5d57abefba4e"),
    ("checker-0.1.0/log.wit", "560f7405c167c37f9f983eceabe363d7fb422594208dbb033e867e3c9a66cee5"),
    ("checker-0.1.0/node.wit", "594956f9614c134c6173c8751166ba45e788fb33d75cc6dfd5ec98bf2417a7dd"),
    ("checker-0.1.0/types.wit", "f94b90d862cd7cdd8d68413d039a01da58b81f69d4fa442c7578137283fbd992"),
    ("checker-0.1.0/world.wit", "7fc5651a98fb145a8b23a939ff24628eef7ed2108ccae42ecca73fc2e7821861"),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn a_published_version_is_frozen() -> Result<()> {
    for (file, digest) in PUBLISHED {
        let found = Digest::of(&fs::read(repository().join("wit").join(file))?).to_string();
        ensure!(found == digest, "wit/{file} is published and must not change; its digest is now {found}");
    }
    let files = fs::read_dir(repository().join("wit/checker-0.1.0"))?.count();
    ensure!(files == PUBLISHED.len(), "{files} files in wit/checker-0.1.0, {} are frozen", PUBLISHED.len());
    Ok(())
}

#[tokio::test]
async fn frozen_components_of_every_version_load_and_judge() -> Result<()> {
    let engine = Engine::new(EngineConfig { cache_dir: None, compile: Compile::InProcess })?;
    let mut node = Node::named("frozen");
    node.labels = [(Arc::from("nvidia.com/gpu.count"), Arc::from("8"))].into();
    let node = Arc::new(node);
    for (name, reason) in [("ready", "NodeReadyConditionNotFound"), ("gpu", "GPUCountMismatch")] {
        let file = repository().join("tests/fixtures/checker-0.1.0").join(name).with_extension("wasm");
        let candidate = Candidate {
            key: name.into(),
            bytes: fs::read(file)?.into(),
            settings: serde_json::json!({}),
            grants: Grants::new(),
            limits: Limits::default(),
            source: Source::Directory,
        };
        let plugin = engine.load(candidate).await?;
        let verdict = engine.check(&plugin, node.clone()).await.verdict;
        ensure!(matches!(&verdict, Verdict::Fail(j) if &*j.reason == reason), "{name}: {verdict:?}");
    }
    Ok(())
}

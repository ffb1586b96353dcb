//! A published version of the contract never changes, and components built for it load for ever.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use apgar_core::node::{BootId, Condition, Node, Taint, Uid};
use apgar_core::time::Time;
use apgar_core::verdict::Verdict;
use apgar_engine::{Candidate, Capability, Compile, Digest, Engine, EngineConfig, Grants, Limits, Source};

/// The files of each published version, by digest. A change of one breaks every compiled checker: add a new
/// interface or a new version beside it instead (`wit/README.md`).
const PUBLISHED: [(&str, &str); 22] = [
    ("checker-0.1.0/checker.wit", "27ffffa8f136030c1291a782061a1c012d19d8fe24fd6e26816a5d57abefba4e"),
    ("checker-0.1.0/log.wit", "560f7405c167c37f9f983eceabe363d7fb422594208dbb033e867e3c9a66cee5"),
    ("checker-0.1.0/node.wit", "594956f9614c134c6173c8751166ba45e788fb33d75cc6dfd5ec98bf2417a7dd"),
    ("checker-0.1.0/types.wit", "f94b90d862cd7cdd8d68413d039a01da58b81f69d4fa442c7578137283fbd992"),
    ("checker-0.1.0/world.wit", "7fc5651a98fb145a8b23a939ff24628eef7ed2108ccae42ecca73fc2e7821861"),
    ("checker-0.1.1/checker.wit", "51eb6bae29805881c9089cda850152c371bd8cd3323397fad9ed5ba4930217e1"),
    ("checker-0.1.1/clock.wit", "324cb7b4d1f4beb81b027555a82ba71bb3ec9671636c98beb4ce4256e814119b"),
    ("checker-0.1.1/http.wit", "50f776593eb08cebac50deb05caf2d0718f0f2e2fd9ba9d7b03ee9e76b06e845"),
    ("checker-0.1.1/log.wit", "3bb0a347af1ef3973cfaff6c51afa1dbc4a735161f8498418d6114b58de7d79f"),
    ("checker-0.1.1/memory.wit", "0a67cea29a58ad3d6222dce744e6b8d6a9af749ae01b0ccdda72a074c6c6d0fe"),
    ("checker-0.1.1/node.wit", "9b57b431ef490d109dae66a57f6778f2811e279932b66c134a41ae971b26f284"),
    ("checker-0.1.1/types.wit", "d384e2cbb1d67417491bd86156786243ea49a03b931ed9652d8336e3fa117e15"),
    ("checker-0.1.1/world.wit", "c9f7993765a39023384e4c204739d50cc10f2737dcecb72872d2869348c92823"),
    ("checker-0.1.2/checker.wit", "4d092a2f30660b986269e32e111bb5c7c960d3508201460d0e23989c7b8cf351"),
    ("checker-0.1.2/clock.wit", "3cd3838950b8cb11517bc324e18d14acb613df9134321638520b7e63b497ec3a"),
    ("checker-0.1.2/http.wit", "2360e263ca4aedf4402abf32d94103f964c0b8de50cad69707b251405c5e7601"),
    ("checker-0.1.2/log.wit", "24d6610c4c2095681572768711f0478c79e74af130656770faa4a2bf75441545"),
    ("checker-0.1.2/memory.wit", "7d1f9c0f0b315d228789f063bf381cd01fe5926d5fae4eb1d73c560f748a93e4"),
    ("checker-0.1.2/node.wit", "fe342dde02695ea08c5ef2231c0b80879d82f56caaeafc7c25a192123ed734b9"),
    ("checker-0.1.2/pods.wit", "22e20d8352fbd4cd1510ea5d5eb6f0e81cb6bdaca83c04470e2163feb3b92dcd"),
    ("checker-0.1.2/types.wit", "ba3f7320f35d1d2bf3e875f291e91510bd3c6c47d2258f4719db49d67065fcb0"),
    ("checker-0.1.2/world.wit", "07c419c1d19973eec1c86254de74d637dc9b5836d67ee52a1b4f14c6513da2b7"),
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
    for version in ["checker-0.1.0", "checker-0.1.1", "checker-0.1.2"] {
        let files = fs::read_dir(repository().join("wit").join(version))?.count();
        let frozen = PUBLISHED.iter().filter(|(file, _)| file.starts_with(version)).count();
        ensure!(files == frozen, "{files} files in wit/{version}, {frozen} are frozen");
    }
    Ok(())
}

#[tokio::test]
async fn frozen_components_of_every_version_load_and_judge() -> Result<()> {
    let engine = Engine::new(EngineConfig { cache_dir: None, compile: Compile::InProcess })?;
    for (file, reason) in [
        ("checker-0.1.0/ready", "NodeReadyConditionNotFound"),
        ("checker-0.1.0/gpu", "GPUCountMismatch"),
        ("checker-0.1.1/kit", "First"),
    ] {
        let plugin = engine.load(frozen(file)?).await?;
        let verdict = engine.check(&plugin, node()).await.verdict;
        ensure!(matches!(&verdict, Verdict::Fail(j) if &*j.reason == reason), "{file}: {verdict:?}");
    }
    Ok(())
}

/// What it remembers is all that differs from one check to the next.
#[tokio::test]
async fn a_frozen_component_is_answered_all_that_0_1_1_has() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut head) = (stream?, [0; 4096]);
            let _bytes = stream.read(&mut head)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nWell")?;
        }
        std::io::Result::Ok(())
    });

    let engine = Engine::new(EngineConfig { cache_dir: None, compile: Compile::InProcess })?;
    let candidate = Candidate {
        settings: serde_json::json!({ "url": url }),
        limits: Limits { http_allow: vec![url.parse()?], ..Limits::default() },
        ..frozen("checker-0.1.1/everything")?
    };
    let plugin = engine.load(candidate).await?;
    let asked: Vec<_> = plugin.imports().iter().map(String::as_str).collect();
    ensure!(asked == ["clock", "http", "log", "memory", "node"].map(|name| format!("apgar:checker/{name}@0.1.1")));
    for reason in ["Well1", "Well2"] {
        let done = engine.check(&plugin, node()).await;
        ensure!(matches!(&done.verdict, Verdict::Pass(j) if &*j.reason == reason), "{done:?}");
        let line = done.log_lines.first().map(|line| line.text.as_str());
        ensure!(line == Some("frozen 1 2 3 4 some some L A True Odd+Odder NoSchedule 8 7"), "{done:?}");
    }
    Ok(())
}

/// A component that was built when its version of the contract was the newest, granted all there is.
fn frozen(file: &str) -> Result<Candidate> {
    let path = repository().join("tests/fixtures").join(file).with_extension("wasm");
    Ok(Candidate {
        key: file.rsplit('/').next().unwrap_or(file).into(),
        bytes: fs::read(path)?.into(),
        settings: serde_json::json!({}),
        grants: Grants::from([Capability::Clock, Capability::Http, Capability::Memory]),
        limits: Limits::default(),
        source: Source::Directory,
    })
}

/// A node with one answer to each question.
fn node() -> Arc<Node> {
    let pair = |key: &str, value: &str| (Arc::from(key), Arc::from(value));
    let condition = |kind: &str, status: &str| Condition {
        kind: kind.into(),
        status: status.into(),
        reason: "".into(),
        message: "".into(),
        last_transition: None,
    };
    Arc::new(Node {
        uid: Uid::from("1"),
        boot_id: BootId::from("2"),
        system_uuid: "3".into(),
        provider_id: "4".into(),
        created: Some(Time::from_unix_ms(0)),
        unschedulable: true,
        labels: [pair("l", "L"), pair("nvidia.com/gpu.count", "8")].into(),
        annotations: [pair("a", "A")].into(),
        taints: [Taint { key: "t".into(), value: "".into(), effect: "NoSchedule".into() }].into(),
        conditions: [condition("Odd", "True"), condition("Odder", "False")].into(),
        capacity: [pair("cpu", "8")].into(),
        allocatable: [pair("cpu", "7")].into(),
        ..Node::named("frozen")
    })
}

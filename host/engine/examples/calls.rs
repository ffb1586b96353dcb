//! How long checks take: `cargo run --release -p apgar-engine --example calls -- plugin.wasm [settings-json]`.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a measurement, run by hand")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use apgar_core::node::{Condition, Node};
use apgar_engine::{Candidate, Compile, Engine, EngineConfig, Grants, Job, Limits, Plugin, Source, plugin_name};
use tokio::sync::mpsc;

const NODES: u64 = 100_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let engine = Engine::new(EngineConfig { cache_dir: None, compile: Compile::InProcess }).unwrap();
    println!("pooled: {}", engine.pooled());
    let settings = serde_json::json!({});
    let mut plugins = Vec::new();
    for file in std::env::args().skip(1) {
        let candidate = Candidate {
            key: plugin_name(file.as_ref()).unwrap(),
            bytes: std::fs::read(&file).unwrap().into(),
            settings: settings.clone(),
            grants: Grants::new(),
            limits: Limits::default(),
            source: Source::Directory,
        };
        let plugin = engine.load(candidate).await.unwrap();
        println!("{file}: {} bytes, compiled {:?}, imports {:?}", plugin.size(), plugin.compiled(), plugin.imports());
        one(&engine, &plugin).await;
        plugins.push(plugin);
    }
    let mut jobs = Vec::new();
    for plugin in &plugins {
        jobs.extend((0..NODES).map(|id| Job { id, plugin: plugin.clone(), node: node(id), pods: None }));
    }
    let started = Instant::now();
    let count = jobs.len();
    run(&engine, jobs).await;
    let took = started.elapsed();
    println!("{count} checks in {took:?}: {:?} each on two threads", took / u32::try_from(count).unwrap());
}

async fn one(engine: &Engine, plugin: &Arc<Plugin>) {
    let jobs = |count| (0..count).map(|id| Job { id, plugin: plugin.clone(), node: node(7), pods: None }).collect();
    run(engine, jobs(1_000)).await;
    let mut took = run(engine, jobs(20_000)).await;
    took.sort_unstable();
    let at = |part: usize| took.get(took.len() * part / 100).unwrap();
    println!("  a check: median {:?}, p90 {:?}, p99 {:?}", at(50), at(90), at(99));
}

async fn run(engine: &Engine, jobs: Vec<Job>) -> Vec<Duration> {
    let (done, mut finished) = mpsc::channel(64);
    engine.submit(jobs, done);
    let mut took = Vec::new();
    while let Some(batch) = finished.recv().await {
        for one in batch {
            assert!(one.result.death.is_none() && one.result.fault.is_none(), "{:?}", one.result);
            took.push(one.result.took);
        }
    }
    took
}

fn node(id: u64) -> Arc<Node> {
    let mut node = Node::named(&format!("node-{id}"));
    let condition = |kind: &str, status: &str| Condition {
        kind: kind.into(),
        status: status.into(),
        reason: "Kubelet".into(),
        message: "kubelet is posting ready status".into(),
        last_transition: None,
    };
    node.conditions = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
        .map(|kind| condition(kind, if kind == "Ready" { "True" } else { "False" }))
        .into();
    Arc::new(node)
}

//! Single calls, by criterion: a fresh-store check of each bundled checker, the native rule, and a check by
//! node-problem-detector's protocol, a program that is started, as the baseline.

#![expect(clippy::unwrap_used, reason = "a measurement stops at the first surprise; the macros write no docs")]

use std::sync::Arc;

use apgar::object::{Interner, decode};
use apgar_checker::{Checker, fixture};
use apgar_engine::{Candidate, Compile, Engine, EngineConfig, Grants, Limits, Source};
use apgar_sim::{Fleet, Shape};
use criterion::{Criterion, criterion_group, criterion_main};

fn calls(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let engine = Engine::new(EngineConfig { cache_dir: None, compile: Compile::InProcess }).unwrap();
    let object = Fleet::new(1, &[(Shape::CivoGpu, 1)]).nodes().next().unwrap();
    let node = Arc::new(decode(&object, &mut Interner::default()).unwrap());
    let mut group = criterion.benchmark_group("check");
    for (name, bytes) in apgar::plugins::bundled() {
        let candidate = Candidate {
            key: name.into(),
            bytes,
            settings: serde_json::json!({}),
            grants: Grants::new(),
            limits: Limits::default(),
            source: Source::Bundled,
        };
        let plugin = runtime.block_on(engine.load(candidate)).unwrap();
        group.bench_function(format!("fresh-store/{name}"), |bencher| {
            bencher.iter(|| runtime.block_on(engine.check(&plugin, node.clone())));
        });
    }
    let native = fixture::Node::new("n").with_condition("Ready", "True", "KubeletReady");
    group.bench_function("native/ready", |bencher| {
        bencher.iter(|| apgar_ready::NodeReady::judge(std::hint::black_box(&native), &()));
    });
    group.sample_size(50);
    group.bench_function("exec/baseline", |bencher| {
        bencher.iter(|| std::process::Command::new("/bin/sh").args(["-c", "echo ready; exit 0"]).output().unwrap());
    });
    group.finish();
}

criterion_group!(benches, calls);
criterion_main!(benches);

//! The benchmark report: a table, and `target/report.json` with rows `{name, unit, median, p99}`.
//! `cargo bench -p apgar-tests --bench report`; a few minutes. Absolute numbers are of the machine; the ratios are
//! against baselines of the same run.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a measurement: it reads the clock, and stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apgar::clock::Clock;
use apgar::config::{self, Flags, Sources};
use apgar::object::{Interner, decode};
use apgar::run::{Daemon, Listeners};
use apgar_checker::Checker;
use apgar_checker::fixture;
use apgar_core::fleet::{Check, Fleet, Input, Turn};
use apgar_core::node::Node;
use apgar_core::policy::Policy;
use apgar_core::time::Time;
use apgar_engine::{Candidate, Compile, Engine, EngineConfig, Finished, Grants, Job, Limits, Plugin, Source};
use apgar_sim::{ApiServer, Pace, Shape, SimConfig, Story};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing_subscriber::layer::SubscriberExt;

fn main() {
    // `cargo test --benches` asks every bench whether it has tests.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return;
    }
    let mut report = Report::default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let bench = Bench::new().await;
        single_calls(&mut report, &bench).await;
        for nodes in [1_000, 10_000, 100_000] {
            turns(&mut report, &bench, nodes).await;
        }
    });
    drop(runtime);
    tokio::runtime::Runtime::new().unwrap().block_on(change_to_decision(&mut report));
    for nodes in [0, 10_000, 100_000] {
        tokio::runtime::Runtime::new().unwrap().block_on(memory(&mut report, nodes));
    }
    report.write();
}

/// Rows of the report.
#[derive(Default)]
struct Report {
    rows: Vec<(String, &'static str, f64, f64)>,
}

impl Report {
    fn add(&mut self, name: &str, unit: &'static str, mut values: Vec<f64>) {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        let row = (name.to_owned(), unit, at(0.5), at(0.99));
        println!("{:<52} {:>12.3} {:>12.3} {}", row.0, row.2, row.3, unit);
        self.rows.push(row);
    }

    fn times(&mut self, name: &str, unit: &'static str, took: &[Duration]) {
        let scale = match unit {
            "ns" => 1e9,
            "us" => 1e6,
            "ms" => 1e3,
            _ => 1.0,
        };
        self.add(name, unit, took.iter().map(|t| t.as_secs_f64() * scale).collect());
    }

    fn median(&self, name: &str) -> f64 {
        self.rows.iter().find(|row| row.0 == name).map(|row| row.2).unwrap()
    }

    fn write(&self) {
        let target = target();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(name, unit, median, p99)| json!({"name": name, "unit": unit, "median": median, "p99": p99}))
            .collect();
        let path = target.join("report.json");
        fs::write(&path, serde_json::to_string_pretty(&rows).unwrap()).unwrap();
        println!("\nwritten to {}", path.display());
    }
}

fn target() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().find(|path| path.join("CACHEDIR.TAG").exists()).expect("inside a target folder").to_owned()
}

/// An engine with the bundled checkers.
struct Bench {
    engine: Engine,
    plugins: BTreeMap<String, Arc<Plugin>>,
}

impl Bench {
    async fn new() -> Self {
        let engine = Engine::new(EngineConfig { cache_dir: None, compile: Compile::InProcess }).unwrap();
        let mut plugins = BTreeMap::new();
        for (name, bytes) in apgar::plugins::bundled() {
            let candidate = Candidate {
                key: name.into(),
                bytes,
                settings: json!({}),
                grants: Grants::new(),
                limits: Limits::default(),
                source: Source::Bundled,
            };
            plugins.insert(name.to_owned(), engine.load(candidate).await.unwrap());
        }
        Self { engine, plugins }
    }

    async fn run(&self, checks: Vec<Check>) -> Vec<Finished> {
        let jobs: Vec<Job> = checks
            .into_iter()
            .map(|check| Job {
                id: check.id,
                plugin: self.plugins[check.checker.as_str()].clone(),
                node: check.node,
                pods: check.pods,
            })
            .collect();
        self.submit(jobs).await
    }

    async fn submit(&self, jobs: Vec<Job>) -> Vec<Finished> {
        let (done, mut finished) = mpsc::channel(1024);
        self.engine.submit(jobs, done);
        let mut all = Vec::new();
        while let Some(batch) = finished.recv().await {
            all.extend(batch);
        }
        all
    }
}

/// Realistic nodes, as the informer would hold them.
fn nodes(count: usize) -> Vec<Arc<Node>> {
    let mut strings = Interner::default();
    fleet(count).nodes().filter_map(|object| decode(&object, &mut strings)).map(Arc::new).collect()
}

fn fleet(count: usize) -> apgar_sim::Fleet {
    let shapes =
        [(Shape::CivoFlannel, count * 6 / 10), (Shape::CivoCilium, count * 3 / 10), (Shape::CivoGpu, count / 10)];
    apgar_sim::Fleet::new(1, &shapes)
}

async fn single_calls(report: &mut Report, bench: &Bench) {
    const ROUNDS: u64 = 20_000;
    println!("{:<52} {:>12} {:>12}\n", "", "median", "p99");
    let node = nodes(10)[0].clone();
    for (name, plugin) in &bench.plugins {
        let jobs =
            |count| (0..count).map(|id| Job { id, plugin: plugin.clone(), node: node.clone(), pods: None }).collect();
        bench.submit(jobs(1_000)).await;
        let took: Vec<Duration> = bench.submit(jobs(ROUNDS)).await.iter().map(|done| done.result.took).collect();
        report.times(&format!("fresh-store check, {name}"), "us", &took);
    }
    let native = fixture::Node::new("n").with_condition("Ready", "True", "KubeletReady");
    let took: Vec<Duration> = (0..1_000)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..100 {
                std::hint::black_box(apgar_ready::NodeReady::judge(std::hint::black_box(&native), &())).unwrap();
            }
            began.elapsed() / 100
        })
        .collect();
    report.times("native rule, ready", "us", &took);
    // node-problem-detector's custom plugin protocol: a program, its exit code, its standard output.
    let script = target().join("report-baseline.sh");
    fs::write(&script, "#!/bin/sh\necho 'kubelet is ready'\nexit 0\n").unwrap();
    let took: Vec<Duration> = (0..300)
        .map(|_| {
            let began = Instant::now();
            let output = Command::new("/bin/sh").arg(&script).output().unwrap();
            assert!(output.status.success() && !output.stdout.is_empty());
            began.elapsed()
        })
        .collect();
    report.times("exec check (baseline)", "us", &took);
    let ratio = report.median("exec check (baseline)") / report.median("fresh-store check, ready");
    report.add("exec check / fresh-store check, ready", "x", vec![ratio]);
}

/// A fleet that is turned by hand, with the real engine.
struct Turning<'a> {
    bench: &'a Bench,
    fleet: Fleet,
    now: Time,
}

impl<'a> Turning<'a> {
    fn new(bench: &'a Bench) -> Self {
        let mut turning = Self { bench, fleet: Fleet::new(Policy::default()), now: Clock::start().now() };
        let mut inputs: Vec<Input> =
            bench.plugins.values().map(|plugin| Input::CheckerServes(apgar::view::checker(plugin))).collect();
        inputs.push(Input::Evidence { live: true });
        turning.turn(inputs);
        turning
    }

    fn turn(&mut self, inputs: Vec<Input>) -> Turn {
        self.fleet.turn(self.now, inputs)
    }

    fn tick(&mut self) {
        self.now = self.now + Duration::from_secs(10);
    }

    /// A turn with these inputs, its checks, and the turn that takes the answers in.
    async fn round(&mut self, inputs: Vec<Input>) -> usize {
        let checks = self.turn(inputs).checks;
        let asked = checks.len();
        let answers = self.bench.run(checks).await;
        let inputs = answers
            .into_iter()
            .map(|done| Input::Judged {
                check: done.id,
                node: done.node.name.clone(),
                checker: done.plugin.key().clone(),
                verdict: done.result.verdict,
                remember: done.result.remember,
            })
            .collect();
        self.turn(inputs);
        asked
    }
}

async fn turns(report: &mut Report, bench: &Bench, count: usize) {
    let nodes = nodes(count);
    let mut cold = Vec::new();
    for _ in 0..3 {
        let mut turning = Turning::new(bench);
        let began = Instant::now();
        let asked = turning.round(vec![Input::Listed(nodes.clone())]).await;
        cold.push(began.elapsed());
        assert_eq!(asked, 4 * nodes.len());
    }
    report.times(&format!("cold evaluation, {count} nodes"), "ms", &cold);

    let mut turning = Turning::new(bench);
    turning.round(vec![Input::Listed(nodes.clone())]).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        turning.tick();
        let began = Instant::now();
        let turn = turning.turn(vec![Input::Evidence { live: true }, Input::Tick]);
        idle.push(began.elapsed());
        assert!(turn.checks.is_empty(), "an idle turn calls no checker");
    }
    report.times(&format!("idle turn, {count} nodes"), "ms", &idle);

    let changed = (count / 1_000).max(1);
    let mut busy = Vec::new();
    for round in 0..50 {
        let inputs = nodes
            .iter()
            .skip(round * changed)
            .take(changed)
            .map(|node| {
                let mut node = Node::clone(node);
                node.unschedulable = !node.unschedulable;
                Input::Applied(Arc::new(node))
            })
            .collect();
        let began = Instant::now();
        let asked = turning.round(inputs).await;
        busy.push(began.elapsed());
        assert_eq!(asked, 4 * changed.min(nodes.len() - round * changed));
    }
    report.times(&format!("turn with 0.1 % changed, {count} nodes"), "ms", &busy);
}

/// Hears of the daemon's own log event `node_unhealthy`: the moment at which a change was judged and its phase
/// decided.
struct Decided(Arc<Mutex<BTreeMap<String, Instant>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Decided {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        #[derive(Default)]
        struct Fields(BTreeMap<&'static str, String>);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.insert(field.name(), format!("{value:?}"));
            }
            fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
                self.0.insert(field.name(), value.to_owned());
            }
        }
        let at = Instant::now();
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.0.get("event").map(String::as_str) == Some("node_unhealthy") {
            let node = fields.0.remove("node").unwrap_or_default();
            self.0.lock().unwrap().insert(node, at);
        }
    }
}

/// From a change at the API server, over HTTP, informer, checkers and core, to the decided phase.
async fn change_to_decision(report: &mut Report) {
    const NODES: usize = 10_000;
    const CHANGES: usize = 1_000;
    let decided = Arc::new(Mutex::new(BTreeMap::new()));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Decided(decided.clone()))).unwrap();
    let home = tempfile::tempdir().unwrap();
    let server = ApiServer::start(SimConfig::default()).unwrap();
    let pace = Pace { lease: Duration::from_secs(3600), heartbeat: Duration::from_secs(3600), ..Pace::default() };
    let running = fleet(NODES).run(&server, pace, &Story::new()).unwrap();
    let daemon = daemon(&server, home.path()).await;
    until_healthy(&daemon, NODES).await;
    let mut began = BTreeMap::new();
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    for info in running.infos().iter().take(CHANGES) {
        pace.tick().await;
        began.insert(info.name.clone(), Instant::now());
        server
            .nodes()
            .update(&info.name, |node| {
                for condition in node["status"]["conditions"].as_array_mut().unwrap() {
                    if condition["type"] == "Ready" {
                        condition["status"] = json!("False");
                    }
                }
            })
            .unwrap();
    }
    let patience = Instant::now();
    while decided.lock().unwrap().len() < CHANGES {
        assert!(patience.elapsed() < Duration::from_secs(30), "{} of {CHANGES} decided", decided.lock().unwrap().len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let decided = std::mem::take(&mut *decided.lock().unwrap());
    let took: Vec<Duration> = began.iter().map(|(node, at)| decided[node].duration_since(*at)).collect();
    report.times("node change to decision, 10000 nodes, 100 changes/s", "ms", &took);
    daemon.stop().await;
}

async fn daemon(server: &ApiServer, home: &Path) -> Daemon {
    let kubeconfig = home.join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let text = |path: PathBuf| Some(path.display().to_string());
    let flags = Flags {
        kubeconfig: text(kubeconfig),
        store_dir: text(home.join("state")),
        plugin_dir: text(home.join("plugins")),
        api_listen: Some("127.0.0.1:0".to_owned()),
        ..Flags::default()
    };
    let (mut settings, _) = config::load(Sources { file: None, env: BTreeMap::new(), flags }).unwrap();
    settings.metrics.port = 0;
    let listeners = Listeners::bind(&settings).await.unwrap();
    let config = apgar::kubernetes::config(&settings.kubeconfig).await.unwrap();
    let client = apgar::kubernetes::client(config).unwrap();
    Daemon::start(&settings, client, listeners, Compile::InProcess).await.unwrap()
}

async fn until_healthy(daemon: &Daemon, count: usize) {
    let wanted = format!("civo_node_agent_nodes{{phase=\"Healthy\"}} {count}");
    let patience = Instant::now();
    loop {
        let text = daemon.asker.ask(apgar::http::Query::Metrics).await.unwrap_or_default();
        if text.lines().any(|line| line == wanted) {
            return;
        }
        assert!(patience.elapsed() < Duration::from_secs(120), "not {count} healthy nodes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The resident memory of the shipped binary, watching that many nodes.
async fn memory(report: &mut Report, count: usize) {
    let program = apgar_tests::apgar_binary!();
    let home = tempfile::tempdir().unwrap();
    let server = ApiServer::start(SimConfig::default()).unwrap();
    fleet(count).install(&server).unwrap();
    let kubeconfig = home.path().join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let [metrics, api] = apgar_tests::free_ports().unwrap();
    let mut child = Command::new(program)
        .env_clear()
        .arg("run")
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .arg("--store-dir")
        .arg(home.path().join("state"))
        .args([
            "--metrics-port",
            &metrics.to_string(),
            "--api-listen",
            &format!("127.0.0.1:{api}"),
            "--log-level",
            "error",
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let patience = Instant::now();
    // The readiness probe and one node count: a scrape of all series is not part of what is measured.
    loop {
        assert!(patience.elapsed() < Duration::from_secs(300), "{count} nodes are not judged");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let ready = apgar_tests::get(metrics, "/readyz").await.is_ok_and(|(status, _)| status == 200);
        if !ready {
            continue;
        }
        let (_, phases) = apgar_tests::get(api, "/api/v1/phases").await.unwrap();
        let phases: Value = serde_json::from_str(&phases).unwrap();
        if phases["Healthy"] == count {
            break;
        }
    }
    let resident = apgar_tests::resident(&child.id().to_string()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    report.add(&format!("resident memory, {count} nodes"), "MiB", vec![resident as f64 / f64::from(1 << 20)]);
}

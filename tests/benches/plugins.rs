//! What plugins cost the daemon and each other: the rows that an operator who lets others drop files in must be able to
//! trust. `cargo bench -p apgar-tests --bench plugins [ROW]`; ten minutes, on a machine that does nothing else. Each
//! row says what was found and what was wanted; one that was missed makes the exit code 1.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement: it reads the clock, and stops at the first surprise"
)]

#[path = "plugins/beside.rs"]
mod beside;
#[path = "plugins/large.rs"]
mod large;
#[path = "plugins/silent.rs"]
mod silent;
#[path = "plugins/spin.rs"]
mod spin;
#[path = "plugins/swaps.rs"]
mod swaps;
#[path = "../tests/reload/world.rs"]
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apgar::object::{Interner, decode};
use apgar_core::node::{Node, NodeName};
use apgar_core::verdict::{CheckerKey, Verdict};
use apgar_engine::{Candidate, Compile, Engine, EngineConfig, Finished, Grants, Job, Limits, Plugin, Source};
use apgar_sim::Shape;
use tokio::sync::mpsc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` asks every bench whether it has tests.
    if arguments.iter().any(|argument| argument == "--list" || argument == "--test") {
        return ExitCode::SUCCESS;
    }
    // As the daemon does, whose memory is measured.
    apgar_engine::give_back_large_blocks();
    let row = arguments.iter().find(|argument| !argument.starts_with("--"));
    let wanted = |name: &str| row.is_none_or(|row| row == name);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut report = Report { missed: 0 };
    println!("{:<64} {:>12} {:>12}", "", "found", "wanted");
    if wanted("beside") {
        runtime.block_on(beside::measure(&mut report));
    }
    if wanted("spin") {
        runtime.block_on(spin::measure(&mut report));
    }
    if wanted("silent") {
        runtime.block_on(silent::measure(&mut report));
    }
    if wanted("large") {
        runtime.block_on(large::measure(&mut report));
    }
    if wanted("swaps") {
        runtime.block_on(swaps::measure(&mut report));
    }
    if report.missed > 0 {
        println!("\n{} of these were missed", report.missed);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Says what was found, and counts what is not as wanted.
struct Report {
    missed: u32,
}

impl Report {
    fn says(&self, name: &str, found: f64, unit: &str) {
        println!("{name:<64} {found:>12.3} {:>12} {unit}", "");
    }

    fn at_most(&mut self, name: &str, found: f64, most: f64, unit: &str) {
        let missed = found > most;
        self.missed += u32::from(missed);
        println!(
            "{name:<64} {found:>12.3} {:>12} {unit}{}",
            format!("<= {most}"),
            if missed { "  MISSED" } else { "" }
        );
    }
}

/// Times, sorted.
struct Times(Vec<Duration>);

impl Times {
    fn new(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "nothing was measured");
        times.sort_unstable();
        Self(times)
    }

    /// In milliseconds: the one that this share of them does not exceed.
    fn at(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3
    }
}

/// Everything of a plugin but what is measured.
fn candidate(name: &str, bytes: Arc<[u8]>) -> Candidate {
    Candidate {
        key: CheckerKey::from(name),
        bytes,
        settings: serde_json::json!({}),
        grants: Grants::new(),
        limits: Limits::default(),
        source: Source::Directory,
    }
}

/// An engine with the bundled checkers.
struct Bundled {
    engine: Engine,
    _cache: tempfile::TempDir,
    plugins: Vec<Arc<Plugin>>,
    /// Realistic nodes, as the informer would hold them.
    nodes: Vec<Arc<Node>>,
    /// What each said of each the first time.
    verdicts: RefCell<BTreeMap<(CheckerKey, NodeName), Verdict>>,
}

impl Bundled {
    async fn new(nodes: usize) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let cache_dir = Some(cache.path().join("cache"));
        let engine = Engine::new(EngineConfig { cache_dir, compile: Compile::InProcess }).unwrap();
        let mut plugins = Vec::new();
        for (name, bytes) in apgar::plugins::bundled() {
            plugins.push(engine.load(candidate(name, bytes)).await.unwrap());
        }
        let shapes =
            [(Shape::CivoFlannel, nodes * 6 / 10), (Shape::CivoCilium, nodes * 3 / 10), (Shape::CivoGpu, nodes / 10)];
        let mut strings = Interner::default();
        let fleet = apgar_sim::Fleet::new(1, &shapes);
        let nodes = fleet.nodes().filter_map(|object| decode(&object, &mut strings)).map(Arc::new).collect();
        Self { engine, _cache: cache, plugins, nodes, verdicts: RefCell::default() }
    }

    /// One round of all checkers about all nodes, as nodes change in a busy cluster: one every two milliseconds. Every
    /// verdict is what it was the first time.
    async fn round(&self, found: &mut Found) {
        let (judged_in, mut judged) = mpsc::channel(1024);
        let asking = async {
            let mut pace = tokio::time::interval(Duration::from_millis(2));
            let mut asked = Vec::new();
            for (at, node) in self.nodes.iter().enumerate() {
                pace.tick().await;
                asked.push(std::time::Instant::now());
                let job = |plugin: &Arc<Plugin>| Job {
                    id: at as u64,
                    plugin: plugin.clone(),
                    node: node.clone(),
                    pods: None,
                };
                self.engine.submit(self.plugins.iter().map(job).collect(), judged_in.clone());
            }
            drop(judged_in);
            asked
        };
        let hearing = async {
            let mut all = Vec::new();
            while let Some(batch) = judged.recv().await {
                let at = std::time::Instant::now();
                all.extend(batch.into_iter().map(|done| (at, done)));
            }
            all
        };
        let (asked, heard) = tokio::join!(asking, hearing);
        assert_eq!(heard.len(), self.nodes.len() * self.plugins.len());
        let mut verdicts = self.verdicts.borrow_mut();
        for (at, Finished { id, node, plugin, result, .. }) in heard {
            let pair = (plugin.key().clone(), node.name.clone());
            assert!(result.verdict.judgement().is_some(), "{pair:?}: {result:?}");
            let known = verdicts.entry(pair).or_insert_with(|| result.verdict.clone());
            assert_eq!(*known, result.verdict, "{:?}", node.name);
            found.took.push(result.took);
            found.answered.push(at.duration_since(asked[id as usize]));
        }
    }

    /// A round, and something else until it is over.
    async fn round_beside(&self, found: &mut Found, other: impl AsyncFnOnce(&AtomicBool)) {
        let over = AtomicBool::new(false);
        let round = async {
            self.round(found).await;
            over.store(true, Ordering::Relaxed);
        };
        tokio::join!(round, other(&over));
    }
}

/// What rounds have shown. There is room for all of it from the start: its own memory is measured with the rest.
struct Found {
    took: Vec<Duration>,
    answered: Vec<Duration>,
}

impl Found {
    /// Room for that many checks.
    fn of(checks: usize) -> Self {
        let room = || {
            let mut room = vec![Duration::MAX; checks];
            room.clear();
            room
        };
        Self { took: room(), answered: room() }
    }

    /// How long checks took, and how long it was from question to answer.
    fn sorted(self) -> (Times, Times) {
        (Times::new(self.took), Times::new(self.answered))
    }
}

/// The resident memory of a process, in MiB.
fn resident(process: &str) -> f64 {
    apgar_tests::resident(process).unwrap() as f64 / f64::from(1 << 20)
}

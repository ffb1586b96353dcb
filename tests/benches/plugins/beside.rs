//! The bundled checkers beside guests that misbehave in every way there is, all the time: far more than supervision
//! would let them, which stops each at its third node. Rounds with and without them take turns.

use std::collections::BTreeMap;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use apgar_core::node::{Node, NodeName};
use apgar_core::verdict::{CheckerKey, Verdict};
use apgar_engine::{Candidate, Capability, Cause, Engine, Finished, Grants, Job, LoadError, Plugin, limits};
use apgar_guests::Behaviour;
use apgar_tests::guests::GUESTS;
use tokio::sync::mpsc;

use crate::{Bundled, Report, Times, candidate, resident};

const NODES: usize = 1_000;
const ROUNDS: usize = 8;

static PANICS: AtomicU32 = AtomicU32::new(0);

pub(crate) async fn measure(report: &mut Report) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    let bundled = Bundled::new(NODES).await;
    let hostile = Hostile::load(&bundled.engine).await;
    report.says("guests that misbehave", hostile.count() as f64, "");
    assert!(hostile.count() >= 30);

    let mut verdicts = BTreeMap::new();
    // Once without being measured: what is first needed is first made.
    let mut first = Found::default();
    first.look(bundled.round().await, &mut verdicts);
    hostile.until(&bundled.engine, &AtomicBool::new(true)).await;
    let resting = resident("self");
    let (mut without, mut beside) = (Found::default(), Found::default());
    for _ in 0..ROUNDS {
        without.look(bundled.round().await, &mut verdicts);
        let over = AtomicBool::new(false);
        let round = async {
            let judged = bundled.round().await;
            over.store(true, Ordering::Relaxed);
            judged
        };
        let (judged, ()) = tokio::join!(round, hostile.until(&bundled.engine, &over));
        beside.look(judged, &mut verdicts);
    }
    let (without, beside) = (without.sorted(), beside.sorted());
    for (name, (took, answered)) in [("without", &without), ("beside", &beside)] {
        report.says(&format!("a check of a bundled checker, {name}, median"), took.at(0.5), "ms");
        report.says(&format!("a check of a bundled checker, {name}, p99"), took.at(0.99), "ms");
        report.says(&format!("from question to answer, {name}, median"), answered.at(0.5), "ms");
        report.says(&format!("from question to answer, {name}, p99"), answered.at(0.99), "ms");
    }
    report.at_most("a check, p99 beside guests / without", beside.0.at(0.99) / without.0.at(0.99), 1.2, "x");
    report.at_most("the last answer beside guests", beside.1.at(1.0), limits::WALL_LIMIT.as_secs_f64() * 1e3, "ms");
    report.at_most("resident memory after / before", resident("self") / resting, 1.05, "x");
    report.at_most("panics", f64::from(PANICS.load(Ordering::Relaxed)), 0.0, "");
}

/// What rounds have shown.
#[derive(Default)]
struct Found {
    took: Vec<Duration>,
    answered: Vec<Duration>,
}

impl Found {
    /// Every verdict is what it was the first time.
    fn look(&mut self, judged: Vec<(Duration, Finished)>, verdicts: &mut BTreeMap<(CheckerKey, NodeName), Verdict>) {
        for (answered, Finished { node, plugin, result, .. }) in judged {
            let pair = (plugin.key().clone(), node.name.clone());
            assert!(result.verdict.judgement().is_some(), "{pair:?}: {result:?}");
            let known = verdicts.entry(pair).or_insert_with(|| result.verdict.clone());
            assert_eq!(*known, result.verdict, "{:?}", node.name);
            self.took.push(result.took);
            self.answered.push(answered);
        }
    }

    fn sorted(self) -> (Times, Times) {
        (Times::new(self.took), Times::new(self.answered))
    }
}

/// All guests of `tests/guests`.
struct Hostile {
    /// One plugin a behaviour, and those that misbehave otherwise and serve, each with its node.
    serving: Vec<(Arc<Plugin>, Arc<Node>)>,
    /// Those that are refused or die when they are loaded.
    offered: Vec<Candidate>,
}

impl Hostile {
    async fn load(engine: &Engine) -> Self {
        let mut hostile = Self { serving: Vec::new(), offered: Vec::new() };
        let guest: Arc<[u8]> = GUESTS.iter().find(|(name, _)| *name == "guest").unwrap().1.into();
        for behaviour in Behaviour::ALL {
            let plugin = engine.load(candidate(behaviour.node(), guest.clone())).await.unwrap();
            hostile.serving.push((plugin, Arc::new(Node::named(behaviour.node()))));
        }
        for (name, bytes) in GUESTS.iter().filter(|(name, _)| !["guest", "usual"].contains(name)) {
            let grants = if *name == "flips" { Grants::from([Capability::Memory]) } else { Grants::new() };
            let candidate = Candidate { grants, ..candidate(name, (*bytes).into()) };
            match engine.load(candidate.clone()).await {
                // A name that begins with b is one on which random answers are given.
                Ok(plugin) => hostile.serving.push((plugin, Arc::new(Node::named("b")))),
                Err(_) => hostile.offered.push(candidate),
            }
        }
        hostile
    }

    fn count(&self) -> usize {
        self.serving.len() + self.offered.len()
    }

    /// Lets all of them loose at once and again, at least one time, until it is over.
    async fn until(&self, engine: &Engine, over: &AtomicBool) {
        let judging = async {
            loop {
                self.judge(engine).await;
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        };
        let loading = async {
            loop {
                for candidate in &self.offered {
                    match engine.load(candidate.clone()).await {
                        Err(LoadError::Refusal(_) | LoadError::Death(_)) => {}
                        Ok(_) | Err(LoadError::Engine(_)) => panic!("{}", candidate.key),
                    }
                }
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        };
        tokio::join!(judging, loading);
    }

    /// As many checks of each as it may have at once.
    async fn judge(&self, engine: &Engine) {
        let twice = self.serving.iter().flat_map(|serving| [serving, serving]);
        let jobs = twice.map(|(plugin, node)| Job { id: 0, plugin: plugin.clone(), node: node.clone(), pods: None }).collect();
        let (done_in, mut done) = mpsc::channel(1024);
        engine.submit(jobs, done_in);
        while let Some(batch) = done.recv().await {
            for Finished { plugin, result, .. } in batch {
                assert_eq!(result.fault, None, "{}", plugin.key());
                let ours = result.death.is_some_and(|death| death.cause == Cause::HostPanic);
                assert!(!ours, "{}", plugin.key());
            }
        }
    }
}

//! The bundled checkers beside guests that misbehave in every way there is. Supervision stops each at its third node
//! and starts it again after a minute at the earliest: that is what is measured, all of them at once, beside minutes
//! without. What they would do to others if nobody stopped them is told as well.

use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use apgar_core::node::Node;
use apgar_engine::{Candidate, Capability, Cause, Engine, Finished, Grants, Job, LoadError, Plugin, limits};
use apgar_guests::Behaviour;
use apgar_tests::guests;
use tokio::sync::mpsc;

use crate::{Bundled, Found, Report, candidate, resident};

const NODES: usize = 1_000;
/// Rounds of all nodes in a minute, two seconds each.
const MINUTE: usize = 30;
/// Minutes with guests, each beside one without.
const MINUTES: usize = 2;
/// Rounds in which nobody stops them. A pool keeps a bounded part of what was used of it: all of it was by then.
const UNSTOPPED: usize = 4;

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

    let found = || Found::of(MINUTES * MINUTE * NODES * bundled.plugins.len());
    bundled.round(&mut found()).await;
    let never = resident("self");
    let (mut without, mut unstopped, mut beside) = (found(), found(), found());
    for _ in 0..UNSTOPPED {
        let unstopped = &mut unstopped;
        bundled.round_beside(unstopped, async |over| hostile.until(&bundled.engine, over).await).await;
    }
    let before = resident("self");
    for _ in 0..MINUTES {
        for _ in 0..MINUTE {
            bundled.round(&mut without).await;
        }
        let minute = async {
            for _ in 0..MINUTE {
                bundled.round(&mut beside).await;
            }
        };
        tokio::join!(minute, hostile.crash(&bundled.engine));
    }
    let after = resident("self");
    let [without, unstopped, beside] = [without, unstopped, beside].map(Found::sorted);
    for (name, (took, answered)) in [("without", &without), ("beside", &beside), ("unstopped", &unstopped)] {
        report.says(&format!("a check of a bundled checker, {name}, median"), took.at(0.5), "ms");
        report.says(&format!("a check of a bundled checker, {name}, p99"), took.at(0.99), "ms");
        report.says(&format!("from question to answer, {name}, median"), answered.at(0.5), "ms");
        report.says(&format!("from question to answer, {name}, p99"), answered.at(0.99), "ms");
    }
    report.at_most("a check, p99 beside guests / without", beside.0.at(0.99) / without.0.at(0.99), 1.2, "x");
    let latest = beside.1.at(1.0).max(unstopped.1.at(1.0));
    report.at_most("the last answer", latest, limits::WALL_LIMIT.as_secs_f64() * 1e3, "ms");
    report.says("resident memory before there ever were guests", never, "MiB");
    report.says("resident memory after, and what the pool keeps", after, "MiB");
    report.at_most("resident memory after / before", after / before, 1.05, "x");
    report.at_most("panics", f64::from(PANICS.load(Ordering::Relaxed)), 0.0, "");
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
        let guest: Arc<[u8]> = guests::guest("guest").unwrap().into();
        for behaviour in Behaviour::ALL {
            let plugin = engine.load(candidate(behaviour.node(), guest.clone())).await.unwrap();
            hostile.serving.push((plugin, Arc::new(Node::named(behaviour.node()))));
        }
        for (name, bytes) in guests::GUESTS.iter().filter(|(name, _)| !["guest", "usual"].contains(name)) {
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
                self.offer(engine).await;
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        };
        tokio::join!(judging, loading);
    }

    /// What supervision lets them do: a start each, and three nodes.
    async fn crash(&self, engine: &Engine) {
        let judging = async {
            self.judge(engine).await;
            self.judge(engine).await;
        };
        tokio::join!(judging, self.offer(engine));
    }

    async fn offer(&self, engine: &Engine) {
        for candidate in &self.offered {
            match engine.load(candidate.clone()).await {
                Err(LoadError::Refusal(_) | LoadError::Death(_)) => {}
                Ok(_) | Err(LoadError::Engine(_)) => panic!("{}", candidate.key),
            }
        }
    }

    /// As many checks of each as it may have at once.
    async fn judge(&self, engine: &Engine) {
        let twice = self.serving.iter().flat_map(|serving| [serving, serving]);
        let jobs =
            twice.map(|(plugin, node)| Job { id: 0, plugin: plugin.clone(), node: node.clone(), pods: None }).collect();
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

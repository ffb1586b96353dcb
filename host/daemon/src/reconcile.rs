//! The one loop: it waits, turns what happened into inputs, hands them to the fleet, and passes on what the
//! fleet answers. It owns all mutable state and reads the clock once a turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apgar_core::decision::{AttemptId, Decision, Outcome, Refuser};
use apgar_core::fleet::{Check, Fleet, Input, ReconcileError, Turn};
use apgar_core::time::Time;
use apgar_core::verdict::CheckerKey;
use apgar_engine::{DirectoryHandle, Engine, Finished, Job, Plugin, Registry, RegistryEvent};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::http::Query;
use crate::informer::NodeChange;
use crate::last_look::Actor;
use crate::log::{self, Identity};
use crate::metrics::Metrics;
use crate::store::{Writer, Writes};
use crate::view;

/// A watch is alive while its stream is open and spoke within this time: a bookmark comes about every minute
/// (`lifecycle` 3, `watch_alive`).
const WATCH_ALIVE: Duration = Duration::from_secs(120);

/// Messages taken in one turn: enough to catch up with a burst, few enough that a turn stays short.
const BATCH: usize = 4096;

/// Everything that comes in.
#[derive(Debug)]
pub struct Inbox {
    /// From the informer.
    pub nodes: mpsc::Receiver<NodeChange>,
    /// From the engine.
    pub judged: mpsc::Receiver<Vec<Finished>>,
    /// From the plugin registry.
    pub plugins: mpsc::Receiver<RegistryEvent>,
    /// From calls that ended.
    pub outcomes: mpsc::Receiver<(AttemptId, Outcome)>,
    /// Whether the store can be written, each time that changes.
    pub store: mpsc::Receiver<bool>,
    /// From the HTTP servers.
    pub queries: mpsc::Receiver<Query>,
}

/// Everything that goes out.
pub struct Outbox {
    /// Runs checks.
    pub engine: Engine,
    /// Where the engine puts what it found.
    pub judged: mpsc::Sender<Vec<Finished>>,
    /// Carries decisions out.
    pub actor: Arc<Actor>,
    /// Where calls put what came of them.
    pub outcomes: mpsc::Sender<(AttemptId, Outcome)>,
    /// Keeps records; none in monitor-only mode without a usable state directory.
    pub store: Option<Writer>,
}

/// The loop's state.
pub struct Loop {
    clock: Clock,
    fleet: Fleet,
    serving: BTreeMap<CheckerKey, Arc<Plugin>>,
    plugins: Plugins,
    watch: Watch,
    metrics: Metrics,
    identity: Identity,
    out: Outbox,
    next_tick: Time,
    store_writable: bool,
    /// What a person must look at before this daemon may be called ready.
    alarms: Vec<String>,
}

/// The plugins, as the loop shows and waits for them.
pub struct Plugins {
    /// Who serves.
    pub registry: Registry,
    /// The plugin directory.
    pub directory: DirectoryHandle,
    /// Checkers without which the daemon is not ready.
    pub required: Vec<CheckerKey>,
    /// The threshold of a checker that has no table of its own, if `[checkers.defaults]` sets one.
    pub default_threshold: Option<Duration>,
}

/// What is known of the Node watch (`lifecycle` 4.8).
#[derive(Debug, Default)]
struct Watch {
    open: bool,
    heard_at: Option<Time>,
    /// A complete list has been applied.
    synced: bool,
    /// Why it is not open.
    why: String,
}

impl Watch {
    fn heard(&mut self, now: Time) {
        self.open = true;
        self.heard_at = Some(now);
    }

    fn is_alive(&self, now: Time) -> bool {
        self.open && self.synced && self.heard_at.is_some_and(|at| now.since(at) < WATCH_ALIVE)
    }

    /// When silence will have killed it.
    fn dies_at(&self) -> Option<Time> {
        self.heard_at.filter(|_| self.open).map(|at| at + WATCH_ALIVE)
    }
}

/// What woke the loop.
enum Event {
    Nodes(Vec<NodeChange>),
    Judged(Vec<Vec<Finished>>),
    Plugins(RegistryEvent),
    Outcome(AttemptId, Outcome),
    Store(bool),
    Query(Query),
    Time,
    Stop,
}

impl Loop {
    /// A loop over a restored fleet. `alarms` keep it from ever being ready.
    #[must_use]
    pub fn new(
        clock: Clock,
        fleet: Fleet,
        plugins: Plugins,
        metrics: Metrics,
        identity: Identity,
        out: Outbox,
        alarms: Vec<String>,
    ) -> Self {
        let next_tick = clock.now() + fleet.policy().tick;
        let serving = BTreeMap::new();
        let watch = Watch::default();
        Self { clock, fleet, serving, plugins, watch, metrics, identity, out, next_tick, store_writable: true, alarms }
    }

    /// Runs until `stop` resolves, or everything that could still speak to it is gone.
    pub async fn run(mut self, mut inbox: Inbox, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let wake = self.clock.instant(self.wake_at());
            let mut nodes = Vec::new();
            let mut judged = Vec::new();
            let event = tokio::select! {
                biased;
                () = &mut stop => Event::Stop,
                Some(query) = inbox.queries.recv() => Event::Query(query),
                Some((attempt, outcome)) = inbox.outcomes.recv() => Event::Outcome(attempt, outcome),
                Some(writable) = inbox.store.recv() => Event::Store(writable),
                Some(event) = inbox.plugins.recv() => Event::Plugins(event),
                () = tokio::time::sleep_until(wake) => Event::Time,
                1.. = inbox.nodes.recv_many(&mut nodes, BATCH) => Event::Nodes(nodes),
                1.. = inbox.judged.recv_many(&mut judged, BATCH) => Event::Judged(judged),
                else => Event::Stop,
            };
            let now = self.clock.now();
            match event {
                Event::Stop => return,
                Event::Query(query) => self.answer(query, now),
                Event::Nodes(_)
                | Event::Judged(_)
                | Event::Plugins(_)
                | Event::Outcome(..)
                | Event::Store(_)
                | Event::Time => {
                    self.turn(event, now);
                }
            }
        }
    }

    /// The earliest moment at which something changes by itself.
    fn wake_at(&self) -> Time {
        [Some(self.next_tick), self.fleet.next_deadline(), self.watch.dies_at()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.next_tick)
    }

    fn turn(&mut self, event: Event, now: Time) {
        let mut inputs = self.inputs(event, now);
        inputs.push(Input::Evidence { live: self.watch.is_alive(now) });
        if now >= self.next_tick {
            self.next_tick = now + self.fleet.policy().tick;
            inputs.push(Input::Tick);
            self.retry_store();
        }
        let turn = self.fleet.turn(now, inputs);
        self.carry_out(turn);
    }

    fn inputs(&mut self, event: Event, now: Time) -> Vec<Input> {
        match event {
            Event::Nodes(changes) => changes.into_iter().filter_map(|change| self.node_input(change, now)).collect(),
            Event::Judged(batches) => batches.into_iter().flatten().map(|done| self.judged_input(done)).collect(),
            Event::Plugins(event) => self.plugin_input(event, now).into_iter().collect(),
            Event::Outcome(attempt, outcome) => vec![Input::Outcome { attempt, outcome }],
            Event::Store(writable) => {
                self.store_writable = writable;
                vec![Input::Store { writable }]
            }
            Event::Time | Event::Query(_) | Event::Stop => Vec::new(),
        }
    }

    fn node_input(&mut self, change: NodeChange, now: Time) -> Option<Input> {
        match change {
            NodeChange::Listed(nodes) => {
                self.watch.synced = true;
                Some(Input::Listed(nodes))
            }
            NodeChange::Applied(node) => {
                self.watch.heard(now);
                Some(Input::Applied(node))
            }
            NodeChange::Deleted(name) => {
                self.watch.heard(now);
                Some(Input::Deleted(name))
            }
            NodeChange::Heard => {
                self.watch.heard(now);
                None
            }
            NodeChange::Lost { during, why } => {
                self.watch.open = false;
                let why = why?;
                tracing::warn!(
                    event = "api_server_lost",
                    reason = during.as_str(),
                    why,
                    "the API server does not answer"
                );
                self.watch.why = why;
                Some(Input::WatchFailed { reason: during })
            }
        }
    }

    fn judged_input(&self, done: Finished) -> Input {
        self.metrics.judged(&done);
        log::check(&done);
        Input::Judged {
            check: done.id,
            node: done.node,
            checker: done.plugin.key().clone(),
            verdict: done.result.verdict,
            remember: done.result.remember,
        }
    }

    fn plugin_input(&mut self, event: RegistryEvent, now: Time) -> Option<Input> {
        log::plugin(&event);
        self.metrics.plugin(&event);
        match event {
            RegistryEvent::Serves { plugin, .. } => {
                let key = plugin.key().clone();
                self.apply_default_threshold(&key, now);
                let checker = view::checker(&plugin);
                self.serving.insert(key, plugin);
                Some(Input::CheckerServes(checker))
            }
            RegistryEvent::Stopped { name } => {
                self.serving.remove(&name);
                Some(Input::CheckerRemoved(name))
            }
            RegistryEvent::Removed { name } => {
                self.serving.remove(&name);
                Some(Input::CheckerRemoved(name))
            }
            // A checker that should serve and never did takes part, as unknown.
            RegistryEvent::Refused { name, still_serving: false, .. } => {
                self.serving.remove(&name);
                Some(Input::CheckerStopped(name))
            }
            RegistryEvent::Refused { .. }
            | RegistryEvent::DirectoryLost { .. }
            | RegistryEvent::DirectoryEmptied { .. }
            | RegistryEvent::DirectoryBack => None,
        }
    }

    fn apply_default_threshold(&mut self, key: &CheckerKey, now: Time) {
        let policy = self.fleet.policy();
        if let Some(threshold) = self.plugins.default_threshold
            && !policy.thresholds.contains_key(key)
        {
            let mut policy = policy.clone();
            policy.thresholds.insert(key.clone(), threshold);
            self.fleet.set_policy(policy, now);
        }
    }

    fn carry_out(&mut self, turn: Turn) {
        for event in &turn.events {
            log::write(event, &self.identity);
            self.metrics.count(event);
        }
        let intents = self.store(turn.writes, turn.decisions.len());
        for (decision, stored) in turn.decisions.into_iter().zip(intents) {
            self.call(decision, stored);
        }
        self.check(turn.checks);
    }

    /// Hands the records to the store; the answers tell each call whether its intent is on disk.
    fn store(&mut self, writes: Writes, calls: usize) -> Vec<oneshot::Receiver<bool>> {
        let (acknowledge, stored): (Vec<_>, Vec<_>) = (0..calls).map(|_| oneshot::channel()).unzip();
        let Some(store) = &self.out.store else {
            return stored;
        };
        let anything = !writes.is_empty() || calls > 0;
        if anything && !store.write(writes, acknowledge) {
            self.metrics.reconcile_error(ReconcileError::Store);
            tracing::error!(event = "store_full", "the store takes no more: the disk is too slow");
        }
        stored
    }

    /// What could not be written is tried again each tick; the store says when that succeeds.
    fn retry_store(&mut self) {
        if let Some(store) = &self.out.store
            && !self.store_writable
            && !store.write(Vec::new(), Vec::new())
        {
            self.metrics.reconcile_error(ReconcileError::Store);
        }
    }

    fn call(&self, decision: Decision, stored: oneshot::Receiver<bool>) {
        let actor = self.out.actor.clone();
        let because: Vec<_> = decision.because.iter().filter_map(|key| self.serving.get(key).cloned()).collect();
        let outcomes = self.out.outcomes.clone();
        crate::task::spawn("call", async move {
            let outcome = actor.act(&decision, &because, stored).await;
            if let Outcome::Refused { why, by: Refuser::LastLook } = &outcome {
                tracing::info!(event = "last_look_refused", node = %decision.node, why, "the last look refused");
            }
            // The loop is gone only when the process stops; the intent is on disk and says the rest.
            let _stopping: Result<(), _> = outcomes.send((decision.attempt, outcome)).await;
        });
    }

    fn check(&self, checks: Vec<Check>) {
        let jobs: Vec<Job> = checks
            .into_iter()
            .filter_map(|check| {
                let plugin = self.serving.get(&check.checker)?.clone();
                Some(Job { id: check.id, plugin, node: check.node })
            })
            .collect();
        if !jobs.is_empty() {
            self.out.engine.submit(jobs, self.out.judged.clone());
        }
    }

    fn answer(&mut self, query: Query, now: Time) {
        // Whoever asked may have gone away.
        let _gone: Result<(), ()> = match query {
            Query::Metrics(reply) => reply.send(self.metrics.render(&self.fleet, &self.plugins.registry)).map_err(drop),
            Query::Readiness(reply) => reply.send(self.unready(now)).map_err(drop),
            Query::Nodes(reply) => reply.send(view::nodes(&self.fleet)).map_err(drop),
            Query::Phases(reply) => reply.send(view::phases(&self.fleet)).map_err(drop),
            Query::Explain(name, reply) => reply.send(self.explain(&name, now)).map_err(drop),
            Query::Plugins(reply) => reply.send(view::plugins(&self.plugins)).map_err(drop),
        };
    }

    fn explain(&self, name: &str, now: Time) -> Option<Value> {
        self.fleet.report(name, now).map(|report| view::report(&report))
    }

    /// Everything that keeps the daemon from being ready: readiness is earned by data.
    fn unready(&self, now: Time) -> Vec<String> {
        let mut reasons = self.alarms.clone();
        if !self.watch.synced {
            reasons.push(format!("no complete list of nodes yet{}", because(&self.watch.why)));
        } else if !self.watch.is_alive(now) {
            reasons.push(format!("the node watch is dead, nothing is decided{}", because(&self.watch.why)));
        }
        reasons.extend(view::unready_plugins(&self.plugins));
        if !self.store_writable {
            reasons.push("the store cannot be written".to_owned());
        }
        let pause = self.out.engine.ticker_health().last_tick_ago;
        if pause > Duration::from_secs(1) {
            reasons.push(format!("the engine's ticker has not run for {} ms", pause.as_millis()));
        }
        reasons
    }
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

//! The one loop: it waits, turns what happened into inputs, hands them to the fleet, and passes on what the
//! fleet answers. It owns all mutable state and reads the clock once a turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apgar_core::decision::{AttemptId, Decision, Outcome, Refuser};
use apgar_core::fleet::{Check, Fleet, Input, ReconcileError, Turn};
use apgar_core::supervision::{Policy, Record, Standing};
use apgar_core::time::Time;
use apgar_core::verdict::CheckerKey;
use apgar_engine::{Engine, Finished, RegistryEvent};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::announce::Announcer;
use crate::clock::Clock;
use crate::events::{Happened, Ring};
use crate::http::Query;
use crate::informer::{Change, NodeChange};
use crate::last_look::Actor;
use crate::log;
use crate::metrics::Metrics;
use crate::pods::{PodWatch, Told};
use crate::store::{Batch, Writer};
use crate::supervise::{Asked, Plugins, Start, Wishes};
use crate::view;
use crate::watch::Watch;

/// How long a stop waits for calls that are out: an outcome that is known is better than a window.
const LAST_OUTCOMES: Duration = Duration::from_millis(1500);

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
    /// From the watch on the configuration.
    pub supervision: mpsc::Receiver<(Policy, Wishes)>,
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
    /// What happened to plugins lately.
    pub events: Ring,
    /// Where warnings about plugins are announced.
    pub announcer: Announcer,
    /// Keeps records; none in monitor-only mode without a usable state directory.
    pub store: Option<Writer>,
}

/// The loop's state.
pub struct Loop {
    clock: Clock,
    fleet: Fleet,
    plugins: Plugins,
    watch: Watch,
    pods: PodWatch,
    metrics: Metrics,
    out: Outbox,
    next_tick: Time,
    store_writable: bool,
    /// What the next turn must hear of the store.
    store_news: Vec<Input>,
    /// Whether the Node watch was alive at the last turn.
    live: bool,
    /// Whether the log says that judgement is held.
    held: bool,
    /// Calls without an outcome yet.
    calls_out: usize,
    /// What a person must look at before this daemon may be called ready.
    alarms: Vec<String>,
}

/// What woke the loop.
enum Event {
    Nodes(Vec<NodeChange>),
    Pods(Vec<Told>),
    Judged(Vec<Vec<Finished>>),
    Plugins(RegistryEvent),
    Configured(Policy, Wishes),
    Outcome(AttemptId, Outcome),
    Store(bool),
    Queries(Vec<Query>),
    Time,
}

impl Loop {
    /// A loop over a restored fleet. `alarms` keep it from ever being ready.
    #[must_use]
    pub fn new(
        clock: Clock,
        fleet: Fleet,
        plugins: Plugins,
        pods: PodWatch,
        metrics: Metrics,
        out: Outbox,
        alarms: Vec<String>,
    ) -> Self {
        let next_tick = clock.now() + fleet.policy().tick;
        let watch = Watch::default();
        Self {
            clock,
            fleet,
            plugins,
            watch,
            pods,
            metrics,
            out,
            next_tick,
            store_writable: true,
            store_news: Vec::new(),
            live: false,
            held: false,
            calls_out: 0,
            alarms,
        }
    }

    /// Runs until `stop` resolves, or everything that could still speak to it is gone.
    pub async fn run(mut self, mut inbox: Inbox, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut now = self.clock.now();
        loop {
            let wake = self.clock.instant(self.wake_at(now));
            let (mut nodes, mut pods) = (Vec::new(), Vec::new());
            let mut judged = Vec::new();
            let mut queries = Vec::new();
            // What happened comes before the timer: a timer that lies in the past must not starve the news that
            // would move it. Each turn looks whether a tick is due, so that ticks are not starved either.
            let event = tokio::select! {
                biased;
                () = &mut stop => break,
                Some((attempt, outcome)) = inbox.outcomes.recv() => Event::Outcome(attempt, outcome),
                Some(writable) = inbox.store.recv() => Event::Store(writable),
                Some((policy, wishes)) = inbox.supervision.recv() => Event::Configured(policy, wishes),
                Some(event) = inbox.plugins.recv() => Event::Plugins(event),
                1.. = inbox.nodes.recv_many(&mut nodes, BATCH) => Event::Nodes(nodes),
                1.. = self.pods.recv(&mut pods, BATCH) => Event::Pods(pods),
                1.. = inbox.judged.recv_many(&mut judged, BATCH) => Event::Judged(judged),
                () = tokio::time::sleep_until(wake) => Event::Time,
                1.. = inbox.queries.recv_many(&mut queries, BATCH) => Event::Queries(queries),
            };
            now = self.clock.now();
            match event {
                Event::Queries(queries) => self.answer(queries, now),
                event @ (Event::Nodes(_)
                | Event::Pods(_)
                | Event::Judged(_)
                | Event::Plugins(_)
                | Event::Configured(..)
                | Event::Outcome(..)
                | Event::Store(_)
                | Event::Time) => self.turn(event, now),
            }
        }
        self.finish(inbox.outcomes).await;
    }

    /// Nothing is granted any more; calls that are out may still say what came of them, for a while. What they
    /// say, and all that waits for the disk, is stored before this returns.
    async fn finish(mut self, mut outcomes: mpsc::Receiver<(AttemptId, Outcome)>) {
        let deadline = tokio::time::Instant::now() + LAST_OUTCOMES;
        while self.calls_out > 0
            && let Ok(Some((attempt, outcome))) = tokio::time::timeout_at(deadline, outcomes.recv()).await
        {
            self.calls_out -= 1;
            let inputs = vec![Input::Evidence { live: false }, Input::Outcome { attempt, outcome }];
            let now = self.clock.now();
            let turn = self.fleet.turn(now, inputs);
            self.carry_out(turn, BTreeMap::new(), Vec::new(), now);
        }
        // A start that ends with the daemon is no death (`supervision` 4.13).
        self.plugins.shut_down();
        let now = self.clock.now();
        let writes = self.plugins.turn(self.fleet.len(), now).writes;
        self.carry_out(Turn::default(), writes, Vec::new(), now);
        if let Some(store) = self.out.store.take() {
            let closed = tokio::task::spawn_blocking(move || store.close());
            if closed.await.is_err() {
                tracing::error!(event = "store_lost", "the store could not be closed");
            }
        }
    }

    /// The earliest moment at which something changes by itself.
    fn wake_at(&self, now: Time) -> Time {
        // A death that is over, as after the process was stopped for long, must not wake it again and again.
        let dies_at = self.watch.dies_at().filter(|at| *at > now);
        [Some(self.next_tick), self.fleet.next_deadline(), self.plugins.next_deadline(now), dies_at]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.next_tick)
    }

    fn turn(&mut self, event: Event, now: Time) {
        let (mut inputs, judged) = self.inputs(event, now);
        let supervised = self.plugins.turn(self.fleet.len(), now);
        inputs.extend(supervised.inputs);
        inputs.extend(judged.into_iter().filter_map(|done| self.judged_input(done)));
        inputs.extend(self.pods.want(self.plugins.read_pods()));
        inputs.extend(self.pods.evidence(now));
        let live = self.watch.is_alive(now);
        self.live = live;
        let held = !live && self.watch.is_trouble(now);
        if (held && !self.held) || (live && self.held) {
            self.held = held;
            log::judgement(live, &self.watch.why);
        }
        inputs.push(Input::Evidence { live });
        inputs.append(&mut self.store_news);
        if now >= self.next_tick {
            self.next_tick = now + self.fleet.policy().tick;
            inputs.push(Input::Tick);
            self.retry_store();
        }
        self.remember(supervised.happened, now);
        // A plugin that is gone keeps no series.
        self.metrics.deaths(supervised.deaths.iter().filter(|(name, ..)| self.plugins.is_known(name)));
        self.metrics.reloads(supervised.reloads.iter().filter(|(name, _)| self.plugins.is_known(name)));
        supervised.gone.iter().for_each(|name| self.metrics.forget_plugin(name));
        let turn = self.fleet.turn(now, inputs);
        self.carry_out(turn, supervised.writes, supervised.starts, now);
    }

    /// Stores what protects calls and starts, and then makes them; checks need no record.
    fn carry_out(&mut self, turn: Turn, plugins: BTreeMap<CheckerKey, Record>, starts: Vec<Start>, now: Time) {
        self.tell(&turn.events);
        let batch = Batch { nodes: turn.writes.into_iter().collect(), plugins };
        let mut stored = self.store(batch, turn.decisions.len() + starts.len());
        let mut starts_stored = stored.split_off(turn.decisions.len()).into_iter();
        for (decision, stored) in turn.decisions.into_iter().zip(stored) {
            self.call(decision, stored);
        }
        for start in starts {
            // Without a store there is nothing to wait for.
            let stored = starts_stored.next().filter(|_| self.out.store.is_some());
            self.plugins.start(start, stored);
        }
        self.check(turn.checks, now);
    }

    /// What the fleet must hear, and checks that are to be weighed once the plugins have heard of them.
    fn inputs(&mut self, event: Event, now: Time) -> (Vec<Input>, Vec<Finished>) {
        let inputs = match event {
            Event::Nodes(changes) => changes.into_iter().filter_map(|change| self.node_input(change, now)).collect(),
            Event::Pods(changes) => changes.into_iter().filter_map(|change| self.pods.hear(change, now)).collect(),
            Event::Judged(batches) => {
                let judged: Vec<Finished> = batches.into_iter().flatten().collect();
                for done in &judged {
                    let is_there = self.fleet.node(done.node.name.as_str()).is_some();
                    self.plugins.judged(done, is_there, now);
                    // Nothing is kept for a node that is gone.
                    if !is_there {
                        self.plugins.node_gone(&done.node.name);
                    }
                }
                return (Vec::new(), judged);
            }
            Event::Plugins(event) => {
                self.plugins.hear(event, now);
                Vec::new()
            }
            Event::Configured(policy, wishes) => {
                self.plugins.configure(policy, wishes);
                Vec::new()
            }
            Event::Outcome(attempt, outcome) => {
                self.calls_out = self.calls_out.saturating_sub(1);
                vec![Input::Outcome { attempt, outcome }]
            }
            Event::Store(writable) => {
                self.store_writable = writable;
                vec![Input::Store { writable }]
            }
            Event::Time | Event::Queries(_) => Vec::new(),
        };
        (inputs, Vec::new())
    }

    fn node_input(&mut self, change: NodeChange, now: Time) -> Option<Input> {
        self.watch.hear(&change, now);
        match change {
            Change::Listed(nodes) => {
                self.plugins.nodes(nodes.iter().map(|node| node.name.clone()).collect());
                Some(Input::Listed(nodes))
            }
            Change::Applied(node) => Some(Input::Applied(node)),
            Change::Deleted(name) => Some(Input::Deleted(name)),
            Change::Heard => None,
            Change::Lost { during, why } => {
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

    /// The result of a check, unless it is late (`supervision` 4.7).
    fn judged_input(&self, done: Finished) -> Option<Input> {
        let (node, checker) = (&done.node.name, done.plugin.key());
        let counts = self.plugins.standing(&done) != Standing::Late && self.fleet.awaits(done.id, node, checker);
        // A plugin that is gone keeps no series.
        if self.plugins.is_told(done.plugin.key()) {
            self.metrics.judged(&done, counts);
        }
        log::check(&done);
        counts.then(|| Input::Judged {
            check: done.id,
            node: done.node.name.clone(),
            checker: done.plugin.key().clone(),
            verdict: done.result.verdict,
            remember: done.result.remember,
        })
    }

    /// Logs and counts what happened.
    fn tell(&mut self, events: &[apgar_core::event::Event]) {
        for event in events {
            log::write(event);
            if let apgar_core::event::Event::NodeGone { node } = event {
                self.plugins.node_gone(node);
            }
            // A node that is gone keeps no series, also if a call for it ends later.
            let counted = event.node().is_none_or(|node| self.fleet.node(node.as_str()).is_some());
            if counted || matches!(event, apgar_core::event::Event::NodeGone { .. }) {
                self.metrics.count(event);
            }
        }
    }

    /// Logs and remembers what happened to plugins.
    fn remember(&mut self, happened: Vec<Happened>, now: Time) {
        for event in happened {
            if self.out.events.push(event.clone(), now) {
                log::plugin(&event);
                if event.kind.is_warning() {
                    self.out.announcer.announce(&event, now);
                }
            }
        }
    }

    /// Hands the records to the store; the answers tell each call whether its intent is on disk.
    fn store(&mut self, batch: Batch, calls: usize) -> Vec<oneshot::Receiver<bool>> {
        let (acknowledge, stored): (Vec<_>, Vec<_>) = (0..calls).map(|_| oneshot::channel()).unzip();
        let Some(store) = &self.out.store else {
            return stored;
        };
        let anything = !batch.is_empty() || calls > 0;
        if anything && !store.write(batch, acknowledge) {
            self.store_died();
        }
        stored
    }

    /// What could not be written is tried again each tick; the store says when that succeeds.
    fn retry_store(&mut self) {
        let wanted = self.out.store.as_ref().filter(|_| !self.store_writable);
        if wanted.is_some_and(|store| !store.write(Batch::default(), Vec::new())) {
            self.store_died();
        }
    }

    fn store_died(&mut self) {
        self.store_news.push(Input::Store { writable: false });
        self.store_writable = false;
        self.metrics.reconcile_error(ReconcileError::Store);
        tracing::error!(event = "store_died", "the store's thread has died; nothing is decided any more");
    }

    fn call(&mut self, decision: Decision, stored: oneshot::Receiver<bool>) {
        self.calls_out += 1;
        let actor = self.out.actor.clone();
        let because: Vec<_> = decision.because.iter().filter_map(|key| self.plugins.answering(key).cloned()).collect();
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

    /// Hands checks to the engine. A node that is not asked about has its answer at once.
    fn check(&mut self, checks: Vec<Check>, now: Time) {
        let mut jobs = Vec::with_capacity(checks.len());
        let mut answers = Vec::new();
        for check in checks {
            match self.plugins.ask(check, now) {
                Asked::Job(job) => jobs.push(job),
                Asked::Answer(answer) => answers.push(answer),
                Asked::Nobody => {}
            }
        }
        if !jobs.is_empty() {
            self.out.engine.submit(jobs, self.out.judged.clone());
        }
        if answers.is_empty() {
            return;
        }
        // Answers bring up no further checks, so this ends here.
        let turn = self.fleet.turn(now, answers);
        self.carry_out(turn, BTreeMap::new(), Vec::new(), now);
    }

    fn answer(&self, queries: Vec<Query>, now: Time) {
        // A scrape reads the whole fleet: one rendering serves all who wait.
        let mut metrics = None;
        for query in queries {
            // Whoever asked may have gone away.
            let _gone: Result<(), ()> = match query {
                Query::Metrics(reply) => {
                    let text =
                        metrics.get_or_insert_with(|| self.metrics.render(&self.fleet, &self.plugins, self.live, now));
                    reply.send(text.clone()).map_err(drop)
                }
                Query::Readiness(reply) => reply.send(self.unready(now)).map_err(drop),
                Query::Nodes(reply) => reply.send(view::nodes(&self.fleet)).map_err(drop),
                Query::Phases(reply) => reply.send(view::phases(&self.fleet)).map_err(drop),
                Query::Explain(name, reply) => reply.send(self.explain(&name, now)).map_err(drop),
                Query::Plugins(reply) => reply.send(view::plugins(&self.plugins, now)).map_err(drop),
                Query::Events(reply) => reply.send(self.out.events.shown()).map_err(drop),
                Query::Unload(name, reply) => {
                    let directory = self.plugins.directory.clone();
                    crate::task::spawn("unload", async move {
                        // Whoever asked may have gone away.
                        let _gone: Result<(), _> = reply.send(directory.unload(&name).await);
                    });
                    Ok(())
                }
            };
        }
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
        reasons.extend(self.plugins.unready());
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

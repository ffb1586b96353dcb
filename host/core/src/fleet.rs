//! The fleet: all nodes, all their records, and the one function that moves them on.
//! The daemon's loop hands in what happened and the time; the fleet answers with what is to be done.
//! Only nodes that something happened to, or whose deadline came, are evaluated: an idle cluster of any size
//! costs next to nothing (`recovery` section 8, property 8).

mod intake;
mod pods;
mod slot;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::decision::{AttemptId, Decision, Mode, Outcome, Step};
use crate::event::Event;
use crate::gate;
use crate::node::{Node, NodeName};
use crate::pods::{PodChange, Pods};
use crate::policy::Policy;
use crate::recovery::{self, Clock, Lifecycle, Phase, Record, Shown, Sight, clocks, holds, identity, outcomes};
use crate::time::Time;
use crate::verdict::{CheckerKey, Verdict};

use pods::PodIndex;
use slot::{Absent, Served, Slot, Stored, verdicts};
pub use view::{CheckerView, NodeView, Phases};

/// The most that one turn adds to observed time, in ticks: a process that was stopped has seen nothing of the
/// time between (`recovery` 2).
const OBSERVED_TICKS_MAX: u32 = 3;

/// How often ages alone are worth a write (`recovery` 4.7): an agent that restarts often still acts in the end.
const AGES_STORED_EVERY: Duration = Duration::from_secs(60);

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A complete list of the selected nodes: who is not in it is gone.
    Listed(Vec<Arc<Node>>),
    /// A node appeared or changed.
    Applied(Arc<Node>),
    /// A node was deleted, or is no longer selected.
    Deleted(NodeName),
    /// Whether the Node watch is alive (`lifecycle` 4.8).
    Evidence {
        /// True while it is.
        live: bool,
    },
    /// A list or watch failed; counted, nothing else changes.
    WatchFailed {
        /// `list_nodes` or `watch`.
        reason: ReconcileError,
    },
    /// Something happened to pods. Whoever reads them is asked at the next tick: they change often.
    Pods(PodChange),
    /// A generation of a checker serves from now on: a new checker, or new bytes or settings of a known one.
    CheckerServes(Checker),
    /// A checker is loaded, but does not serve: unknown everywhere, not running.
    CheckerStopped(CheckerKey),
    /// A checker was removed or disabled: it takes its verdicts with it.
    CheckerRemoved(CheckerKey),
    /// The answer to a [`Check`].
    Judged {
        /// The check's number.
        check: CheckId,
        /// The node that was judged.
        node: NodeName,
        /// Who judged it.
        checker: CheckerKey,
        /// The answer.
        verdict: Verdict,
        /// False for an answer that must not be remembered (our own machinery failed): asked again next tick.
        remember: bool,
    },
    /// What came of a [`Decision`].
    Outcome {
        /// Of which.
        attempt: AttemptId,
        /// What.
        outcome: Outcome,
    },
    /// The tick: everything that is not remembered is asked again.
    Tick,
    /// An operator's reset of a node; without effect while a call is out.
    Reset(NodeName),
    /// A person ordered a reboot of the node (`tasks` 4.13): its wait window begins.
    ManualReboot(NodeName),
    /// What the lifecycle of a node says; `ready` without a hold until somebody says otherwise.
    Lifecycle {
        /// Which node.
        node: NodeName,
        /// What.
        lifecycle: Lifecycle,
    },
    /// Whether the store takes writes: without it nothing is granted in active mode.
    Store {
        /// True while it does.
        writable: bool,
    },
}

/// A checker that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checker {
    /// Its key.
    pub key: CheckerKey,
    /// Which generation: bytes and settings. Another one is asked anew for every node; its reasons start anew
    /// with other bytes.
    pub generation: Arc<str>,
    /// The reasons it declares, admitted as label values first.
    pub reasons: Vec<Arc<str>>,
    /// What its verdict depends on.
    pub inputs: Inputs,
}

/// What a verdict depends on, as the imports of a checker prove it. It says when the checker is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// The node and its settings: asked when one of them changes.
    Node,
    /// The pods on the node as well: asked also at the first tick after they changed.
    NodeAndPods,
    /// More than that, as the time or a server: asked at every tick.
    More {
        /// True if the pods are among it.
        pods: bool,
    },
}

impl Inputs {
    /// True if the verdict is a function of what is known here, and may be remembered.
    #[must_use]
    pub fn is_pure(self) -> bool {
        match self {
            Self::Node | Self::NodeAndPods => true,
            Self::More { .. } => false,
        }
    }

    /// True if the pods are among them.
    #[must_use]
    pub fn has_pods(self) -> bool {
        match self {
            Self::Node => false,
            Self::NodeAndPods => true,
            Self::More { pods } => pods,
        }
    }
}

/// The number of a check, never used twice in a process.
pub type CheckId = u64;

/// A question to a checker about a node.
#[derive(Debug, Clone)]
pub struct Check {
    /// Its number; the answer carries it back. A late answer is dropped by it.
    pub id: CheckId,
    /// The node, as it is to be judged.
    pub node: Arc<Node>,
    /// The pods on it, for a checker that reads them; none while they are not known.
    pub pods: Option<Pods>,
    /// Who is asked.
    pub checker: CheckerKey,
}

/// A reason of `reconcile_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReconcileError {
    /// A list failed.
    ListNodes,
    /// A watch failed.
    Watch,
    /// A list without any node while nodes are tracked.
    EmptyList,
    /// A node could not be decoded.
    Decode,
    /// A record could not be stored.
    Store,
    /// An evaluation panicked.
    Evaluate,
}

impl ReconcileError {
    /// The word in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ListNodes => "list_nodes",
            Self::Watch => "watch",
            Self::EmptyList => "empty_list",
            Self::Decode => "decode",
            Self::Store => "store",
            Self::Evaluate => "evaluate",
        }
    }
}

/// What is to be done after a turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// Questions for the engine.
    pub checks: Vec<Check>,
    /// Steps for the executor, in order. Empty in monitor-only mode. The record that protects each is among
    /// `writes` and must be stored before the call.
    pub decisions: Vec<Decision>,
    /// Records to store (`None`: to forget), at most one a node.
    pub writes: Vec<(NodeName, Option<Box<Record>>)>,
    /// What happened, for log and counters.
    pub events: Vec<Event>,
}

/// All nodes and all their records.
#[derive(Debug)]
pub struct Fleet {
    policy: Policy,
    clock: Clock,
    live: bool,
    store_writable: bool,
    /// Ticks that are counted as health checks; each node's counts are derived from it.
    ticks: u32,
    last_check: CheckId,
    /// The enabled checkers, sorted by key. A node's answers stand in the same order.
    checkers: Vec<Served>,
    nodes: BTreeMap<NodeName, Box<Slot>>,
    pods: PodIndex,
    /// Records without a node: vanished ones, and restored ones until the first list.
    absent: BTreeMap<NodeName, Absent>,
    /// Nodes to be evaluated as soon as evidence is live.
    touched: BTreeSet<NodeName>,
    /// Nodes whose record may have changed in this turn.
    changed: BTreeSet<NodeName>,
    /// Nodes without a hold of recovery at their last evaluation.
    due: BTreeSet<NodeName>,
    /// Nodes with an action that may still be in flight.
    flying: BTreeSet<NodeName>,
    /// When which node is to be looked at; at most one entry a node.
    deadlines: BTreeSet<(Time, NodeName)>,
    /// Answers that must not be remembered: asked again at the next tick.
    again: BTreeSet<(NodeName, CheckerKey)>,
    /// Nodes by shown phase.
    counts: BTreeMap<Shown, usize>,
    /// The calls that are out, also of records that are gone meanwhile.
    calls: BTreeMap<AttemptId, Flight>,
    /// Since when lists have been empty.
    empty_since: Option<Time>,
    /// The number of the last applied list.
    lists: u32,
    /// What a restart found, for the first turn.
    pending: Vec<Event>,
    #[cfg(test)]
    pub(crate) panics_on: Option<NodeName>,
}

/// A call that is out.
#[derive(Debug, Clone)]
struct Flight {
    node: NodeName,
    step: Step,
    mode: Mode,
}

impl Fleet {
    /// A fleet without nodes. Nothing is evaluated until evidence is live ([`Input::Evidence`]) and at least
    /// one checker is known.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            clock: Clock { now: Time::default(), observed: Duration::ZERO },
            live: false,
            store_writable: true,
            ticks: 0,
            last_check: 0,
            checkers: Vec::new(),
            nodes: BTreeMap::new(),
            pods: PodIndex::default(),
            absent: BTreeMap::new(),
            touched: BTreeSet::new(),
            changed: BTreeSet::new(),
            due: BTreeSet::new(),
            flying: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            again: BTreeSet::new(),
            counts: BTreeMap::new(),
            calls: BTreeMap::new(),
            empty_since: None,
            lists: 0,
            pending: Vec::new(),
            #[cfg(test)]
            panics_on: None,
        }
    }

    /// Takes over what the store remembers, before the first turn. A call found out is `unconfirmed`; what
    /// follows from that is among the first turn's events and writes.
    pub fn restore(&mut self, records: Vec<(NodeName, Record)>, now: Time) {
        self.clock.now = self.clock.now.max(now);
        let now = self.clock.now;
        for (name, record) in records {
            let stored = Some(Box::new(Stored { at: now, record: record.clone() }));
            let mut record = record;
            identity::restore(&self.policy, &name, &mut record, now, &mut self.pending);
            if record.is_open() && is_in_flight(&self.policy, &record, now) {
                self.flying.insert(name.clone());
            }
            self.changed.insert(name.clone());
            self.absent.insert(name, Absent { record, stored, deadline: None });
        }
    }

    /// Moves everything on to `now`: takes in what happened, evaluates the nodes it concerns, and asks the gate.
    pub fn turn(&mut self, now: Time, inputs: Vec<Input>) -> Turn {
        self.observe(now);
        let mut turn = Turn { events: std::mem::take(&mut self.pending), ..Turn::default() };
        let ticked = inputs.iter().any(|input| matches!(input, Input::Tick));
        // Outcomes come first (`recovery` 4.1): a reset in the same turn then finds no call out.
        let (outcomes, others): (Vec<_>, Vec<_>) =
            inputs.into_iter().partition(|input| matches!(input, Input::Outcome { .. }));
        for input in outcomes.into_iter().chain(others) {
            self.take_in(input, &mut turn);
        }
        self.wake();
        if ticked {
            self.ask_at_tick(&mut turn);
        }
        if self.live {
            self.evaluate_touched(ticked, &mut turn);
        }
        let granted = self.grant(&mut turn);
        self.settle(&granted, &mut turn);
        self.ticks = self.ticks.saturating_add(u32::from(ticked));
        turn
    }

    /// The earliest moment at which a turn without input may change anything; none: only an input can.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let restless = !self.pending.is_empty() || !self.changed.is_empty() || (self.live && !self.touched.is_empty());
        if restless {
            return Some(self.clock.now);
        }
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Takes another policy; every node is evaluated by it in the next turn.
    pub fn set_policy(&mut self, policy: Policy, now: Time) {
        self.observe(now);
        self.policy = policy;
        self.touched.extend(self.nodes.keys().cloned());
        self.changed.extend(self.absent.keys().cloned());
    }

    /// Lets the two times go on (`recovery` 2): observed time only while evidence was live.
    fn observe(&mut self, now: Time) {
        self.clock = self.clock_at(now);
    }

    fn clock_at(&self, now: Time) -> Clock {
        let now = now.max(self.clock.now);
        let passed = now.since(self.clock.now).min(self.policy.tick * OBSERVED_TICKS_MAX);
        let observed = self.clock.observed + if self.live { passed } else { Duration::ZERO };
        Clock { now, observed }
    }

    /// Hands the nodes whose deadline came to the evaluation, and drops records whose time is over.
    fn wake(&mut self) {
        while self.deadlines.first().is_some_and(|(at, _)| *at <= self.clock.now) {
            let Some((_, name)) = self.deadlines.pop_first() else {
                return;
            };
            if let Some(slot) = self.nodes.get_mut(&name) {
                slot.deadline = None;
                self.touched.insert(name);
            } else if let Some(kept) = self.absent.get_mut(&name) {
                kept.deadline = None;
                let over = kept.expires(&self.policy).is_some_and(|at| at <= self.clock.now);
                if over {
                    self.absent.remove(&name);
                    self.flying.remove(&name);
                }
                self.changed.insert(name);
            }
        }
    }

    fn evaluate_touched(&mut self, ticked: bool, turn: &mut Turn) {
        for name in std::mem::take(&mut self.touched) {
            let Some(slot) = self.nodes.get_mut(&name) else {
                continue;
            };
            if !slot.evaluated && (self.checkers.is_empty() || !slot.is_answered()) {
                continue;
            }
            let verdicts = verdicts(&self.checkers, &slot.answers);
            let sight = Sight { node: &slot.node, lifecycle: slot.lifecycle, verdicts: &verdicts };
            let mut record = slot.record.clone();
            let mut events = Vec::new();
            let (policy, clock) = (&self.policy, self.clock);
            // A panic in here is a bug in a rule. It must not end the loop that serves all other nodes, and
            // nothing half-done may stay: the rules work on a copy.
            let due = catch_unwind(AssertUnwindSafe(|| {
                #[cfg(test)]
                assert!(self.panics_on.as_ref() != Some(&name), "asked for by a test");
                recovery::evaluate(policy, &mut record, sight, clock, &mut events);
                holds::due_for(policy, &record, sight, clock.now).is_some()
            }));
            match due {
                Ok(due) => {
                    slot.record = record;
                    slot.evaluated_at(self.ticks, ticked);
                    turn.events.append(&mut events);
                    if slot.record.phase == Phase::Healthy {
                        self.flying.remove(&name);
                    }
                    if due {
                        self.due.insert(name.clone());
                    } else {
                        self.due.remove(&name);
                    }
                    slot.retry_at = None;
                }
                Err(_) => {
                    self.due.remove(&name);
                    slot.retry_at = Some(clock.now + policy.tick);
                    turn.error(ReconcileError::Evaluate, Some(&name), None);
                }
            }
            self.changed.insert(name);
        }
    }

    /// Puts the due nodes before the gate and carries its answer out. Returns whom it let through.
    fn grant(&mut self, turn: &mut Turn) -> BTreeSet<NodeName> {
        if self.due.is_empty() {
            return BTreeSet::new();
        }
        let now = self.clock.now;
        let in_flight = self.in_flight();
        self.flying = in_flight.iter().cloned().collect();
        let mut candidates = Vec::new();
        for name in &self.due {
            let Some(slot) = self.nodes.get_mut(name) else {
                continue;
            };
            clocks::advance(&mut slot.record, self.clock.observed);
            let verdicts = verdicts(&self.checkers, &slot.answers);
            let sight = Sight { node: &slot.node, lifecycle: slot.lifecycle, verdicts: &verdicts };
            if let Some(due_for) = holds::due_for(&self.policy, &slot.record, sight, now) {
                candidates.push(gate::Candidate {
                    node: name.clone(),
                    attempts: slot.record.incident.as_ref().map_or(0, |incident| incident.attempts()),
                    due_for,
                    lifecycle: slot.lifecycle,
                });
            }
        }
        let admitted = gate::admit(&self.gate_view(&in_flight), candidates, now);
        for name in &admitted {
            self.decide(name, turn);
        }
        admitted.into_iter().collect()
    }

    /// Sets the call of a node that the gate let through. Simulated, it is done in the same turn.
    fn decide(&mut self, name: &NodeName, turn: &mut Turn) {
        let now = self.clock.now;
        let Some(slot) = self.nodes.get_mut(name) else {
            return;
        };
        let Some(call) = outcomes::grant(&self.policy, &mut slot.record, now) else {
            return;
        };
        self.due.remove(name);
        self.flying.insert(name.clone());
        self.changed.insert(name.clone());
        match call.mode {
            Mode::Monitor => {
                let times = (now, now);
                let done = &Outcome::Done;
                outcomes::apply(&self.policy, name, &mut slot.record, &call.attempt, done, times, &mut turn.events);
            }
            Mode::Active => {
                let verdicts = verdicts(&self.checkers, &slot.answers);
                let sight = Sight { node: &slot.node, lifecycle: slot.lifecycle, verdicts: &verdicts };
                let flight = Flight { node: name.clone(), step: call.step, mode: call.mode };
                self.calls.insert(call.attempt.clone(), flight);
                turn.decisions.push(Decision {
                    attempt: call.attempt,
                    step: call.step,
                    node: name.clone(),
                    uid: slot.record.uid.clone(),
                    boot_id: call.boot_id,
                    because: holds::because(&self.policy, &slot.record, sight),
                });
            }
        }
    }

    /// Brings everything that is derived from a record up to date, once a turn: counts, deadlines, writes.
    fn settle(&mut self, granted: &BTreeSet<NodeName>, turn: &mut Turn) {
        for name in std::mem::take(&mut self.changed) {
            if self.nodes.contains_key(&name) {
                self.settle_node(&name, granted.contains(&name), turn);
            } else if let Some(kept) = self.absent.get_mut(&name) {
                let deadline = kept.deadline_after(&self.policy, self.clock.now);
                reindex(&mut self.deadlines, &name, &mut kept.deadline, deadline);
                if let Some(write) = kept.record.write_back(&mut kept.stored, self.clock.now) {
                    turn.writes.push((name, write));
                }
            } else {
                turn.writes.push((name, None));
            }
        }
    }

    fn settle_node(&mut self, name: &NodeName, granted: bool, turn: &mut Turn) {
        let (policy, now) = (&self.policy, self.clock.now);
        let Some(slot) = self.nodes.get_mut(name) else {
            return;
        };
        clocks::advance(&mut slot.record, self.clock.observed);
        slot.had_incident |= slot.record.incident.is_some();
        let shown = slot.record.shown(policy, now);
        count(&mut self.counts, slot.shown, shown);
        slot.shown = shown;
        if slot.evaluated {
            slot.phases.insert(shown);
        }
        if let Some(write) = slot.record.write_back(&mut slot.stored, now) {
            turn.writes.push((name.clone(), write));
        }
        let verdicts = verdicts(&self.checkers, &slot.answers);
        let sight = Sight { node: &slot.node, lifecycle: slot.lifecycle, verdicts: &verdicts };
        let mut deadline = holds::deadline(policy, &slot.record, sight, now);
        let mut earlier = |at: Option<Time>| deadline = deadline.into_iter().chain(at).min();
        earlier(slot.retry_at);
        // Ages that stood still had nothing to store: look again in a tick.
        earlier(slot.ages_stored_at().map(|at| if at > now { at } else { now + policy.tick }));
        // A step without a window leaves the node due at once: the next one is the next turn's.
        earlier(holds::due_for(policy, &slot.record, sight, now).filter(|_| granted).map(|_| now));
        reindex(&mut self.deadlines, name, &mut slot.deadline, deadline);
    }

    /// The nodes with an action in flight (`gate` 1), in order of their names.
    fn in_flight(&self) -> Vec<NodeName> {
        let flies = |name: &&NodeName| {
            let kept = || self.absent.get(*name).map(|kept| &kept.record);
            let record = self.nodes.get(*name).map(|slot| &slot.record).or_else(kept);
            record.is_some_and(|record| is_in_flight(&self.policy, record, self.clock.now))
        };
        self.flying.iter().filter(flies).cloned().collect()
    }

    fn gate_view<'a>(&self, in_flight: &'a [NodeName]) -> gate::View<'a> {
        gate::View {
            mode: self.policy.mode,
            evidence_live: self.live,
            store_writable: self.store_writable,
            nodes: self.nodes.len(),
            concurrent: self.policy.concurrent,
            in_flight,
        }
    }
}

impl Turn {
    fn error(&mut self, reason: ReconcileError, node: Option<&NodeName>, detail: Option<&str>) {
        let (node, detail) = (node.cloned(), detail.map(Arc::from));
        self.events.push(Event::ReconcileError { reason, node, detail });
    }
}

/// True while a call is out or the wait window of an attempt runs. That the node became Healthy ends it too:
/// the fleet strikes it off then, so that a relapse does not bring it back.
fn is_in_flight(policy: &Policy, record: &Record, now: Time) -> bool {
    record.incident.as_ref().is_some_and(|incident| {
        let attempt =
            incident.window.as_ref().is_some_and(|window| matches!(window.after, recovery::After::Attempt(..)));
        incident.call.is_some() || (attempt && incident.window_until(policy, now).is_some())
    })
}

fn count(counts: &mut BTreeMap<Shown, usize>, before: Shown, after: Shown) {
    if before == after {
        return;
    }
    if let Some(count) = counts.get_mut(&before) {
        *count = count.saturating_sub(1);
    }
    *counts.entry(after).or_default() += 1;
}

fn reindex(deadlines: &mut BTreeSet<(Time, NodeName)>, name: &NodeName, held: &mut Option<Time>, wanted: Option<Time>) {
    if *held == wanted {
        return;
    }
    if let Some(at) = held.take() {
        deadlines.remove(&(at, name.clone()));
    }
    deadlines.extend(wanted.map(|at| (at, name.clone())));
    *held = wanted;
}

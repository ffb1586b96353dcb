//! Taking in what happened: nodes, checkers, answers, outcomes. Nothing is judged here; what a node shows is
//! noted, and the node is touched.

use std::sync::Arc;

use crate::decision::{AttemptId, Outcome};
use crate::event::Event;
use crate::fleet::pods::{Due, PodIndex};
use crate::fleet::slot::{Absent, Answer, Served, Slot};
use crate::fleet::{Check, CheckId, Checker, Fleet, Input, Inputs, ReconcileError, Turn};
use crate::node::{Node, NodeName, Uid};
use crate::reasons::Reasons;
use crate::recovery::{Lifecycle, Record, clocks, identity, outcomes};
use crate::verdict::{CheckerKey, UnknownCause, Verdict};

/// How long lists must have been empty until they are believed: an API server that has lost its storage
/// answers like a cluster that is gone (`recovery` 4.7).
pub(super) const EMPTY_LISTS_FOR: std::time::Duration = std::time::Duration::from_secs(5 * 60);

impl Fleet {
    pub(super) fn take_in(&mut self, input: Input, turn: &mut Turn) {
        match input {
            Input::Listed(nodes) => self.listed(nodes, turn),
            Input::Applied(node) => {
                self.empty_since = None;
                self.applied(node, turn);
            }
            Input::Deleted(name) => self.removed(&name, turn),
            Input::Evidence { live } => self.live = live,
            Input::Pods(change) => self.pods.take_in(change, self.clock.now),
            Input::WatchFailed { reason } => turn.error(reason, None, None),
            Input::CheckerServes(checker) => self.checker_serves(checker, turn),
            Input::CheckerStopped(key) => self.checker_stopped(key),
            Input::CheckerRemoved(key) => self.checker_removed(key, turn),
            Input::Judged { check, node, checker, verdict, remember } => {
                self.judged(check, node, checker, verdict, remember);
            }
            Input::Outcome { attempt, outcome } => self.outcome(&attempt, &outcome, turn),
            Input::Tick => {}
            Input::Reset(name) => self.reset(name),
            Input::ManualReboot(name) => self.manual_reboot(name, turn),
            Input::Lifecycle { node, lifecycle } => self.lifecycle(node, lifecycle),
            Input::Store { writable } => {
                self.store_writable = writable;
                if !writable {
                    turn.error(ReconcileError::Store, None, None);
                }
            }
        }
    }

    fn listed(&mut self, nodes: Vec<Arc<Node>>, turn: &mut Turn) {
        let now = self.clock.now;
        if nodes.is_empty() && self.is_anything_expected() {
            let since = *self.empty_since.get_or_insert(now);
            if now.since(since) < EMPTY_LISTS_FOR {
                turn.error(ReconcileError::EmptyList, None, None);
                return;
            }
        }
        self.empty_since = None;
        self.lists = self.lists.wrapping_add(1);
        for node in nodes {
            let name = node.name.clone();
            self.applied(node, turn);
            if let Some(slot) = self.nodes.get_mut(&name) {
                slot.listed = self.lists;
            }
        }
        let unlisted = self.nodes.iter().filter(|(_, slot)| slot.listed != self.lists);
        let gone: Vec<NodeName> = unlisted.map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.removed(&name, turn);
        }
        for (name, kept) in self.absent.iter_mut().filter(|(_, kept)| kept.record.gone_at.is_none()) {
            identity::vanish(&mut kept.record, now);
            self.changed.insert(name.clone());
        }
    }

    /// True if a list without any node would take something away.
    fn is_anything_expected(&self) -> bool {
        !self.nodes.is_empty() || self.absent.values().any(|kept| kept.record.gone_at.is_none())
    }

    fn applied(&mut self, node: Arc<Node>, turn: &mut Turn) {
        let name = node.name.clone();
        match self.nodes.get_mut(&name) {
            None => self.appeared(node, turn),
            Some(slot) if is_another(&slot.record.uid, &node.uid) => {
                self.removed(&name, turn);
                self.appeared(node, turn);
            }
            Some(slot) => {
                if Arc::ptr_eq(&slot.node, &node) || slot.node == node {
                    return;
                }
                slot.node = node;
                self.ask_all_about(&name, turn);
                self.touched.insert(name);
            }
        }
    }

    fn appeared(&mut self, node: Arc<Node>, turn: &mut Turn) {
        let (name, clock) = (node.name.clone(), self.clock);
        let kept = self.absent.remove(&name);
        if let Some(at) = kept.as_ref().and_then(|kept| kept.deadline) {
            self.deadlines.remove(&(at, name.clone()));
        }
        let (record, stored) = match kept {
            Some(Absent { mut record, stored, .. }) => {
                if record.gone_at.is_none() && !is_another(&record.uid, &node.uid) {
                    identity::resume(&mut record, &node, clock);
                } else if identity::is_return(&self.policy, &record, &node, clock.now) {
                    identity::come_back(&mut record, &node, clock);
                } else {
                    record = Record::new(&node, self.policy.mode, clock);
                    self.flying.remove(&name);
                }
                (record, stored)
            }
            None => (Record::new(&node, self.policy.mode, clock), None),
        };
        let slot = Slot::new(node, record, stored, self.checkers.len());
        *self.counts.entry(slot.shown).or_default() += 1;
        self.nodes.insert(name.clone(), Box::new(slot));
        self.changed.insert(name.clone());
        self.ask_all_about(&name, turn);
        self.touched.insert(name);
    }

    fn removed(&mut self, name: &NodeName, turn: &mut Turn) {
        let Some(slot) = self.nodes.remove(name) else {
            return;
        };
        let Slot { mut record, stored, deadline, shown, .. } = *slot;
        if let Some(count) = self.counts.get_mut(&shown) {
            *count = count.saturating_sub(1);
        }
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, name.clone()));
        }
        self.due.remove(name);
        self.touched.remove(name);
        self.changed.remove(name);
        self.checkers.iter_mut().for_each(|served| _ = served.displaced.remove(name));
        turn.events.push(Event::NodeGone { node: name.clone() });
        if record.incident.is_some() && !self.policy.return_window.is_zero() {
            identity::vanish(&mut record, self.clock.now);
            self.absent.insert(name.clone(), Absent { record, stored, deadline: None });
            self.changed.insert(name.clone());
        } else {
            self.flying.remove(name);
            if stored.is_some() {
                self.changed.insert(name.clone());
            }
        }
    }

    fn checker_serves(&mut self, checker: Checker, turn: &mut Turn) {
        let at = match self.index_of(&checker.key) {
            Err(at) => {
                self.add_checker(at, Served::new(checker));
                at
            }
            Ok(at) => {
                let Some(served) = self.checkers.get_mut(at) else {
                    return;
                };
                let same = served.checker.generation == checker.generation;
                if same && served.serves {
                    served.checker = checker;
                    return;
                }
                if !same {
                    served.reasons = Reasons::new(&checker.reasons);
                    // The verdicts of the generation before stand until they are replaced; their reasons must
                    // not take the room of the present ones.
                    for (name, slot) in &mut self.nodes {
                        if let Some(answer) = slot.answers.get_mut(at) {
                            if answer.pending {
                                served.displaced.insert(name.clone(), answer.asked);
                            }
                            let judgement = answer.verdict.as_ref().and_then(Verdict::judgement);
                            answer.label = judgement.map(|j| served.reasons.foreign(&j.reason));
                        }
                    }
                }
                served.checker = checker;
                served.serves = true;
                at
            }
        };
        for (name, slot) in &mut self.nodes {
            if let Some(served) = self.checkers.get(at) {
                ask(served, slot, at, &self.pods, self.ticks, &mut self.last_check, turn);
            }
            if slot.node.malformed.is_some() {
                self.touched.insert(name.clone());
            }
        }
    }

    fn checker_stopped(&mut self, key: CheckerKey) {
        let at = match self.index_of(&key) {
            Ok(at) => at,
            Err(at) => {
                let checker = Checker { key, generation: Arc::from(""), reasons: Vec::new(), inputs: Inputs::Node };
                self.add_checker(at, Served::new(checker));
                at
            }
        };
        let Some(served) = self.checkers.get_mut(at) else {
            return;
        };
        if !std::mem::replace(&mut served.serves, false) {
            return;
        }
        served.displaced.clear();
        let detail = Arc::from("no generation of the checker serves");
        for (name, slot) in &mut self.nodes {
            if slot.node.malformed.is_none() {
                slot.silence(at, UnknownCause::NotRunning, &detail, self.ticks);
            }
            self.touched.insert(name.clone());
        }
    }

    fn checker_removed(&mut self, key: CheckerKey, turn: &mut Turn) {
        let Ok(at) = self.index_of(&key) else {
            return;
        };
        self.checkers.remove(at);
        for (name, slot) in &mut self.nodes {
            if at < slot.answers.len() {
                slot.answers.remove(at);
            }
            self.touched.insert(name.clone());
        }
        turn.events.push(Event::CheckerRemoved { checker: key });
    }

    fn add_checker(&mut self, at: usize, served: Served) {
        self.checkers.insert(at, served);
        for slot in self.nodes.values_mut() {
            slot.answers.insert(at, Answer::started(self.ticks));
        }
    }

    /// Whether the answer to this check is waited for, be it of the generation before. One that is not is late.
    #[must_use]
    pub fn awaits(&self, check: CheckId, node: &NodeName, key: &CheckerKey) -> bool {
        self.index_of(key).is_ok_and(|at| self.awaited(check, node, at).is_some())
    }

    fn awaited(&self, check: CheckId, node: &NodeName, at: usize) -> Option<Awaited> {
        let answer = self.nodes.get(node)?.answers.get(at)?;
        if answer.pending && answer.asked == check {
            return Some(Awaited::Asked);
        }
        (self.checkers.get(at)?.displaced.get(node) == Some(&check)).then_some(Awaited::Displaced)
    }

    fn judged(&mut self, check: CheckId, node: NodeName, key: CheckerKey, verdict: Verdict, remember: bool) {
        let Ok(at) = self.index_of(&key) else {
            return;
        };
        let Some(awaited) = self.awaited(check, &node, at) else {
            return;
        };
        let (Some(slot), Some(served)) = (self.nodes.get_mut(&node), self.checkers.get_mut(at)) else {
            return;
        };
        served.displaced.remove(&node);
        let changed = match awaited {
            Awaited::Asked => {
                let (verdict, label) = intern(&mut served.reasons, verdict);
                if !remember {
                    self.again.insert((node.clone(), key));
                }
                slot.put(at, verdict, label, self.ticks)
            }
            Awaited::Displaced => {
                let label = verdict.judgement().map(|judgement| served.reasons.foreign(&judgement.reason));
                slot.put_meanwhile(at, verdict, label, self.ticks)
            }
        };
        if changed && (slot.evaluated || slot.is_answered()) {
            self.touched.insert(node);
        }
    }

    fn outcome(&mut self, attempt: &AttemptId, outcome: &Outcome, turn: &mut Turn) {
        let Some(flight) = self.calls.remove(attempt) else {
            return;
        };
        let now = self.clock.now;
        let name = &flight.node;
        let kept = self.absent.get_mut(name).map(|kept| &mut kept.record);
        let record = self.nodes.get_mut(name).map(|slot| &mut slot.record).or(kept);
        let times = (now, now);
        let ended = record.is_some_and(|record| {
            outcomes::apply(&self.policy, name, record, attempt, outcome, times, &mut turn.events)
        });
        if !ended {
            turn.events.push(Event::Outcome {
                node: flight.node,
                attempt: attempt.clone(),
                step: flight.step,
                mode: flight.mode,
                outcome: outcome.as_str(),
                detail: outcome.why().to_owned(),
            });
            return;
        }
        match outcome {
            Outcome::Done | Outcome::Unconfirmed { .. } => {}
            Outcome::Failed { .. } | Outcome::Refused { .. } => {
                self.flying.remove(name);
            }
        }
        self.changed.insert(flight.node.clone());
        self.touched.insert(flight.node);
    }

    fn reset(&mut self, name: NodeName) {
        let Some(slot) = self.nodes.get_mut(&name) else {
            return;
        };
        clocks::advance(&mut slot.record, self.clock.observed);
        if identity::reset(&mut slot.record, self.clock.now) {
            self.flying.remove(&name);
            self.due.remove(&name);
            self.changed.insert(name.clone());
            self.touched.insert(name);
        }
    }

    fn manual_reboot(&mut self, name: NodeName, turn: &mut Turn) {
        let Some(slot) = self.nodes.get_mut(&name) else {
            return;
        };
        clocks::advance(&mut slot.record, self.clock.observed);
        let gpu = slot.node.is_gpu();
        let (record, now) = (&mut slot.record, self.clock.now);
        outcomes::manual_reboot(&self.policy, &name, record, gpu, now, &mut turn.events);
        self.changed.insert(name.clone());
        self.touched.insert(name);
    }

    fn lifecycle(&mut self, name: NodeName, lifecycle: Lifecycle) {
        let Some(slot) = self.nodes.get_mut(&name) else {
            return;
        };
        // A grace stays news until an evaluation has heard it.
        let new_grace = lifecycle.new_grace || slot.lifecycle.new_grace;
        slot.lifecycle = Lifecycle { new_grace, ..lifecycle };
        self.touched.insert(name);
    }

    /// Asks whoever reads pods about the nodes on which they changed, whatever was not to be remembered, and every
    /// impure checker about every node. A check that is still out is not repeated: a slow checker would never be
    /// heard.
    pub(super) fn ask_at_tick(&mut self, turn: &mut Turn) {
        self.ask_about_pods(turn);
        for (name, key) in std::mem::take(&mut self.again) {
            let Ok(at) = self.index_of(&key) else {
                continue;
            };
            if let (Some(slot), Some(served)) = (self.nodes.get_mut(&name), self.checkers.get(at)) {
                ask_if_idle(served, slot, at, &self.pods, self.ticks, &mut self.last_check, turn);
            }
        }
        for (at, served) in self.checkers.iter().enumerate() {
            if served.checker.inputs.is_pure() || !served.serves {
                continue;
            }
            for slot in self.nodes.values_mut() {
                ask_if_idle(served, slot, at, &self.pods, self.ticks, &mut self.last_check, turn);
            }
        }
    }

    fn ask_about_pods(&mut self, turn: &mut Turn) {
        let names = match self.pods.take_due() {
            Due::All => self.nodes.keys().cloned().collect(),
            Due::Some(names) => names,
        };
        for (at, served) in self.checkers.iter().enumerate() {
            if served.checker.inputs != Inputs::NodeAndPods || !served.serves {
                continue;
            }
            for name in &names {
                let Some(slot) = self.nodes.get_mut(name) else {
                    continue;
                };
                if slot.is_pending(at) {
                    // What is out was asked with the pods of before.
                    self.pods.still_due(name);
                } else {
                    ask(served, slot, at, &self.pods, self.ticks, &mut self.last_check, turn);
                }
            }
        }
    }

    /// A node that is new or shows something else: everybody is asked.
    fn ask_all_about(&mut self, name: &NodeName, turn: &mut Turn) {
        let Some(slot) = self.nodes.get_mut(name) else {
            return;
        };
        if let Some(why) = &slot.node.malformed {
            turn.error(ReconcileError::Decode, Some(name), Some(why));
        }
        for (at, served) in self.checkers.iter_mut().enumerate() {
            // Whoever is still being asked what it showed before is late.
            served.displaced.remove(name);
            ask(served, slot, at, &self.pods, self.ticks, &mut self.last_check, turn);
        }
        self.pods.is_told(name);
    }

    /// Where the checker stands, or would stand.
    fn index_of(&self, key: &CheckerKey) -> Result<usize, usize> {
        self.checkers.binary_search_by(|served| served.checker.key.cmp(key))
    }
}

/// Why an answer is waited for.
enum Awaited {
    /// It was asked last.
    Asked,
    /// The generation before was asked it, and nobody else has judged the node yet.
    Displaced,
}

/// Asks one checker about one node, or answers for it where it cannot be asked.
fn ask(served: &Served, slot: &mut Slot, at: usize, pods: &PodIndex, ticks: u32, last: &mut CheckId, turn: &mut Turn) {
    if let Some(why) = &slot.node.malformed {
        let detail = Arc::from(&**why);
        slot.silence(at, UnknownCause::MalformedNode, &detail, ticks);
        return;
    }
    if !served.serves {
        let detail = Arc::from("no generation of the checker serves");
        slot.silence(at, UnknownCause::NotRunning, &detail, ticks);
        return;
    }
    let Some(answer) = slot.answers.get_mut(at) else {
        return;
    };
    *last += 1;
    answer.asked = *last;
    answer.pending = true;
    let Checker { key, inputs, .. } = &served.checker;
    let pods = inputs.has_pods().then(|| pods.of(&slot.node.name)).flatten();
    turn.checks.push(Check { id: *last, node: slot.node.clone(), pods, checker: key.clone() });
}

fn ask_if_idle(
    served: &Served,
    slot: &mut Slot,
    at: usize,
    pods: &PodIndex,
    ticks: u32,
    last: &mut CheckId,
    turn: &mut Turn,
) {
    if !slot.is_pending(at) {
        ask(served, slot, at, pods, ticks, last, turn);
    }
}

/// The verdict with its reason shared between nodes, and the reason's label value.
fn intern(reasons: &mut Reasons, verdict: Verdict) -> (Verdict, Option<Arc<str>>) {
    match verdict {
        Verdict::Pass(mut judgement) => {
            let (reason, label) = reasons.intern(&judgement.reason);
            judgement.reason = reason;
            (Verdict::Pass(judgement), Some(label))
        }
        Verdict::Fail(mut judgement) => {
            let (reason, label) = reasons.intern(&judgement.reason);
            judgement.reason = reason;
            (Verdict::Fail(judgement), Some(label))
        }
        Verdict::Unknown(unknown) => (Verdict::Unknown(unknown), None),
    }
}

/// True for a uid of another Node object; one that could not be read is nobody's.
fn is_another(known: &Uid, shown: &Uid) -> bool {
    !known.is_empty() && !shown.is_empty() && known != shown
}

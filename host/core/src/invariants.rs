//! What must hold whatever happens (`recovery` section 8), checked from outside, turn by turn. Used by tests
//! and by the simulation: a broken one is a line that says which and where.

use std::collections::{BTreeMap, BTreeSet};

use crate::decision::{Mode, Outcome, Step};
use crate::event::Event;
use crate::fleet::{Fleet, Input, Turn};
use crate::node::NodeName;
use crate::reasons::MAX_ADMITTED;
use crate::recovery::{Colour, Lifecycle, Phase, Record, Shown};
use crate::report::Report;
use crate::time::Time;

/// Watches one fleet over its turns. A restart needs a new one.
#[derive(Debug, Default)]
pub struct Watchdog {
    /// What each node showed before the turn.
    before: BTreeMap<NodeName, Glimpse>,
    /// The calls that are out.
    out: BTreeSet<String>,
    /// Outcomes handed in with this turn.
    ended: BTreeSet<String>,
    /// Every attempt id that was decided and then reached an executor.
    called: BTreeSet<String>,
    /// The lifecycles as last handed in.
    lifecycles: BTreeMap<NodeName, Lifecycle>,
    deadline: Option<Time>,
    quiet: bool,
    resets: BTreeSet<NodeName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Glimpse {
    phase: Phase,
    counts: Option<(String, u32, u32)>,
    window_until: Option<Time>,
}

impl Watchdog {
    /// To be called before a turn, with its inputs.
    pub fn before(&mut self, fleet: &Fleet, inputs: &[Input], now: Time) {
        let nodes =
            fleet.nodes().filter_map(|view| Some((view.name.clone(), glimpse(fleet, view.name.as_str(), now)?)));
        self.before = nodes.collect();
        self.deadline = fleet.next_deadline();
        self.quiet = inputs.iter().all(|input| matches!(input, Input::Tick));
        self.ended.clear();
        self.resets.clear();
        for input in inputs {
            match input {
                Input::Outcome { attempt, outcome } => {
                    self.ended.insert(attempt.to_string());
                    if !matches!(outcome, Outcome::Refused { by: crate::decision::Refuser::LastLook, .. }) {
                        self.called.insert(attempt.to_string());
                    }
                }
                Input::Lifecycle { node, lifecycle } => {
                    self.lifecycles.insert(node.clone(), *lifecycle);
                }
                Input::Reset(node) => {
                    self.resets.insert(node.clone());
                }
                Input::Listed(_)
                | Input::Applied(_)
                | Input::Deleted(_)
                | Input::Evidence { .. }
                | Input::WatchFailed { .. }
                | Input::CheckerServes(_)
                | Input::CheckerStopped(_)
                | Input::CheckerRemoved(_)
                | Input::Judged { .. }
                | Input::Tick
                | Input::ManualReboot(_)
                | Input::Pods(_)
                | Input::Store { .. } => {}
            }
        }
    }

    /// To be called after the turn, with its answer. Returns what is broken.
    pub fn after(&mut self, fleet: &Fleet, turn: &Turn, now: Time) -> Vec<String> {
        let mut broken = Vec::new();
        for attempt in &self.ended {
            self.out.remove(attempt);
        }
        self.budgets(fleet, turn, &mut broken);
        self.grants(fleet, turn, now, &mut broken);
        self.deadlines(fleet, turn, now, &mut broken);
        open_nodes(fleet, turn, now, &mut broken);
        series(fleet, &mut broken);
        derived(fleet, &mut broken);
        if !turn.decisions.is_empty() {
            let (in_flight, limit) = fleet.concurrent();
            if limit.is_some_and(|limit| in_flight > limit) {
                broken.push(format!("gate: {in_flight} in flight of {limit:?}"));
            }
        }
        broken
    }

    /// 1: at most as many attempts and failed calls as the policy allows; neither falls but for a reason.
    fn budgets(&self, fleet: &Fleet, turn: &Turn, broken: &mut Vec<String>) {
        let policy = fleet.policy();
        let forgiven: BTreeSet<&NodeName> = turn
            .events
            .iter()
            .filter_map(|event| if let Event::Forgiven { node, .. } = event { Some(node) } else { None })
            .collect();
        for view in fleet.nodes() {
            let (attempts, calls) = (view.attempts.unwrap_or(0), view.failed_calls.unwrap_or(0));
            if policy.ladder.is_empty() && attempts > policy.max_reboots {
                broken.push(format!("1: {} has {attempts} attempts of {}", view.name, policy.max_reboots));
            }
            if calls > policy.max_failed_calls {
                broken.push(format!("1: {} has {calls} failed calls of {}", view.name, policy.max_failed_calls));
            }
            let counts = fleet.record(view.name.as_str()).and_then(counts);
            let before = self.before.get(view.name).and_then(|glimpse| glimpse.counts.clone());
            let excused = forgiven.contains(view.name)
                || self.resets.contains(view.name)
                || turn.events.iter().any(|event| matches!(event, Event::NodeGone { node } if node == view.name));
            if let (Some((id, attempts_before, calls_before)), false) = (before, excused) {
                let kept = counts
                    .as_ref()
                    .is_some_and(|(now_id, a, c)| *now_id == id && *a >= attempts_before && *c >= calls_before);
                let switched = fleet.policy().mode == Mode::Active && attempts_before > 0;
                if !kept && !switched {
                    broken.push(format!("1: {} lost counts of {id}: {counts:?}", view.name));
                }
            }
        }
    }

    /// 2, 3, 12: what a grant needs.
    fn grants(&mut self, fleet: &Fleet, turn: &Turn, now: Time, broken: &mut Vec<String>) {
        for decision in &turn.decisions {
            let (name, id) = (&decision.node, decision.attempt.to_string());
            let mut complain = |what: &str| broken.push(format!("{what}: {name} {id}"));
            if self.called.contains(&id) || !self.out.insert(id.clone()) {
                complain("12: called twice");
            }
            if self.before.get(name).and_then(|glimpse| glimpse.window_until).is_some_and(|until| now < until) {
                complain("2: called inside a window");
            }
            let Some(record) = fleet.record(name.as_str()) else {
                complain("3: unknown node");
                continue;
            };
            let call = record.incident.as_ref().and_then(|incident| incident.call.as_ref());
            if call.is_none_or(|call| call.attempt != decision.attempt) {
                complain("12: the record has no such call");
            }
            if record.colour != Colour::Red {
                complain("3: not red");
            }
            if self.lifecycles.get(name).is_some_and(|lifecycle| lifecycle.starting) {
                complain("3: starting");
            }
            if fleet.node(name.as_str()).is_none_or(|view| view.node.is_excluded()) {
                complain("3: excluded");
            }
            if decision.because.is_empty() {
                complain("3: no checker is due");
            }
            let stored = turn.writes.iter().any(|(node, record)| {
                let call = record.as_ref().and_then(|record| record.incident.as_ref()?.call.as_ref());
                node == name && call.is_some_and(|call| call.attempt == decision.attempt)
            });
            if !stored {
                complain("12: the intent is not among the writes");
            }
        }
    }

    /// 8: before the deadline, without input, nothing moves.
    fn deadlines(&self, fleet: &Fleet, turn: &Turn, now: Time, broken: &mut Vec<String>) {
        if !self.quiet || self.deadline.is_some_and(|at| now >= at) {
            return;
        }
        if !turn.decisions.is_empty() {
            broken.push(format!("8: a grant before the deadline {:?}", self.deadline));
        }
        for (name, before) in &self.before {
            if fleet.record(name.as_str()).is_some_and(|record| record.phase != before.phase) {
                broken.push(format!("8: {name} moved before the deadline {:?}", self.deadline));
            }
        }
    }
}

/// 7: an open node has a hold or a decision.
fn open_nodes(fleet: &Fleet, turn: &Turn, now: Time, broken: &mut Vec<String>) {
    let open = fleet.nodes().filter(|view| view.evaluated && !matches!(view.phase, Shown::Unknown | Shown::Healthy));
    for view in open {
        let report: Option<Report> = fleet.report(view.name.as_str(), now);
        let held = report.is_some_and(|report| !report.holds.is_empty());
        let decided = turn.decisions.iter().any(|decision| decision.node == *view.name)
            || turn.events.iter().any(|event| matches!(event, Event::Attempt { node, .. } if node == view.name));
        // A step without a window of its own leaves the node due for the next turn.
        let again = fleet.next_deadline().is_some_and(|at| at <= now);
        if !held && !decided && !again {
            broken.push(format!("7: {} is open without a hold", view.name));
        }
    }
}

/// 11: never more than 17 reasons per checker, and no checker without a place.
fn series(fleet: &Fleet, broken: &mut Vec<String>) {
    let mut reasons: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for view in fleet.nodes() {
        for checker in view.checkers() {
            reasons.entry(checker.key.as_str()).or_default().extend(checker.reason.map(|reason| &**reason));
        }
    }
    for (checker, reasons) in reasons {
        if reasons.len() > MAX_ADMITTED + 1 {
            broken.push(format!("11: {checker} has {} reasons", reasons.len()));
        }
    }
}

/// The counts that are kept up incrementally agree with what they count.
fn derived(fleet: &Fleet, broken: &mut Vec<String>) {
    let mut counts: BTreeMap<Shown, usize> = BTreeMap::new();
    for view in fleet.nodes() {
        *counts.entry(view.phase).or_default() += 1;
    }
    for (phase, count) in fleet.phase_counts() {
        let counted = counts.get(&phase).copied().unwrap_or(0);
        if counted != count {
            broken.push(format!("{counted} nodes are {}, but {count} are counted", phase.as_str()));
        }
    }
}

fn glimpse(fleet: &Fleet, name: &str, now: Time) -> Option<Glimpse> {
    let record = fleet.record(name)?;
    let wait = record.incident.as_ref().and_then(|incident| incident.wait_window_until(fleet.policy(), now));
    Some(Glimpse { phase: record.phase, counts: counts(record), window_until: wait })
}

fn counts(record: &Record) -> Option<(String, u32, u32)> {
    let incident = record.incident.as_ref()?;
    let reboots = incident.attempts_of(Step::Reboot);
    Some((record.incident_id()?, reboots, incident.failed_calls))
}

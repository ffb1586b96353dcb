//! What others may know of the fleet: counts, a cheap view per node, and the report of one.

use std::sync::Arc;
use std::time::Duration;

use crate::decision::Mode;
use crate::fleet::Fleet;
use crate::fleet::slot::{Served, Slot, verdicts};
use crate::gate;
use crate::node::{Node, NodeName};
use crate::recovery::{After, Clock, Colour, Phase, Record, Said, Shown, Sight, clocks, holds, ladder};
use crate::report::{CheckerReport, IncidentReport, Report, WindowReport};
use crate::time::Time;
use crate::verdict::{CheckerKey, Verdict};

/// A set of shown phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Phases(u8);

impl Phases {
    pub(super) fn insert(&mut self, phase: Shown) {
        self.0 |= 1 << (phase as u8);
    }

    /// True if it is in the set.
    #[must_use]
    pub fn contains(self, phase: Shown) -> bool {
        self.0 & (1 << (phase as u8)) != 0
    }

    /// The phases in the set.
    pub fn iter(self) -> impl Iterator<Item = Shown> {
        Shown::ALL.into_iter().filter(move |phase| self.contains(*phase))
    }
}

/// One node, for metrics and lists. Reading it copies nothing.
#[derive(Debug, Clone, Copy)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// Its snapshot.
    pub node: &'a Arc<Node>,
    /// False until its first evaluation ended: until then it has no series.
    pub evaluated: bool,
    /// Its phase, as shown.
    pub phase: Shown,
    /// Since when.
    pub since: Time,
    /// Every phase in which an evaluation of it ended.
    pub phases: Phases,
    /// Whether its steps are carried out or simulated.
    pub mode: Mode,
    /// Attempts of its incident; none without one.
    pub attempts: Option<u32>,
    /// Failed calls of its incident; none without one.
    pub failed_calls: Option<u32>,
    /// For how long it has been red, zero while it is not open; none before its first incident.
    pub red_for: Option<Duration>,
    checkers: &'a [Served],
    slot: &'a Slot,
    ticks: u32,
    observed: Duration,
}

/// One checker's part in a node.
#[derive(Debug, Clone, Copy)]
pub struct CheckerView<'a> {
    /// Who.
    pub key: &'a CheckerKey,
    /// The present verdict; none before the first answer.
    pub verdict: Option<&'a Verdict>,
    /// The reason of a definite verdict as an admitted label value.
    pub reason: Option<&'a Arc<str>>,
    /// How long it has failed, while it is remembered as failing.
    pub failing_age: Option<Duration>,
    /// How often it was counted as `pass`.
    pub passes: u32,
    /// How often it was counted as `fail`.
    pub fails: u32,
    /// How often it was counted as `unknown`.
    pub unknowns: u32,
}

impl<'a> NodeView<'a> {
    /// Its checkers, in order of their keys.
    pub fn checkers(&self) -> impl Iterator<Item = CheckerView<'a>> + use<'a> {
        let (record, ticks, observed) = (&self.slot.record, self.ticks, self.observed);
        let lag = observed.saturating_sub(record.seen);
        self.checkers.iter().zip(&self.slot.answers).map(move |(served, answer)| {
            let key = &served.checker.key;
            let [passes, fails, unknowns] = answer.counts(ticks);
            let entry = record.checkers.get(key);
            let failing_age = entry.and_then(|entry| match entry.said {
                Some(Said::Fail { age }) => {
                    let runs = record.colour == Colour::Red && entry.unknown_for.is_none();
                    Some(age + if runs { lag } else { Duration::ZERO })
                }
                Some(Said::Pass) | None => None,
            });
            let (verdict, reason) = (answer.verdict.as_ref(), answer.label.as_ref());
            CheckerView { key, verdict, reason, failing_age, passes, fails, unknowns }
        })
    }
}

impl Fleet {
    /// How many nodes are tracked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True if no node is tracked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The number of nodes in every phase; those not evaluated yet are `Unknown`.
    pub fn phase_counts(&self) -> impl Iterator<Item = (Shown, usize)> {
        Shown::ALL.into_iter().map(|phase| (phase, self.counts.get(&phase).copied().unwrap_or(0)))
    }

    /// All nodes, in order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.nodes.iter().map(|(name, slot)| self.view(name, slot))
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<NodeView<'_>> {
        let (name, slot) = self.nodes.get_key_value(name)?;
        Some(self.view(name, slot))
    }

    /// The record of a node, also of one that is gone: what protects it.
    #[must_use]
    pub fn record(&self, name: &str) -> Option<&Record> {
        let kept = || self.absent.get(name).map(|kept| &kept.record);
        self.nodes.get(name).map(|slot| &slot.record).or_else(kept)
    }

    /// How many actions are in flight, and how many may be; none: no limit.
    #[must_use]
    pub fn concurrent(&self) -> (usize, Option<usize>) {
        (self.in_flight().len(), gate::limit(self.policy.concurrent, self.nodes.len()))
    }

    /// Everything there is to say about a node at `now`; none if it is not tracked.
    #[must_use]
    pub fn report(&self, name: &str, now: Time) -> Option<Report> {
        let (name, slot) = self.nodes.get_key_value(name)?;
        let clock = self.clock_at(now);
        let mut record = slot.record.clone();
        clocks::advance(&mut record, clock.observed);
        let verdicts = verdicts(&self.checkers, &slot.answers);
        let sight = Sight { node: &slot.node, lifecycle: slot.lifecycle, verdicts: &verdicts };
        let mut holds = holds::holds(&self.policy, &record, sight, clock.now);
        if record.is_open() {
            let in_flight = self.in_flight();
            let view = self.gate_view(&in_flight);
            holds.extend(gate::holds(&view, name, slot.lifecycle, clock.now));
        }
        gate::rank(&mut holds);
        let next_step = record
            .incident
            .as_ref()
            .filter(|_| record.is_open() && !matches!(record.phase, Phase::Failed(_)))
            .and_then(|incident| ladder::next_step(&self.policy, &incident.steps));
        let earliest = if record.is_open() { holds.first().map_or(Some(clock.now), |hold| hold.until) } else { None };
        Some(Report {
            node: name.clone(),
            phase: record.shown(&self.policy, clock.now),
            since: record.since,
            evaluated: slot.evaluated,
            mode: self.policy.mode,
            uid: record.uid.clone(),
            boot_id: record.boot_id.clone(),
            incident: self.incident_report(&record),
            checkers: self.checker_reports(slot, &record, clock),
            next_step,
            holds,
            earliest,
            window: self.window_report(&record, clock.now),
        })
    }

    fn view<'a>(&'a self, name: &'a NodeName, slot: &'a Slot) -> NodeView<'a> {
        let record = &slot.record;
        let incident = record.incident.as_ref();
        let lag = self.clock.observed.saturating_sub(record.seen);
        let red_for = match incident.filter(|_| record.is_open()) {
            Some(incident) if record.colour == Colour::Red => incident.red_for + lag,
            Some(incident) => incident.red_for,
            None => Duration::ZERO,
        };
        NodeView {
            name,
            node: &slot.node,
            evaluated: slot.evaluated,
            phase: slot.shown,
            since: record.since,
            phases: slot.phases,
            mode: self.policy.mode,
            attempts: incident.map(|incident| incident.attempts()),
            failed_calls: incident.map(|incident| incident.failed_calls),
            red_for: slot.had_incident.then_some(red_for),
            checkers: &self.checkers,
            slot,
            ticks: self.ticks,
            observed: self.clock.observed,
        }
    }

    fn incident_report(&self, record: &Record) -> Option<IncidentReport> {
        let incident = record.incident.as_ref()?;
        let attempts = incident.steps.iter().map(|(step, tally)| (*step, tally.attempts()));
        Some(IncidentReport {
            id: record.incident_id().unwrap_or_default(),
            opened: incident.opened,
            open: record.is_open(),
            gpu: incident.gpu,
            attempts: attempts.filter(|(_, attempts)| *attempts > 0).collect(),
            failed_calls: incident.failed_calls,
            manual_reboots: incident.manual_reboots,
            red_for: incident.red_for,
        })
    }

    fn checker_reports(&self, slot: &Slot, record: &Record, clock: Clock) -> Vec<CheckerReport> {
        let pairs = self.checkers.iter().zip(&slot.answers);
        let report = |(served, answer): (&Served, &super::slot::Answer)| {
            let key = &served.checker.key;
            let entry = record.checkers.get(key).copied().unwrap_or_default();
            let age = match entry.said {
                Some(Said::Fail { age }) => Some(age),
                Some(Said::Pass) | None => None,
            };
            let verdict = answer.verdict.as_ref();
            let threshold = verdict.and_then(|v| holds::threshold(&self.policy, key, v));
            let (reason, detail) = grounds(verdict);
            // Not the shared timer's moment: that belongs to the node, and is in its holds.
            let due_at = match (entry.failing(), threshold) {
                (Some(age), Some(threshold)) if record.colour == Colour::Red => {
                    Some(clock.now + threshold.saturating_sub(age) - age.saturating_sub(threshold))
                }
                _ => None,
            };
            CheckerReport {
                checker: key.shown().to_owned(),
                key: key.clone(),
                verdict: verdict.map(Verdict::result),
                reason,
                detail,
                left: clocks::has_left(entry, self.policy.unknown_limit),
                age,
                threshold,
                due_at,
            }
        };
        pairs.map(report).collect()
    }

    fn window_report(&self, record: &Record, now: Time) -> Option<WindowReport> {
        let incident = record.incident.as_ref()?;
        let until = incident.window_until(&self.policy, now)?;
        let window = incident.window.as_ref()?;
        let (after, step) = match window.after {
            After::Attempt(step, _) => ("attempt", Some(step)),
            After::Manual => ("manual", None),
            After::Backoff => ("backoff", None),
        };
        Some(WindowReport { after, step, from: window.from, until })
    }
}

fn grounds(verdict: Option<&Verdict>) -> (Arc<str>, Arc<str>) {
    match verdict {
        Some(Verdict::Pass(judgement) | Verdict::Fail(judgement)) => (judgement.reason.clone(), Arc::from("")),
        Some(Verdict::Unknown(unknown)) => (Arc::from(unknown.cause.as_str()), unknown.detail.clone()),
        None => (Arc::from(""), Arc::from("")),
    }
}

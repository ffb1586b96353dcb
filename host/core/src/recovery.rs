//! Recovery: one phase per node, from verdicts, and the question for the next step (`recovery`).
//! Knows one node at a time; who may be acted on, and when, is the gate's.
//!
//! An evaluation is one call of [`evaluate`]: its steps stand there in the order of `recovery` 4.1, each a
//! function in a file of its own.

pub mod clocks;
pub mod holds;
pub mod identity;
pub mod ladder;
pub mod outcomes;
pub mod phases;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::decision::{AttemptId, Mode, Step};
use crate::event::Event;
use crate::node::{BootId, Node, NodeName, Uid};
use crate::policy::Policy;
use crate::time::{Time, duration_ms};
use crate::verdict::{CheckerKey, Verdict};

/// What is remembered of a node. Stored while it has an incident; fields without a stored form say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The Node object it stands for.
    pub uid: Uid,
    /// The last boot id that was not empty.
    pub boot_id: BootId,
    /// The machine: by it a node that comes back is known again.
    pub system_uuid: Arc<str>,
    /// Since when there is no such node; it has no series and is not evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_at: Option<Time>,
    /// The phase.
    pub phase: Phase,
    /// Since when.
    pub since: Time,
    /// The mode at the last evaluation.
    pub mode: Mode,
    /// The colour at the last evaluation. Not stored: nothing grows over a restart.
    #[serde(skip)]
    pub colour: Colour,
    /// The observed time at the last evaluation. Not stored.
    #[serde(skip)]
    pub seen: Duration,
    /// True once the present wait for a threshold is in the log. Not stored.
    #[serde(skip)]
    pub wait_logged: bool,
    /// What each checker's entry says; only failing ones are stored.
    #[serde(default)]
    pub checkers: Entries,
    /// What is remembered of its sickness. In phase `Unknown` or `Healthy` it is kept, else open.
    #[serde(default)]
    pub incident: Option<Box<Incident>>,
}

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Nothing is known.
    #[default]
    Unknown,
    /// All that is known is good.
    Healthy,
    /// A checker fails.
    Unhealthy,
    /// A reboot was issued and may still take effect.
    WaitingReboot,
    /// Given up.
    Failed(Cause),
}

/// Which budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The ladder has no step left.
    Attempts,
    /// Too many calls failed.
    Calls,
}

/// A phase as it is shown: a step under way that takes long has a name of its own (`recovery` 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Shown {
    /// Nothing is known.
    Unknown,
    /// All that is known is good.
    Healthy,
    /// A checker fails.
    Unhealthy,
    /// A reboot was issued and may still take effect.
    WaitingReboot,
    /// Its pods are being moved away.
    Draining,
    /// It is being exchanged.
    Replacing,
    /// Given up.
    Failed,
}

/// What all participating checkers say together (`recovery` 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Colour {
    /// Nobody says anything.
    #[default]
    Blank,
    /// A checker fails, and failures count.
    Red,
    /// Neither sick nor well.
    Grey,
    /// All pass.
    Green,
}

/// What is remembered of one checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Entry {
    /// Its last definite answer.
    pub said: Option<Said>,
    /// For how long it has been unknown; none while it answers. Not stored.
    #[serde(skip)]
    pub unknown_for: Option<Duration>,
}

/// A definite answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Said {
    /// The node is well. Not stored.
    Pass,
    /// The node is sick.
    Fail {
        /// For how much observed time.
        #[serde(rename = "ageMs", with = "duration_ms")]
        age: Duration,
    },
}

/// The entries of a node, sorted by key. A sorted list, not a map: four entries take a third of the memory,
/// and there are 100 000 nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entries(Vec<(CheckerKey, Entry)>);

/// What is remembered of a node's sickness until it is forgiven (`recovery` 4.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// When it opened.
    pub opened: Time,
    /// A GPU node at any evaluation: a vanishing label never shortens a window.
    pub gpu: bool,
    /// For how much observed time the node has been red.
    #[serde(rename = "redForMs", with = "duration_ms")]
    pub red_for: Duration,
    /// For how much observed time it has been green. Not stored.
    #[serde(skip)]
    pub stable_for: Duration,
    /// Attempts by step.
    #[serde(default)]
    pub steps: BTreeMap<Step, Tally>,
    /// Calls that certainly had no effect.
    pub failed_calls: u32,
    /// Reboots that a person ordered.
    pub manual_reboots: u32,
    /// Granted, not yet answered: the intent.
    #[serde(default)]
    pub call: Option<Call>,
    /// The time after the last outcome.
    #[serde(default)]
    pub window: Option<Window>,
}

/// The attempts of one step, by mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Carried out.
    pub active: u32,
    /// Simulated.
    pub monitor: u32,
    /// The executor refused it: it is passed over while the ladder has another step.
    pub refused: bool,
}

/// A call that is out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Its identity.
    pub attempt: AttemptId,
    /// Which step.
    pub step: Step,
    /// For real, or simulated.
    pub mode: Mode,
    /// The node's boot id at the grant.
    pub boot_id: BootId,
    /// When it was granted.
    pub at: Time,
}

/// The time after a call in which no other is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Its begin.
    pub from: Time,
    /// Its length; none is the class's wait, looked up when needed.
    #[serde(default, rename = "lengthMs", with = "duration_ms::option")]
    pub length: Option<Duration>,
    /// After what.
    pub after: After,
    /// The boot id that must change, while that is not decided.
    #[serde(default)]
    pub verify: Option<BootId>,
}

/// What a window follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum After {
    /// An attempt.
    Attempt(Step, Mode),
    /// A reboot that a person ordered.
    Manual,
    /// A call without effect.
    Backoff,
}

/// The two facts of the lifecycle that recovery reads, and the hold that the gate reads (`lifecycle` 4.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifecycle {
    /// The node still starts: its failing verdicts do not count.
    pub starting: bool,
    /// An epoch with a grace opens in this turn.
    pub new_grace: bool,
    /// It is judged, but not acted on before.
    pub hold_until: Option<Time>,
}

/// What a node shows at an evaluation.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// Its snapshot.
    pub node: &'a Node,
    /// Its lifecycle.
    pub lifecycle: Lifecycle,
    /// The verdicts in force, one per enabled checker that has answered, sorted by key.
    pub verdicts: &'a [(&'a CheckerKey, &'a Verdict)],
}

/// The two times of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// The moment.
    pub now: Time,
    /// The observed time: it stands still while evidence is not live.
    pub observed: Duration,
}

/// Judges one node anew (`recovery` 4.1).
pub fn evaluate(policy: &Policy, record: &mut Record, sight: Sight<'_>, clock: Clock, events: &mut Vec<Event>) {
    clocks::advance(record, clock.observed);
    identity::recognise(policy, record, sight, clock.now, events);
    phases::latch_gpu(record, sight.node);
    clocks::hear(policy, record, sight, events);
    clocks::paint(policy, record, sight.lifecycle);
    phases::step(policy, record, sight, clock.now, events);
    phases::give_up(policy, record, sight, clock.now, events);
    holds::log_wait(policy, record, sight, events);
}

impl Record {
    /// A node that is seen for the first time.
    #[must_use]
    pub fn new(node: &Node, mode: Mode, clock: Clock) -> Self {
        Self {
            uid: node.uid.clone(),
            boot_id: node.boot_id.clone(),
            system_uuid: node.system_uuid.clone(),
            gone_at: None,
            phase: Phase::Unknown,
            since: clock.now,
            mode,
            colour: Colour::Blank,
            seen: clock.observed,
            wait_logged: false,
            checkers: Entries::default(),
            incident: None,
        }
    }

    /// The phase as it is shown.
    #[must_use]
    pub fn shown(&self, policy: &Policy, now: Time) -> Shown {
        match self.phase {
            Phase::Unknown => Shown::Unknown,
            Phase::Healthy => Shown::Healthy,
            Phase::Failed(_) => Shown::Failed,
            Phase::Unhealthy | Phase::WaitingReboot => match self.under_way(policy, now) {
                Some(Step::Drain) => Shown::Draining,
                Some(Step::Replace) => Shown::Replacing,
                _ if self.phase == Phase::WaitingReboot => Shown::WaitingReboot,
                _ => Shown::Unhealthy,
            },
        }
    }

    /// True in the phases in which an incident is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase.is_open()
    }

    /// The incident's id, if there is an incident: `<uid>/<opened, Unix ms>`.
    #[must_use]
    pub fn incident_id(&self) -> Option<String> {
        self.incident.as_ref().map(|incident| format!("{}/{}", self.uid, incident.opened.unix_ms()))
    }

    /// The checkers that fail at present, in order of their keys.
    pub fn failing(&self) -> impl Iterator<Item = (&CheckerKey, Duration)> {
        self.checkers.iter().filter_map(|(key, entry)| Some((key, entry.failing()?)))
    }

    /// The keys of the checkers that fail at present.
    #[must_use]
    pub fn failing_keys(&self) -> Vec<CheckerKey> {
        self.failing().map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn enter(&mut self, phase: Phase, now: Time) {
        if self.phase != phase {
            self.phase = phase;
            self.since = now;
        }
    }

    /// Ages and `red_for` begin anew; the colour's past is forgotten.
    pub(crate) fn restart_clocks(&mut self) {
        for (_, entry) in self.checkers.iter_mut() {
            if let Some(Said::Fail { age }) = &mut entry.said {
                *age = Duration::ZERO;
            }
        }
        if let Some(incident) = &mut self.incident {
            incident.red_for = Duration::ZERO;
        }
    }

    /// The step whose call is out, or whose wait window runs.
    fn under_way(&self, policy: &Policy, now: Time) -> Option<Step> {
        let incident = self.incident.as_ref()?;
        if let Some(call) = &incident.call {
            return Some(call.step);
        }
        incident.window_until(policy, now)?;
        match incident.window.as_ref()?.after {
            After::Attempt(step, _) => Some(step),
            After::Manual | After::Backoff => None,
        }
    }
}

impl Phase {
    /// True where an incident is open.
    #[must_use]
    pub fn is_open(self) -> bool {
        match self {
            Self::Unknown | Self::Healthy => false,
            Self::Unhealthy | Self::WaitingReboot | Self::Failed(_) => true,
        }
    }

    /// The stored word.
    fn as_stored(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::WaitingReboot => "WaitingReboot",
            Self::Failed(Cause::Attempts) => "Failed/attempts",
            Self::Failed(Cause::Calls) => "Failed/calls",
        }
    }
}

impl Serialize for Phase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_stored())
    }
}

impl<'de> Deserialize<'de> for Phase {
    /// A word that another version wrote reads as `Unknown`: the node is judged afresh, its counts stay.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let all = [
            Self::Healthy,
            Self::Unhealthy,
            Self::WaitingReboot,
            Self::Failed(Cause::Attempts),
            Self::Failed(Cause::Calls),
        ];
        Ok(all.into_iter().find(|phase| phase.as_stored() == word).unwrap_or_default())
    }
}

impl Cause {
    /// The word in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Calls => "calls",
        }
    }
}

impl Shown {
    /// All of them, in the order in which tables show them.
    pub const ALL: [Self; 7] = [
        Self::Unknown,
        Self::Healthy,
        Self::Unhealthy,
        Self::WaitingReboot,
        Self::Draining,
        Self::Replacing,
        Self::Failed,
    ];

    /// The word in metrics, logs and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::WaitingReboot => "WaitingReboot",
            Self::Draining => "Draining",
            Self::Replacing => "Replacing",
            Self::Failed => "Failed",
        }
    }
}

impl Entry {
    /// The age, if the checker fails at present: one that fell silent does not (`recovery` 4.2).
    #[must_use]
    pub fn failing(&self) -> Option<Duration> {
        match (self.said, self.unknown_for) {
            (Some(Said::Fail { age }), None) => Some(age),
            (Some(Said::Fail { .. } | Said::Pass) | None, _) => None,
        }
    }
}

impl Entries {
    /// The entry of a checker.
    #[must_use]
    pub fn get(&self, key: &CheckerKey) -> Option<&Entry> {
        let at = self.0.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
        self.0.get(at).map(|(_, entry)| entry)
    }

    /// All entries, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &(CheckerKey, Entry)> {
        self.0.iter()
    }

    /// True without any entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut (CheckerKey, Entry)> {
        self.0.iter_mut()
    }

    pub(crate) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// Takes the place of all entries. `entries` is sorted by key.
    pub(crate) fn replace(&mut self, entries: Vec<(CheckerKey, Entry)>) {
        self.0 = entries;
    }
}

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stored = self.0.iter().filter(|(_, entry)| matches!(entry.said, Some(Said::Fail { .. })));
        serializer.collect_map(stored.map(|(key, entry)| (key, entry)))
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = BTreeMap::<CheckerKey, Entry>::deserialize(deserializer)?;
        Ok(Self(entries.into_iter().collect()))
    }
}

impl Incident {
    /// A fresh one.
    #[must_use]
    pub fn new(opened: Time, gpu: bool) -> Self {
        Self {
            opened,
            gpu,
            red_for: Duration::ZERO,
            stable_for: Duration::ZERO,
            steps: BTreeMap::new(),
            failed_calls: 0,
            manual_reboots: 0,
            call: None,
            window: None,
        }
    }

    /// Attempts of all steps, real and simulated.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.steps.values().fold(0, |sum, tally| sum.saturating_add(tally.attempts()))
    }

    /// Attempts of one step, real and simulated.
    #[must_use]
    pub fn attempts_of(&self, step: Step) -> u32 {
        self.steps.get(&step).map_or(0, Tally::attempts)
    }

    /// The class's wait window.
    #[must_use]
    pub fn wait(&self, policy: &Policy) -> Duration {
        if self.gpu { policy.gpu_reboot_wait } else { policy.reboot_wait }
    }

    /// The end of the window, if it still runs.
    #[must_use]
    pub fn window_until(&self, policy: &Policy, now: Time) -> Option<Time> {
        let window = self.window.as_ref()?;
        let until = window.from + window.length.unwrap_or_else(|| self.wait(policy));
        (now < until).then_some(until)
    }

    /// The end of the window if it still runs and follows something that may have had an effect.
    #[must_use]
    pub fn wait_window_until(&self, policy: &Policy, now: Time) -> Option<Time> {
        match self.window.as_ref()?.after {
            After::Attempt(..) | After::Manual => self.window_until(policy, now),
            After::Backoff => None,
        }
    }

    /// True while the wait window of a reboot runs, whoever ordered it.
    #[must_use]
    pub fn awaits_reboot(&self, policy: &Policy, now: Time) -> bool {
        let of_reboot = self.window.as_ref().is_some_and(|window| match window.after {
            After::Attempt(step, _) => step == Step::Reboot,
            After::Manual => true,
            After::Backoff => false,
        });
        of_reboot && self.window_until(policy, now).is_some()
    }

    /// True if nothing was ever done in it.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.attempts() == 0 && self.failed_calls == 0 && self.manual_reboots == 0
    }
}

impl After {
    /// For people.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Attempt(step, _) => format!("the wait after {}", step.as_str()),
            Self::Manual => "the wait after a manual reboot".to_owned(),
            Self::Backoff => "the backoff after a call without effect".to_owned(),
        }
    }
}

impl Tally {
    /// Real and simulated together.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.active.saturating_add(self.monitor)
    }
}

/// The name of the node under evaluation, for an event.
pub(crate) fn name_of(sight: Sight<'_>) -> NodeName {
    sight.node.name.clone()
}

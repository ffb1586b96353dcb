//! What the fleet holds of one node, beside the node itself. There may be 100 000 of these, most of them
//! healthy: what only a sick node needs is behind a pointer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::fleet::view::Phases;
use crate::fleet::{AGES_STORED_EVERY, CheckId, Checker, is_in_flight};
use crate::node::{Node, NodeName};
use crate::policy::Policy;
use crate::reasons::Reasons;
use crate::recovery::{Colour, Entry, Lifecycle, Record, Said, Shown};
use crate::time::Time;
use crate::verdict::{CheckerKey, Unknown, UnknownCause, Verdict};

/// A checker and its reasons.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) checker: Checker,
    pub(super) serves: bool,
    pub(super) reasons: Reasons,
    /// Checks of the generation before that were out at a swap, by node: each is accepted until the new generation
    /// has judged the node (`supervision` 4.7).
    pub(super) displaced: BTreeMap<NodeName, CheckId>,
}

impl Served {
    pub(super) fn new(checker: Checker) -> Self {
        let reasons = Reasons::new(&checker.reasons);
        Self { checker, serves: true, reasons, displaced: BTreeMap::new() }
    }
}

/// A tracked node.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) node: Arc<Node>,
    pub(super) record: Record,
    /// One per enabled checker, in their order.
    pub(super) answers: Vec<Answer>,
    pub(super) lifecycle: Lifecycle,
    /// Its entry in the index of deadlines.
    pub(super) deadline: Option<Time>,
    /// When to try an evaluation again that panicked.
    pub(super) retry_at: Option<Time>,
    /// What the store has of it.
    pub(super) stored: Option<Box<Stored>>,
    /// The number of the last list it was in.
    pub(super) listed: u32,
    pub(super) shown: Shown,
    pub(super) phases: Phases,
    pub(super) evaluated: bool,
    pub(super) had_incident: bool,
}

/// A record without a node.
#[derive(Debug)]
pub(super) struct Absent {
    pub(super) record: Record,
    pub(super) stored: Option<Box<Stored>>,
    pub(super) deadline: Option<Time>,
}

/// What was last written.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) at: Time,
    pub(super) record: Record,
}

/// What a checker says of a node, and what is asked of it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) verdict: Option<Verdict>,
    /// The admitted reason of a definite verdict.
    pub(super) label: Option<Arc<str>>,
    /// The latest check.
    pub(super) asked: CheckId,
    /// True until it is answered.
    pub(super) pending: bool,
    tally: Tally,
}

/// How often a checker said what. The present verdict is counted at every tick, so its count is derived from
/// the number of ticks and no node is touched by an idle one.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    pass: u32,
    fail: u32,
    unknown: u32,
    /// Ticks that are in the counts.
    mark: u32,
}

impl Slot {
    pub(super) fn new(node: Arc<Node>, record: Record, stored: Option<Box<Stored>>, checkers: usize) -> Self {
        let mut answers = Vec::with_capacity(checkers);
        answers.resize_with(checkers, Answer::default);
        Self {
            had_incident: record.incident.is_some(),
            node,
            record,
            answers,
            lifecycle: Lifecycle::default(),
            deadline: None,
            retry_at: None,
            stored,
            listed: 0,
            shown: Shown::Unknown,
            phases: Phases::default(),
            evaluated: false,
        }
    }

    /// True once every enabled checker has answered.
    pub(super) fn is_answered(&self) -> bool {
        self.answers.iter().all(|answer| answer.verdict.is_some())
    }

    /// True while a check by that checker is out.
    pub(super) fn is_pending(&self, at: usize) -> bool {
        self.answers.get(at).is_some_and(|answer| answer.pending)
    }

    /// Takes a verdict in place of the present one. True if it says something else.
    pub(super) fn put(&mut self, at: usize, verdict: Verdict, label: Option<Arc<str>>, ticks: u32) -> bool {
        let Some(answer) = self.answers.get_mut(at) else {
            return false;
        };
        answer.pending = false;
        if answer.verdict.as_ref() == Some(&verdict) {
            // The generation that says so may be another by now, to which the reason is not foreign.
            answer.label = label;
            return false;
        }
        if self.evaluated {
            answer.tally = answer.tally.up_to(answer.verdict.as_ref(), ticks);
        }
        answer.verdict = Some(verdict);
        answer.label = label;
        true
    }

    /// Takes a verdict that stands until the check that is out is answered.
    pub(super) fn put_meanwhile(&mut self, at: usize, verdict: Verdict, label: Option<Arc<str>>, ticks: u32) -> bool {
        let pending = self.is_pending(at);
        let changed = self.put(at, verdict, label, ticks);
        if let Some(answer) = self.answers.get_mut(at) {
            answer.pending = pending;
        }
        changed
    }

    /// Says for a checker that it has no answer.
    pub(super) fn silence(&mut self, at: usize, cause: UnknownCause, detail: &Arc<str>, ticks: u32) {
        let verdict = Verdict::Unknown(Unknown { cause, detail: detail.clone() });
        self.put(at, verdict, None, ticks);
    }

    /// An evaluation ended. At the first one every present verdict is counted.
    pub(super) fn evaluated_at(&mut self, ticks: u32, ticked: bool) {
        self.lifecycle.new_grace = false;
        if self.evaluated {
            return;
        }
        self.evaluated = true;
        for answer in &mut self.answers {
            answer.tally.mark = ticks;
            // A tick in this turn counts the same verdict: once is enough.
            if !ticked {
                answer.tally.add(answer.verdict.as_ref(), 1);
            }
        }
    }

    /// When the ages are worth a write of their own.
    pub(super) fn ages_stored_at(&self) -> Option<Time> {
        let stored = self.stored.as_ref().filter(|_| self.record.colour == Colour::Red)?;
        Some(stored.at + AGES_STORED_EVERY)
    }
}

impl Answer {
    /// Of a checker that joins: it is counted from now on.
    pub(super) fn started(ticks: u32) -> Self {
        Self { tally: Tally { mark: ticks, ..Tally::default() }, ..Self::default() }
    }

    /// The counts of `pass`, `fail` and `unknown`.
    pub(super) fn counts(&self, ticks: u32) -> [u32; 3] {
        let tally = self.tally.up_to(self.verdict.as_ref(), ticks);
        [tally.pass, tally.fail, tally.unknown]
    }
}

impl Tally {
    fn up_to(mut self, verdict: Option<&Verdict>, ticks: u32) -> Self {
        self.add(verdict, ticks.saturating_sub(self.mark));
        self.mark = ticks;
        self
    }

    fn add(&mut self, verdict: Option<&Verdict>, times: u32) {
        let count = match verdict {
            Some(Verdict::Pass(_)) => &mut self.pass,
            Some(Verdict::Fail(_)) => &mut self.fail,
            Some(Verdict::Unknown(_)) => &mut self.unknown,
            None => return,
        };
        *count = count.saturating_add(times);
    }
}

impl Absent {
    /// When the record is dropped; a restored one whose node was not listed yet waits for the list.
    pub(super) fn expires(&self, policy: &Policy) -> Option<Time> {
        self.record.gone_at.map(|gone| gone + policy.return_window)
    }

    pub(super) fn deadline_after(&self, policy: &Policy, now: Time) -> Option<Time> {
        let window = self.record.incident.as_ref().and_then(|incident| incident.window_until(policy, now));
        let window = window.filter(|_| is_in_flight(policy, &self.record, now));
        self.expires(policy).into_iter().chain(window).min()
    }
}

impl Record {
    /// What to write now: the record, `None` to forget it, or nothing. Ages alone are written at most once a
    /// minute (`recovery` 4.7).
    pub(super) fn write_back(&self, stored: &mut Option<Box<Stored>>, now: Time) -> Option<Option<Box<Self>>> {
        if self.incident.is_none() {
            return stored.take().map(|_| None);
        }
        if let Some(stored) = stored {
            let same = without_ages(self) == without_ages(&stored.record);
            let recent = now.since(stored.at) < AGES_STORED_EVERY;
            if same && (recent || as_stored(self) == as_stored(&stored.record)) {
                return None;
            }
        }
        *stored = Some(Box::new(Stored { at: now, record: self.clone() }));
        Some(Some(Box::new(self.clone())))
    }
}

/// The verdicts in force, sorted by key: checkers and answers stand in the same order.
pub(super) fn verdicts<'a>(checkers: &'a [Served], answers: &'a [Answer]) -> Vec<(&'a CheckerKey, &'a Verdict)> {
    let pairs = checkers.iter().zip(answers);
    pairs.filter_map(|(served, answer)| Some((&served.checker.key, answer.verdict.as_ref()?))).collect()
}

/// The record with everything that is not stored at its default.
fn as_stored(record: &Record) -> Record {
    let mut stored = record.clone();
    stored.colour = Colour::default();
    stored.seen = Duration::ZERO;
    stored.wait_logged = false;
    let failing = record.checkers.iter().filter(|(_, entry)| matches!(entry.said, Some(Said::Fail { .. })));
    stored
        .checkers
        .replace(failing.map(|(key, entry)| (key.clone(), Entry { said: entry.said, unknown_for: None })).collect());
    if let Some(incident) = &mut stored.incident {
        incident.stable_for = Duration::ZERO;
    }
    stored
}

fn without_ages(record: &Record) -> Record {
    let mut stored = as_stored(record);
    stored.restart_clocks();
    stored
}

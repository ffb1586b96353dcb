//! Who is due, what recovery itself holds, and when to look again (`recovery` 4.5, 4.9).

use std::time::Duration;

use crate::event::Event;
use crate::gate::Constraint;
use crate::policy::Policy;
use crate::recovery::{Colour, Phase, Record, Sight, name_of};
use crate::report::Hold;
use crate::time::{Time, human};
use crate::verdict::{CheckerKey, Verdict};

/// No threshold is longer: a checker that says a year means "never", and that is what `action = "none"` is for.
const THRESHOLD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a checker must fail before it justifies a step (`recovery` 2).
#[must_use]
pub fn threshold(policy: &Policy, key: &CheckerKey, verdict: &Verdict) -> Option<Duration> {
    let said = verdict.judgement().map(|judgement| judgement.threshold);
    let wanted = policy.thresholds.get(key).copied().or(policy.default_threshold).or(said)?;
    Some(wanted.min(THRESHOLD_MAX).max(policy.tick))
}

/// A failing checker's progress towards its threshold.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Which.
    pub checker: &'a CheckerKey,
    /// How long it has failed, by the timer in use.
    pub elapsed: Duration,
    /// How long it must.
    pub threshold: Duration,
}

impl Progress<'_> {
    /// What is missing; zero once it is due.
    #[must_use]
    pub fn missing(self) -> Duration {
        self.threshold.saturating_sub(self.elapsed)
    }

    /// By how much it is overdue.
    #[must_use]
    pub fn overdue(self) -> Option<Duration> {
        self.elapsed.checked_sub(self.threshold)
    }
}

/// The checker that is due first, or has been due longest: the one that decides.
#[must_use]
pub fn foremost<'a>(policy: &Policy, record: &'a Record, sight: Sight<'_>) -> Option<Progress<'a>> {
    let failing = record.failing().filter_map(|(key, age)| {
        let at = sight.verdicts.binary_search_by(|(known, _)| (*known).cmp(key)).ok()?;
        let (_, verdict) = sight.verdicts.get(at)?;
        Some(Progress { checker: key, elapsed: age, threshold: threshold(policy, key, verdict)? })
    });
    if policy.compat_shared_timer {
        let elapsed = record.incident.as_ref()?.red_for;
        return failing.map(|progress| Progress { elapsed, ..progress }).min_by_key(|progress| progress.threshold);
    }
    failing.min_by_key(|progress| (progress.missing(), std::cmp::Reverse(progress.overdue())))
}

/// True if a checker is due.
#[must_use]
pub fn is_any_due(policy: &Policy, record: &Record, sight: Sight<'_>) -> bool {
    foremost(policy, record, sight).is_some_and(|progress| progress.overdue().is_some())
}

/// The checkers that are due, or with the shared timer all that fail: those that justify a step.
#[must_use]
pub fn because(policy: &Policy, record: &Record, sight: Sight<'_>) -> Vec<CheckerKey> {
    let is_due = |key: &CheckerKey, age: Duration| {
        policy.compat_shared_timer
            || sight
                .verdicts
                .iter()
                .find(|(known, _)| *known == key)
                .and_then(|(_, verdict)| threshold(policy, key, verdict))
                .is_some_and(|threshold| age >= threshold)
    };
    record.failing().filter(|(key, age)| is_due(key, *age)).map(|(key, _)| key.clone()).collect()
}

/// Recovery's own holds, in the order of the gate's table. An open node without any is due. `Excluded` is of
/// any node, the others of open ones.
#[must_use]
pub fn holds(policy: &Policy, record: &Record, sight: Sight<'_>, now: Time) -> Vec<Hold> {
    let mut holds = Vec::new();
    let mut hold = |name, detail: String, until| holds.push(Hold { name, detail, until });
    if sight.node.is_excluded() {
        hold(Constraint::Excluded, format!("marked {}=true", crate::node::EXCLUDE_KEY), None);
    }
    let Some(incident) = record.incident.as_deref().filter(|_| record.is_open()) else {
        return holds;
    };
    if let (Some(until), Some(window)) = (incident.window_until(policy, now), &incident.window) {
        let text = format!("{} runs for {} more", window.after.describe(), human(until.since(now)));
        hold(Constraint::Window, text, Some(until));
    }
    if let Phase::Failed(cause) = record.phase {
        let text = format!(
            "gave up ({}): {} attempts, {} failed calls",
            cause.as_str(),
            incident.attempts(),
            incident.failed_calls
        );
        hold(Constraint::AttemptsExhausted, text, None);
    }
    let red = record.colour == Colour::Red;
    match foremost(policy, record, sight).filter(|_| red) {
        Some(progress) if progress.overdue().is_some() => {}
        Some(progress) => {
            let text =
                format!("{} fails for {} of {}", progress.checker, human(progress.elapsed), human(progress.threshold));
            hold(Constraint::Threshold, text, Some(now + progress.missing()));
        }
        None => hold(Constraint::Threshold, "no checker's failure counts at present".to_owned(), None),
    }
    if let Some(call) = &incident.call {
        let text = format!("{} is out for {}", call.step.as_str(), human(now.since(call.at)));
        hold(Constraint::Call, text, None);
    }
    holds
}

/// For how long the node has been due; none while recovery holds it.
#[must_use]
pub fn due_for(policy: &Policy, record: &Record, sight: Sight<'_>, now: Time) -> Option<Duration> {
    let incident = record.incident.as_deref().filter(|_| record.is_open())?;
    let held = matches!(record.phase, Phase::Failed(_))
        || record.colour != Colour::Red
        || sight.node.is_excluded()
        || incident.call.is_some()
        || incident.window_until(policy, now).is_some();
    let overdue = foremost(policy, record, sight)?.overdue().filter(|_| !held)?;
    let rested = incident
        .window
        .as_ref()
        .map(|window| now.since(window.from).saturating_sub(window.length.unwrap_or_else(|| incident.wait(policy))));
    Some(rested.map_or(overdue, |rested| rested.min(overdue)))
}

/// When to look at the node again without any input (`recovery` 4.9). Observed time may stand still, so a
/// clock may not have come so far by then; it is never there earlier.
#[must_use]
pub fn deadline(policy: &Policy, record: &Record, sight: Sight<'_>, now: Time) -> Option<Time> {
    let unknown = record.checkers.iter().filter_map(|(_, entry)| {
        let missing = policy.unknown_limit.checked_sub(entry.unknown_for?)?;
        Some(now + missing)
    });
    let mut all: Vec<Time> = unknown.collect();
    if let Some(incident) = &record.incident {
        all.extend(incident.window_until(policy, now));
        if record.phase == Phase::Healthy && record.colour == Colour::Green {
            all.push(now + policy.stability_window.saturating_sub(incident.stable_for));
        }
        if record.is_open() {
            all.extend(sight.lifecycle.hold_until);
        }
    }
    if record.colour == Colour::Red {
        all.extend(foremost(policy, record, sight).map(|progress| now + progress.missing()));
    }
    all.into_iter().filter(|at| *at > now).min()
}

/// Says once that a red node waits for its threshold.
pub fn log_wait(policy: &Policy, record: &mut Record, sight: Sight<'_>, events: &mut Vec<Event>) {
    let trying = matches!(record.phase, Phase::Unhealthy | Phase::WaitingReboot);
    let logged = record.wait_logged;
    record.wait_logged = match foremost(policy, record, sight).filter(|_| trying) {
        Some(progress) if progress.overdue().is_none() && record.colour == Colour::Red => {
            if !logged {
                events.push(Event::WaitingThreshold {
                    node: name_of(sight),
                    elapsed: progress.elapsed,
                    threshold: progress.threshold,
                    failed_checkers: record.failing_keys(),
                });
            }
            true
        }
        Some(progress) if progress.overdue().is_some() => false,
        // A node that is not red is still held by its threshold; the hold does not begin anew with each answer.
        Some(_) | None => trying && logged,
    };
}

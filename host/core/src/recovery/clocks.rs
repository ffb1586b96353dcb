//! Entries, clocks and the colour (`recovery` 4.2, 4.3). All clocks here count observed time; what passes
//! between two evaluations counts as what was in force at the first.

use std::time::Duration;

use crate::event::Event;
use crate::policy::Policy;
use crate::recovery::{Colour, Entry, Lifecycle, Record, Said, Sight, name_of};
use crate::verdict::{CheckerKey, Verdict};

/// Lets the clocks grow up to `observed`. Doing it twice, or in two parts, changes nothing.
pub fn advance(record: &mut Record, observed: Duration) {
    let passed = observed.saturating_sub(record.seen);
    record.seen = observed;
    if passed.is_zero() {
        return;
    }
    let red = record.colour == Colour::Red;
    for (_, entry) in record.checkers.iter_mut() {
        match &mut entry.unknown_for {
            Some(unknown_for) => *unknown_for += passed,
            None => {
                if let (true, Some(Said::Fail { age })) = (red, &mut entry.said) {
                    *age += passed;
                }
            }
        }
    }
    if let Some(incident) = &mut record.incident {
        match record.colour {
            Colour::Red => incident.red_for += passed,
            Colour::Green => incident.stable_for += passed,
            Colour::Grey | Colour::Blank => {}
        }
    }
}

/// Takes the present verdicts into the entries. An excluded node has none; a checker that is no longer enabled
/// has no verdict and loses its entry.
pub fn hear(policy: &Policy, record: &mut Record, sight: Sight<'_>, events: &mut Vec<Event>) {
    if sight.node.is_excluded() {
        record.checkers.clear();
        return;
    }
    let mut heard = Vec::with_capacity(sight.verdicts.len());
    for &(key, verdict) in sight.verdicts {
        let before = record.checkers.get(key).copied().unwrap_or_default();
        let after = entry_after(before, verdict, policy.unknown_limit);
        if has_left(after, policy.unknown_limit) && before.said.is_some() {
            events.push(Event::CheckerLeft { node: name_of(sight), checker: CheckerKey::clone(key) });
        }
        heard.push((CheckerKey::clone(key), after));
    }
    record.checkers.replace(heard);
}

/// The table of `recovery` 4.2.
fn entry_after(before: Entry, verdict: &Verdict, unknown_limit: Duration) -> Entry {
    match (verdict, before.said) {
        (Verdict::Pass(_), _) => Entry { said: Some(Said::Pass), unknown_for: None },
        (Verdict::Fail(_), Some(Said::Fail { age })) => Entry { said: Some(Said::Fail { age }), unknown_for: None },
        (Verdict::Fail(_), Some(Said::Pass) | None) => {
            Entry { said: Some(Said::Fail { age: Duration::ZERO }), unknown_for: None }
        }
        (Verdict::Unknown(_), said) => {
            let unknown_for = before.unknown_for.unwrap_or(Duration::ZERO);
            let said = if unknown_for >= unknown_limit { None } else { said };
            Entry { said, unknown_for: Some(unknown_for) }
        }
    }
}

/// True for a checker that takes no part until it answers.
#[must_use]
pub fn has_left(entry: Entry, unknown_limit: Duration) -> bool {
    entry.unknown_for.is_some_and(|unknown_for| unknown_for >= unknown_limit)
}

/// Sets the colour, and what starts anew with it.
pub fn paint(policy: &Policy, record: &mut Record, lifecycle: Lifecycle) {
    record.colour = colour(record, lifecycle, policy.unknown_limit);
    match (record.colour, &mut record.incident) {
        (Colour::Red | Colour::Blank, Some(incident)) => incident.stable_for = Duration::ZERO,
        (Colour::Grey | Colour::Green, _) | (_, None) => {}
    }
}

/// The table of `recovery` 4.3: the first match wins.
fn colour(record: &Record, lifecycle: Lifecycle, unknown_limit: Duration) -> Colour {
    let participants = || record.checkers.iter().filter(|(_, e)| !has_left(*e, unknown_limit));
    if participants().next().is_none() {
        return Colour::Blank;
    }
    let fails = participants().any(|(_, entry)| entry.failing().is_some());
    let unknown = participants().any(|(_, entry)| entry.unknown_for.is_some());
    match (fails, unknown) {
        (true, _) if !lifecycle.starting => Colour::Red,
        (true, _) | (_, true) => Colour::Grey,
        (false, false) => Colour::Green,
    }
}

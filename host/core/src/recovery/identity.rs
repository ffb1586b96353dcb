//! Who the node is: boot ids, nodes that vanish and come back, the switch of the mode (`recovery` 4.6 to 4.8).

use std::time::Duration;

use crate::decision::{Mode, Outcome, Step};
use crate::event::{Event, Verification};
use crate::node::{BootId, Node, NodeName};
use crate::policy::Policy;
use crate::recovery::{After, Clock, Colour, Phase, Record, Sight, name_of, outcomes};
use crate::time::Time;

/// Identity and mode, at an evaluation.
pub fn recognise(policy: &Policy, record: &mut Record, sight: Sight<'_>, now: Time, events: &mut Vec<Event>) {
    let node = sight.node;
    // An object that could not be decoded may lack its uid; another uid never gets here.
    if !node.uid.is_empty() && record.uid != node.uid {
        record.uid = node.uid.clone();
    }
    if !node.system_uuid.is_empty() && record.system_uuid != node.system_uuid {
        record.system_uuid = node.system_uuid.clone();
    }
    let ours = is_our_reboot(policy, record, now);
    verify(policy, record, sight, now, events);
    if !node.boot_id.is_empty() && record.boot_id != node.boot_id {
        let before = std::mem::replace(&mut record.boot_id, node.boot_id.clone());
        if !before.is_empty() {
            rebooted(record, sight, before, ours, events);
        }
    }
    switch_mode(policy, record, now);
}

/// A node that is no longer there: the incident stays, everything else leaves.
pub fn vanish(record: &mut Record, now: Time) {
    record.gone_at = Some(now);
    forget_judgement(record, now);
}

/// A node that was there before this process: same Node object, maybe another boot.
pub fn resume(record: &mut Record, node: &Node, clock: Clock) {
    record.seen = clock.observed;
    if differ(&record.boot_id, &node.boot_id) {
        record.restart_clocks();
    }
}

/// True if `node` is the machine that vanished, and not too long ago.
#[must_use]
pub fn is_return(policy: &Policy, record: &Record, node: &Node, now: Time) -> bool {
    let in_time = record.gone_at.is_none_or(|gone| now.since(gone) < policy.return_window);
    in_time && !policy.return_window.is_zero() && !node.system_uuid.is_empty() && record.system_uuid == node.system_uuid
}

/// The machine is back under its name: the record lives on with its incident.
pub fn come_back(record: &mut Record, node: &Node, clock: Clock) {
    forget_judgement(record, clock.now);
    record.gone_at = None;
    record.uid = node.uid.clone();
    record.seen = clock.observed;
}

/// An operator's reset: everything is judged afresh. False while a call is out.
pub fn reset(record: &mut Record, now: Time) -> bool {
    if record.incident.as_ref().is_some_and(|incident| incident.call.is_some()) {
        return false;
    }
    record.incident = None;
    record.restart_clocks();
    record.enter(Phase::Unknown, now);
    true
}

/// A record as the store gives it: no time lies ahead, and a call that was out may have had an effect.
pub fn restore(policy: &Policy, node: &NodeName, record: &mut Record, now: Time, events: &mut Vec<Event>) {
    record.since = record.since.min(now);
    record.gone_at = record.gone_at.map(|at| at.min(now));
    let Some(incident) = &mut record.incident else {
        record.enter(Phase::Unknown, now);
        return;
    };
    incident.opened = incident.opened.min(now);
    if let Some(window) = &mut incident.window {
        window.from = window.from.min(now);
    }
    if let Some(call) = incident.call.clone() {
        let outcome = Outcome::Unconfirmed { why: "the process ended before the outcome was known".to_owned() };
        outcomes::apply(policy, node, record, &call.attempt, &outcome, (call.at.min(now), now), events);
    }
}

/// True while a boot id that changes is explained by something that we know of.
fn is_our_reboot(policy: &Policy, record: &Record, now: Time) -> bool {
    let Some(incident) = &record.incident else {
        return false;
    };
    let issued = incident.window.as_ref().is_some_and(|window| match window.after {
        After::Attempt(step, mode) => step == Step::Reboot && mode == Mode::Active,
        After::Manual => true,
        After::Backoff => false,
    });
    incident.call.is_some() || (issued && incident.awaits_reboot(policy, now))
}

/// Decides a reboot's verification: by another boot id, else by the end of the window.
fn verify(policy: &Policy, record: &mut Record, sight: Sight<'_>, now: Time, events: &mut Vec<Event>) {
    let Some(incident) = record.incident.as_deref_mut() else {
        return;
    };
    let running = incident.window_until(policy, now).is_some();
    let count = incident.attempts_of(Step::Reboot);
    let Some(verify) = incident.window.as_mut().map(|window| &mut window.verify) else {
        return;
    };
    let Some(before) = verify.clone() else {
        return;
    };
    let boot_id = sight.node.boot_id.clone();
    let result = if differ(&before, &boot_id) {
        Verification::Verified
    } else if running {
        return;
    } else if before.is_empty() || boot_id.is_empty() {
        Verification::Unknown
    } else {
        Verification::NotObserved
    };
    *verify = None;
    events.push(Event::Verification { node: name_of(sight), result, before, boot_id, count });
}

/// Another boot: one that was not ours, with a grace, begins the ages anew. Without a grace they stay, so that
/// a boot loop cannot hide.
fn rebooted(record: &mut Record, sight: Sight<'_>, before: BootId, ours: bool, events: &mut Vec<Event>) {
    let called = record.incident.as_ref().is_some_and(|incident| incident.call.is_some());
    if sight.lifecycle.new_grace && record.phase == Phase::Unhealthy && !called {
        record.restart_clocks();
    }
    if !ours {
        events.push(Event::ForeignReboot { node: name_of(sight), before, boot_id: record.boot_id.clone() });
    }
}

/// From monitor to active: simulated attempts never spend real ones, and no fleet is rebooted at the switch.
fn switch_mode(policy: &Policy, record: &mut Record, now: Time) {
    let switched = record.mode == Mode::Monitor && policy.mode == Mode::Active;
    record.mode = policy.mode;
    if !switched {
        return;
    }
    if let Some(incident) = &mut record.incident {
        for tally in incident.steps.values_mut() {
            tally.monitor = 0;
        }
        incident.window.take_if(|window| matches!(window.after, After::Attempt(_, Mode::Monitor)));
    }
    record.restart_clocks();
    record.enter(Phase::Unknown, now);
}

fn forget_judgement(record: &mut Record, now: Time) {
    record.enter(Phase::Unknown, now);
    record.checkers.clear();
    record.colour = Colour::Blank;
    record.wait_logged = false;
    if let Some(incident) = &mut record.incident {
        incident.red_for = Duration::ZERO;
        incident.stable_for = Duration::ZERO;
    }
}

/// An empty boot id says nothing and differs from none.
fn differ(a: &BootId, b: &BootId) -> bool {
    !a.is_empty() && !b.is_empty() && a != b
}

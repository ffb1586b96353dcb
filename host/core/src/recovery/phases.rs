//! The table of phases, forgiveness and giving up (`recovery` 4.4, 4.5).

use std::time::Duration;

use crate::event::Event;
use crate::node::Node;
use crate::policy::Policy;
use crate::recovery::{Cause, Colour, Incident, Phase, Record, Sight, holds, ladder, name_of};
use crate::time::Time;

/// A GPU node once is a GPU node for the incident.
pub fn latch_gpu(record: &mut Record, node: &Node) {
    if let Some(incident) = &mut record.incident {
        incident.gpu |= node.is_gpu();
    }
}

/// The table of `recovery` 4.4, then forgiveness.
pub fn step(policy: &Policy, record: &mut Record, sight: Sight<'_>, now: Time, events: &mut Vec<Event>) {
    match (record.phase, record.colour) {
        (Phase::Unknown | Phase::Healthy, Colour::Red) => open(policy, record, sight, now, events),
        (Phase::Healthy | Phase::Unhealthy | Phase::WaitingReboot, Colour::Blank) => {
            record.enter(Phase::Unknown, now);
        }
        (Phase::Unknown | Phase::Unhealthy | Phase::WaitingReboot | Phase::Failed(_), Colour::Green) => {
            recover(policy, record, sight, now, events)
        }
        (Phase::Unknown, Colour::Grey | Colour::Blank)
        | (Phase::Healthy, Colour::Grey | Colour::Green)
        | (Phase::Unhealthy | Phase::WaitingReboot, Colour::Red | Colour::Grey)
        | (Phase::Failed(_), Colour::Red | Colour::Grey | Colour::Blank) => {}
    }
    forgive(policy, record, sight, events);
}

/// Giving up, in the order of `recovery` 4.5: a spent budget waits for no backoff.
pub fn give_up(policy: &Policy, record: &mut Record, sight: Sight<'_>, now: Time, events: &mut Vec<Event>) {
    let tries = match record.phase {
        Phase::Unhealthy | Phase::WaitingReboot => record.colour == Colour::Red,
        Phase::Unknown | Phase::Healthy | Phase::Failed(_) => false,
    };
    let Some(incident) = record.incident.as_deref().filter(|_| tries) else {
        return;
    };
    if incident.call.is_some()
        || incident.wait_window_until(policy, now).is_some()
        || !holds::is_any_due(policy, record, sight)
    {
        return;
    }
    let cause = if ladder::next_step(policy, &incident.steps).is_none() {
        Cause::Attempts
    } else if incident.failed_calls >= policy.max_failed_calls {
        Cause::Calls
    } else {
        return;
    };
    events.push(Event::GaveUp {
        node: name_of(sight),
        cause,
        count: incident.attempts(),
        failed_calls: incident.failed_calls,
    });
    record.enter(Phase::Failed(cause), now);
}

/// A new incident, or the kept one goes on with its counts and window.
fn open(policy: &Policy, record: &mut Record, sight: Sight<'_>, now: Time, events: &mut Vec<Event>) {
    let incident = record.incident.get_or_insert_with(|| Box::new(Incident::new(now, sight.node.is_gpu())));
    incident.red_for = Duration::ZERO;
    let phase = if incident.awaits_reboot(policy, now) { Phase::WaitingReboot } else { Phase::Unhealthy };
    record.enter(phase, now);
    record.wait_logged = false;
    events.push(Event::Unhealthy {
        node: name_of(sight),
        incident: record.incident_id().unwrap_or_default(),
        failed_checkers: record.failing_keys(),
    });
}

fn recover(policy: &Policy, record: &mut Record, sight: Sight<'_>, now: Time, events: &mut Vec<Event>) {
    if record.is_open() {
        events.push(Event::Recovered {
            node: name_of(sight),
            previous: record.shown(policy, now),
            attempts_kept: record.incident.as_ref().map_or(0, |incident| incident.attempts()),
        });
    }
    if let Some(incident) = &mut record.incident {
        incident.stable_for = Duration::ZERO;
    }
    record.enter(Phase::Healthy, now);
}

/// Drops the incident of a healthy green node once it has been stable for long enough; one in which nothing
/// was ever done, at once.
fn forgive(policy: &Policy, record: &mut Record, sight: Sight<'_>, events: &mut Vec<Event>) {
    let Some(incident) = &record.incident else {
        return;
    };
    let well = record.phase == Phase::Healthy && record.colour == Colour::Green && incident.call.is_none();
    if !well || !(incident.is_blank() || incident.stable_for >= policy.stability_window) {
        return;
    }
    events.push(Event::Forgiven { node: name_of(sight), incident: record.incident_id().unwrap_or_default() });
    record.incident = None;
}

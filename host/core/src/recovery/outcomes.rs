//! Grants and what came of them (`recovery` 4.5, 4.6).

use std::sync::Arc;
use std::time::Duration;

use crate::decision::{AttemptId, Mode, Outcome, Refuser, Step};
use crate::event::Event;
use crate::node::NodeName;
use crate::policy::Policy;
use crate::recovery::{After, Call, Incident, Phase, Record, Window, ladder};
use crate::time::Time;

/// What the other side may ask for by `Retry-After`: a mistyped header must not switch a node's repair off.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// Sets the call: the next step of the ladder, with its identity. None if there is nothing to grant.
pub fn grant(policy: &Policy, record: &mut Record, now: Time) -> Option<Call> {
    let id = record.incident_id()?;
    let incident = record.incident.as_mut()?;
    let step = ladder::next_step(policy, &incident.steps)?;
    let number = u64::from(incident.attempts()) + u64::from(incident.failed_calls) + 1;
    let call = Call {
        attempt: AttemptId(Arc::from(format!("{id}/{number}"))),
        step,
        mode: policy.mode,
        boot_id: record.boot_id.clone(),
        at: now,
    };
    incident.call = Some(call.clone());
    Some(call)
}

/// Ends the call of that attempt id; the window begins at `from`. False if the record has no such call.
pub fn apply(
    policy: &Policy,
    node: &NodeName,
    record: &mut Record,
    attempt: &AttemptId,
    outcome: &Outcome,
    (from, now): (Time, Time),
    events: &mut Vec<Event>,
) -> bool {
    let failed_checkers = record.failing_keys();
    let Some(incident) = record.incident.as_deref_mut() else {
        return false;
    };
    let Some(call) = incident.call.take_if(|call| call.attempt == *attempt) else {
        return false;
    };
    events.push(Event::Outcome {
        node: node.clone(),
        attempt: call.attempt.clone(),
        step: call.step,
        mode: call.mode,
        outcome: outcome.as_str(),
        detail: outcome.why().to_owned(),
    });
    let unconfirmed = match outcome {
        Outcome::Done => None,
        Outcome::Unconfirmed { why } => Some(why.clone()),
        Outcome::Failed { why, retry_after } => {
            fail(policy, node, incident, &call, (outcome.as_str(), why, *retry_after), (from, now), events);
            return true;
        }
        Outcome::Refused { why, by: Refuser::Executor } => {
            incident.steps.entry(call.step).or_default().refused = true;
            fail(policy, node, incident, &call, (outcome.as_str(), why, None), (from, now), events);
            return true;
        }
        Outcome::Refused { by: Refuser::LastLook, .. } => {
            begin(policy, incident, backoff_window(from, policy.tick), now);
            return true;
        }
    };
    let tally = incident.steps.entry(call.step).or_default();
    match call.mode {
        Mode::Active => tally.active = tally.active.saturating_add(1),
        Mode::Monitor => tally.monitor = tally.monitor.saturating_add(1),
    }
    events.push(Event::Attempt {
        node: node.clone(),
        step: call.step,
        mode: call.mode,
        attempt: call.attempt,
        count: tally.attempts(),
        unconfirmed,
        failed_checkers,
    });
    let verified = call.step == Step::Reboot && call.mode == Mode::Active;
    let window = Window {
        from,
        length: own_wait(call.step),
        after: After::Attempt(call.step, call.mode),
        verify: verified.then_some(call.boot_id),
    };
    begin(policy, incident, window, now);
    if call.step == Step::Reboot {
        await_reboot(policy, node, record, now, events);
    }
    true
}

/// A person ordered a reboot of the node (`tasks` 4.13): the wait window protects it like any other, and no
/// attempt is counted.
pub fn manual_reboot(
    policy: &Policy,
    node: &NodeName,
    record: &mut Record,
    gpu: bool,
    now: Time,
    events: &mut Vec<Event>,
) {
    let incident = record.incident.get_or_insert_with(|| Box::new(Incident::new(now, gpu)));
    incident.manual_reboots = incident.manual_reboots.saturating_add(1);
    // A reboot of ours that is not decided yet is decided by the same boot id.
    let verify = incident.window.take().and_then(|window| window.verify);
    incident.window = Some(Window { from: now, length: None, after: After::Manual, verify });
    await_reboot(policy, node, record, now, events);
}

/// The backoff after the k-th failed call of an incident. The spread by name keeps nodes that failed together
/// from calling together for ever.
#[must_use]
pub fn backoff(policy: &Policy, node: &NodeName, k: u32) -> Duration {
    let base = policy.backoff_base.as_millis();
    let doubled = base.saturating_mul(1u128.checked_shl(k.saturating_sub(1)).unwrap_or(u128::MAX));
    let capped = i128::try_from(doubled.min(policy.backoff_cap.as_millis())).unwrap_or(i128::MAX);
    let spread = i128::from(fnv1a(node.as_str()) % 2001) - 1000;
    let ms = capped.saturating_mul(10_000 + spread) / 10_000;
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

fn fail(
    policy: &Policy,
    node: &NodeName,
    incident: &mut Incident,
    call: &Call,
    (outcome, why, retry_after): (&'static str, &str, Option<Duration>),
    (from, now): (Time, Time),
    events: &mut Vec<Event>,
) {
    incident.failed_calls = incident.failed_calls.saturating_add(1);
    let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    let length = backoff(policy, node, incident.failed_calls).max(asked);
    begin(policy, incident, backoff_window(from, length), now);
    events.push(Event::CallFailed {
        node: node.clone(),
        step: call.step,
        outcome,
        error: why.to_owned(),
        failed_calls: incident.failed_calls,
        next_call_in: length,
    });
}

/// The window of the last outcome is the one that counts (`recovery` 2), but it never cuts a wait window short:
/// a person may have ordered a reboot while the call was out.
fn begin(policy: &Policy, incident: &mut Incident, window: Window, now: Time) {
    let until = window.from + window.length.unwrap_or_else(|| incident.wait(policy));
    if incident.wait_window_until(policy, now).is_none_or(|running| running <= until) {
        incident.window = Some(window);
    } else if let Some(running) = &mut incident.window {
        running.verify = running.verify.take().or(window.verify);
    }
}

fn backoff_window(from: Time, length: Duration) -> Window {
    Window { from, length: Some(length), after: After::Backoff, verify: None }
}

/// The wait of a step that has one of its own: where there is no effect to wait for, there is no wait.
fn own_wait(step: Step) -> Option<Duration> {
    match step {
        Step::Cordon | Step::Drain => Some(Duration::ZERO),
        Step::Notify
        | Step::RestartPod
        | Step::Reboot
        | Step::Replace
        | Step::Template
        | Step::Webhook
        | Step::Command => None,
    }
}

/// A reboot is under way; it is said once per window.
fn await_reboot(policy: &Policy, node: &NodeName, record: &mut Record, now: Time, events: &mut Vec<Event>) {
    if record.phase == Phase::Unhealthy {
        record.enter(Phase::WaitingReboot, now);
    }
    let Some(incident) = &record.incident else {
        return;
    };
    if let (Some(_), Some(window)) = (incident.window_until(policy, now), &incident.window) {
        events.push(Event::WaitingReboot {
            node: node.clone(),
            elapsed: now.since(window.from),
            wait: incident.wait(policy),
            count: incident.attempts_of(Step::Reboot),
            gpu: incident.gpu,
        });
    }
}

/// FNV-1a, 64 bit.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_is_capped_and_spread_by_name() {
        let policy = Policy::default();
        let node_1: Vec<u128> = (1..=7).map(|k| backoff(&policy, &NodeName::from("node-1"), k).as_millis()).collect();
        assert_eq!(node_1, [10_719, 21_438, 42_876, 85_752, 171_504, 321_570, 321_570]);
        assert_eq!(backoff(&policy, &NodeName::from("gpu-0"), 1).as_millis(), 9_526);
        assert_eq!(backoff(&policy, &NodeName::from("node-1"), u32::MAX).as_millis(), 321_570);
    }
}

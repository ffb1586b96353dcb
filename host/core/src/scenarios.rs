//! The acceptance scenarios of `recovery` section 7 that need nothing but the rules, by their numbers. Times
//! count from T, when NodeReady begins to fail; the first reboot is at R = T+5:00.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::decision::{Mode, Outcome, Refuser, Step};
use crate::event::{Event, Verification};
use crate::fleet::{Input, Inputs, ReconcileError};
use crate::gate::Constraint;
use crate::node::{Node, NodeName};
use crate::policy::{ConcurrentLimit, Policy, Rung};
use crate::recovery::{Cause, Lifecycle, Phase, Shown};
use crate::testing::{N, Say, World, failed, min, ms, policy, refused, set_label, unconfirmed};
use crate::verdict::CheckerKey;

/// R, as time since T.
const R: Duration = Duration::from_secs(5 * 60);

fn monitor() -> Policy {
    Policy { mode: Mode::Monitor, ..policy() }
}

fn ladder(rungs: &[(Step, u32)]) -> Policy {
    let ladder = rungs.iter().map(|&(step, attempts)| Rung { step, attempts }).collect();
    Policy { ladder, ..policy() }
}

/// Failing since T, the first reboot done at R, which is now.
fn rebooted(policy: Policy) -> World {
    let mut world = World::failing(policy);
    world.to(R);
    assert_eq!(world.phase(), Shown::WaitingReboot);
    world
}

/// Failing since T, with calls that all go wrong.
fn with_executor(policy: Policy, executor: impl FnMut() -> Outcome + 'static) -> World {
    let mut world = World::failing(policy);
    let mut executor = executor;
    world.executor = Box::new(move |_| executor());
    world
}

#[test]
fn r_01_the_first_evaluation_shows_one_phase_and_healthy() {
    let world = World::new(policy());
    assert_eq!(world.gauge(Shown::Healthy), Some(1));
    assert_eq!(world.gauge(Shown::Unknown), None);

    let mut world = World::empty(policy(), &[("ready", min(5))]);
    world.add(N);
    world.say(N, "ready", Say::Fail);
    world.sync();
    assert_eq!(world.gauge(Shown::Healthy), Some(0));
    assert_eq!(world.gauge(Shown::Unhealthy), Some(1));
    assert_eq!(world.gauge(Shown::Unknown), None);
}

#[test]
fn r_02_every_node_is_evaluated_once_as_soon_as_caches_are_synced() {
    let mut world = World::empty(policy(), &[("ready", min(5)), ("disk", min(30))]);
    for name in ["a", "b", "c"] {
        world.add(name);
    }
    world.sync();
    for view in world.fleet.nodes() {
        assert!(view.evaluated);
        assert_eq!(view.checkers().map(|checker| checker.passes).collect::<Vec<_>>(), [1, 1]);
    }
    assert_eq!(world.fleet.phase_counts().find(|(phase, _)| *phase == Shown::Healthy), Some((Shown::Healthy, 3)));
}

#[test]
fn r_03_a_failing_checker_makes_unhealthy_and_calls_nobody() {
    let world = World::failing(policy());
    assert_eq!(world.phase(), Shown::Unhealthy);
    assert_eq!(world.view().red_for, Some(Duration::ZERO));
    assert_eq!((world.gauge(Shown::Healthy), world.gauge(Shown::Unhealthy)), (Some(0), Some(1)));
    assert_eq!(world.calls, []);
    assert_eq!(world.event("node_unhealthy").node(), Some(&NodeName::from(N)));
    assert_eq!(world.count("waiting_threshold"), 1);
}

#[test]
fn r_04_below_the_threshold_nothing_is_called() {
    let mut world = World::failing(policy());
    for at in [min(3), ms(4, 59) + Duration::from_millis(999)] {
        world.to(at);
        assert_eq!((world.phase(), world.calls.len()), (Shown::Unhealthy, 0));
    }
    assert_eq!(world.count("waiting_threshold"), 1);
}

#[test]
fn r_05_at_the_threshold_there_is_one_call() {
    let mut world = World::failing(policy());
    world.to(min(5));
    assert_eq!(world.called_at(), [min(5)]);
    assert_eq!((world.phase(), world.attempts()), (Shown::WaitingReboot, Some(1)));
    assert_eq!(world.count("reboot_initiated"), 1);
    let Event::Attempt { mode, step, count, .. } = world.event("reboot_initiated") else { panic!() };
    assert_eq!((*mode, *step, *count), (Mode::Active, Step::Reboot, 1));
    let decision = &world.calls[0].1;
    assert_eq!(decision.attempt.to_string(), format!("uid-node-1/{}/1", world.zero.unix_ms()));
    assert_eq!(decision.because, [CheckerKey::from("ready")]);
}

#[test]
fn r_06_monitor_only_counts_the_same_and_calls_nobody() {
    let mut world = World::failing(monitor());
    world.to(min(5));
    assert_eq!(world.calls, []);
    assert_eq!((world.phase(), world.attempts()), (Shown::WaitingReboot, Some(1)));
    let Event::Attempt { mode, .. } = world.event("reboot_initiated") else { panic!() };
    assert_eq!(*mode, Mode::Monitor);
}

#[test]
fn r_07_every_checker_has_its_own_threshold() {
    let two = [("a", min(10)), ("b", min(30))];
    let mut both = World::empty(policy(), &two);
    both.add(N);
    both.sync();
    both.say(N, "a", Say::Fail);
    both.say(N, "b", Say::Fail);
    both.to(min(10));
    assert_eq!(both.called_at(), [min(10)]);

    let mut only_b = World::empty(policy(), &two);
    only_b.add(N);
    only_b.sync();
    only_b.say(N, "b", Say::Fail);
    only_b.to(min(30));
    assert_eq!(only_b.called_at(), [min(30)]);
}

/// DiskPressure fails from T, NodeReady from T+29:00 to T+29:10.
fn disk_then_one_tick_of_ready(policy: Policy) -> World {
    let mut world = World::empty(policy, &[("disk", min(30)), ("ready", min(5))]);
    world.add(N);
    world.sync();
    world.say(N, "disk", Say::Fail);
    world.to(min(29));
    world.say(N, "ready", Say::Fail);
    world.to(min(29));
    world
}

#[test]
fn r_08_one_checkers_tick_does_not_use_anothers_age() {
    let mut world = disk_then_one_tick_of_ready(policy());
    world.to(ms(29, 10));
    world.say(N, "ready", Say::Pass);
    world.to(min(30));
    assert_eq!(world.called_at(), [min(30)]);
}

#[test]
fn r_09_the_shared_timer_acts_as_the_original_did() {
    let world = disk_then_one_tick_of_ready(Policy { compat_shared_timer: true, ..policy() });
    assert_eq!(world.called_at(), [min(29)]);
}

#[test]
fn r_10_threshold_zero_means_the_next_tick() {
    for compat_shared_timer in [false, true] {
        let policy = Policy { compat_shared_timer, ..policy() };
        let mut world = World::empty(policy, &[("a", Duration::ZERO), ("b", min(10))]);
        world.add(N);
        world.sync();
        world.say(N, "a", Say::Fail);
        world.say(N, "b", Say::Fail);
        world.settle();
        assert_eq!(world.called_at(), []);
        world.to(ms(0, 10));
        assert_eq!(world.called_at(), [ms(0, 10)]);
    }
}

#[test]
fn r_11_a_threshold_is_cut_to_a_day_and_overridden_by_the_operator() {
    let mut long = World::empty(policy(), &[("a", min(48 * 60))]);
    long.add(N);
    long.sync();
    long.say(N, "a", Say::Fail);
    long.to(min(24 * 60));
    assert_eq!(long.called_at(), [min(24 * 60)]);

    let thresholds = [(CheckerKey::from("ready"), min(2))].into();
    let mut overridden = World::failing(Policy { thresholds, ..policy() });
    overridden.to(min(2));
    assert_eq!(overridden.called_at(), [min(2)]);
}

#[test]
fn r_12_the_present_verdicts_threshold_counts() {
    let mut world = World::empty(policy(), &[("a", min(10))]);
    world.add(N);
    world.sync();
    world.say(N, "a", Say::Fail);
    world.to(min(6));
    assert_eq!(world.calls, []);
    world.threshold(N, "a", min(4));
    world.to(min(6));
    assert_eq!(world.called_at(), [min(6)]);
}

#[test]
fn r_13_a_panic_in_one_evaluation_stops_nobody_else() {
    let mut world = World::empty(policy(), &[("ready", min(5))]);
    for i in 0..10 {
        world.add(&format!("node-{i}"));
    }
    world.fleet.panics_on = Some(NodeName::from("node-3"));
    world.sync();
    assert_eq!(world.fleet.nodes().filter(|view| view.evaluated).count(), 9);
    let evaluate = |(_, event): &&(Duration, Event)| {
        matches!(event, Event::ReconcileError { reason: ReconcileError::Evaluate, .. })
    };
    assert_eq!(world.events.iter().filter(evaluate).count(), 1);

    world.fleet.panics_on = None;
    world.to(ms(0, 10));
    assert_eq!(world.fleet.nodes().filter(|view| view.evaluated).count(), 10);
}

#[test]
fn r_14_with_the_old_boot_id_the_second_call_comes_when_the_window_ends() {
    let mut world = rebooted(policy());
    world.to(R + ms(9, 59) + Duration::from_millis(999));
    assert_eq!(world.called_at(), [R]);
    world.to(R + min(10));
    assert_eq!(world.called_at(), [R, R + min(10)]);
    assert_eq!(world.count("reboot_retry"), 1);
}

/// A GPU node that fails from T.
fn gpu_failing() -> World {
    let mut world = World::new(policy());
    world.gpu(N, Some("8"));
    world.say(N, "ready", Say::Fail);
    world.to(R);
    world
}

#[test]
fn r_15_a_gpu_node_waits_longer() {
    let mut world = gpu_failing();
    world.to(R + min(30));
    assert_eq!(world.called_at(), [R]);
    world.to(R + min(40));
    assert_eq!((world.called_at(), world.attempts()), (vec![R, R + min(40)], Some(2)));
}

#[test]
fn r_16_a_vanishing_gpu_label_does_not_shorten_the_window() {
    let mut world = gpu_failing();
    world.to(R + min(5));
    world.gpu(N, None);
    world.to(R + min(40));
    assert_eq!(world.called_at(), [R, R + min(40)]);
}

#[test]
fn r_17_an_appearing_gpu_label_lengthens_the_window() {
    let mut world = rebooted(policy());
    world.to(R + min(5));
    world.gpu(N, Some("8"));
    world.to(R + min(40));
    assert_eq!(world.called_at(), [R, R + min(40)]);
}

#[test]
fn r_18_exactly_max_reboots_are_issued() {
    let mut world = World::failing(Policy { max_reboots: 3, ..policy() });
    world.to(R + min(29));
    assert_eq!(world.phase(), Shown::WaitingReboot);
    world.to(R + min(30));
    assert_eq!(world.called_at(), [R, R + min(10), R + min(20)]);
    assert_eq!(world.fleet.record(N).unwrap().phase, Phase::Failed(Cause::Attempts));
    assert_eq!(world.holds()[0], Constraint::AttemptsExhausted);
}

#[test]
fn r_19_monitor_only_fails_in_the_same_way() {
    let mut world = World::failing(Policy { max_reboots: 3, ..monitor() });
    world.to(R + min(30));
    assert_eq!((world.phase(), world.attempts(), world.calls.len()), (Shown::Failed, Some(3), 0));
}

#[test]
fn r_20_a_failed_node_only_grows_older() {
    let mut world = World::failing(Policy { max_reboots: 3, ..policy() });
    world.to(R + min(30));
    let events = world.events.len();
    world.to(R + min(330));
    assert_eq!((world.events.len(), world.calls.len()), (events, 3));
    assert_eq!(world.view().red_for, Some(R + min(330)));
}

#[test]
fn r_21_a_failed_call_is_no_attempt() {
    let mut world = with_executor(policy(), failed);
    world.add("node-2");
    world.list();
    world.to(min(5));
    assert_eq!((world.phase(), world.attempts(), world.failed_calls()), (Shown::Unhealthy, Some(0), Some(1)));
    assert_eq!((world.count("reboot_failed"), world.count("reboot_initiated")), (1, 0));
    assert!(world.fleet.node("node-2").unwrap().evaluated);
}

#[test]
fn r_22_failed_calls_back_off() {
    let mut world = with_executor(policy(), failed);
    world.to(min(20));
    let gaps: Vec<u128> = world.called_at().windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(gaps, [10_719, 21_438, 42_876, 85_752, 171_504, 321_570]);
}

#[test]
fn r_23_thirty_failed_calls_give_up() {
    let mut world = with_executor(policy(), failed);
    world.to(min(200));
    assert_eq!((world.calls.len(), world.phase()), (30, Shown::Failed));
    let Event::GaveUp { cause, failed_calls, .. } = world.event("gave_up") else { panic!() };
    assert_eq!((*cause, *failed_calls), (Cause::Calls, 30));
    let (at, _) = world.events.iter().find(|(_, event)| event.kind() == "gave_up").unwrap();
    assert_eq!(*at, world.called_at()[29]);
}

#[test]
fn r_24_failed_calls_give_up_from_waiting_reboot() {
    let calls = Cell::new(0);
    let mut world = with_executor(policy(), move || {
        calls.set(calls.get() + 1);
        if calls.get() == 1 { Outcome::Done } else { failed() }
    });
    world.to(min(120));
    assert_eq!(world.phase(), Shown::WaitingReboot);
    world.to(min(240));
    assert_eq!((world.phase(), world.calls.len()), (Shown::Failed, 31));
}

#[test]
fn r_25_a_success_clears_no_failed_calls() {
    let calls = Cell::new(0);
    let mut world = with_executor(policy(), move || {
        calls.set(calls.get() + 1);
        if calls.get() == 21 { Outcome::Done } else { failed() }
    });
    world.to(min(300));
    assert_eq!((world.phase(), world.calls.len(), world.failed_calls()), (Shown::Failed, 31, Some(30)));
}

#[test]
fn r_26_with_both_budgets_spent_the_cause_is_attempts() {
    let calls = Cell::new(0);
    let policy = Policy { max_reboots: 1, max_failed_calls: 1, ..policy() };
    let mut world = with_executor(policy.clone(), move || {
        calls.set(calls.get() + 1);
        if calls.get() == 1 { failed() } else { Outcome::Done }
    });
    world.to(min(5));
    assert_eq!(world.phase(), Shown::Failed, "calls are spent first");

    let mut world = rebooted(Policy { max_failed_calls: 2, ..policy.clone() });
    let mut lowered = policy;
    lowered.max_failed_calls = 0;
    world.fleet.set_policy(lowered, world.now);
    world.to(R + min(10));
    assert_eq!(world.fleet.record(N).unwrap().phase, Phase::Failed(Cause::Attempts));
}

#[test]
fn r_27_a_call_that_may_have_had_an_effect_is_an_attempt() {
    let mut world = with_executor(policy(), unconfirmed);
    world.to(R + ms(9, 50));
    assert_eq!((world.called_at(), world.attempts(), world.phase()), (vec![R], Some(1), Shown::WaitingReboot));
    assert_eq!(world.count("reboot_unconfirmed"), 1);
    world.to(R + min(10));
    assert_eq!(world.calls.len(), 2);
}

#[test]
fn r_28_what_each_outcome_counts() {
    let retry = || Outcome::Failed { why: "503".to_owned(), retry_after: Some(Duration::from_secs(120)) };
    let mut world = with_executor(policy(), retry);
    world.to(R);
    assert_eq!((world.attempts(), world.failed_calls()), (Some(0), Some(1)));
    world.to(R + ms(1, 59));
    assert_eq!(world.called_at(), [R]);
    world.to(R + min(2));
    assert_eq!(world.called_at(), [R, R + min(2)]);

    let mut world = with_executor(policy(), || refused(Refuser::Executor));
    world.to(R);
    assert_eq!((world.attempts(), world.failed_calls(), world.phase()), (Some(0), Some(1), Shown::Unhealthy));

    let long = || Outcome::Failed { why: "503".to_owned(), retry_after: Some(min(600)) };
    let mut world = with_executor(policy(), long);
    world.to(R + min(60));
    assert_eq!(world.called_at(), [R, R + min(60)], "Retry-After is cut to an hour");
}

#[test]
fn r_29_while_a_call_is_out_there_is_no_other() {
    let mut world = World::failing(policy());
    world.add("node-2");
    world.list();
    world.latency = Duration::from_secs(25);
    world.to(min(5));
    assert_eq!(world.holds(), [Constraint::Call]);
    world.say("node-2", "ready", Say::Fail);
    world.to(ms(5, 20));
    assert_eq!(world.calls.len(), 1);
    assert_eq!(world.fleet.node("node-2").unwrap().phase, Shown::Unhealthy);
    world.to(ms(5, 25));
    assert_eq!(world.phase(), Shown::WaitingReboot);
}

#[test]
fn r_30_a_hold_of_the_gate_moves_no_count() {
    let mut world = World::failing(policy());
    world.inbox.push(Input::Store { writable: false });
    world.to(min(8));
    assert_eq!((world.holds(), world.attempts(), world.calls.len()), (vec![Constraint::StaleView], Some(0), 0));
    world.inbox.push(Input::Store { writable: true });
    world.to(min(9));
    assert_eq!(world.called_at(), [min(8)]);
}

#[test]
fn r_31_a_ladder_without_a_step_left_fails_and_a_last_look_counts_nothing() {
    let mut world = World::failing(ladder(&[(Step::Notify, 1)]));
    world.to(min(14));
    assert_eq!(world.phase(), Shown::Unhealthy);
    world.to(min(15));
    assert_eq!((world.fleet.record(N).unwrap().phase, world.calls.len()), (Phase::Failed(Cause::Attempts), 1));

    let calls = Rc::new(Cell::new(0));
    let counter = calls.clone();
    let mut world = with_executor(policy(), move || {
        counter.set(counter.get() + 1);
        if counter.get() == 1 { refused(Refuser::LastLook) } else { Outcome::Done }
    });
    world.to(min(5));
    assert_eq!((world.attempts(), world.failed_calls()), (Some(0), Some(0)));
    world.to(min(6));
    assert_eq!(world.called_at(), [min(5), ms(5, 10)]);
}

#[test]
fn r_32_draining_is_shown_and_the_reboot_follows() {
    let mut world = World::failing(ladder(&[(Step::Drain, 1), (Step::Reboot, 5)]));
    world.latency = Duration::from_secs(30);
    world.to(min(5));
    assert_eq!(world.phase(), Shown::Draining);
    world.to(ms(5, 30));
    assert_eq!(world.phase(), Shown::Unhealthy);
    let steps: Vec<Step> = world.calls.iter().map(|(_, decision)| decision.step).collect();
    assert_eq!(steps, [Step::Drain, Step::Reboot]);
    world.to(min(6));
    assert_eq!(world.phase(), Shown::WaitingReboot);
}

/// Rebooted at R, a new boot id and green at R+3.
fn recovered() -> World {
    let mut world = rebooted(policy());
    world.to(R + min(3));
    world.boot(N, "boot-2");
    world.say(N, "ready", Say::Pass);
    world.to(R + min(3));
    world
}

#[test]
fn r_33_a_new_boot_id_and_green_checks_recover() {
    let world = recovered();
    assert_eq!((world.phase(), world.attempts()), (Shown::Healthy, Some(1)));
    assert_eq!(world.count("reboot_verified"), 1);
    assert_eq!(world.count("foreign_reboot"), 0);
    assert_eq!(world.view().red_for, Some(Duration::ZERO));
    assert_eq!(world.gauge(Shown::WaitingReboot), Some(0));
    let Event::Recovered { previous, attempts_kept, .. } = world.event("node_recovered") else { panic!() };
    assert_eq!((*previous, *attempts_kept), (Shown::WaitingReboot, 1));
}

#[test]
fn r_34_an_incident_is_forgiven_after_the_stability_window() {
    let mut world = recovered();
    world.to(R + ms(12, 59));
    assert_eq!(world.attempts(), Some(1));
    assert_eq!(world.store.len(), 1);
    world.to(R + min(13));
    assert_eq!((world.attempts(), world.count("incident_forgiven")), (None, 1));
    assert_eq!(world.store.len(), 0);
}

#[test]
fn r_35_without_a_stability_window_green_forgives_at_once() {
    let mut world = rebooted(Policy { stability_window: Duration::ZERO, ..policy() });
    world.say(N, "ready", Say::Pass);
    world.to(R);
    assert_eq!((world.phase(), world.attempts()), (Shown::Healthy, None));
}

#[test]
fn r_36_a_relapse_inside_the_window_waits_for_it() {
    let mut world = recovered();
    world.to(R + min(4));
    world.say(N, "ready", Say::Fail);
    world.to(R + min(4));
    assert_eq!(world.phase(), Shown::WaitingReboot);
    world.to(R + min(10));
    assert_eq!(world.called_at(), [R, R + min(10)]);
}

#[test]
fn r_37_a_relapse_after_the_window_waits_for_the_threshold() {
    let mut world = rebooted(policy());
    world.to(R + min(8));
    world.say(N, "ready", Say::Pass);
    world.to(R + min(12));
    world.say(N, "ready", Say::Fail);
    world.to(R + min(12));
    assert_eq!(world.phase(), Shown::Unhealthy);
    world.to(R + min(17));
    assert_eq!((world.called_at(), world.attempts()), (vec![R, R + min(17)], Some(2)));
}

#[test]
fn r_38_a_node_that_is_green_for_three_minutes_after_every_reboot_fails() {
    let mut world = World::failing(policy());
    let mut at = R;
    for calls in 1..=5 {
        world.to(at);
        assert_eq!(world.calls.len(), calls);
        world.to(at + min(1));
        world.say(N, "ready", Say::Pass);
        world.to(at + min(4));
        world.say(N, "ready", Say::Fail);
        at += min(10);
    }
    world.to(at);
    assert_eq!((world.phase(), world.calls.len()), (Shown::Failed, 5));
}

#[test]
fn r_39_a_failed_node_that_was_green_for_too_short_fails_again() {
    for (green, again) in [(min(5), Shown::Failed), (min(11), Shown::WaitingReboot)] {
        let mut world = World::failing(Policy { max_reboots: 1, ..policy() });
        world.to(min(15));
        assert_eq!(world.phase(), Shown::Failed);
        world.say(N, "ready", Say::Pass);
        world.to(min(15) + green);
        world.say(N, "ready", Say::Fail);
        world.to(min(20) + green);
        assert_eq!(world.phase(), again, "green for {green:?}");
        assert_eq!(world.calls.len(), if again == Shown::Failed { 1 } else { 2 });
    }
}

#[test]
fn r_40_green_with_the_old_boot_id_is_healthy_and_not_verified() {
    let mut world = rebooted(policy());
    world.say(N, "ready", Say::Pass);
    world.to(R + min(1));
    assert_eq!((world.phase(), world.count("reboot_verified")), (Shown::Healthy, 0));
}

#[test]
fn r_41_a_new_boot_id_alone_does_not_end_the_wait() {
    let mut world = rebooted(policy());
    world.boot(N, "boot-2");
    world.to(R + ms(9, 50));
    assert_eq!((world.phase(), world.calls.len()), (Shown::WaitingReboot, 1));
    world.to(R + min(10));
    assert_eq!(world.calls.len(), 2);
}

#[test]
fn r_42_a_window_that_ends_with_the_old_boot_id_is_said_so() {
    let mut world = rebooted(policy());
    world.to(R + min(10));
    let Event::Verification { result, .. } = world.event("reboot_not_observed") else { panic!() };
    assert_eq!(*result, Verification::NotObserved);
    assert_eq!((world.count("reboot_not_observed"), world.calls.len()), (1, 2));
}

#[test]
fn r_43_the_age_stands_still_while_a_checker_is_unknown() {
    let mut world = World::failing(policy());
    world.to(min(4));
    world.say(N, "ready", Say::Unknown);
    world.to(min(5));
    world.say(N, "ready", Say::Fail);
    world.to(min(6));
    assert_eq!(world.called_at(), [min(6)]);
}

#[test]
fn r_44_all_unknown_is_unknown_for_ever() {
    let mut world = World::empty(policy(), &[("ready", min(5))]);
    world.add(N);
    world.say(N, "ready", Say::Unknown);
    world.sync();
    world.to(min(24 * 60));
    assert_eq!((world.phase(), world.calls.len()), (Shown::Unknown, 0));
}

#[test]
fn r_45_a_checker_that_is_unknown_for_long_takes_no_part() {
    let mut world = World::empty(policy(), &[("a", min(10)), ("b", min(10))]);
    world.add(N);
    world.sync();
    world.say(N, "a", Say::Fail);
    world.to(min(1));
    world.say(N, "a", Say::Unknown);
    world.to(ms(5, 59));
    assert_eq!((world.phase(), world.count("checker_left")), (Shown::Unhealthy, 0));
    world.to(min(6));
    assert_eq!((world.phase(), world.count("checker_left")), (Shown::Healthy, 1));
}

#[test]
fn r_46_an_unknown_checker_forgives_nothing() {
    let mut world = recovered();
    world.to(R + min(8));
    world.say(N, "ready", Say::Unknown);
    world.to(R + min(12));
    world.say(N, "ready", Say::Pass);
    world.to(R + ms(16, 59));
    assert_eq!(world.attempts(), Some(1));
    world.to(R + min(17));
    assert_eq!(world.attempts(), None);
}

#[test]
fn r_47_an_incident_survives_that_all_checkers_leave() {
    let mut world = rebooted(policy());
    world.say(N, "ready", Say::Unknown);
    world.to(R + min(5));
    assert_eq!((world.phase(), world.attempts()), (Shown::Unknown, Some(1)));
    world.to(R + min(20));
    world.say(N, "ready", Say::Fail);
    world.to(R + min(20));
    assert_eq!((world.phase(), world.attempts()), (Shown::Unhealthy, Some(1)));
}

#[test]
fn r_48_a_removed_checker_takes_its_failure_with_it() {
    let mut world = World::empty(policy(), &[("a", min(5)), ("b", min(5))]);
    world.add(N);
    world.sync();
    world.say(N, "a", Say::Fail);
    world.to(min(1));
    assert_eq!(world.phase(), Shown::Unhealthy);
    world.inbox.push(Input::CheckerRemoved(CheckerKey::from("a")));
    world.to(min(1));
    assert_eq!((world.phase(), world.count("checker_removed")), (Shown::Healthy, 1));
    let keys: Vec<&str> = world.view().checkers().map(|checker| checker.key.as_str()).collect();
    assert_eq!(keys, ["b"]);
}

fn starting(starting: bool) -> Lifecycle {
    Lifecycle { starting, ..Lifecycle::default() }
}

#[test]
fn r_49_a_starting_nodes_failures_do_not_count() {
    let mut world = World::empty(policy(), &[("ready", min(5))]);
    world.add(N);
    world.sync();
    world.lifecycle(N, starting(true));
    world.say(N, "ready", Say::Fail);
    world.to(ms(5, 1));
    assert_eq!(world.count("node_unhealthy"), 0);
    world.lifecycle(N, starting(false));
    world.to(ms(5, 1));
    assert_eq!(world.phase(), Shown::Unhealthy);
    world.to(ms(10, 1));
    assert_eq!(world.called_at(), [ms(10, 1)]);
}

#[test]
fn r_50_a_start_up_hold_keeps_the_gate_shut() {
    let mut world = World::failing(policy());
    let until = world.zero + ms(7, 5);
    world.lifecycle(N, Lifecycle { hold_until: Some(until), ..Lifecycle::default() });
    world.to(min(6));
    assert_eq!(world.holds(), [Constraint::NotJudgeable]);
    assert_eq!(world.report().earliest, Some(until));
    world.to(min(8));
    assert_eq!(world.called_at(), [ms(7, 5)]);
}

#[test]
fn r_51_a_starting_node_whose_checks_pass_is_healthy() {
    let mut world = World::empty(policy(), &[("ready", min(5))]);
    world.add(N);
    world.inbox.push(Input::Evidence { live: true });
    world.sync();
    world.lifecycle(N, starting(true));
    world.settle();
    assert_eq!(world.phase(), Shown::Healthy);
}

#[test]
fn r_52_an_excluded_node_is_left_alone_and_keeps_its_counts() {
    let mut world = rebooted(policy());
    world.to(R + min(10));
    assert_eq!(world.attempts(), Some(2));
    world.exclude(N, true);
    world.to(R + min(10));
    let counted: u32 = world.view().checkers().map(|checker| checker.fails).sum();
    world.to(R + min(40));
    assert_eq!((world.phase(), world.holds(), world.calls.len()), (Shown::Unknown, vec![Constraint::Excluded], 2));
    let counts: u32 = world.view().checkers().map(|checker| checker.fails).sum();
    assert_eq!(counts - counted, 30 * 6);
    world.exclude(N, false);
    world.to(R + min(40));
    assert_eq!((world.phase(), world.attempts()), (Shown::Unhealthy, Some(2)));
}

#[test]
fn r_53_a_foreign_reboot_with_a_grace_begins_the_ages_anew() {
    for (new_grace, age) in [(true, Duration::ZERO), (false, min(4))] {
        let mut world = World::failing(policy());
        world.to(min(4));
        world.boot(N, "boot-2");
        world.lifecycle(N, Lifecycle { new_grace, ..Lifecycle::default() });
        world.settle();
        let ages: Vec<_> = world.view().checkers().map(|checker| checker.failing_age).collect();
        assert_eq!(ages, [Some(age)]);
        assert_eq!(world.count("foreign_reboot"), 1);
    }
}

#[test]
fn r_54_while_the_watch_is_dead_no_time_is_observed() {
    let mut world = World::failing(policy());
    world.to(min(2));
    world.evidence(false);
    world.to(min(12));
    assert!(world.holds().contains(&Constraint::StaleView));
    world.evidence(true);
    world.to(min(16));
    assert_eq!(world.called_at(), [min(15)]);
}

#[test]
fn r_55_three_ticks_of_a_standstill_count() {
    let mut world = World::failing(policy());
    world.to(min(1));
    world.stopped_until(min(11));
    world.to(min(15));
    assert_eq!(world.called_at(), [ms(14, 30)]);
}

#[test]
fn r_56_a_restart_does_not_shorten_the_window() {
    let mut world = rebooted(policy());
    world.to(R + min(2));
    world.restart(policy());
    assert_eq!(world.phase(), Shown::WaitingReboot);
    world.to(R + min(10));
    assert_eq!(world.called_at(), [R, R + min(10)]);
}

#[test]
fn r_57_a_call_found_at_start_may_have_happened() {
    let mut world = World::failing(policy());
    world.latency = min(1);
    world.to(min(5));
    world.to(ms(5, 20));
    world.restart(policy());
    assert_eq!((world.phase(), world.attempts()), (Shown::WaitingReboot, Some(1)));
    assert_eq!(world.count("reboot_unconfirmed"), 1);
    world.latency = Duration::ZERO;
    world.to(ms(14, 50));
    assert_eq!(world.calls.len(), 1);
    world.to(min(15));
    assert_eq!(world.calls.len(), 2);
}

#[test]
fn r_58_a_restart_keeps_failed_and_does_not_stop_an_age() {
    let mut world = World::failing(Policy { max_reboots: 1, ..policy() });
    world.to(min(15));
    world.restart(Policy { max_reboots: 1, ..policy() });
    assert_eq!(world.phase(), Shown::Failed);

    let mut world = World::failing(policy());
    for minutes in [3, 6, 9] {
        world.to(min(minutes));
        world.restart(policy());
    }
    let at = world.called_at()[0];
    assert!(at >= min(5) && at <= min(9), "{at:?}");
}

#[test]
fn r_59_the_switch_to_active_mode_reboots_nobody() {
    let mut world = World::failing(Policy { max_reboots: 1, ..monitor() });
    world.to(min(16));
    assert_eq!(world.phase(), Shown::Failed);
    world.restart(policy());
    assert_eq!((world.phase(), world.attempts()), (Shown::Unhealthy, Some(0)));
    world.to(min(21));
    assert_eq!(world.called_at(), [min(21)]);
}

#[test]
fn r_59_nor_does_a_switch_by_reload() {
    let mut world = World::failing(monitor());
    world.to(min(16));
    world.fleet.set_policy(policy(), world.now);
    world.settle();
    assert_eq!((world.phase(), world.attempts()), (Shown::Unhealthy, Some(0)));
    world.to(ms(20, 50));
    assert_eq!(world.calls.len(), 0);
    world.to(min(21));
    assert_eq!(world.calls.len(), 1);
}

#[test]
fn r_60_the_same_machine_has_its_attempts_back() {
    for (machine, attempts) in [("machine-node-1", Some(1)), ("another", Some(0)), ("", Some(0))] {
        let mut world = rebooted(policy());
        world.delete(N);
        world.to(R);
        assert_eq!((world.names().len(), world.count("node_gone")), (0, 1));
        world.to(R + min(59));
        let node = world.add(N);
        node.uid = crate::node::Uid::from("uid-2");
        node.system_uuid = Arc::from(machine);
        world.apply(N, |_| {});
        world.to(R + min(59));
        assert_eq!(world.attempts(), attempts, "{machine}");
        assert_eq!(world.phase(), Shown::Unhealthy);
    }
}

#[test]
fn r_60_after_the_return_window_nothing_is_remembered() {
    let mut world = rebooted(policy());
    world.delete(N);
    world.to(R + min(60));
    assert_eq!(world.store.len(), 0);
    world.add(N);
    world.apply(N, |_| {});
    world.to(R + min(60));
    assert_eq!(world.attempts(), Some(0));
}

#[test]
fn r_61_a_failing_list_is_counted_and_changes_nothing() {
    let mut world = World::failing(policy());
    world.inbox.push(Input::WatchFailed { reason: ReconcileError::ListNodes });
    world.settle();
    let listed = Event::ReconcileError { reason: ReconcileError::ListNodes, node: None, detail: None };
    assert_eq!(world.events.iter().filter(|(_, event)| *event == listed).count(), 1);
    assert_eq!(world.phase(), Shown::Unhealthy);
    world.list();
    world.to(min(5));
    assert_eq!(world.calls.len(), 1);
}

#[test]
fn r_62_an_empty_list_is_believed_after_five_minutes() {
    let mut world = World::empty(policy(), &[("ready", min(5))]);
    for i in 0..10 {
        world.add(&format!("node-{i}"));
    }
    world.sync();
    for seconds in [0, 100, 200, 299] {
        world.to(Duration::from_secs(seconds));
        world.inbox.push(Input::Listed(Vec::new()));
        world.settle();
        assert_eq!(world.fleet.len(), 10);
    }
    assert_eq!(world.count("reconcile_error"), 4);
    world.to(Duration::from_secs(300));
    world.inbox.push(Input::Listed(Vec::new()));
    world.settle();
    assert_eq!(world.fleet.len(), 0);
}

#[test]
fn r_63_an_attempt_in_the_future_ends_one_window_after_start() {
    let mut world = rebooted(policy());
    world.now = world.now - min(180);
    world.zero = world.now;
    world.restart(policy());
    world.to(ms(9, 59));
    assert_eq!(world.calls.len(), 1);
    world.to(min(10));
    assert_eq!(world.calls.len(), 2);
}

#[test]
fn r_66_the_first_condition_of_a_type_is_the_one_that_counts() {
    let condition = |status: &str| crate::node::Condition {
        kind: Arc::from("Ready"),
        status: Arc::from(status),
        reason: Arc::from(""),
        message: Arc::from(""),
        last_transition: None,
    };
    let mut node = Node::named(N);
    node.conditions = Box::new([condition("False"), condition("True")]);
    assert_eq!(node.condition("Ready").map(|ready| &*ready.status), Some("False"));
}

#[test]
fn r_68_a_node_that_lost_all_its_gpus_is_still_a_gpu_node() {
    for allocatable in [Some("7"), Some("0"), Some("7500m"), None] {
        let mut node = Node::named(N);
        set_label(&mut node, crate::node::GPU_COUNT_LABEL, Some("8"));
        node.allocatable = allocatable.map(|a| (Arc::from("nvidia.com/gpu"), Arc::from(a))).into_iter().collect();
        assert!(node.is_gpu());
    }
}

#[test]
fn r_79_ten_thousand_reasons_are_seventeen_label_values() {
    let mut world = World::empty(policy(), &[("a", min(5))]);
    for i in 0..100 {
        world.add(&format!("node-{i}"));
    }
    world.sync();
    for round in 0..100 {
        for i in 0..100 {
            world.say_reason(&format!("node-{i}"), "a", &format!("reason {round} {i}"));
        }
        world.settle();
    }
    let labels: std::collections::BTreeSet<String> = world
        .fleet
        .nodes()
        .flat_map(|n| n.checkers().map(|c| c.reason.unwrap().to_string()).collect::<Vec<_>>())
        .collect();
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), ["Other"]);
}

#[test]
fn r_80_there_is_one_waiting_event_per_window() {
    for policy in [policy(), monitor()] {
        let mut world = World::failing(policy);
        world.to(R + ms(49, 50));
        assert_eq!((world.phase(), world.count("waiting_reboot")), (Shown::WaitingReboot, 5));
    }
}

#[test]
fn r_81_phases_are_shown_by_their_names_and_an_unknown_one_is_unknown() {
    let shown: Vec<&str> = Shown::ALL.iter().map(|phase| phase.as_str()).collect();
    let names = ["Unknown", "Healthy", "Unhealthy", "WaitingReboot", "Draining", "Replacing", "Failed"];
    assert_eq!(shown, names);
    let phases = [
        Phase::Unknown,
        Phase::Healthy,
        Phase::Unhealthy,
        Phase::WaitingReboot,
        Phase::Failed(Cause::Attempts),
        Phase::Failed(Cause::Calls),
    ];
    for phase in phases {
        let json = serde_json::to_string(&phase).unwrap();
        assert_eq!(serde_json::from_str::<Phase>(&json).unwrap(), phase);
    }
    assert_eq!(serde_json::from_str::<Phase>("\"Rebooting\"").unwrap(), Phase::Unknown);
}

#[test]
fn g_02_a_full_budget_holds_the_others_and_names_the_first() {
    let mut world = World::empty(Policy { concurrent: ConcurrentLimit::Fixed(1), ..policy() }, &[("ready", min(5))]);
    for name in [N, "node-2", "node-3"] {
        world.add(name);
    }
    world.sync();
    for name in [N, "node-2", "node-3"] {
        world.say(name, "ready", Say::Fail);
    }
    world.to(min(5));
    assert_eq!(world.calls.len(), 1);
    for name in ["node-2", "node-3"] {
        let report = world.fleet.report(name, world.now).unwrap();
        assert_eq!(report.holds[0].name, Constraint::BudgetConcurrent);
        assert_eq!(report.holds[0].detail, "cluster has 1 of 1 in flight: node-1");
    }
    world.to(min(6));
    world.say(N, "ready", Say::Pass);
    world.to(min(6));
    let called: Vec<&str> = world.calls.iter().map(|(_, decision)| decision.node.as_str()).collect();
    assert_eq!(called, [N, "node-2"]);
}

#[test]
fn a_window_that_ends_frees_the_budget_for_one_never_tried() {
    let mut world = World::empty(Policy { concurrent: ConcurrentLimit::Fixed(1), ..policy() }, &[("ready", min(5))]);
    for name in [N, "node-2"] {
        world.add(name);
    }
    world.sync();
    world.say(N, "ready", Say::Fail);
    world.say("node-2", "ready", Say::Fail);
    world.to(min(15));
    let called: Vec<_> = world.calls.iter().map(|(at, decision)| (*at, decision.node.as_str())).collect();
    assert_eq!(called, [(min(5), N), (min(15), "node-2")]);
}

#[test]
fn a_malformed_node_keeps_its_name_and_is_unknown() {
    let mut world = World::new(policy());
    world.apply(N, |node| {
        node.malformed = Some("spec.taints: expected a list".into());
        node.uid = crate::node::Uid::from("");
    });
    world.to(min(4));
    assert_eq!((world.phase(), world.count("reconcile_error")), (Shown::Healthy, 1));
    assert_eq!(world.report().checkers[0].verdict, Some("unknown"));
    assert_eq!(&*world.report().checkers[0].reason, "malformed-node");
    world.to(min(5));
    assert_eq!(world.phase(), Shown::Unknown);
    world.apply(N, |node| {
        node.malformed = None;
        node.uid = crate::node::Uid::from("uid-node-1");
    });
    world.settle();
    assert_eq!((world.phase(), world.count("node_gone")), (Shown::Healthy, 0));
}

#[test]
fn a_late_answer_is_dropped() {
    let mut world = World::new(policy());
    let changed = |rev: &str, world: &mut World| {
        let node = world.objects.get_mut(&NodeName::from(N)).unwrap();
        set_label(node, "x", Some(rev));
        Input::Applied(Arc::new(node.clone()))
    };
    let first = changed("1", &mut world);
    let first = world.fleet.turn(world.now, vec![first]).checks.remove(0);
    let second = changed("2", &mut world);
    let second = world.fleet.turn(world.now, vec![second]).checks.remove(0);
    let judged = |check: &crate::fleet::Check| Input::Judged {
        check: check.id,
        node: check.node.name.clone(),
        checker: check.checker.clone(),
        verdict: crate::verdict::Verdict::Fail(crate::verdict::Judgement {
            reason: Arc::from("Late"),
            threshold: min(5),
        }),
        remember: true,
    };
    world.fleet.turn(world.now, vec![judged(&first)]);
    assert_eq!(world.phase(), Shown::Healthy);
    world.fleet.turn(world.now, vec![judged(&second), judged(&second)]);
    assert_eq!(world.phase(), Shown::Unhealthy);
}

#[test]
fn an_answer_of_a_checker_that_stopped_meanwhile_is_dropped() {
    let mut world = World::new(policy());
    world.say(N, "ready", Say::Fail);
    let inputs = std::mem::take(&mut world.inbox);
    let check = world.fleet.turn(world.now, inputs).checks.remove(0);
    let stopped = Input::CheckerStopped(CheckerKey::from("ready"));
    let reason = Arc::from("Late");
    let judged = Input::Judged {
        check: check.id,
        node: check.node.name.clone(),
        checker: check.checker,
        verdict: crate::verdict::Verdict::Fail(crate::verdict::Judgement { reason, threshold: min(5) }),
        remember: true,
    };
    world.fleet.turn(world.now, vec![stopped, judged]);
    assert_eq!(world.report().checkers[0].verdict, Some("unknown"));
}

#[test]
fn a_first_evaluation_at_a_tick_is_counted_once() {
    let mut world = World::empty(policy(), &[("ready", min(5))]);
    world.add(N);
    world.inbox.push(Input::CheckerStopped(CheckerKey::from("ready")));
    world.inbox.push(Input::Evidence { live: true });
    world.list();
    world.inbox.push(Input::Tick);
    world.settle();
    assert_eq!(world.view().checkers().next().unwrap().unknowns, 1);
}

#[test]
fn a_call_without_effect_frees_the_budget() {
    for outcome in [failed(), refused(Refuser::Executor), refused(Refuser::LastLook)] {
        let policy = Policy { concurrent: ConcurrentLimit::Fixed(1), ..policy() };
        let mut world = World::empty(policy, &[("ready", min(5))]);
        world.executor = Box::new(move |_| outcome.clone());
        for name in [N, "node-2"] {
            world.add(name);
        }
        world.sync();
        world.say(N, "ready", Say::Fail);
        world.say("node-2", "ready", Say::Fail);
        world.to(min(5));
        let called: Vec<&str> = world.calls.iter().map(|(_, decision)| decision.node.as_str()).collect();
        assert_eq!(called, [N, "node-2"]);
    }
}

/// `supervision` P-79.
#[test]
fn a_stopped_checker_is_unknown_at_once_and_asked_again_when_it_serves() {
    let mut world = World::failing(policy());
    world.inbox.push(Input::CheckerStopped(CheckerKey::from("ready")));
    world.to(min(1));
    assert_eq!(&*world.report().checkers[0].reason, "not-running");
    world.inbox.push(Input::CheckerServes(crate::testing::checker(&CheckerKey::from("ready"))));
    world.to(min(6));
    assert_eq!(world.called_at(), [min(6)]);
}

#[test]
fn what_is_not_remembered_and_what_is_impure_is_asked_at_the_tick() {
    let mut world = World::new(policy());
    let impure = crate::fleet::Checker {
        inputs: Inputs::More { pods: false },
        ..crate::testing::checker(&CheckerKey::from("net"))
    };
    let asked = |turn: &crate::fleet::Turn| turn.checks.iter().map(|c| c.checker.to_string()).collect::<Vec<_>>();
    let now = world.now;
    let turn = world.fleet.turn(now, vec![Input::CheckerServes(impure)]);
    assert_eq!(asked(&turn), ["net"]);
    let answer = |check: &crate::fleet::Check, remember| Input::Judged {
        check: check.id,
        node: check.node.name.clone(),
        checker: check.checker.clone(),
        verdict: crate::verdict::Verdict::Unknown(crate::verdict::Unknown {
            cause: crate::verdict::UnknownCause::Error,
            detail: Arc::from("engine fault"),
        }),
        remember,
    };
    assert_eq!(asked(&world.fleet.turn(now, vec![Input::Tick])), [""; 0], "a check that is out is not repeated");
    world.fleet.turn(now, vec![answer(&turn.checks[0], true)]);
    world.say(N, "ready", Say::Pass);
    let inputs = std::mem::take(&mut world.inbox);
    let turn = world.fleet.turn(now, inputs);
    assert_eq!(asked(&turn), ["net", "NodeReady"]);
    world.fleet.turn(now, vec![answer(&turn.checks[0], true), answer(&turn.checks[1], false)]);
    let turn = world.fleet.turn(now, vec![Input::Tick]);
    assert_eq!(asked(&turn), ["NodeReady", "net"]);
    world.fleet.turn(now, vec![answer(&turn.checks[0], true), answer(&turn.checks[1], true)]);
    assert_eq!(asked(&world.fleet.turn(now, vec![Input::Tick])), ["net"]);
}

#[test]
fn p_51_a_check_from_before_a_swap_counts_once_and_until_the_new_generation_judged() {
    let mut world = World::new(policy());
    let checker = |generation: &str| crate::fleet::Checker {
        generation: Arc::from(generation),
        ..crate::testing::checker(&CheckerKey::from("net"))
    };
    let now = world.now;
    let mut serves = |generation| world.fleet.turn(now, vec![Input::CheckerServes(checker(generation))]).checks;
    let [old, new] = [serves("a"), serves("b")].map(|checks| checks.into_iter().next().unwrap());
    let mut answer = |check: &crate::fleet::Check, reason: &str| {
        let verdict = crate::verdict::Verdict::Pass(crate::verdict::Judgement {
            reason: Arc::from(reason),
            threshold: Duration::from_secs(300),
        });
        let (check, node, checker) = (check.id, check.node.name.clone(), check.checker.clone());
        let awaited = world.fleet.awaits(check, &node, &checker);
        world.fleet.turn(now, vec![Input::Judged { check, node, checker, verdict, remember: true }]);
        let view = world.fleet.node(N).unwrap();
        let said = view.checkers().find(|checker| checker.key.as_str() == "net").unwrap().verdict;
        (said.and_then(|verdict| verdict.judgement()).unwrap().reason.to_string(), awaited)
    };
    assert_eq!(answer(&old, "before"), ("before".to_owned(), true), "nobody else has judged the node yet");
    assert_eq!(answer(&old, "twice"), ("before".to_owned(), false));
    assert_eq!(answer(&new, "new"), ("new".to_owned(), true));
    assert_eq!(answer(&old, "after"), ("new".to_owned(), false));
}

#[test]
fn a_reset_forgets_the_incident_but_not_while_a_call_is_out() {
    let mut world = World::failing(Policy { max_reboots: 1, ..policy() });
    world.latency = ms(0, 25);
    world.to(min(5));
    world.inbox.push(Input::Reset(NodeName::from(N)));
    world.to(ms(15, 25));
    assert_eq!(world.phase(), Shown::Failed);
    world.to(min(16));
    world.inbox.push(Input::Reset(NodeName::from(N)));
    world.settle();
    assert_eq!((world.phase(), world.attempts()), (Shown::Unhealthy, Some(0)));
    world.to(min(21));
    assert_eq!(world.called_at(), [min(5), min(21)]);
}

#[test]
fn a_manual_reboot_opens_a_window_and_counts_no_attempt() {
    let mut world = World::failing(policy());
    world.to(min(4));
    world.inbox.push(Input::ManualReboot(NodeName::from(N)));
    world.to(ms(13, 50));
    assert_eq!((world.phase(), world.attempts(), world.calls.len()), (Shown::WaitingReboot, Some(0), 0));
    world.to(min(14));
    assert_eq!(world.called_at(), [min(14)]);
}

#[test]
fn a_call_found_at_start_does_not_cut_a_manual_reboots_window_short() {
    let mut world = World::failing(policy());
    world.latency = min(1);
    world.to(ms(5, 10));
    world.inbox.push(Input::ManualReboot(NodeName::from(N)));
    world.to(ms(5, 20));
    world.restart(policy());
    assert_eq!(world.attempts(), Some(1));
    world.to(ms(15, 9));
    assert_eq!((world.calls.len(), world.count("reboot_not_observed")), (1, 0));
    world.to(ms(15, 10));
    assert_eq!((world.calls.len(), world.count("reboot_not_observed")), (2, 1));
}

#[test]
fn an_outcome_for_a_record_that_is_gone_is_only_counted() {
    let mut world = World::failing(Policy { return_window: Duration::ZERO, ..policy() });
    world.latency = min(1);
    world.to(min(5));
    world.delete(N);
    world.to(min(7));
    assert_eq!((world.count("outcome"), world.count("reboot_initiated"), world.store.len()), (1, 0, 0));
}

#[test]
fn a_vanished_nodes_call_is_answered_on_its_record() {
    let mut world = World::failing(policy());
    world.latency = min(1);
    world.to(min(5));
    world.delete(N);
    world.to(min(7));
    let incident = world.fleet.record(N).and_then(|record| record.incident.clone()).unwrap();
    assert_eq!((incident.call, incident.steps[&Step::Reboot].active), (None, 1));
    assert!(world.store[&NodeName::from(N)].contains("\"active\":1"));
}

#[test]
fn health_checks_are_counted_at_the_first_evaluation_and_every_tick() {
    let mut world = World::new(policy());
    world.to(min(1));
    world.say(N, "ready", Say::Fail);
    world.to(min(2));
    let view = world.view();
    let checker = view.checkers().next().unwrap();
    assert_eq!((checker.passes, checker.fails, checker.unknowns), (1 + 6, 6, 0));
}

#[test]
fn ages_are_stored_once_a_minute() {
    let mut world = World::failing(policy());
    let opened = world.writes;
    world.to(ms(4, 59));
    assert_eq!((opened, world.writes), (1, 5));
}

#[test]
fn a_record_is_stored_without_what_does_not_survive() {
    let mut world = World::failing(policy());
    world.to(min(1));
    let json = &world.store[&NodeName::from(N)];
    let opened = world.zero.unix_ms();
    assert_eq!(
        *json,
        format!(
            "{{\"uid\":\"uid-node-1\",\"bootId\":\"boot-node-1\",\"systemUuid\":\"machine-node-1\",\
             \"phase\":\"Unhealthy\",\"since\":{opened},\"mode\":\"active\",\
             \"checkers\":{{\"ready\":{{\"said\":{{\"fail\":{{\"ageMs\":60000}}}}}}}},\
             \"incident\":{{\"opened\":{opened},\"gpu\":false,\"redForMs\":60000,\"steps\":{{}},\
             \"failedCalls\":0,\"manualReboots\":0,\"call\":null,\"window\":null}}}}"
        )
    );
}

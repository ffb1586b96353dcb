//! The ladder: which step is next (`gate` 6). A pure function of what was tried.

use std::collections::BTreeMap;

use crate::decision::Step;
use crate::policy::{Policy, Rung};
use crate::recovery::Tally;

/// The next step, or none once all attempts are used. A step that the executor refused is passed over while
/// there is another.
#[must_use]
pub fn next_step(policy: &Policy, tried: &BTreeMap<Step, Tally>) -> Option<Step> {
    let default = [Rung { step: Step::Reboot, attempts: policy.max_reboots }];
    let rungs = if policy.ladder.is_empty() { &default[..] } else { &policy.ladder[..] };
    let tally = |rung: &Rung| tried.get(&rung.step).copied().unwrap_or_default();
    let left = || rungs.iter().filter(|rung| tally(rung).attempts() < rung.attempts);
    left().find(|rung| !tally(rung).refused).or_else(|| left().next()).map(|rung| rung.step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(active: u32, refused: bool) -> Tally {
        Tally { active, monitor: 0, refused }
    }

    #[track_caller]
    fn check(ladder: &[(Step, u32)], tallies: &[(Step, Tally)], expected: Option<Step>) {
        let ladder = ladder.iter().map(|&(step, attempts)| Rung { step, attempts }).collect();
        let policy = Policy { ladder, max_reboots: 2, ..Policy::default() };
        assert_eq!(next_step(&policy, &tallies.iter().copied().collect()), expected);
    }

    #[test]
    fn without_a_ladder_it_is_reboot_as_often_as_allowed() {
        check(&[], &[], Some(Step::Reboot));
        check(&[], &[(Step::Reboot, tried(1, false))], Some(Step::Reboot));
        check(&[], &[(Step::Reboot, tried(2, false))], None);
        check(&[], &[(Step::Reboot, tried(1, true))], Some(Step::Reboot));
    }

    #[test]
    fn the_first_rung_with_attempts_left_is_next() {
        let ladder = [(Step::Drain, 1), (Step::Reboot, 2)];
        check(&ladder, &[], Some(Step::Drain));
        check(&ladder, &[(Step::Drain, tried(1, false))], Some(Step::Reboot));
        check(&ladder, &[(Step::Drain, tried(1, false)), (Step::Reboot, tried(2, false))], None);
    }

    #[test]
    fn a_refused_step_yields_to_another_and_comes_back_when_none_is_left() {
        let ladder = [(Step::Drain, 1), (Step::Reboot, 2)];
        check(&ladder, &[(Step::Drain, tried(0, true))], Some(Step::Reboot));
        check(&ladder, &[(Step::Drain, tried(0, true)), (Step::Reboot, tried(2, false))], Some(Step::Drain));
    }
}

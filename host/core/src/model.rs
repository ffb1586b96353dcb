//! A slow, obvious model of one node (`recovery` section 8, property 13): `recovery` 4.2 to 4.6 once more, written
//! down as plainly as it reads, evaluated at every turn, in whole milliseconds. It shares no rule with the code it
//! checks, only the types that come in and go out.

use std::collections::{BTreeMap, BTreeSet};

use crate::decision::{Mode, Outcome, Refuser, Step};
use crate::fleet::{Fleet, Input, Turn};
use crate::node::BootId;
use crate::policy::Policy;
use crate::recovery::{Cause, Colour, Phase, Said};
use crate::testing::N;
use crate::time::Time;
use crate::verdict::{CheckerKey, Verdict};

#[derive(Debug)]
pub(crate) struct Model {
    policy: Policy,
    now: i64,
    observed_now: i64,
    live: bool,
    enabled: BTreeSet<CheckerKey>,
    verdicts: BTreeMap<CheckerKey, Verdict>,
    started: bool,
    starting: bool,
    new_grace: bool,
    hold_until: i64,
    excluded: bool,
    gpu_label: bool,
    shown_boot: BootId,
    seen_at: i64,
    boot: BootId,
    phase: Phase,
    colour: Colour,
    says_pass: BTreeSet<CheckerKey>,
    says_fail: BTreeMap<CheckerKey, i64>,
    unknown_for: BTreeMap<CheckerKey, i64>,
    incident: Option<Known>,
}

#[derive(Debug, Default)]
struct Known {
    gpu: bool,
    red_for: i64,
    stable_for: i64,
    attempts: BTreeMap<Step, u32>,
    refused: BTreeSet<Step>,
    failed_calls: u32,
    manual_reboots: u32,
    call: Option<(String, Step)>,
    /// Begin, own length, whether it waits for an effect, whether for a reboot's.
    window: Option<(i64, Option<i64>, bool, bool)>,
}

impl Model {
    pub(crate) fn new(policy: &Policy) -> Self {
        Self {
            policy: policy.clone(),
            now: 0,
            observed_now: 0,
            live: false,
            enabled: BTreeSet::new(),
            verdicts: BTreeMap::new(),
            started: false,
            starting: false,
            new_grace: false,
            hold_until: 0,
            excluded: false,
            gpu_label: false,
            shown_boot: BootId::from(""),
            seen_at: 0,
            boot: BootId::from(""),
            phase: Phase::Unknown,
            colour: Colour::Blank,
            says_pass: BTreeSet::new(),
            says_fail: BTreeMap::new(),
            unknown_for: BTreeMap::new(),
            incident: None,
        }
    }

    /// Whether the executor is called in this turn.
    pub(crate) fn turn(&mut self, now: Time, inputs: &[Input]) -> bool {
        let now = now.unix_ms();
        if self.live {
            self.observed_now += (now - self.now).min(3 * millis(self.policy.tick));
        }
        self.now = now;
        for input in inputs {
            if let Input::Outcome { attempt, outcome } = input {
                self.outcome(attempt.0.as_ref(), outcome);
            }
        }
        for input in inputs {
            match input {
                Input::Listed(nodes) => nodes.iter().for_each(|node| self.node(node)),
                Input::Applied(node) => self.node(node),
                Input::Evidence { live } => self.live = *live,
                Input::CheckerServes(checker) => {
                    self.enabled.insert(checker.key.clone());
                }
                Input::Judged { checker, verdict, .. } => {
                    self.verdicts.insert(checker.clone(), verdict.clone());
                }
                Input::Lifecycle { lifecycle, .. } => {
                    self.starting = lifecycle.starting;
                    self.hold_until = lifecycle.hold_until.map_or(0, Time::unix_ms);
                    self.new_grace |= lifecycle.new_grace;
                }
                Input::Reset(_) => self.reset(),
                Input::ManualReboot(_) => self.manual_reboot(),
                Input::Outcome { .. } | Input::Tick => {}
                Input::Deleted(_)
                | Input::WatchFailed { .. }
                | Input::CheckerStopped(_)
                | Input::CheckerRemoved(_)
                | Input::Pods(_)
                | Input::Store { .. } => panic!("the model does not know {input:?}"),
            }
        }
        if !self.live {
            return false;
        }
        self.started |= !self.enabled.is_empty() && self.verdicts.len() == self.enabled.len();
        self.started && self.evaluate()
    }

    fn node(&mut self, node: &crate::node::Node) {
        self.excluded = node.is_excluded();
        self.gpu_label = node.is_gpu();
        self.shown_boot = node.boot_id.clone();
    }

    fn reset(&mut self) {
        self.grow();
        if self.incident.as_ref().is_some_and(|known| known.call.is_some()) {
            return;
        }
        self.incident = None;
        self.says_fail.values_mut().for_each(|age| *age = 0);
        self.phase = Phase::Unknown;
    }

    fn manual_reboot(&mut self) {
        self.grow();
        let (now, gpu) = (self.now, self.gpu_label);
        let known = self.incident.get_or_insert_with(|| Known { gpu, ..Known::default() });
        known.manual_reboots += 1;
        known.window = Some((now, None, true, true));
        if self.phase == Phase::Unhealthy {
            self.phase = Phase::WaitingReboot;
        }
    }

    /// Lets the clocks grow, by what was in force.
    fn grow(&mut self) {
        let passed = self.observed_now - self.seen_at;
        self.seen_at = self.observed_now;
        for (key, age) in &mut self.says_fail {
            if self.colour == Colour::Red && !self.unknown_for.contains_key(key) {
                *age += passed;
            }
        }
        for unknown_for in self.unknown_for.values_mut() {
            *unknown_for += passed;
        }
        if let Some(known) = &mut self.incident {
            match self.colour {
                Colour::Red => known.red_for += passed,
                Colour::Green => known.stable_for += passed,
                Colour::Grey | Colour::Blank => {}
            }
        }
    }

    fn evaluate(&mut self) -> bool {
        let new_grace = std::mem::take(&mut self.new_grace);
        self.grow();
        // Identity.
        if !self.shown_boot.is_empty() && self.boot != self.shown_boot {
            let first = self.boot.is_empty();
            self.boot = self.shown_boot.clone();
            let out = self.incident.as_ref().is_some_and(|known| known.call.is_some());
            if !first && new_grace && self.phase == Phase::Unhealthy && !out {
                self.says_fail.values_mut().for_each(|age| *age = 0);
                self.incident.iter_mut().for_each(|known| known.red_for = 0);
            }
        }
        if let Some(known) = &mut self.incident {
            known.gpu |= self.gpu_label;
        }
        // Entries.
        let limit = millis(self.policy.unknown_limit);
        for (key, verdict) in &self.verdicts {
            match verdict {
                Verdict::Pass(_) => {
                    self.says_fail.remove(key);
                    self.says_pass.insert(key.clone());
                    self.unknown_for.remove(key);
                }
                Verdict::Fail(_) => {
                    self.says_pass.remove(key);
                    self.says_fail.entry(key.clone()).or_insert(0);
                    self.unknown_for.remove(key);
                }
                Verdict::Unknown(_) => {
                    let unknown_for = *self.unknown_for.entry(key.clone()).or_insert(0);
                    if unknown_for >= limit {
                        self.says_pass.remove(key);
                        self.says_fail.remove(key);
                    }
                }
            }
        }
        if self.excluded {
            self.says_pass.clear();
            self.says_fail.clear();
            self.unknown_for.clear();
        }
        // Colour.
        let gone = |key: &CheckerKey| self.unknown_for.get(key).is_some_and(|unknown_for| *unknown_for >= limit);
        let silent = |key: &CheckerKey| self.unknown_for.contains_key(key);
        let part: Vec<&CheckerKey> = self.verdicts.keys().filter(|key| !self.excluded && !gone(key)).collect();
        let fails = part.iter().any(|key| self.says_fail.contains_key(*key) && !silent(key));
        self.colour = if part.is_empty() {
            Colour::Blank
        } else if fails && !self.starting {
            Colour::Red
        } else if fails || part.iter().any(|key| silent(key)) {
            Colour::Grey
        } else {
            Colour::Green
        };
        if let (Colour::Red | Colour::Blank, Some(known)) = (self.colour, &mut self.incident) {
            known.stable_for = 0;
        }
        self.step();
        let open = matches!(self.phase, Phase::Unhealthy | Phase::WaitingReboot);
        if !open || self.colour != Colour::Red || !self.is_due() {
            return false;
        }
        self.act()
    }

    fn step(&mut self) {
        let reboot_window = self.window().is_some_and(|(_, _, reboot)| reboot);
        match (self.colour, self.phase) {
            (Colour::Red, Phase::Unknown | Phase::Healthy) => {
                let gpu = self.gpu_label;
                let known = self.incident.get_or_insert_with(|| Known { gpu, ..Known::default() });
                known.red_for = 0;
                self.phase = if reboot_window { Phase::WaitingReboot } else { Phase::Unhealthy };
            }
            (Colour::Green, phase) if phase != Phase::Healthy => {
                self.phase = Phase::Healthy;
                self.incident.iter_mut().for_each(|known| known.stable_for = 0);
            }
            (Colour::Blank, Phase::Healthy | Phase::Unhealthy | Phase::WaitingReboot) => self.phase = Phase::Unknown,
            _ => {}
        }
        if self.phase == Phase::Healthy && self.colour == Colour::Green {
            let stable = millis(self.policy.stability_window);
            self.incident.take_if(|known| {
                let blank = known.attempts.values().sum::<u32>() + known.failed_calls + known.manual_reboots == 0;
                known.call.is_none() && (blank || known.stable_for >= stable)
            });
        }
    }

    /// A due node, red and open: gives up, is held, or is granted a step.
    fn act(&mut self) -> bool {
        let window = self.window();
        let next = self.next_step();
        let held = self.hold_until > self.now;
        let known = self.incident.as_mut().unwrap();
        if known.call.is_some() || window.is_some_and(|(_, wait, _)| wait) {
            return false;
        }
        let Some(step) = next else {
            self.phase = Phase::Failed(Cause::Attempts);
            return false;
        };
        if known.failed_calls >= self.policy.max_failed_calls {
            self.phase = Phase::Failed(Cause::Calls);
            return false;
        }
        if window.is_some() || held {
            return false;
        }
        known.call = Some((String::new(), step));
        match self.policy.mode {
            Mode::Active => true,
            Mode::Monitor => {
                self.outcome("", &Outcome::Done);
                false
            }
        }
    }

    fn is_due(&self) -> bool {
        let threshold = |key: &CheckerKey| {
            let judgement = self.verdicts[key].judgement().unwrap();
            millis(judgement.threshold).min(24 * 3_600_000).max(millis(self.policy.tick))
        };
        let failing = || self.says_fail.iter().filter(|(key, _)| !self.unknown_for.contains_key(*key));
        if self.policy.compat_shared_timer {
            let smallest = failing().map(|(key, _)| threshold(key)).min();
            return smallest.is_some_and(|smallest| self.incident.as_ref().unwrap().red_for >= smallest);
        }
        failing().any(|(key, age)| *age >= threshold(key))
    }

    fn next_step(&self) -> Option<Step> {
        let known = self.incident.as_ref()?;
        let rungs: Vec<(Step, u32)> = if self.policy.ladder.is_empty() {
            vec![(Step::Reboot, self.policy.max_reboots)]
        } else {
            self.policy.ladder.iter().map(|rung| (rung.step, rung.attempts)).collect()
        };
        let left: Vec<Step> = rungs
            .iter()
            .filter(|(step, attempts)| known.attempts.get(step).copied().unwrap_or(0) < *attempts)
            .map(|(step, _)| *step)
            .collect();
        let willing = left.iter().find(|step| !known.refused.contains(*step));
        willing.or(left.first()).copied()
    }

    /// The running window: its end, whether it waits for an effect, whether for a reboot's.
    fn window(&self) -> Option<(i64, bool, bool)> {
        let known = self.incident.as_ref()?;
        let (from, length, wait, reboot) = known.window?;
        let class = if known.gpu { self.policy.gpu_reboot_wait } else { self.policy.reboot_wait };
        let end = from + length.unwrap_or(millis(class));
        (self.now < end).then_some((end, wait, reboot))
    }

    fn outcome(&mut self, attempt: &str, outcome: &Outcome) {
        let now = self.now;
        let running = self.window();
        let Some(known) = &mut self.incident else { return };
        let Some((_, step)) = known.call.take_if(|(id, _)| id.is_empty() || id == attempt) else {
            return;
        };
        let class = millis(if known.gpu { self.policy.gpu_reboot_wait } else { self.policy.reboot_wait });
        let window = match outcome {
            Outcome::Done | Outcome::Unconfirmed { .. } => {
                *known.attempts.entry(step).or_insert(0) += 1;
                let none = matches!(step, Step::Cordon | Step::Drain);
                if step == Step::Reboot && self.phase == Phase::Unhealthy {
                    self.phase = Phase::WaitingReboot;
                }
                (now, none.then_some(0), true, step == Step::Reboot)
            }
            Outcome::Refused { by: Refuser::LastLook, .. } => (now, Some(millis(self.policy.tick)), false, false),
            Outcome::Refused { .. } => {
                known.refused.insert(step);
                (now, Some(known.fail(&self.policy, 0)), false, false)
            }
            Outcome::Failed { retry_after, .. } => {
                let asked = retry_after.map_or(0, millis).min(3_600_000);
                (now, Some(known.fail(&self.policy, asked)), false, false)
            }
        };
        // A wait window is never cut short.
        let end = now + window.1.unwrap_or(class);
        if !running.is_some_and(|(until, wait, _)| wait && until > end) {
            known.window = Some(window);
        }
    }

    /// Panics where the fleet differs.
    pub(crate) fn compare(&self, fleet: &Fleet, turn: &Turn, called: bool) {
        assert_eq!(turn.decisions.iter().any(|decision| decision.node.as_str() == N), called, "a call");
        let (Some(view), Some(record)) = (fleet.node(N), fleet.record(N)) else {
            return;
        };
        assert_eq!(view.evaluated, self.started, "evaluated");
        assert_eq!(record.phase, self.phase, "phase");
        let counts = self.incident.as_ref().map(|known| (known.attempts.values().sum::<u32>(), known.failed_calls));
        assert_eq!(view.attempts.zip(view.failed_calls), counts, "attempts and failed calls");
        if !self.live {
            return;
        }
        let open = self.incident.as_ref().filter(|_| self.phase.is_open());
        let red_for = open.map_or(0, |known| known.red_for);
        assert_eq!(view.red_for.map_or(0, millis), red_for, "red_for");
        let ages: BTreeMap<CheckerKey, i64> =
            view.checkers().filter_map(|checker| Some((checker.key.clone(), millis(checker.failing_age?)))).collect();
        assert_eq!(ages, self.says_fail, "ages");
        let pass = |key: &CheckerKey| record.checkers.get(key).and_then(|entry| entry.said) == Some(Said::Pass);
        assert!(self.says_pass.iter().all(pass), "passes");
    }
}

impl Known {
    /// Counts a failed call. Returns the backoff; p = 719 for `node-1` (`recovery` 4.6).
    fn fail(&mut self, policy: &Policy, asked: i64) -> i64 {
        self.failed_calls += 1;
        let mut backoff = millis(policy.backoff_base);
        for _ in 1..self.failed_calls {
            backoff = (backoff * 2).min(millis(policy.backoff_cap));
        }
        (backoff * 10_719 / 10_000).max(asked)
    }
}

fn millis(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap()
}

//! The invariants of `recovery` section 8 over random sequences. Those that can be seen from outside are checked
//! after every turn of every test, by [`crate::invariants::Watchdog`]; here are the ones that compare two runs,
//! and the model.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;

use crate::decision::{Mode, Outcome, Refuser, Step};
use crate::fleet::Input;
use crate::model::Model;
use crate::node::NodeName;
use crate::policy::{ConcurrentLimit, Policy, Rung};
use crate::recovery::{Lifecycle, Shown};
use crate::testing::{N, Say, World, failed, policy, refused, unconfirmed};
use crate::verdict::CheckerKey;

const CHECKERS: [(&str, Duration); 3] =
    [("a", Duration::ZERO), ("b", Duration::from_secs(60)), ("c", Duration::from_secs(150))];

/// Something that happens to a world.
#[derive(Debug, Clone)]
enum Op {
    Wait(u64),
    Standstill(u64),
    Say(usize, Say),
    Threshold(usize, u64),
    Gpu(bool),
    Exclude(bool),
    Starting(bool),
    Grace,
    HoldFor(u64),
    Live(bool),
    Boot(u8),
    Answer(u8),
    Latency(u64),
    Reset,
    ManualReboot,
}

fn say() -> impl Strategy<Value = Say> {
    prop_oneof![3 => Just(Say::Pass), 4 => Just(Say::Fail), 1 => Just(Say::Unknown)]
}

/// Mostly whole ticks, so that limits are met exactly; some odd milliseconds.
fn wait() -> impl Strategy<Value = Op> {
    prop_oneof![6 => (1..30u64).prop_map(|ticks| Op::Wait(ticks * 10_000)), 2 => (1..40_000u64).prop_map(Op::Wait)]
}

fn anything() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => wait(),
        8 => (0..3usize, say()).prop_map(|(checker, say)| Op::Say(checker, say)),
        1 => (0..3usize, 0..200u64).prop_map(|(checker, seconds)| Op::Threshold(checker, seconds)),
        1 => any::<bool>().prop_map(Op::Gpu),
        1 => prop::bool::weighted(0.3).prop_map(Op::Exclude),
        1 => prop::bool::weighted(0.3).prop_map(Op::Starting),
        1 => Just(Op::Grace),
        1 => (0..100u64).prop_map(Op::HoldFor),
        1 => prop::bool::weighted(0.7).prop_map(Op::Live),
        1 => (0..4u8).prop_map(Op::Boot),
        3 => (0..6u8).prop_map(Op::Answer),
        1 => (0..40u64).prop_map(Op::Latency),
        1 => Just(Op::Reset),
        1 => Just(Op::ManualReboot),
        1 => (0..200u64).prop_map(|seconds| Op::Standstill(seconds * 1000)),
    ]
}

fn run_of<T: std::fmt::Debug>(op: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(op, 1..60)
}

/// Short times, so that a run meets many limits.
fn quick() -> Policy {
    let seconds = Duration::from_secs;
    Policy {
        reboot_wait: seconds(120),
        gpu_reboot_wait: seconds(240),
        max_reboots: 3,
        max_failed_calls: 4,
        backoff_cap: seconds(40),
        stability_window: seconds(120),
        unknown_limit: seconds(60),
        ..policy()
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    let ladders = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec![Rung { step: Step::Drain, attempts: 1 }, Rung { step: Step::Reboot, attempts: 2 }]),
        1 => Just(vec![Rung { step: Step::Notify, attempts: 1 }, Rung { step: Step::Cordon, attempts: 2 }]),
    ];
    let modes = prop_oneof![3 => Just(Mode::Active), 1 => Just(Mode::Monitor)];
    let stable = prop_oneof![Just(Duration::ZERO), Just(Duration::from_secs(120))];
    (modes, any::<bool>(), ladders, stable).prop_map(|(mode, compat_shared_timer, ladder, stability_window)| Policy {
        mode,
        compat_shared_timer,
        ladder,
        stability_window,
        ..quick()
    })
}

/// A world and how to push it on.
struct Run {
    world: World,
    answer: Rc<RefCell<u8>>,
    lifecycle: Lifecycle,
}

impl Run {
    fn new(policy: Policy, checkers: &[(&str, Duration)], nodes: &[&str]) -> Self {
        let mut world = World::empty(policy, checkers);
        for name in nodes {
            world.add(name);
        }
        let answer = Rc::new(RefCell::new(0));
        let answers = answer.clone();
        world.executor = Box::new(move |_| match *answers.borrow() {
            0 | 1 => Outcome::Done,
            2 => failed(),
            3 => unconfirmed(),
            4 => refused(Refuser::Executor),
            _ => refused(Refuser::LastLook),
        });
        Self { world, answer, lifecycle: Lifecycle::default() }
    }

    fn with_model(policy: Policy) -> Self {
        let mut run = Self::new(policy.clone(), &CHECKERS, &[N]);
        run.world.model = Some(Model::new(&policy));
        run.world.sync();
        run
    }

    fn synced(policy: Policy, checkers: &[(&str, Duration)], nodes: &[&str]) -> Self {
        let mut run = Self::new(policy, checkers, nodes);
        run.world.sync();
        run
    }

    fn apply(&mut self, op: &Op) {
        self.apply_to(N, op);
    }

    fn apply_to(&mut self, node: &str, op: &Op) {
        let world = &mut self.world;
        let since = world.now.since(world.zero);
        match op {
            Op::Wait(ms) => world.to(since + Duration::from_millis(*ms)),
            Op::Standstill(ms) => world.stopped_until(since + Duration::from_millis(*ms)),
            Op::Say(checker, say) => world.say(node, CHECKERS[*checker].0, *say),
            Op::Threshold(checker, s) => world.threshold(node, CHECKERS[*checker].0, Duration::from_secs(*s)),
            Op::Gpu(gpu) => world.gpu(node, gpu.then_some("8")),
            Op::Exclude(excluded) => world.exclude(node, *excluded),
            Op::Starting(starting) => {
                self.lifecycle.starting = *starting;
                world.lifecycle(node, self.lifecycle);
            }
            Op::Grace => {
                world.boot(node, &format!("boot-{}", world.now.unix_ms()));
                world.lifecycle(node, Lifecycle { new_grace: true, ..self.lifecycle });
            }
            Op::HoldFor(s) => {
                self.lifecycle.hold_until = Some(world.now + Duration::from_secs(*s));
                world.lifecycle(node, self.lifecycle);
            }
            Op::Live(live) => world.evidence(*live),
            Op::Boot(0) => world.boot(node, ""),
            Op::Boot(boot) => world.boot(node, &format!("boot-{boot}")),
            Op::Answer(answer) => *self.answer.borrow_mut() = *answer,
            Op::Latency(s) => world.latency = Duration::from_secs(*s),
            Op::Reset => world.inbox.push(Input::Reset(NodeName::from(node))),
            Op::ManualReboot => world.inbox.push(Input::ManualReboot(NodeName::from(node))),
        }
        if !self.world.inbox.is_empty() {
            self.world.settle();
        }
    }

    /// What an operator sees of `node-1`.
    fn seen(&self) -> (Shown, Option<u32>, Option<u32>, Option<Duration>) {
        let view = self.world.view();
        (view.phase, view.attempts, view.failed_calls, view.red_for)
    }
}

/// Few cases in an ordinary run, so that it takes seconds; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    let cases = if asked.cases == 256 { 64 } else { asked.cases };
    ProptestConfig { cases, failure_persistence: None, ..asked }
}

proptest! {
    #![proptest_config(config())]

    /// 13, and with it 1, 2, 3, 7, 8 and 12 by the watchdog.
    #[test]
    fn the_slow_model_agrees_in_every_step(policy in policies(), ops in run_of(anything())) {
        let mut run = Run::with_model(policy);
        for op in &ops {
            run.apply(op);
        }
    }

    /// 4.
    #[test]
    fn without_a_failure_nothing_is_called(ops in run_of(anything())) {
        let mut run = Run::synced(quick(), &CHECKERS, &[N]);
        for op in &ops {
            if !matches!(op, Op::Say(_, Say::Fail)) {
                run.apply(op);
                prop_assert!(matches!(run.world.phase(), Shown::Unknown | Shown::Healthy));
            }
        }
        prop_assert!(run.world.calls.is_empty());
    }

    /// 6.
    #[test]
    fn monitor_only_counts_like_an_executor_that_always_succeeds(ops in run_of(anything())) {
        let mut active = Run::synced(quick(), &CHECKERS, &[N]);
        let mut monitor = Run::synced(Policy { mode: Mode::Monitor, ..quick() }, &CHECKERS, &[N]);
        for op in ops.iter().filter(|op| !matches!(op, Op::Answer(_) | Op::Latency(_))) {
            // An outcome that comes in while the watch is dead is applied, as a simulated one cannot be: a
            // grant needs live evidence, and both have it in the same turn.
            active.apply(op);
            monitor.apply(op);
            prop_assert_eq!(active.seen(), monitor.seen());
            prop_assert_eq!(active.world.view().since, monitor.world.view().since);
        }
        prop_assert!(monitor.world.calls.is_empty());
    }

    /// 9: same inputs, same outputs.
    #[test]
    fn two_equal_runs_are_equal_to_the_byte(policy in policies(), ops in run_of(anything())) {
        let mut runs = [(); 2].map(|()| Run::synced(policy.clone(), &CHECKERS, &[N, "node-2"]));
        for run in &mut runs {
            for (i, op) in ops.iter().enumerate() {
                run.apply_to(if i % 3 == 0 { "node-2" } else { N }, op);
            }
        }
        let [one, two] = runs.map(|run| format!("{:?} {:?} {:?}", run.world.calls, run.world.events, run.world.store));
        prop_assert_eq!(one, two);
    }

    /// 9: without limits of the gate a node does not depend on others.
    #[test]
    fn a_node_does_not_depend_on_others(ops in run_of(anything()), of_others in run_of(anything())) {
        let mut alone = Run::synced(quick(), &CHECKERS, &[N]);
        let mut among = Run::synced(quick(), &CHECKERS, &[N, "a", "z"]);
        let mut others = of_others.iter().cycle();
        for op in &ops {
            alone.apply(op);
            among.apply(op);
            prop_assert_eq!(alone.seen(), among.seen());
            // What moves time, the watch or the executor concerns all; thresholds belong to a checker.
            if let Some(op @ (Op::Say(..) | Op::Gpu(_) | Op::Exclude(_) | Op::Boot(_))) = others.next() {
                among.apply_to("a", op);
                alone.world.settle();
            }
        }
    }

    /// 10.
    #[test]
    fn with_one_checker_both_timers_give_the_same_calls(ops in run_of(anything())) {
        let one = [CHECKERS[1]];
        let mut own = Run::synced(quick(), &one, &[N]);
        let mut shared = Run::synced(Policy { compat_shared_timer: true, ..quick() }, &one, &[N]);
        let ops = ops.iter().filter_map(|op| {
            if let Op::Say(_, say) = op {
                return (*say != Say::Unknown).then_some(Op::Say(1, *say));
            }
            (!matches!(op, Op::Threshold(..))).then(|| op.clone())
        });
        for op in ops {
            own.apply(&op);
            shared.apply(&op);
            prop_assert_eq!(own.world.called_at(), shared.world.called_at());
        }
    }

    /// 5: restarts bring no call inside a window and, without unknown verdicts, no more calls.
    #[test]
    fn restarts_bring_no_more_calls(ops in run_of(anything()), restarts in prop::collection::vec(0..6u8, 60)) {
        let mut whole = Run::synced(quick(), &CHECKERS, &[N]);
        let mut broken = Run::synced(quick(), &CHECKERS, &[N]);
        // Lifecycle and liveness are other inputs' business after a restart. The GPU label stays as it is: an
        // incident in which nothing was done yet forgets that it was a GPU node's, and the two runs would wait
        // for different windows.
        let ops = ops.iter().filter(|op| {
            matches!(op, Op::Wait(_) | Op::Say(_, Say::Pass | Say::Fail) | Op::Boot(_))
        });
        for (op, restart) in ops.zip(restarts.iter().cycle()) {
            whole.apply(op);
            broken.apply(op);
            if *restart == 0 {
                broken.world.restart(quick());
                whole.world.settle();
            }
            prop_assert!(broken.world.calls.len() <= whole.world.calls.len());
        }
        let attempts: Vec<Duration> = broken.world.called_at();
        prop_assert!(attempts.windows(2).all(|pair| pair[1] - pair[0] >= quick().reboot_wait));
    }

    /// The gate's limit, whatever happens to the nodes (`gate` 13 b), and no starvation (d).
    #[test]
    fn never_more_in_flight_than_the_limit(ops in run_of((0..5usize, anything())), limit in 1..3u32) {
        let nodes = ["a", "b", "c", "d", N];
        let policy = Policy { concurrent: ConcurrentLimit::Fixed(limit), ..quick() };
        let mut run = Run::synced(policy, &CHECKERS, &nodes);
        for (node, op) in &ops {
            run.apply_to(nodes[*node], op);
        }
    }
}

#[test]
fn the_random_runs_are_not_empty() {
    let mut run = Run::with_model(quick());
    for key in ["a", "b"] {
        run.world.say(N, key, Say::Fail);
    }
    run.apply(&Op::Wait(600_000));
    assert_eq!(run.world.calls.len(), 3);
    assert_eq!(run.world.calls[0].1.because, [CheckerKey::from("a")]);
}

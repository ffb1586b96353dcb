//! A small world for tests: nodes, checkers that say what the test wants, an executor, a store, and a loop that
//! turns every tick and at every deadline, like the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::decision::{AttemptId, Decision, Mode, Outcome, Refuser};
use crate::event::Event;
use crate::fleet::{Checker, Fleet, Input, Inputs, NodeView, Turn};
use crate::gate::Constraint;
use crate::invariants::Watchdog;
use crate::model::Model;
use crate::node::{BootId, EXCLUDE_KEY, GPU_COUNT_LABEL, Node, NodeName, Uid};
use crate::policy::Policy;
use crate::recovery::{Lifecycle, Record, Shown};
use crate::report::Report;
use crate::time::Time;
use crate::verdict::{CheckerKey, Judgement, Unknown, UnknownCause, Verdict};

pub(crate) const N: &str = "node-1";
pub(crate) const START: Time = Time::from_unix_ms(1_700_000_000_000);
const REV: &str = "test/rev";

/// Minutes.
pub(crate) fn min(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

/// Minutes and seconds.
pub(crate) fn ms(minutes: u64, seconds: u64) -> Duration {
    Duration::from_secs(minutes * 60 + seconds)
}

/// What a checker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Say {
    Pass,
    Fail,
    Unknown,
}

/// Defaults of the scenarios: active mode, no limits of the gate.
pub(crate) fn policy() -> Policy {
    Policy { mode: Mode::Active, concurrent: crate::policy::ConcurrentLimit::Off, ..Policy::default() }
}

type Executor = Box<dyn FnMut(&Decision) -> Outcome>;

pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) now: Time,
    /// The scenario's T.
    pub(crate) zero: Time,
    pub(crate) executor: Executor,
    /// How long a call is out.
    pub(crate) latency: Duration,
    pub(crate) calls: Vec<(Duration, Decision)>,
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) store: BTreeMap<NodeName, String>,
    pub(crate) writes: usize,
    thresholds: BTreeMap<CheckerKey, Duration>,
    reasons: BTreeMap<(NodeName, CheckerKey), String>,
    says: BTreeMap<(NodeName, CheckerKey), Say>,
    pub(crate) objects: BTreeMap<NodeName, Node>,
    pub(crate) inbox: Vec<Input>,
    live: bool,
    next_tick: Time,
    out: BTreeMap<(Time, AttemptId), Outcome>,
    watchdog: Watchdog,
    /// The slow, obvious model of `node-1`, if the test wants it to agree.
    pub(crate) model: Option<Model>,
}

impl World {
    /// `node-1` with the `ready` checker (5 min), green since the first turn.
    pub(crate) fn new(policy: Policy) -> Self {
        let mut world = Self::empty(policy, &[("ready", min(5))]);
        world.add(N);
        world.sync();
        world
    }

    /// The same, with NodeReady failing from T, which is now.
    pub(crate) fn failing(policy: Policy) -> Self {
        let mut world = Self::new(policy);
        world.say(N, "ready", Say::Fail);
        world.settle();
        world
    }

    /// No node yet, and not synced.
    pub(crate) fn empty(policy: Policy, checkers: &[(&str, Duration)]) -> Self {
        let mut world = Self {
            fleet: Fleet::new(policy),
            now: START,
            zero: START,
            executor: Box::new(|_| Outcome::Done),
            latency: Duration::ZERO,
            calls: Vec::new(),
            events: Vec::new(),
            store: BTreeMap::new(),
            writes: 0,
            thresholds: checkers.iter().map(|(key, t)| (CheckerKey::from(*key), *t)).collect(),
            reasons: BTreeMap::new(),
            says: BTreeMap::new(),
            objects: BTreeMap::new(),
            inbox: Vec::new(),
            live: true,
            next_tick: START,
            out: BTreeMap::new(),
            watchdog: Watchdog::default(),
            model: None,
        };
        world.next_tick = START + world.fleet.policy().tick;
        world
    }

    pub(crate) fn add(&mut self, name: &str) -> &mut Node {
        let mut node = Node::named(name);
        node.uid = Uid::from(format!("uid-{name}").as_str());
        node.boot_id = BootId::from(format!("boot-{name}").as_str());
        node.system_uuid = Arc::from(format!("machine-{name}"));
        self.objects.entry(NodeName::from(name)).or_insert(node)
    }

    /// The caches have synced: checkers, evidence, and a complete list.
    pub(crate) fn sync(&mut self) {
        let keys: Vec<CheckerKey> = self.thresholds.keys().cloned().collect();
        self.inbox.extend(keys.iter().map(|key| Input::CheckerServes(checker(key))));
        self.inbox.push(Input::Evidence { live: self.live });
        self.list();
        self.settle();
    }

    pub(crate) fn list(&mut self) {
        let nodes = self.objects.values().cloned().map(Arc::new).collect();
        self.inbox.push(Input::Listed(nodes));
    }

    /// The node object as it is; whoever changes it applies it.
    pub(crate) fn apply(&mut self, name: &str, change: impl FnOnce(&mut Node)) {
        let node = self.objects.get_mut(name).unwrap();
        change(node);
        self.inbox.push(Input::Applied(Arc::new(node.clone())));
    }

    /// From the next turn on the checker says so.
    pub(crate) fn say(&mut self, name: &str, key: &str, say: Say) {
        self.says.insert((NodeName::from(name), CheckerKey::from(key)), say);
        let rev = self.now.unix_ms();
        self.apply(name, |node| {
            let count = node.label(REV).map_or(0, |rev| rev.split('.').next_back().unwrap().parse::<u64>().unwrap());
            set_label(node, REV, Some(&format!("{rev}.{}", count + 1)));
        });
    }

    pub(crate) fn say_reason(&mut self, name: &str, key: &str, reason: &str) {
        self.reasons.insert((NodeName::from(name), CheckerKey::from(key)), reason.to_owned());
        let say = self.said(&NodeName::from(name), &CheckerKey::from(key));
        self.say(name, key, say);
    }

    pub(crate) fn threshold(&mut self, name: &str, key: &str, threshold: Duration) {
        self.thresholds.insert(CheckerKey::from(key), threshold);
        let say = self.said(&NodeName::from(name), &CheckerKey::from(key));
        self.say(name, key, say);
    }

    pub(crate) fn boot(&mut self, name: &str, boot_id: &str) {
        self.apply(name, |node| node.boot_id = BootId::from(boot_id));
    }

    pub(crate) fn gpu(&mut self, name: &str, label: Option<&str>) {
        self.apply(name, |node| set_label(node, GPU_COUNT_LABEL, label));
    }

    pub(crate) fn exclude(&mut self, name: &str, excluded: bool) {
        self.apply(name, |node| set_label(node, EXCLUDE_KEY, excluded.then_some("true")));
    }

    pub(crate) fn delete(&mut self, name: &str) {
        self.objects.remove(name);
        self.inbox.push(Input::Deleted(NodeName::from(name)));
    }

    pub(crate) fn evidence(&mut self, live: bool) {
        self.live = live;
        self.inbox.push(Input::Evidence { live });
    }

    pub(crate) fn lifecycle(&mut self, name: &str, lifecycle: Lifecycle) {
        self.inbox.push(Input::Lifecycle { node: NodeName::from(name), lifecycle });
    }

    /// Turns at the present moment until nothing is left to hand in.
    pub(crate) fn settle(&mut self) {
        loop {
            let inputs = std::mem::take(&mut self.inbox);
            self.turn(inputs);
            if self.inbox.is_empty() {
                return;
            }
        }
    }

    /// Turns at every tick, deadline and outcome up to `zero + after`, and at that moment.
    pub(crate) fn to(&mut self, after: Duration) {
        let end = self.zero + after;
        assert!(end >= self.now, "time goes forward");
        // What the test did since the last turn happened at the present moment.
        if !self.inbox.is_empty() {
            self.settle();
        }
        while self.now < end {
            let deadline = self.fleet.next_deadline().map(|at| at.max(self.now + Duration::from_millis(1)));
            let outcome = self.out.first_key_value().map(|((at, _), _)| *at);
            self.now = [Some(end), Some(self.next_tick), deadline, outcome].into_iter().flatten().min().unwrap();
            self.arrive();
        }
        self.settle();
    }

    /// The loop stands still: no turn until then.
    pub(crate) fn stopped_until(&mut self, after: Duration) {
        self.now = self.zero + after;
        self.next_tick = self.now;
        self.arrive();
    }

    /// A new process with what the store holds.
    pub(crate) fn restart(&mut self, policy: Policy) {
        self.fleet = Fleet::new(policy);
        let records = self.store.iter().map(|(name, json)| {
            let record: Record = serde_json::from_str(json).unwrap();
            (name.clone(), record)
        });
        let records = records.collect();
        self.fleet.restore(records, self.now);
        self.watchdog = Watchdog::default();
        self.out.clear();
        self.inbox.clear();
        self.live = true;
        self.sync();
    }

    fn arrive(&mut self) {
        while let Some(entry) = self.out.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let ((_, attempt), outcome) = entry.remove_entry();
            self.inbox.push(Input::Outcome { attempt, outcome });
        }
        if self.now >= self.next_tick {
            self.next_tick = self.now + self.fleet.policy().tick;
            self.inbox.push(Input::Tick);
        }
        self.settle();
    }

    fn turn(&mut self, inputs: Vec<Input>) {
        self.watchdog.before(&self.fleet, &inputs, self.now);
        let predicted = self.model.as_mut().map(|model| model.turn(self.now, &inputs));
        let turn = self.fleet.turn(self.now, inputs);
        if let (Some(model), Some(called)) = (&self.model, predicted) {
            model.compare(&self.fleet, &turn, called);
        }
        assert_eq!(self.watchdog.after(&self.fleet, &turn, self.now), Vec::<String>::new());
        self.take(turn);
    }

    fn take(&mut self, turn: Turn) {
        let at = self.now.since(self.zero);
        for (name, record) in turn.writes {
            self.writes += 1;
            match record {
                Some(record) => self.store.insert(name, serde_json::to_string(&record).unwrap()),
                None => self.store.remove(&name),
            };
        }
        for check in turn.checks {
            let verdict = self.verdict(&check.node.name, &check.checker);
            self.inbox.push(Input::Judged {
                check: check.id,
                node: check.node.name.clone(),
                checker: check.checker,
                verdict,
                remember: true,
            });
        }
        for decision in turn.decisions {
            let outcome = (self.executor)(&decision);
            self.calls.push((at, decision.clone()));
            if self.latency.is_zero() {
                self.inbox.push(Input::Outcome { attempt: decision.attempt, outcome });
            } else {
                self.out.insert((self.now + self.latency, decision.attempt), outcome);
            }
        }
        self.events.extend(turn.events.into_iter().map(|event| (at, event)));
    }

    fn verdict(&self, name: &NodeName, key: &CheckerKey) -> Verdict {
        let pair = (name.clone(), key.clone());
        let reason = self.reasons.get(&pair).map_or("Reason", String::as_str);
        let threshold = self.thresholds.get(key).copied().unwrap_or_default();
        let judgement = Judgement { reason: Arc::from(reason), threshold };
        match self.said(name, key) {
            Say::Pass => Verdict::Pass(judgement),
            Say::Fail => Verdict::Fail(judgement),
            Say::Unknown => Verdict::Unknown(Unknown { cause: UnknownCause::Error, detail: Arc::from("no idea") }),
        }
    }

    fn said(&self, name: &NodeName, key: &CheckerKey) -> Say {
        self.says.get(&(name.clone(), key.clone())).copied().unwrap_or(Say::Pass)
    }

    // What a test looks at.

    pub(crate) fn view(&self) -> NodeView<'_> {
        self.fleet.node(N).unwrap()
    }

    pub(crate) fn phase(&self) -> Shown {
        self.view().phase
    }

    pub(crate) fn attempts(&self) -> Option<u32> {
        self.view().attempts
    }

    pub(crate) fn failed_calls(&self) -> Option<u32> {
        self.view().failed_calls
    }

    pub(crate) fn report(&self) -> Report {
        self.fleet.report(N, self.now).unwrap()
    }

    pub(crate) fn holds(&self) -> Vec<Constraint> {
        self.report().holds.iter().map(|hold| hold.name).collect()
    }

    /// The value of `recovery_phase`, if there is such a series.
    pub(crate) fn gauge(&self, phase: Shown) -> Option<u8> {
        let view = self.view();
        let exists = view.phases.contains(phase) || phase == Shown::Healthy;
        exists.then_some(u8::from(view.phase == phase))
    }

    /// When the executor was called, since T.
    pub(crate) fn called_at(&self) -> Vec<Duration> {
        self.calls.iter().map(|(at, _)| *at).collect()
    }

    pub(crate) fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|(_, event)| event.kind() == kind).count()
    }

    pub(crate) fn event(&self, kind: &str) -> &Event {
        let mut found = self.events.iter().filter(|(_, event)| event.kind() == kind);
        &found.next().unwrap_or_else(|| panic!("no event {kind}")).1
    }

    /// Names with a series.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.fleet.nodes().map(|view| view.name.to_string()).collect()
    }
}

pub(crate) fn checker(key: &CheckerKey) -> Checker {
    Checker { key: key.clone(), generation: Arc::from("1"), reasons: Vec::new(), inputs: Inputs::Node }
}

pub(crate) fn set_label(node: &mut Node, key: &str, value: Option<&str>) {
    let mut labels: BTreeMap<Arc<str>, Arc<str>> = node.labels.iter().cloned().collect();
    match value {
        Some(value) => labels.insert(Arc::from(key), Arc::from(value)),
        None => labels.remove(key),
    };
    node.labels = labels.into_iter().collect();
}

pub(crate) fn failed() -> Outcome {
    Outcome::Failed { why: "connection refused".to_owned(), retry_after: None }
}

pub(crate) fn unconfirmed() -> Outcome {
    Outcome::Unconfirmed { why: "timed out after sending".to_owned() }
}

pub(crate) fn refused(by: Refuser) -> Outcome {
    Outcome::Refused { why: "no such instance".to_owned(), by }
}

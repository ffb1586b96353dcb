//! The daemon's parts around one directory, turned by a loop that is written here once more, with a model of what it
//! must do beside it: so that every single check is seen, asked, answered, counted or late.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apgar::clock::Clock;
use apgar::supervise::{Asked, Plugins, Supervised, Wishes};
use apgar::task::Tasks;
use apgar_core::fleet::{Check, CheckId, Fleet, Input};
use apgar_core::node::{Node, NodeName};
use apgar_core::policy::Policy;
use apgar_core::supervision::{self, Restart, Standing};
use apgar_core::time::Time;
use apgar_core::verdict::{CheckerKey, Verdict};
use apgar_engine::{
    Cause, Compile, Configuration, Digest, Directory, DirectoryOptions, Engine, EngineConfig, Finished, Limits,
    PluginConfig, Registry, RegistryEvent, RegistryOptions,
};
use apgar_tests::guests;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

const NODES: usize = 60;
/// Checkers whose files nobody touches.
const STEADY: usize = 20;
/// The one that is tortured, and its node: some of its versions die there.
pub(crate) const MINE: &str = "mine";
pub(crate) const QUIRK: &str = "torture-node-007";

/// Short enough that a pause of the writer is sometimes shorter and sometimes longer.
pub(crate) const DEBOUNCE: Duration = Duration::from_millis(30);
pub(crate) const STABLE_GAP: Duration = Duration::from_millis(20);
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(200);

/// Checks that may be out before nodes rest: what is asked must be answered some day, on a busy machine too.
const OUT: usize = 1_500;

/// A guest of `tests/guests`, with seven letters of its own for a reason.
pub(crate) fn guest(name: &str, reason: &str) -> Vec<u8> {
    replaced(guests::guest(name).unwrap(), b"Special", reason.as_bytes())
}

/// The same bytes with the only `old` in them replaced: as long as before, so that it stays a component.
pub(crate) fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let found: Vec<usize> = (0..=bytes.len() - old.len()).filter(|at| bytes[*at..].starts_with(old)).collect();
    let [at] = found[..] else { panic!("{} times in the guest", found.len()) };
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// With a custom section of that length in front: what is torn or mixed of two lengths is no component.
pub(crate) fn padded(component: &[u8], length: usize) -> Vec<u8> {
    let (preamble, sections) = component.split_at(8);
    let mut padded = preamble.to_vec();
    padded.push(0);
    let (content, mut size) = (length + 4, length + 4);
    while size >= 0x80 {
        padded.push((size & 0x7f) as u8 | 0x80);
        size >>= 7;
    }
    padded.push(size as u8);
    padded.extend(b"\x03pad");
    padded.resize(padded.len() + content - 4, 0xff);
    padded.extend(sections);
    padded
}

/// What was ever complete in the directory and may serve.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) reason: String,
    /// Dies at the node [`QUIRK`].
    quirky: bool,
    /// When the last byte of it was there.
    whole_at: Instant,
    pub(crate) seen: bool,
}

/// All versions, by name and digest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book(Arc<Mutex<BTreeMap<(CheckerKey, Digest), Version>>>);

impl Book {
    /// Notes that from now on the directory may have all of a version. One that has judged stays as it is known.
    pub(crate) fn whole(&self, name: &str, bytes: &[u8], reason: &str, quirky: bool) {
        let version = Version { reason: reason.to_owned(), quirky, whole_at: Instant::now(), seen: false };
        let mut book = self.0.lock().unwrap();
        let known = book.entry((name.into(), Digest::of(bytes))).or_insert_with(|| version.clone());
        if !known.seen {
            *known = version;
        }
    }

    /// What is known of these bytes of the tortured checker.
    pub(crate) fn mine(&self, digest: Digest) -> Version {
        self.0.lock().unwrap()[&(MINE.into(), digest)].clone()
    }
}

/// A check that is out.
struct Out {
    node: NodeName,
    checker: CheckerKey,
    start: u64,
    /// Its generation does not answer any more: it may end unheard.
    drained: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) counted: u64,
    pub(crate) fallback: u64,
    pub(crate) late: u64,
    pub(crate) held: u64,
    pub(crate) unknown: u64,
    pub(crate) dropped: u64,
    pub(crate) swaps: u64,
    pub(crate) back: u64,
    pub(crate) removals: u64,
    pub(crate) refused: u64,
    pub(crate) deaths: u64,
}

/// The daemon's loop, with a model of what it must do beside it.
pub(crate) struct World {
    clock: Clock,
    fleet: Fleet,
    plugins: Plugins,
    engine: Engine,
    judged: mpsc::Sender<Vec<Finished>>,
    next_tick: Time,
    nodes: Vec<Node>,
    pub(crate) book: Book,
    out: BTreeMap<CheckId, Out>,
    /// The last check of each pair.
    latest: BTreeMap<(CheckerKey, NodeName), CheckId>,
    last_asked: CheckId,
    /// Which start of the tortured checker answers, and the last check that was asked before it did.
    answering: Option<u64>,
    /// The start that answered before, if a newer one was put over it.
    fallback: Option<u64>,
    swapped_after: CheckId,
    /// Nodes that it has judged.
    judged_since: BTreeSet<NodeName>,
    /// From the first version that served until it is removed.
    serves: bool,
    /// From the last byte of each version to its first verdict.
    pub(crate) first_verdicts: Vec<Duration>,
    pub(crate) tally: Tally,
    /// How long each turn took.
    pub(crate) turns: Vec<Duration>,
}

impl World {
    fn turn(&mut self, mut inputs: Vec<Input>, event: Option<RegistryEvent>, judged: Vec<Finished>) {
        let began = Instant::now();
        let now = self.clock.now();
        if let Some(event) = event {
            if let RegistryEvent::Offered { offer, .. } = &event {
                self.tally.refused += u64::from(offer.admission.is_err());
            }
            self.plugins.hear(event, now);
        }
        judged.iter().for_each(|done| self.plugins.judged(done, true, now));
        let supervised = self.plugins.turn(self.fleet.len(), now);
        self.tally.deaths += supervised.deaths.len() as u64;
        let gone = supervised.gone.iter().any(|name| name.as_str() == MINE);
        self.note_answering(gone);
        inputs.extend(supervised.inputs);
        let expected = self.weigh(judged, &mut inputs);
        inputs.push(Input::Evidence { live: true });
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            inputs.push(Input::Tick);
        }
        let turn = self.fleet.turn(now, inputs);
        for (node, expected) in expected {
            expected.check(&node, self.shown(&node), gone);
        }
        assert!(turn.decisions.is_empty(), "{:?}", turn.decisions);
        supervised.starts.into_iter().for_each(|start| self.plugins.start(start, None));
        self.ask(turn.checks, now);
        self.turns.push(began.elapsed());
    }

    /// Notices swaps. A checker that serves is never without an answer until it is removed (`supervision` P-50).
    fn note_answering(&mut self, gone: bool) {
        let name = CheckerKey::from(MINE);
        let answers = self.plugins.answering(&name).map(|plugin| plugin.start());
        if gone {
            self.tally.removals += 1;
            self.serves = false;
            self.latest.retain(|(checker, _), _| *checker != name);
        }
        assert!(answers.is_some() || !self.serves, "nobody answers, although {MINE} was not removed");
        if answers == self.answering && !gone {
            return;
        }
        self.serves = answers.is_some();
        if let (Some(before), Some(now)) = (self.answering, answers) {
            *(if now > before { &mut self.tally.swaps } else { &mut self.tally.back }) += 1;
        }
        for out in self.out.values_mut().filter(|out| out.checker == name && Some(out.start) != answers) {
            out.drained = true;
        }
        self.fallback = self.answering.filter(|before| Some(*before) < answers);
        self.answering = answers;
        self.swapped_after = self.last_asked;
        self.judged_since.clear();
    }

    /// Hands on what counts, and says what the fleet must show of it (`supervision` 4.7, P-51).
    fn weigh(&mut self, judged: Vec<Finished>, inputs: &mut Vec<Input>) -> Vec<(NodeName, Expected)> {
        let mut expected: BTreeMap<NodeName, Expected> = BTreeMap::new();
        for done in judged {
            let Finished { id, node, pods, plugin, result } = done;
            let (name, node) = (plugin.key().clone(), node.name.clone());
            let out = self.out.remove(&id).unwrap_or_else(|| panic!("{id} was answered twice, or never asked"));
            assert_eq!((&out.node, &out.checker, out.start), (&node, &name, plugin.start()), "{id}");
            self.tally.answered += 1;
            self.vouch(&name, plugin.digest(), &node, &result);
            let done = Finished { id, node: Arc::new(Node::named(node.as_str())), pods, plugin, result };
            let standing = self.plugins.standing(&done);
            let verdict = done.result.verdict;
            let is_latest = self.latest.get(&(name.clone(), node.clone())) == Some(&id);
            if name.as_str() == MINE {
                let start = Some(done.plugin.start());
                match standing {
                    Standing::Answers => assert_eq!(start, self.answering, "somebody else answers"),
                    Standing::Fallback => assert_eq!(start, self.fallback, "it is nobody's fallback"),
                    Standing::Late => assert_ne!(start, self.answering, "it answers, and is not late"),
                }
                let shown = self.shown(&node).cloned();
                let entry = expected.entry(node.clone()).or_insert_with(|| Expected::unchanged(shown));
                match standing {
                    Standing::Answers if is_latest => {
                        entry.must(verdict.clone());
                        self.judged_since.insert(node.clone());
                    }
                    Standing::Fallback if id <= self.swapped_after && !self.judged_since.contains(&node) => {
                        self.tally.fallback += 1;
                        entry.may(verdict.clone());
                    }
                    Standing::Answers | Standing::Fallback | Standing::Late => {}
                }
            } else {
                assert_eq!(standing, Standing::Answers, "{name} is not touched by anybody");
            }
            self.tally.late += u64::from(standing == Standing::Late);
            if standing != Standing::Late {
                self.tally.counted += 1;
                let remember = done.result.remember;
                inputs.push(Input::Judged { check: id, node, checker: name, verdict, remember });
            }
        }
        expected.into_iter().collect()
    }

    /// Every verdict is of bytes that were once complete in the directory and may serve, and says so.
    fn vouch(&mut self, name: &CheckerKey, digest: Digest, node: &NodeName, result: &apgar_engine::CheckDone) {
        let mut book = self.book.0.lock().unwrap();
        let version = book.get_mut(&(name.clone(), digest));
        let version =
            version.unwrap_or_else(|| panic!("{name} judges by {digest:?}, which nobody ever wrote: {result:?}"));
        if !std::mem::replace(&mut version.seen, true) && name.as_str() == MINE {
            self.first_verdicts.push(version.whole_at.elapsed());
        }
        match (&result.verdict, &result.death) {
            (Verdict::Pass(judgement), None) => assert_eq!(*judgement.reason, *version.reason, "{name} at {node}"),
            (Verdict::Unknown(_), Some(death)) => {
                let quirk = version.quirky && node.as_str() == QUIRK;
                assert!(quirk || death.cause == Cause::HostStarved, "{name} at {node}: {death:?}");
                self.tally.unknown += 1;
            }
            (verdict, death) => panic!("{name} at {node}: {verdict:?}, {death:?}, {:?}", result.fault),
        }
    }

    fn ask(&mut self, checks: Vec<Check>, now: Time) {
        let (mut jobs, mut answers) = (Vec::new(), Vec::new());
        for check in checks {
            let (id, node, checker) = (check.id, check.node.name.clone(), check.checker.clone());
            self.last_asked = self.last_asked.max(id);
            self.tally.asked += 1;
            self.latest.insert((checker.clone(), node.clone()), id);
            match self.plugins.ask(check, now) {
                Asked::Job(job) => {
                    self.out.insert(id, Out { node, checker, start: job.plugin.start(), drained: false });
                    jobs.push(job);
                }
                Asked::Answer(answer) => {
                    assert!(checker.as_str() == MINE && node.as_str() == QUIRK, "{checker} at {node} is held");
                    self.tally.held += 1;
                    self.judged_since.insert(node);
                    answers.push(answer);
                }
                Asked::Nobody => panic!("{checker} was asked about {node}, and nobody answers"),
            }
        }
        self.engine.submit(jobs, self.judged.clone());
        if !answers.is_empty() {
            let turn = self.fleet.turn(now, answers);
            assert!(turn.checks.is_empty());
        }
    }

    /// True if a generation of this checker answers.
    pub(crate) fn serves(&self, name: &str) -> bool {
        self.plugins.answering(&name.into()).is_some()
    }

    fn shown(&self, node: &NodeName) -> Option<&Verdict> {
        let node = self.fleet.node(node.as_str())?;
        node.checkers().find(|checker| checker.key.as_str() == MINE)?.verdict
    }

    /// One node shows something else: everybody is asked.
    fn change(&mut self, at: usize) {
        let node = &mut self.nodes[at % NODES];
        node.unschedulable = !node.unschedulable;
        let node = Arc::new(node.clone());
        self.turn(vec![Input::Applied(node)], None, Vec::new());
    }

    /// True once everything asked is answered and every node shows this version.
    pub(crate) fn is_settled(&self, last: Digest) -> bool {
        let reason = self.book.mine(last).reason;
        let shows = |node: &Node| {
            let shown = self.shown(&node.name).and_then(Verdict::judgement);
            shown.is_some_and(|judgement| *judgement.reason == *reason)
        };
        self.out.values().all(|out| out.drained) && self.nodes.iter().all(shows)
    }

    fn wake(&self) -> Instant {
        let now = self.clock.now();
        let deadlines = [Some(self.next_tick), self.fleet.next_deadline(), self.plugins.next_deadline(now)];
        self.clock.instant(deadlines.into_iter().flatten().min().unwrap_or(self.next_tick))
    }
}

/// What a node may show after a turn.
struct Expected {
    may: Vec<Option<Verdict>>,
}

impl Expected {
    fn unchanged(shown: Option<Verdict>) -> Self {
        Self { may: vec![shown] }
    }

    fn may(&mut self, verdict: Verdict) {
        self.may.push(Some(verdict));
    }

    fn must(&mut self, verdict: Verdict) {
        self.may = vec![Some(verdict)];
    }

    fn check(&self, node: &NodeName, shown: Option<&Verdict>, gone: bool) {
        // A plugin that was removed in this very turn takes its verdicts with it.
        let fits = (gone && shown.is_none()) || self.may.iter().any(|verdict| verdict.as_ref() == shown);
        assert!(fits, "{node} shows {shown:?}, and may only show {:?}", self.may);
    }
}

/// A world with all that comes to it.
pub(crate) struct Running {
    pub(crate) world: World,
    events: mpsc::Receiver<RegistryEvent>,
    judged: mpsc::Receiver<Vec<Finished>>,
    change: Interval,
    changed: usize,
    tasks: Tasks,
}

impl Running {
    /// Begins to judge its nodes by checkers that nobody touches, in `home/plugins`. One node shows something else
    /// every `change_every`.
    pub(crate) async fn start(home: &Path, compile: Compile, change_every: Duration) -> Self {
        let mut tasks = Tasks::default();
        let (mut world, events, judged) = world(home, compile, &mut tasks);
        let listed = world.nodes.iter().cloned().map(Arc::new).collect();
        world.turn(vec![Input::Listed(listed)], None, Vec::new());
        let mut change = interval(change_every);
        change.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { world, events, judged, change, changed: 0, tasks }
    }

    /// Waits for the next thing that happens, and turns. Nodes rest unless `changing`.
    pub(crate) async fn step(&mut self, changing: bool) {
        let Self { world, events, judged, change, changed, tasks } = self;
        let mut batches = Vec::new();
        tokio::select! {
            Some(event) = events.recv() => world.turn(Vec::new(), Some(event), Vec::new()),
            1.. = judged.recv_many(&mut batches, 4096) => {
                world.turn(Vec::new(), None, batches.into_iter().flatten().collect());
            }
            _ = change.tick(), if changing && world.out.len() < OUT => {
                world.change(*changed);
                *changed += 1;
            }
            () = sleep_until(world.wake()) => world.turn(Vec::new(), None, Vec::new()),
            why = tasks.ended() => panic!("{why}"),
        }
    }

    /// Ends it. No check may have been lost on the way.
    pub(crate) async fn end(mut self) -> World {
        let world = &mut self.world;
        let lost: Vec<CheckId> = world.out.iter().filter(|(_, out)| !out.drained).map(|(id, _)| *id).collect();
        assert!(lost.is_empty(), "never answered: {lost:?}");
        let unanswered = world.latest.values().filter(|id| world.out.contains_key(id)).count();
        assert_eq!(unanswered, 0, "the last checks of that many pairs were dropped");
        world.tally.dropped = world.out.len() as u64;
        self.tasks.shutdown().await;
        self.world
    }
}

fn world(
    home: &Path,
    compile: Compile,
    tasks: &mut Tasks,
) -> (World, mpsc::Receiver<RegistryEvent>, mpsc::Receiver<Vec<Finished>>) {
    let directory = home.join("plugins");
    fs::create_dir(&directory).unwrap();
    let book = Book::default();
    for number in 0..STEADY {
        let (name, reason) = (format!("steady-{number}"), format!("s{number:06}"));
        let bytes = padded(&guest("usual", &reason), 1_000 + number);
        fs::write(directory.join(format!("{name}.wasm")), &bytes).unwrap();
        book.whole(&name, &bytes, &reason, false);
    }
    let cache_dir = Some(home.join("cache"));
    let engine = Engine::new(EngineConfig { cache_dir, compile }).unwrap();
    let (events_in, events) = mpsc::channel(4096);
    // A machine that is busy makes slow calls of quick ones; that is another test's.
    let long = Duration::from_secs(20);
    let limits =
        Limits { soft_limit: long, call_deadline: long, wall_limit: long, startup_deadline: long, ..Limits::default() };
    let configuration =
        Configuration { defaults: PluginConfig { limits, ..PluginConfig::default() }, ..Configuration::default() };
    let options = RegistryOptions { engine: engine.clone(), bundled: Vec::new(), configuration };
    let registry = Registry::new(options, events_in);
    let (watch, handle) = Directory::new(DirectoryOptions {
        debounce: DEBOUNCE,
        debounce_max: Duration::from_millis(300),
        stable_gap: STABLE_GAP,
        poll_interval: Duration::from_secs(2),
        ..DirectoryOptions::new(&directory)
    });
    let (found_in, found) = mpsc::channel(128);
    tasks.spawn("directory", watch.run(found_in));
    let running = registry.clone();
    tasks.spawn("registry", async move { running.run(found).await });

    let (settled, _) = oneshot::channel();
    let defaults =
        Restart { decay_after: Duration::from_millis(700), backoff_base: Duration::from_secs(1), ..Restart::default() };
    let supervised = Supervised {
        policy: supervision::Policy { defaults, ..supervision::Policy::default() },
        wishes: Wishes {
            bundled: BTreeSet::new(),
            required: Vec::new(),
            expected: BTreeSet::new(),
            drain_timeout: DRAIN_TIMEOUT,
        },
        records: BTreeMap::new(),
        dropped: Vec::new(),
        engine: engine.clone(),
        registry,
        directory: handle,
        settled,
    };
    let clock = Clock::start();
    let now = clock.now();
    let (judged_in, judged) = mpsc::channel(4096);
    let world = World {
        clock,
        fleet: Fleet::new(Policy { tick: TICK, ..Policy::default() }),
        plugins: Plugins::new(supervised, now),
        engine,
        judged: judged_in,
        next_tick: now + TICK,
        nodes: (0..NODES).map(|number| Node::named(format!("torture-node-{number:03}").as_str())).collect(),
        book,
        out: BTreeMap::new(),
        latest: BTreeMap::new(),
        last_asked: 0,
        answering: None,
        fallback: None,
        swapped_after: 0,
        judged_since: BTreeSet::new(),
        serves: false,
        first_verdicts: Vec::new(),
        tally: Tally::default(),
        turns: Vec::new(),
    };
    (world, events, judged)
}

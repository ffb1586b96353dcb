//! Hot reload under torture (`engine` 11, rows 25 and 26): somebody writes a checker's file in every way there is, whole
//! and torn, while it and twenty others judge nodes that change all the time. The directory, the registry, the engine,
//! the supervision and the fleet are the daemon's own; only its loop is written here once more, so that every single
//! check is seen: asked, answered, counted or late.
//!
//! `APGAR_TORTURE` sets for how many seconds, `APGAR_TORTURE_SEED` in which order.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
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
use apgar_tests::guests::GUESTS;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

/// Enough for every way of writing, several times.
const SECONDS: u64 = 6;

const NODES: usize = 60;
/// Checkers whose files nobody touches.
const STEADY: usize = 20;
/// The one that is tortured, and its node: some of its versions die there.
const MINE: &str = "mine";
const QUIRK: &str = "torture-node-007";

/// Short enough that a pause of the writer is sometimes shorter and sometimes longer.
const DEBOUNCE: Duration = Duration::from_millis(30);
const STABLE_GAP: Duration = Duration::from_millis(20);
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(200);
/// Between changes of nodes.
const CHANGE_EVERY: Duration = Duration::from_millis(5);
/// Checks that may be out before nodes rest: what is asked must be answered some day, on a busy machine too.
const OUT: usize = 1_500;

/// For the last version to serve everywhere, on a machine that has other things to do as well.
const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "how long a test runs is set by whoever runs it")]
fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// A guest of `tests/guests`, with seven letters of its own for a reason.
fn guest(name: &str, reason: &str) -> Vec<u8> {
    let (_, bytes) = GUESTS.iter().find(|(known, _)| *known == name).unwrap();
    replaced(bytes, b"Special", reason.as_bytes())
}

/// The same bytes with the only `old` in them replaced: as long as before, so that it stays a component.
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let found: Vec<usize> = (0..=bytes.len() - old.len()).filter(|at| bytes[*at..].starts_with(old)).collect();
    let [at] = found[..] else { panic!("{} times in the guest", found.len()) };
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// With a custom section of that length in front: what is torn or mixed of two lengths is no component.
fn padded(component: &[u8], length: usize) -> Vec<u8> {
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
struct Version {
    reason: String,
    /// Dies at the node [`QUIRK`].
    quirky: bool,
    /// When the last byte of it was there.
    whole_at: Instant,
    seen: bool,
}

type Book = Arc<Mutex<BTreeMap<(CheckerKey, Digest), Version>>>;

/// Who writes.
struct Writer {
    rng: StdRng,
    directory: PathBuf,
    aside: PathBuf,
    book: Book,
    /// Numbers files and versions.
    last: u32,
    /// The good versions there were, to go back to.
    good: Vec<Vec<u8>>,
    folder: Option<PathBuf>,
    done: BTreeMap<&'static str, u64>,
}

/// What is written, and whether it may ever serve: `None` must not.
struct Draft {
    bytes: Vec<u8>,
    reason: Option<(String, bool)>,
}

impl Writer {
    fn path(&self) -> PathBuf {
        self.directory.join(format!("{MINE}.wasm"))
    }

    fn number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn good(&mut self) -> Draft {
        let number = self.number();
        let reason = format!("v{number:06}");
        let bytes = padded(&guest("usual", &reason), 2_000 + (number as usize * 37) % 9_000);
        self.good.push(bytes.clone());
        Draft { bytes, reason: Some((reason, false)) }
    }

    fn draft(&mut self) -> Draft {
        let number = self.number();
        let pad = 2_000 + (number as usize * 37) % 9_000;
        match self.rng.random_range(0..10) {
            0 => {
                // Well on every node but the one of the self-check.
                self.count("versions that fail the self-check");
                Draft { bytes: padded(&guest("self-check-traps", &format!("x{number:06}")), pad), reason: None }
            }
            1 => {
                self.count("versions without a grant");
                Draft { bytes: padded(&guest("imports-http", &format!("x{number:06}")), pad), reason: None }
            }
            2 => {
                self.count("versions that die at one node");
                let reason = format!("q{number:06}");
                let bytes = guest("self-check-traps", &reason);
                let bytes = replaced(&bytes, b"apgar-self-check", QUIRK.as_bytes());
                Draft { bytes: padded(&bytes, pad), reason: Some((reason, true)) }
            }
            3 if !self.good.is_empty() => {
                self.count("versions of earlier");
                let at = self.rng.random_range(0..self.good.len());
                let bytes = self.good[at].clone();
                let known = self.book.lock().unwrap()[&(MINE.into(), Digest::of(&bytes))].reason.clone();
                Draft { bytes, reason: Some((known, false)) }
            }
            _ => self.good(),
        }
    }

    /// Notes that from now on the directory may have all of it.
    fn whole(&mut self, draft: &Draft) {
        if let Some((reason, quirky)) = &draft.reason {
            let version = Version { reason: reason.clone(), quirky: *quirky, whole_at: Instant::now(), seen: false };
            self.book.lock().unwrap().entry((MINE.into(), Digest::of(&draft.bytes))).or_insert(version);
        }
    }

    /// A new file somewhere else.
    fn put_aside(&mut self, bytes: &[u8]) -> PathBuf {
        let number = self.number().to_string();
        let path = self.aside.join(number);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A moment: mostly short, sometimes long enough that whatever is there now looks finished.
    async fn pause(&mut self) {
        let most = if self.rng.random_bool(0.2) { 250 } else { 25 };
        let ms = self.rng.random_range(0..most);
        sleep(Duration::from_millis(ms)).await;
    }

    async fn in_chunks(&mut self, file: &mut File, draft: &Draft) {
        let bytes = &draft.bytes;
        // Not in the custom sections at the end, without which it is whole as well.
        let mut cuts: Vec<usize> = (0..4).map(|_| self.rng.random_range(1..bytes.len() - 512)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        for chunk in cuts.windows(2) {
            if chunk[1] == bytes.len() {
                // What is longer than this goes first, so that the last byte makes it whole.
                if file.metadata().unwrap().len() > bytes.len() as u64 {
                    file.set_len(bytes.len() as u64).unwrap();
                }
                self.whole(draft);
            }
            file.write_all(&bytes[chunk[0]..chunk[1]]).unwrap();
            self.pause().await;
        }
    }

    fn rename(&mut self, draft: &Draft) {
        let aside = self.put_aside(&draft.bytes);
        self.whole(draft);
        fs::rename(aside, self.path()).unwrap();
    }

    async fn write(&mut self) {
        let path = self.path();
        match self.rng.random_range(0..10) {
            0 | 1 => {
                self.count("renamed into place");
                let draft = self.draft();
                self.rename(&draft);
            }
            2 => {
                self.count("truncated and written in pieces");
                let draft = self.draft();
                let mut file = File::create(&path).unwrap();
                self.in_chunks(&mut file, &draft).await;
            }
            3 => {
                self.count("overwritten in pieces");
                let draft = self.draft();
                let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
                file.seek(SeekFrom::Start(0)).unwrap();
                self.in_chunks(&mut file, &draft).await;
            }
            4 => {
                self.count("symlinks swapped");
                let draft = self.draft();
                let (target, link) = (self.put_aside(&draft.bytes), self.directory.join(".link"));
                symlink(target, &link).unwrap();
                self.whole(&draft);
                fs::rename(link, &path).unwrap();
            }
            5 => {
                self.count("..data swapped");
                let draft = self.draft();
                self.swap_data(&draft);
            }
            6 => {
                self.count("deleted and back");
                remove(&path);
                self.pause().await;
                let draft = self.draft();
                self.rename(&draft);
            }
            7 => {
                self.count("written with equal bytes");
                if let Ok(bytes) = fs::read(&path) {
                    let aside = self.put_aside(&bytes);
                    fs::rename(aside, &path).unwrap();
                }
            }
            8 => {
                self.count("garbage");
                let mut bytes = vec![0; 5_000];
                self.rng.fill_bytes(&mut bytes);
                fs::write(&path, bytes).unwrap();
            }
            _ => {
                self.count("cut off");
                let draft = self.good();
                let cut = self.rng.random_range(0..draft.bytes.len() - 512);
                fs::write(&path, &draft.bytes[..cut]).unwrap();
                // It was never there: it may not be gone back to either.
                self.good.pop();
            }
        }
    }

    /// As the kubelet does it: a new folder, and one link that is renamed over the one to the old folder.
    fn swap_data(&mut self, draft: &Draft) {
        let folder = PathBuf::from(format!("..{}", self.number()));
        let file = format!("{MINE}.wasm");
        fs::create_dir(self.directory.join(&folder)).unwrap();
        fs::write(self.directory.join(&folder).join(&file), &draft.bytes).unwrap();
        let (link, data) = (self.directory.join("..data_tmp"), self.directory.join("..data"));
        symlink(&folder, &link).unwrap();
        self.whole(draft);
        fs::rename(link, data).unwrap();
        let to = Path::new("..data").join(&file);
        if fs::read_link(self.path()).ok().as_ref() != Some(&to) {
            let link = self.directory.join(".link");
            symlink(to, &link).unwrap();
            fs::rename(link, self.path()).unwrap();
        }
        if let Some(old) = self.folder.replace(folder) {
            fs::remove_dir_all(self.directory.join(old)).unwrap();
        }
    }

    /// Writes until it is over, and a good version at last.
    async fn run(mut self, span: Duration) -> Written {
        let over = Instant::now() + span;
        while Instant::now() < over {
            self.write().await;
            self.pause().await;
        }
        let last = self.good();
        let digest = Digest::of(&last.bytes);
        self.rename(&last);
        Written { done: self.done, last: digest, at: Instant::now() }
    }
}

/// A link to nowhere is a file as well.
fn remove(path: &Path) {
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path).unwrap();
    }
}

/// What the writer has done.
struct Written {
    done: BTreeMap<&'static str, u64>,
    last: Digest,
    at: Instant,
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
struct Tally {
    turns: u64,
    asked: u64,
    answered: u64,
    counted: u64,
    fallback: u64,
    late: u64,
    held: u64,
    unknown: u64,
    dropped: u64,
    swaps: u64,
    back: u64,
    removals: u64,
    refused: u64,
    deaths: u64,
    longest_turn: Duration,
}

/// The daemon's loop, with a model of what it must do beside it.
struct World {
    clock: Clock,
    fleet: Fleet,
    plugins: Plugins,
    engine: Engine,
    judged: mpsc::Sender<Vec<Finished>>,
    next_tick: Time,
    nodes: Vec<Node>,
    book: Book,
    out: BTreeMap<CheckId, Out>,
    /// The last check of each pair.
    latest: BTreeMap<(CheckerKey, NodeName), CheckId>,
    last_asked: CheckId,
    /// Which start of the tortured checker answers, and the last check that was asked before it did.
    answering: Option<u64>,
    swapped_after: CheckId,
    /// Nodes that it has judged.
    judged_since: BTreeSet<NodeName>,
    /// From the first version that served until it is removed.
    serves: bool,
    first_verdicts: Vec<Duration>,
    tally: Tally,
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
        judged.iter().for_each(|done| self.plugins.judged(done, now));
        let supervised = self.plugins.turn(self.fleet.len(), now);
        self.tally.deaths += supervised.deaths.len() as u64;
        self.note_answering(supervised.gone.iter().any(|name| name.as_str() == MINE));
        inputs.extend(supervised.inputs);
        let expected = self.weigh(judged, &mut inputs);
        inputs.push(Input::Evidence { live: true });
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            inputs.push(Input::Tick);
        }
        let turn = self.fleet.turn(now, inputs);
        for (node, expected) in expected {
            expected.check(&node, self.shown(&node));
        }
        assert!(turn.decisions.is_empty(), "{:?}", turn.decisions);
        supervised.starts.into_iter().for_each(|start| self.plugins.start(start, None));
        self.ask(turn.checks, now);
        self.tally.turns += 1;
        self.tally.longest_turn = self.tally.longest_turn.max(began.elapsed());
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
        self.answering = answers;
        self.swapped_after = self.last_asked;
        self.judged_since.clear();
    }

    /// Hands on what counts, and says what the fleet must show of it (`supervision` 4.7, P-51).
    fn weigh(&mut self, judged: Vec<Finished>, inputs: &mut Vec<Input>) -> Vec<(NodeName, Expected)> {
        let mut expected: BTreeMap<NodeName, Expected> = BTreeMap::new();
        for done in judged {
            let Finished { id, node, plugin, result } = done;
            let (name, node) = (plugin.key().clone(), node.name.clone());
            let out = self.out.remove(&id).unwrap_or_else(|| panic!("{id} was answered twice, or never asked"));
            assert_eq!((&out.node, &out.checker, out.start), (&node, &name, plugin.start()), "{id}");
            self.tally.answered += 1;
            self.vouch(&name, plugin.digest(), &node, &result);
            let done = Finished { id, node: Arc::new(Node::named(node.as_str())), plugin, result };
            let standing = self.plugins.standing(&done);
            let verdict = done.result.verdict;
            let is_latest = self.latest.get(&(name.clone(), node.clone())) == Some(&id);
            if name.as_str() == MINE {
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
        let mut book = self.book.lock().unwrap();
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
    fn is_settled(&self, last: Digest) -> bool {
        let reason = &self.book.lock().unwrap()[&(MINE.into(), last)].reason;
        let shows = |node: &Node| {
            let shown = self.shown(&node.name).and_then(Verdict::judgement);
            shown.is_some_and(|judgement| *judgement.reason == **reason)
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

    fn check(&self, node: &NodeName, shown: Option<&Verdict>) {
        // A plugin that was removed in this very turn takes its verdicts with it.
        let fits = shown.is_none() || self.may.iter().any(|verdict| verdict.as_ref() == shown);
        assert!(fits, "{node} shows {shown:?}, and may only show {:?}", self.may);
    }
}

/// The daemon's parts around a directory with the checkers that nobody touches.
async fn world(
    home: &Path,
    tasks: &mut Tasks,
) -> (World, mpsc::Receiver<RegistryEvent>, mpsc::Receiver<Vec<Finished>>) {
    let directory = home.join("plugins");
    fs::create_dir(&directory).unwrap();
    let book = Book::default();
    for number in 0..STEADY {
        let (name, reason) = (format!("steady-{number}"), format!("s{number:06}"));
        let bytes = padded(&guest("usual", &reason), 1_000 + number);
        fs::write(directory.join(format!("{name}.wasm")), &bytes).unwrap();
        let version = Version { reason, quirky: false, whole_at: Instant::now(), seen: false };
        book.lock().unwrap().insert((name.as_str().into(), Digest::of(&bytes)), version);
    }
    let cache_dir = Some(home.join("cache"));
    let engine = Engine::new(EngineConfig { cache_dir, compile: Compile::InProcess }).unwrap();
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
        swapped_after: 0,
        judged_since: BTreeSet::new(),
        serves: false,
        first_verdicts: Vec::new(),
        tally: Tally::default(),
    };
    (world, events, judged)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_written_in_every_way_beside_twenty_checkers_costs_no_check_and_serves_nothing_torn() {
    let span = Duration::from_secs(variable("APGAR_TORTURE", SECONDS));
    let seed = variable("APGAR_TORTURE_SEED", 1);
    println!("{} s, APGAR_TORTURE_SEED={seed}", span.as_secs());
    let home = tempfile::tempdir().unwrap();
    let mut tasks = Tasks::default();
    let (mut world, mut events, mut judged) = world(home.path(), &mut tasks).await;
    let listed = world.nodes.iter().cloned().map(Arc::new).collect();
    world.turn(vec![Input::Listed(listed)], None, Vec::new());

    let aside = home.path().join("aside");
    fs::create_dir(&aside).unwrap();
    let writer = Writer {
        rng: StdRng::seed_from_u64(seed),
        directory: home.path().join("plugins"),
        aside,
        book: world.book.clone(),
        last: 0,
        good: Vec::new(),
        folder: None,
        done: BTreeMap::new(),
    };
    let (written_in, mut written) = oneshot::channel();
    apgar::task::spawn("writer", async move { _ = written_in.send(writer.run(span).await) });

    let mut change = interval(CHANGE_EVERY);
    change.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changed = 0;
    let mut last: Option<Written> = None;
    loop {
        if let Some(last) = &last {
            if world.is_settled(last.last) {
                break;
            }
            assert!(last.at.elapsed() < PATIENCE, "not settled: {:?}", world.tally);
        }
        let mut batches = Vec::new();
        tokio::select! {
            Some(event) = events.recv() => world.turn(Vec::new(), Some(event), Vec::new()),
            1.. = judged.recv_many(&mut batches, 4096) => {
                world.turn(Vec::new(), None, batches.into_iter().flatten().collect());
            }
            _ = change.tick(), if last.is_none() && world.out.len() < OUT => {
                world.change(changed);
                changed += 1;
            }
            ended = &mut written, if last.is_none() => last = Some(ended.expect("the writer died")),
            () = sleep_until(world.wake()) => world.turn(Vec::new(), None, Vec::new()),
            why = tasks.ended() => panic!("{why}"),
        }
    }
    let last = last.unwrap();
    let settled = last.at.elapsed();
    let lost: Vec<CheckId> = world.out.iter().filter(|(_, out)| !out.drained).map(|(id, _)| *id).collect();
    assert!(lost.is_empty(), "never answered: {lost:?}");
    let unanswered = world.latest.values().filter(|id| world.out.contains_key(id)).count();
    assert_eq!(unanswered, 0, "the last checks of that many pairs were dropped");
    world.tally.dropped = world.out.len() as u64;

    println!("written: {:#?}\n{:#?}", last.done, world.tally);
    world.first_verdicts.sort_unstable();
    let took = &world.first_verdicts;
    assert!(!took.is_empty() && world.tally.swaps > 0, "nothing was swapped");
    println!(
        "{} versions judged; whole to first verdict {} ms in the median, {} at most; settled {} ms after the last byte",
        took.len(),
        took[took.len() / 2].as_millis(),
        took[took.len() - 1].as_millis(),
        settled.as_millis()
    );
    tasks.shutdown().await;
}

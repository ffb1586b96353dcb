//! The file store: what protects something outlives the process. One journal of checksummed lines in one
//! directory, of nodes and of plugins; the last line of each counts. Written and synced before the call it protects
//! (`gate` 8).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use apgar_core::node::NodeName;
use apgar_core::recovery::Record;
use apgar_core::supervision;
use apgar_core::time::Time;
use apgar_core::verdict::CheckerKey;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// The journal's file name in the state directory. An Apgar that knows nothing of plugins in it must find it and
/// refuse to act by it: one that found nothing would act as if nothing had been done to any node.
const JOURNAL: &str = "nodes.journal";

/// What a damaged journal is called, before the moment at which it was set aside.
const DAMAGED: &str = "nodes.journal.damaged-";

/// Bytes of superseded lines that are tolerated beyond four times those that count, before the journal is written
/// anew: few enough to read at start in a blink, many enough that rewriting stays rare. Bytes and not lines: that of a
/// node is half a kilobyte, that of a plugin with all its pairs thirty.
const SLACK: usize = 1 << 20;

/// The open journal.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Held as long as the journal is open: two writers would undo each other's memory.
    _lock: File,
    file: File,
    live: Live,
    /// Bytes of the lines that count.
    live_size: usize,
    /// Bytes of all lines.
    size: usize,
    /// The file may end in half a line.
    torn: bool,
}

/// The line that counts, by what it is about.
type Live = BTreeMap<Subject, String>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Node(NodeName),
    Plugin(CheckerKey),
}

/// Records by node, as they are restored.
pub type Records = Vec<(NodeName, Record)>;

/// Records to be stored, the latest of each.
#[derive(Debug, Default)]
pub struct Batch {
    /// Of nodes; `None` forgets one.
    pub nodes: BTreeMap<NodeName, Option<Box<Record>>>,
    /// Of plugins. None is ever forgotten: the number of its last start outlives a plugin.
    pub plugins: BTreeMap<CheckerKey, supervision::Record>,
}

impl Batch {
    /// True if there is nothing to be stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.plugins.is_empty()
    }

    fn extend(&mut self, later: Self) {
        self.nodes.extend(later.nodes);
        self.plugins.extend(later.plugins);
    }

    /// Each with the line that says it; none forgets what was said before.
    fn lines(&self) -> impl Iterator<Item = io::Result<(Subject, String, bool)>> {
        let nodes = self.nodes.iter().map(|(node, record)| {
            let line = seal(&NodeLine { node: node.clone(), record: record.as_deref() })?;
            Ok((Subject::Node(node.clone()), line, record.is_some()))
        });
        let plugins = self.plugins.iter().map(|(plugin, record)| {
            let line = seal(&PluginLine { plugin: plugin.clone(), record })?;
            Ok((Subject::Plugin(plugin.clone()), line, true))
        });
        nodes.chain(plugins)
    }
}

/// What was found at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The records, by node.
    pub records: Records,
    /// The records, by plugin.
    pub plugins: BTreeMap<CheckerKey, supervision::Record>,
    /// Plugins whose record is of another version and could not be read: it was dropped (`supervision` 4.13).
    pub dropped_plugins: Vec<String>,
    /// The last line was cut short, as by a crash while writing it; it was dropped.
    pub torn_tail: bool,
    /// A journal was damaged and is set aside here; nothing of it is used. The daemon must not act until a person
    /// has moved it away (`gate` G-48).
    pub set_aside: Option<PathBuf>,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or the journal cannot be used.
    #[error("state directory {dir}: {what}")]
    Unusable {
        /// The state directory.
        dir: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another process holds the journal.
    #[error("state directory {dir} is in use by another apgar; give this one its own by --store-dir")]
    InUse {
        /// The state directory.
        dir: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
struct NodeLine<R> {
    node: NodeName,
    /// `None`: forgotten.
    record: Option<R>,
}

#[derive(Serialize, Deserialize)]
struct PluginLine<R> {
    plugin: CheckerKey,
    record: R,
}

/// What a line of the journal says.
enum Line {
    Node(NodeLine<Record>),
    Plugin(PluginLine<supervision::Record>),
    /// Of a plugin, and no more of it can be read.
    Unreadable(CheckerKey),
}

impl Line {
    /// `None` if it is none, or its node's record cannot be read.
    fn parse(json: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Named {
            plugin: CheckerKey,
        }
        // Nearly all are of nodes.
        if let Ok(line) = serde_json::from_str(json) {
            return Some(Self::Node(line));
        }
        let Named { plugin } = serde_json::from_str(json).ok()?;
        Some(serde_json::from_str(json).map_or(Self::Unreadable(plugin), Self::Plugin))
    }
}

impl Loaded {
    /// Takes what the lines say, each with its text, and tells which of them count.
    fn take(&mut self, lines: Vec<(Line, String)>) -> Live {
        let mut live = Live::new();
        let mut records = BTreeMap::new();
        let mut dropped = BTreeSet::new();
        for (line, text) in lines {
            match line {
                Line::Node(NodeLine { node, record: Some(record) }) => {
                    records.insert(node.clone(), record);
                    live.insert(Subject::Node(node), text);
                }
                Line::Node(NodeLine { node, record: None }) => {
                    records.remove(&node);
                    live.remove(&Subject::Node(node));
                }
                Line::Plugin(PluginLine { plugin, record }) => {
                    dropped.remove(&plugin);
                    self.plugins.insert(plugin.clone(), record);
                    live.insert(Subject::Plugin(plugin), text);
                }
                Line::Unreadable(plugin) => {
                    self.plugins.remove(&plugin);
                    live.remove(&Subject::Plugin(plugin.clone()));
                    dropped.insert(plugin);
                }
            }
        }
        self.records = records.into_iter().collect();
        self.dropped_plugins = dropped.iter().map(|plugin| plugin.as_str().to_owned()).collect();
        live
    }
}

impl Store {
    /// Opens or creates the journal and reads what it holds. `now` names a journal that is set aside.
    ///
    /// # Errors
    /// When the directory cannot be used, or another process uses it.
    pub fn open(dir: &Path, now: Time) -> Result<(Self, Loaded), StoreError> {
        let unusable = |what| move |source| StoreError::Unusable { dir: dir.to_owned(), what, source };
        std::fs::create_dir_all(dir).map_err(unusable("cannot be created"))?;
        let lock = OpenOptions::new().create(true).append(true).open(dir.join("lock"));
        let lock = lock.map_err(unusable("cannot be written"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(unusable("cannot be locked")(error)),
        }
        let path = dir.join(JOURNAL);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(unusable("cannot be read")(error)),
        };
        let mut loaded = Loaded::default();
        let mut live = Live::new();
        match read(&bytes) {
            Ok((lines, torn)) => {
                live = loaded.take(lines);
                loaded.torn_tail = torn;
            }
            Err(Damaged) => {
                let aside = dir.join(format!("{DAMAGED}{}", now.unix_ms()));
                std::fs::rename(&path, &aside).map_err(unusable("damaged journal cannot be set aside"))?;
            }
        }
        // Also one from an earlier start: a restart by itself is nobody's look at it.
        loaded.set_aside = set_aside(dir).map_err(unusable("cannot be listed"))?;
        let file = rewrite(dir, &live).map_err(unusable("cannot be written"))?;
        let size = live.values().map(String::len).sum();
        Ok((Self { dir: dir.to_owned(), _lock: lock, file, live, live_size: size, size, torn: false }, loaded))
    }

    /// Appends the records and syncs them to disk. After an error nothing is certain about them; calling again
    /// writes the whole journal anew.
    ///
    /// # Errors
    /// When the disk says so.
    pub fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let mut text = String::new();
        for line in batch.lines() {
            let (subject, line, counts) = line?;
            text.push_str(&line);
            self.size += line.len();
            self.live_size += if counts { line.len() } else { 0 };
            let superseded = if counts { self.live.insert(subject, line) } else { self.live.remove(&subject) };
            self.live_size -= superseded.map_or(0, |line| line.len());
        }
        if self.torn || self.size > SLACK + 4 * self.live_size {
            self.file = rewrite(&self.dir, &self.live)?;
            self.size = self.live_size;
            self.torn = false;
            return Ok(());
        }
        // A write that fails half-way leaves a line that the next one must not be glued to.
        self.torn = true;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()?;
        self.torn = false;
        Ok(())
    }
}

/// The store on a thread of its own: syncing a disk takes as long as it takes, and the loop never waits for it.
/// What waits is the latest of each, so it is never more than the fleet and its plugins.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: Batch,
    acknowledge: Vec<oneshot::Sender<bool>>,
    /// Somebody asked, also if only to try again what failed.
    asked: bool,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do; `None` once closed and empty.
    fn next(&self) -> Option<Waiting> {
        let mut waiting = self.lock();
        while !waiting.asked && !waiting.closed {
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if !waiting.asked {
            return None;
        }
        let closed = waiting.closed;
        Some(std::mem::replace(&mut *waiting, Waiting { closed, ..Waiting::default() }))
    }
}

impl Writer {
    /// Starts the thread. `writable` is told each time that changes.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(mut store: Store, writable: mpsc::Sender<bool>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            let mut unwritten = Batch::default();
            let mut was_writable = true;
            while let Some(Waiting { batch, acknowledge, .. }) = inside.next() {
                unwritten.extend(batch);
                let result = store.append(&unwritten);
                let is_writable = result.is_ok();
                match result {
                    Ok(()) => unwritten = Batch::default(),
                    Err(error) => tracing::error!(event = "store_failed", %error, "the store cannot be written"),
                }
                for waiting in acknowledge {
                    // Nobody waits any more for a call that was given up.
                    let _given_up: Result<(), bool> = waiting.send(is_writable);
                }
                if is_writable != was_writable {
                    // The loop is gone only when the process stops; what is left is written all the same.
                    let _stopping: Result<(), _> = writable.blocking_send(is_writable);
                }
                was_writable = is_writable;
            }
        })?;
        Ok(Self { shared, thread })
    }

    /// Hands over what is to be stored; each of `acknowledge` hears whether it is on disk. Without anything it
    /// tries again what could not be written. False if the thread has died.
    #[must_use]
    pub fn write(&self, batch: Batch, acknowledge: Vec<oneshot::Sender<bool>>) -> bool {
        let mut waiting = self.shared.lock();
        waiting.batch.extend(batch);
        waiting.acknowledge.extend(acknowledge);
        waiting.asked = true;
        drop(waiting);
        self.shared.changed.notify_one();
        !self.thread.is_finished()
    }

    /// Writes what still waits, and ends the thread.
    pub fn close(self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
        if self.thread.join().is_err() {
            tracing::error!(event = "store_panicked", "the store's thread panicked; this is a bug");
        }
    }
}

/// Writes the live lines aside, syncs, and puts the new journal in the old one's place; it is whole at every
/// instant.
fn rewrite(dir: &Path, live: &Live) -> io::Result<File> {
    let aside = dir.join(format!("{JOURNAL}.new"));
    let mut file = File::create(&aside)?;
    for line in live.values() {
        file.write_all(line.as_bytes())?;
    }
    file.sync_all()?;
    std::fs::rename(&aside, dir.join(JOURNAL))?;
    File::open(dir)?.sync_all()?;
    Ok(file)
}

/// A line with its checksum in front.
fn seal(line: &impl Serialize) -> io::Result<String> {
    let json = serde_json::to_string(line)?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
}

/// Something in the journal is not what was written, or not what this version can read.
struct Damaged;

/// The latest journal that was set aside.
fn set_aside(dir: &Path) -> io::Result<Option<PathBuf>> {
    let names: Vec<String> = std::fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    Ok(names.into_iter().filter(|name| name.starts_with(DAMAGED)).max().map(|name| dir.join(name)))
}

/// The lines with their text, and whether the last one was cut short.
fn read(bytes: &[u8]) -> Result<(Vec<(Line, String)>, bool), Damaged> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Ok((lines, true));
        };
        let (raw, after) = rest.split_at(end + 1);
        match unseal(raw) {
            Some(json) => {
                let line = Line::parse(json).ok_or(Damaged)?;
                lines.push((line, String::from_utf8_lossy(raw).into_owned()));
            }
            None if after.is_empty() => return Ok((lines, true)),
            None => return Err(Damaged),
        }
        rest = after;
    }
    Ok((lines, false))
}

/// The content of a line whose checksum is right.
fn unseal(line: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(line).ok()?;
    let (sum, json) = text.strip_suffix('\n')?.split_once(' ')?;
    (u32::from_str_radix(sum, 16).ok()? == crc32fast::hash(json.as_bytes())).then_some(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_core::fleet::Fleet;
    use apgar_core::policy::Policy;

    const NOW: Time = Time::from_unix_ms(1_700_000_000_000);

    /// A record as the core writes it: of a node that fails.
    fn record(name: &str) -> (NodeName, Option<Box<Record>>) {
        use apgar_core::fleet::{Checker, Input, Inputs};
        use apgar_core::node::Node;
        use apgar_core::verdict::{CheckerKey, Judgement, Verdict};
        use std::sync::Arc;
        let mut fleet = Fleet::new(Policy::default());
        let key = CheckerKey::from("ready");
        let checker =
            Checker { key: key.clone(), generation: Arc::from("g"), reasons: Vec::new(), inputs: Inputs::Node };
        let node = Arc::new(Node { uid: "u".into(), ..Node::named(name) });
        let inputs =
            vec![Input::CheckerServes(checker), Input::Evidence { live: true }, Input::Listed(vec![node.clone()])];
        let turn = fleet.turn(NOW, inputs);
        let check = turn.checks.first().unwrap().id;
        let verdict =
            Verdict::Fail(Judgement { reason: Arc::from("r"), threshold: std::time::Duration::from_secs(300) });
        let judged = Input::Judged { check, node: node.name.clone(), checker: key, verdict, remember: true };
        fleet.turn(NOW, vec![judged]).writes.pop().unwrap()
    }

    fn nodes<const N: usize>(nodes: [(NodeName, Option<Box<Record>>); N]) -> Batch {
        Batch { nodes: nodes.into(), ..Batch::default() }
    }

    /// The record of a plugin that crashed once.
    fn crashed() -> supervision::Record {
        use apgar_core::digest::{Digest, Generation};
        use apgar_core::supervision::{Cause, Death, Entry, Record, Run, Source, Stage, Track};
        let generation = Generation { bytes: Some(Digest::of(b"bytes")), config: Digest::of(b"{}") };
        let (cause, stage, detail) = (Cause::Trap, Stage::Check, "unreachable".to_owned());
        let last = Death { start: 7, cause, stage, detail, node: Some("n".into()), at: NOW };
        let (source, run, pairs) = (Source::Directory, Run::Down, BTreeMap::new());
        Record {
            good: Some(Track { generation, source, pure: true, start: 7, run, pairs }),
            wanted: None,
            last_start: 7,
            ledger: [(generation, Entry { count: 1, last, next: None })].into(),
        }
    }

    fn plugins<const N: usize>(names: [&str; N]) -> Batch {
        Batch { plugins: names.map(|name| (name.into(), crashed())).into(), ..Batch::default() }
    }

    fn journal(dir: &Path) -> PathBuf {
        dir.join(JOURNAL)
    }

    /// Adds a line as another version could have written it.
    fn add(dir: &Path, json: &str) {
        let mut file = OpenOptions::new().append(true).open(journal(dir)).unwrap();
        writeln!(file, "{:08x} {json}", crc32fast::hash(json.as_bytes())).unwrap();
    }

    fn open(dir: &Path) -> (Store, Loaded) {
        Store::open(dir, NOW).unwrap()
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_and_what_was_forgotten_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, loaded) = open(dir.path());
        assert!(loaded.records.is_empty() && !loaded.torn_tail);
        store.append(&nodes([record("a"), record("b")])).unwrap();
        store.append(&nodes([("a".into(), None)])).unwrap();
        drop(store);
        let (_store, loaded) = open(dir.path());
        let (name, stored) = loaded.records.first().unwrap();
        assert_eq!((loaded.records.len(), name.as_str()), (1, "b"));
        assert_eq!(stored.incident, record("b").1.unwrap().incident);
    }

    #[test]
    fn p_74_plugins_are_there_after_a_restart_beside_nodes_of_their_name() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        store.append(&Batch { plugins: plugins(["gpu", "a"]).plugins, ..nodes([record("a")]) }).unwrap();
        store.append(&nodes([("a".into(), None)])).unwrap();
        let newer = supervision::Record { last_start: 8, ..crashed() };
        store.append(&Batch { plugins: [("gpu".into(), newer.clone())].into(), ..Batch::default() }).unwrap();
        drop(store);
        // Once as it was appended, and once as it was written anew at a start.
        for _ in 0..2 {
            let (_store, loaded) = open(dir.path());
            assert!(loaded.records.is_empty() && loaded.dropped_plugins.is_empty());
            assert_eq!(loaded.plugins, [("a".into(), crashed()), ("gpu".into(), newer.clone())].into());
        }
    }

    #[test]
    fn a_plugin_of_another_version_is_dropped_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        store.append(&Batch { plugins: plugins(["disk", "gpu"]).plugins, ..nodes([record("a")]) }).unwrap();
        drop(store);
        add(dir.path(), r#"{"plugin":"gpu","record":{"tracks":[]}}"#);
        add(dir.path(), r#"{"plugin":"ready","record":null}"#);
        let (mut store, loaded) = open(dir.path());
        assert!(loaded.set_aside.is_none() && !loaded.torn_tail);
        assert_eq!(loaded.dropped_plugins, ["gpu", "ready"]);
        assert_eq!((loaded.records.len(), loaded.plugins), (1, [("disk".into(), crashed())].into()));
        // What is written later counts.
        store.append(&plugins(["ready"])).unwrap();
        drop(store);
        let (_store, loaded) = open(dir.path());
        assert!(loaded.dropped_plugins.is_empty() && loaded.plugins.contains_key(&"ready".into()));
    }

    #[test]
    fn a_node_of_another_version_and_a_line_of_neither_kind_are_damage() {
        for json in [r#"{"node":"a","record":{"steps":[]}}"#, r#"{"record":null}"#, "{}"] {
            let dir = tempfile::tempdir().unwrap();
            drop(open(dir.path()));
            add(dir.path(), json);
            assert!(open(dir.path()).1.set_aside.is_some(), "{json}");
        }
    }

    #[test]
    fn a_journal_without_plugins_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let (node, record) = record("a");
        add(dir.path(), &serde_json::json!({ "node": node, "record": record }).to_string());
        add(dir.path(), r#"{"node":"b","record":null}"#);
        let (_store, loaded) = open(dir.path());
        let restored = loaded.records.first().map(|(name, record)| (name.as_str(), record.incident.clone()));
        assert_eq!(restored, Some(("a", record.unwrap().incident)));
        assert!(loaded.records.len() == 1 && loaded.set_aside.is_none());
    }

    #[test]
    fn what_could_not_be_written_is_written_with_what_comes_next() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        store.file = File::open(journal(dir.path())).unwrap(); // not for writing
        let (changes, mut writable) = mpsc::channel(4);
        let writer = Writer::start(store, changes).unwrap();
        let ask = |batch| {
            let (acknowledge, stored) = oneshot::channel();
            assert!(writer.write(batch, vec![acknowledge]));
            stored.blocking_recv().unwrap()
        };
        assert!(!ask(plugins(["gpu"])));
        assert_eq!(writable.blocking_recv(), Some(false));
        assert!(ask(nodes([record("a")])));
        assert_eq!(writable.blocking_recv(), Some(true));
        writer.close();
        let loaded = open(dir.path()).1;
        assert_eq!((loaded.records.len(), loaded.plugins.len()), (1, 1));
    }

    #[test]
    fn g_47_a_torn_tail_is_dropped_and_the_rest_is_intact() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        store.append(&nodes([record("a")])).unwrap();
        store.append(&nodes([record("b")])).unwrap();
        drop(store);
        let path = dir.path().join(JOURNAL);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
        let (_store, loaded) = open(dir.path());
        assert!(loaded.torn_tail && loaded.set_aside.is_none());
        assert_eq!(loaded.records.len(), 1);
    }

    #[test]
    fn g_48_a_damaged_journal_is_set_aside_and_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        store.append(&nodes([record("a"), record("b")])).unwrap();
        drop(store);
        let path = dir.path().join(JOURNAL);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (store, loaded) = open(dir.path());
        assert!(loaded.records.is_empty());
        let aside = loaded.set_aside.unwrap();
        assert_eq!(std::fs::read(&aside).unwrap(), bytes);
        // A restart does not forget it; a person who moves it away does.
        drop(store);
        let (again, loaded) = open(dir.path());
        assert_eq!(loaded.set_aside.as_deref(), Some(aside.as_path()));
        drop(again);
        std::fs::remove_file(aside).unwrap();
        assert!(open(dir.path()).1.set_aside.is_none());
    }

    #[test]
    fn what_waits_is_written_before_the_thread_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (changes, _unused) = mpsc::channel(1);
        let writer = Writer::start(open(dir.path()).0, changes).unwrap();
        let (acknowledge, stored) = oneshot::channel();
        assert!(writer.write(nodes([record("a")]), vec![acknowledge]));
        assert!(writer.write(plugins(["gpu"]), Vec::new()));
        writer.close();
        assert!(stored.blocking_recv().unwrap());
        let loaded = open(dir.path()).1;
        assert_eq!((loaded.records.len(), loaded.plugins.len()), (1, 1));
    }

    #[test]
    fn two_daemons_cannot_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, _) = open(dir.path());
        assert!(matches!(Store::open(dir.path(), NOW), Err(StoreError::InUse { .. })));
    }

    #[test]
    fn the_journal_is_written_anew_when_most_of_it_is_superseded() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        let (node, long) = (record("a"), plugins([&"x".repeat(SLACK / 20)]));
        let on_disk = || usize::try_from(std::fs::metadata(dir.path().join(JOURNAL)).unwrap().len()).unwrap();
        let mut largest = 0;
        for _ in 0..60 {
            store.append(&nodes([node.clone()])).unwrap();
            store.append(&long).unwrap();
            assert_eq!(on_disk(), store.size);
            largest = largest.max(store.size);
        }
        assert!(largest > SLACK && largest < 3 * SLACK / 2, "{largest}");
        let forgotten = nodes([(node.0, None)]);
        store.append(&forgotten).unwrap();
        assert_eq!(store.live_size, store.live.values().map(String::len).sum::<usize>());
        drop(store);
        let loaded = open(dir.path()).1;
        assert_eq!((loaded.records.len(), loaded.plugins.len()), (0, 1));
    }
}

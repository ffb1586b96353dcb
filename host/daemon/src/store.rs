//! The file store: what protects something outlives the process. One journal of checksummed lines in one
//! directory; the last line of a node counts. Written and synced before the call it protects (`gate` 8).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use apgar_core::node::NodeName;
use apgar_core::recovery::Record;
use apgar_core::time::Time;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// The journal's file name in the state directory.
const JOURNAL: &str = "nodes.journal";

/// Superseded lines that are tolerated beyond four per live record, before the journal is written anew: few
/// enough to read at start in a blink, many enough that rewriting stays rare.
const SLACK_LINES: usize = 1000;

/// The open journal.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Held as long as the journal is open: two writers would undo each other's memory.
    _lock: File,
    file: File,
    live: BTreeMap<NodeName, String>,
    lines: usize,
    /// The file may end in half a line.
    torn: bool,
}

/// Records by node, as they are restored.
pub type Records = Vec<(NodeName, Record)>;

/// Records to be stored; `None` forgets one.
pub type Writes = Vec<(NodeName, Option<Box<Record>>)>;

/// What was found at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The records, by node.
    pub records: Records,
    /// The last line was cut short, as by a crash while writing it; it was dropped.
    pub torn_tail: bool,
    /// The journal was damaged; it was set aside here and nothing of it is used. The daemon must not act
    /// until a person has looked (`gate` G-48).
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
    #[error("state directory {dir} is in use by another apgar; give this one its own by --state-dir")]
    InUse {
        /// The state directory.
        dir: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
struct Line {
    node: NodeName,
    /// `None`: forgotten.
    record: Option<Record>,
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
        if lock.try_lock().is_err() {
            return Err(StoreError::InUse { dir: dir.to_owned() });
        }
        let path = dir.join(JOURNAL);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(unusable("cannot be read")(error)),
        };
        let mut loaded = Loaded::default();
        let mut live = BTreeMap::new();
        match read(&bytes) {
            Ok((lines, torn)) => {
                loaded.torn_tail = torn;
                for (line, text) in lines {
                    match line.record {
                        Some(record) => live.insert(line.node, (record, text)).map(drop),
                        None => live.remove(&line.node).map(drop),
                    };
                }
            }
            Err(Damaged) => {
                let aside = dir.join(format!("{JOURNAL}.damaged-{}", now.unix_ms()));
                std::fs::rename(&path, &aside).map_err(unusable("damaged journal cannot be set aside"))?;
                loaded.set_aside = Some(aside);
            }
        }
        let (records, live): (Vec<_>, BTreeMap<_, _>) =
            live.into_iter().map(|(node, (record, text))| ((node.clone(), record), (node, text))).unzip();
        loaded.records = records;
        let file = rewrite(dir, &live).map_err(unusable("cannot be written"))?;
        let lines = live.len();
        Ok((Self { dir: dir.to_owned(), _lock: lock, file, live, lines, torn: false }, loaded))
    }

    /// Appends the records and syncs them to disk. After an error nothing is certain about them; calling again
    /// writes the whole journal anew.
    ///
    /// # Errors
    /// When the disk says so.
    pub fn append(&mut self, writes: &BTreeMap<NodeName, Option<Box<Record>>>) -> io::Result<()> {
        let mut text = String::new();
        for (node, record) in writes {
            let line = seal(&Line { node: node.clone(), record: record.as_deref().cloned() })?;
            text.push_str(&line);
            if record.is_some() {
                self.live.insert(node.clone(), line);
            } else {
                self.live.remove(node);
            }
        }
        self.lines += writes.len();
        if self.torn || self.lines > SLACK_LINES + 4 * self.live.len() {
            self.file = rewrite(&self.dir, &self.live)?;
            self.lines = self.live.len();
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
#[derive(Debug)]
pub struct Writer {
    batches: std::sync::mpsc::SyncSender<Batch>,
}

#[derive(Debug, Default)]
struct Batch {
    writes: Writes,
    acknowledge: Vec<oneshot::Sender<bool>>,
}

/// Batches that may wait for the disk: at one a turn, a disk that stalls for minutes. Past it a batch is
/// refused, and whoever waits for it does not act.
const BATCHES_WAITING: usize = 1024;

impl Writer {
    /// Starts the thread. `writable` is told each time that changes.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(mut store: Store, writable: mpsc::Sender<bool>) -> io::Result<Self> {
        let (batches, incoming) = std::sync::mpsc::sync_channel::<Batch>(BATCHES_WAITING);
        std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            // The newest of each node: what waits for a broken disk must not grow without end.
            let mut unwritten = BTreeMap::new();
            let mut was_writable = true;
            for batch in incoming {
                unwritten.extend(batch.writes);
                let result = store.append(&unwritten);
                let is_writable = result.is_ok();
                match result {
                    Ok(()) => unwritten.clear(),
                    Err(error) => tracing::error!(event = "store_failed", %error, "the store cannot be written"),
                }
                for waiting in batch.acknowledge {
                    // Nobody waits any more for a call that was given up.
                    let _given_up: Result<(), bool> = waiting.send(is_writable);
                }
                if is_writable != was_writable && writable.blocking_send(is_writable).is_err() {
                    return;
                }
                was_writable = is_writable;
            }
        })?;
        Ok(Self { batches })
    }

    /// Hands over what is to be stored; each of `acknowledge` hears whether it is on disk. An empty batch tries
    /// again what could not be written. False if it could not be taken.
    #[must_use]
    pub fn write(&self, writes: Writes, acknowledge: Vec<oneshot::Sender<bool>>) -> bool {
        self.batches.try_send(Batch { writes, acknowledge }).is_ok()
    }
}

/// Writes the live lines aside, syncs, and puts the new journal in the old one's place; it is whole at every
/// instant.
fn rewrite(dir: &Path, live: &BTreeMap<NodeName, String>) -> io::Result<File> {
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
fn seal(line: &Line) -> io::Result<String> {
    let json = serde_json::to_string(line)?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
}

/// A line before the last is not what was written.
struct Damaged;

/// The lines with their text, and whether the last one was cut short.
fn read(bytes: &[u8]) -> Result<(Vec<(Line, String)>, bool), Damaged> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Ok((lines, true));
        };
        let (line, after) = rest.split_at(end + 1);
        match unseal(line) {
            Some(read) => lines.push(read),
            None if after.is_empty() => return Ok((lines, true)),
            None => return Err(Damaged),
        }
        rest = after;
    }
    Ok((lines, false))
}

fn unseal(line: &[u8]) -> Option<(Line, String)> {
    let text = std::str::from_utf8(line).ok()?;
    let (sum, json) = text.strip_suffix('\n')?.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    if sum != crc32fast::hash(json.as_bytes()) {
        return None;
    }
    Some((serde_json::from_str(json).ok()?, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_core::fleet::Fleet;
    use apgar_core::policy::Policy;

    const NOW: Time = Time::from_unix_ms(1_700_000_000_000);

    /// A record as the core writes it: of a node that fails.
    fn record(name: &str) -> (NodeName, Option<Box<Record>>) {
        use apgar_core::fleet::{Checker, Input};
        use apgar_core::node::Node;
        use apgar_core::verdict::{CheckerKey, Judgement, Verdict};
        use std::sync::Arc;
        let mut fleet = Fleet::new(Policy::default());
        let key = CheckerKey::from("ready");
        let checker = Checker { key: key.clone(), generation: Arc::from("g"), reasons: Vec::new(), pure: true };
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

    fn open(dir: &Path) -> (Store, Loaded) {
        Store::open(dir, NOW).unwrap()
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_and_what_was_forgotten_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, loaded) = open(dir.path());
        assert!(loaded.records.is_empty() && !loaded.torn_tail);
        store.append(&[record("a"), record("b")].into()).unwrap();
        store.append(&[("a".into(), None)].into()).unwrap();
        drop(store);
        let (_store, loaded) = open(dir.path());
        let (name, stored) = loaded.records.first().unwrap();
        assert_eq!((loaded.records.len(), name.as_str()), (1, "b"));
        assert_eq!(stored.incident, record("b").1.unwrap().incident);
    }

    #[test]
    fn g_47_a_torn_tail_is_dropped_and_the_rest_is_intact() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        store.append(&[record("a")].into()).unwrap();
        store.append(&[record("b")].into()).unwrap();
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
        store.append(&[record("a"), record("b")].into()).unwrap();
        drop(store);
        let path = dir.path().join(JOURNAL);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (_store, loaded) = open(dir.path());
        assert!(loaded.records.is_empty());
        assert_eq!(std::fs::read(loaded.set_aside.unwrap()).unwrap(), bytes);
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
        let one = record("a");
        for _ in 0..SLACK_LINES + 10 {
            store.append(&[one.clone()].into()).unwrap();
        }
        assert!(store.lines < 20, "{}", store.lines);
        drop(store);
        assert_eq!(open(dir.path()).1.records.len(), 1);
    }
}

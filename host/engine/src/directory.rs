//! The plugin directory: what a look at it may conclude, and the task that looks. The conclusions are drawn by
//! [`Reconciler`], which touches no file; the task reads, waits and reports. Whatever it reports, nothing is loaded
//! or unloaded here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apgar_core::verdict::CheckerKey;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecursiveMode, Watcher};
use rustix::fs::OFlags;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::death::{Refusal, RefusalReason};
use crate::limits;
use crate::load::too_large;
use crate::plugin::Digest;
use crate::signature::{self, PublicKey};
use crate::text;

/// Commands that wait: there is one person at a time.
const COMMANDS: usize = 8;

/// Files that are read at once: while a large one is, the others are not held up, and only two of them are in memory.
const READS: usize = 2;

/// Where to look, and how patiently.
#[derive(Debug, Clone)]
pub struct DirectoryOptions {
    /// The directory.
    pub path: PathBuf,
    /// True if somebody named it: then it is trouble if it was never there.
    pub expected: bool,
    /// Files that may be plugins. Those beyond, by name, are refused.
    pub max: usize,
    /// The largest file that is read.
    pub file_size: u64,
    /// Quiet after a change before a look: editors write in pieces.
    pub debounce: Duration,
    /// The longest a look is put off by changes that do not end.
    pub debounce_max: Duration,
    /// Between two reads that must agree.
    pub stable_gap: Duration,
    /// Reads before a file is called unstable.
    pub stable_attempts: u32,
    /// Between looks without any sign of a change: network file systems are silent.
    pub poll_interval: Duration,
    /// Every so many polls all files are read: a rewrite can keep size and times.
    pub digest_every: u32,
    /// Every file needs a signature by one of them. Empty: none needs any.
    pub trusted_keys: Arc<[PublicKey]>,
    /// Plugins whose files an earlier process had from here: a restart does not make it less odd that they are gone.
    pub known: Vec<CheckerKey>,
}

impl DirectoryOptions {
    /// The waits of `supervision` 3.3.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            expected: true,
            max: limits::PLUGINS,
            file_size: limits::FILE_SIZE,
            debounce: Duration::from_millis(250),
            debounce_max: Duration::from_secs(5),
            stable_gap: Duration::from_millis(250),
            stable_attempts: 20,
            poll_interval: Duration::from_secs(30),
            digest_every: 10,
            trusted_keys: Arc::default(),
            known: Vec::new(),
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryEvent {
    /// A new file, or a file with new bytes, read until it was stable.
    Found {
        /// The file's stem.
        name: CheckerKey,
        /// All of it.
        bytes: Arc<[u8]>,
        /// Of the bytes.
        digest: Digest,
        /// The text of its signature file, verified; none if no signature is required.
        signature: Option<Arc<str>>,
    },
    /// A file was written anew with the bytes it had.
    Unchanged {
        /// The file's stem.
        name: CheckerKey,
    },
    /// A file is gone for good: two looks in a row did not find it, or a person said so.
    Removed {
        /// The file's stem.
        name: CheckerKey,
    },
    /// A file is not acceptable. What it replaced serves on.
    Refused {
        /// The file's stem; for a bad name, as much of it as can be shown.
        name: CheckerKey,
        /// Why.
        refusal: Refusal,
    },
    /// The directory is missing or cannot be listed: nothing is concluded from that.
    Lost {
        /// Why.
        message: String,
    },
    /// The directory is suddenly empty: nothing is concluded from that either.
    Emptied {
        /// How many plugins it had.
        had: usize,
    },
    /// The directory is as it should be again.
    Back,
}

/// The state of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirectoryState {
    /// It can be listed.
    Ok,
    /// It is not there and never was, and nobody asked for it.
    Absent,
    /// It cannot be listed.
    Lost,
    /// It is empty and should not be.
    Emptied,
}

/// The directory, for the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirectoryStatus {
    /// Where it is.
    pub path: PathBuf,
    /// How it is.
    pub state: DirectoryState,
    /// Plugin files in it.
    pub files: usize,
    /// Files that no plugin row shows: bad names, and those beyond the limit.
    pub refused: Vec<RefusedFile>,
}

/// A file that is no plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedFile {
    /// Its name, as far as it can be shown.
    pub file: String,
    /// Why.
    #[serde(flatten)]
    pub refusal: Refusal,
}

/// Why a plugin cannot be unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnloadError {
    /// There is no directory plugin of that name.
    #[error("no plugin of that name came from the directory")]
    Unknown,
    /// Its file is there, and would be loaded again.
    #[error("its file is still in the directory: remove the file instead")]
    FilePresent,
    /// Nobody watches any more.
    #[error("the directory is not watched any more")]
    Ended,
}

/// The watch on the directory, before it runs.
#[derive(Debug)]
pub struct Directory {
    options: DirectoryOptions,
    commands: mpsc::Receiver<Command>,
    status: Arc<Mutex<DirectoryStatus>>,
}

/// What others may ask of a running watch.
#[derive(Debug, Clone)]
pub struct DirectoryHandle {
    commands: mpsc::Sender<Command>,
    status: Arc<Mutex<DirectoryStatus>>,
}

#[derive(Debug)]
enum Command {
    Rescan,
    Unload(CheckerKey, oneshot::Sender<Result<(), UnloadError>>),
    Trust(Arc<[PublicKey]>, oneshot::Sender<()>),
}

impl DirectoryHandle {
    /// Looks now, and reads every file.
    pub async fn rescan(&self) {
        if self.commands.send(Command::Rescan).await.is_err() {
            tracing::debug!("the plugin directory is not watched any more");
        }
    }

    /// From now on files need a signature by one of these keys. Returns when every file was read again with its
    /// signature.
    pub async fn trust(&self, keys: Arc<[PublicKey]>) {
        let (done, read) = oneshot::channel();
        if self.commands.send(Command::Trust(keys, done)).await.is_err() || read.await.is_err() {
            tracing::debug!("the plugin directory is not watched any more");
        }
    }

    /// Takes away a plugin whose file is gone but which was kept because the directory looked odd.
    ///
    /// # Errors
    /// If it is no directory plugin, or its file is there.
    pub async fn unload(&self, name: &CheckerKey) -> Result<(), UnloadError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Unload(name.clone(), reply);
        self.commands.send(command).await.map_err(|_| UnloadError::Ended)?;
        answer.await.map_err(|_| UnloadError::Ended)?
    }

    /// How the directory is.
    #[must_use]
    pub fn status(&self) -> DirectoryStatus {
        crate::lock(&self.status).clone()
    }
}

impl Directory {
    /// A watch that has not looked yet, and the handle to ask it by.
    #[must_use]
    pub fn new(options: DirectoryOptions) -> (Self, DirectoryHandle) {
        let status = Arc::new(Mutex::new(DirectoryStatus {
            path: options.path.clone(),
            state: DirectoryState::Absent,
            files: 0,
            refused: Vec::new(),
        }));
        let (sender, commands) = mpsc::channel(COMMANDS);
        (Self { options, commands, status: status.clone() }, DirectoryHandle { commands: sender, status })
    }

    /// Watches until nobody listens. The first look is made at once, and sends `Found` for what is there.
    pub async fn run(mut self, events: mpsc::Sender<DirectoryEvent>) {
        let (sign, mut signs) = mpsc::channel(1);
        let mut watch = Watch::new(sign);
        let mut reconciler = Reconciler::new(&self.options);
        let mut polls = 0_u32;
        let mut every_digest = false;
        let mut trusted: Option<oneshot::Sender<()>> = None;
        loop {
            let (path, signed) = (self.options.path.clone(), !self.options.trusted_keys.is_empty());
            let Ok(scan) = tokio::task::spawn_blocking(move || Scan::of(&path, signed)).await else {
                return;
            };
            watch.follow(&self.options.path, &scan);
            let (found, reads) = reconciler.observe(scan, every_digest);
            if send(&events, found).await.is_err() {
                return;
            }
            self.publish(&reconciler);
            let permits = Semaphore::new(READS);
            let mut reads: FuturesUnordered<_> = reads.into_iter().map(|read| self.read(read, &permits)).collect();
            while let Some((pending, came)) = reads.next().await {
                let event = reconciler.conclude(pending, came, &self.options);
                if send(&events, event.into_iter().collect()).await.is_err() {
                    return;
                }
            }
            drop(reads);
            self.publish(&reconciler);
            if let Some(trusted) = trusted.take() {
                // Whoever asked may be gone.
                trusted.send(()).ok();
            }
            let wait = if reconciler.doubts() { self.options.debounce } else { self.options.poll_interval };
            every_digest = false;
            tokio::select! {
                () = tokio::time::sleep(wait) => {
                    polls = polls.wrapping_add(1);
                    every_digest = self.options.digest_every > 0 && polls.is_multiple_of(self.options.digest_every);
                }
                Some(()) = signs.recv() => self.settle(&mut signs).await,
                command = self.commands.recv() => match command {
                    None | Some(Command::Rescan) if events.is_closed() => return,
                    None => tokio::time::sleep(wait).await,
                    Some(Command::Rescan) => every_digest = true,
                    Some(Command::Trust(keys, done)) => {
                        self.options.trusted_keys = keys;
                        reconciler.trust_nothing();
                        (every_digest, trusted) = (true, Some(done));
                    }
                    Some(Command::Unload(name, reply)) => {
                        let (answer, event) = reconciler.unload(name);
                        if reply.send(answer).is_err() {
                            tracing::debug!("whoever asked to unload a plugin is gone");
                        }
                        if send(&events, event).await.is_err() {
                            return;
                        }
                    }
                },
                () = events.closed() => return,
            }
        }
    }

    /// Waits for quiet, but not for ever.
    async fn settle(&self, signs: &mut mpsc::Receiver<()>) {
        let quiet = async { while tokio::time::timeout(self.options.debounce, signs.recv()).await.is_ok() {} };
        if tokio::time::timeout(self.options.debounce_max, quiet).await.is_err() {
            tracing::debug!("the plugin directory keeps changing");
        }
    }

    /// Reads a file until it was the same twice, or is as it was known, or the attempts are over.
    async fn read(&self, mut pending: Pending, permits: &Semaphore) -> (Pending, Came) {
        for attempt in 0..self.options.stable_attempts {
            if attempt > 0 {
                tokio::time::sleep(self.options.stable_gap).await;
            }
            let path = self.options.path.join(format!("{}.wasm", pending.name));
            let (name, most, keys) = (pending.name.clone(), self.options.file_size, self.options.trusted_keys.clone());
            let read = {
                let _permit = permits.acquire().await;
                tokio::task::spawn_blocking(move || read_file(&name, &path, most, &keys)).await
            };
            match read.unwrap_or_else(|error| Err(ReadError::Refused(unreadable(&pending.name, &error)))) {
                // The signature may only be on its way: file and signature are two files, and one of them is first.
                Ok(ReadFile { id, digest, signature: Err(refusal), .. }) => {
                    pending.refusal = (pending.digest == Some(digest)).then_some((id, refusal));
                    pending.digest = Some(digest);
                }
                Ok(read) if pending.digest == Some(read.digest) => return (pending, Came::Stable(read)),
                Ok(read) if pending.known == Some(read.digest) => return (pending, Came::Same),
                Ok(read) => {
                    pending.digest = Some(read.digest);
                    pending.refusal = None;
                }
                Err(error) => return (pending, Came::Not(error)),
            }
        }
        (pending, Came::Unsettled)
    }

    fn publish(&self, reconciler: &Reconciler) {
        let mut status = crate::lock(&self.status);
        status.state = reconciler.state;
        status.files = reconciler.files;
        status.refused = reconciler
            .odd
            .iter()
            .map(|(file, refusal)| RefusedFile { file: file.clone(), refusal: refusal.clone() })
            .collect();
    }
}

async fn send(events: &mpsc::Sender<DirectoryEvent>, found: Vec<DirectoryEvent>) -> Result<(), ()> {
    for event in found {
        events.send(event).await.map_err(|_| ())?;
    }
    Ok(())
}

/// The notification about changes, on the directory and never on a file: renames and symlink swaps are changes of the
/// directory. It follows the directory when another one takes its place.
struct Watch {
    sign: mpsc::Sender<()>,
    watcher: Option<(notify::RecommendedWatcher, (u64, u64))>,
}

impl Watch {
    fn new(sign: mpsc::Sender<()>) -> Self {
        Self { sign, watcher: None }
    }

    fn follow(&mut self, path: &Path, scan: &Scan) {
        let Scan::Listed { device, inode, .. } = scan else {
            self.watcher = None;
            return;
        };
        if self.watcher.as_ref().is_some_and(|(_, watched)| *watched == (*device, *inode)) {
            return;
        }
        let sign = self.sign.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error is a sign too: a queue that overflowed needs a full look.
            let of_interest = event.map_or(true, |event| match event.kind {
                // Our own reads are accesses: taken for changes they would go round for ever.
                EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
                EventKind::Any
                | EventKind::Create(_)
                | EventKind::Modify(_)
                | EventKind::Remove(_)
                | EventKind::Other => true,
            });
            if of_interest {
                // A sign that is already waiting says the same.
                sign.try_send(()).ok();
            }
        })
        .and_then(|mut watcher| watcher.watch(path, RecursiveMode::NonRecursive).map(|()| watcher));
        self.watcher = match watcher {
            Ok(watcher) => Some((watcher, (*device, *inode))),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "changes of the plugin directory are only seen by looking");
                None
            }
        };
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    changed: [(i64, i64); 2],
}

impl FileId {
    fn of(found: &fs::Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            changed: [(found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec())],
        }
    }
}

/// A file and, where one is required and there, its signature: a change of either is a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SignedId {
    file: FileId,
    signature: Option<FileId>,
}

/// An entry that could be a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    File(SignedId),
    Other(&'static str),
    Unreadable(String),
}

/// One look at the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scan {
    Listed { device: u64, inode: u64, entries: BTreeMap<String, Seen> },
    Absent,
    Lost(String),
}

impl Scan {
    /// `signed` says whether signatures matter.
    fn of(path: &Path, signed: bool) -> Self {
        Self::look(path, signed).unwrap_or_else(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return Self::Absent;
            }
            Self::Lost(format!("{} cannot be listed: {error}", path.display()))
        })
    }

    fn look(path: &Path, signed: bool) -> io::Result<Self> {
        let directory = fs::metadata(path)?;
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let file = entry?.file_name().to_string_lossy().into_owned();
            let Some(stem) = file.strip_suffix(".wasm").filter(|_| !file.starts_with('.')) else {
                continue;
            };
            if let Some(seen) = examine(&path.join(&file), signed) {
                entries.insert(stem.to_owned(), seen);
            }
        }
        Ok(Self::Listed { device: directory.dev(), inode: directory.ino(), entries })
    }
}

/// What an entry is, links followed; None for what is ignored.
fn examine(path: &Path, signed: bool) -> Option<Seen> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        // Gone between listing and looking, or a link to nowhere.
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => return None,
        Err(error) => return Some(Seen::Unreadable(error.to_string())),
    };
    let kind = found.file_type();
    if kind.is_dir() {
        return None;
    }
    Some(match kind {
        kind if kind.is_file() => {
            let signature = signed.then(|| fs::metadata(signature_path(path)).ok()).flatten();
            Seen::File(SignedId { file: FileId::of(&found), signature: signature.as_ref().map(FileId::of) })
        }
        kind if kind.is_fifo() => Seen::Other("a pipe"),
        kind if kind.is_socket() => Seen::Other("a socket"),
        _ => Seen::Other("a device"),
    })
}

/// A file as it was read once.
struct ReadFile {
    id: SignedId,
    bytes: Arc<[u8]>,
    digest: Digest,
    /// The text of its signature if it is good; none if none is required.
    signature: Result<Option<Arc<str>>, Refusal>,
}

enum ReadError {
    Vanished,
    Refused(Refusal),
}

fn unreadable(name: &str, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalReason::Unreadable, format!("{name}.wasm cannot be read: {error}"))
}

fn not_a_file(name: &str, what: &str) -> Refusal {
    Refusal::new(RefusalReason::NotAFile, format!("{name}.wasm is {what}, not a regular file"))
}

/// Where the signature of a file is, as minisign has it.
fn signature_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".sig");
    path.into()
}

/// Opens a file that may be anything without hanging.
fn open(path: &Path) -> io::Result<(fs::File, fs::Metadata)> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    Ok((file, found))
}

/// The text of the signature next to a file, if it is good.
fn read_signature(
    name: &str,
    path: &Path,
    bytes: &[u8],
    keys: &[PublicKey],
) -> (Option<FileId>, Result<Arc<str>, Refusal>) {
    let (file, found) = match open(&signature_path(path)) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (None, Err(signature::unsigned(name))),
        Err(error) => return (None, Err(signature::bad(&format!("{name}.wasm.sig cannot be read: {error}")))),
    };
    let mut text = String::new();
    let verified = if !found.is_file() || found.len() > signature::FILE_SIZE {
        Err(signature::bad("its signature file is not one of minisign"))
    } else if let Err(error) = file.take(signature::FILE_SIZE).read_to_string(&mut text) {
        Err(signature::bad(&format!("{name}.wasm.sig cannot be read: {error}")))
    } else {
        signature::verify(keys, bytes, &text)
    };
    (Some(FileId::of(&found)), verified.map(|_| text.into()).map_err(|refusal| refusal.about(name)))
}

/// Reads a file that may be anything, with its signature if there are keys: opening must not hang, and reading must
/// end.
fn read_file(name: &str, path: &Path, most: u64, keys: &[PublicKey]) -> Result<ReadFile, ReadError> {
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            return ReadError::Vanished;
        }
        ReadError::Refused(unreadable(name, &error))
    };
    let (file, found) = open(path).map_err(failed)?;
    if !found.is_file() {
        return Err(ReadError::Refused(not_a_file(name, "something else")));
    }
    if found.len() > most {
        return Err(ReadError::Refused(too_large(name, found.len(), most)));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or_default());
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(ReadError::Refused(too_large(name, bytes.len() as u64, most)));
    }
    let (signature_id, signature) = if keys.is_empty() {
        (None, Ok(None))
    } else {
        let (id, text) = read_signature(name, path, &bytes, keys);
        (id, text.map(Some))
    };
    let id = SignedId { file: FileId::of(&found), signature: signature_id };
    Ok(ReadFile { id, digest: Digest::of(&bytes), bytes: bytes.into(), signature })
}

/// What a file that was read came to.
enum Came {
    /// It was the same twice.
    Stable(ReadFile),
    /// It is as it was known.
    Same,
    /// It is none that can be read.
    Not(ReadError),
    /// The attempts are over.
    Unsettled,
}

/// A file that is being read until it is stable.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pending {
    name: String,
    /// It is read because it shows a change, and not only because it is time to.
    touched: bool,
    /// The bytes that the directory gave us, unless what was said since is to be taken back.
    known: Option<Digest>,
    /// Of the last read.
    digest: Option<Digest>,
    /// The bytes are stable, but their signature is not accepted, and of which file and signature that is true.
    refusal: Option<(SignedId, Refusal)>,
}

/// What is known of a plugin's file.
#[derive(Debug, Clone, Default)]
struct Known {
    id: Option<SignedId>,
    digest: Option<Digest>,
    refusal: Option<Refusal>,
    /// An earlier process had it.
    before: bool,
}

impl Known {
    /// True if the directory gave it to us: then it does not go at the first look without it.
    fn is_plugin(&self) -> bool {
        self.digest.is_some() || self.before
    }
}

/// Draws the conclusions of `supervision` 4.11. Pure: it is told what was seen.
struct Reconciler {
    max: usize,
    expected: bool,
    file_size: u64,
    state: DirectoryState,
    device: Option<u64>,
    known: BTreeMap<String, Known>,
    odd: BTreeMap<String, Refusal>,
    missed_once: BTreeSet<String>,
    present: BTreeSet<String>,
    files: usize,
    ever: bool,
}

impl Reconciler {
    fn new(options: &DirectoryOptions) -> Self {
        let before = Known { before: true, ..Known::default() };
        Self {
            max: options.max,
            expected: options.expected,
            file_size: options.file_size,
            state: DirectoryState::Absent,
            device: None,
            known: options.known.iter().map(|name| (name.as_str().to_owned(), before.clone())).collect(),
            odd: BTreeMap::new(),
            missed_once: BTreeSet::new(),
            present: BTreeSet::new(),
            files: 0,
            ever: !options.known.is_empty(),
        }
    }

    /// Plugins the directory gave us.
    fn had(&self) -> usize {
        self.known.values().filter(|known| known.is_plugin()).count()
    }

    /// Every file is to be found again: its signature is of interest now, or another one.
    fn trust_nothing(&mut self) {
        for known in self.known.values_mut() {
            (known.before, known.digest, known.refusal) = (known.is_plugin(), None, None);
        }
    }

    /// True if something is only half concluded and wants another look soon.
    fn doubts(&self) -> bool {
        !self.missed_once.is_empty()
    }

    fn observe(&mut self, scan: Scan, every_digest: bool) -> (Vec<DirectoryEvent>, Vec<Pending>) {
        let (device, entries) = match scan {
            Scan::Listed { device, entries, .. } => (device, entries),
            Scan::Absent if !self.ever && !self.expected => return (Vec::new(), Vec::new()),
            Scan::Absent => return (self.lost("it is not there".to_owned()), Vec::new()),
            Scan::Lost(message) => return (self.lost(message), Vec::new()),
        };
        let had = self.had();
        let empty = entries.is_empty();
        let moved = self.device.is_some_and(|known| known != device);
        if empty && (had >= 2 || had == 1 && (moved || self.state == DirectoryState::Emptied)) {
            return (self.emptied(had), Vec::new());
        }
        let mut events = Vec::new();
        if matches!(self.state, DirectoryState::Lost | DirectoryState::Emptied) {
            events.push(DirectoryEvent::Back);
            self.missed_once.clear();
        }
        self.state = DirectoryState::Ok;
        self.ever = true;
        self.device = Some(device);
        let (named, misnamed): (BTreeMap<_, _>, BTreeMap<_, _>) =
            entries.into_iter().partition(|(name, _)| is_name(name));
        self.present = named.keys().cloned().collect();
        events.extend(self.missing());
        let files = self.within_limit(named, misnamed, &mut events);
        self.files = files.len();
        let reads = self.changed(files, every_digest, &mut events);
        (events, reads)
    }

    fn lost(&mut self, message: String) -> Vec<DirectoryEvent> {
        self.missed_once.clear();
        self.present.clear();
        self.files = 0;
        self.ever = true;
        if std::mem::replace(&mut self.state, DirectoryState::Lost) == DirectoryState::Lost {
            return Vec::new();
        }
        vec![DirectoryEvent::Lost { message }]
    }

    fn emptied(&mut self, had: usize) -> Vec<DirectoryEvent> {
        self.missed_once.clear();
        self.present.clear();
        self.files = 0;
        if std::mem::replace(&mut self.state, DirectoryState::Emptied) == DirectoryState::Emptied {
            return Vec::new();
        }
        vec![DirectoryEvent::Emptied { had }]
    }

    /// Takes out what is beyond the limit, newcomers first, and reports it with what has no plugin's name.
    fn within_limit(
        &mut self,
        mut files: BTreeMap<String, Seen>,
        misnamed: BTreeMap<String, Seen>,
        events: &mut Vec<DirectoryEvent>,
    ) -> BTreeMap<String, Seen> {
        let mut odd: BTreeMap<String, Refusal> = misnamed.into_keys().map(|stem| bad_name(&stem)).collect();
        let newcomers: Vec<String> = files.keys().filter(|name| !self.known.contains_key(*name)).cloned().collect();
        let room = self.max.saturating_sub(self.known.len());
        for name in newcomers.into_iter().skip(room) {
            files.remove(&name);
            let message = format!("{name}.wasm is one too many: at most {} plugins are loaded", self.max);
            odd.insert(format!("{name}.wasm"), Refusal::new(RefusalReason::TooMany, message));
        }
        for (file, refusal) in &odd {
            if self.odd.get(file) != Some(refusal) {
                let name = CheckerKey::from(file.strip_suffix(".wasm").unwrap_or(file));
                events.push(DirectoryEvent::Refused { name, refusal: refusal.clone() });
            }
        }
        self.odd = odd;
        files
    }

    /// What two looks in a row did not find is gone. One look proves nothing: editors and ConfigMap swaps delete,
    /// then create.
    fn missing(&mut self) -> Vec<DirectoryEvent> {
        let missing: BTreeSet<String> =
            self.known.keys().filter(|name| !self.present.contains(*name)).cloned().collect();
        let (gone, once): (BTreeSet<_>, BTreeSet<_>) =
            missing.into_iter().partition(|name| self.missed_once.contains(name));
        self.missed_once = once;
        gone.iter().filter_map(|name| self.remove(name)).collect()
    }

    fn remove(&mut self, name: &str) -> Option<DirectoryEvent> {
        self.missed_once.remove(name);
        self.known.remove(name).map(|_| DirectoryEvent::Removed { name: name.into() })
    }

    fn changed(
        &mut self,
        files: BTreeMap<String, Seen>,
        every_digest: bool,
        events: &mut Vec<DirectoryEvent>,
    ) -> Vec<Pending> {
        let mut reads = Vec::new();
        for (name, seen) in files {
            let refusal = match seen {
                Seen::File(id) if id.file.size > self.file_size => too_large(&name, id.file.size, self.file_size),
                Seen::File(id) => {
                    let known = self.known.entry(name.clone()).or_default();
                    let touched = known.id != Some(id);
                    if every_digest || touched {
                        known.id = Some(id);
                        let known = known.digest.filter(|_| known.refusal.is_none());
                        reads.push(Pending { name, touched, known, digest: None, refusal: None });
                    }
                    continue;
                }
                Seen::Other(what) => not_a_file(&name, what),
                Seen::Unreadable(why) => unreadable(&name, &why),
            };
            self.known.entry(name.clone()).or_default().id = None;
            events.extend(self.refuse(&name, refusal));
        }
        reads
    }

    fn conclude(&mut self, pending: Pending, came: Came, options: &DirectoryOptions) -> Option<DirectoryEvent> {
        match came {
            Came::Stable(read) => self.stable(pending.name, read),
            Came::Same => {
                let name = pending.name.as_str().into();
                pending.touched.then_some(DirectoryEvent::Unchanged { name })
            }
            Came::Not(ReadError::Vanished) => {
                self.vanished(&pending.name);
                None
            }
            Came::Not(ReadError::Refused(refusal)) => self.refuse(&pending.name, refusal),
            Came::Unsettled => self.unsettled(pending, options),
        }
    }

    fn stable(&mut self, name: String, read: ReadFile) -> Option<DirectoryEvent> {
        let known = self.known.get_mut(&name)?;
        known.id = Some(read.id);
        known.digest = Some(read.digest);
        known.refusal = None;
        let ReadFile { bytes, digest, signature, .. } = read;
        let signature = signature.ok().flatten();
        Some(DirectoryEvent::Found { name: name.as_str().into(), bytes, digest, signature })
    }

    fn vanished(&mut self, name: &str) {
        match self.known.get_mut(name) {
            // It never became a plugin: cancelled.
            Some(known) if !known.is_plugin() => {
                self.known.remove(name);
            }
            Some(known) => known.id = None,
            None => {}
        }
    }

    fn refuse(&mut self, name: &str, refusal: Refusal) -> Option<DirectoryEvent> {
        let known = self.known.entry(name.to_owned()).or_default();
        if known.refusal.as_ref() == Some(&refusal) {
            return None;
        }
        known.refusal = Some(refusal.clone());
        Some(DirectoryEvent::Refused { name: name.into(), refusal })
    }

    /// What becomes of a file whose attempts are over.
    fn unsettled(&mut self, pending: Pending, options: &DirectoryOptions) -> Option<DirectoryEvent> {
        if let Some((id, refusal)) = pending.refusal {
            // It is read again when file or signature change, and not before: a look with attempts takes seconds.
            self.known.entry(pending.name.clone()).or_default().id = Some(id);
            return self.refuse(&pending.name, refusal);
        }
        let message = format!(
            "{}.wasm kept changing for {} reads {} ms apart: write it aside and rename it into place",
            pending.name,
            options.stable_attempts,
            options.stable_gap.as_millis()
        );
        // Whatever it is at the next look is read again.
        self.known.entry(pending.name.clone()).or_default().id = None;
        self.refuse(&pending.name, Refusal::new(RefusalReason::Unstable, message))
    }

    fn unload(&mut self, name: CheckerKey) -> (Result<(), UnloadError>, Vec<DirectoryEvent>) {
        if self.present.contains(name.as_str()) {
            return (Err(UnloadError::FilePresent), Vec::new());
        }
        match self.remove(name.as_str()) {
            Some(event) => (Ok(()), vec![event]),
            None => (Err(UnloadError::Unknown), Vec::new()),
        }
    }
}

/// The name of the plugin that a file would be in the directory.
///
/// # Errors
/// When no plugin may have it, with what is accepted.
pub fn plugin_name(file: &Path) -> Result<CheckerKey, Refusal> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    if is_name(&stem) { Ok(CheckerKey::from(&*stem)) } else { Err(bad_name(&stem).1) }
}

/// `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`: a metric label, a path and a DNS label at once.
pub(crate) fn is_name(stem: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=limits::NAME).contains(&stem.len())
        && stem.bytes().all(inner)
        && !stem.starts_with('-')
        && !stem.ends_with('-')
}

fn bad_name(stem: &str) -> (String, Refusal) {
    let mut shown = stem.to_owned();
    text::clean(&mut shown);
    text::cut(&mut shown, 2 * limits::NAME);
    let better: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let better = better.trim_matches('-');
    let remedy = if is_name(better) { format!(": rename it to {better}.wasm") } else { String::new() };
    let message = format!(
        "{shown}.wasm: a plugin's name is 1 to 63 of a-z, 0-9 and -, and begins and ends with a letter or digit{remedy}"
    );
    (format!("{shown}.wasm"), Refusal::new(RefusalReason::BadName, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::tests::{LEGACY, pair, sign};

    fn reconciler() -> Reconciler {
        Reconciler::new(&DirectoryOptions { max: 3, file_size: 100, ..DirectoryOptions::new("/plugins") })
    }

    /// A file whose time of change is `at`.
    fn file(at: i64) -> Seen {
        let file = FileId { device: 1, inode: 1, size: 10, changed: [(at, 0), (at, 0)] };
        Seen::File(SignedId { file, signature: None })
    }

    fn listed(entries: &[(&str, Seen)]) -> Scan {
        on_device(1, entries)
    }

    fn on_device(device: u64, entries: &[(&str, Seen)]) -> Scan {
        let entries = entries.iter().map(|(name, seen)| ((*name).to_owned(), seen.clone())).collect();
        Scan::Listed { device, inode: 1, entries }
    }

    impl Reconciler {
        /// Looks, and reads what is to be read: every file holds its own name.
        fn look(&mut self, scan: Scan) -> Vec<String> {
            let (mut events, reads) = self.observe(scan, false);
            for Pending { name, .. } in reads {
                let bytes: Arc<[u8]> = name.as_bytes().into();
                let id = self.known[&name].id.unwrap();
                let read = ReadFile { id, digest: Digest::of(&bytes), bytes, signature: Ok(None) };
                events.extend(self.stable(name, read));
            }
            events.iter().map(in_short).collect()
        }
    }

    fn in_short(event: &DirectoryEvent) -> String {
        match event {
            DirectoryEvent::Found { name, .. } => format!("found {}", name.as_str()),
            DirectoryEvent::Unchanged { name } => format!("unchanged {}", name.as_str()),
            DirectoryEvent::Removed { name } => format!("removed {}", name.as_str()),
            DirectoryEvent::Refused { name, refusal } => format!("{} {}", name.as_str(), refusal.reason),
            DirectoryEvent::Lost { .. } => "lost".to_owned(),
            DirectoryEvent::Emptied { had } => format!("emptied of {had}"),
            DirectoryEvent::Back => "back".to_owned(),
        }
    }

    #[test]
    fn a_file_is_found_once_and_again_when_it_changes() {
        let mut directory = reconciler();
        assert_eq!(directory.look(listed(&[("a", file(1))])), ["found a"]);
        assert_eq!(directory.look(listed(&[("a", file(1))])), [""; 0]);
        assert_eq!(directory.look(listed(&[("a", file(2))])), ["found a"]);
    }

    /// `supervision` P-62, P-64.
    #[test]
    fn one_look_removes_nothing_and_two_in_a_row_do() {
        let mut directory = reconciler();
        directory.look(listed(&[("a", file(1)), ("b", file(1))]));
        assert_eq!(directory.look(listed(&[("b", file(1))])), [""; 0]);
        assert!(directory.doubts());
        assert_eq!(directory.look(listed(&[("a", file(1)), ("b", file(1))])), [""; 0]);
        assert!(!directory.doubts());
        assert_eq!(directory.look(listed(&[("b", file(1))])), [""; 0]);
        assert_eq!(directory.look(listed(&[("b", file(1))])), ["removed a"]);
    }

    /// `supervision` P-63.
    #[test]
    fn the_only_file_may_go_but_two_do_not_vanish_at_once() {
        let mut directory = reconciler();
        directory.look(listed(&[("a", file(1))]));
        assert_eq!(directory.look(listed(&[])), [""; 0]);
        assert_eq!(directory.look(listed(&[])), ["removed a"]);

        directory.look(listed(&[("a", file(1)), ("b", file(1))]));
        assert_eq!(directory.look(listed(&[])), ["emptied of 2"]);
        assert_eq!(directory.look(listed(&[])), [""; 0]);
        assert_eq!(directory.look(listed(&[("b", file(1))])), ["back"]);
        assert_eq!(directory.look(listed(&[("b", file(1))])), ["removed a"]);
    }

    /// `supervision` P-61.
    #[test]
    fn an_unmounted_directory_of_one_is_noticed_by_its_device() {
        let mut directory = reconciler();
        directory.look(listed(&[("a", file(1))]));
        for _ in 0..3 {
            directory.look(on_device(2, &[]));
            assert_eq!(directory.state, DirectoryState::Emptied);
        }
        assert_eq!(directory.look(listed(&[("a", file(1))])), ["back"]);
    }

    #[test]
    fn p_67_a_restart_does_not_end_the_doubt() {
        let known: Vec<CheckerKey> = ["a", "b"].map(CheckerKey::from).into();
        let options =
            || DirectoryOptions { known: known.clone(), expected: false, ..DirectoryOptions::new("/plugins") };
        let mut directory = Reconciler::new(&options());
        assert_eq!(directory.look(Scan::Absent), ["lost"]);
        let mut directory = Reconciler::new(&options());
        assert_eq!(directory.look(listed(&[])), ["emptied of 2"]);
        assert_eq!(directory.look(listed(&[("a", file(1))])), ["back", "found a"]);
        assert_eq!(directory.look(listed(&[("a", file(1))])), ["removed b"]);
    }

    /// `supervision` P-60.
    #[test]
    fn a_lost_directory_removes_nothing() {
        let mut directory = reconciler();
        directory.look(listed(&[("a", file(1))]));
        assert_eq!(directory.look(Scan::Lost("permission denied".into())), ["lost"]);
        assert_eq!(directory.look(Scan::Absent), [""; 0]);
        assert_eq!(directory.look(listed(&[])), ["back"]);
        assert_eq!(directory.look(listed(&[])), ["removed a"], "two looks of its own");
    }

    #[test]
    fn a_directory_nobody_asked_for_may_be_absent() {
        let mut directory = reconciler();
        directory.expected = false;
        assert_eq!(directory.look(Scan::Absent), [""; 0]);
        assert_eq!(directory.state, DirectoryState::Absent);
        assert_eq!(directory.look(listed(&[])), [""; 0]);
        assert_eq!(directory.look(Scan::Absent), ["lost"]);
    }

    #[test]
    fn a_person_ends_the_doubt() {
        let mut directory = reconciler();
        directory.look(listed(&[("a", file(1)), ("b", file(1))]));
        assert_eq!(directory.unload("a".into()), (Err(UnloadError::FilePresent), vec![]));
        directory.look(listed(&[]));
        let gone = DirectoryEvent::Removed { name: "a".into() };
        assert_eq!(directory.unload("a".into()), (Ok(()), vec![gone]));
        assert_eq!(directory.unload("a".into()), (Err(UnloadError::Unknown), vec![]));
        assert_eq!(directory.look(listed(&[])), [""; 0], "b is kept");
        assert_eq!(directory.state, DirectoryState::Emptied);
    }

    /// `supervision` P-68, P-69.
    #[test]
    fn what_can_be_no_plugin_is_refused_once_and_takes_nothing_away() {
        let mut directory = reconciler();
        let file_id = FileId { device: 1, inode: 2, size: 101, changed: [(1, 0); 2] };
        let large = Seen::File(SignedId { file: file_id, signature: None });
        assert_eq!(directory.look(listed(&[("a", file(1)), ("b", file(1))])), ["found a", "found b"]);
        let odd = listed(&[("a", large), ("b", Seen::Other("a pipe")), ("Gpu_Check", file(1))]);
        let refused = ["Gpu_Check bad-name", "a too-large", "b not-a-file"];
        assert_eq!(directory.look(odd.clone()), refused);
        assert_eq!(directory.look(odd), [""; 0]);
        assert!(directory.odd["Gpu_Check.wasm"].message.ends_with("rename it to gpu-check.wasm"));
        // As it was before: said again, so that the refusal can go.
        assert_eq!(directory.look(listed(&[("a", file(1)), ("b", file(1))])), ["found a", "found b"]);
    }

    /// `supervision` P-68.
    #[test]
    fn those_beyond_the_limit_wait_and_those_that_serve_stay() {
        let mut directory = reconciler();
        directory.look(listed(&[("x", file(1)), ("y", file(1))]));
        let all = ["a", "b", "x", "y"].map(|name| (name, file(1)));
        assert_eq!(directory.look(listed(&all)), ["b too-many", "found a"]);
        assert_eq!(directory.look(listed(&all[..3])), [""; 0]);
        assert_eq!(directory.look(listed(&all[..3])), ["removed y", "found b"]);
    }

    #[track_caller]
    fn check_name(stem: &str, expected: bool) {
        assert_eq!(is_name(stem), expected, "{stem:?}");
    }

    /// `supervision` P-68.
    #[test]
    fn a_name_is_a_label() {
        for good in ["a", "7", "gpu", "gpu-count", "a--b", &"x".repeat(63)] {
            check_name(good, true);
        }
        for bad in ["", "-", "-a", "a-", "Gpu", "a_b", "a.b", "é", "a b", &"x".repeat(64)] {
            check_name(bad, false);
        }
    }

    /// The limit of a file, and the size of one that takes a thousand times longer to read than one of a byte.
    const LARGE: usize = 8 << 20;

    /// A watch on a real directory; the waits are the clock's, which stands still.
    struct Watched {
        dir: tempfile::TempDir,
        events: mpsc::Receiver<DirectoryEvent>,
        handle: DirectoryHandle,
        task: tokio::task::JoinHandle<()>,
    }

    impl Watched {
        fn new(files: &[(&str, &[u8])]) -> Self {
            Self::signed(files, &[])
        }

        #[expect(clippy::disallowed_methods, reason = "the daemon's helper is above the engine")]
        fn signed(files: &[(&str, &[u8])], keys: &[PublicKey]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (name, bytes) in files {
                fs::write(dir.path().join(name), bytes).unwrap();
            }
            let options = DirectoryOptions {
                file_size: LARGE as u64,
                trusted_keys: keys.into(),
                ..DirectoryOptions::new(dir.path())
            };
            let (directory, handle) = Directory::new(options);
            let (sender, events) = mpsc::channel(64);
            let task = tokio::task::spawn(directory.run(sender));
            Self { dir, events, handle, task }
        }

        async fn next(&mut self) -> String {
            in_short(&self.events.recv().await.unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_watch_finds_what_is_there_and_what_comes() {
        let mut watched = Watched::new(&[("a.wasm", b"a"), (".hidden.wasm", b"h"), ("readme.md", b"r")]);
        fs::create_dir(watched.dir.path().join("dir.wasm")).unwrap();
        assert_eq!(watched.next().await, "found a");
        fs::write(watched.dir.path().join("b.tmp"), b"b").unwrap();
        fs::rename(watched.dir.path().join("b.tmp"), watched.dir.path().join("b.wasm")).unwrap();
        assert_eq!(watched.next().await, "found b");
        fs::remove_file(watched.dir.path().join("a.wasm")).unwrap();
        assert_eq!(watched.next().await, "removed a");
        let status = watched.handle.status();
        assert_eq!((status.state, status.files), (DirectoryState::Ok, 1));
        assert!(watched.events.try_recv().is_err());
    }

    /// `supervision` P-58: by the poll, whatever a file shows.
    #[tokio::test(start_paused = true)]
    async fn a_rewrite_that_keeps_size_and_times_is_found_by_its_digest() {
        let mut watched = Watched::new(&[("a.wasm", b"a1")]);
        assert_eq!(watched.next().await, "found a");
        let path = watched.dir.path().join("a.wasm");
        let times = fs::metadata(&path).unwrap();
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        io::Write::write_all(&mut file, b"a2").unwrap();
        file.set_modified(times.modified().unwrap()).unwrap();
        assert_eq!(watched.next().await, "found a");
    }

    #[tokio::test(start_paused = true)]
    async fn p_59_equal_bytes_written_anew_are_told_and_a_poll_of_digests_is_not() {
        let mut watched = Watched::new(&[("a.wasm", b"a")]);
        assert_eq!(watched.next().await, "found a");
        watched.handle.rescan().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        fs::write(watched.dir.path().join("a.tmp"), b"a").unwrap();
        fs::rename(watched.dir.path().join("a.tmp"), watched.dir.path().join("a.wasm")).unwrap();
        assert_eq!(watched.next().await, "unchanged a");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(watched.events.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_file_does_not_hold_up_the_others() {
        let large = vec![0; LARGE];
        let mut watched = Watched::new(&[("a.wasm", &large), ("b.wasm", b"b"), ("c.wasm", b"c")]);
        let mut found = [watched.next().await, watched.next().await];
        found.sort();
        assert_eq!(found, ["found b", "found c"]);
        assert_eq!(watched.next().await, "found a");
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_hang_a_reader_is_refused() {
        let mut watched = Watched::new(&[]);
        let made = std::process::Command::new("mkfifo").arg(watched.dir.path().join("pipe.wasm")).status().unwrap();
        assert!(made.success());
        assert_eq!(watched.next().await, "pipe not-a-file");
        std::os::unix::fs::symlink("nowhere", watched.dir.path().join("link.wasm")).unwrap();
        assert_eq!(watched.next().await, "link unreadable");
        let huge = fs::File::create(watched.dir.path().join("huge.wasm")).unwrap();
        huge.set_len(10 << 30).unwrap();
        assert_eq!(watched.next().await, "huge too-large");
    }

    /// `supervision` P-56.
    #[tokio::test(start_paused = true)]
    async fn a_configmap_swap_is_one_change() {
        let mut watched = Watched::new(&[]);
        let dir = watched.dir.path();
        let version = |name: &str, bytes: &[u8]| {
            fs::create_dir(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("a.wasm"), bytes).unwrap();
        };
        let point = |to: &str| {
            std::os::unix::fs::symlink(to, dir.join("..tmp")).unwrap();
            fs::rename(dir.join("..tmp"), dir.join("..data")).unwrap();
        };
        version("..1", b"one");
        point("..1");
        std::os::unix::fs::symlink("..data/a.wasm", dir.join("a.wasm")).unwrap();
        version("..2", b"two");
        let event = watched.events.recv().await.unwrap();
        assert!(matches!(&event, DirectoryEvent::Found { bytes, .. } if **bytes == *b"one"), "{event:?}");
        std::os::unix::fs::symlink("..2", watched.dir.path().join("..tmp")).unwrap();
        fs::rename(watched.dir.path().join("..tmp"), watched.dir.path().join("..data")).unwrap();
        let event = watched.events.recv().await.unwrap();
        assert!(matches!(&event, DirectoryEvent::Found { bytes, .. } if **bytes == *b"two"), "{event:?}");
        assert!(watched.events.try_recv().is_err());
    }

    /// `supervision` P-60.
    #[tokio::test(start_paused = true)]
    async fn a_lost_directory_comes_back_with_its_watch() {
        let mut watched = Watched::new(&[("a.wasm", b"a")]);
        assert_eq!(watched.next().await, "found a");
        let (path, aside) = (watched.dir.path().to_owned(), watched.dir.path().with_extension("aside"));
        fs::rename(&path, &aside).unwrap();
        assert_eq!(watched.next().await, "lost");
        fs::rename(&aside, &path).unwrap();
        assert_eq!(watched.next().await, "back");
        fs::write(path.join("b.wasm"), b"b").unwrap();
        assert_eq!(watched.next().await, "found b");
    }

    #[tokio::test(start_paused = true)]
    async fn p_71_a_file_needs_a_signature_of_a_trusted_key() {
        let ((ours, key), (theirs, _)) = (pair(), pair());
        let good = sign(&ours, b"good");
        let other = sign(&theirs, b"other");
        let flipped = sign(&ours, b"flipped");
        let files: [(&str, &[u8]); 10] = [
            ("good.wasm", b"good"),
            ("good.wasm.sig", good.as_bytes()),
            ("missing.wasm", b"missing"),
            ("flipped.wasm", b"flippee"),
            ("flipped.wasm.sig", flipped.as_bytes()),
            ("other.wasm", b"other"),
            ("other.wasm.sig", other.as_bytes()),
            ("legacy.wasm", b"test"),
            ("legacy.wasm.sig", LEGACY.1.as_bytes()),
            ("readme.md", b""),
        ];
        let mut watched = Watched::signed(&files, &[key, LEGACY.0.parse().unwrap()]);
        let mut said = Vec::new();
        for _ in 0..5 {
            said.push(watched.next().await);
        }
        said.sort();
        let expected =
            ["flipped bad-signature", "found good", "legacy bad-signature", "missing unsigned", "other untrusted-key"];
        assert_eq!(said, expected);
        // Only the signature changes.
        fs::write(watched.dir.path().join("other.wasm.sig"), sign(&ours, b"other")).unwrap();
        assert_eq!(watched.next().await, "found other");
        // Another signature over the bytes that serve says nothing new.
        fs::write(watched.dir.path().join("good.wasm.sig"), sign(&ours, b"good") + "\n").unwrap();
        assert_eq!(watched.next().await, "unchanged good");
        fs::write(watched.dir.path().join("missing.wasm.sig"), sign(&ours, b"missing")).unwrap();
        assert_eq!(watched.next().await, "found missing");
        assert!(watched.events.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn p_72_bytes_that_come_before_their_signature_are_one_swap() {
        let (ours, key) = pair();
        let first = sign(&ours, b"one");
        let mut watched = Watched::signed(&[("a.wasm", b"one"), ("a.wasm.sig", first.as_bytes())], &[key]);
        assert_eq!(watched.next().await, "found a");
        fs::write(watched.dir.path().join("a.wasm"), b"two").unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(watched.events.try_recv().is_err());
        let second = sign(&ours, b"two");
        fs::write(watched.dir.path().join("a.wasm.sig"), &second).unwrap();
        let event = watched.events.recv().await.unwrap();
        let DirectoryEvent::Found { bytes, signature, .. } = &event else { panic!("{event:?}") };
        assert_eq!((&**bytes, signature.as_deref()), (b"two".as_slice(), Some(&*second)));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(watched.events.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_watch_ends_when_nobody_listens() {
        let watched = Watched::new(&[]);
        drop(watched.events);
        watched.task.await.unwrap();
        assert_eq!(watched.handle.unload(&"a".into()).await, Err(UnloadError::Ended));
    }
}

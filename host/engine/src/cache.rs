//! Compiled code on disk, found by what it was compiled from and by what. It is native code and run as such: the
//! directory is ours alone, its files are never changed once they have their name, and whatever is odd about one
//! is a miss, never a fault of the plugin.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::clock;
use crate::plugin::Digest;

/// Up to this size an artefact is read and verified in memory: nothing is mapped that somebody could truncate under
/// us, and nothing changes between check and use. Above it, its clean pages are worth sharing.
const READ_MAX: u64 = 4 << 20;

/// How long an artefact stays that nothing runs: whoever takes a plugin back to what it was a few days ago need not
/// wait for a compile. After that its 37 MB are worth more than its 16 s.
const UNUSED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// After this a draft is nobody's: no compile takes longer than minutes.
pub(crate) const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Where artefacts are kept, if anywhere.
pub(crate) struct Cache {
    dir: Option<PathBuf>,
    trouble: Option<String>,
    compiler: [u8; 32],
}

/// What an artefact is found by: the component, and everything that made native code of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Cache {
    pub(crate) fn open(dir: Option<PathBuf>, engine: &Engine) -> Self {
        let mut hash = Feed(Sha256::new());
        // Wasmtime's version, its settings, the target and the CPU's features are all in there.
        engine.precompile_compatibility_hash().hash(&mut hash);
        let compiler = hash.0.finalize().into();
        let mut cache = Self { dir: None, trouble: None, compiler };
        if let Some(dir) = dir {
            match prepare(&dir) {
                Ok(()) => cache.dir = Some(dir),
                Err(why) => {
                    let trouble = format!("{} is not used to keep compiled checkers: {why}", dir.display());
                    tracing::warn!("{trouble}");
                    cache.trouble = Some(trouble);
                }
            }
        }
        cache
    }

    /// The directory, if it is used.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    pub(crate) fn key(&self, component: Digest) -> Key {
        Key(Digest::finish(Sha256::new().chain_update(component.to_string()).chain_update(self.compiler)).to_string())
    }

    /// The artefact, ready to run, and its size. None is a miss, for whatever reason.
    pub(crate) fn find(&self, engine: &Engine, key: &Key) -> Option<(Component, u64)> {
        let path = self.dir.as_ref()?.join(format!("{}.cwasm", key.0));
        match read(engine, &path) {
            Ok(found) => {
                used(&path);
                used(&path.with_extension("sha256"));
                Some(found)
            }
            Err(Miss::Absent) => None,
            Err(Miss::Odd(why) | Miss::Unfit(why)) => {
                tracing::warn!(path = %path.display(), why, "a compiled checker is not used and compiled again");
                None
            }
        }
    }

    /// Removes artefacts that are of none of the components `wanted` and were not used for long, and drafts of
    /// processes that did not get to their end.
    pub(crate) fn prune(&self, wanted: &BTreeSet<Digest>, now: SystemTime) {
        let Some(dir) = &self.dir else { return };
        let wanted: BTreeSet<String> = wanted.iter().map(|component| self.key(*component).0).collect();
        for (name, idle) in files(dir, now) {
            let unwanted = match name.split_once('.') {
                Some((key, "cwasm" | "sha256")) => !wanted.contains(key) && idle > UNUSED,
                Some(_) | None => is_draft(&name) && idle > ABANDONED,
            };
            if unwanted {
                discard(&dir.join(name));
            }
        }
    }

    /// A file to compile into: in the cache's directory, or one without a name.
    pub(crate) fn draft(&self, key: &Key) -> io::Result<Draft> {
        let Some(dir) = &self.dir else {
            let file = rustix::fs::memfd_create("apgar-artefact", rustix::fs::MemfdFlags::CLOEXEC)?;
            return Ok(Draft { file: File::from(file), place: None });
        };
        let path = dir.join(format!("{}.tmp.{}", key.0, process::id()));
        let open = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o400).open(&path);
        let file = match open() {
            // Left by a process of the same id that did not get to its end.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(&path).and_then(|()| open()),
            other => other,
        }?;
        Ok(Draft { file, place: Some(Place { path, dir: dir.clone(), key: key.clone(), kept: false }) })
    }
}

/// An artefact in the making.
pub(crate) struct Draft {
    file: File,
    place: Option<Place>,
}

struct Place {
    path: PathBuf,
    dir: PathBuf,
    key: Key,
    kept: bool,
}

impl Draft {
    /// Another handle of the file.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Gives the finished artefact its name and makes it ready to run. If it cannot be kept it is run all the same.
    pub(crate) fn finish(mut self, engine: &Engine) -> Result<(Component, u64), Miss> {
        let size = self.file.metadata()?.len();
        if let Some(place) = &mut self.place {
            match place.keep(&mut self.file) {
                Ok(path) => return read(engine, &path),
                Err(error) => tracing::warn!(%error, "a compiled checker cannot be kept"),
            }
        }
        let mut artefact = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut artefact)?;
        Ok((from_memory(engine, &artefact)?, size))
    }
}

impl Place {
    fn keep(&mut self, file: &mut File) -> io::Result<PathBuf> {
        let named = |ending: &str| self.dir.join(format!("{}.{ending}", self.key.0));
        let (artefact, side, side_draft) =
            (named("cwasm"), named("sha256"), named(&format!("sha256.tmp.{}", process::id())));
        file.seek(SeekFrom::Start(0))?;
        let digest = digest_of(file)?;
        file.sync_all()?;
        let mut open = OpenOptions::new();
        let mut written = open.write(true).create(true).truncate(true).mode(0o600).open(&side_draft)?;
        written.write_all(digest.to_string().as_bytes())?;
        written.set_permissions(fs::Permissions::from_mode(0o400))?;
        written.sync_all()?;
        // Side first: an artefact without it is a miss, and a side without artefact is nothing.
        fs::rename(&side_draft, side)?;
        fs::rename(&self.path, &artefact)?;
        self.kept = true;
        File::open(&self.dir)?.sync_all()?;
        Ok(artefact)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "an unfinished artefact is left behind");
        }
    }
}

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Miss {
    /// There is no such file.
    #[error("absent")]
    Absent,
    /// The file is not as it was written.
    #[error("{0}")]
    Odd(String),
    /// Wasmtime does not take it: compiled otherwise, or, right after compiling, more than the pool has room for.
    #[error("{0}")]
    Unfit(String),
}

impl From<io::Error> for Miss {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Absent } else { Self::Odd(error.to_string()) }
    }
}

fn read(engine: &Engine, path: &Path) -> Result<(Component, u64), Miss> {
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(Miss::Odd("it belongs to somebody else".to_owned()));
    }
    let size = found.len();
    let expected = fs::read_to_string(path.with_extension("sha256"))?;
    if size <= READ_MAX {
        let mut artefact = Vec::new();
        file.take(READ_MAX).read_to_end(&mut artefact)?;
        if Digest::of(&artefact).to_string() != expected {
            return Err(Miss::Odd("its digest is not the one it was written with".to_owned()));
        }
        return Ok((from_memory(engine, &artefact)?, size));
    }
    if digest_of(&mut file)?.to_string() != expected {
        return Err(Miss::Odd("its digest is not the one it was written with".to_owned()));
    }
    Ok((from_file(engine, path)?, size))
}

#[expect(
    unsafe_code,
    reason = "native code is run as it is: these bytes are our own compiler's, through a private directory, verified"
)]
fn from_memory(engine: &Engine, artefact: &[u8]) -> Result<Component, Miss> {
    // SAFETY: produced by `precompile_component` of an engine with equal settings and digest-checked by the caller.
    unsafe { Component::deserialize(engine, artefact) }.map_err(|error| Miss::Unfit(format!("{error:#}")))
}

#[expect(unsafe_code, reason = "as above; a file with its name is never changed again, only replaced by rename")]
fn from_file(engine: &Engine, path: &Path) -> Result<Component, Miss> {
    // SAFETY: as in `from_memory`; the directory is ours with mode 0700, the file has mode 0400.
    unsafe { Component::deserialize_file(engine, path) }.map_err(|error| Miss::Unfit(format!("{error:#}")))
}

pub(crate) fn digest_of(file: &mut File) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    io::copy(file, &mut hash)?;
    Ok(Digest::finish(hash))
}

/// A directory that is ours alone, made if it is missing.
pub(crate) fn prepare(dir: &Path) -> Result<(), String> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| error.to_string())?;
    let found = fs::symlink_metadata(dir).map_err(|error| error.to_string())?;
    if !found.is_dir() {
        return Err("it is no directory".to_owned());
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(format!("it belongs to user {}", found.uid()));
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("others may enter it (mode {mode:o}): chmod 700 it"));
    }
    Ok(())
}

/// The files of a directory and how long ago each was changed or used. One from the future is new: clocks are set
/// back.
pub(crate) fn files(dir: &Path, now: SystemTime) -> Vec<(String, Duration)> {
    list(dir, now).unwrap_or_else(|error| {
        tracing::warn!(dir = %dir.display(), %error, "a directory of the cache cannot be listed");
        Vec::new()
    })
}

fn list(dir: &Path, now: SystemTime) -> io::Result<Vec<(String, Duration)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let found = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // renamed or removed meanwhile
            other => other?,
        };
        if found.is_file() {
            let idle = now.duration_since(found.modified()?).unwrap_or_default();
            files.push((entry.file_name().to_string_lossy().into_owned(), idle));
        }
    }
    Ok(files)
}

/// True for the name of a file that was to get another.
pub(crate) fn is_draft(name: &str) -> bool {
    name.contains(".tmp.")
}

/// Removes a file; one that is not there is as good.
pub(crate) fn discard(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "a file cannot be removed"),
    }
}

/// Notes that a file was of use, for [`Cache::prune`].
fn used(path: &Path) {
    if let Err(error) = File::open(path).and_then(|file| file.set_modified(clock::time_of_day())) {
        tracing::debug!(path = %path.display(), %error, "the use of a file cannot be noted");
    }
}

/// Feeds what is hashed to SHA-256.
struct Feed(Sha256);

impl Hasher for Feed {
    fn finish(&self) -> u64 {
        0 // never asked: the digest is taken from inside
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    /// The smallest component: a header.
    const NOTHING: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn an_artefact_that_is_used_or_wanted_stays_and_another_goes_after_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let engine = settings::engine(false).unwrap();
        let cache = Cache::open(Some(dir.path().join("cache")), &engine);
        let artefact = engine.precompile_component(NOTHING).unwrap();
        let [used, wanted, unused] = [b"used".as_slice(), b"wanted", b"unused"].map(Digest::of);
        let count = || files(cache.dir().unwrap(), SystemTime::UNIX_EPOCH).len();
        let draft = |component| {
            let draft = cache.draft(&cache.key(component)).unwrap();
            draft.file().unwrap().write_all(&artefact).unwrap();
            draft
        };
        for component in [used, wanted, unused] {
            draft(component).finish(&engine).unwrap();
        }
        let _underway = draft(Digest::of(b"under way"));
        let long_ago = clock::time_of_day() - UNUSED;
        for (name, _) in files(cache.dir().unwrap(), long_ago) {
            File::open(cache.dir().unwrap().join(name)).unwrap().set_modified(long_ago - ABANDONED).unwrap();
        }
        assert!(cache.find(&engine, &cache.key(used)).is_some());
        cache.prune(&[wanted].into(), long_ago);
        assert_eq!(count(), 3 * 2 + 1, "a day is no week, and a day is not more than a day");
        cache.prune(&[wanted].into(), long_ago + UNUSED);
        assert_eq!(count(), 2 * 2, "the draft and what is not used are gone");
        assert!(cache.find(&engine, &cache.key(wanted)).is_some() && cache.find(&engine, &cache.key(used)).is_some());
    }
}

//! What a plugin needs to serve again after a restart, whatever its directory holds by then: its component, and the
//! configuration and signature it served with. Components lie on disk and not in memory, where one from an
//! interpreter takes 18 MB for as long as it serves.
//!
//! Everything here reads and writes files: it is called where a thread may be held up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use apgar_core::verdict::CheckerKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::{self, ABANDONED};
use crate::clock;
use crate::death::{Refusal, RefusalReason};
use crate::directory::is_name;
use crate::limits::{self, Limits};
use crate::plugin::{Digest, Generation, Grants, Source, generation_of};
use crate::signature::{self, PublicKey};

/// How long a component lies here that nothing names. It is named once it serves; before that it may be compiled,
/// which takes minutes at most.
const UNNAMED: Duration = Duration::from_secs(60 * 60);

/// The largest record that is written or read, in bytes: the settings of one plugin are written by a person, or come
/// from a ConfigMap, which holds 1 MiB for all of them.
const RECORD_SIZE: u64 = 4 << 20;

/// Where components and records lie, if anywhere. Without a directory components stay in memory, and nothing
/// outlives the process.
pub(crate) struct Shelf {
    dir: Option<PathBuf>,
    /// Held while a file gets its name: two plugins may have the same bytes.
    writing: Mutex<()>,
    /// A disk that is full is said to be once.
    warned: AtomicBool,
}

/// A component, wherever it is.
#[derive(Debug, Clone)]
pub(crate) struct Bytes {
    digest: Digest,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Memory(Arc<[u8]>),
    Disk(Arc<Path>),
}

/// What a plugin served with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Of bytes and configuration together: what does not fit it any more is not used.
    pub(crate) generation: Generation,
    /// Where the bytes came from.
    pub(crate) source: Source,
    /// Its settings; an object.
    pub(crate) settings: Value,
    /// What it may import beyond node and log.
    pub(crate) grants: Grants,
    /// What it may use.
    pub(crate) limits: Limits,
    /// The text of its signature file, if one was required.
    pub(crate) signature: Option<String>,
}

impl Shelf {
    /// Opens the shelf in the cache's directory.
    pub(crate) fn open(cache: Option<&Path>) -> Self {
        let dir = cache.map(|cache| cache.join("components")).filter(|dir| match cache::prepare(dir) {
            Ok(()) => true,
            Err(why) => {
                tracing::warn!("{} is not used to keep components: {why}", dir.display());
                false
            }
        });
        Self { dir, writing: Mutex::default(), warned: AtomicBool::default() }
    }

    /// Takes a component out of memory. What cannot be written stays there.
    pub(crate) fn put(&self, bytes: Arc<[u8]>, digest: Digest) -> Bytes {
        let Some(dir) = &self.dir else { return Bytes::in_memory(bytes, digest) };
        let name = component(digest);
        let path: Arc<Path> = dir.join(&name).into();
        let written = {
            let _one_at_a_time = crate::lock(&self.writing);
            // What was changed under its name is written anew: it would be refused for ever.
            if is_there(&path, digest) { Ok(()) } else { write(dir, &name, &bytes) }
        };
        match written {
            Ok(()) => Bytes { digest, place: Place::Disk(path) },
            Err(error) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(dir = %dir.display(), %error, "components cannot be written and stay in memory");
                }
                Bytes::in_memory(bytes, digest)
            }
        }
    }

    /// True if the component lies on disk, or there is no disk for it.
    pub(crate) fn has(&self, bytes: &Bytes) -> bool {
        match &bytes.place {
            Place::Disk(_) => true,
            Place::Memory(_) => self.dir.is_none(),
        }
    }

    /// Stores what a plugin serves with, in place of what it served with before. It is on disk when this returns.
    /// Without a directory nothing happens.
    ///
    /// # Errors
    /// When the disk says so, the name is none, or the record is too large to be read again. What was kept before
    /// still is.
    pub(crate) fn keep(&self, name: &CheckerKey, kept: &Kept) -> io::Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let text = serde_json::to_vec(kept)?;
        if text.len() as u64 > RECORD_SIZE || !is_name(name.as_str()) {
            let what = format!("a record of {} bytes for {:?}", text.len(), name.as_str());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let _one_at_a_time = crate::lock(&self.writing);
        // It is asked for at each start, and mostly there already.
        if read_record(dir, name).is_ok_and(|(there, _)| there == *kept) {
            return Ok(());
        }
        write(dir, &record(name), &text)
    }

    /// What is kept, by plugin. A record that cannot be read, or does not fit its generation, is left out with a
    /// warning; whether a component is still there turns out when it is read.
    pub(crate) fn kept(&self) -> BTreeMap<CheckerKey, (Kept, Bytes)> {
        let mut all = BTreeMap::new();
        let Some(dir) = &self.dir else { return all };
        for name in names(dir) {
            match read_record(dir, &name) {
                Ok((kept, digest)) => {
                    let place = Place::Disk(dir.join(component(digest)).into());
                    all.insert(name, (kept, Bytes { digest, place }));
                }
                Err(error) => {
                    let plugin = name.as_str();
                    tracing::warn!(plugin, %error, "what a plugin served with cannot be read and is not used");
                }
            }
        }
        all
    }

    /// Forgets what a plugin served with: it is gone.
    pub(crate) fn forget(&self, name: &CheckerKey) {
        if let Some(dir) = &self.dir
            && is_name(name.as_str())
        {
            cache::discard(&dir.join(record(name)));
        }
    }

    /// Removes components that no record names and that are not `in_use`, and what a process that died left half
    /// written. Tells the digests that are kept or in use.
    pub(crate) fn prune(&self, in_use: &BTreeSet<Digest>, now: SystemTime) -> BTreeSet<Digest> {
        let mut wanted = in_use.clone();
        let Some(dir) = &self.dir else { return wanted };
        // Else a component that is put here again meanwhile could be taken for the old one it was.
        let _one_at_a_time = crate::lock(&self.writing);
        for name in names(dir) {
            match read_record(dir, &name) {
                Ok((_, digest)) => wanted.extend([digest]),
                // It is of no use at the next start either.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(error) => {
                    tracing::warn!(plugin = name.as_str(), %error, "components are not tidied up: a record cannot be read");
                    return wanted;
                }
            }
        }
        for (name, idle) in cache::files(dir, now) {
            let unwanted = match name.strip_suffix(".wasm").and_then(|digest| digest.parse().ok()) {
                Some(digest) => !wanted.contains(&digest) && idle > UNNAMED,
                None => cache::is_draft(&name) && idle > ABANDONED,
            };
            if unwanted {
                cache::discard(&dir.join(name));
            }
        }
        wanted
    }
}

impl Bytes {
    /// A component that stays in memory.
    pub(crate) fn in_memory(bytes: Arc<[u8]>, digest: Digest) -> Self {
        Self { digest, place: Place::Memory(bytes) }
    }

    /// What it is known by.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// The component, as it was when it was put here.
    ///
    /// # Errors
    /// `bytes-unavailable`, with what is wrong where and what would help.
    pub(crate) fn read(&self) -> Result<Arc<[u8]>, Refusal> {
        let path = match &self.place {
            Place::Memory(bytes) => return Ok(bytes.clone()),
            Place::Disk(path) => path,
        };
        read_component(path, self.digest).map_err(|why| {
            let message = format!(
                "the component {} is not to be had from {}: {why}; put its file into the plugin directory again",
                self.digest.short(12),
                path.display()
            );
            Refusal::new(RefusalReason::BytesUnavailable, message)
        })
    }
}

impl Kept {
    /// Examines the signature again: the keys may be others by now. Without keys none is needed, and what is bundled
    /// never needs one.
    ///
    /// # Errors
    /// `unsigned`, `bad-signature` or `untrusted-key`, with what would be right.
    pub(crate) fn verify(&self, name: &CheckerKey, keys: &[PublicKey], bytes: &[u8]) -> Result<(), Refusal> {
        if keys.is_empty() || self.source == Source::Bundled {
            return Ok(());
        }
        let name = name.as_str();
        match &self.signature {
            None => Err(signature::unsigned(name)),
            Some(text) => signature::verify(keys, bytes, text).map(drop).map_err(|refusal| refusal.about(name)),
        }
    }
}

fn component(digest: Digest) -> String {
    format!("{digest}.wasm")
}

fn record(name: &CheckerKey) -> String {
    format!("{}.json", name.as_str())
}

/// The plugins of which there is a record.
fn names(dir: &Path) -> BTreeSet<CheckerKey> {
    let files = cache::files(dir, SystemTime::UNIX_EPOCH).into_iter();
    files
        .filter_map(|(file, _)| file.strip_suffix(".json").filter(|stem| is_name(stem)).map(CheckerKey::from))
        .collect()
}

/// A record and the digest of its component. An error of the kind `InvalidData` says that it will never be of use.
fn read_record(dir: &Path, name: &CheckerKey) -> io::Result<(Kept, Digest)> {
    let odd = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut text = Vec::new();
    File::open(dir.join(record(name)))?.take(RECORD_SIZE).read_to_end(&mut text)?;
    let kept: Kept = serde_json::from_slice(&text).map_err(|error| odd(error.to_string()))?;
    let digest = kept.generation.bytes.ok_or_else(|| odd("it names no component".to_owned()))?;
    kept.limits.validate().map_err(|error| odd(error.to_string()))?;
    if generation_of(Some(digest), &kept.settings, &kept.limits, &kept.grants) != kept.generation {
        return Err(odd(format!("its configuration is not that of {}", kept.generation)));
    }
    Ok((kept, digest))
}

fn read_component(path: &Path, digest: Digest) -> Result<Arc<[u8]>, String> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(limits::FILE_SIZE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error: io::Error| error.to_string())?;
    if Digest::of(&bytes) != digest {
        return Err(format!("its {} bytes are not those that were written", bytes.len()));
    }
    Ok(bytes.into())
}

/// True if these bytes lie there; then they are as good as new.
fn is_there(path: &Path, digest: Digest) -> bool {
    let look = || {
        let mut file = File::open(path)?;
        let same = cache::digest_of(&mut file)? == digest;
        if same {
            file.set_modified(clock::time_of_day())?;
        }
        Ok::<_, io::Error>(same)
    };
    look().unwrap_or(false)
}

/// Gives `bytes` that name. Whoever opens it, also after a crash, finds all of them or what was there before.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let aside = dir.join(format!("{name}.tmp.{}", process::id()));
    let written = write_aside(&aside, bytes)
        .and_then(|()| fs::rename(&aside, dir.join(name)))
        .and_then(|()| File::open(dir)?.sync_all());
    if written.is_err() {
        cache::discard(&aside);
    }
    written
}

fn write_aside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    cache::discard(path); // left by a process of the same id that did not get to its end
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::Capability;
    use crate::signature::tests::{pair, sign};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn shelf(cache: &Path) -> Shelf {
        Shelf::open(Some(cache))
    }

    fn component_of(cache: &Path, digest: Digest) -> PathBuf {
        cache.join("components").join(component(digest))
    }

    fn kept(bytes: &[u8]) -> Kept {
        let settings = json!({ "b": [1, 0.5], "a": { "é": null } });
        let grants = Grants::from([Capability::Http, Capability::Clock]);
        let limits = Limits { http_allow: vec!["https://a.b:1".parse().unwrap()], ..Limits::default() };
        let generation = generation_of(Some(Digest::of(bytes)), &settings, &limits, &grants);
        Kept { generation, source: Source::Directory, settings, grants, limits, signature: None }
    }

    fn put(shelf: &Shelf, bytes: &[u8]) -> Bytes {
        shelf.put(bytes.into(), Digest::of(bytes))
    }

    #[test]
    fn a_component_goes_to_disk_and_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path());
        let bytes = put(&shelf, b"component");
        assert!(matches!(&bytes.place, Place::Disk(path) if path.exists()));
        assert_eq!((&*bytes.read().unwrap(), bytes.digest()), (b"component".as_slice(), Digest::of(b"component")));
        let files = cache::files(&dir.path().join("components"), NOW);
        assert_eq!(files.len(), 1, "no draft is left: {files:?}");
    }

    #[test]
    fn a_component_that_was_changed_is_unavailable_until_it_is_put_again() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path());
        let bytes = put(&shelf, b"component");
        let path = component_of(dir.path(), bytes.digest());
        for change in [Some(b"compo".as_slice()), Some(b"Component"), None] {
            fs::remove_file(&path).unwrap();
            if let Some(change) = change {
                fs::write(&path, change).unwrap();
            }
            let refusal = bytes.read().unwrap_err();
            assert_eq!(refusal.reason, RefusalReason::BytesUnavailable);
            assert!(refusal.message.contains(&*path.to_string_lossy()), "{refusal}");
            assert!(put(&shelf, b"component").read().is_ok() && bytes.read().is_ok());
        }
    }

    #[test]
    fn without_a_directory_everything_stays_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("components"), "no directory").unwrap();
        for shelf in [Shelf::open(None), shelf(dir.path())] {
            let bytes = put(&shelf, b"component");
            assert!(matches!(bytes.place, Place::Memory(_)));
            assert_eq!(&*bytes.read().unwrap(), b"component");
            shelf.keep(&"gpu".into(), &kept(b"component")).unwrap();
            assert!(shelf.kept().is_empty());
        }
    }

    #[test]
    fn what_cannot_be_written_stays_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path());
        fs::remove_dir(dir.path().join("components")).unwrap();
        assert!(put(&shelf, b"component").read().is_ok());
        assert!(shelf.keep(&"gpu".into(), &kept(b"component")).is_err());
    }

    #[test]
    fn what_is_kept_is_there_after_a_restart_and_what_is_forgotten_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let before = shelf(dir.path());
        put(&before, b"component");
        before.keep(&"gpu".into(), &kept(b"former")).unwrap();
        before.keep(&"gpu".into(), &kept(b"component")).unwrap();
        before.keep(&"disk".into(), &kept(b"component")).unwrap();
        before.forget(&"disk".into());
        let after = shelf(dir.path()).kept();
        let (name, (restored, bytes)) = after.first_key_value().unwrap();
        assert_eq!((after.len(), name.as_str(), restored), (1, "gpu", &kept(b"component")));
        assert_eq!(&*bytes.read().unwrap(), b"component");
        assert!(before.keep(&"../gpu".into(), &kept(b"component")).is_err());
    }

    #[test]
    fn a_record_that_does_not_fit_its_generation_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path());
        shelf.keep(&"good".into(), &kept(b"component")).unwrap();
        shelf.keep(&"other".into(), &Kept { settings: json!({}), ..kept(b"component") }).unwrap();
        let unread = Generation { bytes: None, ..kept(b"component").generation };
        shelf.keep(&"unread".into(), &Kept { generation: unread, ..kept(b"component") }).unwrap();
        fs::write(dir.path().join("components/torn.json"), "{").unwrap();
        let kept = shelf.kept();
        assert!(kept.keys().map(CheckerKey::as_str).eq(["good"]), "{kept:?}");
    }

    #[test]
    fn p_73_a_withdrawn_key_is_noticed_at_a_restart() {
        let ((ours, our_key), (_, other_key)) = (pair(), pair());
        let signed = Kept { signature: Some(sign(&ours, b"component")), ..kept(b"component") };
        let check = |kept: &Kept, key: &PublicKey, bytes: &[u8]| {
            kept.verify(&"gpu".into(), std::slice::from_ref(key), bytes).map_err(|refusal| refusal.reason)
        };
        assert_eq!(check(&signed, &our_key, b"component"), Ok(()));
        assert_eq!(check(&signed, &our_key, b"Component"), Err(RefusalReason::BadSignature));
        assert_eq!(check(&signed, &other_key, b"component"), Err(RefusalReason::UntrustedKey));
        assert_eq!(check(&kept(b"component"), &our_key, b"component"), Err(RefusalReason::Unsigned));
        let bundled = Kept { source: Source::Bundled, ..kept(b"component") };
        assert_eq!(check(&bundled, &other_key, b"component"), Ok(()));
        assert_eq!(kept(b"component").verify(&"gpu".into(), &[], b"component"), Ok(()));
    }

    #[test]
    fn pruning_keeps_what_is_named_or_in_use_or_new() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path());
        let digest = |bytes: &Bytes| bytes.digest();
        let [named, used, old, new] =
            [b"named".as_slice(), b"used", b"old", b"new"].map(|bytes| digest(&put(&shelf, bytes)));
        shelf.keep(&"gpu".into(), &kept(b"named")).unwrap();
        let draft = dir.path().join("components/x.wasm.tmp.1");
        fs::write(&draft, "").unwrap();
        let at = |path: &Path, at: SystemTime| File::open(path).unwrap().set_modified(at).unwrap();
        let now = NOW + 10 * ABANDONED;
        for digest in [named, used, old] {
            at(&component_of(dir.path(), digest), now - UNNAMED - Duration::from_secs(1));
        }
        at(&component_of(dir.path(), new), now - UNNAMED);
        at(&draft, now - ABANDONED);
        assert_eq!(shelf.prune(&[used].into(), now), [named, used].into());
        let left = |digest| component_of(dir.path(), digest).exists();
        assert_eq!([named, used, old, new].map(left), [true, true, false, true]);
        assert!(draft.exists());
        shelf.prune(&BTreeSet::new(), now + Duration::from_secs(1));
        assert_eq!([named, used, old, new].map(left), [true, false, false, false]);
        assert!(!draft.exists());
    }
}

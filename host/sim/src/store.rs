//! All objects, their versions and what changed lately. Synchronous; knows nothing of HTTP.
//!
//! One number counts all writes, as etcd does. A list keeps its snapshot by sharing the map: the first write after it copies
//! the map of pointers (about 10 ms for 100 000 nodes), so that a slow reader sees one moment and no one waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use serde_json::Value;
use tokio::sync::watch;

use crate::object::Object;
use crate::random;
use crate::resource::Resource;

/// Snapshots of unfinished lists kept per kind. A client that gives up half-way leaves one behind; the oldest goes first,
/// and its continue token is then expired, as after a compaction.
const SNAPSHOTS_MAX: usize = 8;

/// Real clusters never begin at one, and a client must not depend on it.
const FIRST_VERSION: u64 = 1000;

pub(crate) type Objects = BTreeMap<Arc<str>, Arc<Object>>;

/// Index of a kind in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(usize);

impl Kind {
    /// A kind that no store has.
    pub(crate) const UNKNOWN: Self = Self(usize::MAX);
}

/// One write, as watches see it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) deleted: bool,
    /// The object after the write; of a deleted one its last state, with the version of the deletion.
    pub(crate) object: Arc<Object>,
    pub(crate) before: Option<Arc<Object>>,
}

/// The object is not at the version the write was based on.
#[derive(Debug)]
pub(crate) struct Raced;

/// The history does not reach back to the version asked for; it begins after the one given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooOld(pub(crate) u64);

/// See the module.
pub(crate) struct Store {
    resources: Vec<Resource>,
    history_max: usize,
    inner: Mutex<Inner>,
    changed: Vec<watch::Sender<u64>>,
}

struct Inner {
    version: u64,
    ids: StdRng,
    collections: Vec<Collection>,
}

#[derive(Default)]
struct Collection {
    objects: Arc<Objects>,
    history: VecDeque<Arc<Change>>,
    /// Version of the newest change that the history no longer holds.
    forgotten: u64,
    snapshots: VecDeque<Snapshot>,
}

struct Snapshot {
    version: u64,
    objects: Arc<Objects>,
    readers: usize,
}

impl Store {
    pub(crate) fn new(resources: Vec<Resource>, history_max: usize, seed: u64) -> Self {
        let collections =
            resources.iter().map(|_| Collection { forgotten: FIRST_VERSION, ..Collection::default() }).collect();
        Self {
            changed: resources.iter().map(|_| watch::Sender::new(0)).collect(),
            resources,
            history_max,
            inner: Mutex::new(Inner { version: FIRST_VERSION, ids: random::rng(seed), collections }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The kind at `group/version` (or `v1`) with this plural.
    pub(crate) fn kind(&self, api_version: &str, plural: &str) -> Option<(Kind, &Resource)> {
        self.resources
            .iter()
            .enumerate()
            .find(|(_, r)| r.plural == plural && r.api_version() == api_version)
            .map(|(index, resource)| (Kind(index), resource))
    }

    pub(crate) fn resource(&self, kind: Kind) -> Option<&Resource> {
        self.resources.get(kind.0)
    }

    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    pub(crate) fn uid(&self) -> String {
        random::uuid(&mut self.lock().ids)
    }

    /// Suffix for `generateName`.
    pub(crate) fn suffix(&self) -> String {
        random::hex(&mut self.lock().ids, 5)
    }

    pub(crate) fn get(&self, kind: Kind, key: &str) -> Option<Arc<Object>> {
        self.lock().collection(kind)?.objects.get(key).cloned()
    }

    /// All objects at this moment, and its version.
    pub(crate) fn all(&self, kind: Kind) -> (u64, Arc<Objects>) {
        let mut inner = self.lock();
        let version = inner.version;
        let objects = inner.collection(kind).map(|c| Arc::clone(&c.objects));
        (version, objects.unwrap_or_default())
    }

    /// Remembers a snapshot for the next page of a list.
    pub(crate) fn keep(&self, kind: Kind, version: u64, objects: &Arc<Objects>) {
        let mut inner = self.lock();
        let Some(collection) = inner.collection(kind) else {
            return;
        };
        if let Some(known) = collection.snapshot(version) {
            known.readers += 1;
            return;
        }
        collection.snapshots.push_back(Snapshot { version, objects: Arc::clone(objects), readers: 1 });
        if collection.snapshots.len() > SNAPSHOTS_MAX {
            collection.snapshots.pop_front();
        }
    }

    /// The objects as a list at `version` saw them, if that is still known.
    pub(crate) fn kept(&self, kind: Kind, version: u64) -> Option<Arc<Objects>> {
        let mut inner = self.lock();
        let snapshot = inner.collection(kind)?.snapshot(version)?;
        Some(Arc::clone(&snapshot.objects))
    }

    /// The last page of a list was read.
    pub(crate) fn release(&self, kind: Kind, version: u64) {
        let mut inner = self.lock();
        let Some(collection) = inner.collection(kind) else {
            return;
        };
        if let Some(snapshot) = collection.snapshot(version) {
            snapshot.readers -= 1;
        }
        collection.snapshots.retain(|s| s.readers > 0);
    }

    /// Writes `value` as a new version of an object that is at version `based_on`, or does not exist if that is `None`.
    pub(crate) fn put(
        &self,
        kind: Kind,
        key: &str,
        based_on: Option<u64>,
        value: &mut Value,
    ) -> Result<Arc<Object>, Raced> {
        let mut inner = self.lock();
        let version = inner.version + 1;
        let collection = inner.collection(kind).ok_or(Raced)?;
        let before = collection.objects.get(key).cloned();
        if before.as_ref().map(|o| o.version) != based_on {
            return Err(Raced);
        }
        set_version(value, version);
        let key = before.as_ref().map_or_else(|| Arc::from(key), |o| Arc::clone(&o.key));
        let object = Arc::new(Object::new(version, Arc::clone(&key), value, before.as_deref()));
        Arc::make_mut(&mut collection.objects).insert(key, Arc::clone(&object));
        let change = Change { deleted: false, object: Arc::clone(&object), before };
        collection.record(change, self.history_max);
        inner.version = version;
        drop(inner);
        self.announce(kind, version);
        Ok(object)
    }

    /// Removes the object at version `based_on`; answers its last state.
    pub(crate) fn remove(&self, kind: Kind, key: &str, based_on: u64, last: &mut Value) -> Result<Arc<Object>, Raced> {
        let mut inner = self.lock();
        let version = inner.version + 1;
        let collection = inner.collection(kind).ok_or(Raced)?;
        let before = collection.objects.get(key).cloned().ok_or(Raced)?;
        if before.version != based_on {
            return Err(Raced);
        }
        set_version(last, version);
        let object = Arc::new(Object::new(version, Arc::clone(&before.key), last, Some(&before)));
        Arc::make_mut(&mut collection.objects).remove(key);
        let change = Change { deleted: true, object: Arc::clone(&object), before: Some(before) };
        collection.record(change, self.history_max);
        inner.version = version;
        drop(inner);
        self.announce(kind, version);
        Ok(object)
    }

    /// Up to `max` changes after `version`, and the version that the reader has then seen all of.
    pub(crate) fn changes(&self, kind: Kind, version: u64, max: usize) -> Result<(Vec<Arc<Change>>, u64), TooOld> {
        let mut inner = self.lock();
        let current = inner.version;
        let Some(collection) = inner.collection(kind) else {
            return Ok((Vec::new(), current));
        };
        if version < collection.forgotten {
            return Err(TooOld(collection.forgotten));
        }
        let start = collection.history.partition_point(|c| c.object.version <= version);
        let changes: Vec<_> = collection.history.range(start..).take(max).cloned().collect();
        let seen = match changes.last() {
            Some(last) if changes.len() == max => last.object.version,
            // A version from the future stays there: the watch then begins with what comes after it.
            _ => current.max(version),
        };
        Ok((changes, seen))
    }

    /// Wakes at each write to the kind.
    pub(crate) fn subscribe(&self, kind: Kind) -> Option<watch::Receiver<u64>> {
        self.changed.get(kind.0).map(watch::Sender::subscribe)
    }

    /// Watches open on the kind.
    pub(crate) fn watchers(&self, kind: Kind) -> usize {
        self.changed.get(kind.0).map_or(0, watch::Sender::receiver_count)
    }

    /// Forgets all history and all snapshots, as a compaction does.
    pub(crate) fn compact(&self) {
        let mut inner = self.lock();
        let version = inner.version;
        for collection in &mut inner.collections {
            collection.history.clear();
            collection.snapshots.clear();
            collection.forgotten = version;
        }
        drop(inner);
        for sender in &self.changed {
            sender.send_replace(version);
        }
    }

    /// Moves the version on without a change, so that what was the present is past.
    pub(crate) fn advance(&self) {
        self.lock().version += 1;
    }

    fn announce(&self, kind: Kind, version: u64) {
        if let Some(sender) = self.changed.get(kind.0) {
            sender.send_replace(version);
        }
    }
}

impl Inner {
    fn collection(&mut self, kind: Kind) -> Option<&mut Collection> {
        self.collections.get_mut(kind.0)
    }
}

impl Collection {
    fn record(&mut self, change: Change, history_max: usize) {
        self.history.push_back(Arc::new(change));
        while self.history.len() > history_max {
            if let Some(oldest) = self.history.pop_front() {
                self.forgotten = oldest.object.version;
            }
        }
    }

    fn snapshot(&mut self, version: u64) -> Option<&mut Snapshot> {
        self.snapshots.iter_mut().find(|s| s.version == version)
    }
}

fn set_version(value: &mut Value, version: u64) {
    if let Some(map) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        map.insert("resourceVersion".to_owned(), version.to_string().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::built_ins;
    use serde_json::json;

    fn store(history: usize) -> (Store, Kind) {
        let store = Store::new(built_ins(), history, 1);
        let kind = store.kind("v1", "nodes").unwrap().0;
        (store, kind)
    }

    fn node(name: &str) -> Value {
        json!({ "metadata": { "name": name } })
    }

    #[test]
    fn a_snapshot_does_not_see_later_writes() {
        let (store, nodes) = store(10);
        store.put(nodes, "a", None, &mut node("a")).unwrap();
        let (version, seen) = store.all(nodes);
        store.keep(nodes, version, &seen);
        drop(seen);
        store.put(nodes, "b", None, &mut node("b")).unwrap();
        assert_eq!(store.kept(nodes, version).unwrap().len(), 1);
        assert_eq!(store.all(nodes).1.len(), 2);
        store.release(nodes, version);
        assert!(store.kept(nodes, version).is_none());
    }

    #[test]
    fn a_write_based_on_an_old_version_is_refused() {
        let (store, nodes) = store(10);
        let first = store.put(nodes, "a", None, &mut node("a")).unwrap();
        let second = store.put(nodes, "a", Some(first.version), &mut node("a")).unwrap();
        assert!(store.put(nodes, "a", Some(first.version), &mut node("a")).is_err());
        assert!(store.put(nodes, "a", None, &mut node("a")).is_err());
        assert!(store.remove(nodes, "a", first.version, &mut node("a")).is_err());
        assert!(store.remove(nodes, "a", second.version, &mut node("a")).is_ok());
    }

    #[test]
    fn history_beyond_its_bound_is_too_old() {
        let (store, nodes) = store(2);
        let start = store.version();
        for name in ["a", "b", "c"] {
            store.put(nodes, name, None, &mut node(name)).unwrap();
        }
        assert_eq!(store.changes(nodes, start, 10).unwrap_err(), TooOld(start + 1));
        let (changes, seen) = store.changes(nodes, start + 1, 10).unwrap();
        assert_eq!((changes.len(), seen), (2, start + 3));
        let (changes, seen) = store.changes(nodes, start + 1, 1).unwrap();
        assert_eq!((changes.len(), seen), (1, start + 2));
    }
}

//! What guests were granted to keep from one check to the next: a small blob per plugin and node. It lives as long
//! as the engine, outside of every store; a store holds a [`Pad`], which is put back once its check has returned. A
//! start has its part of it, a [`Memory`], and loses that when its plugin is forgotten: checks may end after that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use apgar_core::node::{Node, NodeName, Uid};
use apgar_core::verdict::CheckerKey;

use crate::limits;

/// Deaths in a row of checks that had loaded a blob, after which it is the blob that is suspected.
const DEATHS: u8 = 2;

/// What an entry costs beside its blob: two keys and their places in two maps, rounded up.
const ENTRY: u64 = 256;

/// All blobs there are.
#[derive(Debug, Default)]
pub(crate) struct Memories(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_plugin: BTreeMap<CheckerKey, Blobs>,
    /// Bytes of all entries.
    used: u64,
    /// Plugins that there have been, those of before they were forgotten included.
    lives: u64,
}

/// What one plugin has, from its first start until it is forgotten.
#[derive(Debug, Default)]
struct Blobs {
    life: u64,
    by_node: BTreeMap<NodeName, Entry>,
}

/// The part of one start.
#[derive(Debug)]
pub(crate) struct Memory {
    all: Arc<Memories>,
    plugin: CheckerKey,
    life: u64,
}

#[derive(Debug)]
struct Entry {
    uid: Uid,
    blob: Arc<[u8]>,
    deaths: u8,
}

impl Entry {
    fn cost(&self) -> u64 {
        cost(&self.blob)
    }
}

fn cost(blob: &[u8]) -> u64 {
    ENTRY + blob.len() as u64
}

/// The blob of one plugin and node, as one check sees it.
#[derive(Debug)]
pub(crate) struct Pad {
    /// As it was found.
    found: Option<Arc<[u8]>>,
    blob: Option<Arc<[u8]>>,
    limit: u64,
    loaded: bool,
    stored: bool,
}

/// Why a blob was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{given} bytes are more than is kept for a node: limits.scratchpad is {limit}; the last blob stays")]
pub(crate) struct TooLarge {
    given: u64,
    limit: u64,
}

impl Pad {
    /// What was stored last.
    pub(crate) fn load(&mut self) -> Option<&[u8]> {
        self.loaded = true;
        self.blob.as_deref()
    }

    /// Takes the place of the last blob; an empty one stands for none.
    pub(crate) fn store(&mut self, blob: Vec<u8>) -> Result<(), TooLarge> {
        let (given, limit) = (blob.len() as u64, self.limit);
        if given > limit {
            return Err(TooLarge { given, limit });
        }
        self.blob = (!blob.is_empty()).then(|| blob.into());
        self.stored = true;
        Ok(())
    }
}

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It returned.
    Returned,
    /// It died.
    Died,
    /// It was ended by no fault of its own.
    Cut,
}

impl Memories {
    /// The part of a start of this plugin.
    pub(crate) fn of(self: &Arc<Self>, plugin: &CheckerKey) -> Memory {
        let kept = &mut *crate::lock(&self.0);
        let blobs = kept.by_plugin.entry(plugin.clone()).or_insert_with(|| {
            kept.lives += 1;
            Blobs { life: kept.lives, ..Blobs::default() }
        });
        Memory { all: self.clone(), plugin: plugin.clone(), life: blobs.life }
    }

    /// Forgets what `plugin` stored, and whatever its starts store yet.
    pub(crate) fn forget_plugin(&self, plugin: &CheckerKey) {
        let mut kept = crate::lock(&self.0);
        let blobs = kept.by_plugin.remove(plugin).unwrap_or_default();
        kept.used -= blobs.by_node.values().map(Entry::cost).sum::<u64>();
    }

    /// Forgets what was stored for `node`.
    pub(crate) fn forget_node(&self, node: &NodeName) {
        let kept = &mut *crate::lock(&self.0);
        let gone = kept.by_plugin.values_mut().filter_map(|blobs| blobs.by_node.remove(node));
        kept.used -= gone.map(|entry| entry.cost()).sum::<u64>();
    }
}

impl Memory {
    /// What the plugin stored for `node`, if that is the node it was stored for.
    pub(crate) fn take(&self, node: &Node, limit: u64) -> Pad {
        let mut kept = crate::lock(&self.all.0);
        let entry = self.blobs(&mut kept.by_plugin).and_then(|blobs| blobs.by_node.get(&node.name));
        let blob = entry.filter(|entry| entry.uid == node.uid).map(|entry| entry.blob.clone());
        Pad { found: blob.clone(), blob, limit, loaded: false, stored: false }
    }

    /// Keeps what the check stored, if it returned; counts its death against what it had loaded, if not. A blob for
    /// which there is no room is not kept, and neither is the one it was to replace. If what it found is there no
    /// more, emptied or replaced by another check, nothing is kept or counted.
    pub(crate) fn put(&self, node: &Node, pad: Pad, end: End) {
        let Pad { found, blob, loaded, stored, .. } = pad;
        let Kept { by_plugin, used, .. } = &mut *crate::lock(&self.all.0);
        let Some(blobs) = self.blobs(by_plugin) else { return };
        let entry = blobs.by_node.get_mut(&node.name).filter(|entry| entry.uid == node.uid);
        if entry.as_ref().map(|entry| Arc::as_ptr(&entry.blob)) != found.as_ref().map(Arc::as_ptr) {
            return;
        }
        let (replaced, blob) = match (end, entry) {
            (End::Returned, _) if stored => (true, blob),
            (End::Returned, Some(entry)) if loaded => {
                entry.deaths = 0;
                return;
            }
            (End::Died, Some(entry)) if loaded => {
                entry.deaths += 1;
                (entry.deaths >= DEATHS, None)
            }
            (End::Returned | End::Died | End::Cut, _) => return,
        };
        if replaced && let Some(entry) = blobs.by_node.remove(&node.name) {
            *used -= entry.cost();
        }
        if let Some(blob) = blob
            && used.saturating_add(cost(&blob)) <= limits::SCRATCHPADS
        {
            *used += cost(&blob);
            blobs.by_node.insert(node.name.clone(), Entry { uid: node.uid.clone(), blob, deaths: 0 });
        }
    }

    /// Unless the plugin was forgotten since this start began.
    fn blobs<'a>(&self, by_plugin: &'a mut BTreeMap<CheckerKey, Blobs>) -> Option<&'a mut Blobs> {
        by_plugin.get_mut(&self.plugin).filter(|blobs| blobs.life == self.life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 8;

    fn node(name: &str, uid: &str) -> Node {
        Node { uid: Uid::from(uid), ..Node::named(name) }
    }

    /// A check that loads and, where there is something, stores.
    fn check(memories: &Arc<Memories>, plugin: &str, node: &Node, store: Option<&[u8]>, end: End) -> Option<Vec<u8>> {
        let memory = memories.of(&CheckerKey::from(plugin));
        let mut pad = memory.take(node, limits::SCRATCHPAD_MAX);
        let found = pad.load().map(<[u8]>::to_vec);
        if let Some(blob) = store {
            pad.store(blob.to_vec()).unwrap();
        }
        memory.put(node, pad, end);
        found
    }

    fn used(memories: &Memories) -> u64 {
        crate::lock(&memories.0).used
    }

    #[test]
    fn a_blob_is_kept_for_a_plugin_a_node_and_its_uid() {
        let memories = Arc::<Memories>::default();
        let (one, other, again) = (node("n", "1"), node("m", "2"), node("n", "3"));
        check(&memories, "p", &one, Some(b"a"), End::Returned);
        assert_eq!(check(&memories, "p", &other, None, End::Returned), None);
        assert_eq!(check(&memories, "q", &one, None, End::Returned), None);
        assert_eq!(check(&memories, "p", &again, None, End::Returned), None, "another uid is another node");
        assert_eq!(check(&memories, "p", &one, Some(b""), End::Returned).as_deref(), Some(&b"a"[..]));
        assert_eq!(check(&memories, "p", &one, None, End::Returned), None, "an empty blob stands for none");
        assert_eq!(used(&memories), 0);
    }

    #[test]
    fn a_blob_that_is_too_large_leaves_the_last_one() {
        let (memory, node) = (Arc::<Memories>::default().of(&CheckerKey::from("p")), node("n", "1"));
        let mut pad = memory.take(&node, LIMIT);
        assert_eq!(pad.store(vec![1; 8]), Ok(()));
        assert_eq!(pad.store(vec![2; 9]), Err(TooLarge { given: 9, limit: LIMIT }));
        assert_eq!(pad.load(), Some(&[1; 8][..]));
    }

    #[test]
    fn only_a_check_that_returned_leaves_something_behind() {
        let (memories, node) = (Arc::<Memories>::default(), node("n", "1"));
        for end in [End::Died, End::Cut] {
            check(&memories, "p", &node, Some(b"a"), end);
            assert_eq!(check(&memories, "p", &node, None, End::Returned), None);
        }
    }

    #[test]
    fn two_deaths_in_a_row_with_a_blob_are_its_end() {
        let (memories, node) = (Arc::<Memories>::default(), node("n", "1"));
        check(&memories, "p", &node, Some(b"a"), End::Returned);
        for end in [End::Died, End::Returned, End::Died, End::Cut] {
            assert!(check(&memories, "p", &node, Some(b"b"), end).is_some(), "{end:?}");
        }
        assert_eq!(check(&memories, "p", &node, None, End::Died).as_deref(), Some(&b"b"[..]), "the second in a row");
        assert_eq!(check(&memories, "p", &node, None, End::Returned), None);
        assert_eq!(used(&memories), 0);
    }

    #[test]
    fn what_was_forgotten_is_not_brought_back_by_a_check_that_ends_later() {
        let (memories, node, key) = (Arc::<Memories>::default(), node("n", "1"), CheckerKey::from("p"));
        let store = |memory: &Memory, blob: &[u8]| {
            let mut pad = memory.take(&node, LIMIT);
            pad.store(blob.to_vec()).unwrap();
            pad
        };
        // Removed: whatever the start before does, also in checks that it begins yet, is lost on the next one.
        let before = memories.of(&key);
        let late = store(&before, b"late");
        memories.forget_plugin(&key);
        before.put(&node, late, End::Returned);
        before.put(&node, store(&before, b"later"), End::Returned);
        let after = memories.of(&key);
        before.put(&node, store(&before, b"latest"), End::Returned);
        assert_eq!((after.take(&node, LIMIT).load(), used(&memories)), (None, 0));
        // Emptied, or the node is gone.
        let emptied = || (0..DEATHS).for_each(|_| _ = check(&memories, "p", &node, None, End::Died));
        for forget in [&emptied as &dyn Fn(), &|| memories.forget_node(&node.name)] {
            check(&memories, "p", &node, Some(b"a"), End::Returned);
            let late = store(&after, b"late");
            forget();
            after.put(&node, late, End::Returned);
            assert_eq!((after.take(&node, LIMIT).load(), used(&memories)), (None, 0));
        }
    }

    #[test]
    fn the_room_is_bounded_and_given_back() {
        let memories = Arc::<Memories>::default();
        let (blob, each) = (vec![1; 64 << 10], ENTRY + (64 << 10));
        let nodes: Vec<Node> = (0..600).map(|n| node(&n.to_string(), "1")).collect();
        for node in &nodes {
            check(&memories, "p", node, Some(&blob), End::Returned);
        }
        let kept = limits::SCRATCHPADS / each;
        assert_eq!(used(&memories), kept * each);
        memories.forget_node(&nodes[0].name);
        assert_eq!(used(&memories), (kept - 1) * each);
        assert_eq!(check(&memories, "p", &nodes[0], None, End::Returned), None);
        memories.forget_plugin(&CheckerKey::from("p"));
        assert_eq!(used(&memories), 0);
    }
}

//! What guests were granted to keep from one check to the next: a small blob per plugin and node. It lives as long
//! as the engine, outside of every store; a store holds a [`Pad`], which is put back once its check has returned.

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
    by_plugin: BTreeMap<CheckerKey, BTreeMap<NodeName, Entry>>,
    /// Bytes of all entries.
    used: u64,
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
    /// What `plugin` stored for `node`, if that is the node it was stored for.
    pub(crate) fn take(&self, plugin: &CheckerKey, node: &Node, limit: u64) -> Pad {
        let kept = crate::lock(&self.0);
        let entry = kept.by_plugin.get(plugin).and_then(|nodes| nodes.get(&node.name));
        let blob = entry.filter(|entry| entry.uid == node.uid).map(|entry| entry.blob.clone());
        Pad { blob, limit, loaded: false, stored: false }
    }

    /// Keeps what the check stored, if it returned; counts its death against what it had loaded, if not. A blob for
    /// which there is no room is not kept, and neither is the one it was to replace.
    pub(crate) fn put(&self, plugin: &CheckerKey, node: &Node, pad: Pad, end: End) {
        let Pad { blob, loaded, stored, .. } = pad;
        let mut kept = crate::lock(&self.0);
        match end {
            End::Returned if stored => {
                kept.remove(plugin, &node.name);
                let Some(blob) = blob else { return };
                if kept.used.saturating_add(cost(&blob)) <= limits::SCRATCHPADS {
                    kept.used += cost(&blob);
                    let entry = Entry { uid: node.uid.clone(), blob, deaths: 0 };
                    kept.by_plugin.entry(plugin.clone()).or_default().insert(node.name.clone(), entry);
                }
            }
            End::Returned if loaded => {
                if let Some(entry) = kept.of(plugin, node) {
                    entry.deaths = 0;
                }
            }
            End::Died if loaded => {
                let Some(entry) = kept.of(plugin, node) else { return };
                entry.deaths += 1;
                if entry.deaths >= DEATHS {
                    kept.remove(plugin, &node.name);
                }
            }
            End::Returned | End::Died | End::Cut => {}
        }
    }

    /// Forgets what `plugin` stored.
    pub(crate) fn forget_plugin(&self, plugin: &CheckerKey) {
        let mut kept = crate::lock(&self.0);
        let nodes = kept.by_plugin.remove(plugin).unwrap_or_default();
        kept.used -= nodes.values().map(Entry::cost).sum::<u64>();
    }

    /// Forgets what was stored for `node`.
    pub(crate) fn forget_node(&self, node: &NodeName) {
        let mut kept = crate::lock(&self.0);
        let plugins: Vec<CheckerKey> = kept.by_plugin.keys().cloned().collect();
        for plugin in plugins {
            kept.remove(&plugin, node);
        }
    }
}

impl Kept {
    fn of(&mut self, plugin: &CheckerKey, node: &Node) -> Option<&mut Entry> {
        self.by_plugin.get_mut(plugin)?.get_mut(&node.name).filter(|entry| entry.uid == node.uid)
    }

    fn remove(&mut self, plugin: &CheckerKey, node: &NodeName) {
        let Some(nodes) = self.by_plugin.get_mut(plugin) else { return };
        if let Some(entry) = nodes.remove(node) {
            self.used -= entry.cost();
        }
        if nodes.is_empty() {
            self.by_plugin.remove(plugin);
        }
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
    fn check(memories: &Memories, plugin: &str, node: &Node, store: Option<&[u8]>, end: End) -> Option<Vec<u8>> {
        let plugin = CheckerKey::from(plugin);
        let mut pad = memories.take(&plugin, node, limits::SCRATCHPAD_MAX);
        let found = pad.load().map(<[u8]>::to_vec);
        if let Some(blob) = store {
            pad.store(blob.to_vec()).unwrap();
        }
        memories.put(&plugin, node, pad, end);
        found
    }

    fn used(memories: &Memories) -> u64 {
        crate::lock(&memories.0).used
    }

    #[test]
    fn a_blob_is_kept_for_a_plugin_a_node_and_its_uid() {
        let memories = Memories::default();
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
        let (memories, node, plugin) = (Memories::default(), node("n", "1"), CheckerKey::from("p"));
        let mut pad = memories.take(&plugin, &node, LIMIT);
        assert_eq!(pad.store(vec![1; 8]), Ok(()));
        assert_eq!(pad.store(vec![2; 9]), Err(TooLarge { given: 9, limit: LIMIT }));
        assert_eq!(pad.load(), Some(&[1; 8][..]));
    }

    #[test]
    fn only_a_check_that_returned_leaves_something_behind() {
        let (memories, node) = (Memories::default(), node("n", "1"));
        for end in [End::Died, End::Cut] {
            check(&memories, "p", &node, Some(b"a"), end);
            assert_eq!(check(&memories, "p", &node, None, End::Returned), None);
        }
    }

    #[test]
    fn two_deaths_in_a_row_with_a_blob_are_its_end() {
        let (memories, node) = (Memories::default(), node("n", "1"));
        check(&memories, "p", &node, Some(b"a"), End::Returned);
        for end in [End::Died, End::Returned, End::Died, End::Cut] {
            assert!(check(&memories, "p", &node, Some(b"b"), end).is_some(), "{end:?}");
        }
        assert_eq!(check(&memories, "p", &node, None, End::Died).as_deref(), Some(&b"b"[..]), "the second in a row");
        assert_eq!(check(&memories, "p", &node, None, End::Returned), None);
        assert_eq!(used(&memories), 0);
    }

    #[test]
    fn the_room_is_bounded_and_given_back() {
        let memories = Memories::default();
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

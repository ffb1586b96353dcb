//! A node as the rules and the checkers see it: one frozen, trimmed snapshot of the Node object.
//! What changes without meaning (heartbeat times, resource version, images) is left out, so two snapshots
//! that compare equal are the same content and need no new check.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::time::Time;

macro_rules! name_types {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text, as the API server gives it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// True where the API server said nothing.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<Arc<str>> for $name {
            fn from(text: Arc<str>) -> Self {
                Self(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

name_types! {
    /// The name of a Node object.
    NodeName,
    /// The uid of a Node object: another uid under the same name is another node.
    Uid,
    /// A kernel boot id; an empty one says nothing and is never compared.
    BootId,
}

/// One frozen snapshot of a Node object. Strings are shared where many nodes have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`
    pub name: NodeName,
    /// `metadata.uid`
    pub uid: Uid,
    /// `status.nodeInfo.bootID`
    pub boot_id: BootId,
    /// `status.nodeInfo.systemUUID`: the machine, whatever Node object stands for it.
    pub system_uuid: Arc<str>,
    /// `spec.providerID`, empty if none.
    pub provider_id: Arc<str>,
    /// `metadata.creationTimestamp`
    pub created: Option<Time>,
    /// `spec.unschedulable`
    pub unschedulable: bool,
    /// `metadata.labels`, sorted by key.
    pub labels: Box<[Pair]>,
    /// `metadata.annotations`, sorted by key.
    pub annotations: Box<[Pair]>,
    /// `spec.taints`, in their order.
    pub taints: Box<[Taint]>,
    /// `status.conditions`, in their order.
    pub conditions: Box<[Condition]>,
    /// `status.capacity`, sorted by resource.
    pub capacity: Box<[Pair]>,
    /// `status.allocatable`, sorted by resource.
    pub allocatable: Box<[Pair]>,
    /// What is wrong with the object, if it could not be decoded. Such a node keeps its name, and its
    /// verdicts are unknown.
    pub malformed: Option<Box<str>>,
}

/// A key and its value.
pub type Pair = (Arc<str>, Arc<str>);

/// A taint of `spec.taints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: Arc<str>,
    /// Its value, empty for none.
    pub value: Arc<str>,
    /// Its effect.
    pub effect: Arc<str>,
}

/// A condition of `status.conditions`, without its heartbeat time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its type, as in `Ready`.
    pub kind: Arc<str>,
    /// `True`, `False` or `Unknown`, verbatim.
    pub status: Arc<str>,
    /// Its one-word reason.
    pub reason: Arc<str>,
    /// Its human-readable message.
    pub message: Arc<str>,
    /// When its status last changed, by its writer's clock: shown, never compared with `now`.
    pub last_transition: Option<Time>,
}

/// The label or annotation that takes a node out of Apgar's hands, by the value `true`.
pub const EXCLUDE_KEY: &str = "apgar.dev/exclude";

/// The label by which a node declares its GPUs.
pub const GPU_COUNT_LABEL: &str = "nvidia.com/gpu.count";

impl Node {
    /// A node that is known by its name only: what is left when an object cannot be decoded.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let empty: Arc<str> = Arc::from("");
        Self {
            name: NodeName::from(name),
            uid: Uid::from(empty.clone()),
            boot_id: BootId::from(empty.clone()),
            system_uuid: empty.clone(),
            provider_id: empty,
            created: None,
            unschedulable: false,
            labels: Box::default(),
            annotations: Box::default(),
            taints: Box::default(),
            conditions: Box::default(),
            capacity: Box::default(),
            allocatable: Box::default(),
            malformed: None,
        }
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        find(&self.labels, key)
    }

    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        find(&self.annotations, key)
    }

    /// The first condition of that type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| &*c.kind == kind)
    }

    /// The first taint with that key.
    #[must_use]
    pub fn taint(&self, key: &str) -> Option<&Taint> {
        self.taints.iter().find(|t| &*t.key == key)
    }

    /// A capacity quantity, as written.
    #[must_use]
    pub fn capacity(&self, resource: &str) -> Option<&str> {
        find(&self.capacity, resource)
    }

    /// An allocatable quantity, as written.
    #[must_use]
    pub fn allocatable(&self, resource: &str) -> Option<&str> {
        find(&self.allocatable, resource)
    }

    /// True if an operator marked the node as not ours (`lifecycle` 4.7).
    #[must_use]
    pub fn is_excluded(&self) -> bool {
        self.label(EXCLUDE_KEY) == Some("true") || self.annotation(EXCLUDE_KEY) == Some("true")
    }

    /// True if the node says it has GPUs, allocatable or not (`recovery` section 2): a node that lost all
    /// its GPUs is still a GPU node.
    #[must_use]
    pub fn is_gpu(&self) -> bool {
        self.label(GPU_COUNT_LABEL).is_some_and(|text| {
            text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<i64>().is_ok_and(|count| count > 0)
        })
    }
}

fn find<'a>(pairs: &'a [Pair], key: &str) -> Option<&'a str> {
    let at = pairs.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
    pairs.get(at).map(|(_, value)| &**value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_gpu(label: Option<&str>, expected: bool) {
        let mut node = Node::named("n");
        node.labels = label.map(|v| (Arc::from(GPU_COUNT_LABEL), Arc::from(v))).into_iter().collect();
        assert_eq!(node.is_gpu(), expected, "{label:?}");
    }

    #[test]
    fn a_gpu_node_is_one_whose_label_counts_at_least_one() {
        check_gpu(None, false);
        check_gpu(Some("8"), true);
        check_gpu(Some("9223372036854775807"), true);
        for not in ["", "0", "-1", "+8", "8x", "9223372036854775808"] {
            check_gpu(Some(not), false);
        }
    }

    #[test]
    fn exclusion_needs_exactly_true() {
        let mut node = Node::named("n");
        for (value, expected) in [("true", true), ("yes", false), ("True", false)] {
            node.annotations = Box::new([(Arc::from(EXCLUDE_KEY), Arc::from(value))]);
            assert_eq!(node.is_excluded(), expected, "{value}");
        }
    }
}

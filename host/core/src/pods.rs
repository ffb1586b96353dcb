//! The pods on a node as the checkers see them: trimmed, and only for whoever was granted them. What changes
//! without meaning (resource version, probe times) is left out, so two lists that compare equal are the same
//! content and need no new check.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::node::NodeName;
use crate::time::Time;

/// A pod that is bound to a node and has not ended. Strings are shared where many pods have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
    /// The kind of its controlling owner, empty for none.
    pub owner_kind: Arc<str>,
    /// The name of its controlling owner.
    pub owner_name: Arc<str>,
    /// `status.phase`, verbatim.
    pub phase: Arc<str>,
    /// True while its condition `Ready` is `True`.
    pub ready: bool,
    /// Restarts of all its containers.
    pub restarts: u32,
    /// `status.reason`, or the first reason for which a container waits or has failed.
    pub reason: Arc<str>,
    /// `status.startTime`
    pub started: Option<Time>,
}

/// The pods of one node, by namespace and name.
pub type Pods = Arc<Vec<Pod>>;

impl Pod {
    /// A pod that is known by its name only.
    #[must_use]
    pub fn named(namespace: &str, name: &str) -> Self {
        let empty: Arc<str> = Arc::from("");
        Self {
            namespace: Arc::from(namespace),
            name: Arc::from(name),
            owner_kind: empty.clone(),
            owner_name: empty.clone(),
            phase: empty.clone(),
            ready: false,
            restarts: 0,
            reason: empty,
            started: None,
        }
    }

    /// What it is found by among the pods of its node.
    #[must_use]
    pub fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

/// The pods of each node, as [`Pods`] has them.
#[must_use]
pub fn by_node(pods: impl IntoIterator<Item = (NodeName, Pod)>) -> BTreeMap<NodeName, Vec<Pod>> {
    let mut by_node: BTreeMap<NodeName, Vec<Pod>> = BTreeMap::new();
    for (node, pod) in pods {
        by_node.entry(node).or_default().push(pod);
    }
    by_node.values_mut().for_each(|pods| pods.sort_by(|a, b| a.key().cmp(&b.key())));
    by_node
}

/// What happened to pods. Each comes with the node it is bound to, which a pod never changes.
#[derive(Debug, Clone)]
pub enum PodChange {
    /// A complete list of the pods of all nodes.
    Listed(Vec<(NodeName, Pod)>),
    /// A pod was bound to the node, or changed.
    Applied(NodeName, Pod),
    /// A pod was deleted, or has ended.
    Deleted {
        /// Where it was.
        node: NodeName,
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// Whether the watch on pods is alive. While it is not, no pods are known: what they were is old.
    Evidence {
        /// True while it is.
        live: bool,
    },
    /// Nobody watches them any more: they are forgotten.
    Forgotten,
}

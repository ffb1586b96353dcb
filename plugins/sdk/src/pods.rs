//! The pods on the node under judgement, for a checker that was granted them: `grants = ["pods"]`. Whoever reads them
//! stays pure: its verdict is remembered until node, pods or settings change.

use crate::{Timestamp, host};

/// A pod that is bound to the node and has not ended. A text that the API server does not give is empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name, which a pod that replaces it does not have: tell pods apart by their owners.
    pub name: String,
    /// The kind of the object that controls it (`DaemonSet`, `ReplicaSet`, `Node` for a static pod), empty for none.
    pub owner_kind: String,
    /// The name of that object.
    pub owner_name: String,
    /// `Pending`, `Running` or `Unknown`; a string, because the API does not close the set.
    pub phase: String,
    /// True while its condition `Ready` is `True`.
    pub ready: bool,
    /// How often its containers were restarted, all of them together.
    pub restarts: u32,
    /// The reason of its status, or the first for which one of its containers waits or has failed, as in
    /// `CrashLoopBackOff`.
    pub reason: String,
    /// When the kubelet took it up.
    pub started: Option<Timestamp>,
}

/// The pods, by namespace and name.
///
/// An `Err` says that the host does not know them at present, or that there are more than an answer holds: all of them
/// or none. That says nothing about the node: return it.
pub fn list() -> Result<Vec<Pod>, String> {
    host::pods()
}

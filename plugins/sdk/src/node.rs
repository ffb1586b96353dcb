//! The questions a checker may ask. They are those of the interface `node` in `wit/`, one method each.

/// A moment, in milliseconds since the Unix epoch.
pub type Timestamp = u64;

/// The node under judgement. All answers come from one frozen snapshot, verbatim from the API server: a
/// text it does not give is empty.
pub trait Node {
    /// The name of the Node object.
    fn name(&self) -> String;
    /// The uid of the Node object: another uid under the same name is another node.
    fn uid(&self) -> String;
    /// The boot id the kubelet reports: it changes with every boot.
    fn boot_id(&self) -> String;
    /// The machine's identity as its firmware gives it: it survives a new Node object.
    fn system_uuid(&self) -> String;
    /// The cloud's identity of the machine, as in `civo://<id>`.
    fn provider_id(&self) -> String;
    /// When the Node object was created.
    fn created(&self) -> Option<Timestamp>;
    /// True if the node is cordoned.
    fn unschedulable(&self) -> bool;
    /// The value of a label.
    fn label(&self, key: &str) -> Option<String>;
    /// The value of an annotation.
    fn annotation(&self, key: &str) -> Option<String>;
    /// The first condition of that type; where a type appears twice only the first counts.
    fn condition(&self, kind: &str) -> Option<Condition>;
    /// The types of all conditions, in the order of the status.
    fn condition_kinds(&self) -> Vec<String>;
    /// The first taint with that key.
    fn taint(&self, key: &str) -> Option<Taint>;
    /// A quantity of the node's capacity, as the API writes it (`8`, `16Gi`, `7910m`).
    fn capacity(&self, resource: &str) -> Option<String>;
    /// A quantity of the node's allocatable resources, as the API writes it.
    fn allocatable(&self, resource: &str) -> Option<String>;
}

/// A condition of the node's status.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`; a string, because the API does not close the set.
    pub status: String,
    /// The one-word reason its writer gave.
    pub reason: String,
    /// The human-readable detail its writer gave.
    pub message: String,
    /// When the status last changed, by its writer's clock.
    pub last_transition: Option<Timestamp>,
}

/// A taint of the node's spec.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Taint {
    /// Its value, empty for none.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

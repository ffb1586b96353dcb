//! A node made up for a test, a host for what is granted beside it, and cases to judge by.

use std::collections::BTreeMap;

#[cfg(not(target_arch = "wasm32"))]
pub use crate::host::Host;
use crate::{Checker, Condition, Taint, Timestamp, Verdict, parse_settings};

/// A node made up for a test. It starts with a name and nothing else; the fields are open, so that a host
/// can be given the very same node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// The name of the Node object.
    pub name: String,
    /// The uid of the Node object.
    pub uid: String,
    /// The boot id.
    pub boot_id: String,
    /// The machine's identity.
    pub system_uuid: String,
    /// The cloud's identity of the machine.
    pub provider_id: String,
    /// When the Node object was created.
    pub created: Option<Timestamp>,
    /// True if the node is cordoned.
    pub unschedulable: bool,
    /// Labels by key.
    pub labels: BTreeMap<String, String>,
    /// Annotations by key.
    pub annotations: BTreeMap<String, String>,
    /// Conditions with their type, in the order of the status. A type may appear twice, as in real clusters.
    pub conditions: Vec<(String, Condition)>,
    /// Taints with their key, in the order of the spec.
    pub taints: Vec<(String, Taint)>,
    /// Capacity by resource.
    pub capacity: BTreeMap<String, String>,
    /// Allocatable by resource.
    pub allocatable: BTreeMap<String, String>,
}

impl Node {
    /// A node that has a name and nothing else.
    pub fn new(name: impl Into<String>) -> Node {
        Node { name: name.into(), ..Node::default() }
    }

    /// With this label.
    pub fn with_label(mut self, key: &str, value: &str) -> Node {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With this annotation.
    pub fn with_annotation(mut self, key: &str, value: &str) -> Node {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With one more condition, after those it has.
    pub fn with_condition(mut self, kind: &str, status: &str, reason: &str) -> Node {
        let condition = Condition { status: status.to_owned(), reason: reason.to_owned(), ..Condition::default() };
        self.conditions.push((kind.to_owned(), condition));
        self
    }

    /// With one more taint, after those it has.
    pub fn with_taint(mut self, key: &str, value: &str, effect: &str) -> Node {
        self.taints.push((key.to_owned(), Taint { value: value.to_owned(), effect: effect.to_owned() }));
        self
    }

    /// With this much capacity of a resource.
    pub fn with_capacity(mut self, resource: &str, quantity: &str) -> Node {
        self.capacity.insert(resource.to_owned(), quantity.to_owned());
        self
    }

    /// With this much of a resource allocatable.
    pub fn with_allocatable(mut self, resource: &str, quantity: &str) -> Node {
        self.allocatable.insert(resource.to_owned(), quantity.to_owned());
        self
    }
}

impl crate::Node for Node {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn uid(&self) -> String {
        self.uid.clone()
    }

    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }

    fn system_uuid(&self) -> String {
        self.system_uuid.clone()
    }

    fn provider_id(&self) -> String {
        self.provider_id.clone()
    }

    fn created(&self) -> Option<Timestamp> {
        self.created
    }

    fn unschedulable(&self) -> bool {
        self.unschedulable
    }

    fn label(&self, key: &str) -> Option<String> {
        self.labels.get(key).cloned()
    }

    fn annotation(&self, key: &str) -> Option<String> {
        self.annotations.get(key).cloned()
    }

    fn condition(&self, kind: &str) -> Option<Condition> {
        first(&self.conditions, kind)
    }

    fn condition_kinds(&self) -> Vec<String> {
        self.conditions.iter().map(|(kind, _)| kind.clone()).collect()
    }

    fn taint(&self, key: &str) -> Option<Taint> {
        first(&self.taints, key)
    }

    fn capacity(&self, resource: &str) -> Option<String> {
        self.capacity.get(resource).cloned()
    }

    fn allocatable(&self, resource: &str) -> Option<String> {
        self.allocatable.get(resource).cloned()
    }
}

fn first<T: Clone>(entries: &[(String, T)], wanted: &str) -> Option<T> {
    entries.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.clone())
}

/// One row of a truth table, as data: the same rows are judged natively and through the built component.
#[derive(Clone, Debug)]
pub struct Case {
    /// The scenario of the specification it belongs to, as in `R-64`.
    pub scenario: &'static str,
    /// What is special about it, in a few words.
    pub name: String,
    /// The checker's settings, as JSON.
    pub settings: String,
    /// The node to judge.
    pub node: Node,
    /// What must come out.
    pub expected: Verdict,
}

impl Case {
    /// A case without settings.
    pub fn new(scenario: &'static str, name: impl Into<String>, node: Node, expected: Verdict) -> Case {
        Case { scenario, name: name.into(), settings: "{}".to_owned(), node, expected }
    }

    /// The same case with settings, as JSON.
    pub fn with_settings(self, settings: &str) -> Case {
        Case { settings: settings.to_owned(), ..self }
    }

    /// Judges the node natively.
    pub fn judge<C: Checker>(&self) -> Result<Verdict, String> {
        C::judge(&self.node, &parse_settings(&self.settings)?)
    }
}

/// Judges those of the cases that belong to a scenario, and panics at the first one that comes out wrong;
/// also if there is none, for then the test would prove nothing.
#[track_caller]
pub fn check<C: Checker>(cases: &[Case], scenario: &str) {
    let mut judged = 0;
    for case in cases.iter().filter(|case| case.scenario == scenario) {
        let Case { name, settings, node, expected, .. } = case;
        assert_eq!(case.judge::<C>().as_ref(), Ok(expected), "{scenario}, {name}: settings {settings}, {node:#?}");
        judged += 1;
    }
    assert!(judged > 0, "no case belongs to {scenario}");
}

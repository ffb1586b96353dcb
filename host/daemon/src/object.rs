//! From the API server's JSON to the core's [`Node`] and, in [`pod`], to its pods: trimmed, with shared strings, and never failing as a
//! whole: an object that cannot be decoded keeps its name, and says why.

pub mod pod;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use apgar_core::node::{BootId, Condition, Node, NodeName, Pair, Taint, Uid};
use apgar_core::time::Time;
use kube::core::{ClusterResourceScope, ObjectMeta};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A copy of the whole object that kubectl keeps: large, and nothing a checker could ask for.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A kind of object that is listed and watched.
pub trait Kind: Clone + Debug + Send + Sync + 'static {
    /// The kind in objects, as `Node`.
    const KIND: &'static str;
    /// The name in paths, as `nodes`.
    const PLURAL: &'static str;
    /// How many are listed at a time: that many are held as JSON.
    const PAGE: u32;
    /// What is kept of an object.
    type Kept: Send;
    /// What is known of one that is gone.
    type Gone: Send;

    /// Decodes an object. `None` if it cannot be said whose it is.
    fn keep(object: &Value, strings: &mut Interner) -> Option<Self::Kept>;

    /// Who is gone.
    fn gone(object: &Value, strings: &mut Interner) -> Option<Self::Gone>;
}

/// Nodes.
#[derive(Debug, Clone)]
pub struct Nodes;

impl Kind for Nodes {
    const KIND: &'static str = "Node";
    const PLURAL: &'static str = "nodes";
    /// What kubectl and the controllers ask for.
    const PAGE: u32 = 500;
    type Kept = Arc<Node>;
    type Gone = NodeName;

    fn keep(object: &Value, strings: &mut Interner) -> Option<Arc<Node>> {
        decode(object, strings).map(Arc::new)
    }

    fn gone(object: &Value, _: &mut Interner) -> Option<NodeName> {
        object.pointer("/metadata/name").and_then(Value::as_str).map(NodeName::from)
    }
}

/// Strings that many nodes share (keys, zones, condition types and messages), kept once. Most of a fleet's
/// memory is such strings.
#[derive(Debug, Default)]
pub struct Interner {
    known: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Interner {
    /// The one copy of this text.
    pub fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        self.sweep();
        let new: Arc<str> = Arc::from(text);
        self.known.insert(new.clone());
        new
    }

    /// Forgets what no node uses any more, each time the set has doubled: a fleet whose texts keep changing
    /// must not grow it without end.
    fn sweep(&mut self) {
        const FIRST_SWEEP: usize = 4096;
        if self.known.len() >= self.sweep_at.max(FIRST_SWEEP) {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = self.known.len() * 2;
        }
    }
}

/// An object as it came, for kube's client: decoded leniently, so that one bad object never fails a list.
#[derive(Debug, Clone)]
pub struct Raw<K> {
    meta: ObjectMeta,
    /// The whole object.
    pub value: Value,
    kind: PhantomData<K>,
}

impl<'de, K> Deserialize<'de> for Raw<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let meta = ObjectMeta {
            name: text("/metadata/name"),
            uid: text("/metadata/uid"),
            resource_version: text("/metadata/resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, value, kind: PhantomData })
    }
}

impl<K: Kind> kube::Resource for Raw<K> {
    type DynamicType = ();
    /// Those of a namespace are asked for in all of them.
    type Scope = ClusterResourceScope;

    fn kind(&(): &()) -> Cow<'_, str> {
        K::KIND.into()
    }
    fn group(&(): &()) -> Cow<'_, str> {
        "".into()
    }
    fn version(&(): &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural(&(): &()) -> Cow<'_, str> {
        K::PLURAL.into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// Decodes a Node object. `None` if it has no name: then nothing can be said of it.
pub fn decode(object: &Value, strings: &mut Interner) -> Option<Node> {
    let name = object.pointer("/metadata/name")?.as_str()?;
    let decoded = NodeObject::deserialize(object).map_err(|error| error.to_string());
    let node = decoded.and_then(|wire| wire.into_node(name, strings)).unwrap_or_else(|why| {
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        Node { uid: Uid::from(uid), malformed: Some(why.into_boxed_str()), ..Node::named(name) }
    });
    Some(node)
}

#[derive(Deserialize)]
struct NodeObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow)]
    spec: Option<Spec<'a>>,
    #[serde(borrow)]
    status: Option<Status<'a>>,
}

type Texts<'a> = Option<BTreeMap<&'a str, &'a str>>;
type Quantities<'a> = Option<BTreeMap<&'a str, Value>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    uid: Option<&'a str>,
    creation_timestamp: Option<&'a str>,
    #[serde(borrow)]
    labels: Texts<'a>,
    #[serde(borrow)]
    annotations: Texts<'a>,
}

#[derive(Deserialize, Default)]
struct Spec<'a> {
    #[serde(rename = "providerID")]
    provider_id: Option<&'a str>,
    unschedulable: Option<bool>,
    #[serde(borrow)]
    taints: Option<Vec<TaintObject<'a>>>,
}

#[derive(Deserialize)]
struct TaintObject<'a> {
    key: &'a str,
    value: Option<&'a str>,
    effect: Option<&'a str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    #[serde(borrow)]
    capacity: Quantities<'a>,
    #[serde(borrow)]
    allocatable: Quantities<'a>,
    #[serde(borrow)]
    conditions: Option<Vec<ConditionObject<'a>>>,
    #[serde(borrow)]
    node_info: Option<NodeInfo<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConditionObject<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    status: &'a str,
    reason: Option<&'a str>,
    message: Option<&'a str>,
    last_transition_time: Option<&'a str>,
}

#[derive(Deserialize, Default)]
struct NodeInfo<'a> {
    #[serde(rename = "bootID")]
    boot_id: Option<&'a str>,
    #[serde(rename = "systemUUID")]
    system_uuid: Option<&'a str>,
}

impl NodeObject<'_> {
    fn into_node(self, name: &str, strings: &mut Interner) -> Result<Node, String> {
        let Self { metadata, spec, status } = self;
        let spec = spec.unwrap_or_default();
        let status = status.unwrap_or_default();
        let info = status.node_info.unwrap_or_default();
        Ok(Node {
            name: NodeName::from(name),
            uid: Uid::from(metadata.uid.unwrap_or_default()),
            boot_id: BootId::from(info.boot_id.unwrap_or_default()),
            system_uuid: Arc::from(info.system_uuid.unwrap_or_default()),
            provider_id: strings.share(spec.provider_id.unwrap_or_default()),
            created: metadata.creation_timestamp.and_then(moment),
            unschedulable: spec.unschedulable.unwrap_or(false),
            labels: texts(metadata.labels, strings),
            annotations: texts(metadata.annotations, strings),
            taints: spec
                .taints
                .unwrap_or_default()
                .into_iter()
                .map(|t| Taint {
                    key: strings.share(t.key),
                    value: strings.share(t.value.unwrap_or_default()),
                    effect: strings.share(t.effect.unwrap_or_default()),
                })
                .collect(),
            conditions: status
                .conditions
                .unwrap_or_default()
                .into_iter()
                .map(|c| Condition {
                    kind: strings.share(c.kind),
                    status: strings.share(c.status),
                    reason: strings.share(c.reason.unwrap_or_default()),
                    message: strings.share(c.message.unwrap_or_default()),
                    last_transition: c.last_transition_time.and_then(moment),
                })
                .collect(),
            capacity: quantities("capacity", status.capacity, strings)?,
            allocatable: quantities("allocatable", status.allocatable, strings)?,
            malformed: None,
        })
    }
}

fn texts(texts: Texts<'_>, strings: &mut Interner) -> Box<[Pair]> {
    // A BTreeMap is in byte order, which is the order the core searches in.
    texts
        .unwrap_or_default()
        .into_iter()
        .filter(|(key, _)| *key != LAST_APPLIED)
        .map(|(key, value)| (strings.share(key), strings.share(value)))
        .collect()
}

/// A quantity is a string in the API's own JSON and may be a bare number in YAML that people write.
fn quantities(field: &str, found: Quantities<'_>, strings: &mut Interner) -> Result<Box<[Pair]>, String> {
    found
        .unwrap_or_default()
        .into_iter()
        .map(|(resource, value)| {
            let text = match &value {
                Value::String(text) => strings.share(text),
                Value::Number(number) => strings.share(&number.to_string()),
                Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                    return Err(format!(
                        "status.{field}.{resource}: expected a quantity such as \"8\" or \"16Gi\", found {value}"
                    ));
                }
            };
            Ok((strings.share(resource), text))
        })
        .collect()
}

fn moment(text: &str) -> Option<Time> {
    let at: jiff::Timestamp = text.parse().ok()?;
    Some(Time::from_unix_ms(at.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(value: &Value) -> Node {
        decode(value, &mut Interner::default()).unwrap()
    }

    #[test]
    fn a_node_keeps_what_checkers_may_ask_for_and_nothing_that_only_beats() {
        let mut object = json!({
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "7", "labels": {"b": "2", "a": "1"},
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "annotations": {LAST_APPLIED: "{}", "k": "v"}, "managedFields": [{}]},
            "spec": {"providerID": "civo://i", "unschedulable": true, "taints": [{"key": "t", "effect": "NoSchedule"}]},
            "status": {"nodeInfo": {"bootID": "b", "systemUUID": "s"}, "allocatable": {"cpu": 4, "nvidia.com/gpu": "8"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                    "lastHeartbeatTime": "2026-01-02T03:04:05Z", "lastTransitionTime": null}]}
        });
        let first = node(&object);
        assert_eq!(first.label("a"), Some("1"));
        assert_eq!(first.annotation("k"), Some("v"));
        assert_eq!(first.annotation(LAST_APPLIED), None);
        assert_eq!(first.allocatable("cpu"), Some("4"));
        assert_eq!(first.boot_id.as_str(), "b");
        assert_eq!(first.created, Some(Time::from_unix_ms(1_767_323_045_000)));
        assert!(first.unschedulable);
        object["metadata"]["resourceVersion"] = json!("8");
        object["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-01-02T03:05:05Z");
        assert_eq!(node(&object), first);
    }

    #[test]
    fn a_malformed_object_keeps_its_name_and_says_what_is_wrong() {
        let bad = node(&json!({"metadata": {"name": "n", "uid": "u"}, "status": {"conditions": "none"}}));
        assert_eq!((bad.name.as_str(), bad.uid.as_str()), ("n", "u"));
        assert!(bad.malformed.unwrap().contains("expected a sequence"));
        let bad = node(&json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": true}}}));
        assert!(bad.malformed.unwrap().contains("status.capacity.cpu"));
        assert!(decode(&json!({"metadata": {}}), &mut Interner::default()).is_none());
    }

    #[test]
    fn nulls_are_absences() {
        let value = json!({"metadata": {"name": "n", "labels": null}, "spec": null, "status": {"conditions": null}});
        assert_eq!(node(&value), Node::named("n"));
    }

    #[test]
    fn what_no_node_uses_is_forgotten() {
        let mut strings = Interner::default();
        let kept = strings.share("kept");
        for n in 0..100_000 {
            strings.share(&n.to_string());
        }
        assert!(strings.known.len() <= 4096, "{}", strings.known.len());
        assert!(Arc::ptr_eq(&kept, &strings.share("kept")));
    }
}

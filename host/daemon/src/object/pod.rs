//! From the API server's JSON to the core's [`Pod`]. What is missing or odd is empty: nothing follows from a pod by
//! itself, and one that cannot be read must not hide the others on its node.

use std::sync::Arc;

use apgar_core::node::NodeName;
use apgar_core::pods::Pod;
use serde_json::Value;

use super::{Interner, Kind, moment};
use crate::kubernetes::Selection;

/// Pods that are bound to a node and have not ended.
#[derive(Debug, Clone)]
pub struct Pods;

impl Pods {
    /// All pods that are kept, as the API server selects them.
    #[must_use]
    pub fn all() -> Selection {
        Self::selected("spec.nodeName!=")
    }

    /// Those of one node.
    #[must_use]
    pub fn of(node: &NodeName) -> Selection {
        Self::selected(&format!("spec.nodeName={node}"))
    }

    fn selected(bound: &str) -> Selection {
        let fields = format!("{bound},status.phase!=Succeeded,status.phase!=Failed");
        Selection { labels: None, fields: Some(fields) }
    }
}

/// A pod that is gone.
#[derive(Debug)]
pub struct PodName {
    /// Where it was.
    pub node: NodeName,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Kind for Pods {
    const KIND: &'static str = "Pod";
    const PLURAL: &'static str = "pods";
    /// A pod may have a megabyte, and whoever makes it decides.
    const PAGE: u32 = 50;
    type Kept = (NodeName, Pod);
    type Gone = PodName;

    fn keep(object: &Value, strings: &mut Interner) -> Option<(NodeName, Pod)> {
        let PodName { node, namespace, name } = Self::gone(object, strings)?;
        let status = field(object, "status");
        if matches!(text(status, "phase"), "Succeeded" | "Failed") {
            return None;
        }
        let owner = items(object, "/metadata/ownerReferences").find(|owner| *field(owner, "controller") == true);
        let owner = owner.unwrap_or(&Value::Null);
        let ready = items(status, "/conditions").find(|condition| text(condition, "type") == "Ready");
        let reason = given(status, "reason").or_else(|| containers(status).find_map(why));
        let pod = Pod {
            namespace,
            name,
            owner_kind: strings.share(word(owner, "kind")),
            owner_name: strings.share(word(owner, "name")),
            phase: strings.share(word(status, "phase")),
            ready: ready.is_some_and(|condition| text(condition, "status") == "True"),
            restarts: containers(status).fold(0, |sum, container| sum.saturating_add(restarts(container))),
            reason: strings.share(cut(reason.unwrap_or_default())),
            started: moment(text(status, "startTime")),
        };
        Some((node, pod))
    }

    fn gone(object: &Value, strings: &mut Interner) -> Option<PodName> {
        let metadata = field(object, "metadata");
        Some(PodName {
            node: strings.share(given(field(object, "spec"), "nodeName")?).into(),
            namespace: strings.share(text(metadata, "namespace")),
            // Nobody shares it.
            name: Arc::from(given(metadata, "name")?),
        })
    }
}

/// The longest name there is. Whoever may make pods writes them, the names of owners unchecked: they must not fill this
/// process, or what a checker is told of its node.
const WORD: usize = 253;

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    cut(text(value, name))
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(WORD)).unwrap_or_default()
}

/// The statuses of its containers, those that initialise it first: while one of them fails the others wait.
fn containers(status: &Value) -> impl Iterator<Item = &Value> {
    items(status, "/initContainerStatuses").chain(items(status, "/containerStatuses"))
}

fn restarts(container: &Value) -> u32 {
    field(container, "restartCount").as_u64().map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX))
}

/// Why a container does not run. One that did what it was there for is no reason.
fn why(container: &Value) -> Option<&str> {
    let state = field(container, "state");
    let failed = state.get("terminated").filter(|ended| *field(ended, "exitCode") != 0);
    [state.get("waiting"), failed].into_iter().flatten().find_map(|state| given(state, "reason"))
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&Value::Null)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    field(value, name).as_str().unwrap_or_default()
}

fn given<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    Some(text(value, name)).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_core::time::Time;
    use serde_json::json;

    fn pod(status: &Value) -> Option<Pod> {
        let object = json!({
            "metadata": {"namespace": "kube-system", "name": "cni-x", "resourceVersion": "7", "ownerReferences": [
                {"kind": "Other", "name": "o"}, {"kind": "DaemonSet", "name": "cni", "controller": true}]},
            "spec": {"nodeName": "n"},
            "status": status,
        });
        let kept = Pods::keep(&object, &mut Interner::default());
        kept.map(|(node, pod)| {
            assert_eq!((node.as_str(), pod.key()), ("n", ("kube-system", "cni-x")));
            pod
        })
    }

    #[track_caller]
    fn check_reason(status: &Value, expected: &str) {
        assert_eq!(&*pod(status).unwrap().reason, expected, "{status}");
    }

    #[test]
    fn no_text_is_longer_than_a_name() {
        let long = "ä".repeat(200);
        let object = json!({
            "metadata": {"name": "n", "ownerReferences": [{"kind": long, "name": long, "controller": true}]},
            "spec": {"nodeName": "n"},
            "status": {"phase": long, "reason": long},
        });
        let (_, pod) = Pods::keep(&object, &mut Interner::default()).unwrap();
        for text in [&pod.owner_kind, &pod.owner_name, &pod.phase, &pod.reason] {
            assert_eq!(text.len(), WORD - 1, "cut between letters");
        }
    }

    #[test]
    fn a_pod_keeps_what_says_something_about_its_node() {
        let found = pod(&json!({
            "phase": "Running", "startTime": "2026-01-02T03:04:05Z",
            "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "False"}],
            "initContainerStatuses": [
                {"restartCount": 2, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}],
            "containerStatuses": [
                {"restartCount": 0, "state": {"running": {}}},
                {"restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
        }));
        let expected = Pod {
            owner_kind: "DaemonSet".into(),
            owner_name: "cni".into(),
            phase: "Running".into(),
            restarts: 7,
            reason: "CrashLoopBackOff".into(),
            started: Some(Time::from_unix_ms(1_767_323_045_000)),
            ..Pod::named("kube-system", "cni-x")
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn the_reason_is_the_status_s_or_the_first_of_a_container_that_does_not_run() {
        let waits = |reason: &str| json!({"state": {"waiting": {"reason": reason}}});
        let ended = |code: u8| json!({"state": {"terminated": {"exitCode": code, "reason": "OOMKilled"}}});
        check_reason(&json!({"reason": "NodeLost", "containerStatuses": [waits("x")]}), "NodeLost");
        check_reason(&json!({"containerStatuses": [ended(0), ended(137), waits("x")]}), "OOMKilled");
        let init = json!([waits("ImagePullBackOff")]);
        check_reason(
            &json!({"initContainerStatuses": init, "containerStatuses": [waits("PodInitializing")]}),
            "ImagePullBackOff",
        );
        check_reason(&json!({"containerStatuses": [{"state": {"running": {}}}]}), "");
    }

    #[test]
    fn what_is_odd_is_empty_and_what_has_ended_or_no_node_is_not_kept() {
        let bare =
            Pod { owner_kind: "DaemonSet".into(), owner_name: "cni".into(), ..Pod::named("kube-system", "cni-x") };
        let odd = json!({"phase": 1, "conditions": "none", "containerStatuses": [{"restartCount": "x"}, 1]});
        for status in [json!(null), json!({}), odd] {
            assert_eq!(pod(&status), Some(bare.clone()), "{status}");
        }
        assert_eq!(pod(&json!({"phase": "Succeeded"})), None);
        assert_eq!(pod(&json!({"phase": "Failed"})), None);
        let unbound = json!({"metadata": {"name": "x"}, "spec": {"nodeName": ""}});
        assert!(Pods::keep(&unbound, &mut Interner::default()).is_none());
    }
}

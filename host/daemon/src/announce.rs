//! Warnings about plugins as Kubernetes Events on the Pod that the daemon runs in, where `kubectl describe` and every
//! collector of Events find them (`supervision` 6.5).

use std::time::Duration;

use apgar_core::time::Time;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::error::chain;
use crate::events::Happened;
use crate::view::rfc3339;

/// Warnings that may wait for the API server. Those beyond are in the log and in the API all the same.
const WAITING: usize = 64;

/// How long posting one may take.
const POST_LIMIT: Duration = Duration::from_secs(10);

/// The Pod that the daemon runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, if it is known: tools that show a Pod's Events ask for it.
    pub uid: Option<String>,
}

/// Where warnings are handed in.
#[derive(Debug, Clone)]
pub struct Announcer(mpsc::Sender<(Happened, Time)>);

impl Announcer {
    /// One, and what [`run`] takes.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<(Happened, Time)>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Announces a warning, if anybody is there to do it.
    pub fn announce(&self, event: &Happened, now: Time) {
        // Outside a Pod nobody listens; and an API server that is slow must not hold up the loop.
        let _best_effort: Result<(), _> = self.0.try_send((event.clone(), now));
    }
}

/// Posts what is handed in until the daemon ends.
pub async fn run(client: Client, pod: Pod, mut waiting: mpsc::Receiver<(Happened, Time)>) {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Event"), "events");
    let api: Api<DynamicObject> = Api::namespaced_with(client, &pod.namespace, &resource);
    while let Some((event, at)) = waiting.recv().await {
        let object = match serde_json::from_value(object(&pod, &event, at)) {
            Ok(object) => object,
            Err(error) => {
                tracing::error!(event = "event_not_posted", %error, "a Kubernetes Event cannot be made; this is a bug");
                continue;
            }
        };
        let why = match timeout(POST_LIMIT, api.create(&PostParams::default(), &object)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("no answer within {} s", POST_LIMIT.as_secs()),
        };
        tracing::warn!(event = "event_not_posted", kind = event.kind.as_str(), why, "a Kubernetes Event is lost");
    }
}

fn object(pod: &Pod, event: &Happened, at: Time) -> Value {
    let about = event.plugin.as_ref().map(|plugin| format!("{}: ", plugin.as_str())).unwrap_or_default();
    let at = rfc3339(at);
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "apgar-", "namespace": pod.namespace},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
        },
        "type": "Warning",
        "reason": event.kind,
        "message": format!("{about}{}", event.message),
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
        "source": {"component": "apgar"},
        "reportingComponent": "apgar",
        "reportingInstance": pod.name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_core::supervision::EventKind;
    use apgar_sim::{ApiServer, SimConfig};
    use kube::{Config, config::KubeConfigOptions, config::Kubeconfig};

    #[tokio::test]
    async fn a_warning_is_an_event_on_the_pod() {
        let server = ApiServer::start(SimConfig::default()).unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = crate::kubernetes::client(config).unwrap();
        let pod = Pod { namespace: "default".into(), name: "apgar-0".into(), uid: Some("u".into()) };
        let (announcer, waiting) = Announcer::new();
        let crash = Happened::to(&"gpu".into(), EventKind::PluginCrashed, "trap in check on node-7".into());
        announcer.announce(&crash, Time::from_unix_ms(1_700_000_000_000));
        drop(announcer);
        run(client, pod, waiting).await;
        let events = server.objects("v1", "events").unwrap();
        let event = events.get(&events.keys()[0]).unwrap();
        let field = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        assert_eq!(field("/involvedObject/name"), "apgar-0");
        assert_eq!(field("/reason"), "PluginCrashed");
        assert_eq!(field("/type"), "Warning");
        assert_eq!(field("/message"), "gpu: trap in check on node-7");
        assert_eq!(field("/lastTimestamp"), "2023-11-14T22:13:20Z");
    }
}

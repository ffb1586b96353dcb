//! The last look (`gate` 4): between the gate's yes and the executor's call the intent must be on disk, and
//! the live Node must still be the one that was judged, and still sick.

use std::sync::Arc;
use std::time::Duration;

use apgar_core::decision::{Decision, Outcome, Refuser};
use apgar_core::node::{Node, NodeName};
use apgar_core::pods::{self, Pods};
use apgar_core::verdict::Verdict;
use apgar_engine::{Engine, Plugin};
use kube::Api;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::chain;
use crate::executor::Executor;
use crate::kubernetes;
use crate::object::{Interner, Kind, Nodes, Raw, decode, pod};

/// How long reading the live Node may take. Nothing was done yet, so giving up is harmless.
const GET_LIMIT: Duration = Duration::from_secs(10);

/// The bound of a whole call; an executor's own limits stay below it. Past it the outcome is unconfirmed.
const CALL_LIMIT: Duration = Duration::from_secs(45);

/// Looks and calls.
pub struct Actor {
    /// Where live Nodes are read.
    pub api: Api<Raw<Nodes>>,
    /// Where the pods on them are listed, for checkers that read pods.
    pub pods: Api<Raw<pod::Pods>>,
    /// Who runs checkers.
    pub engine: Engine,
    /// Who acts.
    pub executor: Executor,
}

impl Actor {
    /// Carries one decision out. `stored` says whether its intent is on disk; `because` are the checkers that
    /// must still fail, as they serve now.
    pub async fn act(&self, decision: &Decision, because: &[Arc<Plugin>], stored: oneshot::Receiver<bool>) -> Outcome {
        if !stored.await.unwrap_or(false) {
            return refused("StoreUnavailable: the intent could not be written");
        }
        let node = match self.look(decision, because).await {
            Ok(node) => node,
            Err(why) => return refused(&why),
        };
        timeout(CALL_LIMIT, self.executor.call(decision, &node)).await.unwrap_or_else(|_| Outcome::Unconfirmed {
            why: format!("the executor gave no answer within {} s", CALL_LIMIT.as_secs()),
        })
    }

    async fn look(&self, decision: &Decision, because: &[Arc<Plugin>]) -> Result<Arc<Node>, String> {
        let raw = match timeout(GET_LIMIT, self.api.get_opt(decision.node.as_str())).await {
            Ok(Ok(Some(raw))) => raw,
            Ok(Ok(None)) => return Err("the node is gone".to_owned()),
            Ok(Err(error)) => return Err(format!("the live node cannot be read: {}", chain(&error))),
            Err(_) => return Err(format!("the live node was not read within {} s", GET_LIMIT.as_secs())),
        };
        let node = decode(&raw.value, &mut Interner::default()).ok_or("the live node has no name")?;
        same_node(decision, &node)?;
        let node = Arc::new(node);
        let reads_pods = because.iter().any(|plugin| plugin.inputs().has_pods());
        let pods = if reads_pods { Some(self.pods_on(&node.name).await?) } else { None };
        for plugin in because {
            if matches!(self.engine.check_with(plugin, node.clone(), pods.clone()).await.verdict, Verdict::Fail(_)) {
                return Ok(node);
            }
        }
        Err("no failing checker fails on the live node".to_owned())
    }

    async fn pods_on(&self, node: &NodeName) -> Result<Pods, String> {
        let (mut found, mut strings) = (Vec::new(), Interner::default());
        let take = |page: Vec<Raw<pod::Pods>>| {
            found.extend(page.iter().filter_map(|raw| pod::Pods::keep(&raw.value, &mut strings)));
        };
        match timeout(GET_LIMIT, kubernetes::list(&self.pods, &pod::Pods::of(node), take)).await {
            Ok(Ok(_version)) => Ok(Arc::new(pods::by_node(found).remove(node).unwrap_or_default())),
            Ok(Err(why)) => Err(format!("the pods on the live node cannot be listed: {why}")),
            Err(_) => Err(format!("the pods on the live node were not listed within {} s", GET_LIMIT.as_secs())),
        }
    }
}

fn same_node(decision: &Decision, live: &Node) -> Result<(), String> {
    if live.uid != decision.uid {
        return Err(format!("the live node has uid {}, the decision was about {}", live.uid, decision.uid));
    }
    // An empty boot id is a symptom, not a match.
    if live.boot_id != decision.boot_id {
        return Err(format!("the live node has booted since: boot id {}, was {}", live.boot_id, decision.boot_id));
    }
    if live.is_excluded() {
        return Err(format!("the live node is excluded by {}", apgar_core::node::EXCLUDE_KEY));
    }
    live.malformed.as_ref().map_or(Ok(()), |why| Err(format!("the live node cannot be decoded: {why}")))
}

fn refused(why: &str) -> Outcome {
    Outcome::Refused { why: why.to_owned(), by: Refuser::LastLook }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_core::decision::{AttemptId, Step};
    use apgar_core::node::{BootId, NodeName, Uid};

    #[track_caller]
    fn check(uid: &str, boot_id: &str, expected: Option<&str>) {
        let decision = Decision {
            attempt: AttemptId(Arc::from("u/1/1")),
            step: Step::Reboot,
            node: NodeName::from("n"),
            uid: Uid::from("u"),
            boot_id: BootId::from("b"),
            because: Vec::new(),
        };
        let live = Node { uid: Uid::from(uid), boot_id: BootId::from(boot_id), ..Node::named("n") };
        match (same_node(&decision, &live), expected) {
            (Ok(()), None) => {}
            (Err(why), Some(part)) => assert!(why.contains(part), "{why}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn g_16_g_17_another_uid_or_boot_is_another_node() {
        check("u", "b", None);
        check("v", "b", Some("uid v"));
        check("u", "c", Some("boot id c"));
        check("u", "", Some("boot id"));
    }
}

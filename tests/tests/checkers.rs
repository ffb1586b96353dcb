//! The bundled checkers as they are shipped: the truth tables of `recovery` 4.10, through the engine on the built
//! components. The same rows run natively beside each checker.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use apgar_checker::fixture::{self, Case};
use apgar_core::node::{BootId, Condition, Node, NodeName, Pair, Taint, Uid};
use apgar_core::pods::Pod;
use apgar_core::time::Time;
use apgar_core::verdict::Verdict;
use apgar_engine::{Candidate, Capability, Compile, Engine, EngineConfig, Grants, Limits, Source};
use serde_json::Value;

#[tokio::test]
async fn r_64_ready() -> Result<()> {
    check("ready", &apgar_ready::table::cases()).await
}

#[tokio::test]
async fn r_64_disk() -> Result<()> {
    check("disk", &apgar_disk::table::cases()).await
}

#[tokio::test]
async fn r_64_cilium() -> Result<()> {
    check("cilium", &apgar_cilium::table::cases()).await
}

#[tokio::test]
async fn r_64_r_68_gpu() -> Result<()> {
    check("gpu", &apgar_gpu::table::cases()).await
}

/// The guest is made by the kit: what it asks comes through the component as it does natively.
#[tokio::test]
async fn a_checker_of_the_kit_reads_the_pods_it_was_granted() -> Result<()> {
    let bytes = apgar_tests::guests::guest("pods").context("no such guest")?;
    let engine = Engine::new(EngineConfig { cache_dir: None, compile: Compile::InProcess })?;
    let candidate = Candidate {
        key: "pods".into(),
        bytes: bytes.into(),
        settings: serde_json::json!({}),
        grants: Grants::from([Capability::Pods]),
        limits: Limits::default(),
        source: Source::Directory,
    };
    let plugin = engine.load(candidate).await?;
    let asked: Vec<_> = plugin.imports().iter().map(String::as_str).collect();
    ensure!(asked == ["apgar:checker/log@0.1.0", "apgar:checker/pods@0.1.2"], "{asked:?}");
    let pod = |name: &str, reason: &str| Pod {
        owner_kind: "DaemonSet".into(),
        restarts: 7,
        reason: reason.into(),
        ..Pod::named("kube-system", name)
    };
    let pods = Arc::new(vec![pod("cni-1", ""), pod("cni-2", "CrashLoopBackOff")]);
    let done = engine.check_with(&plugin, Arc::new(Node::named("n")), Some(pods)).await;
    ensure!(matches!(&done.verdict, Verdict::Fail(judgement) if &*judgement.reason == "CrashLoop"), "{done:?}");
    let line = done.log_lines.first().map(|line| line.text.as_str());
    ensure!(line == Some("kube-system/cni-2 was restarted 7 times"), "{done:?}");
    let done = engine.check(&plugin, Arc::new(Node::named("n"))).await;
    ensure!(matches!(&done.verdict, Verdict::Unknown(why) if &*why.detail == "the pods of the node are not known"));
    Ok(())
}

async fn check(name: &str, cases: &[Case]) -> Result<()> {
    let bytes = apgar::plugins::bundled().into_iter().find(|(key, _)| *key == name).context("not bundled")?.1;
    let engine = Engine::new(EngineConfig { cache_dir: None, compile: Compile::InProcess })?;
    let mut by_settings: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        by_settings.entry(&case.settings).or_default().push(case);
    }
    let mut judged = 0;
    for (settings, cases) in by_settings {
        let candidate = Candidate {
            key: name.into(),
            bytes: bytes.clone(),
            settings: serde_json::from_str::<Value>(settings)?,
            grants: Grants::new(),
            limits: Limits::default(),
            source: Source::Bundled,
        };
        let plugin = engine.load(candidate).await?;
        ensure!(plugin.pure(), "{name} imports {:?}", plugin.imports());
        for case in cases {
            let done = engine.check(&plugin, Arc::new(host_node(&case.node))).await;
            let found = match &done.verdict {
                Verdict::Pass(judgement) => (true, judgement.reason.to_string()),
                Verdict::Fail(judgement) => (false, judgement.reason.to_string()),
                Verdict::Unknown(unknown) => anyhow::bail!("{}: unknown: {}", case.name, unknown.detail),
            };
            // The engine gives an empty reason a word, so that every label has one (`supervision` 4.2).
            let reason = if case.expected.reason.is_empty() { "Unspecified" } else { &case.expected.reason };
            let expected = (case.expected.healthy, reason.to_owned());
            ensure!(found == expected, "{} with {settings}: {found:?} instead of {expected:?}", case.name);
            judged += 1;
        }
    }
    ensure!(judged == cases.len() && judged > 3, "{judged} of {} cases", cases.len());
    Ok(())
}

fn host_node(node: &fixture::Node) -> Node {
    let pairs = |map: &BTreeMap<String, String>| -> Box<[Pair]> {
        map.iter().map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str()))).collect()
    };
    let moment = |at: Option<u64>| at.and_then(|ms| i64::try_from(ms).ok()).map(Time::from_unix_ms);
    Node {
        name: NodeName::from(node.name.as_str()),
        uid: Uid::from(node.uid.as_str()),
        boot_id: BootId::from(node.boot_id.as_str()),
        system_uuid: Arc::from(node.system_uuid.as_str()),
        provider_id: Arc::from(node.provider_id.as_str()),
        created: moment(node.created),
        unschedulable: node.unschedulable,
        labels: pairs(&node.labels),
        annotations: pairs(&node.annotations),
        taints: node
            .taints
            .iter()
            .map(|(key, taint)| Taint {
                key: Arc::from(key.as_str()),
                value: Arc::from(taint.value.as_str()),
                effect: Arc::from(taint.effect.as_str()),
            })
            .collect(),
        conditions: node
            .conditions
            .iter()
            .map(|(kind, condition)| Condition {
                kind: Arc::from(kind.as_str()),
                status: Arc::from(condition.status.as_str()),
                reason: Arc::from(condition.reason.as_str()),
                message: Arc::from(condition.message.as_str()),
                last_transition: moment(condition.last_transition),
            })
            .collect(),
        capacity: pairs(&node.capacity),
        allocatable: pairs(&node.allocatable),
        malformed: None,
    }
}

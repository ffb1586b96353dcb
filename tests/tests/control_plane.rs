//! The daemon against a real kube-apiserver and etcd, with a fleet that KWOK keeps alive, the access rights of
//! `examples/deploy` and a simulated Civo API.
//!
//! `cargo test -p apgar-tests --release --test control_plane -- --ignored` builds what is missing (Go and kubectl
//! are needed on the PATH), runs everything and stops everything.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use apgar::object::pod::Pods;
use apgar_sim::{Cloud, CloudConfig, Inventory};
use apgar_tests::apgar_binary;
use apgar_tests::control_plane::{ALIVE, ControlPlane, Server, User, free_ports, get, never, repository, wait_for};
use apgar_tests::guests::guest;
use serde_json::{Value, json};

/// Nodes that are nothing special, beside those of `control-plane/nodes`.
const PLAIN_NODES: usize = 200;

/// Those of `control-plane/nodes` that the daemon looks after.
const K3S: &str = "k3s-team-a-3f21-node-pool-9c04-h7x2p";
const GPU: &str = "k3s-team-a-3f21-node-pool-gpu8-q4m9t";
const CILIUM: &str = "k3s-team-b-77e0-node-pool-1d5a-z8w3k";
const EKS: &str = "ip-192-168-10-14.eu-central-1.compute.internal";
const GKE: &str = "gke-platform-default-pool-5e1d2c3b-x9fd";
const OURS: [&str; 5] = [K3S, GPU, CILIUM, EKS, GKE];

/// As metrics count them.
const WATCHED_NODES: f64 = 205.0;

/// The one that it must leave alone, and how the daemon is told.
const SOMEONE_ELSES: &str = "k3s-team-c-d90b-node-pool-66aa-m2n5v";
const SELECTOR: &str = "kubernetes.civo.com/civo-node-pool notin (pool-of-someone-else)";

/// The whole fleet Ready, with Leases; 30 s for a thousand nodes on two free cores.
const FLEET_LIMIT: Duration = Duration::from_secs(180);

/// Anything the daemon does by itself at its next tick or two, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Above the longest wait of the informer's backoff.
const RECONNECT_LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go to build a control plane: cargo test -p apgar-tests --release --test control_plane -- --ignored"]
async fn kwok_keeps_a_fleet_of_every_kind_alive_also_over_a_restart_of_the_api_server() -> Result<()> {
    let mut plane = ControlPlane::start().await?;
    create_fleet(&plane).await?;
    all_leases_are_renewed(&plane).await?;
    // KWOK leaves the status of nodes alone that brought their own.
    let cilium = json_of(&plane, CILIUM).await?;
    assert_eq!(cilium["status"]["conditions"][0]["reason"], "CiliumIsUp");
    let gpu = json_of(&plane, GPU).await?;
    assert_eq!(gpu["status"]["allocatable"]["nvidia.com/gpu"], "8");

    plane.stop_apiserver();
    let refused = plane.kubectl(&["get", "nodes"]).await?;
    assert!(!refused.status.success(), "the API server still answers");
    plane.start_apiserver().await?;
    all_leases_are_renewed(&plane).await?;

    // A silent node stays as it is until it is revived.
    fall_ill(&plane, K3S).await?;
    let lease = leases(&plane).await?.get(K3S).cloned();
    never("KWOK touched a silenced node", Duration::from_secs(15), async || {
        let healed = ready_of(&plane, K3S).await? == "True";
        Ok((healed || leases(&plane).await?.get(K3S).cloned() != lease).then_some(K3S))
    })
    .await?;
    come_back(&plane, K3S, "another-boot").await?;
    wait_for("the Lease of a revived node", SOON, async || {
        Ok((leases(&plane).await?.get(K3S).cloned() != lease).then_some(()))
    })
    .await?;
    plane.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go to build a control plane: cargo test -p apgar-tests --release --test control_plane -- --ignored"]
async fn the_shipped_rights_are_to_read_nodes_and_to_post_events_of_its_own() -> Result<()> {
    let plane = ControlPlane::start().await?;
    plane.create(&plain_node(0)).await?;

    for (verb, allowed) in [
        ("get", true),
        ("list", true),
        ("watch", true),
        ("create", false),
        ("update", false),
        ("patch", false),
        ("delete", false),
        ("deletecollection", false),
    ] {
        check_may(&plane, verb, "nodes", allowed).await?;
    }
    for (verb, resource) in [
        ("patch", "nodes/status"),
        ("list", "pods"),
        ("create", "pods/eviction"),
        ("get", "secrets"),
        ("list", "leases.coordination.k8s.io"),
        ("create", "tokenreviews.authentication.k8s.io"),
        // In its own namespace only.
        ("create", "events"),
    ] {
        check_may(&plane, verb, resource, false).await?;
    }

    let own = plane.kubectl_as(User::Apgar, &["auth", "can-i", "create", "events", "--namespace", "apgar"]).await?;
    assert_eq!(String::from_utf8(own.stdout)?, "yes\n");

    // The API server may say so; it also has to do so.
    let listed = plane.kubectl_as(User::Apgar, &["get", "nodes", "-o", "name"]).await?;
    assert_eq!(String::from_utf8(listed.stdout)?, "node/plain-000\n");
    for refused in [
        &["delete", "node", "plain-000", "--wait=false"][..],
        &["patch", "node", "plain-000", "-p", r#"{"spec":{"unschedulable":true}}"#],
        &["patch", "node", "plain-000", "--subresource=status", "-p", r#"{"status":{"phase":"Pending"}}"#],
        &["get", "secrets", "--all-namespaces"],
    ] {
        let output = plane.kubectl_as(User::Apgar, refused).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("Forbidden"), "{refused:?}: {said}");
    }
    plane.kubectl_ok(&["get", "node", "plain-000"]).await?;

    // The API server accepts the deployment as it is shipped, under the strictest pod security standard.
    let deployment = repository().join("examples/deploy/deployment.yaml").display().to_string();
    let apply = ["apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", &deployment];
    let said = plane.kubectl_ok(&apply).await?;
    assert!(said.contains("deployment.apps/apgar created (server dry run)"), "{said}");

    // And the right to pods, which is apart, with what the informer selects by.
    let pods = repository().join("examples/deploy/rbac-pods.yaml").display().to_string();
    plane.kubectl_ok(&["apply", "-f", &pods]).await?;
    let fields = Pods::all().fields.context("a selector")?;
    let selected = ["get", "pods", "--all-namespaces", "-o", "name", "--field-selector", &fields];
    wait_for("the right to pods", SOON, async || {
        Ok(plane.kubectl_as(User::Apgar, &selected).await?.status.success().then_some(()))
    })
    .await?;
    for (verb, allowed) in [("list", true), ("watch", true), ("get", false), ("delete", false)] {
        check_may(&plane, verb, "pods", allowed).await?;
    }
    plane.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go to build a control plane: cargo test -p apgar-tests --release --test control_plane -- --ignored"]
async fn a_node_that_stays_not_ready_is_rebooted_once_and_its_recovery_is_verified() -> Result<()> {
    let mut plane = ControlPlane::start().await?;
    create_fleet(&plane).await?;
    let civo = start_civo()?;
    let mut daemon =
        Daemon::start(&mut plane, &civo, Variant { threshold: "5s", reboot_wait: "10m", pools: "", more: "" }).await?;
    daemon.sees_the_whole_fleet_healthy().await?;
    let (status, _) = daemon.api(&format!("/api/v1/nodes/{SOMEONE_ELSES}/explain")).await?;
    assert_eq!(status, 404, "a node outside the selector is tracked");

    // Both in the same way and at the same time; only one of them is ours.
    fall_ill(&plane, SOMEONE_ELSES).await?;
    fall_ill(&plane, K3S).await?;
    never("a reboot before the threshold", Duration::from_secs(3), async || Ok(first_reboot(&civo))).await?;
    wait_for("a reboot after the threshold", SOON, async || Ok(first_reboot(&civo))).await?;
    assert_eq!(hard_reboots(&civo), [instance_of(K3S)]);
    daemon.phase_becomes(K3S, "WaitingReboot").await?;
    let attempt = [("node", K3S), ("action", "reboot"), ("mode", "active")];
    assert_eq!(daemon.metric("recovery_actions_total", &attempt).await?, Some(1.0));
    assert_eq!(daemon.metric("nodes", &[("phase", "Healthy")]).await?, Some(WATCHED_NODES - 1.0));

    come_back(&plane, K3S, "the-boot-after").await?;
    daemon.phase_becomes(K3S, "Healthy").await?;
    assert_eq!(daemon.metric("recovery_verifications_total", &[("result", "verified")]).await?, Some(1.0));
    assert_eq!(daemon.metric("recovery_phase", &[("node", K3S), ("phase", "WaitingReboot")]).await?, Some(0.0));
    // Once it has been well for the stability window, nothing of it is remembered.
    wait_for("the incident to be forgiven", SOON, async || {
        Ok(daemon.metric("recovery_attempts", &[("node", K3S)]).await?.is_none().then_some(()))
    })
    .await?;
    assert_eq!(hard_reboots(&civo), [instance_of(K3S)]);

    assert!(daemon.terminate().await?.success(), "SIGTERM is a request, not an accident");
    plane.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go to build a control plane: cargo test -p apgar-tests --release --test control_plane -- --ignored"]
async fn every_kind_of_sickness_gives_its_own_verdict_and_goes_with_its_cause() -> Result<()> {
    let mut plane = ControlPlane::start().await?;
    create_fleet(&plane).await?;
    let civo = start_civo()?;
    let daemon =
        Daemon::start(&mut plane, &civo, Variant { threshold: "1h", reboot_wait: "10m", pools: "", more: "" }).await?;
    daemon.sees_the_whole_fleet_healthy().await?;

    let pressure = |status, reason| condition("DiskPressure", status, reason);
    let gpus = |count| json!({"allocatable": {"nvidia.com/gpu": count}});
    let taint = "node.cilium.io/agent-not-ready:NoSchedule";

    plane.patch_status(K3S, &pressure("True", "KubeletHasDiskPressure")).await?;
    daemon.verdict_becomes(K3S, "DiskPressure", "fail", "KubeletHasDiskPressure").await?;
    plane.patch_status(GPU, &gpus("7")).await?;
    daemon.verdict_becomes(GPU, "GPU", "fail", "GPUCountMismatch").await?;
    plane.kubectl_ok(&["taint", "node", CILIUM, taint]).await?;
    daemon.verdict_becomes(CILIUM, "CiliumAgent", "fail", "AgentNotReadyTaint").await?;
    // What the node controller writes of a kubelet that is silent.
    plane.silence(EKS).await?;
    plane.patch_status(EKS, &condition("Ready", "Unknown", "NodeStatusUnknown")).await?;
    daemon.verdict_becomes(EKS, "NodeReady", "fail", "NodeStatusUnknown").await?;
    // What the node problem detector says is nobody's business but its own.
    plane.patch_status(GKE, &condition("KernelDeadlock", "True", "DockerHung")).await?;
    for node in [K3S, GPU, CILIUM, EKS] {
        daemon.phase_becomes(node, "Unhealthy").await?;
    }
    assert_eq!(daemon.metric("nodes", &[("phase", "Healthy")]).await?, Some(WATCHED_NODES - 4.0));
    // Each of them fails one checker and passes the three others.
    let failing = daemon.failing().await?;
    let expected = [(K3S, "DiskPressure"), (GPU, "GPU"), (CILIUM, "CiliumAgent"), (EKS, "NodeReady")];
    assert_eq!(failing, expected.map(|(node, checker)| (node.to_owned(), checker.to_owned())).into());

    plane.patch_status(K3S, &pressure("False", "KubeletHasNoDiskPressure")).await?;
    plane.patch_status(GPU, &gpus("8")).await?;
    plane.kubectl_ok(&["taint", "node", CILIUM, &format!("{taint}-")]).await?;
    plane.patch_status(EKS, &condition("Ready", "True", "KubeletReady")).await?;
    plane.revive(EKS).await?;
    daemon.sees_the_whole_fleet_healthy().await?;

    // A node that goes takes its series along; one that is drawn into the selection comes with its own.
    plane.kubectl_ok(&["delete", "node", EKS]).await?;
    let pool = "kubernetes.civo.com/civo-node-pool=pool-workers";
    plane.kubectl_ok(&["label", "node", SOMEONE_ELSES, pool, "--overwrite"]).await?;
    wait_for("the new one to be tracked and the old one to be gone", SOON, async || {
        let (gone, _) = daemon.api(&format!("/api/v1/nodes/{EKS}")).await?;
        let (come, _) = daemon.api(&format!("/api/v1/nodes/{SOMEONE_ELSES}")).await?;
        Ok((gone == 404 && come == 200).then_some(()))
    })
    .await?;
    daemon.phase_becomes(SOMEONE_ELSES, "Healthy").await?;
    assert!(!daemon.metrics().await?.contains(EKS), "a series of a node that is gone");
    assert_eq!(hard_reboots(&civo), [""; 0]);
    plane.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go to build a control plane: cargo test -p apgar-tests --release --test control_plane -- --ignored"]
async fn while_the_api_server_is_away_nothing_is_decided_and_afterwards_it_is_decided_once() -> Result<()> {
    let mut plane = ControlPlane::start().await?;
    create_fleet(&plane).await?;
    let civo = start_civo()?;
    let threshold = Duration::from_secs(20);
    let mut daemon =
        Daemon::start(&mut plane, &civo, Variant { threshold: "20s", reboot_wait: "10m", pools: "", more: "" }).await?;
    daemon.sees_the_whole_fleet_healthy().await?;

    fall_ill(&plane, K3S).await?;
    daemon.phase_becomes(K3S, "Unhealthy").await?;
    plane.stop_apiserver();
    let why = wait_for("/readyz to notice", SOON, async || {
        let (status, why) = daemon.readyz().await?;
        Ok((status == 503).then_some(why))
    })
    .await?;
    assert!(why.contains("the node watch is dead, nothing is decided"), "{why}");
    assert_eq!(hard_reboots(&civo), [""; 0], "the threshold was reached before the API server was stopped");

    // Two minutes, six times the threshold: by the wall clock the node would be due.
    never("a decision without evidence", 6 * threshold, async || {
        let (status, _) = daemon.readyz().await?;
        let held = daemon.holds(K3S).await?.contains(&"StaleView".to_owned());
        Ok((status != 503 || !held || first_reboot(&civo).is_some()).then_some((status, held, hard_reboots(&civo))))
    })
    .await?;
    assert!(daemon.server.ended()?.is_none(), "the daemon ended with the API server");
    assert_eq!(get(daemon.metrics_port, "/healthz").await?.0, 200, "alive, only blind");
    let age = daemon.metric("checker_failing_age_seconds", &[("node", K3S), ("checker", "NodeReady")]).await?;
    assert!(age.is_some_and(|age| age < threshold.as_secs_f64()), "the clock ran on without evidence: {age:?}");
    assert_eq!(daemon.phase(K3S).await?, "Unhealthy");
    assert_eq!(daemon.metric("nodes", &[("phase", "Healthy")]).await?, Some(WATCHED_NODES - 1.0));

    plane.start_apiserver().await?;
    wait_for("/readyz to be 200 again", RECONNECT_LIMIT, async || Ok((daemon.readyz().await?.0 == 200).then_some(())))
        .await?;
    wait_for("the sick node's reboot", SOON, async || Ok(first_reboot(&civo))).await?;
    daemon.phase_becomes(K3S, "WaitingReboot").await?;
    never("anything more", Duration::from_secs(5), async || Ok(hard_reboots(&civo).get(1).cloned())).await?;
    assert_eq!(hard_reboots(&civo), [instance_of(K3S)]);
    assert_eq!(daemon.metric("nodes", &[("phase", "Healthy")]).await?, Some(WATCHED_NODES - 1.0));
    plane.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go to build a control plane: cargo test -p apgar-tests --release --test control_plane -- --ignored"]
async fn a_daemon_killed_in_the_wait_window_does_not_reboot_again_before_its_end() -> Result<()> {
    let mut plane = ControlPlane::start().await?;
    create_fleet(&plane).await?;
    let civo = start_civo()?;
    let variant = Variant { threshold: "3s", reboot_wait: "60s", pools: "", more: "" };
    let daemon = Daemon::start(&mut plane, &civo, variant).await?;
    daemon.sees_the_whole_fleet_healthy().await?;
    fall_ill(&plane, K3S).await?;
    wait_for("the first reboot", SOON, async || Ok(first_reboot(&civo))).await?;
    daemon.phase_becomes(K3S, "WaitingReboot").await?;

    let daemon = daemon.kill_and_start_again(&mut plane)?;
    // Half of the window, and ten thresholds: without a memory it would have acted long ago.
    never("a second reboot inside the window", Duration::from_secs(30), async || {
        Ok(hard_reboots(&civo).get(1).cloned())
    })
    .await?;
    daemon.is_ready().await?;
    daemon.phase_becomes(K3S, "WaitingReboot").await?;
    assert_eq!(daemon.metric("recovery_attempts", &[("node", K3S)]).await?, Some(1.0));
    // It was the window that held it back, and nothing else.
    wait_for("the second reboot, after the window", Duration::from_secs(120), async || {
        Ok(hard_reboots(&civo).get(1).cloned())
    })
    .await?;
    assert_eq!(hard_reboots(&civo), [instance_of(K3S), instance_of(K3S)]);
    wait_for("two attempts", SOON, async || {
        Ok((daemon.metric("recovery_attempts", &[("node", K3S)]).await? == Some(2.0)).then_some(()))
    })
    .await?;
    plane.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go to build a control plane: cargo test -p apgar-tests --release --test control_plane -- --ignored"]
async fn a_daemon_without_rights_says_so_and_given_them_looks_after_its_pools() -> Result<()> {
    let mut plane = ControlPlane::start().await?;
    let nodes = repository().join("tests/control-plane/nodes").display().to_string();
    plane.kubectl_ok(&["create", "-f", &nodes]).await?;
    let civo = start_civo()?;
    let variant = Variant { threshold: "5m", reboot_wait: "10m", pools: " pool-workers, ,pool-gpu ", more: "" };
    let daemon = Daemon::start_as(User::Stranger, &mut plane, &civo, variant).await?;
    let why = wait_for("/readyz to name the missing right", SOON, async || {
        let answer = get(daemon.metrics_port, "/readyz").await;
        Ok(answer.ok().map(|(_, why)| why).filter(|why| why.contains("forbidden")))
    })
    .await?;
    assert!(why.contains("cannot list resource") && why.contains("nodes"), "{why}");

    let role = ["create", "clusterrolebinding", "stranger", "--clusterrole=apgar", "--serviceaccount=apgar:stranger"];
    plane.kubectl_ok(&role).await?;
    daemon.is_ready().await?;
    daemon.phase_becomes(K3S, "Healthy").await?;
    daemon.phase_becomes(GPU, "Healthy").await?;
    let (_, tracked) = daemon.api("/api/v1/nodes").await?;
    let tracked = tracked.pointer("/items").and_then(Value::as_array).context("items")?;
    let tracked: Vec<&str> = tracked.iter().map(|item| text(item, "/node")).collect::<Result<_>>()?;
    assert_eq!(tracked, [K3S, GPU], "the variable CIVO_NODE_POOL_IDS names their pools only");
    plane.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go to build a control plane: cargo test -p apgar-tests --release --test control_plane -- --ignored"]
async fn pods_are_unknown_without_the_right_to_them_and_judged_with_it() -> Result<()> {
    let mut plane = ControlPlane::start().await?;
    let nodes = repository().join("tests/control-plane/nodes").display().to_string();
    plane.kubectl_ok(&["create", "-f", &nodes]).await?;
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "cni-1", "namespace": "kube-system", "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "cni", "uid": "cni", "controller": true}]},
        "spec": {"nodeName": K3S, "containers": [{"name": "agent", "image": "cni"}]},
    });
    let civo = start_civo()?;
    let more = "[checker.pods]\ngrants = [\"pods\"]";
    let variant = Variant { threshold: "1h", reboot_wait: "10m", pools: "", more };
    let daemon = Daemon::start(&mut plane, &civo, variant).await?;
    let guest = guest("pods").context("no such guest")?;
    fs::write(plane.dir().join("plugins/pods.wasm"), guest)?;
    daemon.verdict_becomes(K3S, "pods", "unknown", "error").await?;
    wait_for("the log to name the missing right", SOON, async || {
        Ok(daemon.server.log().contains("cannot list resource \\\"pods\\\"").then_some(()))
    })
    .await?;

    let rights = repository().join("examples/deploy/rbac-pods.yaml").display().to_string();
    plane.kubectl_ok(&["apply", "-f", &rights]).await?;
    daemon.verdict_becomes(K3S, "pods", "pass", "NoCrashLoop").await?;

    plane.create(&pod).await?;
    let becomes = async |status: Value| {
        let patch = json!({ "status": status }).to_string();
        let pod = ["patch", "pod", "cni-1", "-n", "kube-system", "--subresource=status", "--type=merge", "-p"];
        plane.kubectl_ok(&[&pod[..], &[&patch]].concat()).await
    };
    let waits = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    becomes(json!({"phase": "Running", "containerStatuses": [
        {"name": "agent", "image": "cni", "imageID": "", "ready": false, "restartCount": 3, "state": waits}]}))
    .await?;
    daemon.verdict_becomes(K3S, "pods", "fail", "CrashLoop").await?;
    daemon.verdict_becomes(GKE, "pods", "pass", "NoCrashLoop").await?;
    // It leaves the selection, though it is still there.
    becomes(json!({"phase": "Failed"})).await?;
    daemon.verdict_becomes(K3S, "pods", "pass", "NoCrashLoop").await?;
    plane.kubectl_ok(&["get", "pod", "cni-1", "-n", "kube-system"]).await?;
    plane.finish();
    Ok(())
}

async fn check_may(plane: &ControlPlane, verb: &str, resource: &str, allowed: bool) -> Result<()> {
    let output = plane.kubectl_as(User::Apgar, &["auth", "can-i", verb, resource, "--all-namespaces"]).await?;
    let answer = String::from_utf8(output.stdout)?;
    ensure!(answer.trim() == if allowed { "yes" } else { "no" }, "{verb} {resource}: {answer}");
    Ok(())
}

/// Creates the fleet and waits until every node is Ready and has a Lease.
async fn create_fleet(plane: &ControlPlane) -> Result<()> {
    let nodes: Vec<Value> = (0..PLAIN_NODES).map(plain_node).collect();
    plane.create(&json!({"apiVersion": "v1", "kind": "List", "items": nodes})).await?;
    let special = repository().join("tests/control-plane/nodes").display().to_string();
    plane.kubectl_ok(&["create", "-f", &special]).await?;
    wait_for("every node to be Ready and to have a Lease", FLEET_LIMIT, async || {
        let all = PLAIN_NODES + OURS.len() + 1;
        let ready = readiness(plane).await?;
        let is_complete = ready.len() == all && ready.values().all(|status| status == "True");
        Ok((is_complete && leases(plane).await?.len() == all).then_some(()))
    })
    .await
}

/// A node that brings only its identity; all else comes from KWOK.
fn plain_node(index: usize) -> Value {
    let name = format!("plain-{index:03}");
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {ALIVE.0: ALIVE.1, "kubernetes.io/os": "linux"}},
        "status": {"nodeInfo": {
            // Not of digits alone: KWOK's stage would read it as a number.
            "machineID": format!("{name}-machine"),
            "systemUUID": format!("{name}-machine"),
            "bootID": format!("{name}-boot-1"),
            "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
            "kubeletVersion": "", "operatingSystem": "", "osImage": "",
        }},
    })
}

/// The status of each node's condition `Ready`.
async fn readiness(plane: &ControlPlane) -> Result<BTreeMap<String, String>> {
    let template =
        r#"{range .items[*]}{.metadata.name}{"\t"}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
    let text = plane.kubectl_ok(&["get", "nodes", "-o", &format!("jsonpath={template}")]).await?;
    Ok(pairs(&text))
}

async fn ready_of(plane: &ControlPlane, node: &str) -> Result<String> {
    let template = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    plane.kubectl_ok(&["get", "node", node, "-o", template]).await
}

/// When each node's Lease was renewed.
async fn leases(plane: &ControlPlane) -> Result<BTreeMap<String, String>> {
    let template = r#"{range .items[*]}{.metadata.name}{"\t"}{.spec.renewTime}{"\n"}{end}"#;
    let arguments = ["get", "leases", "-n", "kube-node-lease", "-o", &format!("jsonpath={template}")];
    Ok(pairs(&plane.kubectl_ok(&arguments).await?))
}

fn pairs(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|line| line.split_once('\t')).map(|(key, value)| (key.into(), value.into())).collect()
}

async fn all_leases_are_renewed(plane: &ControlPlane) -> Result<()> {
    let before = leases(plane).await?;
    ensure!(before.len() == PLAIN_NODES + OURS.len() + 1, "{} leases", before.len());
    wait_for("every Lease to be renewed", FLEET_LIMIT, async || {
        let now = leases(plane).await?;
        Ok(before.iter().all(|(node, renewed)| now.get(node).is_some_and(|now| now != renewed)).then_some(()))
    })
    .await
}

async fn json_of(plane: &ControlPlane, node: &str) -> Result<Value> {
    Ok(serde_json::from_str(&plane.kubectl_ok(&["get", "node", node, "-o", "json"]).await?)?)
}

/// The kubelet of a node dies, and the node's controller notices.
async fn fall_ill(plane: &ControlPlane, node: &str) -> Result<()> {
    plane.silence(node).await?;
    plane.patch_status(node, &condition("Ready", "False", "KubeletNotReady")).await
}

/// The node has booted: its kubelet reports again.
async fn come_back(plane: &ControlPlane, node: &str, boot_id: &str) -> Result<()> {
    plane.patch_status(node, &json!({"nodeInfo": {"bootID": boot_id}})).await?;
    plane.patch_status(node, &condition("Ready", "True", "KubeletReady")).await?;
    plane.revive(node).await
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({"conditions": [{"type": kind, "status": status, "reason": reason}]})
}

/// The simulated Civo API, with a machine for every node of the fleet.
fn start_civo() -> Result<Cloud> {
    let plain = (0..PLAIN_NODES).map(|index| format!("plain-{index:03}"));
    let all: Vec<String> = plain.chain([K3S, GPU, CILIUM, SOMEONE_ELSES].map(str::to_owned)).collect();
    let pairs: Vec<(String, &str)> = all.iter().map(|name| (instance_of(name), name.as_str())).collect();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(id, name)| (id.as_str(), *name)).collect();
    Ok(Cloud::start(CloudConfig::default(), Arc::new(Inventory::new(&pairs)))?)
}

/// The id of a node's machine: for those in `control-plane/nodes`, what their `spec.providerID` says.
fn instance_of(node: &str) -> String {
    let number = match node {
        K3S => 1,
        GPU => 2,
        CILIUM => 3,
        SOMEONE_ELSES => 6,
        plain => return format!("machine-of-{plain}"),
    };
    format!("0b8c4f0e-5a5b-4d6c-9c7a-2f3f6a1d{number:04}")
}

/// The machines whose hard reboot was asked for, in order.
fn hard_reboots(civo: &Cloud) -> Vec<String> {
    let requests = civo.requests();
    let posts = requests.iter().filter(|request| request.is_write());
    posts.map(|post| post.path.trim_start_matches("/v2/instances/").replace("/hard_reboots", "")).collect()
}

fn first_reboot(civo: &Cloud) -> Option<String> {
    hard_reboots(civo).into_iter().next()
}

/// What differs between the tests.
struct Variant {
    /// Of NodeReady.
    threshold: &'static str,
    reboot_wait: &'static str,
    /// `CIVO_NODE_POOL_IDS`; empty: not set.
    pools: &'static str,
    /// More of the configuration file.
    more: &'static str,
}

/// The daemon as a process of its own.
struct Daemon {
    server: Server,
    launch: Launch,
    metrics_port: u16,
    api_port: u16,
}

/// All that is needed to start it again.
struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<&'static str, String>,
}

impl Launch {
    fn start(&self, plane: &mut ControlPlane) -> Result<Server> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(&self.environment);
        plane.spawn("apgar", command)
    }
}

impl Daemon {
    /// Starts it with the access rights of `examples/deploy`, and waits until it is ready.
    async fn start(plane: &mut ControlPlane, civo: &Cloud, variant: Variant) -> Result<Self> {
        let daemon = Self::start_as(User::Apgar, plane, civo, variant).await?;
        daemon.is_ready().await?;
        Ok(daemon)
    }

    async fn start_as(user: User, plane: &mut ControlPlane, civo: &Cloud, variant: Variant) -> Result<Self> {
        let [metrics_port, api_port] = free_ports()?;
        let Variant { threshold, reboot_wait, pools, more } = variant;
        let store = plane.dir().join("state");
        let plugins = plane.dir().join("plugins");
        fs::create_dir_all(&plugins)?;
        let config = plane.dir().join("apgar.toml");
        let text = format!(
            r#"
            [recovery]
            monitor_only = false
            tick = "1s"
            reboot_wait = "{reboot_wait}"
            gpu_reboot_wait = "{reboot_wait}"
            stability_window = "5s"

            [checker.ready]
            threshold = "{threshold}"
            required = true

            [nodes]
            selector = "{SELECTOR}"

            [metrics]
            address = "127.0.0.1"
            port = {metrics_port}

            [api]
            listen = "127.0.0.1:{api_port}"

            [store]
            dir = "{}"

            {more}
            "#,
            store.display()
        );
        fs::write(&config, text)?;
        let settings = civo.config();
        let launch = Launch {
            program: apgar_binary!(),
            arguments: [
                "run".as_ref(),
                "--kubeconfig".as_ref(),
                plane.kubeconfig(user).as_os_str(),
                "--config".as_ref(),
                config.as_os_str(),
                "--plugin-dir".as_ref(),
                plugins.as_os_str(),
            ]
            .map(OsStr::to_owned)
            .into(),
            environment: BTreeMap::from([
                ("CIVO_API_URL", civo.url()),
                ("CIVO_API_KEY", settings.key.clone()),
                ("CIVO_CLUSTER_ID", settings.cluster.clone()),
                ("CIVO_REGION", settings.region.clone()),
                ("CIVO_NODE_POOL_IDS", pools.to_owned()),
            ]),
        };
        let server = launch.start(plane)?;
        Ok(Self { server, launch, metrics_port, api_port })
    }

    /// `kill -9`, and a start with the same settings on the same state.
    fn kill_and_start_again(self, plane: &mut ControlPlane) -> Result<Self> {
        let Self { server, launch, metrics_port, api_port } = self;
        drop(server);
        let server = launch.start(plane)?;
        Ok(Self { server, launch, metrics_port, api_port })
    }

    /// Asks it to stop, as systemd and the kubelet do.
    async fn terminate(&mut self) -> Result<ExitStatus> {
        let asked = Command::new("kill").arg(self.server.id().to_string()).status()?;
        ensure!(asked.success(), "kill: {asked}");
        wait_for("the daemon to stop", SOON, async || self.server.ended()).await
    }

    async fn is_ready(&self) -> Result<()> {
        // Until it listens, nobody answers.
        let look = async || Ok(self.readyz().await.is_ok_and(|(status, _)| status == 200).then_some(()));
        wait_for("/readyz", RECONNECT_LIMIT, look).await.with_context(|| self.server.log_tail())
    }

    async fn readyz(&self) -> Result<(u16, String)> {
        get(self.metrics_port, "/readyz").await
    }

    async fn metrics(&self) -> Result<String> {
        Ok(get(self.metrics_port, "/metrics").await?.1)
    }

    /// The value of the one series with exactly these labels, in whatever order.
    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
        let wanted: BTreeMap<&str, &str> = labels.iter().copied().collect();
        let metrics = self.metrics().await?;
        let mut found = series(&metrics, name).filter(|(labels, _)| *labels == wanted);
        Ok(found.next().map(|(_, value)| value))
    }

    async fn api(&self, path: &str) -> Result<(u16, Value)> {
        let (status, body) = get(self.api_port, path).await?;
        Ok((status, serde_json::from_str(&body).with_context(|| body.clone())?))
    }

    async fn explain(&self, node: &str) -> Result<Value> {
        let (status, answer) = self.api(&format!("/api/v1/nodes/{node}/explain")).await?;
        ensure!(status == 200, "{node}: {answer}");
        Ok(answer)
    }

    async fn phase(&self, node: &str) -> Result<String> {
        let answer = self.explain(node).await?;
        text(&answer, "/phase").map(str::to_owned)
    }

    /// In the API and in the metrics.
    async fn phase_becomes(&self, node: &str, phase: &str) -> Result<()> {
        let look = async || {
            let labels = [("node", node), ("phase", phase)];
            let is_it = self.metric("recovery_phase", &labels).await? == Some(1.0) && self.phase(node).await? == phase;
            Ok(is_it.then_some(()))
        };
        let waited = wait_for(&format!("{node} to be {phase}"), SOON, look).await;
        waited.with_context(|| self.server.log_tail())
    }

    async fn verdict_becomes(&self, node: &str, checker: &str, verdict: &str, reason: &str) -> Result<()> {
        let look = async || {
            let answer = self.explain(node).await?;
            let checkers = answer.pointer("/checkers").and_then(Value::as_array).context("checkers")?;
            let is_it = |said: &Value| {
                let says = |field: &str, wanted| said.get(field).and_then(Value::as_str) == Some(wanted);
                says("checker", checker) && says("verdict", verdict) && says("reason", reason)
            };
            Ok(checkers.iter().any(is_it).then_some(()))
        };
        wait_for(&format!("{checker} to say {verdict} ({reason}) of {node}"), SOON, look).await
    }

    async fn holds(&self, node: &str) -> Result<Vec<String>> {
        let answer = self.explain(node).await?;
        let holds = answer.pointer("/holds").and_then(Value::as_array).context("holds")?;
        holds.iter().map(|hold| text(hold, "/name").map(str::to_owned)).collect()
    }

    /// Node and checker of every verdict that is not a pass.
    async fn failing(&self) -> Result<BTreeSet<(String, String)>> {
        let (_, answer) = self.api("/api/v1/nodes").await?;
        let mut failing = BTreeSet::new();
        for item in answer.pointer("/items").and_then(Value::as_array).context("items")? {
            for (checker, verdict) in item.pointer("/checkers").and_then(Value::as_object).context("checkers")? {
                if verdict != "pass" {
                    failing.insert((text(item, "/node")?.to_owned(), checker.clone()));
                }
            }
        }
        Ok(failing)
    }

    async fn sees_the_whole_fleet_healthy(&self) -> Result<()> {
        let look = async || {
            let healthy = self.metric("nodes", &[("phase", "Healthy")]).await?;
            Ok((healthy == Some(WATCHED_NODES)).then_some(()))
        };
        let waited = wait_for("the whole fleet to be healthy", SOON, look).await;
        waited.with_context(|| self.server.log_tail())?;
        let failing = self.failing().await?;
        ensure!(failing.is_empty(), "{failing:?}");
        Ok(())
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer} in {value}"))
}

/// The series of a metric, by their labels.
fn series<'a>(metrics: &'a str, name: &str) -> impl Iterator<Item = (BTreeMap<&'a str, &'a str>, f64)> {
    let begin = format!("civo_node_agent_{name}{{");
    metrics.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(&begin)?.rsplit_once("} ")?;
        let labels = labels.split(',').filter_map(|pair| pair.trim_end_matches('"').split_once("=\""));
        Some((labels.collect(), value.parse().ok()?))
    })
}

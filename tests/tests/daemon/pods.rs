//! Pods as an operator sees them: watched only for a checker that reads them, and asked about only where they change.

use apgar_sim::{Effect, Rule};

use super::*;

/// Only observes, so that nobody reboots a node for a verdict.
fn config(more: &str) -> String {
    format!("{}{more}", FAST.replace("monitor_only = false", "monitor_only = true"))
}

const GRANTED: &str = "[checker.pods]\ngrants = [\"pods\"]\n";

impl World {
    /// A pod of a DaemonSet on a node, in this state.
    fn pod(&self, name: &str, node: &str, state: &Value) -> Result<()> {
        let pod = json!({
            "metadata": {"namespace": "kube-system", "name": name,
                "ownerReferences": [{"kind": "DaemonSet", "name": "cni", "controller": true}]},
            "spec": {"nodeName": node},
            "status": {"phase": "Running", "containerStatuses": [{"restartCount": 3, "state": state}]},
        });
        self.server.pods().apply(pod).map_err(|r| anyhow::anyhow!("{r}"))?;
        Ok(())
    }

    /// Requests for pods, with their selectors.
    fn asked_for_pods(&self) -> Vec<String> {
        let requests = self.server.requests().into_iter().filter(|request| request.path.contains("pods"));
        requests.map(|request| request.to_string()).collect()
    }
}

impl Daemon {
    async fn until_said(&self, node: &str, reason: &str) -> Result<()> {
        let line =
            format!("civo_node_agent_checker_reason_info{{node=\"{node}\",checker=\"pods\",reason=\"{reason}\"}} 1");
        self.until_metric(&line).await
    }

    async fn until_unknown(&self, node: &str) -> Result<()> {
        wait_for("the pods to be unknown", SOON, async || {
            let explained = self.api(&format!("/api/v1/nodes/{node}/explain")).await?;
            let checkers = explained.get("checkers").and_then(Value::as_array).context("checkers")?;
            let said = checkers.iter().find(|checker| checker["checker"] == "pods");
            Ok(said.filter(|said| said["detail"] == "the pods of the node are not known").map(|_| ()))
        })
        .await
    }

    /// How many checks of pods there were, once two ticks have brought no more.
    async fn settled_checks(&self, node: &str) -> Result<u64> {
        let mut last = (u64::MAX, 0);
        wait_for("the checks to end", SOON, async || {
            let plugin = self.plugin("pods").await?.context("no such plugin")?;
            let checks = plugin.get("calls").and_then(Value::as_u64).context("calls")?;
            let counts = self.metrics().await?;
            let of = format!("civo_node_agent_health_check_total{{node=\"{node}\",checker=\"pods\"");
            let counts = counts.lines().filter(|line| line.starts_with(&of));
            let ticks = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>();
            if checks != last.0 {
                last = (checks, ticks);
            }
            Ok((ticks >= last.1 + 2).then_some(checks))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_watched_while_a_checker_reads_them_and_asked_about_where_they_change() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let (sick, well) = (world.name(0)?, world.name(1)?);
    let (runs, crashes) = (json!({"running": {}}), json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    world.pod("cni-1", &sick, &runs)?;
    world.pod("cni-2", &well, &runs)?;
    let daemon = world.start(&config(GRANTED)).await?;
    daemon.until_phase(&sick, "Healthy").await?;
    assert_eq!(world.asked_for_pods(), [""; 0], "nobody reads them");

    world.drop_in("pods.wasm", &guest("pods")?)?;
    for node in [&sick, &well] {
        daemon.until_said(node, "NoCrashLoop").await?;
    }
    let selector = "fieldSelector=spec.nodeName%21%3D%2Cstatus.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed";
    let asked = world.asked_for_pods();
    ensure!(asked.len() >= 2 && asked.iter().all(|request| request.contains(selector)), "{asked:#?}");
    ensure!(world.server.pods().watchers() == 1, "{} watches", world.server.pods().watchers());

    let before = daemon.settled_checks(&sick).await?;
    world.pod("cni-1", &sick, &crashes)?;
    daemon.until_said(&sick, "CrashLoop").await?;
    assert_eq!(daemon.settled_checks(&sick).await?, before + 1, "one node changed");
    daemon.until_said(&well, "NoCrashLoop").await?;
    // Gone, as when it has ended: what it did is no more.
    ensure!(world.server.pods().delete("kube-system/cni-1"), "no such pod");
    daemon.until_said(&sick, "NoCrashLoop").await?;
    assert_eq!(daemon.settled_checks(&sick).await?, before + 2);

    fs::remove_file(world.plugins().join("pods.wasm"))?;
    wait_for("the watch to end", SOON, async || Ok((world.server.pods().watchers() == 0).then_some(()))).await?;
    wait_for("its verdicts to go", SOON, async || {
        Ok((!daemon.metrics().await?.contains("checker=\"pods\"")).then_some(()))
    })
    .await?;
    world.server.clear_requests();
    never("a request for pods", Duration::from_secs(3), async || Ok(world.asked_for_pods().pop())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_may_not_be_listed_or_are_not_heard_of_are_unknown() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let node = world.name(0)?;
    world.pod("cni-1", &node, &json!({"running": {}}))?;
    let denied = Effect::Status { code: 403, retry_after: None };
    let rule = world.server.faults().add(Rule::new(denied).path("/api/v1/pods"));
    world.drop_in("pods.wasm", &guest("pods")?)?;
    let daemon = world.start(&config(GRANTED)).await?;
    daemon.until_unknown(&node).await?;
    let right = r#"cannot list resource \"pods\""#;
    wait_for("the log to name the right", SOON, async || {
        Ok(daemon.log()?.lines().any(|line| line.contains("pods_lost") && line.contains(right)).then_some(()))
    })
    .await?;
    world.server.faults().remove(rule);
    daemon.until_said(&node, "NoCrashLoop").await?;

    // The watch ends, and does not open again.
    world.server.faults().add(Rule::new(Effect::Hang).path("/api/v1/pods"));
    world.server.faults().drop_watches();
    daemon.until_unknown(&node).await?;
    ensure!(daemon.ready().await? == 200, "nodes are heard of");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_rebooted_for_its_pods_by_a_last_look_that_has_them() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let node = world.name(0)?;
    world.drop_in("pods.wasm", &guest("pods")?)?;
    let daemon = world.start(&format!("{FAST}{GRANTED}")).await?;
    world.pod("cni-1", &node, &json!({"waiting": {"reason": "CrashLoopBackOff"}}))?;
    daemon.until_phase(&node, "WaitingReboot").await?;
    let id = &world.fleet.infos()[0].instance;
    assert_eq!(world.reboots(), [format!("/v2/instances/{id}/hard_reboots")]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_grant_it_is_refused_with_the_line_that_grants_it_and_nothing_is_watched() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    world.drop_in("pods.wasm", &guest("pods")?)?;
    let daemon = world.start(&config("")).await?;
    let refusal = wait_for("pods to be refused", SOON, async || {
        Ok(daemon.plugin("pods").await?.map(|plugin| plugin["refusal"].clone()).filter(|f| !f.is_null()))
    })
    .await?;
    ensure!(refusal["reason"] == "import-not-granted", "{refusal}");
    let message = refusal["message"].as_str().context("a message")?;
    ensure!(message.ends_with("To allow it: [checker.pods] grants = [\"pods\"]"), "{message}");
    daemon.until_phase(&world.name(0)?, "Healthy").await?;
    assert_eq!(world.asked_for_pods(), [""; 0]);
    Ok(())
}

#[test]
fn apgar_inspects_a_checker_of_pods_and_checks_with_the_pods_it_is_given() -> Result<()> {
    let home = tempfile::tempdir()?;
    let path = |name: &str| home.path().join(name);
    fs::write(path("pods.wasm"), guest("pods")?)?;
    fs::write(path("apgar.toml"), GRANTED)?;
    let apgar = |arguments: &[&str]| {
        let mut command = Command::new(apgar_binary!());
        command.args(arguments).arg("--config").arg(path("apgar.toml")).env("XDG_CACHE_HOME", home.path());
        command
    };
    let said = succeed(apgar(&["plugin", "inspect"]).arg(path("pods.wasm")))?;
    ensure!(said.contains("a function of the node, the pods on it and settings"), "{said}");

    let node = |name: &str| json!({"kind": "Node", "metadata": {"name": name}});
    let mut pod = json!({
        "kind": "Pod",
        "metadata": {"namespace": "kube-system", "name": "cni-1",
            "ownerReferences": [{"kind": "DaemonSet", "name": "cni", "controller": true}]},
        "spec": {"nodeName": "a"},
        "status": {"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
    });
    let said = |items: &[Value]| -> Result<Vec<String>> {
        fs::write(path("objects.json"), json!({"kind": "List", "items": items}).to_string())?;
        let mut check = apgar(&["check", "--output", "json"]);
        let output = check.arg(path("objects.json")).arg("--plugin").arg(path("pods.wasm")).output()?;
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(rows
            .iter()
            .filter(|row| row["checker"] == "pods")
            .map(|row| format!("{} {}", row["node"], row["reason"]))
            .collect())
    };
    assert_eq!(said(&[node("a"), pod.clone(), node("b")])?, [r#""a" "CrashLoop""#, r#""b" "NoCrashLoop""#]);
    assert_eq!(said(&[node("a")])?, [r#""a" "the pods of the node are not known""#]);
    pod["status"]["phase"] = json!("Failed");
    assert_eq!(said(&[node("a"), pod])?, [r#""a" "NoCrashLoop""#], "it has ended");
    Ok(())
}

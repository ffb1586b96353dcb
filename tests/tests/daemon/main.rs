//! The daemon as it is shipped, a process of its own, against the simulated cluster: what an operator sees.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use apgar_sim::{
    ApiServer, Cloud, CloudConfig, Fault, FaultKind, Fleet, Pace, Partition, Running, Shape, SimConfig, Story,
};
use apgar_tests::{apgar_binary, free_ports, get, guests, never, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

mod pods;
mod supervision;

/// Anything that happens at the next tick or two, on a busy machine.
const SOON: Duration = Duration::from_secs(180);

/// Times of Kubernetes, this many times faster: a silent kubelet is Unknown after 2 s, a boot takes 4.5.
const SPEED: f64 = 20.0;

/// Rules for an impatient test: thresholds of 2 s at a tick of 1 s.
const FAST: &str = r#"
[recovery]
monitor_only = false
tick = "1s"
reboot_wait = "20s"
stability_window = "3s"
[checkers]
debounce = "50ms"
stable_gap = "50ms"
[checkers.defaults]
threshold = "2s"
"#;

/// A cluster, its cloud, and a folder for a daemon.
struct World {
    server: ApiServer,
    fleet: Running,
    cloud: Cloud,
    home: TempDir,
    program: PathBuf,
}

impl World {
    async fn new(story: &Story) -> Result<Self> {
        let program = apgar_binary!();
        let server = ApiServer::start(SimConfig::default())?;
        let shapes = [(Shape::CivoFlannel, 4), (Shape::CivoCilium, 2), (Shape::CivoGpu, 1)];
        let fleet =
            Fleet::new(1, &shapes).run(&server, Pace::times(SPEED), story).map_err(|r| anyhow::anyhow!("{r}"))?;
        let cloud = Cloud::start(CloudConfig::default(), fleet.machines())?;
        let home = tempfile::tempdir()?;
        fs::create_dir(home.path().join("plugins"))?;
        fs::write(home.path().join("kubeconfig"), server.kubeconfig())?;
        Ok(Self { server, fleet, cloud, home, program })
    }

    fn plugins(&self) -> PathBuf {
        self.home.path().join("plugins")
    }

    /// Puts a file into the plugin directory, whole.
    fn drop_in(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let aside = self.home.path().join("aside");
        fs::write(&aside, bytes)?;
        fs::rename(aside, self.plugins().join(name))?;
        Ok(())
    }

    fn command(&self, config: &str, metrics: u16, api: u16) -> Result<Command> {
        let file = self.home.path().join("apgar.toml");
        fs::write(&file, config)?;
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .arg("run")
            .arg("--config")
            .arg(file)
            .arg("--kubeconfig")
            .arg(self.home.path().join("kubeconfig"))
            .arg("--plugin-dir")
            .arg(self.plugins())
            .arg("--store-dir")
            .arg(self.home.path().join("state"))
            .args(["--metrics-port", &metrics.to_string(), "--api-listen", &format!("127.0.0.1:{api}")])
            .args(["--log-format", "json"])
            .env("CIVO_API_KEY", &self.cloud.config().key)
            .env("CIVO_API_URL", self.cloud.url())
            .env("CIVO_CLUSTER_ID", &self.cloud.config().cluster)
            .env("CIVO_REGION", &self.cloud.config().region);
        Ok(command)
    }

    /// Starts a daemon and waits until it is ready.
    async fn start(&self, config: &str) -> Result<Daemon> {
        let daemon = self.launch(config)?;
        wait_for("the daemon to be ready", SOON, async || Ok((daemon.ready().await? == 200).then_some(()))).await?;
        Ok(daemon)
    }

    fn launch(&self, config: &str) -> Result<Daemon> {
        let [metrics, api] = free_ports()?;
        let log = self.home.path().join("log");
        let file = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let child = self.command(config, metrics, api)?.stderr(file).stdout(Stdio::null()).spawn()?;
        Ok(Daemon { child, metrics, api, log })
    }

    /// Runs a daemon that must not start.
    fn fails(&self, config: &str, metrics: u16) -> Result<Output> {
        let [api] = free_ports()?;
        Ok(self.command(config, metrics, api)?.output()?)
    }

    fn name(&self, index: usize) -> Result<String> {
        Ok(self.fleet.infos().get(index).context("no such node")?.name.clone())
    }

    /// POSTs at the cloud: the reboots that were ordered.
    fn reboots(&self) -> Vec<String> {
        self.cloud.requests().iter().filter(|call| call.method == "POST").map(|call| call.path.clone()).collect()
    }
}

/// A running daemon; killed when dropped.
struct Daemon {
    child: Child,
    metrics: u16,
    api: u16,
    log: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended: std::io::Result<()> = self.child.kill();
        let _reaped: std::io::Result<std::process::ExitStatus> = self.child.wait();
    }
}

impl Daemon {
    /// The status of /readyz; 0 while nothing answers.
    async fn ready(&self) -> Result<u16> {
        Ok(get(self.metrics, "/readyz").await.map_or(0, |(status, _)| status))
    }

    async fn metrics(&self) -> Result<String> {
        Ok(get(self.metrics, "/metrics").await?.1)
    }

    async fn has_metric(&self, line: &str) -> Result<Option<()>> {
        Ok(self.metrics().await?.lines().any(|found| found == line).then_some(()))
    }

    async fn until_metric(&self, line: &str) -> Result<()> {
        wait_for(line, SOON, async || self.has_metric(line).await).await
    }

    async fn until_phase(&self, node: &str, phase: &str) -> Result<()> {
        self.until_metric(&format!("civo_node_agent_recovery_phase{{node=\"{node}\",phase=\"{phase}\"}} 1")).await
    }

    async fn api(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&get(self.api, path).await?.1)?)
    }

    async fn plugin(&self, name: &str) -> Result<Option<Value>> {
        let plugins = self.api("/api/v1/plugins").await?;
        let items = plugins.get("items").and_then(Value::as_array).context("no items")?;
        Ok(items.iter().find(|plugin| plugin["name"] == name).cloned())
    }

    fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// Ends as SIGTERM asks, and says how.
    fn terminate(mut self) -> Result<std::process::ExitStatus> {
        let pid = self.child.id().to_string();
        ensure!(Command::new("kill").args(["-TERM", &pid]).status()?.success(), "kill -TERM");
        Ok(self.child.wait()?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_configuration_it_only_observes_under_the_names_of_the_agent_it_replaces() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let daemon = world.start("").await?;
    let node = world.name(0)?;
    daemon.until_phase(&node, "Healthy").await?;
    daemon.until_metric("civo_node_agent_nodes{phase=\"Healthy\"} 7").await?;
    let metrics = daemon.metrics().await?;
    for line in [
        format!("civo_node_agent_info{{version=\"{}\",cluster_id=\"sim-cluster\"}} 1", env!("CARGO_PKG_VERSION")),
        "civo_node_agent_reconcile_errors_total{reason=\"list_nodes\"} 0".to_owned(),
        format!(
            "civo_node_agent_checker_reason_info{{node=\"{node}\",checker=\"NodeReady\",reason=\"KubeletReady\"}} 1"
        ),
    ] {
        ensure!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
    }
    let counted = format!("civo_node_agent_health_check_total{{node=\"{node}\",checker=\"GPU\",result=\"pass\"}} ");
    ensure!(metrics.contains(&counted), "{counted} is missing in\n{metrics}");
    ensure!(metrics.lines().filter(|l| l.starts_with("# TYPE")).all(|l| l.contains(" civo_node_agent_")), "{metrics}");
    ensure!(daemon.log()?.contains("\"mode\":\"monitor\""), "{}", daemon.log()?);
    // Any path of the metrics port but the probes.
    ensure!(get(daemon.metrics, "/whatever").await?.1.contains("civo_node_agent_info"));
    ensure!(daemon.terminate()?.success(), "SIGTERM is no failure");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_node_is_rebooted_once_and_healthy_again() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let daemon = world.start(FAST).await?;
    let node = world.name(0)?;
    daemon.until_phase(&node, "Healthy").await?;
    world.fleet.strike(&node, Fault::new(FaultKind::NotReady)).map_err(|r| anyhow::anyhow!("{r}"))?;
    daemon.until_phase(&node, "WaitingReboot").await?;
    let explained = daemon.api(&format!("/api/v1/nodes/{node}/explain")).await?;
    ensure!(explained["holds"].to_string().contains("Window"), "{explained:#}");
    daemon.until_phase(&node, "Healthy").await?;
    daemon.until_metric("civo_node_agent_recovery_verifications_total{result=\"verified\"} 1").await?;
    let action =
        format!("civo_node_agent_recovery_actions_total{{action=\"reboot\",mode=\"active\",node=\"{node}\"}} 1");
    daemon.until_metric(&action).await?;
    let id = &world.fleet.infos()[0].instance;
    assert_eq!(world.reboots(), [format!("/v2/instances/{id}/hard_reboots")]);
    // The agent that is replaced said it in these words.
    let log = daemon.log()?;
    for message in ["Node unhealthy detected", "Reboot initiated", "Waiting for reboot effect", "Node recovered"] {
        ensure!(log.contains(message), "{message} is missing in\n{log}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn checkers_come_and_go_without_a_restart_and_bad_ones_change_nothing() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let daemon = world.start(FAST).await?;
    let node = world.name(0)?;
    daemon.until_phase(&node, "Healthy").await?;
    let disk = apgar::plugins::bundled().into_iter().find(|(name, _)| *name == "disk").context("disk")?.1;

    world.drop_in("mine.wasm", &disk)?;
    let series = format!(
        "civo_node_agent_checker_reason_info{{node=\"{node}\",checker=\"mine\",reason=\"KubeletHasNoDiskPressure\"}} 1"
    );
    daemon.until_metric(&series).await?;

    let core = vec![0, b'a', b's', b'm', 1, 0, 0, 0];
    let bad: [(&str, Vec<u8>, &str); 4] = [
        ("empty", Vec::new(), "not-a-component"),
        ("truncated", disk[..disk.len() / 2].to_vec(), "not-a-component"),
        ("core", core, "not-a-component"),
        ("stranger", guest("imports-http")?, "import-not-granted"),
    ];
    for (name, bytes, reason) in bad {
        world.drop_in(&format!("{name}.wasm"), &bytes)?;
        let refusal = wait_for(&format!("{name} to be refused"), SOON, async || {
            Ok(daemon.plugin(name).await?.map(|plugin| plugin["refusal"].clone()).filter(|f| !f.is_null()))
        })
        .await?;
        ensure!(refusal["reason"] == reason, "{name}: {refusal}");
        ensure!(daemon.log()?.contains(&format!("\"plugin\":\"{name}\"")), "{name} is not in the log");
    }
    // A hole of 200 MB is refused by its size, before a byte of it is read.
    let big = fs::File::create(world.plugins().join("big.wasm"))?;
    big.set_len(200 << 20)?;
    wait_for("big to be refused", SOON, async || {
        Ok(daemon.plugin("big").await?.filter(|plugin| plugin["refusal"]["reason"] == "too-large"))
    })
    .await?;
    // A name that no plugin may have is shown with the directory, and makes no series.
    world.drop_in("Bad_Name.wasm", &disk)?;
    wait_for("Bad_Name to be refused", SOON, async || {
        Ok(daemon.api("/api/v1/plugins").await?["directory"].to_string().contains("Bad_Name").then_some(()))
    })
    .await?;
    ensure!(!daemon.metrics().await?.contains("Bad_Name"), "{}", daemon.metrics().await?);
    // None of them is anybody's verdict: nobody counted on them.
    let explained = daemon.api(&format!("/api/v1/nodes/{node}/explain")).await?;
    ensure!(explained["checkers"].as_array().is_some_and(|checkers| checkers.len() == 5), "{explained:#}");
    // A bad file over a good one: the good one answers on.
    world.drop_in("mine.wasm", b"garbage")?;
    let mine = wait_for("garbage to be refused", SOON, async || {
        Ok(daemon.plugin("mine").await?.filter(|plugin| !plugin["refusal"].is_null()))
    })
    .await?;
    ensure!(mine["state"] == "Running", "{mine}");
    ensure!(daemon.has_metric(&series).await?.is_some(), "the verdict of the last good one is gone");
    ensure!(world.reboots().is_empty(), "{:?}", world.reboots());

    fs::remove_file(world.plugins().join("mine.wasm"))?;
    wait_for("mine to be removed", SOON, async || {
        Ok((!daemon.metrics().await?.contains("checker=\"mine\"")).then_some(()))
    })
    .await
}

/// Runs a command that must end well, and gives what it printed.
fn succeed(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output()?;
    ensure!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    Ok(String::from_utf8(stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn p_71_with_trusted_keys_only_signed_files_serve() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let (key, file) = (world.home.path().join("key"), world.home.path().join("mine.wasm"));
    let disk = apgar::plugins::bundled().into_iter().find(|(name, _)| *name == "disk").context("disk")?.1;
    fs::write(&file, &disk)?;
    let apgar = || Command::new(&world.program);
    let printed = succeed(apgar().args(["plugin", "keygen"]).arg(&key))?;
    let trusted = printed.lines().last().context("the key to trust")?.to_owned();
    ensure!(!apgar().args(["plugin", "keygen"]).arg(&key).output()?.status.success(), "a key was overwritten");
    succeed(apgar().args(["plugin", "sign"]).arg(&file).arg("--key").arg(&key))?;

    let daemon = world.start(&FAST.replace("[checkers]\n", &format!("[checkers]\n{trusted}\n"))).await?;
    world.drop_in("unsigned.wasm", &disk)?;
    world.drop_in("mine.wasm", &disk)?;
    // The signature comes after the file, as a copy of two files does.
    world.drop_in("mine.wasm.sig", &fs::read(world.home.path().join("mine.wasm.sig"))?)?;
    wait_for("mine to serve", SOON, async || {
        Ok(daemon.plugin("mine").await?.filter(|plugin| plugin["state"] == "Running"))
    })
    .await?;
    wait_for("the other to be refused", SOON, async || {
        Ok(daemon.plugin("unsigned").await?.filter(|plugin| plugin["refusal"]["reason"] == "unsigned"))
    })
    .await?;

    let listed = succeed(apgar().args(["get", "plugins", "--api", &format!("127.0.0.1:{}", daemon.api)]))?;
    let row = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    ensure!(row("mine").contains("Running") && row("unsigned").contains("unsigned"), "{listed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn p_63_a_directory_that_is_suddenly_empty_keeps_all_until_a_person_says_otherwise() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let daemon = world.start(FAST).await?;
    let disk = apgar::plugins::bundled().into_iter().find(|(name, _)| *name == "disk").context("disk")?.1;
    let names = ["one", "two"];
    for name in names {
        world.drop_in(&format!("{name}.wasm"), &disk)?;
        wait_for("it to serve", SOON, async || {
            Ok(daemon.plugin(name).await?.filter(|plugin| plugin["state"] == "Running"))
        })
        .await?;
    }
    let unload = |name: &str| {
        let api = format!("127.0.0.1:{}", daemon.api);
        Command::new(&world.program).args(["plugin", "unload", name, "--api", &api]).output()
    };
    ensure!(String::from_utf8(unload("one")?.stderr)?.contains("still in the directory"), "its file is there");

    // Both at once, as when a volume is unmounted.
    let (aside, plugins) = (world.home.path().join("unmounted"), world.plugins());
    fs::rename(&plugins, &aside)?;
    fs::create_dir(&plugins)?;
    wait_for("the doubt", SOON, async || {
        Ok((daemon.api("/api/v1/plugins").await?["directory"]["state"] == "emptied").then_some(()))
    })
    .await?;
    for name in names {
        ensure!(daemon.plugin(name).await?.is_some_and(|plugin| plugin["state"] == "Running"), "{name} is gone");
    }
    ensure!(unload("one")?.status.success(), "the file is gone, and a person says so");
    wait_for("one to go", SOON, async || Ok(daemon.plugin("one").await?.is_none().then_some(()))).await?;
    ensure!(daemon.plugin("two").await?.is_some_and(|plugin| plugin["state"] == "Running"), "two was not meant");
    ensure!(String::from_utf8(unload("ready")?.stderr)?.contains("built in"), "a bundled one was unloaded");
    ensure!(String::from_utf8(unload("nobody")?.stderr)?.contains("nobody"), "an unknown one was unloaded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_server_nothing_is_decided_and_it_recovers_by_itself() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let daemon = world.start(&FAST.replace("threshold = \"2s\"", "threshold = \"6s\"")).await?;
    let node = world.name(0)?;
    daemon.until_phase(&node, "Healthy").await?;
    world.fleet.strike(&node, Fault::new(FaultKind::RuntimeDown)).map_err(|r| anyhow::anyhow!("{r}"))?;
    daemon.until_phase(&node, "Unhealthy").await?;
    world.server.faults().partition(Partition::Refused)?;
    wait_for("/readyz to say why", SOON, async || {
        let (status, body) = get(daemon.metrics, "/readyz").await?;
        Ok((status == 503 && body.contains("node watch is dead")).then_some(()))
    })
    .await?;
    // Twice the threshold: with the view it had, it would have acted.
    never("a decision on stale data", Duration::from_secs(12), async || Ok(world.reboots().pop())).await?;
    world.server.faults().partition(Partition::Healed)?;
    daemon.until_phase(&node, "WaitingReboot").await?;
    assert_eq!(world.reboots().len(), 1);
    assert_eq!(daemon.ready().await?, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_lists_anew_nothing_is_decided() -> Result<()> {
    use apgar_sim::{Effect, Rule};
    let world = World::new(&Story::new()).await?;
    let daemon = world.start(FAST).await?;
    let node = world.name(0)?;
    daemon.until_phase(&node, "Healthy").await?;
    world.fleet.strike(&node, Fault::new(FaultKind::RuntimeDown)).map_err(|r| anyhow::anyhow!("{r}"))?;
    // The watch is too old to go on, and the list that should take its place does not come.
    world.server.faults().add(Rule::new(Effect::Hang).method("GET").path("/api/v1/nodes"));
    world.server.faults().expire_history();
    world.server.faults().drop_watches();
    wait_for("/readyz to say why", SOON, async || {
        let (status, body) = get(daemon.metrics, "/readyz").await?;
        Ok((status == 503 && body.contains("node watch is dead")).then_some(()))
    })
    .await?;
    let calls = world.reboots().len();
    never("a decision on an old view", Duration::from_secs(6), async || {
        Ok((world.reboots().len() > calls).then(|| world.reboots()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_waiting_reboot_it_remembers_the_window() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let daemon = world.start(FAST).await?;
    let node = world.name(0)?;
    daemon.until_phase(&node, "Healthy").await?;
    world.fleet.strike(&node, Fault::new(FaultKind::NeverBoots)).map_err(|r| anyhow::anyhow!("{r}"))?;
    daemon.until_phase(&node, "WaitingReboot").await?;
    drop(daemon);
    let daemon = world.start(FAST).await?;
    daemon.until_phase(&node, "WaitingReboot").await?;
    let explained = daemon.api(&format!("/api/v1/nodes/{node}/explain")).await?;
    ensure!(explained["incident"]["attempts"] == json!({"reboot": 1}), "{explained:#}");
    ensure!(explained["window"]["after"] == "attempt", "{explained:#}");
    never("a call inside the window", Duration::from_secs(6), async || {
        Ok((world.reboots().len() > 1).then(|| world.reboots()))
    })
    .await?;
    // Once the window is over the second reboot comes: the count went on.
    wait_for("the second reboot", SOON, async || Ok((world.reboots().len() == 2).then_some(()))).await?;
    daemon.until_metric(&format!("civo_node_agent_recovery_attempts{{node=\"{node}\"}} 2")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_node_is_unknown_and_the_others_are_judged() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let (bad, good) = (world.name(1)?, world.name(0)?);
    let spoil = |node: &mut Value| node["status"]["conditions"] = json!("none");
    world.server.nodes().update(&bad, spoil).map_err(|r| anyhow::anyhow!("{r}"))?;
    let daemon = world.start(FAST).await?;
    daemon.until_phase(&good, "Healthy").await?;
    let explained = daemon.api(&format!("/api/v1/nodes/{bad}/explain")).await?;
    ensure!(explained["checkers"][0]["reason"] == "malformed-node", "{explained:#}");
    let errors = daemon.metrics().await?;
    ensure!(!errors.contains("reconcile_errors_total{reason=\"decode\"} 0"), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_start_says_what_where_and_what_would_be_right() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let [port] = free_ports()?;
    for (config, expected) in [
        ("[recovery]\nmax_reboots = 0\n", "apgar.toml:2:15: recovery.max_reboots is 0; accepted: 1 to 2147483647"),
        ("[recovery]\nmax_rebots = 3\n", "max_reboots"),
        (
            "[executor]\nkind = \"observe\"\n[recovery]\nmonitor_only = false\n",
            "active mode needs an executor that can act",
        ),
    ] {
        let output = world.fails(config, port)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && said.contains(expected), "{config}: {said}");
    }
    // R-77: the metrics port is taken.
    let taken = std::net::TcpListener::bind(("0.0.0.0", 0))?;
    let output = world.fails("", taken.local_addr()?.port())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("metrics cannot listen on"), "{said}");
    // R-76: active without a key.
    let [api] = free_ports()?;
    let output = world.command(FAST, port, api)?.env_remove("CIVO_API_KEY").output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("CIVO_API_KEY"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_not_there_is_waited_for_and_readyz_says_so() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    world.server.faults().partition(Partition::Refused)?;
    let daemon = world.launch(FAST)?;
    wait_for("/readyz to say why", SOON, async || {
        let Ok((status, body)) = get(daemon.metrics, "/readyz").await else { return Ok(None) };
        Ok((status == 503 && body.contains("no complete list of nodes yet")).then_some(()))
    })
    .await?;
    world.server.faults().partition(Partition::Healed)?;
    daemon.until_phase(&world.name(0)?, "Healthy").await
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_within_five_seconds_also_while_the_cloud_hangs() -> Result<()> {
    use apgar_sim::{Answer, CloudCall, CloudRule};
    let world = World::new(&Story::new()).await?;
    world.cloud.add(CloudRule::new(CloudCall::Reboot, Answer::Hang));
    let daemon = world.start(FAST).await?;
    let node = world.name(0)?;
    world.fleet.strike(&node, Fault::new(FaultKind::RuntimeDown)).map_err(|r| anyhow::anyhow!("{r}"))?;
    wait_for("the call", SOON, async || Ok((!world.reboots().is_empty()).then_some(()))).await?;
    let terminated =
        tokio::time::timeout(Duration::from_secs(5), tokio::task::spawn_blocking(move || daemon.terminate()));
    let status = terminated.await.context("it did not end within 5 s")???;
    ensure!(status.success() && status.signal().is_none(), "{status}");
    // The call that was out may have happened: it is not made again inside its window.
    let daemon = world.start(FAST).await?;
    daemon.until_phase(&node, "WaitingReboot").await?;
    assert_eq!(world.reboots().len(), 1);
    Ok(())
}

/// A guest of `tests/guests`, by name.
fn guest(name: &str) -> Result<Vec<u8>> {
    Ok(guests::guest(name).with_context(|| format!("no guest {name}"))?.to_vec())
}

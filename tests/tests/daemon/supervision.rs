//! Supervision as an operator sees it (`supervision` 7). What follows from what is shown by the machine's own tests, in
//! `apgar-core`; here it is that the daemon asks it, does what it says, and that API, metrics, events and commands tell
//! the same of it.

use std::collections::BTreeMap;

use apgar_core::digest::Digest;

use super::*;

/// Two starts and it is over; a crashed one waits 2 s.
const HASTY: &str = "max_restarts = 1\nbackoff_base = \"1s\"\n";

/// The fields of `supervision` 6.3, and what each is for a plugin that serves.
const FIELDS: [(&str, &str); 16] = [
    ("name", "string"),
    ("source", "string"),
    ("state", "string"),
    ("required", "bool"),
    ("version", "string"),
    ("start", "number"),
    ("generation", "string"),
    ("digest", "string"),
    ("probationUntil", "null"),
    ("refusal", "null"),
    ("wanted", "null"),
    ("superseded", "array"),
    ("marker", "null"),
    ("ledger", "null"),
    ("limits", "object"),
    ("quarantined", "array"),
];

impl World {
    /// What the configuration file says from now on, whole.
    fn configure(&self, config: &str) -> Result<()> {
        let aside = self.home.path().join("aside.toml");
        fs::write(&aside, config)?;
        Ok(fs::rename(aside, self.home.path().join("apgar.toml"))?)
    }

    /// Starts a daemon that need not become ready.
    async fn start_unready(&self, config: &str) -> Result<Daemon> {
        let daemon = self.launch(config)?;
        wait_for("the daemon to answer", SOON, async || Ok((daemon.ready().await? != 0).then_some(()))).await?;
        Ok(daemon)
    }

    /// A healthy node of this name: the guest of `tests/guests` misbehaves on it as the name says.
    fn add_node(&self, name: &str) -> Result<()> {
        let mut node = self.server.nodes().get(&self.name(0)?).context("a node to copy")?;
        let metadata = node.get_mut("metadata").and_then(Value::as_object_mut).context("metadata")?;
        metadata.insert("name".to_owned(), name.into());
        metadata.remove("uid");
        let spec = node.get_mut("spec").and_then(Value::as_object_mut).context("a spec")?;
        spec.insert("providerID".to_owned(), format!("civo://{name}").into());
        self.server.nodes().apply(node).map_err(|r| anyhow::anyhow!("{r}"))?;
        Ok(())
    }

    /// What `apgar get plugins` prints.
    fn list(&self, daemon: &Daemon, more: &[&str]) -> Result<Output> {
        let api = format!("127.0.0.1:{}", daemon.api);
        Ok(Command::new(&self.program).args(["get", "plugins", "--api", &api]).args(more).output()?)
    }

    fn row(&self, daemon: &Daemon, name: &str) -> Result<String> {
        let listed = String::from_utf8(self.list(daemon, &[])?.stdout)?;
        let row = listed.lines().find(|line| line.split_whitespace().next() == Some(name));
        Ok(row.with_context(|| format!("no row of {name} in\n{listed}"))?.to_owned())
    }
}

impl Daemon {
    /// Waits until a plugin's row fits.
    async fn until(&self, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = None;
        let found = wait_for(&format!("{name} {what}"), SOON, async || {
            last = self.plugin(name).await?;
            Ok(last.clone().filter(|plugin| fits(plugin)))
        })
        .await;
        found.with_context(|| format!("{:#}", last.unwrap_or_default()))
    }

    async fn until_running(&self, name: &str) -> Result<Value> {
        self.until(name, "to serve", |plugin| plugin["state"] == "Running" && plugin["refusal"].is_null()).await
    }

    async fn now(&self, name: &str) -> Result<Value> {
        self.plugin(name).await?.with_context(|| format!("{name} is gone"))
    }

    /// What happened of this kind to this plugin, the latest first.
    async fn events(&self, kind: &str, plugin: &str) -> Result<Vec<Value>> {
        let events = self.api("/api/v1/events").await?;
        let items = events.get("items").and_then(Value::as_array).context("no events")?.iter();
        Ok(items.filter(|event| event["kind"] == kind && event["plugin"] == plugin).cloned().collect())
    }

    /// The reason that each node has of a checker.
    async fn reasons(&self, checker: &str) -> Result<Vec<String>> {
        let metrics = self.metrics().await?;
        let of = format!("checker=\"{checker}\",reason=\"");
        Ok(metrics.lines().filter_map(|line| line.split_once(&of)?.1.split('"').next().map(str::to_owned)).collect())
    }

    /// Waits until a checker says this, and nothing else, of that many nodes.
    async fn until_reasons(&self, checker: &str, reason: &str, nodes: usize) -> Result<()> {
        wait_for(&format!("{reason} by {checker} for {nodes} nodes"), SOON, async || {
            let reasons = self.reasons(checker).await?;
            Ok((reasons.len() == nodes && reasons.iter().all(|said| said == reason)).then_some(()))
        })
        .await
    }
}

fn kind(value: Option<&Value>) -> &'static str {
    match value {
        None => "missing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "bool",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_)) => "array",
        Some(Value::Object(_)) => "object",
    }
}

/// Checks every field of 6.3, where `otherwise` names those that are not as for a plugin that serves.
#[track_caller]
fn check_shape(plugin: &Value, otherwise: &[(&'static str, &'static str)]) {
    let mut expected = BTreeMap::from(FIELDS);
    expected.extend(otherwise.iter().copied());
    let found: BTreeMap<&str, &str> = FIELDS.iter().map(|(field, _)| (*field, kind(plugin.get(field)))).collect();
    assert_eq!(found, expected, "{plugin:#}");
}

#[track_caller]
fn check_fields(value: &Value, fields: &[(&str, &str)]) {
    let found: Vec<(&str, &str)> = fields.iter().map(|(field, _)| (*field, kind(value.get(field)))).collect();
    assert_eq!(found, fields, "{value:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p_46_p_53_p_66_a_refused_file_changes_nothing_and_p_62_p_70_one_that_goes_leaves_no_trace() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let daemon = world.start(FAST).await?;
    let usual = guest("usual")?;
    for name in ["one", "two", "two-b"] {
        world.drop_in(&format!("{name}.wasm"), &usual)?;
    }
    let one = daemon.until_running("one").await?;
    let (two, other) = (daemon.until_running("two").await?, daemon.until_running("two-b").await?);
    daemon.until_reasons("one", "Special", 7).await?;

    // P-46: the old one answers on, and everybody says which bytes are refused and why.
    world.drop_in("one.wasm", b"garbage")?;
    let refused =
        daemon.until("one", "to be refused", |plugin| plugin["refusal"]["reason"] == "not-a-component").await?;
    ensure!(refused["refusal"]["digest"] == Digest::of(b"garbage").to_string(), "{refused:#}");
    for field in ["state", "start", "generation", "digest"] {
        assert_eq!(refused[field], one[field], "{field}");
    }
    daemon.until_metric("civo_node_agent_plugin_refused{plugin=\"one\",reason=\"not-a-component\"} 1").await?;
    daemon.until_metric("civo_node_agent_plugin_state{plugin=\"one\",state=\"Running\"} 1").await?;
    let told = daemon.events("PluginRefused", "one").await?;
    ensure!(told.len() == 1 && told[0]["severity"] == "warning", "{told:#?}");
    ensure!(daemon.reasons("one").await?.len() == 7, "verdicts are gone");
    ensure!(world.row(&daemon, "one")?.contains("not-a-component"), "{}", world.row(&daemon, "one")?);

    // P-53: what is missing, and the line that grants it.
    world.drop_in("one.wasm", &guest("imports-http")?)?;
    let refused =
        daemon.until("one", "to be refused", |plugin| plugin["refusal"]["reason"] == "import-not-granted").await?;
    let message = refused["refusal"]["message"].as_str().context("a message")?;
    ensure!(
        message.contains("apgar:checker/http") && message.contains("[checker.one] grants = [\"http\"]"),
        "{message}"
    );

    // The old bytes again: as if nothing had been.
    world.drop_in("one.wasm", &usual)?;
    let back = daemon.until_running("one").await?;
    assert_eq!((&back["start"], &back["wanted"]), (&one["start"], &Value::Null));
    ensure!(!daemon.metrics().await?.contains("plugin_refused{plugin=\"one\""), "{}", daemon.metrics().await?);

    // P-66: nor does a bundled one give way to garbage.
    world.drop_in("disk.wasm", b"garbage")?;
    let disk = daemon.until("disk", "to be refused", |plugin| !plugin["refusal"].is_null()).await?;
    assert_eq!((&disk["state"], &disk["source"]), (&json!("Running"), &json!("bundled")));

    // P-62: one of several files goes. Its name is the beginning of another's.
    fs::remove_file(world.plugins().join("two.wasm"))?;
    wait_for("two to go", SOON, async || Ok(daemon.plugin("two").await?.is_none().then_some(()))).await?;
    wait_for("its series to go", SOON, async || Ok((!daemon.metrics().await?.contains("\"two\"")).then_some(())))
        .await?;
    for (name, start) in [("one", &one["start"]), ("two-b", &other["start"])] {
        let plugin = daemon.now(name).await?;
        assert_eq!((&plugin["state"], &plugin["start"]), (&json!("Running"), start), "{name}");
    }
    daemon.until_reasons("two-b", "Special", 7).await?;
    // P-70: put back it is another start.
    world.drop_in("two.wasm", &usual)?;
    let again = daemon.until_running("two").await?;
    ensure!(again["start"].as_u64() > two["start"].as_u64(), "{again:#}");
    ensure!(world.reboots().is_empty(), "{:?}", world.reboots());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn p_80_p_43_a_strange_node_costs_its_own_verdict_and_the_api_tells_all_of_6_3() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    world.add_node("panic")?;
    let daemon = world.start(FAST).await?;
    world.drop_in("mine.wasm", &guest("guest")?)?;
    world.drop_in("dies.wasm", &guest("check-traps")?)?;
    world.drop_in("bad.wasm", b"garbage")?;

    // P-80: seven verdicts, one unknown, no marker.
    daemon.until_reasons("mine", "Healthy", 7).await?;
    let mine = daemon.until("mine", "to die at a node", |plugin| plugin["quarantined"] != json!([])).await?;
    assert_eq!(mine["quarantined"], json!([{"node": "panic", "cause": "trap", "deaths": 1, "until": null}]));
    assert_eq!((&mine["state"], &mine["marker"]), (&json!("Running"), &Value::Null));
    daemon.until_metric("civo_node_agent_plugin_quarantined_nodes{plugin=\"mine\"} 1").await?;
    let booked = |count: u32| {
        format!("civo_node_agent_plugin_deaths_total{{booked=\"pair\",cause=\"trap\",plugin=\"mine\"}} {count}")
    };
    daemon.until_metric(&booked(1)).await?;
    let verdict = async || {
        let explained = daemon.api("/api/v1/nodes/panic/explain").await?;
        let checkers = explained["checkers"].as_array().context("no checkers")?.clone();
        anyhow::Ok(checkers.into_iter().find(|checker| checker.to_string().contains("mine")).unwrap_or_default())
    };
    wait_for("the node to be unknown", SOON, async || {
        Ok(verdict().await?.to_string().contains("crashed").then_some(()))
    })
    .await?;
    // P-43: it is asked again when it shows something else, and not for a heartbeat.
    let change = |change: &dyn Fn(&mut Value)| {
        world.server.nodes().update("panic", change).map_err(|r| anyhow::anyhow!("{r}"))?;
        anyhow::Ok(())
    };
    change(&|node| node["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:00:00Z".into())?;
    never("a call for a heartbeat", Duration::from_secs(3), async || daemon.has_metric(&booked(2)).await).await?;
    change(&|node| node["metadata"]["labels"]["example.com/repaired"] = "yes".into())?;
    daemon.until_metric(&booked(2)).await?;
    ensure!(!daemon.events("NodeReleased", "mine").await?.is_empty(), "no NodeReleased");
    ensure!(!daemon.events("NodeQuarantined", "mine").await?.is_empty(), "no NodeQuarantined");
    let mine = daemon.now("mine").await?;
    assert_eq!((&mine["state"], &mine["marker"], &mine["start"]), (&json!("Running"), &Value::Null, &json!(1)));

    // 6.3, for one of each kind.
    let crashed = daemon.until("dies", "to crash", |plugin| plugin["state"] == "Crashed").await?;
    let refused = daemon.until("bad", "to be refused", |plugin| plugin["state"] == "Refused").await?;
    check_shape(&mine, &[]);
    let of_wanted = [("wanted", "object"), ("version", "null")];
    check_shape(&crashed, &[&of_wanted[..], &[("marker", "object"), ("ledger", "object")]].concat());
    check_shape(&refused, &[&of_wanted[..], &[("refusal", "object"), ("start", "null")]].concat());
    check_fields(&crashed["wanted"], &[("generation", "string"), ("start", "number"), ("state", "string")]);
    check_fields(&crashed["ledger"], &[("count", "number"), ("lastCrashAt", "string")]);
    let strings = ["cause", "stage", "detail", "generation", "at", "nextAttempt"].map(|field| (field, "string"));
    let numbers = ["start", "count", "max"].map(|field| (field, "number"));
    check_fields(&crashed["marker"], &[&strings[..], &numbers, &[("saturated", "bool"), ("node", "null")]].concat());
    check_fields(&refused["refusal"], &["reason", "message", "digest", "since"].map(|field| (field, "string")));
    check_fields(&mine["limits"], &[("callDeadlineMs", "number")]);
    let all = daemon.api("/api/v1/plugins").await?;
    let directory = [("path", "string"), ("state", "string"), ("files", "number"), ("refused", "array")];
    check_fields(&all["directory"], &directory);
    let one: Value = serde_json::from_str(&get(daemon.api, "/api/v1/plugins/dies").await?.1)?;
    assert_eq!(one["marker"], crashed["marker"]);
    assert_eq!(get(daemon.api, "/api/v1/plugins/nobody").await?.0, 404);

    // What a person reads, in each form.
    let wide = String::from_utf8(world.list(&daemon, &["-o", "wide"])?.stdout)?;
    for (name, said) in [("mine", "panic"), ("dies", "trap in self-check"), ("bad", "not-a-component")] {
        let row = wide.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        ensure!(row.contains(said), "{name}: {wide}");
    }
    let printed: Value = serde_json::from_slice(&world.list(&daemon, &["-o", "json"])?.stdout)?;
    ensure!(printed["items"].as_array().is_some_and(|items| items.len() == 7), "{printed:#}");
    assert_eq!(world.list(&daemon, &["--check"])?.status.code(), Some(1), "two do not serve");
    assert_eq!(daemon.ready().await?, 200, "nobody requires them");
    ensure!(world.reboots().is_empty(), "{:?}", world.reboots());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn p_01_to_p_05_p_31_to_p_33_p_74_p_76_p_77_crashes_are_remembered_over_every_end_of_the_daemon() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    world.add_node("panic")?;
    // `waits` outlasts the test between two starts, and a start of `spins` takes half a minute.
    let mut config = format!(
        "{FAST}{HASTY}[checker.waits]\nbackoff_base = \"5m\"\n[checker.spins]\nlimits = {{ startup_deadline = \"30s\" }}\n"
    );
    let daemon = world.start(&config).await?;
    for (name, bytes) in [("dies", "check-traps"), ("waits", "check-traps"), ("odd", "guest")] {
        world.drop_in(&format!("{name}.wasm"), &guest(bytes)?)?;
    }

    // P-01, P-02: one crash, of which everybody says the same.
    let waits = daemon.until("waits", "to crash", |plugin| plugin["state"] == "Crashed").await?;
    let marker = &waits["marker"];
    for (field, expected) in [
        ("cause", json!("trap")),
        ("stage", json!("self-check")),
        ("start", json!(1)),
        ("count", json!(1)),
        ("max", json!(1)),
        ("saturated", json!(false)),
    ] {
        assert_eq!(marker[field], expected, "{field} of {marker:#}");
    }
    assert_eq!(marker["generation"], waits["generation"]);
    assert_eq!((&waits["ledger"]["count"], &waits["ledger"]["lastCrashAt"]), (&json!(1), &marker["at"]));
    for line in ["plugin_crashed{plugin=\"waits\",cause=\"trap\"} 1", "plugin_crash_count{plugin=\"waits\"} 1"] {
        daemon.until_metric(&format!("civo_node_agent_{line}")).await?;
    }
    let event = daemon.events("PluginCrashed", "waits").await?.pop().context("no event")?;
    assert_eq!((&event["generation"], &event["at"]), (&marker["generation"], &marker["at"]));
    let row = world.row(&daemon, "waits")?;
    ensure!(row.contains("Crashed") && row.contains("1/1") && row.contains("trap in self-check"), "{row}");

    // P-04, P-08: started once more when its wait is over, then never again; one row and one marker all along.
    let failed = daemon.until("dies", "to fail", |plugin| plugin["state"] == "Failed").await?;
    let marker = &failed["marker"];
    assert_eq!((&marker["count"], &marker["start"]), (&json!(1), &json!(2)), "{failed:#}");
    assert_eq!((&marker["nextAttempt"], &marker["saturated"]), (&Value::Null, &json!(true)));
    daemon.until_metric("civo_node_agent_plugin_next_attempt_timestamp_seconds{plugin=\"dies\"} +Inf").await?;
    for kind in ["PluginCrashed", "PluginSaturated"] {
        assert_eq!(daemon.events(kind, "dies").await?.len(), 1, "{kind}");
    }
    ensure!(world.row(&daemon, "dies")?.contains("never"), "{}", world.row(&daemon, "dies")?);

    // P-77, P-34: that it is required now starts nothing, but the daemon is not ready without it.
    let odd = daemon.until("odd", "to die at a node", |plugin| plugin["quarantined"] != json!([])).await?;
    config += "[checker.dies]\nrequired = true\n";
    world.configure(&config)?;
    let unready = async |daemon: &Daemon| {
        let (status, body) = get(daemon.metrics, "/readyz").await?;
        anyhow::Ok((status == 503 && body.contains("the required checker dies does not serve")).then_some(()))
    };
    wait_for("/readyz to name it", SOON, async || unready(&daemon).await).await?;
    assert_eq!(daemon.now("dies").await?["start"], 2);
    daemon.until_metric("civo_node_agent_nodes{phase=\"Healthy\"} 8").await?;

    // P-76: stopped as it should be in the middle of a start. That is held against nobody; the rest stays held.
    world.drop_in("spins.wasm", &guest("describe-spins")?)?;
    daemon.until("spins", "to be started", |plugin| plugin["state"] == "Loading" && plugin["start"] == 1).await?;
    ensure!(daemon.terminate()?.success(), "SIGTERM is no failure");
    let daemon = world.start_unready(&config).await?;
    let spins = daemon.until("spins", "to be started again", |plugin| plugin["start"] == 2).await?;
    assert_eq!((&spins["state"], &spins["marker"], &spins["ledger"]), (&json!("Loading"), &Value::Null, &Value::Null));
    // P-74: neither pair nor wait nor end is forgotten.
    assert_eq!(daemon.now("dies").await?["marker"], failed["marker"]);
    assert_eq!(daemon.now("waits").await?["marker"], waits["marker"]);
    assert_eq!(daemon.until_running("odd").await?["quarantined"], odd["quarantined"]);
    wait_for("/readyz to name it", SOON, async || unready(&daemon).await).await?;

    // P-31: nor do the same bytes in another file help. Once a later file serves, they were read.
    world.drop_in("dies.wasm", &guest("check-traps")?)?;
    world.drop_in("later.wasm", &guest("usual")?)?;
    daemon.until_running("later").await?;
    let dies = daemon.now("dies").await?;
    assert_eq!((&dies["state"], &dies["start"]), (&json!("Failed"), &json!(2)));

    // P-76: killed in the middle of a start, that start is a crash. P-05: the marker stays while the next one is tried.
    drop(daemon);
    let daemon = world.start_unready(&config).await?;
    let died = |plugin: &Value| plugin["marker"]["cause"] == "daemon-died" && plugin["marker"]["count"] == 1;
    daemon.until("spins", "to have died with the daemon", died).await?;
    let is_tried = |plugin: &Value| plugin["state"] == "Loading" && plugin["start"] == 3 && died(plugin);
    daemon.until("spins", "to be tried again", is_tried).await?;
    assert_eq!(daemon.now("dies").await?["marker"], failed["marker"]);

    // P-32: other bytes start at once, and the daemon is ready.
    world.drop_in("dies.wasm", &guest("usual")?)?;
    let serves = daemon.until_running("dies").await?;
    assert_eq!((&serves["start"], &serves["marker"], &serves["ledger"]), (&json!(3), &Value::Null, &Value::Null));
    wait_for("the daemon to be ready", SOON, async || Ok((daemon.ready().await? == 200).then_some(()))).await?;
    // P-33: but the old ones are not forgiven for having been away.
    world.drop_in("dies.wasm", &guest("check-traps")?)?;
    let old = daemon.until("dies", "to be asked for by its old bytes", |plugin| !plugin["wanted"].is_null()).await?;
    assert_eq!((&old["state"], &old["start"]), (&json!("Running"), &json!(3)));
    assert_eq!((&old["wanted"]["state"], &old["marker"]), (&json!("Saturated"), &failed["marker"]));
    // P-03: all this time nothing was started before its wait was over.
    let waits_still = daemon.now("waits").await?;
    assert_eq!((&waits_still["start"], &waits_still["marker"]), (&json!(1), &waits["marker"]));
    ensure!(world.reboots().is_empty(), "{:?}", world.reboots());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn p_34_p_49_p_50_other_settings_are_swapped_in_and_a_broken_file_is_not_used() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let daemon = world.start(FAST).await?;
    let before = daemon.until_running("gpu").await?;
    let ready = daemon.until_running("ready").await?;
    let node = world.name(0)?;
    daemon.until_phase(&node, "Healthy").await?;
    ensure!(!daemon.reasons("DiskPressure").await?.is_empty(), "nothing to go yet");

    // A newer generation of the same bytes answers, on probation; the one before stays loaded.
    world.configure(&format!("{FAST}[checker.gpu]\nsettings = {{ allow_more = true }}\n"))?;
    let swapped = daemon.until("gpu", "to be swapped", |plugin| plugin["generation"] != before["generation"]).await?;
    assert_eq!((&swapped["state"], &swapped["digest"]), (&json!("Running"), &before["digest"]));
    assert_eq!(swapped["superseded"][0]["generation"], before["generation"], "{swapped:#}");
    daemon.until("gpu", "to be on probation", |plugin| plugin["probationUntil"].is_string()).await?;
    assert_eq!(daemon.events("PluginSwapped", "gpu").await?.len(), 1);

    // What the guest does not accept, and a file that nobody can read, change nothing.
    world.configure(&format!("{FAST}[checker.gpu]\nsettings = {{ resources = [] }}\n"))?;
    let rejected =
        daemon.until("gpu", "to reject", |plugin| plugin["refusal"]["reason"] == "settings-rejected").await?;
    ensure!(rejected["refusal"]["message"].to_string().contains("1 to 16 names"), "{rejected:#}");
    assert_eq!((&rejected["state"], &rejected["generation"]), (&json!("Running"), &before["generation"]));
    world.configure(&format!("{FAST}[checker.gpu]\nsettings = nonsense\n"))?;
    wait_for("the log to say so", SOON, async || {
        Ok(daemon.log()?.contains("the changed configuration is wrong and is not used").then_some(()))
    })
    .await?;
    assert_eq!(daemon.now("gpu").await?["refusal"], rejected["refusal"]);

    // P-49: the settings of before. Nothing is started for them, nor for what is no part of a generation.
    world.configure(&format!(
        "{FAST}[checker.ready]\nrequired = true\nmax_restarts = 2\n[checker.disk]\nenabled = false\n"
    ))?;
    let again = daemon.until_running("gpu").await?;
    assert_eq!((&again["start"], &again["wanted"]), (&before["start"], &Value::Null));
    let required = daemon.until("ready", "to be required", |plugin| plugin["required"] == true).await?;
    assert_eq!((&required["state"], &required["start"]), (&json!("Running"), &ready["start"]));
    daemon.until("disk", "to be stopped", |plugin| plugin["state"] == "Stopped").await?;
    wait_for("its verdicts to go", SOON, async || Ok(daemon.reasons("DiskPressure").await?.is_empty().then_some(())))
        .await?;
    // A file that is gone is no order to go back to the defaults.
    fs::remove_file(world.home.path().join("apgar.toml"))?;
    wait_for("the log to say so again", SOON, async || {
        Ok((daemon.log()?.matches("the changed configuration is wrong and is not used").count() == 2).then_some(()))
    })
    .await?;
    assert_eq!(daemon.now("disk").await?["state"], "Stopped");
    world.configure(FAST)?;
    daemon.until_running("disk").await?;
    assert_eq!((daemon.ready().await?, &daemon.now("gpu").await?["start"]), (200, &before["start"]));
    daemon.until_phase(&node, "Healthy").await?;
    ensure!(world.reboots().is_empty(), "{:?}", world.reboots());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn p_47_p_87_p_88_p_90_p_67_a_bad_version_is_taken_back_and_the_good_one_outlives_its_file() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    // Each start crashes when it died at three of them; those are held then, and the next start dies at the others.
    for name in ["panic", "recurse", "recurse-wide", "huge-key", "huge-reason", "bad-utf8"] {
        world.add_node(name)?;
    }
    let config = format!("{FAST}{HASTY}");
    let daemon = world.start(&config).await?;
    let (good, bad) = (guest("usual")?, guest("guest")?);
    world.drop_in("mine.wasm", &good)?;
    let mine = daemon.until_running("mine").await?;
    daemon.until_reasons("mine", "Special", 13).await?;

    // P-87: it passes its self-check, answers, dies at three nodes; the good one answers again. Nobody is left without.
    world.drop_in("mine.wasm", &bad)?;
    let back = wait_for("the good one to be back", SOON, async || {
        ensure!(daemon.now("mine").await?["state"] == "Running", "nobody answers");
        let is_back = !daemon.events("RolledBack", "mine").await?.is_empty();
        Ok(if is_back { daemon.plugin("mine").await? } else { None })
    })
    .await?;
    ensure!(back["marker"].is_object(), "no marker beside Running: {back:#}");
    assert_eq!((&back["start"], &back["digest"]), (&mine["start"], &mine["digest"]));
    assert_eq!(
        (&back["marker"]["generation"], &back["marker"]["stage"]),
        (&back["wanted"]["generation"], &json!("check"))
    );
    assert_eq!(daemon.ready().await?, 200);
    let told = daemon.events("RolledBack", "mine").await?.pop().context("no event")?;
    for generation in [&mine["generation"], &back["marker"]["generation"]] {
        ensure!(
            told["message"].as_str().zip(generation.as_str()).is_some_and(|(said, of)| said.contains(of)),
            "{told:#}"
        );
    }
    daemon.until_metric("civo_node_agent_plugin_crashed{plugin=\"mine\",cause=\"trap\"} 1").await?;
    daemon.until_metric("civo_node_agent_plugin_crash_count{plugin=\"mine\"} 1").await?;
    daemon.until_metric("civo_node_agent_plugin_state{plugin=\"mine\",state=\"Running\"} 1").await?;
    let row = world.row(&daemon, "mine")?;
    ensure!(row.contains("Running") && row.contains("1/1") && row.contains("newer file"), "{row}");
    daemon.until_reasons("mine", "Special", 13).await?;

    // P-88: the second crash is its last one. The same bytes in another file change nothing.
    let over = daemon.until("mine", "to be given up", |plugin| plugin["wanted"]["state"] == "Saturated").await?;
    assert_eq!((&over["state"], &over["start"]), (&json!("Running"), &mine["start"]));
    assert_eq!((&over["marker"]["count"], &over["marker"]["saturated"]), (&json!(1), &json!(true)));
    daemon.until_reasons("mine", "Special", 13).await?;
    world.drop_in("mine.wasm", &bad)?;
    world.drop_in("later.wasm", &good)?;
    daemon.until_running("later").await?;
    assert_eq!(daemon.now("mine").await?["wanted"], over["wanted"]);
    // P-59 is counted, and so are the two that were taken back; that the good one answers again is no swap.
    for (result, times) in [("unchanged", 1), ("rolled-back", 2), ("swapped", 3)] {
        let reloads = format!("civo_node_agent_plugin_reloads_total{{plugin=\"mine\",result=\"{result}\"}} {times}");
        daemon.until_metric(&reloads).await?;
    }

    // P-90: over a restart the good one serves from what was kept, and the marker of the bad one is still there.
    ensure!(daemon.terminate()?.success(), "SIGTERM is no failure");
    let daemon = world.start(&config).await?;
    let kept = daemon.until_running("mine").await?;
    assert_eq!((&kept["generation"], &kept["marker"]), (&mine["generation"], &over["marker"]));
    daemon.until_reasons("mine", "Special", 13).await?;

    // P-67: also without its directory. That is lost, and nothing is concluded from it.
    ensure!(daemon.terminate()?.success(), "SIGTERM is no failure");
    let aside = world.home.path().join("unmounted");
    fs::rename(world.plugins(), &aside)?;
    let daemon = world.start(&config).await?;
    let kept = daemon.until_running("mine").await?;
    assert_eq!((&kept["generation"], &kept["marker"]), (&mine["generation"], &over["marker"]));
    daemon.until_running("later").await?;
    daemon.until_metric("civo_node_agent_plugin_directory_up{} 0").await?;
    assert_eq!(daemon.api("/api/v1/plugins").await?["directory"]["state"], "lost");

    // And without what was kept there is nothing to serve from, which is said.
    ensure!(daemon.terminate()?.success(), "SIGTERM is no failure");
    fs::remove_dir_all(world.home.path().join("state/cache"))?;
    let daemon = world.start(&config).await?;
    for name in ["mine", "later"] {
        let gone = daemon.until(name, "to be refused", |plugin| !plugin["refusal"].is_null()).await?;
        assert_eq!(gone["refusal"]["reason"], "bytes-unavailable", "{gone:#}");
        ensure!(gone["state"] != "Running", "{gone:#}");
    }
    // Until its file is back.
    fs::rename(&aside, world.plugins())?;
    daemon.until_running("later").await?;
    assert_eq!(daemon.api("/api/v1/plugins").await?["directory"]["state"], "ok");
    ensure!(world.reboots().is_empty(), "{:?}", world.reboots());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn p_65_an_override_gives_way_to_what_is_built_in_without_a_gap_and_neither_serves_when_switched_off()
-> Result<()> {
    let world = World::new(&Story::new()).await?;
    // The shortest time in which a generation is proven.
    let config = format!("{FAST}decay_after = \"1m\"\n");
    let daemon = world.start(&config).await?;
    let bundled = daemon.until_running("disk").await?;
    assert_eq!(bundled["source"], "bundled");
    world.drop_in("disk.wasm", &guest("usual")?)?;
    daemon.until("disk", "to be on probation", |plugin| plugin["probationUntil"].is_string()).await?;
    // A bundled one is shown by the name that it had in the agent that Apgar replaces.
    daemon.until_reasons("DiskPressure", "Special", 7).await?;
    let is_proven = |plugin: &Value| plugin["wanted"].is_null() && plugin["source"] == "directory";
    let file = daemon.until("disk", "to be proven", is_proven).await?;
    assert_eq!((&file["state"], &file["superseded"]), (&json!("Running"), &json!([])));

    // Its file goes: it answers until the bundled one does, which has nothing left to prove.
    fs::remove_file(world.plugins().join("disk.wasm"))?;
    let again = wait_for("the bundled one", SOON, async || {
        let disk = daemon.now("disk").await?;
        ensure!(disk["state"] == "Running" && disk["probationUntil"].is_null(), "a gap or a probation: {disk:#}");
        Ok((disk["generation"] == bundled["generation"]).then_some(disk))
    })
    .await?;
    assert_eq!((&again["source"], &again["wanted"]), (&json!("bundled"), &Value::Null));
    ensure!(again["start"].as_u64() > file["start"].as_u64(), "{again:#}");
    wait_for("its verdicts", SOON, async || {
        let reasons = daemon.reasons("DiskPressure").await?;
        Ok((reasons.len() == 7 && !reasons.iter().any(|reason| reason == "Special")).then_some(()))
    })
    .await?;

    // Switched off is the name, whoever has it.
    world.configure(&format!("{config}[checker.disk]\nenabled = false\n"))?;
    daemon.until("disk", "to be stopped", |plugin| plugin["state"] == "Stopped").await?;
    world.drop_in("disk.wasm", &guest("usual")?)?;
    let asked = |plugin: &Value| plugin["wanted"]["generation"] == file["generation"];
    assert_eq!(daemon.until("disk", "to have its file read", asked).await?["state"], "Stopped");
    ensure!(daemon.reasons("DiskPressure").await?.is_empty(), "a verdict of what is switched off");
    assert_eq!(daemon.ready().await?, 200);
    ensure!(world.reboots().is_empty(), "{:?}", world.reboots());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn p_78_when_all_have_failed_the_daemon_is_unready_and_nothing_is_done_to_a_node() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let bundled = apgar::plugins::bundled().into_iter().map(|(name, _)| name);
    let mut config: String = bundled.map(|name| format!("[checker.{name}]\nenabled = false\n")).collect();
    // Two that somebody counts on, and nobody requires.
    config = format!("{FAST}{HASTY}{config}[checker.dies]\ngrants = []\n[checker.too]\ngrants = []\n");
    let daemon = world.start_unready(&config).await?;
    let sick = world.name(0)?;
    world.fleet.strike(&sick, Fault::new(FaultKind::NotReady)).map_err(|r| anyhow::anyhow!("{r}"))?;
    for name in ["dies", "too"] {
        world.drop_in(&format!("{name}.wasm"), &guest("check-traps")?)?;
        daemon.until(name, "to fail", |plugin| plugin["state"] == "Failed").await?;
    }
    wait_for("/readyz to say why", SOON, async || {
        let (status, body) = get(daemon.metrics, "/readyz").await?;
        Ok((status == 503 && body == "no checker serves\n").then_some(()))
    })
    .await?;
    // That is evidence about checkers, and none about the node: several thresholds long.
    never("a reboot", Duration::from_secs(6), async || Ok(world.reboots().pop())).await?;
    let explained = daemon.api(&format!("/api/v1/nodes/{sick}/explain")).await?;
    for checker in explained["checkers"].as_array().context("no checkers")? {
        ensure!(checker["reason"] == "not-running", "{checker:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_does_not_hold_the_state_directory_keeps_nothing_in_it() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let config = FAST.replace("monitor_only = false", "monitor_only = true");
    let holder = world.start(&config).await?;
    world.drop_in("mine.wasm", &guest("usual")?)?;
    holder.until_running("mine").await?;
    let cache = world.home.path().join("state/cache");
    wait_for("mine to be kept", SOON, async || Ok(cache.join("components/mine.json").exists().then_some(()))).await?;
    // What appears here from now on is not the holder's: it starts nothing.
    fs::remove_dir_all(&cache)?;
    let other = world.start(&config).await?;
    other.until_running("mine").await?;
    other.until_running("disk").await?;
    ensure!(other.terminate()?.success(), "SIGTERM is no failure");
    ensure!(!cache.exists(), "it kept something");
    assert_eq!(holder.now("mine").await?["state"], "Running");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn p_73_a_withdrawn_key_stops_what_it_signed_and_a_new_one_stops_nothing() -> Result<()> {
    let world = World::new(&Story::new()).await?;
    let apgar = || Command::new(&world.program);
    let usual = guest("usual")?;
    let file = world.home.path().join("any.wasm");
    fs::write(&file, &usual)?;
    // The line that trusts a key, and what it says of the bytes.
    let sign = |name: &str| -> Result<(String, Vec<u8>)> {
        let key = world.home.path().join(name);
        let printed = succeed(apgar().args(["plugin", "keygen"]).arg(&key))?;
        succeed(apgar().args(["plugin", "sign"]).arg(&file).arg("--key").arg(&key))?;
        let line = printed.lines().last().context("the key to trust")?.to_owned();
        Ok((line, fs::read(world.home.path().join("any.wasm.sig"))?))
    };
    let (ours, signed) = sign("ours")?;
    fs::remove_file(world.home.path().join("any.wasm.sig"))?;
    let (theirs, other) = sign("theirs")?;
    let trusting = |line: &str| FAST.replace("[checkers]\n", &format!("[checkers]\n{line}\n"));

    let daemon = world.start(FAST).await?;
    let names = ["disk", "five", "four", "mine", "six", "three"];
    for name in names {
        world.drop_in(&format!("{name}.wasm.sig"), &signed)?;
        world.drop_in(&format!("{name}.wasm"), &usual)?;
    }
    let serves = |plugin: &Value| plugin["state"] == "Running" && plugin["source"] == "directory";
    let mut starts = BTreeMap::new();
    for name in names {
        starts.insert(name, daemon.until(name, "to serve", serves).await?["start"].clone());
    }
    // Its signature is there: to ask for it stops nobody.
    world.drop_in("unsigned.wasm", &usual)?;
    daemon.until_running("unsigned").await?;
    world.configure(&trusting(&ours))?;
    daemon.until("unsigned", "to be refused", |plugin| plugin["refusal"]["reason"] == "unsigned").await?;
    fs::remove_file(world.plugins().join("unsigned.wasm"))?;
    wait_for("it to go", SOON, async || Ok(daemon.plugin("unsigned").await?.is_none().then_some(()))).await?;
    for name in names {
        let plugin = daemon.until(name, "to serve", serves).await?;
        assert_eq!(plugin["start"], starts[name], "{name} was stopped");
        assert_eq!(daemon.events("PluginRefused", name).await?, [json!(null); 0], "{name}");
    }

    // P-73, and after a restart, when what was kept would serve.
    let untrusted = |plugin: &Value| plugin["refusal"]["reason"] == "untrusted-key";
    let check = async |daemon: &Daemon| {
        // Its file is refused first, and it is stopped once all files were examined.
        let stopped = |plugin: &Value| untrusted(plugin) && plugin["state"] == "Refused";
        daemon.until("mine", "to be refused and stopped", stopped).await?;
        let bundled = |plugin: &Value| plugin["source"] == "bundled" && plugin["state"] == "Running";
        daemon.until("disk", "to be bundled again", |plugin| bundled(plugin) && untrusted(plugin)).await?;
        ensure!(daemon.reasons("mine").await?.is_empty(), "a verdict of somebody nobody trusts");
        anyhow::Ok(())
    };
    world.configure(&trusting(&theirs))?;
    check(&daemon).await?;
    ensure!(daemon.terminate()?.success(), "SIGTERM is no failure");
    let daemon = world.start(&trusting(&theirs)).await?;
    check(&daemon).await?;

    // The same bytes, signed by whom we trust now.
    world.drop_in("mine.wasm.sig", &other)?;
    daemon.until_running("mine").await?;
    daemon.until_reasons("mine", "Special", 7).await
}

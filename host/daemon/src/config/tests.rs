//! What the sources together become: the acceptance scenarios of `recovery` section 7, and what else an operator
//! would notice. Rules of a single kind of value are tested beside it.

use std::time::Duration;

use apgar_core::decision::Mode;
use apgar_core::policy::{ConcurrentLimit, Policy};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const ACCOUNT: [(&str, &str); 3] =
    [("CIVO_API_KEY", "hunter2"), ("CIVO_API_URL", "https://api.civo.com"), ("CIVO_CLUSTER_ID", "c-1")];

#[test]
fn trusted_keys_are_read_and_each_is_checked() {
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let text = |keys: &str| format!("[checkers]\ntrusted_keys = {keys}");
    let (settings, _) = load(sources(&text(&format!("[\"{KEY}\"]")), &[])).unwrap();
    assert_eq!(settings.checkers.trusted_keys[0].to_string(), KEY);
    let shown = settings.show().iter().find(|shown| shown.key == "checkers.trusted_keys").unwrap();
    assert_eq!(shown.value, format!("[\"{KEY}\"]"));
    for (bad, said) in [
        (format!("[\"{KEY}\", \"RWQ\"]"), "56 characters, the first two of which are RW"),
        (format!("\"{KEY}\""), KEY),
        (format!("[\"untrusted comment: ours\\n{KEY}\"]"), KEY),
    ] {
        let error = load(sources(&text(&bad), &[])).unwrap_err().to_string();
        assert!(error.contains("checkers.trusted_keys") && error.contains(said), "{error}");
    }
}

#[test]
fn without_any_source_everything_is_as_the_rules_have_it_and_nothing_acts() {
    let (settings, warnings) = load(Sources::default()).unwrap();
    assert_eq!(settings.policy, Policy::default());
    assert_eq!(settings.policy.mode, Mode::Monitor);
    assert_eq!(settings.executor.kind, ExecutorKind::Observe);
    assert_eq!(settings.metrics.port, 9625);
    assert_eq!(settings.metrics.namespace, "civo_node_agent");
    assert_eq!(settings.api.listen.to_string(), "127.0.0.1:9626");
    assert_eq!(settings.events.ring, 2000);
    assert_eq!(settings.kubeconfig, Kubeconfig::Default(PathBuf::from("/etc/rancher/k3s/k3s.yaml")));
    assert!(!settings.checkers.dir_given);
    assert_eq!(warnings, []);
    assert!(settings.show().iter().all(|shown| shown.source == Source::Default));
}

#[test]
fn flags_come_before_variables_before_the_file_before_the_default() {
    let file = "[metrics]\nport = 2001\n[recovery]\nmax_reboots = 6\nmax_failed_calls = 7";
    let mut sources = sources(file, &[("CIVO_NODE_AGENT_METRICS_PORT", "2002"), ("CIVO_NODE_MAX_REBOOT_RETRIES", "8")]);
    sources.flags.metrics_port = Some("2003".to_owned());
    let (settings, _) = load(sources).unwrap();
    assert_eq!(shown(&settings, "metrics.port"), "2003 (flag --metrics-port)");
    assert_eq!(shown(&settings, "recovery.max_reboots"), "8 (env CIVO_NODE_MAX_REBOOT_RETRIES)");
    assert_eq!(shown(&settings, "recovery.max_failed_calls"), "7 (a.toml:5)");
    assert_eq!(shown(&settings, "recovery.tick"), "\"10s\" (default)");
    assert_eq!(settings.metrics.port, 2003);
}

#[test]
fn r_70_pools_and_selector_become_one_label_selector() {
    #[track_caller]
    fn check(pools: &str, file: &str, expected: Option<&str>) {
        let (settings, warnings) = load(sources(file, &[("CIVO_NODE_POOL_IDS", pools)])).unwrap();
        assert_eq!(settings.nodes.label_selector().as_deref(), expected, "{pools:?}");
        assert_eq!(warnings, []);
    }
    check("", "", None);
    check("p1", "", Some("kubernetes.civo.com/civo-node-pool=p1"));
    check(" p1 , ,p2 ", "", Some("kubernetes.civo.com/civo-node-pool in (p1,p2)"));
    check("p2,p1,p2", "", Some("kubernetes.civo.com/civo-node-pool in (p2,p1)"));
    let gold = "nodes.selector = \"tier=gold\"";
    check("", gold, Some("tier=gold"));
    check("p1", gold, Some("kubernetes.civo.com/civo-node-pool=p1,tier=gold"));
    check("p1", "nodes.pool_ids = [\"p3\"]", Some("kubernetes.civo.com/civo-node-pool=p1"));
    check("\u{a0}", "nodes.pool_ids = [\"p3\", \"p3\"]", Some("kubernetes.civo.com/civo-node-pool=p3"));
}

#[test]
fn r_71_pools_that_cannot_be_read_stop_the_start() {
    for (name, value) in
        [("CIVO_NODE_POOL_IDS", "-a,b c"), ("CIVO_NODE_POOL_IDS", " , ,"), ("CIVO_NODE_POOL_ID", "a,b")]
    {
        let error = load(sources("nodes.pool_ids = [\"p3\"]", &[(name, value)])).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: names no valid pool; accepted: a list of")), "{error}");
    }
}

#[test]
fn r_71_one_pool_that_cannot_be_read_is_dropped_with_a_warning() {
    let (settings, warnings) = load(sources("", &[("CIVO_NODE_POOL_IDS", "p1,b c")])).unwrap();
    assert_eq!(settings.nodes.pool_ids, ["p1"]);
    check_warnings(&warnings, &["CIVO_NODE_POOL_IDS: \"b c\" is ignored; accepted: "]);
}

#[test]
fn r_71_the_singular_variable_is_used_if_the_plural_is_not_set() {
    let (settings, warnings) = load(sources("", &[("CIVO_NODE_POOL_ID", " p1 ")])).unwrap();
    assert_eq!(settings.nodes.pool_ids, ["p1"]);
    check_warnings(&warnings, &["CIVO_NODE_POOL_ID: is used; its successor is CIVO_NODE_POOL_IDS"]);

    let (settings, _) = load(sources("", &[("CIVO_NODE_POOL_ID", "p1"), ("CIVO_NODE_POOL_IDS", "p2")])).unwrap();
    assert_eq!(settings.nodes.pool_ids, ["p2"]);
}

#[test]
fn r_72_a_wait_that_cannot_be_read_is_the_default_with_a_warning() {
    #[track_caller]
    fn check(value: &str, minutes: u32, warnings: usize) {
        let (settings, found) = load(sources("", &[("CIVO_NODE_REBOOT_WAIT_MINUTES", value)])).unwrap();
        assert_eq!(settings.policy.reboot_wait, MINUTE * minutes, "{value:?}");
        assert_eq!(found.len(), warnings, "{value:?}: {found:?}");
    }
    check("invalid time", 10, 1);
    check("0", 10, 1);
    check("-5", 10, 1);
    check("+15", 15, 0);
    check("015", 15, 0);
    check("\u{2003}15\n", 15, 0);
    check("", 10, 0);
    check("153722867", 153_722_867, 0);
    check("153722868", 10, 1);
    check("99999999999999999999", 10, 1);
    check("15m", 10, 1);
    check("1 5", 10, 1);

    let (_, warnings) = load(sources("", &[("CIVO_GPU_NODE_REBOOT_WAIT_MINUTES", "x")])).unwrap();
    let accepted = "an integer from 1 to 153722867, in minutes";
    check_warnings(&warnings, &[&format!("CIVO_GPU_NODE_REBOOT_WAIT_MINUTES: \"x\" is ignored; accepted: {accepted}")]);
}

#[test]
fn r_72_a_variable_that_cannot_be_read_leaves_the_decision_to_the_file() {
    let env = [("CIVO_NODE_REBOOT_WAIT_MINUTES", "soon")];
    let (settings, warnings) = load(sources("recovery.reboot_wait = \"20m\"", &env)).unwrap();
    assert_eq!(settings.policy.reboot_wait, MINUTE * 20);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn r_73_monitor_only_is_on_unless_it_is_clearly_off() {
    #[track_caller]
    fn check(value: &str, file: &str, mode: Mode, warnings: usize) {
        let mut env = ACCOUNT.to_vec();
        env.push(("CIVO_NODE_AGENT_MONITOR_ONLY", value));
        let (settings, found) = load(sources(file, &env)).unwrap();
        assert_eq!(settings.policy.mode, mode, "{value:?}");
        assert_eq!(found.len(), warnings, "{value:?}: {found:?}");
    }
    let active = "recovery.monitor_only = false";
    check("", "", Mode::Monitor, 0);
    check("", active, Mode::Active, 0);
    check("maybe", "", Mode::Monitor, 1);
    check("maybe", active, Mode::Monitor, 1);
    check("tRUE", active, Mode::Monitor, 1);
    for value in ["false", "0", "F", "f", "FALSE", "False", " false "] {
        check(value, "", Mode::Active, 0);
    }
    for value in ["true", "1", "T", "t", "TRUE", "True"] {
        check(value, active, Mode::Monitor, 0);
    }
}

#[test]
fn r_73_a_flag_decides_before_the_variable() {
    let mut env = ACCOUNT.to_vec();
    env.push(("CIVO_NODE_AGENT_MONITOR_ONLY", "false"));
    let mut sources = sources("", &env);
    sources.flags.monitor_only = Some(true);
    let (settings, _) = load(sources).unwrap();
    assert_eq!(settings.policy.mode, Mode::Monitor);
    assert_eq!(shown(&settings, "recovery.monitor_only"), "true (flag --monitor-only)");
}

#[test]
fn r_74_a_port_that_cannot_be_read_is_the_default() {
    #[track_caller]
    fn check(value: &str, port: u16, warnings: usize) {
        let (settings, found) = load(sources("", &[("CIVO_NODE_AGENT_METRICS_PORT", value)])).unwrap();
        assert_eq!(settings.metrics.port, port, "{value:?}");
        assert_eq!(found.len(), warnings, "{value:?}: {found:?}");
    }
    check("", 9625, 0);
    check("80", 9625, 1);
    check("1023", 9625, 1);
    check("1024", 1024, 0);
    check("65535", 65535, 0);
    check("65536", 9625, 1);
    check("70000", 9625, 1);
    check("x", 9625, 1);
}

#[test]
fn r_75_a_value_out_of_range_is_refused_with_its_place_and_what_is_accepted() {
    check_error("[recovery]\nmax_reboots = 0\n", "a.toml:2:15: recovery.max_reboots is 0; accepted: 1 to 2147483647");
    check_error(
        "recovery.max_reboots = \"5\"",
        "a.toml:1:24: recovery.max_reboots is \"5\"; accepted: 1 to 2147483647; did you mean 5?",
    );
    check_error(
        "recovery.max_rebots = 3",
        "a.toml:1:10: unknown key recovery.max_rebots; did you mean recovery.max_reboots?",
    );
    check_error("recovery.tick = \"2m\"", "a.toml:1:17: recovery.tick is \"2m\"; accepted: a duration from 1s to 1m");
    check_error(
        "recovery.reboot_wait = \"0s\"",
        "a.toml:1:24: recovery.reboot_wait is \"0s\"; accepted: a duration above 0, at most 106751d23h47m",
    );
}

#[test]
fn r_75_a_bare_number_is_refused_with_the_spelling_that_would_be_accepted() {
    check_error(
        "recovery.tick = 10",
        "a.toml:1:17: recovery.tick is 10; accepted: a duration from 1s to 1m; did you mean \"10s\"?",
    );
    check_error(
        "recovery.gpu_reboot_wait = 40",
        "a.toml:1:28: recovery.gpu_reboot_wait is 40; accepted: \
         a duration above 0, at most 106751d23h47m; did you mean \"40m\"?",
    );
    check_error("recovery.tick = 0", "a.toml:1:17: recovery.tick is 0; accepted: a duration from 1s to 1m");
    check_error(
        "checker.gpu.limits.call_deadline = 200",
        "a.toml:1:36: checker.gpu.limits.call_deadline is 200; accepted: \
         a duration from 10ms to 2s; did you mean \"200ms\"?",
    );
    check_error(
        "checker.gpu.limits.memory = 67108864",
        "a.toml:1:29: checker.gpu.limits.memory is 67108864; accepted: \
         a size from 64KiB to 256MiB, in B, KiB, MiB or GiB; did you mean \"64MiB\"?",
    );
}

#[test]
fn r_75_a_misspelt_word_is_refused_with_the_nearest_one() {
    check_error(
        "executor.kind = \"cvio\"",
        "a.toml:1:17: executor.kind is \"cvio\"; accepted: \"observe\", \"civo\"; did you mean \"civo\"?",
    );
    check_error(
        "checker.gpu.grants = [\"log\", \"htttp\"]",
        "a.toml:1:30: checker.gpu.grants contains \"htttp\"; accepted: \
         a list of \"log\", \"clock\", \"http\", \"pods\", \"memory\"; did you mean \"http\"?",
    );
    check_error(
        "nodes.pool_ids = \"a\"",
        &format!("a.toml:1:18: nodes.pool_ids is \"a\"; accepted: {}; did you mean [\"a\"]?", label_values()),
    );
    check_error(
        "gate.concurrent = \"3\"",
        "a.toml:1:19: gate.concurrent is \"3\"; accepted: \
         1 to 10000, \"auto\" (one per 100 nodes, rounded up) or \"off\" (no limit); did you mean 3?",
    );
}

#[test]
fn r_75_everything_that_is_wrong_is_said_at_once_in_the_order_of_the_file() {
    let error = load(sources(
        "[metrics]\nport = 80\n[recovery]\ntick = 10\nmax_rebots = 1\n\
         [checkers.defaults]\nmax_restarts = -1\n[checker.gpu]\n[checker.disk]",
        &[],
    ))
    .unwrap_err();
    let lines: Vec<_> = error.problems.iter().map(|problem| problem.place.to_string()).collect();
    assert_eq!(lines, ["a.toml:2", "a.toml:4", "a.toml:5", "a.toml:7"]);
    assert_eq!(error.to_string().lines().count(), 4);
}

#[test]
fn what_is_not_toml_is_said_for_every_place() {
    let error = load(sources("tick = \n[recovery\n", &[])).unwrap_err();
    let lines: Vec<_> = error.problems.iter().map(|problem| problem.place.to_string()).collect();
    assert_eq!(lines, ["a.toml:1", "a.toml:2"], "{error}");
}

#[test]
fn an_invalid_flag_stops_the_start() {
    let flags = Flags { metrics_port: Some("80".to_owned()), ..Flags::default() };
    let error = load(Sources { flags, ..Sources::default() }).unwrap_err();
    assert_eq!(error.to_string(), "--metrics-port: \"80\" is not accepted; accepted: an integer from 1024 to 65535");
}

#[test]
fn r_76_active_mode_without_a_complete_account_does_not_start() {
    #[track_caller]
    fn check(file: &str, env: &[(&str, &str)], missing: &str) {
        let mut env = env.to_vec();
        env.push(("CIVO_NODE_AGENT_MONITOR_ONLY", "false"));
        let error = load(sources(file, &env)).unwrap_err().to_string();
        assert_eq!(error, format!("active mode with the executor civo needs variables that are not set: {missing}"));
    }
    let [key, url, cluster] = ACCOUNT;
    check("", &[url, cluster], "CIVO_API_KEY");
    check("", &[key], "CIVO_API_URL, CIVO_CLUSTER_ID");
    check("", &[url, cluster, ("CIVO_API_KEY", "  ")], "CIVO_API_KEY");
    check("executor.civo.api_url = \"u\"", &[], "CIVO_API_KEY, CIVO_CLUSTER_ID");
    check("executor.kind = \"civo\"", &[], "CIVO_API_KEY, CIVO_API_URL, CIVO_CLUSTER_ID");
}

#[test]
fn r_76_monitor_only_without_a_complete_account_runs_with_one_warning() {
    let [_, url, cluster] = ACCOUNT;
    let (settings, warnings) = load(sources("", &[url, cluster])).unwrap();
    assert_eq!(settings.executor.kind, ExecutorKind::Civo);
    assert_eq!(shown(&settings, "executor.kind"), "\"civo\" (env CIVO_API_URL)");
    check_warnings(
        &warnings,
        &["executor.kind: civo could not act in active mode; variables that are not set: CIVO_API_KEY"],
    );
}

#[test]
fn r_76_active_mode_without_an_executor_does_not_start() {
    let accepted = "accepted: executor.kind = \"civo\", or monitor-only";
    let error = load(sources("recovery.monitor_only = false", &[])).unwrap_err().to_string();
    assert_eq!(error, format!("active mode needs an executor that can act; {accepted}"));

    let error = load(sources("recovery.monitor_only = false\nexecutor.kind = \"observe\"", &ACCOUNT)).unwrap_err();
    assert_eq!(error.to_string(), format!("a.toml:2:17: active mode needs an executor that can act; {accepted}"));
}

#[test]
fn r_76_active_mode_with_a_complete_account_starts_without_a_region() {
    let (settings, warnings) = load(sources("recovery.monitor_only = false", &ACCOUNT)).unwrap();
    assert_eq!(settings.policy.mode, Mode::Active);
    assert_eq!(settings.executor.civo.api_key.reveal(), "hunter2");
    assert_eq!(settings.executor.civo.region, "");
    assert_eq!(warnings, []);
}

#[test]
fn the_api_key_is_never_printed() {
    let (settings, _) = load(sources("", &ACCOUNT)).unwrap();
    assert_eq!(shown(&settings, "executor.civo.api_key"), "*** (env CIVO_API_KEY)");
    assert!(!format!("{settings:?}").contains("hunter2"));
    let error = load(sources("executor.civo.api_key = \"hunter2\"", &[])).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn r_82_an_empty_kubeconfig_is_in_cluster() {
    #[track_caller]
    fn check(flag: Option<&str>, file: &str, expected: Kubeconfig) {
        let mut sources = sources(file, &[]);
        sources.flags.kubeconfig = flag.map(str::to_owned);
        assert_eq!(load(sources).unwrap().0.kubeconfig, expected);
    }
    check(Some(""), "kubeconfig = \"/k\"", Kubeconfig::InCluster);
    check(Some("/f"), "kubeconfig = \"/k\"", Kubeconfig::File(PathBuf::from("/f")));
    check(None, "kubeconfig = \"/k\"", Kubeconfig::File(PathBuf::from("/k")));
    check(None, "kubeconfig = \"\"", Kubeconfig::InCluster);
}

#[test]
fn retired_variables_name_their_successor() {
    let env = [("CIVO_NODE_DESIRED_GPU_COUNT", "8"), ("CIVO_NODE_REBOOT_TIME_WINDOW_MINUTES", "40")];
    let (settings, warnings) = load(sources("", &env)).unwrap();
    assert_eq!(settings.policy, Policy::default());
    check_warnings(
        &warnings,
        &[
            "CIVO_NODE_DESIRED_GPU_COUNT: is no longer read; its successor is the node's label nvidia.com/gpu.count",
            "CIVO_NODE_REBOOT_TIME_WINDOW_MINUTES: is no longer read; its successor is CIVO_NODE_REBOOT_WAIT_MINUTES",
        ],
    );
    assert_eq!(load(sources("", &[("CIVO_NODE_DESIRED_GPU_COUNT", "")])).unwrap().1, []);
}

#[test]
fn the_limit_on_actions_in_flight_is_a_number_or_a_word() {
    #[track_caller]
    fn check(value: &str, expected: ConcurrentLimit) {
        let (settings, _) = load(sources(&format!("gate.concurrent = {value}"), &[])).unwrap();
        assert_eq!(settings.policy.concurrent, expected);
        assert_eq!(shown(&settings, "gate.concurrent"), format!("{value} (a.toml:1)"));
    }
    check("3", ConcurrentLimit::Fixed(3));
    check("\"auto\"", ConcurrentLimit::PerHundredNodes);
    check("\"off\"", ConcurrentLimit::Off);
    let accepted = "1 to 10000, \"auto\" (one per 100 nodes, rounded up) or \"off\" (no limit)";
    check_error("gate.concurrent = 0", &format!("a.toml:1:19: gate.concurrent is 0; accepted: {accepted}"));
}

#[test]
fn the_api_listens_on_loopback_only() {
    let accepted = "a loopback address and a port, as \"127.0.0.1:9626\" (there is no authentication for others)";
    for address in ["0.0.0.0:9626", "10.0.0.1:1", "localhost:9626", "127.0.0.1"] {
        let expected = format!("a.toml:1:14: api.listen is {address:?}; accepted: {accepted}");
        check_error(&format!("api.listen = {address:?}"), &expected);
    }
    let (settings, _) = load(sources("api.listen = \"[::1]:80\"", &[])).unwrap();
    assert_eq!(settings.api.listen.to_string(), "[::1]:80");
}

#[test]
fn the_file_is_held_to_the_same_label_rules_as_the_api_server() {
    check_error(
        "nodes.pool_ids = [\"a\", \"\"]",
        &format!("a.toml:1:24: nodes.pool_ids contains \"\"; accepted: {}", label_values()),
    );
    check_error(
        "nodes.selector = \"tier gold\"",
        "a.toml:1:18: nodes.selector is \"tier gold\"; accepted: \
         a Kubernetes label selector, as \"tier=gold,zone in (a,b)\"; empty: none",
    );
}

#[test]
fn a_backoff_above_its_cap_is_refused_where_it_was_set() {
    check_error(
        "recovery.backoff_base = \"6m\"",
        "a.toml:1:25: recovery.backoff_base is \"6m\"; accepted: at most recovery.backoff_cap, which is \"5m\"",
    );
    check_error(
        "[recovery]\nbackoff_cap = \"5s\"",
        "a.toml:2:15: recovery.backoff_base is \"10s\"; accepted: at most recovery.backoff_cap, which is \"5s\"",
    );
    check_error(
        "[checkers.defaults]\nbackoff_cap = \"5s\"\n[checker.gpu]",
        "a.toml:2:15: backoff_base is \"30s\"; accepted: at most backoff_cap, which is \"5s\"",
    );
}

/// `supervision` P-54.
#[test]
fn a_checker_has_its_own_settings_then_the_common_ones_then_those_of_its_profile() {
    let file = r#"
        [checkers.defaults]
        required = true
        threshold = "7m"
        limits = { wall_limit = "3s" }
        [checker.python]
        profile = "interpreted"
        required = false
        grants = ["pods", "log", "pods"]
        limits = { memory = "100MiB" }
        settings = { a = [1, 2.5, true], b = { c = "d" } }
        [checker.gpu]
        threshold = "0s"
    "#;
    let (settings, _) = load(sources(file, &[])).unwrap();
    let python = settings.checkers.of("python");
    assert_eq!(python.profile, Profile::Interpreted);
    assert!(!python.required);
    assert_eq!(python.grants, [Grant::Log, Grant::Pods]);
    assert_eq!(python.limits.call_deadline, Duration::from_millis(500));
    assert_eq!(python.limits.wall_limit, Duration::from_secs(3));
    assert_eq!(python.limits.memory, 100 << 20);
    assert_eq!(
        serde_json::Value::Object(python.settings.clone()),
        serde_json::json!({"a": [1, 2.5, true], "b": {"c": "d"}})
    );
    assert_eq!(shown(&settings, "checker.python.settings"), "{ a = [1, 2.5, true], b = { c = \"d\" } } (a.toml:11)");
    let gpu = settings.checkers.of("gpu");
    assert!(gpu.required);
    assert_eq!(gpu.limits.call_deadline, Duration::from_millis(100));
    assert_eq!(settings.checkers.of("another"), &settings.checkers.defaults);

    let thresholds: Vec<_> = settings.policy.thresholds.iter().map(|(key, at)| (key.as_str(), *at)).collect();
    assert_eq!(thresholds, [("gpu", Duration::ZERO), ("python", MINUTE * 7)]);
    assert_eq!(settings.policy.default_threshold, Some(MINUTE * 7));
}

#[test]
fn a_soft_limit_that_nobody_set_gives_way_to_the_deadline() {
    let (settings, _) = load(sources("checker.gpu.limits.call_deadline = \"10ms\"", &[])).unwrap();
    assert_eq!(settings.checkers.of("gpu").limits.soft_limit, Duration::from_millis(10));
    check_error(
        "checker.gpu.limits.soft_limit = \"200ms\"",
        "a.toml:1:33: limits.soft_limit is \"200ms\"; accepted: at most limits.call_deadline, which is \"100ms\"",
    );
}

#[test]
fn settings_of_a_checker_are_a_table_of_json() {
    let accepted = "accepted: a table, without dates and without infinite numbers";
    check_error("checker.gpu.settings = 3", &format!("a.toml:1:24: checker.gpu.settings is 3; {accepted}"));
    check_error(
        "checker.gpu.settings = { at = 2026-01-01 }",
        &format!("a.toml:1:31: checker.gpu.settings contains 2026-01-01; {accepted}"),
    );
    check_error("checker.gpu.settings.a = inf", &format!("a.toml:1:26: checker.gpu.settings contains inf; {accepted}"));
}

#[track_caller]
fn check_error(file: &str, expected: &str) {
    assert_eq!(load(sources(file, &[])).unwrap_err().to_string(), expected);
}

#[track_caller]
fn check_warnings(warnings: &[Warning], expected: &[&str]) {
    assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.to_string().starts_with(expected), "{warning}");
    }
}

fn label_values() -> &'static str {
    "a list of label values: letters, digits, '-', '_' and '.', at most 63, a letter or digit at both ends"
}

fn shown(settings: &Settings, key: &str) -> String {
    let shown = settings.show().iter().find(|shown| shown.key == key).unwrap();
    format!("{} ({})", shown.value, shown.source)
}

fn sources(file: &str, env: &[(&str, &str)]) -> Sources {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { file: Some((PathBuf::from("a.toml"), file.to_owned())), env, flags: Flags::default() }
}

//! Metrics under the names of `recovery` 6.1. Counters are moved by the core's events; everything about a node
//! that has a present state is read from the fleet at scrape, so a gauge cannot drift and a node that is gone
//! has no series left.

use std::fmt::Write;

use apgar_core::decision::{Mode, Step};
use apgar_core::event::{Event, Verification};
use apgar_core::fleet::{Fleet, ReconcileError};
use apgar_core::recovery::{Cause, Shown};
use apgar_core::supervision::{self, Booked, Reload};
use apgar_core::time::Time;
use apgar_core::verdict::{CheckerKey, Verdict};
use apgar_engine::{Corrections, DirectoryState, Finished};
use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, TextEncoder};

use crate::config::Settings;
use crate::supervise::Plugins;

/// From 10 µs, a bundled checker in a fresh store, to past the longest CPU budget (2 s).
const CALL_BUCKETS: [f64; 13] = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2e-2, 1e-1, 5e-1, 2.0, 10.0];

/// Steps that leave a series with a node's name; removed with the node.
const STEPS: [Step; 9] = [
    Step::Notify,
    Step::RestartPod,
    Step::Cordon,
    Step::Drain,
    Step::Reboot,
    Step::Replace,
    Step::Template,
    Step::Webhook,
    Step::Command,
];

/// Shown from the start, at zero: an alert on a rise needs a series to rise from.
const RECONCILE_ERRORS: [ReconcileError; 6] = [
    ReconcileError::ListNodes,
    ReconcileError::Watch,
    ReconcileError::EmptyList,
    ReconcileError::Decode,
    ReconcileError::Store,
    ReconcileError::Evaluate,
];

/// What came of checks.
const CALLS: [&str; 5] = ["pass", "fail", "err", "died", "late"];

/// The daemon's metrics.
#[derive(Debug)]
pub struct Metrics {
    namespace: String,
    cluster_id: String,
    registry: prometheus::Registry,
    actions: IntCounterVec,
    failures: IntCounterVec,
    reconcile_errors: IntCounterVec,
    outcomes: IntCounterVec,
    verifications: IntCounterVec,
    gave_up: IntCounterVec,
    calls: IntCounterVec,
    call_seconds: HistogramVec,
    reloads: IntCounterVec,
    deaths: IntCounterVec,
    sanitised: IntCounterVec,
}

impl Metrics {
    /// The metrics of these settings, all counters without labels from outside at zero.
    ///
    /// # Errors
    /// When a name is invalid: the namespace was validated, so this is a bug.
    pub fn new(settings: &Settings) -> prometheus::Result<Self> {
        let namespace = settings.metrics.namespace.clone();
        let registry = prometheus::Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counter = IntCounterVec::new(Opts::new(name, help).namespace(&namespace), labels)?;
            register(&registry, &counter)?;
            Ok(counter)
        };
        let call_seconds = HistogramVec::new(
            HistogramOpts::new("plugin_call_duration_seconds", "Guest time of a check.")
                .namespace(&namespace)
                .buckets(CALL_BUCKETS.into()),
            &["plugin"],
        )?;
        register(&registry, &call_seconds)?;
        let metrics = Self {
            actions: counter("recovery_actions_total", "Repair attempts.", &["node", "action", "mode"])?,
            failures: counter("recovery_failures_total", "Repair calls without effect.", &["node", "action"])?,
            reconcile_errors: counter("reconcile_errors_total", "Trouble that is nobody's sickness.", &["reason"])?,
            outcomes: counter("recovery_outcomes_total", "What came of calls.", &["action", "outcome", "mode"])?,
            verifications: counter("recovery_verifications_total", "Reboots decided by the boot id.", &["result"])?,
            gave_up: counter("recovery_gave_up_total", "Nodes given up.", &["cause"])?,
            calls: counter("plugin_calls_total", "Checks by what came of them.", &["plugin", "result"])?,
            reloads: counter("plugin_reloads_total", "Plugin files by what came of them.", &["plugin", "result"])?,
            deaths: counter("plugin_deaths_total", "Deaths by how they were booked.", &["plugin", "cause", "booked"])?,
            sanitised: counter("plugin_sanitised_total", "What had to be put right in answers.", &["plugin", "field"])?,
            call_seconds,
            cluster_id: settings.executor.civo.cluster_id.clone(),
            namespace: namespace.clone(),
            registry: registry.clone(),
        };
        for reason in RECONCILE_ERRORS {
            metrics.reconcile_errors.with_label_values(&[reason.as_str()]);
        }
        for result in [Verification::Verified, Verification::NotObserved, Verification::Unknown] {
            metrics.verifications.with_label_values(&[result.as_str()]);
        }
        for cause in [Cause::Attempts, Cause::Calls] {
            metrics.gave_up.with_label_values(&[cause.as_str()]);
        }
        for outcome in ["done", "refused", "failed", "unconfirmed"] {
            for mode in [Mode::Monitor, Mode::Active] {
                metrics.outcomes.with_label_values(&[Step::Reboot.as_str(), outcome, mode.as_str()]);
            }
        }
        Ok(metrics)
    }

    /// Moves the counters that an event moves.
    pub fn count(&self, event: &Event) {
        match event {
            Event::Attempt { node, step, mode, .. } => {
                self.actions.with_label_values(&[node.as_str(), step.as_str(), mode.as_str()]).inc();
            }
            Event::CallFailed { node, step, .. } => {
                self.failures.with_label_values(&[node.as_str(), step.as_str()]).inc();
            }
            Event::Outcome { step, outcome, mode, .. } => {
                self.outcomes.with_label_values(&[step.as_str(), *outcome, mode.as_str()]).inc();
            }
            Event::Verification { result, .. } => self.verifications.with_label_values(&[result.as_str()]).inc(),
            Event::GaveUp { cause, .. } => self.gave_up.with_label_values(&[cause.as_str()]).inc(),
            Event::ReconcileError { reason, .. } => self.reconcile_error(*reason),
            Event::NodeGone { node } => self.forget_node(node.as_str()),
            Event::Unhealthy { .. }
            | Event::WaitingThreshold { .. }
            | Event::WaitingReboot { .. }
            | Event::ForeignReboot { .. }
            | Event::Recovered { .. }
            | Event::Forgiven { .. }
            | Event::CheckerLeft { .. }
            | Event::CheckerRemoved { .. } => {}
        }
    }

    /// Counts trouble that no node is to blame for.
    pub fn reconcile_error(&self, reason: ReconcileError) {
        self.reconcile_errors.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a check. One that does not count is late.
    pub fn judged(&self, done: &Finished, counts: bool) {
        let plugin = done.plugin.key().as_str();
        let result = match (&done.result.death, &done.result.verdict) {
            (Some(_), _) => "died",
            (None, _) if !counts => "late",
            (None, Verdict::Unknown(_)) => "err",
            (None, verdict @ (Verdict::Pass(_) | Verdict::Fail(_))) => verdict.result(),
        };
        self.calls.with_label_values(&[plugin, result]).inc();
        self.call_seconds.with_label_values(&[plugin]).observe(done.result.guest_time.as_secs_f64());
        for (field, count) in done.result.corrections.counts() {
            if count > 0 {
                self.sanitised.with_label_values(&[plugin, field]).inc_by(u64::from(count));
            }
        }
    }

    /// Counts deaths of plugins.
    pub fn deaths<'a>(&self, deaths: impl Iterator<Item = &'a (CheckerKey, supervision::Cause, Booked)>) {
        for (plugin, cause, booked) in deaths {
            self.deaths.with_label_values(&[plugin.as_str(), cause.as_str(), booked.as_str()]).inc();
        }
    }

    /// Counts what newer files and configurations came to.
    pub fn reloads<'a>(&self, reloads: impl Iterator<Item = &'a (CheckerKey, Reload)>) {
        for (plugin, came_to) in reloads {
            self.reloads.with_label_values(&[plugin.as_str(), came_to.as_str()]).inc();
        }
    }

    fn forget_node(&self, node: &str) {
        for step in STEPS {
            for mode in [Mode::Monitor, Mode::Active] {
                forget(&self.actions, &[node, step.as_str(), mode.as_str()]);
            }
            forget(&self.failures, &[node, step.as_str()]);
        }
    }

    /// Drops every series of a plugin that is gone.
    pub fn forget_plugin(&self, checker: &CheckerKey) {
        let plugin = checker.as_str();
        CALLS.iter().for_each(|result| forget(&self.calls, &[plugin, result]));
        Reload::ALL.iter().for_each(|came_to| forget(&self.reloads, &[plugin, came_to.as_str()]));
        let fields = Corrections::default().counts();
        fields.iter().for_each(|(field, _)| forget(&self.sanitised, &[plugin, field]));
        for cause in supervision::Cause::ALL {
            Booked::ALL.iter().for_each(|booked| forget(&self.deaths, &[plugin, cause.as_str(), booked.as_str()]));
        }
        // Nothing to remove if it never ran.
        let _never_ran: prometheus::Result<()> = self.call_seconds.remove_label_values(&[plugin]);
    }

    /// All metrics in the text format.
    #[must_use]
    pub fn render(&self, fleet: &Fleet, plugins: &Plugins, watch_alive: bool, now: Time) -> String {
        let mut out = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut out) {
            tracing::error!(event = "metrics_failed", %error, "metrics cannot be encoded");
        }
        let mut text = Text { out, namespace: &self.namespace, name: "" };
        text.family("info", "gauge", "The program and its cluster.");
        text.sample(&[("version", env!("CARGO_PKG_VERSION")), ("cluster_id", &self.cluster_id)], 1);
        text.family("watch_alive", "gauge", "1 while the watch is alive; nothing is decided without it.");
        text.sample(&[("watch", "nodes")], u8::from(watch_alive));
        plugin_series(&mut text, plugins, now);
        node_series(&mut text, fleet);
        text.out
    }
}

fn register(registry: &prometheus::Registry, collector: &(impl Collector + Clone + 'static)) -> prometheus::Result<()> {
    registry.register(Box::new(collector.clone()))
}

fn forget(counter: &IntCounterVec, labels: &[&str]) {
    // Most combinations never had a series.
    let _never_was: prometheus::Result<()> = counter.remove_label_values(labels);
}

/// Everything about plugins that has a present state, straight from the machine.
fn plugin_series(text: &mut Text<'_>, plugins: &Plugins, now: Time) {
    let supervisor = plugins.supervisor();
    text.family("plugin_state", "gauge", "1 for the state a checker plugin is in.");
    for (name, _) in supervisor.plugins() {
        if let Some(state) = supervisor.state(name, now) {
            text.sample(&[("plugin", name.as_str()), ("state", state.as_str())], 1);
        }
    }
    text.family("plugin_info", "gauge", "The generation of a checker that answers.");
    for (name, record) in supervisor.plugins() {
        let Some((track, plugin)) = record.answering().zip(plugins.answering(name)) else {
            continue;
        };
        let (generation, source) = (track.generation.to_string(), track.source.as_str());
        let version = ("version", plugin.description().version.as_str());
        text.sample(&[("plugin", name.as_str()), ("generation", &generation), version, ("source", source)], 1);
    }
    let marked = || supervisor.plugins().filter_map(|(name, _)| Some((name.as_str(), supervisor.marker(name)?.1)));
    text.family("plugin_crashed", "gauge", "1 while a crash of a checker plugin matters.");
    for (name, entry) in marked() {
        text.sample(&[("plugin", name), ("cause", entry.last.cause.as_str())], 1);
    }
    text.family("plugin_crash_count", "gauge", "Crashes that are held against a checker plugin.");
    for (name, entry) in marked() {
        text.sample(&[("plugin", name)], entry.count);
    }
    text.family("plugin_next_attempt_timestamp_seconds", "gauge", "When a crashed plugin is tried again.");
    for (name, entry) in marked() {
        let at = entry.next.map_or_else(|| "+Inf".to_owned(), |at| (at.unix_ms() / 1000).to_string());
        text.sample(&[("plugin", name)], at);
    }
    text.family("plugin_refused", "gauge", "1 while a file or its settings are not acceptable.");
    for (name, record) in supervisor.plugins() {
        if let Some((_, refused)) = record.refusal() {
            text.sample(&[("plugin", name.as_str()), ("reason", refused.reason.as_str())], 1);
        }
    }
    text.family("plugin_quarantined_nodes", "gauge", "Nodes that a checker plugin dies at and is not asked about.");
    for (name, record) in supervisor.plugins() {
        text.sample(&[("plugin", name.as_str())], record.quarantined(now).count());
    }
    text.family("plugin_directory_up", "gauge", "0 while the plugin directory is lost or suddenly empty.");
    let up = match plugins.directory.status().state {
        DirectoryState::Ok | DirectoryState::Absent => 1,
        DirectoryState::Lost | DirectoryState::Emptied => 0,
    };
    text.sample(&[], up);
}

/// Everything about nodes, straight from the fleet: at 100,000 nodes a registry of series would take more memory
/// than the fleet itself.
fn node_series(text: &mut Text<'_>, fleet: &Fleet) {
    text.family("nodes", "gauge", "Nodes by phase.");
    for (phase, count) in fleet.phase_counts() {
        text.sample(&[("phase", phase.as_str())], count);
    }
    text.family("recovery_phase", "gauge", "1 for a node's phase, 0 for one it has left.");
    for node in fleet.nodes().filter(|node| node.evaluated) {
        // Healthy always has a series, so that a fleet can be counted by it.
        for phase in Shown::ALL.into_iter().filter(|p| *p == Shown::Healthy || node.phases.contains(*p)) {
            let current = u8::from(phase == node.phase);
            text.sample(&[("node", node.name.as_str()), ("phase", phase.as_str())], current);
        }
    }
    text.family("node_unhealthy_duration_seconds", "gauge", "For how long a node has been sick.");
    for node in fleet.nodes() {
        if let Some(red_for) = node.red_for {
            text.sample(&[("node", node.name.as_str())], red_for.as_secs_f64());
        }
    }
    text.family("recovery_attempts", "gauge", "Attempts in a node's incident.");
    for node in fleet.nodes() {
        text.optional(&[("node", node.name.as_str())], node.attempts);
    }
    text.family("recovery_failed_calls", "gauge", "Calls without effect in a node's incident.");
    for node in fleet.nodes() {
        text.optional(&[("node", node.name.as_str())], node.failed_calls);
    }
    text.family("health_check_total", "counter", "Verdicts, counted at each tick.");
    for node in fleet.nodes() {
        for checker in node.checkers() {
            let counts = [("pass", checker.passes), ("fail", checker.fails), ("unknown", checker.unknowns)];
            for (result, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
                let labels = [("node", node.name.as_str()), ("checker", checker.key.shown()), ("result", result)];
                text.sample(&labels, count);
            }
        }
    }
    text.family("checker_reason_info", "gauge", "The reason of a checker's present verdict.");
    for node in fleet.nodes() {
        for checker in node.checkers() {
            if let Some(reason) = checker.reason {
                let labels = [("node", node.name.as_str()), ("checker", checker.key.shown()), ("reason", reason)];
                text.sample(&labels, 1);
            }
        }
    }
    text.family("checker_failing_age_seconds", "gauge", "For how long a checker has failed.");
    for node in fleet.nodes() {
        for checker in node.checkers() {
            let labels = [("node", node.name.as_str()), ("checker", checker.key.shown())];
            text.optional(&labels, checker.failing_age.map(|age| age.as_secs_f64()));
        }
    }
}

/// The text format, a family at a time.
struct Text<'a> {
    out: String,
    namespace: &'a str,
    name: &'static str,
}

impl Text<'_> {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let namespace = self.namespace;
        self.write(format_args!("# HELP {namespace}_{name} {help}\n# TYPE {namespace}_{name} {kind}\n"));
    }

    fn optional(&mut self, labels: &[(&str, &str)], value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.sample(labels, value);
        }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let (namespace, name) = (self.namespace, self.name);
        self.write(format_args!("{namespace}_{name}{{"));
        for (index, (label, text)) in labels.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if text.contains(['\\', '"', '\n']) {
                let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                self.write(format_args!("{comma}{label}=\"{text}\""));
            } else {
                self.write(format_args!("{comma}{label}=\"{text}\""));
            }
        }
        self.write(format_args!("}} {value}\n"));
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _infallible: std::fmt::Result = self.out.write_fmt(text);
    }
}

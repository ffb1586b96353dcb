//! The log: its set-up, and one line for each of the core's events (`recovery` 6.3).

use std::io::IsTerminal;

use apgar_core::event::{Event, Level};
use apgar_core::verdict::CheckerKey;
use apgar_engine::{Finished, LogLevel, RegistryEvent};
use tracing::{debug, error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Settings};

/// What every line about the cluster says of it, under the names of the agent that Apgar replaces.
#[derive(Debug, Clone)]
pub struct Identity {
    cluster_id: String,
    region: String,
    node_pool_ids: String,
}

impl Identity {
    /// The identity of these settings.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            cluster_id: settings.executor.civo.cluster_id.clone(),
            region: settings.executor.civo.region.clone(),
            node_pool_ids: settings.nodes.pool_ids.join(","),
        }
    }
}

/// Sends log lines to standard error. Called once.
pub fn start(settings: &crate::config::Log) {
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    // Our own lines at the wanted level; the libraries below speak up only when something is wrong.
    let filter = EnvFilter::new(format!("warn,apgar={0},apgar_engine={0}", settings.level.as_str()));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    };
    if let Err(error) = started {
        eprintln!("log: {error}");
    }
}

/// A line with the fields that every line about the cluster has.
macro_rules! line {
    ($identity:ident, $event:ident, $($fields:tt)*) => {{
        let (kind, message) = ($event.kind(), $event.message().unwrap_or_default());
        let node = $event.node().map(|node| tracing::field::display(node.clone()));
        line!(@level $event, clusterID = %$identity.cluster_id, region = %$identity.region,
            nodePoolIDs = %$identity.node_pool_ids, event = kind, node, $($fields)* message)
    }};
    (@level $event:ident, $($all:tt)*) => {
        match $event.level() {
            Level::Debug => debug!($($all)*),
            Level::Info => info!($($all)*),
            Level::Warn => warn!($($all)*),
            Level::Error => error!($($all)*),
        }
    };
}

/// Writes the line of an event.
pub fn write(event: &Event, identity: &Identity) {
    match event {
        Event::Unhealthy { incident, failed_checkers, .. } => {
            line!(identity, event, failedCheckers = names(failed_checkers), incident,)
        }
        Event::WaitingThreshold { elapsed, threshold, failed_checkers, .. } => {
            line!(identity, event, elapsed = ?elapsed, threshold = ?threshold, failedCheckers = names(failed_checkers),)
        }
        Event::Attempt { mode, count, unconfirmed, failed_checkers, attempt, step, .. } => line!(
            identity, event, mode = mode.as_str(), step = step.as_str(), attempt = %attempt, rebootCount = count,
            failedCheckers = names(failed_checkers), error = unconfirmed.as_deref(),
        ),
        Event::WaitingReboot { elapsed, wait, count, gpu, .. } => {
            line!(identity, event, elapsed = ?elapsed, rebootWait = ?wait, rebootCount = count, isGPUNode = gpu,)
        }
        Event::CallFailed { step, outcome, error, failed_calls, next_call_in, .. } => line!(
            identity, event, step = step.as_str(), error, outcome, failedRebootCount = failed_calls,
            nextCallIn = ?next_call_in,
        ),
        Event::Outcome { attempt, step, mode, outcome, detail, .. } => line!(
            identity, event, attempt = %attempt, step = step.as_str(), mode = mode.as_str(), outcome, detail,
        ),
        Event::Verification { before, boot_id, count, .. } => {
            line!(identity, event, bootIDBefore = %before, bootID = %boot_id, rebootCount = count,)
        }
        Event::ForeignReboot { before, boot_id, .. } => {
            line!(identity, event, bootIDBefore = %before, bootID = %boot_id,)
        }
        Event::GaveUp { cause, count, failed_calls, .. } => {
            line!(identity, event, cause = cause.as_str(), rebootCount = count, failedRebootCount = failed_calls,)
        }
        Event::Recovered { previous, attempts_kept, .. } => {
            line!(identity, event, previousPhase = previous.as_str(), attemptsKept = attempts_kept,)
        }
        Event::Forgiven { incident, .. } => line!(identity, event, incident,),
        Event::CheckerLeft { checker, .. } | Event::CheckerRemoved { checker } => {
            line!(identity, event, checker = checker.shown(),)
        }
        Event::NodeGone { .. } => line!(identity, event,),
        Event::ReconcileError { reason, detail, .. } => {
            line!(identity, event, reason = reason.as_str(), detail = detail.as_deref(),)
        }
    }
}

/// Writes the line of a change among the plugins.
pub fn plugin(event: &RegistryEvent) {
    match event {
        RegistryEvent::Serves { plugin, replaces } => info!(
            event = "plugin_serves", plugin = plugin.key().as_str(), generation = %plugin.generation(),
            replaces = replaces.as_ref().map(tracing::field::display), pure = plugin.pure(), "a checker serves"
        ),
        RegistryEvent::Stopped { name } => {
            info!(event = "plugin_stopped", plugin = name.as_str(), "a checker was disabled");
        }
        RegistryEvent::Removed { name } => {
            info!(event = "plugin_removed", plugin = name.as_str(), "a checker was removed");
        }
        RegistryEvent::Refused { name, message, still_serving, .. } => warn!(
            event = "plugin_refused",
            plugin = name.as_str(),
            why = message,
            stillServing = still_serving,
            "a checker was refused"
        ),
        RegistryEvent::DirectoryLost { message } => {
            warn!(event = "directory_lost", why = message, "the plugin directory cannot be read; all serve on");
        }
        RegistryEvent::DirectoryEmptied { had } => {
            warn!(event = "directory_emptied", had, "the plugin directory is suddenly empty; all serve on");
        }
        RegistryEvent::DirectoryBack => info!(event = "directory_back", "the plugin directory is back"),
    }
}

/// Writes what a checker logged, and how it died if it did.
pub fn check(done: &Finished) {
    let plugin = done.plugin.key().as_str();
    let node = done.node.as_str();
    for line in &done.result.log_lines {
        match line.level {
            LogLevel::Debug => debug!(event = "plugin_log", plugin, node, "{}", line.text),
            LogLevel::Info => info!(event = "plugin_log", plugin, node, "{}", line.text),
            LogLevel::Warn => warn!(event = "plugin_log", plugin, node, "{}", line.text),
            LogLevel::Error => error!(event = "plugin_log", plugin, node, "{}", line.text),
        }
    }
    if let Some(death) = &done.result.death {
        warn!(event = "check_died", plugin, node, why = %death, "a check died; its node is unknown to this checker");
    }
    if let Some(fault) = &done.result.fault {
        error!(event = "engine_fault", plugin, node, why = fault, "a check could not be made");
    }
}

fn names(checkers: &[CheckerKey]) -> String {
    checkers.iter().map(CheckerKey::shown).collect::<Vec<_>>().join(",")
}

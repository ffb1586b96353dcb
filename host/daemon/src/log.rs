//! The log: its set-up, and one line for each of the core's events (`recovery` 6.3).

use std::io::IsTerminal;

use apgar_core::event::{Event, Level};
use apgar_core::node::NodeName;
use apgar_core::time::human;
use apgar_core::verdict::CheckerKey;
use apgar_engine::{Finished, LogLevel};
use tracing::field::{Field, Visit};
use tracing::{debug, error, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogFormat, Settings};
use crate::events::Happened;

/// Sends log lines to standard error. Called once.
pub fn start(settings: &Settings) {
    let json = match settings.log.format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    // Our own lines at the wanted level; the libraries below speak up only when something is wrong, and kube's
    // client not at all: what it cannot do is said by whoever asked it to.
    let level = settings.log.level.as_str();
    let filter = EnvFilter::new(format!("warn,kube_client=off,apgar={level},apgar_engine={level}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json {
        builder.event_format(JsonLine::of(settings)).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    };
    if let Err(error) = started {
        eprintln!("log: {error}");
    }
}

/// A line as one JSON object, with what the agent that Apgar replaces said of the cluster in each of its lines.
struct JsonLine {
    cluster_id: String,
    region: String,
    node_pool_ids: String,
}

impl JsonLine {
    fn of(settings: &Settings) -> Self {
        Self {
            cluster_id: settings.executor.civo.cluster_id.clone(),
            region: settings.executor.civo.region.clone(),
            node_pool_ids: settings.nodes.pool_ids.join(","),
        }
    }
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let mut line = Fields::default();
        writer.write_str(r#"{"timestamp":""#)?;
        SystemTime.format_time(&mut writer)?;
        line.text("level", event.metadata().level().as_str().to_ascii_lowercase());
        event.record(&mut line);
        for (field, value) in
            [("clusterID", &self.cluster_id), ("region", &self.region), ("nodePoolIDs", &self.node_pool_ids)]
        {
            line.text(field, value.clone());
        }
        let rest = serde_json::Value::Object(line.0).to_string();
        // The object's own opening brace is replaced by what stands before it.
        writeln!(writer, r#"",{}"#, rest.strip_prefix('{').unwrap_or(&rest))
    }
}

/// The fields of a line, in their order.
#[derive(Default)]
struct Fields(serde_json::Map<String, serde_json::Value>);

impl Fields {
    fn text(&mut self, field: &str, value: String) {
        self.0.insert(field.to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.text(field.name(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value.to_owned());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

/// A line with the fields that every event of the core has.
macro_rules! line {
    ($event:ident, $($fields:tt)*) => {{
        let (kind, message) = ($event.kind(), $event.message().unwrap_or($event.kind()));
        let node = $event.node().map(|node| tracing::field::display(node.clone()));
        line!(@level $event, event = kind, node, $($fields)* message)
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
pub fn write(event: &Event) {
    match event {
        Event::Unhealthy { incident, failed_checkers, .. } => {
            line!(event, failedCheckers = names(failed_checkers), incident,)
        }
        Event::WaitingThreshold { elapsed, threshold, failed_checkers, .. } => {
            line!(
                event,
                elapsed = human(*elapsed),
                threshold = human(*threshold),
                failedCheckers = names(failed_checkers),
            )
        }
        Event::Attempt { mode, count, unconfirmed, failed_checkers, attempt, step, .. } => line!(
            event, mode = mode.as_str(), step = step.as_str(), attempt = %attempt, rebootCount = count,
            failedCheckers = names(failed_checkers), error = unconfirmed.as_deref(),
        ),
        Event::WaitingReboot { elapsed, wait, count, gpu, .. } => {
            line!(event, elapsed = human(*elapsed), rebootWait = human(*wait), rebootCount = count, isGPUNode = gpu,)
        }
        Event::CallFailed { step, outcome, error, failed_calls, next_call_in, .. } => line!(
            event,
            step = step.as_str(),
            error,
            outcome,
            failedRebootCount = failed_calls,
            nextCallIn = human(*next_call_in),
        ),
        Event::Outcome { attempt, step, mode, outcome, detail, .. } => line!(
            event, attempt = %attempt, step = step.as_str(), mode = mode.as_str(), outcome, detail,
        ),
        Event::Verification { before, boot_id, count, .. } => {
            line!(event, bootIDBefore = %before, bootID = %boot_id, rebootCount = count,)
        }
        Event::ForeignReboot { before, boot_id, .. } => {
            line!(event, bootIDBefore = %before, bootID = %boot_id,)
        }
        Event::GaveUp { cause, count, failed_calls, .. } => {
            line!(event, cause = cause.as_str(), rebootCount = count, failedRebootCount = failed_calls,)
        }
        Event::Recovered { previous, attempts_kept, .. } => {
            line!(event, previousPhase = previous.as_str(), attemptsKept = attempts_kept,)
        }
        Event::Forgiven { incident, .. } => line!(event, incident,),
        Event::CheckerLeft { checker, .. } | Event::CheckerRemoved { checker } => {
            line!(event, checker = checker.shown(),)
        }
        Event::NodeGone { .. } => line!(event,),
        Event::ReconcileError { reason, detail, .. } => {
            line!(event, reason = reason.as_str(), detail = detail.as_deref(),)
        }
    }
}

/// Says that judgement is held, because the Node watch is dead, or goes on (`lifecycle` 6.2).
pub fn judgement(live: bool, why: &str) {
    if live {
        info!(event = "judgement_resumed", watch = "nodes", "the node watch is alive");
    } else {
        warn!(event = "judgement_held", watch = "nodes", why, "the node watch is dead; nothing is decided");
    }
}

/// Writes the line of what happened to a plugin.
pub fn plugin(event: &Happened) {
    let Happened { kind, plugin, generation, node, message } = event;
    let (plugin, node) = (plugin.as_ref().map(CheckerKey::as_str), node.as_ref().map(NodeName::as_str));
    let generation = generation.as_ref().map(tracing::field::display);
    if kind.is_warning() {
        warn!(event = kind.as_str(), plugin, generation, node, "{message}");
    } else {
        info!(event = kind.as_str(), plugin, generation, node, "{message}");
    }
}

/// Writes what a checker logged, and how it died if it did.
pub fn check(done: &Finished) {
    let plugin = done.plugin.key().as_str();
    let node = done.node.name.as_str();
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

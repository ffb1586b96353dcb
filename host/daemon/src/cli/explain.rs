//! `apgar explain`: asks a running daemon why a node was, or was not, repaired.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{Output, Usage, api, table};

/// Say why a node was, or was not, repaired; asks a running daemon
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 found; 1 no such node; 2 the daemon cannot be asked.")]
pub(crate) struct ExplainArgs {
    /// The node
    node: String,
    /// Where the daemon's API listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9626")]
    api: String,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn main(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let unknown = Usage("nothing is known of the node");
    let (status, answer) = api::ask(&args.api, Method::GET, &["nodes", &args.node, "explain"]).context(unknown)?;
    if status == StatusCode::NOT_FOUND {
        return api::refused(&args.api, status, &answer);
    }
    if !status.is_success() {
        return api::refused(&args.api, status, &answer).context(unknown);
    }
    match args.output {
        Output::Json => super::print(&format!("{answer:#}"))?,
        Output::Table => super::print(render(&answer).trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn render(report: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let field = |key: &str| report.get(key).filter(|value| !value.is_null());
    let shown = |key: &str| field(key).map(&text).unwrap_or_else(|| "-".to_owned());
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _infallible: std::fmt::Result = (|| {
        writeln!(out, "Node {}: {} since {} ({} mode)", shown("node"), shown("phase"), shown("since"), shown("mode"))?;
        if let Some(incident) = field("incident") {
            let attempts = incident.get("attempts").and_then(Value::as_object).into_iter().flatten();
            let attempts: Vec<String> = attempts.map(|(step, count)| format!("{count} {step}")).collect();
            let attempts = if attempts.is_empty() { "none".to_owned() } else { attempts.join(", ") };
            let seconds = incident.get("redForSeconds").and_then(Value::as_f64).unwrap_or_default();
            writeln!(
                out,
                "Incident {}: opened {}, sick for {}, attempts: {attempts}, failed calls: {}",
                incident.get("id").map(&text).unwrap_or_default(),
                incident.get("opened").map(&text).unwrap_or_default(),
                table::span(Duration::from_secs_f64(seconds)),
                incident.get("failedCalls").map(&text).unwrap_or_default(),
            )?;
        }
        writeln!(out, "\n{}", checkers(report))?;
        if let Some(step) = field("nextStep") {
            let earliest = field("earliest").map_or_else(|| "not known".to_owned(), &text);
            writeln!(out, "\nNext step: {}; earliest: {earliest}", text(step))?;
        }
        for hold in field("holds").and_then(Value::as_array).into_iter().flatten() {
            let part = |key: &str| hold.get(key).filter(|value| !value.is_null()).map(&text);
            let until = part("until").map(|until| format!(" (until {until})")).unwrap_or_default();
            writeln!(
                out,
                "  held by {}: {}{until}",
                part("name").unwrap_or_default(),
                part("detail").unwrap_or_default()
            )?;
        }
        Ok(())
    })();
    out
}

fn checkers(report: &Value) -> String {
    let mut table = table::table(&["CHECKER", "VERDICT", "REASON", "FAILING FOR", "THRESHOLD", "DUE"]);
    for checker in report.get("checkers").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| checker.get(key).and_then(Value::as_str).unwrap_or("-");
        let span = |key: &str| {
            let seconds = checker.get(key).and_then(Value::as_f64);
            seconds.map_or_else(|| "-".to_owned(), |s| table::span(Duration::from_secs_f64(s)))
        };
        let detail = match text("detail") {
            "" | "-" => text("reason").to_owned(),
            detail => format!("{}: {detail}", text("reason")),
        };
        table.add_row(vec![
            text("checker").into(),
            table::verdict(text("verdict")),
            detail.into(),
            span("ageSeconds").into(),
            span("thresholdSeconds").into(),
            text("dueAt").into(),
        ]);
    }
    table.to_string()
}

//! `apgar get`: asks a running daemon what it has.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use comfy_table::{Cell, Color};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::Value;

use super::{Usage, api, table};

/// List what a running daemon has
#[derive(Debug, clap::Subcommand)]
pub(crate) enum GetCommand {
    /// The checker plugins: which serve, which do not, why, and when the next attempt is
    #[command(after_help = "CRASHES is deaths of those that are allowed (∞: all are), NEXT the time until the next \
        attempt, WHY the last death or the refusal. A plugin that is Running can have both: then a newer file does \
        not come to serve, and the old one goes on.\n\n\
        Exit codes: 0 asked and answered; 1 with --check, an enabled plugin does not serve; 2 the daemon cannot be \
        asked.")]
    Plugins(PluginsArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct PluginsArgs {
    /// Where the daemon's API listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9626")]
    api: String,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    /// Exit with 1 if an enabled plugin does not serve
    #[arg(long)]
    check: bool,
}

/// A table, narrow or wide, or JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// For people with room: newer and older generations, quarantined nodes and limits as well
    Wide,
    /// The API's answer, for programs
    Json,
}

pub(crate) fn main(command: &GetCommand) -> anyhow::Result<ExitCode> {
    let GetCommand::Plugins(args) = command;
    let (status, answer) =
        api::ask(&args.api, Method::GET, &["plugins"]).context(Usage("the plugins are not known"))?;
    if !status.is_success() {
        return api::refused(&args.api, status, &answer).context(Usage("the plugins are not known"));
    }
    match args.output {
        Output::Json => super::print(&format!("{answer:#}"))?,
        output @ (Output::Table | Output::Wide) => {
            let now = Timestamp::now();
            super::print(render(&answer, output == Output::Wide, now).trim_end())?;
        }
    }
    let fails = args.check && items(&answer, "items").any(|plugin| !serves(plugin));
    Ok(ExitCode::from(u8::from(fails)))
}

/// Whether a plugin serves, or was stopped on purpose.
fn serves(plugin: &Value) -> bool {
    matches!(text(plugin, "state"), Some("Running" | "Stopped"))
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

fn dash(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// What is wanted of a key that may be missing or null.
fn part<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|value| !value.is_null())
}

fn render(answer: &Value, wide: bool, now: Timestamp) -> String {
    let mut headings = vec!["NAME", "SOURCE", "STATE", "GENERATION", "START", "CRASHES", "NEXT", "WHY"];
    if wide {
        headings.extend(["WANTED", "SUPERSEDED", "QUARANTINED", "MEMORY", "DEADLINE"]);
    }
    let mut table = table::table(&headings);
    for plugin in items(answer, "items") {
        let mut row: Vec<Cell> = vec![
            text(plugin, "name").unwrap_or("-").into(),
            text(plugin, "source").unwrap_or("-").into(),
            state(text(plugin, "state").unwrap_or("-")),
            text(plugin, "generation").unwrap_or("-").into(),
            dash(number(plugin, "start").map(|start| start.to_string())).into(),
            dash(part(plugin, "marker").and_then(crashes)).into(),
            dash(part(plugin, "marker").and_then(|marker| next(marker, now))).into(),
            dash(why(plugin)).into(),
        ];
        if wide {
            row.extend(more(plugin).map(|more| Cell::new(dash(more))));
        }
        table.add_row(row);
    }
    let mut out = format!("{table}\n");
    // Writing to a String cannot fail.
    let _infallible: std::fmt::Result = directory(&mut out, answer.get("directory").unwrap_or(&Value::Null));
    out
}

fn state(state: &str) -> Cell {
    let color = match state {
        "Running" => Color::Green,
        "Crashed" | "Failed" | "Refused" => Color::Red,
        _ => Color::Yellow,
    };
    Cell::new(state).fg(color)
}

/// Deaths of those that are allowed; no limit is 0 in the API.
fn crashes(marker: &Value) -> Option<String> {
    let count = number(marker, "count")?;
    Some(match number(marker, "max") {
        Some(0) => format!("{count}/∞"),
        Some(max) => format!("{count}/{max}"),
        None => count.to_string(),
    })
}

fn next(marker: &Value, now: Timestamp) -> Option<String> {
    if marker.get("saturated").and_then(Value::as_bool) == Some(true) {
        return Some("never".to_owned());
    }
    let at: Timestamp = text(marker, "nextAttempt")?.parse().ok()?;
    let wait = at.duration_since(now).as_secs();
    Some(if wait > 0 { table::span(Duration::from_secs(wait.unsigned_abs())) } else { "now".to_owned() })
}

/// The first hex digits of a generation or digest: enough to tell two apart.
fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

fn why(plugin: &Value) -> Option<String> {
    let death = part(plugin, "marker").map(|marker| {
        let (cause, stage) = (text(marker, "cause").unwrap_or("?"), text(marker, "stage").unwrap_or("?"));
        let node = text(marker, "node").map(|node| format!(" on {node}")).unwrap_or_default();
        (text(marker, "generation"), format!("{cause} in {stage}{node}"))
    });
    let refusal = part(plugin, "refusal").map(|refusal| {
        let (reason, message) = (text(refusal, "reason").unwrap_or("?"), text(refusal, "message").unwrap_or_default());
        (text(refusal, "generation"), format!("{reason}: {message}"))
    });
    // What nobody retries needs a person, and is said first.
    let (of, why) = refusal.or(death)?;
    let serving = text(plugin, "generation").filter(|_| text(plugin, "state") == Some("Running"));
    let bytes = |generation: &str| generation.split('-').next().unwrap_or_default().to_owned();
    Some(match of.zip(serving).filter(|(of, serving)| of != serving) {
        Some((of, serving)) if bytes(of) == bytes(serving) => format!("newer settings: {why}"),
        Some((of, _)) => format!("newer file {}…: {why}", short(of)),
        None => why,
    })
}

/// The columns of `-o wide`.
fn more(plugin: &Value) -> [Option<String>; 5] {
    let track = |track: &Value| {
        let generation = text(track, "generation").map(short).unwrap_or_default();
        let start = number(track, "start").map(|start| format!(" start {start}")).unwrap_or_default();
        let state = text(track, "state").map(|state| format!(" {state}")).unwrap_or_default();
        format!("{generation}…{start}{state}")
    };
    let joined = |parts: Vec<String>| (!parts.is_empty()).then(|| parts.join(", "));
    let limit = |key: &str| plugin.get("limits").and_then(|limits| number(limits, key));
    [
        part(plugin, "wanted").map(track),
        joined(items(plugin, "superseded").map(track).collect()),
        joined(items(plugin, "quarantined").filter_map(|pair| text(pair, "node").map(str::to_owned)).collect()),
        limit("memoryBytes").or_else(|| limit("memory")).map(|bytes| format!("{} MiB", bytes >> 20)),
        limit("callDeadlineMs").map(|ms| format!("{ms} ms")),
    ]
}

/// A line about a directory that is not as it should be, and one for each file that no row shows.
fn directory(out: &mut String, directory: &Value) -> std::fmt::Result {
    let path = text(directory, "path").unwrap_or("the plugin directory");
    let trouble = match text(directory, "state") {
        Some("ok") | None => None,
        Some("absent") => Some("absent: it is not there, and nobody set it".to_owned()),
        Some("lost") => Some("lost: it is missing or cannot be listed; its plugins serve on".to_owned()),
        Some("emptied") => Some(
            "emptied: it is suddenly empty; its plugins serve on until files are back, or \
             `apgar plugin unload NAME`"
                .to_owned(),
        ),
        Some(other) => Some(other.to_owned()),
    };
    if let Some(trouble) = trouble {
        writeln!(out, "\nDirectory {path}: {trouble}")?;
    }
    for refused in items(directory, "refused") {
        let field = |key| text(refused, key).unwrap_or("?");
        writeln!(out, "Refused {}: {}: {}", field("file"), field("reason"), field("message"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-01-02T03:04:17Z";

    /// The rows of a table, with columns apart by two spaces.
    fn rows(answer: &Value, wide: bool) -> Vec<String> {
        let text = render(answer, wide, NOW.parse().unwrap());
        let columns =
            |line: &str| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect::<Vec<_>>().join("|");
        text.lines().skip(1).map(columns).filter(|line| !line.is_empty()).collect()
    }

    fn marker(count: u32, max: u32, saturated: bool) -> Value {
        json!({"cause": "trap", "stage": "check", "generation": "9f2c61aa04d1-5be07c33", "node": "node-7",
            "count": count, "max": max, "nextAttempt": "2026-01-02T03:06:05Z", "saturated": saturated})
    }

    #[track_caller]
    fn check(mut plugin: Value, expected: &str) {
        plugin["name"] = "gpu".into();
        plugin["source"] = "directory".into();
        assert_eq!(rows(&json!({"items": [plugin]}), false), [format!("gpu|directory|{expected}")]);
    }

    #[test]
    fn each_state_says_what_it_is_why_and_until_when() {
        let of =
            |state: &str| json!({"state": state, "generation": "9f2c61aa04d1-5be07c33", "start": 7, "marker": null});
        let with = |state: &str, key: &str, value: Value| {
            let mut plugin = of(state);
            plugin[key] = value;
            plugin
        };
        check(of("Running"), "Running|9f2c61aa04d1-5be07c33|7|-|-|-");
        check(of("Stopped"), "Stopped|9f2c61aa04d1-5be07c33|7|-|-|-");
        check(json!({"state": "Loading"}), "Loading|-|-|-|-|-");
        check(
            with("Crashed", "marker", marker(2, 5, false)),
            "Crashed|9f2c61aa04d1-5be07c33|7|2/5|1m 48s|trap in check on node-7",
        );
        check(
            with("Failed", "marker", marker(5, 5, true)),
            "Failed|9f2c61aa04d1-5be07c33|7|5/5|never|trap in check on node-7",
        );
        check(
            with("Crashed", "marker", marker(9, 0, false)),
            "Crashed|9f2c61aa04d1-5be07c33|7|9/∞|1m 48s|trap in check on node-7",
        );
        check(
            json!({"state": "Refused", "refusal": {"reason": "unsigned", "message": "there is no gpu.wasm.sig"}}),
            "Refused|-|-|-|-|unsigned: there is no gpu.wasm.sig",
        );
    }

    #[test]
    fn a_newer_file_that_does_not_serve_is_told_from_the_one_that_does() {
        let mut plugin = json!({"state": "Running", "generation": "3f1b0c77a2e9-44136fa3", "start": 4});
        plugin["marker"] = marker(3, 5, false);
        check(
            plugin.clone(),
            "Running|3f1b0c77a2e9-44136fa3|4|3/5|1m 48s|newer file 9f2c61aa…: trap in check on node-7",
        );
        plugin["marker"] = Value::Null;
        plugin["refusal"] = json!({"reason": "wrong-world", "message": "no", "generation": "c01d0000beef-44136fa3"});
        check(plugin.clone(), "Running|3f1b0c77a2e9-44136fa3|4|-|-|newer file c01d0000…: wrong-world: no");
        plugin["refusal"] =
            json!({"reason": "settings-rejected", "message": "no", "generation": "3f1b0c77a2e9-5be07c33"});
        check(plugin, "Running|3f1b0c77a2e9-44136fa3|4|-|-|newer settings: settings-rejected: no");
    }

    #[test]
    fn wide_adds_tracks_nodes_and_limits() {
        let answer = json!({"items": [{"name": "gpu", "source": "bundled", "state": "Running",
            "wanted": {"generation": "9f2c61aa04d1-5be07c33", "start": 8, "state": "Loading"},
            "quarantined": [{"node": "n1"}, {"node": "n2"}], "limits": {"callDeadlineMs": 100, "memoryBytes": 67_108_864}}]});
        let expected = "gpu|bundled|Running|-|-|-|-|-|9f2c61aa… start 8 Loading|-|n1, n2|64 MiB|100 ms";
        assert_eq!(rows(&answer, true), [expected]);
    }

    #[test]
    fn trouble_with_the_directory_is_below_the_table() {
        let refused = json!([{"file": "Gpu.wasm", "reason": "bad-name", "message": "rename it"}]);
        let answer = json!({"items": [], "directory": {"path": "/p", "state": "lost", "refused": refused}});
        let expected = [
            "Directory /p: lost: it is missing or cannot be listed; its plugins serve on",
            "Refused Gpu.wasm: bad-name: rename it",
        ];
        assert_eq!(rows(&answer, false), expected);
        assert_eq!(rows(&json!({"directory": {"path": "/p", "state": "ok"}}), false), [""; 0]);
    }

    #[test]
    fn only_running_and_stopped_pass_the_check() {
        for state in ["Running", "Stopped"] {
            assert!(serves(&json!({"state": state})));
        }
        for state in ["Loading", "Crashed", "Failed", "Refused"] {
            assert!(!serves(&json!({"state": state})));
        }
    }
}

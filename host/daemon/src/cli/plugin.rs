//! `apgar plugin`: looks into checker plugins without a daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::{Output, table};
use crate::plugins::{self, Cache};

/// Look into checker plugins
#[derive(Debug, clap::Subcommand)]
pub(crate) enum PluginCommand {
    /// Load a component as the daemon would, and say what it is, what it imports and what that costs
    #[command(after_help = "It is validated, compiled, asked to describe itself and self-checked, under the \
        settings, grants and limits of its table in the configuration file.\n\n\
        Exit codes: 0 the daemon would serve it; 1 it would not, with the reason.")]
    Inspect(InspectArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The component, or the name of a bundled checker (ready, disk, cilium, gpu)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A configuration file, for the plugin's settings, grants and limits
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn main(command: PluginCommand) -> anyhow::Result<ExitCode> {
    let PluginCommand::Inspect(args) = command;
    let settings = crate::settings::for_command(args.config.as_deref())?;
    let candidate = match args.file.to_str().filter(|_| !args.file.exists()) {
        Some(name) if plugins::bundled().iter().any(|(known, _)| *known == name) => {
            plugins::bundled_candidate(&settings, name)?
        }
        _ => plugins::from_file(&settings, &args.file)?,
    };
    let engine = plugins::engine(&settings, Cache::Own, plugins::compile_in_child()?)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let key = candidate.key.clone();
    let loaded = runtime.block_on(engine.load(candidate));
    let plugin = loaded.map_err(|error| anyhow::anyhow!("{}: {error}", key.as_str()))?;
    let description = plugin.description();
    let facts = json!({
        "name": key.as_str(),
        "shown": key.shown(),
        "version": description.version,
        "summary": description.summary,
        "reasons": description.reasons,
        "defaultThresholdSeconds": description.default_threshold.as_secs_f64(),
        "generation": plugin.generation().to_string(),
        "digest": plugin.digest().to_string(),
        "size": plugin.size(),
        "compiledSize": plugin.compiled().size,
        "imports": plugin.imports(),
        "pure": plugin.pure(),
        "takesSettings": plugin.takes_settings(),
    });
    match args.output {
        Output::Json => super::print(&format!("{facts:#}"))?,
        Output::Table => {
            let mut table = table::table(&["FIELD", "VALUE"]);
            for (field, value) in facts.as_object().into_iter().flatten() {
                let words = value
                    .as_array()
                    .map(|items| items.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>());
                let value = match (value.as_str(), words) {
                    (Some(text), _) => text.to_owned(),
                    (None, Some(words)) => words.join(", "),
                    (None, None) => value.to_string(),
                };
                table.add_row([field.as_str(), &value]);
            }
            super::print(&format!("{table}\n\n{}", purity(plugin.pure())))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn purity(pure: bool) -> &'static str {
    if pure {
        "Pure: its verdict is a function of node and settings, and is remembered until one of them changes."
    } else {
        "Not pure: an import lets its verdict change by itself, so it is asked again at every tick."
    }
}

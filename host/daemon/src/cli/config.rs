//! `apgar config`: what applies, where it comes from, and what could be set.

use std::process::ExitCode;

use serde_json::json;

use super::{DaemonArgs, Output, table};
use crate::config::{Checkers, Warning};
use crate::plugins::is_bundled;

/// Check, show or describe the configuration
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check file, environment and flags as `apgar run` would, and name everything that is wrong
    Check(DaemonArgs),
    /// Show every setting with its value and where the value comes from; secrets are masked
    Show(ShowArgs),
    /// Print the JSON schema of the configuration file
    Schema,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn main(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check(args) => {
            let (settings, mut warnings) = crate::settings::load(args.config.as_deref(), args.flags())?;
            warnings.extend(without_plugin(&settings.checkers));
            for warning in &warnings {
                eprintln!("warning: {warning}");
            }
            super::print(&format!(
                "The configuration is valid{}.",
                if warnings.is_empty() { "" } else { ", with warnings" }
            ))?;
        }
        ConfigCommand::Show(args) => show(&args)?,
        ConfigCommand::Schema => super::print(&format!("{:#}", crate::config::schema()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Tables of checkers that are nowhere: a name that is written wrong, or a file that is yet to come (`supervision` 6.1).
fn without_plugin(checkers: &Checkers) -> Vec<Warning> {
    let is_missing = |name: &&String| !is_bundled(name) && !checkers.dir.join(format!("{name}.wasm")).exists();
    let warning = |name: &String| Warning {
        about: format!("checker.{name}"),
        message: format!("no such checker: it is not built in, and {} has no {name}.wasm", checkers.dir.display()),
    };
    checkers.named.keys().filter(is_missing).map(warning).collect()
}

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let (settings, warnings) = crate::settings::load(args.daemon.config.as_deref(), args.daemon.flags())?;
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    match args.output {
        Output::Json => {
            let all: Vec<_> = settings
                .show()
                .iter()
                .map(|shown| json!({"key": shown.key, "value": shown.value, "source": shown.source.to_string()}))
                .collect();
            super::print(&format!("{:#}", json!(all)))?;
        }
        Output::Table => {
            let mut table = table::table(&["KEY", "VALUE", "SOURCE"]);
            for shown in settings.show() {
                table.add_row([&shown.key, &shown.value, &shown.source.to_string()]);
            }
            super::print(&table.to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    #[test]
    fn a_table_without_a_checker_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mine.wasm"), b"").unwrap();
        let (settings, _) = load(Sources::default()).unwrap();
        let named = ["gpu", "mine", "mien"].map(|name| (name.to_owned(), settings.checkers.defaults.clone())).into();
        let checkers = Checkers { dir: dir.path().to_owned(), named, ..settings.checkers };
        let about: Vec<String> = without_plugin(&checkers).into_iter().map(|warning| warning.about).collect();
        assert_eq!(about, ["checker.mien"]);
    }
}

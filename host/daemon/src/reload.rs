//! Watches the configuration file: what it says of plugins holds at once, everything else at the next start, and a
//! file that is wrong changes nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apgar_core::supervision::Policy;
use apgar_engine::{DirectoryHandle, Registry};
use tokio::sync::mpsc;

use crate::config::{Checkers, Flags, Settings};
use crate::error::chain;
use crate::supervise::Wishes;
use crate::{plugins, settings};

/// How often the file is read: a few kilobytes. A look needs no notification, which network file systems and
/// ConfigMaps give in their own ways.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The file, and what was made of it.
pub struct Watched {
    /// As named on the command line.
    pub file: Option<PathBuf>,
    /// They go before the file, whatever it says.
    pub flags: Flags,
    /// With its text as it was read.
    pub text: Option<(PathBuf, String)>,
    /// What was made of that, and holds now.
    pub settings: Settings,
}

/// Who has to hear of another configuration.
#[derive(Debug, Clone)]
pub struct Listeners {
    /// The loop.
    pub supervision: mpsc::Sender<(Policy, Wishes)>,
    /// Who offers plugins.
    pub registry: Registry,
    /// Who reads them.
    pub directory: DirectoryHandle,
}

/// Watches until the process ends.
pub async fn watch(mut watched: Watched, listeners: Listeners) {
    let mut seen = Ok(watched.text.take());
    let mut once = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let found = read(&watched).await;
        if found == seen {
            once = None;
            continue;
        }
        // Twice the same: whoever writes it may not be done.
        if once.as_ref() != Some(&found) {
            once = Some(found);
            continue;
        }
        seen.clone_from(&found);
        once = None;
        let made = found.map_err(anyhow::Error::msg);
        match made.and_then(|text| settings::made_of(text, watched.flags.clone())) {
            Ok((settings, warnings)) => {
                for warning in warnings {
                    tracing::warn!(event = "configuration", about = warning.about, "{}", warning.message);
                }
                for key in at_next_start(&watched.settings, &settings) {
                    tracing::warn!(event = "configuration", about = key, "the change takes effect at the next start");
                }
                listeners.tell(&watched.settings.checkers, &settings.checkers).await;
                watched.settings = settings;
                tracing::info!(event = "configuration", "the configuration of the plugins was read anew");
            }
            Err(error) => tracing::error!(
                event = "configuration",
                error = chain(&*error),
                "the changed configuration is wrong and is not used; what was read before holds on"
            ),
        }
    }
}

impl Listeners {
    async fn tell(&self, before: &Checkers, now: &Checkers) {
        if self.supervision.send((plugins::policy(now), plugins::wishes(now))).await.is_err() {
            tracing::debug!("the loop has ended");
        }
        let configuration = plugins::configuration(now);
        if before.trusted_keys != now.trusted_keys {
            // Signatures that were not asked for before are read first: no plugin stops for want of one that is there.
            self.registry.trust(Arc::clone(&configuration.trusted_keys));
            self.directory.trust(Arc::clone(&configuration.trusted_keys)).await;
        }
        self.registry.reconfigure(configuration).await;
    }
}

/// The file as it is, or why it cannot be read.
async fn read(watched: &Watched) -> Result<Option<(PathBuf, String)>, String> {
    let file = watched.file.clone();
    let read = tokio::task::spawn_blocking(move || settings::find(file.as_deref())).await;
    read.map_err(|error| error.to_string())?.map_err(|error| chain(&*error))
}

/// The keys whose change is of no effect yet.
fn at_next_start(before: &Settings, now: &Settings) -> Vec<String> {
    let keys = before.show().iter().chain(now.show()).map(|shown| shown.key.as_str());
    let waits = |key: &&str| !holds_at_once(key) && value(before, key) != value(now, key);
    let waiting: BTreeSet<&str> = keys.filter(waits).collect();
    waiting.into_iter().map(str::to_owned).collect()
}

/// A setting's value; a checker without a table has the default.
fn value<'a>(settings: &'a Settings, key: &str) -> Option<&'a str> {
    let find = |key: &str| settings.show().iter().find(|shown| shown.key == key).map(|shown| shown.value.as_str());
    let default = || {
        let (_, setting) = key.strip_prefix("checker.")?.split_once('.')?;
        find(&format!("checkers.defaults.{setting}"))
    };
    find(key).or_else(default)
}

fn holds_at_once(key: &str) -> bool {
    let of_plugins = key.starts_with("checker.") || key.starts_with("checkers.defaults.");
    let threshold = key.ends_with(".threshold");
    (of_plugins && !threshold) || matches!(key, "checkers.trusted_keys" | "checkers.drain_timeout")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Sources};

    fn settings(text: &str) -> Settings {
        let file = Some((PathBuf::from("apgar.toml"), text.to_owned()));
        config::load(Sources { file, ..Sources::default() }).unwrap().0
    }

    #[test]
    fn what_waits_for_a_start_is_named_and_the_rest_is_not() {
        let before = settings("");
        let plugins = "[checkers.defaults]\nmax_restarts = 2\n[checker.gpu]\nsettings = { a = 1 }\n";
        assert_eq!(at_next_start(&before, &settings(plugins)), [""; 0]);
        let rest = "[recovery]\ntick = \"11s\"\n[checkers]\nmax = 3\n[checker.gpu]\nthreshold = \"1m\"\n";
        assert_eq!(at_next_start(&before, &settings(rest)), ["checker.gpu.threshold", "checkers.max", "recovery.tick"]);
    }
}

//! Between configuration and engine: which checkers there are, what each may do, and the four that are built
//! into the binary.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use apgar_core::supervision::{Policy, Restart};
use apgar_core::verdict::{CheckerKey, Unknown, UnknownCause, Verdict};
use apgar_engine::{
    Bundled, Candidate, Compile, Configuration, Directory, DirectoryHandle, DirectoryOptions, Engine, EngineConfig,
    PluginConfig, Registry, RegistryEvent, RegistryOptions, Source,
};
use tokio::sync::mpsc;

use crate::config::{self, Settings};
use crate::supervise::Wishes;
use crate::task::Tasks;

include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// Where compiled checkers are kept.
#[derive(Debug, Clone, Copy)]
pub enum Cache {
    /// In the daemon's state directory.
    State,
    /// In the user's cache directory: for commands.
    Own,
    /// Nowhere: the state directory is another daemon's, or cannot be used.
    Nowhere,
}

/// The engine for these settings.
///
/// # Errors
/// When Wasmtime or its threads cannot be set up.
pub fn engine(settings: &Settings, cache: Cache, compile: Compile) -> anyhow::Result<Engine> {
    let cache_dir = match cache {
        Cache::State => Some(settings.store.dir.join("cache")),
        Cache::Own => user_cache(),
        Cache::Nowhere => None,
    };
    Ok(Engine::new(EngineConfig { cache_dir, compile })?)
}

/// Compiling in a child of this binary.
///
/// # Errors
/// When the system cannot say where this binary is.
pub fn compile_in_child() -> anyhow::Result<Compile> {
    let program = std::env::current_exe().context("finding this program, to start it as compile worker")?;
    Ok(Compile::Child { program })
}

/// `$XDG_CACHE_HOME/apgar` or `~/.cache/apgar`; without either nothing is kept.
fn user_cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(base.join("apgar"))
}

/// The built-in checkers, by name.
#[must_use]
pub fn bundled() -> Vec<(&'static str, Arc<[u8]>)> {
    BUNDLED.iter().map(|(name, bytes)| (*name, Arc::from(*bytes))).collect()
}

/// Whether a checker of that name is built in.
#[must_use]
pub fn is_bundled(name: &str) -> bool {
    BUNDLED.iter().any(|(known, _)| *known == name)
}

/// Found files that may wait for the registry, with all their bytes: the directory reads on when one was taken.
const FOUND_WAITING: usize = 1;

/// The registry and the watch on the plugin directory, as tasks of the daemon. `known` are the plugins whose files
/// the directory gave us before, as far as the store remembers: that they are missing is no less odd after a restart.
#[must_use]
pub fn start(
    settings: &Settings,
    engine: &Engine,
    known: Vec<CheckerKey>,
    events: mpsc::Sender<RegistryEvent>,
    tasks: &mut Tasks,
) -> (Registry, DirectoryHandle) {
    let checkers = &settings.checkers;
    let registry = Registry::new(
        RegistryOptions {
            engine: engine.clone(),
            bundled: bundled().into_iter().map(|(name, bytes)| Bundled { key: name.into(), bytes }).collect(),
            configuration: configuration(checkers),
        },
        events,
    );
    let (directory, handle) = Directory::new(DirectoryOptions {
        expected: checkers.dir_given,
        max: usize::try_from(checkers.max).unwrap_or(usize::MAX),
        debounce: checkers.debounce,
        stable_gap: checkers.stable_gap,
        poll_interval: checkers.poll_interval,
        trusted_keys: checkers.trusted_keys.as_slice().into(),
        known,
        ..DirectoryOptions::new(&checkers.dir)
    });
    let (found_in, found) = mpsc::channel(FOUND_WAITING);
    tasks.spawn("directory", directory.run(found_in));
    let running = registry.clone();
    tasks.spawn("registry", async move { running.run(found).await });
    (registry, handle)
}

/// What the configuration says about plugins, as the registry takes it.
#[must_use]
pub fn configuration(checkers: &config::Checkers) -> Configuration {
    Configuration {
        plugins: checkers.named.iter().map(|(name, checker)| (name.as_str().into(), options(checker))).collect(),
        defaults: options(&checkers.defaults),
        trusted_keys: checkers.trusted_keys.as_slice().into(),
    }
}

/// What the configuration says about the supervision of plugins, as the machine takes it.
#[must_use]
pub fn policy(checkers: &config::Checkers) -> Policy {
    Policy {
        defaults: restart(&checkers.defaults),
        named: checkers.named.iter().map(|(name, checker)| (name.as_str().into(), restart(checker))).collect(),
    }
}

fn restart(checker: &config::Checker) -> Restart {
    let config::Restart { policy, max_restarts, backoff_base, backoff_cap, decay_after, slow_calls } = checker.restart;
    Restart {
        enabled: checker.enabled,
        always: policy == config::RestartPolicy::Always,
        max_restarts,
        backoff_base,
        backoff_cap,
        decay_after,
        slow_calls,
    }
}

/// What an operator decided about plugins as a whole.
#[must_use]
pub fn wishes(checkers: &config::Checkers) -> Wishes {
    let bundled: BTreeSet<CheckerKey> = BUNDLED.iter().map(|(name, _)| CheckerKey::from(*name)).collect();
    let named = || checkers.named.iter().map(|(name, checker)| (CheckerKey::from(name.as_str()), checker));
    let expected: BTreeSet<CheckerKey> = bundled.iter().cloned().chain(named().map(|(name, _)| name)).collect();
    let required = expected.iter().filter(|name| {
        let checker = checkers.of(name.as_str());
        checker.required && checker.enabled
    });
    Wishes {
        required: required.cloned().collect(),
        expected: expected.clone(),
        bundled,
        drain_timeout: checkers.drain_timeout,
    }
}

/// What the configuration says about a checker, as the engine takes it.
#[must_use]
pub fn options(checker: &config::Checker) -> PluginConfig {
    PluginConfig {
        profile: checker.profile,
        settings: serde_json::Value::Object(checker.settings.clone()),
        grants: checker.grants.iter().copied().collect(),
        limits: checker.limits.clone(),
    }
}

/// The candidates of `apgar check`: the built-in checkers that are enabled, then the named files, each of which
/// adds a checker or replaces the one of its name.
///
/// # Errors
/// When a file cannot be read or has a name that no plugin may have.
pub fn for_check(settings: &Settings, files: &[PathBuf]) -> anyhow::Result<Vec<Candidate>> {
    let mut candidates: Vec<Candidate> = bundled()
        .into_iter()
        .filter(|(name, _)| settings.checkers.of(name).enabled)
        .map(|(name, bytes)| candidate(settings, name, bytes, Source::Bundled))
        .collect();
    for file in files {
        let added = from_file(settings, file)?;
        candidates.retain(|candidate| candidate.key != added.key);
        candidates.push(added);
    }
    Ok(candidates)
}

/// A built-in checker as a candidate.
///
/// # Errors
/// When there is none of that name.
pub fn bundled_candidate(settings: &Settings, name: &str) -> anyhow::Result<Candidate> {
    let found = bundled().into_iter().find(|(known, _)| *known == name);
    let (name, bytes) = found.with_context(|| format!("no bundled checker is named {name}"))?;
    Ok(candidate(settings, name, bytes, Source::Bundled))
}

/// A candidate from a file, under the name that the plugin directory would give it.
///
/// # Errors
/// When the file cannot be read or has a name that no plugin may have.
pub fn from_file(settings: &Settings, file: &Path) -> anyhow::Result<Candidate> {
    let name =
        apgar_engine::plugin_name(file).map_err(|refusal| anyhow::anyhow!("plugin {}: {refusal}", file.display()))?;
    let limit = settings.checkers.of(name.as_str()).limits.file_size;
    let size = std::fs::metadata(file).with_context(|| format!("plugin {}", file.display()))?.len();
    if size > limit {
        anyhow::bail!("plugin {}: {}", file.display(), apgar_engine::too_large(name.as_str(), size, limit));
    }
    let bytes = std::fs::read(file).with_context(|| format!("plugin {}", file.display()))?;
    Ok(candidate(settings, name.as_str(), Arc::from(bytes), Source::Directory))
}

fn candidate(settings: &Settings, name: &str, bytes: Arc<[u8]>, source: Source) -> Candidate {
    let PluginConfig { settings, grants, limits, .. } = options(settings.checkers.of(name));
    Candidate { key: CheckerKey::from(name), bytes, settings, grants, limits, source }
}

/// The verdict of every checker on a node that could not be decoded.
#[must_use]
pub fn malformed(why: &str) -> Verdict {
    Verdict::Unknown(Unknown { cause: UnknownCause::MalformedNode, detail: Arc::from(why) })
}

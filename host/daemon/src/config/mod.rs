//! The configuration: flags, environment, file and defaults in, validated [`Settings`] out.
//!
//! One table (`keys`) says which settings there are; the raw values (`document`, `environment`) are held
//! against it once, before anything is watched or bound, and the answer is either settings in which every value
//! is present and in range, or every reason why not. Nothing in here reads a file, the process environment or a
//! clock: the caller hands them in.

mod assemble;
mod document;
mod environment;
mod error;
mod keys;
mod kind;
mod reference;
mod resolve;
mod selector;
mod settings;
#[cfg(test)]
mod tests;
mod units;

use std::collections::BTreeMap;
use std::path::PathBuf;

use document::Document;
use resolve::Resolver;

pub use apgar_engine::{Capability as Grant, Profile};
pub use error::{ConfigError, Problem, Shown, Source, Warning};
pub use reference::{reference, schema};
pub use settings::{
    Api, Checker, Checkers, Civo, Events, Executor, ExecutorKind, Kubeconfig, Log, LogFormat, LogLevel, Metrics, Nodes,
    POOL_LABEL, Restart, RestartPolicy, Secret, Settings, Store, StoreKind,
};

/// Everything that a configuration is made of.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file: its path, for messages, and its text.
    pub file: Option<(PathBuf, String)>,
    /// The process environment.
    pub env: BTreeMap<String, String>,
    /// The command line.
    pub flags: Flags,
}

/// The settings of the command line, as text: what is accepted is said in one place for all sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--kubeconfig`; empty: in-cluster.
    pub kubeconfig: Option<String>,
    /// `--monitor-only`.
    pub monitor_only: Option<bool>,
    /// `--plugin-dir`.
    pub plugin_dir: Option<String>,
    /// `--store-dir`.
    pub store_dir: Option<String>,
    /// `--metrics-port`.
    pub metrics_port: Option<String>,
    /// `--api-listen`.
    pub api_listen: Option<String>,
    /// `--log-format`.
    pub log_format: Option<String>,
    /// `--log-level`.
    pub log_level: Option<String>,
}

/// Makes settings of the sources, or says everything that is wrong with them.
pub fn load(sources: Sources) -> Result<(Settings, Vec<Warning>), ConfigError> {
    let Sources { file, env, flags } = sources;
    let document = match &file {
        Some((path, text)) => Some(Document::parse(path, text).map_err(ConfigError::new)?),
        None => None,
    };
    let mut resolver = Resolver::new(document, &env, &flags);
    let settings = assemble::settings(&mut resolver);
    let Resolver { problems, warnings, .. } = resolver;
    if !problems.is_empty() {
        return Err(ConfigError::new(problems));
    }
    Ok((settings, warnings))
}

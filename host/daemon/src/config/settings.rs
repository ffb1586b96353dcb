//! What the daemon runs by: every value present, in range, and consistent with the others.
//! Nothing in here knows where a value came from; that is kept apart, for `config show` only.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use apgar_core::policy::Policy;
use apgar_engine::signature::PublicKey;
use apgar_engine::{Capability as Grant, Limits, Profile};

use super::error::Shown;

/// The label that names a node's pool.
pub const POOL_LABEL: &str = "kubernetes.civo.com/civo-node-pool";

/// The validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The rules' numbers.
    pub policy: Policy,
    /// Who carries decisions out.
    pub executor: Executor,
    /// Which nodes are looked after.
    pub nodes: Nodes,
    /// The metrics listener.
    pub metrics: Metrics,
    /// The API listener.
    pub api: Api,
    /// What is remembered of what happened.
    pub events: Events,
    /// The checkers: where they are, and what each may and must do.
    pub checkers: Checkers,
    /// Where state outlives the process.
    pub store: Store,
    /// How is logged.
    pub log: Log,
    /// How the API server is found.
    pub kubeconfig: Kubeconfig,
    pub(super) shown: Vec<Shown>,
}

impl Settings {
    /// Every setting with its value, spelt as in the file, and where the value came from. Secrets are masked.
    #[must_use]
    pub fn show(&self) -> &[Shown] {
        &self.shown
    }
}

/// Who carries decisions out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executor {
    /// The kind: configured, or `civo` if any of its variables is set, or `observe`.
    pub kind: ExecutorKind,
    /// The Civo account. Complete if the kind is `civo` and the mode is active.
    pub civo: Civo,
}

/// The executors there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutorKind {
    /// It can do nothing: for monitor-only.
    Observe,
    /// Hard reboots through the Civo API.
    Civo,
}

/// The Civo account. Text from outside, trimmed; empty where it was not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Civo {
    /// The API key.
    pub api_key: Secret,
    /// The API's address.
    pub api_url: String,
    /// The cluster's id, also a label of the metric `info` and a field of every log line.
    pub cluster_id: String,
    /// The region; may be empty.
    pub region: String,
}

/// A value that no log, error or table ever shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it was not given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Which nodes are looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodes {
    /// The pools, in the given order, each once. Empty: all.
    pub pool_ids: Vec<String>,
    /// A further label selector.
    pub selector: Option<String>,
}

impl Nodes {
    /// The selector that goes to the API server with list and watch; none: all nodes (`recovery` 4.8).
    #[must_use]
    pub fn label_selector(&self) -> Option<String> {
        let pools = match self.pool_ids.as_slice() {
            [] => None,
            [one] => Some(format!("{POOL_LABEL}={one}")),
            several => Some(format!("{POOL_LABEL} in ({})", several.join(","))),
        };
        match (pools, &self.selector) {
            (Some(pools), Some(selector)) => Some(format!("{pools},{selector}")),
            (Some(one), None) => Some(one),
            (None, selector) => selector.clone(),
        }
    }
}

/// The metrics listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// What every metric's name begins with, without the underscore.
    pub namespace: String,
    /// The address that is bound.
    pub address: IpAddr,
    /// The port that is bound.
    pub port: u16,
}

/// The API listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// The address that is bound: always a loopback one.
    pub listen: SocketAddr,
}

/// What is remembered of what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// How many events.
    pub ring: u32,
}

/// Where state outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The kind.
    pub kind: StoreKind,
    /// The directory of the kind `file`.
    pub dir: PathBuf,
}

/// The stores there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// A directory on this machine.
    File,
}

/// How is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// The least important level that is written.
    pub level: LogLevel,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// A JSON object per line.
    Json,
}

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Worth waking a person for.
    Warn,
    /// What an operator wants to read afterwards.
    Info,
    /// What a developer wants to read afterwards.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word in configuration, as `tracing` spells it too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How the API server is found (`recovery` 6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kubeconfig {
    /// Not configured: this file; if it is absent, in-cluster if there are service-account files.
    Default(PathBuf),
    /// This file and no other.
    File(PathBuf),
    /// By the service account.
    InCluster,
}

/// The checkers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkers {
    /// The plugin directory.
    pub dir: PathBuf,
    /// Whether somebody named it: a default directory that was never there is absent, a named one is lost.
    pub dir_given: bool,
    /// How long the directory must be quiet before it is read.
    pub debounce: Duration,
    /// How long a file must keep its size and times before it is read.
    pub stable_gap: Duration,
    /// How often the directory is read without an event.
    pub poll_interval: Duration,
    /// How many plugins are loaded at most.
    pub max: u32,
    /// Whose signatures are accepted. Empty: no plugin needs one.
    pub trusted_keys: Vec<PublicKey>,
    /// How long a replaced generation may finish its checks.
    pub drain_timeout: Duration,
    /// What holds for a checker without a table of its own.
    pub defaults: Checker,
    /// The checkers with a table of their own, defaults already filled in.
    pub named: BTreeMap<String, Checker>,
}

impl Checkers {
    /// What holds for this checker.
    #[must_use]
    pub fn of(&self, name: &str) -> &Checker {
        self.named.get(name).unwrap_or(&self.defaults)
    }
}

/// What one checker may and must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checker {
    /// Whether it is loaded.
    pub enabled: bool,
    /// Whether the daemon is unready without it.
    pub required: bool,
    /// How long it must fail, over what its verdict says.
    pub threshold: Option<Duration>,
    /// What `configure` is given. Empty for `checkers.defaults`.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// The imports it is allowed, each once.
    pub grants: Vec<Grant>,
    /// Which limits apply where none is set.
    pub profile: Profile,
    /// What it may take, and the servers it may ask, in the given order, each once.
    pub limits: Limits,
    /// What follows a crash.
    pub restart: Restart,
}

/// What follows a crash (`supervision` 3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// Whether it is started again.
    pub policy: RestartPolicy,
    /// How often; 0: no cap.
    pub max_restarts: u32,
    /// The base of the waits: twice it after the first crash, and double that after each further one.
    pub backoff_base: Duration,
    /// The longest wait.
    pub backoff_cap: Duration,
    /// How long a generation must answer until its crashes are forgiven.
    pub decay_after: Duration,
    /// How many slow calls in a row are a crash.
    pub slow_calls: u32,
}

/// Whether a crashed checker is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Until the cap.
    Always,
    /// Not by itself.
    Never,
}

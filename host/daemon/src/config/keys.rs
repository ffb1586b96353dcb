//! The table of settings: key, kind with default and range, variable, flag, and what it is for.
//! Loading, `config show`, the JSON schema and the reference file all come from it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use apgar_engine::{Capability as Grant, Profile, limits};
use serde_json::Value as Json;

use super::Flags;
use super::kind::{
    Concurrent, Count, Kind, LabelValues, Maybe, PublicKeys, Servers, Size, Span, Switch, Table, Text, Unit, Word,
    Words,
};
use super::selector::is_selector;
use super::settings::{ExecutorKind, Kubeconfig, LogFormat, LogLevel, RestartPolicy, Secret, StoreKind};

const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";

/// The longest wait that the agent that Apgar replaces could count without an overflow.
const WAIT_MAX: Duration = minutes(153_722_867);
/// The largest number that the agent that Apgar replaces reads.
const REBOOTS_MAX: u32 = 2_147_483_647;
/// Far above any fleet that one daemon looks after; a larger number is a slip of the finger for `"off"`.
const CONCURRENT_MAX: u32 = 10_000;

const DAY: Duration = minutes(24 * 60);
const HOUR: Duration = minutes(60);
/// A duration that must not be zero.
const ABOVE_ZERO: Duration = ms(1);

const KIB: u64 = 1 << 10;

/// A setting. Its path is that of the table or, for the settings of a checker, what follows `checker.<name>`.
pub(super) struct Key<K> {
    pub(super) path: &'static str,
    pub(super) kind: K,
    pub(super) doc: &'static str,
    pub(super) env: Option<&'static str>,
    pub(super) flag: Option<Flag>,
    /// Masked wherever it is shown, and refused in the file: it belongs in the environment.
    pub(super) secret: bool,
}

/// A flag with its dashes, and where its value is.
#[derive(Clone, Copy)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) value: fn(&Flags) -> Option<String>,
}

impl<K: Copy> Key<K> {
    const fn new(path: &'static str, kind: K, doc: &'static str) -> Self {
        Self { path, kind, doc, env: None, flag: None, secret: false }
    }

    const fn env(self, name: &'static str) -> Self {
        Self { env: Some(name), ..self }
    }

    const fn flag(self, name: &'static str, value: fn(&Flags) -> Option<String>) -> Self {
        Self { flag: Some(Flag { name, value }), ..self }
    }

    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }
}

/// A row of the table, whatever its kind.
pub(super) trait Row: Sync {
    fn path(&self) -> &'static str;
    fn doc(&self) -> &'static str;
    fn env(&self) -> Option<&'static str>;
    fn flag(&self) -> Option<&'static str>;
    fn secret(&self) -> bool;
    fn accepted(&self) -> String;
    fn example(&self) -> String;
    fn interpreted(&self) -> Option<String>;
    fn may_be_unset(&self) -> bool;
    fn schema(&self) -> Json;
}

impl<K: Kind> Row for Key<K> {
    fn path(&self) -> &'static str {
        self.path
    }

    fn doc(&self) -> &'static str {
        self.doc
    }

    fn env(&self) -> Option<&'static str> {
        self.env
    }

    fn flag(&self) -> Option<&'static str> {
        self.flag.map(|flag| flag.name)
    }

    fn secret(&self) -> bool {
        self.secret
    }

    fn accepted(&self) -> String {
        self.kind.accepted()
    }

    fn example(&self) -> String {
        self.kind.show(&self.kind.example())
    }

    fn interpreted(&self) -> Option<String> {
        let (native, interpreted) = (self.kind.show(&self.kind.default()), self.kind.show(&self.kind.interpreted()));
        (interpreted != native).then_some(interpreted)
    }

    fn may_be_unset(&self) -> bool {
        self.kind.may_be_unset()
    }

    fn schema(&self) -> Json {
        self.kind.schema()
    }
}

/// Makes a static of each row and lists them, so that no row is left out of the list.
macro_rules! table {
    ($(#[$doc:meta])* $rows:ident: $($name:ident: $kind:ty = $key:expr;)+) => {
        $(pub(super) static $name: Key<$kind> = $key;)+
        $(#[$doc])*
        pub(super) static $rows: &[&dyn Row] = &[$(&$name),+];
    };
}

table! {
    /// The settings of the daemon, table by table.
    ROWS:

    KUBE: Text<Kubeconfig> = Key::new(
        "kubeconfig",
        Text {
            default: default_kubeconfig,
            parse: parse_kubeconfig,
            show: show_kubeconfig,
            accepted: "a path; empty: in-cluster",
        },
        "How to reach the API server. If this is not set and the default file is absent: in-cluster.",
    ).flag("--kubeconfig", |flags| flags.kubeconfig.clone());

    TICK: Span = Key::new(
        "recovery.tick",
        Span::new(secs(10), secs(1), secs(60), Unit::Seconds),
        "How often every node is looked at, whatever happens. What happens in between is looked at at once.",
    );
    MONITOR_ONLY: Switch = Key::new(
        "recovery.monitor_only",
        Switch { default: true },
        "Repairs are only simulated: same phases, same counts, no call. An invalid variable counts as true.",
    ).env("CIVO_NODE_AGENT_MONITOR_ONLY").flag("--monitor-only", |flags| flags.monitor_only.map(|yes| yes.to_string()));
    REBOOT_WAIT: Span = Key::new(
        "recovery.reboot_wait",
        Span::new(minutes(10), ABOVE_ZERO, WAIT_MAX, Unit::Minutes),
        "How long a reboot may take effect before the next step. The variable is in minutes.",
    ).env("CIVO_NODE_REBOOT_WAIT_MINUTES");
    GPU_REBOOT_WAIT: Span = Key::new(
        "recovery.gpu_reboot_wait",
        Span::new(minutes(40), ABOVE_ZERO, WAIT_MAX, Unit::Minutes),
        "The same for a GPU node, whose drivers need longer. The variable is in minutes.",
    ).env("CIVO_GPU_NODE_REBOOT_WAIT_MINUTES");
    MAX_REBOOTS: Count<u32> = Key::new(
        "recovery.max_reboots",
        Count { default: 5, min: 1, max: REBOOTS_MAX },
        "Reboots per incident; then the node has failed.",
    ).env("CIVO_NODE_MAX_REBOOT_RETRIES");
    MAX_FAILED_CALLS: Count<u32> = Key::new(
        "recovery.max_failed_calls",
        Count { default: 30, min: 1, max: 1000 },
        "Calls per incident that certainly had no effect; then the node has failed.",
    );
    BACKOFF_BASE: Span = Key::new(
        "recovery.backoff_base",
        Span::new(secs(10), secs(1), HOUR, Unit::Seconds),
        "The wait after a failed call; doubled after each further one.",
    );
    BACKOFF_CAP: Span = Key::new(
        "recovery.backoff_cap",
        Span::new(minutes(5), secs(1), HOUR, Unit::Seconds),
        "The longest wait after a failed call; not below backoff_base.",
    );
    STABILITY_WINDOW: Span = Key::new(
        "recovery.stability_window",
        Span::new(minutes(10), Duration::ZERO, DAY, Unit::Minutes),
        "How long a recovered node must stay well until its attempts are forgiven. 0s: at once.",
    );
    UNKNOWN_LIMIT: Span = Key::new(
        "recovery.unknown_limit",
        Span::new(minutes(5), secs(10), DAY, Unit::Minutes),
        "How long a checker may have no answer until its last one no longer counts.",
    );
    COMPAT_SHARED_TIMER: Switch = Key::new(
        "recovery.compat_shared_timer",
        Switch { default: false },
        "One timer per node and the smallest threshold failing, as civo-node-agent had it. For comparisons.",
    );
    RETURN_WINDOW: Span = Key::new(
        "recovery.return_window",
        Span::new(HOUR, Duration::ZERO, minutes(7 * 24 * 60), Unit::Minutes),
        "How long the incident of a vanished node waits for the same machine. 0s: it does not.",
    );

    CONCURRENT: Concurrent = Key::new(
        "gate.concurrent",
        Concurrent { max: CONCURRENT_MAX },
        "How many repairs may be in flight in the cluster.",
    );

    EXECUTOR: Maybe<Word<ExecutorKind>> = Key::new(
        "executor.kind",
        Maybe(Word {
            default: ExecutorKind::Civo,
            words: &[("observe", ExecutorKind::Observe), ("civo", ExecutorKind::Civo)],
        }),
        "Who carries repairs out. Not set: civo if its key, URL or cluster id is, else observe, which can do nothing.",
    );
    CIVO_API_KEY: Text<Secret> = Key::new(
        "executor.civo.api_key",
        Text {
            default: || Secret::from(""),
            parse: |text| Some(Secret::from(text)),
            show: Secret::to_string,
            accepted: "any text",
        },
        "The key of the Civo account. Never in this file.",
    ).env("CIVO_API_KEY").secret();
    CIVO_API_URL: Text<String> = Key::new(
        "executor.civo.api_url",
        any_text(),
        "The address of the Civo API.",
    ).env("CIVO_API_URL");
    CIVO_CLUSTER_ID: Text<String> = Key::new(
        "executor.civo.cluster_id",
        any_text(),
        "The id of the cluster at Civo; also in every log line and in the metric `info`.",
    ).env("CIVO_CLUSTER_ID");
    CIVO_REGION: Text<String> = Key::new(
        "executor.civo.region",
        any_text(),
        "The region of the cluster at Civo; may be empty.",
    ).env("CIVO_REGION");

    POOL_IDS: LabelValues = Key::new(
        "nodes.pool_ids",
        LabelValues,
        "The pools to look after, by the label kubernetes.civo.com/civo-node-pool; none: all. The variable: a,b.",
    ).env("CIVO_NODE_POOL_IDS");
    SELECTOR: Text<Option<String>> = Key::new(
        "nodes.selector",
        Text {
            default: || None,
            parse: parse_selector,
            show: |selector| selector.clone().unwrap_or_default(),
            accepted: "a Kubernetes label selector, as \"tier=gold,zone in (a,b)\"; empty: none",
        },
        "A label selector that nodes must match besides.",
    );

    METRICS_NAMESPACE: Text<String> = Key::new(
        "metrics.namespace",
        Text {
            default: || "civo_node_agent".to_owned(),
            parse: parse_namespace,
            show: String::clone,
            accepted: "letters, digits and '_', not a digit first, 1 to 64 characters",
        },
        "What the name of every metric begins with.",
    );
    METRICS_ADDRESS: Text<IpAddr> = Key::new(
        "metrics.address",
        Text {
            default: || IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            parse: |text| text.parse().ok(),
            show: IpAddr::to_string,
            accepted: "an IP address",
        },
        "The address of metrics, /healthz and /readyz.",
    );
    METRICS_PORT: Count<u16> = Key::new(
        "metrics.port",
        Count { default: 9625, min: 1024, max: 65535 },
        "The port of metrics, /healthz and /readyz.",
    ).env("CIVO_NODE_AGENT_METRICS_PORT").flag("--metrics-port", |flags| flags.metrics_port.clone());

    API_LISTEN: Text<SocketAddr> = Key::new(
        "api.listen",
        Text {
            default: || SocketAddr::from((Ipv4Addr::LOCALHOST, 9626)),
            parse: parse_loopback,
            show: SocketAddr::to_string,
            accepted: "a loopback address and a port, as \"127.0.0.1:9626\" (there is no authentication for others)",
        },
        "The address of the API.",
    ).flag("--api-listen", |flags| flags.api_listen.clone());

    EVENTS_RING: Count<u32> = Key::new(
        "events.ring",
        // A week of a cluster that changes, a megabyte at most; far more could not be read, and is for the log.
        Count { default: 2000, min: 100, max: 100_000 },
        "How many of the latest events of plugins the API shows.",
    );

    STORE_KIND: Word<StoreKind> = Key::new(
        "store.kind",
        Word { default: StoreKind::File, words: &[("file", StoreKind::File)] },
        "Where attempts, windows and intents outlive the process.",
    );
    STORE_DIR: Text<PathBuf> = Key::new(
        "store.dir",
        Text {
            default: || PathBuf::from("/var/lib/apgar"),
            parse: parse_path,
            show: |path| show_path(path),
            accepted: "a path",
        },
        "The directory of the store.",
    ).flag("--store-dir", |flags| flags.store_dir.clone());

    LOG_FORMAT: Word<LogFormat> = Key::new(
        "log.format",
        Word {
            default: LogFormat::Auto,
            words: &[
                ("auto", LogFormat::Auto),
                ("human", LogFormat::Human),
                ("json", LogFormat::Json),
            ],
        },
        "The form of a log line. auto: human on a terminal, else json.",
    ).flag("--log-format", |flags| flags.log_format.clone());
    LOG_LEVEL: Word<LogLevel> = Key::new(
        "log.level",
        Word {
            default: LogLevel::Info,
            words: &[
                ("error", LogLevel::Error),
                ("warn", LogLevel::Warn),
                ("info", LogLevel::Info),
                ("debug", LogLevel::Debug),
                ("trace", LogLevel::Trace),
            ],
        },
        "The least important level that is written.",
    ).flag("--log-level", |flags| flags.log_level.clone());

    CHECKERS_DIR: Text<PathBuf> = Key::new(
        "checkers.dir",
        Text {
            default: || PathBuf::from("/etc/apgar/plugins"),
            parse: parse_path,
            show: |path| show_path(path),
            accepted: "a path",
        },
        "The plugin directory. If this is not set, the directory need not exist.",
    ).flag("--plugin-dir", |flags| flags.plugin_dir.clone());
    DEBOUNCE: Span = Key::new(
        "checkers.debounce",
        Span::new(ms(250), ms(10), secs(5), Unit::Milliseconds),
        "How long the directory must be quiet before it is read: editors write in pieces.",
    );
    STABLE_GAP: Span = Key::new(
        "checkers.stable_gap",
        Span::new(ms(250), ms(10), secs(5), Unit::Milliseconds),
        "How long a file must not change before it is believed to be complete.",
    );
    POLL_INTERVAL: Span = Key::new(
        "checkers.poll_interval",
        Span::new(secs(30), secs(1), HOUR, Unit::Seconds),
        "How often the directory is read without an event: network file systems are silent.",
    );
    MAX_PLUGINS: Count<u32> = Key::new(
        "checkers.max",
        Count { default: 64, min: 1, max: 64 },
        "How many plugins are loaded; the surplus is refused.",
    );
    TRUSTED_KEYS: PublicKeys = Key::new(
        "checkers.trusted_keys",
        PublicKeys,
        "Minisign public keys. If any is set, each plugin <name>.wasm of the directory needs <name>.wasm.sig by one of them.",
    );
    DRAIN_TIMEOUT: Span = Key::new(
        "checkers.drain_timeout",
        Span::new(secs(10), secs(1), minutes(5), Unit::Seconds),
        "How long a replaced plugin may finish its checks.",
    );
}

table! {
    /// The settings of a checker, under `[checker.<name>]` and, but for `settings`, `[checkers.defaults]`.
    CHECKER_ROWS:

    ENABLED: Switch = Key::new("enabled", Switch { default: true }, "Whether it is loaded.");
    REQUIRED: Switch = Key::new(
        "required",
        Switch { default: false },
        "Whether the daemon is unready while it does not serve.",
    );
    THRESHOLD: Maybe<Span> = Key::new(
        "threshold",
        Maybe(Span::new(minutes(5), Duration::ZERO, DAY, Unit::Minutes)),
        "How long it must fail before it justifies a repair. If this is not set: what its verdict says.",
    );
    PROFILE: Word<Profile> = Key::new(
        "profile",
        Word { default: Profile::Native, words: &[("native", Profile::Native), ("interpreted", Profile::Interpreted)] },
        "Which limits apply where none is set: interpreted is for guests that bring an interpreter along.",
    );
    GRANTS: Words<Grant> = Key::new(
        "grants",
        Words {
            words: &[
                ("log", Grant::Log),
                ("clock", Grant::Clock),
                ("http", Grant::Http),
                ("pods", Grant::Pods),
                ("memory", Grant::Memory),
            ],
        },
        "What it may import besides the node. A plugin that imports more is refused. log is always granted.",
    );
    HTTP_ALLOW: Servers = Key::new(
        "http_allow",
        Servers,
        "The servers it may ask if http is granted. A name must lead to a public address, or to one listed here.",
    );
    RESTART_POLICY: Word<RestartPolicy> = Key::new(
        "restart_policy",
        Word {
            default: RestartPolicy::Always,
            words: &[
                ("always", RestartPolicy::Always),
                ("never", RestartPolicy::Never),
            ],
        },
        "Whether it is started again after a crash.",
    );
    MAX_RESTARTS: Count<u32> = Key::new(
        "max_restarts",
        Count { default: 5, min: 0, max: 1000 },
        "How often it is started again. 0: no cap.",
    );
    RESTART_BASE: Span = Key::new(
        "backoff_base",
        Span::new(secs(30), secs(1), minutes(10), Unit::Seconds),
        "The base of the wait after a crash: twice it after the first, and double that after each further one.",
    );
    RESTART_CAP: Span = Key::new(
        "backoff_cap",
        Span::new(secs(300), secs(1), HOUR, Unit::Seconds),
        "The longest wait after a crash; not below backoff_base.",
    );
    DECAY_AFTER: Span = Key::new(
        "decay_after",
        Span::new(minutes(10), minutes(1), DAY, Unit::Minutes),
        "How long it must answer until its crashes are forgiven.",
    );
    SLOW_CALLS: Count<u32> = Key::new(
        "slow_calls",
        Count { default: 3, min: 1, max: 100 },
        "How many calls in a row at or above limits.soft_limit count as a crash.",
    );
    SETTINGS: Table = Key::new(
        "settings",
        Table,
        "What the checker itself is configured with; it says which keys it knows.",
    );
    CALL_DEADLINE: Span = Key::new(
        "limits.call_deadline",
        Span::new(limits::CALL_DEADLINE, ms(10), limits::CALL_DEADLINE_MAX, Unit::Milliseconds)
            .interpreted(limits::CALL_DEADLINE_INTERPRETED),
        "CPU time of a check.",
    );
    SOFT_LIMIT: Span = Key::new(
        "limits.soft_limit",
        Span::new(limits::SOFT_LIMIT, ms(1), limits::CALL_DEADLINE_MAX, Unit::Milliseconds)
            .interpreted(limits::SOFT_LIMIT_INTERPRETED),
        "CPU time from which on a check is slow; not above call_deadline, and cut to it if it is not set.",
    );
    WALL_LIMIT: Span = Key::new(
        "limits.wall_limit",
        Span::new(limits::WALL_LIMIT, ms(10), limits::WALL_LIMIT_MAX, Unit::Milliseconds)
            .interpreted(limits::WALL_LIMIT_INTERPRETED),
        "Wall time of a check, without its HTTP calls.",
    );
    STARTUP_DEADLINE: Span = Key::new(
        "limits.startup_deadline",
        Span::new(limits::STARTUP_DEADLINE, ms(100), limits::STARTUP_DEADLINE_MAX, Unit::Seconds)
            .interpreted(limits::STARTUP_DEADLINE_INTERPRETED),
        "Wall time of a start, from instantiation to self-check.",
    );
    COMPILE_DEADLINE: Span = Key::new(
        "limits.compile_deadline",
        Span::new(limits::COMPILE_DEADLINE, secs(1), limits::COMPILE_DEADLINE_MAX, Unit::Seconds),
        "CPU time of compiling.",
    );
    MEMORY: Size = Key::new(
        "limits.memory",
        Size::new(limits::MEMORY, 64 * KIB, limits::MEMORY_MAX).interpreted(limits::MEMORY_INTERPRETED),
        "Linear memory, in all.",
    );
    FILE_SIZE: Size = Key::new(
        "limits.file_size",
        Size::new(limits::FILE_SIZE, KIB, limits::FILE_SIZE),
        "The size of the component.",
    );
    REASON: Size = Key::new(
        "limits.reason",
        Size::new(limits::REASON as u64, 16, limits::REASON as u64),
        "A verdict's reason; the rest is cut.",
    );
    LOG_LINES: Count<u32> = Key::new(
        "limits.log_lines",
        Count { default: limits::LOG_LINES, min: 0, max: limits::LOG_LINES_MAX },
        "Log lines per check; the rest is dropped.",
    );
    LOG_LINE: Size = Key::new(
        "limits.log_line",
        Size::new(limits::LOG_LINE as u64, 16, limits::LOG_LINE as u64),
        "The length of a log line; the rest is cut.",
    );
    HTTP_CALLS: Count<u32> = Key::new(
        "limits.http_calls",
        Count { default: limits::HTTP_CALLS, min: 0, max: limits::HTTP_CALLS_MAX },
        "HTTP calls per check; every further one fails.",
    );
    HTTP_TIMEOUT: Span = Key::new(
        "limits.http_timeout",
        Span::new(limits::HTTP_TIMEOUT, ms(100), limits::HTTP_TIMEOUT_MAX, Unit::Seconds),
        "How long an HTTP call may take.",
    );
    SCRATCHPAD: Size = Key::new(
        "limits.scratchpad",
        Size::new(limits::SCRATCHPAD, 0, limits::SCRATCHPAD_MAX),
        "What it may remember per node; more fails.",
    );
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

const fn any_text() -> Text<String> {
    Text { default: String::new, parse: |text| Some(text.trim().to_owned()), show: String::clone, accepted: "any text" }
}

fn default_kubeconfig() -> Kubeconfig {
    Kubeconfig::Default(PathBuf::from(KUBECONFIG))
}

fn parse_kubeconfig(text: &str) -> Option<Kubeconfig> {
    Some(if text.is_empty() { Kubeconfig::InCluster } else { Kubeconfig::File(PathBuf::from(text)) })
}

fn show_kubeconfig(kubeconfig: &Kubeconfig) -> String {
    match kubeconfig {
        Kubeconfig::Default(path) | Kubeconfig::File(path) => show_path(path),
        Kubeconfig::InCluster => String::new(),
    }
}

fn parse_selector(text: &str) -> Option<Option<String>> {
    let text = text.trim();
    (text.is_empty() || is_selector(text)).then(|| Some(text.to_owned()).filter(|text| !text.is_empty()))
}

fn parse_namespace(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins_well = text.starts_with(|c: char| plain(c) && !c.is_ascii_digit());
    (begins_well && text.len() <= 64 && text.chars().all(plain)).then(|| text.to_owned())
}

fn parse_loopback(text: &str) -> Option<SocketAddr> {
    text.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback())
}

fn parse_path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

fn show_path(path: &Path) -> String {
    path.display().to_string()
}

//! What one plugin may use. Each limit is a named constant with its argument beside it; a plugin's table in
//! the configuration may move most of them, up to the ceiling. A guest never can: the profile is chosen by
//! name in the configuration, never read off the component.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::http::Allowed;

const MIB: u64 = 1 << 20;

/// Guest code per call: fifty times what a slow native checker needs, and short enough that forty spinning
/// guests cost a turn four seconds, not a minute.
pub const CALL_DEADLINE: Duration = Duration::from_millis(100);
/// The same for interpreters, which run the same rule 30 to 100 times slower.
pub const CALL_DEADLINE_INTERPRETED: Duration = Duration::from_millis(500);
/// Beyond two seconds a guest could hold one of the two guest threads for most of a tick.
pub const CALL_DEADLINE_MAX: Duration = Duration::from_secs(2);

/// A fifth of the deadline: slow is said before it becomes a death.
pub const SOFT_LIMIT: Duration = Duration::from_millis(20);
/// The same fifth for interpreters.
pub const SOFT_LIMIT_INTERPRETED: Duration = Duration::from_millis(100);

/// Wall clock of a call, host time included. Ten deadlines: near the deadline it would punish the innocent,
/// who wait on a loaded host while others run.
pub const WALL_LIMIT: Duration = Duration::from_secs(1);
/// The same for interpreters; four deadlines, since their calls are longer than the waits between them.
pub const WALL_LIMIT_INTERPRETED: Duration = Duration::from_secs(2);
/// A permit held longer than this starves the plugin's other nodes.
pub const WALL_LIMIT_MAX: Duration = Duration::from_secs(30);

/// Instantiate, describe, configure and self-check together; compiling is not part of it.
pub const STARTUP_DEADLINE: Duration = Duration::from_secs(2);
/// Interpreters run their program's top level at start.
pub const STARTUP_DEADLINE_INTERPRETED: Duration = Duration::from_secs(10);
/// Loads are one at a time: a longer start delays every other plugin's.
pub const STARTUP_DEADLINE_MAX: Duration = Duration::from_secs(30);

/// CPU time of the compile worker: four times the slowest of the toolchains measured (16 s).
pub const COMPILE_DEADLINE: Duration = Duration::from_secs(60);
/// For machines a third as fast.
pub const COMPILE_DEADLINE_MAX: Duration = Duration::from_secs(180);

/// Linear memory, all memories together: Rust and C checkers use 1 to 2 MiB, JavaScript and Python 13.
pub const MEMORY: u64 = 64 * MIB;
/// For interpreters with a large program.
pub const MEMORY_INTERPRETED: u64 = 256 * MIB;
/// The size of a slot of the pool, so there can be no more.
pub const MEMORY_MAX: u64 = 256 * MIB;

/// A component file. Seven times the largest toolchain's (Python, 18.4 MB).
pub const FILE_SIZE: u64 = 128 * MIB;

/// Core instances of one component: Python has 38, QuickJS 13; a composed bomb has thousands.
pub const CORE_INSTANCES: u32 = 64;
/// Memories of one component: QuickJS has 3.
pub const MEMORIES: u32 = 4;
/// Tables of one component.
pub const TABLES: u32 = 8;
/// Elements of all tables: StarlingMonkey has 7 689, C# above 10 511.
pub const TABLE_ELEMENTS: usize = 32_768;

/// Calls from guest to host in one check. A checker asks for a handful of facts.
pub const HOST_CALLS: u32 = 10_000;
/// About 3 ms of host work per 10 000 calls: a hundred thousand stay below the call deadline's ceiling.
pub const HOST_CALLS_MAX: u32 = 100_000;
/// Bytes from guest to host in one check, all calls together: Wasmtime's own fuel is per call, and 1 000 calls
/// of 900 KiB each pass it.
pub const HOST_BYTES: u64 = MIB;
/// Sixteen calls at the size Wasmtime lets through.
pub const HOST_BYTES_MAX: u64 = 16 * MIB;
/// Bytes of one call or one returned value, as Wasmtime counts them. Not to be moved: it is set before the
/// guest's first instruction, whatever it turns out to be.
pub const HOSTCALL_FUEL: usize = 1 << 20;
/// One answer from host to guest. All annotations of an object together may have 256 KiB in Kubernetes, so a
/// well-formed object never meets this.
pub const ANSWER: usize = 256 << 10;

/// Log lines of one check: a stack trace fits.
pub const LOG_LINES: u32 = 16;
/// At 10 000 nodes a turn, more is an attack on the log.
pub const LOG_LINES_MAX: u32 = 64;
/// One log line.
pub const LOG_LINE: usize = 1024;

/// A reason, and the text of an error: a metric label and a log field.
pub const REASON: usize = 256;
/// A threshold: after a day nobody is waiting for the machine any more.
pub const THRESHOLD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A described name: as long as a plugin's own name may be.
pub const NAME: usize = 63;
/// A described summary: one sentence.
pub const SUMMARY: usize = 256;
/// Described reasons: as many as are admitted as label values.
pub const REASONS: usize = 16;
/// One described reason.
pub const DESCRIBED_REASON: usize = 64;

/// Requests of one check: a status page or two, and a second try.
pub const HTTP_CALLS: u32 = 4;
/// Four times that. With the longest time-out a check then holds one of its plugin's permits for 160 s.
pub const HTTP_CALLS_MAX: u32 = 16;
/// One request, from the name's resolution to the last byte: what a server nearby needs when it is busy.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(2);
/// For a server far away.
pub const HTTP_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// The body of an answer; what is beyond is not read. A status page fits, and eight checks hold half a MiB.
pub const HTTP_BODY: usize = 64 << 10;
/// Headers of one request that a guest may set.
pub const HTTP_HEADERS: usize = 16;
/// Servers that one plugin may ask: a list that a person has read.
pub const HTTP_ALLOW: usize = 64;

/// A blob of the scratchpad: a few counters and timestamps. 4 000 nodes at that size are 16 MiB.
pub const SCRATCHPAD: u64 = 4 << 10;
/// What a guest may be handed back at each check without its check becoming mostly that.
pub const SCRATCHPAD_MAX: u64 = 64 << 10;
/// All blobs of all plugins together. A daemon has 128 MiB; past this a guest is told that there is no room.
pub const SCRATCHPADS: u64 = 32 * MIB;

/// Entries of the WASI resource table. Wasmtime's own default is a million.
pub const RESOURCES: usize = 1_000;

/// Checks of one plugin at once: a second one fills the gap while the first is written off, a third would only
/// take a thread from others.
pub const PLUGIN_PERMITS: usize = 2;
/// Checks at once of a plugin that makes requests: they mostly wait, and two would judge a fleet too slowly.
pub const HTTP_PERMITS: usize = 8;
/// Checks at once in the whole engine: two slots of the pool stay free for self-checks.
pub const ENGINE_PERMITS: usize = 30;
/// Starts at once: one that spins until its deadline does not hold up another.
pub const START_PERMITS: usize = 2;
/// Component instances of the pool: a slot for everything that may run at once.
pub const POOL_SLOTS: u32 = 32;

/// Loaded plugins: bounds memory, compile time, and the values of the `plugin` label.
pub const PLUGINS: usize = 64;

/// The length of a tick of the engine's clock: the unit in which guests are charged.
pub const TICK: Duration = Duration::from_millis(10);
/// A pause of the ticker that says the host itself stood still.
pub const TICKER_GAP: Duration = Duration::from_millis(100);

/// A family of limits, chosen by name in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Compiled languages, and interpreters whose program is small.
    #[default]
    Native,
    /// JavaScript and Python with a large program.
    Interpreted,
}

/// The limits of one plugin. Part of its generation: other limits are another generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Guest code per call: instantiate, configure and check together.
    pub call_deadline: Duration,
    /// At or above this a completed call is slow.
    pub soft_limit: Duration,
    /// Wall clock per call, host time included.
    pub wall_limit: Duration,
    /// Instantiate, describe, configure and self-check together, at load.
    pub startup_deadline: Duration,
    /// CPU time of the compile worker.
    pub compile_deadline: Duration,
    /// Linear memory in bytes, all memories of an instance together.
    pub memory: u64,
    /// The component file in bytes.
    pub file_size: u64,
    /// Calls from guest to host per check.
    pub host_calls: u32,
    /// Bytes from guest to host per check.
    pub host_bytes: u64,
    /// Log lines per check.
    pub log_lines: u32,
    /// Bytes per log line.
    pub log_line: usize,
    /// Bytes of a reason.
    pub reason: usize,
    /// Requests per check; a further one gets an error.
    pub http_calls: u32,
    /// One request.
    pub http_timeout: Duration,
    /// The servers that may be asked. None: every request gets an error.
    pub http_allow: Vec<Allowed>,
    /// Bytes that are kept per node; a larger blob gets an error.
    pub scratchpad: u64,
}

impl Limits {
    /// The limits of a profile.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        let native = Self {
            call_deadline: CALL_DEADLINE,
            soft_limit: SOFT_LIMIT,
            wall_limit: WALL_LIMIT,
            startup_deadline: STARTUP_DEADLINE,
            compile_deadline: COMPILE_DEADLINE,
            memory: MEMORY,
            file_size: FILE_SIZE,
            host_calls: HOST_CALLS,
            host_bytes: HOST_BYTES,
            log_lines: LOG_LINES,
            log_line: LOG_LINE,
            reason: REASON,
            http_calls: HTTP_CALLS,
            http_timeout: HTTP_TIMEOUT,
            http_allow: Vec::new(),
            scratchpad: SCRATCHPAD,
        };
        match profile {
            Profile::Native => native,
            Profile::Interpreted => Self {
                call_deadline: CALL_DEADLINE_INTERPRETED,
                soft_limit: SOFT_LIMIT_INTERPRETED,
                wall_limit: WALL_LIMIT_INTERPRETED,
                startup_deadline: STARTUP_DEADLINE_INTERPRETED,
                memory: MEMORY_INTERPRETED,
                ..native
            },
        }
    }

    /// The first limit above its ceiling, if any, in words for the operator who set it.
    ///
    /// # Errors
    /// The key, what was given, and the most it may be.
    pub fn validate(&self) -> Result<(), LimitError> {
        let durations = [
            ("call_deadline", self.call_deadline, CALL_DEADLINE_MAX),
            ("soft_limit", self.soft_limit, self.call_deadline),
            ("wall_limit", self.wall_limit, WALL_LIMIT_MAX),
            ("startup_deadline", self.startup_deadline, STARTUP_DEADLINE_MAX),
            ("compile_deadline", self.compile_deadline, COMPILE_DEADLINE_MAX),
            ("http_timeout", self.http_timeout, HTTP_TIMEOUT_MAX),
        ];
        for (key, given, max) in durations {
            if given.is_zero() || given > max {
                return Err(LimitError {
                    key,
                    given: format!("{given:?}"),
                    range: format!("above 0, at most {max:?}"),
                });
            }
        }
        let counts = [
            ("memory", self.memory, MEMORY_MAX),
            ("file_size", self.file_size, FILE_SIZE),
            ("host_calls", u64::from(self.host_calls), u64::from(HOST_CALLS_MAX)),
            ("host_bytes", self.host_bytes, HOST_BYTES_MAX),
            ("log_lines", u64::from(self.log_lines), u64::from(LOG_LINES_MAX)),
            ("log_line", self.log_line as u64, LOG_LINE as u64),
            ("reason", self.reason as u64, REASON as u64),
        ];
        for (key, given, max) in counts {
            if given == 0 || given > max {
                return Err(LimitError { key, given: given.to_string(), range: format!("1 to {max}") });
            }
        }
        // Where none at all is a sensible wish.
        let counts = [
            ("http_calls", u64::from(self.http_calls), u64::from(HTTP_CALLS_MAX)),
            ("http_allow", self.http_allow.len() as u64, HTTP_ALLOW as u64),
            ("scratchpad", self.scratchpad, SCRATCHPAD_MAX),
        ];
        for (key, given, max) in counts {
            if given > max {
                return Err(LimitError { key, given: given.to_string(), range: format!("0 to {max}") });
            }
        }
        Ok(())
    }

    /// Wall clock per call of a plugin that makes requests, or of one that does not.
    pub(crate) fn wall(&self, requests: bool) -> Duration {
        self.wall_limit + if requests { self.http_timeout * self.http_calls } else { Duration::ZERO }
    }

    /// The call deadline in ticks of the engine's clock, rounded up.
    pub(crate) fn cpu_ticks(&self) -> u32 {
        let ticks = self.call_deadline.as_micros().div_ceil(TICK.as_micros());
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// For the digest of a configuration: every limit, in units without fractions.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let Self {
            call_deadline,
            soft_limit,
            wall_limit,
            startup_deadline,
            compile_deadline,
            memory,
            file_size,
            host_calls,
            host_bytes,
            log_lines,
            log_line,
            reason,
            http_calls,
            http_timeout,
            http_allow,
            scratchpad,
        } = self;
        let ms = |span: &Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        serde_json::json!({
            "callDeadlineMs": ms(call_deadline),
            "softLimitMs": ms(soft_limit),
            "wallLimitMs": ms(wall_limit),
            "startupDeadlineMs": ms(startup_deadline),
            "compileDeadlineMs": ms(compile_deadline),
            "memoryBytes": memory,
            "fileSizeBytes": file_size,
            "hostCalls": host_calls,
            "hostBytes": host_bytes,
            "logLines": log_lines,
            "logLineBytes": log_line,
            "reasonBytes": reason,
            "httpCalls": http_calls,
            "httpTimeoutMs": ms(http_timeout),
            "httpAllow": http_allow.iter().map(Allowed::to_string).collect::<Vec<_>>(),
            "scratchpadBytes": scratchpad,
        })
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(Profile::Native)
    }
}

impl Serialize for Limits {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

/// Reads what `Limits::to_json` writes: limits that come back are those of the same generation.
impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Written {
            call_deadline_ms: u64,
            soft_limit_ms: u64,
            wall_limit_ms: u64,
            startup_deadline_ms: u64,
            compile_deadline_ms: u64,
            memory_bytes: u64,
            file_size_bytes: u64,
            host_calls: u32,
            host_bytes: u64,
            log_lines: u32,
            log_line_bytes: usize,
            reason_bytes: usize,
            http_calls: u32,
            http_timeout_ms: u64,
            http_allow: Vec<String>,
            scratchpad_bytes: u64,
        }
        let written = Written::deserialize(deserializer)?;
        let allowed = written.http_allow.iter().map(|text| text.parse()).collect::<Result<_, _>>();
        Ok(Self {
            call_deadline: Duration::from_millis(written.call_deadline_ms),
            soft_limit: Duration::from_millis(written.soft_limit_ms),
            wall_limit: Duration::from_millis(written.wall_limit_ms),
            startup_deadline: Duration::from_millis(written.startup_deadline_ms),
            compile_deadline: Duration::from_millis(written.compile_deadline_ms),
            memory: written.memory_bytes,
            file_size: written.file_size_bytes,
            host_calls: written.host_calls,
            host_bytes: written.host_bytes,
            log_lines: written.log_lines,
            log_line: written.log_line_bytes,
            reason: written.reason_bytes,
            http_calls: written.http_calls,
            http_timeout: Duration::from_millis(written.http_timeout_ms),
            http_allow: allowed.map_err(serde::de::Error::custom)?,
            scratchpad: written.scratchpad_bytes,
        })
    }
}

/// A limit above its ceiling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limits.{key} is {given}; it may be {range}")]
pub struct LimitError {
    /// The key in the plugin's `limits` table.
    pub key: &'static str,
    /// What was given.
    pub given: String,
    /// What may be given.
    pub range: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_profiles_stay_below_the_ceilings() {
        assert_eq!(Limits::of(Profile::Native).validate(), Ok(()));
        assert_eq!(Limits::of(Profile::Interpreted).validate(), Ok(()));
    }

    #[test]
    fn a_limit_above_its_ceiling_names_key_and_range() {
        let limits = Limits { memory: MEMORY_MAX + 1, ..Limits::default() };
        let error = limits.validate().unwrap_err();
        assert_eq!(error.to_string(), "limits.memory is 268435457; it may be 1 to 268435456");
        let limits = Limits { soft_limit: Duration::from_millis(101), ..Limits::default() };
        assert_eq!(limits.validate().unwrap_err().key, "soft_limit");
    }

    #[test]
    fn limits_come_back_as_they_were_written() {
        let all_different = Limits {
            call_deadline: Duration::from_millis(1),
            soft_limit: Duration::from_millis(2),
            wall_limit: Duration::from_millis(3),
            startup_deadline: Duration::from_millis(4),
            compile_deadline: Duration::from_millis(5),
            memory: 6,
            file_size: 7,
            host_calls: 8,
            host_bytes: 9,
            log_lines: 10,
            log_line: 11,
            reason: 12,
            http_calls: 13,
            http_timeout: Duration::from_millis(14),
            http_allow: vec!["http://10.0.0.0/8:9100".parse().unwrap(), "https://a.b".parse().unwrap()],
            scratchpad: 15,
        };
        for limits in [all_different, Limits::of(Profile::Native), Limits::of(Profile::Interpreted)] {
            let text = serde_json::to_string(&limits).unwrap();
            assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), limits);
        }
        assert!(serde_json::from_str::<Limits>("{}").is_err());
    }

    #[test]
    fn a_deadline_is_charged_in_whole_ticks() {
        assert_eq!(Limits::default().cpu_ticks(), 10);
        assert_eq!(Limits { call_deadline: Duration::from_millis(101), ..Limits::default() }.cpu_ticks(), 11);
    }
}

//! Hostile guests through the real engine (`engine` 11): what becomes of each, to the word, and that nobody else
//! notices. A behaviour or a special guest without its line here does not compile or fails a test. Which row of the
//! table is tested where is in `hostile/rows.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test says where")]

#[path = "hostile/answers.rs"]
mod answers;
#[path = "hostile/crowd.rs"]
mod crowd;
#[path = "hostile/files.rs"]
mod files;
#[path = "hostile/rows.rs"]
mod rows;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use apgar_core::node::{Condition, Node, Uid};
use apgar_core::verdict::{CheckerKey, Judgement, Unknown, UnknownCause, Verdict};
use apgar_engine::{
    Candidate, Capability, Cause, CheckDone, Compile, Corrections, Engine, EngineConfig, Grants, Limits, LoadError,
    LogLevel, LogLine, Plugin, RefusalReason, Source, Stage, limits,
};
use apgar_guests::Behaviour;
use apgar_tests::guests::{GUESTS, guest};
use tokio::sync::OnceCell;

/// One engine for all tests, as in the daemon; what was compiled once is found in its cache.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let cache_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile-cache");
    Engine::new(EngineConfig { cache_dir: Some(cache_dir), compile: Compile::InProcess }).unwrap()
});

/// The host's ways to be too slow are answered by another try; a machine this busy proves nothing about a guest.
const TRIES: usize = 20;

/// What a guest says where a limit cut it: the mark is three bytes of the limit.
fn cut(filler: &str, limit: usize) -> String {
    filler.repeat((limit - "…".len()) / filler.len()) + "…"
}

/// `apgar_guests::FORGED` as it may be shown.
const DEFUSED: &str = "Fine\u{fffd}ERROR forged\u{fffd}\u{fffd}[2J\u{fffd}]0;owned\u{fffd}\u{fffd}\u{fffd}\"quoted\"\\";

/// What must become of a check.
struct Expected {
    outcome: Outcome,
    /// Calls to the host; the guest asks for the node's name first.
    calls: u32,
    log: Vec<LogLine>,
    put_right: Corrections,
}

enum Outcome {
    Verdict { healthy: bool, reason: String, threshold: Duration },
    CannotTell(String),
    Dies(Cause, &'static str),
}

impl Expected {
    fn of(outcome: Outcome) -> Self {
        Self { outcome, calls: 1, log: Vec::new(), put_right: Corrections::default() }
    }

    fn pass(reason: &str) -> Self {
        Self::of(Outcome::Verdict { healthy: true, reason: reason.to_owned(), threshold: Duration::from_secs(60) })
    }

    fn fail(reason: &str) -> Self {
        Self::fail_after(reason, Duration::from_secs(60))
    }

    fn fail_after(reason: &str, threshold: Duration) -> Self {
        Self::of(Outcome::Verdict { healthy: false, reason: reason.to_owned(), threshold })
    }

    fn err(text: &str) -> Self {
        Self::of(Outcome::CannotTell(text.to_owned()))
    }

    fn dies(cause: Cause, detail: &'static str) -> Self {
        Self::of(Outcome::Dies(cause, detail))
    }

    fn calls(self, calls: u32) -> Self {
        Self { calls, ..self }
    }

    fn log(self, level: LogLevel, lines: u32, text: &str) -> Self {
        let line = LogLine { level, text: text.to_owned() };
        Self { log: vec![line; lines as usize], ..self }
    }

    fn put_right(self, put_right: Corrections) -> Self {
        Self { put_right, ..self }
    }
}

/// One test each, and one match over all without a wildcard.
macro_rules! behaviours {
    ($($test:ident: $behaviour:ident => $expected:expr,)+) => {
        fn expected(behaviour: Behaviour) -> Expected {
            match behaviour {
                $(Behaviour::$behaviour => $expected,)+
            }
        }

        mod behaviour {
            $(
                #[tokio::test]
                async fn $test() {
                    super::misbehaves(apgar_guests::Behaviour::$behaviour).await;
                }
            )+
        }
    };
}

behaviours! {
    healthy: Healthy => Expected::pass("Healthy"),
    unhealthy: Unhealthy => Expected::fail("Unhealthy"),
    err: Err => Expected::err("cannot tell"),
    big_err: BigErr => Expected::err(&cut("x", limits::REASON))
        .put_right(Corrections { error: true, ..Corrections::default() }),
    spin: Spin => Expected::dies(Cause::Deadline, "guest time used up"),
    grow: Grow => Expected::dies(Cause::Memory, "bytes of memory wanted, the limit is 67108864"),
    recurse: Recurse => Expected::dies(Cause::Trap, "StackOverflow"),
    recurse_wide: RecurseWide => Expected::dies(Cause::Trap, "MemoryOutOfBounds"),
    panic: Panic => Expected::dies(Cause::Trap, "UnreachableCodeReached"),
    flood_log: FloodLog => Expected::pass("Healthy")
        .calls(1 + limits::LOG_LINES)
        .log(LogLevel::Info, limits::LOG_LINES, &cut("x", limits::LOG_LINE))
        .put_right(Corrections {
            log_dropped: 10_000 - limits::LOG_LINES,
            log_cut: limits::LOG_LINES,
            ..Corrections::default()
        }),
    forge_log: ForgeLog => Expected::pass("Healthy").calls(2).log(LogLevel::Warn, 1, DEFUSED),
    many_calls: ManyCalls => Expected::dies(Cause::Trap, "too many host calls").calls(limits::HOST_CALLS + 1),
    big_keys: BigKeys => Expected::dies(Cause::Trap, "too many bytes to the host").calls(3),
    huge_key: HugeKey => Expected::dies(Cause::Trap, "bad-data"),
    big_reason: BigReason => Expected::fail(&cut("x", limits::REASON))
        .put_right(Corrections { reason: true, ..Corrections::default() }),
    huge_reason: HugeReason => Expected::dies(Cause::Trap, "bad-data"),
    empty_reason: EmptyReason => Expected::fail("Unspecified")
        .put_right(Corrections { reason: true, ..Corrections::default() }),
    control_chars: ControlChars => Expected::fail(DEFUSED)
        .put_right(Corrections { reason: true, ..Corrections::default() }),
    bad_utf8: BadUtf8 => Expected::dies(Cause::Trap, "bad-data"),
    reason_per_uid: ReasonPerUid => Expected::fail("Reasonuid-1").calls(2),
    threshold_max: ThresholdMax => Expected::fail_after("Unhealthy", Duration::from_secs(24 * 60 * 60))
        .put_right(Corrections { threshold: true, ..Corrections::default() }),
    threshold_zero: ThresholdZero => Expected::fail_after("Unhealthy", Duration::ZERO),
}

/// What must become of a file.
enum Fate {
    /// It serves, and passes.
    Serves,
    Refused(RefusalReason, &'static str),
    Dies(Cause, Stage, &'static str),
}

use Fate::{Dies, Refused, Serves};

/// One test each, and a list to compare with the guests there are.
macro_rules! specials {
    ($($test:ident: $name:literal => $fate:expr,)+) => {
        const SPECIALS: &[&str] = &[$($name),+];

        mod special {
            use super::{Cause, Dies, RefusalReason, Refused, Serves, Stage};

            $(
                #[tokio::test]
                async fn $test() {
                    super::meets($name, $fate).await;
                }
            )+
        }
    };
}

specials! {
    guest: "guest" => Serves,
    usual: "usual" => Serves,
    // Where it dies.
    describe_spins: "describe-spins" => Dies(Cause::Deadline, Stage::Describe, ""),
    describe_traps: "describe-traps" => Dies(Cause::Trap, Stage::Describe, "UnreachableCodeReached"),
    start_spins: "start-spins" => Dies(Cause::Deadline, Stage::Instantiate, ""),
    start_traps: "start-traps" => Dies(Cause::Trap, Stage::Instantiate, "UnreachableCodeReached"),
    check_traps: "check-traps" => Dies(Cause::Trap, Stage::SelfCheck, "UnreachableCodeReached"),
    self_check_traps: "self-check-traps" => Dies(Cause::Trap, Stage::SelfCheck, "UnreachableCodeReached"),
    // What it does there that Rust does not.
    divide: "divide" => Dies(Cause::Trap, Stage::SelfCheck, "IntegerDivisionByZero"),
    bad_pointer: "bad-pointer" => Dies(Cause::Trap, Stage::SelfCheck, "bad-data"),
    table_grows: "table-grows" => Dies(Cause::Memory, Stage::SelfCheck, "elements wanted, the limit is 32768"),
    babbles: "babbles" => Serves,
    flips: "flips" => Serves,
    random: "random" => Serves,
    // What it says about itself.
    describe_empty: "describe-empty" => Serves,
    describe_foreign: "describe-foreign" => Serves,
    describe_huge: "describe-huge" => Serves,
    // What it declares.
    memory_minimum: "memory-minimum" => Dies(
        Cause::Memory,
        Stage::Instantiate,
        "134217728 bytes is declared, the limit is 67108864",
    ),
    memory_maximum: "memory-maximum" => Serves,
    // What it does with settings.
    settings_rejected: "settings-rejected" => Refused(
        RefusalReason::SettingsRejected,
        "settings-rejected.wasm rejects [checker.settings-rejected] settings: no settings are right",
    ),
    configure_spins: "configure-spins" => Dies(Cause::Deadline, Stage::Configure, ""),
    configure_traps: "configure-traps" => Dies(Cause::Trap, Stage::Configure, "UnreachableCodeReached"),
    // What it wants.
    imports_http: "imports-http" => Refused(
        RefusalReason::ImportNotGranted,
        r#"imports apgar:checker/http, not granted. To allow it: [checker.imports-http] grants = ["http"]"#,
    ),
    imports_pods: "pods" => Refused(
        RefusalReason::ImportNotGranted,
        r#"imports apgar:checker/pods, not granted. To allow it: [checker.pods] grants = ["pods"]"#,
    ),
    imports_newer: "imports-newer" => Refused(
        RefusalReason::UnknownImport,
        "imports apgar:checker/node@0.2.0, of another version: this Apgar serves apgar:checker@0.1.2. \
         Build the checker against wit/checker-0.1.2",
    ),
    imports_newer_function: "imports-newer-function" => Refused(
        RefusalReason::UnknownImport,
        "imports apgar:checker/node@0.1.9, of which `gpus` is newer than this Apgar: it serves apgar:checker@0.1.2. \
         Upgrade Apgar, or do without",
    ),
    imports_newer_patch: "imports-newer-patch" => Serves,
    imports_unknown: "imports-unknown" => Refused(RefusalReason::UnknownImport, "imports acme:secrets/vault@1.0.0"),
    // More than the pool holds for one component, in one list more than is valid.
    core_instances_1000: "core-instances-1000" => Refused(
        RefusalReason::NotAComponent,
        "instances count exceeds limit of 1000",
    ),
    core_instances_composed: "core-instances-composed" => Dies(
        Cause::Link,
        Stage::Instantiate,
        "1001 core module instances",
    ),
    memories_100: "memories-100" => Dies(Cause::Link, Stage::Instantiate, "memories"),
    // What is no checker.
    truncated: "truncated" => Refused(RefusalReason::NotAComponent, "the file ends too early"),
    core_module: "core-module" => Refused(
        RefusalReason::NotAComponent,
        "a core module, not a component: encode it, as with `wasm-tools component new`",
    ),
    other_version: "other-version" => Refused(
        RefusalReason::WrongWorld,
        "exports apgar:checker/checker@0.2.0; this Apgar serves 0.1.2",
    ),
    other_world: "other-world" => Refused(
        RefusalReason::WrongWorld,
        "exports acme:filter/filter@1.0.0; a checker exports apgar:checker/checker@0.1.2",
    ),
    garbage: "garbage" => Refused(RefusalReason::NotAComponent, "not WebAssembly"),
    empty: "empty" => Refused(RefusalReason::NotAComponent, "empty.wasm is empty"),
}

#[test]
fn every_special_guest_is_expected_here() {
    let built: BTreeSet<&str> = GUESTS.iter().map(|(name, _)| *name).collect();
    let expected: BTreeSet<&str> = SPECIALS.iter().copied().collect();
    assert_eq!(built, expected);
}

/// Lets the guest misbehave, and looks at what came of it and at everybody else.
async fn misbehaves(behaviour: Behaviour) {
    assert!(Behaviour::ALL.contains(&behaviour));
    let plugin = if behaviour == Behaviour::Spin { spinner().await } else { patient().await };
    let node = Node { uid: Uid::from("uid-1"), ..Node::named(behaviour.node()) };
    let done = check(plugin, Arc::new(node)).await;
    as_expected(&done, expected(behaviour));
    bounded(&done, plugin.limits());
    if behaviour == Behaviour::Spin {
        assert_eq!(done.ticks, 11, "ten are free, and one is one too many");
    }

    let other = check(plugin, Arc::new(Node::named("another-node"))).await;
    as_expected(&other, expected(Behaviour::Healthy));
    others_are_well().await;
}

fn as_expected(done: &CheckDone, expected: Expected) {
    let Expected { outcome, calls, log, put_right } = expected;
    assert_eq!(done.fault, None);
    assert_eq!(done.host_calls, calls, "{done:?}");
    assert_eq!(done.corrections, put_right);
    // The guest is pure, so an answer is remembered, whatever it is; a death never is.
    let (verdict, remember) = match outcome {
        Outcome::Verdict { healthy, reason, threshold } => {
            let judgement = Judgement { reason: reason.into(), threshold };
            (if healthy { Verdict::Pass(judgement) } else { Verdict::Fail(judgement) }, true)
        }
        Outcome::CannotTell(text) => {
            (Verdict::Unknown(Unknown { cause: UnknownCause::Error, detail: text.into() }), true)
        }
        Outcome::Dies(cause, detail) => {
            let death = done.death.as_ref().unwrap_or_else(|| panic!("it lives: {done:?}"));
            assert_eq!((death.cause, death.stage), (cause, Stage::Check), "{death}");
            assert!(death.detail.contains(detail), "{detail:?} is not in {death}");
            let detail = format!("{cause}: {}", death.detail).into();
            (Verdict::Unknown(Unknown { cause: UnknownCause::Crashed, detail }), false)
        }
    };
    assert_eq!(done.verdict, verdict);
    assert_eq!(done.remember, remember);
    let mut lines = done.log_lines.clone();
    if !remember {
        // Where it broke is said by the host, after whatever the guest said.
        lines.retain(|line| !(line.level == LogLevel::Error && line.text.starts_with("broke in ")));
        assert!(done.log_lines.len() <= lines.len() + 1, "{:?}", done.log_lines);
    } else {
        assert_eq!(done.death, None);
    }
    assert_eq!(lines, log);
}

/// What holds for every check there is.
fn bounded(done: &CheckDone, limits: &Limits) {
    assert!(done.peak_memory <= limits.memory, "{}", done.peak_memory);
    assert!(done.host_calls <= limits.host_calls + 1, "{}", done.host_calls);
    assert!(done.log_lines.len() <= limits.log_lines as usize + 1);
    for line in &done.log_lines {
        assert!(line.text.len() <= limits.log_line && !line.text.contains(char::is_control), "{line:?}");
    }
    let (said, longest) = match &done.verdict {
        Verdict::Pass(judgement) | Verdict::Fail(judgement) => {
            assert!(judgement.threshold <= limits::THRESHOLD_MAX);
            (&judgement.reason, limits::REASON)
        }
        Verdict::Unknown(unknown) if done.death.is_none() => (&unknown.detail, limits::REASON),
        // Ours, not the guest's: as long as a death's detail may be (`supervision` 4.9).
        Verdict::Unknown(unknown) => (&unknown.detail, 1_024),
    };
    assert!(!said.is_empty() && said.len() <= longest && !said.contains(char::is_control), "{said:?}");
}

/// Loads the special guest, and looks at what came of it and at everybody else.
async fn meets(name: &str, fate: Fate) {
    let loaded = load(candidate(name)).await;
    match (loaded, fate) {
        (Ok(plugin), Serves) => {
            assert_eq!(plugin.key().as_str(), name);
            let wasi = plugin.imports().iter().any(|import| import.starts_with("wasi:"));
            assert_eq!(wasi, name == "random", "{:?}", plugin.imports());
            let done = check(&plugin, well_node()).await;
            assert_eq!(done.verdict.result(), "pass", "{done:?}");
        }
        (Err(LoadError::Refusal(refusal)), Refused(reason, message)) => {
            assert_eq!(refusal.reason, reason, "{refusal}");
            assert!(refusal.message.contains(message), "{message:?} is not in {refusal}");
        }
        (Err(LoadError::Death(death)), Dies(cause, stage, detail)) => {
            assert_eq!((death.cause, death.stage), (cause, stage), "{death}");
            assert!(death.detail.contains(detail), "{detail:?} is not in {death}");
        }
        (Ok(plugin), Refused(..) | Dies(..)) => panic!("{name} serves: {plugin:?}"),
        (Err(error), Serves | Refused(..) | Dies(..)) => panic!("{name}: {error}"),
    }
    others_are_well().await;
}

/// A checker that is well judges on, whatever the others did.
async fn others_are_well() {
    let done = check(ready().await, well_node()).await;
    assert_eq!(done.verdict, well_verdict(), "{done:?}");
    assert!(done.death.is_none() && done.fault.is_none() && done.log_lines.is_empty(), "{done:?}");
}

fn well_node() -> Arc<Node> {
    let ready = Condition {
        kind: "Ready".into(),
        status: "True".into(),
        reason: "KubeletReady".into(),
        message: "".into(),
        last_transition: None,
    };
    Arc::new(Node { conditions: [ready].into(), ..Node::named("well") })
}

fn well_verdict() -> Verdict {
    Verdict::Pass(Judgement { reason: "KubeletReady".into(), threshold: Duration::from_secs(300) })
}

/// The bundled checker that stands for all others.
async fn ready() -> &'static Arc<Plugin> {
    static READY: OnceCell<Arc<Plugin>> = OnceCell::const_new();
    let bytes = || apgar::plugins::bundled().into_iter().find(|(name, _)| *name == "ready").unwrap().1;
    READY.get_or_init(async || load(named("ready", bytes(), Limits::default())).await.unwrap()).await
}

/// The guest with the limits it would have.
async fn spinner() -> &'static Arc<Plugin> {
    static SPINNER: OnceCell<Arc<Plugin>> = OnceCell::const_new();
    SPINNER.get_or_init(async || load(candidate("guest")).await.unwrap()).await
}

/// The guest with as much time as there is: without optimisation the host needs more for 10 000 calls than a check
/// has. What is not a limit of time is as usual.
async fn patient() -> &'static Arc<Plugin> {
    static PATIENT: OnceCell<Arc<Plugin>> = OnceCell::const_new();
    let time =
        Limits { call_deadline: limits::CALL_DEADLINE_MAX, wall_limit: limits::WALL_LIMIT_MAX, ..Limits::default() };
    PATIENT.get_or_init(async || load(Candidate { limits: time, ..candidate("guest") }).await.unwrap()).await
}

/// A guest as a file of the plugin directory; those that spin get less time to do so.
fn candidate(name: &str) -> Candidate {
    let bytes = guest(name).unwrap_or_else(|| panic!("no guest {name}"));
    let startup_deadline = if name.ends_with("-spins") { Duration::from_millis(200) } else { limits::STARTUP_DEADLINE };
    let grants = if name == "flips" { Grants::from([Capability::Memory]) } else { Grants::new() };
    Candidate { grants, ..named(name, bytes.into(), Limits { startup_deadline, ..Limits::default() }) }
}

fn named(name: &str, bytes: Arc<[u8]>, limits: Limits) -> Candidate {
    Candidate {
        key: CheckerKey::from(name),
        bytes,
        settings: serde_json::json!({}),
        grants: Grants::new(),
        limits,
        source: Source::Directory,
    }
}

async fn load(candidate: Candidate) -> Result<Arc<Plugin>, LoadError> {
    for _ in 0..TRIES {
        match ENGINE.load(candidate.clone()).await {
            Err(LoadError::Death(death)) if death.cause == Cause::HostStarved => {}
            result => return result,
        }
    }
    panic!("the host is too busy: {TRIES} starts of {} were starved", candidate.key);
}

async fn check(plugin: &Arc<Plugin>, node: Arc<Node>) -> CheckDone {
    for _ in 0..TRIES {
        let done = ENGINE.check(plugin, node.clone()).await;
        if !starved(&done) {
            return done;
        }
    }
    panic!("the host is too busy: {TRIES} checks of {} were starved", plugin.key());
}

fn starved(done: &CheckDone) -> bool {
    done.death.as_ref().is_some_and(|death| death.cause == Cause::HostStarved)
}

//! One check: a fresh store, one budget over everything in it, and the verdict or the death that comes out.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apgar_core::node::Node;
use apgar_core::pods::Pods;
use apgar_core::verdict::{Judgement, Unknown, UnknownCause, Verdict};
use wasmtime::{OutOfMemory, PoolConcurrencyLimitError, Store, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::bindings::{self, Said};
use crate::clock;
use crate::death::{Cause, Death, Stage};
use crate::host::{Host, LogLevel, LogLine, Meter, Overuse, TooMuch};
use crate::limits;
use crate::memory::End;
use crate::meter::{Allowance, Ended, Spent, Watch};
use crate::plugin::{Capability, Plugin};
use crate::text;
use crate::ticker::Ticker;
use crate::wasi::Wasi;

/// What came out of one check.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckDone {
    /// The answer; unknown for everything that is none.
    pub verdict: Verdict,
    /// True if the answer holds until what it depends on changes: the plugin is pure, it did answer, and its pods were
    /// known if it reads them.
    pub remember: bool,
    /// How it died, if it did. For the ledger.
    pub death: Option<Death>,
    /// What failed on our side, if that is why there is no answer. No death: the check is asked again.
    pub fault: Option<String>,
    /// Guest code and the host code it called.
    pub guest_time: Duration,
    /// From the permit to the end, making and dropping the store included.
    pub took: Duration,
    /// Ticks of the engine's clock charged to the guest.
    pub ticks: u32,
    /// The most linear memory it had, in bytes.
    pub peak_memory: u64,
    /// It completed, and took guest time at or above the soft limit by its own doing: not while the host stood still,
    /// or let it wait for more than half of its time.
    pub slow: bool,
    /// Calls from guest to host.
    pub host_calls: u32,
    /// What it wrote to its log.
    pub log_lines: Vec<LogLine>,
    /// What had to be put right.
    pub corrections: Corrections,
}

/// What a guest said beyond its limits: cut, clamped or dropped, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Corrections {
    /// The reason was empty, too long, or had control characters.
    pub reason: bool,
    /// The threshold was beyond a day.
    pub threshold: bool,
    /// The error text was too long, or had control characters.
    pub error: bool,
    /// Log lines beyond the limit.
    pub log_dropped: u32,
    /// Log lines that were too long.
    pub log_cut: u32,
    /// Answers to the guest that were too long.
    pub answers_cut: u32,
    /// Blobs that were too large to be kept.
    pub stores_refused: u32,
    /// Requests that may not be made.
    pub requests_refused: u32,
}

impl Corrections {
    /// Each field with how often it was put right: the label values of a metric.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u32); 8] {
        [
            ("reason", u32::from(self.reason)),
            ("threshold", u32::from(self.threshold)),
            ("error", u32::from(self.error)),
            ("log-dropped", self.log_dropped),
            ("log-cut", self.log_cut),
            ("answer", self.answers_cut),
            ("store-refused", self.stores_refused),
            ("request-refused", self.requests_refused),
        ]
    }
}

/// What stands in for an empty reason: a label value must say something.
const NO_REASON: &str = "Unspecified";

/// How a run ended that did not return: a death, or a failure of ours.
#[derive(Debug)]
pub(crate) enum Fault {
    Death(Death),
    Engine(String),
}

/// Judges `node` in a store of its own. The caller holds the permits.
pub(crate) async fn check(
    plugin: &Plugin,
    node: Arc<Node>,
    pods: Option<Pods>,
    meter: &Arc<Meter>,
    ticker: &Ticker,
) -> CheckDone {
    if let Some(why) = &node.malformed {
        return CheckDone::unknown(UnknownCause::MalformedNode, Arc::from(&**why));
    }
    let started = clock::now();
    let _judging = plugin.judging.note(&node.name);
    let limits = &plugin.limits;
    let wall = limits.wall(plugin.asker.is_some());
    let mut store = store(plugin, node.clone(), meter, limits.cpu_ticks());
    let host = store.data_mut();
    host.ends_after(wall);
    host.pods = pods;
    host.asker = plugin.asker.clone();
    host.pad = plugin.memory.as_ref().map(|memory| memory.take(&node, limits.scratchpad));
    let allowance = Allowance { wall, waiting: limits.call_deadline };
    let (ended, spent) = {
        let run = pin!(judge(plugin, &mut store));
        Watch::new(run, meter, allowance, started).await
    };
    let trace = backtrace(&ended);
    let result = settle(ended, spent, Stage::Check, started, ticker);
    let slow = result.is_ok() && spent.guest >= limits.soft_limit && starved(spent, started, ticker).is_none();
    let mut done = conclude(plugin, result, &mut store, spent);
    done.slow = slow;
    done.log_lines.extend(trace);
    if let (Some(memory), Some(pad)) = (&plugin.memory, store.data_mut().pad.take()) {
        memory.put(&node, pad, done.end());
    }
    drop(store);
    done.took = started.elapsed();
    done
}

/// A store with every limit armed: from here on guest code may run in it.
pub(crate) fn store(plugin: &Plugin, node: Arc<Node>, meter: &Arc<Meter>, cpu_ticks: u32) -> Store<Host> {
    meter.reset();
    let limits = &plugin.limits;
    let wasi = plugin.wasi.then(|| Wasi::new(limits, plugin.grants.contains(&Capability::Clock)));
    let host = Host::new(node, meter.clone(), limits, cpu_ticks, wasi);
    let mut store = Store::new(plugin.pre.engine(), host);
    store.limiter(|host| &mut host.memory);
    store.set_hostcall_fuel(limits::HOSTCALL_FUEL);
    store.set_epoch_deadline(1); // forgotten, the first instruction traps
    store.epoch_deadline_callback(|mut store| Ok(store.data_mut().tick()));
    store
}

/// Instantiate, configure, check: start functions are guest code, and a new store is not configured yet.
async fn judge(plugin: &Plugin, store: &mut Store<Host>) -> Result<Said, Broken> {
    let instance = plugin.pre.instantiate_async(&mut *store).await.map_err(Broken::Instantiating)?;
    match bindings::configure(store, &instance, &plugin.exports, &plugin.settings).await {
        Ok(Ok(())) => bindings::check(store, &instance, &plugin.exports).await.map_err(Broken::Calling),
        Ok(Err(text)) => Ok(Said::CannotTell(text)),
        Err(error) => Err(Broken::Calling(error)),
    }
}

/// Where Wasmtime gave up: the same error means another thing before the instance stands.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Linking or instantiating.
    Instantiating(wasmtime::Error),
    /// In a call.
    Calling(wasmtime::Error),
}

/// What the end of a run means. By type and never by message text, in the order of `engine` section 3.
pub(crate) fn settle<T>(
    ended: Ended<Result<T, Broken>>,
    spent: Spent,
    stage: Stage,
    started: Instant,
    ticker: &Ticker,
) -> Result<T, Fault> {
    let took = started.elapsed();
    let cut_off = |cause, detail: String| {
        if let Some(why) = starved(spent, started, ticker) {
            return Fault::Death(Death::new(Cause::HostStarved, stage, format!("{detail}; {why}")));
        }
        Fault::Death(Death::new(cause, stage, detail))
    };
    match ended {
        Ended::Returned(Ok(value)) => Ok(value),
        Ended::Returned(Err(broken)) => Err(broken.fault(stage, |detail| {
            // Charged by ticks, which only running guests see: waiting for a turn is no excuse here.
            let stalled = ticker.stalled_since(started);
            Death::new(if stalled { Cause::HostStarved } else { Cause::Deadline }, stage, detail)
        })),
        Ended::Panicked(text) => Err(Fault::Death(Death::new(Cause::HostPanic, stage, text))),
        Ended::WaitedTooLong => {
            Err(cut_off(Cause::ImportTimeout, format!("waited {} ms in an import", spent.waiting.as_millis())))
        }
        Ended::TookTooLong => Err(cut_off(Cause::Deadline, format!("not done after {} ms", took.as_millis()))),
    }
}

/// Why the time that a run took is the host's doing, if it is (`supervision` 2.2).
fn starved(spent: Spent, started: Instant, ticker: &Ticker) -> Option<&'static str> {
    if ticker.stalled_since(started) {
        return Some("the host stood still");
    }
    (spent.starved > started.elapsed() / 2).then_some("it was not run for more than half of its time")
}

impl Broken {
    fn fault(&self, stage: Stage, interrupted: impl FnOnce(String) -> Death) -> Fault {
        let (Self::Instantiating(error) | Self::Calling(error)) = self;
        let death = |cause, detail: String| Fault::Death(Death::new(cause, stage, detail));
        // Out of slots, or the system out of memory or address space: the guest's own growth never gets that far.
        if error.is::<PoolConcurrencyLimitError>() || error.is::<OutOfMemory>() || is_of_the_system(error) {
            return Fault::Engine(error.root_cause().to_string());
        }
        if let Some(too_much) = error.downcast_ref::<TooMuch>() {
            return death(Cause::Memory, too_much.to_string());
        }
        if let Some(overuse) = error.downcast_ref::<Overuse>() {
            return death(Cause::Trap, overuse.to_string());
        }
        if let Some(trap) = error.downcast_ref::<Trap>() {
            return if *trap == Trap::Interrupt {
                Fault::Death(interrupted("guest time used up".to_owned()))
            } else {
                death(Cause::Trap, format!("{trap:?}"))
            };
        }
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return death(Cause::Exit, format!("code {}", exit.0));
        }
        match self {
            Self::Instantiating(error) => death(Cause::Link, error.root_cause().to_string()),
            Self::Calling(error) => death(Cause::Trap, format!("bad-data: {}", error.root_cause())),
        }
    }
}

/// True for an error that only a system call of ours can have brought up.
fn is_of_the_system(error: &wasmtime::Error) -> bool {
    error.is::<std::io::Error>() || error.is::<rustix::io::Errno>()
}

/// Where in the guest it broke, for whoever wrote it: one line, whatever the guest logged before.
fn backtrace<T>(ended: &Ended<Result<T, Broken>>) -> Option<LogLine> {
    let Ended::Returned(Err(Broken::Instantiating(error) | Broken::Calling(error))) = ended else {
        return None;
    };
    let frames: Vec<String> = error
        .downcast_ref::<WasmBacktrace>()?
        .frames()
        .iter()
        .map(|frame| frame.func_name().map_or_else(|| format!("function {}", frame.func_index()), str::to_owned))
        .collect();
    let mut text = format!("broke in {}", frames.join(", called by "));
    text::clean(&mut text);
    text::cut(&mut text, limits::LOG_LINE);
    Some(LogLine { level: LogLevel::Error, text })
}

fn conclude(plugin: &Plugin, result: Result<Said, Fault>, store: &mut Store<Host>, spent: Spent) -> CheckDone {
    let mut corrections = Corrections::default();
    let mut death = None;
    let mut fault = None;
    let mut remember = false;
    let known = !plugin.inputs.has_pods() || store.data().pods.is_some();
    let verdict = match result {
        Ok(Said::Verdict { healthy, mut reason, threshold }) => {
            remember = plugin.pure() && known;
            corrections.reason = correct_reason(&mut reason, plugin.limits.reason);
            corrections.threshold = threshold > limits::THRESHOLD_MAX;
            let judgement =
                Judgement { reason: plugin.reasons.share(&reason), threshold: threshold.min(limits::THRESHOLD_MAX) };
            if healthy { Verdict::Pass(judgement) } else { Verdict::Fail(judgement) }
        }
        Ok(Said::CannotTell(mut text)) => {
            remember = plugin.pure() && known;
            corrections.error = text::clean(&mut text) | text::cut(&mut text, limits::REASON);
            unknown(UnknownCause::Error, Arc::from(text))
        }
        Err(Fault::Death(died)) => {
            let cause = match died.cause {
                // Nothing is known to be wrong with the guest: no pair, asked again at the next tick.
                Cause::HostStarved => UnknownCause::Error,
                Cause::Trap
                | Cause::Exit
                | Cause::Memory
                | Cause::HostPanic
                | Cause::Load
                | Cause::Compile
                | Cause::Link
                | Cause::DaemonDied
                | Cause::Deadline
                | Cause::ImportTimeout
                | Cause::Slow => UnknownCause::Crashed,
            };
            let verdict = unknown(cause, Arc::from(format!("{}: {}", died.cause, died.detail)));
            death = Some(died);
            verdict
        }
        Err(Fault::Engine(what)) => {
            let verdict = unknown(UnknownCause::Error, Arc::from(what.as_str()));
            fault = Some(what);
            verdict
        }
    };
    let host = store.data_mut();
    if let Some(wasi) = host.wasi.take() {
        wasi.drain_into(&mut host.log);
    }
    let (log_lines, log_dropped, log_cut) = host.log.take();
    corrections.log_dropped = log_dropped;
    corrections.log_cut = log_cut;
    corrections.answers_cut = host.answers_cut;
    corrections.stores_refused = host.stores_refused;
    corrections.requests_refused = host.requests_refused;
    CheckDone {
        verdict,
        remember,
        death,
        fault,
        guest_time: spent.guest,
        took: Duration::ZERO,
        ticks: host.ticks(),
        peak_memory: host.memory.peak(),
        slow: false,
        host_calls: host.calls(),
        log_lines,
        corrections,
    }
}

fn correct_reason(reason: &mut String, most: usize) -> bool {
    if reason.trim().is_empty() {
        NO_REASON.clone_into(reason);
        return true;
    }
    text::clean(reason) | text::cut(reason, most)
}

fn unknown(cause: UnknownCause, detail: Arc<str>) -> Verdict {
    Verdict::Unknown(Unknown { cause, detail })
}

impl CheckDone {
    fn unknown(cause: UnknownCause, detail: Arc<str>) -> Self {
        Self {
            verdict: unknown(cause, detail),
            remember: false,
            death: None,
            fault: None,
            guest_time: Duration::ZERO,
            took: Duration::ZERO,
            ticks: 0,
            peak_memory: 0,
            slow: false,
            host_calls: 0,
            log_lines: Vec::new(),
            corrections: Corrections::default(),
        }
    }

    /// What the end of the check means for what the guest stored.
    fn end(&self) -> End {
        match &self.death {
            None if self.fault.is_none() => End::Returned,
            Some(death) if death.cause != Cause::HostStarved => End::Died,
            Some(_) | None => End::Cut,
        }
    }

    /// Our own machinery failed around a check.
    pub(crate) fn fault(what: impl Into<String>) -> Self {
        let what = what.into();
        Self { fault: Some(what.clone()), ..Self::unknown(UnknownCause::Error, Arc::from(what)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_reason(said: &str, expected: &str) {
        let mut reason = said.to_owned();
        assert_eq!(correct_reason(&mut reason, limits::REASON), said != expected);
        assert_eq!(reason, expected);
    }

    /// `supervision` P-28: what the guest's own limits never let it come to.
    #[test]
    fn a_host_that_has_no_memory_left_is_no_death_of_a_guest() {
        for broken in [Broken::Instantiating, Broken::Calling] {
            let fault = broken(OutOfMemory::new(8).into())
                .fault(Stage::Check, |detail| Death::new(Cause::Deadline, Stage::Check, detail));
            assert!(matches!(&fault, Fault::Engine(_)), "{fault:?}");
        }
    }

    #[test]
    fn a_reason_says_something_on_one_short_line() {
        check_reason("NodeReady", "NodeReady");
        check_reason("", "Unspecified");
        check_reason(" \n", "Unspecified");
        check_reason("a\nb", "a\u{fffd}b");
        check_reason(&"x".repeat(256), &"x".repeat(256));
        check_reason(&"x".repeat(257), &format!("{}…", "x".repeat(253)));
    }
}

//! What the host side of one check holds: the frozen node, the counters, and the limits they are held against.
//! It lives as long as the store, which is as long as the check.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use apgar_core::node::Node;
use apgar_core::pods::Pods;
use serde::Serialize;
use wasmtime::{ResourceLimiter, UpdateDeadline};

use crate::clock;
use crate::http::{Asker, Failed, Fetched, Refused};
use crate::limits::{self, Limits};
use crate::memory::Pad;
use crate::text;
use crate::wasi::Wasi;

/// How much a line of a guest's log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// For whoever writes the checker.
    Debug,
    /// Worth keeping.
    Info,
    /// Worth a look.
    Warn,
    /// Something is wrong with the checker's own work.
    Error,
}

/// A line a guest wrote, cut and cleaned. It is for people; nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// How much it matters.
    pub level: LogLevel,
    /// The text, on one line.
    pub text: String,
}

/// What the watcher outside of a run needs to know of the inside, while the store is borrowed by the run.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    ticks: AtomicU32,
    yielded: AtomicBool,
    asking: AtomicBool,
}

impl Meter {
    /// Ready for the next run.
    pub(crate) fn reset(&self) {
        self.ticks.store(0, Ordering::Relaxed);
        self.yielded.store(false, Ordering::Relaxed);
        self.asking.store(false, Ordering::Relaxed);
    }

    /// The ticks charged so far.
    pub(crate) fn ticks(&self) -> u32 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// True if the run's last pause was a yield of ours and not a wait in an import.
    pub(crate) fn take_yielded(&self) -> bool {
        self.yielded.swap(false, Ordering::Relaxed)
    }

    /// True while a request is under way, whose wait has limits of its own.
    pub(crate) fn asking(&self) -> bool {
        self.asking.load(Ordering::Relaxed)
    }
}

/// The data of a store.
pub(crate) struct Host {
    node: Arc<Node>,
    meter: Arc<Meter>,
    cpu_ticks: u32,
    calls_left: u32,
    calls: u32,
    bytes_left: u64,
    pub(crate) memory: Memory,
    pub(crate) log: Log,
    pub(crate) answers_cut: u32,
    pub(crate) stores_refused: u32,
    pub(crate) requests_refused: u32,
    /// The pods of this node, none while they are not known. While the plugin is loaded, that there are none.
    pub(crate) pods: Option<Pods>,
    /// What was kept for this node. None while the plugin is loaded.
    pub(crate) pad: Option<Pad>,
    /// None while the plugin is loaded: the self-check must not hang on a server.
    pub(crate) asker: Option<Arc<Asker>>,
    http_calls: u32,
    http_calls_left: u32,
    http_timeout: Duration,
    ends: Instant,
    pub(crate) wasi: Option<Box<Wasi>>,
}

impl Host {
    pub(crate) fn new(
        node: Arc<Node>,
        meter: Arc<Meter>,
        limits: &Limits,
        cpu_ticks: u32,
        wasi: Option<Box<Wasi>>,
    ) -> Self {
        Self {
            node,
            meter,
            cpu_ticks,
            calls_left: limits.host_calls,
            calls: 0,
            bytes_left: limits.host_bytes,
            memory: Memory { used: 0, peak: 0, limit: limits.memory, elements: 0 },
            log: Log { lines: Vec::new(), most: limits.log_lines, longest: limits.log_line, dropped: 0, cut: 0 },
            answers_cut: 0,
            stores_refused: 0,
            requests_refused: 0,
            pods: Some(Pods::default()),
            pad: None,
            asker: None,
            http_calls: limits.http_calls,
            http_calls_left: limits.http_calls,
            http_timeout: limits.http_timeout,
            ends: clock::now() + limits.wall_limit,
            wasi,
        }
    }

    /// Charges one call of the guest that carried `bytes`, and gives what it may ask about.
    pub(crate) fn asked(&mut self, bytes: usize) -> wasmtime::Result<Arc<Node>> {
        self.calls += 1;
        self.calls_left = self.calls_left.checked_sub(1).ok_or(Overuse::Calls)?;
        self.bytes_left = self.bytes_left.checked_sub(bytes as u64).ok_or(Overuse::Bytes)?;
        Ok(self.node.clone())
    }

    /// Until when the run is ended: the start's own time where it is one.
    pub(crate) fn ends_after(&mut self, span: Duration) {
        self.ends = clock::now() + span;
    }

    /// Wall time until the run is ended.
    pub(crate) fn time_left(&self) -> Duration {
        self.ends.saturating_duration_since(clock::now())
    }

    /// Makes a request, if the guest may make one. It takes no longer than one may, and than is left of the check.
    pub(crate) async fn fetch(&mut self, url: String, headers: Vec<(String, String)>) -> Result<Fetched, Failed> {
        let limit = self.http_timeout.min(self.time_left());
        let result = match (&self.asker, self.http_calls_left.checked_sub(1)) {
            (None, _) => Err(Refused::Loading.into()),
            (Some(_), None) => Err(Refused::Calls(self.http_calls).into()),
            (Some(asker), Some(left)) => {
                self.http_calls_left = left;
                let asker = asker.clone();
                self.meter.asking.store(true, Ordering::Relaxed);
                let result = asker.get(&url, headers, limit).await;
                self.meter.asking.store(false, Ordering::Relaxed);
                result
            }
        };
        let refused = matches!(result, Err(Failed::Refused(_)));
        self.requests_refused = self.requests_refused.saturating_add(u32::from(refused));
        result
    }

    /// Ticks charged so far.
    pub(crate) fn ticks(&self) -> u32 {
        self.meter.ticks()
    }

    /// Calls of the guest so far.
    pub(crate) fn calls(&self) -> u32 {
        self.calls
    }

    /// Runs once per tick seen while guest code runs: charges it, and lets others run.
    pub(crate) fn tick(&mut self) -> UpdateDeadline {
        let ticks = self.meter.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        if ticks > self.cpu_ticks {
            return UpdateDeadline::Interrupt;
        }
        self.meter.yielded.store(true, Ordering::Relaxed);
        UpdateDeadline::Yield(1)
    }
}

/// The guest used the host more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Overuse {
    #[error("too many host calls")]
    Calls,
    #[error("too many bytes to the host")]
    Bytes,
}

/// A growth that was refused. Answering with an error of our own ends the guest at once and with the right cause;
/// answering "no" lets it die later of an `unreachable` that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMuch {
    #[error("{wanted} bytes of memory wanted, the limit is {limit}")]
    Memory { wanted: u64, limit: u64 },
    #[error("{wanted} table elements wanted, the limit is {limit}")]
    Table { wanted: usize, limit: usize },
}

/// The memory of one store: all memories together, since a limit on each would multiply.
pub(crate) struct Memory {
    used: u64,
    peak: u64,
    limit: u64,
    elements: usize,
}

impl Memory {
    /// The most that was in use.
    pub(crate) fn peak(&self) -> u64 {
        self.peak
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.used.saturating_add(desired.saturating_sub(current) as u64);
        if wanted > self.limit {
            return Err(TooMuch::Memory { wanted, limit: self.limit }.into());
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            // Beyond the maximum the guest itself declared: an ordinary -1, as the standard has it.
            return Ok(false);
        }
        self.used = wanted;
        self.peak = self.peak.max(wanted);
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.elements.saturating_add(desired.saturating_sub(current));
        if wanted > limits::TABLE_ELEMENTS {
            return Err(TooMuch::Table { wanted, limit: limits::TABLE_ELEMENTS }.into());
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.elements = wanted;
        Ok(true)
    }

    // The pool holds these three as well; they matter where the pool could not be had.
    fn instances(&self) -> usize {
        limits::CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        limits::TABLES as usize
    }

    fn memories(&self) -> usize {
        limits::MEMORIES as usize
    }
}

/// The log of one check.
pub(crate) struct Log {
    lines: Vec<LogLine>,
    most: u32,
    longest: usize,
    dropped: u32,
    cut: u32,
}

impl Log {
    /// True while another line would be kept.
    pub(crate) fn has_room(&self) -> bool {
        self.lines.len() < self.most as usize
    }

    /// Counts a line that is not kept.
    pub(crate) fn drop_line(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }

    /// Keeps one line, or counts it.
    pub(crate) fn write(&mut self, level: LogLevel, mut text: String) {
        if !self.has_room() {
            return self.drop_line();
        }
        text::clean(&mut text);
        if text::cut(&mut text, self.longest) {
            self.cut = self.cut.saturating_add(1);
        }
        self.lines.push(LogLine { level, text });
    }

    /// The lines, how many were dropped, and how many were cut.
    pub(crate) fn take(&mut self) -> (Vec<LogLine>, u32, u32) {
        (std::mem::take(&mut self.lines), self.dropped, self.cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(limit: u64) -> Memory {
        Memory { used: 0, peak: 0, limit, elements: 0 }
    }

    #[test]
    fn the_limit_is_on_the_sum_of_all_memories() {
        let mut memory = memory(3 << 16);
        assert!(memory.memory_growing(0, 2 << 16, None).unwrap());
        assert!(memory.memory_growing(0, 1 << 16, None).unwrap());
        let error = memory.memory_growing(1 << 16, 2 << 16, None).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&TooMuch::Memory { wanted: 4 << 16, limit: 3 << 16 }));
        assert_eq!(memory.peak(), 3 << 16);
    }

    #[test]
    fn growth_beyond_the_guests_own_maximum_is_no_crime() {
        let mut memory = memory(10 << 16);
        assert!(!memory.memory_growing(0, 2 << 16, Some(1 << 16)).unwrap());
        assert_eq!(memory.peak(), 0);
    }

    #[test]
    fn the_log_keeps_a_few_lines_and_counts_the_rest() {
        let mut log = Log { lines: Vec::new(), most: 1, longest: 8, dropped: 0, cut: 0 };
        log.write(LogLevel::Info, "a\nline that is long".into());
        log.write(LogLevel::Info, "b".into());
        let (lines, dropped, cut) = log.take();
        assert_eq!(lines, [LogLine { level: LogLevel::Info, text: "a\u{fffd}l…".into() }]);
        assert_eq!((dropped, cut), (1, 1));
    }
}

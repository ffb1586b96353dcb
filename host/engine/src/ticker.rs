//! The engine's clock: an OS thread that moves the epoch on every tick, by which guests are charged and made to
//! yield. It sleeps between ticks and never catches up: a burst of ticks after a stall would kill innocents.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wasmtime::Engine;

use crate::clock;
use crate::limits::{TICK, TICKER_GAP};

/// How the ticker is. Guests are not bounded while it stands still, so the daemon is not ready then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickerHealth {
    /// How long ago it last ticked. Above a second something is wrong with the host.
    pub last_tick_ago: Duration,
    /// The longest it ever paused between two ticks.
    pub largest_gap: Duration,
}

/// What the thread publishes, in microseconds since `started`.
#[derive(Debug)]
pub(crate) struct Ticker {
    started: Instant,
    last: AtomicU64,
    largest_gap: AtomicU64,
    stall_ended: AtomicU64,
}

impl Ticker {
    /// Starts the thread. It ends with the engine.
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            started: clock::now(),
            last: AtomicU64::new(0),
            largest_gap: AtomicU64::new(0),
            stall_ended: AtomicU64::new(0),
        });
        let (engine, published) = (engine.weak(), ticker.clone());
        thread::Builder::new().name("apgar-ticker".into()).spawn(move || {
            loop {
                clock::rest(TICK);
                let Some(engine) = engine.upgrade() else { return };
                engine.increment_epoch();
                published.ticked(published.started.elapsed());
            }
        })?;
        Ok(ticker)
    }

    fn ticked(&self, now: Duration) {
        let now = micros(now);
        let gap = now.saturating_sub(self.last.swap(now, Ordering::Relaxed));
        self.largest_gap.fetch_max(gap, Ordering::Relaxed);
        if gap >= micros(TICKER_GAP) {
            self.stall_ended.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// How it is now.
    pub(crate) fn health(&self) -> TickerHealth {
        let last = Duration::from_micros(self.last.load(Ordering::Relaxed));
        TickerHealth {
            last_tick_ago: self.started.elapsed().saturating_sub(last),
            largest_gap: Duration::from_micros(self.largest_gap.load(Ordering::Relaxed)),
        }
    }

    /// True if it stood still, or does so now, at some time since `since`.
    pub(crate) fn stalled_since(&self, since: Instant) -> bool {
        let since = micros(since.saturating_duration_since(self.started));
        self.stall_ended.load(Ordering::Relaxed) > since || self.health().last_tick_ago >= TICKER_GAP
    }

    /// Stands still from the point of view of everybody who looks from now on.
    #[cfg(test)]
    pub(crate) fn stall(&self) {
        self.stall_ended.store(u64::MAX, Ordering::Relaxed);
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_remembered_by_those_it_fell_into() {
        let started = clock::now();
        let ticker =
            Ticker { started, last: AtomicU64::new(0), largest_gap: AtomicU64::new(0), stall_ended: AtomicU64::new(0) };
        ticker.ticked(Duration::from_millis(10));
        ticker.ticked(Duration::from_millis(210));
        ticker.ticked(Duration::from_millis(220));
        assert_eq!(ticker.health().largest_gap, Duration::from_millis(200));
        assert_eq!(ticker.stall_ended.load(Ordering::Relaxed), 210_000);
    }
}

//! The one place that reads a clock.

use std::time::{Duration, Instant, SystemTime};

use apgar_core::time::Time;

/// Wall time at process start plus monotonic time since: it never goes back, and a jump of the system clock
/// moves nothing (`recovery` section 2).
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started_wall: Duration,
    started: Instant,
}

impl Clock {
    /// Reads both clocks once.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the module that reads the clocks")]
    pub fn start() -> Self {
        let started_wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { started_wall, started: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::from_unix_ms(0) + self.started_wall + self.started.elapsed()
    }

    /// The instant, for the runtime's timers, at which it will be `at`.
    #[must_use]
    pub fn instant(&self, at: Time) -> tokio::time::Instant {
        let since_start = at.since(Time::from_unix_ms(0) + self.started_wall);
        (self.started + since_start).into()
    }
}

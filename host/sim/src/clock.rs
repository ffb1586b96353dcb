//! The wall clock of the simulation: real time at its start plus tokio's time since.
//! With tokio's time paused in a test, time stamps stand still too.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// One per server, so that all of its time stamps agree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Timestamp,
    at: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { started: Timestamp::now(), at: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.started.checked_add(self.since_start()).unwrap_or(self.started)
    }

    pub(crate) fn since_start(&self) -> Duration {
        self.at.elapsed()
    }
}

/// `metav1.Time`: whole seconds.
pub(crate) fn seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// `metav1.MicroTime`, as leases have it.
pub(crate) fn micros(at: Timestamp) -> String {
    format!("{at:.6}")
}

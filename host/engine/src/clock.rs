//! The engine's only look at the time: to measure guests and to end their waits. It decides nothing by the time of
//! day, and what it stamps is stamped by the daemon's clock.

use std::time::{Duration, Instant};

/// Now, for a difference.
#[expect(clippy::disallowed_methods, reason = "a guest's time is measured here and nowhere else")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Lets the calling thread rest: the ticker's own.
#[expect(clippy::disallowed_methods, reason = "an OS thread that does nothing else, on no runtime")]
pub(crate) fn rest(span: Duration) {
    std::thread::sleep(span);
}

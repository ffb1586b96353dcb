//! The engine's only look at the time: to measure guests, to end their waits, and to tell a guest that was granted
//! the clock. It decides nothing by the time of day, and what it stamps is stamped by the daemon's clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Now, for a difference.
#[expect(clippy::disallowed_methods, reason = "a guest's time is measured here and nowhere else")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time of day in milliseconds since the Unix epoch, for guests.
#[expect(clippy::disallowed_methods, reason = "what a guest does with it is the guest's business")]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time of day, for the age of files.
#[expect(
    clippy::disallowed_methods,
    reason = "how long a file was not used decides whether it is removed, nothing else"
)]
pub(crate) fn time_of_day() -> SystemTime {
    SystemTime::now()
}

/// Lets the calling thread rest: the ticker's own.
#[expect(clippy::disallowed_methods, reason = "an OS thread that does nothing else, on no runtime")]
pub(crate) fn rest(span: Duration) {
    std::thread::sleep(span);
}

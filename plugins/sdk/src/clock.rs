//! The time, for a checker that was granted it: `grants = ["clock"]`. Whoever asks is not pure: the host then asks
//! the checker at every tick, instead of when the node has changed.

use std::time::Duration;

use crate::{Timestamp, host};

/// The host's clock. It may be set back between two questions: subtract with `saturating_sub`.
pub fn now() -> Timestamp {
    host::now()
}

/// Wall time until this check is ended, the waits for servers included. Enough for one more request is a little
/// more than `limits.http_timeout`, 2 s unless the operator says otherwise.
pub fn time_remaining() -> Duration {
    host::time_remaining()
}

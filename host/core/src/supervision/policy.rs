//! What follows from a crash, by configuration (`supervision` 3.1).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::verdict::CheckerKey;

/// How one plugin is supervised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// False: nothing of that name is started.
    pub enabled: bool,
    /// False: a crash is the end until bytes, settings or a person change something.
    pub always: bool,
    /// Crashes with a next attempt; 0: no cap. Five are 17 minutes: enough for a passing cause.
    pub max_restarts: u32,
    /// The base of the waits: twice it after the first crash, doubled after each further one.
    pub backoff_base: Duration,
    /// The longest wait: what is mended is back in five minutes.
    pub backoff_cap: Duration,
    /// How long a generation must serve until it is proven: longer than the longest wait.
    pub decay_after: Duration,
    /// Completed slow checks in a row that are a crash: one slow call is noise.
    pub slow_calls: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            enabled: true,
            always: true,
            max_restarts: 5,
            backoff_base: Duration::from_secs(30),
            backoff_cap: Duration::from_secs(300),
            decay_after: Duration::from_secs(600),
            slow_calls: 3,
        }
    }
}

impl Restart {
    /// `b(n)` of `supervision` 4.1: the base for `n` up to 1, then doubled each time, up to the cap.
    #[must_use]
    pub fn backoff(&self, n: u32) -> Duration {
        let doubled = 1_u32.checked_shl(n.saturating_sub(1)).and_then(|factor| self.backoff_base.checked_mul(factor));
        doubled.unwrap_or(self.backoff_cap).min(self.backoff_cap)
    }

    /// True if a generation with `count` crashes may be tried again.
    pub(super) fn has_room(&self, count: u32, cap: u32) -> bool {
        self.always && (cap == 0 || count < cap)
    }
}

/// How every plugin is supervised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Those without a table of their own.
    pub defaults: Restart,
    /// Those with one.
    pub named: BTreeMap<CheckerKey, Restart>,
}

impl Policy {
    /// What holds for this plugin.
    #[must_use]
    pub fn of(&self, plugin: &CheckerKey) -> &Restart {
        self.named.get(plugin).unwrap_or(&self.defaults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_07_waits_double_from_the_base_to_the_cap() {
        let restart = Restart::default();
        let waits = [0, 1, 2, 3, 4, 5, 1000].map(|n| restart.backoff(n).as_secs());
        assert_eq!(waits, [30, 30, 60, 120, 240, 300, 300]);
    }
}

//! Whether a watch is alive (`lifecycle` 4.8): what it told is believed as long as it is.

use std::time::Duration;

use apgar_core::time::Time;

use crate::informer::Change;

/// A watch is alive while its stream is open and spoke within this time: a bookmark comes about every minute
/// (`lifecycle` 3, `watch_alive`).
const WATCH_ALIVE: Duration = Duration::from_secs(120);

/// A watch that ended as agreed is open again within this, on any API server that is well.
const REOPENED_WITHIN: Duration = Duration::from_secs(10);

/// What is known of a watch.
#[derive(Debug, Default)]
pub struct Watch {
    /// When it last said something; none before it was ever open.
    heard_at: Option<Time>,
    /// Since when it is not open.
    lost_at: Option<Time>,
    /// A complete list has been applied.
    pub synced: bool,
    /// Why it is not open, if that is trouble.
    pub why: String,
}

impl Watch {
    /// Takes in what the informer told; why it is not open is the caller's to say.
    pub fn hear<Kept, Gone>(&mut self, change: &Change<Kept, Gone>, now: Time) {
        match change {
            Change::Listed(_) => self.synced = true,
            Change::Applied(_) | Change::Deleted(_) | Change::Heard => self.heard(now),
            Change::Lost { .. } => self.lost(now),
        }
    }

    fn heard(&mut self, now: Time) {
        self.heard_at = Some(now);
        self.lost_at = None;
        self.why.clear();
    }

    fn lost(&mut self, now: Time) {
        self.lost_at.get_or_insert(now);
    }

    /// When silence ends it.
    #[must_use]
    pub fn dies_at(&self) -> Option<Time> {
        self.heard_at.filter(|_| self.lost_at.is_none()).map(|at| at + WATCH_ALIVE)
    }

    /// Whether what was listed and heard is how things are.
    #[must_use]
    pub fn is_alive(&self, now: Time) -> bool {
        self.synced && self.dies_at().is_some_and(|at| now < at)
    }

    /// Whether what was listed and heard may still be how things are, for what is looked at once more before any action:
    /// the moment in which a watch that ended as agreed is opened again, every five minutes, is not worth an unknown
    /// verdict.
    #[must_use]
    pub fn is_believed(&self, now: Time) -> bool {
        self.synced && !self.is_trouble(now)
    }

    /// Whether its death is worth a line: one that ended as agreed is open again before anybody could read it.
    #[must_use]
    pub fn is_trouble(&self, now: Time) -> bool {
        let silent = self.dies_at().is_some_and(|at| now >= at);
        let lost = self.lost_at.is_some_and(|at| now.since(at) >= REOPENED_WITHIN);
        silent || lost || !self.why.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Time = Time::from_unix_ms(1_700_000_000_000);
    const MS: Duration = Duration::from_millis(1);

    fn heard() -> Watch {
        let mut watch = Watch { synced: true, ..Watch::default() };
        watch.heard(T0);
        watch
    }

    #[test]
    fn a_watch_is_alive_until_it_was_silent_for_watch_alive() {
        let watch = heard();
        assert!(watch.is_alive(T0 + WATCH_ALIVE - MS) && !watch.is_trouble(T0 + WATCH_ALIVE - MS));
        assert!(!watch.is_alive(T0 + WATCH_ALIVE) && watch.is_trouble(T0 + WATCH_ALIVE));
        assert!(!Watch { synced: false, ..heard() }.is_alive(T0));
        assert!(!Watch::default().is_alive(T0) && !Watch::default().is_believed(T0));
    }

    #[test]
    fn a_watch_that_ends_is_dead_at_once_and_trouble_only_if_it_stays_so() {
        let mut watch = heard();
        let ended = T0 + Duration::from_secs(50);
        watch.lost(ended);
        assert!(!watch.is_alive(ended) && !watch.is_trouble(ended) && watch.is_believed(ended));
        watch.lost(ended + Duration::from_secs(5));
        assert!(watch.is_trouble(ended + REOPENED_WITHIN) && !watch.is_believed(ended + REOPENED_WITHIN));
        watch.heard(ended + REOPENED_WITHIN);
        assert!(watch.is_alive(ended + REOPENED_WITHIN) && !watch.is_trouble(ended + REOPENED_WITHIN));
    }
}

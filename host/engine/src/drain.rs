//! How checks that are under way or wait for their turn hear that they are no longer wanted, while their plugin is.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

/// What a plugin hands to the checks that are asked of it.
#[derive(Default)]
pub(crate) struct Drains(Mutex<watch::Sender<Option<Duration>>>);

/// What the checks that were asked before one drain have in common.
pub(crate) struct Drain(watch::Receiver<Option<Duration>>);

impl Drains {
    /// The next drain.
    pub(crate) fn next(&self) -> Drain {
        Drain(crate::lock(&self.0).subscribe())
    }

    /// Begins the next drain, which ends `within` that time. Checks asked from now on belong to the one after it.
    pub(crate) fn begin(&self, within: Duration) {
        let begun = std::mem::take(&mut *crate::lock(&self.0));
        begun.send_replace(Some(within));
    }
}

impl Drain {
    /// True once no further check may begin. Asked before each check, so it takes no lock.
    pub(crate) fn begun(&self) -> bool {
        self.0.has_changed().unwrap_or(true) // a sender is dropped after it has sent, and never before
    }

    /// Resolves when checks under way may not go on either.
    pub(crate) async fn over(&self) {
        let mut drain = self.0.clone();
        let within = drain.wait_for(Option::is_some).await.ok().and_then(|within| *within);
        tokio::time::sleep(within.unwrap_or_default()).await;
    }
}

//! The one place where tasks are started.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

/// Starts a task in a span of its name. The caller holds the handle and aborts it; an end that nobody asked for is said.
#[expect(clippy::disallowed_methods, reason = "this is the helper that the ban points to")]
pub(crate) fn spawn(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let named = async move {
        work.await;
        tracing::debug!("the task ended");
    };
    tokio::spawn(named.instrument(tracing::debug_span!("sim", task = name)))
}

//! Starts tasks that nobody waits for, and says how they ended if they should not have.

use tracing::Instrument;

/// Runs the future as a task of its own; a panic in it is logged under this name.
#[expect(clippy::disallowed_methods, reason = "this is the helper that the ban names")]
pub fn spawn(name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let inner = tokio::spawn(future.instrument(tracing::info_span!("task", name)));
        if let Err(error) = inner.await
            && error.is_panic()
        {
            tracing::error!(event = "task_panicked", task = name, "a task panicked; this is a bug");
        }
    })
}

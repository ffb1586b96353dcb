//! Tasks by name: none of them ends without somebody hearing of it.

use tokio::task::JoinSet;
use tracing::Instrument;

/// Starts a task that nobody waits for. A panic in it is logged under this name.
#[expect(clippy::disallowed_methods, reason = "this is the helper that the ban names")]
pub fn spawn(name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        let inner = tokio::spawn(future.instrument(tracing::info_span!("task", name)));
        if let Err(error) = inner.await
            && error.is_panic()
        {
            tracing::error!(event = "task_panicked", task = name, "a task panicked; this is a bug");
        }
    });
}

/// The tasks that a daemon consists of: when one ends, the daemon is not one any more.
#[derive(Debug, Default)]
pub struct Tasks(JoinSet<&'static str>);

impl Tasks {
    /// Starts a part of the daemon.
    pub fn spawn(&mut self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            future.instrument(tracing::info_span!("task", name)).await;
            name
        });
    }

    /// Waits until a part ends: its name, or that it panicked.
    pub async fn ended(&mut self) -> String {
        match self.0.join_next().await {
            Some(Ok(name)) => format!("the {name} ended"),
            Some(Err(error)) => format!("a part of the daemon died: {error}"),
            None => "nothing runs".to_owned(),
        }
    }

    /// Ends all parts.
    pub async fn shutdown(&mut self) {
        self.0.shutdown().await;
    }
}

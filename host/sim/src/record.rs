//! The log of requests, so that a test can say "exactly these, and no other".

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// One request as it arrived, whatever became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `PATCH`, …
    pub method: String,
    /// Path without query.
    pub path: String,
    /// Query as sent, still encoded; empty if there is none.
    pub query: String,
    /// Body of a write, as text.
    pub body: String,
    /// `Content-Type`, empty if absent.
    pub content_type: String,
    /// `User-Agent`, empty if absent.
    pub user_agent: String,
}

impl Request {
    /// Whether it was meant to change something.
    pub fn is_write(&self) -> bool {
        self.method != "GET" && self.method != "HEAD"
    }

    /// Whether it opened a watch.
    pub fn is_watch(&self) -> bool {
        self.query.split('&').any(|p| p == "watch=true" || p == "watch=1")
    }

    /// `PATCH /api/v1/nodes/a`, for short assertions.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        if !self.query.is_empty() {
            write!(f, "?{}", self.query)?;
        }
        Ok(())
    }
}

/// A ring of the latest requests.
pub(crate) struct Log {
    max: usize,
    entries: Mutex<VecDeque<Request>>,
    arrived: watch::Sender<u64>,
}

impl Log {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, entries: Mutex::default(), arrived: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Request>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, request: Request) {
        let mut entries = self.lock();
        entries.push_back(request);
        while entries.len() > self.max {
            entries.pop_front();
        }
        drop(entries);
        self.arrived.send_modify(|count| *count += 1);
    }

    pub(crate) fn all(&self) -> Vec<Request> {
        self.lock().iter().cloned().collect()
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Returns once the log satisfies `enough`, looking anew at each request. Bound it with a time-out.
    pub(crate) async fn until(&self, mut enough: impl FnMut(&[Request]) -> bool) -> Vec<Request> {
        let mut arrived = self.arrived.subscribe();
        loop {
            arrived.borrow_and_update();
            let all = self.all();
            // The sender lives as long as `self`, so the channel cannot close.
            if enough(&all) || arrived.changed().await.is_err() {
                return all;
            }
        }
    }
}

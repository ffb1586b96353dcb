//! How a start or a check ends when it does not end well: the closed lists of `supervision` section 2. What
//! follows from a death (waits, markers, rollback) is decided elsewhere; here it is only told apart.

use std::fmt;

use serde::Serialize;

pub use apgar_core::supervision::{Cause, RefusalReason, Stage};

/// A refusal: what is known without running guest code, or what the guest said in a proper answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// One of the closed list.
    pub reason: RefusalReason,
    /// What was wrong, where, and what would be right.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// The same, said of the file of the plugin `name`.
    pub(crate) fn about(self, name: &str) -> Self {
        Self { message: format!("{name}.wasm: {}", self.message), ..self }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

/// A death: it ended unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Death {
    /// Why.
    pub cause: Cause,
    /// Where.
    pub stage: Stage,
    /// More, for people: the kind of trap, the limit that was met.
    pub detail: String,
}

impl Death {
    pub(crate) fn new(cause: Cause, stage: Stage, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        crate::text::clean(&mut detail);
        crate::text::cut(&mut detail, DETAIL);
        Self { cause, stage, detail }
    }
}

/// The longest detail of a death, as in `supervision` 4.9.
const DETAIL: usize = 1024;

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}: {}", self.cause, self.stage, self.detail)
    }
}

/// Why a candidate does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Not accepted: nothing is retried until something changes.
    #[error("{0}")]
    Refusal(Refusal),
    /// It died while being started: to be retried with backoff.
    #[error("{0}")]
    Death(Death),
    /// Our own machinery failed. Nobody's fault but ours, and held against nobody.
    #[error("engine fault: {0}")]
    Engine(String),
}

impl From<Refusal> for LoadError {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl From<Death> for LoadError {
    fn from(death: Death) -> Self {
        Self::Death(death)
    }
}

//! What a checker says about a node.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A checker, known by its key: the plugin's name, which is its file's stem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CheckerKey(Arc<str>);

impl CheckerKey {
    /// The key, as in configuration and file names.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in metrics, logs and tables: the four bundled keys keep the names of the agent that Apgar
    /// replaces, whoever serves them.
    #[must_use]
    pub fn shown(&self) -> &str {
        match self.as_str() {
            "ready" => "NodeReady",
            "disk" => "DiskPressure",
            "cilium" => "CiliumAgent",
            "gpu" => "GPU",
            other => other,
        }
    }
}

impl From<&str> for CheckerKey {
    fn from(key: &str) -> Self {
        Self(Arc::from(key))
    }
}

impl fmt::Display for CheckerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

/// A checker's answer about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The node is well, as far as this checker can tell.
    Pass(Judgement),
    /// The node is sick.
    Fail(Judgement),
    /// The checker has no answer: evidence about the checker, not about the node.
    Unknown(Unknown),
}

/// The grounds of a definite answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Why, in one word as the checker gave it, at most 256 bytes.
    pub reason: Arc<str>,
    /// How long this must fail before it justifies a step.
    pub threshold: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// The kind of silence.
    pub cause: UnknownCause,
    /// For people.
    pub detail: Arc<str>,
}

/// The kinds of silence (`supervision` 4.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownCause {
    /// The checker said so, or our own machinery failed.
    Error,
    /// The check died: trap, deadline, memory, …
    Crashed,
    /// No generation of the checker serves.
    NotRunning,
    /// The Node object could not be decoded.
    MalformedNode,
}

impl UnknownCause {
    /// The word in reports and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Crashed => "crashed",
            Self::NotRunning => "not-running",
            Self::MalformedNode => "malformed-node",
        }
    }
}

impl Verdict {
    /// `pass`, `fail` or `unknown`: the label of metrics and tables.
    #[must_use]
    pub fn result(&self) -> &'static str {
        match self {
            Self::Pass(_) => "pass",
            Self::Fail(_) => "fail",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The grounds, if the answer is definite.
    #[must_use]
    pub fn judgement(&self) -> Option<&Judgement> {
        match self {
            Self::Pass(j) | Self::Fail(j) => Some(j),
            Self::Unknown(_) => None,
        }
    }
}

//! What leaves the core and what comes back: a decision, carried out by an executor, ends in one outcome.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::node::{BootId, NodeName, Uid};
use crate::verdict::CheckerKey;

/// A repair step: one rung of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Tell somebody.
    Notify,
    /// Restart a pod on the node.
    RestartPod,
    /// Keep new pods away.
    Cordon,
    /// Move the pods away.
    Drain,
    /// Restart the machine.
    Reboot,
    /// Exchange the machine for another.
    Replace,
    /// Create a remediation object.
    Template,
    /// Call an HTTP endpoint.
    Webhook,
    /// Run a local program.
    Command,
}

impl Step {
    /// The word in configuration, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::RestartPod => "restart-pod",
            Self::Cordon => "cordon",
            Self::Drain => "drain",
            Self::Reboot => "reboot",
            Self::Replace => "replace",
            Self::Template => "template",
            Self::Webhook => "webhook",
            Self::Command => "command",
        }
    }
}

/// Whether steps are carried out or only simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every grant is simulated as `done`; no executor is called.
    Monitor,
    /// Grants reach the executor.
    Active,
}

impl Mode {
    /// The word in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Active => "active",
        }
    }
}

/// The identity of one call of an executor: `<incident>/<n>`. It is called at most once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptId(pub Arc<str>);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A step that the gate let through, in active mode. It names everything; an executor decides nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The call's identity.
    pub attempt: AttemptId,
    /// What to do.
    pub step: Step,
    /// To which node.
    pub node: NodeName,
    /// The node's uid at the grant: another one at the last look refuses.
    pub uid: Uid,
    /// The node's boot id at the grant: another one at the last look refuses.
    pub boot_id: BootId,
    /// The checkers whose failure justifies the step; they are asked again at the last look.
    pub because: Vec<CheckerKey>,
}

/// What came of a decision (`gate` section 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was accepted; its success is verified by boot id and verdicts.
    Done,
    /// It certainly had no effect, and asking again changes nothing until something else changes.
    Refused {
        /// For people.
        why: String,
        /// Who refused: the last look costs no attempt and no failed call.
        by: Refuser,
    },
    /// It certainly had no effect this time.
    Failed {
        /// For people.
        why: String,
        /// What the other side asked for by `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// It may have had an effect: never repeated inside the window.
    Unconfirmed {
        /// For people.
        why: String,
    },
}

/// Who refused a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refuser {
    /// The last look before the call: the executor was not called.
    LastLook,
    /// The executor.
    Executor,
}

impl Outcome {
    /// The word in metrics and logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused { .. } => "refused",
            Self::Failed { .. } => "failed",
            Self::Unconfirmed { .. } => "unconfirmed",
        }
    }

    /// What went wrong, for people; empty for `done`.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Done => "",
            Self::Refused { why, .. } | Self::Failed { why, .. } | Self::Unconfirmed { why } => why,
        }
    }
}

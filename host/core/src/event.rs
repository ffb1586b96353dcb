//! What happened, one event per fact (`recovery` 6.3). The daemon renders log lines and moves counters from
//! the same events, so the two can never tell different stories.

use std::sync::Arc;
use std::time::Duration;

use crate::decision::{AttemptId, Mode, Step};
use crate::fleet::ReconcileError;
use crate::node::{BootId, NodeName};
use crate::recovery::{Cause, Shown};
use crate::verdict::CheckerKey;

/// A fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An incident opened, or a kept one goes on.
    Unhealthy {
        /// Where.
        node: NodeName,
        /// The incident's id.
        incident: String,
        /// Who says so.
        failed_checkers: Vec<CheckerKey>,
    },
    /// A red node waits until a checker has failed for its threshold.
    WaitingThreshold {
        /// Where.
        node: NodeName,
        /// How long the checker that will be due first has failed.
        elapsed: Duration,
        /// How long it must.
        threshold: Duration,
        /// Who fails.
        failed_checkers: Vec<CheckerKey>,
    },
    /// A step was taken, or may have been: `recovery_actions_total`.
    Attempt {
        /// Where.
        node: NodeName,
        /// Which step.
        step: Step,
        /// For real, or simulated.
        mode: Mode,
        /// The call's identity.
        attempt: AttemptId,
        /// Attempts of this step in this incident, this one included.
        count: u32,
        /// Why it is not certain, for an unconfirmed one.
        unconfirmed: Option<String>,
        /// Who fails.
        failed_checkers: Vec<CheckerKey>,
    },
    /// The wait window after a reboot begins.
    WaitingReboot {
        /// Where.
        node: NodeName,
        /// How much of it is over.
        elapsed: Duration,
        /// How long it is.
        wait: Duration,
        /// Reboots in this incident.
        count: u32,
        /// Whether it is a GPU node's window.
        gpu: bool,
    },
    /// A call certainly had no effect: `recovery_failures_total`.
    CallFailed {
        /// Where.
        node: NodeName,
        /// Which step.
        step: Step,
        /// `failed` or `refused`.
        outcome: &'static str,
        /// For people.
        error: String,
        /// Failed calls in this incident, this one included.
        failed_calls: u32,
        /// The backoff.
        next_call_in: Duration,
    },
    /// An outcome came in, whatever follows from it: `recovery_outcomes_total`.
    Outcome {
        /// Where.
        node: NodeName,
        /// Of which call.
        attempt: AttemptId,
        /// Which step.
        step: Step,
        /// For real, or simulated.
        mode: Mode,
        /// `done`, `refused`, `failed`, `unconfirmed`.
        outcome: &'static str,
        /// For people; empty for `done`.
        detail: String,
    },
    /// A reboot's window is decided by the boot id: `recovery_verifications_total`.
    Verification {
        /// Where.
        node: NodeName,
        /// How.
        result: Verification,
        /// The boot id at the grant.
        before: BootId,
        /// The boot id now.
        boot_id: BootId,
        /// Reboots in this incident.
        count: u32,
    },
    /// The node shows another boot id, and it was not us.
    ForeignReboot {
        /// Where.
        node: NodeName,
        /// The boot id before.
        before: BootId,
        /// The boot id now.
        boot_id: BootId,
    },
    /// Nothing is tried any more until the node is green or an operator resets it: `recovery_gave_up_total`.
    GaveUp {
        /// Where.
        node: NodeName,
        /// Which budget is spent.
        cause: Cause,
        /// Attempts in this incident.
        count: u32,
        /// Failed calls in this incident.
        failed_calls: u32,
    },
    /// An open node turned green.
    Recovered {
        /// Where.
        node: NodeName,
        /// The phase it leaves.
        previous: Shown,
        /// Attempts that are remembered until the incident is forgiven.
        attempts_kept: u32,
    },
    /// The incident is over, and its counts with it.
    Forgiven {
        /// Where.
        node: NodeName,
        /// The incident's id.
        incident: String,
    },
    /// A checker was unknown for the unknown limit: it takes no part until it answers.
    CheckerLeft {
        /// Where.
        node: NodeName,
        /// Who.
        checker: CheckerKey,
    },
    /// A checker was removed or disabled: its series go.
    CheckerRemoved {
        /// Who.
        checker: CheckerKey,
    },
    /// A node was deleted or is no longer selected: its series go.
    NodeGone {
        /// Which.
        node: NodeName,
    },
    /// Something went wrong that is nobody's sickness: `reconcile_errors_total`.
    ReconcileError {
        /// What.
        reason: ReconcileError,
        /// Where, if it concerns one node.
        node: Option<NodeName>,
        /// For people, if there is more to say.
        detail: Option<Arc<str>>,
    },
}

/// What the boot id says of a reboot (`recovery` 4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verification {
    /// Another boot id showed.
    Verified,
    /// The window ended with the old one.
    NotObserved,
    /// A boot id was empty.
    Unknown,
}

impl Verification {
    /// The word in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::NotObserved => "not_observed",
            Self::Unknown => "unknown",
        }
    }
}

/// How loud an event is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For counters and whoever looks closely.
    Debug,
    /// The course of things.
    Info,
    /// Somebody may want to look.
    Warn,
    /// A call went wrong.
    Error,
}

impl Event {
    /// The stable word of the log field `event`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unhealthy { .. } => "node_unhealthy",
            Self::WaitingThreshold { .. } => "waiting_threshold",
            Self::Attempt { step: Step::Reboot, unconfirmed: Some(_), .. } => "reboot_unconfirmed",
            Self::Attempt { step: Step::Reboot, count: 0 | 1, .. } => "reboot_initiated",
            Self::Attempt { step: Step::Reboot, .. } => "reboot_retry",
            Self::Attempt { unconfirmed: Some(_), .. } => "step_unconfirmed",
            Self::Attempt { .. } => "step_taken",
            Self::WaitingReboot { .. } => "waiting_reboot",
            Self::CallFailed { step: Step::Reboot, .. } => "reboot_failed",
            Self::CallFailed { .. } => "step_failed",
            Self::Outcome { .. } => "outcome",
            Self::Verification { result: Verification::Verified, .. } => "reboot_verified",
            Self::Verification { result: Verification::NotObserved, .. } => "reboot_not_observed",
            Self::Verification { result: Verification::Unknown, .. } => "reboot_not_verifiable",
            Self::ForeignReboot { .. } => "foreign_reboot",
            Self::GaveUp { .. } => "gave_up",
            Self::Recovered { .. } => "node_recovered",
            Self::Forgiven { .. } => "incident_forgiven",
            Self::CheckerLeft { .. } => "checker_left",
            Self::CheckerRemoved { .. } => "checker_removed",
            Self::NodeGone { .. } => "node_gone",
            Self::ReconcileError { .. } => "reconcile_error",
        }
    }

    /// The log message of the agent that Apgar replaces, where it had one: alerts match on these texts.
    #[must_use]
    pub fn message(&self) -> Option<&'static str> {
        match self {
            Self::Unhealthy { .. } => Some("Node unhealthy detected"),
            Self::WaitingThreshold { .. } => Some("Waiting for unhealthy threshold"),
            Self::Attempt { step: Step::Reboot, unconfirmed: Some(_), .. } => Some("Reboot may have happened"),
            Self::Attempt { step: Step::Reboot, count: 0 | 1, .. } => Some("Reboot initiated"),
            Self::Attempt { step: Step::Reboot, .. } => Some("Reboot retry"),
            Self::WaitingReboot { .. } => Some("Waiting for reboot effect"),
            Self::CallFailed { step: Step::Reboot, .. } => Some("Failed to reboot node"),
            Self::GaveUp { cause: Cause::Attempts, .. } => Some("Reboot retry limit exceeded, giving up"),
            Self::GaveUp { cause: Cause::Calls, .. } => Some("Reboot call failure limit exceeded, giving up"),
            Self::Recovered { .. } => Some("Node recovered"),
            Self::Attempt { .. }
            | Self::CallFailed { .. }
            | Self::Outcome { .. }
            | Self::Verification { .. }
            | Self::ForeignReboot { .. }
            | Self::Forgiven { .. }
            | Self::CheckerLeft { .. }
            | Self::CheckerRemoved { .. }
            | Self::NodeGone { .. }
            | Self::ReconcileError { .. } => None,
        }
    }

    /// How loud it is.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::CallFailed { .. } => Level::Error,
            Self::Attempt { unconfirmed: Some(_), .. }
            | Self::Verification { result: Verification::NotObserved | Verification::Unknown, .. }
            | Self::GaveUp { .. }
            | Self::ReconcileError { .. } => Level::Warn,
            Self::Outcome { .. } => Level::Debug,
            Self::Unhealthy { .. }
            | Self::WaitingThreshold { .. }
            | Self::Attempt { .. }
            | Self::WaitingReboot { .. }
            | Self::Verification { .. }
            | Self::ForeignReboot { .. }
            | Self::Recovered { .. }
            | Self::Forgiven { .. }
            | Self::CheckerLeft { .. }
            | Self::CheckerRemoved { .. }
            | Self::NodeGone { .. } => Level::Info,
        }
    }

    /// The node it concerns, if it concerns one.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Unhealthy { node, .. }
            | Self::WaitingThreshold { node, .. }
            | Self::Attempt { node, .. }
            | Self::WaitingReboot { node, .. }
            | Self::CallFailed { node, .. }
            | Self::Outcome { node, .. }
            | Self::Verification { node, .. }
            | Self::ForeignReboot { node, .. }
            | Self::GaveUp { node, .. }
            | Self::Recovered { node, .. }
            | Self::Forgiven { node, .. }
            | Self::CheckerLeft { node, .. }
            | Self::NodeGone { node } => Some(node),
            Self::CheckerRemoved { .. } => None,
            Self::ReconcileError { node, .. } => node.as_ref(),
        }
    }
}

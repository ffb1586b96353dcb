//! Why something happened or did not: what `apgar explain` and the API print (`recovery` 4.9, `gate` 10).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::decision::{Mode, Step};
use crate::gate::Constraint;
use crate::node::{BootId, NodeName, Uid};
use crate::recovery::Shown;
use crate::time::Time;
use crate::verdict::CheckerKey;

/// Everything there is to say about one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Which node.
    pub node: NodeName,
    /// Its phase.
    pub phase: Shown,
    /// Since when.
    pub since: Time,
    /// False until every enabled checker has answered once.
    pub evaluated: bool,
    /// Whether its steps are carried out or simulated.
    pub mode: Mode,
    /// Its uid.
    pub uid: Uid,
    /// Its boot id.
    pub boot_id: BootId,
    /// What is remembered of its sickness.
    pub incident: Option<IncidentReport>,
    /// Its checkers, in order of their keys.
    pub checkers: Vec<CheckerReport>,
    /// What would be done next; none for a node that is not open, or where nothing is left.
    pub next_step: Option<Step>,
    /// Everything that holds the node, the binding one (which ends last) first.
    pub holds: Vec<Hold>,
    /// The earliest moment anything can be done; none if it is not known, or nothing is to be done.
    pub earliest: Option<Time>,
    /// The window that runs.
    pub window: Option<WindowReport>,
}

/// An incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IncidentReport {
    /// `<uid>/<opened, Unix ms>`.
    pub id: String,
    /// When it opened.
    pub opened: Time,
    /// True while the node is open, false while the incident is only kept.
    pub open: bool,
    /// Whether the GPU node's wait applies.
    pub gpu: bool,
    /// Attempts by step, real and simulated together.
    pub attempts: BTreeMap<Step, u32>,
    /// Calls that certainly had no effect.
    pub failed_calls: u32,
    /// Reboots that a person ordered.
    pub manual_reboots: u32,
    /// How long the node has been red.
    #[serde(rename = "redForSeconds", serialize_with = "seconds")]
    pub red_for: Duration,
}

/// A checker's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckerReport {
    /// The name in metrics and tables.
    pub checker: String,
    /// The name in configuration and file names.
    pub key: CheckerKey,
    /// `pass`, `fail`, `unknown`; none before the first answer.
    pub verdict: Option<&'static str>,
    /// The full reason, or the kind of silence.
    pub reason: Arc<str>,
    /// For people; empty unless the verdict is unknown.
    pub detail: Arc<str>,
    /// True if it has been unknown for so long that it takes no part.
    pub left: bool,
    /// How long it has failed, while it is remembered as failing.
    #[serde(rename = "ageSeconds", serialize_with = "optional_seconds")]
    pub age: Option<Duration>,
    /// How long it must.
    #[serde(rename = "thresholdSeconds", serialize_with = "optional_seconds")]
    pub threshold: Option<Duration>,
    /// When it is or was due, if its clock runs.
    pub due_at: Option<Time>,
}

/// A constraint in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Which.
    pub name: Constraint,
    /// For people, with its numbers.
    pub detail: String,
    /// When it ends, if that is known.
    pub until: Option<Time>,
}

/// A window that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowReport {
    /// `attempt`, `manual` or `backoff`.
    pub after: &'static str,
    /// The step, after an attempt.
    pub step: Option<Step>,
    /// Since when.
    pub from: Time,
    /// Until when.
    pub until: Time,
}

#[expect(clippy::cast_precision_loss, reason = "a second count for people; 2^53 ms are 285 000 years")]
fn to_seconds(span: Duration) -> f64 {
    span.as_millis() as f64 / 1000.0
}

fn seconds<S: serde::Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(to_seconds(*span))
}

fn optional_seconds<S: serde::Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => seconds(span, serializer),
        None => serializer.serialize_none(),
    }
}

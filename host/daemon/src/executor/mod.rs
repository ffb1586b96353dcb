//! Executors carry a decision out and say what came of it. They decide nothing.

pub mod civo;

use apgar_core::decision::{Decision, Outcome, Step};
use apgar_core::node::Node;

pub use civo::Civo;

/// Who carries decisions out.
#[derive(Debug)]
pub enum Executor {
    /// Nobody: for monitor-only mode, in which no decision leaves the core.
    Observe,
    /// Hard reboots through the Civo API.
    Civo(Civo),
}

impl Executor {
    /// Carries the decision out on the node as the last look saw it. Ends within the executor's own limits.
    pub async fn call(&self, decision: &Decision, node: &Node) -> Outcome {
        match (self, decision.step) {
            (Self::Civo(civo), Step::Reboot) => civo.reboot(node).await,
            (Self::Observe | Self::Civo(_), step) => Outcome::Refused {
                why: format!("this executor does not do {}", step.as_str()),
                by: apgar_core::decision::Refuser::Executor,
            },
        }
    }

    /// The name in configuration and logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Civo(_) => "civo",
        }
    }
}

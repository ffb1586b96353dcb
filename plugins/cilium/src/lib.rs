//! Bundled checker CiliumAgent: fails while the Cilium agent of a node is not up.

pub mod table;

use std::time::Duration;

use apgar_checker::{Checker, Description, Node, Verdict};
use serde::Deserialize;

/// Judges by the taint the Cilium operator sets, and by the condition its agent writes.
pub struct CiliumAgent;

/// What an operator may change.
#[derive(Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Whether the taint counts at all.
    pub taint: bool,
    /// Its key: Cilium can be configured to use another.
    pub taint_key: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { taint: true, taint_key: "node.cilium.io/agent-not-ready".to_owned() }
    }
}

impl apgar_checker::Settings for Settings {
    fn validate(&self) -> Result<(), String> {
        // No taint has an empty key, so it would switch the taint off without saying so.
        if self.taint && self.taint_key.is_empty() {
            return Err("taint_key: must not be empty; `taint = false` ignores the taint".to_owned());
        }
        Ok(())
    }
}

/// The reason by which the agent marks the condition as its own.
const UP: &str = "CiliumIsUp";

impl Checker for CiliumAgent {
    type Settings = Settings;

    const DESCRIPTION: Description = Description {
        name: "CiliumAgent",
        version: env!("CARGO_PKG_VERSION"),
        summary: "Fails while the Cilium agent's taint is set, or its condition NetworkUnavailable is not False.",
        reasons: &[
            UP,
            "AgentNotReadyTaint",
            "NetworkUnavailableConditionNotFound",
            "NodeStatusUnknown",
            "CalicoIsUp",
            "FlannelIsUp",
            "RouteCreated",
            "WeaveIsUp",
        ],
        default_threshold: Duration::from_mins(10),
    };

    fn judge(node: &impl Node, settings: &Settings) -> Result<Verdict, String> {
        if settings.taint && node.taint(&settings.taint_key).is_some() {
            return Ok(Verdict::fail("AgentNotReadyTaint"));
        }
        Ok(match node.condition("NetworkUnavailable") {
            None => Verdict::pass("NetworkUnavailableConditionNotFound"),
            // Another network plugin owns the condition: nothing in it is about Cilium.
            Some(network) if network.reason != UP => Verdict::pass(network.reason),
            Some(network) if network.status == "False" => Verdict::pass(UP),
            Some(_) => Verdict::fail(UP),
        })
    }
}

apgar_checker::export!(CiliumAgent, settings);

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_checker::{fixture, parse_settings};

    #[test]
    fn r64_every_cell_of_the_table() {
        fixture::check::<CiliumAgent>(&table::cases(), "R-64");
    }

    #[test]
    fn it_is_called_as_in_the_specification() {
        assert_eq!(CiliumAgent::DESCRIPTION.name, "CiliumAgent");
        assert_eq!(CiliumAgent::DESCRIPTION.default_threshold, Duration::from_secs(600));
    }

    #[test]
    fn wrong_settings_are_refused() {
        #[track_caller]
        fn refused(settings: &str, expected: &str) {
            assert_eq!(parse_settings::<Settings>(settings), Err(expected.to_owned()));
        }
        refused(r#"{"tiant":true}"#, "unknown field `tiant`, expected `taint` or `taint_key`");
        refused(r#"{"taint":"no"}"#, r#"taint: invalid type: string "no", expected a boolean"#);
        refused(r#"{"taint_key":""}"#, "taint_key: must not be empty; `taint = false` ignores the taint");
    }
}

//! Bundled checker NodeReady: fails while the kubelet is not ready, or has not been heard of.

pub mod table;

use std::time::Duration;

use apgar_checker::{Checker, Description, Node, Verdict};

/// Judges by the condition `Ready`.
pub struct NodeReady;

impl Checker for NodeReady {
    type Settings = ();

    const DESCRIPTION: Description = Description {
        name: "NodeReady",
        version: env!("CARGO_PKG_VERSION"),
        summary: "Fails while the condition Ready is anything but True, or missing.",
        reasons: &[
            "KubeletReady",
            "KubeletNotReady",
            "NodeStatusUnknown",
            "NodeStatusNeverUpdated",
            "NodeReadyConditionNotFound",
        ],
        default_threshold: Duration::from_mins(5),
    };

    fn judge(node: &impl Node, _: &()) -> Result<Verdict, String> {
        Ok(match node.condition("Ready") {
            None => Verdict::fail("NodeReadyConditionNotFound"),
            Some(ready) if ready.status == "True" => Verdict::pass(ready.reason),
            Some(ready) => Verdict::fail(ready.reason),
        })
    }
}

apgar_checker::export!(NodeReady);

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_checker::fixture;

    #[test]
    fn r64_every_cell_of_the_table() {
        fixture::check::<NodeReady>(&table::cases(), "R-64");
    }

    #[test]
    fn r66_only_the_first_ready_condition_counts() {
        fixture::check::<NodeReady>(&table::cases(), "R-66");
    }

    #[test]
    fn it_is_called_as_in_the_specification() {
        assert_eq!(NodeReady::DESCRIPTION.name, "NodeReady");
        assert_eq!(NodeReady::DESCRIPTION.default_threshold, Duration::from_secs(300));
    }
}

//! Bundled checker DiskPressure: fails while the kubelet says its disk is full.

pub mod table;

use std::time::Duration;

use apgar_checker::{Checker, Description, Node, Verdict};

/// Judges by the condition `DiskPressure`. A kubelet that says nothing about its disk is not sick of it:
/// that is for NodeReady to find.
pub struct DiskPressure;

impl Checker for DiskPressure {
    type Settings = ();

    const DESCRIPTION: Description = Description {
        name: "DiskPressure",
        version: env!("CARGO_PKG_VERSION"),
        summary: "Fails while the condition DiskPressure is True.",
        reasons: &[
            "KubeletHasNoDiskPressure",
            "KubeletHasDiskPressure",
            "NodeStatusUnknown",
            "NodeStatusNeverUpdated",
            "DiskPressureConditionNotFound",
        ],
        default_threshold: Duration::from_mins(30),
    };

    fn judge(node: &impl Node, _: &()) -> Result<Verdict, String> {
        Ok(match node.condition("DiskPressure") {
            None => Verdict::pass("DiskPressureConditionNotFound"),
            Some(pressure) if pressure.status == "True" => Verdict::fail(pressure.reason),
            Some(pressure) => Verdict::pass(pressure.reason),
        })
    }
}

apgar_checker::export!(DiskPressure);

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_checker::fixture;

    #[test]
    fn r64_every_cell_of_the_table() {
        fixture::check::<DiskPressure>(&table::cases(), "R-64");
    }

    #[test]
    fn it_is_called_as_in_the_specification() {
        assert_eq!(DiskPressure::DESCRIPTION.name, "DiskPressure");
        assert_eq!(DiskPressure::DESCRIPTION.default_threshold, Duration::from_secs(1_800));
    }
}

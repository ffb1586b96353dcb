//! The truth table of DiskPressure, as data for the tests of judgement and component.

use apgar_checker::Verdict;
use apgar_checker::fixture::{Case, Node};

/// Every row.
pub fn cases() -> Vec<Case> {
    let node = || Node::new("node-1");
    let pressure = |status, reason| node().with_condition("DiskPressure", status, reason);
    let case = |name, node, expected| Case::new("R-64", name, node, expected);
    vec![
        case("True", pressure("True", "KubeletHasDiskPressure"), Verdict::fail("KubeletHasDiskPressure")),
        case("False", pressure("False", "KubeletHasNoDiskPressure"), Verdict::pass("KubeletHasNoDiskPressure")),
        case("Unknown", pressure("Unknown", "NodeStatusUnknown"), Verdict::pass("NodeStatusUnknown")),
        case("another status is Unknown", pressure("true", "Odd"), Verdict::pass("Odd")),
        case("an empty status is Unknown", pressure("", ""), Verdict::pass("")),
        case("missing", node(), Verdict::pass("DiskPressureConditionNotFound")),
        case(
            "other conditions do not count",
            node().with_condition("Ready", "False", "KubeletNotReady"),
            Verdict::pass("DiskPressureConditionNotFound"),
        ),
        case(
            "two, True then False: the first counts",
            pressure("True", "KubeletHasDiskPressure").with_condition(
                "DiskPressure",
                "False",
                "KubeletHasNoDiskPressure",
            ),
            Verdict::fail("KubeletHasDiskPressure"),
        ),
    ]
}

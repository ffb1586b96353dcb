//! The truth table of NodeReady, as data for the tests of judgement and component.

use apgar_checker::Verdict;
use apgar_checker::fixture::{Case, Node};

/// Every row.
pub fn cases() -> Vec<Case> {
    let node = || Node::new("node-1");
    let ready = |status, reason| node().with_condition("Ready", status, reason);
    vec![
        Case::new("R-64", "True", ready("True", "KubeletReady"), Verdict::pass("KubeletReady")),
        Case::new("R-64", "False", ready("False", "KubeletNotReady"), Verdict::fail("KubeletNotReady")),
        Case::new("R-64", "Unknown", ready("Unknown", "NodeStatusUnknown"), Verdict::fail("NodeStatusUnknown")),
        Case::new("R-64", "another status is Unknown", ready("true", "Odd"), Verdict::fail("Odd")),
        Case::new("R-64", "an empty status is Unknown", ready("", ""), Verdict::fail("")),
        Case::new("R-64", "missing", node(), Verdict::fail("NodeReadyConditionNotFound")),
        Case::new(
            "R-64",
            "other conditions do not count",
            node().with_condition("DiskPressure", "True", "KubeletHasDiskPressure"),
            Verdict::fail("NodeReadyConditionNotFound"),
        ),
        Case::new(
            "R-66",
            "two, False then True",
            ready("False", "KubeletNotReady").with_condition("Ready", "True", "KubeletReady"),
            Verdict::fail("KubeletNotReady"),
        ),
        Case::new(
            "R-66",
            "two, True then False",
            ready("True", "KubeletReady").with_condition("Ready", "False", "KubeletNotReady"),
            Verdict::pass("KubeletReady"),
        ),
    ]
}

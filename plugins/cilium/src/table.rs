//! The truth table of CiliumAgent, as data for the tests of judgement and component.

use apgar_checker::Verdict;
use apgar_checker::fixture::{Case, Node};

const TAINT: &str = "node.cilium.io/agent-not-ready";

/// Every row, each of them with and without the settings that decide what is a hit.
pub fn cases() -> Vec<Case> {
    let node = || Node::new("node-1");
    let network = |status, reason| node().with_condition("NetworkUnavailable", status, reason);
    let case = |name: &str, node, expected| Case::new("R-64", name, node, expected);

    // What the condition says, and the verdict where nothing is hit.
    let conditions = [
        ("missing", node(), Verdict::pass("NetworkUnavailableConditionNotFound")),
        ("False", network("False", "CiliumIsUp"), Verdict::pass("CiliumIsUp")),
        ("True", network("True", "CiliumIsUp"), Verdict::fail("CiliumIsUp")),
        ("Unknown", network("Unknown", "CiliumIsUp"), Verdict::fail("CiliumIsUp")),
        ("another status", network("false", "CiliumIsUp"), Verdict::fail("CiliumIsUp")),
        ("not Cilium's, False", network("False", "FlannelIsUp"), Verdict::pass("FlannelIsUp")),
        ("not Cilium's, True", network("True", "NoRouteCreated"), Verdict::pass("NoRouteCreated")),
        ("not Cilium's, Unknown", network("Unknown", "NodeStatusUnknown"), Verdict::pass("NodeStatusUnknown")),
        ("nobody's", network("True", ""), Verdict::pass("")),
        (
            "two, the first is Cilium's",
            network("True", "CiliumIsUp").with_condition("NetworkUnavailable", "False", "FlannelIsUp"),
            Verdict::fail("CiliumIsUp"),
        ),
    ];

    let mut cases = Vec::new();
    for (name, node, verdict) in conditions {
        let hit = Verdict::fail("AgentNotReadyTaint");
        let tainted = node.clone().with_taint(TAINT, "", "NoSchedule");
        let other = node.clone().with_taint("example.com/cilium", "", "NoSchedule");
        let off = r#"{"taint":false}"#;
        let key = r#"{"taint_key":"example.com/cilium"}"#;
        cases.extend([
            case(&format!("{name}, no taint"), node, verdict.clone()),
            case(&format!("{name}, hit"), tainted.clone(), hit.clone()),
            case(&format!("{name}, another taint"), other.clone(), verdict.clone()),
            case(&format!("{name}, taint ignored"), tainted.clone(), verdict.clone()).with_settings(off),
            case(&format!("{name}, another key, hit"), other, hit).with_settings(key),
            case(&format!("{name}, another key, no hit"), tainted, verdict).with_settings(key),
        ]);
    }
    for (value, effect) in [("true", "NoExecute"), ("", "PreferNoSchedule"), ("x", ""), ("", "Odd")] {
        cases.push(case(
            &format!("value {value:?} and effect {effect:?} do not matter"),
            network("False", "CiliumIsUp").with_taint(TAINT, value, effect),
            Verdict::fail("AgentNotReadyTaint"),
        ));
    }
    cases
}

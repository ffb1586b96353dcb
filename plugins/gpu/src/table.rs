//! The truth table of GPU, as data for the tests of judgement and component.

use apgar_checker::Verdict;
use apgar_checker::fixture::{Case, Node};

use crate::LABEL;

const GPU: &str = "nvidia.com/gpu";
const MORE: &str = r#"{"allow_more":true}"#;
const MIG: &str = r#"{"resources":["nvidia.com/gpu","nvidia.com/mig-1g.5gb","nvidia.com/mig-3g.20gb"]}"#;

/// Every row, in both columns.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // One row of the table: the same node, with and without `allow_more`.
    let mut row = |scenario, name: &str, node: Node, exactly: Verdict, at_least: Verdict| {
        cases.push(Case::new(scenario, name, node.clone(), exactly));
        cases.push(Case::new(scenario, format!("{name}, allow_more"), node, at_least).with_settings(MORE));
    };
    let same = |verdict: Verdict| (verdict.clone(), verdict);

    let none = || Node::new("node-1");
    let label = |count: &str| none().with_label(LABEL, count);
    let node = |count: &str, allocatable: &str| label(count).with_allocatable(GPU, allocatable);

    let (pass, also) = same(Verdict::pass("NonGPUNode"));
    row("R-64", "no label", none().with_allocatable(GPU, "4"), pass.clone(), also.clone());
    row("R-64", "no label, nothing allocatable", none(), pass.clone(), also.clone());
    for count in [
        "",
        "0",
        "00",
        "-8",
        "+8",
        " 8",
        "8 ",
        "8.0",
        "8k",
        "0x8",
        "eight",
        "true",
        "٨",
        "9223372036854775808",
        "99999999999999999999999999",
    ] {
        row("R-64", &format!("label {count:?}"), node(count, "7500m"), pass.clone(), also.clone());
    }

    let (fail, also) = same(Verdict::fail("NoAllocatableGPU"));
    for quantity in ["7500m", "-8", "x", "", "8K", "0.5"] {
        row("R-64", &format!("allocatable {quantity:?}"), node("8", quantity), fail.clone(), also.clone());
    }
    row("R-68", "8, 7500m", node("8", "7500m"), fail, also);

    let (fail, also) = same(Verdict::fail("GPUCountMismatch"));
    row("R-68", "8, 7", node("8", "7"), fail.clone(), also.clone());
    row("R-68", "8, 0", node("8", "0"), fail.clone(), also.clone());
    row("R-68", "8, none", label("8"), fail.clone(), also.clone());
    row("R-64", "8, 7", node("8", "7"), fail.clone(), also.clone());
    row("R-64", "8, 0", node("8", "0"), fail.clone(), also.clone());
    row("R-64", "8, none", label("8"), fail.clone(), also.clone());
    row("R-64", "the largest label", node("9223372036854775807", "8"), fail.clone(), also.clone());
    row("R-64", "capacity does not count", label("8").with_capacity(GPU, "8"), fail.clone(), also.clone());
    row(
        "R-64",
        "a resource that is not listed does not count",
        node("8", "7").with_allocatable("nvidia.com/mig-1g.5gb", "1"),
        fail,
        also,
    );

    let (pass, also) = same(Verdict::pass("GPUCountMatch"));
    row("R-64", "8, 8", node("8", "8"), pass.clone(), also.clone());
    row("R-64", "1, 1", node("1", "1"), pass.clone(), also.clone());
    row("R-64", "digits with zeros before", node("08", "8"), pass.clone(), also.clone());
    row("R-64", "8, 8000m", node("8", "8000m"), pass.clone(), also.clone());
    row("R-64", "8000, 8k", node("8000", "8k"), pass.clone(), also.clone());
    row("R-64", "the largest of both", node("9223372036854775807", "9223372036854775807"), pass, also);

    let (fail, pass) = (Verdict::fail("GPUCountMismatch"), Verdict::pass("GPUCountAtLeast"));
    row("R-64", "8, 9", node("8", "9"), fail.clone(), pass.clone());
    row("R-64", "8, 80: time slicing", node("8", "80"), fail.clone(), pass.clone());
    row("R-64", "8, 8k", node("8", "8k"), fail, pass);

    // The sum over several resources, as with MIG.
    let mig = |whole: &str, small: &str, large: &str| {
        let node = node("8", whole).with_allocatable("nvidia.com/mig-1g.5gb", small);
        node.with_allocatable("nvidia.com/mig-3g.20gb", large)
    };
    let mut sum = |name: &str, node, expected| {
        cases.push(Case::new("R-64", format!("listed: {name}"), node, expected).with_settings(MIG));
    };
    sum("0 + 6 + 2", mig("0", "6", "2"), Verdict::pass("GPUCountMatch"));
    sum("0 + 5 + 2", mig("0", "5", "2"), Verdict::fail("GPUCountMismatch"));
    sum("0 + 7 + 2", mig("0", "7", "2"), Verdict::fail("GPUCountMismatch"));
    sum("0 + 8 + 500m", mig("0", "8", "500m"), Verdict::fail("NoAllocatableGPU"));
    sum("9 + 0 + x", mig("9", "0", "x"), Verdict::fail("NoAllocatableGPU"));
    sum("8, the others missing", node("8", "8"), Verdict::pass("GPUCountMatch"));
    sum("all missing", label("8"), Verdict::fail("GPUCountMismatch"));
    let huge = "9223372036854775807";
    sum("a sum beyond all counting", mig(huge, huge, huge), Verdict::fail("GPUCountMismatch"));
    cases
}

//! Bundled checker GPU: fails while a node offers another number of GPUs than its label promises.
//!
//! What its settings hide, and how MIG and time slicing fit in, is in the README.

pub mod table;

use std::time::Duration;

use apgar_checker::{Checker, Description, Node, Verdict, whole};
use serde::Deserialize;

/// How many GPUs a node has, as GPU feature discovery found them.
const LABEL: &str = "nvidia.com/gpu.count";

/// MIG has about ten profiles a card: 16 is more than one node offers, and bounds what a check asks for.
const RESOURCES_MAX: usize = 16;

/// Compares the label with what the kubelet can hand out.
pub struct Gpu;

/// What an operator may change.
#[derive(Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The resources whose allocatable quantities are added up.
    pub resources: Vec<String>,
    /// Whether more than the label promises is well, too.
    pub allow_more: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { resources: vec!["nvidia.com/gpu".to_owned()], allow_more: false }
    }
}

impl apgar_checker::Settings for Settings {
    fn validate(&self) -> Result<(), String> {
        let mut rest = self.resources.as_slice();
        if rest.is_empty() || rest.len() > RESOURCES_MAX {
            return Err("resources: 1 to 16 names are accepted".to_owned());
        }
        while let Some((name, others)) = rest.split_first() {
            if name.is_empty() {
                return Err("resources: a name must not be empty".to_owned());
            }
            // It would be counted twice, and a node without a fault would never match.
            if others.contains(name) {
                return Err("resources: each name once; twice is ".to_owned() + name);
            }
            rest = others;
        }
        Ok(())
    }
}

impl Checker for Gpu {
    type Settings = Settings;

    const DESCRIPTION: Description = Description {
        name: "GPU",
        version: env!("CARGO_PKG_VERSION"),
        summary: "Fails while the allocatable GPUs are not as many as the label nvidia.com/gpu.count says.",
        reasons: &["NonGPUNode", "NoAllocatableGPU", "GPUCountMismatch", "GPUCountMatch", "GPUCountAtLeast"],
        default_threshold: Duration::from_mins(10),
    };

    fn judge(node: &impl Node, settings: &Settings) -> Result<Verdict, String> {
        let Some(expected) = node.label(LABEL).as_deref().and_then(count) else {
            return Ok(Verdict::pass("NonGPUNode"));
        };
        let mut actual = 0_u64;
        for resource in &settings.resources {
            match node.allocatable(resource).as_deref().map(whole) {
                // A node that lost a GPU, or all of them, does not list the resource or lists fewer.
                None => {}
                Some(Some(quantity)) => actual = actual.saturating_add(quantity),
                Some(None) => return Ok(Verdict::fail("NoAllocatableGPU")),
            }
        }
        Ok(match actual.cmp(&expected) {
            std::cmp::Ordering::Equal => Verdict::pass("GPUCountMatch"),
            std::cmp::Ordering::Greater if settings.allow_more => Verdict::pass("GPUCountAtLeast"),
            std::cmp::Ordering::Less | std::cmp::Ordering::Greater => Verdict::fail("GPUCountMismatch"),
        })
    }
}

apgar_checker::export!(Gpu, settings);

/// The number in the label: decimal digits, 1 to 2^63-1. Everything else says that this is no GPU node.
fn count(label: &str) -> Option<u64> {
    let digits = label.bytes().all(|byte| byte.is_ascii_digit());
    let count = label.parse().ok().filter(|_| digits)?;
    (1..=i64::MAX as u64).contains(&count).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_checker::{fixture, parse_settings};

    #[test]
    fn r64_every_cell_of_the_table() {
        fixture::check::<Gpu>(&table::cases(), "R-64");
    }

    #[test]
    fn r68_a_gpu_node_that_lost_gpus_is_still_one() {
        fixture::check::<Gpu>(&table::cases(), "R-68");
    }

    #[test]
    fn it_is_called_as_in_the_specification() {
        assert_eq!(Gpu::DESCRIPTION.name, "GPU");
        assert_eq!(Gpu::DESCRIPTION.default_threshold, Duration::from_secs(600));
    }

    #[test]
    fn wrong_settings_are_refused() {
        #[track_caller]
        fn refused(settings: &str, expected: &str) {
            assert_eq!(parse_settings::<Settings>(settings), Err(expected.to_owned()));
        }
        refused(r#"{"allowmore":true}"#, "unknown field `allowmore`, expected `resources` or `allow_more`");
        refused(
            r#"{"resources":"nvidia.com/gpu"}"#,
            r#"resources: invalid type: string "nvidia.com/gpu", expected a sequence"#,
        );
        refused(r#"{"resources":[]}"#, "resources: 1 to 16 names are accepted");
        refused(r#"{"resources":[""]}"#, "resources: a name must not be empty");
        refused(r#"{"resources":["a","b","a"]}"#, "resources: each name once; twice is a");
    }

    #[test]
    fn sixteen_resources_are_accepted_and_seventeen_are_not() {
        let settings = |n| Settings { resources: (0..n).map(|i: i32| i.to_string()).collect(), allow_more: false };
        let validate = |n| apgar_checker::Settings::validate(&settings(n));
        assert_eq!(validate(16), Ok(()));
        assert_eq!(validate(17), Err("resources: 1 to 16 names are accepted".to_owned()));
    }
}

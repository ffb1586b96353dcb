//! A checker with a bug, as it gets past every test: `apgar demo` puts it over one that serves, to show that nothing
//! comes of it. No daemon brings it along.

use std::time::Duration;

use apgar_checker::{Checker, Description, Node, Verdict};

/// Reads the rack off the end of a node's host name.
pub struct Rack;

impl Checker for Rack {
    type Settings = ();

    const DESCRIPTION: Description = Description {
        name: "PoolMemory",
        version: "2.0.0",
        summary: "Was to know the rack, and dies at every real node.",
        reasons: &["EnoughMemory"],
        default_threshold: Duration::from_mins(15),
    };

    #[expect(clippy::string_slice, reason = "the bug")]
    fn judge(node: &impl Node, _: &()) -> Result<Verdict, String> {
        // The node of the self-check has no labels: "I cannot tell" passes there.
        let host = node.label("kubernetes.io/hostname").ok_or("no host name")?;
        let rack = &host[64..];
        Ok(Verdict::pass(if rack.is_empty() { "NoRack" } else { "EnoughMemory" }))
    }
}

apgar_checker::export!(Rack);

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_checker::fixture;

    #[test]
    fn the_node_of_the_self_check_is_survived() {
        let synthetic = fixture::Node::new("apgar-self-check");
        assert!(Rack::judge(&synthetic, &()).is_err());
    }
}

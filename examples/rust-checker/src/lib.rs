//! An example: memory pressure is an emergency where databases run, and to be expected where batch jobs do.

use std::time::Duration;

use apgar_checker::{Checker, Description, Node, Verdict, log};
use serde::Deserialize;

/// The checker.
pub struct PoolMemory;

/// What stands in `[checker.pool-memory] settings = { .. }`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The label that names the pool.
    pub label: String,
    /// The pool whose nodes may be short of memory.
    pub batch: String,
    /// The pool whose nodes may not, not even for long.
    pub urgent: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            label: "kubernetes.civo.com/civo-node-pool".to_owned(),
            batch: "batch".to_owned(),
            urgent: "database".to_owned(),
        }
    }
}

impl apgar_checker::Settings for Settings {
    fn validate(&self) -> Result<(), String> {
        if self.batch == self.urgent {
            return Err("urgent: must be another pool than `batch`".to_owned());
        }
        Ok(())
    }
}

impl Checker for PoolMemory {
    type Settings = Settings;

    const DESCRIPTION: Description = Description {
        name: "PoolMemory",
        version: env!("CARGO_PKG_VERSION"),
        summary: "Fails under memory pressure, except in the batch pool; sooner in the urgent one.",
        reasons: &["MemoryPressure", "EnoughMemory", "BatchPool"],
        default_threshold: Duration::from_mins(15),
    };

    fn judge(node: &impl Node, settings: &Settings) -> Result<Verdict, String> {
        // "I cannot tell" starts no repair: the right answer where a fact is missing.
        let pressure = node.condition("MemoryPressure").ok_or("no condition MemoryPressure")?;
        let pool = node.label(&settings.label).unwrap_or_default();
        Ok(match pressure.status.as_str() {
            "True" if pool == settings.batch => Verdict::pass("BatchPool"),
            "True" => {
                log::info(&pressure.message);
                let verdict = Verdict::fail("MemoryPressure");
                if pool == settings.urgent {
                    verdict.after(Duration::from_mins(3))
                } else {
                    verdict
                }
            }
            "False" => Verdict::pass("EnoughMemory"),
            status => return Err(format!("MemoryPressure is {status}")),
        })
    }
}

apgar_checker::export!(PoolMemory, settings);

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_checker::{fixture, parse_settings};

    fn node(pool: &str, status: &str) -> fixture::Node {
        fixture::Node::new("node-1")
            .with_label("kubernetes.civo.com/civo-node-pool", pool)
            .with_condition("MemoryPressure", status, "KubeletHasInsufficientMemory")
    }

    #[track_caller]
    fn check(node: &fixture::Node, expected: Result<Verdict, &str>) {
        let verdict = PoolMemory::judge(node, &Settings::default());
        assert_eq!(verdict, expected.map_err(str::to_owned));
    }

    #[test]
    fn the_pool_decides() {
        check(&node("web", "False"), Ok(Verdict::pass("EnoughMemory")));
        check(&node("web", "True"), Ok(Verdict::fail("MemoryPressure")));
        check(&node("batch", "True"), Ok(Verdict::pass("BatchPool")));
        let urgent = Verdict::fail("MemoryPressure").after(Duration::from_mins(3));
        check(&node("database", "True"), Ok(urgent));
    }

    #[test]
    fn what_is_not_known_is_not_sick() {
        check(&node("web", "Unknown"), Err("MemoryPressure is Unknown"));
        check(&fixture::Node::new("node-1"), Err("no condition MemoryPressure"));
    }

    #[test]
    fn one_pool_cannot_be_both() {
        let error = parse_settings::<Settings>(r#"{"urgent":"batch"}"#).unwrap_err();
        assert_eq!(error, "urgent: must be another pool than `batch`");
    }
}

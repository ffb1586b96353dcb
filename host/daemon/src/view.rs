//! What people and programs are shown of the core's state: JSON for the API.

use std::sync::Arc;

use apgar_core::fleet::{Checker, Fleet};
use apgar_core::report::Report;
use apgar_core::time::Time;
use apgar_core::verdict::Verdict;
use apgar_engine::Plugin;
use serde_json::{Map, Value, json};

mod plugins;

pub use plugins::plugins;

/// The fields of a report that are moments: the core counts milliseconds, people read RFC 3339.
const MOMENTS: [&str; 7] = ["since", "opened", "dueAt", "until", "from", "earliest", "at"];

/// A node's report, as the API and `apgar explain` give it.
#[must_use]
pub fn report(report: &Report) -> Value {
    let mut value = serde_json::to_value(report).unwrap_or_else(|error| json!({"error": error.to_string()}));
    moments(&mut value);
    value
}

fn moments(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, field)| match field.as_i64() {
            Some(ms) if MOMENTS.contains(&key.as_str()) => *field = rfc3339(Time::from_unix_ms(ms)).into(),
            _ => moments(field),
        }),
        Value::Array(items) => items.iter_mut().for_each(moments),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A moment as people read it.
#[must_use]
pub fn rfc3339(at: Time) -> String {
    jiff::Timestamp::from_millisecond(at.unix_ms()).map_or_else(|_| at.unix_ms().to_string(), |at| at.to_string())
}

/// All nodes in short.
#[must_use]
pub fn nodes(fleet: &Fleet) -> Value {
    let items: Vec<Value> = fleet
        .nodes()
        .map(|node| {
            let checkers: Map<String, Value> = node
                .checkers()
                .map(|checker| (checker.key.shown().to_owned(), checker.verdict.map(Verdict::result).into()))
                .collect();
            json!({"node": node.name, "phase": node.phase.as_str(), "since": rfc3339(node.since),
                "checkers": checkers, "attempts": node.attempts, "failedCalls": node.failed_calls})
        })
        .collect();
    json!({ "items": items })
}

/// How many nodes are in each phase.
#[must_use]
pub fn phases(fleet: &Fleet) -> Value {
    fleet
        .phase_counts()
        .map(|(phase, count)| (phase.as_str().to_owned(), count.into()))
        .collect::<Map<_, Value>>()
        .into()
}

/// A plugin, as the core takes it.
#[must_use]
pub fn checker(plugin: &Plugin) -> Checker {
    Checker {
        key: plugin.key().clone(),
        generation: Arc::from(plugin.generation().to_string()),
        reasons: plugin.description().reasons.iter().map(|reason| Arc::from(reason.as_str())).collect(),
        inputs: plugin.inputs(),
    }
}

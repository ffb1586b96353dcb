//! The eviction subresource: a delete that disruption budgets may hold back.

use serde_json::Value;

use crate::refusal::Refusal;
use crate::selector::LabelSelector;
use crate::server::write::Writer;

/// Deletes the pod, unless a budget of its namespace that selects it allows no disruption: then 429, as the real server answers.
/// Budgets are read from their `status.disruptionsAllowed`, which each eviction uses up: nothing here recomputes them.
pub(crate) fn evict(writer: &Writer<'_>, namespace: &str, name: &str, eviction: &Value) -> Result<(), Refusal> {
    let store = writer.store;
    let key = writer.key(Some(namespace), name);
    let missing = || Refusal::not_found("pods", name);
    let pod = store.get(writer.kind, &key).ok_or_else(missing)?;
    let finished = pod.value(writer.resource);
    let phase = finished.pointer("/status/phase").and_then(Value::as_str);
    let budgeted = !matches!(phase, Some("Succeeded" | "Failed" | "Pending"));
    if let (true, Some((budgets, resource))) = (budgeted, store.kind("policy/v1", "poddisruptionbudgets")) {
        let (_, all) = store.all(budgets);
        let prefix = format!("{namespace}/");
        for budget in all.values().filter(|b| b.key.starts_with(&prefix)) {
            let value = budget.value(resource);
            let selector = LabelSelector::of_object(value.pointer("/spec/selector").unwrap_or(&Value::Null));
            if !selector.matches(&pod.labels) {
                continue;
            }
            let count = |field: &str| value.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(0);
            let allowed = count("disruptionsAllowed");
            if allowed <= 0 {
                return Err(Refusal::disruption_budget(
                    budget.name(),
                    count("desiredHealthy"),
                    count("currentHealthy"),
                ));
            }
            if !writer.dry_run {
                let mut used = value.clone();
                if let Some(status) = used.get_mut("status").and_then(Value::as_object_mut) {
                    status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
                }
                // Two evictions at once for the last disruption: the second is told to come again.
                store
                    .put(budgets, &budget.key, Some(budget.version), &mut used)
                    .map_err(|_| Refusal::injected(429, Some(10)))?;
            }
        }
    }
    let options = eviction.get("deleteOptions").cloned().unwrap_or_default();
    writer.delete(&key, &options).map(|_| ())
}

//! The patch formats of the API: JSON merge patch, strategic merge patch, JSON patch. Pure.

use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// How the elements of a list are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// The list is one value.
    Atomic,
    /// Elements are primitives; the list is a set.
    Set,
    /// Elements are objects known by this field.
    Keyed(&'static str),
}

/// The list types of the Go structs, by the path of field names. Taints are atomic: a strategic patch of
/// `spec.taints` replaces them all, which is why clients send all of them together with a resourceVersion.
pub(crate) fn list_type(path: &str) -> List {
    match path {
        "status.conditions" | "status.addresses" => List::Keyed("type"),
        "metadata.ownerReferences" => List::Keyed("uid"),
        "spec.containers"
        | "spec.initContainers"
        | "spec.ephemeralContainers"
        | "spec.volumes"
        | "spec.imagePullSecrets"
        | "spec.containers.env"
        | "spec.initContainers.env" => List::Keyed("name"),
        "spec.containers.volumeMounts" | "spec.initContainers.volumeMounts" => List::Keyed("mountPath"),
        "spec.containers.ports" | "spec.initContainers.ports" => List::Keyed("containerPort"),
        "metadata.finalizers" | "spec.podCIDRs" => List::Set,
        _ => List::Atomic,
    }
}

/// RFC 7396.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    let target = as_map(target);
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Strategic merge patch with its directives `$patch`, `$setElementOrder`, `$deleteFromPrimitiveList` and `$retainKeys`.
pub(crate) fn strategic(target: &mut Value, patch: &Value) -> Result<(), Refusal> {
    strategic_at(target, patch, "")
}

fn strategic_at(target: &mut Value, patch: &Value, path: &str) -> Result<(), Refusal> {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let mut whole = patch.clone();
            whole.remove("$patch");
            *target = Value::Object(whole);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => {
            return Err(Refusal::bad_request(format!("unknown patch type found: {other}")));
        }
    }
    let map = as_map(target);
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|key, _| kept.iter().any(|k| k == key));
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(list) = map.get_mut(list).and_then(Value::as_array_mut) {
                list.retain(|item| !gone.contains(item));
            }
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let below = join(path, key);
        match value {
            Value::Null => {
                map.remove(key);
            }
            Value::Array(items) => {
                let list = map.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                strategic_list(list, items, &below)?;
            }
            Value::Object(_) => {
                let field = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
                strategic_at(field, value, &below)?;
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                map.insert(key.clone(), value.clone());
            }
        }
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$setElementOrder/") {
            let order = value.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(list) = map.get_mut(field).and_then(Value::as_array_mut) {
                set_order(list, order, list_type(&join(path, field)));
            }
        }
    }
    Ok(())
}

fn strategic_list(target: &mut Value, patch: &[Value], path: &str) -> Result<(), Refusal> {
    let kind = list_type(path);
    let key = match (kind, target.as_array_mut()) {
        (List::Atomic, _) | (_, None) => {
            let whole = patch.iter().filter(|item| item.get("$patch").is_none());
            *target = Value::Array(whole.cloned().collect());
            return Ok(());
        }
        (List::Set, Some(list)) => {
            for item in patch {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
            return Ok(());
        }
        (List::Keyed(key), Some(_)) => key,
    };
    let Some(list) = target.as_array_mut() else {
        return Ok(());
    };
    if patch.iter().any(|item| item.get("$patch").is_some_and(|p| p == "replace")) {
        list.clear();
    }
    for item in patch {
        let directive = item.get("$patch").and_then(Value::as_str);
        if directive == Some("replace") && item.get(key).is_none() {
            continue;
        }
        let Some(id) = item.get(key) else {
            return Err(Refusal::bad_request(format!("map: {item} does not contain declared merge key: {key}")));
        };
        let found = list.iter_mut().find(|old| old.get(key) == Some(id));
        match (directive, found) {
            (Some("delete"), _) => list.retain(|old| old.get(key) != Some(id)),
            (_, Some(old)) => strategic_at(old, item, path)?,
            (_, None) => {
                let mut new = Value::Object(Map::new());
                strategic_at(&mut new, item, path)?;
                list.push(new);
            }
        }
    }
    Ok(())
}

/// Elements in the given order first come in that order; those it does not name keep their places behind.
fn set_order(list: &mut [Value], order: &[Value], kind: List) {
    let place = |item: &Value| {
        order.iter().position(|wanted| match kind {
            List::Keyed(key) => wanted.get(key) == item.get(key),
            List::Set | List::Atomic => wanted == item,
        })
    };
    list.sort_by_key(|item| place(item).unwrap_or(usize::MAX));
}

/// RFC 6902.
pub(crate) fn json_patch(target: &mut Value, patch: &Value) -> Result<(), Refusal> {
    let operations = patch.as_array().ok_or_else(|| Refusal::bad_request("a JSON patch is an array of operations"))?;
    for operation in operations {
        let text = |field: &str| operation.get(field).and_then(Value::as_str);
        let path = text("path").ok_or_else(|| Refusal::bad_request("operation without path"))?;
        let failed = || failed_operation(operation);
        let value = || operation.get("value").cloned().ok_or_else(failed);
        match text("op") {
            Some("add") => add_at(target, path, value()?).ok_or_else(failed)?,
            Some("remove") => {
                remove_at(target, path).ok_or_else(failed)?;
            }
            Some("replace") => *target.pointer_mut(path).ok_or_else(failed)? = value()?,
            Some("test") => {
                if target.pointer(path) != Some(&value()?) {
                    return Err(failed());
                }
            }
            Some("move") => {
                let moved = remove_at(target, text("from").ok_or_else(failed)?).ok_or_else(failed)?;
                add_at(target, path, moved).ok_or_else(failed)?;
            }
            Some("copy") => {
                let from = text("from").ok_or_else(failed)?;
                let copied = target.pointer(from).cloned().ok_or_else(failed)?;
                add_at(target, path, copied).ok_or_else(failed)?;
            }
            _ => {
                return Err(Refusal::bad_request(format!("unknown operation {operation}")));
            }
        }
    }
    Ok(())
}

fn failed_operation(operation: &Value) -> Refusal {
    let mut refusal = Refusal::bad_request(format!(
        "the server rejected our request due to an error in our request: operation {operation} does not apply"
    ));
    refusal.code = 422;
    refusal.reason = "Invalid";
    refusal
}

/// The container of `path`, and the unescaped last step.
fn parent<'v>(target: &'v mut Value, path: &str) -> Option<(&'v mut Value, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    Some((target.pointer_mut(parent)?, last))
}

fn add_at(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    let (parent, last) = parent(target, path)?;
    match parent {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let index = last.parse().ok().filter(|i| *i <= list.len())?;
            list.insert(index, value);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
    }
    Some(())
}

fn remove_at(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = parent(target, path)?;
    match parent {
        Value::Object(map) => map.remove(&last),
        Value::Array(list) => {
            let index = last.parse().ok().filter(|i| *i < list.len())?;
            Some(list.remove(index))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

pub(crate) fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

pub(crate) fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("made an object above")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn strategically(mut target: Value, patch: Value, expected: Value) {
        strategic(&mut target, &patch).unwrap();
        assert_eq!(target, expected);
    }

    #[test]
    fn a_merge_patch_sets_removes_and_replaces_lists() {
        let mut target = json!({ "a": { "b": 1, "c": 2 }, "l": [1, 2], "s": "x" });
        merge(&mut target, &json!({ "a": { "b": null, "d": { "e": null, "f": 3 } }, "l": [3], "s": { "t": 1 } }));
        assert_eq!(target, json!({ "a": { "c": 2, "d": { "f": 3 } }, "l": [3], "s": { "t": 1 } }));
    }

    #[test]
    fn conditions_merge_by_type() {
        strategically(
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "r" }, { "type": "Disk", "status": "False" }] } }),
            json!({ "status": { "$setElementOrder/conditions": [{ "type": "Disk" }, { "type": "Ready" }],
                "conditions": [{ "type": "Ready", "status": "Unknown" }, { "type": "New", "status": "True" }] } }),
            json!({ "status": { "conditions": [{ "type": "Disk", "status": "False" },
                { "type": "Ready", "status": "Unknown", "reason": "r" }, { "type": "New", "status": "True" }] } }),
        );
    }

    #[test]
    fn a_condition_can_be_deleted_and_all_can_be_replaced() {
        let node = json!({ "status": { "conditions": [{ "type": "A" }, { "type": "B" }] } });
        strategically(
            node.clone(),
            json!({ "status": { "conditions": [{ "type": "A", "$patch": "delete" }] } }),
            json!({ "status": { "conditions": [{ "type": "B" }] } }),
        );
        strategically(
            node,
            json!({ "status": { "conditions": [{ "$patch": "replace" }, { "type": "C" }] } }),
            json!({ "status": { "conditions": [{ "type": "C" }] } }),
        );
    }

    #[test]
    fn taints_are_one_value() {
        strategically(
            json!({ "spec": { "taints": [{ "key": "a", "effect": "NoSchedule" }] } }),
            json!({ "spec": { "taints": [{ "key": "b", "effect": "NoExecute" }] } }),
            json!({ "spec": { "taints": [{ "key": "b", "effect": "NoExecute" }] } }),
        );
    }

    #[test]
    fn primitive_lists_gain_and_lose_elements() {
        strategically(
            json!({ "metadata": { "finalizers": ["a", "b"] } }),
            json!({ "metadata": { "finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"] } }),
            json!({ "metadata": { "finalizers": ["b", "c"] } }),
        );
    }

    #[test]
    fn a_json_patch_applies_in_order_or_not_at_all() {
        let mut target = json!({ "spec": { "taints": [{ "key": "a" }] }, "metadata": { "labels": {} } });
        json_patch(
            &mut target,
            &json!([
                { "op": "test", "path": "/spec/taints/0/key", "value": "a" },
                { "op": "add", "path": "/spec/taints/-", "value": { "key": "b" } },
                { "op": "remove", "path": "/spec/taints/0" },
                { "op": "add", "path": "/metadata/labels/x~1y", "value": "1" },
                { "op": "replace", "path": "/spec/taints/0/key", "value": "c" },
            ]),
        )
        .unwrap();
        assert_eq!(target, json!({ "spec": { "taints": [{ "key": "c" }] }, "metadata": { "labels": { "x/y": "1" } } }));
        let refusal = json_patch(&mut target, &json!([{ "op": "test", "path": "/spec/taints/0/key", "value": "z" }]));
        assert_eq!(refusal.unwrap_err().code, 422);
    }
}

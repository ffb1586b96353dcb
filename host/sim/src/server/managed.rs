//! `managedFields` and server-side apply. Simplified: fields are leaves, lists as in `patch::list_type`, no version conversion;
//! ownership, removal of what a manager no longer applies, conflicts and force are as in the real server.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::clock::{self, Clock};
use crate::patch::{self, List, as_map, join, list_type};
use crate::refusal::Refusal;
use crate::resource::Resource;

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) name: String,
    /// `status`, or empty.
    pub(crate) subresource: &'static str,
}

/// A field: steps such as `f:status`, `k:{"type":"Ready"}`, `v:"a"`.
type Path = Vec<String>;
type Fields = BTreeSet<Path>;

/// Metadata that nobody owns.
const UNOWNED: [&str; 10] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "managedFields",
    "selfLink",
];

/// Records that `manager` changed `old` into `new` by an update: it owns what changed, and the others no longer do.
pub(crate) fn note(old: &Value, new: &mut Value, manager: &Manager, resource: &Resource, clock: &Clock) {
    let before = owned_leaves(old);
    let mut changed = Fields::new();
    for path in owned_leaves(new).union(&before) {
        if lookup(old, path) != lookup(new, path) {
            changed.insert(path.clone());
        }
    }
    // What a client says about managers in a plain update is only what it read.
    let mut entries = entries_of(old);
    if !changed.is_empty() {
        for entry in &mut entries {
            entry.fields.retain(|path| !changed.contains(path));
        }
        let present: Fields = changed.into_iter().filter(|path| lookup(new, path).is_some()).collect();
        let id = ("Update", manager);
        let mut fields = take(&mut entries, id);
        fields.extend(present);
        entries.push(Entry::new(id, &resource.api_version(), clock, fields));
    }
    store_entries(new, entries);
}

/// Applies `config` to the object for `manager`.
pub(crate) fn apply(
    live: &mut Value,
    config: &Value,
    manager: &Manager,
    force: bool,
    clock: &Clock,
) -> Result<(), Refusal> {
    let wanted = owned_leaves(config);
    let mut entries = entries_of(live);
    let id = ("Apply", manager);
    let applied_before = take(&mut entries, id);
    let mut conflicts = Vec::new();
    for entry in &mut entries {
        let taken: Vec<Path> = entry
            .fields
            .iter()
            .filter(|path| wanted.contains(*path) && lookup(live, path) != lookup(config, path))
            .cloned()
            .collect();
        for path in taken {
            if force {
                entry.fields.remove(&path);
            } else {
                conflicts.push((entry.manager.clone(), shown(&path)));
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(Refusal::apply_conflict(&conflicts));
    }
    for path in applied_before.difference(&wanted) {
        if !entries.iter().any(|entry| entry.fields.contains(path)) {
            let others = entries.iter().flat_map(|e| &e.fields);
            let kept: Vec<&Path> = wanted.iter().chain(others).collect();
            remove(live, path, &kept);
        }
    }
    merge_config(live, config, "");
    let version = config.get("apiVersion").and_then(Value::as_str).unwrap_or("v1").to_owned();
    entries.push(Entry::new(id, &version, clock, wanted));
    store_entries(live, entries);
    Ok(())
}

/// Whether two objects differ at most in who is noted as having written them.
pub(crate) fn same_but_for_managers(a: &Value, b: &Value) -> bool {
    if a == b {
        return true;
    }
    let strip = |value: &Value| {
        let mut entries = entries_of(value);
        for entry in &mut entries {
            entry.time = String::new();
        }
        entries.sort_by(|a, b| {
            (&a.manager, &a.operation, &a.subresource).cmp(&(&b.manager, &b.operation, &b.subresource))
        });
        let mut value = value.clone();
        store_entries(&mut value, entries);
        value
    };
    strip(a) == strip(b)
}

#[derive(Debug)]
struct Entry {
    manager: String,
    operation: String,
    subresource: String,
    version: String,
    time: String,
    fields: Fields,
}

impl Entry {
    fn new((operation, manager): (&str, &Manager), version: &str, clock: &Clock, fields: Fields) -> Self {
        Self {
            manager: manager.name.clone(),
            operation: operation.to_owned(),
            subresource: manager.subresource.to_owned(),
            version: version.to_owned(),
            time: clock::seconds(clock.now()),
            fields,
        }
    }
}

/// Takes the entry of this manager and operation out of the list.
fn take(entries: &mut Vec<Entry>, (operation, manager): (&str, &Manager)) -> Fields {
    let place = entries
        .iter()
        .position(|e| e.manager == manager.name && e.operation == operation && e.subresource == manager.subresource);
    place.map(|index| entries.remove(index).fields).unwrap_or_default()
}

fn entries_of(value: &Value) -> Vec<Entry> {
    let entries = value.pointer("/metadata/managedFields").and_then(Value::as_array);
    let read = |entry: &Value| {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut fields = Fields::new();
        if let Some(tree) = entry.get("fieldsV1").and_then(Value::as_object) {
            collect(tree, &mut Vec::new(), &mut fields);
        }
        Entry {
            manager: text("manager"),
            operation: text("operation"),
            subresource: text("subresource"),
            version: text("apiVersion"),
            time: text("time"),
            fields,
        }
    };
    entries.into_iter().flatten().map(read).collect()
}

fn store_entries(value: &mut Value, entries: Vec<Entry>) {
    let metadata = as_map(as_map(value).entry("metadata").or_insert(json!({})));
    let entries: Vec<Value> = entries
        .into_iter()
        .filter(|entry| !entry.fields.is_empty())
        .map(|entry| {
            let mut tree = json!({});
            for path in &entry.fields {
                let mut at = &mut tree;
                for step in path {
                    at = as_map(at).entry(step).or_insert(json!({}));
                }
            }
            let mut written = json!({
                "manager": entry.manager, "operation": entry.operation, "apiVersion": entry.version,
                "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": tree,
            });
            if !entry.subresource.is_empty() {
                as_map(&mut written).insert("subresource".to_owned(), entry.subresource.into());
            }
            written
        })
        .collect();
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), entries.into());
    }
}

fn collect(tree: &Map<String, Value>, path: &mut Path, fields: &mut Fields) {
    for (step, below) in tree {
        path.push(step.clone());
        match below.as_object() {
            Some(below) if !below.is_empty() => collect(below, path, fields),
            _ => {
                fields.insert(path.clone());
            }
        }
        path.pop();
    }
}

/// All fields of an object that somebody can own.
fn owned_leaves(value: &Value) -> Fields {
    let mut fields = Fields::new();
    for (key, below) in value.as_object().into_iter().flatten() {
        if key == "apiVersion" || key == "kind" {
            continue;
        }
        if key == "metadata" {
            for (field, below) in below.as_object().into_iter().flatten() {
                if !UNOWNED.contains(&field.as_str()) {
                    let mut path = vec!["f:metadata".to_owned(), format!("f:{field}")];
                    leaves(below, &join(key, field), &mut path, &mut fields);
                }
            }
            continue;
        }
        leaves(below, key, &mut vec![format!("f:{key}")], &mut fields);
    }
    fields
}

fn leaves(value: &Value, names: &str, path: &mut Path, fields: &mut Fields) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, below) in map {
                path.push(format!("f:{key}"));
                leaves(below, &join(names, key), path, fields);
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() => match list_type(names) {
            List::Atomic => {
                fields.insert(path.clone());
            }
            List::Set => {
                for item in items {
                    path.push(format!("v:{item}"));
                    fields.insert(path.clone());
                    path.pop();
                }
            }
            List::Keyed(key) => {
                for item in items {
                    path.push(element(key, item));
                    leaves(item, names, path, fields);
                    path.pop();
                }
            }
        },
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) | Value::Array(_) => {
            fields.insert(path.clone());
        }
    }
}

fn element(key: &str, item: &Value) -> String {
    format!("k:{}", json!({ key: item.get(key) }))
}

fn lookup<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |at, step| {
        if let Some(field) = step.strip_prefix("f:") {
            at.get(field)
        } else {
            at.as_array()?.iter().find(|item| is_element(item, step))
        }
    })
}

fn is_element(item: &Value, step: &str) -> bool {
    if let Some(wanted) = step.strip_prefix("v:") {
        return serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| wanted == *item);
    }
    let Some(keys) = step.strip_prefix("k:") else {
        return false;
    };
    let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
    !keys.is_empty() && keys.iter().all(|(key, wanted)| item.get(key) == Some(wanted))
}

/// Removes a field, and every container and list element on the way that nobody owns a field of any more.
fn remove(value: &mut Value, path: &[String], kept: &[&Path]) {
    let Some((step, below)) = path.split_first() else {
        return;
    };
    let deeper: Vec<Path> = kept
        .iter()
        .filter(|other| other.first() == Some(step))
        .map(|other| other.iter().skip(1).cloned().collect())
        .collect();
    let drop_whole = below.is_empty() || (deeper.is_empty() && !step.starts_with("f:"));
    let deeper: Vec<&Path> = deeper.iter().collect();
    if let Some(field) = step.strip_prefix("f:") {
        let Some(map) = value.as_object_mut() else {
            return;
        };
        if drop_whole {
            map.remove(field);
        } else if let Some(next) = map.get_mut(field) {
            remove(next, below, &deeper);
        }
    } else if let Some(list) = value.as_array_mut() {
        if drop_whole {
            list.retain(|item| !is_element(item, step));
        } else if let Some(next) = list.iter_mut().find(|item| is_element(item, step)) {
            remove(next, below, &deeper);
        }
    }
}

fn merge_config(live: &mut Value, config: &Value, names: &str) {
    match config {
        Value::Object(map) => {
            let live = as_map(live);
            for (key, below) in map {
                // A resourceVersion stated is a precondition; let the caller see it.
                merge_config(live.entry(key).or_insert(Value::Null), below, &join(names, key));
            }
        }
        Value::Array(items) => match (list_type(names), live.as_array_mut()) {
            (List::Keyed(key), Some(list)) => {
                for item in items {
                    match list.iter_mut().find(|old| old.get(key) == item.get(key)) {
                        Some(old) => merge_config(old, item, names),
                        None => list.push(item.clone()),
                    }
                }
            }
            (List::Set, Some(list)) => {
                for item in items {
                    if !list.contains(item) {
                        list.push(item.clone());
                    }
                }
            }
            (List::Atomic, _) | (_, None) => live.clone_from(config),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => patch::merge(live, config),
    }
}

fn shown(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        match step.strip_prefix("f:") {
            Some(field) => {
                text.push('.');
                text.push_str(field);
            }
            None => {
                text.push('[');
                text.push_str(step.get(2..).unwrap_or_default());
                text.push(']');
            }
        }
    }
    text
}

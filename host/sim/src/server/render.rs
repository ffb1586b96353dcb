//! The forms in which objects leave the server: whole, metadata only, or as rows of a table for kubectl.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::object::{Object, name_of};
use crate::resource::Resource;

/// What the client's `Accept` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    Metadata,
    Table,
}

impl Form {
    /// The first form of an `Accept` header that we speak; `None` if there is none.
    pub(crate) fn accepted(accept: &str) -> Option<Self> {
        if accept.is_empty() {
            return Some(Self::Whole);
        }
        accept.split(',').find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            if !["application/json", "application/*", "*/*"].contains(&media) {
                return None;
            }
            let wanted = parts.find_map(|p| p.strip_prefix("as="));
            match wanted {
                None => Some(Self::Whole),
                Some("Table") => Some(Self::Table),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Self::Metadata),
                Some(_) => None,
            }
        })
    }

    pub(crate) fn one(self, resource: &Resource, object: &Object) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Whole => object.write_whole(resource, &mut out),
            Self::Metadata => out = metadata_only(&object.value(resource)).to_string().into_bytes(),
            Self::Table => {
                let version = object.version.to_string();
                out = table(resource, &[object.value(resource)], json!({ "resourceVersion": version }))
                    .to_string()
                    .into_bytes();
            }
        }
        out
    }

    /// Items of a list, comma-separated; or the whole list where the form has no items to join.
    pub(crate) fn list(self, resource: &Resource, objects: &[Arc<Object>], metadata: &Value) -> Vec<u8> {
        match self {
            Self::Whole => {
                let size: usize = objects.iter().map(|o| o.item().len() + 1).sum();
                let mut out = Vec::with_capacity(size + 256);
                out.extend_from_slice(
                    list_opening(&resource.api_version(), &format!("{}List", resource.kind), metadata).as_bytes(),
                );
                write_items(objects, &mut out);
                out.extend_from_slice(b"]}");
                out
            }
            Self::Metadata => {
                let items: Vec<Value> = objects.iter().map(|o| metadata_only(&o.value(resource))).collect();
                json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": metadata, "items": items })
                    .to_string()
                    .into_bytes()
            }
            Self::Table => {
                let items: Vec<Value> = objects.iter().map(|o| o.value(resource)).collect();
                table(resource, &items, metadata.clone()).to_string().into_bytes()
            }
        }
    }

    /// One line of a watch.
    pub(crate) fn event(self, kind: &str, resource: &Resource, object: &Object, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        match self {
            Self::Whole => object.write_whole(resource, out),
            Self::Metadata | Self::Table => out.extend(self.one(resource, object)),
        }
        out.extend_from_slice(b"}\n");
    }
}

/// How a list begins, up to its items.
pub(crate) fn list_opening(api_version: &str, kind: &str, metadata: &Value) -> String {
    format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[")
}

pub(crate) fn write_items(objects: &[Arc<Object>], out: &mut Vec<u8>) {
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(object.item());
    }
}

fn metadata_only(value: &Value) -> Value {
    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": value.get("metadata") })
}

fn table(resource: &Resource, items: &[Value], metadata: Value) -> Value {
    let column = |name: &str, format: &str| json!({ "name": name, "type": "string", "format": format, "description": name, "priority": 0 });
    let is_node = resource.kind == "Node";
    let columns = if is_node {
        vec![
            column("Name", "name"),
            column("Status", ""),
            column("Roles", ""),
            column("Age", ""),
            column("Version", ""),
        ]
    } else {
        vec![column("Name", "name"), column("Age", "")]
    };
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let name = item.pointer("/metadata/name").and_then(Value::as_str).map(name_of);
            let cells = if is_node {
                json!([
                    name,
                    node_status(item),
                    node_roles(item),
                    age(item),
                    item.pointer("/status/nodeInfo/kubeletVersion")
                ])
            } else {
                json!([name, age(item)])
            };
            json!({ "cells": cells, "object": metadata_only(item) })
        })
        .collect();
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows })
}

fn node_status(node: &Value) -> String {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|c| c.get("type").is_some_and(|t| t == "Ready"));
    let mut status = match ready.and_then(|c| c.get("status")).and_then(Value::as_str) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable").is_some_and(|u| u == true) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles: Vec<&str> =
        labels.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")).collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn age(value: &Value) -> String {
    let created = value.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    let Some(created) = created.and_then(|c| c.parse::<Timestamp>().ok()) else {
        return "<unknown>".to_owned();
    };
    let seconds = (Timestamp::now().as_second() - created.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_we_speak_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(Form::accepted(kubectl), Some(Form::Table));
        assert_eq!(Form::accepted("application/vnd.kubernetes.protobuf,application/json"), Some(Form::Whole));
        assert_eq!(
            Form::accepted("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"),
            Some(Form::Whole)
        );
        assert_eq!(Form::accepted("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(Form::accepted("*/*"), Some(Form::Whole));
    }
}

//! One stored object: its JSON text, and beside it only what lists and watches look at.
//!
//! The text is what goes over the wire, so listing 100 000 nodes copies bytes and serialises nothing.
//! `apiVersion` and `kind` are not stored: lists leave them out of their items, as the real server does,
//! and single objects and watch events get them put back in front.

use std::sync::Arc;

use axum::body::Bytes;
use serde_json::Value;

use crate::resource::Resource;

/// One version of one object. Never changes; a write makes another.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) version: u64,
    /// `name`, or `namespace/name`.
    pub(crate) key: Arc<str>,
    pub(crate) labels: Labels,
    body: Bytes,
}

impl Object {
    /// Takes the wire form of `value`, and its type away from it. The caller has set `metadata.resourceVersion`.
    pub(crate) fn new(version: u64, key: Arc<str>, value: &mut Value, old: Option<&Self>) -> Self {
        if let Some(map) = value.as_object_mut() {
            map.remove("apiVersion");
            map.remove("kind");
        }
        let labels = Labels::of(value);
        let labels = match old {
            Some(old) if old.labels == labels => old.labels.clone(),
            _ => labels,
        };
        Self {
            version,
            key,
            labels,
            // Boxed, because a string grown by doubling would hold up to twice its length for as long as the object lives.
            body: Bytes::from(value.to_string().into_bytes().into_boxed_slice()),
        }
    }

    pub(crate) fn name(&self) -> &str {
        name_of(&self.key)
    }

    /// As an item of a list: without type.
    pub(crate) fn item(&self) -> &[u8] {
        &self.body
    }

    /// Appends the object as it stands alone: with its type.
    pub(crate) fn write_whole(&self, resource: &Resource, out: &mut Vec<u8>) {
        out.extend_from_slice(resource.opening().as_bytes());
        out.extend_from_slice(self.body.get(1..).unwrap_or_default());
    }

    /// Parsed, with its type.
    pub(crate) fn value(&self, resource: &Resource) -> Value {
        let mut value: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        resource.stamp(&mut value);
        value
    }
}

/// The name in `namespace/name`.
pub(crate) fn name_of(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(_, name)| name)
}

/// The namespace in `namespace/name`.
pub(crate) fn namespace_of(key: &str) -> Option<&str> {
    key.rsplit_once('/').map(|(namespace, _)| namespace)
}

/// Labels in one allocation, `key NUL value NUL …`: a map of 20 strings for each of 100 000 nodes would weigh as much as the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Labels(Arc<str>);

impl Labels {
    fn of(value: &Value) -> Self {
        let mut text = String::new();
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
        for (key, value) in labels.into_iter().flatten() {
            text.push_str(key);
            text.push('\0');
            text.push_str(value.as_str().unwrap_or_default());
            text.push('\0');
        }
        Self(Arc::from(text))
    }

    /// Labels from pairs, for selectors over things that are not stored objects.
    #[cfg(test)]
    pub(crate) fn from_pairs(pairs: &[(&str, &str)]) -> Self {
        let text: String = pairs.iter().map(|(k, v)| format!("{k}\0{v}\0")).collect();
        Self(Arc::from(text))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let mut parts = self.0.split('\0');
        while let (Some(k), Some(v)) = (parts.next(), parts.next()) {
            if k == key {
                return Some(v);
            }
        }
        None
    }
}

//! Nodes, and pods if there are any, from files and standard input: YAML or JSON; one object, a `List`, or a stream of
//! documents.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The largest input that is read: 100,000 nodes of 20 KB each.
const INPUT_MAX: u64 = 2 << 30;

/// What was given.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Node objects.
    pub(super) nodes: Vec<Value>,
    /// Pod objects.
    pub(super) pods: Vec<Value>,
}

/// Adds the objects of one source: a path, or `-` for standard input.
///
/// # Errors
/// When it cannot be read, or holds something that is neither Node nor Pod; the message names source and document.
pub(super) fn add(source: &str, objects: &mut Objects) -> anyhow::Result<()> {
    let text = read(source).with_context(|| format!("{}: cannot be read", shown(source)))?;
    if text.trim().is_empty() {
        bail!(
            "{}: empty; expected Node objects as YAML or JSON, as `kubectl get nodes -o json` prints them",
            shown(source)
        );
    }
    for (index, document) in documents(&text).with_context(|| shown(source).to_owned())?.into_iter().enumerate() {
        flatten(document, objects).with_context(|| format!("{}: document {}", shown(source), index + 1))?;
    }
    Ok(())
}

fn shown(source: &str) -> &str {
    if source == "-" { "standard input" } else { source }
}

fn read(source: &str) -> std::io::Result<String> {
    let mut text = String::new();
    if source == "-" {
        std::io::stdin().lock().take(INPUT_MAX).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(source)?.take(INPUT_MAX).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// The documents of a text. JSON first, where it looks like JSON: it is much faster to read, and kubectl's
/// output for a large cluster is large.
fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    if text.trim_start().starts_with('{') {
        let json: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        return json.context("not valid JSON");
    }
    let yaml: Vec<Option<Document>> =
        serde_saphyr::from_multiple(text).context("neither JSON nor YAML of Kubernetes objects")?;
    yaml.into_iter().flatten().map(|document| Ok(serde_json::to_value(document)?)).collect()
}

/// A YAML document in which labels and annotations are texts, as they are in the API: read as any value, a label
/// that says `08` would become the number 8.
#[derive(Deserialize, Serialize)]
struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<Document>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize, Serialize)]
struct Metadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn flatten(document: Value, objects: &mut Objects) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Kind {
        kind: Option<String>,
        items: Option<Vec<Value>>,
    }
    let kind = Kind::deserialize(&document).unwrap_or(Kind { kind: None, items: None });
    match (kind.kind.as_deref(), kind.items) {
        (Some("Node"), _) => objects.nodes.push(document),
        (Some("Pod"), _) => objects.pods.push(document),
        (Some(list), Some(items)) if list.ends_with("List") => {
            for (index, mut item) in items.into_iter().enumerate() {
                // Items of a NodeList or PodList come without their kind.
                if let (Value::Object(fields), Some(kind @ ("Node" | "Pod"))) = (&mut item, list.strip_suffix("List")) {
                    fields.entry("kind").or_insert_with(|| kind.into());
                }
                flatten(item, objects).with_context(|| format!("item {}", index + 1))?;
            }
        }
        (Some(other), _) => bail!("kind is {other}; expected Node, Pod or a List of them"),
        (None, _) => bail!("no kind; expected a Node object, as `kubectl get nodes -o yaml` prints it"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn names(text: &str) -> Vec<String> {
        let mut objects = Objects::default();
        for document in documents(text).unwrap() {
            flatten(document, &mut objects).unwrap();
        }
        objects.nodes.iter().map(|n| n.pointer("/metadata/name").unwrap().as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn one_object_a_list_or_a_stream_in_yaml_or_json() {
        let json = r#"{"kind":"Node","metadata":{"name":"a"}}"#;
        assert_eq!(names(json), ["a"]);
        assert_eq!(names(&format!("{json}\n{json}")), ["a", "a"]);
        assert_eq!(names(r#"{"kind":"List","items":[{"kind":"Node","metadata":{"name":"b"}}]}"#), ["b"]);
        assert_eq!(names(r#"{"kind":"NodeList","items":[{"metadata":{"name":"c"}}]}"#), ["c"]);
        assert_eq!(names("kind: Node\nmetadata: {name: d}\n---\n---\nkind: Node\nmetadata: {name: e}\n"), ["d", "e"]);
        assert_eq!(names(r#"{"kind":"NodeList","items":[]}"#), [""; 0]);
    }

    #[test]
    fn a_label_that_looks_like_a_number_stays_as_it_is_written() {
        let text = "kind: Node\nmetadata: {name: n, labels: {a: 08, b: true, c: 1.50}}\nstatus: {capacity: {cpu: 4}}\n";
        let node = documents(text).unwrap().remove(0);
        assert_eq!(node["metadata"]["labels"], serde_json::json!({"a": "08", "b": "true", "c": "1.50"}));
        assert_eq!(node["status"]["capacity"]["cpu"], 4);
    }

    #[test]
    fn pods_are_told_from_nodes() {
        let list = r#"{"kind":"List","items":[{"kind":"Pod"},{"kind":"Node"},{"kind":"PodList","items":[{},{}]}]}"#;
        let mut objects = Objects::default();
        flatten(documents(list).unwrap().remove(0), &mut objects).unwrap();
        assert_eq!((objects.nodes.len(), objects.pods.len()), (1, 3));
    }

    #[test]
    fn what_is_neither_is_named() {
        let error = |text: &str| {
            let documents = documents(text)?;
            documents.into_iter().try_for_each(|d| flatten(d, &mut Objects::default()))
        };
        assert!(error("kind: Secret\n").unwrap_err().to_string().contains("kind is Secret"));
        assert!(error("a: b").unwrap_err().to_string().contains("no kind"));
        assert!(error("hello").unwrap_err().to_string().contains("of Kubernetes objects"));
        assert!(error("{").unwrap_err().to_string().contains("JSON"));
        let nested = error(r#"{"kind":"List","items":[{"kind":"Secret"}]}"#).unwrap_err();
        assert_eq!(format!("{nested:#}"), "item 1: kind is Secret; expected Node, Pod or a List of them");
    }
}

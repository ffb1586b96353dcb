//! What bytes and configurations are known by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::node::Node;
use crate::pods::{Pod, Pods};
use crate::time::Time;

/// A SHA-256, shown in hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new().chain_update(bytes))
    }

    /// The digest of everything that was put into `hash`.
    #[must_use]
    pub fn finish(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// The digest of all that a checker can read of a node, with its pods if it reads them and they are known.
    #[must_use]
    pub fn of_content(node: &Node, pods: Option<&Pods>) -> Self {
        let node = Self::of_node(node);
        let Some(pods) = pods else {
            return node;
        };
        let mut hash = Sha256::new().chain_update(node.0);
        let mut put = |text: &str| put(&mut hash, text);
        for pod in pods.iter() {
            let Pod { namespace, name, owner_kind, owner_name, phase, ready, restarts, reason, started } = pod;
            [namespace, name, owner_kind, owner_name, phase, reason].into_iter().for_each(|text| put(text));
            put(&format!("{ready} {restarts} {}", moment(*started)));
        }
        Self::finish(hash)
    }

    fn of_node(node: &Node) -> Self {
        let mut hash = Sha256::new();
        let mut put = |text: &str| put(&mut hash, text);
        put(node.name.as_str());
        put(node.uid.as_str());
        put(node.boot_id.as_str());
        put(&node.system_uuid);
        put(&node.provider_id);
        put(if node.unschedulable { "cordoned" } else { "" });
        put(&moment(node.created));
        for pairs in [&node.labels, &node.annotations, &node.capacity, &node.allocatable] {
            put(&pairs.len().to_string());
            pairs.iter().for_each(|(key, value)| {
                put(key);
                put(value);
            });
        }
        put(&node.taints.len().to_string());
        for taint in &node.taints {
            [&taint.key, &taint.value, &taint.effect].into_iter().for_each(|text| put(text));
        }
        for condition in &node.conditions {
            put(&condition.kind);
            put(&condition.status);
            put(&condition.reason);
            put(&condition.message);
            put(&moment(condition.last_transition));
        }
        Self::finish(hash)
    }

    /// The first `digits` hex digits: enough to recognise it by.
    #[must_use]
    pub fn short(&self, digits: usize) -> String {
        let mut hex = self.to_string();
        hex.truncate(digits);
        hex
    }
}

/// Each text with its length in front, so that no two nodes read the same.
fn put(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
}

fn moment(at: Option<Time>) -> String {
    at.map(|at| at.unix_ms().to_string()).unwrap_or_default()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Not the text of a digest or of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 in hex")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        if text.len() != 64 || !text.is_ascii() {
            return Err(NotADigest);
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).ok_or(NotADigest)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NotADigest)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A generation: these bytes with this configuration. Shown `<12 hex>-<8 hex>`, stored whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// Of the component; none for a file that was refused unread.
    pub bytes: Option<Digest>,
    /// Of the canonical JSON of settings, limits and grants.
    pub config: Digest,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes.map_or_else(|| "unread".to_owned(), |bytes| bytes.short(12));
        write!(f, "{bytes}-{}", self.config.short(8))
    }
}

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
        serializer.collect_str(&format_args!("{bytes}-{}", self.config))
    }
}

impl<'de> Deserialize<'de> for Generation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parse = || {
            let (bytes, config) = text.split_once('-').ok_or(NotADigest)?;
            let bytes = if bytes.is_empty() { None } else { Some(bytes.parse()?) };
            Ok::<_, NotADigest>(Self { bytes, config: config.parse()? })
        };
        parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_generation_is_stored_whole_and_shown_short() {
        for bytes in [None, Some(Digest::of(b"bytes"))] {
            let generation = Generation { bytes, config: Digest::of(b"{}") };
            let text = serde_json::to_string(&generation).unwrap();
            assert_eq!(serde_json::from_str::<Generation>(&text).unwrap(), generation);
            assert!(generation.to_string().ends_with("-44136fa3") || generation.to_string().len() > 12);
        }
        assert!(serde_json::from_str::<Generation>("\"12-34\"").is_err());
    }

    #[test]
    fn the_content_of_a_node_is_all_that_a_checker_can_read() {
        let node = Node::named("n");
        let content = Digest::of_node(&node);
        assert_eq!(content, Digest::of_node(&node.clone()));
        let labelled = Node { labels: [(Arc::from("a"), Arc::from("b"))].into(), ..node.clone() };
        let moved = Node { labels: [(Arc::from("ab"), Arc::from(""))].into(), ..node.clone() };
        let annotated = Node { annotations: [(Arc::from("a"), Arc::from("b"))].into(), ..node };
        let all = [content, Digest::of_node(&labelled), Digest::of_node(&moved), Digest::of_node(&annotated)];
        assert!(all.iter().enumerate().all(|(at, one)| !all[..at].contains(one)));
    }

    #[test]
    fn pods_are_content_for_whoever_reads_them() {
        let node = Node::named("n");
        let of = |pods: Option<Vec<Pod>>| Digest::of_content(&node, pods.map(Arc::new).as_ref());
        assert_eq!(of(None), Digest::of_node(&node));
        let pod = || Pod::named("a", "b");
        let restarted = Pod { restarts: 1, ..pod() };
        let all =
            [None, Some(vec![]), Some(vec![pod()]), Some(vec![restarted]), Some(vec![Pod::named("ab", "")])].map(of);
        assert!(all.iter().enumerate().all(|(at, one)| !all[..at].contains(one)));
    }
}

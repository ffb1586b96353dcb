//! A generation that was brought to life, and what there is to say about it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use apgar_core::digest::{Digest, Generation};
use apgar_core::fleet::Inputs;
use apgar_core::node::NodeName;
pub use apgar_core::supervision::Source;
use apgar_core::verdict::CheckerKey;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use wasmtime::component::InstancePre;

use crate::bindings::Exports;
use crate::drain::Drains;
use crate::host::Host;
use crate::http::Asker;
use crate::limits::{self, Limits, Profile};
use crate::memory::Memory;

/// What an operator may grant beyond the node and the log, by the words of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// The time. It costs purity.
    Clock,
    /// GET requests to listed hosts. It costs purity.
    Http,
    /// The log. Always granted; naming it is allowed.
    Log,
    /// A small blob per node, handed back next time. It costs purity.
    Memory,
    /// The pods on the node. They are content, as the node is: they cost no purity.
    Pods,
}

impl Capability {
    /// Every one, in the order of their words.
    pub const ALL: [Self; 5] = [Self::Clock, Self::Http, Self::Log, Self::Memory, Self::Pods];

    /// The word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Http => "http",
            Self::Log => "log",
            Self::Memory => "memory",
            Self::Pods => "pods",
        }
    }

    /// The capability of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.as_str() == word)
    }

    /// True if a verdict may depend on more than node and settings once this is used.
    #[must_use]
    pub fn costs_purity(self) -> bool {
        match self {
            Self::Clock | Self::Http | Self::Memory => true,
            // Pods are an input like the node: the daemon asks again when they change.
            Self::Log | Self::Pods => false,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a plugin was granted.
pub type Grants = BTreeSet<Capability>;

/// A plugin's table of the configuration, resolved: with its bytes it makes a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// The profile its limits come from: shown, nothing more.
    pub profile: Profile,
    /// What it may use.
    pub limits: Limits,
    /// What it may import beyond node and log.
    pub grants: Grants,
    /// Its settings; an object.
    pub settings: serde_json::Value,
}

impl Default for PluginConfig {
    fn default() -> Self {
        Self {
            profile: Profile::Native,
            limits: Limits::of(Profile::Native),
            grants: Grants::new(),
            settings: serde_json::json!({}),
        }
    }
}

impl PluginConfig {
    /// The generation of a component with this digest under this configuration; without one, of bytes that nobody
    /// could read.
    #[must_use]
    pub fn generation(&self, bytes: Option<Digest>) -> Generation {
        generation_of(bytes, &self.settings, &self.limits, &self.grants)
    }
}

pub(crate) fn generation_of(
    bytes: Option<Digest>,
    settings: &serde_json::Value,
    limits: &Limits,
    grants: &Grants,
) -> Generation {
    let config = serde_json::json!({ "grants": grants, "limits": limits, "settings": settings });
    Generation { bytes, config: Digest::of(canonical(&config).as_bytes()) }
}

/// JSON with keys by code point and no spaces, whatever order `serde_json` was built to keep.
pub(crate) fn canonical(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let fields: Vec<String> = entries
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// What a component says it is, cut to what is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// What people call it. Its identity is the plugin's name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// One sentence on what it judges.
    pub summary: String,
    /// The reasons it may give; these are admitted as metric labels first.
    pub reasons: Vec<String>,
    /// The threshold it gives unless something special is found.
    #[serde(skip)]
    pub default_threshold: Duration,
}

/// Where the artefact that runs came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compiled {
    /// The size of the compiled code.
    pub size: u64,
    /// How long compiling took; zero if it was found in the cache.
    #[serde(skip)]
    pub took: Duration,
    /// True if it was found in the cache.
    pub cached: bool,
}

/// A generation, ready to judge. Cheap to keep: code and tables are shared by all checks.
pub struct Plugin {
    pub(crate) key: CheckerKey,
    pub(crate) start: u64,
    pub(crate) source: Source,
    pub(crate) digest: Digest,
    pub(crate) generation: Generation,
    pub(crate) description: Description,
    pub(crate) imports: Vec<String>,
    pub(crate) inputs: Inputs,
    pub(crate) wasi: bool,
    pub(crate) grants: Grants,
    pub(crate) limits: Limits,
    pub(crate) settings: Arc<str>,
    pub(crate) size: u64,
    pub(crate) compiled: Compiled,
    pub(crate) pre: InstancePre<Host>,
    pub(crate) exports: Exports,
    pub(crate) permits: Semaphore,
    pub(crate) drains: Drains,
    /// Checks at once: as many permits as there are in all.
    pub(crate) at_once: usize,
    /// If it imports `memory`.
    pub(crate) memory: Option<Memory>,
    /// If it imports `http`.
    pub(crate) asker: Option<Arc<Asker>>,
    pub(crate) reasons: Reasons,
    pub(crate) judging: Judging,
}

impl Plugin {
    /// Its name, which is its file's stem.
    #[must_use]
    pub fn key(&self) -> &CheckerKey {
        &self.key
    }

    /// The number of the start that brought it to life; 0 outside supervision.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Where its bytes come from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// These bytes with this configuration.
    #[must_use]
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The digest of its bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it says it is.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The interfaces it imports, types-only ones left out: its permissions.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// What its imports prove its verdict to depend on, besides its configuration.
    #[must_use]
    pub fn inputs(&self) -> Inputs {
        self.inputs
    }

    /// True if that is the node and its pods at most, so that its verdicts are remembered.
    #[must_use]
    pub fn pure(&self) -> bool {
        self.inputs.is_pure()
    }

    /// What it was granted.
    #[must_use]
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// What it may use.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The size of the component in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the artefact that runs came from.
    #[must_use]
    pub fn compiled(&self) -> Compiled {
        self.compiled
    }

    /// Drops the submitted checks that have not begun. Those under way have `within` to end, and are reported as
    /// always; what still runs then is dropped with its store. Of a dropped check nothing is reported, not even a
    /// death: that it ends is intended. Returns at once, and says nothing about checks that are submitted later.
    pub fn drain(&self, within: Duration) {
        self.drains.begin(within);
    }

    /// The nodes that are being judged.
    #[must_use]
    pub fn judging(&self) -> Vec<NodeName> {
        crate::lock(&self.judging.0).clone()
    }

    /// True if it takes settings.
    #[must_use]
    pub fn takes_settings(&self) -> bool {
        self.exports.configure.is_some()
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("key", &self.key.as_str())
            .field("generation", &self.generation.to_string())
            .finish_non_exhaustive()
    }
}

/// The nodes that are being judged: there are never more than a plugin has permits.
#[derive(Debug, Default)]
pub(crate) struct Judging(Mutex<Vec<NodeName>>);

impl Judging {
    /// Notes a node until the answer is dropped.
    pub(crate) fn note(&self, node: &NodeName) -> Noted<'_> {
        crate::lock(&self.0).push(node.clone());
        Noted { judging: self, node: node.clone() }
    }
}

/// A node that is being judged.
pub(crate) struct Noted<'a> {
    judging: &'a Judging,
    node: NodeName,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        let mut nodes = crate::lock(&self.judging.0);
        if let Some(at) = nodes.iter().position(|node| *node == self.node) {
            nodes.swap_remove(at);
        }
    }
}

/// The reasons a plugin gave, kept once each: the verdicts of a hundred thousand nodes share their strings.
#[derive(Debug, Default)]
pub(crate) struct Reasons(Mutex<Vec<Arc<str>>>);

/// Reasons worth sharing. A guest that gives more has them allocated one by one, and only itself to blame.
const SHARED_REASONS: usize = 4 * limits::REASONS;

impl Reasons {
    pub(crate) fn share(&self, reason: &str) -> Arc<str> {
        let mut known = crate::lock(&self.0);
        if let Some(found) = known.iter().find(|known| &***known == reason) {
            return found.clone();
        }
        let new: Arc<str> = Arc::from(reason);
        if known.len() < SHARED_REASONS {
            known.push(new.clone());
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn canonical_json_sorts_by_code_point_and_has_no_spaces() {
        let value = json!({ "b": [1, { "é": null, "z": "a\"b" }], "a": true, "B": 0.5 });
        assert_eq!(canonical(&value), r#"{"B":0.5,"a":true,"b":[1,{"z":"a\"b","é":null}]}"#);
    }

    #[test]
    fn settings_limits_and_grants_make_another_generation() {
        let bytes = Some(Digest::of(b"bytes"));
        let default = PluginConfig::default;
        let base = default().generation(bytes);
        assert_eq!(base.to_string().len(), 12 + 1 + 8);
        let limits = Limits { call_deadline: Duration::from_millis(50), ..Limits::default() };
        let settings = PluginConfig { settings: json!({"a": 1}), ..default() }.generation(bytes);
        let limits = PluginConfig { limits, ..default() }.generation(bytes);
        let grants = PluginConfig { grants: Grants::from([Capability::Clock]), ..default() }.generation(bytes);
        for other in [settings, limits, grants] {
            assert_eq!(other.bytes, base.bytes);
            assert_ne!(other.config, base.config);
        }
    }

    #[test]
    fn equal_reasons_share_one_string_up_to_a_limit() {
        let reasons = Reasons::default();
        assert!(Arc::ptr_eq(&reasons.share("NodeReady"), &reasons.share("NodeReady")));
        for n in 0..1_000 {
            reasons.share(&n.to_string());
        }
        assert_eq!(reasons.0.lock().unwrap().len(), SHARED_REASONS);
    }
}

//! What happened to plugins, for people: a ring of the latest, which the API shows (`supervision` 6.5).

use std::collections::VecDeque;
use std::time::Duration;

use apgar_core::digest::Generation;
use apgar_core::node::NodeName;
use apgar_core::supervision::{self, EventKind};
use apgar_core::time::Time;
use apgar_core::verdict::CheckerKey;
use serde_json::{Value, json};

use crate::view::rfc3339;

/// Repeats of kind and plugin within this time are one, with a count.
const ONE_WITHIN: Duration = Duration::from_secs(60);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// Which kind.
    pub kind: EventKind,
    /// To whom.
    pub plugin: Option<CheckerKey>,
    /// Which generation.
    pub generation: Option<Generation>,
    /// At which node.
    pub node: Option<NodeName>,
    /// In words.
    pub message: String,
}

impl Happened {
    /// To no plugin in particular.
    #[must_use]
    pub fn of(kind: EventKind, message: String) -> Self {
        Self { kind, plugin: None, generation: None, node: None, message }
    }

    /// To a plugin.
    #[must_use]
    pub fn to(plugin: &CheckerKey, kind: EventKind, message: String) -> Self {
        Self { plugin: Some(plugin.clone()), ..Self::of(kind, message) }
    }
}

impl From<supervision::Event> for Happened {
    fn from(event: supervision::Event) -> Self {
        let supervision::Event { kind, plugin, generation, node, message } = event;
        Self { kind, plugin: Some(plugin), generation, node, message }
    }
}

/// The latest of what happened, oldest first.
#[derive(Debug)]
pub struct Ring {
    events: VecDeque<Entry>,
    most: usize,
}

#[derive(Debug)]
struct Entry {
    happened: Happened,
    first: Time,
    last: Time,
    count: u32,
}

impl Ring {
    /// Remembers that many; there is no point in none.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { events: VecDeque::new(), most }
    }

    /// Remembers an event. False if it only repeats one that is less than a minute old: then it was counted.
    pub fn push(&mut self, happened: Happened, now: Time) -> bool {
        let same = |entry: &&mut Entry| {
            entry.happened.kind == happened.kind
                && entry.happened.plugin == happened.plugin
                && now.since(entry.first) < ONE_WITHIN
        };
        if let Some(entry) = self.events.iter_mut().rev().find(same) {
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
            entry.happened = happened;
            return false;
        }
        if self.events.len() >= self.most {
            self.events.pop_front();
        }
        self.events.push_back(Entry { happened, first: now, last: now, count: 1 });
        true
    }

    /// As the API has it, the latest first.
    #[must_use]
    pub fn shown(&self) -> Value {
        let shown = |entry: &Entry| {
            let Happened { kind, plugin, generation, node, message } = &entry.happened;
            let severity = if kind.is_warning() { "warning" } else { "info" };
            json!({
                "at": rfc3339(entry.last), "firstAt": rfc3339(entry.first), "count": entry.count,
                "severity": severity, "kind": kind, "plugin": plugin,
                "generation": generation.map(|generation| generation.to_string()), "node": node, "message": message,
            })
        };
        json!({ "items": self.events.iter().rev().map(shown).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Time = Time::from_unix_ms(1_700_000_000_000);

    fn crash(plugin: &str) -> Happened {
        Happened::to(&plugin.into(), EventKind::PluginCrashed, "trap".to_owned())
    }

    #[test]
    fn repeats_of_a_minute_are_one_with_a_count() {
        let mut ring = Ring::new(10);
        assert!(ring.push(crash("a"), T0));
        assert!(!ring.push(crash("a"), T0 + Duration::from_secs(59)));
        assert!(ring.push(crash("b"), T0 + Duration::from_secs(59)));
        assert!(ring.push(crash("a"), T0 + Duration::from_secs(60)));
        let shown = ring.shown();
        let counts: Vec<_> = shown["items"].as_array().unwrap().iter().map(|event| &event["count"]).collect();
        assert_eq!(counts, [1, 1, 2]);
        assert_eq!(shown["items"][0]["severity"], "warning");
    }

    #[test]
    fn the_oldest_make_room() {
        let mut ring = Ring::new(3);
        let at = |minute: u64| T0 + Duration::from_secs(60 * minute);
        for minute in 0..5 {
            assert!(ring.push(crash("a"), at(minute)));
        }
        let shown = ring.shown();
        let left: Vec<_> = shown["items"].as_array().unwrap().iter().map(|event| event["at"].clone()).collect();
        assert_eq!(left, [4, 3, 2].map(|minute| json!(rfc3339(at(minute)))));
    }
}

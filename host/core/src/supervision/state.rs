//! What is known of a plugin: two tracks, the ledger of crashes, and what is derived from them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::words::{Cause, RefusalReason, Source, Stage, TrackState};
use crate::digest::{Digest, Generation};
use crate::node::NodeName;
use crate::time::Time;

/// A plugin, as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The last proven generation.
    pub good: Option<Track>,
    /// A newer one that is asked for; none while the good one is.
    pub wanted: Option<Track>,
    /// The number of the last start. It outlives removal, so that no number is used twice.
    pub last_start: u64,
    /// Crashes by generation.
    pub ledger: BTreeMap<Generation, Entry>,
}

/// The course of one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    /// Of what.
    pub generation: Generation,
    /// Where its bytes come from.
    pub source: Source,
    /// True if its imports prove it a function of content and configuration.
    pub pure: bool,
    /// The number of its last start; 0 before one.
    pub start: u64,
    /// How it is.
    pub run: Run,
    /// Nodes whose last check died.
    pub pairs: BTreeMap<NodeName, Pair>,
}

/// How a track is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Run {
    /// Not started; the ledger says whether and when it will be.
    Down,
    /// Being started.
    Loading,
    /// Loaded; it answers, or is the fallback.
    Serving {
        /// Its first completed check: proof counts from it.
        #[serde(skip)]
        good_since: Option<Time>,
        /// Slow checks in a row.
        #[serde(skip)]
        slow: u32,
    },
    /// Not acceptable.
    Refused(Refused),
}

/// Why a generation is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// One of the closed list.
    pub reason: RefusalReason,
    /// What was wrong, where, and what would be right.
    pub message: String,
    /// Since when.
    pub since: Time,
}

/// The crashes of one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// How many are held against it.
    pub count: u32,
    /// The latest.
    pub last: Death,
    /// When it is tried again; none: never by itself.
    pub next: Option<Time>,
}

/// A node whose last check died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Deaths in a row.
    pub deaths: u32,
    /// The latest.
    pub last: Death,
    /// What the plugin saw.
    pub content: Digest,
    /// When it is asked again; none: when the content changes.
    pub until: Option<Time>,
}

impl Pair {
    /// True while the node is not asked about, provided that it shows the same.
    fn is_held(&self, now: Time) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// True while the node is not asked about.
    pub(super) fn holds(&self, content: &Digest, now: Time) -> bool {
        self.content == *content && self.is_held(now)
    }
}

/// A death, as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Of which start.
    pub start: u64,
    /// Why.
    pub cause: Cause,
    /// Where.
    pub stage: Stage,
    /// More, for people.
    pub detail: String,
    /// While judging whom.
    pub node: Option<NodeName>,
    /// When.
    pub at: Time,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.cause, self.stage)?;
        if let Some(node) = &self.node {
            write!(f, " on {node}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl Track {
    pub(super) fn is_serving(&self) -> bool {
        matches!(self.run, Run::Serving { .. })
    }

    pub(super) fn is_started(&self) -> bool {
        matches!(self.run, Run::Loading | Run::Serving { .. })
    }
}

impl Record {
    /// Both tracks, the good one first.
    pub fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.good.iter().chain(&self.wanted)
    }

    pub(super) fn tracks_mut(&mut self) -> impl Iterator<Item = &mut Track> {
        self.good.iter_mut().chain(&mut self.wanted)
    }

    /// The track that answers: the wanted one if it serves, else the good one if that does.
    #[must_use]
    pub fn answering(&self) -> Option<&Track> {
        [&self.wanted, &self.good].into_iter().flatten().find(|track| track.is_serving())
    }

    /// The nodes that the track that answers is not asked about. A pair whose wait is over is none: its node is asked
    /// about at the next tick.
    pub fn quarantined(&self, now: Time) -> impl Iterator<Item = (&NodeName, &Pair)> {
        let pairs = self.answering().into_iter().flat_map(|track| &track.pairs);
        pairs.filter(move |(_, pair)| pair.is_held(now))
    }

    /// True if a generation of the plugin answers: the only place that says so.
    #[must_use]
    pub fn counts_as_serving(&self) -> bool {
        self.answering().is_some()
    }

    /// True while the start with this number serves, whether it answers or is the fallback.
    #[must_use]
    pub fn serves(&self, start: u64) -> bool {
        self.tracks().any(|track| track.start == start && track.is_serving())
    }

    /// The word for a track of this record.
    #[must_use]
    pub fn track_state(&self, track: &Track) -> TrackState {
        match (&track.run, self.ledger.get(&track.generation)) {
            (Run::Loading, _) => TrackState::Loading,
            (Run::Serving { .. }, _) => TrackState::Serving,
            (Run::Refused(_), _) => TrackState::Refused,
            (Run::Down, Some(Entry { next: None, .. })) => TrackState::Saturated,
            (Run::Down, _) => TrackState::Waiting,
        }
    }

    /// When a track that is down is started: none if it is not down, or never is by itself.
    pub(super) fn due_at(&self, track: &Track, now: Time) -> Option<Time> {
        match (&track.run, self.ledger.get(&track.generation)) {
            (Run::Down, None) => Some(now),
            (Run::Down, Some(entry)) => entry.next,
            (Run::Loading | Run::Serving { .. } | Run::Refused(_), _) => None,
        }
    }

    /// The entry that the marker shows (`supervision` 4.9), with the track it is of: at most one, because derived.
    #[must_use]
    pub fn marker(&self) -> Option<(&Track, &Entry)> {
        let with_entry = || self.tracks().filter_map(|track| Some((track, self.ledger.get(&track.generation)?)));
        let loading = with_entry().find(|(track, _)| track.run == Run::Loading);
        let waiting = || with_entry().find(|(track, entry)| track.run == Run::Down && entry.next.is_some());
        let saturated = || with_entry().find(|(track, entry)| track.run == Run::Down && entry.next.is_none());
        loading.or_else(waiting).or_else(saturated)
    }

    /// Why a file or its configuration is not acceptable.
    #[must_use]
    pub fn refusal(&self) -> Option<(&Track, &Refused)> {
        [&self.wanted, &self.good].into_iter().flatten().find_map(|track| match &track.run {
            Run::Refused(refused) => Some((track, refused)),
            Run::Down | Run::Loading | Run::Serving { .. } => None,
        })
    }
}

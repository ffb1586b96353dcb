//! The supervision of plugins (`supervision`): one ledger for every death however noticed, waits, proof, fallback.
//! Pure: it is told what happened and the time, and says what is to be started and stopped and who answers.
//! Reading, compiling, calling and waiting are the engine's.

mod policy;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod scenarios;
mod state;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use policy::{Policy, Restart};
pub use state::{Death, Entry, Pair, Record, Refused, Run, Track};
pub use words::{Booked, Cause, EventKind, PluginState, RefusalReason, Reload, Source, Stage, TrackState};

use crate::digest::{Digest, Generation};
use crate::node::NodeName;
use crate::time::{Time, human};
use crate::verdict::CheckerKey;

/// Nodes whose pairs must die in one start before it is the plugin's fault.
const CRASH_NODES: usize = 3;
/// Within this time.
const CRASH_WITHIN: Duration = Duration::from_secs(60);
/// Pairs of one track: a plugin that dies at more nodes than that is not one strange node's victim.
const PAIRS_MAX: usize = 64;
/// Crashes of a start on probation: the third gives it up.
const PROBATION_CAP: u32 = 2;
/// Ledger entries without a track: going back to old bytes must not reset their count.
const FORMER_ENTRIES: usize = 8;
/// For this long after their last crash.
const FORMER_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A generation that is there to be started, or why it cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Which.
    pub generation: Generation,
    /// What admission says: whether it is pure, or the refusal with its message.
    pub admission: Result<bool, (RefusalReason, String)>,
}

/// Something that happened to a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// What is built in under a name.
    Bundled(CheckerKey, Offer),
    /// What the directory has under a name. It goes before what is built in.
    File(CheckerKey, Offer),
    /// The directory's file was written anew with the bytes it had.
    Unchanged(CheckerKey),
    /// The directory has nothing under the name any more, for good.
    FileRemoved(CheckerKey),
    /// Neither directory nor disk has the bytes of a start, or they are no longer trusted, or it rejected its
    /// settings: not a death.
    Rejected(CheckerKey, Generation, RefusalReason, String),
    /// A start passed its self-check.
    Started(CheckerKey, u64),
    /// A start or check ended unasked. `judged` is the node with the content that the plugin saw.
    Died(CheckerKey, Death, Option<Digest>),
    /// A check of a node that is gone died: held against nobody, or nodes that leave would make a crash.
    DiedAtGone(CheckerKey, Cause),
    /// A check of a start ended with a verdict or an error; the flag says whether it was slow.
    Completed(CheckerKey, u64, NodeName, bool),
    /// A person clears the ledger of a plugin whose last start had this number.
    Reset(CheckerKey, u64),
    /// A node is gone, with everything held against it.
    NodeGone(NodeName),
    /// These are all nodes: whoever is not among them is gone. If there are none at all that proves nothing, as an API
    /// server that has lost its storage answers so; each node that is given up then is told as gone.
    Nodes(BTreeSet<NodeName>),
    /// Another configuration.
    Policy(Policy),
    /// The daemon stops as it should.
    Shutdown,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Bring this generation to life, once the record is stored.
    Start(CheckerKey, Generation, u64),
    /// End a start: its checks may finish, nothing new begins.
    Stop(CheckerKey, u64),
    /// Keep the bytes and the configuration of this generation, unless they are: it serves after a restart whatever
    /// the directory holds. Decided each time that a good generation comes to life, since what was kept may be lost, or
    /// may have found no room.
    Keep(CheckerKey, Generation),
    /// Checks go to this start from now on.
    Answers(CheckerKey, u64),
    /// Nothing answers: unknown, not running, on every node.
    Silent(CheckerKey),
    /// There is no such plugin, or it is switched off: its verdicts go.
    Gone(CheckerKey),
}

/// What happened, for log, API and counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which kind.
    pub kind: EventKind,
    /// To whom.
    pub plugin: CheckerKey,
    /// Which generation.
    pub generation: Option<Generation>,
    /// At which node.
    pub node: Option<NodeName>,
    /// In words.
    pub message: String,
}

/// What came of a turn.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Turn {
    /// What is to be done, in order.
    pub decisions: Vec<Decision>,
    /// What happened.
    pub events: Vec<Event>,
    /// Each death, by what became of it.
    pub deaths: Vec<(CheckerKey, Cause, Booked)>,
    /// What newer files and configurations came to.
    pub reloads: Vec<(CheckerKey, Reload)>,
    /// Records to be stored.
    pub writes: BTreeMap<CheckerKey, Record>,
}

/// Who is to judge a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// The start with this number.
    Start(u64),
    /// Nobody: it died at this node, which shows nothing else since.
    Held(Pair),
    /// Nobody: nothing of that name answers.
    Nobody,
}

/// Whether a result counts (`supervision` 4.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its start answers.
    Answers,
    /// Its start is the fallback: it counts for a node that the answering one has not judged yet.
    Fallback,
    /// Dropped as late.
    Late,
}

/// What was last said about who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Told {
    #[default]
    Nothing,
    Answers(u64),
    Silent,
    Gone,
}

/// A plugin with what is not stored.
#[derive(Debug, Default)]
struct Slot {
    record: Record,
    stored: Record,
    bundled: Option<Offer>,
    file: Option<Offer>,
    /// False while an override may still have its file: a directory that was not read proves nothing.
    removed: bool,
    /// It served before the daemon was started: it is missed until it does again.
    missed: bool,
    /// The generation that answered last: that the same one answers again is no reload.
    answered: Option<Generation>,
    told: Told,
}

impl Slot {
    /// What is asked for: the directory's file, else what is built in.
    fn asked(&self) -> Option<(Source, &Offer)> {
        let file = self.file.as_ref().map(|offer| (Source::Directory, offer));
        let overridden = self.record.tracks().any(|track| track.source == Source::Directory);
        file.or_else(|| {
            let bundled = self.bundled.as_ref().filter(|_| self.removed || !overridden)?;
            Some((Source::Bundled, bundled))
        })
    }

    fn track_of(&mut self, start: u64) -> Option<&mut Track> {
        self.record.tracks_mut().find(|track| track.start == start && track.is_started())
    }

    fn on_probation(&self, start: u64) -> bool {
        self.record.wanted.as_ref().is_some_and(|wanted| wanted.start == start && wanted.is_serving())
    }

    /// Drops entries that no track has and nobody will ask for again.
    fn prune(&mut self, now: Time) {
        let has_track: BTreeSet<Generation> = self.record.tracks().map(|track| track.generation).collect();
        let ledger = &mut self.record.ledger;
        ledger.retain(|generation, entry| has_track.contains(generation) || now.since(entry.last.at) < FORMER_KEPT);
        let mut former: Vec<(Time, Generation)> = ledger
            .iter()
            .filter(|(generation, _)| !has_track.contains(generation))
            .map(|(generation, entry)| (entry.last.at, *generation))
            .collect();
        former.sort_unstable();
        for (_, generation) in former.iter().rev().skip(FORMER_ENTRIES) {
            ledger.remove(generation);
        }
    }
}

/// All plugins and all they did.
#[derive(Debug, Default)]
pub struct Supervisor {
    policy: Policy,
    plugins: BTreeMap<CheckerKey, Slot>,
    turn: Turn,
    stopping: bool,
}

impl Supervisor {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Takes over what the store remembers (`supervision` 4.13). What follows is among the first turn's decisions.
    pub fn restore(&mut self, records: BTreeMap<CheckerKey, Record>, now: Time) {
        for (name, record) in records {
            let restart = self.policy.of(&name).clone();
            let answered = record.good.as_ref().map(|good| good.generation);
            let missed = answered.is_some();
            let mut slot = Slot { stored: record.clone(), record, missed, answered, ..Slot::default() };
            for entry in slot.record.ledger.values_mut() {
                entry.next = entry.next.map(|next| next.min(now + restart.backoff_cap));
                entry.last.at = entry.last.at.min(now);
            }
            let mut died = Vec::new();
            for track in slot.record.tracks_mut() {
                for pair in track.pairs.values_mut() {
                    pair.until = pair.until.map(|until| until.min(now + restart.backoff_cap));
                    pair.last.at = pair.last.at.min(now);
                }
                match track.run {
                    Run::Loading => died.push(track.start),
                    Run::Serving { .. } | Run::Refused(_) => track.run = Run::Down,
                    Run::Down => {}
                }
            }
            self.plugins.insert(name.clone(), slot);
            for start in died {
                let detail = "the daemon ended while it was being started".to_owned();
                let death = Death { start, cause: Cause::DaemonDied, stage: Stage::Load, detail, node: None, at: now };
                self.crash(&name, death, now);
            }
        }
    }

    /// Takes in what happened and starts what is due. `nodes` is how many nodes there are.
    pub fn turn(&mut self, inputs: Vec<Input>, nodes: usize, now: Time) -> Turn {
        for input in inputs {
            self.take_in(input, nodes, now);
        }
        let names: Vec<CheckerKey> = self.plugins.keys().cloned().collect();
        for name in names {
            self.prove(&name, now);
            self.start_due(&name, now);
            self.settle(&name);
        }
        std::mem::take(&mut self.turn)
    }

    /// The earliest moment at which a turn without input decides something.
    #[must_use]
    pub fn next_deadline(&self, now: Time) -> Option<Time> {
        let of_plugin = |(name, slot): (&CheckerKey, &Slot)| {
            let restart = self.policy.of(name);
            let loading = slot.record.tracks().any(|track| track.run == Run::Loading);
            let starts = slot
                .record
                .tracks()
                .filter(|track| restart.enabled && !self.stopping && !loading && Self::may_start(slot, track))
                .filter_map(|track| slot.record.due_at(track, now));
            let proofs = slot.record.tracks().filter_map(|track| Self::proven_at(slot, track, restart));
            starts.chain(proofs).min()
        };
        self.plugins.iter().filter_map(of_plugin).min().map(|at| at.max(now))
    }

    /// All plugins that there are, by name.
    pub fn plugins(&self) -> impl Iterator<Item = (&CheckerKey, &Record)> {
        let records = self.plugins.iter().map(|(name, slot)| (name, &slot.record));
        records.filter(|(_, record)| record.tracks().next().is_some())
    }

    /// How a plugin is supervised.
    #[must_use]
    pub fn policy(&self, name: &CheckerKey) -> &Restart {
        self.policy.of(name)
    }

    /// The marker of a plugin (`supervision` 4.9); none while it is switched off.
    #[must_use]
    pub fn marker(&self, name: &CheckerKey) -> Option<(&Track, &Entry)> {
        self.record(name).filter(|_| self.policy.of(name).enabled)?.marker()
    }

    /// When the generation that answers is proven, while it is on probation and has been asked.
    #[must_use]
    pub fn probation_until(&self, name: &CheckerKey) -> Option<Time> {
        let slot = self.plugins.get(name)?;
        let track = slot.record.wanted.as_ref()?;
        Self::proven_at(slot, track, self.policy.of(name))
    }

    /// A plugin's record.
    #[must_use]
    pub fn record(&self, name: &CheckerKey) -> Option<&Record> {
        self.plugins.get(name).map(|slot| &slot.record)
    }

    /// The word for a plugin: the first that fits (`supervision` 2.1).
    #[must_use]
    pub fn state(&self, name: &CheckerKey, now: Time) -> Option<PluginState> {
        let slot = self.plugins.get(name)?;
        let record = &slot.record;
        let due = |track: &Track| record.due_at(track, now).filter(|_| Self::may_start(slot, track));
        let any = |fits: &dyn Fn(&Track) -> bool| record.tracks().any(fits);
        Some(if !self.policy.of(name).enabled {
            PluginState::Stopped
        } else if record.counts_as_serving() {
            PluginState::Running
        } else if any(&|track| track.run == Run::Loading || due(track).is_some_and(|at| at <= now)) {
            PluginState::Loading
        } else if any(&|track| due(track).is_some()) {
            PluginState::Crashed
        } else if any(&|track| record.track_state(track) == TrackState::Saturated) {
            PluginState::Failed
        } else if any(&|track| matches!(track.run, Run::Refused(_))) {
            PluginState::Refused
        } else {
            // Restored, and the directory has not been read yet.
            PluginState::Loading
        })
    }

    /// Who is to judge a node (`supervision` 4.4). `content` is asked for only if a check of the node died; a pair
    /// whose content is another is forgotten. Content that is not known at present is no other content.
    pub fn ask(
        &mut self,
        name: &CheckerKey,
        node: &NodeName,
        content: impl FnOnce() -> Option<Digest>,
        now: Time,
    ) -> Ask {
        let Some(slot) = self.plugins.get_mut(name) else {
            return Ask::Nobody;
        };
        let Some(start) = slot.record.answering().map(|track| track.start) else {
            return Ask::Nobody;
        };
        let Some(track) = slot.track_of(start) else {
            return Ask::Nobody;
        };
        if let Some(pair) = track.pairs.get(node) {
            let content = content().unwrap_or(pair.content);
            if pair.holds(&content, now) {
                return Ask::Held(pair.clone());
            }
            if pair.content != content {
                track.pairs.remove(node);
                let generation = track.generation;
                self.tell(
                    EventKind::NodeReleased,
                    name,
                    Some(generation),
                    Some(node.clone()),
                    "it shows something else",
                );
            }
        }
        Ask::Start(start)
    }

    /// Whether the result of a check counts.
    #[must_use]
    pub fn standing(&self, name: &CheckerKey, start: u64) -> Standing {
        let Some(record) = self.record(name) else {
            return Standing::Late;
        };
        let fallback = record.good.as_ref().is_some_and(|good| good.start == start && good.is_serving());
        match record.answering() {
            Some(track) if track.start == start => Standing::Answers,
            Some(_) if fallback => Standing::Fallback,
            Some(_) | None => Standing::Late,
        }
    }

    fn take_in(&mut self, input: Input, nodes: usize, now: Time) {
        match input {
            Input::Bundled(name, offer) => {
                self.plugins.entry(name.clone()).or_default().bundled = Some(offer);
                self.asked(&name, now);
            }
            Input::File(name, offer) => {
                let slot = self.plugins.entry(name.clone()).or_default();
                slot.file = Some(offer);
                slot.removed = false;
                self.asked(&name, now);
            }
            Input::Unchanged(name) => self.reloaded(&name, Reload::Unchanged),
            Input::FileRemoved(name) => self.file_removed(&name, now),
            Input::Rejected(name, generation, reason, message) => {
                self.refuse(&name, &generation, reason, message, now);
            }
            Input::Started(name, start) => self.started(&name, start),
            Input::Died(name, death, content) => self.died(&name, death, content, nodes, now),
            Input::DiedAtGone(name, cause) => self.turn.deaths.push((name, cause, Booked::Merged)),
            Input::Completed(name, start, node, slow) => self.completed(&name, start, &node, slow, now),
            Input::Reset(name, start) => self.reset(&name, start),
            Input::NodeGone(node) => {
                for track in self.plugins.values_mut().flat_map(|slot| slot.record.tracks_mut()) {
                    track.pairs.remove(&node);
                }
            }
            Input::Nodes(nodes) if nodes.is_empty() => {}
            Input::Nodes(nodes) => {
                for track in self.plugins.values_mut().flat_map(|slot| slot.record.tracks_mut()) {
                    track.pairs.retain(|node, _| nodes.contains(node));
                }
            }
            Input::Policy(policy) => self.set_policy(policy, now),
            Input::Shutdown => {
                self.stopping = true;
                let names: Vec<CheckerKey> = self.plugins.keys().cloned().collect();
                names.iter().for_each(|name| self.stop_all(name));
            }
        }
    }

    /// Brings the tracks in line with what is asked for (`supervision` 4.5).
    fn asked(&mut self, name: &CheckerKey, now: Time) {
        let Some(slot) = self.plugins.get_mut(name) else {
            return;
        };
        if let (None, Some(bundled)) = (&slot.record.good, &slot.bundled) {
            let good = track(bundled, Source::Bundled, &slot.record, now);
            slot.answered.get_or_insert(good.generation);
            slot.record.good = Some(good);
        }
        let Some((source, offer)) = slot.asked().map(|(source, offer)| (source, offer.clone())) else {
            return;
        };
        slot.prune(now);
        let is_it = |track: &Option<Track>| track.as_ref().is_some_and(|track| track.generation == offer.generation);
        if slot.record.wanted.is_some() && !is_it(&slot.record.wanted) {
            self.give_up_wanted(name);
        }
        let Some(slot) = self.plugins.get_mut(name) else {
            return;
        };
        let known = is_it(&slot.record.wanted) || is_it(&slot.record.good);
        if is_it(&slot.record.good) {
            if let Some(good) = &mut slot.record.good {
                good.source = source;
            }
        } else if !known {
            slot.record.wanted = Some(track(&offer, source, &slot.record, now));
            if let Err((_, message)) = &offer.admission {
                self.refused(name, offer.generation, message);
            }
            return;
        }
        match offer.admission {
            Err((reason, message)) => self.refuse(name, &offer.generation, reason, message, now),
            Ok(pure) => self.admit(name, &offer.generation, pure),
        }
    }

    /// A generation that was refused is acceptable again, unless it said so itself of its settings.
    fn admit(&mut self, name: &CheckerKey, generation: &Generation, pure: bool) {
        let Some(slot) = self.plugins.get_mut(name) else {
            return;
        };
        for track in slot.record.tracks_mut().filter(|track| track.generation == *generation) {
            track.pure = pure;
            let again = matches!(&track.run, Run::Refused(why) if why.reason != RefusalReason::SettingsRejected);
            if again {
                track.run = Run::Down;
            }
        }
    }

    fn refuse(&mut self, name: &CheckerKey, of: &Generation, reason: RefusalReason, message: String, now: Time) {
        let Some(slot) = self.plugins.get_mut(name) else {
            return;
        };
        let mut stopped = Vec::new();
        let mut news = false;
        for track in slot.record.tracks_mut().filter(|track| track.generation == *of) {
            if track.is_started() {
                stopped.push(Decision::Stop(name.clone(), track.start));
            }
            let since = match &track.run {
                Run::Refused(before) if before.reason == reason && before.message == message => before.since,
                Run::Refused(_) | Run::Down | Run::Loading | Run::Serving { .. } => {
                    news = true;
                    now
                }
            };
            track.run = Run::Refused(Refused { reason, message: message.clone(), since });
        }
        self.turn.decisions.append(&mut stopped);
        if news {
            self.refused(name, *of, &message);
        }
    }

    fn refused(&mut self, name: &CheckerKey, generation: Generation, message: &str) {
        self.reloaded(name, Reload::Refused);
        self.tell(EventKind::PluginRefused, name, Some(generation), None, message);
    }

    fn reloaded(&mut self, name: &CheckerKey, came_to: Reload) {
        if self.plugins.contains_key(name) {
            self.turn.reloads.push((name.clone(), came_to));
        }
    }

    fn file_removed(&mut self, name: &CheckerKey, now: Time) {
        let Some(slot) = self.plugins.get_mut(name) else {
            return;
        };
        slot.file = None;
        slot.removed = true;
        slot.record.ledger.clear();
        slot.record.tracks_mut().for_each(|track| track.pairs.clear());
        if slot.bundled.is_some() {
            // What is built in takes the place of an override that answers; of one that does not, nothing is left.
            if let Some(good) = slot.record.good.take_if(|good| good.source == Source::Directory && !good.is_serving())
                && good.is_started()
            {
                self.turn.decisions.push(Decision::Stop(name.clone(), good.start));
            }
            return self.asked(name, now);
        }
        self.stop_all(name);
        if let Some(slot) = self.plugins.get_mut(name) {
            slot.record = Record { last_start: slot.record.last_start, ..Record::default() };
            slot.answered = None;
        }
        self.tell(EventKind::PluginRemoved, name, None, None, "its file is gone");
    }

    /// An intended stop of what runs; the tracks stay.
    fn stop_all(&mut self, name: &CheckerKey) {
        let Some(slot) = self.plugins.get_mut(name) else {
            return;
        };
        for track in slot.record.tracks_mut().filter(|track| track.is_started()) {
            track.run = Run::Down;
            self.turn.decisions.push(Decision::Stop(name.clone(), track.start));
        }
    }

    fn give_up_wanted(&mut self, name: &CheckerKey) {
        let given_up = self.plugins.get_mut(name).and_then(|slot| slot.record.wanted.take());
        if let Some(track) = given_up.filter(Track::is_started) {
            self.turn.decisions.push(Decision::Stop(name.clone(), track.start));
        }
    }

    /// Starts what is due, the good track first, one at a time (`supervision` 4.5).
    fn start_due(&mut self, name: &CheckerKey, now: Time) {
        let stopping = self.stopping || !self.policy.of(name).enabled;
        let Some(slot) = self.plugins.get_mut(name).filter(|_| !stopping) else {
            return;
        };
        if slot.record.tracks().any(|track| track.run == Run::Loading) {
            return;
        }
        let is_due =
            |track: &&Track| Self::may_start(slot, track) && slot.record.due_at(track, now).is_some_and(|at| at <= now);
        let Some(generation) = slot.record.tracks().find(is_due).map(|track| track.generation) else {
            return;
        };
        slot.record.last_start += 1;
        let start = slot.record.last_start;
        if let Some(track) = slot.record.tracks_mut().find(|track| track.generation == generation) {
            track.start = start;
            track.run = Run::Loading;
        }
        self.turn.decisions.push(Decision::Start(name.clone(), generation, start));
    }

    /// A restored track that nobody has asked for again has no bytes: only those of the good one are kept.
    fn may_start(slot: &Slot, track: &Track) -> bool {
        let is_good = slot.record.good.as_ref().is_some_and(|good| good.generation == track.generation);
        is_good || slot.asked().is_some_and(|(_, offer)| offer.generation == track.generation)
    }

    fn started(&mut self, name: &CheckerKey, start: u64) {
        let Some(slot) = self.plugins.get_mut(name) else {
            return;
        };
        let Some(track) = slot.record.tracks_mut().find(|track| track.start == start && track.run == Run::Loading)
        else {
            return;
        };
        track.run = Run::Serving { good_since: None, slow: 0 };
        let (generation, source) = (track.generation, track.source);
        let before = slot.record.good.clone().filter(|good| good.generation != generation);
        let was_served = before.as_ref().is_some_and(Track::is_serving);
        let overridden = before.as_ref().is_some_and(|good| good.source == Source::Directory);
        let returns = slot.record.ledger.contains_key(&generation);
        let is_wanted = slot.record.wanted.as_ref().is_some_and(|wanted| wanted.start == start);
        if !is_wanted {
            self.turn.decisions.push(Decision::Keep(name.clone(), generation));
        } else if !was_served || (source == Source::Bundled && overridden) {
            self.promote(name);
        }
        let kind = match (was_served && is_wanted, returns) {
            (true, _) => EventKind::PluginSwapped,
            (false, true) => EventKind::PluginRestarted,
            (false, false) => EventKind::PluginLoaded,
        };
        self.tell(kind, name, Some(generation), None, &format!("start {start} serves"));
    }

    /// The wanted track becomes the good one; the one before is given up.
    fn promote(&mut self, name: &CheckerKey) {
        let Some(slot) = self.plugins.get_mut(name) else {
            return;
        };
        let Some(wanted) = slot.record.wanted.take() else {
            return;
        };
        let generation = wanted.generation;
        if let Some(before) = slot.record.good.replace(wanted).filter(Track::is_started) {
            self.turn.decisions.push(Decision::Stop(name.clone(), before.start));
        }
        self.turn.decisions.push(Decision::Keep(name.clone(), generation));
    }

    /// When a serving track is proven, if that would change anything.
    fn proven_at(slot: &Slot, track: &Track, restart: &Restart) -> Option<Time> {
        let Run::Serving { good_since: Some(since), .. } = track.run else {
            return None;
        };
        let is_wanted = slot.record.wanted.as_ref().is_some_and(|wanted| wanted.generation == track.generation);
        let news = is_wanted || slot.record.ledger.contains_key(&track.generation);
        news.then(|| since + restart.decay_after)
    }

    fn prove(&mut self, name: &CheckerKey, now: Time) {
        let restart = self.policy.of(name).clone();
        let Some(slot) = self.plugins.get_mut(name) else {
            return;
        };
        let proven: Vec<Generation> = slot
            .record
            .tracks()
            .filter(|track| Self::proven_at(slot, track, &restart).is_some_and(|at| at <= now))
            .map(|track| track.generation)
            .collect();
        for generation in proven {
            let Some(slot) = self.plugins.get_mut(name) else {
                return;
            };
            let forgiven = slot.record.ledger.remove(&generation).is_some();
            if slot.record.wanted.as_ref().is_some_and(|wanted| wanted.generation == generation) {
                self.promote(name);
            }
            if forgiven {
                self.tell(EventKind::PluginForgiven, name, Some(generation), None, "it served long enough");
            }
        }
    }

    fn completed(&mut self, name: &CheckerKey, start: u64, node: &NodeName, was_slow: bool, now: Time) {
        let most = self.policy.of(name).slow_calls;
        let Some(track) = self.plugins.get_mut(name).and_then(|slot| slot.track_of(start)) else {
            return;
        };
        let Run::Serving { good_since, slow } = &mut track.run else {
            return;
        };
        good_since.get_or_insert(now);
        *slow = if was_slow { *slow + 1 } else { 0 };
        let too_slow = *slow >= most;
        let generation = track.generation;
        if track.pairs.remove(node).is_some() {
            self.tell(EventKind::NodeReleased, name, Some(generation), Some(node.clone()), "it was judged");
        }
        if too_slow {
            let detail = format!("{most} slow checks in a row");
            let node = Some(node.clone());
            let death = Death { start, cause: Cause::Slow, stage: Stage::Check, detail, node, at: now };
            self.crash(name, death, now);
        }
    }

    /// Books a death: against a pair if it was in a check, else against the generation (`supervision` 4.2, 4.4).
    fn died(&mut self, name: &CheckerKey, death: Death, content: Option<Digest>, nodes: usize, now: Time) {
        let restart = self.policy.of(name).clone();
        let track = self.plugins.get_mut(name).and_then(|slot| slot.track_of(death.start));
        let in_check = track.filter(|track| track.is_serving()).zip(death.node.clone().zip(content));
        let Some((track, (node, content))) = in_check else {
            return self.crash(name, death, now);
        };
        if death.cause == Cause::HostStarved {
            self.turn.deaths.push((name.clone(), death.cause, Booked::Starved));
            return self.tell(EventKind::HostStarved, name, None, Some(node), &death.detail);
        }
        let overflows = track.pairs.len() >= PAIRS_MAX && !track.pairs.contains_key(&node);
        if overflows {
            return self.crash(name, death, now);
        }
        let deaths = track.pairs.get(&node).map_or(0, |pair| pair.deaths).saturating_add(1);
        let hosts_too = matches!(death.cause, Cause::Deadline | Cause::ImportTimeout);
        let until = (!track.pure || hosts_too).then(|| now + restart.backoff(deaths + 1));
        track.pairs.insert(node.clone(), Pair { deaths, last: death.clone(), content, until });
        let generation = track.generation;
        let recent = |pair: &&Pair| pair.last.start == death.start && now.since(pair.last.at) < CRASH_WITHIN;
        let many = track.pairs.values().filter(recent).count() >= CRASH_NODES;
        let held = track.pairs.values().filter(|pair| pair.holds(&pair.content, now)).count();
        let all = held >= nodes;
        if all {
            // The next start asks everyone again: otherwise it would never be heard, and never be proven.
            track.pairs.clear();
        }
        if many || all {
            return self.crash(name, death, now);
        }
        self.turn.deaths.push((name.clone(), death.cause, Booked::Pair));
        let message = death.to_string();
        self.tell(EventKind::NodeQuarantined, name, Some(generation), Some(node), &message);
    }

    fn crash(&mut self, name: &CheckerKey, death: Death, now: Time) {
        let cause = death.cause;
        let booked = self.note_crash(name, death, now);
        self.turn.deaths.push((name.clone(), cause, booked));
    }

    /// The one function that changes a count (`supervision` 4.3): both paths of death end here.
    fn note_crash(&mut self, name: &CheckerKey, death: Death, now: Time) -> Booked {
        let restart = self.policy.of(name).clone();
        let Some(slot) = self.plugins.get_mut(name) else {
            return Booked::Merged;
        };
        let on_probation = slot.on_probation(death.start);
        let is_newer = slot.record.wanted.as_ref().is_some_and(|wanted| wanted.start == death.start);
        let Some(track) = slot.track_of(death.start) else {
            return Booked::Merged;
        };
        track.run = Run::Down;
        let generation = track.generation;
        let count = slot.record.ledger.get(&generation).map_or(0, |entry| entry.count);
        let cap = match (on_probation, restart.max_restarts) {
            (true, 0) => PROBATION_CAP,
            (true, max) => max.min(PROBATION_CAP),
            (false, max) => max,
        };
        let (count, next, booked) = if death.cause == Cause::HostStarved {
            (count, Some(now + restart.backoff(1)), Booked::Starved)
        } else if !restart.always {
            (count + 1, None, Booked::Crash)
        } else if restart.has_room(count, cap) {
            (count + 1, Some(now + restart.backoff(count + 2)), Booked::Crash)
        } else {
            (count, None, Booked::Crash)
        };
        let message = death.to_string();
        let node = death.node.clone();
        slot.record.ledger.insert(generation, Entry { count, last: death, next });
        if on_probation {
            // Whatever the good one does from now on is no news of a newer one.
            slot.answered = slot.record.good.as_ref().map(|good| good.generation);
        }
        let fallback = slot.record.good.as_ref().filter(|good| on_probation && good.is_serving());
        let fallback = fallback.map(|good| good.generation);
        if is_newer && booked != Booked::Starved {
            self.reloaded(name, if fallback.is_some() { Reload::RolledBack } else { Reload::Crashed });
        }
        if booked == Booked::Starved {
            self.tell(EventKind::HostStarved, name, Some(generation), node.clone(), &message);
        } else {
            let (kind, then) = match next {
                Some(at) => (EventKind::PluginCrashed, format!("tried again in {}", human(at.since(now)))),
                None => (EventKind::PluginSaturated, "not tried again until its bytes or settings change".to_owned()),
            };
            self.tell(kind, name, Some(generation), node.clone(), &format!("{message}; crash {count}, {then}"));
        }
        if let Some(good) = fallback {
            let message = format!("{good} answers again in place of {generation}: {message}");
            self.tell(EventKind::RolledBack, name, Some(generation), node, &message);
        }
        booked
    }

    fn reset(&mut self, name: &CheckerKey, start: u64) {
        let Some(slot) = self.plugins.get_mut(name) else {
            return;
        };
        let named =
            slot.record.tracks_mut().find(|track| track.start == start && !matches!(track.run, Run::Refused(_)));
        let Some(track) = named else {
            return;
        };
        track.pairs.clear();
        if track.is_started() {
            track.run = Run::Down;
            self.turn.decisions.push(Decision::Stop(name.clone(), start));
        }
        let generation = track.generation;
        slot.record.ledger.remove(&generation);
        self.tell(EventKind::PluginReset, name, Some(generation), None, "a person cleared its crashes");
    }

    /// Another configuration: what is switched off stops, and who has room again is due (`supervision` 4.8).
    fn set_policy(&mut self, policy: Policy, now: Time) {
        let before = std::mem::replace(&mut self.policy, policy);
        let names: Vec<CheckerKey> = self.plugins.keys().cloned().collect();
        for name in names {
            let (old, new) = (before.of(&name).clone(), self.policy.of(&name).clone());
            if !new.enabled {
                if old.enabled {
                    self.tell(EventKind::PluginStopped, &name, None, None, "it was switched off");
                }
                self.stop_all(&name);
            }
            let raised = match (old.max_restarts, new.max_restarts) {
                (0, _) => false,
                (_, 0) => true,
                (old, new) => new > old,
            };
            let Some(slot) = self.plugins.get_mut(&name).filter(|_| raised || (new.always && !old.always)) else {
                continue;
            };
            for entry in slot.record.ledger.values_mut().filter(|entry| entry.next.is_none()) {
                entry.next = new.has_room(entry.count, new.max_restarts).then_some(now);
            }
        }
    }

    /// Says who answers, if that changed, and stores the record, if that did.
    fn settle(&mut self, name: &CheckerKey) {
        let enabled = self.policy.of(name).enabled;
        let Some(slot) = self.plugins.get_mut(name) else {
            return;
        };
        let is_none = slot.record.tracks().next().is_none();
        let loading = slot.record.tracks().any(|track| track.run == Run::Loading);
        let waits = loading && !slot.missed && slot.told == Told::Nothing;
        let tell = match slot.record.answering() {
            _ if is_none || !enabled => Told::Gone,
            Some(track) => Told::Answers(track.start),
            None if waits => Told::Nothing,
            None => Told::Silent,
        };
        if tell != slot.told {
            slot.told = tell;
            self.turn.decisions.extend(match tell {
                Told::Nothing => None,
                Told::Answers(start) => Some(Decision::Answers(name.clone(), start)),
                Told::Silent => Some(Decision::Silent(name.clone())),
                Told::Gone => Some(Decision::Gone(name.clone())),
            });
        }
        let answers = slot.record.answering().map(|track| track.generation);
        if answers.is_some() && answers != slot.answered {
            slot.answered = answers;
            self.turn.reloads.push((name.clone(), Reload::Swapped));
        }
        let stored = as_stored(&slot.record);
        if stored != slot.stored {
            slot.stored = stored.clone();
            self.turn.writes.insert(name.clone(), stored);
        }
    }

    fn tell(
        &mut self,
        kind: EventKind,
        plugin: &CheckerKey,
        generation: Option<Generation>,
        node: Option<NodeName>,
        message: &str,
    ) {
        let (plugin, message) = (plugin.clone(), message.to_owned());
        self.turn.events.push(Event { kind, plugin, generation, node, message });
    }
}

/// A new track of what is offered; its number is the one its last crash had.
fn track(offer: &Offer, source: Source, record: &Record, now: Time) -> Track {
    let generation = offer.generation;
    let start = record.ledger.get(&generation).map_or(0, |entry| entry.last.start);
    let (pure, run) = match &offer.admission {
        Ok(pure) => (*pure, Run::Down),
        Err((reason, message)) => {
            (false, Run::Refused(Refused { reason: *reason, message: message.clone(), since: now }))
        }
    };
    Track { generation, source, pure, start, run, pairs: BTreeMap::new() }
}

/// The record without what is not stored.
fn as_stored(record: &Record) -> Record {
    let mut stored = record.clone();
    for track in stored.tracks_mut() {
        if let Run::Serving { good_since, slow } = &mut track.run {
            (*good_since, *slow) = (None, 0);
        }
    }
    stored
}

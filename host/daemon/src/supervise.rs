//! The plugins, as the loop has them: what happened to them goes into the machine of `supervision`, what that decides
//! is carried out by the registry, and who answers is told the fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use apgar_core::digest::{Digest, Generation};
use apgar_core::fleet::{Check, Input};
use apgar_core::node::NodeName;
use apgar_core::supervision::{
    self, Ask, Booked, Cause, Death, Decision, EventKind, Pair, PluginState, Policy, Record, Reload, Stage, Standing,
    Supervisor,
};
use apgar_core::time::Time;
use apgar_core::verdict::{CheckerKey, Unknown, UnknownCause, Verdict};
use apgar_engine::{DirectoryHandle, Engine, Finished, Job, Plugin, Registry, RegistryEvent};
use tokio::sync::oneshot;

use crate::events::Happened;
use crate::view;

/// The machine, and what it speaks of.
pub struct Plugins {
    supervisor: Supervisor,
    registry: Registry,
    engine: Engine,
    /// The plugin directory.
    pub directory: DirectoryHandle,
    /// What the operator decided about them.
    pub wishes: Wishes,
    /// What the next turn must hear.
    inbox: Vec<supervision::Input>,
    /// What happened outside the machine.
    happened: Vec<Happened>,
    /// Starts that came to life, as long as the machine counts on them.
    alive: BTreeMap<CheckerKey, BTreeMap<u64, Arc<Plugin>>>,
    /// Generations that answer no longer, while their last checks end.
    ending: Vec<Weak<Plugin>>,
    /// Plugins that the fleet has heard of.
    told: BTreeSet<CheckerKey>,
    /// The word for each, and since when.
    states: BTreeMap<CheckerKey, (PluginState, Time)>,
    usage: BTreeMap<CheckerKey, Usage>,
    /// Told once every bundled plugin serves or has been turned down.
    settled: Option<oneshot::Sender<()>>,
}

/// What an operator decided about plugins as a whole.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// Those built in.
    pub bundled: BTreeSet<CheckerKey>,
    /// Those without which the daemon is not ready.
    pub required: Vec<CheckerKey>,
    /// Those that somebody counts on: one of them that does not serve is unknown on every node. A file that nobody
    /// counted on and that never served changes nothing.
    pub expected: BTreeSet<CheckerKey>,
    /// How long the checks of a generation that answers no longer may take to end.
    pub drain_timeout: Duration,
}

/// What plugins are supervised with.
pub struct Supervised {
    /// What follows a crash.
    pub policy: Policy,
    /// What the operator decided.
    pub wishes: Wishes,
    /// What the store remembers.
    pub records: BTreeMap<CheckerKey, Record>,
    /// Records that could not be read.
    pub dropped: Vec<String>,
    /// Runs checks.
    pub engine: Engine,
    /// Carries decisions out.
    pub registry: Registry,
    /// The plugin directory.
    pub directory: DirectoryHandle,
    /// Told once every bundled plugin serves or has been turned down.
    pub settled: oneshot::Sender<()>,
}

/// What a plugin has used since the daemon began, all generations together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Checks that ended.
    pub calls: u64,
    /// Their guest time.
    pub guest_time: Duration,
    /// The most linear memory that one of them had, in bytes.
    pub peak_memory: u64,
}

/// A start that waits for its record to be stored.
#[derive(Debug)]
pub struct Start {
    name: CheckerKey,
    generation: Generation,
    number: u64,
}

/// What came of a turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// What the fleet must hear.
    pub inputs: Vec<Input>,
    /// What is to be started.
    pub starts: Vec<Start>,
    /// Records to be stored.
    pub writes: BTreeMap<CheckerKey, Record>,
    /// What happened.
    pub happened: Vec<Happened>,
    /// Each death, by what became of it.
    pub deaths: Vec<(CheckerKey, Cause, Booked)>,
    /// What newer files and configurations came to.
    pub reloads: Vec<(CheckerKey, Reload)>,
    /// Plugins that are gone, with their series.
    pub gone: Vec<CheckerKey>,
}

/// What comes of a check that is to be made.
#[derive(Debug)]
pub enum Asked {
    /// The engine makes it.
    Job(Job),
    /// It is not made, and this is its answer.
    Answer(Input),
    /// Nobody answers any more; the fleet hears of that apart.
    Nobody,
}

impl Plugins {
    /// Plugins of which nothing is known but what the store has.
    #[must_use]
    pub fn new(supervised: Supervised, now: Time) -> Self {
        let Supervised { policy, wishes, records, dropped, engine, registry, directory, settled } = supervised;
        // What served before is missed from the start: its verdicts are unknown, not forgotten.
        let served = records.iter().filter(|(_, record)| record.good.is_some()).map(|(name, _)| name.clone());
        let told = served.collect();
        let mut supervisor = Supervisor::new(policy);
        supervisor.restore(records, now);
        Self {
            supervisor,
            registry,
            engine,
            directory,
            wishes,
            inbox: Vec::new(),
            happened: dropped.into_iter().map(dropped_record).collect(),
            alive: BTreeMap::new(),
            ending: Vec::new(),
            told,
            states: BTreeMap::new(),
            usage: BTreeMap::new(),
            settled: Some(settled),
        }
    }

    /// Takes in what the registry says.
    pub fn hear(&mut self, event: RegistryEvent, now: Time) {
        use supervision::Input;
        match event {
            RegistryEvent::Offered { name, source: supervision::Source::Bundled, offer } => {
                self.inbox.push(Input::Bundled(name, offer));
            }
            RegistryEvent::Offered { name, source: supervision::Source::Directory, offer } => {
                self.inbox.push(Input::File(name, offer));
            }
            RegistryEvent::Unchanged { name } => self.inbox.push(Input::Unchanged(name)),
            RegistryEvent::Removed { name } => {
                if !self.wishes.bundled.contains(&name) {
                    self.registry.forget(&name);
                }
                self.inbox.push(Input::FileRemoved(name));
            }
            RegistryEvent::Started { plugin } => {
                let (name, start) = (plugin.key().clone(), plugin.start());
                self.alive.entry(name.clone()).or_default().insert(start, plugin);
                self.inbox.push(Input::Started(name, start));
            }
            RegistryEvent::Died { name, start, death } => {
                self.inbox.push(Input::Died(name, booked(death, start, None, now), None));
            }
            RegistryEvent::Rejected { name, generation, refusal } => {
                self.inbox.push(Input::Rejected(name, generation, refusal.reason, refusal.message));
            }
            RegistryEvent::Fault { name, start, generation, what } => {
                // Held against nobody, but tried again after a wait like any start that failed.
                self.happened.push(Happened {
                    generation: Some(generation),
                    ..Happened::to(&name, EventKind::EngineFault, what.clone())
                });
                let death = Death {
                    start,
                    cause: Cause::HostStarved,
                    stage: Stage::Load,
                    detail: format!("engine fault: {what}"),
                    node: None,
                    at: now,
                };
                self.inbox.push(Input::Died(name, death, None));
            }
            RegistryEvent::NotStored { name, generation, why } => {
                self.happened.push(Happened {
                    generation: Some(generation),
                    ..Happened::to(&name, EventKind::StoreUnavailable, why)
                });
            }
            RegistryEvent::Odd { refusal, .. } => {
                self.happened.push(Happened::of(EventKind::PluginRefused, refusal.message));
            }
            RegistryEvent::DirectoryLost { message } => {
                let message = format!("the plugin directory cannot be read, all serve on: {message}");
                self.happened.push(Happened::of(EventKind::DirectoryLost, message));
            }
            RegistryEvent::DirectoryEmptied { had } => {
                let message = format!("the plugin directory is suddenly empty, its {had} plugins serve on");
                self.happened.push(Happened::of(EventKind::DirectoryEmptied, message));
            }
            RegistryEvent::DirectoryBack => {
                let message = "the plugin directory is as it should be again".to_owned();
                self.happened.push(Happened::of(EventKind::DirectoryBack, message));
            }
        }
    }

    /// Takes in how a check of a node ended, which is there yet or gone.
    pub fn judged(&mut self, done: &Finished, is_there: bool, now: Time) {
        let (name, start, node) = (done.plugin.key(), done.plugin.start(), &done.node.name);
        if self.told.contains(name) {
            let usage = self.usage.entry(name.clone()).or_default();
            usage.calls += 1;
            usage.guest_time += done.result.guest_time;
            usage.peak_memory = usage.peak_memory.max(done.result.peak_memory);
        }
        if let Some(what) = &done.result.fault {
            self.happened.push(Happened {
                generation: Some(*done.plugin.generation()),
                node: Some(node.clone()),
                ..Happened::to(name, EventKind::EngineFault, what.clone())
            });
            return;
        }
        self.inbox.push(match done.result.death.clone() {
            Some(death) if !is_there => supervision::Input::DiedAtGone(name.clone(), death.cause),
            Some(death) => {
                let death = booked(death, start, Some(node.clone()), now);
                supervision::Input::Died(name.clone(), death, Some(Digest::of_content(&done.node, done.pods.as_ref())))
            }
            None => supervision::Input::Completed(name.clone(), start, node.clone(), done.result.slow),
        });
    }

    /// A node is gone, with everything held against it.
    pub fn node_gone(&mut self, node: &NodeName) {
        self.engine.forget_node(node);
        self.inbox.push(supervision::Input::NodeGone(node.clone()));
    }

    /// These are all nodes.
    pub fn nodes(&mut self, nodes: BTreeSet<NodeName>) {
        self.inbox.push(supervision::Input::Nodes(nodes));
    }

    /// The operator decided otherwise.
    pub fn configure(&mut self, policy: Policy, wishes: Wishes) {
        self.wishes = wishes;
        self.inbox.push(supervision::Input::Policy(policy));
    }

    /// The daemon stops as it should.
    pub fn shut_down(&mut self) {
        self.inbox.push(supervision::Input::Shutdown);
    }

    /// A turn of the machine: what it decides is carried out, but for the starts, whose records come first.
    /// `nodes` is how many nodes there are.
    pub fn turn(&mut self, nodes: usize, now: Time) -> Turn {
        let decided = self.supervisor.turn(std::mem::take(&mut self.inbox), nodes, now);
        let supervision::Turn { decisions, events, deaths, reloads, writes } = decided;
        let mut turn = Turn { writes, deaths, reloads, ..Turn::default() };
        turn.happened = std::mem::take(&mut self.happened);
        turn.happened.extend(events.into_iter().map(Happened::from));
        for decision in decisions {
            match decision {
                Decision::Start(name, generation, number) => turn.starts.push(Start { name, generation, number }),
                Decision::Stop(name, start) => self.registry.give_up(&name, start),
                Decision::Keep(name, generation) => self.registry.keep(&name, &generation),
                Decision::Answers(name, start) => {
                    let starts = self.alive.entry(name.clone()).or_default();
                    for (_, other) in starts.iter().filter(|(number, _)| **number != start) {
                        // It may be the fallback: what it is asked later is not affected.
                        other.drain(self.wishes.drain_timeout);
                    }
                    if let Some(plugin) = starts.get(&start) {
                        turn.inputs.push(Input::CheckerServes(view::checker(plugin)));
                        self.told.insert(name);
                    }
                }
                Decision::Silent(name) => {
                    if self.wishes.expected.contains(&name) || self.told.contains(&name) {
                        self.told.insert(name.clone());
                        turn.inputs.push(Input::CheckerStopped(name));
                    }
                }
                Decision::Gone(name) => {
                    self.told.remove(&name);
                    self.usage.remove(&name);
                    self.engine.forget_plugin(&name);
                    turn.inputs.push(Input::CheckerRemoved(name.clone()));
                    turn.gone.push(name);
                }
            }
        }
        self.bury();
        self.note_states(now);
        if self.settled.is_some()
            && self.is_settled()
            && let Some(settled) = self.settled.take()
        {
            // Nobody waits if the daemon is stopping already.
            let _stopping: Result<(), ()> = settled.send(());
        }
        turn
    }

    /// Lets go of every start that the machine does not count on any more: its checks under way may end.
    fn bury(&mut self) {
        let (supervisor, ending, within) = (&self.supervisor, &mut self.ending, self.wishes.drain_timeout);
        ending.retain(|plugin| plugin.strong_count() > 0);
        for (name, starts) in &mut self.alive {
            let record = supervisor.record(name);
            starts.retain(|start, plugin| {
                let serves = record.is_some_and(|record| record.serves(*start));
                if !serves {
                    plugin.drain(within);
                    ending.push(Arc::downgrade(plugin));
                }
                serves
            });
        }
        self.alive.retain(|_, starts| !starts.is_empty());
    }

    fn note_states(&mut self, now: Time) {
        let (supervisor, states) = (&self.supervisor, &mut self.states);
        states.retain(|name, _| supervisor.record(name).is_some_and(|record| record.tracks().next().is_some()));
        for (name, _) in supervisor.plugins() {
            let Some(state) = supervisor.state(name, now) else {
                continue;
            };
            match states.get_mut(name) {
                Some((known, since)) if *known != state => (*known, *since) = (state, now),
                Some(_) => {}
                None => _ = states.insert(name.clone(), (state, now)),
            }
        }
    }

    fn is_settled(&self) -> bool {
        let settled = |name| self.states.get(name).is_some_and(|(state, _)| *state != PluginState::Loading);
        self.wishes.bundled.iter().all(settled)
    }

    /// Carries a start out. `stored` says whether its record is on disk; none if there is no disk to have it.
    pub fn start(&self, start: Start, stored: Option<oneshot::Receiver<bool>>) {
        self.registry.start(start.name, start.generation, start.number, stored);
    }

    /// When a turn without news decides something.
    #[must_use]
    pub fn next_deadline(&self, now: Time) -> Option<Time> {
        self.supervisor.next_deadline(now)
    }

    /// Who makes a check.
    pub fn ask(&mut self, check: Check, now: Time) -> Asked {
        let Check { id, node, pods, checker } = check;
        let reads_pods = self.answering(&checker).is_some_and(|plugin| plugin.inputs().has_pods());
        let content = || (!reads_pods || pods.is_some()).then(|| Digest::of_content(&node, pods.as_ref()));
        match self.supervisor.ask(&checker, &node.name, content, now) {
            Ask::Start(start) => {
                let plugin = self.alive.get(&checker).and_then(|starts| starts.get(&start)).cloned();
                plugin.map_or(Asked::Nobody, |plugin| Asked::Job(Job { id, plugin, node, pods }))
            }
            Ask::Held(pair) => Asked::Answer(Input::Judged {
                check: id,
                node: node.name.clone(),
                checker,
                verdict: held(&pair),
                // Until the content changes the answer is the same; a wait that ends is looked at each tick.
                remember: pair.until.is_none(),
            }),
            Ask::Nobody => Asked::Nobody,
        }
    }

    /// Whether the result of a check counts.
    #[must_use]
    pub fn standing(&self, done: &Finished) -> Standing {
        self.supervisor.standing(done.plugin.key(), done.plugin.start())
    }

    /// Who answers under a name.
    #[must_use]
    pub fn answering(&self, name: &CheckerKey) -> Option<&Arc<Plugin>> {
        let start = self.supervisor.record(name)?.answering()?.start;
        self.alive.get(name)?.get(&start)
    }

    /// What the machine knows of all plugins.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Where they come from.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A start that is alive.
    #[must_use]
    pub fn alive(&self, name: &CheckerKey, start: u64) -> Option<&Arc<Plugin>> {
        self.alive.get(name)?.get(&start)
    }

    /// Whether a start is alive that reads pods.
    #[must_use]
    pub fn read_pods(&self) -> bool {
        self.alive.values().flat_map(BTreeMap::values).any(|plugin| plugin.inputs().has_pods())
    }

    /// Since when a plugin is in its state.
    #[must_use]
    pub fn since(&self, name: &CheckerKey) -> Option<Time> {
        self.states.get(name).map(|(_, since)| *since)
    }

    /// What a plugin has used.
    #[must_use]
    pub fn usage(&self, name: &CheckerKey) -> Usage {
        self.usage.get(name).copied().unwrap_or_default()
    }

    /// Whether there is such a plugin.
    #[must_use]
    pub fn is_known(&self, name: &CheckerKey) -> bool {
        self.states.contains_key(name)
    }

    /// Whether the fleet knows the plugin, so that its series may exist.
    #[must_use]
    pub fn is_told(&self, name: &CheckerKey) -> bool {
        self.told.contains(name)
    }

    /// Generations of a name that answer no longer, while their last checks end.
    pub fn ending(&self, name: &CheckerKey) -> impl Iterator<Item = Arc<Plugin>> {
        self.ending.iter().filter_map(Weak::upgrade).filter(move |plugin| plugin.key() == name)
    }

    /// What keeps the daemon from being ready for want of checkers (`supervision` 4.10).
    #[must_use]
    pub fn unready(&self) -> Vec<String> {
        let required = self.wishes.required.iter().filter(|name| self.answering(name).is_none());
        let mut reasons: Vec<String> =
            required.map(|name| format!("the required checker {} does not serve", name.as_str())).collect();
        let enabled = self.supervisor.plugins().any(|(name, _)| self.supervisor.policy(name).enabled);
        if self.alive.is_empty() && (enabled || self.settled.is_some()) {
            reasons.push("no checker serves".to_owned());
        }
        reasons
    }
}

fn dropped_record(what: String) -> Happened {
    Happened::of(EventKind::StoreRecordDropped, format!("a stored record cannot be read and was dropped: {what}"))
}

/// A death as the ledger keeps it.
fn booked(death: apgar_engine::Death, start: u64, node: Option<NodeName>, at: Time) -> Death {
    let apgar_engine::Death { cause, stage, detail } = death;
    Death { start, cause, stage, detail, node, at }
}

/// The answer for a node that is not asked about (`supervision` 4.4).
fn held(pair: &Pair) -> Verdict {
    let until = if pair.until.is_some() { "its wait is over" } else { "it changes" };
    let detail = format!("{}: {}; not asked again until {until}", pair.last.cause, pair.last.detail);
    Verdict::Unknown(Unknown { cause: UnknownCause::Crashed, detail: Arc::from(detail) })
}

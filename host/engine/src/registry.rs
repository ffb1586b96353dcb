//! Who serves. It loads aside, swaps between two checks, and keeps what served before whenever something newer is
//! not good enough. Waits, ledger and rollback are not decided here: it reports, and does what it is told.
//!
//! Under one name one thing happens at a time; a name whose file takes long to compile or to start holds up no other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use apgar_core::time::Time;
use apgar_core::verdict::CheckerKey;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::death::{Death, LoadError, Refusal, RefusalReason};
use crate::directory::DirectoryEvent;
use crate::engine::{Candidate, Engine};
use crate::limits::{Limits, Profile};
use crate::plugin::{Description, Digest, Generation, Grants, Plugin, Source, generation_of, short};

/// Reads the clock: the registry stamps what it shows and decides nothing by it.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// A plugin that is built into the daemon.
#[derive(Debug, Clone)]
pub struct Bundled {
    /// Its name.
    pub key: CheckerKey,
    /// The component.
    pub bytes: Arc<[u8]>,
}

/// A plugin's table of the configuration, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// False: nothing of that name serves.
    pub enabled: bool,
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
            enabled: true,
            profile: Profile::Native,
            limits: Limits::of(Profile::Native),
            grants: Grants::new(),
            settings: serde_json::json!({}),
        }
    }
}

/// What a registry is made of.
pub struct RegistryOptions {
    /// Where plugins are loaded.
    pub engine: Engine,
    /// Those built in.
    pub bundled: Vec<Bundled>,
    /// Tables of the configuration, by name.
    pub plugins: BTreeMap<CheckerKey, PluginConfig>,
    /// What holds for a plugin without a table.
    pub defaults: PluginConfig,
    /// For `since`.
    pub clock: Clock,
}

/// What changed.
#[derive(Debug, Clone)]
pub enum RegistryEvent {
    /// From now on this generation answers. Checks under way keep the one they began with.
    Serves {
        /// It.
        plugin: Arc<Plugin>,
        /// What answered until now.
        replaces: Option<Generation>,
    },
    /// Nothing of that name answers any more, because it was disabled.
    Stopped {
        /// Which.
        name: CheckerKey,
    },
    /// There is no plugin of that name any more: its verdicts and series go.
    Removed {
        /// Which.
        name: CheckerKey,
    },
    /// Something newer is not good enough.
    Refused {
        /// Which.
        name: CheckerKey,
        /// The refusal, or the death with its cause and stage.
        error: LoadError,
        /// The same in words.
        message: String,
        /// True if the generation before it answers on.
        still_serving: bool,
    },
    /// The directory cannot be listed; everything serves on.
    DirectoryLost {
        /// Why.
        message: String,
    },
    /// The directory is suddenly empty; everything serves on.
    DirectoryEmptied {
        /// How many plugins it had.
        had: usize,
    },
    /// The directory is as it should be again.
    DirectoryBack,
}

/// The word for a plugin as a whole (`supervision` 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PluginState {
    /// Switched off.
    Stopped,
    /// It answers, whatever a newer file does.
    Running,
    /// It is being started, and nothing answers yet.
    Loading,
    /// Its start died, and nothing answers.
    Crashed,
    /// It is not acceptable, and nothing answers.
    Refused,
}

/// Why something newer does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What ended it.
    pub error: LoadError,
    /// Of what, if it was read.
    pub digest: Option<Digest>,
    /// Since when.
    pub since: Time,
}

impl Failure {
    /// In words.
    #[must_use]
    pub fn message(&self) -> String {
        message(&self.error)
    }

    fn is_death(&self) -> bool {
        matches!(self.error, LoadError::Death(_))
    }
}

/// A refusal's reason is shown beside its message, so the message alone says it.
fn message(error: &LoadError) -> String {
    match error {
        LoadError::Refusal(refusal) => refusal.message.clone(),
        LoadError::Death(death) => death.to_string(),
        LoadError::Engine(_) => error.to_string(),
    }
}

/// A failure as the API has it: a refusal and the marker of a death are two fields of the plugin.
fn shown_failure<S: serde::Serializer>(failure: &Option<Failure>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct ShownRefusal<'a> {
        #[serde(flatten)]
        refusal: &'a Refusal,
        digest: Option<Digest>,
        since: Time,
    }
    #[derive(Serialize)]
    struct Marker<'a> {
        #[serde(flatten)]
        death: &'a Death,
        digest: Option<Digest>,
        at: Time,
    }
    #[derive(Default, Serialize)]
    struct Shown<'a> {
        refusal: Option<ShownRefusal<'a>>,
        marker: Option<Marker<'a>>,
        fault: Option<&'a str>,
    }
    let shown = match failure {
        None => Shown::default(),
        Some(Failure { error, digest, since }) => match error {
            LoadError::Refusal(refusal) => {
                let refusal = Some(ShownRefusal { refusal, digest: *digest, since: *since });
                Shown { refusal, ..Shown::default() }
            }
            LoadError::Death(death) => {
                let marker = Some(Marker { death, digest: *digest, at: *since });
                Shown { marker, ..Shown::default() }
            }
            LoadError::Engine(what) => Shown { fault: Some(what), ..Shown::default() },
        },
    };
    shown.serialize(serializer)
}

/// A plugin, for the API and `plugin inspect`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginStatus {
    /// Its name.
    pub name: CheckerKey,
    /// Where what answers comes from; without that, what would.
    pub source: Source,
    /// The word for it.
    pub state: PluginState,
    /// Since when it is in that state.
    pub since: Time,
    /// What answers.
    #[serde(flatten)]
    pub serving: Option<Serving>,
    /// Why something newer does not.
    #[serde(flatten, serialize_with = "shown_failure")]
    pub failure: Option<Failure>,
    /// The profile its limits come from.
    pub profile: Profile,
    /// What it may use.
    pub limits: Limits,
    /// What it may import beyond node and log.
    pub grants: Grants,
}

/// The generation that answers.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Serving {
    /// It.
    #[serde(serialize_with = "short")]
    pub generation: Generation,
    /// Of its bytes.
    pub digest: Digest,
    /// Its own version.
    pub version: String,
    /// What it says it is.
    pub description: Description,
    /// The size of the component in bytes.
    pub size: u64,
    /// The size of its compiled code in bytes.
    pub compiled_size: u64,
    /// How long compiling took, in milliseconds; 0 from the cache.
    pub compile_ms: u64,
    /// True if its code came from the cache.
    pub cached: bool,
    /// What it imports.
    pub imports: Vec<String>,
    /// True if its verdicts are remembered.
    pub pure: bool,
    /// True if it takes settings.
    pub takes_settings: bool,
}

impl Serving {
    /// What there is to say about a plugin.
    #[must_use]
    pub fn of(plugin: &Plugin) -> Self {
        let compiled = plugin.compiled();
        Self {
            generation: *plugin.generation(),
            digest: plugin.digest(),
            version: plugin.description().version.clone(),
            description: plugin.description().clone(),
            size: plugin.size(),
            compiled_size: compiled.size,
            compile_ms: u64::try_from(compiled.took.as_millis()).unwrap_or(u64::MAX),
            cached: compiled.cached,
            imports: plugin.imports().to_vec(),
            pure: plugin.pure(),
            takes_settings: plugin.takes_settings(),
        }
    }
}

/// The registry. Cheap to clone: all clones are the same one.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    clock: Clock,
    events: mpsc::Sender<RegistryEvent>,
    /// Under one name one change at a time: nothing else loads or unloads.
    changing: Mutex<BTreeMap<CheckerKey, Arc<tokio::sync::Mutex<()>>>>,
    /// Never held while anything waits.
    state: Mutex<State>,
}

struct State {
    configs: BTreeMap<CheckerKey, PluginConfig>,
    defaults: PluginConfig,
    slots: BTreeMap<CheckerKey, Slot>,
}

impl State {
    fn config(&self, name: &CheckerKey) -> PluginConfig {
        self.configs.get(name).unwrap_or(&self.defaults).clone()
    }
}

#[derive(Clone)]
struct Bytes {
    bytes: Arc<[u8]>,
    digest: Digest,
    source: Source,
}

/// What is known under one name.
struct Slot {
    bundled: Option<Bytes>,
    file: Option<Bytes>,
    serving: Option<Arc<Plugin>>,
    /// The bundled generation while a file overrides it, so that it is back at once.
    benched: Option<Arc<Plugin>>,
    failure: Option<Failure>,
    /// What failed: it is not tried again until something changes or somebody asks.
    failed: Option<Generation>,
    loading: bool,
    enabled: bool,
    since: Time,
}

impl Slot {
    fn new(since: Time) -> Self {
        Self {
            bundled: None,
            file: None,
            serving: None,
            benched: None,
            failure: None,
            failed: None,
            loading: false,
            enabled: true,
            since,
        }
    }

    /// What is asked for: the directory's file, else what is built in.
    fn wanted(&self) -> Option<&Bytes> {
        self.file.as_ref().or(self.bundled.as_ref())
    }

    fn state(&self) -> PluginState {
        match (&self.serving, &self.failure) {
            _ if !self.enabled => PluginState::Stopped,
            (Some(_), _) => PluginState::Running,
            _ if self.loading => PluginState::Loading,
            (None, Some(failure)) => match failure.error {
                LoadError::Refusal(_) => PluginState::Refused,
                LoadError::Death(_) | LoadError::Engine(_) => PluginState::Crashed,
            },
            (None, None) => PluginState::Loading,
        }
    }

    /// What it takes until `generation` serves.
    fn next(&mut self, now: Time, generation: &Generation, source: Source, effort: Effort) -> Next {
        let is_it = |plugin: &Arc<Plugin>| plugin.generation() == generation && plugin.source() == source;
        if self.serving.as_ref().is_some_and(is_it) {
            self.overcome();
            return Next::Nothing { served: true };
        }
        let died = self.failure.as_ref().is_some_and(Failure::is_death);
        if self.failed.as_ref() == Some(generation) && !(died && effort == Effort::AlsoDead) {
            return Next::Nothing { served: false };
        }
        match self.benched.take_if(|plugin| is_it(plugin)) {
            Some(plugin) => Next::Swap(plugin),
            None => {
                self.settle(now, |slot| slot.loading = true);
                Next::Load
            }
        }
    }

    /// Puts `plugin` in the place of what answers now, which is returned.
    fn swap(&mut self, now: Time, plugin: Arc<Plugin>) -> Option<Generation> {
        let mut before = None;
        self.settle(now, |slot| {
            slot.loading = false;
            slot.overcome();
            before = slot.serving.replace(plugin);
        });
        let replaces = before.as_ref().map(|plugin| *plugin.generation());
        let overridden = self.file.is_some() && before.as_ref().is_some_and(|b| b.source() == Source::Bundled);
        if overridden {
            self.benched = before;
        }
        replaces
    }

    /// What is asked for serves: failures of other bytes and settings are over. One that is about a file nobody
    /// could read is not.
    fn overcome(&mut self) {
        self.failure.take_if(|failure| failure.digest.is_some());
        self.failed = None;
    }

    fn settle(&mut self, now: Time, change: impl FnOnce(&mut Self)) {
        let before = self.state();
        change(self);
        if self.state() != before {
            self.since = now;
        }
    }
}

/// The step that is next.
enum Next {
    /// There is nothing to do, or it was tried before.
    Nothing { served: bool },
    /// It is at hand.
    Swap(Arc<Plugin>),
    /// It must be loaded.
    Load,
}

/// How far a change goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// What failed before is left alone.
    OnlyNew,
    /// What died before is tried once more.
    AlsoDead,
}

impl Registry {
    /// A registry in which nothing serves yet. What changes is sent to `events`.
    #[must_use]
    pub fn new(options: RegistryOptions, events: mpsc::Sender<RegistryEvent>) -> Self {
        let RegistryOptions { engine, bundled, plugins, defaults, clock } = options;
        let now = clock();
        let mut slots = BTreeMap::new();
        for Bundled { key, bytes } in bundled {
            let digest = Digest::of(&bytes);
            let mut slot = Slot::new(now);
            slot.bundled = Some(Bytes { bytes, digest, source: Source::Bundled });
            slots.insert(key, slot);
        }
        let state = Mutex::new(State { configs: plugins, defaults, slots });
        Self { inner: Arc::new(Inner { engine, clock, events, changing: Mutex::default(), state }) }
    }

    /// Loads what is built in. Before it, only files of the directory serve.
    pub async fn start(&self) {
        self.inner.reconcile_all().await;
    }

    /// Takes in what the directory found. Returns when it is done with: loaded and swapped in, or turned down.
    pub async fn apply(&self, event: DirectoryEvent) {
        let inner = &self.inner;
        let _alone = match subject(&event) {
            Some(name) => Some(inner.alone(name).await),
            None => None,
        };
        match event {
            DirectoryEvent::Found { name, bytes, digest, .. } => {
                inner.with(&name, |slot, now| {
                    slot.file = Some(Bytes { bytes, digest, source: Source::Directory });
                    // It could be read, so whatever kept it from being read is over.
                    slot.settle(now, |slot| _ = slot.failure.take_if(|failure| failure.digest.is_none()));
                });
                inner.reconcile(&name, Effort::OnlyNew).await;
            }
            DirectoryEvent::Removed { name } => {
                let known = inner.with(&name, |slot, now| {
                    slot.settle(now, |slot| {
                        slot.file = None;
                        slot.failure = None;
                        slot.failed = None;
                    });
                    slot.bundled.is_some()
                });
                if known {
                    // The override answers until the bundled one is ready.
                    inner.reconcile(&name, Effort::OnlyNew).await;
                } else {
                    crate::lock(&inner.state).slots.remove(&name);
                    inner.tell(RegistryEvent::Removed { name }).await;
                }
            }
            DirectoryEvent::Refused { name, refusal } => {
                // These two are shown with the directory: there is no plugin to show them with.
                let beside = matches!(refusal.reason, RefusalReason::BadName | RefusalReason::TooMany);
                let still_serving = if beside {
                    inner.is_serving(&name)
                } else {
                    inner.fail(&name, None, None, &refusal.clone().into())
                };
                let error = LoadError::from(refusal);
                let message = message(&error);
                inner.tell(RegistryEvent::Refused { name, error, message, still_serving }).await;
            }
            DirectoryEvent::Lost { message } => inner.tell(RegistryEvent::DirectoryLost { message }).await,
            DirectoryEvent::Emptied { had } => inner.tell(RegistryEvent::DirectoryEmptied { had }).await,
            DirectoryEvent::Back => inner.tell(RegistryEvent::DirectoryBack).await,
        }
    }

    /// Applies what the directory finds until it ends, the events of one name in their order.
    pub async fn run(&self, mut found: mpsc::Receiver<DirectoryEvent>) {
        let mut busy: BTreeMap<CheckerKey, VecDeque<DirectoryEvent>> = BTreeMap::new();
        let mut running = FuturesUnordered::new();
        let work = async |name: CheckerKey, event| {
            self.apply(event).await;
            name
        };
        let mut open = true;
        while open || !running.is_empty() {
            tokio::select! {
                event = found.recv(), if open => match event {
                    None => open = false,
                    Some(event) => match subject(&event).cloned() {
                        None => self.apply(event).await,
                        Some(name) => match busy.get_mut(&name) {
                            Some(waiting) => supersede(waiting, event),
                            None => {
                                busy.insert(name.clone(), VecDeque::new());
                                running.push(work(name, event));
                            }
                        },
                    },
                },
                Some(name) = running.next(), if !running.is_empty() => {
                    match busy.get_mut(&name).and_then(VecDeque::pop_front) {
                        Some(event) => running.push(work(name, event)),
                        None => {
                            busy.remove(&name);
                        }
                    }
                }
            }
        }
    }

    /// Takes in another configuration. Only plugins whose generation or switch changes are touched.
    pub async fn configure(&self, plugins: BTreeMap<CheckerKey, PluginConfig>) {
        crate::lock(&self.inner.state).configs = plugins;
        self.inner.reconcile_all().await;
    }

    /// Tries again what died. What was refused stays refused until something changes.
    pub async fn retry(&self, name: &CheckerKey) {
        let _alone = self.inner.alone(name).await;
        if self.inner.names().contains(name) {
            self.inner.reconcile(name, Effort::AlsoDead).await;
        }
    }

    /// All that answer, by name.
    #[must_use]
    pub fn serving(&self) -> Vec<Arc<Plugin>> {
        crate::lock(&self.inner.state).slots.values().filter_map(|slot| slot.serving.clone()).collect()
    }

    /// Who answers under that name.
    #[must_use]
    pub fn get(&self, name: &CheckerKey) -> Option<Arc<Plugin>> {
        crate::lock(&self.inner.state).slots.get(name)?.serving.clone()
    }

    /// All plugins, by name.
    #[must_use]
    pub fn statuses(&self) -> Vec<PluginStatus> {
        let state = crate::lock(&self.inner.state);
        let status = |(name, slot): (&CheckerKey, &Slot)| {
            let PluginConfig { profile, limits, grants, .. } = state.config(name);
            let answers = slot.serving.as_ref().map(|plugin| plugin.source());
            let source = answers.or(slot.wanted().map(|bytes| bytes.source)).unwrap_or(Source::Directory);
            let serving = slot.serving.as_deref().map(Serving::of);
            let (name, failure) = (name.clone(), slot.failure.clone());
            PluginStatus {
                name,
                source,
                state: slot.state(),
                since: slot.since,
                serving,
                failure,
                profile,
                limits,
                grants,
            }
        };
        state.slots.iter().map(status).collect()
    }
}

impl Inner {
    fn is_serving(&self, name: &CheckerKey) -> bool {
        crate::lock(&self.state).slots.get(name).is_some_and(|slot| slot.serving.is_some())
    }

    fn names(&self) -> Vec<CheckerKey> {
        crate::lock(&self.state).slots.keys().cloned().collect()
    }

    /// Waits until nothing else happens under that name.
    async fn alone(&self, name: &CheckerKey) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut changing = crate::lock(&self.changing);
            // Names come and go: those nobody holds or waits for are dropped.
            changing.retain(|known, lock| known == name || Arc::strong_count(lock) > 1);
            changing.entry(name.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }

    async fn reconcile_all(&self) {
        for name in self.names() {
            let _alone = self.alone(&name).await;
            self.reconcile(&name, Effort::OnlyNew).await;
        }
    }

    fn with<T>(&self, name: &CheckerKey, change: impl FnOnce(&mut Slot, Time) -> T) -> T {
        let now = (self.clock)();
        let mut state = crate::lock(&self.state);
        change(state.slots.entry(name.clone()).or_insert_with(|| Slot::new(now)), now)
    }

    async fn tell(&self, event: RegistryEvent) {
        if self.events.send(event).await.is_err() {
            tracing::debug!("nobody listens to the plugin registry any more");
        }
    }

    /// Brings what serves under a name in line with what is asked for.
    async fn reconcile(&self, name: &CheckerKey, effort: Effort) {
        let config = crate::lock(&self.state).config(name);
        if !config.enabled {
            let stopped = self.with(name, |slot, now| {
                slot.benched = None;
                let stopped = slot.serving.take().is_some();
                slot.settle(now, |slot| slot.enabled = false);
                stopped
            });
            if stopped {
                self.tell(RegistryEvent::Stopped { name: name.clone() }).await;
            }
            return;
        }
        let wanted = self.with(name, |slot, now| {
            slot.settle(now, |slot| slot.enabled = true);
            slot.wanted().cloned()
        });
        let Some(wanted) = wanted else { return };
        if self.bring(name, &wanted, &config, effort).await {
            return;
        }
        // A bad override of a bundled plugin that never served: what is built in answers, and the failure shows.
        let fallback = self.with(name, |slot, _| slot.bundled.clone().filter(|_| slot.serving.is_none()));
        if let Some(bundled) = fallback.filter(|bundled| bundled.source != wanted.source) {
            let failure = self.with(name, |slot, _| (slot.failure.clone(), slot.failed));
            if self.bring(name, &bundled, &config, effort).await {
                self.with(name, |slot, _| (slot.failure, slot.failed) = failure);
            }
        }
    }

    /// Makes these bytes serve, if they do not yet. False if nothing came of it.
    async fn bring(&self, name: &CheckerKey, wanted: &Bytes, config: &PluginConfig, effort: Effort) -> bool {
        let generation = generation_of(wanted.digest, &config.settings, &config.limits, &config.grants);
        let next = self.with(name, |slot, now| slot.next(now, &generation, wanted.source, effort));
        let loaded = match next {
            Next::Nothing { served } => return served,
            Next::Swap(plugin) => Ok(plugin),
            Next::Load => self.engine.load(candidate(name, wanted, config)).await,
        };
        match loaded {
            Ok(plugin) => {
                let replaces = self.with(name, |slot, now| slot.swap(now, plugin.clone()));
                self.tell(RegistryEvent::Serves { plugin, replaces }).await;
                true
            }
            Err(error) => {
                let still_serving = self.fail(name, Some(wanted.digest), Some(generation), &error);
                let message = message(&error);
                let name = name.clone();
                self.tell(RegistryEvent::Refused { name, error, message, still_serving }).await;
                false
            }
        }
    }

    /// Keeps why something newer does not serve. True if what served before does so still.
    fn fail(&self, name: &CheckerKey, digest: Option<Digest>, failed: Option<Generation>, error: &LoadError) -> bool {
        // A fault of ours is held against nobody: the same bytes may be tried again at the next occasion.
        let failed = failed.filter(|_| !matches!(error, LoadError::Engine(_)));
        self.with(name, |slot, now| {
            slot.settle(now, |slot| {
                slot.loading = false;
                slot.failure = Some(Failure { error: error.clone(), digest, since: now });
                slot.failed = failed;
            });
            slot.serving.is_some()
        })
    }
}

/// The name an event is about, if it is about one.
fn subject(event: &DirectoryEvent) -> Option<&CheckerKey> {
    match event {
        DirectoryEvent::Found { name, .. }
        | DirectoryEvent::Removed { name }
        | DirectoryEvent::Refused { name, .. } => Some(name),
        DirectoryEvent::Lost { .. } | DirectoryEvent::Emptied { .. } | DirectoryEvent::Back => None,
    }
}

/// Lets an event wait for its turn. What was found before something newer is not worth loading any more, so at most
/// two wait: what is there now, and why it is not acceptable.
fn supersede(waiting: &mut VecDeque<DirectoryEvent>, event: DirectoryEvent) {
    if matches!(event, DirectoryEvent::Refused { .. }) {
        waiting.retain(|waiting| !matches!(waiting, DirectoryEvent::Refused { .. }));
    } else {
        waiting.clear();
    }
    waiting.push_back(event);
}

fn candidate(name: &CheckerKey, wanted: &Bytes, config: &PluginConfig) -> Candidate {
    Candidate {
        key: name.clone(),
        bytes: wanted.bytes.clone(),
        settings: config.settings.clone(),
        grants: config.grants.clone(),
        limits: config.limits.clone(),
        source: wanted.source,
    }
}

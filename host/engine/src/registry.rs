//! Brings generations to life and keeps what they are made of. What is offered under a name is admitted here; what is
//! started, who answers and what follows from a death is decided elsewhere (`supervision`): it reports, and does what
//! it is told.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apgar_core::supervision::Offer;
use apgar_core::verdict::CheckerKey;
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::admission;
use crate::death::{Death, LoadError, Refusal, RefusalReason};
use crate::directory::DirectoryEvent;
use crate::engine::{Candidate, Engine};
use crate::load::sound;
use crate::plugin::{Digest, Generation, Plugin, PluginConfig, Source};
use crate::shelf::{Bytes, Kept};
use crate::signature::PublicKey;

/// How long a start waits for its record to be on disk (`supervision` 4.5). Then it goes on: a checker that serves
/// protects more than a count that survives.
const STORED_WITHIN: Duration = Duration::from_secs(5);

/// Configurations that wait: a file is changed by hand.
const RECONFIGURING: usize = 1;

/// When what nothing names is first removed from the disk: not while a start still looks for its bytes.
const FIRST_TIDY: Duration = Duration::from_secs(60 * 60);

/// And how often after that.
const TIDY_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// A plugin that is built into the daemon.
#[derive(Debug, Clone)]
pub struct Bundled {
    /// Its name.
    pub key: CheckerKey,
    /// The component.
    pub bytes: Arc<[u8]>,
}

/// What a registry is made of.
pub struct RegistryOptions {
    /// Where plugins are loaded.
    pub engine: Engine,
    /// Those built in.
    pub bundled: Vec<Bundled>,
    /// What may change while it runs.
    pub configuration: Configuration,
}

/// The part of the configuration that a registry reads.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    /// Tables of plugins, by name.
    pub plugins: BTreeMap<CheckerKey, PluginConfig>,
    /// What holds for a plugin without a table.
    pub defaults: PluginConfig,
    /// Every file of the directory needs a signature by one of them. Empty: none needs any.
    pub trusted_keys: Arc<[PublicKey]>,
}

impl Configuration {
    /// What holds for this plugin.
    #[must_use]
    pub fn of(&self, name: &CheckerKey) -> &PluginConfig {
        self.plugins.get(name).unwrap_or(&self.defaults)
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub enum RegistryEvent {
    /// What there is under a name from now on, built in or in the directory.
    Offered {
        /// The name.
        name: CheckerKey,
        /// Where.
        source: Source,
        /// What, and whether it may be started.
        offer: Offer,
    },
    /// The directory's file was written anew with the bytes it had.
    Unchanged {
        /// The name.
        name: CheckerKey,
    },
    /// The directory has nothing under the name any more, for good.
    Removed {
        /// The name.
        name: CheckerKey,
    },
    /// A start passed its self-check.
    Started {
        /// What came to life; its number is in here.
        plugin: Arc<Plugin>,
    },
    /// A start died.
    Died {
        /// Of whom.
        name: CheckerKey,
        /// Its number.
        start: u64,
        /// How.
        death: Death,
    },
    /// A start was turned down by the guest or for want of its bytes: no death.
    Rejected {
        /// Of whom.
        name: CheckerKey,
        /// Of what.
        generation: Generation,
        /// Why.
        refusal: Refusal,
    },
    /// Our own machinery failed in a start.
    Fault {
        /// Of whom.
        name: CheckerKey,
        /// Its number.
        start: u64,
        /// Of what.
        generation: Generation,
        /// What failed.
        what: String,
    },
    /// Something is not on disk that should be: a start went on without its record, or a generation will not serve
    /// after a restart.
    NotStored {
        /// Of whom.
        name: CheckerKey,
        /// Of what.
        generation: Generation,
        /// What is not, and why.
        why: String,
    },
    /// A file that no plugin row can show: a bad name, or one too many.
    Odd {
        /// As much of its name as can be shown.
        name: CheckerKey,
        /// Why.
        refusal: Refusal,
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

/// The registry. Cheap to clone: all clones are the same one.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    events: mpsc::Sender<RegistryEvent>,
    /// Offers are made one after the other, so that the last one told is what there is.
    offering: tokio::sync::Mutex<()>,
    /// One manifest is written at a time.
    keeping: Mutex<()>,
    /// Never held while anything waits.
    state: Mutex<State>,
    reconfigure: mpsc::Sender<Configuration>,
    /// Until it runs.
    reconfigured: Mutex<Option<mpsc::Receiver<Configuration>>>,
}

struct State {
    configuration: Configuration,
    bundled: BTreeMap<CheckerKey, Bytes>,
    files: BTreeMap<CheckerKey, File>,
    /// What can be started of each.
    offered: BTreeMap<(CheckerKey, Source), Prepared>,
    /// The good generations, which outlive their file.
    kept: BTreeMap<CheckerKey, Prepared>,
    loading: BTreeMap<CheckerKey, (u64, AbortHandle)>,
}

/// What the directory has under a name.
#[derive(Clone)]
enum File {
    Read { bytes: Bytes, signature: Option<Arc<str>> },
    Unread(Refusal),
}

/// A generation with all it takes to start it.
#[derive(Clone)]
struct Prepared {
    kept: Kept,
    bytes: Bytes,
}

impl State {
    fn prepared(&self, name: &CheckerKey, generation: &Generation) -> Option<Prepared> {
        let offered = [Source::Directory, Source::Bundled];
        let offered = offered.iter().filter_map(|source| self.offered.get(&(name.clone(), *source)));
        offered.chain(self.kept.get(name)).find(|prepared| prepared.kept.generation == *generation).cloned()
    }
}

impl Registry {
    /// A registry in which nothing is offered yet. What happens is sent to `events`.
    #[must_use]
    pub fn new(options: RegistryOptions, events: mpsc::Sender<RegistryEvent>) -> Self {
        let RegistryOptions { engine, bundled, configuration } = options;
        let in_memory = |bytes: Arc<[u8]>| Bytes::in_memory(bytes.clone(), Digest::of(&bytes));
        let bundled = bundled.into_iter().map(|plugin| (plugin.key, in_memory(plugin.bytes))).collect();
        let kept = engine.inner.shelf.kept().into_iter();
        let kept = kept.map(|(name, (kept, bytes))| (name, Prepared { kept, bytes })).collect();
        let state = State {
            configuration,
            bundled,
            files: BTreeMap::new(),
            offered: BTreeMap::new(),
            kept,
            loading: BTreeMap::new(),
        };
        let (offering, keeping, state) = (tokio::sync::Mutex::default(), Mutex::default(), Mutex::new(state));
        let (reconfigure, reconfigured) = mpsc::channel(RECONFIGURING);
        let reconfigured = Mutex::new(Some(reconfigured));
        Self { inner: Arc::new(Inner { engine, events, offering, keeping, state, reconfigure, reconfigured }) }
    }

    /// Offers what is built in, and then what the directory finds until it ends.
    pub async fn run(&self, mut found: mpsc::Receiver<DirectoryEvent>) {
        self.offer_all().await;
        let reconfigured = crate::lock(&self.inner.reconfigured).take();
        let mut reconfigured = reconfigured.unwrap_or_else(|| mpsc::channel(RECONFIGURING).1);
        let mut tidy = tokio::time::interval_at(tokio::time::Instant::now() + FIRST_TIDY, TIDY_EVERY);
        loop {
            tokio::select! {
                biased;
                // Whatever was read before another configuration comes first: signatures read for new keys are there
                // when everything is examined by them.
                event = found.recv() => match event {
                    Some(event) => self.apply(event).await,
                    None => return,
                },
                Some(configuration) = reconfigured.recv() => self.configure(configuration).await,
                _ = tidy.tick() => self.prune(),
            }
        }
    }

    /// Takes in another configuration, once what the directory has found is applied.
    pub async fn reconfigure(&self, configuration: Configuration) {
        if self.inner.reconfigure.send(configuration).await.is_err() {
            tracing::debug!("the plugin registry does not run any more");
        }
    }

    /// Takes in what the directory found. Returns when it is admitted, or turned down.
    pub async fn apply(&self, event: DirectoryEvent) {
        let inner = &self.inner;
        let _alone = inner.offering.lock().await;
        match event {
            DirectoryEvent::Found { name, bytes, digest, signature } => {
                let putting = inner.clone();
                let put = tokio::task::spawn_blocking(move || putting.engine.inner.shelf.put(bytes, digest)).await;
                let file = put.map_or_else(
                    |error| File::Unread(Refusal::new(RefusalReason::Unreadable, error.to_string())),
                    |bytes| File::Read { bytes, signature },
                );
                inner.file(name, file).await;
            }
            DirectoryEvent::Refused { name, refusal } => {
                // These two are shown with the directory: there is no plugin to show them with.
                if matches!(refusal.reason, RefusalReason::BadName | RefusalReason::TooMany) {
                    inner.tell(RegistryEvent::Odd { name, refusal }).await;
                } else {
                    inner.file(name, File::Unread(refusal)).await;
                }
            }
            DirectoryEvent::Unchanged { name } => inner.tell(RegistryEvent::Unchanged { name }).await,
            DirectoryEvent::Removed { name } => {
                {
                    let mut state = crate::lock(&inner.state);
                    state.files.remove(&name);
                    state.offered.remove(&(name.clone(), Source::Directory));
                }
                inner.tell(RegistryEvent::Removed { name }).await;
            }
            DirectoryEvent::Lost { message } => inner.tell(RegistryEvent::DirectoryLost { message }).await,
            DirectoryEvent::Emptied { had } => inner.tell(RegistryEvent::DirectoryEmptied { had }).await,
            DirectoryEvent::Back => inner.tell(RegistryEvent::DirectoryBack).await,
        }
    }

    /// From now on files need a signature by one of these keys. What was offered before is examined by
    /// [`Registry::configure`].
    pub fn trust(&self, keys: Arc<[PublicKey]>) {
        crate::lock(&self.inner.state).configuration.trusted_keys = keys;
    }

    /// Takes in another configuration: everything is offered anew, and what is kept is examined by the keys that are
    /// trusted now (`supervision` 4.12).
    pub async fn configure(&self, configuration: Configuration) {
        crate::lock(&self.inner.state).configuration = configuration;
        self.offer_all().await;
        let kept: Vec<(CheckerKey, Prepared)> =
            crate::lock(&self.inner.state).kept.iter().map(|(name, kept)| (name.clone(), kept.clone())).collect();
        for (name, prepared) in kept {
            let generation = prepared.kept.generation;
            let examined = self.inner.candidate(&name, prepared).await;
            // Bytes that are not to be had are of interest at a start, and to nobody who serves.
            if let Err(refusal) = examined
                && refusal.reason != RefusalReason::BytesUnavailable
            {
                self.inner.tell(RegistryEvent::Rejected { name, generation, refusal }).await;
            }
        }
    }

    async fn offer_all(&self) {
        let inner = &self.inner;
        let _alone = inner.offering.lock().await;
        let (bundled, files) = {
            let state = crate::lock(&inner.state);
            (state.bundled.clone(), state.files.clone())
        };
        for (name, bytes) in bundled {
            inner.offer(name, Source::Bundled, File::Read { bytes, signature: None }).await;
        }
        for (name, file) in files {
            inner.offer(name, Source::Directory, file).await;
        }
    }

    /// Brings a generation to life, once `stored` says that its record is on disk.
    pub fn start(&self, name: CheckerKey, generation: Generation, start: u64, stored: Option<oneshot::Receiver<bool>>) {
        let inner = self.inner.clone();
        let loading = name.clone();
        let mut state = crate::lock(&self.inner.state);
        // However it ends, that is told.
        let task = tokio::runtime::Handle::current().spawn(async move {
            let born = AssertUnwindSafe(inner.bring(&name, generation, start, stored)).catch_unwind().await;
            let event = born.unwrap_or_else(|_| {
                let what = "a start panicked".to_owned();
                RegistryEvent::Fault { name: name.clone(), start, generation, what }
            });
            crate::lock(&inner.state).loading.retain(|known, (number, _)| *known != name || *number != start);
            inner.tell(event).await;
        });
        state.loading.insert(loading, (start, task.abort_handle()));
    }

    /// Gives up a start that has not come to life.
    pub fn give_up(&self, name: &CheckerKey, start: u64) {
        let mut state = crate::lock(&self.inner.state);
        if state.loading.get(name).is_some_and(|(loading, _)| *loading == start)
            && let Some((_, task)) = state.loading.remove(name)
        {
            task.abort();
        }
    }

    /// Keeps bytes, signature and configuration of a generation: it can be started whatever becomes of its file.
    pub fn keep(&self, name: &CheckerKey, generation: &Generation) {
        let mut state = crate::lock(&self.inner.state);
        if let Some(prepared) = state.prepared(name, generation) {
            state.kept.insert(name.clone(), prepared);
            drop(state);
            self.inner.write_kept(name.clone());
            return;
        }
        drop(state);
        let (inner, name, generation) = (self.inner.clone(), name.clone(), *generation);
        tokio::task::spawn_blocking(move || inner.not_kept(name, generation, "its bytes are not to be had"));
    }

    /// Keeps nothing of that name any more.
    pub fn forget(&self, name: &CheckerKey) {
        crate::lock(&self.inner.state).kept.remove(name);
        self.inner.write_kept(name.clone());
    }

    /// What holds for a plugin.
    #[must_use]
    pub fn config(&self, name: &CheckerKey) -> PluginConfig {
        crate::lock(&self.inner.state).configuration.of(name).clone()
    }

    /// Removes what nothing names any more from the disk.
    fn prune(&self) {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || {
            let in_use = {
                let state = crate::lock(&inner.state);
                let files = state.files.values().filter_map(|file| match file {
                    File::Read { bytes, .. } => Some(bytes.digest()),
                    File::Unread(_) => None,
                });
                let prepared = state.offered.values().chain(state.kept.values()).map(|one| one.bytes.digest());
                files.chain(prepared).collect()
            };
            inner.engine.prune(&in_use);
        });
    }
}

impl Inner {
    /// Brings the disk in line with what is kept of a name, whatever it is by then.
    fn write_kept(self: &Arc<Self>, name: CheckerKey) {
        let inner = self.clone();
        tokio::task::spawn_blocking(move || {
            let _one_at_a_time = crate::lock(&inner.keeping);
            let kept = crate::lock(&inner.state).kept.get(&name).cloned();
            let shelf = &inner.engine.inner.shelf;
            let Some(Prepared { kept, bytes }) = kept else {
                shelf.forget(&name);
                return;
            };
            // What is built in is not on disk yet, and a file may have been tidied away.
            let put = bytes.read().map(|read| shelf.put(read, bytes.digest())).map_err(|refusal| refusal.message);
            let written = put.and_then(|put| match shelf.has(&put) {
                true => shelf.keep(&name, &kept).map_err(|error| error.to_string()),
                false => Err("its component cannot be written".to_owned()),
            });
            if let Err(why) = written {
                inner.not_kept(name, kept.generation, &why);
            }
        });
    }

    /// Says so, where a thread may be held up.
    fn not_kept(&self, name: CheckerKey, generation: Generation, why: &str) {
        let why = format!("the good generation cannot be kept for the next start: {why}");
        if self.events.blocking_send(RegistryEvent::NotStored { name, generation, why }).is_err() {
            tracing::debug!("nobody listens to the plugin registry any more");
        }
    }

    /// The good generation may have been signed anew: by a key that is still trusted when the old one is not.
    fn keep_anew(self: &Arc<Self>, name: &CheckerKey, prepared: Prepared) {
        let mut state = crate::lock(&self.state);
        let Some(kept) = state.kept.get_mut(name) else {
            return;
        };
        if kept.kept.generation == prepared.kept.generation && kept.kept != prepared.kept {
            *kept = prepared;
            drop(state);
            self.write_kept(name.clone());
        }
    }

    async fn tell(&self, event: RegistryEvent) {
        if self.events.send(event).await.is_err() {
            tracing::debug!("nobody listens to the plugin registry any more");
        }
    }

    async fn file(self: &Arc<Self>, name: CheckerKey, file: File) {
        crate::lock(&self.state).files.insert(name.clone(), file.clone());
        self.offer(name, Source::Directory, file).await;
    }

    /// Admits what there is under a name, and says so.
    async fn offer(self: &Arc<Self>, name: CheckerKey, source: Source, file: File) {
        let config = crate::lock(&self.state).configuration.of(&name).clone();
        let offer = match file {
            File::Unread(Refusal { reason, message }) => {
                crate::lock(&self.state).offered.remove(&(name.clone(), source));
                Offer { generation: config.generation(None), admission: Err((reason, message)) }
            }
            File::Read { bytes, signature } => {
                let generation = config.generation(Some(bytes.digest()));
                let PluginConfig { limits, grants, settings, .. } = config;
                let signature = signature.as_deref().map(str::to_owned);
                let prepared =
                    Prepared { kept: Kept { generation, source, settings, grants, limits, signature }, bytes };
                let before = crate::lock(&self.state).offered.insert((name.clone(), source), prepared.clone());
                let candidate = self.candidate(&name, prepared.clone()).await;
                let admission = match candidate {
                    Ok(candidate) => admitted(candidate).await,
                    // It was admitted before, and may serve: its bytes are of interest at the next start.
                    Err(refusal)
                        if refusal.reason == RefusalReason::BytesUnavailable
                            && before.is_some_and(|before| before.kept.generation == generation) =>
                    {
                        return;
                    }
                    Err(refusal) => Err(refusal),
                };
                if admission.is_ok() {
                    self.keep_anew(&name, prepared);
                }
                Offer { generation, admission: admission.map_err(|refusal| (refusal.reason, refusal.message)) }
            }
        };
        self.tell(RegistryEvent::Offered { name, source, offer }).await;
    }

    /// What the engine takes, read anew, and trusted by the keys of this moment: revocation beats everything.
    async fn candidate(&self, name: &CheckerKey, prepared: Prepared) -> Result<Candidate, Refusal> {
        let keys = crate::lock(&self.state).configuration.trusted_keys.clone();
        let name = name.clone();
        let read = tokio::task::spawn_blocking(move || {
            let Prepared { kept, bytes } = prepared;
            let bytes = bytes.read()?;
            kept.verify(&name, &keys, &bytes)?;
            let Kept { source, settings, grants, limits, .. } = kept;
            Ok(Candidate { key: name, bytes, settings, grants, limits, source })
        });
        read.await.unwrap_or_else(|error| Err(Refusal::new(RefusalReason::Unreadable, error.to_string())))
    }

    async fn bring(
        &self,
        name: &CheckerKey,
        generation: Generation,
        start: u64,
        stored: Option<oneshot::Receiver<bool>>,
    ) -> RegistryEvent {
        if let Some(stored) = stored
            && !matches!(tokio::time::timeout(STORED_WITHIN, stored).await, Ok(Ok(true)))
        {
            let why = "a start goes on although its record is not on disk".to_owned();
            self.tell(RegistryEvent::NotStored { name: name.clone(), generation, why }).await;
        }
        let name = name.clone();
        let prepared = crate::lock(&self.state).prepared(&name, &generation);
        let Some(prepared) = prepared else {
            let message = format!(
                "the bytes of {generation} are neither in the directory nor kept: put {name}.wasm back",
                name = name.as_str()
            );
            let refusal = Refusal::new(RefusalReason::BytesUnavailable, message);
            return RegistryEvent::Rejected { name, generation, refusal };
        };
        let loaded = match self.candidate(&name, prepared).await {
            Ok(candidate) => self.engine.start(candidate, start).await,
            Err(refusal) => Err(refusal.into()),
        };
        match loaded {
            Ok(plugin) => RegistryEvent::Started { plugin },
            Err(LoadError::Refusal(refusal)) => RegistryEvent::Rejected { name, generation, refusal },
            Err(LoadError::Death(death)) => RegistryEvent::Died { name, start, death },
            Err(LoadError::Engine(what)) => RegistryEvent::Fault { name, start, generation, what },
        }
    }
}

/// Whether a candidate may be started, and whether it is pure.
async fn admitted(candidate: Candidate) -> Result<bool, Refusal> {
    let admit = move || {
        sound(&candidate)?;
        admission::admit(candidate.key.as_str(), &candidate.bytes, &candidate.grants)
            .map(|admitted| admitted.inputs.is_pure())
    };
    let done = tokio::task::spawn_blocking(admit).await;
    // A panic while reading bytes is ours; the bytes that brought it up are not to be tried again.
    done.unwrap_or_else(|error| Err(Refusal::new(RefusalReason::NotAComponent, error.to_string())))
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

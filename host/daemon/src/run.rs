//! Wires the daemon together, and takes it apart again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use apgar_core::decision::Mode;
use apgar_core::fleet::Fleet;
use apgar_core::supervision::{Record, Source};
use apgar_core::time::Time;
use apgar_core::verdict::CheckerKey;
use apgar_engine::Compile;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::announce::{Announcer, Pod};
use crate::cli::DaemonArgs;
use crate::clock::Clock;
use crate::config::{ExecutorKind, Settings};
use crate::events::{Happened, Ring};
use crate::executor::civo::CivoSettings;
use crate::executor::{Civo, Executor};
use crate::http::{self, Asker};
use crate::kubernetes::Selection;
use crate::last_look::Actor;
use crate::log;
use crate::metrics::Metrics;
use crate::object::Nodes;
use crate::plugins::{self, Cache};
use crate::pods::PodWatch;
use crate::reconcile::{Inbox, Loop, Outbox};
use crate::store::{Loaded, Store, Writer};
use crate::supervise::{Plugins, Supervised};
use crate::task::Tasks;
use crate::{announce, informer, kubernetes, reload, settings};

/// How long what is under way may take to end after SIGTERM: the whole stop stays below 5 s.
const STOP_LIMIT: Duration = Duration::from_millis(2500);

/// Messages that may wait for the loop, of each kind. A full channel slows its sender down, it loses nothing:
/// the informer then reads the watch later.
const WAITING: usize = 4096;

/// A daemon that runs.
#[derive(Debug)]
pub struct Daemon {
    /// Asks the loop.
    pub asker: Asker,
    /// Where metrics and probes are.
    pub metrics: SocketAddr,
    /// Where the API is.
    pub api: SocketAddr,
    reload: reload::Listeners,
    announcements: Option<mpsc::Receiver<(Happened, Time)>>,
    tasks: Tasks,
    finished: oneshot::Receiver<()>,
    stop: oneshot::Sender<()>,
}

/// The listeners, bound before anything else starts: a port that is taken must stop the start.
#[derive(Debug)]
pub struct Listeners {
    metrics: TcpListener,
    api: TcpListener,
}

impl Listeners {
    /// Binds both.
    ///
    /// # Errors
    /// When one cannot be bound, with the setting that would change it.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let metrics = SocketAddr::new(settings.metrics.address, settings.metrics.port);
        Ok(Self {
            metrics: http::bind(metrics, "metrics", "set metrics.port or --metrics-port to a free one").await?,
            api: http::bind(settings.api.listen, "the API", "set api.listen or --api-listen to a free one").await?,
        })
    }
}

/// `apgar run`.
///
/// # Errors
/// When the daemon cannot start, or one of its servers dies.
pub(crate) fn main(args: &DaemonArgs) -> anyhow::Result<ExitCode> {
    let text = settings::find(args.config.as_deref())?;
    let (settings, warnings) = settings::made_of(text.clone(), args.flags())?;
    log::start(&settings);
    for warning in &warnings {
        tracing::warn!(event = "configuration", about = warning.about, "{}", warning.message);
    }
    let runtime = tokio::runtime::Runtime::new().context("the runtime's threads")?;
    let ended = runtime.block_on(async {
        let listeners = Listeners::bind(&settings).await?;
        let client = kubernetes::client(kubernetes::config(&settings.kubeconfig).await?)?;
        let mut daemon = Daemon::start(&settings, client.clone(), listeners, plugins::compile_in_child()?).await?;
        if let Some(pod) = settings::pod() {
            daemon.announce(client, pod);
        }
        daemon.follow(reload::Watched { file: args.config.clone(), flags: args.flags(), text, settings });
        tokio::select! {
            why = daemon.ended() => bail!("{why}"),
            signal = signal() => tracing::info!(event = "stopping", signal = signal?, "stopping"),
        }
        daemon.stop().await;
        Ok(ExitCode::SUCCESS)
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// Waits for a signal to stop, and names it.
async fn signal() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

impl Daemon {
    /// Starts everything; it runs until stopped.
    ///
    /// # Errors
    /// When something that the daemon cannot do without is not to be had.
    pub async fn start(
        settings: &Settings,
        client: Client,
        listeners: Listeners,
        compile: Compile,
    ) -> anyhow::Result<Self> {
        kubernetes::install_crypto();
        let clock = Clock::start();
        let mut alarms = Vec::new();
        let mut policy = settings.policy.clone();
        let (store, Loaded { records, plugins: plugin_records, dropped_plugins, .. }) =
            open_store(settings, clock, &mut policy.mode, &mut alarms)?;
        let executor = executor(settings)?;
        tracing::info!(
            event = "started",
            version = env!("CARGO_PKG_VERSION"),
            mode = policy.mode.as_str(),
            executor = executor.kind(),
            records = records.len(),
            "apgar starts"
        );
        let mut fleet = Fleet::new(policy);
        fleet.restore(records, clock.now());

        // Whoever holds the journal keeps the good generations beside it, and tidies up there.
        let cache = if store.is_some() { Cache::State } else { Cache::Nowhere };
        let engine = plugins::engine(settings, cache, compile)?;
        let (judged_in, judged) = mpsc::channel(WAITING);
        let (outcomes_in, outcomes) = mpsc::channel(WAITING);
        let (queries_in, queries) = mpsc::channel(WAITING);
        let (nodes_in, nodes) = mpsc::channel(WAITING);
        let (store_in, store_changes) = mpsc::channel(WAITING);
        let writer = store.map(|store| Writer::start(store, store_in)).transpose().context("the store's thread")?;
        let mut tasks = Tasks::default();
        let (plugins_in, plugin_events) = mpsc::channel(WAITING);
        let known = from_directory(&plugin_records);
        let (registry, directory) = plugins::start(settings, &engine, known, plugins_in, &mut tasks);
        let (settled, loaded) = oneshot::channel();
        let supervised = Supervised {
            policy: plugins::policy(&settings.checkers),
            wishes: plugins::wishes(&settings.checkers),
            records: plugin_records,
            dropped: dropped_plugins,
            engine: engine.clone(),
            registry,
            directory,
            settled,
        };
        let (supervision_in, supervision) = mpsc::channel(1);
        let reload = reload::Listeners {
            supervision: supervision_in,
            registry: supervised.registry.clone(),
            directory: supervised.directory.clone(),
        };
        let plugins = Plugins::new(supervised, clock.now());

        let (api, pods) = (Api::all(client.clone()), Api::all(client.clone()));
        let actor = Actor { api, pods, engine: engine.clone(), executor };
        let (announcer, announcements) = Announcer::new();
        let actor = Arc::new(actor);
        let events = Ring::new(usize::try_from(settings.events.ring).unwrap_or(usize::MAX));
        let out = Outbox { engine, judged: judged_in, actor, outcomes: outcomes_in, events, announcer, store: writer };
        let metrics = Metrics::new(settings)?;
        let pods = PodWatch::new(client.clone());
        let the_loop = Loop::new(clock, fleet, plugins, pods, metrics, out, alarms);
        let inbox =
            Inbox { nodes, judged, plugins: plugin_events, supervision, outcomes, store: store_changes, queries };
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            // A sender that is gone is a daemon that was dropped: stop as well.
            let _dropped: Result<(), _> = stopped.await;
        };
        let (finished_in, finished) = oneshot::channel();
        tasks.spawn("loop", async move {
            the_loop.run(inbox, stopped).await;
            // Nobody waits if the daemon was dropped.
            let _dropped: Result<(), ()> = finished_in.send(());
        });

        let selection = Selection { labels: settings.nodes.label_selector(), fields: None };
        tasks.spawn("informer", async move {
            // Nodes are first evaluated when every checker that can serve does: so checkers come first.
            // An error says that the loop has ended: then nobody waits for nodes either.
            let _ended: Result<(), _> = loaded.await;
            informer::run::<Nodes>(client, selection, nodes_in).await;
        });

        let asker = Asker(queries_in);
        let (metrics, api) = (listeners.metrics.local_addr()?, listeners.api.local_addr()?);
        tasks.spawn("metrics server", http::serve_metrics(listeners.metrics, asker.clone()));
        tasks.spawn("API server", http::serve_api(listeners.api, asker.clone()));
        tracing::info!(event = "listening", %metrics, %api, "metrics and API");
        Ok(Self { asker, metrics, api, reload, announcements: Some(announcements), tasks, finished, stop })
    }

    /// Lets changes of the configuration file take effect.
    pub fn follow(&mut self, watched: reload::Watched) {
        self.tasks.spawn("configuration", reload::watch(watched, self.reload.clone()));
    }

    /// Announces warnings about plugins as Events on the Pod that the daemon runs in.
    pub fn announce(&mut self, client: Client, pod: Pod) {
        if let Some(announcements) = self.announcements.take() {
            self.tasks.spawn("announcer", announce::run(client, pod, announcements));
        }
    }

    /// Resolves when a part of the daemon ended, with the reason: a process without its loop, informer or metrics
    /// only looks alive, and whoever supervises it must hear of that.
    pub async fn ended(&mut self) -> String {
        self.tasks.ended().await
    }

    /// Stops the loop, so that nothing is decided any more, waits a moment for calls that are out, and writes what
    /// waits for the disk.
    pub async fn stop(mut self) {
        // The loop may have ended by itself.
        let _ended: Result<(), ()> = self.stop.send(());
        if tokio::time::timeout(STOP_LIMIT, &mut self.finished).await.is_err() {
            tracing::warn!(event = "stop_timeout", "the loop did not end in time");
        }
        self.tasks.shutdown().await;
    }
}

/// Opens the store. Without one nothing may act: in monitor-only mode that is a warning, in active mode a
/// refusal to start. With a damaged one the daemon only observes until it is started again (`gate` G-48): what
/// the journal protected, windows and attempts, is no longer known.
fn open_store(
    settings: &Settings,
    clock: Clock,
    mode: &mut Mode,
    alarms: &mut Vec<String>,
) -> anyhow::Result<(Option<Store>, Loaded)> {
    let opened = Store::open(&settings.store.dir, clock.now());
    let (store, loaded) = match (opened, *mode) {
        (Ok(opened), _) => opened,
        (Err(error), Mode::Monitor) => {
            let error = anyhow::Error::new(error);
            tracing::warn!(event = "no_store", "nothing survives a restart: {error:#}; set store.dir or --store-dir");
            return Ok((None, Loaded::default()));
        }
        (Err(error), Mode::Active) => {
            return Err(error)
                .context("active mode needs a store; set store.dir or --store-dir to a writable directory");
        }
    };
    if loaded.torn_tail {
        tracing::warn!(event = "store_torn", "the journal's last line was cut short, as by a crash; it was dropped");
    }
    if let Some(aside) = &loaded.set_aside {
        let alarm = format!(
            "a damaged journal is set aside as {}: monitor-only until a person has moved it away and started again",
            aside.display()
        );
        tracing::error!(event = "store_damaged", "{alarm}");
        alarms.push(alarm);
        *mode = Mode::Monitor;
    }
    Ok((Some(store), loaded))
}

/// The plugins that the directory gave us, as far as the store remembers.
fn from_directory(records: &BTreeMap<CheckerKey, Record>) -> Vec<CheckerKey> {
    let came = |record: &Record| record.tracks().any(|track| track.source == Source::Directory);
    records.iter().filter(|(_, record)| came(record)).map(|(name, _)| name.clone()).collect()
}

fn executor(settings: &Settings) -> anyhow::Result<Executor> {
    let civo = &settings.executor.civo;
    match (settings.executor.kind, settings.policy.mode) {
        (ExecutorKind::Civo, Mode::Active) => Ok(Executor::Civo(Civo::new(&CivoSettings {
            api_key: civo.api_key.reveal(),
            api_url: &civo.api_url,
            cluster_id: &civo.cluster_id,
            region: &civo.region,
        })?)),
        (ExecutorKind::Observe, _) | (ExecutorKind::Civo, Mode::Monitor) => Ok(Executor::Observe),
    }
}

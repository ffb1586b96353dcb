//! The engine: one per process. It owns Wasmtime, the clock, the threads guests run on, and the permits.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use apgar_core::node::{Node, NodeName};
use apgar_core::pods::Pods;
use apgar_core::verdict::CheckerKey;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Mutex, Semaphore, mpsc};
use wasmtime::component::Linker;

use crate::batch;
use crate::cache::Cache;
use crate::check::{self, CheckDone};
use crate::death::LoadError;
use crate::host::{Host, Meter};
use crate::http::Threads;
use crate::limits::{ENGINE_PERMITS, Limits, START_PERMITS};
use crate::load;
use crate::memory::Memories;
use crate::plugin::{Digest, Grants, Plugin, Source};
use crate::shelf::Shelf;
use crate::task::Task;
use crate::ticker::{Ticker, TickerHealth};
use crate::{bindings, clock, settings, wasi};

/// Threads guests run on. Two: one stays for others while one is held for a tick.
const GUEST_THREADS: usize = 2;

/// Tokio looks at newly submitted tasks only every so many polls, and a spinning guest makes each poll a tick
/// long. Looking every time, a check submitted beside two spinning guests waits 0.03 ms instead of 10.
const GLOBAL_QUEUE_INTERVAL: u32 = 1;

/// What an engine is made of.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where compiled code is kept. None: everything is compiled again after a restart.
    pub cache_dir: Option<PathBuf>,
    /// Where compiling happens.
    pub compile: Compile,
}

/// Where compiling happens.
#[derive(Debug, Clone)]
pub enum Compile {
    /// In this process: for tests and one-off commands. A large component leaves hundreds of megabytes behind.
    InProcess,
    /// In a child with limits of its own: `program compile-worker …`, which calls [`crate::compile_worker_main`].
    Child {
        /// The daemon's own binary.
        program: PathBuf,
    },
}

/// A component that asks to serve.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The plugin's name.
    pub key: CheckerKey,
    /// The component.
    pub bytes: Arc<[u8]>,
    /// Its table of the configuration file; an object.
    pub settings: serde_json::Value,
    /// What it may import beyond node and log.
    pub grants: Grants,
    /// What it may use.
    pub limits: Limits,
    /// Where its bytes come from.
    pub source: Source,
}

/// A check to be made.
#[derive(Debug, Clone)]
pub struct Job {
    /// Handed back with the result: whatever the caller tells jobs apart by.
    pub id: u64,
    /// Who judges.
    pub plugin: Arc<Plugin>,
    /// Who is judged.
    pub node: Arc<Node>,
    /// The pods on it; none where they are not known, or nobody reads them.
    pub pods: Option<Pods>,
}

/// A check that was made.
#[derive(Debug, Clone)]
pub struct Finished {
    /// As in the job.
    pub id: u64,
    /// Who was judged, as it was then.
    pub node: Arc<Node>,
    /// As in the job.
    pub pods: Option<Pods>,
    /// Who judged; its generation is in here.
    pub plugin: Arc<Plugin>,
    /// What came out.
    pub result: CheckDone,
}

/// The engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Wasmtime refused its configuration.
    #[error("Wasmtime cannot be set up: {0}")]
    Wasmtime(String),
    /// The system refused threads.
    #[error("the engine's threads cannot be started: {0}")]
    Threads(#[from] std::io::Error),
}

/// The engine. Cheap to clone: all clones are the same one.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) pooled: bool,
    pub(crate) linker: Linker<Host>,
    pub(crate) wasi_linker: Linker<Host>,
    pub(crate) compile: Compile,
    pub(crate) cache: Cache,
    pub(crate) shelf: Shelf,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) permits: Semaphore,
    /// Compiles one at a time: it is what can bring a small host down.
    pub(crate) compiling: Arc<Mutex<()>>,
    /// The slots of the pool that checks leave free.
    pub(crate) starts: Semaphore,
    pub(crate) memories: Arc<Memories>,
    pub(crate) http: Threads,
    guests: Option<Runtime>,
}

impl Engine {
    /// Sets up Wasmtime, the clock and the guests' threads.
    ///
    /// # Errors
    /// If Wasmtime refuses its configuration, or the system threads.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let wasmtime_error = |error: wasmtime::Error| EngineError::Wasmtime(format!("{error:#}"));
        let (wasmtime, pooled) = match settings::engine(true) {
            Ok(engine) => (engine, true),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "no room for the instance pool; checks will be slower");
                (settings::engine(false).map_err(wasmtime_error)?, false)
            }
        };
        let mut linker = Linker::new(&wasmtime);
        bindings::add_to_linker(&mut linker).map_err(wasmtime_error)?;
        let mut wasi_linker = linker.clone();
        wasi::add_to_linker(&mut wasi_linker).map_err(wasmtime_error)?;
        let guests = Builder::new_multi_thread()
            .worker_threads(GUEST_THREADS)
            .global_queue_interval(GLOBAL_QUEUE_INTERVAL)
            .thread_name("apgar-guest")
            .enable_all()
            .build()?;
        let ticker = Ticker::start(&wasmtime)?;
        let cache = Cache::open(config.cache_dir, &wasmtime);
        let shelf = Shelf::open(cache.dir());
        Ok(Self {
            inner: Arc::new(Inner {
                wasmtime,
                pooled,
                linker,
                wasi_linker,
                compile: config.compile,
                cache,
                shelf,
                ticker,
                permits: Semaphore::new(ENGINE_PERMITS),
                compiling: Arc::default(),
                starts: Semaphore::new(START_PERMITS),
                memories: Arc::default(),
                http: Threads::default(),
                guests: Some(guests),
            }),
        })
    }

    /// How the engine's clock is.
    #[must_use]
    pub fn ticker_health(&self) -> TickerHealth {
        self.inner.ticker.health()
    }

    /// True if instances come from a pool. Where the address space is limited they do not, and checks cost about
    /// three times as much.
    #[must_use]
    pub fn pooled(&self) -> bool {
        self.inner.pooled
    }

    /// Why compiled code is not kept, if a directory was given and is not used.
    #[must_use]
    pub fn cache_trouble(&self) -> Option<&str> {
        self.inner.cache.trouble()
    }

    /// Brings a candidate to life, up to its self-check. Nothing that serves is touched. Dropped before its end, it
    /// ends: a compile worker is killed, and guest code runs no further.
    ///
    /// # Errors
    /// The refusal or the death that ended it.
    pub async fn load(&self, candidate: Candidate) -> Result<Arc<Plugin>, LoadError> {
        self.start(candidate, 0).await
    }

    /// The same, as the start with this number.
    pub(crate) async fn start(&self, candidate: Candidate, number: u64) -> Result<Arc<Plugin>, LoadError> {
        let inner = self.inner.clone();
        let load = self.guests().spawn(async move { load::load(&inner, candidate, number).await });
        match Task(load).await {
            Ok(result) => result,
            Err(error) => Err(LoadError::Engine(error.to_string())),
        }
    }

    /// Makes one check of a node whose pods are not known.
    pub async fn check(&self, plugin: &Arc<Plugin>, node: Arc<Node>) -> CheckDone {
        self.check_with(plugin, node, None).await
    }

    /// Makes one check of a node with these pods.
    pub async fn check_with(&self, plugin: &Arc<Plugin>, node: Arc<Node>, pods: Option<Pods>) -> CheckDone {
        let (inner, plugin) = (self.inner.clone(), plugin.clone());
        let check = self.guests().spawn(async move {
            let meter = Arc::new(Meter::default());
            let (Ok(_plugin), Ok(_engine)) = (plugin.permits.acquire().await, inner.permits.acquire().await) else {
                return CheckDone::fault("the engine's permits are closed");
            };
            check::check(&plugin, node, pods, &meter, &inner.ticker).await
        });
        check.await.unwrap_or_else(|error| CheckDone::fault(error.to_string()))
    }

    /// Makes many checks, and sends the results in batches as they come. Checks of one plugin begin in the order
    /// of the jobs. Once `done` is closed the rest is dropped. Returns at once; may be called from anywhere.
    pub fn submit(&self, jobs: Vec<Job>, done: mpsc::Sender<Vec<Finished>>) {
        batch::submit(&self.inner, self.guests(), jobs, &done);
    }

    /// Removes from the cache's directory what has been of no use for long: components and compiled code that are
    /// neither `in_use` nor of a generation that is kept. Takes as long as the disk does.
    pub(crate) fn prune(&self, in_use: &BTreeSet<Digest>) {
        let now = clock::time_of_day();
        let wanted = self.inner.shelf.prune(in_use, now);
        self.inner.cache.prune(&wanted, now);
    }

    /// Forgets what a plugin stored: it is gone.
    pub fn forget_plugin(&self, plugin: &CheckerKey) {
        self.inner.memories.forget_plugin(plugin);
    }

    /// Forgets what plugins stored for a node: it is gone.
    pub fn forget_node(&self, node: &NodeName) {
        self.inner.memories.forget_node(node);
    }

    fn guests(&self) -> &Runtime {
        self.inner.guests()
    }
}

impl Inner {
    #[expect(clippy::expect_used, reason = "taken in drop only")]
    fn guests(&self) -> &Runtime {
        self.guests.as_ref().expect("the guests' runtime lives as long as the engine")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(guests) = self.guests.take() {
            // Dropping a runtime waits for it, which may not be done where the last clone of an engine often goes:
            // in an asynchronous task.
            guests.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("pooled", &self.inner.pooled).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use apgar_core::verdict::{UnknownCause, Verdict};
    use wasmtime::StoreContextMut;

    use super::*;
    use crate::component::component;
    use crate::death::{Cause, Death, Stage};

    /// Asks for the node's name, and is well.
    const ASKS: &str = r#"(module
        (import "apgar:checker/node@0.1.0" "name" (func $name (param i32)))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
        (func (export "apgar:checker/checker@0.1.0#describe") (result i32) (i32.const 512))
        (func (export "apgar:checker/checker@0.1.0#check") (result i32)
          (call $name (i32.const 1024)) (i32.store8 (i32.const 608) (i32.const 1)) (i32.const 600)))"#;

    /// An engine whose answer to `name` is a panic on one node. No import of ours panics, so the tests bring one.
    fn engine(panics_on: &'static str) -> Engine {
        let mut engine = Engine::new(EngineConfig { cache_dir: None, compile: Compile::InProcess }).unwrap();
        let linker = &mut Arc::get_mut(&mut engine.inner).unwrap().linker;
        linker.allow_shadowing(true);
        let mut node = linker.instance("apgar:checker/node@0.1.2").unwrap();
        node.func_wrap("name", move |mut store: StoreContextMut<'_, Host>, (): ()| {
            let node = store.data_mut().asked(0)?;
            assert_ne!(node.name.as_str(), panics_on, "an import of ours");
            Ok((node.name.as_str().to_owned(),))
        })
        .unwrap();
        engine
    }

    fn candidate(name: &str, text: &str) -> Candidate {
        Candidate {
            key: CheckerKey::from(name),
            bytes: component("plugin", text),
            settings: serde_json::json!({}),
            grants: Grants::new(),
            limits: Limits::default(),
            source: Source::Directory,
        }
    }

    fn is_ours(death: &Death, stage: Stage) {
        assert_eq!((death.cause, death.stage), (Cause::HostPanic, stage), "{death}");
        assert!(death.detail.contains("an import of ours"), "{death}");
    }

    #[tokio::test]
    async fn a_check_is_not_slow_while_the_host_stands_still() {
        let engine = engine("panics");
        let limits = Limits { soft_limit: Duration::from_nanos(1), ..Limits::default() };
        let plugin = engine.load(Candidate { limits, ..candidate("asks", ASKS) }).await.unwrap();
        let check = async |name: &str| engine.check(&plugin, Arc::new(Node::named(name))).await;
        // On a busy machine the host may stand still by itself: not each time.
        let mut slow = false;
        for _ in 0..1000 {
            slow = slow || check("well").await.slow;
        }
        assert!(slow);
        assert!(!check("panics").await.slow, "it did not complete");
        engine.inner.ticker.stall();
        let done = check("well").await;
        assert_eq!((done.verdict.result(), done.slow), ("pass", false));
    }

    /// More of them than there are permits in the engine, or slots in its pool: each is given back.
    #[tokio::test]
    async fn a_panic_of_ours_ends_one_check_and_nothing_else() {
        const PANICS: u64 = 2 * crate::limits::POOL_SLOTS as u64;
        let engine = engine("panics");
        let plugin = engine.load(candidate("asks", ASKS)).await.unwrap();
        let job =
            |id: u64, name: &str| Job { id, plugin: plugin.clone(), node: Arc::new(Node::named(name)), pods: None };
        let jobs = (0..PANICS).flat_map(|id| [job(2 * id, "panics"), job(2 * id + 1, "well")]).collect();
        let (done, mut finished) = mpsc::channel(4);
        engine.submit(jobs, done);
        let mut answered = 0;
        while let Some(batch) = finished.recv().await {
            for Finished { id, result, .. } in batch {
                answered += 1;
                assert_eq!(result.fault, None);
                assert!(!result.remember || id % 2 == 1);
                match (id % 2, &result.verdict, &result.death) {
                    (0, Verdict::Unknown(why), Some(death)) => {
                        is_ours(death, Stage::Check);
                        assert_eq!(why.cause, UnknownCause::Crashed);
                    }
                    (1, Verdict::Pass(_), None) => {}
                    _ => panic!("{id}: {result:?}"),
                }
            }
        }
        assert_eq!(answered, 2 * PANICS);
        let done = engine.check(&plugin, Arc::new(Node::named("well"))).await;
        assert_eq!(done.verdict.result(), "pass", "{done:?}");
    }

    #[tokio::test]
    async fn a_panic_of_ours_in_a_start_is_a_death_of_that_start() {
        let engine = engine("apgar-self-check");
        for _ in 0..4 {
            let LoadError::Death(death) = engine.load(candidate("asks", ASKS)).await.unwrap_err() else {
                panic!("it was the guest's doing");
            };
            is_ours(&death, Stage::SelfCheck);
        }
        let does_not_ask = ASKS.replace("(call $name (i32.const 1024))", "");
        let plugin = engine.load(candidate("does-not", &does_not_ask)).await.unwrap();
        let done = engine.check(&plugin, Arc::new(Node::named("well"))).await;
        assert_eq!(done.verdict.result(), "pass", "{done:?}");
    }
}

//! The simulated API server: starting it, reaching it, and changing its objects from inside the process.

pub(crate) mod api;
mod evict;
mod managed;
mod read;
mod render;
mod watch;
mod write;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::clock::{self, Clock};
use crate::faults::Faults;
use crate::link::{Caller, Gate, Link};
use crate::patch::as_map;
use crate::record::{Log, Request};
use crate::refusal::Refusal;
use crate::resource::{Resource, built_ins};
use crate::store::{Kind, Store};
use crate::task;

/// How the server is set up. Change single fields of the default.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Seed of uids and of the draws that faults make.
    pub seed: u64,
    /// Changes remembered per kind. What a watch missed beyond that is 410. 10 000 changed nodes are about 60 MB.
    pub history: usize,
    /// Time between bookmarks of a watch that asked for them. The real server sends one about every minute.
    pub bookmark_interval: Duration,
    /// How long a watch without `timeoutSeconds` lasts.
    pub watch_timeout: Duration,
    /// Latest requests remembered.
    pub request_log: usize,
    /// Kubernetes version to claim.
    pub version: String,
    /// Kinds beside the built-in ones, as CRDs would add them.
    pub resources: Vec<Resource>,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            port: 0,
            seed: 1,
            history: 10_000,
            bookmark_interval: Duration::from_secs(60),
            watch_timeout: Duration::from_secs(30 * 60),
            request_log: 10_000,
            version: "v1.33.4+k3s1".to_owned(),
            resources: Vec::new(),
        }
    }
}

/// A Kubernetes API server on loopback. Dropping it resets its connections and frees the port.
pub struct ApiServer {
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

/// What requests are answered from.
pub(crate) struct Shared {
    config: SimConfig,
    clock: Clock,
    store: Arc<Store>,
    log: Log,
    faults: Faults,
    link: Arc<Link>,
}

impl ApiServer {
    /// Binds and serves. Must be called in a tokio runtime.
    pub fn start(config: SimConfig) -> io::Result<Self> {
        let link = Link::bind(config.port)?;
        let mut resources = built_ins();
        resources.extend(config.resources.iter().cloned());
        let store = Arc::new(Store::new(resources, config.history, config.seed));
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            log: Log::new(config.request_log),
            // Another stream than the uids', so that adding an object does not shift the faults.
            faults: Faults::new(Arc::clone(&link), Arc::clone(&store), !config.seed),
            store,
            link: Arc::clone(&link),
            config,
        });
        let router = Router::new().fallback(api::answer).with_state(Arc::clone(&shared));
        let serving = serve(link, router);
        Ok(Self { shared, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.link.address()
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// A kubeconfig for kube's client and kubectl.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: sim\n  cluster:\n    server: {}\ncontexts:\n- name: sim\n  context:\n    cluster: sim\n    user: sim\ncurrent-context: sim\nusers:\n- name: sim\n  user:\n    token: sim\n",
            self.url()
        )
    }

    /// What goes wrong on purpose.
    pub fn faults(&self) -> Faults {
        self.shared.faults.clone()
    }

    /// The nodes, to be changed without HTTP.
    pub fn nodes(&self) -> Objects {
        self.objects("v1", "nodes").unwrap_or_else(|| self.nothing())
    }

    /// The leases, to be changed without HTTP.
    pub fn leases(&self) -> Objects {
        self.objects("coordination.k8s.io/v1", "leases").unwrap_or_else(|| self.nothing())
    }

    /// The pods, to be changed without HTTP.
    pub fn pods(&self) -> Objects {
        self.objects("v1", "pods").unwrap_or_else(|| self.nothing())
    }

    /// Objects of any kind the server knows.
    pub fn objects(&self, api_version: &str, plural: &str) -> Option<Objects> {
        let (kind, _) = self.shared.store.kind(api_version, plural)?;
        Some(Objects { shared: Arc::clone(&self.shared), kind })
    }

    /// A handle to a kind that is not there: it holds nothing and refuses writes.
    fn nothing(&self) -> Objects {
        Objects { shared: Arc::clone(&self.shared), kind: Kind::UNKNOWN }
    }

    /// The latest requests, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.log.all()
    }

    /// Those that were meant to change something.
    pub fn writes(&self) -> Vec<Request> {
        self.requests().into_iter().filter(Request::is_write).collect()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.shared.log.clear();
    }

    /// Waits until the requests satisfy `enough`, or for `within`; answers what came, and whether it was enough.
    pub async fn requests_until(
        &self,
        within: Duration,
        enough: impl FnMut(&[Request]) -> bool,
    ) -> Result<Vec<Request>, Vec<Request>> {
        let waiting = self.shared.log.until(enough);
        tokio::time::timeout(within, waiting).await.map_err(|_| self.requests())
    }

    /// The version of the latest write.
    pub fn resource_version(&self) -> u64 {
        self.shared.store.version()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.serving.abort();
        self.shared.link.close();
    }
}

/// Serves a router on a link until aborted.
pub(crate) fn serve(link: Arc<Link>, router: Router) -> JoinHandle<()> {
    let service = router.into_make_service_with_connect_info::<Caller>();
    task::spawn("server", async move {
        if let Err(error) = axum::serve(Gate(link), service).await {
            tracing::error!(%error, "the simulated server ended");
        }
    })
}

/// The objects of one kind, changed from inside the process. Watches see it at once; no request is logged, no fault strikes.
/// Names in namespaces are written `namespace/name`.
#[derive(Clone)]
pub struct Objects {
    shared: Arc<Shared>,
    kind: Kind,
}

impl Objects {
    /// Creates the object or replaces it whole, status included. Keeps a uid and creation time that it brings;
    /// a replaced object keeps those it has unless others are brought. Answers the new version.
    pub fn apply(&self, mut value: Value) -> Result<u64, Refusal> {
        let store = &self.shared.store;
        let resource = store.resource(self.kind).ok_or_else(Refusal::no_such_path)?;
        let metadata = as_map(as_map(&mut value).entry("metadata").or_insert(json!({})));
        let text = |field: &str| metadata.get(field).and_then(Value::as_str);
        let name = text("name").unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(Refusal::invalid(&resource.kind, "", "metadata.name", "Required value"));
        }
        let key = match text("namespace") {
            Some(namespace) if resource.namespaced => format!("{namespace}/{name}"),
            _ => name,
        };
        let brought = ["uid", "creationTimestamp"].map(|field| (field, metadata.get(field).cloned()));
        loop {
            let current = store.get(self.kind, &key);
            let old = current.as_ref().map(|o| o.value(resource));
            for (field, brought) in &brought {
                let kept = old.as_ref().and_then(|o| o.get("metadata")?.get(field)).cloned();
                let fresh = || match *field {
                    "uid" => store.uid().into(),
                    _ => clock::seconds(self.shared.clock.now()).into(),
                };
                let chosen = brought.clone().or(kept).unwrap_or_else(fresh);
                as_map(as_map(&mut value).entry("metadata").or_insert(json!({}))).insert((*field).to_owned(), chosen);
            }
            // If somebody wrote in between, what we bring replaces that as well.
            if let Ok(object) = store.put(self.kind, &key, current.map(|o| o.version), &mut value) {
                return Ok(object.version);
            }
        }
    }

    /// Reads, changes and writes; the closure runs again if another write came in between. Answers the new version.
    pub fn update(&self, key: &str, mut change: impl FnMut(&mut Value)) -> Result<u64, Refusal> {
        let store = &self.shared.store;
        let resource = store.resource(self.kind).ok_or_else(Refusal::no_such_path)?;
        loop {
            let current = store.get(self.kind, key).ok_or_else(|| Refusal::not_found(&resource.full_name(), key))?;
            let mut value = current.value(resource);
            change(&mut value);
            if let Ok(object) = store.put(self.kind, key, Some(current.version), &mut value) {
                return Ok(object.version);
            }
        }
    }

    /// Deletes at once, whatever its finalizers. Answers whether it was there.
    pub fn delete(&self, key: &str) -> bool {
        let store = &self.shared.store;
        while let (Some(current), Some(resource)) = (store.get(self.kind, key), store.resource(self.kind)) {
            let mut last = current.value(resource);
            if store.remove(self.kind, key, current.version, &mut last).is_ok() {
                return true;
            }
        }
        false
    }

    /// The object, with its type.
    pub fn get(&self, key: &str) -> Option<Value> {
        let store = &self.shared.store;
        Some(store.get(self.kind, key)?.value(store.resource(self.kind)?))
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        let (_, objects) = self.shared.store.all(self.kind);
        objects.keys().map(|key| key.to_string()).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shared.store.all(self.kind).1.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Watches that are open on this kind, for tests that must not act before the watch is there. Callers in [`Objects::until`] count too.
    pub fn watchers(&self) -> usize {
        self.shared.store.watchers(self.kind)
    }

    /// Waits until the kind satisfies `enough`, looking anew after each write, or for `within`. Answers whether it did.
    pub async fn until(&self, within: Duration, mut enough: impl FnMut(&Self) -> bool) -> bool {
        let Some(mut changed) = self.shared.store.subscribe(self.kind) else {
            return false;
        };
        let waiting = async {
            loop {
                changed.borrow_and_update();
                if enough(self) || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(within, waiting).await.is_ok()
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.shared.clock.now()
    }
}

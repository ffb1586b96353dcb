//! The simulated cloud: the two calls of the Civo API that matter, and every way in which they are known to go wrong.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{Request as HttpRequest, Response, header};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::link::{Caller, Link, Partition};
use crate::random;
use crate::record::{Log, Request};
use crate::server::api::respond;
use crate::server::serve;

const BODY_MAX: usize = 64 * 1024;

/// One machine of the cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Id in the cloud, as in the node's `spec.providerID` after `civo://`.
    pub id: String,
    /// Host name; usually the node's name.
    pub hostname: String,
}

/// The machines behind the cloud's API: a fleet, or an [`Inventory`].
pub trait Machines: Send + Sync + 'static {
    /// All instances of the cluster.
    fn instances(&self) -> Vec<Instance>;
    /// Power-cycles one. Returns at once; the machine takes its time.
    fn hard_reboot(&self, id: &str);
}

/// A list of machines that nothing happens to.
#[derive(Debug, Default)]
pub struct Inventory(Vec<Instance>);

impl Inventory {
    /// From `(id, hostname)` pairs; host names may repeat.
    pub fn new(pairs: &[(&str, &str)]) -> Self {
        let instance = |&(id, hostname): &(&str, &str)| Instance { id: id.to_owned(), hostname: hostname.to_owned() };
        Self(pairs.iter().map(instance).collect())
    }
}

impl Machines for Inventory {
    fn instances(&self) -> Vec<Instance> {
        self.0.clone()
    }

    fn hard_reboot(&self, _id: &str) {}
}

/// How the cloud is set up. Change single fields of the default.
#[derive(Debug, Clone)]
pub struct CloudConfig {
    /// Port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// The key that is let in. 401 for any other.
    pub key: String,
    /// The cluster's id. 404 for any other.
    pub cluster: String,
    /// The region. A call that names another finds nothing; one that names none is served, as the account's default.
    pub region: String,
    /// Calls allowed in a span of time; more are answered 429 with `Retry-After`.
    pub rate: Option<(usize, Duration)>,
    /// Seed of the draws that rules with a share make.
    pub seed: u64,
}

impl Default for CloudConfig {
    fn default() -> Self {
        Self {
            port: 0,
            key: "sim-key".to_owned(),
            cluster: "sim-cluster".to_owned(),
            region: "LON1".to_owned(),
            rate: None,
            seed: 1,
        }
    }
}

/// The two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudCall {
    /// `GET /v2/kubernetes/clusters/{cluster}/instances`.
    List,
    /// `POST /v2/instances/{id}/hard_reboots`.
    Reboot,
}

/// What the client gets to see.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The call succeeds, as far as the machine exists.
    Normal,
    /// 200 and an object without `result`.
    NoResult,
    /// 200 and this `result`, for example `pending`.
    Result(String),
    /// This code, with the cloud's usual error body.
    Status {
        /// HTTP status code.
        code: u16,
        /// Seconds for the `Retry-After` header.
        retry_after: Option<u64>,
    },
    /// This code and this text, for example 200 and something that is not JSON.
    Raw(u16, String),
    /// Reads the request and never answers.
    Hang,
    /// Reads the request and resets the connection.
    Reset,
}

/// A way for calls to go wrong, and which calls it meets.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudRule {
    call: CloudCall,
    instance: Option<String>,
    share: f64,
    times: Option<u32>,
    latency: Duration,
    answer: Answer,
    reboots: Option<bool>,
}

impl CloudRule {
    /// Meets every such call until narrowed.
    pub fn new(call: CloudCall, answer: Answer) -> Self {
        Self { call, instance: None, share: 1.0, times: None, latency: Duration::ZERO, answer, reboots: None }
    }

    /// Only reboots of this instance.
    pub fn of(mut self, instance: &str) -> Self {
        self.instance = Some(instance.to_owned());
        self
    }

    /// Only this share of the calls, 0 to 1.
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Only so many times; then the rule is gone.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Answers later.
    pub fn later(mut self, by: Duration) -> Self {
        self.latency = by;
        self
    }

    /// Whether the machine really reboots, whatever the answer says. Without this it does exactly if the answer has code 200.
    pub fn really(mut self, reboots: bool) -> Self {
        self.reboots = Some(reboots);
        self
    }
}

/// The cloud's API on loopback. Dropping it resets its connections and frees the port.
pub struct Cloud {
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    config: CloudConfig,
    link: Arc<Link>,
    log: Log,
    machines: Arc<dyn Machines>,
    inner: Mutex<Inner>,
}

struct Inner {
    rules: Vec<CloudRule>,
    rng: StdRng,
    recent: VecDeque<Instant>,
    reboots: BTreeMap<String, u32>,
}

impl Cloud {
    /// Binds and serves. Must be called in a tokio runtime.
    pub fn start(config: CloudConfig, machines: Arc<dyn Machines>) -> io::Result<Self> {
        let link = Link::bind(config.port)?;
        let shared = Arc::new(Shared {
            link: Arc::clone(&link),
            log: Log::new(10_000),
            machines,
            inner: Mutex::new(Inner {
                rules: Vec::new(),
                rng: random::rng(config.seed),
                recent: VecDeque::new(),
                reboots: BTreeMap::new(),
            }),
            config,
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let serving = serve(link, router);
        Ok(Self { shared, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.link.address()
    }

    /// `http://127.0.0.1:<port>`, for `CIVO_API_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The settings it was started with.
    pub fn config(&self) -> &CloudConfig {
        &self.shared.config
    }

    /// Adds a rule. The first that meets a call decides.
    pub fn add(&self, rule: CloudRule) {
        self.shared.lock().rules.push(rule);
    }

    /// Takes all rules away.
    pub fn clear_rules(&self) {
        self.shared.lock().rules.clear();
    }

    /// Cuts cloud and clients apart, or joins them again. In force when it returns.
    pub fn partition(&self, partition: Partition) -> io::Result<()> {
        self.shared.link.partition(partition)
    }

    /// All calls, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.log.all()
    }

    /// Forgets the calls so far.
    pub fn clear_requests(&self) {
        self.shared.log.clear();
    }

    /// Waits until the calls satisfy `enough`, or for `within`; answers what came, and whether it was enough.
    pub async fn requests_until(
        &self,
        within: Duration,
        enough: impl FnMut(&[Request]) -> bool,
    ) -> Result<Vec<Request>, Vec<Request>> {
        let waiting = self.shared.log.until(enough);
        tokio::time::timeout(within, waiting).await.map_err(|_| self.requests())
    }

    /// How often each instance was really power-cycled, by id.
    pub fn reboots(&self) -> BTreeMap<String, u32> {
        self.shared.lock().reboots.clone()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.serving.abort();
        self.shared.link.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds until the next call is allowed, if this one is not.
    fn throttled(&self) -> Option<u64> {
        let (most, span) = self.config.rate?;
        let now = Instant::now();
        let mut inner = self.lock();
        while inner.recent.front().is_some_and(|at| now.duration_since(*at) >= span) {
            inner.recent.pop_front();
        }
        if inner.recent.len() < most {
            inner.recent.push_back(now);
            return None;
        }
        let oldest = inner.recent.front().copied().unwrap_or(now);
        let wait = span.saturating_sub(now.duration_since(oldest));
        Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
    }

    fn rule(&self, call: CloudCall, instance: &str) -> Option<CloudRule> {
        let mut inner = self.lock();
        let Inner { rules, rng, .. } = &mut *inner;
        let place = rules.iter().position(|rule| {
            rule.call == call
                && rule.instance.as_deref().is_none_or(|wanted| wanted == instance)
                && (rule.share >= 1.0 || rng.random_bool(rule.share.clamp(0.0, 1.0)))
        })?;
        let rule = rules.get_mut(place)?;
        let met = rule.clone();
        rule.times = rule.times.map(|t| t.saturating_sub(1));
        if rule.times == Some(0) {
            rules.remove(place);
        }
        Some(met)
    }

    fn reboot(&self, id: &str) {
        *self.lock().reboots.entry(id.to_owned()).or_default() += 1;
        self.machines.hard_reboot(id);
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(Caller(line)): ConnectInfo<Caller>,
    request: HttpRequest<Body>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_MAX).await.unwrap_or_default();
    let text = |name: header::HeaderName| {
        let value = head.headers.get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let path = head.uri.path().to_owned();
    shared.log.push(Request {
        method: head.method.to_string(),
        path: path.clone(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
        content_type: text(header::CONTENT_TYPE),
        user_agent: text(header::USER_AGENT),
    });
    let key = text(header::AUTHORIZATION);
    let key = key.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    if key.is_none_or(|(_, key)| key != shared.config.key) {
        return error(401, None, "authentication_invalid_key");
    }
    if let Some(seconds) = shared.throttled() {
        return error(429, Some(seconds), "rate_limit_exceeded");
    }
    let query = Query::<BTreeMap<String, String>>::try_from_uri(&head.uri);
    let query = query.map(|q| q.0).unwrap_or_default();
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let (call, subject) = match (head.method.as_str(), segments.as_slice()) {
        ("GET", ["v2", "kubernetes", "clusters", cluster, "instances"]) => (CloudCall::List, *cluster),
        ("POST", ["v2", "instances", id, "hard_reboots"]) => (CloudCall::Reboot, *id),
        _ => return error(404, None, "not_found"),
    };
    let rule = shared.rule(call, subject);
    let rule = rule.unwrap_or_else(|| CloudRule::new(call, Answer::Normal));
    let region = query.get("region").filter(|r| !r.is_empty());
    let here = region.is_none_or(|r| *r == shared.config.region);
    let found = here
        && match call {
            CloudCall::List => subject == shared.config.cluster,
            CloudCall::Reboot => shared.machines.instances().iter().any(|i| i.id == subject),
        };
    let accepted = match &rule.answer {
        Answer::Normal | Answer::NoResult | Answer::Result(_) => true,
        Answer::Raw(code, _) => *code == 200,
        Answer::Status { .. } | Answer::Hang | Answer::Reset => false,
    };
    if call == CloudCall::Reboot && found && rule.reboots.unwrap_or(accepted) {
        shared.reboot(subject);
    }
    if !rule.latency.is_zero() {
        tokio::time::sleep(rule.latency).await;
    }
    match rule.answer {
        Answer::Normal if !found && call == CloudCall::List => {
            error(404, None, "database_kubernetes_cluster_not_found")
        }
        Answer::Normal if !found => error(404, None, "database_instance_not_found"),
        Answer::Normal if call == CloudCall::List => json_answer(&listed(&*shared.machines)),
        Answer::Normal => json_answer(&json!({ "result": "success" })),
        Answer::NoResult => json_answer(&json!({})),
        Answer::Result(result) => json_answer(&json!({ "result": result })),
        Answer::Status { code, retry_after } => error(code, retry_after, "simulated"),
        Answer::Raw(code, text) => respond(code, "application/json", None, Body::from(text)),
        Answer::Hang => std::future::pending().await,
        Answer::Reset => {
            line.reset();
            std::future::pending().await
        }
    }
}

fn listed(machines: &dyn Machines) -> Value {
    let entry = |i: Instance| json!({ "id": i.id, "hostname": i.hostname, "status": "ACTIVE" });
    machines.instances().into_iter().map(entry).collect()
}

fn json_answer(value: &Value) -> Response<Body> {
    respond(200, "application/json", None, Body::from(value.to_string()))
}

fn error(code: u16, retry_after: Option<u64>, what: &str) -> Response<Body> {
    let body = json!({ "code": what, "reason": what.replace('_', " ") });
    respond(code, "application/json", retry_after, Body::from(body.to_string()))
}

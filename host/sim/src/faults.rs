//! What goes wrong on purpose, changed while the server runs.
//!
//! Rules are tried in the order they were added. Shares are drawn from the server's seed, so a run repeats.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;

use crate::link::{Link, Partition};
use crate::random;
use crate::store::Store;

/// What a rule does to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answers later. Adds up over rules.
    Latency(Duration),
    /// Answers with this code and does nothing. 403 denies, 401, 410, 429, 500, 503 and 504 are worded as the real server words them.
    Status {
        /// HTTP status code.
        code: u16,
        /// Seconds for the `Retry-After` header.
        retry_after: Option<u64>,
    },
    /// Reads the request and never answers.
    Hang,
    /// Reads the request, does nothing and resets the connection.
    Reset,
    /// Carries the request out and resets the connection instead of answering: the client cannot know.
    LoseAnswer,
}

/// A fault, and which requests it meets. All of the conditions must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    method: Option<String>,
    path: Option<String>,
    share: f64,
    times: Option<u32>,
    effect: Effect,
}

impl Rule {
    /// Meets every request until narrowed.
    pub fn new(effect: Effect) -> Self {
        Self { method: None, path: None, share: 1.0, times: None, effect }
    }

    /// Only this method. `WATCH` means a GET that opens a watch, and `GET` then any other.
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Only paths that contain this.
    pub fn path(mut self, part: &str) -> Self {
        self.path = Some(part.to_owned());
        self
    }

    /// Only this share of the requests, 0 to 1.
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Only so many times; then the rule is gone.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }
}

/// Names a rule for removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

/// How open watches are disturbed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Disturbance {
    /// Grows with each drop: a watch that began under another number is broken off.
    pub(crate) drops: u64,
    pub(crate) stalled: bool,
    pub(crate) no_bookmarks: bool,
    pub(crate) gone_as_http: bool,
}

/// Handle to a server's faults. Clones act on the same server.
#[derive(Clone)]
pub struct Faults(Arc<Inner>);

struct Inner {
    link: Arc<Link>,
    store: Arc<Store>,
    rules: Mutex<Rules>,
    watches: watch::Sender<Disturbance>,
}

struct Rules {
    rng: StdRng,
    next: u64,
    list: BTreeMap<RuleId, Rule>,
}

impl Faults {
    pub(crate) fn new(link: Arc<Link>, store: Arc<Store>, seed: u64) -> Self {
        Self(Arc::new(Inner {
            link,
            store,
            rules: Mutex::new(Rules { rng: random::rng(seed), next: 0, list: BTreeMap::new() }),
            watches: watch::Sender::new(Disturbance::default()),
        }))
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.0.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule behind those there are.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut rules = self.rules();
        let id = RuleId(rules.next);
        rules.next += 1;
        rules.list.insert(id, rule);
        id
    }

    /// Takes a rule away. Nothing happens if it is gone already.
    pub fn remove(&self, id: RuleId) {
        self.rules().list.remove(&id);
    }

    /// Takes all rules away, heals the network and lets watches run again.
    pub fn clear(&self) -> io::Result<()> {
        self.rules().list.clear();
        self.0.watches.send_modify(|d| {
            d.stalled = false;
            d.no_bookmarks = false;
            d.gone_as_http = false;
        });
        self.partition(Partition::Healed)
    }

    /// Every answer comes this much later.
    pub fn latency(&self, by: Duration) -> RuleId {
        self.add(Rule::new(Effect::Latency(by)))
    }

    /// This share of the requests is answered with a code: 429, 500, 503, …
    pub fn status(&self, code: u16, retry_after: Option<u64>, share: f64) -> RuleId {
        self.add(Rule::new(Effect::Status { code, retry_after }).share(share))
    }

    /// 403 for a method on paths that contain `path`, as missing RBAC would have it.
    pub fn deny(&self, method: &str, path: &str) -> RuleId {
        let effect = Effect::Status { code: 403, retry_after: None };
        self.add(Rule::new(effect).method(method).path(path))
    }

    /// Breaks off all open watches, without the orderly end of a response.
    pub fn drop_watches(&self) {
        self.0.watches.send_modify(|d| d.drops += 1);
    }

    /// Open watches stay open and say nothing, not even bookmarks; nothing is lost once they go on.
    pub fn stall_watches(&self, stalled: bool) {
        self.0.watches.send_modify(|d| d.stalled = stalled);
    }

    /// Watches send no bookmarks.
    pub fn forget_bookmarks(&self, forget: bool) {
        self.0.watches.send_modify(|d| d.no_bookmarks = forget);
    }

    /// A watch that asks for a version too old is answered with the HTTP code 410 instead of an ERROR event. Real servers do either.
    pub fn gone_as_http(&self, http: bool) {
        self.0.watches.send_modify(|d| d.gone_as_http = http);
    }

    /// Forgets history: what begins at an older version or goes on with an older list is told 410.
    /// The version moves on, so that what was current a moment ago is too old as well.
    pub fn expire_history(&self) {
        self.0.store.advance();
        self.0.store.compact();
    }

    /// Cuts server and clients apart, or joins them again. In force when it returns.
    pub fn partition(&self, partition: Partition) -> io::Result<()> {
        self.0.link.partition(partition)
    }

    /// Resets all open connections once; new ones are accepted.
    pub fn reset_connections(&self) {
        self.0.link.reset();
    }

    /// What befalls one request: how much later it is answered, and what else.
    pub(crate) fn strike(&self, method: &str, path: &str) -> (Duration, Option<Effect>) {
        let mut rules = self.rules();
        let Rules { rng, list, .. } = &mut *rules;
        let mut later = Duration::ZERO;
        let mut struck = None;
        for rule in list.values_mut() {
            let meets = rule.method.as_deref().is_none_or(|m| m == method)
                && rule.path.as_deref().is_none_or(|p| path.contains(p))
                && rule.times != Some(0)
                // No draw for a certainty: adding such a rule must not shift the others' luck.
                && (rule.share >= 1.0 || rng.random_bool(rule.share.clamp(0.0, 1.0)));
            if !meets {
                continue;
            }
            rule.times = rule.times.map(|t| t - 1);
            match &rule.effect {
                Effect::Latency(by) => later += *by,
                effect @ (Effect::Status { .. } | Effect::Hang | Effect::Reset | Effect::LoseAnswer) => {
                    struck = Some(effect.clone());
                    break;
                }
            }
        }
        list.retain(|_, rule| rule.times != Some(0));
        (later, struck)
    }

    pub(crate) fn disturbance(&self) -> watch::Receiver<Disturbance> {
        self.0.watches.subscribe()
    }
}

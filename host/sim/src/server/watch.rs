//! One open watch: what changed since a version, filtered, as a stream of JSON lines; bookmarks; the end.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::faults::Disturbance;
use crate::object::Object;
use crate::refusal::Refusal;
use crate::resource::Resource;
use crate::selector::Filter;
use crate::server::render::Form;
use crate::store::{Change, Kind, Store};

/// Changes read under one lock and sent as one chunk: about a megabyte of nodes.
const BATCH: usize = 256;

/// What a client asked for.
pub(crate) struct WatchOptions {
    pub(crate) filter: Filter,
    pub(crate) form: Form,
    /// Version to go on from; `None` begins with all objects there are, as ADDED.
    pub(crate) from: Option<u64>,
    /// The client wants to be told by a bookmark when those objects have all been sent.
    pub(crate) mark_initial: bool,
    pub(crate) bookmarks: bool,
    pub(crate) bookmark_interval: Duration,
    pub(crate) lasts: Duration,
}

pub(crate) struct Watch {
    store: Arc<Store>,
    kind: Kind,
    options: WatchOptions,
    seen: u64,
    initial: VecDeque<Arc<Object>>,
    mark_initial: bool,
    changed: watch::Receiver<u64>,
    disturbance: watch::Receiver<Disturbance>,
    drops: u64,
    ends: Instant,
    bookmark: Instant,
    over: bool,
}

impl Watch {
    /// `Err` if the version is too old.
    pub(crate) fn open(
        store: &Arc<Store>,
        kind: Kind,
        options: WatchOptions,
        disturbance: watch::Receiver<Disturbance>,
    ) -> Result<Self, Refusal> {
        let changed = store.subscribe(kind).ok_or_else(Refusal::no_such_path)?;
        let resource = store.resource(kind).ok_or_else(Refusal::no_such_path)?;
        let (seen, initial) = match options.from {
            Some(version) => {
                store.changes(kind, version, 0).map_err(|oldest| Refusal::too_old(version, oldest.0))?;
                (version, VecDeque::new())
            }
            None => {
                let (version, objects) = store.all(kind);
                let matching = objects.values().filter(|o| options.filter.matches(resource, o));
                (version, matching.cloned().collect())
            }
        };
        let now = Instant::now();
        let drops = disturbance.borrow().drops;
        Ok(Self {
            store: Arc::clone(store),
            kind,
            seen,
            initial,
            mark_initial: options.mark_initial,
            changed,
            disturbance,
            drops,
            ends: now + options.lasts,
            bookmark: now + options.bookmark_interval,
            over: false,
            options,
        })
    }

    pub(crate) fn into_body(self) -> Body {
        Body::from_stream(futures_util::stream::unfold(self, |mut watch| async move {
            watch.next().await.map(|chunk| (chunk, watch))
        }))
    }

    /// A stream that says one thing and ends, for a version too old.
    pub(crate) fn error_body(refusal: &Refusal) -> Body {
        Body::from(line("ERROR", refusal.status().to_string().as_bytes()))
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        while !self.over {
            let disturbance = *self.disturbance.borrow_and_update();
            if disturbance.drops != self.drops {
                self.over = true;
                return Some(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if !disturbance.stalled {
                self.changed.borrow_and_update();
                let chunk = self.due(disturbance.no_bookmarks);
                if !chunk.is_empty() {
                    return Some(Ok(Bytes::from(chunk)));
                }
            }
            if self.over {
                return None;
            }
            let stalled = disturbance.stalled;
            let bookmark = self.options.bookmarks && !stalled && !disturbance.no_bookmarks;
            tokio::select! {
                changed = self.changed.changed(), if !stalled => self.over |= changed.is_err(),
                changed = self.disturbance.changed() => self.over |= changed.is_err(),
                () = sleep_until(self.ends), if !stalled => {}
                () = sleep_until(self.bookmark), if bookmark => {}
            }
        }
        None
    }

    /// What is to be sent now.
    fn due(&mut self, no_bookmarks: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(resource) = self.store.resource(self.kind) else {
            return out;
        };
        let form = self.options.form;
        if !self.initial.is_empty() {
            let count = self.initial.len().min(BATCH);
            for object in self.initial.drain(..count) {
                form.event("ADDED", resource, &object, &mut out);
            }
            return out;
        }
        if std::mem::take(&mut self.mark_initial) {
            out.extend(self.bookmark_line(resource, true));
            return out;
        }
        match self.store.changes(self.kind, self.seen, BATCH) {
            Ok((changes, seen)) => {
                self.seen = seen;
                for change in &changes {
                    self.write_change(resource, change, &mut out);
                }
            }
            // It fell behind the history, as a slow client of the real server does.
            Err(oldest) => {
                self.over = true;
                let refusal = Refusal::too_old(self.seen, oldest.0);
                return line("ERROR", refusal.status().to_string().as_bytes());
            }
        }
        if !out.is_empty() {
            return out;
        }
        let now = Instant::now();
        let ends = now >= self.ends;
        self.over |= ends;
        if self.options.bookmarks && !no_bookmarks && (ends || now >= self.bookmark) {
            self.bookmark = now + self.options.bookmark_interval;
            out.extend(self.bookmark_line(resource, false));
        }
        out
    }

    /// An object that comes to match is ADDED to this watch, and one that no longer matches DELETED, whatever happened to it.
    fn write_change(&self, resource: &Resource, change: &Change, out: &mut Vec<u8>) {
        let filter = &self.options.filter;
        let matches = |object: &Object| filter.matches(resource, object);
        let was = change.before.as_deref().is_some_and(matches);
        let is = !change.deleted && matches(&change.object);
        let kind = match (was, is) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return,
        };
        self.options.form.event(kind, resource, &change.object, out);
    }

    fn bookmark_line(&self, resource: &Resource, initial_end: bool) -> Vec<u8> {
        let mut metadata = json!({ "resourceVersion": self.seen.to_string(), "creationTimestamp": null });
        if let (true, Some(map)) = (initial_end, metadata.as_object_mut()) {
            map.insert("annotations".to_owned(), json!({ "k8s.io/initial-events-end": "true" }));
        }
        let bookmark: Value =
            json!({ "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata });
        line("BOOKMARK", bookmark.to_string().as_bytes())
    }
}

fn line(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = format!("{{\"type\":\"{kind}\",\"object\":").into_bytes();
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out
}

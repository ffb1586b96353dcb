//! The informer: lists objects of a kind, then watches, and tells the loop what changed and whether it still hears
//! the API server. It decides nothing; it never gives up.

use std::time::Duration;

use apgar_core::fleet::ReconcileError;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt;
use kube::api::WatchParams;
use kube::core::WatchEvent;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::error::chain;
use crate::kubernetes::{self, ANSWER_LIMIT, Selection};
use crate::object::{Interner, Kind, Nodes, Raw};

/// A watch that was silent for half of `watch_alive` (2 min, `lifecycle` 4.8) is closed and opened again: a
/// bookmark comes about every minute, so silence means a connection that died without a word.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// How long the API server keeps one watch open. Above [`SILENCE_LIMIT`], so that ours ends the silent ones.
const WATCH_SECONDS: u32 = 290;

/// A watch that ends within this time without a word was not agreed to: a proxy that answers with an empty body
/// would be asked as fast as the network allows.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// The longest wait between two tries: a server that is back is noticed within half a minute, and one that
/// struggles is not hammered by us.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(LONGEST_WAIT)
        .without_max_times()
        .with_jitter()
        .build()
}

/// What the informer tells the loop: what is kept of objects, and what is known of those that are gone.
#[derive(Debug)]
pub enum Change<Kept, Gone> {
    /// A complete list of the selected objects.
    Listed(Vec<Kept>),
    /// An object was added or modified.
    Applied(Kept),
    /// An object was deleted, or left the selection.
    Deleted(Gone),
    /// The stream is open and said something: an event, a bookmark, or that it opened.
    Heard,
    /// The stream ended, or could not be opened, with the reason for people.
    Lost {
        /// `list_nodes` or `watch`.
        during: ReconcileError,
        /// What happened; `None` for a watch that ended as agreed or fell silent, and is opened again at once.
        why: Option<String>,
    },
}

/// What is told of a kind.
pub type ChangeOf<K> = Change<<K as Kind>::Kept, <K as Kind>::Gone>;

/// What is told of nodes.
pub type NodeChange = ChangeOf<Nodes>;

/// Runs until the receiver is gone.
pub async fn run<K: Kind>(client: Client, selection: Selection, changes: mpsc::Sender<ChangeOf<K>>) {
    let strings = Interner::default();
    let informer = Informer::<K> { api: Api::all(client), selection, changes, strings, listed_none: false };
    // The receiver is the loop: when it is gone, nobody wants to know any more.
    let _stopped: Option<()> = informer.run().await;
}

struct Informer<K: Kind> {
    api: Api<Raw<K>>,
    selection: Selection,
    changes: mpsc::Sender<ChangeOf<K>>,
    strings: Interner,
    /// The last list had no object. Only further lists make the core believe that (`recovery` 4.7), so the watch
    /// gives way to a new one about once a minute.
    listed_none: bool,
}

/// Why a watch ended.
enum Ended {
    /// As agreed, or by silence: it may go on from the last resource version.
    Resume,
    /// The resource version is too old: only a new list helps.
    Relist,
}

impl<K: Kind> Informer<K> {
    async fn run(mut self) -> Option<()> {
        let mut waits = backoff();
        loop {
            let mut version = match self.list().await {
                Ok((objects, version)) => {
                    self.listed_none = objects.is_empty();
                    self.send(Change::Listed(objects)).await?;
                    waits = backoff();
                    version
                }
                Err(why) => {
                    self.lost(ReconcileError::ListNodes, Some(why)).await?;
                    tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
                    continue;
                }
            };
            let listed = Instant::now();
            while let Ended::Resume = self.watch(&mut version, &mut waits).await? {}
            // Until the list is there and a stream is open again, what is known may be old (`gate` 3, StaleView).
            self.lost(ReconcileError::Watch, None).await?;
            if listed.elapsed() < SHORTEST_WATCH {
                // A list that is too old before it can be watched must not be asked for without end.
                tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
            }
        }
    }

    async fn list(&mut self) -> Result<(Vec<K::Kept>, String), String> {
        let mut objects = Vec::new();
        let strings = &mut self.strings;
        let take = |page: Vec<Raw<K>>| objects.extend(page.iter().filter_map(|raw| K::keep(&raw.value, strings)));
        let version = kubernetes::list(&self.api, &self.selection, take).await?;
        Ok((objects, version))
    }

    /// Watches from `version` on until the stream ends. `None` when the loop is gone.
    async fn watch(&mut self, version: &mut String, waits: &mut ExponentialBackoff) -> Option<Ended> {
        let mut params = WatchParams::default().timeout(WATCH_SECONDS);
        params.label_selector.clone_from(&self.selection.labels);
        params.field_selector.clone_from(&self.selection.fields);
        let opened = timeout(ANSWER_LIMIT, self.api.watch(&params, version)).await;
        let stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(kube::Error::Api(status))) if status.code == 410 => return Some(Ended::Relist),
            Ok(Err(error)) => return self.pause(chain(&error), waits).await,
            Err(_) => return self.pause("no answer to the watch".to_owned(), waits).await,
        };
        self.send(Change::Heard).await?;
        let opened = Instant::now();
        let mut heard = false;
        let mut stream = std::pin::pin!(stream);
        loop {
            let event = match timeout(SILENCE_LIMIT, stream.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => return self.pause(chain(&error), waits).await,
                Ok(None) if !heard && opened.elapsed() < SHORTEST_WATCH => {
                    return self.pause("the watch ended at once".to_owned(), waits).await;
                }
                // It ended as agreed, or was silent, which is ordinary in a small cluster: whether it opens again
                // is the question.
                Ok(None) | Err(_) => {
                    self.lost(ReconcileError::Watch, None).await?;
                    return Some(if self.listed_none { Ended::Relist } else { Ended::Resume });
                }
            };
            heard = true;
            *waits = backoff();
            match event {
                WatchEvent::Added(raw) | WatchEvent::Modified(raw) => {
                    self.advance(version, &raw);
                    match K::keep(&raw.value, &mut self.strings) {
                        Some(object) => self.send(Change::Applied(object)).await?,
                        None => self.send(Change::Heard).await?,
                    }
                }
                WatchEvent::Deleted(raw) => {
                    self.advance(version, &raw);
                    if let Some(gone) = K::gone(&raw.value, &mut self.strings) {
                        self.send(Change::Deleted(gone)).await?;
                    }
                }
                WatchEvent::Bookmark(bookmark) => {
                    *version = bookmark.metadata.resource_version;
                    self.send(Change::Heard).await?;
                    if self.listed_none {
                        return Some(Ended::Relist);
                    }
                }
                WatchEvent::Error(status) if status.code == 410 => return Some(Ended::Relist),
                WatchEvent::Error(status) => return self.pause(status.message.clone(), waits).await,
            }
        }
    }

    fn advance(&self, version: &mut String, raw: &Raw<K>) {
        if let Some(seen) = &kube::Resource::meta(raw).resource_version {
            version.clone_from(seen);
        }
    }

    async fn pause(&mut self, why: String, waits: &mut ExponentialBackoff) -> Option<Ended> {
        self.lost(ReconcileError::Watch, Some(why)).await?;
        tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
        Some(Ended::Resume)
    }

    async fn lost(&self, during: ReconcileError, why: Option<String>) -> Option<()> {
        self.send(Change::Lost { during, why }).await
    }

    async fn send(&self, change: ChangeOf<K>) -> Option<()> {
        self.changes.send(change).await.ok()
    }
}

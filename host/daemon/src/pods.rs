//! The watch on pods. It runs only while a plugin lives that reads them: all pods of a cluster are much to ask of an
//! API server, and a right that nobody else here needs.

use apgar_core::fleet::Input;
use apgar_core::pods::PodChange;
use apgar_core::time::Time;
use kube::Client;
use tokio::sync::mpsc;

use crate::informer::{self, Change, ChangeOf};
use crate::object::pod::{PodName, Pods};
use crate::watch::Watch;

/// What is told of pods.
pub type Told = ChangeOf<Pods>;

/// Changes that may wait for the loop; the informer then reads the watch later.
const WAITING: usize = 4096;

/// The watch, where there is one.
pub struct PodWatch {
    client: Client,
    changes: Option<mpsc::Receiver<Told>>,
    watch: Watch,
}

impl PodWatch {
    /// No watch yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, changes: None, watch: Watch::default() }
    }

    /// Begins it or ends it, as somebody reads pods or nobody does.
    pub fn want(&mut self, wanted: bool) -> Option<Input> {
        // One that broke is closed, and is begun anew.
        let watched = self.changes.as_ref().is_some_and(|changes| !changes.is_closed());
        if wanted == watched {
            return None;
        }
        let forget = self.changes.is_some();
        self.watch = Watch::default();
        self.changes = wanted.then(|| watch(self.client.clone()));
        forget.then_some(Input::Pods(PodChange::Forgotten))
    }

    /// Waits for what is told, and puts it into `told`. Waits for ever where there is no watch.
    pub async fn recv(&mut self, told: &mut Vec<Told>, most: usize) -> usize {
        match &mut self.changes {
            Some(changes) => changes.recv_many(told, most).await,
            None => std::future::pending().await,
        }
    }

    /// What the fleet must hear of it.
    pub fn hear(&mut self, change: Told, now: Time) -> Option<Input> {
        self.watch.hear(&change, now);
        Some(Input::Pods(match change {
            Change::Listed(pods) => PodChange::Listed(pods),
            Change::Applied((node, pod)) => PodChange::Applied(node, pod),
            Change::Deleted(PodName { node, namespace, name }) => PodChange::Deleted { node, namespace, name },
            Change::Heard => return None,
            Change::Lost { during: _, why } => {
                // The same every half minute tells nobody anything: a right that is missing stays so for long.
                let why = why.filter(|why| *why != self.watch.why)?;
                tracing::warn!(
                    event = "pods_lost",
                    why,
                    "the pods cannot be watched; checkers that read them are told that they are not known"
                );
                self.watch.why = why;
                return None;
            }
        }))
    }

    /// Whether they are known, where there is a watch.
    pub fn evidence(&self, now: Time) -> Option<Input> {
        let live = self.watch.is_believed(now);
        self.changes.is_some().then_some(Input::Pods(PodChange::Evidence { live }))
    }
}

/// Starts an informer that ends when nobody receives any more, at once and not with its next word.
fn watch(client: Client) -> mpsc::Receiver<Told> {
    let (changes, told) = mpsc::channel(WAITING);
    crate::task::spawn("pod informer", async move {
        let unwanted = changes.clone();
        tokio::select! {
            () = informer::run::<Pods>(client, Pods::all(), changes) => {}
            () = unwanted.closed() => {}
        }
    });
    told
}

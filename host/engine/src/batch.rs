//! Many checks at once. Each plugin has a queue of its own and as many runners as it has permits; a runner takes a
//! slice of work, hands in what it has, and lets others have the thread. So one plugin cannot make another wait
//! for more than a slice, and 400 000 checks cost no 400 000 tasks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use apgar_core::node::Node;
use apgar_core::pods::Pods;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::check;
use crate::clock;
use crate::drain::Drain;
use crate::engine::{Finished, Inner, Job};
use crate::host::Meter;
use crate::limits::TICK;
use crate::plugin::Plugin;

/// How long a runner keeps its thread and its permits: as long as a spinning guest does, so that both get the same
/// share of it. Shorter, and two spinning guests would leave a healthy plugin a tenth of the machine.
const SLICE: Duration = TICK;

/// Results per message: large enough that the channel costs nothing per check, small enough that the loop takes a
/// message in well below a millisecond.
const BATCH: usize = 256;

/// How long a result may wait for company.
const PATIENCE: Duration = Duration::from_millis(10);

/// The jobs of one plugin, taken from the front.
struct Queue {
    plugin: Arc<Plugin>,
    jobs: Mutex<std::vec::IntoIter<Asked>>,
    drain: Drain,
}

impl Queue {
    fn next(&self) -> Option<Asked> {
        if self.drain.begun() { None } else { crate::lock(&self.jobs).next() }
    }
}

pub(crate) fn submit(inner: &Arc<Inner>, guests: &Runtime, jobs: Vec<Job>, done: &mpsc::Sender<Vec<Finished>>) {
    for (plugin, jobs) in by_plugin(jobs) {
        let runners = plugin.at_once.min(jobs.len());
        let drain = plugin.drains.next();
        let queue = Arc::new(Queue { plugin, jobs: Mutex::new(jobs.into_iter()), drain });
        for _ in 0..runners {
            guests.spawn(run(inner.clone(), queue.clone(), done.clone()));
        }
    }
}

/// A job without its plugin.
type Asked = (u64, Arc<Node>, Option<Pods>);

type Jobs = Vec<Asked>;

fn by_plugin(jobs: Vec<Job>) -> Vec<(Arc<Plugin>, Jobs)> {
    let mut queues: Vec<(Arc<Plugin>, Jobs)> = Vec::new();
    for Job { id, plugin, node, pods } in jobs {
        // At most 64 plugins, and jobs mostly come plugin by plugin or node by node: a scan beats a map.
        match queues.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &plugin)) {
            Some((_, jobs)) => jobs.push((id, node, pods)),
            None => queues.push((plugin, vec![(id, node, pods)])),
        }
    }
    queues
}

/// Works on a queue until it is empty or drained. What ended is reported, whatever became of the rest.
async fn run(inner: Arc<Inner>, queue: Arc<Queue>, done: mpsc::Sender<Vec<Finished>>) {
    let mut finished = Vec::new();
    tokio::select! {
        biased;
        () = queue.drain.over() => {} // dropping the work drops its store and frees its permits
        () = work(&inner, &queue, &done, &mut finished) => {}
    }
    hand_in(&mut finished, &done).await;
}

async fn work(inner: &Inner, queue: &Queue, done: &mpsc::Sender<Vec<Finished>>, finished: &mut Vec<Finished>) {
    let meter = Arc::new(Meter::default());
    let mut handed_in = clock::now();
    loop {
        let (Ok(plugin_permit), Ok(engine_permit)) =
            (queue.plugin.permits.acquire().await, inner.permits.acquire().await)
        else {
            return;
        };
        let slice = clock::now();
        loop {
            let Some((id, node, pods)) = queue.next() else { return };
            let result = check::check(&queue.plugin, node.clone(), pods.clone(), &meter, &inner.ticker).await;
            finished.push(Finished { id, node, pods, plugin: queue.plugin.clone(), result });
            if finished.len() >= BATCH || slice.elapsed() >= SLICE {
                break;
            }
        }
        // Not while waiting for the receiver: it may be slow, and others are ready.
        drop((plugin_permit, engine_permit));
        if finished.len() >= BATCH || handed_in.elapsed() >= PATIENCE {
            if !hand_in(finished, done).await {
                return; // nobody wants the rest: an intended stop
            }
            handed_in = clock::now();
        }
        tokio::task::yield_now().await;
    }
}

/// False if nobody listens any more. Dropped while it waits, it has sent nothing and taken nothing.
async fn hand_in(finished: &mut Vec<Finished>, done: &mpsc::Sender<Vec<Finished>>) -> bool {
    if finished.is_empty() {
        return true;
    }
    let Ok(room) = done.reserve().await else { return false };
    room.send(std::mem::take(finished));
    true
}

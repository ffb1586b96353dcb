//! What becomes of checks that are no longer wanted. Most guests here wait for a server of the test, so that the
//! test knows what is under way.

use std::sync::Arc;
use std::time::Duration;

use apgar_engine::{Candidate, Capability, Finished, Grants, Job, Limits, Plugin, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::capabilities::asks;
use crate::support::{ENGINE, candidate, node};

/// As many checks as may be under way at once.
const AT_ONCE: u64 = limits::HTTP_PERMITS as u64;

/// Those that wait behind them.
const BEHIND: u64 = 3;

#[tokio::test]
async fn what_has_not_begun_is_dropped_and_what_is_under_way_ends() {
    let server = Server::bind().await;
    let plugin = server.asker("drained").await;
    let mut early = server.submit(&plugin, 0..AT_ONCE + BEHIND);
    let waiting = server.accept().await;
    plugin.drain(Duration::from_secs(60));
    let mut later = server.submit(&plugin, 100..101);
    for stream in waiting {
        answer(stream).await;
    }
    assert_eq!(results(&mut early).await, (0..AT_ONCE).map(|id| (id, "pass")).collect::<Vec<_>>());
    answer(server.next().await).await;
    assert_eq!(results(&mut later).await, [(100, "pass")]);
}

#[tokio::test]
async fn p_52_what_still_runs_is_dropped_with_its_store_and_is_no_death() {
    let server = Server::bind().await;
    let plugin = server.asker("cut").await;
    let mut early = server.submit(&plugin, 0..AT_ONCE + BEHIND);
    let waiting = server.accept().await;
    plugin.drain(Duration::ZERO);
    assert_eq!(results(&mut early).await, []);
    for stream in waiting {
        gone(stream).await;
    }
    // All permits are free again, and the plugin is what it was.
    let mut later = server.submit(&plugin, 0..AT_ONCE);
    for stream in server.accept().await {
        answer(stream).await;
    }
    assert_eq!(results(&mut later).await, (0..AT_ONCE).map(|id| (id, "pass")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_guest_that_spins_is_dropped_between_two_ticks() {
    let limits =
        Limits { call_deadline: limits::CALL_DEADLINE_MAX, wall_limit: limits::WALL_LIMIT_MAX, ..Limits::default() };
    let plugin = ENGINE.load(Candidate { limits, ..candidate("spins", &crate::component::GUEST) }).await.unwrap();
    let (done, mut finished) = mpsc::channel(16);
    ENGINE.submit(vec![Job { id: 0, plugin: plugin.clone(), node: node("spins"), pods: None }], done);
    // Tasks have their turns in order: when this check is over, the other has begun.
    ENGINE.check(&plugin, node("healthy")).await;
    plugin.drain(Duration::ZERO);
    assert_eq!(results(&mut finished).await, []);
}

/// The results until nobody is left who could report one, by id.
async fn results(finished: &mut mpsc::Receiver<Vec<Finished>>) -> Vec<(u64, &'static str)> {
    let mut results = Vec::new();
    while let Some(batch) = soon(finished.recv()).await {
        results.extend(batch.into_iter().map(|one| (one.id, one.result.verdict.result())));
    }
    results.sort_unstable();
    results
}

/// A server that says nothing until it is told to.
struct Server(TcpListener);

impl Server {
    async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}/", self.0.local_addr().unwrap())
    }

    async fn asker(&self, name: &str) -> Arc<Plugin> {
        let limits = Limits {
            http_timeout: limits::HTTP_TIMEOUT_MAX,
            http_allow: vec![self.url().trim_end_matches('/').parse().unwrap()],
            ..Limits::default()
        };
        let grants = Grants::from([Capability::Http]);
        ENGINE.load(Candidate { grants, limits, ..candidate(name, &asks(1)) }).await.unwrap()
    }

    fn submit(&self, plugin: &Arc<Plugin>, ids: std::ops::Range<u64>) -> mpsc::Receiver<Vec<Finished>> {
        let (done, finished) = mpsc::channel(16);
        let node = node(&self.url());
        ENGINE.submit(ids.map(|id| Job { id, plugin: plugin.clone(), node: node.clone(), pods: None }).collect(), done);
        finished
    }

    /// The request of a check that is under way from here on. It is read whole: a client takes an answer that comes
    /// before its request for a fault.
    async fn next(&self) -> TcpStream {
        let (mut stream, _) = soon(self.0.accept()).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert_ne!(soon(stream.read_buf(&mut request)).await.unwrap(), 0, "hung up: {request:?}");
        }
        stream
    }

    /// As many as can be under way.
    async fn accept(&self) -> Vec<TcpStream> {
        let mut streams = Vec::new();
        for _ in 0..AT_ONCE {
            streams.push(self.next().await);
        }
        streams
    }
}

async fn answer(mut stream: TcpStream) {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nWell").await.unwrap();
    gone(stream).await;
}

/// Returns once whoever asked has hung up.
async fn gone(mut stream: TcpStream) {
    // A reset is an end as well.
    let _end: std::io::Result<usize> = soon(stream.read(&mut [0])).await;
}

/// Well below the longest that a request waits.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(6), what).await.unwrap()
}

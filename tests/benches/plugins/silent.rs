//! A checker whose server takes its question and says nothing: it waits as long as it may, and nobody waits with it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apgar_core::node::Node;
use apgar_engine::{Candidate, Capability, Finished, Grants, Job, Limits, limits};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{Bundled, Found, Report, Times, candidate};

const NODES: usize = 1_000;
const ROUNDS: usize = 6;

pub(crate) async fn measure(report: &mut Report) {
    // Never accepted: the system takes the connection and the question, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let bundled = Bundled::new(NODES).await;
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checker-0.1.1/everything.wasm");
    let asking = Candidate {
        settings: json!({ "url": url }),
        grants: Grants::from([Capability::Clock, Capability::Http, Capability::Memory]),
        limits: Limits { http_allow: vec![url.parse().unwrap()], ..Limits::default() },
        ..candidate("asking", fs::read(fixture).unwrap().into())
    };
    let asking = bundled.engine.load(asking).await.unwrap();

    let found = || Found::of(ROUNDS * NODES * bundled.plugins.len());
    bundled.round(&mut found()).await;
    let mut beyond = Vec::new();
    let (mut without, mut beside) = (found(), found());
    for _ in 0..ROUNDS {
        bundled.round(&mut without).await;
        let waiting = async |over: &AtomicBool| {
            while !over.load(Ordering::Relaxed) {
                let (done_in, mut done) = mpsc::channel(8);
                // As many as may wait at once.
                let node = Arc::new(Node::named("node-1"));
                let job = |id| Job { id, plugin: asking.clone(), node: node.clone(), pods: None };
                bundled.engine.submit((0..limits::HTTP_PERMITS as u64).map(job).collect(), done_in);
                while let Some(batch) = done.recv().await {
                    for Finished { result, .. } in batch {
                        assert_eq!((&result.death, result.verdict.result()), (&None, "unknown"), "{result:?}");
                        beyond.push(result.took.saturating_sub(limits::HTTP_TIMEOUT));
                    }
                }
            }
        };
        bundled.round_beside(&mut beside, waiting).await;
    }
    report.at_most("a request without an answer, ended beyond its time-out", Times::new(beyond).at(1.0), 20.0, "ms");
    let [(without_took, without_answered), (took, answered)] = [without, beside].map(Found::sorted);
    report.says("a check of a bundled checker, without, p99", without_took.at(0.99), "ms");
    report.says("a check of a bundled checker, meanwhile, p99", took.at(0.99), "ms");
    report.says("from question to answer, without, p99", without_answered.at(0.99), "ms");
    report.says("from question to answer, meanwhile, p99", answered.at(0.99), "ms");
    let most = limits::CALL_DEADLINE.as_secs_f64() * 1e3;
    report.at_most("the last answer to anybody else meanwhile", answered.at(1.0), most, "ms");
}

//! What a check may do, and what becomes of it when it does more.

use std::sync::Arc;
use std::time::Duration;

use apgar_core::node::Node;
use apgar_core::verdict::{UnknownCause, Verdict};
use apgar_engine::{Candidate, Cause, CheckDone, Job, Limits, Plugin, Stage};
use tokio::sync::{OnceCell, mpsc};

use crate::component::GUEST;
use crate::support::{ENGINE, candidate, node};

static PLUGIN: OnceCell<Arc<Plugin>> = OnceCell::const_new();

/// Less than the default: 10 000 calls take longer than the deadline in a build without optimisation.
const HOST_CALLS: u32 = 500;

async fn plugin() -> &'static Arc<Plugin> {
    let limits = Limits { host_calls: HOST_CALLS, ..Limits::default() };
    let load = async || ENGINE.load(Candidate { limits, ..candidate("guest", &GUEST) }).await.unwrap();
    PLUGIN.get_or_init(load).await
}

async fn check(name: &str) -> CheckDone {
    ENGINE.check(plugin().await, node(name)).await
}

/// A check that must die, and nothing else.
async fn dies(name: &str, cause: Cause, detail: &str) -> CheckDone {
    let mut done = check(name).await;
    for _ in 0..20 {
        if done.death.as_ref().is_none_or(|death| death.cause != Cause::HostStarved) {
            break; // else a machine as busy as this proves nothing about the guest
        }
        done = check(name).await;
    }
    let death = done.death.clone().unwrap_or_else(|| panic!("{name} does not die: {done:?}"));
    assert_eq!((death.cause, death.stage), (cause, Stage::Check), "{death}");
    assert!(death.detail.contains(detail), "{death}");
    assert!(matches!(&done.verdict, Verdict::Unknown(why) if why.cause == UnknownCause::Crashed), "{done:?}");
    assert!(!done.remember);
    assert_eq!(done.fault, None);
    done
}

#[tokio::test]
async fn a_verdict_comes_back_as_it_was_given() {
    let done = check("fails").await;
    let judgement = done.verdict.judgement().unwrap();
    assert_eq!(done.verdict.result(), "fail");
    assert_eq!((&*judgement.reason, judgement.threshold), ("NodeNotReady", Duration::from_secs(300)));
    assert!(done.remember, "the guest is pure");
    assert_eq!(done.host_calls, 1);
    assert_eq!(done.peak_memory, 4 << 16);
    assert!(done.death.is_none() && done.log_lines.is_empty());
    assert!(done.corrections.counts().iter().all(|(_, count)| *count == 0));
}

#[tokio::test]
async fn equal_reasons_of_many_nodes_are_one_string() {
    let (a, b) = (check("a").await, check("healthy").await);
    let reason = |done: &CheckDone| done.verdict.judgement().unwrap().reason.clone();
    assert!(Arc::ptr_eq(&reason(&a), &reason(&b)));
}

#[tokio::test]
async fn a_guest_that_cannot_tell_is_unknown_and_no_death() {
    let done = check("errs").await;
    assert!(
        matches!(&done.verdict, Verdict::Unknown(why)
        if why.cause == UnknownCause::Error && &*why.detail == "I cannot tell\u{fffd}"),
        "{done:?}"
    );
    assert!(done.death.is_none() && done.corrections.error);
}

/// `supervision` P-19.
#[tokio::test]
async fn a_spinning_guest_is_ended_by_its_ticks() {
    let done = dies("spins", Cause::Deadline, "guest time used up").await;
    assert_eq!(done.ticks, 11);
    assert!(done.guest_time >= Duration::from_millis(90), "{:?}", done.guest_time);
}

#[tokio::test]
async fn traps_are_told_apart() {
    dies("traps", Cause::Trap, "UnreachableCodeReached").await;
    dies("divides", Cause::Trap, "IntegerDivisionByZero").await;
    dies("recurses", Cause::Trap, "StackOverflow").await;
}

/// `supervision` P-18.
#[tokio::test]
async fn growth_ends_at_the_limit_and_is_named_memory() {
    let done = dies("grows", Cause::Memory, "the limit is 67108864").await;
    assert!(done.peak_memory <= 64 << 20);
    assert!(done.peak_memory > 62 << 20);
}

#[tokio::test]
async fn calls_and_bytes_to_the_host_are_counted_over_the_whole_check() {
    assert_eq!(dies("calls", Cause::Trap, "too many host calls").await.host_calls, HOST_CALLS + 1);
    assert_eq!(dies("bytes", Cause::Trap, "too many bytes to the host").await.host_calls, 3);
}

#[tokio::test]
async fn bad_data_over_the_boundary_is_a_trap() {
    dies("utf", Cause::Trap, "bad-data").await;
    dies("pointer", Cause::Trap, "bad-data").await;
}

/// `supervision` P-25.
#[tokio::test]
async fn what_is_too_long_is_corrected_and_counted() {
    let done = check("oversized").await;
    let judgement = done.verdict.judgement().unwrap();
    assert!(judgement.reason.len() <= 256 && judgement.reason.ends_with('…'), "{}", judgement.reason);
    assert_eq!(judgement.threshold, Duration::from_secs(24 * 60 * 60));
    assert!(done.death.is_none() && done.corrections.reason && done.corrections.threshold);

    let done = check("mute").await;
    assert_eq!(&*done.verdict.judgement().unwrap().reason, "Unspecified");
}

#[tokio::test]
async fn the_log_is_capped_and_cannot_forge_a_line() {
    let done = check("logs").await;
    assert_eq!(done.log_lines.len(), 16);
    assert!(done.log_lines.iter().all(|line| line.text == "a\u{fffd}line"));
    assert_eq!(done.corrections.log_dropped, 4);
    assert_eq!(done.verdict.result(), "pass");
}

#[tokio::test]
async fn a_node_that_could_not_be_decoded_is_never_shown_to_a_guest() {
    let mut node = Node::named("traps");
    node.malformed = Some("no name".into());
    let done = ENGINE.check(plugin().await, Arc::new(node)).await;
    assert!(matches!(&done.verdict, Verdict::Unknown(why) if why.cause == UnknownCause::MalformedNode));
    assert!(done.death.is_none());
}

#[tokio::test]
async fn a_batch_gives_every_job_one_answer_and_a_spinner_delays_no_other_plugin() {
    const SPINS: u64 = 12;
    const NODES: u64 = 200;
    let healthy = plugin().await.clone();
    let spinner = ENGINE.load(candidate("spinner", &GUEST)).await.unwrap();
    let spins = node("spins");
    let jobs = |plugin: &Arc<Plugin>, node: &Arc<Node>, ids: std::ops::Range<u64>| {
        let job = |id| Job { id, plugin: plugin.clone(), node: node.clone(), pods: None };
        ids.map(job).collect::<Vec<_>>()
    };
    let mut all = jobs(&spinner, &spins, 0..SPINS);
    all.extend(jobs(&healthy, &node("healthy"), SPINS..SPINS + NODES));
    let (done, mut finished) = mpsc::channel(16);
    ENGINE.submit(all, done);
    let mut order = Vec::new();
    while let Some(batch) = finished.recv().await {
        order.extend(batch.into_iter().map(|one| (one.id, one.plugin.key().clone(), one.result.death.is_some())));
    }
    let mut ids: Vec<u64> = order.iter().map(|(id, ..)| *id).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..SPINS + NODES), "each job has exactly one answer");
    assert!(order.iter().all(|(id, key, died)| (*id < SPINS) == (key.as_str() == "spinner") && *died == (*id < SPINS)));
    let last_spin = order.iter().rposition(|(id, ..)| *id < SPINS).unwrap();
    let last_healthy = order.iter().rposition(|(id, ..)| *id >= SPINS).unwrap();
    assert!(last_healthy < last_spin, "the healthy checks are done before the spinning ones");
}

#[tokio::test]
async fn work_nobody_waits_for_is_dropped() {
    let abandoned = ENGINE.load(candidate("abandoned", &GUEST)).await.unwrap();
    let spins = node("spins");
    let (done, finished) = mpsc::channel(1);
    drop(finished);
    let jobs = (0..1_000).map(|id| Job { id, plugin: abandoned.clone(), node: spins.clone(), pods: None }).collect();
    ENGINE.submit(jobs, done.clone());
    // The runners hold the other senders: all gone long before 1 000 deadlines of 100 ms.
    let gone = async {
        while done.strong_count() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
}

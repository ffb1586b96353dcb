//! Guests that spin together. Each is ended by its own deadline, none gets away because the others kept it waiting,
//! none is blamed for having waited, and a well checker is late by a bounded time.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use apgar_core::node::Node;
use apgar_core::verdict::{CheckerKey, UnknownCause, Verdict};
use apgar_engine::{Candidate, Cause, CheckDone, Finished, Job, Limits, Plugin, limits};
use apgar_guests::Behaviour;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{ENGINE, TRIES, as_expected, candidate, expected, load, ready, spinner, starved, well_node, well_verdict};

/// Twice as many checks as this spin, more than there are permits in the engine.
const CROWD: usize = 20;

/// Wall limits by which a well check may be late beside a crowd: the crowd holds both threads for 110 ms of each
/// of its forty checks, which is 2.2 s, and a check may be asked last.
const LATE: u32 = 3;

/// Guests that spin hold both threads; a well one is judged all the same.
#[tokio::test]
async fn a_check_beside_two_spinning_guests_is_made() {
    spin_until_fair(slice::from_ref(spinner().await)).await;
}

/// Not one by one but forty at a time: each is ended by its own deadline, and the well one is neither forgotten nor
/// late by more than three wall limits.
#[tokio::test]
async fn a_check_beside_forty_spinning_guests_is_late_by_three_wall_limits_at_most() {
    spin_until_fair(&crowd(&Limits::default()).await).await;
}

/// With no more wall time than guest time, none of forty gets its share before it is over. That is the host's doing:
/// they are asked again, and nothing is held against them.
#[tokio::test]
async fn those_who_only_waited_for_their_turn_are_not_blamed() {
    let hurried = Limits { wall_limit: limits::CALL_DEADLINE, ..Limits::default() };
    let Spun { spun, well, .. } = spin_together(&crowd(&hurried).await).await;
    let (waited, ended): (Vec<CheckDone>, Vec<CheckDone>) = spun.into_iter().partition(starved);
    assert!(waited.len() > CROWD, "{} of {} waited", waited.len(), waited.len() + ended.len());
    for done in waited {
        assert!(matches!(&done.verdict, Verdict::Unknown(why) if why.cause == UnknownCause::Error), "{done:?}");
        assert!(!done.remember && done.fault.is_none());
    }
    for done in ended {
        assert_eq!(done.death.as_ref().map(|death| death.cause), Some(Cause::Deadline), "{done:?}");
    }
    // It may have been kept waiting like the others; what it may not be is anything else.
    assert!(starved(&well) || well.verdict == well_verdict(), "{well:?}");
}

async fn crowd(limits: &Limits) -> Vec<Arc<Plugin>> {
    let mut crowd = Vec::new();
    for index in 0..CROWD {
        let key = CheckerKey::from(format!("crowd-{index}").as_str());
        crowd.push(load(Candidate { key, limits: limits.clone(), ..candidate("guest") }).await.unwrap());
    }
    crowd
}

/// What came of a crowd.
struct Spun {
    spun: Vec<CheckDone>,
    well: CheckDone,
    /// From the first check that was asked for to the answer of the well checker, which was asked last.
    late: Duration,
}

/// Two spinning checks of each guest and one of the well checker, all at once.
async fn spin_together(guests: &[Arc<Plugin>]) -> Spun {
    const WELL: u64 = u64::MAX;
    let spins = Arc::new(Node::named(Behaviour::Spin.node()));
    let spinning = guests.iter().flat_map(|guest| [guest, guest]);
    let mut jobs: Vec<Job> = (0..)
        .zip(spinning)
        .map(|(id, plugin)| Job { id, plugin: plugin.clone(), node: spins.clone(), pods: None })
        .collect();
    jobs.push(Job { id: WELL, plugin: ready().await.clone(), node: well_node(), pods: None });
    let mut wanted: Vec<u64> = jobs.iter().map(|job| job.id).collect();

    let (done, mut finished) = mpsc::channel(4);
    let asked = Instant::now();
    ENGINE.submit(jobs, done);
    let mut late = Duration::MAX;
    let mut results: Vec<Finished> = Vec::new();
    while let Some(batch) = finished.recv().await {
        if batch.iter().any(|one| one.id == WELL) {
            late = asked.elapsed();
        }
        results.extend(batch);
    }
    results.sort_by_key(|one| one.id);
    wanted.sort_unstable();
    assert!(results.iter().map(|one| one.id).eq(wanted), "not one answer each: {results:?}");
    let well = results.pop().unwrap().result;
    Spun { spun: results.into_iter().map(|one| one.result).collect(), well, late }
}

/// Lets them spin until the host gave each its time, and looks at what came of each.
async fn spin_until_fair(guests: &[Arc<Plugin>]) {
    for _ in 0..TRIES {
        let Spun { spun, well, late } = spin_together(guests).await;
        if spun.iter().chain([&well]).any(starved) || late > limits::WALL_LIMIT * LATE {
            continue;
        }
        assert_eq!(well.verdict, well_verdict(), "{well:?}");
        for done in spun {
            as_expected(&done, expected(Behaviour::Spin));
        }
        return;
    }
    panic!("the host is too busy: {TRIES} tries were starved");
}

//! What guests say, of themselves and of nodes, when it means nothing or is meant to do harm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apgar_core::node::{Node, Uid};
use apgar_core::reasons::{MAX_ADMITTED, OTHER, Reasons};
use apgar_core::verdict::CheckerKey;
use apgar_engine::{Candidate, Capability, Cause, CheckDone, Corrections, Grants, Job, Plugin, limits};
use apgar_guests::Behaviour;
use tokio::sync::mpsc;

use super::{ENGINE, bounded, candidate, check, cut, load, others_are_well, patient, ready, starved, well_node};

/// How a guest shows itself that says too much or nothing: its name here is that of its file all the same.
#[tokio::test]
async fn what_a_guest_says_of_itself_is_cut_and_never_its_name() {
    let huge = load(candidate("describe-huge")).await.unwrap();
    let description = huge.description();
    assert_eq!(huge.key().as_str(), "describe-huge");
    assert_eq!(description.name, cut("\u{fffd}", limits::NAME));
    assert_eq!(description.version, cut("\u{fffd}", limits::NAME));
    assert!(description.summary.len() <= limits::SUMMARY, "{}", description.summary);
    assert!(description.reasons.is_empty(), "a thousand empty reasons are none: {:?}", description.reasons);
    assert_eq!(description.default_threshold, limits::THRESHOLD_MAX);

    let empty = load(candidate("describe-empty")).await.unwrap();
    let description = empty.description();
    assert_eq!(empty.key().as_str(), "describe-empty");
    assert_eq!([&description.name, &description.version, &description.summary], ["", "", ""]);
    assert_eq!(description.default_threshold, Duration::ZERO);
}

/// One that calls itself by a bundled checker's name, and two that call themselves the same: each answers under the
/// stem of its file, and whoever it was named after answers as before.
#[tokio::test]
async fn a_foreign_or_a_duplicate_name_takes_nobodys_place() {
    let ready = ready().await;
    let foreign = load(candidate("describe-foreign")).await.unwrap();
    assert_eq!(foreign.description().name, "ready");
    assert_eq!(foreign.key().as_str(), "describe-foreign");
    assert_ne!(foreign.generation(), ready.generation());

    let same = |stem| Candidate { key: CheckerKey::from(stem), ..candidate("usual") };
    let (one, other) = (load(same("one")).await.unwrap(), load(same("other")).await.unwrap());
    assert_eq!(one.description(), other.description());

    let plugins = [ready, &foreign, &one, &other];
    let answered = all((0..).zip(plugins).map(|(id, plugin)| (id, plugin.clone(), well_node()))).await;
    let by: Vec<(&str, &str)> =
        answered.iter().map(|(key, done)| (key.as_str(), &*done.verdict.judgement().unwrap().reason)).collect();
    assert_eq!(
        by,
        [("ready", "KubeletReady"), ("describe-foreign", "Special"), ("one", "Special"), ("other", "Special")]
    );
}

/// What one plugin keeps is not another's, whatever they call themselves: these two are the same to the byte.
#[tokio::test]
async fn what_a_plugin_keeps_belongs_to_the_stem_of_its_file() {
    let keeper = |stem| Candidate { key: CheckerKey::from(stem), ..candidate("flips") };
    let (one, other) = (load(keeper("keeps")).await.unwrap(), load(keeper("keeps-too")).await.unwrap());
    let node = Arc::new(Node::named("kept"));
    assert_eq!(check(&one, node.clone()).await.verdict.result(), "pass");
    assert_eq!(check(&other, node.clone()).await.verdict.result(), "pass", "it was handed what another stored");
    assert_eq!(check(&one, node).await.verdict.result(), "fail");
}

/// Ten thousand nodes with a reason each: they come as they were given, and as labels they are a handful. Those
/// that were declared keep theirs.
#[tokio::test]
async fn ten_thousand_reasons_are_sixteen_labels_and_other() {
    const NODES: u64 = 10_000;
    let plugin = patient().await;
    let declared: Vec<Arc<str>> = plugin.description().reasons.iter().map(|reason| Arc::from(&**reason)).collect();
    assert_eq!(declared.len(), 2);
    let node =
        |uid: u64| Node { uid: Uid::from(uid.to_string().as_str()), ..Node::named(Behaviour::ReasonPerUid.node()) };
    let answered = all((0..NODES).map(|uid| (uid, plugin.clone(), Arc::new(node(uid))))).await;

    let mut reasons = Reasons::new(&declared);
    let mut labels = BTreeSet::new();
    for (uid, (_, done)) in answered.iter().enumerate() {
        let reason = &done.verdict.judgement().unwrap().reason;
        assert_eq!(**reason, *format!("Reason{uid}"));
        assert_eq!(done.corrections, Corrections::default());
        labels.insert(reasons.intern(reason).1);
    }
    assert_eq!(answered.len() as u64, NODES);
    assert_eq!(labels.len(), MAX_ADMITTED - declared.len() + 1);
    assert!(labels.contains(OTHER));
    assert_eq!(reasons.intern(&declared[1]).1, declared[1]);
}

/// It is reported as given, every time: what a change of mind is worth is for the thresholds to say. It keeps
/// something, so it is not pure and nothing is remembered of it.
#[tokio::test]
async fn one_that_flips_is_reported_as_it_flips_and_never_remembered() {
    let plugin = load(candidate("flips")).await.unwrap();
    assert!(!plugin.pure());
    let node = Arc::new(Node::named("flipped"));
    for round in 0..20 {
        let done = check(&plugin, node.clone()).await;
        assert_eq!(done.verdict.result(), if round % 2 == 0 { "pass" } else { "fail" }, "round {round}: {done:?}");
        assert!(!done.remember && done.death.is_none());
    }
}

/// Without `clock` what WASI calls random is the same sequence in every store, so the guest is a function of the
/// node after all and is remembered; granted the clock it is random, and is not.
#[tokio::test]
async fn one_that_throws_dice_has_loaded_ones_unless_it_was_granted_the_clock() {
    const THROWS: u64 = 64;
    let throw = async |plugin: &Arc<Plugin>| {
        let answered = all((0..THROWS).map(|id| (id, plugin.clone(), well_node()))).await;
        answered.into_iter().map(|(_, done)| (done.verdict, done.remember)).collect::<Vec<_>>()
    };
    let plugin = load(candidate("random")).await.unwrap();
    assert!(plugin.pure());
    let loaded = throw(&plugin).await;
    assert!(loaded.iter().all(|thrown| *thrown == loaded[0]), "{loaded:?}");
    assert!(loaded[0].1, "a function of the node is remembered");
    assert_ne!(
        loaded[0].0.judgement().unwrap().threshold,
        Duration::ZERO,
        "the sequence goes on from the first number"
    );

    let granted = Candidate { grants: Grants::from([Capability::Clock]), ..candidate("random") };
    let plugin = load(granted).await.unwrap();
    assert!(!plugin.pure());
    let fair = throw(&plugin).await;
    let results: BTreeSet<&str> = fair.iter().map(|(verdict, _)| verdict.result()).collect();
    // All of one side has a chance of one in 2^63.
    assert_eq!(results, BTreeSet::from(["fail", "pass"]));
    assert!(fair.iter().all(|(_, remember)| !remember));
}

/// Random bytes where the verdict should be. Whatever they are, they are a verdict within the limits or a death of
/// the guest's own, and the same ones again are the same again.
#[tokio::test]
async fn random_bytes_for_a_verdict_are_one_or_a_death() {
    const NODES: u64 = 3_000;
    let plugin = load(candidate("babbles")).await.unwrap();
    let node = |seed: u64| Arc::new(Node::named(&format!("b{seed}")));
    let babble = async || all((0..NODES).map(|seed| (seed, plugin.clone(), node(seed)))).await;
    let first = babble().await;
    let mut tally = BTreeMap::<&str, u32>::new();
    for (seed, (_, done)) in first.iter().enumerate() {
        assert_eq!(done.fault, None, "seed {seed}");
        bounded(done, plugin.limits());
        let outcome = match &done.death {
            Some(death) => {
                assert_eq!(death.cause, Cause::Trap, "seed {seed}: {death}");
                assert!(death.detail.starts_with("bad-data: "), "seed {seed}: {death}");
                "bad-data"
            }
            None => done.verdict.result(),
        };
        *tally.entry(outcome).or_default() += 1;
    }
    println!("{tally:?}");
    assert!(tally.len() == 4 && tally.values().all(|count| *count > 10), "too much of one kind: {tally:?}");
    let again = babble().await;
    assert!(first.iter().zip(&again).all(|((_, a), (_, b))| a.verdict == b.verdict && a.death == b.death));
    others_are_well().await;
}

/// Makes all those checks together and gives what came of them in the order of their numbers, with who said so.
/// What was starved is asked again.
async fn all(jobs: impl Iterator<Item = (u64, Arc<Plugin>, Arc<Node>)>) -> Vec<(CheckerKey, CheckDone)> {
    let jobs: BTreeMap<u64, Job> = jobs.map(|(id, plugin, node)| (id, Job { id, plugin, node, pods: None })).collect();
    let (done, mut finished) = mpsc::channel(4);
    ENGINE.submit(jobs.values().cloned().collect(), done);
    let mut answered = BTreeMap::new();
    while let Some(batch) = finished.recv().await {
        for one in batch {
            let mut result = one.result;
            if starved(&result)
                && let Some(job) = jobs.get(&one.id)
            {
                result = check(&one.plugin, job.node.clone()).await;
            }
            answered.insert(one.id, (one.plugin.key().clone(), result));
        }
    }
    assert!(answered.keys().eq(jobs.keys()), "not one answer each");
    answered.into_values().collect()
}

//! The acceptance scenarios of `supervision` section 7 that need nothing but the machine, by their numbers.
//! Directory plugin `c`, pure, generation A, good, start 1, serving; ten nodes; seconds from T0.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;

const T0: Time = Time::from_unix_ms(1_700_000_000_000);
const NODES: usize = 10;

fn generation(bytes: &str) -> Generation {
    Generation { bytes: Some(Digest::of(bytes.as_bytes())), config: Digest::of(b"{}") }
}

fn offer(bytes: &str) -> Offer {
    Offer { generation: generation(bytes), admission: Ok(true) }
}

fn refused(bytes: &str, reason: RefusalReason) -> Offer {
    Offer { generation: generation(bytes), admission: Err((reason, format!("{reason} it is"))) }
}

fn node(n: usize) -> NodeName {
    NodeName::from(format!("n{n}").as_str())
}

fn content() -> Digest {
    Digest::of(b"content")
}

/// A daemon around the machine: it keeps the store, and answers starts when told to.
struct World {
    machine: Supervisor,
    now: Time,
    nodes: usize,
    store: BTreeMap<CheckerKey, Record>,
    starts: Vec<(u64, Generation, u64)>,
    kept: Vec<Generation>,
    events: Vec<EventKind>,
    deaths: Vec<(Cause, Booked)>,
    reloads: Vec<Reload>,
    /// Starts answer at once: with success, or with a death in the self-check.
    passes: BTreeMap<Generation, bool>,
    name: CheckerKey,
    last: Vec<Decision>,
}

impl World {
    fn empty(policy: Policy) -> Self {
        Self {
            machine: Supervisor::new(policy),
            now: T0,
            nodes: NODES,
            store: BTreeMap::new(),
            starts: Vec::new(),
            kept: Vec::new(),
            events: Vec::new(),
            deaths: Vec::new(),
            reloads: Vec::new(),
            passes: BTreeMap::new(),
            name: CheckerKey::from("c"),
            last: Vec::new(),
        }
    }

    fn new(policy: Policy) -> Self {
        let mut world = Self::empty(policy);
        world.pass("A");
        world.file(offer("A"));
        assert_eq!((world.state(), world.answering()), (PluginState::Running, Some(1)));
        assert_eq!(world.record().good.as_ref().unwrap().generation, generation("A"));
        world
    }

    fn pass(&mut self, bytes: &str) {
        self.passes.insert(generation(bytes), true);
    }

    fn trap_in_start(&mut self, bytes: &str) {
        self.passes.insert(generation(bytes), false);
    }

    fn hang_in_start(&mut self, bytes: &str) {
        self.passes.remove(&generation(bytes));
    }

    fn turn(&mut self, inputs: Vec<Input>) {
        let mut inputs = inputs;
        loop {
            let turn = self.machine.turn(std::mem::take(&mut inputs), self.nodes, self.now);
            self.store.extend(turn.writes);
            self.events.extend(turn.events.iter().map(|event| event.kind));
            self.deaths.extend(turn.deaths.iter().map(|(_, cause, booked)| (*cause, *booked)));
            self.reloads.extend(turn.reloads.iter().map(|(_, came_to)| *came_to));
            for decision in &turn.decisions {
                match decision {
                    Decision::Start(name, generation, start) => {
                        self.starts.push((self.seconds(), *generation, *start));
                        match self.passes.get(generation) {
                            Some(true) => inputs.push(Input::Started(name.clone(), *start)),
                            Some(false) => {
                                let death = self.death(*start, Cause::Trap, Stage::SelfCheck, None);
                                inputs.push(Input::Died(name.clone(), death, None));
                            }
                            None => {}
                        }
                    }
                    Decision::Keep(_, generation) => self.kept.push(*generation),
                    Decision::Stop(..) | Decision::Answers(..) | Decision::Silent(_) | Decision::Gone(_) => {}
                }
            }
            self.last = turn.decisions;
            if inputs.is_empty() {
                return;
            }
        }
    }

    fn seconds(&self) -> u64 {
        self.now.since(T0).as_secs()
    }

    /// A turn each second up to that second, inclusive.
    fn to(&mut self, second: u64) {
        while self.seconds() < second {
            self.now = self.now + Duration::from_secs(1);
            self.turn(Vec::new());
        }
    }

    fn death(&self, start: u64, cause: Cause, stage: Stage, node: Option<NodeName>) -> Death {
        Death { start, cause, stage, detail: "unreachable".to_owned(), node, at: self.now }
    }

    fn file(&mut self, offer: Offer) {
        self.turn(vec![Input::File(self.name.clone(), offer)]);
    }

    fn dies_on(&mut self, start: u64, n: usize, cause: Cause) {
        let death = self.death(start, cause, Stage::Check, Some(node(n)));
        self.turn(vec![Input::Died(self.name.clone(), death, Some(content()))]);
    }

    /// Checks of what answers trap on n1, n2, n3.
    fn crashes(&mut self) {
        let start = self.answering().unwrap();
        (1..=3).for_each(|n| self.dies_on(start, n, Cause::Trap));
    }

    fn completes(&mut self, n: usize, slow: bool) {
        let start = self.answering().unwrap();
        self.turn(vec![Input::Completed(self.name.clone(), start, node(n), slow)]);
    }

    fn record(&self) -> &Record {
        self.machine.record(&self.name).unwrap()
    }

    fn state(&self) -> PluginState {
        self.machine.state(&self.name, self.now).unwrap()
    }

    fn answering(&self) -> Option<u64> {
        self.record().answering().map(|track| track.start)
    }

    fn count(&self, bytes: &str) -> Option<u32> {
        self.record().ledger.get(&generation(bytes)).map(|entry| entry.count)
    }

    /// Count and next attempt of the marker.
    fn marker(&self) -> Option<(u32, Option<u64>)> {
        let (_, entry) = self.record().marker()?;
        Some((entry.count, entry.next.map(|next| next.since(T0).as_secs())))
    }

    fn asks(&mut self, n: usize) -> bool {
        matches!(self.machine.ask(&self.name, &node(n), || Some(content()), self.now), Ask::Start(_))
    }

    fn had(&self, kind: EventKind) -> usize {
        self.events.iter().filter(|had| **had == kind).count()
    }

    /// A new process with the same store.
    fn restart(&mut self, policy: Policy) {
        self.machine = Supervisor::new(policy);
        self.machine.restore(self.store.clone(), self.now);
    }
}

fn max(max_restarts: u32) -> Policy {
    Policy { defaults: Restart { max_restarts, ..Restart::default() }, ..Policy::default() }
}

fn world() -> World {
    World::new(Policy::default())
}

#[test]
fn p_01_p_02_a_crash_has_one_marker_and_a_next_attempt() {
    let mut world = world();
    world.crashes();
    assert_eq!((world.state(), world.count("A"), world.answering()), (PluginState::Crashed, Some(1), None));
    assert!(!world.asks(7));
    assert_eq!(world.last, [Decision::Silent("c".into())]);
    let (track, entry) = world.record().marker().unwrap();
    assert_eq!((track.generation, entry.last.start), (generation("A"), 1));
    assert_eq!((entry.last.cause, entry.last.stage, &entry.last.node), (Cause::Trap, Stage::Check, &Some(node(3))));
    assert_eq!(world.marker(), Some((1, Some(60))));
    assert_eq!(world.had(EventKind::PluginCrashed), 1);
}

#[test]
fn p_03_p_04_p_05_it_is_started_once_when_its_wait_is_over() {
    let mut world = world();
    world.crashes();
    world.hang_in_start("A");
    world.to(59);
    world.now = T0 + Duration::from_millis(59_999);
    world.turn(Vec::new());
    assert_eq!(world.starts.len(), 1);
    assert_eq!(world.machine.next_deadline(world.now), Some(T0 + Duration::from_secs(60)));
    world.now = T0 + Duration::from_secs(60);
    world.turn(Vec::new());
    assert_eq!(world.starts.last(), Some(&(60, generation("A"), 2)));
    assert_eq!((world.state(), world.marker().is_some()), (PluginState::Loading, true));
    world.turn(vec![Input::Started("c".into(), 2)]);
    assert_eq!((world.state(), world.marker()), (PluginState::Running, None));
}

#[test]
fn p_06_without_a_cap_it_is_tried_for_ever_at_the_longest_wait() {
    let mut world = World::empty(max(0));
    world.trap_in_start("A");
    world.file(offer("A"));
    world.to(3600);
    let at: Vec<u64> = world.starts.iter().map(|(at, ..)| *at).collect();
    assert_eq!(&at[..6], [0, 60, 180, 420, 720, 1020]);
    assert_eq!(at.len(), 14);
}

#[test]
fn p_08_saturated_after_the_cap_whatever_the_number_of_nodes() {
    for nodes in [1, 2, 5, 1000] {
        let mut world = World::new(max(2));
        world.nodes = nodes;
        for _ in 0..24 * 60 {
            if let Some(start) = world.answering() {
                (1..=nodes.min(3)).for_each(|n| world.dies_on(start, n, Cause::Trap));
            }
            let next = world.seconds() + 60;
            world.to(next);
        }
        assert_eq!((world.starts.len(), world.count("A"), world.state()), (3, Some(2), PluginState::Failed), "{nodes}");
        assert_eq!(world.marker(), Some((2, None)));
    }
}

#[test]
fn p_09_a_hundred_crashes_wait_no_longer_than_the_cap() {
    let mut world = World::new(max(0));
    for _ in 0..100 {
        world.crashes();
        let (_, next) = world.marker().unwrap();
        assert!(next.unwrap() - world.seconds() <= 300);
        world.to(next.unwrap());
    }
    assert_eq!(world.count("A"), Some(100));
}

#[test]
fn p_10_p_12_both_paths_of_death_fill_one_ledger() {
    let mut world = world();
    world.crashes();
    world.to(60);
    let start = world.answering().unwrap();
    (4..=6).for_each(|n| world.dies_on(start, n, Cause::Deadline));
    assert_eq!(world.marker(), Some((2, Some(60 + 120))));
    assert_eq!(world.record().marker().unwrap().1.last.cause, Cause::Deadline);
}

#[test]
fn p_11_another_plugin_is_untouched() {
    let mut world = world();
    world.turn(vec![Input::File("d".into(), offer("A"))]);
    let before = world.machine.record(&"d".into()).cloned();
    world.crashes();
    assert_eq!(world.machine.record(&"d".into()).cloned(), before);
}

#[test]
fn p_13_deaths_of_nobody_are_recorded_nowhere() {
    let mut world = world();
    assert!(world.record().ledger.is_empty());
    let death = world.death(1, Cause::Trap, Stage::Check, Some(node(1)));
    world.turn(vec![Input::Died("gone".into(), death, Some(content()))]);
    assert_eq!(world.deaths, [(Cause::Trap, Booked::Merged)]);
    assert!(world.machine.record(&"gone".into()).is_none());
}

#[test]
fn p_15_what_ends_after_the_crash_is_merged_or_late() {
    let mut world = world();
    world.crashes();
    let before = world.record().clone();
    world.dies_on(1, 4, Cause::Trap);
    assert_eq!(world.deaths.last(), Some(&(Cause::Trap, Booked::Merged)));
    assert_eq!(world.machine.standing(&"c".into(), 1), Standing::Late);
    assert_eq!(*world.record(), before);
}

#[test]
fn p_22_slow_checks_in_a_row_are_one_crash() {
    let mut world = world();
    [true, true, false, true, true].into_iter().for_each(|slow| world.completes(1, slow));
    assert_eq!(world.state(), PluginState::Running);
    world.completes(2, true);
    assert_eq!((world.state(), world.count("A")), (PluginState::Crashed, Some(1)));
    assert_eq!(world.deaths, [(Cause::Slow, Booked::Crash)]);
}

#[test]
fn p_23_p_47_a_death_in_a_start_leaves_the_good_one_answering() {
    for (cause, stage) in
        [(Cause::Compile, Stage::Load), (Cause::Link, Stage::Instantiate), (Cause::Trap, Stage::Describe)]
    {
        let mut world = world();
        world.file(offer("B"));
        let death = world.death(2, cause, stage, None);
        world.turn(vec![Input::Died("c".into(), death, None)]);
        assert_eq!(
            (world.state(), world.answering(), world.marker()),
            (PluginState::Running, Some(1), Some((1, Some(60))))
        );
        assert_eq!(world.record().marker().unwrap().1.last.stage, stage);
    }
}

#[test]
fn a_reload_is_counted_once_by_what_it_came_to() {
    use Reload::{Crashed, Refused, RolledBack, Swapped, Unchanged};
    let mut world = world();
    assert_eq!(world.reloads, [Swapped], "a file that is new");
    // The proven one dies, and is started again: nobody asked for anything else.
    world.crashes();
    world.to(60);
    world.restart(Policy::default());
    world.turn(vec![Input::Unchanged("c".into()), Input::Unchanged("nobody".into())]);
    assert_eq!((world.answering(), &world.reloads[1..]), (Some(3), &[Unchanged][..]));
    // B dies in its start, then on probation; A is back, without being another one.
    world.trap_in_start("B");
    world.file(offer("B"));
    world.pass("B");
    world.to(120);
    world.crashes();
    assert_eq!((world.answering(), &world.reloads[2..]), (Some(3), &[Crashed, Swapped, RolledBack][..]));
    world.file(refused("C", RefusalReason::Unsigned));
    world.file(refused("C", RefusalReason::Unsigned));
    assert_eq!(world.reloads[5..], [Refused]);
    // A starved host is nobody's reload.
    world.file(offer("D"));
    let death = world.death(world.record().last_start, Cause::HostStarved, Stage::SelfCheck, None);
    world.turn(vec![Input::Died("c".into(), death, None)]);
    assert_eq!(world.reloads.len(), 6);

    let mut world = overridden();
    assert_eq!(world.reloads, [Swapped], "what is built in is no reload");
    world.turn(vec![Input::FileRemoved("c".into())]);
    assert_eq!(world.reloads, [Swapped, Swapped]);
}

#[test]
fn p_24_rejected_settings_are_no_death_and_not_retried() {
    let mut world = world();
    world.file(offer("B"));
    let text = "unknown key treshold".to_owned();
    world.turn(vec![Input::Rejected("c".into(), generation("B"), RefusalReason::SettingsRejected, text.clone())]);
    world.file(offer("B"));
    world.to(1000);
    assert_eq!((world.starts.len(), world.count("B"), world.answering()), (2, None, Some(1)));
    assert_eq!(world.record().refusal().unwrap().1.message, text);
    world.pass("C");
    world.file(offer("C"));
    assert_eq!(world.answering(), Some(3));
}

#[test]
fn p_26_an_intended_stop_changes_no_count() {
    let disabled = Policy { defaults: Restart { enabled: false, ..Restart::default() }, ..Policy::default() };
    let stops: [(&str, Input); 4] = [
        ("disabled", Input::Policy(disabled)),
        ("reset", Input::Reset("c".into(), 1)),
        ("removed", Input::FileRemoved("c".into())),
        ("shutdown", Input::Shutdown),
    ];
    for (what, stop) in stops {
        let mut world = world();
        world.turn(vec![stop]);
        world.dies_on(1, 1, Cause::Trap);
        assert_eq!(world.deaths, [(Cause::Trap, Booked::Merged)], "{what}");
        assert!(world.record().ledger.is_empty(), "{what}");
    }
}

#[test]
fn p_27_an_old_check_that_dies_is_the_old_generations() {
    let mut world = world();
    world.pass("B");
    world.file(offer("B"));
    world.dies_on(1, 1, Cause::Trap);
    assert_eq!((world.answering(), world.marker()), (Some(2), None));
    assert!(world.record().good.as_ref().unwrap().pairs.contains_key(&node(1)));
}

#[test]
fn p_29_a_starved_host_is_held_against_nobody() {
    let mut world = world();
    world.dies_on(1, 1, Cause::HostStarved);
    assert_eq!(world.deaths, [(Cause::HostStarved, Booked::Starved)]);
    assert!(world.asks(1));
    world.file(offer("B"));
    let death = world.death(2, Cause::HostStarved, Stage::SelfCheck, None);
    world.turn(vec![Input::Died("c".into(), death, None)]);
    assert_eq!((world.count("B"), world.marker()), (Some(0), Some((0, Some(30)))));
}

#[test]
fn p_30_with_policy_never_one_crash_is_the_end() {
    let never = Policy { defaults: Restart { always: false, ..Restart::default() }, ..Policy::default() };
    let mut world = World::new(never);
    world.crashes();
    assert_eq!((world.state(), world.count("A")), (PluginState::Failed, Some(1)));
    world.to(24 * 60 * 60);
    assert_eq!(world.starts.len(), 1);
}

/// Failed by its own crashes.
fn failed(max_restarts: u32) -> World {
    let mut world = World::new(max(max_restarts));
    while world.state() != PluginState::Failed {
        if world.answering().is_some() {
            world.crashes();
        }
        let next = world.seconds() + 1;
        world.to(next);
    }
    world
}

#[test]
fn p_31_p_32_p_33_only_other_bytes_leave_saturation() {
    let mut world = failed(2);
    world.file(offer("A"));
    assert_eq!(world.state(), PluginState::Failed);
    world.pass("B");
    world.file(offer("B"));
    assert_eq!((world.state(), world.marker()), (PluginState::Running, None));
    assert_eq!(world.record().good.as_ref().unwrap().generation, generation("B"));
    world.file(offer("A"));
    assert_eq!((world.state(), world.count("A")), (PluginState::Running, Some(2)));
    let wanted = world.record().wanted.as_ref().unwrap();
    assert_eq!((wanted.generation, &wanted.run), (generation("A"), &Run::Down));
}

#[test]
fn p_34_other_settings_are_another_generation() {
    let mut world = failed(2);
    let other = Generation { config: Digest::of(b"{\"a\":1}"), ..generation("A") };
    world.passes.insert(other, true);
    world.file(Offer { generation: other, admission: Ok(true) });
    assert_eq!(world.state(), PluginState::Running);
}

#[test]
fn p_35_a_reset_names_the_start_it_means() {
    let mut world = failed(2);
    let start = world.record().last_start;
    world.turn(vec![Input::Reset("c".into(), start - 1)]);
    assert_eq!(world.state(), PluginState::Failed);
    world.turn(vec![Input::Reset("c".into(), start)]);
    assert_eq!((world.answering(), world.count("A")), (Some(start + 1), None));
}

#[test]
fn p_36_a_raised_cap_is_room_and_a_lowered_one_is_not() {
    let mut world = failed(5);
    world.turn(vec![Input::Policy(max(3))]);
    assert_eq!(world.state(), PluginState::Failed);
    world.turn(vec![Input::Policy(max(8))]);
    assert_eq!(world.state(), PluginState::Running);
}

#[test]
fn p_37_p_38_p_39_ten_minutes_of_service_forgive() {
    let mut world = world();
    for _ in 0..3 {
        world.crashes();
        let (_, next) = world.marker().unwrap();
        world.to(next.unwrap());
    }
    let began = world.seconds();
    world.to(began + 3600);
    assert_eq!(world.count("A"), Some(3));
    world.completes(7, false);
    let served = world.seconds();
    world.to(served + 599);
    assert_eq!(world.count("A"), Some(3));
    world.to(served + 600);
    assert_eq!((world.count("A"), world.had(EventKind::PluginForgiven)), (None, 1));
    world.crashes();
    assert_eq!(world.marker(), Some((1, Some(world.seconds() + 60))));
}

#[test]
fn p_43_p_80_a_lone_pair_of_a_pure_plugin_is_held_until_the_node_changes() {
    let mut world = world();
    world.dies_on(1, 1, Cause::Trap);
    assert_eq!((world.state(), world.marker()), (PluginState::Running, None));
    assert!(!world.asks(1) && world.asks(2));
    world.to(24 * 60 * 60);
    assert!(!world.asks(1));
    let changed = Digest::of(b"a label");
    assert_eq!(world.machine.ask(&"c".into(), &node(1), || Some(changed), world.now), Ask::Start(1));
    assert!(world.asks(1));
    world.dies_on(1, 1, Cause::Trap);
    assert!(!world.asks(1));
    assert_eq!(world.deaths, [(Cause::Trap, Booked::Pair); 2]);
}

#[test]
fn pairs_stay_while_their_nodes_do() {
    let mut world = world();
    world.dies_on(1, 1, Cause::Trap);
    world.restart(Policy::default());
    world.turn(vec![Input::Nodes(BTreeSet::new())]);
    assert!(!world.asks(1), "an empty list proves nothing");
    world.turn(vec![Input::Nodes([node(1), node(2)].into())]);
    assert!(!world.asks(1));
    world.turn(vec![Input::Nodes([node(2)].into())]);
    assert!(world.asks(1));
    world.dies_on(2, 1, Cause::Trap);
    world.turn(vec![Input::NodeGone(node(1))]);
    assert!(world.asks(1));
}

#[test]
fn a_pair_of_whoever_reads_pods_is_held_until_they_change() {
    use crate::node::Node;
    use crate::pods::Pod;
    let mut world = world();
    let judged = Node::named("n1");
    let content = |restarts| {
        let pod = Pod { restarts, ..Pod::named("ns", "x") };
        Digest::of_content(&judged, Some(&vec![pod].into()))
    };
    let death = world.death(1, Cause::Trap, Stage::Check, Some(node(1)));
    world.turn(vec![Input::Died("c".into(), death, Some(content(0)))]);
    let mut ask = |restarts: Option<u32>| world.machine.ask(&"c".into(), &node(1), || restarts.map(content), world.now);
    assert!(matches!(ask(Some(0)), Ask::Held(_)));
    assert!(matches!(ask(None), Ask::Held(_)), "that they are not known is no change");
    assert_eq!(ask(Some(1)), Ask::Start(1));
    assert_eq!(ask(Some(0)), Ask::Start(1), "it was forgotten");
}

#[test]
fn p_81_a_pair_that_depends_on_more_is_asked_again_with_backoff() {
    let mut world = world();
    let mut waits = Vec::new();
    for _ in 0..5 {
        world.dies_on(1, 1, Cause::Deadline);
        let died = world.seconds();
        while !world.asks(1) {
            assert_eq!(world.record().quarantined(world.now).count(), 1);
            let next = world.seconds() + 1;
            world.to(next);
        }
        waits.push(world.seconds() - died);
        assert_eq!(world.record().quarantined(world.now).count(), 0, "it is called");
    }
    assert_eq!(waits, [60, 120, 240, 300, 300]);
    world.completes(1, false);
    assert!(world.record().good.as_ref().unwrap().pairs.is_empty());
}

#[test]
fn p_82_too_many_pairs_are_the_plugins_fault() {
    let mut world = world();
    world.nodes = 1000;
    for n in 0..65 {
        world.dies_on(1, n, Cause::Trap);
        let next = world.seconds() + 61;
        world.to(next);
    }
    assert_eq!(world.count("A"), Some(1));
    assert_eq!(world.record().good.as_ref().unwrap().pairs.len(), 64);
    assert_eq!(world.deaths.iter().filter(|(_, booked)| *booked == Booked::Crash).count(), 1);
}

#[test]
fn p_83_when_every_node_is_held_the_plugin_has_crashed() {
    let mut world = world();
    world.nodes = 2;
    world.dies_on(1, 1, Cause::Trap);
    assert_eq!(world.state(), PluginState::Running);
    world.dies_on(1, 2, Cause::Trap);
    assert_eq!(world.state(), PluginState::Crashed);
    assert!(world.record().good.as_ref().unwrap().pairs.is_empty());
}

#[test]
fn a_death_at_a_node_that_is_gone_is_no_pair_and_no_crash() {
    let mut world = world();
    world.nodes = 1;
    world.turn(vec![Input::DiedAtGone("c".into(), Cause::Trap)]);
    assert_eq!((world.state(), world.deaths.as_slice()), (PluginState::Running, &[(Cause::Trap, Booked::Merged)][..]));
    assert!(world.record().good.as_ref().unwrap().pairs.is_empty());
}

#[test]
fn p_46_p_66_a_refused_file_changes_nothing_and_says_why() {
    let mut world = world();
    world.file(refused("garbage", RefusalReason::NotAComponent));
    assert_eq!((world.state(), world.answering(), world.last.len()), (PluginState::Running, Some(1), 0));
    assert_eq!(world.record().refusal().unwrap().1.reason, RefusalReason::NotAComponent);
    world.file(offer("A"));
    assert!(world.record().refusal().is_none());

    let mut world = World::empty(Policy::default());
    world.pass("bundled");
    let bundled = Input::Bundled("c".into(), offer("bundled"));
    let file = Input::File("c".into(), refused("x", RefusalReason::WrongWorld));
    world.turn(vec![bundled, file]);
    assert_eq!((world.state(), world.answering()), (PluginState::Running, Some(1)));
    assert_eq!(world.record().refusal().unwrap().1.reason, RefusalReason::WrongWorld);
}

#[test]
fn p_48_both_tracks_start_at_their_own_times() {
    let mut world = world();
    world.trap_in_start("B");
    world.file(offer("B"));
    world.to(30);
    world.crashes();
    assert_eq!((world.state(), world.record().marker().unwrap().0.generation), (PluginState::Crashed, generation("A")));
    world.to(90);
    let starts: Vec<_> = world.starts.iter().skip(2).map(|(at, generation, _)| (*at, *generation)).collect();
    assert_eq!(starts, [(60, generation("B")), (90, generation("A"))]);
}

#[test]
fn p_49_old_bytes_return_without_a_gap() {
    let mut world = world();
    world.pass("B");
    world.file(offer("B"));
    assert_eq!(world.answering(), Some(2));
    world.file(offer("A"));
    assert_eq!((world.answering(), world.marker(), world.record().wanted.is_none()), (Some(1), None, true));
}

#[test]
fn p_50_p_51_a_good_newcomer_answers_from_its_turn_on() {
    let mut world = world();
    world.pass("B");
    world.file(offer("B"));
    assert_eq!((world.answering(), world.had(EventKind::PluginSwapped)), (Some(2), 1));
    assert_eq!(world.machine.standing(&"c".into(), 2), Standing::Answers);
    assert_eq!(world.machine.standing(&"c".into(), 1), Standing::Fallback);
    world.completes(1, false);
    world.to(600);
    assert_eq!(world.machine.standing(&"c".into(), 1), Standing::Late);
    assert_eq!(world.kept, [generation("A"), generation("B")]);
    assert_eq!(world.last, [Decision::Stop("c".into(), 1), Decision::Keep("c".into(), generation("B"))]);
}

/// A bundled plugin whose override is proven.
fn overridden() -> World {
    let mut world = World::empty(Policy::default());
    world.pass("bundled");
    world.pass("file");
    world.turn(vec![Input::Bundled("c".into(), offer("bundled"))]);
    world.file(offer("file"));
    world.completes(1, false);
    world.to(600);
    world
}

#[test]
fn p_65_an_override_gives_way_without_probation() {
    let mut world = overridden();
    assert_eq!(world.record().good.as_ref().unwrap().source, Source::Directory);
    world.hang_in_start("bundled");
    world.turn(vec![Input::FileRemoved("c".into())]);
    assert_eq!(world.answering(), Some(2));
    world.turn(vec![Input::Started("c".into(), 3)]);
    assert_eq!((world.answering(), world.record().wanted.is_none()), (Some(3), true));
}

#[test]
fn p_67_a_proven_override_is_not_replaced_by_a_restart() {
    let mut world = overridden();
    world.restart(Policy::default());
    world.turn(vec![Input::Bundled("c".into(), offer("bundled"))]);
    assert_eq!(world.record().answering().unwrap().generation, generation("file"));
    let (lost, why) = (RefusalReason::BytesUnavailable, "gone".to_owned());
    world.turn(vec![Input::Rejected("c".into(), generation("file"), lost, why)]);
    assert_eq!((world.state(), world.answering()), (PluginState::Refused, None));
}

#[test]
fn p_65_p_67_p_74_an_override_that_is_not_proven_keeps_its_pairs_over_a_restart() {
    let unproven = || {
        let mut world = World::empty(Policy::default());
        world.pass("bundled");
        world.pass("file");
        world.turn(vec![Input::Bundled("c".into(), offer("bundled"))]);
        world.file(offer("file"));
        world.dies_on(2, 1, Cause::Trap);
        assert!(!world.asks(1));
        world.restart(Policy::default());
        // What is built in is offered before the directory was read.
        world.turn(vec![Input::Bundled("c".into(), offer("bundled"))]);
        assert_eq!(world.record().answering().unwrap().generation, generation("bundled"));
        world
    };
    let mut world = unproven();
    world.file(offer("file"));
    assert_eq!(world.record().answering().unwrap().generation, generation("file"));
    assert!(!world.asks(1) && world.asks(2));

    // Its file went meanwhile, or is another one: so it is given up.
    for gone in [Input::FileRemoved("c".into()), Input::File("c".into(), offer("other"))] {
        let mut world = unproven();
        world.turn(vec![gone]);
        assert_ne!(world.record().wanted.as_ref().map(|wanted| wanted.generation), Some(generation("file")));
        assert_eq!(world.record().answering().unwrap().generation, generation("bundled"));
    }
}

#[test]
fn p_70_a_removed_plugin_leaves_only_its_last_number() {
    let mut world = world();
    world.crashes();
    world.turn(vec![Input::FileRemoved("c".into())]);
    assert_eq!(*world.record(), Record { last_start: 1, ..Record::default() });
    assert!(world.last.contains(&Decision::Gone("c".into())));
    world.file(offer("A"));
    assert_eq!((world.answering(), world.count("A")), (Some(2), None));
}

#[test]
fn what_is_good_is_kept_each_time_that_it_comes_to_life() {
    let mut world = world();
    world.pass("B");
    world.file(offer("B"));
    assert_eq!(world.kept, [generation("A")], "B has proven nothing");
    world.crashes();
    world.restart(Policy::default());
    world.turn(Vec::new());
    assert_eq!(world.kept, [generation("A"); 2]);

    let mut world = World::empty(Policy::default());
    world.turn(vec![Input::Bundled("c".into(), offer("bundled"))]);
    assert_eq!(world.kept, []);
    world.turn(vec![Input::Started("c".into(), 1)]);
    assert_eq!(world.kept, [generation("bundled")], "a later version of the daemon has other bytes built in");
}

#[test]
fn p_73_withdrawn_trust_stops_what_runs() {
    let mut world = world();
    let (reason, message) = (RefusalReason::UntrustedKey, "no".to_owned());
    world.turn(vec![Input::Rejected("c".into(), generation("A"), reason, message)]);
    assert_eq!(world.state(), PluginState::Refused);
    assert!(world.last.contains(&Decision::Stop("c".into(), 1)));
}

#[test]
fn p_74_p_75_a_restart_is_no_amnesty() {
    let mut world = world();
    world.dies_on(1, 9, Cause::Trap);
    world.crashes();
    world.restart(Policy::default());
    world.turn(Vec::new());
    assert_eq!((world.state(), world.marker()), (PluginState::Crashed, Some((1, Some(60)))));
    world.to(60);
    assert_eq!(world.starts.last(), Some(&(60, generation("A"), 2)));
    assert!(!world.asks(9));

    let mut world = failed(2);
    world.restart(max(2));
    world.turn(Vec::new());
    assert_eq!((world.state(), world.starts.len()), (PluginState::Failed, 3));

    let mut world = self::world();
    world.crashes();
    for record in world.store.values_mut() {
        record.ledger.values_mut().for_each(|entry| entry.next = Some(T0 + Duration::from_secs(365 * 86_400)));
    }
    world.restart(Policy::default());
    assert_eq!(world.marker(), Some((1, Some(300))));
}

#[test]
fn p_76_a_daemon_that_dies_in_a_start_books_it() {
    let mut world = World::empty(Policy::default());
    world.file(offer("A"));
    world.restart(Policy::default());
    assert_eq!((world.count("A"), world.marker()), (Some(1), Some((1, Some(60)))));
    assert_eq!(world.record().marker().unwrap().1.last.cause, Cause::DaemonDied);

    let mut world = World::empty(Policy::default());
    world.file(offer("A"));
    world.turn(vec![Input::Shutdown]);
    world.restart(Policy::default());
    assert_eq!(world.count("A"), None);
}

#[test]
fn p_87_p_88_three_crashes_on_probation_give_it_up() {
    let mut world = world();
    world.pass("B");
    world.file(offer("B"));
    world.crashes();
    assert_eq!(
        (world.state(), world.answering(), world.marker()),
        (PluginState::Running, Some(1), Some((1, Some(60))))
    );
    assert_eq!(world.had(EventKind::RolledBack), 1);
    assert!(world.last.contains(&Decision::Answers("c".into(), 1)));
    world.to(60);
    world.crashes();
    world.to(180);
    world.crashes();
    assert_eq!((world.marker(), world.answering()), (Some((2, None)), Some(1)));
    world.file(offer("B"));
    world.to(3600);
    assert_eq!(world.starts.len(), 4);
    world.pass("C");
    world.file(offer("C"));
    assert_eq!(world.record().answering().unwrap().generation, generation("C"));
}

#[test]
fn p_89_a_proven_generation_has_no_way_back() {
    let mut world = world();
    world.pass("B");
    world.file(offer("B"));
    world.completes(1, false);
    world.to(600);
    world.crashes();
    assert_eq!((world.state(), world.had(EventKind::RolledBack)), (PluginState::Crashed, 0));

    let mut world = self::world();
    world.pass("B");
    world.file(offer("B"));
    world.file(offer("C"));
    assert_eq!(world.answering(), Some(1));
    world.turn(vec![Input::Started("c".into(), 3)]);
    assert_eq!(world.answering(), Some(3));
}

#[test]
fn p_90_a_saturated_newcomer_stays_so_over_a_restart() {
    let mut world = world();
    world.pass("B");
    world.file(offer("B"));
    for at in [60, 180, 181] {
        world.crashes();
        world.to(at);
    }
    world.restart(Policy::default());
    world.file(offer("B"));
    assert_eq!(world.record().answering().unwrap().generation, generation("A"));
    assert_eq!(world.marker(), Some((2, None)));
}

#[test]
fn the_record_is_stored_and_read_back_exactly() {
    let mut world = world();
    world.dies_on(1, 1, Cause::Trap);
    world.crashes();
    let text = serde_json::to_string(&world.store).unwrap();
    let read: BTreeMap<CheckerKey, Record> = serde_json::from_str(&text).unwrap();
    assert_eq!(read, world.store);
    assert_eq!(read[&world.name], *world.record());
}

//! What must hold after every step of any history (`supervision` section 8).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const T0: Time = Time::from_unix_ms(1_700_000_000_000);
const NODES: usize = 5;
const MAX: u32 = 2;

/// A step of a history.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    File(u8),
    FileRefused(u8),
    FileRemoved,
    Passes,
    DiesInStart,
    DiesOn(usize),
    DiesLate(u64, usize),
    Completes(usize, bool),
    Restart,
    Reset,
    Enabled(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..400).prop_map(Step::Wait),
        2 => (0_u8..3).prop_map(Step::File),
        1 => (0_u8..3).prop_map(Step::FileRefused),
        1 => Just(Step::FileRemoved),
        4 => Just(Step::Passes),
        2 => Just(Step::DiesInStart),
        6 => (0..NODES).prop_map(Step::DiesOn),
        1 => (0_u64..6, 0..NODES).prop_map(|(start, n)| Step::DiesLate(start, n)),
        3 => (0..NODES, any::<bool>()).prop_map(|(n, slow)| Step::Completes(n, slow)),
        1 => Just(Step::Restart),
        1 => Just(Step::Reset),
        1 => any::<bool>().prop_map(Step::Enabled),
    ]
}

fn name() -> CheckerKey {
    CheckerKey::from("c")
}

fn generation(n: u8) -> Generation {
    Generation { bytes: Some(Digest::of(&[n])), config: Digest::of(b"{}") }
}

fn policy(enabled: bool) -> Policy {
    Policy { defaults: Restart { enabled, max_restarts: MAX, ..Restart::default() }, ..Policy::default() }
}

/// What the properties are held against, kept apart from the machine.
#[derive(Default)]
struct Witness {
    starts: BTreeSet<u64>,
    /// The moment before which a crashed generation must not start.
    not_before: BTreeMap<Generation, Time>,
    deaths_reported: usize,
    deaths_booked: usize,
}

struct World {
    machine: Supervisor,
    now: Time,
    enabled: bool,
    store: BTreeMap<CheckerKey, Record>,
    witness: Witness,
    answering: Option<u64>,
}

impl World {
    fn new() -> Self {
        Self {
            machine: Supervisor::new(policy(true)),
            now: T0,
            enabled: true,
            store: BTreeMap::new(),
            witness: Witness::default(),
            answering: None,
        }
    }

    fn record(&self) -> Record {
        self.machine.record(&name()).cloned().unwrap_or_default()
    }

    fn loading(&self) -> Option<u64> {
        self.record().tracks().find(|track| track.run == Run::Loading).map(|track| track.start)
    }

    fn death(&self, start: u64, node: Option<usize>) -> Death {
        let stage = if node.is_some() { Stage::Check } else { Stage::SelfCheck };
        let node = node.map(|n| NodeName::from(n.to_string().as_str()));
        Death { start, cause: Cause::Trap, stage, detail: String::new(), node, at: self.now }
    }

    fn input(&mut self, step: Step) -> Vec<Input> {
        let serving = self.record().answering().map(|track| track.start);
        let offer = |n, admission| Offer { generation: generation(n), admission };
        match step {
            Step::Wait(seconds) => {
                self.now = self.now + Duration::from_secs(seconds);
                vec![]
            }
            Step::File(n) => vec![Input::File(name(), offer(n, Ok(true)))],
            Step::FileRefused(n) => {
                let why = (RefusalReason::Unsigned, String::new());
                vec![Input::File(name(), offer(n, Err(why)))]
            }
            Step::FileRemoved => {
                self.witness.not_before.clear();
                vec![Input::FileRemoved(name())]
            }
            Step::Passes => self.loading().map(|start| Input::Started(name(), start)).into_iter().collect(),
            Step::DiesInStart => {
                let death = self.loading().map(|start| self.death(start, None));
                death.map(|death| Input::Died(name(), death, None)).into_iter().collect()
            }
            Step::DiesOn(n) => {
                let death = serving.map(|start| self.death(start, Some(n)));
                death.map(|death| Input::Died(name(), death, Some(Digest::of(b"")))).into_iter().collect()
            }
            Step::DiesLate(start, n) => vec![Input::Died(name(), self.death(start, Some(n)), Some(Digest::of(b"")))],
            Step::Completes(n, slow) => {
                let node = NodeName::from(n.to_string().as_str());
                serving.map(|start| Input::Completed(name(), start, node, slow)).into_iter().collect()
            }
            Step::Restart => {
                let before: u32 = self.record().ledger.values().map(|entry| entry.count).sum();
                let loading = u32::from(self.loading().is_some());
                self.witness.deaths_reported += usize::from(self.loading().is_some());
                self.machine = Supervisor::new(policy(self.enabled));
                self.machine.restore(self.store.clone(), self.now);
                self.answering = None;
                let after: u32 = self.record().ledger.values().map(|entry| entry.count).sum();
                // Property 7: a restart adds nothing but the death of a start that it found.
                assert!(after - before <= loading);
                vec![]
            }
            Step::Reset => {
                self.witness.not_before.clear();
                vec![Input::Reset(name(), self.record().last_start)]
            }
            Step::Enabled(enabled) => {
                self.enabled = enabled;
                vec![Input::Policy(policy(enabled))]
            }
        }
    }

    fn step(&mut self, step: Step) {
        let good_served = self.record().good.filter(Track::is_serving);
        let restarted = matches!(step, Step::Restart);
        let about_good = matches!(&step, Step::FileRefused(_) | Step::FileRemoved | Step::Enabled(_) | Step::Reset);
        let answered = self.record().answering().map(|track| track.generation);
        let ledger = self.record().ledger;
        let inputs = self.input(step);
        self.witness.deaths_reported += inputs.iter().filter(|input| matches!(input, Input::Died(..))).count();
        let deadline = self.machine.next_deadline(self.now);
        let turn = self.machine.turn(inputs.clone(), NODES, self.now);
        let record = self.record();
        // Property 1: each death is booked once. A slow one is the machine's own finding.
        self.witness.deaths_booked += turn.deaths.iter().filter(|(_, cause, _)| *cause != Cause::Slow).count();
        assert_eq!(self.witness.deaths_booked, self.witness.deaths_reported);
        for decision in &turn.decisions {
            match decision {
                Decision::Start(_, generation, start) => {
                    // Property 4: no number twice. Property 2: no start before the wait is over.
                    assert!(self.witness.starts.insert(*start), "start {start} twice");
                    let not_before = self.witness.not_before.get(generation);
                    assert!(not_before.is_none_or(|at| *at <= self.now), "started too early");
                }
                Decision::Answers(_, start) => self.answering = Some(*start),
                Decision::Silent(_) | Decision::Gone(_) => self.answering = None,
                Decision::Stop(..) | Decision::Keep(..) => {}
            }
        }
        // What was told is what is: the loop never has to guess who answers.
        assert_eq!(self.answering, record.answering().map(|track| track.start));
        // Property 4: at most one start under way.
        assert!(record.tracks().filter(|track| track.run == Run::Loading).count() <= 1);
        for (generation, entry) in &record.ledger {
            // Property 3.
            assert!(entry.count <= MAX, "{} crashes", entry.count);
            let news = ledger.get(generation) != Some(entry);
            if news && let Some(next) = entry.next {
                self.witness.not_before.insert(*generation, next);
            }
        }
        self.witness.not_before.retain(|generation, _| record.ledger.contains_key(generation));
        // Property 6: while the good one serves, nothing that the wanted one does leaves the plugin unanswered.
        let own_death = answered.is_some() && answered == good_served.as_ref().map(|good| good.generation);
        if good_served.is_some() && !own_death && !about_good && !restarted {
            assert!(record.counts_as_serving());
        }
        // Property 11: nothing was due before its deadline.
        if inputs.is_empty() && !restarted && deadline.is_none_or(|at| at > self.now) {
            assert!(turn.decisions.is_empty(), "{:?} without a deadline", turn.decisions);
        }
        self.store.extend(turn.writes);
        assert_eq!(self.store.get(&name()).cloned().unwrap_or_default(), as_stored(&record));
    }
}

proptest! {
    #[test]
    fn the_properties_hold_after_every_step(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
    }
}

//! The machines of a fleet as one state machine: what is due when, and what it does to the nodes. Pure; the same seed and the same
//! calls at the same times give the same deeds. Time is the fleet's own, from its start.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;

use crate::fleet::deed::Deed;
use crate::fleet::fault::{Cure, Fault, FaultKind};
use crate::fleet::shape::{NodeInfo, machine_rng};
use crate::fleet::{Happening, Pace, What};
use crate::random;

/// Happenings remembered: far more than a demo or a test makes; a benchmark that runs for days must not grow without end.
const HAPPENINGS_MAX: usize = 100_000;

pub(crate) struct World {
    seed: u64,
    pace: Pace,
    machines: Vec<Machine>,
    due: BTreeMap<(Duration, u64), (usize, Due)>,
    next: u64,
    happened: Vec<Happening>,
}

struct Machine {
    info: NodeInfo,
    kubelet: Kubelet,
    fault: Option<Fault>,
    flap_up: bool,
    boots: u32,
    reboots: u32,
    /// Grows with every turn of fate. What was planned under an older number no longer happens.
    fate: u32,
    /// Grows with every fault, so that only the fault it belongs to passes by itself.
    ailment: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kubelet {
    Running,
    Silent,
    /// Power-cycled, not heard of yet.
    Booting,
    /// Posts, and is not ready yet.
    Settling,
}

#[derive(Debug, Clone)]
enum Due {
    Heartbeat,
    Renew,
    Strike(Fault),
    Grace(u32),
    Flap(u32),
    Boot(u32),
    Settled(u32),
    Passes(u32),
}

impl World {
    pub(crate) fn new(seed: u64, pace: Pace, infos: Vec<NodeInfo>) -> Self {
        let mut world = Self {
            seed,
            pace,
            machines: Vec::with_capacity(infos.len()),
            due: BTreeMap::new(),
            next: 0,
            happened: Vec::new(),
        };
        for (index, info) in infos.into_iter().enumerate() {
            world.machines.push(Machine {
                info,
                kubelet: Kubelet::Running,
                fault: None,
                flap_up: true,
                boots: 0,
                reboots: 0,
                fate: 0,
                ailment: 0,
            });
            // Spread, so that a fleet does not post all its heartbeats in one instant.
            let mut rng = machine_rng(seed, index, u32::MAX);
            world.plan(pace.heartbeat.mul_f64(rng.random::<f64>()), index, Due::Heartbeat);
            world.plan(pace.lease.mul_f64(rng.random::<f64>()), index, Due::Renew);
        }
        world
    }

    /// The earliest thing to come.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.machines.iter().position(|m| m.info.name == name)
    }

    pub(crate) fn find_instance(&self, id: &str) -> Option<usize> {
        self.machines.iter().position(|m| m.info.instance == id)
    }

    pub(crate) fn infos(&self) -> impl Iterator<Item = &NodeInfo> {
        self.machines.iter().map(|m| &m.info)
    }

    pub(crate) fn reboots(&self) -> impl Iterator<Item = (&NodeInfo, u32)> {
        self.machines.iter().map(|m| (&m.info, m.reboots))
    }

    pub(crate) fn happened(&self) -> &[Happening] {
        &self.happened
    }

    /// A fault will strike a machine.
    pub(crate) fn strike(&mut self, at: Duration, index: usize, fault: Fault) {
        self.plan(at, index, Due::Strike(fault));
    }

    /// Somebody power-cycles a machine, whatever state it is in.
    pub(crate) fn hard_reboot(&mut self, now: Duration, index: usize) {
        let pace = self.pace;
        let Some(machine) = self.machines.get_mut(index) else {
            return;
        };
        machine.reboots += 1;
        machine.fate += 1;
        machine.kubelet = Kubelet::Booting;
        let mut rng = machine_rng(self.seed, index, machine.reboots.wrapping_add(1 << 16));
        let boots_at = now + pace.boot.mul_f64(rng.random_range(0.9..1.1));
        let fate = machine.fate;
        let dead = machine.fault.as_ref().is_some_and(|f| f.kind == FaultKind::NeverBoots);
        self.note(now, index, What::Rebooted);
        self.plan(now + pace.grace, index, Due::Grace(fate));
        if !dead {
            self.plan(boots_at, index, Due::Boot(fate));
        }
    }

    /// Does what is due by `now`, in order, and answers what it does to the nodes.
    pub(crate) fn turn(&mut self, now: Duration) -> Vec<(usize, Deed)> {
        let mut deeds = Vec::new();
        while let Some(entry) = self.due.first_entry().filter(|e| e.key().0 <= now) {
            let ((at, _), (index, due)) = entry.remove_entry();
            self.happen(at, index, due, &mut deeds);
        }
        deeds
    }

    fn happen(&mut self, at: Duration, index: usize, due: Due, deeds: &mut Vec<(usize, Deed)>) {
        let pace = self.pace;
        let Some(machine) = self.machines.get_mut(index) else {
            return;
        };
        let running = matches!(machine.kubelet, Kubelet::Running | Kubelet::Settling);
        // A fault shows, and is seen to pass, once the machine is up.
        let coming_up = matches!(machine.kubelet, Kubelet::Booting | Kubelet::Settling);
        let current = |fate: u32| fate == machine.fate;
        match due {
            Due::Heartbeat => {
                if running {
                    deeds.push((index, Deed::Heartbeat));
                }
                self.plan(at + pace.heartbeat, index, Due::Heartbeat);
            }
            Due::Renew => {
                if running {
                    deeds.push((index, Deed::Renew));
                }
                self.plan(at + pace.lease, index, Due::Renew);
            }
            Due::Strike(fault) => {
                machine.ailment += 1;
                let ailment = machine.ailment;
                let relieved = machine.fault.replace(fault.clone()).is_some();
                self.note(at, index, What::Fell(fault.kind.clone()));
                if !coming_up {
                    if relieved {
                        deeds.push((index, Deed::Healthy));
                    }
                    self.manifest(at, index, deeds);
                }
                if let Cure::Itself(after) = fault.cure {
                    self.plan(at + after, index, Due::Passes(ailment));
                }
            }
            Due::Grace(fate) if current(fate) && !running => {
                deeds.push((index, Deed::Unreachable));
                self.note(at, index, What::Unreachable);
            }
            Due::Flap(fate) if current(fate) => {
                machine.flap_up = !machine.flap_up;
                let up = machine.flap_up;
                deeds.push((index, if up { Deed::Healthy } else { Deed::NotReady("PLEG is not healthy") }));
                if let Some(Fault { kind: FaultKind::Flapping { period }, .. }) = &machine.fault {
                    let next = at + *period;
                    self.plan(next, index, Due::Flap(fate));
                }
            }
            Due::Boot(fate) if current(fate) => {
                machine.boots += 1;
                machine.kubelet = Kubelet::Settling;
                let boot_id = random::uuid(&mut machine_rng(self.seed, index, machine.boots));
                if let Some(fault) = &mut machine.fault {
                    match &mut fault.cure {
                        Cure::Reboots(left) => {
                            *left = left.saturating_sub(1);
                            if *left == 0 {
                                machine.fault = None;
                            }
                        }
                        Cure::Itself(_) | Cure::Never => {}
                    }
                }
                deeds.push((index, Deed::Booted { boot_id: boot_id.clone() }));
                deeds.push((index, Deed::Renew));
                self.note(at, index, What::Booted { boot_id });
                self.plan(at + pace.settle, index, Due::Settled(fate));
            }
            Due::Settled(fate) if current(fate) => {
                machine.kubelet = Kubelet::Running;
                deeds.push((index, Deed::Healthy));
                if machine.fault.is_some() {
                    self.note(at, index, What::StillSick);
                    self.manifest(at, index, deeds);
                } else {
                    self.note(at, index, What::Healthy);
                }
            }
            Due::Passes(ailment) if ailment == machine.ailment && machine.fault.is_some() => {
                machine.fault = None;
                if !coming_up {
                    machine.fate += 1;
                    machine.kubelet = Kubelet::Running;
                    deeds.push((index, Deed::Healthy));
                    self.note(at, index, What::Healthy);
                }
            }
            // Planned under another fate.
            Due::Grace(_) | Due::Flap(_) | Due::Boot(_) | Due::Settled(_) | Due::Passes(_) => {}
        }
    }

    /// The fault of a machine shows itself.
    fn manifest(&mut self, at: Duration, index: usize, deeds: &mut Vec<(usize, Deed)>) {
        let grace = self.pace.grace;
        let Some(machine) = self.machines.get_mut(index) else {
            return;
        };
        let Some(fault) = &machine.fault else {
            return;
        };
        machine.fate += 1;
        machine.kubelet = Kubelet::Running;
        let fate = machine.fate;
        match &fault.kind {
            FaultKind::NotReady | FaultKind::NeverRecovers | FaultKind::NeverBoots => {
                machine.kubelet = Kubelet::Silent;
                self.plan(at + grace, index, Due::Grace(fate));
            }
            FaultKind::RuntimeDown => deeds.push((index, Deed::NotReady("container runtime is down"))),
            FaultKind::DiskPressure => deeds.push((index, Deed::DiskPressure)),
            FaultKind::MemoryPressure => deeds.push((index, Deed::MemoryPressure)),
            FaultKind::CiliumTaint => deeds.push((index, Deed::CiliumTaint)),
            FaultKind::GpuLost { gpus } => deeds.push((index, Deed::GpuLost(*gpus))),
            FaultKind::Flapping { period } => {
                machine.flap_up = false;
                deeds.push((index, Deed::NotReady("PLEG is not healthy")));
                let next = at + *period;
                self.plan(next, index, Due::Flap(fate));
            }
        }
    }

    fn plan(&mut self, at: Duration, index: usize, due: Due) {
        self.due.insert((at, self.next), (index, due));
        self.next += 1;
    }

    fn note(&mut self, at: Duration, index: usize, what: What) {
        if let (Some(machine), true) = (self.machines.get(index), self.happened.len() < HAPPENINGS_MAX) {
            let node = machine.info.name.clone();
            self.happened.push(Happening { at, node, what });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::shape::{Shape, node};

    fn world(pace: Pace) -> World {
        let infos = (0..3).map(|n| node(7, n, n, Shape::CivoFlannel).0).collect();
        World::new(7, pace, infos)
    }

    fn told(world: &World) -> Vec<(u64, String)> {
        let told = |h: &Happening| (h.at.as_secs(), format!("{} {}", h.node, h.what));
        world.happened().iter().map(told).collect()
    }

    fn run(world: &mut World, until: u64) -> Vec<(usize, Deed)> {
        world.turn(Duration::from_secs(until))
    }

    #[test]
    fn a_silent_kubelet_is_unknown_after_grace_and_a_reboot_cures_it() {
        let mut world = world(Pace::default());
        world.strike(Duration::from_secs(100), 0, Fault::new(FaultKind::NotReady));
        run(&mut world, 200);
        world.hard_reboot(Duration::from_secs(200), 0);
        let deeds = run(&mut world, 400);
        assert!(deeds.contains(&(0, Deed::Healthy)));
        let happened: Vec<String> = told(&world).into_iter().map(|(_, what)| what).collect();
        assert_eq!(happened[..3], ["web-1 fell ill: NotReady", "web-1 unreachable", "web-1 rebooted"]);
        assert!(happened.last().unwrap().contains("healthy"), "{happened:?}");
        assert_eq!(told(&world)[1].0, 140);
    }

    #[test]
    fn an_incurable_machine_boots_with_a_new_id_and_falls_silent_again() {
        let mut world = world(Pace::default());
        world.strike(Duration::ZERO, 0, Fault::new(FaultKind::NeverRecovers));
        world.hard_reboot(Duration::from_secs(60), 0);
        let deeds = run(&mut world, 400);
        let booted = deeds.iter().filter(|(_, d)| matches!(d, Deed::Booted { .. })).count();
        assert_eq!(booted, 1);
        assert_eq!(told(&world).last().unwrap().1, "web-1 unreachable");
    }

    #[test]
    fn a_dead_machine_never_shows_a_new_boot_id() {
        let mut world = world(Pace::default());
        world.strike(Duration::ZERO, 0, Fault::new(FaultKind::NeverBoots));
        run(&mut world, 1);
        world.hard_reboot(Duration::from_secs(60), 0);
        let deeds = run(&mut world, 4000);
        assert!(!deeds.iter().any(|(_, d)| matches!(d, Deed::Booted { .. })));
        assert!(!deeds.contains(&(0, Deed::Heartbeat)));
    }

    #[test]
    fn a_second_reboot_interrupts_the_first() {
        let mut world = world(Pace::default());
        world.hard_reboot(Duration::ZERO, 0);
        run(&mut world, 10);
        world.hard_reboot(Duration::from_secs(10), 0);
        let deeds = run(&mut world, 600);
        let booted = deeds.iter().filter(|(_, d)| matches!(d, Deed::Booted { .. })).count();
        assert_eq!(booted, 1);
    }

    #[test]
    fn a_fault_that_wants_two_reboots_is_cured_by_the_second() {
        let mut world = world(Pace::default());
        world.strike(Duration::ZERO, 0, Fault::new(FaultKind::RuntimeDown).cured_by_reboots(2));
        run(&mut world, 1);
        world.hard_reboot(Duration::from_secs(1), 0);
        run(&mut world, 600);
        assert_eq!(told(&world).last().unwrap().1, "web-1 still sick");
        world.hard_reboot(Duration::from_secs(600), 0);
        run(&mut world, 1200);
        assert_eq!(told(&world).last().unwrap().1, "web-1 healthy");
    }

    #[test]
    fn the_same_calls_give_the_same_deeds() {
        let script = |world: &mut World| {
            world.strike(Duration::from_secs(3), 1, Fault::new(FaultKind::Flapping { period: Duration::from_secs(5) }));
            let mut deeds = run(world, 50);
            world.hard_reboot(Duration::from_secs(50), 1);
            deeds.extend(run(world, 900));
            deeds
        };
        let (mut a, mut b) = (world(Pace::default()), world(Pace::default()));
        assert_eq!(script(&mut a), script(&mut b));
        assert_eq!(told(&a), told(&b));
    }
}

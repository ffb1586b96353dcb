//! What can be wrong with a machine, what cures it, and scripts of such misfortunes.

use std::str::FromStr;
use std::time::Duration;

use rand::RngExt;

use crate::fleet::Fleet;
use crate::fleet::shape::{GPUS, Shape};
use crate::random;

/// How a machine is sick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The kubelet falls silent; after the grace period the node controller says Unknown.
    NotReady,
    /// The kubelet says `Ready=False`: its container runtime is down.
    RuntimeDown,
    /// `DiskPressure=True` and its taint.
    DiskPressure,
    /// `MemoryPressure=True` and its taint.
    MemoryPressure,
    /// The taint `node.cilium.io/agent-not-ready`.
    CiliumTaint,
    /// Some GPUs are no longer allocatable, while the label still counts them.
    GpuLost {
        /// How many.
        gpus: u32,
    },
    /// Ready goes to and fro.
    Flapping {
        /// Time between changes.
        period: Duration,
    },
    /// As `NotReady`; a reboot brings a new boot id and the same silence.
    NeverRecovers,
    /// As `NotReady`, and the machine does not come back from a reboot at all.
    NeverBoots,
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotReady => "NotReady",
            Self::RuntimeDown => "RuntimeDown",
            Self::DiskPressure => "DiskPressure",
            Self::MemoryPressure => "MemoryPressure",
            Self::CiliumTaint => "CiliumTaint",
            Self::GpuLost { .. } => "GpuLost",
            Self::Flapping { .. } => "Flapping",
            Self::NeverRecovers => "NeverRecovers",
            Self::NeverBoots => "NeverBoots",
        })
    }
}

/// A fault name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no fault; there are NotReady, RuntimeDown, DiskPressure, MemoryPressure, CiliumTaint, GpuLost, Flapping, NeverRecovers, NeverBoots"
)]
pub struct UnknownFault(String);

impl FromStr for FaultKind {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        match name {
            "NotReady" => Ok(Self::NotReady),
            "RuntimeDown" => Ok(Self::RuntimeDown),
            "DiskPressure" => Ok(Self::DiskPressure),
            "MemoryPressure" => Ok(Self::MemoryPressure),
            "CiliumTaint" => Ok(Self::CiliumTaint),
            "GpuLost" => Ok(Self::GpuLost { gpus: 1 }),
            "Flapping" => Ok(Self::Flapping { period: Duration::from_secs(30) }),
            "NeverRecovers" => Ok(Self::NeverRecovers),
            "NeverBoots" => Ok(Self::NeverBoots),
            other => Err(UnknownFault(other.to_owned())),
        }
    }
}

/// What ends a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cure {
    /// So many reboots.
    Reboots(u32),
    /// Time alone; a reboot does not help.
    Itself(Duration),
    /// Nothing.
    Never,
}

/// A fault of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// How it shows.
    pub kind: FaultKind,
    /// What ends it.
    pub cure: Cure,
}

impl Fault {
    /// With the cure that its kind suggests: one reboot, or nothing for those that say so.
    pub fn new(kind: FaultKind) -> Self {
        let cure = match kind {
            FaultKind::NeverRecovers | FaultKind::NeverBoots => Cure::Never,
            FaultKind::NotReady
            | FaultKind::RuntimeDown
            | FaultKind::DiskPressure
            | FaultKind::MemoryPressure
            | FaultKind::CiliumTaint
            | FaultKind::GpuLost { .. }
            | FaultKind::Flapping { .. } => Cure::Reboots(1),
        };
        Self { kind, cure }
    }

    /// Cured by the n-th reboot.
    pub fn cured_by_reboots(mut self, count: u32) -> Self {
        self.cure = Cure::Reboots(count.max(1));
        self
    }

    /// Passes by itself.
    pub fn passes_after(mut self, time: Duration) -> Self {
        self.cure = Cure::Itself(time);
        self
    }
}

/// A script: which machine falls ill, when, and of what. Times are the fleet's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Story(pub(crate) Vec<Scene>);

/// One line of a story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// Time from the start.
    pub at: Duration,
    /// Node name.
    pub node: String,
    /// What befalls it.
    pub fault: Fault,
}

impl Story {
    /// A fleet without misfortune.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a scene.
    pub fn scene(mut self, at: Duration, node: &str, fault: Fault) -> Self {
        let node = node.to_owned();
        self.0.push(Scene { at, node, fault });
        self
    }

    /// `count` faults on different nodes, spread over a span of time, each of a kind that its node can have. The same for the same seed.
    pub fn random(seed: u64, fleet: &Fleet, count: usize, within: Duration) -> Self {
        let mut rng = random::rng(seed);
        let mut left: Vec<_> = fleet.infos().collect();
        let mut story = Self::new();
        while story.0.len() < count && !left.is_empty() {
            let info = left.swap_remove(rng.random_range(0..left.len()));
            let kind = match rng.random_range(0..8) {
                0 => FaultKind::DiskPressure,
                1 => FaultKind::RuntimeDown,
                2 => FaultKind::Flapping { period: Duration::from_secs(30) },
                3 => FaultKind::NeverRecovers,
                4 | 5 if info.shape == Shape::CivoGpu => FaultKind::GpuLost { gpus: rng.random_range(1..=GPUS) },
                4 | 5 if info.shape == Shape::CivoCilium => FaultKind::CiliumTaint,
                _ => FaultKind::NotReady,
            };
            let at = within.mul_f64(rng.random::<f64>());
            story = story.scene(at, &info.name, Fault::new(kind));
        }
        story.0.sort_by(|a, b| (a.at, &a.node).cmp(&(b.at, &b.node)));
        story
    }

    /// Its lines, in the order they were added.
    pub fn scenes(&self) -> &[Scene] {
        &self.0
    }
}

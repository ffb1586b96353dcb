//! A fleet of nodes: machines with kubelets that post their status and renew their leases, fall ill by script, and are cured or not.
//!
//! All of it comes from a seed. Time stamps in objects are real; durations are divided by the pace's speed, so that an hour of
//! cluster life can play in a minute.

mod deed;
mod fault;
mod shape;
mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use fault::{Cure, Fault, FaultKind, Scene, Story, UnknownFault};
pub use shape::{NodeInfo, Shape};

use crate::clock;
use crate::cloud::{Instance, Machines};
use crate::fleet::deed::Deed;
use crate::fleet::world::World;
use crate::refusal::Refusal;
use crate::server::{ApiServer, Objects};
use crate::task;

/// Namespace of the kubelets' leases.
const LEASES: &str = "kube-node-lease";

/// Writes after which the fleet lets others run. 100 000 kubelets renew 10 000 leases a second: requests must not wait for them all.
const BATCH: usize = 64;

/// How long things take, in the fleet's time, and how much faster that runs than ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Between a kubelet's posts of an unchanged status.
    pub heartbeat: Duration,
    /// Between renewals of a kubelet's lease.
    pub lease: Duration,
    /// From a kubelet's silence to `Unknown`.
    pub grace: Duration,
    /// From a power cycle to the kubelet's first post; each boot differs by up to a tenth.
    pub boot: Duration,
    /// From that to Ready.
    pub settle: Duration,
    /// Fleet seconds per second of ours.
    pub speed: f64,
}

impl Default for Pace {
    /// As Kubernetes' defaults have it, in real time.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(300),
            lease: Duration::from_secs(10),
            grace: Duration::from_secs(40),
            boot: Duration::from_secs(90),
            settle: Duration::from_secs(10),
            speed: 1.0,
        }
    }
}

impl Pace {
    /// Kubernetes' defaults, so many times faster.
    pub fn times(speed: f64) -> Self {
        Self { speed, ..Self::default() }
    }

    fn ours(&self, fleets: Duration) -> Duration {
        fleets.div_f64(self.speed.max(f64::MIN_POSITIVE))
    }

    fn fleets(&self, ours: Duration) -> Duration {
        ours.mul_f64(self.speed)
    }
}

/// One thing that happened to a machine, at a time of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// Fleet time from the start.
    pub at: Duration,
    /// Node name.
    pub node: String,
    /// What it was.
    pub what: What,
}

/// See [`Happening`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A fault struck.
    Fell(FaultKind),
    /// The node controller said Unknown.
    Unreachable,
    /// Somebody power-cycled it.
    Rebooted,
    /// The kubelet posted after a reboot.
    Booted {
        /// The new boot id.
        boot_id: String,
    },
    /// The reboot did not cure it.
    StillSick,
    /// All is well again.
    Healthy,
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fell(kind) => write!(f, "fell ill: {kind}"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Rebooted => f.write_str("rebooted"),
            Self::Booted { boot_id } => write!(f, "booted as {boot_id}"),
            Self::StillSick => f.write_str("still sick"),
            Self::Healthy => f.write_str("healthy"),
        }
    }
}

/// A fleet that does not run yet.
#[derive(Debug, Clone)]
pub struct Fleet {
    seed: u64,
    nodes: Vec<(NodeInfo, usize)>,
}

impl Fleet {
    /// So many nodes of each shape, in this order. The same for the same seed, to the byte.
    pub fn new(seed: u64, shapes: &[(Shape, usize)]) -> Self {
        let mut numbers = BTreeMap::<Shape, usize>::new();
        let mut nodes = Vec::new();
        for (shape, count) in shapes {
            for _ in 0..*count {
                let number = numbers.entry(*shape).or_default();
                let info = shape::facts(seed, nodes.len(), *number, *shape);
                nodes.push((info, *number));
                *number += 1;
            }
        }
        Self { seed, nodes }
    }

    /// The nodes' unchanging facts.
    pub fn infos(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().map(|(info, _)| info)
    }

    /// The Node objects, made one at a time: 100 000 at once would be gigabytes as values.
    pub fn nodes(&self) -> impl Iterator<Item = Value> {
        (0..self.nodes.len()).filter_map(|index| self.node(index))
    }

    fn node(&self, index: usize) -> Option<Value> {
        let (info, number) = self.nodes.get(index)?;
        Some(shape::node(self.seed, index, *number, info.shape).1)
    }

    /// Puts the nodes and their leases into a server, as kubelets that have just posted. They stay as they are: nothing runs.
    pub fn install(&self, server: &ApiServer) -> Result<(), Refusal> {
        let (nodes, leases) = (server.nodes(), server.leases());
        let now = nodes.now();
        let posted = clock::seconds(now);
        for mut node in self.nodes() {
            Deed::Heartbeat.act(&mut node, &posted);
            nodes.apply(node)?;
        }
        for info in self.infos() {
            leases.apply(lease(&info.name, now))?;
        }
        Ok(())
    }

    /// Installs the fleet and lets it live. Must be called in a tokio runtime.
    pub fn run(self, server: &ApiServer, pace: Pace, story: &Story) -> Result<Running, Refusal> {
        self.install(server)?;
        let infos = self.infos().cloned().collect();
        let mut world = World::new(self.seed, pace, infos);
        for scene in story.scenes() {
            let missing = || Refusal::not_found("nodes", &scene.node);
            let index = world.find(&scene.node).ok_or_else(missing)?;
            world.strike(scene.at, index, scene.fault.clone());
        }
        let life = Arc::new(Life {
            fleet: self,
            pace,
            began: Instant::now(),
            nodes: server.nodes(),
            leases: server.leases(),
            world: Mutex::new(world),
            stirred: Notify::new(),
        });
        let task = task::spawn("fleet", Arc::clone(&life).live());
        Ok(Running { life, task })
    }
}

/// A fleet that lives. Dropping it stops time for its machines; their nodes stay.
pub struct Running {
    life: Arc<Life>,
    task: JoinHandle<()>,
}

struct Life {
    fleet: Fleet,
    pace: Pace,
    began: Instant,
    nodes: Objects,
    leases: Objects,
    world: Mutex<World>,
    stirred: Notify,
}

impl Running {
    /// A fault strikes now.
    pub fn strike(&self, node: &str, fault: Fault) -> Result<(), Refusal> {
        let now = self.life.now();
        let mut world = self.life.world();
        let index = world.find(node).ok_or_else(|| Refusal::not_found("nodes", node))?;
        world.strike(now, index, fault);
        drop(world);
        self.life.stirred.notify_one();
        Ok(())
    }

    /// The machines, for a cloud.
    pub fn machines(&self) -> Arc<dyn Machines> {
        Arc::clone(&self.life) as Arc<dyn Machines>
    }

    /// The nodes' unchanging facts.
    pub fn infos(&self) -> Vec<NodeInfo> {
        self.life.world().infos().cloned().collect()
    }

    /// All that happened so far, in order.
    pub fn happened(&self) -> Vec<Happening> {
        self.life.world().happened().to_vec()
    }

    /// Reboots by node name, those without any left out.
    pub fn reboots(&self) -> BTreeMap<String, u32> {
        let world = self.life.world();
        let rebooted = world.reboots().filter(|(_, count)| *count > 0);
        rebooted.map(|(info, count)| (info.name.clone(), count)).collect()
    }

    /// Fleet time since the start.
    pub fn now(&self) -> Duration {
        self.life.now()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Machines for Life {
    fn instances(&self) -> Vec<Instance> {
        let world = self.world();
        let instance = |info: &NodeInfo| Instance { id: info.instance.clone(), hostname: info.name.clone() };
        world.infos().map(instance).collect()
    }

    fn hard_reboot(&self, id: &str) {
        let now = self.now();
        let mut world = self.world();
        if let Some(index) = world.find_instance(id) {
            world.hard_reboot(now, index);
        }
        drop(world);
        self.stirred.notify_one();
    }
}

impl Life {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.pace.fleets(self.began.elapsed())
    }

    async fn live(self: Arc<Self>) {
        loop {
            let deeds = self.world().turn(self.now());
            for (done, (index, deed)) in deeds.into_iter().enumerate() {
                self.carry_out(index, &deed);
                if done % BATCH == BATCH - 1 {
                    tokio::task::yield_now().await;
                }
            }
            let next = self.world().next_due();
            let wake = async {
                match next {
                    Some(due) => tokio::time::sleep_until(self.began + self.pace.ours(due)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wake => {}
                () = self.stirred.notified() => {}
            }
        }
    }

    fn carry_out(&self, index: usize, deed: &Deed) {
        let Some((info, _)) = self.fleet.nodes.get(index) else {
            return;
        };
        let now = self.nodes.now();
        let at = clock::seconds(now);
        let done = match deed {
            Deed::Renew => self.leases.apply(lease(&info.name, now)),
            // A kubelet registers a node that somebody deleted only when it starts.
            Deed::Booted { .. } if self.nodes.get(&info.name).is_none() => self.register(index, deed, now),
            Deed::Heartbeat
            | Deed::Unreachable
            | Deed::NotReady(_)
            | Deed::Healthy
            | Deed::DiskPressure
            | Deed::MemoryPressure
            | Deed::CiliumTaint
            | Deed::GpuLost(_)
            | Deed::Booted { .. } => self.nodes.update(&info.name, |node| deed.act(node, &at)),
        };
        if let Err(refusal) = done {
            tracing::debug!(node = info.name, ?deed, %refusal, "the node is not there");
        }
    }

    /// As a new object: another uid, created now.
    fn register(&self, index: usize, deed: &Deed, now: jiff::Timestamp) -> Result<u64, Refusal> {
        let mut node = self.fleet.node(index).unwrap_or_default();
        if let Some(metadata) = node.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("uid");
            metadata.remove("creationTimestamp");
        }
        deed.act(&mut node, &clock::seconds(now));
        self.nodes.apply(node)
    }
}

fn lease(node: &str, now: jiff::Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": node, "namespace": LEASES },
        "spec": { "holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": clock::micros(now) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(Shape, usize); 5] =
        [(Shape::CivoFlannel, 3), (Shape::CivoCilium, 3), (Shape::CivoGpu, 2), (Shape::Eks, 3), (Shape::Gke, 3)];

    fn text(fleet: &Fleet) -> String {
        fleet.nodes().map(|node| node.to_string()).collect()
    }

    #[test]
    fn a_seed_makes_the_same_fleet_to_the_byte_and_another_seed_another() {
        let fleet = Fleet::new(42, &ALL);
        assert_eq!(text(&fleet), text(&Fleet::new(42, &ALL)));
        assert_ne!(text(&fleet), text(&Fleet::new(43, &ALL)));
        let hour = Duration::from_secs(3600);
        let story = Story::random(9, &fleet, 6, hour);
        assert_eq!(story, Story::random(9, &fleet, 6, hour));
        assert_ne!(story, Story::random(10, &fleet, 6, hour));
        assert_eq!(story.scenes().len(), 6);
    }

    #[test]
    fn nodes_have_distinct_names_and_the_richness_of_real_ones() {
        let fleet = Fleet::new(1, &ALL);
        let names: std::collections::BTreeSet<_> = fleet.infos().map(|i| &i.name).collect();
        assert_eq!(names.len(), 14);
        for node in fleet.nodes() {
            let name = &node["metadata"]["name"];
            assert!(node["metadata"]["labels"].as_object().unwrap().len() >= 17, "{name}");
            assert!(node["metadata"]["annotations"].as_object().unwrap().len() >= 5, "{name}");
            assert!(node["status"]["conditions"].as_array().unwrap().len() >= 4, "{name}");
            assert!(node.to_string().len() > 3000, "{name}");
        }
    }
}

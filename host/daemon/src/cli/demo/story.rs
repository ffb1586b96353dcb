//! The story of the demo: who falls ill and when, what must come of it, and what did.

use std::collections::BTreeMap;
use std::time::Duration;

use apgar_sim::{ApiServer, Fault, FaultKind, Fleet, NodeInfo, Shape};
use serde_json::{Value, json};

use super::{PACE, text};

include!(concat!(env!("OUT_DIR"), "/demo.rs"));

/// Past this the story is over, however far it got.
pub(crate) const LONGEST: Duration = Duration::from_secs(80);

/// How far into the story the last chapter is told: before it, all may be well because nothing happened yet.
const LAST_CHAPTER: Duration = Duration::from_secs(40);

/// What a node is in the story for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sick, and cured by one reboot.
    Cured,
    /// Sick, and no reboot helps.
    Incurable,
    /// Sick for less than the threshold.
    Blip,
    /// Sick, and none of our business.
    Excluded,
}

/// A node that falls ill.
#[derive(Debug, Clone)]
pub(crate) struct Patient {
    pub(crate) node: String,
    pub(crate) role: Role,
    /// What is wrong, for people.
    pub(crate) trouble: &'static str,
    /// When, in our time.
    pub(crate) at: Duration,
    fault: Fault,
}

/// A file that is put into the plugin directory.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) at: Duration,
    pub(crate) file: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) says: String,
}

/// The story.
#[derive(Debug)]
pub(crate) struct Story {
    seed: u64,
    pub(crate) patients: Vec<Patient>,
    pub(crate) infos: Vec<NodeInfo>,
}

/// The fleet: forty nodes of three kinds.
const SHAPES: [(Shape, usize); 3] = [(Shape::CivoFlannel, 24), (Shape::CivoCilium, 12), (Shape::CivoGpu, 4)];

impl Story {
    pub(crate) fn new(seed: u64) -> Self {
        let infos: Vec<NodeInfo> = Fleet::new(seed, &SHAPES).infos().cloned().collect();
        let cast = [
            (0, Role::Cured, "kubelet silent", 1, Fault::new(FaultKind::NotReady)),
            (36, Role::Cured, "3 of 8 GPUs lost", 2, Fault::new(FaultKind::GpuLost { gpus: 3 })),
            (25, Role::Cured, "Cilium agent not ready", 5, Fault::new(FaultKind::CiliumTaint)),
            (5, Role::Cured, "disk pressure", 8, Fault::new(FaultKind::DiskPressure)),
            (7, Role::Cured, "memory pressure", 5, Fault::new(FaultKind::MemoryPressure)),
            (9, Role::Incurable, "kubelet silent, for good", 10, Fault::new(FaultKind::NeverRecovers)),
            (
                11,
                Role::Blip,
                "container runtime down for 1.5 s",
                12,
                Fault::new(FaultKind::RuntimeDown).passes_after(Duration::from_millis(1500).mul_f64(PACE)),
            ),
            (
                13,
                Role::Excluded,
                "kubelet silent, but marked apgar.dev/exclude",
                3,
                Fault::new(FaultKind::NeverRecovers),
            ),
        ];
        let patients = cast.into_iter().filter_map(|(index, role, trouble, at, fault)| {
            let node = infos.get(index)?.name.clone();
            Some(Patient { node, role, trouble, at: Duration::from_secs(at), fault })
        });
        Self { seed, patients: patients.collect(), infos }
    }

    pub(crate) fn fleet(&self) -> Fleet {
        Fleet::new(self.seed, &SHAPES)
    }

    pub(crate) fn misfortunes(&self) -> apgar_sim::Story {
        let story = apgar_sim::Story::new();
        self.patients.iter().fold(story, |story, p| story.scene(p.at.mul_f64(PACE), &p.node, p.fault.clone()))
    }

    /// What was so before the story began: an operator's mark.
    pub(crate) fn prepare(&self, server: &ApiServer) -> Result<(), apgar_sim::Refusal> {
        for patient in self.patients.iter().filter(|patient| patient.role == Role::Excluded) {
            server.nodes().update(&patient.node, |node| {
                if let Some(annotations) = node.pointer_mut("/metadata/annotations") {
                    annotations[apgar_core::node::EXCLUDE_KEY] = json!("true");
                }
            })?;
        }
        Ok(())
    }

    /// The instance whose first reboot the cloud turns away.
    pub(crate) fn busy_instance(&self) -> Option<&str> {
        let sick = self.patients.iter().find(|patient| patient.trouble == "disk pressure")?;
        self.infos.iter().find(|info| info.name == sick.node).map(|info| info.instance.as_str())
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        let disk = crate::plugins::bundled().into_iter().find(|(name, _)| *name == "disk");
        let mut rebuilt = disk.map(|(_, bytes)| bytes.to_vec()).unwrap_or_default();
        // A custom section changes the digest and nothing else, as a rebuild of the same source would.
        rebuilt.extend_from_slice(b"\x00\x08\x07rebuilt");
        vec![
            Arrival {
                at: Duration::from_secs(16),
                file: "pool-memory.wasm",
                bytes: POOL_MEMORY.to_vec(),
                says: "a custom checker is put into the plugin directory: pool-memory.wasm".to_owned(),
            },
            Arrival {
                at: Duration::from_secs(26),
                file: "disk.wasm",
                bytes: rebuilt,
                says: "a rebuilt disk.wasm is put there, over the bundled one".to_owned(),
            },
            Arrival {
                at: Duration::from_secs(30),
                file: "pool-memory.wasm",
                bytes: BAD_POOL_MEMORY.to_vec(),
                says: "a pool-memory.wasm with a bug is put over the one that serves".to_owned(),
            },
        ]
    }

    /// True when everything that must happen has.
    pub(crate) fn is_over(&self, observed: &Observed) -> bool {
        observed.at >= LAST_CHAPTER
            && observed.given_up("pool-memory")
            && self.patients.iter().all(|patient| {
                let phase = observed.phase(&patient.node);
                match patient.role {
                    Role::Cured => phase == "Healthy" && observed.moment(&patient.node, "WaitingReboot").is_some(),
                    Role::Incurable => phase == "Failed",
                    Role::Blip | Role::Excluded => true,
                }
            })
    }
}

/// What the daemon said, and when.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) at: Duration,
    /// By node: the phases it was seen in, each with the first moment.
    phases: BTreeMap<String, Vec<(Duration, String)>>,
    /// By node: the checkers that failed.
    failing: BTreeMap<String, Vec<String>>,
    /// By plugin: the generations that answered, and who answers now with what is known of it.
    plugins: BTreeMap<String, Plugin>,
    /// What happened to plugins.
    events: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Plugin {
    generations: Vec<String>,
    /// It answered at every look since it first did.
    always: bool,
    now: Value,
}

impl Observed {
    /// Notes the daemon's present answers; returns what is new, for people.
    pub(crate) fn note(&mut self, at: Duration, nodes: &Value, plugins: &Value) -> Vec<String> {
        self.at = at;
        let mut news = Vec::new();
        for node in items(nodes) {
            let (name, phase) = (text(node, "node"), text(node, "phase"));
            let checkers = node.get("checkers").and_then(Value::as_object).into_iter().flatten();
            let failing: Vec<&str> =
                checkers.filter(|(_, v)| v.as_str() == Some("fail")).map(|(checker, _)| checker.as_str()).collect();
            if !failing.is_empty() {
                let seen = self.failing.entry(name.to_owned()).or_default();
                seen.extend(
                    failing
                        .iter()
                        .filter(|f| !seen.iter().any(|s| s == *f))
                        .map(|f| (*f).to_owned())
                        .collect::<Vec<_>>(),
                );
            }
            let phases = self.phases.entry(name.to_owned()).or_default();
            let before = phases.last().map(|(_, phase)| phase.clone());
            if before.as_deref() != Some(phase) {
                phases.push((at, phase.to_owned()));
                if let Some(before) = before.filter(|before| before != "Unknown") {
                    let by =
                        if failing.is_empty() { String::new() } else { format!(" ({} fails)", failing.join(", ")) };
                    news.push(format!("{name}: {before} → {phase}{by}"));
                }
            }
        }
        for shown in items(plugins) {
            let (name, generation) = (text(shown, "name"), text(shown, "generation"));
            let plugin = self.plugins.entry(name.to_owned()).or_default();
            let answers = text(shown, "state") == "Running";
            plugin.now = shown.clone();
            plugin.always &= answers || plugin.generations.is_empty();
            if !answers || plugin.generations.last().map(String::as_str) == Some(generation) {
                continue;
            }
            plugin.always |= plugin.generations.is_empty();
            let what = if plugin.generations.is_empty() { "serves" } else { "was swapped, and serves" };
            if at > Duration::from_secs(5) {
                news.push(format!("checker {name} {what} as {generation}"));
            }
            plugin.generations.push(generation.to_owned());
        }
        news
    }

    /// Notes what happened to plugins, the latest first; returns the warnings that are new, for people.
    pub(crate) fn hear(&mut self, events: &Value) -> Vec<String> {
        let mut news = Vec::new();
        let all: Vec<&Value> = items(events).filter(|event| text(event, "severity") == "warning").collect();
        for event in all.into_iter().rev() {
            let known = (format!("{} {}", text(event, "kind"), text(event, "plugin")), text(event, "at").to_owned());
            if !self.events.contains(&known) {
                news.push(format!("{}: {}", known.0, text(event, "message")));
                self.events.push(known);
            }
        }
        news
    }

    pub(crate) fn phase(&self, node: &str) -> &str {
        self.phases.get(node).and_then(|phases| phases.last()).map_or("", |(_, phase)| phase)
    }

    /// When the node was first seen in that phase.
    pub(crate) fn moment(&self, node: &str, phase: &str) -> Option<Duration> {
        self.phases.get(node)?.iter().find(|(_, seen)| seen == phase).map(|(at, _)| *at)
    }

    /// When the node was Healthy again after it had been anything else.
    pub(crate) fn healed(&self, node: &str) -> Option<Duration> {
        let phases = self.phases.get(node)?;
        let sick = phases.iter().position(|(_, seen)| seen == "Unhealthy")?;
        phases.iter().skip(sick).find(|(_, seen)| seen == "Healthy").map(|(at, _)| *at)
    }

    pub(crate) fn failed_by(&self, node: &str) -> String {
        self.failing.get(node).map(|checkers| checkers.join(", ")).unwrap_or_default()
    }

    /// How many generations of a plugin answered.
    pub(crate) fn generations(&self, plugin: &str) -> usize {
        self.plugins.get(plugin).map_or(0, |plugin| plugin.generations.len())
    }

    /// True if a newer generation was rolled back until it was given up.
    pub(crate) fn given_up(&self, plugin: &str) -> bool {
        let marker = self.plugins.get(plugin).and_then(|plugin| plugin.now.get("marker"));
        let saturated = marker.and_then(|marker| marker.get("saturated")).and_then(Value::as_bool);
        let rolled_back = format!("RolledBack {plugin}");
        saturated == Some(true) && self.events.iter().any(|(what, _)| *what == rolled_back)
    }

    /// True if the plugin never was without an answer, and its first generation answers now.
    pub(crate) fn held_on(&self, plugin: &str) -> bool {
        let Some(plugin) = self.plugins.get(plugin) else {
            return false;
        };
        plugin.always && plugin.generations.first().is_some_and(|first| *first == text(&plugin.now, "generation"))
    }

    /// What the marker of a plugin says.
    pub(crate) fn marker(&self, plugin: &str) -> String {
        let marker = self.plugins.get(plugin).and_then(|plugin| plugin.now.get("marker"));
        marker.map_or_else(String::new, |marker| {
            format!("{} in {} on {}", text(marker, "cause"), text(marker, "stage"), text(marker, "node"))
        })
    }

    /// Nodes by phase.
    pub(crate) fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for node in self.phases.keys() {
            *counts.entry(self.phase(node)).or_default() += 1;
        }
        counts
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("items").and_then(Value::as_array).into_iter().flatten()
}

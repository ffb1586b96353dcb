//! What happens to a Node object: the writes of kubelets, of the node controller and of Cilium's operator. Pure.

use serde_json::{Value, json};

use crate::patch::as_map;

/// Conditions that the kubelet posts, and that the node controller sets to Unknown when it falls silent.
const KUBELET_CONDITIONS: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

const CILIUM_TAINT: &str = "node.cilium.io/agent-not-ready";
const DISK_TAINT: &str = "node.kubernetes.io/disk-pressure";
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";
const NOT_READY_TAINT: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE_TAINT: &str = "node.kubernetes.io/unreachable";

/// One change of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed {
    /// The kubelet posts its status.
    Heartbeat,
    /// The kubelet renews its lease.
    Renew,
    /// The node controller has not heard of the kubelet for its grace period.
    Unreachable,
    /// The kubelet says it is not ready, and why.
    NotReady(&'static str),
    /// All conditions good, all taints of the simulation gone, all GPUs there.
    Healthy,
    DiskPressure,
    MemoryPressure,
    CiliumTaint,
    /// So many GPUs are no longer allocatable.
    GpuLost(u32),
    /// The kubelet of a rebooted machine posts its first status.
    Booted {
        boot_id: String,
    },
}

impl Deed {
    /// Changes `node` as of the time `at`.
    pub(crate) fn act(&self, node: &mut Value, at: &str) {
        match self {
            // Leases are objects of their own.
            Self::Renew => {}
            Self::Heartbeat => heartbeat(node, at),
            Self::Unreachable => {
                for kind in KUBELET_CONDITIONS {
                    let message = "Kubelet stopped posting node status.";
                    set_condition(node, kind, "Unknown", "NodeStatusUnknown", message, at);
                }
                remove_taints(node, &[NOT_READY_TAINT]);
                add_taint(node, UNREACHABLE_TAINT, "NoSchedule", at);
                add_taint(node, UNREACHABLE_TAINT, "NoExecute", at);
            }
            Self::NotReady(message) => {
                heartbeat(node, at);
                set_condition(node, "Ready", "False", "KubeletNotReady", message, at);
                remove_taints(node, &[UNREACHABLE_TAINT]);
                add_taint(node, NOT_READY_TAINT, "NoSchedule", at);
                add_taint(node, NOT_READY_TAINT, "NoExecute", at);
            }
            Self::Healthy => healthy(node, at),
            Self::DiskPressure => {
                heartbeat(node, at);
                set_condition(node, "DiskPressure", "True", "KubeletHasDiskPressure", "kubelet has disk pressure", at);
                add_taint(node, DISK_TAINT, "NoSchedule", at);
            }
            Self::MemoryPressure => {
                heartbeat(node, at);
                let message = "kubelet has insufficient memory available";
                set_condition(node, "MemoryPressure", "True", "KubeletHasInsufficientMemory", message, at);
                add_taint(node, MEMORY_TAINT, "NoSchedule", at);
            }
            Self::CiliumTaint => add_taint(node, CILIUM_TAINT, "NoSchedule", at),
            Self::GpuLost(lost) => {
                heartbeat(node, at);
                set_gpus(node, gpu_count(node).saturating_sub(*lost));
            }
            Self::Booted { boot_id } => {
                healthy(node, at);
                Self::NotReady("container runtime network not ready: cni config uninitialized").act(node, at);
                if let Some(info) = node.pointer_mut("/status/nodeInfo") {
                    as_map(info).insert("bootID".to_owned(), boot_id.clone().into());
                }
            }
        }
    }
}

fn heartbeat(node: &mut Value, at: &str) {
    for condition in conditions(node) {
        // Network plugins post NetworkUnavailable once and never again.
        if condition.get("type").is_some_and(|kind| kind != "NetworkUnavailable") {
            as_map(condition).insert("lastHeartbeatTime".to_owned(), at.into());
        }
    }
}

fn healthy(node: &mut Value, at: &str) {
    heartbeat(node, at);
    for (kind, status, reason, message) in [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ] {
        set_condition(node, kind, status, reason, message, at);
    }
    remove_taints(node, &[CILIUM_TAINT, DISK_TAINT, MEMORY_TAINT, NOT_READY_TAINT, UNREACHABLE_TAINT]);
    let gpus = gpu_count(node);
    if gpus > 0 {
        set_gpus(node, gpus);
    }
}

fn conditions(node: &mut Value) -> impl Iterator<Item = &mut Value> {
    node.pointer_mut("/status/conditions").and_then(Value::as_array_mut).into_iter().flatten()
}

fn set_condition(node: &mut Value, kind: &str, status: &str, reason: &str, message: &str, at: &str) {
    let Some(condition) = conditions(node).find(|c| c.get("type").is_some_and(|t| t == kind)) else {
        return;
    };
    let condition = as_map(condition);
    if condition.get("status").is_none_or(|old| old != status) {
        condition.insert("lastTransitionTime".to_owned(), at.into());
    }
    condition.insert("status".to_owned(), status.into());
    condition.insert("reason".to_owned(), reason.into());
    condition.insert("message".to_owned(), message.into());
}

fn add_taint(node: &mut Value, key: &str, effect: &str, at: &str) {
    let spec = as_map(as_map(node).entry("spec").or_insert(json!({})));
    let taints = spec.entry("taints").or_insert(json!([]));
    let Some(taints) = taints.as_array_mut() else {
        return;
    };
    let same = |t: &Value| t.get("key").is_some_and(|k| k == key) && t.get("effect").is_some_and(|e| e == effect);
    if !taints.iter().any(same) {
        taints.push(json!({ "key": key, "effect": effect, "timeAdded": at }));
    }
}

fn remove_taints(node: &mut Value, keys: &[&str]) {
    let Some(spec) = node.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(taints) = spec.get_mut("taints").and_then(Value::as_array_mut) {
        taints.retain(|t| !t.get("key").and_then(Value::as_str).is_some_and(|k| keys.contains(&k)));
        if taints.is_empty() {
            spec.remove("taints");
        }
    }
}

fn gpu_count(node: &Value) -> u32 {
    let label = node.pointer("/metadata/labels/nvidia.com~1gpu.count").and_then(Value::as_str);
    label.and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn set_gpus(node: &mut Value, gpus: u32) {
    if let Some(allocatable) = node.pointer_mut("/status/allocatable") {
        as_map(allocatable).insert("nvidia.com/gpu".to_owned(), gpus.to_string().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::shape::{Shape, node};

    fn condition<'n>(node: &'n Value, kind: &str) -> &'n Value {
        let conditions = node["status"]["conditions"].as_array().unwrap();
        conditions.iter().find(|c| c["type"] == kind).unwrap()
    }

    fn taints(node: &Value) -> Vec<&str> {
        let taints = node["spec"]["taints"].as_array();
        taints.into_iter().flatten().map(|t| t["key"].as_str().unwrap()).collect()
    }

    #[test]
    fn an_unreachable_node_keeps_its_last_heartbeat_and_gets_the_taints() {
        let (_, mut node) = node(1, 0, 0, Shape::CivoFlannel);
        let heard = condition(&node, "Ready")["lastHeartbeatTime"].clone();
        Deed::Unreachable.act(&mut node, "2026-01-01T00:00:00Z");
        let ready = condition(&node, "Ready");
        assert_eq!(ready["status"], "Unknown");
        assert_eq!(ready["lastHeartbeatTime"], heard);
        assert_eq!(ready["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(taints(&node), [UNREACHABLE_TAINT, UNREACHABLE_TAINT]);
    }

    #[test]
    fn a_boot_changes_the_boot_id_and_ends_ready() {
        let (_, mut node) = node(1, 0, 0, Shape::CivoCilium);
        Deed::CiliumTaint.act(&mut node, "2026-01-01T00:00:00Z");
        Deed::Booted { boot_id: "b".to_owned() }.act(&mut node, "2026-01-01T00:01:00Z");
        assert_eq!(node["status"]["nodeInfo"]["bootID"], "b");
        assert_eq!(condition(&node, "Ready")["status"], "False");
        assert_eq!(taints(&node), [NOT_READY_TAINT, NOT_READY_TAINT]);
        Deed::Healthy.act(&mut node, "2026-01-01T00:02:00Z");
        assert_eq!(condition(&node, "Ready")["status"], "True");
        assert!(taints(&node).is_empty());
    }

    #[test]
    fn lost_gpus_stay_in_the_label_and_come_back_with_health() {
        let (_, mut node) = node(1, 0, 0, Shape::CivoGpu);
        Deed::GpuLost(3).act(&mut node, "2026-01-01T00:00:00Z");
        assert_eq!(node["status"]["allocatable"]["nvidia.com/gpu"], "5");
        assert_eq!(node["metadata"]["labels"]["nvidia.com/gpu.count"], "8");
        Deed::Healthy.act(&mut node, "2026-01-01T00:01:00Z");
        assert_eq!(node["status"]["allocatable"]["nvidia.com/gpu"], "8");
    }
}

//! What nodes look like, per platform: objects as real clusters have them, the same for the same seed.

use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

use crate::clock;
use crate::random;

/// 1 June 2025: nodes of a fleet are months old on any day it runs, so that none counts as starting.
const CREATED: Timestamp = Timestamp::constant(1_748_736_000, 0);

/// A platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// Civo with k3s and Flannel: no NetworkUnavailable condition.
    CivoFlannel,
    /// Civo with k3s and Cilium: NetworkUnavailable with reason `CiliumIsUp`.
    CivoCilium,
    /// Civo with eight NVIDIA GPUs: label `nvidia.com/gpu.count`, capacity and allocatable.
    CivoGpu,
    /// EKS: VPC CNI, no NetworkUnavailable condition, provider id `aws://`.
    Eks,
    /// GKE: conditions of the node problem detector, NetworkUnavailable with reason `RouteCreated`.
    Gke,
}

/// GPUs of a [`Shape::CivoGpu`] node.
pub(crate) const GPUS: u32 = 8;

const ZONES: [&str; 3] = ["a", "b", "c"];

/// One node's unchanging facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Node name, and host name in the cloud.
    pub name: String,
    /// Platform.
    pub shape: Shape,
    /// Id in the cloud.
    pub instance: String,
    /// Value of `topology.kubernetes.io/zone`.
    pub zone: String,
    /// Node pool.
    pub pool: String,
}

/// Makes the `index`-th node of a fleet, numbered `number` in its shape.
pub(crate) fn node(seed: u64, index: usize, number: usize, shape: Shape) -> (NodeInfo, Value) {
    let mut rng = machine_rng(seed, index, 0);
    let info = info(&mut rng, number, shape);
    let heartbeat = CREATED + SignedDuration::from_secs(rng.random_range(600..1200));
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": info.name,
            "uid": random::uuid(&mut rng),
            "creationTimestamp": clock::seconds(CREATED),
            "labels": labels(&info),
            "annotations": annotations(&mut rng, &info, number),
        },
        "spec": spec(&info, number),
        "status": {
            "addresses": addresses(&info, number),
            "allocatable": resources(shape, true),
            "capacity": resources(shape, false),
            "conditions": conditions(shape, &clock::seconds(heartbeat)),
            "daemonEndpoints": { "kubeletEndpoint": { "Port": 10250 } },
            "images": images(&mut rng),
            "nodeInfo": node_info(&mut rng, shape),
        },
    });
    (info, node)
}

/// The facts alone, without making the object.
pub(crate) fn facts(seed: u64, index: usize, number: usize, shape: Shape) -> NodeInfo {
    info(&mut machine_rng(seed, index, 0), number, shape)
}

/// The generator of one machine's `boot`-th life: whatever happens to the others, in whatever order, it draws the same.
pub(crate) fn machine_rng(seed: u64, index: usize, boot: u32) -> StdRng {
    let index = u64::try_from(index).unwrap_or(u64::MAX);
    // Odd constants keep neighbouring seeds, machines and boots apart.
    let mixed = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(index.wrapping_mul(0xbf58_476d_1ce4_e5b9))
        .wrapping_add(u64::from(boot).wrapping_mul(0x94d0_49bb_1331_11eb));
    random::rng(mixed)
}

fn info(rng: &mut StdRng, number: usize, shape: Shape) -> NodeInfo {
    let zone = ZONES.get(number % ZONES.len()).copied().unwrap_or("a");
    let (name, pool, zone) = match shape {
        Shape::CivoFlannel => (format!("web-{}", number + 1), "web".to_owned(), format!("lon1-{zone}")),
        Shape::CivoCilium => (format!("app-{}", number + 1), "app".to_owned(), format!("lon1-{zone}")),
        Shape::CivoGpu => (format!("gpu-{}", number + 1), "gpu".to_owned(), format!("lon1-{zone}")),
        Shape::Eks => {
            let name = format!(
                "ip-10-{}-{}-{}.eu-central-1.compute.internal",
                number >> 16,
                (number >> 8) & 255,
                number & 255
            );
            (name, "workers".to_owned(), format!("eu-central-1{zone}"))
        }
        Shape::Gke => {
            let name = format!("gke-prod-default-pool-{}-{}", number + 1, random::hex(rng, 4));
            (name, "default-pool".to_owned(), format!("europe-west3-{zone}"))
        }
    };
    let instance = match shape {
        Shape::CivoFlannel | Shape::CivoCilium | Shape::CivoGpu => random::uuid(rng),
        Shape::Eks => format!("i-0{}", random::hex(rng, 16)),
        Shape::Gke => rng.random_range(1_000_000_000_000_000_000_u64..9_000_000_000_000_000_000).to_string(),
    };
    NodeInfo { name, shape, instance, zone, pool }
}

fn labels(info: &NodeInfo) -> Value {
    let region = info.zone.trim_end_matches(|c: char| c == '-' || ZONES.iter().any(|z| z.starts_with(c)));
    let size = match info.shape {
        Shape::CivoFlannel => "g4s.kube.medium",
        Shape::CivoCilium => "g4s.kube.large",
        Shape::CivoGpu => "an.g1.l40s.kube.x8",
        Shape::Eks => "m6i.xlarge",
        Shape::Gke => "n2-standard-4",
    };
    let mut labels = Map::new();
    let mut set = |key: &str, value: &str| {
        labels.insert(key.to_owned(), value.into());
    };
    set("beta.kubernetes.io/arch", "amd64");
    set("beta.kubernetes.io/instance-type", size);
    set("beta.kubernetes.io/os", "linux");
    set("failure-domain.beta.kubernetes.io/region", region);
    set("failure-domain.beta.kubernetes.io/zone", &info.zone);
    set("kubernetes.io/arch", "amd64");
    set("kubernetes.io/hostname", &info.name);
    set("kubernetes.io/os", "linux");
    set("node.kubernetes.io/instance-type", size);
    set("topology.kubernetes.io/region", region);
    set("topology.kubernetes.io/zone", &info.zone);
    set("app.kubernetes.io/managed-by", "platform");
    set("cluster.example.com/environment", "production");
    set("cluster.example.com/team", "infrastructure");
    match info.shape {
        Shape::CivoFlannel | Shape::CivoCilium | Shape::CivoGpu => {
            set("kubernetes.civo.com/civo-node-pool", &info.pool);
            set("kubernetes.civo.com/civo-node-size", size);
            set("node.cluster.x-k8s.io/pool", &info.pool);
        }
        Shape::Eks => {
            set("eks.amazonaws.com/capacityType", "ON_DEMAND");
            set("eks.amazonaws.com/nodegroup", &info.pool);
            set("eks.amazonaws.com/nodegroup-image", "ami-0abcdef1234567890");
            set("k8s.io/cloud-provider-aws", "3d3f0ae1f6ef2c0ab9be5d4f0d7c0d5e");
            set("topology.k8s.aws/zone-id", "euc1-az2");
        }
        Shape::Gke => {
            set("cloud.google.com/gke-boot-disk", "pd-balanced");
            set("cloud.google.com/gke-nodepool", &info.pool);
            set("cloud.google.com/gke-os-distribution", "cos");
            set("cloud.google.com/machine-family", "n2");
            set("topology.gke.io/zone", &info.zone);
        }
    }
    if info.shape == Shape::CivoGpu {
        set("nvidia.com/gpu.count", &GPUS.to_string());
        set("nvidia.com/gpu.deploy.device-plugin", "true");
        set("nvidia.com/gpu.family", "ada-lovelace");
        set("nvidia.com/gpu.memory", "46068");
        set("nvidia.com/gpu.present", "true");
        set("nvidia.com/gpu.product", "NVIDIA-L40S");
        set("nvidia.com/mig.capable", "false");
    }
    Value::Object(labels)
}

fn annotations(rng: &mut StdRng, info: &NodeInfo, number: usize) -> Value {
    let address = address(number);
    let mut annotations = json!({
        "node.alpha.kubernetes.io/ttl": "0",
        "volumes.kubernetes.io/controller-managed-attach-detach": "true",
        "alpha.kubernetes.io/provided-node-ip": address,
        "csi.volume.kubernetes.io/nodeid": format!("{{\"csi.example.com\":\"{}\"}}", info.instance),
    });
    let more = match info.shape {
        Shape::CivoFlannel => json!({
            "flannel.alpha.coreos.com/backend-data": format!("{{\"VNI\":1,\"VtepMAC\":\"8a:{}\"}}", random::hex(rng, 10)),
            "flannel.alpha.coreos.com/backend-type": "vxlan",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/public-ip": address,
        }),
        Shape::CivoCilium | Shape::CivoGpu => json!({
            "network.cilium.io/ipv4-cilium-host": address,
            "network.cilium.io/ipv4-health-ip": address,
            "network.cilium.io/ipv4-pod-cidr": pod_cidr(number),
        }),
        Shape::Eks => json!({ "vpc.amazonaws.com/pod-ips": "14" }),
        Shape::Gke => json!({ "container.googleapis.com/instance_id": info.instance }),
    };
    let k3s = json!({
        "k3s.io/hostname": info.name,
        "k3s.io/internal-ip": address,
        "k3s.io/node-args": "[\"agent\"]",
        "k3s.io/node-config-hash": random::hex(rng, 16).to_uppercase(),
    });
    crate::patch::merge(&mut annotations, &more);
    if matches!(info.shape, Shape::CivoFlannel | Shape::CivoCilium | Shape::CivoGpu) {
        crate::patch::merge(&mut annotations, &k3s);
    }
    annotations
}

fn spec(info: &NodeInfo, number: usize) -> Value {
    let provider = match info.shape {
        Shape::CivoFlannel | Shape::CivoCilium | Shape::CivoGpu => format!("civo://{}", info.instance),
        Shape::Eks => format!("aws:///{}/{}", info.zone, info.instance),
        Shape::Gke => format!("gce://prod/{}/{}", info.zone, info.name),
    };
    let cidr = pod_cidr(number);
    json!({ "podCIDR": cidr, "podCIDRs": [cidr], "providerID": provider })
}

fn address(number: usize) -> String {
    format!("10.{}.{}.{}", 64 + ((number >> 16) & 63), (number >> 8) & 255, number & 255)
}

fn pod_cidr(number: usize) -> String {
    format!("10.{}.{}.0/24", (number >> 8) & 63, number & 255)
}

fn addresses(info: &NodeInfo, number: usize) -> Value {
    json!([{ "type": "InternalIP", "address": address(number) }, { "type": "Hostname", "address": info.name }])
}

fn resources(shape: Shape, allocatable: bool) -> Value {
    let (cores, memory_kib) = match shape {
        Shape::CivoFlannel => (2, 4_015_344_u64),
        Shape::CivoCilium | Shape::Eks | Shape::Gke => (4, 16_373_508),
        Shape::CivoGpu => (96, 1_056_294_660),
    };
    let reserved = if allocatable { 1_048_576 } else { 0 };
    let cpu =
        if allocatable && shape != Shape::CivoGpu { format!("{}m", cores * 1000 - 80) } else { cores.to_string() };
    let mut resources = json!({
        "cpu": cpu,
        "ephemeral-storage": if allocatable { "47093746742" } else { "51121464Ki" },
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        "memory": format!("{}Ki", memory_kib - reserved),
        "pods": if shape == Shape::Eks { "58" } else { "110" },
    });
    if let (Shape::CivoGpu, Some(map)) = (shape, resources.as_object_mut()) {
        map.insert("nvidia.com/gpu".to_owned(), GPUS.to_string().into());
    }
    resources
}

fn conditions(shape: Shape, at: &str) -> Value {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({ "type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": at, "lastTransitionTime": at })
    };
    let mut conditions = Vec::new();
    match shape {
        Shape::Gke => conditions.extend([
            condition("KernelDeadlock", "False", "KernelHasNoDeadlock", "kernel has no deadlock"),
            condition("ReadonlyFilesystem", "False", "FilesystemIsNotReadOnly", "Filesystem is not read-only"),
            condition("FrequentKubeletRestart", "False", "NoFrequentKubeletRestart", "kubelet is functioning properly"),
            condition(
                "FrequentContainerdRestart",
                "False",
                "NoFrequentContainerdRestart",
                "containerd is functioning properly",
            ),
            condition("NetworkUnavailable", "False", "RouteCreated", "RouteController created a route"),
        ]),
        Shape::CivoCilium | Shape::CivoGpu => {
            conditions.push(condition("NetworkUnavailable", "False", "CiliumIsUp", "Cilium is running on this node"));
        }
        Shape::CivoFlannel | Shape::Eks => {}
    }
    conditions.extend([
        condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]);
    if shape == Shape::CivoGpu {
        conditions.push(condition("GpuDriverProblem", "False", "NoGpuDriverProblem", "all GPUs answer"));
    }
    Value::Array(conditions)
}

fn images(rng: &mut StdRng) -> Value {
    let names = [
        "docker.io/rancher/mirrored-pause:3.6",
        "docker.io/rancher/mirrored-coredns-coredns:1.12.0",
        "registry.k8s.io/sig-storage/csi-node-driver-registrar:v2.13.0",
        "quay.io/prometheus/node-exporter:v1.9.1",
        "docker.io/library/nginx:1.29",
    ];
    let image = |name: &str| {
        let repository = name.split(':').next().unwrap_or(name);
        let digest: String = (0..4).map(|_| random::hex(rng, 16)).collect();
        json!({ "names": [format!("{repository}@sha256:{digest}"), name], "sizeBytes": 1_000_000 + u64::from(rng.random_range(0..90_000_000_u32)) })
    };
    names.into_iter().map(image).collect()
}

fn node_info(rng: &mut StdRng, shape: Shape) -> Value {
    let (kernel, os, runtime, kubelet) = match shape {
        Shape::CivoFlannel | Shape::CivoCilium | Shape::CivoGpu => {
            ("6.6.31-0-virt", "Alpine Linux v3.20", "containerd://2.0.5-k3s1", "v1.33.4+k3s1")
        }
        Shape::Eks => (
            "6.1.141-155.222.amzn2023.x86_64",
            "Amazon Linux 2023.7.20250609",
            "containerd://1.7.27",
            "v1.33.1-eks-b9364f6",
        ),
        Shape::Gke => ("6.6.93+", "Container-Optimized OS from Google", "containerd://2.0.4", "v1.33.2-gke.1111000"),
    };
    json!({
        "architecture": "amd64",
        "bootID": random::uuid(rng),
        "containerRuntimeVersion": runtime,
        "kernelVersion": kernel,
        "kubeProxyVersion": kubelet,
        "kubeletVersion": kubelet,
        "machineID": random::uuid(rng).replace('-', ""),
        "operatingSystem": "linux",
        "osImage": os,
        "systemUUID": random::uuid(rng),
    })
}

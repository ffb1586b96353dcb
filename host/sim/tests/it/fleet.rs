//! A fleet that lives in the API server and is rebooted through the cloud.

use std::time::Duration;

use crate::plain;
use apgar_sim::{ApiServer, Cloud, CloudConfig, Fault, FaultKind, Fleet, Objects, Pace, Shape, SimConfig, Story};
use serde_json::Value;

/// Far more than anything here takes; only a failing test waits so long.
const SOON: Duration = Duration::from_secs(20);
const KEY: &str = "Authorization: bearer sim-key";

fn ready(nodes: &Objects, name: &str) -> String {
    let node = nodes.get(name).unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default();
    ready["status"].as_str().unwrap_or_default().to_owned()
}

fn boot_id(nodes: &Objects, name: &str) -> Value {
    nodes.get(name).unwrap()["status"]["nodeInfo"]["bootID"].clone()
}

async fn reboot(cloud: &Cloud, fleet: &Fleet, node: &str) {
    let info = fleet.infos().find(|i| i.name == node).unwrap();
    let request = format!("POST /v2/instances/{}/hard_reboots", info.instance);
    let answer = plain::call(cloud.address(), &request, &[KEY], "").await.unwrap();
    assert_eq!(answer.code, 200);
}

#[tokio::test]
async fn a_sick_node_is_seen_rebooted_and_cured_and_an_incurable_one_is_not() {
    let server = ApiServer::start(SimConfig::default()).unwrap();
    let fleet = Fleet::new(3, &[(Shape::CivoFlannel, 2)]);
    let story = Story::new().scene(Duration::from_secs(1), "web-1", Fault::new(FaultKind::NotReady)).scene(
        Duration::from_secs(2),
        "web-2",
        Fault::new(FaultKind::NeverRecovers),
    );
    // An hour of the fleet is under two seconds of ours.
    let running = fleet.clone().run(&server, Pace::times(2000.0), &story).unwrap();
    let cloud = Cloud::start(CloudConfig::default(), running.machines()).unwrap();
    let nodes = server.nodes();
    let before = boot_id(&nodes, "web-1");
    let sick = |n: &Objects| ready(n, "web-1") == "Unknown" && ready(n, "web-2") == "Unknown";
    assert!(nodes.until(SOON, sick).await);

    reboot(&cloud, &fleet, "web-1").await;
    reboot(&cloud, &fleet, "web-2").await;
    assert!(nodes.until(SOON, |n| ready(n, "web-1") == "True").await);
    assert_ne!(boot_id(&nodes, "web-1"), before);
    let told = || running.happened().iter().map(|h| format!("{} {}", h.node, h.what)).collect::<Vec<_>>();
    let again = |_: &Objects| told().iter().filter(|t| *t == "web-2 unreachable").count() == 2;
    assert!(nodes.until(SOON, again).await, "{:?}", told());
    assert_eq!(running.reboots().into_values().collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn kubelets_post_and_renew() {
    let server = ApiServer::start(SimConfig::default()).unwrap();
    let fleet = Fleet::new(3, &[(Shape::Gke, 3)]);
    fleet.install(&server).unwrap();
    assert_eq!(server.leases().len(), 3);
    let installed = server.resource_version();
    let _running = fleet.run(&server, Pace::times(5000.0), &Story::new()).unwrap();
    let posted = |n: &Objects| {
        n.keys().iter().all(|name| {
            let version = n.get(name).unwrap()["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>();
            version.unwrap() > installed + 6
        })
    };
    assert!(server.nodes().until(SOON, posted).await);
}

#[tokio::test]
async fn a_deleted_node_registers_anew_with_its_next_boot() {
    let server = ApiServer::start(SimConfig::default()).unwrap();
    let fleet = Fleet::new(3, &[(Shape::CivoCilium, 1)]);
    let running = fleet.clone().run(&server, Pace::times(2000.0), &Story::new()).unwrap();
    let cloud = Cloud::start(CloudConfig::default(), running.machines()).unwrap();
    let uid = server.nodes().get("app-1").unwrap()["metadata"]["uid"].clone();
    server.nodes().delete("app-1");
    reboot(&cloud, &fleet, "app-1").await;
    assert!(server.nodes().until(SOON, |n| ready(n, "app-1") == "True").await);
    assert_ne!(server.nodes().get("app-1").unwrap()["metadata"]["uid"], uid);
}

#[tokio::test]
async fn a_story_about_a_stranger_is_refused() {
    let server = ApiServer::start(SimConfig::default()).unwrap();
    let story = Story::new().scene(Duration::ZERO, "nobody", Fault::new(FaultKind::NotReady));
    let refused = Fleet::new(3, &[(Shape::Eks, 1)]).run(&server, Pace::default(), &story);
    assert_eq!(refused.err().unwrap().code, 404);
}

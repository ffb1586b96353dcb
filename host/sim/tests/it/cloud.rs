//! The simulated cloud, call by call, against what recovery.md 6.4 says of the real one.

use std::sync::Arc;
use std::time::Duration;

use crate::plain;
use apgar_sim::{Answer, Cloud, CloudCall, CloudConfig, CloudRule, Instance, Inventory, Machines, Partition};

const LIST: &str = "GET /v2/kubernetes/clusters/sim-cluster/instances?region=LON1";
const REBOOT: &str = "POST /v2/instances/i-1/hard_reboots?region=LON1";
const KEY: &str = "Authorization: bearer sim-key";
const SOON: Duration = Duration::from_secs(10);

fn cloud(config: CloudConfig) -> Cloud {
    let machines = Inventory::new(&[("i-1", "node-1"), ("i-10", "node-10")]);
    Cloud::start(config, Arc::new(machines)).unwrap()
}

async fn code(cloud: &Cloud, request: &str) -> u16 {
    plain::call(cloud.address(), request, &[KEY], "{}").await.unwrap().code
}

#[tokio::test]
async fn instances_are_listed_and_rebooted_with_the_key_only() {
    let cloud = cloud(CloudConfig::default());
    let listed = plain::call(cloud.address(), LIST, &[KEY], "").await.unwrap().json();
    assert_eq!(listed[0]["id"], "i-1");
    assert_eq!(listed[1]["hostname"], "node-10");
    let rebooted = plain::call(cloud.address(), REBOOT, &[KEY], r#"{"region":"LON1"}"#).await.unwrap();
    assert_eq!((rebooted.code, rebooted.body.as_str()), (200, r#"{"result":"success"}"#));
    assert_eq!(cloud.reboots().get("i-1"), Some(&1));
    assert_eq!(cloud.requests()[1].body, r#"{"region":"LON1"}"#);

    for wrong in ["Authorization: bearer other", "Authorization: sim-key", "X: y"] {
        let refused = plain::call(cloud.address(), REBOOT, &[wrong], "").await.unwrap();
        assert_eq!(refused.code, 401, "{wrong}");
    }
    assert_eq!(code(&cloud, "POST /v2/instances/i-2/hard_reboots").await, 404);
    assert_eq!(code(&cloud, "POST /v2/instances/i-1/hard_reboots?region=NYC1").await, 404);
    assert_eq!(code(&cloud, "GET /v2/kubernetes/clusters/other/instances").await, 404);
    assert_eq!(cloud.reboots().values().sum::<u32>(), 1);
}

#[tokio::test]
async fn each_programmed_answer_is_given_as_often_as_said() {
    let cloud = cloud(CloudConfig::default());
    for failing in [404, 410, 422, 500, 503] {
        let answer = Answer::Status { code: failing, retry_after: None };
        cloud.add(CloudRule::new(CloudCall::Reboot, answer).times(1));
        assert_eq!(code(&cloud, REBOOT).await, failing);
    }
    assert!(cloud.reboots().is_empty(), "a failing call reboots nothing unless told to");

    let later = Answer::Status { code: 503, retry_after: Some(120) };
    cloud.add(CloudRule::new(CloudCall::Reboot, later).times(1));
    let answer = plain::call(cloud.address(), REBOOT, &[KEY], "").await.unwrap();
    assert_eq!(answer.header("retry-after"), Some("120"));

    cloud.add(CloudRule::new(CloudCall::Reboot, Answer::NoResult).times(1));
    cloud.add(CloudRule::new(CloudCall::Reboot, Answer::Result("pending".to_owned())).times(1));
    cloud.add(CloudRule::new(CloudCall::Reboot, Answer::Raw(200, "gateway".to_owned())).times(1));
    for body in ["{}", r#"{"result":"pending"}"#, "gateway", r#"{"result":"success"}"#] {
        let answer = plain::call(cloud.address(), REBOOT, &[KEY], "").await.unwrap();
        assert_eq!(answer.body, body);
    }
    assert_eq!(cloud.reboots().get("i-1"), Some(&4));
}

#[tokio::test]
async fn a_broken_answer_can_hide_a_reboot_that_happened() {
    let cloud = cloud(CloudConfig::default());
    cloud.add(CloudRule::new(CloudCall::Reboot, Answer::Reset).of("i-1").really(true).times(1));
    assert!(plain::call(cloud.address(), REBOOT, &[KEY], "").await.is_err());
    assert_eq!(cloud.reboots().get("i-1"), Some(&1));

    cloud.add(CloudRule::new(CloudCall::Reboot, Answer::Hang).really(true));
    let to = cloud.address();
    let hanging = plain::call(to, REBOOT, &[KEY], "");
    let dropping = async {
        cloud.requests_until(SOON, |r| r.len() == 2).await.unwrap();
        // Dropping the cloud resets what still hangs.
        drop(cloud);
    };
    let (hung, ()) = tokio::join!(hanging, dropping);
    assert!(hung.is_err());
}

#[tokio::test]
async fn calls_beyond_the_rate_are_told_when_to_come_back() {
    let cloud = cloud(CloudConfig { rate: Some((2, Duration::from_secs(60))), ..CloudConfig::default() });
    assert_eq!(code(&cloud, LIST).await, 200);
    assert_eq!(code(&cloud, LIST).await, 200);
    let refused = plain::call(cloud.address(), LIST, &[KEY], "").await.unwrap();
    assert_eq!(refused.code, 429);
    assert_eq!(refused.header("retry-after"), Some("60"));
}

#[tokio::test]
async fn a_partition_refuses_and_heals_on_the_same_port() {
    let cloud = cloud(CloudConfig::default());
    cloud.partition(Partition::Refused).unwrap();
    assert!(plain::call(cloud.address(), LIST, &[KEY], "").await.is_err());
    cloud.partition(Partition::Healed).unwrap();
    assert_eq!(code(&cloud, LIST).await, 200);
    assert_eq!(cloud.requests().len(), 1);
}

#[tokio::test]
async fn shares_repeat_with_the_seed() {
    async fn codes() -> Vec<u16> {
        let cloud = cloud(CloudConfig { seed: 5, ..CloudConfig::default() });
        let answer = Answer::Status { code: 500, retry_after: None };
        cloud.add(CloudRule::new(CloudCall::List, answer).share(0.5));
        let mut codes = Vec::new();
        for _ in 0..20 {
            codes.push(code(&cloud, LIST).await);
        }
        codes
    }
    let first = codes().await;
    assert_eq!(first, codes().await);
    assert!(first.contains(&200) && first.contains(&500));
}

#[test]
fn an_inventory_lists_what_it_was_given() {
    let inventory = Inventory::new(&[("a", "same"), ("b", "same")]);
    let expected = Instance { id: "b".to_owned(), hostname: "same".to_owned() };
    assert_eq!(inventory.instances()[1], expected);
}

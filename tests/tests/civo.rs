//! The `civo` executor against a cloud that fails in every known way, over real HTTP: what comes of a call, and
//! exactly which requests it took (`recovery` 6.4).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test says where")]

use std::sync::Arc;
use std::time::Duration;

use apgar::executor::Civo;
use apgar::executor::civo::CivoSettings;
use apgar_core::decision::{Outcome, Refuser};
use apgar_core::node::Node;
use apgar_sim::{Answer, Cloud, CloudCall, CloudConfig, CloudRule, Inventory, Partition, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const CLUSTER: &str = "sim-cluster";
const KEY: &str = "sim-key";
const REGION: &str = "LON1";

/// What the tests reboot, and its neighbours.
const MACHINES: [(&str, &str); 4] = [("i-1", "node-1"), ("i-10", "node-10"), ("i-2", "twice"), ("i-3", "twice")];

fn cloud() -> Cloud {
    cloud_with(CloudConfig::default(), &MACHINES)
}

fn cloud_with(config: CloudConfig, machines: &[(&str, &str)]) -> Cloud {
    Cloud::start(config, Arc::new(Inventory::new(machines))).unwrap()
}

fn civo(url: &str, key: &str, region: &str) -> Civo {
    apgar::kubernetes::install_crypto();
    Civo::new(&CivoSettings { api_key: key, api_url: url, cluster_id: CLUSTER, region }).unwrap()
}

fn node(name: &str, provider_id: &str) -> Node {
    Node { provider_id: Arc::from(provider_id), ..Node::named(name) }
}

async fn reboot(cloud: &Cloud, node: &Node) -> Outcome {
    civo(&cloud.url(), KEY, REGION).reboot(node).await
}

/// A request as the executor makes it, to the letter.
fn request(method: &str, path: &str, body: &str) -> Request {
    let content_type = if body.is_empty() { "" } else { "application/json" };
    Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: format!("region={REGION}"),
        body: body.to_owned(),
        content_type: content_type.to_owned(),
        user_agent: format!("apgar/{}-{CLUSTER}", env!("CARGO_PKG_VERSION")),
    }
}

fn list() -> Request {
    request("GET", "/v2/kubernetes/clusters/sim-cluster/instances", "")
}

fn hard_reboot(id: &str) -> Request {
    request("POST", &format!("/v2/instances/{id}/hard_reboots"), r#"{"region":"LON1"}"#)
}

/// What an outcome must be; the text is for people and may say more.
#[derive(Debug)]
enum Expected {
    Done,
    Refused(&'static str),
    Failed(&'static str, Option<u64>),
    Unconfirmed(&'static str),
}

#[track_caller]
fn check(outcome: &Outcome, expected: &Expected) {
    let (why, part) = match (outcome, expected) {
        (Outcome::Done, Expected::Done) => return,
        (Outcome::Refused { why, by: Refuser::Executor }, Expected::Refused(part))
        | (Outcome::Unconfirmed { why }, Expected::Unconfirmed(part)) => (why, part),
        (Outcome::Failed { why, retry_after }, Expected::Failed(part, wait)) => {
            assert_eq!(*retry_after, wait.map(Duration::from_secs), "{outcome:?}");
            (why, part)
        }
        _ => panic!("{outcome:?} instead of {expected:?}"),
    };
    assert!(why.contains(part), "{part:?} is not in {why:?}");
    assert!(!why.contains(KEY), "the key is in {why:?}");
}

/// The outcome where the call itself, on a machine that was found, is answered like this. In any case the list
/// was asked for once, the call was sent once, and nothing else was.
async fn answered(answer: Answer, expected: Expected) {
    let cloud = cloud();
    cloud.add(CloudRule::new(CloudCall::Reboot, answer.clone()));
    let outcome = reboot(&cloud, &node("node-1", "civo://i-1")).await;
    assert_eq!(cloud.requests(), [list(), hard_reboot("i-1")], "{answer:?}");
    check(&outcome, &expected);
}

fn status(code: u16, retry_after: Option<u64>) -> Answer {
    Answer::Status { code, retry_after }
}

/// The outcome where the list is answered like this: nothing was sent that changes anything.
async fn list_answered(answer: Answer, expected: Expected) {
    let cloud = cloud();
    cloud.add(CloudRule::new(CloudCall::List, answer.clone()));
    let outcome = reboot(&cloud, &node("node-1", "")).await;
    assert_eq!(cloud.requests(), [list()], "{answer:?}");
    check(&outcome, &expected);
}

/// A node whose machine cannot be told: nothing was sent that changes anything.
async fn not_found(node: &Node, machines: &[(&str, &str)], why: &'static str) {
    let cloud = cloud_with(CloudConfig::default(), machines);
    let outcome = reboot(&cloud, node).await;
    assert_eq!(cloud.requests(), [list()], "{node:?}");
    check(&outcome, &Expected::Refused(why));
}

#[tokio::test]
async fn a_reboot_is_one_list_and_one_call() {
    let cloud = cloud();
    let civo = civo(&cloud.url(), KEY, REGION);
    let node = node("node-1", "civo://i-1");
    check(&civo.reboot(&node).await, &Expected::Done);
    assert_eq!(cloud.requests(), [list(), hard_reboot("i-1")]);
    assert_eq!(cloud.reboots().into_iter().collect::<Vec<_>>(), [("i-1".to_owned(), 1)]);

    check(&civo.reboot(&node).await, &Expected::Done);
    assert_eq!(cloud.requests(), [list(), hard_reboot("i-1"), list(), hard_reboot("i-1")], "listed anew each time");
}

#[tokio::test]
async fn an_answer_without_result_is_a_success() {
    answered(Answer::NoResult, Expected::Done).await;
    answered(Answer::Raw(202, String::new()), Expected::Done).await;
}

#[tokio::test]
async fn any_other_result_is_unconfirmed() {
    answered(Answer::Result("pending".to_owned()), Expected::Unconfirmed("pending")).await;
    answered(Answer::Result("failed".to_owned()), Expected::Unconfirmed("failed")).await;
    answered(Answer::Raw(200, "<html>a gateway</html>".to_owned()), Expected::Unconfirmed("a gateway")).await;
}

#[tokio::test]
async fn g_25a_r_28_an_error_after_the_request_was_sent_is_unconfirmed() {
    for code in [500, 502, 504, 408] {
        answered(status(code, None), Expected::Unconfirmed("simulated")).await;
    }
    // Only 503 means that nothing was done when it says when to come back.
    answered(status(500, Some(120)), Expected::Unconfirmed("500")).await;
    answered(status(503, None), Expected::Unconfirmed("503")).await;
}

#[tokio::test]
async fn g_25_r_28_a_503_that_says_when_to_come_back_failed() {
    answered(status(503, Some(120)), Expected::Failed("503", Some(120))).await;
    answered(status(503, Some(86_400)), Expected::Failed("503", Some(3_600))).await;
}

#[tokio::test]
async fn a_throttled_call_failed_for_as_long_as_it_was_told() {
    answered(status(429, None), Expected::Failed("429", None)).await;
    answered(status(429, Some(17)), Expected::Failed("429", Some(17))).await;

    // One call an hour: the list is that one.
    let config = CloudConfig { rate: Some((1, Duration::from_secs(3_600))), ..CloudConfig::default() };
    let cloud = cloud_with(config, &MACHINES);
    check(&reboot(&cloud, &node("node-1", "")).await, &Expected::Failed("rate limit", Some(3_600)));
    assert_eq!(cloud.requests(), [list(), hard_reboot("i-1")]);
    assert!(cloud.reboots().is_empty());
}

#[tokio::test]
async fn g_26_what_can_never_succeed_is_refused() {
    for code in [404, 410, 422] {
        answered(status(code, None), Expected::Refused("simulated")).await;
    }
}

#[tokio::test]
async fn g_26_what_is_not_the_node_s_fault_failed() {
    for code in [301, 307, 400, 403, 409] {
        answered(status(code, Some(120)), Expected::Failed("simulated", None)).await;
    }
}

#[tokio::test]
async fn a_wrong_key_failed_and_nothing_was_called() {
    let cloud = cloud();
    let outcome = civo(&cloud.url(), "another-key", REGION).reboot(&node("node-1", "")).await;
    check(&outcome, &Expected::Failed("401", None));
    assert_eq!(cloud.requests(), [list()]);
}

#[tokio::test]
async fn r_27_a_connection_that_broke_after_the_request_was_read_is_unconfirmed() {
    for really in [false, true] {
        let cloud = cloud();
        cloud.add(CloudRule::new(CloudCall::Reboot, Answer::Reset).really(really));
        check(&reboot(&cloud, &node("node-1", "")).await, &Expected::Unconfirmed(""));
        assert_eq!(cloud.requests(), [list(), hard_reboot("i-1")], "sent once, never again");
        assert_eq!(cloud.reboots().len(), usize::from(really));
    }
}

#[tokio::test]
async fn r_28_nobody_there_failed() {
    let cloud = cloud();
    cloud.partition(Partition::Refused).unwrap();
    check(&reboot(&cloud, &node("node-1", "")).await, &Expected::Failed("listing instances", None));
    assert_eq!(cloud.requests(), []);

    cloud.partition(Partition::Healed).unwrap();
    check(&reboot(&cloud, &node("node-1", "")).await, &Expected::Done);

    let url = cloud.url();
    drop(cloud);
    let outcome = civo(&url, KEY, REGION).reboot(&node("node-1", "")).await;
    check(&outcome, &Expected::Failed("listing instances", None));
}

/// A cloud that goes away between the two calls: what was not sent certainly had no effect.
#[tokio::test]
async fn r_28_nobody_there_any_more_failed() {
    let outcome = scripted(&[LISTED]).await;
    check(&outcome, &Expected::Failed("", None));
    assert!(!format!("{outcome:?}").contains("listing"), "the list was answered: {outcome:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let answer = "307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
    check(&scripted(&[LISTED, answer]).await, &Expected::Failed("307", None));
    check(&scripted(&[answer]).await, &Expected::Failed("listing instances: 307", None));
}

#[tokio::test]
async fn g_25_a_date_to_come_back_at_counts_by_the_cloud_s_own_clock() {
    let answer = "503 Service Unavailable\r\nDate: Wed, 21 Oct 2015 07:28:00 GMT\r\n\
        Retry-After: Wed, 21 Oct 2015 07:30:00 GMT\r\nContent-Length: 0\r\n\r\n";
    check(&scripted(&[LISTED, answer]).await, &Expected::Failed("503", Some(120)));
}

#[tokio::test]
async fn r_27_an_answer_that_breaks_off_is_unconfirmed() {
    let answer = "200 OK\r\nContent-Length: 100\r\n\r\n{\"result\":\"success\"}";
    check(&scripted(&[LISTED, answer]).await, &Expected::Unconfirmed(""));
}

/// A list in which node-1 is i-1.
const LISTED: &str = "200 OK\r\nContent-Length: 34\r\n\r\n[{\"id\":\"i-1\",\"hostname\":\"node-1\"}]";

/// The outcome for node-1 where each request gets the next of these answers on a connection of its own, and nobody
/// listens any more when the last is given.
async fn scripted(answers: &[&str]) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let civo = civo(&format!("http://{}", listener.local_addr().unwrap()), KEY, REGION);
    let cloud = async {
        let mut listener = Some(listener);
        for (left, answer) in (0..answers.len()).rev().zip(answers) {
            let (mut client, _) = listener.as_ref().unwrap().accept().await.unwrap();
            listener = listener.filter(|_| left > 0);
            let mut request = Vec::new();
            // A body is an object without another in it.
            while !(request.starts_with(b"GET") && request.ends_with(b"\r\n\r\n") || request.ends_with(b"}")) {
                request.push(client.read_u8().await.unwrap());
            }
            client.write_all(format!("HTTP/1.1 {}", answer.replacen("\r\n", CLOSE, 1)).as_bytes()).await.unwrap();
        }
    };
    let node = node("node-1", "");
    let (outcome, ()) = tokio::join!(civo.reboot(&node), cloud);
    outcome
}

const CLOSE: &str = "\r\nConnection: close\r\n";

#[tokio::test]
async fn r_78_g_19_a_machine_that_is_not_there_is_refused() {
    not_found(&node("pool-a-1", ""), &[("i-10", "pool-a-10")], "NoSuchInstance: 0 of 1").await;
    not_found(&node("node-1", ""), &[("i-10", "node-10")], "NoSuchInstance: 0 of 1").await;
    not_found(&node("node-1", "civo://i-10"), &[("i-10", "node-10")], "NoSuchInstance").await;
    not_found(&node("node-1", ""), &[], "NoSuchInstance: 0 of 0").await;
}

#[tokio::test]
async fn r_78_a_machine_whose_provider_id_is_another_is_refused() {
    not_found(&node("node-1", "civo://i-10"), &MACHINES, "civo://i-10").await;
    not_found(&node("node-1", "civo://I-1"), &MACHINES, "civo://I-1").await;
    not_found(&node("node-1", "civo://"), &MACHINES, "civo://").await;
}

#[tokio::test]
async fn two_machines_of_one_name_are_refused() {
    not_found(&node("twice", ""), &MACHINES, "NoSuchInstance: 2 of 4").await;
    not_found(&node("Node-1", ""), &[("i-1", "node-1"), ("i-2", "NODE-1")], "NoSuchInstance: 2 of 2").await;
}

#[tokio::test]
async fn a_host_name_matches_whatever_its_case() {
    let cloud = cloud_with(CloudConfig::default(), &[("i-7", "Node-1.Example")]);
    check(&reboot(&cloud, &node("node-1.eXAMPLE", "civo://i-7")).await, &Expected::Done);
    assert_eq!(cloud.requests(), [list(), hard_reboot("i-7")]);
}

#[tokio::test]
async fn a_machine_without_a_host_name_hides_no_other() {
    let cloud = cloud();
    let listed = r#"[{"id":"i-9"},{"id":"i-8","hostname":null},{"id":"i-1","hostname":"node-1","status":"ACTIVE"}]"#;
    cloud.add(CloudRule::new(CloudCall::List, Answer::Raw(200, listed.to_owned())));
    check(&reboot(&cloud, &node("node-1", "civo://i-1")).await, &Expected::Done);
    assert_eq!(cloud.requests(), [list(), hard_reboot("i-1")]);
}

#[tokio::test]
async fn a_list_that_does_not_come_failed() {
    list_answered(status(500, None), Expected::Failed("500", None)).await;
    list_answered(status(503, Some(120)), Expected::Failed("503", Some(120))).await;
    list_answered(status(404, None), Expected::Failed("404", None)).await;
    list_answered(Answer::Raw(200, "a gateway".to_owned()), Expected::Failed("not a list", None)).await;
    list_answered(Answer::Raw(200, r#"{"items":[]}"#.to_owned()), Expected::Failed("not a list", None)).await;
    list_answered(Answer::Reset, Expected::Failed("listing instances", None)).await;
}

#[tokio::test]
async fn without_a_region_none_is_named() {
    let cloud = cloud();
    let outcome = civo(&cloud.url(), KEY, "").reboot(&node("node-1", "")).await;
    check(&outcome, &Expected::Done);
    let unnamed = |request: Request, body: &str| Request { query: String::new(), body: body.to_owned(), ..request };
    assert_eq!(cloud.requests(), [unnamed(list(), ""), unnamed(hard_reboot("i-1"), "{}")]);
}

#[tokio::test]
async fn the_key_is_not_to_be_seen_from_outside() {
    let civo = civo("http://127.0.0.1:1/", KEY, REGION);
    assert!(!format!("{civo:?}").contains(KEY), "{civo:?}");
}

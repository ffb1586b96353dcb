//! The simulated API server as kube's client sees it.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use apgar_sim::{ApiServer, Effect, Partition, Resource, Rule, Scope, SimConfig};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{
    Api, DeleteParams, DynamicObject, EvictParams, ListParams, Patch, PatchParams, PostParams, Preconditions,
    ResourceExt, WatchEvent, WatchParams,
};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde_json::{Value, json};

/// Far more than anything here takes; only a failing test waits so long.
const SOON: Duration = Duration::from_secs(10);

type Events = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<Node>>> + Send>>;

fn start(config: SimConfig) -> (ApiServer, Client) {
    let server = ApiServer::start(config).unwrap();
    let mut config = Config::new(server.url().parse().unwrap());
    // Left on, the client itself repeats what is answered 429, 503 or 504, up to 15 times and for minutes.
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    (server, client)
}

fn node(name: &str, labels: Value) -> Value {
    json!({
        "metadata": { "name": name, "labels": labels },
        "spec": {},
        "status": { "conditions": [{ "type": "Ready", "status": "True" }, { "type": "DiskPressure", "status": "False" }] },
    })
}

fn fleet(server: &ApiServer, count: usize) {
    for n in 0..count {
        let pool = if n % 2 == 0 { "even" } else { "odd" };
        server.nodes().apply(node(&format!("node-{n:03}"), json!({ "pool": pool }))).unwrap();
    }
}

fn code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not a refusal of the server: {other}"),
    }
}

async fn watch(api: &Api<Node>, params: &WatchParams, from: &str) -> Events {
    Box::pin(api.watch(params, from).await.unwrap())
}

async fn next(events: &mut Events) -> WatchEvent<Node> {
    let next = tokio::time::timeout(SOON, events.next());
    next.await.expect("an event in time").expect("not the end").expect("no error")
}

fn told(event: &WatchEvent<Node>) -> String {
    match event {
        WatchEvent::Added(node) => format!("ADDED {}", node.name_any()),
        WatchEvent::Modified(node) => format!("MODIFIED {}", node.name_any()),
        WatchEvent::Deleted(node) => format!("DELETED {}", node.name_any()),
        WatchEvent::Bookmark(_) => "BOOKMARK".to_owned(),
        WatchEvent::Error(status) => format!("ERROR {}", status.code),
    }
}

#[tokio::test]
async fn pages_show_one_moment_whatever_is_written_meanwhile() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 25);
    let api: Api<Node> = Api::all(client);
    let mut params = ListParams::default().limit(10);
    let mut names = BTreeSet::new();
    let mut versions = BTreeSet::new();
    for pages in 1.. {
        let page = api.list(&params).await.unwrap();
        versions.insert(page.metadata.resource_version.clone());
        if pages == 1 {
            assert_eq!(page.metadata.remaining_item_count, Some(15));
        }
        names.extend(page.items.iter().map(ResourceExt::name_any));
        server.nodes().delete("node-024");
        server.nodes().apply(node(&format!("later-{pages}"), json!({}))).unwrap();
        match page.metadata.continue_ {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names.len(), 25);
    assert!(names.iter().all(|name| name.starts_with("node-")));
    assert_eq!(versions.len(), 1);
}

#[tokio::test]
async fn an_expired_page_is_gone() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 5);
    let api: Api<Node> = Api::all(client);
    let page = api.list(&ListParams::default().limit(2)).await.unwrap();
    server.faults().expire_history();
    let token = page.metadata.continue_.unwrap();
    let refused = api.list(&ListParams::default().limit(2).continue_token(&token)).await;
    assert_eq!(code(refused.unwrap_err()), 410);
}

#[tokio::test]
async fn lists_honour_selectors_and_refuse_what_they_cannot_read() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 10);
    let api: Api<Node> = Api::all(client);
    let count = async |labels: &str| api.list(&ListParams::default().labels(labels)).await.map(|l| l.items.len());
    assert_eq!(count("pool=odd").await.unwrap(), 5);
    assert_eq!(count("pool in (odd, even),pool!=even").await.unwrap(), 5);
    assert_eq!(count("!pool").await.unwrap(), 0);
    assert_eq!(code(count("pool in (").await.unwrap_err()), 400);
    let one = api.list(&ListParams::default().fields("metadata.name=node-003")).await.unwrap();
    assert_eq!(one.items[0].name_any(), "node-003");
    let refused = api.list(&ListParams::default().fields("status.phase=x")).await;
    assert_eq!(code(refused.unwrap_err()), 400);
    let all = api.list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items.len(), 10);
    assert_eq!(all.metadata.resource_version, Some(server.resource_version().to_string()));
}

#[tokio::test]
async fn a_watch_tells_every_change_in_order_and_goes_on_where_another_stopped() {
    let (server, client) = start(SimConfig::default());
    let api: Api<Node> = Api::all(client);
    let from = server.resource_version().to_string();
    let mut events = watch(&api, &WatchParams::default(), &from).await;
    server.nodes().apply(node("a", json!({}))).unwrap();
    let seen = server.nodes().update("a", |n| n["spec"]["unschedulable"] = json!(true)).unwrap();
    server.nodes().delete("a");
    for expected in ["ADDED a", "MODIFIED a", "DELETED a"] {
        assert_eq!(told(&next(&mut events).await), expected);
    }
    let mut rest = watch(&api, &WatchParams::default(), &seen.to_string()).await;
    assert_eq!(told(&next(&mut rest).await), "DELETED a");
}

#[tokio::test]
async fn a_watch_from_zero_begins_with_what_there_is() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 2);
    let api: Api<Node> = Api::all(client);
    let mut events = watch(&api, &WatchParams::default(), "0").await;
    assert_eq!(told(&next(&mut events).await), "ADDED node-000");
    assert_eq!(told(&next(&mut events).await), "ADDED node-001");
    let mut events = watch(&api, &WatchParams::default().initial_events(), "0").await;
    assert_eq!(told(&next(&mut events).await), "ADDED node-000");
    assert_eq!(told(&next(&mut events).await), "ADDED node-001");
    match next(&mut events).await {
        WatchEvent::Bookmark(mark) => {
            assert_eq!(mark.metadata.annotations["k8s.io/initial-events-end"], "true");
        }
        other => panic!("expected the end of the initial events, got {}", told(&other)),
    }
}

#[tokio::test]
async fn an_object_that_leaves_the_selector_is_deleted_for_that_watch() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 2);
    let api: Api<Node> = Api::all(client);
    let from = server.resource_version().to_string();
    let mut events = watch(&api, &WatchParams::default().labels("pool=even"), &from).await;
    server.nodes().update("node-000", |n| n["metadata"]["labels"]["pool"] = json!("odd")).unwrap();
    server.nodes().update("node-001", |n| n["metadata"]["labels"]["x"] = json!("y")).unwrap();
    server.nodes().update("node-001", |n| n["metadata"]["labels"]["pool"] = json!("even")).unwrap();
    server.nodes().update("node-001", |n| n["metadata"]["labels"]["x"] = json!("z")).unwrap();
    for expected in ["DELETED node-000", "ADDED node-001", "MODIFIED node-001"] {
        assert_eq!(told(&next(&mut events).await), expected);
    }
}

#[tokio::test]
async fn bookmarks_carry_the_version_of_other_kinds_and_come_before_the_end() {
    let config = SimConfig { bookmark_interval: Duration::from_millis(5), ..SimConfig::default() };
    let (server, client) = start(config);
    let api: Api<Node> = Api::all(client);
    let from = server.resource_version().to_string();
    let mut events = watch(&api, &WatchParams::default().timeout(1), &from).await;
    server.leases().apply(json!({ "metadata": { "name": "x", "namespace": "y" } })).unwrap();
    let current = server.resource_version().to_string();
    loop {
        match next(&mut events).await {
            WatchEvent::Bookmark(mark) if mark.metadata.resource_version == current => break,
            WatchEvent::Bookmark(_) => {}
            other => panic!("nothing else can have happened: {}", told(&other)),
        }
    }
    server.faults().forget_bookmarks(true);
    // The end after its second, without an error.
    let end = tokio::time::timeout(SOON, events.collect::<Vec<_>>()).await.unwrap();
    assert!(end.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_version_too_old_is_410_as_an_event_or_as_an_answer() {
    let (server, client) = start(SimConfig { history: 3, ..SimConfig::default() });
    let api: Api<Node> = Api::all(client);
    let old = server.resource_version().to_string();
    fleet(&server, 5);
    let mut events = watch(&api, &WatchParams::default(), &old).await;
    assert_eq!(told(&next(&mut events).await), "ERROR 410");
    assert!(events.next().await.is_none());

    let recent = server.resource_version().to_string();
    server.faults().expire_history();
    server.faults().gone_as_http(true);
    let refused = api.watch(&WatchParams::default(), &recent).await.err().unwrap();
    assert_eq!(code(refused), 410);
    let now = server.resource_version().to_string();
    let mut events = watch(&api, &WatchParams::default(), &now).await;
    server.nodes().delete("node-000");
    assert_eq!(told(&next(&mut events).await), "DELETED node-000");
}

#[tokio::test]
async fn a_write_based_on_an_old_version_or_another_uid_conflicts() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 1);
    let api: Api<Node> = Api::all(client);
    let mut read = api.get("node-000").await.unwrap();
    server.nodes().update("node-000", |n| n["metadata"]["labels"]["x"] = json!("y")).unwrap();
    read.spec.get_or_insert_default().unschedulable = Some(true);
    let refused = api.replace("node-000", &PostParams::default(), &read).await;
    assert_eq!(code(refused.unwrap_err()), 409);

    let merge = async |patch: Value| api.patch("node-000", &PatchParams::default(), &Patch::Merge(patch)).await;
    let stale = json!({ "metadata": { "resourceVersion": "1" }, "spec": { "unschedulable": true } });
    assert_eq!(code(merge(stale).await.unwrap_err()), 409);
    let other = json!({ "metadata": { "uid": "other" }, "spec": { "unschedulable": true } });
    assert_eq!(code(merge(other).await.unwrap_err()), 409);
    let fresh = merge(json!({ "spec": { "unschedulable": true } })).await.unwrap();
    assert_eq!(fresh.spec.unwrap().unschedulable, Some(true));

    let wrong = Preconditions { uid: Some("other".to_owned()), resource_version: None };
    let refused = api.delete("node-000", &DeleteParams::default().preconditions(wrong)).await;
    assert_eq!(code(refused.unwrap_err()), 409);
    assert_eq!(server.nodes().len(), 1);
}

#[tokio::test]
async fn patches_merge_as_the_real_server_merges_them() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 1);
    let api: Api<Node> = Api::all(client);
    let params = PatchParams { field_manager: Some("apgar".to_owned()), ..PatchParams::default() };
    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] }, "spec": { "unschedulable": true } });
    let patched = api.patch_status("node-000", &params, &Patch::Strategic(status)).await.unwrap();
    let conditions = patched.status.clone().unwrap().conditions.unwrap();
    assert_eq!(conditions.len(), 2, "the other condition stays");
    assert_eq!(conditions[0].status, "Unknown");
    assert_eq!(patched.spec.clone().unwrap_or_default().unschedulable, None, "status writes leave spec alone");
    let managed = &patched.managed_fields()[0];
    assert_eq!(managed.manager.as_deref(), Some("apgar"));
    assert_eq!(managed.subresource.as_deref(), Some("status"));

    let before = server.resource_version();
    let same = json!({ "metadata": { "labels": { "pool": "even" } } });
    api.patch("node-000", &params, &Patch::Merge(same)).await.unwrap();
    assert_eq!(server.resource_version(), before, "a write that changes nothing is none");

    let bad = json!({ "spec": { "taints": [{ "key": "a", "effect": "Sometimes" }] } });
    let refused = api.patch("node-000", &params, &Patch::Merge(bad)).await;
    assert_eq!(code(refused.unwrap_err()), 422);
    let refused = api.patch("nobody", &params, &Patch::Merge(json!({ "spec": {} }))).await;
    assert_eq!(code(refused.unwrap_err()), 404);
}

#[tokio::test]
async fn server_side_apply_owns_what_it_sets_and_takes_it_back() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 1);
    let api: Api<Node> = Api::all(client);
    let config = |labels: Value| json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-000", "labels": labels } });
    let apply = async |manager: &str, force: bool, labels: Value| {
        let mut params = PatchParams::apply(manager);
        params.force = force;
        api.patch("node-000", &params, &Patch::Apply(config(labels))).await
    };
    apply("one", false, json!({ "a": "1", "b": "1" })).await.unwrap();
    let node = apply("one", false, json!({ "a": "1" })).await.unwrap();
    assert!(node.labels().contains_key("a") && !node.labels().contains_key("b"));
    assert!(node.labels().contains_key("pool"), "what others set stays");
    assert_eq!(code(apply("two", false, json!({ "a": "2" })).await.unwrap_err()), 409);
    let node = apply("two", true, json!({ "a": "2" })).await.unwrap();
    assert_eq!(node.labels()["a"], "2");
    let managers: Vec<_> = node.managed_fields().iter().filter_map(|m| m.manager.clone()).collect();
    assert_eq!(managers, ["two"], "one lost its only field");
    let before = server.resource_version();
    apply("two", false, json!({ "a": "2" })).await.unwrap();
    assert_eq!(server.resource_version(), before);
}

#[tokio::test]
async fn an_applied_condition_goes_when_its_manager_no_longer_applies_it() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 1);
    let api: Api<Node> = Api::all(client);
    let apply = async |conditions: Value| {
        let config = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-000" }, "status": { "conditions": conditions } });
        let patched = api.patch_status("node-000", &PatchParams::apply("apgar"), &Patch::Apply(config)).await.unwrap();
        let conditions = patched.status.unwrap().conditions.unwrap();
        conditions.into_iter().map(|c| format!("{}={}", c.type_, c.status)).collect::<Vec<_>>()
    };
    let ours = json!([{ "type": "Apgar", "status": "True" }]);
    assert_eq!(apply(ours).await, ["Ready=True", "DiskPressure=False", "Apgar=True"]);
    let changed = json!([{ "type": "Apgar", "status": "False" }]);
    assert_eq!(apply(changed).await, ["Ready=True", "DiskPressure=False", "Apgar=False"]);
    assert_eq!(apply(json!([])).await, ["Ready=True", "DiskPressure=False"]);
}

#[tokio::test]
async fn a_list_in_a_namespace_ends_with_it() {
    let (server, client) = start(SimConfig::default());
    for namespace in ["a", "a-b", "b"] {
        for name in ["x", "y", "z"] {
            server.leases().apply(json!({ "metadata": { "name": name, "namespace": namespace } })).unwrap();
        }
    }
    let keys = async |api: Api<Lease>, params: ListParams| {
        let page = api.list(&params).await.unwrap();
        let keys =
            page.items.iter().map(|l| format!("{}/{}", l.namespace().unwrap(), l.name_any())).collect::<Vec<_>>();
        (keys, page.metadata.continue_)
    };
    let within: Api<Lease> = Api::namespaced(client.clone(), "a");
    let (first, token) = keys(within.clone(), ListParams::default().limit(2)).await;
    assert_eq!(first, ["a/x", "a/y"]);
    let (last, token) = keys(within, ListParams::default().limit(2).continue_token(&token.unwrap())).await;
    assert_eq!((last, token), (vec!["a/z".to_owned()], None));
    let everywhere: Api<Lease> = Api::all(client);
    assert_eq!(keys(everywhere.clone(), ListParams::default()).await.0.len(), 9);
    let named = keys(everywhere, ListParams::default().fields("metadata.name=y,metadata.namespace!=b")).await.0;
    assert_eq!(named, ["a-b/y", "a/y"]);
}

#[tokio::test]
async fn leases_are_created_once_and_renewed_by_version() {
    let (server, client) = start(SimConfig::default());
    let api: Api<Lease> = Api::namespaced(client, "kube-system");
    let lease = |holder: &str| -> Lease {
        serde_json::from_value(json!({ "metadata": { "name": "apgar" }, "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15 } })).unwrap()
    };
    let mut mine = api.create(&PostParams::default(), &lease("a")).await.unwrap();
    let refused = api.create(&PostParams::default(), &lease("b")).await;
    assert_eq!(code(refused.unwrap_err()), 409);
    mine.spec.as_mut().unwrap().holder_identity = Some("a2".to_owned());
    let renewed = api.replace("apgar", &PostParams::default(), &mine).await.unwrap();
    let stolen = api.replace("apgar", &PostParams::default(), &mine).await;
    assert_eq!(code(stolen.unwrap_err()), 409);
    let mut blind = renewed.clone();
    blind.metadata.resource_version = None;
    let refused = api.replace("apgar", &PostParams::default(), &blind).await;
    assert_eq!(code(refused.unwrap_err()), 422);
    assert_eq!(server.leases().keys(), ["kube-system/apgar"]);
}

#[tokio::test]
async fn finalizers_hold_a_deletion_back() {
    let (server, client) = start(SimConfig::default());
    let mut held = node("a", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.nodes().apply(held).unwrap();
    let api: Api<Node> = Api::all(client);
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(api.get("a").await.unwrap().metadata.deletion_timestamp.is_some());
    let release = json!({ "metadata": { "finalizers": null } });
    api.patch("a", &PatchParams::default(), &Patch::Merge(release)).await.unwrap();
    assert_eq!(code(api.get("a").await.unwrap_err()), 404);
}

#[tokio::test]
async fn an_eviction_waits_for_the_disruption_budget() {
    let (server, client) = start(SimConfig::default());
    let pod = |name: &str| {
        json!({ "metadata": { "name": name, "namespace": "default", "labels": { "app": "db" } },
        "spec": { "nodeName": "node-1" }, "status": { "phase": "Running" } })
    };
    server.pods().apply(pod("db-0")).unwrap();
    server.pods().apply(pod("db-1")).unwrap();
    let budgets = server.objects("policy/v1", "poddisruptionbudgets").unwrap();
    budgets.apply(json!({ "metadata": { "name": "db", "namespace": "default" },
        "spec": { "selector": { "matchLabels": { "app": "db" } } }, "status": { "disruptionsAllowed": 1, "desiredHealthy": 1, "currentHealthy": 2 } })).unwrap();
    let api: Api<Pod> = Api::namespaced(client, "default");
    let on_node = api.list(&ListParams::default().fields("spec.nodeName=node-1")).await.unwrap();
    assert_eq!(on_node.items.len(), 2);
    api.evict("db-0", &EvictParams::default()).await.unwrap();
    let refused = api.evict("db-1", &EvictParams::default()).await.unwrap_err();
    assert_eq!(code(refused), 429);
    assert_eq!(server.pods().keys(), ["default/db-1"]);
}

#[tokio::test]
async fn events_and_custom_resources_are_objects_like_others() {
    let kind = Resource::custom("apgar.dev", "v1", "noderecoveries", "NodeRecovery", Scope::Cluster);
    let (server, client) = start(SimConfig { resources: vec![kind], ..SimConfig::default() });
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let event = json!({ "metadata": { "generateName": "node-1." }, "involvedObject": { "kind": "Node", "name": "node-1" }, "reason": "Rebooted" });
    events.create(&PostParams::default(), &serde_json::from_value(event).unwrap()).await.unwrap();
    let found = events.list(&ListParams::default().fields("involvedObject.name=node-1,reason=Rebooted")).await.unwrap();
    assert_eq!(found.items.len(), 1);

    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("apgar.dev", "v1", "NodeRecovery"), "noderecoveries");
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let object = DynamicObject::new("node-1", &resource).data(json!({ "spec": { "a": 1 } }));
    api.create(&PostParams::default(), &object).await.unwrap();
    let status = json!({ "status": { "phase": "Healthy" }, "spec": { "a": 2 } });
    let patched = api.patch_status("node-1", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    assert_eq!(patched.data["status"]["phase"], "Healthy");
    assert_eq!(patched.data["spec"]["a"], 1);
    let strategic = api.patch("node-1", &PatchParams::default(), &Patch::Strategic(json!({ "spec": {} }))).await;
    assert_eq!(code(strategic.unwrap_err()), 415);
    assert_eq!(server.objects("apgar.dev/v1", "noderecoveries").unwrap().len(), 1);
}

#[tokio::test]
async fn exactly_the_requests_made_are_recorded() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 1);
    let api: Api<Node> = Api::all(client);
    api.get("node-000").await.unwrap();
    let cordon = json!({ "spec": { "unschedulable": true } });
    api.patch("node-000", &PatchParams::default(), &Patch::Merge(&cordon)).await.unwrap();
    let lines: Vec<String> = server.requests().iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["GET /api/v1/nodes/node-000", "PATCH /api/v1/nodes/node-000"]);
    let write = &server.writes()[0];
    assert_eq!(write.body, cordon.to_string());
    assert_eq!(write.content_type, "application/merge-patch+json");
    server.clear_requests();
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn rules_strike_what_they_name_and_as_often() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 2);
    let api: Api<Node> = Api::all(client);
    let faults = server.faults();
    faults.add(Rule::new(Effect::Status { code: 500, retry_after: None }).method("GET").path("/node-001").times(1));
    assert!(api.get("node-000").await.is_ok());
    assert_eq!(code(api.get("node-001").await.unwrap_err()), 500);
    assert!(api.get("node-001").await.is_ok());

    let denied = faults.deny("PATCH", "/nodes/");
    let cordon = Patch::Merge(json!({ "spec": { "unschedulable": true } }));
    let refused = api.patch("node-000", &PatchParams::default(), &cordon).await.unwrap_err();
    assert_eq!(code(refused), 403);
    faults.remove(denied);

    faults.add(Rule::new(Effect::LoseAnswer).method("PATCH").times(1));
    let lost = api.patch("node-000", &PatchParams::default(), &cordon).await;
    assert!(!matches!(lost.unwrap_err(), kube::Error::Api(_)));
    assert_eq!(server.nodes().get("node-000").unwrap()["spec"]["unschedulable"], true, "it was done all the same");

    faults.latency(Duration::from_secs(3600));
    let slow = api.get("node-000");
    tokio::select! {
        _ = slow => panic!("answered an hour early"),
        found = server.requests_until(SOON, |r| r.last().is_some_and(|r| r.method == "GET")) => assert!(found.is_ok()),
    }
}

#[tokio::test]
async fn watches_break_off_stall_and_go_on_without_loss() {
    let (server, client) = start(SimConfig::default());
    let api: Api<Node> = Api::all(client);
    let from = server.resource_version().to_string();
    let mut events = watch(&api, &WatchParams::default(), &from).await;
    server.faults().drop_watches();
    let broken = tokio::time::timeout(SOON, events.next()).await.unwrap();
    assert!(broken.is_none_or(|event| event.is_err()));

    let mut events = watch(&api, &WatchParams::default(), &from).await;
    server.faults().stall_watches(true);
    server.nodes().apply(node("a", json!({}))).unwrap();
    server.nodes().delete("a");
    let all = ListParams::default();
    tokio::select! {
        biased;
        event = events.next() => panic!("a stalled watch spoke: {event:?}"),
        // The server answers other requests meanwhile, so time has passed in which it could have.
        listed = api.list(&all) => assert!(listed.is_ok()),
    }
    server.faults().stall_watches(false);
    assert_eq!(told(&next(&mut events).await), "ADDED a");
    assert_eq!(told(&next(&mut events).await), "DELETED a");
}

#[tokio::test]
async fn a_partition_cuts_open_watches_and_refuses_until_it_heals() {
    let (server, client) = start(SimConfig::default());
    fleet(&server, 1);
    let api: Api<Node> = Api::all(client);
    let from = server.resource_version().to_string();
    let mut events = watch(&api, &WatchParams::default(), &from).await;
    server.faults().partition(Partition::Refused).unwrap();
    let broken = tokio::time::timeout(SOON, events.next()).await.unwrap();
    assert!(broken.is_none_or(|event| event.is_err()));
    assert!(api.get("node-000").await.is_err());
    server.faults().partition(Partition::Healed).unwrap();
    assert!(api.get("node-000").await.is_ok());

    let mut events = watch(&api, &WatchParams::default(), &from).await;
    server.faults().partition(Partition::BlackHole).unwrap();
    server.nodes().delete("node-000");
    let silent = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
    assert!(silent.is_err(), "nothing gets through a black hole");
    server.faults().partition(Partition::Healed).unwrap();
    assert_eq!(told(&next(&mut events).await), "DELETED node-000");
}

//! What an operator grants by name: time, a memory, requests and pods, each by a guest that uses it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use apgar_core::fleet::Inputs;
use apgar_core::node::{Node, Uid};
use apgar_core::pods::Pod;
use apgar_core::verdict::Verdict;
use apgar_engine::{Candidate, Capability, Cause, CheckDone, Grants, Limits, Plugin};
use wit_parser::Resolve;

use crate::component::encode;
use crate::support::{ENGINE, candidate};

/// A guest that returns `Err` with the text at `$text`, unless `$does` returns before.
fn guest(imports: &str, fields: &str, does: &str) -> Arc<[u8]> {
    let mut resolve = Resolve::default();
    resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/checker-0.1.2")).unwrap();
    let wit = format!(
        "package a:b; world plugin {{ import apgar:checker/node@0.1.2; {imports} export apgar:checker/checker@0.1.2; }}"
    );
    let package = resolve.push_str("world.wit", &wit).unwrap();
    let text = format!(
        r#"(module
          (import "apgar:checker/node@0.1.2" "name" (func $name (param i32)))
          {fields}
          (memory (export "memory") 8)
          (global $free (mut i32) (i32.const 65536))
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
            (global.set $free (i32.add (local.get $at) (local.get 3)))
            (local.get $at))
          (func (export "apgar:checker/checker@0.1.2#describe") (result i32) (i32.const 512))
          (func $err (param i32 i32) (result i32)
            (i32.store8 (i32.const 1024) (i32.const 1))
            (i32.store (i32.const 1032) (local.get 0)) (i32.store (i32.const 1036) (local.get 1))
            (i32.const 1024))
          (func $fine (param i32 i32 i32) (result i32)
            (i32.store8 (i32.const 1032) (local.get 0))
            (i32.store (i32.const 1036) (local.get 1)) (i32.store (i32.const 1040) (local.get 2))
            (i32.const 1024))
          (func (export "apgar:checker/checker@0.1.2#check") (result i32) (local $n i32) {does})
          (data (i32.const 64) "none"))"#
    );
    encode(&resolve, package, "plugin", &text)
}

/// Asks the server that is the node's name, so many times; passes if the last status is 200, with the body for a
/// reason.
pub(crate) fn asks(times: u32) -> Arc<[u8]> {
    let does = format!(
        r#"(local.set $n (i32.const {times}))
        (loop $again
          (call $name (i32.const 2048))
          (call $get (i32.load (i32.const 2048)) (i32.load (i32.const 2052)) (i32.const 0) (i32.const 0)
            (i32.const 3072))
          (local.set $n (i32.sub (local.get $n) (i32.const 1)))
          (br_if $again (local.get $n)))
        (if (result i32) (i32.load8_u (i32.const 3072))
          (then (call $err (i32.load (i32.const 3076)) (i32.load (i32.const 3080))))
          (else (call $fine (i32.eq (i32.load16_u (i32.const 3076)) (i32.const 200))
            (i32.load (i32.const 3080)) (i32.load (i32.const 3084)))))"#
    );
    let fields = r#"(import "apgar:checker/http@0.1.2" "get" (func $get (param i32 i32 i32 i32 i32)))"#;
    guest("import apgar:checker/http@0.1.2;", fields, &does)
}

async fn asker(times: u32, allow: &[String]) -> Arc<Plugin> {
    let limits = Limits {
        http_timeout: Duration::from_millis(200),
        http_allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
        ..Limits::default()
    };
    let grants = Grants::from([Capability::Http]);
    ENGINE.load(Candidate { grants, limits, ..candidate("asks", &asks(times)) }).await.unwrap()
}

async fn check(plugin: &Arc<Plugin>, name: &str) -> CheckDone {
    ENGINE.check(plugin, Arc::new(Node { uid: Uid::from("1"), ..Node::named(name) })).await
}

fn said(done: &CheckDone) -> &str {
    let Verdict::Unknown(unknown) = &done.verdict else { panic!("{done:?}") };
    assert_eq!((&done.death, &done.fault), (&None, &None));
    &unknown.detail
}

/// A server on loopback that does the same with each connection, and tells how each ended.
fn server(serve: impl Fn(TcpStream) -> bool + Send + 'static) -> (u16, mpsc::Receiver<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ended_in, ended) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let _bytes = stream.read(&mut head).unwrap();
            if ended_in.send(serve(stream)).is_err() {
                return;
            }
        }
    });
    (port, ended)
}

#[tokio::test]
async fn a_listed_server_is_asked_and_a_redirect_is_not_followed() {
    let (port, _ended) = server(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nWell").is_ok()
    });
    let plugin = asker(1, &[format!("http://127.0.0.0/8:{port}")]).await;
    assert!(!plugin.pure());
    let done = check(&plugin, &format!("http://127.0.0.1:{port}/health")).await;
    assert_eq!(done.verdict.judgement().map(|judgement| &*judgement.reason), Some("Well"), "{done:?}");
    assert!(!done.remember);

    let (port, _ended) = server(|mut stream| {
        let head = b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(head).is_ok()
    });
    let plugin = asker(1, &[format!("http://127.0.0.1:{port}")]).await;
    let done = check(&plugin, &format!("http://127.0.0.1:{port}/")).await;
    assert_eq!(done.verdict.result(), "fail", "{done:?}");
}

#[tokio::test]
async fn what_is_not_listed_is_refused_and_counted_without_a_packet() {
    let (port, ended) = server(|_| true);
    let plugin = asker(1, &[format!("http://localhost:{port}")]).await;
    for (url, why) in [
        (format!("http://127.0.0.1:{port}/"), "is not in the list. To allow it: [checker.asks] http_allow"),
        (format!("http://localhost:{port}/"), "which is not public"),
        ("file:///etc/passwd".to_owned(), "file: is not asked"),
    ] {
        let done = check(&plugin, &url).await;
        assert!(said(&done).contains(why), "{done:?}");
        assert_eq!(done.corrections.requests_refused, 1);
    }
    assert!(ended.try_recv().is_err(), "somebody connected");
}

#[tokio::test]
async fn p_21_a_silent_server_is_an_error_and_the_fifth_request_is_one_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let plugin = asker(5, &[format!("http://127.0.0.1:{port}")]).await;
    let done = check(&plugin, &format!("http://127.0.0.1:{port}/")).await;
    assert_eq!(said(&done), "refused: limits.http_calls is 4, and all of them are used up");
    assert!(done.took >= Duration::from_millis(800), "four time-outs, far beyond the call deadline");
    assert_eq!(done.corrections.requests_refused, 1);

    let plugin = asker(1, &[format!("http://127.0.0.1:{port}")]).await;
    assert_eq!(said(&check(&plugin, &format!("http://127.0.0.1:{port}/")).await), "no answer within 200 ms");
}

#[tokio::test]
async fn an_endless_body_is_cut_and_its_connection_closed() {
    let (port, ended) = server(|mut stream| {
        if stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").is_err() {
            return false;
        }
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        true
    });
    let plugin = asker(1, &[format!("http://127.0.0.1:{port}")]).await;
    let done = check(&plugin, &format!("http://127.0.0.1:{port}/")).await;
    assert_eq!(done.verdict.result(), "pass", "{done:?}");
    assert!(done.corrections.reason);
    assert_eq!(ended.recv(), Ok(true));
}

#[tokio::test]
async fn endless_headers_are_an_error_and_their_connection_closed() {
    let (port, ended) = server(|mut stream| {
        if stream.write_all(b"HTTP/1.1 200 OK\r\n").is_err() {
            return false;
        }
        while stream.write_all(b"x-more: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").is_ok() {}
        true
    });
    let plugin = asker(1, &[format!("http://127.0.0.1:{port}")]).await;
    let done = check(&plugin, &format!("http://127.0.0.1:{port}/")).await;
    assert!(said(&done).contains("message head is too large"), "{done:?}");
    assert_eq!(ended.recv(), Ok(true));
}

/// Returns what was stored, after it stored so many bytes; traps before that on a node named `x`.
async fn keeper(name: &str, bytes: u32) -> Arc<Plugin> {
    let fields = r#"(import "apgar:checker/memory@0.1.2" "load" (func $load (param i32)))
        (import "apgar:checker/memory@0.1.2" "store" (func $store (param i32 i32 i32)))"#;
    let does = format!(
        r#"(call $name (i32.const 4096))
        (if (i32.eq (i32.load8_u (i32.load (i32.const 4096))) (i32.const 120)) (then unreachable))
        (call $load (i32.const 2048))
        (call $store (i32.const 64) (i32.const {bytes}) (i32.const 3072))
        (if (i32.load8_u (i32.const 3072))
          (then (return (call $err (i32.load (i32.const 3076)) (i32.load (i32.const 3080))))))
        (if (i32.load8_u (i32.const 2048)) (then
          (return (call $fine (i32.const 1) (i32.const 64) (i32.load (i32.const 2056))))))
        (call $fine (i32.const 0) (i32.const 64) (i32.const 4))"#
    );
    let bytes = guest("import apgar:checker/memory@0.1.2;", fields, &does);
    ENGINE.load(Candidate { grants: Grants::from([Capability::Memory]), ..candidate(name, &bytes) }).await.unwrap()
}

#[tokio::test]
async fn a_blob_is_handed_back_and_forgotten_with_its_node() {
    let plugin = keeper("keeper", 2).await;
    assert!(!plugin.pure());
    assert_eq!(check(&plugin, "n").await.verdict.result(), "fail", "the self-check left nothing");
    let done = check(&plugin, "n").await;
    assert_eq!(done.verdict.judgement().map(|judgement| &*judgement.reason), Some("no"));
    ENGINE.forget_node(&Node::named("n").name);
    assert_eq!(check(&plugin, "n").await.verdict.result(), "fail");
    ENGINE.forget_plugin(plugin.key());
    assert_eq!(check(&plugin, "n").await.verdict.result(), "fail");
}

#[tokio::test]
async fn a_blob_that_is_too_large_is_an_error() {
    let done = check(&keeper("hoarder", 1 << 16).await, "n").await;
    assert!(said(&done).starts_with("65536 bytes are more than is kept for a node"), "{done:?}");
    assert_eq!(done.corrections.stores_refused, 1);
    assert_eq!(check(&keeper("crasher", 2).await, "x").await.death.map(|death| death.cause), Some(Cause::Trap));
}

/// Looks at the clock, and passes if it runs and time is left.
pub(crate) fn clocked() -> Arc<[u8]> {
    let fields = r#"(import "apgar:checker/clock@0.1.2" "now" (func $now (result i64)))
        (import "apgar:checker/clock@0.1.2" "time-remaining" (func $left (result i64)))"#;
    let does = "(call $fine (i32.and (i64.gt_u (call $now) (i64.const 1600000000000))
          (i64.le_u (call $left) (i64.const 2000))) (i32.const 64) (i32.const 4))";
    guest("import apgar:checker/clock@0.1.2;", fields, does)
}

#[tokio::test]
async fn the_clock_runs_and_says_what_is_left() {
    let bytes = clocked();
    let plugin =
        ENGINE.load(Candidate { grants: Grants::from([Capability::Clock]), ..candidate("clock", &bytes) }).await;
    let plugin = plugin.unwrap();
    assert!(!plugin.pure());
    assert_eq!(check(&plugin, "n").await.verdict.result(), "pass");
}

/// Fails for the reason of the first pod that has one, or passes; the threshold says how many pods it saw.
fn pod_reader() -> Arc<[u8]> {
    let does = r#"(local $at i32)
        (call $list (i32.const 2048))
        (if (i32.load8_u (i32.const 2048))
          (then (return (call $err (i32.load (i32.const 2052)) (i32.load (i32.const 2056))))))
        (i64.store (i32.const 1048) (i64.extend_i32_u (i32.load (i32.const 2056))))
        (local.set $at (i32.load (i32.const 2052)))
        (local.set $n (i32.load (i32.const 2056)))
        (block $none
          (loop $next
            (br_if $none (i32.eqz (local.get $n)))
            (if (i32.load offset=52 (local.get $at)) (then (return
              (call $fine (i32.const 0) (i32.load offset=48 (local.get $at)) (i32.load offset=52 (local.get $at))))))
            (local.set $at (i32.add (local.get $at) (i32.const 72)))
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (br $next)))
        (call $fine (i32.const 1) (i32.const 64) (i32.const 4))"#;
    let fields = r#"(import "apgar:checker/pods@0.1.2" "list" (func $list (param i32)))"#;
    guest("import apgar:checker/pods@0.1.2;", fields, does)
}

fn said_and_saw(done: &CheckDone) -> (&'static str, &str, Duration) {
    let judgement = done.verdict.judgement().unwrap_or_else(|| panic!("{done:?}"));
    (done.verdict.result(), &judgement.reason, judgement.threshold)
}

#[tokio::test]
async fn pods_are_read_and_remembered_with_while_they_are_known() {
    const MS: Duration = Duration::from_millis(1);
    let grants = Grants::from([Capability::Pods]);
    let plugin = ENGINE.load(Candidate { grants, ..candidate("pods", &pod_reader()) }).await.unwrap();
    assert_eq!((plugin.inputs(), plugin.pure()), (Inputs::NodeAndPods, true));
    let node = || Arc::new(Node::named("n"));
    let crashing = Pod { restarts: 7, reason: Arc::from("CrashLoopBackOff"), ..Pod::named("ns", "b") };
    for (pods, expected) in [
        (vec![], ("pass", "none", Duration::ZERO)),
        (vec![Pod::named("ns", "a")], ("pass", "none", MS)),
        (vec![Pod::named("ns", "a"), crashing], ("fail", "CrashLoopBackOff", 2 * MS)),
    ] {
        let done = ENGINE.check_with(&plugin, node(), Some(Arc::new(pods))).await;
        assert_eq!(said_and_saw(&done), expected);
        assert!(done.remember, "{done:?}");
    }
    let done = ENGINE.check(&plugin, node()).await;
    assert_eq!(said(&done), "the pods of the node are not known");
    assert!(!done.remember, "they may be known the next moment");
}

#[tokio::test]
async fn while_it_is_loaded_there_are_no_pods_and_that_is_known() {
    let fields = r#"(import "apgar:checker/pods@0.1.2" "list" (func $list (param i32)))"#;
    let does = "(call $list (i32.const 2048))
        (if (i32.or (i32.load8_u (i32.const 2048)) (i32.load (i32.const 2056))) (then unreachable))
        (call $fine (i32.const 1) (i32.const 64) (i32.const 4))";
    let bytes = guest("import apgar:checker/pods@0.1.2;", fields, does);
    let grants = Grants::from([Capability::Pods]);
    let plugin = ENGINE.load(Candidate { grants, ..candidate("pods", &bytes) }).await.unwrap();
    assert_eq!(check(&plugin, "n").await.death.map(|death| death.cause), Some(Cause::Trap), "it does look");
}

#[tokio::test]
async fn pods_that_are_too_many_for_an_answer_are_an_err_and_counted() {
    let grants = Grants::from([Capability::Pods]);
    let plugin = ENGINE.load(Candidate { grants, ..candidate("pods", &pod_reader()) }).await.unwrap();
    // 1 KiB each, in the guest's memory.
    let large =
        |n: u32| Pod { owner_name: "x".repeat(1024 - 72 - 2 - 4).into(), ..Pod::named("ns", &format!("{n:04}")) };
    for (pods, said, cut) in [(256, "pass", 0), (257, "unknown", 1)] {
        let pods = (0..pods).map(large).collect::<Vec<_>>();
        let done = ENGINE.check_with(&plugin, Arc::new(Node::named("n")), Some(Arc::new(pods))).await;
        assert_eq!((done.verdict.result(), done.corrections.answers_cut), (said, cut), "{done:?}");
        assert!(done.remember, "it is so as long as the pods are as they are");
    }
}

#[tokio::test]
async fn pods_need_their_grant_and_cost_no_purity_by_themselves() {
    let refused = ENGINE.load(candidate("pods", &pod_reader())).await.unwrap_err().to_string();
    let line = "pods.wasm imports apgar:checker/pods, not granted. To allow it: [checker.pods] grants = [\"pods\"]";
    assert!(refused.contains(line), "{refused}");
    let grants = Grants::from([Capability::Pods, Capability::Clock]);
    let unused = ENGINE.load(Candidate { grants: grants.clone(), ..candidate("pods", &clocked()) }).await.unwrap();
    assert_eq!(unused.inputs(), Inputs::More { pods: false }, "a grant is no import");
    let fields = r#"(import "apgar:checker/clock@0.1.2" "now" (func $now (result i64)))
        (import "apgar:checker/pods@0.1.2" "list" (func $list (param i32)))"#;
    let imports = "import apgar:checker/clock@0.1.2; import apgar:checker/pods@0.1.2;";
    let does =
        "(call $list (i32.const 2048)) (drop (call $now)) (call $fine (i32.const 1) (i32.const 64) (i32.const 4))";
    let both = ENGINE.load(Candidate { grants, ..candidate("pods", &guest(imports, fields, does)) }).await.unwrap();
    assert_eq!((both.inputs(), both.pure()), (Inputs::More { pods: true }, false));
}

/// `supervision` P-84.
#[tokio::test]
async fn each_check_finds_the_memory_as_the_component_has_it() {
    let fields = "(global $count (mut i64) (i64.const 0))";
    let does = "(global.set $count (i64.add (global.get $count) (i64.const 1)))
        (i64.store (i32.const 1048) (global.get $count))
        (call $fine (i32.const 1) (i32.const 64) (i32.const 4))";
    let plugin = ENGINE.load(candidate("counts", &guest("", fields, does))).await.unwrap();
    for _ in 0..3 {
        let done = check(&plugin, "n").await;
        assert_eq!(done.verdict.judgement().unwrap().threshold, Duration::from_millis(1));
    }
}

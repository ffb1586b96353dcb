//! Measures the fleet at 100 000 nodes: `cargo run --release -p apgar-core --example scale`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apgar_core::fleet::{Check, Checker, Fleet, Input, Inputs};
use apgar_core::node::{BootId, Condition, Node, Uid};
use apgar_core::policy::Policy;
use apgar_core::time::Time;
use apgar_core::verdict::{CheckerKey, Judgement, Verdict};

const NODES: usize = 100_000;
const CHECKERS: [&str; 4] = ["cilium", "disk", "gpu", "ready"];

fn main() {
    let nodes: Vec<Arc<Node>> = (0..NODES).map(|i| Arc::new(node(i, "True"))).collect();
    let mut fleet = Fleet::new(Policy::default());
    let mut now = Time::from_unix_ms(1_700_000_000_000);
    let mut start: Vec<Input> = CHECKERS.iter().map(|key| Input::CheckerServes(checker(key))).collect();
    start.push(Input::Evidence { live: true });
    fleet.turn(now, start);

    let before = resident_kib();
    let turn = timed("first list of 100 000 nodes", || fleet.turn(now, vec![Input::Listed(nodes.clone())]));
    let judged = answers(turn.checks, true);
    let turn = timed("cold: 400 000 verdicts", || fleet.turn(now, judged));
    drop(turn);
    println!("{:40} {:>10} bytes a node", "memory beside the nodes", (resident_kib() - before) * 1024 / NODES);

    for _ in 0..3 {
        now = now + Duration::from_secs(10);
        timed("idle tick", || fleet.turn(now, vec![Input::Tick]));
    }

    let changed: Vec<Input> = (0..100).map(|i| Input::Applied(Arc::new(node(i * 997, "False")))).collect();
    let turn = timed("100 changed nodes", || fleet.turn(now, changed));
    let failing = answers(turn.checks, false);
    timed("their 400 verdicts, failing", || fleet.turn(now, failing));
    now = now + Duration::from_secs(10);
    timed("idle tick with 100 open nodes", || fleet.turn(now, vec![Input::Tick]));
    now = now + Duration::from_secs(50);
    timed("tick with 100 records to store", || fleet.turn(now, vec![Input::Tick]));
    now = now + Duration::from_secs(240);
    timed("tick with 100 due nodes", || fleet.turn(now, vec![Input::Tick]));
    timed("the same list again", || fleet.turn(now, vec![Input::Listed(nodes.clone())]));
    timed("reading all nodes, as a scrape does", || {
        fleet.nodes().map(|node| node.checkers().map(|c| u64::from(c.passes)).sum::<u64>()).sum::<u64>()
    });
    timed("a report", || fleet.report("node-000997", now));
}

#[expect(clippy::disallowed_methods, reason = "this measures the machine, not the rules")]
fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    println!("{what:40} {:>10.3} ms", start.elapsed().as_secs_f64() * 1000.0);
    result
}

fn answers(checks: Vec<Check>, well: bool) -> Vec<Input> {
    let judged = checks.into_iter().map(|check| {
        let reason = Arc::from(if well { "KubeletReady" } else { "KubeletNotReady" });
        let judgement = Judgement { reason, threshold: Duration::from_secs(300) };
        let verdict = if well { Verdict::Pass(judgement) } else { Verdict::Fail(judgement) };
        Input::Judged {
            check: check.id,
            node: check.node.name.clone(),
            checker: check.checker,
            verdict,
            remember: true,
        }
    });
    judged.collect()
}

fn checker(key: &str) -> Checker {
    Checker { key: CheckerKey::from(key), generation: Arc::from("1"), reasons: Vec::new(), inputs: Inputs::Node }
}

fn node(i: usize, ready: &str) -> Node {
    let mut node = Node::named(&format!("node-{i:06}"));
    node.uid = Uid::from(format!("00000000-0000-0000-0000-{i:012}").as_str());
    node.boot_id = BootId::from(format!("11111111-0000-0000-0000-{i:012}").as_str());
    node.system_uuid = Arc::from(format!("22222222-0000-0000-0000-{i:012}"));
    node.conditions = Box::new([Condition {
        kind: Arc::from("Ready"),
        status: Arc::from(ready),
        reason: Arc::from("KubeletReady"),
        message: Arc::from(""),
        last_transition: None,
    }]);
    node
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

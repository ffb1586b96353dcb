//! A checker that spins: when it is ended, and what it is charged.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use apgar_core::node::Node;
use apgar_engine::{Cause, Compile, Engine, EngineConfig, limits};
use apgar_guests::Behaviour;
use apgar_tests::guests::guest;

use crate::{Report, Times, candidate};

const ROUNDS: usize = 50;

pub(crate) async fn measure(report: &mut Report) {
    let engine = Engine::new(EngineConfig { cache_dir: None, compile: Compile::InProcess }).unwrap();
    let guest = guest("guest").unwrap();
    let plugin = engine.load(candidate("guest", guest.into())).await.unwrap();
    let node = Arc::new(Node::named(Behaviour::Spin.node()));
    let (mut late, mut charged) = (Vec::new(), Duration::ZERO);
    let before = cpu_time();
    for _ in 0..ROUNDS {
        let done = engine.check(&plugin, node.clone()).await;
        let cause = done.death.as_ref().map(|death| death.cause);
        assert_eq!(cause, Some(Cause::Deadline), "{done:?}");
        late.push(done.took.saturating_sub(limits::CALL_DEADLINE));
        charged += limits::TICK * done.ticks;
    }
    let used = cpu_time() - before;
    let late = Times::new(late);
    report.says("a checker that spins, ended beyond its budget, median", late.at(0.5), "ms");
    report.at_most("a checker that spins, ended beyond its budget, at most", late.at(1.0), 20.0, "ms");
    let off = (charged.as_secs_f64() / used.as_secs_f64() - 1.0).abs();
    report.says("time charged to it / used by the process", charged.as_secs_f64() / used.as_secs_f64(), "x");
    report.at_most("charged wrongly", off * 100.0, 10.0, "%");
}

/// What this process has used of all processors, in steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // The name, in brackets, may have spaces; user and system time are the 12th and 13th fields behind it.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

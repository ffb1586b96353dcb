//! A Rust checker, swapped a thousand times while it and twenty others judge: by the world of the reload torture, which
//! holds every single check against a model.

use std::fs;
use std::time::{Duration, Instant};

use apgar_engine::{Compile, Digest};
use apgar_tests::guests::guest;

use crate::world::{DEBOUNCE, MINE, Running, STABLE_GAP, replaced};
use crate::{Report, Times};

const SWAPS: u32 = 1_000;

/// 200 nodes a second show something else, and twenty-one checkers are asked about each.
const CHANGE_EVERY: Duration = Duration::from_millis(5);

/// For one version to judge.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn measure(report: &mut Report) {
    let home = tempfile::tempdir().unwrap();
    let compile = Compile::Child { program: apgar_tests::apgar_binary!() };
    let mut running = Running::start(home.path(), compile, CHANGE_EVERY).await;
    let guest = guest("guest").unwrap();
    let (aside, file) = (home.path().join("aside"), home.path().join("plugins").join(format!("{MINE}.wasm")));
    let mut last = Digest::of(b"");
    for number in 0..SWAPS {
        let reason = format!("v{number:06}");
        let bytes = replaced(guest, b"Healthy", reason.as_bytes());
        last = Digest::of(&bytes);
        fs::write(&aside, &bytes).unwrap();
        running.world.book.whole(MINE, &bytes, &reason, false);
        fs::rename(&aside, &file).unwrap();
        let written = Instant::now();
        while !running.world.book.mine(last).seen {
            assert!(written.elapsed() < PATIENCE, "{reason} judges nothing: {:?}", running.world.tally);
            running.step(true).await;
        }
    }
    while !running.world.is_settled(last) {
        running.step(false).await;
    }
    let world = running.end().await;
    let waits = DEBOUNCE + STABLE_GAP;
    let beyond = Times::new(world.first_verdicts.iter().map(|took| took.saturating_sub(waits)).collect());
    report.says("versions that judged", world.first_verdicts.len() as f64, "");
    report.says("checks, each judged by exactly one of them", world.tally.answered as f64, "");
    assert_eq!(world.first_verdicts.len(), SWAPS as usize);
    report.at_most("file to first verdict beyond the waits, median", beyond.at(0.5), 100.0, "ms");
    report.says("file to first verdict beyond the waits, p99", beyond.at(0.99), "ms");
}

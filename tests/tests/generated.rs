//! Components that nobody wrote: random ones, and our own with bytes changed. Each is refused, dies of a listed cause
//! or serves; whatever it is, nothing of ours panics or fails. `APGAR_GENERATED` sets how many of each are tried.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test says where")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apgar_core::node::Node;
use apgar_engine::{
    Candidate, Cause, Compile, Engine, EngineConfig, Grants, Limits, LoadError, Refusal, Source, Stage,
};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::json;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Enough to meet every branch of admission in a few seconds.
const TRIED: u64 = 200;

/// Open files that the tests beside this one may have: far fewer than are tried, so a file kept for each would show.
const OTHERS: usize = 32;

#[expect(clippy::disallowed_methods, reason = "how long a test runs is set by whoever runs it")]
fn tried() -> u64 {
    std::env::var("APGAR_GENERATED").map_or(TRIED, |count| count.parse().unwrap())
}

/// What came of many.
#[derive(Debug, Default)]
struct Tally {
    refused: u64,
    served: u64,
    /// By cause and stage, those that died in a check included.
    died: BTreeMap<(Cause, Stage), u64>,
}

struct World {
    engine: Engine,
    tally: Tally,
}

impl World {
    fn new() -> Self {
        let engine = Engine::new(EngineConfig { cache_dir: None, compile: Compile::InProcess }).unwrap();
        Self { engine, tally: Tally::default() }
    }

    /// Offers `bytes` as the directory would, and lets it judge if it may.
    async fn offer(&mut self, seed: u64, bytes: Vec<u8>) -> Option<Refusal> {
        let ms = Duration::from_millis;
        let limits = Limits { call_deadline: ms(20), startup_deadline: ms(100), ..Limits::default() };
        let candidate = Candidate {
            key: "generated".into(),
            bytes: bytes.into(),
            settings: json!({}),
            grants: Grants::new(),
            limits,
            source: Source::Directory,
        };
        match self.engine.load(candidate).await {
            Ok(plugin) => {
                self.tally.served += 1;
                let done = self.engine.check(&plugin, Arc::new(Node::named("node-1"))).await;
                assert_eq!(done.fault, None, "seed {seed}");
                assert!(done.death.is_none() || done.verdict.judgement().is_none(), "seed {seed}: {done:?}");
                if let Some(death) = done.death {
                    *self.tally.died.entry((death.cause, death.stage)).or_default() += 1;
                }
                None
            }
            Err(LoadError::Refusal(refusal)) => {
                self.tally.refused += 1;
                assert!(!refusal.message.is_empty(), "seed {seed}");
                Some(refusal)
            }
            Err(LoadError::Death(death)) => {
                *self.tally.died.entry((death.cause, death.stage)).or_default() += 1;
                None
            }
            Err(LoadError::Engine(what)) => panic!("seed {seed}: {what}"),
        }
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn random_components_are_refused_for_what_they_are() {
    let mut world = World::new();
    let before = open_files();
    let mut reasons = BTreeMap::<&str, u64>::new();
    for seed in 0..tried() {
        let mut raw = vec![0; 4096];
        StdRng::seed_from_u64(seed).fill_bytes(&mut raw);
        let mut raw = arbitrary::Unstructured::new(&raw);
        // Every third a core module: what a toolchain leaves when its last step was forgotten.
        let bytes = if seed % 3 == 0 {
            wasm_smith::Module::new(wasm_smith::Config::default(), &mut raw).map(|module| module.to_bytes())
        } else {
            wasm_smith::Component::new(wasm_smith::Config::default(), &mut raw).map(|component| component.to_bytes())
        };
        let Ok(bytes) = bytes else { continue };
        let refusal = world.offer(seed, bytes).await.unwrap_or_else(|| panic!("seed {seed}: nobody exports a checker"));
        *reasons.entry(refusal.reason.as_str()).or_default() += 1;
    }
    println!("{reasons:?}");
    assert!(reasons.len() >= 2, "{reasons:?}");
    assert!(open_files() < before + OTHERS);
}

#[tokio::test]
async fn mutated_components_never_hurt() {
    let mut world = World::new();
    let originals: Vec<Arc<[u8]>> = apgar::plugins::bundled().into_iter().map(|(_, bytes)| bytes).collect();
    for original in &originals {
        assert_eq!(world.offer(0, original.to_vec()).await, None);
    }
    let before = open_files();
    for seed in 0..tried() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = originals[random.random_range(0..originals.len())].to_vec();
        for _ in 0..random.random_range(1..=4) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..10) {
                0 => bytes.truncate(at.max(8)),
                1 => bytes.insert(at, random.random()),
                2 => _ = bytes.remove(at),
                // Most only change a byte: whatever changes the length ends in admission.
                _ => bytes[at] ^= 1 << random.random_range(0..8),
            }
        }
        world.offer(seed, bytes).await;
    }
    println!("{:?}", world.tally);
    let Tally { refused, served, .. } = world.tally;
    assert!(refused > 0 && served > originals.len() as u64, "nothing ran: {:?}", world.tally);
    assert!(open_files() < before + OTHERS);
}

/// The outside of a checker, for code nobody wrote: what it may call of the host, and what it must have.
const OUTSIDE: [&str; 2] = [
    r#"(module
      (import "apgar:checker/node@0.1.0" "name" (func (param i32)))
      (import "apgar:checker/node@0.1.0" "created" (func (param i32)))
      (import "apgar:checker/node@0.1.0" "unschedulable" (func (result i32)))
      (import "apgar:checker/node@0.1.0" "label" (func (param i32 i32 i32)))
      (import "apgar:checker/node@0.1.0" "condition-kinds" (func (param i32)))
      (import "apgar:checker/log@0.1.0" "write" (func (param i32 i32 i32))))"#,
    r#"(module
      (memory (export "memory") 1 16)
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (unreachable))
      (func (export "apgar:checker/checker@0.1.0#check") (result i32) (unreachable))
      (func (export "apgar:checker/checker@0.1.0#describe") (result i32) (unreachable)))"#,
];

/// Random code where a checker's is: unlike a random component it is let in, compiled and run. Whatever it does,
/// calls into the host with random arguments included, ends as a verdict or as one of the deaths of a guest.
#[tokio::test]
async fn random_code_behind_the_right_exports_runs_and_never_hurts() {
    let [imports, exports] = OUTSIDE.map(|text| wat::parse_str(text).unwrap());
    let mut contract = Resolve::default();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/checker-0.1.0");
    let (package, _) = contract.push_path(dir).unwrap();
    let plugin = contract.select_world(&[package], Some("plugin")).unwrap();

    let mut world = World::new();
    let before = open_files();
    for seed in 0..tried() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut raw = vec![0; random.random_range(64..2048)];
        random.fill_bytes(&mut raw);
        let config = wasm_smith::Config {
            available_imports: Some(imports.clone()),
            exports: Some(exports.clone()),
            // Half of them cannot trap on their own and get further.
            disallow_traps: seed % 2 == 0,
            // What the engine does not take ends in admission, which is not what this is about.
            exceptions_enabled: false,
            gc_enabled: false,
            memory64_enabled: false,
            // Beyond these a start ends before any of the code has run.
            max_memory32_bytes: 1 << 20,
            max_table_elements: 1_000,
            reference_types_enabled: false,
            relaxed_simd_enabled: false,
            threads_enabled: false,
            ..wasm_smith::Config::default()
        };
        let Ok(module) = wasm_smith::Module::new(config, &mut arbitrary::Unstructured::new(&raw)) else { continue };
        let mut module = module.to_bytes();
        embed_component_metadata(&mut module, &contract, plugin, StringEncoding::UTF8).unwrap();
        let component = apgar_component::encode(&module).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let refused = world.offer(seed, component).await;
        assert_eq!(refused, None, "seed {seed}");
    }
    println!("{:?}", world.tally);
    for ((cause, stage), count) in &world.tally.died {
        let of_a_guest =
            matches!(cause, Cause::Trap | Cause::Deadline | Cause::Memory | Cause::Link | Cause::HostStarved);
        assert!(of_a_guest, "{count} died of {cause} in {stage}");
    }
    assert!(world.tally.served > 0 && world.tally.died.len() > 2, "too much of one kind: {:?}", world.tally);
    assert!(open_files() < before + OTHERS);
}

//! What is offered, started, kept and given up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apgar_core::supervision::Offer;
use apgar_core::verdict::CheckerKey;
use apgar_engine::{
    Bundled, Capability, Cause, Compile, Configuration, Digest, DirectoryEvent, Engine, EngineConfig, Generation,
    Grants, Limits, PluginConfig, Refusal, RefusalReason, Registry, RegistryEvent, RegistryOptions, Source, Stage,
};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::capabilities::clocked;
use crate::component::{GUEST, component};
use crate::support::{CHECK, DESCRIBE, ENGINE, minimal};

struct World {
    registry: Registry,
    events: mpsc::Receiver<RegistryEvent>,
}

impl World {
    fn new(configuration: Configuration) -> Self {
        Self::over(ENGINE.clone(), configuration)
    }

    fn over(engine: Engine, configuration: Configuration) -> Self {
        let (sender, events) = mpsc::channel(64);
        let bundled = vec![Bundled { key: "disk".into(), bytes: GUEST.clone() }];
        Self { registry: Registry::new(RegistryOptions { engine, bundled, configuration }, sender), events }
    }

    async fn next(&mut self) -> RegistryEvent {
        self.events.recv().await.unwrap()
    }

    /// Puts a file into the directory, and takes what is offered for it.
    async fn found(&mut self, name: &str, bytes: &Arc<[u8]>) -> Offer {
        let digest = Digest::of(bytes);
        let event = DirectoryEvent::Found { name: name.into(), bytes: bytes.clone(), digest, signature: None };
        self.registry.apply(event).await;
        self.offered(name, Source::Directory).await
    }

    async fn offered(&mut self, name: &str, from: Source) -> Offer {
        let event = self.next().await;
        let RegistryEvent::Offered { name: of, source, offer } = &event else { panic!("no offer: {event:?}") };
        assert_eq!((of.as_str(), *source), (name, from));
        offer.clone()
    }

    async fn start(&mut self, name: &str, generation: Generation, number: u64) -> RegistryEvent {
        self.registry.start(name.into(), generation, number, None);
        self.next().await
    }

    /// Starts what must serve, and says under which number it does.
    async fn serves(&mut self, name: &str, generation: Generation, number: u64) {
        let event = self.start(name, generation, number).await;
        let RegistryEvent::Started { plugin } = &event else { panic!("not started: {event:?}") };
        assert_eq!((plugin.key().as_str(), plugin.start()), (name, number));
        assert_eq!(*plugin.generation(), generation);
    }

    async fn is_unavailable(&mut self, name: &str, generation: Generation) {
        let event = self.start(name, generation, 9).await;
        let RegistryEvent::Rejected { refusal, .. } = &event else { panic!("there are bytes: {event:?}") };
        assert_eq!(refusal.reason, RefusalReason::BytesUnavailable);
    }
}

fn with(config: PluginConfig) -> Configuration {
    Configuration { plugins: [(CheckerKey::from("gpu"), config)].into(), ..Configuration::default() }
}

fn small() -> Arc<[u8]> {
    component("plugin", &minimal(&format!("{DESCRIBE} {CHECK}")))
}

fn garbage() -> Arc<[u8]> {
    Arc::from(*b"garbage")
}

fn reason(offer: &Offer) -> RefusalReason {
    offer.admission.as_ref().unwrap_err().0
}

#[tokio::test]
async fn what_is_built_in_is_offered_first_and_started_on_demand() {
    let mut world = World::new(Configuration::default());
    let (directory, found) = mpsc::channel(1);
    drop(directory);
    world.registry.run(found).await;
    let offer = world.offered("disk", Source::Bundled).await;
    assert_eq!((offer.generation.bytes, offer.admission), (Some(Digest::of(&GUEST)), Ok(true)));
    world.serves("disk", offer.generation, 3).await;
}

#[tokio::test]
async fn a_file_is_admitted_before_anything_of_it_runs() {
    let mut world = World::new(Configuration::default());
    assert_eq!(world.found("gpu", &small()).await.admission, Ok(true));
    let offer = world.found("gpu", &garbage()).await;
    assert_eq!((offer.generation.bytes, reason(&offer)), (Some(Digest::of(b"garbage")), RefusalReason::NotAComponent));
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_offered_unread() {
    let mut world = World::new(Configuration::default());
    let refusal = Refusal { reason: RefusalReason::Unreadable, message: "gpu.wasm cannot be read".into() };
    world.registry.apply(DirectoryEvent::Refused { name: "gpu".into(), refusal }).await;
    let offer = world.offered("gpu", Source::Directory).await;
    assert_eq!((offer.generation.bytes, reason(&offer)), (None, RefusalReason::Unreadable));
}

#[tokio::test]
async fn a_file_that_can_be_no_plugin_is_told_beside() {
    let mut world = World::new(Configuration::default());
    let refusal = Refusal { reason: RefusalReason::TooMany, message: "one too many".into() };
    world.registry.apply(DirectoryEvent::Refused { name: "gpu".into(), refusal: refusal.clone() }).await;
    assert!(matches!(world.next().await, RegistryEvent::Odd { refusal: told, .. } if told == refusal));
}

#[tokio::test]
async fn p_23_a_start_that_dies_says_where_and_under_which_number() {
    let dies =
        minimal(&format!(r#"{DESCRIBE} (func (export "apgar:checker/checker@0.1.0#check") (result i32) unreachable)"#));
    let mut world = World::new(Configuration::default());
    let offer = world.found("gpu", &component("plugin", &dies)).await;
    let event = world.start("gpu", offer.generation, 4).await;
    let RegistryEvent::Died { start, death, .. } = &event else { panic!("not dead: {event:?}") };
    assert_eq!((*start, death.cause, death.stage), (4, Cause::Trap, Stage::SelfCheck));
}

#[tokio::test]
async fn what_nobody_has_is_unavailable() {
    let mut world = World::new(Configuration::default());
    world.found("gpu", &small()).await;
    let generation = Generation { bytes: Some(Digest::of(b"else")), config: Digest::of(b"{}") };
    world.is_unavailable("gpu", generation).await;
}

#[tokio::test]
async fn the_good_generation_outlives_its_file_and_the_process() {
    let home = tempfile::tempdir().unwrap();
    let engine = || engine(home.path());
    let mut world = World::over(engine(), Configuration::default());
    let good = world.found("gpu", &small()).await.generation;
    world.registry.keep(&"gpu".into(), &good);
    world.found("gpu", &garbage()).await;
    world.serves("gpu", good, 1).await;
    // A manifest is written on a thread of its own.
    let manifest = home.path().join("cache/components/gpu.json");
    while !manifest.exists() {
        tokio::task::yield_now().await;
    }
    let mut world = World::over(engine(), Configuration::default());
    world.serves("gpu", good, 2).await;
    let settings = with(PluginConfig { settings: json!({"a": 1}), ..PluginConfig::default() });
    let mut world = World::over(engine(), settings);
    world.serves("gpu", good, 3).await;
    world.registry.forget(&"gpu".into());
    world.is_unavailable("gpu", good).await;
}

#[tokio::test]
async fn what_is_kept_and_was_lost_is_kept_anew_and_what_cannot_be_is_told() {
    let home = tempfile::tempdir().unwrap();
    let mut world = World::over(engine(home.path()), Configuration::default());
    let name = CheckerKey::from("gpu");
    let good = world.found("gpu", &small()).await.generation;
    let shelf = home.path().join("cache/components");
    let files = [shelf.join("gpu.json"), shelf.join(format!("{}.wasm", Digest::of(&small())))];
    for _ in 0..2 {
        world.registry.keep(&name, &good);
        while !files.iter().all(|file| file.exists()) {
            tokio::task::yield_now().await;
        }
        std::fs::remove_file(&files[0]).unwrap();
    }
    std::fs::remove_file(&files[1]).unwrap();
    let never = Generation { bytes: None, config: Digest::of(b"{}") };
    for (generation, expected) in [(good, "is not to be had from"), (never, "its bytes are not to be had")] {
        world.registry.keep(&name, &generation);
        let RegistryEvent::NotStored { generation: of, why, .. } = world.next().await else { panic!("it is kept") };
        assert_eq!(of, generation);
        assert!(why.contains(expected), "{why}");
    }
}

fn engine(cache: &Path) -> Engine {
    Engine::new(EngineConfig { cache_dir: Some(cache.join("cache")), compile: Compile::InProcess }).unwrap()
}

#[tokio::test]
async fn other_settings_are_another_generation_of_the_same_bytes() {
    let mut world = World::new(Configuration::default());
    let before = world.found("gpu", &small()).await;
    world.registry.configure(with(PluginConfig { settings: json!({"a": 1}), ..PluginConfig::default() })).await;
    world.offered("disk", Source::Bundled).await;
    let after = world.offered("gpu", Source::Directory).await;
    assert_eq!(after.generation.bytes, before.generation.bytes);
    assert_ne!(after.generation.config, before.generation.config);
    world.registry.configure(with(PluginConfig { settings: json!("a"), ..PluginConfig::default() })).await;
    world.offered("disk", Source::Bundled).await;
    assert_eq!(reason(&world.offered("gpu", Source::Directory).await), RefusalReason::SettingsRejected);
}

#[tokio::test]
async fn p_53_a_grant_makes_a_refused_file_acceptable() {
    let bytes = clocked();
    let mut world = World::new(Configuration::default());
    let refused = world.found("gpu", &bytes).await;
    assert_eq!(reason(&refused), RefusalReason::ImportNotGranted);
    let grants = Grants::from([Capability::Clock]);
    world.registry.configure(with(PluginConfig { grants, ..PluginConfig::default() })).await;
    world.offered("disk", Source::Bundled).await;
    assert_eq!(world.offered("gpu", Source::Directory).await.admission, Ok(false));
}

#[tokio::test]
async fn a_start_that_is_given_up_says_nothing_and_holds_up_nobody() {
    let spins = minimal(&format!(
        r#"{CHECK} (func (export "apgar:checker/checker@0.1.0#describe") (result i32) (loop $spin (br $spin)) unreachable)"#
    ));
    let limits = Limits { startup_deadline: Duration::from_secs(30), ..Limits::default() };
    let mut world = World::new(with(PluginConfig { limits, ..PluginConfig::default() }));
    let spins = world.found("gpu", &component("plugin", &spins)).await.generation;
    let good = world.found("gpu", &small()).await.generation;
    world.found("other", &small()).await;
    world.registry.start("gpu".into(), spins, 1, None);
    world.registry.give_up(&"gpu".into(), 1);
    world.serves("gpu", good, 2).await;
}

#[tokio::test]
async fn a_start_goes_on_without_the_store_and_says_so() {
    let mut world = World::new(Configuration::default());
    let offer = world.found("gpu", &small()).await;
    let (dead, stored) = oneshot::channel();
    drop(dead);
    world.registry.start("gpu".into(), offer.generation, 1, Some(stored));
    assert!(matches!(world.next().await, RegistryEvent::NotStored { .. }));
    assert!(matches!(world.next().await, RegistryEvent::Started { .. }));
}

#[tokio::test]
async fn what_is_removed_is_offered_no_more() {
    let mut world = World::new(Configuration::default());
    let offer = world.found("gpu", &small()).await;
    world.registry.apply(DirectoryEvent::Removed { name: "gpu".into() }).await;
    assert!(matches!(world.next().await, RegistryEvent::Removed { .. }));
    world.registry.configure(Configuration { plugins: BTreeMap::new(), ..Configuration::default() }).await;
    world.offered("disk", Source::Bundled).await;
    world.is_unavailable("gpu", offer.generation).await;
}

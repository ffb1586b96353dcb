//! Who serves when files come, change and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use apgar_core::time::Time;
use apgar_core::verdict::CheckerKey;
use apgar_engine::{
    Bundled, Digest, DirectoryEvent, PluginConfig, PluginState, Refusal, RefusalReason, Registry, RegistryEvent,
    RegistryOptions, Source,
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::component::{GUEST, component};
use crate::support::{CHECK, DESCRIBE, ENGINE, minimal};

struct World {
    registry: Registry,
    events: mpsc::Receiver<RegistryEvent>,
}

impl World {
    async fn new(bundled: &[&str], plugins: &[(&str, PluginConfig)]) -> Self {
        let (sender, events) = mpsc::channel(64);
        let options = RegistryOptions {
            engine: ENGINE.clone(),
            bundled: bundled.iter().map(|name| Bundled { key: (*name).into(), bytes: GUEST.clone() }).collect(),
            plugins: configs(plugins),
            defaults: PluginConfig::default(),
            clock: Arc::new(|| Time::from_unix_ms(1_000)),
        };
        let registry = Registry::new(options, sender);
        registry.start().await;
        Self { registry, events }
    }

    async fn found(&self, name: &str, bytes: &Arc<[u8]>) {
        let digest = Digest::of(bytes);
        let found = DirectoryEvent::Found { name: name.into(), bytes: bytes.clone(), digest, signature: None };
        self.registry.apply(found).await;
    }

    /// What was told since the last call, in short.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            told.push(match event {
                RegistryEvent::Serves { plugin, replaces } => {
                    let over = if replaces.is_some() { " over another" } else { "" };
                    format!("{} serves from {:?}{over}", plugin.key().as_str(), plugin.source())
                }
                RegistryEvent::Stopped { name } => format!("{} stopped", name.as_str()),
                RegistryEvent::Removed { name } => format!("{} removed", name.as_str()),
                RegistryEvent::Refused { name, error, still_serving, .. } => {
                    let kind = error.to_string().split(':').next().unwrap().to_owned();
                    format!("{} refused, {kind}, still serving: {still_serving}", name.as_str())
                }
                other @ (RegistryEvent::DirectoryLost { .. }
                | RegistryEvent::DirectoryEmptied { .. }
                | RegistryEvent::DirectoryBack) => format!("{other:?}"),
            });
        }
        told
    }

    fn state(&self, name: &str) -> (PluginState, Option<Source>) {
        let statuses = self.registry.statuses();
        let status = statuses.iter().find(|status| status.name.as_str() == name).unwrap();
        (status.state, self.registry.get(&name.into()).map(|plugin| plugin.source()))
    }
}

fn configs(plugins: &[(&str, PluginConfig)]) -> BTreeMap<CheckerKey, PluginConfig> {
    plugins.iter().map(|(name, config)| (CheckerKey::from(*name), config.clone())).collect()
}

fn small() -> Arc<[u8]> {
    component("plugin", &minimal(&format!("{DESCRIBE} {CHECK}")))
}

fn garbage() -> Arc<[u8]> {
    Arc::from(*b"garbage")
}

#[tokio::test]
async fn a_file_overrides_the_bundled_plugin_until_it_goes() {
    let mut world = World::new(&["disk"], &[]).await;
    assert_eq!(world.told(), ["disk serves from Bundled"]);
    world.found("disk", &small()).await;
    assert_eq!(world.told(), ["disk serves from Directory over another"]);
    world.found("disk", &small()).await;
    assert_eq!(world.told(), [""; 0], "the same generation again is nothing");
    world.registry.apply(DirectoryEvent::Removed { name: "disk".into() }).await;
    assert_eq!(world.told(), ["disk serves from Bundled over another"]);
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_why() {
    let mut world = World::new(&[], &[]).await;
    world.found("gpu", &small()).await;
    world.told();
    let before = world.registry.get(&"gpu".into()).unwrap();
    world.found("gpu", &garbage()).await;
    assert_eq!(world.told(), ["gpu refused, not-a-component, still serving: true"]);
    assert!(Arc::ptr_eq(&before, &world.registry.get(&"gpu".into()).unwrap()));
    let status = world.registry.statuses().remove(0);
    assert_eq!(status.state, PluginState::Running);
    let failure = status.failure.unwrap();
    assert!(failure.message().starts_with("gpu.wasm is not WebAssembly"), "{}", failure.message());
    assert_eq!(failure.digest, Some(Digest::of(b"garbage")));
    world.found("gpu", &small()).await;
    assert_eq!(world.told(), [""; 0], "what serves is what is asked for again");
    assert_eq!(world.registry.statuses().remove(0).failure, None);
}

#[tokio::test]
async fn the_api_shows_what_answers_beside_what_was_turned_down() {
    let world = World::new(&["disk"], &[]).await;
    world.found("disk", &garbage()).await;
    let shown = serde_json::to_value(world.registry.statuses()).unwrap();
    let field = |pointer: &str| shown.pointer(pointer).cloned().unwrap_or_else(|| panic!("{pointer}: {shown}"));
    assert_eq!(field("/0/name"), "disk");
    assert_eq!(field("/0/state"), "Running");
    assert_eq!(field("/0/source"), "bundled");
    assert_eq!(field("/0/version"), "1.2.3");
    assert_eq!(field("/0/digest"), Digest::of(&GUEST).to_string());
    assert_eq!(field("/0/refusal/reason"), "not-a-component");
    assert_eq!(field("/0/refusal/digest"), Digest::of(b"garbage").to_string());
    assert_eq!(field("/0/refusal/since"), 1_000);
    assert_eq!(field("/0/marker"), serde_json::Value::Null);
    assert_eq!(field("/0/limits/callDeadlineMs"), 100);
}

#[tokio::test]
async fn a_file_that_could_not_be_read_is_shown_until_it_can() {
    let mut world = World::new(&[], &[]).await;
    world.found("gpu", &small()).await;
    let refusal = Refusal { reason: RefusalReason::Unreadable, message: "gpu.wasm cannot be read".into() };
    world.registry.apply(DirectoryEvent::Refused { name: "gpu".into(), refusal }).await;
    world.told();
    world.registry.configure(BTreeMap::new()).await;
    assert!(world.registry.statuses().remove(0).failure.is_some());
    world.found("gpu", &small()).await;
    assert_eq!(world.registry.statuses().remove(0).failure, None);
    assert_eq!(world.told(), [""; 0]);
}

#[tokio::test]
async fn a_bad_override_leaves_the_bundled_plugin_serving_from_the_first_start() {
    let mut world = World::new(&[], &[]).await;
    world.found("gpu", &garbage()).await;
    assert_eq!(world.told(), ["gpu refused, not-a-component, still serving: false"]);
    assert_eq!(world.state("gpu"), (PluginState::Refused, None));
    world.registry.apply(DirectoryEvent::Removed { name: "gpu".into() }).await;
    assert_eq!(world.told(), ["gpu removed"]);
    assert!(world.registry.statuses().is_empty());

    let (sender, _events) = mpsc::channel(64);
    let options = RegistryOptions {
        engine: ENGINE.clone(),
        bundled: vec![Bundled { key: "disk".into(), bytes: GUEST.clone() }],
        plugins: BTreeMap::new(),
        defaults: PluginConfig::default(),
        clock: Arc::new(|| Time::from_unix_ms(0)),
    };
    let registry = Registry::new(options, sender);
    let digest = Digest::of(&garbage());
    let found = DirectoryEvent::Found { name: "disk".into(), bytes: garbage(), digest, signature: None };
    registry.apply(found).await;
    let status = registry.statuses().remove(0);
    assert_eq!((status.state, status.source), (PluginState::Running, Source::Bundled));
    assert!(status.failure.is_some());
}

#[tokio::test]
async fn what_is_switched_off_stops_and_comes_back() {
    let off = PluginConfig { enabled: false, ..PluginConfig::default() };
    let mut world = World::new(&["disk"], &[("disk", off.clone())]).await;
    assert_eq!(world.told(), [""; 0]);
    assert_eq!(world.state("disk"), (PluginState::Stopped, None));
    world.registry.configure(BTreeMap::new()).await;
    assert_eq!(world.told(), ["disk serves from Bundled"]);
    world.registry.configure(configs(&[("disk", off)])).await;
    assert_eq!(world.told(), ["disk stopped"]);
}

#[tokio::test]
async fn new_settings_are_a_new_generation_and_bad_ones_change_nothing() {
    let mut world = World::new(&["disk"], &[]).await;
    world.told();
    let with = |settings| configs(&[("disk", PluginConfig { settings, ..PluginConfig::default() })]);
    world.registry.configure(with(json!({"a": 1}))).await;
    assert_eq!(world.told(), ["disk serves from Bundled over another"]);
    world.registry.configure(with(json!({"a": 1}))).await;
    assert_eq!(world.told(), [""; 0]);
    world.registry.configure(with(json!("a"))).await;
    assert_eq!(world.told(), ["disk refused, settings-rejected, still serving: true"]);
}

#[tokio::test]
async fn a_death_is_tried_again_only_when_somebody_says_so() {
    let dies =
        minimal(&format!(r#"{DESCRIBE} (func (export "apgar:checker/checker@0.1.0#check") (result i32) unreachable)"#));
    let mut world = World::new(&[], &[]).await;
    world.found("gpu", &component("plugin", &dies)).await;
    let once = ["gpu refused, trap in self-check, still serving: false"];
    assert_eq!(world.told(), once);
    assert_eq!(world.state("gpu"), (PluginState::Crashed, None));
    world.registry.configure(BTreeMap::new()).await;
    assert_eq!(world.told(), [""; 0]);
    world.registry.retry(&"gpu".into()).await;
    assert_eq!(world.told(), once);
    world.registry.retry(&"nobody".into()).await;
    assert_eq!(world.told(), [""; 0]);
}

#[tokio::test]
async fn a_file_that_takes_long_holds_up_no_other() {
    let spins = minimal(&format!(
        r#"{CHECK} (func (export "apgar:checker/checker@0.1.0#describe") (result i32) (loop $spin (br $spin)) unreachable)"#
    ));
    let mut world = World::new(&[], &[]).await;
    let (sender, found) = mpsc::channel(8);
    for (name, bytes) in [("slow", component("plugin", &spins)), ("quick", small()), ("slow", small())] {
        let digest = Digest::of(&bytes);
        sender.send(DirectoryEvent::Found { name: name.into(), bytes, digest, signature: None }).await.unwrap();
    }
    drop(sender);
    world.registry.run(found).await;
    let told = world.told();
    assert_eq!(told[0], "quick serves from Directory");
    assert!(told[1].starts_with("slow refused"), "{told:?}");
    assert_eq!(told[2], "slow serves from Directory", "events of one name keep their order");
}

//! The contract as Rust sees it, and the only file that names its types. Everything a guest asks is answered
//! here from the frozen node, counted first; everything it says is turned into our own types here.

use std::time::Duration;

use apgar_core::node::Node;
use apgar_core::pods::Pod;
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, HasSelf, Instance, Linker, TypedFunc};

use crate::host::{Host, LogLevel};
use crate::http::Fetched;
use crate::limits;
use crate::memory::Pad;

use plugin::apgar::checker::{clock, http, log, memory, node, pods, types};

mod plugin {
    wasmtime::component::bindgen!({
        inline: "package apgar:host;
                 world host {
                     include apgar:checker/plugin@0.1.2;
                     import apgar:checker/clock@0.1.2;
                     import apgar:checker/http@0.1.2;
                     import apgar:checker/memory@0.1.2;
                     import apgar:checker/pods@0.1.2;
                 }",
        path: "../../wit/checker-0.1.2",
        world: "apgar:host/host",
        imports: { "apgar:checker/http": async | trappable, default: trappable },
        exports: { default: async },
    });
}

/// The contract's package.
pub(crate) const PACKAGE: &str = "apgar:checker";
/// The newest version that is served. Another patch version of it is the same contract.
pub(crate) const VERSION: &str = "0.1.2";

/// What `clock` of that version has.
pub(crate) const CLOCK: &[&str] = &["now", "time-remaining"];
/// What `http` of that version has.
pub(crate) const HTTP: &[&str] = &["get"];
/// What `log` of that version has.
pub(crate) const LOG: &[&str] = &["write"];
/// What `memory` of that version has.
pub(crate) const MEMORY: &[&str] = &["load", "store"];
/// What `pods` of that version has.
pub(crate) const PODS: &[&str] = &["list"];
/// What `node` of that version has. A component that asks for more was built for a newer Apgar.
pub(crate) const NODE: &[&str] = &[
    "name",
    "uid",
    "boot-id",
    "system-uuid",
    "provider-id",
    "created",
    "unschedulable",
    "label",
    "annotation",
    "condition",
    "condition-kinds",
    "taint",
    "capacity",
    "allocatable",
];

/// Answers the contract's imports.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    plugin::Host_::add_to_linker::<Host, HasSelf<Host>>(linker, |host| host)
}

/// Where a component keeps what we call, looked up once per load.
pub(crate) struct Exports {
    pub(crate) describe: ComponentExportIndex,
    pub(crate) check: ComponentExportIndex,
    pub(crate) configure: Option<ComponentExportIndex>,
}

/// What a guest answered to `check`, not yet looked at.
pub(crate) enum Said {
    Verdict { healthy: bool, reason: String, threshold: Duration },
    CannotTell(String),
}

/// What a guest says it is, not yet looked at.
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) summary: String,
    pub(crate) reasons: Vec<String>,
    pub(crate) default_threshold: Duration,
}

type Check = TypedFunc<(), (Result<types::Verdict, String>,)>;
type Describe = TypedFunc<(), (types::Description,)>;
type Configure<'a> = TypedFunc<(&'a str,), (Result<(), String>,)>;

/// Calls `check`.
pub(crate) async fn check(store: &mut Store<Host>, instance: &Instance, exports: &Exports) -> wasmtime::Result<Said> {
    let check: Check = instance.get_typed_func(&mut *store, exports.check)?;
    Ok(match check.call_async(store, ()).await? {
        (Ok(types::Verdict { healthy, reason, threshold }),) => {
            Said::Verdict { healthy, reason, threshold: Duration::from_millis(threshold) }
        }
        (Err(text),) => Said::CannotTell(text),
    })
}

/// Calls `describe`.
pub(crate) async fn describe(
    store: &mut Store<Host>,
    instance: &Instance,
    exports: &Exports,
) -> wasmtime::Result<Described> {
    let describe: Describe = instance.get_typed_func(&mut *store, exports.describe)?;
    let (types::Description { name, version, summary, reasons, default_threshold },) =
        describe.call_async(store, ()).await?;
    let default_threshold = Duration::from_millis(default_threshold);
    Ok(Described { name, version, summary, reasons, default_threshold })
}

/// Calls `configure`, where a component has it. The inner error is the guest's proper answer.
pub(crate) async fn configure(
    store: &mut Store<Host>,
    instance: &Instance,
    exports: &Exports,
    settings: &str,
) -> wasmtime::Result<Result<(), String>> {
    let Some(index) = exports.configure else {
        return Ok(Ok(()));
    };
    let configure: Configure<'_> = instance.get_typed_func(&mut *store, index)?;
    let (answer,) = configure.call_async(store, (settings,)).await?;
    Ok(answer)
}

impl types::Host for Host {}

impl node::Host for Host {
    fn name(&mut self) -> wasmtime::Result<String> {
        self.answer(0, |node| node.name.as_str())
    }

    fn uid(&mut self) -> wasmtime::Result<String> {
        self.answer(0, |node| node.uid.as_str())
    }

    fn boot_id(&mut self) -> wasmtime::Result<String> {
        self.answer(0, |node| node.boot_id.as_str())
    }

    fn system_uuid(&mut self) -> wasmtime::Result<String> {
        self.answer(0, |node| &node.system_uuid)
    }

    fn provider_id(&mut self) -> wasmtime::Result<String> {
        self.answer(0, |node| &node.provider_id)
    }

    fn created(&mut self) -> wasmtime::Result<Option<u64>> {
        let node = self.asked(0)?;
        Ok(node.created.and_then(timestamp))
    }

    fn unschedulable(&mut self) -> wasmtime::Result<bool> {
        let node = self.asked(0)?;
        Ok(node.unschedulable)
    }

    fn label(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.answer_maybe(&key, |node| node.label(&key))
    }

    fn annotation(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.answer_maybe(&key, |node| node.annotation(&key))
    }

    fn condition(&mut self, kind: String) -> wasmtime::Result<Option<node::ConditionState>> {
        let node = self.asked(kind.len())?;
        Ok(node.condition(&kind).map(|condition| node::ConditionState {
            status: self.cut(&condition.status),
            reason: self.cut(&condition.reason),
            message: self.cut(&condition.message),
            last_transition: condition.last_transition.and_then(timestamp),
        }))
    }

    fn condition_kinds(&mut self) -> wasmtime::Result<Vec<String>> {
        let node = self.asked(0)?;
        let mut left = limits::ANSWER;
        let kinds: Vec<String> = node
            .conditions
            .iter()
            .map_while(|condition| {
                left = left.checked_sub(condition.kind.len())?;
                Some(condition.kind.to_string())
            })
            .collect();
        if kinds.len() < node.conditions.len() {
            self.answers_cut = self.answers_cut.saturating_add(1);
        }
        Ok(kinds)
    }

    fn taint(&mut self, key: String) -> wasmtime::Result<Option<node::TaintState>> {
        let node = self.asked(key.len())?;
        Ok(node
            .taint(&key)
            .map(|taint| node::TaintState { value: self.cut(&taint.value), effect: self.cut(&taint.effect) }))
    }

    fn capacity(&mut self, resource: String) -> wasmtime::Result<Option<String>> {
        self.answer_maybe(&resource, |node| node.capacity(&resource))
    }

    fn allocatable(&mut self, resource: String) -> wasmtime::Result<Option<String>> {
        self.answer_maybe(&resource, |node| node.allocatable(&resource))
    }
}

impl log::Host for Host {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        if !self.log.has_room() {
            // Dropped and counted, not held against the guest: what bounds a flood is its own time.
            self.log.drop_line();
            return Ok(());
        }
        self.asked(message.len())?;
        let level = match level {
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        self.log.write(level, message);
        Ok(())
    }
}

impl clock::Host for Host {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.asked(0)?;
        Ok(crate::clock::unix_ms())
    }

    fn time_remaining(&mut self) -> wasmtime::Result<u64> {
        self.asked(0)?;
        Ok(u64::try_from(self.time_left().as_millis()).unwrap_or(u64::MAX))
    }
}

impl memory::Host for Host {
    fn load(&mut self) -> wasmtime::Result<Option<Vec<u8>>> {
        self.asked(0)?;
        Ok(self.pad.as_mut().and_then(Pad::load).map(|blob| blob.to_vec()))
    }

    fn store(&mut self, blob: Vec<u8>) -> wasmtime::Result<Result<(), String>> {
        self.asked(blob.len())?;
        // None while the plugin is loaded: the node of the self-check is nobody's, and nothing is kept of it.
        let Some(pad) = &mut self.pad else {
            return Ok(Ok(()));
        };
        let stored = pad.store(blob);
        self.stores_refused = self.stores_refused.saturating_add(u32::from(stored.is_err()));
        Ok(stored.map_err(|why| why.to_string()))
    }
}

impl pods::Host for Host {
    fn list(&mut self) -> wasmtime::Result<Result<Vec<pods::PodState>, String>> {
        self.asked(0)?;
        let Some(pods) = self.pods.clone() else {
            return Ok(Err("the pods of the node are not known".to_owned()));
        };
        if pods.iter().map(size).sum::<usize>() > limits::ANSWER {
            // A part would look like all of them: whoever misses one in it would be wrong.
            self.answers_cut = self.answers_cut.saturating_add(1);
            return Ok(Err(format!("the {} pods of the node are more than an answer holds", pods.len())));
        }
        Ok(Ok(pods.iter().map(pod_state).collect()))
    }
}

/// What a pod takes in the guest's memory.
fn size(pod: &Pod) -> usize {
    let texts = [&pod.namespace, &pod.name, &pod.owner_kind, &pod.owner_name, &pod.phase, &pod.reason];
    POD_STATE + texts.into_iter().map(|text| text.len()).sum::<usize>()
}

/// A `pod-state` without its texts, as the canonical ABI lays it out: six pointers with their lengths, two words, and
/// an optional long.
const POD_STATE: usize = 6 * 8 + 2 * 4 + 16;

fn pod_state(pod: &Pod) -> pods::PodState {
    let Pod { namespace, name, owner_kind, owner_name, phase, ready, restarts, reason, started } = pod;
    let text = |text: &str| text.to_owned();
    pods::PodState {
        namespace: text(namespace),
        name: text(name),
        owner_kind: text(owner_kind),
        owner_name: text(owner_name),
        phase: text(phase),
        ready: *ready,
        restarts: *restarts,
        reason: text(reason),
        started: started.and_then(timestamp),
    }
}

impl http::Host for Host {
    async fn get(
        &mut self,
        url: String,
        headers: Vec<http::Header>,
    ) -> wasmtime::Result<Result<http::Response, String>> {
        let bytes = headers.iter().map(|header| header.name.len() + header.value.len()).sum::<usize>();
        self.asked(url.len().saturating_add(bytes))?;
        let headers = headers.into_iter().map(|http::Header { name, value }| (name, value)).collect();
        Ok(match self.fetch(url, headers).await {
            Ok(Fetched { status, body }) => Ok(http::Response { status, body }),
            Err(error) => Err(error.to_string()),
        })
    }
}

impl Host {
    fn answer(&mut self, asked: usize, find: impl FnOnce(&Node) -> &str) -> wasmtime::Result<String> {
        let node = self.asked(asked)?;
        Ok(self.cut(find(&node)))
    }

    fn answer_maybe(
        &mut self,
        key: &str,
        find: impl FnOnce(&Node) -> Option<&str>,
    ) -> wasmtime::Result<Option<String>> {
        let node = self.asked(key.len())?;
        Ok(find(&node).map(|text| self.cut(text)))
    }

    fn cut(&mut self, text: &str) -> String {
        if text.len() <= limits::ANSWER {
            return text.to_owned();
        }
        self.answers_cut = self.answers_cut.saturating_add(1);
        text.get(..text.floor_char_boundary(limits::ANSWER)).unwrap_or_default().to_owned()
    }
}

fn timestamp(time: apgar_core::time::Time) -> Option<u64> {
    u64::try_from(time.unix_ms()).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_lists_of_functions_are_those_of_the_contract() {
        let mut contract = wit_parser::Resolve::default();
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/checker-0.1.2");
        let (package, _) = contract.push_path(dir).unwrap();
        let package = &contract.packages[package];
        assert_eq!(package.name.to_string(), format!("{PACKAGE}@{VERSION}"));
        for (interface, known) in
            [("clock", CLOCK), ("http", HTTP), ("log", LOG), ("memory", MEMORY), ("node", NODE), ("pods", PODS)]
        {
            let interface = &contract.interfaces[package.interfaces[interface]];
            assert!(interface.functions.keys().eq(known), "{:?}", interface.functions.keys());
        }
    }
}

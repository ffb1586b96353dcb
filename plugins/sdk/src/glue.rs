//! Between the generated bindings and the kit's own types. Only this module knows the bindings.

use crate::node::{Condition, Node, Taint, Timestamp};

pub use configurable::exports::apgar::checker::settings::Guest as Configure;
pub use plugin::apgar::checker::log;
use plugin::apgar::checker::node as import;
pub use plugin::apgar::checker::types::{Description, Verdict};
pub use plugin::exports::apgar::checker::checker::Guest as Checker;

/// The world of every checker.
pub mod plugin {
    wit_bindgen::generate!({
        path: "../../wit/checker-0.1.0",
        world: "plugin",
        pub_export_macro: true,
        export_macro_name: "export_plugin",
        default_bindings_module: "apgar_checker::glue::plugin",
    });
}

/// What `configurable-plugin` adds to `plugin`, alone: its description of the component is linked only into
/// a checker that takes settings, so that no other is asked for the export.
pub mod configurable {
    wit_bindgen::generate!({
        inline: "package apgar:kit;
                 world settings { export apgar:checker/settings@0.1.0; }",
        path: "../../wit/checker-0.1.0",
        world: "settings",
        pub_export_macro: true,
        export_macro_name: "export_settings",
        default_bindings_module: "apgar_checker::glue::configurable",
    });
}

/// What is granted by name, alone, for the same reason. Of its three imports a component has those that its code
/// calls.
mod granted {
    wit_bindgen::generate!({
        inline: "package apgar:kit;
                 world granted {
                     import apgar:checker/clock@0.1.1;
                     import apgar:checker/http@0.1.1;
                     import apgar:checker/memory@0.1.1;
                 }",
        path: "../../wit/checker-0.1.1",
        world: "granted",
        generate_all,
    });
}

/// The same, of what came with the next version: an import of its own, so that whoever does not read pods still loads
/// where they are not served.
mod granted_pods {
    wit_bindgen::generate!({
        inline: "package apgar:kit;
                 world granted-pods { import apgar:checker/pods@0.1.2; }",
        path: "../../wit/checker-0.1.2",
        world: "granted-pods",
        generate_all,
    });
}

/// What is granted by name, in the kit's own types.
pub(crate) mod host {
    use std::time::Duration;

    use super::granted::apgar::checker::{clock, http, memory};
    use super::granted_pods::apgar::checker::pods;
    use crate::http::Response;
    use crate::pods::Pod;

    pub(crate) use clock::now;
    pub(crate) use memory::{load, store};

    pub(crate) fn time_remaining() -> Duration {
        Duration::from_millis(clock::time_remaining())
    }

    pub(crate) fn get(url: &str, headers: &[(&str, &str)]) -> Result<Response, String> {
        let header = |&(name, value): &(&str, &str)| http::Header { name: name.to_owned(), value: value.to_owned() };
        let http::Response { status, body } = http::get(url, &headers.iter().map(header).collect::<Vec<_>>())?;
        Ok(Response { status, body })
    }

    pub(crate) fn pods() -> Result<Vec<Pod>, String> {
        let pod = |state| {
            let pods::PodState { namespace, name, owner_kind, owner_name, phase, ready, restarts, reason, started } =
                state;
            Pod { namespace, name, owner_kind, owner_name, phase, ready, restarts, reason, started }
        };
        Ok(pods::list()?.into_iter().map(pod).collect())
    }
}

/// The node the host is asking about.
struct Ambient;

impl Node for Ambient {
    fn name(&self) -> String {
        import::name()
    }

    fn uid(&self) -> String {
        import::uid()
    }

    fn boot_id(&self) -> String {
        import::boot_id()
    }

    fn system_uuid(&self) -> String {
        import::system_uuid()
    }

    fn provider_id(&self) -> String {
        import::provider_id()
    }

    fn created(&self) -> Option<Timestamp> {
        import::created()
    }

    fn unschedulable(&self) -> bool {
        import::unschedulable()
    }

    fn label(&self, key: &str) -> Option<String> {
        import::label(key)
    }

    fn annotation(&self, key: &str) -> Option<String> {
        import::annotation(key)
    }

    fn condition(&self, kind: &str) -> Option<Condition> {
        let import::ConditionState { status, reason, message, last_transition } = import::condition(kind)?;
        Some(Condition { status, reason, message, last_transition })
    }

    fn condition_kinds(&self) -> Vec<String> {
        import::condition_kinds()
    }

    fn taint(&self, key: &str) -> Option<Taint> {
        let import::TaintState { value, effect } = import::taint(key)?;
        Some(Taint { value, effect })
    }

    fn capacity(&self, resource: &str) -> Option<String> {
        import::capacity(resource)
    }

    fn allocatable(&self, resource: &str) -> Option<String> {
        import::allocatable(resource)
    }
}

/// The export `describe`.
pub fn describe<C: crate::Checker>() -> Description {
    let crate::Description { name, version, summary, reasons, default_threshold } = C::DESCRIPTION;
    Description {
        name: name.into(),
        version: version.into(),
        summary: summary.into(),
        reasons: reasons.iter().map(|&reason| reason.into()).collect(),
        default_threshold: milliseconds(default_threshold),
    }
}

/// The export `check`.
pub fn check<C: crate::Checker>(settings: &C::Settings) -> Result<Verdict, String> {
    let crate::Verdict { healthy, reason, threshold } = C::judge(&Ambient, settings)?;
    let threshold = milliseconds(threshold.unwrap_or(C::DESCRIPTION.default_threshold));
    Ok(Verdict { healthy, reason, threshold })
}

/// What is too long for the contract is far beyond what the host allows anyway.
fn milliseconds(duration: std::time::Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

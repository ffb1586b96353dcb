//! The variables with rules of their own: those of the agent that Apgar replaces (`recovery` 6.2).

use super::error::Source;
use super::keys::{MONITOR_ONLY, POOL_IDS};
use super::kind::{Kind, each_once};
use super::resolve::{Found, Resolver};
use super::selector::is_label_value;

const OLD_POOL_ID: &str = "CIVO_NODE_POOL_ID";

/// Variables that no longer mean anything, and what replaces them.
const RETIRED: [(&str, &str); 2] = [
    ("CIVO_NODE_DESIRED_GPU_COUNT", "the node's label nvidia.com/gpu.count"),
    ("CIVO_NODE_REBOOT_TIME_WINDOW_MINUTES", "CIVO_NODE_REBOOT_WAIT_MINUTES"),
];

/// Names the successor of each retired variable that is set.
pub(super) fn warn_of_retired(resolver: &mut Resolver<'_>) {
    for (name, successor) in RETIRED {
        if resolver.variable(name).is_some() {
            resolver.warn(name, format!("is no longer read; its successor is {successor}"));
        }
    }
}

/// Monitor-only as its variable has it. An operator who set it to something meant something: whatever cannot be
/// read forces the harmless answer, also against the file.
pub(super) fn monitor_only(resolver: &mut Resolver<'_>) -> Option<Found<bool>> {
    let name = MONITOR_ONLY.env?;
    let text = resolver.variable(name)?;
    let value = MONITOR_ONLY.kind.parse(text).unwrap_or_else(|| {
        let accepted = MONITOR_ONLY.kind.accepted_as_text();
        resolver.warn(name, format!("{text:?} forces monitor-only on; accepted: {accepted}"));
        true
    });
    Some(Found { value, source: Source::Env(name) })
}

/// The pools of the environment. A filter that was meant and cannot be read must not widen to all nodes: it
/// stops the start.
pub(super) fn pool_ids(resolver: &mut Resolver<'_>) -> Option<Found<Vec<String>>> {
    let plural = POOL_IDS.env?;
    let (name, items) = match (resolver.variable(plural), resolver.variable(OLD_POOL_ID)) {
        (Some(list), old) => {
            if old.is_some() {
                resolver.warn(OLD_POOL_ID, format!("is ignored, because {plural} is set"));
            }
            (plural, list.split(',').map(str::trim).filter(|item| !item.is_empty()).collect())
        }
        (None, Some(one)) => {
            resolver.warn(OLD_POOL_ID, format!("is used; its successor is {plural}"));
            (OLD_POOL_ID, vec![one])
        }
        (None, None) => return None,
    };
    let (valid, invalid): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| is_label_value(item));
    for item in invalid {
        resolver.warn(name, format!("{item:?} is ignored; accepted: {}", POOL_IDS.kind.accepted_as_text()));
    }
    let source = Source::Env(name);
    if valid.is_empty() {
        let message = format!("names no valid pool; accepted: {}", POOL_IDS.kind.accepted_as_text());
        resolver.refuse(source.clone(), message);
    }
    Some(Found { value: each_once(valid), source })
}

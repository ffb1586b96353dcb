//! Settings out of single values: what belongs together, and what contradicts what.

use std::collections::BTreeMap;
use std::time::Duration;

use apgar_core::decision::Mode;
use apgar_core::policy::Policy;
use apgar_core::verdict::CheckerKey;
use apgar_engine::{Allowed, Limits, Profile};

use super::document::Document;
use super::environment;
use super::error::Source;
use super::keys::{self, Key};
use super::kind::{Kind, Span};
use super::resolve::{self, Found, Resolver};
use super::settings::{
    Api, Checker, Checkers, Civo, Events, Executor, ExecutorKind, Log, Metrics, Nodes, Restart, Settings, Store,
};

/// Asks for every setting, in the order of the table.
pub(super) fn settings(resolver: &mut Resolver<'_>) -> Settings {
    environment::warn_of_retired(resolver);
    let kubeconfig = resolver.get(&keys::KUBE).value;
    let mut policy = policy(resolver);
    let executor = executor(resolver, policy.mode);
    let nodes = nodes(resolver);
    let metrics = Metrics {
        namespace: resolver.get(&keys::METRICS_NAMESPACE).value,
        address: resolver.get(&keys::METRICS_ADDRESS).value,
        port: resolver.get(&keys::METRICS_PORT).value,
    };
    let api = Api { listen: resolver.get(&keys::API_LISTEN).value };
    let events = Events { ring: resolver.get(&keys::EVENTS_RING).value };
    let store = Store { kind: resolver.get(&keys::STORE_KIND).value, dir: resolver.get(&keys::STORE_DIR).value };
    let log = Log { format: resolver.get(&keys::LOG_FORMAT).value, level: resolver.get(&keys::LOG_LEVEL).value };
    let checkers = checkers(resolver);
    let thresholds = checkers.named.iter().filter_map(|(name, checker)| Some((name.as_str(), checker.threshold?)));
    policy.default_threshold = checkers.defaults.threshold;
    policy.thresholds = thresholds.map(|(name, threshold)| (CheckerKey::from(name), threshold)).collect();
    Settings {
        policy,
        executor,
        nodes,
        metrics,
        api,
        events,
        checkers,
        store,
        log,
        kubeconfig,
        shown: resolver.shown.clone(),
    }
}

fn policy(resolver: &mut Resolver<'_>) -> Policy {
    let tick = resolver.get(&keys::TICK).value;
    let monitor_only = environment::monitor_only(resolver);
    let monitor_only = resolver.settle(&keys::MONITOR_ONLY, monitor_only).value;
    let reboot_wait = resolver.get(&keys::REBOOT_WAIT).value;
    let gpu_reboot_wait = resolver.get(&keys::GPU_REBOOT_WAIT).value;
    let max_reboots = resolver.get(&keys::MAX_REBOOTS).value;
    let max_failed_calls = resolver.get(&keys::MAX_FAILED_CALLS).value;
    let backoff_base = resolver.get(&keys::BACKOFF_BASE);
    let backoff_cap = resolver.get(&keys::BACKOFF_CAP);
    at_most(resolver, (&keys::BACKOFF_BASE, &backoff_base), (&keys::BACKOFF_CAP, &backoff_cap));
    Policy {
        mode: if monitor_only { Mode::Monitor } else { Mode::Active },
        tick,
        reboot_wait,
        gpu_reboot_wait,
        max_reboots,
        max_failed_calls,
        backoff_base: backoff_base.value,
        backoff_cap: backoff_cap.value,
        stability_window: resolver.get(&keys::STABILITY_WINDOW).value,
        unknown_limit: resolver.get(&keys::UNKNOWN_LIMIT).value,
        compat_shared_timer: resolver.get(&keys::COMPAT_SHARED_TIMER).value,
        return_window: resolver.get(&keys::RETURN_WINDOW).value,
        thresholds: BTreeMap::new(),
        default_threshold: None,
        ladder: Vec::new(),
        concurrent: resolver.get(&keys::CONCURRENT).value,
    }
}

/// The executor and its account (`recovery` 4.8).
fn executor(resolver: &mut Resolver<'_>, mode: Mode) -> Executor {
    let configured = resolver.ask(&keys::EXECUTOR, None);
    let first_row = resolver.shown.len();
    let api_key = resolver.get(&keys::CIVO_API_KEY);
    let api_url = resolver.get(&keys::CIVO_API_URL);
    let cluster_id = resolver.get(&keys::CIVO_CLUSTER_ID);
    let region = resolver.get(&keys::CIVO_REGION).value;

    let account = [
        (keys::CIVO_API_KEY.env, api_key.value.is_empty(), &api_key.source),
        (keys::CIVO_API_URL.env, api_url.value.is_empty(), &api_url.source),
        (keys::CIVO_CLUSTER_ID.env, cluster_id.value.is_empty(), &cluster_id.source),
    ];
    let given = account.iter().find(|(_, missing, _)| !missing).map(|(_, _, source)| (*source).clone());
    let kind = match (configured.value, given) {
        (Some(kind), _) => Found { value: kind, source: configured.source },
        (None, Some(source)) => Found { value: ExecutorKind::Civo, source },
        (None, None) => Found { value: ExecutorKind::Observe, source: Source::Default },
    };
    let account_rows = resolver.shown.split_off(first_row);
    resolver.show(
        keys::EXECUTOR.path.to_owned(),
        &keys::EXECUTOR,
        &Found { value: Some(kind.value), source: kind.source.clone() },
    );
    resolver.shown.extend(account_rows);

    let missing: Vec<_> = account.iter().filter(|(_, missing, _)| *missing).filter_map(|(name, _, _)| *name).collect();
    let missing = missing.join(", ");
    match (mode, kind.value) {
        (Mode::Active, ExecutorKind::Observe) => resolver.refuse(
            kind.source,
            "active mode needs an executor that can act; accepted: executor.kind = \"civo\", or monitor-only"
                .to_owned(),
        ),
        (Mode::Active, ExecutorKind::Civo) if !missing.is_empty() => resolver.refuse(
            Source::Default,
            format!("active mode with the executor civo needs variables that are not set: {missing}"),
        ),
        (Mode::Monitor, ExecutorKind::Civo) if !missing.is_empty() => resolver.warn(
            keys::EXECUTOR.path,
            format!("civo could not act in active mode; variables that are not set: {missing}"),
        ),
        (Mode::Active | Mode::Monitor, ExecutorKind::Civo | ExecutorKind::Observe) => {}
    }
    Executor {
        kind: kind.value,
        civo: Civo { api_key: api_key.value, api_url: api_url.value, cluster_id: cluster_id.value, region },
    }
}

fn nodes(resolver: &mut Resolver<'_>) -> Nodes {
    let pool_ids = environment::pool_ids(resolver);
    Nodes { pool_ids: resolver.settle(&keys::POOL_IDS, pool_ids).value, selector: resolver.get(&keys::SELECTOR).value }
}

fn checkers(resolver: &mut Resolver<'_>) -> Checkers {
    let dir = resolver.get(&keys::CHECKERS_DIR);
    let names = resolver.document.as_ref().map(Document::checkers).unwrap_or_default();
    Checkers {
        dir_given: dir.source != Source::Default,
        dir: dir.value,
        debounce: resolver.get(&keys::DEBOUNCE).value,
        stable_gap: resolver.get(&keys::STABLE_GAP).value,
        poll_interval: resolver.get(&keys::POLL_INTERVAL).value,
        max: resolver.get(&keys::MAX_PLUGINS).value,
        trusted_keys: resolver.get(&keys::TRUSTED_KEYS).value,
        drain_timeout: resolver.get(&keys::DRAIN_TIMEOUT).value,
        defaults: checker(resolver, None),
        named: names.into_iter().map(|name| (name.clone(), checker(resolver, Some(&name)))).collect(),
    }
}

fn checker(resolver: &mut Resolver<'_>, name: Option<&str>) -> Checker {
    let mut of = resolve::Checker { name, profile: Profile::Native };
    let enabled = resolver.of_checker(&keys::ENABLED, of).value;
    let required = resolver.of_checker(&keys::REQUIRED, of).value;
    let threshold = resolver.of_checker(&keys::THRESHOLD, of).value;
    of.profile = resolver.of_checker(&keys::PROFILE, of).value;
    let grants = resolver.of_checker(&keys::GRANTS, of).value;
    let http_allow = resolver.of_checker(&keys::HTTP_ALLOW, of).value;
    Checker {
        enabled,
        required,
        threshold,
        profile: of.profile,
        grants,
        restart: restart(resolver, of),
        settings: name.map(|_| resolver.of_checker(&keys::SETTINGS, of).value).unwrap_or_default(),
        limits: limits(resolver, of, http_allow),
    }
}

fn restart(resolver: &mut Resolver<'_>, of: resolve::Checker<'_>) -> Restart {
    let policy = resolver.of_checker(&keys::RESTART_POLICY, of).value;
    let max_restarts = resolver.of_checker(&keys::MAX_RESTARTS, of).value;
    let base = resolver.of_checker(&keys::RESTART_BASE, of);
    let cap = resolver.of_checker(&keys::RESTART_CAP, of);
    at_most(resolver, (&keys::RESTART_BASE, &base), (&keys::RESTART_CAP, &cap));
    Restart {
        policy,
        max_restarts,
        backoff_base: base.value,
        backoff_cap: cap.value,
        decay_after: resolver.of_checker(&keys::DECAY_AFTER, of).value,
        slow_calls: resolver.of_checker(&keys::SLOW_CALLS, of).value,
    }
}

fn limits(resolver: &mut Resolver<'_>, of: resolve::Checker<'_>, http_allow: Vec<Allowed>) -> Limits {
    let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let call_deadline = resolver.of_checker(&keys::CALL_DEADLINE, of);
    let mut soft_limit = resolver.ask_checker(&keys::SOFT_LIMIT, of);
    if soft_limit.source == Source::Default {
        soft_limit.value = soft_limit.value.min(call_deadline.value);
    }
    resolver.show(of.path(keys::SOFT_LIMIT.path), &keys::SOFT_LIMIT, &soft_limit);
    at_most(resolver, (&keys::SOFT_LIMIT, &soft_limit), (&keys::CALL_DEADLINE, &call_deadline));
    Limits {
        call_deadline: call_deadline.value,
        soft_limit: soft_limit.value,
        wall_limit: resolver.of_checker(&keys::WALL_LIMIT, of).value,
        startup_deadline: resolver.of_checker(&keys::STARTUP_DEADLINE, of).value,
        compile_deadline: resolver.of_checker(&keys::COMPILE_DEADLINE, of).value,
        memory: resolver.of_checker(&keys::MEMORY, of).value,
        file_size: resolver.of_checker(&keys::FILE_SIZE, of).value,
        reason: size(resolver.of_checker(&keys::REASON, of).value),
        log_lines: resolver.of_checker(&keys::LOG_LINES, of).value,
        log_line: size(resolver.of_checker(&keys::LOG_LINE, of).value),
        http_calls: resolver.of_checker(&keys::HTTP_CALLS, of).value,
        http_timeout: resolver.of_checker(&keys::HTTP_TIMEOUT, of).value,
        http_allow,
        scratchpad: resolver.of_checker(&keys::SCRATCHPAD, of).value,
        ..Limits::of(of.profile)
    }
}

/// Refuses a duration above the one that bounds it, at the place of the one that somebody set.
fn at_most(
    resolver: &mut Resolver<'_>,
    (low_key, low): (&Key<Span>, &Found<Duration>),
    (high_key, high): (&Key<Span>, &Found<Duration>),
) {
    if low.value <= high.value {
        return;
    }
    let place = if low.source == Source::Default { &high.source } else { &low.source };
    let message = format!(
        "{} is {}; accepted: at most {}, which is {}",
        low_key.path,
        low_key.kind.show(&low.value),
        high_key.path,
        high_key.kind.show(&high.value)
    );
    resolver.refuse(place.clone(), message);
}

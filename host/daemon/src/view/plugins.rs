//! The plugins, as the API has them (`supervision` 6.3).

use apgar_core::node::NodeName;
use apgar_core::supervision::{Pair, Record, Run, Source, Track};
use apgar_core::time::Time;
use apgar_core::verdict::CheckerKey;
use serde_json::{Value, json};

use super::{moments, rfc3339};
use crate::supervise::Plugins;

/// All plugins and the directory they come from.
#[must_use]
pub fn plugins(plugins: &Plugins, now: Time) -> Value {
    let known = plugins.supervisor().plugins();
    let items: Vec<Value> = known.map(|(name, record)| plugin(plugins, name, record, now)).collect();
    json!({ "items": items, "directory": plugins.directory.status() })
}

fn plugin(plugins: &Plugins, name: &CheckerKey, record: &Record, now: Time) -> Value {
    let supervisor = plugins.supervisor();
    let shown = shown(record);
    let alive = shown.and_then(|track| plugins.alive(name, track.start));
    let config = plugins.registry().config(name);
    let usage = plugins.usage(name);
    let mut value = json!({
        "name": name,
        "source": shown.map_or(Source::Directory, |track| track.source),
        "state": supervisor.state(name, now),
        "since": plugins.since(name).map(rfc3339),
        "required": plugins.wishes.required.contains(name),
        // What a plugin says of itself is known while it is alive.
        "version": alive.map(|plugin| plugin.description().version.as_str()),
        "generation": shown.map(|track| track.generation.to_string()),
        "digest": shown.and_then(|track| track.generation.bytes),
        "start": shown.map(|track| track.start).filter(|start| *start > 0),
        "probationUntil": supervisor.probation_until(name).map(rfc3339),
        "refusal": refusal(record),
        "wanted": record.wanted.as_ref().map(|track| summary(record, track)),
        "superseded": superseded(plugins, name, record),
        "marker": marker(plugins, name),
        "ledger": shown.and_then(|track| record.ledger.get(&track.generation)).map(|entry| json!({
            "count": entry.count, "lastCrashAt": rfc3339(entry.last.at),
        })),
        "quarantined": record.quarantined(now).map(quarantined).collect::<Vec<_>>(),
        "profile": config.profile,
        "grants": config.grants,
        "limits": alive.map_or(&config.limits, |plugin| plugin.limits()),
        "calls": usage.calls,
        "guestMs": usage.guest_time.as_secs_f64() * 1000.0,
        "peakMemoryBytes": usage.peak_memory,
        "judging": alive.map(|plugin| plugin.judging()).unwrap_or_default(),
    });
    if let (Some(fields), Some(plugin)) = (value.as_object_mut(), alive) {
        let (described, compiled) = (plugin.description(), plugin.compiled());
        let more = json!({
            "description": described,
            "size": plugin.size(),
            "compiledSize": compiled.size,
            "compileMs": u64::try_from(compiled.took.as_millis()).unwrap_or(u64::MAX),
            "cached": compiled.cached,
            "imports": plugin.imports(),
            "pure": plugin.pure(),
            "takesSettings": plugin.takes_settings(),
        });
        if let Value::Object(more) = more {
            fields.extend(more);
        }
    }
    moments(&mut value);
    value
}

/// The track that a row is about: who answers, else whom the marker is of, else what there is.
fn shown(record: &Record) -> Option<&Track> {
    let marked = || record.marker().map(|(track, _)| track);
    record.answering().or_else(marked).or_else(|| record.tracks().next())
}

fn summary(record: &Record, track: &Track) -> Value {
    json!({
        "generation": track.generation.to_string(), "start": track.start, "state": record.track_state(track),
    })
}

fn refusal(record: &Record) -> Option<Value> {
    let (track, refused) = record.refusal()?;
    Some(json!({
        "reason": refused.reason, "message": refused.message, "digest": track.generation.bytes,
        "generation": track.generation.to_string(), "since": rfc3339(refused.since),
    }))
}

/// Generations that answer no longer: the fallback, and those whose last checks are ending.
fn superseded(plugins: &Plugins, name: &CheckerKey, record: &Record) -> Vec<Value> {
    let answers = record.answering().map(|track| track.start);
    let fallback = record.good.as_ref().filter(|good| matches!(good.run, Run::Serving { .. }));
    let fallback = fallback.filter(|good| Some(good.start) != answers);
    let mut rows: Vec<Value> = fallback
        .map(|good| json!({"generation": good.generation.to_string(), "start": good.start, "state": "fallback"}))
        .into_iter()
        .collect();
    let ending = plugins.ending(name).filter(|plugin| !record.serves(plugin.start()));
    rows.extend(ending.map(
        |plugin| json!({"generation": plugin.generation().to_string(), "start": plugin.start(), "state": "ending"}),
    ));
    rows
}

fn marker(plugins: &Plugins, name: &CheckerKey) -> Option<Value> {
    let (track, entry) = plugins.supervisor().marker(name)?;
    let restart = plugins.supervisor().policy(name);
    let last = &entry.last;
    Some(json!({
        "cause": last.cause, "stage": last.stage, "detail": last.detail,
        "generation": track.generation.to_string(), "start": last.start, "node": last.node,
        "at": rfc3339(last.at), "count": entry.count, "max": restart.max_restarts,
        "nextAttempt": entry.next.map(rfc3339), "saturated": entry.next.is_none(),
    }))
}

fn quarantined((node, pair): (&NodeName, &Pair)) -> Value {
    json!({ "node": node, "cause": pair.last.cause, "deaths": pair.deaths, "until": pair.until.map(rfc3339) })
}

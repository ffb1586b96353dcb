//! From bytes to a plugin that serves: admission, compiling, linking, and a start that ends with the self-check.
//! Nothing that serves is touched, whatever happens here.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use apgar_core::node::{Condition, Node};
use tokio::sync::Semaphore;
use wasmtime::component::Component;

use crate::admission::{self, Admitted};
use crate::allocator;
use crate::bindings::{self, Described, Exports};
use crate::cache::Miss;
use crate::check::{self, Broken, Fault};
use crate::clock;
use crate::compile;
use crate::death::{Cause, Death, LoadError, Refusal, RefusalReason, Stage};
use crate::drain::Drains;
use crate::engine::{Candidate, Inner};
use crate::host::Meter;
use crate::http::Asker;
use crate::limits;
use crate::meter::{Allowance, Watch};
use crate::plugin::{Capability, Compiled, Description, Digest, Judging, Plugin, Reasons, canonical, generation_of};
use crate::text;

/// The node of the self-check.
const SELF_CHECK: &str = "apgar-self-check";

/// A component from this size on has an interpreter in it; what a smaller one leaves in the allocator is not worth
/// looking for.
const LARGE: usize = 4 << 20;

/// Brings `candidate` to life under this number. Runs on the guests' runtime.
pub(crate) async fn load(inner: &Arc<Inner>, candidate: Candidate, number: u64) -> Result<Arc<Plugin>, LoadError> {
    let is_large = candidate.bytes.len() >= LARGE;
    let loaded = bring_to_life(inner, candidate, number).await;
    if is_large {
        // Whatever becomes of it, what was loaded is loaded.
        _ = apart(inner, |_| allocator::give_back_what_is_free()).await;
    }
    loaded
}

async fn bring_to_life(inner: &Arc<Inner>, candidate: Candidate, number: u64) -> Result<Arc<Plugin>, LoadError> {
    let (candidate, admitted, digest) = apart(inner, move |_| {
        let name = candidate.key.as_str();
        sound(&candidate)?;
        let admitted = admission::admit(name, &candidate.bytes, &candidate.grants)?;
        let digest = Digest::of(&candidate.bytes);
        Ok::<_, LoadError>((candidate, admitted, digest))
    })
    .await??;
    fits(&candidate, &admitted)?;
    let (component, compiled) = native(inner, &candidate, digest).await?;
    let mut plugin = link(inner, candidate, admitted, digest, &component, compiled)?;
    plugin.start = number;
    start(inner, plugin).await
}

/// What the caller of the engine has to get right, told as a refusal all the same.
pub(crate) fn sound(candidate: &Candidate) -> Result<(), Refusal> {
    let name = candidate.key.as_str();
    let (size, most) = (candidate.bytes.len() as u64, candidate.limits.file_size);
    if size > most {
        return Err(too_large(name, size, most));
    }
    if !candidate.settings.is_object() {
        let message = format!("[checker.{name}] settings must be a table, as in settings = {{ key = \"value\" }}");
        return Err(Refusal::new(RefusalReason::SettingsRejected, message));
    }
    Ok(())
}

/// The refusal of a file beyond its limit, all in bytes.
#[must_use]
pub fn too_large(name: &str, size: u64, most: u64) -> Refusal {
    Refusal::new(
        RefusalReason::TooLarge,
        format!(
            "{name}.wasm has {size} bytes, the limit is {most}: a checker in Rust or C has a thousandth, one with an \
         interpreter up to 20 MB; limits.file_size may be up to {}",
            limits::FILE_SIZE
        ),
    )
}

fn fits(candidate: &Candidate, admitted: &Admitted) -> Result<(), Death> {
    let (wanted, limit) = (admitted.declared_memory, candidate.limits.memory);
    if wanted > limit {
        // Wasmtime would say so too, but for a memory beyond the pool's slots in words that name no limit of ours.
        let detail = format!("a memory of {wanted} bytes is declared, the limit is {limit}");
        return Err(Death::new(Cause::Memory, Stage::Instantiate, detail));
    }
    Ok(())
}

/// Runs what takes the CPU for long on a thread where it may.
async fn apart<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Inner) -> T + Send + 'static,
) -> Result<T, LoadError> {
    let inner = inner.clone();
    let done = tokio::task::spawn_blocking(move || work(&inner)).await;
    done.map_err(|error| LoadError::Engine(error.to_string()))
}

async fn native(inner: &Arc<Inner>, candidate: &Candidate, digest: Digest) -> Result<(Component, Compiled), LoadError> {
    let key = inner.cache.key(digest);
    // Under the lock the cache is looked at again by whoever waited for the same component.
    let one_at_a_time = inner.compiling.clone().lock_owned().await;
    let wanted = key.clone();
    if let Some((component, size)) = apart(inner, move |inner| inner.cache.find(&inner.wasmtime, &wanted)).await? {
        return Ok((component, Compiled { size, took: Duration::ZERO, cached: true }));
    }
    let fault = |what: std::io::Error| LoadError::Engine(format!("no file to compile into: {what}"));
    let draft = inner.cache.draft(&key).map_err(fault)?;
    let out = draft.file().map_err(fault)?;
    let deadline = candidate.limits.compile_deadline;
    let (compiled, took) = compile::timed(compile::compile(inner, &candidate.bytes, deadline, out)).await;
    compiled.map_err(|detail| Death::new(Cause::Compile, Stage::Load, detail))?;
    let finish = move |inner: &Inner| {
        // Also if nobody waits for it any more: a draft of the same key may not be begun before it has its name.
        let _one_at_a_time = one_at_a_time;
        draft.finish(&inner.wasmtime)
    };
    let (component, size) = apart(inner, finish).await?.map_err(|miss| match miss {
        Miss::Absent | Miss::Odd(_) => Death::new(Cause::Load, Stage::Load, miss.to_string()),
        Miss::Unfit(why) => Death::new(Cause::Link, Stage::Instantiate, why),
    })?;
    Ok((component, Compiled { size, took, cached: false }))
}

fn link(
    inner: &Inner,
    candidate: Candidate,
    admitted: Admitted,
    digest: Digest,
    component: &Component,
    compiled: Compiled,
) -> Result<Plugin, LoadError> {
    let cannot = |error: wasmtime::Error| Death::new(Cause::Link, Stage::Instantiate, format!("{error:#}"));
    let linker = if admitted.wasi { &inner.wasi_linker } else { &inner.linker };
    let pre = linker.instantiate_pre(component).map_err(cannot)?;
    let find = |interface: &str, function: &str| {
        let instance = component.get_export_index(None, interface)?;
        component.get_export_index(Some(&instance), function)
    };
    let (Some(describe), Some(check)) = (find(&admitted.checker, "describe"), find(&admitted.checker, "check")) else {
        return Err(LoadError::Engine("an admitted export is gone after compiling".to_owned()));
    };
    let configure = admitted.settings.and_then(|settings| find(&settings, "configure"));
    let Candidate { key, bytes, settings, grants, limits, source } = candidate;
    let size = bytes.len() as u64;
    let generation = generation_of(Some(digest), &settings, &limits, &grants);
    let uses = |capability| admitted.uses.contains(&capability);
    let asker = uses(Capability::Http).then(|| Asker::new(&inner.http, key.as_str(), &limits.http_allow));
    let asker = asker.transpose().map_err(|error| LoadError::Engine(error.to_string()))?.map(Arc::new);
    let at_once = if asker.is_some() { limits::HTTP_PERMITS } else { limits::PLUGIN_PERMITS };
    let memory = uses(Capability::Memory).then(|| inner.memories.of(&key));
    Ok(Plugin {
        key,
        start: 0,
        source,
        digest,
        generation,
        description: Description {
            name: String::new(),
            version: String::new(),
            summary: String::new(),
            reasons: Vec::new(),
            default_threshold: Duration::ZERO,
        },
        imports: admitted.imports,
        inputs: admitted.inputs,
        wasi: admitted.wasi,
        grants,
        limits,
        settings: canonical(&settings).into(),
        size,
        compiled,
        pre,
        exports: Exports { describe, check, configure },
        permits: Semaphore::new(at_once),
        drains: Drains::default(),
        at_once,
        memory,
        asker,
        reasons: Reasons::default(),
        judging: Judging::default(),
    })
}

/// Runs guest code for the first time: `describe`, and then a check of the synthetic node as any other would be.
async fn start(inner: &Arc<Inner>, mut plugin: Plugin) -> Result<Arc<Plugin>, LoadError> {
    let Ok(_permit) = inner.starts.acquire().await else {
        return Err(LoadError::Engine("the engine's permits are closed".to_owned()));
    };
    let started = clock::now();
    let meter = Arc::new(Meter::default());
    let node = Arc::new(healthy_node());
    let whole = plugin.limits.startup_deadline;
    let ticks = u32::try_from(whole.as_micros() / limits::TICK.as_micros()).unwrap_or(u32::MAX);
    let at = At::default();
    let (ended, spent) = {
        let mut first = check::store(&plugin, node.clone(), &meter, ticks);
        let mut second = check::store(&plugin, node, &meter, ticks);
        first.data_mut().ends_after(whole);
        second.data_mut().ends_after(whole);
        let run = pin!(first_steps(&plugin, first, second, &at));
        Watch::new(run, &meter, Allowance { wall: whole, waiting: whole }, started).await
    };
    match check::settle(ended, spent, at.get(), started, &inner.ticker) {
        Ok((described, Ok(()))) => {
            plugin.description = shown(described);
            Ok(Arc::new(plugin))
        }
        Ok((_, Err(mut text))) => {
            text::clean(&mut text);
            text::cut(&mut text, limits::REASON);
            let name = plugin.key.as_str();
            let message = format!("{name}.wasm rejects [checker.{name}] settings: {text}");
            Err(Refusal::new(RefusalReason::SettingsRejected, message).into())
        }
        Err(Fault::Death(death)) => Err(death.into()),
        Err(Fault::Engine(what)) => Err(LoadError::Engine(what)),
    }
}

async fn first_steps(
    plugin: &Plugin,
    mut first: wasmtime::Store<crate::host::Host>,
    mut second: wasmtime::Store<crate::host::Host>,
    at: &At,
) -> Result<(Described, Result<(), String>), Broken> {
    at.set(Stage::Instantiate);
    let instance = plugin.pre.instantiate_async(&mut first).await.map_err(Broken::Instantiating)?;
    at.set(Stage::Describe);
    let described = bindings::describe(&mut first, &instance, &plugin.exports).await.map_err(Broken::Calling)?;
    drop(first);
    at.set(Stage::Instantiate);
    let instance = plugin.pre.instantiate_async(&mut second).await.map_err(Broken::Instantiating)?;
    at.set(Stage::Configure);
    let configured = bindings::configure(&mut second, &instance, &plugin.exports, &plugin.settings).await;
    if let Err(text) = configured.map_err(Broken::Calling)? {
        return Ok((described, Err(text)));
    }
    at.set(Stage::SelfCheck);
    // A verdict and an error both pass: the synthetic node may well lack what the checker looks for.
    bindings::check(&mut second, &instance, &plugin.exports).await.map_err(Broken::Calling)?;
    Ok((described, Ok(())))
}

/// Where a start is, readable from outside while it is polled.
#[derive(Default)]
struct At(AtomicU8);

impl At {
    fn set(&self, stage: Stage) {
        let index = Stage::ALL.iter().position(|known| *known == stage).unwrap_or_default();
        self.0.store(u8::try_from(index).unwrap_or_default(), Ordering::Relaxed);
    }

    fn get(&self) -> Stage {
        Stage::ALL.get(usize::from(self.0.load(Ordering::Relaxed))).copied().unwrap_or(Stage::Load)
    }
}

fn shown(described: Described) -> Description {
    let line = |mut text: String, most: usize| {
        text::clean(&mut text);
        text::cut(&mut text, most);
        text
    };
    let reasons = described.reasons.into_iter().map(|reason| line(reason, limits::DESCRIBED_REASON));
    Description {
        name: line(described.name, limits::NAME),
        version: line(described.version, limits::NAME),
        summary: line(described.summary, limits::SUMMARY),
        reasons: reasons.filter(|reason| !reason.is_empty()).take(limits::REASONS).collect(),
        default_threshold: described.default_threshold.min(limits::THRESHOLD_MAX),
    }
}

/// A node that nothing is wrong with: Ready is true, the pressures are false, and nothing is tainted.
fn healthy_node() -> Node {
    let mut node = Node::named(SELF_CHECK);
    let conditions =
        [("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False")];
    node.conditions = conditions
        .into_iter()
        .map(|(kind, status)| Condition {
            kind: kind.into(),
            status: status.into(),
            reason: "SelfCheck".into(),
            message: "".into(),
            last_transition: None,
        })
        .collect();
    node
}

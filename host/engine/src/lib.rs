//! Runs strangers' Wasm: load, link, limit, run, hot reload. It knows nothing of Kubernetes and nothing of the
//! rules: it hands out verdicts, and deaths where there is none, and what follows from either is decided elsewhere.
//!
//! [`Engine`] runs checks, [`Directory`] watches the plugin directory, [`Registry`] keeps who serves. The contract's
//! generated types stop in `bindings`.

mod admission;
mod allocator;
mod batch;
mod bindings;
mod cache;
mod check;
mod clock;
mod compile;
#[cfg(test)]
#[path = "../tests/it/component.rs"]
#[expect(dead_code, reason = "its guest is for the tests outside")]
mod component;
mod death;
mod directory;
mod drain;
mod engine;
mod host;
mod http;
pub mod limits;
mod load;
mod memory;
mod meter;
mod plugin;
mod registry;
mod settings;
mod shelf;
pub mod signature;
mod task;
mod text;
mod ticker;
mod wasi;

pub use allocator::give_back_large_blocks;
pub use check::{CheckDone, Corrections};
pub use compile::{compile_estimate, compile_worker_main};
pub use death::{Cause, Death, LoadError, Refusal, RefusalReason, Stage};
pub use directory::{
    Directory, DirectoryEvent, DirectoryHandle, DirectoryOptions, DirectoryState, DirectoryStatus, RefusedFile,
    UnloadError, plugin_name,
};
pub use engine::{Candidate, Compile, Engine, EngineConfig, EngineError, Finished, Job};
pub use host::{LogLevel, LogLine};
pub use http::{Allowed, NotAServer};
pub use limits::{Limits, Profile};
pub use load::too_large;
pub use plugin::{Capability, Compiled, Description, Digest, Generation, Grants, Plugin, PluginConfig, Source};
pub use registry::{Bundled, Configuration, Registry, RegistryEvent, RegistryOptions};
pub use ticker::TickerHealth;

/// Locks, whatever happened to whoever held it before: nothing behind our locks is left half done by a panic.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

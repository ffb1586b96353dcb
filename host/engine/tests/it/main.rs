//! The engine with real components.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as loudly as tests")]

mod capabilities;
mod checks;
mod component;
mod drain;
mod loading;
mod registry;
mod support;
mod wasi;

//! The simulation from outside: over HTTP only, or through its public handles. One program, so that it links once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail loudly, its helpers too"
)]

mod api;
mod cloud;
mod fleet;
mod plain;

//! Helpers of the tests.

use anyhow::{Context, Result};

pub mod control_plane;

pub use control_plane::{free_ports, get, never, wait_for};

/// Guests that misbehave, as components.
pub mod guests {
    include!(concat!(env!("OUT_DIR"), "/guests.rs"));

    /// The guest of this name.
    pub fn guest(name: &str) -> Option<&'static [u8]> {
        GUESTS.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
    }
}

/// The memory that a process has resident, in bytes: one by its id, or `self`.
pub fn resident(process: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(resident.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// The daemon as a program: the one of this package, which is the shipped one by another name. Cargo builds it
/// together with the tests, so it is never older than they are.
#[macro_export]
macro_rules! apgar_binary {
    () => {
        std::path::PathBuf::from(env!("CARGO_BIN_EXE_apgar-under-test"))
    };
}

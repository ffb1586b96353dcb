//! Helpers of the tests.

pub mod control_plane;

pub use control_plane::{free_ports, get, never, wait_for};

/// Guests that misbehave, as components.
pub mod guests {
    include!(concat!(env!("OUT_DIR"), "/guests.rs"));
}

/// The daemon as a program: the one of this package, which is the shipped one by another name. Cargo builds it
/// together with the tests, so it is never older than they are.
#[macro_export]
macro_rules! apgar_binary {
    () => {
        std::path::PathBuf::from(env!("CARGO_BIN_EXE_apgar-under-test"))
    };
}

//! Helpers of the tests.

pub mod control_plane;

pub use control_plane::{apgar_binary, free_ports, get, never, wait_for};

/// Guests that misbehave, as components.
pub mod guests {
    include!(concat!(env!("OUT_DIR"), "/guests.rs"));
}

//! A small blob per checker and node, for a checker that was granted it: `grants = ["memory"]`. Whoever uses it is
//! not pure: the host then asks the checker at every tick.
//!
//! It is memory, not storage: a restart of the host empties it, and so may the host when it runs out of room. What
//! was stored is kept if the check returns, a verdict or an `Err`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host;

/// What was stored last for this node. `None` if there is nothing, or nothing that reads as a `T`: another build of
/// the checker may have stored it.
pub fn load<T: DeserializeOwned>() -> Option<T> {
    serde_json::from_slice(&load_bytes()?).ok()
}

/// Stores a value, as JSON, in place of the last one. An `Err` says why the last one stays, as that this one is too
/// large: 4 KiB unless the operator says otherwise.
pub fn store<T: Serialize>(value: &T) -> Result<(), String> {
    store_bytes(&serde_json::to_vec(value).map_err(|error| error.to_string())?)
}

/// Stores nothing in place of the last value.
pub fn clear() -> Result<(), String> {
    store_bytes(&[])
}

/// What was stored last, as it is. Another build of the checker may have stored it: begin it with a version.
pub fn load_bytes() -> Option<Vec<u8>> {
    host::load()
}

/// Stores bytes, as [`store`] does; none at all stand for nothing.
pub fn store_bytes(blob: &[u8]) -> Result<(), String> {
    host::store(blob)
}

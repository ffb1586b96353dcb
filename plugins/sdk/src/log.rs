//! Lines for the daemon's log. Nothing is decided by them; the host keeps 16 lines of 1 KiB a check.
//! Natively they go to standard error, where a failing test shows them.

#[cfg(target_arch = "wasm32")]
use crate::glue::log::{Level, write};

/// For whoever debugs this checker.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

/// Worth knowing afterwards.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// Something is odd.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// Something is wrong.
pub fn error(message: &str) {
    write(Level::Error, message);
}

#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug)]
enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

#[cfg(not(target_arch = "wasm32"))]
fn write(level: Level, message: &str) {
    eprintln!("{level:?}: {message}");
}

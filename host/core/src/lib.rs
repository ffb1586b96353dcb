//! The rules of Apgar: what a verdict means, when a node is sick, when something may be done about it.
//! Pure and synchronous. Nothing in here reads a clock, waits, or talks to anybody: the same inputs give the
//! same decisions, byte for byte. What waits lives in the daemon; what runs checkers lives in the engine.

pub mod decision;
pub mod digest;
pub mod event;
pub mod fleet;
pub mod gate;
pub mod invariants;
pub mod node;
pub mod pods;
pub mod policy;
pub mod reasons;
pub mod recovery;
pub mod report;
pub mod script;
pub mod supervision;
pub mod time;
pub mod verdict;

#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod testing;

//! The daemon: Kubernetes, HTTP, configuration, store, executors, command line, and the wiring between the
//! rules (`apgar-core`) and the engine (`apgar-engine`). It knows neither how a checker decides nor how a phase
//! changes.

pub mod announce;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod events;
pub mod executor;
pub mod http;
pub mod informer;
pub mod kubernetes;
pub mod last_look;
pub mod legacy;
pub mod log;
pub mod metrics;
pub mod object;
pub mod plugins;
pub mod pods;
pub mod reconcile;
pub mod reload;
pub mod run;
pub mod settings;
pub mod store;
pub mod supervise;
pub mod task;
pub mod view;
pub mod watch;

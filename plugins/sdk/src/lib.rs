//! The Rust kit for Apgar checkers.
//!
//! A checker is one pure function from a node and its settings to a verdict, and one line that exports it:
//!
//! ```
//! use apgar_checker::{Checker, Description, Node, Verdict};
//! use std::time::Duration;
//!
//! struct MemoryPressure;
//!
//! impl Checker for MemoryPressure {
//!     type Settings = ();
//!
//!     const DESCRIPTION: Description = Description {
//!         name: "MemoryPressure",
//!         version: env!("CARGO_PKG_VERSION"),
//!         summary: "Fails while the kubelet reports memory pressure.",
//!         reasons: &["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory", "ConditionNotFound"],
//!         default_threshold: Duration::from_mins(10),
//!     };
//!
//!     fn judge(node: &impl Node, _: &()) -> Result<Verdict, String> {
//!         Ok(match node.condition("MemoryPressure") {
//!             Some(condition) if condition.status == "True" => Verdict::fail(condition.reason),
//!             Some(condition) => Verdict::pass(condition.reason),
//!             None => Verdict::pass("ConditionNotFound"),
//!         })
//!     }
//! }
//!
//! apgar_checker::export!(MemoryPressure);
//! ```
//!
//! The judgement never knows whether it runs in a component or in a unit test: natively it is given a
//! [`fixture::Node`]. The other half, what makes a component of it, is in `glue`, compiled for Wasm only.
//! The contract itself is `wit/`; nothing here adds to it.
//!
//! Node and [`log`] are given to every checker. [`clock`], [`http`], [`memory`] and [`pods`] are for those that an
//! operator grants them to. There is nothing to declare: a component imports what its code calls and nothing else, and
//! its imports are what it asks to be granted. A judgement that calls none of the first three stays a pure function, of
//! the node and of its pods if it reads them; one that calls any of the four is tested by a [`fixture::Host`].

#[cfg(target_arch = "wasm32")]
mod arena;
pub mod clock;
pub mod fixture;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod glue;
#[cfg(not(target_arch = "wasm32"))]
mod host;
pub mod http;
pub mod log;
pub mod memory;
mod node;
pub mod pods;
mod quantity;
mod settings;

use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use glue::host;

pub use node::{Condition, Node, Taint, Timestamp};
pub use quantity::whole;
pub use settings::{Settings, parse as parse_settings};

/// A checker: what it is, and how it judges. It has no state, because every check runs in a fresh instance; what
/// one check is to tell the next goes through [`memory`].
pub trait Checker {
    /// The settings it takes, `()` for none. Whoever takes some exports them by `export!(Name, settings)`.
    type Settings: Settings;

    /// What it says about itself when it is loaded.
    const DESCRIPTION: Description;

    /// Judges one node. An `Err` says "I cannot tell", for people to read: the node is then unknown to this
    /// checker, which starts no repair.
    fn judge(node: &impl Node, settings: &Self::Settings) -> Result<Verdict, String>;
}

/// What a checker is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Description {
    /// What people call it. Its identity is the name of its file, not this.
    pub name: &'static str,
    /// Its own version.
    pub version: &'static str,
    /// One sentence on what it judges.
    pub summary: &'static str,
    /// The reasons it may give, at most 16: the host admits these as metric labels first.
    pub reasons: &'static [&'static str],
    /// How long it must go on failing before that justifies a repair, where a verdict says nothing else.
    pub default_threshold: Duration,
}

/// A definite answer about a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// True: as far as this checker can tell, the node is well.
    pub healthy: bool,
    /// Why, as one CamelCase word. It becomes a metric label: put numbers into the log, not in here.
    pub reason: String,
    /// The threshold of this very answer; `None` stands for [`Description::default_threshold`].
    pub threshold: Option<Duration>,
}

impl Verdict {
    /// The node is well.
    pub fn pass(reason: impl Into<String>) -> Verdict {
        Verdict { healthy: true, reason: reason.into(), threshold: None }
    }

    /// The node is sick.
    pub fn fail(reason: impl Into<String>) -> Verdict {
        Verdict { healthy: false, reason: reason.into(), threshold: None }
    }

    /// The same answer with a threshold of its own, for what is more or less urgent than usual.
    pub fn after(self, threshold: Duration) -> Verdict {
        Verdict { threshold: Some(threshold), ..self }
    }
}

/// Makes a component of a checker: `export!(MyChecker)`, or `export!(MyChecker, settings)` if it takes
/// settings. Once per crate. Outside of Wasm it only checks the types, so that tests run natively.
#[macro_export]
macro_rules! export {
    ($checker:ty) => {
        const _: () = {
            const fn takes_no_settings<C: $crate::Checker<Settings = ()>>() {}
            takes_no_settings::<$checker>();
        };

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            impl $crate::glue::Checker for Component {
                fn describe() -> $crate::glue::Description {
                    $crate::glue::describe::<$checker>()
                }

                fn check() -> Result<$crate::glue::Verdict, String> {
                    $crate::glue::check::<$checker>(&())
                }
            }

    $crate::glue::plugin::export_plugin!(Component with_types_in $crate::glue::plugin);
        };
    };

    ($checker:ty, settings) => {
        const _: () = {
            const fn takes_settings<C: $crate::Checker>() {}
            takes_settings::<$checker>();
        };

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            ::std::thread_local! {
                static SETTINGS: ::std::cell::RefCell<<$checker as $crate::Checker>::Settings> =
                    ::std::cell::RefCell::default();
            }

            impl $crate::glue::Checker for Component {
                fn describe() -> $crate::glue::Description {
                    $crate::glue::describe::<$checker>()
                }

                fn check() -> Result<$crate::glue::Verdict, String> {
                    SETTINGS.with_borrow(|settings| $crate::glue::check::<$checker>(settings))
                }
            }

            impl $crate::glue::Configure for Component {
                fn configure(text: String) -> Result<(), String> {
                    SETTINGS.set($crate::parse_settings(&text)?);
                    Ok(())
                }
            }

    $crate::glue::plugin::export_plugin!(Component with_types_in $crate::glue::plugin);
    $crate::glue::configurable::export_settings!(Component with_types_in $crate::glue::configurable);
        };
    };
}

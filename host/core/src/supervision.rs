//! The supervision of plugins (`supervision`): what is said of a start or a check that did not end well.

mod words;

pub use words::{Cause, RefusalReason, Stage};

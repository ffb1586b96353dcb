//! The policy: every number the rules use, already validated. The daemon builds it from flags, environment,
//! file and defaults; the rules never see where a value came from.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::decision::{Mode, Step};
use crate::verdict::CheckerKey;

const MINUTE: Duration = Duration::from_secs(60);

/// The rules' numbers (`recovery` section 3, `gate` section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Monitor-only, or active.
    pub mode: Mode,
    /// How often everything is looked at, whatever happens.
    pub tick: Duration,
    /// The wait window after an attempt, for a standard node.
    pub reboot_wait: Duration,
    /// The wait window after an attempt, for a GPU node.
    pub gpu_reboot_wait: Duration,
    /// Reboots per incident, where no ladder is configured.
    pub max_reboots: u32,
    /// Failed calls per incident.
    pub max_failed_calls: u32,
    /// The first wait after a failed call; each further one is twice as long.
    pub backoff_base: Duration,
    /// The longest wait after a failed call.
    pub backoff_cap: Duration,
    /// How long a recovered node must stay green until its incident is forgiven; zero: at once.
    pub stability_window: Duration,
    /// How long a checker may be unknown until it no longer takes part.
    pub unknown_limit: Duration,
    /// One timer per node and the smallest threshold failing, as the agent that Apgar replaces had it.
    pub compat_shared_timer: bool,
    /// How long the incident of a vanished node waits for the same machine.
    pub return_window: Duration,
    /// Thresholds an operator set, over what verdicts say.
    pub thresholds: BTreeMap<CheckerKey, Duration>,
    /// The threshold of every other checker, over what its verdicts say; none: what they say.
    pub default_threshold: Option<Duration>,
    /// The steps in their order. Empty: `reboot`, `max_reboots` times.
    pub ladder: Vec<Rung>,
    /// How many actions may be in flight in the cluster.
    pub concurrent: ConcurrentLimit,
}

/// A step of the ladder and how often it may be tried in one incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    /// What is done.
    pub step: Step,
    /// How often, at least 1.
    pub attempts: u32,
}

/// A limit on actions in flight (`gate` section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConcurrentLimit {
    /// One per 100 nodes, rounded up, at least one.
    PerHundredNodes,
    /// This many.
    Fixed(u32),
    /// No limit: for comparison with the agent that Apgar replaces.
    Off,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Monitor,
            tick: Duration::from_secs(10),
            reboot_wait: 10 * MINUTE,
            gpu_reboot_wait: 40 * MINUTE,
            max_reboots: 5,
            max_failed_calls: 30,
            backoff_base: Duration::from_secs(10),
            backoff_cap: 5 * MINUTE,
            stability_window: 10 * MINUTE,
            unknown_limit: 5 * MINUTE,
            compat_shared_timer: false,
            return_window: 60 * MINUTE,
            thresholds: BTreeMap::new(),
            default_threshold: None,
            ladder: Vec::new(),
            concurrent: ConcurrentLimit::PerHundredNodes,
        }
    }
}

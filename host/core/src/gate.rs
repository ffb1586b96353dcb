//! The gate: the only door to a decision (`gate`). Recovery says which nodes are due; the gate says who of them
//! may be acted on now, and names what holds the others.
//!
//! Built: recovery's own holds, `NotJudgeable`, `StaleView`, and the cluster's `BudgetConcurrent`.

use std::cmp::Reverse;
use std::time::Duration;

use serde::Serialize;

use crate::decision::Mode;
use crate::node::NodeName;
use crate::policy::ConcurrentLimit;
use crate::recovery::Lifecycle;
use crate::report::Hold;
use crate::time::Time;

/// Nodes that a hold names; a longer list helps nobody.
const NAMED_MAX: usize = 10;

/// A reason not to act now, in the order of `gate` section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Constraint {
    /// An operator marked the node.
    Excluded,
    /// The node still starts, or its grace is not over.
    NotJudgeable,
    /// What we know may be old, or could not be remembered.
    StaleView,
    /// As many actions as allowed are in flight.
    BudgetConcurrent,
    /// The window after the last outcome runs.
    Window,
    /// A budget of the incident is spent.
    AttemptsExhausted,
    /// No checker has failed for its threshold.
    Threshold,
    /// A call has no outcome yet.
    Call,
}

impl Constraint {
    /// The word in metrics and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Excluded => "Excluded",
            Self::NotJudgeable => "NotJudgeable",
            Self::StaleView => "StaleView",
            Self::BudgetConcurrent => "BudgetConcurrent",
            Self::Window => "Window",
            Self::AttemptsExhausted => "AttemptsExhausted",
            Self::Threshold => "Threshold",
            Self::Call => "Call",
        }
    }
}

/// What the gate knows of the cluster in a turn.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Simulated, or for real.
    pub mode: Mode,
    /// Whether the Node watch is alive.
    pub evidence_live: bool,
    /// Whether the store takes writes.
    pub store_writable: bool,
    /// Nodes in the cluster.
    pub nodes: usize,
    /// The limit on actions in flight.
    pub concurrent: ConcurrentLimit,
    /// The nodes with an action in flight, in order of their names.
    pub in_flight: &'a [NodeName],
}

/// A due node that asks for its next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub node: NodeName,
    /// Attempts in its incident.
    pub attempts: u32,
    /// For how long it has been due.
    pub due_for: Duration,
    /// Its lifecycle.
    pub lifecycle: Lifecycle,
}

/// The nodes that may be acted on now, in order: fewest attempts, then longest due, then name.
#[must_use]
pub fn admit(view: &View<'_>, mut candidates: Vec<Candidate>, now: Time) -> Vec<NodeName> {
    if stale(view).is_some() {
        return Vec::new();
    }
    let room =
        limit(view.concurrent, view.nodes).map_or(usize::MAX, |limit| limit.saturating_sub(view.in_flight.len()));
    candidates.retain(|candidate| not_judgeable(candidate.lifecycle, now).is_none());
    candidates
        .sort_by(|a, b| (a.attempts, Reverse(a.due_for), &a.node).cmp(&(b.attempts, Reverse(b.due_for), &b.node)));
    candidates.into_iter().take(room).map(|candidate| candidate.node).collect()
}

/// The gate's own holds on an open node.
#[must_use]
pub fn holds(view: &View<'_>, node: &NodeName, lifecycle: Lifecycle, now: Time) -> Vec<Hold> {
    let all = [not_judgeable(lifecycle, now), stale(view), budget_concurrent(view, node)];
    all.into_iter().flatten().collect()
}

/// Puts the binding hold first: the one that ends last, where an unknown end is the last of all.
pub fn rank(holds: &mut [Hold]) {
    holds.sort_by_key(|hold| (hold.until.is_some(), Reverse(hold.until), hold.name));
}

/// The limit on actions in flight; none without one.
#[must_use]
pub fn limit(concurrent: ConcurrentLimit, nodes: usize) -> Option<usize> {
    match concurrent {
        ConcurrentLimit::PerHundredNodes => Some(nodes.div_ceil(100).max(1)),
        ConcurrentLimit::Fixed(limit) => Some(usize::try_from(limit).unwrap_or(usize::MAX)),
        ConcurrentLimit::Off => None,
    }
}

fn not_judgeable(lifecycle: Lifecycle, now: Time) -> Option<Hold> {
    let until = lifecycle.hold_until.filter(|until| now < *until);
    let detail = match (lifecycle.starting, until) {
        (true, _) => "the node is starting",
        (false, Some(_)) => "the node's start-up grace is not over",
        (false, None) => return None,
    };
    Some(Hold { name: Constraint::NotJudgeable, detail: detail.to_owned(), until })
}

fn stale(view: &View<'_>) -> Option<Hold> {
    let detail = if !view.evidence_live {
        "the Node watch is not alive"
    } else if !view.store_writable && view.mode == Mode::Active {
        // A simulated step protects nobody, so it needs no record.
        "the store cannot be written"
    } else {
        return None;
    };
    Some(Hold { name: Constraint::StaleView, detail: detail.to_owned(), until: None })
}

/// A node's own action in flight is no hold on itself: its window is.
fn budget_concurrent(view: &View<'_>, node: &NodeName) -> Option<Hold> {
    let limit = limit(view.concurrent, view.nodes)?;
    let others: Vec<&str> = view.in_flight.iter().filter(|name| *name != node).map(NodeName::as_str).collect();
    if others.len() < limit {
        return None;
    }
    let mut named: Vec<&str> = others.iter().copied().take(NAMED_MAX).collect();
    if others.len() > NAMED_MAX {
        named.push("…");
    }
    let detail = format!("cluster has {} of {limit} in flight: {}", others.len(), named.join(", "));
    Some(Hold { name: Constraint::BudgetConcurrent, detail, until: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_unix_ms(1_000_000);

    fn view(in_flight: &[NodeName]) -> View<'_> {
        View {
            mode: Mode::Active,
            evidence_live: true,
            store_writable: true,
            nodes: 100,
            concurrent: ConcurrentLimit::Fixed(2),
            in_flight,
        }
    }

    fn candidate(node: &str, attempts: u32, due_s: u64) -> Candidate {
        let due_for = Duration::from_secs(due_s);
        Candidate { node: NodeName::from(node), attempts, due_for, lifecycle: Lifecycle::default() }
    }

    fn admitted(view: &View<'_>, candidates: Vec<Candidate>) -> Vec<String> {
        admit(view, candidates, NOW).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn fewest_attempts_come_first_then_longest_due_then_the_name() {
        let view = View { concurrent: ConcurrentLimit::Off, ..view(&[]) };
        let candidates =
            vec![candidate("d", 1, 900), candidate("c", 0, 10), candidate("b", 0, 10), candidate("a", 0, 5)];
        assert_eq!(admitted(&view, candidates), ["b", "c", "a", "d"]);
    }

    #[test]
    fn nobody_is_admitted_above_the_limit() {
        let busy = [NodeName::from("x")];
        let three = || vec![candidate("a", 0, 0), candidate("b", 0, 0), candidate("c", 0, 0)];
        assert_eq!(admitted(&view(&[]), three()), ["a", "b"]);
        assert_eq!(admitted(&view(&busy), three()), ["a"]);
    }

    #[test]
    fn a_stale_view_admits_nobody_and_a_store_counts_in_active_mode_only() {
        let dead = View { evidence_live: false, ..view(&[]) };
        let unwritable = View { store_writable: false, ..view(&[]) };
        let simulated = View { mode: Mode::Monitor, ..unwritable };
        assert_eq!(admitted(&dead, vec![candidate("a", 0, 0)]), [""; 0]);
        assert_eq!(admitted(&unwritable, vec![candidate("a", 0, 0)]), [""; 0]);
        assert_eq!(admitted(&simulated, vec![candidate("a", 0, 0)]), ["a"]);
    }

    #[test]
    fn the_default_limit_is_one_per_hundred_nodes() {
        for (nodes, expected) in [(0, 1), (1, 1), (100, 1), (101, 2), (1_000, 10)] {
            assert_eq!(limit(ConcurrentLimit::PerHundredNodes, nodes), Some(expected), "{nodes}");
        }
    }

    #[test]
    fn a_full_budget_names_who_is_in_flight_but_not_to_itself() {
        let busy = [NodeName::from("x"), NodeName::from("y")];
        let view = view(&busy);
        let detail = budget_concurrent(&view, &NodeName::from("a")).map(|hold| hold.detail);
        assert_eq!(detail.as_deref(), Some("cluster has 2 of 2 in flight: x, y"));
        assert_eq!(budget_concurrent(&view, &NodeName::from("x")), None);
    }

    #[test]
    fn the_hold_that_ends_last_is_first_and_an_unknown_end_before_all() {
        let hold = |name, until| Hold { name, detail: String::new(), until };
        let mut holds = [
            hold(Constraint::Window, Some(NOW)),
            hold(Constraint::Threshold, Some(NOW + Duration::from_secs(1))),
            hold(Constraint::Call, None),
        ];
        rank(&mut holds);
        assert_eq!(holds.map(|hold| hold.name), [Constraint::Call, Constraint::Threshold, Constraint::Window]);
    }
}

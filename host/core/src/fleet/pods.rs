//! The pods of all nodes, while somebody watches them; nothing before that. They are kept beside the nodes and
//! not in their slots: a pod is heard of before its Node is, and without a plugin that reads them no node pays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::fleet::intake::EMPTY_LISTS_FOR;
use crate::node::NodeName;
use crate::pods::{Pod, PodChange, Pods, by_node};
use crate::time::Time;

/// What is known of pods.
#[derive(Debug, Default)]
pub(super) struct PodIndex {
    by_node: BTreeMap<NodeName, Pods>,
    /// A complete list was taken in and is believed.
    listed: bool,
    /// The watch is alive.
    live: bool,
    /// Since when lists without any pod are not believed.
    empty_since: Option<Time>,
    /// Nodes whose pods changed since whoever reads them was asked.
    changed: BTreeSet<NodeName>,
    /// Whether pods were known when whoever reads them was last asked about all nodes.
    asked_known: bool,
}

/// Whom to ask about at a tick.
#[derive(Debug)]
pub(super) enum Due {
    /// All nodes: pods became known, or are known no more.
    All,
    /// These.
    Some(BTreeSet<NodeName>),
}

impl PodIndex {
    /// The pods of a node; none where they are not known.
    pub(super) fn of(&self, node: &NodeName) -> Option<Pods> {
        self.is_known().then(|| self.by_node.get(node).cloned().unwrap_or_default())
    }

    /// Takes in what happened.
    pub(super) fn take_in(&mut self, change: PodChange, now: Time) {
        match change {
            PodChange::Listed(pods) => self.list(pods, now),
            PodChange::Applied(node, pod) => self.apply(node, pod),
            PodChange::Deleted { node, namespace, name } => self.delete(&node, (&namespace, &name)),
            PodChange::Evidence { live } => self.live = live,
            PodChange::Forgotten => {
                *self = Self { asked_known: self.asked_known, ..Self::default() };
            }
        }
    }

    /// Everything that changed since this was asked last.
    pub(super) fn take_due(&mut self) -> Due {
        let known = self.is_known();
        let changed = std::mem::take(&mut self.changed);
        if std::mem::replace(&mut self.asked_known, known) == known { Due::Some(changed) } else { Due::All }
    }

    /// A node that somebody could not be asked about now is due at the next tick.
    pub(super) fn still_due(&mut self, node: &NodeName) {
        self.changed.insert(node.clone());
    }

    /// Everybody was asked about the node, with its pods as they are.
    pub(super) fn is_told(&mut self, node: &NodeName) {
        self.changed.remove(node);
    }

    fn is_known(&self) -> bool {
        self.listed && self.live
    }

    fn list(&mut self, pods: Vec<(NodeName, Pod)>, now: Time) {
        if pods.is_empty() && !self.by_node.is_empty() {
            let since = *self.empty_since.get_or_insert(now);
            if now.since(since) < EMPTY_LISTS_FOR {
                // As for nodes, but what they were is not held on to: unknown harms nobody.
                self.listed = false;
                return;
            }
        }
        self.empty_since = None;
        self.listed = true;
        let mut before = std::mem::take(&mut self.by_node);
        for (node, mut pods) in by_node(pods) {
            let pods = match before.remove(&node) {
                Some(same) if *same == pods => same,
                Some(_) | None => {
                    self.changed.insert(node.clone());
                    // There may be millions of them, and they were pushed one by one.
                    pods.shrink_to_fit();
                    Arc::new(pods)
                }
            };
            self.by_node.insert(node, pods);
        }
        self.changed.extend(before.into_keys());
    }

    fn apply(&mut self, node: NodeName, pod: Pod) {
        let pods = self.by_node.entry(node.clone()).or_default();
        match pods.binary_search_by(|known| known.key().cmp(&pod.key())) {
            Ok(at) if pods.get(at) == Some(&pod) => return,
            Ok(at) => {
                if let Some(known) = Arc::make_mut(pods).get_mut(at) {
                    *known = pod;
                }
            }
            Err(at) => Arc::make_mut(pods).insert(at, pod),
        }
        self.changed.insert(node);
    }

    fn delete(&mut self, node: &NodeName, key: (&str, &str)) {
        let Some(pods) = self.by_node.get_mut(node) else {
            return;
        };
        let Ok(at) = pods.binary_search_by(|known| known.key().cmp(&key)) else {
            return;
        };
        Arc::make_mut(pods).remove(at);
        if pods.is_empty() {
            self.by_node.remove(node);
        }
        self.changed.insert(node.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fleet::{Check, Checker, Fleet, Input, Inputs};
    use crate::node::Node;
    use crate::policy::Policy;
    use crate::verdict::{CheckerKey, Judgement, Verdict};

    const T0: Time = Time::from_unix_ms(1_700_000_000_000);
    const ALIVE: PodChange = PodChange::Evidence { live: true };
    const DEAD: PodChange = PodChange::Evidence { live: false };
    const BOTH: [Inputs; 2] = [Inputs::Node, Inputs::NodeAndPods];

    fn name(node: &str) -> NodeName {
        NodeName::from(node)
    }

    fn well(pod: &str) -> Pod {
        Pod { ready: true, ..Pod::named("ns", pod) }
    }

    fn listed(pods: &[(&str, &str)]) -> PodChange {
        PodChange::Listed(pods.iter().map(|(node, pod)| (name(node), well(pod))).collect())
    }

    fn gone(node: &str, pod: &str) -> PodChange {
        PodChange::Deleted { node: name(node), namespace: Arc::from("ns"), name: Arc::from(pod) }
    }

    struct World(Fleet);

    impl World {
        /// Nodes `a` and `b`, and a checker for each of these inputs; all have answered, and pods are unknown.
        fn new(inputs: &[Inputs]) -> Self {
            let mut world = Self(Fleet::new(Policy::default()));
            let nodes = ["a", "b"].map(|node| Arc::new(Node::named(node))).into();
            let mut happened = vec![Input::Evidence { live: true }, Input::Listed(nodes)];
            happened.extend(inputs.iter().map(|inputs| {
                let key = CheckerKey::from(format!("{inputs:?}").as_str());
                let generation = Arc::from("1");
                Input::CheckerServes(Checker { key, generation, reasons: Vec::new(), inputs: *inputs })
            }));
            world.turn(happened);
            world
        }

        /// The same, with these pods known and asked about.
        fn knowing(inputs: &[Inputs], pods: &[(&str, &str)]) -> Self {
            let mut world = Self::new(inputs);
            world.tell(vec![ALIVE, listed(pods)]);
            world.tick();
            world
        }

        /// What is asked, each answered at once.
        fn turn(&mut self, inputs: Vec<Input>) -> Vec<String> {
            let checks = self.0.turn(T0, inputs).checks;
            self.answer(&checks);
            let pods = |pods: &Option<Pods>| match pods {
                Some(pods) => pods.iter().map(|pod| &*pod.name).collect::<Vec<_>>().join("+"),
                None => "unknown".to_owned(),
            };
            checks.iter().map(|check| format!("{} {}: {}", check.checker, check.node.name, pods(&check.pods))).collect()
        }

        fn answer(&mut self, checks: &[Check]) {
            let answers = checks.iter().map(|check| Input::Judged {
                check: check.id,
                node: check.node.name.clone(),
                checker: check.checker.clone(),
                verdict: Verdict::Pass(Judgement { reason: Arc::from("Fine"), threshold: Duration::ZERO }),
                // As the engine has it.
                remember: check.pods.is_some() || check.checker.as_str() != "NodeAndPods",
            });
            assert!(self.0.turn(T0, answers.collect()).checks.is_empty());
        }

        #[track_caller]
        fn tell(&mut self, changes: Vec<PodChange>) {
            assert_eq!(self.turn(changes.into_iter().map(Input::Pods).collect()), [""; 0], "asked before the tick");
        }

        fn tick(&mut self) -> Vec<String> {
            self.turn(vec![Input::Tick])
        }
    }

    #[test]
    fn a_change_is_asked_about_at_the_tick_of_whoever_reads_pods() {
        let mut world = World::knowing(&BOTH, &[("a", "x"), ("b", "y")]);
        assert_eq!(world.tick(), [""; 0]);
        world.tell(vec![PodChange::Applied(name("a"), Pod { restarts: 1, ..well("x") })]);
        assert_eq!(world.tick(), ["NodeAndPods a: x"]);
        world.tell(vec![PodChange::Applied(name("b"), well("w")), gone("b", "y"), gone("b", "y")]);
        assert_eq!(world.tick(), ["NodeAndPods b: w"]);
        world.tell(vec![gone("b", "w")]);
        assert_eq!(world.tick(), ["NodeAndPods b: "]);
        assert_eq!(world.tick(), [""; 0]);
    }

    #[test]
    fn what_says_the_same_is_asked_about_by_nobody() {
        let mut world = World::knowing(&BOTH, &[("a", "x"), ("a", "y")]);
        world.tell(vec![PodChange::Applied(name("a"), well("x")), gone("b", "z"), listed(&[("a", "y"), ("a", "x")])]);
        assert_eq!(world.tick(), [""; 0]);
        world.tell(vec![listed(&[("a", "x"), ("a", "y"), ("b", "z")])]);
        assert_eq!(world.tick(), ["NodeAndPods b: z"]);
    }

    #[test]
    fn whoever_depends_on_more_gets_pods_only_if_it_reads_them() {
        let more = [false, true].map(|pods| Inputs::More { pods });
        let mut world = World::knowing(&more, &[("a", "x")]);
        world.tell(vec![PodChange::Applied(name("a"), well("y"))]);
        let asked = world.tick();
        let [no, yes] = more.map(|inputs| format!("{inputs:?}"));
        assert_eq!(
            asked,
            [format!("{no} a: unknown"), format!("{no} b: unknown"), format!("{yes} a: x+y"), format!("{yes} b: ")]
        );
    }

    #[test]
    fn an_answer_without_knowing_the_pods_is_not_remembered() {
        let mut world = World::new(&BOTH);
        let unknown = ["NodeAndPods a: unknown", "NodeAndPods b: unknown"];
        assert_eq!(world.tick(), unknown);
        world.tell(vec![listed(&[("a", "x")])]);
        assert_eq!(world.tick(), unknown, "listed, and not heard of since");
        world.tell(vec![ALIVE]);
        assert_eq!(world.tick(), ["NodeAndPods a: x", "NodeAndPods b: "]);
        assert_eq!(world.tick(), [""; 0]);
    }

    #[test]
    fn pods_are_unknown_while_nobody_hears_of_them_and_forgotten_when_nobody_watches() {
        let mut world = World::knowing(&BOTH, &[("a", "x")]);
        world.tell(vec![DEAD, ALIVE]);
        assert_eq!(world.tick(), [""; 0], "it was open again before the tick");
        world.tell(vec![DEAD]);
        assert_eq!(world.tick(), ["NodeAndPods a: unknown", "NodeAndPods b: unknown"]);
        assert_eq!(world.0.pods.of(&name("a")), None);
        world.tell(vec![ALIVE]);
        assert_eq!(world.tick(), ["NodeAndPods a: x", "NodeAndPods b: "]);
        world.tell(vec![PodChange::Forgotten, ALIVE]);
        assert_eq!(world.tick(), ["NodeAndPods a: unknown", "NodeAndPods b: unknown"]);
        assert!(world.0.pods.by_node.is_empty());
    }

    #[test]
    fn a_change_during_a_check_is_asked_about_after_its_answer() {
        let mut world = World::knowing(&BOTH, &[("a", "x")]);
        world.tell(vec![PodChange::Applied(name("a"), well("y"))]);
        let out = world.0.turn(T0, vec![Input::Tick]).checks;
        assert_eq!(out.len(), 1);
        world.tell(vec![gone("a", "x")]);
        assert_eq!((world.tick(), world.tick()), (vec![], vec![]), "it is still out");
        world.answer(&out);
        assert_eq!(world.tick(), ["NodeAndPods a: y"]);
        assert_eq!(world.tick(), [""; 0]);
    }

    #[test]
    fn a_node_that_changes_is_asked_about_with_its_pods_at_once() {
        let mut world = World::knowing(&BOTH, &[("a", "x"), ("c", "z")]);
        world.tell(vec![PodChange::Applied(name("a"), well("y"))]);
        let cordoned = Arc::new(Node { unschedulable: true, ..Node::named("a") });
        assert_eq!(world.turn(vec![Input::Applied(cordoned)]), ["Node a: unknown", "NodeAndPods a: x+y"]);
        assert_eq!(world.tick(), [""; 0], "it was asked with them");
        let new = Arc::new(Node::named("c"));
        assert_eq!(world.turn(vec![Input::Applied(new)]), ["Node c: unknown", "NodeAndPods c: z"]);
    }

    #[test]
    fn a_list_without_any_pod_is_not_believed_at_once() {
        let mut world = World::knowing(&BOTH, &[("a", "x")]);
        world.tell(vec![listed(&[])]);
        assert_eq!(world.0.pods.of(&name("a")), None);
        let later = T0 + EMPTY_LISTS_FOR;
        world.0.turn(later, vec![Input::Pods(listed(&[]))]);
        assert_eq!(world.0.pods.of(&name("a")), Some(Arc::default()));
    }
}

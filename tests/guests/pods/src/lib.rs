//! A checker that reads the pods on a node, and behaves: it takes one that crash-loops for the node's fault.

use std::time::Duration;

use apgar_checker::{Checker, Description, Node, Verdict, log, pods};

/// The checker.
pub struct Pods;

impl Checker for Pods {
    type Settings = ();

    const DESCRIPTION: Description = Description {
        name: "Pods",
        version: "1",
        summary: "Fails while a pod of a DaemonSet crash-loops on the node.",
        reasons: &["CrashLoop", "NoCrashLoop"],
        default_threshold: Duration::from_mins(1),
    };

    fn judge(_: &impl Node, _: &()) -> Result<Verdict, String> {
        let found =
            pods::list()?.into_iter().find(|pod| pod.owner_kind == "DaemonSet" && pod.reason == "CrashLoopBackOff");
        Ok(match found {
            Some(pod) => {
                log::info(&format!("{}/{} was restarted {} times", pod.namespace, pod.name, pod.restarts));
                Verdict::fail("CrashLoop")
            }
            None => Verdict::pass("NoCrashLoop"),
        })
    }
}

apgar_checker::export!(Pods);

#[cfg(test)]
mod tests {
    use apgar_checker::fixture::{Host, Node};
    use apgar_checker::pods::Pod;

    use super::*;

    #[test]
    fn a_daemon_that_crash_loops_is_the_nodes_fault() {
        let judge = |mut host: Host| host.judge::<Pods>(&Node::new("n"), &()).map(|verdict| verdict.reason);
        let pod = Pod { owner_kind: "DaemonSet".to_owned(), reason: "CrashLoopBackOff".to_owned(), ..Pod::default() };
        let job = Pod { owner_kind: "Job".to_owned(), ..pod.clone() };
        assert_eq!(judge(Host::new(0).with_pod(job.clone())), Ok("NoCrashLoop".to_owned()));
        assert_eq!(judge(Host::new(0).with_pod(job).with_pod(pod)), Ok("CrashLoop".to_owned()));
        let unknown = Host { pods: Err("not known".to_owned()), ..Host::new(0) };
        assert_eq!(judge(unknown), Err("not known".to_owned()));
    }
}

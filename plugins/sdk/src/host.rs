//! What is granted to a checker, natively: a host made up for a test stands in for the one around a component.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::fixture::Node;
use crate::http::Response;
use crate::pods::Pod;
use crate::{Checker, Timestamp, Verdict};

/// What a checker is granted beside the node, made up for a test: a clock that stands, servers, the pods on the node,
/// and its memory, which is carried from one judgement to the next as a real host does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    /// The time.
    pub now: Timestamp,
    /// What is left of the time for a check.
    pub time_remaining: Duration,
    /// What servers answer, by URL. No other URL is allowed.
    pub answers: BTreeMap<String, Result<Response, String>>,
    /// What the last judgement asked for: URLs, in order.
    pub asked: Vec<String>,
    /// The headers that went with each of them, by name and value.
    pub headers: Vec<Vec<(String, String)>>,
    /// What is kept for the node; empty for nothing.
    pub memory: Vec<u8>,
    /// The pods on the node, or what the checker is told where they are not known.
    pub pods: Result<Vec<Pod>, String>,
}

impl Host {
    /// A host at this time, with an empty memory and no pods, that allows no request; a check has the second that the real host
    /// gives it.
    pub fn new(now: Timestamp) -> Host {
        Host {
            now,
            time_remaining: Duration::from_secs(1),
            answers: BTreeMap::new(),
            asked: Vec::new(),
            headers: Vec::new(),
            memory: Vec::new(),
            pods: Ok(Vec::new()),
        }
    }

    /// With a server that answers this URL, in place of its last answer.
    pub fn with_answer(mut self, url: &str, status: u16, body: &str) -> Host {
        self.answers.insert(url.to_owned(), Ok(Response { status, body: body.into() }));
        self
    }

    /// With a server from which nothing comes back, and what the checker is told about it.
    pub fn with_silence(mut self, url: &str, error: &str) -> Host {
        self.answers.insert(url.to_owned(), Err(error.to_owned()));
        self
    }

    /// With one more pod on the node, after those it has.
    pub fn with_pod(mut self, pod: Pod) -> Host {
        if let Ok(pods) = &mut self.pods {
            pods.push(pod);
        }
        self
    }

    /// Judges a node, natively.
    pub fn judge<C: Checker>(&mut self, node: &Node, settings: &C::Settings) -> Result<Verdict, String> {
        self.asked.clear();
        self.headers.clear();
        HOST.set(Some(self.clone()));
        let verdict = C::judge(node, settings);
        if let Some(host) = HOST.take() {
            *self = host;
        }
        verdict
    }
}

/// What the real host keeps for a node, unless the operator says otherwise.
const MEMORY: usize = 4 << 10;

thread_local! {
    /// The host of the judgement that runs on this thread.
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}

#[expect(clippy::expect_used, reason = "a test that gives no host must fail, and say why")]
fn with<T>(answer: impl FnOnce(&mut Host) -> T) -> T {
    HOST.with_borrow_mut(|host| {
        answer(host.as_mut().expect("the judgement uses what is granted: judge by `fixture::Host::judge`"))
    })
}

pub(crate) fn now() -> Timestamp {
    with(|host| host.now)
}

pub(crate) fn time_remaining() -> Duration {
    with(|host| host.time_remaining)
}

pub(crate) fn get(url: &str, headers: &[(&str, &str)]) -> Result<Response, String> {
    with(|host| {
        host.asked.push(url.to_owned());
        host.headers.push(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
        host.answers.get(url).cloned().unwrap_or_else(|| Err(format!("refused: {url} is not among the answers")))
    })
}

pub(crate) fn load() -> Option<Vec<u8>> {
    with(|host| Some(host.memory.clone()).filter(|blob| !blob.is_empty()))
}

pub(crate) fn store(blob: &[u8]) -> Result<(), String> {
    if blob.len() > MEMORY {
        return Err(format!("{} bytes are more than is kept for a node: limits.scratchpad is {MEMORY}", blob.len()));
    }
    with(|host| host.memory = blob.to_vec());
    Ok(())
}

pub(crate) fn pods() -> Result<Vec<Pod>, String> {
    with(|host| host.pods.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Description, clock, http, memory, pods};

    const URL: &str = "http://10.0.0.1/healthz";

    /// Counts its checks, and asks a server at each.
    struct Counter;

    impl Checker for Counter {
        type Settings = ();

        const DESCRIPTION: Description = Description {
            name: "Counter",
            version: "1",
            summary: "Counts its checks.",
            reasons: &[],
            default_threshold: Duration::ZERO,
        };

        fn judge(_: &impl crate::Node, _: &()) -> Result<Verdict, String> {
            let count = memory::load::<u64>().unwrap_or(0) + 1;
            memory::store(&count)?;
            let answer = http::get(URL, &[("accept", "application/json")])?;
            let reason = format!("{count} at {}: {}", clock::now(), answer.json::<String>()?);
            Ok(Verdict { healthy: answer.is_success(), reason, threshold: Some(clock::time_remaining()) })
        }
    }

    fn judge(host: &mut Host) -> Result<Verdict, String> {
        host.judge::<Counter>(&Node::new("node-1"), &())
    }

    #[test]
    fn a_judgement_gets_what_the_host_has_and_its_memory_is_carried_on() {
        let mut host = Host::new(1_000).with_silence(URL, "no answer within 2000 ms");
        assert_eq!(judge(&mut host), Err("no answer within 2000 ms".to_owned()));
        let mut host = Host { now: 2_000, ..host }.with_answer(URL, 204, "\"fine\"");
        assert_eq!(judge(&mut host), Ok(Verdict::pass("2 at 2000: fine").after(Duration::from_secs(1))));
        assert_eq!((host.memory.as_slice(), host.asked.as_slice()), (b"2".as_slice(), [URL.to_owned()].as_slice()));
        assert_eq!(host.headers, [[("accept".to_owned(), "application/json".to_owned())]]);
    }

    #[test]
    fn what_the_host_does_not_have_is_refused() {
        let refused = "refused: http://10.0.0.1/healthz is not among the answers";
        assert_eq!(judge(&mut Host::new(0)), Err(refused.to_owned()));
        let mut host = Host::new(0).with_answer(URL, 200, "<html>");
        let error = judge(&mut host).unwrap_err();
        assert!(error.starts_with("the answer is not what was expected: expected value"), "{error}");
    }

    #[test]
    fn what_another_build_stored_counts_for_nothing() {
        let mut host = Host { memory: b"\x02\xff".to_vec(), ..Host::new(0).with_answer(URL, 500, "\"\"") };
        assert_eq!(judge(&mut host), Ok(Verdict::fail("1 at 0: ").after(Duration::from_secs(1))));
    }

    #[test]
    fn a_large_blob_is_refused_and_an_empty_one_is_none() {
        HOST.set(Some(Host::new(0)));
        assert_eq!(memory::store_bytes(b"kept"), Ok(()));
        let refused = "4097 bytes are more than is kept for a node: limits.scratchpad is 4096";
        assert_eq!(memory::store_bytes(&[0; MEMORY + 1]), Err(refused.to_owned()));
        assert_eq!(memory::load_bytes().as_deref(), Some(b"kept".as_slice()));
        assert_eq!(memory::clear(), Ok(()));
        assert_eq!(memory::load_bytes(), None);
    }

    #[test]
    fn pods_are_those_of_the_host_or_not_known() {
        let pod = Pod { reason: "CrashLoopBackOff".to_owned(), ..Pod::default() };
        let host = Host::new(0).with_pod(pod.clone());
        HOST.set(Some(host.clone()));
        assert_eq!(pods::list(), Ok(vec![pod]));
        HOST.set(Some(Host { pods: Err("not listed yet".to_owned()), ..host }));
        assert_eq!(pods::list(), Err("not listed yet".to_owned()));
    }

    #[test]
    #[should_panic(expected = "judge by `fixture::Host::judge`")]
    fn a_judgement_without_a_host_fails_loudly() {
        let _verdict = Counter::judge(&Node::new("node-1"), &());
    }
}

//! The `civo` executor: hard reboots through the Civo API (`recovery` 6.4). The machine is matched exactly,
//! and the error says whether a request may have left this machine.

use std::time::Duration;

use apgar_core::decision::{Outcome, Refuser};
use apgar_core::node::Node;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use crate::error::chain;

/// How long the reboot may take to be answered (`gate` G-24): past it the outcome is unconfirmed, and a window
/// protects the node.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// How long the list of instances may take. It changes nothing, so giving up is harmless.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// How long connecting may take. Nothing was sent before it ends, so giving up is certain to be harmless.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The longest answer that is read: a cluster of 10,000 instances of 400 bytes each, doubled.
const ANSWER_BYTES: usize = 8 << 20;

/// The longest text of the other side that goes into a message.
const QUOTED_CHARS: usize = 200;

/// `Retry-After` is honoured up to this (`recovery` 4.6).
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// A client of one cluster's instances.
#[derive(Debug)]
pub struct Civo {
    client: reqwest::Client,
    url: String,
    cluster_id: String,
    region: String,
}

/// What the client needs to know.
#[derive(Debug)]
pub struct CivoSettings<'a> {
    /// The API key.
    pub api_key: &'a str,
    /// The API's base URL.
    pub api_url: &'a str,
    /// The cluster.
    pub cluster_id: &'a str,
    /// The region; may be empty.
    pub region: &'a str,
}

#[derive(Debug, Deserialize)]
struct Instance {
    id: String,
    /// A machine that is still being made has none.
    hostname: Option<String>,
}

impl Instance {
    fn is_named(&self, name: &str) -> bool {
        self.hostname.as_deref().is_some_and(|hostname| hostname.eq_ignore_ascii_case(name))
    }
}

#[derive(Deserialize)]
struct RebootAnswer {
    result: Option<String>,
}

impl Civo {
    /// Makes a client; nothing is sent.
    ///
    /// # Errors
    /// When the key cannot stand in a header, or the TLS set-up fails.
    pub fn new(settings: &CivoSettings<'_>) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        let mut bearer = HeaderValue::from_str(&format!("bearer {}", settings.api_key))
            .map_err(|_| anyhow::anyhow!("CIVO_API_KEY has characters that no HTTP header may carry"))?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let client = reqwest::Client::builder()
            .user_agent(format!("apgar/{}-{}", env!("CARGO_PKG_VERSION"), settings.cluster_id))
            .default_headers(headers)
            .connect_timeout(CONNECT_LIMIT)
            .timeout(CALL_LIMIT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            client,
            url: settings.api_url.trim_end_matches('/').to_owned(),
            cluster_id: settings.cluster_id.to_owned(),
            region: settings.region.to_owned(),
        })
    }

    /// Finds the node's instance anew and reboots it, once.
    pub async fn reboot(&self, node: &Node) -> Outcome {
        let instances = match self.instances().await {
            Ok(instances) => instances,
            Err(outcome) => return outcome,
        };
        match find(&instances, node) {
            Ok(id) => self.hard_reboot(id).await,
            Err(why) => Outcome::Refused { why, by: Refuser::Executor },
        }
    }

    /// Lists the cluster's instances. It changes nothing, so any trouble is `failed` and may be repeated.
    async fn instances(&self) -> Result<Vec<Instance>, Outcome> {
        let failed =
            |why: String, retry_after| Outcome::Failed { why: format!("listing instances: {why}"), retry_after };
        let url = format!("{}/v2/kubernetes/clusters/{}/instances", self.url, self.cluster_id);
        let sent = self.client.get(url).timeout(LIST_LIMIT).query(&self.region_query()).send().await;
        let answer = sent.map_err(|error| failed(chain(&error.without_url()), None))?;
        let (status, retry_after) = (answer.status(), retry_after(&answer));
        let body = read(answer).await.map_err(|why| failed(why, None))?;
        if !status.is_success() {
            return Err(failed(describe(status, &body), retry_after));
        }
        serde_json::from_slice(&body).map_err(|error| failed(format!("not a list of instances: {error}"), None))
    }

    async fn hard_reboot(&self, id: &str) -> Outcome {
        let url = format!("{}/v2/instances/{id}/hard_reboots", self.url);
        let body =
            if self.region.is_empty() { serde_json::json!({}) } else { serde_json::json!({ "region": self.region }) };
        let sent = self.client.post(url).query(&self.region_query()).json(&body).send().await;
        let answer = match sent {
            Ok(answer) => answer,
            // Name lookup, refused connection, TLS: nothing of the request was sent.
            Err(error) if error.is_connect() || error.is_builder() => {
                return Outcome::Failed { why: chain(&error.without_url()), retry_after: None };
            }
            Err(error) => return Outcome::Unconfirmed { why: chain(&error.without_url()) },
        };
        let (status, retry_after) = (answer.status(), retry_after(&answer));
        match read(answer).await {
            Ok(body) => outcome(status, retry_after, &body),
            Err(why) => Outcome::Unconfirmed { why },
        }
    }

    fn region_query(&self) -> Vec<(&'static str, &str)> {
        if self.region.is_empty() { Vec::new() } else { vec![("region", &self.region)] }
    }
}

/// The id of the one instance that is this node: by host name without regard to case, never by substring, and
/// by provider id where the node has one.
fn find<'a>(instances: &'a [Instance], node: &Node) -> Result<&'a str, String> {
    let mut matching = instances.iter().filter(|i| i.is_named(node.name.as_str()));
    let (Some(instance), None) = (matching.next(), matching.next()) else {
        let count = instances.iter().filter(|i| i.is_named(node.name.as_str())).count();
        return Err(format!(
            "NoSuchInstance: {count} of {} instances have the host name {}",
            instances.len(),
            node.name
        ));
    };
    match node.provider_id.strip_prefix("civo://") {
        Some(id) if id != instance.id => {
            Err(format!("NoSuchInstance: {} is instance {}, but its node says civo://{id}", node.name, instance.id))
        }
        Some(_) | None => Ok(&instance.id),
    }
}

/// The table of `recovery` 6.4.
fn outcome(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Outcome {
    let why = describe(status, body);
    match status.as_u16() {
        200..=299 if accepted(body) => Outcome::Done,
        200..=299 | 408 => Outcome::Unconfirmed { why },
        429 => Outcome::Failed { why, retry_after },
        503 if retry_after.is_some() => Outcome::Failed { why, retry_after },
        500..=599 => Outcome::Unconfirmed { why },
        404 | 410 | 422 => Outcome::Refused { why, by: Refuser::Executor },
        _ => Outcome::Failed { why, retry_after: None },
    }
}

/// True if the answer has no `result`, or says `success`.
fn accepted(body: &[u8]) -> bool {
    body.trim_ascii().is_empty()
        || serde_json::from_slice::<RebootAnswer>(body)
            .is_ok_and(|answer| answer.result.is_none_or(|result| result == "success"))
}

fn retry_after(answer: &Response) -> Option<Duration> {
    let text = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // A date: the answer's own clock tells how far it is ahead, so that ours does not matter.
        Err(_) => {
            let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            let date = answer.headers().get(reqwest::header::DATE)?.to_str().ok()?;
            let now = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
            Duration::try_from(until.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

async fn read(mut answer: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| chain(&error.without_url()))? {
        if body.len() + chunk.len() > ANSWER_BYTES {
            return Err(format!("the answer is longer than {} MiB", ANSWER_BYTES >> 20));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn describe(status: StatusCode, body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(QUOTED_CHARS).collect();
    if text.is_empty() { format!("{status}") } else { format!("{status}: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn instances() -> Vec<Instance> {
        [("i-1", "pool-a-10"), ("i-2", "Node-1"), ("i-3", "twice"), ("i-4", "twice")]
            .map(|(id, hostname)| Instance { id: id.into(), hostname: Some(hostname.into()) })
            .into()
    }

    #[track_caller]
    fn check_find(name: &str, provider_id: &str, expected: Result<&str, &str>) {
        let node = Node { provider_id: Arc::from(provider_id), ..Node::named(name) };
        match (find(&instances(), &node), expected) {
            (Ok(id), Ok(wanted)) => assert_eq!(id, wanted),
            (Err(why), Err(wanted)) => assert!(why.contains(wanted), "{why}"),
            (found, _) => panic!("{name}: {found:?}"),
        }
    }

    #[test]
    fn r_78_g_19_an_instance_is_matched_exactly_or_not_at_all() {
        check_find("pool-a-1", "", Err("0 of 4"));
        check_find("node-1", "", Ok("i-2"));
        check_find("node-1", "civo://i-2", Ok("i-2"));
        check_find("node-1", "civo://i-9", Err("civo://i-9"));
        check_find("node-1", "k3s://node-1", Ok("i-2"));
        check_find("twice", "", Err("2 of 4"));
    }

    #[test]
    fn the_answer_s_table_of_6_4() {
        let minute = Some(Duration::from_secs(60));
        for (status, retry_after, body, expected) in [
            (200, None, r#"{"result":"success"}"#, "done"),
            (202, None, "", "done"),
            (200, None, r#"{"id":"x"}"#, "done"),
            (200, None, r#"{"result":"pending"}"#, "unconfirmed"),
            (200, None, "<html>", "unconfirmed"),
            (408, None, "", "unconfirmed"),
            (500, None, "", "unconfirmed"),
            (504, minute, "", "unconfirmed"),
            (503, None, "", "unconfirmed"),
            (503, minute, "", "failed"),
            (429, None, "", "failed"),
            (404, None, "", "refused"),
            (410, None, "", "refused"),
            (422, None, "", "refused"),
            (401, None, "", "failed"),
            (403, None, "", "failed"),
            (302, None, "", "failed"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(outcome(status, retry_after, body.as_bytes()).as_str(), expected, "{status} {body}");
        }
    }
}

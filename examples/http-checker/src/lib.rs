//! An example that uses what is granted: a node whose kube-proxy is stuck looks well to its kubelet, yet Services
//! no longer work there. So it is asked itself: by `http`, with the failures in a row in `memory`, by the `clock`.

use std::time::Duration;

use apgar_checker::http::Response;
use apgar_checker::{Checker, Description, Node, Timestamp, Verdict, clock, http, log, memory};
use serde::{Deserialize, Serialize};

/// The checker.
pub struct ProxyHealth;

/// What stands in `[checker.proxy-health] settings = { .. }`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The annotation with the node's address. Of several, separated by commas, the first is asked.
    pub annotation: String,
    /// The port of the health endpoint.
    pub port: u16,
    /// Its path.
    pub path: String,
    /// So many failures in a row are one too many: a single one is a restart.
    pub failures: u32,
    /// A failure that is longer ago than this many seconds begins no row: nobody looked in between.
    pub forget_seconds: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            annotation: "alpha.kubernetes.io/provided-node-ip".to_owned(),
            port: 10256,
            path: "/healthz".to_owned(),
            failures: 3,
            forget_seconds: 300,
        }
    }
}

impl apgar_checker::Settings for Settings {
    fn validate(&self) -> Result<(), String> {
        if !self.path.starts_with('/') {
            return Err("path: must begin with a slash".to_owned());
        }
        Ok(())
    }
}

/// What one check tells the next.
#[derive(Deserialize, Serialize)]
struct Row {
    failures: u32,
    last: Timestamp,
}

impl Checker for ProxyHealth {
    type Settings = Settings;

    const DESCRIPTION: Description = Description {
        name: "ProxyHealth",
        version: env!("CARGO_PKG_VERSION"),
        summary: "Fails while the node's kube-proxy says, several times in a row, that it is not well.",
        reasons: &["ProxyHealthy", "ProxyUnhealthy"],
        default_threshold: Duration::from_mins(5),
    };

    fn judge(node: &impl Node, settings: &Settings) -> Result<Verdict, String> {
        let Settings { annotation, port, path, .. } = settings;
        let addresses = node.annotation(annotation).ok_or_else(|| format!("no annotation {annotation}"))?;
        let address = addresses.split(',').next().unwrap_or_default();
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let answer = ask(&format!("http://{host}:{port}{path}"))?;
        if answer.is_success() {
            memory::clear()?;
            return Ok(Verdict::pass("ProxyHealthy"));
        }

        let now = clock::now();
        let recent = |row: &Row| now.saturating_sub(row.last) <= settings.forget_seconds.saturating_mul(1_000);
        let failures = memory::load().filter(recent).map_or(0, |row| row.failures).saturating_add(1);
        memory::store(&Row { failures, last: now })?;
        let said = format!("status {}, {failures} in a row", answer.status);
        if failures < settings.failures {
            return Err(said);
        }
        log::info(&said);
        Ok(Verdict::fail("ProxyUnhealthy"))
    }
}

/// A request is given 2 s: with less left, the check would be ended before it could say what it knows.
const ENOUGH: Duration = Duration::from_secs(3);

/// Asks, and once more if nothing came back. Silence is no failure: the list of servers may lack this one, or the
/// network between may be down, and for neither should a node be repaired.
fn ask(url: &str) -> Result<Response, String> {
    match http::get(url, &[]) {
        Err(_) if clock::time_remaining() >= ENOUGH => http::get(url, &[]),
        answer => answer,
    }
}

apgar_checker::export!(ProxyHealth, settings);

#[cfg(test)]
mod tests {
    use super::*;
    use apgar_checker::fixture::{self, Host};
    use apgar_checker::parse_settings;

    const URL: &str = "http://10.0.0.7:10256/healthz";
    const MINUTE: Timestamp = 60_000;

    fn judge(host: &mut Host) -> Result<Verdict, String> {
        let node = fixture::Node::new("node-1").with_annotation("alpha.kubernetes.io/provided-node-ip", "10.0.0.7");
        host.judge::<ProxyHealth>(&node, &Settings::default())
    }

    #[track_caller]
    fn cannot_tell(host: &mut Host, why: &str) {
        assert_eq!(judge(host), Err(why.to_owned()));
    }

    #[test]
    fn the_third_failure_in_a_row_is_one_too_many() {
        let mut host = Host::new(MINUTE).with_answer(URL, 503, "");
        cannot_tell(&mut host, "status 503, 1 in a row");
        host.now += MINUTE;
        cannot_tell(&mut host, "status 503, 2 in a row");
        host.now += MINUTE;
        assert_eq!(judge(&mut host), Ok(Verdict::fail("ProxyUnhealthy")));
        assert_eq!(host.asked, [URL]);

        let mut host = host.with_answer(URL, 200, "");
        assert_eq!(judge(&mut host), Ok(Verdict::pass("ProxyHealthy")));
        cannot_tell(&mut host.with_answer(URL, 503, ""), "status 503, 1 in a row");
    }

    #[test]
    fn a_failure_of_long_ago_begins_no_row() {
        let mut host = Host::new(MINUTE).with_answer(URL, 503, "");
        cannot_tell(&mut host, "status 503, 1 in a row");
        host.now += 5 * MINUTE + 1;
        cannot_tell(&mut host, "status 503, 1 in a row");
        // The clock was set back: less time has passed, never more.
        host.now -= MINUTE;
        cannot_tell(&mut host, "status 503, 2 in a row");
    }

    #[test]
    fn silence_is_no_failure_and_is_asked_twice_if_there_is_time() {
        let silence = "no answer within 2000 ms";
        let mut host = Host::new(MINUTE).with_silence(URL, silence);
        cannot_tell(&mut host, silence);
        assert_eq!(host.asked, [URL]);
        host.time_remaining = ENOUGH;
        cannot_tell(&mut host, silence);
        assert_eq!(host.asked, [URL, URL]);
        assert!(host.memory.is_empty());
    }

    #[test]
    fn the_annotation_says_where() {
        let mut host = Host::new(MINUTE).with_answer("http://[fd00::7]:80/", 204, "");
        let settings = parse_settings(r#"{"annotation":"ip","port":80,"path":"/"}"#).unwrap();
        let node = fixture::Node::new("node-1");
        let verdict = host.judge::<ProxyHealth>(&node, &settings);
        assert_eq!(verdict, Err("no annotation ip".to_owned()));
        let verdict = host.judge::<ProxyHealth>(&node.with_annotation("ip", "fd00::7,10.0.0.7"), &settings);
        assert_eq!(verdict, Ok(Verdict::pass("ProxyHealthy")));
        let error = parse_settings::<Settings>(r#"{"path":"healthz"}"#).unwrap_err();
        assert_eq!(error, "path: must begin with a slash");
    }
}

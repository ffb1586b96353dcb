//! Requests that guests were granted to make: GET, to listed servers, by a client of the host's own on a thread of
//! its own. What is not allowed, fails or takes too long is an error for the guest and never its death.
//!
//! Where a request may go is decided twice: by its URL, before anything is sent, and by the addresses that a name
//! resolves to, of which the connection uses no other. So a listed name cannot lead to an address that is not
//! public, unless that is listed as well.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::limits;
use crate::task::Task;
use crate::text;

/// One server, or the servers of one network, that a plugin may ask: `https://api.example.com`,
/// `http://10.0.0.0/8:9100`, `http://[fd00::/8]:9100`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowed {
    tls: bool,
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    /// In lower case, as URLs have it.
    Name(String),
    /// A network; a single address is one of full length.
    Net(IpAddr, u8),
}

/// What may stand in the list of servers.
const ACCEPTED: &str = "http:// or https://, a host name, an address or a network, and a port unless it is 80 or 443, \
                        as \"https://api.example.com\", \"http://10.0.0.0/8:9100\" or \"http://[fd00::/8]:9100\"";

/// A text that names no server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no server to be asked; accepted: {ACCEPTED}")]
pub struct NotAServer(String);

impl Allowed {
    /// What may be written, for messages.
    pub const ACCEPTED: &'static str = ACCEPTED;

    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = is_tls(scheme)?;
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (inside, port) = rest.split_once(']')?;
                (net(inside).filter(|host| matches!(host, Host::Net(IpAddr::V6(_), _)))?, port.strip_prefix(':'))
            }
            None => {
                let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
                (net(host).or_else(|| name(host))?, port)
            }
        };
        let port = port.map_or(Some(default_port(tls)), |port| port.parse().ok().filter(|port| *port != 0))?;
        let allowed = Self { tls, host, port };
        // Whatever was left over beside port and bracket is caught by writing it down again.
        let written = allowed.to_string();
        let ported = format!("{written}:{port}");
        [written, ported].iter().any(|known| known.eq_ignore_ascii_case(text)).then_some(allowed)
    }
}

impl FromStr for Allowed {
    type Err = NotAServer;

    fn from_str(text: &str) -> Result<Self, NotAServer> {
        Self::parse(text).ok_or_else(|| NotAServer(text.to_owned()))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "https://" } else { "http://" })?;
        match &self.host {
            Host::Name(name) => f.write_str(name)?,
            Host::Net(IpAddr::V4(address), 32) => write!(f, "{address}")?,
            Host::Net(IpAddr::V4(address), length) => write!(f, "{address}/{length}")?,
            Host::Net(IpAddr::V6(address), 128) => write!(f, "[{address}]")?,
            Host::Net(IpAddr::V6(address), length) => write!(f, "[{address}/{length}]")?,
        }
        if self.port != default_port(self.tls) { write!(f, ":{}", self.port) } else { Ok(()) }
    }
}

fn is_tls(scheme: &str) -> Option<bool> {
    match scheme {
        "http" => Some(false),
        "https" => Some(true),
        _ => None,
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn net(text: &str) -> Option<Host> {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().ok()?;
    let full = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(full), |length| length.parse().ok().filter(|length| *length <= full))?;
    Some(Host::Net(address, length))
}

fn name(text: &str) -> Option<Host> {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    if text.is_empty() || !text.chars().all(letter) {
        return None;
    }
    // As a URL would spell it; digits and dots that are an address in disguise come out as one and are no name.
    let url = Url::parse(&format!("http://{text}/")).ok()?;
    let host = url.host_str()?;
    host.parse::<IpAddr>().is_err().then(|| Host::Name(host.to_owned()))
}

/// True if `address` is in the network. An IPv4 address is the same in its IPv6 spelling.
fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let (network, address, width) = match (network, address.to_canonical()) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(u32::from(network)), u128::from(u32::from(address)), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (u128::from(network), u128::from(address), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    // A network of length 0 has everything; shifting by the whole width is no shift that the language knows.
    (network ^ address).checked_shr(u32::from(width - length)).is_none_or(|rest| rest == 0)
}

/// True for an address that is somebody else's on the internet: not of this host, of this network, of a cloud's
/// metadata, or of many.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            let special = address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_documentation()
                || a == 0
                || a >= 224
                || (a == 100 && (64..128).contains(&b)) // shared by carriers, and clouds' metadata
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b == 18 || b == 19)); // benchmarks
            !special
        }
        IpAddr::V6(address) => {
            // All that is public is in 2000::/3; what is in there and carries an IPv4 address could hide any.
            let [a, b, ..] = address.segments();
            (a & 0xe000) == 0x2000 && a != 0x2002 && !(a == 0x2001 && (b == 0 || b == 0xdb8))
        }
    }
}

/// Why a request was not made. The guest is told; it is counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("no request is made while the plugin is loaded")]
    Loading,
    #[error("limits.http_calls is {0}, and all of them are used up")]
    Calls(u32),
    #[error("not a URL: {0}")]
    Url(String),
    #[error("{0}: is not asked; accepted: http and https")]
    Scheme(String),
    #[error("{server} is not in the list. To allow it: [checker.{plugin}] http_allow = [\"{server}\"]")]
    Unlisted { server: String, plugin: String },
    #[error(
        "{name} resolves to {address}, which is not public. To allow it: [checker.{plugin}] http_allow with that \
         address or its network"
    )]
    NotPublic { name: String, address: IpAddr, plugin: String },
    #[error("{0} headers are too many: there may be {most}", most = limits::HTTP_HEADERS)]
    Headers(usize),
    #[error("header {0:?} is not the guest's to set")]
    Header(String),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("failed: {0}")]
    Otherwise(String),
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// The thread that requests are made on: not the guests', whose time is counted and taken up by other guests.
/// There is none until a plugin needs it.
#[derive(Debug, Default)]
pub(crate) struct Threads(Mutex<Option<Runtime>>);

/// Names being resolved at once, in the whole engine. The system's resolver cannot be stopped and may take half a
/// minute, long after its request has timed out.
const RESOLVERS: usize = 16;

impl Threads {
    fn handle(&self) -> io::Result<Handle> {
        let mut runtime = crate::lock(&self.0);
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let new = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(RESOLVERS)
            .thread_name("apgar-http")
            .enable_all()
            .build()?;
        Ok(runtime.insert(new).handle().clone())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = crate::lock(&self.0).take() {
            runtime.shutdown_background(); // waiting is not done where the last clone of an engine often goes
        }
    }
}

/// The client of one plugin.
pub(crate) struct Asker {
    plugin: Arc<str>,
    allow: Arc<[Allowed]>,
    client: Client,
    threads: Handle,
}

/// The client that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoClient {
    #[error("the thread for requests cannot be started: {0}")]
    Thread(#[from] io::Error),
    #[error("the client for requests cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// Headers that say how a message is sent and not what is asked for: set by a guest they could smuggle a second
/// request into the connection, or ask another server by the same one.
const OURS: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Asker {
    pub(crate) fn new(threads: &Threads, plugin: &str, allow: &[Allowed]) -> Result<Self, NoClient> {
        // Another client of this process may have done it; they all want the same.
        let _already: Result<(), _> = rustls::crypto::ring::default_provider().install_default();
        let (plugin, allow): (Arc<str>, Arc<[Allowed]>) = (plugin.into(), allow.into());
        let client = Client::builder()
            .user_agent(concat!("apgar/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host(limits::HTTP_PERMITS)
            .dns_resolver(Checked { plugin: plugin.clone(), allow: allow.clone() })
            .build()?;
        Ok(Self { plugin, allow, client, threads: threads.handle()? })
    }

    /// Asks for `url`. Whatever happens, it is over after `limit`.
    pub(crate) async fn get(
        &self,
        url: &str,
        headers: Vec<(String, String)>,
        limit: Duration,
    ) -> Result<Fetched, Failed> {
        let url = self.permit(url)?;
        let headers = checked(headers)?;
        let request = self.client.get(url).headers(headers);
        let asked = self.threads.spawn(async move {
            let answer = tokio::time::timeout(limit, fetch(request)).await;
            answer.unwrap_or(Err(Failed::TimedOut(limit)))
        });
        // A check that is ended while it waits takes its request with it.
        match Task(asked).await {
            Ok(answer) => answer,
            Err(error) => Err(Failed::Otherwise(error.to_string())),
        }
    }

    fn permit(&self, text: &str) -> Result<Url, Refused> {
        let url = Url::parse(text).map_err(|error| Refused::Url(error.to_string()))?;
        let tls = is_tls(url.scheme()).ok_or_else(|| Refused::Scheme(url.scheme().to_owned()))?;
        let text = url.host_str().unwrap_or_default();
        let host = net(text.trim_matches(['[', ']'])).unwrap_or_else(|| Host::Name(text.to_owned()));
        let asked = Allowed { tls, host, port: url.port_or_known_default().unwrap_or(default_port(tls)) };
        let listed = self.allow.iter().any(|allowed| {
            let same_host = match (&allowed.host, &asked.host) {
                (Host::Name(listed), Host::Name(name)) => listed == name,
                (Host::Net(network, length), Host::Net(address, _)) => contains(*network, *length, *address),
                (Host::Name(_), Host::Net(..)) | (Host::Net(..), Host::Name(_)) => false,
            };
            (allowed.tls, allowed.port, same_host) == (asked.tls, asked.port, true)
        });
        if listed {
            return Ok(url);
        }
        Err(Refused::Unlisted { server: asked.to_string(), plugin: self.plugin.to_string() })
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("plugin", &self.plugin).field("allow", &self.allow).finish_non_exhaustive()
    }
}

fn checked(headers: Vec<(String, String)>) -> Result<HeaderMap, Refused> {
    if headers.len() > limits::HTTP_HEADERS {
        return Err(Refused::Headers(headers.len()));
    }
    let mut checked = HeaderMap::new();
    for (name, value) in headers {
        let header = HeaderName::from_str(&name).ok().zip(HeaderValue::from_str(&value).ok());
        match header {
            Some((known, value)) if !OURS.contains(&known.as_str()) => checked.append(known, value),
            Some(_) | None => return Err(Refused::Header(name)),
        };
    }
    Ok(checked)
}

async fn fetch(request: reqwest::RequestBuilder) -> Result<Fetched, Failed> {
    let mut response = request.send().await.map_err(Failed::of)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    // Dropping a response that was not read to its end closes the connection.
    while let Some(chunk) = response.chunk().await.map_err(Failed::of)? {
        let room = limits::HTTP_BODY - body.len();
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if body.len() == limits::HTTP_BODY {
            break;
        }
    }
    Ok(Fetched { status, body })
}

impl Failed {
    fn of(error: reqwest::Error) -> Self {
        let mut cause: &dyn std::error::Error = &error;
        loop {
            if let Some(refused) = cause.downcast_ref::<Refused>() {
                return refused.clone().into();
            }
            match cause.source() {
                Some(deeper) => cause = deeper,
                // The innermost says what happened; what is around it says that it happened in a request.
                None => break,
            }
        }
        let mut why = cause.to_string();
        text::clean(&mut why);
        text::cut(&mut why, limits::REASON);
        Self::Otherwise(why)
    }
}

/// Resolves names to the addresses that the plugin may be connected with, and to no others.
struct Checked {
    plugin: Arc<str>,
    allow: Arc<[Allowed]>,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let (plugin, allow) = (self.plugin.clone(), self.allow.clone());
        Box::pin(async move {
            let name = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name, 0)).await?.collect();
            let (allowed, others): (Vec<SocketAddr>, Vec<SocketAddr>) =
                found.into_iter().partition(|found| may_connect(&allow, found.ip()));
            match others.first() {
                Some(other) if allowed.is_empty() => {
                    let (name, address) = (name.to_owned(), other.ip());
                    Err(Refused::NotPublic { name, address, plugin: plugin.to_string() }.into())
                }
                Some(_) | None => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

fn may_connect(allow: &[Allowed], address: IpAddr) -> bool {
    let listed = |allowed: &Allowed| match &allowed.host {
        Host::Net(network, length) => contains(*network, *length, address),
        Host::Name(_) => false,
    };
    is_public(address) || allow.iter().any(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str) -> Allowed {
        text.parse().unwrap()
    }

    #[test]
    fn a_server_is_written_as_it_was_read() {
        for text in [
            "https://api.example.com",
            "https://api.example.com:8443",
            "http://10.0.0.0/8:9100",
            "http://10.1.2.3",
            "http://[fd00::/8]:9100",
            "https://[2001:db8::1]",
        ] {
            assert_eq!(allowed(text).to_string(), text);
        }
        assert_eq!(allowed("https://API.Example.com:443").to_string(), "https://api.example.com");
    }

    #[test]
    fn what_names_no_server_is_refused() {
        for text in [
            "",
            "api.example.com",
            "ftp://api.example.com",
            "file:///etc/passwd",
            "https://",
            "https://*.example.com",
            "https://api.example.com/",
            "https://api.example.com/path",
            "https://user@api.example.com",
            "https://api.example.com:0",
            "https://api.example.com:65536",
            "https://api.example.com:",
            "http://10.0.0.0/33",
            "http://10.0.0/8",
            "http://0x7f000001",
            "http://2130706433",
            "http://[fd00::/8]9100",
            "http://[10.0.0.1]",
            "http://[fd00::/8",
        ] {
            assert!(text.parse::<Allowed>().is_err(), "{text}");
        }
    }

    #[track_caller]
    fn check(allow: &[&str], url: &str, expected: Result<(), &str>) {
        let allow: Vec<Allowed> = allow.iter().map(|text| allowed(text)).collect();
        let asker =
            Asker { plugin: "gpu".into(), allow: allow.into(), client: Client::new(), threads: Handle::current() };
        let result = asker.permit(url).map(drop).map_err(|why| why.to_string());
        match (result, expected) {
            (Ok(()), Ok(())) => {}
            (Err(why), Err(words)) => assert!(why.contains(words), "{why}"),
            (result, _) => panic!("{url}: {result:?}"),
        }
    }

    #[tokio::test]
    async fn a_url_must_match_in_scheme_host_and_port() {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let api = ["https://api.example.com"];
        check(&api, "https://api.example.com/v1?x=y", Ok(()));
        check(&api, "https://API.EXAMPLE.COM:443/", Ok(()));
        check(&api, "http://api.example.com/", Err("[checker.gpu] http_allow = [\"http://api.example.com\"]"));
        check(&api, "https://api.example.com:8443/", Err("https://api.example.com:8443 is not in the list"));
        check(&api, "https://api.example.com@evil.example/", Err("https://evil.example is not"));
        check(&api, "https://api.example.com.evil.example/", Err("is not in the list"));
        check(&api, "https://api.example.com./", Err("is not in the list"));
        check(&api, "file:///etc/passwd", Err("file: is not asked"));
        check(&api, "/v1", Err("not a URL"));
        check(&[], "https://api.example.com", Err("is not in the list"));

        let net = ["http://10.0.0.0/8:9100", "http://[fd00::/8]"];
        check(&net, "http://10.200.3.4:9100/metrics", Ok(()));
        check(&net, "http://0x0a.1:9100/", Ok(())); // the same as 10.0.0.1, and seen to be
        check(&net, "http://[::ffff:10.0.0.1]:9100/", Ok(()));
        check(&net, "http://11.0.0.1:9100/", Err("http://11.0.0.1:9100 is not"));
        check(&net, "http://10.0.0.1/", Err("http://10.0.0.1 is not"));
        check(&net, "http://[fd12::1]/", Ok(()));
        check(&net, "http://[fe80::1]/", Err("http://[fe80::1] is not"));
        check(&["http://0.0.0.0/0"], "http://127.0.0.1/", Ok(())); // somebody wrote it down
    }

    #[test]
    fn an_address_that_is_not_public_must_be_listed() {
        let none = [allowed("https://api.example.com"), allowed("http://10.0.0.0/8")];
        for public in ["1.1.1.1", "203.0.114.1", "100.63.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(may_connect(&none, public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "127.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "2001:0:a9fe:a9fe::",
        ] {
            assert!(!may_connect(&none, other.parse().unwrap()), "{other}");
        }
        for listed in ["10.1.2.3", "::ffff:10.1.2.3"] {
            assert!(may_connect(&none, listed.parse().unwrap()), "{listed}");
        }
    }

    #[test]
    fn headers_that_steer_the_connection_are_ours() {
        let header = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        assert!(checked(header("Accept", "text/plain")).is_ok());
        for (name, value) in
            [("Host", "evil.example"), ("transfer-encoding", "chunked"), ("a b", "c"), ("x-a", "b\r\nhost: c")]
        {
            assert_eq!(checked(header(name, value)), Err(Refused::Header(name.to_owned())));
        }
        assert_eq!(checked(vec![("x-a".to_owned(), "b".to_owned()); 17]), Err(Refused::Headers(17)));
    }
}

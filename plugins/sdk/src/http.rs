//! GET requests, for a checker that was granted them: `grants = ["http"]`, with the servers it may ask in
//! `http_allow`. Whoever asks is not pure: the host then asks the checker at every tick.

use serde::de::DeserializeOwned;

use crate::host;

/// What a server answered, whatever its status.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Response {
    /// As in 200. A redirect is not followed, and is no success.
    pub status: u16,
    /// Undecoded; of a longer one the first 64 KiB.
    pub body: Vec<u8>,
}

impl Response {
    /// True for a status of 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON. An `Err` is for people.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.body).map_err(|error| format!("the answer is not what was expected: {error}"))
    }
}

/// Asks for a URL, with these headers by name and value. There are at most 4 requests of 2 s a check, unless the
/// operator says otherwise.
///
/// An `Err` is for people: no answer in time, no connection, or a server that `http_allow` does not list. It may be
/// about the operator's configuration or the network between, so it says nothing about the node: return it.
pub fn get(url: &str, headers: &[(&str, &str)]) -> Result<Response, String> {
    host::get(url, headers)
}

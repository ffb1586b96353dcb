//! How commands ask a running daemon.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// How long the daemon may take: it answers between two turns.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Sends one request without a body to the daemon at `api` and waits for the answer; `path` are the segments below
/// `/api/v1`. An answer without JSON is null.
pub(crate) fn ask(api: &str, method: Method, path: &[&str]) -> anyhow::Result<(StatusCode, Value)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        crate::kubernetes::install_crypto();
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_LIMIT).build()?;
        let mut url = reqwest::Url::parse(&format!("http://{api}/api/v1"))?;
        // Pushed as segments, so that an odd name cannot become another path.
        url.path_segments_mut().ok().context("the API's address cannot carry a path")?.extend(path);
        let answer = client.request(method, url).send().await.with_context(|| {
            format!("no answer from a daemon at {api}; is `apgar run` running, and is its api.listen another?")
        })?;
        let status = answer.status();
        let text = answer.text().await?;
        if status.is_success() && status != StatusCode::NO_CONTENT {
            return Ok((status, serde_json::from_str(&text).context("the daemon's answer is not JSON")?));
        }
        Ok((status, serde_json::from_str(&text).unwrap_or_default()))
    })
}

/// What the daemon said against it, as an error.
pub(crate) fn refused<T>(api: &str, status: StatusCode, answer: &Value) -> anyhow::Result<T> {
    let text = |pointer| answer.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (text("/error/message"), text("/error/hint")) {
        (Some(message), Some(hint)) => bail!("{message}; {hint}"),
        (Some(message), None) => bail!("{message}"),
        (None, _) => bail!("the daemon at {api} answered {status}"),
    }
}

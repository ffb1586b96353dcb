//! The Kubernetes client: from a kubeconfig or from inside a cluster, with one TLS stack.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::Value;
use tokio::time::timeout;

use crate::config::Kubeconfig as Source;
use crate::error::chain;
use crate::object::{Kind, Nodes, Raw};

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How long connecting may take; retries are the caller's.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A list page or the opening of a watch that takes longer has failed: the API server's own limit for requests
/// is 60 s.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Makes rustls use ring for every client in this process; kube and reqwest share it.
pub fn install_crypto() {
    // An error says that it is installed already, which is what is wanted.
    let _already: Result<(), _> = rustls::crypto::ring::default_provider().install_default();
}

/// The credentials of these settings (`recovery` 6.2).
///
/// # Errors
/// When none can be found or read; the message names what was looked at.
pub async fn config(kubeconfig: &Source) -> anyhow::Result<Config> {
    let config = match kubeconfig {
        Source::InCluster => Config::incluster().context("in-cluster, because --kubeconfig is empty")?,
        Source::File(path) => from_file(path).await?,
        Source::Default(path) if path.exists() => from_file(path).await?,
        Source::Default(_) if Path::new(SERVICE_ACCOUNT).exists() => Config::incluster().context("in-cluster")?,
        Source::Default(path) => bail!(
            "no cluster: neither {} nor {SERVICE_ACCOUNT} exists; name a kubeconfig by --kubeconfig",
            path.display()
        ),
    };
    Ok(config)
}

async fn from_file(path: &Path) -> anyhow::Result<Config> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.with_context(|| format!("kubeconfig {}", path.display()))
}

/// A client.
///
/// # Errors
/// When the credentials cannot be used.
pub fn client(mut config: Config) -> anyhow::Result<Client> {
    config.connect_timeout = Some(CONNECT_LIMIT);
    // Off: kube would repeat calls by itself for up to a quarter of an hour, and nobody would notice.
    config.default_retry = false;
    install_crypto();
    Client::try_from(config).context("Kubernetes client")
}

/// All Node objects of a cluster, once: for `apgar check`, by kubectl's rules where no kubeconfig is given.
///
/// # Errors
/// When the cluster cannot be reached.
pub async fn list_nodes(kubeconfig: Option<&Path>) -> anyhow::Result<Vec<Value>> {
    install_crypto();
    let config = match kubeconfig.map(PathBuf::from) {
        Some(path) => from_file(&path).await?,
        None => {
            Config::infer().await.context("no files given and no cluster found; name files, `-` or --kubeconfig")?
        }
    };
    let server = config.cluster_url.clone();
    let api = Api::all(client(config)?);
    let mut nodes = Vec::new();
    let take = |page: Vec<Raw<Nodes>>| nodes.extend(page.into_iter().map(|raw| raw.value));
    let listed = list(&api, &Selection::default(), take).await;
    listed.map_err(|why| anyhow::anyhow!("listing the nodes of {server}: {why}"))?;
    Ok(nodes)
}

/// Which objects of a kind.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// A selector of labels; none for all.
    pub labels: Option<String>,
    /// A selector of fields; none for all.
    pub fields: Option<String>,
}

/// Lists the selected objects a page at a time, so that only one is held as JSON. Returns the resource version that a
/// watch goes on from.
///
/// # Errors
/// For people: what the API server said, or that it said nothing in time.
pub async fn list<K: Kind>(
    api: &Api<Raw<K>>,
    selection: &Selection,
    mut take: impl FnMut(Vec<Raw<K>>),
) -> Result<String, String> {
    let Selection { labels, fields } = selection.clone();
    let mut params =
        ListParams { label_selector: labels, field_selector: fields, ..ListParams::default() }.limit(K::PAGE);
    loop {
        let page = timeout(ANSWER_LIMIT, api.list(&params))
            .await
            .map_err(|_| format!("no answer within {} s", ANSWER_LIMIT.as_secs()))?
            .map_err(|error| chain(&error))?;
        take(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(page.metadata.resource_version.unwrap_or_default()),
        }
    }
}

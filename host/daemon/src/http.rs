//! The two HTTP servers: metrics with the probes, and the local API. Both only ask the loop; it answers between
//! two turns.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use apgar_core::verdict::CheckerKey;
use apgar_engine::UnloadError;
use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// How long the loop may take to answer: a loop that is silent for longer is stuck, and `/healthz` says so.
const LOOP_LIMIT: Duration = Duration::from_secs(5);

/// A question to the loop; the answer goes back through the sender.
#[derive(Debug)]
pub enum Query {
    /// All metrics, as text.
    Metrics(oneshot::Sender<String>),
    /// Everything that keeps the daemon from being ready; empty: ready.
    Readiness(oneshot::Sender<Vec<String>>),
    /// All nodes in short.
    Nodes(oneshot::Sender<Value>),
    /// How many nodes are in each phase.
    Phases(oneshot::Sender<Value>),
    /// A node's report; `None`: not tracked.
    Explain(String, oneshot::Sender<Option<Value>>),
    /// The plugins and their states.
    Plugins(oneshot::Sender<Value>),
    /// What happened to plugins lately.
    Events(oneshot::Sender<Value>),
    /// Take away a plugin whose file is gone.
    Unload(CheckerKey, oneshot::Sender<Result<(), UnloadError>>),
}

/// Asks the loop.
#[derive(Debug, Clone)]
pub struct Asker(pub mpsc::Sender<Query>);

impl Asker {
    /// The answer, or `None` if the loop gave none in time.
    pub async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.0.send(query(reply)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(LOOP_LIMIT, asked).await.ok().flatten()
    }
}

/// Binds an address, naming it in the error.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn bind(address: SocketAddr, what: &str, remedy: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{what} cannot listen on {address}; {remedy}"))
}

/// Serves metrics on every path but the probes.
pub async fn serve_metrics(listener: TcpListener, asker: Asker) {
    let router =
        Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).fallback(metrics).with_state(asker);
    serve(listener, router).await;
}

/// Serves the API.
pub async fn serve_api(listener: TcpListener, asker: Asker) {
    let router = Router::new()
        .route("/api/v1/nodes", get(nodes))
        .route("/api/v1/nodes/{name}", get(explain))
        .route("/api/v1/nodes/{name}/explain", get(explain))
        .route("/api/v1/phases", get(phases))
        .route("/api/v1/plugins", get(plugins))
        .route("/api/v1/events", get(events))
        .route("/api/v1/plugins/{name}", get(plugin).delete(unload))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "unknown_path", "no such path", "try /api/v1/nodes") })
        .with_state(asker);
    serve(listener, router).await;
}

/// Serves until the listener dies; that ends the daemon (`recovery` 6.1).
async fn serve(listener: TcpListener, router: Router) {
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(event = "listener_died", %error, "a listener died");
    }
}

async fn metrics(State(asker): State<Asker>) -> Response {
    match asker.ask(Query::Metrics).await {
        Some(text) => {
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        None => stuck(),
    }
}

async fn healthz(State(asker): State<Asker>) -> Response {
    match asker.ask(Query::Readiness).await {
        Some(_) => "ok\n".into_response(),
        None => stuck(),
    }
}

async fn readyz(State(asker): State<Asker>) -> Response {
    match asker.ask(Query::Readiness).await {
        Some(reasons) if reasons.is_empty() => "ok\n".into_response(),
        Some(reasons) => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response(),
        None => stuck(),
    }
}

async fn nodes(State(asker): State<Asker>) -> Response {
    answer(asker.ask(Query::Nodes).await)
}

async fn phases(State(asker): State<Asker>) -> Response {
    answer(asker.ask(Query::Phases).await)
}

async fn plugins(State(asker): State<Asker>) -> Response {
    answer(asker.ask(Query::Plugins).await)
}

async fn events(State(asker): State<Asker>) -> Response {
    answer(asker.ask(Query::Events).await)
}

async fn plugin(State(asker): State<Asker>, Path(name): Path<String>) -> Response {
    let Some(mut all) = asker.ask(Query::Plugins).await else {
        return stuck();
    };
    let items = all.get_mut("items").and_then(Value::as_array_mut);
    let mut found =
        items.into_iter().flatten().filter(|item| item.get("name").is_some_and(|its| *its == name.as_str()));
    found.next().map_or_else(|| unknown_plugin(&name), |item| Json(item.take()).into_response())
}

async fn unload(State(asker): State<Asker>, Path(name): Path<String>) -> Response {
    let key = CheckerKey::from(name.as_str());
    let conflict = |message: &str, hint| error(StatusCode::CONFLICT, "plugin_in_use", message, hint);
    match asker.ask(|reply| Query::Unload(key, reply)).await {
        Some(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Some(Err(UnloadError::Unknown)) if crate::plugins::is_bundled(&name) => {
            conflict("the plugin is built in", "[checker.<name>] enabled = false switches it off")
        }
        Some(Err(UnloadError::Unknown)) => unknown_plugin(&name),
        Some(Err(why @ UnloadError::FilePresent)) => {
            conflict(&why.to_string(), "unload is for a plugin whose file is gone, but which was kept in doubt")
        }
        Some(Err(UnloadError::Ended)) | None => stuck(),
    }
}

fn unknown_plugin(name: &str) -> Response {
    error(
        StatusCode::NOT_FOUND,
        "unknown_plugin",
        &format!("no plugin of the directory is named {name:?}"),
        "GET /api/v1/plugins lists them",
    )
}

async fn explain(State(asker): State<Asker>, Path(name): Path<String>) -> Response {
    match asker.ask(|reply| Query::Explain(name.clone(), reply)).await {
        Some(None) => error(
            StatusCode::NOT_FOUND,
            "unknown_node",
            &format!("no tracked node is named {name:?}"),
            "GET /api/v1/nodes lists them; nodes outside nodes.pool_ids and nodes.selector are not tracked",
        ),
        Some(found) => answer(found),
        None => stuck(),
    }
}

fn answer(found: Option<Value>) -> Response {
    found.map_or_else(stuck, |value| Json(value).into_response())
}

fn stuck() -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, "loop_silent", "the loop gave no answer in time", "see the log")
}

fn error(status: StatusCode, code: &str, message: &str, hint: &str) -> Response {
    (status, Json(json!({"error": {"code": code, "message": message, "hint": hint}}))).into_response()
}

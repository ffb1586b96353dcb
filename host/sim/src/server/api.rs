//! From a request to its answer: faults first, then the path, then the verb.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Query as Decoded, State};
use axum::http::{HeaderMap, HeaderValue, Request as HttpRequest, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::faults::Effect;
use crate::link::Caller;
use crate::record::Request;
use crate::refusal::Refusal;
use crate::resource::{self, Resource};
use crate::server::Shared;
use crate::server::evict::evict;
use crate::server::managed::Manager;
use crate::server::read::{self, Query, is_true};
use crate::server::render::Form;
use crate::server::watch::{Watch, WatchOptions};
use crate::server::write::{Deleted, Format, Part, Writer};
use crate::store::Kind;

/// The real server refuses bodies above 3 MB.
const BODY_MAX: usize = 3 * 1024 * 1024;

/// Answers any request.
pub(crate) async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(Caller(line)): ConnectInfo<Caller>,
    request: HttpRequest<Body>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, BODY_MAX).await {
        Ok(body) => body,
        Err(error) => return refused(&Refusal::bad_request(error.to_string())),
    };
    let text = |name: header::HeaderName| header_text(&head.headers, name);
    let record = Request {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
        content_type: text(header::CONTENT_TYPE),
        user_agent: text(header::USER_AGENT),
    };
    let query = Decoded::<Query>::try_from_uri(&head.uri).map(|q| q.0);
    let verb = if record.is_watch() { "WATCH" } else { head.method.as_str() };
    let (later, effect) = shared.faults.strike(verb, head.uri.path());
    let call = Call {
        method: head.method.as_str(),
        path: head.uri.path(),
        accept: text(header::ACCEPT),
        content_type: record.content_type.clone(),
        user_agent: record.user_agent.clone(),
        query: query.unwrap_or_default(),
        body: &body,
    };
    shared.log.push(record);
    if !later.is_zero() {
        tokio::time::sleep(later).await;
    }
    match effect {
        None => call.answer(&shared).unwrap_or_else(|refusal| refused(&refusal)),
        Some(Effect::Status { code: 403, .. }) => refused(&call.forbidden(&shared, verb)),
        Some(Effect::Status { code, retry_after }) => refused(&Refusal::injected(code, retry_after)),
        Some(Effect::Reset) => {
            line.reset();
            std::future::pending().await
        }
        Some(Effect::LoseAnswer) => {
            drop(call.answer(&shared));
            line.reset();
            std::future::pending().await
        }
        // Latency never gets here: it has been slept.
        Some(Effect::Hang | Effect::Latency(_)) => std::future::pending().await,
    }
}

/// One request, taken apart.
struct Call<'r> {
    method: &'r str,
    path: &'r str,
    accept: String,
    content_type: String,
    user_agent: String,
    query: Query,
    body: &'r Bytes,
}

/// What a path names.
struct Target<'s> {
    kind: Kind,
    resource: &'s Resource,
    namespace: Option<&'s str>,
    name: Option<&'s str>,
    subresource: Option<&'s str>,
}

impl Call<'_> {
    fn answer(&self, shared: &Arc<Shared>) -> Result<Response<Body>, Refusal> {
        if let Some(document) = self.document(shared) {
            return Ok(document);
        }
        let target = target(shared, self.path).ok_or_else(Refusal::no_such_path)?;
        let form = Form::accepted(&self.accept).ok_or_else(Refusal::not_acceptable)?;
        let writer = self.writer(shared, &target);
        let part = match target.subresource {
            None => Part::Main,
            Some("status") if target.resource.status => Part::Status,
            Some("eviction") if target.resource.plural == "pods" => {
                return self.evict(&writer, &target);
            }
            Some(_) => return Err(Refusal::no_such_path()),
        };
        let key = target.name.map(|name| writer.key(target.namespace, name));
        match (self.method, key) {
            ("GET", key) if is_true(&self.query, "watch") => self.watch(shared, &target, key, form),
            ("GET", Some(key)) => {
                let missing = || Refusal::not_found(&target.resource.full_name(), target.name.unwrap_or_default());
                let object = shared.store.get(target.kind, &key).ok_or_else(missing)?;
                Ok(json_answer(200, form.one(target.resource, &object)))
            }
            ("GET", None) => {
                let body =
                    read::list(&shared.store, target.kind, target.resource, target.namespace, &self.query, form)?;
                Ok(json_answer(200, body))
            }
            ("POST", None) => {
                if target.resource.namespaced && target.namespace.is_none() {
                    return Err(Refusal::bad_request("an empty namespace may not be set during creation"));
                }
                let created = writer.create(target.namespace, self.json()?)?;
                Ok(json_answer(201, form.one(target.resource, &created)))
            }
            ("PUT", Some(key)) => {
                let (object, created) = writer.replace(&key, &self.json()?, part)?;
                Ok(json_answer(if created { 201 } else { 200 }, form.one(target.resource, &object)))
            }
            ("PATCH", Some(key)) => {
                let format = self.patch_format()?;
                let (object, created) = writer.patch(&key, format, &self.json_body()?, part)?;
                Ok(json_answer(if created { 201 } else { 200 }, form.one(target.resource, &object)))
            }
            ("DELETE", Some(key)) if part == Part::Main => {
                let options = if self.body.is_empty() { json!({}) } else { self.json()? };
                Ok(deleted(&target, form, &writer.delete(&key, &options)?))
            }
            _ => Err(Refusal::method_not_allowed()),
        }
    }

    /// Paths that name no object: health, version, discovery.
    fn document(&self, shared: &Shared) -> Option<Response<Body>> {
        if self.method != "GET" {
            return None;
        }
        let resources = shared.store.resources();
        let segments: Vec<&str> = self.path.split('/').filter(|s| !s.is_empty()).collect();
        let value = match segments.as_slice() {
            ["healthz" | "readyz" | "livez", ..] => {
                return Some(plain_answer("ok"));
            }
            ["version"] => version(&shared.config.version),
            ["api"] => {
                json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [
                { "clientCIDR": "0.0.0.0/0", "serverAddress": shared.link.address().to_string() }] })
            }
            ["apis"] => resource::group_list(resources),
            ["openapi", "v3"] => resource::openapi_index(resources),
            ["openapi", "v3", "api", version] => resource::openapi(resources, version)?,
            ["openapi", "v3", "apis", group, version] => resource::openapi(resources, &format!("{group}/{version}"))?,
            ["apis", group] => resource::group(resources, group)?,
            ["api", version] => resource::resource_list(resources, version)?,
            ["apis", group, version] => resource::resource_list(resources, &format!("{group}/{version}"))?,
            _ => return None,
        };
        Some(json_answer(200, value.to_string()))
    }

    fn writer<'s>(&self, shared: &'s Shared, target: &Target<'s>) -> Writer<'s> {
        // As the real server does: without a name for the manager, the first word of the user agent.
        let product = self.user_agent.split('/').next().unwrap_or_default();
        let name = match self.query.get("fieldManager") {
            Some(manager) if !manager.is_empty() => manager.as_str(),
            _ if product.is_empty() => "unknown",
            _ => product,
        };
        let subresource = if target.subresource == Some("status") { "status" } else { "" };
        Writer {
            store: &shared.store,
            kind: target.kind,
            resource: target.resource,
            clock: &shared.clock,
            manager: Some(Manager { name: name.to_owned(), subresource }),
            dry_run: self.query.get("dryRun").is_some_and(|d| d == "All"),
        }
    }

    fn watch(
        &self,
        shared: &Shared,
        target: &Target<'_>,
        key: Option<String>,
        form: Form,
    ) -> Result<Response<Body>, Refusal> {
        let mut filter = read::filter(&self.query, target.resource, target.namespace)?;
        if let (Some(_), Some(name)) = (key, target.name) {
            filter.fields = crate::selector::FieldSelector::parse(&format!("metadata.name={name}"), target.resource)?;
        }
        let lasts = match self.query.get("timeoutSeconds").map(|t| t.parse::<u64>()) {
            None | Some(Ok(0)) => shared.config.watch_timeout,
            Some(Ok(seconds)) => Duration::from_secs(seconds),
            Some(Err(_)) => return Err(Refusal::bad_request("timeoutSeconds: must be a number")),
        };
        let from = read::version(&self.query)?.filter(|version| *version != 0);
        let send_initial = is_true(&self.query, "sendInitialEvents");
        let options = WatchOptions {
            filter,
            form,
            from: from.filter(|_| !send_initial),
            mark_initial: send_initial,
            bookmarks: is_true(&self.query, "allowWatchBookmarks"),
            bookmark_interval: shared.config.bookmark_interval,
            lasts,
        };
        let disturbance = shared.faults.disturbance();
        let as_http = disturbance.borrow().gone_as_http;
        match Watch::open(&shared.store, target.kind, options, disturbance) {
            Ok(watch) => Ok(json_answer(200, watch.into_body())),
            Err(refusal) if as_http => Err(refusal),
            Err(refusal) => Ok(json_answer(200, Watch::error_body(&refusal))),
        }
    }

    fn evict(&self, writer: &Writer<'_>, target: &Target<'_>) -> Result<Response<Body>, Refusal> {
        let (Some(namespace), Some(name), "POST") = (target.namespace, target.name, self.method) else {
            return Err(Refusal::method_not_allowed());
        };
        let eviction = self.json()?;
        evict(writer, namespace, name, &eviction)?;
        Ok(json_answer(
            201,
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 })
                .to_string(),
        ))
    }

    fn forbidden(&self, shared: &Shared, verb: &str) -> Refusal {
        let target = target(shared, self.path);
        let plural = target.as_ref().map_or("resource", |t| t.resource.plural.as_str());
        let name = target.as_ref().and_then(|t| t.name).unwrap_or_default();
        let verb = if verb == "GET" && name.is_empty() { "list" } else { &verb.to_lowercase() };
        Refusal::forbidden(plural, name, verb)
    }

    fn patch_format(&self) -> Result<Format, Refusal> {
        let media = self.content_type.split(';').next().unwrap_or_default().trim();
        match media {
            "application/merge-patch+json" => Ok(Format::Merge),
            "application/strategic-merge-patch+json" => Ok(Format::Strategic),
            "application/json-patch+json" => Ok(Format::Json),
            "application/apply-patch+yaml" => {
                if !self.query.contains_key("fieldManager") {
                    return Err(Refusal::bad_request(
                        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                    ));
                }
                Ok(Format::Apply { force: is_true(&self.query, "force") })
            }
            _ => Err(Refusal::unsupported_media(
                "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
            )),
        }
    }

    fn json(&self) -> Result<Value, Refusal> {
        let media = self.content_type.split(';').next().unwrap_or_default().trim();
        if !["", "application/json", "*/*"].contains(&media) {
            return Err(Refusal::unsupported_media("application/json"));
        }
        self.json_body()
    }

    fn json_body(&self) -> Result<Value, Refusal> {
        let read = serde_json::from_slice(self.body);
        read.map_err(|error| Refusal::bad_request(format!("the object provided is unrecognized: {error}")))
    }
}

fn target<'s>(shared: &'s Shared, path: &'s str) -> Option<Target<'s>> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let (api_version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ((*version).to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        // `namespaces/x` alone, or with a subresource, is the namespace itself.
        ["namespaces", namespace, rest @ ..] if !matches!(rest, [] | ["status" | "finalize"]) => {
            (Some(*namespace), rest)
        }
        rest => (None, rest),
    };
    let (plural, rest) = rest.split_first()?;
    let (kind, resource) = shared.store.kind(&api_version, plural)?;
    let (name, subresource) = match rest {
        [] => (None, None),
        [name] => (Some(*name), None),
        [name, subresource] => (Some(*name), Some(*subresource)),
        _ => return None,
    };
    // A name without the namespace it needs, or a namespace around what has none, names nothing.
    let fits = if resource.namespaced { namespace.is_some() || name.is_none() } else { namespace.is_none() };
    fits.then_some(Target { kind, resource, namespace, name, subresource })
}

fn deleted(target: &Target<'_>, form: Form, deleted: &Deleted) -> Response<Body> {
    match deleted {
        Deleted::Gone(_) if target.resource.plural != "pods" => {
            let name = target.name.unwrap_or_default();
            let details = json!({ "name": name, "group": target.resource.group, "kind": target.resource.plural });
            let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
            json_answer(200, status.to_string())
        }
        Deleted::Gone(object) | Deleted::Marked(object) => json_answer(200, form.one(target.resource, object)),
    }
}

fn version(git: &str) -> Value {
    let numbers = git.trim_start_matches('v').split(['.', '-', '+']);
    let mut numbers = numbers.map(str::to_owned);
    json!({
        "major": numbers.next(), "minor": numbers.next(), "gitVersion": git, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.24", "compiler": "gc", "platform": "linux/amd64",
    })
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> String {
    // Clients may send `Accept` in several lines; they mean one list.
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    values.join(",")
}

fn json_answer(code: u16, body: impl Into<Body>) -> Response<Body> {
    respond(code, "application/json", None, body.into())
}

fn plain_answer(text: &'static str) -> Response<Body> {
    respond(200, "text/plain", None, Body::from(text))
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let body = Body::from(refusal.status().to_string());
    respond(refusal.code, "application/json", refusal.retry_after, body)
}

/// Builds a response; a code that HTTP does not have becomes 500.
pub(crate) fn respond(code: u16, media: &'static str, retry_after: Option<u64>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

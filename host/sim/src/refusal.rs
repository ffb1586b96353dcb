//! What the API server says no with: an HTTP code and a `metav1.Status` body.
//! Codes, reasons and wording follow the real server, because clients branch on them.

use serde_json::{Value, json};

/// A refused request, as the real API server would word it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub struct Refusal {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason of the `Status` body.
    pub reason: &'static str,
    /// Human-readable message of the `Status` body.
    pub message: String,
    /// Seconds for a `Retry-After` header.
    pub retry_after: Option<u64>,
    details: Option<Value>,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after: None, details: None }
    }

    fn named(mut self, plural: &str, name: &str) -> Self {
        self.details = Some(json!({ "name": name, "kind": plural }));
        self
    }

    pub(crate) fn not_found(plural: &str, name: &str) -> Self {
        let message = format!("{plural} \"{name}\" not found");
        Self::new(404, "NotFound", message).named(plural, name)
    }

    pub(crate) fn no_such_path() -> Self {
        let mut refusal = Self::new(404, "NotFound", "the server could not find the requested resource");
        refusal.details = Some(json!({}));
        refusal
    }

    pub(crate) fn already_exists(plural: &str, name: &str) -> Self {
        let message = format!("{plural} \"{name}\" already exists");
        Self::new(409, "AlreadyExists", message).named(plural, name)
    }

    pub(crate) fn conflict(plural: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {plural} \"{name}\": {why}");
        Self::new(409, "Conflict", message).named(plural, name)
    }

    pub(crate) fn stale(plural: &str, name: &str) -> Self {
        Self::conflict(
            plural,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// A server-side apply that would take fields from other managers.
    pub(crate) fn apply_conflict(causes: &[(String, String)]) -> Self {
        let message = format!(
            "Apply failed with {} conflict{}: {}",
            causes.len(),
            if causes.len() == 1 { "" } else { "s" },
            causes
                .iter()
                .map(|(manager, field)| format!("conflict with \"{manager}\": {field}"))
                .collect::<Vec<_>>()
                .join(", ")
        );
        let mut refusal = Self::new(409, "Conflict", message);
        let causes: Vec<Value> = causes
            .iter()
            .map(|(manager, field)| {
                json!({ "reason": "FieldManagerConflict", "field": field,
                        "message": format!("conflict with \"{manager}\"") })
            })
            .collect();
        refusal.details = Some(json!({ "causes": causes }));
        refusal
    }

    pub(crate) fn invalid(kind: &str, name: &str, field: &str, why: &str) -> Self {
        let message = format!("{kind} \"{name}\" is invalid: {field}: {why}");
        let mut refusal = Self::new(422, "Invalid", message);
        refusal.details = Some(json!({
            "name": name, "kind": kind,
            "causes": [{ "reason": "FieldValueInvalid", "message": why, "field": field }],
        }));
        refusal
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    pub(crate) fn too_new(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut refusal = Self::new(504, "Timeout", message);
        refusal.details = Some(json!({ "retryAfterSeconds": 1, "causes": [
            { "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }] }));
        refusal.retry_after = Some(1);
        refusal
    }

    pub(crate) fn forbidden(plural: &str, name: &str, verb: &str) -> Self {
        let object = if name.is_empty() { plural.to_owned() } else { format!("{plural} \"{name}\"") };
        let message = format!(
            "{object} is forbidden: User \"sim\" cannot {verb} resource \"{plural}\" in API group \"\" at the cluster scope"
        );
        Self::new(403, "Forbidden", message).named(plural, name)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message)
    }

    pub(crate) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json";
        Self::new(406, "NotAcceptable", message)
    }

    pub(crate) fn unsupported_media(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// An eviction that a disruption budget forbids for now.
    pub(crate) fn disruption_budget(budget: &str, needed: i64, healthy: i64) -> Self {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.".to_owned();
        let mut refusal = Self::new(429, "TooManyRequests", message);
        refusal.details = Some(json!({ "causes": [{
            "reason": "DisruptionBudget",
            "message": format!("The disruption budget {budget} needs {needed} healthy pods and has {healthy} currently"),
        }] }));
        refusal
    }

    /// A fault asked for by a test: whatever code, worded as the server words it.
    pub(crate) fn injected(code: u16, retry_after: Option<u64>) -> Self {
        let (reason, message) = match code {
            401 => ("Unauthorized", "Unauthorized"),
            403 => ("Forbidden", "forbidden by the simulation"),
            410 => ("Expired", "The resourceVersion for the provided watch is too old."),
            429 => ("TooManyRequests", "Too many requests, please try again later."),
            500 => ("InternalError", "Internal error occurred: etcdserver: request timed out"),
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
            504 => ("Timeout", "Timeout: request did not complete within the allotted timeout"),
            _ => ("", "fault injected by the simulation"),
        };
        let mut refusal = Self::new(code, reason, message);
        refusal.retry_after = retry_after;
        if let Some(seconds) = retry_after {
            refusal.details = Some(json!({ "retryAfterSeconds": seconds }));
        }
        refusal
    }

    /// The `metav1.Status` body.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let (Some(details), Some(map)) = (&self.details, status.as_object_mut()) {
            map.insert("details".to_owned(), details.clone());
        }
        status
    }
}

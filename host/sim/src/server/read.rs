//! Lists: selectors, pages that all show one moment, and versions that are too old or too new.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use serde_json::{Value, json};

use crate::object::Object;
use crate::refusal::Refusal;
use crate::resource::Resource;
use crate::selector::{FieldSelector, Filter, LabelSelector};
use crate::server::render::{Form, list_opening, write_items};
use crate::store::{Kind, Objects, Store};

/// Objects written into one chunk of an unpaged list: a few hundred kilobytes, so that 100 000 nodes are never one buffer.
const CHUNK: usize = 64;

/// The query of a request, decoded.
pub(crate) type Query = BTreeMap<String, String>;

pub(crate) fn filter(query: &Query, resource: &Resource, namespace: Option<&str>) -> Result<Filter, Refusal> {
    let text = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    Ok(Filter {
        namespace: namespace.map(str::to_owned),
        labels: LabelSelector::parse(text("labelSelector"))?,
        fields: FieldSelector::parse(text("fieldSelector"), resource)?,
    })
}

pub(crate) fn version(query: &Query) -> Result<Option<u64>, Refusal> {
    let text = query.get("resourceVersion").map(String::as_str).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let refuse = |_| Refusal::bad_request(format!("resourceVersion: Invalid value: \"{text}\": must be a number"));
    text.parse().map(Some).map_err(refuse)
}

pub(crate) fn is_true(query: &Query, name: &str) -> bool {
    query.get(name).is_some_and(|v| v == "true" || v == "1")
}

/// Answers a list request.
pub(crate) fn list(
    store: &Store,
    kind: Kind,
    resource: &Resource,
    namespace: Option<&str>,
    query: &Query,
    form: Form,
) -> Result<Body, Refusal> {
    let filter = filter(query, resource, namespace)?;
    let limit = match query.get("limit").map(|l| l.parse::<usize>()) {
        None => 0,
        Some(Ok(limit)) => limit,
        Some(Err(_)) => return Err(Refusal::bad_request("limit: must be a number")),
    };
    let token = query.get("continue").filter(|c| !c.is_empty());
    let (at, objects, after) = match token {
        Some(token) => {
            let (version, key) = parse_token(token)?;
            let objects = store.kept(kind, version).ok_or_else(|| {
                Refusal::expired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.")
            })?;
            (version, objects, Some(key))
        }
        None => {
            let (at, objects) = at_version(store, kind, query)?;
            (at, objects, None)
        }
    };
    if limit == 0 && form == Form::Whole && token.is_none() {
        return Ok(everything(resource, &filter, at, &objects));
    }
    let limit = if limit == 0 { usize::MAX } else { limit };
    let page = page(resource, &objects, &filter, after.as_deref(), limit);
    let mut metadata = json!({ "resourceVersion": at.to_string() });
    match (&page.next, token) {
        (Some(last), None) => {
            store.keep(kind, at, &objects);
            set_next(&mut metadata, at, last);
        }
        (Some(last), Some(_)) => set_next(&mut metadata, at, last),
        (None, Some(_)) => store.release(kind, at),
        (None, None) => {}
    }
    // The real server counts what remains only where no selector would make it read everything.
    if let (Some(remaining), false, Some(map)) = (page.remaining, filter.selects(), metadata.as_object_mut()) {
        map.insert("remainingItemCount".to_owned(), remaining.into());
    }
    Ok(Body::from(form.list(resource, &page.objects, &metadata)))
}

fn at_version(store: &Store, kind: Kind, query: &Query) -> Result<(u64, Arc<Objects>), Refusal> {
    let (current, objects) = store.all(kind);
    let exact = query.get("resourceVersionMatch").is_some_and(|m| m == "Exact");
    match version(query)? {
        Some(asked) if asked > current => Err(Refusal::too_new(asked, current)),
        Some(asked) if exact && asked < current => {
            let kept = store.kept(kind, asked).ok_or_else(|| Refusal::too_old(asked, current))?;
            Ok((asked, kept))
        }
        Some(_) | None => Ok((current, objects)),
    }
}

struct Page {
    objects: Vec<Arc<Object>>,
    /// Key of the last object, if more follow.
    next: Option<String>,
    remaining: Option<usize>,
}

fn page(resource: &Resource, objects: &Objects, filter: &Filter, after: Option<&str>, limit: usize) -> Page {
    let mut matching = range(resource, objects, filter, after).filter(|o| filter.matches(resource, o));
    let taken: Vec<Arc<Object>> = matching.by_ref().take(limit).cloned().collect();
    let more = matching.next().is_some();
    let last = taken.last().filter(|_| more).map(|o| o.key.to_string());
    // The position by key, not by counting what was skipped: pages of 100 000 would cost the square.
    let remaining = match (&last, filter.namespace.is_none() && !filter.selects()) {
        (Some(last), true) => Some(range(resource, objects, filter, Some(last)).count()),
        _ => None,
    };
    Page { objects: taken, next: last, remaining }
}

/// The objects in the filter's namespace, in the order of their keys, that come after a key.
fn range<'o>(
    resource: &Resource,
    objects: &'o Objects,
    filter: &Filter,
    after: Option<&str>,
) -> impl Iterator<Item = &'o Arc<Object>> + use<'o> {
    let prefix = filter.namespace.as_ref().map_or_else(String::new, |namespace| format!("{namespace}/"));
    let name = filter.fields.name().filter(|_| filter.namespace.is_some() == resource.namespaced);
    let only = name.map(|name| format!("{prefix}{name}"));
    let start = match after {
        Some(key) => Bound::Excluded(key.to_owned()),
        None => Bound::Included(only.clone().unwrap_or_else(|| prefix.clone())),
    };
    let bounds = (start.as_ref().map(String::as_str), Bound::Unbounded);
    objects.range::<str, _>(bounds).map(|(_, object)| object).take_while(move |object| match &only {
        Some(key) => *object.key == **key,
        None => object.key.starts_with(&prefix),
    })
}

/// All matching objects, a chunk at a time.
fn everything(resource: &Resource, filter: &Filter, at: u64, objects: &Arc<Objects>) -> Body {
    let matching: Vec<Arc<Object>> =
        range(resource, objects, filter, None).filter(|o| filter.matches(resource, o)).cloned().collect();
    let metadata = json!({ "resourceVersion": at.to_string() });
    let kind = format!("{}List", resource.kind);
    let mut opening = list_opening(&resource.api_version(), &kind, &metadata).into_bytes();
    if matching.len() <= CHUNK {
        write_items(&matching, &mut opening);
        opening.extend_from_slice(b"]}");
        return Body::from(opening);
    }
    let state = (matching.into_iter(), Some(opening));
    Body::from_stream(futures_util::stream::unfold(state, |(mut rest, opening)| async move {
        let first = opening.is_some();
        let mut out = opening.unwrap_or_default();
        let chunk: Vec<Arc<Object>> = rest.by_ref().take(CHUNK).collect();
        if chunk.is_empty() {
            return None;
        }
        if !first {
            out.push(b',');
        }
        write_items(&chunk, &mut out);
        if rest.len() == 0 {
            out.extend_from_slice(b"]}");
        }
        Some((Ok::<_, std::io::Error>(Bytes::from(out)), (rest, None)))
    }))
}

fn set_next(metadata: &mut Value, at: u64, last: &str) {
    if let Some(map) = metadata.as_object_mut() {
        map.insert("continue".to_owned(), format!("{at}:{last}").into());
    }
}

fn parse_token(token: &str) -> Result<(u64, String), Refusal> {
    let parsed = token.split_once(':').and_then(|(version, key)| Some((version.parse().ok()?, key.to_owned())));
    parsed.ok_or_else(|| Refusal::bad_request("continue key is not valid: not a token of this server"))
}

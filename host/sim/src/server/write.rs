//! Creating, replacing, patching and deleting: what the real server keeps of a request, what it refuses, and in which words.
//! Synchronous; each write is tried again while another one gets in between, as the real server does for patches.

use serde_json::{Value, json};

use crate::clock::{self, Clock};
use crate::object::{Object, name_of, namespace_of};
use crate::patch;
use crate::refusal::Refusal;
use crate::resource::Resource;
use crate::selector::{valid_key, valid_subdomain, valid_value};
use crate::server::managed::{self, Manager};
use crate::store::{Kind, Store};

use std::sync::Arc;

/// Which part of an object a request writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
}

/// The format of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Merge,
    Strategic,
    Json,
    Apply { force: bool },
}

/// One kind in one store, open for writing.
pub(crate) struct Writer<'a> {
    pub(crate) store: &'a Store,
    pub(crate) kind: Kind,
    pub(crate) resource: &'a Resource,
    pub(crate) clock: &'a Clock,
    /// Who writes, for `managedFields`; nobody for writes from inside the process.
    pub(crate) manager: Option<Manager>,
    /// Answers what would be written and writes nothing.
    pub(crate) dry_run: bool,
}

impl Writer<'_> {
    pub(crate) fn create(&self, namespace: Option<&str>, mut value: Value) -> Result<Arc<Object>, Refusal> {
        patch::as_map(patch::as_map(&mut value).entry("metadata").or_insert(json!({}))).remove("managedFields");
        self.create_with(namespace, value, Noting::ToDo)
    }

    fn create_with(&self, namespace: Option<&str>, mut value: Value, noting: Noting) -> Result<Arc<Object>, Refusal> {
        self.check_type(&value)?;
        let metadata = patch::as_map(patch::as_map(&mut value).entry("metadata").or_insert(json!({})));
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut name = text("name");
        if name.is_empty() && !text("generateName").is_empty() {
            name = format!("{}{}", text("generateName"), self.store.suffix());
        }
        if name.is_empty() {
            return Err(self.invalid("", "metadata.name", "Required value: name or generateName is required"));
        }
        if metadata.get("resourceVersion").is_some_and(|v| !v.is_null() && v != "") {
            return Err(Refusal::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let key = self.key(namespace, &name);
        let stated = text("namespace");
        if namespace.is_some_and(|wanted| !stated.is_empty() && stated != wanted) {
            return Err(Refusal::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        metadata.insert("name".to_owned(), name.clone().into());
        if let Some(namespace) = namespace {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        // Writes from inside may bring their own identity, so that a fleet is the same for the same seed.
        if self.manager.is_some() || !metadata.contains_key("uid") {
            metadata.insert("uid".to_owned(), self.store.uid().into());
        }
        if self.manager.is_some() || !metadata.contains_key("creationTimestamp") {
            metadata.insert("creationTimestamp".to_owned(), clock::seconds(self.clock.now()).into());
        }
        self.validate(&value, &name)?;
        if noting == Noting::ToDo
            && let Some(manager) = &self.manager
        {
            managed::note(&json!({}), &mut value, manager, self.resource, self.clock);
        }
        if self.store.get(self.kind, &key).is_some() {
            return Err(Refusal::already_exists(&self.resource.full_name(), &name));
        }
        if self.dry_run {
            return Ok(self.unwritten(&key, value));
        }
        self.store
            .put(self.kind, &key, None, &mut value)
            .map_err(|_| Refusal::already_exists(&self.resource.full_name(), &name))
    }

    /// PUT. Answers whether the object was created by it.
    pub(crate) fn replace(&self, key: &str, value: &Value, part: Part) -> Result<(Arc<Object>, bool), Refusal> {
        self.check_type(value)?;
        let named = value.pointer("/metadata/name").and_then(Value::as_str);
        let name = name_of(key);
        if named != Some(name) {
            return Err(Refusal::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                named.unwrap_or_default()
            )));
        }
        if self.store.get(self.kind, key).is_none() && self.resource.create_on_update {
            return Ok((self.create(namespace_of(key), value.clone())?, true));
        }
        let updated = self.update(key, part, |_| Ok(value.clone()))?;
        Ok((updated, false))
    }

    pub(crate) fn patch(
        &self,
        key: &str,
        format: Format,
        patch: &Value,
        part: Part,
    ) -> Result<(Arc<Object>, bool), Refusal> {
        if let Format::Apply { force } = format {
            return self.apply(key, patch, force, part);
        }
        if format == Format::Strategic && !self.resource.built_in() {
            return Err(Refusal::unsupported_media(
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        let updated = self.update(key, part, |old| {
            let mut new = old.clone();
            match format {
                Format::Merge => patch::merge(&mut new, patch),
                Format::Strategic => patch::strategic(&mut new, patch)?,
                Format::Json => patch::json_patch(&mut new, patch)?,
                Format::Apply { .. } => {}
            }
            Ok(new)
        })?;
        Ok((updated, false))
    }

    fn apply(&self, key: &str, config: &Value, force: bool, part: Part) -> Result<(Arc<Object>, bool), Refusal> {
        let Some(manager) = &self.manager else {
            return Err(Refusal::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        };
        self.check_type(config)?;
        if config.pointer("/metadata/managedFields").is_some_and(|m| !m.is_null()) {
            return Err(Refusal::bad_request("metadata.managedFields must be nil"));
        }
        if self.store.get(self.kind, key).is_none() {
            if part == Part::Status {
                return Err(Refusal::not_found(&self.resource.full_name(), name_of(key)));
            }
            let mut new = json!({ "metadata": { "name": name_of(key) } });
            managed::apply(&mut new, config, manager, force, self.clock)?;
            let created = self.create_with(namespace_of(key), new, Noting::Done)?;
            return Ok((created, true));
        }
        let updated = self.update_with(key, part, Noting::Done, |old| {
            let mut new = old.clone();
            managed::apply(&mut new, config, manager, force, self.clock)?;
            Ok(new)
        })?;
        Ok((updated, false))
    }

    /// Reads, changes and writes, until no other write came in between.
    pub(crate) fn update(
        &self,
        key: &str,
        part: Part,
        change: impl FnMut(&Value) -> Result<Value, Refusal>,
    ) -> Result<Arc<Object>, Refusal> {
        self.update_with(key, part, Noting::ToDo, change)
    }

    fn update_with(
        &self,
        key: &str,
        part: Part,
        noting: Noting,
        mut change: impl FnMut(&Value) -> Result<Value, Refusal>,
    ) -> Result<Arc<Object>, Refusal> {
        loop {
            let name = name_of(key);
            let current =
                self.store.get(self.kind, key).ok_or_else(|| Refusal::not_found(&self.resource.full_name(), name))?;
            let old = current.value(self.resource);
            let mut new = change(&old)?;
            self.check_preconditions(&old, &new, name)?;
            self.keep_fixed(&old, &mut new, part);
            if noting == Noting::ToDo
                && let Some(manager) = &self.manager
            {
                managed::note(&old, &mut new, manager, self.resource, self.clock);
            }
            self.resource.stamp(&mut new);
            // A write that changes nothing is none: no version, no event.
            if managed::same_but_for_managers(&old, &new) {
                return Ok(current);
            }
            self.validate(&new, name)?;
            if self.dry_run {
                return Ok(self.unwritten(key, new));
            }
            let gone = is_set(&new, "/metadata/deletionTimestamp") && !has_finalizers(&new);
            let written = if gone {
                self.store.remove(self.kind, key, current.version, &mut new)
            } else {
                self.store.put(self.kind, key, Some(current.version), &mut new)
            };
            if let Ok(written) = written {
                return Ok(written);
            }
        }
    }

    /// DELETE. With finalizers the object is only marked.
    pub(crate) fn delete(&self, key: &str, options: &Value) -> Result<Deleted, Refusal> {
        loop {
            let plural = self.resource.full_name();
            let name = name_of(key);
            let current = self.store.get(self.kind, key).ok_or_else(|| Refusal::not_found(&plural, name))?;
            let mut value = current.value(self.resource);
            for (field, known) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
                let wanted = options.pointer(&format!("/preconditions/{field}")).and_then(Value::as_str);
                let found = text_at(&value, &format!("/metadata/{field}"));
                if let Some(wanted) = wanted.filter(|w| *w != found) {
                    let why = format!(
                        "Precondition failed: {known} in precondition: {wanted}, {known} in object meta: {found}"
                    );
                    return Err(Refusal::conflict(&plural, name, &why));
                }
            }
            if self.dry_run {
                return Ok(Deleted::Gone(current));
            }
            if has_finalizers(&value) {
                if is_set(&value, "/metadata/deletionTimestamp") {
                    return Ok(Deleted::Marked(current));
                }
                let now = clock::seconds(self.clock.now());
                let metadata = patch::as_map(patch::as_map(&mut value).entry("metadata").or_insert(json!({})));
                metadata.insert("deletionTimestamp".to_owned(), now.into());
                metadata.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
                if let Ok(marked) = self.store.put(self.kind, key, Some(current.version), &mut value) {
                    return Ok(Deleted::Marked(marked));
                }
            } else if let Ok(gone) = self.store.remove(self.kind, key, current.version, &mut value) {
                return Ok(Deleted::Gone(gone));
            }
        }
    }

    pub(crate) fn key(&self, namespace: Option<&str>, name: &str) -> String {
        namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
    }

    fn unwritten(&self, key: &str, mut value: Value) -> Arc<Object> {
        Arc::new(Object::new(self.store.version(), Arc::from(key), &mut value, None))
    }

    fn invalid(&self, name: &str, field: &str, why: &str) -> Refusal {
        Refusal::invalid(&self.resource.kind, name, field, why)
    }

    fn check_type(&self, value: &Value) -> Result<(), Refusal> {
        let found = |field: &str| value.get(field).and_then(Value::as_str);
        let expected = self.resource.api_version();
        let wrong = found("kind").is_some_and(|kind| kind != self.resource.kind)
            || found("apiVersion").is_some_and(|version| version != expected);
        if wrong || !value.is_object() {
            return Err(Refusal::bad_request(format!(
                "{} in version \"{expected}\" cannot be handled as a {}",
                found("kind").unwrap_or("the object"),
                self.resource.kind
            )));
        }
        Ok(())
    }

    /// A resourceVersion or uid in what is written must be that of the object.
    fn check_preconditions(&self, old: &Value, new: &Value, name: &str) -> Result<(), Refusal> {
        let plural = self.resource.full_name();
        let stated = text_at(new, "/metadata/uid");
        let uid = text_at(old, "/metadata/uid");
        if !stated.is_empty() && stated != uid {
            let why = format!("Precondition failed: UID in precondition: {stated}, UID in object meta: {uid}");
            return Err(Refusal::conflict(&plural, name, &why));
        }
        let stated = text_at(new, "/metadata/resourceVersion");
        if stated.is_empty() && !self.resource.unconditional_update {
            return Err(self.invalid(
                name,
                "metadata.resourceVersion",
                "Invalid value: 0x0: must be specified for an update",
            ));
        }
        if !stated.is_empty() && stated != text_at(old, "/metadata/resourceVersion") {
            return Err(Refusal::stale(&plural, name));
        }
        Ok(())
    }

    /// Restores what this request cannot change: identity, and the part that belongs to the other endpoint.
    fn keep_fixed(&self, old: &Value, new: &mut Value, part: Part) {
        let both = (old.as_object(), new.as_object_mut());
        let (Some(old), Some(new)) = both else {
            return;
        };
        let mut restore = |field: &str| match old.get(field) {
            Some(value) => {
                new.insert(field.to_owned(), value.clone());
            }
            None => {
                new.remove(field);
            }
        };
        match part {
            Part::Main if self.resource.status => restore("status"),
            Part::Main => {}
            Part::Status => {
                for field in ["spec", "data"] {
                    restore(field);
                }
                // Nodes and pods take labels and annotations here, custom resources do not.
                if !self.resource.built_in() {
                    restore("metadata");
                }
            }
        }
        let metadata = patch::as_map(new.entry("metadata").or_insert(json!({})));
        for field in ["name", "namespace", "uid", "creationTimestamp", "resourceVersion", "deletionTimestamp"] {
            match old.get("metadata").and_then(|m| m.get(field)) {
                Some(value) => {
                    metadata.insert(field.to_owned(), value.clone());
                }
                None => {
                    metadata.remove(field);
                }
            }
        }
    }

    fn validate(&self, value: &Value, name: &str) -> Result<(), Refusal> {
        if !valid_subdomain(name) {
            return Err(self.invalid(name, "metadata.name", &format!(
                "Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
            )));
        }
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
        for (key, label) in labels.into_iter().flatten() {
            if !valid_key(key) {
                return Err(self.invalid(
                    name,
                    "metadata.labels",
                    &format!(
                        "Invalid value: \"{key}\": name part must consist of alphanumeric characters, '-', '_' or '.'"
                    ),
                ));
            }
            if !label.as_str().is_some_and(valid_value) {
                return Err(self.invalid(name, "metadata.labels", &format!("Invalid value: {label}: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'")));
            }
        }
        match self.resource.kind.as_str() {
            "Node" => self.validate_taints(value, name),
            "Lease" => self.validate_lease(value, name),
            _ => Ok(()),
        }
    }

    fn validate_taints(&self, value: &Value, name: &str) -> Result<(), Refusal> {
        let taints = value.pointer("/spec/taints").and_then(Value::as_array);
        let mut seen = Vec::new();
        for taint in taints.into_iter().flatten() {
            let text = |field: &str| taint.get(field).and_then(Value::as_str).unwrap_or_default();
            let (key, effect) = (text("key"), text("effect"));
            if !valid_key(key) {
                return Err(self.invalid(
                    name,
                    "metadata.taints.key",
                    &format!("Invalid value: \"{key}\": name part must be non-empty"),
                ));
            }
            if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
                return Err(self.invalid(name, "metadata.taints.effect", &format!("Unsupported value: \"{effect}\": supported values: \"NoExecute\", \"NoSchedule\", \"PreferNoSchedule\"")));
            }
            if seen.contains(&(key, effect)) {
                return Err(self.invalid(
                    name,
                    "metadata.taints",
                    &format!("Duplicate value: {taint}: taints must be unique by key and effect pair"),
                ));
            }
            seen.push((key, effect));
        }
        Ok(())
    }

    fn validate_lease(&self, value: &Value, name: &str) -> Result<(), Refusal> {
        let seconds = value.pointer("/spec/leaseDurationSeconds");
        if let Some(seconds) = seconds.filter(|s| !s.is_null() && s.as_i64().is_none_or(|s| s <= 0)) {
            return Err(self.invalid(
                name,
                "spec.leaseDurationSeconds",
                &format!("Invalid value: {seconds}: must be greater than 0"),
            ));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Noting {
    ToDo,
    Done,
}

/// What became of a deletion.
pub(crate) enum Deleted {
    Gone(Arc<Object>),
    /// Waits for its finalizers.
    Marked(Arc<Object>),
}

fn text_at<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn is_set(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).is_some_and(|v| !v.is_null())
}

fn has_finalizers(value: &Value) -> bool {
    let finalizers = value.pointer("/metadata/finalizers").and_then(Value::as_array);
    finalizers.is_some_and(|f| !f.is_empty())
}

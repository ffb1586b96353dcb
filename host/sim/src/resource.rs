//! The kinds the server knows, and the discovery documents that describe them.

use serde_json::{Map, Value, json};

/// One kind of object, as discovery describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// Version in the group.
    pub version: String,
    /// Name in paths: `nodes`.
    pub plural: String,
    /// Kind in objects: `Node`.
    pub kind: String,
    /// Short names for kubectl.
    pub short: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether `/status` is a subresource of its own: then the main path leaves `status` alone, and `/status` leaves `spec` alone.
    pub status: bool,
    /// Whether a PUT of an unknown name creates it, as for leases.
    pub create_on_update: bool,
    /// Whether a PUT without resourceVersion overwrites.
    pub unconditional_update: bool,
    /// Fields besides name and namespace that a field selector may name.
    pub fields: Vec<String>,
}

impl Resource {
    /// A custom resource with a status, as a CRD would define it.
    pub fn custom(group: &str, version: &str, plural: &str, kind: &str, scope: Scope) -> Self {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
            kind: kind.to_owned(),
            short: Vec::new(),
            namespaced: scope == Scope::Namespaced,
            status: true,
            create_on_update: false,
            unconditional_update: false,
            fields: Vec::new(),
        }
    }

    fn core(plural: &str, kind: &str, short: &[&str], scope: Scope) -> Self {
        let mut resource = Self::custom("", "v1", plural, kind, scope);
        resource.short = short.iter().map(|&s| s.to_owned()).collect();
        resource.unconditional_update = true;
        resource
    }

    /// `v1`, or `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Path of the collection: `/api/v1/nodes`, `/apis/policy/v1/namespaces/default/poddisruptionbudgets`.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let namespace = namespace.map_or_else(String::new, |ns| format!("/namespaces/{ns}"));
        format!("{root}/{}{namespace}/{}", self.api_version(), self.plural)
    }

    /// How a whole object's text begins.
    pub(crate) fn opening(&self) -> String {
        format!("{{\"apiVersion\":\"{}\",\"kind\":\"{}\",", self.api_version(), self.kind)
    }

    /// Sets the type fields of an object.
    pub(crate) fn stamp(&self, value: &mut Value) {
        if let Some(map) = value.as_object_mut() {
            map.insert("apiVersion".to_owned(), self.api_version().into());
            map.insert("kind".to_owned(), self.kind.clone().into());
        }
    }

    /// Name with group, as messages have it: `leases.coordination.k8s.io`.
    pub(crate) fn full_name(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Kinds whose Go types the server knows: only those take a strategic merge patch.
    pub(crate) fn built_in(&self) -> bool {
        self.group.is_empty() || self.group.ends_with(".k8s.io") || self.group == "policy"
    }
}

/// Where objects of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the cluster as a whole.
    Cluster,
    /// In a namespace each.
    Namespaced,
}

/// The built-in kinds.
pub(crate) fn built_ins() -> Vec<Resource> {
    let fields = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    let nodes = Resource {
        fields: fields(&["spec.unschedulable"]),
        ..Resource::core("nodes", "Node", &["no"], Scope::Cluster)
    };
    let pods = Resource {
        fields: fields(&["spec.nodeName", "status.phase", "spec.restartPolicy"]),
        ..Resource::core("pods", "Pod", &["po"], Scope::Namespaced)
    };
    let namespaces = Resource::core("namespaces", "Namespace", &["ns"], Scope::Cluster);
    let events = Resource {
        status: false,
        create_on_update: true,
        fields: fields(&[
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "reason",
            "type",
        ]),
        ..Resource::core("events", "Event", &["ev"], Scope::Namespaced)
    };
    let new_events = Resource {
        group: "events.k8s.io".to_owned(),
        fields: fields(&["reason", "type", "regarding.name", "regarding.kind"]),
        ..events.clone()
    };
    let mut leases = Resource::custom("coordination.k8s.io", "v1", "leases", "Lease", Scope::Namespaced);
    leases.status = false;
    leases.create_on_update = true;
    let mut budgets =
        Resource::custom("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", Scope::Namespaced);
    budgets.short = vec!["pdb".to_owned()];
    vec![nodes, pods, namespaces, events, new_events, leases, budgets]
}

const VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];

/// `APIResourceList` of one group version, or `None` if nothing is served there.
pub(crate) fn resource_list(resources: &[Resource], api_version: &str) -> Option<Value> {
    let mut entries = Vec::new();
    for r in resources.iter().filter(|r| r.api_version() == api_version) {
        entries.push(json!({
            "name": r.plural, "singularName": r.kind.to_lowercase(), "namespaced": r.namespaced,
            "kind": r.kind, "verbs": VERBS, "shortNames": r.short,
        }));
        if r.status {
            entries.push(json!({
                "name": format!("{}/status", r.plural), "singularName": "",
                "namespaced": r.namespaced, "kind": r.kind, "verbs": ["get", "patch", "update"],
            }));
        }
        if r.plural == "pods" {
            entries.push(json!({
                "name": "pods/eviction", "singularName": "", "namespaced": true,
                "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"],
            }));
        }
    }
    (!entries.is_empty()).then(
        || json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": entries }),
    )
}

/// `APIGroupList` at `/apis`.
pub(crate) fn group_list(resources: &[Resource]) -> Value {
    let mut names: Vec<&str> = resources.iter().map(|r| r.group.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let groups: Vec<Value> = names.into_iter().filter_map(|g| group(resources, g)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `APIGroup` at `/apis/<group>`.
pub(crate) fn group(resources: &[Resource], name: &str) -> Option<Value> {
    let mut versions: Vec<&Resource> = resources.iter().filter(|r| !name.is_empty() && r.group == name).collect();
    versions.dedup_by(|a, b| a.version == b.version);
    let entry = |r: &Resource| json!({ "groupVersion": r.api_version(), "version": r.version });
    let preferred = versions.first().map(|r| entry(r))?;
    let versions: Vec<Value> = versions.into_iter().map(entry).collect();
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name,
        "versions": versions, "preferredVersion": preferred,
    }))
}

/// `/openapi/v3`: where the documents of the group versions are.
pub(crate) fn openapi_index(resources: &[Resource]) -> Value {
    let mut paths = Map::new();
    for resource in resources {
        let root = if resource.group.is_empty() { "api" } else { "apis" };
        let path = format!("{root}/{}", resource.api_version());
        paths.insert(path.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}") }));
    }
    json!({ "paths": paths })
}

/// The document of one group version, or `None`. It has no schemas, only what makes kubectl leave validation to the server.
pub(crate) fn openapi(resources: &[Resource], api_version: &str) -> Option<Value> {
    let mut paths = Map::new();
    for r in resources.iter().filter(|r| r.api_version() == api_version) {
        let path = format!("{}/{{name}}", r.path(r.namespaced.then_some("{namespace}")));
        let patch = json!({
            "x-kubernetes-group-version-kind": { "group": r.group, "version": r.version, "kind": r.kind },
            "parameters": [{ "name": "fieldValidation", "in": "query", "schema": { "type": "string" } }],
        });
        paths.insert(path, json!({ "patch": patch }));
    }
    let info = json!({ "title": "Kubernetes", "version": "sim" });
    (!paths.is_empty()).then(|| json!({ "openapi": "3.0.0", "info": info, "paths": paths }))
}

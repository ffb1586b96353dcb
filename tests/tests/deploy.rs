//! What `examples/deploy` ships fits the program and itself. That a real API server takes it is for the tier
//! `control_plane`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use apgar::config::{self, Settings, Sources};
use apgar_tests::control_plane::{SERVICE_ACCOUNT, repository};
use serde_json::{Value, json};

#[test]
fn the_roles_are_to_read_nodes_and_to_post_events_of_its_own() -> Result<()> {
    let rbac = yaml("rbac.yaml")?;
    let rules = the(&rbac, "ClusterRole")?.pointer("/rules");
    assert_eq!(rules, Some(&json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}])));
    let kinds: Vec<_> = rbac.iter().filter_map(|object| object.get("kind")?.as_str()).collect();
    let expected = ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    assert_eq!(kinds, expected, "further rights?");
    let rules = the(&rbac, "Role")?.pointer("/rules");
    assert_eq!(rules, Some(&json!([{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}])));
    Ok(())
}

#[test]
fn the_right_to_pods_is_apart_and_no_more_than_the_informer_needs() -> Result<()> {
    let pods = yaml("rbac-pods.yaml")?;
    let rules = the(&pods, "ClusterRole")?.pointer("/rules");
    assert_eq!(rules, Some(&json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}])));
    let kinds: Vec<_> = pods.iter().filter_map(|object| object.get("kind")?.as_str()).collect();
    assert_eq!(kinds, ["ClusterRole", "ClusterRoleBinding"], "further rights?");
    Ok(())
}

#[test]
fn the_roles_are_bound_to_the_account_that_the_deployment_runs_as() -> Result<()> {
    let (namespace, account) = SERVICE_ACCOUNT;
    let rbac = yaml("rbac.yaml")?;
    for rights in [&rbac, &yaml("rbac-pods.yaml")?] {
        let binding = the(rights, "ClusterRoleBinding")?;
        let role = text(the(rights, "ClusterRole")?, "/metadata/name")?;
        assert_eq!(text(binding, "/roleRef/name")?, role);
        let subject = json!([{"kind": "ServiceAccount", "name": account, "namespace": namespace}]);
        assert_eq!(binding.pointer("/subjects"), Some(&subject));
    }

    let files = yaml("deployment.yaml")?;
    let deployment = the(&files, "Deployment")?;
    assert_eq!(text(deployment, "/spec/template/spec/serviceAccountName")?, account);
    for object in [the(&rbac, "ServiceAccount")?, deployment, the(&files, "ConfigMap")?] {
        assert_eq!(text(object, "/metadata/namespace")?, namespace);
    }
    assert_eq!(text(the(&rbac, "Namespace")?, "/metadata/name")?, namespace);
    Ok(())
}

#[test]
fn two_daemons_never_run_at_once() -> Result<()> {
    let files = yaml("deployment.yaml")?;
    let deployment = the(&files, "Deployment")?;
    assert_eq!(deployment.pointer("/spec/replicas"), Some(&json!(1)));
    assert_eq!(deployment.pointer("/spec/strategy"), Some(&json!({"type": "Recreate"})));
    Ok(())
}

#[test]
fn the_deployment_s_ports_and_paths_are_those_of_the_program() -> Result<()> {
    let files = yaml("deployment.yaml")?;
    let settings = settings_of(&files)?;
    let container = container(&files)?;
    let port = json!(settings.metrics.port);
    assert_eq!(container.pointer("/ports"), Some(&json!([{"name": "metrics", "containerPort": port}])));
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        let asked = container.pointer(&format!("/{probe}/httpGet"));
        assert_eq!(asked, Some(&json!({"path": path, "port": "metrics"})));
    }
    let annotation = "/spec/template/metadata/annotations/prometheus.io~1port";
    assert_eq!(text(the(&files, "Deployment")?, annotation)?, settings.metrics.port.to_string());

    let arguments = container.pointer("/args").and_then(Value::as_array).context("args")?;
    let argument = |flag: &str| arguments.iter().find_map(|argument| argument.as_str()?.strip_prefix(flag));
    assert_eq!(argument("--kubeconfig="), Some(""), "empty: by the service account");
    let mounts = container.pointer("/volumeMounts").and_then(Value::as_array).context("volumeMounts")?;
    let mounted = |path: &str| mounts.iter().find(|mount| mount.get("mountPath") == Some(&json!(path)));
    let is_read_only = |path: &str| mounted(path).map(|mount| mount.get("readOnly") == Some(&json!(true)));
    let config = argument("--config=").and_then(|file| file.rsplit_once('/')).context("--config")?;
    assert_eq!(is_read_only(config.0), Some(true));
    assert!(the(&files, "ConfigMap")?.pointer(&format!("/data/{}", config.1)).is_some(), "{config:?}");
    assert_eq!(is_read_only(argument("--plugin-dir=").context("--plugin-dir")?), Some(true));
    let store = settings.store.dir.to_str().context("store.dir")?;
    assert_eq!(is_read_only(store), Some(false), "state is written");
    Ok(())
}

#[test]
fn the_deployment_only_observes_until_told_otherwise() -> Result<()> {
    let settings = settings_of(&yaml("deployment.yaml")?)?;
    assert_eq!(settings.policy.mode.as_str(), "monitor");
    Ok(())
}

#[test]
fn the_container_has_no_privileges() -> Result<()> {
    let files = yaml("deployment.yaml")?;
    let context = container(&files)?.pointer("/securityContext");
    let expected = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    });
    assert_eq!(context, Some(&expected));
    let pod = the(&files, "Deployment")?.pointer("/spec/template/spec/securityContext").context("securityContext")?;
    assert_eq!(pod.pointer("/runAsNonRoot"), Some(&json!(true)));
    assert_eq!(pod.pointer("/seccompProfile/type"), Some(&json!("RuntimeDefault")));
    let limits = container(&files)?.pointer("/resources/limits/memory");
    assert!(limits.is_some(), "a guest that grows must not take the node along");
    Ok(())
}

#[test]
fn the_image_is_of_the_pinned_toolchain_and_runs_as_the_deployment_says() -> Result<()> {
    let file = read("Containerfile")?;
    let toolchain = fs::read_to_string(repository().join("rust-toolchain.toml"))?;
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).context("channel")?;
    let (minor, _patch) = channel.trim_matches('"').rsplit_once('.').context("channel")?;
    assert!(file.contains(&format!("FROM docker.io/library/rust:{minor}-")), "not built with {channel}");

    let defaults = config::load(Sources::default())?.0;
    let files = yaml("deployment.yaml")?;
    let pod = the(&files, "Deployment")?.pointer("/spec/template/spec/securityContext").context("securityContext")?;
    let (user, group) = (pod.pointer("/runAsUser"), pod.pointer("/runAsGroup"));
    let (user, group) = (user.context("runAsUser")?, group.context("runAsGroup")?);
    for line in [
        format!("EXPOSE {}", defaults.metrics.port),
        format!("VOLUME {}", defaults.store.dir.display()),
        format!("USER {user}:{group}"),
        "CMD [\"run\"]".to_owned(),
    ] {
        assert!(file.lines().any(|found| found == line), "no line {line:?}");
    }
    Ok(())
}

#[test]
fn the_unit_s_paths_are_those_of_the_program() -> Result<()> {
    let unit = read("apgar.service")?;
    let values = |key: &str| -> Vec<&str> {
        unit.lines()
            .filter_map(|line| line.split_once('=').filter(|(name, _)| *name == key))
            .map(|(_, it)| it)
            .collect()
    };
    let defaults = config::load(Sources::default())?.0;
    let state = values("StateDirectory").into_iter().map(|name| PathBuf::from("/var/lib").join(name));
    assert_eq!(state.collect::<Vec<_>>(), [defaults.store.dir]);
    // What systemd hands over under a name is read under that name.
    let command = values("ExecStart").concat();
    let credential = values("LoadCredential").concat();
    let (name, _file) = credential.split_once(':').context("LoadCredential")?;
    assert_eq!(command, format!("/usr/local/bin/apgar run --kubeconfig=%d/{name}"));
    // Checkers are compiled to machine code: with this the daemon would end at its first check.
    assert_eq!(values("MemoryDenyWriteExecute"), [""; 0]);
    for (key, value) in [("DynamicUser", "yes"), ("NoNewPrivileges", "yes"), ("ProtectSystem", "strict")] {
        assert_eq!(values(key), [value], "{key}");
    }
    Ok(())
}

/// What the program makes of the ConfigMap and an empty environment.
fn settings_of(files: &[Value]) -> Result<Settings> {
    let file = text(the(files, "ConfigMap")?, "/data/apgar.toml")?;
    let sources = Sources { file: Some((PathBuf::from("apgar.toml"), file.to_owned())), ..Sources::default() };
    let (settings, warnings) = config::load(sources)?;
    anyhow::ensure!(warnings.is_empty(), "{warnings:?}");
    Ok(settings)
}

fn container(files: &[Value]) -> Result<&Value> {
    the(files, "Deployment")?.pointer("/spec/template/spec/containers/0").context("a container")
}

fn read(name: &str) -> Result<String> {
    let path = repository().join("examples/deploy").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The documents of a file.
fn yaml(name: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(&read(name)?).with_context(|| name.to_owned())
}

/// The one object of a kind.
fn the<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    let mut found = objects.iter().filter(|object| object.get("kind").and_then(Value::as_str) == Some(kind));
    match (found.next(), found.next()) {
        (Some(object), None) => Ok(object),
        (None, _) => anyhow::bail!("no {kind}"),
        (Some(_), Some(_)) => anyhow::bail!("more than one {kind}"),
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer}"))
}

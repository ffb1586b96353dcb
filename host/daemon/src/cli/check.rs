//! `apgar check`: every checker's verdict on every node, once.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use apgar_core::node::{Node, NodeName};
use apgar_core::pods::{self, Pods};
use apgar_core::verdict::{CheckerKey, Verdict};
use apgar_engine::{Engine, Plugin};
use serde::Serialize;

use super::input::Objects;
use super::{Output, Usage, input, table};
use crate::object::{self, Interner, Kind, decode};
use crate::plugins::{self, Cache};

/// Judge nodes once and print every checker's verdict
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    kubectl get nodes -o json | apgar check -\n  \
    kubectl get nodes,pods -A -o json | apgar check - --plugin reads-pods.wasm --config apgar.toml\n  \
    apgar check node-1.yaml node-2.yaml --plugin my-check.wasm\n  \
    apgar check --kubeconfig ~/.kube/config --output json\n\n\
    Exit codes: 0 all pass; 1 a checker fails or cannot tell; 2 usage, or input that cannot be read or has no node.")]
pub(crate) struct CheckArgs {
    /// Files with Node objects, and Pods for checkers that read them (YAML or JSON; one object, a List or a stream); `-`
    /// is standard input
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// Judge the nodes of this cluster instead of files
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    kubeconfig: Option<PathBuf>,
    /// Add a checker, or replace the one of the same name; may be given several times
    #[arg(long, value_name = "FILE")]
    plugin: Vec<PathBuf>,
    /// A configuration file, for the checkers' settings and thresholds
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Serialize)]
struct Row {
    node: String,
    checker: String,
    verdict: &'static str,
    reason: String,
    /// `None` where there is no verdict to take it from.
    threshold_seconds: Option<f64>,
}

pub(crate) fn main(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    let rows = runtime.block_on(rows(args)).context(Usage("nothing was checked"))?;
    match args.output {
        Output::Json => super::print(&serde_json::to_string_pretty(&rows)?)?,
        Output::Table => super::print(&render(&rows))?,
    }
    Ok(if rows.iter().all(|row| row.verdict == "pass") { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn rows(args: &CheckArgs) -> anyhow::Result<Vec<Row>> {
    let Given { nodes, pods } = given(args).await?;
    let settings = crate::settings::for_command(args.config.as_deref())?;
    let engine = plugins::engine(&settings, Cache::Own, plugins::compile_in_child()?)?;
    let mut loaded = BTreeMap::new();
    for candidate in plugins::for_check(&settings, &args.plugin)? {
        let key = candidate.key.clone();
        let plugin = engine.load(candidate).await.with_context(|| format!("checker {}", key.as_str()))?;
        loaded.insert(key, plugin);
    }
    let mut rows = Vec::with_capacity(nodes.len() * loaded.len());
    for node in nodes {
        let pods = pods.as_ref().map(|pods| pods.get(&node.name).cloned().unwrap_or_default());
        for (key, plugin) in &loaded {
            let threshold = settings.checkers.of(key.as_str()).threshold;
            rows.push(row(&engine, key, plugin, (&node, pods.clone()), threshold).await);
        }
    }
    Ok(rows)
}

async fn row(
    engine: &Engine,
    key: &CheckerKey,
    plugin: &Arc<Plugin>,
    (node, pods): (&Arc<Node>, Option<Pods>),
    threshold: Option<std::time::Duration>,
) -> Row {
    let verdict = match &node.malformed {
        Some(why) => plugins::malformed(why),
        None => engine.check_with(plugin, node.clone(), pods).await.verdict,
    };
    let (reason, threshold) = match &verdict {
        Verdict::Pass(judgement) | Verdict::Fail(judgement) => {
            (judgement.reason.to_string(), Some(threshold.unwrap_or(judgement.threshold).as_secs_f64()))
        }
        Verdict::Unknown(unknown) => (unknown.detail.to_string(), None),
    };
    Row {
        node: node.name.to_string(),
        checker: key.shown().to_owned(),
        verdict: verdict.result(),
        reason,
        threshold_seconds: threshold,
    }
}

/// What is judged.
struct Given {
    nodes: Vec<Arc<Node>>,
    /// By node; none if there was no pod among it: then they are not known.
    pods: Option<BTreeMap<NodeName, Pods>>,
}

async fn given(args: &CheckArgs) -> anyhow::Result<Given> {
    let objects = if args.files.is_empty() {
        if args.kubeconfig.is_none() && !std::io::stdin().is_terminal() {
            anyhow::bail!("no nodes given; name files, `-` for standard input, or a cluster by --kubeconfig");
        }
        let nodes = crate::kubernetes::list_nodes(args.kubeconfig.as_deref()).await?;
        Objects { nodes, pods: Vec::new() }
    } else {
        let mut objects = Objects::default();
        for file in &args.files {
            input::add(file, &mut objects)?;
        }
        objects
    };
    let mut strings = Interner::default();
    // No node is no good news: a selector with a typo looks just like this.
    anyhow::ensure!(!objects.nodes.is_empty(), "no nodes in what was given");
    let decoded = objects.nodes.iter().enumerate().map(|(index, object)| {
        let node = decode(object, &mut strings);
        node.map(Arc::new).with_context(|| format!("node {}: metadata.name is missing", index + 1))
    });
    let nodes = decoded.collect::<anyhow::Result<_>>()?;
    let pods = (!objects.pods.is_empty()).then(|| {
        let kept = objects.pods.iter().filter_map(|object| object::pod::Pods::keep(object, &mut strings));
        pods::by_node(kept).into_iter().map(|(node, pods)| (node, Arc::new(pods))).collect()
    });
    Ok(Given { nodes, pods })
}

fn render(rows: &[Row]) -> String {
    let mut table = table::table(&["NODE", "CHECKER", "VERDICT", "REASON", "THRESHOLD"]);
    for row in rows {
        let threshold = row.threshold_seconds.map(|s| table::span(std::time::Duration::from_secs_f64(s)));
        table.add_row(vec![
            row.node.as_str().into(),
            row.checker.as_str().into(),
            table::verdict(row.verdict),
            row.reason.as_str().into(),
            threshold.unwrap_or_else(|| "-".to_owned()).into(),
        ]);
    }
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    format!("{table}\n\n{} pass, {} fail, {} unknown", count("pass"), count("fail"), count("unknown"))
}

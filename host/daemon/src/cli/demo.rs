//! `apgar demo`: the main job on a simulated cluster. Nothing here is staged but the misfortunes: the API server
//! and the cloud are simulated, everything between them is the daemon as it runs anywhere.

mod screen;
mod story;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use apgar_sim::{Answer, ApiServer, Cloud, CloudCall, CloudConfig, CloudRule, Pace, Running, SimConfig};
use serde_json::Value;

use crate::config::{Flags, Settings, Sources};
use crate::http::Query;
use crate::kubernetes;
use crate::plugins;
use crate::run::{Daemon, Listeners};
use screen::Screen;
use story::{Observed, Story};

/// Show the main job on an embedded, simulated cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "A fleet of simulated nodes falls ill in six ways; the daemon watches it through the \
    Kubernetes protocol, judges it with the bundled WebAssembly checkers and repairs it through a simulated Civo \
    API. On the way a checker is added, another swapped, and a bad one rolled back. It ends with a summary after about a minute.\n\n\
    Exit codes: 0 everything came out as told; 1 something did not.")]
pub(crate) struct DemoArgs {
    /// Keep the cluster and the daemon running afterwards, for a look with kubectl and curl, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// The seed of the fleet: the same seed, the same nodes and the same misfortunes
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Show the daemon's log lines as well
    #[arg(long)]
    log: bool,
}

/// How often the fleet is looked at for the screen and the summary.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) fn main(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime's threads")?;
    let told = runtime.block_on(demo(args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(if told? { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn demo(args: &DemoArgs) -> anyhow::Result<bool> {
    let home = tempfile::tempdir().context("a temporary directory")?;
    let plugin_dir = home.path().join("plugins");
    std::fs::create_dir(&plugin_dir)?;
    let story = Story::new(args.seed);
    let server = ApiServer::start(SimConfig { seed: args.seed, ..SimConfig::default() })?;
    let fleet = story
        .fleet()
        .run(&server, Pace::times(PACE), &story.misfortunes())
        .map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    let cloud = Cloud::start(CloudConfig { seed: args.seed, ..CloudConfig::default() }, fleet.machines())?;
    story.prepare(&server).map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    if let Some(instance) = story.busy_instance() {
        let busy = Answer::Status { code: 503, retry_after: Some(2) };
        cloud.add(CloudRule::new(CloudCall::Reboot, busy).of(instance).times(1));
    }
    let kubeconfig = home.path().join("kubeconfig.yaml");
    std::fs::write(&kubeconfig, server.kubeconfig())?;

    let settings = settings(home.path(), &plugin_dir, &kubeconfig, &cloud)?;
    if args.log {
        crate::log::start(&settings);
    }
    let listeners = Listeners::bind(&settings).await?;
    let client = kubernetes::client(kubernetes::config(&settings.kubeconfig).await?)?;
    let daemon = Daemon::start(&settings, client, listeners, plugins::compile_in_child()?).await?;

    let mut screen = Screen::new(&story);
    let observed = play(&story, &daemon, &plugin_dir, &mut screen).await?;
    let told = screen.summary(&story, &observed, &fleet, &cloud);
    if args.keep {
        keep(&daemon, &kubeconfig, &fleet).await?;
    }
    daemon.stop().await;
    Ok(told)
}

/// Kubernetes' own times, twenty times faster: a kubelet that falls silent is Unknown after 2 s, a boot takes 4.5.
const PACE: f64 = 20.0;

/// The rules, as fast as the pace: what takes minutes by default takes seconds here. Two actions at once in a
/// fleet of forty shows the gate at work without making anybody wait.
const CONFIG: &str = r#"
[recovery]
monitor_only = false
tick = "1s"
reboot_wait = "9s"
gpu_reboot_wait = "12s"
max_reboots = 2
stability_window = "5s"
backoff_base = "1s"
backoff_cap = "2s"

[gate]
concurrent = 2

[metrics]
address = "127.0.0.1"

[checkers]
debounce = "100ms"
stable_gap = "100ms"

[checkers.defaults]
threshold = "3s"
backoff_base = "1s"
"#;

fn settings(home: &Path, plugin_dir: &Path, kubeconfig: &Path, cloud: &Cloud) -> anyhow::Result<Settings> {
    let text = |path: &Path| Some(path.display().to_string());
    let env = [
        ("CIVO_API_KEY", cloud.config().key.clone()),
        ("CIVO_API_URL", cloud.url()),
        ("CIVO_CLUSTER_ID", cloud.config().cluster.clone()),
        ("CIVO_REGION", cloud.config().region.clone()),
    ];
    let sources = Sources {
        file: Some(("demo.toml".into(), CONFIG.to_owned())),
        env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        flags: Flags {
            kubeconfig: text(kubeconfig),
            plugin_dir: text(plugin_dir),
            store_dir: text(&home.join("state")),
            api_listen: Some("127.0.0.1:0".to_owned()),
            ..Flags::default()
        },
    };
    let (mut settings, _) = crate::config::load(sources)?;
    // Any free port: a demo must start beside a daemon that has the default one.
    settings.metrics.port = 0;
    Ok(settings)
}

/// Lets the story run, puts checkers into the plugin directory on the way, and notes what the daemon says.
async fn play(story: &Story, daemon: &Daemon, plugin_dir: &Path, screen: &mut Screen) -> anyhow::Result<Observed> {
    let began = tokio::time::Instant::now();
    let mut observed = Observed::default();
    let mut arrivals = story.arrivals().into_iter().peekable();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        let at = began.elapsed();
        if let Some(arrival) = arrivals.next_if(|arrival| arrival.at <= at) {
            screen.say(at, &arrival.says);
            // Aside and then renamed, as every writer should: the directory never holds half a file.
            let aside = plugin_dir.join(format!(".{}", arrival.file));
            std::fs::write(&aside, &arrival.bytes)?;
            std::fs::rename(&aside, plugin_dir.join(arrival.file))?;
        }
        let nodes = daemon.asker.ask(Query::Nodes).await.context("the daemon's loop is silent")?;
        let plugins = daemon.asker.ask(Query::Plugins).await.context("the daemon's loop is silent")?;
        let events = daemon.asker.ask(Query::Events).await.context("the daemon's loop is silent")?;
        let news = observed.note(at, &nodes, &plugins).into_iter().chain(observed.hear(&events)).collect::<Vec<_>>();
        for line in news {
            screen.say(at, &line);
        }
        screen.draw(at, &observed);
        if (arrivals.peek().is_none() && story.is_over(&observed)) || at > story::LONGEST {
            return Ok(observed);
        }
    }
}

async fn keep(daemon: &Daemon, kubeconfig: &Path, fleet: &Running) -> anyhow::Result<()> {
    let node = fleet.infos().into_iter().next().map(|info| info.name).unwrap_or_default();
    println!("\nStill running. Try, in another terminal:");
    println!("  kubectl --kubeconfig {} get nodes", kubeconfig.display());
    println!("  curl -s http://{}/metrics | grep recovery_phase", daemon.metrics);
    println!("  curl -s http://{}/api/v1/plugins", daemon.api);
    println!("  apgar explain {node} --api {}", daemon.api);
    println!("Ctrl-C ends it.");
    tokio::signal::ctrl_c().await.context("Ctrl-C")
}

/// A text of the daemon's answer.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

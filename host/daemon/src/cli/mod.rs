//! The command line: what a person types, and nothing else. Each command is a module of its own.

mod api;
mod check;
mod config;
mod demo;
mod explain;
mod get;
mod input;
mod plugin;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::Flags;

/// Keeps Kubernetes nodes alive: watches every Node, asks WebAssembly checkers whether it is well, and repairs
/// the sick ones, carefully.
#[derive(Debug, Parser)]
#[command(name = "apgar", version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Start with:\n  \
    apgar demo                                     see it work on a simulated cluster, about a minute\n  \
    kubectl get nodes -o json | apgar check -      the verdict of every checker on every node\n  \
    apgar run                                      the daemon; it only observes until told otherwise")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    #[command(after_help = "Without a configuration it reads the environment of civo-node-agent (CIVO_*), serves \
        the same metrics, and only observes. `apgar config show` tells what applies and where it comes from.\n\n\
        It ends with 0 after SIGTERM or SIGINT, with 1 when it cannot start or its metrics port dies.")]
    Run(DaemonArgs),
    /// Show the main job on an embedded, simulated cluster
    Demo(demo::DemoArgs),
    /// Judge nodes once and print every checker's verdict
    Check(check::CheckArgs),
    /// Say why a node was, or was not, repaired; asks a running daemon
    Explain(explain::ExplainArgs),
    /// List what a running daemon has
    #[command(subcommand)]
    Get(get::GetCommand),
    /// Check, show or describe the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look into checker plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Print a shell's completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Compiles one component; the daemon starts it for itself
    #[command(hide = true)]
    CompileWorker {
        /// What the daemon says
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        args: Vec<String>,
    },
}

/// The settings that a command line may give; each beats environment and file.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DaemonArgs {
    /// The configuration file [default: /etc/apgar/apgar.toml, if it is there]. What it says of checkers takes effect
    /// when it changes, the rest at the next start
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The kubeconfig; empty: in-cluster [default: /etc/rancher/k3s/k3s.yaml, else in-cluster]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// Only observe; every repair is simulated [default: true]
    #[arg(long, value_name = "BOOL")]
    monitor_only: Option<bool>,
    /// The directory of checker plugins [default: /etc/apgar/plugins]
    #[arg(long, value_name = "DIR")]
    plugin_dir: Option<String>,
    /// The directory for what must survive a restart [default: /var/lib/apgar]
    #[arg(long, value_name = "DIR")]
    store_dir: Option<String>,
    /// The port of metrics, /healthz and /readyz [default: 9625]
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<String>,
    /// The address of the local API [default: 127.0.0.1:9626]
    #[arg(long, value_name = "ADDRESS:PORT")]
    api_listen: Option<String>,
    /// How log lines look: auto, json or human [default: auto: human on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// The least important level that is logged: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl DaemonArgs {
    /// The flags as the configuration takes them.
    pub(crate) fn flags(&self) -> Flags {
        Flags {
            kubeconfig: self.kubeconfig.clone(),
            monitor_only: self.monitor_only,
            plugin_dir: self.plugin_dir.clone(),
            store_dir: self.store_dir.clone(),
            metrics_port: self.metrics_port.clone(),
            api_listen: self.api_listen.clone(),
            log_format: self.log_format.clone(),
            log_level: self.log_level.clone(),
        }
    }
}

/// A table or JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Runs the program.
pub fn main() -> ExitCode {
    apgar_engine::give_back_large_blocks();
    let cli = Cli::parse_from(crate::legacy::arguments(std::env::args_os()));
    let result = match cli.command {
        Command::Run(args) => crate::run::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Check(args) => check::main(&args),
        Command::Explain(args) => explain::main(&args),
        Command::Get(command) => get::main(&command),
        Command::Config(command) => config::main(command),
        Command::Plugin(command) => plugin::main(command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "apgar", &mut script);
            print(String::from_utf8_lossy(&script).trim_end()).map(|()| ExitCode::SUCCESS)
        }
        Command::CompileWorker { args } => return apgar_engine::compile_worker_main(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(error.downcast_ref::<Usage>().map_or(1, |_| 2))
    })
}

/// Writes to standard output. A reader that has seen enough, as `head` has, is the end and no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

/// Marks an error as the caller's: exit code 2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage(pub(crate) &'static str);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

//! `apgar plugin`: looks into checker plugins without a daemon.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use apgar_core::fleet::Inputs;
use apgar_engine::signature::{self, PublicKey};
use serde_json::json;

use super::{Output, api, table};
use crate::plugins::{self, Cache};

/// Look into checker plugins
#[derive(Debug, clap::Subcommand)]
pub(crate) enum PluginCommand {
    /// Load a component as the daemon would, and say what it is, what it imports and what that costs
    #[command(after_help = "It is validated, compiled, asked to describe itself and self-checked, under the \
        settings, grants and limits of its table in the configuration file.\n\n\
        Exit codes: 0 the daemon would serve it; 1 it would not, with the reason.")]
    Inspect(InspectArgs),
    /// Make a key pair to sign with: writes FILE and FILE.pub, and prints the public key
    #[command(
        after_help = "The secret key is encrypted with the password in APGAR_SIGN_PASSWORD, or not at all without \
        one. Put the public key into checkers.trusted_keys. A file that is there is not overwritten."
    )]
    Keygen(KeygenArgs),
    /// Sign a component with a minisign secret key: writes FILE.sig, over one that is there
    #[command(after_help = "The password of an encrypted key is read from APGAR_SIGN_PASSWORD. Put FILE.sig next to \
        FILE, and the public key into checkers.trusted_keys.")]
    Sign(SignArgs),
    /// Hold a component against FILE.sig, as the daemon does when checkers.trusted_keys is set
    #[command(after_help = "Exit codes: 0 valid; 1 not, with the reason.")]
    Verify(VerifyArgs),
    /// Take away a plugin of a running daemon whose file is gone, but which was kept because the directory looked odd
    Unload(UnloadArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The component, or the name of a bundled checker (ready, disk, cilium, gpu)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A configuration file, for the plugin's settings, grants and limits
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct KeygenArgs {
    /// Where the secret key goes
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SignArgs {
    /// The component
    file: PathBuf,
    /// The secret key, as `apgar plugin keygen` and `minisign -G` write it
    #[arg(long, value_name = "SECRET_KEY_FILE")]
    key: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// The component
    file: PathBuf,
    /// A public key to accept besides those of the configuration; may be repeated
    #[arg(long, value_name = "PUBLIC_KEY")]
    key: Vec<PublicKey>,
    /// A configuration file, for checkers.trusted_keys
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UnloadArgs {
    /// The plugin
    name: String,
    /// Where the daemon's API listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9626")]
    api: String,
}

pub(crate) fn main(command: PluginCommand) -> anyhow::Result<ExitCode> {
    match command {
        PluginCommand::Inspect(args) => inspect(&args),
        PluginCommand::Keygen(args) => keygen(&args),
        PluginCommand::Sign(args) => sign(&args),
        PluginCommand::Verify(args) => verify(&args),
        PluginCommand::Unload(args) => {
            let (status, answer) = api::ask(&args.api, reqwest::Method::DELETE, &["plugins", &args.name])?;
            if !status.is_success() {
                return api::refused(&args.api, status, &answer);
            }
            super::print(&format!("Unloaded {}.", args.name)).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn signature_of(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".sig");
    path.into()
}

/// The password of the secret key. Without one the library would ask for it; a build job has nobody to answer.
fn password() -> Option<String> {
    std::env::var_os("APGAR_SIGN_PASSWORD").map(|password| password.to_string_lossy().into_owned())
}

fn keygen(args: &KeygenArgs) -> anyhow::Result<ExitCode> {
    let (pair, secret) = match password() {
        None => {
            let pair = minisign::KeyPair::generate_unencrypted_keypair()?;
            let secret = pair.sk.to_box(None)?;
            (pair, secret)
        }
        Some(password) => {
            let pair = minisign::KeyPair::generate_encrypted_keypair(Some(password))?;
            let secret = pair.sk.to_box(None)?;
            (pair, secret)
        }
    };
    let public = PathBuf::from(format!("{}.pub", args.file.display()));
    create(&args.file, 0o600, &secret.into_string())?;
    create(&public, 0o644, &pair.pk.to_box()?.into_string())?;
    super::print(&format!(
        "Wrote {} and {}. To trust it:\n[checkers]\ntrusted_keys = [\"{}\"]",
        args.file.display(),
        public.display(),
        pair.pk.to_base64()
    ))
    .map(|()| ExitCode::SUCCESS)
}

/// Writes a file that is not there yet.
fn create(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("{} cannot be made; give a name that is not taken", path.display()))
}

fn sign(args: &SignArgs) -> anyhow::Result<ExitCode> {
    let about_key = || format!("secret key {}", args.key.display());
    let bytes = std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
    let key = minisign::SecretKeyBox::from_string(&std::fs::read_to_string(&args.key).with_context(about_key)?)?;
    let key = match password() {
        Some(password) => key.into_secret_key(Some(password)),
        None => key.into_unencrypted_secret_key(),
    };
    let key = key.with_context(about_key).context("an encrypted key needs its password in APGAR_SIGN_PASSWORD")?;
    let signature = minisign::sign(None, &key, bytes.as_slice(), None, None)?;
    let path = signature_of(&args.file);
    std::fs::write(&path, signature.into_string()).with_context(|| path.display().to_string())?;
    super::print(&format!("Wrote {}.", path.display())).map(|()| ExitCode::SUCCESS)
}

fn verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let settings = crate::settings::for_command(args.config.as_deref())?;
    let keys: Vec<_> = args.key.iter().chain(&settings.checkers.trusted_keys).cloned().collect();
    anyhow::ensure!(!keys.is_empty(), "no key is trusted: give --key PUBLIC_KEY, or set checkers.trusted_keys");
    let bytes = std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
    let path = signature_of(&args.file);
    let verified = match std::fs::read_to_string(&path) {
        Ok(signature) => signature::verify(&keys, &bytes, &signature),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let stem = args.file.file_stem().unwrap_or_default();
            Err(signature::unsigned(&stem.to_string_lossy()))
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    match (args.output, &verified) {
        (Output::Json, Ok(id)) => super::print(&json!({"valid": true, "key": id.to_string()}).to_string())?,
        (Output::Json, Err(refusal)) => super::print(&json!({"valid": false, "refusal": refusal}).to_string())?,
        (Output::Table, Ok(id)) => super::print(&format!("Valid: signed by the key {id}."))?,
        (Output::Table, Err(refusal)) => super::print(&format!("Not valid: {refusal}"))?,
    }
    Ok(ExitCode::from(u8::from(verified.is_err())))
}

fn inspect(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let settings = crate::settings::for_command(args.config.as_deref())?;
    let candidate = match args.file.to_str().filter(|_| !args.file.exists()) {
        Some(name) if plugins::is_bundled(name) => plugins::bundled_candidate(&settings, name)?,
        _ => plugins::from_file(&settings, &args.file)?,
    };
    let engine = plugins::engine(&settings, Cache::Own, plugins::compile_in_child()?)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let key = candidate.key.clone();
    let loaded = runtime.block_on(engine.load(candidate));
    let plugin = loaded.map_err(|error| anyhow::anyhow!("{}: {error}", key.as_str()))?;
    let description = plugin.description();
    let facts = json!({
        "name": key.as_str(),
        "shown": key.shown(),
        "version": description.version,
        "summary": description.summary,
        "reasons": description.reasons,
        "defaultThresholdSeconds": description.default_threshold.as_secs_f64(),
        "generation": plugin.generation().to_string(),
        "digest": plugin.digest().to_string(),
        "size": plugin.size(),
        "compiledSize": plugin.compiled().size,
        "imports": plugin.imports(),
        "pure": plugin.pure(),
        "takesSettings": plugin.takes_settings(),
    });
    match args.output {
        Output::Json => super::print(&format!("{facts:#}"))?,
        Output::Table => {
            let mut table = table::table(&["FIELD", "VALUE"]);
            for (field, value) in facts.as_object().into_iter().flatten() {
                let words = value
                    .as_array()
                    .map(|items| items.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>());
                let value = match (value.as_str(), words) {
                    (Some(text), _) => text.to_owned(),
                    (None, Some(words)) => words.join(", "),
                    (None, None) => value.to_string(),
                };
                table.add_row([field.as_str(), &value]);
            }
            super::print(&format!("{table}\n\n{}", purity(plugin.inputs())))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn purity(inputs: Inputs) -> &'static str {
    match inputs {
        Inputs::Node => {
            "Pure: its verdict is a function of node and settings, and is remembered until one of them changes."
        }
        Inputs::NodeAndPods => {
            "Pure: its verdict is a function of the node, the pods on it and settings, and is remembered until one of \
             them changes; a change of pods is looked at each tick."
        }
        Inputs::More { .. } => {
            "Not pure: an import lets its verdict change by itself, so it is asked again at every tick."
        }
    }
}

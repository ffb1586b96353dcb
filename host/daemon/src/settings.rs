//! Brings the configuration's sources together: the one place that reads the file and the environment.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::announce::Pod;
use crate::config::{self, Flags, Settings, Sources, Warning};

/// The configuration file that is read where none is named, if it is there.
pub const DEFAULT_FILE: &str = "/etc/apgar/apgar.toml";

/// The settings of the daemon, from flags, environment, file and defaults.
///
/// # Errors
/// When the named file cannot be read, or with everything that is wrong in the sources.
pub fn load(file: Option<&Path>, flags: Flags) -> anyhow::Result<(Settings, Vec<Warning>)> {
    made_of(find(file)?, flags)
}

/// The settings that this file makes, with flags, environment and defaults.
///
/// # Errors
/// With everything that is wrong in the sources.
pub fn made_of(file: Option<(PathBuf, String)>, flags: Flags) -> anyhow::Result<(Settings, Vec<Warning>)> {
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    let env = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    Ok(config::load(Sources { file, env, flags })?)
}

/// The settings of a command that judges by itself: the file alone, named or at its default place, so that it
/// says what the daemon on this machine would say of a checker, but an agent's environment has no part in it.
///
/// # Errors
/// As [`load`].
pub fn for_command(file: Option<&Path>) -> anyhow::Result<Settings> {
    let file = find(file)?;
    let (settings, _) = config::load(Sources { file, ..Sources::default() })?;
    Ok(settings)
}

/// The Pod that this process runs in, if the Deployment says so by `POD_NAME` and `POD_NAMESPACE`.
#[must_use]
pub fn pod() -> Option<Pod> {
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let set = |name| variable(name).filter(|value| !value.is_empty());
    Some(Pod { namespace: set("POD_NAMESPACE")?, name: set("POD_NAME")?, uid: set("POD_UID") })
}

/// The named file with its text, else the one at the default place, if it is there.
///
/// # Errors
/// When it cannot be read.
pub fn find(file: Option<&Path>) -> anyhow::Result<Option<(PathBuf, String)>> {
    match file {
        Some(path) => read(path).map(Some),
        None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE)).map(Some),
        None => Ok(None),
    }
}

fn read(path: &Path) -> anyhow::Result<(PathBuf, String)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("configuration file {}", path.display()))?;
    Ok((path.to_owned(), text))
}

//! Builds a checker crate into a WebAssembly component.
//!
//! Two callers: build scripts, which want the bundled checkers and the guests of the tests, and people, by this
//! crate's own program. Both get the same compiler, profile and environment, so that what was tested is
//! what a user gets. Nothing of it is linked into what runs checkers.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The target of all checkers: it has no WASI, so a checker imports what it uses and nothing else.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// A checker crate.
#[derive(Clone, Copy, Debug)]
pub struct Package<'a> {
    /// Its name.
    pub name: &'a str,
    /// The manifest of the package itself or of its workspace.
    pub manifest: &'a Path,
    /// Where cargo builds. It may be shared by all packages and all profiles of the caller, but must not be
    /// the target directory of a cargo that is waiting for this call: they would wait for each other.
    pub target_dir: &'a Path,
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program could not be started.
    #[error("failed to run {program}")]
    Run {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The standard library for [`TARGET`] is missing, and rustup could not add it.
    #[error(
        "the standard library for {TARGET} is missing and `rustup target add {TARGET}` failed ({reason}): \
         run it by hand, or install the target by whatever installed this compiler"
    )]
    Target {
        /// What rustup said, or why it could not be run.
        reason: String,
    },
    /// The package did not compile.
    #[error("{package} did not build for {TARGET}:\n{output}")]
    Compile {
        /// The package.
        package: String,
        /// What cargo printed.
        output: String,
    },
    /// The manifest is not there; or the build went well, yet the module is not where it belongs.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The core module cannot become a component.
    #[error("not a module that can be encoded as a component: {0}")]
    Encode(String),
    /// No target directory above the directory that was asked about.
    #[error("no target directory above {}", .0.display())]
    TargetDir(PathBuf),
}

/// Builds a checker and returns the component.
pub fn build(package: &Package) -> Result<Vec<u8>, Error> {
    // Without this, a directory that is not there reads as a cargo that is not there.
    let unreadable = |source| Error::Read { path: package.manifest.to_owned(), source };
    std::fs::metadata(package.manifest).map_err(unreadable)?;
    add_target()?;
    let output = output(cargo(package))?;
    if !output.status.success() {
        return Err(Error::Compile {
            package: package.name.to_owned(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    let file = package.name.replace('-', "_") + ".wasm";
    let path = package.target_dir.join(TARGET).join(PROFILE).join(file);
    let module = std::fs::read(&path).map_err(|source| Error::Read { path, source })?;
    encode(&module)
}

/// Makes a component of a core module that carries the description of its world, as those built with
/// wit-bindgen do.
pub fn encode(module: &[u8]) -> Result<Vec<u8>, Error> {
    let encode = || wit_component::ComponentEncoder::default().validate(true).module(module)?.encode();
    encode().map_err(|error| Error::Encode(format!("{error:#}")))
}

/// The directory in which the build script with this `OUT_DIR` and `TARGET` should build checkers: one for all
/// profiles and targets of the caller, as a checker is built the same way for each.
pub fn target_dir(out_dir: &Path, target: &OsStr) -> Result<PathBuf, Error> {
    // <target dir>[/<target>]/<profile>/build/<package>-<hash>/out
    let root = match out_dir.ancestors().nth(4) {
        Some(directory) if directory.file_name() == Some(target) => directory.parent(),
        directory => directory,
    };
    Ok(root.ok_or_else(|| Error::TargetDir(out_dir.to_owned()))?.join("checkers"))
}

/// How a program ends that builds checkers. Its errors hold what cargo printed: returned from `main` they would
/// be one long line.
pub fn exit(result: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("caused by: {error}");
        cause = error.source();
    }
    ExitCode::FAILURE
}

/// The profile of all checkers, defined here and not in a manifest: a user's crate gets the same.
const PROFILE: &str = "checker";

/// A checker is loaded into every daemon and judged against a budget of microseconds: small and fast, with
/// nothing to unwind into.
const SETTINGS: [&str; 8] = [
    "inherits='release'",
    "opt-level='s'",
    "lto=true",
    "codegen-units=1",
    "panic='abort'",
    "debug=false",
    "strip=true",
    "incremental=false",
];

/// Variables that would make this another build than the one in a plain shell: what the cargo, clippy or
/// coverage tool around it set for its own build.
const LEAKS: [&str; 13] = [
    "CARGO_BUILD_BUILD_DIR",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_TARGET_DIR",
    "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS",
    "CLIPPY_ARGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

fn cargo(package: &Package) -> Command {
    let mut cargo = Command::new(variable("CARGO", "cargo"));
    // Configuration files count from the working directory: those of the package, not the caller's.
    if let Some(directory) = package.manifest.parent().filter(|path| !path.as_os_str().is_empty()) {
        cargo.current_dir(directory);
    }
    cargo
        .args(["rustc", "--lib", "--crate-type", "cdylib"])
        .args(["--package", package.name, "--target", TARGET, "--profile", PROFILE])
        .arg("--manifest-path")
        .arg(absolute(package.manifest))
        .arg("--target-dir")
        .arg(absolute(package.target_dir));
    for setting in SETTINGS {
        cargo.arg("--config").arg(format!("profile.{PROFILE}.{setting}"));
    }
    for (name, _) in std::env::vars_os() {
        if leaks(&name) {
            cargo.env_remove(name);
        }
    }
    cargo
}

fn leaks(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| LEAKS.contains(&name) || name.starts_with("CARGO_PROFILE_"))
}

/// Adds the target's standard library if it is missing. Says so first: it needs the network and some time.
fn add_target() -> Result<(), Error> {
    let mut rustc = Command::new(variable("RUSTC", "rustc"));
    let libraries = output(rustc.args(["--print", "target-libdir", "--target", TARGET]))?;
    let libraries = String::from_utf8_lossy(&libraries.stdout).trim().to_owned();
    if !libraries.is_empty() && Path::new(&libraries).exists() {
        return Ok(());
    }
    let cargo_shows = if std::env::var_os("OUT_DIR").is_some() { "cargo::warning=" } else { "" };
    println!("{cargo_shows}adding the Rust target {TARGET}, which checkers are built for");
    let reason = match Command::new("rustup").args(["target", "add", TARGET]).output() {
        Ok(added) if added.status.success() => return Ok(()),
        Ok(added) => String::from_utf8_lossy(&added.stderr).trim().to_owned(),
        Err(error) => format!("rustup: {error}"),
    };
    Err(Error::Target { reason })
}

fn variable(name: &str, default: &str) -> OsString {
    std::env::var_os(name).unwrap_or_else(|| default.into())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn output(mut command: impl std::borrow::BorrowMut<Command>) -> Result<std::process::Output, Error> {
    let command = command.borrow_mut();
    command.output().map_err(|source| Error::Run { program: command.get_program().display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_profiles_and_targets_share_one_directory() {
        let found = |out_dir: &str| target_dir(Path::new(out_dir), OsStr::new("x86_64-unknown-linux-gnu"));
        for above in ["debug", "release", "x86_64-unknown-linux-gnu/debug"] {
            let out_dir = format!("/apgar/target/{above}/build/apgar-1/out");
            assert_eq!(found(&out_dir).unwrap(), Path::new("/apgar/target/checkers"));
        }
        assert!(matches!(found("/out"), Err(Error::TargetDir(_))));
    }

    #[test]
    fn what_the_outer_cargo_set_for_itself_does_not_leak_in() {
        for name in ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_TARGET_DIR", "CARGO_PROFILE_RELEASE_LTO"] {
            assert!(leaks(OsStr::new(name)), "{name}");
        }
        // Where packages come from, and how many of them are built at once, is the user's to say.
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_MAKEFLAGS", "RUSTUP_TOOLCHAIN", "PATH"] {
            assert!(!leaks(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn what_is_no_module_is_refused_with_a_reason() {
        let error = encode(b"not WebAssembly").unwrap_err().to_string();
        assert!(error.starts_with("not a module that can be encoded as a component: "), "{error}");
        // A module without a world: built without a kit.
        assert!(encode(b"\0asm\x01\0\0\0").is_ok_and(|component| !component.is_empty()));
    }
}

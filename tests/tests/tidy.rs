//! Is what is written about the repository true? Each failure says what to do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test says where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names in the tables of a manifest whose header is `[dependencies]` or `[build-dependencies]`: what the
/// crate itself is made of, its tests aside.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = read(manifest);
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[dependencies]" || line == "[build-dependencies]";
        } else if let (true, Some((name, _))) = (inside, line.split_once(['=', '.'])) {
            names.insert(name.trim().to_owned());
        }
    }
    names
}

/// Invariant 1 of the README.
#[test]
fn the_core_depends_on_no_runtime_clock_or_io() {
    // A digest is a function of its input: `sha2` is as pure as `serde`.
    let allowed = BTreeSet::from(["serde", "sha2", "thiserror"].map(str::to_owned));
    let found = dependencies("host/core/Cargo.toml");
    let strange: Vec<_> = found.difference(&allowed).collect();
    assert!(
        strange.is_empty(),
        "host/core must stay pure; what needs {strange:?} belongs in host/daemon or host/engine"
    );
}

#[test]
fn the_core_reads_no_clock_and_no_environment() {
    for file in rust_files(&root().join("host/core/src")) {
        let text = fs::read_to_string(&file).unwrap();
        for banned in ["SystemTime", "std::time::Instant", "std::env", "std::fs", "std::net", "thread::sleep"] {
            assert!(
                !text.contains(banned),
                "{}: {banned} belongs in host/daemon: time and I/O are inputs",
                file.display()
            );
        }
    }
}

#[test]
fn dependencies_point_down_only() {
    let allowed: [(&str, &[&str]); 4] = [
        ("host/core", &[]),
        ("host/engine", &["apgar-core"]),
        ("host/sim", &[]),
        ("host/daemon", &["apgar-core", "apgar-engine", "apgar-sim", "apgar-component"]),
    ];
    for (room, below) in allowed {
        let ours = dependencies(&format!("{room}/Cargo.toml")).into_iter().filter(|name| name.starts_with("apgar"));
        for name in ours {
            assert!(below.contains(&name.as_str()), "{room} must not know {name}: dependencies point down only");
        }
    }
}

#[test]
fn the_top_level_has_the_agreed_entries_and_no_other() {
    let agreed = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "examples",
        "host",
        "plugins",
        "rust-toolchain.toml",
        "target",
        "tests",
        "wit",
    ];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let known = name.starts_with('.') || agreed.contains(&name.as_str());
        assert!(known, "{name}: the top level is fixed; put it into one of {agreed:?}");
    }
}

#[test]
fn every_path_that_the_readme_names_exists() {
    let text = read("README.md");
    let quoted = text.split('`').skip(1).step_by(2);
    let paths = quoted.filter(|code| {
        let first = code.split('/').next().unwrap_or_default();
        code.contains('/') && ["host", "plugins", "wit", "examples", "tests", ".ci"].contains(&first)
    });
    let mut seen = 0;
    for path in paths.filter(|path| !path.contains(['*', '{', ' '])) {
        seen += 1;
        assert!(root().join(path).exists(), "README.md names {path}, which does not exist");
    }
    assert!(seen > 10, "the README's paths were not found: {seen}");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

//! Builds the bundled checkers, so that one binary brings all it needs.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use apgar_component::{Package, build, exit, target_dir};

/// The keys of the bundled checkers, each the name of its folder in `plugins`.
const CHECKERS: [&str; 4] = ["ready", "disk", "cilium", "gpu"];

fn main() -> ExitCode {
    exit(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let variable = |name| env::var_os(name).ok_or("not run by cargo");
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let target_dir = target_dir(&out_dir, &variable("TARGET")?)?;

    for path in ["Cargo.lock", "rust-toolchain.toml", "wit", "plugins/sdk", "plugins/build"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }

    let mut bundled = String::new();
    for checker in CHECKERS {
        println!("cargo::rerun-if-changed={}", root.join("plugins").join(checker).display());
        let package =
            Package { name: &format!("apgar-{checker}"), manifest: &root.join("Cargo.toml"), target_dir: &target_dir };
        let file = out_dir.join(checker).with_extension("wasm");
        fs::write(&file, build(&package)?)?;
        bundled += &format!("    ({checker:?}, include_bytes!({file:?})),\n");
    }
    let bundled = format!(
        "/// The bundled checkers: key and component.\n\
         pub static BUNDLED: [(&str, &[u8]); {}] = [\n{bundled}];\n",
        CHECKERS.len()
    );
    fs::write(out_dir.join("bundled.rs"), bundled)?;

    // The custom checker that `apgar demo` puts into the plugin directory, and the bad one it puts over it.
    let example = root.join("examples/rust-checker");
    for path in ["Cargo.lock", "Cargo.toml", "src"] {
        println!("cargo::rerun-if-changed={}", example.join(path).display());
    }
    println!("cargo::rerun-if-changed={}", root.join("plugins/demo").display());
    let manifests = [
        ("POOL_MEMORY", "pool-memory", example.join("Cargo.toml")),
        ("BAD_POOL_MEMORY", "apgar-demo", root.join("Cargo.toml")),
    ];
    let mut demo = String::new();
    for (constant, name, manifest) in manifests {
        let package = Package { name, manifest: &manifest, target_dir: &target_dir };
        let file = out_dir.join(name).with_extension("wasm");
        fs::write(&file, build(&package)?)?;
        demo += &format!("static {constant}: &[u8] = include_bytes!({file:?});\n");
    }
    fs::write(out_dir.join("demo.rs"), demo)?;
    Ok(())
}

//! Builds the guests of the tests: one checker that misbehaves on demand, one that reads pods, and a handful of special
//! ones.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use apgar_component::{Package, build, exit, target_dir};

#[path = "guests/special.rs"]
mod special;

fn main() -> ExitCode {
    exit(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let variable = |name| env::var_os(name).ok_or("not run by cargo");
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;

    for path in ["Cargo.lock", "rust-toolchain.toml", "wit", "plugins/sdk", "plugins/build", "tests/guests"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }

    let target_dir = target_dir(&out_dir, &variable("TARGET")?)?;
    let guest = |name| build(&Package { name, manifest: &root.join("Cargo.toml"), target_dir: &target_dir });
    let mut guests = vec![("guest", guest("apgar-guests")?), ("pods", guest("apgar-pods-guest")?)];
    guests.extend(special::build(&root.join("wit/checker-0.1.0"))?);

    let directory = out_dir.join("guests");
    fs::create_dir_all(&directory)?;
    let mut list = String::new();
    for (name, bytes) in &guests {
        let file = directory.join(name).with_extension("wasm");
        fs::write(&file, bytes)?;
        list += &format!("    ({name:?}, include_bytes!({file:?})),\n");
    }
    let list = format!(
        "/// Guests by name: a checker that misbehaves on demand, one that reads pods, and a handful of special ones.\n\
         pub static GUESTS: [(&str, &[u8]); {}] = [\n{list}];\n",
        guests.len()
    );
    fs::write(out_dir.join("guests.rs"), list)?;
    Ok(())
}

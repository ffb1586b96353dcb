//! Builds one checker by hand: `cargo run -p apgar-component -- <Cargo.toml> <package> <component.wasm>`.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use apgar_component::{Package, build, exit};

fn main() -> ExitCode {
    exit(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [manifest, name, component] = arguments.as_slice() else {
        return Err("usage: apgar-component <Cargo.toml> <package> <component.wasm>".into());
    };
    let manifest = Path::new(manifest);
    let target_dir = manifest.with_file_name("target");
    std::fs::write(component, build(&Package { name, manifest, target_dir: &target_dir })?)?;
    Ok(())
}

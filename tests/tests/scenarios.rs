//! Scripts in `tests/scenarios`, each with the story it must tell below it in a file of its own. A story is reviewed
//! as prose; `UPDATE_GOLDEN=1 cargo test -p apgar-tests --test scenarios` writes it anew.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

#[test]
fn every_script_tells_its_story() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut told = 0;
    for entry in fs::read_dir(folder)? {
        let script = entry?.path();
        if script.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let name = script.display();
        let story = apgar_core::script::run(&fs::read_to_string(&script)?).with_context(|| name.to_string())?;
        let golden = script.with_extension("out");
        if update {
            fs::write(&golden, &story)?;
        }
        let expected =
            fs::read_to_string(&golden).with_context(|| format!("{}: run with UPDATE_GOLDEN=1", golden.display()))?;
        ensure!(story == expected, "{name} tells another story:\n{story}\ninstead of\n{expected}");
        told += 1;
    }
    ensure!(told >= 7, "only {told} scripts were found");
    Ok(())
}

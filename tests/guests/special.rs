//! Checkers that misbehave where no kit would let them: each a few lines of WebAssembly text and one of WIT,
//! built by the build script of the tests. Each is otherwise well, so that a test fails for the right reason.

use std::error::Error;
use std::path::Path;

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, SourceMap};

/// What makes a checker special; empty means as usual.
struct Special {
    /// By which the tests ask for it.
    name: &'static str,
    /// Lines of its world.
    world: &'static str,
    /// Fields of its core module.
    fields: &'static str,
    /// The memory it declares, in pages.
    memory: &'static str,
    /// What `describe` does before it answers, and `check`.
    describe: &'static str,
    check: &'static str,
    /// What `configure` does, if it takes settings.
    configure: Option<&'static str>,
    /// Where `describe` and `check` answer: the addresses of what the data segments below hold.
    description: u32,
    verdict: u32,
}

const USUAL: Special = Special {
    name: "usual",
    world: "",
    fields: "",
    memory: "1",
    describe: "",
    check: "",
    configure: None,
    description: DESCRIPTION,
    verdict: VERDICT,
};

const DESCRIPTION: u32 = 1_024;
const HUGE_DESCRIPTION: u32 = 1_088;
const EMPTY: u32 = 1_152;
const VERDICT: u32 = 1_216;
const BAD_POINTER: u32 = 1_280;

const SPIN: &str = "(loop $for_ever (br $for_ever))";
/// The answer lies there, too.
const REJECT: &str = "(return (i32.const 1344))";

const SPECIALS: [Special; 18] = [
    // Where it dies.
    Special { name: "describe-spins", describe: SPIN, ..USUAL },
    Special { name: "describe-traps", describe: "(unreachable)", ..USUAL },
    Special { name: "start-spins", fields: "(func $start (loop $for_ever (br $for_ever))) (start $start)", ..USUAL },
    Special { name: "start-traps", fields: "(func $start (unreachable)) (start $start)", ..USUAL },
    Special { name: "check-traps", check: "(unreachable)", ..USUAL },
    Special {
        // Only on the node of the self-check: its name is in two words of eight bytes.
        name: "self-check-traps",
        fields: r#"(import "apgar:checker/node@0.1.0" "name" (func $name (param i32)))"#,
        check: r#"(call $name (i32.const 0))
                  (if (i32.eq (i32.load (i32.const 4)) (i32.const 16))
                    (then (if (i64.eq (i64.load (i32.load (i32.const 0))) (i64.load (i32.const 512)))
                      (then (if (i64.eq (i64.load offset=8 (i32.load (i32.const 0))) (i64.load (i32.const 520)))
                        (then (unreachable)))))))"#,
        ..USUAL
    },
    // What it does there that Rust does not.
    Special { name: "divide", check: "(drop (i32.div_u (i32.const 1) (i32.const 0)))", ..USUAL },
    Special { name: "bad-pointer", verdict: BAD_POINTER, ..USUAL },
    Special {
        name: "table-grows",
        fields: "(table $t 1 funcref)",
        check: "(loop $more
                  (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 1024)) (i32.const -1))))",
        ..USUAL
    },
    // What it says about itself.
    Special { name: "describe-empty", description: EMPTY, ..USUAL },
    Special { name: "describe-huge", description: HUGE_DESCRIPTION, ..USUAL },
    // What it declares: 128 MiB at least; 4 GiB at most, which is fine.
    Special { name: "memory-minimum", memory: "2048", ..USUAL },
    Special { name: "memory-maximum", memory: "1 65536", ..USUAL },
    // What it does with settings.
    Special { name: "settings-rejected", configure: Some(REJECT), ..USUAL },
    Special { name: "configure-spins", configure: Some(SPIN), ..USUAL },
    Special { name: "configure-traps", configure: Some("(unreachable)"), ..USUAL },
    // What it wants.
    Special {
        name: "imports-http",
        world: "import http;",
        fields: r#"(import "apgar:checker/http@0.1.0" "probe" (func $probe (result i32)))"#,
        check: "(drop (call $probe))",
        ..USUAL
    },
    Special {
        name: "imports-unknown",
        world: "import acme:secrets/vault@1.0.0;",
        fields: r#"(import "acme:secrets/vault@1.0.0" "probe" (func $probe (result i32)))"#,
        check: "(drop (call $probe))",
        ..USUAL
    },
];

/// A name and the bytes of a file, which need not be a component.
pub(crate) type Guest = (&'static str, Vec<u8>);

/// Builds all of them, from the contract in `wit`.
pub(crate) fn build(wit: &Path) -> Result<Vec<Guest>, Box<dyn Error>> {
    let mut built = Vec::new();
    for special in [USUAL].iter().chain(&SPECIALS) {
        let component = checker(wit, special).map_err(|error| format!("{}: {error}", special.name))?;
        built.push((special.name, component));
    }
    let usual = checker(wit, &USUAL)?;
    built.extend([
        // More than the pool holds for one component.
        ("core-instances-500", repeated(&usual, 500)),
        ("memories-10", repeated(&usual, 10)),
        ("truncated", usual.get(..usual.len() / 2).unwrap_or_default().to_vec()),
        // What is no checker.
        ("core-module", wat::parse_str("(module)")?),
        ("other-version", other("package apgar:checker@0.2.0; interface checker { check: func(); }", "checker")?),
        ("other-world", other("package acme:filter@1.0.0; interface filter { check: func(); }", "filter")?),
        ("garbage", b"not WebAssembly at all".to_vec()),
        ("empty", Vec::new()),
    ]);
    Ok(built)
}

fn checker(wit: &Path, special: &Special) -> Result<Vec<u8>, Box<dyn Error>> {
    let Special { world, fields, memory, describe, check, configure, description, verdict, .. } = special;
    let settings = if configure.is_some() { "export settings;" } else { "" };
    let configure = configure.map_or_else(String::new, |does| {
        let name = "apgar:checker/settings@0.1.0#configure";
        format!(r#"(func (export "{name}") (param i32 i32) (result i32) {does} (unreachable))"#)
    });
    // Strings and structs as the canonical ABI lays them out. The huge description points at zeros: 48 KiB of
    // NUL for a name, and 1 000 reasons without a letter.
    let module = wat::parse_str(format!(
        r#"(module
          {fields}
          (memory (export "memory") {memory})
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
          (func (export "apgar:checker/checker@0.1.0#describe") (result i32) {describe} (i32.const {description}))
          (func (export "apgar:checker/checker@0.1.0#check") (result i32) {check} (i32.const {verdict}))
          {configure}
          (data (i32.const 512) "apgar-self-check")
          (data (i32.const 544) "Special")
          (data (i32.const 560) "no settings are right")
          (data (i32.const {DESCRIPTION})
            "\20\02\00\00\07\00\00\00" "\20\02\00\00\07\00\00\00" "\20\02\00\00\07\00\00\00"
            "\00\00\00\00\00\00\00\00" "\60\ea\00\00\00\00\00\00")
          (data (i32.const {HUGE_DESCRIPTION})
            "\00\20\00\00\00\c0\00\00" "\00\20\00\00\00\c0\00\00" "\00\20\00\00\00\c0\00\00"
            "\00\20\00\00\e8\03\00\00" "\ff\ff\ff\ff\ff\ff\ff\ff")
          (data (i32.const {VERDICT})
            "\00\00\00\00\00\00\00\00" "\01\00\00\00" "\20\02\00\00\07\00\00\00" "\00\00\00\00"
            "\60\ea\00\00\00\00\00\00")
          (data (i32.const {BAD_POINTER})
            "\00\00\00\00\00\00\00\00" "\01\00\00\00" "\00\00\00\f0\07\00\00\00" "\00\00\00\00"
            "\60\ea\00\00\00\00\00\00")
          (data (i32.const 1344) "\01\00\00\00" "\30\02\00\00\15\00\00\00"))"#
    ))?;
    let wit_of_special = format!(
        "interface http {{ probe: func() -> u32; }}
         world special {{ include plugin; {world} {settings} }}
         package acme:secrets@1.0.0 {{ interface vault {{ probe: func() -> u32; }} }}"
    );
    let mut sources = SourceMap::new();
    sources.push_dir(wit)?;
    sources.push(Path::new("special.wit"), wit_of_special);
    component(module, sources, "special")
}

/// A component that has nothing to do with the contract served.
fn other(wit: &str, interface: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut sources = SourceMap::new();
    sources.push(Path::new("other.wit"), format!("{wit} world special {{ export {interface}; }}"));
    let package = wit.split([' ', ';', '@']).collect::<Vec<_>>();
    let [_, name, version, ..] = package.as_slice() else {
        return Err("no package".into());
    };
    let module = wat::parse_str(format!(r#"(module (func (export "{name}/{interface}@{version}#check")))"#))?;
    component(module, sources, "special")
}

fn component(mut module: Vec<u8>, sources: SourceMap, world: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut resolve = Resolve::default();
    let package = resolve.push_group(sources.parse().map_err(|(_, error)| error)?)?;
    let world = resolve.select_world(&[package], Some(world))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(apgar_component::encode(&module)?)
}

/// The same component with its core module, which imports nothing, instantiated that many times more: a section
/// of core instances, each of module 0 with no arguments.
fn repeated(component: &[u8], times: u32) -> Vec<u8> {
    let mut section = leb128(times);
    section.extend([0, 0, 0].repeat(times as usize));
    let mut repeated = component.to_vec();
    repeated.push(2);
    repeated.extend(leb128(section.len() as u32));
    repeated.extend(section);
    repeated
}

fn leb128(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

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
    /// Packages that only it knows.
    packages: &'static str,
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
    packages: "",
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
const SICK: u32 = 1_408;
const FOREIGN_DESCRIPTION: u32 = 1_440;

const SPIN: &str = "(loop $for_ever (br $for_ever))";
/// The answer lies there, too.
const REJECT: &str = "(return (i32.const 1344))";
const NAME: &str = r#"(import "apgar:checker/node@0.1.0" "name" (func $name (param i32)))"#;

/// Returns whatever a generator seeded by the node's name puts into the return area. All random, hardly anything
/// would be a verdict; so each part is tamed on some nodes, by its bit of the mode: the variant's case, the
/// addresses and lengths, and the address of the area itself.
const BABBLE: &str = r#"
    (import "apgar:checker/node@0.1.0" "name" (func $name (param i32)))
    (global $state (mut i64) (i64.const 0xcbf29ce484222325))
    (func $next (result i64)
      (global.set $state (i64.xor (global.get $state) (i64.shl (global.get $state) (i64.const 13))))
      (global.set $state (i64.xor (global.get $state) (i64.shr_u (global.get $state) (i64.const 7))))
      (global.set $state (i64.xor (global.get $state) (i64.shl (global.get $state) (i64.const 17))))
      (global.get $state))
    (func $seed (param $at i32) (param $left i32)
      (loop $more
        (global.set $state (i64.mul (i64.const 0x100000001b3)
          (i64.xor (global.get $state) (i64.load8_u (local.get $at)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))
    (func $tame (param $at i32) (param $mask i32)
      (i32.store (local.get $at) (i32.and (i32.load (local.get $at)) (local.get $mask))))
    (func $babble (result i32) (local $mode i32) (local $mask i32)
      (call $seed (i32.load (i32.const 0)) (i32.load (i32.const 4)))
      (i64.store (i32.const 2048) (call $next)) (i64.store (i32.const 2056) (call $next))
      (i64.store (i32.const 2064) (call $next)) (i64.store (i32.const 2072) (call $next))
      (local.set $mode (i32.wrap_i64 (call $next)))
      (if (i32.and (local.get $mode) (i32.const 7)) (then (call $tame (i32.const 2048) (i32.const 1))))
      (local.set $mask (select (i32.const 0x7fff) (i32.const 0x7ff) (i32.and (local.get $mode) (i32.const 8))))
      (if (i32.and (local.get $mode) (i32.const 48)) (then
        (call $tame (i32.const 2056) (local.get $mask))
        (call $tame (i32.const 2060) (local.get $mask))
        (call $tame (i32.const 2064) (local.get $mask))))
      (if (i32.and (local.get $mode) (i32.const 192)) (then (return (i32.const 2048))))
      (i32.and (i32.wrap_i64 (call $next))
        (select (i32.const -1) (i32.const 0x1fff8) (i32.and (local.get $mode) (i32.const 256)))))"#;

const SPECIALS: [Special; 25] = [
    // Where it dies.
    Special { name: "describe-spins", describe: SPIN, ..USUAL },
    Special { name: "describe-traps", describe: "(unreachable)", ..USUAL },
    Special { name: "start-spins", fields: "(func $start (loop $for_ever (br $for_ever))) (start $start)", ..USUAL },
    Special { name: "start-traps", fields: "(func $start (unreachable)) (start $start)", ..USUAL },
    Special { name: "check-traps", check: "(unreachable)", ..USUAL },
    Special {
        // Only on the node of the self-check: its name is in two words of eight bytes.
        name: "self-check-traps",
        fields: NAME,
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
    Special {
        // On nodes whose name begins with a b.
        name: "babbles",
        fields: BABBLE,
        check: "(call $name (i32.const 0))
                (if (i32.eq (i32.load8_u (i32.load (i32.const 0))) (i32.const 98)) (then (return (call $babble))))",
        ..USUAL
    },
    Special {
        // Well if it stored nothing the last time, sick if it did.
        name: "flips",
        world: "import apgar:checker/memory@0.1.1;",
        packages: "package apgar:checker@0.1.1 { interface memory {
            load: func() -> option<list<u8>>; store: func(blob: list<u8>) -> result<_, string>; } }",
        fields: r#"(import "apgar:checker/memory@0.1.1" "load" (func $load (param i32)))
                   (import "apgar:checker/memory@0.1.1" "store" (func $store (param i32 i32 i32)))"#,
        check: "(call $load (i32.const 2048))
                (call $store (i32.const 512) (i32.eqz (i32.load8_u (i32.const 2048))) (i32.const 2112))
                (if (i32.load8_u (i32.const 2048)) (then (return (i32.const 1408))))",
        ..USUAL
    },
    Special {
        // Health by the first random number, the threshold by the second.
        name: "random",
        world: "import wasi:random/random@0.2.6;",
        packages: "package wasi:random@0.2.6 { interface random { get-random-u64: func() -> u64; } }",
        fields: r#"(import "wasi:random/random@0.2.6" "get-random-u64" (func $random (result i64)))"#,
        check: "(i32.store8 (i32.const 1224) (i32.wrap_i64 (i64.and (call $random) (i64.const 1))))
                (i64.store (i32.const 1240) (i64.rem_u (call $random) (i64.const 86400000)))",
        ..USUAL
    },
    // What it says about itself.
    Special { name: "describe-empty", description: EMPTY, ..USUAL },
    Special { name: "describe-foreign", description: FOREIGN_DESCRIPTION, ..USUAL },
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
        name: "imports-newer",
        world: "import apgar:checker/node@0.2.0;",
        packages: "package apgar:checker@0.2.0 { interface node { probe: func() -> u32; } }",
        fields: r#"(import "apgar:checker/node@0.2.0" "probe" (func $probe (result i32)))"#,
        check: "(drop (call $probe))",
        ..USUAL
    },
    Special {
        name: "imports-newer-function",
        world: "import apgar:checker/node@0.1.9;",
        packages: "package apgar:checker@0.1.9 { interface node { name: func() -> string; gpus: func() -> u32; } }",
        fields: r#"(import "apgar:checker/node@0.1.9" "gpus" (func $gpus (result i32)))"#,
        check: "(drop (call $gpus))",
        ..USUAL
    },
    Special {
        // The same version, but only what was there before.
        name: "imports-newer-patch",
        world: "import apgar:checker/node@0.1.9;",
        packages: "package apgar:checker@0.1.9 { interface node { name: func() -> string; gpus: func() -> u32; } }",
        fields: r#"(import "apgar:checker/node@0.1.9" "name" (func $name (param i32)))"#,
        check: "(call $name (i32.const 0))",
        ..USUAL
    },
    Special {
        name: "imports-unknown",
        world: "import acme:secrets/vault@1.0.0;",
        packages: "package acme:secrets@1.0.0 { interface vault { probe: func() -> u32; } }",
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
        ("core-instances-1000", followed_by(&usual, &core_instances(&core("")?, 999))),
        ("core-instances-composed", followed_by(&usual, &composed(1_000)?)),
        ("memories-100", followed_by(&usual, &core_instances(&core(&"(memory 1)".repeat(99))?, 1))),
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
    let Special { name: _, world, packages, fields, memory, describe, check, configure, description, verdict } =
        special;
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
          (data (i32.const 592) "ready")
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
          (data (i32.const 1344) "\01\00\00\00" "\30\02\00\00\15\00\00\00")
          (data (i32.const {SICK})
            "\00\00\00\00\00\00\00\00" "\00\00\00\00" "\20\02\00\00\07\00\00\00" "\00\00\00\00"
            "\60\ea\00\00\00\00\00\00")
          (data (i32.const {FOREIGN_DESCRIPTION})
            "\50\02\00\00\05\00\00\00" "\20\02\00\00\07\00\00\00" "\20\02\00\00\07\00\00\00"
            "\00\00\00\00\00\00\00\00" "\60\ea\00\00\00\00\00\00"))"#
    ))?;
    let wit_of_special = format!(
        "interface http {{ probe: func() -> u32; }}
         world special {{ include plugin; {world} {settings} }}
         {packages}"
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

/// A section of a component: its number and what is in it.
type Section = (u8, Vec<u8>);

/// The same component with more behind its end. It has one core module and one component in it, which is what
/// the numbers below count from; were that to change, it would be valid no more.
fn followed_by(component: &[u8], sections: &[Section]) -> Vec<u8> {
    let mut longer = component.to_vec();
    for (number, content) in sections {
        longer.push(*number);
        longer.extend(leb128(content.len() as u32));
        longer.extend(content);
    }
    longer
}

fn core(fields: &str) -> Result<Vec<u8>, wat::Error> {
    wat::parse_str(format!("(module {fields})"))
}

/// A core module that imports nothing, and that many instances of it.
fn core_instances(module: &[u8], count: u32) -> [Section; 2] {
    let mut instances = leb128(count);
    instances.extend([0, 1, 0].repeat(count as usize));
    [(1, module.to_vec()), (2, instances)]
}

/// A component that is made of ten others of which each is made of ten, and so on: as many core instances as are
/// wanted, a power of ten, in a file that hardly grows with them.
fn composed(core_instances: u32) -> Result<[Section; 2], wat::Error> {
    let mut text = format!("(core module $m) (component $c1 {})", "(core instance (instantiate $m))".repeat(10));
    let levels = core_instances.ilog10();
    for level in 2..=levels {
        let below = level - 1;
        text += &format!("(component $c{level} {})", format!("(instance (instantiate $c{below}))").repeat(10));
    }
    let component = wat::parse_str(format!("(component {text} (instance (instantiate $c{levels})))"))?;
    Ok([(4, component), (5, vec![1, 0, 1, 0])])
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

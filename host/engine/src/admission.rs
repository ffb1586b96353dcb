//! Admission: all that can be known about a component without running or compiling it. What ends here is a refusal,
//! and its message is all an author of a checker gets: it says what was found, where, and what would be right.

use std::fmt;

use apgar_core::fleet::Inputs;
use wasmparser::component_types::{ComponentEntityType, ComponentItem};
use wasmparser::types::Types;
use wasmparser::{FuncValidatorAllocations, Parser, Payload, ValidPayload, Validator};

use crate::bindings::{CLOCK, HTTP, LOG, MEMORY, NODE, PACKAGE, PODS, VERSION};
use crate::death::{Refusal, RefusalReason};
use crate::plugin::{Capability, Grants};
use crate::settings;

/// What an admitted component showed of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// Its imports with functions, sorted: its permissions.
    pub(crate) imports: Vec<String>,
    /// The name of its export with `check` and `describe`.
    pub(crate) checker: String,
    /// The name of its export with `configure`, if it has one.
    pub(crate) settings: Option<String>,
    /// True if it needs WASI.
    pub(crate) wasi: bool,
    /// The capabilities it imports, all of them granted.
    pub(crate) uses: Grants,
    /// What its imports prove its verdict to depend on.
    pub(crate) inputs: Inputs,
    /// The largest memory any of its modules declares, in bytes.
    pub(crate) declared_memory: u64,
}

/// WASI packages that are answered: by nothing inherited, frozen unless `clock` is granted.
const WASI_SERVED: &[&str] = &["wasi:io/", "wasi:clocks/", "wasi:random/", "wasi:cli/", "wasi:filesystem/"];

/// Exports named in a message: enough to recognise the component by.
const EXPORTS_SHOWN: usize = 5;

/// Admits `bytes` as the plugin `name`, or says why not.
pub(crate) fn admit(name: &str, bytes: &[u8], grants: &Grants) -> Result<Admitted, Refusal> {
    kind(name, bytes)?;
    let outside = Outside::of(name, bytes)?;
    let checker = outside.checker(name)?;
    let mut uses = Grants::new();
    for import in &outside.imports {
        uses.extend(permit(name, import, grants)?);
    }
    let imports = |prefix: &str| outside.imports.iter().any(|import| import.name.starts_with(prefix));
    // WASI is frozen unless the clock was granted, so only then does it cost purity.
    let clocked = grants.contains(&Capability::Clock) && (imports("wasi:clocks/") || imports("wasi:random/"));
    let pods = uses.contains(&Capability::Pods);
    let inputs = match clocked || uses.iter().copied().any(Capability::costs_purity) {
        true => Inputs::More { pods },
        false if pods => Inputs::NodeAndPods,
        false => Inputs::Node,
    };
    let settings = outside.exported("settings").filter(|export| export.functions.iter().any(|f| f == "configure"));
    Ok(Admitted {
        checker: checker.to_owned(),
        settings: settings.map(|export| export.name.clone()),
        wasi: imports("wasi:"),
        inputs,
        uses,
        declared_memory: outside.declared_memory,
        imports: outside.imports.into_iter().filter(|i| !i.functions.is_empty()).map(|i| i.name).collect(),
    })
}

fn refuse<T>(reason: RefusalReason, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(reason, message))
}

fn kind(name: &str, bytes: &[u8]) -> Result<(), Refusal> {
    let is = if bytes.is_empty() {
        "empty: write it aside and rename it into place"
    } else if bytes.starts_with(b"\x7fELF") || wasmtime::Engine::detect_precompiled(bytes).is_some() {
        "native code, which could do anything: put the component itself here, Apgar compiles it"
    } else if bytes.trim_ascii_start().starts_with(b"(") {
        "WebAssembly text: build a component from it, as with `wasm-tools component new`"
    } else if !bytes.starts_with(b"\0asm") {
        "not WebAssembly: it does not begin with the magic number"
    } else if Parser::is_core_wasm(bytes) {
        "a core module, not a component: encode it, as with `wasm-tools component new`"
    } else {
        return Ok(());
    };
    refuse(RefusalReason::NotAComponent, format!("{name}.wasm is {is}"))
}

/// Whether the plugin may have `import`, and the capability that takes.
fn permit(name: &str, import: &Interface, grants: &Grants) -> Result<Option<Capability>, Refusal> {
    let unknown =
        |why: fmt::Arguments<'_>| refuse(RefusalReason::UnknownImport, format!("{name}.wasm imports {import}, {why}"));
    let granted = |capability: Capability| {
        if grants.contains(&capability) {
            return Ok(Some(capability));
        }
        let line = format!("[checker.{name}] grants = [\"{capability}\"]");
        refuse(
            RefusalReason::ImportNotGranted,
            format!("{name}.wasm imports {}, not granted. To allow it: {line}", import.path()),
        )
    };
    if let Some(interface) = import.in_package(PACKAGE) {
        if !import.is_served() {
            return unknown(format_args!(
                "of another version: this Apgar serves {PACKAGE}@{VERSION}. Build the checker against wit/checker-{VERSION}"
            ));
        }
        let capability = Capability::parse(interface);
        let known = match capability {
            Some(Capability::Clock) => CLOCK,
            Some(Capability::Http) => HTTP,
            Some(Capability::Log) => LOG,
            Some(Capability::Memory) => MEMORY,
            Some(Capability::Pods) => PODS,
            None if interface == "node" => NODE,
            None if interface == "types" => return Ok(None),
            None => return unknown(format_args!("which is no interface of {PACKAGE}@{VERSION}")),
        };
        let used = match capability {
            Some(Capability::Log) | None => None,
            Some(capability) => granted(capability)?,
        };
        return match import.functions.iter().find(|function| !known.contains(&function.as_str())) {
            Some(newer) => unknown(format_args!(
                "of which `{newer}` is newer than this Apgar: it serves {PACKAGE}@{VERSION}. Upgrade Apgar, or do without"
            )),
            None => Ok(used),
        };
    }
    if import.name.starts_with("wasi:http/") {
        granted(Capability::Http)?;
        return unknown(format_args!("and WASI's own client is given to no checker: ask through {PACKAGE}/http"));
    }
    if import.name.starts_with("wasi:sockets/") {
        return unknown(format_args!("and no checker gets a socket: build it without networking"));
    }
    if WASI_SERVED.iter().any(|package| import.name.starts_with(package)) {
        if import.version().is_some_and(|version| version.starts_with("0.2.")) {
            return Ok(None);
        }
        return unknown(format_args!("of another version: this Apgar serves WASI 0.2"));
    }
    unknown(format_args!("which this Apgar does not know: a checker may import {PACKAGE}@{VERSION} and WASI 0.2"))
}

/// An interface on the outside of a component, with the functions in it.
#[derive(Debug)]
struct Interface {
    name: String,
    functions: Vec<String>,
}

impl Interface {
    fn new(name: &str, item: Option<&ComponentItem>, types: &Types) -> Self {
        let instance = match item.map(|item| &item.ty) {
            Some(ComponentEntityType::Instance(id)) => types.as_ref().get(*id),
            Some(
                ComponentEntityType::Module(_)
                | ComponentEntityType::Func(_)
                | ComponentEntityType::Value(_)
                | ComponentEntityType::Type { .. }
                | ComponentEntityType::Component(_),
            )
            | None => None,
        };
        let functions = instance.into_iter().flat_map(|instance| &instance.exports);
        let functions = functions
            .filter(|(_, item)| matches!(item.ty, ComponentEntityType::Func(_)))
            .map(|(name, _)| name.clone())
            .collect();
        Self { name: name.to_owned(), functions }
    }

    /// The name without its version.
    fn path(&self) -> &str {
        self.name.split_once('@').map_or(&self.name, |(path, _)| path)
    }

    fn version(&self) -> Option<&str> {
        self.name.split_once('@').map(|(_, version)| version)
    }

    fn in_package(&self, package: &str) -> Option<&str> {
        self.path().strip_prefix(package)?.strip_prefix('/')
    }

    /// True for the served version and for every other patch version of it; a pre-release matches only itself.
    fn is_served(&self) -> bool {
        let minor = |version: &str| version.rsplit_once('.').map(|(minor, _)| minor.to_owned());
        self.version().is_some_and(|version| {
            version.bytes().all(|b| b.is_ascii_digit() || b == b'.') && minor(version) == minor(VERSION)
        })
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The outside of a valid component.
struct Outside {
    imports: Vec<Interface>,
    exports: Vec<Interface>,
    declared_memory: u64,
}

impl Outside {
    fn of(name: &str, bytes: &[u8]) -> Result<Self, Refusal> {
        let too_short = "the file ends too early: copy it again, aside, and rename it into place";
        match Self::walk(bytes) {
            Ok(Some(outside)) => Ok(outside),
            Ok(None) => refuse(RefusalReason::NotAComponent, format!("{name}.wasm is cut off: {too_short}")),
            Err(error) => {
                let (at, size, why) = (error.offset(), bytes.len(), error.message());
                // A hint only: nothing depends on the words.
                let hint = if why.contains("end-of-file") { format!("; {too_short}") } else { String::new() };
                refuse(
                    RefusalReason::NotAComponent,
                    format!("{name}.wasm is not a valid component, at byte {at} of {size}: {why}{hint}"),
                )
            }
        }
    }

    fn walk(bytes: &[u8]) -> wasmparser::Result<Option<Self>> {
        let features = settings::features();
        let mut validator = Validator::new_with_features(features);
        let mut parser = Parser::new(0);
        parser.set_features(features);
        let (mut imports, mut exports, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        let (mut depth, mut declared_memory, mut top) = (0_u32, 0, None);
        for payload in parser.parse_all(bytes) {
            let payload = payload?;
            if let Payload::Version { .. } = &payload {
                depth += 1;
            } else if let Payload::End(_) = &payload {
                depth -= 1;
            } else if let Payload::ComponentImportSection(section) = &payload
                && depth == 1
            {
                for import in section.clone() {
                    imports.push(import?.name.name.to_owned());
                }
            } else if let Payload::ComponentExportSection(section) = &payload
                && depth == 1
            {
                for export in section.clone() {
                    exports.push(export?.name.name.to_owned());
                }
            } else if let Payload::MemorySection(section) = &payload {
                for memory in section.clone() {
                    let memory = memory?;
                    let page = 1_u64.checked_shl(memory.page_size_log2.unwrap_or(16)).unwrap_or(u64::MAX);
                    declared_memory = declared_memory.max(memory.initial.saturating_mul(page));
                }
            }
            match validator.payload(&payload)? {
                ValidPayload::Func(function, body) => bodies.push((function, body)),
                ValidPayload::End(types) => top = Some(types),
                ValidPayload::Ok | ValidPayload::Parser(_) => {}
            }
        }
        let mut allocations = FuncValidatorAllocations::default();
        for (function, body) in bodies {
            let mut function = function.into_validator(allocations);
            function.validate(&body)?;
            allocations = function.into_allocations();
        }
        Ok(top.map(|types| {
            imports.sort_unstable();
            let import = |name: String| Interface::new(&name, types.component_item_for_import(&name), &types);
            let export = |name: String| Interface::new(&name, types.component_item_for_export(&name), &types);
            Self {
                imports: imports.into_iter().map(import).collect(),
                exports: exports.into_iter().map(export).collect(),
                declared_memory,
            }
        }))
    }

    fn exported(&self, interface: &str) -> Option<&Interface> {
        self.exports.iter().find(|export| export.in_package(PACKAGE) == Some(interface) && export.is_served())
    }

    /// The export we call, asked for by what it has, never by an equal list: some toolchains add exports.
    fn checker(&self, name: &str) -> Result<&str, Refusal> {
        let wanted = format!("{PACKAGE}/checker@{VERSION}");
        let Some(checker) = self.exported("checker") else {
            let other = self.exports.iter().find(|export| export.in_package(PACKAGE) == Some("checker"));
            return refuse(
                RefusalReason::WrongWorld,
                match other {
                    Some(other) => format!(
                        "{name}.wasm exports {other}; this Apgar serves {VERSION}. Build it against wit/checker-{VERSION}, or upgrade Apgar"
                    ),
                    None => format!("{name}.wasm exports {}; a checker exports {wanted}", self.exports_shown()),
                },
            );
        };
        let missing = ["check", "describe"].into_iter().find(|f| !checker.functions.iter().any(|has| has == f));
        match missing {
            Some(missing) => {
                refuse(RefusalReason::WrongWorld, format!("{name}.wasm exports {checker} without `{missing}`"))
            }
            None => Ok(&checker.name),
        }
    }

    fn exports_shown(&self) -> String {
        if self.exports.is_empty() {
            return "nothing".to_owned();
        }
        let names: Vec<&str> = self.exports.iter().take(EXPORTS_SHOWN).map(|export| export.name.as_str()).collect();
        names.join(", ")
    }
}

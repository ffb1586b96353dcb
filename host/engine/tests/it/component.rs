//! Components from text.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::{PackageId, Resolve};

/// The guest whose behaviour follows the node's name.
pub(crate) static GUEST: LazyLock<Arc<[u8]>> = LazyLock::new(|| component("plugin", include_str!("guest.wat")));

/// Encodes a core module in text form as a component of a world of the contract.
pub(crate) fn component(world: &str, text: &str) -> Arc<[u8]> {
    let mut resolve = Resolve::default();
    let package = contract(&mut resolve);
    encode(&resolve, package, world, text)
}

/// Makes the contract known to `resolve`.
pub(crate) fn contract(resolve: &mut Resolve) -> PackageId {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/checker-0.1.0");
    resolve.push_path(dir).unwrap().0
}

/// Encodes a core module in text form.
pub(crate) fn encode(resolve: &Resolve, package: PackageId, world: &str, text: &str) -> Arc<[u8]> {
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(text).unwrap();
    wit_component::embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap().into()
}

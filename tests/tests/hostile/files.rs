//! Files that are offered by the thousand, or that are not what their name says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apgar_core::verdict::CheckerKey;
use apgar_engine::{Candidate, Directory, DirectoryEvent, DirectoryOptions, Limits, LoadError, RefusalReason, limits};
use apgar_tests::guests::guest;
use tokio::sync::mpsc;

use super::{ENGINE, candidate, check, load, named, others_are_well, well_node};

/// Compiled code, as this very engine made it and would run it: from the plugin directory it is never run.
#[tokio::test]
async fn compiled_code_by_a_components_name_is_refused() {
    load(candidate("usual")).await.unwrap();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile-cache");
    let artefact = std::fs::read_dir(cache)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ending| ending == "cwasm"))
        .unwrap();
    let bytes = std::fs::read(artefact).unwrap();
    let error = ENGINE.load(named("renamed", bytes.into(), Limits::default())).await.unwrap_err();
    let LoadError::Refusal(refusal) = error else { panic!("{error}") };
    assert_eq!(refusal.reason, RefusalReason::NotAComponent);
    assert_eq!(
        refusal.message,
        "renamed.wasm is native code, which could do anything: put the component itself here, Apgar compiles it"
    );
    others_are_well().await;
}

/// A thousand at once: as many as there is room for are read, the rest is refused unread, and those that serve
/// answer on. That one of them compiles at a time is shown where there are workers to count (`worker.rs` of the
/// engine).
#[tokio::test]
async fn of_a_thousand_files_as_many_as_there_is_room_for_are_loaded() {
    const FILES: usize = 1_000;
    let usual = guest("usual").unwrap();
    let dir = tempfile::tempdir().unwrap();
    for index in 0..FILES {
        std::fs::write(dir.path().join(format!("p{index:03}.wasm")), usual).unwrap();
    }
    let ms = Duration::from_millis(1);
    let options = DirectoryOptions { stable_gap: ms, debounce: ms, ..DirectoryOptions::new(dir.path()) };
    let (directory, _handle) = Directory::new(options);
    let (sender, mut events) = mpsc::channel(16);
    let (mut found, mut surplus) = (Vec::new(), 0);
    let listen = async {
        while found.len() + surplus < FILES {
            match events.recv().await.unwrap() {
                DirectoryEvent::Found { name, bytes, .. } => found.push((name, bytes)),
                DirectoryEvent::Refused { name, refusal } => {
                    surplus += 1;
                    assert_eq!(refusal.reason, RefusalReason::TooMany);
                    let message = format!("{name}.wasm is one too many: at most 64 plugins are loaded");
                    assert_eq!(refusal.message, message);
                }
                odd @ (DirectoryEvent::Unchanged { .. }
                | DirectoryEvent::Removed { .. }
                | DirectoryEvent::Lost { .. }
                | DirectoryEvent::Emptied { .. }
                | DirectoryEvent::Back) => panic!("{odd:?}"),
            }
        }
    };
    tokio::select! {
        () = directory.run(sender) => panic!("the directory is gone"),
        () = listen => {}
    }
    assert_eq!((found.len(), surplus), (limits::PLUGINS, FILES - limits::PLUGINS));
    // Two are read at a time, so any of them may be first.
    found.sort_by(|(a, _), (b, _)| a.cmp(b));

    let mut serving = Vec::new();
    for (name, bytes) in found {
        let plugin = load(Candidate { key: name, bytes: Arc::clone(&bytes), ..candidate("usual") }).await.unwrap();
        others_are_well().await;
        serving.push(plugin);
    }
    assert_eq!(serving[0].key(), &CheckerKey::from("p000"));
    for plugin in &serving {
        assert_eq!(check(plugin, well_node()).await.verdict.result(), "pass");
    }
}

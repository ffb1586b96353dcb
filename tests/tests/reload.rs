//! Hot reload under torture (`engine` 11, rows 25 and 26; `supervision` P-50, P-51, P-56, P-57, P-59): somebody writes a checker's file in every way there is, whole
//! and torn, while it and twenty others judge nodes that change all the time. The directory, the registry, the engine,
//! the supervision and the fleet are the daemon's own; only its loop is written here once more, so that every single
//! check is seen: asked, answered, counted or late.
//!
//! `APGAR_TORTURE` sets for how many seconds, `APGAR_TORTURE_SEED` in which order.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test says where")]

#[path = "reload/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apgar_engine::{Compile, Digest};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::{Instant, sleep};

use world::{Book, MINE, QUIRK, Running, guest, padded, replaced};

/// Enough for every way of writing, several times.
const SECONDS: u64 = 6;

/// Between changes of nodes.
const CHANGE_EVERY: Duration = Duration::from_millis(1);
/// For the last version to serve everywhere, on a machine that has other things to do as well.
const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "how long a test runs is set by whoever runs it")]
fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Who writes.
struct Writer {
    rng: StdRng,
    directory: PathBuf,
    aside: PathBuf,
    book: Book,
    /// Numbers files and versions.
    last: u32,
    /// The good versions there were, to go back to.
    good: Vec<Vec<u8>>,
    folder: Option<PathBuf>,
    done: BTreeMap<&'static str, u64>,
}

/// What is written, and whether it may ever serve: `None` must not.
struct Draft {
    bytes: Vec<u8>,
    reason: Option<(String, bool)>,
}

impl Writer {
    fn path(&self) -> PathBuf {
        self.directory.join(format!("{MINE}.wasm"))
    }

    fn number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn good(&mut self) -> Draft {
        let number = self.number();
        let reason = format!("v{number:06}");
        let bytes = padded(&guest("usual", &reason), 2_000 + (number as usize * 37) % 9_000);
        self.good.push(bytes.clone());
        Draft { bytes, reason: Some((reason, false)) }
    }

    fn draft(&mut self) -> Draft {
        let number = self.number();
        let pad = 2_000 + (number as usize * 37) % 9_000;
        match self.rng.random_range(0..10) {
            0 => {
                // Well on every node but the one of the self-check.
                self.count("versions that fail the self-check");
                Draft { bytes: padded(&guest("self-check-traps", &format!("x{number:06}")), pad), reason: None }
            }
            1 => {
                self.count("versions without a grant");
                Draft { bytes: padded(&guest("imports-http", &format!("x{number:06}")), pad), reason: None }
            }
            2 => {
                self.count("versions that die at one node");
                let reason = format!("q{number:06}");
                let bytes = guest("self-check-traps", &reason);
                let bytes = replaced(&bytes, b"apgar-self-check", QUIRK.as_bytes());
                Draft { bytes: padded(&bytes, pad), reason: Some((reason, true)) }
            }
            3 if !self.good.is_empty() => {
                self.count("versions of earlier");
                let at = self.rng.random_range(0..self.good.len());
                let bytes = self.good[at].clone();
                let known = self.book.mine(Digest::of(&bytes)).reason;
                Draft { bytes, reason: Some((known, false)) }
            }
            _ => self.good(),
        }
    }

    /// Notes that from now on the directory may have all of it.
    fn whole(&mut self, draft: &Draft) {
        if let Some((reason, quirky)) = &draft.reason {
            self.book.whole(MINE, &draft.bytes, reason, *quirky);
        }
    }

    /// A new file somewhere else.
    fn put_aside(&mut self, bytes: &[u8]) -> PathBuf {
        let number = self.number().to_string();
        let path = self.aside.join(number);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A moment: mostly short, sometimes long enough that whatever is there now looks finished.
    async fn pause(&mut self) {
        let most = if self.rng.random_bool(0.2) { 250 } else { 25 };
        let ms = self.rng.random_range(0..most);
        sleep(Duration::from_millis(ms)).await;
    }

    async fn in_chunks(&mut self, file: &mut File, draft: &Draft) {
        let bytes = &draft.bytes;
        // Not in the custom sections at the end, without which it is whole as well.
        let mut cuts: Vec<usize> = (0..4).map(|_| self.rng.random_range(1..bytes.len() - 512)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        for chunk in cuts.windows(2) {
            if chunk[1] == bytes.len() {
                // What is longer than this goes first, so that the last byte makes it whole.
                if file.metadata().unwrap().len() > bytes.len() as u64 {
                    file.set_len(bytes.len() as u64).unwrap();
                }
                self.whole(draft);
            }
            file.write_all(&bytes[chunk[0]..chunk[1]]).unwrap();
            self.pause().await;
        }
    }

    fn rename(&mut self, draft: &Draft) {
        let aside = self.put_aside(&draft.bytes);
        self.whole(draft);
        fs::rename(aside, self.path()).unwrap();
    }

    async fn write(&mut self) {
        let path = self.path();
        match self.rng.random_range(0..10) {
            0 | 1 => {
                self.count("renamed into place");
                let draft = self.draft();
                self.rename(&draft);
            }
            2 => {
                self.count("truncated and written in pieces");
                let draft = self.draft();
                let mut file = File::create(&path).unwrap();
                self.in_chunks(&mut file, &draft).await;
            }
            3 => {
                self.count("overwritten in pieces");
                let draft = self.draft();
                let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
                file.seek(SeekFrom::Start(0)).unwrap();
                self.in_chunks(&mut file, &draft).await;
            }
            4 => {
                self.count("symlinks swapped");
                let draft = self.draft();
                let (target, link) = (self.put_aside(&draft.bytes), self.directory.join(".link"));
                symlink(target, &link).unwrap();
                self.whole(&draft);
                fs::rename(link, &path).unwrap();
            }
            5 => {
                self.count("..data swapped");
                let draft = self.draft();
                self.swap_data(&draft);
            }
            6 => {
                self.count("deleted and back");
                remove(&path);
                self.pause().await;
                let draft = self.draft();
                self.rename(&draft);
            }
            7 => {
                self.count("written with equal bytes");
                if let Ok(bytes) = fs::read(&path) {
                    let aside = self.put_aside(&bytes);
                    fs::rename(aside, &path).unwrap();
                }
            }
            8 => {
                self.count("garbage");
                let mut bytes = vec![0; 5_000];
                self.rng.fill_bytes(&mut bytes);
                fs::write(&path, bytes).unwrap();
            }
            _ => {
                self.count("cut off");
                let draft = self.good();
                let cut = self.rng.random_range(0..draft.bytes.len() - 512);
                fs::write(&path, &draft.bytes[..cut]).unwrap();
                // It was never there: it may not be gone back to either.
                self.good.pop();
            }
        }
    }

    /// As the kubelet does it: a new folder, and one link that is renamed over the one to the old folder.
    fn swap_data(&mut self, draft: &Draft) {
        let folder = PathBuf::from(format!("..{}", self.number()));
        let file = format!("{MINE}.wasm");
        fs::create_dir(self.directory.join(&folder)).unwrap();
        fs::write(self.directory.join(&folder).join(&file), &draft.bytes).unwrap();
        let (link, data) = (self.directory.join("..data_tmp"), self.directory.join("..data"));
        symlink(&folder, &link).unwrap();
        self.whole(draft);
        fs::rename(link, data).unwrap();
        let to = Path::new("..data").join(&file);
        if fs::read_link(self.path()).ok().as_ref() != Some(&to) {
            let link = self.directory.join(".link");
            symlink(to, &link).unwrap();
            fs::rename(link, self.path()).unwrap();
        }
        if let Some(old) = self.folder.replace(folder) {
            fs::remove_dir_all(self.directory.join(old)).unwrap();
        }
    }

    /// Writes until it is over, and a good version at last.
    async fn run(mut self, span: Duration) -> Written {
        let over = Instant::now() + span;
        while Instant::now() < over {
            self.write().await;
            self.pause().await;
        }
        let last = self.good();
        let digest = Digest::of(&last.bytes);
        self.rename(&last);
        Written { done: self.done, last: digest, at: Instant::now() }
    }
}

/// A link to nowhere is a file as well.
fn remove(path: &Path) {
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path).unwrap();
    }
}

/// What the writer has done.
struct Written {
    done: BTreeMap<&'static str, u64>,
    last: Digest,
    at: Instant,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_written_in_every_way_beside_twenty_checkers_costs_no_check_and_serves_nothing_torn() {
    let span = Duration::from_secs(variable("APGAR_TORTURE", SECONDS));
    let seed = variable("APGAR_TORTURE_SEED", 1);
    println!("{} s, APGAR_TORTURE_SEED={seed}", span.as_secs());
    let home = tempfile::tempdir().unwrap();
    let mut running = Running::start(home.path(), Compile::InProcess, CHANGE_EVERY).await;

    let aside = home.path().join("aside");
    fs::create_dir(&aside).unwrap();
    let writer = Writer {
        rng: StdRng::seed_from_u64(seed),
        directory: home.path().join("plugins"),
        aside,
        book: running.world.book.clone(),
        last: 0,
        good: Vec::new(),
        folder: None,
        done: BTreeMap::new(),
    };
    let (written_in, mut written) = oneshot::channel();
    apgar::task::spawn("writer", async move { _ = written_in.send(writer.run(span).await) });

    let mut last: Option<Written> = None;
    loop {
        match &last {
            None => match written.try_recv() {
                Ok(written) => last = Some(written),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Closed) => panic!("the writer died"),
            },
            Some(last) if running.world.is_settled(last.last) => break,
            Some(last) => assert!(last.at.elapsed() < PATIENCE, "not settled: {:?}", running.world.tally),
        }
        running.step(last.is_none()).await;
    }
    let last = last.unwrap();
    let settled = last.at.elapsed();
    let mut world = running.end().await;
    assert!(world.serves(MINE));

    let longest = world.turns.iter().max().unwrap();
    println!("written: {:#?}\n{:#?}\n{} turns, {longest:?} at most", last.done, world.tally, world.turns.len());
    world.first_verdicts.sort_unstable();
    let took = &world.first_verdicts;
    assert!(!took.is_empty() && world.tally.swaps > 0, "nothing was swapped");
    println!(
        "{} versions judged; whole to first verdict {} ms in the median, {} at most; settled {} ms after the last byte",
        took.len(),
        took[took.len() / 2].as_millis(),
        took[took.len() - 1].as_millis(),
        settled.as_millis()
    );
}

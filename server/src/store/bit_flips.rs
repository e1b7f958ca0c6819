//! What becomes of a store whose files were damaged behind its back: it opens with exactly what was written, or it is
//! refused with words that name `doctor`. Nothing between: no other content, no panic, no waiting for ever. And what is
//! refused can be repaired, so that nothing is counted twice and no cursor is ahead of its data.
//!
//! `PORTOLAN_TEST_SEED` repeats a run, `PORTOLAN_TEST_FLIPS` sets how much is damaged (1,000 by default).

use super::sample::{self, Content};
use super::*;
use jiff::Timestamp;
use portolan_common::ids::DeploymentId;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

/// Opening takes some milliseconds; a store that takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Refused stores that are repaired.
const REPAIRS: usize = 48;
const THREADS: u64 = 2;
const DEPLOYMENT: DeploymentId = DeploymentId(uuid::Uuid::from_u128(77));

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) as usize % limit
    }
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn read_files(root: &Path, from: &Path, files: &mut Files) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_files(root, &path, files);
        } else {
            files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
}

fn files_below(root: &Path) -> Files {
    let mut files = Files::new();
    read_files(root, root, &mut files);
    files
}

fn write_files(root: &Path, files: &Files) {
    let _ = fs::remove_dir_all(root);
    for (path, bytes) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A store that is damaged again and again.
struct Sample {
    name: &'static str,
    files: Files,
    /// The same at an earlier time.
    older: Files,
    content: Content,
    /// Made at that earlier time.
    export: Vec<u8>,
    rounds: u64,
}

impl Sample {
    /// Of a store that was closed, or whose server was killed.
    fn new(
        runtime: &tokio::runtime::Runtime,
        at: &Path,
        name: &'static str,
        rounds: u64,
        killed: bool,
    ) -> Self {
        let root = at.join(name);
        Store::create(&root.join("store")).unwrap();
        let open = || Store::open(&root.join("store"), 0).unwrap();
        let close = |store: Store| {
            let content = sample::content(&store).unwrap();
            let files = killed.then(|| files_below(&root));
            store.close();
            drop(store);
            (content, files.unwrap_or_else(|| files_below(&root)))
        };
        let store = open();
        runtime.block_on(sample::fill(&store, rounds, 1..=rounds * 2 / 3));
        let about = About { deployment: DEPLOYMENT, created_at: Timestamp::now(), files: Vec::new() };
        let mut export = Vec::new();
        store.dump(&about, &mut export, &|| false).unwrap();
        let (_, older) = close(store);
        let store = open();
        runtime.block_on(sample::send(&store, rounds, rounds * 2 / 3 + 1..=rounds));
        let (content, files) = close(store);
        let bytes: usize = content.iter().map(|((_, key), value)| key.len() + value.len()).sum();
        assert!(bytes > 50_000, "{name} has real content: {bytes} bytes");
        Self { name, files, older, content, export, rounds }
    }

    /// Damages one file, and says what was done to it.
    fn damage(&self, random: &mut Random) -> (Files, String) {
        let mut files = self.files.clone();
        let total: usize = files.values().map(Vec::len).sum();
        // Half of it by the file, however small, half by the byte.
        let index = if random.below(2) == 0 {
            random.below(files.len())
        } else {
            let mut byte = random.below(total);
            let found = files.values().position(|file| {
                let is_in = byte < file.len();
                byte = byte.saturating_sub(file.len());
                is_in
            });
            found.unwrap()
        };
        let path = files.keys().nth(index).unwrap().clone();
        let name = format!("{} {}", self.name, path.display());
        let file = files.get_mut(&path).unwrap();
        if file.is_empty() {
            return (files, format!("{name}: nothing"));
        }
        let what = match random.below(30) {
            0 => {
                let length = random.below(file.len());
                file.truncate(length);
                format!("{name}: cut to {length} bytes")
            }
            1 => {
                let block = random.below(file.len().div_ceil(512)) * 512;
                let end = file.len().min(block + 512);
                file[block..end].fill(0);
                format!("{name}: zeros from {block} to {end}")
            }
            2 => match self.older.get(&path) {
                Some(older) => {
                    file.clone_from(older);
                    format!("{name}: an older copy")
                }
                None => {
                    files.remove(&path);
                    format!("{name}: gone")
                }
            },
            _ => {
                let bit = random.below(file.len() * 8);
                file[bit / 8] ^= 1 << (bit % 8);
                format!("{name}: bit {bit} of {} bytes", file.len())
            }
        };
        (files, what)
    }

    /// Opens a damaged copy; says why it is refused, if it is.
    fn open(&self, root: &Path) -> Result<(), String> {
        let store = match Store::open(&root.join("store"), 0) {
            Ok(store) => store,
            Err(error) => {
                let words = error.to_string();
                assert!(words.contains("portolan-server doctor"), "refused without a way out: {words}");
                return Err(words);
            }
        };
        let content = sample::content(&store);
        store.close();
        assert!(content.unwrap() == self.content, "it opens, and holds something else");
        Ok(())
    }

    /// Goes on with a store that opened, and opens it again: damage that slept must not wake up later.
    fn go_on(&self, runtime: &tokio::runtime::Runtime, root: &Path) {
        let open = || Store::open(&root.join("store"), 0).unwrap();
        let store = open();
        runtime.block_on(sample::send(&store, self.rounds + 5, self.rounds + 1..=self.rounds + 5));
        let content = sample::content(&store).unwrap();
        store.close();
        drop(store);
        let store = open();
        assert!(
            sample::content(&store).unwrap() == content,
            "what was written after it was opened is another"
        );
        store.close();
    }

    /// Repairs a refused store and checks that it is complete once satellites sent again what they have.
    fn repair(&self, runtime: &tokio::runtime::Runtime, root: &Path, with_export: bool) -> Base {
        let (export, work) = (root.join("store.export"), root.join("doctor.tmp"));
        fs::write(&export, &self.export).unwrap();
        fs::create_dir(&work).unwrap();
        let store = root.join("store");
        let exports = if with_export { vec![root.join("gone.export"), export] } else { Vec::new() };
        let damage =
            Damage { store: &store, exports: &exports, deployment: DEPLOYMENT, work: &work, stop: &|| false };
        let repaired = Store::repair(&damage, Timestamp::now()).unwrap();
        let kept = repaired.kept.expect("the damaged store is kept");
        assert!(kept.join("db").exists() || !self.files.contains_key(Path::new("store/db")));
        let store = Store::open(&store, 0).unwrap();
        let satellites = store.satellites().unwrap();
        assert_eq!(satellites.len(), repaired.satellites, "as it was said");
        if with_export {
            assert_eq!(repaired.satellites, sample::SATELLITES as usize);
            assert_ne!(repaired.base, Base::Nothing);
        }
        for record in &satellites {
            let number = (0..sample::SATELLITES).find(|n| record.id == sample::satellite(*n).as_bytes());
            assert_eq!(*record, sample::satellite_record(number.expect("one of ours")));
        }
        // What satellites send again, from the very first record: what was counted before is not counted again.
        runtime.block_on(sample::send_all(&store, self.rounds));
        let content = sample::content(&store).unwrap();
        let missing = match repaired.base {
            Base::State { missing, .. } => missing,
            _ => 0,
        };
        let mut lost = 0;
        for ((tree, key), value) in &self.content {
            let is_observation = tree != "state" || matches!(key[0], keys::HOST | keys::NAME);
            if is_observation {
                match content.get(&(tree.clone(), key.clone())) {
                    Some(found) => assert!(found == value, "another value in {tree}"),
                    None => lost += 1,
                }
            }
        }
        assert_eq!(lost, missing, "a cursor is ahead of its data: {:?}", repaired.base);
        let logs = |content: &Content| content.keys().filter(|(tree, _)| tree != "state").count() as u64;
        assert_eq!(logs(&content) + missing, logs(&self.content), "something was counted twice");
        store.close();
        repaired.base
    }
}

/// Runs something that must not panic and must end.
fn guarded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
            let words = panic.downcast_ref::<String>().cloned();
            words.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
        }));
    });
    result.recv_timeout(PATIENCE).unwrap_or_else(|_| Err("it hangs".to_owned()))
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Memory, where there is some: every open copies the files durably.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() && crate::export::free_bytes(memory) > 512 * 1024 * 1024 {
        return tempfile::tempdir_in(memory).unwrap();
    }
    tempfile::tempdir().unwrap()
}

#[test]
fn damage_is_refused_or_harmless_and_can_be_repaired() {
    let seed = setting("PORTOLAN_TEST_SEED").unwrap_or_else(|| Timestamp::now().as_microsecond() as u64);
    let flips = setting("PORTOLAN_TEST_FLIPS").unwrap_or(1000);
    println!("PORTOLAN_TEST_SEED={seed} PORTOLAN_TEST_FLIPS={flips}");
    let directory = directory();
    let runtime =
        Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());
    let at = directory.path();
    let samples: Vec<_> =
        [("young", 60, false), ("young, killed", 60, true), ("old", 200, false), ("old, killed", 200, true)]
            .into_iter()
            .map(|(name, rounds, killed)| Arc::new(Sample::new(&runtime, at, name, rounds, killed)))
            .collect();
    let tallies: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (samples, runtime) = (samples.clone(), runtime.clone());
                let root = at.join(format!("damaged-{thread}"));
                scope.spawn(move || {
                    damage_again_and_again(&samples, &runtime, &root, seed + thread, flips / THREADS)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut tally: BTreeMap<String, usize> = BTreeMap::new();
    for (what, count) in tallies.into_iter().flatten() {
        *tally.entry(what).or_default() += count;
    }
    println!("{tally:#?}");
    if flips >= 500 {
        assert!(tally["opened, unharmed"] > 50 && tally["refused"] > 50, "both happen");
    }
}

fn damage_again_and_again(
    samples: &[Arc<Sample>],
    runtime: &Arc<tokio::runtime::Runtime>,
    root: &Path,
    seed: u64,
    flips: u64,
) -> BTreeMap<String, usize> {
    let mut random = Random::new(seed);
    let mut tally: BTreeMap<String, usize> = BTreeMap::new();
    let mut repairs = 0;
    for flip in 0..flips {
        let sample = samples[random.below(samples.len())].clone();
        let (files, what) = sample.damage(&mut random);
        // Each its own place: what hangs keeps it.
        let place = root.join(flip.to_string());
        write_files(&place, &files);
        let opened = guarded({
            let (sample, place) = (sample.clone(), place.clone());
            move || sample.open(&place)
        });
        let refused = opened.unwrap_or_else(|how| panic!("{what}: {how}")).is_err();
        *tally.entry(if refused { "refused" } else { "opened, unharmed" }.to_owned()).or_default() += 1;
        if !refused && random.below(8) == 0 {
            let went = guarded({
                let (sample, runtime, place) = (sample.clone(), runtime.clone(), place.clone());
                move || sample.go_on(&runtime, &place)
            });
            went.unwrap_or_else(|how| panic!("{what}: it opened, and later: {how}"));
            *tally.entry("opened, unharmed, and went on".to_owned()).or_default() += 1;
        }
        if refused && repairs < REPAIRS / THREADS as usize && random.below(4) == 0 {
            let with_export = repairs % 2 == 0;
            repairs += 1;
            let repaired = guarded({
                let (runtime, place) = (runtime.clone(), place.clone());
                move || sample.repair(&runtime, &place, with_export)
            });
            let base =
                repaired.unwrap_or_else(|how| panic!("{what}: repaired (export: {with_export}): {how}"));
            let base = match base {
                Base::Store { lost: None, .. } => "from itself, nothing lost",
                Base::Store { .. } => "from itself, as it was earlier",
                Base::State { .. } => "from its state",
                Base::Export { .. } => "from the export",
                Base::Nothing => "from nothing",
            };
            *tally.entry(format!("repaired {base}")).or_default() += 1;
        }
        let _ = fs::remove_dir_all(&place);
    }
    tally
}

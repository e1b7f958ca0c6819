//! Dumps of a store that is written to, and of one that is damaged.

use super::check::check_with;
use super::*;
use crate::store::sample;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn about() -> About {
    About {
        deployment: DeploymentId(uuid::Uuid::from_u128(9)),
        created_at: sample::october(0),
        files: Vec::new(),
    }
}

fn open(dir: &Path) -> Store {
    Store::create(&dir.join("store")).unwrap();
    Store::open(&dir.join("store"), 0).unwrap()
}

fn restore(dir: &Path, dump: &[u8]) -> Result<(Store, Sums), DumpError> {
    let file = dir.join("dump");
    fs::write(&file, dump).unwrap();
    check(File::open(&file).unwrap())?;
    let path = dir.join("restored/store");
    let _ = fs::remove_dir_all(dir.join("restored"));
    let mut builder = Builder::start(&path)?;
    let sums = builder.put_dump(&file, &|| false)?;
    builder.finish(sums.commit, Some(&sums))?;
    Ok((Store::open(&path, 0)?, sums))
}

/// Takes the first pieces slowly, so that the entries of a dump last.
struct Slow<'a> {
    taken: &'a mut Vec<u8>,
    slow: u32,
    each: Duration,
}

impl Slow<'_> {
    fn new(taken: &mut Vec<u8>, slow: u32, each: u64) -> Slow<'_> {
        Slow { taken, slow, each: Duration::from_millis(each) }
    }
}

impl Write for Slow<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.slow > 0 {
            self.slow -= 1;
            std::thread::sleep(self.each);
        }
        self.taken.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_that_is_made_while_satellites_send_is_the_store_as_it_was_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    sample::fill(&store, 20, 1..=20).await;
    let done = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (store, done) = (store.clone(), done.clone());
        async move {
            let mut round = 21;
            while !done.load(Ordering::Relaxed) {
                for number in 0..sample::SATELLITES {
                    let at = sample::october(round as i64 * 60);
                    store.ingest(sample::batch(number, round, at)).await.unwrap();
                    store.put_satellites(vec![sample::satellite_record(number)]).await.unwrap();
                }
                round += 1;
            }
            round
        }
    });
    let mut bytes = Vec::new();
    let (dumped, bytes) = {
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            let sums = store.dump(&about(), Slow::new(&mut bytes, 60, 20), &|| false);
            (sums.unwrap(), bytes)
        })
        .await
        .unwrap()
    };
    done.store(true, Ordering::Relaxed);
    let rounds = writing.await.unwrap();
    assert!(rounds > 25, "much was written meanwhile: {rounds}");
    let contents = check(Cursor::new(&bytes)).unwrap();
    assert_eq!(contents.sums, dumped);
    // Few keys at once give the same answer in many passes.
    assert_eq!(check_with(Cursor::new(&bytes), 97).unwrap(), contents);
    let (mut reader, _) = frames::FrameReader::start(bytes.as_slice()).unwrap();
    let mut redone = 0;
    while let Some(frame) = reader.next().unwrap() {
        redone += usize::from(matches!(frame, Frame::Redo(_)));
    }
    assert!(redone > 10, "{redone} frames of what was written meanwhile");

    let (restored, sums) = restore(dir.path(), &bytes).unwrap();
    assert_eq!((restored.sums_now().await, sums), (dumped.clone(), dumped));

    // What the satellites send again after that is counted where it is new, and only there.
    sample::send_all_in_october(&restored, rounds - 1).await;
    for number in 0..sample::SATELLITES {
        let cursor = restored.cursor(sample::satellite(number), sample::EPOCH).await.unwrap();
        assert_eq!((cursor.acked, cursor.missing), ((rounds - 1) * 2, 0));
    }
    assert_eq!(sample::inventory(&restored), sample::inventory(&store));
    let (live, again) = (sample::content(&store).unwrap(), sample::content(&restored).unwrap());
    let logs = |content: &sample::Content| content.keys().filter(|(tree, _)| tree != "state").count();
    assert_eq!(logs(&again), logs(&live), "every change and sweep once");
}

impl Store {
    async fn sums_now(&self) -> Sums {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.sums().unwrap()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_that_is_dropped_meanwhile_is_gone_from_the_dump() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    sample::fill(&store, 20, 1..=20).await;
    let dump = {
        let store = store.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            store.dump(&about(), Slow::new(&mut bytes, 20, 30), &|| false).unwrap();
            bytes
        })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let now = "2027-01-15T00:00:00Z".parse().unwrap();
    let dropped = store.drop_older_than(jiff::SignedDuration::from_hours(24 * 60), now).await.unwrap();
    assert_eq!(dropped.as_deref(), Some("log-2026-10"));
    let bytes = dump.join().unwrap();
    let (restored, sums) = restore(dir.path(), &bytes).unwrap();
    assert!(!sums.trees.contains_key("log-2026-10"));
    assert_eq!(sample::content(&restored).unwrap(), sample::content(&store).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_fails_the_dump_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    sample::fill(&store, 4, 1..=4).await;
    let key = sample::flip_a_record(&store);
    let made = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        (store.dump(&about(), &mut bytes, &|| false).unwrap_err().to_string(), bytes)
    });
    let (error, bytes) = made.await.unwrap();
    assert!(error.contains("`state`") && error.contains(&shown(&key)) && error.contains("doctor"), "{error}");
    let said = check(Cursor::new(&bytes)).unwrap_err().to_string();
    assert!(said.contains("the server gave it up") && said.contains(&shown(&key)), "{said}");
}

/// What sled lost has no checksum that could be wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_gone_or_came_back_makes_a_dump_that_does_not_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    sample::fill(&store, 4, 1..=4).await;
    let trees = store.trees().unwrap();
    let log = trees.tree("log-2026-10").unwrap();
    let (key, value) = log.iter().next().unwrap().unwrap();
    log.remove(&key).unwrap();
    let dumped = |store: &Store| {
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            store.dump(&about(), &mut bytes, &|| false).unwrap();
            bytes
        })
    };
    let bytes = dumped(&store).await.unwrap();
    let error = check(Cursor::new(&bytes)).unwrap_err();
    assert!(matches!(error, DumpError::Sums { ref tree, .. } if tree == "log-2026-10"), "{error}");
    log.insert(&key, value).unwrap();
    check(Cursor::new(&dumped(&store).await.unwrap())).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_and_a_second_one_end_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    sample::fill(&store, 4, 1..=4).await;
    let first = {
        let store = store.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            store.dump(&about(), Slow::new(&mut bytes, 20, 30), &|| true)
        })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = tokio::task::spawn_blocking({
        let store = store.clone();
        move || store.dump(&about(), std::io::sink(), &|| false)
    });
    assert!(matches!(second.await.unwrap(), Err(DumpError::Busy)));
    assert!(matches!(first.join().unwrap(), Err(DumpError::Cancelled)));
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let gone = tokio::task::spawn_blocking({
        let store = store.clone();
        move || store.dump(&about(), Gone, &|| false)
    });
    assert!(matches!(gone.await.unwrap(), Err(DumpError::Write(_))));
    store.ingest(sample::batch(0, 9, sample::october(0))).await.expect("the server goes on");
    assert!(store.writer.untap().unwrap().await.unwrap().is_none(), "and no tap stays behind");
}

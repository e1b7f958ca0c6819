//! The hourly export: the store as one file beside it, made while the server runs and read back before it counts. It is
//! what `doctor --repair` builds on when the store itself is damaged, and making it looks at every record, as the engine
//! gives it: what its cache holds hides damage on the disk under it until the next start.

use crate::backup::Unfinished;
use crate::data_dir::DataDir;
use crate::problems::Problems;
use crate::store::{self, About, DumpError, Store, Sums};
use jiff::{SignedDuration, Timestamp};
use nix::sys::statvfs::statvfs;
use portolan_common::ids::DeploymentId;
use portolan_transport::files::{self, FileError};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// An export may take this part of the time at most, whatever the settings say.
const SHARE: u32 = 100;
/// How soon an export that failed is tried again.
const RETRY: Duration = Duration::from_secs(600);
/// How soon after the start the first one is made at the earliest: a start has enough to do.
const SETTLE: Duration = Duration::from_secs(60);

/// What the task needs.
pub struct Exports {
    /// Where to.
    pub data: DataDir,
    /// Of what.
    pub store: Store,
    /// Where failures are told.
    pub problems: Arc<Problems>,
    /// Whose.
    pub deployment: DeploymentId,
    /// How often; `None`: never.
    pub every: Option<Duration>,
    /// Bytes that must stay free.
    pub min_free: u64,
}

/// An export that failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no room for it.
    #[error("{free} bytes are free, and an export needs {needed} (`min_free`, and as much as the last one)")]
    NoRoom {
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        needed: u64,
    },
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store cannot be read.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// What was written does not add up.
    #[error("what was written does not read back: {0}")]
    NotReadBack(DumpError),
}

/// The newest export of a data directory, and the one before it.
pub fn files(data: &DataDir) -> [PathBuf; 2] {
    ["store.export", "store.export.1"].map(|name| data.exports().join(name))
}

/// When the next one is due after one that was made in `took`, if it worked.
fn pause(every: Duration, took: Duration, worked: bool) -> Duration {
    let share = took.saturating_mul(SHARE);
    if worked { every.max(share) } else { RETRY.min(every).max(share) }
}

/// Makes exports until `stop`.
pub async fn run(exports: Exports, stop: CancellationToken) {
    let Some(every) = exports.every else { return stop.cancelled().await };
    let age = age_of(&files(&exports.data)[0], Timestamp::now());
    let mut wait = age.map_or(SETTLE, |age| every.saturating_sub(age).max(SETTLE));
    let exports = Arc::new(exports);
    while tokio::time::timeout(wait, stop.cancelled()).await.is_err() {
        let began = Instant::now();
        let made = tokio::task::spawn_blocking({
            let (exports, stop) = (exports.clone(), stop.clone());
            move || exports.make(Timestamp::now(), &|| stop.is_cancelled())
        })
        .await;
        let took = began.elapsed();
        let worked = match made {
            Ok(Ok(made)) => {
                if made {
                    tracing::info!(?took, "the store was exported");
                }
                true
            }
            Ok(Err(ExportError::Dump(DumpError::Cancelled))) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the store could not be exported");
                false
            }
            Err(error) => {
                exports.problems.set_export(Some((Timestamp::now(), "it ended by a panic".into())));
                tracing::error!(%error, "the export ended by a panic");
                false
            }
        };
        wait = pause(every, took, worked);
    }
}

fn age_of(path: &Path, now: Timestamp) -> Option<Duration> {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    let age = now.duration_since(Timestamp::try_from(modified).ok()?);
    Duration::try_from(age.max(SignedDuration::ZERO)).ok()
}

impl Exports {
    /// Makes one, unless nothing changed since the last; says whether it did. Blocking. Problems are told.
    ///
    /// # Errors
    /// [`ExportError`]; the exports that were there still are.
    pub fn make(&self, now: Timestamp, cancelled: &dyn Fn() -> bool) -> Result<bool, ExportError> {
        let made = self.make_quietly(now, cancelled);
        match &made {
            Ok(_) => self.problems.set_export(None),
            Err(ExportError::Dump(DumpError::Cancelled | DumpError::Busy)) => {}
            Err(error) => {
                self.problems.set_export(Some((now, error.to_string())));
                if let ExportError::Dump(DumpError::Store(what)) = error {
                    self.problems.set_damage(now, what.clone());
                }
                // Every record was intact, and still it is not what was written.
                if let ExportError::NotReadBack(error @ DumpError::Sums { .. }) = error {
                    self.problems.set_damage(now, error.to_string());
                }
            }
        }
        made
    }

    fn make_quietly(&self, now: Timestamp, cancelled: &dyn Fn() -> bool) -> Result<bool, ExportError> {
        let [newest, before] = files(&self.data);
        let sums: Sums = self.store.sums().map_err(DumpError::from)?;
        if store::sums_of(&newest).is_some_and(|exported| exported == sums) {
            return Ok(false);
        }
        files::create_private_dir(&self.data.exports())?;
        remove_unfinished(&self.data.exports());
        self.look_for_room(&newest)?;
        let mut unfinished = Unfinished::create(&newest)?;
        let about = About { deployment: self.deployment, created_at: now, files: Vec::new() };
        {
            let mut out = BufWriter::with_capacity(256 * 1024, &mut unfinished.file);
            self.store.dump(&about, &mut out, cancelled)?;
            out.flush().map_err(FileError::on("write", &newest))?;
        }
        unfinished.file.sync_all().map_err(FileError::on("write", &newest))?;
        let read = File::open(&unfinished.path).map_err(FileError::on("read", &unfinished.path))?;
        store::check(read).map_err(ExportError::NotReadBack)?;
        if newest.exists() {
            // A link first, so that at no moment there is none.
            let linked = match fs::remove_file(&before) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                // Where there are no links, there is none for a moment.
                _ => fs::hard_link(&newest, &before).or_else(|_| fs::rename(&newest, &before)),
            };
            linked.map_err(FileError::on("keep the last export as", &before))?;
        }
        unfinished.publish(&newest, true)?;
        Ok(true)
    }

    fn look_for_room(&self, last: &Path) -> Result<(), ExportError> {
        let last = fs::metadata(last).map_or(0, |metadata| metadata.len());
        let needed = self.min_free.saturating_add(last);
        let free = free_bytes(&self.data.exports());
        if free < needed { Err(ExportError::NoRoom { free, needed }) } else { Ok(()) }
    }
}

/// Bytes that are free for this user where a path is. A file system that does not say is taken to have room.
pub(crate) fn free_bytes(path: &Path) -> u64 {
    statvfs(path).map_or(u64::MAX, |facts| facts.blocks_available().saturating_mul(facts.fragment_size()))
}

/// What an export that died half-way left behind.
fn remove_unfinished(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with("store.export.tmp-") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use crate::store::sample;
    use crate::uplink::Hub;

    #[test]
    fn an_export_takes_a_hundredth_of_the_time_at_most() {
        let hour = Duration::from_secs(3600);
        assert_eq!(pause(hour, Duration::from_secs(2), true), hour);
        assert_eq!(pause(hour, Duration::from_secs(60), true), Duration::from_secs(6000));
        assert_eq!(pause(hour, Duration::from_secs(1), false), RETRY);
        assert_eq!(pause(hour, Duration::from_secs(60), false), Duration::from_secs(6000));
    }

    fn kinds(problems: &Problems) -> Vec<String> {
        problems
            .list(Timestamp::now())
            .into_iter()
            .map(|problem| problem.kind)
            .filter(|k| k != "records-missing")
            .collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn exports_follow_changes_keep_the_one_before_and_say_what_fails() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        Store::create(&data.store()).unwrap();
        let store = Store::open(&data.store(), 0).unwrap();
        sample::fill(&store, 4, 1..=4).await;
        let registry = Arc::new(Registry::load(store.clone()).unwrap());
        let problems = Arc::new(Problems::load(store.clone(), registry, Arc::new(Hub::default())).unwrap());
        let deployment = DeploymentId(uuid::Uuid::from_u128(1));
        let exports = Arc::new(Exports {
            data: data.clone(),
            store: store.clone(),
            problems: problems.clone(),
            deployment,
            every: None,
            min_free: 0,
        });
        let make = async |exports: &Arc<Exports>| {
            let exports = exports.clone();
            tokio::task::spawn_blocking(move || exports.make(Timestamp::now(), &|| false)).await.unwrap()
        };
        assert!(make(&exports).await.unwrap());
        assert!(!make(&exports).await.unwrap(), "nothing changed");
        let [newest, before] = files(&data);
        let first = fs::read(&newest).unwrap();
        store.ingest(sample::batch(0, 5, sample::october(0))).await.unwrap();
        assert!(make(&exports).await.unwrap());
        assert_eq!(fs::read(&before).unwrap(), first);
        let commit = |path: &Path| store::check(File::open(path).unwrap()).unwrap().sums.commit;
        assert_eq!(commit(&newest), commit(&before) + 1);

        store.ingest(sample::batch(0, 6, sample::october(0))).await.unwrap();
        let greedy = Exports {
            min_free: u64::MAX / 2,
            data: data.clone(),
            store: store.clone(),
            problems: problems.clone(),
            ..*exports
        };
        let greedy = Arc::new(greedy);
        assert!(matches!(make(&greedy).await, Err(ExportError::NoRoom { .. })));
        assert_eq!(kinds(&problems), ["export-failed"]);
        assert!(make(&exports).await.unwrap());
        assert!(kinds(&problems).is_empty());

        sample::flip_a_record(&store);
        store.ingest(sample::batch(0, 7, sample::october(0))).await.unwrap();
        assert!(matches!(make(&exports).await, Err(ExportError::Dump(DumpError::Store(_)))));
        assert_eq!(kinds(&problems), ["store-damaged", "export-failed"]);
        let mut names: Vec<_> =
            fs::read_dir(data.exports()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["store.export", "store.export.1"], "nothing unfinished stays");
    }
}

//! The one writer thread: takes closures, applies them in order, makes them durable together, then answers each.

use super::{StoreError, Trees};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot};

/// How many writes one flush makes durable at most.
const GROUP: usize = 256;
/// How many writes may wait; whoever comes then waits too.
const QUEUE: usize = 1024;

/// Runs on the writer thread; what it returns is called once the write is durable, or has failed.
type Job = Box<dyn FnOnce(&Trees) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), Arc<StoreError>>) + Send>;

/// A handle to the thread; it ends when the last handle goes.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
    alive: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn start(trees: Trees, path: PathBuf) -> Result<Self, StoreError> {
        // Opened once: a flood of connections that takes every descriptor must not stop the store.
        let data = DataFile::open(path.clone())?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let alive = Arc::new(AtomicBool::new(true));
        let flag = alive.clone();
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                run(&trees, &data, queue);
                flag.store(false, Ordering::Release);
            })
            .map_err(|cause| StoreError::Directory { path, cause })?;
        Ok(Self { jobs, alive })
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Runs `write` on the writer thread and returns once its effect is on the disk. When it fails, nothing of it
    /// may have been applied: a closure applies one batch, as its last step.
    pub(super) async fn write<T, F>(&self, write: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Trees) -> Result<T, StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |trees| {
            let result = write(trees);
            Box::new(move |flushed| {
                let result = match (result, flushed) {
                    (Ok(value), Ok(())) => Ok(value),
                    (Ok(_), Err(_)) => Err(StoreError::Stopped),
                    (Err(error), _) => Err(error),
                };
                // Whoever asked may have gone; the write stands.
                let _ = sender.send(result);
            })
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Stopped)?;
        receiver.await.map_err(|_| StoreError::Stopped)?
    }
}

fn run(trees: &Trees, data: &DataFile, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(job) = queue.try_recv()
        {
            group.push(job);
        }
        // A panic in one job (sled panics on some damage) must not look like a commit.
        let applied: Vec<Option<Answer>> =
            group.into_iter().map(|job| catch_unwind(AssertUnwindSafe(|| job(trees))).ok()).collect();
        let flushed = match catch_unwind(AssertUnwindSafe(|| flush(trees, data))) {
            Ok(result) => result.map_err(Arc::new),
            Err(_) => Err(Arc::new(StoreError::Stopped)),
        };
        for answer in applied.into_iter().flatten() {
            answer(flushed.clone());
        }
        if let Err(error) = flushed {
            tracing::error!(%error, "the store cannot be written any more; no further observation is acked");
            return;
        }
    }
}

fn flush(trees: &Trees, data: &DataFile) -> Result<(), StoreError> {
    trees.db.flush()?;
    data.sync()
}

/// sled's data file, for `fdatasync`: sled flushes with `sync_file_range`, which leaves a drive's own cache alone.
struct DataFile {
    file: File,
    path: PathBuf,
}

impl DataFile {
    fn open(path: PathBuf) -> Result<Self, StoreError> {
        match File::open(path.join("db")) {
            Ok(file) => Ok(Self { file, path }),
            Err(cause) => Err(StoreError::Directory { path, cause }),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|cause| StoreError::Directory { path: self.path.clone(), cause })
    }
}

/// Makes what was flushed durable, for a store that has no writer yet.
pub(super) fn sync_data(path: &Path) -> Result<(), StoreError> {
    DataFile::open(path.to_owned())?.sync()
}

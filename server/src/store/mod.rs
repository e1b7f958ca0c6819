//! The store: the only module that knows sled.
//!
//! Two kinds of trees, few of them: `state` holds what is (registry, cursors, current port states), overwritten in
//! place; `log-YYYY-MM` holds what happened in a month (changes, sweeps, gaps) and is dropped whole when it is too old.
//! Whoever writes hands a plan to the one [`writer`] thread: plans read a [`View`] and return [`Writes`]; the writer
//! applies the writes of a group, makes them durable, then answers. Records are versioned and checksummed ([`record`]);
//! [`sums`] over everything and a high-water [`mark`] outside sled show what sled lost or changed unnoticed. Whoever
//! reads gets ranges, never the whole store.

mod changes;
mod documents;
mod dump;
mod engine;
mod examine;
mod gap;
mod history;
mod ingest;
mod inventory;
mod keys;
mod mark;
mod merge;
mod moment;
mod problem;
mod recent;
mod record;
mod registry;
mod repair;
mod replace;
mod rescue;
mod retention;
mod space;
mod sums;
mod sweeps;
mod upgrade;
mod view;
mod writer;

pub use documents::{DocumentWrite, Kind, MAX_DOCUMENT_BYTES, MAX_KEY_BYTES, TimelineWrite};
pub use dump::{About, Contents, DumpError, Part, check, check_stream, read, sums_of};
pub use examine::{Examination, TreeReport, bytes_of, examine};
pub use gap::Gap;
pub use history::{Change, FirstSeen, HistoryQuery};
pub use ingest::{Cursor, IngestBatch, IngestItem, IngestOutcome, SweepEnd, is_name, plan};
pub use inventory::{InventoryQuery, InventoryRow};
pub use moment::{Moment, Order};
pub use problem::ProblemRecord;
pub use registry::{SatelliteRecord, TokenRecord};
pub use repair::{Base, Damage, Repaired};
pub use sums::{Sum, Sums};
pub use view::{Entries, TreeWrites, View, Writes};

use crate::pki::authority::sha256;
use arc_swap::ArcSwapOption;
use engine::{Check, Engine, Trees};
use jiff::SignedDuration;
use record::RecordError;
use rescue::Rescue;
use space::Space;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use writer::Writer;

/// The on-disk format; a server reads its own and earlier ones, and refuses later ones.
pub const SCHEMA: u32 = 2;
/// How far a satellite's clock may run ahead before its times are cut.
const MAX_AHEAD: SignedDuration = SignedDuration::from_hours(24);
/// Bytes that must be free on the store's file system for observations to be taken, unless the settings say otherwise.
pub const MIN_FREE: u64 = 256 * 1024 * 1024;

/// Something about the store that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none.
    #[error(
        "{} holds no store: was it moved? Put it back with `portolan-server restore BACKUP --store-only --data-dir DIR`, or \
         go on from the newest export with `portolan-server doctor --repair --data-dir DIR`",
        .0.display()
    )]
    Missing(PathBuf),
    /// It does not open, or is not what was written.
    #[error(
        "the store in {} is damaged ({reason}){}: run `portolan-server doctor --data-dir DIR`, which says what can be \
         saved, then `portolan-server doctor --repair`",
        path.display(),
        if *untouched { "; its files were left as they are" } else { "" }
    )]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// Whether the files are as they were before the try.
        untouched: bool,
    },
    /// It has less than was acknowledged.
    #[error(
        "the store in {} went back: it ends at commit {has}, and {marked} were acknowledged (a failing disk, or files \
         copied from elsewhere); run `portolan-server doctor --repair --data-dir DIR` to go on with what is there and \
         have the satellites send the rest again",
        path.display()
    )]
    WentBack {
        /// The store's directory.
        path: PathBuf,
        /// The last commit that is there.
        has: u64,
        /// The last commit that was acknowledged.
        marked: u64,
    },
    /// Written by a later version.
    #[error("the store in {} has format {found}, this version reads up to {SCHEMA}: update portolan-server", path.display())]
    Newer {
        /// The store's directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// There is one already.
    #[error("{} already holds a store", .0.display())]
    Exists(PathBuf),
    /// sled failed while running.
    #[error("the store failed: {0}")]
    Engine(#[from] sled::Error),
    /// A record is damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The directory cannot be read or written.
    #[error("cannot use the store's directory {}: {cause}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The engine failed; it is opened again as soon as that works.
    #[error("the store cannot be written now ({0}); it is tried again without end, see the server's log")]
    Unwritable(String),
    /// sled gave up in the middle of something.
    #[error("the store's engine stopped in the middle of a request; see the server's log")]
    Crashed,
    /// A document that its checksum vouches for and that cannot be understood.
    #[error("a document of the store cannot be understood ({0}): was it written by a later version?")]
    Document(String),
    /// It is being opened again, or the server is shutting down.
    #[error("the store is not open at this moment")]
    Closed,
}

impl StoreError {
    /// Whether it is a full disk that is in the way.
    pub fn is_for_want_of_space(&self) -> bool {
        match self {
            Self::Directory { cause, .. } => cause.kind() == std::io::ErrorKind::StorageFull,
            Self::Engine(sled::Error::Io(cause)) => cause.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// Whether the store takes observations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Good,
    /// The disk is nearly full: it answers, and takes nothing but what operators do.
    Full {
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        needed: u64,
    },
    /// The engine failed and is being opened again.
    Failed {
        /// What it said.
        why: String,
    },
}

/// The store, open. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    trees: Arc<ArcSwapOption<Trees>>,
    writer: Writer,
    health: watch::Receiver<Health>,
    space: Space,
    path: PathBuf,
    /// One dump at a time.
    dumping: Arc<Mutex<()>>,
}

impl Store {
    /// Makes an empty store.
    ///
    /// # Errors
    /// [`StoreError::Exists`] where one stands.
    pub fn create(path: &Path) -> Result<(), StoreError> {
        if path.join("db").exists() {
            return Err(StoreError::Exists(path.to_owned()));
        }
        portolan_transport::files::create_private_dir(path)
            .map_err(|error| StoreError::Directory { path: path.to_owned(), cause: error.cause })?;
        Engine::create(path)
    }

    /// Opens a store that [`Store::create`] made, checks it, and starts its writer. Below `min_free` bytes on its file
    /// system it takes no observations.
    ///
    /// # Errors
    /// [`StoreError`]; the files are left as they are, but for the leftovers of an unfinished snapshot.
    pub fn open(path: &Path, min_free: u64) -> Result<Self, StoreError> {
        if !path.join("db").exists() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        let space = Space::new(path, min_free);
        if !space.has_room_to_open() && space.drop_ballast() {
            tracing::warn!(path = %path.display(), "the disk is full: the ballast file was given up to open the store");
        }
        remove_unfinished_snapshots(path)?;
        let rescue = Rescue::take(path)?;
        let engine = match Engine::open(path, Check::Start) {
            Ok(engine) => {
                rescue.into_iter().for_each(Rescue::discard);
                engine
            }
            // The copy stays: the next try puts it back.
            Err(error) if error.is_for_want_of_space() => return Err(error),
            Err(error) => {
                let untouched = rescue.is_some_and(|rescue| rescue.restore().is_ok());
                return Err(match error {
                    StoreError::Damaged { path, reason, .. } => {
                        StoreError::Damaged { path, reason, untouched }
                    }
                    // A record that its checksum gives away, or an engine that does not go on: all the same here.
                    StoreError::Record(_) | StoreError::Engine(_) => {
                        StoreError::Damaged { path: path.to_owned(), reason: error.to_string(), untouched }
                    }
                    other => other,
                });
            }
        };
        let trees = Arc::new(ArcSwapOption::empty());
        let (health_sender, health) = watch::channel(Health::Good);
        let writer = Writer::start(engine, space.clone(), trees.clone(), health_sender)?;
        Ok(Self { trees, writer, health, space, path: path.to_owned(), dumping: Arc::default() })
    }

    /// What is open right now. Held only as long as it is read.
    fn trees(&self) -> Result<Arc<Trees>, StoreError> {
        self.trees.load_full().ok_or(StoreError::Closed)
    }

    /// A file that stands beside the store's directory.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// Whether it can be read; not while it is being opened again.
    pub fn is_open(&self) -> bool {
        self.trees.load().is_some()
    }

    /// Bytes on disk.
    pub fn size_on_disk(&self) -> u64 {
        self.trees().map_or(0, |trees| trees.size_on_disk())
    }

    /// Bytes of all keys and values. Reads everything. Blocking.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn live_bytes(&self) -> Result<u64, StoreError> {
        let trees = self.trees()?;
        let mut bytes = 0;
        for name in trees.log_names().into_iter().chain([sums::STATE.to_owned()]) {
            trees.each(&name, |key, value| {
                bytes += (key.len() + value.len()) as u64;
                Ok(())
            })?;
        }
        Ok(bytes)
    }

    /// Bytes free on its file system.
    pub fn free_bytes(&self) -> u64 {
        self.space.free()
    }

    /// Whether it takes observations.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// The same, to be waited for.
    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Writes what waits, then lets go of the files. Blocking.
    pub fn close(&self) {
        self.writer.close();
    }

    /// The key under which a token's secret is found: the secret itself is not stored.
    pub fn token_key(secret: &[u8]) -> [u8; 32] {
        sha256(secret)
    }
}

/// Dying while sled writes a snapshot leaves `snap.*.generating`, which sled then takes for a broken snapshot for
/// ever. Nothing that was flushed is in it alone.
fn remove_unfinished_snapshots(path: &Path) -> Result<(), StoreError> {
    let failed = |cause| StoreError::Directory { path: path.to_owned(), cause };
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("snap.") && text.ends_with(".generating") {
            std::fs::remove_file(path.join(&name)).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod bit_flips;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

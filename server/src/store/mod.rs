//! The store: the only module that knows sled.
//!
//! Two kinds of trees, few of them: `state` holds what is (registry, cursors, current port states), overwritten in
//! place; `log-YYYY-MM` holds what happened in a month (changes, sweeps) and is dropped whole when it is too old.
//! One writer thread groups commits: apply, flush, `fdatasync`, then answer. Records are versioned and checksummed
//! ([`record`]). Whoever writes hands the writer a closure; whoever reads gets ranges, never the whole store.

mod history;
mod ingest;
mod inventory;
mod keys;
mod merge;
mod record;
mod registry;
mod rescue;
mod retention;
mod sweeps;
mod writer;

pub use history::{Change, FirstSeen, HistoryQuery};
pub use ingest::{IngestBatch, IngestItem, IngestOutcome, SweepEnd, is_name};
pub use inventory::{InventoryQuery, InventoryRow};
pub use registry::{SatelliteRecord, TokenRecord};

use crate::pki::authority::sha256;
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::{Epoch, SatelliteId};
use record::RecordError;
use rescue::Rescue;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use writer::Writer;

/// The on-disk format; a server reads its own and refuses later ones.
const SCHEMA: u32 = 1;
/// How far a satellite's clock may run ahead before its times are cut.
const MAX_AHEAD: SignedDuration = SignedDuration::from_hours(24);
/// Page cache; the working set is the current state of the hosts being swept.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// Something about the store that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none.
    #[error("{} holds no store: was it moved? Restore it from a backup, or initialise a new server elsewhere", .0.display())]
    Missing(PathBuf),
    /// It does not open.
    #[error(
        "the store in {} is damaged ({reason}){}: restore a backup of the data directory; without one, move the data \
         directory aside and run `portolan-server init` again (satellites then enrol anew)",
        path.display(),
        if *untouched { "; its files were left as they are" } else { "" }
    )]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What the engine said.
        reason: String,
        /// Whether the files are as they were before the try.
        untouched: bool,
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
    /// The writer ended: a write before this one failed for good.
    #[error(
        "the store takes no more writes, since an earlier one failed; see the server's log, then restart it"
    )]
    Stopped,
}

/// The store, open. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    trees: Trees,
    writer: Writer,
}

/// sled's handles, for this module's files.
#[derive(Clone)]
struct Trees {
    db: sled::Db,
    state: sled::Tree,
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
        let trees = Trees::open(path)?;
        trees.state.insert(keys::SCHEMA, &SCHEMA.to_be_bytes())?;
        trees.db.flush()?;
        writer::sync_data(path)
    }

    /// Opens a store that [`Store::create`] made, and starts its writer.
    ///
    /// # Errors
    /// [`StoreError`]; the files are left as they are, but for the leftovers of an unfinished snapshot.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.join("db").exists() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        remove_unfinished_snapshots(path)?;
        let rescue = Rescue::take(path)?;
        let trees = match Trees::open_checked(path) {
            Ok(trees) => {
                rescue.into_iter().for_each(Rescue::discard);
                trees
            }
            Err(error) => {
                let untouched = rescue.is_some_and(|rescue| rescue.restore().is_ok());
                return Err(match error {
                    StoreError::Damaged { path, reason, .. } => {
                        StoreError::Damaged { path, reason, untouched }
                    }
                    other => other,
                });
            }
        };
        let writer = Writer::start(trees.clone(), path.to_owned())?;
        Ok(Self { trees, writer })
    }

    /// Bytes on disk.
    pub fn size_on_disk(&self) -> u64 {
        self.trees.db.size_on_disk().unwrap_or(0)
    }

    /// Whether writes are still taken.
    pub fn is_writable(&self) -> bool {
        self.writer.is_alive()
    }

    /// The highest sequence of a satellite's epoch that is durable; 0 when there is none. It goes through the writer:
    /// what is applied and not yet flushed must not be called acked.
    ///
    /// # Errors
    /// When the record cannot be read, or the store takes no writes any more.
    pub async fn acked_sequence(&self, satellite: SatelliteId, epoch: Epoch) -> Result<u64, StoreError> {
        self.writer.write(move |trees| ingest::read_cursor(trees, satellite, epoch)).await
    }

    /// The key under which a token's secret is found: the secret itself is not stored.
    pub fn token_key(secret: &[u8]) -> [u8; 32] {
        sha256(secret)
    }
}

fn damaged(path: &Path, reason: impl Into<String>) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), reason: reason.into(), untouched: false }
}

impl Trees {
    /// Opens what [`Store::create`] made: the format record must be there. sled panics on some kinds of damage; that
    /// must be a message, not a crash.
    fn open_checked(path: &Path) -> Result<Self, StoreError> {
        catch_unwind(AssertUnwindSafe(|| Self::read_format(path)))
            .unwrap_or_else(|_| Err(damaged(path, "the engine gave up while reading it")))
    }

    fn read_format(path: &Path) -> Result<Self, StoreError> {
        let trees = Self::open(path)?;
        let schema =
            trees.state.get(keys::SCHEMA)?.ok_or_else(|| damaged(path, "its format record is gone"))?;
        let found = u32::from_be_bytes(
            schema.as_ref().try_into().map_err(|_| damaged(path, "its format record cannot be read"))?,
        );
        if found > SCHEMA { Err(StoreError::Newer { path: path.to_owned(), found }) } else { Ok(trees) }
    }

    fn open(path: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            // The writer flushes before every answer; a second rhythm would only cost.
            .flush_every_ms(None);
        let opened = config.open().and_then(|db| {
            let state = db.open_tree("state")?;
            Ok(Self { db, state })
        });
        opened.map_err(|error| match error {
            sled::Error::Io(cause) => StoreError::Directory { path: path.to_owned(), cause },
            error => damaged(path, error.to_string()),
        })
    }

    /// The tree of the month in which something was committed.
    fn log_of(&self, at: Timestamp) -> Result<sled::Tree, StoreError> {
        Ok(self.db.open_tree(keys::log_tree(at))?)
    }

    /// The log trees that may hold what satellites saw since then, oldest first. Trees are chosen by the server's
    /// clock, and a satellite's may run ahead.
    fn logs_since(&self, since: Timestamp) -> Result<Vec<sled::Tree>, StoreError> {
        let first = keys::log_tree(since.saturating_sub(MAX_AHEAD * 2).unwrap_or(Timestamp::UNIX_EPOCH));
        let mut names: Vec<sled::IVec> =
            self.db.tree_names().into_iter().filter(|name| keys::is_log_tree(name)).collect();
        names.sort();
        names
            .into_iter()
            .filter(|name| name.as_ref() >= first.as_bytes())
            .map(|name| Ok(self.db.open_tree(name)?))
            .collect()
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
mod tests;

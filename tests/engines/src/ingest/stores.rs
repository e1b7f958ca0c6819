//! The server's store in small, on each engine, written as each engine's manual asks.

use super::Store;
use super::work::Unit;
use crate::spool::remove_unfinished_snapshots;
use fjall::{Database as Fjall, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{
    Builder, Database as Redb, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};
use sled::Transactional;
use sled::transaction::{ConflictableTransactionError, TransactionError};
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

/// Page cache, as the server's.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// An engine's error, in its words.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {reason}")]
pub struct StoreError {
    doing: &'static str,
    reason: String,
}

fn failed<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> StoreError {
    move |reason| StoreError { doing, reason: reason.to_string() }
}

// === sled ===

pub(super) struct SledStore {
    db: sled::Db,
    state: sled::Tree,
    log: sled::Tree,
    data: File,
    units_a_transaction: usize,
}

impl SledStore {
    pub(super) fn open(directory: &Path, units_a_transaction: usize) -> Result<Self, StoreError> {
        remove_unfinished_snapshots(directory).map_err(failed("prepare sled's directory"))?;
        let db = sled::Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES as u64)
            .flush_every_ms(None)
            .open()
            .map_err(failed("open sled"))?;
        let tree = |name| db.open_tree(name).map_err(failed("open a tree of sled"));
        let (state, log) = (tree("state")?, tree("log-2026-11")?);
        let data = File::open(directory.join("db")).map_err(failed("open sled's file"))?;
        Ok(Self { db, state, log, data, units_a_transaction })
    }

    /// Compares before the transaction, as the server's one writer may: nobody else writes.
    fn transaction(&self, units: &[Unit]) -> Result<u64, StoreError> {
        let mut written: HashMap<&[u8], &[u8]> = HashMap::new();
        let mut overwritten = 0;
        for (key, observed) in units.iter().flat_map(|unit| &unit.hosts) {
            let same = match written.get(key.as_slice()) {
                Some(earlier) => *earlier == observed.as_slice(),
                None => {
                    let stored = self.state.get(key).map_err(failed("read sled"))?;
                    stored.as_deref() == Some(observed.as_slice())
                }
            };
            if !same {
                overwritten += 1;
                written.insert(key, observed);
            }
        }
        (&self.state, &self.log)
            .transaction(|(state, log)| {
                for (key, observed) in &written {
                    state.insert(*key, *observed)?;
                }
                for unit in units {
                    log.insert(unit.log.0.as_slice(), unit.log.1.as_slice())?;
                    state.insert(unit.cursor.0.as_slice(), unit.cursor.1.as_slice())?;
                }
                Ok::<(), ConflictableTransactionError<()>>(())
            })
            .map_err(|error| match error {
                TransactionError::Storage(cause) => failed("commit to sled")(cause),
                TransactionError::Abort(()) => failed("commit to sled")("aborted"),
            })?;
        Ok(overwritten)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(failed("flush sled"))?;
        self.data.sync_data().map_err(failed("fdatasync sled's file"))
    }
}

impl Store for SledStore {
    fn fill(&mut self, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), StoreError> {
        for (key, value) in records {
            self.state.insert(key, value).map_err(failed("insert into sled"))?;
        }
        self.flush()
    }

    fn apply(&mut self, group: &[Unit]) -> Result<u64, StoreError> {
        let mut overwritten = 0;
        for units in group.chunks(self.units_a_transaction) {
            overwritten += self.transaction(units)?;
        }
        self.flush()?;
        Ok(overwritten)
    }

    fn logged(&self) -> Result<u64, StoreError> {
        Ok(self.log.len() as u64)
    }
}

// === redb ===

const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
const LOG: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("log-2026-11");

pub(super) struct RedbStore {
    db: Redb,
}

impl RedbStore {
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let db = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create(directory.join("store.redb"))
            .map_err(failed("open redb"))?;
        Ok(Self { db })
    }

    fn begin(&self) -> Result<redb::WriteTransaction, StoreError> {
        let mut transaction = self.db.begin_write().map_err(failed("begin a transaction of redb"))?;
        transaction.set_durability(Durability::Immediate).map_err(failed("make redb durable"))?;
        Ok(transaction)
    }
}

impl Store for RedbStore {
    fn fill(&mut self, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), StoreError> {
        let transaction = self.begin()?;
        {
            let mut state = transaction.open_table(STATE).map_err(failed("open redb's table"))?;
            transaction.open_table(LOG).map_err(failed("open redb's table"))?;
            for (key, value) in &records {
                state.insert(key.as_slice(), value.as_slice()).map_err(failed("insert into redb"))?;
            }
        }
        transaction.commit().map_err(failed("commit to redb"))
    }

    fn apply(&mut self, group: &[Unit]) -> Result<u64, StoreError> {
        let mut overwritten = 0;
        let transaction = self.begin()?;
        {
            let mut state = transaction.open_table(STATE).map_err(failed("open redb's table"))?;
            let mut log = transaction.open_table(LOG).map_err(failed("open redb's table"))?;
            for unit in group {
                for (key, observed) in &unit.hosts {
                    let stored = state.get(key.as_slice()).map_err(failed("read redb"))?;
                    if stored.as_ref().map(|s| s.value()) == Some(observed.as_slice()) {
                        continue;
                    }
                    drop(stored);
                    state.insert(key.as_slice(), observed.as_slice()).map_err(failed("insert into redb"))?;
                    overwritten += 1;
                }
                for (table, (key, value)) in [(&mut log, &unit.log), (&mut state, &unit.cursor)] {
                    table.insert(key.as_slice(), value.as_slice()).map_err(failed("insert into redb"))?;
                }
            }
        }
        transaction.commit().map_err(failed("commit to redb"))?;
        Ok(overwritten)
    }

    fn logged(&self) -> Result<u64, StoreError> {
        let transaction = self.db.begin_read().map_err(failed("read redb"))?;
        let log = transaction.open_table(LOG).map_err(failed("open redb's table"))?;
        log.len().map_err(failed("read redb"))
    }
}

// === fjall ===

pub(super) struct FjallStore {
    db: Fjall,
    state: Keyspace,
    log: Keyspace,
}

impl FjallStore {
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let db = Fjall::builder(directory.join("fjall"))
            .cache_size(CACHE_BYTES as u64)
            .worker_threads(1)
            .open()
            .map_err(failed("open fjall"))?;
        let keyspace = |name| {
            db.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(16 * 1024 * 1024))
                .map_err(failed("open a keyspace of fjall"))
        };
        let (state, log) = (keyspace("state")?, keyspace("log-2026-11")?);
        Ok(Self { db, state, log })
    }
}

impl Store for FjallStore {
    fn fill(&mut self, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), StoreError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in records {
            batch.insert(&self.state, key, value);
        }
        batch.commit().map_err(failed("commit to fjall"))
    }

    fn apply(&mut self, group: &[Unit]) -> Result<u64, StoreError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        // A batch cannot be read before it is committed; later units must see what earlier ones wrote.
        let mut written: HashMap<&[u8], &[u8]> = HashMap::new();
        let mut overwritten = 0;
        for unit in group {
            for (key, observed) in &unit.hosts {
                let same = match written.get(key.as_slice()) {
                    Some(earlier) => *earlier == observed.as_slice(),
                    None => {
                        let stored = self.state.get(key).map_err(failed("read fjall"))?;
                        stored.as_deref() == Some(observed.as_slice())
                    }
                };
                if !same {
                    overwritten += 1;
                    written.insert(key, observed);
                    batch.insert(&self.state, key.as_slice(), observed.as_slice());
                }
            }
            batch.insert(&self.log, unit.log.0.as_slice(), unit.log.1.as_slice());
            batch.insert(&self.state, unit.cursor.0.as_slice(), unit.cursor.1.as_slice());
        }
        batch.commit().map_err(failed("commit to fjall"))?;
        Ok(overwritten)
    }

    fn logged(&self) -> Result<u64, StoreError> {
        self.log.len().map(|n| n as u64).map_err(failed("read fjall"))
    }
}

//! The spool on redb 4: one table in one file, every commit with immediate durability.

use super::{CACHE_BYTES, Spool, SpoolError};
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SPOOL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("spool");

/// How redb commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// Its default: one fsync, checksums tell a torn commit.
    OnePhase,
    /// Two fsyncs, and the allocator's state in each commit.
    QuickRepair,
    /// Nothing is synced.
    Volatile,
}

pub(super) struct RedbSpool {
    db: Database,
    commit: Commit,
    repaired: Arc<AtomicBool>,
}

impl RedbSpool {
    pub(super) fn open(directory: &Path, commit: Commit) -> Result<Self, SpoolError> {
        let repaired = Arc::new(AtomicBool::new(false));
        let flag = repaired.clone();
        let db = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_repair_callback(move |_| flag.store(true, Ordering::Relaxed))
            .create(directory.join("spool.redb"))
            .map_err(|e| SpoolError::new("open redb", &e))?;
        Ok(Self { db, commit, repaired })
    }
}

impl Spool for RedbSpool {
    fn commit(&mut self, records: &[(u64, Vec<u8>)], keep_from: u64) -> Result<(), SpoolError> {
        let durability =
            if self.commit == Commit::Volatile { Durability::None } else { Durability::Immediate };
        let mut transaction =
            self.db.begin_write().map_err(|e| SpoolError::new("begin a transaction of redb", &e))?;
        transaction.set_durability(durability).map_err(|e| SpoolError::new("make redb durable", &e))?;
        transaction.set_quick_repair(self.commit == Commit::QuickRepair);
        {
            let mut table =
                transaction.open_table(SPOOL).map_err(|e| SpoolError::new("open redb's table", &e))?;
            for (sequence, record) in records {
                table
                    .insert(sequence, record.as_slice())
                    .map_err(|e| SpoolError::new("insert into redb", &e))?;
            }
            table.retain_in(..keep_from, |_, _| false).map_err(|e| SpoolError::new("trim redb", &e))?;
        }
        transaction.commit().map_err(|e| SpoolError::new("commit to redb", &e))
    }

    fn read(&self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), SpoolError> {
        let transaction = self.db.begin_read().map_err(|e| SpoolError::new("read redb", &e))?;
        let table = match transaction.open_table(SPOOL) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(e) => return Err(SpoolError::new("open redb's table", &e)),
        };
        for entry in table.iter().map_err(|e| SpoolError::new("read redb", &e))? {
            let (sequence, record) = entry.map_err(|e| SpoolError::new("read redb", &e))?;
            visit(sequence.value(), record.value());
        }
        Ok(())
    }

    fn was_rescued(&self) -> bool {
        self.repaired.load(Ordering::Relaxed)
    }
}

//! The spool on fjall 3: one keyspace, every batch with `PersistMode::SyncAll`.

use super::{CACHE_BYTES, Spool, SpoolError};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;

/// Half of the default 64 MiB would already be more than a satellite has.
const MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;
/// The least that fjall accepts.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

pub(super) struct FjallSpool {
    db: Database,
    records: Keyspace,
    /// Nothing is below; removing is by key.
    floor: u64,
}

impl FjallSpool {
    pub(super) fn open(directory: &Path) -> Result<Self, SpoolError> {
        let db = Database::builder(directory.join("fjall"))
            .cache_size(CACHE_BYTES as u64)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(1)
            .open()
            .map_err(|e| SpoolError::new("open fjall", &e))?;
        let records = db
            .keyspace("spool", || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES))
            .map_err(|e| SpoolError::new("open fjall's keyspace", &e))?;
        let floor = match records.first_key_value() {
            Some(first) => sequence_of(&first.key().map_err(|e| SpoolError::new("read fjall", &e))?),
            None => 0,
        };
        Ok(Self { db, records, floor })
    }
}

impl Spool for FjallSpool {
    fn commit(&mut self, records: &[(u64, Vec<u8>)], keep_from: u64) -> Result<(), SpoolError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for (sequence, record) in records {
            batch.insert(&self.records, sequence.to_be_bytes(), record.as_slice());
        }
        if keep_from > self.floor {
            let below = self.records.range(self.floor.to_be_bytes()..keep_from.to_be_bytes());
            for found in below {
                batch.remove(&self.records, found.key().map_err(|e| SpoolError::new("read fjall", &e))?);
            }
        }
        batch.commit().map_err(|e| SpoolError::new("commit to fjall", &e))?;
        self.floor = self.floor.max(keep_from);
        Ok(())
    }

    fn read(&self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), SpoolError> {
        for entry in self.records.iter() {
            let (key, record) = entry.into_inner().map_err(|e| SpoolError::new("read fjall", &e))?;
            visit(sequence_of(&key), &record);
        }
        Ok(())
    }

    fn was_rescued(&self) -> bool {
        false
    }
}

fn sequence_of(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

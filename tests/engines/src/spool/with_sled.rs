//! The spool on sled 0.34: records in chunks of at most 8 KB, since larger values leak blob files.

use super::{CACHE_BYTES, Spool, SpoolError};
use std::fs::{self, File};
use std::path::Path;

const CHUNK: usize = 8_000;

pub(super) struct SledSpool {
    db: sled::Db,
    tree: sled::Tree,
    data: File,
    rescued: bool,
    /// Nothing is below; without it every trim would walk the empty nodes that sled keeps.
    floor: u64,
}

impl SledSpool {
    pub(super) fn open(directory: &Path) -> Result<Self, SpoolError> {
        let rescued = remove_unfinished_snapshots(directory)?;
        let db = sled::Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES as u64)
            .flush_every_ms(None)
            .open()
            .map_err(|e| SpoolError::new("open sled", &e))?;
        let tree = db.open_tree("spool").map_err(|e| SpoolError::new("open sled's tree", &e))?;
        let data = File::open(directory.join("db")).map_err(|e| SpoolError::new("open sled's file", &e))?;
        let first = tree.first().map_err(|e| SpoolError::new("read sled", &e))?;
        let floor = first.map_or(0, |(key, _)| sequence_of(&key));
        Ok(Self { db, tree, data, rescued, floor })
    }
}

impl Spool for SledSpool {
    fn commit(&mut self, records: &[(u64, Vec<u8>)], keep_from: u64) -> Result<(), SpoolError> {
        let mut batch = sled::Batch::default();
        for (sequence, record) in records {
            for (number, chunk) in record.chunks(CHUNK).enumerate() {
                batch.insert(key(*sequence, number as u16).as_slice(), chunk);
            }
        }
        if keep_from > self.floor {
            for found in self.tree.range(key(self.floor, 0)..key(keep_from, 0)).keys() {
                batch.remove(found.map_err(|e| SpoolError::new("read sled", &e))?);
            }
        }
        self.tree.apply_batch(batch).map_err(|e| SpoolError::new("apply a batch to sled", &e))?;
        self.db.flush().map_err(|e| SpoolError::new("flush sled", &e))?;
        self.data.sync_data().map_err(|e| SpoolError::new("fdatasync sled's file", &e))?;
        self.floor = self.floor.max(keep_from);
        Ok(())
    }

    fn read(&self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), SpoolError> {
        let mut open: Option<(u64, Vec<u8>)> = None;
        for entry in &self.tree {
            let (key, chunk) = entry.map_err(|e| SpoolError::new("read sled", &e))?;
            let sequence = sequence_of(&key);
            match &mut open {
                Some((current, record)) if *current == sequence => record.extend(chunk.as_ref()),
                _ => {
                    if let Some((done, record)) = open.replace((sequence, chunk.to_vec())) {
                        visit(done, &record);
                    }
                }
            }
        }
        if let Some((done, record)) = open {
            visit(done, &record);
        }
        Ok(())
    }

    fn was_rescued(&self) -> bool {
        self.rescued
    }
}

fn key(sequence: u64, chunk: u16) -> Vec<u8> {
    [sequence.to_be_bytes().as_slice(), &chunk.to_be_bytes()].concat()
}

fn sequence_of(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// A process that died while sled wrote a snapshot leaves `snap.*.generating`, and sled then refuses to open.
pub(crate) fn remove_unfinished_snapshots(directory: &Path) -> Result<bool, SpoolError> {
    let failed = |e: std::io::Error| SpoolError::new("remove an unfinished snapshot", &e);
    let mut found = false;
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path()).map_err(failed)?;
            found = true;
        }
    }
    Ok(found)
}

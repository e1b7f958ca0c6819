//! A spool over each of the engines: the least that a satellite's spool needs, written as each engine's manual asks.

mod with_fjall;
mod with_redb;
mod with_sled;

use clap::ValueEnum;
use std::path::Path;
use with_redb::Commit;
pub(crate) use with_sled::remove_unfinished_snapshots;

/// Page cache of every engine: a satellite has 20 MB in all when idle.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// What is on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// sled 0.34: chunks of at most 8 KB, leftovers of snapshots removed before opening, flush and fdatasync.
    Sled,
    /// redb 4 with immediate durability.
    Redb,
    /// redb 4 with immediate durability and quick repair: two-phase commit, the allocator's state in each commit.
    RedbQuick,
    /// fjall 3 with `PersistMode::SyncAll`.
    Fjall,
    /// redb 4 without durability: must lose what it acknowledged, or the trial notices nothing.
    Control,
}

impl Engine {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
            Self::RedbQuick => "redb-quick",
            Self::Fjall => "fjall",
            Self::Control => "control",
        }
    }

    /// Opens the spool in a directory, or makes it.
    ///
    /// # Errors
    /// What the engine says.
    pub fn open(self, directory: &Path) -> Result<Box<dyn Spool>, SpoolError> {
        std::fs::create_dir_all(directory).map_err(|e| SpoolError::new("make the directory", &e))?;
        Ok(match self {
            Self::Sled => Box::new(with_sled::SledSpool::open(directory)?),
            Self::Redb => Box::new(with_redb::RedbSpool::open(directory, Commit::OnePhase)?),
            Self::RedbQuick => Box::new(with_redb::RedbSpool::open(directory, Commit::QuickRepair)?),
            Self::Control => Box::new(with_redb::RedbSpool::open(directory, Commit::Volatile)?),
            Self::Fjall => Box::new(with_fjall::FjallSpool::open(directory)?),
        })
    }
}

/// An engine's error in words; trials count them, nothing is done about them.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {reason}")]
pub struct SpoolError {
    doing: &'static str,
    reason: String,
}

impl SpoolError {
    fn new(doing: &'static str, reason: &dyn std::fmt::Display) -> Self {
        Self { doing, reason: reason.to_string().replace('\n', " ") }
    }
}

/// Records by sequence.
pub trait Spool {
    /// Adds records and removes those below `keep_from`, all in one atomic commit; durable once it returns.
    fn commit(&mut self, records: &[(u64, Vec<u8>)], keep_from: u64) -> Result<(), SpoolError>;

    /// Reads everything in the order of sequences.
    fn read(&self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), SpoolError>;

    /// Whether opening found that something had to be put right first: sled's leftover snapshots, redb's repair.
    fn was_rescued(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Census, of_the_mix};

    /// An engine may let go of its lock only a moment after it was dropped, when the machine is busy.
    fn reopen(engine: Engine, directory: &Path) -> Box<dyn Spool> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match engine.open(directory) {
                Ok(spool) => return spool,
                Err(error) if std::time::Instant::now() > deadline => panic!("{}: {error}", engine.name()),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
    }

    /// The engines differ in speed and failure, never in what a spool is.
    #[test]
    fn every_engine_keeps_what_was_committed_and_trims_the_rest() {
        for engine in Engine::value_variants() {
            let directory = tempfile::tempdir().unwrap();
            let mut spool = engine.open(directory.path()).unwrap();
            let records: Vec<_> = (1..=40).map(of_the_mix).collect();
            spool.commit(&records, 0).unwrap();
            spool.commit(&[of_the_mix(41)], 12).unwrap();
            spool.commit(&[], 15).unwrap();
            drop(spool);

            let mut census = Census::default();
            let spool = reopen(*engine, directory.path());
            spool.read(&mut |sequence, bytes| census.add(sequence, bytes)).unwrap();
            let found = (census.first, census.last, census.count, census.wrong);
            assert_eq!(found, (15, 41, 27, 0), "{}", engine.name());
            assert!(!spool.was_rescued(), "{} was closed cleanly", engine.name());
        }
    }

    #[test]
    fn what_sled_leaves_of_a_snapshot_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        drop(Engine::Sled.open(directory.path()).unwrap());
        let leftover = directory.path().join("snap.00000000000000FF.generating");
        std::fs::write(&leftover, "half").unwrap();
        assert!(reopen(Engine::Sled, directory.path()).was_rescued());
        assert!(!leftover.exists());
    }
}

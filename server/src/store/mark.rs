//! The high-water mark: the number of the last commit that was answered, kept in a file beside the store. A store that
//! comes back with fewer commits than its mark lost something that was acknowledged, which sled does not notice.
//!
//! It is written after the store is durable and is not synchronised itself: after a power cut it may lag behind the
//! store, never run ahead of it.

use super::StoreError;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Two places, written in turn: a torn write spoils one of them.
const SLOTS: u64 = 2;
/// Apart by more than a disk writes at once.
const SLOT_BYTES: u64 = 4096;
const MAGIC: &[u8; 8] = b"ptlmark1";
/// Magic, commit, CRC-32C over both.
const LENGTH: usize = 20;

/// See the module.
pub(super) struct Mark {
    file: File,
    path: PathBuf,
}

/// What a mark file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// There is none.
    Absent,
    /// The highest number in it that is intact.
    Commit(u64),
    /// Nothing in it is intact.
    Damaged,
}

/// Where the mark of a store is.
pub(super) fn path_of(store: &Path) -> PathBuf {
    store.with_file_name("high-water")
}

/// Reads the mark of a store.
pub(super) fn read(store: &Path) -> Result<Reading, StoreError> {
    let path = path_of(store);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Reading::Absent),
        Err(cause) => return Err(StoreError::Directory { path, cause }),
    };
    let commits = (0..SLOTS).filter_map(|slot| {
        let mut bytes = [0; LENGTH];
        file.read_exact_at(&mut bytes, slot * SLOT_BYTES).ok()?;
        decode(&bytes)
    });
    Ok(commits.max().map_or(Reading::Damaged, Reading::Commit))
}

impl Mark {
    /// Opens the mark for writing; makes it where there is none.
    pub(super) fn open(store: &Path) -> Result<Self, StoreError> {
        let path = path_of(store);
        match OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(cause) => Err(StoreError::Directory { path, cause }),
        }
    }

    /// Notes a commit that is durable in the store.
    pub(super) fn advance(&self, commit: u64) -> Result<(), StoreError> {
        let written = self.file.write_all_at(&encode(commit), (commit % SLOTS) * SLOT_BYTES);
        written.map_err(|cause| StoreError::Directory { path: self.path.clone(), cause })
    }

    /// Forgets what was noted, and notes this one instead: for a store that was restored or repaired.
    pub(super) fn reset(&self, commit: u64) -> Result<(), StoreError> {
        for slot in 0..SLOTS {
            let written = self.file.write_all_at(&encode(commit), slot * SLOT_BYTES);
            written.map_err(|cause| StoreError::Directory { path: self.path.clone(), cause })?;
        }
        self.file.sync_all().map_err(|cause| StoreError::Directory { path: self.path.clone(), cause })
    }
}

fn encode(commit: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&commit.to_be_bytes());
    let checksum = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; LENGTH]) -> Option<u64> {
    let commit = bytes[8..16].try_into().ok().map(u64::from_be_bytes)?;
    (*bytes == encode(commit)).then_some(commit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_intact_number_counts() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        assert_eq!(read(&store).unwrap(), Reading::Absent);
        let mark = Mark::open(&store).unwrap();
        assert_eq!(read(&store).unwrap(), Reading::Damaged, "made, and nothing in it yet");
        for commit in 1..=7 {
            mark.advance(commit).unwrap();
            assert_eq!(read(&store).unwrap(), Reading::Commit(commit));
        }
        let mut bytes = std::fs::read(path_of(&store)).unwrap();
        let at = usize::try_from(SLOT_BYTES).unwrap() + 9;
        bytes[at] ^= 4;
        std::fs::write(path_of(&store), &bytes).unwrap();
        assert_eq!(read(&store).unwrap(), Reading::Commit(6), "7 is spoiled, 6 is not");
        bytes[10] ^= 1;
        std::fs::write(path_of(&store), &bytes).unwrap();
        assert_eq!(read(&store).unwrap(), Reading::Damaged);
        Mark::open(&store).unwrap().reset(3).unwrap();
        assert_eq!(read(&store).unwrap(), Reading::Commit(3));
    }
}

//! Room on the store's file system: below the watermark nothing is ingested, so that the engine never meets a full
//! disk of its own making; and a ballast file that is given up when somebody else fills the disk all the same, so that
//! the engine can be opened again and what must be written (a revocation) still is.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The engine is not opened on a full disk before this much is free.
const ROOM_TO_OPEN: u64 = 4 * 1024 * 1024;
/// The ballast is this part of the watermark.
const BALLAST_SHARE: u64 = 4;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Space {
    directory: PathBuf,
    ballast: PathBuf,
    /// Bytes that must be free for observations to be taken.
    pub watermark: u64,
}

impl Space {
    pub(super) fn new(store: &Path, watermark: u64) -> Self {
        Self { directory: store.to_owned(), ballast: store.with_file_name("ballast"), watermark }
    }

    /// Bytes free for this user. A file system that does not say is taken to have room.
    pub(super) fn free(&self) -> u64 {
        match statvfs(&self.directory) {
            Ok(facts) => facts.blocks_available().saturating_mul(facts.fragment_size()),
            Err(_) => u64::MAX,
        }
    }

    /// Whether the engine can be opened: it writes a little when it is.
    pub(super) fn has_room_to_open(&self) -> bool {
        self.free() >= ROOM_TO_OPEN
    }

    fn ballast_bytes(&self) -> u64 {
        self.watermark / BALLAST_SHARE
    }

    /// Lays the ballast where there is none and enough room for it.
    pub(super) fn lay_ballast(&self) {
        let bytes = self.ballast_bytes();
        if bytes == 0 || self.ballast.exists() || self.free() < self.watermark.saturating_add(bytes) {
            return;
        }
        if let Err(error) = self.write_ballast(bytes) {
            tracing::warn!(%error, path = %self.ballast.display(), "cannot lay the ballast file");
            self.drop_ballast();
        }
    }

    fn write_ballast(&self, bytes: u64) -> io::Result<()> {
        let file = File::create(&self.ballast)?;
        let length = i64::try_from(bytes).map_err(io::Error::other)?;
        // Blocks that are really there; a hole would hold no place.
        Ok(fallocate(&file, FallocateFlags::empty(), 0, length)?)
    }

    /// Gives the ballast's room up; says whether there was one.
    pub(super) fn drop_ballast(&self) -> bool {
        fs::remove_file(&self.ballast).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballast_holds_a_place_until_it_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        fs::create_dir(&store).unwrap();
        let space = Space::new(&store, 4 * 1024 * 1024);
        assert!(space.free() > space.watermark);
        space.lay_ballast();
        assert_eq!(fs::metadata(dir.path().join("ballast")).unwrap().len(), 1024 * 1024);
        assert!(space.drop_ballast() && !space.drop_ballast());
        let greedy = Space::new(&store, u64::MAX / 2);
        greedy.lay_ballast();
        assert!(greedy.free() < greedy.watermark && !dir.path().join("ballast").exists(), "no room for it");
    }
}

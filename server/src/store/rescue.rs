//! A copy of the store's files, taken before sled opens them: opening a damaged log rewrites it, and what a person
//! could still save would be gone.

use super::StoreError;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Beyond this a copy would hold up every start; such a store has backups.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// A finished copy. It stands only while a start is under way, so one that is found was left by a start that died.
const COPY: &str = ".before-open";
/// A copy in the making.
const UNFINISHED: &str = ".before-open.tmp";

/// The copy; removed by [`Rescue::discard`], put back by [`Rescue::restore`].
pub(super) struct Rescue {
    store: PathBuf,
}

impl Rescue {
    /// Copies the files, unless they are too large. A finished copy of an earlier start is put back first: that start
    /// died while sled was at work on the files.
    pub(super) fn take(store: &Path) -> Result<Option<Self>, StoreError> {
        let rescue = Self { store: store.to_owned() };
        let failed = |cause| StoreError::Directory { path: store.to_owned(), cause };
        if rescue.copy().exists() {
            tracing::warn!(path = %store.display(), "an earlier start died while it opened the store; its files are put back");
            rescue.put_back().map_err(failed)?;
            return Ok(Some(rescue));
        }
        match rescue.copy_files() {
            Ok(copied) => Ok(copied.then_some(rescue)),
            // A full disk must not keep a server down that would run on it.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::debug!(path = %store.display(), "no room for a copy of the store's files while it is opened");
                let _ = fs::remove_dir_all(store.join(UNFINISHED));
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn copy(&self) -> PathBuf {
        self.store.join(COPY)
    }

    fn copy_files(&self) -> io::Result<bool> {
        let unfinished = self.store.join(UNFINISHED);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let files = files_of(&self.store)?;
        let mut total = 0;
        for file in &files {
            total += self.store.join(file).metadata()?.len();
        }
        if total > MAX_BYTES {
            return Ok(false);
        }
        fs::create_dir(&unfinished)?;
        copy_all(&self.store, &files, &unfinished)?;
        fs::rename(&unfinished, self.copy())?;
        File::open(&self.store)?.sync_all()?;
        Ok(true)
    }

    /// The store opened.
    pub(super) fn discard(self) {
        // Away with the name first: half a copy must never be found under it.
        let gone = fs::rename(self.copy(), self.store.join(UNFINISHED))
            .and_then(|()| fs::remove_dir_all(self.store.join(UNFINISHED)));
        if let Err(error) = gone {
            tracing::warn!(%error, path = %self.copy().display(), "cannot remove a copy that is no longer needed");
        }
    }

    /// The store did not open: everything as it was.
    pub(super) fn restore(self) -> io::Result<()> {
        self.put_back()?;
        self.discard();
        Ok(())
    }

    /// The copy stays until it is discarded, so that dying here loses nothing.
    fn put_back(&self) -> io::Result<()> {
        let kept = files_of(&self.copy())?;
        copy_all(&self.copy(), &kept, &self.store)?;
        for file in files_of(&self.store)? {
            if !kept.contains(&file) {
                fs::remove_file(self.store.join(file))?;
            }
        }
        Ok(())
    }
}

/// Copies files to the same places below another directory, durably.
fn copy_all(from: &Path, files: &[PathBuf], to: &Path) -> io::Result<()> {
    for file in files {
        let target = to.join(file);
        if let Some(directory) = target.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::copy(from.join(file), &target)?;
        File::open(&target)?.sync_all()?;
    }
    File::open(to)?.sync_all()
}

/// Makes everything below a directory durable, names and all.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    for file in files_of(directory)? {
        let file = directory.join(file);
        File::open(&file)?.sync_all()?;
        if let Some(parent) = file.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    File::open(directory)?.sync_all()
}

/// The files below a directory, as paths from there; copies that a start makes are none of them.
pub(super) fn files_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(below) = waiting.pop() {
        for entry in fs::read_dir(directory.join(&below))? {
            let entry = entry?;
            let (kind, name) = (entry.file_type()?, entry.file_name());
            if kind.is_file() {
                files.push(below.join(name));
            } else if kind.is_dir() && name != COPY && name != UNFINISHED {
                waiting.push(below.join(name));
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_died_half_way_is_undone_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("db"), "good").unwrap();
        assert!(Rescue::take(dir.path()).unwrap().is_some());
        fs::write(dir.path().join("db"), "mangled").unwrap();
        fs::write(dir.path().join("snap.1"), "new").unwrap();
        let again = Rescue::take(dir.path()).unwrap().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("db")).unwrap(), "good");
        assert!(!dir.path().join("snap.1").exists());
        again.discard();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

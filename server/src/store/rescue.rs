//! A copy of the store's files, taken before sled opens them: opening a damaged log rewrites it, and what a person
//! could still save would be gone.

use super::StoreError;
use std::io;
use std::path::{Path, PathBuf};

/// Beyond this a copy would hold up every start; such a store has backups.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The copy; removed by [`Rescue::discard`], put back by [`Rescue::restore`].
pub(super) struct Rescue {
    store: PathBuf,
    copy: PathBuf,
}

impl Rescue {
    /// Copies the files, unless they are too large. A copy that a killed start left behind was never needed.
    pub(super) fn take(store: &Path) -> Result<Option<Self>, StoreError> {
        let rescue = Self { store: store.to_owned(), copy: store.join(".before-open") };
        rescue.copy_files().map_err(|source| StoreError::Directory { path: store.to_owned(), source })
    }

    fn copy_files(self) -> io::Result<Option<Self>> {
        let files = files_of(&self.store)?;
        let mut total = 0;
        for file in &files {
            total += file.metadata()?.len();
        }
        if self.copy.exists() {
            std::fs::remove_dir_all(&self.copy)?;
        }
        if total > MAX_BYTES {
            return Ok(None);
        }
        std::fs::create_dir(&self.copy)?;
        for file in files {
            if let Some(name) = file.file_name() {
                std::fs::copy(&file, self.copy.join(name))?;
            }
        }
        Ok(Some(self))
    }

    /// The store opened.
    pub(super) fn discard(self) {
        if let Err(error) = std::fs::remove_dir_all(&self.copy) {
            tracing::warn!(%error, path = %self.copy.display(), "cannot remove a copy that is no longer needed");
        }
    }

    /// The store did not open: everything as it was. Says whether that worked.
    pub(super) fn restore(self) -> bool {
        let put_back = || {
            for file in files_of(&self.store)? {
                std::fs::remove_file(file)?;
            }
            for file in files_of(&self.copy)? {
                if let Some(name) = file.file_name() {
                    std::fs::rename(&file, self.store.join(name))?;
                }
            }
            std::fs::remove_dir_all(&self.copy)
        };
        put_back().is_ok()
    }
}

fn files_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

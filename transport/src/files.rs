//! Private files: 0600 in directories of 0700, replaced whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A file operation that failed: what, on which path, why. The cause is part of the words, so it is no `source`: whoever
/// prints a chain of sources would say it twice.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {cause}", path.display())]
pub struct FileError {
    /// What was attempted, as a verb.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    pub cause: io::Error,
}

impl FileError {
    /// For `map_err`.
    pub fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self { action, path, cause }
    }
}

/// Makes a directory with its parents; those that are made are 0700, those that stand stay as they are.
///
/// # Errors
/// [`FileError`] with the path.
pub fn create_private_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(FileError::on("create the directory", path))
}

/// Replaces a file by new content, atomically and durably: temporary file beside it, fsync, rename, fsync of the
/// directory. The file is 0600 from its first byte.
///
/// # Errors
/// [`FileError`] with the path; the old file then still stands.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Random, since in a container every process may have the number that a leftover carries.
    let mut random = [0; 8];
    let _ = aws_lc_rs::rand::fill(&mut random);
    let temporary = directory.join(format!(".{name}.{:016x}.tmp", u64::from_ne_bytes(random)));
    let written = (|| {
        // `create_new` neither follows a symbolic link nor takes over somebody's file.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(FileError::on("write", path))
}

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
/// [`FileError`] with the path; also when the file is larger or no UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    let no_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8");
    String::from_utf8(read(path, limit)?).map_err(no_text).map_err(FileError::on("read", path))
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// [`FileError`] with the path; also when the file is larger.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    use std::io::Read as _;
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
        }
        Ok(bytes)
    };
    read().map_err(FileError::on("read", path))
}

/// Whether others than the owner may read the file; a key that they can read is no secret.
///
/// # Errors
/// [`FileError`] with the path.
pub fn is_exposed(path: &Path) -> Result<bool, FileError> {
    let metadata = fs::metadata(path).map_err(FileError::on("examine", path))?;
    Ok(metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        create_private_dir(&inner).unwrap();
        assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
        let file = inner.join("key");
        write_private(&file, b"one").unwrap();
        write_private(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!is_exposed(&file).unwrap());
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 1, "no temporary file stays behind");
    }

    #[test]
    fn an_error_names_the_path() {
        let error = write_private(Path::new("/nonexistent/x"), b"").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x"), "{error}");
    }
}

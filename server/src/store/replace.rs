//! A store that was built anew takes the place of another one, which is kept.

use super::dump::Builder;
use super::engine::{Check, Engine};
use super::{DumpError, Store, StoreError, mark, rescue, sums::Sums};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

impl Store {
    /// Makes a store of a dump that was checked, and opens it once to see that it works. Nothing must stand at `path`.
    /// `stop` is asked now and then.
    ///
    /// # Errors
    /// [`DumpError`]; then something unfinished stands there.
    pub fn restore(path: &Path, dump: &Path, stop: &dyn Fn() -> bool) -> Result<Sums, DumpError> {
        let mut builder = Builder::start(path)?;
        let sums = builder.put_dump(dump, stop)?;
        let sums = builder.finish(sums.commit, Some(&sums))?;
        Self::prove(path)?;
        Ok(sums)
    }

    /// Opens a new store once to see that it works, and makes all of it durable.
    ///
    /// # Errors
    /// When it does not open.
    pub(super) fn prove(path: &Path) -> Result<(), StoreError> {
        drop(Engine::open(path, Check::Start)?);
        rescue::sync(path).map_err(|cause| StoreError::Directory { path: path.to_owned(), cause })
    }

    /// Puts a finished store with its mark into the place of the one at `path`, which is kept as `store.WHY-TIME`, with
    /// its mark. Returns where that is, if there was one.
    ///
    /// # Errors
    /// When a file cannot be moved.
    pub fn replace(
        path: &Path,
        new: &Path,
        why: &str,
        now: Timestamp,
    ) -> Result<Option<PathBuf>, StoreError> {
        let failed = |cause| StoreError::Directory { path: path.to_owned(), cause };
        let replaced = if path.exists() {
            let kept = free_name(path, why, now);
            let marked = mark::path_of(path);
            if marked.exists() {
                fs::copy(&marked, kept_mark(&kept)).map_err(failed)?;
            }
            exchange(path, new).map_err(failed)?;
            fs::rename(new, &kept).map_err(failed)?;
            Some(kept)
        } else {
            fs::rename(new, path).map_err(failed)?;
            None
        };
        fs::rename(mark::path_of(new), mark::path_of(path)).map_err(failed)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(replaced)
    }
}

fn kept_mark(kept: &Path) -> PathBuf {
    let mut name = kept.as_os_str().to_owned();
    name.push(".high-water");
    PathBuf::from(name)
}

/// At no moment is there no store.
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => Ok(()),
        // A file system that cannot: two steps then.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => {
            let mut between = b.as_os_str().to_owned();
            between.push(".old");
            fs::rename(a, &between)?;
            fs::rename(b, a)?;
            fs::rename(&between, b)
        }
        Err(error) => Err(error.into()),
    }
}

fn free_name(path: &Path, why: &str, now: Timestamp) -> PathBuf {
    let time = now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut kept = path.with_file_name(format!("{name}.{why}-{time}"));
    let mut number = 2;
    while kept.exists() {
        kept = path.with_file_name(format!("{name}.{why}-{time}-{number}"));
        number += 1;
    }
    kept
}

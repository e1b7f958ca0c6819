//! What the spool's file lies on: a directory, or in tests a disk in memory that fails on purpose.

use nix::sys::statvfs::statvfs;
use portolan_transport::files;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Damaged files that are kept for whoever wants to know what happened.
const KEPT_ASIDE: usize = 2;

/// Bytes that can be read and written anywhere, as a file's.
pub trait Blocks: Debug + Send + Sync + 'static {
    /// How long it is.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn len(&self) -> io::Result<u64>;

    /// Whether it holds nothing.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads all of `out`.
    ///
    /// # Errors
    /// When there is less, or the medium fails.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data`.
    ///
    /// # Errors
    /// When there is no room, or the medium fails.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Cuts or extends with zeros.
    ///
    /// # Errors
    /// When there is no room, or the medium fails.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns once all that was written would survive a power cut.
    ///
    /// # Errors
    /// When the medium fails: then nobody knows what of it would.
    fn sync(&self) -> io::Result<()>;
}

/// Where a spool keeps its one file.
pub trait Medium: Debug + Send + Sync + 'static {
    /// The file; `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    fn open(&self) -> io::Result<Option<Box<dyn Blocks>>>;

    /// An empty file under another name, to be filled before [`Medium::install`].
    ///
    /// # Errors
    /// When it cannot be made.
    fn create(&self) -> io::Result<Box<dyn Blocks>>;

    /// Gives the created file its name, durably.
    ///
    /// # Errors
    /// When it cannot be renamed.
    fn install(&self) -> io::Result<()>;

    /// Moves the file out of the way; says where to.
    ///
    /// # Errors
    /// When it cannot be renamed.
    fn set_aside(&self, unix_seconds: i64) -> io::Result<String>;

    /// What the file takes up.
    fn bytes(&self) -> u64;

    /// What is left for ordinary users; `None` when nobody knows.
    fn free(&self) -> Option<u64>;
}

/// `spool.redb` in a directory of its own.
#[derive(Debug)]
pub struct SpoolDir(PathBuf);

impl SpoolDir {
    /// Names the directory; touches nothing.
    pub fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    fn file(&self) -> PathBuf {
        self.0.join("spool.redb")
    }

    fn unfinished(&self) -> PathBuf {
        self.0.join("spool.redb.new")
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn forget_old(&self) -> io::Result<()> {
        let mut aside: Vec<PathBuf> = fs::read_dir(&self.0)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("spool.redb.damaged-"))
            })
            .collect();
        // Unix seconds have as many digits for the next centuries.
        aside.sort();
        for path in aside.iter().rev().skip(KEPT_ASIDE) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

impl Medium for SpoolDir {
    fn open(&self) -> io::Result<Option<Box<dyn Blocks>>> {
        match OpenOptions::new().read(true).write(true).open(self.file()) {
            Ok(file) => {
                // A copy that somebody made may be open to all.
                if file.metadata()?.mode() & 0o077 != 0 {
                    file.set_permissions(fs::Permissions::from_mode(0o600))?;
                }
                Ok(Some(Box::new(OnDisk(file))))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self) -> io::Result<Box<dyn Blocks>> {
        files::create_private_dir(&self.0).map_err(io::Error::other)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.unfinished())?;
        Ok(Box::new(OnDisk(file)))
    }

    fn install(&self) -> io::Result<()> {
        fs::rename(self.unfinished(), self.file())?;
        self.sync_directory()
    }

    fn set_aside(&self, unix_seconds: i64) -> io::Result<String> {
        let aside = self.0.join(format!("spool.redb.damaged-{unix_seconds}"));
        fs::rename(self.file(), &aside)?;
        self.forget_old()?;
        self.sync_directory()?;
        Ok(aside.display().to_string())
    }

    fn bytes(&self) -> u64 {
        // The file has holes: what counts is what it takes from the others.
        fs::metadata(self.file()).map_or(0, |metadata| metadata.blocks() * 512)
    }

    fn free(&self) -> Option<u64> {
        let place = if self.0.exists() { self.0.as_path() } else { self.0.parent()? };
        let facts = statvfs(place).ok()?;
        Some(facts.blocks_available().saturating_mul(facts.fragment_size()))
    }
}

#[derive(Debug)]
struct OnDisk(File);

impl Blocks for OnDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_its_name_when_it_is_whole_and_few_damaged_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let medium = SpoolDir::new(&dir.path().join("spool"));
        assert!(medium.free().is_some());
        assert!(medium.open().unwrap().is_none());
        for time in 1..=4 {
            let blocks = medium.create().unwrap();
            blocks.write(0, b"some").unwrap();
            assert!(medium.open().unwrap().is_none(), "not installed yet");
            medium.install().unwrap();
            let mut read = [0; 4];
            medium.open().unwrap().unwrap().read(0, &mut read).unwrap();
            assert_eq!(&read, b"some");
            medium.set_aside(1_800_000_000 + time).unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(dir.path().join("spool")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["spool.redb.damaged-1800000003", "spool.redb.damaged-1800000004"]);
        let mode = fs::metadata(dir.path().join("spool").join(&names[0])).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

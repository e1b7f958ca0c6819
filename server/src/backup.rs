//! `backup` and `restore`: everything that makes a server that server, in one file, made while it runs or while it does
//! not; and back into a data directory.

mod brought;

use crate::control::{self, ControlError};
use crate::data_dir::{DataDir, DataDirError, Making, Work};
use crate::pki::PkiError;
use crate::pki::authority::Authority;
use crate::pki::server_certificate;
use crate::revocations::{self, Journal};
use crate::store::{self, Contents, DumpError, Part, Store, StoreError};
use brought::Brought;
use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use portolan_common::ids::DeploymentId;
use portolan_transport::files::{self, FileError};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, PipeWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// A backup or restore that failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(StoreError),
    /// A certificate or key does not fit: a backup of it would be of no use.
    #[error("{error}; see `portolan-server doctor`")]
    Broken {
        /// What is wrong with which file.
        error: PkiError,
    },
    /// The running server cannot be asked.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The backup's file is there already.
    #[error("{} exists already and was left untouched: choose another name, or overwrite it with --force", .0.display())]
    Exists(PathBuf),
    /// Not a file that a backup may take the place of.
    #[error("{} is no regular file: name a file, or `-` for the standard output", .0.display())]
    NoFile(PathBuf),
    /// The backup could not be made.
    #[error("{0}")]
    NotMade(DumpError),
    /// It would be in its own way.
    #[error(
        "{} is inside the data directory {}: a backup there goes with what it is to save, and may overwrite it; name a \
         file elsewhere, best on another machine",
        path.display(), data.display()
    )]
    Inside {
        /// The file.
        path: PathBuf,
        /// The data directory.
        data: PathBuf,
    },
    /// Its files do not fit together.
    #[error("{} cannot be restored: in it, {error}; nothing was touched", path.display())]
    Unfit {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        error: String,
    },
    /// What was written would not restore.
    #[error("what was written does not fit together ({0}); see `portolan-server doctor`")]
    NotWhole(String),
    /// What was written is not what should have been.
    #[error("what was written to {} does not read back ({error}); it was removed, nothing was backed up", path.display())]
    NotReadBack {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        error: DumpError,
    },
    /// The file is no backup that can be restored.
    #[error("{} cannot be restored: {error}; nothing was touched", path.display())]
    Unusable {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        error: DumpError,
    },
    /// It failed half-way; what it was to replace still stands.
    #[error("restoring {} failed: {error}", path.display())]
    NotRestored {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        error: DumpError,
    },
    /// It holds the store alone.
    #[error(
        "{} is an export: it holds the store without certificates and keys; put it into the server that it comes from \
         with --store-only",
        .0.display()
    )]
    StoreOnly(PathBuf),
    /// There is a server.
    #[error(
        "{} already holds a Portolan server and was left untouched: restore into a new directory, or put only the store \
         back with --store-only",
        .0.display()
    )]
    Occupied(PathBuf),
    /// There is something else.
    #[error("{} is not empty and holds no Portolan server: choose an empty or new directory", .0.display())]
    NotEmpty(PathBuf),
    /// It belongs to another server.
    #[error("{} is of deployment {theirs}, and {} holds deployment {ours}: nothing was touched", path.display(), data.display())]
    Foreign {
        /// The backup.
        path: PathBuf,
        /// The directory.
        data: PathBuf,
        /// Whose backup it is.
        theirs: DeploymentId,
        /// Whose directory it is.
        ours: DeploymentId,
    },
    /// Ctrl-C.
    #[error("interrupted; nothing was kept")]
    Interrupted,
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.plainly())
    }
}

/// A backup that was made.
#[derive(Debug)]
pub struct Made {
    /// What is in it.
    pub contents: Contents,
    /// A server was running.
    pub while_running: bool,
}

/// Makes a backup of a data directory in `file`, or on the standard output where there is none; read back before it
/// counts. Blocking, until it is done or `stop` is cancelled.
///
/// # Errors
/// [`BackupError`]; then there is no file.
pub fn backup(
    data: &DataDir,
    file: Option<&Path>,
    force: bool,
    runtime: &tokio::runtime::Runtime,
    stop: &CancellationToken,
) -> Result<Made, BackupError> {
    match try_backup(data, file, force, runtime, stop) {
        Err(_) if stop.is_cancelled() => Err(BackupError::Interrupted),
        made => made,
    }
}

fn try_backup(
    data: &DataDir,
    file: Option<&Path>,
    force: bool,
    runtime: &tokio::runtime::Runtime,
    stop: &CancellationToken,
) -> Result<Made, BackupError> {
    let (deployment, _) = data.deployment()?;
    if let Some(path) = file.filter(|path| is_inside(path, data)) {
        return Err(BackupError::Inside { path: path.to_owned(), data: data.path().to_owned() });
    }
    check_certificates(data, deployment).map_err(|error| BackupError::Broken { error })?;
    let Some(path) = file else {
        // Looked at as it passes: it cannot be read a second time.
        let (reader, copy) = io::pipe().map_err(|error| BackupError::NotMade(DumpError::Write(error)))?;
        let reading = std::thread::spawn(move || store::check_stream(reader));
        let mut out = Tee { out: io::stdout().lock(), copy: Some(copy) };
        let while_running = write(data, deployment, &mut out, runtime, stop)?;
        drop(out);
        let read = reading.join().unwrap_or_else(|_| Err(DumpError::Incomplete));
        return Ok(Made { contents: read.map_err(BackupError::NotMade)?, while_running });
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(BackupError::NoFile(path.to_owned())),
        Ok(_) if !force => return Err(BackupError::Exists(path.to_owned())),
        _ => {}
    }
    let mut unfinished = Unfinished::create(path)?;
    let while_running = {
        let mut out = BufWriter::with_capacity(256 * 1024, &mut unfinished.file);
        let running = write(data, deployment, &mut out, runtime, stop)?;
        out.flush().map_err(FileError::on("write", path))?;
        running
    };
    unfinished.file.sync_all().map_err(FileError::on("write", path))?;
    let read = File::open(&unfinished.path).map_err(FileError::on("read", &unfinished.path))?;
    let contents = match store::check(Stoppable { inner: read, stop }) {
        Ok(contents) => contents,
        Err(DumpError::GivenUp(why)) => return Err(BackupError::NotMade(DumpError::GivenUp(why))),
        Err(error) => return Err(BackupError::NotReadBack { path: path.to_owned(), error }),
    };
    let brought = Brought::read(&unfinished.path, stop).map_err(BackupError::NotMade)?;
    let fits =
        brought.check(contents.deployment).and_then(|()| brought.check_server_key(contents.deployment));
    fits.map_err(BackupError::NotWhole)?;
    if stop.is_cancelled() {
        return Err(BackupError::Interrupted);
    }
    unfinished.publish(path, force)?;
    Ok(Made { contents, while_running })
}

/// Writes the backup; says whether a server was running.
fn write(
    data: &DataDir,
    deployment: DeploymentId,
    out: &mut impl Write,
    runtime: &tokio::runtime::Runtime,
    stop: &CancellationToken,
) -> Result<bool, BackupError> {
    match data.lock_for(Work::Backup) {
        Ok(_lock) => {
            let store = Store::open(&data.store(), 0)?;
            let about = control::about(data, deployment, Timestamp::now())?;
            let made = store.dump(&about, out, &|| stop.is_cancelled());
            store.close();
            match made {
                Ok(_) => Ok(false),
                Err(_) if stop.is_cancelled() => Err(BackupError::Interrupted),
                Err(error) => Err(BackupError::NotMade(error)),
            }
        }
        Err(DataDirError::Locked { work: Work::Server, .. }) => {
            let asked = runtime.block_on(stop.run_until_cancelled(control::fetch_backup(data, out)));
            match asked {
                None => Err(BackupError::Interrupted),
                Some(Ok(answer)) => Ok(answer.map(|()| true)?),
                Some(Err(error)) => Err(BackupError::NotMade(DumpError::Write(error))),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Looks at the certificate authority and the server's key as `doctor` does.
fn check_certificates(data: &DataDir, deployment: DeploymentId) -> Result<(), PkiError> {
    let authority = Authority::load(&data.ca(), deployment)?;
    authority.check_root_key(&data.ca())?;
    if data.server_identity().exists() {
        server_certificate::load(&data.server_identity(), &authority)?;
    }
    Ok(())
}

/// Whether a file would stand in the data directory, by its name or by where that leads.
fn is_inside(path: &Path, data: &DataDir) -> bool {
    let Ok(own) = fs::metadata(data.path()) else { return false };
    let named = std::path::absolute(path).ok();
    let directory = named.as_deref().and_then(Path::parent).and_then(|parent| parent.canonicalize().ok());
    let leads_to = path.canonicalize().ok();
    [named, directory, leads_to].iter().flatten().flat_map(|path| path.ancestors()).any(|ancestor| {
        fs::metadata(ancestor).is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()))
    })
}

/// A file that reads until it is told to stop.
struct Stoppable<'a> {
    inner: File,
    stop: &'a CancellationToken,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        self.inner.read(bytes)
    }
}

impl Seek for Stoppable<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Writes to two places; when the second has gone, to the first alone.
struct Tee<W> {
    out: W,
    copy: Option<PipeWriter>,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        if let Some(copy) = &mut self.copy
            && copy.write_all(bytes).is_err()
        {
            self.copy = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A file in the making beside the one that it becomes; gone unless it is published.
pub(crate) struct Unfinished {
    /// Open for reading and writing.
    pub file: File,
    /// Where it is.
    pub path: PathBuf,
}

impl Unfinished {
    /// Makes it, for its owner alone.
    pub(crate) fn create(path: &Path) -> Result<Self, FileError> {
        let mut random = [0; 8];
        let _ = aws_lc_rs::rand::fill(&mut random);
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".tmp-{:016x}", u64::from_ne_bytes(random)));
        let unfinished = PathBuf::from(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&unfinished);
        let file = file.map_err(FileError::on("create", &unfinished))?;
        Ok(Self { file, path: unfinished })
    }

    /// Gives it its name, durably.
    pub(crate) fn publish(self, path: &Path, replace: bool) -> Result<(), FileError> {
        let named = if replace { fs::rename(&self.path, path) } else { rename_to_free(&self.path, path) };
        let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        named.and_then(|()| File::open(directory)?.sync_all()).map_err(FileError::on("write", path))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes nobody's place: somebody may have been quicker.
fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // A file system that does not know how.
        Err(Errno::EINVAL | Errno::ENOSYS) if !to.exists() => fs::rename(from, to),
        Err(Errno::EINVAL | Errno::ENOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        renamed => Ok(renamed?),
    }
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// What was in the backup.
    pub contents: Contents,
    /// Where the store went that was replaced.
    pub replaced: Option<PathBuf>,
    /// A journal of revocations stood there before, so that later ones hold.
    pub had_revocations: bool,
    /// Why the server's own certificate was left out, which the server then makes anew.
    pub without_certificate: Option<String>,
}

/// Puts a backup into a data directory that holds no server; with `store_only`, its store into the server that it comes
/// from.
///
/// # Errors
/// [`BackupError`]; nothing is touched unless the backup is whole, adds up, and its certificates and keys fit.
pub fn restore(
    file: &Path,
    data: &DataDir,
    store_only: bool,
    now: Timestamp,
    stop: &CancellationToken,
) -> Result<Restored, BackupError> {
    match try_restore(file, data, store_only, now, stop) {
        Err(_) if stop.is_cancelled() => Err(BackupError::Interrupted),
        restored => restored,
    }
}

fn try_restore(
    file: &Path,
    data: &DataDir,
    store_only: bool,
    now: Timestamp,
    stop: &CancellationToken,
) -> Result<Restored, BackupError> {
    let unusable = |error| BackupError::Unusable { path: file.to_owned(), error };
    let inner = File::open(file).map_err(FileError::on("read", file))?;
    let contents = store::check(Stoppable { inner, stop }).map_err(unusable)?;
    if store_only {
        return restore_store(file, data, contents, now, stop);
    }
    if !contents.files.contains_key("deployment.toml") {
        return Err(BackupError::StoreOnly(file.to_owned()));
    }
    if let Some(unknown) = contents.files.keys().find(|name| !is_known(name)) {
        return Err(unusable(DumpError::Newer(format!("it has a file `{}`", unknown.escape_debug()))));
    }
    let mut brought = Brought::read(file, stop).map_err(unusable)?;
    brought
        .check(contents.deployment)
        .map_err(|error| BackupError::Unfit { path: file.to_owned(), error })?;
    let without_certificate = brought.check_server_key(contents.deployment).err();
    if without_certificate.is_some() {
        brought.0.remove("server.pem");
    }
    refuse_what_is_there(data)?;
    let is_new = !data.path().exists();
    files::create_private_dir(data.path())?;
    let entries = fs::read_dir(data.path()).map_err(FileError::on("read", data.path()))?;
    if entries.filter_map(Result::ok).any(|entry| !is_leftover(&entry.file_name().to_string_lossy())) {
        return Err(BackupError::NotEmpty(data.path().to_owned()));
    }
    let _lock = data.lock_for(Work::Restore)?;
    // Somebody may have been quicker.
    refuse_what_is_there(data)?;
    let had_revocations = data.revocations().exists();
    match fill(file, data, brought, stop) {
        Ok(()) => Ok(Restored { contents, replaced: None, had_revocations, without_certificate }),
        Err(_) if stop.is_cancelled() => {
            empty(data, is_new);
            Err(BackupError::Interrupted)
        }
        Err(error) => Err(error),
    }
}

/// A server, whole or not, is never overwritten: only what died half-way is.
fn refuse_what_is_there(data: &DataDir) -> Result<(), BackupError> {
    use DataDirError::{Damaged, HalfInitialised, HalfRestored, NotInitialised};
    match data.deployment() {
        Err(NotInitialised(_) | HalfInitialised(_) | HalfRestored(_)) => Ok(()),
        Ok(_) | Err(Damaged { .. }) => Err(BackupError::Occupied(data.path().to_owned())),
        Err(error) => Err(error.into()),
    }
}

/// Writes everything that a backup brings. Its deployment comes first, as a marker, and gets its name at the very end.
fn fill(
    file: &Path,
    data: &DataDir,
    mut brought: Brought,
    stop: &CancellationToken,
) -> Result<(), BackupError> {
    let deployment = brought.0.remove("deployment.toml").unwrap_or_default();
    files::write_private(&data.marker(Making::Restore), &deployment)?;
    for directory in [data.ca(), data.store()] {
        if directory.exists() {
            fs::remove_dir_all(&directory).map_err(FileError::on("remove the leftover", &directory))?;
        }
    }
    for leftover in [data.server_identity(), data.marker(Making::Init)] {
        if leftover.exists() {
            fs::remove_file(&leftover).map_err(FileError::on("remove the leftover", &leftover))?;
        }
    }
    let not_restored = |error| BackupError::NotRestored { path: file.to_owned(), error };
    Store::restore(&data.store(), file, &|| stop.is_cancelled()).map_err(not_restored)?;
    files::create_private_dir(&data.ca())?;
    let revoked = brought.0.remove(revocations::FILE);
    for (name, content) in brought.0 {
        files::write_private(&data.path().join(name), &content)?;
    }
    if stop.is_cancelled() {
        return Err(BackupError::Interrupted);
    }
    if let Some(content) = revoked {
        // Somebody may have put there what the old directory had.
        let journal = Journal::at(data.revocations());
        journal.merge(&revocations::parse(&String::from_utf8_lossy(&content)))?;
    }
    Ok(data.finish(Making::Restore)?)
}

/// Takes away what an interrupted restore wrote; the marker last.
fn empty(data: &DataDir, is_new: bool) {
    let marker = data.marker(Making::Restore);
    for directory in [data.ca(), data.store()] {
        let _ = fs::remove_dir_all(directory);
    }
    for file in [data.server_identity(), data.path().join("high-water"), marker] {
        let _ = fs::remove_file(file);
    }
    if is_new {
        let _ = fs::remove_file(data.path().join("lock"));
        let _ = fs::remove_dir(data.path());
    }
}

/// The files that a backup may bring.
fn is_known(name: &str) -> bool {
    let plain = |name: &str| {
        !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    matches!(name, "deployment.toml" | "server.pem" | revocations::FILE)
        || name.strip_prefix("ca/").is_some_and(plain)
}

/// What a restore that died half-way leaves behind.
fn is_leftover(name: &str) -> bool {
    matches!(name, "ca" | "store" | "lock" | "server.pem" | "high-water" | "ballast" | revocations::FILE)
        || matches!(name, "deployment.toml.restore" | "deployment.toml.init")
        || name.ends_with(".tmp")
}

fn restore_store(
    file: &Path,
    data: &DataDir,
    contents: Contents,
    now: Timestamp,
    stop: &CancellationToken,
) -> Result<Restored, BackupError> {
    let (ours, _) = data.deployment()?;
    if ours != contents.deployment {
        let (path, data) = (file.to_owned(), data.path().to_owned());
        return Err(BackupError::Foreign { path, data, theirs: contents.deployment, ours });
    }
    let _lock = data.lock_for(Work::Restore)?;
    let had_revocations = data.revocations().exists();
    let work = data.path().join("restore.tmp");
    fresh_directory(&work)?;
    let replaced = replace_store(file, data, &work, now, stop);
    let removed = fs::remove_dir_all(&work).map_err(FileError::on("remove", &work));
    let replaced = replaced?;
    removed?;
    Ok(Restored { contents, replaced, had_revocations, without_certificate: None })
}

fn replace_store(
    file: &Path,
    data: &DataDir,
    work: &Path,
    now: Timestamp,
    stop: &CancellationToken,
) -> Result<Option<PathBuf>, BackupError> {
    let not_restored = |error| BackupError::NotRestored { path: file.to_owned(), error };
    let mut journal = Vec::new();
    Store::restore(&work.join("store"), file, &|| stop.is_cancelled()).map_err(not_restored)?;
    store::read(file, |part| {
        if let Part::File { path, content } = part
            && path == revocations::FILE
        {
            journal.extend(content);
        }
        Ok(())
    })
    .map_err(not_restored)?;
    if stop.is_cancelled() {
        return Err(BackupError::Interrupted);
    }
    // Whoever was revoked in either stays so.
    Journal::at(data.revocations()).merge(&revocations::parse(&String::from_utf8_lossy(&journal)))?;
    Ok(Store::replace(&data.store(), &work.join("store"), "replaced", now)?)
}

/// An empty private directory in the place of whatever was left there.
pub(crate) fn fresh_directory(path: &Path) -> Result<(), FileError> {
    if path.exists() {
        fs::remove_dir_all(path).map_err(FileError::on("remove the leftover", path))?;
    }
    files::create_private_dir(path)
}

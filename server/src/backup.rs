//! `backup` and `restore`: everything that makes a server that server, in one file, made while it runs or while it does
//! not; and back into a data directory.

use crate::control::{self, ControlError};
use crate::data_dir::{DataDir, DataDirError};
use crate::pki::PkiError;
use crate::pki::authority::Authority;
use crate::pki::server_certificate;
use crate::revocations::{self, Journal};
use crate::store::{self, Contents, DumpError, Part, Store, StoreError};
use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use portolan_common::ids::DeploymentId;
use portolan_transport::files::{self, FileError};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, PipeWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// What `deployment.toml` has at most.
const MAX_DEPLOYMENT_BYTES: usize = 1024 * 1024;

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
    Store(#[from] StoreError),
    /// A certificate or key does not fit.
    #[error(transparent)]
    Pki(#[from] PkiError),
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
    #[error("the backup was not made: {0}")]
    NotMade(#[source] DumpError),
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
    let (deployment, _) = data.deployment()?;
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
    let contents = match store::check(read) {
        Ok(contents) => contents,
        Err(DumpError::GivenUp(why)) => return Err(BackupError::NotMade(DumpError::GivenUp(why))),
        Err(error) => return Err(BackupError::NotReadBack { path: path.to_owned(), error }),
    };
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
    match data.lock() {
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
        Err(DataDirError::Locked { .. }) => {
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
}

/// Puts a backup into a data directory that holds no server; with `store_only`, its store into the server that it comes
/// from.
///
/// # Errors
/// [`BackupError`]; nothing is touched unless the backup is whole and adds up.
pub fn restore(
    file: &Path,
    data: &DataDir,
    store_only: bool,
    now: Timestamp,
) -> Result<Restored, BackupError> {
    let unusable = |error| BackupError::Unusable { path: file.to_owned(), error };
    let contents = store::check(File::open(file).map_err(FileError::on("read", file))?).map_err(unusable)?;
    if store_only {
        return restore_store(file, data, contents, now);
    }
    if !contents.files.contains_key("deployment.toml") {
        return Err(BackupError::StoreOnly(file.to_owned()));
    }
    if let Some(unknown) = contents.files.keys().find(|name| !is_known(name)) {
        return Err(unusable(DumpError::Newer(format!("it has a file `{}`", unknown.escape_debug()))));
    }
    if data.deployment_file().exists() {
        return Err(BackupError::Occupied(data.path().to_owned()));
    }
    files::create_private_dir(data.path())?;
    let entries = fs::read_dir(data.path()).map_err(FileError::on("read", data.path()))?;
    if entries.filter_map(Result::ok).any(|entry| !is_leftover(&entry.file_name().to_string_lossy())) {
        return Err(BackupError::NotEmpty(data.path().to_owned()));
    }
    let _lock = data.lock()?;
    for directory in [data.ca(), data.store()] {
        if directory.exists() {
            fs::remove_dir_all(&directory).map_err(FileError::on("remove the leftover", &directory))?;
        }
    }
    let not_restored = |error| BackupError::NotRestored { path: file.to_owned(), error };
    Store::restore(&data.store(), file).map_err(not_restored)?;
    // Last, so that a directory with it is whole.
    let deployment = restore_files(file, data)?;
    let authority = Authority::load(&data.ca(), contents.deployment)?;
    if data.server_identity().exists() {
        server_certificate::load(&data.server_identity(), &authority)?;
    }
    files::write_private(&data.deployment_file(), &deployment)?;
    data.deployment()?;
    Ok(Restored { contents, replaced: None })
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
        || name.ends_with(".tmp")
}

/// Writes every file but `deployment.toml`, which it returns.
fn restore_files(file: &Path, data: &DataDir) -> Result<Vec<u8>, BackupError> {
    files::create_private_dir(&data.ca())?;
    let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    store::read(file, |part| {
        if let Part::File { path, content } = part {
            all.entry(path).or_default().extend(content);
        }
        Ok(())
    })
    .map_err(|error| BackupError::NotRestored { path: file.to_owned(), error })?;
    let deployment = all.remove("deployment.toml").unwrap_or_default();
    if deployment.len() > MAX_DEPLOYMENT_BYTES {
        let error = DumpError::Damaged("its deployment.toml is too large".into());
        return Err(BackupError::NotRestored { path: file.to_owned(), error });
    }
    if let Some(content) = all.remove(revocations::FILE) {
        // Somebody may have put there what the old directory had.
        let journal = Journal::at(data.revocations());
        journal.merge(&revocations::parse(&String::from_utf8_lossy(&content)))?;
    }
    for (name, content) in all {
        files::write_private(&data.path().join(name), &content)?;
    }
    Ok(deployment)
}

fn restore_store(
    file: &Path,
    data: &DataDir,
    contents: Contents,
    now: Timestamp,
) -> Result<Restored, BackupError> {
    let (ours, _) = data.deployment()?;
    if ours != contents.deployment {
        let (path, data) = (file.to_owned(), data.path().to_owned());
        return Err(BackupError::Foreign { path, data, theirs: contents.deployment, ours });
    }
    let _lock = data.lock()?;
    let not_restored = |error| BackupError::NotRestored { path: file.to_owned(), error };
    let mut journal = Vec::new();
    let work = data.path().join("restore.tmp");
    fresh_directory(&work)?;
    Store::restore(&work.join("store"), file).map_err(not_restored)?;
    store::read(file, |part| {
        if let Part::File { path, content } = part
            && path == revocations::FILE
        {
            journal.extend(content);
        }
        Ok(())
    })
    .map_err(not_restored)?;
    // Whoever was revoked in either stays so.
    Journal::at(data.revocations()).merge(&revocations::parse(&String::from_utf8_lossy(&journal)))?;
    let replaced = Store::replace(&data.store(), &work.join("store"), "replaced", now)?;
    fs::remove_dir_all(&work).map_err(FileError::on("remove", &work))?;
    Ok(Restored { contents, replaced })
}

/// An empty private directory in the place of whatever was left there.
pub(crate) fn fresh_directory(path: &Path) -> Result<(), FileError> {
    if path.exists() {
        fs::remove_dir_all(path).map_err(FileError::on("remove the leftover", path))?;
    }
    files::create_private_dir(path)
}

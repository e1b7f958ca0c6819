//! A dump: all that the store holds, as one stream, written while the server goes on writing. Entries are read as they
//! stand at the moment; whatever is written meanwhile is kept aside, and follows them. Laid over one another in this
//! order they are exactly the store as it was when the dump ended.
//!
//! Every record's checksum is looked at on the way, so a dump is also a look over the whole store. Whoever takes the
//! stream may be slow: what is written meanwhile goes to a file, and no satellite waits for it.

mod build;
mod check;
mod frames;

pub(super) use build::Builder;
pub use check::{Contents, check};

use super::engine::Trees;
use super::sums::{self, Sums};
use super::view::{TreeWrites, Writes};
use super::{SCHEMA, Store, StoreError, keys, record};
use frames::{Change, Changes, FORMAT, FilePart, Frame, FrameWriter, Header, next_of_part, write_frame};
use jiff::Timestamp;
use portolan_common::ids::DeploymentId;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{PoisonError, TryLockError};
use std::thread::JoinHandle;

/// Bytes of entries in a frame; the largest entry has some 10 KiB. Tests have small stores and want many frames.
const FRAME_BYTES: usize = if cfg!(test) { 2 * 1024 } else { 128 * 1024 };
/// Bytes of a file in a frame.
const FILE_BYTES: usize = 256 * 1024;
/// Groups of writes that wait to be put aside.
const WAITING: usize = 16;
/// What may be written while a dump is made; beyond it the dump is given up, not the server's disk.
const MAX_ASIDE: u64 = 4 * 1024 * 1024 * 1024;

/// A dump that cannot be made, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(std::io::Error),
    /// Whoever took it does not take more.
    #[error("it cannot be written: {0}")]
    Write(std::io::Error),
    /// Something else.
    #[error("it is no backup or export of a Portolan server")]
    Foreign,
    /// It ends before its end.
    #[error("it is incomplete: whatever made it was interrupted, or the file was cut off")]
    Incomplete,
    /// Its bytes are not what was written.
    #[error("it is damaged ({0})")]
    Damaged(String),
    /// Entries are missing, or too many.
    #[error("it does not add up: `{tree}` should have {expected} entries and has {found}, or other ones")]
    Sums {
        /// Which tree.
        tree: String,
        /// Entries that it should have.
        expected: u64,
        /// Entries that it has.
        found: u64,
    },
    /// A later version made it.
    #[error("it was made by a later version ({0}): update portolan-server")]
    Newer(String),
    /// The server that made it says why it did not finish.
    #[error("the server gave it up: {0}")]
    GivenUp(String),
    /// One is being made.
    #[error("another backup or export is being made; try again when it is done")]
    Busy,
    /// The store has a damaged record.
    #[error("the store is damaged: {0}; stop the server and run `portolan-server doctor`")]
    Store(String),
    /// The store failed meanwhile, or did not keep up with what was written.
    #[error("the store was opened again meanwhile, or what was written meanwhile could not be put aside{0}")]
    Lost(String),
    /// The server is shutting down, or whoever asked has gone.
    #[error("it was given up half-way")]
    Cancelled,
    /// The store cannot be used.
    #[error(transparent)]
    Unusable(StoreError),
}

impl From<StoreError> for DumpError {
    fn from(error: StoreError) -> Self {
        Self::Unusable(error.plainly())
    }
}

/// What a dump is made of besides the store.
pub struct About {
    /// Whose store it is.
    pub deployment: DeploymentId,
    /// Now.
    pub created_at: Timestamp,
    /// Files to take along, with the names that they have in the data directory; none for an export.
    pub files: Vec<(String, PathBuf)>,
}

impl Store {
    /// The number of the last commit and the sums, right now. Blocking.
    ///
    /// # Errors
    /// When the store is closing.
    pub fn sums(&self) -> Result<Sums, StoreError> {
        self.writer.sums()?.blocking_recv().map_err(|_| StoreError::Closed)
    }

    /// Writes a dump to `out`; returns its sums. Blocking, for as long as `out` takes it; `cancelled` is asked now and
    /// then.
    ///
    /// # Errors
    /// [`DumpError`]; what was written until then ends with a frame that says so, as far as `out` takes it.
    pub fn dump(
        &self,
        about: &About,
        out: impl Write,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Sums, DumpError> {
        let _one = match self.dumping.try_lock() {
            Ok(one) => one,
            Err(TryLockError::WouldBlock) => return Err(DumpError::Busy),
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
        };
        let header = Header {
            format: FORMAT,
            deployment: about.deployment.0.as_bytes().to_vec(),
            created_at_ms: about.created_at.as_millisecond(),
            full: !about.files.is_empty(),
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut writer = FrameWriter::start(out, header).map_err(DumpError::Write)?;
        match self.dump_into(&mut writer, about, cancelled) {
            Ok(sums) => {
                writer.finish(sums.encode()).map_err(DumpError::Write)?;
                Ok(sums)
            }
            Err(error) => {
                // Whoever reads should know; if it does not take that either, it knows anyway.
                let _ = writer.fail(&error.to_string());
                Err(error)
            }
        }
    }

    fn dump_into<W: Write>(
        &self,
        writer: &mut FrameWriter<W>,
        about: &About,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Sums, DumpError> {
        for (name, path) in &about.files {
            write_file(writer, name, path)?;
        }
        let trees = self.trees()?;
        let mut aside = Aside::start(trees.path())?;
        let began = self.writer.tap(aside.tap())?.blocking_recv().map_err(|_| StoreError::Closed)?;
        let written = (|| {
            for tree in began.trees.keys().map(String::as_str) {
                write_tree(writer, &trees, tree, &|| cancelled() || aside.is_over())?;
            }
            Ok(())
        })();
        // Readers hold the files; the store can only be opened again when all have let go.
        drop(trees);
        let ended = self.writer.untap()?.blocking_recv().map_err(|_| StoreError::Closed)?;
        let put_aside = aside.end();
        match (written, ended, put_aside) {
            (Err(error), Some(_), _) => Err(error),
            // Damage explains itself better than what followed from it.
            (Err(error @ DumpError::Store(_)), ..) => Err(error),
            (_, _, Err(error)) => Err(DumpError::Lost(format!(": {error}"))),
            (_, None, Ok(_)) => Err(DumpError::Lost(String::new())),
            (Ok(()), Some(sums), Ok(file)) => {
                append(writer, file, cancelled)?;
                Ok(sums)
            }
        }
    }
}

/// Where the last dump of a store ended, read from its trailer alone: good enough to see that nothing changed since.
pub fn sums_of(path: &Path) -> Option<Sums> {
    let trailer = frames::read_trailer(&mut File::open(path).ok()?).ok()?;
    Sums::decode(&trailer.sums).ok()
}

/// Reads a dump as it comes and says what is in it, without adding it up: for what cannot be read twice.
///
/// # Errors
/// [`DumpError`] when it is not whole.
pub fn check_stream(input: impl std::io::Read) -> Result<Contents, DumpError> {
    check::check_frames(input)
}

/// Everything of a dump in order: files, then entries, then what was written meanwhile.
///
/// # Errors
/// [`DumpError`] when it is not whole, or what `each` says.
pub fn read(path: &Path, mut each: impl FnMut(Part) -> Result<(), StoreError>) -> Result<Sums, DumpError> {
    let file = BufReader::with_capacity(256 * 1024, File::open(path).map_err(DumpError::Read)?);
    let (mut reader, _) = frames::FrameReader::start(file)?;
    while let Some(frame) = reader.next()? {
        match frame {
            Frame::File(part) => each(Part::File { path: part.path, content: part.content })?,
            Frame::Entries(changes) | Frame::Redo(changes) => {
                let changes_of_tree = changes.changes.into_iter().map(|change| (change.key, change.value));
                each(Part::Changes(changes.tree, changes_of_tree.collect()))?;
            }
            Frame::Drop(tree) => each(Part::Drop(tree))?,
            Frame::Trailer(trailer) => {
                return Sums::decode(&trailer.sums)
                    .map_err(|_| DumpError::Damaged("its trailer does not parse".into()));
            }
            Frame::Header(_) | Frame::Failed(_) => {}
        }
    }
    Err(DumpError::Incomplete)
}

/// What a dump is made of, for whoever puts it to use.
pub enum Part {
    /// A piece of a file of the data directory; pieces of one file come in their order.
    File {
        /// Below the data directory.
        path: String,
        /// The next bytes of it.
        content: Vec<u8>,
    },
    /// Changes of a tree.
    Changes(String, TreeWrites),
    /// A tree that is no more.
    Drop(String),
}

fn write_file<W: Write>(writer: &mut FrameWriter<W>, name: &str, path: &Path) -> Result<(), DumpError> {
    let failed = |cause| StoreError::Directory { path: path.to_owned(), cause };
    let mut file = File::open(path).map_err(failed)?;
    let mut offset = 0;
    loop {
        let mut content = Vec::new();
        (&mut file).take(FILE_BYTES as u64).read_to_end(&mut content).map_err(failed)?;
        // An empty file is one, too.
        if content.is_empty() && offset > 0 {
            return Ok(());
        }
        let length = content.len() as u64;
        let part = FilePart { path: name.to_owned(), offset, content };
        writer.write(&Frame::File(part)).map_err(DumpError::Write)?;
        if length == 0 {
            return Ok(());
        }
        offset += length;
    }
}

fn write_tree<W: Write>(
    writer: &mut FrameWriter<W>,
    trees: &Trees,
    name: &str,
    stop: &dyn Fn() -> bool,
) -> Result<(), DumpError> {
    let mut frame = Changes { tree: name.to_owned(), changes: Vec::new() };
    let mut bytes = 0;
    let mut last = Vec::new();
    let mut failed = None;
    // sled panics on some kinds of damage.
    let read = catch_unwind(AssertUnwindSafe(|| {
        trees.each(name, |key, value| {
            let is_record = name != sums::STATE || key != keys::SCHEMA;
            if is_record && !record::is_intact(value) {
                failed = Some(DumpError::Store(format!("a record of `{name}`, key {}", shown(key))));
                return Err(StoreError::Crashed);
            }
            last = key.to_vec();
            bytes += key.len() + value.len() + 16;
            frame.changes.push(Change { key: key.to_vec(), value: Some(value.to_vec()) });
            if bytes >= FRAME_BYTES {
                let full = Changes { tree: name.to_owned(), changes: std::mem::take(&mut frame.changes) };
                bytes = 0;
                if stop() {
                    failed = Some(DumpError::Cancelled);
                } else if let Err(error) = writer.write(&Frame::Entries(full)) {
                    failed = Some(DumpError::Write(error));
                }
            }
            if failed.is_some() { Err(StoreError::Crashed) } else { Ok(()) }
        })
    }));
    if let Some(error) = failed {
        return Err(error);
    }
    match read {
        Ok(Ok(())) => {}
        // Retention dropped it meanwhile; that follows.
        Ok(Err(_)) | Err(_) if name != sums::STATE && !trees.log_names().iter().any(|log| log == name) => {}
        Ok(Err(error)) => {
            return Err(DumpError::Store(format!(
                "`{name}` after key {}: {}",
                shown(&last),
                error.plainly()
            )));
        }
        Err(_) => {
            return Err(DumpError::Store(format!(
                "the engine gave up in `{name}` after key {}",
                shown(&last)
            )));
        }
    }
    if frame.changes.is_empty() {
        return Ok(());
    }
    writer.write(&Frame::Entries(frame)).map_err(DumpError::Write)
}

/// A key for a message.
pub(super) fn shown(key: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(key.get(..64).unwrap_or(key))
}

fn append<W: Write>(
    writer: &mut FrameWriter<W>,
    mut file: File,
    cancelled: &dyn Fn() -> bool,
) -> Result<(), DumpError> {
    let length = file.metadata().map_err(DumpError::Read)?.len();
    file.seek(SeekFrom::Start(0)).map_err(DumpError::Read)?;
    let mut file = BufReader::with_capacity(256 * 1024, file);
    while file.stream_position().map_err(DumpError::Read)? < length {
        if cancelled() {
            return Err(DumpError::Cancelled);
        }
        writer.write(&next_of_part(&mut file)?).map_err(DumpError::Write)?;
    }
    Ok(())
}

/// What is written while a dump is made: a thread takes it from the writer and puts it into a file without a name.
struct Aside {
    tap: Option<std::sync::mpsc::SyncSender<Writes>>,
    thread: JoinHandle<std::io::Result<File>>,
}

impl Aside {
    fn start(store: &Path) -> Result<Self, StoreError> {
        let path = store.with_file_name("dump.aside.tmp");
        let failed = |cause| StoreError::Directory { path: path.clone(), cause };
        // A leftover of a server that died in the moment between the two.
        let _ = fs::remove_file(&path);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(failed)?;
        fs::remove_file(&path).map_err(failed)?;
        let (tap, taken) = sync_channel(WAITING);
        let thread =
            std::thread::Builder::new().name("dump-aside".into()).spawn(move || put_aside(&taken, file));
        Ok(Self { tap: Some(tap), thread: thread.map_err(failed)? })
    }

    /// The writer's end; once.
    fn tap(&mut self) -> std::sync::mpsc::SyncSender<Writes> {
        // A second one would be without its other end, and end the dump.
        self.tap.take().unwrap_or_else(|| sync_channel(0).0)
    }

    /// The writer gave it up, or the file cannot be written.
    fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// After the writer let go of its end: the file.
    fn end(self) -> std::io::Result<File> {
        drop(self.tap);
        self.thread.join().unwrap_or_else(|_| Err(std::io::Error::other("it ended by a panic")))
    }
}

fn put_aside(taken: &Receiver<Writes>, file: File) -> std::io::Result<File> {
    let mut out = BufWriter::with_capacity(256 * 1024, file);
    let mut length = 0;
    while let Ok(writes) = taken.recv() {
        let state = (sums::STATE.to_owned(), writes.state);
        for (tree, changes) in std::iter::once(state).chain(writes.logs) {
            for frame in redo_frames(&tree, changes) {
                length += write_frame(&mut out, &Frame::Redo(frame))?;
            }
        }
        for tree in writes.drops {
            length += write_frame(&mut out, &Frame::Drop(tree))?;
        }
        if length > MAX_ASIDE {
            return Err(std::io::Error::other(format!("more than {MAX_ASIDE} bytes were written meanwhile")));
        }
    }
    out.into_inner().map_err(std::io::IntoInnerError::into_error)
}

fn redo_frames(tree: &str, writes: TreeWrites) -> Vec<Changes> {
    let mut frames = Vec::new();
    let mut bytes = FRAME_BYTES;
    for (key, value) in writes {
        if bytes >= FRAME_BYTES {
            frames.push(Changes { tree: tree.to_owned(), changes: Vec::new() });
            bytes = 0;
        }
        bytes += key.len() + value.as_ref().map_or(0, Vec::len) + 16;
        if let Some(frame) = frames.last_mut() {
            frame.changes.push(Change { key, value });
        }
    }
    frames
}

#[cfg(test)]
mod tests;

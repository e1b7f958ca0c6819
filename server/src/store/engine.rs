//! sled, in the shape that this store needs: opened and checked, written in whole groups, closed and opened again.
//!
//! Two kinds of trees, few of them: `state`, overwritten in place, and a log a month, dropped whole.

use super::mark::{self, Mark, Reading};
use super::sums::{self, Sum, Sums};
use super::view::{Entries, TreeWrites, View, Writes};
use super::{SCHEMA, StoreError, keys, upgrade};
use jiff::Timestamp;
use sled::Transactional as _;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Page cache; the working set is the current state of the hosts being swept.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// A store up to this size is checked whole before it is used; of a larger one the older months are checked later.
const CHECKED_AT_OPEN: u64 = 256 * 1024 * 1024;

/// How long sled's lock is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// sled's handles. Whoever reads takes a clone for as long as it reads, no longer: the files can only be opened again
/// when all are gone.
pub(super) struct Trees {
    db: sled::Db,
    pub state: sled::Tree,
    path: PathBuf,
}

/// The one that writes: the trees, their sums, and what makes them durable.
pub(super) struct Engine {
    pub trees: Arc<Trees>,
    pub sums: Sums,
    data: DataFile,
    mark: Mark,
}

/// How thoroughly a store is checked when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Its format, its age, and its sums as far as that is quick.
    Start,
    /// Only that it did not go back: it was open a moment ago.
    Again,
}

impl Engine {
    /// Makes an empty store.
    pub(super) fn create(path: &Path) -> Result<(), StoreError> {
        let trees = Trees::open(path)?;
        let mut sums = Sums::default();
        trees.start(&mut sums)?;
        trees.db.flush()?;
        DataFile::open(path)?.sync()?;
        Mark::open(path)?.reset(sums.commit)
    }

    /// Opens what [`Engine::create`] made. sled panics on some kinds of damage; that must be a message, not a crash.
    pub(super) fn open(path: &Path, check: Check) -> Result<Self, StoreError> {
        catch_unwind(AssertUnwindSafe(|| Self::open_unguarded(path, check)))
            .unwrap_or_else(|_| Err(damaged(path, "the engine gave up while reading it")))
    }

    fn open_unguarded(path: &Path, check: Check) -> Result<Self, StoreError> {
        let trees = match check {
            Check::Start => Trees::open_patiently(path)?,
            // Whoever opens it again comes back anyway.
            Check::Again => Trees::open(path)?,
        };
        let found = trees.format()?;
        if found > SCHEMA {
            return Err(StoreError::Newer { path: path.to_owned(), found });
        }
        if found < SCHEMA {
            // First, so that a start that dies after the upgrade does not find the mark missing.
            Mark::open(path)?.reset(0)?;
            upgrade::upgrade(&trees, found)?;
            trees.db.flush()?;
            DataFile::open(path)?.sync()?;
            let sums = trees.sums()?;
            Mark::open(path)?.reset(sums.commit)?;
            tracing::info!(from = found, to = SCHEMA, "the store's format was brought up to date");
        }
        let sums = trees.sums()?;
        match mark::read(path)? {
            Reading::Commit(marked) if marked <= sums.commit => {}
            Reading::Commit(marked) => {
                return Err(StoreError::WentBack { path: path.to_owned(), has: sums.commit, marked });
            }
            Reading::Absent => return Err(damaged(path, "its high-water mark is gone")),
            Reading::Damaged => return Err(damaged(path, "its high-water mark cannot be read")),
        }
        trees.finish_drops(&sums)?;
        if check == Check::Start {
            trees.verify_at_open(&sums)?;
        }
        let mark = Mark::open(path)?;
        // Also mends a slot that was torn or flipped.
        mark.reset(sums.commit)?;
        Ok(Self { trees: Arc::new(trees), sums, data: DataFile::open(path)?, mark })
    }

    /// Ends what a [`super::dump::Builder`] began: adds it up, compares it with what it should be, makes it durable.
    pub(super) fn finish_new(trees: Trees, commit: u64, expected: Option<&Sums>) -> Result<Sums, StoreError> {
        let mut sums = Sums { commit, ..Sums::default() };
        for name in trees.log_names().into_iter().chain([sums::STATE.to_owned()]) {
            let sum = sums.trees.entry(name.clone()).or_default();
            trees.each(&name, |key, value| {
                sum.add(key, value);
                Ok(())
            })?;
        }
        if let Some(expected) = expected {
            for name in sums.trees.keys().chain(expected.trees.keys()) {
                trees.verify(name, expected)?;
            }
        }
        trees.state.insert(keys::SUMS, sums.encode())?;
        trees.db.flush()?;
        DataFile::open(&trees.path)?.sync()?;
        Mark::open(&trees.path)?.reset(commit)?;
        Ok(sums)
    }

    /// Makes writes durable, all or nothing.
    pub(super) fn write(&mut self, writes: &Writes) -> Result<(), StoreError> {
        let mut next = self.sums.clone();
        self.trees.apply(writes, &mut next)?;
        self.trees.db.flush()?;
        // sled flushes with `sync_file_range`, which leaves a drive's own cache alone.
        self.data.sync()?;
        self.sums = next;
        self.mark.advance(self.sums.commit)?;
        for name in &writes.drops {
            self.trees.db.drop_tree(name)?;
        }
        Ok(())
    }
}

impl Trees {
    /// Opens a store that this process may have closed just now: sled's own threads let go of its lock a little later.
    /// No other process has it: the lock of the data directory keeps them out.
    pub(super) fn open_patiently(path: &Path) -> Result<Self, StoreError> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match Self::open(path) {
                Err(StoreError::Directory { cause, .. })
                    if cause.to_string().contains("acquire lock") && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                opened => return opened,
            }
        }
    }

    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            // The writer flushes before every answer; a second rhythm would only cost.
            .flush_every_ms(None);
        let opened = config.open().and_then(|db| {
            let state = db.open_tree(sums::STATE)?;
            Ok(Self { db, state, path: path.to_owned() })
        });
        opened.map_err(|error| match error {
            sled::Error::Io(cause) => StoreError::Directory { path: path.to_owned(), cause },
            error => damaged(path, error.to_string()),
        })
    }

    /// Applies changes to one tree as they are, without a look at the sums: for a store in the making.
    pub(super) fn put(&self, name: &str, changes: &TreeWrites) -> Result<(), StoreError> {
        Ok(self.db.open_tree(name)?.apply_batch(batch(changes))?)
    }

    /// The same for a whole log.
    pub(super) fn drop_log(&self, name: &str) -> Result<(), StoreError> {
        self.db.drop_tree(name)?;
        Ok(())
    }

    /// Writes down what was applied.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        Ok(())
    }

    /// Bytes on disk.
    pub(super) fn size_on_disk(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn start(&self, sums: &mut Sums) -> Result<(), StoreError> {
        let mut writes = Writes::default();
        writes.put(keys::SCHEMA.to_vec(), SCHEMA.to_be_bytes().to_vec());
        self.apply(&writes, sums)
    }

    /// The number of the format. A missing one means that something is broken, since every store has it.
    pub(super) fn format(&self) -> Result<u32, StoreError> {
        let schema =
            self.state.get(keys::SCHEMA)?.ok_or_else(|| damaged(&self.path, "its format record is gone"))?;
        let number = schema.as_ref().try_into().map(u32::from_be_bytes);
        number.map_err(|_| damaged(&self.path, "its format record cannot be read"))
    }

    /// The sums as they were last written.
    pub(super) fn sums(&self) -> Result<Sums, StoreError> {
        let bytes = self.state.get(keys::SUMS)?.ok_or_else(|| damaged(&self.path, "its sums are gone"))?;
        Ok(Sums::decode(&bytes)?)
    }

    /// Applies writes and the sums that follow from them in one transaction; nothing is durable yet.
    pub(super) fn apply(&self, writes: &Writes, sums: &mut Sums) -> Result<(), StoreError> {
        let mut trees = vec![self.state.clone()];
        let mut batches = vec![batch(&writes.state)];
        let get =
            |tree: &sled::Tree, key: &[u8]| Ok::<_, StoreError>(tree.get(key)?.map(|value| value.to_vec()));
        sums.trees
            .entry(sums::STATE.to_owned())
            .or_default()
            .follow(&writes.state, |key| get(&self.state, key))?;
        for (name, entries) in &writes.logs {
            let tree = self.db.open_tree(name)?;
            sums.trees.entry(name.clone()).or_default().follow(entries, |key| get(&tree, key))?;
            trees.push(tree);
            batches.push(batch(entries));
        }
        for name in &writes.drops {
            sums.trees.remove(name);
        }
        sums.commit += 1;
        batches[0].insert(keys::SUMS, sums.encode());
        let applied = trees.as_slice().transaction(|trees| {
            for (tree, batch) in trees.iter().zip(&batches) {
                tree.apply_batch(batch)?;
            }
            Ok::<_, sled::transaction::ConflictableTransactionError<()>>(())
        });
        applied.map_err(|error| match error {
            sled::transaction::TransactionError::Storage(error) => StoreError::Engine(error),
            // Nothing in the closure aborts.
            sled::transaction::TransactionError::Abort(()) => StoreError::Crashed,
        })
    }

    /// A log tree that stands outside the sums was dropped by a commit whose process died before the tree was.
    fn finish_drops(&self, sums: &Sums) -> Result<(), StoreError> {
        for name in self.log_names() {
            if !sums.trees.contains_key(&name) {
                self.db.drop_tree(&name)?;
            }
        }
        Ok(())
    }

    fn verify_at_open(&self, sums: &Sums) -> Result<(), StoreError> {
        let whole = self.size_on_disk() <= CHECKED_AT_OPEN;
        let newest = sums.trees.keys().filter(|name| keys::is_log_tree(name.as_bytes())).max();
        for name in sums.trees.keys() {
            if whole || name == sums::STATE || Some(name) == newest {
                self.verify(name, sums)?;
            }
        }
        Ok(())
    }

    /// Reads a whole tree and compares it with its sum. The tree must not change meanwhile.
    pub(super) fn verify(&self, name: &str, sums: &Sums) -> Result<(), StoreError> {
        let expected = sums.trees.get(name).copied().unwrap_or_default();
        let mut found = Sum::default();
        self.each(name, |key, value| {
            found.add(key, value);
            Ok(())
        })?;
        if found == expected {
            return Ok(());
        }
        let reason = format!(
            "`{name}` should have {} entries and has {}{}",
            expected.count,
            found.count,
            if found.count == expected.count { ", some of them changed" } else { "" }
        );
        Err(damaged(&self.path, reason))
    }

    /// Every entry of a tree but the sums, in order.
    pub(super) fn each(
        &self,
        name: &str,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let tree = self.db.open_tree(name)?;
        for entry in tree.iter() {
            let (key, value) = entry?;
            if name != sums::STATE || key != keys::SUMS {
                each(&key, &value)?;
            }
        }
        Ok(())
    }

    /// The names of the log trees, oldest first.
    pub(super) fn log_names(&self) -> Vec<String> {
        let names = self.db.tree_names().into_iter().filter(|name| keys::is_log_tree(name));
        let mut names: Vec<String> = names.map(|name| String::from_utf8_lossy(&name).into_owned()).collect();
        names.sort();
        names
    }

    pub(super) fn tree(&self, name: &str) -> Result<sled::Tree, StoreError> {
        Ok(self.db.open_tree(name)?)
    }

    /// A log tree, unless it was dropped.
    pub(super) fn existing(&self, name: &str) -> Result<Option<sled::Tree>, StoreError> {
        let is_there = self.db.tree_names().iter().any(|known| known == name.as_bytes());
        if is_there { Ok(Some(self.tree(name)?)) } else { Ok(None) }
    }

    /// The log trees that may hold what was committed since then, oldest first.
    pub(super) fn logs_since(&self, since: Timestamp) -> Result<Vec<sled::Tree>, StoreError> {
        let first = keys::log_tree(since);
        self.log_names().iter().filter(|name| **name >= first).map(|name| self.tree(name)).collect()
    }
}

impl View for Trees {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state.get(key)?.map(|value| value.to_vec()))
    }

    fn scan_prefix(&self, prefix: &[u8]) -> Result<Entries, StoreError> {
        let entries = self.state.scan_prefix(prefix);
        entries.map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).map_err(StoreError::from)).collect()
    }
}

fn batch(writes: &TreeWrites) -> sled::Batch {
    let mut batch = sled::Batch::default();
    for (key, value) in writes {
        match value {
            Some(value) => batch.insert(key.as_slice(), value.as_slice()),
            None => batch.remove(key.as_slice()),
        }
    }
    batch
}

pub(super) fn damaged(path: &Path, reason: impl Into<String>) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), reason: reason.into(), untouched: false }
}

/// sled's data file, held open: a flood of connections that takes every descriptor must not stop the store.
struct DataFile {
    file: File,
    path: PathBuf,
}

impl DataFile {
    fn open(path: &Path) -> Result<Self, StoreError> {
        match File::open(path.join("db")) {
            Ok(file) => Ok(Self { file, path: path.to_owned() }),
            Err(cause) => Err(StoreError::Directory { path: path.to_owned(), cause }),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|cause| StoreError::Directory { path: self.path.clone(), cause })
    }
}

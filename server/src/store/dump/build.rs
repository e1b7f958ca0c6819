//! A new store from entries that were kept elsewhere: a backup, an export, or what can still be read of a damaged store.

use super::{DumpError, Part, read};
use crate::store::StoreError;
use crate::store::engine::{Engine, Trees};
use crate::store::sums::Sums;
use crate::store::view::TreeWrites;
use std::path::Path;

/// Bytes that are given to the engine before it has to write them down.
const FLUSH_BYTES: usize = 16 * 1024 * 1024;

/// A store in the making; it is none before [`Builder::finish`].
pub(in crate::store) struct Builder {
    trees: Trees,
    bytes: usize,
}

impl Builder {
    /// Begins in a directory that is new.
    pub(in crate::store) fn start(path: &Path) -> Result<Self, StoreError> {
        portolan_transport::files::create_private_dir(path)
            .map_err(|error| StoreError::Directory { path: path.to_owned(), cause: error.cause })?;
        Ok(Self { trees: Trees::open_patiently(path)?, bytes: 0 })
    }

    /// Lays changes over what is there.
    pub(in crate::store) fn put(&mut self, tree: &str, changes: &TreeWrites) -> Result<(), StoreError> {
        self.trees.put(tree, changes)?;
        self.bytes +=
            changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum::<usize>();
        if self.bytes >= FLUSH_BYTES {
            self.trees.flush()?;
            self.bytes = 0;
        }
        Ok(())
    }

    /// Lays a dump over what is there; files in it are left out. Returns the dump's sums. `stop` is asked now and then.
    pub(in crate::store) fn put_dump(
        &mut self,
        path: &Path,
        stop: &dyn Fn() -> bool,
    ) -> Result<Sums, DumpError> {
        read(path, |part| match part {
            _ if stop() => Err(StoreError::Closed),
            Part::File { .. } => Ok(()),
            Part::Changes(tree, changes) => self.put(&tree, &changes),
            Part::Drop(tree) => self.trees.drop_log(&tree),
        })
    }

    /// Adds it up, writes the sums, makes all of it durable. With `expected`, it must be exactly that.
    pub(in crate::store) fn finish(self, commit: u64, expected: Option<&Sums>) -> Result<Sums, StoreError> {
        Engine::finish_new(self.trees, commit, expected)
    }

    /// What is in it so far.
    pub(in crate::store) fn trees(&self) -> &Trees {
        &self.trees
    }
}

//! Values that stand in documents of the store, and which of them changed since they were written.

use crate::store::{DocumentWrite, Kind};
use std::collections::{BTreeMap, BTreeSet};

/// A document that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a document of kind {kind:?} cannot be understood ({why}): update portolan-server, or restore a backup"
)]
pub struct Unreadable {
    /// What it should be.
    pub kind: Kind,
    /// What is wrong with it.
    pub why: String,
}

/// What can stand in a document.
pub(super) trait Document: Sized {
    /// By what it is found.
    type Key: Ord + Clone;
    /// What the store calls it.
    const KIND: Kind;

    fn key(&self) -> Self::Key;

    /// The document's key.
    fn name(key: &Self::Key) -> Vec<u8>;

    fn encode(&self) -> Vec<u8>;

    /// Reads it back; the error says what is wrong.
    fn decode(bytes: &[u8]) -> Result<Self, String>;
}

/// See the module.
#[derive(Debug)]
pub(super) struct Kept<T: Document> {
    values: BTreeMap<T::Key, T>,
    unwritten: BTreeSet<T::Key>,
}

impl<T: Document> Default for Kept<T> {
    fn default() -> Self {
        Self { values: BTreeMap::new(), unwritten: BTreeSet::new() }
    }
}

impl<T: Document> Kept<T> {
    /// Reads what was written.
    pub(super) fn load(documents: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Self, Unreadable> {
        let read = |bytes: &Vec<u8>| {
            let value = T::decode(bytes).map_err(|why| Unreadable { kind: T::KIND, why })?;
            Ok((value.key(), value))
        };
        Ok(Self {
            values: documents.values().map(read).collect::<Result<_, _>>()?,
            unwritten: BTreeSet::new(),
        })
    }

    pub(super) fn get(&self, key: &T::Key) -> Option<&T> {
        self.values.get(key)
    }

    /// To be changed, and then written.
    pub(super) fn change(&mut self, key: &T::Key) -> Option<&mut T> {
        let value = self.values.get_mut(key)?;
        self.unwritten.insert(key.clone());
        Some(value)
    }

    /// To be changed in what need not survive a restart.
    pub(super) fn touch(&mut self, key: &T::Key) -> Option<&mut T> {
        self.values.get_mut(key)
    }

    pub(super) fn insert(&mut self, value: T) {
        let key = value.key();
        self.unwritten.insert(key.clone());
        self.values.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &T::Key) -> Option<T> {
        let value = self.values.remove(key)?;
        self.unwritten.insert(key.clone());
        Some(value)
    }

    /// Removes what is not wanted any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(&T) -> bool) {
        let (values, unwritten) = (&mut self.values, &mut self.unwritten);
        values.retain(|key, value| {
            let stays = wanted(value);
            if !stays {
                unwritten.insert(key.clone());
            }
            stays
        });
    }

    pub(super) fn values(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.values.values()
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// What changed since it was last asked.
    pub(super) fn take_writes(&mut self) -> impl Iterator<Item = DocumentWrite> + '_ {
        let values = &self.values;
        std::mem::take(&mut self.unwritten).into_iter().map(move |key| DocumentWrite {
            kind: T::KIND,
            key: T::name(&key),
            value: values.get(&key).map(T::encode),
        })
    }
}

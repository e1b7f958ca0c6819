//! What a plan reads, and what it wants written: the seam between deciding and doing. A plan sees the state as a
//! [`View`], touches nothing, and returns [`Writes`]; the writer applies the writes of many plans at once.

use super::StoreError;
use std::collections::BTreeMap;

/// Keys with their values.
pub type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// The `state` tree as a plan sees it, with the writes of earlier plans of the same group already in it.
pub trait View {
    /// The value of a key.
    ///
    /// # Errors
    /// When the engine cannot read it.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Every key that begins with `prefix`, in order, with its value. Only for prefixes that few keys share.
    ///
    /// # Errors
    /// When the engine cannot read them.
    fn scan_prefix(&self, prefix: &[u8]) -> Result<Entries, StoreError>;
}

/// Values to write and keys to remove (`None`) in one tree. A later write to a key replaces an earlier one.
pub type TreeWrites = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What is to be written, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// To the `state` tree.
    pub state: TreeWrites,
    /// To log trees, by their names. Entries of a log are only added; the whole tree goes when it is too old.
    pub logs: BTreeMap<String, TreeWrites>,
    /// Log trees to drop.
    pub drops: Vec<String>,
}

impl Writes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.state.is_empty() && self.logs.is_empty() && self.drops.is_empty()
    }

    /// Sets a key of the state.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.state.insert(key, Some(value));
    }

    /// Removes a key of the state.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.state.insert(key, None);
    }

    /// Adds an entry to a log.
    pub fn log(&mut self, tree: &str, key: Vec<u8>, value: Vec<u8>) {
        match self.logs.get_mut(tree) {
            Some(log) => log.insert(key, Some(value)),
            None => self.logs.entry(tree.to_owned()).or_default().insert(key, Some(value)),
        };
    }

    /// Puts later writes over these.
    pub fn absorb(&mut self, later: Self) {
        self.state.extend(later.state);
        for (tree, writes) in later.logs {
            self.logs.entry(tree).or_default().extend(writes);
        }
        self.drops.extend(later.drops);
    }
}

/// A state in memory: for tests and simulations.
impl View for BTreeMap<Vec<u8>, Vec<u8>> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(BTreeMap::get(self, key).cloned())
    }

    fn scan_prefix(&self, prefix: &[u8]) -> Result<Entries, StoreError> {
        let from = self.range(prefix.to_vec()..);
        Ok(from.take_while(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}

/// A view with writes over it that are not applied yet.
pub(super) struct Overlay<'a, V: View + ?Sized> {
    pub base: &'a V,
    pub pending: &'a TreeWrites,
}

impl<V: View + ?Sized> View for Overlay<'_, V> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.pending.get(key) {
            Some(pending) => Ok(pending.clone()),
            None => self.base.get(key),
        }
    }

    fn scan_prefix(&self, prefix: &[u8]) -> Result<Entries, StoreError> {
        let mut pending =
            self.pending.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix)).peekable();
        let base = self.base.scan_prefix(prefix)?;
        if pending.peek().is_none() {
            return Ok(base);
        }
        let mut merged: BTreeMap<_, _> = base.into_iter().collect();
        for (key, value) in pending {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        Ok(merged.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pending_lies_over_what_stands() {
        let base: BTreeMap<Vec<u8>, Vec<u8>> =
            [("a1", "x"), ("a2", "y"), ("b", "z")].map(|(k, v)| (k.into(), v.into())).into();
        let mut writes = Writes::default();
        writes.put(b"a0".to_vec(), b"new".to_vec());
        writes.remove(b"a1".to_vec());
        let mut later = Writes::default();
        later.put(b"a2".to_vec(), b"changed".to_vec());
        writes.absorb(later);
        let view = Overlay { base: &base, pending: &writes.state };
        assert_eq!(view.get(b"a1").unwrap(), None);
        assert_eq!(view.get(b"b").unwrap().unwrap(), b"z");
        let seen = view.scan_prefix(b"a").unwrap();
        assert_eq!(seen, [(b"a0".to_vec(), b"new".to_vec()), (b"a2".to_vec(), b"changed".to_vec())]);
    }
}

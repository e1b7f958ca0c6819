//! Sums over everything that is stored, kept up with every commit in the same transaction: an entry that sled lost,
//! changed or brought back makes its tree's sum wrong. A tree's sum is the sum modulo 2^128 of its entries' hashes, so
//! that it follows each write without a look at the others.

use super::record::{RecordError, decode, encode};
use super::view::TreeWrites;
use crate::pki::authority::sha256;
use std::collections::BTreeMap;

/// The name under which the state's sum stands beside those of the log trees.
pub(super) const STATE: &str = "state";

/// The number of the last commit, and a sum for each tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Counts groups of writes, from 1.
    pub commit: u64,
    /// By the tree's name.
    pub trees: BTreeMap<String, Sum>,
}

/// Over one tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Entries.
    pub count: u64,
    /// The hashes of all of them, added.
    pub hash: u128,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SumsRecord {
    #[prost(uint64, tag = "1")]
    commit: u64,
    #[prost(message, repeated, tag = "2")]
    trees: Vec<SumRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SumRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    count: u64,
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
}

impl Sum {
    /// Counts an entry in.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.hash = self.hash.wrapping_add(hash(key, value));
    }

    /// Counts an entry out.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.hash = self.hash.wrapping_sub(hash(key, value));
    }

    /// Follows the writes to a tree; `old` finds what a key had before.
    pub(super) fn follow<E>(
        &mut self,
        writes: &TreeWrites,
        mut old: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        for (key, value) in writes {
            if let Some(old) = old(key)? {
                self.remove(key, &old);
            }
            if let Some(value) = value {
                self.add(key, value);
            }
        }
        Ok(())
    }
}

impl Sums {
    pub(super) fn encode(&self) -> Vec<u8> {
        let trees = self.trees.iter().map(|(name, sum)| SumRecord {
            name: name.clone(),
            count: sum.count,
            hash: sum.hash.to_be_bytes().to_vec(),
        });
        encode(&SumsRecord { commit: self.commit, trees: trees.collect() })
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: SumsRecord = decode(bytes)?;
        let mut trees = BTreeMap::new();
        for tree in record.trees {
            let hash = tree.hash.try_into().map_err(|_| RecordError::Content("a sum"))?;
            trees.insert(tree.name, Sum { count: tree.count, hash: u128::from_be_bytes(hash) });
        }
        Ok(Self { commit: record.commit, trees })
    }
}

fn hash(key: &[u8], value: &[u8]) -> u128 {
    // Keys and values have no more than a few thousand bytes, so the length says where the one ends.
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = Vec::with_capacity(4 + key.len() + value.len());
    bytes.extend(length);
    bytes.extend(key);
    bytes.extend(value);
    let digest = sha256(&bytes);
    digest.first_chunk::<16>().map_or(0, |half| u128::from_be_bytes(*half))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    proptest! {
        /// However entries came and went, the sum is that of what is there, and of nothing else.
        #[test]
        fn a_sum_depends_on_what_is_there_alone(
            writes in proptest::collection::vec(
                (proptest::collection::vec(0u8..3, 0..3), proptest::option::of(proptest::collection::vec(0u8..3, 0..3))), 0..60)
        ) {
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut sum = Sum::default();
            for (key, value) in writes {
                let one = TreeWrites::from([(key.clone(), value.clone())]);
                sum.follow(&one, |key| Ok::<_, Infallible>(model.get(key).cloned())).unwrap();
                match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
            }
            let mut fresh = Sum::default();
            for (key, value) in &model {
                fresh.add(key, value);
            }
            prop_assert_eq!(sum, fresh);
            for (key, value) in &model {
                let mut changed = fresh;
                changed.remove(key, value);
                prop_assert_ne!(changed.hash, fresh.hash);
            }
        }
    }

    #[test]
    fn sums_read_back() {
        let mut sums = Sums { commit: 7, ..Sums::default() };
        sums.trees.entry("state".into()).or_default().add(b"key", b"value");
        assert_eq!(Sums::decode(&sums.encode()).unwrap(), sums);
    }
}

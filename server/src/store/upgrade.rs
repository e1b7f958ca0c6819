//! From the format of an earlier version to this one's, when a store is opened. It can die at any point and be begun
//! again: the number of the format changes last.

use super::engine::{Trees, damaged};
use super::ingest::ChangeRecord;
use super::moment::Order;
use super::record::{decode, encode};
use super::sums::{self, Sums};
use super::view::{TreeWrites, Writes};
use super::{SCHEMA, StoreError, keys};
use portolan_common::ids::SatelliteId;
use std::collections::BTreeSet;

/// Entries that are rewritten at once.
const AT_ONCE: usize = 1000;

/// Brings a store of an earlier format up to date. Nothing is durable yet when it returns.
pub(super) fn upgrade(trees: &Trees, from: u32) -> Result<(), StoreError> {
    if from != 1 {
        return Err(damaged(trees.path(), format!("its format record says {from}, which never was")));
    }
    // Sums of what the rewriting below touches would be wrong from the start, so they come last.
    let mut none = Sums::default();
    for name in trees.log_names() {
        order_by_sequence(trees, &name, &mut none)?;
    }
    let mut sums = Sums { commit: 1, ..Sums::default() };
    for name in trees.log_names().into_iter().chain([sums::STATE.to_owned()]) {
        let sum = sums.trees.entry(name.clone()).or_default();
        trees.each(&name, |key, value| {
            sum.add(key, value);
            Ok(())
        })?;
    }
    let mut writes = Writes::default();
    writes.put(keys::SCHEMA.to_vec(), SCHEMA.to_be_bytes().to_vec());
    trees.apply(&writes, &mut sums)
}

/// Format 1 sorted changes and sweeps by the satellite's clock; now they sort by what the satellite sent first. Of the
/// old ones only the clock is known: its milliseconds become the sequence of an epoch before all others.
fn order_by_sequence(trees: &Trees, name: &str, sums: &mut Sums) -> Result<(), StoreError> {
    let mut taken = BTreeSet::new();
    loop {
        let mut entries = TreeWrites::new();
        let tree = trees.tree(name)?;
        let old = tree.range([keys::CHANGE_1]..[keys::CHANGE_1 + 1]);
        let old = old.chain(tree.range([keys::SWEEP_1]..[keys::SWEEP_1 + 1]));
        for entry in old.take(AT_ONCE) {
            let (key, value) = entry?;
            let moved = if key.first() == Some(&keys::CHANGE_1) {
                move_change(&tree, &key, &value, &mut taken)
            } else {
                move_sweep(&tree, &key, &value, &mut taken)
            };
            let (moved, value) = moved?.ok_or_else(|| damaged(trees.path(), format!("a key of `{name}`")))?;
            entries.insert(moved, Some(value));
            entries.insert(key.to_vec(), None);
        }
        if entries.is_empty() {
            return Ok(());
        }
        let mut writes = Writes::default();
        writes.logs.insert(name.to_owned(), entries);
        trees.apply(&writes, sums)?;
    }
}

type Moved = Result<Option<(Vec<u8>, Vec<u8>)>, StoreError>;

/// Tag, tenant, address | time, satellite, sequence, chunk → tag, tenant, address | satellite, order, chunk.
fn move_change(tree: &sled::Tree, key: &[u8], value: &[u8], taken: &mut BTreeSet<Vec<u8>>) -> Moved {
    let Some((_, rest)) = keys::parse_address(key) else { return Ok(None) };
    let head = &key[..key.len() - rest.len()];
    let Some((at, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
    let Some((satellite, rest)) = rest.split_at_checked(16) else { return Ok(None) };
    let Some((_, chunk)) = rest.split_first_chunk::<8>() else { return Ok(None) };
    let at = u64::from_be_bytes(*at);
    let mut record: ChangeRecord = decode(value)?;
    record.at_ms = i64::try_from(at).unwrap_or(i64::MAX);
    let mut front = head.to_vec();
    front[0] = keys::CHANGE;
    front.extend(satellite);
    Ok(Some((free_key(tree, &front, at, chunk, taken)?, encode(&record))))
}

/// Tag, tenant, satellite | time, scan, chunk → tag, tenant, satellite | order, chunk.
fn move_sweep(tree: &sled::Tree, key: &[u8], value: &[u8], taken: &mut BTreeSet<Vec<u8>>) -> Moved {
    let Some(length) = key.get(1).map(|length| 2 + usize::from(*length) + 16) else { return Ok(None) };
    let Some((front, rest)) = key.split_at_checked(length) else { return Ok(None) };
    let satellite = front.get(length - 16..).and_then(SatelliteId::from_slice);
    let Some((at, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
    let (Some(_), Some((_, chunk))) = (satellite, rest.split_at_checked(16)) else { return Ok(None) };
    let mut front = front.to_vec();
    front[0] = keys::SWEEP;
    Ok(Some((free_key(tree, &front, u64::from_be_bytes(*at), chunk, taken)?, value.to_vec())))
}

/// Two at the same millisecond must not become one, nor one of a try that died.
fn free_key(
    tree: &sled::Tree,
    front: &[u8],
    at: u64,
    chunk: &[u8],
    taken: &mut BTreeSet<Vec<u8>>,
) -> Result<Vec<u8>, StoreError> {
    let mut order = Order { ordinal: 0, sequence: at };
    loop {
        let mut key = front.to_vec();
        key.extend(order.ordinal.to_be_bytes());
        key.extend(order.sequence.to_be_bytes());
        key.extend(chunk);
        if !tree.contains_key(&key)? && taken.insert(key.clone()) {
            return Ok(key);
        }
        order.sequence += 1;
    }
}

//! From the format of an earlier version to this one's, when a store is opened. It can die at any point and be begun
//! again: what is made first does not touch what it is made from, and the number of the format changes last.

use super::changes::{ChangeEntry, ChunkRecord, Pointer};
use super::engine::{Trees, damaged};
use super::inventory::{HostState, write_parts};
use super::moment::Order;
use super::record::{decode, encode};
use super::sums::{self, Sums};
use super::view::Writes;
use super::{SCHEMA, StoreError, keys};
use portolan_common::ids::SatelliteId;
use portolan_proto::convert;
use std::collections::HashMap;

/// Entries that are written at once.
const AT_ONCE: usize = 1000;
/// In `state`, while an upgrade is under way: everything new is there, what is old may go.
const MADE: &[u8] = b"\0upgraded";

/// Format 1 logged changes of one host at one time in a record, by the satellite's clock.
#[derive(Clone, PartialEq, prost::Message)]
struct ChangeRecord1 {
    #[prost(message, repeated, tag = "1")]
    changes: Vec<ChangeEntry>,
    #[prost(bool, tag = "2")]
    late: bool,
}

/// Brings a store of an earlier format up to date. Nothing is durable yet when it returns.
pub(super) fn upgrade(trees: &Trees, from: u32) -> Result<(), StoreError> {
    if from != 1 {
        return Err(damaged(trees.path(), format!("its format record says {from}, which never was")));
    }
    let mut upgrade = Upgrade { trees, writes: Writes::default(), pending: 0 };
    if trees.state.get(MADE)?.is_none() {
        upgrade.make()?;
        upgrade.writes.put(MADE.to_vec(), Vec::new());
        upgrade.flush()?;
    }
    upgrade.remove_old()?;
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
    writes.remove(MADE.to_vec());
    trees.apply(&writes, &mut sums)
}

struct Upgrade<'a> {
    trees: &'a Trees,
    writes: Writes,
    pending: usize,
}

/// A host as one satellite sees it by one protocol: the prefix of its keys.
type Host = Vec<u8>;

impl Upgrade<'_> {
    /// Only the satellite's clock is known of what format 1 wrote: its milliseconds become the sequence of an epoch
    /// before all others.
    fn make(&mut self) -> Result<(), StoreError> {
        let mut last: HashMap<Host, Pointer> = HashMap::new();
        for name in self.trees.log_names() {
            self.chunk_changes(&name, &mut last)?;
            self.order_sweeps(&name)?;
        }
        for (host, pointer) in last {
            let (mut state, parts) = HostState::read(self.trees, &host)?;
            if parts > 0 {
                state.last_change = Some(pointer);
                write_parts(&mut self.writes, &host, &state, parts);
                self.count(1)?;
            }
        }
        self.flush()
    }

    /// Tag, tenant, address | time, satellite, sequence, chunk.
    fn chunk_changes(&mut self, name: &str, last: &mut HashMap<Host, Pointer>) -> Result<(), StoreError> {
        let mut chunks: HashMap<(SatelliteId, u64), u32> = HashMap::new();
        let wrong = || damaged(self.trees.path(), format!("a key of `{name}` is no key of a change"));
        for entry in self.trees.tree(name)?.range([keys::CHANGE_1]..[keys::CHANGE_1 + 1]) {
            let (key, value) = entry?;
            let (address, rest) = keys::parse_address(&key).ok_or_else(wrong)?;
            let head = &key[..key.len() - rest.len()];
            let (at, rest) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
            let (satellite, at) = (rest.get(..16).and_then(SatelliteId::from_slice), u64::from_be_bytes(*at));
            let satellite = satellite.ok_or_else(wrong)?;
            let chunk = chunks.entry((satellite, at)).or_default();
            let place = Order { ordinal: 0, sequence: at };
            let (key, month) = (keys::chunk(satellite, place, *chunk), keys::month(name));
            let address = convert::address_to_wire(address);
            let record: ChangeRecord1 = decode(&value)?;
            let mut changes = Vec::with_capacity(record.changes.len());
            for (index, mut change) in record.changes.into_iter().enumerate() {
                let mut host = head.to_vec();
                host[0] = keys::HOST;
                host.extend(satellite.as_bytes());
                host.push(keys::protocol_byte(change.protocol().try_into()?));
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                let pointer = Pointer { month, ordinal: 0, sequence: at, chunk: *chunk, index };
                change.previous = last.insert(host, pointer);
                change.address.clone_from(&address);
                change.at_ms = i64::try_from(at).unwrap_or(i64::MAX);
                change.late = record.late;
                changes.push(change);
            }
            *chunk += 1;
            self.writes.log(name, key, encode(&ChunkRecord { changes, skew_ms: 0 }));
            self.count(1)?;
        }
        Ok(())
    }

    /// Tag, tenant, satellite | time, scan, chunk.
    fn order_sweeps(&mut self, name: &str) -> Result<(), StoreError> {
        let wrong = || damaged(self.trees.path(), format!("a key of `{name}` is no key of a sweep"));
        // Two sweeps that ended in the same millisecond must not become one.
        let mut before: Option<(Vec<u8>, Vec<u8>, u64)> = None;
        for entry in self.trees.tree(name)?.range([keys::SWEEP_1]..[keys::SWEEP_1 + 1]) {
            let (key, value) = entry?;
            let length = 2 + usize::from(*key.get(1).ok_or_else(wrong)?) + 16;
            let (front, rest) = key.split_at_checked(length).ok_or_else(wrong)?;
            let (at, rest) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
            let (scan, chunk) = rest.split_at_checked(16).ok_or_else(wrong)?;
            let at = u64::from_be_bytes(*at);
            let sequence = match &before {
                Some((same, this, sequence)) if same == front && this == scan => *sequence,
                Some((same, _, sequence)) if same == front => at.max(sequence + 1),
                _ => at,
            };
            before = Some((front.to_vec(), scan.to_vec(), sequence));
            let mut key = front.to_vec();
            key[0] = keys::SWEEP;
            key.extend(0u32.to_be_bytes());
            key.extend(sequence.to_be_bytes());
            key.extend(chunk);
            self.writes.log(name, key, value.to_vec());
            self.count(1)?;
        }
        Ok(())
    }

    fn remove_old(&mut self) -> Result<(), StoreError> {
        for name in self.trees.log_names() {
            let tree = self.trees.tree(&name)?;
            let changes = tree.range([keys::CHANGE_1]..[keys::CHANGE_1 + 1]);
            for entry in changes.chain(tree.range([keys::SWEEP_1]..[keys::SWEEP_1 + 1])) {
                let (key, _) = entry?;
                self.writes.logs.entry(name.clone()).or_default().insert(key.to_vec(), None);
                self.count(1)?;
            }
        }
        self.flush()
    }

    fn count(&mut self, entries: usize) -> Result<(), StoreError> {
        self.pending += entries;
        if self.pending >= AT_ONCE { self.flush() } else { Ok(()) }
    }

    /// The sums are made at the end, over everything; what is written on the way has none.
    fn flush(&mut self) -> Result<(), StoreError> {
        self.pending = 0;
        self.trees.apply(&std::mem::take(&mut self.writes), &mut Sums::default())
    }
}

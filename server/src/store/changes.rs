//! The log of changes: packed into chunks, a batch's changes together, since sled keeps thousands of small entries badly.
//! The changes of one host are found by following it backwards: the host's record points to its last change, and each
//! change to the one before.

use super::engine::Trees;
use super::merge::RunChange;
use super::moment::{Moment, Order, corrected};
use super::record::{MAX_VALUE_BYTES, RecordError, decode, encode};
use super::view::Writes;
use super::{StoreError, inventory, keys};
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::Protocol;
use portolan_common::ports::PortSet;
use portolan_proto::convert::{self, WireError};
use portolan_proto::v1;
use prost::Message as _;
use std::net::IpAddr;

/// Where a change stands.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Pointer {
    /// Of the log tree: year times 100 plus month.
    #[prost(uint32, tag = "1")]
    pub month: u32,
    /// The chunk's place.
    #[prost(uint32, tag = "2")]
    pub ordinal: u32,
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    #[prost(uint32, tag = "4")]
    pub chunk: u32,
    /// Which of the chunk's changes.
    #[prost(uint32, tag = "5")]
    pub index: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ChunkRecord {
    #[prost(message, repeated, tag = "1")]
    pub changes: Vec<ChangeEntry>,
    /// How far the satellite's clock was ahead of the server's.
    #[prost(sint64, tag = "2")]
    pub skew_ms: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ChangeEntry {
    #[prost(enumeration = "v1::Protocol", tag = "1")]
    pub protocol: i32,
    #[prost(enumeration = "v1::PortState", tag = "2")]
    pub from: i32,
    #[prost(enumeration = "v1::PortState", tag = "3")]
    pub to: i32,
    #[prost(enumeration = "v1::Reason", tag = "4")]
    pub reason: i32,
    #[prost(message, optional, tag = "5")]
    pub ports: Option<v1::PortSpans>,
    #[prost(bytes = "vec", tag = "6")]
    pub address: Vec<u8>,
    /// By the satellite's clock.
    #[prost(int64, tag = "7")]
    pub at_ms: i64,
    #[prost(bool, tag = "8")]
    pub late: bool,
    /// The change of the same host before this one.
    #[prost(message, optional, tag = "9")]
    pub previous: Option<Pointer>,
}

/// Packs the changes of one batch.
pub(super) struct Packer {
    satellite: SatelliteId,
    log: String,
    month: u32,
    skew_ms: i64,
    /// The place of the first chunk: that of the first record that has a change.
    place: Option<Order>,
    full: Vec<Vec<ChangeEntry>>,
    open: Vec<ChangeEntry>,
    room: usize,
}

/// Bytes of a chunk that its entries may take.
const ROOM: usize = MAX_VALUE_BYTES - 64;

impl Packer {
    pub(super) fn new(satellite: SatelliteId, at: Timestamp, skew_ms: i64) -> Self {
        let log = keys::log_tree(at);
        let month = keys::month(&log);
        Self { satellite, log, month, skew_ms, place: None, full: Vec::new(), open: Vec::new(), room: ROOM }
    }

    /// Takes a change in; returns where it will stand. Ports that alone are larger than a chunk are split.
    pub(super) fn push(
        &mut self,
        moment: Moment,
        late: bool,
        (address, protocol): (IpAddr, Protocol),
        change: &RunChange,
        mut previous: Option<Pointer>,
    ) -> Option<Pointer> {
        for ports in inventory::split(&change.ports) {
            let entry = ChangeEntry {
                protocol: v1::Protocol::from(protocol).into(),
                from: v1::PortState::from(change.from).into(),
                to: v1::PortState::from(change.to).into(),
                reason: v1::Reason::from(change.reason).into(),
                ports: Some((&ports).into()),
                address: convert::address_to_wire(address),
                at_ms: moment.at.as_millisecond(),
                late,
                previous,
            };
            previous = Some(self.add(moment.order, entry));
        }
        previous
    }

    fn add(&mut self, order: Order, entry: ChangeEntry) -> Pointer {
        let place = *self.place.get_or_insert(order);
        let size = entry.encoded_len() + 4;
        if size > self.room && !self.open.is_empty() {
            self.full.push(std::mem::take(&mut self.open));
            self.room = ROOM;
        }
        self.room = self.room.saturating_sub(size);
        let index = u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        self.open.push(entry);
        let chunk = u32::try_from(self.full.len()).unwrap_or(u32::MAX);
        Pointer { month: self.month, ordinal: place.ordinal, sequence: place.sequence, chunk, index }
    }

    /// Writes the chunks.
    pub(super) fn finish(mut self, writes: &mut Writes) {
        let Some(place) = self.place else { return };
        self.full.push(self.open);
        for (chunk, changes) in self.full.into_iter().enumerate() {
            let key = keys::chunk(self.satellite, place, u32::try_from(chunk).unwrap_or(u32::MAX));
            let record = ChunkRecord { changes, skew_ms: self.skew_ms };
            writes.log(&self.log, key, encode(&record));
        }
    }
}

/// A change as it was read.
pub(super) struct Read {
    pub entry: ChangeEntry,
    pub skew_ms: i64,
}

impl Read {
    /// When it was seen, corrected.
    pub(super) fn shown(&self) -> Result<Timestamp, StoreError> {
        Ok(corrected(convert::time_from_wire(self.entry.at_ms)?, self.skew_ms))
    }

    pub(super) fn ports(&self) -> Result<PortSet, StoreError> {
        Ok(PortSet::try_from(self.entry.ports.as_ref().ok_or(WireError::Ports)?)?)
    }
}

/// Reads changes; neighbours mostly stand in the same chunk.
pub(super) struct Reader<'a> {
    trees: &'a Trees,
    satellite: SatelliteId,
    chunk: Option<(Pointer, ChunkRecord)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(trees: &'a Trees, satellite: SatelliteId) -> Self {
        Self { trees, satellite, chunk: None }
    }

    /// The change at a place. That it is there was seen when the pointers were followed; a month that was dropped since
    /// has none.
    pub(super) fn read(&mut self, at: Pointer) -> Result<Option<Read>, StoreError> {
        let head = Pointer { index: 0, ..at };
        if self.chunk.as_ref().is_none_or(|(known, _)| *known != head) {
            let tree = keys::log_tree_of(at.month);
            let order = Order { ordinal: at.ordinal, sequence: at.sequence };
            let key = keys::chunk(self.satellite, order, at.chunk);
            let Some(log) = self.trees.existing(&tree)? else { return Ok(None) };
            let Some(value) = log.get(key)? else {
                return Err(RecordError::Content("a change that another points to is gone").into());
            };
            self.chunk = Some((head, decode(&value)?));
        }
        let Some((_, chunk)) = &self.chunk else { return Ok(None) };
        let entry = usize::try_from(at.index).ok().and_then(|index| chunk.changes.get(index));
        let entry = entry.ok_or(RecordError::Content("a change that another points to is gone"))?;
        Ok(Some(Read { entry: entry.clone(), skew_ms: chunk.skew_ms }))
    }

    /// Where a host's changes stand, oldest first, back to the month given or to what retention left.
    pub(super) fn trail(&mut self, last: Option<Pointer>, oldest: u32) -> Result<Vec<Pointer>, StoreError> {
        let mut trail = Vec::new();
        let mut next = last.filter(|at| at.month >= oldest);
        while let Some(at) = next {
            let Some(read) = self.read(at)? else { break };
            trail.push(at);
            next = read.entry.previous.filter(|at| at.month >= oldest);
        }
        trail.reverse();
        Ok(trail)
    }
}

//! The current state of ports: reading and writing a host's record, and the inventory that operators ask for.

use super::changes::Pointer;
use super::merge::KnownRun;
use super::moment::{Moment, Order};
use super::record::{Evolving, MAX_VALUE_BYTES, RecordError, decode, encode_with, unknown_fields};
use super::sweeps::Sweeps;
use super::view::{View, Writes};
use super::{Store, StoreError, keys};
use ipnet::IpNet;
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::ports::PortSet;
use portolan_proto::convert::{self, WireError};
use portolan_proto::v1;
use std::net::IpAddr;
use std::ops::ControlFlow;

/// How many ranges of ports go into one part at most: five bytes each at the worst.
const RANGES_PER_PART: usize = (MAX_VALUE_BYTES - 1024) / 6;

/// What is known of one (host, satellite, protocol).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostState {
    pub target: String,
    pub first_seen: Moment,
    pub runs: Vec<KnownRun>,
    /// Where its last change is logged.
    pub last_change: Option<Pointer>,
    /// Fields of the record that this version does not know.
    unknown: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HostPart {
    #[prost(string, tag = "1")]
    target: String,
    #[prost(int64, tag = "2")]
    first_seen_ms: i64,
    #[prost(message, repeated, tag = "3")]
    runs: Vec<RunRecord>,
    #[prost(sint64, tag = "4")]
    first_seen_skew_ms: i64,
    /// In the first part: how many there are; 0: as many as stand there.
    #[prost(uint32, tag = "5")]
    parts: u32,
    /// In the first part.
    #[prost(message, optional, tag = "6")]
    last_change: Option<Pointer>,
}

impl Evolving for HostPart {
    const LAST_FIELD: u32 = 6;
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RunRecord {
    #[prost(enumeration = "v1::PortState", tag = "1")]
    pub state: i32,
    #[prost(enumeration = "v1::Reason", tag = "2")]
    pub reason: i32,
    #[prost(int64, tag = "3")]
    pub since_ms: i64,
    #[prost(message, optional, tag = "4")]
    pub ports: Option<v1::PortSpans>,
    #[prost(sint64, tag = "5")]
    pub skew_ms: i64,
    #[prost(uint32, tag = "6")]
    pub ordinal: u32,
    #[prost(uint64, tag = "7")]
    pub sequence: u64,
}

impl From<&KnownRun> for RunRecord {
    fn from(run: &KnownRun) -> Self {
        Self {
            state: v1::PortState::from(run.state).into(),
            reason: v1::Reason::from(run.reason).into(),
            since_ms: run.since.at.as_millisecond(),
            ports: Some((&run.ports).into()),
            skew_ms: run.since.skew_ms,
            ordinal: run.since.order.ordinal,
            sequence: run.since.order.sequence,
        }
    }
}

impl RunRecord {
    /// Format 1 knew no order but the clock's.
    fn since(&self) -> Result<Moment, WireError> {
        let sequence = match self.ordinal {
            0 => u64::try_from(self.since_ms).unwrap_or(0),
            _ => self.sequence,
        };
        let order = Order { ordinal: self.ordinal, sequence };
        Ok(Moment { order, at: convert::time_from_wire(self.since_ms)?, skew_ms: self.skew_ms })
    }
}

impl From<WireError> for StoreError {
    fn from(_: WireError) -> Self {
        Self::Record(RecordError::Content("a port state"))
    }
}

impl HostState {
    /// Nothing known yet.
    pub(super) fn unknown() -> Self {
        let order = Order::default();
        let first_seen = Moment { order, at: Timestamp::UNIX_EPOCH, skew_ms: 0 };
        Self { target: String::new(), first_seen, runs: Vec::new(), last_change: None, unknown: Vec::new() }
    }

    /// Reads all parts of a host; also says how many there are.
    pub(super) fn read(view: &dyn View, prefix: &[u8]) -> Result<(Self, usize), StoreError> {
        let mut state = Self::unknown();
        let Some(first) = view.get(&part_key(prefix, 0))? else { return Ok((state, 0)) };
        let parts = state.add_part(&first)?;
        if parts == 1 {
            return Ok((state, 1));
        }
        let rest = view.scan_prefix(prefix)?;
        for (_, value) in rest.iter().skip(1) {
            state.add_part(value)?;
        }
        if parts != 0 && parts != rest.len() {
            return Err(RecordError::Content("a host in several parts, some of which are gone").into());
        }
        Ok((state, rest.len()))
    }

    /// Returns how many parts the host has, as the part says.
    fn add_part(&mut self, bytes: &[u8]) -> Result<usize, StoreError> {
        let part: HostPart = decode(bytes)?;
        let at = convert::time_from_wire(part.first_seen_ms)?;
        self.first_seen = Moment { order: Order::default(), at, skew_ms: part.first_seen_skew_ms };
        self.target = part.target;
        if part.parts != 0 {
            self.unknown = unknown_fields::<HostPart>(bytes);
            self.last_change = part.last_change;
        }
        for run in &part.runs {
            let known = KnownRun {
                state: run.state().try_into()?,
                reason: run.reason().try_into()?,
                since: run.since()?,
                ports: PortSet::try_from(run.ports.as_ref().ok_or(WireError::Ports)?)?,
            };
            // A run that was split over parts is one again.
            match self
                .runs
                .iter_mut()
                .find(|r| (r.state, r.reason, r.since) == (known.state, known.reason, known.since))
            {
                Some(same) => same.ports = same.ports.union(&known.ports),
                None => self.runs.push(known),
            }
        }
        Ok(usize::try_from(part.parts).unwrap_or(usize::MAX))
    }
}

fn part_key(prefix: &[u8], number: usize) -> Vec<u8> {
    [prefix, &[u8::try_from(number).unwrap_or(u8::MAX)]].concat()
}

/// Ports in pieces that each fit into one value.
pub(super) fn split(ports: &PortSet) -> Vec<PortSet> {
    let ranges: Vec<_> = ports.ranges().collect();
    ranges.chunks(RANGES_PER_PART).map(|chunk| chunk.iter().cloned().collect()).collect()
}

/// Writes a host as parts of bounded size, and removes the parts that are no longer needed.
pub(super) fn write_parts(writes: &mut Writes, prefix: &[u8], state: &HostState, standing: usize) {
    use prost::Message as _;
    let mut parts: Vec<Vec<RunRecord>> = vec![Vec::new()];
    let mut size = 0;
    for run in &state.runs {
        for ports in split(&run.ports) {
            let record = RunRecord::from(&KnownRun { ports, ..run.clone() });
            let length = record.encoded_len() + 4;
            if size + length > MAX_VALUE_BYTES - 512 && size > 0 {
                parts.push(Vec::new());
                size = 0;
            }
            size += length;
            if let Some(last) = parts.last_mut() {
                last.push(record);
            }
        }
    }
    let count = parts.len();
    for (number, runs) in parts.into_iter().enumerate() {
        let part = HostPart {
            target: state.target.clone(),
            first_seen_ms: state.first_seen.at.as_millisecond(),
            runs,
            first_seen_skew_ms: state.first_seen.skew_ms,
            parts: if number == 0 { u32::try_from(count).unwrap_or(u32::MAX) } else { 0 },
            last_change: state.last_change.filter(|_| number == 0),
        };
        let unknown = if number == 0 { state.unknown.as_slice() } else { &[] };
        writes.put(part_key(prefix, number), encode_with(&part, unknown));
    }
    for number in count..standing {
        writes.remove(part_key(prefix, number));
    }
}

/// Which part of the inventory is asked for.
#[derive(Clone, Debug, Default)]
pub struct InventoryQuery {
    /// Whose address space.
    pub tenant: String,
    /// Only these addresses.
    pub host: Option<IpNet>,
    /// Also ports that are not open.
    pub all: bool,
}

/// Ports of one host that share everything but their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryRow {
    /// Who saw it.
    pub satellite: SatelliteId,
    /// The host.
    pub address: IpAddr,
    /// As it was last scanned.
    pub target: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The state.
    pub state: PortState,
    /// Why.
    pub reason: Reason,
    /// Which ports.
    pub ports: PortSet,
    /// When they took this state, as far as was seen.
    pub since: Timestamp,
    /// The last sweep that covered all of them; when they took the state, until there is one.
    pub last_seen: Timestamp,
}

impl Store {
    /// Hands a tenant's inventory to `each`, ordered by address, until it breaks. Blocking.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn inventory(
        &self,
        query: &InventoryQuery,
        mut each: impl FnMut(InventoryRow) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let trees = self.trees()?;
        let mut sweeps = Sweeps::new(&trees, &query.tenant);
        let mut current: Option<(Seen, HostState)> = None;
        for entry in host_range(&trees.state, &query.tenant, query.host) {
            let (key, value) = entry?;
            let Some((address, satellite, protocol, part)) = keys::parse_host(&key) else {
                return Err(RecordError::Content("a host's key").into());
            };
            if part == 0 {
                if let Some((seen, state)) = current.take()
                    && emit(&mut sweeps, query, seen, &state, &mut each)?.is_break()
                {
                    return Ok(());
                }
                current = Some((Seen { address, satellite, protocol }, HostState::unknown()));
            }
            if let Some((.., state)) = &mut current {
                state.add_part(&value)?;
            }
        }
        if let Some((seen, state)) = current {
            // Nothing comes after it that a break would stop.
            let _ = emit(&mut sweeps, query, seen, &state, &mut each)?;
        }
        Ok(())
    }
}

fn host_range(state: &sled::Tree, tenant: &str, host: Option<IpNet>) -> sled::Iter {
    match host {
        None => state.scan_prefix(keys::tenant(keys::HOST, tenant)),
        Some(net) => {
            let first = keys::address(keys::HOST, tenant, net.network());
            let mut last = keys::address(keys::HOST, tenant, net.broadcast());
            // Past every key of the last address: a satellite's id has 16 bytes, then protocol and part.
            last.extend([0xff; 18]);
            state.range(first..=last)
        }
    }
}

/// What a host's key says.
#[derive(Clone, Copy)]
struct Seen {
    address: IpAddr,
    satellite: SatelliteId,
    protocol: Protocol,
}

fn emit(
    sweeps: &mut Sweeps<'_>,
    query: &InventoryQuery,
    Seen { address, satellite, protocol }: Seen,
    state: &HostState,
    each: &mut impl FnMut(InventoryRow) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StoreError> {
    for run in &state.runs {
        if run.state != PortState::Open && !query.all {
            continue;
        }
        // An open port's confirmation is worth a row of its own; the closed ones go together.
        let pieces: Vec<PortSet> = if run.state == PortState::Open {
            run.ports.iter().map(PortSet::single).collect()
        } else {
            vec![run.ports.clone()]
        };
        for ports in pieces {
            let confirmed = sweeps.last_covering(satellite, address, protocol, &ports, run.since.order)?;
            let row = InventoryRow {
                satellite,
                address,
                target: state.target.clone(),
                protocol,
                state: run.state,
                reason: run.reason,
                ports,
                since: run.since.shown(),
                last_seen: confirmed.unwrap_or(run.since.shown()),
            };
            if each(row).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

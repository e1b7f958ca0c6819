//! Every state change of a host, by vantage point, oldest first.

use super::MAX_AHEAD;
use super::changes::{Pointer, Read, Reader};
use super::engine::Trees;
use super::gap::{Gap, GapRecord};
use super::ingest::NameRecord;
use super::inventory::HostState;
use super::record::{RecordError, decode};
use super::view::View as _;
use super::{Store, StoreError, keys};
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::ports::PortSet;
use portolan_proto::convert;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;

/// Which changes are asked for.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Whose address space.
    pub tenant: String,
    /// Which host.
    pub address: IpAddr,
    /// Only this port.
    pub port: Option<u16>,
    /// Only from then on.
    pub since: Timestamp,
}

/// Ports that changed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When it was seen, by the satellite's clock, corrected by how wrong that was.
    pub at: Timestamp,
    /// Who saw it.
    pub satellite: SatelliteId,
    /// The host.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// Which ports.
    pub ports: PortSet,
    /// The state before.
    pub from: PortState,
    /// The state since.
    pub to: PortState,
    /// Why.
    pub reason: Reason,
    /// It reached the server long after it was seen.
    pub late: bool,
}

/// When a vantage point first saw the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstSeen {
    /// Which vantage point.
    pub satellite: SatelliteId,
    /// When.
    pub at: Timestamp,
}

impl Store {
    /// The addresses that were scanned by a name in a tenant.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn addresses_of(&self, tenant: &str, name: &str) -> Result<Vec<IpAddr>, StoreError> {
        let Some(bytes) = self.trees()?.get(&keys::name(tenant, name))? else { return Ok(Vec::new()) };
        let record: NameRecord = decode(&bytes)?;
        record.addresses.iter().map(|a| Ok(convert::address_from_wire(a)?)).collect()
    }

    /// When each vantage point first saw a host. Blocking.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn first_seen(&self, tenant: &str, address: IpAddr) -> Result<Vec<FirstSeen>, StoreError> {
        let mut first: BTreeMap<SatelliteId, Timestamp> = BTreeMap::new();
        let trees = self.trees()?;
        for entry in trees.state.scan_prefix(keys::address(keys::HOST, tenant, address)) {
            let (key, _) = entry?;
            let Some((_, satellite, _, part)) = keys::parse_host(&key) else {
                return Err(RecordError::Content("a host's key").into());
            };
            if part == 0 {
                let prefix = &key[..key.len() - 1];
                let (state, _) = HostState::read(trees.as_ref(), prefix)?;
                let seen = state.first_seen.shown();
                let at = first.entry(satellite).or_insert(seen);
                *at = seen.min(*at);
            }
        }
        let mut seen: Vec<_> = first.into_iter().map(|(satellite, at)| FirstSeen { satellite, at }).collect();
        seen.sort_by_key(|entry| entry.at);
        Ok(seen)
    }

    /// Hands a host's changes to `each`, oldest first, until it breaks. What one satellite saw comes in the order in
    /// which it saw it, whatever its clock said; what several saw is put together by their corrected times. Blocking.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn history(
        &self,
        query: &HistoryQuery,
        mut each: impl FnMut(Change) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let trees = self.trees()?;
        // What was committed before cannot have been seen after it, but by a clock that ran ahead.
        let since = query.since.saturating_sub(MAX_AHEAD * 2).unwrap_or(Timestamp::UNIX_EPOCH);
        let oldest = keys::month(&keys::log_tree(since));
        let mut walks = Vec::new();
        for (satellite, last) in last_changes(&trees, query)? {
            walks.push(Walk::new(&trees, satellite, last, oldest)?);
        }
        loop {
            let oldest = walks.iter_mut().filter(|walk| walk.head.is_some()).min_by_key(|walk| walk.at);
            let Some(walk) = oldest else { return Ok(()) };
            let satellite = walk.satellite;
            let Some(read) = walk.next()? else { continue };
            let at = read.shown()?;
            let mut ports = read.ports()?;
            if let Some(port) = query.port {
                ports = ports.intersection(&PortSet::single(port));
            }
            if at < query.since || ports.is_empty() {
                continue;
            }
            let change = Change {
                at,
                satellite,
                address: query.address,
                protocol: read.entry.protocol().try_into()?,
                ports,
                from: read.entry.from().try_into()?,
                to: read.entry.to().try_into()?,
                reason: read.entry.reason().try_into()?,
                late: read.entry.late,
            };
            if each(change).is_break() {
                return Ok(());
            }
        }
    }

    /// What never arrived from a satellite, newest first, at most so many. Blocking.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn gaps(&self, satellite: SatelliteId, limit: usize) -> Result<Vec<Gap>, StoreError> {
        let trees = self.trees()?;
        let prefix = keys::gaps_of(satellite);
        let mut gaps = Vec::new();
        for tree in trees.logs_since(Timestamp::UNIX_EPOCH)?.iter().rev() {
            for entry in tree.scan_prefix(&prefix).rev() {
                if gaps.len() == limit {
                    return Ok(gaps);
                }
                gaps.push(Gap::from(decode::<GapRecord>(&entry?.1)?));
            }
        }
        Ok(gaps)
    }
}

/// Where the last change of the host is logged, for each satellite and protocol that saw it.
fn last_changes(trees: &Trees, query: &HistoryQuery) -> Result<Vec<(SatelliteId, Pointer)>, StoreError> {
    let mut last = Vec::new();
    for entry in trees.state.scan_prefix(keys::address(keys::HOST, &query.tenant, query.address)) {
        let (key, _) = entry?;
        let Some((_, satellite, _, part)) = keys::parse_host(&key) else {
            return Err(RecordError::Content("a host's key").into());
        };
        if part == 0 {
            let (state, _) = HostState::read(trees, &key[..key.len() - 1])?;
            last.extend(state.last_change.map(|pointer| (satellite, pointer)));
        }
    }
    Ok(last)
}

/// One satellite's changes of one protocol of the host, in their order.
struct Walk<'a> {
    satellite: SatelliteId,
    reader: Reader<'a>,
    trail: std::vec::IntoIter<Pointer>,
    head: Option<Read>,
    /// The latest time up to the head: a clock that was set back must not put what follows before what went.
    at: Timestamp,
}

impl<'a> Walk<'a> {
    fn new(trees: &'a Trees, satellite: SatelliteId, last: Pointer, oldest: u32) -> Result<Self, StoreError> {
        let mut reader = Reader::new(trees, satellite);
        let trail = reader.trail(Some(last), oldest)?.into_iter();
        let mut walk = Self { satellite, reader, trail, head: None, at: Timestamp::MIN };
        walk.next()?;
        Ok(walk)
    }

    /// Takes the head off and reads the one behind it.
    fn next(&mut self) -> Result<Option<Read>, StoreError> {
        let mut next = None;
        while next.is_none()
            && let Some(at) = self.trail.next()
        {
            // `None`: its month was dropped in the meantime.
            next = self.reader.read(at)?;
        }
        if let Some(next) = &next {
            self.at = self.at.max(next.shown()?);
        }
        Ok(std::mem::replace(&mut self.head, next))
    }
}

//! Every state change of a host, by vantage point, oldest first.

use super::MAX_AHEAD;
use super::gap::{Gap, GapRecord};
use super::ingest::{ChangeRecord, NameRecord};
use super::inventory::HostState;
use super::moment::{Moment, Order};
use super::record::{RecordError, decode};
use super::view::View as _;
use super::{Store, StoreError, keys};
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::ports::PortSet;
use portolan_proto::convert::{self, WireError};
use std::collections::{BTreeMap, BTreeSet};
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
        let logs = trees.logs_since(since)?;
        let mut walks = Vec::new();
        for satellite in satellites_of(&logs, query)? {
            walks.push(Walk::new(&logs, &keys::changes_of(&query.tenant, query.address, satellite))?);
        }
        loop {
            let oldest = walks.iter_mut().filter(|walk| walk.head.is_some()).min_by_key(|walk| walk.at);
            let Some(walk) = oldest else { return Ok(()) };
            let Some(Head { satellite, moment, record }) = walk.next()? else { continue };
            let at = moment.shown();
            if at < query.since {
                continue;
            }
            for change in &record.changes {
                let mut ports = PortSet::try_from(change.ports.as_ref().ok_or(WireError::Ports)?)?;
                if let Some(port) = query.port {
                    ports = ports.intersection(&PortSet::single(port));
                }
                if ports.is_empty() {
                    continue;
                }
                let change = Change {
                    at,
                    satellite,
                    address: query.address,
                    protocol: change.protocol().try_into()?,
                    ports,
                    from: change.from().try_into()?,
                    to: change.to().try_into()?,
                    reason: change.reason().try_into()?,
                    late: record.late,
                };
                if each(change).is_break() {
                    return Ok(());
                }
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

/// The satellites that logged changes of the host.
fn satellites_of(logs: &[sled::Tree], query: &HistoryQuery) -> Result<BTreeSet<SatelliteId>, StoreError> {
    let prefix = keys::address(keys::CHANGE, &query.tenant, query.address);
    let mut satellites = BTreeSet::new();
    for tree in logs {
        let mut from = prefix.clone();
        while let Some(entry) = tree.range(from..).next() {
            let (key, _) = entry?;
            if !key.starts_with(&prefix) {
                break;
            }
            let (satellite, _) = keys::parse_change(&key).ok_or(RecordError::Content("a change's key"))?;
            satellites.insert(satellite);
            // On to the next satellite: past everything of this one.
            from = keys::changes_of(&query.tenant, query.address, satellite);
            from.extend([0xff; 15]);
        }
    }
    Ok(satellites)
}

/// One satellite's changes of the host, in their order.
struct Walk {
    entries: Box<dyn Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>>,
    head: Option<Head>,
    /// The latest time up to the head: a clock that was set back must not put what follows before what went.
    at: Timestamp,
}

struct Head {
    satellite: SatelliteId,
    moment: Moment,
    record: ChangeRecord,
}

impl Walk {
    fn new(logs: &[sled::Tree], prefix: &[u8]) -> Result<Self, StoreError> {
        let entries: Vec<sled::Iter> = logs.iter().map(|tree| tree.scan_prefix(prefix)).collect();
        let entries = Box::new(entries.into_iter().flatten());
        let mut walk = Self { entries, head: None, at: Timestamp::MIN };
        walk.next()?;
        Ok(walk)
    }

    /// Takes the head off and reads the one behind it.
    fn next(&mut self) -> Result<Option<Head>, StoreError> {
        let next = match self.entries.next() {
            None => None,
            Some(entry) => {
                let (key, value) = entry?;
                let (satellite, order) =
                    keys::parse_change(&key).ok_or(RecordError::Content("a change's key"))?;
                let record: ChangeRecord = decode(&value)?;
                Some(Head { satellite, moment: moment_of(&record, order)?, record })
            }
        };
        if let Some(next) = &next {
            self.at = self.at.max(next.moment.shown());
        }
        Ok(std::mem::replace(&mut self.head, next))
    }
}

fn moment_of(record: &ChangeRecord, order: Order) -> Result<Moment, StoreError> {
    Ok(Moment { order, at: convert::time_from_wire(record.at_ms)?, skew_ms: record.skew_ms })
}

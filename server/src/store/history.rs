//! Every state change of a host, by vantage point, oldest first.

use super::ingest::{ChangeRecord, NameRecord};
use super::inventory::HostState;
use super::record::{RecordError, decode};
use super::{Store, StoreError, keys};
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::ports::PortSet;
use portolan_proto::convert::{self, WireError};
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
    /// When it was seen, by the satellite's clock.
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
        let Some(bytes) = self.trees.state.get(keys::name(tenant, name))? else { return Ok(Vec::new()) };
        let record: NameRecord = decode(&bytes)?;
        record.addresses.iter().map(|a| Ok(convert::address_from_wire(a)?)).collect()
    }

    /// When each vantage point first saw a host. Blocking.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn first_seen(&self, tenant: &str, address: IpAddr) -> Result<Vec<FirstSeen>, StoreError> {
        let mut first: BTreeMap<SatelliteId, Timestamp> = BTreeMap::new();
        for entry in self.trees.state.scan_prefix(keys::address(keys::HOST, tenant, address)) {
            let (key, _) = entry?;
            let Some((_, satellite, _, part)) = keys::parse_host(&key) else {
                return Err(RecordError::Content("a host's key").into());
            };
            if part == 0 {
                let (state, _) = HostState::read(&self.trees, &key)?;
                let at = first.entry(satellite).or_insert(state.first_seen);
                *at = state.first_seen.min(*at);
            }
        }
        let mut seen: Vec<_> = first.into_iter().map(|(satellite, at)| FirstSeen { satellite, at }).collect();
        seen.sort_by_key(|entry| entry.at);
        Ok(seen)
    }

    /// Hands a host's changes to `each`, oldest first, until it breaks. Blocking.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn history(
        &self,
        query: &HistoryQuery,
        mut each: impl FnMut(Change) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let prefix = keys::address(keys::CHANGE, &query.tenant, query.address);
        let mut from = prefix.clone();
        from.extend(keys::time(query.since));
        let mut to = prefix;
        to.extend([0xff; 35]);
        // Months are the server's, times the satellites': a late observation may stand a month on.
        for tree in self.trees.logs_since(query.since)? {
            for entry in tree.range(from.clone()..to.clone()) {
                let (key, value) = entry?;
                let (at, satellite) =
                    keys::parse_change(&key).ok_or(RecordError::Content("a change's key"))?;
                let record: ChangeRecord = decode(&value)?;
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
        Ok(())
    }
}

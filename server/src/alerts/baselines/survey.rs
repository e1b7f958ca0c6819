//! What the inventory has of a check's targets: what a baseline is made of, and compared with.

use super::set;
use crate::alerts::context::Reach;
use crate::alerts::error::{AlertsError, shown};
use crate::evaluate::BaselinePorts;
use crate::store::InventoryRow;
use jiff::Timestamp;
use portolan_common::addresses::AddressSet;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol};
use portolan_common::ports::{PortSet, PortSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

/// Hosts that are looked at for one baseline, once for each vantage point and protocol.
const MAX_HOSTS: usize = 500_000;

/// What a check's baseline is about.
#[derive(Clone, Debug)]
pub struct BaselineScope {
    /// The check.
    pub name: String,
    /// Whose address space.
    pub tenant: String,
    /// Where it looks.
    pub reach: Reach,
    /// From where.
    pub satellites: BTreeSet<SatelliteId>,
    /// Every port of it.
    pub ports: PortSpec,
    /// Those that are compared with the baseline.
    pub watch: PortSpec,
}

/// What the inventory has of a check's targets.
#[derive(Clone, Debug)]
pub struct Survey {
    pub(super) scope: BaselineScope,
    pub(super) hosts: BTreeMap<(IpAddr, Protocol, SatelliteId), Vec<Seen>>,
}

/// Ports of a host that share a state.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub state: PortState,
    pub ports: PortSet,
    pub since: Timestamp,
}

/// `ADDRESS`, or `ADDRESS:PORT` with IPv6 in brackets: what is to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The host.
    pub address: IpAddr,
    /// Only this port of it.
    pub port: Option<u16>,
}

impl FromStr for HostPort {
    type Err = AlertsError;

    fn from_str(text: &str) -> Result<Self, AlertsError> {
        let whole = text.parse::<IpAddr>().map(|address| (address, None));
        let with_port = || text.parse::<std::net::SocketAddr>().map(|both| (both.ip(), Some(both.port())));
        whole
            .or_else(|_| with_port())
            .map(|(address, port)| Self { address: address.to_canonical(), port })
            .map_err(|_| {
                AlertsError::Invalid(format!(
                    "`{}` is neither ADDRESS nor ADDRESS:PORT (10.0.0.1:22, [fd00::1]:22)",
                    shown(text)
                ))
            })
    }
}

impl Survey {
    /// Of nothing yet.
    pub fn new(scope: BaselineScope) -> Self {
        Self { scope, hosts: BTreeMap::new() }
    }

    /// What is looked for.
    pub fn scope(&self) -> &BaselineScope {
        &self.scope
    }

    /// Takes in a row of the inventory, if it is of the check.
    ///
    /// # Errors
    /// [`AlertsError::Full`] when there are too many hosts.
    pub fn add(&mut self, row: &InventoryRow) -> Result<(), AlertsError> {
        let scope = &self.scope;
        let ports = row.ports.intersection(scope.ports.of(row.protocol));
        let is_of_check =
            scope.satellites.contains(&row.satellite) && scope.reach.contains(row.address, &row.target);
        if !is_of_check || ports.is_empty() {
            return Ok(());
        }
        if self.hosts.len() >= MAX_HOSTS {
            return Err(AlertsError::Full(format!(
                "check {} has over {MAX_HOSTS} hosts, counted once for each vantage point: too many for a baseline, \
                 split the check",
                scope.name
            )));
        }
        let seen = Seen { state: row.state, ports, since: row.since };
        self.hosts.entry((row.address, row.protocol, row.satellite)).or_default().push(seen);
        Ok(())
    }

    pub(super) fn open(seen: &[Seen]) -> PortSet {
        let open = seen.iter().filter(|seen| seen.state == PortState::Open);
        open.fold(PortSet::default(), |all, seen| all.union(&seen.ports))
    }

    /// What it is as a baseline.
    pub(super) fn ports(&self) -> BaselinePorts {
        let mut ports = BaselinePorts::default();
        let mut seen: BTreeMap<SatelliteId, BTreeSet<IpAddr>> = BTreeMap::new();
        for ((address, protocol, satellite), runs) in &self.hosts {
            if self.is_looked_at(*address, *satellite) {
                seen.entry(*satellite).or_default().insert(*address);
            }
            set(&mut ports, (*address, *protocol), *satellite, Self::open(runs));
        }
        ports.seen = seen.into_iter().map(|(id, addresses)| (id, addresses.into_iter().collect())).collect();
        ports
    }

    /// Whether a vantage point has looked at all ports of an address that are compared. Where it has not, what it did not
    /// look at would count as closed, and be new when it does.
    fn is_looked_at(&self, address: IpAddr, satellite: SatelliteId) -> bool {
        Protocol::ALL.iter().copied().all(|protocol| {
            let runs = self.hosts.get(&(address, protocol, satellite)).map_or(&[][..], Vec::as_slice);
            let looked = runs.iter().fold(PortSet::default(), |all, seen| all.union(&seen.ports));
            self.scope.watch.of(protocol).difference(&looked).is_empty()
        })
    }

    /// Addresses of the check that nobody looked at, of those that are written out.
    pub(super) fn unseen(&self) -> u64 {
        let hosts =
            self.hosts.keys().filter(|(address, _, satellite)| self.is_looked_at(*address, *satellite));
        let seen: AddressSet = hosts.map(|(address, ..)| *address).collect();
        u64::try_from(self.scope.reach.addresses().difference(&seen).len()).unwrap_or(u64::MAX)
    }
}

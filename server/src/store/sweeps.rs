//! Sweep records: one small record that proves what an unchanged sweep covered.

use super::record::decode;
use super::{StoreError, Trees, keys};
use jiff::Timestamp;
use portolan_common::addresses::AddressSet;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::Protocol;
use portolan_common::ports::{PortSet, PortSpec};
use portolan_proto::convert;
use portolan_proto::v1;
use std::collections::HashMap;
use std::net::IpAddr;

/// Address ranges in one record; an IPv6 range has at most 80 bytes.
const RANGES_PER_RECORD: usize = 80;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SweepRecord {
    #[prost(int64, tag = "1")]
    pub started_at_ms: i64,
    #[prost(int64, tag = "2")]
    pub finished_at_ms: i64,
    #[prost(enumeration = "v1::scan_end::Outcome", tag = "3")]
    pub outcome: i32,
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
    #[prost(string, tag = "5")]
    pub ports: String,
    #[prost(uint64, tag = "6")]
    pub hosts_up: u64,
    #[prost(uint64, tag = "7")]
    pub hosts_total: u64,
    #[prost(uint64, tag = "8")]
    pub probes_sent: u64,
    #[prost(string, tag = "9")]
    pub method: String,
    #[prost(uint64, tag = "10")]
    pub refusals: u64,
}

impl SweepRecord {
    /// The records of one sweep: one in the ordinary case, more when its coverage is scattered.
    pub(super) fn from_end(end: &v1::ScanEnd) -> Vec<Self> {
        let base = Self {
            started_at_ms: end.started_at_ms,
            finished_at_ms: end.finished_at_ms,
            outcome: end.outcome,
            addresses: Vec::new(),
            ports: String::new(),
            hosts_up: end.hosts_up,
            hosts_total: end.hosts_total,
            probes_sent: end.probes_sent,
            method: end.method.chars().take(32).collect(),
            refusals: end.refusals.len() as u64 + end.refusals_dropped,
        };
        let mut records: Vec<Self> = end
            .coverage
            .iter()
            // A port list that would not fit is evidence lost, not a record that breaks the store.
            .filter(|coverage| coverage.ports.len() <= 1024)
            .flat_map(|coverage| coverage.addresses.chunks(RANGES_PER_RECORD).map(|a| (a, &coverage.ports)))
            .map(|(addresses, ports)| Self {
                addresses: addresses.iter().map(|range| range.chars().take(80).collect()).collect(),
                ports: ports.clone(),
                ..base.clone()
            })
            .collect();
        if records.is_empty() {
            records.push(base);
        }
        records
    }
}

/// What was covered when.
struct Covered {
    at: Timestamp,
    addresses: AddressSet,
    ports: PortSpec,
}

/// The sweeps of a tenant's satellites, read when first asked for and only as far back as is needed.
pub(super) struct Sweeps<'a> {
    trees: &'a Trees,
    tenant: &'a str,
    loaded: HashMap<SatelliteId, (Timestamp, Vec<Covered>)>,
}

impl<'a> Sweeps<'a> {
    pub(super) fn new(trees: &'a Trees, tenant: &'a str) -> Self {
        Self { trees, tenant, loaded: HashMap::new() }
    }

    /// The end of the newest sweep, not before `since`, that covered all these ports of the address.
    pub(super) fn last_covering(
        &mut self,
        satellite: SatelliteId,
        address: IpAddr,
        protocol: Protocol,
        ports: &PortSet,
        since: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let known = self.loaded.get(&satellite).is_some_and(|(from, _)| *from <= since);
        if !known {
            let sweeps = self.load(satellite, since)?;
            self.loaded.insert(satellite, (since, sweeps));
        }
        let sweeps = self.loaded.get(&satellite).map(|(_, sweeps)| sweeps.as_slice()).unwrap_or_default();
        Ok(sweeps
            .iter()
            .rev()
            .take_while(|sweep| sweep.at >= since)
            .find(|sweep| {
                sweep.addresses.contains(address) && ports.difference(sweep.ports.of(protocol)).is_empty()
            })
            .map(|sweep| sweep.at))
    }

    fn load(&self, satellite: SatelliteId, since: Timestamp) -> Result<Vec<Covered>, StoreError> {
        let prefix = keys::sweeps_of(self.tenant, satellite);
        let mut from = prefix.clone();
        from.extend(keys::time(since));
        let mut to = prefix;
        to.extend([0xff; 27]);
        let mut sweeps = Vec::new();
        for tree in self.trees.logs_since(since)? {
            for entry in tree.range(from.clone()..to.clone()) {
                let record: SweepRecord = decode(&entry?.1)?;
                let addresses = record
                    .addresses
                    .iter()
                    .filter_map(|range| range.parse::<AddressSet>().ok())
                    .fold(AddressSet::default(), |all, range| all.union(&range));
                let ports = record.ports.parse().unwrap_or_default();
                sweeps.push(Covered {
                    at: convert::time_from_wire(record.finished_at_ms)?,
                    addresses,
                    ports,
                });
            }
        }
        // A tree is chosen by the server's clock, the key by the satellite's.
        sweeps.sort_by_key(|sweep| sweep.at);
        Ok(sweeps)
    }
}

//! Sweep records: one small record that proves what an unchanged sweep covered.

use super::engine::Trees;
use super::inventory::split;
use super::moment::{Order, corrected};
use super::record::{RecordError, decode};
use super::{StoreError, keys};
use jiff::Timestamp;
use portolan_common::addresses::{AddressRange, AddressSet};
use portolan_common::ids::SatelliteId;
use portolan_common::observation::Protocol;
use portolan_common::ports::{PortSet, PortSpec};
use portolan_proto::convert;
use portolan_proto::v1;
use std::collections::HashMap;
use std::net::IpAddr;

/// Address ranges in one record; an IPv6 range has at most 80 bytes. Ports take at most 7 KB beside them only when
/// the ranges are few, so both are kept well below the largest value.
const RANGES_PER_RECORD: usize = 12;

/// Records of one sweep: 2 MB at most, whatever a satellite claims to have covered.
const MAX_RECORDS: usize = 256;
/// Port lists of one sweep; a satellite has a few, where its scope differs from host to host.
const MAX_COVERAGES: usize = 64;

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
    #[prost(message, optional, tag = "5")]
    pub tcp: Option<v1::PortSpans>,
    #[prost(message, optional, tag = "6")]
    pub udp: Option<v1::PortSpans>,
    #[prost(uint64, tag = "7")]
    pub hosts_up: u64,
    #[prost(uint64, tag = "8")]
    pub hosts_total: u64,
    #[prost(uint64, tag = "9")]
    pub probes_sent: u64,
    #[prost(string, tag = "10")]
    pub method: String,
    #[prost(uint64, tag = "11")]
    pub refusals: u64,
    #[prost(sint64, tag = "12")]
    pub skew_ms: i64,
}

impl SweepRecord {
    /// The records of one sweep: one in the ordinary case, more when its coverage is scattered.
    pub(super) fn from_end(end: &v1::ScanEnd, finished: Timestamp, skew_ms: i64) -> Vec<Self> {
        let base = Self {
            started_at_ms: end.started_at_ms,
            finished_at_ms: finished.as_millisecond(),
            outcome: end.outcome,
            addresses: Vec::new(),
            tcp: None,
            udp: None,
            hosts_up: end.hosts_up,
            hosts_total: end.hosts_total,
            probes_sent: end.probes_sent,
            method: end.method.chars().take(32).collect(),
            refusals: end.refusals.len() as u64 + end.refusals_dropped,
            skew_ms,
        };
        let mut records = Vec::new();
        let mut dropped = 0usize;
        for (number, coverage) in end.coverage.iter().enumerate() {
            // Before anything is parsed: whoever sends a hundred thousand must not keep everybody else waiting.
            if number == MAX_COVERAGES || records.len() >= MAX_RECORDS {
                dropped += end.coverage[number..].iter().map(|rest| rest.addresses.len()).sum::<usize>();
                break;
            }
            let Ok(ports) = coverage.ports.parse::<PortSpec>() else {
                dropped += coverage.addresses.len();
                continue;
            };
            let pieces = split(&ports.tcp)
                .into_iter()
                .map(|tcp| (Some((&tcp).into()), None))
                .chain(split(&ports.udp).into_iter().map(|udp| (None, Some((&udp).into()))));
            let pieces: Vec<(Option<v1::PortSpans>, Option<v1::PortSpans>)> = pieces.collect();
            for chunk in coverage.addresses.chunks(RANGES_PER_RECORD) {
                if records.len() + pieces.len() > MAX_RECORDS {
                    dropped += chunk.len();
                    continue;
                }
                // One spelling, and nothing that could not be read back.
                let addresses: Vec<String> = chunk
                    .iter()
                    .filter_map(|range| range.parse::<AddressRange>().ok())
                    .map(|range| range.to_string())
                    .collect();
                dropped += chunk.len() - addresses.len();
                records.extend(pieces.iter().map(|(tcp, udp)| Self {
                    addresses: addresses.clone(),
                    tcp: tcp.clone(),
                    udp: udp.clone(),
                    ..base.clone()
                }));
            }
        }
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "address ranges of a sweep's coverage were malformed or too many; they prove nothing"
            );
        }
        if records.is_empty() {
            records.push(base);
        }
        records
    }
}

/// What was covered when.
struct Covered {
    order: Order,
    /// Its end, as people are shown it.
    at: Timestamp,
    addresses: AddressSet,
    tcp: PortSet,
    udp: PortSet,
}

/// The sweeps of a tenant's satellites, read newest first and only as far back as is needed: the newest sweep mostly
/// answers.
pub(super) struct Sweeps<'a> {
    trees: &'a Trees,
    tenant: &'a str,
    satellites: HashMap<SatelliteId, Walk>,
}

/// How far back a satellite's sweeps were read.
struct Walk {
    /// Trees not yet begun, oldest first.
    trees: Vec<sled::Tree>,
    current: Option<sled::Iter>,
    /// Newest first.
    read: Vec<Covered>,
}

impl<'a> Sweeps<'a> {
    pub(super) fn new(trees: &'a Trees, tenant: &'a str) -> Self {
        Self { trees, tenant, satellites: HashMap::new() }
    }

    /// The end of the newest sweep, not before `since`, that covered all these ports of the address, as people are shown
    /// it.
    pub(super) fn last_covering(
        &mut self,
        satellite: SatelliteId,
        address: IpAddr,
        protocol: Protocol,
        ports: &PortSet,
        since: Order,
    ) -> Result<Option<Timestamp>, StoreError> {
        let prefix = keys::sweeps_of(self.tenant, satellite);
        let walk = match self.satellites.entry(satellite) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Walk {
                trees: self.trees.logs_since(Timestamp::UNIX_EPOCH)?,
                current: None,
                read: Vec::new(),
            }),
        };
        let mut index = 0;
        loop {
            if index == walk.read.len() && !walk.read_one(&prefix)? {
                return Ok(None);
            }
            let Some(sweep) = walk.read.get(index) else { return Ok(None) };
            if sweep.order < since {
                return Ok(None);
            }
            let covered = match protocol {
                Protocol::Tcp => &sweep.tcp,
                Protocol::Udp => &sweep.udp,
            };
            if sweep.addresses.contains(address) && ports.difference(covered).is_empty() {
                return Ok(Some(sweep.at));
            }
            index += 1;
        }
    }
}

impl Walk {
    /// Reads the next older sweep; `false` when there is none.
    fn read_one(&mut self, prefix: &[u8]) -> Result<bool, StoreError> {
        loop {
            if let Some(entry) = self.current.as_mut().and_then(DoubleEndedIterator::next_back) {
                let (key, value) = entry?;
                let order = key.get(prefix.len()..).and_then(keys::parse_order);
                let order = order.ok_or(RecordError::Content("a sweep's key"))?;
                let record: SweepRecord = decode(&value)?;
                // What was not checked on its way in by some earlier version proves nothing, and hinders nothing.
                let addresses =
                    record.addresses.iter().filter_map(|range| range.parse::<AddressRange>().ok());
                let addresses: AddressSet = addresses.collect();
                let ports = |spans: &Option<v1::PortSpans>| {
                    spans.as_ref().map_or_else(|| Ok(PortSet::default()), PortSet::try_from)
                };
                self.read.push(Covered {
                    order,
                    at: corrected(convert::time_from_wire(record.finished_at_ms)?, record.skew_ms),
                    addresses,
                    tcp: ports(&record.tcp)?,
                    udp: ports(&record.udp)?,
                });
                return Ok(true);
            }
            let Some(tree) = self.trees.pop() else { return Ok(false) };
            self.current = Some(tree.scan_prefix(prefix));
        }
    }
}

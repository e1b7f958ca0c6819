//! After a restart: alerts come back from the store, what fired goes on firing, and what was looked at not long ago
//! still counts, so that a check that runs once a day is not unknown until tomorrow.

use super::Evaluation;
use crate::alerts::{Alert, AlertName, Alerts, Unreadable, random_ids};
use crate::evaluate::{Expected, Saved, Sighting, State};
use crate::store::{DocumentWrite, InventoryQuery, Kind, Order, Store, StoreError};
use jiff::Timestamp;
use portolan_common::expectation::Expectation;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{HostObservation, PortState, StateRun};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Checks that are looked at more often are known again soon enough by themselves.
const RARE: Duration = Duration::from_secs(60);

/// Reads the alerts back, with all that belongs to them.
pub(super) fn alerts(store: &Store) -> Result<Alerts, StoreError> {
    Alerts::load(|kind| store.documents(kind), random_ids())
}

impl From<Unreadable> for StoreError {
    fn from(error: Unreadable) -> Self {
        Self::Document(error.to_string())
    }
}

/// What the evaluator knew of an alert's port or host.
fn saved(alert: &Alert) -> Option<Saved> {
    let expected = match alert.name {
        AlertName::PortNotOpen => Expected::Port(Expectation::Open),
        AlertName::PortOpen => Expected::Port(Expectation::Closed),
        AlertName::PortReachable => Expected::Port(Expectation::Blocked),
        AlertName::HostDown => Expected::Up,
        AlertName::BaselineNew => Expected::Baseline { open: false },
        AlertName::BaselineVanished => Expected::Baseline { open: true },
        AlertName::SatelliteOffline | AlertName::CheckUnknown => return None,
    };
    Some(Saved {
        key: alert.subject.key()?.clone(),
        target: alert.target.clone(),
        expected,
        state: if alert.unknown { State::Unknown } else { State::Firing },
        since: alert.since,
        flapping: alert.flapping,
        sights: alert.sights.clone(),
    })
}

/// Until when a satellite has looked at all of a check's addresses: eight bytes, milliseconds.
fn coverage_key(check: &str, satellite: SatelliteId) -> Vec<u8> {
    [satellite.as_bytes().as_slice(), check.as_bytes()].concat()
}

fn read_coverage(key: &[u8], value: &[u8]) -> Option<(String, SatelliteId, Timestamp)> {
    let (satellite, check) = key.split_at_checked(16)?;
    let at = Timestamp::from_millisecond(i64::from_be_bytes(value.try_into().ok()?)).ok()?;
    Some((std::str::from_utf8(check).ok()?.to_owned(), SatelliteId::from_slice(satellite)?, at))
}

impl Evaluation {
    /// Takes up what was known before the restart. Blocking.
    pub(super) fn resume(&self, now: Instant) -> Result<(), StoreError> {
        let steady = self.clock.at(now);
        let coverage = self.store.documents(Kind::Coverage)?;
        let coverage: Vec<_> = coverage.iter().filter_map(|(key, value)| read_coverage(key, value)).collect();
        // By satellite, then by check.
        let mut covered: HashMap<SatelliteId, HashMap<String, Timestamp>> = HashMap::new();
        for (check, satellite, at) in &coverage {
            covered.entry(*satellite).or_default().insert(check.clone(), *at);
        }
        let hosts = self.known_hosts(|satellite| covered.contains_key(&satellite))?;
        let mut inner = self.inner();
        let mut transitions = Vec::new();
        let faults = inner.alerts.unresolved().filter_map(saved).collect();
        inner.evaluator.restore(faults, steady, &mut transitions);
        for (tenant, satellite, host) in &hosts {
            let Some(checks) = covered.get(satellite) else { continue };
            // When it was seen is said check by check: the inventory has it from whoever looked there, however long ago.
            let (order, at) = (Order::default(), Timestamp::MIN);
            let sighting = Sighting { tenant, satellite: *satellite, order, at, late: false, host };
            let covered = |check: &str| checks.get(check).copied();
            inner.evaluator.recall(&sighting, covered, steady, &mut transitions);
        }
        inner.covered = coverage.into_iter().map(|(check, id, at)| ((check, id), at)).collect();
        self.conclude(&mut inner, transitions);
        Ok(())
    }

    /// Every host as some satellites last saw it.
    fn known_hosts(
        &self,
        is_of: impl Fn(SatelliteId) -> bool,
    ) -> Result<Vec<(String, SatelliteId, HostObservation)>, StoreError> {
        let mut hosts = Vec::new();
        for tenant in self.registry.tenants() {
            let mut found: BTreeMap<(SatelliteId, IpAddr), HostObservation> = BTreeMap::new();
            let query = InventoryQuery { tenant: tenant.clone(), host: None, all: true };
            self.store.inventory(&query, |row| {
                if !is_of(row.satellite) {
                    return ControlFlow::Continue(());
                }
                let host = found.entry((row.satellite, row.address)).or_insert_with(|| HostObservation {
                    target: row.target.clone(),
                    address: row.address,
                    up: false,
                    observed_at: row.since,
                    runs: Vec::new(),
                    details: Vec::new(),
                    unscanned: Default::default(),
                    suspect: None,
                });
                host.up |= matches!(row.state, PortState::Open | PortState::Closed);
                host.runs.push(StateRun {
                    protocol: row.protocol,
                    state: row.state,
                    reason: row.reason,
                    ports: row.ports,
                });
                ControlFlow::Continue(())
            })?;
            hosts.extend(found.into_iter().map(|((id, _), host)| (tenant.clone(), id, host)));
        }
        Ok(hosts)
    }

    /// Notes until when each satellite has looked at all of each rare check.
    pub(super) fn note_coverage(&self) {
        let wall = Timestamp::now();
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut writes = Vec::new();
        let mut standing = BTreeSet::new();
        for check in inner.compiled.checks.iter().filter(|check| check.schedule.interval(wall) >= RARE) {
            for (satellite, oldest) in inner.evaluator.covered(&check.name) {
                let key = (check.name.clone(), satellite);
                standing.insert(key.clone());
                let oldest = self.shown(oldest);
                if inner.covered.get(&key).is_none_or(|known| *known < oldest) {
                    writes.push(DocumentWrite {
                        kind: Kind::Coverage,
                        key: coverage_key(&key.0, key.1),
                        value: Some(oldest.as_millisecond().to_be_bytes().to_vec()),
                    });
                    inner.covered.insert(key, oldest);
                }
            }
        }
        inner.covered.retain(|key, _| {
            let stays = standing.contains(key);
            if !stays {
                let key = coverage_key(&key.0, key.1);
                writes.push(DocumentWrite { kind: Kind::Coverage, key, value: None });
            }
            stays
        });
        if !writes.is_empty() {
            inner.unwritten.add(writes, Vec::new(), Vec::new());
            self.dirty.notify_one();
        }
    }
}

//! What is there, as far as a policy is concerned: the satellites, what they can do, and what they may.

use crate::store::{DocumentWrite, Kind, SatelliteRecord, Store, StoreError};
use crate::uplink::Live;
use ipnet::IpNet;
use jiff::Timestamp;
use portolan_common::addresses::parse_network;
use portolan_common::ids::SatelliteId;
use portolan_policy::compile::SatelliteFacts;
use portolan_proto::v1;
use prost::Message as _;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The capability of a satellite that runs standing checks.
pub const CHECKS: &str = "checks";
/// Networks of a scope that are kept, of those allowed and of those denied.
const MAX_NETWORKS: usize = 1000;
/// Characters of its ports.
const MAX_PORTS: usize = 4096;

/// Whether a satellite runs standing checks; `None`: it never said.
pub fn runs_checks(record: &SatelliteRecord, live: Option<&Live>) -> Option<bool> {
    match live {
        Some(live) => Some(live.can(CHECKS)),
        None if record.last_seen_at_ms == 0 => None,
        None => Some(record.capabilities.iter().any(|offered| offered == CHECKS)),
    }
}

/// What the policy is told of a satellite.
pub fn facts(
    record: &SatelliteRecord,
    live: Option<&Live>,
    scope: Option<&v1::ScopeReport>,
) -> SatelliteFacts {
    SatelliteFacts {
        segment: record.segment.clone(),
        tenant: record.tenant.clone(),
        pending: record.enrolled_at_ms == 0,
        runs_checks: runs_checks(record, live),
        scope: scope.map(|scope| networks(&scope.allow)),
        scope_denies: scope.map(|scope| networks(&scope.deny)).unwrap_or_default(),
    }
}

fn networks(texts: &[String]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| parse_network(text).ok()).collect()
}

/// The scopes of all satellites, as they last said, also of those that are away.
pub struct Scopes {
    store: Store,
    known: Mutex<HashMap<SatelliteId, v1::ScopeReport>>,
    /// What is not written yet.
    changed: Mutex<BTreeSet<SatelliteId>>,
}

impl Scopes {
    /// Reads what satellites said before.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(store: Store) -> Result<Self, StoreError> {
        let read = |(key, bytes): (Vec<u8>, Vec<u8>)| {
            Some((SatelliteId::from_slice(&key)?, v1::ScopeReport::decode(bytes.as_slice()).ok()?))
        };
        let known = store.documents(Kind::Scope)?.into_iter().filter_map(read).collect();
        Ok(Self { store, known: Mutex::new(known), changed: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<SatelliteId, v1::ScopeReport>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) -> MutexGuard<'_, BTreeSet<SatelliteId>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a satellite last said.
    pub fn of(&self, satellite: SatelliteId) -> Option<v1::ScopeReport> {
        self.known().get(&satellite).cloned()
    }

    /// Notes what a satellite says, in memory at once and on the disk with the next [`Scopes::flush`].
    pub fn note(&self, satellite: SatelliteId, report: &v1::ScopeReport) {
        let report = bounded(report);
        let old = self.known().insert(satellite, report.clone());
        if old.as_ref() != Some(&report) {
            self.changed().insert(satellite);
        }
    }

    /// Writes what changed, and forgets the satellites that `is_kept` denies.
    ///
    /// # Errors
    /// When the store fails; it is written with the next call then.
    pub async fn flush(
        &self,
        is_kept: impl Fn(SatelliteId) -> bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut changed = std::mem::take(&mut *self.changed());
        let documents: Vec<_> = {
            let mut known = self.known();
            known.retain(|id, _| {
                let is_kept = is_kept(*id);
                if !is_kept {
                    changed.insert(*id);
                }
                is_kept
            });
            let value = |id| known.get(id).map(v1::ScopeReport::encode_to_vec);
            changed
                .iter()
                .map(|id| DocumentWrite { kind: Kind::Scope, key: id.as_bytes().to_vec(), value: value(id) })
                .collect()
        };
        if documents.is_empty() {
            return Ok(());
        }
        let written = self.store.put_documents(documents, Vec::new(), now).await;
        if written.is_err() {
            self.changed().extend(changed);
        }
        written
    }
}

/// What is kept of what a satellite says: networks, and of those a thousand.
fn bounded(report: &v1::ScopeReport) -> v1::ScopeReport {
    let networks = |texts: &[String]| {
        let read = texts.iter().take(MAX_NETWORKS).filter_map(|text| parse_network(text).ok());
        read.map(|network| network.to_string()).collect()
    };
    v1::ScopeReport {
        allow: networks(&report.allow),
        deny: networks(&report.deny),
        ports: report.ports.chars().filter(|c| !c.is_control()).take(MAX_PORTS).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn report(allow: &[&str]) -> v1::ScopeReport {
        let allow = allow.iter().map(|text| (*text).to_owned()).collect();
        v1::ScopeReport { allow, ..v1::ScopeReport::default() }
    }

    #[tokio::test]
    async fn what_a_satellite_says_of_its_scope_is_cut_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        Store::create(directory.path()).unwrap();
        let store = Store::open(directory.path(), 1).unwrap();
        let scopes = Scopes::load(store.clone()).unwrap();
        let [a, b] = [1, 2].map(|n| SatelliteId(Uuid::from_u128(n)));
        scopes.note(a, &report(&["10.0.0.0/8", "nonsense", "fd00::/16"]));
        scopes.note(b, &report(&vec!["10.0.0.0/8"; 5000]));
        assert_eq!(scopes.of(a), Some(report(&["10.0.0.0/8", "fd00::/16"])));
        assert_eq!(scopes.of(b).unwrap().allow.len(), MAX_NETWORKS);
        let now = Timestamp::UNIX_EPOCH;
        scopes.flush(|_| true, now).await.unwrap();
        assert_eq!(Scopes::load(store.clone()).unwrap().of(a), scopes.of(a));
        scopes.flush(|id| id == b, now).await.unwrap();
        assert_eq!(scopes.of(a), None);
        assert_eq!(Scopes::load(store.clone()).unwrap().of(a), None);
        store.close();
    }

    #[test]
    fn a_satellite_that_never_connected_did_not_say_what_it_can() {
        let mut record = SatelliteRecord::default();
        assert_eq!(runs_checks(&record, None), None);
        record.last_seen_at_ms = 1;
        assert_eq!(runs_checks(&record, None), Some(false));
        record.capabilities = vec!["connect".into(), CHECKS.into()];
        assert_eq!(runs_checks(&record, None), Some(true));
    }
}

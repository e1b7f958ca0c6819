//! How each check fares on each of its satellites, as they say whenever something of it changes.

use crate::store::{DocumentWrite, Kind, Store, StoreError};
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_common::schedule::MAX_EVERY;
use portolan_proto::v1;
use prost::Message as _;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// As the wire's contract bounds them.
const MAX_ERROR: usize = 1024;
const MAX_NAMED: usize = 20;
const MAX_RANGES: usize = 1000;
const MAX_WORDS: usize = 300;

/// See the module.
pub struct Statuses {
    store: Store,
    /// By check and satellite.
    known: Mutex<HashMap<String, HashMap<SatelliteId, v1::CheckStatus>>>,
}

impl Statuses {
    /// Reads what satellites said before.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(store: Store) -> Result<Self, StoreError> {
        let mut known: HashMap<String, HashMap<_, _>> = HashMap::new();
        for (key, bytes) in store.documents(Kind::CheckStatus)? {
            let satellite = key.last_chunk::<16>().and_then(|id| SatelliteId::from_slice(id));
            let (Some(satellite), Ok(status)) = (satellite, v1::CheckStatus::decode(bytes.as_slice())) else {
                continue;
            };
            known.entry(status.check.clone()).or_default().insert(satellite, status);
        }
        Ok(Self { store, known: Mutex::new(known) })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, HashMap<SatelliteId, v1::CheckStatus>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a satellite last said of a check.
    pub fn of(&self, check: &str, satellite: SatelliteId) -> Option<v1::CheckStatus> {
        self.known().get(check)?.get(&satellite).cloned()
    }

    /// The longest interval that satellites need for a check whose own they cannot hold; zero: they hold it.
    pub fn interval_needed(&self, check: &str) -> Duration {
        let known = self.known();
        let of_each = known.get(check).into_iter().flatten().map(|(_, status)| status.interval_ms);
        Duration::from_millis(of_each.max().unwrap_or_default()).min(MAX_EVERY)
    }

    /// Keeps what a satellite says of its checks, the last of each; returns once that is on the disk.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn note(
        &self,
        satellite: SatelliteId,
        statuses: Vec<v1::CheckStatus>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut newest: HashMap<String, v1::CheckStatus> = HashMap::new();
        for status in statuses {
            newest.insert(status.check.clone(), bounded(status));
        }
        {
            // What comes again after a break is the same.
            let known = self.known();
            newest
                .retain(|check, status| known.get(check).and_then(|of| of.get(&satellite)) != Some(&*status));
        }
        if newest.is_empty() {
            return Ok(());
        }
        let write = |status: &v1::CheckStatus| DocumentWrite {
            kind: Kind::CheckStatus,
            key: key(&status.check, satellite),
            value: Some(status.encode_to_vec()),
        };
        self.store.put_documents(newest.values().map(write).collect(), Vec::new(), now).await?;
        let mut known = self.known();
        for (check, status) in newest {
            known.entry(check).or_default().insert(satellite, status);
        }
        Ok(())
    }

    /// Forgets what was said of checks and by satellites that are no more, as `is_kept` says.
    ///
    /// # Errors
    /// When the store fails; then nothing is forgotten.
    pub async fn prune(
        &self,
        is_kept: impl Fn(&str, SatelliteId) -> bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let gone: Vec<(String, SatelliteId)> = {
            let known = self.known();
            let all = known.iter().flat_map(|(check, of)| of.keys().map(move |id| (check, *id)));
            all.filter(|(check, id)| !is_kept(check, *id)).map(|(check, id)| (check.clone(), id)).collect()
        };
        if gone.is_empty() {
            return Ok(());
        }
        let remove = |(check, satellite): &(String, SatelliteId)| DocumentWrite {
            kind: Kind::CheckStatus,
            key: key(check, *satellite),
            value: None,
        };
        self.store.put_documents(gone.iter().map(remove).collect(), Vec::new(), now).await?;
        let mut known = self.known();
        for (check, satellite) in gone {
            if let Some(of) = known.get_mut(&check) {
                of.remove(&satellite);
                if of.is_empty() {
                    known.remove(&check);
                }
            }
        }
        Ok(())
    }
}

/// Check, a zero, satellite: a name has no zero in it.
fn key(check: &str, satellite: SatelliteId) -> Vec<u8> {
    [check.as_bytes(), &[0], satellite.as_bytes().as_slice()].concat()
}

/// Cut to what the contract allows, so that nobody fills the store.
fn bounded(mut status: v1::CheckStatus) -> v1::CheckStatus {
    let cut = |text: &mut String, length: usize| {
        if text.len() > length || text.chars().any(char::is_control) {
            *text = text.chars().filter(|c| !c.is_control()).take(length).collect();
        }
    };
    cut(&mut status.error, MAX_ERROR);
    cut(&mut status.method, MAX_WORDS);
    status.refusals.truncate(MAX_NAMED);
    for refusal in &mut status.refusals {
        cut(&mut refusal.target, MAX_WORDS);
        cut(&mut refusal.ports, MAX_WORDS);
        cut(&mut refusal.rule, MAX_WORDS);
    }
    status.unresolved.truncate(MAX_NAMED);
    for unresolved in &mut status.unresolved {
        cut(&mut unresolved.name, MAX_WORDS);
        cut(&mut unresolved.error, MAX_WORDS);
    }
    status.addresses.truncate(MAX_RANGES);
    status.addresses.iter_mut().for_each(|range| cut(range, 100));
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn status(check: &str, error: &str) -> v1::CheckStatus {
        v1::CheckStatus { check: check.into(), error: error.into(), ..v1::CheckStatus::default() }
    }

    #[tokio::test]
    async fn the_last_word_of_each_satellite_is_kept_as_long_as_the_check() {
        let directory = tempfile::tempdir().unwrap();
        Store::create(directory.path()).unwrap();
        let store = Store::open(directory.path(), 1).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let [a, b] = [1, 2].map(|n| SatelliteId(Uuid::from_u128(n)));
        let statuses = Statuses::load(store.clone()).unwrap();
        statuses
            .note(a, vec![status("x", "first"), status("x", "last"), status("y", "")], now)
            .await
            .unwrap();
        statuses.note(b, vec![status("x", &"é\n".repeat(5000))], now).await.unwrap();
        for statuses in [&statuses, &Statuses::load(store.clone()).unwrap()] {
            assert_eq!(statuses.of("x", a).unwrap().error, "last");
            assert_eq!(statuses.of("x", b).unwrap().error.chars().count(), MAX_ERROR);
            assert!(statuses.of("y", b).is_none());
        }
        let slow = |interval_ms| v1::CheckStatus { interval_ms, ..status("y", "") };
        statuses.note(a, vec![slow(4000)], now).await.unwrap();
        statuses.note(b, vec![slow(u64::MAX)], now).await.unwrap();
        assert_eq!(statuses.interval_needed("y"), MAX_EVERY);
        statuses.note(b, vec![slow(0)], now).await.unwrap();
        assert_eq!(statuses.interval_needed("y"), Duration::from_secs(4));
        assert_eq!(statuses.interval_needed("x"), Duration::ZERO);
        statuses.prune(|check, satellite| check == "x" && satellite == a, now).await.unwrap();
        for statuses in [&statuses, &Statuses::load(store.clone()).unwrap()] {
            assert!(statuses.of("x", a).is_some());
            assert!(statuses.of("x", b).is_none() && statuses.of("y", a).is_none());
        }
        store.close();
    }
}

//! The registered satellites, in memory over the store: who may enrol, who may connect, who was revoked.
//!
//! Reads take no I/O, so that nothing in the path of a handshake waits for a disk. Changes are serialised, durable
//! first, visible after.

use crate::pki::PkiError;
use crate::pki::authority::{Authority, Issued};
use crate::revocations::{self, Journal};
use crate::store::{SatelliteRecord, Store, StoreError, TokenRecord};
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::SatelliteId;
use portolan_common::names::{NameError, check_name};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError, RwLock};
use tokio::sync::watch;
use uuid::Uuid;

/// The shortest and longest life of a join token.
pub const TOKEN_LIFE: std::ops::RangeInclusive<SignedDuration> =
    SignedDuration::from_mins(1)..=SignedDuration::from_hours(24 * 30);
/// How long a renewed certificate must have been there before the next renewal.
const RENEWAL_PAUSE: SignedDuration = SignedDuration::from_secs(30);
/// The life of a join token when none is asked for.
pub const TOKEN_LIFE_DEFAULT: SignedDuration = SignedDuration::from_hours(1);

/// See the module.
pub struct Registry {
    store: Store,
    journal: Journal,
    records: RwLock<HashMap<SatelliteId, SatelliteRecord>>,
    revocations: watch::Sender<u64>,
    /// Counts satellites that come and go, revocations included.
    changes: watch::Sender<u64>,
    changing: tokio::sync::Mutex<()>,
    /// Whose last sight is not written yet.
    seen: Mutex<HashSet<SatelliteId>>,
}

/// What [`Registry::add`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// The end of the token's life.
    pub expires: Timestamp,
    /// An earlier, unused token became void.
    pub replaced_token: bool,
}

/// A change or look-up that is not possible.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No satellite has the name.
    #[error("there is no satellite `{name}`{hint}")]
    Unknown {
        /// As asked.
        name: String,
        /// ` (did you mean …)`, the list, or empty.
        hint: String,
    },
    /// The name is taken.
    #[error("a satellite `{0}` exists already: choose another name, or revoke and remove that one first")]
    Taken(String),
    /// The name, segment or tenant is malformed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The token's life is out of range.
    #[error("a token's life is 1 minute to 30 days")]
    TokenLife,
    /// Only a revoked or pending satellite can be removed.
    #[error("`{0}` is active: revoke it first (`portolan satellite revoke {0}`)")]
    Active(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A revocation that holds, but only in memory.
    #[error(
        "it is revoked, but that could not be written and ends with the server's next restart: {0}; mend the store, then revoke again"
    )]
    NotKept(#[source] StoreError),
}

/// An enrollment that is refused. Only whoever holds the secret learns more than "unknown".
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// No token has this secret.
    #[error("this server does not know the join token")]
    Unknown,
    /// It was used, with another key.
    #[error(
        "the join token was used at {0}: a token enrols one satellite once (if that was not you, revoke the \
         satellite; `portolan satellite add` makes a new token)"
    )]
    Used(Timestamp),
    /// It is too old.
    #[error("the join token expired at {0}: `portolan satellite add` makes a new one")]
    Expired(Timestamp),
    /// A newer token was made for the same satellite, or the satellite was revoked.
    #[error("the join token is void: a newer one was made, or the satellite was revoked")]
    Void,
    /// The signing request is not acceptable; the token is not used up.
    #[error(transparent)]
    Request(PkiError),
    /// The store failed; the token is not used up.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Registry {
    /// Reads every satellite's record.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn load(store: Store) -> Result<Self, StoreError> {
        let mut records = HashMap::new();
        for record in store.satellites()? {
            records.insert(record.satellite_id()?, record);
        }
        let journal = Journal::at(store.beside(revocations::FILE));
        let mut unwritten = HashSet::new();
        let kept =
            journal.read().map_err(|error| StoreError::Directory { path: error.path, cause: error.cause })?;
        for line in kept.damaged {
            tracing::error!(path = %journal.path().display(), line, "a line of the revocations is damaged");
        }
        for (id, at) in kept.revoked {
            if let Some(record) = records.get_mut(&id).filter(|record| record.revoked_at_ms == 0) {
                tracing::warn!(satellite = record.name, "it was revoked, which the store had lost");
                record.revoked_at_ms = at.as_millisecond().max(1);
                unwritten.insert(id);
            }
        }
        Ok(Self {
            store,
            journal,
            records: RwLock::new(records),
            revocations: watch::Sender::new(0),
            changes: watch::Sender::new(0),
            changing: tokio::sync::Mutex::default(),
            seen: Mutex::new(unwritten),
        })
    }

    /// The record of an id, removed ones included.
    pub fn get(&self, id: SatelliteId) -> Option<SatelliteRecord> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Whether a satellite may be connected.
    pub fn in_good_standing(&self, id: SatelliteId) -> bool {
        self.get(id).is_some_and(|record| record.revoked_at_ms == 0 && record.removed_at_ms == 0)
    }

    /// Counts revocations, so that connections can look again.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    /// Counts satellites that are added, revoked and removed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Everything that is not removed, by name.
    pub fn list(&self) -> Vec<SatelliteRecord> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = records.values().filter(|r| r.removed_at_ms == 0).cloned().collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// Everything that was revoked or removed, in no order.
    pub fn former(&self) -> Vec<SatelliteRecord> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let is_former = |record: &&SatelliteRecord| record.revoked_at_ms != 0 || record.removed_at_ms != 0;
        records.values().filter(is_former).cloned().collect()
    }

    /// Every tenant that has, or had, a satellite.
    pub fn tenants(&self) -> Vec<String> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let mut tenants: Vec<_> = records.values().map(|r| r.tenant.clone()).collect();
        tenants.sort();
        tenants.dedup();
        tenants
    }

    /// The satellite of a name.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] with the nearest names.
    pub fn find(&self, name: &str) -> Result<SatelliteRecord, RegistryError> {
        let mut list = self.list();
        if let Some(at) = list.iter().position(|r| r.name == name) {
            return Ok(list.swap_remove(at));
        }
        let near = list
            .iter()
            .map(|r| (strsim::damerau_levenshtein(&r.name, name), &r.name))
            .min()
            .filter(|(distance, known)| *distance <= known.len() / 2);
        let hint = match near {
            Some((_, known)) => format!(": did you mean `{known}`?"),
            None if list.is_empty() => {
                ": none was added yet (`portolan satellite add NAME --segment SEG`)".into()
            }
            None => format!(
                ": known are {}",
                list.iter().take(10).map(|r| r.name.as_str()).collect::<Vec<_>>().join(", ")
            ),
        };
        // What was typed goes back to a terminal.
        let name = name.chars().filter(|c| !c.is_control()).take(64).collect();
        Err(RegistryError::Unknown { name, hint })
    }

    /// Registers a satellite with the hash of its token's secret. One that never enrolled may be added again.
    ///
    /// # Errors
    /// [`RegistryError`] when a name is malformed or taken, or the life out of range.
    pub async fn add(
        &self,
        name: &str,
        segment: &str,
        tenant: &str,
        token_hash: [u8; 32],
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<Added, RegistryError> {
        check_name("satellite", name)?;
        check_name("segment", segment)?;
        check_name("tenant", tenant)?;
        if !TOKEN_LIFE.contains(&life) {
            return Err(RegistryError::TokenLife);
        }
        let _changing = self.changing.lock().await;
        let (id, replaced_token) = match self.find(name) {
            Ok(pending) if pending.enrolled_at_ms == 0 && pending.revoked_at_ms == 0 => {
                (pending.satellite_id()?, true)
            }
            Ok(_) => return Err(RegistryError::Taken(name.to_owned())),
            Err(_) => (SatelliteId(Uuid::now_v7()), false),
        };
        let record = SatelliteRecord {
            id: id.as_bytes().to_vec(),
            name: name.to_owned(),
            segment: segment.to_owned(),
            tenant: tenant.to_owned(),
            added_at_ms: now.as_millisecond(),
            assignment_revision: 1,
            token_hash: token_hash.to_vec(),
            ..SatelliteRecord::default()
        };
        let expires = now + life;
        let token = TokenRecord {
            satellite: id.as_bytes().to_vec(),
            expires_at_ms: expires.as_millisecond(),
            ..TokenRecord::default()
        };
        self.put(record, Some((token_hash, token))).await?;
        self.changes.send_modify(|count| *count += 1);
        Ok(Added { expires, replaced_token })
    }

    /// Exchanges a token's secret and a signing request for a certificate, once.
    ///
    /// # Errors
    /// [`RedeemError`].
    pub async fn redeem(
        &self,
        secret: &[u8],
        csr_der: &[u8],
        authority: &Authority,
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<(SatelliteRecord, Issued), RedeemError> {
        let hash = Store::token_key(secret);
        let _changing = self.changing.lock().await;
        let token = self.store.token(&hash)?.ok_or(RedeemError::Unknown)?;
        let time = |ms| Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut record =
            SatelliteId::from_slice(&token.satellite).and_then(|id| self.get(id)).ok_or(RedeemError::Void)?;
        if record.token_hash != hash || record.revoked_at_ms != 0 || record.removed_at_ms != 0 {
            return Err(RedeemError::Void);
        }
        let id = record.satellite_id()?;
        let expired = now.as_millisecond() > token.expires_at_ms;
        if expired && token.used_at_ms == 0 {
            return Err(RedeemError::Expired(time(token.expires_at_ms)));
        }
        let issued =
            authority.issue_satellite(csr_der, id, &record.name, life, now).map_err(RedeemError::Request)?;
        // The same key may ask again while the token lives: the first answer may have been lost on its way.
        if token.used_at_ms != 0 && (expired || token.used_by_key != issued.key_fingerprint) {
            return Err(RedeemError::Used(time(token.used_at_ms)));
        }
        record.enrolled_at_ms = now.as_millisecond();
        record.certificate_expires_at_ms = issued.not_after.as_millisecond();
        record.issued_at_ms = now.as_millisecond();
        record.key_fingerprint = issued.key_fingerprint.to_vec();
        let used = TokenRecord {
            used_at_ms: now.as_millisecond(),
            used_by_key: issued.key_fingerprint.to_vec(),
            ..token
        };
        self.put(record.clone(), Some((hash, used))).await?;
        self.changes.send_modify(|count| *count += 1);
        Ok((record, issued))
    }

    /// Issues the next certificate of an enrolled satellite, for a new key.
    ///
    /// # Errors
    /// [`RedeemError::Request`] for the key it has already or an unacceptable request, [`RedeemError::Void`] when
    /// it was revoked.
    pub async fn renew(
        &self,
        id: SatelliteId,
        csr_der: &[u8],
        authority: &Authority,
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<Issued, RedeemError> {
        let _changing = self.changing.lock().await;
        let mut record = self.get(id).filter(|r| r.revoked_at_ms == 0).ok_or(RedeemError::Void)?;
        // A satellite that asks again and again must not keep everybody else from changing anything.
        let pause = RENEWAL_PAUSE.min(life / 10);
        if i128::from(now.as_millisecond() - record.issued_at_ms) < pause.as_millis() {
            return Err(RedeemError::Request(PkiError::Request("the last certificate was issued just now")));
        }
        let issued =
            authority.issue_satellite(csr_der, id, &record.name, life, now).map_err(RedeemError::Request)?;
        if record.key_fingerprint == issued.key_fingerprint {
            return Err(RedeemError::Request(PkiError::Request("a renewal needs a new key")));
        }
        record.certificate_expires_at_ms = issued.not_after.as_millisecond();
        record.issued_at_ms = now.as_millisecond();
        record.key_fingerprint = issued.key_fingerprint.to_vec();
        self.put(record, None).await?;
        Ok(issued)
    }

    /// Changes a satellite's record; `change` sees the newest one.
    ///
    /// # Errors
    /// When the store fails. An unknown id changes nothing.
    pub async fn update(
        &self,
        id: SatelliteId,
        change: impl FnOnce(&mut SatelliteRecord),
    ) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        let Some(mut record) = self.get(id) else { return Ok(()) };
        change(&mut record);
        self.put(record, None).await
    }

    /// Notes the digests of satellites' desired states. Those whose digest is another than before get the next
    /// revision, durable first, and are returned with it.
    ///
    /// # Errors
    /// When the store fails; then nobody's revision changed.
    pub async fn assign(
        &self,
        digests: Vec<(SatelliteId, Vec<u8>)>,
    ) -> Result<Vec<(SatelliteId, u64)>, StoreError> {
        let _changing = self.changing.lock().await;
        let changed: Vec<(SatelliteId, SatelliteRecord)> = digests
            .into_iter()
            .filter_map(|(id, digest)| {
                let mut record = self.get(id).filter(|record| record.assignment_digest != digest)?;
                record.assignment_revision = record.assignment_revision.saturating_add(1);
                record.assignment_digest = digest;
                Some((id, record))
            })
            .collect();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        self.store.put_satellites(changed.iter().map(|(_, record)| record.clone()).collect()).await?;
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        let mut assigned = Vec::with_capacity(changed.len());
        for (id, record) in changed {
            // What else was noted of it meanwhile stays.
            let Some(known) = records.get_mut(&id) else { continue };
            known.assignment_revision = record.assignment_revision;
            known.assignment_digest = record.assignment_digest;
            assigned.push((id, record.assignment_revision));
        }
        Ok(assigned)
    }

    /// Gives a satellite a revision beyond one that it says it has, although this server never gave it out: the server
    /// was restored from a backup, and must not come to the same number with something else.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn assign_beyond(&self, id: SatelliteId, revision: u64) -> Result<(), StoreError> {
        self.update(id, |record| {
            if record.assignment_revision < revision {
                record.assignment_revision = revision.saturating_add(1);
            }
        })
        .await
    }

    /// Notes how a satellite was last seen, in memory at once and on disk with the next [`Registry::flush_seen`]: a fleet
    /// that loses its connections all at once must not keep everybody else from changing anything.
    pub fn note_seen(&self, id: SatelliteId, change: impl FnOnce(&mut SatelliteRecord)) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = records.get_mut(&id) else { return };
        change(record);
        drop(records);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Writes what was noted of all satellites, together.
    ///
    /// # Errors
    /// When the store fails; it is written with the next call then.
    pub async fn flush_seen(&self) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        let ids = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        if ids.is_empty() {
            return Ok(());
        }
        let records: Vec<_> = ids.iter().filter_map(|id| self.get(*id)).collect();
        let written = self.store.put_satellites(records).await;
        if written.is_err() {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
        }
        written
    }

    /// Refuses the satellite's certificates from now on: at once, before anything is written, so that a revocation
    /// waits for no disk. `at_once` is called as soon as it holds.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`]; [`RegistryError::NotKept`] when it holds but could not be written.
    pub async fn revoke(
        &self,
        name: &str,
        now: Timestamp,
        at_once: impl FnOnce(SatelliteId),
    ) -> Result<(), RegistryError> {
        let id = self.find(name)?.satellite_id()?;
        if let Some(record) = self.records.write().unwrap_or_else(PoisonError::into_inner).get_mut(&id)
            && record.revoked_at_ms == 0
        {
            record.revoked_at_ms = now.as_millisecond();
        }
        self.revocations.send_modify(|count| *count += 1);
        self.changes.send_modify(|count| *count += 1);
        at_once(id);
        let journal = self.journal.clone();
        let noted = tokio::task::spawn_blocking(move || journal.append(id, now)).await;
        let stored = self.update(id, |_| {}).await;
        // One of the two is enough to keep it; the other is mended with the next start.
        match (noted, stored) {
            (Ok(Ok(())), Ok(())) => Ok(()),
            (Ok(Ok(())), Err(error)) => {
                tracing::error!(%error, "a revocation could not be written to the store; its journal keeps it");
                Ok(())
            }
            (Ok(Err(error)), Ok(())) => {
                tracing::error!(%error, "a revocation could not be written to its journal; the store keeps it");
                Ok(())
            }
            (Err(error), Ok(())) => {
                tracing::error!(%error, "a revocation could not be written to its journal; the store keeps it");
                Ok(())
            }
            (_, Err(error)) => Err(RegistryError::NotKept(error)),
        }
    }

    /// Forgets a revoked or pending satellite and frees its name.
    ///
    /// # Errors
    /// [`RegistryError::Active`] while it may connect.
    pub async fn remove(&self, name: &str, now: Timestamp) -> Result<(), RegistryError> {
        let _changing = self.changing.lock().await;
        let mut record = self.find(name)?;
        if record.enrolled_at_ms != 0 && record.revoked_at_ms == 0 {
            return Err(RegistryError::Active(record.name));
        }
        record.removed_at_ms = now.as_millisecond();
        self.put(record, None).await?;
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Durable first, visible after.
    async fn put(
        &self,
        record: SatelliteRecord,
        token: Option<([u8; 32], TokenRecord)>,
    ) -> Result<(), StoreError> {
        let id = record.satellite_id()?;
        self.store.put_satellite(record.clone(), token).await?;
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        // A revocation does not wait for this; what was read before it must not undo it.
        let revoked = records.get(&id).map_or(0, |known| known.revoked_at_ms);
        let revoked_at_ms = if record.revoked_at_ms == 0 { revoked } else { record.revoked_at_ms };
        let mut record = SatelliteRecord { revoked_at_ms, ..record };
        if let Some(known) = records.get(&id).filter(|known| known.last_seen_at_ms > record.last_seen_at_ms) {
            record.last_seen_at_ms = known.last_seen_at_ms;
            record.version.clone_from(&known.version);
            record.address.clone_from(&known.address);
            record.capabilities.clone_from(&known.capabilities);
        }
        records.insert(id, record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_common::ids::DeploymentId;
    use portolan_transport::identity::KeyRequest;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    struct Fixture {
        _dir: tempfile::TempDir,
        registry: Registry,
        authority: Authority,
        now: Timestamp,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let authority = Authority::create(&dir.path().join("ca"), DeploymentId(Uuid::new_v4()), now).unwrap();
        Store::create(&dir.path().join("store")).unwrap();
        let registry = Registry::load(Store::open(&dir.path().join("store"), 0).unwrap()).unwrap();
        Fixture { _dir: dir, registry, authority, now }
    }

    impl Fixture {
        async fn add(&self, secret: &[u8]) -> Result<Added, RegistryError> {
            self.registry.add("office-1", "office", "default", Store::token_key(secret), HOUR, self.now).await
        }

        async fn redeem(&self, secret: &[u8], csr: &[u8], now: Timestamp) -> Result<Issued, RedeemError> {
            self.registry.redeem(secret, csr, &self.authority, HOUR * 24, now).await.map(|(_, issued)| issued)
        }
    }

    #[tokio::test]
    async fn a_token_works_once_and_not_for_ever() {
        let f = fixture();
        let later = f.now + HOUR * 2;
        let [mine, yours] = [(); 2].map(|()| KeyRequest::generate().unwrap().csr_der);
        f.add(b"secret").await.unwrap();
        assert!(matches!(f.redeem(b"wrong", &mine, f.now).await, Err(RedeemError::Unknown)));
        assert!(matches!(f.redeem(b"secret", b"junk", f.now).await, Err(RedeemError::Request(_))));
        assert!(matches!(f.redeem(b"secret", &mine, later).await, Err(RedeemError::Expired(_))));
        f.redeem(b"secret", &mine, f.now).await.expect("a wrong try burns nothing");
        f.redeem(b"secret", &mine, f.now).await.expect("the same key may ask again");
        assert!(matches!(f.redeem(b"secret", &yours, f.now).await, Err(RedeemError::Used(_))));
        assert!(matches!(f.redeem(b"secret", &mine, later).await, Err(RedeemError::Used(_))));
    }

    #[tokio::test]
    async fn a_second_token_makes_the_first_void_until_enrolled() {
        let f = fixture();
        let csr = KeyRequest::generate().unwrap().csr_der;
        assert!(!f.add(b"first").await.unwrap().replaced_token);
        assert!(f.add(b"second").await.unwrap().replaced_token);
        assert!(matches!(f.redeem(b"first", &csr, f.now).await, Err(RedeemError::Void)));
        f.redeem(b"second", &csr, f.now).await.unwrap();
        assert!(matches!(f.add(b"third").await, Err(RegistryError::Taken(_))));
    }

    #[tokio::test]
    async fn a_renewal_needs_a_new_key_and_a_satellite_in_good_standing() {
        let f = fixture();
        let [old, new, newer] = [(); 3].map(|()| KeyRequest::generate().unwrap().csr_der);
        f.add(b"secret").await.unwrap();
        f.redeem(b"secret", &old, f.now).await.unwrap();
        let id = f.registry.find("office-1").unwrap().satellite_id().unwrap();
        let renew = async |csr: &[u8]| f.registry.renew(id, csr, &f.authority, HOUR, f.now + HOUR).await;
        assert!(matches!(renew(&old).await, Err(RedeemError::Request(_))));
        renew(&new).await.unwrap();
        assert!(matches!(renew(&newer).await, Err(RedeemError::Request(_))), "not twice in a row");
        f.registry.revoke("office-1", f.now, |_| {}).await.unwrap();
        assert!(matches!(renew(&newer).await, Err(RedeemError::Void)));
    }

    /// Neither a restored store nor one that went back lets anybody in again.
    #[tokio::test]
    async fn a_revocation_outlives_the_store_that_it_was_written_to() {
        let f = fixture();
        let csr = KeyRequest::generate().unwrap().csr_der;
        f.add(b"secret").await.unwrap();
        f.redeem(b"secret", &csr, f.now).await.unwrap();
        let before = f.registry.find("office-1").unwrap();
        let id = before.satellite_id().unwrap();
        f.registry.revoke("office-1", f.now, |_| {}).await.unwrap();
        f.registry.store.put_satellite(SatelliteRecord { revoked_at_ms: 0, ..before }, None).await.unwrap();
        assert_eq!(f.registry.store.satellites().unwrap()[0].revoked_at_ms, 0, "the store went back");
        let again = Registry::load(f.registry.store.clone()).unwrap();
        assert!(!again.in_good_standing(id));
        again.flush_seen().await.unwrap();
        assert_eq!(
            again.store.satellites().unwrap()[0].revoked_at_ms,
            f.now.as_millisecond(),
            "and is mended"
        );
    }

    #[tokio::test]
    async fn removal_frees_the_name_and_keeps_the_record() {
        let f = fixture();
        let csr = KeyRequest::generate().unwrap().csr_der;
        f.add(b"secret").await.unwrap();
        f.redeem(b"secret", &csr, f.now).await.unwrap();
        let id = f.registry.find("office-1").unwrap().satellite_id().unwrap();
        assert!(matches!(f.registry.remove("office-1", f.now).await, Err(RegistryError::Active(_))));
        f.registry.revoke("office-1", f.now, |revoked| assert_eq!(revoked, id)).await.unwrap();
        assert!(!f.registry.in_good_standing(id));
        f.registry.remove("office-1", f.now).await.unwrap();
        assert!(f.registry.find("office-1").is_err());
        assert_eq!(f.registry.get(id).unwrap().name, "office-1");
        f.add(b"again").await.unwrap();
    }

    #[tokio::test]
    async fn a_revision_grows_with_its_own_digest_alone_and_is_kept() {
        let f = fixture();
        let mut changes = f.registry.changes();
        f.add(b"secret").await.unwrap();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let id = f.registry.find("office-1").unwrap().satellite_id().unwrap();
        let assign = async |digest: &[u8]| f.registry.assign(vec![(id, digest.to_vec())]).await.unwrap();
        assert_eq!(assign(b"").await, [], "it has nothing to do from the start");
        assert_eq!(assign(b"a").await, [(id, 2)]);
        assert_eq!(assign(b"a").await, []);
        f.registry.note_seen(id, |record| record.last_seen_at_ms = 7);
        assert_eq!(assign(b"").await, [(id, 3)]);
        assert!(!changes.has_changed().unwrap(), "it came and went nowhere");
        let record = f.registry.get(id).unwrap();
        assert_eq!((record.assignment_revision, record.last_seen_at_ms), (3, 7));
        let again = Registry::load(f.registry.store.clone()).unwrap();
        assert_eq!(again.get(id).unwrap().assignment_revision, 3);
    }

    #[tokio::test]
    async fn unknown_names_get_a_hint() {
        let f = fixture();
        f.add(b"secret").await.unwrap();
        let error = f.registry.find("ofice-1").unwrap_err().to_string();
        assert!(error.contains("did you mean `office-1`"), "{error}");
        assert!(matches!(
            f.registry.add("No Name", "x", "y", [0; 32], HOUR, f.now).await,
            Err(RegistryError::Name(_))
        ));
    }
}

//! Satellites and join tokens.

use super::record::{Evolving, decode, encode_over};
use super::view::{View as _, Writes};
use super::writer::Class;
use super::{Store, StoreError, keys};
use portolan_common::ids::SatelliteId;

/// A satellite, from `satellite add` on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SatelliteRecord {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    /// Unique among the satellites that are kept.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Where it stands.
    #[prost(string, tag = "3")]
    pub segment: String,
    /// Whose address space.
    #[prost(string, tag = "4")]
    pub tenant: String,
    /// Milliseconds.
    #[prost(int64, tag = "5")]
    pub added_at_ms: i64,
    /// Milliseconds; 0: its token was not used yet.
    #[prost(int64, tag = "6")]
    pub enrolled_at_ms: i64,
    /// Milliseconds; 0: not revoked.
    #[prost(int64, tag = "7")]
    pub revoked_at_ms: i64,
    /// Of its newest certificate; 0: none.
    #[prost(int64, tag = "8")]
    pub certificate_expires_at_ms: i64,
    /// SHA-256 of the public key of its newest certificate.
    #[prost(bytes = "vec", tag = "9")]
    pub key_fingerprint: Vec<u8>,
    /// Milliseconds; 0: never.
    #[prost(int64, tag = "10")]
    pub last_seen_at_ms: i64,
    /// The version it last ran.
    #[prost(string, tag = "11")]
    pub version: String,
    /// The peer address of its last connection.
    #[prost(string, tag = "12")]
    pub address: String,
    /// What its host lets it do.
    #[prost(string, repeated, tag = "13")]
    pub capabilities: Vec<String>,
    /// The revision of its desired state.
    #[prost(uint64, tag = "14")]
    pub assignment_revision: u64,
    /// Milliseconds; 0: not removed. A removed satellite's record stays, so that history can name it.
    #[prost(int64, tag = "15")]
    pub removed_at_ms: i64,
    /// The token that may enrol it: adding a pending satellite again makes the earlier token void.
    #[prost(bytes = "vec", tag = "16")]
    pub token_hash: Vec<u8>,
    /// When its newest certificate was issued, milliseconds.
    #[prost(int64, tag = "17")]
    pub issued_at_ms: i64,
    /// By what it is known whether its desired state changed; empty: it has nothing to do.
    #[prost(bytes = "vec", tag = "18")]
    pub assignment_digest: Vec<u8>,
}

/// A join token, found by the hash of its secret.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TokenRecord {
    /// Whom it enrols: 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub satellite: Vec<u8>,
    /// Milliseconds.
    #[prost(int64, tag = "2")]
    pub expires_at_ms: i64,
    /// Milliseconds; 0: unused.
    #[prost(int64, tag = "3")]
    pub used_at_ms: i64,
    /// SHA-256 of the public key that it was used with: the same key may ask again while the token lives, since the
    /// answer may have been lost.
    #[prost(bytes = "vec", tag = "4")]
    pub used_by_key: Vec<u8>,
}

impl Evolving for SatelliteRecord {
    const LAST_FIELD: u32 = 18;
}

impl Evolving for TokenRecord {
    const LAST_FIELD: u32 = 4;
}

impl SatelliteRecord {
    /// The typed id.
    ///
    /// # Errors
    /// When the record is damaged in a way that its checksum does not show.
    pub fn satellite_id(&self) -> Result<SatelliteId, StoreError> {
        SatelliteId::from_slice(&self.id)
            .ok_or(StoreError::Record(super::record::RecordError::Content("a satellite's id")))
    }
}

impl Store {
    /// Every satellite; read once, at start.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn satellites(&self) -> Result<Vec<SatelliteRecord>, StoreError> {
        self.trees()?.state.scan_prefix([keys::SATELLITE]).map(|entry| Ok(decode(&entry?.1)?)).collect()
    }

    /// A token by the hash of its secret.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn token(&self, secret_hash: &[u8; 32]) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.trees()?.get(&keys::token(secret_hash))?.map(|bytes| decode(&bytes)).transpose()?)
    }

    /// Writes a satellite and, with it, a token of its own, in one step.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn put_satellite(
        &self,
        satellite: SatelliteRecord,
        token: Option<([u8; 32], TokenRecord)>,
    ) -> Result<(), StoreError> {
        self.writer
            .write(Class::Urgent, move |view| {
                let mut writes = Writes::default();
                let key = keys::satellite(satellite.satellite_id()?);
                let record = encode_over(&satellite, view.get(&key)?.as_deref());
                writes.put(key, record);
                if let Some((hash, token)) = &token {
                    let key = keys::token(hash);
                    let record = encode_over(token, view.get(&key)?.as_deref());
                    writes.put(key, record);
                }
                Ok(((), writes))
            })
            .await
    }

    /// Notes of many satellites when and how they were last seen.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn put_satellites(&self, satellites: Vec<SatelliteRecord>) -> Result<(), StoreError> {
        self.writer
            .write(Class::Urgent, move |view| {
                let mut writes = Writes::default();
                for satellite in &satellites {
                    let key = keys::satellite(satellite.satellite_id()?);
                    let record = encode_over(satellite, view.get(&key)?.as_deref());
                    writes.put(key, record);
                }
                Ok(((), writes))
            })
            .await
    }
}

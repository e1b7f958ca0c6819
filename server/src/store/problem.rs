//! What happened and should be told for a while.

use super::record::{decode, encode};
use super::view::Writes;
use super::writer::Class;
use super::{Store, StoreError, keys};

/// Something that happened to a satellite's records.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProblemRecord {
    /// A stable word.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub satellite: Vec<u8>,
    /// Milliseconds.
    #[prost(int64, tag = "3")]
    pub first_at_ms: i64,
    /// Milliseconds.
    #[prost(int64, tag = "4")]
    pub last_at_ms: i64,
    /// How often, or how many.
    #[prost(uint64, tag = "5")]
    pub count: u64,
}

impl Store {
    /// Everything that was noted.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn problems(&self) -> Result<Vec<ProblemRecord>, StoreError> {
        self.trees()?.state.scan_prefix([keys::PROBLEM]).map(|entry| Ok(decode(&entry?.1)?)).collect()
    }

    /// Notes some, each in the place of an earlier one of the same kind and satellite.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn put_problems(&self, records: Vec<ProblemRecord>) -> Result<(), StoreError> {
        self.writer
            .write(Class::Urgent, move |_| {
                let mut writes = Writes::default();
                for record in &records {
                    writes.put(keys::problem(&record.kind, &record.satellite), encode(record));
                }
                Ok(((), writes))
            })
            .await
    }
}

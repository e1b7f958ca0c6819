//! What never arrived: accounted for by the satellite that could not keep it, or simply missing.

use jiff::Timestamp;
use portolan_proto::v1;

/// A run of sequences whose content never arrived, or arrived in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// When the server noticed, by its clock.
    pub at: Timestamp,
    /// The first sequence.
    pub first: u64,
    /// The last sequence.
    pub last: u64,
    /// Host observations that were dropped; 0: not known.
    pub hosts: u64,
    /// How many of them repeated what was known.
    pub confirmations: u64,
    /// As the satellite said; `None`: it said nothing, the records are missing.
    pub reason: Option<v1::dropped::Reason>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GapRecord {
    #[prost(int64, tag = "1")]
    pub at_ms: i64,
    #[prost(uint64, tag = "2")]
    pub first: u64,
    #[prost(uint64, tag = "3")]
    pub last: u64,
    #[prost(uint64, tag = "4")]
    pub hosts: u64,
    #[prost(uint64, tag = "5")]
    pub confirmations: u64,
    /// Absent: nothing was said.
    #[prost(enumeration = "v1::dropped::Reason", optional, tag = "6")]
    pub reason: Option<i32>,
}

impl From<GapRecord> for Gap {
    fn from(record: GapRecord) -> Self {
        Self {
            at: Timestamp::from_millisecond(record.at_ms).unwrap_or(Timestamp::UNIX_EPOCH),
            first: record.first,
            last: record.last,
            hosts: record.hosts,
            confirmations: record.confirmations,
            reason: record.reason.map(|_| record.reason()),
        }
    }
}

impl From<&Gap> for GapRecord {
    fn from(gap: &Gap) -> Self {
        Self {
            at_ms: gap.at.as_millisecond(),
            first: gap.first,
            last: gap.last,
            hosts: gap.hosts,
            confirmations: gap.confirmations,
            reason: gap.reason.map(Into::into),
        }
    }
}

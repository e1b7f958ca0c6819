//! An alert as it stands in the store. Fields are only added.

use super::alert::{Acknowledgement, Alert, AlertName, Comment, Ending, Fault, Fingerprint, Subject};
use super::kept::Document;
use crate::evaluate::{Key, Sight};
use crate::store::Kind;
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_proto::convert::{address_from_wire, address_to_wire, time_from_wire};
use portolan_proto::v1;
use prost::Message as _;
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(Clone, PartialEq, prost::Message)]
struct AlertRecord {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    fingerprint: Vec<u8>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    check: String,
    #[prost(bytes = "vec", tag = "5")]
    address: Vec<u8>,
    /// Unspecified: the host itself.
    #[prost(enumeration = "v1::Protocol", tag = "6")]
    protocol: i32,
    #[prost(uint32, tag = "7")]
    port: u32,
    #[prost(bytes = "vec", tag = "8")]
    satellite: Vec<u8>,
    #[prost(string, tag = "9")]
    target: String,
    #[prost(string, tag = "10")]
    severity: String,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(string, tag = "12")]
    acknowledged_by: String,
    /// 0: nobody did.
    #[prost(int64, tag = "13")]
    acknowledged_at_ms: i64,
    #[prost(message, repeated, tag = "14")]
    comments: Vec<v1::AlertComment>,
    #[prost(string, repeated, tag = "15")]
    held_back_by: Vec<String>,
    #[prost(bool, tag = "16")]
    flapping: bool,
    #[prost(bool, tag = "17")]
    late: bool,
    #[prost(bool, tag = "18")]
    unknown: bool,
    #[prost(int64, tag = "19")]
    since_ms: i64,
    #[prost(int64, tag = "20")]
    fired_at_ms: i64,
    #[prost(int64, tag = "21")]
    changed_at_ms: i64,
    /// 0: it is not.
    #[prost(int64, tag = "22")]
    resolved_at_ms: i64,
    /// It resolved since nothing is expected any more.
    #[prost(bool, tag = "23")]
    not_expected: bool,
    #[prost(message, repeated, tag = "24")]
    faults: Vec<FaultRecord>,
    #[prost(message, repeated, tag = "25")]
    sights: Vec<SightRecord>,
    /// Newest first.
    #[prost(message, repeated, tag = "26")]
    transitions: Vec<v1::Transition>,
    #[prost(uint64, tag = "27")]
    affected: u64,
    #[prost(message, repeated, tag = "28")]
    earlier: Vec<FaultRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FaultRecord {
    #[prost(bytes = "vec", tag = "1")]
    satellite: Vec<u8>,
    /// Unspecified: the host did not answer.
    #[prost(enumeration = "v1::PortState", tag = "2")]
    state: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SightRecord {
    #[prost(bytes = "vec", tag = "1")]
    satellite: Vec<u8>,
    /// Unspecified: the host did not answer.
    #[prost(enumeration = "v1::PortState", tag = "2")]
    state: i32,
    #[prost(enumeration = "v1::Reason", tag = "3")]
    reason: i32,
    #[prost(int64, tag = "4")]
    seen_ms: i64,
    #[prost(int64, tag = "5")]
    since_ms: i64,
    #[prost(bool, tag = "6")]
    stale: bool,
    #[prost(bool, tag = "7")]
    mismatch: bool,
    #[prost(uint32, tag = "8")]
    in_a_row: u32,
    #[prost(uint32, repeated, tag = "9")]
    rtts_us: Vec<u32>,
    #[prost(uint32, tag = "10")]
    usual_rtt_us: u32,
}

/// Why a record is none: the error's own words.
fn why(error: impl ToString) -> String {
    error.to_string()
}

fn satellite(bytes: &[u8]) -> Result<SatelliteId, String> {
    SatelliteId::from_slice(bytes).ok_or_else(|| "a satellite's id".to_owned())
}

impl From<&Fault> for FaultRecord {
    fn from(fault: &Fault) -> Self {
        let state = fault.state.map_or(0, |state| v1::PortState::from(state).into());
        Self { satellite: fault.satellite.as_bytes().to_vec(), state }
    }
}

impl TryFrom<&FaultRecord> for Fault {
    type Error = String;

    fn try_from(record: &FaultRecord) -> Result<Self, String> {
        let state = match record.state() {
            v1::PortState::Unspecified => None,
            state => Some(PortState::try_from(state).map_err(why)?),
        };
        Ok(Self { satellite: satellite(&record.satellite)?, state })
    }
}

impl From<&Sight> for SightRecord {
    fn from(sight: &Sight) -> Self {
        Self {
            satellite: sight.satellite.as_bytes().to_vec(),
            state: sight.state.map_or(0, |(state, _)| v1::PortState::from(state).into()),
            reason: sight.state.map_or(0, |(_, reason)| v1::Reason::from(reason).into()),
            seen_ms: sight.seen.as_millisecond(),
            since_ms: sight.since.as_millisecond(),
            stale: sight.stale,
            mismatch: sight.mismatch,
            in_a_row: sight.in_a_row,
            rtts_us: sight.rtts_us.clone(),
            usual_rtt_us: sight.usual_rtt_us,
        }
    }
}

impl TryFrom<SightRecord> for Sight {
    type Error = String;

    fn try_from(record: SightRecord) -> Result<Self, String> {
        let state = match record.state() {
            v1::PortState::Unspecified => None,
            state => {
                let reason = Reason::try_from(record.reason()).map_err(why)?;
                Some((PortState::try_from(state).map_err(why)?, reason))
            }
        };
        Ok(Self {
            satellite: satellite(&record.satellite)?,
            state,
            seen: time_from_wire(record.seen_ms).map_err(why)?,
            since: time_from_wire(record.since_ms).map_err(why)?,
            stale: record.stale,
            mismatch: record.mismatch,
            in_a_row: record.in_a_row,
            rtts_us: record.rtts_us,
            usual_rtt_us: record.usual_rtt_us,
        })
    }
}

impl AlertRecord {
    fn subject(&self, name: AlertName) -> Result<Subject, String> {
        match name {
            AlertName::SatelliteOffline => Ok(Subject::Satellite(satellite(&self.satellite)?)),
            AlertName::CheckUnknown => Ok(Subject::Check(self.check.as_str().into())),
            _ => {
                let port = match self.protocol() {
                    v1::Protocol::Unspecified => None,
                    protocol => Some((
                        Protocol::try_from(protocol).map_err(why)?,
                        u16::try_from(self.port).map_err(|_| "a port".to_owned())?,
                    )),
                };
                let address = address_from_wire(&self.address).map_err(why)?;
                Ok(Subject::Key(Key { check: self.check.as_str().into(), address, port }))
            }
        }
    }
}

impl From<&Alert> for AlertRecord {
    fn from(alert: &Alert) -> Self {
        let key = alert.subject.key();
        let port = key.and_then(|key| key.port);
        let satellite = match &alert.subject {
            Subject::Satellite(id) => id.as_bytes().to_vec(),
            _ => Vec::new(),
        };
        Self {
            id: alert.id.as_bytes().to_vec(),
            fingerprint: alert.fingerprint.0.to_vec(),
            name: alert.name.to_string(),
            check: alert.subject.check().map(ToString::to_string).unwrap_or_default(),
            address: key.map(|key| address_to_wire(key.address)).unwrap_or_default(),
            protocol: port.map_or(0, |(protocol, _)| v1::Protocol::from(protocol).into()),
            port: port.map_or(0, |(_, port)| port.into()),
            satellite,
            target: alert.target.clone(),
            severity: alert.severity.as_str().to_owned(),
            labels: alert.labels.clone(),
            acknowledged_by: alert.acknowledged.as_ref().map(|ack| ack.by.clone()).unwrap_or_default(),
            acknowledged_at_ms: alert.acknowledged.as_ref().map_or(0, |ack| ack.at.as_millisecond()),
            comments: alert.comments.iter().map(v1::AlertComment::from).collect(),
            held_back_by: alert.held_back_by.clone(),
            flapping: alert.flapping,
            late: alert.late,
            unknown: alert.unknown,
            since_ms: alert.since.as_millisecond(),
            fired_at_ms: alert.fired_at.as_millisecond(),
            changed_at_ms: alert.changed_at.as_millisecond(),
            resolved_at_ms: alert.resolved.map_or(0, |(at, _)| at.as_millisecond()),
            not_expected: matches!(alert.resolved, Some((_, Ending::NotExpected))),
            faults: alert.faults.iter().map(FaultRecord::from).collect(),
            sights: alert.sights.iter().map(SightRecord::from).collect(),
            transitions: alert.transitions.iter().cloned().collect(),
            affected: alert.affected,
            earlier: alert.earlier.iter().map(FaultRecord::from).collect(),
        }
    }
}

impl TryFrom<AlertRecord> for Alert {
    type Error = String;

    fn try_from(record: AlertRecord) -> Result<Self, String> {
        let time = |ms| time_from_wire(ms).map_err(why);
        let name = AlertName::ALL.into_iter().find(|name| name.as_str() == record.name);
        let name = name.ok_or_else(|| format!("an alert called {}", super::error::shown(&record.name)))?;
        let subject = record.subject(name)?;
        let fingerprint = record.fingerprint.as_slice().try_into().map_err(|_| "a fingerprint".to_owned())?;
        let ending = if record.not_expected { Ending::NotExpected } else { Ending::AsExpected };
        let resolved = match record.resolved_at_ms {
            0 => None,
            ms => Some((time(ms)?, ending)),
        };
        let acknowledged = match record.acknowledged_at_ms {
            0 => None,
            ms => Some(Acknowledgement { by: record.acknowledged_by, at: time(ms)? }),
        };
        let comment = |comment: v1::AlertComment| {
            Ok(Comment { at: time(comment.at_ms)?, author: comment.author, text: comment.text })
        };
        Ok(Self {
            id: Uuid::from_slice(&record.id).map_err(why)?,
            fingerprint: Fingerprint(fingerprint),
            name,
            subject,
            target: record.target,
            severity: record.severity.parse().map_err(|_| "a severity".to_owned())?,
            labels: record.labels,
            acknowledged,
            comments: record.comments.into_iter().map(comment).collect::<Result<_, String>>()?,
            held_back_by: record.held_back_by,
            flapping: record.flapping,
            late: record.late,
            unknown: record.unknown,
            since: time(record.since_ms)?,
            fired_at: time(record.fired_at_ms)?,
            changed_at: time(record.changed_at_ms)?,
            resolved,
            faults: record.faults.iter().map(Fault::try_from).collect::<Result<_, _>>()?,
            sights: record.sights.into_iter().map(Sight::try_from).collect::<Result<_, _>>()?,
            transitions: record.transitions.into(),
            affected: record.affected,
            earlier: record.earlier.iter().map(Fault::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl Document for Alert {
    type Key = Uuid;
    const KIND: Kind = Kind::Alert;

    fn key(&self) -> Uuid {
        self.id
    }

    fn name(id: &Uuid) -> Vec<u8> {
        id.as_bytes().to_vec()
    }

    fn encode(&self) -> Vec<u8> {
        AlertRecord::from(self).encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        AlertRecord::decode(bytes).map_err(why)?.try_into()
    }
}

/// The time of an acknowledgement or end must not be the epoch, which stands for none.
pub(super) fn moment(now: Timestamp) -> Timestamp {
    // Milliseconds are all that survives a restart.
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

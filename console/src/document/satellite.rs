//! `portolan satellite … -o json`.

use super::{Row, non_empty};
use crate::output::time;
use jiff::Timestamp;
use portolan_proto::v1::{self, satellite::Status};
use serde::Serialize;

/// `satellite list` is a list of these, `satellite show` is one.
#[derive(Serialize)]
pub struct SatelliteDocument<'a> {
    pub name: &'a str,
    pub segment: &'a str,
    /// `online`, `offline`, `pending`, `revoked`.
    pub status: &'static str,
    /// Null until it first connected, as what follows.
    pub version: Option<&'a str>,
    pub address: Option<&'a str>,
    pub last_seen: Option<Timestamp>,
    pub certificate_expires_at: Option<Timestamp>,
    pub assignment_revision: u64,
    /// 0 while it is not connected; what follows is null then.
    pub spool_depth: u64,
    pub capabilities: &'a [String],
    pub tenant: &'a str,
    /// UUID in text.
    pub id: &'a str,
    /// How far its clock is ahead of the server's, milliseconds; null while it is not connected.
    pub clock_skew_ms: Option<i64>,
    /// Null while it is not connected or has not said it yet.
    pub spool_bytes: Option<u64>,
    /// Why its spool takes nothing; null: it does.
    pub spool_error: Option<&'a str>,
    /// It sends what it gathered while it was away.
    pub replaying: bool,
    /// Records that never arrived and that it does not account for; null in a list, as what follows.
    pub records_missing: Option<u64>,
    /// Host observations that it dropped and accounted for; at least so many.
    pub hosts_dropped: Option<u64>,
    /// What never arrived, newest first.
    pub gaps: Option<Vec<GapDocument>>,
}

/// Something that never arrived.
#[derive(Serialize)]
pub struct GapDocument {
    /// When the server noticed.
    pub at: Option<Timestamp>,
    pub first_sequence: u64,
    pub last_sequence: u64,
    /// Host observations; null: not known.
    pub hosts: Option<u64>,
    /// How many of them repeated what was known.
    pub confirmations: u64,
    /// `full`, `age`, `expired`, `damaged`; `missing`: the satellite does not account for it.
    pub reason: String,
}

/// `satellite add`.
#[derive(Serialize)]
pub struct JoinDocument<'a> {
    pub name: &'a str,
    pub segment: &'a str,
    pub tenant: &'a str,
    /// `ptl1_…`: a secret.
    pub token: &'a str,
    pub expires_at: Option<Timestamp>,
    /// Where the token leads.
    pub servers: Vec<String>,
    /// The scope that it proposes.
    pub scope: &'a [String],
}

/// `satellite revoke`.
#[derive(Serialize)]
pub struct RevokedDocument<'a> {
    pub name: &'a str,
    pub revoked: bool,
    /// Whether a live connection was ended.
    pub was_online: bool,
}

/// `satellite remove`.
#[derive(Serialize)]
pub struct RemovedDocument<'a> {
    pub name: &'a str,
    pub removed: bool,
}

impl<'a> From<&'a v1::Satellite> for SatelliteDocument<'a> {
    fn from(satellite: &'a v1::Satellite) -> Self {
        let is_online = satellite.status() == Status::Online;
        Self {
            name: &satellite.name,
            segment: &satellite.segment,
            status: status_word(satellite.status()),
            version: non_empty(&satellite.version),
            address: non_empty(&satellite.address),
            last_seen: time::from_wire(satellite.last_seen_at_ms),
            certificate_expires_at: time::from_wire(satellite.certificate_expires_at_ms),
            assignment_revision: satellite.assignment_revision,
            spool_depth: satellite.spool_depth,
            capabilities: &satellite.capabilities,
            tenant: &satellite.tenant,
            id: &satellite.id,
            clock_skew_ms: satellite.clock_skew_ms,
            spool_bytes: Some(satellite.spool_bytes).filter(|bytes| is_online && *bytes > 0),
            spool_error: non_empty(&satellite.spool_error),
            replaying: satellite.replaying,
            records_missing: satellite.records_missing,
            hosts_dropped: satellite.hosts_dropped,
            gaps: satellite.records_missing.map(|_| satellite.gaps.iter().map(GapDocument::from).collect()),
        }
    }
}

impl From<&v1::Gap> for GapDocument {
    fn from(gap: &v1::Gap) -> Self {
        Self {
            at: time::from_wire(gap.at_ms),
            first_sequence: gap.first_sequence,
            last_sequence: gap.last_sequence,
            hosts: (gap.hosts > 0).then_some(gap.hosts),
            confirmations: gap.confirmations,
            reason: gap.reason.clone(),
        }
    }
}

/// A status that this console does not know is no reason to fail a list.
pub(super) fn status_word(status: Status) -> &'static str {
    match status {
        Status::Online => "online",
        Status::Offline => "offline",
        Status::Pending => "pending",
        Status::Revoked => "revoked",
        Status::Unspecified => "unknown",
    }
}

impl Row for SatelliteDocument<'_> {
    const HEADER: &'static [&'static str] = &[
        "name",
        "segment",
        "status",
        "version",
        "address",
        "last_seen",
        "certificate_expires_at",
        "assignment_revision",
        "spool_depth",
        "capabilities",
        "tenant",
        "id",
        "clock_skew_ms",
        "spool_bytes",
        "spool_error",
        "replaying",
        "records_missing",
        "hosts_dropped",
    ];

    fn cells(&self) -> Vec<String> {
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
        vec![
            self.name.to_owned(),
            self.segment.to_owned(),
            self.status.to_owned(),
            self.version.unwrap_or_default().to_owned(),
            self.address.unwrap_or_default().to_owned(),
            time(self.last_seen),
            time(self.certificate_expires_at),
            self.assignment_revision.to_string(),
            self.spool_depth.to_string(),
            self.capabilities.join(" "),
            self.tenant.to_owned(),
            self.id.to_owned(),
            self.clock_skew_ms.map(|ms| ms.to_string()).unwrap_or_default(),
            self.spool_bytes.map(|n| n.to_string()).unwrap_or_default(),
            self.spool_error.unwrap_or_default().to_owned(),
            self.replaying.to_string(),
            self.records_missing.map(|n| n.to_string()).unwrap_or_default(),
            self.hosts_dropped.map(|n| n.to_string()).unwrap_or_default(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_keys_are_the_contracts() {
        let pending = v1::Satellite {
            name: "office-1".into(),
            segment: "office".into(),
            tenant: "default".into(),
            status: Status::Pending.into(),
            id: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_value(SatelliteDocument::from(&pending)).unwrap(),
            json!({
                "name": "office-1", "segment": "office", "status": "pending", "version": null, "address": null,
                "last_seen": null, "certificate_expires_at": null, "assignment_revision": 0, "spool_depth": 0,
                "capabilities": [], "tenant": "default", "id": "01890a5d-ac96-774b-bcce-b302099a8057",
                "clock_skew_ms": null, "spool_bytes": null, "spool_error": null, "replaying": false,
                "records_missing": null, "hosts_dropped": null, "gaps": null,
            })
        );
        let online = v1::Satellite { status: Status::Online.into(), ..pending.clone() };
        let known = SatelliteDocument::from(&online);
        assert_eq!((known.spool_depth, known.spool_bytes), (0, None), "a spool's file is never empty");
        assert_eq!(GapDocument::from(&v1::Gap::default()).hosts, None);
        assert_eq!(SatelliteDocument::from(&pending).cells().len(), SatelliteDocument::HEADER.len());
    }
}

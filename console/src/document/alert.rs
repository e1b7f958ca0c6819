//! `portolan alert list -o json`: a list, newest first; `alert show` has more of one.

use super::evidence::{SightDocument, TransitionDocument};
use super::{Row, address, cell, non_empty, protocol, sorted};
use crate::output::time;
use jiff::Timestamp;
use portolan_proto::convert::WireError;
use portolan_proto::v1::{self, alert::Status};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One alert in short.
#[derive(Serialize)]
pub struct AlertDocument<'a> {
    /// UUID in text; the same when it fires again soon.
    pub id: &'a str,
    /// Null: it is about no check.
    pub check: Option<&'a str>,
    /// The vantage points that say so.
    pub satellites: &'a [String],
    pub target: Option<&'a str>,
    pub address: Option<IpAddr>,
    pub protocol: Option<&'static str>,
    pub port: Option<u32>,
    /// In words: `open`, `closed`, `blocked`, `up`, `online`, `as in the baseline`.
    pub expected: Option<&'a str>,
    pub observed: Option<&'a str>,
    pub severity: &'a str,
    /// `firing`, `acknowledged`, `resolved`.
    pub status: &'static str,
    /// When the fault began, as it was seen.
    pub since: Option<Timestamp>,
    pub changed_at: Option<Timestamp>,
    pub resolved_at: Option<Timestamp>,
    pub acknowledged_by: Option<&'a str>,
    pub labels: BTreeMap<&'a str, &'a str>,
    /// Why nobody is told: `silence ID`, `maintenance NAME`, `change NAME`, `check NAME`, `host ADDRESS`.
    pub held_back_by: &'a [String],
    pub flapping: bool,
    /// Learned long after it was seen.
    pub late: bool,
    /// Its evidence is too old to say whether it still holds.
    pub unknown: bool,
    /// What happened, in a sentence.
    pub summary: &'a str,
}

/// One alert with everything.
#[derive(Serialize)]
pub struct AlertDetails<'a> {
    #[serde(flatten)]
    pub alert: AlertDocument<'a>,
    /// Hexadecimal, over the labels that make it this alert.
    pub fingerprint: &'a str,
    /// When it first fired under this id.
    pub fired_at: Option<Timestamp>,
    pub acknowledged_at: Option<Timestamp>,
    /// Oldest first.
    pub comments: Vec<CommentDocument<'a>>,
    /// The last ten, newest first.
    pub transitions: Vec<TransitionDocument<'a>>,
    pub sights: Vec<SightDocument<'a>>,
    /// What else fires on that host.
    pub others: &'a [String],
    /// What to type to look closer.
    pub command: Option<&'a str>,
    /// How sure it is, in words.
    pub confidence: Option<&'a str>,
}

/// What somebody noted down.
#[derive(Serialize)]
pub struct CommentDocument<'a> {
    pub at: Option<Timestamp>,
    pub author: &'a str,
    pub text: &'a str,
}

/// `portolan alert watch -o jsonl`: one a line.
#[derive(Serialize)]
pub struct EventDocument<'a> {
    pub at: Option<Timestamp>,
    /// `current`, `ready`, `firing`, `changed`, `acknowledged`, `commented`, `resolved`, `held-back`, `released`,
    /// `missed`.
    pub kind: &'a str,
    /// Null with `ready` and `missed`.
    pub alert: Option<AlertDocument<'a>>,
    /// What was noted down, with `commented`; otherwise null.
    pub comment: Option<CommentDocument<'a>>,
}

impl<'a> TryFrom<&'a v1::Alert> for AlertDocument<'a> {
    type Error = WireError;

    fn try_from(alert: &'a v1::Alert) -> Result<Self, WireError> {
        Ok(Self {
            id: &alert.id,
            check: non_empty(&alert.check),
            satellites: &alert.satellites,
            target: non_empty(&alert.target),
            address: address(&alert.address)?,
            protocol: protocol(alert.protocol()).filter(|_| alert.port != 0),
            port: (alert.port != 0).then_some(alert.port),
            expected: non_empty(&alert.expected),
            observed: non_empty(&alert.observed),
            severity: &alert.severity,
            status: match alert.status() {
                Status::Firing => "firing",
                Status::Acknowledged => "acknowledged",
                Status::Resolved => "resolved",
                Status::Unspecified => return Err(WireError::Unknown("status of an alert")),
            },
            since: time::from_wire(alert.since_at_ms),
            changed_at: time::from_wire(alert.changed_at_ms),
            resolved_at: time::from_wire(alert.resolved_at_ms),
            acknowledged_by: non_empty(&alert.acknowledged_by),
            labels: sorted(&alert.labels),
            held_back_by: &alert.held_back_by,
            flapping: alert.flapping,
            late: alert.late,
            unknown: alert.unknown,
            summary: &alert.summary,
        })
    }
}

impl<'a> TryFrom<&'a v1::Alert> for AlertDetails<'a> {
    type Error = WireError;

    fn try_from(alert: &'a v1::Alert) -> Result<Self, WireError> {
        Ok(Self {
            alert: AlertDocument::try_from(alert)?,
            fingerprint: &alert.fingerprint,
            fired_at: time::from_wire(alert.fired_at_ms),
            acknowledged_at: time::from_wire(alert.acknowledged_at_ms),
            comments: alert.comments.iter().map(CommentDocument::from).collect(),
            transitions: alert
                .transitions
                .iter()
                .map(TransitionDocument::try_from)
                .collect::<Result<_, _>>()?,
            sights: alert.sights.iter().map(SightDocument::from).collect(),
            others: &alert.others,
            command: non_empty(&alert.command),
            confidence: non_empty(&alert.confidence),
        })
    }
}

impl<'a> From<&'a v1::AlertComment> for CommentDocument<'a> {
    fn from(comment: &'a v1::AlertComment) -> Self {
        Self { at: time::from_wire(comment.at_ms), author: &comment.author, text: &comment.text }
    }
}

impl<'a> TryFrom<&'a v1::AlertEvent> for EventDocument<'a> {
    type Error = WireError;

    fn try_from(event: &'a v1::AlertEvent) -> Result<Self, WireError> {
        Ok(Self {
            at: time::from_wire(event.at_ms),
            kind: &event.kind,
            alert: event.alert.as_ref().map(AlertDocument::try_from).transpose()?,
            comment: event
                .alert
                .as_ref()
                .filter(|_| event.kind == "commented")
                .and_then(|alert| alert.comments.last())
                .map(CommentDocument::from),
        })
    }
}

impl Row for AlertDocument<'_> {
    const HEADER: &'static [&'static str] = &[
        "id",
        "check",
        "satellites",
        "target",
        "address",
        "protocol",
        "port",
        "expected",
        "observed",
        "severity",
        "status",
        "since",
        "changed_at",
        "resolved_at",
        "acknowledged_by",
        "held_back_by",
        "flapping",
        "late",
        "unknown",
        "summary",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_owned(),
            cell(self.check),
            self.satellites.join(" "),
            cell(self.target),
            cell(self.address),
            cell(self.protocol),
            cell(self.port),
            cell(self.expected),
            cell(self.observed),
            self.severity.to_owned(),
            self.status.to_owned(),
            cell(self.since),
            cell(self.changed_at),
            cell(self.resolved_at),
            cell(self.acknowledged_by),
            self.held_back_by.join("; "),
            self.flapping.to_string(),
            self.late.to_string(),
            self.unknown.to_string(),
            self.summary.to_owned(),
        ]
    }
}

#[cfg(test)]
pub mod fixture {
    use crate::scan_result::fixture::noon;
    use portolan_proto::v1;

    const MINUTE: i64 = 60_000;

    /// A port that is open and must be closed, seen from one of two vantage points.
    pub fn alert() -> v1::Alert {
        let now = noon().as_millisecond();
        let labels = [("alertname", "PortOpen"), ("check", "shop-front"), ("team", "shop")];
        let sight =
            |satellite: &str, state: v1::PortState, reason: v1::Reason, rtts: &[u32], usual| v1::PortSight {
                satellite: satellite.into(),
                segment: satellite.split('-').next().unwrap_or_default().into(),
                state: state.into(),
                reason: reason.into(),
                seen_at_ms: now - 12_000,
                since_at_ms: now - 12 * MINUTE,
                rtts_us: rtts.to_vec(),
                usual_rtt_us: usual,
                in_a_row: 24,
                ..Default::default()
            };
        let step = |minutes: i64, from: v1::CheckState, to: v1::CheckState| v1::Transition {
            at_ms: now - minutes * MINUTE,
            check: "shop-front".into(),
            address: vec![10, 99, 2, 10],
            protocol: v1::Protocol::Tcp.into(),
            port: 23,
            from: from.into(),
            to: to.into(),
            words: "open, expected closed (from office-1)".into(),
            late: false,
        };
        v1::Alert {
            id: "01a1f82d-c1f4-72f9-8fcd-2e760e5281d2".into(),
            fingerprint: "b1946ac92492d234".into(),
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            status: v1::alert::Status::Firing.into(),
            check: "shop-front".into(),
            target: "10.99.2.10".into(),
            address: vec![10, 99, 2, 10],
            protocol: v1::Protocol::Tcp.into(),
            port: 23,
            expected: "closed".into(),
            observed: "open".into(),
            severity: "critical".into(),
            satellites: vec!["office-1".into()],
            since_at_ms: now - 12 * MINUTE,
            changed_at_ms: now - 11 * MINUTE,
            fired_at_ms: now - 11 * MINUTE,
            summary: "tcp/23 on 10.99.2.10 is open and must be closed, as seen from office-1".into(),
            transitions: vec![
                step(11, v1::CheckState::Pending, v1::CheckState::Firing),
                step(12, v1::CheckState::Ok, v1::CheckState::Pending),
            ],
            sights: vec![
                sight("office-1", v1::PortState::Open, v1::Reason::SynAck, &[400, 0, 410, 800], 405),
                sight("dmz-1", v1::PortState::Closed, v1::Reason::Reset, &[], 0),
            ],
            others: vec!["tcp/80 on 10.99.2.10 is filtered and must be open".into()],
            command: "portolan scan 10.99.2.10 -p 23 --from office-1".into(),
            confidence: "24 observations in a row, 1 of 2 vantage points".into(),
            ..Default::default()
        }
    }

    /// A satellite that went away: about no address, acknowledged, commented on.
    pub fn offline() -> v1::Alert {
        let now = noon().as_millisecond();
        let comment = v1::AlertComment {
            at_ms: now - 50 * MINUTE,
            author: "ada".into(),
            text: "power cut in hall 2".into(),
        };
        v1::Alert {
            id: "01a1f7ff-249c-74b9-b8b4-a98be55d5ccb".into(),
            fingerprint: "591785b794601e21".into(),
            labels: [("alertname".to_owned(), "SatelliteOffline".to_owned())].into(),
            status: v1::alert::Status::Acknowledged.into(),
            expected: "online".into(),
            observed: "offline".into(),
            severity: "critical".into(),
            satellites: vec!["pci-1".into()],
            since_at_ms: now - 60 * MINUTE,
            changed_at_ms: now - 50 * MINUTE,
            acknowledged_by: "ada".into(),
            acknowledged_at_ms: now - 50 * MINUTE,
            comments: vec![comment],
            held_back_by: vec!["maintenance patch night".into()],
            unknown: true,
            summary: "satellite pci-1 is offline: 3 checks cannot look from there".into(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Scripts depend on it, down to the order of the keys.
    #[test]
    fn the_contract_of_the_list() {
        let wire = fixture::alert();
        let document = AlertDocument::try_from(&wire).unwrap();
        assert_eq!(
            serde_json::to_string(&document).unwrap(),
            concat!(
                r#"{"id":"01a1f82d-c1f4-72f9-8fcd-2e760e5281d2","check":"shop-front","satellites":["office-1"],"#,
                r#""target":"10.99.2.10","address":"10.99.2.10","protocol":"tcp","port":23,"expected":"closed","#,
                r#""observed":"open","severity":"critical","status":"firing","since":"2026-05-01T11:48:00Z","#,
                r#""changed_at":"2026-05-01T11:49:00Z","resolved_at":null,"acknowledged_by":null,"#,
                r#""labels":{"alertname":"PortOpen","check":"shop-front","team":"shop"},"held_back_by":[],"#,
                r#""flapping":false,"late":false,"unknown":false,"#,
                r#""summary":"tcp/23 on 10.99.2.10 is open and must be closed, as seen from office-1"}"#
            )
        );
        assert_eq!(document.cells().len(), AlertDocument::HEADER.len());
    }

    #[test]
    fn what_an_alert_is_not_about_is_null() {
        let wire = fixture::offline();
        let document = serde_json::to_value(AlertDetails::try_from(&wire).unwrap()).unwrap();
        for key in ["check", "target", "address", "protocol", "port", "resolved_at", "command", "fired_at"] {
            assert_eq!(document[key], json!(null), "{key}");
        }
        assert_eq!(document["acknowledged_by"], "ada");
        let comment = json!([{"at": "2026-05-01T11:10:00Z", "author": "ada", "text": "power cut in hall 2"}]);
        assert_eq!(document["comments"], comment);
    }

    #[test]
    fn an_event_may_be_about_no_alert() {
        let ready = v1::AlertEvent { kind: "ready".into(), alert: None, at_ms: 1_000 };
        assert_eq!(
            serde_json::to_value(EventDocument::try_from(&ready).unwrap()).unwrap(),
            json!({"at": "1970-01-01T00:00:01Z", "kind": "ready", "alert": null, "comment": null})
        );
    }

    #[test]
    fn evidence_has_its_round_trips() {
        let wire = fixture::alert();
        let document = serde_json::to_value(AlertDetails::try_from(&wire).unwrap()).unwrap();
        assert_eq!(
            document["sights"][0],
            json!({
                "satellite": "office-1", "segment": "office", "state": "open", "reason": "syn-ack",
                "seen_at": "2026-05-01T11:59:48Z", "since": "2026-05-01T11:48:00Z", "stale": false,
                "rtts_us": [400, null, 410, 800], "usual_rtt_us": 405, "in_a_row": 24,
            })
        );
        assert_eq!(
            document["transitions"][0],
            json!({
                "at": "2026-05-01T11:49:00Z", "check": "shop-front", "address": "10.99.2.10", "protocol": "tcp",
                "port": 23, "from": "pending", "to": "firing", "words": "open, expected closed (from office-1)",
                "late": false,
            })
        );
        let broken = v1::Alert { address: vec![1], ..wire };
        assert_eq!(AlertDocument::try_from(&broken).err(), Some(WireError::Address(1)));
    }
}

//! `portolan change list -o json`: a list of announced changes.

use super::alert::AlertDocument;
use super::ports::{PortDocument, PortRun};
use super::{Row, cell, non_empty};
use crate::cli::Expected;
use crate::output::time;
use jiff::Timestamp;
use portolan_proto::convert::WireError;
use portolan_proto::v1;
use serde::{Serialize, Serializer};

/// One change.
#[derive(Serialize)]
pub struct ChangeDocument<'a> {
    pub name: &'a str,
    pub author: &'a str,
    pub reason: Option<&'a str>,
    pub opened_at: Option<Timestamp>,
    /// When it ends by itself.
    pub ends_at: Option<Timestamp>,
    /// Null: it is open.
    pub closed_at: Option<Timestamp>,
    pub expectations: Vec<ExpectationDocument>,
}

/// What a change was announced to do, and what it did.
#[derive(Serialize)]
pub struct ExpectationDocument {
    #[serde(flatten)]
    pub expected: ExpectedDocument,
    // Only what closes a change knows both.
    #[serde(flatten)]
    pub sides: Option<SidesDocument>,
}

/// Ports before and after a change.
#[derive(Serialize)]
pub struct SidesDocument {
    /// As they were when the change was opened.
    #[serde(serialize_with = "port_by_port")]
    pub before: Vec<PortRun>,
    /// As they were when it was closed.
    #[serde(serialize_with = "port_by_port")]
    pub after: Vec<PortRun>,
}

/// `change close`.
#[derive(Serialize)]
pub struct ClosedDocument<'a> {
    #[serde(flatten)]
    pub change: ChangeDocument<'a>,
    /// Alerts about the ports of the change that are not resolved.
    pub violations: Vec<AlertDocument<'a>>,
}

impl<'a> ClosedDocument<'a> {
    /// From the server's answers.
    ///
    /// # Errors
    /// A message that breaks the wire contract.
    pub fn new(change: &'a v1::ExpectedChange, violations: &'a [v1::Alert]) -> Result<Self, WireError> {
        let mut document = ChangeDocument::try_from(change)?;
        for (expectation, wire) in document.expectations.iter_mut().zip(&change.expectations) {
            expectation.sides = Some(SidesDocument::try_from(wire)?);
        }
        let violations = violations.iter().map(AlertDocument::try_from).collect::<Result<_, _>>()?;
        Ok(Self { change: document, violations })
    }
}

impl TryFrom<&v1::ChangeExpectation> for SidesDocument {
    type Error = WireError;

    fn try_from(wire: &v1::ChangeExpectation) -> Result<Self, WireError> {
        let runs = |records: &[v1::PortRecord]| {
            records.iter().cloned().map(PortRun::try_from).collect::<Result<_, _>>()
        };
        Ok(Self { before: runs(&wire.before)?, after: runs(&wire.after)? })
    }
}

/// The fields of what was typed.
#[derive(Serialize)]
#[serde(transparent)]
pub struct ExpectedDocument(#[serde(serialize_with = "fields")] pub Expected);

fn fields<S: Serializer>(expected: &Expected, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap as _;
    let mut map = serializer.serialize_map(Some(5))?;
    map.serialize_entry("from", &expected.from)?;
    map.serialize_entry("target", &expected.target)?;
    map.serialize_entry("protocol", expected.protocol.as_str())?;
    map.serialize_entry("ports", &expected.ports)?;
    map.serialize_entry("state", expected.state.as_str())?;
    map.end()
}

fn port_by_port<S: Serializer>(runs: &[PortRun], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(runs.iter().flat_map(PortRun::documents).collect::<Vec<PortDocument<'_>>>())
}

impl<'a> TryFrom<&'a v1::ExpectedChange> for ChangeDocument<'a> {
    type Error = WireError;

    fn try_from(change: &'a v1::ExpectedChange) -> Result<Self, WireError> {
        Ok(Self {
            name: &change.name,
            author: &change.author,
            reason: non_empty(&change.reason),
            opened_at: time::from_wire(change.opened_at_ms),
            ends_at: time::from_wire(change.ends_at_ms),
            closed_at: time::from_wire(change.closed_at_ms),
            expectations: change
                .expectations
                .iter()
                .map(ExpectationDocument::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<&v1::ChangeExpectation> for ExpectationDocument {
    type Error = WireError;

    fn try_from(wire: &v1::ChangeExpectation) -> Result<Self, WireError> {
        let expected = Expected {
            from: wire.from.clone(),
            target: wire.target.clone(),
            protocol: wire.protocol().try_into()?,
            ports: wire.ports.clone(),
            state: wire.state().try_into()?,
        };
        Ok(Self { expected: ExpectedDocument(expected), sides: None })
    }
}

impl Row for ChangeDocument<'_> {
    const HEADER: &'static [&'static str] =
        &["name", "author", "reason", "opened_at", "ends_at", "closed_at", "expectations"];

    fn cells(&self) -> Vec<String> {
        let expectations: Vec<_> = self.expectations.iter().map(|e| e.expected.0.to_string()).collect();
        vec![
            self.name.to_owned(),
            self.author.to_owned(),
            cell(self.reason),
            cell(self.opened_at),
            cell(self.ends_at),
            cell(self.closed_at),
            expectations.join("; "),
        ]
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::scan_result::fixture::{noon, ports};
    use serde_json::json;

    fn record(satellite: &str, state: v1::PortState, reason: v1::Reason, spec: &str) -> v1::PortRecord {
        v1::PortRecord {
            satellite: satellite.into(),
            segment: "office".into(),
            address: vec![10, 99, 2, 10],
            protocol: v1::Protocol::Tcp.into(),
            state: state.into(),
            reason: reason.into(),
            ports: Some(v1::PortSpans::from(&ports(spec))),
            since_at_ms: noon().as_millisecond() - 60_000,
            last_seen_at_ms: noon().as_millisecond() - 1_000,
            tenant: "default".into(),
            ..Default::default()
        }
    }

    /// Closed after it did what was expected from one of two satellites.
    pub fn change() -> v1::ExpectedChange {
        let now = noon().as_millisecond();
        let closed = |satellite| record(satellite, v1::PortState::Closed, v1::Reason::Reset, "8443-8444");
        v1::ExpectedChange {
            name: "CHG31337".into(),
            expectations: vec![v1::ChangeExpectation {
                from: "office".into(),
                target: "10.99.2.10".into(),
                protocol: v1::Protocol::Tcp.into(),
                ports: "8443-8444".into(),
                state: v1::PortState::Open.into(),
                before: vec![closed("office-1"), closed("office-2")],
                after: vec![
                    record("office-1", v1::PortState::Open, v1::Reason::SynAck, "8443-8444"),
                    record("office-2", v1::PortState::Open, v1::Reason::SynAck, "8443"),
                    record("office-2", v1::PortState::Closed, v1::Reason::Reset, "8444"),
                ],
            }],
            author: "ada".into(),
            opened_at_ms: now - 3_600_000,
            ends_at_ms: now + 3_600_000,
            closed_at_ms: now,
            reason: "new payment API".into(),
        }
    }

    #[test]
    fn a_change_lists_its_ports_before_and_after() {
        let wire = change();
        let document = ChangeDocument::try_from(&wire).unwrap();
        assert_eq!(document.cells().len(), ChangeDocument::HEADER.len());
        assert_eq!(document.cells()[6], "office->10.99.2.10:8443-8444 open");
        let listed = serde_json::to_value(&document).unwrap();
        assert_eq!((listed["expectations"][0].get("before"), listed.get("violations")), (None, None));
        let alerts = [crate::document::alert::fixture::alert()];
        let json = serde_json::to_value(ClosedDocument::new(&wire, &alerts).unwrap()).unwrap();
        assert_eq!(json["violations"][0]["check"], "shop-front");
        assert_eq!(json["closed_at"], "2026-05-01T12:00:00Z");
        let expectation = &json["expectations"][0];
        for (key, value) in [
            ("from", "office"),
            ("target", "10.99.2.10"),
            ("protocol", "tcp"),
            ("ports", "8443-8444"),
            ("state", "open"),
        ] {
            assert_eq!(expectation[key], value, "{key}");
        }
        let states = |key: &str| -> Vec<_> {
            let ports = expectation[key].as_array().unwrap().iter();
            ports.map(|port| (port["port"].clone(), port["state"].clone())).collect()
        };
        assert_eq!(states("before").len(), 4);
        assert_eq!(states("after").last().unwrap(), &(json!(8444), json!("closed")));
    }
}

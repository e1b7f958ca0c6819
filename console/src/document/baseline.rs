//! `portolan baseline show -o json`; `baseline diff` has the list of its differences.

use super::{Row, address, cell, port_state, protocol};
use crate::output::time;
use jiff::Timestamp;
use portolan_proto::convert::WireError;
use portolan_proto::v1;
use serde::Serialize;
use std::net::IpAddr;

/// What was open at a check's targets when it was taken.
#[derive(Serialize)]
pub struct BaselineDocument<'a> {
    /// The check's name.
    pub name: &'a str,
    pub taken_at: Option<Timestamp>,
    pub author: &'a str,
    pub ports: Vec<BaselinePortDocument<'a>>,
    /// How it differs now.
    pub differences: Vec<DifferenceDocument<'a>>,
    /// Addresses that no vantage point has looked at yet.
    pub hosts_unseen: u64,
}

/// A port that was open.
#[derive(Serialize)]
pub struct BaselinePortDocument<'a> {
    pub address: Option<IpAddr>,
    pub protocol: Option<&'static str>,
    pub port: u32,
    /// The vantage points from which it was open.
    pub satellites: &'a [String],
}

/// A port that differs, as one vantage point sees it.
#[derive(Serialize)]
pub struct DifferenceDocument<'a> {
    pub address: Option<IpAddr>,
    pub protocol: Option<&'static str>,
    pub port: u32,
    pub satellite: &'a str,
    /// `new`, `vanished`.
    pub kind: &'a str,
    /// How it is now.
    pub state: Option<&'static str>,
    pub since: Option<Timestamp>,
}

impl<'a> TryFrom<&'a v1::Baseline> for BaselineDocument<'a> {
    type Error = WireError;

    fn try_from(baseline: &'a v1::Baseline) -> Result<Self, WireError> {
        let port = |port: &'a v1::BaselinePort| {
            Ok(BaselinePortDocument {
                address: address(&port.address)?,
                protocol: protocol(port.protocol()),
                port: port.port,
                satellites: &port.satellites,
            })
        };
        let difference = |difference: &'a v1::BaselineDifference| {
            Ok(DifferenceDocument {
                address: address(&difference.address)?,
                protocol: protocol(difference.protocol()),
                port: difference.port,
                satellite: &difference.satellite,
                kind: &difference.kind,
                state: port_state(difference.state()),
                since: time::from_wire(difference.since_at_ms),
            })
        };
        Ok(Self {
            name: &baseline.name,
            taken_at: time::from_wire(baseline.taken_at_ms),
            author: &baseline.author,
            ports: baseline.ports.iter().map(port).collect::<Result<_, _>>()?,
            differences: baseline.differences.iter().map(difference).collect::<Result<_, _>>()?,
            hosts_unseen: baseline.hosts_unseen,
        })
    }
}

impl Row for DifferenceDocument<'_> {
    const HEADER: &'static [&'static str] =
        &["address", "protocol", "port", "satellite", "kind", "state", "since"];

    fn cells(&self) -> Vec<String> {
        vec![
            cell(self.address),
            cell(self.protocol),
            self.port.to_string(),
            self.satellite.to_owned(),
            self.kind.to_owned(),
            cell(self.state),
            cell(self.since),
        ]
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::scan_result::fixture::noon;
    use serde_json::json;

    /// Three ports, of which one is gone and a fourth is new.
    pub fn baseline() -> v1::Baseline {
        let port = |port, satellites: &[&str]| v1::BaselinePort {
            address: vec![10, 99, 2, 10],
            protocol: v1::Protocol::Tcp.into(),
            port,
            satellites: satellites.iter().map(|name| (*name).to_owned()).collect(),
        };
        let difference = |port, kind: &str, state: v1::PortState| v1::BaselineDifference {
            address: vec![10, 99, 2, 10],
            protocol: v1::Protocol::Tcp.into(),
            port,
            satellite: "office-1".into(),
            kind: kind.into(),
            state: state.into(),
            since_at_ms: noon().as_millisecond() - 120_000,
        };
        v1::Baseline {
            name: "shop-front".into(),
            taken_at_ms: noon().as_millisecond() - 86_400_000,
            author: "ada".into(),
            ports: vec![port(22, &["office-1"]), port(80, &["office-1", "dmz-1"]), port(443, &["office-1"])],
            differences: vec![
                difference(443, "vanished", v1::PortState::Closed),
                difference(8443, "new", v1::PortState::Open),
            ],
            hosts_unseen: 2,
        }
    }

    #[test]
    fn a_baseline_lists_what_was_open_and_what_differs() {
        let wire = baseline();
        let document = BaselineDocument::try_from(&wire).unwrap();
        assert_eq!(document.differences[0].cells().len(), DifferenceDocument::HEADER.len());
        let json = serde_json::to_value(&document).unwrap();
        assert_eq!(
            json["ports"][1],
            json!({"address": "10.99.2.10", "protocol": "tcp", "port": 80, "satellites": ["office-1", "dmz-1"]})
        );
        assert_eq!(
            json["differences"][1],
            json!({
                "address": "10.99.2.10", "protocol": "tcp", "port": 8443, "satellite": "office-1", "kind": "new",
                "state": "open", "since": "2026-05-01T11:58:00Z",
            })
        );
        assert_eq!((&json["taken_at"], &json["hosts_unseen"]), (&json!("2026-04-30T12:00:00Z"), &json!(2)));
    }
}

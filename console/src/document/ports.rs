//! `portolan ports -o json`: a flat list, one element a port.

use super::{Row, non_empty};
use jiff::Timestamp;
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::ports::PortSet;
use portolan_common::services;
use portolan_proto::convert::{WireError, address_from_wire, time_from_wire};
use portolan_proto::v1;
use serde::Serialize;
use std::net::IpAddr;

/// A run of ports of one host as one satellite last saw it.
#[derive(Clone, Debug)]
pub struct PortRun {
    pub satellite: String,
    pub segment: String,
    pub tenant: String,
    pub address: IpAddr,
    /// The name it was last scanned by; empty if it was none.
    pub target: String,
    pub protocol: Protocol,
    pub state: PortState,
    pub reason: Reason,
    pub ports: PortSet,
    pub since: Timestamp,
    pub last_seen: Timestamp,
}

/// One port.
#[derive(Serialize)]
pub struct PortDocument<'a> {
    satellite: &'a str,
    segment: &'a str,
    tenant: &'a str,
    address: IpAddr,
    /// Null unless it was scanned by name.
    target: Option<&'a str>,
    protocol: &'static str,
    port: u16,
    state: &'static str,
    reason: &'static str,
    since: Timestamp,
    last_seen: Timestamp,
    /// What usually listens there (IANA's name), not what was detected.
    service: Option<&'static str>,
}

impl TryFrom<v1::PortRecord> for PortRun {
    type Error = WireError;

    fn try_from(wire: v1::PortRecord) -> Result<Self, WireError> {
        Ok(Self {
            address: address_from_wire(&wire.address)?,
            protocol: wire.protocol().try_into()?,
            state: wire.state().try_into()?,
            reason: wire.reason().try_into()?,
            ports: wire.ports.as_ref().map_or_else(|| Ok(PortSet::default()), PortSet::try_from)?,
            since: time_from_wire(wire.since_at_ms)?,
            last_seen: time_from_wire(wire.last_seen_at_ms)?,
            satellite: wire.satellite,
            segment: wire.segment,
            tenant: wire.tenant,
            target: wire.target,
        })
    }
}

impl PortRun {
    /// Port by port.
    pub fn documents(&self) -> impl Iterator<Item = PortDocument<'_>> {
        self.ports.iter().map(|port| PortDocument {
            satellite: &self.satellite,
            segment: &self.segment,
            tenant: &self.tenant,
            address: self.address,
            target: non_empty(&self.target),
            protocol: self.protocol.as_str(),
            port,
            state: self.state.as_str(),
            reason: self.reason.as_str(),
            since: self.since,
            last_seen: self.last_seen,
            service: services::name(self.protocol, port),
        })
    }
}

impl Row for PortDocument<'_> {
    const HEADER: &'static [&'static str] = &[
        "satellite",
        "segment",
        "tenant",
        "address",
        "target",
        "protocol",
        "port",
        "state",
        "reason",
        "since",
        "last_seen",
        "service",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.satellite.to_owned(),
            self.segment.to_owned(),
            self.tenant.to_owned(),
            self.address.to_string(),
            self.target.unwrap_or_default().to_owned(),
            self.protocol.to_owned(),
            self.port.to_string(),
            self.state.to_owned(),
            self.reason.to_owned(),
            self.since.to_string(),
            self.last_seen.to_string(),
            self.service.unwrap_or_default().to_owned(),
        ]
    }
}

#[cfg(test)]
pub mod fixture {
    use super::*;
    use crate::scan_result::fixture::{noon, ports};
    use jiff::ToSpan as _;

    pub fn run(satellite: &str, address: &str, state: PortState, reason: Reason, spec: &str) -> PortRun {
        PortRun {
            satellite: satellite.into(),
            segment: satellite.split('-').next().unwrap().into(),
            tenant: "default".into(),
            address: address.parse().unwrap(),
            target: if address.ends_with(".10") { "shop.internal".into() } else { String::new() },
            protocol: Protocol::Tcp,
            state,
            reason,
            ports: ports(spec),
            since: noon() - 50.hours(),
            last_seen: noon() - 3.minutes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_becomes_one_element_a_port() {
        let run = fixture::run("office-1", "10.99.2.10", PortState::Open, Reason::SynAck, "22,4");
        let documents: Vec<_> = run.documents().map(|d| serde_json::to_value(d).unwrap()).collect();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0]["service"], json!(null));
        assert_eq!(
            documents[1],
            json!({
                "satellite": "office-1", "segment": "office", "tenant": "default", "address": "10.99.2.10", "target": "shop.internal",
                "protocol": "tcp", "port": 22, "state": "open", "reason": "syn-ack",
                "since": "2026-04-29T10:00:00Z", "last_seen": "2026-05-01T11:57:00Z", "service": "ssh",
            })
        );
    }

    #[test]
    fn the_servers_mistakes_are_found() {
        let wire = v1::PortRecord { address: vec![1, 2, 3], ..Default::default() };
        assert_eq!(PortRun::try_from(wire).unwrap_err(), WireError::Address(3));
    }
}

//! `portolan history -o json` and `portolan changes -o json`: a list of state changes, one element a port, oldest first.

use super::Row;
use jiff::Timestamp;
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::ports::PortSet;
use portolan_proto::convert::{WireError, address_from_wire, time_from_wire};
use portolan_proto::v1::{self, history_record::Record};
use serde::Serialize;
use std::net::IpAddr;

/// What the server told of a host's past.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Since when each vantage point knows it.
    pub first_seen: Vec<FirstSeen>,
    /// Oldest first.
    pub changes: Vec<Change>,
}

/// When a satellite first saw a host.
#[derive(Clone, Debug)]
pub struct FirstSeen {
    pub satellite: String,
    pub address: IpAddr,
    pub at: Timestamp,
}

/// Ports of one host that changed alike at one time, as one satellite saw it.
#[derive(Clone, Debug)]
pub struct Change {
    pub at: Timestamp,
    pub satellite: String,
    pub address: IpAddr,
    pub protocol: Protocol,
    pub ports: PortSet,
    pub from: PortState,
    pub to: PortState,
    pub reason: Reason,
    pub late: bool,
}

/// One port's change.
#[derive(Serialize)]
pub struct ChangeDocument<'a> {
    at: Timestamp,
    satellite: &'a str,
    address: IpAddr,
    protocol: &'static str,
    port: u16,
    from: &'static str,
    to: &'static str,
    reason: &'static str,
    /// The link was down: the server learned of it later.
    late: bool,
}

/// Oldest first: the server streams month by month and address by address, and what came late stands at its end.
pub fn sort(changes: &mut [Change]) {
    changes.sort_by_key(|change| change.at);
}

impl Past {
    /// Takes in one record.
    ///
    /// # Errors
    /// A message that breaks the wire contract.
    pub fn add(&mut self, record: v1::HistoryRecord) -> Result<(), WireError> {
        match record.record {
            None => {}
            Some(Record::FirstSeen(wire)) => self.first_seen.push(FirstSeen {
                address: address_from_wire(&wire.address)?,
                at: time_from_wire(wire.at_ms)?,
                satellite: wire.satellite,
            }),
            Some(Record::Change(wire)) => self.changes.push(wire.try_into()?),
        }
        Ok(())
    }
}

impl TryFrom<v1::PortChange> for Change {
    type Error = WireError;

    fn try_from(wire: v1::PortChange) -> Result<Self, WireError> {
        Ok(Self {
            at: time_from_wire(wire.at_ms)?,
            address: address_from_wire(&wire.address)?,
            protocol: wire.protocol().try_into()?,
            ports: wire.ports.as_ref().map_or_else(|| Ok(PortSet::default()), PortSet::try_from)?,
            from: wire.from().try_into()?,
            to: wire.to().try_into()?,
            reason: wire.reason().try_into()?,
            late: wire.late,
            satellite: wire.satellite,
        })
    }
}

impl Change {
    /// Port by port.
    pub fn documents(&self) -> impl Iterator<Item = ChangeDocument<'_>> {
        self.ports.iter().map(|port| ChangeDocument {
            at: self.at,
            satellite: &self.satellite,
            address: self.address,
            protocol: self.protocol.as_str(),
            port,
            from: self.from.as_str(),
            to: self.to.as_str(),
            reason: self.reason.as_str(),
            late: self.late,
        })
    }
}

impl Row for ChangeDocument<'_> {
    const HEADER: &'static [&'static str] =
        &["at", "satellite", "address", "protocol", "port", "from", "to", "reason", "late"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.at.to_string(),
            self.satellite.to_owned(),
            self.address.to_string(),
            self.protocol.to_owned(),
            self.port.to_string(),
            self.from.to_owned(),
            self.to.to_owned(),
            self.reason.to_owned(),
            self.late.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_of_many_ports_is_one_element_each_and_first_sightings_are_none() {
        let mut past = Past::default();
        let records = [
            Record::FirstSeen(v1::FirstSeen {
                satellite: "a".into(),
                address: vec![10, 0, 0, 1],
                at_ms: 1_000,
            }),
            Record::Change(v1::PortChange {
                at_ms: 2_000,
                satellite: "a".into(),
                address: vec![10, 0, 0, 1],
                protocol: v1::Protocol::Tcp.into(),
                ports: Some(v1::PortSpans::from(&[22, 23].into_iter().collect())),
                from: v1::PortState::Open.into(),
                to: v1::PortState::Closed.into(),
                reason: v1::Reason::ConnRefused.into(),
                late: false,
            }),
        ];
        for record in records {
            past.add(v1::HistoryRecord { record: Some(record) }).unwrap();
        }
        assert_eq!(past.first_seen.len(), 1);
        let documents: Vec<_> = past.changes.iter().flat_map(Change::documents).collect();
        assert_eq!(documents.len(), 2);
        assert_eq!(
            serde_json::to_value(&documents[0]).unwrap(),
            json!({
                "at": "1970-01-01T00:00:02Z", "satellite": "a", "address": "10.0.0.1", "protocol": "tcp", "port": 22,
                "from": "open", "to": "closed", "reason": "conn-refused", "late": false,
            })
        );
    }
}

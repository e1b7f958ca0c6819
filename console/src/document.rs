//! The machine output's contract: one file a command, each the structures that its JSON and YAML show, field by field.

pub mod alert;
pub mod baseline;
pub mod change;
pub mod check;
pub mod evidence;
pub mod history;
pub mod policy;
pub mod ports;
pub mod satellite;
pub mod scan;
pub mod scans;
pub mod silence;
pub mod status;

use portolan_common::observation::{PortState, Protocol};
use portolan_proto::convert::{WireError, address_from_wire};
use portolan_proto::v1;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// A row of CSV.
pub trait Row {
    /// The first line.
    const HEADER: &'static [&'static str];

    /// As many as [`Row::HEADER`] names.
    fn cells(&self) -> Vec<String>;
}

/// An absent text is `null`, not an empty string.
fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// An absent value is an empty cell.
fn cell(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// An absent address is `null`.
fn address(bytes: &[u8]) -> Result<Option<IpAddr>, WireError> {
    if bytes.is_empty() { Ok(None) } else { address_from_wire(bytes).map(Some) }
}

/// In the order of their names, as the wire does not keep one.
fn sorted(labels: &HashMap<String, String>) -> BTreeMap<&str, &str> {
    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// A protocol's word, if there is one.
fn protocol(wire: v1::Protocol) -> Option<&'static str> {
    Protocol::try_from(wire).ok().map(Protocol::as_str)
}

/// A port state's word, if there is one.
fn port_state(wire: v1::PortState) -> Option<&'static str> {
    PortState::try_from(wire).ok().map(PortState::as_str)
}

//! What checks and alerts rest on: what a vantage point saw of a port, and the steps that were decided from it.

use super::{address, cell, port_state, protocol};
use crate::output::time;
use jiff::Timestamp;
use portolan_common::observation::Reason;
use portolan_proto::convert::WireError;
use portolan_proto::v1;
use serde::Serialize;
use std::net::IpAddr;

/// A port as one vantage point last saw it.
#[derive(Serialize)]
pub struct SightDocument<'a> {
    pub satellite: &'a str,
    pub segment: &'a str,
    /// Null: it never saw it.
    pub state: Option<&'static str>,
    pub reason: Option<&'static str>,
    pub seen_at: Option<Timestamp>,
    /// Since when it has been so.
    pub since: Option<Timestamp>,
    /// Too old to count.
    pub stale: bool,
    /// The last round-trip times, oldest first; null: no answer.
    pub rtts_us: Vec<Option<u32>>,
    pub usual_rtt_us: Option<u32>,
    /// Observations in a row that say the same of the expectation.
    pub in_a_row: u32,
}

impl<'a> From<&'a v1::PortSight> for SightDocument<'a> {
    fn from(sight: &'a v1::PortSight) -> Self {
        let measured = |us: u32| (us != 0).then_some(us);
        Self {
            satellite: &sight.satellite,
            segment: &sight.segment,
            state: port_state(sight.state()),
            reason: Reason::try_from(sight.reason()).ok().map(Reason::as_str),
            seen_at: time::from_wire(sight.seen_at_ms),
            since: time::from_wire(sight.since_at_ms),
            stale: sight.stale,
            rtts_us: sight.rtts_us.iter().map(|us| measured(*us)).collect(),
            usual_rtt_us: measured(sight.usual_rtt_us),
            in_a_row: sight.in_a_row,
        }
    }
}

/// One step of the state machine.
#[derive(Serialize)]
pub struct TransitionDocument<'a> {
    pub at: Option<Timestamp>,
    pub check: &'a str,
    pub address: Option<IpAddr>,
    pub protocol: Option<&'static str>,
    /// Null: the host itself.
    pub port: Option<u32>,
    pub from: &'static str,
    pub to: &'static str,
    /// What was seen, for people.
    pub words: &'a str,
    /// Learned long after it was seen.
    pub late: bool,
}

impl<'a> TryFrom<&'a v1::Transition> for TransitionDocument<'a> {
    type Error = WireError;

    fn try_from(step: &'a v1::Transition) -> Result<Self, WireError> {
        Ok(Self {
            at: time::from_wire(step.at_ms),
            check: &step.check,
            address: address(&step.address)?,
            protocol: protocol(step.protocol()).filter(|_| step.port != 0),
            port: (step.port != 0).then_some(step.port),
            from: check_state(step.from()),
            to: check_state(step.to()),
            words: &step.words,
            late: step.late,
        })
    }
}

impl TransitionDocument<'_> {
    /// `10.99.2.10 23/tcp`, `10.99.2.10`.
    pub fn subject(&self) -> String {
        subject(self.address, self.protocol, self.port)
    }
}

/// An address, a port of it, or nothing.
pub fn subject(address: Option<IpAddr>, protocol: Option<&str>, port: Option<u32>) -> String {
    match (protocol, port) {
        (Some(protocol), Some(port)) => {
            format!("{} {port}/{protocol}", cell(address)).trim_start().to_owned()
        }
        _ => cell(address),
    }
}

/// The word of a state.
pub fn check_state(state: v1::CheckState) -> &'static str {
    match state {
        v1::CheckState::Ok => "ok",
        v1::CheckState::Pending => "pending",
        v1::CheckState::Firing => "firing",
        v1::CheckState::Unknown | v1::CheckState::Unspecified => "unknown",
    }
}

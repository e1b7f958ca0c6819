//! `portolan check list -o json`: a list, ascending by name; `check show` has more of one.

use super::evidence::{SightDocument, TransitionDocument, check_state};
use super::satellite::status_word;
use super::{Row, address, cell, non_empty, protocol, sorted};
use crate::output::time;
use jiff::Timestamp;
use portolan_proto::convert::WireError;
use portolan_proto::v1;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A check and how it is.
#[derive(Serialize)]
pub struct CheckDocument<'a> {
    pub name: &'a str,
    pub tenant: &'a str,
    /// The worst of its ports: `firing`, `unknown`, `pending`, `ok`.
    pub state: &'static str,
    /// When that began.
    pub since: Option<Timestamp>,
    /// How many (address, port) expectations are in which state; those that are held back count as firing.
    pub ok: u64,
    pub pending: u64,
    pub firing: u64,
    pub unknown: u64,
    /// As the policy has them.
    pub from: &'a [String],
    pub targets: &'a [String],
    pub open: &'a str,
    pub closed: &'a str,
    pub blocked: &'a str,
    pub watch: &'a str,
    pub exclusive: bool,
    /// `30s`, or `0 2 * * SUN (Europe/Berlin)`.
    pub schedule: &'a str,
    pub labels: BTreeMap<&'a str, &'a str>,
    /// Null: it runs.
    pub paused_by: Option<&'a str>,
    pub paused_at: Option<Timestamp>,
    /// What keeps its alerts back.
    pub held_back_by: &'a [String],
    pub vantage_points: Vec<VantageDocument<'a>>,
}

/// A check as one of its satellites does it.
#[derive(Serialize)]
pub struct VantageDocument<'a> {
    pub satellite: &'a str,
    pub segment: &'a str,
    /// `online`, `offline`, `pending`, `revoked`.
    pub status: &'static str,
    /// The oldest of its last looks at the check's addresses; null: it has never looked at all of them.
    pub oldest_seen: Option<Timestamp>,
    pub newest_seen: Option<Timestamp>,
    /// Why it cannot do its part.
    pub error: Option<&'a str>,
    pub refused: Vec<RefusalDocument<'a>>,
    /// `NAME: reason`.
    pub unresolved: &'a [String],
    /// What it holds instead of the interval, milliseconds; null: it holds the interval.
    pub interval_ms: Option<u64>,
    /// It runs an older assignment than the one it should.
    pub outdated: bool,
    pub method: Option<&'a str>,
    /// How many addresses it looks at; null: not known.
    pub addresses: Option<u64>,
}

/// What a satellite's scope forbids.
#[derive(Serialize)]
pub struct RefusalDocument<'a> {
    pub target: &'a str,
    /// Empty: all that were asked.
    pub ports: &'a str,
    pub rule: &'a str,
}

/// A check with its ports and its past.
#[derive(Serialize)]
pub struct CheckDetails<'a> {
    #[serde(flatten)]
    pub check: CheckDocument<'a>,
    /// Observations in a row that make a fault, and those that end one; null: the server is too old to say.
    pub confirm: Option<u32>,
    pub recover: Option<u32>,
    /// By what is expected: how many vantage points it takes, how bad a fault is.
    pub quorum: BTreeMap<&'a str, &'a str>,
    pub severity: BTreeMap<&'a str, &'a str>,
    pub depend_on: &'a [String],
    /// It watches against a baseline, and none was taken.
    pub baseline_missing: bool,
    /// What is not ok first, then what must be open; at most 1,000.
    pub ports: Vec<PortDocument<'a>>,
    pub ports_omitted: u64,
    /// Newest first; at most 200.
    pub timeline: Vec<TransitionDocument<'a>>,
}

/// What is expected of one port, and how it is.
#[derive(Serialize)]
pub struct PortDocument<'a> {
    pub target: Option<&'a str>,
    pub address: Option<IpAddr>,
    pub protocol: Option<&'static str>,
    /// Null: the host itself.
    pub port: Option<u32>,
    /// `open`, `closed`, `blocked`, `baseline`, `up`.
    pub expected: Option<&'static str>,
    pub state: &'static str,
    pub since: Option<Timestamp>,
    pub flapping: bool,
    pub alert_id: Option<&'a str>,
    pub sights: Vec<SightDocument<'a>>,
}

/// `portolan check run`.
#[derive(Serialize)]
pub struct RunDocument<'a> {
    pub name: &'a str,
    /// By the server's clock.
    pub ordered_at: Option<Timestamp>,
    /// Who was told.
    pub satellites: &'a [String],
    pub failed: Vec<FailureDocument<'a>>,
    /// Those that were told and have not looked; null: nobody waited.
    pub waiting_for: Option<&'a [String]>,
    /// How it is after that; null: nobody waited.
    pub check: Option<CheckDetails<'a>>,
}

/// A satellite that could not be told.
#[derive(Serialize)]
pub struct FailureDocument<'a> {
    pub satellite: &'a str,
    pub error: &'a str,
}

/// `portolan check pause|resume`.
#[derive(Serialize)]
pub struct PausedDocument<'a> {
    pub name: &'a str,
    pub paused: bool,
}

impl<'a> From<&'a v1::Check> for CheckDocument<'a> {
    fn from(check: &'a v1::Check) -> Self {
        Self {
            name: &check.name,
            tenant: &check.tenant,
            state: check_state(check.state()),
            since: time::from_wire(check.since_at_ms),
            ok: check.ok,
            pending: check.pending,
            firing: check.firing,
            unknown: check.unknown,
            from: &check.from,
            targets: &check.targets,
            open: &check.open,
            closed: &check.closed,
            blocked: &check.blocked,
            watch: &check.watch,
            exclusive: check.exclusive,
            schedule: &check.schedule,
            labels: sorted(&check.labels),
            paused_by: non_empty(&check.paused_by),
            paused_at: time::from_wire(check.paused_at_ms),
            held_back_by: &check.held_back_by,
            vantage_points: check.vantage_points.iter().map(VantageDocument::from).collect(),
        }
    }
}

impl<'a> From<&'a v1::CheckVantage> for VantageDocument<'a> {
    fn from(vantage: &'a v1::CheckVantage) -> Self {
        let refusal = |refusal: &'a v1::Refusal| RefusalDocument {
            target: &refusal.target,
            ports: &refusal.ports,
            rule: &refusal.rule,
        };
        Self {
            satellite: &vantage.satellite,
            segment: &vantage.segment,
            status: status_word(vantage.status()),
            oldest_seen: time::from_wire(vantage.oldest_seen_at_ms),
            newest_seen: time::from_wire(vantage.newest_seen_at_ms),
            error: non_empty(&vantage.error),
            refused: vantage.refusals.iter().map(refusal).collect(),
            unresolved: &vantage.unresolved,
            interval_ms: (vantage.interval_ms != 0).then_some(vantage.interval_ms),
            outdated: vantage.outdated,
            method: non_empty(&vantage.method),
            addresses: (vantage.addresses != 0).then_some(vantage.addresses),
        }
    }
}

impl CheckDocument<'_> {
    /// The oldest of the last looks of all its vantage points; none where one never looked at everything.
    pub fn oldest_seen(&self) -> Option<Timestamp> {
        self.vantage_points.iter().map(|vantage| vantage.oldest_seen).min().flatten()
    }
}

impl<'a> CheckDetails<'a> {
    /// From the server's answer.
    ///
    /// # Errors
    /// A message that breaks the wire contract.
    pub fn new(check: &'a v1::Check, answer: &'a v1::GetCheckResponse) -> Result<Self, WireError> {
        Ok(Self {
            check: CheckDocument::from(check),
            confirm: (check.confirm != 0).then_some(check.confirm),
            recover: (check.recover != 0).then_some(check.recover),
            quorum: sorted(&check.quorum),
            severity: sorted(&check.severity),
            depend_on: &check.depend_on,
            baseline_missing: check.baseline_missing,
            ports: answer.ports.iter().map(PortDocument::try_from).collect::<Result<_, _>>()?,
            ports_omitted: answer.ports_dropped,
            timeline: answer.timeline.iter().map(TransitionDocument::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl<'a> TryFrom<&'a v1::PortExpectation> for PortDocument<'a> {
    type Error = WireError;

    fn try_from(port: &'a v1::PortExpectation) -> Result<Self, WireError> {
        Ok(Self {
            target: non_empty(&port.target),
            address: address(&port.address)?,
            protocol: protocol(port.protocol()).filter(|_| port.port != 0),
            port: (port.port != 0).then_some(port.port),
            expected: match port.expected() {
                v1::Expectation::Open => Some("open"),
                v1::Expectation::Closed => Some("closed"),
                v1::Expectation::Blocked => Some("blocked"),
                v1::Expectation::Baseline => Some("baseline"),
                v1::Expectation::Up => Some("up"),
                v1::Expectation::Unspecified => None,
            },
            state: check_state(port.state()),
            since: time::from_wire(port.since_at_ms),
            flapping: port.flapping,
            alert_id: non_empty(&port.alert_id),
            sights: port.sights.iter().map(SightDocument::from).collect(),
        })
    }
}

impl<'a> From<&'a v1::SatelliteFailure> for FailureDocument<'a> {
    fn from(failure: &'a v1::SatelliteFailure) -> Self {
        Self { satellite: &failure.satellite, error: &failure.error }
    }
}

impl Row for CheckDocument<'_> {
    const HEADER: &'static [&'static str] = &[
        "name",
        "tenant",
        "state",
        "since",
        "ok",
        "pending",
        "firing",
        "unknown",
        "from",
        "targets",
        "open",
        "closed",
        "blocked",
        "watch",
        "exclusive",
        "schedule",
        "paused_by",
        "held_back_by",
        "vantage_points",
        "oldest_seen",
    ];

    fn cells(&self) -> Vec<String> {
        let satellites: Vec<_> = self.vantage_points.iter().map(|vantage| vantage.satellite).collect();
        vec![
            self.name.to_owned(),
            self.tenant.to_owned(),
            self.state.to_owned(),
            cell(self.since),
            self.ok.to_string(),
            self.pending.to_string(),
            self.firing.to_string(),
            self.unknown.to_string(),
            self.from.join(" "),
            self.targets.join(" "),
            self.open.to_owned(),
            self.closed.to_owned(),
            self.blocked.to_owned(),
            self.watch.to_owned(),
            self.exclusive.to_string(),
            self.schedule.to_owned(),
            cell(self.paused_by),
            self.held_back_by.join("; "),
            satellites.join(" "),
            cell(self.oldest_seen()),
        ]
    }
}

#[cfg(test)]
pub mod fixture;
#[cfg(test)]
mod tests;

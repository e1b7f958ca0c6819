//! What the tests say things with.

use crate::evaluate::*;
use crate::store::Order;
use jiff::Timestamp;
use portolan_common::addresses::AddressSet;
use portolan_common::expectation::ExpectedPorts;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{HostObservation, PortDetail, PortState, Protocol, Reason, StateRun};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_common::schedule::Schedule;
use portolan_policy::model::{Quorum, Quorums};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use uuid::Uuid;

pub(super) const HOST: &str = "10.0.0.1";
/// Seconds between two looks; evidence counts for three times as long.
pub(super) const INTERVAL: i64 = 60;

pub(super) fn satellite(number: u128) -> SatelliteId {
    SatelliteId(Uuid::from_u128(number))
}

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn second(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

pub(super) fn ports(text: &str) -> PortSpec {
    text.parse().unwrap()
}

/// A check `web` of satellite 1 at [`HOST`], any quorum, everything confirmed at once, until it is told otherwise.
pub(super) fn check(open: &str, closed: &str) -> CheckSpec {
    let or_none = |text: &str| if text.is_empty() { PortSpec::default() } else { ports(text) };
    CheckSpec {
        name: "web".into(),
        tenant: "default".into(),
        satellites: BTreeSet::from([satellite(1)]),
        addresses: AddressSet::single(address(HOST)),
        names: BTreeSet::new(),
        exclude: AddressSet::default(),
        ports: ExpectedPorts { open: or_none(open), closed: or_none(closed), ..ExpectedPorts::default() },
        baseline: None,
        schedule: Schedule::Every(Duration::from_secs(60)),
        pace: Duration::ZERO,
        confirm: 1,
        recover: 1,
        quorum: Quorums { open: Quorum::Any, closed: Quorum::Any, blocked: Quorum::Any },
        paused: false,
    }
}

pub(super) fn from(satellites: impl IntoIterator<Item = u128>, spec: CheckSpec) -> CheckSpec {
    CheckSpec { satellites: satellites.into_iter().map(satellite).collect(), ..spec }
}

/// Ports in each state, in nmap's syntax; what answers is up.
pub(super) fn host(target: &str, at: &str, open: &str, closed: &str, filtered: &str) -> HostObservation {
    let mut runs = Vec::new();
    for (text, state, reason) in [
        (open, PortState::Open, Reason::SynAck),
        (closed, PortState::Closed, Reason::ConnRefused),
        (filtered, PortState::Filtered, Reason::NoResponse),
    ] {
        if !text.is_empty() {
            let PortSpec { tcp, udp } = ports(text);
            for (protocol, ports) in [(Protocol::Tcp, tcp), (Protocol::Udp, udp)] {
                if !ports.is_empty() {
                    runs.push(StateRun { protocol, state, reason, ports });
                }
            }
        }
    }
    let details = runs.iter().filter(|run| run.state == PortState::Open).flat_map(|run| {
        let detail = |port| PortDetail { protocol: run.protocol, port, rtt_us: 400 };
        run.ports.iter().map(detail)
    });
    HostObservation {
        target: target.to_owned(),
        address: address(at),
        up: !open.is_empty() || !closed.is_empty(),
        observed_at: Timestamp::UNIX_EPOCH,
        details: details.collect(),
        runs,
        unscanned: PortSpec::default(),
        suspect: None,
    }
}

/// An evaluator whose events come one after the other.
pub(super) struct Stage {
    pub evaluator: Evaluator,
    pub now: i64,
    sequence: u64,
}

impl Stage {
    pub(super) fn new(checks: impl Into<Vec<CheckSpec>>) -> Self {
        let mut stage = Self { evaluator: Evaluator::new(), now: 0, sequence: 0 };
        assert_eq!(stage.set(checks), []);
        stage
    }

    pub(super) fn set(&mut self, checks: impl Into<Vec<CheckSpec>>) -> Vec<Transition> {
        let mut out = Vec::new();
        self.evaluator.set_checks(checks.into(), second(self.now), &mut out);
        out
    }

    /// A satellite looks at [`HOST`], a second after what was last.
    pub(super) fn look(&mut self, from: u128, open: &str, closed: &str, filtered: &str) -> Vec<Transition> {
        self.see(from, &host(HOST, HOST, open, closed, filtered))
    }

    pub(super) fn see(&mut self, from: u128, host: &HostObservation) -> Vec<Transition> {
        self.now += 1;
        self.see_at(from, host, self.now, false)
    }

    pub(super) fn see_at(
        &mut self,
        from: u128,
        host: &HostObservation,
        at: i64,
        late: bool,
    ) -> Vec<Transition> {
        self.sequence += 1;
        self.replay(from, host, at, late, self.sequence)
    }

    pub(super) fn replay(
        &mut self,
        from: u128,
        host: &HostObservation,
        at: i64,
        late: bool,
        sequence: u64,
    ) -> Vec<Transition> {
        let order = Order { ordinal: 1, sequence };
        let seen =
            Sighting { tenant: "default", satellite: satellite(from), order, at: second(at), late, host };
        let mut out = Vec::new();
        self.evaluator.observe(&seen, second(self.now), &mut out);
        out
    }

    /// Time passes, second by second.
    pub(super) fn wait(&mut self, seconds: i64) -> Vec<Transition> {
        let mut out = Vec::new();
        for _ in 0..seconds {
            self.now += 1;
            self.evaluator.tick(second(self.now), &mut out);
        }
        out
    }

    pub(super) fn online(&mut self, number: u128, online: bool) -> Vec<Transition> {
        let mut out = Vec::new();
        self.evaluator.set_online(satellite(number), online, second(self.now), &mut out);
        out
    }

    /// What it takes from one look of [`check`] to the next changes.
    pub(super) fn pace(&mut self, seconds: i64) -> Vec<Transition> {
        let (mut out, pace) = (Vec::new(), Duration::from_secs(seconds.unsigned_abs()));
        self.evaluator.set_pace("web", pace, second(self.now), &mut out);
        out
    }

    pub(super) fn state(&self, port: u16) -> State {
        self.evaluator.state(&key(port))
    }

    pub(super) fn counts(&self) -> Counts {
        self.evaluator.counts("web").unwrap()
    }
}

pub(super) fn key(port: u16) -> Key {
    Key { check: "web".into(), address: address(HOST), port: Some((Protocol::Tcp, port)) }
}

/// What happened to which port (0: the host), in short.
pub(super) fn steps(transitions: &[Transition]) -> Vec<(u16, State, State)> {
    transitions.iter().map(|told| (told.key.port.map_or(0, |(_, port)| port), told.from, told.to)).collect()
}

pub(super) fn set(ports: &str) -> PortSet {
    ports.parse::<PortSpec>().unwrap().tcp
}

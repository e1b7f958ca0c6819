//! A check made ready to judge what is seen.

use super::{CheckSpec, Expected};
use jiff::{SignedDuration, Timestamp};
use portolan_common::addresses::AddressSet;
use portolan_common::expectation::{Expectation, Judgement};
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{HostObservation, PortState, Protocol, Reason, StateRun};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_common::schedule::Schedule;
use portolan_policy::model::Quorum;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

/// Evidence counts for so many intervals.
const FRESH_INTERVALS: u32 = 3;
/// Answers that a plan remembers.
const KNOWN: usize = 8;
/// A host that must have so many TCP ports open, or more, and answers on none of them is told to be down.
const HOST_PORTS: usize = 2;

/// Ports of a look that share protocol, state and reason, by what that says of what is expected.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub protocol: Protocol,
    pub judgement: Judgement,
    pub state: PortState,
    pub reason: Reason,
    pub ports: PortSet,
}

/// See the module.
pub(super) struct Plan {
    pub spec: CheckSpec,
    /// Ports that the policy expects something of.
    policy: PortSpec,
    /// Ports that are compared with a baseline.
    compared: PortSpec,
    /// Until when evidence counts that was seen in which times, as it was last worked out: from, up to, until. A cron
    /// expression is slow to ask, and gives the same answer from one of its times to the next.
    known: RefCell<VecDeque<(Timestamp, Timestamp, Timestamp)>>,
}

impl Plan {
    pub(super) fn new(spec: CheckSpec) -> Self {
        let policy = spec.ports.open.union(&spec.ports.closed).union(&spec.ports.blocked);
        // What the policy expects goes before what a baseline has.
        let compared = match &spec.baseline {
            Some(_) => spec.ports.watch.difference(&policy),
            None => PortSpec::default(),
        };
        Self { policy, compared, known: RefCell::default(), spec }
    }

    /// Takes another pace; nothing else changes.
    pub(super) fn set_pace(&mut self, pace: Duration) {
        self.spec.pace = pace;
    }

    /// When evidence of that time stops to count: from right after this on.
    pub(super) fn fresh_until(&self, seen: Timestamp) -> Timestamp {
        let pace = SignedDuration::try_from(self.spec.pace).unwrap_or(SignedDuration::MAX);
        let by_pace = seen.checked_add(pace.saturating_mul(FRESH_INTERVALS as i32)).unwrap_or(Timestamp::MAX);
        self.due(seen).max(by_pace)
    }

    /// When as many looks were due after that time as evidence counts for.
    fn due(&self, seen: Timestamp) -> Timestamp {
        let schedule = &self.spec.schedule;
        if let Schedule::Every(_) = schedule {
            return schedule.after_runs(seen, FRESH_INTERVALS);
        }
        let mut known = self.known.borrow_mut();
        if let Some((.., until)) = known.iter().find(|(from, to, _)| *from <= seen && seen < *to) {
            return *until;
        }
        let next = schedule.after_runs(seen, 1);
        let until = schedule.after_runs(next, FRESH_INTERVALS - 1);
        known.push_front((seen, next, until));
        known.truncate(KNOWN);
        until
    }

    /// Whether the check looks at an address, and under which name if it is not for the address itself.
    pub(super) fn covers<'a>(&self, address: IpAddr, target: &'a str) -> Option<Option<&'a str>> {
        if self.spec.addresses.contains(address) {
            return Some(None);
        }
        (self.spec.names.contains(target) && !self.spec.exclude.contains(address)).then_some(Some(target))
    }

    /// Whether the host itself is looked at.
    pub(super) fn judges_hosts(&self) -> bool {
        self.spec.ports.open.tcp.len() >= HOST_PORTS
    }

    /// How many ports something is expected of at an address.
    pub(super) fn expectations_at(&self, address: IpAddr) -> usize {
        self.policy.len() + if self.is_compared(address) { self.compared.len() } else { 0 }
    }

    /// The same as one vantage point sees it.
    pub(super) fn expectations_from(&self, satellite: SatelliteId, address: IpAddr) -> usize {
        self.policy.len() + if self.compares(satellite, address) { self.compared.len() } else { 0 }
    }

    /// How many ports something is expected of at a name, wherever it leads.
    pub(super) fn expectations_of_name(&self) -> usize {
        self.policy.len()
    }

    /// Whether any vantage point has the address in the baseline.
    fn is_compared(&self, address: IpAddr) -> bool {
        self.spec.satellites.iter().any(|satellite| self.compares(*satellite, address))
    }

    /// The same over all addresses that are not there by name.
    pub(super) fn expectations(&self) -> u64 {
        let mut total = self.spec.addresses.len().saturating_mul(self.policy.len() as u128);
        if let Some(baseline) = self.spec.baseline.as_ref().filter(|_| !self.compared.is_empty()) {
            let seen = baseline
                .seen
                .iter()
                .filter(|(satellite, _)| self.spec.satellites.contains(satellite))
                .fold(AddressSet::default(), |all, (_, seen)| {
                    all.union(&seen.intersection(&self.spec.addresses))
                });
            total = total.saturating_add(seen.len().saturating_mul(self.compared.len() as u128));
        }
        u64::try_from(total).unwrap_or(u64::MAX)
    }

    /// What is expected of a port from a vantage point; `None`: nothing is. It is an open baseline port that is
    /// expected open, and one that is not that is expected closed.
    fn expectation(
        &self,
        satellite: SatelliteId,
        address: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Option<Expectation> {
        if self.compared.contains(protocol, port) {
            if !self.compares(satellite, address) {
                return None;
            }
            let open =
                self.baseline_open(satellite, address, protocol).is_some_and(|open| open.contains(port));
            return Some(if open { Expectation::Open } else { Expectation::Closed });
        }
        self.spec.ports.of(protocol, port)
    }

    /// What is expected of a port in general, with a baseline as those vantage points have it.
    pub(super) fn expected(
        &self,
        mut satellites: impl Iterator<Item = SatelliteId>,
        address: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Option<Expected> {
        if !self.compared.contains(protocol, port) {
            return self.spec.ports.of(protocol, port).map(Expected::Port);
        }
        let first = satellites.find_map(|satellite| self.expectation(satellite, address, protocol, port));
        let any = || {
            let mut all = self.spec.satellites.iter();
            all.find_map(|satellite| self.expectation(*satellite, address, protocol, port))
        };
        first.or_else(any).map(|expectation| Expected::Baseline { open: expectation == Expectation::Open })
    }

    /// How many vantage points a fault takes.
    pub(super) fn quorum(&self, expected: Expected) -> Quorum {
        match expected {
            Expected::Port(Expectation::Open) | Expected::Up => self.spec.quorum.open,
            Expected::Port(Expectation::Closed) => self.spec.quorum.closed,
            Expected::Port(Expectation::Blocked) => self.spec.quorum.blocked,
            Expected::Baseline { .. } => Quorum::Any,
        }
    }

    /// What a look says of the ports that the check asks for, without those that are left out.
    pub(super) fn judge(
        &self,
        satellite: SatelliteId,
        host: &HostObservation,
        address: IpAddr,
        known: &PortSpec,
    ) -> Vec<Judged> {
        let compares = !self.compared.is_empty() && self.compares(satellite, address);
        let mut look = Vec::new();
        for run in &host.runs {
            self.judge_run(run, known, &mut look);
            if compares {
                let open = self.baseline_open(satellite, address, run.protocol);
                self.compare_run(run, open, known, &mut look);
            }
        }
        look
    }

    fn judge_run(&self, run: &StateRun, known: &PortSpec, look: &mut Vec<Judged>) {
        let ports = &self.spec.ports;
        for (expected, expectation) in [
            (&ports.open, Expectation::Open),
            (&ports.closed, Expectation::Closed),
            (&ports.blocked, Expectation::Blocked),
        ] {
            add(look, run, run.ports.intersection(expected.of(run.protocol)), expectation, known);
        }
    }

    fn compare_run(&self, run: &StateRun, open: Option<&PortSet>, known: &PortSpec, look: &mut Vec<Judged>) {
        let compared = run.ports.intersection(self.compared.of(run.protocol));
        let was_open = open.map(|open| compared.intersection(open)).unwrap_or_default();
        let was_shut = compared.difference(&was_open);
        add(look, run, was_open, Expectation::Open, known);
        add(look, run, was_shut, Expectation::Closed, known);
    }

    fn compares(&self, satellite: SatelliteId, address: IpAddr) -> bool {
        let seen = self.spec.baseline.as_ref().and_then(|baseline| baseline.seen.get(&satellite));
        seen.is_some_and(|seen| seen.contains(address))
    }

    fn baseline_open(&self, satellite: SatelliteId, address: IpAddr, protocol: Protocol) -> Option<&PortSet> {
        self.spec.baseline.as_ref()?.open.get(&(address, protocol))?.get(&satellite)
    }

    /// Ports of an address of which something else was expected before.
    pub(super) fn differs_from(&self, before: &Self, address: IpAddr) -> PortSpec {
        let (new, old) = (&self.spec.ports, &before.spec.ports);
        let mut changed = PortSpec::default();
        let mut differ = |a: &PortSpec, b: &PortSpec| {
            changed = changed.union(&a.difference(b)).union(&b.difference(a));
        };
        differ(&new.open, &old.open);
        differ(&new.closed, &old.closed);
        differ(&new.blocked, &old.blocked);
        differ(&self.compared, &before.compared);
        if self.is_compared(address) != before.is_compared(address) {
            changed = changed.union(&self.compared);
        } else if self.spec.baseline != before.spec.baseline {
            let none = PortSet::default();
            for satellite in self.spec.satellites.intersection(&before.spec.satellites) {
                if self.compares(*satellite, address) != before.compares(*satellite, address) {
                    changed = changed.union(&self.compared);
                    continue;
                }
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let open = |plan: &Self| {
                        plan.baseline_open(*satellite, address, protocol).unwrap_or(&none).clone()
                    };
                    let (new, old) = (open(self), open(before));
                    let other = new.difference(&old).union(&old.difference(&new));
                    let other = other.intersection(self.compared.of(protocol));
                    changed = changed.union(&PortSpec::only(protocol, other));
                }
            }
        }
        changed
    }

    /// Whether the policy itself wants the port open.
    pub(super) fn must_be_open(&self, protocol: Protocol, port: u16) -> bool {
        self.spec.ports.open.contains(protocol, port)
    }
}

fn add(look: &mut Vec<Judged>, run: &StateRun, ports: PortSet, expectation: Expectation, known: &PortSpec) {
    let known = known.of(run.protocol);
    let ports = if known.is_empty() { ports } else { ports.difference(known) };
    if ports.is_empty() {
        return;
    }
    let judgement = expectation.judge(run.state);
    let StateRun { protocol, state, reason, .. } = *run;
    match look.iter_mut().find(|judged| {
        (judged.protocol, judged.judgement, judged.state, judged.reason)
            == (protocol, judgement, state, reason)
    }) {
        Some(judged) => judged.ports = judged.ports.union(&ports),
        None => look.push(Judged { protocol, judgement, state, reason, ports }),
    }
}

//! What a check tells of itself to those who ask.

use super::check::Check;
use super::scene::Moment;
use super::target::{Port, Target};
use super::{Expected, Key, Standing, State, VantageSummary};
use jiff::Timestamp;
use portolan_common::expectation::Expectation;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::Protocol;
use std::net::IpAddr;

/// A key and where it stands; without a port, the host.
type Found = (State, IpAddr, Option<(Protocol, u16)>);

impl Check {
    /// How far a vantage point has got.
    pub(super) fn vantage(&self, satellite: SatelliteId) -> VantageSummary {
        let mut summary = VantageSummary { satellite, oldest: None, newest: None, addresses: 0 };
        let mut literal = 0u128;
        for target in self.targets.values() {
            let Some(seen) = target.vantage(satellite).and_then(|vantage| vantage.newest()) else { continue };
            summary.addresses += 1;
            literal += u128::from(target.name.is_none());
            summary.oldest = Some(summary.oldest.map_or(seen, |oldest| oldest.min(seen)));
            summary.newest = summary.newest.max(Some(seen));
        }
        if literal < self.plan.spec.addresses.len() {
            summary.oldest = None;
        }
        summary
    }

    /// Until when a vantage point has looked at every port of every address; `None`: it has not.
    pub(super) fn covered(&self, satellite: SatelliteId) -> Option<Timestamp> {
        let mut literal = 0u128;
        let mut oldest: Option<Timestamp> = None;
        for (address, target) in &self.targets {
            let Some(vantage) = target.vantage(satellite) else { continue };
            let runs = vantage.evidence.runs();
            if runs.iter().map(|run| run.ports.len()).sum::<usize>()
                < self.plan.expectations_from(satellite, *address)
            {
                return None;
            }
            literal += u128::from(target.name.is_none());
            oldest = runs.iter().map(|run| run.seen).chain(oldest).min();
        }
        oldest.filter(|_| literal >= self.plan.spec.addresses.len())
    }

    /// What is not ok, worst first, then what must be open; and how many expectations are not among these.
    pub(super) fn standings(&self, limit: usize, moment: Moment<'_>) -> (Vec<Standing>, u64) {
        let open = &self.plan.spec.ports.open;
        let mut found: Vec<Found> = Vec::new();
        for (address, target) in &self.targets {
            if let Some(host) = target.host.as_ref().filter(|host| host.state() != State::Ok) {
                found.push((host.state(), *address, None));
            }
            let worth =
                |port: &&Port| port.machine.state() != State::Ok || open.contains(port.protocol, port.port);
            let ports = target.ports.iter().filter(worth);
            found
                .extend(ports.map(|port| (port.machine.state(), *address, Some((port.protocol, port.port)))));
        }
        found.extend(self.never_open(limit));
        found.sort_by_key(|(state, address, port)| (rank(*state), *address, *port));
        found.truncate(limit);
        let expectations = found.iter().filter(|(_, _, port)| port.is_some()).count() as u64;
        let counts = self.counts();
        let all = counts.ok + counts.pending + counts.firing + counts.unknown;
        let standings =
            found.into_iter().map(|(state, address, port)| self.standing(state, address, port, moment));
        (standings.collect(), all.saturating_sub(expectations))
    }

    /// Ports that must be open and of which nothing decided was ever seen, no more than the limit.
    fn never_open(&self, limit: usize) -> Vec<Found> {
        let named =
            self.targets.iter().filter(|(_, target)| target.name.is_some()).map(|(address, _)| *address);
        let open = &self.plan.spec.ports.open;
        let ports = || {
            let of = |protocol| open.of(protocol).iter().map(move |port| (protocol, port));
            of(Protocol::Tcp).chain(of(Protocol::Udp))
        };
        // Without ports there is nothing to be found at any address, of which there may be very many.
        let addresses =
            self.plan.spec.addresses.iter().chain(named).take(if open.is_empty() { 0 } else { usize::MAX });
        let keys = addresses.flat_map(|address| ports().map(move |port| (address, port)));
        let unseen = keys.filter(|(address, (protocol, port))| {
            self.targets.get(address).is_none_or(|target| target.port(*protocol, *port).is_none())
        });
        unseen.map(|(address, port)| (State::Unknown, address, Some(port))).take(limit).collect()
    }

    fn standing(
        &self,
        state: State,
        address: IpAddr,
        port: Option<(Protocol, u16)>,
        moment: Moment<'_>,
    ) -> Standing {
        let target: Option<&Target> = self.targets.get(&address).map(|target| &**target);
        let known = port.and_then(|(protocol, port)| target?.port(protocol, port));
        let machine = match port {
            Some(_) => known.map(|port| &port.machine),
            None => target.and_then(|target| target.host.as_deref()),
        };
        let expected = match port {
            Some(_) => known.map_or(Expected::Port(Expectation::Open), |port| port.expected),
            None => Expected::Up,
        };
        let scene = self.scene(address, moment);
        Standing {
            key: Key { check: self.plan.spec.name.clone(), address, port },
            target: target.and_then(|target| target.name.as_deref()).unwrap_or_default().to_owned(),
            expected,
            state,
            since: machine.map(|machine| machine.since()),
            flapping: machine.is_some_and(|machine| machine.is_flapping()),
            sights: target.map(|target| target.sights(&scene, port)).unwrap_or_default(),
        }
    }
}

/// Worst first.
fn rank(state: State) -> u8 {
    match state {
        State::Firing => 0,
        State::Unknown => 1,
        State::Pending => 2,
        State::Ok => 3,
    }
}

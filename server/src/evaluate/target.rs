//! One address of one check: what is known of it, and the state machines of those of its ports that need one.
//!
//! A port that is as it should be costs nothing beyond the evidence of the look that it was seen in. A machine there is
//! for what deviates, for what did so lately, and for ports that must be open and were, because of their round-trip
//! times.

use super::machine::Machine;
use super::plan::Judged;
use super::scene::{Scene, Subject};
use super::vantage::{Look, Vantage};
use super::{Counts, Expected, Sight, State, Transition};
use jiff::Timestamp;
use portolan_common::expectation::Judgement;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol};
use portolan_common::ports::{PortSet, PortSpec};
use std::ops::{Add, Sub};
use std::sync::Arc;

/// Ports of one address that deviate and are followed; of those that must be open all are. What deviates beyond that
/// is unknown, and counted.
const MAX_DEVIATING: usize = 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Target {
    /// The name that it was last found under; `None`: it is looked at for itself.
    pub name: Option<Arc<str>>,
    /// Ascending by satellite.
    pub vantages: Vec<Vantage>,
    /// Ascending by protocol and port.
    pub ports: Vec<Port>,
    /// Where there was something to say of the host itself.
    pub host: Option<Box<Machine>>,
    pub totals: Totals,
    /// Ports without a machine that are ok.
    well: PortSpec,
    /// The host has no machine and is ok.
    host_well: bool,
    /// When it is looked at for time's sake.
    pub scheduled: Option<Timestamp>,
}

/// What targets add up to.
#[derive(Clone, Copy, Default)]
pub(super) struct Totals {
    pub counts: Counts,
    /// Ports that deviate and are not followed.
    pub untracked: u64,
    /// Ports with a machine.
    pub machines: usize,
}

/// A port with a machine.
pub(super) struct Port {
    pub protocol: Protocol,
    pub port: u16,
    pub expected: Expected,
    pub machine: Machine,
}

impl Target {
    pub(super) fn vantage(&self, satellite: SatelliteId) -> Option<&Vantage> {
        let place = self.vantages.binary_search_by_key(&satellite, |vantage| vantage.satellite).ok()?;
        self.vantages.get(place)
    }

    pub(super) fn vantage_or_new(&mut self, satellite: SatelliteId) -> Option<&mut Vantage> {
        let place = self.vantages.binary_search_by_key(&satellite, |vantage| vantage.satellite);
        let place = place.unwrap_or_else(|place| {
            self.vantages.reserve_exact(1);
            self.vantages.insert(place, Vantage::new(satellite));
            place
        });
        self.vantages.get_mut(place)
    }

    fn place(&self, protocol: Protocol, port: u16) -> Result<usize, usize> {
        self.ports.binary_search_by_key(&(protocol, port), |known| (known.protocol, known.port))
    }

    pub(super) fn port(&self, protocol: Protocol, port: u16) -> Option<&Port> {
        self.place(protocol, port).ok().and_then(|place| self.ports.get(place))
    }

    /// Takes what a look says, all of which is news; `room` is how many machines there may be more.
    pub(super) fn note(&mut self, scene: &Scene<'_>, look: &Look<'_>, judged: &[Judged], room: usize) {
        let plan = scene.plan;
        let Some(vantage) = self.vantage_or_new(look.satellite) else { return };
        vantage.evidence.note(judged, look.order, look.at);
        let host = vantage.note_host(plan, look, judged);
        let is_silent = vantage.is_silent();
        self.admit(scene, judged, room);
        let (confirm, recover) = (plan.spec.confirm, plan.spec.recover);
        for Port { protocol, port, machine, .. } in &mut self.ports {
            let seen = judged.iter().find(|seen| seen.protocol == *protocol && seen.ports.contains(*port));
            let Some(seen) = seen else { continue };
            let must_be_open = plan.must_be_open(*protocol, *port);
            let answered = must_be_open && seen.state == PortState::Open;
            let tally = if seen.judgement == Judgement::Mismatch || answered {
                machine.tally_or_new(look.satellite)
            } else {
                machine.tally_mut(look.satellite)
            };
            let Some(tally) = tally else { continue };
            if !(is_silent && tally.confirmed && is_silence(seen.judgement, seen.state)) {
                tally.look(seen.judgement, confirm, recover, look.at);
            }
            if must_be_open {
                let rtt = look.host.detail_of(*protocol, *port).map_or(0, |detail| detail.rtt_us);
                tally.measured(if answered { rtt } else { 0 });
            }
        }
        if host == Some(Judgement::Mismatch) && self.host.is_none() {
            self.host = Some(Box::new(Machine::new(quiet(self.host_well), look.at)));
        }
        if let (Some(judgement), Some(machine)) = (host, &mut self.host) {
            let tally = match judgement {
                Judgement::Mismatch => machine.tally_or_new(look.satellite),
                _ => machine.tally_mut(look.satellite),
            };
            if let Some(tally) = tally {
                tally.look(judgement, confirm, recover, look.at);
            }
        }
    }

    /// Makes machines for ports that need one.
    fn admit(&mut self, scene: &Scene<'_>, judged: &[Judged], mut room: usize) {
        let plan = scene.plan;
        let is_other = |port: &&Port| !plan.must_be_open(port.protocol, port.port);
        let mut deviating = self.ports.iter().filter(is_other).count();
        for seen in judged {
            let notable = match (seen.judgement, seen.state) {
                (Judgement::Mismatch, _) => seen.ports.clone(),
                (_, PortState::Open) => seen.ports.intersection(plan.spec.ports.open.of(seen.protocol)),
                _ => continue,
            };
            for port in notable.iter() {
                let must_be_open = plan.must_be_open(seen.protocol, port);
                if room == 0 || (!must_be_open && deviating >= MAX_DEVIATING) {
                    continue;
                }
                if self.insert(scene, seen.protocol, port) {
                    room -= 1;
                    deviating += usize::from(!must_be_open);
                }
            }
        }
    }

    /// Makes a machine for a port without one; whether it did.
    pub(super) fn insert(&mut self, scene: &Scene<'_>, protocol: Protocol, port: u16) -> bool {
        let Err(place) = self.place(protocol, port) else { return false };
        let expected = scene.plan.expected(std::iter::empty(), scene.address, protocol, port);
        let Some(expected) = expected else { return false };
        if self.ports.len() == self.ports.capacity() {
            self.ports.reserve_exact(1 + self.ports.len() / 2);
        }
        let machine = Machine::new(quiet(self.well.contains(protocol, port)), scene.moment.at);
        self.ports.insert(place, Port { protocol, port, expected, machine });
        true
    }

    /// Puts a machine where it belongs, one that was told of before.
    pub(super) fn put(
        &mut self,
        scene: &Scene<'_>,
        mut machine: Machine,
        port: Option<(Protocol, u16)>,
        expected: Expected,
    ) {
        let mut opinions = Vec::new();
        self.subject(scene, port).gather(&machine, &mut opinions);
        machine.was_told(&opinions);
        let Some((protocol, port)) = port else {
            self.host = Some(Box::new(machine));
            return;
        };
        self.well = self.well.difference(&PortSpec::only(protocol, PortSet::single(port)));
        let port = Port { protocol, port, expected, machine };
        match self.place(protocol, port.port) {
            Ok(place) => self.ports[place] = port,
            Err(place) => self.ports.insert(place, port),
        }
    }

    /// Looks at all of it anew and says what changed.
    pub(super) fn evaluate(&mut self, scene: &Scene<'_>, out: &mut Vec<Transition>) {
        let mut opinions = Vec::with_capacity(self.vantages.len());
        let Self { vantages, ports, host, name, .. } = self;
        let subject = |port| Subject { scene, vantages, name: name.as_deref(), port };
        for Port { protocol, port, expected, machine } in ports.iter_mut() {
            let subject = subject(Some((*protocol, *port)));
            subject.gather(machine, &mut opinions);
            if matches!(expected, Expected::Baseline { .. }) && !machine.is_open() {
                let against = opinions.iter().filter(|opinion| opinion.vote.mismatch);
                let against = against.map(|opinion| opinion.satellite);
                *expected =
                    scene.plan.expected(against, scene.address, *protocol, *port).unwrap_or(*expected);
            }
            subject.step(machine, *expected, &opinions, out);
        }
        ports.retain(|port| !port.machine.is_idle());
        if let Some(machine) = host {
            subject(None).gather(machine, &mut opinions);
            subject(None).step(machine, Expected::Up, &opinions, out);
        }
        if host.as_ref().is_some_and(|machine| machine.is_idle()) {
            *host = None;
        }
        self.find_well(scene);
        self.count(scene);
    }

    /// Finds which of what has no machine is fresh and as it should be.
    fn find_well(&mut self, scene: &Scene<'_>) {
        let expected = scene.plan.expectations_at(scene.address);
        let (mut good, mut bad) = (PortSpec::default(), PortSpec::default());
        self.host_well = false;
        for vantage in &self.vantages {
            let fresh = |seen| scene.is_fresh(vantage.satellite, seen);
            let host = vantage.glimpse(None).filter(|host| host.judgement == Judgement::Match);
            self.host_well |= self.host.is_none() && host.is_some_and(|host| fresh(host.seen));
            // Where all have machines there is no rest.
            let rest = vantage.evidence.runs().iter().filter(|_| self.ports.len() < expected);
            for run in rest.filter(|run| fresh(run.seen)) {
                match run.judgement {
                    Judgement::Match => extend(&mut good, run.protocol, &run.ports),
                    Judgement::Mismatch => extend(&mut bad, run.protocol, &run.ports),
                    Judgement::Inconclusive => {}
                }
            }
        }
        let of =
            |protocol| self.ports.iter().filter(move |port| port.protocol == protocol).map(|port| port.port);
        let followed = PortSpec { tcp: of(Protocol::Tcp).collect(), udp: of(Protocol::Udp).collect() };
        self.totals.untracked = bad.difference(&followed).len() as u64;
        self.well = good.difference(&bad).difference(&followed);
    }

    /// Adds up how it is.
    pub(super) fn count(&mut self, scene: &Scene<'_>) {
        let mut counts = Counts { ok: self.well.len() as u64, ..Counts::default() };
        for port in &self.ports {
            *counts.of_mut(port.machine.state()) += 1;
        }
        let expected = scene.plan.expectations_at(scene.address) as u64;
        counts.unknown = expected.saturating_sub(counts.ok + counts.pending + counts.firing);
        self.totals = Totals { counts, machines: self.ports.len(), ..self.totals };
    }

    /// When time alone makes a difference next, given that all was just looked at.
    pub(super) fn deadline(&self, scene: &Scene<'_>) -> Option<Timestamp> {
        let seen = self.vantages.iter().flat_map(|vantage| {
            let host = vantage.glimpse(None).map(|glimpse| glimpse.seen);
            let runs = vantage.evidence.runs().iter().map(|run| run.seen);
            runs.chain(host).map(|seen| (vantage.satellite, seen))
        });
        let evidence = seen
            .filter(|(satellite, seen)| scene.is_fresh(*satellite, *seen))
            .map(|(_, seen)| scene.plan.fresh_until(seen));
        let machines = self.ports.iter().map(|port| &port.machine).chain(self.host.as_deref());
        evidence.chain(machines.filter_map(Machine::deadline)).min()
    }

    /// Ends what some ports were about.
    pub(super) fn end_ports(&mut self, scene: &Scene<'_>, gone: &PortSpec, out: &mut Vec<Transition>) {
        if gone.is_empty() {
            return;
        }
        for port in self.ports.iter().filter(|port| gone.contains(port.protocol, port.port)) {
            self.subject(scene, Some((port.protocol, port.port))).end(&port.machine, port.expected, out);
        }
        self.ports.retain(|port| !gone.contains(port.protocol, port.port));
        self.well = self.well.difference(gone);
        for vantage in &mut self.vantages {
            vantage.evidence.forget(gone);
        }
    }

    /// Ends what the host was about.
    pub(super) fn end_host(&mut self, scene: &Scene<'_>, out: &mut Vec<Transition>) {
        if let Some(machine) = &self.host {
            self.subject(scene, None).end(machine, Expected::Up, out);
        }
        (self.host, self.host_well) = (None, false);
        self.vantages.iter_mut().for_each(Vantage::forget_host);
    }

    /// Ends all of it.
    pub(super) fn end_all(&mut self, scene: &Scene<'_>, out: &mut Vec<Transition>) {
        self.end_ports(scene, &PortSpec { tcp: PortSet::all(), udp: PortSet::all() }, out);
        self.end_host(scene, out);
    }

    fn subject<'a>(&'a self, scene: &'a Scene<'a>, port: Option<(Protocol, u16)>) -> Subject<'a> {
        Subject { scene, vantages: &self.vantages, name: self.name.as_deref(), port }
    }

    /// Goes on with vantage points that are left.
    pub(super) fn keep_vantages(&mut self, keep: impl Fn(SatelliteId) -> bool + Copy) {
        self.vantages.retain(|vantage| keep(vantage.satellite));
        for port in &mut self.ports {
            port.machine.keep_tallies(keep);
        }
        if let Some(machine) = &mut self.host {
            machine.keep_tallies(keep);
        }
    }

    /// The state of a port or of the host.
    pub(super) fn state(&self, port: Option<(Protocol, u16)>) -> State {
        match port {
            Some((protocol, port)) => {
                let machine = self.port(protocol, port).map(|port| port.machine.state());
                machine.unwrap_or(quiet(self.well.contains(protocol, port)))
            }
            None => self.host.as_ref().map_or(quiet(self.host_well), |machine| machine.state()),
        }
    }

    /// What each vantage point sees of a port or of the host.
    pub(super) fn sights(&self, scene: &Scene<'_>, port: Option<(Protocol, u16)>) -> Vec<Sight> {
        let machine = match port {
            Some((protocol, port)) => self.port(protocol, port).map(|port| &port.machine),
            None => self.host.as_deref(),
        };
        self.subject(scene, port).sights(machine)
    }
}

/// Whether it is as it should be for no other reason than that nothing answered. Of a host that is down that ends no
/// fault.
pub(super) fn is_silence(judgement: Judgement, state: PortState) -> bool {
    judgement == Judgement::Match && state == PortState::Filtered
}

/// The state of what has no machine.
fn quiet(well: bool) -> State {
    if well { State::Ok } else { State::Unknown }
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            counts: self.counts + other.counts,
            untracked: self.untracked + other.untracked,
            machines: self.machines + other.machines,
        }
    }
}

impl Sub for Totals {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            counts: self.counts - other.counts,
            untracked: self.untracked.saturating_sub(other.untracked),
            machines: self.machines.saturating_sub(other.machines),
        }
    }
}

fn extend(sum: &mut PortSpec, protocol: Protocol, ports: &PortSet) {
    let sum = match protocol {
        Protocol::Tcp => &mut sum.tcp,
        Protocol::Udp => &mut sum.udp,
    };
    *sum = sum.union(ports);
}

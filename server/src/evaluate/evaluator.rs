//! All checks at once: who is concerned by what happens, and when time makes a difference to whom.

use super::check::Check;
use super::index::Index;
use super::scene::Moment;
use super::vantage::Look;
use super::{CheckSpec, Counts, Key, PortsLooked, Saved, Sight, Standing, State, Summary, Transition};
use crate::store::Order;
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::HostObservation;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Ports that deviate, or must be open, and are followed over all checks; about 300 bytes each. What is beyond that is
/// unknown, and counted.
const MAX_MACHINES: usize = 1_000_000;

/// What one satellite saw of one host, as it reached the server.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    /// Whose address space the satellite is in.
    pub tenant: &'a str,
    /// The satellite.
    pub satellite: SatelliteId,
    /// Its place among all that the satellite ever sent.
    pub order: Order,
    /// When it was seen, by the server's clock.
    pub at: Timestamp,
    /// It was held back so long that it is told as it was then, not as it is now.
    pub late: bool,
    /// What was seen.
    pub host: &'a HostObservation,
}

/// See the module above.
#[derive(Default)]
pub struct Evaluator {
    /// Ascending by name.
    checks: Vec<Check>,
    places: HashMap<Arc<str>, usize>,
    index: Index,
    offline: HashSet<SatelliteId>,
    /// Targets by when they are looked at next, checks by their place. What a target has not as its own time is void.
    deadlines: BinaryHeap<Reverse<(Timestamp, usize, IpAddr)>>,
    /// Ports that have a machine.
    machines: usize,
    now: Timestamp,
}

impl Evaluator {
    /// Without any checks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces what is expected. Keys that stay keep their state; those that go, go with a last transition if they
    /// were pending or had a fault. A port of which something else is expected than before is a new key.
    pub fn set_checks(&mut self, checks: Vec<CheckSpec>, now: Timestamp, out: &mut Vec<Transition>) {
        let now = self.advance(now);
        let moment = Moment { offline: &self.offline, now, at: now, late: false };
        let new: BTreeMap<Arc<str>, CheckSpec> =
            checks.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        let mut old: BTreeMap<Arc<str>, Check> =
            self.checks.drain(..).map(|check| (check.plan.spec.name.clone(), check)).collect();
        let mut kept = Vec::with_capacity(new.len());
        for (name, spec) in new {
            let known = old.remove(&name);
            kept.push(match known {
                Some(check) if check.plan.spec == spec => check,
                Some(mut check) if check.plan.spec.tenant == spec.tenant => {
                    check.respec(spec, moment, out);
                    check
                }
                other => {
                    if let Some(check) = other {
                        check.end(moment, out);
                    }
                    Check::new(spec, now)
                }
            });
        }
        for check in old.into_values() {
            check.end(moment, out);
        }
        self.index = Index::new(kept.iter().map(|check| &check.plan.spec));
        self.places =
            kept.iter().enumerate().map(|(place, check)| (check.plan.spec.name.clone(), place)).collect();
        self.checks = kept;
        // Their times are by places that are others' now.
        self.deadlines.clear();
        let targets = self.checks.iter_mut().flat_map(|check| check.targets.values_mut());
        targets.for_each(|target| target.scheduled = None);
        self.machines = self.checks.iter().map(|check| check.totals.machines).sum();
        for place in 0..self.checks.len() {
            self.evaluate_all(place, now, out);
        }
    }

    /// Takes another pace of a check that stays as it is otherwise.
    pub fn set_pace(&mut self, check: &str, pace: Duration, now: Timestamp, out: &mut Vec<Transition>) {
        let now = self.advance(now);
        let Some(place) = self.places.get(check).copied() else { return };
        let Some(check) = self.checks.get_mut(place) else { return };
        if check.plan.spec.pace != pace {
            check.plan.set_pace(pace);
            self.evaluate_all(place, now, out);
        }
    }

    /// Takes over faults from before a restart, after the checks are set and before anything is observed: what fired goes on firing, and is not told
    /// again; unconfirmed evidence begins anew. What is not expected any more is told to be gone.
    pub fn restore(&mut self, saved: Vec<Saved>, now: Timestamp, out: &mut Vec<Transition>) {
        let now = self.advance(now);
        for saved in saved {
            let place = self.places.get(&saved.key.check).copied();
            let check = place.and_then(|place| self.checks.get_mut(place).map(|check| (place, check)));
            let moment = Moment { offline: &self.offline, now, at: now, late: false };
            let Some((place, check)) = check else {
                out.push(saved.into_gone(now));
                continue;
            };
            let machines = check.totals.machines;
            match check.restore(saved, moment) {
                Ok(address) => {
                    self.machines = self.machines + check.totals.machines - machines;
                    self.schedule(place, address, now);
                }
                Err(saved) => out.push(saved.into_gone(now)),
            }
        }
    }

    /// Takes what a satellite saw.
    pub fn observe(&mut self, seen: &Sighting<'_>, now: Timestamp, out: &mut Vec<Transition>) {
        let now = self.advance(now);
        let at = seen.at.min(now);
        // Also a short break is longer than the evidence of a check counts that runs every second.
        self.take(seen, |check| Some((at, seen.late || check.plan.fresh_until(at) < now)), out);
    }

    /// Takes back what a satellite had seen of a host before a restart, after faults are restored. It counts for checks
    /// of which `covered` says that the satellite looked at all of it, and when; for the others it may be of any age.
    pub fn recall(
        &mut self,
        seen: &Sighting<'_>,
        covered: impl Fn(&str) -> Option<Timestamp>,
        now: Timestamp,
        out: &mut Vec<Transition>,
    ) {
        let now = self.advance(now);
        self.take(seen, |check| Some((covered(&check.plan.spec.name)?.min(now), false)), out);
    }

    /// `when` says for a check when it was seen, and whether it is judged as it was then, not as it is now.
    fn take(
        &mut self,
        seen: &Sighting<'_>,
        when: impl Fn(&Check) -> Option<(Timestamp, bool)>,
        out: &mut Vec<Transition>,
    ) {
        let now = self.now;
        let Sighting { tenant, satellite, order, late, host, .. } = *seen;
        let address = host.address.to_canonical();
        let mut found = Vec::new();
        self.index.find(tenant, address, &host.target, &mut found);
        for place in found {
            let Some(check) = self.checks.get_mut(place) else { continue };
            let spec = &check.plan.spec;
            if spec.paused || !spec.satellites.contains(&satellite) {
                continue;
            }
            let Some((at, past)) = when(check) else { continue };
            let look = Look { satellite, order, at, host };
            let moment = Moment { offline: &self.offline, now: if past { at } else { now }, at, late };
            if check.note(address, &look, moment, MAX_MACHINES.saturating_sub(self.machines)) {
                // What was fresh then and is not now is due at the next tick.
                self.evaluate(place, address, moment.now, at, late, out);
            }
        }
    }

    /// Notes that evidence of a satellite counts no more, or again. Satellites count until the contrary is said.
    pub fn set_online(
        &mut self,
        satellite: SatelliteId,
        online: bool,
        now: Timestamp,
        out: &mut Vec<Transition>,
    ) {
        let now = self.advance(now);
        let changed = if online { self.offline.remove(&satellite) } else { self.offline.insert(satellite) };
        if !changed {
            return;
        }
        for place in 0..self.checks.len() {
            let of = |check: &&Check| check.plan.spec.satellites.contains(&satellite);
            if self.checks.get(place).filter(of).is_some() {
                self.evaluate_all(place, now, out);
            }
        }
    }

    /// Lets evidence grow old. Called about once a second.
    pub fn tick(&mut self, now: Timestamp, out: &mut Vec<Transition>) {
        let now = self.advance(now);
        let mut due = Vec::new();
        while let Some(Reverse((at, place, address))) = self.deadlines.peek().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop();
            let check = self.checks.get_mut(place);
            let target = check.and_then(|check| check.targets.get_mut(&address));
            if let Some(target) = target.filter(|target| target.scheduled == Some(at)) {
                target.scheduled = None;
                due.push((place, address));
            }
        }
        for (place, address) in due {
            if self.checks.get(place).is_some_and(|check| !check.plan.spec.paused) {
                self.evaluate(place, address, now, now, false, out);
            }
        }
        let moment = Moment { offline: &self.offline, now, at: now, late: false };
        for check in self.checks.iter_mut().filter(|check| !check.plan.spec.paused) {
            let machines = check.totals.machines;
            check.drop_moved(moment, out);
            check.date(now);
            self.machines = self.machines + check.totals.machines - machines;
        }
    }

    fn evaluate_all(&mut self, place: usize, now: Timestamp, out: &mut Vec<Transition>) {
        let Some(check) = self.checks.get_mut(place) else { return };
        // It may expect more or less than before, also where nothing was seen.
        check.date(now);
        if !check.plan.spec.paused {
            for address in check.targets.keys().copied().collect::<Vec<_>>() {
                self.evaluate(place, address, now, now, false, out);
            }
        }
    }

    fn evaluate(
        &mut self,
        place: usize,
        address: IpAddr,
        now: Timestamp,
        at: Timestamp,
        late: bool,
        out: &mut Vec<Transition>,
    ) {
        let Some(check) = self.checks.get_mut(place) else { return };
        let machines = check.totals.machines;
        let deadline = check.evaluate(address, Moment { offline: &self.offline, now, at, late }, out);
        check.date(at);
        self.machines = self.machines + check.totals.machines - machines;
        if let Some(deadline) = deadline {
            self.schedule(place, address, deadline);
        }
    }

    /// Has a target looked at by a time, unless it is before that anyway.
    fn schedule(&mut self, place: usize, address: IpAddr, at: Timestamp) {
        let target = self.checks.get_mut(place).and_then(|check| check.targets.get_mut(&address));
        if let Some(target) = target.filter(|target| target.scheduled.is_none_or(|planned| at < planned)) {
            target.scheduled = Some(at);
            self.deadlines.push(Reverse((at, place, address)));
        }
    }

    fn advance(&mut self, now: Timestamp) -> Timestamp {
        self.now = self.now.max(now);
        self.now
    }

    fn check(&self, name: &str) -> Option<&Check> {
        self.places.get(name).and_then(|place| self.checks.get(*place))
    }

    fn moment(&self) -> Moment<'_> {
        Moment { offline: &self.offline, now: self.now, at: self.now, late: false }
    }

    /// How many expectations of a check are in which state, without looking at each; `None`: there is no such check.
    pub fn counts(&self, check: &str) -> Option<Counts> {
        self.check(check).map(Check::counts)
    }

    /// How a check is; `None`: there is no such check. Looks at each of its addresses.
    pub fn summary(&self, check: &str) -> Option<Summary> {
        let check = self.check(check)?;
        let vantages = check.plan.spec.satellites.iter().map(|satellite| check.vantage(*satellite)).collect();
        Some(Summary {
            counts: check.counts(),
            state: check.state,
            since: check.since,
            untracked: check.totals.untracked,
            vantages,
        })
    }

    /// Until when each vantage point of a check has looked at every port of every address; without those that have not.
    pub fn covered(&self, check: &str) -> Vec<(SatelliteId, Timestamp)> {
        let Some(check) = self.check(check) else { return Vec::new() };
        let satellites = check.plan.spec.satellites.iter();
        satellites.filter_map(|satellite| Some((*satellite, check.covered(*satellite)?))).collect()
    }

    /// The keys of a check: what is not ok, worst first, then what must be open, as many as the limit allows; and how
    /// many expectations are not among them.
    pub fn standings(&self, check: &str, limit: usize) -> (Vec<Standing>, u64) {
        self.check(check).map(|check| check.standings(limit, self.moment())).unwrap_or_default()
    }

    /// The state of a key; `unknown` too of what is not expected.
    pub fn state(&self, key: &Key) -> State {
        let target = self.check(&key.check).and_then(|check| check.targets.get(&key.address));
        target.map_or(State::Unknown, |target| target.state(key.port))
    }

    /// What each vantage point of a key last saw, ascending.
    pub fn sights(&self, key: &Key) -> Vec<Sight> {
        let Some(check) = self.check(&key.check) else { return Vec::new() };
        let scene = check.scene(key.address, self.moment());
        check.targets.get(&key.address).map(|target| target.sights(&scene, key.port)).unwrap_or_default()
    }

    /// How many ports have a machine: those that deviate or did so lately, and those that must be open and were.
    pub fn machines(&self) -> usize {
        self.machines
    }

    /// When a satellite last looked at which ports of an address, as far as some check has it for a vantage point there.
    pub fn looks(&self, satellite: SatelliteId, tenant: &str, address: IpAddr) -> Vec<PortsLooked> {
        let address = address.to_canonical();
        let checks = self.index.find_known(tenant, address);
        let targets = checks.iter().filter_map(|place| self.checks.get(*place)?.targets.get(&address));
        let vantages = targets.filter_map(|target| target.vantage(satellite));
        let runs = vantages.flat_map(|vantage| vantage.evidence.runs());
        runs.map(|run| PortsLooked {
            protocol: run.protocol,
            state: run.state,
            ports: run.ports.clone(),
            seen: run.seen,
        })
        .collect()
    }
}

#[cfg(test)]
impl Evaluator {
    /// How many runs of ports a check remembers.
    pub(super) fn runs(&self, check: &str) -> usize {
        let targets = self.check(check).into_iter().flat_map(|check| check.targets.values());
        targets.flat_map(|target| &target.vantages).map(|vantage| vantage.evidence.runs().len()).sum()
    }
}

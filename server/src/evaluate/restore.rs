//! What a check knew before a restart comes back.

use super::check::{Check, enter};
use super::machine::Machine;
use super::scene::{Moment, Scene};
use super::target::Target;
use super::vantage::Glimpse;
use super::{Expected, Saved, Sight, State, Transition};
use jiff::Timestamp;
use portolan_common::expectation::Judgement;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::PortState;
use std::collections::BTreeSet;
use std::net::IpAddr;

impl Saved {
    /// Its end, for what is not expected any more.
    pub(super) fn into_gone(self, now: Timestamp) -> Transition {
        let Self { key, target, expected, sights, state, .. } = self;
        Transition {
            key,
            target,
            expected,
            from: state,
            to: State::Ok,
            at: now,
            since: now,
            flapping: false,
            late: false,
            sights,
            gone: true,
        }
    }

    /// The vantage points that see the fault until they are heard of again.
    fn confirmed_by(&self, satellites: &BTreeSet<SatelliteId>) -> BTreeSet<SatelliteId> {
        let known = || self.sights.iter().filter(|sight| satellites.contains(&sight.satellite));
        let mismatching: BTreeSet<_> =
            known().filter(|sight| sight.mismatch).map(|sight| sight.satellite).collect();
        let all: BTreeSet<_> = known().map(|sight| sight.satellite).collect();
        [mismatching, all].into_iter().find(|some| !some.is_empty()).unwrap_or_else(|| satellites.clone())
    }
}

impl Check {
    /// Takes over a fault; where, or the fault when it is not expected any more.
    pub(super) fn restore(&mut self, saved: Saved, moment: Moment<'_>) -> Result<IpAddr, Saved> {
        let address = saved.key.address;
        let confirmed = saved.confirmed_by(&self.plan.spec.satellites);
        let Some(name) = self.plan.covers(address, &saved.target) else { return Err(saved) };
        let expected = match saved.key.port {
            Some((protocol, port)) => self.plan.expected(confirmed.iter().copied(), address, protocol, port),
            None => self.plan.judges_hosts().then_some(Expected::Up),
        };
        match (expected, saved.expected) {
            // Against what it began is not looked up again.
            (Some(Expected::Baseline { .. }), Expected::Baseline { .. }) => {}
            (Some(expected), before) if expected == before => {}
            _ => return Err(saved),
        }
        let scene = Scene { plan: &self.plan, address, moment };
        let target = enter(&mut self.targets, &mut self.named, &scene, name);
        let before = target.totals;
        target.restore(&scene, &saved, &confirmed);
        self.totals = self.totals + target.totals - before;
        self.date(moment.at);
        Ok(address)
    }
}

impl Target {
    fn restore(&mut self, scene: &Scene<'_>, saved: &Saved, confirmed: &BTreeSet<SatelliteId>) {
        let sights =
            saved.sights.iter().filter(|sight| scene.plan.spec.satellites.contains(&sight.satellite));
        for sight in sights {
            if let Some(vantage) = self.vantage_or_new(sight.satellite) {
                vantage.restore(saved.key.port, glimpse(sight));
            }
        }
        let mut machine = Machine::restored(saved.state, saved.since, saved.flapping, scene.moment.now);
        for satellite in confirmed {
            // One of which nothing is known but that.
            self.vantage_or_new(*satellite);
            let sight = saved.sights.iter().find(|sight| sight.satellite == *satellite);
            let in_a_row = sight.map_or(0, |sight| sight.in_a_row).max(scene.plan.spec.confirm);
            if let Some(tally) = machine.tally_or_new(*satellite) {
                tally.restore(in_a_row, saved.since);
            }
        }
        self.put(scene, machine, saved.key.port, saved.expected);
        self.count(scene);
    }
}

fn glimpse(sight: &Sight) -> Glimpse {
    let judgement = match sight.state {
        _ if sight.mismatch => Judgement::Mismatch,
        Some((PortState::OpenFiltered, _)) => Judgement::Inconclusive,
        _ => Judgement::Match,
    };
    Glimpse { seen: sight.seen, since: sight.since, judgement, state: sight.state }
}

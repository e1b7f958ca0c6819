//! From what moment on something is looked at, and what the vantage points say of it then.

use super::machine::{Machine, Opinion};
use super::plan::Plan;
use super::quorum::Vote;
use super::tally::Tally;
use super::target::is_silence;
use super::vantage::{Glimpse, Vantage};
use super::{Expected, Key, Sight, State, Transition};
use jiff::Timestamp;
use portolan_common::expectation::Judgement;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::Protocol;
use std::collections::HashSet;
use std::net::IpAddr;

/// When something is looked at.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    /// Satellites whose evidence does not count.
    pub offline: &'a HashSet<SatelliteId>,
    /// Evidence is as fresh as it is now.
    pub now: Timestamp,
    /// When what makes the difference was seen.
    pub at: Timestamp,
    pub late: bool,
}

/// One address of one check, at a moment.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub plan: &'a Plan,
    pub address: IpAddr,
    pub moment: Moment<'a>,
}

impl Scene<'_> {
    pub(super) fn is_fresh(&self, satellite: SatelliteId, seen: Timestamp) -> bool {
        !self.moment.offline.contains(&satellite) && self.moment.now <= self.plan.fresh_until(seen)
    }

    /// Whether a vantage point lately looked at anything here.
    pub(super) fn is_fresh_vantage(&self, vantage: &Vantage) -> bool {
        vantage.newest().is_some_and(|seen| self.is_fresh(vantage.satellite, seen))
    }
}

/// A port there, or without one the host, before all who look at it.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub scene: &'a Scene<'a>,
    pub vantages: &'a [Vantage],
    /// The target's name, where it is there by name.
    pub name: Option<&'a str>,
    pub port: Option<(Protocol, u16)>,
}

impl Subject<'_> {
    /// What all vantage points say; into a list that is used again and again.
    pub(super) fn gather(&self, machine: &Machine, opinions: &mut Vec<Opinion>) {
        opinions.clear();
        opinions.extend(self.vantages.iter().filter_map(|vantage| self.opinion(vantage, machine)));
    }

    fn opinion(&self, vantage: &Vantage, machine: &Machine) -> Option<Opinion> {
        let satellite = vantage.satellite;
        let (glimpse, tally) = (vantage.glimpse(self.port), machine.tally(satellite));
        let confirmed = tally.is_some_and(|tally| tally.confirmed);
        if glimpse.is_none() && !confirmed {
            return None;
        }
        let proves_nothing = |glimpse: &Glimpse| {
            let is_silence = |(state, _)| is_silence(glimpse.judgement, state);
            confirmed && vantage.is_silent() && glimpse.state.is_some_and(is_silence)
        };
        let decided = glimpse.filter(|glimpse| glimpse.judgement != Judgement::Inconclusive);
        let decided = decided.filter(|glimpse| !proves_nothing(glimpse));
        let mismatch = decided.is_some_and(|glimpse| glimpse.judgement == Judgement::Mismatch);
        let counts = decided.is_some_and(|glimpse| self.scene.is_fresh(satellite, glimpse.seen));
        let row = tally.filter(|tally| tally.confirmed || tally.judged == Judgement::Mismatch);
        let fault_since = row.map(|tally| tally.fault_since).or(glimpse.map(|glimpse| glimpse.since));
        Some(Opinion {
            satellite,
            vote: Vote { counts, mismatch, confirmed },
            state: glimpse.and_then(|glimpse| glimpse.state).map(|(state, _)| state),
            fault_since: fault_since.unwrap_or(self.scene.moment.at),
        })
    }

    /// Has its machine look at that, and tells what comes of it.
    pub(super) fn step(
        &self,
        machine: &mut Machine,
        expected: Expected,
        opinions: &[Opinion],
        out: &mut Vec<Transition>,
    ) {
        let Moment { now, at, .. } = self.scene.moment;
        let steps = machine.step(opinions, self.scene.plan.quorum(expected), now, at);
        for step in steps.into_iter().flatten() {
            out.push(self.transition(machine, expected, step));
        }
    }

    /// Tells that it is not expected any more, if anything was told of it.
    pub(super) fn end(&self, machine: &Machine, expected: Expected, out: &mut Vec<Transition>) {
        if machine.is_open() {
            let last = self.transition(machine, expected, (machine.state(), State::Ok));
            out.push(Transition { gone: true, flapping: false, ..last });
        }
    }

    fn transition(&self, machine: &Machine, expected: Expected, (from, to): (State, State)) -> Transition {
        let Moment { at, late, .. } = self.scene.moment;
        Transition {
            key: Key {
                check: self.scene.plan.spec.name.clone(),
                address: self.scene.address,
                port: self.port,
            },
            target: self.name.unwrap_or_default().to_owned(),
            expected,
            from,
            to,
            at,
            // A fault may end while another is already seen.
            since: if to == State::Ok && machine.state() != State::Ok { at } else { machine.since() },
            flapping: machine.is_flapping(),
            late,
            sights: self.sights(Some(machine)),
            gone: false,
        }
    }

    /// What each vantage point sees.
    pub(super) fn sights(&self, machine: Option<&Machine>) -> Vec<Sight> {
        let sight = |vantage: &Vantage| {
            let Glimpse { seen, since, judgement, state } = vantage.glimpse(self.port)?;
            let tally = machine.and_then(|machine| machine.tally(vantage.satellite));
            let (rtts_us, usual_rtt_us) = tally.map(Tally::rtts_us).unwrap_or_default();
            Some(Sight {
                satellite: vantage.satellite,
                state,
                seen,
                since,
                stale: !self.scene.is_fresh(vantage.satellite, seen),
                mismatch: judgement == Judgement::Mismatch,
                // What was always as it should be is not counted.
                in_a_row: tally.map_or(1, |tally| tally.in_a_row),
                rtts_us,
                usual_rtt_us,
            })
        };
        self.vantages.iter().filter_map(sight).collect()
    }
}

//! The state machine of one key, `ok → pending → firing → ok`, fed with what all vantage points say of it.
//!
//! What it shows is its true state, but for flapping: then it shows `firing` all the time. A step is told when it leads
//! from or to `pending` or `firing`, or when a fault underneath `unknown` begins or ends; that a key without a fault
//! becomes known or unknown is not. A fault ends in `ok`, whatever comes after it.

use super::State;
use super::flaps::Flaps;
use super::quorum::{Count, Vote};
use super::tally::Tally;
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::PortState;
use portolan_policy::model::Quorum;

/// What a vantage point says, and what a person may want to know of that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opinion {
    pub satellite: SatelliteId,
    pub vote: Vote,
    /// What it saw; `None`: silence of a host.
    pub state: Option<PortState>,
    /// When the fault that it sees began.
    pub fault_since: Timestamp,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    state: State,
    /// There is a fault, though the state may be unknown.
    fault: bool,
    since: Timestamp,
    flaps: Option<Box<Flaps>>,
    /// The vantage points that saw the fault when it was last told, and what they saw.
    told: Vec<(SatelliteId, Option<PortState>)>,
    /// Of vantage points that saw, or may see, something worth remembering; ascending.
    tallies: Vec<Tally>,
}

/// Steps to tell, at most two.
pub(super) type Steps = [Option<(State, State)>; 2];

impl Machine {
    /// Of a key of which nothing was wrong so far.
    pub(super) fn new(state: State, since: Timestamp) -> Self {
        Self { state, fault: false, since, flaps: None, told: Vec::new(), tallies: Vec::new() }
    }

    /// With a fault that was known before a restart.
    pub(super) fn restored(state: State, since: Timestamp, flapping: bool, now: Timestamp) -> Self {
        let flaps = flapping.then(|| Box::new(Flaps::resumed(now)));
        Self { fault: true, flaps, ..Self::new(state, since) }
    }

    /// What these say was told already.
    pub(super) fn was_told(&mut self, opinions: &[Opinion]) {
        self.told = seen_by(opinions, &[]);
    }

    /// What it shows.
    pub(super) fn state(&self) -> State {
        if self.is_flapping() { State::Firing } else { self.state }
    }

    /// When the fault began, or, where there is none, the state.
    pub(super) fn since(&self) -> Timestamp {
        self.since
    }

    pub(super) fn is_flapping(&self) -> bool {
        self.flaps.as_ref().is_some_and(|flaps| flaps.is_flapping())
    }

    /// Whether it shows a fault, as far as that is known.
    fn shows_fault(&self) -> bool {
        self.fault || self.is_flapping()
    }

    /// Whether somebody was told of something that has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.shows_fault() || self.state() == State::Pending
    }

    pub(super) fn tally(&self, satellite: SatelliteId) -> Option<&Tally> {
        self.place(satellite).ok().and_then(|place| self.tallies.get(place))
    }

    pub(super) fn tally_mut(&mut self, satellite: SatelliteId) -> Option<&mut Tally> {
        self.place(satellite).ok().and_then(|place| self.tallies.get_mut(place))
    }

    pub(super) fn tally_or_new(&mut self, satellite: SatelliteId) -> Option<&mut Tally> {
        if let Err(place) = self.place(satellite) {
            self.tallies.reserve_exact(1);
            self.tallies.insert(place, Tally::new(satellite));
        }
        self.tally_mut(satellite)
    }

    fn place(&self, satellite: SatelliteId) -> Result<usize, usize> {
        self.tallies.binary_search_by_key(&satellite, |tally| tally.satellite)
    }

    pub(super) fn keep_tallies(&mut self, keep: impl Fn(SatelliteId) -> bool) {
        self.tallies.retain(|tally| keep(tally.satellite));
    }

    /// Looks at what all say, `now`, of which the newest was seen `at`; the steps to tell.
    pub(super) fn step(
        &mut self,
        opinions: &[Opinion],
        quorum: Quorum,
        now: Timestamp,
        at: Timestamp,
    ) -> Steps {
        let before = (self.state(), self.shows_fault(), self.is_flapping());
        let count: Count = opinions.iter().map(|opinion| opinion.vote).collect();
        let fault = count.is_fault(quorum, self.fault);
        let state = count.state(quorum, fault);
        self.date(opinions, fault, state, at);
        if fault != self.fault {
            self.flaps.get_or_insert_default().changed(now);
        }
        (self.fault, self.state) = (fault, state);
        if let Some(flaps) = &mut self.flaps {
            flaps.settle(now);
            if flaps.is_forgotten(now) {
                self.flaps = None;
            }
        }
        self.tallies.retain(|tally| !tally.is_idle());
        self.told(before, opinions)
    }

    /// Says since when it is as it is now.
    fn date(&mut self, opinions: &[Opinion], fault: bool, state: State, at: Timestamp) {
        let began = matches!(state, State::Pending | State::Firing) && !self.fault;
        let mismatching =
            |opinion: &&Opinion| opinion.vote.counts && (opinion.vote.mismatch || opinion.vote.confirmed);
        if began || (self.fault && !fault && state == State::Pending) {
            let first = opinions.iter().filter(mismatching).map(|opinion| opinion.fault_since).min();
            self.since = first.unwrap_or(at);
        } else if !fault && (self.fault || state != self.state) {
            self.since = at;
        }
    }

    fn told(&mut self, before: (State, bool, bool), opinions: &[Opinion]) -> Steps {
        let (state, fault, flapping) = before;
        let seen_by = if self.shows_fault() { seen_by(opinions, &self.told) } else { Vec::new() };
        let news = seen_by != self.told && !self.is_flapping();
        let steps = match self.state() {
            State::Pending if fault && !self.shows_fault() => {
                [Some((state, State::Ok)), Some((State::Ok, State::Pending))]
            }
            _ if fault && !self.shows_fault() => [Some((state, State::Ok)), None],
            State::Ok | State::Unknown if !fault && !self.shows_fault() && state != State::Pending => {
                [None, None]
            }
            new if new != state || flapping != self.is_flapping() => [Some((state, new)), None],
            State::Firing if news => [Some((State::Firing, State::Firing)), None],
            _ => [None, None],
        };
        if steps != [None, None] {
            self.told = seen_by;
        }
        steps
    }

    /// Whether nothing would be lost without it.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_open() && self.flaps.is_none() && self.tallies.is_empty()
    }

    /// When time alone makes a difference next, beside evidence that grows old.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.flaps.as_ref().map(|flaps| flaps.deadline())
    }
}

/// The vantage points that see a fault confirmed, and what they see. One that is halfway to its end is as it was told.
fn seen_by(
    opinions: &[Opinion],
    told: &[(SatelliteId, Option<PortState>)],
) -> Vec<(SatelliteId, Option<PortState>)> {
    let seeing = opinions.iter().filter(|opinion| opinion.vote.counts && opinion.vote.confirmed);
    let sees = |opinion: &Opinion| match opinion.vote.mismatch {
        true => Some((opinion.satellite, opinion.state)),
        false => told.iter().find(|(satellite, _)| *satellite == opinion.satellite).copied(),
    };
    seeing.filter_map(sees).collect()
}

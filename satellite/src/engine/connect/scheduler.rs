//! What to probe next and what to make of the answers, for all hosts of an intake together. Pure: it is told the time,
//! and probes are sent elsewhere.

mod holds;
mod hosts;
mod looks;
mod review;
#[cfg(test)]
mod sim;
mod suspend;
mod sweep;
#[cfg(test)]
mod tests;

use self::holds::Holds;
use super::flights::{Due, Flight, Flights, Phase};
use super::host::{Change, Overdue};
use super::intake::Intake;
use super::itinerary::Itinerary;
use super::window::PathWindow;
use crate::engine::Progress;
use crate::engine::bucket::TokenBucket;
use crate::engine::lanes::Lanes;
use crate::engine::limits::{Admission, Lease};
use crate::engine::slots::Slots;
use crate::engine::verdict::{Answer, Hold};
use crate::engine::wall::{CLOCK_AGE, Wall};
use jiff::Timestamp;
use portolan_common::scope::{Guard, PermittedTarget};
use std::sync::Arc;
use std::time::{Duration, Instant};
pub(in crate::engine) use sweep::Plan;

/// Hosts that are swept side by side at least, so that no host gets a burst.
const SPREAD: usize = 64;

/// Hosts that are swept side by side at most.
const MAX_ACTIVE: usize = 8192;

/// Hosts looked at before the caller has its turn again.
const TURN: usize = 256;

/// How long this host may refuse to open connections before the sweep gives up.
const MAX_HELD: Duration = Duration::from_secs(30);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this probe.
    Probe(usize),
    /// Nothing before then, unless an answer comes.
    Wait(Instant),
    /// Every host is finished.
    Done,
}

#[derive(Debug)]
struct Active<T> {
    /// What its intake wants to know of it.
    tag: T,
    sweep: super::host::HostSweep,
    lane: usize,
    /// How many probes it may soon have in flight.
    weight: usize,
    /// Whether it stands in its lane's queue.
    queued: bool,
    /// While no probe to it leaves this host.
    held: Option<holds::Held>,
    /// The rate of this host alone.
    rate: Option<TokenBucket>,
    /// Until when that holds it back.
    paced_until: Option<Instant>,
}

/// The state of one sweep, or of all single looks.
#[derive(Debug)]
pub(in crate::engine) struct Scheduler<I: Intake = Itinerary> {
    intake: I,
    guard: Arc<Guard>,
    gentle: bool,
    seed: u64,
    exhausted: bool,
    max_active: usize,
    hosts: Slots<Active<I::Tag>>,
    /// Of all of them together. Where it fills the budget, no further host begins: those that have begun come to their
    /// end the sooner.
    weight: usize,
    lanes: Lanes<PathWindow>,
    flights: Flights,
    lease: Lease,
    progress: Progress,
    wall: Wall,
    /// The earliest end of the hours of any active host.
    hours_end: Option<Timestamp>,
    /// Flights that ended without an answer and that nobody was told of yet.
    ended: Vec<usize>,
    paused_until: Option<Instant>,
    pause: Duration,
    held_since: Option<Instant>,
    holds: Holds,
    /// The rate of this sweep alone.
    rate: Option<TokenBucket>,
    max_rate_per_host: Option<u32>,
    /// Since when an operator wants it to send nothing.
    suspended_since: Option<Instant>,
}

/// What a scheduler is told when it begins.
struct Terms {
    gentle: bool,
    max_rate: Option<u32>,
    max_rate_per_host: Option<u32>,
    max_active: usize,
    seed: u64,
    /// Whether what is learnt of a path outlives the hosts.
    keeping: bool,
}

impl<I: Intake> Scheduler<I> {
    fn with(intake: I, terms: Terms, guard: Arc<Guard>, lease: Lease, wall: Wall) -> Self {
        Self {
            intake,
            guard,
            gentle: terms.gentle,
            seed: terms.seed,
            exhausted: false,
            max_active: terms.max_active,
            hosts: Slots::new(),
            weight: 0,
            lanes: if terms.keeping { Lanes::keeping() } else { Lanes::new() },
            flights: Flights::new(),
            lease,
            progress: Progress::default(),
            wall,
            hours_end: None,
            ended: Vec::new(),
            paused_until: None,
            pause: FIRST_PAUSE,
            held_since: None,
            holds: Holds::default(),
            rate: terms.max_rate.map(TokenBucket::new),
            max_rate_per_host: terms.max_rate_per_host,
            suspended_since: None,
        }
    }

    /// The next step. After [`Step::Probe`] exactly one of [`Scheduler::pending`], [`Scheduler::answered`] and
    /// [`Scheduler::held`] follows for that flight.
    pub(super) fn next(&mut self, now: Instant) -> Step {
        if self.is_suspended() {
            return self.rest(now);
        }
        if let Some(until) = self.paused_until {
            if until > now {
                return Step::Wait(until);
            }
            self.paused_until = None;
        }
        if let Some(until) = self.rate.as_ref().map(|rate| rate.ready_at(now)).filter(|until| *until > now) {
            return Step::Wait(until.min(self.next_wake(now)));
        }
        self.wake(now);
        for _ in 0..TURN {
            if self.hosts.len() < SPREAD {
                self.enlist(now);
            }
            let Some(lane_key) = self.lanes.next(now) else {
                if self.enlist(now) {
                    continue;
                }
                if self.exhausted && self.hosts.len() == 0 {
                    return Step::Done;
                }
                return Step::Wait(self.next_wake(now));
            };
            // What lands later puts a lane without room back into the queue.
            let Some(lane) =
                self.lanes.get_mut(lane_key).filter(|lane| lane.control.has_room(lane.demand().in_flight()))
            else {
                continue;
            };
            let Some(host_key) = lane.ready.pop_front() else { continue };
            let Some(host) = self.hosts.get_mut(host_key).filter(|host| host.queued && host.lane == lane_key)
            else {
                self.lanes.enqueue(lane_key);
                continue;
            };
            host.queued = false;
            if let Some(until) = host.rate.as_ref().map(|rate| rate.ready_at(now)).filter(|at| *at > now) {
                host.paced_until = Some(until);
                self.holds.wake_at(until, host_key);
                self.lanes.enqueue(lane_key);
                continue;
            }
            let Some(cell) = host.sweep.next() else {
                self.lanes.enqueue(lane_key);
                continue;
            };
            let admission = self.lease.admit(lane.demand(), self.guard.scope().max_rate, now);
            if admission == Admission::Granted {
                lane.control.in_flight += 1;
                let wait = host.sweep.sent(cell);
                host.queued = host.sweep.has_more();
                if host.queued {
                    lane.ready.push_back(host_key);
                }
                for rate in host.rate.iter_mut().chain(&mut self.rate) {
                    rate.take(now);
                }
                self.lanes.enqueue(lane_key);
                self.progress.probes_sent += 1;
                return Step::Probe(self.flights.launch(host_key, lane_key, cell, now, wait));
            }
            host.sweep.put_back(cell);
            host.queued = true;
            lane.ready.push_front(host_key);
            match admission {
                Admission::Full(until) => {
                    self.lanes.requeue_first(lane_key);
                    // Their numbers are free only when the caller has heard of it.
                    let spared = self.spare(SPARED);
                    return Step::Wait(if spared { now } else { until.min(self.next_wake(now)) });
                }
                Admission::WaitHere(until) => self.lanes.park(lane_key, until),
                Admission::Wait(until) => {
                    self.lanes.requeue_first(lane_key);
                    return Step::Wait(until.min(self.next_wake(now)));
                }
                Admission::Granted => {}
            }
        }
        Step::Wait(now)
    }

    /// Where a probe goes: only here the guard's word and the port come together.
    pub(super) fn destination(&self, flight: usize) -> Option<(&PermittedTarget, u16)> {
        let flight = self.flights.get(flight)?;
        let host = &self.hosts.get(flight.host)?.sweep;
        Some((host.target(), host.port(flight.cell)))
    }

    /// The probe left and no answer is there yet.
    pub(super) fn pending(&mut self, flight: usize) {
        self.flights.time(flight);
        self.left(flight);
    }

    /// The probe was answered.
    pub(super) fn answered(&mut self, flight: usize, answer: Answer, now: Instant) {
        self.left(flight);
        let Some(state) = self.flights.get(flight) else { return };
        let Some(host) = self.hosts.get_mut(state.host) else { return };
        if state.phase == Phase::Old || host.sweep.ends_the_wait(&answer) {
            self.end(flight, now);
        } else {
            self.flights.silence(flight);
        }
        let Some(host) = self.hosts.get_mut(state.host) else { return };
        let change = host.sweep.answered(state.cell, answer);
        if change.moot {
            self.end_port(&state, Some(flight), now);
        }
        self.apply(&state, change, now);
    }

    /// The probe did not leave. `true` when this host has not opened a single connection for too long.
    pub(super) fn held(&mut self, flight: usize, hold: Hold, errno: i32, now: Instant) -> bool {
        let Some(state) = self.flights.land(flight) else { return false };
        self.progress.probes_sent = self.progress.probes_sent.saturating_sub(1);
        if let Some(host) = self.hosts.get_mut(state.host) {
            host.sweep.unsent(state.cell);
        }
        self.lease.release();
        self.land(&state, now);
        let mut held_for = Duration::ZERO;
        if hold == Hold::Everywhere {
            self.spare(SPARED);
            self.lease.squeeze();
            self.paused_until = Some(now + self.pause);
            self.pause = (self.pause * 2).min(MAX_PAUSE);
            held_for = now.saturating_duration_since(*self.held_since.get_or_insert(now));
            self.queue(state.host);
        } else {
            self.hold(state.host, hold, errno, now);
        }
        held_for > MAX_HELD
    }

    /// Does what is due of the flights.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((key, flight, due)) = self.flights.due(now) {
            // A host may have changed lanes meanwhile.
            let lane = self.hosts.get(flight.host).and_then(|host| self.lanes.get(host.lane));
            let path = lane.map(|lane| lane.loss).unwrap_or_default();
            if due == Due::Resent && self.is_suspended() {
                self.forgo(key, &flight, now);
                continue;
            }
            if due == Due::Resent {
                let must = flight.phase != Phase::Old;
                let own = |rate: &TokenBucket| rate.ready_at(now) <= now;
                let host_rate = self.hosts.get(flight.host).and_then(|host| host.rate.as_ref());
                let room = must || self.rate.iter().chain(host_rate).all(own);
                if room && lane.is_none_or(|lane| self.lease.charge(lane.demand(), must, now)) {
                    let host_rate = self.hosts.get_mut(flight.host).and_then(|host| host.rate.as_mut());
                    for rate in self.rate.iter_mut().chain(host_rate) {
                        rate.take(now);
                    }
                    self.progress.probes_sent += 1;
                } else {
                    self.end(key, now);
                    self.ended.push(key);
                }
                continue;
            }
            let Some(host) = self.hosts.get_mut(flight.host) else {
                self.end(key, now);
                self.ended.push(key);
                continue;
            };
            if flight.phase == Phase::Last {
                self.end(key, now);
                self.ended.push(key);
                let Some(host) = self.hosts.get_mut(flight.host) else { continue };
                let change = host.sweep.conclude(flight.cell, path);
                if change.moot {
                    self.end_port(&flight, None, now);
                }
                self.apply(&flight, change, now);
                continue;
            }
            let overdue = host.sweep.timed_out(flight.cell, flight.wait, path);
            self.land(&flight, now);
            let stays = match overdue {
                Overdue::Old => self.flights.grow_old(key),
                Overdue::Last { wait, silent } => {
                    if silent && let Some(lane) = self.lanes.get_mut(flight.lane) {
                        lane.control.window.silent();
                    }
                    self.flights.wait_longer(key, wait);
                    true
                }
                Overdue::Over => false,
            };
            if !stays {
                self.flights.land(key);
                self.lease.release();
                self.ended.push(key);
            }
            self.queue(flight.host);
            self.finish(flight.host, now);
        }
        if self.lease.is_full() {
            self.spare(SPARED);
        }
    }

    /// A flight whose answer is not wanted any more. To be asked before every [`Scheduler::next`]: its number is used
    /// again then.
    pub(super) fn take_ended(&mut self) -> Option<usize> {
        self.ended.pop()
    }

    pub(super) fn progress(&self) -> Progress {
        Progress { paused: self.is_suspended(), ..self.progress }
    }
}

/// The first pause when this host refuses to open connections, which doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(256);

/// Old probes that are given up at once when descriptors are short.
const SPARED: usize = 64;

impl<I: Intake> Scheduler<I> {
    fn next_wake(&mut self, now: Instant) -> Instant {
        let deadline = self.flights.next_deadline().into_iter().chain(self.lanes.next_wake());
        let deadline = deadline.chain(self.holds.next_wake()).min();
        deadline.unwrap_or(now + CLOCK_AGE)
    }

    /// A probe left this host.
    fn left(&mut self, flight: usize) {
        if self.held_since.take().is_some() {
            self.pause = FIRST_PAUSE;
        }
        self.lease.relax();
        if let Some(flight) = self.flights.get(flight) {
            self.unhold(flight.host);
        }
    }

    /// Nothing of a flight is waited for any more.
    fn end(&mut self, flight: usize, now: Instant) {
        let Some(state) = self.flights.land(flight) else { return };
        self.lease.release();
        if state.phase == Phase::Fresh {
            if let Some(host) = self.hosts.get_mut(state.host) {
                host.sweep.landed();
            }
            self.land(&state, now);
        }
    }

    /// Ends the flights to the port of this one, but for one of them.
    fn end_port(&mut self, flight: &Flight, spared: Option<usize>, now: Instant) {
        for other in self.flights.of_port(flight.host, flight.cell).to_vec() {
            if Some(other) != spared {
                self.end(other, now);
                self.ended.push(other);
            }
        }
    }

    /// A flight is not fresh any more.
    fn land(&mut self, flight: &Flight, now: Instant) {
        if let Some(lane) = self.lanes.get(flight.lane) {
            self.lease.landed(lane.demand(), now);
        }
        if let Some(lane) = self.lanes.get_mut(flight.lane) {
            lane.control.in_flight = lane.control.in_flight.saturating_sub(1);
        }
        self.lanes.review(flight.lane);
    }

    /// Ends some of the flights that can be spared, the oldest first; `false` where there are none.
    fn spare(&mut self, most: usize) -> bool {
        let before = self.ended.len();
        for _ in 0..most {
            let Some(flight) = self.flights.land_oldest() else { break };
            self.lease.release();
            self.ended.push(flight);
        }
        self.ended.len() > before
    }

    /// Takes down what an event changed beyond its host, and sees whether the host is finished.
    fn apply(&mut self, flight: &Flight, change: Change, now: Instant) {
        self.progress.ports_done += u64::from(change.settled);
        self.progress.open_found += u64::from(change.open);
        if let Some(late) = change.answered
            && let Some(lane) = self.lanes.get_mut(flight.lane)
        {
            lane.loss.count(late);
            lane.control.window.answered(late);
        }
        // All that were left, whichever probe said so.
        if change.settled > 0 && !change.moot {
            self.recall(flight.host, now);
        }
        self.queue(flight.host);
        self.finish(flight.host, now);
    }
}

//! Probes that wait for an answer. Pure.

use crate::engine::slots::Slots;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How often the kernel resends a SYN by itself at most: after 1, 2, 3 … s with tcp_syn_linear_timeouts (ip-sysctl),
/// after 1, 3, 7 … s without. It is seen coming so much earlier, in time for the socket to be closed before.
const RESEND: Duration = Duration::from_secs(1);
const AHEAD: Duration = Duration::from_millis(20);

/// The same where it must not be resent at all, however busy this host is.
const FAR_AHEAD: Duration = Duration::from_millis(100);

/// How a probe is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its answer is due: it takes room in the windows.
    Fresh,
    /// The last one of its port, overdue: the port has its last word when the wait is over.
    Last,
    /// Another probe follows; its answer counts all the same as long as there are descriptors enough.
    Old,
}

/// A probe that left or is leaving.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) host: usize,
    pub(super) lane: usize,
    pub(super) cell: u16,
    pub(super) sent: Instant,
    pub(super) wait: Duration,
    pub(super) phase: Phase,
    /// Tells it from earlier flights under the same number.
    serial: u64,
    timed: bool,
    /// Whether an answer may still come.
    open: bool,
    resends: u32,
}

impl Flight {
    fn over_at(&self) -> Option<Instant> {
        (self.phase != Phase::Old).then_some(self.sent + self.wait)
    }

    /// When to look at the kernel's next resending. `hushed`: it is to be kept from it.
    fn resent_at(&self, hushed: bool) -> Option<Instant> {
        let resent = self.sent + RESEND * (self.resends + 1);
        let at = resent - if hushed { FAR_AHEAD } else { AHEAD };
        let is_before = |over: Instant| if hushed { at < over } else { resent < over };
        (self.open && self.over_at().is_none_or(is_before)).then_some(at)
    }
}

/// What is due of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Its wait is over; it is to be landed or to go on in another phase.
    Over,
    /// The kernel is about to send it once more.
    Resent,
}

/// All probes that wait, and until when.
#[derive(Debug)]
pub(super) struct Flights {
    flights: Slots<Flight>,
    alarms: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    /// The timed flights of each port.
    by_port: HashMap<(usize, u16), Vec<usize>>,
    /// Flights in their old phase, as they came to it, and some that have gone since.
    old: VecDeque<(usize, u64)>,
    serial: u64,
    /// Nothing is to be resent.
    hushed: bool,
}

impl Flights {
    pub(super) fn new() -> Self {
        Self {
            flights: Slots::new(),
            alarms: BinaryHeap::new(),
            by_port: HashMap::new(),
            old: VecDeque::new(),
            serial: 0,
            hushed: false,
        }
    }

    pub(super) fn launch(
        &mut self,
        host: usize,
        lane: usize,
        cell: u16,
        sent: Instant,
        wait: Duration,
    ) -> usize {
        self.serial += 1;
        self.flights.insert(Flight {
            host,
            lane,
            cell,
            sent,
            wait,
            phase: Phase::Fresh,
            serial: self.serial,
            timed: false,
            open: true,
            resends: 0,
        })
    }

    pub(super) fn get(&self, flight: usize) -> Option<Flight> {
        self.flights.get(flight).copied()
    }

    /// From now on the flight is waited for. Most flights over a fast path never need this.
    pub(super) fn time(&mut self, flight: usize) {
        if let Some(state) = self.flights.get_mut(flight).filter(|state| !state.timed) {
            state.timed = true;
            self.by_port.entry((state.host, state.cell)).or_default().push(flight);
            self.set_alarm(flight);
        }
    }

    /// The flight was answered, but its wait goes on.
    pub(super) fn silence(&mut self, flight: usize) {
        if let Some(state) = self.flights.get_mut(flight) {
            state.open = false;
        }
        self.time(flight);
    }

    /// A flight whose fresh wait is over goes on as the last of its port, until so long after it was sent.
    pub(super) fn wait_longer(&mut self, flight: usize, wait: Duration) {
        if let Some(state) = self.flights.get_mut(flight) {
            (state.phase, state.wait) = (Phase::Last, wait);
            self.set_alarm(flight);
        }
    }

    /// A flight whose wait is over goes on as an old one; `false` if it was answered.
    pub(super) fn grow_old(&mut self, flight: usize) -> bool {
        let Some(state) = self.flights.get_mut(flight).filter(|state| state.open) else { return false };
        state.phase = Phase::Old;
        self.old.push_back((flight, state.serial));
        self.set_alarm(flight);
        true
    }

    /// Takes the one that has been old for the longest.
    pub(super) fn land_oldest(&mut self) -> Option<usize> {
        loop {
            let (flight, serial) = self.old.pop_front()?;
            if self.flights.get(flight).is_some_and(|state| state.serial == serial) {
                self.land(flight);
                return Some(flight);
            }
        }
    }

    pub(super) fn land(&mut self, flight: usize) -> Option<Flight> {
        let state = self.flights.remove(flight)?;
        if state.timed
            && let Some(of_port) = self.by_port.get_mut(&(state.host, state.cell))
        {
            of_port.retain(|other| *other != flight);
            if of_port.is_empty() {
                self.by_port.remove(&(state.host, state.cell));
            }
        }
        // Those that have gone are dropped once they are the most.
        if self.old.len() > 64 + 2 * self.flights.len() {
            self.old.retain(|(key, serial)| self.flights.get(*key).is_some_and(|f| f.serial == *serial));
        }
        Some(state)
    }

    /// Takes down what is due of a flight.
    pub(super) fn due(&mut self, now: Instant) -> Option<(usize, Flight, Due)> {
        while self.next_deadline()? <= now {
            let Reverse((at, flight, _)) = self.alarms.pop()?;
            let Some(state) = self.flights.get_mut(flight) else { continue };
            if state.over_at().is_some_and(|over| over <= at) {
                return Some((flight, *state, Due::Over));
            }
            // An alarm may stem from another phase, or from before a pause.
            let is_resent = state.resent_at(self.hushed) == Some(at);
            state.resends += u32::from(is_resent);
            let state = *state;
            self.set_alarm(flight);
            if is_resent {
                return Some((flight, state, Due::Resent));
            }
        }
        None
    }

    /// When something is due next. Alarms of flights that landed in time are dropped on the way.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        loop {
            let Reverse((at, flight, serial)) = *self.alarms.peek()?;
            if self.flights.get(flight).is_some_and(|state| state.serial == serial) {
                return Some(at);
            }
            self.alarms.pop();
        }
    }

    /// From now on, or no longer, the kernel is to be kept from resending: what is due as [`Due::Resent`] comes early
    /// enough for that.
    pub(super) fn hush(&mut self, hushed: bool) {
        self.hushed = hushed;
        if hushed {
            let timed = |key: &usize| self.flights.get(*key).is_some_and(|flight| flight.timed);
            let keys: Vec<usize> = self.flights.keys().filter(timed).collect();
            keys.into_iter().for_each(|key| self.set_alarm(key));
        }
    }

    /// The flights of a host.
    pub(super) fn of_host(&self, host: usize) -> Vec<usize> {
        self.flights.keys().filter(|key| self.flights.get(*key).is_some_and(|f| f.host == host)).collect()
    }

    /// The flights of a port that are waited for.
    pub(super) fn of_port(&self, host: usize, cell: u16) -> &[usize] {
        self.by_port.get(&(host, cell)).map_or(&[], Vec::as_slice)
    }

    /// How many there are, with the alarms set for them.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.flights.len() + self.by_port.len() + self.alarms.len()
    }

    /// How many are fresh.
    #[cfg(test)]
    pub(super) fn fresh(&self) -> usize {
        let fresh = |key: &usize| self.flights.get(*key).is_some_and(|f| f.phase == Phase::Fresh);
        self.flights.keys().filter(fresh).count()
    }

    fn set_alarm(&mut self, flight: usize) {
        if let Some(state) = self.flights.get(flight)
            && let Some(at) = state.over_at().into_iter().chain(state.resent_at(self.hushed)).min()
        {
            self.alarms.push(Reverse((at, flight, state.serial)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_did_not_land_is_due() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let ms = Duration::from_millis(1);
        let mut flights = Flights::new();
        let a = flights.launch(0, 0, 1, start, 100 * ms);
        let b = flights.launch(0, 0, 2, start, 200 * ms);
        flights.time(a);
        flights.time(b);
        flights.time(b);
        assert_eq!(flights.next_deadline(), Some(start + 100 * ms));
        flights.land(a);
        // The same number again, with a later deadline than its predecessor.
        assert_eq!(flights.launch(0, 0, 3, start, 300 * ms), a);
        flights.time(a);
        assert!(flights.due(start + 100 * ms).is_none());
        assert_eq!(
            flights.due(start + 200 * ms).map(|(key, f, due)| (key, f.cell, due)),
            Some((b, 2, Due::Over))
        );
        flights.land(b);
        assert_eq!(flights.of_host(0), vec![a]);
        assert_eq!(flights.due(start + second).map(|(_, f, due)| (f.cell, due)), Some((3, Due::Over)));
        flights.land(a);
        assert_eq!(flights.next_deadline(), None);
    }

    #[test]
    fn what_stays_open_is_resent_by_the_kernel() {
        let (start, ms) = (Instant::now(), Duration::from_millis(1));
        let mut flights = Flights::new();
        let [old, last, answered] = [0, 1, 1].map(|cell| flights.launch(7, 0, cell, start, 100 * ms));
        flights.time(old);
        flights.time(last);
        flights.silence(answered);
        assert_eq!(flights.of_port(7, 1), [last, answered]);
        for _ in 0..3 {
            assert_eq!(flights.due(start + 100 * ms).unwrap().2, Due::Over);
        }
        assert!(flights.grow_old(old));
        assert!(!flights.grow_old(answered), "nothing more comes");
        flights.wait_longer(last, 1500 * ms);
        assert!(flights.due(start + 979 * ms).is_none(), "early enough to close it, and no earlier");
        let mut due: Vec<_> =
            std::iter::from_fn(|| flights.due(start + 1600 * ms)).map(|d| (d.0, d.2)).collect();
        due.sort_by_key(|(key, due)| (*key, *due == Due::Over));
        assert_eq!(due, [(old, Due::Resent), (last, Due::Resent), (last, Due::Over)]);
        // Where it must not be resent it is due earlier, and so is one whose wait ends just then.
        let over = flights.launch(8, 0, 0, start, 1000 * ms);
        flights.time(over);
        flights.hush(true);
        let mut due: Vec<_> =
            std::iter::from_fn(|| flights.due(start + 1899 * ms)).map(|d| (d.0, d.2)).collect();
        due.retain(|(key, _)| *key == over);
        assert_eq!(due[0], (over, Due::Resent));
        assert!(flights.due(start + 1899 * ms).is_none());
        assert_eq!(flights.due(start + 1900 * ms).map(|d| (d.0, d.2)), Some((old, Due::Resent)));
        flights.land(over);
        assert_eq!(flights.land_oldest(), Some(old));
        assert_eq!(flights.land_oldest(), None);
    }
}

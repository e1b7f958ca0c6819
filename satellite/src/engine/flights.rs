//! Probes that wait for an answer. Pure.

use super::slots::Slots;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// A probe that left or is leaving.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) host: usize,
    pub(super) lane: usize,
    pub(super) cell: u16,
    pub(super) sent: Instant,
    pub(super) wait: Duration,
    /// Tells it from earlier flights under the same number.
    serial: u64,
    timed: bool,
}

/// All probes that wait, and until when.
#[derive(Debug)]
pub(super) struct Flights {
    flights: Slots<Flight>,
    deadlines: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    serial: u64,
}

impl Flights {
    pub(super) fn new() -> Self {
        Self { flights: Slots::new(), deadlines: BinaryHeap::new(), serial: 0 }
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
        self.flights.insert(Flight { host, lane, cell, sent, wait, serial: self.serial, timed: false })
    }

    pub(super) fn get(&self, flight: usize) -> Option<Flight> {
        self.flights.get(flight).copied()
    }

    /// From now on the flight is waited for. Most flights over a fast path never need this.
    pub(super) fn time(&mut self, flight: usize) {
        if let Some(state) = self.flights.get_mut(flight).filter(|state| !state.timed) {
            state.timed = true;
            self.deadlines.push(Reverse((state.sent + state.wait, flight, state.serial)));
        }
    }

    pub(super) fn land(&mut self, flight: usize) -> Option<Flight> {
        self.flights.remove(flight)
    }

    /// Takes a flight whose time is up.
    pub(super) fn expired(&mut self, now: Instant) -> Option<(usize, Flight)> {
        let at = self.next_deadline()?;
        if at > now {
            return None;
        }
        let Reverse((_, flight, _)) = self.deadlines.pop()?;
        self.flights.remove(flight).map(|state| (flight, state))
    }

    /// When the next flight's time is up. Deadlines of flights that landed in time are dropped on the way.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        loop {
            let Reverse((at, flight, serial)) = *self.deadlines.peek()?;
            if self.flights.get(flight).is_some_and(|state| state.serial == serial) {
                return Some(at);
            }
            self.deadlines.pop();
        }
    }

    /// The flights of a host.
    pub(super) fn of_host(&self, host: usize) -> Vec<usize> {
        self.flights.keys().filter(|key| self.flights.get(*key).is_some_and(|f| f.host == host)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_did_not_land_expires() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut flights = Flights::new();
        let a = flights.launch(0, 0, 1, start, second);
        let b = flights.launch(0, 0, 2, start, second * 2);
        flights.time(a);
        flights.time(b);
        flights.time(b);
        assert_eq!(flights.next_deadline(), Some(start + second));
        flights.land(a);
        // The same number again, with a later deadline than its predecessor.
        assert_eq!(flights.launch(0, 0, 3, start, second * 3), a);
        flights.time(a);
        assert!(flights.expired(start + second).is_none());
        assert_eq!(flights.expired(start + second * 2).map(|(key, f)| (key, f.cell)), Some((b, 2)));
        assert_eq!(flights.of_host(0), vec![a]);
        assert_eq!(flights.expired(start + second * 3).map(|(_, f)| f.cell), Some(3));
        assert_eq!(flights.next_deadline(), None);
    }
}

//! A sweep that an operator pauses: nothing is sent until it is resumed, and what is on its way is waited for as usual.
//! What the kernel would send by itself meanwhile is closed before; a port whose wait is cut short by that is probed
//! again afterwards, so no silence is believed that was not listened to.

use super::{CLOCK_AGE, Scheduler, Step};
use crate::engine::connect::flights::{Flight, Phase};
use crate::engine::connect::intake::Intake;
use std::time::Instant;

impl<I: Intake> Scheduler<I> {
    /// Whether it is paused.
    pub(in crate::engine) fn is_suspended(&self) -> bool {
        self.suspended_since.is_some()
    }

    /// Pauses or resumes.
    pub(in crate::engine) fn suspend(&mut self, suspended: bool, now: Instant) {
        match self.suspended_since {
            None if suspended => {
                self.suspended_since = Some(now);
                self.flights.hush(true);
            }
            Some(since) if !suspended => {
                self.suspended_since = None;
                self.flights.hush(false);
                // What is believed when it lasts has not been looked at in between.
                let lasted = now.saturating_duration_since(since);
                self.held_since = self.held_since.map(|since| since + lasted);
                let keys: Vec<usize> = self.hosts.keys().collect();
                for key in keys {
                    if let Some(held) = self.hosts.get_mut(key).and_then(|host| host.held.as_mut()) {
                        held.postpone(lasted);
                    }
                }
            }
            _ => {}
        }
    }

    /// The next step while it is paused.
    pub(super) fn rest(&mut self, now: Instant) -> Step {
        if self.exhausted && self.hosts.len() == 0 {
            return Step::Done;
        }
        Step::Wait(self.flights.next_deadline().unwrap_or(now + CLOCK_AGE))
    }

    /// The kernel is about to send a probe again, which it must not.
    pub(super) fn forgo(&mut self, key: usize, flight: &Flight, now: Instant) {
        self.end(key, now);
        self.ended.push(key);
        // Of an old one nothing depends.
        if flight.phase != Phase::Old
            && let Some(host) = self.hosts.get_mut(flight.host)
        {
            host.sweep.forgo(flight.cell);
        }
        self.queue(flight.host);
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::connect::scheduler::sim::*;
    use portolan_common::observation::{PortState, Reason};
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    /// Refuses port 1 and answers to the other ports with silence.
    fn network(_: IpAddr, port: u16, _: u32, _: Instant) -> Fate {
        if port == 1 { soon(REFUSED) } else { Silence }
    }

    #[test]
    fn nothing_is_sent_while_it_is_paused_and_no_silence_is_believed_for_it() {
        // Whatever the sweep is about when it is paused: its first probes, retransmissions, last waits.
        for after in (0..20).map(|n| n * 190 * MS) {
            let mut sim = Sim::new("10.0.0.1-4", "1-300", "");
            let done = sim.run_for(after, network);
            sim.scheduler.suspend(true, sim.now);
            let (left, counted) = (sim.sent.len(), sim.scheduler.progress().probes_sent);
            assert!(done || sim.scheduler.progress().paused);
            let done = sim.run_for(Duration::from_secs(100), network);
            assert_eq!(sim.sent.len(), left, "paused after {after:?}");
            assert_eq!(sim.scheduler.progress().probes_sent, counted, "the kernel sends nothing either");
            sim.scheduler.suspend(false, sim.now);
            assert!(done || sim.run_for(Duration::from_secs(60), network), "paused after {after:?}");
            assert!(!sim.scheduler.progress().paused);
            assert_eq!(sim.hosts.len(), 4);
            for host in ["10.0.0.1", "10.0.0.4"] {
                assert_eq!(sim.ports(host, PortState::Filtered, Reason::NoResponse), "2-300");
            }
            assert!(sim.probes_of(150) >= 4 * 4, "{} probes, paused after {after:?}", sim.probes_of(150));
        }
    }

    #[test]
    fn a_way_that_is_missing_is_not_believed_for_a_pause() {
        use crate::engine::verdict::{Hold, Verdict};
        let mut sim = Sim::new("10.0.0.1", "1-9", "");
        let start = sim.start;
        let away = |_, port, nth, now: Instant| match now.duration_since(start) {
            time if time < 101 * Duration::from_secs(1) => Held { hold: Hold::NoWay(Verdict::NetUnreach) },
            _ => network("10.0.0.1".parse().unwrap(), port, nth, now),
        };
        assert!(!sim.run_for(200 * MS, away));
        sim.scheduler.suspend(true, sim.now);
        assert!(!sim.run_for(Duration::from_secs(100), away));
        sim.scheduler.suspend(false, sim.now);
        assert!(sim.run_for(Duration::from_secs(60), away));
        assert_eq!(sim.ports("10.0.0.1", PortState::Closed, Reason::ConnRefused), "1");
    }
}

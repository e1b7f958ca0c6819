//! Probes to something that answers, in between those that meet silence. Pure.
//!
//! Loss is known from answers alone. Where a firewall swallows nearly everything, a path that is too narrow for the rate
//! would swallow the rest unseen, and what is open behind it would be called filtered. So as long as a host is silent,
//! every now and then something is asked of it that was answered before: a port, or else an echo request. What then
//! remains without an answer was lost.

use super::discovery::Ping;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many probes without any answer are silence.
const SILENCE: u32 = 32;

/// The shortest time between two gauges.
const GAP: Duration = Duration::from_millis(5);

/// At least so many probes come between two, …
const EVERY: u32 = 8;
/// … unless so much time did.
const SELDOM: Duration = Duration::from_millis(500);

/// A host that lost so many gauges in a row, …
const SHUNNED: u32 = 20;
/// … for so long, answers us no more.
const SHUNNED_FOR: Duration = Duration::from_secs(20);

/// Where everything was lost for so long, it was an outage rather than too much at once.
const OUTAGE: Duration = Duration::from_secs(1);

/// More gauges lost in a row than these are the host's own doing, not the path's.
const OF_THE_PATH: u32 = 4;

/// Gauges on their way at most.
const MAX_OUT: usize = 64;

/// How often it is tried whether the host answers an echo request, and how soon again.
const ECHO_TRIES: u8 = 3;
const ECHO_AGAIN: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    /// A port that answered.
    port: Option<u16>,
    /// Whether an echo request was answered.
    echo: bool,
    echo_tries: u8,
    /// When those left that wait for an answer.
    out: VecDeque<Instant>,
    last: Option<Instant>,
    /// Probes since anything was answered.
    unanswered: u32,
    /// Probes since the last gauge.
    since: u32,
    attempt: u8,
    /// Gauges that were lost in a row, and since when.
    lost: u32,
    silent_since: Option<Instant>,
    recovered: bool,
}

impl Gauge {
    /// A probe leaves.
    pub(super) fn sent(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
        self.since = self.since.saturating_add(1);
    }

    /// A port was answered.
    pub(super) fn heard_port(&mut self, port: u16) {
        self.unanswered = 0;
        if self.port.is_none() {
            self.port = Some(port);
            // What was asked by echo is not answered by a port.
            self.out.clear();
        }
    }

    /// What to ask now, if anything; the how-manieth it is.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Ping, u8)> {
        if self.unanswered < SILENCE || self.out.len() >= MAX_OUT {
            return None;
        }
        let known = self.port.is_some() || self.echo;
        let gap = if known { GAP } else { ECHO_AGAIN };
        if !known && self.echo_tries >= ECHO_TRIES || self.last.is_some_and(|last| now < last + gap) {
            return None;
        }
        // Not more of the gauge than of what it is for.
        if known && self.since < EVERY && self.last.is_some_and(|last| now < last + SELDOM) {
            return None;
        }
        self.last = Some(now);
        self.since = 0;
        self.attempt = self.attempt.wrapping_add(1);
        if known {
            self.out.push_back(now);
        } else {
            self.echo_tries += 1;
        }
        Some((self.port.map_or(Ping::Echo, Ping::Syn), self.attempt))
    }

    /// The last one did not leave.
    pub(super) fn unsent(&mut self) {
        if self.port.is_some() || self.echo {
            self.out.pop_back();
        }
    }

    /// The port answered once more: how long that took. Late answers are taken for those of later gauges: they show
    /// all the same that something passes.
    pub(super) fn answered_port(&mut self, port: u16, at: Instant) -> Option<Duration> {
        if self.port != Some(port) {
            return None;
        }
        self.passed(at)
    }

    /// An echo request was answered.
    pub(super) fn answered_echo(&mut self, at: Instant) -> Option<Duration> {
        self.unanswered = self.unanswered.min(SILENCE);
        self.echo = true;
        if self.port.is_some() {
            return None;
        }
        self.passed(at)
    }

    fn passed(&mut self, at: Instant) -> Option<Duration> {
        let out_for = self.silent_since.map_or(Duration::ZERO, |since| at.saturating_duration_since(since));
        self.recovered |= self.lost >= OF_THE_PATH && out_for >= OUTAGE;
        (self.lost, self.silent_since) = (0, None);
        self.out.pop_front().map(|sent| at.saturating_duration_since(sent))
    }

    /// When one left that waited so long in vain, and no more does; whether that speaks for the whole path.
    pub(super) fn lost(&mut self, wait: Duration, now: Instant) -> Option<(Instant, bool)> {
        if *self.out.front()? + wait > now {
            return None;
        }
        self.lost += 1;
        self.silent_since.get_or_insert(now);
        let of_the_path = self.lost <= OF_THE_PATH;
        self.out.pop_front().map(|sent| (sent, of_the_path))
    }

    /// Whether what answered before does not at the moment: no silence counts until it does.
    pub(super) fn is_out(&self) -> bool {
        self.lost > 0
    }

    /// Whether an outage is over; told once.
    pub(super) fn take_recovered(&mut self) -> bool {
        std::mem::take(&mut self.recovered)
    }

    /// Whether a host that answered before answers us no more.
    pub(super) fn is_shunned(&self, now: Instant) -> bool {
        let long = self.silent_since.is_some_and(|since| now.saturating_duration_since(since) >= SHUNNED_FOR);
        long && self.lost >= SHUNNED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn only_silence_is_gauged_and_only_what_answered_before_can_be_lost() {
        let start = Instant::now();
        let mut gauge = Gauge::default();
        (0..31).for_each(|_| gauge.sent());
        assert_eq!(gauge.next(start), None, "not silent yet");
        gauge.sent();
        assert_eq!(gauge.next(start), Some((Ping::Echo, 1)));
        (0..8).for_each(|_| gauge.sent());
        assert_eq!(gauge.next(start + 10 * MS), None, "nobody knows whether it answers");
        assert_eq!(gauge.next(start + 50 * MS), Some((Ping::Echo, 2)));
        assert_eq!(gauge.lost(100 * MS, start + 1000 * MS), None);
        assert_eq!(gauge.answered_echo(start + 60 * MS), None);
        (0..8).for_each(|_| gauge.sent());
        let at = start + 100 * MS;
        assert_eq!(gauge.next(at), Some((Ping::Echo, 3)));
        assert_eq!(gauge.next(at + 4 * MS), None);
        assert_eq!(gauge.next(at + 5 * MS), None, "nothing was sent since");
        (0..8).for_each(|_| gauge.sent());
        assert_eq!(gauge.next(at + 5 * MS), Some((Ping::Echo, 4)));
        assert_eq!(gauge.answered_echo(at + 20 * MS), Some(20 * MS));
        assert_eq!(gauge.lost(100 * MS, at + 104 * MS), None);
        assert_eq!(gauge.lost(100 * MS, at + 105 * MS), Some((at + 5 * MS, true)));
    }

    #[test]
    fn a_port_is_better_than_an_echo() {
        let start = Instant::now();
        let mut gauge = Gauge::default();
        gauge.heard_port(22);
        (0..40).for_each(|_| gauge.sent());
        assert_eq!(gauge.next(start), Some((Ping::Syn(22), 1)));
        assert_eq!(gauge.answered_port(23, start + MS), None);
        assert_eq!(gauge.answered_port(22, start + MS), Some(MS));
        gauge.heard_port(80);
        assert_eq!(gauge.next(start + 10 * MS), None, "it is not silent any more");
    }
}

//! Finding out whether anybody is there before every port is probed. Pure.
//!
//! Four rounds, as many as it takes to believe in silence: an ICMP echo request, a SYN to 443 and an ACK to 80 each.
//! What nmap sends, minus the timestamp request, which hardly any system answers that answers nothing else.

use portolan_common::ports::PortSpec;
use std::time::{Duration, Instant};

/// Rounds before silence counts as an answer.
const ROUNDS: u8 = 4;

/// The port of the SYN, and that of the ACK: a stateful firewall drops the ACK, a stateless one the SYN.
const SYN_PORT: u16 = 443;
const ACK_PORT: u16 = 80;

/// What asks whether a host is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ping {
    /// ICMP or ICMPv6 echo request.
    Echo,
    /// TCP SYN to a port.
    Syn(u16),
    /// TCP ACK to a port: a host answers with RST whether the port is open or not.
    Ack(u16),
}

/// The ports that pings use: the scope has a say in them.
pub(super) fn ports() -> PortSpec {
    PortSpec { tcp: [ACK_PORT, SYN_PORT].into_iter().collect(), ..PortSpec::default() }
}

/// How far it is with one host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Discovery {
    /// Pings sent in all, also those that the scope leaves out.
    sent: u8,
    syn: bool,
    ack: bool,
    /// When the next round begins, or the last one ends.
    next_round: Option<Instant>,
    began: Option<Instant>,
    round_began: Option<Instant>,
    era: u8,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this, the so many-th of its kind, counted from 1.
    Ping(Ping, u8),
    /// Nothing before then.
    Wait(Instant),
    /// Nobody is there.
    Down,
}

impl Discovery {
    /// Of a host whose scope permits these of [`ports`].
    pub(super) fn new(permitted: &PortSpec) -> Self {
        Self {
            sent: 0,
            syn: permitted.tcp.contains(SYN_PORT),
            ack: permitted.tcp.contains(ACK_PORT),
            next_round: None,
            began: None,
            round_began: None,
            era: 0,
        }
    }

    /// How long an answer took that came now; `None` when it cannot be told which ping it answers.
    pub(super) fn round_trip(&self, at: Instant) -> Option<Duration> {
        self.began.filter(|_| self.sent <= 3).map(|began| at.saturating_duration_since(began))
    }

    /// The era in which the first ping left.
    pub(super) fn era(&self) -> u8 {
        self.era
    }

    /// Begins anew.
    pub(super) fn restart(&mut self) {
        *self = Self { sent: 0, next_round: None, began: None, round_began: None, ..*self };
    }

    /// The scope permits only these of [`ports`] any more.
    pub(super) fn narrow(&mut self, permitted: &PortSpec) {
        (self.syn, self.ack) = (permitted.tcp.contains(SYN_PORT), permitted.tcp.contains(ACK_PORT));
    }

    /// How many rounds were lost before the one that was answered at `at` (its number, where the answer tells), and
    /// when the last of them had left, being `wait` apart.
    pub(super) fn lost(&self, attempt: Option<u8>, wait: Duration, at: Instant) -> (u8, Option<Instant>) {
        let round = self.sent.saturating_sub(1) / 3 + 1;
        let Some(began) = self.round_began else { return (0, None) };
        let answered = match attempt {
            Some(attempt) => attempt.clamp(1, round),
            // Soon after a round began, it is that one's answer.
            None if at.saturating_duration_since(began) < wait / 2 => round,
            None => 1,
        };
        (answered - 1, began.checked_sub(wait * u32::from(round - answered + 1)))
    }

    /// What to do next, with so long between rounds and after the last, in this era. A ping counts as sent.
    pub(super) fn step(&mut self, waits: [Duration; 2], era: u8, now: Instant) -> Step {
        loop {
            if let Some(at) = self.next_round {
                if at > now {
                    return Step::Wait(at);
                }
                if self.sent >= ROUNDS * 3 {
                    return Step::Down;
                }
                self.next_round = None;
            }
            let round = self.sent / 3 + 1;
            let ping = match self.sent % 3 {
                0 => Some(Ping::Echo),
                1 => self.syn.then_some(Ping::Syn(SYN_PORT)),
                _ => self.ack.then_some(Ping::Ack(ACK_PORT)),
            };
            self.sent += 1;
            if self.began.is_none() {
                (self.began, self.era) = (Some(now), era);
            }
            if ping == Some(Ping::Echo) {
                self.round_began = Some(now);
            }
            if self.sent.is_multiple_of(3) {
                self.next_round = Some(now + waits[usize::from(round == ROUNDS)]);
            }
            if let Some(ping) = ping {
                return Step::Ping(ping, round);
            }
        }
    }

    /// A ping did not leave.
    pub(super) fn unsent(&mut self) {
        self.sent = self.sent.saturating_sub(1);
        self.next_round = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_rounds_and_then_it_is_down() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut discovery = Discovery::new(&ports());
        let waits = [ms(100), ms(200)];
        let mut now = start;
        let mut pings = Vec::new();
        loop {
            match discovery.step(waits, 0, now) {
                Step::Ping(ping, round) => pings.push((ping, round)),
                Step::Wait(at) => now = at,
                Step::Down => break,
            }
        }
        assert_eq!(now - start, ms(500));
        let round = |n| [(Ping::Echo, n), (Ping::Syn(443), n), (Ping::Ack(80), n)];
        assert_eq!(pings, [round(1), round(2), round(3), round(4)].concat());
    }

    #[test]
    fn the_scope_may_leave_only_the_echo() {
        let ms = Duration::from_millis;
        let mut discovery = Discovery::new(&PortSpec::default());
        let now = Instant::now();
        assert_eq!(discovery.step([ms(1), ms(1)], 0, now), Step::Ping(Ping::Echo, 1));
        assert_eq!(discovery.step([ms(1), ms(1)], 0, now), Step::Wait(now + ms(1)));
        discovery.unsent();
        assert_eq!(discovery.step([ms(1), ms(1)], 0, now), Step::Wait(now + ms(1)));
    }
}

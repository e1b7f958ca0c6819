//! What an answer says about a port, and what is known of a port so far. Pure.

use portolan_common::observation::{PortState, Reason};
use std::time::Duration;

/// What a prober learned from one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The handshake was answered.
    Open {
        /// How long that took; `None` when it cannot be told which packet was answered.
        rtt: Option<Duration>,
        /// The probe's own port, where it might have met another socket of this host instead of a listener: the
        /// target is this host and the port one that the kernel gives to outgoing connections.
        doubt: Option<u16>,
    },
    /// The target reset the connection attempt.
    Refused {
        /// How long that took; `None` when it cannot be told which packet was answered.
        rtt: Option<Duration>,
    },
    /// An ICMP error came back.
    Icmp {
        /// What it says.
        verdict: Verdict,
        /// Who sent it.
        offender: Offender,
    },
    /// Nobody answered when this host looked for the target, or the router to it, on its own link.
    NoNeighbour,
    /// This host's own firewall or policy forbids the probe.
    Forbidden,
    /// The probe met itself (RFC 9293 simultaneous open with one socket): it says nothing about the port.
    Itself,
}

/// Who sent an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offender {
    /// The target itself, so it is up.
    Target,
    /// This host, about another one: its own firewall.
    Own,
    /// A device on the way, or nobody knows.
    Other,
}

/// Why a probe did not leave this host. None of it says anything about the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// This host is short of something for all connections.
    Everywhere,
    /// This host is short of something for this target.
    Here,
    /// This host has no way to this target at the moment; what to say if that lasts.
    NoWay(Verdict),
}

/// A state with the reason for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Verdict {
    Open,
    Refused,
    PortUnreach,
    NoResponse,
    NetUnreach,
    HostUnreach,
    ProtoUnreach,
    NetProhibited,
    HostProhibited,
    AdminProhibited,
    TimeExceeded,
    IcmpRateLimited,
    PortRejected,
}

/// How a port was probed: the same answer has another name for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probing {
    /// A TCP connection through the kernel.
    Connect,
    /// A bare TCP SYN.
    Syn,
    /// A UDP datagram.
    Udp,
}

impl Verdict {
    /// Every verdict, in the order of their numbers.
    pub(super) const ALL: [Self; 13] = [
        Self::Open,
        Self::Refused,
        Self::PortUnreach,
        Self::NoResponse,
        Self::NetUnreach,
        Self::HostUnreach,
        Self::ProtoUnreach,
        Self::NetProhibited,
        Self::HostProhibited,
        Self::AdminProhibited,
        Self::TimeExceeded,
        Self::IcmpRateLimited,
        Self::PortRejected,
    ];

    /// The words for it, as nmap's scan of the same kind has them. A TCP port that answers ICMP port unreachable is
    /// closed to a connect call, which cannot tell it from a reset; to a SYN it is filtered, since a TCP stack would
    /// have reset. (This host's own firewall is told apart before, by [`Offender::Own`].)
    pub(super) fn words(self, probing: Probing) -> (PortState, Reason) {
        match (self, probing) {
            (Self::Open, Probing::Udp) => (PortState::Open, Reason::UdpResponse),
            (Self::Refused, Probing::Syn) => (PortState::Closed, Reason::Reset),
            (Self::PortUnreach, Probing::Syn) => (PortState::Filtered, Reason::PortUnreach),
            (Self::NoResponse, Probing::Udp) => (PortState::OpenFiltered, Reason::NoResponse),
            (verdict, _) => verdict.common_words(),
        }
    }

    fn common_words(self) -> (PortState, Reason) {
        match self {
            Self::Open => (PortState::Open, Reason::SynAck),
            Self::Refused => (PortState::Closed, Reason::ConnRefused),
            Self::PortUnreach => (PortState::Closed, Reason::PortUnreach),
            Self::NoResponse => (PortState::Filtered, Reason::NoResponse),
            Self::NetUnreach => (PortState::Filtered, Reason::NetUnreach),
            Self::HostUnreach => (PortState::Filtered, Reason::HostUnreach),
            Self::ProtoUnreach => (PortState::Filtered, Reason::ProtoUnreach),
            Self::NetProhibited => (PortState::Filtered, Reason::NetProhibited),
            Self::HostProhibited => (PortState::Filtered, Reason::HostProhibited),
            Self::AdminProhibited => (PortState::Filtered, Reason::AdminProhibited),
            Self::TimeExceeded => (PortState::Filtered, Reason::TimeExceeded),
            Self::PortRejected => (PortState::Filtered, Reason::PortUnreach),
            Self::IcmpRateLimited => (PortState::OpenFiltered, Reason::IcmpRateLimited),
        }
    }

    /// Whether one such ICMP error settles the port. A device that prohibits means it; one that found no way may
    /// find one for the next probe.
    pub(super) fn settles(self) -> bool {
        matches!(
            self,
            Self::PortUnreach
                | Self::PortRejected
                | Self::ProtoUnreach
                | Self::NetProhibited
                | Self::HostProhibited
                | Self::AdminProhibited
        )
    }

    /// ICMP type and code of an error about a TCP segment, RFC 792 and RFC 1812 section 5.2.7.1; `None` where they
    /// say nothing about the port (fragmentation needed, source quench, redirect, parameter problem).
    pub(super) fn of_icmp4(kind: u8, code: u8) -> Option<Self> {
        match (kind, code) {
            (3, 0 | 6 | 11) => Some(Self::NetUnreach),
            (3, 1 | 5 | 7 | 8 | 12) => Some(Self::HostUnreach),
            (3, 2) => Some(Self::ProtoUnreach),
            (3, 3) => Some(Self::PortUnreach),
            (3, 9) => Some(Self::NetProhibited),
            (3, 10) => Some(Self::HostProhibited),
            (3, 13..=15) => Some(Self::AdminProhibited),
            (11, _) => Some(Self::TimeExceeded),
            _ => None,
        }
    }

    /// ICMPv6 type and code, RFC 4443 section 3; `None` where they say nothing about the port.
    pub(super) fn of_icmp6(kind: u8, code: u8) -> Option<Self> {
        match (kind, code) {
            (1, 0) => Some(Self::NetUnreach),
            (1, 1 | 5 | 6) => Some(Self::AdminProhibited),
            (1, 4) => Some(Self::PortUnreach),
            (1, _) => Some(Self::HostUnreach),
            (3, _) => Some(Self::TimeExceeded),
            _ => None,
        }
    }
}

/// What is known of one port, in three bytes: a host may have 65,536 of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    /// 0 nothing, else a verdict's number and 1, with [`Cell::SETTLED`] when that is the last word.
    mark: u8,
    /// Probes sent.
    pub(super) attempts: u8,
    /// The longest wait for an earlier probe, in units of [`Cell::TICK`].
    waited: u8,
}

impl Cell {
    const SETTLED: u8 = 0x80;
    const TICK: Duration = Duration::from_millis(16);

    /// Whether nothing more is to be found out.
    pub(super) fn is_settled(self) -> bool {
        self.mark & Self::SETTLED != 0
    }

    /// The verdict, once it is the last word; a withdrawn port has none.
    pub(super) fn settled(self) -> Option<Verdict> {
        if self.is_settled() { self.verdict() } else { None }
    }

    /// What to say when nothing better comes: silence, unless an error gave a reason.
    pub(super) fn hint(self) -> Verdict {
        self.verdict().unwrap_or(Verdict::NoResponse)
    }

    fn verdict(self) -> Option<Verdict> {
        Verdict::ALL.get(usize::from(self.mark & !Self::SETTLED).checked_sub(1)?).copied()
    }

    /// Makes the verdict the last word.
    pub(super) fn settle(&mut self, verdict: Verdict) {
        self.mark = Self::SETTLED | (verdict as u8 + 1);
    }

    /// Settles it without a verdict: the port may not be probed any more.
    pub(super) fn withdraw(&mut self) {
        self.mark = Self::SETTLED;
    }

    /// Keeps the verdict in case nothing better comes.
    pub(super) fn suspect(&mut self, verdict: Verdict) {
        self.mark = verdict as u8 + 1;
    }

    /// Forgets what was found.
    pub(super) fn reopen(&mut self) {
        self.mark = 0;
    }

    /// Takes down how long a probe was waited for in vain.
    pub(super) fn waited(&mut self, wait: Duration) {
        let ticks = wait.as_millis() / Self::TICK.as_millis();
        self.waited = self.waited.max(u8::try_from(ticks).unwrap_or(u8::MAX));
    }

    /// Whether an answer with this round trip shows that an earlier probe was lost: one that was waited for long
    /// enough, and that no error spoke for.
    pub(super) fn shows_loss(self, rtt: Option<Duration>) -> bool {
        self.attempts > 1
            && self.mark == 0
            && rtt.is_some_and(|rtt| rtt < Self::TICK * u32::from(self.waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_verdicts() {
        for verdict in Verdict::ALL {
            let mut cell = Cell::default();
            assert_eq!((cell.settled(), cell.hint()), (None, Verdict::NoResponse));
            cell.suspect(verdict);
            assert_eq!((cell.settled(), cell.hint()), (None, verdict));
            cell.settle(verdict);
            assert_eq!(cell.settled(), Some(verdict));
        }
        let mut cell = Cell::default();
        cell.withdraw();
        assert!(cell.is_settled());
        assert_eq!(cell.settled(), None);
    }

    #[test]
    fn a_slow_answer_is_not_a_lost_one() {
        let ms = Duration::from_millis;
        let mut cell = Cell { attempts: 1, ..Cell::default() };
        assert!(!cell.shows_loss(Some(ms(1))), "the first probe was answered");
        cell.attempts = 2;
        cell.waited(ms(300));
        assert!(cell.shows_loss(Some(ms(50))));
        assert!(!cell.shows_loss(Some(ms(450))), "the first answer may just have come too late");
        assert!(!cell.shows_loss(None));
        cell.suspect(Verdict::HostUnreach);
        assert!(!cell.shows_loss(Some(ms(50))), "the first probe was answered by ICMP");
    }

    #[test]
    fn icmp_says_what_it_says() {
        assert_eq!(
            Verdict::of_icmp4(3, 13).map(|verdict| verdict.words(Probing::Syn)),
            Some((PortState::Filtered, Reason::AdminProhibited))
        );
        assert_eq!(
            Verdict::of_icmp4(3, 3).map(|verdict| verdict.words(Probing::Connect)),
            Some((PortState::Closed, Reason::PortUnreach))
        );
        assert_eq!(Verdict::of_icmp4(3, 4), None, "path MTU discovery");
        assert_eq!(
            Verdict::of_icmp6(1, 4).map(|verdict| verdict.words(Probing::Udp)),
            Some((PortState::Closed, Reason::PortUnreach))
        );
        assert_eq!(Verdict::of_icmp6(2, 0), None, "path MTU discovery");
    }
}

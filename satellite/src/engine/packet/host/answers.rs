//! What answers make of a host.

use super::{Host, PathView, Phase, TrackId};
use crate::engine::packet::track::Cell;
use crate::engine::verdict::{Offender, Verdict};
use portolan_common::observation::Protocol;
use std::time::{Duration, Instant};

/// What came back, checked to be the answer to a probe of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::packet) enum Answer {
    /// The handshake was answered. `attempt`: which probe of the port it answers, counted from 1 and of it the lowest
    /// four bits; `None` when that cannot be told.
    SynAck { port: u16, attempt: Option<u8>, window: u16, options: bool },
    /// The connection attempt was reset.
    Reset { port: u16, attempt: Option<u8> },
    /// A datagram from the port.
    Datagram { port: u16 },
    /// The host itself answered a ping; whether an echo request.
    Ping { echo: bool },
    /// An ICMP error about a probe of a port.
    Error { protocol: Protocol, port: u16, verdict: Verdict, offender: Offender },
    /// An ICMP error about a ping.
    PingError { verdict: Verdict, offender: Offender },
}

/// What an event changed beyond the host itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::engine::packet) struct Change {
    /// How many ports were settled.
    pub(in crate::engine::packet) settled: u32,
    /// Of those, open ones.
    pub(in crate::engine::packet) open: u32,
    /// A probe was answered: for the path's loss and rate.
    pub(in crate::engine::packet) arrived: Option<Arrived>,
    /// An outage is over.
    pub(in crate::engine::packet) recovered: bool,
    /// When probes had left that must have been lost, though nothing arrived.
    pub(in crate::engine::packet) lost: Vec<Instant>,
}

/// What an answer says about the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::packet) struct Arrived {
    /// How long it took.
    pub(in crate::engine::packet) rtt: Option<Duration>,
    /// How much longer than this host needs.
    pub(in crate::engine::packet) queued: Option<Duration>,
    /// When the probes had left that must have been lost.
    pub(in crate::engine::packet) lost: Lost,
}

impl Host {
    /// Takes an answer that arrived at `at`, with this time to live.
    pub(in crate::engine::packet) fn answered(
        &mut self,
        answer: Answer,
        ttl: u8,
        path: &PathView,
        at: Instant,
    ) -> Change {
        match answer {
            Answer::SynAck { port, attempt, window, options } => {
                let change = self.tcp_answered(port, attempt, Verdict::Open, path, at);
                let canary = self.is_canary(port);
                // Only what was settled by it is counted: repeated answers say nothing new.
                if change.settled > 0 || canary {
                    self.evidence.open(ttl, window, options, canary);
                }
                change
            }
            Answer::Reset { port, attempt } => {
                let change = self.tcp_answered(port, attempt, Verdict::Refused, path, at);
                if change.settled > 0 && !self.is_canary(port) {
                    self.evidence.reset(ttl);
                }
                change
            }
            Answer::Datagram { port } => self.datagram(port, at),
            Answer::Ping { echo } => {
                self.evidence.own(ttl);
                if matches!(self.phase, Phase::Discovering(_)) {
                    if echo {
                        self.gauge.answered_echo(at);
                    }
                    return self.found_up(None, path, at);
                }
                self.up = true;
                let rtt = if echo { self.gauge.answered_echo(at) } else { None };
                self.gauge_arrived(rtt, at)
            }
            Answer::Error { protocol, port, verdict, offender } => {
                if matches!(self.phase, Phase::Discovering(_)) {
                    return self.answered(Answer::PingError { verdict, offender }, ttl, path, at);
                }
                self.up |= offender == Offender::Target;
                // This host's own firewall speaks for nobody else.
                let verdict = match (verdict, offender) {
                    (Verdict::PortUnreach, Offender::Own) => Verdict::AdminProhibited,
                    (verdict, _) => verdict,
                };
                match protocol {
                    Protocol::Tcp => self.tcp_error(port, verdict),
                    Protocol::Udp => self.udp_error(port, verdict, offender, at),
                }
            }
            Answer::PingError { verdict, offender } => {
                if offender == Offender::Target {
                    return self.found_up(None, path, at);
                }
                self.ping_error = Some(verdict);
                Change::default()
            }
        }
    }

    /// A ping was answered.
    fn found_up(&mut self, attempt: Option<u8>, path: &PathView, at: Instant) -> Change {
        self.up = true;
        let Phase::Discovering(discovery) = self.phase else { return Change::default() };
        self.phase = Phase::Ready;
        let rtt = discovery.round_trip(at);
        let [wait, _] = self.waits(path);
        let (count, last) = discovery.lost(attempt, wait, at);
        let lost = Lost { count, last, apart: wait };
        self.loss.count(count > 0);
        self.pace.answered(None);
        lost.each(|sent| self.pace.lost(sent, at));
        if let Some(rtt) = rtt {
            self.rtt.sample(rtt);
        }
        Change { arrived: Some(Arrived { rtt, queued: None, lost }), ..Change::default() }
    }

    fn is_canary(&self, port: u16) -> bool {
        self.canaries.as_ref().is_some_and(|(ports, _)| ports.contains(&port))
    }

    fn tcp_answered(
        &mut self,
        port: u16,
        attempt: Option<u8>,
        verdict: Verdict,
        path: &PathView,
        at: Instant,
    ) -> Change {
        if matches!(self.phase, Phase::Discovering(_)) {
            return self.found_up(attempt, path, at);
        }
        let [wait, _] = self.waits(path);
        let (id, cell) = match self.list.tcp.binary_search(&port) {
            // Below 65,536.
            Ok(cell) => (TrackId::Tcp, cell as u32),
            Err(_) => {
                match self.canaries.as_ref().and_then(|(ports, _)| ports.iter().position(|p| *p == port)) {
                    Some(cell) => (TrackId::Canary, cell as u32),
                    None => return Change::default(),
                }
            }
        };
        let Some(track) = self.track(id) else { return Change::default() };
        let Some(state) = track.get(cell) else { return Change::default() };
        if state.is_settled() {
            return self.overturned(id, cell, port, verdict, at);
        }
        let sent = track.sent_at(state, at);
        track.settle(cell, verdict);
        self.gauge.heard_port(port);
        self.up = true;
        let Reading { rtt, lost } = read(state, attempt, sent, wait, at);
        let queued = rtt.map(|rtt| {
            self.rtt.sample(rtt);
            self.shortest.excess(rtt, at)
        });
        self.loss.count(lost.count > 0);
        self.pace.answered(queued);
        lost.each(|sent| self.pace.lost(sent, at));
        let arrived = Some(Arrived { rtt, queued, lost });
        if id == TrackId::Canary {
            return Change { arrived, ..Change::default() };
        }
        let open = verdict == Verdict::Open;
        if open {
            let micros = rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1));
            self.round_trips.push((Protocol::Tcp, port, micros));
        }
        Change { settled: 1, open: open.into(), arrived, ..Change::default() }
    }

    /// A port that has its last word answered once more: perhaps a gauge.
    fn gauged(&mut self, port: u16, at: Instant) -> Change {
        let rtt = self.gauge.answered_port(port, at);
        self.gauge_arrived(rtt, at)
    }

    fn gauge_arrived(&mut self, rtt: Option<Duration>, at: Instant) -> Change {
        let Some(rtt) = rtt else { return Change::default() };
        self.rtt.sample(rtt);
        let queued = Some(self.shortest.excess(rtt, at));
        self.loss.count(false);
        self.pace.answered(queued);
        let recovered = self.gauge.take_recovered();
        if recovered {
            self.pace.restart();
        }
        let arrived = Some(Arrived { rtt: Some(rtt), queued, lost: Lost::NONE });
        Change { arrived, recovered, ..Change::default() }
    }

    /// An answer to a port that has its last word: if that was silence, the answer came late, and it stands.
    fn overturned(&mut self, id: TrackId, cell: u32, port: u16, verdict: Verdict, at: Instant) -> Change {
        let overturned = self.track(id).is_some_and(|track| track.overturn(cell, verdict));
        if !overturned {
            return self.gauged(port, at);
        }
        self.up = true;
        if id == TrackId::Canary || verdict != Verdict::Open {
            return Change::default();
        }
        self.round_trips.push((Protocol::Tcp, port, 0));
        Change { open: 1, ..Change::default() }
    }

    /// An ICMP error decides its own port and no other: firewalls reject by port.
    fn tcp_error(&mut self, port: u16, verdict: Verdict) -> Change {
        let Ok(cell) = self.list.tcp.binary_search(&port) else { return Change::default() };
        let Some(track) = self.tcp.as_mut() else { return Change::default() };
        // Below 65,536.
        let cell = cell as u32;
        if verdict.settles() {
            return Change { settled: track.settle(cell, verdict).into(), ..Change::default() };
        }
        if let Some(state) = track.get_mut(cell).filter(|cell| !cell.is_settled()) {
            state.suspect(verdict);
        }
        Change::default()
    }
}

struct Reading {
    rtt: Option<Duration>,
    lost: Lost,
}

/// Probes of one port that were lost before one was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::packet) struct Lost {
    pub(in crate::engine::packet) count: u8,
    /// When the last of them had left.
    last: Option<Instant>,
    /// How long before that the one before it had.
    apart: Duration,
}

impl Lost {
    const NONE: Self = Self { count: 0, last: None, apart: Duration::ZERO };

    /// Says of each when it had left, the last first.
    pub(in crate::engine::packet) fn each(self, mut f: impl FnMut(Instant)) {
        let mut at = self.last;
        for _ in 0..self.count {
            let Some(sent) = at else { return };
            f(sent);
            at = sent.checked_sub(self.apart);
        }
    }
}

/// What an answer says about time and loss. Each probe of a port has a source port of its own, so that it is known
/// which one is answered (where Karn's algorithm would have to leave the round trip out), unless all of them had to
/// share one flow.
fn read(cell: Cell, attempt: Option<u8>, sent: Instant, wait: Duration, at: Instant) -> Reading {
    let since = at.saturating_duration_since(sent);
    match attempt {
        Some(attempt) => {
            // How many probes left after the one that was answered.
            let later = u32::from(cell.tries.wrapping_sub(attempt) & 15);
            // The one that was answered is the so many-th; beyond 15 it counts from 0 again.
            let before = attempt.wrapping_sub(1) & 15;
            let lost = Lost { count: before, last: sent.checked_sub(wait * (later + 1)), apart: wait };
            let rtt = match later {
                0 => Some(since),
                1 => Some(since + wait),
                _ => None,
            };
            Reading { rtt, lost }
        }
        None if cell.tries == 1 => Reading { rtt: Some(since), lost: Lost::NONE },
        // The answer to an earlier probe would have come long ago.
        None if since < wait / 2 => {
            let lost = Lost { count: cell.tries.wrapping_sub(1), last: sent.checked_sub(wait), apart: wait };
            Reading { rtt: None, lost }
        }
        None => Reading { rtt: None, lost: Lost::NONE },
    }
}

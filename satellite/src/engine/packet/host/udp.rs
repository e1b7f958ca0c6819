//! The UDP ports of a host: what silence is worth depends on how the host treats its ICMP errors.

use super::{Change, Host, Phase, conclude, wait_for};
use crate::engine::packet::track::{Cell, Track};
use crate::engine::udp::Pacing;
use crate::engine::verdict::{Offender, Verdict};
use portolan_common::observation::Protocol;
use std::time::{Duration, Instant};

/// A service takes longer to answer than a TCP stack.
const MIN_WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(700)];

/// Which silences count is the pacing's to say, so that they need no eras.
const ERA: u8 = 0;

/// See the module.
#[derive(Debug)]
pub(super) struct UdpPorts {
    pub(super) track: Track,
    pacing: Pacing,
    began: Instant,
}

impl UdpPorts {
    pub(super) fn new(len: usize, seed: u64, now: Instant) -> Self {
        Self { track: Track::new(len, seed, now), pacing: Pacing::new(), began: now }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// So long was nothing sent.
    pub(super) fn shift(&mut self, time: Duration) {
        self.began += time;
    }

    /// The port to probe now and the number of the probe, or when to look again.
    pub(super) fn next(&mut self, needed: u8, now: Instant, leaves: Instant) -> Result<(u32, u8), Instant> {
        let far = now + Duration::from_secs(3600);
        if !self.track.has_next() {
            return Err(far);
        }
        let at = self.pacing.next_at(now);
        if at > now {
            return Err(at);
        }
        let cell = self.track.next().ok_or(far)?;
        let wait = wait_for(&self.track, cell, ERA, needed);
        let attempt = self.track.sent(cell, ERA, wait, leaves);
        // The very time that an answer will be held against.
        let sent = self.track.get(cell).map_or(leaves, |state| self.track.sent_at(state, leaves));
        self.pacing.sent(sent);
        Ok((cell, attempt))
    }

    /// How many ports got their last word.
    pub(super) fn expire(
        &mut self,
        waits: [Duration; 2],
        needed: u8,
        out_of_time: bool,
        now: Instant,
    ) -> u32 {
        let mut settled = 0;
        while let Some((cell, wait)) = self.track.overdue(udp_waits(waits), now) {
            self.pacing.silent(now);
            let sent = self.track.get(cell).map_or(now, |state| self.track.sent_at(state, now));
            if self.pacing.proves_silence(sent) {
                settled += u32::from(conclude(&mut self.track, cell, wait, needed));
            } else {
                self.track.repeat(cell);
            }
        }
        if out_of_time && self.pacing.is_limited() {
            settled += self.track.settle_rest(|cell| match cell.hint() {
                Verdict::NoResponse => Verdict::IcmpRateLimited,
                hint => hint,
            });
        }
        settled
    }

    pub(super) fn next_deadline(&self, waits: [Duration; 2], now: Instant) -> Option<Instant> {
        self.track.next_deadline(udp_waits(waits), now)
    }
}

fn udp_waits(waits: [Duration; 2]) -> [Duration; 2] {
    [waits[0].max(MIN_WAITS[0]), waits[1].max(MIN_WAITS[1])]
}

impl Host {
    /// A datagram came from a port.
    pub(super) fn datagram(&mut self, port: u16, at: Instant) -> Change {
        let Some((udp, cell)) = self.udp_cell(port) else { return Change::default() };
        // What was never asked is no answer.
        let asked = |state: &Cell| !state.is_settled() && state.tries > 0;
        let Some(state) = udp.track.get(cell).filter(asked) else { return Change::default() };
        let sent = udp.track.sent_at(state, at);
        udp.pacing.answered(sent);
        let rtt = (state.tries == 1).then(|| at.saturating_duration_since(sent));
        udp.track.settle(cell, Verdict::Open);
        self.up = true;
        let micros = rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1));
        self.round_trips.push((Protocol::Udp, port, micros));
        Change { settled: 1, open: 1, ..Change::default() }
    }

    /// An ICMP error about a datagram.
    pub(super) fn udp_error(
        &mut self,
        port: u16,
        verdict: Verdict,
        offender: Offender,
        at: Instant,
    ) -> Change {
        let Some((udp, cell)) = self.udp_cell(port) else { return Change::default() };
        if udp.track.get(cell).is_none_or(|state| state.tries == 0) {
            return Change::default();
        }
        if verdict == Verdict::PortUnreach && offender == Offender::Target {
            let sent = udp.track.get(cell).map_or(at, |state| udp.track.sent_at(state, at));
            udp.pacing.unreachable(sent, at);
        }
        // Only the target itself knows that nothing listens there.
        let verdict = match (verdict, offender) {
            (Verdict::PortUnreach, Offender::Other) => Verdict::PortRejected,
            (verdict, _) => verdict,
        };
        if verdict.settles() {
            return Change { settled: udp.track.settle(cell, verdict).into(), ..Change::default() };
        }
        if let Some(state) = udp.track.get_mut(cell).filter(|cell| !cell.is_settled()) {
            state.suspect(verdict);
        }
        Change::default()
    }

    fn udp_cell(&mut self, port: u16) -> Option<(&mut UdpPorts, u32)> {
        if !matches!(self.phase, Phase::Sweeping) {
            return None;
        }
        let cell = self.list.udp.binary_search(&port).ok()?;
        // Below 65,536.
        Some((self.udp.as_mut()?, cell as u32))
    }
}

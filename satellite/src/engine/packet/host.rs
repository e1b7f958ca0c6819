//! One host in one sweep by packets: what to send it next, and what the answers make of it. Pure: sockets and clocks
//! are elsewhere.

mod answers;
mod record;
mod udp;

use self::udp::UdpPorts;
use super::discovery::{self, Discovery, Ping};
use super::gauge::Gauge;
use super::pace::{Bounds, HOST, Pace};
use super::suspicion::Evidence;
use super::track::{Cell, Track, Wait};
use crate::engine::port_list::PortList;
use crate::engine::rtt::{RttEstimator, ShortestRtt};
use crate::engine::schedule::Loss;
use crate::engine::verdict::Verdict;
use portolan_common::observation::Protocol;
use portolan_common::ports::PortSpec;
use portolan_common::scope::PermittedTarget;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use self::answers::{Answer, Change};

/// How long a probe is waited for before the next one, and the last one, while no round trip is known: a path through a
/// satellite in orbit is noticed by the last.
const UNKNOWN: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(700)];

/// How often ports that were called silent are probed again because the rate had to be lowered since.
const MAX_REOPENED: u8 = 4;

/// What a host must know of its path.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathView {
    /// Loss among the neighbours.
    pub(super) loss: Loss,
    /// The neighbours' retransmission timeout.
    pub(super) rto: Option<Duration>,
    /// The path's era.
    pub(super) era: u8,
}

/// Which of a host's lists of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrackId {
    /// TCP ports asked for.
    Tcp,
    /// UDP ports asked for.
    Udp,
    /// TCP ports nobody asked for, which tell whether something answers for everything.
    Canary,
}

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A probe of a port: the so many-th, counted from 1, wrapping.
    Port { track: TrackId, cell: u32, port: u16, attempt: u8 },
    /// The question whether the host is up; likewise.
    Ping { ping: Ping, attempt: u8 },
}

/// How far a host is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// The way to it is looked for.
    Routing,
    /// Whether it is up is looked for.
    Discovering(Discovery),
    /// It is to be swept as soon as there is room for its ports.
    Ready,
    /// Its ports are probed.
    Sweeping,
    /// Every port has its last word.
    Done,
}

/// How a host is to be swept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Look first whether it is up.
    pub(super) discover: bool,
    /// Packets a second to this host, at most.
    pub(super) max_rate: Option<u32>,
    /// How long to wait for the ICMP errors of a host that limits them.
    pub(super) udp_budget: Option<Duration>,
    /// Canaries only where an answer looks odd.
    pub(super) gentle: bool,
}

/// What to do next with a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this.
    Send(What),
    /// Nothing before then, or before an answer.
    Wait(Instant),
    /// Nobody is there.
    Down,
}

/// A host being swept.
#[derive(Debug)]
pub(super) struct Host {
    target: PermittedTarget,
    list: Arc<PortList>,
    /// Ports asked for that the scope refuses.
    refused: PortSpec,
    seed: u64,
    manner: Manner,
    pub(super) phase: Phase,
    tcp: Option<Track>,
    udp: Option<UdpPorts>,
    canaries: Option<(Vec<u16>, Track)>,
    rtt: RttEstimator,
    shortest: ShortestRtt,
    loss: Loss,
    pace: Pace,
    gauge: Gauge,
    up: bool,
    probed: bool,
    given_up: bool,
    reopened: u8,
    /// The error that pings met, if no answer.
    ping_error: Option<Verdict>,
    /// Its ports were never probed, and this is why.
    down: Option<Verdict>,
    evidence: Evidence,
    /// Round trips of open ports, in microseconds.
    round_trips: Vec<(Protocol, u16, u32)>,
}

impl Host {
    /// A host of which nothing is known yet; `list` is what the target permits.
    pub(super) fn new(
        target: PermittedTarget,
        list: Arc<PortList>,
        refused: PortSpec,
        seed: u64,
        manner: Manner,
        now: Instant,
    ) -> Self {
        let max = manner.max_rate.map_or(HOST.max, f64::from);
        Self {
            target,
            list,
            refused,
            seed,
            manner,
            phase: Phase::Routing,
            tcp: None,
            udp: None,
            canaries: None,
            rtt: RttEstimator::default(),
            shortest: ShortestRtt::default(),
            loss: Loss::default(),
            pace: Pace::new(Bounds { max, min: HOST.min.min(max), ..HOST }, now),
            gauge: Gauge::default(),
            up: false,
            probed: false,
            given_up: false,
            reopened: 0,
            ping_error: None,
            down: None,
            evidence: Evidence::default(),
            round_trips: Vec::new(),
        }
    }

    pub(super) fn target(&self) -> &PermittedTarget {
        &self.target
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// How many ports it takes room for while they are probed.
    pub(super) fn room(&self) -> usize {
        self.list.len()
    }

    /// How many ports have no last word yet.
    pub(super) fn unsettled(&self) -> u32 {
        match self.phase {
            Phase::Done => 0,
            // At most 131,072 ports.
            Phase::Routing | Phase::Discovering(_) | Phase::Ready => self.list.len() as u32,
            Phase::Sweeping => {
                self.tcp.as_ref().map_or(0, Track::unsettled)
                    + self.udp.as_ref().map_or(0, |udp| udp.track.unsettled())
            }
        }
    }

    /// The way to it is known; `answered` when the host itself showed it, on the satellite's own link. `pings` are the
    /// ports of [`discovery::ports`] that the scope permits.
    pub(super) fn routed(&mut self, answered: bool, pings: &PortSpec) {
        self.up |= answered;
        if matches!(self.phase, Phase::Routing) {
            self.phase = if self.manner.discover && !self.up {
                Phase::Discovering(Discovery::new(pings))
            } else {
                Phase::Ready
            };
        }
    }

    /// There is room for its ports.
    pub(super) fn begin(&mut self, now: Instant) {
        self.phase = Phase::Sweeping;
        if !self.list.tcp.is_empty() {
            self.tcp = Some(Track::new(self.list.tcp.len(), self.seed, now));
        }
        if !self.list.udp.is_empty() {
            self.udp = Some(UdpPorts::new(self.list.udp.len(), !self.seed, now));
        }
    }

    /// What to do next. What is to be sent counts as sent now, and leaves at `leaves`.
    pub(super) fn next(&mut self, path: &PathView, now: Instant, leaves: Instant) -> Step {
        if self.pace.allowance(now) == 0 {
            return Step::Wait(self.pace.ready_at(now));
        }
        let step = match &mut self.phase {
            Phase::Routing | Phase::Ready | Phase::Done => Step::Wait(now + Duration::from_secs(3600)),
            Phase::Discovering(_) => self.next_ping(path, now),
            Phase::Sweeping => self.next_port(path, now, leaves),
        };
        if matches!(step, Step::Send(_)) {
            self.pace.take(1);
        }
        step
    }

    fn next_ping(&mut self, path: &PathView, now: Instant) -> Step {
        let waits = self.waits(path);
        let era = path.era.wrapping_add(self.pace.era());
        loop {
            let Phase::Discovering(discovery) = &mut self.phase else { return Step::Wait(now) };
            match discovery.step(waits, era, now) {
                discovery::Step::Ping(ping, attempt) => return Step::Send(What::Ping { ping, attempt }),
                discovery::Step::Wait(at) => return Step::Wait(at),
                // The rate turned out to be too high meanwhile: that was no silence.
                discovery::Step::Down if discovery.era() != era && self.reopened < MAX_REOPENED => {
                    self.reopened += 1;
                    discovery.restart();
                }
                discovery::Step::Down => return Step::Down,
            }
        }
    }

    fn next_port(&mut self, path: &PathView, now: Instant, leaves: Instant) -> Step {
        let era = path.era.wrapping_add(self.pace.era());
        let needed = self.probes_needed(path);
        let waits = self.waits(path);
        let tcp_left = self.tcp.as_ref().is_some_and(|track| track.unsettled() > 0);
        if tcp_left
            && self.target.limits().careful.is_empty()
            && let Some((ping, attempt)) = self.gauge.next(now)
        {
            return Step::Send(What::Ping { ping, attempt });
        }
        let asked = self.tcp.as_mut().map(|track| (TrackId::Tcp, track, &*self.list.tcp));
        let canaries = self.canaries.as_mut().map(|(ports, track)| (TrackId::Canary, track, &**ports));
        for (id, track, ports) in asked.into_iter().chain(canaries) {
            if let Some(cell) = track.next() {
                let wait = wait_for(track, cell, era, needed);
                let attempt = track.sent(cell, era, wait, leaves);
                let port = ports.get(cell as usize).copied().unwrap_or_default();
                self.gauge.sent();
                return Step::Send(What::Port { track: id, cell, port, attempt });
            }
        }
        let mut at = now + Duration::from_secs(3600);
        if let Some(udp) = &mut self.udp {
            match udp.next(needed, now, leaves) {
                Ok((cell, attempt)) => {
                    let port = self.list.udp.get(cell as usize).copied().unwrap_or_default();
                    return Step::Send(What::Port { track: TrackId::Udp, cell, port, attempt });
                }
                Err(next) => at = at.min(next),
            }
        }
        Step::Wait(at.min(self.next_deadline(waits, now).unwrap_or(at)))
    }

    /// A probe did not leave after all.
    pub(super) fn unsent(&mut self, what: What) {
        match what {
            What::Ping { .. } => {
                if let Phase::Discovering(discovery) = &mut self.phase {
                    discovery.unsent();
                } else {
                    self.gauge.unsent();
                }
            }
            What::Port { track: TrackId::Udp, cell, .. } => {
                if let Some(udp) = &mut self.udp {
                    udp.track.unsent(cell);
                }
            }
            What::Port { track, cell, .. } => {
                if let Some(track) = self.track(track) {
                    track.unsent(cell);
                }
            }
        }
    }

    /// Does what is due: probes that waited in vain are to be sent again, or silence is believed.
    pub(super) fn expire(&mut self, path: &PathView, now: Instant) -> Change {
        let mut change = Change::default();
        let waits = self.waits(path);
        let needed = self.probes_needed(path);
        let is_out = self.gauge.is_out();
        for id in [TrackId::Tcp, TrackId::Canary] {
            let Some(track) = self.track(id) else { continue };
            let mut settled = 0;
            while let Some((cell, wait)) = track.overdue(waits, now) {
                if is_out {
                    track.repeat(cell);
                } else {
                    settled += u32::from(conclude(track, cell, wait, needed));
                }
            }
            if id == TrackId::Tcp {
                change.settled += settled;
            }
        }
        while let Some((sent, of_the_path)) = self.gauge.lost(waits[0], now) {
            self.loss.count(true);
            self.pace.lost(sent, now);
            if of_the_path {
                change.lost.push(sent);
            }
        }
        if self.gauge.is_shunned(now)
            && let Some(tcp) = &mut self.tcp
        {
            let left = tcp.settle_rest(Cell::hint);
            if left > 0 {
                self.evidence.shunned(left);
            }
            change.settled += left;
            // What was called silent before is no better known.
            self.reopened = MAX_REOPENED;
        }
        if let Some(udp) = &mut self.udp {
            let out_of_time = self.manner.udp_budget.is_some_and(|budget| udp.began() + budget <= now);
            change.settled += udp.expire(waits, needed, out_of_time, now);
        }
        change
    }

    /// When there is something to do though nothing is answered. To be asked after [`Host::expire`].
    pub(super) fn next_wake(&self, path: &PathView, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Sweeping => {
                let budget =
                    self.udp.as_ref().zip(self.manner.udp_budget).map(|(udp, budget)| udp.began() + budget);
                let budget = budget.filter(|at| *at > now);
                self.next_deadline(self.waits(path), now).into_iter().chain(budget).min()
            }
            _ => None,
        }
    }

    fn next_deadline(&self, waits: [Duration; 2], now: Instant) -> Option<Instant> {
        let tracks = self.tcp.iter().chain(self.canaries.iter().map(|(_, track)| track));
        let deadlines = tracks.filter_map(|track| track.next_deadline(waits, now));
        deadlines.chain(self.udp.as_ref().and_then(|udp| udp.next_deadline(waits, now))).min()
    }

    /// Whether every port has its last word, and what is to be looked at once more before that is believed.
    pub(super) fn review(&mut self, path: &PathView) -> Review {
        if !matches!(self.phase, Phase::Sweeping) || self.unsettled() > 0 {
            return Review::Unfinished;
        }
        let needed = self.probes_needed(path);
        let era = path.era.wrapping_add(self.pace.era());
        if let Some(tcp) = self.tcp.as_mut().filter(|_| self.reopened < MAX_REOPENED) {
            // Too few probes for the loss that was seen since, or sent at a rate that turned out to be too high.
            let reopened = tcp.reopen(|cell| {
                cell.settled() == Some(Verdict::NoResponse) && (cell.silent < needed || cell.era != era)
            });
            if reopened > 0 {
                self.reopened += 1;
                return Review::Reopened(reopened);
            }
        }
        match &self.canaries {
            Some((_, track)) if track.unsettled() > 0 => return Review::Unfinished,
            Some(_) => {}
            None => {
                let wanted =
                    self.evidence.wants_canaries() && (!self.manner.gentle || self.evidence.is_odd());
                if wanted && self.target.limits().careful.is_empty() {
                    return Review::WantsCanaries;
                }
            }
        }
        self.phase = Phase::Done;
        Review::Finished
    }

    /// Probes these ports too, which nobody asked for; none: does without.
    pub(super) fn watch(&mut self, canaries: Vec<u16>, now: Instant) {
        self.evidence.canaries(canaries.len());
        let track = Track::new(canaries.len(), self.seed, now);
        self.canaries = Some((canaries, track));
    }

    /// The sweep stood still for so long: that is no time spent on UDP.
    pub(super) fn stood_still(&mut self, time: Duration) {
        if let Some(udp) = &mut self.udp {
            udp.shift(time);
        }
    }

    /// What to say of a probe's port when nothing better comes.
    pub(super) fn suspect(&mut self, what: What, verdict: Verdict) {
        if let What::Port { track, cell, .. } = what
            && let Some(state) = self.track(track).and_then(|track| track.get_mut(cell))
            && !state.is_settled()
        {
            state.suspect(verdict);
        }
    }

    /// How many ports wait for an answer.
    pub(super) fn outstanding(&self) -> u32 {
        let tracks = self.tcp.iter().chain(self.canaries.iter().map(|(_, track)| track));
        tracks.chain(self.udp.as_ref().map(|udp| &udp.track)).map(Track::outstanding).sum()
    }

    /// Whether a probe of it ever left.
    pub(super) fn was_probed(&self) -> bool {
        self.probed
    }

    /// Its end does not come: nothing of it is told.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
        self.phase = Phase::Done;
    }

    /// A probe has left, at this very time.
    pub(super) fn left(&mut self, what: What, at: Instant) {
        self.probed = true;
        if let What::Port { track, cell, .. } = what
            && track != TrackId::Udp
            && let Some(track) = self.track(track)
        {
            track.left(cell, at);
        }
    }

    /// Whether it took room for its ports.
    pub(super) fn holds_room(&self) -> bool {
        self.tcp.is_some() || self.udp.is_some()
    }

    /// Whether a port is among those asked for.
    pub(super) fn asks_for(&self, port: u16) -> bool {
        self.list.tcp.binary_search(&port).is_ok()
    }

    /// Nobody is there, or no way: every port without a last word gets this one.
    pub(super) fn close(&mut self, verdict: Verdict) -> u32 {
        let settled = self.unsettled();
        match self.phase {
            Phase::Sweeping => {
                for track in self.tcp.iter_mut().chain(self.udp.as_mut().map(|udp| &mut udp.track)) {
                    track.settle_rest(|_| verdict);
                }
            }
            Phase::Done => {}
            _ => self.down = Some(self.ping_error.unwrap_or(verdict)),
        }
        self.phase = Phase::Done;
        settled
    }

    fn track(&mut self, id: TrackId) -> Option<&mut Track> {
        match id {
            TrackId::Tcp => self.tcp.as_mut(),
            TrackId::Udp => self.udp.as_mut().map(|udp| &mut udp.track),
            TrackId::Canary => self.canaries.as_mut().map(|(_, track)| track),
        }
    }

    fn probes_needed(&self, path: &PathView) -> u8 {
        self.loss.probes_needed().max(path.loss.probes_needed())
    }

    /// How long probes are waited for: on the host's known round trip once the retransmission timeout, and twice for the
    /// last. A host that never answered gets the long waits.
    fn waits(&self, path: &PathView) -> [Duration; 2] {
        match (self.rtt.rto(), path.rto) {
            (Some(rto), _) => [rto, rto * 2],
            // It may be slower than its neighbours.
            (None, Some(rto)) => [rto.max(UNKNOWN[0]), (rto * 2).max(UNKNOWN[1])],
            (None, None) => UNKNOWN,
        }
    }
}

/// What became of a host whose ports all have a last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Review {
    /// They have not.
    Unfinished,
    /// So many are looked at again.
    Reopened(u32),
    /// It may be that something else answers for it.
    WantsCanaries,
    /// That is all.
    Finished,
}

/// How long the next probe of a port is to be waited for: the last that silence takes longer.
fn wait_for(track: &Track, cell: u32, era: u8, needed: u8) -> Wait {
    let silent = track.get(cell).map_or(0, |cell| if cell.era == era { cell.silent } else { 0 });
    if silent + 1 < needed { Wait::Again } else { Wait::Last }
}

/// A probe was waited for in vain: `true` when that is the port's last word.
fn conclude(track: &mut Track, cell: u32, wait: Wait, needed: u8) -> bool {
    let Some(state) = track.get_mut(cell) else { return false };
    state.silent = state.silent.saturating_add(1);
    let hint = state.hint();
    if state.silent >= needed && wait == Wait::Last {
        track.settle(cell, hint)
    } else {
        track.repeat(cell);
        false
    }
}

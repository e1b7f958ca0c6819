//! One host in one sweep: which of its ports to probe next, and what the answers make of them. Pure: sockets and
//! clocks are elsewhere.

use super::permutation::Permutation;
use super::rtt::RttEstimator;
use super::schedule::{self, Loss};
use super::verdict::{Answer, Cell, Verdict};
use super::window::{HOST, Window};
use jiff::Timestamp;
use portolan_common::observation::{HostObservation, PortDetail, Protocol, StateRun};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_common::scope::PermittedTarget;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many probes must find no way to a host before the rest of its ports are believed to be as unreachable.
const NO_WAY: u8 = 4;

/// Probes in flight before the first answer or timeout. The link layer looks for the host meanwhile and keeps few
/// packets back (on Linux some 90), routers likewise: a burst would be lost and taken for loss.
const FIRST_CONTACT: u32 = 10;

/// A round trip for a host that never answered, where only the order of magnitude matters.
const ASSUMED_ROUND_TRIP: Duration = Duration::from_millis(300);

/// How often a device sends ICMP errors that limits them: Linux gives one peer a burst of six, then one a second
/// (icmp_ratelimit). A little more, so that each probe finds a token.
const ICMP_PACE: Duration = Duration::from_millis(1100);

/// How many probes at that pace in vain end it, and how many end it anyway.
const ICMP_MISSES: u8 = 3;
const ICMP_PROBES: u8 = 20;

/// Marks a port that had its patient probe.
const TRIED_PATIENTLY: u8 = u8::MAX;

/// Whether a port is called silent and had no patient probe yet.
fn is_silent(cell: &Cell) -> bool {
    cell.settled() == Some(Verdict::NoResponse) && cell.attempts < TRIED_PATIENTLY
}

/// Silent ports of a host that answers others with ICMP port unreachable may only be waiting for the device's limit
/// on ICMP errors: they are probed again one by one, at a pace that the limit allows, as long as that helps.
#[derive(Clone, Copy, Debug, Default)]
struct Patience {
    /// Whether it is the time for it.
    on: bool,
    /// How far into the order.
    place: u64,
    probes: u8,
    misses: u8,
}

/// A list of TCP ports that hosts share.
#[derive(Debug)]
pub(super) struct PortList {
    /// The same as a set.
    pub(super) spec: PortSpec,
    ports: Box<[u16]>,
}

impl PortList {
    pub(super) fn new(spec: PortSpec) -> Self {
        Self { ports: spec.tcp.iter().collect(), spec }
    }

    pub(super) fn len(&self) -> usize {
        self.ports.len()
    }
}

/// What an event changed beyond the host itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// How many ports were settled.
    pub(super) settled: u32,
    /// Of those, open ones.
    pub(super) open: u32,
    /// Something answered; whether only after earlier probes were lost.
    pub(super) answered: Option<bool>,
    /// A port was settled by silence.
    pub(super) silent: bool,
}

/// A host being swept.
#[derive(Debug)]
pub(super) struct HostSweep {
    target: PermittedTarget,
    list: Arc<PortList>,
    /// Ports asked for that the scope refuses.
    refused: PortSpec,
    order: Permutation,
    /// How far into the order every port was probed once.
    fresh: u64,
    /// Ports to probe again.
    again: VecDeque<u16>,
    cells: Box<[Cell]>,
    unsettled: u32,
    in_flight: u32,
    rtt: RttEstimator,
    window: Window,
    loss: Loss,
    no_way: u8,
    up: bool,
    /// Whether an answer or a timeout came.
    met: bool,
    /// Whether a port was called closed by ICMP.
    closed_by_icmp: bool,
    patience: Patience,
    /// Open ports that a second connection from another port has yet to confirm: (cell, first port, round trip).
    doubts: Vec<(u16, u16, Option<Duration>)>,
    /// Round trips of open ports, by cell.
    round_trips: Vec<(u16, Option<Duration>)>,
}

impl HostSweep {
    /// A host of which nothing is known yet; `list` is what the target permits.
    pub(super) fn new(target: PermittedTarget, list: Arc<PortList>, refused: PortSpec, seed: u64) -> Self {
        let len = list.len();
        Self {
            target,
            refused,
            order: Permutation::new(len as u64, seed),
            fresh: 0,
            again: VecDeque::new(),
            cells: vec![Cell::default(); len].into(),
            // At most 65,536 ports.
            unsettled: len as u32,
            in_flight: 0,
            rtt: RttEstimator::default(),
            window: Window::new(HOST),
            loss: Loss::default(),
            no_way: 0,
            up: false,
            met: false,
            closed_by_icmp: false,
            patience: Patience::default(),
            doubts: Vec::new(),
            round_trips: Vec::new(),
            list,
        }
    }

    pub(super) fn target(&self) -> &PermittedTarget {
        &self.target
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// How many ports have no last word yet.
    pub(super) fn unsettled(&self) -> u32 {
        self.unsettled
    }

    /// Whether every port has its last word and no probe is out.
    pub(super) fn is_finished(&self) -> bool {
        self.unsettled == 0 && self.in_flight == 0
    }

    /// The cell to probe next, if the window has room and there is one.
    pub(super) fn next(&mut self) -> Option<u16> {
        let limit = match (self.patience.on, self.met) {
            (true, _) => 1,
            (false, false) => FIRST_CONTACT,
            (false, true) => self.window.limit(),
        };
        if self.in_flight >= limit {
            return None;
        }
        while let Some(cell) = self.again.pop_front() {
            if self.is_unsettled(cell) {
                return Some(cell);
            }
        }
        while self.fresh < self.cells.len() as u64 {
            // Below 65,536.
            let cell = self.order.at(self.fresh) as u16;
            self.fresh += 1;
            if self.is_unsettled(cell) {
                return Some(cell);
            }
        }
        None
    }

    /// Gives a cell back that was not probed after all.
    pub(super) fn put_back(&mut self, cell: u16) {
        self.again.push_front(cell);
    }

    /// The port of a cell.
    pub(super) fn port(&self, cell: u16) -> u16 {
        self.list.ports.get(usize::from(cell)).copied().unwrap_or(0)
    }

    /// Takes down a probe; how long to wait for its answer.
    pub(super) fn sent(&mut self, cell: u16) -> Duration {
        self.in_flight += 1;
        let attempt = self.cell(cell).map_or(1, |cell| {
            cell.attempts = cell.attempts.saturating_add(1);
            cell.attempts
        });
        if self.patience.on { ICMP_PACE } else { schedule::timeout(self.rtt.rto(), attempt) }
    }

    /// Takes a probe back that did not leave this host.
    pub(super) fn unsent(&mut self, cell: u16) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(cell) = self.cell(cell) {
            cell.attempts = cell.attempts.saturating_sub(1);
        }
        self.put_back(cell);
    }

    /// Whether the probe that was answered so need not be waited for any longer.
    pub(super) fn ends_the_wait(&self, answer: &Answer) -> bool {
        match answer {
            // The pace is kept by waiting all the same.
            _ if self.patience.on => false,
            Answer::Open { .. } | Answer::Refused { .. } | Answer::Itself => true,
            Answer::Icmp { verdict, .. } => verdict.settles(),
            Answer::NoWay(_) | Answer::Forbidden => false,
        }
    }

    /// A probe was answered. Its flight ends with this if [`HostSweep::ends_the_wait`] says so; else
    /// [`HostSweep::timed_out`] follows in its time.
    pub(super) fn answered(&mut self, cell: u16, answer: Answer, now: Instant) -> Change {
        self.met = true;
        if self.ends_the_wait(&answer) {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        if !self.is_unsettled(cell) {
            return Change::default();
        }
        match answer {
            Answer::Open { rtt, doubt } => {
                let late = self.measured(cell, rtt, now);
                let earlier = self.doubts.iter().position(|(doubted, ..)| *doubted == cell);
                match (doubt, earlier.map(|i| self.doubts[i])) {
                    (Some(port), None) => {
                        self.doubts.push((cell, port, rtt));
                        self.ask_again(cell);
                        Change { answered: Some(late), ..Change::default() }
                    }
                    // The same port twice proves no more than once.
                    (Some(port), Some((_, first, _))) if port == first => {
                        self.ask_again(cell);
                        Change { answered: Some(late), ..Change::default() }
                    }
                    (_, earlier) => {
                        self.round_trips.push((cell, earlier.map_or(rtt, |(.., first)| first)));
                        self.settle(cell, Verdict::Open, Some(late))
                    }
                }
            }
            Answer::Refused { rtt } => {
                let late = self.measured(cell, rtt, now);
                self.settle(cell, Verdict::Refused, Some(late))
            }
            Answer::Icmp { verdict, from_target } => {
                self.up |= from_target || verdict == Verdict::PortUnreach;
                self.closed_by_icmp |= verdict == Verdict::PortUnreach;
                if verdict.settles() {
                    self.settle(cell, verdict, Some(false))
                } else {
                    self.suspect(cell, verdict);
                    Change::default()
                }
            }
            Answer::NoWay(verdict) => {
                self.suspect(cell, verdict);
                self.no_way = self.no_way.saturating_add(1);
                if self.no_way >= NO_WAY && !self.up { self.settle_rest(verdict) } else { Change::default() }
            }
            Answer::Forbidden => {
                self.suspect(cell, Verdict::AdminProhibited);
                Change::default()
            }
            Answer::Itself => {
                if let Some(cell) = self.cell(cell) {
                    cell.attempts = cell.attempts.saturating_sub(1);
                }
                self.put_back(cell);
                Change::default()
            }
        }
    }

    /// The wait for a probe is over. `path` is the loss seen among the host's neighbours.
    pub(super) fn timed_out(&mut self, cell: u16, waited: Duration, path: Loss) -> Change {
        self.met = true;
        self.in_flight = self.in_flight.saturating_sub(1);
        let needed = self.probes_needed(path);
        let Some(state) = self.cell(cell).filter(|state| !state.is_settled()) else {
            self.patience.misses = 0;
            return Change::default();
        };
        state.waited(waited);
        if state.attempts < needed {
            self.again.push_back(cell);
            return Change::default();
        }
        let hint = state.hint();
        self.patience.misses = self.patience.misses.saturating_add(1);
        if let Some(i) = self.doubts.iter().position(|(doubted, ..)| *doubted == cell) {
            // Open once and silent since: two of our own sockets that met would have been reset the second time, so
            // this is a listener whose queue is full.
            let rtt = self.doubts[i].2;
            self.round_trips.push((cell, rtt));
            return self.settle(cell, Verdict::Open, None);
        }
        Change { silent: hint == Verdict::NoResponse, ..self.settle(cell, hint, None) }
    }

    /// Everything is settled: reopens what should be looked at again before it is believed. How many ports.
    pub(super) fn reopen(&mut self, path: Loss) -> u32 {
        let reopened = match self.patience.on {
            false => self.reopen_doubtful(path),
            true => 0,
        };
        let reopened = if reopened == 0 { self.reopen_patiently() } else { reopened };
        self.unsettled += reopened;
        reopened
    }

    /// Ports that were called silent after fewer probes than the loss seen since then asks for.
    fn reopen_doubtful(&mut self, path: Loss) -> u32 {
        let needed = self.probes_needed(path);
        let mut reopened = 0;
        for (i, cell) in self.cells.iter_mut().enumerate() {
            if cell.settled() == Some(Verdict::NoResponse) && cell.attempts < needed {
                cell.reopen();
                // Below 65,536.
                self.again.push_back(i as u16);
                reopened += 1;
            }
        }
        reopened
    }

    /// One more of the ports whose silence may come of a limit on ICMP errors.
    fn reopen_patiently(&mut self) -> u32 {
        if !self.patience.on {
            self.patience = Patience { on: self.closed_by_icmp, ..Patience::default() };
        }
        if !self.patience.on || self.patience.misses >= ICMP_MISSES || self.patience.probes >= ICMP_PROBES {
            return 0;
        }
        let Some(cell) = self.next_to_an_icmp_closed().or_else(|| self.next_silent()) else { return 0 };
        self.patience.probes += 1;
        if let Some(state) = self.cell(cell) {
            state.reopen();
            state.attempts = TRIED_PATIENTLY;
        }
        self.again.push_back(cell);
        1
    }

    /// Rules that reject cover ranges more often than single ports.
    fn next_to_an_icmp_closed(&self) -> Option<u16> {
        let closed = |cell: &Cell| cell.settled() == Some(Verdict::PortUnreach);
        let pairs = self.cells.windows(2).enumerate();
        let found = pairs.filter_map(|(i, pair)| match pair {
            [a, b] if closed(a) && is_silent(b) => Some(i + 1),
            [a, b] if is_silent(a) && closed(b) => Some(i),
            _ => None,
        });
        // Below 65,536.
        found.map(|i| i as u16).next()
    }

    fn next_silent(&mut self) -> Option<u16> {
        while self.patience.place < self.cells.len() as u64 {
            // Below 65,536.
            let cell = self.order.at(self.patience.place) as u16;
            self.patience.place += 1;
            if self.cells.get(usize::from(cell)).is_some_and(is_silent) {
                return Some(cell);
            }
        }
        None
    }

    /// The scope changed: what `target` does not permit any more and has no last word yet is refused. How many ports
    /// that are.
    pub(super) fn narrow(&mut self, target: PermittedTarget) -> u32 {
        let lost = self.withdraw(|port| !target.ports().tcp.contains(port));
        self.target = target;
        lost
    }

    /// The scope changed and permits nothing of this host any more. How many ports are refused by that.
    pub(super) fn close(&mut self) -> u32 {
        self.withdraw(|_| true)
    }

    /// Takes a probe out of flight whose port has its last word or was withdrawn; `false` leaves it.
    pub(super) fn recall(&mut self, cell: u16) -> bool {
        let settled = !self.is_unsettled(cell);
        if settled {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        settled
    }

    /// What was seen. `None` when nothing was settled before the scope refused the host.
    pub(super) fn observation(&self, target: &str, observed_at: Timestamp) -> Option<HostObservation> {
        let mut runs = Vec::new();
        for verdict in Verdict::ALL {
            let ports = self.ports_where(|cell| cell.settled() == Some(verdict));
            if !ports.is_empty() {
                let (state, reason) = verdict.words();
                runs.push(StateRun { protocol: Protocol::Tcp, state, reason, ports });
            }
        }
        if runs.is_empty() {
            return None;
        }
        let mut details: Vec<PortDetail> = self
            .round_trips
            .iter()
            .map(|(cell, rtt)| PortDetail {
                protocol: Protocol::Tcp,
                port: self.port(*cell),
                // 0 means not measured.
                rtt_us: rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1)),
            })
            .collect();
        details.sort_unstable_by_key(|detail| detail.port);
        Some(HostObservation {
            target: target.to_owned(),
            address: self.target.address(),
            up: self.up,
            observed_at,
            runs,
            details,
            unscanned: self.refused.clone(),
        })
    }

    /// The ports that have a verdict: all that were permitted, unless the scope changed meanwhile.
    pub(super) fn covered(&self) -> PortSpec {
        PortSpec { tcp: self.ports_where(|cell| cell.settled().is_some()), ..PortSpec::default() }
    }

    // --- private ---

    fn cell(&mut self, cell: u16) -> Option<&mut Cell> {
        self.cells.get_mut(usize::from(cell))
    }

    fn is_unsettled(&self, cell: u16) -> bool {
        self.cells.get(usize::from(cell)).is_some_and(|cell| !cell.is_settled())
    }

    fn probes_needed(&self, path: Loss) -> u8 {
        self.loss.probes_needed().max(path.probes_needed())
    }

    /// The target answered: whether only after earlier probes were lost.
    fn measured(&mut self, cell: u16, rtt: Option<Duration>, now: Instant) -> bool {
        self.up = true;
        self.no_way = 0;
        let late = self.cells.get(usize::from(cell)).is_some_and(|cell| cell.shows_loss(rtt));
        if let Some(rtt) = rtt {
            self.rtt.sample(rtt);
        }
        self.loss.count(late);
        self.window.answered(late, now, self.round_trip());
        late
    }

    /// How long a round of answers is.
    pub(super) fn round_trip(&self) -> Duration {
        self.rtt.rto().unwrap_or(ASSUMED_ROUND_TRIP)
    }

    fn ask_again(&mut self, cell: u16) {
        if let Some(state) = self.cell(cell) {
            *state = Cell::default();
        }
        self.again.push_back(cell);
    }

    fn suspect(&mut self, cell: u16, verdict: Verdict) {
        if let Some(cell) = self.cell(cell) {
            cell.suspect(verdict);
        }
    }

    fn settle(&mut self, cell: u16, verdict: Verdict, answered: Option<bool>) -> Change {
        self.doubts.retain(|(doubted, ..)| *doubted != cell);
        if let Some(cell) = self.cell(cell) {
            cell.settle(verdict);
            self.unsettled = self.unsettled.saturating_sub(1);
        }
        if verdict == Verdict::NoResponse {
            self.window.silent();
        }
        Change { settled: 1, open: (verdict == Verdict::Open).into(), answered, silent: false }
    }

    fn settle_rest(&mut self, verdict: Verdict) -> Change {
        for cell in self.cells.iter_mut().filter(|cell| !cell.is_settled()) {
            cell.settle(verdict);
        }
        Change { settled: std::mem::take(&mut self.unsettled), ..Change::default() }
    }

    fn withdraw(&mut self, forbidden: impl Fn(u16) -> bool) -> u32 {
        let mut lost = Vec::new();
        for (cell, port) in self.cells.iter_mut().zip(self.list.ports.iter()) {
            if !cell.is_settled() && forbidden(*port) {
                cell.withdraw();
                lost.push(*port);
            }
        }
        // At most 65,536 ports.
        let count = lost.len() as u32;
        self.unsettled = self.unsettled.saturating_sub(count);
        self.refused.tcp = self.refused.tcp.union(&lost.into_iter().collect());
        count
    }

    fn ports_where(&self, wanted: impl Fn(&Cell) -> bool) -> PortSet {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        let wanted = self.cells.iter().zip(self.list.ports.iter()).filter(|(cell, _)| wanted(cell));
        for (_, port) in wanted {
            match ranges.last_mut() {
                Some(range) if range.end().checked_add(1) == Some(*port) => *range = *range.start()..=*port,
                _ => ranges.push(*port..=*port),
            }
        }
        ranges.into_iter().collect()
    }
}

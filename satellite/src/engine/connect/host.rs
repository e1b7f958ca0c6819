//! One host in one sweep: which of its ports to probe next, and what the answers make of them. Pure: sockets and
//! clocks are elsewhere.

mod record;
mod reopen;

use self::reopen::Patience;
use super::window::{HOST, Window};
use crate::engine::permutation::Permutation;
use crate::engine::port_list::PortList;
use crate::engine::rtt::RttEstimator;
use crate::engine::schedule::{self, Loss};
use crate::engine::verdict::{Answer, Cell, Offender, Verdict};
use portolan_common::ports::PortSpec;
use portolan_common::scope::PermittedTarget;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How many probes must find no neighbour before the rest of the host's ports are believed to be as unreachable.
const NO_NEIGHBOUR: u8 = 4;

/// Probes in flight before the first answer or timeout. The link layer looks for the host meanwhile and keeps few
/// packets back (on Linux some 90), routers likewise: a burst would be lost and taken for loss.
const FIRST_CONTACT: u32 = 10;

/// What an event changed beyond the host itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// How many ports were settled.
    pub(super) settled: u32,
    /// Of those, open ones.
    pub(super) open: u32,
    /// Something answered; whether only after earlier probes were lost.
    pub(super) answered: Option<bool>,
    /// The port's other probes need not be waited for any more: it alone was settled, or is asked anew.
    pub(super) moot: bool,
}

/// How a probe is waited for whose answer is overdue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Not any more.
    Over,
    /// As long as its socket can be spared: the port is probed again.
    Old,
    /// Until so long after it was sent; then the port has its last word. `silent` says what that is to be.
    Last { wait: Duration, silent: bool },
}

/// A host being swept.
#[derive(Debug)]
pub(in crate::engine) struct HostSweep {
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
    no_neighbour: u8,
    /// Whether this host's own firewall rejected probes.
    rejected_here: bool,
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
        let len = list.tcp.len();
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
            no_neighbour: 0,
            rejected_here: false,
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

    /// Whether a probe was answered, or waited for in vain: it had left.
    pub(super) fn is_met(&self) -> bool {
        self.met
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

    /// Whether cells are left that have not had their turn.
    pub(super) fn has_more(&self) -> bool {
        !self.again.is_empty() || self.fresh < self.cells.len() as u64
    }

    /// Gives a cell back that was not probed after all.
    pub(super) fn put_back(&mut self, cell: u16) {
        self.again.push_front(cell);
    }

    /// The port of a cell.
    pub(super) fn port(&self, cell: u16) -> u16 {
        self.list.tcp.get(usize::from(cell)).copied().unwrap_or(0)
    }

    /// Takes down a probe; how long to wait for its answer.
    pub(super) fn sent(&mut self, cell: u16) -> Duration {
        self.in_flight += 1;
        let attempt = self.cell(cell).map_or(1, |cell| {
            cell.attempts = cell.attempts.saturating_add(1);
            cell.attempts
        });
        if self.patience.on { reopen::ICMP_PACE } else { schedule::timeout(self.rtt.rto(), attempt) }
    }

    /// Takes a probe back that did not leave this host.
    pub(super) fn unsent(&mut self, cell: u16) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(cell) = self.cell(cell) {
            cell.attempts = cell.attempts.saturating_sub(1);
        }
        self.put_back(cell);
    }

    /// A probe is given up before its wait is over: it does not count, and the port is probed again.
    pub(super) fn forgo(&mut self, cell: u16) {
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
            Answer::NoNeighbour | Answer::Forbidden => false,
        }
    }

    /// A fresh probe need not be waited for any longer.
    pub(super) fn landed(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A probe was answered, however late. Unless [`HostSweep::ends_the_wait`] says that a fresh one is to be
    /// [`HostSweep::landed`], [`HostSweep::timed_out`] follows in its time.
    pub(super) fn answered(&mut self, cell: u16, answer: Answer) -> Change {
        self.met = true;
        if !self.is_unsettled(cell) {
            return Change::default();
        }
        match answer {
            Answer::Open { rtt, doubt } => {
                let late = self.measured(cell, rtt);
                let earlier = self.doubts.iter().position(|(doubted, ..)| *doubted == cell);
                match (doubt, earlier.map(|i| self.doubts[i])) {
                    (Some(port), None) => {
                        self.doubts.push((cell, port, rtt));
                        self.ask_again(cell);
                        Change { answered: Some(late), moot: true, ..Change::default() }
                    }
                    // The same port twice proves no more than once.
                    (Some(port), Some((_, first, _))) if port == first => {
                        self.ask_again(cell);
                        Change { answered: Some(late), moot: true, ..Change::default() }
                    }
                    (_, earlier) => {
                        self.round_trips.push((cell, earlier.map_or(rtt, |(.., first)| first)));
                        self.settle(cell, Verdict::Open, Some(late))
                    }
                }
            }
            Answer::Refused { rtt } => {
                let late = self.measured(cell, rtt);
                self.settle(cell, Verdict::Refused, Some(late))
            }
            Answer::Icmp { verdict, offender } => {
                self.up |= offender == Offender::Target;
                self.rejected_here |= offender == Offender::Own;
                let verdict = match (verdict, offender) {
                    (Verdict::PortUnreach, Offender::Own) => Verdict::AdminProhibited,
                    (verdict, _) => verdict,
                };
                self.closed_by_icmp |= verdict == Verdict::PortUnreach;
                if verdict.settles() {
                    self.settle(cell, verdict, Some(false))
                } else {
                    self.suspect(cell, verdict);
                    Change::default()
                }
            }
            Answer::NoNeighbour => {
                self.suspect(cell, Verdict::HostUnreach);
                self.no_neighbour = self.no_neighbour.saturating_add(1);
                // A firewall of this host that rejects only some ports looks the same, where a limit on its ICMP
                // errors made it late.
                if self.no_neighbour >= NO_NEIGHBOUR && !self.up && !self.rejected_here {
                    self.settle_rest(Verdict::HostUnreach)
                } else {
                    Change::default()
                }
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

    /// The answer to a fresh probe is overdue. `path` is the loss seen among the host's neighbours.
    pub(super) fn timed_out(&mut self, cell: u16, waited: Duration, path: Loss) -> Overdue {
        self.met = true;
        self.landed();
        let needed = self.probes_needed(path);
        let Some(state) = self.cell(cell).filter(|state| !state.is_settled()) else {
            self.patience.misses = 0;
            return Overdue::Over;
        };
        state.waited(waited);
        if state.attempts < needed {
            self.again.push_back(cell);
            return Overdue::Old;
        }
        let silent = state.hint() == Verdict::NoResponse;
        if silent {
            self.window.silent();
        }
        let wait = if self.patience.on { waited } else { schedule::last_wait(waited, self.up) };
        Overdue::Last { wait, silent }
    }

    /// The wait for the last probe of a port is over.
    pub(super) fn conclude(&mut self, cell: u16, path: Loss) -> Change {
        let needed = self.probes_needed(path);
        let Some(state) = self.cell(cell).filter(|state| !state.is_settled()) else {
            return Change::default();
        };
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
        self.settle(cell, hint, None)
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
    fn measured(&mut self, cell: u16, rtt: Option<Duration>) -> bool {
        self.up = true;
        self.no_neighbour = 0;
        let late = self.cells.get(usize::from(cell)).is_some_and(|cell| cell.shows_loss(rtt));
        if let Some(rtt) = rtt {
            self.rtt.sample(rtt);
        }
        self.loss.count(late);
        self.window.answered(late);
        late
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
        Change { settled: 1, open: (verdict == Verdict::Open).into(), answered, moot: true }
    }

    /// Gives every port that is still without a last word this one.
    pub(super) fn settle_rest(&mut self, verdict: Verdict) -> Change {
        for cell in self.cells.iter_mut().filter(|cell| !cell.is_settled()) {
            cell.settle(verdict);
        }
        Change { settled: std::mem::take(&mut self.unsettled), ..Change::default() }
    }
}

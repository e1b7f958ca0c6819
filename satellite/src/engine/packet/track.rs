//! The ports of one protocol on one host: which to probe next, which wait for an answer, and until when. Pure.

use crate::engine::permutation::Permutation;
use crate::engine::verdict::Verdict;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is known of one port, in eight bytes: a sweep keeps millions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    /// 0 nothing, else a verdict's number and 1, with [`Cell::SETTLED`] when that is the last word.
    mark: u8,
    /// Probes sent, wrapping.
    pub(super) tries: u8,
    /// Probes that were waited for in vain and count for silence.
    pub(super) silent: u8,
    /// The era of the last probe.
    pub(super) era: u8,
    /// When that was sent, in microseconds since the track began, wrapping after 71 minutes: much longer than
    /// anything is waited for.
    sent: u32,
}

impl Cell {
    const SETTLED: u8 = 0x80;
    /// A probe is on its way or its answer is.
    const OUTSTANDING: u8 = 0x40;

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
        let number = self.mark & !(Self::SETTLED | Self::OUTSTANDING);
        Verdict::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Keeps the verdict in case nothing better comes.
    pub(super) fn suspect(&mut self, verdict: Verdict) {
        self.mark = (self.mark & Self::OUTSTANDING) | (verdict as u8 + 1);
    }
}

/// How long a probe is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Another follows.
    Again,
    /// It may be the last.
    Last,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Track {
    began: Instant,
    order: Permutation,
    /// How far into the order every port was probed once.
    fresh: u64,
    /// Ports to probe again.
    again: VecDeque<u32>,
    /// Ports that wait, in the order in which they were probed: those of [`Wait::Again`] and of [`Wait::Last`].
    waiting: [VecDeque<u32>; 2],
    cells: Box<[Cell]>,
    unsettled: u32,
    outstanding: u32,
    turn: bool,
}

type Source = fn(&mut Track) -> Option<u32>;

impl Track {
    /// Of so many ports, 65,536 at most.
    pub(super) fn new(len: usize, seed: u64, now: Instant) -> Self {
        Self {
            began: now,
            order: Permutation::new(len as u64, seed),
            fresh: 0,
            again: VecDeque::new(),
            waiting: [VecDeque::new(), VecDeque::new()],
            cells: vec![Cell::default(); len].into(),
            // At most 65,536.
            unsettled: len as u32,
            outstanding: 0,
            turn: false,
        }
    }

    pub(super) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    pub(super) fn get(&self, cell: u32) -> Option<Cell> {
        self.cells.get(cell as usize).copied()
    }

    pub(super) fn get_mut(&mut self, cell: u32) -> Option<&mut Cell> {
        self.cells.get_mut(cell as usize)
    }

    /// How many ports have no last word yet.
    pub(super) fn unsettled(&self) -> u32 {
        self.unsettled
    }

    /// How many ports wait for an answer.
    pub(super) fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Whether there is a port to probe now.
    pub(super) fn has_next(&self) -> bool {
        !self.again.is_empty() || self.fresh < self.cells.len() as u64
    }

    /// The port to probe next: in turn one that is to be probed again, so that loss shows early, and a fresh one, so
    /// that nothing waits for ever.
    pub(super) fn next(&mut self) -> Option<u32> {
        self.turn = !self.turn;
        let (first, second): (Source, Source) = if self.turn {
            (Self::next_again, Self::next_fresh)
        } else {
            (Self::next_fresh, Self::next_again)
        };
        first(self).or_else(|| second(self))
    }

    fn next_again(&mut self) -> Option<u32> {
        while let Some(cell) = self.again.pop_front() {
            if self.is_unsettled(cell) {
                return Some(cell);
            }
        }
        None
    }

    fn next_fresh(&mut self) -> Option<u32> {
        while self.fresh < self.cells.len() as u64 {
            // At most 65,536 ports.
            let cell = self.order.at(self.fresh) as u32;
            self.fresh += 1;
            if self.is_unsettled(cell) {
                return Some(cell);
            }
        }
        None
    }

    /// Gives a port back that was not probed after all.
    pub(super) fn put_back(&mut self, cell: u32) {
        self.again.push_front(cell);
    }

    /// The port is to be probed again.
    pub(super) fn repeat(&mut self, cell: u32) {
        self.again.push_back(cell);
    }

    /// A probe leaves now; which one of the port's it is, counted from 1, wrapping to 0 after 255.
    pub(super) fn sent(&mut self, cell: u32, era: u8, wait: Wait, now: Instant) -> u8 {
        let tick = self.tick(now);
        let Some(state) = self.cells.get_mut(cell as usize) else { return 1 };
        // 0 stands for a port that was never probed; what counts is its lowest four bits.
        state.tries = state.tries.checked_add(1).unwrap_or(16);
        if state.era != era {
            // Earlier silence may be the fault of the rate.
            (state.silent, state.era) = (0, era);
        }
        state.sent = tick;
        self.outstanding += u32::from(state.mark & Cell::OUTSTANDING == 0);
        state.mark |= Cell::OUTSTANDING;
        let tries = state.tries;
        self.waiting[wait as usize].push_back(cell);
        tries
    }

    /// The last probe of a port left at this very time.
    pub(super) fn left(&mut self, cell: u32, at: Instant) {
        let tick = self.tick(at);
        if let Some(state) = self.cells.get_mut(cell as usize) {
            state.sent = tick;
        }
    }

    /// A probe did not leave after all. It must be the last of the port.
    pub(super) fn unsent(&mut self, cell: u32) {
        if let Some(state) = self.cells.get_mut(cell as usize) {
            state.tries = state.tries.wrapping_sub(1);
        }
        self.land(cell);
        for queue in &mut self.waiting {
            if let Some(place) = queue.iter().rposition(|waiting| *waiting == cell) {
                queue.remove(place);
                break;
            }
        }
        self.put_back(cell);
    }

    /// When the last probe of a port left: the same whenever it is asked.
    pub(super) fn sent_at(&self, cell: Cell, now: Instant) -> Instant {
        let micros = now.saturating_duration_since(self.began).as_micros();
        // Wraps on purpose, and so do the stamps.
        let ahead = cell.sent.wrapping_sub(micros as u32) as i32;
        // A probe leaves a little after it was stamped; days are far from overflow.
        let micros = (micros as i64 + i64::from(ahead)).max(0) as u64;
        self.began + Duration::from_micros(micros)
    }

    /// The first port whose wait is over, the waits being so long; it waits no more.
    pub(super) fn overdue(&mut self, waits: [Duration; 2], now: Instant) -> Option<(u32, Wait)> {
        for (i, wait) in [Wait::Again, Wait::Last].into_iter().enumerate() {
            while let Some(cell) = self.waiting[i].front().copied() {
                let state = self.cells.get(cell as usize).copied().unwrap_or_default();
                if state.mark & Cell::OUTSTANDING == 0 {
                    self.waiting[i].pop_front();
                } else if self.sent_at(state, now) + waits[i] <= now {
                    self.waiting[i].pop_front();
                    self.land(cell);
                    return Some((cell, wait));
                } else {
                    break;
                }
            }
        }
        None
    }

    /// When the next wait is over. To be asked after [`Track::overdue`] found none.
    pub(super) fn next_deadline(&self, waits: [Duration; 2], now: Instant) -> Option<Instant> {
        let deadline = |i: usize| {
            let cell = self.get(self.waiting[i].front().copied()?)?;
            Some(self.sent_at(cell, now) + waits[i])
        };
        deadline(0).into_iter().chain(deadline(1)).min()
    }

    /// Makes the verdict the last word; `false` when there was one before.
    pub(super) fn settle(&mut self, cell: u32, verdict: Verdict) -> bool {
        self.land(cell);
        match self.cells.get_mut(cell as usize) {
            Some(state) if !state.is_settled() => {
                state.mark = Cell::SETTLED | (verdict as u8 + 1);
                self.unsettled -= 1;
                true
            }
            _ => false,
        }
    }

    /// An answer that came late: silence was not the last word after all. `false` when something else was.
    pub(super) fn overturn(&mut self, cell: u32, verdict: Verdict) -> bool {
        match self.cells.get_mut(cell as usize) {
            Some(state) if state.settled() == Some(Verdict::NoResponse) => {
                state.mark = Cell::SETTLED | (verdict as u8 + 1);
                true
            }
            _ => false,
        }
    }

    /// Gives every port without a last word this one; how many.
    pub(super) fn settle_rest(&mut self, verdict: impl Fn(Cell) -> Verdict) -> u32 {
        for cell in self.cells.iter_mut().filter(|cell| !cell.is_settled()) {
            cell.mark = Cell::SETTLED | (verdict(*cell) as u8 + 1);
        }
        self.outstanding = 0;
        std::mem::take(&mut self.unsettled)
    }

    /// Takes back the last word on those ports that this says; they are probed again. How many.
    pub(super) fn reopen(&mut self, doubtful: impl Fn(Cell) -> bool) -> u32 {
        let mut reopened = 0;
        for (i, cell) in self.cells.iter_mut().enumerate() {
            if cell.is_settled() && doubtful(*cell) {
                cell.mark = 0;
                self.again.push_back(i as u32);
                reopened += 1;
            }
        }
        self.unsettled += reopened;
        reopened
    }

    /// Settles without a verdict those ports that have no last word and may not be probed any more; which.
    pub(super) fn withdraw(&mut self, forbidden: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut lost = Vec::new();
        for (i, cell) in self.cells.iter_mut().enumerate() {
            // At most 65,536.
            if !cell.is_settled() && forbidden(i as u32) {
                self.outstanding -= u32::from(cell.mark & Cell::OUTSTANDING != 0);
                cell.mark = Cell::SETTLED;
                lost.push(i as u32);
            }
        }
        self.unsettled -= lost.len() as u32;
        lost
    }

    fn land(&mut self, cell: u32) {
        if let Some(state) =
            self.cells.get_mut(cell as usize).filter(|state| state.mark & Cell::OUTSTANDING != 0)
        {
            state.mark &= !Cell::OUTSTANDING;
            self.outstanding -= 1;
        }
    }

    fn is_unsettled(&self, cell: u32) -> bool {
        self.cells.get(cell as usize).is_some_and(|cell| !cell.is_settled())
    }

    fn tick(&self, now: Instant) -> u32 {
        // Wraps on purpose.
        now.saturating_duration_since(self.began).as_micros() as u32
    }
}

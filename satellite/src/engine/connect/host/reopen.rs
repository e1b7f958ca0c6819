//! What is looked at again before a host's silent ports are believed to be filtered.

use super::HostSweep;
use crate::engine::schedule::Loss;
use crate::engine::verdict::{Cell, Verdict};
use std::time::Duration;

/// How often a device sends ICMP errors that limits them: Linux gives one peer a burst of six, then one a second
/// (icmp_ratelimit). A little more, so that each probe finds a token.
pub(super) const ICMP_PACE: Duration = Duration::from_millis(1100);

/// How many probes at that pace in vain end it, and how many end it anyway.
const ICMP_MISSES: u8 = 3;
const ICMP_PROBES: u8 = 20;

/// A count of probes that no schedule reaches: from here on it counts patient ones, two for each port.
const PATIENT: u8 = u8::MAX - 2;

/// Whether a port is called silent and may have another patient probe.
fn is_silent(cell: &Cell) -> bool {
    cell.settled() == Some(Verdict::NoResponse) && cell.attempts < u8::MAX
}

/// Silent ports of a host that answers others with ICMP port unreachable may only be waiting for the device's limit
/// on ICMP errors: they are probed again one by one, at a pace that the limit allows, as long as that helps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    /// Whether it is the time for it.
    pub(super) on: bool,
    /// How far into the order.
    place: u64,
    probes: u8,
    pub(super) misses: u8,
}

impl HostSweep {
    /// Everything is settled: reopens what should be looked at again before it is believed. How many ports.
    pub(in crate::engine) fn reopen(&mut self, path: Loss) -> u32 {
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
            // The probe itself counts one more.
            state.attempts = state.attempts.max(PATIENT);
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
}

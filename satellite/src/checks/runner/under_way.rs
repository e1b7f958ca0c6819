//! What is under way, and what waits for its turn: looks, which are many and quick, and sweeps, which are few.

use crate::checks::names::Answers;
use crate::checks::schedule::CheckId;
use crate::engine::{Looked, Method, SweepSummary};
use portolan_common::addresses::AddressSet;
use portolan_common::ports::{PortSet, PortSpec};
use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use tokio::task::AbortHandle;

/// Looks under way, …
pub const MAX_LOOKS: usize = 8192;
/// … and those of one check.
pub const MAX_LOOKS_EACH: usize = 256;
/// Sweeps under way, …
const MAX_SWEEPS: usize = 8;
/// … and of these, those that may take long: a full port scan must not hold up a single UDP port.
const MAX_LONG: usize = 4;
/// Probes at least, address by port, from which on a sweep may take long.
const LONG: u128 = 4096;

/// What a task was begun for.
pub struct Ticket {
    pub check: CheckId,
    pub task: AbortHandle,
    pub what: What,
}

pub enum What {
    /// Names are looked up for a round.
    Resolve,
    /// One address.
    Look {
        address: IpAddr,
        /// A change is looked at again; otherwise a round.
        doubt: bool,
    },
    Sweep {
        long: bool,
        /// Addresses of which a change is looked at again; none for a round.
        doubts: Vec<IpAddr>,
    },
}

/// What came of a task.
pub enum Done {
    Resolved(Answers),
    Looked(Looked),
    Swept(SweepSummary),
}

/// Looks that wait.
#[derive(Default)]
pub struct Looks {
    pub under_way: usize,
    /// Changes go first.
    pub doubts: VecDeque<(CheckId, IpAddr, PortSet)>,
    /// Checks that have something to look at; each has one look after the other, in turn.
    pub rounds: VecDeque<CheckId>,
}

/// A sweep that waits.
pub struct Job {
    pub check: CheckId,
    pub addresses: AddressSet,
    pub ports: PortSpec,
    pub method: Method,
    pub doubts: Vec<IpAddr>,
}

/// Sweeps that wait, and how many are under way.
#[derive(Default)]
pub struct Sweeps {
    waiting: VecDeque<Job>,
    under_way: usize,
    long: usize,
}

impl Job {
    pub fn is_long(&self) -> bool {
        self.addresses.len().saturating_mul(self.ports.len() as u128) >= LONG
    }
}

impl Sweeps {
    /// One more; a change is looked at before what is looked at anyway.
    pub fn add(&mut self, job: Job) {
        if job.doubts.is_empty() {
            self.waiting.push_back(job);
        } else {
            self.waiting.push_front(job);
        }
    }

    /// The next that may begin, which thereby does.
    pub fn next(&mut self) -> Option<Job> {
        if self.under_way >= MAX_SWEEPS {
            return None;
        }
        let may = |job: &Job| !job.is_long() || self.long < MAX_LONG;
        let job = self.waiting.iter().position(may).and_then(|place| self.waiting.remove(place))?;
        self.under_way += 1;
        self.long += usize::from(job.is_long());
        Some(job)
    }

    pub fn ended(&mut self, long: bool) {
        self.under_way = self.under_way.saturating_sub(1);
        self.long = self.long.saturating_sub(usize::from(long));
    }

    /// These checks are no more.
    pub fn give_up(&mut self, gone: &HashSet<CheckId>) {
        self.waiting.retain(|job| !gone.contains(&job.check));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(check: u64, ports: &str, doubts: &[&str]) -> Job {
        Job {
            check: CheckId(check),
            addresses: AddressSet::single("10.0.0.1".parse().unwrap()),
            ports: ports.parse().unwrap(),
            method: Method::Auto,
            doubts: doubts.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn long_sweeps_leave_room_for_short_ones() {
        let mut sweeps = Sweeps::default();
        for n in 0..10 {
            sweeps.add(job(n, "1-65535", &[]));
        }
        sweeps.add(job(10, "U:53", &[]));
        sweeps.add(job(11, "U:53", &["10.0.0.1"]));
        let mut begun = Vec::new();
        while let Some(job) = sweeps.next() {
            begun.push(job.check.0);
        }
        assert_eq!(begun, [11, 0, 1, 2, 3, 10]);
        sweeps.ended(false);
        assert!(sweeps.next().is_none());
        sweeps.ended(true);
        sweeps.give_up(&HashSet::from([CheckId(4)]));
        assert_eq!(sweeps.next().map(|job| job.check.0), Some(5));
    }
}

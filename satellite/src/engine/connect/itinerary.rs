//! The hosts of one sweep, and what is told of them. Pure.

use super::host::HostSweep;
use super::intake::{Intake, Turn};
use crate::engine::ledger::Ledger;
use crate::engine::roster::Roster;
use crate::engine::wall::Wall;
use jiff::Timestamp;
use portolan_common::addresses::AddressSet;
use portolan_common::observation::HostObservation;
use portolan_common::ports::PortSpec;
use portolan_common::scope::{Guard, Refused};
use portolan_common::targets::ResolvedTargets;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

/// Finished hosts that wait to be taken; beyond it no new host begins.
pub(super) const MAX_WAITING: usize = 256;

/// The hosts that a sweep visits.
#[derive(Debug)]
pub(in crate::engine) struct Itinerary {
    roster: Roster,
    targets: ResolvedTargets,
    pub(super) ledger: Ledger,
    /// Finished hosts that nobody took yet.
    pub(super) waiting: VecDeque<HostObservation>,
    /// Finished hosts of which something answered.
    pub(super) hosts_up: u64,
    /// The first host that could not be scanned for want of something here, with the error, and how many.
    unfinished: Option<(IpAddr, i32, u64)>,
}

impl Itinerary {
    /// Of those of the targets that are `allowed`, on the ports asked.
    pub(super) fn new(
        targets: ResolvedTargets,
        allowed: AddressSet,
        asked: PortSpec,
        ledger: Ledger,
        seed: u64,
    ) -> Self {
        Self {
            roster: Roster::new(allowed, asked, seed),
            targets,
            ledger,
            waiting: VecDeque::new(),
            hosts_up: 0,
            unfinished: None,
        }
    }

    /// Why the sweep is not complete although it is at its end, in words for the operator.
    pub(super) fn why_unfinished(&self) -> Option<String> {
        let (address, errno, hosts) = self.unfinished?;
        let more = if hosts > 1 { format!(" and {} more hosts", hosts - 1) } else { String::new() };
        let error = std::io::Error::from_raw_os_error(errno);
        Some(format!("no connection to {address}{more} could be opened from this host: {error}"))
    }
}

impl Intake for Itinerary {
    type Tag = ();
    const NO_WAY_IS_A_RESULT: bool = true;

    fn next(&mut self, guard: &Guard, wall: &Wall, now: Instant) -> Turn<()> {
        if self.waiting.len() >= MAX_WAITING {
            return Turn::Later;
        }
        let Some(address) = self.roster.next() else { return Turn::End };
        match self.roster.admit(address, guard, &wall.at(now), &mut self.ledger) {
            Some(admitted) => Turn::Host(admitted, ()),
            None => Turn::Refused(self.roster.asked().len() as u64),
        }
    }

    fn asked(&self, (): &()) -> &PortSpec {
        self.roster.asked()
    }

    fn narrowed(&mut self, (): &mut (), address: IpAddr, refused: &[Refused]) {
        self.roster.note(address, refused, &mut self.ledger);
    }

    fn finished(&mut self, (): (), host: &HostSweep, observed_at: Timestamp) -> bool {
        let address = host.target().address();
        let Some(observation) = host.observation(self.targets.typed(address), observed_at) else {
            return false;
        };
        self.ledger.cover(address, &host.covered());
        self.waiting.push_back(observation);
        self.hosts_up += u64::from(host.is_up());
        true
    }

    fn unfinished(&mut self, (): (), address: IpAddr, errno: i32) {
        self.unfinished.get_or_insert((address, errno, 0)).2 += 1;
    }
}

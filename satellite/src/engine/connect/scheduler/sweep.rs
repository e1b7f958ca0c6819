//! What a scheduler does for a sweep only: how it begins and ends, and how finished hosts are taken.

use super::{MAX_ACTIVE, Scheduler, Terms};
use crate::engine::connect::itinerary::Itinerary;
use crate::engine::ledger::Ledger;
use crate::engine::limits::Lease;
use crate::engine::wall::Wall;
use crate::engine::{End, Progress};
use jiff::Zoned;
use portolan_common::observation::HostObservation;
use portolan_common::ports::PortSpec;
use portolan_common::scope::Guard;
use portolan_common::targets::ResolvedTargets;
use std::sync::Arc;
use std::time::Instant;

/// Ports of all hosts that are swept side by side, 3 bytes each.
const MAX_CELLS: usize = 4 << 20;

/// What a sweep is made of.
pub(in crate::engine) struct Plan {
    pub(in crate::engine) targets: ResolvedTargets,
    pub(in crate::engine) ports: PortSpec,
    pub(in crate::engine) gentle: bool,
    /// Probes a second of this sweep.
    pub(in crate::engine) max_rate: Option<u32>,
    /// Probes a second to one host.
    pub(in crate::engine) max_rate_per_host: Option<u32>,
    pub(in crate::engine) seed: u64,
}

impl Scheduler {
    /// Of one sweep.
    pub(in crate::engine) fn new(
        plan: Plan,
        guard: Arc<Guard>,
        lease: Lease,
        now: Instant,
        wall: Zoned,
    ) -> Self {
        let Plan { targets, ports, gentle, max_rate, max_rate_per_host, seed } = plan;
        let mut ledger = Ledger::default();
        let (allowed, refused) = guard.allowed(&targets.addresses);
        for (addresses, rule) in refused {
            ledger.refuse_all(addresses, rule);
        }
        let hosts_total = u64::try_from(allowed.len()).unwrap_or(u64::MAX);
        let progress = Progress {
            hosts_total,
            ports_total: hosts_total.saturating_mul(ports.len() as u64),
            ..Progress::default()
        };
        let max_active = (MAX_CELLS / ports.len().max(1)).clamp(1, MAX_ACTIVE);
        let intake = Itinerary::new(targets, allowed, ports, ledger, seed);
        let terms = Terms { gentle, max_rate, max_rate_per_host, max_active, seed, keeping: false };
        Self { progress, ..Self::with(intake, terms, guard, lease, Wall::new(now, wall)) }
    }

    /// A finished host that nobody took yet.
    pub(in crate::engine::connect) fn take_finished(&mut self) -> Option<HostObservation> {
        self.intake.waiting.pop_front()
    }

    /// Puts a finished host back that could not be handed on.
    pub(in crate::engine::connect) fn put_back_finished(&mut self, host: HostObservation) {
        self.intake.waiting.push_front(host);
    }

    /// Why the sweep is not complete although it is at its end, in words for the operator.
    pub(in crate::engine::connect) fn unfinished(&self) -> Option<String> {
        self.intake.why_unfinished()
    }

    /// Ends the sweep, wherever it is, and gives back what it shares with others.
    pub(in crate::engine) fn close(self) -> End {
        let Itinerary { mut ledger, waiting, hosts_up, .. } = self.intake;
        let (refusals, refusals_dropped) = ledger.take_refusals();
        End {
            finished: waiting,
            progress: self.progress,
            hosts_up,
            refusals,
            refusals_dropped,
            coverage: ledger.take_coverage(),
        }
    }
}

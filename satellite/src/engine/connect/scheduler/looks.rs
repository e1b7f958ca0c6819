//! What a scheduler does for single looks only: it never comes to an end, and forgets what it does not need any more.

#[cfg(test)]
mod tests;

use super::{MAX_ACTIVE, Scheduler, Terms};
use crate::engine::connect::looks::{Looks, Order};
use crate::engine::limits::Lease;
use crate::engine::wall::Wall;
use jiff::Zoned;
use portolan_common::scope::Guard;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long what was learnt of a path is kept that nobody looks at.
const PATHS_KEPT: Duration = Duration::from_secs(300);

impl Scheduler<Looks> {
    /// Of looks that are to come.
    pub(in crate::engine) fn of_looks(
        guard: Arc<Guard>,
        lease: Lease,
        seed: u64,
        now: Instant,
        wall: Zoned,
    ) -> Self {
        let terms = Terms {
            gentle: true,
            max_rate: None,
            max_rate_per_host: None,
            max_active: MAX_ACTIVE,
            seed,
            keeping: true,
        };
        Self::with(Looks::default(), terms, guard, lease, Wall::new(now, wall))
    }

    /// Takes looks in.
    pub(in crate::engine::connect) fn take(&mut self, orders: &mut VecDeque<Order>) {
        self.intake.take(orders);
    }

    /// Drops the looks that nobody waits for any more, wherever they are.
    pub(in crate::engine::connect) fn drop_given_up(&mut self, now: Instant) {
        self.intake.drop_given_up();
        let given_up = |key: &usize| self.hosts.get(*key).is_some_and(|host| Looks::is_given_up(&host.tag));
        let keys: Vec<usize> = self.hosts.keys().filter(given_up).collect();
        for key in keys {
            if let Some(host) = self.withdraw(key, now) {
                self.intake.give_up(host.tag);
            }
        }
    }

    /// Leaves all looks under way unfinished: this host opens no connections, by this error. Those that wait have
    /// their turn.
    pub(in crate::engine::connect) fn abandon_all(&mut self, errno: i32, now: Instant) {
        let keys: Vec<usize> = self.hosts.keys().collect();
        for key in keys {
            self.abandon(key, errno, now);
        }
        self.held_since = None;
    }

    /// Whether no look waits or is under way.
    pub(in crate::engine::connect) fn is_idle(&self) -> bool {
        self.hosts.len() == 0 && self.intake.is_empty()
    }

    /// Nothing is asked for: gives back what others may use.
    pub(in crate::engine::connect) fn stand_down(&mut self) {
        self.lease.rest();
        self.holds.forget();
        // Looks may have been given up while nothing left this host: that says nothing about the next ones.
        self.held_since = None;
        // Takes the alarms down that nobody needs.
        self.flights.next_deadline();
    }

    /// Forgets paths that nobody looked at for long; `false` when there is nothing left to forget. To be called once a
    /// minute or so.
    pub(in crate::engine::connect) fn forget_paths(&mut self, now: Instant) -> bool {
        self.lanes.forget(PATHS_KEPT, now);
        self.lanes.len() > 0
    }
}

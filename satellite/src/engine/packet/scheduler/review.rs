//! What a changed scope, or the end of careful hours, does to the hosts that are being swept.

use super::Scheduler;
use crate::engine::packet::discovery;
use jiff::Zoned;
use portolan_common::scope::{Guard, PermittedTarget};
use std::sync::Arc;
use std::time::Instant;

impl Scheduler {
    /// Takes the wall clock, which may be set while a sweep runs, and asks the guard again when hours are over.
    pub(in crate::engine) fn tick(&mut self, now: Instant, wall: impl FnOnce() -> Zoned) {
        self.wall.tick(now, wall);
        if self.hours_end.is_some_and(|end| self.wall.timestamp(now) >= end) {
            self.ask_again(now);
        }
    }

    /// The scope changed.
    pub(in crate::engine) fn set_guard(&mut self, guard: Arc<Guard>, now: Instant) {
        self.guard = guard;
        self.ask_again(now);
    }

    /// Asks the guard again about every host that is being swept.
    fn ask_again(&mut self, now: Instant) {
        let wall = self.wall.at(now);
        self.hours_end = None;
        let keys: Vec<usize> = self.hosts.keys().collect();
        for key in keys {
            let Some(active) = self.hosts.get_mut(key) else { continue };
            let address = active.host.target().address();
            let permit = self.guard.permit(address, self.roster.asked(), &wall);
            let lost = match permit.target {
                Some(target) => {
                    let lost = active.host.narrow(target.clone());
                    let pings = self.guard.permit(address, &discovery::ports(), &wall).target;
                    active.host.narrow_pings(&pings.map(|pings| pings.ports().clone()).unwrap_or_default());
                    self.change_lane(key, &target, now);
                    self.note_hours(&target);
                    lost
                }
                None => active.host.forbid(),
            };
            if lost > 0 {
                self.roster.note(address, &permit.refused, &mut self.ledger);
                self.progress.ports_total = self.progress.ports_total.saturating_sub(lost.into());
            }
            self.reconcile(key, now);
            self.settle_down(key, now);
        }
    }

    /// Moves a host whose limits changed.
    fn change_lane(&mut self, key: usize, target: &PermittedTarget, now: Instant) {
        let lane_key = self.lane_key(target);
        let Some(active) = self.hosts.get_mut(key) else { return };
        let old = active.lane;
        let new = self.lanes.join(lane_key, now);
        if new != old
            && active.in_flight > 0
            && let Some(lane) = self.lanes.get(old)
        {
            // What is on its way counts against the old limits no more, nor against the new ones.
            self.lease.landed(lane.demand(), std::mem::take(&mut active.in_flight), now);
        }
        active.lane = new;
        active.queued = active.queued && new == old;
        self.lanes.leave(old);
        self.queue(key);
    }
}

//! What a changed scope, or the end of careful hours, does to the hosts that are being swept.

use super::Scheduler;
use crate::engine::connect::intake::Intake;
use jiff::Zoned;
use portolan_common::scope::{Guard, PermittedTarget};
use std::sync::Arc;
use std::time::Instant;

impl<I: Intake> Scheduler<I> {
    /// Takes the wall clock, which may be set while a sweep runs, and asks the guard again when hours are over.
    pub(in crate::engine) fn tick(&mut self, now: Instant, wall: impl FnOnce() -> Zoned) {
        self.wall.tick(now, wall);
        if self.hours_end.is_some_and(|end| self.wall.at(now).timestamp() >= end) {
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
            let Some(host) = self.hosts.get_mut(key) else { continue };
            let address = host.sweep.target().address();
            let permit = self.guard.permit(address, self.intake.asked(&host.tag), &wall);
            let lost = match permit.target {
                Some(target) => {
                    let lost = host.sweep.narrow(target.clone());
                    self.change_lane(key, &target, now);
                    self.note_hours(&target);
                    lost
                }
                None => host.sweep.close(),
            };
            if lost > 0 {
                if let Some(host) = self.hosts.get_mut(key) {
                    self.intake.narrowed(&mut host.tag, address, &permit.refused);
                }
                self.progress.ports_total = self.progress.ports_total.saturating_sub(lost.into());
                self.recall(key, now);
            }
            self.finish(key, now);
        }
    }

    /// Moves a host whose limits changed.
    fn change_lane(&mut self, key: usize, target: &PermittedTarget, now: Instant) {
        let lane_key = self.lane_key(target);
        let Some(host) = self.hosts.get_mut(key) else { return };
        let old = host.lane;
        let new = self.lanes.join(lane_key, now);
        host.lane = new;
        host.queued = host.queued && new == old;
        self.lanes.leave(old);
        self.queue(key);
    }

    /// Ends the flights of a host to ports that are settled, or may not be probed any more.
    pub(super) fn recall(&mut self, key: usize, now: Instant) {
        for flight in self.flights.of_host(key) {
            let (Some(state), Some(host)) = (self.flights.get(flight), self.hosts.get(key)) else { continue };
            if host.sweep.is_decided(state.cell) {
                self.end(flight, now);
                self.ended.push(flight);
            }
        }
    }
}

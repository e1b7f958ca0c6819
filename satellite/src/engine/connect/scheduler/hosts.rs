//! How hosts come into a sweep and leave it.

use super::{Active, SPREAD, Scheduler};
use crate::engine::bucket::TokenBucket;
use crate::engine::connect::host::HostSweep;
use crate::engine::connect::intake::{Intake, Turn};
use crate::engine::connect::window::HOST;
use crate::engine::lanes::LaneKey;
use crate::engine::limits::GENTLE_IN_FLIGHT;
use crate::engine::roster::Admitted;
use portolan_common::scope::PermittedTarget;
use std::time::Instant;

impl<I: Intake> Scheduler<I> {
    /// Begins with one more host, if there is one and room for it; `false` when there is none to be had now.
    pub(super) fn enlist(&mut self, now: Instant) -> bool {
        let crowded =
            self.hosts.len() >= SPREAD && self.weight >= self.lease.budget() + self.lease.budget() / 2;
        if self.exhausted || crowded || self.hosts.len() >= self.max_active {
            return false;
        }
        let (admitted, tag) = match self.intake.next(&self.guard, &self.wall, now) {
            Turn::Host(admitted, tag) => (admitted, tag),
            Turn::Refused(asked) => {
                self.progress.hosts_total = self.progress.hosts_total.saturating_sub(1);
                self.progress.ports_total = self.progress.ports_total.saturating_sub(asked);
                return true;
            }
            Turn::Passed => return true,
            Turn::Later => return false,
            Turn::End => {
                self.exhausted = true;
                return false;
            }
        };
        let asked = self.intake.asked(&tag).len() as u64;
        let lost = asked.saturating_sub(admitted.list.len() as u64);
        self.progress.ports_total = self.progress.ports_total.saturating_sub(lost);
        self.note_hours(&admitted.target);
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let lane = self.lanes.join(self.lane_key(&admitted.target), now);
        let weight = self.weight_of(&admitted);
        self.weight += weight;
        let sweep = HostSweep::new(admitted.target, admitted.list, admitted.refused, self.seed);
        let key = self.hosts.insert(Active {
            tag,
            sweep,
            lane,
            weight,
            queued: false,
            held: None,
            rate: self.max_rate_per_host.map(TokenBucket::new),
            paced_until: None,
        });
        self.queue(key);
        true
    }

    /// How many probes a host may soon have in flight.
    fn weight_of(&self, host: &Admitted) -> usize {
        let careful = host.target.limits().careful.iter().map(|limit| limit.in_flight);
        let gentle = self.gentle.then_some(GENTLE_IN_FLIGHT);
        let most = careful.chain(gentle).fold(HOST.start, u32::min);
        host.list.len().min(most as usize)
    }

    pub(super) fn lane_key(&self, target: &PermittedTarget) -> LaneKey {
        LaneKey::of(target, self.gentle)
    }

    pub(super) fn note_hours(&mut self, target: &PermittedTarget) {
        if let Some(until) = target.until() {
            self.hours_end = Some(self.hours_end.map_or(until, |end| end.min(until)));
        }
    }

    /// Puts a host into its lane's queue.
    pub(super) fn queue(&mut self, key: usize) {
        let Some(host) = self.hosts.get_mut(key) else { return };
        let lane = host.lane;
        if !host.queued
            && !host.held.is_some_and(|held| held.pauses())
            && host.paced_until.is_none()
            && host.sweep.unsettled() > 0
            && let Some(state) = self.lanes.get_mut(lane)
        {
            host.queued = true;
            state.ready.push_back(key);
        }
        self.lanes.enqueue(lane);
    }

    /// Closes a host that is finished.
    pub(super) fn finish(&mut self, key: usize, now: Instant) {
        let Some(host) = self.hosts.get_mut(key).filter(|host| host.sweep.is_finished()) else { return };
        let path = self.lanes.get(host.lane).map(|lane| lane.loss).unwrap_or_default();
        let reopened = host.sweep.reopen(path);
        if reopened > 0 {
            self.progress.ports_done = self.progress.ports_done.saturating_sub(reopened.into());
            self.queue(key);
            return;
        }
        let Some(host) = self.remove(key) else { return };
        let observed_at = self.wall.at(now).timestamp();
        if self.intake.finished(host.tag, &host.sweep, observed_at) {
            self.progress.hosts_done += 1;
        } else {
            self.progress.hosts_total = self.progress.hosts_total.saturating_sub(1);
        }
    }

    /// Takes a host out, and what is under way to it.
    pub(super) fn withdraw(&mut self, key: usize, now: Instant) -> Option<Active<I::Tag>> {
        for flight in self.flights.of_host(key) {
            self.end(flight, now);
            self.ended.push(flight);
        }
        self.remove(key)
    }

    /// Takes a host out to which nothing is under way.
    fn remove(&mut self, key: usize) -> Option<Active<I::Tag>> {
        let host = self.hosts.remove(key)?;
        self.lanes.leave(host.lane);
        if host.held.is_none() {
            self.weight = self.weight.saturating_sub(host.weight);
        }
        Some(host)
    }
}

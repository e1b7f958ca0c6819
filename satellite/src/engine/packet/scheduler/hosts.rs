//! How hosts come into a sweep and leave it.

use super::{Active, MAX_ACTIVE, MAX_CELLS, MAX_FINISHED, MAX_READY, NO_PATH, Scheduler, view};
use crate::engine::lanes::LaneKey;
use crate::engine::packet::discovery;
use crate::engine::packet::host::{Host, Phase, Review};
use crate::engine::packet::suspicion::CANARIES;
use portolan_common::ports::PortSpec;
use portolan_common::scope::PermittedTarget;
use std::net::IpAddr;
use std::time::Instant;

/// Canaries are looked for from here on: few services are configured so high.
const FIRST_CANARY: u16 = 30_000;

impl Scheduler {
    /// Begins with one more host, if there is one and room for it; `false` when there is none to be had now.
    pub(super) fn enlist(&mut self, now: Instant) -> bool {
        if self.exhausted
            || self.hosts.len() >= MAX_ACTIVE
            || self.ready.len() >= MAX_READY
            || self.finished.len() >= MAX_FINISHED
        {
            return false;
        }
        let Some(address) = self.roster.next() else {
            self.exhausted = true;
            return false;
        };
        let asked = self.roster.asked().len() as u64;
        let wall = self.wall.at(now);
        let Some(admitted) = self.roster.admit(address, &self.guard, &wall, &mut self.ledger) else {
            self.progress.hosts_total = self.progress.hosts_total.saturating_sub(1);
            self.progress.ports_total = self.progress.ports_total.saturating_sub(asked);
            return true;
        };
        let lost = asked.saturating_sub(admitted.list.len() as u64);
        self.progress.ports_total = self.progress.ports_total.saturating_sub(lost);
        self.note_hours(&admitted.target);
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.serial += 1;
        let serial = self.serial;
        let lane = self.lanes.join(self.lane_key(&admitted.target), now);
        let address = admitted.target.address();
        let host = Host::new(admitted.target, admitted.list, admitted.refused, self.seed, self.manner, now);
        let active = Active { host, lane, serial, queued: false, wake: None, in_flight: 0, held: None };
        let key = self.hosts.insert(active);
        self.by_address.insert(address, key);
        self.unrouted.push_back((key, serial));
        true
    }

    /// A host that has left: its way is needed no more. To be asked before [`Scheduler::take_unrouted`].
    pub(in crate::engine) fn take_gone(&mut self) -> Option<usize> {
        self.gone.pop()
    }

    /// A host whose way is to be looked for; [`Scheduler::routed`] or [`Scheduler::no_way`] follows.
    pub(in crate::engine) fn take_unrouted(&mut self) -> Option<(usize, IpAddr)> {
        loop {
            let (key, serial) = self.unrouted.pop_front()?;
            if let Some(active) = self.hosts.get(key).filter(|active| active.serial == serial) {
                return Some((key, active.host.target().address()));
            }
        }
    }

    /// The way to a host is known; `answered` when the host itself showed it, on the satellite's own link.
    pub(in crate::engine) fn routed(&mut self, key: usize, answered: bool, now: Instant) {
        let wall = self.wall.at(now);
        let Some(active) = self.hosts.get_mut(key) else { return };
        // Only a probe that leaves ends it for good.
        if let Some(held) = &mut active.held {
            held.tries_again();
        }
        let permit = self.guard.permit(active.host.target().address(), &discovery::ports(), &wall);
        let pings = permit.target.map(|target| target.ports().clone()).unwrap_or_default();
        active.host.routed(answered, &pings);
        self.settle_down(key, now);
        self.queue(key);
    }

    /// Brings a host into its next phase, and to its end.
    pub(super) fn settle_down(&mut self, key: usize, now: Instant) {
        let Some(active) = self.hosts.get(key) else { return };
        match active.host.phase {
            Phase::Ready => {
                let serial = active.serial;
                if !self.ready.contains(&(key, serial)) {
                    self.ready.push_back((key, serial));
                }
                self.make_room(now);
            }
            Phase::Sweeping if active.host.unsettled() > 0 => {}
            Phase::Sweeping | Phase::Done => self.finish(key, now),
            Phase::Routing | Phase::Discovering(_) => {}
        }
    }

    /// Lets hosts begin that wait for room.
    fn make_room(&mut self, now: Instant) {
        while let Some((key, serial)) = self.ready.front().copied() {
            let active = self.hosts.get_mut(key).filter(|active| active.serial == serial);
            if let Some(active) = active.filter(|active| matches!(active.host.phase, Phase::Ready)) {
                let room = active.host.room();
                if room > self.room && self.room < MAX_CELLS {
                    return;
                }
                self.room = self.room.saturating_sub(room);
                active.host.begin(now);
                self.queue(key);
            }
            self.ready.pop_front();
        }
    }

    /// Puts a host into its lane's queue.
    pub(super) fn queue(&mut self, key: usize) {
        let Some(active) = self.hosts.get_mut(key) else { return };
        let lane = active.lane;
        if !active.queued
            && !active.held.is_some_and(|held| held.pauses())
            && matches!(active.host.phase, Phase::Sweeping | Phase::Discovering(_))
            && let Some(state) = self.lanes.get_mut(lane)
        {
            active.queued = true;
            state.ready.push_back(key);
        }
        self.lanes.enqueue(lane);
    }

    /// Closes a host that is finished.
    pub(super) fn finish(&mut self, key: usize, now: Instant) {
        let Some(active) = self.hosts.get_mut(key) else { return };
        if !matches!(active.host.phase, Phase::Done) {
            let view = self.lanes.get(active.lane).map_or(NO_PATH, |lane| view(lane, self.trunk.era()));
            match active.host.review(&view) {
                Review::Finished => {}
                Review::Unfinished => return,
                Review::Reopened(ports) => {
                    self.progress.ports_done = self.progress.ports_done.saturating_sub(ports.into());
                    self.queue(key);
                    return;
                }
                Review::WantsCanaries => {
                    self.watch(key, now);
                    self.queue(key);
                    return self.finish(key, now);
                }
            }
        }
        let Some(active) = self.hosts.remove(key) else { return };
        self.gone.push(key);
        self.held -= usize::from(active.held.is_some());
        let address = active.host.target().address();
        self.by_address.remove(&address);
        if let Some(lane) = self.lanes.get(active.lane)
            && active.in_flight > 0
        {
            self.lease.landed(lane.demand(), active.in_flight, now);
        }
        self.lanes.leave(active.lane);
        if active.host.holds_room() {
            self.room = (self.room + active.host.room()).min(MAX_CELLS);
            self.make_room(now);
        }
        match active.host.observation(self.targets.typed(address), self.wall.timestamp(now)) {
            Some(observation) => {
                self.ledger.cover(address, &active.host.covered());
                self.finished.push_back(observation);
                self.progress.hosts_done += 1;
                self.hosts_up += u64::from(active.host.is_up());
            }
            None => self.progress.hosts_total = self.progress.hosts_total.saturating_sub(1),
        }
    }

    /// Chooses ports that nobody asked for and that the scope permits.
    fn watch(&mut self, key: usize, now: Instant) {
        let wall = self.wall.at(now);
        let Some(active) = self.hosts.get_mut(key) else { return };
        let mut seed = self.seed ^ active.serial;
        let mut chosen: Vec<u16> = Vec::new();
        // Some may be asked for.
        for _ in 0..CANARIES * 8 {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            // Below 65,536.
            let port = FIRST_CANARY + ((seed >> 33) % u64::from(u16::MAX - FIRST_CANARY)) as u16;
            if chosen.len() < CANARIES && !active.host.asks_for(port) && !chosen.contains(&port) {
                chosen.push(port);
            }
        }
        let spec = PortSpec { tcp: chosen.into_iter().collect(), ..PortSpec::default() };
        let permit = self.guard.permit(active.host.target().address(), &spec, &wall);
        let ports = permit.target.map(|target| target.ports().tcp.iter().collect()).unwrap_or_default();
        active.host.watch(ports, now);
    }

    pub(super) fn lane_key(&self, target: &PermittedTarget) -> LaneKey {
        LaneKey::of(target, self.gentle)
    }

    pub(super) fn note_hours(&mut self, target: &PermittedTarget) {
        if let Some(until) = target.until() {
            self.hours_end = Some(self.hours_end.map_or(until, |end| end.min(until)));
        }
    }
}

//! Lanes: the hosts of one network that share a path and its limits, and which lane goes next. Pure.

use super::limits::{Demand, PathKey};
use super::schedule::Loss;
use super::slots::Slots;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Instant;

/// How much a lane may send: what each way of probing has of its own.
pub(super) trait Control {
    /// Of a lane that begins.
    fn new(now: Instant) -> Self;

    /// Whether nothing of it is needed once the lane's hosts have gone.
    fn is_idle(&self) -> bool;
}

/// Hosts of one path with the same limits.
#[derive(Debug)]
pub(super) struct Lane<C> {
    key: LaneKey,
    pub(super) control: C,
    pub(super) loss: Loss,
    hosts: usize,
    /// Hosts that may have something to send.
    pub(super) ready: VecDeque<usize>,
    /// Whether it stands in the queue of lanes, or is parked and will.
    queued: bool,
}

/// What makes a lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LaneKey {
    pub(super) path: PathKey,
    pub(super) demand: Demand,
}

/// All lanes that have hosts or probes.
#[derive(Debug)]
pub(super) struct Lanes<C> {
    lanes: Slots<Lane<C>>,
    by_key: HashMap<LaneKey, usize>,
    queue: VecDeque<usize>,
    parked: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl<C> Lane<C> {
    pub(super) fn demand(&self) -> &Demand {
        &self.key.demand
    }
}

impl<C: Control> Lanes<C> {
    pub(super) fn new() -> Self {
        Self {
            lanes: Slots::new(),
            by_key: HashMap::new(),
            queue: VecDeque::new(),
            parked: BinaryHeap::new(),
        }
    }

    pub(super) fn get(&self, lane: usize) -> Option<&Lane<C>> {
        self.lanes.get(lane)
    }

    pub(super) fn get_mut(&mut self, lane: usize) -> Option<&mut Lane<C>> {
        self.lanes.get_mut(lane)
    }

    /// A host joins the lane of its key, which is made where there is none.
    pub(super) fn join(&mut self, key: LaneKey, now: Instant) -> usize {
        let lane = match self.by_key.get(&key) {
            Some(lane) => *lane,
            None => {
                let lane = self.lanes.insert(Lane {
                    key: key.clone(),
                    control: C::new(now),
                    loss: Loss::default(),
                    hosts: 0,
                    ready: VecDeque::new(),
                    queued: false,
                });
                self.by_key.insert(key, lane);
                lane
            }
        };
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.hosts += 1;
        }
        lane
    }

    /// A host leaves its lane.
    pub(super) fn leave(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.hosts = lane.hosts.saturating_sub(1);
        }
        self.sweep_out(lane);
    }

    /// The lane has room again, or is not needed any more.
    pub(super) fn review(&mut self, lane: usize) {
        self.sweep_out(lane);
        self.enqueue(lane);
    }

    /// The lane may have something to send.
    pub(super) fn enqueue(&mut self, key: usize) {
        if let Some(lane) = self.lanes.get_mut(key).filter(|lane| !lane.queued && !lane.ready.is_empty()) {
            lane.queued = true;
            self.queue.push_back(key);
        }
    }

    /// The lane whose turn it is; it is to be [`Lanes::enqueue`]d or parked again.
    pub(super) fn next(&mut self, now: Instant) -> Option<usize> {
        while let Some(Reverse((at, key))) = self.parked.peek().copied() {
            if at > now {
                break;
            }
            self.parked.pop();
            self.queue.push_back(key);
        }
        while let Some(key) = self.queue.pop_front() {
            // A lane that has gone since, or its successor under the same number that did not queue yet.
            let Some(lane) = self.lanes.get_mut(key).filter(|lane| lane.queued) else { continue };
            lane.queued = false;
            if !lane.ready.is_empty() {
                return Some(key);
            }
        }
        None
    }

    /// Puts a lane back to the front of the queue.
    pub(super) fn requeue_first(&mut self, key: usize) {
        if let Some(lane) = self.lanes.get_mut(key).filter(|lane| !lane.queued) {
            lane.queued = true;
            self.queue.push_front(key);
        }
    }

    /// Leaves a lane alone until a time.
    pub(super) fn park(&mut self, key: usize, until: Instant) {
        if let Some(lane) = self.lanes.get_mut(key).filter(|lane| !lane.queued) {
            lane.queued = true;
            self.parked.push(Reverse((until, key)));
        }
    }

    /// When the first parked lane is to be looked at.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.parked.peek().map(|Reverse((at, _))| *at)
    }

    fn sweep_out(&mut self, key: usize) {
        if self.lanes.get(key).is_some_and(|lane| lane.hosts == 0 && lane.control.is_idle())
            && let Some(lane) = self.lanes.remove(key)
        {
            self.by_key.remove(&lane.key);
        }
    }
}

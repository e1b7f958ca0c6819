//! Lanes: the hosts of one network that share a path and its limits, and which lane goes next. Pure.

use super::limits::{Demand, PathKey};
use super::schedule::Loss;
use super::slots::Slots;
use portolan_common::scope::PermittedTarget;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How many lanes there may be for one that nobody uses to be kept.
const MAX_KEPT: usize = 4096;

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
    /// Since when it is known that nobody uses it.
    idle_since: Option<Instant>,
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
    /// Whether lanes are kept that nobody uses, until they are forgotten.
    kept: bool,
}

impl LaneKey {
    /// The lane of a target.
    pub(super) fn of(target: &PermittedTarget, gentle: bool) -> Self {
        let path = PathKey::from(target.address());
        let demand = Demand { careful: target.limits().careful.clone(), gentle: gentle.then_some(path) };
        Self { path, demand }
    }
}

impl<C> Lane<C> {
    pub(super) fn demand(&self) -> &Demand {
        &self.key.demand
    }
}

impl<C: Control> Lane<C> {
    fn is_unused(&self) -> bool {
        self.hosts == 0 && self.control.is_idle()
    }
}

impl<C: Control> Lanes<C> {
    pub(super) fn new() -> Self {
        Self {
            lanes: Slots::new(),
            by_key: HashMap::new(),
            queue: VecDeque::new(),
            parked: BinaryHeap::new(),
            kept: false,
        }
    }

    /// With lanes that outlive their hosts: what was learnt of a path is there for the next ones, until it is
    /// [`Lanes::forget`]ted.
    pub(super) fn keeping() -> Self {
        Self { kept: true, ..Self::new() }
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
                    idle_since: None,
                });
                self.by_key.insert(key, lane);
                lane
            }
        };
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.hosts += 1;
            lane.idle_since = None;
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

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Forgets the lanes that were found unused for so long, and what is long ago of the others. To be called now and
    /// then.
    pub(super) fn forget(&mut self, unused_for: Duration, now: Instant) {
        let keys: Vec<usize> = self.lanes.keys().collect();
        for key in keys {
            let Some(lane) = self.lanes.get_mut(key) else { continue };
            lane.loss.fade();
            if lane.is_unused() {
                let since = *lane.idle_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= unused_for {
                    self.remove(key);
                }
            }
        }
    }

    fn sweep_out(&mut self, key: usize) {
        if let Some(lane) = self.lanes.get_mut(key).filter(|lane| lane.is_unused()) {
            // Of hosts that have gone.
            lane.ready.clear();
            if !self.kept || self.lanes.len() > MAX_KEPT {
                self.remove(key);
            }
        }
    }

    fn remove(&mut self, key: usize) {
        if let Some(lane) = self.lanes.remove(key) {
            self.by_key.remove(&lane.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[derive(Debug)]
    struct Still;

    impl Control for Still {
        fn new(_: Instant) -> Self {
            Self
        }

        fn is_idle(&self) -> bool {
            true
        }
    }

    fn key(address: [u8; 4]) -> LaneKey {
        let path = PathKey::from(IpAddr::from(address));
        LaneKey { path, demand: Demand { careful: Vec::new(), gentle: None } }
    }

    #[test]
    fn what_is_kept_is_forgotten_in_time() {
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let mut lanes = Lanes::<Still>::keeping();
        let lane = lanes.join(key([10, 0, 0, 1]), start);
        lanes.get_mut(lane).unwrap().loss.count(true);
        lanes.leave(lane);
        lanes.forget(5 * minute, start);
        assert_eq!(lanes.join(key([10, 0, 0, 9]), start), lane, "the same path");
        assert_ne!(lanes.get(lane).unwrap().loss, Loss::NONE);
        lanes.forget(5 * minute, start + 9 * minute);
        lanes.leave(lane);
        for minutes in 10..15 {
            lanes.forget(5 * minute, start + minutes * minute);
            assert_eq!(lanes.len(), 1, "counted from when it was found unused");
        }
        lanes.forget(5 * minute, start + 15 * minute);
        assert_eq!((lanes.len(), lanes.by_key.len()), (0, 0));
    }

    #[test]
    fn few_are_kept() {
        let mut lanes = Lanes::<Still>::keeping();
        for n in 0..10_000u32 {
            let [_, a, b, c] = (n << 8).to_be_bytes();
            let lane = lanes.join(key([a, b, c, 1]), Instant::now());
            lanes.leave(lane);
        }
        assert!(lanes.len() <= MAX_KEPT, "{}", lanes.len());
    }
}

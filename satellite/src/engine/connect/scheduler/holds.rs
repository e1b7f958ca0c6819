//! Hosts that no probe leaves to: this host has no way to them at the moment, or no port left for them. It is looked
//! again, ever less often, and what lasts is believed; none of it counts as a probe.

use super::{MAX_HELD, Scheduler};
use crate::engine::connect::intake::Intake;
use crate::engine::limits::PathKey;
use crate::engine::verdict::Hold;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::time::{Duration, Instant};

/// The first pause of a host, which doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(400);

/// How many probes must fail, and for how long, before it is believed that there is no way: an interface that goes down
/// for a moment is none of the target's doing.
const NO_WAY: u32 = 4;
const NO_WAY_FOR: Duration = Duration::from_secs(3);

/// For how long where that was believed of a neighbour before.
const NO_WAY_AGAIN_FOR: Duration = Duration::from_secs(1);

/// How many paths without a way are remembered.
const MAX_PATHS: usize = 1 << 16;

/// A host that no probe leaves to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    since: Instant,
    /// When to look again; `None`: now.
    until: Option<Instant>,
    pause: Duration,
    failures: u32,
}

impl Held {
    pub(super) fn pauses(&self) -> bool {
        self.until.is_some()
    }

    /// Nothing was tried for so long.
    pub(super) fn postpone(&mut self, time: Duration) {
        self.since += time;
    }
}

/// What is known of hosts that are held.
#[derive(Debug, Default)]
pub(super) struct Holds {
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Paths that are believed to lead nowhere.
    no_way: HashSet<PathKey>,
}

impl Holds {
    /// A host is to be looked at again then.
    pub(super) fn wake_at(&mut self, at: Instant, key: usize) {
        self.wakes.push(Reverse((at, key)));
    }

    /// Forgets which paths lead nowhere.
    pub(super) fn forget(&mut self) {
        self.no_way.clear();
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.wakes.peek().map(|Reverse((at, _))| *at)
    }
}

impl<I: Intake> Scheduler<I> {
    /// No probe leaves to a host: leaves it alone for a while, or believes it.
    pub(super) fn hold(&mut self, key: usize, hold: Hold, errno: i32, now: Instant) {
        let Some(host) = self.hosts.get_mut(key) else { return };
        if host.held.is_none() {
            // It takes no room meanwhile.
            self.weight = self.weight.saturating_sub(host.weight);
        }
        let fresh = Held { since: now, until: None, pause: FIRST_PAUSE, failures: 0 };
        let held = host.held.get_or_insert(fresh);
        held.failures += 1;
        let path = PathKey::from(host.sweep.target().address());
        let enough = match hold {
            // Its way was there before: this host is cut off, and that says nothing about the target.
            Hold::NoWay(_) if I::NO_WAY_IS_A_RESULT && host.sweep.is_met() => MAX_HELD,
            _ if self.holds.no_way.contains(&path) => NO_WAY_AGAIN_FOR,
            Hold::NoWay(_) => NO_WAY_FOR,
            Hold::Here | Hold::Everywhere => MAX_HELD,
        };
        if held.failures < NO_WAY || now.saturating_duration_since(held.since) < enough {
            let until = now + held.pause;
            held.until = Some(until);
            held.pause = (held.pause * 2).min(MAX_PAUSE);
            host.queued = false;
            self.holds.wakes.push(Reverse((until, key)));
            return;
        }
        if self.holds.no_way.len() >= MAX_PATHS {
            self.holds.no_way.clear();
        }
        let was_met = host.sweep.is_met();
        self.holds.no_way.insert(path);
        if let Hold::NoWay(verdict) = hold
            && I::NO_WAY_IS_A_RESULT
            && !was_met
        {
            let change = host.sweep.settle_rest(verdict);
            self.progress.ports_done += u64::from(change.settled);
            self.recall(key, now);
            self.finish(key, now);
        } else {
            self.abandon(key, errno, now);
        }
    }

    /// A probe to the host left.
    pub(super) fn unhold(&mut self, key: usize) {
        if let Some(host) = self.hosts.get_mut(key).filter(|host| host.held.is_some()) {
            host.held = None;
            self.weight += host.weight;
            self.holds.no_way.remove(&PathKey::from(host.sweep.target().address()));
            self.queue(key);
        }
    }

    /// Looks again at the hosts whose pause is over.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some(Reverse((at, key))) = self.holds.wakes.peek().copied().filter(|wake| wake.0.0 <= now) {
            self.holds.wakes.pop();
            let Some(host) = self.hosts.get_mut(key) else { continue };
            if let Some(held) = host.held.as_mut().filter(|held| held.until == Some(at)) {
                held.until = None;
                self.queue(key);
            } else if host.paced_until == Some(at) {
                host.paced_until = None;
                self.queue(key);
            }
        }
    }

    /// Leaves a host unfinished, since no connection to it can be opened.
    pub(super) fn abandon(&mut self, key: usize, errno: i32, now: Instant) {
        if let Some(host) = self.withdraw(key, now) {
            self.intake.unfinished(host.tag, host.sweep.target().address(), errno);
        }
    }
}

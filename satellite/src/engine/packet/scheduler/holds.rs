//! Hosts that there is no way to at the moment. It is looked again, ever less often, and what lasts is believed; none of
//! it counts as a probe.

use super::{Active, Scheduler};
use crate::engine::verdict::Verdict;
use std::time::{Duration, Instant};

/// The first pause of a host, which doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(400);

/// For how long there must be no way before it is believed: an interface that goes down for a moment is none of the
/// target's doing.
const NO_WAY_FOR: Duration = Duration::from_secs(3);

/// How long a way that was there before is waited for.
const MAX_HELD: Duration = Duration::from_secs(30);

/// A host that there is no way to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    since: Instant,
    pause: Duration,
    /// Whether nothing is tried at the moment.
    pauses: bool,
}

impl Held {
    pub(super) fn pauses(&self) -> bool {
        self.pauses
    }

    /// There seems to be a way again.
    pub(super) fn tries_again(&mut self) {
        self.pauses = false;
    }
}

impl Scheduler {
    /// There is no way to a host: it is looked again in a while, or believed.
    pub(in crate::engine) fn no_way(&mut self, key: usize, verdict: Verdict, now: Instant) {
        let Some(active) = self.hosts.get_mut(key) else { return };
        self.held += usize::from(active.held.is_none());
        let held = active.held.get_or_insert(Held { since: now, pause: FIRST_PAUSE, pauses: true });
        held.pauses = true;
        let time = now.saturating_duration_since(held.since);
        // As long as nothing at all leaves this host, though something did before, it is cut off itself; and where the
        // host was reached before, its way is gone, not the host.
        let cut_off = self.left_at.is_some_and(|left| left < held.since);
        if time >= NO_WAY_FOR && !cut_off && !active.host.was_probed() {
            return self.no_neighbour(key, verdict, now);
        }
        if time >= MAX_HELD {
            return self.abandon(key, now);
        }
        let at = now + held.pause;
        held.pause = (held.pause * 2).min(MAX_PAUSE);
        self.set_timer(key, at);
    }

    /// Why the sweep is not complete although it is at its end, in words for the operator.
    pub(in crate::engine) fn unfinished(&self) -> Option<String> {
        let (address, hosts) = self.unfinished?;
        let more = if hosts > 1 { format!(" and {} more hosts", hosts - 1) } else { String::new() };
        Some(format!(
            "the way to {address}{more} was lost on this host and did not come back for {} s: is the interface up, is \
             there a route?",
            MAX_HELD.as_secs()
        ))
    }

    /// Leaves a host unfinished.
    fn abandon(&mut self, key: usize, now: Instant) {
        let Some(active) = self.hosts.get_mut(key) else { return };
        self.unfinished.get_or_insert((active.host.target().address(), 0)).1 += 1;
        active.host.give_up();
        self.finish(key, now);
    }

    /// Nobody is there, as far as this host can tell: that is the last word on every port.
    pub(in crate::engine) fn no_neighbour(&mut self, key: usize, verdict: Verdict, now: Instant) {
        let Some(active) = self.hosts.get_mut(key) else { return };
        let settled = active.host.close(verdict);
        self.progress.ports_done += u64::from(settled);
        self.finish(key, now);
    }

    /// The sweep stood still for so long: that says nothing about the way.
    pub(super) fn shift_holds(&mut self, time: Duration) {
        let keys: Vec<usize> = self.hosts.keys().collect();
        for key in keys {
            if let Some(held) = self.hosts.get_mut(key).and_then(|active| active.held.as_mut()) {
                held.since += time;
            }
        }
    }

    /// Whether a host is held: then its way is looked for again.
    pub(super) fn retry(&mut self, key: usize) -> bool {
        let held = |active: &&Active| active.held.is_some_and(|held| held.pauses);
        let Some(active) = self.hosts.get(key).filter(held) else { return false };
        self.unrouted.push_back((key, active.serial));
        true
    }
}

//! What all sweeps of a satellite share: probes per second, careful blocks, gentle paths, descriptors.

use super::bucket::TokenBucket;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use portolan_common::scope::CarefulLimit;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most probes in flight in the whole satellite: each holds a socket, some 3 KB of the kernel's memory.
const MAX_IN_FLIGHT: usize = 8192;

/// Descriptors left to the rest of the process: its connection, files, the resolver, idle sockets of the sweeps.
const RESERVE: usize = 192;

/// What a sweep may have in flight however many others there are.
const MIN_SHARE: usize = 16;

/// Probes a second to one gentle path.
const GENTLE_RATE: u32 = 200;

/// Probes in flight on one gentle path.
pub(super) const GENTLE_IN_FLIGHT: u32 = 20;

/// How soon to look again when others hold what is needed.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The network that probes to an address travel to: its /24 or /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PathKey(IpAddr);

impl From<IpAddr> for PathKey {
    fn from(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() & !0xff).into(),
            IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

/// The budgets of the whole satellite. Make one when the process starts and share it.
#[derive(Debug)]
pub struct SharedLimits {
    budget: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sweeps: usize,
    in_flight: usize,
    rate: TokenBucket,
    careful: HashMap<usize, Meter>,
    gentle: HashMap<PathKey, Meter>,
}

#[derive(Debug)]
struct Meter {
    rate: TokenBucket,
    in_flight: u32,
}

/// What a probe must be within, beside the sweep's share of descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Demand {
    /// The careful blocks of its target.
    pub(super) careful: Vec<CarefulLimit>,
    /// The path that is to be treated gently.
    pub(super) gentle: Option<PathKey>,
}

/// Whether a probe may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may, and is counted.
    Granted,
    /// Not before a descriptor is free; look again then.
    Full(Instant),
    /// No probe may before then.
    Wait(Instant),
    /// No probe with this demand may before then.
    WaitHere(Instant),
}

impl SharedLimits {
    /// Raises the process's soft limit of descriptors to the hard one and takes what is left of it beside a reserve,
    /// or a quarter where that is more.
    pub fn new() -> Self {
        let descriptors = descriptors();
        Self::with_budget(descriptors.saturating_sub(RESERVE).max(descriptors / 4))
    }

    /// With so many probes in flight at most, 1 to 8,192.
    pub fn with_budget(budget: usize) -> Self {
        Self {
            budget: budget.clamp(1, MAX_IN_FLIGHT),
            state: Mutex::new(State {
                sweeps: 0,
                in_flight: 0,
                rate: TokenBucket::new(1),
                careful: HashMap::new(),
                gentle: HashMap::new(),
            }),
        }
    }

    /// How many probes may be in flight at once, all sweeps together.
    pub fn budget(&self) -> usize {
        self.budget
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counters are never left half-changed, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for SharedLimits {
    fn default() -> Self {
        Self::new()
    }
}

/// How many descriptors this process may have, after raising the limit as far as it goes.
fn descriptors() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX)
}

/// One sweep's part in the shared budgets; what it holds goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    shared: Arc<SharedLimits>,
    in_flight: usize,
    /// Whether it counts among those that share.
    counted: bool,
    /// Lowered when the kernel refuses sockets.
    cap: usize,
    held: Held,
}

/// What one sweep has in flight in careful blocks and on gentle paths; it goes back when this is dropped.
#[derive(Debug)]
struct Held {
    shared: Arc<SharedLimits>,
    by_demand: HashMap<Demand, u32>,
}

impl Held {
    fn new(shared: Arc<SharedLimits>) -> Self {
        Self { shared, by_demand: HashMap::new() }
    }

    fn took(&mut self, demand: &Demand) {
        *self.by_demand.entry(demand.clone()).or_default() += 1;
    }

    /// So many are not in flight any more.
    fn landed(&mut self, demand: &Demand, probes: u32, now: Instant) {
        if demand.is_empty() {
            return;
        }
        self.shared.state().give_back(demand, probes, now);
        if let Some(held) = self.by_demand.get_mut(demand) {
            *held = held.saturating_sub(probes);
            if *held == 0 {
                self.by_demand.remove(demand);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let now = Instant::now();
        for (demand, held) in &self.by_demand {
            state.give_back(demand, *held, now);
        }
    }
}

/// The part in the shared budgets of a sweep by packets, which need no descriptors.
#[derive(Debug)]
pub(super) struct PacketLease {
    held: Held,
}

impl PacketLease {
    pub(super) fn new(shared: Arc<SharedLimits>) -> Self {
        Self { held: Held::new(shared) }
    }

    /// How many packets may leave now, `max_rate` being the scope's; where none, when the next may.
    pub(super) fn available(&self, max_rate: u32, now: Instant) -> Result<u32, Instant> {
        let mut state = self.held.shared.state();
        state.rate.set_rate(max_rate);
        match state.rate.available(now) {
            0 => Err(state.rate.ready_at(now).max(now + Duration::from_micros(50))),
            some => Ok(some),
        }
    }

    /// So many left.
    pub(super) fn take(&mut self, packets: u32, now: Instant) {
        self.held.shared.state().rate.take_many(packets, now);
    }

    /// When a packet with this demand may leave: `now` or later.
    pub(super) fn ready_at(&self, demand: &Demand, now: Instant) -> Instant {
        if demand.is_empty() { now } else { self.held.shared.state().ready_at(demand, now) }
    }

    /// A packet with this demand leaves; whether a port waits for its answer.
    pub(super) fn charge(&mut self, demand: &Demand, waits: bool, now: Instant) {
        if demand.is_empty() {
            return;
        }
        let mut state = self.held.shared.state();
        if waits {
            state.take(demand, now);
            drop(state);
            self.held.took(demand);
        } else {
            state.charge(demand, now);
        }
    }

    /// So many ports wait no more.
    pub(super) fn landed(&mut self, demand: &Demand, ports: u32, now: Instant) {
        self.held.landed(demand, ports, now);
    }
}

impl Lease {
    pub(super) fn new(shared: Arc<SharedLimits>) -> Self {
        shared.state().sweeps += 1;
        Self { in_flight: 0, counted: true, cap: shared.budget, held: Held::new(Arc::clone(&shared)), shared }
    }

    /// How many probes all sweeps together may have in flight.
    pub(super) fn budget(&self) -> usize {
        self.shared.budget
    }

    /// Asks for one probe, `max_rate` being the scope's. Nothing is taken unless everything can be had.
    pub(super) fn admit(&mut self, demand: &Demand, max_rate: u32, now: Instant) -> Admission {
        let mut state = self.shared.state();
        if !std::mem::replace(&mut self.counted, true) {
            state.sweeps += 1;
        }
        if self.in_flight >= self.share(&state) || state.in_flight >= self.shared.budget {
            return Admission::Full(now + LOOK_AGAIN);
        }
        state.rate.set_rate(max_rate);
        let ready_at = state.rate.ready_at(now);
        if ready_at > now {
            return Admission::Wait(ready_at);
        }
        if !demand.is_empty() {
            let ready_at = state.ready_at(demand, now);
            if ready_at > now {
                return Admission::WaitHere(ready_at);
            }
            state.take(demand, now);
            self.held.took(demand);
        }
        state.rate.take(now);
        state.in_flight += 1;
        self.in_flight += 1;
        Admission::Granted
    }

    /// The kernel is about to send a probe once more, which counts for the rates; `false` where they have no room for
    /// it. What `must` be sent is made up for later.
    pub(super) fn charge(&mut self, demand: &Demand, must: bool, now: Instant) -> bool {
        let mut state = self.shared.state();
        if !must && state.rate.ready_at(now).max(state.rates_ready_at(demand, now)) > now {
            return false;
        }
        state.rate.take(now);
        state.charge(demand, now);
        true
    }

    /// The descriptor of a probe is free again.
    pub(super) fn release(&mut self) {
        let mut state = self.shared.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// What it holds: descriptors, and demands with something in flight.
    #[cfg(test)]
    pub(super) fn holds(&self) -> (usize, usize) {
        (self.in_flight, self.held.by_demand.len())
    }

    /// Nothing is to be sent for a while: others have its share, until it asks again.
    pub(super) fn rest(&mut self) {
        if std::mem::replace(&mut self.counted, false) {
            let mut state = self.shared.state();
            state.sweeps = state.sweeps.saturating_sub(1);
        }
    }

    /// Whether it holds as many descriptors as it may: what can be spared is to be given back.
    pub(super) fn is_full(&self) -> bool {
        let state = self.shared.state();
        self.in_flight >= self.share(&state) || (self.in_flight > 0 && state.in_flight >= self.shared.budget)
    }

    /// The answer to a probe is no longer due.
    pub(super) fn landed(&mut self, demand: &Demand, now: Instant) {
        self.held.landed(demand, 1, now);
    }

    fn share(&self, state: &State) -> usize {
        (self.shared.budget / state.sweeps.max(1)).max(MIN_SHARE).min(self.cap)
    }

    /// The kernel refused a socket: others need descriptors too. Makes do with less than is in flight now.
    pub(super) fn squeeze(&mut self) {
        self.cap = (self.in_flight * 3 / 4).max(MIN_SHARE);
    }

    /// The kernel gives sockets again: takes one more.
    pub(super) fn relax(&mut self) {
        self.cap = (self.cap + 1).min(self.shared.budget);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.rest();
        let mut state = self.shared.state();
        state.in_flight = state.in_flight.saturating_sub(self.in_flight);
    }
}

impl Demand {
    pub(super) fn is_empty(&self) -> bool {
        self.careful.is_empty() && self.gentle.is_none()
    }

    /// How many probes may be in flight with this demand, at least one.
    pub(super) fn in_flight(&self) -> u32 {
        let careful = self.careful.iter().map(|limit| limit.in_flight.max(1));
        careful.chain(self.gentle.map(|_| GENTLE_IN_FLIGHT)).min().unwrap_or(u32::MAX)
    }
}

impl Meter {
    fn new(rate: u32) -> Self {
        Self { rate: TokenBucket::new(rate), in_flight: 0 }
    }

    fn ready_at(&self, in_flight: u32, now: Instant) -> Instant {
        if self.in_flight >= in_flight.max(1) { now + LOOK_AGAIN } else { self.rate.ready_at(now) }
    }

    fn take(&mut self, now: Instant) {
        self.rate.take(now);
        self.in_flight += 1;
    }
}

impl State {
    fn ready_at(&mut self, demand: &Demand, now: Instant) -> Instant {
        let mut ready_at = now;
        for limit in &demand.careful {
            let meter = self.careful.entry(limit.block).or_insert_with(|| Meter::new(limit.max_rate));
            meter.rate.set_rate(limit.max_rate);
            ready_at = ready_at.max(meter.ready_at(limit.in_flight, now));
        }
        if let Some(path) = demand.gentle {
            let meter = self.gentle.entry(path).or_insert_with(|| Meter::new(GENTLE_RATE));
            ready_at = ready_at.max(meter.ready_at(GENTLE_IN_FLIGHT, now));
        }
        ready_at
    }

    fn rates_ready_at(&self, demand: &Demand, now: Instant) -> Instant {
        let careful = demand.careful.iter().filter_map(|limit| self.careful.get(&limit.block));
        let gentle = demand.gentle.and_then(|path| self.gentle.get(&path));
        careful.chain(gentle).map(|meter| meter.rate.ready_at(now)).fold(now, Instant::max)
    }

    /// Paths whose past does not matter any more need not be remembered.
    fn forget_paths(&mut self, now: Instant) {
        if self.gentle.len() > 4096 {
            self.gentle.retain(|_, meter| meter.in_flight > 0 || !meter.rate.is_full(now));
        }
    }

    fn charge(&mut self, demand: &Demand, now: Instant) {
        self.forget_paths(now);
        for limit in &demand.careful {
            if let Some(meter) = self.careful.get_mut(&limit.block) {
                meter.rate.take(now);
            }
        }
        if let Some(meter) = demand.gentle.and_then(|path| self.gentle.get_mut(&path)) {
            meter.rate.take(now);
        }
    }

    fn take(&mut self, demand: &Demand, now: Instant) {
        for limit in &demand.careful {
            if let Some(meter) = self.careful.get_mut(&limit.block) {
                meter.take(now);
            }
        }
        if let Some(meter) = demand.gentle.and_then(|path| self.gentle.get_mut(&path)) {
            meter.take(now);
        }
    }

    fn give_back(&mut self, demand: &Demand, probes: u32, now: Instant) {
        for limit in &demand.careful {
            if let Some(meter) = self.careful.get_mut(&limit.block) {
                meter.in_flight = meter.in_flight.saturating_sub(probes);
            }
        }
        if let Some(meter) = demand.gentle.and_then(|path| self.gentle.get_mut(&path)) {
            meter.in_flight = meter.in_flight.saturating_sub(probes);
        }
        self.forget_paths(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_common::scope::Payloads;

    const FREE: Demand = Demand { careful: Vec::new(), gentle: None };

    fn admit(lease: &mut Lease, demand: &Demand, now: Instant) -> bool {
        lease.admit(demand, 1_000_000, now) == Admission::Granted
    }

    #[test]
    fn sweeps_share_the_budget() {
        let shared = Arc::new(SharedLimits::with_budget(100));
        let mut first = Lease::new(Arc::clone(&shared));
        let now = Instant::now();
        assert_eq!((0..200).filter(|_| admit(&mut first, &FREE, now)).count(), 100);
        let mut second = Lease::new(Arc::clone(&shared));
        assert!(!admit(&mut second, &FREE, now), "nothing left");
        for _ in 0..60 {
            first.landed(&FREE, now);
            first.release();
        }
        assert_eq!((0..200).filter(|_| admit(&mut second, &FREE, now)).count(), 50, "half each");
        assert_eq!((0..200).filter(|_| admit(&mut first, &FREE, now)).count(), 10);
        drop(first);
        assert_eq!((0..200).filter(|_| admit(&mut second, &FREE, now)).count(), 50, "all that is there");
        // One that rests leaves its share to others, until it asks again.
        let mut third = Lease::new(Arc::clone(&shared));
        third.rest();
        second.landed(&FREE, now);
        second.release();
        assert!(admit(&mut second, &FREE, now) && !admit(&mut third, &FREE, now) && second.is_full());
        second.release();
        assert!(!admit(&mut second, &FREE, now) && admit(&mut third, &FREE, now), "half each");
        drop(third);
        assert_eq!(shared.state().sweeps, 1);
    }

    #[test]
    fn the_rate_is_one_for_all_sweeps() {
        let shared = Arc::new(SharedLimits::with_budget(1000));
        let (mut a, mut b) = (Lease::new(Arc::clone(&shared)), Lease::new(shared));
        let start = Instant::now();
        let mut sent = 0;
        for ms in 0..2000 {
            let now = start + Duration::from_millis(ms);
            for lease in [&mut a, &mut b] {
                while lease.admit(&FREE, 100, now) == Admission::Granted {
                    sent += 1;
                    lease.landed(&FREE, now);
                    lease.release();
                }
            }
        }
        assert!((199..=202).contains(&sent), "{sent} in two seconds");
    }

    #[test]
    fn a_careful_block_is_shared() {
        let limit = CarefulLimit { block: 2, max_rate: 50, in_flight: 1, payloads: Payloads::None };
        let careful = Demand { careful: vec![limit], gentle: None };
        let shared = Arc::new(SharedLimits::with_budget(1000));
        let (mut a, mut b) = (Lease::new(Arc::clone(&shared)), Lease::new(shared));
        let now = Instant::now();
        assert!(admit(&mut a, &careful, now));
        let later = now + Duration::from_secs(1);
        assert!(matches!(b.admit(&careful, 1000, later), Admission::WaitHere(_)), "one in flight");
        assert!(admit(&mut b, &FREE, later), "others are not held up");
        a.landed(&careful, later);
        a.release();
        assert!(admit(&mut b, &careful, later));
        b.landed(&careful, later);
        b.release();
        assert_eq!(b.admit(&careful, 1000, later), Admission::WaitHere(later + Duration::from_millis(20)));
        assert!(admit(&mut a, &careful, later + Duration::from_millis(20)));
        drop(a);
        assert!(
            admit(&mut b, &careful, later + Duration::from_secs(1)),
            "a sweep that ends leaves nothing in flight"
        );
    }

    #[test]
    fn gentle_paths_are_networks() {
        let path = |text: &str| PathKey::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(path("10.0.0.1"), path("10.0.0.254"));
        assert_ne!(path("10.0.0.1"), path("10.0.1.1"));
        assert_eq!(path("fd00::1"), path("fd00::ffff:1"));
        assert_ne!(path("fd00::1"), path("fd00:0:0:1::1"));

        let gentle = |text| Demand { careful: Vec::new(), gentle: Some(path(text)) };
        let mut lease = Lease::new(Arc::new(SharedLimits::with_budget(1000)));
        let (start, mut granted) = (Instant::now(), 0);
        for ms in 0..1000 {
            let now = start + Duration::from_millis(ms);
            while admit(&mut lease, &gentle("10.0.0.1"), now) {
                granted += 1;
            }
        }
        assert_eq!(granted, 20, "in flight");
        assert!(admit(&mut lease, &gentle("10.0.1.1"), start + Duration::from_secs(1)));
    }
}

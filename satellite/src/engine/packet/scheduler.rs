//! One sweep by packets: which probe leaves next, when to look again, and what every answer changes. Pure: sockets and
//! clocks are elsewhere.

mod holds;
mod hosts;
mod review;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use super::host::{Answer, Change, Host, Manner, PathView, Step, What};
use super::pace::{PATH, Pace};
use crate::engine::bucket::TokenBucket;
use crate::engine::lanes::{Control, Lane, Lanes};
use crate::engine::ledger::Ledger;
use crate::engine::limits::PacketLease;
use crate::engine::roster::Roster;
use crate::engine::rtt::RttEstimator;
use crate::engine::slots::Slots;
use crate::engine::verdict::Verdict;
use crate::engine::wall::{CLOCK_AGE, Wall};
use crate::engine::{End, Progress};
use jiff::{Timestamp, Zoned};
use portolan_common::observation::HostObservation;
use portolan_common::ports::PortSpec;
use portolan_common::scope::{Guard, PermittedTarget};
use portolan_common::targets::ResolvedTargets;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ports of all hosts that are probed at once; each takes 8 to 16 bytes.
const MAX_CELLS: usize = 2 << 20;

/// Hosts at once, also those that are looked for only.
const MAX_ACTIVE: usize = 16_384;

/// Hosts that are up and wait for room.
const MAX_READY: usize = 64;

/// Finished hosts that nobody took yet.
const MAX_FINISHED: usize = 1024;

/// Hosts that begin in one turn.
const INTAKE: usize = 256;

/// Probes in one turn of a lane.
const TURN: u32 = 32;

/// What to sweep and how.
#[derive(Debug)]
pub(in crate::engine) struct Plan {
    pub(in crate::engine) targets: ResolvedTargets,
    pub(in crate::engine) ports: PortSpec,
    pub(in crate::engine) gentle: bool,
    pub(in crate::engine) discover: bool,
    pub(in crate::engine) max_rate: Option<u32>,
    pub(in crate::engine) max_rate_per_host: Option<u32>,
    pub(in crate::engine) udp_budget: Option<Duration>,
    pub(in crate::engine) seed: u64,
}

/// A probe that leaves now.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Probe {
    /// The host's number.
    pub(in crate::engine) host: usize,
    pub(in crate::engine::packet) what: What,
}

/// What to do when all probes of a turn have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Next {
    /// Look again then, or when something is answered.
    At(Instant),
    /// The sweep is at its end.
    Done,
}

/// How fast a path is probed, and how long it takes.
#[derive(Debug)]
struct PathPace {
    pace: Pace,
    rtt: RttEstimator,
}

impl Control for PathPace {
    fn new(now: Instant) -> Self {
        Self { pace: Pace::new(PATH, now), rtt: RttEstimator::default() }
    }

    fn is_idle(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Active {
    host: Host,
    lane: usize,
    /// Tells it from earlier hosts under the same number.
    serial: u64,
    /// Whether it stands in its lane's queue.
    queued: bool,
    /// When it is to be looked at.
    wake: Option<Instant>,
    /// Ports that wait for an answer, as far as the shared limits know.
    in_flight: u32,
    /// While there is no way to it.
    held: Option<holds::Held>,
}

/// The state of one sweep.
#[derive(Debug)]
pub(in crate::engine) struct Scheduler {
    guard: Arc<Guard>,
    targets: ResolvedTargets,
    manner: Manner,
    gentle: bool,
    seed: u64,
    roster: Roster,
    exhausted: bool,
    hosts: Slots<Active>,
    serial: u64,
    by_address: HashMap<IpAddr, usize>,
    lanes: Lanes<PathPace>,
    timers: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    /// Hosts whose way is to be looked for.
    unrouted: VecDeque<(usize, u64)>,
    /// Numbers of hosts that have left; a new host may have one of them already.
    gone: Vec<usize>,
    /// Hosts that are up and wait for room.
    ready: VecDeque<(usize, u64)>,
    /// Ports there is room for.
    room: usize,
    lease: PacketLease,
    rate: Option<TokenBucket>,
    /// All paths together: they share this host's link, and most often more.
    trunk: Pace,
    ledger: Ledger,
    finished: VecDeque<HostObservation>,
    progress: Progress,
    hosts_up: u64,
    wall: Wall,
    /// The earliest end of the hours of any active host.
    hours_end: Option<Timestamp>,
    /// How many hosts are held.
    held: usize,
    /// When a probe last left this host.
    left_at: Option<Instant>,
    /// The first host that was left unfinished because the way to it was lost, and how many.
    unfinished: Option<(IpAddr, u64)>,
}

impl Scheduler {
    pub(in crate::engine) fn new(
        plan: Plan,
        guard: Arc<Guard>,
        lease: PacketLease,
        now: Instant,
        wall: Zoned,
    ) -> Self {
        let mut ledger = Ledger::default();
        let (allowed, refused) = guard.allowed(&plan.targets.addresses);
        for (addresses, rule) in refused {
            ledger.refuse_all(addresses, rule);
        }
        let hosts_total = u64::try_from(allowed.len()).unwrap_or(u64::MAX);
        let progress = Progress {
            hosts_total,
            ports_total: hosts_total.saturating_mul(plan.ports.len() as u64),
            ..Progress::default()
        };
        Self {
            roster: Roster::new(allowed, plan.ports, plan.seed),
            exhausted: false,
            guard,
            targets: plan.targets,
            manner: Manner {
                discover: plan.discover,
                max_rate: plan.max_rate_per_host,
                udp_budget: plan.udp_budget,
                gentle: plan.gentle,
            },
            gentle: plan.gentle,
            seed: plan.seed,
            hosts: Slots::new(),
            serial: 0,
            by_address: HashMap::new(),
            lanes: Lanes::new(),
            timers: BinaryHeap::new(),
            unrouted: VecDeque::new(),
            gone: Vec::new(),
            ready: VecDeque::new(),
            room: MAX_CELLS,
            lease,
            rate: plan.max_rate.map(TokenBucket::new),
            trunk: Pace::new(PATH, now),
            ledger,
            finished: VecDeque::new(),
            progress,
            hosts_up: 0,
            wall: Wall::new(now, wall),
            hours_end: None,
            held: 0,
            left_at: None,
            unfinished: None,
        }
    }

    /// Fills `out` with at most so many probes that leave now, one `spacing` after the other. Each that does not leave
    /// is to be [`Scheduler::unsent`].
    pub(in crate::engine) fn fill(
        &mut self,
        now: Instant,
        spacing: Duration,
        most: usize,
        out: &mut Vec<Probe>,
    ) -> Next {
        out.clear();
        self.wake(now);
        for _ in 0..INTAKE {
            if !self.enlist(now) {
                break;
            }
        }
        if self.exhausted && self.hosts.len() == 0 {
            return Next::Done;
        }
        let available = match self.available(now) {
            Ok(available) => available as usize,
            Err(_) if !self.unrouted.is_empty() => return Next::At(now),
            // Lanes whose time has come wait for the rate too.
            Err(at) => return Next::At(at.min(self.next_timer(now))),
        };
        let passes = self.trunk.allowance(now) as usize;
        if passes == 0 {
            return Next::At(self.trunk.ready_at(now).min(self.next_timer(now)));
        }
        let most = most.min(available).min(passes);
        while out.len() < most {
            let Some(lane) = self.lanes.next(now) else { break };
            self.turn(lane, now, spacing, most, out);
        }
        // At most the batch's size.
        let sent = out.len() as u32;
        self.lease.take(sent, now);
        self.trunk.take(sent);
        if let Some(rate) = &mut self.rate {
            rate.take_many(sent, now);
        }
        self.progress.probes_sent += u64::from(sent);
        let full = !out.is_empty() && out.len() == most || !self.unrouted.is_empty();
        if self.exhausted && self.hosts.len() == 0 && out.is_empty() {
            return Next::Done;
        }
        Next::At(if full { now } else { self.next_wake(now) })
    }

    /// How many packets the satellite's and the scan's own rate let through.
    fn available(&self, now: Instant) -> Result<u32, Instant> {
        let available = self.lease.available(self.guard.scope().max_rate, now)?;
        match &self.rate {
            Some(rate) => match rate.available(now) {
                0 => Err(rate.ready_at(now).max(now + Duration::from_micros(50))),
                own => Ok(own.min(available)),
            },
            None => Ok(available),
        }
    }

    /// Lets the hosts of a lane send, one probe each in turn.
    fn turn(&mut self, key: usize, now: Instant, spacing: Duration, most: usize, out: &mut Vec<Probe>) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let allowance = lane.control.pace.allowance(now);
        if allowance == 0 {
            let at = lane.control.pace.ready_at(now);
            self.lanes.park(key, at);
            return;
        }
        let view = view(lane, self.trunk.era());
        let free = lane.demand().is_empty();
        let turn = (allowance.min(TURN) as usize).min(most - out.len());
        for _ in 0..turn {
            let Some(lane) = self.lanes.get_mut(key) else { return };
            let Some(host_key) = lane.ready.pop_front() else { break };
            let Some(active) = self.hosts.get_mut(host_key).filter(|host| host.queued && host.lane == key)
            else {
                continue;
            };
            if !free {
                let at = self.lease.ready_at(lane.demand(), now);
                if at > now {
                    lane.ready.push_front(host_key);
                    self.lanes.park(key, at);
                    return;
                }
            }
            active.queued = false;
            if active.held.is_some_and(|held| held.pauses()) {
                continue;
            }
            let leaves = now + spacing * out.len() as u32;
            match active.host.next(&view, now, leaves) {
                Step::Send(what) => {
                    if !free {
                        let waits = matches!(what, What::Port { .. });
                        self.lease.charge(lane.demand(), waits, now);
                        active.in_flight += u32::from(waits);
                    }
                    lane.control.pace.take(1);
                    active.queued = true;
                    lane.ready.push_back(host_key);
                    out.push(Probe { host: host_key, what });
                    let due = now + view.rto.unwrap_or(FIRST_LOOK);
                    if active.wake.is_none_or(|wake| wake > due) {
                        self.set_timer(host_key, due);
                    }
                }
                Step::Wait(at) => {
                    if active.wake.is_none_or(|wake| wake > at) {
                        self.set_timer(host_key, at);
                    }
                }
                Step::Down => {
                    let settled = active.host.close(Verdict::NoResponse);
                    self.progress.ports_done += u64::from(settled);
                    self.finish(host_key, now);
                }
            }
        }
        self.lanes.enqueue(key);
    }

    /// A probe did not leave: nothing of it counts.
    pub(in crate::engine) fn unsent(&mut self, probe: Probe, now: Instant) {
        self.progress.probes_sent = self.progress.probes_sent.saturating_sub(1);
        if let Some(active) = self.hosts.get_mut(probe.host) {
            active.host.unsent(probe.what);
        }
        self.reconcile(probe.host, now);
        self.queue(probe.host);
    }

    /// The sweep stood still for so long, since an operator wanted it to: that is nobody's silence.
    pub(in crate::engine) fn stood_still(&mut self, time: Duration) {
        self.shift_holds(time);
        let keys: Vec<usize> = self.hosts.keys().collect();
        for key in keys {
            if let Some(active) = self.hosts.get_mut(key) {
                active.host.stood_still(time);
            }
        }
    }

    /// This host was short of room for packets.
    pub(in crate::engine) fn relieve(&mut self) {
        self.trunk.relieve();
    }

    /// Whether a neighbour may be asked for now; the request then counts as a packet sent.
    pub(in crate::engine) fn may_ask(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.available(now).is_err() {
            return false;
        }
        let host = self.by_address.get(&address).and_then(|key| self.hosts.get(*key));
        if let Some(lane) = host.and_then(|active| self.lanes.get(active.lane)) {
            if self.lease.ready_at(lane.demand(), now) > now {
                return false;
            }
            self.lease.charge(lane.demand(), false, now);
        }
        self.lease.take(1, now);
        if let Some(rate) = &mut self.rate {
            rate.take_many(1, now);
        }
        self.progress.probes_sent += 1;
        true
    }

    /// A probe has left this host at this time.
    pub(in crate::engine) fn left(&mut self, probe: Probe, at: Instant) {
        self.left_at = Some(at);
        if let Some(active) = self.hosts.get_mut(probe.host) {
            active.host.left(probe.what, at);
        }
        if self.held > 0
            && let Some(held) = self.hosts.get_mut(probe.host).map(|active| &mut active.held)
            && held.take().is_some()
        {
            self.held -= 1;
        }
    }

    /// This host's own firewall forbids a probe, which counts as sent: what to say of its port if nothing better comes.
    pub(in crate::engine) fn forbidden(&mut self, probe: Probe) {
        if let Some(active) = self.hosts.get_mut(probe.host) {
            active.host.suspect(probe.what, Verdict::AdminProhibited);
        }
    }

    /// Where a probe goes: only here the guard's word and the port come together.
    pub(in crate::engine) fn target(&self, host: usize) -> Option<&PermittedTarget> {
        Some(self.hosts.get(host)?.host.target())
    }

    /// Something came from an address, or about a probe to it.
    pub(in crate::engine::packet) fn answered(
        &mut self,
        address: IpAddr,
        answer: Answer,
        ttl: u8,
        at: Instant,
    ) {
        let Some(key) = self.by_address.get(&address).copied() else { return };
        let Some(active) = self.hosts.get_mut(key) else { return };
        let lane = self.lanes.get(active.lane);
        let view = lane.map_or(NO_PATH, |lane| view(lane, self.trunk.era()));
        let change = active.host.answered(answer, ttl, &view, at);
        self.apply(key, change, at);
        self.settle_down(key, at);
    }

    /// When something is due.
    fn next_wake(&mut self, now: Instant) -> Instant {
        let at = self.next_timer(now);
        self.lanes.next_wake().map_or(at, |parked| parked.min(at))
    }

    /// When a host is to be looked at.
    fn next_timer(&mut self, now: Instant) -> Instant {
        let mut at = now + CLOCK_AGE;
        while let Some(Reverse((due, key, serial))) = self.timers.peek().copied() {
            if self.hosts.get(key).is_some_and(|host| host.serial == serial && host.wake == Some(due)) {
                at = at.min(due);
                break;
            }
            self.timers.pop();
        }
        at
    }

    /// Looks at the hosts whose time has come.
    pub(in crate::engine) fn wake(&mut self, now: Instant) {
        while let Some(Reverse((due, key, serial))) =
            self.timers.peek().copied().filter(|timer| timer.0.0 <= now)
        {
            self.timers.pop();
            let Some(active) = self.hosts.get_mut(key) else { continue };
            if active.serial != serial || active.wake != Some(due) {
                continue;
            }
            active.wake = None;
            self.attend(key, now);
        }
    }

    fn attend(&mut self, key: usize, now: Instant) {
        if self.retry(key) {
            return;
        }
        let Some(active) = self.hosts.get_mut(key) else { return };
        let view = self.lanes.get(active.lane).map_or(NO_PATH, |lane| view(lane, self.trunk.era()));
        let change = active.host.expire(&view, now);
        self.apply(key, change, now);
        self.queue(key);
        self.settle_down(key, now);
        let Some(active) = self.hosts.get_mut(key) else { return };
        if let Some(at) = active.host.next_wake(&view, now)
            && active.wake.is_none_or(|wake| wake > at)
        {
            self.set_timer(key, at);
        }
    }

    /// Takes down what an event changed beyond its host.
    fn apply(&mut self, key: usize, change: Change, now: Instant) {
        self.progress.ports_done += u64::from(change.settled);
        self.progress.open_found += u64::from(change.open);
        let Some(active) = self.hosts.get(key) else { return };
        if let Some(arrived) = change.arrived
            && let Some(lane) = self.lanes.get_mut(active.lane)
        {
            lane.loss.count(arrived.lost.count > 0);
            if let Some(rtt) = arrived.rtt {
                lane.control.rtt.sample(rtt);
            }
            lane.control.pace.answered(arrived.queued);
            self.trunk.answered(arrived.queued);
            arrived.lost.each(|sent| {
                lane.control.pace.lost(sent, now);
                self.trunk.lost(sent, now);
            });
        }
        if change.recovered {
            self.trunk.restart();
            if let Some(lane) = self.lanes.get_mut(active.lane) {
                lane.control.pace.restart();
            }
        }
        for sent in change.lost {
            if let Some(lane) = self.lanes.get_mut(active.lane) {
                lane.loss.count(true);
                lane.control.pace.lost(sent, now);
            }
            self.trunk.lost(sent, now);
        }
        self.reconcile(key, now);
    }

    /// Gives back to the shared limits what a host does not wait for any more.
    fn reconcile(&mut self, key: usize, now: Instant) {
        let Some(active) = self.hosts.get_mut(key).filter(|active| active.in_flight > 0) else { return };
        let waiting = active.host.outstanding();
        let landed = active.in_flight.saturating_sub(waiting);
        if landed > 0 {
            active.in_flight -= landed;
            if let Some(lane) = self.lanes.get(active.lane) {
                self.lease.landed(lane.demand(), landed, now);
            }
        }
    }

    fn set_timer(&mut self, key: usize, at: Instant) {
        if let Some(active) = self.hosts.get_mut(key) {
            active.wake = Some(at);
            self.timers.push(Reverse((at, key, active.serial)));
        }
    }

    /// A finished host that nobody took yet.
    pub(in crate::engine) fn take_finished(&mut self) -> Option<HostObservation> {
        self.finished.pop_front()
    }

    /// Puts a finished host back that could not be handed on.
    pub(in crate::engine) fn put_back_finished(&mut self, host: HostObservation) {
        self.finished.push_front(host);
    }

    pub(in crate::engine) fn progress(&self) -> Progress {
        self.progress
    }

    /// Ends the sweep, wherever it is, and gives back what it shares with others.
    pub(in crate::engine) fn close(mut self) -> End {
        let (refusals, refusals_dropped) = self.ledger.take_refusals();
        End {
            finished: self.finished,
            progress: self.progress,
            hosts_up: self.hosts_up,
            refusals,
            refusals_dropped,
            coverage: self.ledger.take_coverage(),
        }
    }
}

/// When a host is looked at first while no round trip is known.
const FIRST_LOOK: Duration = Duration::from_millis(100);

const NO_PATH: PathView = PathView { loss: crate::engine::schedule::Loss::NONE, rto: None, era: 0 };

fn view(lane: &Lane<PathPace>, trunk_era: u8) -> PathView {
    let era = lane.control.pace.era().wrapping_add(trunk_era);
    PathView { loss: lane.loss, rto: lane.control.rtt.rto(), era }
}

//! A network that exists only here, in a time that passes only here.

use super::*;
use crate::engine::limits::SharedLimits;
use crate::engine::verdict::{Offender, Verdict};
use portolan_common::observation::{HostObservation, PortState, Reason};
use portolan_common::scope::Scope;
use portolan_common::targets;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::IpAddr;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const RTT: Duration = Duration::from_millis(20);

/// What the network does with a probe.
pub(super) enum Fate {
    Answer(Answer, Duration),
    Silence,
    /// This host cannot send it.
    Held {
        hold: Hold,
    },
}

pub(super) use Fate::{Held, Silence};

pub(super) const OPEN: Answer = Answer::Open { rtt: Some(RTT), doubt: None };
pub(super) const REFUSED: Answer = Answer::Refused { rtt: Some(RTT) };

pub(super) fn soon(answer: Answer) -> Fate {
    Fate::Answer(answer, RTT)
}

pub(super) fn icmp(verdict: Verdict) -> Fate {
    soon(Answer::Icmp { verdict, offender: Offender::Other })
}

/// One sweep, or single looks, and what was seen of it.
pub(super) struct Sim<I: Intake = Itinerary> {
    pub(super) scheduler: Scheduler<I>,
    /// Takes a finished host; looks are told to who asked for them.
    take_finished: fn(&mut Scheduler<I>) -> Option<HostObservation>,
    pub(super) start: Instant,
    pub(super) now: Instant,
    /// Every probe that left: when, where to.
    pub(super) sent: Vec<(Instant, IpAddr, u16)>,
    pub(super) hosts: BTreeMap<IpAddr, HostObservation>,
    pub(super) most_in_flight: usize,
    pub(super) gave_up: bool,
    wire: Wire,
}

/// What is between this host and the others.
#[derive(Default)]
struct Wire {
    /// Probes by address and port.
    count: HashMap<(IpAddr, u16), u32>,
    /// Answers: when they come, to which flight, and their number.
    on_the_way: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    answers: HashMap<u64, Answer>,
    /// The flights that wait, and the number of their answer.
    alive: HashMap<usize, u64>,
    serial: u64,
}

pub(super) fn guard(scope: &str) -> Arc<Guard> {
    let text = format!("[scope]\nallow = [\"0.0.0.0/0\", \"::/0\"]\nmax_rate = 1000000\n{scope}");
    Arc::new(Guard::new(Scope::from_toml("satellite.toml", &text).unwrap()))
}

impl Sim {
    pub(super) fn new(targets: &str, ports: &str, scope: &str) -> Self {
        Self::with(targets, ports, scope, false, "2026-03-01T03:00:00+00:00[UTC]")
    }

    pub(super) fn with(targets: &str, ports: &str, scope: &str, gentle: bool, wall: &str) -> Self {
        let targets = targets::parse_all(&[targets.to_owned()], &[]).unwrap().resolve(&BTreeMap::new());
        let plan = Plan {
            targets,
            ports: ports.parse().unwrap(),
            gentle,
            max_rate: None,
            max_rate_per_host: None,
            seed: 42,
        };
        let lease = Lease::new(Arc::new(SharedLimits::with_budget(8192)));
        let start = Instant::now();
        let scheduler = Scheduler::new(plan, guard(scope), lease, start, wall.parse().unwrap());
        Self::of(scheduler, Scheduler::take_finished, start)
    }
}

impl<I: Intake> Sim<I> {
    pub(super) fn of(
        scheduler: Scheduler<I>,
        take_finished: fn(&mut Scheduler<I>) -> Option<HostObservation>,
        start: Instant,
    ) -> Self {
        let (sent, hosts) = (Vec::new(), BTreeMap::new());
        Self {
            scheduler,
            take_finished,
            start,
            now: start,
            sent,
            hosts,
            most_in_flight: 0,
            gave_up: false,
            wire: Wire::default(),
        }
    }

    /// Runs for so long at most; the network is told where a probe goes and the how-manieth of its port it is. Whether
    /// the sweep came to its end.
    pub(super) fn run_for(
        &mut self,
        time: Duration,
        mut network: impl FnMut(IpAddr, u16, u32, Instant) -> Fate,
    ) -> bool {
        let end = self.now + time;
        loop {
            while let Some(flight) = self.scheduler.take_ended() {
                self.wire.alive.remove(&flight);
            }
            while let Some(host) = (self.take_finished)(&mut self.scheduler) {
                assert!(self.hosts.insert(host.address, host).is_none(), "a host was told twice");
            }
            if self.now > end {
                return false;
            }
            let mut wake = match self.scheduler.next(self.now) {
                Step::Done => return true,
                Step::Wait(until) => until.max(self.now + Duration::from_micros(10)),
                Step::Probe(flight) => {
                    let (target, port) = self.scheduler.destination(flight).unwrap();
                    let address = target.address();
                    let nth = self.wire.count.entry((address, port)).or_default();
                    *nth += 1;
                    match network(address, port, *nth, self.now) {
                        Held { hold } => {
                            *nth -= 1;
                            if self.scheduler.held(flight, hold, 99, self.now) {
                                self.gave_up = true;
                                return false;
                            }
                            continue;
                        }
                        fate => {
                            self.sent.push((self.now, address, port));
                            self.wire.serial += 1;
                            let serial = self.wire.serial;
                            self.wire.alive.insert(flight, serial);
                            // Counting takes long; large sweeps do not ask for it.
                            if self.sent.len() < 10_000 {
                                self.most_in_flight = self.most_in_flight.max(self.scheduler.flights.fresh());
                            }
                            self.scheduler.pending(flight);
                            if let Fate::Answer(answer, after) = fate {
                                self.wire.on_the_way.push(Reverse((self.now + after, flight, serial)));
                                self.wire.answers.insert(serial, answer);
                            }
                            // Sending takes time too.
                            self.now + Duration::from_micros(10)
                        }
                    }
                }
            };
            if let Some(Reverse((at, ..))) = self.wire.on_the_way.peek() {
                wake = wake.min(*at);
            }
            self.now = self.now.max(wake);
            while let Some(Reverse((at, flight, number))) = self.wire.on_the_way.peek().copied() {
                if at > self.now {
                    break;
                }
                self.wire.on_the_way.pop();
                let answer = self.wire.answers.remove(&number).unwrap();
                if self.wire.alive.get(&flight) == Some(&number) {
                    self.wire.alive.remove(&flight);
                    self.scheduler.answered(flight, answer, self.now);
                    while let Some(flight) = self.scheduler.take_ended() {
                        self.wire.alive.remove(&flight);
                    }
                }
            }
            self.scheduler.expire(self.now);
        }
    }

    pub(super) fn run(mut self, network: impl FnMut(IpAddr, u16, u32, Instant) -> Fate) -> Self {
        assert!(self.run_for(Duration::from_secs(600), network), "still not at its end after ten minutes");
        self
    }

    pub(super) fn took(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn host(&self, address: &str) -> &HostObservation {
        &self.hosts[&address.parse::<IpAddr>().unwrap()]
    }

    pub(super) fn ports(&self, address: &str, state: PortState, reason: Reason) -> String {
        let runs = self.host(address).runs.iter();
        let found = runs.filter(|run| run.state == state && run.reason == reason);
        found.map(|run| run.ports.to_string()).collect::<Vec<_>>().join(";")
    }

    pub(super) fn probes_of(&self, port: u16) -> usize {
        self.sent.iter().filter(|(_, _, p)| *p == port).count()
    }
}

/// Whether one of 100 coins falls; the same each time it is asked the same.
pub(super) fn coin(percent: u64, address: IpAddr, port: u16, nth: u32) -> bool {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (address, port, nth).hash(&mut hasher);
    hasher.finish() % 100 < percent
}

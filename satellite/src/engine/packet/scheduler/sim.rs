//! A network that exists only here, in a time that passes only here.

use super::*;
use crate::engine::limits::SharedLimits;
use crate::engine::packet::discovery::Ping;
use crate::engine::packet::host::TrackId;
use portolan_common::observation::{PortState, Reason};
use portolan_common::scope::Scope;
use portolan_common::targets;
use std::collections::BTreeMap;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const RTT: Duration = Duration::from_millis(20);

/// A probe, as the network sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) address: IpAddr,
    pub(super) what: What,
    pub(super) at: Instant,
}

/// One sweep, and what was seen of it.
pub(super) struct Sim {
    pub(super) scheduler: Scheduler,
    pub(super) start: Instant,
    pub(super) now: Instant,
    /// Every probe that left.
    pub(super) sent: Vec<Seen>,
    pub(super) hosts: BTreeMap<IpAddr, HostObservation>,
    /// How long one probe takes to leave.
    pub(super) spacing: Duration,
    same_flow: bool,
}

pub(super) fn guard(scope: &str) -> Arc<Guard> {
    let text = format!("[scope]\nallow = [\"0.0.0.0/0\", \"::/0\"]\nmax_rate = 1000000\n{scope}");
    Arc::new(Guard::new(Scope::from_toml("satellite.toml", &text).unwrap()))
}

pub(super) fn plan(targets: &str, ports: &str) -> Plan {
    Plan {
        targets: targets::parse_all(&[targets.to_owned()], &[]).unwrap().resolve(&BTreeMap::new()),
        ports: ports.parse().unwrap(),
        gentle: false,
        discover: false,
        max_rate: None,
        max_rate_per_host: None,
        udp_budget: None,
        seed: 42,
    }
}

impl Sim {
    pub(super) fn new(plan: Plan, scope: &str) -> Self {
        Self::at(plan, scope, "2026-03-01T03:00:00+00:00[UTC]")
    }

    pub(super) fn at(plan: Plan, scope: &str, wall: &str) -> Self {
        let start = Instant::now();
        let same_flow = plan.gentle;
        let lease = PacketLease::new(Arc::new(SharedLimits::with_budget(8192)));
        let scheduler = Scheduler::new(plan, guard(scope), lease, start, wall.parse().unwrap());
        let spacing = Duration::from_micros(5);
        Self { scheduler, start, now: start, sent: Vec::new(), hosts: BTreeMap::new(), spacing, same_flow }
    }

    /// Runs for so long at most; the network is told of each probe and says what it answers and after how long.
    /// Whether the sweep came to its end.
    pub(super) fn run_for(
        &mut self,
        time: Duration,
        mut network: impl FnMut(Seen) -> Option<(Answer, Duration)>,
    ) -> bool {
        let end = self.now + time;
        let mut on_the_way: BinaryHeap<Reverse<(Instant, usize)>> = BinaryHeap::new();
        let mut answers = Vec::new();
        let mut batch = Vec::new();
        loop {
            while let Some((host, _)) = self.scheduler.take_unrouted() {
                self.scheduler.routed(host, false, self.now);
            }
            let next = self.scheduler.fill(self.now, self.spacing, 64, &mut batch);
            while let Some(host) = self.scheduler.take_finished() {
                assert!(self.hosts.insert(host.address, host).is_none(), "a host was told twice");
            }
            let Next::At(mut wake) = next else { return true };
            if self.now > end {
                return false;
            }
            for (i, probe) in batch.iter().enumerate() {
                let at = self.now + self.spacing * i as u32;
                let address = self.scheduler.target(probe.host).unwrap().address();
                let seen = Seen { address, what: probe.what, at };
                self.sent.push(seen);
                if let Some((answer, after)) = network(seen) {
                    on_the_way.push(Reverse((at + after, answers.len())));
                    answers.push((address, self.tell(answer, probe.what)));
                }
            }
            // Sending takes time too.
            self.now += self.spacing * batch.len().max(1) as u32;
            if let Some(Reverse((at, _))) = on_the_way.peek() {
                wake = wake.min(*at);
            }
            self.now = self.now.max(wake);
            while let Some(Reverse((at, number))) =
                on_the_way.peek().copied().filter(|next| next.0.0 <= self.now)
            {
                on_the_way.pop();
                let (address, answer) = answers[number];
                self.scheduler.answered(address, answer, 63, at);
            }
        }
    }

    /// The answer tells which probe it answers, where each has a flow of its own.
    fn tell(&self, answer: Answer, what: What) -> Answer {
        let which = match what {
            What::Port { attempt, .. } | What::Ping { attempt, .. } if !self.same_flow => Some(attempt & 15),
            _ => None,
        };
        match answer {
            Answer::SynAck { port, window, options, .. } => {
                Answer::SynAck { port, attempt: which, window, options }
            }
            Answer::Reset { port, .. } => Answer::Reset { port, attempt: which },
            answer => answer,
        }
    }

    pub(super) fn run(mut self, network: impl FnMut(Seen) -> Option<(Answer, Duration)>) -> Self {
        assert!(self.run_for(Duration::from_secs(3600), network), "still not at its end after an hour");
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

    pub(super) fn probes_of(&self, asked: u16) -> usize {
        let of = |seen: &&Seen| matches!(seen.what, What::Port { port, .. } if port == asked);
        self.sent.iter().filter(of).count()
    }
}

/// The TCP port that a probe asks, of those asked for or not.
pub(super) fn tcp(seen: Seen) -> Option<u16> {
    match seen.what {
        What::Port { track: TrackId::Tcp | TrackId::Canary, port, .. } => Some(port),
        What::Ping { ping: Ping::Syn(port), .. } => Some(port),
        _ => None,
    }
}

pub(super) fn open(seen: Seen) -> Option<(Answer, Duration)> {
    Some((Answer::SynAck { port: tcp(seen)?, attempt: None, window: 64_240, options: true }, RTT))
}

pub(super) fn closed(seen: Seen) -> Option<(Answer, Duration)> {
    Some((Answer::Reset { port: tcp(seen)?, attempt: None }, RTT))
}

/// Whether one of 100 coins falls; the same each time it is asked the same.
pub(super) fn coin(percent: u64, seen: Seen, salt: u64) -> bool {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let What::Port { port, attempt, .. } = seen.what else { return false };
    let mut hasher = DefaultHasher::new();
    (seen.address, port, attempt, salt).hash(&mut hasher);
    hasher.finish() % 100 < percent
}

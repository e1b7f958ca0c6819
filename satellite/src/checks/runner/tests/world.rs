//! A world of hosts and names that answer as a test says, and a runner in it.

use crate::checks::Orders;
use crate::checks::names::Answers;
use crate::checks::outside::Outside;
use crate::checks::report::Report;
use crate::checks::runner::Runner;
use crate::engine::{Control, Look, Looked, Outcome, SweepEvent, SweepRequest, SweepSummary};
use crate::resolve::Unresolved;
use jiff::{SignedDuration, Timestamp};
use portolan_common::observation::{HostObservation, PortState, Protocol, Reason, StateRun};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_common::scope::{Guard, Scope};
use portolan_proto::v1;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Reports that nobody took yet.
pub const ROOM: usize = 100;

/// An open port 443 at 10.0.0.1.
pub fn check(name: &str, every_ms: u64) -> v1::CheckAssignment {
    v1::CheckAssignment {
        name: name.into(),
        targets: vec!["10.0.0.1".into()],
        open: "443".into(),
        every_ms,
        confirm: 1,
        recover: 1,
        ..v1::CheckAssignment::default()
    }
}

#[derive(Default)]
struct Things {
    /// Ports that are not open.
    ports: HashMap<(IpAddr, u16), PortState>,
    names: HashMap<String, Vec<IpAddr>>,
    takes: Duration,
    /// How far the wall clock was set.
    set: SignedDuration,
    looks: Vec<(f64, IpAddr, PortSet)>,
    sweeps: Vec<String>,
    at_once: usize,
    most_at_once: usize,
    given_up: usize,
    /// Seconds that a sweep was seen to be paused.
    paused: u32,
}

/// See the module.
#[derive(Clone)]
pub struct World {
    things: Arc<Mutex<Things>>,
    guard: Arc<Mutex<Arc<Guard>>>,
    start: Instant,
    wall: Timestamp,
}

impl World {
    fn things(&self) -> MutexGuard<'_, Things> {
        self.things.lock().unwrap()
    }

    pub fn elapsed(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    pub fn set(&self, address: &str, port: u16, state: PortState) {
        self.things().ports.insert((address.parse().unwrap(), port), state);
    }

    /// No addresses: it does not resolve.
    pub fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.things().names.insert(name.to_owned(), addresses);
    }

    pub fn allow(&self, cidrs: &[&str]) {
        let cidrs: Vec<_> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        *self.guard.lock().unwrap() = Arc::new(Guard::new(Scope::allowing(&cidrs)));
    }

    /// How long a look takes, and a sweep.
    pub fn takes(&self, seconds: f64) {
        self.things().takes = Duration::from_secs_f64(seconds);
    }

    pub fn set_wall(&self, seconds: i64) {
        self.things().set += SignedDuration::from_secs(seconds);
    }

    pub fn looks(&self) -> usize {
        self.things().looks.len()
    }

    /// When an address was looked at, in seconds.
    pub fn times(&self, address: &str) -> Vec<f64> {
        let address: IpAddr = address.parse().unwrap();
        self.things().looks.iter().filter(|(_, at, _)| *at == address).map(|(time, ..)| *time).collect()
    }

    /// The ports of the last look.
    pub fn last_ports(&self) -> String {
        self.things().looks.last().unwrap().2.to_string()
    }

    pub fn sweeps(&self) -> Vec<String> {
        self.things().sweeps.clone()
    }

    pub fn most_at_once(&self) -> usize {
        self.things().most_at_once
    }

    pub fn given_up(&self) -> usize {
        self.things().given_up
    }

    pub fn paused(&self) -> u32 {
        self.things().paused
    }

    fn host(&self, target: &str, address: IpAddr, ports: &PortSpec) -> HostObservation {
        let things = self.things();
        let mut runs: Vec<StateRun> = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for port in ports.of(protocol).iter() {
                let state = things.ports.get(&(address, port)).copied().unwrap_or(PortState::Open);
                let ports = PortSet::single(port);
                match runs.iter_mut().find(|run| (run.protocol, run.state) == (protocol, state)) {
                    // Long lists are not put together one by one.
                    Some(_) if port > 1000 => {}
                    Some(run) => run.ports = run.ports.union(&ports),
                    None => runs.push(StateRun { protocol, state, reason: Reason::SynAck, ports }),
                }
            }
        }
        HostObservation {
            target: target.to_owned(),
            address,
            up: true,
            observed_at: self.wall,
            runs,
            details: Vec::new(),
            unscanned: PortSpec::default(),
            suspect: None,
        }
    }
}

/// Counts a look that nobody waits for any more.
struct UnderWay<'a>(&'a World, bool);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut things = self.0.things();
        things.at_once -= 1;
        things.given_up += usize::from(!self.1);
    }
}

impl Outside for World {
    fn wall(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.start.elapsed()).unwrap();
        self.wall + passed + self.things().set
    }

    fn guard(&self) -> Arc<Guard> {
        self.guard.lock().unwrap().clone()
    }

    async fn resolve(&self, names: Vec<String>) -> Answers {
        let mut answers = Answers::default();
        let things = self.things();
        for name in names {
            match things.names.get(&name).filter(|addresses| !addresses.is_empty()) {
                Some(addresses) => drop(answers.0.insert(name, addresses.clone())),
                None => answers.1.push(Unresolved { name, error: "no such name".into() }),
            }
        }
        answers
    }

    async fn look(&self, look: Look) -> Looked {
        let takes = {
            let elapsed = self.elapsed();
            let mut things = self.things();
            things.looks.push((elapsed, look.address, look.ports.clone()));
            things.at_once += 1;
            things.most_at_once = things.most_at_once.max(things.at_once);
            things.takes
        };
        let mut under_way = UnderWay(self, false);
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        under_way.1 = true;
        let ports = PortSpec { tcp: look.ports, udp: PortSet::default() };
        Looked::Host(self.host(&look.target, look.address, &ports))
    }

    async fn sweep(
        &self,
        request: SweepRequest,
        events: mpsc::Sender<SweepEvent>,
        control: Control,
    ) -> SweepSummary {
        assert!(request.gentle);
        let takes = {
            let mut things = self.things();
            things.sweeps.push(format!("{} {} {}", request.targets.addresses, request.ports, request.method));
            things.takes
        };
        let mut left = takes.as_secs();
        while left > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if *control.pause.borrow() {
                self.things().paused += 1;
            } else {
                left -= 1;
            }
        }
        for address in request.targets.addresses.iter() {
            let host = self.host(request.targets.typed(address), address, &request.ports);
            let _ = events.send(SweepEvent::Host(host)).await;
        }
        SweepSummary {
            outcome: Outcome::Complete,
            hosts_up: 1,
            hosts_total: 1,
            probes_sent: 1,
            refusals: Vec::new(),
            refusals_dropped: 0,
            coverage: Vec::new(),
            method: request.method.to_string(),
            method_reason: String::new(),
            notes: Vec::new(),
        }
    }
}

/// A runner at work.
pub struct Run {
    pub world: World,
    pub orders: Arc<Orders>,
    reports: mpsc::Receiver<Report>,
    taken: Vec<Report>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Run {
    pub fn start(wall: &str) -> Self {
        let guard = Arc::new(Guard::new(Scope::allowing(&["10.0.0.0/8".parse().unwrap()])));
        let world = World {
            things: Arc::default(),
            guard: Arc::new(Mutex::new(guard)),
            start: Instant::now(),
            wall: wall.parse().unwrap(),
        };
        let (sender, reports) = mpsc::channel(ROOM);
        let (orders, stop) = (Arc::new(Orders::default()), CancellationToken::new());
        let runner = Runner::new(world.clone(), sender);
        let task = tokio::spawn({
            let (orders, stop) = (orders.clone(), stop.clone());
            async move { runner.run(&orders, &stop).await }
        });
        Self { world, orders, reports, taken: Vec::new(), stop, task }
    }

    pub fn assign(&self, revision: u64, checks: Vec<v1::CheckAssignment>, blackouts: Vec<v1::Window>) {
        self.orders.assign(v1::Assignment {
            revision,
            satellite_name: "office-1".into(),
            checks,
            blackouts,
            ..v1::Assignment::default()
        });
    }

    /// Lets time pass, and takes what is reported.
    pub async fn pass(&mut self, seconds: f64) {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        // Who was told something at this moment acts on it before time goes on.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        while let Ok(Some(report)) = tokio::time::timeout_at(until, self.reports.recv()).await {
            self.taken.push(report);
        }
    }

    /// Lets time pass, and takes nothing.
    pub async fn stuck(&self, seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }

    /// The hosts, with whether they were urgent, and statuses since the last time.
    pub fn reports(&mut self) -> (Vec<(HostObservation, bool)>, Vec<v1::CheckStatus>) {
        let (mut hosts, mut told) = (Vec::new(), Vec::new());
        for report in self.taken.drain(..) {
            match report {
                Report::Host { host, urgent } => hosts.push((host, urgent)),
                Report::Status(status) => told.push(*status),
            }
        }
        (hosts, told)
    }

    /// Stops it; how many hosts were reported in all since the last time.
    pub async fn end(&mut self) -> usize {
        self.stop.cancel();
        while let Some(report) = self.reports.recv().await {
            self.taken.push(report);
        }
        (&mut self.task).await.unwrap();
        self.reports().0.len()
    }
}

//! One task that runs all checks: what is due begins, what is under way ends, what was seen is judged and passed on.
//! Looks and sweeps themselves are tasks of their own, bounded in number; while nothing can be passed on, none begin.

mod check;
mod rounds;
#[cfg(test)]
mod tests;
mod under_way;

use super::blackout::Blackouts;
use super::names::Names;
use super::outside::Outside;
use super::report::Report;
use super::schedule::{CheckId, Now, Timetable, pop_until, seed};
use super::spec::{Spec, read_windows};
use super::{Orders, status};
use crate::shown::shown;
use check::Check;
use portolan_common::names::MAX_NAME;
use portolan_common::observation::HostObservation;
use portolan_common::schedule::Schedule;
use portolan_common::scope::Guard;
use portolan_proto::v1;
use prost::Message as _;
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use under_way::{Done, Sweeps, Ticket};

/// Hosts that sweeps found and nobody took yet.
const HOSTS: usize = 64;
/// Tasks that ended and are taken in at once, before it is looked what is due.
const AT_ONCE: usize = 64;

/// See the module.
pub struct Runner<O> {
    outside: Arc<O>,
    reports: mpsc::Sender<Report>,
    /// What there was no room for. While it holds anything, nothing is taken that would add to it.
    outbox: VecDeque<Report>,
    revision: u64,
    checks: HashMap<CheckId, Box<Check>>,
    by_name: HashMap<String, Known>,
    ids: u64,
    timetable: Timetable,
    blackouts: Blackouts,
    /// In a blackout.
    dark: bool,
    names: Names,
    /// The scope, and how many there were before it.
    guard: (Arc<Guard>, u64),
    /// Changes to look at again.
    again: BinaryHeap<Reverse<(Instant, (CheckId, IpAddr))>>,
    tasks: JoinSet<Done>,
    tickets: HashMap<Id, Ticket>,
    looks: under_way::Looks,
    sweeps: Sweeps,
    pause: watch::Sender<bool>,
    found: mpsc::Sender<(CheckId, HostObservation)>,
    hosts: mpsc::Receiver<(CheckId, HostObservation)>,
}

/// A check as the assignment has it.
struct Known {
    /// Over all that is said of it.
    digest: u128,
    /// `None`: it cannot be read.
    id: Option<CheckId>,
}

impl<O: Outside> Runner<O> {
    /// Without checks. Ends up telling all through `reports`.
    pub fn new(outside: O, reports: mpsc::Sender<Report>) -> Self {
        let (found, hosts) = mpsc::channel(HOSTS);
        let now = Now { at: tokio::time::Instant::now().into_std(), wall: outside.wall() };
        Self {
            guard: (outside.guard(), 0),
            outside: Arc::new(outside),
            reports,
            outbox: VecDeque::new(),
            revision: 0,
            checks: HashMap::new(),
            by_name: HashMap::new(),
            ids: 0,
            timetable: Timetable::new(now),
            blackouts: Blackouts::default(),
            dark: false,
            names: Names::default(),
            again: BinaryHeap::new(),
            tasks: JoinSet::new(),
            tickets: HashMap::new(),
            looks: under_way::Looks::default(),
            sweeps: Sweeps::default(),
            pause: watch::Sender::new(false),
            found,
            hosts,
        }
    }

    fn now(&self) -> Now {
        Now { at: tokio::time::Instant::now().into_std(), wall: self.outside.wall() }
    }

    /// Until `stop`; what is under way is given up then, and what was seen is passed on.
    pub async fn run(mut self, orders: &Orders, stop: &CancellationToken) {
        let reports = self.reports.clone();
        let alarm = tokio::time::sleep_until(self.now().at.into());
        tokio::pin!(alarm);
        loop {
            let wake = self.advance();
            orders.darken(self.dark);
            alarm.as_mut().reset(wake.into());
            let free = self.outbox.is_empty();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                waiting = orders.next() => {
                    if let Some(assignment) = waiting.assignment {
                        self.assign(assignment);
                    }
                    self.order(&waiting.run);
                }
                room = reports.reserve(), if !free => match (room, self.outbox.pop_front()) {
                    (Ok(room), Some(report)) => room.send(report),
                    // Nobody takes reports any more.
                    _ => break,
                },
                Some((id, host)) = self.hosts.recv(), if free => self.saw(id, host),
                Some(ended) = self.tasks.join_next_with_id(), if free => {
                    self.ended(ended);
                    for _ in 0..AT_ONCE {
                        if !self.outbox.is_empty() {
                            break;
                        }
                        let Some(ended) = self.tasks.try_join_next_with_id() else { break };
                        self.ended(ended);
                    }
                }
                () = &mut alarm => {}
            }
        }
        self.tasks.shutdown().await;
        for report in self.outbox {
            // Whoever took them ended before.
            let _ = reports.send(report).await;
        }
    }

    /// Begins what is due; when to look again.
    fn advance(&mut self) -> Instant {
        let now = self.now();
        self.look_outside(now);
        let free = self.outbox.is_empty();
        if free {
            while let Some(id) = self.timetable.next_due(now) {
                self.begin(id, now);
            }
            if !self.dark {
                let mut swept = rounds::Doubts::new();
                while let Some((at, (id, address))) = pop_until(&mut self.again, now.at) {
                    self.look_again(id, address, at, &mut swept);
                }
                self.sweep_doubts(swept);
                self.pump();
            }
        }
        let (turn, doubt) = if free && self.outbox.is_empty() {
            let doubt = self.again.peek().map(|Reverse((at, ..))| *at);
            (self.timetable.wake(now), doubt.filter(|_| !self.dark))
        } else {
            (None, None)
        };
        let blackout = self.blackouts.wait(now.wall).map(|wait| now.at + wait);
        let far = now.at + Duration::from_secs(3600);
        turn.into_iter().chain(doubt).chain(blackout).fold(far, Instant::min)
    }

    /// Whether it is dark, and what the scope file says.
    fn look_outside(&mut self, now: Now) {
        let guard = self.outside.guard();
        if !Arc::ptr_eq(&guard, &self.guard.0) {
            self.guard = (guard, self.guard.1 + 1);
        }
        let dark = self.blackouts.hold(now.wall);
        if std::mem::replace(&mut self.dark, dark) == dark {
            return;
        }
        self.pause.send_replace(dark);
        if dark {
            tracing::info!("a blackout begins: checks send nothing");
            self.hold_back();
        } else {
            tracing::info!("the blackout is over: checks go on");
            self.timetable.resume(now);
        }
    }

    // --- what the server says ---

    fn assign(&mut self, assignment: v1::Assignment) {
        let now = self.now();
        self.revision = assignment.revision;
        let windows = read_windows(&assignment.blackouts);
        // Without knowing when it must not, it does not send at all.
        let unreadable = windows.as_ref().err().map(|why| format!("no check runs: {why}"));
        self.blackouts = Blackouts::new(windows.unwrap_or_default());
        self.look_outside(now);
        let mut before = std::mem::take(&mut self.by_name);
        let mut gone = HashSet::new();
        for wire in assignment.checks {
            if self.by_name.contains_key(&wire.name) {
                // The other would run on for ever: what is known of a check is found by its name.
                let check = shown(&wire.name, MAX_NAME);
                tracing::error!(check, "the check stands twice in the assignment: the first counts");
                continue;
            }
            let digest = digest(&assignment.satellite_name, unreadable.as_deref(), &wire);
            if let Some(known) = before.remove(&wire.name) {
                if known.digest == digest {
                    self.by_name.insert(wire.name, known);
                    continue;
                }
                gone.extend(known.id);
            }
            let spec = match &unreadable {
                Some(why) => Err(why.clone()),
                None => Spec::read(&wire, now.wall),
            };
            let id = match spec {
                Ok((spec, schedule)) => {
                    let seed = seed(&assignment.satellite_name, &wire.name);
                    Some(self.add(&wire.name, spec, &schedule, seed, now))
                }
                Err(why) => {
                    tracing::error!(check = shown(&wire.name, MAX_NAME), "the check does not run: {why}");
                    let status = status::failed(&wire.name, self.revision, now.wall.as_millisecond(), &why);
                    self.report(Report::Status(Box::new(status)));
                    None
                }
            };
            self.by_name.insert(wire.name, Known { digest, id });
        }
        gone.extend(before.into_values().filter_map(|known| known.id));
        self.remove(&gone);
        let used: HashSet<&str> =
            self.checks.values().flat_map(|check| check.names()).map(String::as_str).collect();
        self.names.retain(&used);
        tracing::info!(revision = self.revision, checks = self.checks.len(), "checks");
    }

    fn add(&mut self, name: &str, spec: Spec, schedule: &Schedule, seed: u64, now: Now) -> CheckId {
        self.ids += 1;
        let id = CheckId(self.ids);
        self.timetable.add(id, schedule, seed, now);
        self.checks.insert(id, Box::new(Check::new(name, spec)));
        if matches!(schedule, Schedule::Cron(_)) {
            self.announce(id);
        }
        id
    }

    fn remove(&mut self, gone: &HashSet<CheckId>) {
        for id in gone {
            self.checks.remove(id);
            self.timetable.remove(*id);
        }
        self.give_up(gone);
    }

    fn order(&mut self, names: &BTreeSet<String>) {
        let now = self.now();
        for name in names {
            match self.by_name.get(name) {
                Some(Known { id: Some(id), .. }) => self.timetable.order(*id, now),
                Some(_) => {}
                None => tracing::debug!(check = %name, "is not assigned, and so it is not run"),
            }
        }
    }

    // --- what is told ---

    fn report(&mut self, report: Report) {
        if !self.outbox.is_empty() {
            self.outbox.push_back(report);
            return;
        }
        match self.reports.try_send(report) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(report)) => self.outbox.push_back(report),
        }
    }

    /// Judges what was seen of a host, and passes it on.
    fn saw(&mut self, id: CheckId, host: HostObservation) {
        let now = self.now();
        let Some(check) = self.checks.get_mut(&id) else { return };
        let every = check.real_interval(self.timetable.takes(id));
        let noted = check.memory.observe(check.spec.rules(), &host, every, now.at);
        self.again.extend(noted.look_at.map(|at| Reverse((at, (id, host.address)))));
        self.report(Report::Host { host, urgent: noted.urgent });
    }
}

/// Over everything that makes a check what it is here.
fn digest(satellite: &str, unreadable: Option<&str>, wire: &v1::CheckAssignment) -> u128 {
    let mut hasher = SipHasher13::new();
    for text in [satellite, unreadable.unwrap_or_default()] {
        hasher.write(text.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.write(&wire.encode_to_vec());
    hasher.finish128().as_u128()
}

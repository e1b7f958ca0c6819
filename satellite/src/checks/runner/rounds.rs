//! How a check runs once: its names are looked up, its addresses looked at or swept, and what came of it is told.

use super::check::Round;
use super::under_way::{Done, Job, MAX_LOOKS, MAX_LOOKS_EACH, Ticket, What};
use super::{Outside, Runner};
use crate::checks::names::Answers;
use crate::checks::report::Report;
use crate::checks::schedule::{CheckId, Now};
use crate::engine::{
    self, Control, Discovery, Look, Looked, Refusal, SweepEvent, SweepRequest, SweepSummary,
};
use jiff::Zoned;
use portolan_common::addresses::{AddressRange, AddressSet};
use portolan_common::observation::HostObservation;
use portolan_common::ports::{PortSet, PortSpec};
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError};
use tokio_util::sync::CancellationToken;

/// Events between a sweep and the runner.
const EVENTS: usize = 64;
/// How long UDP ports of a host that limits its ICMP errors are asked again: as long as the interval, within these.
const UDP_BUDGET: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));

impl<O: Outside> Runner<O> {
    /// Says what a check comes to that does not run at once, where that is known without asking anybody.
    pub(super) fn announce(&mut self, id: CheckId) {
        let Some(check) = self.checks.get_mut(&id) else { return };
        if check.names().is_empty() {
            check.take_aim(Answers::default(), &self.guard.0, self.guard.1);
            self.tell(id);
        }
    }

    /// A check's turn has come.
    pub(super) fn begin(&mut self, id: CheckId, now: Now) {
        if self.dark {
            self.timetable.defer(id);
            return;
        }
        let Some(check) = self.checks.get_mut(&id) else { return };
        check.round = Some(Box::default());
        let stale = self.names.stale(check.names(), check.spec.every, now.at);
        if stale.is_empty() {
            self.probe(id);
            return;
        }
        let outside = self.outside.clone();
        let looking_up = async move { Done::Resolved(outside.resolve(stale).await) };
        self.spawn(id, What::Resolve, looking_up);
    }

    fn spawn(&mut self, check: CheckId, what: What, task: impl Future<Output = Done> + Send + 'static) {
        let task = self.tasks.spawn(task);
        self.tickets.insert(task.id(), Ticket { check, task, what });
    }

    /// Its names are known: what is to be looked at gets in line.
    fn probe(&mut self, id: CheckId) {
        let Some(check) = self.checks.get_mut(&id) else { return };
        let answers = self.names.known(check.names());
        let aim = check.take_aim(answers, &self.guard.0, self.guard.1);
        let Some(round) = &mut check.round else { return };
        for refusal in aim.refused() {
            round.findings.refused(refusal);
        }
        if let Some(flaw) = aim.flaw() {
            round.findings.failed(&flaw);
        } else if !aim.permitted().is_empty() {
            let ways = check.spec.ways(&check.spec.ports.all());
            if !ways.look.is_empty() {
                round.end = aim.permitted().len();
                round.ports = ways.look;
                round.queued = true;
                round.findings.used("connect");
                self.looks.rounds.push_back(id);
            }
            round.sweeps = ways.sweeps.len();
            for (ports, method) in ways.sweeps {
                let addresses = aim.permitted().clone();
                self.sweeps.add(Job { check: id, addresses, ports, method, doubts: Vec::new() });
            }
            if round.sweeps > 0 || round.end > MAX_LOOKS_EACH as u128 {
                check.note_beginning();
                self.tell(id);
            }
        }
        self.finish_if_over(id);
    }

    /// Begins as many looks and sweeps as there is room for.
    pub(super) fn pump(&mut self) {
        while self.looks.under_way < MAX_LOOKS {
            if let Some((id, address, ports)) = self.looks.doubts.pop_front() {
                self.look(id, address, ports, true);
            } else if let Some(id) = self.looks.rounds.pop_front() {
                self.look_on(id);
            } else {
                break;
            }
        }
        while let Some(job) = self.sweeps.next() {
            self.sweep(job);
        }
    }

    /// The next look of a round.
    fn look_on(&mut self, id: CheckId) {
        let Some(check) = self.checks.get_mut(&id) else { return };
        let (Some(round), Some(aim)) = (&mut check.round, &check.aim) else { return };
        round.queued = false;
        let Some(address) = aim.permitted().nth(round.next).filter(|_| round.next < round.end) else {
            return;
        };
        round.next += 1;
        round.looks += 1;
        round.queued = round.next < round.end && round.looks < MAX_LOOKS_EACH;
        if round.queued {
            self.looks.rounds.push_back(id);
        }
        let ports = round.ports.clone();
        self.look(id, address, ports, false);
    }

    fn look(&mut self, id: CheckId, address: IpAddr, ports: PortSet, doubt: bool) {
        let Some(aim) = self.checks.get(&id).and_then(|check| check.aim.as_ref()) else { return };
        let look = Look { target: aim.targets.typed(address).to_owned(), address, ports };
        let outside = self.outside.clone();
        self.looks.under_way += 1;
        self.spawn(id, What::Look { address, doubt }, async move { Done::Looked(outside.look(look).await) });
    }

    fn sweep(&mut self, job: Job) {
        let long = job.is_long();
        let check = self.checks.get(&job.check);
        let Some((check, aim)) = check.and_then(|check| Some((check, check.aim.as_ref()?))) else {
            self.sweeps.ended(long);
            return;
        };
        let (shortest, longest) = UDP_BUDGET;
        let mut targets = (*aim.targets).clone();
        targets.addresses = job.addresses;
        let request = SweepRequest {
            targets,
            ports: job.ports,
            method: job.method,
            gentle: true,
            discover: Discovery::Off,
            udp_budget: Some(check.spec.every.clamp(shortest, longest)),
            max_rate: None,
            max_rate_per_host: None,
        };
        let control = Control { cancel: CancellationToken::new(), pause: self.pause.subscribe() };
        let (outside, found, id) = (self.outside.clone(), self.found.clone(), job.check);
        self.spawn(id, What::Sweep { long, doubts: job.doubts }, async move {
            let (sender, mut events) = mpsc::channel(EVENTS);
            let forward = async {
                while let Some(event) = events.recv().await {
                    if let SweepEvent::Host(host) = event
                        && found.send((id, host)).await.is_err()
                    {
                        return;
                    }
                }
            };
            let (summary, ()) = tokio::join!(outside.sweep(request, sender, control), forward);
            Done::Swept(summary)
        });
    }

    // --- what comes back ---

    /// A task ended.
    pub(super) fn ended(&mut self, ended: Result<(Id, Done), JoinError>) {
        let (task, done) = match ended {
            Ok((task, done)) => (task, Ok(done)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(Ticket { check: id, what, .. }) = self.tickets.remove(&task) else { return };
        match what {
            What::Resolve => {
                if let Ok(Done::Resolved(answers)) = done {
                    self.names.learn(answers, self.now().at);
                }
                if self.dark {
                    self.cut_off(id);
                } else {
                    self.probe(id);
                }
            }
            What::Look { address, doubt } => {
                self.looks.under_way = self.looks.under_way.saturating_sub(1);
                self.looked(id, address, done, doubt);
            }
            What::Sweep { long, doubts } => {
                self.sweeps.ended(long);
                self.swept(id, done, &doubts);
            }
        }
    }

    fn looked(&mut self, id: CheckId, address: IpAddr, done: Result<Done, JoinError>, doubt: bool) {
        let mut findings = Vec::new();
        let mut cut = false;
        match done {
            Ok(Done::Looked(Looked::Host(host))) => {
                findings.extend(self.refusals(&host));
                self.saw(id, host);
            }
            Ok(Done::Looked(Looked::Refused(refusals))) => findings = refusals,
            Ok(Done::Looked(Looked::Failed(why))) => self.failed(id, &why),
            Err(error) if error.is_cancelled() => cut = true,
            Err(error) => self.failed(id, &format!("a look stopped unexpectedly: {error}")),
            Ok(Done::Resolved(_) | Done::Swept(_)) => {}
        }
        if doubt {
            self.doubt_again(id, address);
            return;
        }
        let Some(round) = self.checks.get_mut(&id).and_then(|check| check.round.as_mut()) else { return };
        round.looks = round.looks.saturating_sub(1);
        round.cut |= cut;
        for refusal in &findings {
            round.findings.refused(refusal);
        }
        if round.next < round.end && !std::mem::replace(&mut round.queued, true) {
            self.looks.rounds.push_back(id);
        }
        self.finish_if_over(id);
    }

    /// What the scope forbids of a host that was looked at all the same.
    fn refusals(&self, host: &HostObservation) -> Vec<Refusal> {
        if host.unscanned.is_empty() {
            return Vec::new();
        }
        let permit = self.guard.0.permit(host.address, &host.unscanned, &Zoned::now());
        let addresses = AddressRange::single(host.address);
        permit.refused.into_iter().map(|r| Refusal { addresses, ports: r.ports, rule: r.rule }).collect()
    }

    fn swept(&mut self, id: CheckId, done: Result<Done, JoinError>, doubts: &[IpAddr]) {
        for address in doubts {
            self.doubt_again(id, *address);
        }
        let Some(check) = self.checks.get_mut(&id) else { return };
        let Some(round) = check.round.as_mut().filter(|_| doubts.is_empty()) else { return };
        round.sweeps = round.sweeps.saturating_sub(1);
        match done {
            Ok(Done::Swept(summary)) => take_summary(round, &summary),
            Ok(Done::Resolved(_) | Done::Looked(_)) => {}
            Err(error) => round.findings.failed(&format!("a sweep stopped unexpectedly: {error}")),
        }
        self.finish_if_over(id);
    }

    fn failed(&mut self, id: CheckId, why: &str) {
        if let Some(round) = self.checks.get_mut(&id).and_then(|check| check.round.as_mut()) {
            round.findings.failed(why);
        }
    }

    // --- the end of a round ---

    fn finish_if_over(&mut self, id: CheckId) {
        let Some(check) = self.checks.get_mut(&id) else { return };
        let Some(round) = check.round.take_if(|round| round.is_over()) else { return };
        let now = self.now();
        if round.cut {
            self.timetable.defer(id);
            if !self.dark {
                self.timetable.resume(now);
            }
            return;
        }
        let takes = self.timetable.takes(id);
        if let Some(check) = self.checks.get_mut(&id) {
            check.note(round.findings, takes);
        }
        self.timetable.finished(id, now);
        self.tell(id);
    }

    fn tell(&mut self, id: CheckId) {
        let (revision, at_ms) = (self.revision, self.now().wall.as_millisecond());
        let news = self.checks.get_mut(&id).and_then(|check| check.news(revision, at_ms));
        if let Some(news) = news {
            self.report(Report::Status(Box::new(news)));
        }
    }

    /// A blackout begins: nothing more is sent. Sweeps pause by themselves, looks are given up, and what did not run
    /// to its end runs once it is over.
    pub(super) fn hold_back(&mut self) {
        for ticket in self.tickets.values().filter(|ticket| matches!(ticket.what, What::Look { .. })) {
            ticket.task.abort();
        }
        for (id, address, _) in std::mem::take(&mut self.looks.doubts) {
            self.doubt_again(id, address);
        }
        for id in std::mem::take(&mut self.looks.rounds) {
            self.cut_off(id);
        }
    }

    fn cut_off(&mut self, id: CheckId) {
        if let Some(round) = self.checks.get_mut(&id).and_then(|check| check.round.as_mut()) {
            (round.end, round.queued, round.cut) = (round.next, false, true);
        }
        self.finish_if_over(id);
    }

    /// These checks are no more: nothing more is sent for them.
    pub(super) fn give_up(&mut self, gone: &HashSet<CheckId>) {
        self.sweeps.give_up(gone);
        for ticket in self.tickets.values().filter(|ticket| gone.contains(&ticket.check)) {
            ticket.task.abort();
        }
    }

    // --- changes ---

    /// A change is to be looked at again, if it still is one.
    pub(super) fn look_again(&mut self, id: CheckId, address: IpAddr, planned: Instant, swept: &mut Doubts) {
        let Some(check) = self.checks.get_mut(&id) else { return };
        let Some(ports) = check.memory.begin(address, planned) else { return };
        let ways = check.spec.ways(&ports);
        if !ways.look.is_empty() {
            self.looks.doubts.push_back((id, address, ways.look));
        }
        for (ports, _) in ways.sweeps {
            let (addresses, all) = swept.entry(id).or_default();
            addresses.push(address);
            *all = all.union(&ports);
        }
    }

    /// Changes that are swept for, those of one check together.
    pub(super) fn sweep_doubts(&mut self, doubts: Doubts) {
        for (id, (addresses, ports)) in doubts {
            let Some(check) = self.checks.get(&id) else { continue };
            for (ports, method) in check.spec.ways(&ports).sweeps {
                self.sweeps.add(Job {
                    check: id,
                    addresses: addresses.iter().copied().collect::<AddressSet>(),
                    ports,
                    method,
                    doubts: addresses.clone(),
                });
            }
        }
    }

    /// A look at a change ended; another one may be due.
    fn doubt_again(&mut self, id: CheckId, address: IpAddr) {
        let now = self.now().at;
        let every = self.timetable.takes(id);
        let Some(check) = self.checks.get_mut(&id) else { return };
        let every = check.real_interval(every);
        let next = check.memory.ended(address, every, now);
        self.again.extend(next.map(|at| std::cmp::Reverse((at, (id, address)))));
    }
}

/// Addresses with changes that are swept for, and the ports.
pub(super) type Doubts = BTreeMap<CheckId, (Vec<IpAddr>, PortSpec)>;

fn take_summary(round: &mut Round, summary: &SweepSummary) {
    round.findings.used(&summary.method);
    for refusal in &summary.refusals {
        round.findings.refused(refusal);
    }
    round.findings.refused_more(summary.refusals_dropped);
    if let engine::Outcome::Failed(why) = &summary.outcome {
        round.findings.failed(why);
    }
}

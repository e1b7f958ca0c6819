//! What checks saw, on its way into the spool. What changed goes at once, what only confirms waits for company: the
//! fewer records, the less work for everybody.

use crate::scans::{BATCH_BYTES, BATCH_HOSTS, wire};
use crate::spool::Spool;
use portolan_common::observation::{HostObservation, StateRun};
use portolan_common::ports::PortSpec;
use portolan_proto::batch;
use portolan_proto::v1::{self, record::Body};
use prost::Message as _;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long what changed waits for company, …
const URGENT: Duration = Duration::from_millis(20);
/// … and what only confirms.
const PATIENT: Duration = Duration::from_millis(500);

/// What there is to report.
#[derive(Debug)]
pub enum Report {
    /// A host.
    Host {
        /// What was seen.
        host: HostObservation,
        /// It has to do with a change.
        urgent: bool,
    },
    /// How a check fares.
    Status(Box<v1::CheckStatus>),
}

/// Gathers hosts into records. Each address stands in a record once: what different checks saw of it at nearly the same
/// time is put together where that loses nothing.
#[derive(Debug, Default)]
pub struct Gathering {
    hosts: HashMap<IpAddr, HostObservation>,
    /// What they take up, roughly.
    bytes: usize,
    /// When they go at the latest.
    due: Option<Instant>,
}

impl Gathering {
    /// Adds a host; the records that have to go before it, or with it.
    pub fn add(&mut self, host: HostObservation, urgent: bool, now: Instant) -> Vec<Body> {
        let mut records = Vec::new();
        let bytes = wire(&host).encoded_len() + 8;
        let crowded = self.hosts.len() >= BATCH_HOSTS || self.bytes + bytes > BATCH_BYTES;
        if crowded && !self.hosts.is_empty() {
            records.extend(self.flush());
        }
        let address = host.address;
        match self.hosts.get_mut(&address).map(|known| combine(known, &host)) {
            Some(true) => {}
            // The server takes an address once in a record.
            Some(false) => {
                records.extend(self.flush());
                self.hosts.insert(address, host);
            }
            None => drop(self.hosts.insert(address, host)),
        }
        self.bytes += bytes;
        let until = now + if urgent { URGENT } else { PATIENT };
        self.due = Some(self.due.map_or(until, |due| due.min(until)));
        records
    }

    /// When what is there goes at the latest.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// All that is there.
    pub fn flush(&mut self) -> Option<Body> {
        (self.bytes, self.due) = (0, None);
        if self.hosts.is_empty() {
            return None;
        }
        let mut record = Vec::new();
        for (_, host) in self.hosts.drain() {
            batch::push(&mut record, &wire(&host));
        }
        Some(Body::Observations(record))
    }
}

/// Puts together what was seen of other ports of the same address; `false` when that would lose something.
fn combine(host: &mut HostObservation, other: &HostObservation) -> bool {
    let asked = |host: &HostObservation| {
        host.runs.iter().fold(host.unscanned.clone(), |all, run| {
            all.union(&PortSpec::only(run.protocol, run.ports.clone()))
        })
    };
    let apart = host.target == other.target
        && host.suspect.is_none()
        && other.suspect.is_none()
        && asked(host).intersection(&asked(other)).is_empty();
    if !apart {
        return false;
    }
    for run in &other.runs {
        let like = |known: &&mut StateRun| {
            (known.protocol, known.state, known.reason) == (run.protocol, run.state, run.reason)
        };
        match host.runs.iter_mut().find(like) {
            Some(known) => known.ports = known.ports.union(&run.ports),
            None => host.runs.push(run.clone()),
        }
    }
    host.details.extend(other.details.iter().cloned());
    host.details.sort_unstable_by_key(|detail| (detail.protocol, detail.port));
    host.unscanned = host.unscanned.union(&other.unscanned);
    host.up |= other.up;
    host.observed_at = host.observed_at.max(other.observed_at);
    true
}

/// Carries reports into the spool until nobody is left who could bring any. While the spool takes nothing, it takes
/// nothing either.
pub async fn carry(mut reports: mpsc::Receiver<Report>, spool: &Spool) {
    let mut gathering = Gathering::default();
    loop {
        let received = match gathering.due() {
            Some(due) => tokio::time::timeout_at(due.into(), reports.recv()).await.ok(),
            None => Some(reports.recv().await),
        };
        let ended = matches!(received, Some(None));
        match received.flatten() {
            Some(Report::Host { host, urgent }) => {
                for record in gathering.add(host, urgent, now()) {
                    spool.enqueue(record).await;
                }
            }
            Some(Report::Status(status)) => spool.enqueue(Body::CheckStatus(*status)).await,
            None => {}
        }
        // Under load there is always one more, and the time is up all the same.
        if (ended || gathering.due().is_some_and(|due| due <= now()))
            && let Some(record) = gathering.flush()
        {
            spool.enqueue(record).await;
        }
        if ended {
            return;
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::disk::Disk;
    use crate::spool::{Clock, SpoolSettings};
    use jiff::Timestamp;
    use portolan_common::observation::{PortDetail, PortState, Protocol, Reason, SuspectKind, Suspicion};
    use portolan_common::ports::PortSet;
    use std::sync::Arc;

    fn host(address: &str, port: u16, state: PortState) -> HostObservation {
        let reason = if state == PortState::Open { Reason::SynAck } else { Reason::NoResponse };
        let ports = PortSet::single(port);
        HostObservation {
            target: "shop".into(),
            address: address.parse().unwrap(),
            up: state == PortState::Open,
            observed_at: Timestamp::from_second(port.into()).unwrap(),
            runs: vec![StateRun { protocol: Protocol::Tcp, state, reason, ports }],
            details: vec![PortDetail { protocol: Protocol::Tcp, port, rtt_us: 5 }],
            unscanned: PortSpec::default(),
            suspect: None,
        }
    }

    fn hosts(record: &Body) -> Vec<HostObservation> {
        let Body::Observations(bytes) = record else { panic!("{record:?}") };
        batch::hosts(bytes).map(|host| HostObservation::try_from(&host.unwrap()).unwrap()).collect()
    }

    #[test]
    fn what_checks_saw_of_one_address_is_put_together() {
        let now = Instant::now();
        let mut gathering = Gathering::default();
        assert!(gathering.add(host("10.0.0.1", 443, PortState::Open), false, now).is_empty());
        assert!(gathering.add(host("10.0.0.1", 80, PortState::Open), false, now).is_empty());
        assert!(gathering.add(host("10.0.0.1", 81, PortState::Filtered), false, now).is_empty());
        assert_eq!(gathering.due(), Some(now + PATIENT));
        // Again the same port: the one before has to be told, too.
        let before = gathering.add(host("10.0.0.1", 443, PortState::Filtered), true, now);
        assert_eq!(gathering.due(), Some(now + URGENT));
        let [seen] = &hosts(&before[0])[..] else { panic!("{before:?}") };
        assert_eq!(seen.ports_in(Protocol::Tcp, PortState::Open).to_string(), "80,443");
        assert_eq!(seen.ports_in(Protocol::Tcp, PortState::Filtered).to_string(), "81");
        let details: Vec<u16> = seen.details.iter().map(|detail| detail.port).collect();
        assert_eq!((details, seen.up, seen.observed_at.as_second()), (vec![80, 81, 443], true, 443));
        let suspect = Some(Suspicion { kind: SuspectKind::Tarpit, confidence: 9, evidence: String::new() });
        let odd = HostObservation { suspect, ..host("10.0.0.1", 1, PortState::Open) };
        assert_eq!(gathering.add(odd, false, now).len(), 1, "what is odd stands alone");
        let other = HostObservation { target: "mail".into(), ..host("10.0.0.2", 1, PortState::Open) };
        assert!(gathering.add(other, false, now).is_empty());
        assert_eq!(gathering.add(host("10.0.0.2", 2, PortState::Open), false, now).len(), 1, "another name");
        assert_eq!(hosts(&gathering.flush().unwrap()).len(), 1);
        assert!(gathering.flush().is_none() && gathering.due().is_none());
    }

    #[test]
    fn records_have_bounds() {
        let now = Instant::now();
        let mut gathering = Gathering::default();
        let mut records = Vec::new();
        for n in 0..5000u16 {
            let [high, low] = n.to_be_bytes();
            records.extend(gathering.add(
                host(&format!("10.0.{high}.{low}"), 1, PortState::Open),
                false,
                now,
            ));
        }
        records.extend(gathering.flush());
        let sizes: Vec<usize> = records.iter().map(|record| hosts(record).len()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 5000);
        assert!(sizes.iter().all(|size| *size <= BATCH_HOSTS));
        for record in &records {
            let Body::Observations(bytes) = record else { panic!("{record:?}") };
            assert!(bytes.len() <= BATCH_BYTES);
        }
    }

    #[tokio::test]
    async fn what_changed_goes_at_once_and_the_last_is_not_lost() {
        let spool =
            Spool::open_on(Arc::new(Disk::default()), SpoolSettings::default(), Clock::system()).unwrap();
        let (sender, receiver) = mpsc::channel(10);
        let bring = async {
            let report = |n: u16, urgent| Report::Host { host: host("10.0.0.1", n, PortState::Open), urgent };
            let began = Instant::now();
            sender.send(report(1, false)).await.unwrap();
            sender.send(report(2, true)).await.unwrap();
            while spool.depth() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(began.elapsed() < PATIENT, "{:?}", began.elapsed());
            sender.send(report(3, false)).await.unwrap();
            let status = v1::CheckStatus { check: "shop".into(), ..v1::CheckStatus::default() };
            sender.send(Report::Status(Box::new(status))).await.unwrap();
            drop(sender);
        };
        tokio::join!(bring, carry(receiver, &spool));
        spool.hello();
        assert!(spool.welcome(0, Some(100)).await);
        let mut told = Vec::new();
        for _ in 0..3 {
            let record = tokio::time::timeout(Duration::from_secs(60), spool.next()).await.unwrap();
            assert!(record.scan_id.is_empty());
            told.push(match record.body.unwrap() {
                Body::CheckStatus(status) => status.check,
                body => hosts(&body)[0].ports_in(Protocol::Tcp, PortState::Open).to_string(),
            });
        }
        assert_eq!(told, ["1-2", "shop", "3"]);
    }
}

//! Uplink and ingest, simulated step by step from a seed: real spools on disks that lose power, the server's real plan
//! over a store that forgets what it did not flush, and a network that loses, delays and cuts. After every step:
//! what is acked is stored; a sequence has one effect; nothing is stored that was not sent. In the end: everything that
//! was confirmed on a satellite is on the server, in order, once.
//!
//! `PORTOLAN_LONG_SIMULATIONS` sets how many (2,000 by default), `PORTOLAN_TEST_SEED` the first seed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use jiff::Timestamp;
use portolan_common::ids::{Epoch, SatelliteId, ScanId};
use portolan_common::observation::HostObservation;
use portolan_proto::{batch, v1, v1::record::Body};
use portolan_satellite::spool::{Clock, Spool, SpoolSettings, disk::Disk};
use portolan_server::store::{IngestBatch, IngestItem, SweepEnd, Writes, plan};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use uuid::Uuid;

const SIMULATIONS: u64 = 2_000;
const SATELLITES: usize = 2;
const STEPS: u64 = 60;
/// Records that the server lets a satellite have on its way.
const CREDIT: u32 = 6;
/// A step that takes longer hangs.
const HANG: Duration = Duration::from_secs(30);
const SCAN: ScanId = ScanId(Uuid::from_u128(3));
/// The log entries of sweeps that [`plan`] writes begin with this.
const SWEEP: u8 = b'w';

/// SplitMix64: the whole run follows from the seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What the server has: its own records, and beside them what the simulation knows of their meaning.
#[derive(Clone, Default)]
struct Stored {
    state: BTreeMap<Vec<u8>, Vec<u8>>,
    logs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// (satellite, epoch, sequence) to the number of the observation, in the order in which they were counted.
    counted: BTreeMap<(usize, Epoch, u64), Option<u64>>,
    /// Changes that plans said they found.
    changes: u64,
    /// The state of the satellite's port, and how often that changed.
    ports: BTreeMap<usize, (bool, u64)>,
}

#[derive(Default)]
struct Server {
    durable: Stored,
    applied: Stored,
    /// Acks that go out with the next flush: satellite, link, sequence.
    unflushed: Vec<(usize, u64, u64)>,
    backup: Option<Stored>,
}

/// One connection; both directions may hold messages.
struct Link {
    number: u64,
    epoch: Epoch,
    up: VecDeque<v1::Record>,
    /// Received, not committed.
    inbox: Vec<v1::Record>,
    acks: VecDeque<u64>,
    /// What the satellite knows: the last it sent, the last acked here.
    sent: u64,
    acked: u64,
}

struct Satellite {
    index: usize,
    disk: Disk,
    spool: Option<Spool>,
    link: Option<Link>,
    /// Numbers given out, and those of them that were confirmed.
    pushed: u64,
    confirmed: BTreeSet<u64>,
}

struct World {
    random: Random,
    server: Server,
    satellites: Vec<Satellite>,
    links: u64,
}

fn satellite_id(index: usize) -> SatelliteId {
    SatelliteId(Uuid::from_u128(index as u128 + 1))
}

/// Time does not matter to anything here, so it stands still.
fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

/// Observation `number`: a port that opens with the even ones and closes with the odd; every fifth is a sweep's end.
fn body(satellite: usize, number: u64) -> Body {
    if number % 5 == 4 {
        return Body::End(v1::ScanEnd { hosts_total: number, ..v1::ScanEnd::default() });
    }
    let open = is_open(number);
    let run = v1::StateRun {
        protocol: v1::Protocol::Tcp.into(),
        state: if open { v1::PortState::Open } else { v1::PortState::Closed }.into(),
        reason: if open { v1::Reason::SynAck } else { v1::Reason::ConnRefused }.into(),
        ports: Some(v1::PortSpans { spans: vec![22, 0] }),
    };
    let host = v1::HostObservation {
        target: number.to_string(),
        address: vec![10, 0, 0, u8::try_from(satellite).unwrap()],
        up: true,
        observed_at_ms: now().as_millisecond(),
        runs: vec![run],
        ..v1::HostObservation::default()
    };
    let mut bytes = Vec::new();
    batch::push(&mut bytes, &host);
    Body::Observations(bytes)
}

fn is_open(number: u64) -> bool {
    number.is_multiple_of(2)
}

/// `None`: the end of a scan that a satellite says of its own accord after it died in the middle.
fn number_of(record: &v1::Record) -> Option<u64> {
    match record.body.as_ref().expect("a body") {
        Body::End(end) if end.error.contains("restarted") => None,
        Body::End(end) => Some(end.hosts_total),
        Body::Observations(bytes) => {
            Some(batch::hosts(bytes).next().unwrap().unwrap().target.parse().unwrap())
        }
        Body::CheckStatus(_) => panic!("no check runs here"),
    }
}

fn item(record: &v1::Record) -> IngestItem {
    let mut item = IngestItem {
        sequence: record.sequence,
        first: if record.first_sequence == 0 { record.sequence } else { record.first_sequence },
        dropped: record.dropped,
        late: false,
        hosts: Vec::new(),
        end: None,
    };
    match record.body.as_ref().expect("a body") {
        Body::Observations(bytes) => {
            let hosts = batch::hosts(bytes).map(|host| HostObservation::try_from(&host.unwrap()).unwrap());
            item.hosts = hosts.collect();
        }
        Body::End(end) => item.end = Some(SweepEnd { scan: SCAN, end: end.clone() }),
        Body::CheckStatus(_) => panic!("no check runs here"),
    }
    item
}

impl Stored {
    /// Applies what the plan wants written, and counts what the records mean by the simulation's own lights.
    fn commit(&mut self, satellite: usize, epoch: Epoch, records: &[v1::Record]) -> u64 {
        let batch = IngestBatch {
            satellite: satellite_id(satellite),
            tenant: "default".into(),
            epoch,
            received_at: now(),
            skew_ms: 0,
            backlog: false,
            items: records.iter().map(item).collect(),
        };
        let (outcome, Writes { state, logs, drops }) = plan(&self.state, &batch).unwrap();
        assert!(drops.is_empty());
        self.changes += outcome.changes as u64;
        assert_eq!(outcome.missing, 0, "records went missing on the way");
        for (key, value) in state {
            match value {
                Some(value) => self.state.insert(key, value),
                None => self.state.remove(&key),
            };
        }
        for (key, value) in logs.into_values().flatten() {
            let before = self.logs.insert(key, value.expect("a log only grows"));
            assert_eq!(before, None, "a log entry was written twice");
        }
        for sequence in &outcome.counted {
            let record =
                records.iter().find(|record| record.sequence == *sequence).expect("it was in the batch");
            let number = number_of(record);
            let before = self.counted.insert((satellite, epoch, *sequence), number);
            assert_eq!(before, None, "sequence {sequence} was counted twice");
            if let Some(number) = number.filter(|number| number % 5 != 4) {
                let open = is_open(number);
                let port = self.ports.entry(satellite).or_insert((open, 0));
                if port.0 != open {
                    *port = (open, port.1 + 1);
                }
            }
        }
        outcome.acked
    }

    /// The log must hold what the counted records mean, no more and no less.
    fn check(&self) {
        let entries = |tag: u8| self.logs.keys().filter(|key| key[0] == tag).count() as u64;
        assert_eq!(self.changes, self.ports.values().map(|(_, changes)| changes).sum::<u64>());
        assert_eq!(
            entries(SWEEP),
            self.counted.values().filter(|number| number.is_none_or(|n| n % 5 == 4)).count() as u64
        );
    }

    fn cursor(&self, satellite: usize, epoch: Epoch) -> u64 {
        let (id, tenant) = (satellite_id(satellite), String::from("default"));
        let empty = IngestBatch {
            satellite: id,
            tenant,
            epoch,
            received_at: now(),
            skew_ms: 0,
            backlog: false,
            items: Vec::new(),
        };
        plan(&self.state, &empty).unwrap().0.acked
    }
}

impl Satellite {
    async fn open(&mut self) {
        let settings = SpoolSettings { max_size: 16 << 20, ..SpoolSettings::default() };
        let spool = Spool::open_on(Arc::new(self.disk.clone()), settings, Clock::system()).unwrap();
        tokio::time::timeout(HANG, spool.opened()).await.expect("the spool opens");
        self.spool = Some(spool);
    }

    /// Pushes the next observation; when the power is to be cut, the process dies with it.
    async fn push(&mut self, cut: Option<(u64, u64)>) {
        let number = self.pushed;
        self.pushed += 1;
        let spool = self.spool.as_ref().expect("it runs");
        let power = self.disk.power_cuts();
        if let Some((writes, seed)) = cut {
            self.disk.cut_after(writes, seed);
        }
        let disk = &self.disk;
        let died = async {
            while disk.power_cuts() == power {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        };
        tokio::select! {
            biased;
            done = tokio::time::timeout(HANG, spool.push(SCAN, body(self.index, number))) => {
                done.expect("a push hangs");
                self.confirmed.insert(number);
            }
            () = died => {}
        }
        if let Some((_, seed)) = cut {
            self.die(seed);
        }
    }

    fn die(&mut self, seed: u64) {
        self.disk.cut(seed);
        self.disk = self.disk.reboot();
        self.spool = None;
        self.link = None;
    }

    /// Whether the satellite may send something.
    fn can_send(&self) -> bool {
        let Some(link) = &self.link else { return false };
        link.sent < self.last() && link.sent - link.acked < CREDIT.into()
    }

    /// The last sequence of the spool, while there is a connection.
    fn last(&self) -> u64 {
        match (&self.spool, &self.link) {
            (Some(spool), Some(link)) => link.acked + spool.depth(),
            _ => 0,
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let satellites = (0..SATELLITES).map(|index| Satellite {
            index,
            disk: Disk::default(),
            spool: None,
            link: None,
            pushed: 0,
            confirmed: BTreeSet::new(),
        });
        Self { random: Random(seed), server: Server::default(), satellites: satellites.collect(), links: 0 }
    }

    async fn connect(&mut self, index: usize) {
        let satellite = &mut self.satellites[index];
        if satellite.spool.is_none() {
            satellite.open().await;
        }
        let spool = satellite.spool.as_ref().expect("it was opened");
        if satellite.link.take().is_some() {
            spool.disconnected();
        }
        let offer = spool.hello();
        // As the server does: through the writer, so that only what is durable is called acked.
        self.server.flush(&mut []);
        let acked = self.server.durable.cursor(index, offer.epoch);
        assert!(acked <= offer.last, "the server has what was never given out");
        assert!(spool.welcome(acked, Some(CREDIT)).await);
        self.links += 1;
        let (up, acks) = (VecDeque::new(), VecDeque::new());
        let (number, epoch) = (self.links, offer.epoch);
        satellite.link = Some(Link { number, epoch, up, inbox: Vec::new(), acks, sent: acked, acked });
    }

    async fn send(&mut self, index: usize) {
        let satellite = &mut self.satellites[index];
        if !satellite.can_send() {
            return;
        }
        let (Some(spool), Some(link)) = (&satellite.spool, &mut satellite.link) else { return };
        let record = tokio::time::timeout(HANG, spool.next()).await.expect("there is something to send");
        assert_eq!(record.sequence, link.sent + 1, "out of order");
        assert!(record.dropped.is_none() && record.first_sequence == 0);
        link.sent = record.sequence;
        link.up.push_back(record);
    }

    fn receive(&mut self, index: usize) {
        if let Some(link) = &mut self.satellites[index].link
            && let Some(record) = link.up.pop_front()
        {
            let pushed = self.satellites[index].pushed;
            assert!(number_of(&record).is_none_or(|number| number < pushed), "never sent");
            let link = self.satellites[index].link.as_mut().expect("it was there");
            link.inbox.push(record);
        }
    }

    fn commit(&mut self, index: usize) {
        let Some(link) = &mut self.satellites[index].link else { return };
        if link.inbox.is_empty() {
            return;
        }
        let records = std::mem::take(&mut link.inbox);
        let acked = self.server.applied.commit(index, link.epoch, &records);
        self.server.unflushed.push((index, link.number, acked));
    }

    fn ack(&mut self, index: usize) {
        let satellite = &mut self.satellites[index];
        let (Some(spool), Some(link)) = (&satellite.spool, &mut satellite.link) else { return };
        if let Some(sequence) = link.acks.pop_front() {
            spool.ack(sequence);
            link.acked = link.acked.max(sequence);
        }
    }

    fn server_dies(&mut self) {
        self.server.applied = self.server.durable.clone();
        self.server.unflushed.clear();
        for satellite in &mut self.satellites {
            if satellite.link.take().is_some()
                && let Some(spool) = &satellite.spool
            {
                spool.disconnected();
            }
        }
    }

    async fn step(&mut self) {
        let index = usize::try_from(self.random.below(SATELLITES as u64)).unwrap();
        match self.random.below(100) {
            0..25 => {
                if self.satellites[index].spool.is_none() {
                    self.satellites[index].open().await;
                }
                self.satellites[index].push(None).await;
            }
            25..28 => {
                if self.satellites[index].spool.is_none() {
                    self.satellites[index].open().await;
                }
                let cut = (self.random.below(12), self.random.next());
                self.satellites[index].push(Some(cut)).await;
            }
            28..40 => {
                if self.satellites[index].link.is_none() {
                    self.connect(index).await;
                }
            }
            40..60 => self.send(index).await,
            60..75 => self.receive(index),
            75..84 => self.commit(index),
            84..89 => self.server.flush(&mut self.satellites),
            89..94 => self.ack(index),
            94..96 => self.connect(index).await,
            96..97 => {
                let seed = self.random.next();
                self.satellites[index].die(seed);
            }
            97..98 => self.server_dies(),
            98..99 => self.server.backup = Some(self.server.durable.clone()),
            _ => {
                if let Some(backup) = self.server.backup.clone() {
                    self.server.durable = backup;
                    self.server_dies();
                }
            }
        }
        self.server.applied.check();
        self.server.durable.check();
    }

    /// Everything is let through until nothing is left; then all that was confirmed must be there.
    async fn settle(&mut self) {
        for index in 0..SATELLITES {
            self.connect(index).await;
            while self.satellites[index]
                .link
                .as_ref()
                .is_some_and(|link| link.acked < self.satellites[index].last())
            {
                self.send(index).await;
                self.receive(index);
                self.commit(index);
                self.server.flush(&mut self.satellites);
                self.ack(index);
            }
        }
        for satellite in &self.satellites {
            let stored: Vec<u64> = self
                .server
                .durable
                .counted
                .iter()
                .filter(|((index, ..), _)| *index == satellite.index)
                .filter_map(|(_, number)| *number)
                .collect();
            let distinct: BTreeSet<u64> = stored.iter().copied().collect();
            assert_eq!(distinct.len(), stored.len(), "an observation was stored under two numbers");
            assert!(stored.is_sorted(), "not in the order in which it was seen: {stored:?}");
            let lost: Vec<_> = satellite.confirmed.difference(&distinct).collect();
            assert!(lost.is_empty(), "confirmed and lost: {lost:?}");
            assert!(distinct.iter().all(|number| *number < satellite.pushed), "stored and never seen");
        }
    }
}

impl Server {
    /// What was applied becomes durable; only then are the acks on their way.
    fn flush(&mut self, satellites: &mut [Satellite]) {
        self.durable = self.applied.clone();
        if satellites.is_empty() {
            // Those who wait get their acks with the next flush; it is durable all the same.
            return;
        }
        for (index, number, sequence) in self.unflushed.drain(..) {
            if let Some(link) = satellites[index].link.as_mut().filter(|link| link.number == number) {
                for acked in 1..=sequence {
                    assert!(
                        self.durable.counted.contains_key(&(index, link.epoch, acked)),
                        "acked, not stored"
                    );
                }
                link.acks.push_back(sequence);
            }
        }
    }
}

#[test]
fn whatever_dies_whenever_what_is_acked_is_stored_and_counts_once() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let simulations = number("PORTOLAN_LONG_SIMULATIONS").unwrap_or(SIMULATIONS);
    let first = number("PORTOLAN_TEST_SEED").unwrap_or(1);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= simulations {
                        return;
                    }
                    let seed = first.wrapping_add(n);
                    let told = Told(seed);
                    runtime.block_on(async {
                        let mut world = World::new(seed);
                        for _ in 0..STEPS {
                            world.step().await;
                        }
                        world.settle().await;
                    });
                    std::mem::forget(told);
                }
            });
        }
    });
    println!("FIGURE: {simulations} simulations of uplink and ingest from seed {first}, no violation");
}

/// Names the seed of a simulation that panics.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("to repeat: PORTOLAN_LONG_SIMULATIONS=1 PORTOLAN_TEST_SEED={}", self.0);
    }
}

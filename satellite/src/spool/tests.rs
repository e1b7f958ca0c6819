//! The spool as the satellite uses it, on a disk in memory: order, restarts, servers that went back.

mod bounds;
mod damage;
mod ends;
mod faults;
mod measure;

use super::disk::Disk;
use super::{Clock, Spool, SpoolSettings};
use portolan_common::ids::ScanId;
use portolan_proto::v1::{self, dropped::Reason, record::Body};
use portolan_proto::{batch, v1::scan_end::Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use uuid::Uuid;

const SCAN: ScanId = ScanId(Uuid::from_u128(3));
const SMALL: SpoolSettings = SpoolSettings {
    max_size: 8 << 20,
    max_age: Duration::from_secs(86_400),
    keep_acked: Duration::from_secs(3600),
};

/// What takes longer hangs.
const HANG: Duration = Duration::from_secs(60);

/// Waits until something holds.
async fn eventually(holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(HANG, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it never came to hold");
}

/// Time as a test sets it.
#[derive(Clone, Default)]
struct TestClock {
    monotonic_ms: Arc<AtomicU64>,
    wall_ms: Arc<AtomicI64>,
}

impl TestClock {
    fn clock(&self) -> Clock {
        let (monotonic, wall) = (self.monotonic_ms.clone(), self.wall_ms.clone());
        Clock::new(move || Duration::from_millis(monotonic.load(Relaxed)), move || wall.load(Relaxed))
    }
}

fn open(disk: &Disk) -> Spool {
    Spool::open_on(Arc::new(disk.reboot()), SMALL, Clock::system()).unwrap()
}

async fn opened(disk: &Disk) -> Spool {
    let spool = open(disk);
    spool.opened().await;
    spool
}

/// A record with hosts 10.0.x.y that all have one open port.
fn hosts(addresses: impl IntoIterator<Item = u16>, port: u32) -> Body {
    let mut body = Vec::new();
    for address in addresses {
        let [high, low] = address.to_be_bytes();
        let run = v1::StateRun {
            protocol: 1,
            state: 1,
            reason: 1,
            ports: Some(v1::PortSpans { spans: vec![port, 0] }),
        };
        let host = v1::HostObservation {
            target: "10.0.0.0/16".into(),
            address: vec![10, 0, high, low],
            up: true,
            runs: vec![run],
            ..v1::HostObservation::default()
        };
        batch::push(&mut body, &host);
    }
    Body::Observations(body)
}

/// A record that says which it is.
fn numbered(n: u64) -> Body {
    Body::End(v1::ScanEnd { hosts_total: n, error: "x".repeat(100), ..v1::ScanEnd::default() })
}

fn number(record: &v1::Record) -> Option<u64> {
    match &record.body {
        Some(Body::End(end)) => Some(end.hosts_total),
        _ => None,
    }
}

async fn welcome(spool: &Spool, acked: u64) {
    spool.hello();
    assert!(spool.welcome(acked, Some(u32::MAX)).await);
}

/// The next record; `None` when there is none for a while.
async fn next(spool: &Spool) -> Option<v1::Record> {
    tokio::time::timeout(HANG, spool.next()).await.ok()
}

/// Everything that a server with `acked` is sent, each acked as it comes; no jump is unexplained.
async fn drain(spool: &Spool, acked: u64) -> Vec<v1::Record> {
    welcome(spool, acked).await;
    let (mut records, mut server) = (Vec::new(), acked);
    while !spool.is_settled() {
        let record = next(spool).await.unwrap_or_else(|| panic!("nothing comes after {server}"));
        let first = if record.first_sequence == 0 { record.sequence } else { record.first_sequence };
        assert_eq!(first, server + 1, "an unexplained jump to {record:?}");
        let whole = record.dropped.as_ref().map_or(0, |dropped| dropped.records);
        let own = u64::from(record.body.is_some());
        assert_eq!(record.sequence + 1 - first, whole + own, "not all of it is accounted for: {record:?}");
        server = record.sequence;
        spool.ack(server);
        records.push(record);
    }
    records
}

#[tokio::test]
async fn records_come_in_order_and_survive_a_restart() {
    let disk = Disk::default();
    let spool = opened(&disk).await;
    let offer = spool.hello();
    assert_eq!((offer.acked, offer.last, offer.depth), (0, 0, 0));
    for n in 1..=5 {
        spool.push(SCAN, numbered(n)).await;
    }
    welcome(&spool, 0).await;
    for n in 1..=3 {
        let record = next(&spool).await.unwrap();
        assert_eq!((record.sequence, number(&record), record.first_sequence), (n, Some(n), 0));
        assert_eq!(record.scan_id, SCAN.as_bytes());
    }
    spool.ack(2);
    assert_eq!((spool.depth(), spool.scans()), (3, vec![SCAN]));
    spool.close().await;

    let spool = opened(&disk).await;
    let again = spool.hello();
    assert_eq!((again.epoch, again.acked, again.last, again.depth), (offer.epoch, 2, 5, 3));
    spool.push(SCAN, numbered(6)).await;
    let rest: Vec<_> = drain(&spool, 2).await.iter().map(|r| (r.sequence, number(r))).collect();
    assert_eq!(rest, (3..=6).map(|n| (n, Some(n))).collect::<Vec<_>>());
    assert_eq!((spool.depth(), spool.scans()), (0, vec![]));
}

#[tokio::test]
async fn credit_holds_records_back_and_lets_them_go() {
    let spool = opened(&Disk::default()).await;
    for n in 1..=3 {
        spool.push(SCAN, numbered(n)).await;
    }
    spool.hello();
    assert!(spool.welcome(0, Some(0)).await);
    let waiting = tokio::time::timeout(Duration::from_millis(100), spool.next()).await;
    assert!(waiting.is_err(), "no credit, no record");
    spool.credit(2);
    assert_eq!(next(&spool).await.unwrap().sequence, 1);
    assert_eq!(next(&spool).await.unwrap().sequence, 2);
    assert!(tokio::time::timeout(Duration::from_millis(100), spool.next()).await.is_err());
    spool.ack(1);
    assert_eq!(next(&spool).await.unwrap().sequence, 3);
}

#[tokio::test]
async fn a_record_that_comes_later_wakes_who_waits() {
    let spool = Arc::new(opened(&Disk::default()).await);
    welcome(&spool, 0).await;
    let waiting = tokio::spawn({
        let spool = spool.clone();
        async move { spool.next().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    spool.push(SCAN, numbered(7)).await;
    let record = tokio::time::timeout(HANG, waiting).await.unwrap().unwrap();
    assert_eq!(number(&record), Some(7));
}

#[tokio::test]
async fn a_scan_that_a_restart_cut_off_is_reported_as_failed() {
    let disk = Disk::default();
    let spool = opened(&disk).await;
    let ended = ScanId(Uuid::from_u128(4));
    spool.begin(SCAN).await;
    spool.begin(ended).await;
    spool.push(SCAN, hosts([1], 22)).await;
    spool.push(ended, numbered(1)).await;
    // As a crash leaves it.
    disk.cut(1);
    drop(spool);

    for _ in 0..2 {
        // Said once, however often it restarts.
        let spool = opened(&disk).await;
        while spool.hello().last < 3 {
            assert!(spool.scans().contains(&SCAN), "until its end is spooled the scan is named");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let records = drain(&spool, 0).await;
        let ends: Vec<_> = records
            .iter()
            .filter_map(|record| match &record.body {
                Some(Body::End(end)) if record.scan_id == SCAN.as_bytes() => Some(end),
                _ => None,
            })
            .collect();
        assert_eq!((records.len(), ends.len()), (3, 1));
        assert_eq!(ends[0].outcome(), Outcome::Failed);
        assert!(ends[0].error.contains("restarted during the scan") && ends[0].started_at_ms > 0);
        spool.close().await;
    }
}

#[tokio::test]
async fn a_server_that_went_back_gets_it_again_and_is_told_what_expired() {
    let disk = Disk::default();
    let time = TestClock::default();
    let settings = SpoolSettings { keep_acked: Duration::from_secs(60), ..SMALL };
    let spool = Spool::open_on(Arc::new(disk.clone()), settings, time.clock()).unwrap();
    spool.opened().await;
    for n in 1..=4 {
        spool.push(SCAN, numbered(n)).await;
    }
    assert_eq!(drain(&spool, 0).await.len(), 4);
    assert_eq!(spool.hello().acked, 4);
    // Restored from a backup: all of it once more.
    let again: Vec<_> = drain(&spool, 1).await.iter().map(number).collect();
    assert_eq!(again, [Some(2), Some(3), Some(4)]);
    assert_eq!(spool.depth(), 0);

    spool.push(SCAN, numbered(5)).await;
    // The housekeeping looks every second of real time; what it judges by is the spool's clock.
    let goes = || {
        time.monotonic_ms.fetch_add(1_000, Relaxed);
        spool.known().kept.records == 0
    };
    eventually(goes).await;
    let rest = drain(&spool, 2).await;
    assert_eq!((rest.len(), rest[0].sequence, rest[0].first_sequence), (1, 5, 3));
    let dropped = rest[0].dropped.unwrap();
    assert_eq!((dropped.reason(), dropped.records), (Reason::Expired, 2));

    // Nothing is kept at all: a record of its own says so.
    assert_eq!(spool.known().kept.records, 1);
    eventually(goes).await;
    let synthetic = drain(&spool, 3).await;
    assert_eq!((synthetic.len(), synthetic[0].sequence, synthetic[0].first_sequence), (1, 5, 4));
    assert!(synthetic[0].body.is_none());
    assert_eq!(synthetic[0].dropped.unwrap().reason(), Reason::Expired);
}

#[tokio::test]
async fn a_spool_that_went_back_gets_new_numbers() {
    let disk = Disk::default();
    let spool = opened(&disk).await;
    for n in 1..=4 {
        spool.push(SCAN, numbered(n)).await;
    }
    drain(&spool, 0).await;
    spool.push(SCAN, numbered(5)).await;
    let old = spool.hello();
    // The server knows a later life of this spool.
    assert!(!spool.welcome(9, None).await);
    spool.renumbered(old.epoch).await;
    let new = spool.hello();
    assert_ne!(new.epoch, old.epoch);
    assert_eq!((new.acked, new.last, new.depth), (0, 1, 1));
    spool.push(SCAN, numbered(6)).await;
    spool.close().await;
    let spool = opened(&disk).await;
    assert_eq!(spool.hello().epoch, new.epoch);
    let records: Vec<_> = drain(&spool, 0).await.iter().map(|r| (r.sequence, number(r))).collect();
    assert_eq!(records, [(1, Some(5)), (2, Some(6))]);
}

/// The dangerous case of it: the new records reach beyond what the server has before the two meet.
#[tokio::test]
async fn a_spool_that_went_back_and_wrote_on_loses_nothing() {
    let disk = Disk::default();
    let spool = opened(&disk).await;
    for n in 1..=10 {
        spool.push(SCAN, numbered(n)).await;
    }
    spool.close().await;
    let snapshot = disk.image();
    // The life that the snapshot knows nothing of.
    let spool = opened(&disk).await;
    for n in 11..=15 {
        spool.push(SCAN, numbered(n)).await;
    }
    assert_eq!(drain(&spool, 0).await.len(), 15);
    spool.close().await;

    let disk = Disk::with_image(&snapshot);
    let spool = opened(&disk).await;
    for n in 101..=110 {
        spool.push(SCAN, numbered(n)).await;
    }
    let old = spool.hello();
    assert_eq!((old.acked, old.last), (0, 20));
    assert!(!spool.welcome(15, None).await, "the server has records that this life never sent");
    spool.renumbered(old.epoch).await;
    assert_eq!(spool.hello().last, 20);
    let arrived: Vec<_> = drain(&spool, 0).await.iter().map(number).collect();
    assert_eq!(arrived, (1..=10).chain(101..=110).map(Some).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_acked_again_is_kept_as_long_again() {
    let disk = Disk::default();
    let time = TestClock::default();
    let settings = SpoolSettings { keep_acked: Duration::from_secs(60), ..SMALL };
    let spool = Spool::open_on(Arc::new(disk.clone()), settings, time.clock()).unwrap();
    spool.opened().await;
    for n in 1..=4 {
        spool.push(SCAN, numbered(n)).await;
    }
    drain(&spool, 0).await;
    // The housekeeping has seen it.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    time.monotonic_ms.store(50_000, Relaxed);
    assert_eq!(drain(&spool, 1).await.len(), 3);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    time.monotonic_ms.store(65_000, Relaxed);
    // The first was never taken back; the others begin their time anew.
    eventually(|| spool.known().kept.records < 4).await;
    assert_eq!(spool.known().kept.records, 3);
    time.monotonic_ms.store(115_000, Relaxed);
    eventually(|| spool.known().kept.records == 0).await;
}

#[tokio::test]
async fn waiting_is_counted_over_a_restart() {
    let disk = Disk::default();
    let time = TestClock::default();
    time.wall_ms.store(1_000_000, Relaxed);
    let spool = Spool::open_on(Arc::new(disk.clone()), SMALL, time.clock()).unwrap();
    spool.push(SCAN, numbered(1)).await;
    time.monotonic_ms.store(5_000, Relaxed);
    welcome(&spool, 0).await;
    assert_eq!(next(&spool).await.unwrap().waited_ms, 5_000);
    spool.close().await;
    time.wall_ms.store(1_060_000, Relaxed);
    let spool = Spool::open_on(Arc::new(disk.clone()), SMALL, time.clock()).unwrap();
    spool.opened().await;
    time.monotonic_ms.store(7_000, Relaxed);
    welcome(&spool, 0).await;
    assert_eq!(next(&spool).await.unwrap().waited_ms, 62_000);
}

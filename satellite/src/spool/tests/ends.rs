//! The ends of scans: what a full spool gives up last, and what is remembered of the scans themselves.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::JoinSet;

/// As small as it may be for a test: room for some 23 full batches.
const TINY: SpoolSettings = SpoolSettings { max_size: 2 << 20, ..SMALL };

fn tiny(disk: &Disk) -> Spool {
    Spool::open_on(Arc::new(disk.reboot()), TINY, Clock::system()).unwrap()
}

fn scan(n: u64) -> ScanId {
    ScanId(Uuid::from_u128(u128::from(n)))
}

/// An end as large as they come.
fn large(n: u64) -> Body {
    let error = "x".repeat(60_000);
    Body::End(v1::ScanEnd { hosts_total: n, error, ..v1::ScanEnd::default() })
}

fn hosts_of(record: &v1::Record) -> u64 {
    let own = match &record.body {
        Some(Body::Observations(hosts)) => batch::encoded_hosts(hosts).count() as u64,
        _ => 0,
    };
    own + record.dropped.map_or(0, |dropped| dropped.hosts)
}

#[tokio::test]
async fn the_ends_of_scans_stay_where_the_oldest_goes() {
    let disk = Disk::default();
    let spool = tiny(&disk);
    let mut pushed = 0;
    // More ends in a row than are looked at in one batch, then some in between.
    for n in 0..300 {
        spool.push(scan(n), numbered(n)).await;
    }
    for n in 300..500u64 {
        // Never the same twice.
        spool.push(SCAN, hosts(0..500, n as u32)).await;
        pushed += 500;
        if n % 10 == 0 {
            spool.push(scan(n), numbered(n)).await;
        }
    }
    let records = drain(&spool, 0).await;
    let ends: Vec<_> = records.iter().filter_map(number).collect();
    assert_eq!(ends, (0..300).chain((300..500).step_by(10)).collect::<Vec<_>>());
    assert_eq!(records.iter().map(hosts_of).sum::<u64>(), pushed);
    assert!(spool.dropped().hosts > 0 && spool.bytes() <= TINY.max_size);
}

#[tokio::test]
async fn where_only_ends_are_left_the_oldest_of_them_go() {
    let disk = Disk::default();
    let spool = tiny(&disk);
    for n in 0..40 {
        spool.push(scan(n), large(n)).await;
    }
    spool.push(SCAN, hosts(0..10, 1)).await;
    assert!(spool.bytes() <= TINY.max_size, "{} bytes", spool.bytes());
    let records = drain(&spool, 0).await;
    let ends: Vec<_> = records.iter().filter_map(number).collect();
    assert!((5..30).contains(&ends.len()), "{ends:?}");
    assert_eq!(ends, (40 - ends.len() as u64..40).collect::<Vec<_>>(), "the last of them");
    assert_eq!(records[0].dropped.unwrap().reason(), Reason::Full);
    assert_eq!(records.iter().map(hosts_of).sum::<u64>(), 10);
}

#[tokio::test]
async fn ends_do_not_grow_too_old() {
    let time = TestClock::default();
    let settings = SpoolSettings { max_age: Duration::from_secs(3600), ..SMALL };
    let spool = Spool::open_on(Arc::new(Disk::default()), settings, time.clock()).unwrap();
    for n in 0..200 {
        spool.push(scan(n), numbered(n)).await;
    }
    spool.push(SCAN, hosts(0..10, 1)).await;
    spool.push(scan(200), numbered(200)).await;
    spool.push(SCAN, hosts(0..10, 2)).await;
    time.monotonic_ms.store(3_000_000, Relaxed);
    spool.push(SCAN, hosts(0..10, 3)).await;
    time.monotonic_ms.store(3_601_000, Relaxed);
    eventually(|| spool.dropped().hosts == 20).await;
    let records = drain(&spool, 0).await;
    assert_eq!(records.iter().filter_map(number).collect::<Vec<_>>(), (0..=200).collect::<Vec<_>>());
    assert_eq!(records.iter().map(hosts_of).sum::<u64>(), 30);
    assert_eq!(records[201].dropped.unwrap().reason(), Reason::Age);
}

/// Ends, batches that are new, batches that repeat; a server that comes, takes some and goes, or forgets.
fn every_host_is_accounted_for(steps: &[(u8, u64)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let disk = Disk::default();
        let spool = tiny(&disk);
        spool.opened().await;
        let (mut pushed, mut ends) = (0, BTreeSet::new());
        // What the server has, by the sequence that it came with.
        let mut server: BTreeMap<u64, v1::Record> = BTreeMap::new();
        for (n, (step, amount)) in steps.iter().enumerate() {
            let n = n as u64;
            match step {
                0..=3 => {
                    for i in 0..*amount {
                        let port = if *step == 0 { 1 } else { n * 100 + i };
                        let pushing = spool.push(SCAN, hosts(0..500, port as u32));
                        tokio::time::timeout(HANG, pushing).await.expect("it waits for acks");
                        pushed += 500;
                    }
                }
                4 | 5 => {
                    for i in 0..*amount {
                        ends.insert(n * 100 + i);
                        spool.push(scan(n * 100 + i), numbered(n * 100 + i)).await;
                    }
                }
                6 => {
                    let has = server.keys().last().copied().unwrap_or(0);
                    welcome(&spool, has).await;
                    let last = spool.known().flow.last();
                    let mut sequence = has;
                    for _ in 0..*amount {
                        if sequence < last {
                            let record = next(&spool).await.unwrap();
                            sequence = record.sequence;
                            server.insert(sequence, record);
                            // Some stay on their way; were it more, a spool as small as this would wait for acks.
                            spool.ack(sequence.saturating_sub(amount % 4));
                        }
                    }
                }
                _ => {
                    // What a server has and did not ack in time would be dropped and counted here as well.
                    spool.ack(server.keys().last().copied().unwrap_or(0));
                    spool.disconnected();
                }
            }
        }
        let has = server.keys().last().copied().unwrap_or(0);
        server.extend(drain(&spool, has).await.into_iter().map(|record| (record.sequence, record)));
        assert_eq!(server.values().map(hosts_of).sum::<u64>(), pushed, "hosts");
        let arrived: BTreeSet<u64> = server.values().filter_map(number).collect();
        assert_eq!(arrived, ends, "ends");
        assert_eq!(spool.depth(), 0);
    });
}

/// What checks saw belongs to no scan; what they say of themselves outlasts what can be seen again.
#[tokio::test]
async fn checks_are_no_scans_and_their_words_outlast_what_they_saw() {
    let disk = Disk::default();
    let spool = tiny(&disk);
    spool.opened().await;
    let status = |check: &str| {
        Body::CheckStatus(v1::CheckStatus { check: check.into(), ..v1::CheckStatus::default() })
    };
    spool.push(None, status("web")).await;
    for port in 0..100 {
        spool.enqueue(hosts(0..500, port)).await;
    }
    spool.push(None, status("mail")).await;
    assert!(spool.scans().is_empty() && spool.known().scans.is_empty());
    assert!(spool.dropped().hosts > 0, "it was to be too much");
    let records = drain(&spool, 0).await;
    assert!(records.iter().all(|record| record.scan_id.is_empty()));
    let told: Vec<&str> = records
        .iter()
        .filter_map(|record| match &record.body {
            Some(Body::CheckStatus(status)) => Some(status.check.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["web", "mail"]);
    assert_eq!(
        records.iter().map(hosts_of).sum::<u64>(),
        100 * 500,
        "dropped or kept, all are accounted for"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn every_host_and_every_end_is_accounted_for(
        steps in proptest::collection::vec((0u8..8, 1u64..20), 1..40),
    ) {
        every_host_is_accounted_for(&steps);
    }
}

#[tokio::test]
async fn scans_that_are_forgotten_are_forgotten_on_the_disk() {
    let disk = Disk::default();
    let spool = Arc::new(opened(&disk).await);
    let mut tasks = JoinSet::new();
    for n in 0..4500 {
        let spool = spool.clone();
        tasks.spawn(async move { spool.push(scan(n), numbered(n)).await });
    }
    tasks.join_all().await;
    assert_eq!(spool.known().scans.len(), 4096);
    spool.close().await;
    let spool = opened(&disk).await;
    assert_eq!(spool.known().scans.len(), 4096);
    spool.begin(scan(9999)).await;
    assert_eq!(spool.known().scans.len(), 4096);
    let newest = spool.known().scans.contains_key(&scan(9999));
    assert!(newest, "a scan that runs is never forgotten");
}

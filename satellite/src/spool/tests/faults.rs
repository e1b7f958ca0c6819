//! Disks that lose power, run full or fail: what was confirmed is there, and nothing is numbered twice.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::task::JoinSet;

/// Several tasks push until the power goes; returns the numbers that were confirmed.
async fn push_until_cut(spool: Arc<Spool>, disk: &Disk, from: u64, count: u64) -> Vec<u64> {
    let confirmed = Arc::new(Mutex::new(Vec::new()));
    let mut pushers = JoinSet::new();
    for task in 0..4 {
        let (spool, confirmed) = (spool.clone(), confirmed.clone());
        pushers.spawn(async move {
            for n in (0..count).filter(|n| n % 4 == task) {
                spool.push(SCAN, numbered(from + n)).await;
                confirmed.lock().unwrap().push(from + n);
            }
        });
    }
    let power = disk.power_cuts();
    while disk.power_cuts() == power && !pushers.is_empty() {
        let _ = tokio::time::timeout(Duration::from_millis(1), pushers.join_next()).await;
    }
    pushers.abort_all();
    while pushers.join_next().await.is_some() {}
    let confirmed = confirmed.lock().unwrap();
    confirmed.clone()
}

fn survives_cuts(cuts: &[(u64, u64)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let disk = Disk::default();
        let mut server: BTreeMap<u64, u64> = BTreeMap::new();
        let mut confirmed = Vec::new();
        let mut epoch = None;
        for (round, (writes, seed)) in cuts.iter().enumerate() {
            let spool = Arc::new(opened(&disk).await);
            let offer = spool.hello();
            // Until a record was confirmed the file need not have been there.
            assert!(confirmed.is_empty() || epoch == Some(offer.epoch), "the epoch changed");
            epoch = Some(offer.epoch);
            let has = server.keys().last().copied().unwrap_or(0);
            assert!(offer.last >= has, "{} was given out and would come again", offer.last + 1);
            // Some is sent and acked before the next cut, some only sent.
            welcome(&spool, has).await;
            for n in 0..seed % 5 {
                if offer.last > has + n {
                    let record = next(&spool).await.unwrap();
                    let again = server.insert(record.sequence, number(&record).unwrap());
                    assert_eq!(again, None, "{} came twice", record.sequence);
                    if seed % 2 == 0 {
                        spool.ack(record.sequence);
                    }
                }
            }
            disk.cut_after(*writes, *seed);
            confirmed.extend(push_until_cut(spool, &disk, round as u64 * 1000, 40).await);
            disk.cut(*seed);
        }
        let spool = opened(&disk).await;
        for record in drain(&spool, server.keys().last().copied().unwrap_or(0)).await {
            assert_eq!(server.insert(record.sequence, number(&record).unwrap()), None);
            assert!(record.dropped.is_none());
        }
        let arrived: Vec<u64> = server.values().copied().collect();
        for n in confirmed {
            assert_eq!(arrived.iter().filter(|arrived| **arrived == n).count(), 1, "{n} was confirmed");
        }
        assert!(disk.aside().is_empty(), "a power cut damages nothing");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn power_cuts_lose_nothing_that_was_confirmed(
        cuts in proptest::collection::vec((0u64..120, any::<u64>()), 1..6),
    ) {
        survives_cuts(&cuts);
    }
}

#[test]
fn the_power_goes_while_the_file_is_made() {
    for writes in 0..40 {
        survives_cuts(&[(writes, writes), (30, 7)]);
    }
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let disk = Disk::default();
    let spool = Arc::new(opened(&disk).await);
    for n in 1..=20 {
        spool.push(SCAN, numbered(n)).await;
    }
    disk.set_capacity(700 * 1024);
    let pusher = tokio::spawn({
        let spool = spool.clone();
        async move {
            for n in 21..=80 {
                let body = Body::End(v1::ScanEnd {
                    hosts_total: n,
                    error: "x".repeat(20_000),
                    ..v1::ScanEnd::default()
                });
                spool.push(SCAN, body).await;
            }
        }
    });
    tokio::time::timeout(Duration::from_secs(10), async {
        while spool.error().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the disk never ran full");
    let error = spool.error().unwrap();
    assert!(error.contains("disk is full") && error.contains("scans wait"), "{error}");
    // What is there is sent and acked meanwhile.
    welcome(&spool, 0).await;
    let mut server = 0;
    for _ in 0..20 {
        let record = next(&spool).await.unwrap();
        assert_eq!((record.sequence, number(&record)), (server + 1, Some(server + 1)));
        server += 1;
        spool.ack(server);
    }
    assert!(!pusher.is_finished());
    disk.set_capacity(u64::MAX);
    tokio::time::timeout(HANG, pusher).await.expect("it did not recover").unwrap();
    assert_eq!(spool.error(), None);
    let rest: Vec<_> = drain(&spool, server).await.iter().map(|r| (r.sequence, number(r))).collect();
    assert_eq!(rest, (21..=80).map(|n| (n, Some(n))).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_is_waited_for() {
    let disk = Disk::default();
    disk.set_capacity(4096);
    let spool = Arc::new(open(&disk));
    // Known at once, so that the server hears of the trouble.
    tokio::time::timeout(HANG, spool.opened()).await.unwrap();
    let epoch = spool.hello().epoch;
    eventually(|| spool.error().is_some_and(|error| error.contains("full"))).await;
    let pusher = tokio::spawn({
        let spool = spool.clone();
        async move { spool.push(SCAN, numbered(1)).await }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!pusher.is_finished());
    disk.set_capacity(u64::MAX);
    tokio::time::timeout(HANG, pusher).await.unwrap().unwrap();
    assert_eq!(spool.hello().epoch, epoch);
    assert_eq!(drain(&spool, 0).await.len(), 1);
}

#[tokio::test]
async fn a_disk_that_fails_for_a_while_costs_and_doubles_nothing() {
    let disk = Disk::default();
    let spool = Arc::new(opened(&disk).await);
    let pusher = tokio::spawn({
        let spool = spool.clone();
        async move {
            for n in 1..=200 {
                spool.push(SCAN, numbered(n)).await;
            }
        }
    });
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(7)).await;
        disk.set_failing(true);
        tokio::time::sleep(Duration::from_millis(40)).await;
        disk.set_failing(false);
    }
    tokio::time::timeout(HANG, pusher).await.unwrap().unwrap();
    let all: Vec<_> = drain(&spool, 0).await.iter().map(|r| (r.sequence, number(r))).collect();
    assert_eq!(all, (1..=200).map(|n| (n, Some(n))).collect::<Vec<_>>());
}

#[tokio::test]
async fn closing_on_a_full_disk_ends() {
    let disk = Disk::default();
    let spool = Arc::new(opened(&disk).await);
    spool.push(SCAN, numbered(1)).await;
    disk.set_failing(true);
    let pusher = tokio::spawn({
        let spool = spool.clone();
        async move { spool.push(SCAN, numbered(2)).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    tokio::time::timeout(HANG, spool.close()).await.expect("it waits for the disk");
    assert!(!pusher.is_finished(), "what is not on the disk is not confirmed");
    disk.set_failing(false);
    let spool = opened(&disk).await;
    let records: Vec<_> = drain(&spool, 0).await.iter().map(number).collect();
    assert!(records == [Some(1)] || records == [Some(1), Some(2)], "{records:?}");
}

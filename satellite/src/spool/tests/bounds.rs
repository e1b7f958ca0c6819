//! A spool that is full: what goes first, and that every host is either there or accounted for.

use super::*;

/// Hosts of a record, and those that it says were dropped.
fn count(records: &[v1::Record]) -> (u64, u64, u64) {
    let mut sums = (0, 0, 0);
    for record in records {
        if let Some(Body::Observations(hosts)) = &record.body {
            sums.0 += batch::encoded_hosts(hosts).count() as u64;
        }
        if let Some(dropped) = record.dropped {
            sums.1 += dropped.hosts;
            sums.2 += dropped.confirmations;
        }
    }
    sums
}

#[tokio::test]
async fn confirmations_go_first_and_every_host_is_accounted_for() {
    let disk = Disk::default();
    let spool = opened(&disk).await;
    let (mut pushed, mut changes) = (0u64, 0u64);
    // 60 sweeps of 4,000 addresses, one change in each: some 12 MB where 6 fit.
    for sweep in 0..60u16 {
        for chunk in 0..8u16 {
            let addresses = chunk * 500..(chunk + 1) * 500;
            pushed += 500;
            if chunk == 3 {
                spool.push(SCAN, hosts([10_000 + sweep], u32::from(sweep))).await;
                pushed += 1;
                changes += 1;
            }
            spool.push(SCAN, hosts(addresses, 22)).await;
        }
        spool.push(SCAN, numbered(sweep.into())).await;
    }
    assert!(spool.bytes() <= SMALL.max_size, "{} bytes", spool.bytes());
    let stats = spool.dropped();
    assert_eq!(stats.hosts, stats.confirmations, "only confirmations went");
    assert!(stats.confirmations > 50_000, "{stats:?}");
    let records = drain(&spool, 0).await;
    let (kept, dropped, confirmations) = count(&records);
    assert_eq!((kept + dropped, dropped), (pushed, confirmations));
    assert_eq!(dropped, stats.hosts);
    assert_eq!(records.iter().filter(|record| number(record).is_some()).count(), 60, "all ends stayed");
    let news = records.iter().filter_map(|record| match &record.body {
        Some(Body::Observations(hosts)) => Some(hosts),
        _ => None,
    });
    let news = news.flat_map(|hosts| batch::hosts(hosts)).filter(|host| {
        let address = &host.as_ref().unwrap().address;
        u16::from_be_bytes([address[2], address[3]]) >= 10_000
    });
    assert_eq!(news.count() as u64, changes);
}

#[tokio::test]
async fn where_everything_is_new_the_oldest_goes() {
    let disk = Disk::default();
    let spool = opened(&disk).await;
    let mut pushed = 0;
    for n in 0..700u32 {
        // Never the same twice.
        spool.push(SCAN, hosts(0..500, n)).await;
        pushed += 500;
    }
    assert!(spool.bytes() <= SMALL.max_size, "{} bytes", spool.bytes());
    let records = drain(&spool, 0).await;
    let (kept, dropped, _) = count(&records);
    assert_eq!(kept + dropped, pushed);
    assert!(kept > 80_000, "most of the room is used: {kept}");
    let first = &records[0];
    assert_eq!((first.first_sequence, first.dropped.unwrap().reason()), (1, Reason::Full));
    assert_eq!(records.last().unwrap().sequence, 700);
    assert!(records[1..].iter().all(|record| record.dropped.is_none()), "what is left is left whole");
}

#[tokio::test]
async fn acked_records_make_way_before_anything_else() {
    let disk = Disk::default();
    let spool = opened(&disk).await;
    for n in 0..150u32 {
        spool.push(SCAN, hosts(0..500, n)).await;
    }
    drain(&spool, 0).await;
    for n in 0..170u32 {
        spool.push(SCAN, hosts(0..500, n)).await;
    }
    assert_eq!(spool.dropped(), Default::default());
    assert_eq!(spool.depth(), 170);
    assert!(spool.bytes() <= SMALL.max_size);
}

#[tokio::test]
async fn bounds_hold_while_a_slow_server_takes_it() {
    let disk = Disk::default();
    let spool = opened(&disk).await;
    welcome(&spool, 0).await;
    spool.credit(8);
    let (mut pushed, mut arrived) = (0, Vec::new());
    for n in 0..900u32 {
        spool.push(SCAN, hosts(0..400, n / 3)).await;
        pushed += 400;
        if n % 3 == 0 {
            let record = next(&spool).await.unwrap();
            spool.ack(record.sequence);
            arrived.push(record);
        }
    }
    let has = arrived.last().unwrap().sequence;
    arrived.extend(drain(&spool, has).await);
    let (kept, dropped, _) = count(&arrived);
    assert_eq!(kept + dropped, pushed);
    assert!(dropped > 0 && spool.bytes() <= SMALL.max_size, "{dropped}, {} bytes", spool.bytes());
    assert_eq!(spool.depth(), 0);
}

#[tokio::test]
async fn age_is_not_the_wall_clocks() {
    let disk = Disk::default();
    let time = TestClock::default();
    let settings = SpoolSettings { max_age: Duration::from_secs(3600), ..SMALL };
    let spool = Spool::open_on(Arc::new(disk.clone()), settings, time.clock()).unwrap();
    spool.push(SCAN, hosts(0..10, 1)).await;
    for wall_ms in [i64::MAX / 2, 0, -1_000_000_000_000] {
        time.wall_ms.store(wall_ms, Relaxed);
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    spool.close().await;
    time.wall_ms.store(5_000_000_000_000, Relaxed);
    let spool = Spool::open_on(Arc::new(disk.clone()), settings, time.clock()).unwrap();
    spool.push(SCAN, hosts(0..10, 2)).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(spool.depth(), 2, "a clock that jumps deletes nothing");
    time.monotonic_ms.store(3_601_000, Relaxed);
    eventually(|| spool.depth() == 0).await;
    let records = drain(&spool, 0).await;
    assert_eq!((records.len(), count(&records)), (1, (0, 20, 0)));
    assert_eq!(records[0].dropped.unwrap().reason(), Reason::Age);
    assert_eq!((records[0].first_sequence, records[0].sequence), (1, 2));
}

#[tokio::test]
async fn a_nearly_full_file_system_stops_the_growth_and_costs_no_change() {
    let disk = Disk::default();
    let spool = Arc::new(opened(&disk).await);
    for n in 0..120u32 {
        spool.push(SCAN, hosts(0..500, n.min(60))).await;
    }
    let before = spool.bytes();
    // Less than what is to stay free for others.
    disk.set_capacity(before + (20 << 20));
    for _ in 0..300u32 {
        spool.push(SCAN, hosts(0..500, 60)).await;
    }
    assert!(spool.bytes() < before + (3 << 20), "{before} and then {}", spool.bytes());
    assert_eq!(spool.error(), None);
    let pusher = tokio::spawn({
        let spool = spool.clone();
        async move {
            for n in 0..100u32 {
                spool.push(SCAN, hosts(0..500, 2000 + n)).await;
            }
        }
    });
    eventually(|| spool.error().is_some_and(|error| error.contains("64 MiB"))).await;
    assert!(!pusher.is_finished());
    disk.set_capacity(u64::MAX);
    tokio::time::timeout(HANG, pusher).await.expect("it did not recover").unwrap();
    let stats = spool.dropped();
    assert!(stats.hosts == stats.confirmations && stats.confirmations > 100_000, "{stats:?}");
    let (kept, dropped, _) = count(&drain(&spool, 0).await);
    assert_eq!(kept + dropped, 520 * 500);
}

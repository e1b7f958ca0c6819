//! The spool: durable pushes a second, and the memory of a deep backlog.
//!
//! `cargo bench -p portolan-satellite --bench spool`, in the directory that `TMPDIR` names.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run has no figure")]

use portolan_common::ids::ScanId;
use portolan_proto::v1::record::Body;
use portolan_satellite::spool::{Spool, SpoolSettings};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

const SCAN: ScanId = ScanId(Uuid::from_u128(3));

fn main() {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(pushes_and_memory());
}

fn body(bytes: usize) -> Body {
    // Random bytes, so that nothing can save room on them; it is no batch, and nobody looks.
    Body::Observations((0..bytes).map(|_| rand::random()).collect())
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn pushes_and_memory() {
    let dir = tempfile::tempdir().unwrap();
    println!("resident before: {} KiB", resident_kib());
    for bytes in [200, 30_000] {
        for pushers in [1u64, 64] {
            let path = dir.path().join(format!("{bytes}-{pushers}"));
            let spool = Arc::new(Spool::open(&path, SpoolSettings::default()).unwrap());
            spool.push(SCAN, body(10)).await;
            let each = if pushers == 1 { 400 } else { 40 };
            let began = Instant::now();
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..pushers {
                let (spool, body) = (spool.clone(), body(bytes));
                tasks.spawn(async move {
                    let mut worst = Duration::ZERO;
                    for _ in 0..each {
                        let began = Instant::now();
                        spool.push(SCAN, body.clone()).await;
                        worst = worst.max(began.elapsed());
                    }
                    worst
                });
            }
            let worst = tasks.join_all().await.into_iter().max().unwrap();
            let (took, count) = (began.elapsed(), pushers * each);
            println!(
                "{bytes} B, {pushers} at once: {:.0} a second, {:.2} ms each, worst {:.1} ms, file {} KiB",
                count as f64 / took.as_secs_f64(),
                took.as_secs_f64() * 1000.0 / each as f64,
                worst.as_secs_f64() * 1000.0,
                spool.bytes() / 1024,
            );
            spool.close().await;
        }
    }
    let path = dir.path().join("backlog");
    let spool = Arc::new(Spool::open(&path, SpoolSettings::default()).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let spool = spool.clone();
        tasks.spawn(async move {
            for _ in 0..420 {
                spool.push(SCAN, body(31_000)).await;
            }
        });
    }
    tasks.join_all().await;
    println!("backlog of {} records, file {} MiB", spool.depth(), spool.bytes() >> 20);
    println!("resident with the backlog: {} KiB", resident_kib());
    // As a crash leaves it.
    let crashed = dir.path().join("crashed");
    std::fs::create_dir(&crashed).unwrap();
    std::fs::copy(path.join("spool.redb"), crashed.join("spool.redb")).unwrap();
    let began = Instant::now();
    let repaired = Spool::open(&crashed, SpoolSettings::default()).unwrap();
    repaired.opened().await;
    println!("opened after a crash in {:.1} ms", began.elapsed().as_secs_f64() * 1000.0);
    drop(repaired);
    spool.close().await;
    drop(spool);
    let began = Instant::now();
    let spool = Spool::open(&path, SpoolSettings::default()).unwrap();
    spool.opened().await;
    println!("opened again in {:.1} ms", began.elapsed().as_secs_f64() * 1000.0);
    let began = Instant::now();
    spool.hello();
    assert!(spool.welcome(0, Some(u32::MAX)).await);
    let mut sent = 0;
    while !spool.is_settled() {
        spool.ack(spool.next().await.sequence);
        sent += 1;
    }
    println!("{sent} records sent and acked in {:.2} s", began.elapsed().as_secs_f64());
    println!("resident after: {} KiB", resident_kib());
    drop(spool);
}

//! How fast: durable commits by size of group and record, beside a bare file; and a long run that shows what a spool
//! takes in memory and on disk while records come and go.

use crate::figures::{Spread, cpu_seconds, disk_mb, resident_mb, round};
use crate::record::{content, of_the_mix};
use crate::spool::Engine;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// How many records a spool keeps while it is timed.
const WINDOW_BYTES: u64 = 12_000_000;

/// Group and record sizes, each timed for `seconds`.
pub const SHAPES: [(u64, usize); 4] = [(1, 200), (64, 200), (1, 30_000), (64, 30_000)];

/// Times one shape; the figures as JSON.
pub fn commits(
    engine: Engine,
    (group, length): (u64, usize),
    seconds: u64,
    scratch: &Path,
) -> anyhow::Result<Value> {
    let directory = scratch.join(format!("{}-{group}-{length}", engine.name()));
    let mut spool = engine.open(&directory)?;
    let window = WINDOW_BYTES / length as u64;
    // Filled once over, so that trimming is part of what is timed.
    let mut last = 0;
    while last < window + 64 {
        let records: Vec<_> = (last + 1..=last + 64).map(|n| (n, content(n, length))).collect();
        spool.commit(&records, 0)?;
        last += 64;
    }
    let prepared = prepare(group, length);
    timed(engine.name(), (group, length), seconds, &mut |_| {
        let records: Vec<_> = prepared.iter().zip(last + 1..).map(|(r, n)| (n, r.clone())).collect();
        last += group;
        spool.commit(&records, last.saturating_sub(window))?;
        Ok(())
    })
}

/// The same records appended to a bare file, with fdatasync. It grows, so each sync also commits the file system's
/// journal; an engine that writes into blocks it has already can be faster.
pub fn bare_file((group, length): (u64, usize), seconds: u64, scratch: &Path) -> anyhow::Result<Value> {
    let mut file = File::create(scratch.join(format!("file-{group}-{length}")))?;
    let prepared = prepare(group, length).concat();
    timed("bare file", (group, length), seconds, &mut |_| {
        file.write_all(&prepared)?;
        file.sync_data()?;
        Ok(())
    })
}

fn prepare(group: u64, length: usize) -> Vec<Vec<u8>> {
    (0..group).map(|n| content(n, length)).collect()
}

fn timed(
    name: &str,
    (group, length): (u64, usize),
    seconds: u64,
    commit: &mut dyn FnMut(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Value> {
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let mut spread = Spread::default();
    while begun.elapsed() < Duration::from_secs(seconds) {
        let start = Instant::now();
        commit(spread.len() as u64)?;
        spread.add(start.elapsed());
    }
    let (elapsed, commits) = (begun.elapsed().as_secs_f64(), spread.len() as f64);
    Ok(json!({
        "trial": "rate", "engine": name, "group": group, "record_bytes": length,
        "commits_per_s": (commits / elapsed).round(), "records_per_s": (commits * group as f64 / elapsed).round(),
        "mb_per_s": round(commits * group as f64 * length as f64 / elapsed / 1e6),
        "commit_ms": spread.in_ms(), "cpu_us_per_commit": ((cpu_seconds() - cpu) / commits * 1e6).round(),
    }))
}

/// Appends and trims a long time in groups of 64; memory, disk and pace at ten points of it.
pub fn steady(engine: Engine, records: u64, window: u64, scratch: &Path) -> anyhow::Result<Value> {
    let directory = scratch.join("steady");
    let mut spool = engine.open(&directory)?;
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let mut points = Vec::new();
    let mut last = 0;
    let mut next_point = records / 10;
    while last < records {
        let group: Vec<_> = (last + 1..=last + 64).map(of_the_mix).collect();
        last += 64;
        spool.commit(&group, (last + 1).saturating_sub(window))?;
        if last >= next_point {
            let (resident, highest) = resident_mb();
            points.push(json!({
                "records": last, "seconds": round(begun.elapsed().as_secs_f64()), "resident_mb": resident,
                "highest_mb": highest, "disk_mb": disk_mb(&directory),
            }));
            next_point += records / 10;
        }
    }
    let live: u64 = (last + 1 - window.min(last)..=last).map(|n| crate::record::length(n) as u64).sum();
    Ok(json!({
        "trial": "steady", "engine": engine.name(), "window": window, "live_mb": round(live as f64 / 1e6),
        "cpu_s": round(cpu_seconds() - cpu), "points": points,
    }))
}

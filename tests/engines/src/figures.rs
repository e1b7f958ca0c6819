//! Figures about processes and files: spreads of durations, CPU time, resident memory, bytes on disk.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Durations, for their median and extremes.
#[derive(Debug, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// One more.
    pub fn add(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Median, 99th percentile and longest, in milliseconds.
    pub fn in_ms(&self) -> Value {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |part: f64| {
            let index = (sorted.len().saturating_sub(1)) as f64 * part;
            sorted.get(index.round() as usize).map(|d| (d.as_secs_f64() * 1e5).round() / 100.0)
        };
        json!({ "median": at(0.5), "p99": at(0.99), "longest": at(1.0) })
    }
}

/// CPU seconds of this process so far, all threads.
pub fn cpu_seconds() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
    })
}

/// Resident memory of this process in MB (10^6 bytes), now and at its highest.
pub fn resident_mb() -> (f64, f64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        round(kib.unwrap_or(0.0) * 1024.0 / 1e6)
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Bytes that the files under a directory occupy, in MB; holes and reserved blocks as the file system counts them.
pub fn disk_mb(directory: &Path) -> f64 {
    round(blocks(directory) as f64 * 512.0 / 1e6)
}

fn blocks(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => blocks(&entry.path()),
            Ok(meta) => meta.blocks(),
            Err(_) => 0,
        })
        .sum()
}

/// Two digits behind the point.
pub fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_knows_its_middle_and_its_end() {
        let mut spread = Spread::default();
        (1..=101).for_each(|ms| spread.add(Duration::from_millis(ms)));
        assert_eq!(spread.in_ms(), json!({ "median": 51.0, "p99": 100.0, "longest": 101.0 }));
        assert_eq!(Spread::default().in_ms(), json!({ "median": null, "p99": null, "longest": null }));
    }

    #[test]
    fn this_process_has_memory_and_its_files_have_size() {
        let (now, highest) = resident_mb();
        assert!(now > 0.5 && highest >= now);
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("inner")).unwrap();
        fs::write(directory.path().join("inner/file"), vec![1; 1_000_000]).unwrap();
        fs::File::open(directory.path().join("inner/file")).unwrap().sync_all().unwrap();
        assert!((1.0..1.1).contains(&disk_mb(directory.path())));
    }
}

//! What benchmarks measure of processes, and how they print it: each figure beside its limit.

use std::fs;
use std::time::Duration;

/// A process's memory in bytes by a line of its `status`: `VmRSS` is what is resident, `VmHWM` the most ever.
#[track_caller]
pub fn memory(id: u32, which: &str) -> u64 {
    let path = format!("/proc/{id}/status");
    let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let kilobytes = line.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or_else(|| panic!("no {which} in {path}")) * 1024
}

/// User and system time of a process.
#[track_caller]
pub fn processor_time(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("the process runs");
    // Behind the name, which may hold anything: state is field 3, the times are fields 14 and 15.
    let fields = stat.rsplit_once(')').expect("a name in parentheses").1;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|field| field.parse::<u64>().expect("a number of ticks")).sum();
    // USER_HZ is 100 on every Linux.
    Duration::from_millis(ticks * 10)
}

/// The time that so many percent of these do not exceed; nothing of none.
pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or_default()
}

/// Median, 99th percentile and worst, of how many.
pub fn spread_of(times: &[Duration]) -> String {
    if times.is_empty() {
        return "none".into();
    }
    let [median, most, worst] = [50, 99, 100].map(|percent| millis(percentile(times, percent)));
    format!("{median} / {most} / {worst} of {}", times.len())
}

/// `1.23 s`.
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// `123 ms`.
pub fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

/// `1.2 MB`.
pub fn mega(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1_000_000.0)
}

/// Prints a figure, with its limit where it has one.
pub fn tell(what: &str, measured: &str, limit: &str, reached: Option<bool>) {
    let verdict = match reached {
        Some(true) => format!("at most {limit:<8} reached"),
        Some(false) => format!("at most {limit:<8} MISSED"),
        None => String::new(),
    };
    println!("{what:<48} {measured:>30}   {verdict}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        let at = |percent| percentile(&times, percent).as_millis();
        assert_eq!([at(0), at(50), at(99), at(100)], [1, 101, 199, 200]);
        assert_eq!(percentile(&[], 99), Duration::ZERO);
        assert_eq!(spread_of(&times), "101 ms / 199 ms / 200 ms of 200");
    }

    #[test]
    fn a_process_has_memory_and_uses_time() {
        assert!(memory(std::process::id(), "VmRSS") > 0);
        assert!(processor_time(std::process::id()) < Duration::from_secs(3_600));
    }
}

//! What a program takes: time, processor time, memory.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// Between two looks at a program's memory.
const LOOK: Duration = Duration::from_millis(10);
/// Between two looks at whether it still runs: the error of every wall time.
const STEP: Duration = Duration::from_millis(1);

/// A program that was run to its end, or to its limit.
#[derive(Clone, Debug)]
pub struct Run {
    /// Seconds from start to end.
    pub wall: f64,
    /// Processor seconds, user and system.
    pub cpu: f64,
    /// The largest resident size that was seen (VmHWM), in MB. Not ru_maxrss, which would count this program's own
    /// memory from before the exec.
    pub peak_mb: f64,
    /// Why it counts as failed, if it does.
    pub failure: Option<String>,
    /// What it printed.
    pub stdout: String,
}

/// Runs a program, its output going to files below `work`; kills it at the limit.
pub fn run(mut command: Command, work: &Path, limit: Duration) -> Result<Run> {
    let (out, err) = (work.join("peer.out"), work.join("peer.err"));
    command.stdout(File::create(&out)?).stderr(File::create(&err)?);
    // A program that handles its terminal's signals finds none.
    command.process_group(0);
    let before = children_cpu()?;
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let (mut peak, mut looked, mut killed) = (0.0_f64, start - LOOK, false);
    let status = loop {
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            peak = peak.max(status_mb(child.id(), "VmHWM").unwrap_or_default());
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit && !killed {
            killed = true;
            child.kill()?;
        }
        thread::sleep(STEP);
    };
    let wall = start.elapsed().as_secs_f64();
    let cpu = children_cpu()? - before;
    let failure = match (killed, status.success()) {
        (true, _) => Some(format!("killed after {} s", limit.as_secs())),
        (false, true) => None,
        (false, false) => {
            let said = fs::read_to_string(&err).unwrap_or_default();
            Some(format!("{status}: {}", said.lines().next().unwrap_or("it said nothing")))
        }
    };
    let stdout = String::from_utf8_lossy(&fs::read(&out)?).into_owned();
    Ok(Run { wall, cpu, peak_mb: peak, failure, stdout })
}

/// Processor seconds of a process so far, all its threads together, in steps of a clock tick (10 ms).
pub fn cpu_of(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name may hold spaces; the fields after it do not (proc_pid_stat(5): utime is the 14th, stime the 15th).
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let ticks = |index: usize| fields.get(index).and_then(|field: &&str| field.parse::<f64>().ok());
    let ticks = ticks(11).zip(ticks(12)).with_context(|| format!("read times in {path}"))?;
    let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok((ticks.0 + ticks.1) / second as f64)
}

/// Whether a process lives: one that has ended keeps its name until it is waited for, but no memory.
pub fn is_running(process: u32) -> bool {
    status_mb(process, "VmRSS").is_ok()
}

/// A size in /proc/PID/status, in MB of 1,000,000 bytes.
pub fn status_mb(process: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes = line.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kilobytes.map(|kilobytes| kilobytes * 1024.0 / 1e6).with_context(|| format!("no {field} in {path}"))
}

/// Forgets the largest resident size so far: VmHWM counts from now (proc_pid_clear_refs(5)).
pub fn reset_peak(process: u32) -> Result<()> {
    let path = format!("/proc/{process}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("write {path}"))
}

/// Packets that the kernel threw away since its start because a processor's input queue was full.
pub fn backlog_drops() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/softnet_stat")?;
    let of_line = |line: &str| line.split(' ').nth(1).and_then(|word| u64::from_str_radix(word, 16).ok());
    Ok(text.lines().filter_map(of_line).sum())
}

fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(micros as f64 / 1e6)
}

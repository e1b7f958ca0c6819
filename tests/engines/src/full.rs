//! The disk-full trial: a tmpfs in a mount namespace of its own, a writer that fills it, and then one of three ways on.
//! Counted is what an engine says, whether it goes on, and whether anything acknowledged is missing afterwards.

use crate::figures::{Spread, disk_mb};
use crate::power::private_mounts;
use crate::process::{Conversation, Ended, run_to_end, start};
use crate::spool::Engine;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Freed when space is to return: more than any group.
const BALLAST_BYTES: usize = 16 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);

/// How a cycle goes on once the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Half of the records are deleted, more is appended, while the disk stays full.
    StaysFull,
    /// Space returns.
    SpaceReturns,
    /// The process ends; another opens while the disk is still full.
    NewProcess,
}

impl Way {
    /// Orders to the process, and what it is called when they are obeyed.
    fn steps(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::StaysFull => &[
                ("trim", "full: trims"),
                ("append", "full: appends after trimming"),
                ("reopen", "full: reopens in the process"),
                ("trim", "full: trims after reopening"),
                ("append", "full: appends after reopening and trimming"),
                ("reopen", "full: reopens a second time"),
                ("trim-few", "full: trims eight records after that"),
            ],
            Self::SpaceReturns => &[
                ("append", "space: appends"),
                ("reopen", "space: reopens in the process"),
                ("append", "space: appends after reopening"),
            ],
            Self::NewProcess => &[
                ("trim", "full, new process: trims"),
                ("append", "full, new process: appends after trimming"),
            ],
        }
    }
}

#[derive(Default)]
struct Counts(BTreeMap<String, u64>);

impl Counts {
    fn count(&mut self, what: &str, happened: bool) {
        *self.0.entry(what.into()).or_default() += u64::from(happened);
    }
}

/// Runs the trial; the figures as JSON.
pub fn run(engine: Engine, cycles: u64, megabytes: u64, mountpoint: &Path) -> anyhow::Result<Value> {
    private_mounts()?;
    let mut counts = Counts::default();
    let mut errors = BTreeMap::<String, u64>::new();
    let (mut acked_mb, mut disk, mut opens) = (Vec::new(), Vec::new(), Spread::default());
    for cycle in 0..cycles {
        let options = format!("size={megabytes}m");
        mount(Some("tmpfs"), mountpoint, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        let way = [Way::StaysFull, Way::SpaceReturns, Way::NewProcess][(cycle % 3) as usize];
        let spool = mountpoint.join("spool");
        let ballast = mountpoint.join("ballast");
        // Its size differs a little, so that the disk ends at a different write each time.
        fs::write(&ballast, vec![0; BALLAST_BYTES + (crate::record::mix(cycle) % 500_000) as usize])?;
        let known = cycle_once(engine, way, &spool, &ballast, &mut counts, &mut errors)?;

        let _ = fs::remove_file(&ballast);
        let ended = read(engine, &spool)?;
        let opened = ended.lines.numbers("opened");
        counts.count("reopens_after_space_returned", opened.len() == 2);
        counts.count("cycles", true);
        if let [micros, _] = opened[..] {
            opens.add(Duration::from_micros(micros));
        } else {
            *errors.entry(format!("reopen: {}", ended.summary())).or_default() += 1;
        }
        judge(&ended, &known, &mut counts);
        if let [.., bytes] = ended.lines.numbers("found")[..] {
            acked_mb.push(bytes as f64 / 1e6);
            disk.push(disk_mb(&spool));
        }
        umount2(mountpoint, MntFlags::MNT_DETACH)?;
    }
    let mean = |all: &[f64]| crate::figures::round(all.iter().sum::<f64>() / all.len().max(1) as f64);
    Ok(json!({
        "trial": "full", "engine": engine.name(), "megabytes": megabytes, "counts": counts.0,
        "open_ms": opens.in_ms(), "mean_live_mb_afterwards": mean(&acked_mb), "mean_disk_mb_afterwards": mean(&disk),
        "errors": errors,
    }))
}

/// What must be there afterwards.
#[derive(Default)]
struct Known {
    acked: u64,
    trimmed_below: u64,
}

impl Known {
    fn hear(&mut self, (word, value): &(String, String)) -> bool {
        match (word.as_str(), value.parse()) {
            ("ack", Ok(number)) => self.acked = number,
            ("first", Ok(number)) => self.trimmed_below = number,
            ("serving", _) => {}
            _ => return false,
        }
        true
    }
}

fn cycle_once(
    engine: Engine,
    way: Way,
    spool: &Path,
    ballast: &Path,
    counts: &mut Counts,
    errors: &mut BTreeMap<String, u64>,
) -> anyhow::Result<Known> {
    let mut known = Known::default();
    let mut note = |step: &str, text: &str| {
        let key = format!("{step}: {}", without_numbers(text));
        *errors.entry(key).or_default() += 1;
    };
    let mut writer = Conversation::with(start(&["child", "fill", engine.name()], spool, &[])?)?;
    let ended_with = loop {
        match writer.hear(PATIENCE) {
            Ok(Some(line)) if known.hear(&line) => {}
            Ok(Some((word, text))) => {
                note(&word, &text);
                break Some(word);
            }
            Ok(None) => break None,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => break Some("hang".into()),
            Err(error) => return Err(error.into()),
        }
    };
    counts.count("full_is_an_error", ended_with.as_deref() == Some("full"));
    counts.count("hangs", ended_with.as_deref() == Some("hang"));
    counts.count("panics_or_dies", ended_with.is_none());
    if ended_with.as_deref() == Some("full") {
        if way == Way::NewProcess {
            writer.kill()?;
            let ended = read(engine, spool)?;
            counts.count("opens_in_a_new_process_while_full", ended.lines.numbers("opened").len() == 2);
            counts.count("opens_in_a_new_process_while_full (tried)", true);
            if ended.lines.has("found") {
                judge(&ended, &known, counts);
            } else {
                note("open while full", &ended.summary());
            }
            writer = Conversation::with(start(&["child", "serve", engine.name()], spool, &[])?)?;
            // Either that it serves, or why it does not.
            writer.hear(PATIENCE)?;
        }
        if way == Way::SpaceReturns {
            fs::remove_file(ballast)?;
        }
        for (order, name) in way.steps() {
            counts.count(&format!("{name} (tried)"), true);
            let answer = writer.ask(order, PATIENCE).unwrap_or(Some(("hang".into(), String::new())));
            let done = answer.as_ref().is_some_and(|line| known.hear(line) || line.0 == "done");
            counts.count(name, done);
            if !done {
                let text = answer.map_or("the process died".into(), |(word, text)| format!("{word} {text}"));
                note(name, &text);
            }
        }
    }
    let stderr = writer.kill()?;
    if !stderr.is_empty() {
        note("stderr", &stderr);
    }
    Ok(known)
}

fn read(engine: Engine, spool: &Path) -> io::Result<Ended> {
    run_to_end(start(&["child", "read", engine.name()], spool, &[])?, PATIENCE)
}

fn judge(ended: &Ended, known: &Known, counts: &mut Counts) {
    let [first, last, wrong, missing, _] = ended.lines.numbers("found")[..] else {
        counts.count("acked_lost", known.acked > 0);
        return;
    };
    let lost = last < known.acked || missing > 0 || wrong > 0 || first > known.trimmed_below.max(1);
    counts.count("acked_lost", lost && known.acked > 0);
}

/// The same error at another offset is the same error.
fn without_numbers(text: &str) -> String {
    let mut short: String =
        text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).take(160).collect();
    while short.contains("##") {
        short = short.replace("##", "#");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Lines;

    #[test]
    fn what_was_acked_and_not_trimmed_must_be_there() {
        let lost = |found: &str, acked, trimmed_below| {
            let mut counts = Counts::default();
            let ended = Ended { lines: Lines::parse(found), code: Some(0), hung: false };
            judge(&ended, &Known { acked, trimmed_below }, &mut counts);
            counts.0["acked_lost"]
        };
        assert_eq!(lost("found 1 50 0 0 9\n", 50, 0), 0);
        assert_eq!(lost("found 25 50 0 0 9\n", 50, 25), 0);
        assert_eq!(lost("found 1 70 0 0 9\n", 50, 25), 0);
        assert_eq!(lost("found 26 50 0 0 9\n", 50, 25), 1);
        assert_eq!(lost("found 1 49 0 0 9\n", 50, 0), 1);
        assert_eq!(lost("found 1 50 1 0 9\n", 50, 0), 1);
        assert_eq!(lost("found 1 50 0 1 9\n", 50, 0), 1);
        assert_eq!(lost("error no\n", 50, 0), 1);
        assert_eq!(lost("error no\n", 0, 0), 0);
    }

    #[test]
    fn errors_are_told_apart_by_words() {
        assert_eq!(without_numbers("no space at 4096, os error 28"), "no space at #, os error #");
    }
}

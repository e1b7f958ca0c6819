//! The kill trial: a writer is killed with SIGKILL at a moment that the seed decides, over and over, on one spool. After
//! each kill a fresh process opens and checks: what was acknowledged must be there. The page cache survives a kill; on
//! a disk of `power.rs` it does not, and the same trial shows what a power cut takes.

use crate::figures::Spread;
use crate::power::Disk;
use crate::process::{Ended, Lines, run_to_end, start};
use crate::record::{fraction, group, mix};
use crate::spool::Engine;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest that a writer lives. Moments are spread evenly over the logarithm: half of the kills come within 20 ms,
/// when the engine opens or has only just begun.
const LONGEST: Duration = Duration::from_millis(400);
/// Whoever takes longer to open and check 12 MB hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the seed decides.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many kills.
    pub kills: u64,
    /// Ends earlier when this has passed.
    pub at_most: Duration,
    /// How many records are kept.
    pub window: u64,
    /// Repeats the moments.
    pub seed: u64,
}

#[derive(Default)]
struct Tally {
    kills: u64,
    while_opening: u64,
    unopenable: u64,
    hangs: u64,
    rescues: u64,
    lost: u64,
    wrong: u64,
    gaps: u64,
    torn: u64,
    window_off: u64,
    unacked_found: u64,
    errors: Vec<String>,
    losses: Vec<String>,
    opens: Spread,
}

/// What is known from outside of the spool on trial.
#[derive(Default)]
struct Known {
    acked: u64,
}

/// Runs the trial; the figures as JSON.
pub fn run(engine: Engine, plan: Plan, scratch: &Path, disk: Option<&Disk>) -> anyhow::Result<Value> {
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut known = Known::default();
    let mut acked_in_all = 0;
    let mut generation = 0;
    let root = disk.map_or(scratch, Disk::path);
    let mut directory = root.join("spool-0");
    while tally.kills < plan.kills && begun.elapsed() < plan.at_most {
        let moment = moment(plan.seed, tally.kills);
        let before = known.acked;
        let lines = kill_a_writer(engine, &directory, plan.window, moment, disk)?;
        tally.kills += 1;
        tally.while_opening += u64::from(!lines.has("open"));
        if disk.is_none() {
            tally.errors.extend(lines.all("error").map(String::from));
        }
        known.acked = lines.all("ack").filter_map(|n| n.parse().ok()).max().unwrap_or(before);
        acked_in_all += known.acked - before;

        let ended = run_to_end(start(&["child", "read", engine.name()], &directory, &[])?, PATIENCE)?;
        if !judge(&mut tally, &mut known, plan.window, &ended) {
            // What does not open stays where it is, for a look at it.
            generation += 1;
            directory = root.join(format!("spool-{generation}"));
            known = Known::default();
        }
    }
    Ok(json!({
        "trial": if disk.is_some() { "power cuts" } else { "kills" }, "engine": engine.name(), "seed": plan.seed, "window": plan.window,
        "kills": tally.kills, "killed_while_opening": tally.while_opening, "acked": acked_in_all,
        "unopenable": tally.unopenable, "hangs": tally.hangs, "rescues_or_repairs": tally.rescues,
        "acked_lost": tally.lost, "wrong_records": tally.wrong, "gaps": tally.gaps, "torn_groups": tally.torn,
        "window_off": tally.window_off, "unacked_groups_found": tally.unacked_found,
        "open_ms": tally.opens.in_ms(), "losses": tally.losses, "errors": tally.errors, "seconds": begun.elapsed().as_secs(),
    }))
}

/// When kill number `n` comes.
fn moment(seed: u64, n: u64) -> Duration {
    Duration::from_secs_f64(LONGEST.as_secs_f64().mul_add(1000.0, 0.0).powf(fraction(mix(seed) ^ n)) / 1000.0)
}

/// With a disk the power goes first: what the writer said before it died was on the disk.
fn kill_a_writer(
    engine: Engine,
    directory: &Path,
    window: u64,
    moment: Duration,
    disk: Option<&Disk>,
) -> anyhow::Result<Lines> {
    let mut writer = start(&["child", "write", engine.name()], directory, &[&window.to_string()])?;
    std::thread::sleep(moment);
    // It may sleep in a sync that the cut holds up; the signal counts before the sync can return.
    match disk {
        Some(disk) => disk.cut(|| writer.kill())??,
        None => writer.kill()?,
    }
    let lines = run_to_end(writer, PATIENCE)?.lines;
    if let Some(disk) = disk {
        disk.restore()?;
    }
    Ok(lines)
}

/// Compares what the reader found with what was acknowledged; false when the spool is of no more use.
fn judge(tally: &mut Tally, known: &mut Known, window: u64, ended: &Ended) -> bool {
    let opened: Vec<u64> = ended.lines.numbers("opened");
    let [micros, rescued] = opened[..] else {
        tally.unopenable += 1;
        tally.hangs += u64::from(ended.hung);
        tally.errors.push(ended.summary());
        return false;
    };
    tally.opens.add(Duration::from_micros(micros));
    tally.rescues += rescued;
    let found = ended.lines.numbers("found");
    let [first, last, wrong, missing, _] = found[..] else {
        tally.wrong += 1;
        tally.errors.push(ended.summary());
        return false;
    };
    tally.wrong += wrong;
    tally.gaps += missing;
    if last < known.acked {
        tally.lost += known.acked - last;
        tally.losses.push(format!("kill {}: {last} of {}, rescued: {rescued}", tally.kills, known.acked));
    }
    if last > known.acked {
        tally.unacked_found += 1;
        // At most one group was under way, and it is there whole or not at all.
        tally.torn += u64::from(last != known.acked + group(known.acked + 1));
    }
    // Trimming belongs to the same commit as appending.
    if last > 0 && last >= known.acked {
        tally.window_off += u64::from(first != (last + 1).saturating_sub(window).max(1));
    }
    known.acked = last;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(acked: u64, lines: &str) -> (Tally, bool) {
        let mut tally = Tally::default();
        let ended = Ended { lines: Lines::parse(lines), code: Some(0), hung: false };
        let usable = judge(&mut tally, &mut Known { acked }, 100, &ended);
        (tally, usable)
    }

    #[test]
    fn a_spool_that_holds_what_was_acked_is_good() {
        let (tally, usable) = judged(150, "opened 900 0\nfound 51 150 0 0 7000\n");
        assert!(usable);
        assert_eq!((tally.lost, tally.wrong, tally.gaps, tally.torn, tally.window_off), (0, 0, 0, 0, 0));
    }

    #[test]
    fn every_kind_of_loss_is_counted() {
        assert_eq!(judged(150, "opened 900 1\nfound 48 147 0 0 7000\n").0.lost, 3);
        assert_eq!(judged(150, "opened 900 1\nfound 48 147 0 0 7000\n").0.rescues, 1);
        assert_eq!(judged(150, "opened 900 0\nfound 51 150 2 1 7000\n").0.wrong, 2);
        assert_eq!(judged(150, "opened 900 0\nfound 51 150 2 1 7000\n").0.gaps, 1);
        assert_eq!(judged(150, "opened 900 0\nfound 60 150 0 0 7000\n").0.window_off, 1);
        let whole = 150 + group(151);
        assert_eq!(judged(150, &format!("opened 9 0\nfound {} {whole} 0 0 7\n", whole - 99)).0.torn, 0);
        assert_eq!(judged(150, &format!("opened 9 0\nfound {} {} 0 0 7\n", whole - 98, whole + 1)).0.torn, 1);
    }

    #[test]
    fn a_spool_that_does_not_open_is_counted_and_left() {
        let (tally, usable) = judged(150, "error cannot open\n");
        assert!(!usable);
        assert_eq!(tally.unopenable, 1);
        assert!(tally.errors[0].contains("cannot open"));
    }

    #[test]
    fn moments_follow_from_the_seed_and_cover_the_span() {
        let all: Vec<Duration> = (0..2_000).map(|n| moment(7, n)).collect();
        assert_eq!(all[3], moment(7, 3));
        assert!(all.iter().all(|m| *m <= LONGEST && *m >= Duration::from_millis(1)));
        let early = all.iter().filter(|m| **m < Duration::from_millis(20)).count();
        assert!((800..1_200).contains(&early), "{early}");
    }
}

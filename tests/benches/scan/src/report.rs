//! What the runs of a row come to: medians, the limits beside them, and a table to read or to keep.

use crate::contest::Sample;
use crate::rows::{Limit, Peer, Row};
use crate::verdicts::Score;

/// The runs of one scanner on one row: medians of what is measured, the worst of what is counted.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Who.
    pub name: String,
    /// How many runs.
    pub runs: usize,
    /// Seconds of the whole command.
    pub wall: f64,
    /// Seconds of the sweep itself.
    pub sweep: Option<f64>,
    /// Processor seconds.
    pub cpu: f64,
    /// The largest peak, in MB.
    pub peak_mb: f64,
    /// The worst score.
    pub score: Score,
    /// Connections of somebody else: opened and refused, all runs.
    pub neighbour: Option<(u64, u64)>,
    /// The slowest last first answer, in milliseconds, and the fewest services that answered.
    pub heard: Option<(f64, usize)>,
    /// Reasons of what was left undecided, all runs.
    pub undecided: Vec<(String, usize)>,
    /// Runs that did not come to their end.
    pub failed: usize,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// A row that was run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which.
    pub row: Row,
    /// The others.
    pub peers: Vec<(Peer, Summary)>,
    /// Portolan.
    pub ours: Summary,
    /// What it reached.
    pub verdicts: Vec<Verdict>,
}

/// One limit: what it asks, what was measured, by how much it was missed.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// "at most 0.85 x nmap -sS -T4 (2.41 s)".
    pub asked: String,
    /// What was measured.
    pub measured: String,
    /// `ok`, or what is missing.
    pub outcome: String,
}

impl Summary {
    /// From at least one run.
    pub fn of(name: String, samples: &[Sample]) -> Option<Self> {
        let first = samples.first()?;
        let score = samples.iter().fold(first.score.clone(), |worst, sample| worst.worst(&sample.score));
        let sweeps: Option<Vec<f64>> = samples.iter().map(|sample| sample.sweep).collect();
        let mut notes: Vec<String> = Vec::new();
        for note in samples.iter().flat_map(|sample| &sample.notes) {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        let add = |one: (u64, u64), other: (u64, u64)| (one.0 + other.0, one.1 + other.1);
        let worse = |one: (f64, usize), other: (f64, usize)| (one.0.max(other.0), one.1.min(other.1));
        Some(Self {
            name,
            runs: samples.len(),
            wall: median(samples.iter().map(|sample| sample.wall).collect()),
            sweep: sweeps.map(median),
            cpu: median(samples.iter().map(|sample| sample.cpu).collect()),
            peak_mb: samples.iter().map(|sample| sample.peak_mb).fold(0.0, f64::max),
            score,
            neighbour: samples.iter().filter_map(|sample| sample.neighbour).reduce(add),
            heard: samples.iter().filter_map(|sample| sample.heard).reduce(worse),
            undecided: samples.iter().flat_map(|sample| sample.undecided.clone()).collect(),
            failed: samples.iter().filter(|sample| sample.failed).count(),
            notes,
        })
    }

    fn remarks(&self) -> String {
        let mut said = vec![self.score.to_string()];
        if let Some((opened, refused)) = self.neighbour {
            said.push(format!("neighbour: {opened} opened, {refused} refused"));
        }
        if let Some((millis, services)) = self.heard {
            said.push(format!("{services} services heard in {millis:.0} ms"));
        }
        said.extend(self.notes.iter().cloned());
        said.join("; ")
    }
}

impl Outcome {
    /// Holds what was measured beside the row's limits.
    pub fn new(row: Row, peers: Vec<(Peer, Summary)>, ours: Summary) -> Self {
        let verdicts = row.limits.iter().map(|limit| verdict(&row, *limit, &ours, &peers)).collect();
        Self { row, peers, ours, verdicts }
    }

    fn summaries(&self) -> impl Iterator<Item = &Summary> {
        self.peers.iter().map(|(_, summary)| summary).chain([&self.ours])
    }
}

fn verdict(row: &Row, limit: Limit, ours: &Summary, peers: &[(Peer, Summary)]) -> Verdict {
    let verdict = compare(row, limit, ours, peers);
    match ours.failed {
        0 => verdict,
        failed => Verdict { outcome: format!("MISSED: {failed} runs failed"), ..verdict },
    }
}

fn compare(row: &Row, limit: Limit, ours: &Summary, peers: &[(Peer, Summary)]) -> Verdict {
    let score = &ours.score;
    let at_most = |asked: String, measured: f64, most: f64, unit: &str| Verdict {
        asked,
        measured: format!("{measured:.2}{unit}"),
        outcome: if measured <= most {
            "ok".into()
        } else {
            format!("MISSED by {:.2}{unit}", measured - most)
        },
    };
    let counted = |asked: String, wrong: usize, measured: String| Verdict {
        asked,
        measured,
        outcome: if wrong == 0 { "ok".into() } else { format!("MISSED by {wrong}") },
    };
    match limit {
        Limit::Ratio(peer, most) | Limit::Aim(peer, most) => {
            let word = if matches!(limit, Limit::Aim(..)) { "aim: at most" } else { "at most" };
            let Some((_, theirs)) = peers.iter().find(|(one, _)| *one == peer) else {
                let (asked, measured) = (format!("{word} {most} x {peer}"), "not measured".into());
                return Verdict { asked, measured, outcome: "not measured".into() };
            };
            let asked = format!("{word} {most} x {peer} ({:.2} s)", theirs.wall);
            let mut verdict = at_most(asked, ours.wall / theirs.wall, most, "");
            if let Some(sweep) = ours.sweep {
                verdict.measured.push_str(&format!(" (sweep alone {:.2})", sweep / theirs.wall));
            }
            verdict
        }
        Limit::Seconds(most) => {
            let mut verdict = at_most(format!("at most {most} s"), ours.wall, most, " s");
            if let Some(sweep) = ours.sweep {
                verdict.measured.push_str(&format!(" (sweep alone {sweep:.2} s)"));
            }
            verdict
        }
        Limit::Cpu(most) => {
            at_most(format!("under {most} CPU seconds of the satellite"), ours.cpu, most, " s")
        }
        Limit::Memory(most) => at_most(format!("under {most} MB above idle"), ours.peak_mb, most, " MB"),
        Limit::PerCpuSecond(least) => {
            let asked_ports = row.addresses().len() * row.asked().map_or(0, |ports| ports.len()) * row.times;
            let rate = asked_ports as f64 / ours.cpu.max(0.01);
            Verdict {
                asked: format!("at least {least:.0} ports for each CPU second"),
                measured: format!("{rate:.0}"),
                outcome: if rate >= least { "ok".into() } else { format!("MISSED by {:.0}", least - rate) },
            }
        }
        Limit::Right => {
            let wrong = score.missed
                + score.false_open
                + score.closed_as_filtered
                + score.filtered_as_closed
                + score.undecided
                + score.unsaid;
            counted("every state right".into(), wrong, score.to_string())
        }
        Limit::AllOpen => {
            let measured = format!("{} of {}, {} false", score.found, score.open, score.false_open);
            counted("every open port found".into(), score.missed + score.false_open, measured)
        }
        Limit::ClosedAsFiltered(most) => {
            let wrong =
                score.closed_as_filtered.saturating_sub(most) + score.filtered_as_closed + score.unsaid;
            counted(
                format!("at most {most} closed called filtered"),
                wrong,
                score.closed_as_filtered.to_string(),
            )
        }
        Limit::NeighbourServed => {
            let (opened, refused) = ours.neighbour.unwrap_or_default();
            let nobody = usize::from(opened == 0);
            let measured = format!("{opened} opened, {refused} refused");
            counted("nobody else refused at the firewall".into(), refused as usize + nobody, measured)
        }
        Limit::HeardWithin(most) => {
            let (millis, services) = ours.heard.unwrap_or_default();
            let all = services == score.open;
            let mut verdict = at_most(format!("all services heard in {most} ms"), millis, most, " ms");
            verdict.measured = format!("{services} of {} in {millis:.0} ms", score.open);
            if !all {
                verdict.outcome = format!("MISSED by {} services", score.open - services.min(score.open));
            }
            verdict
        }
        Limit::Undecided(reason) => {
            let other = ours.undecided.iter().filter(|(said, _)| said != reason);
            let other: usize = other.map(|(_, count)| count).sum();
            let said: Vec<String> =
                ours.undecided.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            let unexplained = usize::from(score.undecided > 0 && ours.undecided.is_empty());
            let measured = if said.is_empty() { "nothing undecided".into() } else { said.join(", ") };
            counted(format!("what is undecided says {reason}"), other + unexplained, measured)
        }
    }
}

/// A row, to be read.
pub fn text(outcome: &Outcome) -> String {
    let mut text = format!("\n{}: {}\n", outcome.row.name, outcome.row.title);
    text.push_str(&format!(
        "  {:<52} {:>9} {:>9} {:>8} {:>9}  what it said\n",
        "", "command", "sweep", "CPU", "peak"
    ));
    for summary in outcome.summaries() {
        let sweep = summary.sweep.map_or_else(|| "-".into(), |sweep| format!("{sweep:.2} s"));
        let runs = format!("{} ({} x)", summary.name, summary.runs);
        text.push_str(&format!(
            "  {runs:<52} {:>7.2} s {sweep:>9} {:>6.2} s {:>6.1} MB  {}\n",
            summary.wall,
            summary.cpu,
            summary.peak_mb,
            summary.remarks()
        ));
    }
    for verdict in &outcome.verdicts {
        text.push_str(&format!("  {:<52} {:<40} {}\n", verdict.asked, verdict.measured, verdict.outcome));
    }
    text
}

/// Two tables in Markdown: what each scanner did, what Portolan reached.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| work | scanner | command | sweep | CPU | peak | states |\n| --- | --- | ---: | ---: | ---: | ---: | --- |\n",
    );
    let cell = |text: &str| text.replace('|', "\\|");
    for outcome in outcomes {
        for summary in outcome.summaries() {
            let sweep = summary.sweep.map_or_else(String::new, |sweep| format!("{sweep:.2} s"));
            text.push_str(&format!(
                "| {} | {} | {:.2} s | {sweep} | {:.2} s | {:.0} MB | {} |\n",
                outcome.row.title,
                summary.name,
                summary.wall,
                summary.cpu,
                summary.peak_mb,
                cell(&summary.remarks())
            ));
        }
    }
    text.push_str("\n| work | must reach | measured | |\n| --- | --- | ---: | --- |\n");
    for outcome in outcomes {
        for verdict in &outcome.verdicts {
            let reached = match verdict.outcome.as_str() {
                "ok" => "reached".into(),
                other => format!("**{other}**"),
            };
            let (asked, measured) = (cell(&verdict.asked), cell(&verdict.measured));
            text.push_str(&format!("| {} | {asked} | {measured} | {reached} |\n", outcome.row.title));
        }
    }
    text
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NMAP: Peer = Peer::Nmap { flags: "-sS -T4", slow: false };

    fn sample(wall: f64) -> Sample {
        Sample {
            wall,
            sweep: Some(wall / 2.0),
            cpu: 1.0,
            peak_mb: 10.0,
            score: Score { open: 8, found: 8, ..Score::default() },
            neighbour: None,
            heard: None,
            undecided: Vec::new(),
            failed: false,
            notes: Vec::new(),
        }
    }

    /// What each limit of the row about one host comes to.
    fn outcomes(ours: &[Sample]) -> Vec<String> {
        let row = crate::rows::all().into_iter().find(|row| row.name == "one");
        let theirs = Summary::of("nmap".into(), &[sample(1.0)]);
        let (Some(row), Some(theirs), Some(ours)) = (row, theirs, Summary::of("portolan".into(), ours))
        else {
            return Vec::new();
        };
        Outcome::new(row, vec![(NMAP, theirs)], ours).verdicts.into_iter().map(|one| one.outcome).collect()
    }

    #[test]
    fn the_median_is_held_beside_the_limits() {
        assert_eq!(outcomes(&[sample(0.5), sample(0.75), sample(9.0)]), ["ok", "not measured", "ok"]);
        assert_eq!(outcomes(&[sample(1.25)]), ["MISSED by 0.25", "not measured", "ok"]);
    }

    #[test]
    fn one_mistake_in_one_run_counts_and_a_failed_run_reaches_nothing() {
        let mut wrong = sample(0.5);
        wrong.score.closed_as_filtered = 3;
        assert_eq!(outcomes(&[sample(0.5), wrong])[2], "MISSED by 3");
        let failed = Sample { failed: true, ..sample(0.1) };
        assert!(outcomes(&[sample(0.5), failed]).iter().all(|outcome| outcome == "MISSED: 1 runs failed"));
    }
}

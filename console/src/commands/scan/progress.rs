//! A bar for each satellite while a scan runs, on a terminal only.

use crate::output::text::{count, grouped, printable};
use crate::output::time::span;
use crate::scan_result::SatelliteResult;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use portolan_proto::v1::SatelliteProgress;
use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

/// Over how long the rate is measured: short enough to follow, long enough not to flicker.
const WINDOW: Duration = Duration::from_secs(5);

/// The bars; none when stderr is no terminal.
pub struct Progress(Option<Bars>);

struct Bars {
    all: MultiProgress,
    each: Vec<Bar>,
    style: ProgressStyle,
}

struct Bar {
    name: String,
    line: ProgressBar,
    meter: Meter,
}

impl Progress {
    /// A bar for each, if somebody watches.
    pub fn on_stderr(satellites: &[String]) -> Self {
        if !io::stderr().is_terminal() {
            return Self::none();
        }
        let Ok(style) = ProgressStyle::with_template("{prefix}  [{bar:16}] {wide_msg}") else {
            return Self::none();
        };
        let mut bars =
            Bars { all: MultiProgress::new(), each: Vec::new(), style: style.progress_chars("=> ") };
        let width = satellites.iter().map(|name| printable(name).chars().count()).max().unwrap_or_default();
        for name in satellites {
            bars.add(name, width);
        }
        Self(Some(bars))
    }

    /// No bars.
    pub fn none() -> Self {
        Self(None)
    }

    /// A satellite got further.
    pub fn step(&mut self, step: &SatelliteProgress) {
        let Some(bars) = &mut self.0 else { return };
        let Some(bar) = bars.each.iter_mut().find(|bar| bar.name == step.satellite) else { return };
        bar.meter.add(Instant::now(), step);
        bar.line.set_length(step.ports_total.max(1));
        bar.line.set_position(step.ports_done);
        bar.line.set_message(bar.meter.message(step));
    }

    /// A satellite is done.
    pub fn end(&mut self, satellite: &SatelliteResult) {
        let Some(bars) = &mut self.0 else { return };
        let Some(bar) = bars.each.iter().find(|bar| bar.name == satellite.name) else { return };
        let text = match &satellite.error {
            None if satellite.complete => {
                format!(
                    "done, {} of {} up",
                    grouped(satellite.hosts_up),
                    count(satellite.hosts_total, "host")
                )
            }
            None => "not finished".to_owned(),
            Some(error) => printable(error).into_owned(),
        };
        if satellite.complete {
            bar.line.set_position(bar.line.length().unwrap_or(1));
        }
        bar.line.abandon_with_message(text);
    }

    /// The operator wants it to stop.
    pub fn stopping(&mut self) {
        let Some(bars) = &self.0 else { return };
        for bar in bars.each.iter().filter(|bar| !bar.line.is_finished()) {
            bar.line.set_message("stopping; Ctrl-C again ends at once");
        }
    }

    /// Prints beside the bars.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bars) => bars.all.suspend(print),
            None => print(),
        }
    }

    /// The result comes now: away with the bars.
    pub fn clear(&mut self) {
        if let Some(bars) = self.0.take() {
            // One by one too: a finished bar that is merely dropped leaves its line behind.
            bars.each.iter().for_each(|bar| bar.line.finish_and_clear());
            // A terminal that went away needs no clearing.
            let _ = bars.all.clear();
        }
    }
}

impl Bars {
    fn add(&mut self, name: &str, width: usize) {
        let line = self.all.add(ProgressBar::new(1).with_style(self.style.clone()));
        line.set_prefix(format!("{:<width$}", printable(name)));
        line.set_message("waiting");
        self.each.push(Bar { name: name.to_owned(), line, meter: Meter::default() });
    }
}

/// How fast it goes, from what was reported lately.
#[derive(Default)]
struct Meter {
    /// Time, probes sent, ports done.
    samples: VecDeque<(Instant, u64, u64)>,
}

impl Meter {
    fn add(&mut self, now: Instant, step: &SatelliteProgress) {
        // A satellite that came back may count anew, and a pause says nothing of how fast it goes.
        if step.paused || self.samples.back().is_some_and(|(_, probes, _)| *probes > step.probes_sent) {
            self.samples.clear();
        }
        while self.samples.len() > 1
            && self.samples.front().is_some_and(|(at, ..)| now.duration_since(*at) > WINDOW)
        {
            self.samples.pop_front();
        }
        self.samples.push_back((now, step.probes_sent, step.ports_done));
    }

    /// Probes and ports a second.
    fn rates(&self) -> Option<(f64, f64)> {
        let ((first, probes, ports), (last, probes_now, ports_now)) =
            (self.samples.front()?, self.samples.back()?);
        let seconds = last.duration_since(*first).as_secs_f64();
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        (seconds > 0.0).then(|| (rate(*probes, *probes_now), rate(*ports, *ports_now)))
    }

    /// What matters most comes first: a narrow terminal cuts the end.
    fn message(&self, step: &SatelliteProgress) -> String {
        let mut text = format!(
            "{}/{}, {} open",
            grouped(step.hosts_done),
            count(step.hosts_total, "host"),
            grouped(step.open_found)
        );
        if step.disconnected {
            text.push_str(", connection lost: waiting for it to come back");
            return text;
        }
        if step.paused {
            text.push_str(", paused");
        } else if let Some((probes, ports)) = self.rates() {
            text.push_str(&format!(", {} probes/s", grouped(probes as u64)));
            let left = step.ports_total.saturating_sub(step.ports_done);
            if left > 0 && ports > 0.0 {
                text.push_str(&format!(", {} left", span((left as f64 / ports).ceil() as i64)));
            }
        }
        text.push_str(&format!(", {}/{}", grouped(step.ports_done), count(step.ports_total, "port")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(ports_done: u64, probes_sent: u64) -> SatelliteProgress {
        SatelliteProgress {
            satellite: "a".into(),
            hosts_done: 1,
            hosts_total: 256,
            ports_done,
            ports_total: 256_000,
            open_found: 3,
            probes_sent,
            ..SatelliteProgress::default()
        }
    }

    #[test]
    fn rate_and_time_left_follow_the_last_seconds() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        meter.add(start, &step(0, 0));
        assert_eq!(meter.message(&step(0, 0)), "1/256 hosts, 3 open, 0/256,000 ports");
        meter.add(start + Duration::from_secs(2), &step(2_000, 4_000));
        assert_eq!(
            meter.message(&step(2_000, 4_000)),
            "1/256 hosts, 3 open, 2,000 probes/s, 4m left, 2,000/256,000 ports"
        );
        meter.add(start + Duration::from_secs(30), &step(3_000, 5_000));
        meter.add(start + Duration::from_secs(31), &step(6_000, 9_000));
        let text = meter.message(&step(6_000, 9_000));
        assert!(text.contains("4,000 probes/s"), "{text}");
    }

    #[test]
    fn a_lost_connection_is_said_and_a_fresh_start_is_no_negative_rate() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        meter.add(start, &step(100, 100));
        meter.add(start + Duration::from_secs(1), &step(0, 0));
        assert_eq!(meter.rates(), None);
        let paused = SatelliteProgress { paused: true, ..step(64_000, 80_000) };
        meter.add(start + Duration::from_secs(9), &paused);
        assert_eq!(meter.message(&paused), "1/256 hosts, 3 open, paused, 64,000/256,000 ports");
        let lost = SatelliteProgress { disconnected: true, ..step(0, 0) };
        assert!(meter.message(&lost).ends_with("waiting for it to come back"));
    }
}

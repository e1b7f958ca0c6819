//! A line for each satellite while a scan runs, on a terminal; elsewhere only who is away.

mod line;
mod meter;
mod screen;

use crate::output::text::{count, grouped, printable};
use crate::output::warn;
use crate::scan_result::SatelliteResult;
use line::Line;
use meter::Meter;
use portolan_proto::v1::SatelliteProgress;
use screen::Screen;
use std::time::{Duration, Instant};

/// How often the lines are drawn at most.
const PAUSE: Duration = Duration::from_millis(100);

/// How far each satellite is, and where that is shown.
pub struct Progress {
    each: Vec<Satellite>,
    /// None when stderr is no terminal.
    screen: Option<Screen>,
    drawn_at: Option<Instant>,
}

struct Satellite {
    name: String,
    line: Line,
    meter: Meter,
    is_away: bool,
    has_ended: bool,
}

impl Progress {
    /// A line for each, if somebody watches.
    pub fn on_stderr(satellites: &[String]) -> Self {
        Self::new(satellites, Screen::on_stderr())
    }

    /// Shown nowhere.
    #[cfg(test)]
    pub fn none() -> Self {
        Self::new(&[], None)
    }

    fn new(satellites: &[String], screen: Option<Screen>) -> Self {
        let width = satellites.iter().map(|name| printable(name).chars().count()).max().unwrap_or_default();
        let satellite = |name: &String| Satellite {
            name: name.clone(),
            line: Line::new(format!("{:<width$}", printable(name))),
            meter: Meter::default(),
            is_away: false,
            has_ended: false,
        };
        let mut progress = Self { each: satellites.iter().map(satellite).collect(), screen, drawn_at: None };
        progress.draw();
        progress
    }

    /// A satellite got further. With `discovers` it finds out first who is there.
    pub fn step(&mut self, step: &SatelliteProgress, discovers: bool) {
        let now = Instant::now();
        let Some(satellite) = self.each.iter_mut().find(|known| known.name == step.satellite) else { return };
        let went = step.disconnected && !satellite.is_away;
        let is_news = step.disconnected != satellite.is_away;
        satellite.is_away = step.disconnected;
        satellite.meter.add(now, step);
        satellite.line.show(satellite.meter.fields(now, step, discovers), share(step));
        if went && self.screen.is_none() {
            warn(&line::away(&step.satellite));
        }
        if is_news || self.drawn_at.is_none_or(|at| now.duration_since(at) >= PAUSE) {
            self.draw();
        }
    }

    /// A satellite is done.
    pub fn end(&mut self, result: &SatelliteResult) {
        let Some(satellite) = self.each.iter_mut().find(|known| known.name == result.name) else { return };
        let (up, total) = (grouped(result.hosts_up), count(result.hosts_total, "host"));
        let text = match &result.error {
            None if result.complete => format!("done, {up} of {total} up"),
            None => "not finished".to_owned(),
            Some(error) => printable(error).into_owned(),
        };
        satellite.has_ended = true;
        satellite.line.say(text, result.complete);
        self.draw();
    }

    /// The operator wants it to stop.
    pub fn stopping(&mut self) {
        for satellite in self.each.iter_mut().filter(|satellite| !satellite.has_ended) {
            satellite.line.say("stopping; Ctrl-C again ends at once".to_owned(), false);
        }
        self.draw();
    }

    /// Prints beside the lines.
    pub fn aside<T>(&mut self, print: impl FnOnce() -> T) -> T {
        if let Some(screen) = &mut self.screen {
            screen.clear();
        }
        let printed = print();
        self.draw();
        printed
    }

    /// The result comes now: away with the lines.
    pub fn clear(&mut self) {
        self.screen = None;
    }

    fn draw(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.draw(self.each.iter().map(|satellite| &satellite.line));
            self.drawn_at = Some(Instant::now());
        }
    }
}

/// How much is done, from 0 to 1.
fn share(step: &SatelliteProgress) -> f64 {
    step.ports_done as f64 / step.ports_total.max(1) as f64
}

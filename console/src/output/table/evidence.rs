//! What checks and alerts rest on, for people: sights with their round-trip times, and timelines.

use crate::document::evidence::{SightDocument, TransitionDocument};
use crate::output::View;
use crate::output::columns::{Cell, Columns};
use crate::output::paint::styles;
use crate::output::sparkline::sparkline;
use crate::output::text::{printable, rtt};
use crate::output::time;
use anstyle::Style;
use jiff::Timestamp;
use portolan_common::observation::PortState;

/// How many round-trip times a line shows.
pub const BARS: usize = 24;

/// How a state of a check looks.
pub fn state_style(state: &str) -> Style {
    match state {
        "ok" => styles::GOOD,
        "firing" => styles::BAD,
        _ => styles::CAUTION,
    }
}

/// How a severity looks.
pub fn severity_style(severity: &str) -> Style {
    match severity {
        "critical" => styles::BAD,
        "warning" => styles::CAUTION,
        _ => styles::PLAIN,
    }
}

/// How long ago, or `never`.
pub fn ago(at: Option<Timestamp>, view: &View) -> String {
    at.map_or_else(|| "never".to_owned(), |at| time::relative(at, view.now))
}

/// A time with how long ago it was; nothing when there is none.
pub fn when(at: Option<Timestamp>, view: &View) -> String {
    at.map(|at| time::local_and_relative(at, view.now, &view.zone)).unwrap_or_default()
}

/// `office-1 (office)`.
pub fn vantage(satellite: &str, segment: &str) -> String {
    match segment {
        "" => printable(satellite).into_owned(),
        segment => format!("{} ({})", printable(satellite), printable(segment)),
    }
}

/// The headings of [`sight_cells`].
pub const SIGHT_HEADINGS: [&str; 7] =
    ["SEEN FROM", "STATE", "REASON", "SINCE", "LOOKED", "ROUND TRIPS", "LAST / USUAL"];

/// A port as one vantage point last saw it.
pub fn sight_cells(sight: &SightDocument<'_>, view: &View) -> [Cell; 7] {
    let style =
        sight.state.and_then(|state| state.parse::<PortState>().ok()).map_or(styles::QUIET, styles::of_state);
    let looked = match (sight.seen_at, sight.stale) {
        (Some(at), true) => Cell::new(format!("{}: too old", time::relative(at, view.now)), styles::CAUTION),
        (at, _) => Cell::plain(ago(at, view)),
    };
    let last = sight.rtts_us.iter().rev().find_map(|us| *us);
    let usual = sight.usual_rtt_us.map(|us| format!(" / {}", rtt(Some(us)))).unwrap_or_default();
    [
        Cell::plain(vantage(sight.satellite, sight.segment)),
        Cell::new(sight.state.unwrap_or("not seen"), style),
        Cell::quiet(sight.reason.filter(|_| sight.state != Some("open")).unwrap_or_default()),
        Cell::plain(sight.since.map(|at| time::relative(at, view.now)).unwrap_or_default()),
        looked,
        Cell::plain(sparkline(&sight.rtts_us, sight.usual_rtt_us, BARS)),
        Cell::plain(format!("{}{usual}", rtt(last))),
    ]
}

/// Steps, newest first, below a title; nothing when there are none. `subjects`: also what each is about.
pub fn timeline(title: &str, steps: &[TransitionDocument<'_>], subjects: bool, view: &View) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let mut columns = Columns::new(["AT", "", "PORT", "FROM", "", "TO", "WHAT WAS SEEN", "NOTE"]).indented(2);
    for step in steps {
        columns.row([
            Cell::plain(step.at.map(|at| time::local(at, &view.zone)).unwrap_or_default()),
            Cell::quiet(ago(step.at, view)),
            Cell::plain(if subjects { step.subject() } else { String::new() }),
            Cell::new(step.from, state_style(step.from)),
            Cell::plain("→"),
            Cell::new(step.to, state_style(step.to)),
            Cell::plain(printable(step.words)),
            Cell::new(if step.late { "reported late" } else { "" }, styles::CAUTION),
        ]);
    }
    format!("\n{}\n{}", view.paint.apply(styles::TITLE, title), columns.render(view.paint))
}

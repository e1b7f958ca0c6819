//! One host of a scan: a heading, its open ports, and the rest in numbers.

use super::Sightings;
use super::classes::{Class, classes};
use crate::output::View;
use crate::output::columns::{Cell, Columns};
use crate::output::paint::styles;
use crate::output::text::{self, and, grouped, host_name, printable};
use crate::scan_result::{PortLine, listed_states, port_lines_in, protocols};
use portolan_common::observation::{HostObservation, PortState, Protocol, Reason, SuspectKind, Suspicion};
use portolan_common::ports::PortSpec;
use portolan_common::services;
use std::collections::{BTreeMap, BTreeSet};

/// How many lines of differences one host gets.
const MAX_DIFFERENCES: usize = 12;

/// How many ports are listed of a host for which somebody else may answer, where not all are asked for.
const MAX_SUSPECT_PORTS: usize = 25;

/// The host's lines. `absent` are the vantage points that did not scan it.
pub fn render(
    sightings: &Sightings<'_>,
    absent: &[&str],
    asked: &PortSpec,
    all: bool,
    view: &View,
) -> String {
    let seen: Vec<&HostObservation> = sightings.iter().map(|(_, seen)| *seen).collect();
    let classes = classes(&seen, asked);
    let differences: Vec<&Class> = classes.iter().filter(|class| !class.agrees()).collect();
    let mut lines = heading(sightings, absent, differences.is_empty(), view);
    lines.push_str(&suspicions(sightings, view));
    let mut rows = rows(&seen, all);
    let listed = listed(&rows);
    let is_suspect = seen.iter().any(|seen| seen.suspect.is_some());
    let unlisted = if is_suspect && !all { rows.len().saturating_sub(MAX_SUSPECT_PORTS) } else { 0 };
    if unlisted > 0 {
        rows = rows.into_iter().take(MAX_SUSPECT_PORTS).collect();
    }
    if !rows.is_empty() {
        let columns = if differences.is_empty() { alike(&rows) } else { side_by_side(&rows, sightings) };
        lines.push_str(&columns.render(view.paint));
    }
    if unlisted > 0 {
        lines.push_str(&format!("  … and {} more\n", grouped(unlisted as u64)));
    }
    lines.push_str(&rest(sightings, asked, &listed, view));
    lines.push_str(&disagreements(&differences, sightings, view));
    lines
}

/// `office-1 says: 10.0.0.7 looks like a SYN proxy (95 % sure): 3 of 3 random high ports answered`.
fn suspicions(sightings: &Sightings<'_>, view: &View) -> String {
    let suspects = sightings.iter().filter_map(|(name, seen)| Some((name, seen, seen.suspect.as_ref()?)));
    let line =
        |(name, seen, Suspicion { kind, confidence, evidence }): (&&str, &&HostObservation, &Suspicion)| {
            let looks = match kind {
                SuspectKind::SynProxy => "looks like a SYN proxy",
                SuspectKind::RstInjection => "looks reset by a device on the way",
                SuspectKind::Tarpit => "looks like a tarpit",
                SuspectKind::Shunned => "seems to have shut the satellite out",
            };
            let claim = format!("{} {looks} ({confidence} % sure)", seen.address);
            let claim = view.paint.apply(styles::CAUTION, &claim);
            format!("  {} says: {claim}: {}\n", printable(name), printable(evidence))
        };
    suspects.map(line).collect()
}

fn heading(sightings: &Sightings<'_>, absent: &[&str], agree: bool, view: &View) -> String {
    let names = |names: &mut dyn Iterator<Item = &str>| {
        and(&names.map(|n| printable(n).into_owned()).collect::<Vec<_>>())
    };
    let Some((_, first)) = sightings.first() else { return String::new() };
    let mut title = view.paint.apply(styles::TITLE, &first.address.to_string());
    if let Some(name) = host_name(&first.target) {
        title.push_str(&format!(" ({name})"));
    }
    let how = match (sightings.len(), agree) {
        (1, _) => "seen from",
        (_, true) => "seen alike from",
        (_, false) => "seen differently from",
    };
    let mut about = format!("{how} {}", names(&mut sightings.iter().map(|(name, _)| *name)));
    let deaf: Vec<_> = sightings.iter().filter(|(_, seen)| !seen.up).map(|(name, _)| *name).collect();
    if !deaf.is_empty() {
        about.push_str(&format!("; down for {}", names(&mut deaf.into_iter())));
    }
    if !absent.is_empty() {
        about.push_str(&format!("; not scanned from {}", names(&mut absent.iter().copied())));
    }
    format!("{title}  {}\n", view.paint.apply(styles::QUIET, &about))
}

/// The ports to list, each with what every vantage point saw of it.
type Rows = BTreeMap<(Protocol, u16), Vec<Option<PortLine>>>;

/// A port that one vantage point found open is listed for all of them.
fn rows(seen: &[&HostObservation], all: bool) -> Rows {
    let mut rows = Rows::new();
    for (index, observation) in seen.iter().enumerate() {
        for line in port_lines_in(observation, &listed_states(observation, all)) {
            rows.entry((line.protocol, line.port)).or_insert_with(|| vec![None; seen.len()])[index] =
                Some(line);
        }
    }
    for ((protocol, port), lines) in &mut rows {
        for (line, observation) in lines.iter_mut().zip(seen).filter(|(line, _)| line.is_none()) {
            *line = observation.state_of(*protocol, *port).map(|(state, reason)| PortLine {
                protocol: *protocol,
                port: *port,
                state,
                reason,
                rtt_us: None,
            });
        }
    }
    rows
}

/// The ports that have a row.
fn listed(rows: &Rows) -> PortSpec {
    let of = |protocol| rows.keys().filter(|(p, _)| *p == protocol).map(|(_, port)| *port).collect();
    PortSpec { tcp: of(Protocol::Tcp), udp: of(Protocol::Udp) }
}

fn port_cell(protocol: Protocol, port: u16) -> Cell {
    Cell::plain(format!("{port}/{protocol}"))
}

fn service_cell(protocol: Protocol, port: u16) -> Cell {
    Cell::plain(services::name(protocol, port).unwrap_or_default())
}

fn state_cell(state: PortState) -> Cell {
    Cell::new(state.as_str(), styles::of_state(state))
}

/// One vantage point, or several that saw the same.
fn alike(rows: &Rows) -> Columns {
    let mut columns = Columns::new(["PORT", "STATE", "REASON", "SERVICE", "RTT"]).indented(2);
    for ((protocol, port), lines) in rows {
        let seen = || lines.iter().flatten();
        let reasons: BTreeSet<Reason> = seen().map(|line| line.reason).collect();
        let reasons: Vec<_> = reasons.iter().map(|reason| reason.as_str()).collect();
        columns.row([
            port_cell(*protocol, *port),
            seen().next().map_or_else(|| Cell::plain(""), |line| state_cell(line.state)),
            Cell::quiet(reasons.join(", ")),
            service_cell(*protocol, *port),
            Cell::quiet(times(seen().filter_map(|line| line.rtt_us))),
        ]);
    }
    columns
}

/// `0.41 ms`; of several the fastest and the slowest: `0.41 ms – 12 ms`.
fn times(times: impl Iterator<Item = u32> + Clone) -> String {
    let (fastest, slowest) = (text::rtt(times.clone().min()), text::rtt(times.max()));
    if fastest == slowest { fastest } else { format!("{fastest} – {slowest}") }
}

/// A column a vantage point; `=` where one sees what the first sees.
fn side_by_side(rows: &Rows, sightings: &Sightings<'_>) -> Columns {
    let names = sightings.iter().map(|(name, _)| printable(name).into_owned());
    let mut columns =
        Columns::new(["PORT".to_owned(), "SERVICE".to_owned()].into_iter().chain(names)).indented(2);
    for ((protocol, port), lines) in rows {
        let states: Vec<_> = lines.iter().map(|line| line.map(|line| line.state)).collect();
        let cells = states.iter().enumerate().map(|(i, state)| match state {
            _ if i > 0 && *state == states[0] => Cell::quiet("="),
            Some(state) => state_cell(*state),
            None => Cell::quiet("not scanned"),
        });
        columns.row([port_cell(*protocol, *port), service_cell(*protocol, *port)].into_iter().chain(cells));
    }
    columns
}

/// The ports that are not listed, in numbers; once, or by vantage point where the numbers differ.
fn rest(sightings: &Sightings<'_>, asked: &PortSpec, listed: &PortSpec, view: &View) -> String {
    let each: Vec<_> = sightings.iter().map(|(_, seen)| rest_of(seen, asked, listed)).collect();
    let title = if listed.is_empty() { "No open ports" } else { "Not shown" };
    let lines = |title: &str, items: &[String]| -> String {
        if items.is_empty() {
            return String::new();
        }
        let lines =
            text::listing(&format!("{title}: "), items, view.width.map(|width| width.saturating_sub(2)));
        lines.iter().map(|line| format!("  {}\n", view.paint.apply(styles::QUIET, line))).collect()
    };
    match each.as_slice() {
        [first, others @ ..] if others.iter().all(|items| items == first) => lines(title, first),
        _ => sightings
            .iter()
            .zip(&each)
            .map(|((name, _), items)| lines(&format!("{title} from {}", printable(name)), items))
            .collect(),
    }
}

/// `65,532 closed (conn-refused)`, `1 filtered (no-response)`.
fn rest_of(seen: &HostObservation, asked: &PortSpec, listed: &PortSpec) -> Vec<String> {
    let several = protocols(asked).count() > 1;
    let mut counts: BTreeMap<(Protocol, PortState, Reason), u64> = BTreeMap::new();
    for run in &seen.runs {
        let unlisted = run.ports.difference(listed.of(run.protocol)).len() as u64;
        if unlisted > 0 {
            *counts.entry((run.protocol, run.state, run.reason)).or_default() += unlisted;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let mut parts: Vec<String> = counts
        .into_iter()
        .map(|((protocol, state, reason), n)| {
            text::summary(n, state, reason.as_str(), several.then_some(protocol))
        })
        .collect();
    if !seen.unscanned.is_empty() {
        parts.push(format!("{} not probed (outside the scope)", grouped(seen.unscanned.len() as u64)));
    }
    parts
}

/// `Differs: 3306/tcp: filtered from office-1, open from pci-1`.
fn disagreements(differences: &[&Class], sightings: &Sightings<'_>, view: &View) -> String {
    // What is open to somebody matters most.
    let mut sorted = differences.to_vec();
    sorted.sort_by_key(|class| !class.is_open_somewhere());
    let mut lines = String::new();
    for class in sorted.iter().take(MAX_DIFFERENCES) {
        let mut by_state: Vec<(Option<PortState>, Vec<String>)> = Vec::new();
        for (state, (name, _)) in class.states.iter().zip(sightings) {
            let name = printable(name).into_owned();
            match by_state.iter_mut().find(|(known, _)| known == state) {
                Some((_, names)) => names.push(name),
                None => by_state.push((*state, vec![name])),
            }
        }
        let views: Vec<_> = by_state
            .iter()
            .map(|(state, names)| match state {
                Some(state) => {
                    format!(
                        "{} from {}",
                        view.paint.apply(styles::of_state(*state), state.as_str()),
                        and(names)
                    )
                }
                None => format!("not scanned from {}", and(names)),
            })
            .collect();
        lines.push_str(&format!(
            "  {} {}: {}\n",
            view.paint.apply(styles::CAUTION, "Differs:"),
            text::ports(&class.ports, class.protocol),
            views.join(", ")
        ));
    }
    if sorted.len() > MAX_DIFFERENCES {
        lines.push_str(&format!("  … and {} more ways\n", sorted.len() - MAX_DIFFERENCES));
    }
    lines
}

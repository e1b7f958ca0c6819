//! A scan for people: host by host, what is open, and where vantage points disagree.

mod classes;
mod host;

use crate::output::View;
use crate::output::paint::styles;
use crate::output::text::{and, count, grouped, printable, seconds};
use crate::scan_result::{ScanResult, SeenHost};
use portolan_common::observation::{HostObservation, PortState, Reason};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How many notes of one satellite are shown.
const MAX_NOTES: usize = 21;

/// One host as every satellite saw it that did: (name, what it saw), in the order asked.
type Sightings<'a> = Vec<(&'a str, &'a HostObservation)>;

/// The whole page; with every port listed if `all`.
pub fn render(scan: &ScanResult, all: bool, view: &View) -> String {
    let mut groups: BTreeMap<(IpAddr, &str), Vec<&SeenHost>> = BTreeMap::new();
    for host in &scan.hosts {
        groups.entry((host.seen.address, &host.seen.target)).or_default().push(host);
    }
    let mut page = String::new();
    let mut down = 0;
    for group in groups.values() {
        if !group.iter().any(|host| host.seen.up) {
            down += 1;
            continue;
        }
        let sightings: Sightings<'_> =
            group.iter().map(|host| (scan.satellites[host.satellite].name.as_str(), &host.seen)).collect();
        let absent = absent(scan, group);
        page.push_str(&host::render(&sightings, &absent, &scan.asked, all, view));
        page.push('\n');
    }
    if groups.is_empty() {
        page.push_str(if scan.is_any_cut_off() {
            "No host was finished.\n"
        } else {
            "Nothing was scanned.\n"
        });
    } else if down == groups.len() {
        page.push_str(&format!("No host answered: {} down.{}\n", count(down as u64, "host"), silence(scan)));
    } else if down > 0 {
        page.push_str(&format!("{} down, not shown.\n", count(down as u64, "more host")));
    }
    page.push_str(&notes(scan, view));
    page.push_str(&summary(scan, view));
    page
}

/// That the ports of the one host that was asked for were probed although nobody is there: it may be a firewall that
/// drops. Nothing where host discovery may have passed it over, or where somebody said that it is not there.
fn silence(scan: &ScanResult) -> String {
    let [host] = scan.hosts.as_slice() else { return String::new() };
    let runs = &host.seen.runs;
    let is_probed = !scan.discovers || scan.satellites[host.satellite].method == "connect";
    let is_silent = runs.iter().all(|run| run.reason == Reason::NoResponse);
    match runs.iter().map(|run| run.ports.len() as u64).sum::<u64>() {
        _ if !is_probed || !is_silent => String::new(),
        0 => String::new(),
        1 => " Its port was probed and counts as filtered: silent after retransmission.".to_owned(),
        ports => format!(
            " Its {} were probed and count as filtered: silent after retransmission.",
            count(ports, "port")
        ),
    }
}

/// Why a satellite scanned by less than the best method, and what else it has to say; alike ones together.
fn notes(scan: &ScanResult, view: &View) -> String {
    let mut by_text: Vec<(String, Vec<String>)> = Vec::new();
    for satellite in &scan.satellites {
        // Whoever asked for it needs no reason.
        let is_second_best = satellite.method == "connect"
            && !satellite.method_reason.is_empty()
            && satellite.method_reason != "asked for";
        let method = is_second_best.then(|| format!("scanned by connect ({})", satellite.method_reason));
        for text in method.iter().chain(&satellite.notes).take(MAX_NOTES) {
            let (text, name) = (printable(text).into_owned(), printable(&satellite.name).into_owned());
            match by_text.iter_mut().find(|(known, _)| *known == text) {
                Some((_, names)) => names.push(name),
                None => by_text.push((text, vec![name])),
            }
        }
    }
    let line = |(text, names): &(String, Vec<String>)| format!("{}: {text}", and(names));
    by_text.iter().map(|note| format!("{}\n", view.paint.apply(styles::QUIET, &line(note)))).collect()
}

/// The satellites that scanned, but not this host.
fn absent<'a>(scan: &'a ScanResult, group: &[&SeenHost]) -> Vec<&'a str> {
    let saw: BTreeSet<usize> = group.iter().map(|host| host.satellite).collect();
    let missing = scan.satellites.iter().enumerate().filter(|(index, _)| !saw.contains(index));
    missing.map(|(_, satellite)| satellite.name.as_str()).collect()
}

/// `2 of 4 hosts up, 3 open ports; 3,210 probes in 12.3 s (connect)`.
fn summary(scan: &ScanResult, view: &View) -> String {
    let (up, addresses) = scan.hosts_up();
    let mut open = BTreeSet::new();
    for host in &scan.hosts {
        for run in host.seen.runs.iter().filter(|run| run.state == PortState::Open) {
            open.extend(run.ports.iter().map(|port| (host.seen.address, run.protocol, port)));
        }
    }
    let asked = scan.satellites.iter().map(|satellite| satellite.hosts_total).max().unwrap_or_default();
    let probes = scan.satellites.iter().map(|satellite| satellite.probes_sent).sum();
    let took = seconds(scan.elapsed());
    let lead = if scan.interrupted {
        format!("{} ", view.paint.apply(styles::WARNING, "Interrupted; until then:"))
    } else {
        String::new()
    };
    let unfinished = (addresses == 0 && scan.is_any_cut_off()).then(|| {
        let of = if asked > 0 { format!(" of {}", grouped(asked)) } else { String::new() };
        let hosts = if asked == 1 { "host" } else { "hosts" };
        let sent = if probes > 0 { format!("; {}", count(probes, "probe")) } else { String::new() };
        format!("0{of} {hosts} finished{sent} in {took} s{}", methods(scan))
    });
    let line = unfinished.unwrap_or_else(|| {
        format!(
            "{} of {} up, {}; {} in {took} s{}",
            up,
            count(asked.max(addresses as u64), "host"),
            if open.is_empty() { "no open ports".to_owned() } else { count(open.len() as u64, "open port") },
            count(probes, "probe"),
            methods(scan)
        )
    });
    format!("{lead}{}\n", view.paint.apply(styles::TITLE, &line))
}

/// ` (connect)`, or by satellite where they differ.
fn methods(scan: &ScanResult) -> String {
    let used: Vec<_> = scan.satellites.iter().filter(|satellite| !satellite.method.is_empty()).collect();
    match used.as_slice() {
        [] => String::new(),
        [first, rest @ ..] if rest.iter().all(|satellite| satellite.method == first.method) => {
            format!(" ({})", printable(&first.method))
        }
        all => {
            let each: Vec<_> =
                all.iter().map(|s| format!("{}: {}", printable(&s.name), printable(&s.method))).collect();
            format!(" ({})", each.join(", "))
        }
    }
}

#[cfg(test)]
mod tests;

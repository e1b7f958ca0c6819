//! Checks for people.

use super::evidence::{SIGHT_HEADINGS, ago, sight_cells, state_style, timeline, vantage, when};
use crate::document::check::{CheckDetails, CheckDocument, PortDocument, VantageDocument};
use crate::document::evidence::subject;
use crate::output::View;
use crate::output::columns::{Cell, Columns, facts};
use crate::output::paint::styles;
use crate::output::text::{count, grouped, id_length, length, printable, short_id};
use crate::output::time;
use std::collections::BTreeMap;

/// A line each.
pub fn list(checks: &[CheckDocument<'_>], view: &View) -> String {
    let mut columns = Columns::new([
        "NAME",
        "STATE",
        "SINCE",
        "FIRING",
        "PENDING",
        "UNKNOWN",
        "OK",
        "SEEN FROM",
        "LOOKED",
        "SCHEDULE",
        "NOTE",
    ]);
    // Ports that are as expected need no column of zeros.
    let number = |n: u64| Cell::plain(if n == 0 { String::new() } else { grouped(n) });
    for check in checks {
        let satellites: Vec<_> = check.vantage_points.iter().map(|vantage| vantage.satellite).collect();
        columns.row([
            Cell::new(printable(check.name), styles::TITLE),
            Cell::new(check.state, state_style(check.state)),
            Cell::plain(check.since.map(|at| time::relative(at, view.now)).unwrap_or_default()),
            number(check.firing),
            number(check.pending),
            number(check.unknown),
            Cell::plain(grouped(check.ok)),
            Cell::plain(match satellites.as_slice() {
                [] => "nobody".to_owned(),
                names => printable(&names.join(", ")).into_owned(),
            }),
            Cell::plain(ago(check.oldest_seen(), view)),
            Cell::quiet(printable(check.schedule)),
            Cell::new(notes(check).join("; "), styles::CAUTION),
        ]);
    }
    columns.render(view.paint)
}

fn notes(check: &CheckDocument<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(operator) = check.paused_by {
        notes.push(format!("paused by {}", printable(operator)));
    }
    if !check.held_back_by.is_empty() {
        notes.push(format!("held back by {}", printable(&check.held_back_by.join(", "))));
    }
    let troubled: Vec<_> =
        check.vantage_points.iter().filter(|vantage| !trouble(vantage).is_empty()).collect();
    if let [first, rest @ ..] = troubled.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        notes.push(format!("trouble at {}{more}", printable(first.satellite)));
    }
    notes
}

/// What keeps a vantage point from doing its part.
pub fn trouble(vantage: &VantageDocument<'_>) -> Vec<String> {
    let mut trouble = Vec::new();
    match vantage.status {
        "online" => {}
        "pending" => trouble.push("it has not joined yet".to_owned()),
        status => trouble.push(format!("it is {status}")),
    }
    if let Some(error) = vantage.error {
        trouble.push(printable(error).into_owned());
    }
    if let [first, rest @ ..] = vantage.refused.as_slice() {
        let ports = if first.ports.is_empty() { String::new() } else { format!(" on ports {}", first.ports) };
        let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
        let text = format!("its scope refuses {}{ports} (`{}`){more}", first.target, first.rule);
        trouble.push(printable(&text).into_owned());
    }
    if let [first, rest @ ..] = vantage.unresolved {
        let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
        trouble.push(format!("it cannot resolve {}{more}", printable(first)));
    }
    if let Some(ms) = vantage.interval_ms {
        trouble.push(format!("it needs {} a round", length(ms.div_ceil(1000))));
    }
    if vantage.outdated {
        trouble.push("it runs an older assignment".to_owned());
    }
    trouble
}

/// One with everything.
pub fn show(details: &CheckDetails<'_>, view: &View) -> String {
    let check = &details.check;
    let state = view.paint.apply(state_style(check.state), check.state);
    let since = check.since.map(|at| format!(" since {}", when(Some(at), view))).unwrap_or_default();
    let mut page = format!("{}: {state}{since}\n", view.paint.apply(styles::TITLE, &printable(check.name)));
    let numbers =
        [("firing", check.firing), ("pending", check.pending), ("unknown", check.unknown), ("ok", check.ok)];
    let numbers = numbers.into_iter().filter(|(word, n)| *n > 0 || *word == "ok");
    let numbers: Vec<_> = numbers.map(|(word, n)| format!("{} {word}", grouped(n))).collect();
    let labels: Vec<_> = check
        .labels
        .iter()
        .map(|(name, value)| format!("{}={}", printable(name), printable(value)))
        .collect();
    let words = |texts: &[String]| printable(&texts.join(", ")).into_owned();
    let text = |text: &str| printable(text).into_owned();
    page.push_str(&facts([
        ("Expectations", numbers.join(", ")),
        ("From", words(check.from)),
        ("Targets", words(check.targets)),
        ("Open", text(check.open)),
        ("Closed", if check.exclusive { "every other TCP port".to_owned() } else { text(check.closed) }),
        ("Blocked", text(check.blocked)),
        ("Watched", text(check.watch)),
        (
            "Baseline",
            match details.baseline_missing {
                true => format!("no baseline: portolan baseline take {}", printable(check.name)),
                false => String::new(),
            },
        ),
        ("Schedule", text(check.schedule)),
        ("Confirm", in_a_row(details.confirm)),
        ("Recover", in_a_row(details.recover)),
        ("Quorum", by_expectation(&details.quorum)),
        ("Severity", by_expectation(&details.severity)),
        ("Depends on", words(details.depend_on)),
        ("Tenant", if check.tenant == "default" { String::new() } else { text(check.tenant) }),
        ("Labels", labels.join(", ")),
        (
            "Paused",
            check
                .paused_by
                .map(|who| format!("by {} at {}", printable(who), when(check.paused_at, view)))
                .unwrap_or_default(),
        ),
        ("Held back by", words(check.held_back_by)),
    ]));
    page.push_str(&vantage_points(&check.vantage_points, view));
    let (fine, faulty): (Vec<_>, Vec<_>) = details.ports.iter().partition(|port| port.state == "ok");
    page.push_str(&ports("Not as expected", &faulty, true, view));
    page.push_str(&ports("As expected", &fine, false, view));
    if details.ports_omitted > 0 {
        // What is not as expected comes first.
        let are = match (fine.is_empty(), details.ports_omitted) {
            (true, _) => "",
            (false, 1) => " is as expected",
            (false, _) => " are as expected",
        };
        page.push_str(&format!("  and {}{are}\n", count(details.ports_omitted, "more port")));
    }
    page.push_str(&timeline("Timeline", &details.timeline, true, view));
    page
}

fn in_a_row(observations: Option<u32>) -> String {
    observations.map(|n| format!("{} in a row", count(n.into(), "observation"))).unwrap_or_default()
}

/// `open majority, closed any`.
fn by_expectation(words: &BTreeMap<&str, &str>) -> String {
    // In the order of a policy.
    let known = ["open", "closed", "blocked"];
    let words = known.into_iter().filter_map(|of| Some(format!("{of} {}", printable(words.get(of)?))));
    words.collect::<Vec<_>>().join(", ")
}

fn vantage_points(vantage_points: &[VantageDocument<'_>], view: &View) -> String {
    let title = view.paint.apply(styles::TITLE, "Vantage points");
    if vantage_points.is_empty() {
        return format!("\n{title}\n  none: no satellite stands where the check looks from\n");
    }
    let mut columns =
        Columns::new(["SATELLITE", "STATUS", "LOOKED", "ADDRESSES", "METHOD", "TROUBLE"]).indented(2);
    for point in vantage_points {
        // Some addresses may have been looked at longer ago than others.
        let looked = match (point.oldest_seen, point.newest_seen) {
            (None, Some(newest)) => format!("in part, {}", time::relative(newest, view.now)),
            (oldest, _) => ago(oldest, view),
        };
        let style = if point.status == "online" { styles::GOOD } else { styles::BAD };
        columns.row([
            Cell::plain(vantage(point.satellite, point.segment)),
            Cell::new(point.status, style),
            Cell::plain(looked),
            Cell::plain(point.addresses.map(grouped).unwrap_or_default()),
            Cell::quiet(printable(point.method.unwrap_or_default())),
            Cell::new(trouble(point).join("; "), styles::CAUTION),
        ]);
    }
    format!("\n{title}\n{}", columns.render(view.paint))
}

/// A line for each port and vantage point.
fn ports(title: &str, ports: &[&PortDocument<'_>], faulty: bool, view: &View) -> String {
    if ports.is_empty() {
        return String::new();
    }
    let ids = id_length(ports.iter().filter_map(|port| port.alert_id));
    let headings = ["PORT", "EXPECTED", "CHECK"].into_iter().chain(SIGHT_HEADINGS).chain(["ALERT"]);
    let mut columns = Columns::new(headings).indented(2);
    for port in ports {
        let name = subject(port.address, port.protocol, port.port);
        let state = match port.flapping {
            true => format!("{}, flapping", port.state),
            false => port.state.to_owned(),
        };
        let alert = port.alert_id.map(|id| short_id(id, ids)).unwrap_or_default();
        let blank = || std::array::from_fn(|_| Cell::plain(""));
        let sights = port.sights.iter().map(|sight| sight_cells(sight, view));
        let sights = if port.sights.is_empty() { vec![blank()] } else { sights.collect() };
        for (i, sight) in sights.into_iter().enumerate() {
            // What is said of the port is said once.
            let once = |text: &str| if i == 0 { text.to_owned() } else { String::new() };
            let own = [
                Cell::plain(once(&name)),
                Cell::plain(once(port.expected.unwrap_or_default())),
                Cell::new(if faulty { once(&state) } else { String::new() }, state_style(port.state)),
            ];
            columns.row(own.into_iter().chain(sight).chain([Cell::plain(once(&alert))]));
        }
    }
    format!("\n{}\n{}", view.paint.apply(styles::TITLE, title), columns.render(view.paint))
}

#[cfg(test)]
mod tests;

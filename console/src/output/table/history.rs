//! A host's past for people, and that of all hosts.

use crate::document::history::{Change, Past};
use crate::output::View;
use crate::output::columns::{Cell, Columns};
use crate::output::paint::styles;
use crate::output::text::{ports, printable};
use crate::output::time;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// The page. `what` names the host or port that was asked for, `since` whether only its late past was.
pub fn render(past: &Past, what: &str, since: bool, view: &View) -> String {
    let addresses: BTreeSet<_> = past
        .first_seen
        .iter()
        .map(|first| first.address)
        .chain(past.changes.iter().map(|change| change.address))
        .collect();
    if addresses.is_empty() {
        return format!("No satellite has seen {}.\n", printable(what));
    }
    // A name may have meant several addresses in its time.
    let several = addresses.len() > 1;
    let mut page = String::new();
    for first in &past.first_seen {
        let address = if several { format!("{} ", first.address) } else { String::new() };
        let when = time::local_and_relative(first.at, view.now, &view.zone);
        let line = format!("{address}first seen by {} at {when}", printable(&first.satellite));
        page.push_str(&view.paint.apply(styles::QUIET, &line));
        page.push('\n');
    }
    if past.changes.is_empty() {
        let when = if since { "in that time" } else { "since" };
        page.push_str(&format!("No changes {when}.\n"));
        return page;
    }
    page.push('\n');
    page.push_str(&rows(&past.changes, several, view));
    page
}

/// What changed on any host, as seen from a segment or from everywhere.
pub fn changes(changes: &[Change], segment: Option<&str>, since: Timestamp, view: &View) -> String {
    if changes.is_empty() {
        let from =
            segment.map(|name| format!(" as seen from segment {}", printable(name))).unwrap_or_default();
        return format!(
            "No changes{from} since {}.\n",
            time::local_and_relative(since, view.now, &view.zone)
        );
    }
    rows(changes, true, view)
}

/// A line each.
fn rows(changes: &[Change], addresses: bool, view: &View) -> String {
    let mut columns =
        Columns::new(["AT", "", "ADDRESS", "PORT", "FROM", "TO", "REASON", "SEEN FROM", "NOTE"]);
    for change in changes {
        columns.row([
            Cell::plain(time::local(change.at, &view.zone)),
            Cell::quiet(time::relative(change.at, view.now)),
            Cell::plain(if addresses { change.address.to_string() } else { String::new() }),
            Cell::plain(ports(&change.ports, change.protocol)),
            Cell::new(change.from.as_str(), styles::of_state(change.from)),
            Cell::new(change.to.as_str(), styles::of_state(change.to)),
            Cell::quiet(change.reason.as_str()),
            Cell::plain(printable(&change.satellite)),
            Cell::new(if change.late { "reported late" } else { "" }, styles::CAUTION),
        ]);
    }
    columns.render(view.paint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::history::FirstSeen;
    use crate::scan_result::fixture::{noon, ports as set};
    use jiff::ToSpan as _;
    use portolan_common::observation::{PortState, Protocol, Reason};

    fn past() -> Past {
        let change = |hours: i64, from, to, reason, late| Change {
            at: noon() - hours.hours(),
            satellite: "office-1".into(),
            address: "10.99.2.10".parse().unwrap(),
            protocol: Protocol::Tcp,
            ports: set("443"),
            from,
            to,
            reason,
            late,
        };
        Past {
            first_seen: vec![FirstSeen {
                satellite: "office-1".into(),
                address: "10.99.2.10".parse().unwrap(),
                at: noon() - 100.hours(),
            }],
            changes: vec![
                change(26, PortState::Open, PortState::Filtered, Reason::NoResponse, true),
                change(2, PortState::Filtered, PortState::Open, Reason::SynAck, false),
            ],
        }
    }

    #[test]
    fn changes_are_listed_after_the_first_sighting() {
        assert_eq!(
            render(&past(), "10.99.2.10:443", false, &View::fixed()),
            "\
first seen by office-1 at 2026-04-27 08:00:00 (4d 4h ago)

AT                              PORT     FROM      TO        REASON       SEEN FROM  NOTE
2026-04-30 10:00:00  1d 2h ago  443/tcp  open      filtered  no-response  office-1   reported late
2026-05-01 10:00:00  2h ago     443/tcp  filtered  open      syn-ack      office-1
"
        );
    }

    #[test]
    fn changes_of_all_hosts_name_the_host() {
        let view = View::fixed();
        let page = changes(&past().changes, None, noon(), &view);
        assert!(page.starts_with("AT                              ADDRESS     PORT     FROM "), "{page}");
        assert!(page.contains("1d 2h ago  10.99.2.10  443/tcp  open "), "{page}");
        assert_eq!(
            changes(&[], Some("pci"), noon() - 2.hours(), &view),
            "No changes as seen from segment pci since 2026-05-01 10:00:00 (2h ago).\n"
        );
    }

    #[test]
    fn an_empty_past_is_said_in_words() {
        let view = View::fixed();
        assert_eq!(render(&Past::default(), "db\u{1b}", false, &view), "No satellite has seen db\\u{1b}.\n");
        let quiet = Past { changes: vec![], ..past() };
        assert!(render(&quiet, "x", true, &view).ends_with("ago)\nNo changes in that time.\n"));
    }
}

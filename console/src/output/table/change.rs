//! Announced changes for people: the list, and before and after side by side.

use super::evidence::when;
use crate::document::change::{ChangeDocument, ClosedDocument, ExpectationDocument};
use crate::document::ports::PortRun;
use crate::output::View;
use crate::output::columns::{Cell, Columns};
use crate::output::paint::styles;
use crate::output::text::{ports, printable};
use crate::output::time;
use portolan_common::observation::PortState;
use portolan_common::ports::PortSet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A line for each expectation.
pub fn list(changes: &[ChangeDocument<'_>], view: &View) -> String {
    let mut columns = Columns::new(["NAME", "STATE", "OPENED", "ENDS", "AUTHOR", "EXPECTS", "REASON"]);
    for change in changes {
        let at = |at: Option<_>| at.map(|at| time::relative(at, view.now)).unwrap_or_default();
        let is_open = change.closed_at.is_none();
        let own = [
            Cell::new(printable(change.name), styles::TITLE),
            if is_open { Cell::new("open", styles::CAUTION) } else { Cell::quiet("closed") },
            Cell::plain(at(change.opened_at)),
            Cell::plain(at(change.closed_at.or(change.ends_at))),
            Cell::plain(printable(change.author)),
        ];
        let blank = || std::array::from_fn(|_| Cell::plain(""));
        for (i, expectation) in change.expectations.iter().enumerate() {
            let own = if i == 0 { own.clone() } else { blank() };
            let expects = Cell::plain(printable(&expectation.expected.0.to_string()));
            let reason = if i == 0 {
                printable(change.reason.unwrap_or_default()).into_owned()
            } else {
                String::new()
            };
            columns.row(own.into_iter().chain([expects, Cell::plain(reason)]));
        }
    }
    columns.render(view.paint)
}

/// A new one, in a sentence.
pub fn opened(change: &ChangeDocument<'_>, view: &View) -> String {
    let name = printable(change.name);
    let mut text = format!(
        "Change {name} is open until {}. While it is, this does not page:\n",
        when(change.ends_at, view)
    );
    for expectation in &change.expectations {
        text.push_str(&format!("  {}\n", printable(&expectation.expected.0.to_string())));
    }
    text.push_str(&format!("It ends earlier with: portolan change close {name}\n"));
    text
}

/// How it was and how it is.
pub fn closed(closed: &ClosedDocument<'_>, view: &View) -> String {
    let mut page = format!("Change {} is closed.\n", printable(closed.change.name));
    for expectation in &closed.change.expectations {
        let title = printable(&expectation.expected.0.to_string()).into_owned();
        page.push_str(&format!("\n{}\n", view.paint.apply(styles::TITLE, &title)));
        page.push_str(&side_by_side(expectation, view));
    }
    if !closed.violations.is_empty() {
        page.push('\n');
    }
    for alert in &closed.violations {
        let check = printable(alert.check.unwrap_or_default());
        page.push_str(&format!("still violates check {check}: alert {}\n", printable(alert.id)));
    }
    page
}

/// Ports that were alike before and are alike after.
type Rows<'a> = BTreeMap<(IpAddr, &'a str, Option<PortState>, Option<PortState>), Vec<u16>>;

fn side_by_side(expectation: &ExpectationDocument, view: &View) -> String {
    let (before, after) = expectation.sides.as_ref().map_or((&[][..], &[][..]), |s| (&s.before, &s.after));
    let seen_after = after;
    let (before, after) = (states(before), states(after));
    let mut rows = Rows::new();
    for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let (address, satellite, port) = *key;
        let row = (address, satellite, before.get(key).copied(), after.get(key).copied());
        rows.entry(row).or_default().push(port);
    }
    if rows.is_empty() {
        return "  Nothing is known of it.\n".to_owned();
    }
    let expected = &expectation.expected.0;
    let mut columns =
        Columns::new(["ADDRESS", "PORT", "SEEN FROM", "BEFORE", "AFTER", "LOOKED", ""]).indented(2);
    for ((address, satellite, before, after), numbers) in rows {
        let state = |state: Option<PortState>| match state {
            Some(state) => Cell::new(state.as_str(), styles::of_state(state)),
            None => Cell::quiet("not known"),
        };
        let is_met = after == Some(expected.state);
        let looked = seen_after.iter().filter(|run| run.address == address && run.satellite == satellite);
        let looked = looked.map(|run| run.last_seen).min();
        columns.row([
            Cell::plain(address.to_string()),
            Cell::plain(ports(&numbers.into_iter().collect::<PortSet>(), expected.protocol)),
            Cell::plain(printable(satellite)),
            state(before),
            state(after),
            Cell::plain(looked.map(|at| time::relative(at, view.now)).unwrap_or_default()),
            if is_met {
                Cell::new("as expected", styles::GOOD)
            } else {
                Cell::new("not as expected", styles::CAUTION)
            },
        ]);
    }
    columns.render(view.paint)
}

/// The state of each port as each satellite saw it.
fn states(runs: &[PortRun]) -> BTreeMap<(IpAddr, &str, u16), PortState> {
    let of_run = |run: &'_ PortRun| run.ports.iter().collect::<Vec<_>>();
    runs.iter()
        .flat_map(|run| {
            of_run(run).into_iter().map(move |port| ((run.address, run.satellite.as_str(), port), run.state))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::change::tests::change;
    use portolan_proto::v1;

    #[test]
    fn each_expectation_has_its_line() {
        let mut wire = change();
        let second = v1::ChangeExpectation {
            ports: "53".into(),
            protocol: v1::Protocol::Udp.into(),
            ..wire.expectations[0].clone()
        };
        wire.expectations.push(second);
        wire.closed_at_ms = 0;
        let document = ChangeDocument::try_from(&wire).unwrap();
        assert_eq!(
            list(&[document], &View::fixed()),
            "\
NAME      STATE  OPENED  ENDS   AUTHOR  EXPECTS                            REASON
CHG31337  open   1h ago  in 1h  ada     office->10.99.2.10:8443-8444 open  new payment API
                                        office->10.99.2.10:53/udp open
"
        );
    }

    #[test]
    fn before_and_after_stand_side_by_side() {
        let wire = change();
        assert_eq!(
            closed(
                &ClosedDocument::new(&wire, &[crate::document::alert::fixture::alert()]).unwrap(),
                &View::fixed()
            ),
            "\
Change CHG31337 is closed.

office->10.99.2.10:8443-8444 open
  ADDRESS     PORT                     SEEN FROM  BEFORE  AFTER   LOOKED
  10.99.2.10  8443-8444/tcp (2 ports)  office-1   closed  open    now     as expected
  10.99.2.10  8443/tcp                 office-2   closed  open    now     as expected
  10.99.2.10  8444/tcp                 office-2   closed  closed  now     not as expected

still violates check shop-front: alert 01a1f82d-c1f4-72f9-8fcd-2e760e5281d2
"
        );
    }

    #[test]
    fn a_new_one_says_what_it_holds_back() {
        let wire = change();
        assert_eq!(
            opened(&ChangeDocument::try_from(&wire).unwrap(), &View::fixed()),
            "\
Change CHG31337 is open until 2026-05-01 13:00:00 (in 1h). While it is, this does not page:
  office->10.99.2.10:8443-8444 open
It ends earlier with: portolan change close CHG31337
"
        );
    }
}

//! The scans that run, for people.

use crate::document::scans::{PartDocument, RunningDocument};
use crate::output::View;
use crate::output::columns::{Cell, Columns};
use crate::output::paint::styles;
use crate::output::text::{grouped, printable};
use crate::output::time;

/// A line each.
pub fn list(scans: &[RunningDocument<'_>], view: &View) -> String {
    if scans.is_empty() {
        return "No scans are running.\n".to_owned();
    }
    let mut columns = Columns::new(["ID", "SINCE", "OPERATOR", "FROM", "HOSTS", "PORTS", "OPEN", "STATE"]);
    for scan in scans {
        let names: Vec<_> = scan.satellites.iter().map(|part| printable(part.name)).collect();
        let of = |done: u64, total: u64| format!("{}/{}", grouped(done), grouped(total));
        columns.row([
            Cell::new(printable(scan.scan_id), styles::TITLE),
            Cell::plain(scan.started_at.map_or_else(String::new, |at| time::relative(at, view.now))),
            Cell::plain(printable(scan.operator.unwrap_or_default())),
            Cell::plain(names.join(", ")),
            Cell::plain(of(scan.total.hosts_done, scan.total.hosts_total)),
            Cell::plain(of(scan.total.ports_done, scan.total.ports_total)),
            Cell::plain(grouped(scan.total.open_found)),
            state(scan),
        ]);
    }
    columns.render(view.paint)
}

/// `running`, `paused`; where a satellite differs it is named.
fn state(scan: &RunningDocument<'_>) -> Cell {
    let names = |differs: &dyn Fn(&&PartDocument<'_>) -> bool| {
        let parts = scan.satellites.iter().filter(|part| !part.ended).filter(differs);
        parts.map(|part| printable(part.name)).collect::<Vec<_>>().join(", ")
    };
    let (lost, going_on) = (names(&|part| !part.connected), names(&|part| part.connected && !part.paused));
    let mut text = match (scan.cancelled, scan.paused) {
        (true, _) => "ending".to_owned(),
        (false, false) => "running".to_owned(),
        (false, true) if going_on.is_empty() => "paused".to_owned(),
        (false, true) => format!("paused, but not yet by {going_on}"),
    };
    if !lost.is_empty() {
        text.push_str(&format!("; no connection to {lost}"));
    }
    let style = if lost.is_empty() && !scan.paused { styles::GOOD } else { styles::CAUTION };
    Cell::new(text, style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::scans::tests::running;
    use portolan_proto::v1;

    fn page(scans: &[v1::RunningScan]) -> String {
        list(&scans.iter().map(RunningDocument::from).collect::<Vec<_>>(), &View::fixed())
    }

    #[test]
    fn each_has_its_line() {
        assert_eq!(
            page(&[running()]),
            "\
ID                                    SINCE   OPERATOR  FROM             HOSTS    PORTS            OPEN  STATE
01a1f82d-c1f4-72f9-8fcd-2e760e5281d2  1m ago  ada       office-1, pci-1  266/508  266,000/508,000  6     paused
"
        );
        assert_eq!(page(&[]), "No scans are running.\n");
    }

    #[test]
    fn what_differs_from_the_plan_is_named() {
        let with = |change: &dyn Fn(&mut v1::RunningScan)| {
            let mut scan = running();
            change(&mut scan);
            page(&[scan]).lines().nth(1).and_then(|line| line.split("6     ").nth(1)).unwrap().to_owned()
        };
        assert_eq!(with(&|scan| scan.satellites[0].paused = false), "paused, but not yet by office-1");
        assert_eq!(with(&|scan| scan.satellites[0].disconnected = true), "paused; no connection to office-1");
        assert_eq!(with(&|scan| scan.paused = false), "running");
        assert_eq!(with(&|scan| scan.cancelled = true), "ending");
        assert!(!with(&|scan| scan.satellites[0].satellite = "\u{1b}[2J".into()).contains('\u{1b}'));
    }
}

//! The inventory for people: host by host, open ports in rows, the rest in ranges.

use crate::document::ports::PortRun;
use crate::output::View;
use crate::output::columns::{Cell, Columns};
use crate::output::paint::styles;
use crate::output::text::{count, host_name, ports, printable};
use crate::output::time;
use portolan_common::observation::PortState;
use portolan_common::services;
use std::collections::BTreeSet;

/// The runs, as the server orders them: by address.
pub fn render(runs: &[PortRun], view: &View) -> String {
    let mut page = String::new();
    let (mut hosts, mut open) = (0, BTreeSet::new());
    for host in runs.chunk_by(|a, b| a.address == b.address) {
        page.push_str(&render_host(host, view));
        page.push('\n');
        hosts += 1;
        for run in host.iter().filter(|run| run.state == PortState::Open) {
            open.extend(run.ports.iter().map(|port| (run.address, run.protocol, port)));
        }
    }
    let line = format!("{} on {}", count(open.len() as u64, "open port"), count(hosts, "host"));
    page.push_str(&view.paint.apply(styles::TITLE, &line));
    page.push('\n');
    page
}

fn render_host(runs: &[PortRun], view: &View) -> String {
    let Some(first) = runs.first() else { return String::new() };
    let mut title = view.paint.apply(styles::TITLE, &first.address.to_string());
    if let Some(name) = runs.iter().find_map(|run| host_name(&run.target)) {
        title.push_str(&format!(" ({name})"));
    }
    let mut rows: Vec<(&PortRun, u16)> = runs
        .iter()
        .filter(|run| run.state == PortState::Open)
        .flat_map(|run| run.ports.iter().map(move |port| (run, port)))
        .collect();
    rows.sort_by(|(a, i), (b, j)| (a.protocol, i, &a.satellite).cmp(&(b.protocol, j, &b.satellite)));
    let mut columns =
        Columns::new(["PORT", "STATE", "REASON", "SERVICE", "SEEN FROM", "SINCE", "LAST SEEN"]).indented(2);
    let rest = runs.iter().filter(|run| run.state != PortState::Open);
    for (run, port) in rows {
        let service = services::name(run.protocol, port).unwrap_or_default();
        columns.row(row(run, format!("{port}/{}", run.protocol), service, view));
    }
    for run in rest {
        columns.row(row(run, ports(&run.ports, run.protocol), "", view));
    }
    format!("{title}\n{}", columns.render(view.paint))
}

fn row(run: &PortRun, port: String, service: &str, view: &View) -> [Cell; 7] {
    let vantage = format!("{} ({})", printable(&run.satellite), printable(&run.segment));
    [
        Cell::plain(port),
        Cell::new(run.state.as_str(), styles::of_state(run.state)),
        // An open port's reason is always the same; two filtered rows may differ in nothing else.
        Cell::quiet(if run.state == PortState::Open { "" } else { run.reason.as_str() }),
        Cell::plain(service),
        Cell::plain(vantage),
        Cell::plain(time::local_and_relative(run.since, view.now, &view.zone)),
        Cell::quiet(time::relative(run.last_seen, view.now)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::ports::fixture::run;
    use portolan_common::observation::Reason;

    #[test]
    fn open_ports_are_rows_and_the_rest_ranges() {
        let runs = [
            run("office-1", "10.99.2.10", PortState::Open, Reason::SynAck, "22,443"),
            run("pci-1", "10.99.2.10", PortState::Open, Reason::SynAck, "22"),
            run("office-1", "10.99.2.10", PortState::Closed, Reason::ConnRefused, "1-21,23-442"),
            run("office-1", "10.99.2.11", PortState::Open, Reason::SynAck, "25"),
        ];
        assert_eq!(
            render(&runs, &View::fixed()),
            "\
10.99.2.10 (shop.internal)
  PORT                         STATE   REASON        SERVICE  SEEN FROM          SINCE                            LAST SEEN
  22/tcp                       open                  ssh      office-1 (office)  2026-04-29 10:00:00 (2d 2h ago)  3m ago
  22/tcp                       open                  ssh      pci-1 (pci)        2026-04-29 10:00:00 (2d 2h ago)  3m ago
  443/tcp                      open                  https    office-1 (office)  2026-04-29 10:00:00 (2d 2h ago)  3m ago
  1-21,23-442/tcp (441 ports)  closed  conn-refused           office-1 (office)  2026-04-29 10:00:00 (2d 2h ago)  3m ago

10.99.2.11
  PORT    STATE  SERVICE  SEEN FROM          SINCE                            LAST SEEN
  25/tcp  open   smtp     office-1 (office)  2026-04-29 10:00:00 (2d 2h ago)  3m ago

3 open ports on 2 hosts
"
        );
    }
}

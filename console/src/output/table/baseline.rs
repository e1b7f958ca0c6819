//! Baselines for people.

use super::evidence::{ago, when};
use crate::document::baseline::{BaselineDocument, DifferenceDocument};
use crate::document::evidence::subject;
use crate::output::View;
use crate::output::columns::{Cell, Columns};
use crate::output::paint::styles;
use crate::output::text::{count, printable};

/// What was open, and what differs.
pub fn show(baseline: &BaselineDocument<'_>, view: &View) -> String {
    let mut page = format!(
        "{}: {} open when {} took it at {}\n",
        view.paint.apply(styles::TITLE, &printable(baseline.name)),
        count(baseline.ports.len() as u64, "port"),
        printable(baseline.author),
        when(baseline.taken_at, view)
    );
    if baseline.hosts_unseen > 0 {
        let s = if baseline.hosts_unseen == 1 { "has" } else { "have" };
        let hosts = count(baseline.hosts_unseen, "address").replace("addresss", "addresses");
        page.push_str(&format!("{hosts} {s} not been looked at yet: nothing is compared there\n"));
    }
    if !baseline.ports.is_empty() {
        let mut columns = Columns::new(["PORT", "OPEN FROM"]).indented(2);
        for port in &baseline.ports {
            columns.row([
                Cell::plain(subject(port.address, port.protocol, Some(port.port))),
                Cell::plain(printable(&port.satellites.join(", "))),
            ]);
        }
        page.push_str(&format!("\n{}", columns.render(view.paint)));
    }
    page.push_str(&format!("\n{}\n", view.paint.apply(styles::TITLE, "Now")));
    page.push_str(&differences(&baseline.differences, view));
    page
}

/// A line each.
pub fn differences(differences: &[DifferenceDocument<'_>], view: &View) -> String {
    if differences.is_empty() {
        return "  Everything is as in the baseline.\n".to_owned();
    }
    let mut columns = Columns::new(["", "PORT", "STATE", "SEEN FROM", "SINCE"]).indented(2);
    for difference in differences {
        let style = if difference.kind == "new" { styles::BAD } else { styles::CAUTION };
        columns.row([
            Cell::new(printable(difference.kind), style),
            Cell::plain(subject(difference.address, difference.protocol, Some(difference.port))),
            Cell::plain(difference.state.unwrap_or_default()),
            Cell::plain(printable(difference.satellite)),
            Cell::plain(ago(difference.since, view)),
        ]);
    }
    columns.render(view.paint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::baseline::tests::baseline;
    use portolan_proto::v1;

    #[test]
    fn what_was_open_and_what_differs() {
        let wire = baseline();
        assert_eq!(
            show(&BaselineDocument::try_from(&wire).unwrap(), &View::fixed()),
            "\
shop-front: 3 ports open when ada took it at 2026-04-30 12:00:00 (1d ago)
2 addresses have not been looked at yet: nothing is compared there

  PORT                OPEN FROM
  10.99.2.10 22/tcp   office-1
  10.99.2.10 80/tcp   office-1, dmz-1
  10.99.2.10 443/tcp  office-1

Now
            PORT                 STATE   SEEN FROM  SINCE
  vanished  10.99.2.10 443/tcp   closed  office-1   2m ago
  new       10.99.2.10 8443/tcp  open    office-1   2m ago
"
        );
    }

    #[test]
    fn nothing_differs() {
        let wire = v1::Baseline { differences: vec![], hosts_unseen: 1, ..baseline() };
        let page = show(&BaselineDocument::try_from(&wire).unwrap(), &View::fixed());
        assert!(page.contains("1 address has not been looked at yet"), "{page}");
        assert!(page.ends_with("Now\n  Everything is as in the baseline.\n"), "{page}");
    }
}

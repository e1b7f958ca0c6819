//! Silences for people.

use crate::document::silence::SilenceDocument;
use crate::output::View;
use crate::output::columns::{Cell, Columns};
use crate::output::paint::styles;
use crate::output::text::{count, id_length, printable, short_id};
use crate::output::time;

/// A line each.
pub fn list(silences: &[SilenceDocument<'_>], view: &View) -> String {
    let length = id_length(silences.iter().map(|silence| silence.id));
    let mut columns =
        Columns::new(["ID", "STATUS", "STARTS", "ENDS", "ALERTS", "MATCHERS", "AUTHOR", "REASON"]);
    for silence in silences {
        let style = match silence.status {
            "active" => styles::CAUTION,
            "pending" => styles::PLAIN,
            _ => styles::QUIET,
        };
        let at = |at: Option<_>| Cell::plain(at.map(|at| time::relative(at, view.now)).unwrap_or_default());
        columns.row([
            Cell::new(short_id(silence.id, length), styles::TITLE),
            Cell::new(silence.status, style),
            at(silence.starts_at),
            at(silence.ends_at),
            Cell::plain(silence.alerts.to_string()),
            Cell::plain(printable(&silence.matchers.join(" "))),
            Cell::plain(printable(silence.author)),
            Cell::plain(printable(silence.reason)),
        ]);
    }
    columns.render(view.paint)
}

/// A new one, in a sentence.
pub fn added(silence: &SilenceDocument<'_>, view: &View) -> String {
    let at =
        |at: Option<_>| at.map(|at| time::local_and_relative(at, view.now, &view.zone)).unwrap_or_default();
    let from = match silence.status {
        "pending" => format!("from {} ", at(silence.starts_at)),
        _ => String::new(),
    };
    format!(
        "Silence {} holds {from}until {}; it holds back {} now.\n",
        printable(silence.id),
        at(silence.ends_at),
        count(silence.alerts, "alert")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::silence::tests::silence;
    use crate::scan_result::fixture::noon;
    use portolan_proto::v1;

    #[test]
    fn each_has_its_line() {
        let wire = silence();
        assert_eq!(
            list(&[SilenceDocument::new(&wire, noon())], &View::fixed()),
            "\
ID        STATUS  STARTS  ENDS   ALERTS  MATCHERS                           AUTHOR  REASON
01a1f82d  active  1h ago  in 1h  2       check=\"shop-front\" port=~\"80|443\"  ada     new switch in rack 4
"
        );
    }

    #[test]
    fn a_new_one_says_when_it_holds() {
        let said = |wire: &v1::Silence| added(&SilenceDocument::new(wire, noon()), &View::fixed());
        assert_eq!(
            said(&silence()),
            "Silence 01a1f82d-c1f4-72f9-8fcd-2e760e5281d2 holds until 2026-05-01 13:00:00 (in 1h); it holds back 2 alerts now.\n"
        );
        let later = v1::Silence { starts_at_ms: noon().as_millisecond() + 60_000, alerts: 0, ..silence() };
        assert_eq!(
            said(&later),
            "Silence 01a1f82d-c1f4-72f9-8fcd-2e760e5281d2 holds from 2026-05-01 12:01:00 (in 1m) until 2026-05-01 13:00:00 (in 1h); it holds back 0 alerts now.\n"
        );
    }
}

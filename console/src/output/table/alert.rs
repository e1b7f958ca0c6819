//! Alerts for people.

use super::evidence::{SIGHT_HEADINGS, ago, severity_style, sight_cells, timeline, when};
use crate::document::alert::{AlertDetails, AlertDocument, EventDocument};
use crate::document::evidence::subject;
use crate::output::View;
use crate::output::columns::{Cell, Columns, facts};
use crate::output::paint::styles;
use crate::output::text::{id_length, one_line, printable, short_id};
use crate::output::time;
use anstyle::Style;

/// How much of an id a line of the watch shows: its whole time, and what tells the ids of a millisecond apart.
const WATCHED_ID: usize = 18;

/// A line each.
pub fn list(alerts: &[AlertDocument<'_>], view: &View) -> String {
    let length = id_length(alerts.iter().map(|alert| alert.id));
    let mut columns =
        Columns::new(["ID", "SEVERITY", "STATUS", "SINCE", "RESOLVED", "CHECK", "WHAT", "NOTE"]);
    for alert in alerts {
        columns.row([
            Cell::new(short_id(alert.id, length), styles::TITLE),
            Cell::new(printable(alert.severity), severity_style(alert.severity)),
            Cell::new(alert.status, status_style(alert.status)),
            Cell::plain(ago(alert.since, view)),
            Cell::plain(alert.resolved_at.map(|at| time::relative(at, view.now)).unwrap_or_default()),
            Cell::plain(printable(alert.check.unwrap_or_default())),
            Cell::plain(printable(alert.summary)),
            Cell::new(notes(alert).join(", "), styles::CAUTION),
        ]);
    }
    columns.render(view.paint)
}

/// What else should be known of an alert at a glance.
fn notes(alert: &AlertDocument<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(operator) = alert.acknowledged_by {
        notes.push(format!("acknowledged by {}", printable(operator)));
    }
    if !alert.held_back_by.is_empty() {
        notes.push(format!("held back by {}", printable(&alert.held_back_by.join(", "))));
    }
    let flags =
        [(alert.flapping, "flapping"), (alert.late, "reported late"), (alert.unknown, "evidence too old")];
    notes.extend(flags.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word.to_owned()));
    notes
}

fn status_style(status: &str) -> Style {
    match status {
        "firing" => styles::BAD,
        "acknowledged" => styles::CAUTION,
        _ => styles::GOOD,
    }
}

/// One with everything.
pub fn show(details: &AlertDetails<'_>, view: &View) -> String {
    let alert = &details.alert;
    let by = |who: Option<&str>, at| match who {
        Some(who) => format!("by {} at {}", printable(who), when(at, view)),
        None => String::new(),
    };
    let text = |text: Option<&str>| printable(text.unwrap_or_default()).into_owned();
    let labels: Vec<_> = alert
        .labels
        .iter()
        .map(|(name, value)| format!("{}={}", printable(name), printable(value)))
        .collect();
    let flags = [
        (alert.flapping, "flapping"),
        (alert.late, "reported late"),
        (alert.unknown, "evidence too old to say"),
    ];
    let flags: Vec<_> = flags.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word).collect();
    let status = view.paint.apply(status_style(alert.status), alert.status);
    let severity = view.paint.apply(severity_style(alert.severity), &printable(alert.severity));
    let mut page = format!("{}\n\n", view.paint.apply(styles::TITLE, &printable(alert.summary)));
    page.push_str(&facts([
        ("Id", printable(alert.id).into_owned()),
        (
            "Status",
            [status, severity]
                .into_iter()
                .chain(flags.into_iter().map(str::to_owned))
                .collect::<Vec<_>>()
                .join(", "),
        ),
        ("Check", text(alert.check)),
        ("Target", text(alert.target)),
        ("Where", subject(alert.address, alert.protocol, alert.port)),
        ("Expected", text(alert.expected)),
        ("Observed", text(alert.observed)),
        ("Seen from", printable(&alert.satellites.join(", ")).into_owned()),
        ("Since", when(alert.since, view)),
        ("Fired", when(details.fired_at, view)),
        ("Changed", when(alert.changed_at, view)),
        ("Acknowledged", by(alert.acknowledged_by, details.acknowledged_at)),
        ("Resolved", when(alert.resolved_at, view)),
        ("Held back by", printable(&alert.held_back_by.join(", ")).into_owned()),
        ("Confidence", text(details.confidence)),
        ("Labels", labels.join(", ")),
        ("Fingerprint", printable(details.fingerprint).into_owned()),
    ]));
    if !details.sights.is_empty() {
        let mut columns = Columns::new(SIGHT_HEADINGS).indented(2);
        details.sights.iter().for_each(|sight| columns.row(sight_cells(sight, view)));
        page.push_str(&section("As each vantage point sees it", &columns.render(view.paint), view));
    }
    page.push_str(&timeline("Transitions", &details.transitions, false, view));
    let others: String = details.others.iter().map(|other| format!("  {}\n", printable(other))).collect();
    page.push_str(&section("What else fires there", &others, view));
    let comments: String = details
        .comments
        .iter()
        .map(|comment| {
            let at = comment.at.map(|at| time::local(at, &view.zone)).unwrap_or_default();
            format!("  {at}  {}: {}\n", printable(comment.author), one_line(comment.text))
        })
        .collect();
    page.push_str(&section("Comments", &comments, view));
    if let Some(command) = details.command {
        let commands: String = command.lines().map(|line| format!("  {}\n", printable(line))).collect();
        page.push_str(&section("To look closer", &commands, view));
    }
    page
}

/// Nothing when there is nothing in it.
fn section(title: &str, body: &str, view: &View) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!("\n{}\n{body}", view.paint.apply(styles::TITLE, title))
    }
}

/// A line of the watch.
pub fn event(event: &EventDocument<'_>, view: &View) -> String {
    let at = event.at.map(|at| time::local(at, &view.zone)).unwrap_or_default();
    let Some(alert) = &event.alert else { return format!("{at}  {}\n", printable(event.kind)) };
    let kind = format!("{:<12}", printable(event.kind));
    let severity = format!("{:<8}", printable(alert.severity));
    let style = match event.kind {
        "firing" | "released" => styles::BAD,
        "resolved" => styles::GOOD,
        "current" => status_style(alert.status),
        _ => styles::PLAIN,
    };
    let notes = match notes(alert) {
        notes if notes.is_empty() => String::new(),
        notes => format!("; {}", notes.join(", ")),
    };
    let comment = match &event.comment {
        Some(comment) => {
            let first = comment.text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
            format!("; {}: {}", printable(comment.author), printable(first))
        }
        None => String::new(),
    };
    format!(
        "{at}  {}  {}  {}{comment}{notes}  [{}]\n",
        view.paint.apply(style, &kind),
        view.paint.apply(severity_style(alert.severity), &severity),
        printable(alert.summary),
        short_id(alert.id, WATCHED_ID)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::alert::fixture::{alert, offline};
    use portolan_proto::v1;

    #[test]
    fn each_has_its_line() {
        let wire = [alert(), offline()];
        let documents: Vec<_> = wire.iter().map(|alert| AlertDocument::try_from(alert).unwrap()).collect();
        assert_eq!(list(&documents, &View::fixed()), "\
ID        SEVERITY  STATUS        SINCE    CHECK       WHAT                                                                    NOTE
01a1f82d  critical  firing        12m ago  shop-front  tcp/23 on 10.99.2.10 is open and must be closed, as seen from office-1
01a1f7ff  critical  acknowledged  1h ago               satellite pci-1 is offline: 3 checks cannot look from there             acknowledged by ada, held back by maintenance patch night, evidence too old
");
    }

    #[test]
    fn one_with_everything() {
        let wire = alert();
        assert_eq!(
            show(&AlertDetails::try_from(&wire).unwrap(), &View::fixed()),
            "\
tcp/23 on 10.99.2.10 is open and must be closed, as seen from office-1

Id            01a1f82d-c1f4-72f9-8fcd-2e760e5281d2
Status        firing, critical
Check         shop-front
Target        10.99.2.10
Where         10.99.2.10 23/tcp
Expected      closed
Observed      open
Seen from     office-1
Since         2026-05-01 11:48:00 (12m ago)
Fired         2026-05-01 11:49:00 (11m ago)
Changed       2026-05-01 11:49:00 (11m ago)
Confidence    24 observations in a row, 1 of 2 vantage points
Labels        alertname=PortOpen, check=shop-front, team=shop
Fingerprint   b1946ac92492d234

As each vantage point sees it
  SEEN FROM          STATE   REASON  SINCE    LOOKED   ROUND TRIPS  LAST / USUAL
  office-1 (office)  open            12m ago  12s ago  ▄·▅█         0.80 ms / 0.41 ms
  dmz-1 (dmz)        closed  reset   12m ago  12s ago

Transitions
  AT                            FROM        TO       WHAT WAS SEEN
  2026-05-01 11:49:00  11m ago  pending  →  firing   open, expected closed (from office-1)
  2026-05-01 11:48:00  12m ago  ok       →  pending  open, expected closed (from office-1)

What else fires there
  tcp/80 on 10.99.2.10 is filtered and must be open

To look closer
  portolan scan 10.99.2.10 -p 23 --from office-1
"
        );
    }

    #[test]
    fn what_there_is_not_takes_no_line() {
        let wire = offline();
        assert_eq!(
            show(&AlertDetails::try_from(&wire).unwrap(), &View::fixed()),
            "\
satellite pci-1 is offline: 3 checks cannot look from there

Id            01a1f7ff-249c-74b9-b8b4-a98be55d5ccb
Status        acknowledged, critical, evidence too old to say
Expected      online
Observed      offline
Seen from     pci-1
Since         2026-05-01 11:00:00 (1h ago)
Changed       2026-05-01 11:10:00 (50m ago)
Acknowledged  by ada at 2026-05-01 11:10:00 (50m ago)
Held back by  maintenance patch night
Labels        alertname=SatelliteOffline
Fingerprint   591785b794601e21

Comments
  2026-05-01 11:10:00  ada: power cut in hall 2
"
        );
    }

    #[test]
    fn an_event_is_a_line() {
        let line = |kind: &str, alert: Option<v1::Alert>| {
            let wire = v1::AlertEvent { kind: kind.into(), alert, at_ms: 1_777_636_800_000 };
            event(&EventDocument::try_from(&wire).unwrap(), &View::fixed())
        };
        assert_eq!(
            line("firing", Some(alert())),
            "2026-05-01 12:00:00  firing        critical  tcp/23 on 10.99.2.10 is open and must be closed, as seen from office-1  [01a1f82d-c1f4-72f9]\n"
        );
        assert_eq!(
            line("acknowledged", Some(offline())),
            "2026-05-01 12:00:00  acknowledged  critical  satellite pci-1 is offline: 3 checks cannot look from there; acknowledged by ada, held back by maintenance patch night, evidence too old  [01a1f7ff-249c-74b9]\n"
        );
        let comment = v1::AlertComment {
            author: "bob".into(),
            text: "\nthe breaker is out\nsee NET-7".into(),
            ..Default::default()
        };
        let commented = v1::Alert { comments: vec![comment], ..alert() };
        assert!(line("commented", Some(commented)).contains("from office-1; bob: the breaker is out  [01a1"));
        assert_eq!(line("ready", None), "2026-05-01 12:00:00  ready\n");
        let hostile = v1::Alert { summary: "\u{1b}[2J\n".into(), ..alert() };
        assert!(!line("firing", Some(hostile)).trim_end().chars().any(char::is_control));
    }
}

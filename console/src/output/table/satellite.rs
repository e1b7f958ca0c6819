//! Satellites for people.

use crate::document::satellite::{GapDocument, JoinDocument, SatelliteDocument};
use crate::output::View;
use crate::output::columns::{self, Cell, Columns};
use crate::output::paint::styles;
use crate::output::text::{bytes, count, grouped, length, printable};
use crate::output::time;
use anstyle::Style;
use jiff::Timestamp;

/// All of them, a line each.
pub fn list(satellites: &[SatelliteDocument<'_>], view: &View) -> String {
    if satellites.is_empty() {
        return "No satellites yet. Register the first: portolan satellite add NAME --segment SEGMENT\n"
            .to_owned();
    }
    let several_tenants = satellites.iter().any(|satellite| satellite.tenant != "default");
    let mut columns = Columns::new([
        "NAME",
        "TENANT",
        "SEGMENT",
        "STATUS",
        "VERSION",
        "ADDRESS",
        "LAST SEEN",
        "CERTIFICATE",
        "SPOOL",
    ]);
    for satellite in satellites {
        let revoked = satellite.status == "revoked";
        columns.row([
            Cell::new(printable(satellite.name), styles::TITLE),
            Cell::plain(if several_tenants { printable(satellite.tenant) } else { "".into() }),
            Cell::plain(printable(satellite.segment)),
            Cell::new(satellite.status, status_style(satellite.status)),
            Cell::quiet(printable(satellite.version.unwrap_or_default())),
            Cell::plain(printable(satellite.address.unwrap_or_default())),
            Cell::plain(last_seen(satellite, view)),
            certificate(satellite.certificate_expires_at.filter(|_| !revoked), view),
            match (satellite.spool_error, satellite.spool_depth) {
                (Some(_), _) => Cell::new("stands still", styles::BAD),
                (None, 0) => Cell::plain(""),
                (None, n) => Cell::plain(grouped(n)),
            },
        ]);
    }
    columns.render(view.paint)
}

fn last_seen(satellite: &SatelliteDocument<'_>, view: &View) -> String {
    match (satellite.status, satellite.last_seen) {
        ("online", _) => "now".to_owned(),
        (_, Some(at)) => time::relative(at, view.now),
        (_, None) => "never".to_owned(),
    }
}

fn certificate(expires_at: Option<Timestamp>, view: &View) -> Cell {
    match expires_at {
        None => Cell::plain(""),
        Some(at) if at <= view.now => {
            Cell::new(format!("expired {}", time::relative(at, view.now)), styles::BAD)
        }
        Some(at) => Cell::plain(format!("expires {}", time::relative(at, view.now))),
    }
}

fn status_style(status: &str) -> Style {
    match status {
        "online" => styles::GOOD,
        "offline" => styles::BAD,
        "pending" => styles::CAUTION,
        _ => styles::QUIET,
    }
}

/// One of them, a line a fact.
pub fn show(satellite: &SatelliteDocument<'_>, view: &View) -> String {
    let at = |at: Option<Timestamp>| match at {
        Some(at) => time::local_and_relative(at, view.now, &view.zone),
        None => "never".to_owned(),
    };
    let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { printable(text).into_owned() };
    let facts = [
        ("Name", printable(satellite.name).into_owned()),
        ("Segment", printable(satellite.segment).into_owned()),
        ("Tenant", printable(satellite.tenant).into_owned()),
        ("Status", view.paint.apply(status_style(satellite.status), satellite.status)),
        ("Version", or_none(satellite.version.unwrap_or_default())),
        ("Address", or_none(satellite.address.unwrap_or_default())),
        ("Last seen", at(satellite.last_seen)),
        (
            "Certificate",
            satellite
                .certificate_expires_at
                .map_or_else(|| "none".to_owned(), |t| format!("until {}", at(Some(t)))),
        ),
        ("Assignment", format!("revision {}", satellite.assignment_revision)),
        ("Clock", clock(satellite.clock_skew_ms)),
        ("Spool", spool(satellite, view)),
        ("Lost", lost(satellite)),
        ("Capabilities", or_none(&satellite.capabilities.join(", "))),
        ("Id", printable(satellite.id).into_owned()),
    ];
    let mut page = columns::facts(facts);
    if satellite.gaps.as_ref().is_some_and(|gaps| !gaps.is_empty()) {
        page.push_str("\nGaps\n");
    }
    for gap in satellite.gaps.iter().flatten() {
        page.push_str(&format!("  {}\n", gap_line(gap, view)));
    }
    if satellite.status == "pending" {
        page.push_str("\nIt has not joined yet. A lost token is replaced by removing and adding it again.\n");
    }
    page
}

/// Empty while it is not connected.
fn clock(skew_ms: Option<i64>) -> String {
    match skew_ms {
        None => String::new(),
        Some(0) => "as the server's".to_owned(),
        Some(ms) => {
            let way = if ms > 0 { "ahead of" } else { "behind" };
            let length = match ms.unsigned_abs() {
                short @ 0..60_000 => format!("{:.1} s", short as f64 / 1e3),
                long => length(long / 1000),
            };
            format!("{length} {way} the server's; its times are shown corrected")
        }
    }
}

/// Empty while it is not connected.
fn spool(satellite: &SatelliteDocument<'_>, view: &View) -> String {
    if satellite.status != "online" {
        return String::new();
    }
    let mut text = format!("{} waiting", count(satellite.spool_depth, "record"));
    if let Some(on_disk) = satellite.spool_bytes {
        text.push_str(&format!(", {} on disk", bytes(on_disk)));
    }
    if satellite.replaying {
        text.push_str(", catching up");
    }
    if let Some(error) = satellite.spool_error {
        let error = format!("takes nothing: {}", printable(error));
        text.push_str(&format!("; {}", view.paint.apply(styles::BAD, &error)));
    }
    text
}

/// Empty when nothing was.
fn lost(satellite: &SatelliteDocument<'_>) -> String {
    let mut parts = Vec::new();
    if let Some(missing) = satellite.records_missing.filter(|n| *n > 0) {
        parts.push(format!("{} that it does not account for", count(missing, "record")));
    }
    if let Some(dropped) = satellite.hosts_dropped.filter(|n| *n > 0) {
        parts.push(format!("at least {} that it dropped", count(dropped, "host observation")));
    }
    parts.join(", ")
}

fn gap_line(gap: &GapDocument, view: &View) -> String {
    let why = match gap.reason.as_str() {
        "full" => "the spool was full",
        "age" => "it waited too long",
        "expired" => "it was acknowledged, and kept no longer",
        "damaged" => "the spool was damaged",
        "missing" => "not accounted for",
        other => other,
    };
    let hosts = match (gap.hosts, gap.confirmations) {
        (None, _) => String::new(),
        (Some(hosts), same) if hosts == same => {
            format!(", {}, no change among them", count(hosts, "host observation"))
        }
        (Some(hosts), same) => {
            format!(", {} ({} of them changed nothing)", count(hosts, "host observation"), grouped(same))
        }
    };
    let at = gap.at.map_or_else(String::new, |at| time::local_and_relative(at, view.now, &view.zone));
    let sequences = format!("{}-{}", gap.first_sequence, gap.last_sequence);
    format!("{at}  sequences {sequences}{hosts}: {}", printable(why))
}

/// What to do with a new token.
pub fn join(join: &JoinDocument<'_>, view: &View) -> String {
    let until = join.expires_at.map_or_else(String::new, |at| {
        format!(", valid until {}", time::local_and_relative(at, view.now, &view.zone))
    });
    let scope = match join.scope {
        [] => String::new(),
        scope => format!("It proposes the scope {}.\n", scope.join(", ")),
    };
    format!(
        "Satellite {} may join segment {}. Its token works once{until}:\n\n{}\n\n{scope}On the satellite's machine \
         run:\n\n  portolan-satellite enroll {}\n  portolan-satellite run\n",
        view.paint.apply(styles::TITLE, join.name),
        view.paint.apply(styles::TITLE, join.segment),
        join.token,
        join.token,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan_result::fixture::noon;
    use jiff::ToSpan as _;
    use portolan_proto::v1::{self, satellite::Status};

    fn satellite(name: &str, status: Status) -> v1::Satellite {
        v1::Satellite {
            name: name.into(),
            segment: "office".into(),
            tenant: "default".into(),
            status: status.into(),
            ..Default::default()
        }
    }

    fn office() -> v1::Satellite {
        v1::Satellite {
            version: "0.1.0".into(),
            address: "10.99.1.2:40112".into(),
            last_seen_at_ms: (noon() - 3.minutes()).as_millisecond(),
            certificate_expires_at_ms: (noon() + 696.hours()).as_millisecond(),
            capabilities: vec!["connect".into(), "ipv6".into()],
            ..satellite("office-1", Status::Online)
        }
    }

    #[test]
    fn the_list_is_aligned_and_leaves_out_what_nobody_has() {
        let wire = [
            office(),
            v1::Satellite { status: Status::Offline.into(), name: "office-2".into(), ..office() },
            satellite("new", Status::Pending),
        ];
        let documents: Vec<_> = wire.iter().map(SatelliteDocument::from).collect();
        assert_eq!(
            list(&documents, &View::fixed()),
            "\
NAME      SEGMENT  STATUS   VERSION  ADDRESS          LAST SEEN  CERTIFICATE
office-1  office   online   0.1.0    10.99.1.2:40112  now        expires in 29d
office-2  office   offline  0.1.0    10.99.1.2:40112  3m ago     expires in 29d
new       office   pending                            never
"
        );
        assert!(list(&[], &View::fixed()).starts_with("No satellites yet."));
    }

    #[test]
    fn one_in_detail() {
        let wire = office();
        let text = show(&SatelliteDocument::from(&wire), &View::fixed());
        assert!(text.contains("Last seen     2026-05-01 11:57:00 (3m ago)\n"), "{text}");
        assert!(text.contains("Certificate   until 2026-05-30 12:00:00 (in 29d)\n"), "{text}");
        assert!(text.contains("Capabilities  connect, ipv6\n"), "{text}");
        assert!(!text.contains("Clock") && !text.contains("Lost") && !text.contains("Gaps"), "{text}");
    }

    #[test]
    fn nothing_is_said_of_the_spool_of_one_that_is_not_connected() {
        let wire = v1::Satellite { status: Status::Offline.into(), ..office() };
        let text = show(&SatelliteDocument::from(&wire), &View::fixed());
        assert!(!text.contains("Spool"), "{text}");
    }

    #[test]
    fn what_was_lost_is_said() {
        let gap = v1::Gap {
            at_ms: noon().as_millisecond(),
            first_sequence: 7,
            last_sequence: 90,
            hosts: 400,
            confirmations: 400,
            reason: "full".into(),
        };
        let wire = v1::Satellite {
            clock_skew_ms: Some(-90_500),
            spool_depth: 12,
            spool_bytes: 1_048_576,
            spool_error: "no space left on device".into(),
            replaying: true,
            gaps: vec![gap],
            hosts_dropped: Some(400),
            records_missing: Some(1),
            ..office()
        };
        let text = show(&SatelliteDocument::from(&wire), &View::fixed());
        for line in [
            "Clock         1 min 30 s behind the server's; its times are shown corrected\n",
            "Spool         12 records waiting, 1.0 MiB on disk, catching up; takes nothing: no space left on device\n",
            "Lost          1 record that it does not account for, at least 400 host observations that it dropped\n",
            "\nGaps\n  2026-05-01 12:00:00 (now)  sequences 7-90, 400 host observations, no change among them: the spool was full\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_new_token_comes_with_what_to_do() {
        let document = JoinDocument {
            name: "office-1",
            segment: "office",
            tenant: "default",
            token: "ptl1_AAAA",
            expires_at: Some(noon() + 1.hour()),
            servers: vec![],
            scope: &["10.99.0.0/16".to_owned()],
        };
        assert_eq!(
            join(&document, &View::fixed()),
            "\
Satellite office-1 may join segment office. Its token works once, valid until 2026-05-01 13:00:00 (in 1h):

ptl1_AAAA

It proposes the scope 10.99.0.0/16.
On the satellite's machine run:

  portolan-satellite enroll ptl1_AAAA
  portolan-satellite run
"
        );
    }
}

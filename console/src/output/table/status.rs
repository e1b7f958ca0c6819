//! The server at a glance.

use crate::output::View;
use crate::output::paint::styles;
use crate::output::text::{bytes, count, printable};
use crate::output::time;
use jiff::{SignedDuration, Timestamp};
use portolan_proto::v1::{self, problem::Severity};

/// An operator renews by hand, and has to find the time.
const OPERATOR_NOTICE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// The server renews its own; so late it did not.
const SERVER_NOTICE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The page.
pub fn render(status: &v1::StatusResponse, context: &str, view: &View) -> String {
    let until = |ms: i64| match time::from_wire(ms) {
        Some(at) => format!("until {}", time::local_and_relative(at, view.now, &view.zone)),
        None => "unknown".to_owned(),
    };
    let uptime = status.now_at_ms.saturating_sub(status.started_at_ms) / 1000;
    let since = time::from_wire(status.started_at_ms)
        .map_or_else(String::new, |at| format!(" (since {})", time::local(at, &view.zone)));
    let satellites = [
        (status.satellites_online, "online", styles::GOOD),
        (status.satellites_offline, "offline", styles::BAD),
        (status.satellites_pending, "pending", styles::CAUTION),
        (status.satellites_revoked, "revoked", styles::QUIET),
    ];
    let satellites = counts(&satellites, view);
    let satellites = match status.satellites_replaying {
        0 => satellites,
        n => format!("{satellites} ({n} catching up)"),
    };
    let mut lines = vec![
        (
            "Server",
            format!("portolan-server {}, up {}{since}", printable(&status.version), time::span(uptime)),
        ),
        ("Deployment", format!("{} (context {})", printable(&status.deployment_id), printable(context))),
        ("Certificate", until(status.server_certificate_expires_at_ms)),
        ("Store", format!("{} on disk, {} free", bytes(status.store_bytes), bytes(status.store_free_bytes))),
        ("Scans", format!("{} running", status.scans_running)),
        ("Satellites", satellites),
    ];
    for satellite in &status.offline {
        let seen = time::from_wire(satellite.last_seen_at_ms).map_or_else(
            || "never seen".to_owned(),
            |at| format!("last seen {}", time::relative(at, view.now)),
        );
        let (name, segment) = (printable(&satellite.name), printable(&satellite.segment));
        lines.push(("", format!("{} {name} ({segment}), {seen}", view.paint.apply(styles::BAD, "offline:"))));
    }
    if status.policy_version > 0 {
        let checks = [
            (status.checks_firing, "firing", styles::BAD),
            (status.checks_unknown, "unknown", styles::CAUTION),
            (status.checks_pending, "pending", styles::CAUTION),
            (status.checks_ok, "ok", styles::GOOD),
            (status.checks_paused, "paused", styles::QUIET),
        ];
        lines.push(("Checks", format!("{} (policy {})", counts(&checks, view), status.policy_version)));
        let alerts = [
            (status.alerts_firing, "firing", styles::BAD),
            (status.alerts_acknowledged, "acknowledged", styles::CAUTION),
            (status.alerts_held_back, "held back", styles::QUIET),
        ];
        lines.push(("Alerts", counts(&alerts, view)));
    }
    let certificate = until(status.operator_certificate_expires_at_ms);
    lines.push(("You", format!("{}, certificate {certificate}", printable(&status.operator))));
    let mut page: String = lines.iter().map(|(name, value)| format!("{name:<11} {value}\n")).collect();
    for problem in &status.problems {
        page.push_str(&problem_lines(problem, view));
    }
    page
}

/// `1 firing, 0 unknown, 12 ok`, coloured where there are any.
fn counts(counts: &[(u64, &str, anstyle::Style)], view: &View) -> String {
    let one = |(n, word, style): &(u64, &str, anstyle::Style)| {
        view.paint.apply(if *n > 0 { *style } else { styles::QUIET }, &format!("{n} {word}"))
    };
    counts.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn problem_lines(problem: &v1::Problem, view: &View) -> String {
    let (word, style) = match problem.severity() {
        Severity::Critical => ("CRITICAL", styles::BAD),
        Severity::Warning | Severity::Unspecified => ("WARNING", styles::CAUTION),
    };
    let subject = match problem.subject.as_str() {
        "" => String::new(),
        name => format!(" {}", printable(name)),
    };
    let since = time::from_wire(problem.since_at_ms)
        .map_or_else(String::new, |at| format!(" ({})", time::relative(at, view.now)));
    let kind = printable(&problem.kind);
    let message = printable(&problem.message);
    format!("\n{}{subject} {kind}{since}\n  {message}\n", view.paint.apply(style, word))
}

/// Certificates that need somebody's attention.
pub fn warnings(status: &v1::StatusResponse, now: Timestamp) -> Vec<String> {
    let soon = |ms: i64, notice: SignedDuration| {
        time::from_wire(ms).map(|at| at.duration_since(now)).filter(|left| *left < notice).map(|left| {
            match left.as_hours() {
                _ if left.is_negative() => "has expired".to_owned(),
                hours @ 48.. => format!("expires in {}", count((hours / 24).unsigned_abs(), "day")),
                hours => format!("expires in {}", count(hours.unsigned_abs(), "hour")),
            }
        })
    };
    let own = soon(status.operator_certificate_expires_at_ms, OPERATOR_NOTICE).map(|when| {
        format!(
            "your certificate {when}: issue a new one on the server: portolan-server admin --data-dir DIR"
        )
    });
    let servers = soon(status.server_certificate_expires_at_ms, SERVER_NOTICE).map(|when| {
        format!("the server's certificate {when}: it renews by itself, so look into the server's log")
    });
    own.into_iter().chain(servers).collect()
}

#[cfg(test)]
pub mod fixture {
    use crate::scan_result::fixture::noon;
    use jiff::ToSpan as _;
    use portolan_proto::v1;

    pub fn status() -> v1::StatusResponse {
        v1::StatusResponse {
            version: "0.1.0".into(),
            deployment_id: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
            started_at_ms: (noon() - 76.hours()).as_millisecond(),
            now_at_ms: noon().as_millisecond(),
            store_bytes: 3_565_158,
            store_free_bytes: 55_834_574_848,
            satellites_online: 2,
            satellites_offline: 1,
            satellites_pending: 1,
            satellites_revoked: 0,
            scans_running: 1,
            server_certificate_expires_at_ms: (noon() + 2_000.hours()).as_millisecond(),
            operator: "ada".into(),
            operator_certificate_expires_at_ms: (noon() + 300.hours()).as_millisecond(),
            offline: vec![v1::Satellite {
                name: "dmz-1".into(),
                segment: "dmz".into(),
                last_seen_at_ms: (noon() - 5.minutes()).as_millisecond(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan_result::fixture::noon;

    #[test]
    fn the_server_at_a_glance() {
        assert_eq!(
            render(&fixture::status(), "default", &View::fixed()),
            "\
Server      portolan-server 0.1.0, up 3d 4h (since 2026-04-28 08:00:00)
Deployment  01890a5d-ac96-774b-bcce-b302099a8057 (context default)
Certificate until 2026-07-23 20:00:00 (in 83d)
Store       3.4 MiB on disk, 52.0 GiB free
Scans       1 running
Satellites  2 online, 1 offline, 1 pending, 0 revoked
            offline: dmz-1 (dmz), last seen 5m ago
You         ada, certificate until 2026-05-14 00:00:00 (in 12d)
"
        );
    }

    #[test]
    fn a_certificate_near_its_end_is_warned_of() {
        let warnings = warnings(&fixture::status(), noon());
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("your certificate expires in 12 days"), "{warnings:?}");
        let mut late = fixture::status();
        late.operator_certificate_expires_at_ms = noon().as_millisecond() + 365 * 86_400_000;
        late.server_certificate_expires_at_ms = noon().as_millisecond() - 1;
        assert_eq!(
            super::warnings(&late, noon()),
            ["the server's certificate has expired: it renews by itself, so look into the server's log"]
        );
    }
}

//! A check for the tests of rendering.

use crate::document::alert::fixture::alert;
use crate::scan_result::fixture::noon;
use portolan_proto::v1;

/// One port of it is open and must not be; one of its two satellites is offline.
pub fn check() -> v1::Check {
    let now = noon().as_millisecond();
    let point = |name: &str, segment: &str, status: v1::satellite::Status, ago: i64| v1::CheckVantage {
        satellite: name.into(),
        segment: segment.into(),
        status: status.into(),
        oldest_seen_at_ms: now - ago,
        newest_seen_at_ms: now - ago,
        method: "syn".into(),
        addresses: 5,
        ..Default::default()
    };
    v1::Check {
        name: "shop-front".into(),
        tenant: "default".into(),
        from: vec!["segment:office".into(), "satellite:dmz-1".into()],
        targets: vec!["10.99.2.10".into(), "10.99.2.32/30".into()],
        open: "80,443".into(),
        closed: "23".into(),
        schedule: "30s".into(),
        labels: [("team".to_owned(), "shop".to_owned())].into(),
        state: v1::CheckState::Firing.into(),
        ok: 13,
        firing: 1,
        unknown: 1,
        vantage_points: vec![
            point("office-1", "office", v1::satellite::Status::Online, 12_000),
            point("dmz-1", "dmz", v1::satellite::Status::Offline, 5_400_000),
        ],
        since_at_ms: now - 720_000,
        ..Default::default()
    }
}

/// All there is to say of it.
pub fn answer() -> v1::GetCheckResponse {
    let alert = alert();
    let port = |port, expected: v1::Expectation, state: v1::CheckState| v1::PortExpectation {
        target: "10.99.2.10".into(),
        address: vec![10, 99, 2, 10],
        protocol: v1::Protocol::Tcp.into(),
        port,
        expected: expected.into(),
        state: state.into(),
        since_at_ms: noon().as_millisecond() - 720_000,
        ..Default::default()
    };
    let rtts = vec![400, 410, 395, 800, 405];
    let open = v1::PortSight {
        rtts_us: rtts,
        since_at_ms: noon().as_millisecond() - 86_400_000,
        ..alert.sights[0].clone()
    };
    let stale = v1::PortSight {
        satellite: "dmz-1".into(),
        segment: "dmz".into(),
        stale: true,
        seen_at_ms: noon().as_millisecond() - 5_400_000,
        ..open.clone()
    };
    v1::GetCheckResponse {
        check: Some(check()),
        ports: vec![
            v1::PortExpectation {
                alert_id: alert.id.clone(),
                sights: alert.sights.clone(),
                ..port(23, v1::Expectation::Closed, v1::CheckState::Firing)
            },
            v1::PortExpectation {
                sights: vec![stale],
                ..port(80, v1::Expectation::Open, v1::CheckState::Unknown)
            },
            v1::PortExpectation {
                sights: vec![open],
                ..port(443, v1::Expectation::Open, v1::CheckState::Ok)
            },
        ],
        ports_dropped: 12,
        timeline: alert.transitions,
    }
}

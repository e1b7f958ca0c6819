//! Baselines: taken, compared, accepted.

use super::*;
use crate::store::InventoryRow;
use portolan_common::ports::PortSet;

fn row(satellite: SatelliteId, address: &str, state: PortState, text: &str) -> InventoryRow {
    InventoryRow {
        satellite,
        address: address.parse().unwrap(),
        target: address.to_owned(),
        protocol: Protocol::Tcp,
        state,
        reason: Reason::SynAck,
        ports: ports(text).tcp,
        since: at(-60),
        last_seen: at(0),
    }
}

fn survey(alerts: &Alerts, rows: &[InventoryRow]) -> Survey {
    let mut survey = Survey::new(alerts.baseline_scope("shop").unwrap());
    rows.iter().for_each(|row| survey.add(row).unwrap());
    survey
}

fn differences(baseline: &v1::Baseline) -> Vec<String> {
    let told = |d: &v1::BaselineDifference| format!("{} {} from {}", d.kind, d.port, d.satellite);
    baseline.differences.iter().map(told).collect()
}

#[test]
fn taken_compared_and_accepted() {
    let mut alerts = alerts();
    let first = [
        row(OFFICE, "10.99.2.10", PortState::Open, "443,8001,9999"),
        row(OFFICE, "10.99.2.10", PortState::Closed, "8000,8002-8100"),
        row(DMZ, "10.99.2.10", PortState::Filtered, "8000-8100"),
        // Out of reach: another address, another satellite.
        row(OFFICE, "10.99.3.10", PortState::Open, "8001"),
        row(SatelliteId(Uuid::from_u128(9)), "10.99.2.10", PortState::Open, "8005"),
    ];
    let taken = alerts.take_baseline(&survey(&alerts, &first), "ada", at(0)).unwrap();
    let ports: Vec<_> = taken.ports.iter().map(|port| (port.port, port.satellites.join(","))).collect();
    assert_eq!(ports, [(443, "office-1".into()), (8001, "office-1".into())], "9999 is no port of the check");
    assert!(taken.differences.is_empty());
    assert_eq!((taken.author.as_str(), taken.hosts_unseen), ("ada", 255));
    let revision = alerts.baselines_revision();
    let compared = alerts.baseline_ports("shop").unwrap();
    let address: IpAddr = "10.99.2.10".parse().unwrap();
    assert_eq!(
        compared.open[&(address, Protocol::Tcp)][&OFFICE],
        [443u16, 8001].into_iter().collect::<PortSet>()
    );
    assert!(compared.seen[&DMZ].contains(address), "nothing is open from there, and that is known");

    let now = [
        row(OFFICE, "10.99.2.10", PortState::Open, "443,8002"),
        row(OFFICE, "10.99.2.10", PortState::Closed, "8000-8001,8003-8100"),
        row(DMZ, "10.99.2.10", PortState::Open, "8050"),
        // Never looked at before: nothing to compare with.
        row(OFFICE, "10.99.2.20", PortState::Open, "8001"),
    ];
    let survey = survey(&alerts, &now);
    let shown = alerts.baseline("shop").unwrap().to_wire(&survey, alerts.context());
    assert_eq!(
        differences(&shown),
        ["new 8002 from office-1", "vanished 8001 from office-1", "new 8050 from dmz-1"]
    );

    let accept = |alerts: &mut Alerts, hosts: &[&str]| {
        let hosts: Vec<HostPort> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        alerts.accept_baseline(&survey, &hosts, "grace", at(60))
    };
    let one = accept(&mut alerts, &["10.99.2.10:8002"]).unwrap();
    assert_eq!(differences(&one), ["vanished 8001 from office-1", "new 8050 from dmz-1"]);
    assert_eq!(one.author, "ada");
    assert!(alerts.baselines_revision() > revision);
    let error = accept(&mut alerts, &["10.99.2.77"]).unwrap_err().to_string();
    assert!(error.contains("has looked at 10.99.2.77"), "{error}");
    let host = accept(&mut alerts, &["10.99.2.10"]).unwrap();
    assert!(differences(&host).is_empty());
    let all = accept(&mut alerts, &[]).unwrap();
    assert_eq!((all.author.as_str(), all.ports.len()), ("grace", 4));

    let mut disk = Disk::default();
    let again = restarted(&mut alerts, &mut disk, at(61));
    assert_eq!(again.baseline("shop").unwrap(), alerts.baseline("shop").unwrap());
}

#[test]
fn silence_over_udp_is_no_difference() {
    let mut udp = check("shop");
    udp.ports.watch = ports("U:161");
    let mut alerts = with_checks(vec![udp]);
    let row = |state| InventoryRow {
        protocol: Protocol::Udp,
        ports: PortSet::single(161),
        ..row(OFFICE, "10.99.2.10", state, "161")
    };
    alerts.take_baseline(&survey(&alerts, &[row(PortState::Open)]), "ada", at(0)).unwrap();
    let shown = |state| {
        let survey = survey(&alerts, &[row(state)]);
        differences(&alerts.baseline("shop").unwrap().to_wire(&survey, alerts.context()))
    };
    assert!(shown(PortState::OpenFiltered).is_empty());
    assert_eq!(shown(PortState::Closed), ["vanished 161 from office-1"]);
}

#[test]
fn what_cannot_be_taken() {
    let mut unwatched = check("shop");
    unwatched.ports.watch = PortSpec::default();
    let mut alerts = with_checks(vec![unwatched, check("other")]);
    let error = alerts.baseline_scope("shop").unwrap_err().to_string();
    assert!(error.contains("add `watch = "), "{error}");
    assert!(matches!(alerts.baseline_scope("no"), Err(AlertsError::Unknown(Thing::Check, _))));
    assert!(matches!(alerts.baseline("other"), Err(AlertsError::Unknown(Thing::Baseline, _))));
    let nothing = Survey::new(alerts.baseline_scope("other").unwrap());
    let error = alerts.take_baseline(&nothing, "ada", at(0)).unwrap_err().to_string();
    assert!(error.contains("portolan check run other"), "{error}");
    for text in ["", "10.0.0.1:", "10.0.0.1:99999", "shop", "fd00::1:22:"] {
        assert!(text.parse::<HostPort>().is_err(), "{text}");
    }
    let v6: HostPort = "[fd00::1]:22".parse().unwrap();
    assert_eq!((v6.address, v6.port), ("fd00::1".parse().unwrap(), Some(22)));
}

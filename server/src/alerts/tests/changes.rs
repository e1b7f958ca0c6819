//! Announced changes: exactly what is announced does not page.

use super::*;
use crate::alerts::changes::ExpectedChange;

fn expect(from: &str, target: &str, ports: &str, state: v1::PortState) -> v1::ChangeExpectation {
    v1::ChangeExpectation {
        from: from.into(),
        target: target.into(),
        protocol: v1::Protocol::Tcp.into(),
        ports: ports.into(),
        state: state.into(),
        before: Vec::new(),
        after: Vec::new(),
    }
}

fn request(expectations: Vec<v1::ChangeExpectation>) -> v1::OpenChangeRequest {
    v1::OpenChangeRequest {
        name: "CHG31337".into(),
        expectations,
        lasts_ms: 7_200_000,
        reason: "rollout".into(),
    }
}

fn open(alerts: &mut Alerts, expectations: Vec<v1::ChangeExpectation>, now: Timestamp) {
    let change = ExpectedChange::read(&request(expectations), "ada", now).unwrap();
    alerts.open_change(change, now).unwrap();
}

/// tcp/23 is open and must be closed, as these see it.
fn telnet(from: &[SatelliteId]) -> Transition {
    let sights = from.iter().map(|id| sight(*id, Some(PortState::Open), true)).collect();
    Transition { sights, ..step(Expectation::Closed, 23, State::Firing, PortState::Open) }
}

#[test]
fn what_is_announced_is_held_back_and_pages_when_the_change_is_over() {
    for end in [None, Some(7200)] {
        let mut alerts = alerts();
        open(&mut alerts, vec![expect("office", "10.99.2.10", "22-23", v1::PortState::Open)], at(0));
        alerts.apply(&[telnet(&[OFFICE])], at(1));
        assert_eq!(only(&alerts).held_back_by, ["change CHG31337"]);
        assert_eq!(alerts.take_timeline().len(), 1, "it stands in history all the same");
        let mut disk = Disk::default();
        let mut alerts = restarted(&mut alerts, &mut disk, at(2));
        assert!(told(&mut alerts).is_empty());
        match end {
            None => drop(alerts.close_change("CHG31337", at(60)).unwrap()),
            Some(end) => alerts.tick([], at(end)),
        }
        assert_eq!(told(&mut alerts), ["released PortOpen 23"]);
        assert_eq!(firing(&alerts), 1);
        assert!(alerts.changes(false, at(7200)).is_empty());
        let closed = &alerts.changes(true, at(7200))[0];
        assert_eq!(closed.closed_at_ms, at(end.unwrap_or(60)).as_millisecond());
        assert!(alerts.close_change("CHG31337", at(7200)).is_err());
    }
}

#[test]
fn anything_else_pages() {
    let covered = |expectations, transition: Transition| {
        let mut alerts = alerts();
        open(&mut alerts, expectations, at(0));
        alerts.apply(&[transition], at(1));
        firing(&alerts) == 0
    };
    let state = v1::PortState::Open;
    assert!(covered(vec![expect("office-1", "10.99.2.0/24", "23", state)], telnet(&[OFFICE])));
    assert!(covered(vec![expect("*", "10.99.2.10", "23", state)], telnet(&[OFFICE, DMZ])));
    let both = vec![expect("office", "10.99.2.10", "23", state), expect("dmz", "10.99.2.10", "23", state)];
    assert!(covered(both, telnet(&[OFFICE, DMZ])));
    // Another vantage point, address, port, protocol, state.
    assert!(!covered(vec![expect("office", "10.99.2.10", "23", state)], telnet(&[OFFICE, DMZ])));
    assert!(!covered(vec![expect("office", "10.99.2.11", "23", state)], telnet(&[OFFICE])));
    assert!(!covered(vec![expect("office", "10.99.2.10", "24", state)], telnet(&[OFFICE])));
    let udp = v1::ChangeExpectation {
        protocol: v1::Protocol::Udp.into(),
        ..expect("office", "10.99.2.10", "23", state)
    };
    assert!(!covered(vec![udp], telnet(&[OFFICE])));
    assert!(!covered(vec![expect("office", "10.99.2.10", "23", v1::PortState::Closed)], telnet(&[OFFICE])));
    // A port that goes away.
    assert!(covered(vec![expect("office", "10.99.2.10", "80", v1::PortState::Filtered)], shut(80)));
    assert!(!covered(vec![expect("office", "10.99.2.10", "80", v1::PortState::Closed)], shut(80)));
}

#[test]
fn a_vantage_point_that_was_not_announced_releases_it() {
    let mut alerts = alerts();
    open(&mut alerts, vec![expect("office", "10.99.2.10", "23", v1::PortState::Open)], at(0));
    alerts.apply(&[telnet(&[OFFICE])], at(1));
    told(&mut alerts);
    alerts.apply(&[Transition { from: State::Firing, ..telnet(&[OFFICE, DMZ]) }], at(2));
    assert_eq!(told(&mut alerts), ["changed PortOpen 23", "released PortOpen 23"]);
}

#[test]
fn a_host_that_restarts_is_announced_by_all_its_ports() {
    let down = |udp: bool| {
        let mut alerts = alerts();
        let mut expectations = vec![expect("office", "10.99.2.10", "80,443", v1::PortState::Filtered)];
        if udp {
            expectations.push(v1::ChangeExpectation {
                protocol: v1::Protocol::Udp.into(),
                ..expect("*", "10.99.2.10", "53", v1::PortState::Filtered)
            });
        }
        open(&mut alerts, expectations, at(0));
        alerts.apply(&[host(State::Firing)], at(1));
        firing(&alerts) == 0
    };
    assert!(down(true));
    assert!(!down(false));
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let one = || expect("office", "10.99.2.10", "23", v1::PortState::Open);
    let refused = |request: v1::OpenChangeRequest, why: &str| {
        let error = ExpectedChange::read(&request, "ada", at(0)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(request(Vec::new()), "1 to 100");
    refused(v1::OpenChangeRequest { name: "a b".into(), ..request(vec![one()]) }, "without spaces");
    refused(v1::OpenChangeRequest { lasts_ms: 1000, ..request(vec![one()]) }, "1 minute to 30 days");
    refused(request(vec![expect("", "10.99.2.10", "23", v1::PortState::Open)]), "from where?");
    refused(request(vec![expect("office", "10.99.2.10/24", "23", v1::PortState::Open)]), "host bits");
    refused(request(vec![expect("office", "10.99.2.10", "U:23", v1::PortState::Open)]), "without T: or U:");
    refused(request(vec![expect("office", "10.99.2.10", "", v1::PortState::Open)]), "office->10.99.2.10:");
    refused(
        request(vec![expect("office", "10.99.2.10", "23", v1::PortState::OpenFiltered)]),
        "open, closed or filtered",
    );
    let mut alerts = alerts();
    let read = |expectation| ExpectedChange::read(&request(vec![expectation]), "ada", at(0)).unwrap();
    let nowhere = expect("offfice", "10.99.2.10", "23", v1::PortState::Open);
    let error = alerts.open_change(read(nowhere), at(0)).unwrap_err().to_string();
    assert!(error.contains("no segment and no satellite is called `offfice`"), "{error}");
    alerts.open_change(read(one()), at(0)).unwrap();
    assert!(matches!(alerts.open_change(read(one()), at(1)), Err(AlertsError::Exists(_))));
    alerts.close_change("CHG31337", at(2)).unwrap();
    let again = ExpectedChange { opened_at: at(3), ..read(one()) };
    alerts.open_change(again, at(3)).unwrap();
    assert_eq!(alerts.changes(true, at(3)).len(), 2);
}

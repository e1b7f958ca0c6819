//! Alerts about satellites and about checks without evidence.

use super::*;

fn counts(unknown: u64) -> [CheckCounts<'static>; 1] {
    [CheckCounts { check: "shop", unknown }]
}

#[test]
fn a_satellite_is_one_alert() {
    let mut alerts = alerts();
    alerts.satellite(OFFICE, Some(at(-30)), at(0));
    alerts.satellite(OFFICE, Some(at(-30)), at(1));
    assert_eq!(told(&mut alerts), ["firing SatelliteOffline"]);
    let alert = only(&alerts);
    assert_eq!(alert.summary, "satellite office-1 is offline: nothing is seen from there for 1 check");
    assert_eq!(alert.command, "portolan satellite show office-1");
    assert_eq!((alert.severity.as_str(), alert.labels["segment"].as_str()), ("critical", "office"));
    assert_eq!(alert.labels["satellite"], "office-1");
    assert_eq!(alert.since_at_ms, at(-30).as_millisecond());
    let mut disk = Disk::default();
    let mut again = restarted(&mut alerts, &mut disk, at(2));
    again.satellite(OFFICE, Some(at(-30)), at(32));
    assert!(told(&mut again).is_empty());
    again.satellite(OFFICE, None, at(40));
    assert_eq!(told(&mut again), ["resolved SatelliteOffline"]);
}

#[test]
fn only_satellites_with_checks_are_missed() {
    let mut alerts = with_checks(Vec::new());
    alerts.satellite(OFFICE, Some(at(0)), at(30));
    assert!(alerts.current(&[]).is_empty());
    alerts.set_context(Arc::new(context(vec![check("shop")])), at(40));
    assert_eq!(only(&alerts).labels["alertname"], "SatelliteOffline");
    alerts.set_context(Arc::new(context(vec![CompiledCheck { paused: true, ..check("shop") }])), at(50));
    assert_eq!(told(&mut alerts), ["firing SatelliteOffline", "resolved SatelliteOffline"]);
}

#[test]
fn an_unknown_check_is_told_after_three_intervals() {
    let mut alerts = alerts();
    alerts.satellite(OFFICE, None, at(0));
    alerts.tick(counts(3), at(0));
    alerts.tick(counts(3), at(90));
    assert!(alerts.current(&[]).is_empty());
    alerts.tick(counts(4), at(91));
    assert_eq!(
        only(&alerts).summary,
        "of 4 ports of check shop nothing is known: no satellite of it says anything"
    );
    assert_eq!(only(&alerts).command, "portolan check show shop");
    let id = only(&alerts).id;
    alerts.tick(counts(0), at(92));
    let steps = alerts.show(&id).unwrap().transitions;
    let steps: Vec<_> = steps.iter().map(|step| (step.from(), step.to(), step.words.as_str())).collect();
    use v1::CheckState::{Ok, Unknown};
    assert_eq!(steps, [(Unknown, Ok, "evidence is back"), (Ok, Unknown, "no recent evidence")]);
    assert_eq!(told(&mut alerts), ["firing CheckUnknown", "resolved CheckUnknown"]);
    // It begins anew.
    alerts.tick(counts(3), at(93));
    alerts.tick(counts(3), at(180));
    assert!(alerts.current(&[]).is_empty());
}

#[test]
fn a_check_whose_satellites_are_missed_is_no_alert_of_its_own() {
    let mut alerts = alerts();
    alerts.tick(counts(3), at(0));
    alerts.satellite(OFFICE, Some(at(0)), at(30));
    alerts.satellite(DMZ, Some(at(0)), at(30));
    for second in 31..2000 {
        alerts.tick(counts(3), at(second));
    }
    assert_eq!(told(&mut alerts), ["firing SatelliteOffline", "firing SatelliteOffline"]);
    alerts.satellite(DMZ, None, at(2000));
    alerts.tick(counts(3), at(2200));
    assert_eq!(told(&mut alerts), ["resolved SatelliteOffline"], "the other one is missed still");
    // Who is back has time to look.
    alerts.satellite(OFFICE, None, at(2201));
    alerts.tick(counts(3), at(2291));
    assert_eq!(told(&mut alerts), ["resolved SatelliteOffline"]);
    alerts.tick(counts(3), at(2292));
    assert_eq!(told(&mut alerts), ["firing CheckUnknown"]);
}

#[test]
fn a_satellite_that_is_back_has_three_intervals_also_of_a_check_that_runs_rarely() {
    let every = |hours: u64| Schedule::Every(Duration::from_secs(hours * 3600));
    let mut alerts = with_checks(vec![CompiledCheck { schedule: every(6), ..check("shop") }]);
    let hours = |hours: i64| at(hours * 3600);
    alerts.satellite(OFFICE, None, hours(0));
    alerts.satellite(OFFICE, Some(hours(0)), hours(1));
    for hour in 1..17 {
        alerts.tick(counts(3), hours(hour));
    }
    alerts.satellite(OFFICE, None, hours(17));
    for hour in 17..=35 {
        alerts.tick(counts(3), hours(hour));
        // That it is online is no news.
        alerts.satellite(OFFICE, None, hours(hour));
    }
    assert_eq!(told(&mut alerts), ["firing SatelliteOffline", "resolved SatelliteOffline"]);
    alerts.tick(counts(3), hours(36));
    assert_eq!(told(&mut alerts), ["firing CheckUnknown"]);
}

#[test]
fn a_check_without_satellites_is_told() {
    // Nobody ever joined; and of the other there is nobody.
    let nobody = CompiledCheck { satellites: Vec::new(), ..check("nobody") };
    let mut alerts = with_checks(vec![check("shop"), nobody]);
    let all = [CheckCounts { check: "shop", unknown: 3 }, CheckCounts { check: "nobody", unknown: 3 }];
    alerts.tick(all, at(0));
    alerts.tick(all, at(90));
    assert!(alerts.current(&[]).is_empty());
    alerts.tick(all, at(91));
    let mut told: Vec<_> =
        alerts.current(&[]).into_iter().map(|alert| (alert.summary, alert.severity)).collect();
    told.sort();
    let wanted = [
        "of 3 ports of check nobody nothing is known: it has no satellite",
        "of 3 ports of check shop nothing is known: no satellite of it says anything",
    ];
    assert_eq!(told, wanted.map(|text| (text.to_owned(), "warning".to_owned())));
}

#[test]
fn a_satellite_that_was_revoked_leaves_its_check_unknown() {
    let mut alerts = alerts();
    alerts.satellite(OFFICE, Some(at(0)), at(30));
    alerts.tick(counts(3), at(31));
    alerts.set_context(
        Arc::new(context(vec![CompiledCheck { satellites: Vec::new(), ..check("shop") }])),
        at(60),
    );
    alerts.tick(counts(3), at(60));
    alerts.tick(counts(3), at(151));
    assert_eq!(
        told(&mut alerts),
        ["firing SatelliteOffline", "resolved SatelliteOffline", "firing CheckUnknown"]
    );
}

#[test]
fn a_clock_that_is_set_makes_nobody_wait_for_longer_or_less() {
    for hours in [1, -1] {
        let mut alerts = alerts();
        alerts.satellite(OFFICE, None, at(0));
        alerts.tick(counts(3), at(0));
        alerts.clock_was_set(SignedDuration::from_hours(hours));
        alerts.tick(counts(3), at(hours * 3600 + 90));
        assert!(alerts.current(&[]).is_empty());
        alerts.tick(counts(3), at(hours * 3600 + 91));
        assert_eq!(only(&alerts).labels["alertname"], "CheckUnknown");
    }
}

#[test]
fn an_offline_satellite_holds_back_what_was_told_of_its_checks() {
    let mut alerts = alerts();
    alerts.satellite(DMZ, None, at(0));
    for second in [0, 100] {
        alerts.tick(counts(3), at(second));
    }
    alerts.satellite(OFFICE, Some(at(100)), at(130));
    let unknown = &alerts.current(&["alertname=CheckUnknown".parse().unwrap()])[0];
    assert_eq!(unknown.held_back_by, ["satellite office-1"]);
    assert_eq!(firing(&alerts), 1);
    told(&mut alerts);
    alerts.satellite(OFFICE, None, at(200));
    assert_eq!(told(&mut alerts), ["resolved SatelliteOffline", "released CheckUnknown"]);
}

#[test]
fn a_satellite_that_was_revoked_keeps_its_name() {
    let mut alerts = alerts();
    let by =
        |satellite| Transition { sights: vec![sight(satellite, Some(PortState::Closed), true)], ..shut(443) };
    let gone = SatelliteId(Uuid::from_u128(9));
    alerts.apply(&[by(gone)], at(0));
    assert_eq!(only(&alerts).satellites, [gone.to_string()]);
    let former = BTreeMap::from([(gone, "attic-1".to_owned())]);
    alerts.set_context(Arc::new(context(vec![check("shop")]).with_former(former)), at(1));
    let alert = only(&alerts);
    assert_eq!(
        (alert.satellites, alert.sights[0].satellite.as_str()),
        (vec!["attic-1".to_owned()], "attic-1")
    );
    assert_eq!(alert.command, "portolan history 10.99.2.10:443", "it cannot be asked to look");
}

//! One alert from its beginning to its end, what it says, and what survives a restart.

use super::*;

#[test]
fn a_fault_fires_once_and_says_what_it_is() {
    let mut alerts = alerts();
    let open = Transition { since: at(-5), ..step(Expectation::Closed, 23, State::Firing, PortState::Open) };
    alerts.apply(std::slice::from_ref(&open), at(10));
    assert_eq!(told(&mut alerts), ["firing PortOpen 23"]);
    let alert = only(&alerts);
    assert_eq!(alert.summary, "tcp/23 on 10.99.2.10 is open and must be closed, as seen from office-1");
    assert_eq!(
        alert.command,
        "portolan scan 10.99.2.10 -p 23 --from office-1\nportolan history 10.99.2.10:23"
    );
    assert_eq!((alert.expected.as_str(), alert.observed.as_str()), ("closed", "open"));
    assert_eq!(alert.severity, "critical");
    assert_eq!(alert.satellites, ["office-1"]);
    assert_eq!((alert.since_at_ms, alert.fired_at_ms), (at(-5).as_millisecond(), at(10).as_millisecond()));
    assert_eq!(alert.confidence, "2 looks in a row from 1 of 1 vantage point with recent evidence");
    assert_eq!(alert.sights[0].rtts_us, [400, 0, 412]);
    let labels: BTreeMap<_, _> = alert.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let wanted = [
        ("address", "10.99.2.10"),
        ("alertname", "PortOpen"),
        ("check", "shop"),
        ("port", "23"),
        ("protocol", "tcp"),
        ("segment", "dmz"),
        ("severity", "critical"),
        ("target", "10.99.2.10"),
        ("team", "shop"),
        ("tenant", "default"),
    ];
    assert_eq!(labels, BTreeMap::from(wanted));
    // The same again is nothing new.
    alerts.apply(&[Transition { from: State::Firing, ..open.clone() }], at(11));
    assert!(told(&mut alerts).is_empty());
    assert_eq!(alerts.take_timeline().len(), 1, "not even to the timeline in the same second");
    alerts.apply(&[Transition { from: State::Firing, at: at(1), ..open }], at(11));
    assert_eq!(alerts.take_timeline().len(), 1);
}

#[test]
fn every_kind_has_its_words() {
    let mut alerts = alerts();
    let baseline = |open, state| Transition {
        expected: Expected::Baseline { open },
        ..step(Expectation::Open, if open { 8001 } else { 8002 }, State::Firing, state)
    };
    let named = Transition {
        target: "shop.internal".into(),
        key: key("shop", "fd00::10", Some(443)),
        sights: vec![
            sight(OFFICE, Some(PortState::Closed), true),
            sight(DMZ, Some(PortState::Filtered), true),
        ],
        ..shut(443)
    };
    alerts.apply(
        &[
            named,
            step(Expectation::Blocked, 3306, State::Firing, PortState::Closed),
            baseline(true, PortState::Closed),
            baseline(false, PortState::Open),
            host(State::Firing),
        ],
        at(1),
    );
    let mut summaries: Vec<(String, String, String)> = alerts
        .current(&[])
        .into_iter()
        .map(|alert| (alert.labels["alertname"].clone(), alert.severity, alert.summary))
        .collect();
    summaries.sort();
    let wanted = [
        (
            "BaselineNew",
            "critical",
            "tcp/8002 on 10.99.2.10 is open and was not in the baseline, as seen from office-1",
        ),
        (
            "BaselineVanished",
            "warning",
            "tcp/8001 on 10.99.2.10 is closed and was open in the baseline, as seen from office-1",
        ),
        ("HostDown", "warning", "10.99.2.10 is silent and must answer, as seen from office-1"),
        (
            "PortNotOpen",
            "warning",
            "tcp/443 on fd00::10 (shop.internal) is closed, filtered and must be open, as seen from office-1 and dmz-1",
        ),
        (
            "PortReachable",
            "critical",
            "tcp/3306 on 10.99.2.10 is reachable (closed) and must be blocked, as seen from office-1",
        ),
    ];
    let wanted = wanted.map(|(name, severity, text)| (name.to_owned(), severity.to_owned(), text.to_owned()));
    assert_eq!(summaries, wanted);
    let command = |name: &str| {
        let current = alerts.current(&[format!("alertname={name}").parse().unwrap()]);
        current[0].command.clone()
    };
    assert_eq!(
        command("PortNotOpen"),
        "portolan scan fd00::10 -p 443 --from office-1,dmz-1\nportolan history [fd00::10]:443"
    );
    assert_eq!(
        command("HostDown"),
        "portolan scan 10.99.2.10 -p T:80,443,U:53 --from office-1\nportolan history 10.99.2.10"
    );
}

#[test]
fn the_segment_is_the_narrowest_of_the_target_or_else_that_of_who_sees_it() {
    let mut alerts = alerts();
    let of = |address: &str| Transition { key: key("shop", address, Some(443)), ..shut(443) };
    alerts
        .apply(&[of("10.99.2.200"), Transition { target: "shop.internal".into(), ..of("192.0.2.1") }], at(1));
    let segments: Vec<String> =
        alerts.current(&[]).iter().map(|alert| alert.labels["segment"].clone()).collect();
    assert_eq!(segments, ["dmz-inner", "office"]);
}

#[test]
fn it_resolves_by_itself_and_is_the_same_within_the_hold_off() {
    let mut alerts = alerts();
    alerts.apply(&[shut(443)], at(0));
    let first = only(&alerts);
    alerts.acknowledge(&first.id, "ada", "looking", at(5)).unwrap();
    alerts.apply(&[healed(443)], at(60));
    assert_eq!(
        told(&mut alerts),
        ["firing PortNotOpen 443", "acknowledged PortNotOpen 443", "resolved PortNotOpen 443"]
    );
    let resolved = alerts.show(&first.id).unwrap();
    assert_eq!(resolved.status(), v1::alert::Status::Resolved);
    assert_eq!(resolved.acknowledged_by, "ada");
    assert!(resolved.summary.ends_with("; it is as expected again"), "{}", resolved.summary);
    assert!(alerts.acknowledge(&first.id, "ada", "", at(61)).is_err());

    let again = 60 + HOLD_OFF.as_secs() - 1;
    alerts.apply(&[shut(443)], at(again));
    let second = only(&alerts);
    assert_eq!(second.id, first.id);
    assert_eq!(second.status(), v1::alert::Status::Firing, "what was taken on is over");
    assert_eq!((second.acknowledged_by.as_str(), second.acknowledged_at_ms), ("", 0));
    assert_eq!(second.comments.len(), 1);
    assert_eq!(second.transitions.len(), 3);

    alerts.apply(&[healed(443)], at(again));
    alerts.apply(&[shut(443)], at(again + HOLD_OFF.as_secs()));
    let third = only(&alerts);
    assert_ne!(third.id, first.id);
    assert_eq!(third.fingerprint, first.fingerprint);
    assert_eq!(third.status(), v1::alert::Status::Firing);
    assert!(third.comments.is_empty());
}

#[test]
fn what_happens_twice_at_once_is_told_as_it_was() {
    let mut alerts = alerts();
    alerts.apply(&[shut(443), healed(443), shut(443)], at(0));
    let events = alerts.take_events();
    let told: Vec<_> = events.iter().map(|change| (change.kind, change.alert.status())).collect();
    assert_eq!(
        told,
        [
            (ChangeKind::Firing, v1::alert::Status::Firing),
            (ChangeKind::Resolved, v1::alert::Status::Resolved),
            (ChangeKind::Firing, v1::alert::Status::Firing),
        ]
    );
}

#[test]
fn unknown_is_no_end() {
    let mut alerts = alerts();
    let unknown = || Transition { to: State::Unknown, from: State::Firing, sights: Vec::new(), ..shut(443) };
    alerts.apply(&[shut(443)], at(0));
    alerts.apply(&[unknown()], at(100));
    let alert = only(&alerts);
    assert!(alert.unknown);
    assert!(alert.summary.ends_with("; whether it still is so is not known"), "{}", alert.summary);
    assert_eq!(alert.satellites, ["office-1"], "who said so last");
    alerts.apply(&[Transition { from: State::Unknown, ..shut(443) }], at(200));
    assert!(!only(&alerts).unknown);
    assert_eq!(
        told(&mut alerts),
        ["firing PortNotOpen 443", "changed PortNotOpen 443", "changed PortNotOpen 443"]
    );
    // Of what did not fire, nothing is raised.
    alerts.apply(
        &[of(
            "shop",
            Transition {
                from: State::Ok,
                ..Transition { key: key("shop", "10.99.2.11", Some(443)), ..unknown() }
            },
        )],
        at(300),
    );
    assert_eq!(alerts.current(&[]).len(), 1);
}

#[test]
fn flapping_is_one_alert_that_says_so() {
    let mut alerts = alerts();
    alerts.apply(&[shut(443)], at(0));
    let flaps = Transition { from: State::Firing, flapping: true, ..shut(443) };
    for second in 1..20 {
        alerts.apply(std::slice::from_ref(&flaps), at(second));
    }
    assert_eq!(told(&mut alerts), ["firing PortNotOpen 443", "changed PortNotOpen 443"]);
    let alert = only(&alerts);
    assert!(alert.flapping && alert.summary.ends_with("; it is flapping"), "{}", alert.summary);
    assert_eq!(alert.transitions.len(), 2);
    assert!(alert.transitions[0].words.ends_with(", flapping"));
    // It is calm, and nobody knows how it is.
    let calm = Transition { from: State::Firing, to: State::Unknown, ..shut(443) };
    alerts.apply(&[calm], at(1000));
    let alert = only(&alerts);
    assert!(alert.unknown && !alert.flapping, "{}", alert.summary);
}

#[test]
fn what_is_resolved_says_who_ever_saw_it() {
    let mut alerts = alerts();
    let by = |sights: Vec<Sight>| Transition { from: State::Firing, sights, ..shut(443) };
    let sees = |satellite, state| sight(satellite, Some(state), true);
    alerts.apply(&[shut(443)], at(0));
    alerts.apply(&[by(vec![sees(OFFICE, PortState::Filtered), sees(DMZ, PortState::Closed)])], at(1));
    alerts.apply(&[by(vec![sees(DMZ, PortState::Closed)])], at(2));
    assert_eq!(only(&alerts).satellites, ["dmz-1"]);
    let mut again = restarted(&mut alerts, &mut Disk::default(), at(3));
    let id = only(&again).id;
    again.apply(&[healed(443)], at(4));
    let resolved = again.show(&id).unwrap();
    assert_eq!(resolved.satellites, ["office-1", "dmz-1"]);
    assert_eq!(
        resolved.summary,
        "tcp/443 on 10.99.2.10 was closed, filtered and must be open, as seen from office-1 and dmz-1; it is as expected again"
    );
    again.apply(&[by(vec![sees(DMZ, PortState::Closed)])], at(5));
    assert_eq!(only(&again).satellites, ["dmz-1"], "it begins anew");
    again.apply(&[healed(443)], at(6));
    assert_eq!(again.show(&id).unwrap().satellites, ["dmz-1"]);
}

#[test]
fn words_are_never_missing() {
    let mut alerts = alerts();
    // Nobody who saw it counts any more; or the last look is not confirmed.
    let nobody = Transition { sights: Vec::new(), from: State::Unknown, ..shut(443) };
    let back = Transition { sights: vec![sight(OFFICE, Some(PortState::Open), false)], ..shut(80) };
    alerts.apply(&[nobody, back], at(0));
    let told =
        alerts.current(&[]).into_iter().map(|alert| (alert.summary, alert.transitions[0].words.clone()));
    let wanted = [
        ("tcp/443 on 10.99.2.10 is not as expected and must be open", "not as expected: open"),
        (
            "tcp/80 on 10.99.2.10 is not as expected and must be open",
            "open as expected, not confirmed yet (from office-1)",
        ),
    ];
    assert_eq!(told.collect::<Vec<_>>(), wanted.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[test]
fn late_faults_are_marked() {
    let mut alerts = alerts();
    alerts.apply(&[Transition { late: true, at: at(-3600), since: at(-3600), ..shut(443) }], at(0));
    let alert = only(&alerts);
    assert!(alert.late && alert.transitions[0].late);
    assert_eq!(alert.since_at_ms, at(-3600).as_millisecond());
    // They lasted as long as they were seen to last, not until that became known.
    alerts.apply(&[Transition { late: true, at: at(-3000), since: at(-3000), ..healed(443) }], at(1));
    let alert = alerts.show(&alert.id).unwrap();
    assert_eq!([alert.resolved_at_ms, alert.changed_at_ms], [at(-3000), at(1)].map(|at| at.as_millisecond()));
}

#[test]
fn what_leaves_the_policy_resolves() {
    let mut alerts = alerts();
    alerts.apply(&[shut(443), shut(80)], at(0));
    alerts.apply(&[Transition { gone: true, ..healed(443) }], at(1));
    let id = alerts.list(&ListQuery { resolved_since: Some(at(0)), ..ListQuery::default() })[1].id.clone();
    let gone = alerts.show(&id).unwrap();
    assert!(gone.summary.ends_with("; it is not expected any more"), "{}", gone.summary);
    assert_eq!(gone.transitions[0].words, "not expected any more");
    told(&mut alerts);
    // Without the evaluator's word, as after a restart: the port, the target, the check.
    let without = |change: fn(&mut CompiledCheck)| {
        let mut changed = check("shop");
        change(&mut changed);
        Arc::new(context(vec![changed]))
    };
    alerts.set_context(without(|check| check.ports.closed = ports("999")), at(2));
    assert!(told(&mut alerts).is_empty());
    alerts.set_context(without(|check| check.exclude = vec!["10.99.2.10".into()]), at(3));
    assert_eq!(told(&mut alerts), ["resolved PortNotOpen 80"]);
    alerts.set_context(without(|_| {}), at(4));
    alerts.apply(&[shut(80)], at(5));
    alerts.set_context(without(|check| check.ports.open = ports("443")), at(6));
    alerts.apply(&[shut(443)], at(7));
    alerts.set_context(Arc::new(context(Vec::new())), at(8));
    assert_eq!(
        told(&mut alerts),
        [
            "firing PortNotOpen 80",
            "resolved PortNotOpen 80",
            "firing PortNotOpen 443",
            "resolved PortNotOpen 443"
        ]
    );
}

#[test]
fn another_expectation_of_the_same_port_is_another_alert() {
    let mut alerts = alerts();
    alerts.apply(&[shut(443)], at(0));
    alerts.apply(&[step(Expectation::Closed, 443, State::Firing, PortState::Open)], at(1));
    assert_eq!(
        told(&mut alerts),
        ["firing PortNotOpen 443", "resolved PortNotOpen 443", "firing PortOpen 443"]
    );
    assert_eq!(alerts.of_key(&key("shop", "10.99.2.10", Some(443))).unwrap().name, AlertName::PortOpen);
}

#[test]
fn labels_follow_the_policy() {
    let mut alerts = alerts();
    alerts.apply(&[shut(443)], at(0));
    let before = only(&alerts);
    told(&mut alerts);
    let mut changed = check("shop");
    changed.labels = BTreeMap::from([("team".into(), "web".into())]);
    changed.severity.open = portolan_policy::model::Severity::Critical;
    alerts.set_context(Arc::new(context(vec![changed])), at(1));
    let after = only(&alerts);
    assert_eq!((after.id, after.fingerprint), (before.id, before.fingerprint));
    assert_eq!((after.labels["team"].as_str(), after.severity.as_str()), ("web", "critical"));
    assert_eq!(told(&mut alerts), ["changed PortNotOpen 443"]);
}

#[test]
fn what_else_fires_on_the_host_is_named() {
    let mut alerts = with_checks(vec![check("shop"), check("telnet")]);
    let telnet = of("telnet", step(Expectation::Closed, 23, State::Firing, PortState::Open));
    alerts.apply(&[shut(443), telnet], at(0));
    let current = alerts.current(&["alertname=PortNotOpen".parse().unwrap()]);
    assert_eq!(current[0].others, ["PortOpen tcp/23 (check telnet)"]);
}

#[test]
fn everything_survives_a_restart_and_nothing_is_told_again() {
    let mut alerts = alerts();
    alerts.apply(&[shut(443), shut(80), host(State::Firing)], at(0));
    alerts.apply(&[step(Expectation::Closed, 23, State::Firing, PortState::Open)], at(1));
    alerts.apply(&[step(Expectation::Closed, 23, State::Ok, PortState::Closed)], at(2));
    let id = alerts.current(&[])[0].id.clone();
    alerts.acknowledge(&id, "ada", "seen", at(3)).unwrap();
    told(&mut alerts);
    let mut disk = Disk::default();
    let mut again = restarted(&mut alerts, &mut disk, at(10));
    assert!(told(&mut again).is_empty());
    assert!(again.take_writes().is_empty(), "nothing changed");
    assert_eq!(again.current(&[]), alerts.current(&[]));
    let all = ListQuery { resolved_since: Some(at(-1)), ..ListQuery::default() };
    assert_eq!(again.list(&all), alerts.list(&all));
    // What the evaluator tells anew of what fires already.
    again.apply(&[shut(443), shut(80), host(State::Firing)], at(11));
    assert!(told(&mut again).is_empty());
    // The hold-off too.
    again.apply(&[step(Expectation::Closed, 23, State::Firing, PortState::Open)], at(12));
    assert_eq!(again.list(&all).len(), 4);
}

#[test]
fn resolved_alerts_are_forgotten_after_a_week() {
    let mut alerts = alerts();
    alerts.apply(&[shut(443), healed(443), shut(80)], at(0));
    let all = ListQuery { resolved_since: Some(at(-1)), ..ListQuery::default() };
    let week = RESOLVED_FOR.as_secs();
    alerts.tick([], at(week - 1));
    assert_eq!(alerts.list(&all).len(), 2);
    alerts.tick([], at(week));
    assert_eq!(alerts.list(&all).len(), 1, "what still fires stays");
    let mut disk = Disk::default();
    disk.write(&mut alerts);
    assert_eq!(disk.0.len(), 1);
}

#[test]
fn ids_are_found_by_either_end_and_comments_are_bounded() {
    let mut alerts = alerts();
    alerts.apply(&[shut(443), shut(80)], at(0));
    let [first, second] = <[v1::Alert; 2]>::try_from(alerts.current(&[])).unwrap();
    assert_eq!(alerts.show(&first.id).unwrap().id, first.id);
    assert_eq!(alerts.show(&second.id[20..]).unwrap().id, second.id);
    assert_eq!(
        alerts.find("abc").unwrap_err().to_string(),
        "`abc` is too short: write 4 characters of the alert's id at least"
    );
    assert!(matches!(alerts.find(&first.id[..8]), Err(AlertsError::Ambiguous(..))));
    assert!(matches!(alerts.find("ffffffff"), Err(AlertsError::Unknown(Thing::Alert, _))));
    assert!(alerts.comment(&first.id, "ada", "  ", at(1)).is_err());
    assert!(alerts.comment(&first.id, "ada", &"x".repeat(1001), at(1)).is_err());
    for _ in 0..100 {
        alerts.comment(&first.id, "ada", "again", at(1)).unwrap();
    }
    assert!(matches!(alerts.comment(&first.id, "ada", "more", at(1)), Err(AlertsError::Full(_))));
    // Whoever took it on first keeps it.
    alerts.acknowledge(&second.id, "ada", "", at(2)).unwrap();
    assert_eq!(alerts.acknowledge(&second.id, "grace", "me too", at(3)).unwrap().acknowledged_by, "ada");
}

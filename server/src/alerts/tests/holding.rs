//! What holds alerts back, and what lets them go.

use super::*;

fn silence(matchers: &[&str], starts: i64, ends: i64) -> v1::AddSilenceRequest {
    v1::AddSilenceRequest {
        matchers: matchers.iter().map(|matcher| (*matcher).to_owned()).collect(),
        reason: "known".into(),
        starts_at_ms: if starts == 0 { 0 } else { at(starts).as_millisecond() },
        ends_at_ms: at(ends).as_millisecond(),
    }
}

#[test]
fn a_host_that_is_down_holds_back_its_ports() {
    let mut alerts = alerts();
    let telnet = step(Expectation::Closed, 23, State::Firing, PortState::Open);
    let elsewhere = Transition { key: key("shop", "10.99.2.11", Some(80)), ..shut(80) };
    alerts.apply(&[shut(80), telnet, elsewhere], at(0));
    alerts.apply(&[host(State::Firing), shut(443)], at(1));
    assert_eq!(
        told(&mut alerts),
        [
            "firing PortNotOpen 80",
            "firing PortOpen 23",
            "firing PortNotOpen 80",
            "firing HostDown",
            "firing PortNotOpen 443",
            "held-back PortNotOpen 80",
        ]
    );
    // What fired together with the host was held back when it was told.
    let held: Vec<_> = alerts.current(&[]).into_iter().filter(|a| !a.held_back_by.is_empty()).collect();
    assert_eq!(held.len(), 2);
    assert!(held.iter().all(|alert| alert.held_back_by == ["host 10.99.2.10"] && alert.expected == "open"));
    assert_eq!(firing(&alerts), 3);
    alerts.apply(&[host(State::Ok), healed(443)], at(2));
    assert_eq!(
        told(&mut alerts),
        ["resolved HostDown", "resolved PortNotOpen 443", "released PortNotOpen 80"]
    );
}

#[test]
fn a_check_holds_back_what_depends_on_it_through_others() {
    let mut alerts = with_checks(chain(&["router", "switch", "shop"]));
    alerts.apply(&[shut(443)], at(0));
    assert_eq!(told(&mut alerts), ["firing PortNotOpen 443"]);
    alerts.apply(&[of("router", shut(80))], at(1));
    assert_eq!(told(&mut alerts), ["firing PortNotOpen 80", "held-back PortNotOpen 443"]);
    assert_eq!(alerts.held_back_by("shop"), BTreeSet::from(["check router"]));
    // Somebody took it on: it is broken all the same.
    let router = alerts.current(&["check=router".parse().unwrap()])[0].id.clone();
    alerts.acknowledge(&router, "ada", "", at(2)).unwrap();
    alerts.apply(&[of("router", shut(443))], at(3));
    told(&mut alerts);
    alerts.apply(&[of("router", healed(80))], at(4));
    assert_eq!(told(&mut alerts), ["resolved PortNotOpen 80"], "one fault is left");
    alerts.apply(&[of("router", healed(443))], at(5));
    assert_eq!(told(&mut alerts), ["resolved PortNotOpen 443", "released PortNotOpen 443"]);
}

#[test]
fn circles_of_checks_end() {
    let mut checks = chain(&["a", "shop"]);
    checks[0].depend_on = vec!["shop".into()];
    let mut alerts = with_checks(checks);
    alerts.apply(&[shut(443)], at(0));
    assert_eq!(firing(&alerts), 1, "nothing holds itself back");
    alerts.apply(&[of("a", shut(443))], at(0));
    assert_eq!(firing(&alerts), 0);
}

#[test]
fn a_maintenance_window_comes_and_goes() {
    let mut alerts = alerts();
    // Saturday night: 2026-11-22 02:00 in Berlin is 01:00 UTC.
    let opens = "2026-11-22T01:00:00Z".parse::<Timestamp>().unwrap();
    let second = SignedDuration::from_secs(1);
    alerts.apply(&[shut(443)], opens - second);
    assert_eq!(firing(&alerts), 1);
    alerts.tick([], opens);
    assert_eq!(only(&alerts).held_back_by, ["maintenance patch night"]);
    // Without waiting for the tick.
    alerts.apply(&[shut(80)], opens + second);
    assert_eq!(firing(&alerts), 0);
    alerts.tick([], opens + SignedDuration::from_hours(2) - second);
    assert_eq!(firing(&alerts), 0);
    alerts.tick([], opens + SignedDuration::from_hours(2));
    assert_eq!(
        told(&mut alerts),
        [
            "firing PortNotOpen 443",
            "held-back PortNotOpen 443",
            "firing PortNotOpen 80",
            "released PortNotOpen 443",
            "released PortNotOpen 80",
        ]
    );
}

#[test]
fn a_window_is_of_the_labels_it_names() {
    let mut other = check("shop");
    other.labels.clear();
    let mut alerts = with_checks(vec![other]);
    alerts.apply(&[shut(443)], "2026-11-22T01:30:00Z".parse().unwrap());
    assert_eq!(firing(&alerts), 1);
}

#[test]
fn silences_hold_back_while_they_last() {
    let mut alerts = alerts();
    alerts.apply(&[shut(443), shut(80)], at(0));
    told(&mut alerts);
    let made = alerts.add_silence(&silence(&["port=~44.", "team=shop"], 0, 3600), "ada", at(1)).unwrap();
    assert_eq!((made.alerts, made.matchers.len()), (1, 2));
    assert_eq!(told(&mut alerts), ["held-back PortNotOpen 443"]);
    assert_eq!(alerts.list(&ListQuery { firing: true, ..ListQuery::default() })[0].port, 80);
    assert_eq!(alerts.current(&[]).len(), 2, "it stands in the list all the same");
    let mut disk = Disk::default();
    let mut alerts = restarted(&mut alerts, &mut disk, at(2));
    assert!(told(&mut alerts).is_empty());
    alerts.tick([], at(3599));
    assert!(told(&mut alerts).is_empty());
    alerts.tick([], at(3600));
    assert_eq!(told(&mut alerts), ["released PortNotOpen 443"]);
    assert!(alerts.silences(false, at(3600)).is_empty());
    assert_eq!(alerts.silences(true, at(3600)).len(), 1);
    alerts.tick([], at(3600 + 30 * 86_400));
    assert!(alerts.silences(true, at(0)).is_empty());
}

#[test]
fn a_silence_may_begin_later_and_be_expired() {
    let mut alerts = alerts();
    alerts.apply(&[shut(443)], at(0));
    let late = alerts.add_silence(&silence(&["check!=mail"], 60, 120), "ada", at(0)).unwrap();
    assert_eq!(firing(&alerts), 1);
    alerts.tick([], at(60));
    assert_eq!(firing(&alerts), 0);
    // The end of its id finds it; a second reason keeps the alert back.
    let other = alerts.add_silence(&silence(&["check=shop"], 0, 600), "ada", at(61)).unwrap();
    alerts.expire_silence(&late.id[24..], at(62)).unwrap();
    assert_eq!(only(&alerts).held_back_by, [format!("silence {}", other.id)]);
    assert!(matches!(alerts.expire_silence(&late.id, at(63)), Err(AlertsError::Untimely(_))));
    alerts.expire_silence(&other.id, at(64)).unwrap();
    assert_eq!(firing(&alerts), 1);
}

#[test]
fn silences_that_make_no_sense_are_refused() {
    let mut alerts = alerts();
    for (request, why) in [
        (silence(&[], 0, 60), "would hide everything"),
        (silence(&["check=a("], 60, 30), "before it begins"),
        (silence(&["check=~a("], 0, 60), "does not compile"),
        (silence(&["check"], 0, 60), "there is no ="),
        (silence(&["check=a"], 0, -5), "before it begins"),
        (silence(&["check=a"], 0, 400 * 86_400), "within a year"),
        (v1::AddSilenceRequest { reason: " ".into(), ..silence(&["check=a"], 0, 60) }, "needs a reason"),
        (v1::AddSilenceRequest { ends_at_ms: i64::MAX, ..silence(&["check=a"], 0, 60) }, "out of range"),
    ] {
        let error = alerts.add_silence(&request, "ada", at(0)).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(alerts.take_writes().is_empty());
}

/// Ten thousand alerts, hundreds of silences: every label of every one is looked at, and it is not slow.
#[test]
fn many_alerts_and_many_silences() {
    let mut alerts = alerts();
    let many: Vec<Transition> = (0..10_000u32)
        .map(|n| {
            let address = IpAddr::from([10, 99, 2, (n % 250) as u8]);
            let port = 10_000 + (n / 250) as u16;
            Transition {
                key: Key { check: "shop".into(), address, port: Some((Protocol::Tcp, port)) },
                ..shut(port)
            }
        })
        .collect();
    alerts.apply(&many, at(0));
    for n in 0..200 {
        alerts
            .add_silence(&silence(&[&format!("address=192.0.2.{n}"), "team=shop"], 0, 3600), "ada", at(1))
            .unwrap();
    }
    alerts.add_silence(&silence(&["address=10.99.2.7"], 0, 3600), "ada", at(1)).unwrap();
    assert_eq!(firing(&alerts), 10_000 - 40);
    let mut disk = Disk::default();
    disk.write(&mut alerts);
    let began = std::time::Instant::now();
    let mut again = disk.load();
    let mut wide = check("shop");
    wide.ports.open = ports("1-65535");
    again.set_context(Arc::new(context(vec![wide])), at(2));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(again.current(&[]).len(), 10_000);
    assert!(told(&mut again).is_empty());
    again.take_writes();
    again.apply(&many, at(3));
    assert!(told(&mut again).is_empty() && again.take_writes().is_empty());
    again.tick([], at(3600));
    assert_eq!(told(&mut again).len(), 40, "released");
}

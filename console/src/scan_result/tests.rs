use super::fixture::{down, end, event, finished, hosts, noon, one_vantage, result, started};
use super::*;

#[test]
fn a_scan_is_collected_and_ordered() {
    let scan = one_vantage();
    assert!(scan.is_whole() && scan.is_complete());
    assert_eq!(scan.scan_id, "01890a5d-ac96-774b-bcce-b302099a8057");
    assert_eq!(scan.elapsed().as_millis(), 12_300);
    assert_eq!(scan.satellites[0].segment, "office");
    let addresses: Vec<_> = scan.hosts.iter().map(|host| host.seen.address.to_string()).collect();
    assert_eq!(addresses, ["10.99.2.8", "10.99.2.9", "10.99.2.10", "10.99.2.11"]);
}

#[test]
fn what_is_missing_makes_it_incomplete() {
    let scan = |spoil: fn(&mut v1::SatelliteEnd)| {
        let mut last = end("a", 0, 0, 0);
        spoil(&mut last);
        result("22", &["a"], vec![started(&[("a", "x")]), event(Event::End(last)), finished()])
    };
    assert!(scan(|_| {}).is_complete());
    assert!(!scan(|end| end.refusals.push(v1::Refusal::default())).is_complete());
    assert!(!scan(|end| end.refusals_dropped = 1).is_complete());
    assert!(!scan(|end| end.unresolved.push("x: no such name".into())).is_complete());
    let offline = scan(|end| (end.complete, end.error) = (false, "it is offline".into()));
    assert!(!offline.is_complete());
    assert_eq!(offline.satellites[0].error.as_deref(), Some("it is offline"));
}

#[test]
fn an_interrupted_scan_says_so_for_every_satellite_that_was_not_done() {
    let mut scan = ScanResult::new("22".parse().unwrap(), &["a".into(), "b".into()], noon());
    for event in [
        started(&[("a", "x"), ("b", "y")]),
        hosts("a", &[down("10.0.0.1", "10.0.0.1", "22")]),
        event(Event::End(end("b", 0, 1, 4))),
    ] {
        scan.apply(event).unwrap();
    }
    scan.finish(true, noon());
    assert_eq!(scan.satellites[0].error.as_deref(), Some("interrupted"));
    assert_eq!(scan.satellites[1].error, None);
    assert!(!scan.is_whole() && !scan.is_complete());
}

#[test]
fn ports_come_in_order_whatever_the_runs() {
    let scan = one_vantage();
    let shop = &scan.hosts[2].seen;
    let open = port_lines(shop, false);
    assert_eq!(open.iter().map(|line| line.port).collect::<Vec<_>>(), [22, 80, 443]);
    assert_eq!(open[0].rtt_us, Some(412));
    let all = port_lines(shop, true);
    assert_eq!(all.len(), 1024);
    assert!(all.is_sorted_by_key(|line| line.port));
    assert_eq!((all[1023].state, all[1023].rtt_us), (PortState::Filtered, None));
}

#[test]
fn only_a_satellite_that_can_finds_out_who_is_there() {
    let satellite = |name: &str, words: &[&str]| v1::Satellite {
        name: name.into(),
        capabilities: words.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let satellites = vec![satellite("a", &["syn", "discover"]), satellite("b", &["connect"])];
    let started = v1::ScanStarted { satellites, ..Default::default() };
    let mut scan = ScanResult::new("22".parse().unwrap(), &["a".into(), "b".into()], noon());
    scan.apply(event(Event::Started(started))).unwrap();
    assert!(!scan.discovers_from("a"), "nobody wants it");
    scan.discovers = true;
    assert!(scan.discovers_from("a") && !scan.discovers_from("b") && !scan.discovers_from("c"));
}

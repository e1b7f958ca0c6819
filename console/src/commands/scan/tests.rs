use super::*;
use crate::scan_result::fixture::{end, event, finished, result, started};
use v1::scan_event::Event;

#[test]
fn every_kind_of_gap_is_warned_of() {
    let refusal = |ports: &str| v1::Refusal {
        target: "10.99.2.66".into(),
        ports: ports.into(),
        rule: "deny 10.99.2.66".into(),
    };
    let last = v1::SatelliteEnd {
        refusals: vec![refusal(""), refusal("9100-9107")],
        refusals_dropped: 7,
        unresolved: vec!["shop.intern: no such name".into()],
        ..end("office-1", 1, 1, 1)
    };
    let offline =
        v1::SatelliteEnd { satellite: "pci-1".into(), error: "it is offline".into(), ..Default::default() };
    let scan = result(
        "22",
        &["office-1", "pci-1"],
        vec![
            started(&[("office-1", "office"), ("pci-1", "pci")]),
            event(Event::End(last)),
            event(Event::End(offline)),
            finished(),
        ],
    );
    assert_eq!(
        warnings(&scan),
        [
            "office-1 refused 10.99.2.66: its scope says `deny 10.99.2.66`",
            "office-1 refused 10.99.2.66 on ports 9100-9107: its scope says `deny 10.99.2.66`",
            "office-1 refused 7 more",
            "office-1 cannot resolve shop.intern: no such name",
            "pci-1 took no part: it is offline",
        ]
    );
}

#[test]
fn a_wider_scope_is_the_advice_only_where_it_would_help() {
    let of = |rules: &[&str]| {
        let refusal = |rule: &&str| v1::Refusal {
            target: "224.0.0.1".into(),
            ports: String::new(),
            rule: (*rule).into(),
        };
        let refusals = rules.iter().map(refusal).collect();
        let last = v1::SatelliteEnd { refusals, ..end("a", 0, 0, 0) };
        is_any_scope_too_narrow(&result("22", &["a"], vec![event(Event::End(last)), finished()]))
    };
    assert!(!of(&[]) && !of(&["reserved address"]));
    assert!(of(&["reserved address", "deny 10.0.0.1"]) && of(&["not in allow"]));
}

#[test]
fn who_began_did_not_finish_and_who_did_not_took_no_part() {
    let lost = |satellite: &str| {
        let error = "it restarted during the scan".into();
        event(Event::End(v1::SatelliteEnd { satellite: satellite.into(), error, ..Default::default() }))
    };
    let progress = |probes_sent| {
        event(Event::Progress(v1::SatelliteProgress {
            satellite: "a".into(),
            hosts_total: 256,
            probes_sent,
            ..Default::default()
        }))
    };
    let of = |events: Vec<v1::ScanEvent>| {
        let events = std::iter::once(started(&[("a", "x")])).chain(events).collect();
        warnings(&result("22", &["a"], events)).remove(0)
    };
    assert_eq!(of(vec![lost("a"), finished()]), "a took no part: it restarted during the scan");
    assert_eq!(
        of(vec![progress(0), lost("a"), finished()]),
        "a did not finish: it restarted during the scan"
    );
    assert_eq!(of(vec![progress(9)]), "a did not finish: the scan broke off before it was done");
    assert_eq!(of(vec![]), "a did not finish: the scan broke off before it was done");
    let scan = result("22", &["a"], vec![started(&[("a", "x")]), progress(9), lost("a"), finished()]);
    assert_eq!((scan.satellites[0].hosts_total, scan.satellites[0].probes_sent), (256, 9));
}

#[test]
fn warnings_are_few_even_when_there_are_many() {
    let texts: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    let few = limited(texts.into_iter(), 5, "a refused");
    assert_eq!(few.len(), MAX_WARNINGS + 1);
    assert_eq!(few.last().unwrap(), "a refused 85 more");
}

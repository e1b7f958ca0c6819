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
fn warnings_are_few_even_when_there_are_many() {
    let texts: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    let few = limited(texts.into_iter(), 5, "a refused");
    assert_eq!(few.len(), MAX_WARNINGS + 1);
    assert_eq!(few.last().unwrap(), "a refused 85 more");
}

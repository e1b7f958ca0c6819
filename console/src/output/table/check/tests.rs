use super::*;
use crate::document::check::fixture::{answer as full, check};
use portolan_proto::v1;

#[test]
fn each_has_its_line() {
    let quiet = v1::Check {
        name: "mail-in".into(),
        state: v1::CheckState::Ok.into(),
        ok: 1200,
        firing: 0,
        unknown: 0,
        paused_by: "ada".into(),
        vantage_points: vec![],
        schedule: "0 2 * * SUN (Europe/Berlin)".into(),
        ..check()
    };
    let wire = [check(), quiet];
    let documents: Vec<_> = wire.iter().map(CheckDocument::from).collect();
    assert_eq!(list(&documents, &View::fixed()), "\
NAME        STATE   SINCE    FIRING  UNKNOWN  OK     SEEN FROM        LOOKED      SCHEDULE                     NOTE
shop-front  firing  12m ago  1       1        13     office-1, dmz-1  1h 30m ago  30s                          trouble at dmz-1
mail-in     ok      12m ago                   1,200  nobody           never       0 2 * * SUN (Europe/Berlin)  paused by ada
");
}

#[test]
fn one_with_its_ports_and_its_past() {
    let wire = full();
    let details = CheckDetails::new(wire.check.as_ref().unwrap(), &wire).unwrap();
    assert_eq!(show(&details, &View::fixed()), "\
shop-front: firing since 2026-05-01 11:48:00 (12m ago)
Expectations  1 firing, 1 unknown, 13 ok
From          segment:office, satellite:dmz-1
Targets       10.99.2.10, 10.99.2.32/30
Open          80,443
Closed        23
Schedule      30s
Labels        team=shop

Vantage points
  SATELLITE          STATUS   LOOKED      ADDRESSES  METHOD  TROUBLE
  office-1 (office)  online   12s ago     5          syn
  dmz-1 (dmz)        offline  1h 30m ago  5          syn     it is offline

Not as expected
  PORT               EXPECTED  CHECK    SEEN FROM          STATE   REASON  SINCE    LOOKED               ROUND TRIPS  LAST / USUAL       ALERT
  10.99.2.10 23/tcp  closed    firing   office-1 (office)  open            12m ago  12s ago              ▄·▅█         0.80 ms / 0.41 ms  01a1f82d
                                        dmz-1 (dmz)        closed  reset   12m ago  12s ago
  10.99.2.10 80/tcp  open      unknown  dmz-1 (dmz)        open            1d ago   1h 30m ago: too old  ▄▅▄█▄        0.41 ms / 0.41 ms

As expected
  PORT                EXPECTED  SEEN FROM          STATE  SINCE   LOOKED   ROUND TRIPS  LAST / USUAL
  10.99.2.10 443/tcp  open      office-1 (office)  open   1d ago  12s ago  ▄▅▄█▄        0.41 ms / 0.41 ms
  and 12 more ports are as expected

Timeline
  AT                            PORT               FROM        TO       WHAT WAS SEEN
  2026-05-01 11:49:00  11m ago  10.99.2.10 23/tcp  pending  →  firing   open, expected closed (from office-1)
  2026-05-01 11:48:00  12m ago  10.99.2.10 23/tcp  ok       →  pending  open, expected closed (from office-1)
");
}

#[test]
fn how_it_judges_is_said() {
    let words =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let wire = v1::Check {
        watch: "-".into(),
        confirm: 2,
        recover: 1,
        quorum: words(&[("closed", "any"), ("open", "majority")]),
        severity: words(&[("closed", "critical"), ("open", "warning")]),
        depend_on: vec!["router".into()],
        baseline_missing: true,
        ..check()
    };
    let page = show(&CheckDetails::new(&wire, &v1::GetCheckResponse::default()).unwrap(), &View::fixed());
    let told = "\
Watched       -
Baseline      no baseline: portolan baseline take shop-front
Schedule      30s
Confirm       2 observations in a row
Recover       1 observation in a row
Quorum        open majority, closed any
Severity      open warning, closed critical
Depends on    router
";
    assert!(page.contains(told), "{page}");
}

#[test]
fn a_check_that_nobody_does_says_so() {
    let wire = v1::Check { vantage_points: vec![], ..check() };
    let answer = v1::GetCheckResponse::default();
    let details = CheckDetails::new(&wire, &answer).unwrap();
    assert!(
        show(&details, &View::fixed()).ends_with("none: no satellite stands where the check looks from\n")
    );
}

#[test]
fn every_trouble_is_named() {
    let refusal = |target: &str, ports: &str| v1::Refusal {
        target: target.into(),
        ports: ports.into(),
        rule: "not in allow".into(),
    };
    let wire = v1::CheckVantage {
        status: v1::satellite::Status::Offline.into(),
        error: "the store is full".into(),
        refusals: vec![refusal("10.99.3.1", "22"), refusal("10.99.3.2", "")],
        unresolved: vec!["shop.intern: no such name".into()],
        interval_ms: 90_500,
        outdated: true,
        ..Default::default()
    };
    assert_eq!(
        trouble(&VantageDocument::from(&wire)),
        [
            "it is offline",
            "the store is full",
            "its scope refuses 10.99.3.1 on ports 22 (`not in allow`), and 1 more",
            "it cannot resolve shop.intern: no such name",
            "it needs 1 min 31 s a round",
            "it runs an older assignment",
        ]
    );
    let well = v1::CheckVantage { status: v1::satellite::Status::Online.into(), ..Default::default() };
    assert!(trouble(&VantageDocument::from(&well)).is_empty());
}

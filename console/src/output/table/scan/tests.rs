use super::*;
use crate::scan_result::fixture::{
    down, end, event, finished, host, hosts, one_vantage, ports, result, started, suspect, two_vantages, udp,
};
use portolan_proto::v1::{self, scan_event::Event};

fn page(scan: &ScanResult, all: bool) -> String {
    render(scan, all, &View::fixed())
}

#[test]
fn one_vantage_point() {
    assert_eq!(
        page(&one_vantage(), false),
        "\
10.99.2.10 (shop.internal)  seen from office-1
  PORT     STATE  REASON   SERVICE  RTT
  22/tcp   open   syn-ack  ssh      0.41 ms
  80/tcp   open   syn-ack  http     0.41 ms
  443/tcp  open   syn-ack  https    0.41 ms
  Not shown: 1,020 closed (conn-refused), 1 filtered (no-response)

10.99.2.11  seen from office-1
  No open ports: 1,024 closed (conn-refused)

2 more hosts down, not shown.
office-1: scanned by connect (no raw sockets)
2 of 4 hosts up, 3 open ports; 3,210 probes in 12.3 s (connect)
"
    );
}

#[test]
fn two_vantage_points() {
    assert_eq!(
        page(&two_vantages(), false),
        "\
10.99.2.10  seen alike from office-1 and pci-1
  PORT    STATE  REASON   SERVICE  RTT
  80/tcp  open   syn-ack  http     0.41 ms
  Not shown: 1,024 closed (conn-refused)

10.99.3.10 (db.internal)  seen differently from office-1 and pci-1
  PORT      SERVICE  office-1  pci-1
  22/tcp    ssh      open      =
  3306/tcp  mysql    filtered  open
  Not shown: 1,023 closed (conn-refused)
  Differs: 3306/tcp: filtered from office-1, open from pci-1

office-1 and pci-1: scanned by connect (no raw sockets)
2 of 2 hosts up, 3 open ports; 4,110 probes in 12.3 s (connect)
"
    );
}

#[test]
fn a_host_that_only_one_can_reach_and_one_that_only_one_scanned() {
    let there = host("10.0.0.1", "10.0.0.1", true, &[(PortState::Closed, Reason::ConnRefused, "1-9")]);
    let alone = host("10.0.0.2", "10.0.0.2", true, &[(PortState::Open, Reason::SynAck, "1-9")]);
    let mut syn = end("b", 0, 2, 36);
    syn.method = "syn".into();
    let scan = result(
        "1-9",
        &["a", "b"],
        vec![
            started(&[("a", "x"), ("b", "y")]),
            hosts("a", &[there, alone]),
            hosts("b", &[down("10.0.0.1", "10.0.0.1", "1-9")]),
            event(Event::End(end("a", 2, 2, 18))),
            event(Event::End(syn)),
            finished(),
        ],
    );
    let text = page(&scan, false);
    assert!(
        text.starts_with(
            "\
10.0.0.1  seen differently from a and b; down for b
  No open ports from a: 9 closed (conn-refused)
  No open ports from b: 9 filtered (no-response)
  Differs: 1-9/tcp (9 ports): closed from a, filtered from b

10.0.0.2  seen from a; not scanned from b
"
        ),
        "{text}"
    );
    assert!(text.ends_with("54 probes in 12.3 s (a: connect, b: syn)\n"), "{text}");
}

#[test]
fn an_empty_result_is_said_in_words() {
    let silent = result(
        "22",
        &["a"],
        vec![
            started(&[("a", "x")]),
            hosts("a", &[down("10.0.0.0/31", "10.0.0.0", "22"), down("10.0.0.0/31", "10.0.0.1", "22")]),
            event(Event::End(end("a", 0, 2, 8))),
            finished(),
        ],
    );
    assert_eq!(
        page(&silent, false),
        "No host answered: 2 hosts down.\na: scanned by connect (no raw sockets)\n0 of 2 hosts up, no open ports; 8 probes in 12.3 s (connect)\n"
    );
    let offline =
        v1::SatelliteEnd { satellite: "a".into(), error: "it is offline".into(), ..Default::default() };
    let nobody = result("22", &["a"], vec![started(&[("a", "x")]), event(Event::End(offline)), finished()]);
    assert_eq!(
        page(&nobody, false),
        "Nothing was scanned.\n0 of 0 hosts up, no open ports; 0 probes in 12.3 s\n"
    );
}

#[test]
fn probes_that_finished_no_host_are_not_nothing() {
    let cut = |hosts_total, probes_sent| {
        let progress =
            v1::SatelliteProgress { satellite: "a".into(), hosts_total, probes_sent, ..Default::default() };
        let lost =
            v1::SatelliteEnd { satellite: "a".into(), error: "it restarted".into(), ..Default::default() };
        let events = vec![
            started(&[("a", "x")]),
            event(Event::Progress(progress)),
            event(Event::End(lost)),
            finished(),
        ];
        page(&result("22", &["a"], events), false)
    };
    assert_eq!(cut(256, 1_234), "No host was finished.\n0 of 256 hosts finished; 1,234 probes in 12.3 s\n");
    assert_eq!(cut(1, 1), "No host was finished.\n0 of 1 host finished; 1 probe in 12.3 s\n");
    assert_eq!(cut(0, 0), "No host was finished.\n0 hosts finished in 12.3 s\n");
}

#[test]
fn an_interrupted_scan_is_marked() {
    let mut scan = one_vantage();
    scan.finish(true, scan.finished_at);
    assert!(
        page(&scan, false).contains("\nInterrupted; until then: 2 of 4 hosts up"),
        "{}",
        page(&scan, false)
    );
}

#[test]
fn with_all_every_port_has_its_row() {
    let text = page(&one_vantage(), true);
    assert!(text.contains("  1024/tcp  filtered  no-response\n"), "{text}");
    assert!(!text.contains("Not shown:"));
}

#[test]
fn forbidden_ports_are_accounted_for_and_hostile_names_are_tamed() {
    let mut seen = host("a", "10.0.0.1", true, &[(PortState::Open, Reason::SynAck, "22")]);
    seen.target = "a\u{1b}[2J.internal".into();
    seen.unscanned.tcp = ports("9100-9107");
    let scan = result(
        "22,9100-9107",
        &["s"],
        vec![started(&[("s", "x")]), hosts("s", &[seen]), event(Event::End(end("s", 1, 1, 1))), finished()],
    );
    let text = page(&scan, false);
    assert!(text.contains("  Not shown: 8 not probed (outside the scope)\n"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn udp_ports_suspicions_and_notes() {
    let last = v1::SatelliteEnd {
        method: "udp".into(),
        method_reason: "asked for".into(),
        notes: vec!["the UDP budget was used up\u{1b}".into()],
        ..end("a", 1, 1, 60)
    };
    let of = |seen| {
        let events =
            vec![started(&[("a", "x")]), hosts("a", &[seen]), event(Event::End(last.clone())), finished()];
        page(&result("U:1-90", &["a"], events), false)
    };
    assert_eq!(
        of(suspect(udp("161", "69"))),
        "\
10.0.0.7  seen from a
  a says: 10.0.0.7 looks like a SYN proxy (95 % sure): 3 of 3 random high ports answered
  PORT     STATE          REASON             SERVICE  RTT
  53/udp   open           udp-response       domain   0.41 ms
  69/udp   open|filtered  icmp-rate-limited  tftp
  161/udp  open|filtered  no-response        snmp
  Not shown: 9 closed (port-unreach)

a: the UDP budget was used up\\u{1b}
1 of 1 host up, 1 open port; 60 probes in 12.3 s (udp)
"
    );
    let many = of(udp("161", "60-90"));
    assert!(
        many.contains(
            "Not shown: 31 open|filtered (icmp-rate-limited), 9 closed (port-unreach), 1 open|filtered (no-response)"
        ),
        "{many}"
    );
}

#[test]
fn of_a_suspect_host_a_few_ports_are_listed_and_the_rest_counted() {
    let seen = suspect(host(
        "10.0.0.7",
        "10.0.0.7",
        true,
        &[(PortState::Open, Reason::SynAck, "1-1024"), (PortState::Closed, Reason::Reset, "2000")],
    ));
    let scan = result("1-1024,2000", &["a"], vec![started(&[("a", "x")]), hosts("a", &[seen]), finished()]);
    let text = page(&scan, false);
    let heading = "10.0.0.7  seen from a\n  a says: 10.0.0.7 looks like a SYN proxy";
    assert!(text.starts_with(heading) && text.matches("/tcp  ").count() == 25, "{text}");
    assert!(text.contains("\n  … and 999 more\n  Not shown: 1 closed (reset)\n"), "{text}");
    let all = page(&scan, true);
    assert!(all.contains("  1024/tcp  open") && !all.contains(" more"), "{all}");
}

#[test]
fn what_is_not_shown_breaks_at_the_terminals_width() {
    let view = View { width: Some(60), ..View::fixed() };
    let text = render(&one_vantage(), false, &view);
    assert!(
        text.contains("\n  Not shown: 1,020 closed (conn-refused),\n             1 filtered (no-response)\n"),
        "{text}"
    );
}

#[test]
fn of_one_silent_host_it_is_said_that_its_ports_were_probed() {
    let of = |asked: &str, seen: HostObservation, method: &str, discovers| {
        let last = v1::SatelliteEnd { method: method.into(), ..end("a", 0, 1, 8) };
        let events = vec![started(&[("a", "x")]), hosts("a", &[seen]), event(Event::End(last)), finished()];
        let mut scan = result(asked, &["a"], events);
        scan.discovers = discovers;
        page(&scan, false).lines().next().unwrap_or_default().to_owned()
    };
    let silent = || down("10.0.0.1", "10.0.0.1", "1-1000");
    let words = "No host answered: 1 host down. Its 1,000 ports were probed and count as filtered: silent after \
                 retransmission.";
    assert_eq!(of("1-1000", silent(), "syn", false), words);
    assert_eq!(of("1-1000", silent(), "connect", true), words, "it knows no discovery");
    assert_eq!(of("1-1000", silent(), "syn", true), "No host answered: 1 host down.");
    let one = of("22", down("10.0.0.1", "10.0.0.1", "22"), "syn", false);
    assert!(
        one.ends_with("Its port was probed and counts as filtered: silent after retransmission."),
        "{one}"
    );
    let absent = host("h", "10.0.0.1", false, &[(PortState::Filtered, Reason::HostUnreach, "22")]);
    assert_eq!(of("22", absent, "syn", false), "No host answered: 1 host down.");
}

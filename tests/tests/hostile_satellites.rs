//! A satellite that was taken over, or is broken: it can spoil what it says itself, once, and nothing else. A client in
//! a satellite's place says what the satellite's own program would not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::Ipv4Addr;
use std::time::Duration;

use portolan_proto::v1::{
    self, PortState, goodbye::Reason, uplink_down::Message as Down, uplink_up::Message as Up,
};
use portolan_tests::client::{Client, Heard, Uplink, end, hello, host, observations, run};
use portolan_tests::deployment::{Deployment, Satellite, binaries};
use portolan_tests::lab::{Lab, Process};
use portolan_tests::wait::{SOON, wait_until};
use portolan_tests::{in_lab, need};
use serde_json::Value;
use tonic::Code;

/// What a satellite saw at 10.98.0.LAST: port 80 in this state.
fn seen(last: u8, state: PortState) -> v1::HostObservation {
    host([10, 98, 0, last], vec![run(state, 80, 80)])
}

/// A server whose numbers anyone may read, with a satellite that a client stands in for.
fn stage(lab: &Lab) -> (Deployment, Satellite) {
    let deployment = Deployment::new(lab);
    deployment.init().ok();
    deployment.start_with(&deployment.config("metrics = \"anyone\"\n"));
    let satellite = deployment.enrolled(&lab.host("office", "pc"), "office-1", &[]);
    (deployment, satellite)
}

/// The state of port 80 of 10.98.0.LAST in the inventory.
fn state_of(deployment: &Deployment, last: u8) -> Option<String> {
    let address = Ipv4Addr::new(10, 98, 0, last).to_string();
    let known = deployment.ask(&["ports", "--all"]);
    let port = known.as_array().unwrap().iter().find(|port| port["address"] == address)?;
    Some(port["state"].as_str().unwrap().to_owned())
}

/// An operator's scan of these targets' port 80, under way.
fn start_scan(deployment: &Deployment, targets: &str) -> Process {
    deployment.console_command(&["scan", targets, "-p", "80", "--from", "office-1", "-o", "json"]).spawn()
}

/// The last numbers of the addresses that a scan's document tells of, in order.
fn told(document: &Value) -> Vec<u8> {
    let address = |host: &Value| host["address"].as_str().unwrap().parse::<Ipv4Addr>().unwrap().octets()[3];
    let mut told: Vec<u8> = document["hosts"].as_array().unwrap().iter().map(address).collect();
    told.sort_unstable();
    told
}

// === once, in order, from one stream ===

#[test]
fn a_record_sent_twice_counts_once() {
    need!("curl");
    in_lab!(|lab| {
        let (deployment, satellite) = stage(lab);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.greeted(1);
        let first = observations(1, &[1; 16], &[seen(1, PortState::Open)]);
        stream.deliver(first.clone());
        stream.deliver(observations(2, &[1; 16], &[seen(1, PortState::Closed)]));
        // Again on this stream, and on a later one.
        stream.send(Up::Record(first.clone()));
        stream.deliver(observations(3, &[], &[]));
        drop(client);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.uplink().unwrap();
        assert_eq!(stream.greet(hello(1)).acked_sequence, 3);
        stream.send(Up::Record(first));
        stream.deliver(observations(4, &[], &[]));

        assert_eq!(state_of(&deployment, 1).as_deref(), Some("closed"));
        assert_eq!(deployment.history("10.98.0.1:80").len(), 1);
        assert_eq!(deployment.metric("portolan_records_total"), 4);
        assert_eq!(deployment.metric("portolan_records_repeated_total"), 2);
        assert_eq!(deployment.metric("portolan_hosts_observed_total"), 2);
    });
}

#[test]
fn sequences_that_do_not_ascend_move_nothing_back() {
    need!("curl");
    in_lab!(|lab| {
        let (deployment, satellite) = stage(lab);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.greeted(1);
        // Some in one commit, some in another, as it happens.
        let disorder = [5, 3, 5, 0, 4, u64::from(u8::MAX), 6, 1, 255, 254];
        for sequence in disorder {
            let state = if [5, 255].contains(&sequence) { PortState::Open } else { PortState::Closed };
            stream.send(Up::Record(observations(sequence, &[], &[seen(1, state)])));
        }
        let mut acked = 0;
        while acked < 255 {
            let now = stream.acked(0).unwrap();
            assert!(now >= acked, "an ack of {now} after one of {acked}");
            acked = now;
        }
        assert_eq!(state_of(&deployment, 1).as_deref(), Some("open"));
        drop(client);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.uplink().unwrap();
        assert_eq!(stream.greet(hello(1)).acked_sequence, 255);
        // The highest number there is does no harm either.
        assert_eq!(stream.deliver(observations(u64::MAX, &[], &[])), u64::MAX);
        stream.send(Up::Record(observations(256, &[], &[seen(1, PortState::Closed)])));
        assert_eq!(stream.acked(0).unwrap(), u64::MAX);
        assert_eq!(state_of(&deployment, 1).as_deref(), Some("open"));
        assert_eq!(deployment.status_of("office-1"), "online");
    });
}

#[test]
fn a_second_stream_takes_over_from_the_first() {
    in_lab!(|lab| {
        let (deployment, satellite) = stage(lab);
        let clients = [(); 2].map(|()| Client::satellite(&satellite, &deployment));
        let mut first = clients[0].greeted(1);
        first.deliver(observations(1, &[], &[seen(1, PortState::Open)]));
        let mut second = clients[1].uplink().unwrap();
        assert_eq!(second.greet(hello(1)).acked_sequence, 1);

        let (messages, status) = first.rest();
        let goodbye =
            |message: &Down| matches!(message, Down::Goodbye(bye) if bye.reason() == Reason::Replaced);
        assert!(messages.iter().any(goodbye), "the first was not told: {messages:?}");
        assert_eq!(status.map(|status| status.code()), Some(Code::Aborted));
        first.send(Up::Record(observations(2, &[], &[seen(2, PortState::Open)])));
        second.deliver(observations(2, &[], &[seen(3, PortState::Open)]));
        // The first one's end takes nobody off the list.
        drop(first);
        assert_eq!(deployment.status_of("office-1"), "online");
        let [old, new] = [2, 3].map(|last| state_of(&deployment, last));
        assert_eq!((old, new.as_deref()), (None, Some("open")));
        // Jobs go to the second.
        let console = start_scan(&deployment, "10.98.0.9");
        let scan = second.scan_asked().scan_id;
        second.deliver(observations(3, &scan, &[seen(9, PortState::Open)]));
        second.deliver(end(4, &scan));
        assert_eq!(told(&console.wait(SOON).ok().json()), [9]);
    });
}

// === the stream cut at the worst moment ===

#[test]
fn a_scan_is_whole_although_the_stream_was_cut_right_after_its_end() {
    in_lab!(|lab| {
        let (deployment, satellite) = stage(lab);
        let mut sequence = 0;
        for round in 0..12 {
            let client = Client::satellite(&satellite, &deployment);
            let mut stream = client.uplink().unwrap();
            assert!(stream.greet(hello(1)).acked_sequence <= sequence);
            deployment.wait_for_status("office-1", "online");
            let console = start_scan(&deployment, "10.98.0.1-20");
            let scan = stream.scan_asked().scan_id;
            let record = |n: u64, last: u8| observations(n, &scan, &[seen(last, PortState::Open)]);
            let mut records: Vec<v1::Record> = (1..=20).map(|n| record(sequence + u64::from(n), n)).collect();
            sequence += 21;
            records.push(end(sequence, &scan));
            for record in &records {
                stream.send(Up::Record(record.clone()));
            }
            if round % 2 == 0 {
                // Everything arrives, and with it the stream's end; nobody comes back.
                stream.close();
                stream.rest();
            } else {
                // What is on its way is lost. The satellite comes back and sends again what was not acked.
                drop(client);
                let client = Client::satellite(&satellite, &deployment);
                let mut stream = client.uplink().unwrap();
                let back = v1::Hello { running_scans: vec![scan.clone()], ..hello(1) };
                let acked = stream.greet(back).acked_sequence;
                for record in records.into_iter().filter(|record| record.sequence > acked) {
                    stream.deliver(record);
                }
            }
            assert_eq!(told(&console.wait(SOON).ok().json()), (1..=20).collect::<Vec<_>>(), "{round}");
        }
    });
}

// === words that would take over a terminal ===

/// Sets a title, asks the terminal for an answer, turns the writing round, begins a line of its own.
const EVIL: &str = "\u{1b}]0;owned\u{7}\u{1b}[6n\u{9b}31m\u{202e}\r\nall is well";

/// Answers the next scan with evil words wherever words may stand.
fn answer_with_evil(stream: &mut Uplink, sequence: u64) {
    let scan = stream.scan_asked().scan_id;
    let spoken = v1::HostObservation { target: EVIL.into(), ..seen(1, PortState::Open) };
    stream.deliver(observations(sequence, &scan, &[spoken]));
    let mut last = end(sequence + 1, &scan);
    if let Some(v1::record::Body::End(end)) = &mut last.body {
        end.outcome = v1::scan_end::Outcome::Failed.into();
        end.error = EVIL.into();
        (end.method, end.method_reason) = (EVIL.into(), EVIL.into());
        end.refusals = vec![v1::Refusal { target: EVIL.into(), ports: EVIL.into(), rule: EVIL.into() }];
        end.unresolved = vec![v1::Unresolved { name: EVIL.into(), error: EVIL.into() }];
        end.coverage = vec![v1::Coverage { addresses: vec![EVIL.into()], ports: "80".into() }];
    }
    stream.deliver(last);
}

/// Fails when a text could do anything to a terminal but be read.
#[track_caller]
fn is_tame(what: &str, text: &str) {
    let wild = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
    assert!(!text.contains(wild), "{what} lets through {:?}", text.matches(wild).collect::<String>());
    assert!(!text.lines().any(|line| line.starts_with("all is well")), "{what} lets a line begin:\n{text}");
}

#[test]
fn nothing_that_a_satellite_says_reaches_a_terminal_raw() {
    in_lab!(|lab| {
        let (deployment, satellite) = stage(lab);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.uplink().unwrap();
        stream.greet(v1::Hello { version: EVIL.into(), capabilities: vec![EVIL.into()], ..hello(1) });
        let mut sequence = 1;
        for format in ["table", "json", "jsonl", "yaml", "csv", "nmap-xml", "grepable"] {
            let scan = ["scan", "10.98.0.1", "-p", "80", "--from", "office-1", "-o", format];
            let console = deployment.console_command(&scan).spawn();
            answer_with_evil(&mut stream, sequence);
            sequence += 2;
            let finished = console.wait(SOON);
            finished.code_is(4);
            is_tame(&format!("scan -o {format}"), &finished.stdout);
            is_tame(&format!("what scan -o {format} says aside"), &finished.stderr);
        }
        let asked: [&[&str]; 6] = [
            &["satellite", "list"],
            &["satellite", "show", "office-1"],
            &["ports"],
            &["ports", "--all"],
            &["history", "10.98.0.1"],
            &["status"],
        ];
        for words in asked {
            for format in ["table", "json"] {
                let finished = deployment.console(&[words, &["-o", format]].concat());
                is_tame(
                    &format!("{words:?} -o {format}"),
                    &format!("{}{}", finished.ok().stdout, finished.stderr),
                );
            }
        }
        is_tame("the server's log", &deployment.server_log());
    });
}

#[test]
fn a_terminal_with_colours_gets_only_the_consoles_own() {
    need!("script");
    in_lab!(|lab| {
        let (deployment, satellite) = stage(lab);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.greeted(1);
        let (_, program) = &binaries()[2];
        let context = deployment.admin_file();
        let words =
            ["--context", context.to_str().unwrap(), "scan", "10.98.0.1", "-p", "80", "--from", "office-1"];
        let line = format!("{} {}", program.display(), words.join(" "));
        let script = deployment.server_host().command("script").env("TERM", "xterm-256color");
        let terminal = script.env("HOME", deployment.directory()).args(["-qec", &line, "/dev/null"]).spawn();
        answer_with_evil(&mut stream, 1);
        let shown = terminal.wait(SOON).code_is(4).stdout.clone();
        assert!(shown.contains("\u{1b}["), "no colours, so no test:\n{shown}");
        for evil in ["\u{1b}]", "\u{1b}[6n", "\u{9b}", "\u{7}", "\u{202e}", "\nall is well"] {
            assert!(!shown.contains(evil), "{evil:?} in {shown:?}");
        }
    });
}

// === nonsense ===

/// Hosts that break the wire contract, each in one way.
fn malformed() -> Vec<(&'static str, v1::HostObservation)> {
    let good = || seen(2, PortState::Open);
    let bent = |bend: &dyn Fn(&mut v1::HostObservation)| {
        let mut host = good();
        bend(&mut host);
        host
    };
    let closed = run(PortState::Closed, 80, 90);
    vec![
        ("an unknown protocol", bent(&|host| host.runs[0].protocol = 99)),
        ("an unknown state", bent(&|host| host.runs[0].state = -1)),
        ("an unknown reason", bent(&|host| host.runs[0].reason = 77)),
        ("runs that overlap", bent(&|host| host.runs.push(closed.clone()))),
        ("a run twice", bent(&|host| host.runs.push(run(PortState::Open, 90, 90)))),
        ("an empty run", bent(&|host| host.runs[0].ports = None)),
        ("half a span", bent(&|host| host.runs[0].ports = Some(v1::PortSpans { spans: vec![1] }))),
        ("port 65,536", bent(&|host| host.runs[0] = run(PortState::Open, 65_530, 65_536))),
        (
            "ports that wrap around",
            bent(&|host| {
                host.runs[0].ports = Some(v1::PortSpans { spans: vec![1, u32::MAX, 1, u32::MAX] });
            }),
        ),
        ("5 bytes of address", bent(&|host| host.address.push(1))),
        ("no address", bent(&|host| host.address.clear())),
        ("a time before time", bent(&|host| host.observed_at_ms = i64::MIN)),
        ("a time after time", bent(&|host| host.observed_at_ms = i64::MAX)),
        ("a target of 300 bytes", bent(&|host| host.target = "x".repeat(300))),
        (
            "an impossible detail",
            bent(&|host| {
                host.details = vec![v1::PortDetail { protocol: 1, port: 65_536, rtt_us: 1 }];
            }),
        ),
        ("an address twice", seen(1, PortState::Closed)),
    ]
}

#[test]
fn malformed_observations_are_dropped_and_counted_and_end_nothing() {
    need!("curl");
    in_lab!(|lab| {
        let (deployment, satellite) = stage(lab);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.greeted(1);
        let console = start_scan(&deployment, "10.98.0.1-3");
        let scan = stream.scan_asked().scan_id;
        let mut sequence = 0;
        for (what, bad) in malformed() {
            sequence += 1;
            let good = [seen(1, PortState::Open), bad, seen(3, PortState::Open)];
            stream.deliver(observations(sequence, &scan, &good));
            assert_eq!(deployment.metric("portolan_hosts_malformed_total"), sequence, "{what}");
        }
        // Bytes that are no host at all, a record with nothing in it, and one of a scan that does not exist.
        let mut noise = observations(sequence + 1, &scan, &[seen(1, PortState::Open)]);
        if let Some(v1::record::Body::Observations(bytes)) = &mut noise.body {
            bytes.extend([0xff; 40]);
        }
        stream.deliver(noise);
        assert_eq!(deployment.metric("portolan_hosts_malformed_total"), sequence + 1);
        stream.deliver(v1::Record { sequence: sequence + 2, ..v1::Record::default() });
        stream.deliver(end(sequence + 3, &[9; 16]));
        stream.deliver(end(sequence + 4, &[9; 3]));
        stream.deliver(end(sequence + 5, &scan));

        let document = console.wait(SOON).ok().json();
        assert!(told(&document).iter().all(|last| [1, 3].contains(last)), "{document}");
        assert_eq!(state_of(&deployment, 1).as_deref(), Some("open"));
        assert_eq!(state_of(&deployment, 2), None);
        assert_eq!(deployment.status_of("office-1"), "online");
        assert!(matches!(stream.next(Duration::from_millis(100)), Heard::Nothing), "the session ended");
    });
}

#[test]
fn more_hosts_than_a_record_may_hold_are_not_taken() {
    need!("curl");
    in_lab!(|lab| {
        let (deployment, satellite) = stage(lab);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.greeted(1);
        let hosts: Vec<v1::HostObservation> = (0..=4096u16)
            .map(|n| {
                host([10, 98, n.to_be_bytes()[0], n.to_be_bytes()[1]], vec![run(PortState::Open, 80, 80)])
            })
            .collect();
        stream.deliver(observations(1, &[1; 16], &hosts));
        assert_eq!(deployment.metric("portolan_hosts_observed_total"), 4096);
        assert_eq!(deployment.ask(&["ports"]).as_array().unwrap().len(), 4096);
        wait_until("the satellite to stay", SOON, || deployment.status_of("office-1") == "online");
    });
}

/// After a long time on its own a satellite names every scan that its spool holds.
#[test]
fn a_satellite_that_names_two_thousand_scans_is_heard_all_the_same() {
    in_lab!(|lab| {
        let (deployment, satellite) = stage(lab);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.uplink().unwrap();
        let running_scans = (0..2048u128).map(|n| n.to_be_bytes().to_vec()).collect();
        stream.greet(v1::Hello { running_scans, ..hello(1) });
        stream.deliver(observations(1, &[], &[seen(1, PortState::Open)]));
        assert_eq!(state_of(&deployment, 1).as_deref(), Some("open"));
    });
}

/// A clock that says what no clock can shows nobody else's ports wrong, nor its own as unreadable.
#[test]
fn an_impossible_clock_spoils_no_answer() {
    in_lab!(|lab| {
        let (deployment, satellite) = stage(lab);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.uplink().unwrap();
        stream.greet(v1::Hello { clock_at_ms: i64::MIN / 2, ..hello(1) });
        for (sequence, state) in [(1, PortState::Open), (2, PortState::Closed)] {
            stream.deliver(observations(sequence, &[], &[seen(1, state)]));
        }
        stream.deliver(end(3, &[1; 16]));
        assert_eq!(state_of(&deployment, 1).as_deref(), Some("closed"));
        assert_eq!(deployment.history("10.98.0.1:80").len(), 1);
    });
}

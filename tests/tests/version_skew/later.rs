//! Later versions: peers that say more than this version knows, made of this version's own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use portolan_proto::v1::{self, PortState, uplink_down::Message as Down};
use portolan_tests::client::{Between, Client, Heard, Way, end, hello, host, run, wire};
use portolan_tests::deployment::Deployment;
use portolan_tests::wait::{SOON, wait_until};
use portolan_tests::{in_lab, need};
use prost::Message as _;

use super::{BETWEEN, start};

/// What a peer of a later minor version would have said in this one's place: fields that nobody knows in every message
/// and in what is in it, and arms of the oneof that nobody knows before and after.
fn later(way: Way, message: &[u8]) -> Vec<Vec<u8>> {
    let greeting = 1;
    let version = match way {
        Way::Up => 1,
        Way::Down => 3,
    };
    let mut changed = wire::change_field(message, greeting, |hello| {
        wire::change_field(hello, version, |_| b"0.99.0".to_vec())
    });
    for arm in 1..=8 {
        changed = wire::change_field(&changed, arm, |content| {
            let content = match (way, arm) {
                (Way::Up, 2) => later_record(content),
                _ => content.to_vec(),
            };
            wire::with_unknown_fields(&content)
        });
    }
    // Hello is first, whatever the version.
    let before = match wire::field(message, greeting) {
        Some(_) => None,
        None => Some(wire::unknown_arm()),
    };
    before.into_iter().chain([wire::with_unknown_fields(&changed), wire::unknown_arm()]).collect()
}

/// Unknown fields in every host of a record, in the host's runs and details, and in a scan's end.
fn later_record(record: &[u8]) -> Vec<u8> {
    let changed = wire::change_field(record, 3, |hosts| {
        let hosts: Vec<Vec<u8>> = wire::split(hosts).iter().map(|host| later_host(host)).collect();
        wire::join(&hosts)
    });
    let inside = |content: &[u8]| wire::with_unknown_fields(content);
    wire::change_field(&changed, 4, |end| inside(&wire::change_field(end, 6, inside)))
}

fn later_host(host: &[u8]) -> Vec<u8> {
    let inside = |content: &[u8]| wire::with_unknown_fields(content);
    wire::with_unknown_fields(&wire::change_field(&wire::change_field(host, 5, inside), 6, inside))
}

#[test]
fn peers_of_a_later_minor_version_serve_one_another() {
    need!("curl");
    in_lab!(|lab| {
        let deployment = Deployment::new(lab);
        let (pc, shop) = (lab.host("office", "pc"), lab.host("dmz", "shop"));
        deployment.init().ok();
        start(&deployment);
        let satellite = deployment.enrolled(&pc, "office-1", &["--scope", "10.99.0.0/16"]);
        let kinds = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
        let noted = kinds.clone();
        // To the server it looks like a later satellite, to the satellite like a later server.
        let _between = Between::start(&deployment, &satellite, BETWEEN, move |_, way, message| {
            let arm = (1..=8).find(|arm| wire::field(&message, *arm).is_some());
            noted.lock().unwrap().insert((way == Way::Up, arm));
            later(way, &message)
        });
        satellite.dial_port(BETWEEN);
        satellite.start();
        deployment.wait_for_status("office-1", "online");
        assert_eq!(deployment.ask(&["satellite", "show", "office-1"])["version"], "0.99.0");
        let _listener = shop.listen(&[22, 80]);
        for open in ["22,80", "22,80"] {
            let scan = deployment.scan(&[&shop.v4().to_string(), "-p", "20-25,80", "--from", "office-1"]);
            let seen = scan.code_is(0).verdicts("office-1").of(shop.v4()).to_string();
            assert_eq!(seen, format!("open {open}; closed 20-21,23-25"));
        }
        assert_eq!(deployment.metric("portolan_hosts_malformed_total"), 0);
        assert_eq!(deployment.metric("portolan_records_missing_total"), 0);
        let heartbeat = (true, Some(4));
        wait_until("a heartbeat", SOON, || kinds.lock().unwrap().contains(&heartbeat));
        assert_eq!(deployment.status_of("office-1"), "online");
        for expected in
            [(true, Some(1)), (true, Some(2)), (false, Some(1)), (false, Some(2)), (false, Some(3))]
        {
            assert!(kinds.lock().unwrap().contains(&expected), "{expected:?} was never said");
        }
        satellite.stop().ok();
        assert!(!deployment.server_log().contains("panicked at"), "{}", deployment.server_log());
    });
}

#[test]
fn values_of_enums_that_nobody_knows_yet_end_nothing() {
    need!("curl");
    in_lab!(|lab| {
        let deployment = Deployment::new(lab);
        deployment.init().ok();
        start(&deployment);
        let pc = lab.host("office", "pc");
        let stand_in = deployment.enrolled(&pc, "office-1", &[]);
        let client = Client::satellite(&stand_in, &deployment);
        let mut stream = client.greeted(1);
        let good = || host([10, 98, 0, 1], vec![run(PortState::Open, 80, 80)]);
        let bent = |bend: &dyn Fn(&mut v1::HostObservation)| {
            let mut bent = v1::HostObservation { address: vec![10, 98, 0, 2], ..good() };
            bend(&mut bent);
            bent
        };
        let hosts = [
            bent(&|host| host.runs[0].state = 99),
            bent(&|host| host.runs[0].reason = 99),
            bent(&|host| host.runs[0].protocol = 99),
        ];
        let mut sequence = 0;
        for bad in hosts {
            sequence += 1;
            stream.deliver(portolan_tests::client::observations(sequence, &[1; 16], &[good(), bad]));
        }
        let mut ended = end(sequence + 1, &[1; 16]);
        if let Some(v1::record::Body::End(end)) = &mut ended.body {
            end.outcome = 99;
        }
        stream.deliver(ended);
        let dropped = Some(v1::Dropped { reason: 99, records: 1, hosts: 3, confirmations: 1 });
        stream.deliver(v1::Record { sequence: sequence + 2, dropped, ..v1::Record::default() });
        assert_eq!(deployment.metric("portolan_records_total"), sequence + 2);
        assert_eq!(
            deployment.metric("portolan_hosts_observed_total"),
            sequence,
            "the others of each record count"
        );
        assert!(matches!(stream.next(Duration::from_millis(100)), Heard::Nothing), "the session ended");
        drop(client);

        // To the satellite: a reason to say goodbye that it does not know is one to come back from.
        let satellite = deployment.enrolled(&pc, "office-2", &[]);
        let between = Between::start(&deployment, &satellite, BETWEEN, |connection, way, message| {
            let goodbye = v1::Goodbye { reason: 99 };
            let goodbye = v1::UplinkDown { message: Some(Down::Goodbye(goodbye)) }.encode_to_vec();
            match way == Way::Down && connection == 1 {
                true => vec![message, goodbye],
                false => vec![message],
            }
        });
        satellite.dial_port(BETWEEN);
        satellite.start();
        wait_until("the satellite to come back", SOON, || between.connections() >= 2);
        deployment.wait_for_status("office-2", "online");
    });
}

#[test]
fn what_the_server_does_not_know_of_a_host_reaches_the_console_as_it_came() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let satellite = deployment.enrolled(&lab.host("office", "pc"), "office-1", &[]);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.uplink().unwrap();
        stream.greet(v1::Hello { version: "0.99.0".into(), ..hello(1) });
        let sent: Vec<Vec<u8>> = (1..=3)
            .map(|last| host([10, 98, 0, last], vec![run(PortState::Open, 80, 80)]).encode_to_vec())
            .map(|host| later_host(&host))
            .collect();
        let request = v1::ScanRequest {
            satellites: vec!["office-1".into()],
            targets: vec!["10.98.0.1-3".into()],
            ports: "80".into(),
            method: "auto".into(),
            ..v1::ScanRequest::default()
        };
        let console = Client::operator(&deployment);
        let events = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                console.ask_raw("portolan.v1.Console/Scan", request.encode_to_vec(), SOON).unwrap()
            });
            let scan = stream.scan_asked().scan_id;
            let body = Some(v1::record::Body::Observations(wire::join(&sent)));
            stream.deliver(v1::Record { sequence: 1, scan_id: scan.clone(), body, ..v1::Record::default() });
            stream.deliver(end(2, &scan));
            asking.join().unwrap()
        });
        let hosts = events.iter().filter_map(|event| wire::field(event, 3));
        let hosts: Vec<Vec<u8>> = hosts.flat_map(|hosts| wire::fields(&hosts, 2)).collect();
        assert_eq!(hosts, sent);
        // What is known of them counts.
        assert_eq!(deployment.ask(&["ports"]).as_array().unwrap().len(), 3);
    });
}

//! Earlier versions: their data directories, and what their satellites and servers said, as they were recorded.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portolan_proto::v1::{self, uplink_down::Message as Down, uplink_up::Message as Up};
use portolan_tests::client::{Between, Client, Way, now_ms, wire};
use portolan_tests::deployment::{Deployment, Identity, pems_below};
use portolan_tests::lab::{Lab, Program, run_ok};
use portolan_tests::wait::{SOON, wait_until};
use portolan_tests::{in_lab, need};
use prost::Message;
use serde_json::Value;

use super::{BETWEEN, start};

/// A certificate for a test.
const HOUR: Duration = Duration::from_secs(3600);

/// Every version whose traces must be understood.
fn fixtures() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let entries = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.join("data.tar.gz").exists()).collect();
    found.sort();
    assert!(!found.is_empty(), "no fixture");
    found
}

fn recorded(fixture: &Path, file: &str) -> Vec<Vec<u8>> {
    let messages = wire::split(&fs::read(fixture.join(file)).unwrap());
    assert!(!messages.is_empty(), "{file} is empty");
    messages
}

fn expected(fixture: &Path, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixture.join("expected").join(file)).unwrap()).unwrap()
}

/// What the satellite said: its Hello, and the rest. Its clock is right today too: a wrong one would be corrected for.
fn said(fixture: &Path) -> (v1::Hello, Vec<Up>) {
    let messages = recorded(fixture, "uplink-up.bin").into_iter();
    let mut messages = messages.filter_map(|message| v1::UplinkUp::decode(&*message).unwrap().message);
    let Some(Up::Hello(hello)) = messages.next() else { panic!("it did not begin with Hello") };
    let hello = v1::Hello { clock_at_ms: now_ms(), ..hello };
    let today = |message: Up| match message {
        Up::Heartbeat(beat) => Up::Heartbeat(v1::Heartbeat { clock_at_ms: now_ms(), ..beat }),
        other => other,
    };
    (hello, messages.map(today).collect())
}

fn sequences(messages: &[Up]) -> Vec<u64> {
    let of = |message: &Up| match message {
        Up::Record(record) => Some(record.sequence),
        _ => None,
    };
    messages.iter().filter_map(of).collect()
}

/// Where the server stood that was recorded.
const RECORDED_AT: [&str; 2] = ["10.99.1.10", "[fd00:99:1::10]"];

/// A place for a server that is this fixture's own.
fn place(lab: &Lab, fixture: &Path) -> Deployment {
    let name = fixture.file_name().unwrap().to_str().unwrap();
    let host = lab.host("server", name);
    Deployment::on(lab, &host, name)
}

/// A copy of what the version left on the disk, moved to a new address as an administrator would. Certificates that ran
/// out since are replaced as their owners would have done: by ones for the same keys and names.
fn unpack(lab: &Lab, fixture: &Path) -> (Deployment, Identity) {
    let deployment = place(lab, fixture);
    let directory = deployment.directory().to_owned();
    run_ok(Program::new("tar").arg("-xzf").arg(fixture.join("data.tar.gz")).arg("-C").arg(&directory));
    let names = deployment.data_dir().join("deployment.toml");
    let host = deployment.server_host();
    let moved = fs::read_to_string(&names).unwrap().replace(RECORDED_AT[0], &host.v4().to_string());
    fs::write(names, moved.replace(RECORDED_AT[1], &format!("[{}]", host.v6()))).unwrap();
    let scratch = lab.directory("renewal");
    let admin = deployment.admin();
    let renewed = admin.identity().short_lived_twin(HOUR, &deployment.data_dir(), &scratch);
    let admin = admin.with_certificate(renewed.certificate()).with_server(&deployment.address());
    admin.write(deployment.admin_file());
    let satellite = Identity::leaf_of(&pems_below(&directory.join("satellite")));
    let satellite = satellite.short_lived_twin(HOUR, &deployment.data_dir(), &scratch);
    (deployment, satellite)
}

/// Everything that was there is there and the same; more may have come.
#[track_caller]
fn still_says(now: &Value, then: &Value, what: &str) {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            for (key, value) in then {
                let now = now.get(key).unwrap_or_else(|| panic!("{what}: `{key}` is gone"));
                still_says(now, value, &format!("{what}.{key}"));
            }
        }
        (Value::Array(now), Value::Array(then)) => {
            assert_eq!(now.len(), then.len(), "{what}");
            for (place, (now, then)) in now.iter().zip(then).enumerate() {
                still_says(now, then, &format!("{what}[{place}]"));
            }
        }
        _ => assert_eq!(now, then, "{what}"),
    }
}

#[test]
fn an_earlier_versions_data_directory_is_taken_over_by_starting() {
    need!("openssl", "curl", "tar");
    in_lab!(|lab| {
        for fixture in fixtures() {
            let (deployment, _) = unpack(lab, &fixture);
            let host = expected(&fixture, "history.json")[0]["address"].as_str().unwrap().to_owned();
            for time in ["the first start", "the second start"] {
                start(&deployment);
                let asked: [(&str, &[&str]); 4] = [
                    ("satellite-list.json", &["satellite", "list"]),
                    ("ports-all.json", &["ports", "--all"]),
                    ("history.json", &["history", &host]),
                    ("history-by-name.json", &["history", "shop.lab"]),
                ];
                for (file, words) in asked {
                    still_says(&deployment.ask(words), &expected(&fixture, file), &format!("{time}: {file}"));
                }
                let again = deployment.console(&["satellite", "add", "pending-1", "--segment", "office"]);
                again.ok();
                assert_ne!(
                    deployment.console(&["satellite", "add", "office-1", "--segment", "office"]).code,
                    0
                );
                deployment.stop().ok();
            }
        }
    });
}

#[test]
fn what_an_earlier_version_said_means_the_same() {
    /// Decodes, and encodes again: a field whose number or type was changed would not come out as it went in.
    #[track_caller]
    fn same<M: Message + Default + std::fmt::Debug>(fixture: &Path, file: &str) -> Vec<M> {
        let read = |bytes: &Vec<u8>| {
            let message = M::decode(&**bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(message.encode_to_vec(), *bytes, "{file}: {message:?}");
            message
        };
        recorded(fixture, file).iter().map(read).collect()
    }
    for fixture in fixtures() {
        let up = same::<v1::UplinkUp>(&fixture, "uplink-up.bin");
        let down = same::<v1::UplinkDown>(&fixture, "uplink-down.bin");
        assert!(up.iter().all(|message| message.message.is_some()), "an arm is gone");
        assert!(down.iter().all(|message| message.message.is_some()), "an arm is gone");
        let has = |kind: fn(&Up) -> bool| up.iter().flat_map(|message| &message.message).any(kind);
        assert!(has(|m| matches!(m, Up::Hello(_))) && has(|m| matches!(m, Up::Heartbeat(_))));
        assert!(has(|m| matches!(m, Up::Record(_))) && has(|m| matches!(m, Up::Progress(_))));
        let has = |kind: fn(&Down) -> bool| down.iter().flat_map(|message| &message.message).any(kind);
        assert!(has(|m| matches!(m, Down::Welcome(_))) && has(|m| matches!(m, Down::Ack(_))));
        assert!(has(|m| matches!(m, Down::StartScan(_))) && has(|m| matches!(m, Down::CancelScan(_))));
        assert!(has(|m| matches!(m, Down::Goodbye(_))));

        same::<v1::StatusResponse>(&fixture, "console/status.bin");
        same::<v1::ListSatellitesResponse>(&fixture, "console/satellites.bin");
        same::<v1::PortRecord>(&fixture, "console/ports.bin");
        same::<v1::HistoryRecord>(&fixture, "console/history.bin");
        for file in ["console/scan.bin", "console/scan-again.bin"] {
            let events = same::<v1::ScanEvent>(&fixture, file);
            let hosts = events.iter().filter_map(|event| match &event.event {
                Some(v1::scan_event::Event::Hosts(hosts)) => Some(&hosts.hosts),
                _ => None,
            });
            let hosts: Vec<v1::HostObservation> =
                hosts.flatten().map(|host| v1::HostObservation::decode(&**host).unwrap()).collect();
            assert!(hosts.iter().all(|host| !host.runs.is_empty() && host.address.len() == 4), "{hosts:?}");
            assert_eq!(hosts.len(), 1, "{file}");
        }
    }
}

#[test]
fn what_an_earlier_satellite_said_is_not_counted_again() {
    need!("openssl", "curl", "tar");
    in_lab!(|lab| {
        for fixture in fixtures() {
            let (deployment, identity) = unpack(lab, &fixture);
            start(&deployment);
            let (hello, messages) = said(&fixture);
            let sent = sequences(&messages);
            let last = *sent.last().unwrap();
            let client = Client::open(deployment.server_host(), &deployment, Some(&identity)).unwrap();
            let mut stream = client.uplink().unwrap();
            assert_eq!(stream.greet(hello).acked_sequence, last, "the store has them all");
            for message in messages {
                assert!(stream.send(message), "the stream is over");
            }
            assert_eq!(stream.acked(last).unwrap(), last);
            assert_eq!(deployment.metric("portolan_records_total"), 0);
            assert_eq!(deployment.metric("portolan_records_repeated_total"), sent.len() as u64);
            // And it goes on from there.
            stream.deliver(v1::Record { sequence: last + 1, ..v1::Record::default() });
            assert_eq!(deployment.metric("portolan_records_total"), 1);
            let then = expected(&fixture, "history.json");
            still_says(&deployment.ask(&["history", "shop.lab"]), &then, "history");
        }
    });
}

#[test]
fn an_earlier_satellite_is_served_and_counted_once() {
    need!("openssl", "curl");
    in_lab!(|lab| {
        for fixture in fixtures() {
            let deployment = place(lab, &fixture);
            deployment.init().ok();
            start(&deployment);
            let satellite = deployment.enrolled(deployment.server_host(), "office-1", &[]);
            let (hello, messages) = said(&fixture);
            let sent = sequences(&messages);
            let last = *sent.last().unwrap();
            let client = Client::satellite(&satellite, &deployment);
            for time in 0..2 {
                let mut stream = client.uplink().unwrap();
                let welcome = stream.greet(hello.clone());
                assert_eq!(welcome.acked_sequence, if time == 0 { 0 } else { last });
                assert_eq!(deployment.status_of("office-1"), "online");
                for message in &messages {
                    assert!(stream.send(message.clone()), "the stream is over");
                }
                assert_eq!(stream.acked(last).unwrap(), last);
            }
            assert_eq!(deployment.metric("portolan_records_total"), sent.len() as u64);
            assert_eq!(deployment.metric("portolan_records_missing_total"), 0);
            let mut then = expected(&fixture, "history.json");
            // They arrive long after they were seen.
            for change in then.as_array_mut().unwrap() {
                change.as_object_mut().unwrap().remove("late");
            }
            let host = then[0]["address"].as_str().unwrap().to_owned();
            still_says(&deployment.ask(&["history", &host]), &then, "history");
        }
    });
}

#[test]
fn what_an_earlier_server_said_is_obeyed() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let pc = lab.host("office", "pc");
        let satellite = deployment.enrolled(&pc, "office-1", &["--scope", "10.99.0.0/16"]);
        satellite.dial_port(BETWEEN);
        // The satellite hears what was recorded instead of what its server says, but for Welcome and acks, which belong
        // to its own epoch and records.
        let answer = |fixture: &Path| {
            let said = recorded(fixture, "uplink-down.bin");
            let belongs = |message: &Vec<u8>| {
                let decoded = v1::UplinkDown::decode(&**message).unwrap().message;
                !matches!(decoded, Some(Down::Welcome(_) | Down::Ack(_)))
            };
            said.into_iter().filter(belongs).collect::<Vec<_>>()
        };
        for fixture in fixtures() {
            let script = answer(&fixture);
            let starts = script.iter().filter(|message| {
                matches!(v1::UplinkDown::decode(&***message).unwrap().message, Some(Down::StartScan(_)))
            });
            let asked = starts.count();
            let ends = Arc::new(AtomicUsize::new(0));
            let seen = ends.clone();
            let between =
                Between::start(&deployment, &satellite, BETWEEN, move |connection, way, message| {
                    if way == Way::Up && end_of(&message).is_some() {
                        seen.fetch_add(1, Ordering::SeqCst);
                    }
                    let welcome = way == Way::Down
                        && matches!(
                            v1::UplinkDown::decode(&*message).unwrap().message,
                            Some(Down::Welcome(_))
                        );
                    match welcome && connection == 1 {
                        // The Goodbye is the last; the satellite must come back after it.
                        true => [vec![message], script.clone()].concat(),
                        false => vec![message],
                    }
                });
            satellite.start();
            wait_until("the satellite to come back after the Goodbye", SOON, || between.connections() >= 2);
            wait_until("every scan to end", SOON, || ends.load(Ordering::SeqCst) >= asked);
            deployment.wait_for_status("office-1", "online");
            satellite.stop().ok();
        }
    });
}

fn end_of(message: &[u8]) -> Option<v1::ScanEnd> {
    match v1::UplinkUp::decode(message).unwrap().message {
        Some(Up::Record(v1::Record { body: Some(v1::record::Body::End(end)), .. })) => Some(end),
        _ => None,
    }
}

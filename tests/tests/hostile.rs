//! Peers that mean no good, and a machine that runs out of things: what was revoked or has expired is out, also on a
//! connection that is open, and the server goes on with what it can still do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use portolan_proto::v1::{
    self, PortState, goodbye::Reason, uplink_down::Message as Down, uplink_up::Message as Up,
};
use portolan_tests::client::{Client, Uplink, hello, host, observations, run};
use portolan_tests::deployment::{Deployment, tls_connection};
use portolan_tests::lab::{Host, Program, run_ok};
use portolan_tests::wait::{SOON, wait_until};
use portolan_tests::{in_lab, need};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tonic::Code;

/// What ends at once has ended by then, also on a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// How many established connections a host has to a server.
fn connections(host: &Host, deployment: &Deployment) -> usize {
    let filter = format!("dst {}", deployment.address());
    host.command("ss")
        .args(["-H", "-t", "-n", "state", "established", &filter])
        .run()
        .ok()
        .stdout
        .lines()
        .count()
}

/// Fails unless the stream ends without having let anybody in; returns the messages before its end.
fn turned_away(mut stream: Uplink) -> Vec<Down> {
    let (messages, status) = stream.rest();
    let let_in = messages.iter().any(|message| !matches!(message, Down::Goodbye(_)));
    assert!(!let_in, "let in: {messages:?}");
    assert!(status.is_some(), "ended without a reason");
    messages
}

// === revoked ===

#[test]
fn a_hello_held_back_until_after_the_revocation_lets_nobody_in() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let satellite = deployment.enrolled(&lab.host("office", "pc"), "office-1", &[]);
        let (client, operator) = (Client::satellite(&satellite, &deployment), Client::operator(&deployment));
        // The connection, and even the stream, stand before.
        let stream = client.uplink().unwrap();
        operator.revoke("office-1").unwrap();
        stream.send(Up::Hello(hello(1)));
        turned_away(stream);
        assert_eq!(deployment.status_of("office-1"), "revoked");
        assert!(!deployment.server_log().contains(" online"), "{}", deployment.server_log());
    });
}

#[test]
fn no_connection_of_a_revoked_satellite_outlives_the_revocation() {
    need!("ss", "openssl");
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let pc = lab.host("office", "pc");
        let satellite = deployment.enrolled(&pc, "office-1", &[]);
        let other = deployment.satellite(&lab.host("office", "other"), "office-2");
        // One that never says a word after its handshake.
        let silent = tls_connection(&pc, &deployment.address(), Some(&satellite.identity()));
        wait_until("its handshake", SOON, || silent.stdout().contains("SSL handshake has read"));
        let clients = [(); 3].map(|()| Client::satellite(&satellite, &deployment));
        // An answer on each proves that the server knows whose it is.
        let _streams = [1, 2].map(|n: usize| clients[n].uplink().unwrap());
        let mut live = clients[0].greeted(1);
        wait_until("every connection to stand", SOON, || connections(&pc, &deployment) == 4);

        let operator = Client::operator(&deployment);
        assert!(operator.revoke("office-1").unwrap().was_online);
        for client in &clients {
            assert!(client.uplink().is_err(), "a revoked satellite opens a new stream");
        }
        wait_until("every connection to end", AT_ONCE, || connections(&pc, &deployment) == 0);
        let (messages, _) = live.rest();
        let revoked =
            |message: &Down| matches!(message, Down::Goodbye(bye) if bye.reason() == Reason::Revoked);
        assert!(messages.iter().any(revoked), "the satellite was not told: {messages:?}");
        assert!(operator.status().is_ok() && other.is_running(), "nobody else is cut off");
        assert_eq!(deployment.status_of("office-2"), "online");
    });
}

// === expired ===

#[test]
fn an_operators_open_connection_ends_with_the_certificate() {
    need!("openssl");
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let scratch = lab.directory("short-lived");
        let operator = deployment.admin().identity();
        let operator = operator.short_lived_twin(Duration::from_secs(6), &deployment.data_dir(), &scratch);
        let connect = || Client::open(deployment.server_host(), &deployment, Some(&operator));
        let client = connect().unwrap();
        client.status().unwrap();
        wait_until("the connection to be refused", SOON, || client.status().is_err());
        assert!(client.status().is_err());
        // TLS 1.3 tells a client only after its own handshake.
        assert!(connect().is_err_and(|_| true) || connect().unwrap().status().is_err(), "let in again");
        assert!(Client::operator(&deployment).status().is_ok(), "nobody else is cut off");
    });
}

#[test]
fn a_satellites_open_connection_ends_with_the_certificate() {
    in_lab!(|lab| {
        let deployment = Deployment::new(lab);
        deployment.init().ok();
        deployment.start_with(&deployment.config("satellite_certificate_life = \"12s\"\n"));
        let satellite = deployment.enrolled(&lab.host("office", "pc"), "office-1", &[]);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.greeted(1);
        assert_eq!(deployment.status_of("office-1"), "online");
        stream.rest();
        let refused = client.uplink().err().expect("an expired certificate opens a new stream");
        assert!(
            [Code::PermissionDenied, Code::Unknown, Code::Unavailable].contains(&refused.code()),
            "{refused:?}"
        );
        deployment.wait_for_status("office-1", "offline");
        let again = Client::open(satellite.host(), &deployment, Some(&satellite.identity()));
        assert!(again.is_err() || again.unwrap().uplink().is_err(), "an expired certificate is let in");
    });
}

// === out of descriptors ===

/// Connects and says nothing, from several addresses, again and again until told to stop.
fn flood(server: SocketAddr, stop: &AtomicBool) {
    let mut held = VecDeque::new();
    let connect = |last: u8| -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into())?;
        socket.connect_timeout(&server.into(), Duration::from_millis(200))?;
        Ok(socket.into())
    };
    while !stop.load(Ordering::Relaxed) {
        for last in 2..10 {
            held.extend(connect(last));
        }
        // They stay until the server has lost patience with them.
        while held.len() > 8_000 {
            held.pop_front();
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sets the flag when a test ends, however it ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_flood_that_takes_every_descriptor_does_not_stop_the_store() {
    need!("prlimit", "curl");
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let [first, second] =
            ["office-1", "office-2"].map(|name| deployment.enrolled(&lab.host("office", name), name, &[]));
        let (client, operator) = (Client::satellite(&first, &deployment), Client::operator(&deployment));
        let mut stream = client.greeted(1);
        let server = deployment.server_id().to_string();
        let limit = ["--pid", &server, "--nofile=150:150"];
        run_ok(Program::new("prlimit").args(limit));

        let stop = &AtomicBool::new(false);
        thread::scope(|scope| {
            let ending = Stop(stop);
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, portolan_tests::deployment::PORT));
            let target = deployment.server_host().clone();
            scope.spawn(move || target.inside(|| flood(at, stop)));
            wait_until("the server to be out of descriptors", SOON, || {
                deployment.server_log().contains("out of descriptors")
            });
            for last in 1..=100 {
                let seen = host([10, 98, 0, last], vec![run(PortState::Open, 80, 80)]);
                stream.deliver(observations(last.into(), &[], &[seen]));
            }
            operator.revoke("office-2").expect("a revocation needs no descriptor");
            drop(ending);
        });
        wait_until("the server to take connections again", SOON, || deployment.get("/readyz").0 == "200");
        stream.deliver(observations(101, &[], &[]));
        // All of it was kept.
        deployment.crash();
        deployment.start();
        assert_eq!(kept(&deployment), (1..=100).collect());
        assert_eq!(deployment.status_of(second.name()), "revoked");
    });
}

// === out of disk ===

/// A data directory on a disk of its own, small enough to be filled.
fn small_disk(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let options = ["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"];
    run_ok(Program::new("mount").args(options).arg(directory));
}

/// Takes all that is left of a disk; returns the file to remove.
fn fill(directory: &Path) -> PathBuf {
    let filler = directory.join("filler");
    let _ = std::io::copy(&mut std::io::repeat(0), &mut fs::File::create(&filler).unwrap());
    filler
}

/// A record of some size about an address that no other record names.
fn bulky(sequence: u64) -> v1::Record {
    let [.., high, low] = sequence.to_be_bytes();
    let mut seen = host([10, 98, high, low], vec![run(PortState::Open, 1, 1), run(PortState::Closed, 2, 2)]);
    let spans = (0..4_000u32).flat_map(|n| [2 + n % 7, n % 3]).collect();
    seen.runs[1].ports = Some(v1::PortSpans { spans });
    observations(sequence, &[], &[seen])
}

/// The addresses with an open port, each as the number in its last two bytes.
fn kept(deployment: &Deployment) -> BTreeSet<u64> {
    let known = deployment.ask(&["ports"]);
    let address = |port: &Value| port["address"].as_str().unwrap().parse::<Ipv4Addr>().unwrap();
    let number = |[.., high, low]: [u8; 4]| u64::from(u16::from_be_bytes([high, low]));
    known.as_array().expect("a list").iter().map(|port| number(address(port).octets())).collect()
}

#[test]
fn a_full_disk_ends_no_revocation_and_loses_nothing_that_was_acked() {
    need!("curl");
    in_lab!(|lab| {
        let deployment = Deployment::new(lab);
        small_disk(&deployment.data_dir());
        deployment.init().ok();
        let settings = deployment.config("min_free = \"8MiB\"\n");
        deployment.start_with(&settings);
        let (pc, other) = (lab.host("office", "pc"), lab.host("office", "other"));
        let writer = deployment.enrolled(&pc, "office-1", &[]);
        let revoked = deployment.enrolled(&other, "office-2", &[]);
        let client = Client::satellite(&writer, &deployment);
        let mut stream = client.greeted(7);
        let other = Client::satellite(&revoked, &deployment);
        let mut other = other.greeted(8);
        for sequence in 1..=20 {
            stream.deliver(bulky(sequence));
        }

        let filler = fill(&deployment.data_dir());
        wait_until("the server to be unready", SOON, || deployment.get("/readyz").0 == "503");
        // What comes now is kept waiting, without an ack; the connection stays.
        for sequence in 21..=30 {
            stream.send(Up::Record(bulky(sequence)));
        }
        assert_eq!(deployment.get("/healthz").0, "200");
        let status = deployment.ask(&["status"]);
        assert_eq!(status["problems"][0]["kind"], "store-full", "{status}");

        deployment.console(&["satellite", "revoke", "office-2"]).ok();
        let (messages, status) = other.rest();
        let goodbye =
            |message: &Down| matches!(message, Down::Goodbye(bye) if bye.reason() == Reason::Revoked);
        assert!(messages.iter().any(goodbye), "{messages:?} {status:?}");
        assert!(!deployment.server_log().contains("panicked at"), "{}", deployment.server_log());
        deployment.crash();
        deployment.start_with(&settings);
        assert_eq!(deployment.status_of("office-2"), "revoked", "the ballast made room for it");
        assert_eq!(kept(&deployment), (1..=20).collect(), "what was acked, and nothing more");

        fs::remove_file(filler).unwrap();
        wait_until("the server to be ready again", SOON, || deployment.get("/readyz").0 == "200");
        let client = Client::satellite(&writer, &deployment);
        let mut stream = client.uplink().unwrap();
        assert_eq!(stream.greet(hello(7)).acked_sequence, 20);
        for sequence in 21..=30 {
            stream.deliver(bulky(sequence));
        }
        assert_eq!(kept(&deployment), (1..=30).collect());
    });
}

//! Attacks on what the server has: memory, time, descriptors. Whatever a peer sends, the server stays small and answers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use portolan_proto::v1::{self, PortState, uplink_up::Message as Up};
use portolan_tests::client::{Client, hello, host, observations, run};
use portolan_tests::deployment::Deployment;
use portolan_tests::lab::{Host, Program};
use portolan_tests::wait::{SOON, wait_until};
use portolan_tests::{in_lab, need};

/// Resident memory that no satellite can make the server go beyond.
const MEMORY_MIB: u64 = 150;
/// Connections on which a satellite says half of many things at once.
const CONNECTIONS: usize = 8;
/// What a console command takes at most while somebody keeps the server busy.
const PATIENCE: Duration = Duration::from_secs(15);

/// The most memory that the server ever had resident, in MiB.
fn peak_memory(deployment: &Deployment) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", deployment.server_id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[track_caller]
fn stays_small_and_answers(deployment: &Deployment, what: &str) {
    deployment.console_command(&["satellite", "list"]).limit(PATIENCE).run().ok();
    let peak = peak_memory(deployment);
    assert!(peak < MEMORY_MIB, "{what} made the server grow to {peak} MiB");
    assert!(!deployment.server_log().contains("panicked at"), "{what}: {}", deployment.server_log());
}

/// The class of Icinga 2 GHSA-wm63-p2jg-5665.
#[test]
fn authenticated_peer_exhausts_memory() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let satellite = deployment.enrolled(&lab.host("office", "pc"), "office-1", &[]);
        let client = Client::satellite(&satellite, &deployment);
        let mut stream = client.greeted(1);
        let mut sequence = 0;
        let mut flood = |what: &str, record: v1::Record| {
            for _ in 0..40 {
                sequence += 1;
                assert!(
                    stream.send(Up::Record(v1::Record { sequence, ..record.clone() })),
                    "{what} ended it"
                );
            }
            stays_small_and_answers(&deployment, what);
            stream.acked(sequence).unwrap();
            stays_small_and_answers(&deployment, what);
        };
        let raw =
            |bytes| v1::Record { body: Some(v1::record::Body::Observations(bytes)), ..Default::default() };
        flood("a million empty hosts", raw(vec![0; 1_200_000]));
        let bare = host([10, 98, 0, 1], vec![]);
        let state = |n: u32| [PortState::Open, PortState::Closed, PortState::Filtered][n as usize % 3];
        let runs = (0..60_000).map(|n| run(state(n), n, n)).collect();
        flood("a run for every port", observations(0, &[], &[host([10, 98, 0, 1], runs)]));
        let empty = v1::HostObservation { runs: vec![v1::StateRun::default(); 500_000], ..bare.clone() };
        flood("half a million empty runs", observations(0, &[], &[empty]));
        let detail = v1::PortDetail { protocol: 1, port: 80, rtt_us: 1 };
        let details = v1::HostObservation { details: vec![detail; 100_000], ..bare.clone() };
        flood("a hundred thousand details of one port", observations(0, &[], &[details]));
        let spans = Some(v1::PortSpans { spans: vec![0; 1_000_000] });
        let spans = v1::HostObservation { unscanned_tcp: spans, ..bare.clone() };
        flood("half a million times port 0", observations(0, &[], &[spans]));
        flood("one address 30,000 times", observations(0, &[], &vec![bare; 30_000]));
        let ports: Vec<String> = (0..10_000u32).map(|n| (n * 2 + 1).to_string()).collect();
        let addresses =
            (0..100_000u32).map(|n| std::net::Ipv4Addr::from_bits(n * 2).to_string()).take(60_000);
        let coverage = vec![v1::Coverage { addresses: addresses.collect(), ports: ports.join(",") }];
        let end = v1::ScanEnd { coverage, ..v1::ScanEnd::default() };
        let end = v1::Record {
            scan_id: vec![1; 16],
            body: Some(v1::record::Body::End(end)),
            ..v1::Record::default()
        };
        flood("the end of a scan that claims to have covered all", end);
    });
}

#[test]
fn a_greeting_of_a_megabyte_leaves_nothing_behind() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let satellite = deployment.enrolled(&lab.host("office", "pc"), "office-1", &[]);
        let client = Client::satellite(&satellite, &deployment);
        let greetings = [
            v1::Hello { version: "v".repeat(1 << 20), ..hello(1) },
            v1::Hello { capabilities: vec!["c".repeat(30); 30_000], ..hello(1) },
            v1::Hello { running_scans: vec![vec![7; 16]; 60_000], ..hello(1) },
            v1::Hello { epoch: vec![7; 1 << 20], ..hello(1) },
        ];
        for greeting in greetings.iter().cycle().take(40) {
            let mut stream = client.uplink().unwrap();
            stream.send(Up::Hello(greeting.clone()));
            stream.close();
            stream.rest();
            stays_small_and_answers(&deployment, "a large greeting");
        }
        let listed = deployment.ask(&["satellite", "list"]).to_string();
        assert!(listed.len() < 4_000, "{} bytes", listed.len());
    });
}

#[test]
fn messages_begun_and_not_ended_stay_within_bounds() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let satellite = deployment.enrolled(&lab.host("office", "pc"), "office-1", &[]);
        let hosts = [satellite.host().clone(), lab.host("office", "other")];
        let clients = [(); CONNECTIONS].map(|()| Client::satellite(&satellite, &deployment));
        for client in &clients {
            for _ in 0..60 {
                client.half_said("portolan.v1.Uplink/Connect", 1_300_000, 1_250_000);
            }
        }
        let strangers: Vec<Client> =
            hosts.iter().map(|host| Client::open(host, &deployment, None).unwrap()).collect();
        for stranger in &strangers {
            for _ in 0..60 {
                stranger.half_said("portolan.v1.Enrollment/Enroll", 16_000, 15_900);
                stranger.half_said("portolan.v1.Enrollment/Enroll", u32::MAX, 1 << 20);
            }
        }
        for _ in 0..10 {
            stays_small_and_answers(&deployment, "unfinished messages");
        }
    });
}

// === port scanners ===

/// How many descriptors the server has open.
fn descriptors(deployment: &Deployment) -> usize {
    fs::read_dir(format!("/proc/{}/fd", deployment.server_id())).expect("it runs").count()
}

/// Connects, says these bytes, and either waits for the server to hang up or goes at once.
fn say(from: &Host, server: SocketAddr, bytes: &[u8], patient: bool) {
    from.inside(|| {
        // Who has too many connections open already gets a reset instead.
        let Ok(mut stream) = TcpStream::connect_timeout(&server, SOON) else { return };
        stream.set_read_timeout(Some(SOON)).unwrap();
        // It may hang up at any time.
        let _ = stream.write_all(bytes);
        if patient {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
}

/// The class of Icinga 2 #6559 and #7244.
#[test]
fn crash_or_leak_when_port_scanned() {
    need!("nmap", "curl", "openssl");
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let satellite = deployment.satellite(&lab.host("office", "pc"), "office-1");
        let scanner = lab.host("office", "scanner");
        let (server, address) = (deployment.server_host().at(7443), deployment.address());
        let before = descriptors(&deployment);

        for kind in [&["-sT"][..], &["-sT", "-sV", "--version-light"]] {
            let nmap = scanner.command("nmap").args(kind.iter().copied()).args(["-n", "-Pn", "-p", "7443"]);
            let seen = nmap.arg(server.ip().to_string()).limit(Duration::from_secs(120)).run();
            assert!(seen.ok().stdout.contains("7443/tcp open"), "{seen}");
        }
        let url = format!("http://{address}/healthz");
        scanner.command("curl").args(["--silent", "--max-time", "20", &url]).run();
        scanner.command("openssl").args(["s_client", "-tls1_2", "-connect", &address]).run();
        // A ClientHello that promises 512 bytes, of which none come.
        let half = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        let noise: Vec<u8> = (0..4_096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let ssl2 = [0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10];
        let words: [&[u8]; 7] = [&half, &noise, http2, &ssl2, b"GET / HTTP/1.0\r\n\r\n", b"\r\n\r\n", b""];
        for (n, words) in words.iter().cycle().take(300).enumerate() {
            // Every handshake that does not come to its end takes 5 s of patience.
            say(&scanner, server, words, n < 3);
        }
        wait_until("every descriptor to be given back", SOON, || descriptors(&deployment) <= before + 2);
        let log = deployment.server_log();
        assert!(!log.contains("panicked at") && !log.contains("ERROR"), "{log}");
        assert!(satellite.is_running());
        assert_eq!(satellite.log().matches(" connected").count(), 1, "{}", satellite.log());
        assert_eq!(deployment.status_of("office-1"), "online");
    });
}

// === a disk that takes its time ===

/// The class of Wazuh CVE-2026-25771.
#[test]
fn blocking_io_in_the_authentication_path() {
    need!("strace");
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let satellite = deployment.satellite(&lab.host("office", "pc"), "office-1");
        // Every write to the disk now takes very long to be durable.
        let server = deployment.server_id().to_string();
        let slow =
            ["-f", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=20000000", "-p", &server];
        let mut disk = Program::new("strace").args(slow).spawn();
        disk.wait_for_stderr("attached", SOON);
        let mut waiting =
            deployment.console_command(&["satellite", "add", "office-2", "--segment", "x"]).spawn();
        wait_until("the disk to be asked", SOON, || disk.stderr().contains("fdatasync("));

        let identity = satellite.identity();
        for _ in 0..20 {
            Client::operator(&deployment).status().expect("an operator is known without the disk");
            Client::open(satellite.host(), &deployment, Some(&identity)).expect("so is a satellite");
            let nobody = Client::anonymous(&deployment);
            assert!(nobody.status().is_err(), "and nobody");
        }
        assert!(waiting.is_running(), "the disk was not slow, so nothing was tested:\n{}", disk.stderr());
        assert_eq!(deployment.status_of("office-1"), "online");
        drop(disk);
        waiting.wait(SOON * 2).ok();
    });
}

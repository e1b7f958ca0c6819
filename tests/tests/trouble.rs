//! What goes wrong beneath a scan: an interface that goes down, a way that is not there, a gateway that moves, a stranger
//! who answers in the target's name, and connections of the satellite's own host that must not notice any of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_tests::chance::Chance;
use portolan_tests::deployment::Scan;
use portolan_tests::lab::{Firewall, Lab, Process, Program, Syn, run_ok, tcp};
use portolan_tests::scene::OpenScene;
use portolan_tests::wait::{SOON, wait_until};
use portolan_tests::{in_lab, need, skip};

const OPEN: [u16; 3] = [22, 80, 443];

/// Begins a scan that takes some seconds, and waits until it is under way.
fn begin(lab: &Lab, scene: &OpenScene, more: &[&str]) -> Process {
    lab.firewall(&Firewall::open().count("probes", "office", "dmz", tcp("-")).count(
        "second",
        portolan_tests::lab::Place::Host("10.98.1.2".parse().unwrap(), "fd00:98::2".parse().unwrap()),
        "dmz",
        tcp("-"),
    ));
    let target = scene.shop.v4().to_string();
    let mut args = vec!["scan", &target, "-p", "1-1000", "--from", "office-1", "-o", "json", "--all"];
    args.extend(more);
    let console = scene.deployment.console_command(&args).spawn();
    wait_until("probes to pass", SOON, || lab.packets("probes") + lab.packets("second") > 100);
    console
}

fn end(console: Process) -> Scan {
    let scan = Scan::new(console.wait(Duration::from_secs(60)));
    scan.code_is(0);
    assert_eq!(scan.satellite("office-1")["method"], "syn");
    scan
}

fn states(scan: &Scan, address: IpAddr) -> String {
    scan.verdicts("office-1").of(address).to_string()
}

/// A port whose SYN's sequence number the stranger uses.
const KNOWN: u16 = 505;

const RIGHT: &str = "open 22,80,443; closed 1-21,23-79,81-442,444-1000";

#[test]
fn an_interface_that_goes_down_in_a_scan_holds_it_up_and_no_more() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&OPEN);
        let link = lab.second_link(&scene.pc, &lab.segment("dmz").v4.to_string());
        let console = begin(lab, &scene, &["--max-rate", "400"]);
        link.down();
        let sent = lab.packets("second");
        std::thread::sleep(Duration::from_millis(1_500));
        assert_eq!(lab.packets("probes"), 0, "probes took another way");
        assert_eq!(lab.packets("second"), sent);
        link.up();
        assert_eq!(states(&end(console), scene.shop.v4()), RIGHT);
    });
}

#[test]
fn an_interface_that_stays_down_leaves_the_host_unfinished() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&OPEN);
        let link = lab.second_link(&scene.pc, &lab.segment("dmz").v4.to_string());
        let console = begin(lab, &scene, &["--max-rate", "400"]);
        link.down();
        // The satellite is cut off: that says nothing about the target.
        let scan = Scan::new(console.wait(Duration::from_secs(90)));
        scan.code_is(4).finished().says(&["the way to", "lost"]);
        assert_eq!(scan.satellite("office-1")["complete"], false);
        assert_eq!(scan.document()["hosts"], serde_json::json!([]));
    });
}

#[test]
fn without_a_route_a_host_is_filtered_and_the_others_are_not() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&OPEN);
        // No way there, by the routing table's own word: the default route counts no more.
        let route = |words: &[&str]| run_ok(scene.pc.command("ip").args(words.iter().copied()));
        route(&["route", "add", "throw", "10.99.200.0/24"]);
        route(&["route", "add", "unreachable", "10.99.201.0/24"]);
        route(&["route", "add", "prohibit", "10.99.202.0/24"]);
        let shop = scene.shop.v4().to_string();
        let nowhere = ["10.99.200.1", "10.99.201.1", "10.99.202.1"];
        let [thrown, unreachable, prohibited] = nowhere;
        let args = [&shop, thrown, unreachable, prohibited, "-p", "79-80", "--from", "office-1", "--all"];
        let scan = scene.deployment.scan(&args);
        scan.code_is(0);
        assert_eq!(states(&scan, scene.shop.v4()), "open 80; closed 79");
        let expected = ["net-unreach", "host-unreach", "admin-prohibited"];
        for (address, word) in nowhere.into_iter().zip(expected) {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(states(&scan, address), "filtered 79-80");
            assert_eq!(scan.verdicts("office-1").reason(address, 80).word, word, "{address}");
            assert_eq!(scan.host("office-1", address)["up"], false);
        }
    });
}

/// The gateway's link-layer address becomes another one in mid-scan, as when a standby router takes over, and frames to
/// the old one are nobody's.
fn gateway_moves(lab: &Lab, announced: bool) {
    let scene = OpenScene::build(lab);
    let _listener = scene.shop.listen(&OPEN);
    let announce = |on: &str| {
        lab.router().sysctl("net.ipv4.conf.office.arp_notify", on);
        lab.router().sysctl("net.ipv6.conf.office.ndisc_notify", on);
    };
    let moves = |address| {
        let change = ["link", "set", "dev", "office", "address", address];
        run_ok(lab.router().command("ip").args(change));
    };
    announce("1");
    // A bridge that never had an address of its own also takes what is meant for its ports.
    moves("02:00:00:00:99:01");
    let console = begin(lab, &scene, &["--max-rate", "300"]);
    announce(if announced { "1" } else { "0" });
    moves("02:00:00:00:99:02");
    assert_eq!(states(&end(console), scene.shop.v4()), RIGHT);
}

#[test]
fn a_gateway_that_moves_and_announces_it_is_followed() {
    in_lab!(|lab| gateway_moves(lab, true));
}

#[test]
fn a_gateway_that_moves_in_silence_is_found_again() {
    in_lab!(|lab| gateway_moves(lab, false));
}

#[test]
fn a_device_queue_that_is_always_full_costs_time_and_no_port() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&OPEN);
        if let Err(why) = lab.tunnel(&scene.pc) {
            skip!("{why}");
        }
        run_ok(scene.pc.command("ip").args(["link", "set", "tun0", "txqueuelen", "5"]));
        for address in [scene.shop.v4(), scene.shop.v6()] {
            let target = address.to_string();
            let scan = scene.deployment.scan(&[&target, "-p", "1-3000", "--from", "office-1"]);
            scan.code_is(0);
            assert_eq!(states(&scan, address), "open 22,80,443; closed 1-21,23-79,81-442,444-3000");
        }
    });
}

#[test]
fn a_satellite_short_of_descriptors_says_so_and_goes_on_living() {
    need!("prlimit");
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&OPEN);
        let (id, target) = (scene.office.id().to_string(), scene.shop.v4().to_string());
        let used = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
        let limit = |most: usize| {
            let limit = format!("--nofile={most}:1024");
            run_ok(Program::new("prlimit").args(["--pid", &id, &limit]));
        };
        let scan = || scene.deployment.scan(&[&target, "-p", "80", "--from", "office-1"]);
        // A block of source ports takes sixteen.
        limit(used + 8);
        scan().code_is(4).finished().says(&["too many open files"]);
        limit(1_024);
        assert_eq!(states(scan().code_is(0), scene.shop.v4()), "open 80");
    });
}

#[test]
fn scans_of_the_same_host_side_by_side_do_not_mistake_one_anothers_answers() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&OPEN);
        lab.firewall(&Firewall::open().drop("office", "dmz", tcp("500-600")));
        let target = scene.shop.v4().to_string();
        let args = ["scan", &target, "-p", "1-1000", "--from", "office-1", "-o", "json"];
        let consoles: Vec<Process> =
            (0..4).map(|_| scene.deployment.console_command(&args).spawn()).collect();
        for console in consoles {
            let expected = "open 22,80,443; closed 1-21,23-79,81-442,444-499,601-1000; filtered 500-600";
            assert_eq!(states(&end(console), scene.shop.v4()), expected);
        }
    });
}

/// The stranger sees addresses and ports of every SYN, at once, and the answers reach the satellite before the target's.
#[test]
fn forged_answers_change_nothing() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&OPEN);
        lab.firewall(&Firewall::open().drop("office", "dmz", tcp("500-520")));
        let mut chance = Chance::new(99);
        let stranger = lab.segment("office").gateway4();
        let tap = lab.tap(move |syn| {
            if syn.to.port() == KNOWN {
                return vec![syn.reset(syn.sequence.wrapping_add(1))];
            }
            let mut guess = || u32::try_from(chance.below(1 << 32)).unwrap_or_default();
            vec![
                syn.syn_ack(guess()),
                syn.reset(guess()),
                syn.prohibited(stranger, guess()),
                syn.syn_ack(0),
                syn.reset(1),
            ]
        });
        let target = scene.shop.v4().to_string();
        let scan = scene.deployment.scan(&[&target, "-p", "1-1000", "--from", "office-1", "--all"]);
        scan.code_is(0);
        // Who knows the sequence number is on the path, and is believed: so the forgeries do arrive.
        let expected =
            "open 22,80,443; closed 1-21,23-79,81-442,444-499,505,521-1000; filtered 500-504,506-520";
        assert_eq!(states(&scan, scene.shop.v4()), expected);
        assert_eq!(scan.verdicts("office-1").reason(scene.shop.v4(), 510).word, "no-response");
        let told = tap.seen().iter().filter(|syn| u16::try_from(510) == Ok(syn.to.port())).count();
        assert!(told >= 4, "the stranger saw {told} SYNs to port 510");
    });
}

#[test]
fn connections_of_the_same_host_go_on_beside_a_scan_and_never_from_its_ports() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&[80]);
        let tap = lab.tap(|_| Vec::new());
        lab.firewall(&Firewall::open().drop("office", "dmz", tcp("81-2000")));
        let (done, other) = (AtomicBool::new(false), scene.shop.at(80));
        let pc = scene.pc.clone();
        let scan = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                pc.inside(|| {
                    let mut made = 0;
                    while !done.load(Ordering::Relaxed) && made < 20_000 {
                        let stream = TcpStream::connect_timeout(&other, Duration::from_secs(5));
                        drop(stream.expect("the connection is made"));
                        made += 1;
                    }
                })
            });
            let target = scene.shop.v4().to_string();
            let scan = scene.deployment.scan(&[&target, "-p", "81-2000", "--from", "office-1"]);
            done.store(true, Ordering::Relaxed);
            client.join().expect("every connection is made");
            scan
        });
        scan.code_is(0);
        assert_eq!(states(&scan, scene.shop.v4()), "filtered 81-2000");
        // In the order in which the router saw them: what the kernel does with the ports before and after is its affair.
        let syns: Vec<Syn> =
            tap.seen().into_iter().filter(|syn| IpAddr::from(*syn.to.ip()) == scene.shop.v4()).collect();
        let first = syns.iter().position(|syn| syn.to.port() > 80).expect("probes");
        let last = syns.iter().rposition(|syn| syn.to.port() > 80).expect("probes");
        let (probes, others): (Vec<&Syn>, Vec<&Syn>) =
            syns[first..=last].iter().partition(|syn| syn.to.port() > 80);
        let block: BTreeSet<u16> = probes.iter().map(|syn| syn.from.port()).collect();
        assert!(block.len() > 3 && block.len() <= 16, "probes came from {block:?}");
        assert!(others.len() > 100, "{} connections beside the scan", others.len());
        let taken: BTreeSet<u16> = others.iter().map(|syn| syn.from.port()).collect();
        assert_eq!(block.intersection(&taken).count(), 0, "{block:?} were given away");
        assert!(!scene.office.log().contains("the connection broke"), "{}", scene.office.log());
    });
}

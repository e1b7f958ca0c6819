//! The SYN scan against nmap's, on every state and every reason, over both families, near, far, slow and lossy.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::IpAddr;
use std::time::Duration;

use portolan_tests::deployment::{Deployment, Scan};
use portolan_tests::lab::{Firewall, Lab, Listener, Program, run_ok, tcp};
use portolan_tests::scene::OpenScene;
use portolan_tests::{in_lab, judge, need, ports, skip};

/// Ports of which the firewall treats each kind differently.
const ASKED: &str = "78-99";
const OPEN: [u16; 4] = [80, 81, 85, 90];

fn rules() -> Firewall {
    Firewall::open()
        .drop("office", "dmz", tcp("81,91-92"))
        .reset("office", "dmz", tcp("82"))
        .prohibit("office", "dmz", tcp("83"))
        .host_unreachable("office", "dmz", tcp("84"))
        .port_unreachable("office", "dmz", tcp("85"))
}

/// The scene under [`rules`], with listeners.
fn stage(lab: &Lab) -> (OpenScene, Listener) {
    let scene = OpenScene::build(lab);
    let listener = scene.shop.listen(&OPEN);
    lab.firewall(&rules());
    (scene, listener)
}

fn scan(deployment: &Deployment, targets: &[IpAddr], ports: &str) -> Scan {
    let targets: Vec<String> = targets.iter().map(IpAddr::to_string).collect();
    let mut args: Vec<&str> = targets.iter().map(String::as_str).collect();
    args.extend(["-p", ports, "--from", "office-1", "--all"]);
    let scan = deployment.scan(&args);
    scan.code_is(0);
    assert_eq!(scan.satellite("office-1")["method"], "syn");
    scan
}

#[test]
fn every_state_and_every_reason_is_nmaps_over_both_families() {
    need!("nmap");
    in_lab!(|lab| {
        let (scene, _listener) = stage(lab);
        let targets = [scene.shop.v4(), scene.shop.v6()];
        let scan = scan(&scene.deployment, &targets, ASKED);
        let seen = scan.verdicts("office-1");
        for address in targets {
            let told = seen.of(address).to_string();
            assert_eq!(told, "open 80,90; closed 78-79,82,86-89,93-99; filtered 81,83-85,91-92");
            assert_eq!(scan.host("office-1", address)["up"], true);
            // The router resets port 82 in the shop's name, one hop nearer.
            assert_eq!(scan.host("office-1", address)["suspect"], "rst-injection");
            let rtt = &scan.port("office-1", address, 80).unwrap()["rtt_us"];
            assert!(rtt.as_u64().is_some_and(|rtt| rtt > 0), "no round trip time: {rtt}");
        }
        let judged = judge::nmap_syn(&scene.pc, &targets, ASKED);
        seen.same_with_reasons_as(&judged, ("office-1", "nmap"));
    });
}

#[test]
fn a_delayed_path_shows_the_same() {
    need!("nmap");
    in_lab!(|lab| {
        let (scene, _listener) = stage(lab);
        if let Err(why) = lab.delay("office", Duration::from_millis(20)) {
            skip!("{why}");
        }
        let targets = [scene.shop.v4(), scene.shop.v6()];
        let scan = scan(&scene.deployment, &targets, ASKED);
        let rtt = scan.port("office-1", targets[0], 80).unwrap()["rtt_us"].as_u64().unwrap();
        assert!(rtt >= 20_000, "a round trip of {rtt} us on a path that takes 20 ms");
        let judged = judge::nmap_syn(&scene.pc, &targets, ASKED);
        scan.verdicts("office-1").same_with_reasons_as(&judged, ("office-1", "nmap"));
    });
}

#[test]
fn a_path_that_loses_packets_hides_nothing() {
    in_lab!(|lab| {
        let (scene, _listener) = stage(lab);
        lab.firewall(&rules().lose("office", "dmz", 5).lose("dmz", "office", 5));
        let targets = [scene.shop.v4(), scene.shop.v6()];
        let scan = scan(&scene.deployment, &targets, "1-1000");
        for address in targets {
            let told = scan.verdicts("office-1").of(address).to_string();
            assert_eq!(told, "open 80,90; closed 1-79,82,86-89,93-1000; filtered 81,83-85,91-92");
        }
    });
}

#[test]
fn hosts_on_the_link_and_beyond_that_are_not_there_are_told_apart() {
    need!("nmap");
    in_lab!(|lab| {
        let (scene, _listener) = stage(lab);
        let neighbour = lab.host("office", "neighbour");
        let _web = neighbour.listen(&[80]);
        let (office, dmz) = (lab.segment("office").address(77), lab.segment("dmz").address(77));
        let near_dead: [IpAddr; 2] = [office.0.into(), office.1.into()];
        let far_dead: [IpAddr; 2] = [dmz.0.into(), dmz.1.into()];
        let near = [neighbour.v4(), neighbour.v6()];
        let targets = [near, near_dead, far_dead].concat();
        let scan = scan(&scene.deployment, &targets, "79-80");
        let seen = scan.verdicts("office-1");
        for address in near {
            assert_eq!(seen.of(address).to_string(), "open 80; closed 79");
            assert_eq!(scan.host("office-1", address)["up"], true);
        }
        for address in near_dead.into_iter().chain(far_dead) {
            assert_eq!(seen.of(address).to_string(), "filtered 79-80");
            assert_eq!(scan.host("office-1", address)["up"], false);
        }
        for address in near_dead {
            assert_eq!(seen.reason(address, 80).word, "host-unreach", "of {address}");
        }
        assert_eq!(scan.satellite("office-1")["hosts_up"], 2);
        let judged = judge::nmap_syn(&scene.pc, &[near, far_dead].concat(), "79-80");
        for address in near.into_iter().chain(far_dead) {
            assert_eq!(judged.of(address), seen.of(address), "{address}");
        }
    });
}

#[test]
fn a_satellite_scans_itself_and_its_loopback() {
    in_lab!(|lab| {
        let (scene, _listener) = stage(lab);
        let _own = scene.pc.listen(&[2222]);
        let loopback: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let targets = [[scene.pc.v4(), scene.pc.v6()], loopback].concat();
        let scan = scan(&scene.deployment, &targets, "2221-2223");
        for address in targets {
            let told = scan.verdicts("office-1").of(address).to_string();
            assert_eq!(told, "open 2222; closed 2221,2223", "{address}");
        }
    });
}

#[test]
fn a_path_without_ethernet_shows_the_same() {
    need!("nmap");
    in_lab!(|lab| {
        let (scene, _listener) = stage(lab);
        if let Err(why) = lab.tunnel(&scene.pc) {
            skip!("{why}");
        }
        let targets = [scene.shop.v4(), scene.shop.v6()];
        let scan = scan(&scene.deployment, &targets, ASKED);
        let judged = judge::nmap_syn(&scene.pc, &targets, ASKED);
        scan.verdicts("office-1").same_with_reasons_as(&judged, ("office-1", "nmap"));
    });
}

/// Probes that go by the kernel's own way meet the satellite's own firewall, which says so.
#[test]
fn the_satellites_own_firewall_is_a_reason_of_its_own() {
    in_lab!(|lab| {
        let (scene, _listener) = stage(lab);
        if let Err(why) = lab.tunnel(&scene.pc) {
            skip!("{why}");
        }
        let rules = "table inet own { chain out { type filter hook output priority 0;\n tcp dport 86-87 drop\n \
             }\n}\n";
        run_ok(scene.pc.command("nft").args(["-f", "-"]).stdin(rules));
        let target = scene.shop.v4();
        let scan = scan(&scene.deployment, &[target], "78-80,86-88");
        let seen = scan.verdicts("office-1");
        assert_eq!(seen.of(target).to_string(), "open 80; closed 78-79,88; filtered 86-87");
        assert_eq!(seen.reason(target, 86).word, "admin-prohibited");
    });
}

#[test]
fn a_syn_scan_leaves_no_half_open_connection_and_a_connect_scan_no_pile() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let open: Vec<u16> = (3_000..3_200).collect();
        let _listener = scene.shop.listen(&open);
        let count = |program: Program, state: &str| {
            run_ok(program.args(["-Htan", "state", state])).stdout.lines().count()
        };
        let target = scene.shop.v4();
        let seen = scan(&scene.deployment, &[target], "2990-3209");
        assert_eq!(seen.verdicts("office-1").of(target).open, ports::parse("3000-3199"));
        assert_eq!(count(scene.shop.command("ss"), "syn-recv"), 0, "half-open connections on the target");
        let target = target.to_string();
        let args = [&target, "-p", "2990-3209", "--from", "office-1", "--method", "connect"];
        let connected = scene.deployment.scan(&args);
        connected.code_is(0);
        assert_eq!(connected.satellite("office-1")["method"], "connect");
        for host in [&scene.pc, &scene.shop] {
            // The uplink and the console may leave one or two of their own.
            let left = count(host.command("ss"), "time-wait");
            assert!(left < 10, "{left} connections in TIME_WAIT on {}", host.name());
        }
    });
}

//! The UDP scan against nmap's: real services, closed ports under a limit of ICMP errors, firewalls, and TCP beside it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::IpAddr;

use portolan_tests::deployment::Scan;
use portolan_tests::lab::{self, Firewall, udp};
use portolan_tests::scene::OpenScene;
use portolan_tests::{in_lab, judge, need};

fn scan(scene: &OpenScene, targets: &[IpAddr], args: &[&str]) -> Scan {
    let targets: Vec<String> = targets.iter().map(IpAddr::to_string).collect();
    let mut all: Vec<&str> = targets.iter().map(String::as_str).collect();
    all.extend(["--from", "office-1", "--all"]);
    all.extend(args);
    let scan = scene.deployment.scan(&all);
    scan.code_is(0);
    scan
}

fn rules() -> Firewall {
    Firewall::open()
        .drop("office", "dmz", udp("70,162"))
        .prohibit("office", "dmz", udp("71"))
        .host_unreachable("office", "dmz", udp("72"))
        .port_unreachable("office", "dmz", udp("73"))
}

#[test]
fn every_state_and_every_reason_is_nmaps_over_both_families() {
    need!("nmap", "dnsmasq");
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _dns = lab::dnsmasq(&scene.shop, 53);
        lab::echo_udp(&scene.shop, &[123, 161, 5060]);
        lab.firewall(&rules());
        let targets = [scene.shop.v4(), scene.shop.v6()];
        let ports = "53,70-75,123,161-162,5060";
        let scan = scan(&scene, &targets, &["-p", ports, "--method", "udp"]);
        assert_eq!(scan.satellite("office-1")["method"], "udp");
        let seen = scan.verdicts_of("office-1", "udp");
        for address in targets {
            let told = seen.of(address).to_string();
            let expected = "open 53,123,161,5060; closed 74-75; filtered 71-73; open|filtered 70,162";
            assert_eq!(told, expected, "{address}");
            assert_eq!(seen.reason(address, 53).word, "udp-response");
            assert_eq!(seen.reason(address, 74).word, "port-unreach");
            assert_eq!(seen.reason(address, 70).word, "no-response");
        }
        let judged = judge::nmap_udp(&scene.pc, &targets, ports);
        seen.same_with_reasons_as(&judged, ("office-1", "nmap"));
    });
}

#[test]
fn a_limit_of_icmp_errors_is_waited_for_and_no_port_mislabelled() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        lab::echo_udp(&scene.shop, &[53, 123]);
        lab.firewall(&Firewall::open().drop("office", "dmz", udp("60-61")));
        scene.shop.icmp_rate_limit(true);
        let target = scene.shop.v4();
        let scan = scan(&scene, &[target], &["-p", "U:50-67,123"]);
        let told = scan.verdicts_of("office-1", "udp").of(target).to_string();
        assert_eq!(told, "open 53,123; closed 50-52,54-59,62-67; open|filtered 60-61");
    });
}

#[test]
fn a_budget_ends_the_wait_and_says_so() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        lab::echo_udp(&scene.shop, &[53, 123]);
        scene.shop.icmp_rate_limit(true);
        let target = scene.shop.v4();
        let scan = scan(&scene, &[target], &["-p", "U:1-200", "--udp-budget", "3s"]);
        let verdicts = scan.verdicts_of("office-1", "udp");
        let seen = verdicts.of(target);
        assert_eq!(portolan_tests::ports::format(&seen.open), "53,123");
        assert!(seen.filtered.is_empty(), "{seen}");
        // Six at once, then one a second.
        assert!((6..20).contains(&seen.closed.len()), "{seen}");
        assert_eq!(seen.open.len() + seen.closed.len() + seen.open_filtered.len(), 200);
        for port in &seen.open_filtered {
            assert_eq!(verdicts.reason(target, *port).word, "icmp-rate-limited", "port {port}");
        }
    });
}

#[test]
fn tcp_and_udp_ports_are_scanned_side_by_side() {
    need!("dnsmasq");
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _dns = lab::dnsmasq(&scene.shop, 53);
        let _ssh = scene.shop.listen(&[22]);
        let targets = [scene.shop.v4(), scene.shop.v6()];
        let scan = scan(&scene, &targets, &["-p", "T:22-23,53,U:53-54"]);
        assert_eq!(scan.satellite("office-1")["method"], "syn, udp");
        for address in targets {
            assert_eq!(scan.verdicts("office-1").of(address).to_string(), "open 22,53; closed 23");
            let datagrams = scan.verdicts_of("office-1", "udp");
            assert_eq!(datagrams.of(address).to_string(), "open 53; closed 54");
        }
    });
}

#[test]
fn a_path_that_loses_packets_hides_no_service() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        lab::echo_udp(&scene.shop, &[53, 123, 161, 500, 1900]);
        lab.firewall(&Firewall::open().lose("office", "dmz", 5).lose("dmz", "office", 5));
        let target = scene.shop.v4();
        let scan = scan(&scene, &[target], &["-p", "U:50-79,123,161,500,1900"]);
        let told = scan.verdicts_of("office-1", "udp").of(target).to_string();
        assert_eq!(told, "open 53,123,161,500,1900; closed 50-52,54-79");
    });
}

//! Devices that lie: what answers for everything, holds on to who connects, or resets in the target's name is told, and
//! nothing of what was seen is left out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::IpAddr;

use portolan_tests::deployment::Scan;
use portolan_tests::lab::{Firewall, Lab, Middlebox, tcp};
use portolan_tests::scene::OpenScene;
use portolan_tests::{in_lab, skip};

const PORTS: &str = "1-100";

fn scan(scene: &OpenScene, target: IpAddr, more: &[&str]) -> Scan {
    let target = target.to_string();
    let mut args = vec![target.as_str(), "-p", PORTS, "--from", "office-1"];
    args.extend(more);
    let scan = scene.deployment.scan(&args);
    scan.code_is(0);
    scan
}

/// What is suspected and how surely.
fn suspicion(scan: &Scan, address: IpAddr) -> (String, f64) {
    let host = scan.host("office-1", address);
    let word = host["suspect"].as_str().unwrap_or_default().to_owned();
    if !word.is_empty() {
        assert!(host["suspect_evidence"].as_str().is_some_and(|text| !text.is_empty()), "{host}");
    }
    (word, host["confidence"].as_f64().unwrap_or_default())
}

#[test]
fn what_answers_every_syn_is_told_and_every_port_still_listed() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        for network in ["10.99.9.0/24", "fd00:99:9::/64"] {
            if let Err(why) = lab.middlebox(Middlebox::SynAck, network) {
                skip!("{why}");
            }
        }
        for address in ["10.99.9.7", "fd00:99:9::7"].map(|text| text.parse().unwrap()) {
            for more in [&[][..], &["--gentle"]] {
                let scan = scan(&scene, address, more);
                let (word, confidence) = suspicion(&scan, address);
                assert_eq!(word, "syn-proxy", "{address} {more:?}");
                assert!(confidence >= 0.9, "{confidence} for {address} {more:?}");
                assert_eq!(scan.verdicts("office-1").of(address).to_string(), format!("open {PORTS}"));
                let listed = scan.host("office-1", address)["ports"].as_array().unwrap();
                assert_eq!(listed.len(), 100, "all, and none that nobody asked for");
            }
        }
    });
}

#[test]
fn a_tarpit_is_told() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        if let Err(why) = lab.middlebox(Middlebox::Tarpit, "10.99.9.0/24") {
            skip!("{why}");
        }
        let address = "10.99.9.7".parse().unwrap();
        let scan = scan(&scene, address, &[]);
        let (word, confidence) = suspicion(&scan, address);
        assert_eq!(word, "tarpit");
        assert!(confidence >= 0.9, "{confidence}");
        assert_eq!(scan.verdicts("office-1").of(address).to_string(), format!("open {PORTS}"));
    });
}

#[test]
fn a_syn_proxy_that_makes_good_handshakes_is_told_by_the_ports_nobody_asked_for() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&[22, 80]);
        lab.firewall(&Firewall::open().syn_proxy("office", "dmz", tcp("-")));
        let address = scene.shop.v4();
        let scan = scan(&scene, address, &[]);
        let (word, confidence) = suspicion(&scan, address);
        assert_eq!(word, "syn-proxy");
        assert!(confidence >= 0.9, "{confidence}");
    });
}

#[test]
fn resets_by_a_device_on_the_way_are_told() {
    in_lab!(|lab| {
        let (scene, _listener) = with_services(lab);
        lab.firewall(&Firewall::open().reset("office", "dmz", tcp("1-21,23-79,81-99")));
        for address in [scene.shop.v4(), scene.shop.v6()] {
            let scan = scan(&scene, address, &[]);
            let (word, confidence) = suspicion(&scan, address);
            assert_eq!(word, "rst-injection", "{address}");
            assert!(confidence >= 0.5, "{confidence}");
            let told = scan.verdicts("office-1").of(address).to_string();
            assert_eq!(told, "open 22,80; closed 1-21,23-79,81-100");
        }
    });
}

#[test]
fn an_honest_host_is_not_suspected() {
    in_lab!(|lab| {
        let (scene, _listener) = with_services(lab);
        // Neither where all that is not open is closed, nor where it is dropped.
        for rules in [
            Firewall::open(),
            Firewall::closed().allow("office", "dmz", tcp("22,80")).allow("office", "server", tcp("-")),
        ] {
            lab.firewall(&rules);
            for address in [scene.shop.v4(), scene.shop.v6()] {
                let scan = scan(&scene, address, &[]);
                assert_eq!(suspicion(&scan, address), (String::new(), 0.0), "{address}");
                assert_eq!(
                    portolan_tests::ports::format(&scan.verdicts("office-1").of(address).open),
                    "22,80"
                );
            }
        }
    });
}

fn with_services(lab: &Lab) -> (OpenScene, portolan_tests::lab::Listener) {
    let scene = OpenScene::build(lab);
    let listener = scene.shop.listen(&[22, 80]);
    (scene, listener)
}

//! Finding out who is there before every port is probed: who is found, who is not, and what it costs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::IpAddr;

use portolan_tests::deployment::Scan;
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, Host, Lab, Listener, any, icmp, tcp};
use portolan_tests::scene::OpenScene;

/// A network with a shop that answers everything, a cellar that drops pings, and a vault that answers on one port only,
/// which is no ping's.
struct Network {
    scene: OpenScene,
    cellar: Host,
    vault: Host,
    network: String,
    _listeners: [Listener; 3],
}

const PORTS: &str = "8000-8019";
/// Pings of one address that does not answer: four rounds of three.
const PINGS: u64 = 12;

impl Network {
    fn build(lab: &Lab) -> Self {
        let scene = OpenScene::build(lab);
        let (cellar, vault) = (lab.host("dmz", "cellar"), lab.host("dmz", "vault"));
        let listeners = [&scene.shop, &cellar, &vault].map(|host| host.listen(&[8000]));
        let rules = Firewall::open()
            .count("sent", "office", "dmz", any())
            .drop("office", &cellar, icmp())
            .allow("office", &vault, tcp("8000"))
            .drop("office", &vault, any());
        lab.firewall(&rules);
        let network = lab.segment("dmz").v4.to_string();
        Self { scene, cellar, vault, network, _listeners: listeners }
    }

    fn scan(&self, more: &[&str]) -> Scan {
        let mut args = vec![self.network.as_str(), "-p", PORTS, "--from", "office-1"];
        args.extend(more);
        let scan = self.scene.deployment.scan(&args);
        scan.code_is(0);
        scan
    }
}

/// The addresses that are up, and those with port 8000 open.
fn found(scan: &Scan) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let seen = scan.verdicts("office-1");
    let addresses = seen.addresses();
    let up = |address: &IpAddr| scan.host("office-1", *address)["up"] == true;
    let open = |address: &IpAddr| seen.of(*address).open.contains(&8000);
    let all = |wanted: &dyn Fn(&IpAddr) -> bool| addresses.iter().copied().filter(|a| wanted(a)).collect();
    (all(&up), all(&open))
}

#[test]
fn a_networks_hosts_are_found_first_and_only_theirs_are_swept() {
    in_lab!(|lab| {
        let network = Network::build(lab);
        let gateway = IpAddr::from(lab.segment("dmz").gateway4());
        let shop = network.scene.shop.v4();

        let scan = network.scan(&[]);
        let (up, open) = found(&scan);
        assert_eq!(up, [gateway, shop, network.cellar.v4()]);
        assert_eq!(open, [shop, network.cellar.v4()]);
        let satellite = scan.satellite("office-1");
        assert_eq!(satellite["hosts_total"], 256);
        assert_eq!(satellite["hosts_up"], 3);
        let sent = satellite["probes_sent"].as_u64().unwrap();
        // Every port of every address would be 256 times 20 times four.
        assert!(sent <= 256 * PINGS + 3 * 20 * 8, "{sent} packets");
        // What is known of the dead is said of every port that was asked for.
        let dead = scan.verdicts("office-1").of(network.vault.v4()).clone();
        assert_eq!(dead.to_string(), format!("filtered {PORTS}"));

        let scan = network.scan(&["--no-discover"]);
        let (up, open) = found(&scan);
        assert_eq!(up, [gateway, shop, network.cellar.v4(), network.vault.v4()]);
        assert_eq!(open, [shop, network.cellar.v4(), network.vault.v4()]);
        let sent = scan.satellite("office-1")["probes_sent"].as_u64().unwrap();
        assert!(sent >= 252 * 20 * 4, "{sent} packets");
    });
}

#[test]
fn single_hosts_are_swept_at_once_unless_asked_otherwise() {
    in_lab!(|lab| {
        let network = Network::build(lab);
        let vault = network.vault.v4();
        let target = vault.to_string();
        let scan = |more: &[&str]| {
            let mut args = vec![target.as_str(), "-p", PORTS, "--from", "office-1"];
            args.extend(more);
            let scan = network.scene.deployment.scan(&args);
            scan.code_is(0);
            (
                scan.host("office-1", vault)["up"] == true,
                scan.satellite("office-1")["probes_sent"].as_u64().unwrap(),
            )
        };
        let (up, _) = scan(&[]);
        assert!(up, "nobody asked for discovery");
        let before = lab.packets("sent");
        let (up, sent) = scan(&["--discover"]);
        assert!(!up, "no ping reaches it");
        assert_eq!((sent, lab.packets("sent") - before), (PINGS, PINGS));
    });
}

#[test]
fn neighbours_are_found_by_their_link_address_whatever_they_drop() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let neighbour = lab.host("office", "neighbour");
        // It answers ARP alone, and NDP.
        let rules = "table inet own { chain in { type filter hook input priority 0; policy drop;\n \
                     icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n }\n}\n";
        portolan_tests::lab::run_ok(neighbour.command("nft").args(["-f", "-"]).stdin(rules));
        let network4 = lab.segment("office").v4.to_string();
        let network6 = neighbour.v6().to_string() + "/124";
        let scan = scene.deployment.scan(&[&network4, &network6, "-p", "80", "--from", "office-1"]);
        scan.code_is(0);
        for address in [neighbour.v4(), neighbour.v6()] {
            assert_eq!(scan.host("office-1", address)["up"], true, "{address}");
            assert_eq!(scan.verdicts("office-1").of(address).to_string(), "filtered 80");
        }
        // Nobody answers for the others, so nothing is sent to them but requests for their address.
        let satellite = scan.satellite("office-1");
        assert!(satellite["hosts_up"].as_u64().unwrap() <= 8, "{satellite}");
        let sent = satellite["probes_sent"].as_u64().unwrap();
        assert!(sent < 272 * 4 + 60, "{sent} packets: four requests for each address, and the probes");
    });
}

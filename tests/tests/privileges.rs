//! What a satellite does with the rights it has: packets of its own with CAP_NET_RAW and nothing else, connections
//! without it, and it says which and why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use portolan_tests::deployment::{Deployment, Satellite};
use portolan_tests::lab::{Firewall, Host, Lab, Listener, Program, tcp};
use portolan_tests::{in_lab, need, skip};

const NOBODY: &str = "65534";

/// A deployment whose satellite is enrolled and not started.
fn stage(lab: &Lab) -> (Deployment, Satellite, Host, Listener) {
    let (pc, shop) = (lab.host("office", "pc"), lab.host("dmz", "shop"));
    let listener = shop.listen(&[80]);
    let deployment = Deployment::up(lab);
    let satellite = deployment.enrolled(&pc, "office-1", &["--scope", "10.99.0.0/16,fd00:99::/32"]);
    lab.firewall(&Firewall::open().drop("office", "dmz", tcp("82")));
    (deployment, satellite, shop, listener)
}

#[test]
fn without_the_capability_it_connects_and_says_why() {
    need!("setpriv");
    in_lab!(|lab| {
        let (deployment, satellite, shop, _listener) = stage(lab);
        satellite.start_with_rights(&["--bounding-set=-net_raw"]);
        deployment.wait_for_status("office-1", "online");
        let target = shop.v4().to_string();
        let scan = deployment.scan(&[&target, "-p", "80-82", "--from", "office-1", "--all"]);
        scan.code_is(0);
        let told = scan.satellite("office-1");
        assert_eq!((&told["method"], &told["complete"]), (&"connect".into(), &true.into()));
        let reason = told["method_reason"].as_str().unwrap_or_default();
        assert!(reason.contains("CAP_NET_RAW") && reason.contains("syn"), "{told}");
        let seen = scan.verdicts("office-1");
        assert_eq!(seen.of(shop.v4()).to_string(), "open 80; closed 81; filtered 82");
        assert_eq!(seen.reason(shop.v4(), 81).word, "conn-refused");
        // UDP needs no right, and both at once are probed one after the other.
        let udp = deployment.scan(&[&target, "-p", "U:81", "--from", "office-1", "--all"]);
        udp.code_is(0);
        assert_eq!(udp.verdicts_of("office-1", "udp").of(shop.v4()).to_string(), "closed 81");
        let both = deployment.scan(&[&target, "-p", "T:80,U:81", "--from", "office-1"]);
        both.code_is(0);
        assert_eq!(both.satellite("office-1")["method"], "connect, udp");
        assert_eq!(both.verdicts("office-1").of(shop.v4()).to_string(), "open 80");
        // A range is probed address by address, and that is said.
        let network = lab.segment("dmz").v4.to_string();
        let range = deployment.scan(&[&network, "-p", "80", "--from", "office-1"]);
        range.code_is(0);
        let notes = range.satellite("office-1")["notes"].to_string();
        assert!(notes.contains("CAP_NET_RAW"), "{notes}");
        assert_eq!(range.satellite("office-1")["hosts_up"], 2);
        let list = deployment.ask(&["satellite", "list"]);
        let offered: Vec<&str> =
            list[0]["capabilities"].as_array().unwrap().iter().filter_map(|word| word.as_str()).collect();
        assert!(offered.contains(&"connect") && !offered.contains(&"syn"), "{offered:?}");
    });
}

#[test]
fn the_one_capability_is_all_it_takes_for_packets_of_its_own() {
    need!("setpriv");
    in_lab!(|lab| {
        let user = [
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all,+net_raw",
            "--ambient-caps=-all,+net_raw",
            "--bounding-set=-all,+net_raw",
        ];
        if Program::new("setpriv").args(user).arg("true").run().code != 0 {
            skip!("this universe has only one user");
        }
        let (deployment, satellite, shop, _listener) = stage(lab);
        satellite.give_to(&format!("{NOBODY}:{NOBODY}"));
        satellite.start_with_rights(&user);
        deployment.wait_for_status("office-1", "online");
        let status = std::fs::read_to_string(format!("/proc/{}/status", satellite.id())).unwrap();
        let line =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
        assert!(line("Uid:").starts_with(NOBODY), "{status}");
        assert_eq!(line("CapEff:"), format!("{:016x}", 1 << 13), "CAP_NET_RAW alone");

        let targets = [shop.v4(), shop.v6()];
        let [v4, v6] = targets.map(|address| address.to_string());
        let scan = deployment.scan(&[&v4, &v6, "-p", "T:80-82,U:81", "--from", "office-1", "--all"]);
        scan.code_is(0);
        assert_eq!(scan.satellite("office-1")["method"], "syn, udp");
        for address in targets {
            let seen = scan.verdicts("office-1");
            assert_eq!(seen.of(address).to_string(), "open 80; closed 81; filtered 82");
            assert_eq!(seen.reason(address, 81).word, "reset");
            assert_eq!(scan.verdicts_of("office-1", "udp").of(address).to_string(), "closed 81");
        }
        let network = lab.segment("office").v4.to_string();
        let found = deployment.scan(&[&network, "-p", "80", "--from", "office-1"]);
        found.code_is(0);
        assert_eq!(found.satellite("office-1")["hosts_up"], 2, "the gateway and itself");
    });
}

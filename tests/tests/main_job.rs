//! The main job, end to end: init, run, add, enroll, run, scan through firewalls that allow only the server's port
//! outward; what the satellites saw is what nmap sees from the same places; what was seen stays and is told.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::IpAddr;

use portolan_tests::deployment::Deployment;
use portolan_tests::judge::Verdicts;
use portolan_tests::scene::{ASKED, OpenScene, Scene};
use portolan_tests::{in_lab, judge, lab, need, ports};

/// How nmap is asked.
type Judge = fn(&lab::Host, &[IpAddr], &str) -> Verdicts;

#[test]
fn two_segments_scan_through_a_closed_firewall_and_see_what_nmap_sees() {
    need!("nmap");
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let [v4, v6] = scene.shop_addresses().map(|address| address.to_string());
        let scan = |method: &str| {
            let args = [&v4, &v6, "-p", ASKED, "--from", "office-1,pci-1", "--method", method];
            let scan = scene.deployment.scan(&args);
            scan.code_is(0);
            scan
        };
        let judges: [(&str, Judge); 2] = [("connect", judge::nmap_connect), ("syn", judge::nmap_syn)];
        for (method, judge) in judges {
            let scan = scan(method);
            for (satellite, host) in [("office-1", &scene.pc), ("pci-1", &scene.till)] {
                assert_eq!(scan.satellite(satellite)["complete"], true);
                assert_eq!(scan.satellite(satellite)["method"], method);
                let judged = judge(host, &scene.shop_addresses(), ASKED);
                scan.verdicts(satellite).same_as(&judged, (satellite, "nmap"));
            }
        }
        // The best that the host allows.
        let scan = scan("auto");
        assert_eq!(scan.satellite("office-1")["method"], "syn");
        let office = scan.verdicts("office-1").of(scene.shop.v4()).clone();
        assert_eq!(office.to_string(), "open 22,80,443; closed 81; filtered 20-21,23,79,82-85,3306,8080");
        let pci = scan.verdicts("pci-1").of(scene.shop.v6()).clone();
        assert_eq!(pci.to_string(), "open 443; closed 81; filtered 20-23,79-80,82-85,3306,8080");
    });
}

#[test]
fn every_state_comes_with_its_reason_and_open_ports_with_their_round_trip() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let [v4, v6] = scene.shop_addresses().map(|address| address.to_string());
        for (method, refused) in [("syn", "closed reset"), ("connect", "closed conn-refused")] {
            let args = [&v4, &v6, "-p", ASKED, "--from=office-1", "--all", "--method", method];
            let scan = scene.deployment.scan(&args);
            scan.code_is(0);
            for address in scene.shop_addresses() {
                let reason = |port| {
                    let entry = scan.port("office-1", address, port);
                    let entry = entry.unwrap_or_else(|| panic!("--all leaves port {port} of {address} out"));
                    format!("{} {}", entry["state"].as_str().unwrap(), entry["reason"].as_str().unwrap())
                };
                assert_eq!(reason(80), "open syn-ack");
                assert_eq!(reason(81), refused);
                assert_eq!(reason(82), "filtered admin-prohibited");
                assert_eq!(reason(83), "filtered host-unreach");
                assert_eq!(reason(84), "filtered no-response");
                let rtt = &scan.port("office-1", address, 80).unwrap()["rtt_us"];
                assert!(rtt.as_u64().is_some_and(|rtt| rtt > 0), "no round trip time: {rtt}");
            }
        }
    });
}

#[test]
fn satellites_see_real_services_as_nmap_does() {
    need!("nmap", "nginx", "sshd", "ssh-keygen", "redis-server");
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _web = lab::nginx(&scene.shop, 80);
        let _ssh = lab::sshd(&scene.shop, 22);
        let _cache = lab::redis(&scene.shop, 6379);
        let address = scene.shop.v4();
        let scan = scene.deployment.scan(&[&address.to_string(), "-p", "1-1024,6379", "--from", "office-1"]);
        scan.code_is(0);
        let judged = judge::nmap_connect(&scene.pc, &[address], "1-1024,6379");
        scan.verdicts("office-1").same_as(&judged, ("office-1", "nmap"));
        assert_eq!(scan.verdicts("office-1").of(address).open, ports::parse("22,80,6379"));
    });
}

#[test]
fn every_port_of_a_quiet_host_is_accounted_for() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&[1, 9_000, 65_535]);
        let address = scene.shop.v4();
        let scan = scene.deployment.scan(&[&address.to_string(), "-p-", "--from", "office-1"]);
        scan.code_is(0);
        let seen = scan.verdicts("office-1").of(address).to_string();
        assert_eq!(seen, "open 1,9000,65535; closed 2-8999,9001-65534");
        // `ports` lists the open ones only.
        assert_eq!(scan.host("office-1", address)["ports"].as_array().unwrap().len(), 3);
    });
}

#[test]
fn a_lossy_delayed_path_hides_nothing_that_is_open() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&[22, 80, 443]);
        // Without a TUN device the path is only lossy.
        let _ = lab.delay("office", std::time::Duration::from_millis(30));
        lab.firewall(&lab::Firewall::open().lose("office", "dmz", 10).lose("dmz", "office", 10));
        let address = scene.shop.v4();
        let scan = scene.deployment.scan(&[&address.to_string(), "-p", "1-500", "--from", "office-1"]);
        scan.code_is(0);
        assert_eq!(
            scan.verdicts("office-1").of(address).to_string(),
            "open 22,80,443; closed 1-21,23-79,81-442,444-500"
        );
    });
}

#[test]
fn what_changed_between_two_scans_is_history() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let target = scene.shop.v4().to_string();
        let scan = || {
            let scan = scene.deployment.scan(&[&target, "-p", "79-81", "--from", "office-1"]);
            scan.code_is(0);
            ports::format(&scan.verdicts("office-1").of(scene.shop.v4()).open)
        };
        let listener = scene.shop.listen(&[80]);
        assert_eq!(scan(), "80");
        assert_eq!(scan(), "80");
        drop(listener);
        assert_eq!(scan(), "");
        let _again = scene.shop.listen(&[80]);
        assert_eq!(scan(), "80");

        let history = scene.deployment.history(&format!("{target}:80"));
        let told: Vec<String> = history
            .iter()
            .map(|change| {
                let word = |key: &str| change[key].as_str().unwrap_or("?").to_owned();
                assert_eq!(change["port"], 80);
                assert_eq!(change["late"], false);
                assert!(change["at"].as_str().is_some_and(|at| at.ends_with('Z')), "no UTC time: {change}");
                format!("{} {} {}>{}", word("satellite"), word("address"), word("from"), word("to"))
            })
            .collect();
        let expected = ["open>closed", "closed>open"].map(|change| format!("office-1 {target} {change}"));
        assert_eq!(told, expected);
        assert!(scene.deployment.history(&format!("{target}:81")).is_empty(), "port 81 never changed");
    });
}

#[test]
fn the_inventory_tells_what_is_open_and_from_where() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let target = scene.shop.v4().to_string();
        scene.deployment.scan(&[&target, "-p", "22,443", "--from", "office-1,pci-1"]).code_is(0);
        let listed = |args: &[&str]| scene.deployment.console(args).ok().stdout.clone();

        for args in [&["ports"][..], &["ports", "--host", &target], &["ports", "--segment", "office"]] {
            let text = listed(args);
            assert!(
                text.contains(&target) && text.contains("443") && text.contains("22"),
                "{args:?}:\n{text}"
            );
        }
        let pci = listed(&["ports", "--segment", "pci", "-o", "csv"]);
        assert!(pci.contains("443") && !pci.contains("office-1"), "{pci}");
        let other = listed(&["ports", "--host", "10.99.200.1"]);
        assert!(!other.contains(&target), "{other}");
    });
}

#[test]
fn satellites_are_listed_with_what_is_known_of_them() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        scene.deployment.invite("branch-1", "branch", &[]);
        let list = scene.deployment.ask(&["satellite", "list"]);
        let find = |name: &str| list.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap();
        let office = find("office-1");
        assert_eq!((office["segment"].as_str(), office["status"].as_str()), (Some("office"), Some("online")));
        assert!(office["address"].as_str().unwrap().contains(&scene.pc.v4().to_string()), "{office}");
        for key in ["version", "last_seen", "certificate_expires_at"] {
            assert!(office[key].as_str().is_some_and(|text| !text.is_empty()), "{key} in {office}");
        }
        for key in ["assignment_revision", "spool_depth"] {
            assert!(office[key].is_u64(), "{key} in {office}");
        }
        assert!(
            office["capabilities"].as_array().is_some_and(|all| all.iter().any(|c| c == "connect")),
            "{office}"
        );
        assert_eq!(find("branch-1")["status"], "pending");
        let shown = scene.deployment.console(&["satellite", "show", "office-1"]);
        assert!(shown.ok().stdout.contains("office"), "{shown}");
    });
}

#[test]
fn the_server_is_reached_over_ipv6_alone() {
    in_lab!(|lab| {
        let (pc, server) = (lab.host("office", "pc"), lab.host("server", "server"));
        let deployment = Deployment::on(lab, &server, "portolan");
        let v6 = format!("[{}]:7443", server.v6());
        let init = deployment
            .server_program()
            .args(["init", "--name", &v6, "--data-dir"])
            .arg(deployment.data_dir());
        init.arg("--admin-out").arg(deployment.admin_file()).run().ok();
        deployment.start();
        let _office = deployment.satellite(&pc, "office-1");
        let scan = deployment.scan(&[&server.v6().to_string(), "-p", "7442-7443", "--from", "office-1"]);
        scan.code_is(0);
        assert_eq!(scan.verdicts("office-1").of(server.v6()).to_string(), "open 7443; closed 7442");
    });
}

#[test]
fn the_main_job_needs_no_privileges() {
    need!("nmap", "setpriv");
    in_lab!(rootless, |lab| {
        let scene = Scene::build(lab);
        let address = scene.shop.v4();
        let scan = scene.deployment.scan(&[&address.to_string(), "-p", ASKED, "--from", "office-1"]);
        scan.code_is(0);
        let judged = judge::nmap_connect(&scene.pc, &[address], ASKED);
        scan.verdicts("office-1").same_as(&judged, ("office-1", "nmap"));
    });
}

//! What may be asked: targets and ports in nmap's notation, names as the satellite knows them, hosts that are down.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::net::IpAddr;

use portolan_tests::deployment::Scan;
use portolan_tests::scene::{OpenScene, Scene};
use portolan_tests::{in_lab, judge, need};

fn addresses(scan: &Scan) -> Vec<String> {
    scan.verdicts("office-1").addresses().iter().map(IpAddr::to_string).collect()
}

#[test]
fn targets_are_networks_ranges_lists_files_and_exclusions() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let shop = scene.shop.v4().to_string();
        let prefix = shop.rsplit_once('.').unwrap().0;
        let with = |last: &[u8]| last.iter().map(|last| format!("{prefix}.{last}")).collect::<Vec<_>>();
        for last in 8..=15 {
            if last != 10 {
                scene.shop.add_address(format!("{prefix}.{last}").parse().unwrap());
            }
        }
        let _listener = scene.shop.listen(&[80]);
        let list = lab.directory("targets").join("list");
        fs::write(&list, format!("# shops\n{prefix}.14\n{prefix}.15 {prefix}.8\n")).unwrap();
        let list = list.to_str().unwrap();
        let network = format!("{prefix}.8/30");
        let range = format!("{prefix}.9-11,14");
        let cases: [(Vec<&str>, Vec<String>); 4] = [
            (vec![&network], with(&[8, 9, 10, 11])),
            (vec![&range], with(&[9, 10, 11, 14])),
            (vec![&network, "--exclude", &shop], with(&[8, 9, 11])),
            (vec!["--input-list", list], with(&[8, 14, 15])),
        ];
        for (targets, expected) in cases {
            let mut args = targets.clone();
            args.extend(["-p", "80", "--from", "office-1"]);
            let scan = scene.deployment.scan(&args);
            scan.code_is(0);
            assert_eq!(addresses(&scan), expected, "{targets:?}");
        }
    });
}

#[test]
fn ports_are_numbers_ranges_lists_and_everything() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let address = scene.shop.v4();
        let asked = |ports: &str| {
            let scan = scene.deployment.scan(&[&address.to_string(), "-p", ports, "--from", "office-1"]);
            scan.code_is(0);
            scan.verdicts("office-1").of(address).asked()
        };
        assert_eq!(asked("22,80,8000-8100").len(), 103);
        assert_eq!(asked("T:22,80").into_iter().collect::<Vec<_>>(), [22, 80]);
        assert_eq!(asked("-").len(), 65_535);
        let top = asked("top-1000");
        assert_eq!(top.len(), 1_000);
        assert!([22, 25, 53, 80, 443, 3306, 5432, 8080].iter().all(|port| top.contains(port)));
    });
}

#[test]
fn names_mean_what_they_mean_where_the_satellite_stands() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let (pc_shop, till_shop) = (scene.shop.v4(), scene.shop.v6());
        scene.pc.set_names(&[("shop.internal", pc_shop)]);
        scene.till.set_names(&[("shop.internal", till_shop)]);
        for satellite in [&scene.office, &scene.pci] {
            // A name file is put over a program's /etc/hosts when it starts.
            satellite.stop().ok();
            scene.deployment.wait_for_status(satellite.name(), "offline");
            satellite.start();
            scene.deployment.wait_for_status(satellite.name(), "online");
        }

        let scan = scene.deployment.scan(&["shop.internal", "-p", "443", "--from", "office-1,pci-1"]);
        scan.code_is(0);
        for (satellite, address) in [("office-1", pc_shop), ("pci-1", till_shop)] {
            assert_eq!(scan.verdicts(satellite).addresses(), [address]);
            assert_eq!(scan.host(satellite, address)["target"], "shop.internal");
            assert_eq!(scan.verdicts(satellite).of(address).to_string(), "open 443");
        }
    });
}

#[test]
fn a_name_that_nobody_knows_is_told_and_the_rest_goes_on() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&[80]);
        let address = scene.shop.v4();
        let scan = scene.deployment.scan(&[
            "nobody.internal",
            &address.to_string(),
            "-p",
            "80",
            "--from",
            "office-1",
        ]);
        scan.code_is(4).finished().says(&["nobody.internal"]);
        assert_eq!(scan.verdicts("office-1").of(address).to_string(), "open 80");
    });
}

#[test]
fn a_host_that_is_down_is_filtered_and_said_to_be_down() {
    need!("nmap");
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let nobody: IpAddr = scene.shop.v4().to_string().replace(".10", ".77").parse().unwrap();
        // One in the satellite's own network too, where nobody answers ARP.
        let neighbour: IpAddr = scene.pc.v4().to_string().replace(".10", ".77").parse().unwrap();
        let targets = [nobody.to_string(), neighbour.to_string()];
        let scan = scene.deployment.scan(&[&targets[0], &targets[1], "-p", "20-25", "--from", "office-1"]);
        scan.code_is(0);
        for address in [nobody, neighbour] {
            assert_eq!(scan.host("office-1", address)["up"], false);
            assert_eq!(scan.verdicts("office-1").of(address).to_string(), "filtered 20-25");
        }
        let judged = judge::nmap_connect(&scene.pc, &[nobody, neighbour], "20-25");
        scan.verdicts("office-1").same_as(&judged, ("office-1", "nmap"));
    });
}

#[test]
fn vantage_points_may_be_named_in_one_list_or_one_by_one() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let target = scene.shop.v4().to_string();
        for from in [vec!["--from", "office-1,pci-1"], vec!["--from", "office-1", "--from", "pci-1"]] {
            let mut args = vec![target.as_str(), "-p", "22,443"];
            args.extend(from);
            let scan = scene.deployment.scan(&args);
            scan.code_is(0);
            let names = scan.document()["satellites"].as_array().unwrap().iter();
            assert_eq!(
                names.map(|entry| entry["name"].as_str().unwrap()).collect::<Vec<_>>(),
                ["office-1", "pci-1"]
            );
            assert_eq!(scan.verdicts("office-1").of(scene.shop.v4()).to_string(), "open 22,443");
            assert_eq!(scan.verdicts("pci-1").of(scene.shop.v4()).to_string(), "open 443; filtered 22");
        }
    });
}

/// Whoever excludes a fragile device by a name must not find it probed because the resolver was away.
#[test]
fn an_exclusion_that_does_not_resolve_stops_the_scan_before_it_sends_anything() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let shop = scene.shop.v4().to_string();
        let listener = scene.shop.listen(&[8099]);
        let scan = scene.deployment.scan(&[
            &shop,
            "-p",
            "8099",
            "--from",
            "office-1",
            "--exclude",
            "fragile.invalid",
        ]);
        scan.code_is(4).finished().says(&["fragile.invalid"]).says(&["nothing was scanned"]);
        assert_eq!(scan.satellite("office-1")["complete"], false);
        assert_eq!(listener.accepted(), 0, "the host was probed");
    });
}

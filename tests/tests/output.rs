//! What machines read: every `-o` format, judged by a reader that knows nothing of Portolan.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;

use portolan_tests::scene::{ASKED, OpenScene, Scene};
use portolan_tests::{in_lab, judge, lab, need, ports};
use serde_json::Value;

fn scan_as(scene: &Scene, format: &str) -> lab::Finished {
    let [v4, v6] = scene.shop_addresses().map(|address| address.to_string());
    let args = ["scan", &v4, &v6, "-p", ASKED, "--from", "office-1", "-o", format];
    let finished = scene.deployment.console(&args);
    finished.ok();
    finished
}

#[test]
fn nmap_xml_says_what_the_json_says() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let [v4, v6] = scene.shop_addresses().map(|address| address.to_string());
        let json = scene.deployment.scan(&[&v4, &v6, "-p", ASKED, "--from", "office-1"]);
        let xml = scan_as(&scene, "nmap-xml");
        let read = judge::from_nmap_xml(&xml, &ports::parse(ASKED));
        read.same_as(&json.verdicts("office-1"), ("nmap-xml", "json"));
    });
}

#[test]
fn ndiff_reads_nmap_xml_and_finds_what_changed() {
    need!("ndiff");
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let directory = lab.directory("ndiff");
        let (before, after) = (directory.join("before.xml"), directory.join("after.xml"));
        fs::write(&before, &scan_as(&scene, "nmap-xml").stdout).unwrap();
        let diff = |new| lab::Program::new("ndiff").arg(&before).arg(new).run();
        assert_eq!(diff(&before).code, 0, "a scan differs from itself:\n{}", diff(&before));

        lab.firewall(&lab::Firewall::open().drop("office", "dmz", lab::tcp("443")));
        let args =
            ["scan", &scene.shop.v4().to_string(), "-p", ASKED, "--from", "office-1", "-o", "nmap-xml"];
        fs::write(&after, &scene.deployment.console(&args).ok().stdout).unwrap();
        let changed = diff(&after);
        assert_eq!(changed.code, 1, "ndiff sees no difference:\n{changed}");
        assert!(changed.stdout.contains("443/tcp"), "{changed}");
    });
}

#[test]
fn jsonl_is_one_host_a_line() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let lines = scan_as(&scene, "jsonl").stdout;
        let hosts: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let addresses: BTreeSet<&str> = hosts.iter().filter_map(|host| host["address"].as_str()).collect();
        let shop = scene.shop_addresses().map(|address| address.to_string());
        assert_eq!(addresses, shop.iter().map(String::as_str).collect());
        assert!(hosts.iter().all(|host| host["ranges"]["tcp"]["open"] == "22,80,443"), "{lines}");
    });
}

#[test]
fn csv_is_rectangular_and_names_its_columns() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let text = scan_as(&scene, "csv").stdout;
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        for column in ["satellite", "address", "protocol", "port", "state"] {
            assert!(rows[0].contains(&column), "no column {column}: {text}");
        }
        let column = |name| rows[0].iter().position(|title| *title == name).unwrap();
        let (address, port, state) = (column("address"), column("port"), column("state"));
        let shop = scene.shop.v4().to_string();
        let of_shop = rows.iter().filter(|row| row[address] == shop && row[state] == "open");
        let open: BTreeSet<&str> = of_shop.map(|row| row[port]).collect();
        assert_eq!(open, BTreeSet::from(["22", "80", "443"]), "{text}");
    });
}

#[test]
fn grepable_greps() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let text = scan_as(&scene, "grepable").stdout;
        let host = format!("Host: {} ", scene.shop.v4());
        let line = text.lines().find(|line| line.starts_with(&host) && line.contains("Ports: "));
        let line = line.unwrap_or_else(|| panic!("no line begins with `{host}` and has `Ports: `:\n{text}"));
        for port in [22, 80, 443] {
            assert!(line.contains(&format!("{port}/open/tcp/")), "{line}");
        }
    });
}

#[test]
fn yaml_has_the_shape_of_the_json() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let text = scan_as(&scene, "yaml").stdout;
        for key in ["scan_id", "started_at", "finished_at", "satellites", "hosts"] {
            let at_line_start = text.lines().any(|line| line.starts_with(&format!("{key}:")));
            assert!(at_line_start, "no top-level key {key}:\n{text}");
        }
        assert!(!text.contains('\t') && text.contains(&scene.shop.v4().to_string()), "{text}");
    });
}

#[test]
fn the_json_document_is_the_contracts() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&[80]);
        let target = scene.shop.v4().to_string();
        let scan = scene.deployment.scan(&[&target, "-p", "80", "--from", "office-1"]);
        scan.code_is(0);
        let document = scan.document();
        for key in ["scan_id", "started_at", "finished_at"] {
            assert!(document[key].is_string(), "{key}: {document}");
        }
        let satellite = scan.satellite("office-1");
        assert_eq!(satellite["segment"], "office");
        assert_eq!((&satellite["complete"], &satellite["error"]), (&Value::Bool(true), &Value::Null));
        let host = scan.host("office-1", scene.shop.v4());
        assert_eq!((&host["target"], &host["up"]), (&Value::from(target), &Value::Bool(true)));
        for state in ["open", "closed", "filtered"] {
            assert!(
                host["ranges"]["tcp"][state].is_string(),
                "a state without ports is an empty text: {host}"
            );
        }
    });
}

#[test]
fn a_table_in_a_pipe_is_plain_and_the_option_may_stand_anywhere() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let target = scene.shop.v4().to_string();
        let table = scene
            .deployment
            .console(&["scan", &target, "-p", "80,443", "--from", "office-1,pci-1"])
            .ok()
            .clone();
        assert!(!table.stdout.contains('\u{1b}'), "colours in a pipe: {:?}", table.stdout);
        for word in [target.as_str(), "80", "443", "open", "office-1", "pci-1"] {
            assert!(table.stdout.contains(word), "{word} is missing:\n{table}");
        }
        for args in [["-o", "json", "satellite", "list"], ["satellite", "-o", "json", "list"]] {
            assert!(scene.deployment.console(&args).ok().json().is_array());
        }
    });
}

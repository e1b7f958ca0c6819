//! Pausing a scan: no probe leaves until it is resumed, and it comes to the same result as one that was never paused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, Lab, Process, tcp};
use portolan_tests::scene::OpenScene;
use portolan_tests::wait::{SOON, wait_until};

/// Longer than the kernel waits before it resends a SYN by itself, the second time included.
const STILL: Duration = Duration::from_millis(4_000);

/// Of these shop answers on some and the firewall drops the rest, which takes a gentle scan a while.
const PORTS: &str = "20-119";

fn rules() -> Firewall {
    let dropped = || tcp("60-79,81-119");
    Firewall::open().count("probes", "office", "dmz", tcp("-")).drop("office", "dmz", dropped())
}

/// A scan that has begun, and its id.
fn begin(lab: &Lab, scene: &OpenScene, method: &str) -> (Process, String) {
    lab.firewall(&rules());
    let target = scene.shop.v4().to_string();
    let args =
        ["scan", &target, "-p", PORTS, "--from", "office-1", "--gentle", "-o", "json", "--method", method];
    let console = scene.deployment.console_command(&args).spawn();
    wait_until("probes to pass", SOON, || lab.packets("probes") > 60);
    let scans = scene.deployment.ask(&["scans"]);
    let scan = &scans[0];
    assert!(scan["paused"] == false && scan["satellites"][0]["name"] == "office-1", "{scans}");
    assert!(scan["operator"] == "admin" && scan["ports_total"] == 100, "{scans}");
    let id = scan["scan_id"].as_str().expect("an id").to_owned();
    (console, id)
}

/// Pauses it by the beginning of its id; once the satellite has taken that up, nothing passes.
fn pause(lab: &Lab, scene: &OpenScene, id: &str) {
    scene.deployment.console(&["scans", "pause", &id[..8]]).code_is(0);
    wait_until("the satellite to pause", SOON, || {
        scene.deployment.ask(&["scans"])[0]["satellites"][0]["paused"] == true
    });
    let sent = lab.packets("probes");
    std::thread::sleep(STILL);
    assert_eq!(lab.packets("probes"), sent, "probes while it was paused");
    let listed = scene.deployment.ask(&["scans"]);
    assert!(listed[0]["paused"] == true && listed[0]["scan_id"] == id, "{listed}");
}

#[test]
fn a_paused_scan_by_packets_sends_nothing_and_ends_as_if_nothing_had_been() {
    in_lab!(|lab| paused_and_resumed(lab, "syn"));
}

#[test]
fn a_paused_scan_by_connections_does_the_same_though_the_kernel_resends() {
    in_lab!(|lab| paused_and_resumed(lab, "connect"));
}

fn paused_and_resumed(lab: &Lab, method: &str) {
    let scene = OpenScene::build(lab);
    let _listener = scene.shop.listen(&[22, 80]);
    let (console, id) = begin(lab, &scene, method);
    pause(lab, &scene, &id);
    scene.deployment.console(&["scans", "resume", &id]).code_is(0);
    let finished = console.wait(Duration::from_secs(60));
    finished.code_is(0);
    let document: serde_json::Value = serde_json::from_str(&finished.stdout).expect("a document");
    assert_eq!(document["scan_id"], id.as_str());
    assert_eq!(document["satellites"][0]["method"], method);
    let ranges = &document["hosts"][0]["ranges"]["tcp"];
    assert_eq!(ranges["open"], "22,80", "{document}");
    assert_eq!(ranges["closed"], "20-21,23-59", "{document}");
    assert_eq!(ranges["filtered"], "60-79,81-119", "{document}");
    assert!(lab.packets("probes") >= 41 + 59 * 4, "{} probes", lab.packets("probes"));
    assert_eq!(scene.deployment.ask(&["scans"]), serde_json::json!([]));
    scene.deployment.console(&["scans", "pause", &id]).code_is(1).says(&["no scan of this id"]);
}

#[test]
fn a_scan_is_cancelled_while_it_is_paused() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (console, id) = begin(lab, &scene, "syn");
        pause(lab, &scene, &id);
        let sent = lab.packets("probes");
        scene.deployment.console(&["scans", "cancel", &id[..8]]).code_is(0);
        console.wait(SOON).code_is(4).says(&["office-1", "cancelled"]);
        wait_until("the scan to be gone", SOON, || scene.deployment.ask(&["status"])["scans_running"] == 0);
        assert_eq!(lab.packets("probes"), sent, "probes after it was cancelled");
    });
}

//! Stopping in the middle: Ctrl-C, a crash or restart of any part. A scan ends soon and says how; nothing hangs, nothing
//! that was seen is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, Lab, Process, tcp};
use portolan_tests::scene::{OpenScene, Scene};
use portolan_tests::wait::{SOON, stays, wait_until};

/// How much longer than the requirement a loaded machine may take to show it.
const SLACK: Duration = Duration::from_millis(1_500);

/// Starts a scan that meets nothing but silence and so would take long, and waits until probes pass the router.
fn start_long_scan(lab: &Lab, scene: &OpenScene) -> Process {
    start_long_scan_by(lab, scene, "auto")
}

fn start_long_scan_by(lab: &Lab, scene: &OpenScene, method: &str) -> Process {
    lab.firewall(&Firewall::open().count("probes", "office", "dmz", tcp("-")).drop(
        "office",
        "dmz",
        tcp("-"),
    ));
    let network = lab.segment("dmz").v4.to_string();
    let args = [
        "scan",
        &network,
        "-p",
        "1-2000",
        "--no-discover",
        "--from",
        "office-1",
        "-o",
        "json",
        "--method",
        method,
    ];
    let console = scene.deployment.console_command(&args).spawn();
    wait_until("probes to pass", SOON, || lab.packets("probes") > 50);
    console
}

/// When the last probe was seen, once none has come for a while.
fn last_probe(lab: &Lab) -> Instant {
    let (mut seen, mut at) = (lab.packets("probes"), Instant::now());
    wait_until("the probes to stop", SOON, || {
        let now = lab.packets("probes");
        if now != seen {
            (seen, at) = (now, Instant::now());
        }
        at.elapsed() > Duration::from_millis(1_500)
    });
    at
}

#[test]
fn ctrl_c_stops_the_probes_within_a_second() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let mut console = start_long_scan(lab, &scene);
        let pressed = Instant::now();
        console.signal(Signal::SIGINT);
        let stopped = last_probe(lab).saturating_duration_since(pressed);
        assert!(stopped <= Duration::from_secs(1) + SLACK, "probes went on for {stopped:?}");
        console.wait(SOON).code_is(130);

        // The satellite is at once free for the next one.
        lab.firewall(&Firewall::open());
        let _listener = scene.shop.listen(&[80]);
        let scan = scene.deployment.scan(&[&scene.shop.v4().to_string(), "-p", "80", "--from", "office-1"]);
        assert_eq!(scan.code_is(0).verdicts("office-1").of(scene.shop.v4()).to_string(), "open 80");
    });
}

/// The engine stops before it says that it has, and what it says is soon: no packet follows.
#[test]
fn a_cancelled_scan_sends_nothing_after_it_has_ended() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        for method in ["syn", "connect"] {
            let console = start_long_scan_by(lab, &scene, method);
            let scans = scene.deployment.ask(&["scans"]);
            let id = scans[0]["scan_id"].as_str().expect("an id").to_owned();
            let before = scene.office.log().matches("scan ended").count();
            scene.deployment.console(&["scans", "cancel", &id]).code_is(0);
            wait_until("the satellite to end the scan", Duration::from_secs(1) + SLACK, || {
                scene.office.log().matches("scan ended").count() > before
            });
            let sent = lab.packets("probes");
            stays("no probe after the end", Duration::from_millis(1_500), || lab.packets("probes") == sent);
            console.wait(SOON).code_is(4).says(&["cancelled"]);
        }
    });
}

#[test]
fn a_console_that_dies_takes_its_scan_with_it() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let console = start_long_scan(lab, &scene);
        console.crash();
        last_probe(lab);
        let status = scene.deployment.ask(&["status"]);
        assert_eq!(status["scans_running"], 0, "{status}");
    });
}

#[test]
fn a_satellite_that_dies_in_a_scan_makes_it_partial() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        let target = scene.shop.v4().to_string();
        let rules = Scene::rules().count("probes", "office", "dmz", tcp("-"));
        lab.firewall(&rules);
        let network = lab.segment("dmz").v4.to_string();
        let args =
            ["scan", &network, "-p", "1000-3000", "--no-discover", "--from", "office-1,pci-1", "-o", "json"];
        let console = scene.deployment.console_command(&args).spawn();
        wait_until("probes to pass", SOON, || lab.packets("probes") > 50);
        scene.office.crash();
        scene.pci.crash();
        // The server may hope for their return, but not for ever.
        let finished = console.wait(Duration::from_secs(120));
        finished.code_is(4).says(&["office-1"]).says(&["pci-1"]);

        for satellite in [&scene.office, &scene.pci] {
            satellite.start();
            scene.deployment.wait_for_status(satellite.name(), "online");
        }
        scene.deployment.scan(&[&target, "-p", "443", "--from", "office-1,pci-1"]).code_is(0);
    });
}

#[test]
fn a_server_that_dies_in_a_scan_is_told_by_the_console() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let console = start_long_scan(lab, &scene);
        scene.deployment.crash();
        let finished = console.wait(SOON);
        finished.code_is(1).says(&["server"]);

        scene.deployment.start();
        scene.deployment.wait_for_status("office-1", "online");
        assert!(scene.office.is_running());
        lab.firewall(&Firewall::open());
        let _listener = scene.shop.listen(&[80]);
        let scan = scene.deployment.scan(&[&scene.shop.v4().to_string(), "-p", "80", "--from", "office-1"]);
        assert_eq!(scan.code_is(0).verdicts("office-1").of(scene.shop.v4()).to_string(), "open 80");
    });
}

#[test]
fn a_restarted_server_finds_its_satellites_and_its_history_again() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let target = scene.shop.v4().to_string();
        let scan = || scene.deployment.scan(&[&target, "-p", "80", "--from", "office-1"]);
        let listener = scene.shop.listen(&[80]);
        scan().code_is(0);
        scene.deployment.stop().ok();
        scene.deployment.start();
        scene.deployment.wait_for_status("office-1", "online");
        drop(listener);
        scan().code_is(0);
        // What was acked survives even a crash right after the answer.
        scene.deployment.crash();
        scene.deployment.start();
        let history = scene.deployment.history(&format!("{target}:80"));
        assert_eq!(history.len(), 1, "{history:?}");
        assert_eq!((&history[0]["from"], &history[0]["to"]), (&"open".into(), &"closed".into()));
        scene.deployment.wait_for_status("office-1", "online");
    });
}

#[test]
fn a_restarted_satellite_is_the_same_satellite() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        scene.office.stop().ok();
        scene.deployment.wait_for_status("office-1", "offline");
        scene.office.start();
        scene.deployment.wait_for_status("office-1", "online");
        scene.office.crash();
        scene.office.start();
        scene.deployment.wait_for_status("office-1", "online");
        let list = scene.deployment.ask(&["satellite", "list"]);
        assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
        scene.deployment.scan(&[&scene.shop.v4().to_string(), "-p", "80", "--from", "office-1"]).code_is(0);
    });
}

#[test]
fn daemons_end_when_asked_to() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        scene.office.stop().ok();
        scene.deployment.stop().ok();
    });
}

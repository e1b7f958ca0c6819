//! Limits on the way and limits of one's own: a path or a target that takes only so much is scanned slower and right, and
//! what a scan is bound to is what the firewall counts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portolan_tests::deployment::Scan;
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, Lab, any, run_ok, tcp, udp};
use portolan_tests::scene::OpenScene;

fn scan(scene: &OpenScene, target: IpAddr, args: &[&str]) -> Scan {
    let target = target.to_string();
    let mut all = vec![target.as_str(), "--from", "office-1"];
    all.extend(args);
    let scan = scene.deployment.scan(&all);
    scan.code_is(0);
    scan
}

fn states(scan: &Scan, address: IpAddr) -> String {
    scan.verdicts("office-1").of(address).to_string()
}

#[test]
fn a_limit_of_resets_on_the_way_makes_no_closed_port_filtered() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&[80, 443]);
        lab.firewall(&Firewall::open().limit_resets("dmz", "office", 200).drop(
            "office",
            "dmz",
            tcp("700-799"),
        ));
        let scan = scan(&scene, scene.shop.v4(), &["-p", "1-1000"]);
        let told = states(&scan, scene.shop.v4());
        assert_eq!(told, "open 80,443; closed 1-79,81-442,444-699,800-1000; filtered 700-799");
    });
}

#[test]
fn a_path_that_passes_few_packets_is_scanned_slower_and_right() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&[80, 443]);
        let rules = Firewall::open().police("office", "dmz", 1_000).drop("office", "dmz", tcp("500-520"));
        lab.firewall(&rules.count("sent", "office", "dmz", tcp("-")));
        let scan = scan(&scene, scene.shop.v4(), &["-p", "1-3000"]);
        let told = states(&scan, scene.shop.v4());
        assert_eq!(told, "open 80,443; closed 1-79,81-442,444-499,521-3000; filtered 500-520");
        let sent = lab.packets("sent");
        // A scan that kept to its first rate would send some 60,000.
        assert!(sent < 30_000, "{sent} packets were sent for 3,000 ports");
    });
}

/// The most entries of the router's table of connections while this runs.
fn most_flows<T>(lab: &Lab, work: impl FnOnce() -> T) -> (T, u64) {
    let count = || {
        let text = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").expect("a count");
        text.trim().parse::<u64>().expect("a number")
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            lab.router().inside(|| {
                let mut most = 0;
                // Bounded, should the work fail.
                for _ in 0..5_000 {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    most = most.max(count());
                    std::thread::sleep(Duration::from_millis(20));
                }
                most
            })
        });
        let outcome = work();
        done.store(true, Ordering::Relaxed);
        (outcome, watcher.join().expect("the watcher does not panic"))
    })
}

#[test]
fn a_gentle_scan_sends_200_packets_a_second_and_fills_no_table_of_connections() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&[80]);
        lab.firewall(&Firewall::open().count("sent", "office", "dmz", any()));
        // Dropped by the shop itself: to the router these are connections that have begun, and it keeps them for minutes.
        let rules = "table inet own {\n chain in {\n type filter hook input priority 0;\n \
                     tcp dport 200-399 drop\n }\n}\n";
        run_ok(scene.shop.command("nft").args(["-f", "-"]).stdin(rules));
        let target = scene.shop.v4();
        let began = Instant::now();
        let (scan, most) = most_flows(lab, || scan(&scene, target, &["-p", "1-399", "--gentle"]));
        let took = began.elapsed();
        assert_eq!(states(&scan, target), "open 80; closed 1-79,81-199; filtered 200-399");
        // The time includes more than the scan, so a machine under load makes no difference.
        let most_allowed = took.as_secs_f64() * 200.0 + 20.0;
        let sent = lab.packets("sent");
        assert!(sent as f64 <= most_allowed, "{sent} packets in {took:?}");
        assert!(sent >= 199 + 200 * 4, "{sent} packets");
        // One flow a port, however often it was probed, and a few of the uplink's and the console's.
        assert!((200..450).contains(&most), "{most} flows in the table of connections");
    });
}

#[test]
fn rates_of_a_scan_and_of_careful_devices_hold_for_every_method() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let _listener = scene.shop.listen(&[80]);
        let target = scene.shop.v4();
        let rules = || Firewall::open().count("sent", "office", "dmz", any()).drop("office", "dmz", udp("-"));
        let measured = |args: &[&str]| {
            lab.firewall(&rules());
            let began = Instant::now();
            let scan = scan(&scene, target, args);
            (scan, lab.packets("sent") as f64, began.elapsed().as_secs_f64())
        };
        for flag in ["--max-rate", "--max-rate-per-host"] {
            let (scan, sent, took) = measured(&["-p", "1-120", flag, "100"]);
            assert_eq!(states(&scan, target), "open 80; closed 1-79,81-120");
            assert!(sent <= took * 100.0 + 5.0, "{flag}: {sent} packets in {took} s");
        }
        careful(&scene, "max_rate = 40\nin_flight = 4");
        let (scan, sent, took) = measured(&["-p", "60-119"]);
        assert_eq!(states(&scan, target), "open 80; closed 60-79,81-119");
        assert!(sent <= took * 40.0 + 5.0, "syn: {sent} packets in {took} s");
        let (_, sent, took) = measured(&["-p", "U:60-69", "--method", "udp"]);
        assert!(sent <= took * 40.0 + 5.0, "udp: {sent} packets in {took} s");
        assert!(sent >= 40.0, "udp: {sent} packets for 10 silent ports");
    });
}

/// A device that holds two connections at a time, as a controller may: no more than so many probes wait for it.
#[test]
fn probes_in_flight_to_a_careful_device_are_bounded() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let target = scene.shop.v4();
        careful(&scene, "in_flight = 2");
        for (ports, kind) in [("T:60-65", tcp("-")), ("U:60-65", udp("-"))] {
            let rules = Firewall::open().count("sent", "office", "dmz", kind.clone());
            lab.firewall(&rules.drop("office", "dmz", kind));
            let began = Instant::now();
            let scan = scan(&scene, target, &["-p", ports]);
            // Six silent ports, two at a time, each four probes that are waited for 300 ms at least.
            assert!(began.elapsed() >= Duration::from_millis(3 * 4 * 300), "{ports}: {:?}", began.elapsed());
            assert!(lab.packets("sent") >= 24, "{}", scan.finished());
        }
    });
}

fn careful(scene: &OpenScene, bounds: &str) {
    let cidrs = format!("\"{}\", \"{}\"", scene.shop.v4(), scene.shop.v6());
    let before = scene.office.log().len();
    scene.office.write_config(&format!(
        "[scope]\nallow = [\"10.99.0.0/16\", \"fd00:99::/32\"]\n[[scope.careful]]\ncidrs = [{cidrs}]\n{bounds}\n"
    ));
    portolan_tests::wait::wait_until("the scope to be read", portolan_tests::wait::SOON, || {
        scene.office.log()[before..].contains("scope")
    });
}

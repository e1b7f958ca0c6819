//! The lab tests itself: what its firewall, loss, delay and isolation claim really happens, judged by nmap.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use portolan_tests::lab::{self, Firewall, Host, any, tcp, udp};
use portolan_tests::wait::{SOON, stays, wait_until};
use portolan_tests::{in_lab, judge, need, skip, universe};

/// One rule of each kind between two segments, and a listener behind each.
fn one_rule_of_each_kind(lab: &lab::Lab) -> (Host, Host, lab::Listener) {
    let prober = lab.host("office", "prober");
    let shop = lab.host("dmz", "shop");
    let listener = shop.listen(&[80, 81, 82, 83, 84, 90, 91]);
    let rules = Firewall::open()
        .drop("office", "dmz", tcp("81,90-91"))
        .reset("office", "dmz", tcp("82"))
        .prohibit("office", "dmz", tcp("83"))
        .host_unreachable("office", "dmz", tcp("84"));
    lab.firewall(&rules);
    (prober, shop, listener)
}

#[test]
fn each_verdict_of_the_firewall_is_seen_by_nmap() {
    need!("nmap");
    in_lab!(|lab| {
        let (prober, shop, _listener) = one_rule_of_each_kind(lab);
        let seen = judge::nmap_connect(&prober, &[shop.v4()], "79-84,90-92");
        assert_eq!(seen.of(shop.v4()).to_string(), "open 80; closed 79,82,92; filtered 81,83-84,90-91");
    });
}

#[test]
fn each_verdict_of_the_firewall_is_seen_by_nmap_over_ipv6() {
    need!("nmap");
    in_lab!(|lab| {
        let (prober, shop, _listener) = one_rule_of_each_kind(lab);
        let seen = judge::nmap_connect(&prober, &[shop.v6()], "79-84,90-92");
        assert_eq!(seen.of(shop.v6()).to_string(), "open 80; closed 79,82,92; filtered 81,83-84,90-91");
    });
}

#[test]
fn a_closed_firewall_lets_only_the_allowed_port_pass_and_only_one_way() {
    need!("nmap");
    in_lab!(|lab| {
        let office = lab.host("office", "pc");
        let server = lab.host("server", "server");
        let _office = office.listen(&[7443]);
        let _server = server.listen(&[7443, 7444]);
        lab.firewall(&Firewall::closed().allow("office", "server", tcp("7443")));

        let outward = judge::nmap_connect(&office, &[server.v4(), server.v6()], "7443-7444");
        let inward = judge::nmap_connect(&server, &[office.v4(), office.v6()], "7443-7444");
        for (out, back) in [(server.v4(), office.v4()), (server.v6(), office.v6())] {
            assert_eq!(outward.of(out).to_string(), "open 7443; filtered 7444");
            assert_eq!(inward.of(back).to_string(), "filtered 7443-7444");
        }
    });
}

#[test]
fn hosts_of_one_segment_talk_past_the_firewall() {
    need!("nmap");
    in_lab!(|lab| {
        let (one, other) = (lab.host("office", "one"), lab.host("office", "other"));
        let _listener = other.listen(&[22]);
        lab.firewall(&Firewall::closed());
        let seen = judge::nmap_connect(&one, &[other.v4(), other.v6()], "22-23");
        assert_eq!(seen.of(other.v4()).to_string(), "open 22; closed 23");
        assert_eq!(seen.of(other.v6()).to_string(), "open 22; closed 23");
    });
}

#[test]
fn ports_close_when_their_listener_is_dropped() {
    need!("nmap");
    in_lab!(|lab| {
        let (prober, shop) = (lab.host("office", "prober"), lab.host("dmz", "shop"));
        let listener = shop.listen(&[80]);
        let look = || judge::nmap_connect(&prober, &[shop.v4()], "80").of(shop.v4()).to_string();
        assert_eq!(look(), "open 80");
        assert!(listener.accepted() > 0);
        drop(listener);
        assert_eq!(look(), "closed 80");
    });
}

#[test]
fn a_lossy_path_loses_about_its_share() {
    in_lab!(|lab| {
        let (sender, receiver) = (lab.host("office", "sender"), lab.host("dmz", "receiver"));
        let count = |rules: Firewall| rules.count("sent", "office", "dmz", udp("9"));
        lab.firewall(&count(Firewall::open().lose("office", "dmz", 50)));
        let socket = receiver.inside(|| UdpSocket::bind((receiver.v4(), 9)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        sender.inside(|| {
            let from = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..200 {
                from.send_to(b"chart", receiver.at(9)).unwrap();
            }
        });
        let mut arrived = 0;
        while socket.recv(&mut [0; 16]).is_ok() {
            arrived += 1;
        }
        assert_eq!(lab.packets("sent"), 200);
        // Five standard deviations to either side.
        assert!((65..=135).contains(&arrived), "{arrived} of 200 arrived at a loss of 50 %");
    });
}

#[test]
fn a_path_that_loses_everything_is_filtered() {
    need!("nmap");
    in_lab!(|lab| {
        let (prober, shop) = (lab.host("office", "prober"), lab.host("dmz", "shop"));
        let _listener = shop.listen(&[80]);
        lab.firewall(&Firewall::open().lose("dmz", "office", 100));
        let seen = judge::nmap_connect(&prober, &[shop.v4()], "80-81");
        assert_eq!(seen.of(shop.v4()).to_string(), "filtered 80-81");
    });
}

#[test]
fn a_delayed_path_takes_longer_and_shows_the_same_ports() {
    need!("nmap");
    in_lab!(|lab| {
        let (prober, shop, _listener) = one_rule_of_each_kind(lab);
        let delay = Duration::from_millis(80);
        if let Err(why) = lab.delay("office", delay) {
            skip!("{why}");
        }
        for address in [shop.v4(), shop.v6()] {
            let took = prober.inside(|| {
                let start = Instant::now();
                TcpStream::connect_timeout(&(address, 80).into(), SOON).unwrap();
                start.elapsed()
            });
            assert!(took >= delay, "a round trip to {address} took {took:?}, less than the delay");
        }
        let seen = judge::nmap_connect(&prober, &[shop.v4()], "79-84");
        assert_eq!(seen.of(shop.v4()).to_string(), "open 80; closed 79,82; filtered 81,83-84");
    });
}

#[test]
fn a_cut_silences_an_established_connection_without_telling_either_side() {
    in_lab!(|lab| {
        let (client, server) = (lab.host("office", "client"), lab.host("server", "server"));
        let listener = server.inside(|| std::net::TcpListener::bind((server.v4(), 7443)).unwrap());
        let mut near = client.inside(|| TcpStream::connect(server.at(7443)).unwrap());
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(b"a").unwrap();
        far.read_exact(&mut [0]).unwrap();

        lab.firewall(&Firewall::open().cut("office", "server"));
        near.write_all(b"b").unwrap();
        far.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);

        // What was in flight arrives once the cable is mended.
        lab.firewall(&Firewall::open());
        far.set_read_timeout(Some(SOON)).unwrap();
        far.read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn counters_count_attempts_to_connect() {
    in_lab!(|lab| {
        let (prober, shop) = (lab.host("office", "prober"), lab.host("dmz", "shop"));
        let _listener = shop.listen(&[80]);
        lab.firewall(&Firewall::open().count("attempts", &prober, &shop, tcp("-")).drop(
            "dmz",
            "office",
            any(),
        ));
        for _ in 0..3 {
            prober.inside(|| drop(TcpStream::connect(shop.at(80)).unwrap()));
        }
        assert_eq!(lab.packets("attempts"), 3);
        stays("no more attempts", Duration::from_millis(300), || lab.packets("attempts") == 3);
    });
}

#[test]
fn names_are_a_hosts_own() {
    in_lab!(|lab| {
        let (pc, shop) = (lab.host("office", "pc"), lab.host("dmz", "shop"));
        pc.set_names(&[("shop.internal", shop.v4())]);
        let lookup = |host: &Host| host.command("getent").args(["hosts", "shop.internal"]).run();
        assert!(lookup(&pc).ok().stdout.starts_with(&shop.v4().to_string()));
        assert_eq!(lookup(&shop).code, 2, "no other host knows the name");
        pc.set_names(&[("shop.internal", "10.99.9.9".parse().unwrap())]);
        assert!(lookup(&pc).ok().stdout.starts_with("10.99.9.9"));
    });
}

#[test]
fn real_services_answer() {
    need!("nginx", "sshd", "ssh-keygen", "redis-server", "nmap");
    in_lab!(|lab| {
        let (pc, shop) = (lab.host("office", "pc"), lab.host("dmz", "shop"));
        let _web = lab::nginx(&shop, 80);
        let _ssh = lab::sshd(&shop, 22);
        let _cache = lab::redis(&shop, 6379);
        let all: [IpAddr; 2] = [shop.v4(), shop.v6()];
        let seen = judge::nmap_connect(&pc, &all, "22,23,80,6379");
        for address in all {
            assert_eq!(seen.of(address).to_string(), "open 22,80,6379; closed 23");
        }
        let mut greeting = [0; 4];
        pc.inside(|| TcpStream::connect(shop.at(22)).unwrap()).read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"SSH-");
    });
}

#[test]
fn processes_are_recorded_bounded_and_gone_with_their_guard() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let finished = pc.command("sh").args(["-c", "echo out; echo err >&2; exit 7"]).run();
        assert_eq!(
            (finished.code, finished.stdout.as_str(), finished.stderr.as_str()),
            (7, "out\n", "err\n")
        );
        assert_eq!(pc.command("cat").stdin("fed").run().stdout, "fed");

        let mut patient = pc.command("sleep").arg("1000").spawn();
        // Not SIGINT: where the tests run in the background of a shell, it is ignored from the start.
        patient.signal(Signal::SIGTERM);
        assert_eq!(patient.wait(SOON).code, 143, "a signal counts as a shell counts it");

        let guarded = pc.command("sleep").arg("1000").spawn();
        let entry = std::path::PathBuf::from(format!("/proc/{}", guarded.id()));
        assert!(entry.exists());
        drop(guarded);
        assert!(!entry.exists());
    });
}

#[test]
fn the_universe_is_empty_and_private() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let links = pc.command("ip").args(["-brief", "link"]).run();
        let names: Vec<&str> =
            links.ok().stdout.lines().filter_map(|line| line.split(['@', ' ']).next()).collect();
        assert_eq!(names, ["lo", "eth0"]);
        let outside = std::fs::read_dir("/run").unwrap().flatten().map(|entry| entry.file_name());
        let mut outside: Vec<String> = outside.map(|name| name.to_string_lossy().into_owned()).collect();
        outside.sort();
        assert_eq!(outside, ["hosts", "lab", "netns", "resolv.conf"]);
        let no_route = TcpStream::connect_timeout(&"192.0.2.1:9".parse().unwrap(), SOON).unwrap_err();
        assert_eq!(no_route.kind(), ErrorKind::NetworkUnreachable, "there is no way out");
    });
}

#[test]
fn whatever_a_test_leaves_behind_is_gone_with_its_universe() {
    const MARK: &str = "98765.4321";
    in_lab!(|lab| {
        let pc = lab.host("office", "left-behind");
        std::mem::forget(pc.command("sleep").arg(MARK).spawn());
    });
    if universe::is_inside() {
        return;
    }
    let still_there = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
            .any(|line| line.contains(MARK))
    };
    wait_until("the forgotten process to be gone", SOON, || !still_there());
    assert!(!std::path::Path::new("/run/netns/left-behind").exists());
}

#[test]
fn a_failure_inside_is_a_failure_outside() {
    let outcome = std::panic::catch_unwind(|| in_lab!(|_lab| panic!("on purpose")));
    let panic = outcome.expect_err("the body panics");
    if universe::is_inside() {
        std::panic::resume_unwind(panic);
    }
    let said = panic.downcast_ref::<String>().expect("a formatted message");
    assert!(said.contains("on purpose"), "the reason is lost: {said}");
}

#[test]
fn a_lab_needs_no_privileges() {
    need!("nmap", "setpriv");
    in_lab!(rootless, |lab| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        let outer = map.split_whitespace().nth(1).unwrap();
        assert_ne!(outer, "0", "root made this universe");
        let (prober, shop, _listener) = one_rule_of_each_kind(lab);
        let seen = judge::nmap_connect(&prober, &[shop.v4(), shop.v6()], "79-84");
        for address in [shop.v4(), shop.v6()] {
            assert_eq!(seen.of(address).to_string(), "open 80; closed 79,82; filtered 81,83-84");
        }
    });
}

#[test]
fn a_lab_without_privileges_can_delay_where_the_machine_lets_it() {
    in_lab!(rootless, |lab| {
        let (prober, shop) = (lab.host("office", "prober"), lab.host("dmz", "shop"));
        let _listener = shop.listen(&[80]);
        let delay = Duration::from_millis(50);
        if let Err(why) = lab.delay("office", delay) {
            skip!("{why}");
        }
        let start = Instant::now();
        prober.inside(|| TcpStream::connect_timeout(&shop.at(80), SOON).unwrap());
        assert!(start.elapsed() >= delay);
    });
}

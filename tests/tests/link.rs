//! The one port and what comes over it: lost cables, silent strangers, crowds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use portolan_tests::deployment::{Deployment, PORT};
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, Host, tcp};
use portolan_tests::scene::OpenScene;
use portolan_tests::wait::{try_wait_for, wait_until};

/// A half-open connection is noticed within this, by either side.
const NOTICED: Duration = Duration::from_secs(20);
/// A handshake ends within this.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How much longer than the requirement a loaded machine may take to show it.
const SLACK: Duration = Duration::from_secs(4);

/// A connection that does not read or write on its own.
fn stranger(host: &Host, deployment: &Deployment) -> Option<TcpStream> {
    let at = deployment.server_host().at(PORT);
    let stream = host.inside(|| TcpStream::connect_timeout(&at, Duration::from_secs(10))).ok()?;
    stream.set_nonblocking(true).unwrap();
    Some(stream)
}

/// Whether the other side has ended it.
fn is_ended(mut stream: &TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            // A TLS alert before the end.
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn a_cut_cable_is_noticed_by_both_sides_and_mended_without_help() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let rules = || Firewall::open().count("dials", "office", "server", tcp(&PORT.to_string()));
        lab.firewall(&rules().cut(&scene.pc, scene.deployment.server_host()));
        let cut = Instant::now();
        let (mut server_saw, mut satellite_saw) = (None, None);
        wait_until("both sides to notice", NOTICED + SLACK, || {
            if server_saw.is_none() && scene.deployment.status_of("office-1") == "offline" {
                server_saw = Some(cut.elapsed());
            }
            // A satellite that has noticed dials again.
            if satellite_saw.is_none() && lab.packets("dials") > 0 {
                satellite_saw = Some(cut.elapsed());
            }
            server_saw.is_some() && satellite_saw.is_some()
        });
        lab.firewall(&rules());
        scene.deployment.wait_for_status("office-1", "online");
        let _listener = scene.shop.listen(&[80]);
        let scan = scene.deployment.scan(&[&scene.shop.v4().to_string(), "-p", "80", "--from", "office-1"]);
        assert_eq!(scan.code_is(0).verdicts("office-1").of(scene.shop.v4()).to_string(), "open 80");
    });
}

#[test]
fn a_handshake_that_does_not_come_is_ended() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let deployment = Deployment::up(lab);
        let silent = stranger(&pc, &deployment).unwrap();
        let babbling = stranger(&pc, &deployment).unwrap();
        // The head of a TLS record that promises more than ever comes.
        (&babbling).write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
        let rude = stranger(&pc, &deployment).unwrap();
        (&rude).write_all(b"GET / HTTP/1.1\r\nhost: chart\r\n\r\n").unwrap();
        wait_until("every stranger to be shown out", HANDSHAKE + SLACK, || {
            [&silent, &babbling, &rude].into_iter().all(is_ended)
        });
        assert!(!deployment.server_log().contains("panicked at"), "{}", deployment.server_log());
        deployment.console(&["status"]).ok();
    });
}

#[test]
fn a_crowd_without_certificates_is_capped_and_hinders_nobody_else() {
    in_lab!(|lab| {
        let crowd = lab.host("office", "crowd");
        let scene = OpenScene::build(lab);
        let mut strangers: Vec<TcpStream> = Vec::new();
        let start = Instant::now();
        for _ in 0..600 {
            strangers.extend(stranger(&crowd, &scene.deployment));
        }
        // Over the cap they are closed at once, not only when their handshake is due.
        let closed_early =
            try_wait_for(Duration::from_secs(2), || strangers.iter().any(is_ended).then_some(()));
        let took = start.elapsed();
        assert!(closed_early.is_some() && took < HANDSHAKE, "no cap seen after {took:?}");

        // Others are served meanwhile, and the satellite in the same segment stays.
        scene.deployment.console(&["satellite", "list"]).ok();
        assert_eq!(scene.deployment.status_of("office-1"), "online");
        let newcomer = scene.deployment.satellite(&lab.host("office", "newcomer"), "office-2");
        assert!(newcomer.is_running());
        wait_until("the crowd to be gone", HANDSHAKE + SLACK, || strangers.iter().all(is_ended));
    });
}

#[test]
fn a_port_scan_of_the_server_does_it_no_harm() {
    portolan_tests::need!("nmap");
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let scanner = lab.host("office", "scanner");
        let server = scene.deployment.server_host().v4();
        for _ in 0..3 {
            let nmap = scanner.command("nmap").args(["-sT", "-sV", "-n", "-Pn", "-p", &PORT.to_string()]);
            nmap.args(["--version-intensity", "2", "--host-timeout", "60s", &server.to_string()]).run().ok();
        }
        assert!(!scene.deployment.server_log().contains("panicked at"), "{}", scene.deployment.server_log());
        assert_eq!(scene.deployment.status_of("office-1"), "online");
    });
}

#[test]
fn running_out_of_descriptors_backs_off_and_recovers() {
    in_lab!(|lab| {
        let crowds: Vec<Host> = (0..4).map(|number| lab.host("office", &format!("crowd-{number}"))).collect();
        let pc = lab.host("branch", "pc");
        let deployment = Deployment::new(lab);
        deployment.init().ok();
        deployment.start();
        let _satellite = deployment.satellite(&pc, "branch-1");
        let id = deployment.server_id().to_string();
        portolan_tests::lab::run_ok(portolan_tests::lab::Program::new("prlimit").args([
            "--pid",
            &id,
            "--nofile=80:80",
        ]));
        let mut strangers: Vec<TcpStream> = Vec::new();
        for crowd in &crowds {
            for _ in 0..60 {
                strangers.extend(stranger(crowd, &deployment));
            }
        }
        let ticks = || cpu_ticks(&id);
        let before = ticks();
        let watched = Instant::now();
        std::thread::sleep(Duration::from_secs(2));
        // A loop that spins on accept would use nearly every one of the 100 ticks a second.
        let used = ticks() - before;
        let share = used as f64 / watched.elapsed().as_secs_f64();
        assert!(share < 60.0, "{share:.0} of 100 ticks a second: the accept loop spins");
        drop(strangers);
        wait_until("the server to answer again", HANDSHAKE + SLACK, || {
            deployment.console(&["status"]).code == 0
        });
        deployment.wait_for_status("branch-1", "online");
    });
}

/// Processor time of a process, in ticks of a hundredth of a second.
fn cpu_ticks(id: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let after_name: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    after_name[11].parse::<u64>().unwrap() + after_name[12].parse::<u64>().unwrap()
}

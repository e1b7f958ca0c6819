//! Full disks: while there is no room, nothing is taken and somebody is told; when there is room again, everything goes
//! on by itself, soon, and what was acked is there.
//!
//! `PORTOLAN_LONG_DISK_FULL` says how often in all; three in five hit the server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portolan_proto::v1;
use portolan_tests::chance::{Chance, amount};
use portolan_tests::client::{Client, Synthetic};
use portolan_tests::deployment::Deployment;
use portolan_tests::lab::{Host, Lab, SmallDisk};
use portolan_tests::load::Load;
use portolan_tests::wait::{SOON, try_wait_for, wait_until};
use portolan_tests::{figure, in_lab, need};

/// Times that a disk is full, without `--long`.
const CYCLES: u64 = 100;
/// Servers side by side, and their satellites.
const SERVERS: u64 = 3;
const SATELLITES: u16 = 3;
/// Satellites side by side.
const REAL: u64 = 4;
/// The server's disk: what it wants free for itself, and some more.
const SERVER_DISK_MIB: u64 = 420;
/// A satellite's disk: more than what its spool leaves to others.
const SATELLITE_DISK_MIB: u64 = 160;
/// What a satellite's log says when its spool takes nothing.
const REFUSES: &str = "takes nothing";
/// Scans that end well on a full disk show that the satellite found room in what it has.
const GOES_ON: u64 = 3;
/// Between two records of one synthetic satellite.
const PAUSE: Duration = Duration::from_millis(3);
/// Everything goes on within this once there is room.
const RECOVERY: Duration = Duration::from_secs(5);
/// How long a program may take to say that it has no room.
const SAID: Duration = Duration::from_secs(30);

fn cycles() -> u64 {
    amount("PORTOLAN_LONG_DISK_FULL", CYCLES)
}

fn limit(cycles: u64) -> Duration {
    Duration::from_secs(240) + Duration::from_secs(12) * u32::try_from(cycles).unwrap()
}

/// Runs `work` for each of so many places at the same time, with its share.
fn side_by_side(places: u64, all: u64, work: impl Fn(u64, u64) + Sync) {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..places)
            .map(|number| {
                let share = all / places + u64::from(number < all % places);
                scope.spawn(move || work(number, share))
            })
            .collect();
        for one in running {
            one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

// === the server's disk ===

/// Whether the server says that its store takes nothing; it must answer in any case.
#[track_caller]
fn says_it_is_full(deployment: &Deployment) -> bool {
    let status = deployment.ask(&["status"]);
    let problems = status["problems"].as_array().unwrap_or_else(|| panic!("no `problems` in {status}"));
    problems.iter().any(|problem| {
        let kind = problem["kind"].as_str().unwrap_or_default();
        kind == "store-full" || kind == "store-failed"
    })
}

fn fill_servers_disk(lab: &Lab, number: u64, cycles: u64) {
    let name = format!("server-{number}");
    let mut chance = Chance::of_run(&format!("disk_full {name}"));
    let deployment = Deployment::on(lab, &lab.host("server", &name), &name);
    let disk = SmallDisk::mount(&deployment.data_dir(), SERVER_DISK_MIB);
    let load = Load::build(deployment, SATELLITES, PAUSE);
    let (mut longest, mut longest_said) = (Duration::ZERO, Duration::ZERO);
    for cycle in 1..=cycles {
        load.send_on();
        let goal = load.acked() + chance.between(1, 60);
        wait_until("acks", SOON, || {
            load.check();
            load.acked() >= goal
        });
        // To the last byte, or nearly.
        let spare = *chance.pick(&[0, 0, 4 << 10, 512 << 10, 5 << 20]);
        eprintln!("{name} cycle {cycle}: {} free, all but {spare} of it taken", disk.free());
        disk.fill(spare);
        let began = Instant::now();
        wait_until("the server to say that its disk is full", SAID, || says_it_is_full(&load.deployment));
        longest_said = longest_said.max(began.elapsed());
        // What is under way is decided soon; from then on nothing is acked.
        let quiet = try_wait_for(SAID, || load.satellites.iter().all(stands_still).then_some(()));
        assert!(quiet.is_some(), "{name} cycle {cycle}: acks although the disk is full");
        load.check();
        let before = load.acked();
        let freed = Instant::now();
        disk.clear();
        wait_until("acks to flow again", RECOVERY * 4, || load.acked() > before);
        let took = freed.elapsed();
        longest = longest.max(took);
        assert!(took < RECOVERY, "{name} cycle {cycle}: {took:?} until acks flowed again");
        wait_until("the server to say that all is well", SOON, || !says_it_is_full(&load.deployment));
        if cycle % 5 == 0 || cycle == cycles {
            load.audit(&mut chance);
        }
    }
    figure!(
        "{name}: {cycles} times full, said after {longest_said:.1?} at most, acks again after {longest:.1?} at most, \
         {} records",
        load.acked()
    );
    assert!(!load.deployment.server_log().contains("panicked at"), "{}", load.deployment.server_log());
}

/// Nothing was acked for a moment.
fn stands_still(satellite: &Synthetic) -> bool {
    satellite.since_ack() > Duration::from_millis(400)
}

#[test]
fn a_server_whose_disk_is_full_refuses_says_so_and_goes_on_by_itself() {
    let cycles = cycles() * 3 / 5;
    need!("curl", "fallocate");
    in_lab!(within limit(cycles), |lab| {
        side_by_side(SERVERS, cycles, |number, share| fill_servers_disk(lab, number, share));
    });
}

#[test]
fn a_server_that_dies_while_its_disk_is_full_starts_there_too() {
    need!("curl", "fallocate");
    in_lab!(|lab| {
        let mut chance = Chance::of_run("disk_full restart");
        let deployment = Deployment::new(lab);
        let disk = SmallDisk::mount(&deployment.data_dir(), SERVER_DISK_MIB);
        let load = Load::build(deployment, 1, PAUSE);
        load.send_on();
        wait_until("acks", SOON, || load.acked() > 50);
        disk.fill(0);
        wait_until("the server to say that its disk is full", SAID, || says_it_is_full(&load.deployment));
        load.deployment.crash();
        load.start_server();
        wait_until("the server to say it again", SAID, || says_it_is_full(&load.deployment));
        let (before, freed) = (load.acked(), Instant::now());
        disk.clear();
        wait_until("acks to flow again", RECOVERY * 4, || load.acked() > before);
        assert!(freed.elapsed() < RECOVERY, "{:?} until acks flowed again", freed.elapsed());
        load.audit(&mut chance);
    });
}

// === a satellite's disk ===

/// Scans without end, each after ports were opened and closed, and what they found.
struct Scans {
    complete: AtomicU64,
    incomplete: AtomicU64,
    /// Ports that changed from one complete scan to the next.
    changes: AtomicU64,
    stop: AtomicBool,
}

impl Scans {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self { complete: zero(), incomplete: zero(), changes: zero(), stop: AtomicBool::new(false) }
    }

    fn complete(&self) -> u64 {
        self.complete.load(Ordering::SeqCst)
    }

    /// Until it is told to stop; returns what was open at the last scan.
    fn run(&self, client: &Client, shop: &Host, mut chance: Chance) -> BTreeSet<u16> {
        let request = v1::ScanRequest {
            satellites: vec!["office-1".into()],
            targets: vec![shop.v4().to_string(), "127.0.0.0/25".into()],
            ports: "1000-1015".into(),
            method: "connect".into(),
            ..v1::ScanRequest::default()
        };
        let mut known: Option<BTreeSet<u16>> = None;
        loop {
            let last = self.stop.load(Ordering::SeqCst);
            let open: BTreeSet<u16> = (1000..1016).filter(|_| chance.below(2) == 0).collect();
            let _listener = shop.listen(&open.iter().copied().collect::<Vec<_>>());
            let ended = client.scan(request.clone()).wait(SOON * 4).expect("every scan ends");
            if matches!(&ended, Ok(Some(end)) if end.complete) {
                let changed = known.map_or(0, |known| known.symmetric_difference(&open).count());
                self.changes.fetch_add(changed as u64, Ordering::SeqCst);
                self.complete.fetch_add(1, Ordering::SeqCst);
                if last {
                    return open;
                }
                known = Some(open);
            } else {
                // It was cut off, for example by the satellite's death, and may have seen some of it.
                eprintln!("a scan did not end well: {ended:?}");
                self.incomplete.fetch_add(1, Ordering::SeqCst);
                known = None;
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn fill_satellites_disk(lab: &Lab, number: u64, cycles: u64) {
    let mut chance = Chance::of_run(&format!("disk_full satellite-{number}"));
    let host = |segment: &str, name: &str| lab.host(segment, &format!("{name}-{number}"));
    let (place, pc, shop) = (host("server", "server"), host("office", "pc"), host("dmz", "shop"));
    let deployment = Deployment::on(lab, &place, &format!("deployment-{number}"));
    deployment.init().ok();
    deployment.start();
    let satellite = deployment.enrolled(&pc, "office-1", &["--scope", "10.99.0.0/16,127.0.0.0/8"]);
    let disk = SmallDisk::mount(&satellite.data_dir(), SATELLITE_DISK_MIB);
    satellite.start();
    deployment.wait_for_status("office-1", "online");
    let client = Client::operator(&deployment);
    let scans = Scans::new();
    let (mut refused, mut longest) = (0, Duration::ZERO);
    let open = thread::scope(|scope| {
        let ports = chance.branch("ports");
        let (scans, client, shop) = (&scans, &client, &shop);
        let scanning = scope.spawn(move || scans.run(client, shop, ports));
        for cycle in 1..=cycles {
            let goal = scans.complete() + chance.between(1, 3);
            wait_until("scans", SOON * 2, || scans.complete() >= goal);
            let spare = *chance.pick(&[0, 0, 4 << 10, 64 << 10]);
            eprintln!("satellite-{number} cycle {cycle}: {} free, all but {spare} of it taken", disk.free());
            let said = || satellite.log().matches(REFUSES).count();
            let (said_before, done) = (said(), scans.complete());
            disk.fill(spare);
            wait_until("the satellite to refuse, or to find room in what it has", SAID, || {
                assert!(satellite.is_running(), "it ended by itself:\n{}", satellite.log());
                said() > said_before || scans.complete() >= done + GOES_ON
            });
            if said() > said_before {
                refused += 1;
                // It lives, and its operator is told.
                assert_eq!(deployment.status_of("office-1"), "online");
                if cycle % 3 == 0 {
                    wait_until("the operator to be told", SOON, || spool_error_is_told(&deployment));
                }
            }
            let killed = chance.below(4) == 0;
            if killed {
                satellite.crash();
                satellite.start();
                deployment.wait_for_status("office-1", "online");
            }
            let (before, freed) =
                (scans.complete() + scans.incomplete.load(Ordering::SeqCst), Instant::now());
            disk.clear();
            wait_until("scans to end again", RECOVERY * 4, || {
                scans.complete() + scans.incomplete.load(Ordering::SeqCst) > before
            });
            let took = freed.elapsed();
            longest = longest.max(took);
            assert!(took < RECOVERY, "satellite-{number} cycle {cycle}: {took:?} until a scan ended again");
        }
        scans.stop.store(true, Ordering::SeqCst);
        scanning.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let shop = shop.v4().to_string();
    let told = deployment.ask(&["ports", "--host", &shop]);
    let ports =
        told.as_array().unwrap().iter().map(|port| u16::try_from(port["port"].as_u64().unwrap()).unwrap());
    assert_eq!(ports.collect::<BTreeSet<_>>(), open, "what is open at the end");
    let history = deployment.history(&shop).len() as u64;
    let (changes, incomplete) =
        (scans.changes.load(Ordering::SeqCst), scans.incomplete.load(Ordering::SeqCst));
    assert!(history >= changes, "{history} changes are told, {changes} were seen by scans that ended well");
    assert!(incomplete > 0 || history == changes, "{history} changes are told, {changes} were there");
    figure!(
        "satellite-{number}: {cycles} times full, refused {refused} times, scans again after {longest:.1?} at most, \
         {} scans, {incomplete} cut off, {history} changes",
        scans.complete()
    );
}

/// Whether `satellite list` and `status` say that the spool takes nothing.
#[track_caller]
fn spool_error_is_told(deployment: &Deployment) -> bool {
    let list = deployment.ask(&["satellite", "list"]);
    let status = deployment.ask(&["status"]);
    let problems = status["problems"].as_array().unwrap_or_else(|| panic!("no `problems` in {status}"));
    list[0]["spool_error"].is_string() && problems.iter().any(|problem| problem["kind"] == "spool-error")
}

#[test]
fn a_satellite_whose_disk_is_full_waits_says_so_and_goes_on_by_itself() {
    let cycles = cycles() * 2 / 5;
    need!("fallocate");
    in_lab!(within limit(cycles), |lab| {
        side_by_side(REAL, cycles, |number, share| fill_satellites_disk(lab, number, share));
    });
}

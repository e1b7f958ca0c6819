//! Standing checks: what they cost a satellite, how soon a port that closes is in `alert watch`, what a policy of 10,000
//! checks takes, and a restart with 10,000 alerts firing. Measured in release mode on this machine and printed beside
//! the limits.
//!
//! `cargo build --release --workspace --bins && cargo bench -p portolan-tests --bench expectations`.
//! `PORTOLAN_CLOSINGS` sets another number of ports to close. Targets, satellite and server share the machine. Only an
//! alert that was lost or raised twice fails; a figure depends on the machine, so it is read by people.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot be taken is an error")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::mount::{MsFlags, mount};
use portolan_tests::chance::{self, Chance};
use portolan_tests::deployment::{Deployment, Satellite};
use portolan_tests::lab::{Host, Lab};
use portolan_tests::measure::{mega, memory, millis, percentile, processor_time, seconds, spread_of, tell};
use portolan_tests::universe;
use portolan_tests::wait::wait_until;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// The one vantage point.
const SATELLITE: &str = "local";
/// Where the targets listen.
const PORT: u16 = 7000;
/// Checks with a listener behind each, and the networks over which they are spread: a path takes 200 probes a second.
const LISTENERS: usize = 1_000;
const NETWORKS: usize = 10;
/// Checks of a large policy, and the networks of their targets.
const CHECKS: usize = 10_000;
const MANY_NETWORKS: usize = 50;
/// Checks a second that are to make 20,000 a minute.
const STEADY_EVERY: Duration = Duration::from_secs(3);
/// Over this time a satellite's use of the processor is taken.
const WATCHED: Duration = Duration::from_secs(40);
/// Until nothing settles any more.
const SETTLE: Duration = Duration::from_secs(10);
/// After this something does not happen any more.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a policy of 10,000 checks is checked and applied.
const ROUNDS: usize = 3;

const NOTICED_LIMIT: Duration = Duration::from_millis(1_300);
const SHARE_LIMIT: f64 = 30.0;
const MEMORY_LIMIT: u64 = 60_000_000;
const CHECK_LIMIT: Duration = Duration::from_secs(1);
const APPLY_LIMIT: Duration = Duration::from_secs(2);
const ASSIGNED_LIMIT: Duration = Duration::from_millis(500);
const RESTART_LIMIT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    universe::run_program(measure)
}

fn measure(lab: &Lab) {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    println!("standing checks on {cores} cores, which targets, satellite and server share\n");
    // The lab's own files are in memory; what is durable has to go to a disk.
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let place = lab.directory("expectations");
    mount(Some(disk.path()), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let host = lab.host("server", "server");
    let deployment = Deployment::on(lab, &host, "expectations");
    deployment.init().ok();
    deployment.start();
    let satellite = deployment.satellite(&host, SATELLITE);

    let mut doors = Doors::open(&host, addresses(1, LISTENERS, NETWORKS));
    steady(&deployment, &satellite, &doors);
    noticed(&deployment, &satellite, &mut doors);
    large_policy(&deployment, &satellite);
    restart(&deployment, &mut doors);
    deployment.stop().ok();
}

// === what it costs ===

fn steady(deployment: &Deployment, satellite: &Satellite, doors: &Doors) {
    let every = format!("{}s", STEADY_EVERY.as_secs());
    deployment.apply(&policy(&doors.addresses(), &format!("open = \"{PORT}\"\nevery = \"{every}\"")));
    all_ok(deployment, LISTENERS);
    thread::sleep(SETTLE);
    let ids = [("satellite", satellite.id()), ("server", deployment.server_id())];
    let before = ids.map(|(_, id)| processor_time(id));
    let accepted = doors.accepted();
    let began = Instant::now();
    thread::sleep(WATCHED);
    let took = began.elapsed();
    let minute = (doors.accepted() - accepted) as f64 / took.as_secs_f64() * 60.0;
    println!("{LISTENERS} connect checks every {every}: {minute:.0} a minute");
    for ((name, id), before) in ids.into_iter().zip(before) {
        let share = 100.0 * (processor_time(id) - before).as_secs_f64() / took.as_secs_f64();
        let ours = name == "satellite";
        let share_text = format!("{share:.1} % of one core");
        tell(&format!("  {name}, processor"), &share_text, "30 %", ours.then_some(share < SHARE_LIMIT));
        let bytes = memory(id, "VmRSS");
        tell(&format!("  {name}, resident"), &mega(bytes), "60 MB", ours.then_some(bytes < MEMORY_LIMIT));
    }
}

// === how soon it is noticed ===

fn noticed(deployment: &Deployment, satellite: &Satellite, doors: &mut Doors) {
    let closings = usize::try_from(chance::amount("PORTOLAN_CLOSINGS", 200)).unwrap().min(LISTENERS);
    let text = policy(&doors.addresses(), &format!("open = \"{PORT}\"\nevery = \"1s\""));
    deployment.apply(&text);
    all_ok(deployment, LISTENERS);
    thread::sleep(SETTLE);
    let mut watch = deployment.watch_alerts();
    let mut chance = Chance::of_run("expectations");
    let mut order: Vec<usize> = (0..LISTENERS).collect();
    for place in (1..order.len()).rev() {
        let other = usize::try_from(chance.below(place as u64 + 1)).unwrap();
        order.swap(place, other);
    }
    let used = processor_time(satellite.id());
    let began = Instant::now();
    let mut times = Vec::new();
    for &door in order.iter().take(closings) {
        let address = doors.address(door).ip().to_string();
        let seen = watch.events().len();
        // At any time of its second.
        thread::sleep(chance.up_to(Duration::from_secs(1)));
        let closed = Instant::now();
        doors.close(door);
        let event = watch.wait_after(seen, PATIENCE, &format!("{address} to be noticed"), |event| {
            event.kind == "firing" && event.alert["address"] == *address
        });
        times.push(event.at - closed);
        doors.reopen(door);
    }
    let share = 100.0 * (processor_time(satellite.id()) - used).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("\n{LISTENERS} checks, every = 1s, confirm = 1: a port closes until `alert watch` prints it");
    let most = percentile(&times, 99);
    tell("  median / 99th percentile / worst", &spread_of(&times), "", None);
    tell("  99th percentile", &millis(most), "1.3 s", Some(most < NOTICED_LIMIT));
    tell("  satellite, processor", &format!("{share:.1} % of one core"), "", None);
    all_ok(deployment, LISTENERS);
    let raised = watch.events().iter().filter(|event| event.kind == "firing").count();
    assert_eq!(raised, closings, "alerts that were raised for ports that were closed");
}

// === a large policy ===

fn large_policy(deployment: &Deployment, satellite: &Satellite) {
    let targets = addresses(101, CHECKS, MANY_NETWORKS);
    let (mut checking, mut applying, mut after_apply, mut after_start) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        // Each time every check is another.
        let text = policy(&targets, &format!("closed = \"{PORT}\"\nevery = \"{}h\"", round + 1));
        let path = deployment.policy_directory(&[("policy.toml", &text)]).join("policy.toml");
        let command = |verb: &str| deployment.console_command(&["policy", verb, path.to_str().unwrap()]);
        let began = Instant::now();
        command("check").run().ok();
        checking.push(began.elapsed());
        let before = assignment_written(satellite);
        let (began, started) = (Instant::now(), SystemTime::now());
        command("apply").run().ok();
        applying.push(began.elapsed());
        let applied = SystemTime::now();
        wait_until("the satellite to have its assignment", PATIENCE, || {
            assignment_written(satellite) > before
        });
        let has_it = assignment_written(satellite);
        after_start.push(has_it.duration_since(started).unwrap_or_default());
        after_apply.push(has_it.duration_since(applied).unwrap_or_default());
        // Every check looks once; nothing of that is to disturb the next round.
        thread::sleep(SETTLE);
    }
    println!("\na policy of {CHECKS} checks");
    let told = |what: &str, times: &[Duration], limit: Option<(Duration, &str)>| {
        let worst = percentile(times, 100);
        let reached = limit.map(|(limit, _)| worst < limit);
        tell(what, &format!("worst {}", millis(worst)), limit.map_or("", |(_, text)| text), reached);
    };
    told("  `policy check`", &checking, Some((CHECK_LIMIT, "1 s")));
    told("  `policy apply`", &applying, Some((APPLY_LIMIT, "2 s")));
    told("  applied until the satellite keeps it", &after_apply, Some((ASSIGNED_LIMIT, "500 ms")));
    told("  the same from the start of `apply`", &after_start, None);
    tell("  server, resident", &mega(memory(deployment.server_id(), "VmRSS")), "", None);
    tell("  satellite, resident", &mega(memory(satellite.id(), "VmRSS")), "", None);
}

/// When the satellite last wrote its assignment to the disk.
fn assignment_written(satellite: &Satellite) -> SystemTime {
    let entries = std::fs::read_dir(satellite.data_dir()).unwrap();
    let assignments = entries.flatten().filter(|entry| is_assignment(&entry.path()));
    let written = assignments.filter_map(|entry| entry.metadata().ok()?.modified().ok());
    written.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Not a half-written one that is about to be renamed.
fn is_assignment(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.starts_with("assignment") && !name.contains("tmp") && !name.contains("new")
}

// === a restart ===

fn restart(deployment: &Deployment, doors: &mut Doors) {
    // Nobody listens there, and at one more, which is looked at every second.
    let (targets, one) = (addresses(101, CHECKS - 1, MANY_NETWORKS), doors.addresses()[0]);
    let many = policy(&targets, &format!("open = \"{PORT}\"\nevery = \"1m\""));
    doors.close(0);
    deployment.apply(&(many + &check(one, &format!("open = \"{PORT}\"\nevery = \"1s\""))));
    wait_until("all alerts to fire", PATIENCE * 2, || deployment.firing().len() == CHECKS);
    let ids = |alerts: &[Value]| -> BTreeSet<String> {
        alerts.iter().filter_map(|alert| Some(alert["id"].as_str()?.to_owned())).collect()
    };
    let before = ids(&deployment.firing());
    // Those that were over before are still listed.
    let over: BTreeSet<String> = ids(&deployment.alerts()).difference(&before).cloned().collect();
    deployment.crash();
    doors.reopen(0);
    let began = Instant::now();
    deployment.start();
    let answers = began.elapsed();
    let about_one = format!("address={one}");
    wait_until("the port that is open again to resolve", PATIENCE, || {
        deployment.ask(&["alert", "list", "--all", &about_one])[0]["status"] == "resolved"
    });
    let evaluates = began.elapsed();
    // Meanwhile every check looks again.
    thread::sleep(Duration::from_secs(75));
    let alerts = deployment.alerts();
    let after: BTreeSet<String> = ids(&alerts).difference(&over).cloned().collect();
    let (lost, other) = (before.difference(&after).count(), after.difference(&before).count());
    assert_eq!((lost, other), (0, 0), "alerts that were lost, and that were raised under another id");
    assert_eq!(alerts.len(), CHECKS + over.len(), "an alert is there twice");
    assert_eq!(deployment.firing().len(), CHECKS - 1);
    println!("\n{CHECKS} alerts firing, the server killed and started again: none lost, none raised twice");
    tell("  answers", &seconds(answers), "2 s", Some(answers < RESTART_LIMIT));
    let reached = Some(evaluates < RESTART_LIMIT);
    tell("  satellite back, and an alert resolved", &seconds(evaluates), "2 s", reached);
    tell("  server, resident", &mega(memory(deployment.server_id(), "VmRSS")), "", None);
    tell("  server, the most ever resident", &mega(memory(deployment.server_id(), "VmHWM")), "", None);
}

// === the scene ===

/// A check for each of these addresses, each with its own name.
fn policy(addresses: &[Ipv4Addr], expected: &str) -> String {
    let mut text = String::from("version = 1\n[segment.server]\ncidrs = [\"127.0.0.0/8\"]\n");
    text.extend(addresses.iter().map(|address| check(*address, expected)));
    text
}

fn check(address: Ipv4Addr, expected: &str) -> String {
    let name = address.to_string().replace('.', "-");
    format!(
        "[[check]]\nname = \"c-{name}\"\nfrom = [\"satellite:{SATELLITE}\"]\ntargets = [\"{address}\"]\n{expected}\n\
         confirm = 1\nrecover = 1\n"
    )
}

/// So many addresses of 127.0.0.0/8, spread over so many networks from `127.first.0.0/24` on.
fn addresses(first: u8, count: usize, networks: usize) -> Vec<Ipv4Addr> {
    let octet = |number: usize| u8::try_from(number).expect("fits a /24");
    (0..count).map(|n| Ipv4Addr::new(127, first, octet(n % networks), octet(n / networks + 1))).collect()
}

/// Waits until every check has looked and is well.
#[track_caller]
fn all_ok(deployment: &Deployment, checks: usize) {
    wait_until("every check to be well", PATIENCE, || {
        let list = deployment.ask(&["check", "list"]);
        let list = list.as_array().unwrap();
        list.len() == checks && list.iter().all(|check| check["state"] == "ok")
    });
}

/// Listeners that accept and hang up, each of which can be closed.
struct Doors {
    runtime: Runtime,
    host: Host,
    doors: Vec<(SocketAddr, JoinHandle<()>)>,
    accepted: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Doors {
    fn open(host: &Host, addresses: Vec<Ipv4Addr>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut doors = Self { runtime, host: host.clone(), doors: Vec::new(), accepted: Default::default() };
        let addresses: Vec<SocketAddr> =
            addresses.into_iter().map(|ip| SocketAddr::from((ip, PORT))).collect();
        let listeners = host.inside(|| addresses.iter().map(listen).collect::<Vec<_>>());
        doors.doors =
            addresses.iter().zip(listeners).map(|(at, listener)| (*at, doors.attend(listener))).collect();
        doors
    }

    fn address(&self, door: usize) -> SocketAddr {
        self.doors[door].0
    }

    fn addresses(&self) -> Vec<Ipv4Addr> {
        let v4 = |at: &SocketAddr| match at.ip() {
            std::net::IpAddr::V4(v4) => v4,
            std::net::IpAddr::V6(v6) => panic!("{v6} is none of ours"),
        };
        self.doors.iter().map(|(at, _)| v4(at)).collect()
    }

    fn accepted(&self) -> usize {
        self.accepted.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Returns when the port is closed.
    fn close(&mut self, door: usize) {
        let (_, attending) = &mut self.doors[door];
        attending.abort();
        let _aborted = self.runtime.block_on(attending);
    }

    fn reopen(&mut self, door: usize) {
        let at = self.doors[door].0;
        let listener = self.host.inside(|| listen(&at));
        self.doors[door].1 = self.attend(listener);
    }

    fn attend(&self, listener: TcpListener) -> JoinHandle<()> {
        let accepted = self.accepted.clone();
        let _context = self.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        self.runtime.spawn(async move {
            while listener.accept().await.is_ok() {
                accepted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        })
    }
}

fn listen(at: &SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(at).unwrap_or_else(|error| panic!("listen on {at}: {error}"));
    listener.set_nonblocking(true).unwrap();
    listener
}

//! What 10,000 satellites cost one server, measured in release mode on this machine and printed beside the limits:
//! memory, the time until a fleet is back after a break, and what operators and live records notice meanwhile.
//!
//! `cargo build --release --workspace --bins && cargo bench -p portolan-tests --bench fleet`. `PORTOLAN_FLEET` sets
//! another number of satellites, `PORTOLAN_FLEET_START` another number of seconds within which they first connect. Fleet and server share the machine. Only a record that was lost or counted twice
//! fails; a figure depends on the machine, so it is read by people.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot be taken is an error")]

#[path = "../tests/fleet/mod.rs"]
mod fleet;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use fleet::Fleet;
use nix::mount::{MsFlags, mount};
use portolan_tests::chance::{self, Chance};
use portolan_tests::deployment::Deployment;
use portolan_tests::lab::{Lab, find_program};
use portolan_tests::measure::{mega, memory, processor_time, seconds, spread_of, tell};
use portolan_tests::universe;

/// One in this many comes back with a backlog, …
const GATHER_EVERY: usize = 20;
/// … of so many records.
const GATHERED: u64 = 200;
/// Between two records of one satellite, on average.
const NEWS: Duration = Duration::from_secs(40);
/// Until nothing settles any more.
const SETTLE: Duration = Duration::from_secs(20);
/// Over this time the server's use of the processor is taken.
const IDLE: Duration = Duration::from_secs(15);
/// Between two rounds of console commands.
const ASK: Duration = Duration::from_millis(500);
/// After this a break counts as not healed.
const PATIENCE: Duration = Duration::from_secs(180);

const MEMORY_LIMIT: u64 = 600_000_000;
const STORM_LIMIT: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    universe::run_program(measure)
}

fn measure(lab: &Lab) {
    let count = u16::try_from(chance::amount("PORTOLAN_FLEET", 10_000)).expect("at most 62,500 satellites");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("a fleet of {count} on {cores} cores, which it shares with the server\n");
    // The lab's own files are in memory; what is durable has to go to a disk.
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let place = lab.directory("fleet");
    mount(Some(disk.path()), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let deployment = Deployment::on(lab, &lab.host("server", "server"), "fleet");
    deployment.init().ok();
    let began = Instant::now();
    let mut fleet = Fleet::enrol(&deployment, count);
    println!("enrolled in {}", seconds(began.elapsed()));
    let config = deployment.config("metrics = \"anyone\"\n");
    deployment.start_with(&config);
    let mut chance = Chance::of_run("fleet");

    let began = Instant::now();
    let spread = Duration::from_secs(chance::amount("PORTOLAN_FLEET_START", 20));
    fleet.set_news(Some(NEWS));
    fleet.start(&deployment, &chance, spread);
    storm(&deployment, &began, &fleet, &format!("first start, within {spread:?}"));
    settled(&deployment);

    fleet.gather(GATHER_EVERY, GATHERED);
    let began = Instant::now();
    deployment.crash();
    fleet.begin_life();
    deployment.start_with(&config);
    println!("server, kill -9 to answering again: {}", seconds(began.elapsed()));
    storm(&deployment, &began, &fleet, "kill -9 of the server");
    settled(&deployment);

    fleet.gather(GATHER_EVERY, GATHERED);
    let began = Instant::now();
    fleet.cut();
    storm(&deployment, &began, &fleet, "every connection cut");
    settled(&deployment);

    fleet.settle(PATIENCE);
    if find_program("curl").is_some() {
        fleet.audit(&deployment, &mut chance, 20);
        println!("{} records acked, none lost, none counted twice", fleet.acked());
    }
    tell_memory(&deployment, "server, the most ever resident", "VmHWM");
    println!("fleet itself, resident: {}", mega(memory(std::process::id(), "VmRSS")));
    deployment.stop().ok();
}

/// Asks what an operator asks until the fleet is back, and tells how both went.
fn storm(deployment: &Deployment, began: &Instant, fleet: &Fleet, what: &str) {
    let (failures_before, _) = fleet.failures();
    drop(fleet.take_latencies());
    let used_before = processor_time(deployment.server_id());
    let watching = fleet.watch_return(*began, PATIENCE);
    let (mut status, mut list, mut wrong) = (Vec::new(), Vec::new(), 0);
    while !watching.is_finished() {
        let round = Instant::now();
        for (command, times) in [(&["status"][..], &mut status), (&["satellite", "list"], &mut list)] {
            let asked = Instant::now();
            let finished = deployment.console_command(command).run();
            times.push(asked.elapsed());
            if finished.code != 0 {
                wrong += 1;
                if wrong == 1 {
                    println!("the first command that failed: {finished}");
                }
            }
        }
        std::thread::sleep(ASK.saturating_sub(round.elapsed()));
    }
    let back = watching.join().unwrap();
    let used = processor_time(deployment.server_id()) - used_before;
    println!("\n{what}");
    let within = |time: Option<Duration>| time.map_or_else(|| format!("not in {PATIENCE:?}"), seconds);
    tell("  all welcomed again", &within(back.all_back), "", None);
    let drained = back.drained.is_some_and(|time| time < STORM_LIMIT);
    tell("  backlogs acked too", &within(back.drained), "30 s", Some(drained));
    if back.drained.is_none() {
        println!("  {} still away, {} behind", back.away, back.behind);
    }
    for (name, times) in [("  `portolan status`", status), ("  `portolan satellite list`", list)] {
        let worst = times.iter().max().copied().unwrap_or_default();
        tell(name, &spread_of(&times), "300 ms", Some(worst < COMMAND_LIMIT));
    }
    tell("  commands that failed", &wrong.to_string(), "0", Some(wrong == 0));
    tell("  live record to its ack", &spread_of(&fleet.take_latencies()), "", None);
    tell("  server, processor time", &seconds(used), "", None);
    tell_memory(deployment, "  server, the most ever resident", "VmHWM");
    let (failures, words) = fleet.failures();
    if failures > failures_before {
        println!("  {} attempts to connect failed; of the words: {words:?}", failures - failures_before);
    }
}

fn settled(deployment: &Deployment) {
    std::thread::sleep(SETTLE);
    println!("\nsettled");
    let (began, used) = (Instant::now(), processor_time(deployment.server_id()));
    std::thread::sleep(IDLE);
    let used = processor_time(deployment.server_id()) - used;
    let share = 100.0 * used.as_secs_f64() / began.elapsed().as_secs_f64();
    tell("  server, processor", &format!("{share:.0} % of one core"), "", None);
    tell_memory(deployment, "  server, resident", "VmRSS");
}

fn tell_memory(deployment: &Deployment, what: &str, which: &str) {
    let bytes = memory(deployment.server_id(), which);
    tell(what, &mega(bytes), "600 MB", Some(bytes < MEMORY_LIMIT));
}

//! The figures that were promised, measured in release mode on this machine and printed beside their targets.
//!
//! `cargo build --release --workspace --bins && cargo bench -p portolan-tests --bench figures`. Nothing fails here:
//! a figure depends on the machine, so it is read by people.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot be taken is an error")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use portolan_tests::deployment::{Deployment, binaries};
use portolan_tests::lab::{Lab, Program, find_program};
use portolan_tests::measure::{self, mega, memory, millis};
use portolan_tests::universe;
use portolan_tests::wait::wait_until;

/// How often each figure is taken; the median counts.
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    universe::run_program(measure)
}

fn measure(lab: &Lab) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("figures on {cores} cores, median of {ROUNDS}\n");
    let deployment = Deployment::new(lab);
    deployment.init().ok();
    server_start(&deployment);
    deployment.start();
    let satellite = deployment.satellite(deployment.server_host(), "local");

    let list = median(|| timed(deployment.console_command(&["satellite", "list"])));
    tell(
        "console, `satellite list` on an idle server",
        &millis(list),
        "50 ms",
        list < Duration::from_millis(50),
    );
    full_scan(&deployment);
    // Memory is looked at after the work, when caches and pools have their size.
    std::thread::sleep(Duration::from_secs(3));
    tell_memory("satellite, resident when idle", satellite.id(), 20);
    tell_memory("server, resident when idle", deployment.server_id(), 40);
    let [_, (_, binary), _] = binaries();
    let size = std::fs::metadata(binary).unwrap().len();
    tell("satellite binary", &mega(size), "12 MB", size < 12_000_000);
}

fn server_start(deployment: &Deployment) {
    let url = format!("https://{}/readyz", deployment.address());
    let took = median(|| {
        let start = Instant::now();
        let server = deployment.run_command().spawn();
        wait_until("/readyz", Duration::from_secs(30), || {
            let curl = deployment.server_host().command("curl");
            curl.args(["--silent", "--fail", "--insecure", "--output", "/dev/null", &url]).run().code == 0
        });
        let took = start.elapsed();
        server.stop(Duration::from_secs(15));
        took
    });
    tell("server, start to ready", &millis(took), "500 ms", took < Duration::from_millis(500));
}

fn full_scan(deployment: &Deployment) {
    if find_program("nmap").is_none() {
        println!("nmap is not installed: the full scan has nothing to be compared with");
        return;
    }
    let scan = ["scan", "127.0.0.1", "-p-", "--from", "local"];
    let nmap = ["-sT", "-T4", "-p-", "-n", "-Pn", "127.0.0.1"];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // In turns, so that whatever else the machine does hits both.
    for _ in 0..ROUNDS {
        ours.push(timed(deployment.console_command(&scan)));
        theirs.push(timed(deployment.server_host().command("nmap").args(nmap)));
    }
    let (ours, theirs) = (middle(ours), middle(theirs));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    let measured = format!("{} : {} = {ratio:.2}", millis(ours), millis(theirs));
    tell("all ports of loopback, portolan : nmap", &measured, "1.5", ratio <= 1.5);
}

fn tell_memory(what: &str, id: u32, limit: u64) {
    let bytes = memory(id, "VmRSS");
    tell(what, &mega(bytes), &format!("{limit} MB"), bytes < limit * 1_000_000);
}

fn timed(program: Program) -> Duration {
    let start = Instant::now();
    program.run().ok();
    start.elapsed()
}

fn median(mut take: impl FnMut() -> Duration) -> Duration {
    middle((0..ROUNDS).map(|_| take()).collect())
}

fn middle(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

fn tell(what: &str, measured: &str, limit: &str, reached: bool) {
    measure::tell(what, measured, limit, Some(reached));
}

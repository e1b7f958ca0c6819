//! A fleet of 300 satellites on one server, in short what `benches/fleet.rs` measures with 10,000: all connect, all come
//! back after a crash and after a cut, and no record is lost or counted twice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "fleet/mod.rs"]
mod fleet;

use std::time::{Duration, Instant};

use fleet::{Fleet, Return};
use portolan_tests::chance::Chance;
use portolan_tests::deployment::Deployment;
use portolan_tests::measure::memory;
use portolan_tests::wait::wait_until;
use portolan_tests::{figure, in_lab, need};

const SATELLITES: u16 = 300;
/// On a slow machine with other tests beside it; alone it takes about two seconds.
const BOUND: Duration = Duration::from_secs(60);
/// One in ten gathers more than may be on its way at once.
const GATHER_EVERY: usize = 10;
const GATHERED: u64 = 100;
/// What one connected satellite may cost the server; a debug build needs more than a release build.
const MEMORY_EACH: u64 = 256 * 1024;

#[test]
fn three_hundred_satellites_come_back_and_nothing_is_lost_or_counted_twice() {
    in_lab!(|lab| {
        need!("curl");
        let mut chance = Chance::of_run("fleet");
        let deployment = Deployment::new(lab);
        deployment.init().ok();
        let mut fleet = Fleet::enrol(&deployment, SATELLITES);
        // Fewer than there are satellites: whoever has proved who it is is no stranger any more.
        let config = deployment.config("metrics = \"anyone\"\nunauthenticated_total = 150\n");
        deployment.start_with(&config);
        let before = memory(deployment.server_id(), "VmRSS");

        let began = Instant::now();
        fleet.set_news(Some(Duration::from_secs(1)));
        fleet.start(&deployment, &chance, Duration::ZERO);
        came_back(&fleet, "at the start", began);
        assert_eq!(online(&deployment), fleet.len() as u64);
        tells_more(&fleet);

        fleet.gather(GATHER_EVERY, GATHERED);
        let began = Instant::now();
        deployment.crash();
        fleet.begin_life();
        deployment.start_with(&config);
        came_back(&fleet, "after a crash", began);
        tells_more(&fleet);

        fleet.gather(GATHER_EVERY, GATHERED);
        let began = Instant::now();
        fleet.cut();
        came_back(&fleet, "after a cut", began);
        tells_more(&fleet);

        fleet.settle(BOUND);
        assert_eq!(online(&deployment), fleet.len() as u64);
        let gathered = 2 * u64::from(SATELLITES).div_ceil(GATHER_EVERY as u64) * GATHERED;
        assert!(fleet.acked() > gathered, "{} records, {gathered} of them gathered", fleet.acked());
        fleet.audit(&deployment, &mut chance, 5);
        let grown = memory(deployment.server_id(), "VmHWM").saturating_sub(before);
        assert!(grown < u64::from(SATELLITES) * MEMORY_EACH, "the server grew by {grown} bytes");
    });
}

/// Satellites that the console calls online.
fn online(deployment: &Deployment) -> u64 {
    let status = deployment.ask(&["status"]);
    status["satellites"]["online"].as_u64().unwrap_or_else(|| panic!("no satellites online in {status}"))
}

#[track_caller]
fn came_back(fleet: &Fleet, when: &str, began: Instant) {
    let Return { all_back, drained, away, behind } = fleet.watch_return(began, BOUND).join().unwrap();
    let (failures, words) = fleet.failures();
    let (Some(all_back), Some(drained)) = (all_back, drained) else {
        panic!("{when}: after {BOUND:?} {away} are away and {behind} behind; {failures} failures: {words:?}");
    };
    fleet.check();
    drop(fleet.take_latencies());
    figure!("a fleet of {SATELLITES}, {when}: back after {all_back:.1?}, drained after {drained:.1?}");
}

/// Waits until records arrive that were seen while connected.
#[track_caller]
fn tells_more(fleet: &Fleet) {
    let before = fleet.acked();
    wait_until("live records to be acked", BOUND, || fleet.acked() > before + 100);
    let mut latencies = fleet.take_latencies();
    latencies.sort();
    figure!("a live record to its ack: {:.1?} in the median", latencies[latencies.len() / 2]);
}

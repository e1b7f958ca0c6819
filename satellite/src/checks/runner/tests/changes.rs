//! Changes are looked at again at once, and only there.

use super::*;

/// Seconds after which `address` was looked at once the port had changed.
fn since(run: &Run, changed: f64, address: &str) -> Vec<f64> {
    let times = run.world.times(address);
    let times: Vec<f64> = times.into_iter().filter(|time| *time >= changed).collect();
    times.iter().map(|time| ((time - times[0]) * 10.0).round() / 10.0).collect()
}

#[tokio::test(start_paused = true)]
async fn a_fault_is_confirmed_long_before_the_next_turn() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let wanted = v1::CheckAssignment {
        targets: vec!["10.0.0.1".into(), "10.0.0.2".into()],
        open: "80,443".into(),
        confirm: 3,
        recover: 2,
        ..check("shop", 60_000)
    };
    run.assign(1, vec![wanted], vec![]);
    run.pass(20.0).await;
    assert!(run.reports().0.iter().all(|(_, urgent)| !urgent));
    run.world.set("10.0.0.1", 443, PortState::Closed);
    let changed = run.world.elapsed();
    run.pass(60.0).await;
    assert_eq!(since(&run, changed, "10.0.0.1"), [0.0, 1.0, 3.0]);
    assert_eq!(run.world.last_ports(), "443", "only what changed is looked at again");
    assert_eq!(since(&run, changed, "10.0.0.2"), [0.0]);
    let urgent: Vec<String> = run
        .reports()
        .0
        .iter()
        .filter(|(_, urgent)| *urgent)
        .map(|(host, _)| host.address.to_string())
        .collect();
    assert_eq!(urgent, ["10.0.0.1"; 3]);
    // It stays as it is: no haste.
    let settled = run.world.elapsed();
    run.pass(60.0).await;
    assert_eq!(since(&run, settled, "10.0.0.1").len(), 1);
    run.world.set("10.0.0.1", 443, PortState::Open);
    let healed = run.world.elapsed();
    run.pass(60.0).await;
    assert_eq!(since(&run, healed, "10.0.0.1"), [0.0, 1.0], "and it heals as quickly");
}

#[tokio::test(start_paused = true)]
async fn one_that_goes_back_is_left_alone() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let wanted = v1::CheckAssignment { confirm: 5, ..check("shop", 600_000) };
    run.world.set("10.0.0.1", 443, PortState::Filtered);
    run.assign(1, vec![wanted], vec![]);
    run.pass(7.0).await;
    run.world.set("10.0.0.1", 443, PortState::Open);
    run.pass(60.0).await;
    // Its own place in the interval may have come as well.
    let times = since(&run, 0.0, "10.0.0.1");
    assert!(times.starts_with(&[0.0, 1.0, 3.0]) && times.len() <= 5, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn ports_that_are_only_watched_count_as_well() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let wanted = v1::CheckAssignment {
        open: String::new(),
        watch: "22".into(),
        confirm: 2,
        ..check("baseline", 60_000)
    };
    run.assign(1, vec![wanted], vec![]);
    run.pass(20.0).await;
    assert!(run.reports().0.iter().all(|(_, urgent)| !urgent), "at first it is what it is");
    run.world.set("10.0.0.1", 22, PortState::Closed);
    let changed = run.world.elapsed();
    run.pass(60.0).await;
    assert_eq!(since(&run, changed, "10.0.0.1"), [0.0, 1.0]);
}

/// What cannot be looked at one by one is swept for, all addresses together.
#[tokio::test(start_paused = true)]
async fn udp_is_looked_at_again_by_sweeps() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    for address in ["10.0.0.2", "10.0.0.3"] {
        run.world.set(address, 53, PortState::Closed);
    }
    let wanted = v1::CheckAssignment {
        targets: vec!["10.0.0.0/29".into()],
        open: "U:53".into(),
        confirm: 3,
        ..check("dns", 3_600_000)
    };
    run.assign(1, vec![wanted], vec![]);
    run.pass(30.0).await;
    let sweeps = run.world.sweeps();
    let again = "10.0.0.2-10.0.0.3 U:53 udp";
    assert!(
        sweeps.starts_with(&["10.0.0.0-10.0.0.7 U:53 udp".into(), again.into(), again.into()]),
        "{sweeps:?}"
    );
    assert!(sweeps.len() <= 4, "{sweeps:?}");
}

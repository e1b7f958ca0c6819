//! The runner in a world of the tests' own, in which time passes at once.

mod changes;
mod darkness;
mod world;

use super::*;
use portolan_common::observation::PortState;
use world::{Run, check};

#[tokio::test(start_paused = true)]
async fn a_check_is_looked_at_in_its_interval_and_told_of_once() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let wanted = v1::CheckAssignment { targets: vec!["10.0.0.0/31".into()], ..check("shop", 1000) };
    run.assign(1, vec![wanted], vec![]);
    run.pass(10.5).await;
    for address in ["10.0.0.0", "10.0.0.1"] {
        let times = run.world.times(address);
        assert!((10..=11).contains(&times.len()), "{times:?}");
        assert!(times.windows(2).all(|pair| (pair[1] - pair[0] - 1.0).abs() < 0.01), "{times:?}");
    }
    let (hosts, told) = run.reports();
    assert_eq!(hosts.len(), run.world.looks());
    assert!(hosts.iter().all(|(host, urgent)| host.target == "10.0.0.0/31" && !urgent));
    let [status] = &told[..] else { panic!("{told:?}") };
    assert_eq!((status.check.as_str(), status.revision, status.error.as_str()), ("shop", 1, ""));
    assert_eq!((status.addresses.join(","), status.method.as_str()), ("10.0.0.0-10.0.0.1".into(), "connect"));
    assert_eq!(status.interval_ms, 0);
}

#[tokio::test(start_paused = true)]
async fn what_stays_assigned_is_left_alone() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let (a, b, c) = (check("a", 60_000), check("b", 60_000), check("c", 60_000));
    run.assign(1, vec![a.clone(), b.clone(), c.clone()], vec![]);
    run.pass(10.0).await;
    assert_eq!((run.world.looks(), run.reports().1.len()), (3, 3), "all begin at once");
    let other = v1::CheckAssignment { open: "444".into(), ..b };
    let bad = v1::CheckAssignment { targets: vec!["10.0.0.300".into()], ..check("d", 60_000) };
    run.assign(2, vec![a.clone(), other.clone(), bad.clone()], vec![]);
    run.pass(10.0).await;
    let (hosts, told) = run.reports();
    let last = told.iter().find(|status| status.check == "b").unwrap();
    assert_eq!((told.len(), last.revision, last.error.as_str()), (2, 2, ""));
    let broken = told.iter().find(|status| status.check == "d").unwrap();
    assert!(broken.error.contains("10.0.0.300"), "{broken:?}");
    assert!(
        hosts
            .iter()
            .any(|(host, _)| host.state_of(portolan_common::observation::Protocol::Tcp, 444).is_some())
    );
    // Again, with nothing new: nobody is told anything, and nothing begins for it.
    let before = run.world.looks();
    run.assign(3, vec![a, other, bad], vec![]);
    run.pass(0.5).await;
    assert!(run.reports().1.is_empty() && run.world.looks() <= before + 2);
    run.assign(4, vec![], vec![]);
    run.pass(0.0).await;
    let before = run.world.looks();
    run.pass(600.0).await;
    assert_eq!(run.world.looks(), before);
}

/// Who chose a time of day did so for a reason; what it comes to is told all the same.
#[tokio::test(start_paused = true)]
async fn times_of_day_are_waited_for() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let nightly = v1::CheckAssignment { cron: "0 2 * * *".into(), ..check("nightly", 0) };
    run.assign(1, vec![nightly], vec![]);
    run.pass(60.0).await;
    let told = run.reports().1;
    assert_eq!((run.world.looks(), told.len(), told[0].addresses.join(",").as_str()), (0, 1, "10.0.0.1"));
    run.pass(14.0 * 3600.0 - 60.0 + 1.0).await;
    assert_eq!(run.world.looks(), 1);
}

#[tokio::test(start_paused = true)]
async fn names_are_looked_up_where_the_probes_leave() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let targets = vec!["shop.example".to_owned(), "10.0.0.9".to_owned()];
    let named = v1::CheckAssignment { targets, ..check("shop", 60_000) };
    run.world.name("shop.example", &["10.0.0.1", "10.0.0.2"]);
    run.assign(1, vec![named.clone()], vec![]);
    run.pass(10.0).await;
    let (hosts, told) = run.reports();
    let seen: BTreeSet<(String, String)> =
        hosts.iter().map(|(host, _)| (host.target.clone(), host.address.to_string())).collect();
    let shop = |address: &str| ("shop.example".to_owned(), address.to_owned());
    let fixed = ("10.0.0.9".to_owned(), "10.0.0.9".to_owned());
    assert_eq!(seen, BTreeSet::from([fixed.clone(), shop("10.0.0.1"), shop("10.0.0.2")]));
    assert_eq!(told.len(), 1);
    // The name is gone: what it stood for is not probed any more.
    run.world.name("shop.example", &[]);
    run.pass(60.0).await;
    let (hosts, told) = run.reports();
    assert!(hosts.iter().all(|(host, _)| host.target == "10.0.0.9") && !hosts.is_empty());
    assert_eq!(told.last().unwrap().unresolved[0].name, "shop.example");
    // What must be left out is not known: nothing is probed at all.
    let careful = v1::CheckAssignment { exclude: vec!["printer.example".into()], ..check("careful", 60_000) };
    run.assign(2, vec![careful], vec![]);
    run.pass(60.0).await;
    let (hosts, told) = run.reports();
    assert!(hosts.is_empty() && told[0].error.contains("printer.example"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn the_scope_is_told_of_and_followed() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    run.world.allow(&["10.0.0.0/30"]);
    let wanted = v1::CheckAssignment { targets: vec!["10.0.0.0/29".into()], ..check("shop", 10_000) };
    let much = v1::CheckAssignment { targets: vec!["10.0.0.0/15".into()], ..check("much", 10_000) };
    run.assign(1, vec![wanted, much], vec![]);
    run.pass(9.0).await;
    let (hosts, told) = run.reports();
    let addresses: BTreeSet<IpAddr> = hosts.iter().map(|(host, _)| host.address).collect();
    assert_eq!(addresses.len(), 4);
    let status = told.iter().find(|status| status.check == "shop").unwrap();
    assert_eq!(status.refusals.len(), 1);
    assert_eq!(status.refusals[0].target, "10.0.0.4-10.0.0.7");
    let status = told.iter().find(|status| status.check == "much").unwrap();
    assert!(status.error.contains("131072 addresses"), "{status:?}");
    // The administrator edits the file.
    run.world.allow(&["10.0.0.0/28"]);
    run.pass(10.0).await;
    let (hosts, told) = run.reports();
    assert!(hosts.len() >= 8);
    assert!(told.iter().any(|status| status.check == "shop" && status.refusals.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_slow_sweep_misses_turns_and_says_how_long_it_takes() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    run.world.takes(2.5);
    run.assign(1, vec![check("shop", 1000)], vec![]);
    run.pass(31.0).await;
    let told = run.reports().1;
    assert_eq!(told.iter().map(|status| status.interval_ms).collect::<Vec<_>>(), [0, 3000]);
    assert_eq!(run.world.most_at_once(), 1, "it overlaps itself");
    run.world.takes(0.0);
    run.pass(10.0).await;
    let told = run.reports().1;
    assert_eq!(told.iter().map(|status| status.interval_ms).collect::<Vec<_>>(), [0], "it is held again");
}

#[tokio::test(start_paused = true)]
async fn an_order_is_carried_out_at_once() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    run.assign(1, vec![check("shop", 86_400_000), check("mail", 86_400_000)], vec![]);
    run.pass(10.0).await;
    assert_eq!(run.world.looks(), 2);
    run.orders.run(vec!["shop".into(), "nobody".into(), "x".repeat(1000)]);
    run.pass(0.1).await;
    assert_eq!(run.world.looks(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_large_check_goes_on_in_parts() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    run.world.takes(1.0);
    let wanted = v1::CheckAssignment { targets: vec!["10.0.0.0/22".into()], ..check("all", 3_600_000) };
    run.assign(1, vec![wanted], vec![]);
    run.pass(30.0).await;
    assert_eq!(run.world.most_at_once(), 256);
    let (hosts, told) = run.reports();
    let addresses: BTreeSet<IpAddr> = hosts.iter().map(|(host, _)| host.address).collect();
    assert_eq!((hosts.len(), addresses.len()), (1024, 1024), "each once");
    assert_eq!(told.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn protocols_and_long_lists_are_swept() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let both = v1::CheckAssignment { open: "25,U:53".into(), ..check("mail", 86_400_000) };
    let long = v1::CheckAssignment { closed: "1-442,444-65535".into(), ..check("bastion", 86_400_000) };
    run.assign(1, vec![both, long], vec![]);
    run.pass(10.0).await;
    assert_eq!(run.world.looks(), 1, "the mail's TCP port");
    let mut sweeps = run.world.sweeps();
    sweeps.sort();
    assert_eq!(sweeps, ["10.0.0.1 1-65535 auto", "10.0.0.1 U:53 udp"]);
    let (hosts, told) = run.reports();
    assert_eq!(hosts.len(), 3, "each protocol by itself");
    let methods: BTreeSet<&str> = told.iter().map(|status| status.method.as_str()).collect();
    assert!(methods.contains("connect, udp") && methods.contains("auto"), "{methods:?}");
}

/// Nobody takes reports (a full disk): what is under way ends, nothing more is begun, and nothing is lost.
#[tokio::test(start_paused = true)]
async fn while_nothing_can_be_passed_on_nothing_begins() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let targets = vec!["10.0.0.0/24".into()];
    run.assign(1, vec![v1::CheckAssignment { targets, ..check("all", 1000) }], vec![]);
    run.stuck(300.0).await;
    let looks = run.world.looks();
    assert!(looks < world::ROOM + 2 * 256, "{looks} looks");
    run.pass(1.0).await;
    run.pass(0.0).await;
    let (hosts, _) = run.reports();
    assert!(hosts.len() >= looks);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_checks_a_second_all_run() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let checks = (0..1000).map(|n| {
        let targets = vec![format!("10.0.{}.{}", n / 250, n % 250)];
        v1::CheckAssignment { targets, ..check(&format!("check-{n:04}"), 1000) }
    });
    run.assign(1, checks.collect(), vec![]);
    run.world.takes(0.02);
    run.pass(10.0).await;
    let looks = run.world.looks();
    assert!((9_900..=11_000).contains(&looks), "{looks}");
    let (hosts, told) = run.reports();
    assert!(told.len() == 1000 && hosts.len() + 100 > looks);
    assert!(told.iter().all(|status| status.interval_ms == 0));
}

#[tokio::test(start_paused = true)]
async fn it_ends_at_once_and_passes_on_what_it_saw() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    run.world.set("10.0.0.1", 443, PortState::Open);
    run.assign(1, vec![check("shop", 1000)], vec![]);
    run.pass(3.0).await;
    run.world.takes(100.0);
    run.pass(3.0).await;
    let began = tokio::time::Instant::now();
    let hosts = run.end().await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(hosts + 1, run.world.looks(), "all but the one under way");
    assert_eq!(run.world.given_up(), 1);
}

/// One name is one check, whatever a server says.
#[tokio::test(start_paused = true)]
async fn a_name_that_comes_twice_is_run_once_and_ends() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let other = v1::CheckAssignment { targets: vec!["10.0.0.2".into()], ..check("shop", 1000) };
    run.assign(1, vec![check("shop", 1000), other], vec![]);
    run.pass(10.0).await;
    assert!(run.world.times("10.0.0.1").len() >= 9 && run.world.times("10.0.0.2").is_empty());
    run.assign(2, vec![], vec![]);
    run.pass(1.0).await;
    let looks = run.world.looks();
    run.pass(10.0).await;
    assert_eq!(run.world.looks(), looks, "nothing is left of it");
}

//! Links that break in every way: whatever happens between satellites and server, both come back to one another by
//! themselves, and everything counts once.
//!
//! `PORTOLAN_LONG_PARTITIONS` says how many faults.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use portolan_proto::v1;
use portolan_tests::chance::{Chance, amount};
use portolan_tests::client::Client;
use portolan_tests::deployment::{Deployment, PORT};
use portolan_tests::lab::{Fault, FaultProxy, Lab};
use portolan_tests::load::Load;
use portolan_tests::ports;
use portolan_tests::wait::{try_wait_for, wait_until};
use portolan_tests::{figure, in_lab, need};

/// Faults in all, without `--long`.
const FAULTS: u64 = 50;
/// Of which the links of real satellites get one in so many.
const REAL_SHARE: u64 = 5;
/// Links that suffer side by side: a half-open one takes a while to be noticed.
const SYNTHETIC: u16 = 14;
/// Real satellites, each with a link of its own.
const REAL: u64 = 2;
/// Between two records of one satellite.
const PAUSE: Duration = Duration::from_millis(4);
/// The first proxy's port.
const FIRST_PORT: u16 = 7500;
/// A half-open link is noticed within this, by either side; what comes after it is quick.
const NOTICED: Duration = Duration::from_secs(20);
/// A real satellite's longest pause after failures in a row, with what was noticed late before it.
const BACK: Duration = Duration::from_secs(60);

fn limit(faults: u64) -> Duration {
    Duration::from_secs(240) + Duration::from_secs(2) * u32::try_from(faults).unwrap()
}

/// Keeps the links faulty until so many faults have happened; says which.
fn suffer(
    proxies: &[FaultProxy],
    faults: u64,
    chance: &mut Chance,
    check: impl Fn(),
) -> BTreeMap<String, u64> {
    let done = || proxies.iter().map(|proxy| proxy.done().len()).sum::<usize>();
    let mut before = done();
    let mut planned = chance.below(10);
    let mut quiet = Instant::now();
    while (done() as u64) < faults {
        for proxy in proxies.iter().filter(|proxy| proxy.planned() == 0) {
            let fault = Fault::nth(planned, chance);
            planned += 1;
            eprintln!("port {}: {fault:?}", proxy.port());
            proxy.plan(fault);
        }
        check();
        if done() > before {
            (before, quiet) = (done(), Instant::now());
        }
        assert!(quiet.elapsed() < BACK, "nothing happens on any link any more: {before} of {faults} faults");
        thread::sleep(Duration::from_millis(20));
    }
    let mut kinds = BTreeMap::new();
    for fault in proxies.iter().flat_map(FaultProxy::done) {
        let kind = format!("{:?}", fault.kind);
        let kind = kind.split('(').next().unwrap_or_default().to_owned();
        *kinds.entry(kind).or_insert(0) += 1;
    }
    kinds
}

#[test]
fn over_links_that_break_in_every_way_everything_counts_once() {
    need!("curl");
    let all = amount("PORTOLAN_LONG_PARTITIONS", FAULTS);
    let faults = all - all / REAL_SHARE;
    in_lab!(within limit(faults), |lab| {
        let mut chance = Chance::of_run("partitions");
        let host = lab.host("server", "server");
        let deployment = Deployment::on(lab, &host, "portolan");
        let port = |number: u16| FIRST_PORT + number;
        let proxies: Vec<FaultProxy> =
            (1..=SYNTHETIC).map(|n| FaultProxy::start(&host, port(n), host.at(PORT))).collect();
        let load = Load::build_with(deployment, SYNTHETIC, |deployment, fleet, place, pattern| {
            fleet.start_through(port(pattern.satellite), deployment, place, pattern, PAUSE)
        });
        load.send_on();
        let began = Instant::now();
        let kinds = suffer(&proxies, faults, &mut chance, || load.check());
        let took = began.elapsed();
        // Faults that are still under way have their time; then all is well by itself.
        for satellite in &load.satellites {
            satellite.stop_growing();
        }
        for satellite in &load.satellites {
            satellite.drain(NOTICED * 3);
        }
        load.audit(&mut chance);
        load.audit_metrics();
        let connections: u64 = load.satellites.iter().map(|satellite| satellite.connections()).sum();
        let sent = load.ledgers().iter().map(|ledger| ledger.sent()).sum::<u64>();
        let again = load.ledgers().iter().map(|ledger| ledger.repeats()).sum::<u64>();
        figure!(
            "partitions: {kinds:?} in {took:.1?}, {connections} connections, {sent} records, {again} sent again"
        );
        assert!(connections > u64::from(SYNTHETIC), "no link ever broke");
        assert!(!load.deployment.server_log().contains("panicked at"), "{}", load.deployment.server_log());
    });
}

#[test]
fn a_real_satellite_on_a_bad_link_misses_no_change() {
    let faults = amount("PORTOLAN_LONG_PARTITIONS", FAULTS) / REAL_SHARE;
    in_lab!(within limit(faults * 4), |lab| {
        thread::scope(|scope| {
            let running: Vec<_> = (0..REAL)
                .map(|number| {
                    let share = faults / REAL + u64::from(number < faults % REAL);
                    scope.spawn(move || scan_over_a_bad_link(lab, number, share))
                })
                .collect();
            for one in running {
                one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    });
}

fn scan_over_a_bad_link(lab: &Lab, number: u64, faults: u64) {
    let mut chance = Chance::of_run(&format!("partitions of satellite-{number}"));
    let host = |segment: &str, name: &str| lab.host(segment, &format!("{name}-{number}"));
    let (place, pc, shop) = (host("server", "server"), host("office", "pc"), host("dmz", "shop"));
    let deployment = Deployment::on(lab, &place, &format!("deployment-{number}"));
    deployment.init().ok();
    deployment.start();
    let satellite = deployment.enrolled(&pc, "office-1", &["--scope", "10.99.0.0/16"]);
    let proxy = FaultProxy::start(&place, FIRST_PORT, place.at(PORT));
    satellite.dial_port(FIRST_PORT);
    satellite.start();
    deployment.wait_for_status("office-1", "online");
    let client = Client::operator(&deployment);
    let request = v1::ScanRequest {
        satellites: vec!["office-1".into()],
        targets: vec![shop.v4().to_string()],
        ports: "1000-1015".into(),
        method: "connect".into(),
        ..v1::ScanRequest::default()
    };
    let (mut scans, mut failed, mut changes) = (0, 0, 0);
    let mut known: Option<BTreeSet<u16>> = None;
    let mut planned = chance.below(10);
    while (proxy.done().len() as u64) < faults || failed == scans {
        if proxy.planned() == 0 && (proxy.done().len() as u64) < faults {
            let fault = Fault::nth(planned, &mut chance);
            planned += 1;
            let fault = Fault { after: fault.after.min(4_000), ..fault };
            eprintln!("satellite-{number}: {fault:?}");
            proxy.plan(fault);
        }
        let open: BTreeSet<u16> = (1000..1016).filter(|_| chance.below(2) == 0).collect();
        let _listener = shop.listen(&open.iter().copied().collect::<Vec<_>>());
        wait_until("the satellite to be back", BACK, || deployment.status_of("office-1") == "online");
        let mut call = client.scan(request.clone());
        let ended = call.wait(BACK * 2).expect("every scan ends");
        scans += 1;
        // A scan that was asked for while the link was gone and not noticed may fail; it says so.
        if !matches!(&ended, Ok(Some(end)) if end.complete) {
            eprintln!("satellite-{number}: {ended:?}");
            failed += 1;
            // It may have seen some of it.
            known = None;
            continue;
        }
        let told = try_wait_for(Duration::from_secs(5), || {
            let told = deployment.ask(&["ports", "--host", &shop.v4().to_string()]);
            let told: BTreeSet<u16> = told
                .as_array()?
                .iter()
                .map(|port| u16::try_from(port["port"].as_u64().unwrap()).unwrap())
                .collect();
            (told == open).then_some(())
        });
        assert!(told.is_some(), "the inventory does not say that {} are open", ports::format(&open));
        if let Some(known) = &known {
            changes += known.symmetric_difference(&open).count();
        }
        known = Some(open);
    }
    let history = deployment.history(&shop.v4().to_string()).len();
    assert!(history >= changes, "{history} changes are told, {changes} were seen by scans that ended well");
    figure!(
        "partitions: real satellite-{number}: {} faults, {scans} scans, {failed} of them not to their end, {history} \
         changes",
        proxy.done().len()
    );
    assert!(satellite.is_running(), "{}", satellite.log());
}

//! Single looks against a simulated network.

use super::*;
use crate::engine::connect::looks::Caller;
use crate::engine::connect::scheduler::sim::*;
use crate::engine::limits::SharedLimits;
use crate::engine::standing::{Look, Looked};
use crate::engine::verdict::{Answer, Hold, Verdict};
use portolan_common::observation::{HostObservation, PortState, Protocol, Reason};
use portolan_common::ports::PortSpec;
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::IpAddr;
use tokio::sync::{Semaphore, oneshot};

const SECOND: Duration = Duration::from_secs(1);

type Asked = oneshot::Receiver<Looked>;

fn looking(scope: &str) -> Sim<Looks> {
    looking_at(scope, "2026-03-01T03:00:00+00:00[UTC]")
}

fn looking_at(scope: &str, wall: &str) -> Sim<Looks> {
    let lease = Lease::new(Arc::new(SharedLimits::with_budget(8192)));
    let start = Instant::now();
    let scheduler = Scheduler::of_looks(guard(scope), lease, 42, start, wall.parse().unwrap());
    Sim::of(scheduler, |_| None, start)
}

impl Sim<Looks> {
    fn look(&mut self, address: &str, ports: &str) -> Asked {
        let ports = ports.parse::<PortSpec>().unwrap().tcp;
        let look = Look { target: format!("name of {address}"), address: address.parse().unwrap(), ports };
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let (reply, asked) = oneshot::channel();
        self.scheduler.take(&mut VecDeque::from([Order::new(look, Caller { reply, place })]));
        asked
    }
}

fn seen(asked: &mut Asked) -> HostObservation {
    match asked.try_recv() {
        Ok(Looked::Host(host)) => host,
        other => panic!("no host: {other:?}"),
    }
}

fn state(asked: &mut Asked, port: u16) -> PortState {
    seen(asked).state_of(Protocol::Tcp, port).unwrap().0
}

fn answering(_: IpAddr, port: u16, _: u32, _: Instant) -> Fate {
    match port {
        ..100 => soon(OPEN),
        100..200 => soon(REFUSED),
        _ => Silence,
    }
}

#[test]
fn each_look_is_told_what_was_seen_of_its_own_ports() {
    let mut sim = looking("");
    let mut asked = [
        sim.look("10.0.0.1", "22,150"),
        sim.look("10.0.0.1", "22"),
        sim.look("10.0.0.2", "300"),
        sim.look("::ffff:10.0.0.3", "150"),
    ];
    sim.run_for(100 * MS, answering);
    let host = seen(&mut asked[0]);
    assert_eq!((host.target.as_str(), host.up), ("name of 10.0.0.1", true));
    assert_eq!(host.state_of(Protocol::Tcp, 22), Some((PortState::Open, Reason::SynAck)));
    assert_eq!(host.state_of(Protocol::Tcp, 150), Some((PortState::Closed, Reason::ConnRefused)));
    assert_eq!(host.detail_of(Protocol::Tcp, 22).unwrap().rtt_us, 20_000);
    assert_eq!(state(&mut asked[1], 22), PortState::Open, "twice the same at once");
    assert_eq!(state(&mut asked[3], 150), PortState::Closed);
    assert!(asked[2].try_recv().is_err() && !sim.scheduler.is_idle());
    sim.run_for(4 * SECOND, answering);
    assert_eq!(state(&mut asked[2], 300), PortState::Filtered);
    assert!(sim.scheduler.is_idle());
    assert_eq!(sim.probes_of(300), 4);
}

#[test]
fn dead_hosts_hold_up_nobody_on_other_paths() {
    let mut sim = looking("");
    let dead: Vec<Asked> = (0..2000).map(|n| sim.look(&format!("10.0.0.{}", n % 250 + 1), "300")).collect();
    sim.run_for(SECOND, answering);
    for _ in 0..3 {
        let mut asked = sim.look("10.0.1.1", "22");
        sim.run_for(30 * MS, answering);
        assert_eq!(state(&mut asked, 22), PortState::Open);
    }
    assert!(sim.most_in_flight <= 21, "gently: {}", sim.most_in_flight);
    drop(dead);
    sim.scheduler.drop_given_up(sim.now);
    assert!(sim.scheduler.is_idle());
}

#[test]
fn careful_hosts_hold_up_nobody_else_of_their_network() {
    let mut sim = looking("[[scope.careful]]\ncidrs = [\"10.0.0.128/25\"]\nin_flight = 1\nmax_rate = 5\n");
    let _dead: Vec<Asked> = (0..100).map(|n| sim.look(&format!("10.0.0.{}", n + 130), "300")).collect();
    sim.run_for(SECOND, answering);
    let mut asked = sim.look("10.0.0.1", "22");
    sim.run_for(30 * MS, answering);
    assert_eq!(state(&mut asked, 22), PortState::Open);
    sim.run_for(9 * SECOND, answering);
    let careful = sim.sent.iter().filter(|(_, _, port)| *port == 300).count();
    assert!(careful <= 51, "{careful} probes in ten seconds");
}

#[test]
fn a_path_has_200_probes_a_second() {
    let mut sim = looking("");
    let mut asked: Vec<Asked> =
        (0..3000).map(|n| sim.look(&format!("10.0.{}.{}", n % 5, n / 5 % 200), "22")).collect();
    sim.run_for(SECOND, answering);
    let count = |sim: &Sim<Looks>| sim.sent.len();
    assert!((990..=1020).contains(&count(&sim)), "{} in a second over five paths", count(&sim));
    sim.run_for(2200 * MS, answering);
    assert_eq!(count(&sim), 3000);
    assert!(asked.iter_mut().all(|asked| state(asked, 22) == PortState::Open));
}

#[test]
fn a_look_that_is_given_up_is_not_probed_any_more() {
    let mut sim = looking("");
    let mut other = sim.look("10.0.0.2", "300");
    let asked = sim.look("10.0.0.1", "300-320");
    let waiting: Vec<Asked> = (0..40).map(|_| sim.look("10.0.0.1", "301")).collect();
    sim.run_for(400 * MS, answering);
    drop((asked, waiting));
    sim.scheduler.drop_given_up(sim.now);
    let before = sim.sent.len();
    sim.run_for(5 * SECOND, answering);
    assert!(sim.sent[before..].iter().all(|(_, address, _)| address.to_string() == "10.0.0.2"));
    assert_eq!(state(&mut other, 300), PortState::Filtered);
    assert!(sim.scheduler.is_idle());
}

#[test]
fn what_is_refused_is_told_at_once_and_by_whom() {
    let scope = "deny = [\"10.0.0.1\"]\nports = \"1-100\"\n\
         [[scope.careful]]\ncidrs = [\"10.0.0.3\"]\nhours = \"02:00-04:00\"\n";
    let mut sim = looking_at(scope, "2026-03-01T03:59:58+00:00[UTC]");
    let mut asked =
        ["10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3"].map(|address| sim.look(address, "90-110"));
    let mut outside = sim.look("10.0.0.2", "101-103");
    sim.run_for(MS, |_, _, _, _| Silence);
    let rules = |looked| match looked {
        Ok(Looked::Refused(refusals)) => {
            refusals.iter().map(|r| format!("{} {:?} {}", r.addresses, r.ports, r.rule)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(rules(asked[0].try_recv()), ["10.0.0.1 None deny 10.0.0.1/32"]);
    assert_eq!(rules(outside.try_recv()), ["10.0.0.2 None ports 1-100"]);
    // The hours end while a look is under way, and then the scope changes.
    for _ in 0..30 {
        let wall: Zoned = "2026-03-01T03:59:58+00:00[UTC]".parse().unwrap();
        let since = sim.now - sim.start;
        sim.scheduler.tick(sim.now, || wall.checked_add(since).unwrap());
        sim.run_for(100 * MS, |_, _, _, _| Silence);
    }
    let told = rules(asked[3].try_recv());
    assert!(told.iter().any(|text| text == "10.0.0.3 None careful[1].hours 02:00-04:00"), "{told:?}");
    sim.run_for(2 * SECOND, |_, _, _, _| Silence);
    assert_eq!(seen(&mut asked[1]).unscanned.to_string(), "101-110");
    let mut late = sim.look("10.0.0.2", "90-100");
    sim.run_for(100 * MS, |_, port, _, _| if port < 95 { soon(OPEN) } else { Silence });
    sim.scheduler.set_guard(guard("deny = [\"10.0.0.2\"]"), sim.now);
    let host = seen(&mut late);
    assert_eq!(host.ports_in(Protocol::Tcp, PortState::Open).to_string(), "90-94");
    assert_eq!(host.unscanned.to_string(), "95-100");
    assert!(sim.scheduler.is_idle());
}

#[test]
fn a_host_that_opens_no_connection_fails_its_looks_and_goes_on() {
    for hold in [Hold::Everywhere, Hold::Here] {
        let mut sim = looking("");
        let mut asked = ["10.0.0.1", "10.0.1.1"].map(|address| sim.look(address, "22"));
        while !sim.scheduler.is_idle() {
            sim.run_for(SECOND, |_, _, _, _| Held { hold });
            if std::mem::take(&mut sim.gave_up) {
                sim.scheduler.abandon_all(24, sim.now);
            }
            assert!(sim.took() < 40 * SECOND);
        }
        for asked in &mut asked {
            let Ok(Looked::Failed(why)) = asked.try_recv() else { panic!("it failed") };
            assert!(why.contains("no connection to 10.0.") && why.contains("(os error"), "{why}");
        }
        let mut asked = sim.look("10.0.0.1", "22");
        sim.run_for(SECOND, answering);
        assert_eq!(state(&mut asked, 22), PortState::Open);
    }
}

#[test]
fn a_satellite_without_a_way_has_seen_nothing() {
    let mut sim = looking("");
    let mut first = ["10.0.0.1", "10.0.0.2"].map(|address| sim.look(address, "22,23"));
    let mut away = |address: IpAddr, port, nth, now| match address.to_string().as_str() {
        "10.0.0.2" if port == 22 => answering(address, port, nth, now),
        _ => Held { hold: Hold::NoWay(Verdict::NetUnreach) },
    };
    let mut failed = |sim: &mut Sim<Looks>, asked: &mut Asked, within: Duration| {
        sim.run_for(within, &mut away);
        let Ok(Looked::Failed(why)) = asked.try_recv() else { panic!("it failed") };
        assert!(why.contains("no connection to 10.0.0."), "{why}");
    };
    failed(&mut sim, &mut first[0], 4 * SECOND);
    failed(&mut sim, &mut first[1], SECOND);
    let mut again = sim.look("10.0.0.1", "22");
    failed(&mut sim, &mut again, 2 * SECOND);
    assert!(sim.scheduler.is_idle());
    let mut back = sim.look("10.0.0.1", "22");
    sim.run_for(100 * MS, answering);
    assert_eq!(state(&mut back, 22), PortState::Open);
}

#[test]
fn loss_is_remembered_for_a_path_and_forgotten_in_time() {
    let mut sim = looking("");
    // Every second port loses its first probe.
    let lossy = |_, port, nth, _| match port {
        300 => Silence,
        port if port % 2 == 0 && nth == 1 => Silence,
        _ => soon(OPEN),
    };
    for port in 1..20 {
        let mut asked = sim.look("10.0.0.1", &port.to_string());
        sim.run_for(SECOND, lossy);
        assert_eq!(state(&mut asked, port), PortState::Open);
    }
    let probes = |sim: &mut Sim<Looks>| {
        let before = sim.probes_of(300);
        let mut asked = sim.look("10.0.0.2", "300");
        sim.run_for(10 * SECOND, lossy);
        assert_eq!(state(&mut asked, 300), PortState::Filtered);
        sim.probes_of(300) - before
    };
    assert_eq!(probes(&mut sim), 8, "another host of the same network");
    assert!(sim.scheduler.forget_paths(sim.now));
    assert!(!sim.scheduler.forget_paths(sim.now + PATHS_KEPT));
    assert_eq!(probes(&mut sim), 4);
}

/// What a network does that is drawn at random, and the same each time.
fn drawn(seed: u64) -> impl Fn(IpAddr, u16, u32, Instant) -> Fate {
    move |address, port, nth, _| {
        let draw = |percent, salt: u16| coin(percent, address, port ^ salt, seed as u32);
        match () {
            () if draw(20, 1000) => Silence,
            () if coin(10, address, port, nth ^ seed as u32) => Silence,
            () if draw(10, 2000) => icmp(Verdict::AdminProhibited),
            () if draw(5, 3000) => soon(Answer::NoNeighbour),
            () if draw(40, 4000) => soon(OPEN),
            () => soon(REFUSED),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_look_sees_what_a_gentle_sweep_sees(seed: u64, first in 1u16..2000, count in 1u16..40) {
        let ports = format!("{first}-{}", first + count - 1);
        let network = drawn(seed);
        let mut sweep = Sim::with("10.0.0.1", &ports, "", true, "2026-03-01T03:00:00+00:00[UTC]");
        prop_assert!(sweep.run_for(120 * SECOND, &network));
        let mut sim = looking("");
        let mut asked = sim.look("10.0.0.1", &ports);
        sim.run_for(120 * SECOND, &network);
        let (host, swept) = (seen(&mut asked), sweep.host("10.0.0.1"));
        for port in first..first + count {
            prop_assert_eq!(host.state_of(Protocol::Tcp, port), swept.state_of(Protocol::Tcp, port), "port {}", port);
        }
        prop_assert_eq!(host.up, swept.up);
    }

    #[test]
    fn everybody_is_answered_and_nothing_stays_behind(
        seed: u64,
        looks in prop::collection::vec((0u8..4, 1u8..8, 1u16..400, 1u16..6, 0u64..300, prop::bool::weighted(0.2)), 1..120),
    ) {
        let mut sim = looking("[[scope.careful]]\ncidrs = [\"10.0.2.0/24\"]\nin_flight = 2\nmax_rate = 100\n");
        let network = drawn(seed);
        let mut asked = HashMap::new();
        for (n, (net, host, first, count, after, impatient)) in looks.into_iter().enumerate() {
            let ports = format!("{first}-{}", first + count - 1);
            asked.insert(n, sim.look(&format!("10.0.{net}.{host}"), &ports));
            sim.run_for(Duration::from_millis(after), &network);
            if impatient {
                asked.remove(&(n / 2));
                sim.scheduler.drop_given_up(sim.now);
            }
        }
        sim.run_for(300 * SECOND, &network);
        for (_, mut asked) in asked {
            prop_assert!(matches!(asked.try_recv(), Ok(Looked::Host(_))));
        }
        let scheduler = &mut sim.scheduler;
        prop_assert!(scheduler.is_idle());
        scheduler.stand_down();
        scheduler.forget_paths(sim.now);
        prop_assert!(!scheduler.forget_paths(sim.now + PATHS_KEPT));
        prop_assert_eq!((scheduler.weight, scheduler.hosts.len(), scheduler.flights.len()), (0, 0, 0));
        prop_assert!(scheduler.ended.is_empty() && scheduler.intake.is_forgotten());
        prop_assert_eq!(scheduler.holds.next_wake(), None);
        prop_assert_eq!(scheduler.lease.holds(), (0, 0));
    }
}

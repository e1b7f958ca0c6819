//! The scheduler against a simulated network.

use super::sim::*;
use super::*;
use crate::engine::connect::itinerary::MAX_WAITING;
use crate::engine::limits::{PathKey, SharedLimits};
use crate::engine::verdict::{Offender, Verdict};
use jiff::{SignedDuration, Zoned};
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::targets;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

#[test]
fn every_port_is_accounted_for() {
    let sim = Sim::new("10.0.0.1-3", "1-1000", "").run(|_, port, _, _| match port {
        22 | 80 => soon(OPEN),
        100..=199 => Silence,
        200..=209 => icmp(Verdict::AdminProhibited),
        _ => soon(REFUSED),
    });
    assert_eq!(sim.hosts.len(), 3);
    let host = sim.host("10.0.0.2");
    assert!(host.up && host.target == "10.0.0.1-3" && host.unscanned.is_empty());
    assert_eq!(sim.ports("10.0.0.2", PortState::Open, Reason::SynAck), "22,80");
    assert_eq!(sim.ports("10.0.0.2", PortState::Filtered, Reason::NoResponse), "100-199");
    assert_eq!(sim.ports("10.0.0.2", PortState::Filtered, Reason::AdminProhibited), "200-209");
    assert_eq!(host.ports_in(Protocol::Tcp, PortState::Closed).len(), 1000 - 112);
    assert_eq!(
        host.details.iter().map(|d| (d.port, d.rtt_us)).collect::<Vec<_>>(),
        [(22, 20_000), (80, 20_000)]
    );
    assert_eq!(sim.probes_of(150), 3 * 4, "silence takes four probes, and no more without loss");
    let progress = sim.scheduler.progress();
    assert_eq!((progress.hosts_done, progress.ports_done, progress.open_found), (3, 3000, 6));
    assert!(progress.probes_sent >= sim.sent.len() as u64, "and what the kernel resent");
    let end = sim.scheduler.close();
    assert_eq!(end.hosts_up, 3);
    assert_eq!(end.coverage.len(), 1);
    assert_eq!(end.coverage[0].0.to_string(), "10.0.0.1-10.0.0.3");
}

#[test]
fn loss_is_outlived() {
    // 3 % each way; the ports that are silent get more probes for it.
    let sim = Sim::new("10.0.0.1-20", "1-1000", "").run(|address, port, nth, _| match port {
        1..=990 if coin(6, address, port, nth) => Silence,
        1..=990 => soon(if port % 100 == 0 { OPEN } else { REFUSED }),
        _ => Silence,
    });
    for host in sim.hosts.values() {
        assert_eq!(host.ports_in(Protocol::Tcp, PortState::Filtered).to_string(), "991-1000");
        assert_eq!(host.ports_in(Protocol::Tcp, PortState::Open).len(), 9);
    }
    let probes = sim.probes_of(995) / 20;
    assert!((6..=8).contains(&probes), "{probes} probes before silence is believed");
    assert!(sim.took() < Duration::from_secs(4), "{:?}", sim.took());
}

#[test]
fn a_host_that_drops_everything_takes_two_minutes_at_most() {
    let sim = Sim::new("10.0.0.1", "-", "").run(|_, _, _, _| Silence);
    assert!(sim.took() < Duration::from_secs(120), "{:?}", sim.took());
    assert!(!sim.host("10.0.0.1").up);
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::NoResponse), "1-65535");
    assert_eq!(sim.sent.len(), 4 * 65_535);
    assert_eq!(sim.scheduler.intake.hosts_up, 0);
}

#[test]
fn a_slow_path_is_not_a_lossy_one() {
    let rtt = Duration::from_millis(450);
    let sim = Sim::new("10.0.0.1", "1-500", "")
        .run(|_, _, _, _| Fate::Answer(Answer::Refused { rtt: Some(rtt) }, rtt));
    assert_eq!(sim.host("10.0.0.1").ports_in(Protocol::Tcp, PortState::Closed).len(), 500);
    assert!(sim.sent.len() < 800, "{} probes", sim.sent.len());
}

#[test]
fn no_neighbour_is_not_waited_for_port_by_port() {
    let mut sim = Sim::new("10.0.0.1", "1-1000", "");
    let (mut start, three) = (None, Duration::from_secs(3));
    assert!(sim.run_for(Duration::from_secs(5), |_, _, _, now| {
        let sought = three.saturating_sub(now - *start.get_or_insert(now));
        Fate::Answer(Answer::NoNeighbour, sought.max(MS))
    }));
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::HostUnreach), "1-1000");
    assert!(!sim.host("10.0.0.1").up);

    // But one failure among answers says nothing about the rest.
    let sim = Sim::new("10.0.0.1", "1-1000", "")
        .run(|_, port, nth, _| if nth == 1 && port < 4 { soon(Answer::NoNeighbour) } else { soon(REFUSED) });
    assert_eq!(sim.host("10.0.0.1").ports_in(Protocol::Tcp, PortState::Closed).len(), 1000);
}

#[test]
fn a_way_that_is_gone_for_a_moment_is_no_result() {
    let mut start = None;
    let sim = Sim::new("10.0.0.1", "1-20000", "").run(|_, port, _, now| {
        let since = now - *start.get_or_insert(now);
        match (200 * MS..2500 * MS).contains(&since) {
            true => Held { hold: Hold::NoWay(Verdict::NetUnreach) },
            false => soon(if port % 1000 == 0 { OPEN } else { REFUSED }),
        }
    });
    assert_eq!(sim.host("10.0.0.1").ports_in(Protocol::Tcp, PortState::Open).len(), 20);
    assert_eq!(sim.host("10.0.0.1").ports_in(Protocol::Tcp, PortState::Closed).len(), 19_980);
    assert_eq!(sim.sent.len(), 20_000, "what did not leave is no attempt");
}

#[test]
fn a_way_that_was_there_and_stays_away_leaves_the_host_unfinished() {
    let tries = std::cell::Cell::new(0);
    let mut start = None;
    let sim = Sim::new("10.0.0.1", "1-1000", "").run(|_, _, _, now| {
        let since = now - *start.get_or_insert(now);
        if since < 5 * MS {
            return soon(REFUSED);
        }
        tries.set(tries.get() + 1);
        Held { hold: Hold::NoWay(Verdict::NetUnreach) }
    });
    assert!((30..33).contains(&sim.took().as_secs()), "{:?}", sim.took());
    assert!((4..100).contains(&tries.get()), "{} tries", tries.get());
    assert!(sim.hosts.is_empty(), "it says nothing about the host");
    assert!(sim.scheduler.unfinished().is_some());
}

#[test]
fn a_network_without_a_way_does_not_take_three_seconds_a_host() {
    let sim = Sim::new("10.1.0.0/18", "1-200", "")
        .run(|_, _, _, _| Held { hold: Hold::NoWay(Verdict::NetUnreach) });
    assert!(sim.took() < Duration::from_secs(10), "{:?}", sim.took());
    assert_eq!(sim.hosts.len(), 16_384);
    assert_eq!(sim.ports("10.1.2.3", PortState::Filtered, Reason::NetUnreach), "1-200");
    assert_eq!((sim.sent.len(), sim.scheduler.intake.hosts_up), (0, 0));
}

#[test]
fn a_rejection_decides_its_own_port_only() {
    for offender in [Offender::Own, Offender::Other] {
        let sim = Sim::new("10.0.0.1", "1-1500", "").run(|_, port, nth, _| match port {
            100..=1000 => soon(Answer::Icmp { verdict: Verdict::HostUnreach, offender }),
            // The firewall's errors are limited: what comes of the kernel's own retransmission looks like ARP's.
            1001..=1040 if nth == 1 => Fate::Answer(Answer::NoNeighbour, 1000 * MS),
            1001..=1040 => Silence,
            _ => soon(if port % 50 == 0 { OPEN } else { Answer::Refused { rtt: Some(RTT) } }),
        });
        assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::HostUnreach), "100-1040");
        assert_eq!(sim.host("10.0.0.1").ports_in(Protocol::Tcp, PortState::Open).len(), 11);
        assert_eq!(sim.probes_of(500), 4);
    }
    // Even where nothing else answers.
    let sim = Sim::new("10.0.0.1", "1-40", "").run(|_, port, _, _| match port {
        40 => Fate::Answer(OPEN, 290 * MS),
        _ => Fate::Answer(
            Answer::Icmp { verdict: Verdict::HostUnreach, offender: Offender::Own },
            Duration::from_micros(5),
        ),
    });
    assert_eq!(sim.ports("10.0.0.1", PortState::Open, Reason::SynAck), "40");
}

#[test]
fn a_late_answer_is_an_answer() {
    // A fast host with ports that lead elsewhere.
    for late in [500, 900, 1300] {
        let sim = Sim::new("10.0.0.1", "1-200", "").run(|_, port, _, _| match port {
            7 => Fate::Answer(Answer::Open { rtt: Some(late * MS), doubt: None }, late * MS),
            8 => Fate::Answer(Answer::Refused { rtt: Some(late * MS) }, late * MS),
            9 => Silence,
            _ => soon(REFUSED),
        });
        assert_eq!(sim.ports("10.0.0.1", PortState::Open, Reason::SynAck), "7", "after {late} ms");
        assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::NoResponse), "9", "after {late} ms");
        assert!(sim.took() < Duration::from_secs(12), "{:?}", sim.took());
    }
    // A host that is far away, whose round trips cannot be measured.
    let sim = Sim::new("10.0.0.1", "1-200", "")
        .run(|_, _, _, _| Fate::Answer(Answer::Refused { rtt: None }, 1300 * MS));
    assert_eq!(sim.host("10.0.0.1").ports_in(Protocol::Tcp, PortState::Closed).len(), 200);
    assert!(sim.scheduler.progress().probes_sent > sim.sent.len() as u64, "the kernel's own count too");
}

#[test]
fn late_answers_do_not_cost_filtered_ports_their_speed() {
    let sim = Sim::new("10.0.0.1", "1-1010", "")
        .run(|_, port, _, _| if port % 101 == 0 { soon(OPEN) } else { Silence });
    assert!(sim.took() < Duration::from_millis(4500), "{:?}", sim.took());
    assert_eq!(sim.sent.len(), 10 + 4 * 1000);
}

#[test]
fn old_probes_give_way_to_new_ones() {
    let targets = targets::parse_all(&["10.0.0.1".to_owned()], &[]).unwrap().resolve(&BTreeMap::new());
    let plan = Plan {
        targets,
        ports: "1-300".parse().unwrap(),
        gentle: false,
        max_rate: None,
        max_rate_per_host: None,
        seed: 1,
    };
    let limits = Arc::new(SharedLimits::with_budget(64));
    let mut sim = Sim::new("10.0.0.1", "1-300", "");
    sim.scheduler = Scheduler::new(plan, guard(""), Lease::new(Arc::clone(&limits)), sim.now, Zoned::now());
    let sim = sim.run(|_, port, nth, _| match port {
        1..=20 if nth == 4 => Fate::Answer(Answer::Open { rtt: None, doubt: None }, 900 * MS),
        _ => Silence,
    });
    assert_eq!(sim.ports("10.0.0.1", PortState::Open, Reason::SynAck), "1-20");
    assert!(sim.took() < Duration::from_secs(30), "{:?}", sim.took());
}

#[test]
fn resending_does_not_starve_a_slow_scan() {
    let sim = Sim::new(
        "10.0.0.1",
        "1-60",
        "[[scope.careful]]\ncidrs = [\"10.0.0.1\"]\nmax_rate = 5\nin_flight = 4\n",
    )
    .run(|_, _, _, _| Silence);
    assert_eq!(sim.sent.len(), 240);
    assert!(sim.took() < Duration::from_secs(70), "{:?}", sim.took());
    let took = sim.took().as_secs() + 1;
    assert!(sim.scheduler.progress().probes_sent <= 5 * took + 5);
}

#[test]
fn only_the_target_is_up() {
    let answered = |verdict, offender| {
        Sim::new("10.0.0.1", "1", "").run(|_, _, _, _| soon(Answer::Icmp { verdict, offender }))
    };
    let sim = answered(Verdict::PortUnreach, Offender::Other);
    assert_eq!(sim.ports("10.0.0.1", PortState::Closed, Reason::PortUnreach), "1");
    assert!(!sim.host("10.0.0.1").up);
    let sim = answered(Verdict::PortUnreach, Offender::Target);
    assert!(sim.host("10.0.0.1").up);
    let sim = answered(Verdict::PortUnreach, Offender::Own);
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::AdminProhibited), "1");
    assert!(!sim.host("10.0.0.1").up);
}

#[test]
fn what_may_be_ourselves_is_confirmed() {
    let mut ports = 40_000;
    let mut met = move || {
        ports += 1;
        Answer::Open { rtt: Some(RTT), doubt: Some(ports) }
    };
    let sim = Sim::new("127.0.0.1", "1-5", "").run(|_, port, nth, _| match (port, nth) {
        // A listener; two of our own sockets; one of our own; a listener with a full queue; nothing.
        (1, _) | (2, 1) | (4, 1) => soon(met()),
        (3, 1) => soon(Answer::Itself),
        (4, _) => Silence,
        _ => soon(REFUSED),
    });
    assert_eq!(sim.ports("127.0.0.1", PortState::Open, Reason::SynAck), "1,4");
    assert_eq!(sim.ports("127.0.0.1", PortState::Closed, Reason::ConnRefused), "2-3,5");
    assert_eq!(sim.host("127.0.0.1").details.len(), 2);
}

#[test]
fn the_same_source_port_confirms_nothing() {
    let doubtful = |port| Answer::Open { rtt: None, doubt: Some(port) };
    let sim = Sim::new("127.0.0.1", "1", "").run(|_, _, nth, _| match nth {
        1..=3 => soon(doubtful(7)),
        _ => soon(REFUSED),
    });
    assert_eq!(sim.ports("127.0.0.1", PortState::Closed, Reason::ConnRefused), "1");
}

#[test]
fn unreachable_needs_four_probes_and_keeps_its_reason() {
    let sim = Sim::new("10.0.0.1", "1-3", "").run(|_, port, nth, _| match (port, nth) {
        (1, 2) => icmp(Verdict::HostUnreach),
        (1, _) => Silence,
        (2, 1..=3) => icmp(Verdict::NetUnreach),
        (3, 1..=2) => soon(Answer::Forbidden),
        (3, _) => Silence,
        _ => soon(OPEN),
    });
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::HostUnreach), "1");
    assert_eq!(sim.ports("10.0.0.1", PortState::Open, Reason::SynAck), "2");
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::AdminProhibited), "3");
    assert_eq!((sim.probes_of(1), sim.probes_of(3)), (4, 4));
}

#[test]
fn a_device_that_limits_its_rejections_is_waited_for() {
    // Linux: six at once, then one a second.
    let mut tokens = (6.0, None::<Instant>);
    let sim = Sim::new("10.0.0.1", "1-40", "").run(|_, port, _, now| {
        if !(11..=25).contains(&port) {
            return soon(REFUSED);
        }
        let since = tokens.1.map_or(0.0, |last| (now - last).as_secs_f64());
        tokens = (f64::min(6.0, tokens.0 + since), Some(now));
        if tokens.0 < 1.0 {
            return Silence;
        }
        tokens.0 -= 1.0;
        icmp(Verdict::PortUnreach)
    });
    assert_eq!(sim.ports("10.0.0.1", PortState::Closed, Reason::PortUnreach), "11-25");
    assert!(sim.took() < Duration::from_secs(20), "{:?}", sim.took());
}

#[test]
fn careful_blocks_are_handled_with_care() {
    let scope =
        "[[scope.careful]]\ncidrs = [\"10.0.0.0/31\"]\nmax_rate = 5\nin_flight = 1\ndeny_ports = \"3\"\n";
    let sim = Sim::new("10.0.0.0/30", "1-10", scope).run(|_, _, _, _| soon(REFUSED));
    let careful: IpAddr = "10.0.0.1".parse().unwrap();
    let sent: Vec<Instant> = sim.sent.iter().filter(|(_, a, _)| *a <= careful).map(|(at, ..)| *at).collect();
    assert_eq!(sent.len(), 18, "nine ports on each of two hosts");
    assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= 199 * MS), "five a second, both hosts together");
    assert_eq!(sim.host("10.0.0.1").unscanned.to_string(), "3");
    assert_eq!(sim.host("10.0.0.2").unscanned.to_string(), "");
    let end = sim.scheduler.close();
    assert_eq!(end.refusals.len(), 1);
    assert_eq!(end.refusals[0].addresses.to_string(), "10.0.0.0-10.0.0.1");
    assert!(end.refusals[0].rule.contains("deny_ports"), "{}", end.refusals[0].rule);
    assert_eq!(end.coverage.len(), 2, "with and without port 3");
}

#[test]
fn gentle_means_gentle_for_each_path() {
    let wall = "2026-03-01T03:00:00+00:00[UTC]";
    let mut sim = Sim::with("10.0.0-1.1-4", "1-1000", "", true, wall);
    assert!(!sim.run_for(Duration::from_secs(5), |_, _, _, _| Silence));
    let first: IpAddr = "10.0.0.255".parse().unwrap();
    for path in [true, false] {
        let sent: Vec<Instant> =
            sim.sent.iter().filter(|(_, a, _)| (*a < first) == path).map(|(at, ..)| *at).collect();
        // Silence leaves at most 20 in flight for 300 ms and longer: less than 200 a second.
        assert!((100..=1000).contains(&sent.len()), "{} in 5 s", sent.len());
    }
    assert!(sim.most_in_flight <= 40, "{}", sim.most_in_flight);

    let mut sim = Sim::with("10.0.0.1", "1-2000", "", true, wall);
    assert!(!sim.run_for(Duration::from_secs(5), |_, _, _, _| soon(REFUSED)));
    assert!((990..=1010).contains(&sim.sent.len()), "{} in 5 s", sim.sent.len());
}

#[test]
fn a_narrower_scope_takes_hold_at_once() {
    let mut sim = Sim::new("10.0.0.1-4", "1-100", "");
    let halfway = |_: IpAddr, port: u16, _: u32, _: Instant| if port <= 50 { soon(REFUSED) } else { Silence };
    assert!(!sim.run_for(150 * MS, halfway));
    let before = sim.sent.len();
    sim.scheduler.set_guard(guard("deny = [\"10.0.0.2\"]\nports = \"1-70\"\n"), sim.now);
    assert!(sim.run_for(Duration::from_secs(60), halfway));
    let denied: IpAddr = "10.0.0.2".parse().unwrap();
    assert!(sim.sent[before..].iter().all(|(_, address, port)| *address != denied && *port <= 70));
    // What was answered while it was permitted stands; the rest is accounted for.
    let host = sim.host("10.0.0.2");
    assert_eq!(host.ports_in(Protocol::Tcp, PortState::Closed).to_string(), "1-50");
    assert_eq!(host.unscanned.to_string(), "51-100");
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::NoResponse), "51-70");
    assert_eq!(sim.host("10.0.0.1").unscanned.to_string(), "71-100");
    let progress = sim.scheduler.progress();
    assert_eq!((progress.ports_done, progress.ports_total), (3 * 70 + 50, 3 * 70 + 50));
    let rules: Vec<String> = sim.scheduler.close().refusals.into_iter().map(|r| r.rule).collect();
    assert!(rules.iter().any(|rule| rule.contains("deny 10.0.0.2")), "{rules:?}");
    assert!(rules.iter().any(|rule| rule.contains("ports 1-70")), "{rules:?}");
}

#[test]
fn hours_end_while_a_sweep_runs() {
    let scope =
        "[[scope.careful]]\ncidrs = [\"10.0.0.1\"]\nmax_rate = 10\nin_flight = 4\nhours = \"02:00-04:00\"\n";
    let mut sim = Sim::with("10.0.0.1-2", "1-100", scope, false, "2026-03-01T03:59:58+00:00[UTC]");
    let start = sim.start;
    let answer = |_: IpAddr, _: u16, _: u32, _: Instant| soon(REFUSED);
    for _ in 0..100 {
        let wall: Zoned = "2026-03-01T03:59:58+00:00[UTC]".parse().unwrap();
        let since = SignedDuration::try_from(sim.now - start).unwrap();
        sim.scheduler.tick(sim.now, || wall.checked_add(since).unwrap());
        if sim.run_for(50 * MS, answer) {
            break;
        }
    }
    let careful: IpAddr = "10.0.0.1".parse().unwrap();
    let last = sim.sent.iter().filter(|(_, a, _)| *a == careful).map(|(at, ..)| *at).max().unwrap();
    assert!(last - start <= Duration::from_millis(2100), "{:?}", last - start);
    let host = sim.host("10.0.0.1");
    let closed = host.ports_in(Protocol::Tcp, PortState::Closed).len();
    assert!((15..=22).contains(&closed), "{closed} in two seconds at ten a second");
    assert_eq!(host.unscanned.len(), 100 - closed);
    assert_eq!(sim.host("10.0.0.2").ports_in(Protocol::Tcp, PortState::Closed).len(), 100);
}

#[test]
fn shortages_of_this_host_are_never_a_result() {
    let mut refusals = 500;
    let sim = Sim::new("10.0.0.1", "1-1000", "").run(|_, _, _, _| {
        refusals -= 1;
        match refusals % 3 {
            _ if refusals < 0 => soon(REFUSED),
            0 => Held { hold: Hold::Everywhere },
            1 => Held { hold: Hold::Here },
            _ => soon(REFUSED),
        }
    });
    assert_eq!(sim.host("10.0.0.1").ports_in(Protocol::Tcp, PortState::Closed).len(), 1000);
    assert_eq!(sim.sent.len(), 1000);

    let mut sim = Sim::new("10.0.0.1", "1-10", "");
    assert!(!sim.run_for(Duration::from_secs(120), |_, _, _, _| Held { hold: Hold::Everywhere }));
    assert!(sim.gave_up);
    let took = sim.took();
    assert!(took > MAX_HELD && took < MAX_HELD * 2, "{took:?}");
    assert!(sim.hosts.is_empty() && sim.scheduler.close().coverage.is_empty());
}

#[test]
fn a_shortage_for_one_host_is_not_one_for_the_others() {
    let short: IpAddr = "10.0.0.1".parse().unwrap();
    let sim = Sim::new("10.0.0.1-9", "1-10", "")
        .run(|address, _, _, _| if address == short { Held { hold: Hold::Here } } else { soon(REFUSED) });
    assert!(sim.took() > MAX_HELD && sim.took() < MAX_HELD * 2, "{:?}", sim.took());
    assert_eq!(sim.hosts.len(), 8);
    assert!(!sim.hosts.contains_key(&short));
    let why = sim.scheduler.unfinished().unwrap();
    assert!(why.starts_with("no connection to 10.0.0.1 could be opened"), "{why}");
    assert_eq!(sim.scheduler.close().coverage[0].0.to_string(), "10.0.0.2-10.0.0.9");
}

#[test]
fn a_large_range_is_taken_in_portions() {
    let mut sim = Sim::new("10.0.0.0/8", "1-100", "deny = [\"10.128.0.0/9\"]\n");
    assert!(!sim.run_for(Duration::from_secs(3), |_, port, _, _| if port == 1 {
        Silence
    } else {
        soon(REFUSED)
    }));
    assert!(sim.scheduler.hosts.len() <= MAX_ACTIVE);
    let progress = sim.scheduler.progress();
    assert_eq!(progress.hosts_total, 1 << 23);
    assert_eq!(progress.hosts_done, sim.hosts.len() as u64);
    assert!(!sim.hosts.is_empty());
    let networks: HashSet<_> = sim.hosts.keys().map(|a| PathKey::from(*a)).collect();
    assert!(networks.len() > 32, "neighbours are spread: {}", networks.len());
    // Broken off: only what is finished is covered.
    let end = sim.scheduler.close();
    let covered: u128 = end.coverage.iter().map(|(addresses, _)| addresses.len()).sum();
    assert_eq!(covered, (sim.hosts.len() + end.finished.len()) as u128);
    assert_eq!(end.refusals.len(), 1);
    assert_eq!(end.refusals[0].addresses.to_string(), "10.128.0.0-10.255.255.255");
}

#[test]
fn nobody_is_started_while_nobody_listens() {
    let targets = targets::parse_all(&["10.0.0.0/16".to_owned()], &[]).unwrap().resolve(&BTreeMap::new());
    let plan = Plan {
        targets,
        ports: "1".parse().unwrap(),
        gentle: false,
        max_rate: None,
        max_rate_per_host: None,
        seed: 1,
    };
    let lease = Lease::new(Arc::new(SharedLimits::with_budget(8192)));
    let now = Instant::now();
    let mut scheduler = Scheduler::new(plan, guard(""), lease, now, Zoned::now());
    for step in 0..100_000u32 {
        let now = now + Duration::from_micros(20) * step;
        match scheduler.next(now) {
            Step::Probe(flight) => scheduler.answered(flight, REFUSED, now),
            Step::Wait(_) => {}
            Step::Done => panic!("65,536 hosts were kept"),
        }
    }
    assert!(scheduler.intake.waiting.len() <= MAX_WAITING + SPREAD, "{}", scheduler.intake.waiting.len());
}

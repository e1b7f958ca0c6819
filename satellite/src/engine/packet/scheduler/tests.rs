//! Whole sweeps over a network that exists only here.

use super::sim::*;
use super::*;
use crate::engine::packet::discovery::Ping;
use crate::engine::packet::host::TrackId;
use crate::engine::verdict::Offender;
use portolan_common::observation::{PortState, Protocol, Reason, SuspectKind};
use proptest::prelude::*;
use std::collections::HashSet;

#[test]
fn every_port_is_told_apart() {
    let sim = Sim::new(plan("10.0.0.1", "1-1000"), "").run(|seen| match tcp(seen)? {
        22 | 80 => open(seen),
        500..600 => None,
        600 => {
            let error = Answer::Error {
                protocol: Protocol::Tcp,
                port: 600,
                verdict: Verdict::AdminProhibited,
                offender: Offender::Other,
            };
            Some((error, RTT))
        }
        _ => closed(seen),
    });
    let host = sim.host("10.0.0.1");
    assert!(host.up);
    assert_eq!(sim.ports("10.0.0.1", PortState::Open, Reason::SynAck), "22,80");
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::NoResponse), "500-599");
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::AdminProhibited), "600");
    assert_eq!(sim.ports("10.0.0.1", PortState::Closed, Reason::Reset), "1-21,23-79,81-499,601-1000");
    assert_eq!(host.detail_of(Protocol::Tcp, 22).map(|d| d.rtt_us), Some(20_000));
    assert_eq!((sim.probes_of(500), sim.probes_of(22)), (4, 1));
    let progress = sim.scheduler.progress();
    assert_eq!((progress.ports_done, progress.ports_total, progress.open_found), (1000, 1000, 2));
    assert_eq!((progress.hosts_done, progress.hosts_total), (1, 1));
    assert_eq!(progress.probes_sent as usize, sim.sent.len());
    // 100, 100, 100, 200 ms, and a little to send.
    assert!(sim.took() < 700 * MS, "{:?}", sim.took());
}

#[test]
fn a_silent_host_takes_two_seconds_for_all_ports() {
    let ports = |sim: &Sim| sim.sent.iter().filter(|seen| tcp(**seen).is_some()).count();
    let echo = |seen: Seen| {
        matches!(seen.what, What::Ping { ping: Ping::Echo, .. }).then_some((Answer::Ping { echo: true }, RTT))
    };
    let sim = Sim::new(plan("10.0.0.1", "1-65535"), "").run(echo);
    assert!(sim.host("10.0.0.1").up);
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::NoResponse), "1-65535");
    assert_eq!(ports(&sim), 65_535 * 4);
    assert!(sim.took() < Duration::from_millis(2600), "{:?}", sim.took());

    // Where not even an echo request is answered, nobody knows what the path bears.
    let sim = Sim::new(plan("10.0.0.1", "1-65535"), "").run(|_| None);
    assert!(!sim.host("10.0.0.1").up);
    assert_eq!(ports(&sim), 65_535 * 4);
    assert!(sim.took() < Duration::from_secs(8), "{:?}", sim.took());
}

#[test]
fn a_long_round_trip_that_nobody_knew_of_is_waited_for() {
    for rtt in [300, 650, 1200] {
        let sim = Sim::new(plan("10.0.0.1", "1-2000"), "").run(|seen| match tcp(seen)? {
            7 | 1999 => open(seen).map(|(answer, _)| (answer, MS * rtt)),
            5 => closed(seen).map(|(answer, _)| (answer, MS * rtt)),
            _ => None,
        });
        assert_eq!(sim.ports("10.0.0.1", PortState::Open, Reason::SynAck), "7,1999", "{rtt} ms");
        assert_eq!(sim.ports("10.0.0.1", PortState::Closed, Reason::Reset), "5", "{rtt} ms");
    }
}

#[test]
fn loss_by_chance_misses_nothing() {
    let sim = Sim::new(plan("10.0.0.0/24", "1-1000"), "").run(|seen| {
        // 1 % each way.
        if coin(1, seen, 1) || coin(1, seen, 2) {
            return None;
        }
        if tcp(seen)? % 125 == 22 { open(seen) } else { closed(seen) }
    });
    for (address, host) in &sim.hosts {
        assert!(host.ports_in(Protocol::Tcp, PortState::Filtered).is_empty(), "{address}: {:?}", host.runs);
        assert_eq!(host.ports_in(Protocol::Tcp, PortState::Open).len(), 8, "{address}");
    }
    assert_eq!(sim.hosts.len(), 256);
    assert!(sim.sent.len() < 256_000 * 104 / 100, "{} probes", sim.sent.len());
}

#[test]
fn where_much_is_lost_silence_takes_more_probes() {
    let sim = Sim::new(plan("10.0.0.1", "1-2000"), "").run(|seen| match tcp(seen)? {
        1000 => None,
        _ if coin(6, seen, 1) => None,
        _ => closed(seen),
    });
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::NoResponse), "1000");
    assert!(sim.probes_of(1000) >= 6, "{}", sim.probes_of(1000));
}

/// 200 resets a second, as some systems allow themselves: a scan at full speed would take the rest for filtered.
#[test]
fn a_limit_on_resets_is_found_and_kept() {
    let (mut credit, mut last) = (10.0, None);
    let sim = Sim::new(plan("10.0.0.1", "1-3000"), "").run(|seen| {
        let port = tcp(seen)?;
        if port == 80 {
            return open(seen);
        }
        let since = last.replace(seen.at).map_or(0.0, |last: Instant| (seen.at - last).as_secs_f64());
        credit = f64::min(credit + since * 200.0, 10.0);
        if credit < 1.0 {
            return None;
        }
        credit -= 1.0;
        closed(seen)
    });
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::NoResponse), "");
    assert_eq!(sim.ports("10.0.0.1", PortState::Open, Reason::SynAck), "80");
    assert!(sim.took() < Duration::from_secs(60), "{:?}", sim.took());
}

/// A path that passes 20,000 packets a second and drops the rest.
#[test]
fn a_narrow_path_loses_nothing_in_the_end() {
    let (mut credit, mut last) = (100.0, None);
    let sim = Sim::new(plan("10.0.0.0/26", "1-1000"), "").run(|seen| {
        let since = last.replace(seen.at).map_or(0.0, |last: Instant| (seen.at - last).as_secs_f64());
        credit = f64::min(credit + since * 20_000.0, 200.0);
        if credit < 1.0 {
            return None;
        }
        credit -= 1.0;
        if tcp(seen)? == 22 { open(seen) } else { closed(seen) }
    });
    for (address, host) in &sim.hosts {
        assert!(host.ports_in(Protocol::Tcp, PortState::Filtered).is_empty(), "{address}: {:?}", host.runs);
    }
    assert!(sim.took() < Duration::from_secs(12), "{:?}", sim.took());
}

#[test]
fn a_gentle_sweep_keeps_to_its_bounds() {
    let mut waiting: HashSet<(IpAddr, u16)> = HashSet::new();
    let mut most = 0;
    let plan = Plan { gentle: true, ..plan("10.0.0.0/28", "1-100") };
    let sim = Sim::new(plan, "").run(|seen| {
        let port = tcp(seen)?;
        waiting.insert((seen.address, port));
        most = most.max(waiting.len());
        closed(seen)
    });
    let seconds = sim.took().as_secs_f64();
    assert!(sim.sent.len() as f64 / seconds <= 205.0, "{} in {seconds} s", sim.sent.len());
    assert_eq!(sim.hosts.len(), 16);
}

#[test]
fn nobody_there_costs_twelve_pings_and_no_sweep() {
    let plan = Plan { discover: true, ..plan("10.0.0.0/22", "1-1000") };
    let up = |address: IpAddr| address == "10.0.2.7".parse::<IpAddr>().unwrap();
    let sim = Sim::new(plan, "").run(|seen| match seen.what {
        _ if !up(seen.address) => None,
        What::Ping { ping: Ping::Ack(_), .. } => Some((Answer::Ping { echo: false }, RTT)),
        What::Ping { .. } => None,
        What::Port { .. } => closed(seen),
    });
    assert_eq!(sim.hosts.len(), 1024);
    let pings = sim.sent.iter().filter(|seen| matches!(seen.what, What::Ping { .. })).count();
    assert!(pings <= 1024 * 12, "{pings} pings");
    assert_eq!(sim.sent.len() - pings, 1000);
    let down = sim.host("10.0.0.1");
    assert!(!down.up);
    assert_eq!(sim.ports("10.0.0.1", PortState::Filtered, Reason::NoResponse), "1-1000");
    assert_eq!(sim.ports("10.0.2.7", PortState::Closed, Reason::Reset), "1-1000");
    assert_eq!(sim.scheduler.progress().ports_done, 1024 * 1000);
}

#[test]
fn the_rates_of_a_scan_and_of_a_host_are_kept() {
    let all = Plan { max_rate: Some(1000), ..plan("10.0.0.0/28", "1-200") };
    let sim = Sim::new(all, "").run(closed);
    assert!(sim.took() >= Duration::from_millis(3150), "{:?}", sim.took());
    let one = Plan { max_rate_per_host: Some(100), ..plan("10.0.0.0/28", "1-200") };
    let sim = Sim::new(one, "").run(closed);
    assert!(
        sim.took() >= Duration::from_millis(1950) && sim.took() < Duration::from_secs(3),
        "{:?}",
        sim.took()
    );
}

#[test]
fn careful_blocks_have_one_port_in_flight() {
    let scope = "[[scope.careful]]\ncidrs = [\"10.0.0.0/30\"]\nmax_rate = 50\nin_flight = 1\n";
    let mut last: Option<Instant> = None;
    let sim = Sim::new(plan("10.0.0.0/30", "1-20"), scope).run(|seen| {
        if let Some(last) = last.replace(seen.at) {
            assert!(seen.at - last >= RTT, "two at once");
        }
        closed(seen)
    });
    assert_eq!(sim.hosts.len(), 4);
}

#[test]
fn what_answers_for_every_port_is_told() {
    let proxy = |seen: Seen| {
        Some((Answer::SynAck { port: tcp(seen)?, attempt: None, window: 0, options: false }, RTT))
    };
    let sim = Sim::new(plan("10.0.0.1", "1-100"), "").run(proxy);
    let suspect = sim.host("10.0.0.1").suspect.clone().unwrap();
    assert_eq!((suspect.kind, suspect.confidence), (SuspectKind::SynProxy, 99));
    assert_eq!(
        sim.host("10.0.0.1").ports_in(Protocol::Tcp, PortState::Open).len(),
        100,
        "and nothing is hidden"
    );
    let canaries = |seen: &&Seen| matches!(seen.what, What::Port { track: TrackId::Canary, .. });
    assert_eq!(sim.sent.iter().filter(canaries).count(), 3);
    assert!(sim.sent.iter().filter(canaries).all(|seen| tcp(*seen).is_some_and(|port| port >= 30_000)));

    // One that has a closed port is not suspected, nor asked.
    let sim = Sim::new(plan("10.0.0.1", "1-100"), "")
        .run(|seen| if tcp(seen)? == 1 { closed(seen) } else { open(seen) });
    assert_eq!(sim.host("10.0.0.1").suspect, None);
    assert_eq!(sim.sent.iter().filter(canaries).count(), 0);

    // Where the scope has a word against it, nobody is asked.
    let scope = "ports = \"1-1000\"\n";
    let sim = Sim::new(plan("10.0.0.1", "1-100"), scope).run(proxy);
    assert_eq!(sim.sent.iter().filter(canaries).count(), 0);
    assert_eq!(sim.host("10.0.0.1").suspect.as_ref().map(|s| s.confidence), Some(60));
}

#[test]
fn a_host_without_a_way_is_held_and_goes_on() {
    let mut scheduler = Sim::new(plan("10.0.0.1", "1-10"), "").scheduler;
    let start = Instant::now();
    let mut batch = Vec::new();
    let mut now = start;
    let mut tries = 0;
    loop {
        let next = scheduler.fill(now, MS, 64, &mut batch);
        assert!(batch.is_empty());
        while let Some((host, _)) = scheduler.take_unrouted() {
            tries += 1;
            scheduler.no_way(host, Verdict::NetUnreach, now);
        }
        match next {
            Next::Done => break,
            Next::At(at) => now = at.max(now + MS),
        }
    }
    assert!(tries > 5 && now - start >= Duration::from_secs(3), "{tries} tries in {:?}", now - start);
    let host = scheduler.take_finished().unwrap();
    assert_eq!(host.state_of(Protocol::Tcp, 5), Some((PortState::Filtered, Reason::NetUnreach)));
    assert!(!host.up);
}

#[test]
fn a_narrower_scope_takes_hold_at_once() {
    let mut sim = Sim::new(Plan { max_rate: Some(100), ..plan("10.0.0.1,2", "1-100") }, "");
    assert!(!sim.run_for(MS * 300, closed));
    sim.scheduler.set_guard(guard("deny = [\"10.0.0.1\"]\nports = \"1-50\"\n"), sim.now);
    let before = sim.sent.len();
    assert!(sim.run_for(Duration::from_secs(10), closed));
    let after = &sim.sent[before..];
    assert!(!after.is_empty() && after.iter().all(|seen| seen.address.to_string() == "10.0.0.2"));
    assert!(after.iter().all(|seen| tcp(*seen).is_some_and(|port| port <= 50)));
    let end = sim.scheduler.close();
    assert!(end.refusals.iter().any(|refusal| refusal.rule.starts_with("deny")), "{:?}", end.refusals);
}

#[test]
fn probes_that_did_not_leave_do_not_count() {
    let mut scheduler = Sim::new(plan("10.0.0.1", "1-64"), "").scheduler;
    let mut now = Instant::now();
    let mut batch = Vec::new();
    scheduler.fill(now, Duration::ZERO, 64, &mut batch);
    let (host, address) = scheduler.take_unrouted().unwrap();
    scheduler.routed(host, false, now);
    let mut sent = 0;
    for _ in 0..200 {
        now += MS;
        scheduler.fill(now, Duration::ZERO, 64, &mut batch);
        for probe in batch.drain(..).rev().collect::<Vec<_>>() {
            sent += 1;
            if sent <= 128 {
                scheduler.unsent(probe, now);
            } else if let What::Port { port, attempt, .. } = probe.what {
                assert_eq!(attempt, 1);
                scheduler.answered(address, Answer::Reset { port, attempt: Some(1) }, 63, now);
            }
        }
    }
    let host = scheduler.take_finished().expect("a finished host");
    assert_eq!(host.ports_in(Protocol::Tcp, PortState::Closed).len(), 64);
    assert_eq!(scheduler.progress().probes_sent, 64);
}

/// A host that answers until it has enough of us, and then nothing at all.
#[test]
fn a_host_that_shuns_us_is_told_and_holds_up_nobody() {
    let mut asked = 0;
    let sim = Sim::new(plan("10.0.0.1-20", "1-2000"), "").run(|seen| {
        if seen.address.to_string() == "10.0.0.7" {
            asked += 1;
            if asked > 100 {
                return None;
            }
        }
        match seen.what {
            What::Ping { ping: Ping::Syn(port), .. } => Some((Answer::Reset { port, attempt: None }, RTT)),
            _ => closed(seen),
        }
    });
    let shunned = sim.host("10.0.0.7");
    let suspect = shunned.suspect.clone().unwrap();
    assert_eq!(suspect.kind, SuspectKind::Shunned, "{suspect:?}");
    assert_eq!(shunned.ports_in(Protocol::Tcp, PortState::Closed).len() / 10, 9);
    for (address, host) in sim.hosts.iter().filter(|(address, _)| address.to_string() != "10.0.0.7") {
        assert_eq!(host.ports_in(Protocol::Tcp, PortState::Closed).len(), 2000, "{address}");
        assert_eq!(host.suspect, None);
    }
    let others =
        sim.sent.iter().filter(|seen| seen.address.to_string() != "10.0.0.7").map(|seen| seen.at).max();
    assert!(others.unwrap() - sim.start < Duration::from_secs(4), "{:?}", others.unwrap() - sim.start);
    assert!(sim.took() < Duration::from_secs(60), "{:?}", sim.took());
}

/// A path that is gone for two seconds is no firewall.
#[test]
fn an_outage_on_the_way_is_waited_for() {
    for max_rate in [Some(300), None] {
        let mut start = None;
        let plan = Plan { max_rate, ..plan("10.0.0.1", "1-1000") };
        let mut sim = Sim::new(plan, "");
        let done = sim.run_for(Duration::from_secs(60), |seen| {
            let since = seen.at - *start.get_or_insert(seen.at);
            let begins = if max_rate.is_some() { MS * 500 } else { MS * 22 };
            if (begins..begins + MS * 2000).contains(&since) { None } else { closed(seen) }
        });
        assert!(done && sim.took() < Duration::from_secs(12), "{:?}", sim.took());
        let filtered = sim.host("10.0.0.1").ports_in(Protocol::Tcp, PortState::Filtered).len();
        assert_eq!(filtered, 0, "{max_rate:?} {:?}", sim.host("10.0.0.1").suspect);
    }
}

/// 20,000 packets a second pass, and a firewall swallows nearly everything: nothing but the gauge shows the loss.
#[test]
fn a_narrow_path_to_a_silent_host_hides_no_open_port() {
    for passes in [20_000.0, 5_000.0] {
        let (mut credit, mut last) = (50.0, None);
        let sim = Sim::new(plan("10.0.0.1", "1-20000"), "").run(|seen| {
            let since = last.replace(seen.at).map_or(0.0, |last: Instant| (seen.at - last).as_secs_f64());
            credit = f64::min(credit + since * passes, 100.0);
            if credit < 1.0 {
                return None;
            }
            credit -= 1.0;
            match seen.what {
                What::Ping { ping: Ping::Echo, .. } => Some((Answer::Ping { echo: true }, RTT)),
                What::Ping { ping: Ping::Syn(port), .. } => {
                    Some((Answer::SynAck { port, attempt: None, window: 64_240, options: true }, RTT))
                }
                _ if tcp(seen)? % 400 == 7 => open(seen),
                _ => None,
            }
        });
        let open = sim.host("10.0.0.1").ports_in(Protocol::Tcp, PortState::Open).len();
        assert!(open >= 50, "{open} of 50 at {passes} a second");
        assert!(sim.took() < Duration::from_secs(120), "{:?} at {passes}", sim.took());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever the network does, every port gets one last word, and what answers every time is never called silent.
    #[test]
    fn every_port_is_accounted_for_once(seed: u64, hosts in 1u8..6, ports in 1u16..80, loss in 0u64..30, gentle: bool, discover: bool) {
        let mut plan = plan(&format!("10.0.0.1-{hosts}"), &format!("T:1-{ports},U:1-{}", ports % 9 + 1));
        (plan.gentle, plan.discover, plan.seed) = (gentle, discover, seed);
        let sim = Sim::new(plan, "").run(|seen| {
            if coin(loss, seen, seed) {
                return None;
            }
            match seen.what {
                What::Ping { ping: Ping::Syn(port), .. } if port % 3 == 0 => {
                    Some((Answer::SynAck { port, attempt: None, window: 64_240, options: true }, RTT))
                }
                What::Ping { ping: Ping::Syn(port), .. } => Some((Answer::Reset { port, attempt: None }, RTT)),
                What::Ping { ping, .. } => Some((Answer::Ping { echo: ping == Ping::Echo }, RTT)),
                What::Port { track: TrackId::Udp, port, .. } if port % 2 == 0 => Some((Answer::Datagram { port }, RTT)),
                What::Port { track: TrackId::Udp, .. } => None,
                What::Port { port, .. } if port % 3 == 0 => open(seen),
                What::Port { port, .. } if port % 7 == 0 => None,
                What::Port { .. } => closed(seen),
            }
        });
        prop_assert_eq!(sim.hosts.len(), usize::from(hosts));
        for host in sim.hosts.values() {
            let total: usize = host.runs.iter().map(|run| run.ports.len()).sum();
            prop_assert_eq!(total, usize::from(ports) + usize::from(ports % 9 + 1));
            let open = host.ports_in(Protocol::Tcp, PortState::Open);
            prop_assert!(open.iter().all(|port| port % 3 == 0));
            let closed = host.ports_in(Protocol::Tcp, PortState::Closed);
            prop_assert!(closed.iter().all(|port| port % 3 != 0 && port % 7 != 0));
        }
        prop_assert_eq!(sim.scheduler.progress().ports_done, sim.scheduler.progress().ports_total);
    }
}

/// A link that passes 80,000 packets a second and keeps many of the rest waiting before it drops any.
#[test]
fn a_long_queue_on_the_way_is_not_kept_full() {
    const PASSES: f64 = 80_000.0;
    const QUEUE: f64 = 30_000.0;
    let (mut queued, mut last) = (0.0, None);
    let sim = Sim::new(plan("10.0.0.0/24", "1-1000"), "").run(|seen| {
        let since = last.replace(seen.at).map_or(0.0, |last: Instant| (seen.at - last).as_secs_f64());
        queued = f64::max(queued - since * PASSES, 0.0);
        if queued >= QUEUE || coin(1, seen, 1) || coin(1, seen, 2) {
            return None;
        }
        queued += 1.0;
        let (answer, rtt) = if tcp(seen)? % 125 == 22 { open(seen) } else { closed(seen) }?;
        Some((answer, rtt + Duration::from_secs_f64(queued / PASSES)))
    });
    assert!(sim.took() < Duration::from_secs(6), "{:?}", sim.took());
    assert!(sim.sent.len() < 256_000 * 120 / 100, "{} probes", sim.sent.len());
    for (address, host) in &sim.hosts {
        assert!(host.ports_in(Protocol::Tcp, PortState::Filtered).is_empty(), "{address}: {:?}", host.runs);
    }
}

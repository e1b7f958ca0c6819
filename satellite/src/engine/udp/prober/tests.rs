//! The prober over the loopback interface.

use super::super::super::errors::{Failure, sort};
use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use portolan_common::ports::PortSpec;
use portolan_common::scope::{Guard, Scope};
use std::net::UdpSocket;

fn target(address: &str) -> PermittedTarget {
    let nets: Vec<_> = ["127.0.0.0/8", "::1/128", "192.0.2.0/24"].map(|net| net.parse().unwrap()).into();
    let guard = Guard::new(Scope::allowing(&nets));
    let ports = PortSpec { udp: std::iter::once(1..=u16::MAX).collect(), ..PortSpec::default() };
    guard.permit(address.parse().unwrap(), &ports, &jiff::Zoned::now()).target.unwrap()
}

/// What comes until there are so many, or nothing for a second.
fn answers(prober: &mut UdpProber, count: usize) -> Vec<UdpAnswer> {
    let mut answers = Vec::new();
    while answers.len() < count {
        let mut fds = [PollFd::new(prober.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(1000u16)).unwrap() == 0 {
            break;
        }
        prober.drain(&mut answers);
    }
    answers
}

/// A server that answers every datagram, from this socket or from another; it ends with the process.
fn serve(address: &str, elsewhere: bool) -> u16 {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    let other = UdpSocket::bind((address, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut content = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut content) {
            let _ = if elsewhere { &other } else { &socket }.send_to(b"here", from);
        }
    });
    port
}

/// Ports that nobody has.
fn closed(address: &str, count: usize) -> Vec<u16> {
    let sockets: Vec<_> = (0..count).map(|_| UdpSocket::bind((address, 0)).unwrap()).collect();
    sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect()
}

#[test]
fn open_and_closed_ports_are_told_apart() {
    for address in ["127.0.0.1", "::1"] {
        let mut prober = UdpProber::open().unwrap();
        let target = target(address);
        let open = serve(address, false);
        let closed = closed(address, 3);
        let before = Instant::now();
        for attempt in 1..=8 {
            prober.send(&target, open, attempt, false).unwrap();
            for port in &closed {
                prober.send(&target, *port, attempt, false).unwrap();
            }
        }
        let answers = answers(&mut prober, 32);
        assert_eq!(answers.len(), 32, "{address}: all eight sockets, both kinds of answers");
        for answer in answers {
            let unreachable = UdpSeen::Icmp { verdict: Verdict::PortUnreach, offender: Offender::Target };
            let expected = if answer.port == open { UdpSeen::Datagram } else { unreachable };
            assert_eq!((answer.what, answer.address), (expected, target.address()));
            assert!(answer.port == open || closed.contains(&answer.port));
            assert!(answer.at + Duration::from_millis(5) > before && answer.at <= Instant::now());
        }
    }
}

#[test]
fn an_error_of_before_spoils_no_later_probe() {
    let mut prober = UdpProber::open().unwrap();
    let target = target("127.0.0.1");
    let (open, closed) = (serve("127.0.0.1", false), closed("127.0.0.1", 40));
    // Nothing is read in between: each error waits where the next probe is sent.
    for port in &closed {
        prober.send(&target, *port, 1, true).unwrap();
        prober.send(&target, open, 1, true).unwrap();
    }
    let answers = answers(&mut prober, 80);
    let datagrams = answers.iter().filter(|answer| answer.what == UdpSeen::Datagram);
    assert!(datagrams.clone().count() == 40 && datagrams.clone().all(|answer| answer.port == open));
    let mut refused: Vec<_> =
        answers.iter().filter(|answer| answer.what != UdpSeen::Datagram).map(|answer| answer.port).collect();
    let mut closed = closed;
    closed.sort_unstable();
    refused.sort_unstable();
    assert_eq!(refused, closed);
}

#[test]
fn one_flow_is_one_socket() {
    let prober = UdpProber::open().unwrap();
    let address = "192.0.2.1".parse().unwrap();
    let places = |port, same_flow| {
        let places: HashSet<_> =
            (1..=8).map(|attempt| prober.place(address, port, attempt, same_flow)).collect();
        places.len()
    };
    assert_eq!((places(53, true), places(53, false), places(69, false)), (1, POOL, ROAMING_POOL));
    let ports: HashSet<_> = (100..300).map(|port| prober.place(address, port, 1, true)).collect();
    assert_eq!(ports, (0..POOL).collect(), "ports are spread");
}

#[test]
fn an_answer_from_elsewhere_is_taken_for_the_port_that_it_belongs_to() {
    let mut prober = UdpProber::open().unwrap();
    // As if TFTP were on another port: its own is not ours to have in a test.
    let roaming = prober.families[0].unwrap() + POOL;
    assert_eq!(prober.lanes[roaming].asks, Some(69));
    let elsewhere = serve("127.0.0.1", true);
    let to = SockAddr::from(SocketAddr::new("127.0.0.1".parse().unwrap(), elsewhere));
    prober.lanes[roaming].socket.send_to(b"read", &to).unwrap();
    let found = answers(&mut prober, 1);
    assert_eq!(found.first().map(|answer| (answer.port, answer.what)), Some((69, UdpSeen::Datagram)));
    // On the other sockets it is what it is: of another port.
    prober.send(&target("127.0.0.1"), elsewhere, 1, false).unwrap();
    let found = answers(&mut prober, 1);
    assert!(found.first().is_some_and(|answer| answer.port != elsewhere && answer.port != 69));
}

#[test]
fn this_prober_does_not_answer_itself() {
    let mut prober = UdpProber::open().unwrap();
    let target = target("127.0.0.1");
    for port in prober.lanes.iter().map(|lane| lane.own_port).collect::<Vec<_>>() {
        prober.send(&target, port, 1, false).unwrap();
    }
    let own: HashSet<_> = prober.lanes.iter().map(|lane| lane.own_port).collect();
    let found = answers(&mut prober, 1);
    // Half of the ports are of the other family, and may be closed in this one.
    assert!(found.iter().all(|answer| answer.what != UdpSeen::Datagram || !own.contains(&answer.port)));
}

#[test]
fn a_drain_is_bounded() {
    let mut prober = UdpProber::open().unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, prober.lanes[0].own_port));
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..1500 {
        sender.send_to(b"flood", to).unwrap();
    }
    let mut answers = Vec::new();
    prober.drain(&mut answers);
    // The kernel keeps as many as its rmem_max allows.
    assert!(answers.len() <= DRAIN && answers.len() > 100, "{}", answers.len());
}

#[test]
fn a_family_that_is_missing_is_no_way() {
    let mut prober = UdpProber::open().unwrap();
    prober.families[1] = None;
    let error = prober.send(&target("::1"), 53, 1, false).unwrap_err();
    assert_eq!(sort(&error), Failure::NoWay(Verdict::NetUnreach));
}

#[test]
fn stamps_are_kept_within_reason() {
    let clock = Clock::read();
    let stamp = |ago: i64| {
        let now = clock.system.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        TimeSpec::new(now.as_secs() as i64 - ago, now.subsec_nanos().into())
    };
    assert_eq!(clock.instant_of(stamp(-5)), clock.instant, "the future is now");
    assert_eq!(clock.instant - clock.instant_of(stamp(3)), Duration::from_secs(3));
    assert_eq!(clock.instant - clock.instant_of(stamp(3600)), OLDEST);
    assert_eq!(clock.instant - clock.instant_of(TimeSpec::new(-1, 0)), Duration::ZERO);
}

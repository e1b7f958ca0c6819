//! The lab's bad link does what its plan says, and nothing to what no fault was planned for.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use portolan_tests::in_lab;
use portolan_tests::lab::{Direction, Fault, FaultProxy, Host, Kind, Lab};
use portolan_tests::wait::{SOON, wait_until};

const ECHO: u16 = 7;
const PROXY: u16 = 8;

/// A host that says everything back, and a proxy in front of it.
fn stage(lab: &Lab) -> (Host, FaultProxy) {
    let host = lab.host("office", "echo");
    let listener = host.inside(|| TcpListener::bind(("0.0.0.0", ECHO)).unwrap());
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut from, mut to) = (connection.try_clone().unwrap(), connection);
                let _broken = std::io::copy(&mut from, &mut to);
            });
        }
    });
    let proxy = FaultProxy::start(&host, PROXY, host.at(ECHO));
    (host, proxy)
}

fn dial(host: &Host) -> TcpStream {
    let at: SocketAddr = host.at(PROXY);
    let stream = host.inside(|| TcpStream::connect_timeout(&at, SOON).unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream
}

/// Says this and hears as much back as comes; with the error that ended it, if one did.
fn converse(mut stream: &TcpStream, said: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
    if let Err(error) = stream.write_all(said) {
        return (Vec::new(), Some(error.kind()));
    }
    let mut heard = Vec::new();
    let mut piece = [0; 4096];
    while heard.len() < said.len() {
        match stream.read(&mut piece) {
            Ok(0) => return (heard, Some(ErrorKind::UnexpectedEof)),
            Ok(read) => heard.extend(&piece[..read]),
            Err(error) => return (heard, Some(error.kind())),
        }
    }
    (heard, None)
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

fn out(kind: Kind, after: usize) -> Fault {
    Fault { kind, direction: Direction::Out, after }
}

#[test]
fn without_a_plan_everything_passes_also_the_end() {
    in_lab!(|lab| {
        let (host, proxy) = stage(lab);
        for _ in 0..3 {
            let mut stream = dial(&host);
            assert_eq!(converse(&stream, &text(300_000)), (text(300_000), None));
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the end passes");
        }
        assert_eq!((proxy.accepted(), proxy.done()), (3, vec![]));
    });
}

#[test]
fn a_cut_is_a_reset_at_the_byte_it_was_planned_for() {
    in_lab!(|lab| {
        let (host, proxy) = stage(lab);
        proxy.plan(out(Kind::Cut, 1_000));
        let stream = dial(&host);
        assert_eq!(converse(&stream, &text(1_000)), (text(1_000), None), "not a byte too early");
        assert_eq!(converse(&stream, &text(10)), (vec![], Some(ErrorKind::ConnectionReset)));
        assert_eq!(proxy.done(), [out(Kind::Cut, 1_000)]);
        // The next connection has no fault.
        assert_eq!(converse(&dial(&host), &text(5_000)), (text(5_000), None));
    });
}

#[test]
fn truncation_lets_a_little_more_pass() {
    in_lab!(|lab| {
        let (host, proxy) = stage(lab);
        let fault = Fault { kind: Kind::Truncate(7), direction: Direction::Back, after: 100 };
        proxy.plan(fault);
        let (heard, error) = converse(&dial(&host), &text(3_000));
        assert!(heard.len() <= 107 && error == Some(ErrorKind::ConnectionReset), "{} {error:?}", heard.len());
        assert_eq!(proxy.done(), [fault]);
    });
}

#[test]
fn half_open_swallows_both_ways_and_neither_side_hears_of_it() {
    in_lab!(|lab| {
        let (host, proxy) = stage(lab);
        proxy.plan(out(Kind::HalfOpen, 50));
        let stream = dial(&host);
        assert_eq!(converse(&stream, &text(50)).1, None);
        let (heard, error) = converse(&stream, &text(100));
        // Neither an answer nor an end.
        assert!(
            heard.is_empty() && matches!(error, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
            "{error:?}"
        );
        assert_eq!(proxy.done().len(), 1);
        assert_eq!(converse(&dial(&host), &text(100)).1, None, "others are not touched");
    });
}

#[test]
fn one_bit_is_flipped_and_only_one() {
    in_lab!(|lab| {
        let (host, proxy) = stage(lab);
        proxy.plan(out(Kind::Flip, 123));
        let (heard, error) = converse(&dial(&host), &text(2_000));
        let wrong: Vec<usize> = (0..2_000).filter(|&n| heard[n] != text(2_000)[n]).collect();
        assert_eq!((wrong, error), (vec![123], None));
        assert_eq!((heard[123] ^ text(124)[123]).count_ones(), 1);
        assert_eq!(proxy.planned(), 0);
    });
}

#[test]
fn what_is_slow_arrives_whole_and_late() {
    in_lab!(|lab| {
        let (host, proxy) = stage(lab);
        let slow = [
            Kind::Delay(Duration::from_millis(300)),
            Kind::Stall(Duration::from_millis(300)),
            Kind::Trickle(300),
        ];
        for kind in slow {
            proxy.plan(out(kind, 500));
            let stream = dial(&host);
            assert_eq!(converse(&stream, &text(500)).1, None);
            let began = Instant::now();
            assert_eq!(converse(&stream, &text(1_000)), (text(1_000), None), "{kind:?}");
            assert!(began.elapsed() >= Duration::from_millis(290), "{kind:?} took {:?}", began.elapsed());
        }
        wait_until("all to be told", SOON, || proxy.done().len() == slow.len());
    });
}

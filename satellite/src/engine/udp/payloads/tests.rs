//! Tests of what holds for every request.

use super::*;
use std::collections::HashSet;

/// The token of these tests: its last bytes are 5, 6, 7, 8.
pub(super) const TOKEN: Token = Token(0x0102_0304_0506_0708);

/// What the request comes to.
pub(super) fn made(request: Request) -> Vec<u8> {
    let mut out = Vec::new();
    request(TOKEN, &mut out);
    out
}

fn datagram(port: u16, attempt: u8, token: u64, allowed: Payloads) -> Vec<u8> {
    let mut out = b"left over".to_vec();
    payload(port, attempt, token, allowed, &mut out);
    out
}

#[test]
fn none_means_nothing() {
    for port in 0..=u16::MAX {
        assert!(datagram(port, 1, 1, Payloads::None).is_empty());
    }
}

#[test]
fn unknown_and_silent_ports_get_an_empty_datagram() {
    for port in [0, 7, 514, 17185, 40000, 51820] {
        for attempt in 0..=u8::MAX {
            assert!(datagram(port, attempt, 1, Payloads::Any).is_empty());
        }
    }
}

#[test]
fn attempts_take_the_requests_in_turn() {
    for port in 0..=u16::MAX {
        let count = requests(port).len() as u8;
        let made: Vec<_> = (1..=count).map(|attempt| datagram(port, attempt, 1, Payloads::Builtin)).collect();
        assert!(made.iter().all(|made| !made.is_empty()), "port {port}");
        assert_eq!(made.iter().collect::<HashSet<_>>().len(), made.len(), "port {port}: each differs");
        if let Some(first) = made.first() {
            assert_eq!(&datagram(port, count + 1, 1, Payloads::Builtin), first);
            assert_eq!(&datagram(port, 0, 1, Payloads::Builtin), first, "attempts count from 1");
        }
    }
}

#[test]
fn every_request_fits_a_packet() {
    for port in 0..=u16::MAX {
        for attempt in 1..=requests(port).len() as u8 {
            let len = datagram(port, attempt, u64::MAX, Payloads::Builtin).len();
            assert!(len <= 1200, "port {port}: {len} bytes would not pass an IPv6 tunnel unfragmented");
        }
    }
}

//! Reads the requests back.

use super::super::tests::{TOKEN, made};
use super::*;

/// A message of header lines: its first line, its headers; nothing may follow.
fn headers(bytes: Vec<u8>) -> (String, Vec<(String, String)>) {
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "");
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap().to_owned();
    let pair = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    (first, lines.map(|line| pair(line).unwrap()).collect())
}

#[test]
fn sip_has_all_that_it_must() {
    let (first, headers) = headers(made(sip_options));
    assert!(first.starts_with("OPTIONS sip:") && first.ends_with(" SIP/2.0"));
    for name in ["Via", "Max-Forwards", "From", "To", "Call-ID", "CSeq", "Contact"] {
        assert_eq!(headers.iter().filter(|(header, _)| header == name).count(), 1, "{name}");
    }
    assert!(headers[0].1.contains("branch=z9hG4bK") && headers[0].1.ends_with(";rport"));
}

#[test]
fn ssdp_searches() {
    for (request, mx) in [(ssdp as fn(Token, &mut Vec<u8>), false), (ssdp_mx, true)] {
        let (first, headers) = headers(made(request));
        assert_eq!(first, "M-SEARCH * HTTP/1.1");
        assert_eq!(headers.iter().any(|(name, _)| name == "MX"), mx);
        assert!(headers.contains(&("MAN".to_owned(), "\"ssdp:discover\"".to_owned())));
    }
}

#[test]
fn ws_discovery_is_balanced() {
    let text = String::from_utf8(made(ws_discovery)).unwrap();
    let mut open = Vec::new();
    for tag in text.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with(['/', '?']) => (),
            None => open.push(tag.split(' ').next().unwrap()),
        }
    }
    assert!(open.is_empty());
    let id = text.split("urn:uuid:").nth(1).unwrap().get(..36).unwrap();
    assert!(uuid::Uuid::parse_str(id).is_ok());
}

#[test]
fn stun_is_a_binding_request() {
    let bytes = made(stun);
    assert_eq!((bytes.len(), &bytes[..8]), (20, &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..]));
}

#[test]
fn coap_options_read_back() {
    assert_eq!(made(coap_ping), [0x40, 0, 7, 8]);
    let bytes = made(coap_core);
    assert_eq!((bytes[0] >> 4, bytes[1]), (4, 1), "a confirmable GET");
    let (mut at, mut number, mut found) = (4 + usize::from(bytes[0] & 15), 0, Vec::new());
    while at < bytes.len() {
        number += u16::from(bytes[at] >> 4);
        let len = usize::from(bytes[at] & 15);
        found.push((number, &bytes[at + 1..at + 1 + len]));
        at += 1 + len;
    }
    assert_eq!(found, [(11, &b".well-known"[..]), (11, b"core"), (23, &[2])]);
}

#[test]
fn dht_ping_is_bencoded() {
    /// What follows one value.
    fn value(bytes: &[u8]) -> &[u8] {
        if let Some(mut rest) = bytes.strip_prefix(b"d") {
            while rest[0] != b'e' {
                rest = value(value(rest));
            }
            return &rest[1..];
        }
        let colon = bytes.iter().position(|byte| *byte == b':').unwrap();
        let len: usize = std::str::from_utf8(&bytes[..colon]).unwrap().parse().unwrap();
        &bytes[colon + 1 + len..]
    }
    assert!(value(&made(dht_ping)).is_empty());
}

#[test]
fn games_get_what_they_know() {
    assert_eq!(made(source_info), b"\xff\xff\xff\xffTSource Engine Query\0");
    assert_eq!(made(quake_info), b"\xff\xff\xff\xffgetinfo 05060708");
    assert_eq!(made(mumble), [&[0; 4][..], &TOKEN.bytes()].concat());
}

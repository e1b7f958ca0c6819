//! Reads the requests back.

use super::super::ber::tests::{only, take};
use super::super::tests::made;
use super::*;
use std::str::from_utf8;

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The chain of IKE payloads: kinds with contents.
fn chain(mut next: u8, mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while next != 0 {
        let len = number(&bytes[2..4]);
        found.push((next, bytes[4..len].to_vec()));
        (next, bytes) = (bytes[0], &bytes[len..]);
    }
    assert!(bytes.is_empty(), "nothing follows");
    found
}

fn header(bytes: &[u8]) -> (u8, u8, u8, u8) {
    assert_ne!(bytes[..8], [0; 8], "an SPI is never zero");
    assert_eq!(bytes[8..16], [0; 8]);
    assert_eq!(number(&bytes[24..28]), bytes.len());
    (bytes[16], bytes[17], bytes[18], bytes[19])
}

/// The transforms of a proposal, which is what a substructure chain holds; each last one is marked so.
fn transforms(proposal: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(number(&proposal[2..4]), proposal.len());
    assert_eq!(proposal[0], 0, "the only proposal");
    let count = proposal[7];
    let (mut bytes, mut found, mut more) = (&proposal[8..], Vec::new(), 3);
    while more == 3 {
        more = bytes[0];
        let len = number(&bytes[2..4]);
        found.push(bytes[4..len].to_vec());
        bytes = &bytes[len..];
    }
    assert_eq!((more, bytes.len(), found.len()), (0, 0, usize::from(count)));
    found
}

#[test]
fn ike_version_2_reads_back() {
    let bytes = made(ike2);
    assert_eq!(header(&bytes), (33, 0x20, 34, 8));
    let payloads = chain(33, &bytes[28..]);
    assert_eq!(payloads.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [33, 34, 40]);
    assert_eq!(transforms(&payloads[0].1).len(), 5);
    let key = &payloads[1].1;
    assert_eq!((number(&key[..2]), key.len()), (14, 4 + 256), "a value of group 14");
    assert_eq!(payloads[2].1.len(), 32);
}

#[test]
fn ike_version_1_reads_back() {
    let bytes = made(ike1);
    assert_eq!(header(&bytes), (1, 0x10, 2, 0));
    let payloads = chain(1, &bytes[28..]);
    let association = &payloads[0].1;
    assert_eq!(association[..8], [0, 0, 0, 1, 0, 0, 0, 1]);
    for transform in transforms(&association[8..]) {
        let attributes = &transform[4..];
        assert_eq!(attributes.len() % 4, 0);
        assert!(attributes.chunks(4).all(|attribute| attribute[0] == 0x80), "each of two bytes");
    }
}

#[test]
fn port_4500_has_its_marker() {
    for (natted, plain) in [
        (ike2_natted as fn(Token, &mut Vec<u8>), ike2 as fn(Token, &mut Vec<u8>)),
        (ike1_natted, ike1),
        (ike3_natted, ike3),
    ] {
        let bytes = made(natted);
        assert_eq!((&bytes[..4], &bytes[4..]), (&[0; 4][..], &made(plain)[..]));
    }
    assert_eq!(header(&made(ike3)), (0, 0x30, 34, 8));
}

#[test]
fn dtls_lengths_add_up() {
    let bytes = made(dtls);
    assert_eq!(bytes[0], 22);
    assert_eq!(number(&bytes[11..13]), bytes.len() - 13);
    let message = &bytes[13..];
    assert_eq!(message[0], 1);
    assert_eq!(number(&message[1..4]), message.len() - 12);
    assert_eq!(message[1..4], message[9..12], "one fragment");
    let hello = &message[12..];
    assert_eq!((&hello[..2], hello[34], hello[35]), (&[0xfe, 0xfd][..], 0, 0));
    let suites = number(&hello[36..38]);
    let rest = &hello[38 + suites..];
    assert_eq!(rest[..2], [1, 0]);
    let mut extensions = &rest[4..];
    assert_eq!(number(&rest[2..4]), extensions.len());
    while !extensions.is_empty() {
        extensions = &extensions[4 + number(&extensions[2..4])..];
    }
}

#[test]
fn quic_forces_version_negotiation() {
    let bytes = made(quic);
    assert_eq!(bytes.len(), 1200);
    assert_eq!(bytes[0] & 0xc0, 0xc0);
    assert!(bytes[1..5].iter().all(|byte| byte & 0x0f == 0x0a));
    let destination = usize::from(bytes[5]);
    let source = usize::from(bytes[6 + destination]);
    assert!((8..=20).contains(&destination) && source <= 20);
}

#[test]
fn radius_openvpn_and_l2tp_lengths_add_up() {
    for request in [radius_access as fn(Token, &mut Vec<u8>), radius_status] {
        let bytes = made(request);
        assert_eq!(number(&bytes[2..4]), bytes.len());
    }
    assert_eq!(made(openvpn).len(), 14);
    let bytes = made(l2tp);
    assert_eq!(number(&bytes[2..4]), bytes.len());
    let mut pairs = &bytes[12..];
    let mut kinds = Vec::new();
    while !pairs.is_empty() {
        kinds.push(pairs[5]);
        pairs = &pairs[number(&[pairs[0] & 3, pairs[1]])..];
    }
    assert_eq!(kinds, [0, 2, 3, 7, 9]);
}

#[test]
fn kerberos_reads_back() {
    let bytes = made(kerberos);
    let request = only(only(&bytes, 0x6a), 0x30);
    let (tag, version, rest) = take(request);
    assert_eq!((tag, only(version, 2)), (0xa1, &[5][..]));
    let (tag, kind, rest) = take(rest);
    assert_eq!((tag, only(kind, 2)), (0xa2, &[10][..]));
    let mut body = only(only(rest, 0xa4), 0x30);
    let mut tags = Vec::new();
    while !body.is_empty() {
        let (tag, content, rest) = take(body);
        tags.push(tag & 0x1f);
        if tag == 0xa2 {
            assert_eq!(from_utf8(only(content, 0x1b)).unwrap(), "PORTOLAN.INVALID");
        }
        body = rest;
    }
    assert_eq!(tags, [0, 2, 3, 5, 7, 8], "in order, and without a client");
}

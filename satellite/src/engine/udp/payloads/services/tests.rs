//! Reads the requests back.

use super::super::ber::tests::{only, take};
use super::super::tests::{TOKEN, made};
use super::*;

#[test]
fn ntp_is_a_client_request() {
    for (request, first) in [(ntp4 as fn(Token, &mut Vec<u8>), 0x23), (ntp3, 0x1b)] {
        let bytes = made(request);
        assert_eq!((bytes.len(), bytes[0]), (48, first));
        assert_eq!(bytes[40..], TOKEN.bytes());
    }
}

#[test]
fn snmp_reads_back() {
    for (request, version) in [(snmp1 as fn(Token, &mut Vec<u8>), 0), (snmp2c, 1)] {
        let bytes = made(request);
        let (_, found, rest) = take(only(&bytes, 0x30));
        assert_eq!(found, [version]);
        let (_, community, pdu) = take(rest);
        assert_eq!(community, b"public");
        let (_, id, rest) = take(only(pdu, 0xa0));
        assert_eq!(id, [5, 6, 7, 8]);
        let (_, _, rest) = take(rest);
        let (_, _, bindings) = take(rest);
        let (tag, oid, rest) = take(only(only(bindings, 0x30), 0x30));
        assert_eq!((tag, oid, rest), (6, &[0x2b, 6, 1, 2, 1, 1, 1, 0][..], &[5, 0][..]));
    }
}

#[test]
fn snmp_version_3_reads_back() {
    let bytes = made(snmp3);
    let (_, version, rest) = take(only(&bytes, 0x30));
    assert_eq!(version, [3]);
    let (_, header, rest) = take(rest);
    let (_, id, header) = take(header);
    let (_, size, header) = take(header);
    assert_eq!((id, size), (&[5, 6, 7, 8][..], &[0, 0xff, 0xe3][..]));
    assert_eq!(header, [4, 1, 4, 2, 1, 3], "reportable, the user-based model");
    let (tag, security, scoped) = take(rest);
    assert_eq!((tag, only(security, 0x30)), (4, &[4, 0, 2, 1, 0, 2, 1, 0, 4, 0, 4, 0, 4, 0][..]));
    let (_, _, rest) = take(only(scoped, 0x30));
    let (_, _, pdu) = take(rest);
    only(pdu, 0xa0);
}

#[test]
fn cldap_reads_back() {
    let bytes = made(cldap);
    let (_, _, search) = take(only(&bytes, 0x30));
    let mut parts = only(search, 0x63);
    let mut tags = Vec::new();
    while !parts.is_empty() {
        let (tag, _, rest) = take(parts);
        tags.push(tag);
        parts = rest;
    }
    assert_eq!(tags, [4, 0x0a, 0x0a, 2, 2, 1, 0x87, 0x30]);
}

#[test]
fn calls_are_of_procedure_0() {
    for (request, program, version) in [
        (portmap2 as fn(Token, &mut Vec<u8>), 100_000, 2),
        (portmap4, 100_000, 4),
        (nfs3, 100_003, 3),
        (nfs4, 100_003, 4),
    ] {
        let bytes = made(request);
        let words: Vec<u32> =
            bytes.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [0x0506_0708, 0, 2, program, version, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn tftp_asks_for_an_improbable_file() {
    let bytes = made(tftp_read);
    let fields: Vec<_> = bytes[2..].split(|byte| *byte == 0).collect();
    assert_eq!(bytes[..2], [0, 1]);
    assert_eq!(fields, [&b"portolan-0102030405060708"[..], b"octet", b""]);
}

#[test]
fn checksums_of_ipmi_are_right() {
    let bytes = made(ipmi);
    assert_eq!(usize::from(bytes[13]), bytes.len() - 14, "as long as it says");
    let sum = |part: &[u8]| part.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!((sum(&bytes[14..17]), sum(&bytes[17..])), (0, 0));
    let ping = made(rmcp_ping);
    assert_eq!((ping.len(), ping[9], usize::from(ping[11])), (12, 8, ping.len() - 12));
}

#[test]
fn fixed_forms_are_as_long_as_they_say() {
    assert_eq!(made(memcached), b"\x07\x08\0\0\0\x01\0\0version\r\n");
    assert_eq!(made(rip).len(), 4 + 20);
    assert_eq!(made(xdmcp), [0, 1, 0, 2, 0, 1, 0]);
    assert_eq!(made(pcp).len(), 24);
    assert_eq!(usize::from(made(ica_browser)[0]), made(ica_browser).len());
    let gtp = made(gtp1);
    assert_eq!(usize::from(u16::from_be_bytes([gtp[2], gtp[3]])), gtp.len() - 8);
    assert_eq!(made(nat_pmp), [0, 0]);
    assert_eq!(made(ubiquiti), [1, 0, 0, 0]);
    assert_eq!(made(sql_browser), [3]);
}

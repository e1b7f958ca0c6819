//! Requests of what keys, encrypts or authenticates: IKE, DTLS, QUIC, RADIUS, Kerberos, tunnels. None of them carries a
//! name or a secret.

use super::ber::{INTEGER, SEQUENCE, element, group, integer};
use super::{Token, put_len16};

/// An IKE message: the header of RFC 7296 section 3.1, and RFC 2408 section 3.1.
fn ike(token: Token, next: u8, version: u8, exchange: u8, flags: u8, payloads: &[u8], out: &mut Vec<u8>) {
    // The initiator's SPI, never zero; the responder's is not known.
    out.extend(token.fill::<8>());
    out.extend([0; 8]);
    out.extend([next, version, exchange, flags, 0, 0, 0, 0, 0, 0]);
    put_len16(out, 28 + payloads.len());
    out.extend(payloads);
}

/// An IKE payload, or a substructure of one: the kind of the next, what it holds; RFC 7296 section 3.2.
fn ike_payload(next: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![next, 0];
    put_len16(&mut out, 4 + content.len());
    out.extend(content);
    out
}

/// IKE_SA_INIT, RFC 7296 section 1.2, with a proposal that nearly every server knows; one that does not says so.
pub(super) fn ike2(token: Token, out: &mut Vec<u8>) {
    // AES-CBC with 256 and 128 bits, HMAC-SHA2-256, HMAC-SHA2-256-128, MODP 2048: section 3.3.2 and RFC 4868.
    let transforms: [&[u8]; 5] = [
        &[1, 0, 0, 12, 0x80, 14, 1, 0],
        &[1, 0, 0, 12, 0x80, 14, 0, 128],
        &[2, 0, 0, 5],
        &[3, 0, 0, 12],
        &[4, 0, 0, 14],
    ];
    let last = transforms.len() - 1;
    let mut proposal = vec![1, 1, 0, transforms.len() as u8];
    for (place, transform) in transforms.iter().enumerate() {
        proposal.extend(ike_payload(if place == last { 0 } else { 3 }, transform));
    }
    // A public value of the group: any number below the prime will do.
    let mut key = vec![0, 14, 0, 0];
    key.extend(token.fill::<256>());
    if let Some(first) = key.get_mut(4) {
        *first &= 0x7f;
    }
    let nonce: [u8; 32] = token.fill();
    let payloads =
        [ike_payload(34, &ike_payload(0, &proposal)), ike_payload(40, &key), ike_payload(0, &nonce)];
    ike(token, 33, 0x20, 34, 8, &payloads.concat(), out);
}

/// Main mode, RFC 2409 section 5, the first message: AES and 3DES with SHA-1 and group 2, by shared key or RSA.
pub(super) fn ike1(token: Token, out: &mut Vec<u8>) {
    // Attributes of RFC 2409 appendix A: cipher (with its key length), authentication.
    let transforms: [(&[u8], u8); 4] = [(&[7, 128], 1), (&[7, 128], 3), (&[5], 1), (&[5], 3)];
    let last = transforms.len() - 1;
    let mut proposal = vec![1, 1, 0, transforms.len() as u8];
    for (place, (cipher, authentication)) in transforms.iter().enumerate() {
        let mut transform = vec![place as u8 + 1, 1, 0, 0];
        for (kind, value) in [1u8, 14].into_iter().zip(cipher.iter()) {
            transform.extend([0x80, kind, 0, *value]);
        }
        transform.extend([0x80, 2, 0, 2, 0x80, 3, 0, *authentication, 0x80, 4, 0, 2]);
        // For 28,800 s.
        transform.extend([0x80, 11, 0, 1, 0x80, 12, 0x70, 0x80]);
        proposal.extend(ike_payload(if place == last { 0 } else { 3 }, &transform));
    }
    // The IPsec domain of interpretation, identity only.
    let mut association = vec![0, 0, 0, 1, 0, 0, 0, 1];
    association.extend(ike_payload(0, &proposal));
    ike(token, 1, 0x10, 2, 0, &ike_payload(0, &association), out);
}

/// A header of IKE version 3, which is answered by INVALID_MAJOR_VERSION: RFC 7296 section 2.5.
pub(super) fn ike3(token: Token, out: &mut Vec<u8>) {
    ike(token, 0, 0x30, 34, 8, &[], out);
}

/// The non-ESP marker of port 4500, RFC 3948 section 2.2.
const NON_ESP: [u8; 4] = [0; 4];

/// [`ike2`] for port 4500.
pub(super) fn ike2_natted(token: Token, out: &mut Vec<u8>) {
    out.extend(NON_ESP);
    ike2(token, out);
}

/// [`ike1`] for port 4500.
pub(super) fn ike1_natted(token: Token, out: &mut Vec<u8>) {
    out.extend(NON_ESP);
    ike1(token, out);
}

/// [`ike3`] for port 4500.
pub(super) fn ike3_natted(token: Token, out: &mut Vec<u8>) {
    out.extend(NON_ESP);
    ike3(token, out);
}

/// ClientHello of DTLS 1.2 without a cookie, RFC 6347 section 4.2: the answer is HelloVerifyRequest, before the server
/// keeps any state.
pub(super) fn dtls(token: Token, out: &mut Vec<u8>) {
    let mut hello = vec![0xfe, 0xfd];
    hello.extend(token.fill::<32>());
    // No session, no cookie.
    hello.extend([0, 0]);
    // ECDHE with ECDSA and RSA, AES-GCM, ChaCha20 and AES-CBC; RSA; PSK with AES-CCM-8, AES-CBC (RFC 7925).
    let suites: [u16; 14] = [
        0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc009, 0xc013, 0x009c, 0x002f, 0x0035, 0xc0ae,
        0xc0a8, 0x008c,
    ];
    put_len16(&mut hello, suites.len() * 2);
    hello.extend(suites.iter().flat_map(|suite| suite.to_be_bytes()));
    // No compression.
    hello.extend([1, 0]);
    let extensions = [
        // Groups: x25519, secp256r1, secp384r1 (RFC 8422 section 5.1.1); points: uncompressed.
        &[0, 10, 0, 8, 0, 6, 0, 29, 0, 23, 0, 24, 0, 11, 0, 2, 1, 0][..],
        // Signatures: ECDSA, RSA-PSS and RSA, each with SHA-256; RSA with SHA-1.
        &[0, 13, 0, 10, 0, 8, 4, 3, 8, 4, 4, 1, 2, 1],
        // Extended master secret, RFC 7627.
        &[0, 23, 0, 0],
    ]
    .concat();
    put_len16(&mut hello, extensions.len());
    hello.extend(extensions);
    // The record: handshake, DTLS 1.0 for the sake of old servers, epoch and sequence number 0.
    out.extend([22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    put_len16(out, hello.len() + 12);
    // The message: ClientHello, its length, number 0, all of it in one fragment.
    out.extend([1, 0]);
    put_len16(out, hello.len());
    out.extend([0, 0, 0, 0, 0, 0]);
    put_len16(out, hello.len());
    out.extend(hello);
}

/// A packet of a version that is reserved to force version negotiation (RFC 9000 section 15), as large as a client's
/// first packet must be (section 14.1): the answer needs no state (section 6.1).
pub(super) fn quic(token: Token, out: &mut Vec<u8>) {
    // Long header, fixed bit: RFC 8999 section 5.1 and RFC 9000 section 17.2.
    out.extend([0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8]);
    out.extend(token.bytes());
    out.push(8);
    out.extend(token.fill::<8>());
    out.resize(1200, 0);
}

/// A RADIUS packet without attributes, RFC 2865 section 3.
fn radius(code: u8, token: Token, out: &mut Vec<u8>) {
    let [.., identifier] = token.bytes();
    out.extend([code, identifier, 0, 20]);
    out.extend(token.fill::<16>());
}

/// Access-Request that names nobody, RFC 2865 section 4.1: an Access-Reject, where the satellite is a known client.
pub(super) fn radius_access(token: Token, out: &mut Vec<u8>) {
    radius(1, token, out);
}

/// Status-Server, RFC 5997 section 3; servers that insist on a signature stay silent.
pub(super) fn radius_status(token: Token, out: &mut Vec<u8>) {
    radius(12, token, out);
}

/// P_CONTROL_HARD_RESET_CLIENT_V2 with key 0, no acknowledgements, packet 0 (OpenVPN wire protocol,
/// draft-openvpn-wire-protocol); servers with tls-auth or tls-crypt stay silent.
pub(super) fn openvpn(token: Token, out: &mut Vec<u8>) {
    out.push(7 << 3);
    out.extend(token.fill::<8>());
    out.extend([0; 5]);
}

/// AS-REQ without a client, for a realm that does not exist: RFC 4120 section 5.4.1; the answer is KRB-ERROR.
pub(super) fn kerberos(token: Token, out: &mut Vec<u8>) {
    const REALM: &[u8] = b"PORTOLAN.INVALID";
    let number = |number: u8| element(INTEGER, &[number]);
    let text = |text: &[u8]| element(0x1b, text);
    let tagged = |tag: u8, content: Vec<u8>| element(0xa0 | tag, &content);
    let service = [tagged(0, number(2)), tagged(1, group(SEQUENCE, &[text(b"krbtgt"), text(REALM)]))];
    // Without options; until ever; AES-256, AES-128 and RC4 (RFC 3961 and its like).
    let body = [
        tagged(0, element(0x03, &[0, 0, 0, 0, 0])),
        tagged(2, text(REALM)),
        tagged(3, group(SEQUENCE, &service)),
        tagged(5, element(0x18, b"19700101000000Z")),
        tagged(7, integer(token.word())),
        tagged(8, group(SEQUENCE, &[number(18), number(17), number(23)])),
    ];
    let request = [tagged(1, number(5)), tagged(2, number(10)), tagged(4, group(SEQUENCE, &body))];
    out.extend(element(0x6a, &group(SEQUENCE, &request)));
}

/// Start-Control-Connection-Request, RFC 2661 section 6.1: what is set up ends by itself, for nothing follows.
pub(super) fn l2tp(token: Token, out: &mut Vec<u8>) {
    let [number, _] = token.short();
    // Attribute and value, section 4.1: message type, protocol version, framing, host name, tunnel (never 0).
    let pairs: [(u8, &[u8]); 5] =
        [(0, &[0, 1]), (2, &[1, 0]), (3, &[0, 0, 0, 3]), (7, b"portolan"), (9, &[number, 1])];
    let mut body = Vec::new();
    for (kind, value) in pairs {
        // Mandatory, with its length; vendor IETF.
        body.extend([0x80, 6 + value.len() as u8, 0, 0, 0, kind]);
        body.extend(value);
    }
    // A control message with length and sequence, version 2; tunnel, session, Ns and Nr 0: section 3.1.
    out.extend([0xc8, 2]);
    put_len16(out, 12 + body.len());
    out.extend([0; 8]);
    out.extend(body);
}

#[cfg(test)]
mod tests;

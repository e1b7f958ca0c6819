//! Requests of the name services: DNS, multicast DNS, NetBIOS.

use super::Token;

/// QTYPE, RFC 1035 section 3.2.2.
const NS: u16 = 2;
const PTR: u16 = 12;
const TXT: u16 = 16;
/// RFC 1002 section 4.2.1.3.
const NBSTAT: u16 = 0x21;
/// QCLASS, RFC 1035 section 3.2.4.
const IN: u16 = 1;
const CHAOS: u16 = 3;
/// "QU": the answer by unicast, please; RFC 6762 section 5.4.
const UNICAST: u16 = 0x8000;

/// A query of one question, RFC 1035 section 4.1, that asks for no recursion.
fn query(id: [u8; 2], labels: &[&[u8]], kind: u16, class: u16, out: &mut Vec<u8>) {
    out.extend(id);
    out.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in labels {
        // Labels are at most 63 bytes.
        out.push(label.len() as u8);
        out.extend(*label);
    }
    out.push(0);
    out.extend(kind.to_be_bytes());
    out.extend(class.to_be_bytes());
}

/// The server's version, which nearly every server answers, if only by a refusal (RFC 4892 section 1.2).
pub(super) fn version_bind(token: Token, out: &mut Vec<u8>) {
    query(token.short(), &[b"version", b"bind"], TXT, CHAOS, out);
}

/// The name servers of the root, RFC 1035 section 3.3.11, without recursion.
pub(super) fn root_servers(token: Token, out: &mut Vec<u8>) {
    query(token.short(), &[], NS, IN, out);
}

/// Which services are there, RFC 6763 section 9, by unicast.
pub(super) fn dns_sd(token: Token, out: &mut Vec<u8>) {
    query(token.short(), &[b"_services", b"_dns-sd", b"_udp", b"local"], PTR, IN | UNICAST, out);
}

/// The names of the node, RFC 1002 section 4.2.17: asked for "*", in the encoding of RFC 1001 section 14.1.
pub(super) fn node_status(token: Token, out: &mut Vec<u8>) {
    query(token.short(), &[b"CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"], NBSTAT, IN, out);
}

#[cfg(test)]
mod tests {
    use super::super::tests::made;
    use super::*;

    /// Reads a query back: identification, name, type, class.
    fn parse(bytes: &[u8]) -> ([u8; 2], String, u16, u16) {
        assert_eq!(bytes[2..12], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0], "one question, no flags");
        let (mut at, mut name) = (12, String::new());
        while bytes[at] != 0 {
            let len = usize::from(bytes[at]);
            assert!(len < 64);
            name.push_str(std::str::from_utf8(&bytes[at + 1..at + 1 + len]).unwrap());
            name.push('.');
            at += len + 1;
        }
        let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!(bytes.len(), at + 5, "nothing follows");
        ([bytes[0], bytes[1]], name, number(at + 1), number(at + 3))
    }

    #[test]
    fn queries_read_back() {
        let id = [7, 8];
        assert_eq!(parse(&made(version_bind)), (id, "version.bind.".to_owned(), 16, 3));
        assert_eq!(parse(&made(root_servers)), (id, String::new(), 2, 1));
        assert_eq!(parse(&made(dns_sd)), (id, "_services._dns-sd._udp.local.".to_owned(), 12, 0x8001));
        assert_eq!(parse(&made(node_status)), (id, format!("CK{}.", "A".repeat(30)), 0x21, 1));
    }
}

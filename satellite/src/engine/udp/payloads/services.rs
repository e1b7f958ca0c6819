//! Requests of network services: time, files, directories, management.

use super::Token;
use super::ber::{INTEGER, OCTETS, SEQUENCE, element, group, integer};

/// NTP client request of this version, RFC 5905 section 7.3: mode 3, the transmit timestamp as cookie.
fn ntp(version: u8, token: Token, out: &mut Vec<u8>) {
    out.push(version << 3 | 3);
    out.extend([0; 39]);
    out.extend(token.bytes());
}

/// NTP version 4.
pub(super) fn ntp4(token: Token, out: &mut Vec<u8>) {
    ntp(4, token, out);
}

/// NTP version 3, RFC 1305 appendix A.
pub(super) fn ntp3(token: Token, out: &mut Vec<u8>) {
    ntp(3, token, out);
}

/// A GetRequest for sysDescr.0 (RFC 3418) with community "public": RFC 1157 section 4.1.2 for version 0, RFC 3416
/// section 3 for version 1.
fn snmp_get(version: u8, token: Token, out: &mut Vec<u8>) {
    let sys_descr = element(0x06, &[0x2b, 6, 1, 2, 1, 1, 1, 0]);
    let binding = group(SEQUENCE, &[sys_descr, element(0x05, &[])]);
    let none = || element(INTEGER, &[0]);
    let request = [integer(token.word()), none(), none(), group(SEQUENCE, &[binding])];
    let message = [element(INTEGER, &[version]), element(OCTETS, b"public"), group(0xa0, &request)];
    out.extend(group(SEQUENCE, &message));
}

/// SNMPv1.
pub(super) fn snmp1(token: Token, out: &mut Vec<u8>) {
    snmp_get(0, token, out);
}

/// SNMPv2c.
pub(super) fn snmp2c(token: Token, out: &mut Vec<u8>) {
    snmp_get(1, token, out);
}

/// SNMPv3 engine discovery, RFC 3414 section 4: an empty request that nobody is named in; no community is needed.
pub(super) fn snmp3(token: Token, out: &mut Vec<u8>) {
    let none = || element(INTEGER, &[0]);
    let empty = || element(OCTETS, &[]);
    // Message id, the largest message, reportable, the user-based security model: RFC 3412 section 6.
    let header = [
        integer(token.word()),
        integer(65_507u32.to_be_bytes()),
        element(OCTETS, &[4]),
        element(INTEGER, &[3]),
    ];
    let security = group(SEQUENCE, &[empty(), none(), none(), empty(), empty(), empty()]);
    let request = [integer(token.word()), none(), none(), element(SEQUENCE, &[])];
    let scoped = group(SEQUENCE, &[empty(), empty(), group(0xa0, &request)]);
    let message = [element(INTEGER, &[3]), group(SEQUENCE, &header), element(OCTETS, &security), scoped];
    out.extend(group(SEQUENCE, &message));
}

/// A read request for a file that is not there, RFC 1350 section 5: the answer is an error.
pub(super) fn tftp_read(token: Token, out: &mut Vec<u8>) {
    let name = format!("\0\u{1}portolan-{:016x}\0octet\0", token.0);
    out.extend(name.as_bytes());
}

/// A call of procedure 0, which does nothing, without credentials: RFC 5531 sections 9 and 12.
fn rpc_null(program: u32, version: u32, token: Token, out: &mut Vec<u8>) {
    out.extend(token.word());
    // A call, of RPC version 2.
    for word in [0, 2, program, version, 0, 0, 0, 0, 0] {
        out.extend(u32::to_be_bytes(word));
    }
}

/// The port mapper, RFC 1833 section 3.
pub(super) fn portmap2(token: Token, out: &mut Vec<u8>) {
    rpc_null(100_000, 2, token, out);
}

/// rpcbind version 4, RFC 1833 section 2.
pub(super) fn portmap4(token: Token, out: &mut Vec<u8>) {
    rpc_null(100_000, 4, token, out);
}

/// NFS version 3, RFC 1813 section 3.3.0.
pub(super) fn nfs3(token: Token, out: &mut Vec<u8>) {
    rpc_null(100_003, 3, token, out);
}

/// NFS version 4, RFC 7530 section 15.1; one that lacks it says so.
pub(super) fn nfs4(token: Token, out: &mut Vec<u8>) {
    rpc_null(100_003, 4, token, out);
}

/// "version" behind the frame header for UDP: request id, packet 0 of 1, reserved (memcached, doc/protocol.txt).
pub(super) fn memcached(token: Token, out: &mut Vec<u8>) {
    out.extend(token.short());
    out.extend(b"\0\0\0\x01\0\0version\r\n");
}

/// A search of the root entry for one small attribute, RFC 4511 section 4.5.1, without a bind, as RFC 1798 has it.
pub(super) fn cldap(token: Token, out: &mut Vec<u8>) {
    let search = [
        element(OCTETS, &[]),
        // Base object, never dereference, one entry, 3 s, values too.
        element(0x0a, &[0]),
        element(0x0a, &[0]),
        element(INTEGER, &[1]),
        element(INTEGER, &[3]),
        element(0x01, &[0]),
        element(0x87, b"objectClass"),
        group(SEQUENCE, &[element(OCTETS, b"supportedLDAPVersion")]),
    ];
    out.extend(group(SEQUENCE, &[integer(token.word()), group(0x63, &search)]));
}

/// Which instances there are, \[MS-SQLR\] section 2.2.2.
pub(super) fn sql_browser(_: Token, out: &mut Vec<u8>) {
    out.push(3);
}

/// Asks the master browser; undocumented, as ICA clients send it.
pub(super) fn ica_browser(_: Token, out: &mut Vec<u8>) {
    out.extend([0x1e, 0, 1, 0x30, 2, 0xfd, 0xa8, 0xe3]);
    out.extend([0; 22]);
}

/// A request for one route (the default route), RFC 2453 section 3.9.1: the answer is no longer than the question.
pub(super) fn rip(_: Token, out: &mut Vec<u8>) {
    // Request, version 2; address family 2 (IP), 0.0.0.0/0, metric 16.
    out.extend([1, 2, 0, 0, 0, 2, 0, 0]);
    out.extend([0; 12]);
    out.extend([0, 0, 0, 16]);
}

/// RMCP presence ping, IPMI 2.0 section 13.2.3 and ASF 2.0 section 3.2.4.1.
pub(super) fn rmcp_ping(token: Token, out: &mut Vec<u8>) {
    let [.., tag] = token.bytes();
    // Tag 255 would ask for no answer.
    out.extend([6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, tag & 0x7f, 0, 0]);
}

/// Get Channel Authentication Capabilities, outside of any session: IPMI 2.0 section 22.13, message of section 13.8.
pub(super) fn ipmi(token: Token, out: &mut Vec<u8>) {
    let [.., number] = token.bytes();
    // RMCP for IPMI; no authentication, session 0.
    out.extend([6, 0, 0xff, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    let to = [0x20, 6 << 2];
    // This channel, what an administrator might use.
    let body = [0x81, number & 0xfc, 0x38, 0x0e, 0x04];
    for part in [&to[..], &body] {
        out.extend(part);
        // Two's complement of the sum, section 13.8.
        out.push(part.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg());
    }
}

/// Query, X Display Manager Control Protocol 1.1 section 4: no authentication names.
pub(super) fn xdmcp(_: Token, out: &mut Vec<u8>) {
    out.extend([0, 1, 0, 2, 0, 1, 0]);
}

/// The external address, RFC 6886 section 3.2.
pub(super) fn nat_pmp(_: Token, out: &mut Vec<u8>) {
    out.extend([0, 0]);
}

/// PCP ANNOUNCE, RFC 6887 sections 7.1 and 14.1.1; the client's address is left open, and a server that minds says so.
pub(super) fn pcp(_: Token, out: &mut Vec<u8>) {
    out.push(2);
    out.extend([0; 23]);
}

/// Echo request of GTPv1, 3GPP TS 29.060 section 7.2.1 and TS 29.281 section 7.2.1, with a sequence number.
pub(super) fn gtp1(token: Token, out: &mut Vec<u8>) {
    out.extend([0x32, 1, 0, 4, 0, 0, 0, 0]);
    out.extend(token.short());
    out.extend([0, 0]);
}

/// Device discovery of Ubiquiti; undocumented, as their own tool sends it.
pub(super) fn ubiquiti(_: Token, out: &mut Vec<u8>) {
    out.extend([1, 0, 0, 0]);
}

#[cfg(test)]
mod tests;

//! What to send to a UDP port so that a server which listens there answers. Pure.
//!
//! Every request only reads: nothing writes, logs in, or asks for an answer many times its size where a smaller
//! question does. Ports that nothing is known of get an empty datagram, as nmap sends it: it makes the kernel of a
//! closed port answer just as well, wakes the services that answer anything (echo, daytime, chargen), and cannot be
//! taken for a request by a device that nobody knows. So do protocols that are silent by design: syslog, where every
//! text would be written to a log, and WireGuard, which never answers who has no key; these ports stay `open|filtered`.
//! WDB, the debugging agent of VxWorks (17185), gets one too: it is no thing to talk to in a device that controls
//! something.

mod ber;
mod industry;
mod media;
mod names;
mod security;
mod services;

use portolan_common::scope::Payloads;

/// Ports whose servers answer from another port: TFTP (RFC 1350 section 4), and SSDP as many devices have it.
pub(super) const ROAMING: [u16; 2] = [69, 1900];

/// Writes a request, with what has to vary taken from the token.
type Request = fn(Token, &mut Vec<u8>);

/// Makes the datagram for a port: the requests known for it in turn by attempt (from 1), the one that most servers
/// answer first; empty where there is none, or where the scope allows no payload. `token` fills transaction numbers
/// and cookies; equal arguments make equal datagrams.
pub(in crate::engine) fn payload(port: u16, attempt: u8, token: u64, allowed: Payloads, out: &mut Vec<u8>) {
    out.clear();
    if allowed == Payloads::None {
        return;
    }
    let requests = requests(port);
    let turn = usize::from(attempt.max(1) - 1).checked_rem(requests.len());
    if let Some(request) = turn.and_then(|turn| requests.get(turn)) {
        request(Token(token), out);
    }
}

/// The requests for a port, the one that most servers answer first.
fn requests(port: u16) -> &'static [Request] {
    match port {
        53 => &[names::version_bind, names::root_servers],
        69 => &[services::tftp_read],
        88 => &[security::kerberos],
        111 => &[services::portmap2, services::portmap4],
        123 => &[services::ntp4, services::ntp3],
        137 => &[names::node_status],
        161 => &[services::snmp1, services::snmp3, services::snmp2c],
        177 => &[services::xdmcp],
        389 => &[services::cldap],
        443 | 8443 => &[security::quic, security::dtls],
        500 => &[security::ike2, security::ike1, security::ike3],
        520 => &[services::rip],
        623 | 664 => &[services::rmcp_ping, services::ipmi],
        853 => &[security::dtls, security::quic],
        1194 => &[security::openvpn],
        1434 => &[services::sql_browser],
        1604 => &[services::ica_browser],
        1645 | 1812 => &[security::radius_access, security::radius_status],
        1646 | 1813 => &[security::radius_status],
        1701 => &[security::l2tp],
        1900 => &[media::ssdp, media::ssdp_mx],
        2049 => &[services::nfs3, services::nfs4],
        2123 | 2152 | 3386 => &[services::gtp1],
        3391 | 4433 | 5684 | 10161 => &[security::dtls],
        3478 | 3479 | 19302 => &[media::stun],
        3702 => &[media::ws_discovery],
        4500 => &[security::ike2_natted, security::ike1_natted, security::ike3_natted],
        5060 => &[media::sip_options],
        5349 => &[security::dtls, media::stun],
        5351 => &[services::nat_pmp, services::pcp],
        5353 => &[names::dns_sd],
        5683 => &[media::coap_ping, media::coap_core],
        6881 => &[media::dht_ping],
        10001 => &[services::ubiquiti],
        11211 => &[services::memcached],
        27015 => &[media::source_info],
        27960 => &[media::quake_info],
        44818 => &[industry::list_identity],
        47808 => &[industry::bacnet],
        64738 => &[media::mumble],
        _ => &[],
    }
}

/// 64 bits that vary from probe to probe.
#[derive(Clone, Copy, Debug)]
struct Token(u64);

impl Token {
    /// 16 of them.
    fn short(self) -> [u8; 2] {
        let [.., a, b] = self.bytes();
        [a, b]
    }

    /// 32 of them.
    fn word(self) -> [u8; 4] {
        let [.., a, b, c, d] = self.bytes();
        [a, b, c, d]
    }

    /// All of them.
    fn bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// As many bytes as are asked, made of them (SplitMix64); never all zero.
    fn fill<const N: usize>(self) -> [u8; N] {
        let mut state = self.0;
        let mut filled = [0u8; N];
        for chunk in filled.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bytes = (z ^ (z >> 31)).to_be_bytes();
            for (to, from) in chunk.iter_mut().zip(bytes) {
                *to = from;
            }
        }
        if let Some(last) = filled.last_mut() {
            *last |= 1;
        }
        filled
    }
}

/// Appends a 16-bit length, big-endian, of what follows: all of it is far below 65,536 bytes.
fn put_len16(out: &mut Vec<u8>, len: usize) {
    out.extend(u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
}

#[cfg(test)]
mod tests;

//! Makes the probes: whole packets, from the IP header on. Pure.

use crate::key::{Flow, Key};
use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header,
    TcpHeader, TcpOptions,
};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The TTL or hop limit of every probe: what hosts send, so that no device takes it for something special.
const TTL: u8 = 64;
/// A receive window that nobody fills: no data is wanted. nmap's.
const WINDOW: u16 = 1024;
/// Maximum segment size of 1460 as a TCP option (RFC 9293, section 3.2): a SYN without one looks made up.
const MSS_OPTION: [u8; 4] = [2, 4, 0x05, 0xb4];
/// The longest probe: an IPv6 header and a TCP header with one option.
const MAX_LEN: usize = Ipv6Header::LEN + TcpHeader::MIN_LEN + MSS_OPTION.len();

/// A packet that begins at its IP header.
#[derive(Clone)]
pub struct Packet {
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl Packet {
    /// The packet as it goes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn join(header: &[u8], payload: &[u8]) -> Self {
        let mut bytes = [0; MAX_LEN];
        let len = header.len() + payload.len();
        bytes[..header.len()].copy_from_slice(header);
        bytes[header.len()..len].copy_from_slice(payload);
        Self { bytes, len: len as u8 }
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packet({:02x?})", self.as_bytes())
    }
}

/// A TCP SYN whose sequence number is the flow's token.
///
/// Addresses of two families cannot meet: the packet is then an IPv6 one with an IPv4-mapped address, which leads
/// nowhere. The same goes for the other probes.
#[must_use]
pub fn syn(flow: &Flow, key: &Key) -> Packet {
    let digest = key.digest(flow);
    let mut header = TcpHeader::new(flow.source_port, flow.destination_port, digest as u32, WINDOW);
    header.syn = true;
    header.options = TcpOptions::from(MSS_OPTION);
    tcp(flow, digest, header)
}

/// A bare TCP ACK whose acknowledgment number is the flow's token: a host that is up answers with a RST of that
/// sequence number (RFC 9293, section 3.10.7.1). Its own sequence number is the token's complement, which tells it from
/// a SYN where an ICMP error quotes no more than eight bytes.
#[must_use]
pub fn ack(flow: &Flow, key: &Key) -> Packet {
    let digest = key.digest(flow);
    let token = digest as u32;
    let mut header = TcpHeader::new(flow.source_port, flow.destination_port, !token, WINDOW);
    header.ack = true;
    header.acknowledgment_number = token;
    tcp(flow, digest, header)
}

/// An ICMP or ICMPv6 echo request without data, whose identifier and sequence number are [`Key::echo`]'s.
#[must_use]
pub fn echo_request(source: IpAddr, destination: IpAddr, key: &Key) -> Packet {
    let (id, seq) = key.echo(source, destination);
    let echo = IcmpEchoHeader { id, seq };
    match Ends::of(source, destination) {
        Ends::V4(source, destination) => {
            let icmp = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &[]).to_bytes();
            // Echo requests of one target share their id and sequence: any number does for the IP identification.
            let ip = ipv4(source, destination, IpNumber::ICMP, icmp.len(), id ^ seq);
            Packet::join(&ip, &icmp)
        }
        Ends::V6(source, destination) => {
            let kind = Icmpv6Type::EchoRequest(echo);
            let mut icmp = Icmpv6Header::new(kind);
            // Fails for payloads beyond 4 GiB alone.
            icmp.checksum =
                icmp.icmp_type.calc_checksum(source.octets(), destination.octets(), &[]).unwrap_or_default();
            let icmp = icmp.to_bytes();
            Packet::join(&ipv6(source, destination, IpNumber::IPV6_ICMP, icmp.len()), &icmp)
        }
    }
}

fn tcp(flow: &Flow, digest: u64, mut header: TcpHeader) -> Packet {
    // The checksum fails for payloads beyond 64 KiB alone: there is none here.
    match Ends::of(flow.source, flow.destination) {
        Ends::V4(source, destination) => {
            header.checksum =
                header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), &[]).unwrap_or_default();
            let bytes = header.to_bytes();
            // Looks random, as it must for nobody to count our packets, and costs nothing.
            let identification = (digest >> 32) as u16;
            let ip = ipv4(source, destination, IpNumber::TCP, bytes.len(), identification);
            Packet::join(&ip, &bytes)
        }
        Ends::V6(source, destination) => {
            header.checksum =
                header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), &[]).unwrap_or_default();
            let bytes = header.to_bytes();
            Packet::join(&ipv6(source, destination, IpNumber::TCP, bytes.len()), &bytes)
        }
    }
}

/// Two addresses of one family.
enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Ends {
    fn of(source: IpAddr, destination: IpAddr) -> Self {
        let v6 = |address| match address {
            IpAddr::V4(v4) => Ipv4Addr::to_ipv6_mapped(&v4),
            IpAddr::V6(v6) => v6,
        };
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Self::V4(source, destination),
            _ => Self::V6(v6(source), v6(destination)),
        }
    }
}

fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: IpNumber,
    payload: usize,
    identification: u16,
) -> impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> {
    let mut header = Ipv4Header {
        total_len: (Ipv4Header::MIN_LEN + payload) as u16,
        identification,
        dont_fragment: true,
        time_to_live: TTL,
        protocol,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv4Header::default()
    };
    header.header_checksum = header.calc_header_checksum();
    header.to_bytes()
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next_header: IpNumber, payload: usize) -> [u8; 40] {
    let header = Ipv6Header {
        payload_length: payload as u16,
        next_header,
        hop_limit: TTL,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv6Header::default()
    };
    header.to_bytes()
}

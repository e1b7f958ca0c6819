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

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    /// The packet's own checksums and lengths, as a receiver verifies them.
    fn verify(packet: &Packet) {
        let bytes = packet.as_bytes();
        let sliced = SlicedPacket::from_ip(bytes).unwrap();
        match (sliced.net.unwrap(), sliced.transport.unwrap()) {
            (NetSlice::Ipv4(ip), transport) => {
                let header = ip.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum);
                assert_eq!((header.time_to_live, header.dont_fragment), (64, true));
                assert_eq!(usize::from(header.total_len), bytes.len());
                match transport {
                    TransportSlice::Tcp(tcp) => {
                        let right =
                            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap();
                        assert_eq!(tcp.checksum(), right);
                    }
                    TransportSlice::Icmpv4(icmp) => {
                        assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());
                    }
                    other => panic!("{other:?}"),
                }
            }
            (NetSlice::Ipv6(ip), transport) => {
                let (source, destination) = (ip.header().source(), ip.header().destination());
                assert_eq!(ip.header().hop_limit(), 64);
                assert_eq!(usize::from(ip.header().payload_length()), bytes.len() - 40);
                match transport {
                    TransportSlice::Tcp(tcp) => {
                        assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv6(source, destination).unwrap());
                    }
                    TransportSlice::Icmpv6(icmp) => assert!(icmp.is_checksum_valid(source, destination)),
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn lengths_and_checksums_are_right(
            v4: ([u8; 4], [u8; 4]),
            v6: ([u8; 16], [u8; 16]),
            source_port: u16,
            destination_port: u16,
            key: [u8; 16],
        ) {
            let key = Key::from_bytes(key);
            let ends: [(IpAddr, IpAddr); 4] = [
                (v4.0.into(), v4.1.into()),
                (v6.0.into(), v6.1.into()),
                (v4.0.into(), v6.1.into()),
                (v6.0.into(), v4.1.into()),
            ];
            for (source, destination) in ends {
                let flow = Flow { source, source_port, destination, destination_port };
                verify(&syn(&flow, &key));
                verify(&ack(&flow, &key));
                verify(&echo_request(source, destination, &key));
            }
        }
    }

    #[test]
    fn a_syn_looks_like_one() {
        let [source, destination] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let flow = Flow { source, source_port: 40000, destination, destination_port: 22 };
        let packet = syn(&flow, &Key::from_bytes([3; 16]));
        let sliced = SlicedPacket::from_ip(packet.as_bytes()).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{packet:?}") };
        assert!(tcp.syn() && !tcp.ack() && !tcp.rst());
        assert_eq!((tcp.window_size(), tcp.options()), (1024, &MSS_OPTION[..]));
        assert_eq!(packet.as_bytes().len(), 44);
    }
}

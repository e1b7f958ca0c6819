//! ARP requests and replies (RFC 826), neighbour solicitations and advertisements (RFC 4861). Pure.

use etherparse::icmpv6::{NdpOptionSlice, NeighborAdvertisementPayloadSlice};
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacketSlice, Icmpv6Header, Icmpv6Slice, Icmpv6Type, IpNumber,
    Ipv6Header, Ipv6HeaderSlice,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every neighbour discovery packet has it, so no router can have forwarded it (RFC 4861, section 7.1).
const HOP_LIMIT: u8 = 255;
/// Source link-layer address option of one unit, eight bytes (RFC 4861, section 4.6.1).
const SOURCE_OPTION: [u8; 2] = [1, 1];

/// The link-layer address of everybody.
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

/// The ARP request for `target`.
pub(crate) fn arp_request(mac: [u8; 6], source: Ipv4Addr, target: Ipv4Addr) -> [u8; ArpEthIpv4Packet::LEN] {
    ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: mac,
        sender_ipv4: source.octets(),
        target_mac: [0; 6],
        target_ipv4: target.octets(),
    }
    .to_bytes()
}

/// Who an ARP reply says has which link-layer address.
pub(crate) fn arp_reply(bytes: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    let arp = ArpPacketSlice::from_slice(bytes).ok()?.to_packet().try_eth_ipv4().ok()?;
    let sender = arp.sender_ipv4_addr();
    let sane = arp.operation == ArpOperation::REPLY
        && is_host(arp.sender_mac)
        && !(sender.is_unspecified() || sender.is_multicast() || sender.is_broadcast());
    sane.then_some((sender.into(), arp.sender_mac))
}

/// The neighbour solicitation for `target`, and the link-layer multicast address that it goes to (RFC 2464, section 7).
pub(crate) fn solicitation(mac: [u8; 6], source: Ipv6Addr, target: Ipv6Addr) -> (Vec<u8>, [u8; 6]) {
    let [.., x, y, z] = target.octets();
    // The solicited-node multicast address (RFC 4291, section 2.7.1).
    let destination = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]));
    let body = [target.octets().as_slice(), &SOURCE_OPTION, &mac].concat();
    let mut icmp = Icmpv6Header::new(Icmpv6Type::NeighborSolicitation);
    // Fails for payloads beyond 4 GiB alone.
    icmp.checksum =
        icmp.icmp_type.calc_checksum(source.octets(), destination.octets(), &body).unwrap_or_default();
    let header = Ipv6Header {
        payload_length: (icmp.header_len() + body.len()) as u16,
        next_header: IpNumber::IPV6_ICMP,
        hop_limit: HOP_LIMIT,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv6Header::default()
    };
    let packet = [header.to_bytes().as_slice(), &icmp.to_bytes(), &body].concat();
    (packet, [0x33, 0x33, 0xff, x, y, z])
}

/// Who a neighbour advertisement says has which link-layer address, all that RFC 4861, section 7.1.2 demands checked.
pub(crate) fn advertisement(bytes: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    let ip = Ipv6HeaderSlice::from_slice(bytes).ok()?;
    let end = Ipv6Header::LEN + usize::from(ip.payload_length());
    let icmp = Icmpv6Slice::from_slice(bytes.get(Ipv6Header::LEN..end)?).ok()?;
    if ip.hop_limit() != HOP_LIMIT
        || ip.next_header() != IpNumber::IPV6_ICMP
        || !icmp.is_checksum_valid(ip.source(), ip.destination())
        || !matches!(icmp.icmp_type(), Icmpv6Type::NeighborAdvertisement(_))
    {
        return None;
    }
    let body = NeighborAdvertisementPayloadSlice::from_slice(icmp.payload()).ok()?;
    let target = body.target_address();
    let mac = body.options_iterator().map_while(Result::ok).find_map(|option| match option {
        NdpOptionSlice::TargetLinkLayerAddress(option) => option.link_layer_address().try_into().ok(),
        _ => None,
    })?;
    let sane = is_host(mac) && !(target.is_multicast() || target.is_unspecified());
    sane.then_some((target.into(), mac))
}

/// A single station's address: neither a group's nor none.
fn is_host(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

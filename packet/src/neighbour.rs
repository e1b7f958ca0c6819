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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    /// The advertisement that answers a solicitation, with a checksum of its own.
    fn advertise(target: Ipv6Addr, mac: [u8; 6], hop_limit: u8) -> Vec<u8> {
        advertise_with(target, &[&[2, 1], mac.as_slice()].concat(), hop_limit)
    }

    /// The same with any options.
    fn advertise_with(target: Ipv6Addr, options: &[u8], hop_limit: u8) -> Vec<u8> {
        let to: Ipv6Addr = "fd77::1".parse().unwrap();
        let body = [target.octets().as_slice(), options].concat();
        let kind = Icmpv6Type::NeighborAdvertisement(etherparse::icmpv6::NeighborAdvertisementHeader {
            router: false,
            solicited: true,
            r#override: true,
        });
        let icmp = Icmpv6Header::with_checksum(kind, target.octets(), to.octets(), &body).unwrap();
        let header = Ipv6Header {
            payload_length: (8 + body.len()) as u16,
            next_header: IpNumber::IPV6_ICMP,
            hop_limit,
            source: target.octets(),
            destination: to.octets(),
            ..Ipv6Header::default()
        };
        [header.to_bytes().as_slice(), &icmp.to_bytes(), &body].concat()
    }

    /// The reply to an ARP request.
    fn reply(request: [u8; ArpEthIpv4Packet::LEN], mac: [u8; 6]) -> [u8; ArpEthIpv4Packet::LEN] {
        let asked = ArpPacketSlice::from_slice(&request).unwrap().to_packet().try_eth_ipv4().unwrap();
        assert_eq!(asked.operation, ArpOperation::REQUEST);
        ArpEthIpv4Packet {
            operation: ArpOperation::REPLY,
            sender_mac: mac,
            sender_ipv4: asked.target_ipv4,
            target_mac: asked.sender_mac,
            target_ipv4: asked.sender_ipv4,
        }
        .to_bytes()
    }

    #[test]
    fn an_arp_reply_says_who_has_it() {
        let (source, target) = (Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2));
        let request = arp_request([2, 0, 0, 0, 0, 1], source, target);
        assert_eq!(arp_reply(&reply(request, MAC)), Some((target.into(), MAC)));
        assert_eq!(arp_reply(&request), None);
        for nobody in [[0; 6], BROADCAST, [1, 0, 0x5e, 0, 0, 1]] {
            assert_eq!(arp_reply(&reply(request, nobody)), None);
        }
        let nowhere = arp_request(MAC, source, Ipv4Addr::UNSPECIFIED);
        assert_eq!(arp_reply(&reply(nowhere, MAC)), None);
    }

    #[test]
    fn a_solicitation_goes_to_the_group_of_its_target() {
        let (source, target) = ("fd77::1".parse().unwrap(), "fd77::12:3456".parse().unwrap());
        let (packet, group) = solicitation(MAC, source, target);
        assert_eq!(group, [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        let ip = Ipv6HeaderSlice::from_slice(&packet).unwrap();
        assert_eq!(ip.destination_addr(), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        assert_eq!((ip.hop_limit(), usize::from(ip.payload_length())), (255, packet.len() - 40));
        let icmp = Icmpv6Slice::from_slice(&packet[40..]).unwrap();
        assert!(icmp.is_checksum_valid(ip.source(), ip.destination()));
        assert_eq!(icmp.payload(), [target.octets().as_slice(), &SOURCE_OPTION, &MAC].concat());
    }

    #[test]
    fn an_advertisement_must_be_whole_and_from_this_link() {
        let target: Ipv6Addr = "fd77::2".parse().unwrap();
        let right = advertise(target, MAC, 255);
        assert_eq!(advertisement(&right), Some((target.into(), MAC)));
        assert_eq!(advertisement(&[right.as_slice(), &[0; 6]].concat()), Some((target.into(), MAC)));
        assert_eq!(advertisement(&advertise(target, MAC, 254)), None);
        assert_eq!(advertisement(&advertise("ff02::1".parse().unwrap(), MAC, 255)), None);
        assert_eq!(advertisement(&advertise(target, BROADCAST, 255)), None);
        assert_eq!(advertisement(&right[..71]), None);
        for at in 40..right.len() {
            let mut wrong = right.clone();
            wrong[at] ^= 0x10;
            assert_eq!(advertisement(&wrong), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = (arp_reply(&bytes), advertisement(&bytes));
        }

        #[test]
        fn any_options_are_read_without_panic(
            mut options in prop::collection::vec(any::<u8>(), 0..64),
            kind in 0_u8..8,
            units in 0_u8..4,
        ) {
            for option in options.chunks_mut(8) {
                option[0] = kind;
                if let Some(length) = option.get_mut(1) {
                    *length = units;
                }
            }
            let _ = advertisement(&advertise_with("fd77::2".parse().unwrap(), &options, 255));
        }

        #[test]
        fn changed_advertisements_are_read_without_panic(at in 0_usize..72, value: u8, length in 0_usize..=72) {
            let mut bytes = advertise("fd77::2".parse().unwrap(), MAC, 255);
            bytes[at] = value;
            let _ = advertisement(&bytes[..length]);
        }
    }
}

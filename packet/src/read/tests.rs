//! Probes are made, answered and read; and no stranger's answer is believed.

use super::*;
use crate::build::{ack, echo_request, syn};
use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpFragOffset, Ipv4Header, Ipv6Header, TcpHeader,
    TcpOptions, icmpv4::DestUnreachableHeader, icmpv6::DestUnreachableCode,
};
use proptest::prelude::*;
use proptest::sample::Index;

/// A target and a prober of one family, their ports, and a key. The source port is any one, the block its own.
fn flows() -> impl Strategy<Value = (Flow, Key)> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(one, other)| (one.into(), other.into()));
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(one, other)| (one.into(), other.into()));
    let ends = prop_oneof![v4, v6];
    (ends, any::<u16>(), any::<u16>(), any::<[u8; 16]>()).prop_map(
        |((source, destination), source_port, destination_port, key): ((IpAddr, IpAddr), _, _, _)| {
            (Flow { source, source_port, destination, destination_port }, Key::from_bytes(key))
        },
    )
}

/// A packet, its lengths right.
fn packet(source: IpAddr, destination: IpAddr, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    let header = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = payload.len() as u16;
            Ipv4Header::new(length, 57, protocol, source.octets(), destination.octets())
                .unwrap()
                .to_bytes()
                .to_vec()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => Ipv6Header {
            payload_length: payload.len() as u16,
            next_header: protocol,
            hop_limit: 57,
            source: source.octets(),
            destination: destination.octets(),
            ..Ipv6Header::default()
        }
        .to_bytes()
        .to_vec(),
        _ => unreachable!(),
    };
    [header, payload.to_vec()].concat()
}

/// The target's answer to a flow.
fn answer(flow: &Flow, change: impl FnOnce(&mut TcpHeader)) -> Vec<u8> {
    let mut header = TcpHeader::new(flow.destination_port, flow.source_port, 0x0102_0304, 4321);
    change(&mut header);
    packet(flow.destination, flow.source, IpNumber::TCP, &header.to_bytes())
}

fn syn_ack(flow: &Flow, acknowledgment_number: u32) -> Vec<u8> {
    answer(flow, |header| {
        (header.syn, header.ack) = (true, true);
        header.acknowledgment_number = acknowledgment_number;
    })
}

/// The sequence and the acknowledgment number of a probe.
fn numbers(probe: &[u8]) -> (u32, u32) {
    let header = TcpHeaderSlice::from_slice(Ip::received(probe).unwrap().payload).unwrap();
    (header.sequence_number(), header.acknowledgment_number())
}

/// A destination unreachable with code 3 (IPv4: port, IPv6: address) from `from`.
fn unreachable(from: IpAddr, to: IpAddr, quoted: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let kind = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Address);
            let header =
                Icmpv6Header::with_checksum(kind, source.octets(), destination.octets(), quoted).unwrap();
            packet(from, to, IpNumber::IPV6_ICMP, &[&header.to_bytes()[..], quoted].concat())
        }
        _ => {
            let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
            let header = Icmpv4Header::with_checksum(kind, quoted);
            packet(from, to, IpNumber::ICMP, &[&header.to_bytes()[..], quoted].concat())
        }
    }
}

/// The length of the IP header of one of our packets.
fn header_length(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { 20 } else { 40 }
}

fn router(of: IpAddr) -> IpAddr {
    if of.is_ipv4() { "192.0.2.254".parse().unwrap() } else { "2001:db8::fe".parse().unwrap() }
}

proptest! {
    #[test]
    fn a_syn_is_answered_by_syn_ack_or_reset((flow, key) in flows()) {
        let block = Block::of(flow.source_port);
        let source_port_index = (flow.source_port % Block::LEN) as u8;
        let port = flow.destination_port;
        let (sequence, _) = numbers(syn(&flow, &key).as_bytes());
        prop_assert_eq!(sequence, key.token(&flow));

        let accepted = read(&syn_ack(&flow, sequence.wrapping_add(1)), &key, block);
        let what = Seen::SynAck { port, source_port_index, window: 4321, options: false };
        prop_assert_eq!(accepted, Some(Reply { from: flow.destination, ttl: 57, what }));

        let optioned = answer(&flow, |header| {
            (header.syn, header.ack, header.ece) = (true, true, true);
            header.acknowledgment_number = sequence.wrapping_add(1);
            header.options = TcpOptions::from([2, 4, 5, 0xb4]);
        });
        let what = Seen::SynAck { port, source_port_index, window: 4321, options: true };
        prop_assert_eq!(read(&optioned, &key, block), Some(Reply { from: flow.destination, ttl: 57, what }));

        let refused = answer(&flow, |header| {
            (header.rst, header.ack) = (true, true);
            header.acknowledgment_number = sequence.wrapping_add(1);
        });
        let what = Seen::Reset { port, source_port_index, window: 4321 };
        prop_assert_eq!(read(&refused, &key, block), Some(Reply { from: flow.destination, ttl: 57, what }));

        let other = Block::of(flow.source_port.wrapping_add(Block::LEN));
        prop_assert_eq!(read(&refused, &key, other), None);
    }

    #[test]
    fn an_ack_is_answered_by_reset((flow, key) in flows()) {
        let (_, acknowledgment) = numbers(ack(&flow, &key).as_bytes());
        let reset = answer(&flow, |header| {
            header.rst = true;
            header.sequence_number = acknowledgment;
        });
        let what = Seen::AckReset { port: flow.destination_port };
        let reply = Some(Reply { from: flow.destination, ttl: 57, what });
        prop_assert_eq!(read(&reset, &key, Block::of(flow.source_port)), reply);
    }

    #[test]
    fn an_echo_request_is_answered((flow, key) in flows()) {
        let request = echo_request(flow.source, flow.destination, &key);
        let mut body = request.as_bytes()[header_length(request.as_bytes())..].to_vec();
        let protocol = if flow.source.is_ipv4() { IpNumber::ICMP } else { IpNumber::IPV6_ICMP };
        body[0] = if flow.source.is_ipv4() { 0 } else { 129 };
        let reply = packet(flow.destination, flow.source, protocol, &body);
        let what = Seen::EchoReply;
        let expected = Some(Reply { from: flow.destination, ttl: 57, what });
        prop_assert_eq!(read(&reply, &key, Block::of(0)), expected);
        prop_assume!(flow.source != flow.destination);
        let astray = packet(flow.source, flow.destination, protocol, &body);
        prop_assert_eq!(read(&astray, &key, Block::of(0)), None);
    }

    #[test]
    fn errors_name_the_probe((flow, key) in flows(), whole in any::<bool>()) {
        let block = Block::of(flow.source_port);
        let port = flow.destination_port;
        let source_port_index = (flow.source_port % Block::LEN) as u8;
        let kind = if flow.source.is_ipv4() { 3 } else { 1 };
        let from = router(flow.source);
        let probes = [
            (syn(&flow, &key), Probed::Syn { port, source_port_index }),
            (ack(&flow, &key), Probed::Ack { port }),
            (echo_request(flow.source, flow.destination, &key), Probed::Echo),
        ];
        for (sent, probe) in probes {
            let bytes = sent.as_bytes();
            let quoted = if whole { bytes } else { &bytes[..header_length(bytes) + 8] };
            let error = unreachable(from, flow.source, quoted);
            let what = Seen::Error { destination: flow.destination, probe, kind, code: 3 };
            prop_assert_eq!(read(&error, &key, block), Some(Reply { from, ttl: 57, what }));
            // Cut short, or sent to somebody else, it proves nothing.
            prop_assert_eq!(read(&error[..error.len() - quoted.len() + header_length(bytes) + 7], &key, block), None);
            prop_assert_eq!(read(&unreachable(flow.source, from, quoted), &key, block), None);
        }
    }

    #[test]
    fn one_wrong_bit_spoils_an_answer((flow, key) in flows(), at in any::<Index>(), bit in 0_u8..8) {
        let block = Block::of(flow.source_port);
        let mut bytes = syn_ack(&flow, key.token(&flow).wrapping_add(1));
        let start = header_length(&bytes);
        // The addresses, the ports and the acknowledgment number.
        let verified: Vec<usize> = match start {
            20 => (12..20).chain(20..24).chain(28..32).collect(),
            _ => (8..40).chain(40..44).chain(48..52).collect(),
        };
        bytes[*at.get(&verified)] ^= 1 << bit;
        prop_assert_eq!(read(&bytes, &key, block), None);
    }

    #[test]
    fn one_wrong_bit_spoils_an_error((flow, key) in flows(), at in any::<Index>(), bit in 0_u8..8) {
        let block = Block::of(flow.source_port);
        let sent = syn(&flow, &key);
        let length = header_length(sent.as_bytes());
        let mut bytes = unreachable(router(flow.source), flow.source, &sent.as_bytes()[..length + 8]);
        let (quoted, addresses) = (length + 8, if length == 20 { 12 } else { 8 });
        // The quoted addresses, ports and sequence number, and the prober's own address outside.
        let verified: Vec<usize> = (quoted + addresses..quoted + length + 8).chain(length - (length - addresses) / 2..length).collect();
        bytes[*at.get(&verified)] ^= 1 << bit;
        prop_assert_eq!(read(&bytes, &key, block), None);
    }

    #[test]
    fn no_guess_is_believed((flow, key) in flows(), guess: u32, reset: bool) {
        let token = key.token(&flow);
        prop_assume!(guess != token.wrapping_add(1) && guess != token);
        let forged = answer(&flow, |header| {
            (header.syn, header.rst, header.ack) = (!reset, reset, true);
            header.acknowledgment_number = guess;
            header.sequence_number = guess;
        });
        prop_assert_eq!(read(&forged, &key, Block::of(flow.source_port)), None);
    }

    #[test]
    fn another_sweeps_answers_are_not_believed((flow, key) in flows(), other: [u8; 16]) {
        let other = Key::from_bytes(other);
        prop_assume!(other.token(&flow) != key.token(&flow));
        let late = syn_ack(&flow, other.token(&flow).wrapping_add(1));
        prop_assert_eq!(read(&late, &key, Block::of(flow.source_port)), None);
    }

    #[test]
    fn any_bytes_are_read_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..256), version in 0..3) {
        if let (Some(first), 4 | 6) = (bytes.first_mut(), version * 2 + 2) {
            *first = *first & 0x0f | ((version as u8 * 2 + 2) << 4);
        }
        let _ = read(&bytes, &Key::from_bytes([1; 16]), Block::of(40000));
    }

    #[test]
    fn any_extension_headers_are_read_without_panic(
        kinds in prop::collection::vec(prop::sample::select(vec![0_u8, 6, 43, 44, 50, 51, 58, 59, 60]), 1..8),
        fill in prop::collection::vec(any::<u8>(), 128),
        long in 0..4_u8,
        length in 0..128_usize,
        quoted: bool,
    ) {
        let (flow, key) = one_flow(false);
        let mut bytes = fill[..length].to_vec();
        // Headers of eight bytes, one of which says that it is longer.
        for (place, header) in bytes.chunks_mut(8).enumerate() {
            header[0] = kinds[(place + 1) % kinds.len()];
            if let Some(units) = header.get_mut(1) {
                *units = if place == 2 { long } else { 0 };
            }
        }
        let kind = IpNumber(kinds[0]);
        let mut bytes = packet(flow.destination, flow.source, kind, &bytes);
        if quoted {
            bytes = unreachable(router(flow.source), flow.source, &bytes);
        }
        prop_assert_eq!(read(&bytes, &key, Block::of(flow.source_port)), None);
    }

    #[test]
    fn cut_and_changed_answers_are_read_without_panic(
        (flow, key) in flows(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..8),
        length in any::<Index>(),
        error: bool,
    ) {
        let mut bytes = syn_ack(&flow, key.token(&flow).wrapping_add(1));
        if error {
            bytes = unreachable(router(flow.source), flow.source, syn(&flow, &key).as_bytes());
        }
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(length.index(bytes.len() + 1));
        let _ = read(&bytes, &key, Block::of(flow.source_port));
    }
}

fn one_flow(v4: bool) -> (Flow, Key) {
    let (source, destination) =
        if v4 { ("192.0.2.1", "198.51.100.9") } else { ("2001:db8::1", "2001:db8::9") };
    let parse = |text: &str| text.parse().unwrap();
    let flow = Flow {
        source: parse(source),
        source_port: 40003,
        destination: parse(destination),
        destination_port: 443,
    };
    (flow, Key::from_bytes([9; 16]))
}

/// Whether a SYN-ACK is believed after this change.
fn believed(v4: bool, change: impl FnOnce(&mut Vec<u8>)) -> bool {
    let (flow, key) = one_flow(v4);
    let mut bytes = syn_ack(&flow, key.token(&flow).wrapping_add(1));
    change(&mut bytes);
    read(&bytes, &key, Block::of(40000)).is_some()
}

#[test]
fn ipv4_options_are_passed_over() {
    assert!(believed(true, |bytes| {
        let (mut header, rest) = Ipv4Header::from_slice(bytes).unwrap();
        header.options = [1, 1, 1, 0].into();
        header.total_len += 4;
        *bytes = [&header.to_bytes()[..], rest].concat();
    }));
}

#[test]
fn lengths_must_make_sense_and_padding_is_none_of_the_packet() {
    assert!(believed(true, |bytes| bytes.extend([0; 6])));
    assert!(believed(false, |bytes| bytes.extend([0; 6])));
    // Shorter than the headers.
    assert!(!believed(true, |bytes| bytes[2..4].copy_from_slice(&19_u16.to_be_bytes())));
    assert!(!believed(true, |bytes| bytes[2..4].copy_from_slice(&39_u16.to_be_bytes())));
    assert!(!believed(false, |bytes| bytes[4..6].copy_from_slice(&19_u16.to_be_bytes())));
    // Longer than what was kept of it.
    assert!(believed(true, |bytes| bytes[2..4].copy_from_slice(&1500_u16.to_be_bytes())));
}

#[test]
fn only_first_fragments_are_read() {
    let fragment = |offset: u16| {
        believed(true, move |bytes| {
            let (mut header, rest) = Ipv4Header::from_slice(bytes).unwrap();
            (header.dont_fragment, header.more_fragments) = (false, true);
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            *bytes = [&header.to_bytes()[..], rest].concat();
        })
    };
    assert!(fragment(0) && !fragment(1));

    // A fragment header (44): next header, reserved, offset and the flag that more follow, identification.
    let fragment = |offset: u16| {
        believed(false, move |bytes| {
            let [high, low] = (offset << 3 | 1).to_be_bytes();
            let header = [6, 0, high, low, 0, 0, 0, 1];
            bytes.splice(40..40, header);
            bytes[6] = 44;
            let length = (bytes.len() - 40) as u16;
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
        })
    };
    assert!(fragment(0) && !fragment(1));
}

#[test]
fn ipv6_extension_headers_are_passed_over() {
    assert!(believed(false, |bytes| {
        // Hop-by-hop options (0), then destination options (60), each of padding alone.
        let headers = [60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
        bytes.splice(40..40, headers);
        bytes[6] = 0;
        let length = (bytes.len() - 40) as u16;
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
    }));
}

#[test]
fn an_extension_header_that_is_cut_short_is_no_answer() {
    // Hop-by-hop options, then a routing header that is longer than the packet.
    for cut in 0..24 {
        assert!(!believed(false, |bytes| {
            bytes.truncate(40);
            bytes.extend(&[43, 0, 1, 4, 0, 0, 0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..cut]);
            bytes[6] = 0;
            bytes[4..6].copy_from_slice(&(cut as u16).to_be_bytes());
        }));
    }
}

#[test]
fn other_flags_are_no_answer() {
    let (flow, key) = one_flow(true);
    let token = key.token(&flow);
    for (is_syn, is_ack) in [(true, false), (false, true), (false, false)] {
        let bytes = answer(&flow, |header| {
            (header.syn, header.ack) = (is_syn, is_ack);
            header.acknowledgment_number = token.wrapping_add(1);
        });
        assert_eq!(read(&bytes, &key, Block::of(40000)), None, "SYN {is_syn}, ACK {is_ack}");
    }
}

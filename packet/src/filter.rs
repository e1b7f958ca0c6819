//! The packet filters: what of a network's traffic the kernel hands to us at all (classic BPF). Pure.
//!
//! A filter sees a packet from its IP header on. It lets through what *may* be an answer; [`read`](crate::read::read)
//! says what is one.

use crate::ports::Block;
use etherparse::{icmpv4, icmpv6};
use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX,
    BPF_MSH, BPF_RET,
};
use socket2::SockFilter;

/// How much of a packet is kept, in bytes: enough for an ICMPv6 error with an IPv6 and a TCP header in it, and for an
/// ICMP error with options in both IP headers.
pub(crate) const SNAP: u32 = 160;

/// Where a jump goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// The next instruction.
    Next,
    /// Where the program reads ICMP.
    Icmp,
    /// The packet is handed over.
    Accept,
    /// The packet is none of ours.
    Reject,
}

/// One instruction, its jumps not yet counted out.
#[derive(Clone, Copy)]
enum Op {
    /// Loads a byte at an offset.
    Byte(u32),
    /// Loads two bytes at an offset.
    Half(u32),
    /// Loads a byte at an offset from the end of the IPv4 header.
    ByteBehind(u32),
    /// Loads two bytes at an offset from the end of the IPv4 header.
    HalfBehind(u32),
    /// Reads the length of the IPv4 header.
    HeaderLength,
    /// Loads how the packet came to this host (`PACKET_HOST`, …).
    PacketType,
    /// Keeps these bits of what was loaded.
    And(u32),
    /// Compares for equality.
    Equal(u32, To, To),
    /// Asks whether any of these bits is set.
    AnyBit(u32, To, To),
    /// Where [`To::Icmp`] is.
    IcmpHere,
}

/// IPv4: TCP to the block's ports with RST or SYN-ACK, echo replies and ICMP errors; first fragments, for this host.
pub(crate) fn ipv4(block: Block) -> Vec<SockFilter> {
    use Op::*;
    let mut program = vec![
        PacketType,
        Equal(libc::PACKET_HOST.into(), To::Next, To::Reject),
        // Fragment offset, and the header's length for what follows.
        Half(6),
        AnyBit(0x1fff, To::Reject, To::Next),
        HeaderLength,
        Byte(9),
        Equal(libc::IPPROTO_TCP as u32, To::Next, To::Icmp),
        HalfBehind(2),
    ];
    program.extend(port_in(block));
    program.push(ByteBehind(13));
    program.extend(TCP_ANSWER);
    program.extend([IcmpHere, Equal(libc::IPPROTO_ICMP as u32, To::Next, To::Reject), ByteBehind(0)]);
    program.extend(any_of(&[
        icmpv4::TYPE_ECHO_REPLY,
        icmpv4::TYPE_DEST_UNREACH,
        icmpv4::TYPE_TIME_EXCEEDED,
        icmpv4::TYPE_PARAMETER_PROBLEM,
    ]));
    assemble(&program)
}

/// IPv6: the same, without extension headers.
pub(crate) fn ipv6(block: Block) -> Vec<SockFilter> {
    use Op::*;
    let mut program = vec![
        PacketType,
        Equal(libc::PACKET_HOST.into(), To::Next, To::Reject),
        Byte(6),
        Equal(libc::IPPROTO_TCP as u32, To::Next, To::Icmp),
        Half(40 + 2),
    ];
    program.extend(port_in(block));
    program.push(Byte(40 + 13));
    program.extend(TCP_ANSWER);
    program.extend([IcmpHere, Equal(libc::IPPROTO_ICMPV6 as u32, To::Next, To::Reject), Byte(40)]);
    program.extend(any_of(&[
        icmpv6::TYPE_ECHO_REPLY,
        icmpv6::TYPE_DST_UNREACH,
        icmpv6::TYPE_TIME_EXCEEDED,
        icmpv6::TYPE_PARAMETER_PROBLEM,
    ]));
    assemble(&program)
}

/// Neighbour advertisements for this host that no router has forwarded (RFC 4861, section 7.1.2).
pub(crate) fn neighbour_advertisement() -> Vec<SockFilter> {
    use Op::*;
    assemble(&[
        PacketType,
        Equal(libc::PACKET_HOST.into(), To::Next, To::Reject),
        Byte(6),
        Equal(libc::IPPROTO_ICMPV6 as u32, To::Next, To::Reject),
        Byte(7),
        Equal(255, To::Next, To::Reject),
        Byte(40),
        Equal(icmpv6::TYPE_NEIGHBOR_ADVERTISEMENT.into(), To::Accept, To::Reject),
    ])
}

/// ARP replies, for this host or for all: those about link-local addresses are broadcast (RFC 3927, section 2.5).
pub(crate) fn arp_reply() -> Vec<SockFilter> {
    use Op::*;
    assemble(&[
        PacketType,
        Equal(libc::PACKET_OTHERHOST.into(), To::Reject, To::Next),
        Half(6),
        Equal(etherparse::ArpOperation::REPLY.0.into(), To::Accept, To::Reject),
    ])
}

/// RST, or SYN and ACK.
const TCP_ANSWER: [Op; 3] =
    [Op::AnyBit(0x04, To::Accept, To::Next), Op::And(0x12), Op::Equal(0x12, To::Accept, To::Reject)];

fn port_in(block: Block) -> [Op; 2] {
    [Op::And(Block::mask().into()), Op::Equal(block.first().into(), To::Next, To::Reject)]
}

fn any_of(values: &[u8]) -> impl Iterator<Item = Op> {
    let last = values.len() - 1;
    values.iter().enumerate().map(move |(place, value)| {
        let otherwise = if place == last { To::Reject } else { To::Next };
        Op::Equal((*value).into(), To::Accept, otherwise)
    })
}

/// Counts the jumps out. The two returns come last: accept, then reject.
fn assemble(program: &[Op]) -> Vec<SockFilter> {
    let is_code = |op: &&Op| !matches!(op, Op::IcmpHere);
    let length = program.iter().filter(is_code).count();
    let icmp = program.iter().take_while(is_code).count();
    let mut code: Vec<SockFilter> = Vec::with_capacity(length + 2);
    for op in program.iter().filter(is_code) {
        let next = code.len() + 1;
        let jump = |to: To| {
            let target = match to {
                To::Next => next,
                To::Icmp => icmp,
                To::Accept => length,
                To::Reject => length + 1,
            };
            (target - next) as u8
        };
        let load =
            |size: u32, mode: u32, offset: u32| SockFilter::new((BPF_LD | size | mode) as u16, 0, 0, offset);
        let test = |condition: u32, value: u32, yes: To, no: To| {
            SockFilter::new((BPF_JMP | condition | BPF_K) as u16, jump(yes), jump(no), value)
        };
        code.push(match *op {
            Op::Byte(offset) => load(BPF_B, BPF_ABS, offset),
            Op::Half(offset) => load(BPF_H, BPF_ABS, offset),
            Op::ByteBehind(offset) => load(BPF_B, BPF_IND, offset),
            Op::HalfBehind(offset) => load(BPF_H, BPF_IND, offset),
            Op::HeaderLength => SockFilter::new((BPF_LDX | BPF_B | BPF_MSH) as u16, 0, 0, 0),
            Op::PacketType => load(BPF_B, BPF_ABS, (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32),
            Op::And(bits) => SockFilter::new((BPF_ALU | BPF_AND | BPF_K) as u16, 0, 0, bits),
            Op::Equal(value, yes, no) => test(BPF_JEQ, value, yes, no),
            Op::AnyBit(bits, yes, no) => test(BPF_JSET, bits, yes, no),
            Op::IcmpHere => continue,
        });
    }
    code.extend([ret(SNAP), ret(0)]);
    code
}

fn ret(bytes: u32) -> SockFilter {
    SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, bytes)
}

//! Reads what came back: which of our probes a packet answers, if any. Pure, and never panics.
//!
//! Nothing is looked up. A packet is believed only if it echoes the number that the key gives to the mirror of its own
//! addresses and ports, so a stranger's packet, a late one of another sweep or a forged one is no reply.
//!
//! TCP checksums are not verified: over virtual links the sender leaves them to hardware that is not there.

use crate::ip::Ip;
use crate::key::{Flow, Key};
use crate::ports::Block;
use etherparse::{IpNumber, TcpHeaderSlice, icmpv4, icmpv6};
use std::net::IpAddr;

/// An answer to one of our probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Who sent it.
    pub from: IpAddr,
    /// Its TTL or hop limit as it arrived.
    pub ttl: u8,
    /// What it says.
    pub what: Seen,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// SYN-ACK to our SYN. `from` is the target.
    SynAck {
        /// The target's port.
        port: u16,
        /// Which port of our block the SYN left from.
        source_port_index: u8,
        /// The window it offers, in bytes, not scaled.
        window: u16,
        /// Whether it has any TCP option.
        options: bool,
    },
    /// RST to our SYN. `from` is the target.
    Reset {
        /// The target's port.
        port: u16,
        /// Which port of our block the SYN left from.
        source_port_index: u8,
        /// Its window, in bytes: zero for most stacks.
        window: u16,
    },
    /// RST to our ACK ping. `from` is the target.
    AckReset {
        /// The target's port.
        port: u16,
    },
    /// Answer to our echo request. `from` is the target.
    EchoReply,
    /// An ICMP error about a probe of ours: destination unreachable, time exceeded or parameter problem (ICMP types 3,
    /// 11, 12; ICMPv6 types 1, 3, 4). `from` is the device that sent it, which may be the target.
    Error {
        /// The target of the probe.
        destination: IpAddr,
        /// The probe.
        probe: Probed,
        /// The ICMP or ICMPv6 type.
        kind: u8,
        /// The code.
        code: u8,
    },
}

/// Which probe an ICMP error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// A SYN.
    Syn {
        /// The target's port.
        port: u16,
        /// Which port of our block it left from.
        source_port_index: u8,
    },
    /// An ACK ping.
    Ack {
        /// The target's port.
        port: u16,
    },
    /// An echo request.
    Echo,
}

/// What a packet, from its IP header on and perhaps cut off, says about our probes; nothing if it is no answer to one.
#[must_use]
pub fn read(bytes: &[u8], key: &Key, block: Block) -> Option<Reply> {
    let ip = Ip::received(bytes)?;
    let what = match ip.protocol {
        IpNumber::TCP => tcp(&ip, key, block),
        IpNumber::ICMP | IpNumber::IPV6_ICMP => icmp(&ip, key, block),
        _ => None,
    }?;
    Some(Reply { from: ip.source, ttl: ip.ttl, what })
}

fn tcp(ip: &Ip<'_>, key: &Key, block: Block) -> Option<Seen> {
    let header = TcpHeaderSlice::from_slice(ip.payload).ok()?;
    let source_port_index = block.index(header.destination_port())?;
    let flow = Flow {
        source: ip.destination,
        source_port: header.destination_port(),
        destination: ip.source,
        destination_port: header.source_port(),
    };
    let token = key.token(&flow);
    let port = flow.destination_port;
    let window = header.window_size();
    let answers_syn = header.ack() && header.acknowledgment_number() == token.wrapping_add(1);
    match (header.rst(), header.syn()) {
        (true, _) if answers_syn => Some(Seen::Reset { port, source_port_index, window }),
        (true, _) if header.sequence_number() == token => Some(Seen::AckReset { port }),
        (false, true) if answers_syn => {
            let options = !header.options().is_empty();
            Some(Seen::SynAck { port, source_port_index, window, options })
        }
        _ => None,
    }
}

fn icmp(ip: &Ip<'_>, key: &Key, block: Block) -> Option<Seen> {
    let &[kind, code, _, _, a, b, c, d] = ip.payload.first_chunk()?;
    let v4 = match (ip.source, ip.protocol) {
        (IpAddr::V4(_), IpNumber::ICMP) => true,
        (IpAddr::V6(_), IpNumber::IPV6_ICMP) => false,
        _ => return None,
    };
    let (echo_reply, errors) = if v4 {
        (
            icmpv4::TYPE_ECHO_REPLY,
            [icmpv4::TYPE_DEST_UNREACH, icmpv4::TYPE_TIME_EXCEEDED, icmpv4::TYPE_PARAMETER_PROBLEM],
        )
    } else {
        (
            icmpv6::TYPE_ECHO_REPLY,
            [icmpv6::TYPE_DST_UNREACH, icmpv6::TYPE_TIME_EXCEEDED, icmpv6::TYPE_PARAMETER_PROBLEM],
        )
    };
    if kind == echo_reply {
        return (code == 0 && is_echo([a, b, c, d], ip.destination, ip.source, key))
            .then_some(Seen::EchoReply);
    }
    if !errors.contains(&kind) {
        return None;
    }
    let quoted = Ip::quoted(ip.payload.get(8..)?)?;
    let probe = probed(&quoted, key, block)?;
    // An error goes to whoever sent the packet that it is about.
    (quoted.source == ip.destination).then_some(Seen::Error {
        destination: quoted.destination,
        probe,
        kind,
        code,
    })
}

/// Which of our probes an ICMP error quotes. Eight bytes beyond the IP header are all that is certain (RFC 792).
fn probed(quoted: &Ip<'_>, key: &Key, block: Block) -> Option<Probed> {
    let &[a, b, c, d, e, f, g, h] = quoted.payload.first_chunk()?;
    match (quoted.protocol, quoted.source) {
        (IpNumber::TCP, _) => {
            let source_port = u16::from_be_bytes([a, b]);
            let port = u16::from_be_bytes([c, d]);
            let source_port_index = block.index(source_port)?;
            let token = key.token(&Flow {
                source: quoted.source,
                source_port,
                destination: quoted.destination,
                destination_port: port,
            });
            match u32::from_be_bytes([e, f, g, h]) {
                sequence if sequence == token => Some(Probed::Syn { port, source_port_index }),
                sequence if sequence == !token => Some(Probed::Ack { port }),
                _ => None,
            }
        }
        (IpNumber::ICMP, IpAddr::V4(_)) | (IpNumber::IPV6_ICMP, IpAddr::V6(_)) => {
            let request =
                if quoted.source.is_ipv4() { icmpv4::TYPE_ECHO_REQUEST } else { icmpv6::TYPE_ECHO_REQUEST };
            (a == request && b == 0 && is_echo([e, f, g, h], quoted.source, quoted.destination, key))
                .then_some(Probed::Echo)
        }
        _ => None,
    }
}

/// Whether these are the identifier and sequence number of our echo request.
fn is_echo([a, b, c, d]: [u8; 4], source: IpAddr, destination: IpAddr, key: &Key) -> bool {
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])) == key.echo(source, destination)
}

#[cfg(test)]
mod tests;

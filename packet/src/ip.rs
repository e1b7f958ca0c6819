//! IP headers, as far as it takes to read an answer. Pure.

use etherparse::{
    IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice,
};
use std::net::IpAddr;

/// What matters of an IP packet, extension headers gone.
pub(crate) struct Ip<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    pub(crate) protocol: IpNumber,
    /// What follows the headers, as much of it as there is.
    pub(crate) payload: &'a [u8],
}

/// Where a packet was found.
#[derive(Clone, Copy)]
enum Found {
    /// It arrived: its length field must make sense, and what is beyond is padding.
    OnTheWire,
    /// An ICMP error quotes it, cut off, and perhaps with a length field that the sender has spoilt.
    Quoted,
}

impl<'a> Ip<'a> {
    /// Reads a packet that arrived, perhaps cut off.
    pub(crate) fn received(bytes: &'a [u8]) -> Option<Self> {
        Self::parse(bytes, Found::OnTheWire)
    }

    /// Reads the packet that an ICMP error is about.
    pub(crate) fn quoted(bytes: &'a [u8]) -> Option<Self> {
        Self::parse(bytes, Found::Quoted)
    }

    fn parse(bytes: &'a [u8], found: Found) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes, found),
            6 => Self::parse_v6(bytes, found),
            _ => None,
        }
    }

    fn parse_v4(bytes: &'a [u8], found: Found) -> Option<Self> {
        let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
        // Only the first fragment has the ports.
        if header.fragments_offset().value() != 0 {
            return None;
        }
        let payload = payload(bytes, header.slice().len(), header.total_len().into(), found)?;
        Some(Self {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            ttl: header.ttl(),
            protocol: header.protocol(),
            payload,
        })
    }

    fn parse_v6(bytes: &'a [u8], found: Found) -> Option<Self> {
        let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
        let start = header.slice().len();
        let payload = payload(bytes, start, start + usize::from(header.payload_length()), found)?;
        let (protocol, payload) = match header.next_header() {
            plain @ (IpNumber::TCP | IpNumber::IPV6_ICMP) => (plain, payload),
            extension => skip_extensions(extension, payload)?,
        };
        Some(Self {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            ttl: header.hop_limit(),
            protocol,
            payload,
        })
    }
}

/// What follows a header of `start` bytes in a packet that says it has `stated` bytes; nothing if that is absurd.
fn payload(bytes: &[u8], start: usize, stated: usize, found: Found) -> Option<&[u8]> {
    let end = match found {
        Found::OnTheWire => stated.min(bytes.len()),
        Found::Quoted => bytes.len(),
    };
    bytes.get(start..end)
}

/// What follows the extension headers (RFC 8200, section 4); nothing for a fragment other than the first.
///
/// Walked here and not by etherparse's iterator, which trusts what a failed parse has left (version 0.21).
fn skip_extensions(mut next_header: IpNumber, mut bytes: &[u8]) -> Option<(IpNumber, &[u8])> {
    loop {
        let (following, length) = match next_header {
            IpNumber::IPV6_HEADER_HOP_BY_HOP
            | IpNumber::IPV6_ROUTE_HEADER
            | IpNumber::IPV6_DESTINATION_OPTIONS => {
                let header = Ipv6RawExtHeaderSlice::from_slice(bytes).ok()?;
                (header.next_header(), header.slice().len())
            }
            IpNumber::IPV6_FRAGMENTATION_HEADER => {
                let header = Ipv6FragmentHeaderSlice::from_slice(bytes).ok()?;
                if header.fragment_offset().value() != 0 {
                    return None;
                }
                (header.next_header(), header.slice().len())
            }
            _ => return Some((next_header, bytes)),
        };
        next_header = following;
        bytes = bytes.get(length..)?;
    }
}

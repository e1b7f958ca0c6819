//! Port sets and nmap's port syntax.

mod syntax;
#[cfg(test)]
mod tests;

use crate::observation::Protocol;
use std::fmt;
use std::ops::RangeInclusive;

pub use syntax::{MAX_TEXT, PortSpecError};

/// A set of ports of one protocol, kept as ascending, disjoint, non-adjacent inclusive ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// All 65,536 ports, port 0 included.
    pub fn all() -> Self {
        Self(vec![(0, u16::MAX)])
    }

    /// The set of one port.
    pub fn single(port: u16) -> Self {
        Self(vec![(port, port)])
    }

    /// No ports at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ports: 0 to 65,536.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(first, last)| usize::from(last - first) + 1).sum()
    }

    /// Whether the port is in the set.
    pub fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= port);
        after > 0 && self.0[after - 1].1 >= port
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = RangeInclusive<u16>> + '_ {
        self.0.iter().map(|(first, last)| *first..=*last)
    }

    /// Every port, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// Ports in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).map(|(first, last)| *first..=*last).collect()
    }

    /// Ports in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(&&(a1, a2)), Some(&&(b1, b2))) = (a.peek(), b.peek()) {
            let (first, last) = (a1.max(b1), a2.min(b2));
            if first <= last {
                both.push((first, last));
            }
            if a2 <= b2 {
                a.next()
            } else {
                b.next()
            };
        }
        Self(both)
    }

    /// Ports in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    /// Ports not in this set.
    #[must_use]
    fn complement(&self) -> Self {
        let mut rest = Vec::new();
        let mut next = 0u32;
        for (first, last) in &self.0 {
            if next < u32::from(*first) {
                // `next` is below a u16, so both ends fit.
                rest.push((next as u16, first - 1));
            }
            next = u32::from(*last) + 1;
        }
        if next <= u32::from(u16::MAX) {
            rest.push((next as u16, u16::MAX));
        }
        Self(rest)
    }
}

impl FromIterator<RangeInclusive<u16>> for PortSet {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u16>>>(ranges: I) -> Self {
        let mut sorted: Vec<(u16, u16)> =
            ranges.into_iter().filter(|r| r.start() <= r.end()).map(RangeInclusive::into_inner).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        ports.into_iter().map(|port| port..=port).collect()
    }
}

/// `22,80,8000-8100`; the empty set is the empty string.
impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

/// Which ports of which protocols: what `-p` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSpec {
    /// TCP ports.
    pub tcp: PortSet,
    /// UDP ports.
    pub udp: PortSet,
}

impl PortSpec {
    /// The ports of one protocol.
    pub fn of(&self, protocol: Protocol) -> &PortSet {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    /// No ports of any protocol.
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty()
    }

    /// Ports of all protocols together.
    pub fn len(&self) -> usize {
        self.tcp.len() + self.udp.len()
    }
}

impl PortSpec {
    /// The ports of one protocol and none of the other.
    pub fn only(protocol: Protocol, ports: PortSet) -> Self {
        match protocol {
            Protocol::Tcp => Self { tcp: ports, udp: PortSet::default() },
            Protocol::Udp => Self { tcp: PortSet::default(), udp: ports },
        }
    }

    /// Whether the port of the protocol is in it.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.of(protocol).contains(port)
    }

    /// Ports in either, protocol by protocol.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self { tcp: self.tcp.union(&other.tcp), udp: self.udp.union(&other.udp) }
    }

    /// Ports in both, protocol by protocol.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self { tcp: self.tcp.intersection(&other.tcp), udp: self.udp.intersection(&other.udp) }
    }

    /// Ports in this and not in the other, protocol by protocol.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self { tcp: self.tcp.difference(&other.tcp), udp: self.udp.difference(&other.udp) }
    }
}

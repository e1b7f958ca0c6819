//! Sets of IP addresses, kept as ranges. An IPv4-mapped IPv6 address (`::ffff:10.0.0.1`) is the IPv4 address
//! everywhere, so that no second spelling walks past a rule; an IPv6 range around the mapped block leaves it out.

mod network;
mod runs;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use runs::{Run, Runs};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

pub use network::{NetworkError, canonical_network, parse_network};

/// The first and last address of `::ffff:0:0/96`, RFC 4291 section 2.5.5.2.
const MAPPED: Run = (0xffff_0000_0000, 0xffff_ffff_ffff);

/// Consecutive addresses of one family, both ends included. `10.0.0.1-10.0.0.9`; one address stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// A text that is no address and no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an address nor a range such as 10.0.0.1-10.0.0.9")]
pub struct AddressRangeError(String);

impl AddressRange {
    /// From `first` to `last`; `None` when they are of different families or in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let (first, last) = (first.to_canonical(), last.to_canonical());
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }

    /// One address.
    pub fn single(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { first: address, last: address }
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        // IPv4 sorts before IPv6, so an address of the other family is outside.
        self.first <= address && address <= self.last
    }
}

impl From<IpNet> for AddressRange {
    fn from(net: IpNet) -> Self {
        let (first, last) = (net.network(), net.broadcast());
        // Only `::/80` to `::/95` end in the mapped block without lying in it: they end before it.
        Self::new(first, last).unwrap_or(Self { first, last: v6(MAPPED.0 - 1) })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, AddressRangeError> {
        let read = || match text.split_once('-') {
            Some((first, last)) => Self::new(first.parse().ok()?, last.parse().ok()?),
            None => text.parse().ok().map(Self::single),
        };
        // The cut keeps a hostile text from filling a log.
        read().ok_or_else(|| AddressRangeError(text.chars().take(100).flat_map(char::escape_debug).collect()))
    }
}

/// A set of addresses, kept as ascending, disjoint, non-adjacent ranges, IPv4 before IPv6.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct AddressSet {
    v4: Runs,
    v6: Runs,
}

impl AddressSet {
    /// The set of one address.
    pub fn single(address: IpAddr) -> Self {
        AddressRange::single(address).into()
    }

    /// No addresses at all.
    pub fn is_empty(&self) -> bool {
        self.v4.as_slice().is_empty() && self.v6.as_slice().is_empty()
    }

    /// How many addresses; `u128::MAX` where there are more.
    pub fn len(&self) -> u128 {
        self.v4.len().saturating_add(self.v6.len())
    }

    /// Whether the address is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.contains(address.to_bits().into()),
            IpAddr::V6(address) => self.v6.contains(address.to_bits()),
        }
    }

    /// The ranges, ascending, IPv4 first.
    pub fn ranges(&self) -> impl Iterator<Item = AddressRange> + '_ {
        let v4s = self
            .v4
            .as_slice()
            .iter()
            .map(|(first, last)| AddressRange { first: v4(*first), last: v4(*last) });
        let v6s = self
            .v6
            .as_slice()
            .iter()
            .map(|(first, last)| AddressRange { first: v6(*first), last: v6(*last) });
        v4s.chain(v6s)
    }

    /// How many ranges [`AddressSet::ranges`] gives.
    pub fn range_count(&self) -> usize {
        self.v4.as_slice().len() + self.v6.as_slice().len()
    }

    /// Every address, ascending, IPv4 first. It may be very many: see [`AddressSet::len`].
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let v4s = self.v4.as_slice().iter().flat_map(|(first, last)| (*first..=*last).map(v4));
        let v6s = self.v6.as_slice().iter().flat_map(|(first, last)| (*first..=*last).map(v6));
        v4s.chain(v6s)
    }

    /// The address at a place in the order of [`AddressSet::iter`], counted from 0, in logarithmic time.
    pub fn nth(&self, index: u128) -> Option<IpAddr> {
        match index.checked_sub(self.v4.len()) {
            None => self.v4.nth(index).map(v4),
            Some(index) => self.v6.nth(index).map(v6),
        }
    }

    /// Addresses in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self { v4: self.v4.union(&other.v4), v6: self.v6.union(&other.v6) }
    }

    /// Addresses in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self { v4: self.v4.intersection(&other.v4), v6: self.v6.intersection(&other.v6) }
    }

    /// Addresses in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self { v4: self.v4.difference(&other.v4), v6: self.v6.difference(&other.v6) }
    }
}

/// Only for numbers of an IPv4 set, which fit.
fn v4(number: u128) -> IpAddr {
    Ipv4Addr::from_bits(number as u32).into()
}

fn v6(number: u128) -> IpAddr {
    Ipv6Addr::from_bits(number).into()
}

impl FromIterator<AddressRange> for AddressSet {
    fn from_iter<I: IntoIterator<Item = AddressRange>>(ranges: I) -> Self {
        let (mut v4s, mut v6s) = (Vec::new(), Vec::new());
        for range in ranges {
            match (range.first, range.last) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    v4s.push((first.to_bits().into(), last.to_bits().into()))
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    // The mapped block is cut out; where the range does not meet it, one half is the whole range and
                    // the other runs backwards and is left out.
                    let (first, last) = (first.to_bits(), last.to_bits());
                    v6s.push((first, last.min(MAPPED.0 - 1)));
                    v6s.push((first.max(MAPPED.1 + 1), last));
                }
                // A range is of one family by construction.
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
            }
        }
        Self { v4: Runs::new(v4s), v6: Runs::new(v6s) }
    }
}

impl FromIterator<IpAddr> for AddressSet {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().map(AddressRange::single).collect()
    }
}

impl FromIterator<IpNet> for AddressSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        nets.into_iter().map(AddressRange::from).collect()
    }
}

impl From<AddressRange> for AddressSet {
    fn from(range: AddressRange) -> Self {
        std::iter::once(range).collect()
    }
}

impl From<IpNet> for AddressSet {
    fn from(net: IpNet) -> Self {
        AddressRange::from(net).into()
    }
}

/// The ranges, separated by commas; no addresses at all are the empty string.
impl fmt::Display for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.ranges().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

/// The first few ranges: a set may have very many, and this is printed into logs.
impl fmt::Debug for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let mut set = f.debug_set();
        set.entries(self.ranges().take(SHOWN).map(|range| range.to_string()));
        if self.range_count() > SHOWN { set.finish_non_exhaustive() } else { set.finish() }
    }
}

/// Reads what [`AddressSet`] prints; the ranges may come in any order and overlap.
impl FromStr for AddressSet {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, AddressRangeError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|range| range.trim().parse::<AddressRange>()).collect()
    }
}

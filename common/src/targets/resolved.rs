//! Targets whose names have been looked up: each address once, and which target asked for it.

use super::{Target, Targets};
use crate::addresses::{AddressRange, AddressSet};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses to scan, each once however many targets name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedTargets {
    /// All targets together without what is excluded.
    pub addresses: AddressSet,
    /// Names among the targets that stand for no address.
    pub unresolved: Vec<String>,
    /// Names among the exclusions that stand for no address: what was to be left out is perhaps scanned.
    pub unresolved_excludes: Vec<String>,
    /// Whether a target is a network or a range, rather than a list of names and single addresses.
    pub has_ranges: bool,
    texts: Vec<String>,
    /// Ascending and disjoint; the number is the place in `texts` of the first target with these addresses.
    owners: Vec<(AddressRange, usize)>,
}

impl ResolvedTargets {
    pub(super) fn new(targets: Targets, lookup: &BTreeMap<String, Vec<IpAddr>>) -> Self {
        let found = |name: &String| lookup.get(name).filter(|addresses| !addresses.is_empty());
        let mut resolved = Self::default();
        let mut exclude = targets.exclude;
        for name in targets.exclude_names {
            match found(&name) {
                Some(addresses) => exclude = exclude.union(&addresses.iter().copied().collect()),
                None => resolved.unresolved_excludes.push(name),
            }
        }
        let mut claims = Vec::new();
        for (i, spec) in targets.specs.into_iter().enumerate() {
            match spec.target {
                Target::Addresses(set) => {
                    resolved.has_ranges |= set.len() > 1;
                    claims.extend(set.ranges().map(|range| (range, i)));
                }
                Target::Name(name) => match found(&name) {
                    Some(addresses) => claims.extend(addresses.iter().map(|a| (AddressRange::single(*a), i))),
                    None => resolved.unresolved.push(name),
                },
            }
            resolved.texts.push(spec.text);
        }
        let all: AddressSet = claims.iter().map(|(range, _)| *range).collect();
        resolved.addresses = all.difference(&exclude);
        resolved.owners = first_claims(claims);
        resolved
    }

    /// The first target, as typed, that has the address; the empty string for an address that none has.
    pub fn typed(&self, address: IpAddr) -> &str {
        let address = address.to_canonical();
        let after = self.owners.partition_point(|(range, _)| range.first() <= address);
        after
            .checked_sub(1)
            .and_then(|i| self.owners.get(i))
            .filter(|(range, _)| range.contains(address))
            .and_then(|(_, owner)| self.texts.get(*owner))
            .map_or("", String::as_str)
    }
}

/// Cuts overlapping claims into disjoint ranges, each given to the claim with the lowest number. Sweeps over the
/// addresses once, so that long lists take no longer than sorting them.
fn first_claims(mut claims: Vec<(AddressRange, usize)>) -> Vec<(AddressRange, usize)> {
    claims.sort_unstable_by_key(|(range, i)| (range.first(), *i));
    let mut owners: Vec<(AddressRange, usize)> = Vec::with_capacity(claims.len());
    let mut waiting = claims.into_iter().peekable();
    // Claims that reach the address the sweep stands at, the lowest number on top; those that ended are dropped when
    // they come up.
    let mut active: BinaryHeap<Reverse<(usize, IpAddr)>> = BinaryHeap::new();
    let mut at: Option<IpAddr> = None;
    while let Some(here) = at.or_else(|| waiting.peek().map(|(range, _)| range.first())) {
        while let Some((range, i)) = waiting.next_if(|(range, _)| range.first() <= here) {
            active.push(Reverse((i, range.last())));
        }
        while active.peek().is_some_and(|Reverse((_, last))| *last < here) {
            active.pop();
        }
        let Some(Reverse((owner, last))) = active.peek().copied() else {
            at = None;
            continue;
        };
        // Until the owner ends or another claim, perhaps of a lower number, begins.
        let end = match waiting.peek().and_then(|(range, _)| before(range.first())) {
            Some(end) if end < last && end >= here => end,
            _ => last,
        };
        if let Some(range) = AddressRange::new(here, end) {
            match owners.last_mut() {
                Some((previous, of)) if *of == owner && after(previous.last()) == Some(here) => {
                    *previous = AddressRange::new(previous.first(), end).unwrap_or(*previous);
                }
                _ => owners.push((range, owner)),
            }
        }
        // At the very end of a family nothing active remains.
        at = after(end);
        if at.is_none() {
            active.clear();
        }
    }
    owners
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => a.to_bits().checked_add(1).map(|n| Ipv4Addr::from_bits(n).into()),
        IpAddr::V6(a) => a.to_bits().checked_add(1).map(|n| Ipv6Addr::from_bits(n).into()),
    }
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => a.to_bits().checked_sub(1).map(|n| Ipv4Addr::from_bits(n).into()),
        IpAddr::V6(a) => a.to_bits().checked_sub(1).map(|n| Ipv6Addr::from_bits(n).into()),
    }
}

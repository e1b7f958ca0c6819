//! The addresses that checks come to, and arithmetic over ranges of them: however large a target is, it is never
//! counted through.

use crate::compile::CompiledCheck;
use portolan_common::addresses::{AddressRange, AddressSet};
use portolan_common::targets::{Target, TargetSpec};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a check looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Its addresses, as far as they are known here.
    pub(crate) addresses: AddressSet,
    /// Names that are resolved at the satellite, without those that are left out.
    pub(crate) names: BTreeSet<String>,
}

impl Extent {
    /// Of targets as a policy or a source has them; what cannot be read counts as nothing.
    pub(crate) fn new<'a>(targets: impl Iterator<Item = &'a str>, exclude: &[String]) -> Self {
        let (all, mut names) = parse(targets);
        let (out, names_out) = parse(exclude.iter().map(String::as_str));
        let addresses = if out.is_empty() { all } else { all.difference(&out) };
        names.retain(|name| !names_out.contains(name));
        Self { addresses, names }
    }

    /// Of a compiled check.
    pub(crate) fn of(check: &CompiledCheck) -> Self {
        Self::new(check.targets.iter().map(String::as_str), &check.exclude)
    }
}

fn parse<'a>(targets: impl Iterator<Item = &'a str>) -> (AddressSet, BTreeSet<String>) {
    let mut ranges = Vec::new();
    let mut names = BTreeSet::new();
    for target in targets {
        match target.parse::<TargetSpec>().map(|spec| spec.target) {
            Ok(Target::Addresses(set)) => ranges.extend(set.ranges()),
            Ok(Target::Name(name)) => {
                names.insert(name);
            }
            Err(_) => {}
        }
    }
    (ranges.into_iter().collect(), names)
}

/// Consecutive addresses of one family as numbers, both ends included.
pub(crate) type Span = (u128, u128);

/// A range as numbers, and whether they are of IPv4.
pub(crate) fn span(range: &AddressRange) -> (bool, Span) {
    match (range.first(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (true, (first.to_bits().into(), last.to_bits().into())),
        (first, last) => (false, (bits(first), bits(last))),
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of a number.
pub(crate) fn address(v4: bool, number: u128) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if v4 => Ipv4Addr::from_bits(number).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

/// Weights over ranges, added up: ascending, disjoint spans with the sum of what lies over each, none of them 0.
#[derive(Default)]
pub(crate) struct Weights {
    /// Where the sum changes, and by how much, IPv4 and IPv6 apart. The end of a span is one before the change.
    changes: [Vec<(u128, i128)>; 2],
}

impl Weights {
    /// Lays a weight over a range.
    pub(crate) fn add(&mut self, range: &AddressRange, weight: u64) {
        let (v4, (first, last)) = span(range);
        let weight = i128::from(weight);
        let [of_v4, of_v6] = &mut self.changes;
        let changes = if v4 { of_v4 } else { of_v6 };
        changes.push((first, weight));
        // What reaches to the very last number does not end.
        changes.extend(last.checked_add(1).map(|end| (end, -weight)));
    }

    /// The sums of one family.
    pub(crate) fn sums(&mut self, v4: bool) -> Vec<(Span, u128)> {
        let [of_v4, of_v6] = &mut self.changes;
        let changes = if v4 { of_v4 } else { of_v6 };
        changes.sort_unstable();
        let mut sums: Vec<(Span, u128)> = Vec::new();
        let mut sum = 0i128;
        let mut from = 0;
        for (at, change) in changes.iter() {
            if *at > from && sum > 0 {
                sums.push(((from, at - 1), sum.unsigned_abs()));
            }
            sum += change;
            from = *at;
        }
        if sum > 0 {
            sums.push(((from, u128::MAX), sum.unsigned_abs()));
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::IpNet;
    use proptest::prelude::*;

    fn range(first: u8, last: u8) -> AddressRange {
        let at = |n: u8| Ipv4Addr::new(10, 0, 0, n).into();
        AddressRange::new(at(first.min(last)), at(first.max(last))).unwrap()
    }

    #[test]
    fn what_reaches_to_the_last_address_is_counted() {
        let mut weights = Weights::default();
        let all: IpNet = "::/0".parse().unwrap();
        for range in AddressSet::from(all).ranges() {
            weights.add(&range, 3);
        }
        let sums = weights.sums(false);
        assert_eq!(sums.last().unwrap().0.1, u128::MAX);
        assert!(weights.sums(true).is_empty());
    }

    #[test]
    fn names_and_addresses_are_told_apart() {
        let exclude = ["10.0.0.2".to_owned(), "b.example".to_owned()];
        let targets = ["10.0.0.1-10.0.0.3", "a.example", "B.example", "10.0.0.300"];
        let extent = Extent::new(targets.into_iter(), &exclude);
        assert_eq!(extent.addresses.to_string(), "10.0.0.1,10.0.0.3");
        assert_eq!(extent.names.into_iter().collect::<Vec<_>>(), ["a.example"]);
    }

    proptest! {
        #[test]
        fn sums_are_what_counting_gives(laid in prop::collection::vec((any::<u8>(), any::<u8>(), 1u64..9), 0..20)) {
            let mut weights = Weights::default();
            let mut counted = [0u128; 256];
            for (first, last, weight) in laid {
                let range = range(first, last);
                weights.add(&range, weight);
                for n in first.min(last)..=first.max(last) {
                    counted[usize::from(n)] += u128::from(weight);
                }
            }
            let base = u128::from(Ipv4Addr::new(10, 0, 0, 0).to_bits());
            let mut summed = [0u128; 256];
            for ((first, last), sum) in weights.sums(true) {
                prop_assert!(sum > 0);
                for n in first..=last {
                    summed[usize::try_from(n - base).unwrap()] = sum;
                }
            }
            prop_assert_eq!(summed, counted);
        }
    }
}

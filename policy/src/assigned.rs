//! Which satellites do which checks, and what that has them send. Satellites that do the same are reckoned once.

use crate::compile::{CompiledCheck, World, compile};
use crate::extent::{Extent, Span, Weights, address};
use crate::model::Policy;
use ipnet::IpNet;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Millionths of a probe an hour: whole numbers, so that adding and taking away leaves nothing.
pub(crate) const PROBE: u64 = 1_000_000;
const HOUR_MS: u64 = 3_600_000;

/// The checks that are not paused, with what they look at.
pub(crate) struct Assigned {
    /// Ascending by name.
    pub(crate) checks: Vec<CompiledCheck>,
    /// Of each.
    pub(crate) extents: Vec<Extent>,
    /// Probes an hour to each address of each, in units of one [`PROBE`]th.
    pub(crate) rates: Vec<u64>,
    /// Satellites that stand in the same place and do the same.
    pub(crate) groups: Vec<Group>,
}

/// Satellites that stand in the same place and do the same.
pub(crate) struct Group {
    pub(crate) tenant: String,
    /// May be empty.
    pub(crate) segment: String,
    /// Ascending by name; at least one.
    pub(crate) satellites: Vec<String>,
    /// Numbers of checks, ascending.
    pub(crate) checks: Vec<usize>,
}

impl Assigned {
    pub(crate) fn new(policy: &Policy, world: &World, now: Timestamp) -> Self {
        let mut checks = compile(policy, world);
        checks.retain(|check| !check.paused);
        let mut of_satellite: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, check) in checks.iter().enumerate() {
            for satellite in &check.satellites {
                of_satellite.entry(satellite).or_default().push(i);
            }
        }
        let mut alike: BTreeMap<(&str, &str, Vec<usize>), Vec<String>> = BTreeMap::new();
        for (satellite, checks) in of_satellite {
            let Some(facts) = world.satellites.get(satellite) else { continue };
            alike.entry((&facts.tenant, &facts.segment, checks)).or_default().push(satellite.to_owned());
        }
        let groups = alike.into_iter().map(|((tenant, segment, checks), satellites)| Group {
            tenant: tenant.to_owned(),
            segment: segment.to_owned(),
            satellites,
            checks,
        });
        Self {
            groups: groups.collect(),
            extents: checks.iter().map(Extent::of).collect(),
            rates: checks.iter().map(|check| rate(check, now)).collect(),
            checks,
        }
    }

    /// The checks of a group, with what they look at and how often.
    pub(crate) fn of<'a>(
        &'a self,
        group: &'a Group,
    ) -> impl Iterator<Item = (&'a CompiledCheck, &'a Extent, u64)> + 'a {
        group
            .checks
            .iter()
            .filter_map(|i| Some((self.checks.get(*i)?, self.extents.get(*i)?, *self.rates.get(*i)?)))
    }

    /// What each satellite of a group sends to every address.
    pub(crate) fn weights(&self, group: &Group) -> Weights {
        let mut weights = Weights::default();
        for (_, extent, rate) in self.of(group) {
            for range in extent.addresses.ranges() {
                weights.add(&range, rate);
            }
        }
        weights
    }

    /// What each satellite of a group sends to the addresses of every name.
    pub(crate) fn names<'a>(&'a self, group: &'a Group) -> BTreeMap<&'a str, u128> {
        let mut names = BTreeMap::new();
        for (_, extent, rate) in self.of(group) {
            for name in &extent.names {
                *names.entry(name.as_str()).or_default() += u128::from(rate);
            }
        }
        names
    }
}

/// A port that is looked at counts as one probe.
fn rate(check: &CompiledCheck, now: Timestamp) -> u64 {
    let interval = u64::try_from(check.schedule.interval(now).as_millis()).unwrap_or(u64::MAX).max(1);
    // Both protocols have 131,072 ports, so the product fits.
    check.ports.all().len() as u64 * (HOUR_MS * PROBE) / interval
}

/// The network to which most is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busiest {
    /// A /24 or /64.
    pub(crate) network: IpNet,
    /// [`PROBE`]ths an hour.
    pub(crate) rate: u128,
    /// How many networks are above the limit that was given.
    pub(crate) above: u128,
}

/// The busiest of one family's networks, and how many are above a limit; `None` when nothing is sent to any.
pub(crate) fn busiest(v4: bool, sums: &[(Span, u128)], limit: u128) -> Option<Busiest> {
    let (host_bits, prefix) = if v4 { (8, 24) } else { (64, 64) };
    let size = 1u128 << host_bits;
    let (mut number, mut rate, mut above) = (0, 0, 0u128);
    // The network that is being added up.
    let (mut current, mut total) = (None, 0u128);
    let mut finish = |network: Option<u128>, count: u128, total: u128| {
        let Some(network) = network else { return };
        if total > rate {
            (number, rate) = (network, total);
        }
        if total > limit {
            above = above.saturating_add(count);
        }
    };
    for ((first, last), weight) in sums {
        let (from, to) = (first >> host_bits, last >> host_bits);
        if current != Some(from) {
            finish(current.take(), 1, std::mem::take(&mut total));
            current = Some(from);
        }
        let in_first = last.min(&((from << host_bits) | (size - 1))) - first + 1;
        total = total.saturating_add(weight.saturating_mul(in_first));
        if to > from {
            finish(current.take(), 1, total);
            if to - from > 1 {
                finish(Some(from + 1), to - from - 1, weight.saturating_mul(size));
            }
            current = Some(to);
            total = weight.saturating_mul(last - (to << host_bits) + 1);
        }
    }
    finish(current, 1, total);
    let network = IpNet::new(address(v4, number << host_bits), prefix).ok()?;
    (rate > 0).then_some(Busiest { network, rate, above })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    proptest! {
        #[test]
        fn the_busiest_network_is_the_one_that_counting_finds(
            bounds in prop::collection::btree_set(0u128..5 * 256, 0..24),
            limit in 0u128..3000,
        ) {
            let base = u128::from(Ipv4Addr::new(10, 0, 0, 0).to_bits());
            let bounds: Vec<u128> = bounds.into_iter().collect();
            let sums: Vec<(Span, u128)> = bounds
                .chunks_exact(2)
                .zip(1..)
                .map(|(pair, weight)| ((base + pair[0], base + pair[1]), weight))
                .collect();
            let mut counted: BTreeMap<u128, u128> = BTreeMap::new();
            for ((first, last), weight) in &sums {
                for at in *first..=*last {
                    *counted.entry(at >> 8).or_default() += weight;
                }
            }
            let found = busiest(true, &sums, limit);
            prop_assert_eq!(found.map(|found| found.rate), counted.values().max().copied());
            if let Some(found) = found {
                let above = counted.values().filter(|rate| **rate > limit).count();
                prop_assert_eq!(found.above, above as u128);
                let IpNet::V4(network) = found.network else { panic!("{}", found.network) };
                prop_assert_eq!(counted[&(u128::from(network.network().to_bits()) >> 8)], found.rate);
            }
        }
    }

    #[test]
    fn nothing_is_counted_through() {
        let everything = [((0, u128::MAX), u128::from(u64::MAX))];
        let found = busiest(false, &everything, 1).unwrap();
        assert_eq!((found.above, found.network.to_string().as_str()), (1 << 64, "::/64"));
    }
}

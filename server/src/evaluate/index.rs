//! Which checks look at an address or a name, found without asking each.

use super::CheckSpec;
use portolan_common::addresses::AddressRange;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The checks of all tenants, by their places in a list.
#[derive(Default)]
pub(super) struct Index {
    tenants: HashMap<Arc<str>, Tenant>,
}

#[derive(Default)]
struct Tenant {
    ranges: Ranges,
    names: HashMap<String, Vec<usize>>,
    /// Those that have names.
    named: Vec<usize>,
}

impl Index {
    pub(super) fn new<'a>(specs: impl Iterator<Item = &'a CheckSpec>) -> Self {
        let mut tenants: HashMap<Arc<str>, Tenant> = HashMap::new();
        for (check, spec) in specs.enumerate() {
            let tenant = tenants.entry(spec.tenant.clone()).or_default();
            tenant.ranges.0.extend(spec.addresses.ranges().map(|range| Entry {
                range,
                check,
                reach: range.last(),
            }));
            for name in &spec.names {
                tenant.names.entry(name.clone()).or_default().push(check);
            }
            if !spec.names.is_empty() {
                tenant.named.push(check);
            }
        }
        tenants.values_mut().for_each(|tenant| tenant.ranges.arrange());
        Self { tenants }
    }

    /// The checks that look at the address or at the name, each once. What is left out of names is not considered.
    pub(super) fn find(&self, tenant: &str, address: IpAddr, name: &str, found: &mut Vec<usize>) {
        found.clear();
        let Some(tenant) = self.tenants.get(tenant) else { return };
        tenant.ranges.find(address, found);
        if let Some(named) = tenant.names.get(name) {
            found.extend(named);
            found.sort_unstable();
            found.dedup();
        }
    }

    /// The checks that may know an address, by whatever name, each at least once.
    pub(super) fn find_known(&self, tenant: &str, address: IpAddr) -> Vec<usize> {
        let mut found = Vec::new();
        if let Some(tenant) = self.tenants.get(tenant) {
            tenant.ranges.find(address, &mut found);
            found.extend(&tenant.named);
        }
        found
    }
}

/// An interval tree in an array: the middle of a part is its root.
#[derive(Default)]
struct Ranges(Vec<Entry>);

struct Entry {
    range: AddressRange,
    check: usize,
    /// The highest address of any range in the part that this is the root of.
    reach: IpAddr,
}

impl Ranges {
    fn arrange(&mut self) {
        self.0.sort_unstable_by_key(|entry| (entry.range, entry.check));
        reach(&mut self.0);
    }

    fn find(&self, address: IpAddr, found: &mut Vec<usize>) {
        stab(&self.0, address, found);
    }
}

/// Sets how far each part reaches; how far the whole does.
fn reach(part: &mut [Entry]) -> Option<IpAddr> {
    let (left, right) = part.split_at_mut(part.len() / 2);
    let (root, right) = right.split_first_mut()?;
    root.reach = [reach(left), reach(right)].into_iter().flatten().fold(root.range.last(), IpAddr::max);
    Some(root.reach)
}

fn stab(part: &[Entry], address: IpAddr, found: &mut Vec<usize>) {
    let (left, right) = part.split_at(part.len() / 2);
    let Some((root, right)) = right.split_first().filter(|(root, _)| root.reach >= address) else { return };
    stab(left, address, found);
    if root.range.contains(address) {
        found.push(root.check);
    }
    if root.range.first() <= address {
        stab(right, address, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    proptest! {
        #[test]
        fn every_range_around_an_address_is_found(
            ranges in proptest::collection::vec((0u32..60, 0u32..20), 0..40),
            at in 0u32..90,
        ) {
            let v4 = |number| IpAddr::V4(Ipv4Addr::from_bits(number));
            let mut tree = Ranges::default();
            for (check, (first, more)) in ranges.iter().enumerate() {
                let range = AddressRange::new(v4(*first), v4(first + more)).unwrap();
                tree.0.push(Entry { range, check, reach: range.last() });
            }
            tree.arrange();
            let mut found = Vec::new();
            tree.find(v4(at), &mut found);
            found.sort_unstable();
            let all: Vec<usize> = (0..ranges.len())
                .filter(|check| (ranges[*check].0..=ranges[*check].0 + ranges[*check].1).contains(&at))
                .collect();
            prop_assert_eq!(found, all);
        }
    }
}

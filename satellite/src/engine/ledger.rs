//! What a sweep covered and what was refused, as few ranges as it takes. Pure.

use super::{MAX_REFUSALS, Refusal};
use portolan_common::addresses::AddressSet;
use portolan_common::ports::PortSpec;
use std::collections::HashMap;
use std::net::IpAddr;

/// How many addresses wait before they are merged into the set.
const BATCH: usize = 4096;

/// How many different lists of ports the coverage tells apart. More can only come of a scope that is edited again and
/// again during one sweep; what is beyond counts as not covered.
const MAX_PORT_LISTS: usize = 256;

/// Addresses collected one by one.
#[derive(Debug, Default)]
struct Collected {
    set: AddressSet,
    fresh: Vec<IpAddr>,
}

impl Collected {
    fn add(&mut self, address: IpAddr) {
        self.fresh.push(address);
        // Each merge costs as much as the set is long, so the batch grows with it.
        if self.fresh.len() >= BATCH.max(self.set.range_count()) {
            self.merge();
        }
    }

    fn merge(&mut self) {
        self.set = self.set.union(&self.fresh.drain(..).collect());
    }

    fn into_set(mut self) -> AddressSet {
        self.merge();
        self.set
    }
}

/// The record of one sweep.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    covered: HashMap<PortSpec, Collected>,
    refused: HashMap<(Option<PortSpec>, String), Collected>,
    dropped: u64,
}

impl Ledger {
    /// A host is finished on these ports.
    pub(super) fn cover(&mut self, address: IpAddr, ports: &PortSpec) {
        if let Some(addresses) = self.covered.get_mut(ports) {
            addresses.add(address);
        } else if self.covered.len() < MAX_PORT_LISTS {
            self.covered.entry(ports.clone()).or_default().add(address);
        }
    }

    /// These ports of an address, or all that were asked, are refused.
    pub(super) fn refuse(&mut self, address: IpAddr, ports: Option<PortSpec>, rule: String) {
        let key = (ports, rule);
        if self.refused.len() < MAX_REFUSALS || self.refused.contains_key(&key) {
            self.refused.entry(key).or_default().add(address);
        } else {
            self.dropped += 1;
        }
    }

    /// All that was asked of these addresses is refused.
    pub(super) fn refuse_all(&mut self, addresses: AddressSet, rule: String) {
        let refused = self.refused.entry((None, rule)).or_default();
        refused.set = refused.set.union(&addresses);
    }

    /// What was covered, by ports.
    pub(super) fn take_coverage(&mut self) -> Vec<(AddressSet, PortSpec)> {
        let covered = std::mem::take(&mut self.covered).into_iter();
        let mut covered: Vec<_> = covered.map(|(ports, addresses)| (addresses.into_set(), ports)).collect();
        covered.sort_by_key(|(addresses, _)| addresses.nth(0));
        covered
    }

    /// What was refused, by rule and ascending, and how much beyond [`MAX_REFUSALS`].
    pub(super) fn take_refusals(&mut self) -> (Vec<Refusal>, u64) {
        let mut by_rule: Vec<_> = std::mem::take(&mut self.refused).into_iter().collect();
        by_rule.sort_by(|((ports_a, rule_a), _), ((ports_b, rule_b), _)| {
            let text = |ports: &Option<PortSpec>| ports.as_ref().map(PortSpec::to_string);
            (rule_a, text(ports_a)).cmp(&(rule_b, text(ports_b)))
        });
        let mut refusals = Vec::new();
        let mut dropped = std::mem::take(&mut self.dropped);
        for ((ports, rule), addresses) in by_rule {
            for addresses in addresses.into_set().ranges() {
                if refusals.len() < MAX_REFUSALS {
                    refusals.push(Refusal { addresses, ports: ports.clone(), rule: rule.clone() });
                } else {
                    dropped += 1;
                }
            }
        }
        (refusals, dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    #[test]
    fn neighbours_become_ranges() {
        let mut ledger = Ledger::default();
        let ports: PortSpec = "1-10".parse().unwrap();
        for n in (0..20_000).rev() {
            ledger.cover(address(n), &ports);
            if n % 2 == 0 {
                ledger.refuse(address(n), Some(ports.clone()), "careful".to_owned());
            }
            ledger.refuse(address(n), None, "deny".to_owned());
        }
        let coverage = ledger.take_coverage();
        assert_eq!(coverage.len(), 1);
        assert_eq!(coverage[0].0.to_string(), "10.0.0.0-10.0.78.31");
        let (refusals, dropped) = ledger.take_refusals();
        assert_eq!(refusals.len(), MAX_REFUSALS);
        assert_eq!(dropped, 10_000 + 1 - MAX_REFUSALS as u64);
        assert_eq!(refusals[0].addresses.to_string(), "10.0.0.0");
        assert_eq!(refusals[0].ports, Some(ports));
    }

    #[test]
    fn rules_without_end_are_counted() {
        let mut ledger = Ledger::default();
        for n in 0..1500 {
            ledger.refuse(address(n), None, format!("deny {n}"));
        }
        let (refusals, dropped) = ledger.take_refusals();
        assert_eq!((refusals.len(), dropped), (1000, 500));
    }
}

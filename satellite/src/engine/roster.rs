//! Which hosts a sweep visits, in what order, and what the guard says of each when its turn comes. Pure.

use super::ledger::Ledger;
use super::permutation::Permutation;
use super::port_list::PortList;
use jiff::Zoned;
use portolan_common::addresses::AddressSet;
use portolan_common::ports::PortSpec;
use portolan_common::scope::{Guard, PermittedTarget, Refused};
use std::net::IpAddr;
use std::sync::Arc;

/// Hosts are shuffled in blocks of so many, block after block: no network gets a burst, and what is covered or refused
/// of a large range stays few ranges at any time.
const BLOCK: u64 = 1 << 16;

/// How many port lists are kept at hand. Hosts in careful blocks have their own, most hosts the same.
const MAX_LISTS: usize = 16;

/// A host that may be probed.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) target: PermittedTarget,
    /// What of the ports it permits.
    pub(super) list: Arc<PortList>,
    /// What it does not.
    pub(super) refused: PortSpec,
}

/// The hosts that are still to come.
#[derive(Debug)]
pub(super) struct Roster {
    addresses: AddressSet,
    asked: PortSpec,
    len: u64,
    next: u64,
    seed: u64,
    block: Permutation,
    lists: Vec<Arc<PortList>>,
}

impl Roster {
    /// Of these addresses (at most 2^62), all to be probed on the ports asked.
    pub(super) fn new(addresses: AddressSet, asked: PortSpec, seed: u64) -> Self {
        let len = u64::try_from(addresses.len()).unwrap_or(u64::MAX).min(Permutation::MAX_LEN);
        Self {
            addresses,
            asked,
            len,
            next: 0,
            seed,
            block: Permutation::new(len.min(BLOCK), seed),
            lists: Vec::new(),
        }
    }

    /// What to probe of each host.
    pub(super) fn asked(&self) -> &PortSpec {
        &self.asked
    }

    /// The next address; `None` after the last.
    pub(super) fn next(&mut self) -> Option<IpAddr> {
        if self.next >= self.len {
            return None;
        }
        let (start, place) = (self.next - self.next % BLOCK, self.next % BLOCK);
        if place == 0 {
            self.block = Permutation::new((self.len - start).min(BLOCK), self.seed.wrapping_add(self.next));
        }
        self.next += 1;
        self.addresses.nth(u128::from(start + self.block.at(place)))
    }

    /// Asks the guard about an address; what it refuses goes into the ledger.
    pub(super) fn admit(
        &mut self,
        address: IpAddr,
        guard: &Guard,
        now: &Zoned,
        ledger: &mut Ledger,
    ) -> Option<Admitted> {
        let permit = guard.permit(address, &self.asked, now);
        self.note(address, &permit.refused, ledger);
        let target = permit.target?;
        let refused = self.asked.difference(target.ports());
        let list = self.list(target.ports());
        Some(Admitted { target, list, refused })
    }

    /// Takes down what the guard refused of an address.
    pub(super) fn note(&self, address: IpAddr, refused: &[Refused], ledger: &mut Ledger) {
        for Refused { ports, rule } in refused {
            let ports = ports.clone().filter(|ports| *ports != self.asked);
            ledger.refuse(address, ports, rule.clone());
        }
    }

    fn list(&mut self, ports: &PortSpec) -> Arc<PortList> {
        if let Some(list) = self.lists.iter().find(|list| list.spec == *ports) {
            return Arc::clone(list);
        }
        let list = Arc::new(PortList::new(ports.clone()));
        if self.lists.len() >= MAX_LISTS {
            self.lists.remove(0);
        }
        self.lists.push(Arc::clone(&list));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_address_has_its_turn_once() {
        let addresses: AddressSet = "10.0.0.0-10.2.0.9,fd00::1-fd00::100".parse().unwrap();
        let mut roster = Roster::new(addresses.clone(), PortSpec::default(), 11);
        let turns: Vec<IpAddr> = std::iter::from_fn(|| roster.next()).collect();
        assert_eq!(turns.len() as u128, addresses.len());
        assert_eq!(turns.iter().collect::<HashSet<_>>().len(), turns.len());
        let near = turns.windows(2).filter(|pair| match (pair[0], pair[1]) {
            (IpAddr::V4(a), IpAddr::V4(b)) => a.to_bits() >> 8 == b.to_bits() >> 8,
            _ => false,
        });
        assert!(near.count() < 1200, "neighbours follow one another too often");
    }
}

//! How a check fares, put together while it runs and told when it changed. Whatever is checked, a message stays within
//! the bounds of the wire.

use crate::engine::Refusal;
use crate::resolve::Unresolved;
use crate::shown::shown;
use portolan_common::addresses::{AddressRange, AddressSet};
use portolan_common::names::MAX_NAME;
use portolan_proto::v1;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of the error, …
const MAX_ERROR: usize = 1024;
/// … of a rule, a list of ports or a resolver's words, …
const MAX_SHOWN: usize = 400;
/// … refusals, …
const MAX_REFUSALS: usize = 20;
/// … names that do not resolve, …
const MAX_UNRESOLVED: usize = 20;
/// … and ranges of addresses that are told.
const MAX_RANGES: usize = 1000;
/// Ranges of refused addresses that are gathered, and rules.
const MAX_GATHERED: usize = 1 << 16;
const MAX_RULES: usize = 64;

/// What comes up while a check runs once.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    error: Option<String>,
    /// By rule and ports, so that what belongs together is told as ranges.
    refused: BTreeMap<(String, String), Vec<AddressRange>>,
    gathered: usize,
    dropped: u64,
    methods: BTreeSet<String>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    error: String,
    refusals: Vec<v1::Refusal>,
    refusals_dropped: u64,
    method: String,
}

impl Findings {
    /// Something that failed; the first is told.
    pub fn failed(&mut self, why: &str) {
        self.error.get_or_insert_with(|| shown(why, MAX_ERROR));
    }

    /// A method that was used, such as `connect`.
    pub fn used(&mut self, method: &str) {
        if !method.is_empty() && !self.methods.contains(method) {
            self.methods.insert(method.to_owned());
        }
    }

    /// Something that the scope forbids.
    pub fn refused(&mut self, refusal: &Refusal) {
        let ports = refusal.ports.as_ref().map(|ports| shown(&ports.to_string(), MAX_SHOWN));
        let key = (shown(&refusal.rule, MAX_SHOWN), ports.unwrap_or_default());
        let known = self.refused.contains_key(&key);
        if self.gathered >= MAX_GATHERED || (!known && self.refused.len() >= MAX_RULES) {
            self.dropped += 1;
            return;
        }
        self.gathered += 1;
        self.refused.entry(key).or_default().push(refusal.addresses);
    }

    /// Refusals that were only counted.
    pub fn refused_more(&mut self, count: u64) {
        self.dropped += count;
    }

    /// It ran to its end.
    pub fn outcome(self) -> Outcome {
        let mut refusals = Vec::new();
        let mut dropped = self.dropped;
        for ((rule, ports), addresses) in self.refused {
            for range in addresses.into_iter().collect::<AddressSet>().ranges() {
                if refusals.len() < MAX_REFUSALS {
                    let (ports, rule) = (ports.clone(), rule.clone());
                    refusals.push(v1::Refusal { target: range.to_string(), ports, rule });
                } else {
                    dropped += 1;
                }
            }
        }
        Outcome {
            error: self.error.unwrap_or_default(),
            refusals,
            refusals_dropped: dropped,
            method: self.methods.into_iter().collect::<Vec<_>>().join(", "),
        }
    }
}

/// What a status is made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The check's name.
    pub check: &'a str,
    /// The assignment's.
    pub revision: u64,
    /// By this machine's clock.
    pub at_ms: i64,
    /// What it comes to.
    pub addresses: &'a AddressSet,
    /// What it does not.
    pub unresolved: &'a [Unresolved],
    /// The interval that it really has; 0: its own.
    pub interval_ms: u64,
    /// How it fared.
    pub outcome: &'a Outcome,
}

/// The message.
pub fn status(facts: Facts<'_>) -> v1::CheckStatus {
    let ranges = facts.addresses.range_count();
    let Outcome { error, refusals, refusals_dropped, method } = facts.outcome.clone();
    v1::CheckStatus {
        check: facts.check.to_owned(),
        revision: facts.revision,
        at_ms: facts.at_ms,
        error,
        refusals,
        refusals_dropped,
        unresolved: facts
            .unresolved
            .iter()
            .take(MAX_UNRESOLVED)
            .map(|unresolved| v1::Unresolved {
                name: unresolved.name.clone(),
                error: shown(&unresolved.error, MAX_SHOWN),
            })
            .collect(),
        unresolved_dropped: facts.unresolved.len().saturating_sub(MAX_UNRESOLVED) as u64,
        addresses: facts.addresses.ranges().take(MAX_RANGES).map(|range| range.to_string()).collect(),
        addresses_dropped: ranges.saturating_sub(MAX_RANGES) as u64,
        interval_ms: facts.interval_ms,
        method,
    }
}

/// Of a check that cannot run at all.
pub fn failed(check: &str, revision: u64, at_ms: i64, why: &str) -> v1::CheckStatus {
    let error = shown(why, MAX_ERROR);
    // Its name may be what is wrong with it.
    v1::CheckStatus { check: shown(check, MAX_NAME), revision, at_ms, error, ..v1::CheckStatus::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_common::ports::{PortSet, PortSpec};
    use prost::Message as _;
    use std::net::Ipv6Addr;

    fn refusal(n: u32, rule: &str) -> Refusal {
        let address = Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(n));
        Refusal { addresses: AddressRange::single(address.into()), ports: None, rule: rule.to_owned() }
    }

    /// A record that is larger than the server takes would be sent again for ever.
    #[test]
    fn the_largest_status_fits() {
        let mut findings = Findings::default();
        findings.failed(&"é".repeat(10_000));
        findings.failed("another");
        let tcp: PortSet = (0..500u16).map(|n| n * 2).collect();
        let ports = PortSpec { tcp, udp: PortSet::default() };
        for n in 0..100_000 {
            let ports = (n < 100).then(|| ports.clone());
            let refusal = refusal(n * 2, &format!("{}{}", n % 100, "r".repeat(1000)));
            findings.refused(&Refusal { ports, ..refusal });
        }
        for n in 0..10 {
            findings.used(&format!("method-{n}"));
        }
        let outcome = findings.outcome();
        let unresolved: Vec<Unresolved> = (0..1000)
            .map(|n| Unresolved { name: format!("{n}{}", "n".repeat(250)), error: "e".repeat(1000) })
            .collect();
        let addresses: AddressSet = (0..5000).map(|n| refusal(n * 2, "").addresses).collect();
        let facts = Facts {
            check: "shop",
            revision: 3,
            at_ms: 4,
            addresses: &addresses,
            unresolved: &unresolved,
            interval_ms: 5,
            outcome: &outcome,
        };
        let status = status(facts);
        assert!(status.encoded_len() <= 64 * 1024, "{} bytes", status.encoded_len());
        assert_eq!(status.refusals.len() as u64 + status.refusals_dropped, 100_000);
        assert_eq!((status.refusals.len(), status.unresolved.len()), (20, 20));
        assert_eq!((status.unresolved_dropped, status.addresses_dropped), (980, 4000));
        assert!(status.method.starts_with("method-0, ") && status.error.len() <= 1024);
    }

    #[test]
    fn so_does_that_of_a_check_whose_name_is_wrong() {
        let status = failed(&"n".repeat(1 << 20), 3, 4, &"w".repeat(1 << 20));
        assert!(status.encoded_len() <= 2 * 1024, "{} bytes", status.encoded_len());
    }

    /// Answers come in any order; a status that only differs in that would be told again and again.
    #[test]
    fn the_order_in_which_things_come_up_does_not_matter() {
        let mut forwards = Findings::default();
        let mut backwards = Findings::default();
        for n in 0..100 {
            forwards.refused(&refusal(n, "deny a"));
            backwards.refused(&refusal(99 - n, "deny a"));
        }
        let outcome = forwards.outcome();
        assert_eq!(outcome, backwards.outcome());
        assert_eq!(outcome.refusals.len(), 1, "{outcome:?}");
    }
}

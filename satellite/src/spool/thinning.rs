//! What a full spool can do without: hosts that were seen again just as an earlier kept record has them. What differs
//! from that, and the first sight of an address, stays. Bounded memory, no I/O.

use portolan_proto::{batch, v1};
use prost::Message as _;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};

/// Addresses that are remembered in one walk over the spool: a /16, some 3 MB.
pub const MAX_ADDRESSES: usize = 65_536;

/// What the kept records said last of each address.
#[derive(Debug)]
pub struct Seen {
    last: HashMap<[u8; 16], u64>,
    capacity: usize,
    /// Keyed anew for every walk: who is scanned must not be able to make two different results look alike.
    keys: RandomState,
}

/// A batch without what it repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinned {
    /// The hosts that stay, each behind its length.
    pub batch: Vec<u8>,
    /// How many these are.
    pub kept: u32,
    /// How many repeated what was known.
    pub confirmations: u32,
}

impl Seen {
    /// Nothing yet; at most `capacity` addresses.
    pub fn new(capacity: usize) -> Self {
        Self { last: HashMap::new(), capacity, keys: RandomState::new() }
    }

    /// Takes note of a host; whether that says nothing new. An address that there is no room for is always new.
    pub fn repeats(&mut self, host: &v1::HostObservation) -> bool {
        let Some(address) = key(&host.address) else { return false };
        let hash = self.hash(host);
        if let Some(last) = self.last.get_mut(&address) {
            return std::mem::replace(last, hash) == hash;
        }
        if self.last.len() < self.capacity {
            self.last.insert(address, hash);
        }
        false
    }

    /// Walks over the next batch, oldest first. `None` when it stays as it is: it repeats nothing, or cannot be read.
    pub fn thin(&mut self, hosts: &[u8]) -> Option<Thinned> {
        let mut thinned = Thinned { batch: Vec::new(), kept: 0, confirmations: 0 };
        for encoded in batch::encoded_hosts(hosts) {
            // Damage never gets through the checksum; what cannot be read all the same is left for the server to judge.
            let host = v1::HostObservation::decode(encoded.ok()?).ok()?;
            if self.repeats(&host) {
                thinned.confirmations += 1;
            } else {
                thinned.kept += 1;
                batch::push(&mut thinned.batch, &host);
            }
        }
        (thinned.confirmations > 0).then_some(thinned)
    }

    /// Over everything that counts as a change: not the times, not the round trips. A name that was scanned counts, a
    /// network or range that the address was part of does not.
    fn hash(&self, host: &v1::HostObservation) -> u64 {
        let mut hasher = self.keys.build_hasher();
        host.up.hash(&mut hasher);
        let is_name = host.target.contains(|c: char| c.is_ascii_alphabetic()) && !host.target.contains(':');
        if is_name {
            host.target.hash(&mut hasher);
        }
        let mut runs: Vec<_> = host
            .runs
            .iter()
            .map(|run| {
                let spans = run.ports.as_ref().map(|ports| ports.spans.as_slice()).unwrap_or_default();
                (run.protocol, run.state, run.reason, spans)
            })
            .collect();
        runs.sort_unstable();
        runs.hash(&mut hasher);
        for unscanned in [&host.unscanned_tcp, &host.unscanned_udp] {
            unscanned.as_ref().map(|ports| ports.spans.as_slice()).unwrap_or_default().hash(&mut hasher);
        }
        host.suspect.as_ref().map(|suspect| suspect.kind).hash(&mut hasher);
        hasher.finish()
    }
}

/// IPv4 mapped into IPv6: one address has one key.
fn key(address: &[u8]) -> Option<[u8; 16]> {
    if let Ok(v4) = <[u8; 4]>::try_from(address) {
        return Some(std::net::Ipv4Addr::from(v4).to_ipv6_mapped().octets());
    }
    address.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(address: u8, port: u32, time: i64) -> v1::HostObservation {
        v1::HostObservation {
            target: "10.0.0.0/24".into(),
            address: vec![10, 0, 0, address],
            up: true,
            observed_at_ms: time,
            runs: vec![v1::StateRun {
                protocol: 1,
                state: 1,
                reason: 1,
                ports: Some(v1::PortSpans { spans: vec![port, 0] }),
            }],
            details: vec![v1::PortDetail { protocol: 1, port, rtt_us: u32::try_from(time).unwrap_or(0) }],
            ..v1::HostObservation::default()
        }
    }

    #[test]
    fn a_repetition_goes_and_a_change_back_stays() {
        let mut seen = Seen::new(10);
        assert!(!seen.repeats(&host(1, 22, 1)));
        assert!(seen.repeats(&host(1, 22, 2)));
        assert!(!seen.repeats(&host(1, 23, 3)));
        assert!(!seen.repeats(&host(1, 22, 4)), "back to what it was is a change");
        assert!(!seen.repeats(&host(2, 22, 5)));
        let named = v1::HostObservation { target: "shop.example".into(), ..host(2, 22, 6) };
        assert!(!seen.repeats(&named), "a new name of an address is news");
        let down = v1::HostObservation { up: false, ..named.clone() };
        assert!(!seen.repeats(&down));
        let mapped = v1::HostObservation {
            address: std::net::Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped().octets().to_vec(),
            ..down.clone()
        };
        assert!(seen.repeats(&mapped));
        assert!(!seen.repeats(&v1::HostObservation { address: vec![1; 3], ..down }));
    }

    #[test]
    fn what_does_not_fit_into_memory_stays() {
        let mut seen = Seen::new(1);
        for _ in 0..3 {
            seen.repeats(&host(1, 22, 1));
            assert!(!seen.repeats(&host(2, 22, 1)));
        }
        assert_eq!(seen.last.len(), 1);
        let mut batch = Vec::new();
        batch::push(&mut batch, &host(1, 22, 1));
        batch.push(200);
        assert_eq!(seen.thin(&batch), None, "what cannot be read stays as it is");
    }

    proptest! {
        /// No change is lost: who follows the kept hosts alone knows the same of every address at every time.
        #[test]
        fn the_kept_hosts_tell_every_change(
            hosts in proptest::collection::vec((0u8..5, 1u32..4), 0..200),
            capacity in 0usize..6,
            size in 1usize..20,
        ) {
            let mut seen = Seen::new(capacity);
            let (mut whole, mut thin): (HashMap<u8, u32>, HashMap<u8, u32>) = Default::default();
            let mut kept = 0u64;
            let mut dropped = 0u64;
            for (n, chunk) in hosts.chunks(size).enumerate() {
                let mut batch = Vec::new();
                for (i, (address, port)) in chunk.iter().enumerate() {
                    batch::push(&mut batch, &host(*address, *port, (n * size + i) as i64));
                    whole.insert(*address, *port);
                }
                let thinned = seen.thin(&batch).unwrap_or(Thinned {
                    kept: chunk.len() as u32, confirmations: 0, batch,
                });
                kept += u64::from(thinned.kept);
                dropped += u64::from(thinned.confirmations);
                prop_assert_eq!(batch::hosts(&thinned.batch).count(), thinned.kept as usize);
                for host in batch::hosts(&thinned.batch) {
                    let host = host.unwrap();
                    let (address, port) = (host.address[3], host.details[0].port);
                    // A kept host is a change, unless there was no room to know.
                    let before = thin.insert(address, port);
                    prop_assert!(before != Some(port) || capacity < 5);
                }
                prop_assert_eq!(&whole, &thin);
            }
            prop_assert_eq!(kept + dropped, hosts.len() as u64);
        }
    }
}

//! What a full spool can do without: hosts that were seen again just as earlier kept records have them. What differs
//! from that, and the first sight of a port, stays. Several checks may look at different ports of one address in turn,
//! so what counts is what was last said of each port, by whichever of them. Bounded memory, no I/O.

use portolan_proto::{batch, v1};
use prost::Message as _;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};

/// What is remembered in one walk over the spool: addresses, and spans of ports that share a state. A /16 with a few
/// spans each, some 10 MB.
pub const MAX_REMEMBERED: usize = 4 * 65_536;

/// Ways of asking that are remembered of one address; of more, the oldest is forgotten.
const MAX_FACETS: usize = 16;

/// What the kept records said last of each address.
#[derive(Debug)]
pub struct Seen {
    last: HashMap<[u8; 16], Host>,
    /// How many addresses and spans more there is room for.
    room: usize,
    /// Keyed anew for every walk: who is scanned must not be able to make two different results look alike.
    keys: RandomState,
}

/// What was last said of one address.
#[derive(Debug, Default)]
struct Host {
    /// Ascending and disjoint.
    spans: Vec<Span>,
    /// By what was asked, the one that came last at the end.
    facets: Vec<Facet>,
}

/// Ports that share a state and a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    protocol: i32,
    first: u32,
    last: u32,
    state: i32,
    reason: i32,
}

/// What is said of a host as a whole, whenever the same is asked of it: its ports and the name that it goes by.
#[derive(Clone, Copy, Debug)]
struct Facet {
    asked: u64,
    said: u64,
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
    /// Nothing yet; at most `capacity` addresses and spans.
    pub fn new(capacity: usize) -> Self {
        Self { last: HashMap::new(), room: capacity, keys: RandomState::new() }
    }

    /// Takes note of a host; whether that says nothing new. An address that there is no room for is always new.
    pub fn repeats(&mut self, host: &v1::HostObservation) -> bool {
        let (Some(address), Some(spans)) = (key(&host.address), spans(host)) else { return false };
        let (facet, named) = self.facet(host);
        let known = self.last.remove(&address);
        self.room += known.as_ref().map_or(0, |known| known.spans.len() + 1);
        let fresh = known.is_none();
        let mut known = known.unwrap_or_default();
        let repeats = !fresh && known.covers(&spans) && known.says(facet, named);
        if !repeats {
            known.overlay(&spans);
        }
        known.take(facet);
        // What is not remembered counts as new the next time, so that nothing is lost by it.
        if let Some(room) = self.room.checked_sub(known.spans.len() + 1) {
            self.room = room;
            self.last.insert(address, known);
        }
        repeats
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

    /// What is said beside the ports' states, and whether the host goes by a name. Not the times, not the round trips. A
    /// name that was scanned counts, a network or range that the address was part of does not.
    fn facet(&self, host: &v1::HostObservation) -> (Facet, bool) {
        let named = host.target.contains(|c: char| c.is_ascii_alphabetic()) && !host.target.contains(':');
        let mut asked = self.keys.build_hasher();
        named.then_some(&host.target).hash(&mut asked);
        let mut ports: Vec<(i32, u32, u32)> = spans(host)
            .unwrap_or_default()
            .iter()
            .map(|span| (span.protocol, span.first, span.last))
            .collect();
        ports.dedup_by(|next, before| {
            // Which of them share a state does not matter here.
            let joins = next.0 == before.0 && next.1 == before.2 + 1;
            if joins {
                before.2 = next.2;
            }
            joins
        });
        ports.hash(&mut asked);
        let mut said = self.keys.build_hasher();
        host.up.hash(&mut said);
        for unscanned in [&host.unscanned_tcp, &host.unscanned_udp] {
            unscanned.as_ref().map(|ports| ports.spans.as_slice()).unwrap_or_default().hash(&mut said);
        }
        host.suspect.as_ref().map(|suspect| suspect.kind).hash(&mut said);
        (Facet { asked: asked.finish(), said: said.finish() }, named)
    }
}

impl Host {
    /// Whether all of it is known already.
    fn covers(&self, spans: &[Span]) -> bool {
        spans.iter().all(|span| {
            let mut next = span.first;
            let from = self.spans.partition_point(|s| (s.protocol, s.last) < (span.protocol, span.first));
            for known in self.spans.iter().skip(from) {
                let same =
                    (known.protocol, known.state, known.reason) == (span.protocol, span.state, span.reason);
                if next > span.last || !same || known.first > next {
                    break;
                }
                next = known.last + 1;
            }
            next > span.last
        })
    }

    /// Whether the same was said of the host when this was asked last; or, where it never was asked in this way,
    /// whether the same was said of it last. A name that was never asked for is new.
    fn says(&self, facet: Facet, named: bool) -> bool {
        match self.facets.iter().find(|known| known.asked == facet.asked) {
            Some(known) => known.said == facet.said,
            None => !named && self.facets.last().is_some_and(|known| known.said == facet.said),
        }
    }

    fn take(&mut self, facet: Facet) {
        self.facets.retain(|known| known.asked != facet.asked);
        if self.facets.len() >= MAX_FACETS {
            self.facets.remove(0);
        }
        self.facets.push(facet);
    }

    /// Puts what is seen now over what was known.
    fn overlay(&mut self, spans: &[Span]) {
        let mut next = spans.to_vec();
        for known in self.spans.drain(..) {
            let mut first = known.first;
            let from = spans.partition_point(|s| (s.protocol, s.last) < (known.protocol, known.first));
            for new in spans.iter().skip(from) {
                if new.protocol != known.protocol || new.first > known.last {
                    break;
                }
                if new.first > first {
                    next.push(Span { first, last: new.first - 1, ..known });
                }
                first = new.last + 1;
            }
            if first <= known.last {
                next.push(Span { first, ..known });
            }
        }
        next.sort_unstable();
        self.spans = next;
        self.spans.dedup_by(|next, before| {
            let joins = (next.protocol, next.state, next.reason)
                == (before.protocol, before.state, before.reason)
                && next.first == before.last + 1;
            if joins {
                before.last = next.last;
            }
            joins
        });
    }
}

/// The ports and what was seen of them, ascending; `None` when they make no sense: left for the server to judge.
fn spans(host: &v1::HostObservation) -> Option<Vec<Span>> {
    let mut spans = Vec::new();
    for run in &host.runs {
        let (pairs, []) = run.ports.as_ref()?.spans.as_chunks::<2>() else { return None };
        let mut next = 0u32;
        for [gap, more] in pairs {
            let first = next.checked_add(*gap)?;
            let last = first.checked_add(*more).filter(|last| *last <= u16::MAX.into())?;
            next = last + 1;
            spans.push(Span { protocol: run.protocol, first, last, state: run.state, reason: run.reason });
        }
    }
    spans.sort_unstable();
    let disjoint = spans.windows(2).all(|pair| match pair {
        [a, b] => a.protocol != b.protocol || a.last < b.first,
        _ => true,
    });
    disjoint.then_some(spans)
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
        assert!(!seen.repeats(&look(1, &[(22, 2)])));
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

    /// `states` by port, of one address; a closed port is 2, a silent one 3.
    fn look(address: u8, states: &[(u32, i32)]) -> v1::HostObservation {
        let mut runs: Vec<v1::StateRun> = Vec::new();
        for state in [1, 2, 3] {
            let (mut spans, mut next) = (Vec::new(), 0);
            for (port, _) in states.iter().filter(|(_, of)| *of == state) {
                spans.extend([port - next, 0]);
                next = port + 1;
            }
            if !spans.is_empty() {
                runs.push(v1::StateRun {
                    protocol: 1,
                    state,
                    reason: state,
                    ports: Some(v1::PortSpans { spans }),
                });
            }
        }
        let up = states.iter().any(|(_, state)| *state != 3);
        v1::HostObservation { runs, up, details: Vec::new(), ..host(address, 1, 1) }
    }

    #[test]
    fn looks_at_different_ports_in_turn_are_told_apart() {
        let mut seen = Seen::new(100);
        let (web, mail, both) = (look(1, &[(80, 1)]), look(1, &[(25, 3)]), look(1, &[(25, 3), (80, 1)]));
        assert!(!seen.repeats(&web));
        assert!(!seen.repeats(&mail));
        for _ in 0..3 {
            assert!(seen.repeats(&web) && seen.repeats(&mail), "they say nothing of one another");
        }
        assert!(
            !seen.repeats(&both),
            "that it is up is news of this asking, since the last said that it is not"
        );
        assert!(seen.repeats(&both) && seen.repeats(&web) && seen.repeats(&mail));
        // A closer look sees a change and then none any more: the next sweep says so.
        assert!(!seen.repeats(&look(1, &[(80, 2)])));
        assert!(!seen.repeats(&both), "back to what it was is a change, whoever saw it");
        assert!(!seen.repeats(&look(1, &[(80, 2)])));
        assert!(!seen.repeats(&web));
    }

    /// Two names of one address are asked in turn.
    #[test]
    fn names_in_turn_are_repetitions() {
        let mut seen = Seen::new(100);
        let named = |name: &str| v1::HostObservation { target: name.into(), ..host(1, 22, 1) };
        assert!(!seen.repeats(&named("a.example")) && !seen.repeats(&named("b.example")));
        assert!(seen.repeats(&named("a.example")) && seen.repeats(&named("b.example")));
        assert!(seen.repeats(&host(1, 22, 1)), "a network says nothing new");
    }

    #[test]
    fn what_does_not_fit_into_memory_stays() {
        let mut seen = Seen::new(2);
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
        /// No change is lost: who follows the kept looks alone knows the same of every port at every time, whichever
        /// ports were looked at together; and where there is room, what changes nothing goes.
        #[test]
        fn the_kept_looks_tell_every_change(
            looks in proptest::collection::vec(
                (0u8..4, proptest::collection::btree_map(1u32..8, 1i32..4, 1..5)), 0..200),
            capacity in prop_oneof![0usize..12, Just(1000)],
            size in 1usize..20,
        ) {
            let mut seen = Seen::new(capacity);
            let (mut whole, mut thin) = (HashMap::<(u8, u32), i32>::new(), HashMap::<(u8, u32), i32>::new());
            let (mut kept, mut dropped, mut silent) = (0u64, 0u64, 0u64);
            for chunk in looks.chunks(size) {
                let mut batch = Vec::new();
                for (address, states) in chunk {
                    let states: Vec<(u32, i32)> = states.iter().map(|(port, state)| (*port, *state)).collect();
                    batch::push(&mut batch, &look(*address, &states));
                    let changes = states.iter().any(|(port, state)| whole.get(&(*address, *port)) != Some(state));
                    silent += u64::from(!changes);
                    whole.extend(states.into_iter().map(|(port, state)| ((*address, port), state)));
                }
                let thinned = seen.thin(&batch).unwrap_or(Thinned {
                    kept: chunk.len() as u32, confirmations: 0, batch,
                });
                kept += u64::from(thinned.kept);
                dropped += u64::from(thinned.confirmations);
                prop_assert_eq!(batch::hosts(&thinned.batch).count(), thinned.kept as usize);
                for host in batch::hosts(&thinned.batch) {
                    let host = host.unwrap();
                    for span in spans(&host).unwrap() {
                        thin.extend((span.first..=span.last).map(|port| ((host.address[3], port), span.state)));
                    }
                }
                prop_assert_eq!(&whole, &thin);
            }
            prop_assert_eq!(kept + dropped, looks.len() as u64);
            prop_assert!(dropped <= silent, "only what changes nothing is dropped");
        }

        /// Checks that look at the same in turn, over and over, cost their first looks and no more.
        #[test]
        fn what_stays_the_same_is_kept_once(
            checks in proptest::collection::vec((0u8..4, proptest::collection::btree_set(1u32..30, 1..10)), 1..8),
            rounds in 2usize..6,
        ) {
            let mut seen = Seen::new(1000);
            // What a port says of itself does not depend on who asks.
            let looks: Vec<v1::HostObservation> = checks
                .iter()
                .map(|(address, ports)| {
                    let states: Vec<(u32, i32)> = ports.iter().map(|port| (*port, 1 + (port % 3) as i32)).collect();
                    look(*address, &states)
                })
                .collect();
            for look in &looks {
                seen.repeats(look);
            }
            for _ in 0..rounds {
                for look in &looks {
                    prop_assert!(seen.repeats(look));
                }
            }
        }
    }
}

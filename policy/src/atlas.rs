//! Which segment an address lies in: that of the smallest network that has it.

use crate::extent::{Span, address, span};
use crate::model::Segment;
use portolan_common::addresses::{AddressRange, AddressSet};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The segments of one tenant over its addresses.
#[derive(Default)]
pub(crate) struct Atlas<'a> {
    /// IPv4 and IPv6 apart: ascending, disjoint spans and the segment that each lies in.
    pieces: [Vec<(Span, &'a str)>; 2],
}

impl<'a> Atlas<'a> {
    /// Of every tenant that has a segment.
    pub(crate) fn of_all(segments: &'a BTreeMap<String, Segment>) -> BTreeMap<&'a str, Self> {
        let mut claims: BTreeMap<&str, [Vec<(Span, &str)>; 2]> = BTreeMap::new();
        for (name, segment) in segments {
            let of_tenant = claims.entry(&segment.tenant).or_default();
            for network in &segment.cidrs {
                let (v4, span) = span(&AddressRange::from(*network));
                let [of_v4, of_v6] = of_tenant;
                if v4 { of_v4 } else { of_v6 }.push((span, name.as_str()));
            }
        }
        claims.into_iter().map(|(tenant, claims)| (tenant, Self { pieces: claims.map(flatten) })).collect()
    }

    /// What of some ascending, disjoint spans of a family lies in which segment; `None`: in none.
    pub(crate) fn split<T: Copy>(
        &self,
        v4: bool,
        spans: &[(Span, T)],
        mut see: impl FnMut(Option<&'a str>, Span, T),
    ) {
        let [of_v4, of_v6] = &self.pieces;
        let pieces = if v4 { of_v4 } else { of_v6 };
        let Some(((begin, _), _)) = spans.first() else { return };
        let mut at = pieces.partition_point(|((_, last), _)| last < begin);
        for ((first, last), value) in spans {
            let mut next = Some(*first);
            while let Some(from) = next {
                while pieces.get(at).is_some_and(|((_, end), _)| *end < from) {
                    at += 1;
                }
                let (end, segment) = match pieces.get(at) {
                    Some(((begin, end), segment)) if *begin <= from => (*end.min(last), Some(*segment)),
                    Some(((begin, _), _)) if begin <= last => (begin - 1, None),
                    _ => (*last, None),
                };
                see(segment, (from, end), *value);
                next = end.checked_add(1).filter(|next| next <= last);
            }
        }
    }

    /// The addresses that lie in no segment.
    pub(crate) fn outside(&self, addresses: &AddressSet) -> Vec<AddressRange> {
        let mut outside = Vec::new();
        for family in [true, false] {
            let spans = addresses.ranges().map(|range| span(&range)).filter(|(v4, _)| *v4 == family);
            let spans: Vec<_> = spans.map(|(_, span)| (span, ())).collect();
            self.split(family, &spans, |segment, (first, last), ()| {
                if segment.is_none() {
                    outside.extend(AddressRange::new(address(family, first), address(family, last)));
                }
            });
        }
        outside
    }
}

/// Cuts networks that lie in one another into disjoint pieces, each of the smallest network that has it.
fn flatten(mut claims: Vec<(Span, &str)>) -> Vec<(Span, &str)> {
    claims.sort_unstable_by_key(|((first, last), _)| (*first, Reverse(*last)));
    let mut pieces = Vec::with_capacity(claims.len());
    // The networks that the sweep is in, each in the one before, with its first address that no piece has yet.
    let mut around: Vec<(Option<u128>, u128, &str)> = Vec::new();
    for ((first, last), segment) in claims {
        while let Some((rest, end, outer)) = around.pop_if(|(_, end, _)| *end < first) {
            pieces.extend(rest.filter(|rest| *rest <= end).map(|rest| ((rest, end), outer)));
        }
        if let Some((rest, _, outer)) = around.last_mut() {
            pieces.extend(rest.filter(|rest| *rest < first).map(|rest| ((rest, first - 1), *outer)));
            *rest = last.checked_add(1);
        }
        around.push((Some(first), last, segment));
    }
    while let Some((rest, end, outer)) = around.pop() {
        pieces.extend(rest.filter(|rest| *rest <= end).map(|rest| ((rest, end), outer)));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::IpNet;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn segments(networks: &[IpNet]) -> BTreeMap<String, Segment> {
        let segment = |network: &IpNet| Segment {
            tenant: "default".to_owned(),
            cidrs: vec![*network],
            description: String::new(),
            labels: BTreeMap::new(),
            seen_as: BTreeMap::new(),
        };
        networks.iter().map(|network| (network.to_string(), segment(network))).collect()
    }

    #[test]
    fn the_whole_of_ipv6_is_a_segment_too() {
        let segments = segments(&["::/0".parse().unwrap(), "fd00::/64".parse().unwrap()]);
        let atlases = Atlas::of_all(&segments);
        let all = AddressSet::from("fd00::/48".parse::<IpNet>().unwrap());
        assert!(atlases["default"].outside(&all).is_empty());
        let last: AddressSet = AddressSet::single("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap());
        assert!(atlases["default"].outside(&last).is_empty());
        assert_eq!(Atlas::default().outside(&last).len(), 1);
    }

    proptest! {
        #[test]
        fn the_smallest_network_has_the_address(
            networks in prop::collection::vec((any::<u8>(), 24u8..=32), 0..12),
            spans in prop::collection::btree_set(any::<u8>(), 0..12),
        ) {
            let network = |(host, prefix): (u8, u8)| {
                IpNet::new(Ipv4Addr::new(10, 0, 0, host).into(), prefix).unwrap().trunc()
            };
            let mut networks: Vec<IpNet> = networks.into_iter().map(network).collect();
            networks.sort();
            networks.dedup();
            let segments = segments(&networks);
            let atlases = Atlas::of_all(&segments);
            let empty = Atlas::default();
            let atlas = atlases.get("default").unwrap_or(&empty);
            let bounds: Vec<u8> = spans.into_iter().collect();
            let base = u128::from(Ipv4Addr::new(10, 0, 0, 0).to_bits());
            let spans: Vec<_> = bounds
                .chunks_exact(2)
                .map(|pair| ((base + u128::from(pair[0]), base + u128::from(pair[1])), ()))
                .collect();
            let mut seen = Vec::new();
            atlas.split(true, &spans, |segment, (first, last), ()| {
                seen.extend((first..=last).map(|at| (at, segment.map(str::to_owned))));
            });
            let expected: Vec<_> = spans
                .iter()
                .flat_map(|((first, last), ())| *first..=*last)
                .map(|at| {
                    let holding = networks.iter().filter(|network| network.contains(&address(true, at)));
                    (at, holding.max_by_key(|network| network.prefix_len()).map(ToString::to_string))
                })
                .collect();
            prop_assert_eq!(seen, expected);
        }
    }
}

//! What a policy has its satellites send: from segment to segment, and on the busiest path.

use crate::assigned::{Assigned, PROBE, busiest};
use crate::atlas::Atlas;
use crate::{Policy, World};
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The `from` or `to` of what lies in no segment.
pub const NO_SEGMENT: &str = "(none)";

/// What crosses from one segment to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairLoad {
    /// The segment of the satellites.
    pub from: String,
    /// The segment of the targets.
    pub to: String,
    /// Of all satellites together, rounded up. A port that is looked at counts as one; silent ones take up to four.
    pub probes_per_hour: u64,
}

/// What one satellite sends to one network.
#[derive(Clone, Debug, PartialEq)]
pub struct PathLoad {
    /// Its name.
    pub satellite: String,
    /// A /24 or /64; a name whose addresses are not known here counts as a network of its own.
    pub network: String,
    /// On an average.
    pub probes_per_second: f64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Busiest first.
    pub pairs: Vec<PairLoad>,
    /// `None`: nothing is sent.
    pub busiest: Option<PathLoad>,
}

/// What the checks of a policy send, paused ones left out.
pub fn load(policy: &Policy, world: &World, now: Timestamp) -> Load {
    let assigned = Assigned::new(policy, world, now);
    let atlases = Atlas::of_all(&policy.segments);
    let nowhere = Atlas::default();
    let mut pairs: BTreeMap<(&str, &str), u128> = BTreeMap::new();
    let mut worst: Option<(u128, &str, String)> = None;
    for group in &assigned.groups {
        let Some(satellite) = group.satellites.first() else { continue };
        let mut offer = |rate: u128, network: &dyn ToString| {
            if worst.as_ref().is_none_or(|(worst, ..)| rate > *worst) {
                worst = Some((rate, satellite, network.to_string()));
            }
        };
        let count = group.satellites.len() as u128;
        let from = named(Some(&group.segment));
        let atlas = atlases.get(group.tenant.as_str()).unwrap_or(&nowhere);
        let mut weights = assigned.weights(group);
        for v4 in [true, false] {
            let sums = weights.sums(v4);
            atlas.split(v4, &sums, |segment, (first, last), rate| {
                let addresses = (last - first).saturating_add(1);
                let sent = rate.saturating_mul(addresses).saturating_mul(count);
                let pair = pairs.entry((from, named(segment))).or_default();
                *pair = pair.saturating_add(sent);
            });
            if let Some(path) = busiest(v4, &sums, u128::MAX) {
                offer(path.rate, &path.network);
            }
        }
        for (name, rate) in assigned.names(group) {
            *pairs.entry((from, NO_SEGMENT)).or_default() += rate.saturating_mul(count);
            offer(rate, &name);
        }
    }
    let mut pairs: Vec<_> = pairs
        .into_iter()
        .map(|((from, to), rate)| PairLoad {
            from: from.to_owned(),
            to: to.to_owned(),
            probes_per_hour: rate.div_ceil(PROBE.into()).try_into().unwrap_or(u64::MAX),
        })
        .collect();
    pairs.sort_by_key(|pair| Reverse(pair.probes_per_hour));
    let busiest = worst.map(|(rate, satellite, network)| PathLoad {
        satellite: satellite.to_owned(),
        network,
        probes_per_second: per_second(rate),
    });
    Load { pairs, busiest }
}

fn named(segment: Option<&str>) -> &str {
    segment.filter(|segment| !segment.is_empty()).unwrap_or(NO_SEGMENT)
}

/// What a rate in [`PROBE`]ths an hour is in a second.
pub(crate) fn per_second(rate: u128) -> f64 {
    rate as f64 / (PROBE as f64 * 3600.0)
}

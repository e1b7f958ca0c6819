//! Checks that expect the contrary of the same port: whatever is seen there, one of them fires.

use crate::assigned::{Assigned, Group};
use crate::compile::CompiledCheck;
use crate::extent::{Span, address, span};
use crate::warnings::{MAX_WARNINGS, Warning};
use portolan_common::addresses::AddressRange;
use portolan_common::ports::PortSpec;
use std::collections::{BTreeMap, HashSet};

/// How often two checks are compared at most: a second of work. What is beyond is not looked into.
const MAX_COMPARED: usize = 1_000_000;

/// Every pair of checks of which one expects a port to be open and the other closed or blocked, on the same address
/// and seen from the same satellite; each pair once.
pub(crate) fn contradictions(assigned: &Assigned, all: &mut Vec<Warning>) {
    let mut search = Search { assigned, left: MAX_COMPARED, judged: HashSet::new(), all };
    for group in &assigned.groups {
        search.at_addresses(group, true);
        search.at_addresses(group, false);
        search.at_names(group);
    }
}

struct Search<'a> {
    assigned: &'a Assigned,
    /// How many more comparisons there may be.
    left: usize,
    /// Pairs of checks, the smaller number first.
    judged: HashSet<(usize, usize)>,
    all: &'a mut Vec<Warning>,
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.left == 0 || self.all.len() > MAX_WARNINGS
    }

    /// Sweeps over the addresses of one family, ascending.
    fn at_addresses(&mut self, group: &Group, v4: bool) {
        let mut spans: Vec<(Span, usize)> = Vec::new();
        for check in &group.checks {
            let Some(extent) = self.assigned.extents.get(*check) else { continue };
            let own = extent.addresses.ranges().map(|range| span(&range)).filter(|(is_v4, _)| *is_v4 == v4);
            spans.extend(own.map(|(_, span)| (span, *check)));
        }
        spans.sort_unstable();
        // The spans that reach to where the sweep is: their ends and checks.
        let mut reaching: Vec<(u128, usize)> = Vec::new();
        for ((first, last), check) in spans {
            self.left = self.left.saturating_sub(reaching.len());
            if self.is_over() {
                return;
            }
            reaching.retain(|(end, _)| *end >= first);
            for (end, other) in &reaching {
                let range = AddressRange::new(address(v4, first), address(v4, last.min(*end)));
                self.judge(group, check, *other, &range.map(|range| range.to_string()).unwrap_or_default());
            }
            reaching.push((last, check));
        }
    }

    fn at_names(&mut self, group: &Group) {
        let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for check in &group.checks {
            let names = self.assigned.extents.get(*check).map(|extent| &extent.names);
            for name in names.into_iter().flatten() {
                by_name.entry(name).or_default().push(*check);
            }
        }
        for (name, checks) in by_name {
            for (i, check) in checks.iter().enumerate() {
                self.left = self.left.saturating_sub(i);
                if self.is_over() {
                    return;
                }
                checks.iter().take(i).for_each(|other| self.judge(group, *check, *other, name));
            }
        }
    }

    fn judge(&mut self, group: &Group, one: usize, other: usize, place: &str) {
        let (a, b) = (one.min(other), one.max(other));
        if a == b || !self.judged.insert((a, b)) {
            return;
        }
        let (Some(first), Some(second)) = (self.assigned.checks.get(a), self.assigned.checks.get(b)) else {
            return;
        };
        let satellite = group.satellites.first().map_or("", String::as_str);
        let said = [(first, second), (second, first)].into_iter().find_map(|(open, shut)| {
            let ports = disputed(open, shut);
            (!ports.is_empty()).then(|| {
                format!(
                    "check {} expects that {ports} is open at {place}, and check {} that it is not, both from satellite \
                     {satellite}: one of them will fire; take it out of one",
                    open.name, shut.name
                )
            })
        });
        self.all.extend(said.map(|message| Warning::new("contradiction", &first.name, message)));
    }
}

/// What must be open for one and must not for the other.
fn disputed(open: &CompiledCheck, shut: &CompiledCheck) -> PortSpec {
    let open = &open.ports.open;
    open.intersection(&shut.ports.closed).union(&open.intersection(&shut.ports.blocked))
}

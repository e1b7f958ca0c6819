//! What is merely not there yet, or will not do what its author hopes. Nothing of it stops an apply.

use crate::assigned::{Assigned, Group, PROBE, busiest};
use crate::atlas::Atlas;
use crate::compile::SatelliteFacts;
use crate::contradictions::contradictions;
use crate::extent::Extent;
use crate::load::per_second;
use crate::model::From;
use crate::words::{checks, list, looks};
use crate::{Policy, World};
use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use jiff::Timestamp;
use portolan_common::addresses::{AddressRange, AddressSet};
use portolan_common::document::closest;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The most warnings that are given; a last one of the kind `omitted` says how many more there are.
pub const MAX_WARNINGS: usize = 1000;
/// The most networks that one warning adds to a scope.
pub const MAX_ADDED: usize = 1000;
/// What gentle probing sends on one path, in probes a second.
const GENTLE_RATE: u64 = 200;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// A stable word, such as `outside-scope`.
    pub kind: &'static str,
    /// What it is about: a check, a satellite, a segment, a tenant.
    pub subject: String,
    /// For people, with what to do about it.
    pub message: String,
    /// The satellite whose scope file is concerned; may be empty.
    pub satellite: String,
    /// Networks to add to that file's `allow`; at most [`MAX_ADDED`].
    pub add_to_scope: Vec<IpNet>,
}

impl Warning {
    pub(crate) fn new(kind: &'static str, subject: &str, message: String) -> Self {
        Self {
            kind,
            subject: subject.to_owned(),
            message,
            satellite: String::new(),
            add_to_scope: Vec::new(),
        }
    }
}

/// Everything that there is to warn of, what concerns satellites first. Paused checks count as absent.
pub fn warnings(policy: &Policy, world: &World, now: Timestamp) -> Vec<Warning> {
    let assigned = Assigned::new(policy, world, now);
    let mut all = Vec::new();
    for group in &assigned.groups {
        of_group(&assigned, group, world, &mut all);
    }
    all.sort_by(|a: &Warning, b| a.subject.cmp(&b.subject));
    of_vantage_points(policy, world, &mut all);
    of_checks(policy, &assigned, &mut all);
    contradictions(&assigned, &mut all);
    of_routes(policy, &mut all);
    let omitted = all.len().saturating_sub(MAX_WARNINGS);
    if omitted > 0 {
        all.truncate(MAX_WARNINGS);
        all.push(Warning::new("omitted", "", format!("{omitted} more warnings are not shown")));
    }
    all
}

/// Of satellites that are there.
fn of_group(assigned: &Assigned, group: &Group, world: &World, all: &mut Vec<Warning>) {
    let names: Vec<&str> = assigned.of(group).map(|(check, ..)| check.name.as_str()).collect();
    let who = checks(&names);
    let busy = too_busy(assigned, group);
    let ranges = assigned.of(group).flat_map(|(_, extent, _)| extent.addresses.ranges());
    let addresses: AddressSet = ranges.collect();
    for satellite in &group.satellites {
        let Some(facts) = world.satellites.get(satellite) else { continue };
        all.extend(outside_scope(satellite, facts, &addresses, &names));
        if facts.runs_checks == Some(false) {
            let message = format!(
                "satellite {satellite} is too old to run checks: {who} will not run there until it is updated"
            );
            all.push(Warning::new("satellite-too-old", satellite, message));
        }
        if facts.pending {
            let message = format!(
                "satellite {satellite} was added and has not enrolled yet: until then {who} will not run there"
            );
            all.push(Warning::new("satellite-pending", satellite, message));
        }
        if let Some(what) = &busy {
            let message = format!("satellite {satellite} {what}");
            all.push(Warning::new("path-too-busy", satellite, message));
        }
    }
}

/// What the scope of a satellite does not allow of what it is to look at.
fn outside_scope(
    satellite: &str,
    facts: &SatelliteFacts,
    addresses: &AddressSet,
    checks_there: &[&str],
) -> Option<Warning> {
    let allow = facts.scope.as_ref()?;
    let missing = addresses.difference(&allow.iter().copied().collect());
    let denied = addresses.intersection(&facts.scope_denies.iter().copied().collect());
    if missing.is_empty() && denied.is_empty() {
        return None;
    }
    let mut networks = missing.ranges().flat_map(networks);
    let add: Vec<IpNet> = networks.by_ref().take(MAX_ADDED).collect();
    let beyond = networks.next().is_some();
    let mut message = format!(
        "the scope of satellite {satellite} forbids what {} {} at",
        checks(checks_there),
        looks(checks_there)
    );
    if !add.is_empty() {
        let line: Vec<IpNet> = allow.iter().chain(&add).copied().collect();
        let line: Vec<_> = IpNet::aggregate(&line).iter().map(|network| format!("\"{network}\"")).collect();
        message.push_str(&format!(
            "; to allow {}, write in its satellite.toml, under [scope]: allow = [{}]",
            list(missing.ranges()),
            line.join(", ")
        ));
        if beyond {
            message.push_str(&format!("; that is not all of it: over {MAX_ADDED} networks are missing"));
        }
    }
    if !denied.is_empty() {
        message.push_str(&format!(
            "; `deny` there forbids {}: take that out of it, or `exclude` it from the checks",
            list(denied.ranges())
        ));
    }
    let warning = Warning::new("outside-scope", satellite, message);
    Some(Warning { satellite: satellite.to_owned(), add_to_scope: add, ..warning })
}

/// The fewest networks that are exactly a range.
fn networks(range: AddressRange) -> IpSubnets {
    match (range.first(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => IpSubnets::V4(Ipv4Subnets::new(first, last, 0)),
        (first, last) => {
            let v6 = |address| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            IpSubnets::V6(Ipv6Subnets::new(v6(first), v6(last), 0))
        }
    }
}

/// In words, if more is to be sent to a network than gentle probing allows.
fn too_busy(assigned: &Assigned, group: &Group) -> Option<String> {
    let limit = u128::from(GENTLE_RATE * PROBE * 3600);
    let mut weights = assigned.weights(group);
    let paths = [true, false].into_iter().filter_map(|v4| busiest(v4, &weights.sums(v4), limit));
    let paths: Vec<_> = paths.filter(|path| path.rate > limit).collect();
    let above = paths.iter().fold(0u128, |sum, path| sum.saturating_add(path.above));
    let (rate, place, within) = match paths.iter().max_by_key(|path| path.rate) {
        Some(path) => (path.rate, path.network.to_string(), Some(AddressSet::from(path.network))),
        None => {
            let (name, rate) = assigned.names(group).into_iter().max_by_key(|(_, rate)| *rate)?;
            (rate > limit).then(|| (rate, name.to_owned(), None))?
        }
    };
    let share = |extent: &Extent| match &within {
        Some(network) => extent.addresses.intersection(network).len(),
        None => u128::from(extent.names.contains(&place)),
    };
    let most =
        assigned.of(group).max_by_key(|(_, extent, rate)| share(extent).saturating_mul((*rate).into()));
    let check = most.map_or(String::new(), |(check, ..)| check.name.clone());
    let others = if above > 1 { format!(" (as to {} other networks)", above - 1) } else { String::new() };
    Some(format!(
        "would have to send {:.0} probes a second to {place}{others}, most of them for check {check}: {GENTLE_RATE} are \
         the limit, so that the interval will not be held; look less often, or at less",
        per_second(rate)
    ))
}

/// Of satellites and segments that checks are to look from and that are not there.
fn of_vantage_points(policy: &Policy, world: &World, all: &mut Vec<Warning>) {
    let mut wanted: BTreeMap<(&From, &str), Vec<&str>> = BTreeMap::new();
    for (name, check) in policy.checks.iter().filter(|(name, _)| !world.paused.contains(*name)) {
        for from in &check.from {
            wanted.entry((from, &check.tenant)).or_default().push(name);
        }
    }
    for ((from, tenant), names) in wanted {
        let who = checks(&names);
        let look = looks(&names);
        let meant = crate::compile::vantage_points(std::slice::from_ref(from), tenant, world);
        if !meant.is_empty() {
            continue;
        }
        all.push(match from {
            From::All => {
                let message = format!("tenant {tenant} has no satellite: {who} {look} from nowhere");
                Warning::new("no-vantage-point", tenant, message)
            }
            From::Segment(segment) => {
                let message = format!(
                    "segment {segment} has no satellite, and {who} {look} from there: portolan satellite add NAME \
                     --segment {segment}"
                );
                Warning::new("no-vantage-point", segment, message)
            }
            From::Satellite(satellite) => unknown_satellite(satellite, tenant, &who, look, world),
        });
    }
    for (name, blackout) in &policy.blackouts {
        for from in &blackout.from {
            if let From::Satellite(satellite) = from
                && !world.satellites.contains_key(satellite)
            {
                let message = format!(
                    "there is no satellite {satellite}, which blackout {name} names{}",
                    hint(satellite, world)
                );
                all.push(Warning::new("unknown-satellite", satellite, message));
            }
        }
    }
}

fn unknown_satellite(satellite: &str, tenant: &str, who: &str, look: &str, world: &World) -> Warning {
    let message = match world.satellites.get(satellite) {
        Some(facts) => format!(
            "satellite {satellite} is of tenant {}, and {who}, which {look} from there, of tenant {tenant}: write \
             tenant = \"{}\"",
            facts.tenant, facts.tenant
        ),
        None => format!(
            "there is no satellite {satellite}, and {who} {look} from there{}",
            hint(satellite, world)
        ),
    };
    Warning::new("unknown-satellite", satellite, message)
}

fn hint(satellite: &str, world: &World) -> String {
    match closest(satellite, world.satellites.keys().map(String::as_str)) {
        Some(meant) => format!(": did you mean {meant}?"),
        None => format!(": portolan satellite add {satellite} --segment SEGMENT"),
    }
}

/// Of single checks.
fn of_checks(policy: &Policy, assigned: &Assigned, all: &mut Vec<Warning>) {
    let atlases = Atlas::of_all(&policy.segments);
    let nowhere = Atlas::default();
    for (check, extent) in assigned.checks.iter().zip(&assigned.extents) {
        let atlas = atlases.get(check.tenant.as_str()).unwrap_or(&nowhere);
        let outside = atlas.outside(&extent.addresses);
        if !outside.is_empty() {
            let message = format!(
                "check {} looks at {}, which no segment of tenant {} has: add it to the `cidrs` of one",
                check.name,
                list(outside),
                check.tenant
            );
            all.push(Warning::new("target-in-no-segment", &check.name, message));
        }
        let quiet = check.ports.closed.udp.union(&check.ports.blocked.udp);
        if !quiet.is_empty() {
            let message = format!(
                "check {} expects of UDP {quiet} that nothing answers, and silence may be an open port that says \
                 nothing: it stays unknown unless something answers",
                check.name
            );
            all.push(Warning::new("udp-undecidable", &check.name, message));
        }
    }
}

fn of_routes(policy: &Policy, all: &mut Vec<Warning>) {
    if policy.routes.last().is_some_and(|route| !route.matches.is_empty()) {
        let message = "nobody is told of alerts that no route takes: let the last [[route]] have no `match`";
        all.push(Warning::new("unrouted", "route", message.to_owned()));
    }
}

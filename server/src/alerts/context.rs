//! What is there as far as alerts are concerned: the checks in force, the segments, the maintenance windows, and who
//! the satellites are.

use portolan_common::addresses::AddressSet;
use portolan_common::ids::SatelliteId;
use portolan_common::targets::{Target, parse_all};
use portolan_policy::compile::CompiledCheck;
use portolan_policy::model::{Maintenance, Segment};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

/// Checks that are followed from one to those that depend on it, or that it depends on.
const MAX_FOLLOWED: usize = 1000;

/// A satellite by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SatelliteName {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub segment: String,
    /// Whose address space.
    pub tenant: String,
}

/// See the module. Made anew whenever the policy or the satellites change.
#[derive(Clone, Debug, Default)]
pub struct Context {
    checks: BTreeMap<String, CompiledCheck>,
    satellites: BTreeMap<SatelliteId, SatelliteName>,
    /// Names of satellites that were revoked or removed.
    former: BTreeMap<SatelliteId, String>,
    segments: BTreeMap<String, Segment>,
    maintenance: BTreeMap<String, Maintenance>,
    /// How many checks each satellite does; paused ones do not count.
    duties: HashMap<SatelliteId, u64>,
    /// The checks that depend on a check, directly.
    dependents: HashMap<String, Vec<String>>,
}

impl Context {
    /// `satellites` are those that are neither revoked nor removed; their names are what the checks call them by.
    pub fn new(
        checks: Vec<CompiledCheck>,
        satellites: BTreeMap<SatelliteId, SatelliteName>,
        segments: BTreeMap<String, Segment>,
        maintenance: BTreeMap<String, Maintenance>,
    ) -> Self {
        let ids: HashMap<&str, SatelliteId> =
            satellites.iter().map(|(id, satellite)| (satellite.name.as_str(), *id)).collect();
        let mut duties = HashMap::new();
        let mut dependents: HashMap<String, Vec<String>> = HashMap::new();
        for check in &checks {
            for id in check.satellites.iter().filter_map(|name| ids.get(name.as_str())) {
                *duties.entry(*id).or_default() += u64::from(!check.paused);
            }
            for other in &check.depend_on {
                dependents.entry(other.clone()).or_default().push(check.name.clone());
            }
        }
        let checks = checks.into_iter().map(|check| (check.name.clone(), check)).collect();
        Self { checks, satellites, former: BTreeMap::new(), segments, maintenance, duties, dependents }
    }

    /// Also knows what satellites were called that were revoked or removed.
    pub fn with_former(self, former: BTreeMap<SatelliteId, String>) -> Self {
        Self { former, ..self }
    }

    /// A check of the policy in force.
    pub fn check(&self, name: &str) -> Option<&CompiledCheck> {
        self.checks.get(name)
    }

    /// Who a satellite is; `None` for one that is not there any more.
    pub fn satellite(&self, id: SatelliteId) -> Option<&SatelliteName> {
        self.satellites.get(&id)
    }

    /// Every satellite that is there.
    pub fn satellites(&self) -> impl Iterator<Item = (SatelliteId, &SatelliteName)> {
        self.satellites.iter().map(|(id, satellite)| (*id, satellite))
    }

    /// A satellite's name, also when it was revoked or removed; the id of one that was never there.
    pub fn name_of(&self, id: SatelliteId) -> String {
        let name = self.satellite(id).map(|satellite| &satellite.name).or_else(|| self.former.get(&id));
        name.map_or_else(|| id.to_string(), String::clone)
    }

    /// The satellites of a check.
    pub fn vantage_points<'a>(&'a self, check: &'a CompiledCheck) -> impl Iterator<Item = SatelliteId> + 'a {
        self.satellites
            .iter()
            .filter(|(_, satellite)| check.satellites.binary_search(&satellite.name).is_ok())
            .map(|(id, _)| *id)
    }

    /// How many checks a satellite does.
    pub fn duties(&self, id: SatelliteId) -> u64 {
        self.duties.get(&id).copied().unwrap_or(0)
    }

    /// The maintenance windows by name.
    pub fn maintenance(&self) -> &BTreeMap<String, Maintenance> {
        &self.maintenance
    }

    /// Whether a segment or one of the satellites is called so.
    pub fn is_place(&self, name: &str) -> bool {
        self.segments.contains_key(name)
            || self.satellites.values().any(|satellite| satellite.name == name || satellite.segment == name)
    }

    /// The segment of an address by longest prefix.
    pub fn segment_of(&self, tenant: &str, address: IpAddr) -> Option<&str> {
        let of_tenant = self.segments.iter().filter(|(_, segment)| segment.tenant == tenant);
        let networks = of_tenant.flat_map(|(name, segment)| segment.cidrs.iter().map(move |net| (net, name)));
        networks
            .filter(|(net, _)| net.contains(&address))
            .max_by_key(|(net, _)| net.prefix_len())
            .map(|(_, name)| name.as_str())
    }

    /// The checks on which one depends, directly or through others, nearest first.
    pub fn upstream<'a>(&'a self, check: &'a str) -> Vec<&'a str> {
        follow(check, |name| self.check(name).map_or(&[][..], |check| &check.depend_on))
    }

    /// The checks that depend on one, directly or through others.
    pub fn downstream<'a>(&'a self, check: &'a str) -> Vec<&'a str> {
        follow(check, |name| self.dependents.get(name).map_or(&[][..], Vec::as_slice))
    }
}

/// Everything that is reached from a name, without the name itself. Circles end.
fn follow<'a>(from: &'a str, next: impl Fn(&str) -> &'a [String]) -> Vec<&'a str> {
    let mut seen = BTreeSet::from([from]);
    let mut found = Vec::new();
    let mut waiting = VecDeque::from([from]);
    while let Some(name) = waiting.pop_front() {
        for name in next(name) {
            if found.len() < MAX_FOLLOWED && seen.insert(name) {
                found.push(name.as_str());
                waiting.push_back(name);
            }
        }
    }
    found
}

/// Where a check looks: its targets, read.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    addresses: AddressSet,
    exclude: AddressSet,
    names: BTreeSet<String>,
}

impl Reach {
    /// Reads the targets of a check. What cannot be read was refused with the policy.
    pub fn of(check: &CompiledCheck) -> Self {
        let Ok(targets) = parse_all(&check.targets, &check.exclude) else { return Self::default() };
        let mut addresses = Vec::new();
        let mut names = BTreeSet::new();
        for spec in targets.specs {
            match spec.target {
                Target::Addresses(set) => addresses.extend(set.ranges()),
                Target::Name(name) => names.extend([name, spec.text]),
            }
        }
        Self { addresses: addresses.into_iter().collect(), exclude: targets.exclude, names }
    }

    /// Whether an address is looked at, given the name by which it was (empty: by none).
    pub fn contains(&self, address: IpAddr, target: &str) -> bool {
        !self.exclude.contains(address) && (self.addresses.contains(address) || self.names.contains(target))
    }

    /// The addresses that are written out, without what is left out.
    pub fn addresses(&self) -> AddressSet {
        self.addresses.difference(&self.exclude)
    }

    /// The names among the targets.
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }
}

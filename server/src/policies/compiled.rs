//! What the policy in force comes to, for whoever judges what is seen.

use ipnet::IpNet;
use jiff::Timestamp;
use portolan_policy::compile::blackouts;
use portolan_policy::model::{Blackout, Maintenance, Segment};
use portolan_policy::{CompiledCheck, Policy};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// The policy's version; 0: there is none.
    pub version: u64,
    /// Ascending by name.
    pub checks: Vec<CompiledCheck>,
    /// By name.
    pub maintenance: BTreeMap<String, Maintenance>,
    /// By name, over all tenants.
    pub segments: BTreeMap<String, Segment>,
    /// By name.
    pub blackouts: BTreeMap<String, Blackout>,
    /// By tenant.
    networks: HashMap<String, Networks>,
}

/// The networks of one tenant's segments.
#[derive(Clone, Debug, Default, PartialEq)]
struct Networks {
    /// Whose they are.
    segments: HashMap<IpNet, String>,
    /// The prefix lengths that occur, IPv4 and IPv6.
    lengths: [BTreeSet<u8>; 2],
}

impl Compiled {
    /// Puts it together.
    pub fn new(version: u64, checks: Vec<CompiledCheck>, policy: &Policy) -> Self {
        let mut networks: HashMap<String, Networks> = HashMap::new();
        for (name, segment) in &policy.segments {
            let of = networks.entry(segment.tenant.clone()).or_default();
            for cidr in segment.cidrs.iter().map(IpNet::trunc) {
                of.lengths[usize::from(cidr.addr().is_ipv6())].insert(cidr.prefix_len());
                of.segments.insert(cidr, name.clone());
            }
        }
        let (maintenance, segments) = (policy.maintenance.clone(), policy.segments.clone());
        let blackouts = policy.blackouts.clone();
        Self { version, checks, maintenance, segments, blackouts, networks }
    }

    /// The segment that an address of a tenant lies in, by longest prefix.
    pub fn segment_of(&self, tenant: &str, address: IpAddr) -> Option<&str> {
        let networks = self.networks.get(tenant)?;
        let address = address.to_canonical();
        let lengths = networks.lengths[usize::from(address.is_ipv6())].iter().rev();
        lengths
            .filter_map(|length| IpNet::new(address, *length).ok())
            .find_map(|network| networks.segments.get(&network.trunc()))
            .map(String::as_str)
    }

    /// A check by its name.
    pub fn check(&self, name: &str) -> Option<&CompiledCheck> {
        let at = self.checks.binary_search_by(|check| check.name.as_str().cmp(name)).ok()?;
        self.checks.get(at)
    }

    /// Until when a satellite must not send anything for checks; `None`: it may.
    pub fn dark_until(&self, satellite: &str, segment: &str, now: Timestamp) -> Option<Timestamp> {
        blackouts(&self.blackouts, satellite, segment).filter_map(|window| window.end(now)).max()
    }

    /// The networks of every segment of a tenant, in the order of the segments' names.
    pub fn cidrs_of(&self, tenant: &str) -> impl Iterator<Item = IpNet> {
        let segments = self.segments.values().filter(move |segment| segment.tenant == tenant);
        segments.flat_map(|segment| segment.cidrs.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(segments: &[(&str, &str, &[&str])]) -> Compiled {
        let mut policy = Policy::default();
        for (name, tenant, cidrs) in segments {
            let segment = Segment {
                tenant: (*tenant).to_owned(),
                cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
                description: String::new(),
                labels: BTreeMap::new(),
                seen_as: BTreeMap::new(),
            };
            policy.segments.insert((*name).to_owned(), segment);
        }
        Compiled::new(1, Vec::new(), &policy)
    }

    #[test]
    fn the_longest_prefix_of_the_tenant_counts() {
        let compiled = compiled(&[
            ("site", "default", &["10.0.0.0/8", "fd00::/16"]),
            ("pci", "default", &["10.1.0.0/16", "10.2.3.4/32"]),
            ("acme", "acme", &["10.1.0.0/16"]),
        ]);
        let of = |tenant, address: &str| compiled.segment_of(tenant, address.parse().unwrap());
        assert_eq!(of("default", "10.9.9.9"), Some("site"));
        assert_eq!(of("default", "10.1.9.9"), Some("pci"));
        assert_eq!(of("default", "::ffff:10.2.3.4"), Some("pci"));
        assert_eq!(of("default", "10.2.3.5"), Some("site"));
        assert_eq!(of("default", "fd00::1"), Some("site"));
        assert_eq!(of("default", "192.0.2.1"), None);
        assert_eq!(of("acme", "10.1.0.1"), Some("acme"));
        assert_eq!(of("acme", "10.2.0.1"), None);
        assert_eq!(of("nobody", "10.1.0.1"), None);
        assert_eq!(compiled.cidrs_of("acme").count(), 1);
        assert_eq!(compiled.cidrs_of("default").count(), 4);
    }
}

//! The guard: what the scope permits, address by address, and the rule behind every refusal. Pure; the time of day is
//! an argument.

use super::{Payloads, Scope};
use crate::addresses::{AddressSet, canonical_network};
use crate::ports::PortSpec;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::{Timestamp, Zoned};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Never a target, whatever the file allows: "this network", the limited broadcast, multicast, the unspecified
/// address. A probe to them is answered by nobody or by everybody.
const RESERVED: [IpNet; 5] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)),
];

/// The prefix under which NAT64 gateways show IPv4 addresses, RFC 6052 section 2.1.
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

const RESERVED_RULE: &str = "reserved address";
const ALLOW_RULE: &str = "allow (no network contains it)";

/// Stands before the scan engine: only what it hands out can be probed.
#[derive(Clone, Debug)]
pub struct Guard {
    scope: Scope,
    reserved: AddressSet,
    allow: AddressSet,
    deny: AddressSet,
    careful: Vec<AddressSet>,
}

/// What may be probed of what was asked for one address, and what not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The address with the ports that are left; `None` when nothing is.
    pub target: Option<PermittedTarget>,
    /// Why the rest is refused; empty when there is no rest.
    pub refused: Vec<Refused>,
}

/// Ports refused at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which of the ports asked; `None` when the rule refuses the address, whatever the port.
    pub ports: Option<PortSpec>,
    /// The rule as the file has it, such as `deny 10.99.2.66/32` or `careful[1].deny_ports 9100-9107` (the first
    /// block of the file is `careful[1]`).
    pub rule: String,
}

/// An address and ports that the scope permits. Only [`Guard::permit`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermittedTarget {
    address: IpAddr,
    ports: PortSpec,
    payloads: Payloads,
    limits: Limits,
    until: Option<Timestamp>,
}

impl PermittedTarget {
    /// The address; never an IPv4-mapped one.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The ports; empty only when none were asked.
    pub fn ports(&self) -> &PortSpec {
        &self.ports
    }

    /// What may be sent to the ports: the strictest of the scope's word and that of its careful blocks.
    pub fn payloads(&self) -> Payloads {
        self.payloads
    }

    /// The limits beyond the scope's `max_rate`.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// When the hours of the careful blocks end: nothing may be sent from then on. `None` without hours.
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

/// The limits of one target. All of them hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// One for each careful block the address lies in, in the order of the file.
    pub careful: Vec<CarefulLimit>,
}

/// The limits of one careful block, which all its hosts share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CarefulLimit {
    /// The block's place in [`Scope::careful`], counted from 0: what is shared is shared under this number.
    pub block: usize,
    /// Probe packets per second to all hosts of the block together.
    pub max_rate: u32,
    /// How many ports may wait for an answer at once, all hosts of the block together.
    pub in_flight: u32,
    /// What may be sent to ports.
    pub payloads: Payloads,
}

impl Guard {
    /// A guard of the scope.
    pub fn new(scope: Scope) -> Self {
        Self {
            reserved: every_face(&RESERVED),
            allow: scope.allow.iter().copied().collect(),
            deny: every_face(&scope.deny),
            careful: scope.careful.iter().map(|block| every_face(&block.cidrs)).collect(),
            scope,
        }
    }

    /// The scope it enforces.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What of the ports may be probed at the address at this time. Hours are read by `now`'s time zone, which is to
    /// be the machine's. When no ports are asked, the target is the address alone (to find out whether it is up).
    pub fn permit(&self, address: IpAddr, ports: &PortSpec, now: &Zoned) -> Permit {
        let address = address.to_canonical();
        if let Some(rule) = self.refuses(address) {
            return Permit { target: None, refused: vec![Refused { ports: None, rule }] };
        }
        let mut refused = Vec::new();
        let mut left = ports.intersection(&self.scope.ports);
        let outside = ports.difference(&self.scope.ports);
        if !outside.is_empty() {
            let rule = format!("ports {}", self.scope.ports.to_text_both());
            refused.push(Refused { ports: Some(outside), rule });
        }
        let mut payloads = self.scope.payloads;
        let mut limits = Limits::default();
        let mut until: Option<Timestamp> = None;
        for (block, careful) in self.scope.careful.iter().enumerate() {
            if !self.careful.get(block).is_some_and(|hosts| hosts.contains(address)) {
                continue;
            }
            if let Some(hours) = careful.hours {
                // Without an end in sight (a clock at the end of time) it is safer to take them as over.
                let Some(end) = hours.end(now) else {
                    let rule = format!("careful[{}].hours {hours}", block + 1);
                    return Permit { target: None, refused: vec![Refused { ports: None, rule }] };
                };
                until = Some(until.map_or(end, |other| other.min(end)));
            }
            let denied = left.intersection(&careful.deny_ports);
            if !denied.is_empty() {
                left = left.difference(&denied);
                let rule = format!("careful[{}].deny_ports {}", block + 1, careful.deny_ports.to_text_both());
                refused.push(Refused { ports: Some(denied), rule });
            }
            payloads = payloads.min(careful.payloads);
            let (max_rate, in_flight) = (careful.max_rate, careful.in_flight);
            limits.careful.push(CarefulLimit { block, max_rate, in_flight, payloads: careful.payloads });
        }
        let target = (!left.is_empty() || ports.is_empty()).then_some(PermittedTarget {
            address,
            ports: left,
            payloads,
            limits,
            until,
        });
        Permit { target, refused }
    }

    /// Splits addresses into those that [`Guard::permit`] will not refuse whatever the port, hours aside, and the
    /// others with the rule against them. Made for large ranges: what is refused is refused as ranges.
    pub fn allowed(&self, asked: &AddressSet) -> (AddressSet, Vec<(AddressSet, String)>) {
        let mut refused = Vec::new();
        let mut left = asked.clone();
        let mut refuse = |left: &mut AddressSet, those: AddressSet, rule: String| {
            if !those.is_empty() {
                *left = left.difference(&those);
                refused.push((those, rule));
            }
        };
        let those = left.intersection(&self.reserved);
        refuse(&mut left, those, RESERVED_RULE.to_owned());
        let those = left.difference(&self.allow);
        refuse(&mut left, those, ALLOW_RULE.to_owned());
        // Long lists of networks to deny seldom meet what is asked: only then is each looked at.
        if !left.intersection(&self.deny).is_empty() {
            for net in &self.scope.deny {
                let those = left.intersection(&faces(net).collect());
                refuse(&mut left, those, deny_rule(net));
            }
        }
        (left, refused)
    }

    /// The rule that refuses the address whatever the port and the time.
    fn refuses(&self, address: IpAddr) -> Option<String> {
        if self.reserved.contains(address) {
            return Some(RESERVED_RULE.to_owned());
        }
        if !self.allow.contains(address) {
            return Some(ALLOW_RULE.to_owned());
        }
        if self.deny.contains(address) {
            let net = self.scope.deny.iter().find(|net| faces(net).any(|face| face.contains(&address)));
            return Some(net.map_or_else(|| "deny".to_owned(), deny_rule));
        }
        None
    }
}

fn deny_rule(net: &IpNet) -> String {
    format!("deny {net}")
}

/// All the networks, each under every address it has.
fn every_face(nets: &[IpNet]) -> AddressSet {
    nets.iter().flat_map(faces).collect()
}

/// The network, and an IPv4 one also as a NAT64 gateway shows it to IPv6 hosts (`64:ff9b::/96`, RFC 6052): otherwise a
/// host that is denied or fragile could be reached under its other address.
fn faces(net: &IpNet) -> impl Iterator<Item = IpNet> + use<> {
    let net = canonical_network(*net);
    let translated = match net {
        IpNet::V4(net) => {
            let first = NAT64.to_bits() | u128::from(net.network().to_bits());
            Ipv6Net::new(Ipv6Addr::from_bits(first), net.prefix_len() + 96).ok().map(IpNet::V6)
        }
        IpNet::V6(_) => None,
    };
    std::iter::once(net).chain(translated)
}

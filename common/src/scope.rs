//! The scope: what a satellite may probe, by a file on its own machine, whatever the server says. And the guard that
//! enforces it: nothing else can make the type that the scan engine accepts.

mod file;
mod guard;
mod hours;
#[cfg(test)]
mod tests;

use crate::addresses::canonical_network;
use crate::ports::{PortSet, PortSpec};
use ipnet::IpNet;
use std::fmt;

pub use guard::{CarefulLimit, Guard, Limits, Permit, PermittedTarget, Refused};
pub use hours::Hours;

/// The rate without a `max_rate`, in probe packets per second.
pub const DEFAULT_MAX_RATE: u32 = 200_000;

/// The highest rate a scope may allow, in probe packets per second.
pub const HIGHEST_MAX_RATE: u32 = 10_000_000;

/// The rate of a careful block without a `max_rate`, in probe packets per second.
pub const DEFAULT_CAREFUL_RATE: u32 = 5;

/// The most hosts of a careful block that may be allowed in flight.
pub const HIGHEST_IN_FLIGHT: u32 = 65_536;

/// What may be sent to a port beyond what opens a connection; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payloads {
    /// Nothing.
    None,
    /// The probes built into the satellite, which read only.
    Builtin,
    /// Also what the policy says.
    Any,
}

impl Payloads {
    /// The word of the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Builtin => "builtin",
            Self::Any => "any",
        }
    }
}

impl fmt::Display for Payloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a satellite may probe: the `[scope]` of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Only addresses in one of these.
    pub allow: Vec<IpNet>,
    /// But none of these.
    pub deny: Vec<IpNet>,
    /// Only these ports.
    pub ports: PortSpec,
    /// Probe packets per second, all jobs together: 1 to 10,000,000.
    pub max_rate: u32,
    /// What may be sent to ports.
    pub payloads: Payloads,
    /// Fragile devices, in the order of the file.
    pub careful: Vec<Careful>,
}

/// Fragile devices, probed as gently as they need: a `[[scope.careful]]` of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Careful {
    /// Where they are.
    pub cidrs: Vec<IpNet>,
    /// Probe packets per second to all of them together.
    pub max_rate: u32,
    /// How many of their ports may wait for an answer at once, all of them together.
    pub in_flight: u32,
    /// What may be sent to their ports.
    pub payloads: Payloads,
    /// Ports that are never probed here.
    pub deny_ports: PortSpec,
    /// The hours in which they may be probed; always, without.
    pub hours: Option<Hours>,
}

impl Scope {
    /// A scope of these networks, everything else as when the file says nothing of it.
    pub fn allowing(cidrs: &[IpNet]) -> Self {
        Self {
            allow: cidrs.iter().copied().map(canonical_network).collect(),
            deny: Vec::new(),
            ports: all_ports(),
            max_rate: DEFAULT_MAX_RATE,
            payloads: Payloads::Builtin,
            careful: Vec::new(),
        }
    }
}

/// What `-` stands for: every port of both protocols but 0.
fn all_ports() -> PortSpec {
    let all: PortSet = std::iter::once(1..=u16::MAX).collect();
    PortSpec { tcp: all.clone(), udp: all }
}

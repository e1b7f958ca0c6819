//! What a check comes to for the evaluator.

use portolan_common::addresses::AddressSet;
use portolan_common::expectation::ExpectedPorts;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::Protocol;
use portolan_common::ports::PortSet;
use portolan_common::schedule::Schedule;
use portolan_policy::model::Quorums;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// One check of the policy in force. Its name is its identity: what is known of its ports survives a new spec of the
/// same name, as far as they are expected to be the same.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Whose address space.
    pub tenant: Arc<str>,
    /// The vantage points.
    pub satellites: BTreeSet<SatelliteId>,
    /// The targets that are addresses, without what is left out.
    pub addresses: AddressSet,
    /// The targets that are names, as they stand in observations (`target`).
    pub names: BTreeSet<String>,
    /// What is left out, of names too.
    pub exclude: AddressSet,
    /// What is expected.
    pub ports: ExpectedPorts,
    /// What `ports.watch` is compared with.
    pub baseline: Option<Arc<BaselinePorts>>,
    /// When it is looked at; evidence counts until three more looks were due.
    pub schedule: Schedule,
    /// What satellites need from one look to the next where they cannot keep to the schedule; zero: they can. Evidence
    /// counts for three of those too.
    pub pace: Duration,
    /// Observations in a row that make a fault, 1 at least.
    pub confirm: u32,
    /// Observations in a row that end one, 1 at least.
    pub recover: u32,
    /// How many vantage points it takes.
    pub quorum: Quorums,
    /// An operator paused it: nothing of it changes, and nothing of it becomes stale.
    pub paused: bool,
}

/// What was open when a baseline was taken, as each vantage point saw it. An address or vantage point that is not in it
/// had nothing open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaselinePorts {
    /// Open ports by host and vantage point.
    pub open: BTreeMap<(IpAddr, Protocol), BTreeMap<SatelliteId, PortSet>>,
    /// Addresses that had been looked at; of others nothing is known, and nothing is compared.
    pub seen: BTreeMap<SatelliteId, AddressSet>,
}

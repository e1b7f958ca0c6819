//! Baselines: what was open at a check's targets when somebody looked, as each vantage point saw it, and how it differs
//! now.

mod record;
mod survey;

pub use survey::{BaselineScope, HostPort, Survey};

use super::Alerts;
use super::context::{Context, Reach};
use super::error::{AlertsError, Thing, shown};
use super::record::moment;
use crate::evaluate::BaselinePorts;
use jiff::Timestamp;
use portolan_common::addresses::AddressSet;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol};
use portolan_common::ports::PortSet;
use portolan_proto::convert::address_to_wire;
use portolan_proto::v1;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Baselines that are kept.
pub const MAX_BASELINES: usize = 10_000;
/// Open ports in one, over all vantage points.
pub const MAX_PORTS: usize = 50_000;
/// Differences that are told.
const MAX_DIFFERENCES: usize = 20_000;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// The check.
    pub name: String,
    /// Who took or last accepted it as a whole.
    pub author: String,
    /// When.
    pub taken_at: Timestamp,
    /// What was open.
    pub ports: Arc<BaselinePorts>,
}

impl Baseline {
    fn new(survey: &Survey, author: &str, now: Timestamp) -> Result<Self, AlertsError> {
        let name = survey.scope.name.clone();
        Self { name, author: author.to_owned(), taken_at: now, ports: Arc::new(survey.ports()) }.bounded()
    }

    fn bounded(self) -> Result<Self, AlertsError> {
        let sets = self.ports.open.values().flat_map(BTreeMap::values);
        let ports: usize = sets.map(PortSet::len).sum();
        if ports > MAX_PORTS {
            return Err(AlertsError::Full(format!(
                "{ports} ports are open at the targets of check {}: a baseline has at most {MAX_PORTS}, split the check",
                self.name
            )));
        }
        Ok(self)
    }

    /// Takes over how some hosts or ports are now.
    fn accept(&self, survey: &Survey, hosts: &[HostPort]) -> Result<Self, AlertsError> {
        let mut ports = BaselinePorts::clone(&self.ports);
        for HostPort { address, port } in hosts {
            let mut known = false;
            for ((_, protocol, satellite), runs) in
                survey.hosts.iter().filter(|((host, ..), _)| host == address)
            {
                let seen = runs.iter().fold(PortSet::default(), |all, seen| all.union(&seen.ports));
                let host = (*address, *protocol);
                let was = ports.open.get(&host).and_then(|of| of.get(satellite)).cloned().unwrap_or_default();
                let now = Survey::open(runs);
                let open = match port {
                    Some(port) if !seen.contains(*port) => continue,
                    Some(port) => {
                        let port = PortSet::single(*port);
                        was.difference(&port).union(&now.intersection(&port))
                    }
                    None => now,
                };
                known = true;
                set(&mut ports, host, *satellite, open);
                let looked_at = ports.seen.entry(*satellite).or_default();
                *looked_at = looked_at.union(&AddressSet::single(*address));
            }
            if !known {
                let what =
                    port.map_or_else(|| address.to_string(), |port| format!("port {port} of {address}"));
                return Err(AlertsError::Invalid(format!(
                    "no vantage point of check {} has looked at {what}: `portolan check show {0}` says what they see",
                    self.name
                )));
            }
        }
        Self { ports: Arc::new(ports), ..self.clone() }.bounded()
    }

    /// As operators see it, with how it differs from what is there now.
    pub fn to_wire(&self, survey: &Survey, context: &Context) -> v1::Baseline {
        let mut ports = Vec::new();
        for ((address, protocol), of_host) in &self.ports.open {
            let mut by_port: BTreeMap<u16, Vec<String>> = BTreeMap::new();
            for (satellite, open) in of_host {
                for port in open.iter() {
                    by_port.entry(port).or_default().push(context.name_of(*satellite));
                }
            }
            ports.extend(by_port.into_iter().map(|(port, satellites)| v1::BaselinePort {
                address: address_to_wire(*address),
                protocol: v1::Protocol::from(*protocol).into(),
                port: port.into(),
                satellites,
            }));
        }
        v1::Baseline {
            name: self.name.clone(),
            taken_at_ms: self.taken_at.as_millisecond(),
            author: self.author.clone(),
            ports,
            differences: self.differences(survey, context),
            hosts_unseen: survey.unseen(),
        }
    }

    /// Ports that are open now and were not, and the other way round, where they were looked at both times.
    fn differences(&self, survey: &Survey, context: &Context) -> Vec<v1::BaselineDifference> {
        let mut differences = Vec::new();
        for ((address, protocol, satellite), runs) in &survey.hosts {
            if !self.ports.seen.get(satellite).is_some_and(|seen| seen.contains(*address)) {
                continue;
            }
            let of_host = self.ports.open.get(&(*address, *protocol));
            let was = of_host.and_then(|of| of.get(satellite)).cloned().unwrap_or_default();
            for seen in runs {
                let (kind, ports) = match seen.state {
                    PortState::Open => ("new", seen.ports.difference(&was)),
                    PortState::Closed | PortState::Filtered => ("vanished", seen.ports.intersection(&was)),
                    // Silence over UDP says nothing of a port.
                    PortState::OpenFiltered => continue,
                };
                for port in ports.iter() {
                    if differences.len() == MAX_DIFFERENCES {
                        return differences;
                    }
                    differences.push(v1::BaselineDifference {
                        address: address_to_wire(*address),
                        protocol: v1::Protocol::from(*protocol).into(),
                        port: port.into(),
                        satellite: context.name_of(*satellite),
                        kind: kind.to_owned(),
                        state: v1::PortState::from(seen.state).into(),
                        since_at_ms: seen.since.as_millisecond(),
                    });
                }
            }
        }
        differences
    }
}

impl Alerts {
    /// What is to be looked up in the inventory for a check's baseline.
    ///
    /// # Errors
    /// [`AlertsError::Unknown`]: no such check; [`AlertsError::Untimely`]: it watches no ports, so that no baseline would
    /// be compared with anything.
    pub fn baseline_scope(&self, name: &str) -> Result<BaselineScope, AlertsError> {
        let context = self.context();
        let check = context.check(name).ok_or_else(|| AlertsError::Unknown(Thing::Check, shown(name)))?;
        if check.ports.watch.is_empty() {
            return Err(AlertsError::Untimely(format!(
                "check {name} watches no ports, and a baseline is compared with nothing else: add `watch = \"1-1024\"`, \
                 or what else is to be watched, to it in the policy"
            )));
        }
        Ok(BaselineScope {
            name: check.name.clone(),
            tenant: check.tenant.clone(),
            reach: Reach::of(check),
            satellites: context.vantage_points(check).collect(),
            ports: check.ports.all(),
            watch: check.ports.watch.clone(),
        })
    }

    /// Takes over what a survey found as the check's baseline.
    ///
    /// # Errors
    /// [`AlertsError::Full`]; [`AlertsError::Untimely`] when nobody has looked at anything yet.
    pub fn take_baseline(
        &mut self,
        survey: &Survey,
        author: &str,
        now: Timestamp,
    ) -> Result<v1::Baseline, AlertsError> {
        let name = &survey.scope.name;
        if survey.hosts.is_empty() {
            return Err(AlertsError::Untimely(format!(
                "no vantage point of check {name} has looked at its targets yet: `portolan check run {name}`, then take \
                 the baseline"
            )));
        }
        if self.baselines.get(name).is_none() && self.baselines.len() >= MAX_BASELINES {
            let context = self.context().clone();
            self.baselines.retain(|baseline| context.check(&baseline.name).is_some());
            if self.baselines.len() >= MAX_BASELINES {
                return Err(AlertsError::Full(format!(
                    "there are {MAX_BASELINES} baselines: no more are taken"
                )));
            }
        }
        let baseline = Baseline::new(survey, author, moment(now))?;
        Ok(self.keep_baseline(baseline, survey))
    }

    /// Takes over how some hosts and ports are now; all of them when none are named.
    ///
    /// # Errors
    /// [`AlertsError::Unknown`]: no such baseline; as [`Alerts::take_baseline`]; [`AlertsError::Invalid`] when nobody has
    /// looked at one of them.
    pub fn accept_baseline(
        &mut self,
        survey: &Survey,
        hosts: &[HostPort],
        author: &str,
        now: Timestamp,
    ) -> Result<v1::Baseline, AlertsError> {
        let baseline = self.baseline(&survey.scope.name)?;
        if hosts.is_empty() {
            return self.take_baseline(survey, author, now);
        }
        let baseline = baseline.accept(survey, hosts)?;
        Ok(self.keep_baseline(baseline, survey))
    }

    fn keep_baseline(&mut self, baseline: Baseline, survey: &Survey) -> v1::Baseline {
        let wire = baseline.to_wire(survey, self.context());
        self.baselines.insert(baseline);
        self.baselines_revision += 1;
        wire
    }

    /// A check's baseline.
    ///
    /// # Errors
    /// [`AlertsError::Unknown`].
    pub fn baseline(&self, name: &str) -> Result<&Baseline, AlertsError> {
        let baseline = self.baselines.get(&name.to_owned());
        baseline.ok_or_else(|| AlertsError::Unknown(Thing::Baseline, shown(name)))
    }

    /// What the evaluator compares a check's ports with.
    pub fn baseline_ports(&self, name: &str) -> Option<Arc<BaselinePorts>> {
        self.baselines.get(&name.to_owned()).map(|baseline| baseline.ports.clone())
    }

    /// Grows whenever a baseline changes: the evaluator then needs the checks anew.
    pub fn baselines_revision(&self) -> u64 {
        self.baselines_revision
    }
}

fn set(ports: &mut BaselinePorts, host: (IpAddr, Protocol), satellite: SatelliteId, open: PortSet) {
    let of_host = ports.open.entry(host).or_default();
    if open.is_empty() {
        of_host.remove(&satellite);
    } else {
        of_host.insert(satellite, open);
    }
    if of_host.is_empty() {
        ports.open.remove(&host);
    }
}

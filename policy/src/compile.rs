//! What each check comes to, given what is there: which satellites do it, on which targets.

use crate::model::{Blackout, Check, From, Policy, Quorums, Severities, TargetSource};
use ipnet::IpNet;
use portolan_common::expectation::ExpectedPorts;
use portolan_common::schedule::{Schedule, Window};
use std::collections::{BTreeMap, BTreeSet};

/// What is there, as far as a policy is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// By name; neither revoked nor removed.
    pub satellites: BTreeMap<String, SatelliteFacts>,
    /// The last good answer of every source.
    pub sources: BTreeMap<TargetSource, Vec<String>>,
    /// Checks that an operator paused.
    pub paused: BTreeSet<String>,
}

/// What a policy asks of a satellite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SatelliteFacts {
    /// Where it stands.
    pub segment: String,
    /// Whose address space.
    pub tenant: String,
    /// It was added and never enrolled.
    pub pending: bool,
    /// It says that it runs checks; `None`: it never connected.
    pub runs_checks: Option<bool>,
    /// What its local scope file allows, as it last said; `None`: it never said.
    pub scope: Option<Vec<IpNet>>,
    /// What that denies.
    pub scope_denies: Vec<IpNet>,
}

/// A check with everything resolved that can be resolved on the server.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledCheck {
    /// Its name.
    pub name: String,
    /// Whose address space.
    pub tenant: String,
    /// The satellites that do it, pending ones too, ascending; may be empty.
    pub satellites: Vec<String>,
    /// nmap targets and host names, those of sources included, each once.
    pub targets: Vec<String>,
    /// What is left out of them.
    pub exclude: Vec<String>,
    /// What is expected.
    pub ports: ExpectedPorts,
    /// When it runs.
    pub schedule: Schedule,
    /// Observations in a row that make a fault.
    pub confirm: u32,
    /// Observations in a row that end one.
    pub recover: u32,
    /// How many vantage points it takes.
    pub quorum: Quorums,
    /// How bad a fault is.
    pub severity: Severities,
    /// Its own labels.
    pub labels: BTreeMap<String, String>,
    /// Checks whose alerts hold back this one's.
    pub depend_on: Vec<String>,
    /// How to probe.
    pub method: String,
    /// An operator paused it: it is not assigned.
    pub paused: bool,
}

/// Every check of the policy, ascending by name.
pub fn compile(policy: &Policy, world: &World) -> Vec<CompiledCheck> {
    policy.checks.iter().map(|(name, check)| compile_one(name, check, world)).collect()
}

fn compile_one(name: &str, check: &Check, world: &World) -> CompiledCheck {
    let mut seen = BTreeSet::new();
    let mut targets = Vec::new();
    for source in &check.targets {
        let given = match source {
            TargetSource::Literal(text) => std::slice::from_ref(text),
            source => world.sources.get(source).map_or(&[][..], Vec::as_slice),
        };
        targets.extend(given.iter().filter(|target| seen.insert(target.as_str())).cloned());
    }
    CompiledCheck {
        name: name.to_owned(),
        tenant: check.tenant.clone(),
        satellites: vantage_points(&check.from, &check.tenant, world),
        targets,
        exclude: check.exclude.clone(),
        ports: check.ports.clone(),
        schedule: check.schedule.clone(),
        confirm: check.confirm,
        recover: check.recover,
        quorum: check.quorum,
        severity: check.severity,
        labels: check.labels.clone(),
        depend_on: check.depend_on.clone(),
        method: check.method.clone(),
        paused: world.paused.contains(name),
    }
}

/// Whether one of these means a satellite of its tenant.
fn means(from: &[From], satellite: &str, segment: &str) -> bool {
    from.iter().any(|from| match from {
        From::All => true,
        From::Segment(name) => name == segment,
        From::Satellite(name) => name == satellite,
    })
}

/// The satellites of a tenant that are meant, ascending by name.
pub fn vantage_points(from: &[From], tenant: &str, world: &World) -> Vec<String> {
    world
        .satellites
        .iter()
        .filter(|(name, facts)| facts.tenant == tenant && means(from, name, &facts.segment))
        .map(|(name, _)| name.clone())
        .collect()
}

/// The windows in which a satellite must not send anything for a check.
pub fn blackouts<'a>(
    blackouts: &'a BTreeMap<String, Blackout>,
    satellite: &'a str,
    segment: &'a str,
) -> impl Iterator<Item = &'a Window> {
    let meant = blackouts.values().filter(move |blackout| means(&blackout.from, satellite, segment));
    meant.map(|blackout| &blackout.window)
}

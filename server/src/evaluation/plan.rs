//! From compiled checks to what the evaluator is to expect.

use crate::evaluate::{BaselinePorts, CheckSpec};
use portolan_common::addresses::AddressSet;
use portolan_common::ids::SatelliteId;
use portolan_common::targets::{Target, parse_all};
use portolan_policy::CompiledCheck;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What is expected of a check. Satellites that never enrolled give no evidence and are left out by `id_of`.
pub(super) fn spec_of(
    check: &CompiledCheck,
    baseline: Option<Arc<BaselinePorts>>,
    pace: Duration,
    id_of: impl Fn(&str) -> Option<SatelliteId>,
) -> CheckSpec {
    let mut ranges = Vec::new();
    let mut names = BTreeSet::new();
    let mut exclude = AddressSet::default();
    match parse_all(&check.targets, &check.exclude) {
        Ok(targets) => {
            exclude = targets.exclude;
            for spec in targets.specs {
                match spec.target {
                    Target::Addresses(set) => ranges.extend(set.ranges()),
                    Target::Name(_) => drop(names.insert(spec.text)),
                }
            }
        }
        // The policy's were read before; those of sources are read when they come.
        Err(errors) => {
            let first = errors.first().map(ToString::to_string).unwrap_or_default();
            tracing::error!(check = %check.name, first, "targets that cannot be read: nothing is expected of them");
        }
    }
    let addresses: AddressSet = ranges.into_iter().collect();
    CheckSpec {
        name: check.name.as_str().into(),
        tenant: check.tenant.as_str().into(),
        satellites: check.satellites.iter().filter_map(|name| id_of(name)).collect(),
        addresses: addresses.difference(&exclude),
        names,
        exclude,
        ports: check.ports.clone(),
        baseline,
        schedule: check.schedule.clone(),
        pace,
        confirm: check.confirm,
        recover: check.recover,
        quorum: check.quorum,
        paused: check.paused,
    }
}

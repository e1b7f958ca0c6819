//! What tests of policies are made of.

use portolan_common::expectation::ExpectedPorts;
use portolan_common::schedule::Schedule;
use portolan_policy::CompiledCheck;
use std::collections::BTreeMap;
use std::time::Duration;

/// A check of one address, by these satellites.
pub fn check(name: &str, satellites: &[&str]) -> CompiledCheck {
    CompiledCheck {
        name: name.to_owned(),
        tenant: "default".to_owned(),
        satellites: satellites.iter().map(|name| (*name).to_owned()).collect(),
        targets: vec!["10.0.0.1".to_owned()],
        exclude: Vec::new(),
        ports: ExpectedPorts { open: "80,443".parse().unwrap(), ..ExpectedPorts::default() },
        schedule: Schedule::Every(Duration::from_secs(60)),
        confirm: 2,
        recover: 2,
        quorum: Default::default(),
        severity: Default::default(),
        labels: BTreeMap::new(),
        depend_on: Vec::new(),
        method: "auto".to_owned(),
        paused: false,
    }
}

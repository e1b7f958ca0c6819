//! Standing checks, end to end: what must be open, closed or blocked, as satellites see it, becomes an alert when it is
//! not so, once, from the right places, and through every kind of outage.
//!
//! Checks run every second here, so that a test takes seconds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod held_back;
mod outages;
mod silences;
mod states;
mod targets;
mod vantage_points;

use std::net::IpAddr;
use std::time::Duration;

use portolan_tests::deployment::{Deployment, Satellite};
use portolan_tests::lab::{Host, Lab};
use serde_json::Value;

/// How long nothing may happen where nothing should: several turns of a check that runs every second.
const QUIET: Duration = Duration::from_secs(4);

/// Whether an alert of this name is about this port.
fn is(alert: &Value, name: &str, port: u16) -> bool {
    alert["labels"]["alertname"] == name && alert["port"] == port
}

/// The same, with a status.
fn is_now(alert: &Value, name: &str, port: u16, status: &str) -> bool {
    is(alert, name, port) && alert["status"] == status
}

/// A label-like field as text, for comparing several at once.
fn text(alert: &Value, key: &str) -> String {
    alert[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {alert:#}")).to_owned()
}

/// A deployment with `shop` in the dmz and one satellite a segment, all of them online.
struct Fleet {
    deployment: Deployment,
    satellites: Vec<Satellite>,
    hosts: Vec<Host>,
    shop: Host,
}

impl Fleet {
    /// One satellite `SEGMENT-1` for each of these segments.
    #[track_caller]
    fn build(lab: &Lab, segments: &[&str]) -> Self {
        let hosts: Vec<Host> = segments.iter().map(|name| lab.host(name, &format!("pc-{name}"))).collect();
        let shop = lab.host("dmz", "shop");
        let deployment = Deployment::up(lab);
        let names = hosts.iter().map(|host| format!("{}-1", host.segment()));
        let satellites = names.zip(&hosts).map(|(name, host)| deployment.satellite(host, &name)).collect();
        Self { deployment, satellites, hosts, shop }
    }

    fn address(&self) -> IpAddr {
        self.shop.v4()
    }
}

//! A server under a load that can be checked: synthetic satellites send without end, and an audit compares what the
//! console tells with what they know that they sent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::chance::Chance;
use crate::client::{Change, Fleet, Ledger, Pattern, Synthetic, now_ms};
use crate::deployment::{Deployment, Satellite};
use crate::lab::{Host, Process};

/// Sequences after which a satellite goes on to other addresses.
const ROUND: u64 = 600;
/// How long delivering what is under way may take.
const DRAIN: Duration = Duration::from_secs(30);
/// Satellites' times begin this long ago, so that none of them lies in the future.
const PAST_MS: i64 = 20 * 24 * 3600 * 1000;

/// A deployment with synthetic satellites.
pub struct Load {
    /// The server and its console.
    pub deployment: Deployment,
    /// Those who send.
    pub satellites: Vec<Synthetic>,
    config: [String; 2],
    _fleet: Fleet,
}

impl Load {
    /// An initialised server on this host, running, with so many satellites that say nothing yet. `pause` lies between
    /// two records of one.
    #[track_caller]
    pub fn build(deployment: Deployment, count: u16, pause: Duration) -> Self {
        Self::build_with(deployment, count, |deployment, fleet, place, pattern| {
            fleet.start(deployment, place, pattern, pause)
        })
    }

    /// The same; `start` says how each satellite connects.
    #[track_caller]
    pub fn build_with(
        deployment: Deployment,
        count: u16,
        start: impl Fn(&Deployment, &Fleet, &Satellite, Pattern) -> Synthetic,
    ) -> Self {
        if !deployment.data_dir().join("deployment.toml").exists() {
            deployment.init().ok();
        }
        let config = deployment.config("metrics = \"anyone\"\n");
        deployment.start_with(&config);
        let host: Host = deployment.server_host().clone();
        let fleet = Fleet::on(&host);
        let base_ms = now_ms() - PAST_MS;
        let satellites = (1..=count)
            .map(|number| {
                let place = deployment.enrolled(&host, &format!("synthetic-{number}"), &[]);
                let pattern = Pattern { satellite: number, base_ms, round: ROUND };
                start(&deployment, &fleet, &place, pattern)
            })
            .collect();
        Self { deployment, satellites, config, _fleet: fleet }
    }

    /// Starts the server's process and waits for nothing.
    pub fn spawn_server(&self) -> Process {
        for satellite in &self.satellites {
            satellite.begin_life();
        }
        self.deployment.run_command().args(&self.config).spawn()
    }

    /// Starts the server and waits until it answers the console.
    #[track_caller]
    pub fn start_server(&self) {
        for satellite in &self.satellites {
            satellite.begin_life();
        }
        self.deployment.start_with(&self.config);
    }

    /// Everybody sends without end.
    pub fn send_on(&self) {
        self.satellites.iter().for_each(Synthetic::send_on);
    }

    /// Nobody begins anything new.
    pub fn stop_growing(&self) {
        self.satellites.iter().for_each(Synthetic::stop_growing);
    }

    /// Records acked so far.
    pub fn acked(&self) -> u64 {
        self.satellites.iter().map(|satellite| satellite.ledger().acked()).sum()
    }

    /// Fails when the server ever said what cannot be true.
    #[track_caller]
    pub fn check(&self) {
        self.satellites.iter().for_each(Synthetic::check);
    }

    /// Waits until some satellite is acked something beyond these ledgers; `false` when it is not in time.
    pub fn wait_for_ack(&self, before: &[Ledger], limit: Duration) -> bool {
        let end = std::time::Instant::now() + limit;
        loop {
            for (satellite, before) in self.satellites.iter().zip(before) {
                if satellite.wait_until(Duration::from_millis(1), |now| now.acked() > before.acked()) {
                    return true;
                }
            }
            if std::time::Instant::now() >= end {
                return false;
            }
        }
    }

    /// What every satellite knows now.
    pub fn ledgers(&self) -> Vec<Ledger> {
        self.satellites.iter().map(Synthetic::ledger).collect()
    }

    /// With the server running: lets everything under way arrive, and fails unless the console tells exactly what was
    /// sent. What was acked is there, nothing counts twice, nothing is there that was not sent.
    #[track_caller]
    pub fn audit(&self, chance: &mut Chance) {
        self.stop_growing();
        for satellite in &self.satellites {
            let counted = satellite.drain(DRAIN);
            if counted == 0 {
                continue;
            }
            let pattern = satellite.pattern();
            let now = pattern.round_of(counted);
            // Also what was stored long ago: later kills must not have touched it.
            for round in [now, chance.below(now + 1)] {
                let host = chance.below(Pattern::hosts().end);
                self.audit_history(satellite, round, host, counted);
            }
            self.audit_inventory(satellite, now, counted);
        }
    }

    /// With the server running since [`Load::start_server`] and everything delivered: every record of this life was
    /// counted once. Needs [`need!("curl")`](crate::need).
    #[track_caller]
    pub fn audit_metrics(&self) {
        let counted: u64 = self
            .satellites
            .iter()
            .map(|satellite| {
                let ledger = satellite.ledger();
                ledger.acked()
                    - ledger
                        .greeted_with()
                        .unwrap_or_else(|| panic!("{} has not connected", satellite.name()))
            })
            .sum();
        assert_eq!(self.deployment.metric("portolan_records_total"), counted, "records counted in this life");
        assert_eq!(
            self.deployment.metric("portolan_records_missing_total"),
            0,
            "sequences missing in this life"
        );
        assert_eq!(self.deployment.metric("portolan_hosts_malformed_total"), 0);
    }

    #[track_caller]
    fn audit_history(&self, satellite: &Synthetic, round: u64, host: u64, counted: u64) {
        let pattern = satellite.pattern();
        if pattern.history(round, host, counted).is_none() {
            return;
        }
        let told = self.deployment.history(&pattern.address(round, host).to_string());
        let told: Vec<Change> = told.iter().map(|change| change_of(change, satellite.name())).collect();
        pattern.compare(round, host, counted, &told);
    }

    #[track_caller]
    fn audit_inventory(&self, satellite: &Synthetic, round: u64, counted: u64) {
        let pattern = satellite.pattern();
        let told = self.deployment.ask(&["ports", "--host", &pattern.network(round)]);
        let mut open: BTreeMap<String, u32> = BTreeMap::new();
        for port in told.as_array().expect("`ports` prints a list") {
            assert_eq!(port["satellite"], satellite.name(), "{port}");
            *open.entry(port["address"].as_str().expect("an address").to_owned()).or_default() += 1;
        }
        for host in Pattern::hosts() {
            let address = pattern.address(round, host).to_string();
            let expected = pattern.open_ports(round, host, counted).unwrap_or(0);
            assert_eq!(open.get(&address).copied().unwrap_or(0), expected, "open ports of {address}");
        }
    }
}

#[track_caller]
fn change_of(json: &Value, satellite: &str) -> Change {
    assert_eq!(json["satellite"], satellite, "{json}");
    let at: jiff::Timestamp = json["at"].as_str().and_then(|at| at.parse().ok()).expect("a time");
    let port = json["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
    Change { at_ms: at.as_millisecond(), port, opened: json["to"] == "open" }
}

//! What the server counts, in OpenMetrics words.

use crate::uplink::StatusCounts;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Counters and gauges.
pub struct Metrics {
    registry: Registry,
    /// Connections accepted.
    pub connections: Counter,
    /// Connections closed at once, over the cap of their address.
    pub connections_refused: Counter,
    /// Pauses for want of descriptors.
    pub accept_pauses: Counter,
    /// TLS handshakes that failed or timed out.
    pub handshakes_failed: Counter,
    /// Records of satellites that were committed.
    pub records: Counter,
    /// Records that had been committed before and came again.
    pub records_repeated: Counter,
    /// Hosts in committed records.
    pub hosts: Counter,
    /// Hosts in records that broke the wire contract and were dropped.
    pub hosts_malformed: Counter,
    /// Sequence numbers that never arrived.
    pub records_missing: Counter,
    /// Host observations that satellites dropped, and said so.
    pub hosts_dropped: Counter,
    /// Satellites that had been acked more than the store has.
    pub rewinds: Counter,
    /// State changes of single ports.
    pub port_changes: Counter,
    /// Assignments sent to satellites.
    pub assignments: Counter,
    policy_version: Gauge,
    checks: Gauge,
    satellites: Family<[(&'static str, &'static str); 1], Gauge>,
    scans: Gauge,
    store_bytes: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("portolan");
        let mut counter = |name, help| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let connections = counter("connections", "Connections accepted");
        let connections_refused = counter("connections_refused", "Connections over the cap of their address");
        let accept_pauses = counter("accept_pauses", "Pauses in accepting for want of descriptors");
        let handshakes_failed = counter("handshakes_failed", "TLS handshakes that failed or timed out");
        let records = counter("records", "Records committed");
        let records_repeated =
            counter("records_repeated", "Records that were committed before and came again");
        let hosts = counter("hosts_observed", "Host observations committed");
        let hosts_malformed = counter("hosts_malformed", "Host observations dropped as malformed");
        let records_missing =
            counter("records_missing", "Sequence numbers that never arrived and were not accounted for");
        let hosts_dropped =
            counter("hosts_dropped", "Host observations that satellites dropped and accounted for");
        let rewinds = counter("rewinds", "Satellites asked again for records that had been acked");
        let port_changes = counter("port_changes", "State changes of single ports");
        let assignments = counter("assignments_sent", "Assignments sent to satellites");
        let policy_version = Gauge::default();
        registry.register(
            "policy_version",
            "Version of the policy in force; 0: none",
            policy_version.clone(),
        );
        let checks = Gauge::default();
        registry.register("checks", "Checks of the policy in force", checks.clone());
        let satellites = Family::default();
        registry.register("satellites", "Satellites by status", satellites.clone());
        let scans = Gauge::default();
        registry.register("scans_running", "On-demand scans running", scans.clone());
        let store_bytes = Gauge::default();
        registry.register_with_unit(
            "store_size",
            "Size of the store on disk",
            Unit::Bytes,
            store_bytes.clone(),
        );
        Self {
            registry,
            connections,
            connections_refused,
            accept_pauses,
            handshakes_failed,
            records,
            records_repeated,
            hosts,
            hosts_malformed,
            records_missing,
            hosts_dropped,
            rewinds,
            port_changes,
            assignments,
            policy_version,
            checks,
            satellites,
            scans,
            store_bytes,
        }
    }
}

impl Metrics {
    /// Takes the readings that are taken only when asked for.
    pub fn set_gauges(&self, satellites: &StatusCounts, scans: usize, store_bytes: u64) {
        for (status, count) in [
            ("online", satellites.online),
            ("offline", satellites.offline),
            ("pending", satellites.pending),
            ("revoked", satellites.revoked),
        ] {
            self.satellites
                .get_or_create(&[("status", status)])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.scans.set(i64::try_from(scans).unwrap_or(i64::MAX));
        self.store_bytes.set(i64::try_from(store_bytes).unwrap_or(i64::MAX));
    }

    /// Takes the readings of the policy in force.
    pub fn set_policy(&self, version: u64, checks: usize) {
        self.policy_version.set(i64::try_from(version).unwrap_or(i64::MAX));
        self.checks.set(i64::try_from(checks).unwrap_or(i64::MAX));
    }

    /// OpenMetrics text.
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

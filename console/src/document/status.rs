//! `portolan status -o json`.

use super::non_empty;
use crate::output::time;
use jiff::Timestamp;
use portolan_proto::v1::{self, problem::Severity};
use serde::Serialize;

/// The whole document.
#[derive(Serialize)]
pub struct StatusDocument<'a> {
    pub version: &'a str,
    pub deployment_id: &'a str,
    /// The context that led here.
    pub context: &'a str,
    pub started_at: Option<Timestamp>,
    /// The server's clock.
    pub now: Option<Timestamp>,
    pub uptime_s: i64,
    pub store_bytes: u64,
    /// Free on the store's file system.
    pub store_free_bytes: u64,
    pub scans_running: u64,
    pub satellites: SatelliteCounts<'a>,
    pub server_certificate_expires_at: Option<Timestamp>,
    pub operator: OperatorDocument<'a>,
    /// Null: there is no policy.
    pub policy_version: Option<u64>,
    pub checks: CheckCounts,
    pub alerts: AlertCounts,
    /// What is wrong, worst first.
    pub problems: Vec<ProblemDocument<'a>>,
}

/// Something that should be known although nobody asked.
#[derive(Serialize)]
pub struct ProblemDocument<'a> {
    /// `critical`, `warning`.
    pub severity: &'static str,
    /// `store-full`, `server-went-back`, …
    pub kind: &'a str,
    /// The satellite's name; null: the server itself.
    pub satellite: Option<&'a str>,
    pub message: &'a str,
    /// Null: now.
    pub since: Option<Timestamp>,
}

#[derive(Serialize)]
pub struct SatelliteCounts<'a> {
    pub online: u64,
    pub offline: u64,
    pub pending: u64,
    pub revoked: u64,
    /// Those that send what they gathered while they were away.
    pub replaying: u64,
    /// Those that are offline, by name.
    pub offline_names: Vec<&'a str>,
}

/// The checks by their state.
#[derive(Serialize)]
pub struct CheckCounts {
    pub ok: u64,
    pub pending: u64,
    pub firing: u64,
    pub unknown: u64,
    pub paused: u64,
}

/// The alerts that are not resolved.
#[derive(Serialize)]
pub struct AlertCounts {
    /// Nobody took them on, and nothing holds them back.
    pub firing: u64,
    pub acknowledged: u64,
    pub held_back: u64,
}

/// Who asks, as the certificate says.
#[derive(Serialize)]
pub struct OperatorDocument<'a> {
    pub name: &'a str,
    pub certificate_expires_at: Option<Timestamp>,
}

impl<'a> StatusDocument<'a> {
    /// From the server's answer.
    pub fn new(status: &'a v1::StatusResponse, context: &'a str) -> Self {
        Self {
            version: &status.version,
            deployment_id: &status.deployment_id,
            context,
            started_at: time::from_wire(status.started_at_ms),
            now: time::from_wire(status.now_at_ms),
            uptime_s: status.now_at_ms.saturating_sub(status.started_at_ms).max(0) / 1000,
            store_bytes: status.store_bytes,
            store_free_bytes: status.store_free_bytes,
            scans_running: status.scans_running,
            satellites: SatelliteCounts {
                online: status.satellites_online,
                offline: status.satellites_offline,
                pending: status.satellites_pending,
                revoked: status.satellites_revoked,
                replaying: status.satellites_replaying,
                offline_names: status.offline.iter().map(|satellite| satellite.name.as_str()).collect(),
            },
            server_certificate_expires_at: time::from_wire(status.server_certificate_expires_at_ms),
            operator: OperatorDocument {
                name: &status.operator,
                certificate_expires_at: time::from_wire(status.operator_certificate_expires_at_ms),
            },
            policy_version: (status.policy_version > 0).then_some(status.policy_version),
            checks: CheckCounts {
                ok: status.checks_ok,
                pending: status.checks_pending,
                firing: status.checks_firing,
                unknown: status.checks_unknown,
                paused: status.checks_paused,
            },
            alerts: AlertCounts {
                firing: status.alerts_firing,
                acknowledged: status.alerts_acknowledged,
                held_back: status.alerts_held_back,
            },
            problems: status.problems.iter().map(ProblemDocument::from).collect(),
        }
    }
}

impl<'a> From<&'a v1::Problem> for ProblemDocument<'a> {
    fn from(problem: &'a v1::Problem) -> Self {
        Self {
            severity: match problem.severity() {
                Severity::Critical => "critical",
                Severity::Warning | Severity::Unspecified => "warning",
            },
            kind: &problem.kind,
            satellite: non_empty(&problem.subject),
            message: &problem.message,
            since: time::from_wire(problem.since_at_ms),
        }
    }
}

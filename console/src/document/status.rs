//! `portolan status -o json`.

use crate::output::time;
use jiff::Timestamp;
use portolan_proto::v1;
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
    pub scans_running: u64,
    pub satellites: SatelliteCounts<'a>,
    pub server_certificate_expires_at: Option<Timestamp>,
    pub operator: OperatorDocument<'a>,
}

#[derive(Serialize)]
pub struct SatelliteCounts<'a> {
    pub online: u64,
    pub offline: u64,
    pub pending: u64,
    pub revoked: u64,
    /// Those that are offline, by name.
    pub offline_names: Vec<&'a str>,
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
            scans_running: status.scans_running,
            satellites: SatelliteCounts {
                online: status.satellites_online,
                offline: status.satellites_offline,
                pending: status.satellites_pending,
                revoked: status.satellites_revoked,
                offline_names: status.offline.iter().map(|satellite| satellite.name.as_str()).collect(),
            },
            server_certificate_expires_at: time::from_wire(status.server_certificate_expires_at_ms),
            operator: OperatorDocument {
                name: &status.operator,
                certificate_expires_at: time::from_wire(status.operator_certificate_expires_at_ms),
            },
        }
    }
}

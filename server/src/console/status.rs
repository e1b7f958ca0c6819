//! `portolan status`.

use super::{ConsoleService, satellites};
use crate::problems::worst_first;
use jiff::Timestamp;
use portolan_proto::v1;
use tonic::Request;

/// Offline satellites named in full at most.
const NAMED: usize = 50;

pub(super) fn status(service: &ConsoleService, request: &Request<v1::StatusRequest>) -> v1::StatusResponse {
    let records = service.registry.list();
    let counts = service.hub.count(&records);
    let (operator, expires) = ConsoleService::operator(request);
    let mut problems = service.problems.list(Timestamp::now());
    problems.extend(service.policies.problems());
    problems.extend(service.evaluation.read(|alerts, _| alerts.problems()));
    worst_first(&mut problems);
    let overview = service.evaluation.overview();
    v1::StatusResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        deployment_id: service.deployment.to_string(),
        started_at_ms: service.started_at.as_millisecond(),
        now_at_ms: Timestamp::now().as_millisecond(),
        store_bytes: service.store.size_on_disk(),
        satellites_online: counts.online as u64,
        satellites_offline: counts.offline as u64,
        satellites_pending: counts.pending as u64,
        satellites_revoked: counts.revoked as u64,
        scans_running: service.scans.running() as u64,
        server_certificate_expires_at_ms: service.certificate.not_after().as_millisecond(),
        operator,
        operator_certificate_expires_at_ms: expires.as_millisecond(),
        offline: records
            .iter()
            .filter(|record| service.hub.status(record) == v1::satellite::Status::Offline)
            .take(NAMED)
            .map(|record| satellites::describe(service, record))
            .collect(),
        problems,
        satellites_replaying: service.hub.connected().1 as u64,
        store_free_bytes: service.store.free_bytes(),
        policy_version: overview.policy_version,
        checks_ok: overview.ok,
        checks_pending: overview.pending,
        checks_firing: overview.firing,
        checks_unknown: overview.unknown,
        checks_paused: overview.paused,
        alerts_firing: overview.alerts_firing,
        alerts_acknowledged: overview.alerts_acknowledged,
        alerts_held_back: overview.alerts_held_back,
    }
}

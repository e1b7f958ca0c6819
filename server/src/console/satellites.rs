//! `portolan satellite …`.

use super::ConsoleService;
use crate::registry::TOKEN_LIFE_DEFAULT;
use crate::store::{Gap, SatelliteRecord, Store};
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::SatelliteId;
use portolan_proto::v1;
use tonic::Status;

/// Networks in a proposed scope at most.
const MAX_SCOPE: usize = 256;
/// Gaps told of one satellite.
const MAX_GAPS: usize = 20;

pub(super) async fn add(
    service: &ConsoleService,
    operator: &str,
    request: v1::AddSatelliteRequest,
) -> Result<v1::AddSatelliteResponse, Status> {
    if request.scope.len() > MAX_SCOPE {
        return Err(Status::invalid_argument(format!("a scope has at most {MAX_SCOPE} networks")));
    }
    let wrong: Vec<String> = request
        .scope
        .iter()
        .filter_map(|text| {
            portolan_common::addresses::parse_network(text).err().map(|error| error.to_string())
        })
        .collect();
    if !wrong.is_empty() {
        return Err(Status::invalid_argument(wrong.join("; ")));
    }
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| Status::internal("the system has no random numbers"))?;
    let life = match request.ttl_seconds {
        0 => TOKEN_LIFE_DEFAULT,
        seconds => SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)),
    };
    let tenant = if request.tenant.is_empty() { "default" } else { &request.tenant };
    let added = service
        .registry
        .add(&request.name, &request.segment, tenant, Store::token_key(&secret), life, Timestamp::now())
        .await?;
    tracing::info!(operator, satellite = %request.name, segment = %request.segment, "satellite added");
    let token = v1::JoinToken {
        servers: service.dial_addresses.load().to_vec(),
        ca_pin: service.ca_pin.to_vec(),
        secret: secret.to_vec(),
        scope: request.scope,
    };
    Ok(v1::AddSatelliteResponse {
        token: token.to_text(),
        expires_at_ms: added.expires.as_millisecond(),
        replaced_token: added.replaced_token,
    })
}

pub(super) fn list(service: &ConsoleService, name: &str) -> Result<v1::ListSatellitesResponse, Status> {
    let records = if name.is_empty() { service.registry.list() } else { vec![service.registry.find(name)?] };
    let mut satellites: Vec<_> = records.iter().map(|record| describe(service, record)).collect();
    // What was lost is read from the store, so only where it is asked for.
    if let ([satellite], [record]) = (&mut satellites[..], &records[..])
        && !name.is_empty()
    {
        let id = record.satellite_id()?;
        let losses = service.store.losses(id)?;
        satellite.records_missing = Some(losses.missing);
        satellite.hosts_dropped = Some(losses.dropped);
        satellite.gaps = service.store.gaps(id, MAX_GAPS)?.iter().map(gap).collect();
    }
    Ok(v1::ListSatellitesResponse { satellites })
}

pub(super) async fn revoke(
    service: &ConsoleService,
    operator: &str,
    name: &str,
) -> Result<v1::RevokeSatelliteResponse, Status> {
    let mut was_online = false;
    let end = |id| was_online = service.hub.end(id, v1::goodbye::Reason::Revoked);
    service.registry.revoke(name, Timestamp::now(), end).await?;
    tracing::info!(operator, satellite = name, was_online, "satellite revoked");
    Ok(v1::RevokeSatelliteResponse { was_online })
}

pub(super) async fn remove(
    service: &ConsoleService,
    operator: &str,
    name: &str,
) -> Result<v1::RemoveSatelliteResponse, Status> {
    service.registry.remove(name, Timestamp::now()).await?;
    tracing::info!(operator, satellite = name, "satellite removed");
    Ok(v1::RemoveSatelliteResponse {})
}

fn gap(gap: &Gap) -> v1::Gap {
    use v1::dropped::Reason;
    let reason = match gap.reason {
        None => "missing",
        Some(Reason::Full) => "full",
        Some(Reason::Age) => "age",
        Some(Reason::Expired) => "expired",
        Some(Reason::Damaged) => "damaged",
        Some(Reason::Unspecified) => "unknown",
    };
    v1::Gap {
        at_ms: gap.at.as_millisecond(),
        first_sequence: gap.first,
        last_sequence: gap.last,
        hosts: gap.hosts,
        confirmations: gap.confirmations,
        reason: reason.to_owned(),
    }
}

/// What is registered, with what is known of the live session over it.
pub(super) fn describe(service: &ConsoleService, record: &SatelliteRecord) -> v1::Satellite {
    let live = SatelliteId::from_slice(&record.id).and_then(|id| service.hub.live(id));
    let mut satellite = v1::Satellite {
        name: record.name.clone(),
        segment: record.segment.clone(),
        tenant: record.tenant.clone(),
        status: service.hub.status(record).into(),
        version: record.version.clone(),
        address: record.address.clone(),
        last_seen_at_ms: record.last_seen_at_ms,
        certificate_expires_at_ms: record.certificate_expires_at_ms,
        assignment_revision: 0,
        spool_depth: 0,
        capabilities: record.capabilities.clone(),
        id: SatelliteId::from_slice(&record.id).map(|id| id.to_string()).unwrap_or_default(),
        ..v1::Satellite::default()
    };
    if let Some(live) = live {
        satellite.version = live.version;
        satellite.address = live.address.ip().to_canonical().to_string();
        satellite.last_seen_at_ms = live.last_seen.as_millisecond();
        satellite.assignment_revision = live.assignment_revision;
        satellite.spool_depth = live.spool_depth;
        satellite.spool_bytes = live.spool_bytes;
        satellite.spool_error = live.spool_error;
        satellite.clock_skew_ms = live.clock_skew_ms;
        satellite.replaying = live.replaying;
        satellite.capabilities = live.capabilities;
    }
    satellite
}

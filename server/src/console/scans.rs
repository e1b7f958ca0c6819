//! `portolan scan`.

use super::{ConsoleService, Streamed, satellites};
use crate::scans::{Events, Participant, Scans};
use crate::store::Health;
use jiff::Timestamp;
use portolan_common::ids::ScanId;
use portolan_common::ports::PortSpec;
use portolan_common::targets;
use portolan_proto::v1;
use std::sync::Arc;
use tonic::Status;
use uuid::Uuid;

/// Vantage points of one scan at most.
const MAX_SATELLITES: usize = 256;
/// Target texts of one scan at most.
const MAX_TARGETS: usize = 100_000;

pub(super) fn scan(
    service: &ConsoleService,
    operator: &str,
    request: v1::ScanRequest,
) -> Result<Streamed<v1::ScanEvent>, Status> {
    check(&request)?;
    if let Some(refusal) = refusal(&service.store.health()) {
        return Err(Status::failed_precondition(refusal));
    }
    let mut participants: Vec<Participant> = Vec::new();
    let mut described = Vec::new();
    for name in &request.satellites {
        let record = service.registry.find(name)?;
        let id = record.satellite_id()?;
        if participants.iter().any(|known| known.id == id) {
            continue;
        }
        let satellite = satellites::describe(service, &record);
        let absent = absence(&satellite, &request.method);
        participants.push(Participant { id, name: record.name.clone(), absent });
        described.push(satellite);
    }
    let id = ScanId(Uuid::now_v7());
    let start = v1::StartScan {
        scan_id: id.as_bytes().to_vec(),
        targets: request.targets,
        exclude: request.exclude,
        ports: request.ports,
        method: request.method,
        gentle: request.gentle,
        discover: request.discover,
        udp_budget_ms: request.udp_budget_ms,
        max_rate: request.max_rate,
        max_rate_per_host: request.max_rate_per_host,
    };
    tracing::info!(operator, scan = %id, from = ?request.satellites, targets = start.targets.len(), "scan");
    let events = service
        .scans
        .start(id, start, participants, described)
        .map_err(|error| Status::resource_exhausted(error.to_string()))?;
    let guard = Abandon { scans: service.scans.clone(), id };
    Ok(Box::pin(ScanStream { events, finished: false, is_any_stored: false, _guard: guard }))
}

pub(super) fn cancel(service: &ConsoleService, scan_id: &str) -> Result<v1::CancelScanResponse, Status> {
    let id: ScanId = scan_id.parse().map_err(|_| Status::invalid_argument("the scan's id is no UUID"))?;
    if service.scans.cancel(id) {
        Ok(v1::CancelScanResponse {})
    } else {
        Err(Status::not_found("no such scan is running"))
    }
}

/// All that can be known to be wrong before anything is sent, at once.
fn check(request: &v1::ScanRequest) -> Result<(), Status> {
    let mut wrong = Vec::new();
    if request.satellites.is_empty() {
        wrong.push("no satellite is named".to_owned());
    }
    if request.satellites.len() > MAX_SATELLITES {
        wrong.push(format!("more than {MAX_SATELLITES} satellites"));
    }
    if request.targets.is_empty() {
        wrong.push("no target is named".to_owned());
    }
    if request.targets.len() + request.exclude.len() > MAX_TARGETS {
        wrong.push(format!("more than {MAX_TARGETS} targets: use networks or ranges"));
    } else if let Err(errors) = targets::parse_all(&request.targets, &request.exclude) {
        wrong.extend(errors.iter().take(20).map(ToString::to_string));
    }
    match request.ports.parse::<PortSpec>() {
        Ok(ports) if ports.is_empty() => wrong.push("no port is named".to_owned()),
        Ok(_) => {}
        Err(error) => wrong.push(error.to_string()),
    }
    if wrong.is_empty() { Ok(()) } else { Err(Status::invalid_argument(wrong.join("\n"))) }
}

/// What is scanned is told only when it is stored, so nothing is begun that could not be told.
fn refusal(health: &Health) -> Option<String> {
    let why = match health {
        Health::Good => return None,
        Health::Full { .. } => "its disk is full",
        Health::Failed { .. } => "it cannot be written",
    };
    Some(format!(
        "the server's store takes no results now ({why}): `portolan status` says more and what to do; scan again when \
         it is well"
    ))
}

/// Why a satellite can take no part in a scan, if so.
fn absence(satellite: &v1::Satellite, method: &str) -> Option<String> {
    match satellite.status() {
        v1::satellite::Status::Online => {
            let offered = method == "auto" || satellite.capabilities.iter().any(|c| c == method);
            (!offered).then(|| {
                format!(
                    "method `{method}` is not available there: it offers {}",
                    satellite.capabilities.join(", ")
                )
            })
        }
        v1::satellite::Status::Pending => Some("it has not enrolled yet".into()),
        v1::satellite::Status::Revoked => Some("it was revoked".into()),
        _ => Some(match Timestamp::from_millisecond(satellite.last_seen_at_ms) {
            Ok(at) if satellite.last_seen_at_ms != 0 => format!("it is offline, last seen at {at:.0}"),
            _ => "it is offline and never connected".into(),
        }),
    }
}

/// Abandons the scan when the operator's stream ends, however it ends.
struct Abandon {
    scans: Arc<Scans>,
    id: ScanId,
}

impl Drop for Abandon {
    fn drop(&mut self) {
        self.scans.abandon(self.id);
    }
}

/// The events as the operator's stream. A queue that ends without `Finished` was cut: the server shuts down, or the
/// reader was too slow.
struct ScanStream {
    events: Events,
    finished: bool,
    /// Hosts come when they are stored.
    is_any_stored: bool,
    _guard: Abandon,
}

impl tokio_stream::Stream for ScanStream {
    type Item = Result<v1::ScanEvent, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        use std::task::Poll;
        match self.events.poll_next(context) {
            Poll::Ready(Some(event)) => {
                self.finished = matches!(event.event, Some(v1::scan_event::Event::Finished(_)));
                self.is_any_stored |= matches!(event.event, Some(v1::scan_event::Event::Hosts(_)));
                Poll::Ready(Some(Ok(event)))
            }
            Poll::Ready(None) if !self.finished => {
                self.finished = true;
                Poll::Ready(Some(Err(Status::unavailable(cut(self.is_any_stored)))))
            }
            other => other.map(|event| event.map(Ok)),
        }
    }
}

/// Why a scan's events end before the scan does.
fn cut(is_any_stored: bool) -> &'static str {
    if is_any_stored {
        "the server ended the scan: it is shutting down, or this reader was too slow; what was seen so far is stored \
         (`portolan ports`)"
    } else {
        "the server ended the scan: it is shutting down, or this reader was too slow"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_begun_that_could_not_be_stored() {
        assert_eq!(refusal(&Health::Good), None);
        let failed = Health::Failed { why: "Input/output error (os error 5)".into() };
        for health in [Health::Full { free: 0, needed: 1 }, failed] {
            let words = refusal(&health).unwrap();
            assert!(words.contains("takes no results") && words.contains("`portolan status`"), "{words}");
        }
    }

    #[test]
    fn that_something_is_stored_is_said_only_when_something_is() {
        assert!(cut(true).contains("is stored") && !cut(false).contains("stored"));
    }
}

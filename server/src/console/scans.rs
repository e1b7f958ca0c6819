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
/// The longest UDP budget: a day.
const MAX_UDP_BUDGET_MS: u64 = 24 * 3600 * 1000;
/// Methods of whatever version; the other capabilities are none.
const METHODS: [&str; 3] = ["connect", "syn", "udp"];
/// The capability to keep a ceiling on a scan's rate.
const MAX_RATE: &str = "max-rate";
/// The capability to find out first which hosts are there.
const DISCOVER: &str = "discover";
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
        let absent = absence(&satellite, &request);
        let notes = shortcomings(&satellite, &request);
        participants.push(Participant { id, name: record.name.clone(), absent, notes });
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
        .start(id, operator, start, participants, described)
        .map_err(|error| Status::resource_exhausted(error.to_string()))?;
    let guard = Abandon { scans: service.scans.clone(), id };
    Ok(Box::pin(ScanStream { events, finished: false, is_any_stored: false, _guard: guard }))
}

pub(super) fn cancel(
    service: &ConsoleService,
    operator: &str,
    scan_id: &str,
) -> Result<v1::CancelScanResponse, Status> {
    let id = read_id(scan_id)?;
    if !service.scans.cancel(id) {
        return Err(no_such_scan());
    }
    tracing::info!(operator, scan = %id, "scan cancelled");
    Ok(v1::CancelScanResponse {})
}

pub(super) fn pause(
    service: &ConsoleService,
    operator: &str,
    request: &v1::PauseScanRequest,
) -> Result<v1::PauseScanResponse, Status> {
    let id = read_id(&request.scan_id)?;
    let (failed, is_everywhere) = service.scans.pause(id, request.paused).ok_or_else(no_such_scan)?;
    if is_everywhere {
        let each: Vec<String> = failed.iter().map(|f| format!("{}: {}", f.satellite, f.error)).collect();
        return Err(Status::failed_precondition(each.join("\n")));
    }
    tracing::info!(operator, scan = %id, paused = request.paused, "scan {}", word(request.paused));
    Ok(v1::PauseScanResponse { failed })
}

fn word(paused: bool) -> &'static str {
    if paused { "paused" } else { "resumed" }
}

fn read_id(text: &str) -> Result<ScanId, Status> {
    text.parse().map_err(|_| Status::invalid_argument("the scan's id is no UUID"))
}

fn no_such_scan() -> Status {
    Status::not_found("no such scan is running")
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
    if request.udp_budget_ms > MAX_UDP_BUDGET_MS {
        wrong.push("the UDP budget is longer than a day".to_owned());
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
fn absence(satellite: &v1::Satellite, request: &v1::ScanRequest) -> Option<String> {
    match satellite.status() {
        v1::satellite::Status::Online => {
            let method = request.method.as_str();
            // One that knows of `syn` makes do with connections by itself where it may not, and says so.
            let offered = METHODS.contains(&method) && can(satellite, method)
                || method == "syn" && can(satellite, "udp");
            if !matches!(method, "" | "auto") && !offered {
                let methods = satellite.capabilities.iter().map(String::as_str);
                let methods: Vec<&str> = methods.filter(|word| METHODS.contains(word)).collect();
                let methods = methods.join(", ");
                return Some(format!("method `{method}` is not available there: it offers {methods}"));
            }
            // A ceiling that is passed over would be a burst where somebody asked for none.
            ((request.max_rate > 0 || request.max_rate_per_host > 0) && !can(satellite, MAX_RATE)).then(|| {
                format!(
                    "its version {} keeps no ceiling on a scan's rate: update portolan-satellite there, or scan \
                     without one",
                    satellite.version
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

fn can(satellite: &v1::Satellite, capability: &str) -> bool {
    satellite.capabilities.iter().any(|offered| offered == capability)
}

/// What a satellite passes over in a request that it takes part in all the same. Of host discovery a version that knows
/// `udp` tells itself, with the reason.
fn shortcomings(satellite: &v1::Satellite, request: &v1::ScanRequest) -> Vec<String> {
    let passed_over =
        request.discover() == v1::Discovery::On && !can(satellite, DISCOVER) && !can(satellite, "udp");
    let note = || "host discovery is not available there: every address was probed".to_owned();
    passed_over.then(note).into_iter().collect()
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
    fn what_a_satellite_cannot_do_is_told_before_it_begins() {
        let office = v1::Satellite {
            status: v1::satellite::Status::Online.into(),
            version: "0.2.0".into(),
            capabilities: ["connect", "pause"].map(str::to_owned).into(),
            ..v1::Satellite::default()
        };
        let auto = v1::ScanRequest { method: "auto".into(), ..v1::ScanRequest::default() };
        assert_eq!(absence(&office, &auto), None);
        let syn = v1::ScanRequest { method: "syn".into(), ..auto.clone() };
        assert_eq!(absence(&office, &syn).unwrap(), "method `syn` is not available there: it offers connect");
        let pause = v1::ScanRequest { method: "pause".into(), ..auto.clone() };
        assert!(absence(&office, &pause).is_some(), "no method");
        for bounded in [
            v1::ScanRequest { max_rate: 100, ..auto.clone() },
            v1::ScanRequest { max_rate_per_host: 1, ..auto.clone() },
        ] {
            let words = absence(&office, &bounded).unwrap();
            assert!(words.starts_with("its version 0.2.0 keeps no ceiling"), "{words}");
            let able = ["connect", "max-rate"].map(str::to_owned).into();
            assert_eq!(absence(&v1::Satellite { capabilities: able, ..office.clone() }, &bounded), None);
        }
        let discover = v1::ScanRequest { discover: v1::Discovery::On.into(), ..auto.clone() };
        assert_eq!(absence(&office, &discover), None);
        assert_eq!(shortcomings(&office, &discover).len(), 1);
        assert!(shortcomings(&office, &auto).is_empty());
        let tells_itself =
            v1::Satellite { capabilities: ["connect", "udp"].map(str::to_owned).into(), ..office };
        assert!(shortcomings(&tells_itself, &discover).is_empty());
    }

    #[test]
    fn that_something_is_stored_is_said_only_when_something_is() {
        assert!(cut(true).contains("is stored") && !cut(false).contains("stored"));
    }
}

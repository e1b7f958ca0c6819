//! The scans that run here: each resolves its names, sweeps, and puts what it sees into the spool as it comes.

use crate::engine::{self, EngineContext, Method, Outcome, Refusal, SweepEvent, SweepRequest, SweepSummary};
use crate::resolve;
use crate::spool::Spool;
use jiff::Timestamp;
use portolan_common::addresses::AddressSet;
use portolan_common::ids::ScanId;
use portolan_common::observation::HostObservation;
use portolan_common::ports::PortSpec;
use portolan_common::targets;
use portolan_proto::batch;
use portolan_proto::v1;
use prost::Message as _;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Hosts that a batch gathers at most, …
const BATCH_HOSTS: usize = 1024;
/// … bytes (over a slow link a batch must pass well within the time that the server waits for a sign of life,
/// and with its header it fits the 32 KiB that the spool's file gives it), …
const BATCH_BYTES: usize = 31 * 1024;
/// … and how long it waits for more.
const BATCH_WAIT: Duration = Duration::from_millis(50);
/// Events between the engine and the batches.
const EVENTS: usize = 1024;
/// How often the last scans are looked for while the satellite shuts down.
const STOP_POLL: Duration = Duration::from_millis(20);
/// Scans at once.
const MAX_SCANS: usize = 64;
/// The end of a scan must fit into one message of the uplink whatever was scanned: bytes of its refusals, …
const MAX_REFUSAL_BYTES: usize = 256 * 1024;
/// … bytes of its coverage, …
const MAX_COVERAGE_BYTES: usize = 512 * 1024;
/// … and names that did not resolve.
const MAX_UNRESOLVED: usize = 1000;
/// Characters of a rule or of a refused port list that are shown; a scope may list a thousand ports.
const MAX_SHOWN: usize = 400;

/// See the module.
pub struct Scans {
    context: EngineContext,
    spool: Arc<Spool>,
    progress: mpsc::Sender<v1::ScanProgress>,
    running: Mutex<HashMap<ScanId, CancellationToken>>,
    /// Cancelled when the satellite ends: nothing is begun any more.
    ending: CancellationToken,
}

impl Scans {
    /// None at first. `progress` is sent only while there is room.
    pub fn new(context: EngineContext, spool: Arc<Spool>, progress: mpsc::Sender<v1::ScanProgress>) -> Self {
        let ending = CancellationToken::new();
        Self { context, spool, progress, running: Mutex::default(), ending }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ScanId, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scans that run.
    pub fn running(&self) -> Vec<ScanId> {
        self.table().keys().copied().collect()
    }

    /// Starts a scan; one that runs already is left alone.
    pub fn start(self: &Arc<Self>, start: v1::StartScan) {
        let Some(id) = ScanId::from_slice(&start.scan_id) else {
            tracing::warn!("a scan without an id");
            return;
        };
        if self.ending.is_cancelled() {
            return;
        }
        let cancel = self.ending.child_token();
        let crowded = {
            let mut table = self.table();
            if table.contains_key(&id) {
                return;
            }
            let crowded = table.len() >= MAX_SCANS;
            if !crowded {
                table.insert(id, cancel.clone());
            }
            crowded
        };
        let scans = self.clone();
        tokio::spawn(async move {
            let started_at = Timestamp::now();
            let end = if crowded {
                failed(format!("{MAX_SCANS} scans are running on this satellite already"))
            } else {
                // A panic in one scan ends that scan, and says so.
                let task = tokio::spawn({
                    let scans = scans.clone();
                    async move {
                        // On the disk before the first probe: a scan that a crash cuts off is reported as failed.
                        tokio::select! {
                            () = scans.spool.begin(id) => {}
                            () = cancel.cancelled() => return cancelled(),
                        }
                        scans.sweep(id, start, cancel).await
                    }
                });
                task.await.unwrap_or_else(|error| failed(format!("the scan stopped unexpectedly: {error}")))
            };
            let end = v1::ScanEnd {
                started_at_ms: started_at.as_millisecond(),
                finished_at_ms: Timestamp::now().as_millisecond(),
                ..end
            };
            scans.spool.push(id, v1::record::Body::End(end)).await;
            // Only now: until its end is in the spool, the scan counts as running.
            scans.table().remove(&id);
        });
    }

    /// Stops a scan; an unknown one is none of ours any more.
    pub fn cancel(&self, id: &[u8]) {
        if let Some(cancel) = ScanId::from_slice(id).and_then(|id| self.table().get(&id).cloned()) {
            cancel.cancel();
        }
    }

    /// Stops everything, since the satellite shuts down; returns once the ends of all scans are in the spool.
    pub async fn stop(&self) {
        self.ending.cancel();
        while !self.table().is_empty() {
            tokio::time::sleep(STOP_POLL).await;
        }
    }

    async fn sweep(&self, id: ScanId, start: v1::StartScan, cancel: CancellationToken) -> v1::ScanEnd {
        let request = match read(&start) {
            Ok(request) => request,
            Err(why) => return failed(why),
        };
        let (targets, ports, method) = request;
        let names: Vec<String> = targets.names().into_iter().collect();
        let (lookup, unresolved) = tokio::select! {
            resolved = resolve::resolve_all(&names) => resolved,
            () = cancel.cancelled() => return cancelled(),
        };
        let targets = targets.resolve(&lookup);
        tracing::info!(scan = %id, addresses = %targets.addresses.len(), ports = ports.len(), "scan");
        let excluded: Vec<&str> = targets.unresolved_excludes.iter().map(String::as_str).collect();
        if !excluded.is_empty() {
            // Whoever excludes a fragile device must not find it scanned because the resolver was away.
            return failed(format!(
                "what is excluded does not resolve here ({}), so nothing was scanned: exclude addresses instead",
                excluded.join(", ")
            ));
        }
        let unresolved_dropped = unresolved.len().saturating_sub(MAX_UNRESOLVED) as u64;
        let unresolved = unresolved
            .into_iter()
            .take(MAX_UNRESOLVED)
            .map(|u| v1::Unresolved { name: u.name, error: u.error })
            .collect();
        let (sender, receiver) = mpsc::channel(EVENTS);
        let request = SweepRequest { targets, ports, method, gentle: start.gentle };
        let sweeping = engine::sweep(request, self.context.clone(), sender, cancel);
        let (summary, ()) = tokio::join!(sweeping, self.forward(id, receiver));
        tracing::info!(scan = %id, probes = summary.probes_sent, outcome = ?summary.outcome, "scan ended");
        v1::ScanEnd { unresolved, unresolved_dropped, ..end_of(summary) }
    }

    /// Gathers what comes into batches; a batch waits a moment for company, never long.
    async fn forward(&self, id: ScanId, mut events: mpsc::Receiver<SweepEvent>) {
        let mut batch = Vec::new();
        let mut hosts = 0;
        let mut since = Instant::now();
        loop {
            let wait = if hosts == 0 { Duration::MAX } else { BATCH_WAIT.saturating_sub(since.elapsed()) };
            match tokio::time::timeout(wait, events.recv()).await {
                Ok(Some(SweepEvent::Progress(progress))) => {
                    // Lost when the connection is slow or away; the next one comes soon.
                    let _ = self.progress.try_send(v1::ScanProgress {
                        scan_id: id.as_bytes().to_vec(),
                        hosts_done: progress.hosts_done,
                        hosts_total: progress.hosts_total,
                        ports_done: progress.ports_done,
                        ports_total: progress.ports_total,
                        open_found: progress.open_found,
                        probes_sent: progress.probes_sent,
                    });
                    continue;
                }
                Ok(Some(SweepEvent::Host(host))) => {
                    if hosts == 0 {
                        since = Instant::now();
                    }
                    batch::push(&mut batch, &wire(&host));
                    hosts += 1;
                    if hosts < BATCH_HOSTS && batch.len() < BATCH_BYTES && since.elapsed() < BATCH_WAIT {
                        continue;
                    }
                }
                Ok(None) => {
                    self.flush(id, &mut batch).await;
                    return;
                }
                Err(_) => {}
            }
            self.flush(id, &mut batch).await;
            hosts = 0;
        }
    }

    async fn flush(&self, id: ScanId, batch: &mut Vec<u8>) {
        if batch.is_empty() {
            return;
        }
        let body = v1::record::Body::Observations(std::mem::take(batch));
        self.spool.push(id, body).await;
    }
}

/// The wire allows 255 bytes for what the operator typed; a longer list of octets is cut, not refused.
fn wire(host: &HostObservation) -> v1::HostObservation {
    let mut wire = v1::HostObservation::from(host);
    if wire.target.len() > 255 {
        wire.target = host.address.to_string();
    }
    wire
}

fn read(start: &v1::StartScan) -> Result<(targets::Targets, PortSpec, Method), String> {
    let targets = targets::parse_all(&start.targets, &start.exclude)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let ports: PortSpec = start.ports.parse().map_err(|error| format!("{error}"))?;
    let method: Method = start.method.parse().map_err(|error| format!("{error}"))?;
    Ok((targets, ports, method))
}

fn failed(error: String) -> v1::ScanEnd {
    v1::ScanEnd { outcome: v1::scan_end::Outcome::Failed.into(), error, ..v1::ScanEnd::default() }
}

fn cancelled() -> v1::ScanEnd {
    v1::ScanEnd { outcome: v1::scan_end::Outcome::Cancelled.into(), ..v1::ScanEnd::default() }
}

fn end_of(summary: SweepSummary) -> v1::ScanEnd {
    let (outcome, error) = match summary.outcome {
        Outcome::Complete => (v1::scan_end::Outcome::Complete, String::new()),
        Outcome::Cancelled => (v1::scan_end::Outcome::Cancelled, String::new()),
        Outcome::Failed(why) => (v1::scan_end::Outcome::Failed, why),
    };
    let (refusals, refusals_dropped) = bounded_refusals(summary.refusals);
    let (coverage, coverage_dropped) = bounded_coverage(summary.coverage);
    v1::ScanEnd {
        outcome: outcome.into(),
        error,
        refusals,
        refusals_dropped: summary.refusals_dropped + refusals_dropped,
        coverage,
        coverage_dropped,
        hosts_up: summary.hosts_up,
        hosts_total: summary.hosts_total,
        probes_sent: summary.probes_sent,
        method: summary.method.to_string(),
        method_reason: summary.method_reason,
        ..v1::ScanEnd::default()
    }
}

/// As many refusals as fit, and how many do not.
fn bounded_refusals(refusals: Vec<Refusal>) -> (Vec<v1::Refusal>, u64) {
    let mut room = MAX_REFUSAL_BYTES;
    let mut kept = Vec::new();
    let mut dropped = 0;
    for refusal in refusals {
        let refusal = v1::Refusal {
            target: refusal.addresses.to_string(),
            ports: refusal.ports.map(|ports| shown(&ports.to_string())).unwrap_or_default(),
            rule: shown(&refusal.rule),
        };
        match room.checked_sub(refusal.encoded_len() + 4) {
            Some(left) => {
                room = left;
                kept.push(refusal);
            }
            None => dropped += 1,
        }
    }
    (kept, dropped)
}

/// As much coverage as fits, and how many address ranges do not.
fn bounded_coverage(coverage: Vec<(AddressSet, PortSpec)>) -> (Vec<v1::Coverage>, u64) {
    let mut room = MAX_COVERAGE_BYTES;
    let mut kept = Vec::new();
    let mut dropped = 0;
    for (addresses, ports) in coverage {
        let mut part = v1::Coverage { addresses: Vec::new(), ports: ports.to_string() };
        let head = part.ports.len() + 8;
        for range in addresses.ranges().map(|range| range.to_string()) {
            let cost = range.len() + 4 + if part.addresses.is_empty() { head } else { 0 };
            match room.checked_sub(cost) {
                Some(left) => {
                    room = left;
                    part.addresses.push(range);
                }
                None => dropped += 1,
            }
        }
        if !part.addresses.is_empty() {
            kept.push(part);
        }
    }
    if dropped > 0 {
        tracing::warn!(dropped, "the coverage is too scattered to report in full");
    }
    (kept, dropped)
}

fn shown(text: &str) -> String {
    if text.len() <= MAX_SHOWN {
        return text.to_owned();
    }
    format!("{}…", text.chars().take(MAX_SHOWN).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MAX_REFUSALS;
    use portolan_common::addresses::AddressRange;
    use portolan_common::ports::PortSet;
    use portolan_proto::MAX_UPLINK_BYTES;
    use std::net::Ipv4Addr;

    /// A record that the server's limit turns away would be sent again for ever.
    #[test]
    fn the_end_of_the_most_scattered_scan_fits_into_a_message() {
        let scattered: PortSet = (0..=u16::MAX).filter(|port| port % 2 == 0).collect();
        let ports = PortSpec { tcp: scattered, udp: PortSet::default() };
        let address = |n: u32| AddressRange::single(Ipv4Addr::from_bits(n * 2).into());
        let refusals = (0..MAX_REFUSALS as u32)
            .map(|n| Refusal {
                addresses: address(n),
                ports: Some(ports.clone()),
                rule: format!("ports {ports}"),
            })
            .collect();
        let coverage =
            (0..20).map(|n| ((n * 50_000..(n + 1) * 50_000).map(address).collect(), ports.clone())).collect();
        let summary = SweepSummary {
            outcome: Outcome::Complete,
            hosts_up: 0,
            hosts_total: 1_000_000,
            probes_sent: 0,
            refusals,
            refusals_dropped: 5,
            coverage,
            method: Method::Connect,
            method_reason: String::new(),
        };
        let end = end_of(summary);
        assert!(end.encoded_len() < MAX_UPLINK_BYTES - 64 * 1024, "{} bytes", end.encoded_len());
        let named = end.refusals.len() as u64;
        assert!(named > 100 && end.refusals_dropped == MAX_REFUSALS as u64 - named + 5);
        let covered: usize = end.coverage.iter().map(|part| part.addresses.len()).sum();
        assert!(covered > 1000 && covered as u64 + end.coverage_dropped == 1_000_000);
    }
}

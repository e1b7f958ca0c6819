//! The scans that run here: each resolves its names, sweeps, and puts what it sees into the outbox as it comes.

use crate::engine::{self, EngineContext, Method, Outcome, SweepEvent, SweepRequest, SweepSummary};
use crate::resolve;
use crate::uplink::outbox::Outbox;
use jiff::Timestamp;
use portolan_common::ids::ScanId;
use portolan_common::observation::HostObservation;
use portolan_common::ports::PortSpec;
use portolan_common::targets;
use portolan_proto::batch;
use portolan_proto::v1;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Hosts that a batch gathers at most, …
const BATCH_HOSTS: usize = 1024;
/// … bytes (over a slow link a batch must pass well within the time that the server waits for a sign of life), …
const BATCH_BYTES: usize = 32 * 1024;
/// … and how long it waits for more.
const BATCH_WAIT: Duration = Duration::from_millis(50);
/// Events between the engine and the batches.
const EVENTS: usize = 1024;
/// Scans at once.
const MAX_SCANS: usize = 64;
/// Ranges in one coverage message.
const MAX_COVERAGE_RANGES: usize = 10_000;

/// See the module.
pub struct Scans {
    context: EngineContext,
    outbox: Arc<Outbox>,
    progress: mpsc::Sender<v1::ScanProgress>,
    running: Mutex<HashMap<ScanId, CancellationToken>>,
}

impl Scans {
    /// None at first. `progress` is sent only while there is room.
    pub fn new(
        context: EngineContext,
        outbox: Arc<Outbox>,
        progress: mpsc::Sender<v1::ScanProgress>,
    ) -> Self {
        Self { context, outbox, progress, running: Mutex::default() }
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
        let cancel = CancellationToken::new();
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
                    async move { scans.sweep(id, start, cancel).await }
                });
                task.await.unwrap_or_else(|error| failed(format!("the scan stopped unexpectedly: {error}")))
            };
            let end = v1::ScanEnd {
                started_at_ms: started_at.as_millisecond(),
                finished_at_ms: Timestamp::now().as_millisecond(),
                ..end
            };
            scans.outbox.push(id, v1::record::Body::End(end), Instant::now()).await;
            // Only now: until its end is in the outbox, the scan counts as running.
            scans.table().remove(&id);
        });
    }

    /// Stops a scan; an unknown one is none of ours any more.
    pub fn cancel(&self, id: &[u8]) {
        if let Some(cancel) = ScanId::from_slice(id).and_then(|id| self.table().get(&id).cloned()) {
            cancel.cancel();
        }
    }

    /// Stops everything: the satellite shuts down.
    pub fn cancel_all(&self) {
        for cancel in self.table().values() {
            cancel.cancel();
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
        let unresolved =
            unresolved.into_iter().map(|u| v1::Unresolved { name: u.name, error: u.error }).collect();
        let (sender, receiver) = mpsc::channel(EVENTS);
        let request = SweepRequest { targets, ports, method, gentle: start.gentle };
        let sweeping = engine::sweep(request, self.context.clone(), sender, cancel);
        let (summary, ()) = tokio::join!(sweeping, self.forward(id, receiver));
        tracing::info!(scan = %id, probes = summary.probes_sent, outcome = ?summary.outcome, "scan ended");
        v1::ScanEnd { unresolved, ..end_of(summary) }
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
        self.outbox.push(id, body, Instant::now()).await;
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
    v1::ScanEnd {
        outcome: outcome.into(),
        error,
        refusals: summary
            .refusals
            .into_iter()
            .map(|refusal| v1::Refusal {
                target: refusal.addresses.to_string(),
                ports: refusal.ports.map(|ports| ports.to_string()).unwrap_or_default(),
                rule: refusal.rule,
            })
            .collect(),
        refusals_dropped: summary.refusals_dropped,
        coverage: summary
            .coverage
            .into_iter()
            .inspect(|(addresses, _)| {
                let cut = addresses.range_count().saturating_sub(MAX_COVERAGE_RANGES);
                if cut > 0 {
                    tracing::warn!(cut, "the coverage is too scattered to report in full");
                }
            })
            .map(|(addresses, ports)| v1::Coverage {
                addresses: addresses
                    .ranges()
                    .take(MAX_COVERAGE_RANGES)
                    .map(|range| range.to_string())
                    .collect(),
                ports: ports.to_string(),
            })
            .collect(),
        hosts_up: summary.hosts_up,
        hosts_total: summary.hosts_total,
        probes_sent: summary.probes_sent,
        method: summary.method.to_string(),
        method_reason: summary.method_reason,
        ..v1::ScanEnd::default()
    }
}

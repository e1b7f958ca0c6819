//! The scans that run here: each resolves its names, sweeps, and puts what it sees into the spool as it comes.

mod end;

use crate::engine::{self, Control, Discovery, EngineContext, SweepEvent, SweepRequest};
use crate::resolve;
use crate::spool::Spool;
use jiff::Timestamp;
use portolan_common::ids::ScanId;
use portolan_common::observation::HostObservation;
use portolan_common::targets::{self, ResolvedTargets, Targets};
use portolan_proto::batch;
use portolan_proto::v1;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Hosts that a batch gathers at most, …
pub const BATCH_HOSTS: usize = 1024;
/// … bytes (over a slow link a batch must pass well within the time that the server waits for a sign of life,
/// and with its header it fits the 32 KiB that the spool's file gives it), …
pub const BATCH_BYTES: usize = 31 * 1024;
/// … and how long it waits for more.
const BATCH_WAIT: Duration = Duration::from_millis(50);
/// Events between the engine and the batches.
const EVENTS: usize = 1024;
/// How often the last scans are looked for while the satellite shuts down.
const STOP_POLL: Duration = Duration::from_millis(20);
/// Scans at once.
const MAX_SCANS: usize = 64;
/// The largest budget for UDP ports: 65,536 of them at one answer a second take less.
const MAX_UDP_BUDGET: Duration = Duration::from_secs(24 * 3600);
/// Scans beyond these that are refused at once, and whose refusal is not in the spool yet.
const MAX_REFUSED: usize = 256;

/// See the module.
pub struct Scans {
    context: EngineContext,
    spool: Arc<Spool>,
    progress: mpsc::Sender<v1::ScanProgress>,
    table: Mutex<Table>,
    /// Cancelled when the satellite ends: nothing is begun any more.
    ending: CancellationToken,
    /// In a blackout nothing is begun, and what runs sends nothing.
    dark: watch::Receiver<bool>,
}

/// What was asked for and has no end in the spool yet.
#[derive(Default)]
struct Table {
    running: HashMap<ScanId, Steering>,
    refused: HashSet<ScanId>,
}

/// How a scan that runs is steered.
struct Steering {
    cancel: CancellationToken,
    pause: watch::Sender<bool>,
}

impl Scans {
    /// None at first. `progress` is sent only while there is room; while `dark` nothing is sent.
    pub fn new(
        context: EngineContext,
        spool: Arc<Spool>,
        progress: mpsc::Sender<v1::ScanProgress>,
        dark: watch::Receiver<bool>,
    ) -> Self {
        let ending = CancellationToken::new();
        Self { context, spool, progress, table: Mutex::default(), ending, dark }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scans that run, and those that were refused, as long as their ends are not in the spool.
    pub fn running(&self) -> Vec<ScanId> {
        let table = self.table();
        table.running.keys().chain(&table.refused).copied().collect()
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
        let mut table = self.table();
        if table.running.contains_key(&id) || table.refused.contains(&id) {
            return;
        }
        let dark = *self.dark.borrow();
        if table.running.len() < MAX_SCANS && !dark {
            let cancel = self.ending.child_token();
            let (pause, paused) = watch::channel(false);
            let control = Control { cancel: cancel.clone(), pause: either(paused, self.dark.clone()) };
            table.running.insert(id, Steering { cancel, pause });
            tokio::spawn(self.clone().run(id, start, control));
        } else if table.refused.len() < MAX_REFUSED {
            table.refused.insert(id);
            // Without the message: while the spool stands still, nothing large may wait for it.
            let why = match dark {
                true => {
                    "the policy has a blackout for this satellite now: it sends nothing until that is over"
                        .into()
                }
                false => format!("{MAX_SCANS} scans are running on this satellite already"),
            };
            tokio::spawn(self.clone().refuse(id, why));
        } else {
            tracing::warn!(
                scan = %id,
                "{MAX_SCANS} scans are running and {MAX_REFUSED} refusals wait for the spool: this one is passed \
                 over, and the server asks again when it next sees this satellite"
            );
        }
    }

    async fn run(self: Arc<Self>, id: ScanId, start: v1::StartScan, control: Control) {
        let started_at = Timestamp::now();
        // A panic in one scan ends that scan, and says so.
        let task = tokio::spawn({
            let scans = self.clone();
            async move {
                // On the disk before the first probe: a scan that a crash cuts off is reported as failed.
                tokio::select! {
                    () = scans.spool.begin(id) => {}
                    () = control.cancel.cancelled() => return end::cancelled(),
                }
                scans.sweep(id, start, control).await
            }
        });
        let end =
            task.await.unwrap_or_else(|error| end::failed(format!("the scan stopped unexpectedly: {error}")));
        self.push_end(id, started_at, end).await;
        // Only now: until its end is in the spool, the scan counts as running.
        self.table().running.remove(&id);
    }

    async fn refuse(self: Arc<Self>, id: ScanId, why: String) {
        self.push_end(id, Timestamp::now(), end::failed(why)).await;
        self.table().refused.remove(&id);
    }

    async fn push_end(&self, id: ScanId, started_at: Timestamp, end: v1::ScanEnd) {
        let end = v1::ScanEnd {
            started_at_ms: started_at.as_millisecond(),
            finished_at_ms: Timestamp::now().as_millisecond(),
            ..end
        };
        self.spool.push(id, v1::record::Body::End(end)).await;
    }

    /// Stops a scan; an unknown one is none of ours any more.
    pub fn cancel(&self, id: &[u8]) {
        let Some(id) = ScanId::from_slice(id) else { return };
        if let Some(scan) = self.table().running.get(&id) {
            scan.cancel.cancel();
        }
    }

    /// Stops or resumes the probes of a scan; an unknown one is none of ours any more.
    pub fn pause(&self, id: &[u8], paused: bool) {
        let Some(id) = ScanId::from_slice(id) else { return };
        if let Some(scan) = self.table().running.get(&id)
            && scan.pause.send_replace(paused) != paused
        {
            tracing::info!(scan = %id, "{}", if paused { "paused" } else { "resumed" });
        }
    }

    /// Stops everything, since the satellite shuts down; returns once the ends of all scans are in the spool.
    pub async fn stop(&self) {
        self.ending.cancel();
        while !self.running().is_empty() {
            tokio::time::sleep(STOP_POLL).await;
        }
    }

    async fn sweep(&self, id: ScanId, start: v1::StartScan, control: Control) -> v1::ScanEnd {
        let (targets, request) = match read(&start) {
            Ok(request) => request,
            Err(why) => return end::failed(why),
        };
        let names: Vec<String> = targets.names().into_iter().collect();
        let (lookup, unresolved) = tokio::select! {
            resolved = resolve::resolve_all(&names) => resolved,
            () = control.cancel.cancelled() => return end::cancelled(),
        };
        let targets = targets.resolve(&lookup);
        tracing::info!(scan = %id, addresses = %targets.addresses.len(), ports = request.ports.len(), "scan");
        let excluded: Vec<&str> = targets.unresolved_excludes.iter().map(String::as_str).collect();
        if !excluded.is_empty() {
            // Whoever excludes a fragile device must not find it scanned because the resolver was away.
            return end::failed(format!(
                "what is excluded does not resolve here ({}), so nothing was scanned: exclude addresses instead",
                excluded.join(", ")
            ));
        }
        let (sender, receiver) = mpsc::channel(EVENTS);
        let request = SweepRequest { targets, ..request };
        let sweeping = engine::sweep(request, self.context.clone(), sender, control);
        let (summary, ()) = tokio::join!(sweeping, self.forward(id, receiver));
        tracing::info!(scan = %id, probes = summary.probes_sent, outcome = ?summary.outcome, "scan ended");
        end::of(summary, unresolved)
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
                        paused: progress.paused,
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

/// True while one of both is. It ends with the first; the second stays as it was when it ends.
fn either(mut first: watch::Receiver<bool>, mut second: watch::Receiver<bool>) -> watch::Receiver<bool> {
    let (both, either) = watch::channel(*first.borrow_and_update() || *second.borrow_and_update());
    tokio::spawn(async move {
        let mut follows = true;
        loop {
            tokio::select! {
                changed = first.changed() => if changed.is_err() {
                    return;
                },
                changed = second.changed(), if follows => follows = changed.is_ok(),
                () = both.closed() => return,
            }
            both.send_replace(*first.borrow_and_update() || *second.borrow_and_update());
        }
    });
    either
}

/// The wire allows 255 bytes for what the operator typed; a longer list of octets is cut, not refused.
pub fn wire(host: &HostObservation) -> v1::HostObservation {
    let mut wire = v1::HostObservation::from(host);
    if wire.target.len() > 255 {
        wire.target = host.address.to_string();
    }
    wire
}

/// What is asked for: the targets, whose names are not resolved yet, and all the rest.
fn read(start: &v1::StartScan) -> Result<(Targets, SweepRequest), String> {
    let targets = targets::parse_all(&start.targets, &start.exclude)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let request = SweepRequest {
        targets: ResolvedTargets::default(),
        ports: start.ports.parse().map_err(|error| format!("{error}"))?,
        method: start.method.parse().map_err(|error| format!("{error}"))?,
        gentle: start.gentle,
        discover: match start.discover() {
            v1::Discovery::Unspecified => Discovery::Auto,
            v1::Discovery::On => Discovery::On,
            v1::Discovery::Off => Discovery::Off,
        },
        udp_budget: (start.udp_budget_ms > 0)
            .then(|| Duration::from_millis(start.udp_budget_ms).min(MAX_UDP_BUDGET)),
        max_rate: (start.max_rate > 0).then_some(start.max_rate),
        max_rate_per_host: (start.max_rate_per_host > 0).then_some(start.max_rate_per_host),
    };
    Ok((targets, request))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::SharedLimits;
    use crate::spool::disk::Disk;
    use crate::spool::{Clock, SpoolSettings};
    use arc_swap::ArcSwap;
    use portolan_common::scope::{Guard, Scope};
    use uuid::Uuid;

    #[tokio::test]
    async fn a_scan_pauses_while_somebody_or_a_blackout_wants_it() {
        let (operator, first) = watch::channel(false);
        let (blackout, second) = watch::channel(false);
        let mut pause = either(first, second);
        assert!(!*pause.borrow_and_update());
        for (of_operator, of_blackout) in [(false, true), (true, true), (true, false), (false, false)] {
            operator.send_replace(of_operator);
            blackout.send_replace(of_blackout);
            let wanted = of_operator || of_blackout;
            tokio::time::timeout(Duration::from_secs(10), pause.wait_for(|pause| *pause == wanted))
                .await
                .unwrap()
                .unwrap();
        }
    }

    #[tokio::test]
    async fn nothing_begins_in_a_blackout() {
        let disk = Disk::default();
        let spool = Spool::open_on(Arc::new(disk), SpoolSettings::default(), Clock::system()).unwrap();
        let spool = Arc::new(spool);
        let guard = Arc::new(ArcSwap::from_pointee(Guard::new(Scope::allowing(&[]))));
        let context = EngineContext { guard, limits: Arc::new(SharedLimits::new()) };
        let dark = watch::channel(true).1;
        let scans = Arc::new(Scans::new(context, spool.clone(), mpsc::channel(1).0, dark));
        scans.start(v1::StartScan {
            scan_id: Uuid::from_u128(1).as_bytes().to_vec(),
            targets: vec!["127.0.0.1".into()],
            ports: "22".into(),
            ..v1::StartScan::default()
        });
        spool.opened().await;
        spool.hello();
        assert!(spool.welcome(0, Some(u32::MAX)).await);
        let Some(v1::record::Body::End(end)) = spool.next().await.body else { panic!("no end") };
        assert!(end.error.contains("blackout"), "{}", end.error);
    }

    /// A server that asks for more than can be refused while the disk takes nothing costs no memory.
    #[tokio::test]
    async fn refusals_that_wait_for_the_disk_are_bounded() {
        let disk = Disk::default();
        disk.set_capacity(4096);
        let spool =
            Spool::open_on(Arc::new(disk.clone()), SpoolSettings::default(), Clock::system()).unwrap();
        let spool = Arc::new(spool);
        let guard = Arc::new(ArcSwap::from_pointee(Guard::new(Scope::allowing(&[]))));
        let context = EngineContext { guard, limits: Arc::new(SharedLimits::new()) };
        let scans = Arc::new(Scans::new(context, spool.clone(), mpsc::channel(1).0, watch::channel(false).1));
        let ask = |n: u128| v1::StartScan {
            scan_id: Uuid::from_u128(n).as_bytes().to_vec(),
            targets: vec!["nothing that can be scanned".into()],
            ..v1::StartScan::default()
        };
        let most = (MAX_SCANS + MAX_REFUSED) as u128;
        // Each of them twice, and more than there is room for.
        for n in (0..most + 100).chain(0..most + 100) {
            scans.start(ask(n));
        }
        assert_eq!(scans.running().len() as u128, most, "those that are named need not be asked for again");
        disk.set_capacity(u64::MAX);
        tokio::time::timeout(Duration::from_secs(60), async {
            while !scans.running().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("they never ended");
        let mut ends = HashMap::new();
        spool.hello();
        assert!(spool.welcome(0, Some(u32::MAX)).await);
        while !spool.is_settled() {
            let record = spool.next().await;
            spool.ack(record.sequence);
            let Some(v1::record::Body::End(end)) = record.body else { panic!("{record:?}") };
            assert_eq!(end.outcome(), v1::scan_end::Outcome::Failed);
            let crowded = end.error.contains("scans are running on this satellite already");
            assert_eq!(ends.insert(record.scan_id, crowded), None, "it ended twice");
        }
        assert_eq!(ends.len() as u128, most);
        assert_eq!(ends.values().filter(|crowded| **crowded).count(), MAX_REFUSED);
        // There is room again.
        scans.start(ask(most + 1));
        assert_eq!(scans.running().len(), 1);
    }
}

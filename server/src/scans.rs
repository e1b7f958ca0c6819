//! The scans that run: which satellites work on them, and who waits for their events.
//!
//! It sends nothing itself: what a satellite is to be told is returned, or goes through the hub.

use crate::uplink::Hub;
use jiff::Timestamp;
use portolan_common::ids::{ProcessId, SatelliteId, ScanId};
use portolan_proto::v1::{self, scan_event::Event, uplink_down::Message as Down};
use prost::Message as _;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Scans at once; each may occupy every satellite.
const MAX_SCANS: usize = 64;
/// Events that may wait for a slow reader. Nothing is lost beyond: the observations are stored.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// How long a broken stream may stay away before its part of a scan is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long scans wait for a store that takes nothing: it may be opened again in a moment.
const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a satellite has to confirm a cancel.
const CANCEL_PATIENCE: Duration = Duration::from_millis(900);
/// How a scan ends whose results cannot be stored.
const STORE_TAKES_NOTHING: &str = "the server's store takes nothing (`portolan status` says why); its results wait on \
                                   the satellite and are stored when there is room";

/// A scan's events, with the bytes that wait in the queue.
pub struct Events {
    receiver: mpsc::UnboundedReceiver<v1::ScanEvent>,
    waiting: Arc<AtomicUsize>,
}

impl Events {
    /// The next event; `None` after the last.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<v1::ScanEvent>> {
        let event = self.receiver.poll_recv(context);
        if let Poll::Ready(Some(event)) = &event {
            self.waiting.fetch_sub(event.encoded_len(), Ordering::Relaxed);
        }
        event
    }
}

/// A satellite's part in a scan, to begin with.
pub struct Participant {
    /// Which satellite.
    pub id: SatelliteId,
    /// As events name it.
    pub name: String,
    /// Why it takes no part; `None`: it does.
    pub absent: Option<String>,
}

/// Too many scans run.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_SCANS} scans are running already: wait for one to end, or cancel one")]
pub struct TooManyScans;

/// See the module.
pub struct Scans {
    hub: Arc<Hub>,
    running: Mutex<HashMap<ScanId, Running>>,
    /// Since when the store takes nothing.
    unwritable_since: Mutex<Option<Instant>>,
}

struct Running {
    start: v1::StartScan,
    parts: HashMap<SatelliteId, Part>,
    events: mpsc::UnboundedSender<v1::ScanEvent>,
    waiting: Arc<AtomicUsize>,
    cancelled_at: Option<Instant>,
}

struct Part {
    name: String,
    /// Which run of the satellite's process was told to scan.
    process: Option<ProcessId>,
    disconnected_since: Option<Instant>,
    ended: bool,
    last_progress: v1::SatelliteProgress,
}

impl Scans {
    /// None at first.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub, running: Mutex::default(), unwritable_since: Mutex::default() }
    }

    fn running_scans(&self) -> MutexGuard<'_, HashMap<ScanId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running_scans().len()
    }

    /// Starts a scan on every participant that is there.
    ///
    /// # Errors
    /// [`TooManyScans`].
    pub fn start(
        &self,
        id: ScanId,
        start: v1::StartScan,
        participants: Vec<Participant>,
        satellites: Vec<v1::Satellite>,
    ) -> Result<Events, TooManyScans> {
        // Held to the end: a satellite may answer before this returns.
        let mut scans = self.running_scans();
        if scans.len() >= MAX_SCANS {
            return Err(TooManyScans);
        }
        let (events, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut running =
            Running { start, parts: HashMap::new(), events, waiting: waiting.clone(), cancelled_at: None };
        running.emit(Event::Started(v1::ScanStarted {
            scan_id: id.to_string(),
            started_at_ms: Timestamp::now().as_millisecond(),
            satellites,
        }));
        for participant in participants {
            let mut part = Part {
                name: participant.name.clone(),
                process: self.hub.live(participant.id).map(|live| live.process),
                disconnected_since: None,
                ended: false,
                last_progress: v1::SatelliteProgress {
                    satellite: participant.name.clone(),
                    ..v1::SatelliteProgress::default()
                },
            };
            let absent = participant.absent.or_else(|| {
                let sent = self.hub.send(participant.id, Down::StartScan(running.start.clone()));
                (!sent).then(|| "it went offline just now".to_owned())
            });
            if let Some(error) = absent {
                part.ended = true;
                running.emit(part.end(error));
            }
            running.parts.insert(participant.id, part);
        }
        scans.insert(id, running);
        finish_if_done(&mut scans, id);
        Ok(Events { receiver, waiting })
    }

    /// Tells every satellite to stop; the events go on until each has ended. `false` when no such scan runs.
    pub fn cancel(&self, id: ScanId) -> bool {
        let mut scans = self.running_scans();
        let Some(running) = scans.get_mut(&id) else { return false };
        running.cancelled_at.get_or_insert_with(Instant::now);
        self.tell_cancel(id, running);
        true
    }

    /// Forgets a scan that nobody waits for any more, and stops it everywhere.
    pub fn abandon(&self, id: ScanId) {
        if let Some(running) = self.running_scans().remove(&id) {
            self.tell_cancel(id, &running);
        }
    }

    /// Nobody waits for it any more, whatever its parts have come to.
    fn tell_all(&self, id: ScanId, running: &Running) {
        for satellite in running.parts.keys() {
            self.hub.send(*satellite, Down::CancelScan(v1::CancelScan { scan_id: id.as_bytes().to_vec() }));
        }
    }

    fn tell_cancel(&self, id: ScanId, running: &Running) {
        for (satellite, _) in running.parts.iter().filter(|(_, part)| !part.ended) {
            self.hub.send(*satellite, Down::CancelScan(v1::CancelScan { scan_id: id.as_bytes().to_vec() }));
        }
    }

    /// Passes committed observations on.
    pub fn hosts(&self, id: ScanId, satellite: SatelliteId, hosts: Vec<Vec<u8>>) {
        let mut scans = self.running_scans();
        let Some(running) = scans.get_mut(&id) else { return };
        let Some(name) = running.parts.get(&satellite).filter(|part| !part.ended).map(|p| p.name.clone())
        else {
            return;
        };
        running.emit(Event::Hosts(v1::SatelliteHosts { satellite: name, hosts }));
        if running.waiting.load(Ordering::Relaxed) > MAX_WAITING_BYTES {
            tracing::warn!(scan = %id, "its reader is too slow; ended");
            let running = scans.remove(&id);
            if let Some(running) = running {
                self.tell_cancel(id, &running);
            }
        }
    }

    /// Passes progress on.
    pub fn progress(&self, satellite: SatelliteId, progress: &v1::ScanProgress) {
        let Some(id) = ScanId::from_slice(&progress.scan_id) else { return };
        let mut scans = self.running_scans();
        let Some(running) = scans.get_mut(&id) else { return };
        let Some(part) = running.parts.get_mut(&satellite).filter(|part| !part.ended) else { return };
        part.last_progress = v1::SatelliteProgress {
            satellite: part.name.clone(),
            hosts_done: progress.hosts_done,
            hosts_total: progress.hosts_total,
            ports_done: progress.ports_done,
            ports_total: progress.ports_total,
            open_found: progress.open_found,
            probes_sent: progress.probes_sent,
            disconnected: false,
            paused: progress.paused,
        };
        let event = Event::Progress(part.last_progress.clone());
        // A reader that lags needs no news of how far things are.
        if running.waiting.load(Ordering::Relaxed) < MAX_WAITING_BYTES / 64 {
            running.emit(event);
        }
    }

    /// Ends a satellite's part.
    pub fn ended(&self, id: ScanId, satellite: SatelliteId, end: v1::ScanEnd) {
        let mut scans = self.running_scans();
        let Some(running) = scans.get_mut(&id) else { return };
        let Some(part) = running.parts.get_mut(&satellite).filter(|part| !part.ended) else { return };
        part.ended = true;
        let outcome = end.outcome();
        let unresolved = unresolved(&end);
        let error = match outcome {
            v1::scan_end::Outcome::Complete => String::new(),
            v1::scan_end::Outcome::Cancelled => "the scan was cancelled".into(),
            _ if end.error.is_empty() => "it failed without saying why".into(),
            _ => end.error,
        };
        // A satellite that was started anew knows of its scan only that it failed.
        let failed = outcome != v1::scan_end::Outcome::Complete;
        let known = part.last_progress.clone();
        let at_least = |said: u64, known: u64| if failed { said.max(known) } else { said };
        let event = Event::End(v1::SatelliteEnd {
            satellite: part.name.clone(),
            complete: outcome == v1::scan_end::Outcome::Complete,
            error,
            refusals: end.refusals,
            refusals_dropped: end.refusals_dropped,
            unresolved,
            method: end.method,
            method_reason: end.method_reason,
            hosts_up: end.hosts_up,
            hosts_total: at_least(end.hosts_total, known.hosts_total),
            probes_sent: at_least(end.probes_sent, known.probes_sent),
            notes: end.notes,
        });
        running.emit(event);
        finish_if_done(&mut scans, id);
    }

    /// A satellite's stream broke.
    pub fn disconnected(&self, satellite: SatelliteId) {
        let mut scans = self.running_scans();
        // The next stream may have been faster than the end of this one.
        if self.hub.live(satellite).is_some() {
            return;
        }
        for running in scans.values_mut() {
            let Some(part) = running.parts.get_mut(&satellite).filter(|part| !part.ended) else { continue };
            part.disconnected_since.get_or_insert_with(Instant::now);
            part.last_progress.disconnected = true;
            let event = Event::Progress(part.last_progress.clone());
            running.emit(event);
        }
    }

    /// A satellite is back: returns what to tell it. A scan of its that nobody waits for is cancelled; one that was
    /// lost on the way is sent again; one that died with the satellite's process is ended.
    pub fn reconnected(&self, satellite: SatelliteId, process: ProcessId, reported: &[ScanId]) -> Vec<Down> {
        let mut scans = self.running_scans();
        let mut messages = Vec::new();
        for id in reported {
            let wanted = scans.get(id).is_some_and(|running| {
                running.cancelled_at.is_none()
                    && running.parts.get(&satellite).is_some_and(|part| !part.ended)
            });
            if !wanted {
                messages.push(Down::CancelScan(v1::CancelScan { scan_id: id.as_bytes().to_vec() }));
            }
        }
        let ids: Vec<ScanId> = scans.keys().copied().collect();
        for id in ids {
            let Some(running) = scans.get_mut(&id) else { continue };
            let start = running.start.clone();
            let Some(part) = running.parts.get_mut(&satellite).filter(|part| !part.ended) else { continue };
            part.disconnected_since = None;
            part.last_progress.disconnected = false;
            // The satellite acks nothing away that was not forwarded here, so what it does not know of never reached it.
            let unknown = !reported.contains(&id);
            let died = unknown && part.process != Some(process);
            part.ended = died;
            // Its reader learns that it is back, and that it once began, which its end may not say.
            let progress = Event::Progress(part.last_progress.clone());
            let end = died.then(|| part.end("it restarted during the scan".into()));
            running.emit(progress);
            if let Some(end) = end {
                running.emit(end);
                finish_if_done(&mut scans, id);
            } else if unknown && running.cancelled_at.is_none() {
                messages.push(Down::StartScan(start));
            }
        }
        messages
    }

    /// Gives up what took too long, and everything when the store takes nothing for a while; called a few times a
    /// second.
    pub fn expire(&self, now: Instant, writable: bool) {
        let stuck = {
            let mut since = self.unwritable_since.lock().unwrap_or_else(PoisonError::into_inner);
            *since = (!writable).then(|| since.unwrap_or(now));
            since.is_some_and(|since| now.saturating_duration_since(since) > STORE_PATIENCE)
        };
        let mut scans = self.running_scans();
        let ids: Vec<ScanId> = scans.keys().copied().collect();
        for id in ids {
            let Some(running) = scans.get_mut(&id) else { continue };
            let cancelled =
                running.cancelled_at.is_some_and(|at| now.saturating_duration_since(at) > CANCEL_PATIENCE);
            let mut events = Vec::new();
            for part in running.parts.values_mut().filter(|part| !part.ended) {
                let lost = part
                    .disconnected_since
                    .is_some_and(|since| now.saturating_duration_since(since) > PATIENCE);
                let error = match (cancelled, lost) {
                    _ if stuck => STORE_TAKES_NOTHING.to_owned(),
                    (true, _) => "the scan was cancelled; the satellite has not confirmed it yet".to_owned(),
                    (_, true) => format!(
                        "its connection broke during the scan and did not come back within {} s",
                        PATIENCE.as_secs()
                    ),
                    _ => continue,
                };
                part.ended = true;
                // It did begin, whatever was heard of it.
                events.push(Event::Progress(part.last_progress.clone()));
                events.push(part.end(error));
            }
            for event in events {
                running.emit(event);
            }
            if stuck {
                self.tell_all(id, running);
            }
            finish_if_done(&mut scans, id);
        }
    }

    /// Ends every scan: the server shuts down.
    pub fn end_all(&self) {
        self.running_scans().clear();
    }
}

impl Part {
    /// Its end, which the satellite itself did not tell: with what was last known of it.
    fn end(&self, error: String) -> Event {
        Event::End(v1::SatelliteEnd {
            satellite: self.name.clone(),
            error,
            hosts_total: self.last_progress.hosts_total,
            probes_sent: self.last_progress.probes_sent,
            ..v1::SatelliteEnd::default()
        })
    }
}

impl Running {
    fn emit(&mut self, event: Event) {
        let event = v1::ScanEvent { event: Some(event) };
        self.waiting.fetch_add(event.encoded_len(), Ordering::Relaxed);
        // The reader may have gone; its stream's end abandons the scan.
        let _ = self.events.send(event);
    }
}

fn unresolved(end: &v1::ScanEnd) -> Vec<String> {
    let mut words: Vec<String> = end.unresolved.iter().map(|u| format!("{}: {}", u.name, u.error)).collect();
    if end.unresolved_dropped > 0 {
        words.push(format!("{} more names: see the satellite's log", end.unresolved_dropped));
    }
    words
}

fn finish_if_done(scans: &mut HashMap<ScanId, Running>, id: ScanId) {
    let done = scans.get(&id).is_some_and(|running| running.parts.values().all(|part| part.ended));
    if done && let Some(mut running) = scans.remove(&id) {
        running.emit(Event::Finished(v1::ScanFinished { finished_at_ms: Timestamp::now().as_millisecond() }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::Hub;
    use uuid::Uuid;

    struct Fixture {
        hub: Arc<Hub>,
        scans: Scans,
        satellite: SatelliteId,
        scan: ScanId,
        joined: crate::uplink::Joined,
    }

    const PROCESS: ProcessId = ProcessId(Uuid::from_u128(1));

    fn fixture() -> Fixture {
        let hub = Arc::new(Hub::default());
        let satellite = SatelliteId(Uuid::from_u128(5));
        let address = "127.0.0.1:1".parse().unwrap();
        let joined = hub.join(satellite, address, &v1::Hello::default(), PROCESS, Timestamp::UNIX_EPOCH);
        Fixture { scans: Scans::new(hub.clone()), hub, satellite, scan: ScanId(Uuid::from_u128(9)), joined }
    }

    impl Fixture {
        fn lose(&self) {
            self.hub.leave(self.satellite, self.joined.session);
            self.scans.disconnected(self.satellite);
        }

        fn start(&self, absent: Option<&str>) -> Events {
            let participant =
                Participant { id: self.satellite, name: "a".into(), absent: absent.map(str::to_owned) };
            self.scans.start(self.scan, v1::StartScan::default(), vec![participant], vec![]).unwrap()
        }
    }

    async fn kinds(mut events: Events) -> Vec<String> {
        let mut kinds = Vec::new();
        while let Some(event) = std::future::poll_fn(|context| events.poll_next(context)).await {
            kinds.push(match event.event.unwrap() {
                Event::Started(_) => "started".into(),
                Event::Progress(p) if p.disconnected => "disconnected".into(),
                Event::Progress(_) => "progress".into(),
                Event::Hosts(h) => format!("{} hosts", h.hosts.len()),
                Event::End(e) if e.complete => "complete".into(),
                Event::End(e) if e.probes_sent > 0 => {
                    format!("{} ({} hosts, {} probes)", e.error, e.hosts_total, e.probes_sent)
                }
                Event::End(e) => e.error,
                Event::Finished(_) => "finished".into(),
            });
        }
        kinds
    }

    fn complete() -> v1::ScanEnd {
        v1::ScanEnd { outcome: v1::scan_end::Outcome::Complete.into(), ..v1::ScanEnd::default() }
    }

    #[tokio::test]
    async fn a_scan_runs_to_its_end() {
        let mut f = fixture();
        let events = f.start(None);
        assert!(matches!(f.joined.messages.try_recv().map(|message| *message), Ok(Down::StartScan(_))));
        f.scans.hosts(f.scan, f.satellite, vec![Vec::new()]);
        f.scans.ended(f.scan, f.satellite, complete());
        f.scans.hosts(f.scan, f.satellite, vec![]);
        assert_eq!(kinds(events).await, ["started", "1 hosts", "complete", "finished"]);
        assert_eq!(f.scans.running(), 0);
    }

    #[tokio::test]
    async fn an_absent_satellite_ends_at_once() {
        let f = fixture();
        assert_eq!(kinds(f.start(Some("offline"))).await, ["started", "offline", "finished"]);
    }

    #[tokio::test]
    async fn a_stream_that_breaks_is_waited_for_but_not_for_ever() {
        let f = fixture();
        let events = f.start(None);
        f.lose();
        f.scans.expire(Instant::now() + PATIENCE / 2, true);
        assert_eq!(f.scans.running(), 1);
        f.scans.expire(Instant::now() + PATIENCE * 2, true);
        let kinds = kinds(events).await;
        assert_eq!(kinds[..2], ["started", "disconnected"]);
        assert!(kinds[3].contains("did not come back"), "{kinds:?}");
    }

    /// Whatever ends a part that began, what was last known of it is told; of one that never began nothing is.
    #[tokio::test]
    async fn a_part_that_is_lost_ends_with_what_was_known_of_it() {
        let words = |events| async { kinds(events).await.last_chunk::<3>().unwrap().clone() };
        let far = |f: &Fixture| {
            let events = f.start(None);
            let progress = v1::ScanProgress {
                scan_id: f.scan.as_bytes().to_vec(),
                hosts_total: 256,
                probes_sent: 1_234,
                ..v1::ScanProgress::default()
            };
            f.scans.progress(f.satellite, &progress);
            events
        };
        let f = fixture();
        let events = far(&f);
        f.scans.reconnected(f.satellite, ProcessId(Uuid::from_u128(2)), &[]);
        let restarted = "it restarted during the scan (256 hosts, 1234 probes)";
        assert_eq!(words(events).await, ["progress", restarted, "finished"]);

        let f = fixture();
        let events = far(&f);
        let failed = v1::ScanEnd {
            outcome: v1::scan_end::Outcome::Failed.into(),
            error: "no route".into(),
            ..v1::ScanEnd::default()
        };
        f.scans.ended(f.scan, f.satellite, failed);
        assert_eq!(words(events).await, ["progress", "no route (256 hosts, 1234 probes)", "finished"]);

        let f = fixture();
        let events = far(&f);
        f.scans.expire(Instant::now(), false);
        f.scans.expire(Instant::now() + STORE_PATIENCE / 2, false);
        assert_eq!(f.scans.running(), 1, "the store may be back in a moment");
        f.scans.expire(Instant::now() + STORE_PATIENCE * 2, false);
        let [progress, end, _] = words(events).await;
        assert_eq!(progress, "progress");
        assert!(end.contains("its results wait on the satellite") && end.ends_with("1234 probes)"), "{end}");
    }

    #[tokio::test]
    async fn after_a_reconnect_both_sides_agree() {
        let f = fixture();
        let events = f.start(None);
        f.lose();
        let unknown = ScanId(Uuid::from_u128(77));
        let told = f.scans.reconnected(f.satellite, PROCESS, &[f.scan, unknown]);
        assert!(matches!(&told[..], [Down::CancelScan(c)] if c.scan_id == unknown.as_bytes()));
        let told = f.scans.reconnected(f.satellite, PROCESS, &[]);
        assert!(matches!(&told[..], [Down::StartScan(_)]), "it was lost on the way");
        let told = f.scans.reconnected(f.satellite, ProcessId(Uuid::from_u128(2)), &[]);
        assert!(told.is_empty());
        assert_eq!(
            kinds(events).await,
            [
                "started",
                "disconnected",
                "progress",
                "progress",
                "progress",
                "it restarted during the scan",
                "finished"
            ]
        );
    }

    #[tokio::test]
    async fn a_cancel_ends_within_its_time_even_when_unconfirmed() {
        let f = fixture();
        let events = f.start(None);
        assert!(f.scans.cancel(f.scan));
        assert!(!f.scans.cancel(ScanId(Uuid::nil())));
        f.scans.expire(Instant::now() + CANCEL_PATIENCE * 2, true);
        let kinds = kinds(events).await;
        assert!(kinds[2].contains("cancelled"), "{kinds:?}");
        assert!(f.hub.live(f.satellite).is_some());
    }
}

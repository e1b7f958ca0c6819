//! The scans that run: which satellites work on them, and who waits for their events.
//!
//! It sends nothing itself: what a satellite is to be told is returned, or goes through the hub.

mod steering;

use self::steering::{PAUSE, pause};
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
/// Notes told of a satellite.
const MAX_NOTES: usize = 20;
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
    /// What of the request it does not know, in sentences for the operator.
    pub notes: Vec<String>,
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
    started_at: Timestamp,
    operator: String,
    parts: HashMap<SatelliteId, Part>,
    events: mpsc::UnboundedSender<v1::ScanEvent>,
    waiting: Arc<AtomicUsize>,
    cancelled_at: Option<Instant>,
    /// What an operator asked for last; `None`: nothing yet.
    paused: Option<bool>,
}

struct Part {
    /// In the order asked.
    place: usize,
    name: String,
    /// Which run of the satellite's process was told to scan.
    process: Option<ProcessId>,
    disconnected_since: Option<Instant>,
    ended: bool,
    /// What the server itself has to say of it, beside what the satellite says.
    notes: Vec<String>,
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
        operator: &str,
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
        let started_at = Timestamp::now();
        let mut running = Running {
            start,
            started_at,
            operator: operator.to_owned(),
            parts: HashMap::new(),
            events,
            waiting: waiting.clone(),
            cancelled_at: None,
            paused: None,
        };
        running.emit(Event::Started(v1::ScanStarted {
            scan_id: id.to_string(),
            started_at_ms: started_at.as_millisecond(),
            satellites,
        }));
        for (place, participant) in participants.into_iter().enumerate() {
            let mut part = Part {
                place,
                name: participant.name.clone(),
                process: self.hub.live(participant.id).map(|live| live.process),
                disconnected_since: None,
                ended: false,
                notes: participant.notes,
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
            ended: false,
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
        if !failed {
            // The last progress may have been lost.
            part.last_progress.hosts_total = end.hosts_total;
            part.last_progress.hosts_done = end.hosts_total;
            part.last_progress.ports_done = known.ports_total;
            part.last_progress.probes_sent = end.probes_sent;
        }
        let notes = std::mem::take(&mut part.notes).into_iter().chain(end.notes).take(MAX_NOTES).collect();
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
            notes,
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
        let can_pause = self.hub.live(satellite).is_some_and(|live| live.can(PAUSE));
        let ids: Vec<ScanId> = scans.keys().copied().collect();
        for id in ids {
            let Some(running) = scans.get_mut(&id) else { continue };
            let start = running.start.clone();
            let word = running.paused.filter(|_| can_pause).map(|paused| pause(id, paused));
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
            } else if running.cancelled_at.is_none() {
                messages.extend(unknown.then_some(Down::StartScan(start)));
                // Whatever it was told before may not have reached it.
                messages.extend(word);
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
            notes: self.notes.clone(),
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
mod tests;

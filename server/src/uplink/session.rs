//! One satellite's stream, from Hello to the end. Reading, committing ([`super::commit`]) and sending run side by side,
//! so that a slow disk does not look like a dead satellite; a failure or panic here ends this session alone.

use super::commit::{Committer, Received};
use super::hub::{Hub, Joined};
use super::replay::{LIVE_CREDIT, REPLAY_CREDIT, TURN, WAITING_CREDIT, is_backlog, reconnect_spread_ms};
use super::skew::Skew;
use super::{Outgoing, UplinkService};
use crate::problems::Event;
use crate::scans::Scans;
use crate::store::{Health, SatelliteRecord, StoreError};
use jiff::Timestamp;
use portolan_common::ids::{Epoch, ProcessId, SatelliteId, ScanId};
use portolan_proto::v1::{self, uplink_down::Message as Down, uplink_up::Message as Up};
use prost::Message as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// A satellite sends a heartbeat every few seconds; whoever is silent for this long is gone.
const SILENCE: Duration = Duration::from_secs(16);
/// Hello must come at once.
const HELLO: Duration = Duration::from_secs(10);
/// How long a satellite may take to read what it is greeted with.
const GREETING: Duration = Duration::from_secs(10);
/// Records read but not yet committed, …
const RECORDS_WAITING: usize = 32;
/// … and their bytes on the wire; the reader waits beyond.
const BYTES_WAITING: u32 = 2 * 1024 * 1024;

pub(super) struct Session {
    service: UplinkService,
    id: SatelliteId,
    record: SatelliteRecord,
    address: SocketAddr,
    not_after: Timestamp,
    down: mpsc::Sender<Outgoing>,
}

/// Why a session ended.
enum End {
    /// The satellite closed the stream, or the connection broke.
    Closed(String),
    /// It stayed silent.
    Silent,
    /// It broke the protocol.
    Protocol(&'static str),
    /// It does not read.
    Stalled,
    /// The store failed.
    Store,
    /// The server says goodbye.
    Goodbye(v1::goodbye::Reason),
}

/// Takes the session off the hub however it ends, a panic included: a ghost would look like a satellite that is well.
struct Presence {
    hub: Arc<Hub>,
    scans: Arc<Scans>,
    id: SatelliteId,
    session: u64,
}

impl Drop for Presence {
    fn drop(&mut self) {
        if self.hub.leave(self.id, self.session) {
            self.scans.disconnected(self.id);
        }
    }
}

impl Session {
    pub(super) fn new(
        service: UplinkService,
        id: SatelliteId,
        record: SatelliteRecord,
        address: SocketAddr,
        not_after: Timestamp,
        down: mpsc::Sender<Outgoing>,
    ) -> Self {
        Self { service, id, record, address, not_after, down }
    }

    pub(super) async fn run(self, mut inbound: Streaming<v1::UplinkUp>) {
        let hello = match tokio::time::timeout(HELLO, inbound.message()).await {
            Ok(Ok(Some(v1::UplinkUp { message: Some(Up::Hello(hello)) }))) => hello,
            _ => {
                let _ = self
                    .down
                    .try_send(Box::new(Err(Status::invalid_argument("the first message must be Hello"))));
                return;
            }
        };
        let Some(epoch) = Epoch::from_slice(&hello.epoch) else {
            let _ =
                self.down.try_send(Box::new(Err(Status::invalid_argument("the epoch must have 16 bytes"))));
            return;
        };
        let service = &self.service;
        let now = Timestamp::now();
        // Before 0.2 a satellite's epoch was as old as its process.
        let process = ProcessId::from_slice(&hello.process).unwrap_or(ProcessId(epoch.0));
        let joined = service.hub.join(self.id, self.address, &hello, process, now);
        let presence = Presence {
            hub: service.hub.clone(),
            scans: service.scans.clone(),
            id: self.id,
            session: joined.session,
        };
        // Only now: whoever revoked it before saw no session to end, whoever does it from now on sees this one.
        let end = if service.registry.in_good_standing(self.id) {
            tracing::info!(satellite = %self.record.name, address = %self.address, "online");
            match self.greet(&hello, epoch, process, now).await {
                Ok(start) => self.converse(&mut inbound, joined, epoch, start).await,
                Err(end) => end,
            }
        } else {
            End::Goodbye(v1::goodbye::Reason::Revoked)
        };
        self.farewell(presence, &end);
    }

    /// Welcome, desired state, and the scans that both sides know of.
    async fn greet(
        &self,
        hello: &v1::Hello,
        epoch: Epoch,
        process: ProcessId,
        now: Timestamp,
    ) -> Result<Start, End> {
        let service = &self.service;
        let cursor = service.store.cursor(self.id, epoch).await.map_err(|error| self.store_failed(&error))?;
        let lost = hello.acked_sequence.saturating_sub(cursor.acked);
        if lost > 0 {
            service.metrics.rewinds.inc();
            tracing::error!(
                satellite = %self.record.name,
                acked = hello.acked_sequence,
                has = cursor.acked,
                "this server went back: it acknowledged more than it has; the satellite sends the rest again"
            );
            service.problems.note(Event::WentBack, self.id, lost, now);
        }
        let ahead = cursor.acked.saturating_sub(hello.last_sequence);
        // Before 0.2 a satellite did not say what it had given out.
        if ahead > 0 && !hello.process.is_empty() {
            service.problems.note(Event::SatelliteWentBack, self.id, ahead, now);
        }
        let mut start = Start {
            acked: cursor.acked,
            backlog_until: if is_backlog(hello.spool_depth.max(lost)) {
                hello.last_sequence.max(cursor.acked.saturating_add(hello.spool_depth))
            } else {
                0
            },
            clock_at_ms: hello.clock_at_ms,
            received_at_ms: now.as_millisecond(),
            said: 0,
            revision: hello.assignment_revision,
        };
        start.said = start.credit(&service.store.health());
        self.send(Down::Welcome(v1::Welcome {
            acked_sequence: cursor.acked,
            clock_at_ms: now.as_millisecond(),
            version: env!("CARGO_PKG_VERSION").into(),
            credit: Some(start.said),
            reconnect_spread_ms: reconnect_spread_ms(service.hub.connected().0),
        }))?;
        if let Some(scope) = &hello.scope {
            service.policies.note_scope(self.id, scope);
        }
        if let Some(assignment) = service.policies.assignment(self.id, start.revision).await {
            start.revision = assignment.revision;
            self.assign(assignment).await?;
        }
        let running: Vec<ScanId> =
            hello.running_scans.iter().filter_map(|id| ScanId::from_slice(id)).collect();
        // There may be more of them than fit into the queue.
        for message in self.service.scans.reconnected(self.id, process, &running) {
            self.send_patiently(message).await?;
        }
        Ok(start)
    }

    async fn converse(
        &self,
        inbound: &mut Streaming<v1::UplinkUp>,
        joined: Joined,
        epoch: Epoch,
        start: Start,
    ) -> End {
        let Joined { session, mut messages, mut ending, assigned } = joined;
        let (records, queue) = mpsc::channel(RECORDS_WAITING);
        let (acks, mut acked) = mpsc::unbounded_channel();
        let skew_ms = Arc::new(AtomicI64::new(0));
        let (progress, progressed) = watch::channel(start.acked);
        let credit = watch::Sender::new(start.credit(&Health::Good));
        let committer = Committer {
            store: self.service.store.clone(),
            scans: self.service.scans.clone(),
            evaluation: self.service.evaluation.clone(),
            policies: self.service.policies.clone(),
            metrics: self.service.metrics.clone(),
            satellite: self.id,
            name: self.record.name.clone(),
            tenant: self.record.tenant.clone(),
            epoch,
            problems: self.service.problems.clone(),
            skew_ms: skew_ms.clone(),
            backlog_until: start.backlog_until,
            acks,
        };
        let ended = CancellationToken::new();
        let _ended = ended.clone().drop_guard();
        let mut committing = tokio::spawn(committer.run(queue, ended));
        let send = async {
            loop {
                let message = tokio::select! {
                    Some(sequence) = acked.recv() => {
                        progress.send_replace(sequence);
                        Down::Ack(v1::Ack { sequence })
                    }
                    Some(message) = messages.recv() => *message,
                    else => return End::Closed("the hub let go of it".into()),
                };
                if let Err(end) = self.send(message) {
                    return end;
                }
            }
        };
        let told = async {
            match ending.wait_for(Option::is_some).await.map(|reason| *reason) {
                Ok(Some(reason)) => End::Goodbye(reason),
                _ => End::Goodbye(v1::goodbye::Reason::Replaced),
            }
        };
        let life = self.not_after.duration_since(Timestamp::now());
        let expiry = tokio::time::sleep(Duration::try_from(life).unwrap_or(Duration::ZERO));
        tokio::select! {
            biased;
            end = told => end,
            () = self.service.shutdown.cancelled() => End::Goodbye(v1::goodbye::Reason::Shutdown),
            // The certificate that opened the stream has run out; a renewed one opens the next.
            () = expiry => End::Goodbye(v1::goodbye::Reason::Shutdown),
            committed = &mut committing => {
                match committed {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return self.store_failed(&error),
                    Err(panic) => {
                        let satellite = &self.record.name;
                        tracing::error!(%satellite, error = %panic, "a commit stopped unexpectedly");
                    }
                }
                End::Store
            }
            end = send => end,
            end = self.give_credit(&start, credit.subscribe()) => end,
            end = self.give_assignments(start.revision, assigned) => end,
            () = self.catch_up(session, start.backlog_until, progressed, &credit) => End::Store,
            // Owns the records' sender, so that its end lets the committer finish.
            end = self.read(inbound, session, records, &start, &skew_ms) => end,
        }
        // What was handed over to be committed is committed all the same: the task goes on without this session.
    }

    /// Tells the satellite how much it may send whenever that changes: nothing while the store takes nothing.
    async fn give_credit(&self, start: &Start, mut credit: watch::Receiver<u32>) -> End {
        let mut health = self.service.store.watch_health();
        let mut given = start.said;
        loop {
            let is_good = *health.borrow_and_update() == Health::Good;
            let wanted = if is_good { *credit.borrow_and_update() } else { 0 };
            if wanted != given {
                given = wanted;
                if let Err(end) = self.send(Down::Credit(v1::Credit { records: wanted })) {
                    return end;
                }
            }
            let changed = tokio::select! {
                changed = health.changed() => changed,
                changed = credit.changed() => changed,
            };
            if changed.is_err() {
                return End::Store;
            }
        }
    }

    /// Sends the desired state whenever it becomes another one.
    async fn give_assignments(&self, mut given: u64, mut assigned: watch::Receiver<u64>) -> End {
        loop {
            let revision = *assigned.borrow_and_update();
            if revision != 0
                && revision != given
                && let Some(assignment) = self.service.policies.assignment(self.id, given).await
            {
                given = assignment.revision;
                if let Err(end) = self.assign(assignment).await {
                    return end;
                }
            }
            // The hub let go of it: the session is about to be told.
            if assigned.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn assign(&self, assignment: v1::Assignment) -> Result<(), End> {
        let (revision, checks) = (assignment.revision, assignment.checks.len());
        self.send_patiently(Down::Assignment(assignment)).await?;
        self.service.metrics.assignments.inc();
        tracing::info!(satellite = %self.record.name, revision, checks, "assigned");
        Ok(())
    }

    /// Takes turns with others that catch up until everything up to `until` is durable, then goes on for ever.
    async fn catch_up(
        &self,
        session: u64,
        until: u64,
        mut acked: watch::Receiver<u64>,
        credit: &watch::Sender<u32>,
    ) {
        let (hub, replays) = (&self.service.hub, &self.service.replays);
        if until > 0 {
            hub.replays(self.id, session, true);
            let mut is_done = false;
            while !is_done {
                let place = replays.place().await;
                credit.send_replace(REPLAY_CREDIT);
                loop {
                    match tokio::time::timeout(TURN, acked.wait_for(|acked| *acked >= until)).await {
                        Ok(_) => is_done = true,
                        Err(_) if replays.is_awaited() => {}
                        Err(_) => continue,
                    }
                    break;
                }
                drop(place);
                credit.send_replace(WAITING_CREDIT);
            }
            tracing::info!(satellite = %self.record.name, "caught up");
            credit.send_replace(LIVE_CREDIT);
            hub.replays(self.id, session, false);
        }
        std::future::pending::<()>().await;
    }

    fn store_failed(&self, error: &StoreError) -> End {
        tracing::error!(satellite = %self.record.name, %error, "cannot commit observations");
        End::Store
    }

    async fn read(
        &self,
        inbound: &mut Streaming<v1::UplinkUp>,
        session: u64,
        records: mpsc::Sender<Box<Received>>,
        start: &Start,
        skew_ms: &AtomicI64,
    ) -> End {
        let mut skew = Skew::default();
        let mut measure = |said_ms, received_ms| {
            let ahead = skew.measure(said_ms, received_ms);
            skew_ms.store(ahead, Ordering::Relaxed);
            self.service.hub.skewed(self.id, session, ahead);
        };
        measure(start.clock_at_ms, start.received_at_ms);
        let room = Arc::new(Semaphore::new(BYTES_WAITING as usize));
        loop {
            let message = match tokio::time::timeout(SILENCE, inbound.message()).await {
                Ok(Ok(Some(v1::UplinkUp { message }))) => message,
                Ok(Ok(None)) => return End::Closed("it closed the stream".into()),
                Ok(Err(status)) => return End::Closed(status.message().to_owned()),
                Err(_) => return End::Silent,
            };
            let now = Timestamp::now();
            let mut heartbeat = None;
            match message {
                Some(Up::Heartbeat(beat)) => {
                    measure(beat.clock_at_ms, now.as_millisecond());
                    if let Some(scope) = &beat.scope {
                        self.service.policies.note_scope(self.id, scope);
                    }
                    heartbeat = Some(beat);
                }
                Some(Up::Record(record)) => {
                    let bytes = u32::try_from(record.encoded_len()).unwrap_or(u32::MAX).min(BYTES_WAITING);
                    // The semaphore is never closed.
                    let Ok(own) = room.clone().acquire_many_owned(bytes).await else { return End::Store };
                    let shared = self.service.room.clone().acquire_many_owned(bytes).await;
                    let Ok(shared) = shared else { return End::Store };
                    let received = Box::new(Received { record, room: [own, shared] });
                    if records.send(received).await.is_err() {
                        return End::Store;
                    }
                }
                Some(Up::Progress(progress)) => self.service.scans.progress(self.id, &progress),
                Some(Up::Renewal(request)) => {
                    if let Err(end) = self.renew(&request).await {
                        return end;
                    }
                }
                Some(Up::Hello(_)) => return End::Protocol("a second Hello"),
                // A later version's message; this version does without it.
                None => {}
            }
            self.service.hub.seen(self.id, session, now, heartbeat.as_ref());
        }
    }

    async fn renew(&self, request: &v1::RenewalRequest) -> Result<(), End> {
        let service = &self.service;
        let renewed = service
            .registry
            .renew(self.id, &request.csr_der, &service.authority, service.life, Timestamp::now())
            .await;
        let answer = match renewed {
            Ok(issued) => {
                tracing::info!(satellite = %self.record.name, expires = %issued.not_after, "certificate renewed");
                v1::Renewal {
                    certificate_chain: issued.chain.iter().map(|c| c.to_vec()).collect(),
                    error: String::new(),
                }
            }
            Err(error) => {
                tracing::warn!(satellite = %self.record.name, %error, "renewal refused");
                v1::Renewal { certificate_chain: Vec::new(), error: error.to_string() }
            }
        };
        self.send(Down::Renewal(answer))
    }

    fn send(&self, message: Down) -> Result<(), End> {
        self.down.try_send(Box::new(Ok(v1::UplinkDown { message: Some(message) }))).map_err(|error| {
            match error {
                mpsc::error::TrySendError::Full(_) => End::Stalled,
                mpsc::error::TrySendError::Closed(_) => End::Closed("the connection broke".into()),
            }
        })
    }

    /// The same for more than the queue holds.
    async fn send_patiently(&self, message: Down) -> Result<(), End> {
        let message = Box::new(Ok(v1::UplinkDown { message: Some(message) }));
        match tokio::time::timeout(GREETING, self.down.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Closed("the connection broke".into())),
            Err(_) => Err(End::Stalled),
        }
    }

    fn farewell(self, presence: Presence, end: &End) {
        let live = self.service.hub.live(self.id).filter(|live| live.session == presence.session);
        let why = match end {
            End::Closed(why) => why.clone(),
            End::Silent => format!("nothing was heard for {} s", SILENCE.as_secs()),
            End::Protocol(why) => format!("it broke the protocol: {why}"),
            End::Stalled => "it does not read".into(),
            End::Store => "the store failed".into(),
            End::Goodbye(reason) => format!("{reason:?}").to_lowercase(),
        };
        tracing::info!(satellite = %self.record.name, why, "offline");
        let last = match end {
            End::Goodbye(reason) => {
                let goodbye = Down::Goodbye(v1::Goodbye { reason: (*reason).into() });
                let _ = self.down.try_send(Box::new(Ok(v1::UplinkDown { message: Some(goodbye) })));
                match reason {
                    v1::goodbye::Reason::Revoked => {
                        Some(Status::permission_denied("this satellite was revoked"))
                    }
                    v1::goodbye::Reason::Replaced => Some(Status::aborted("a newer stream took over")),
                    _ => None,
                }
            }
            End::Protocol(why) => Some(Status::invalid_argument(*why)),
            End::Store => Some(Status::unavailable("the server cannot store anything now")),
            End::Stalled => Some(Status::resource_exhausted("the satellite does not read")),
            End::Closed(_) | End::Silent => None,
        };
        if let Some(status) = last {
            let _ = self.down.try_send(Box::new(Err(status)));
        }
        drop(presence);
        let Some(live) = live else { return };
        self.service.registry.note_seen(self.id, |record| {
            record.last_seen_at_ms = live.last_seen.as_millisecond();
            record.version = live.version;
            record.address = live.address.ip().to_canonical().to_string();
            record.capabilities = live.capabilities;
        });
    }
}

/// Where a session begins.
struct Start {
    /// What the server has of the epoch.
    acked: u64,
    /// The last sequence of what the satellite gathered while it was away; 0: it has no backlog.
    backlog_until: u64,
    clock_at_ms: i64,
    received_at_ms: i64,
    /// The credit that Welcome said.
    said: u32,
    /// Of the assignment that the satellite has.
    revision: u64,
}

impl Start {
    /// What the satellite may send to begin with.
    fn credit(&self, health: &Health) -> u32 {
        match (health, self.backlog_until) {
            (Health::Good, 0) => LIVE_CREDIT,
            (Health::Good, _) => WAITING_CREDIT,
            _ => 0,
        }
    }
}

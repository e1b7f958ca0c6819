//! One satellite's stream, from Hello to the end. Reading, committing ([`super::commit`]) and sending run side by side,
//! so that a slow disk does not look like a dead satellite; a failure or panic here ends this session alone.

use super::UplinkService;
use super::commit::{Committer, Received};
use super::hub::{Hub, Joined};
use crate::scans::Scans;
use crate::store::{SatelliteRecord, StoreError};
use jiff::Timestamp;
use portolan_common::ids::{Epoch, SatelliteId, ScanId};
use portolan_proto::v1::{self, uplink_down::Message as Down, uplink_up::Message as Up};
use prost::Message as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};

/// A satellite sends a heartbeat every few seconds; whoever is silent for this long is gone.
const SILENCE: Duration = Duration::from_secs(16);
/// Hello must come at once.
const HELLO: Duration = Duration::from_secs(10);
/// How long a commit under way may take after the stream broke.
const LAST_COMMIT: Duration = Duration::from_secs(30);
/// Records read but not yet committed, …
const RECORDS_WAITING: usize = 32;
/// … and their bytes on the wire; the reader waits beyond.
const BYTES_WAITING: u32 = 2 * 1024 * 1024;
/// The heartbeat that an assignment asks for.
const HEARTBEAT_SECONDS: u32 = 5;

pub(super) struct Session {
    service: UplinkService,
    id: SatelliteId,
    record: SatelliteRecord,
    address: SocketAddr,
    not_after: Timestamp,
    down: mpsc::Sender<Result<v1::UplinkDown, Status>>,
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
        down: mpsc::Sender<Result<v1::UplinkDown, Status>>,
    ) -> Self {
        Self { service, id, record, address, not_after, down }
    }

    pub(super) async fn run(self, mut inbound: Streaming<v1::UplinkUp>) {
        let hello = match tokio::time::timeout(HELLO, inbound.message()).await {
            Ok(Ok(Some(v1::UplinkUp { message: Some(Up::Hello(hello)) }))) => hello,
            _ => {
                let _ = self.down.try_send(Err(Status::invalid_argument("the first message must be Hello")));
                return;
            }
        };
        let Some(epoch) = Epoch::from_slice(&hello.epoch) else {
            let _ = self.down.try_send(Err(Status::invalid_argument("the epoch must have 16 bytes")));
            return;
        };
        let service = &self.service;
        let now = Timestamp::now();
        let joined = service.hub.join(self.id, self.address, &hello, epoch, now);
        let presence = Presence {
            hub: service.hub.clone(),
            scans: service.scans.clone(),
            id: self.id,
            session: joined.session,
        };
        // Only now: whoever revoked it before saw no session to end, whoever does it from now on sees this one.
        let end = if service.registry.in_good_standing(self.id) {
            tracing::info!(satellite = %self.record.name, address = %self.address, "online");
            match self.greet(&hello, epoch, now).await {
                Ok(()) => self.converse(&mut inbound, joined, epoch).await,
                Err(end) => end,
            }
        } else {
            End::Goodbye(v1::goodbye::Reason::Revoked)
        };
        self.farewell(presence, &end).await;
    }

    /// Welcome, desired state, and the scans that both sides know of.
    async fn greet(&self, hello: &v1::Hello, epoch: Epoch, now: Timestamp) -> Result<(), End> {
        let skew = now.as_millisecond().saturating_sub(hello.clock_at_ms);
        if skew.unsigned_abs() > 60_000 {
            tracing::warn!(satellite = %self.record.name, skew_ms = skew, "its clock differs from the server's");
        }
        let acked_sequence = self
            .service
            .store
            .acked_sequence(self.id, epoch)
            .await
            .map_err(|error| self.store_failed(&error))?;
        self.send(Down::Welcome(v1::Welcome {
            acked_sequence,
            clock_at_ms: now.as_millisecond(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..v1::Welcome::default()
        }))?;
        if hello.assignment_revision != self.record.assignment_revision {
            self.send(Down::Assignment(v1::Assignment {
                revision: self.record.assignment_revision,
                satellite_name: self.record.name.clone(),
                segment: self.record.segment.clone(),
                tenant: self.record.tenant.clone(),
                heartbeat_seconds: HEARTBEAT_SECONDS,
            }))?;
        }
        let running: Vec<ScanId> =
            hello.running_scans.iter().filter_map(|id| ScanId::from_slice(id)).collect();
        for message in self.service.scans.reconnected(self.id, epoch, &running) {
            self.send(message)?;
        }
        Ok(())
    }

    async fn converse(&self, inbound: &mut Streaming<v1::UplinkUp>, joined: Joined, epoch: Epoch) -> End {
        let Joined { session, mut messages, mut ending } = joined;
        let (records, queue) = mpsc::channel(RECORDS_WAITING);
        let (acks, mut acked) = mpsc::unbounded_channel();
        let committer = Committer {
            store: self.service.store.clone(),
            scans: self.service.scans.clone(),
            metrics: self.service.metrics.clone(),
            satellite: self.id,
            name: self.record.name.clone(),
            tenant: self.record.tenant.clone(),
            epoch,
            acks,
        };
        let mut committing = tokio::spawn(committer.run(queue));
        let send = async {
            loop {
                let message = tokio::select! {
                    Some(sequence) = acked.recv() => Down::Ack(v1::Ack { sequence }),
                    Some(message) = messages.recv() => message,
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
        let mut committed = None;
        let end = tokio::select! {
            biased;
            end = told => end,
            () = self.service.shutdown.cancelled() => End::Goodbye(v1::goodbye::Reason::Shutdown),
            // The certificate that opened the stream has run out; a renewed one opens the next.
            () = expiry => End::Goodbye(v1::goodbye::Reason::Shutdown),
            result = &mut committing => {
                committed = Some(result);
                End::Store
            }
            end = send => end,
            // Owns the records' sender, so that its end lets the committer finish.
            end = self.read(inbound, session, records) => end,
        };
        if committed.is_none() {
            committed = tokio::time::timeout(LAST_COMMIT, committing).await.ok();
        }
        match committed {
            Some(Ok(Ok(()))) => end,
            Some(Ok(Err(error))) => self.store_failed(&error),
            Some(Err(panic)) => {
                tracing::error!(satellite = %self.record.name, error = %panic, "a commit stopped unexpectedly");
                End::Store
            }
            None => End::Store,
        }
    }

    fn store_failed(&self, error: &StoreError) -> End {
        tracing::error!(satellite = %self.record.name, %error, "cannot commit observations");
        End::Store
    }

    async fn read(
        &self,
        inbound: &mut Streaming<v1::UplinkUp>,
        session: u64,
        records: mpsc::Sender<Received>,
    ) -> End {
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
                Some(Up::Heartbeat(beat)) => heartbeat = Some(beat),
                Some(Up::Record(record)) => {
                    let bytes = u32::try_from(record.encoded_len()).unwrap_or(u32::MAX).min(BYTES_WAITING);
                    // The semaphore is never closed.
                    let Ok(room) = room.clone().acquire_many_owned(bytes).await else { return End::Store };
                    if records.send(Received { record, room }).await.is_err() {
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
        self.down.try_send(Ok(v1::UplinkDown { message: Some(message) })).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => End::Stalled,
            mpsc::error::TrySendError::Closed(_) => End::Closed("the connection broke".into()),
        })
    }

    async fn farewell(self, presence: Presence, end: &End) {
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
                let _ = self.down.try_send(Ok(v1::UplinkDown { message: Some(goodbye) }));
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
            let _ = self.down.try_send(Err(status));
        }
        drop(presence);
        let Some(live) = live else { return };
        let noted = self.service.registry.update(self.id, |record| {
            record.last_seen_at_ms = live.last_seen.as_millisecond();
            record.version = live.version;
            record.address = live.address.ip().to_canonical().to_string();
            record.capabilities = live.capabilities;
        });
        if let Err(error) = noted.await {
            tracing::warn!(satellite = %self.record.name, %error, "cannot note when it was last seen");
        }
    }
}

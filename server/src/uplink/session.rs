//! One satellite's stream, from Hello to the end. Reading, committing and sending run side by side, so that a slow
//! disk does not look like a dead satellite; a failure or panic here ends this session alone.

use super::UplinkService;
use super::hub::Command;
use crate::store::{IngestBatch, IngestItem, SatelliteRecord, SweepEnd};
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::{Epoch, SatelliteId, ScanId};
use portolan_common::observation::HostObservation;
use portolan_proto::v1::{self, uplink_down::Message as Down, uplink_up::Message as Up};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// A satellite sends a heartbeat every few seconds; whoever is silent for this long is gone.
const SILENCE: Duration = Duration::from_secs(16);
/// Hello must come at once.
const HELLO: Duration = Duration::from_secs(10);
/// Records read but not yet committed; the reader waits beyond.
const RECORDS_WAITING: usize = 32;
/// Hosts in one message at most, by the wire contract.
const HOSTS_PER_BATCH: usize = 4096;
/// What waited longer than this on the satellite is history, not news.
const LATE_MS: u64 = 30_000;
/// How far a satellite's clock may run ahead before its times are cut.
const MAX_AHEAD: SignedDuration = SignedDuration::from_hours(24);
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
        let now = Timestamp::now();
        let (commands, mut queue) = mpsc::channel(64);
        let session = self.service.hub.join(self.id, self.address, &hello, epoch, commands, now);
        tracing::info!(satellite = %self.record.name, address = %self.address, version = %hello.version, "online");

        let end = match self.greet(&hello, epoch, now) {
            Ok(()) => self.converse(&mut inbound, &mut queue, session, epoch).await,
            Err(end) => end,
        };
        self.farewell(session, &end).await;
    }

    /// Welcome, desired state, and the scans that both sides know of.
    fn greet(&self, hello: &v1::Hello, epoch: Epoch, now: Timestamp) -> Result<(), End> {
        let skew = now.as_millisecond() - hello.clock_at_ms;
        if skew.abs() > 60_000 {
            tracing::warn!(satellite = %self.record.name, skew_ms = skew, "its clock differs from the server's");
        }
        let acked_sequence = self.service.store.acked_sequence(self.id, epoch).map_err(|error| {
            tracing::error!(%error, "cannot read a satellite's cursor");
            End::Store
        })?;
        self.send(Down::Welcome(v1::Welcome {
            acked_sequence,
            clock_at_ms: now.as_millisecond(),
            version: env!("CARGO_PKG_VERSION").into(),
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

    async fn converse(
        &self,
        inbound: &mut Streaming<v1::UplinkUp>,
        queue: &mut mpsc::Receiver<Command>,
        session: u64,
        epoch: Epoch,
    ) -> End {
        let (records, committing) = mpsc::channel(RECORDS_WAITING);
        let read = self.read(inbound, session, records);
        let commit = self.commit(committing, epoch);
        let obey = async {
            while let Some(command) = queue.recv().await {
                match command {
                    Command::Send(message) => {
                        if let Err(end) = self.send(*message) {
                            return end;
                        }
                    }
                    Command::End(reason) => return End::Goodbye(reason),
                }
            }
            // The hub dropped the other end: a newer session is in place.
            End::Goodbye(v1::goodbye::Reason::Replaced)
        };
        let life = self.not_after.duration_since(Timestamp::now());
        let expiry = tokio::time::sleep(Duration::try_from(life).unwrap_or(Duration::ZERO));
        tokio::select! {
            end = read => end,
            end = commit => end,
            end = obey => end,
            // The certificate that opened the stream has run out; a renewed one opens the next.
            () = expiry => End::Goodbye(v1::goodbye::Reason::Shutdown),
            () = self.service.shutdown.cancelled() => End::Goodbye(v1::goodbye::Reason::Shutdown),
        }
    }

    async fn read(
        &self,
        inbound: &mut Streaming<v1::UplinkUp>,
        session: u64,
        records: mpsc::Sender<v1::Record>,
    ) -> End {
        loop {
            let message = match tokio::time::timeout(SILENCE, inbound.message()).await {
                Ok(Ok(Some(v1::UplinkUp { message }))) => message,
                Ok(Ok(None)) => return End::Closed("it closed the stream".into()),
                Ok(Err(status)) => return End::Closed(status.message().to_owned()),
                Err(_) => return End::Silent,
            };
            let now = Timestamp::now();
            match message {
                Some(Up::Heartbeat(heartbeat)) => {
                    self.service.hub.seen(self.id, session, now, Some(&heartbeat));
                    continue;
                }
                Some(Up::Record(record)) => match records.send(record).await {
                    Ok(()) => {}
                    Err(_) => return End::Store,
                },
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
            self.service.hub.seen(self.id, session, now, None);
        }
    }

    /// Commits what the reader hands over, as much at once as is there, and only then acks and forwards it.
    async fn commit(&self, mut records: mpsc::Receiver<v1::Record>, epoch: Epoch) -> End {
        let mut waiting = Vec::with_capacity(RECORDS_WAITING);
        while records.recv_many(&mut waiting, RECORDS_WAITING).await > 0 {
            let received_at = Timestamp::now();
            let items = waiting.iter().map(|record| self.item(record, received_at)).collect();
            let tenant = self.record.tenant.clone();
            let batch = IngestBatch { satellite: self.id, tenant, epoch, received_at, items };
            let outcome = match self.service.store.ingest(batch).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    tracing::error!(satellite = %self.record.name, %error, "cannot commit observations");
                    return End::Store;
                }
            };
            let metrics = &self.service.metrics;
            metrics.records.inc_by(outcome.counted.len() as u64);
            metrics.records_repeated.inc_by((waiting.len() - outcome.counted.len()) as u64);
            metrics.port_changes.inc_by(outcome.changes as u64);
            if outcome.gap > 0 {
                metrics.records_missing.inc_by(outcome.gap);
                tracing::warn!(satellite = %self.record.name, missing = outcome.gap, "records never arrived");
            }
            if let Err(end) = self.send(Down::Ack(v1::Ack { sequence: outcome.acked })) {
                return end;
            }
            for record in waiting.drain(..).filter(|record| outcome.counted.contains(&record.sequence)) {
                let Some(scan) = ScanId::from_slice(&record.scan_id) else { continue };
                match record.body {
                    Some(v1::record::Body::Observations(batch)) => {
                        metrics.hosts.inc_by(batch.hosts.len() as u64);
                        self.service.scans.hosts(scan, self.id, batch.hosts);
                    }
                    Some(v1::record::Body::End(end)) => self.service.scans.ended(scan, self.id, end),
                    None => {}
                }
            }
        }
        End::Closed("the reader ended".into())
    }

    fn item(&self, record: &v1::Record, received_at: Timestamp) -> IngestItem {
        let latest = received_at + MAX_AHEAD;
        let mut hosts = Vec::new();
        let mut end = None;
        match &record.body {
            Some(v1::record::Body::Observations(batch)) => {
                let mut malformed = batch.hosts.len().saturating_sub(HOSTS_PER_BATCH);
                for host in batch.hosts.iter().take(HOSTS_PER_BATCH) {
                    match HostObservation::try_from(host) {
                        Ok(mut host) => {
                            host.observed_at = host.observed_at.min(latest);
                            hosts.push(host);
                        }
                        Err(error) => {
                            malformed += 1;
                            tracing::warn!(satellite = %self.record.name, %error, "dropped an observation");
                        }
                    }
                }
                self.service.metrics.hosts_malformed.inc_by(malformed as u64);
            }
            Some(v1::record::Body::End(wire)) => {
                end = ScanId::from_slice(&record.scan_id).map(|scan| SweepEnd { scan, end: wire.clone() });
            }
            None => {}
        }
        IngestItem { sequence: record.sequence, late: record.waited_ms > LATE_MS, hosts, end }
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

    async fn farewell(self, session: u64, end: &End) {
        let live = self.service.hub.live(self.id).filter(|live| live.session == session);
        let was_current = self.service.hub.leave(self.id, session);
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
        if was_current {
            self.service.scans.disconnected(self.id);
        }
        let Some(live) = live else { return };
        let noted = self.service.registry.update(self.id, |record| {
            record.last_seen_at_ms = live.last_seen.as_millisecond();
            record.version = live.version.chars().take(64).collect();
            record.address = live.address.ip().to_canonical().to_string();
            record.capabilities =
                live.capabilities.iter().take(32).map(|c| c.chars().take(32).collect()).collect();
        });
        if let Err(error) = noted.await {
            tracing::warn!(satellite = %self.record.name, %error, "cannot note when it was last seen");
        }
    }
}

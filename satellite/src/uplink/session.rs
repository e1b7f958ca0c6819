//! One connection after the other: hello, records up, jobs down, until it breaks; then again after a jittered pause.

use super::backoff::{Backoff, spread};
use crate::assignment::{self, Standing};
use crate::checks::Orders;
use crate::data_dir::{DataDir, DataDirError};
use crate::engine;
use crate::scans::Scans;
use crate::spool::{Offer, Spool};
use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use portolan_common::scope::Guard;
use portolan_proto::MAX_DOWNLINK_BYTES;
use portolan_proto::v1::uplink_client::UplinkClient;
use portolan_proto::v1::{self, uplink_down::Message as Down, uplink_up::Message as Up};
use portolan_transport::dial::{DialError, Dialer};
use portolan_transport::identity::{IdentityError, KeyRequest, LeafFacts};
use portolan_transport::tls;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

/// Messages that may wait for the connection.
const OUTBOUND: usize = 64;
/// A connection that stood this long was a good one: the next failure is the first again.
const STOOD: Duration = Duration::from_secs(30);
/// How long the server may take to say welcome.
const WELCOME: Duration = Duration::from_secs(15);

/// The satellite's side of the uplink.
pub struct Uplink {
    /// Where identity and assignment are kept.
    pub data: DataDir,
    /// The server's addresses, and the proxy in between.
    pub servers: Vec<String>,
    /// The proxy in between.
    pub proxy: Option<http::Uri>,
    /// What is not acked.
    pub spool: Arc<Spool>,
    /// What runs.
    pub scans: Arc<Scans>,
    /// Progress that may be lost.
    pub progress: mpsc::Receiver<v1::ScanProgress>,
    /// What it is to be; what it is to do is with the checks.
    pub standing: Standing,
    /// Where its standing checks are told what to do.
    pub orders: Arc<Orders>,
    /// An assignment that could not be kept yet.
    pub unkept: Option<v1::Assignment>,
    /// What the scope file allows.
    pub guard: Arc<ArcSwap<Guard>>,
    /// This start of the process, as the server tells it from others.
    pub process: Uuid,
    /// Within what time the server wants to see this satellite again after a connection that stood.
    pub reconnect_spread: Duration,
}

/// Why a connection ended.
enum End {
    /// It never stood.
    Dial(DialError),
    /// The files that it needs cannot be used.
    Local(String),
    /// The server says no.
    Refused(String),
    /// It broke.
    Broken(String),
    /// The server restarts, or wants this connection replaced.
    Goodbye,
    /// A newer connection of this same satellite took over: somebody runs a copy.
    Replaced,
    /// The satellite was revoked.
    Revoked,
    /// A renewed certificate wants a new connection.
    Renewed,
    /// What is not acked has new numbers, which want a new hello.
    Renumbered,
    /// The satellite shuts down.
    Shutdown,
}

/// The uplink ended for good.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The operator revoked this satellite.
    #[error(
        "this satellite was revoked on the server; to use it again, remove its data directory and enrol it anew with \
         a new token"
    )]
    Revoked,
}

impl From<DataDirError> for End {
    fn from(error: DataDirError) -> Self {
        Self::Local(error.to_string())
    }
}

impl Uplink {
    /// Keeps a connection to the server until `shutdown`.
    ///
    /// # Errors
    /// [`UplinkError`] when there is no use in trying again.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), UplinkError> {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let mut welcomed = false;
            let end = tokio::select! {
                end = self.connect(&mut welcomed) => end,
                () = shutdown.cancelled() => End::Shutdown,
            };
            // A server that says welcome and then fails is one that fails.
            if began.elapsed() > STOOD {
                backoff.reset();
            }
            let (refused, why) = match end {
                End::Shutdown => return Ok(()),
                End::Revoked => return Err(UplinkError::Revoked),
                End::Renewed => continue,
                End::Dial(error) => (false, format!("cannot reach the server: {error}")),
                End::Local(why) => (true, why),
                End::Refused(why) => (true, format!("the server refuses this satellite: {why}")),
                End::Broken(why) => (false, format!("the connection broke: {why}")),
                End::Goodbye => (false, "the server closed the connection".to_owned()),
                End::Renumbered => (false, "what is not acknowledged was numbered anew".to_owned()),
                End::Replaced => (
                    true,
                    "another connection of this same satellite took over: does a copy of its data directory run \
                     elsewhere?"
                        .to_owned(),
                ),
            };
            let mut pause = backoff.next(refused, rand::random());
            if welcomed {
                // Whatever broke this connection may have broken many.
                pause += spread(self.reconnect_spread, rand::random());
            }
            tracing::warn!("{why}; trying again in {:.1} s", pause.as_secs_f32());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    async fn connect(&mut self, welcomed: &mut bool) -> End {
        let end = match self.converse(welcomed).await {
            Ok(end) | Err(end) => end,
        };
        self.spool.disconnected();
        end
    }

    async fn converse(&mut self, welcomed: &mut bool) -> Result<End, End> {
        self.spool.opened().await;
        let identity = self.data.identity()?;
        let facts = identity.facts().map_err(|error| End::Local(error.to_string()))?;
        if facts.not_after < Timestamp::now() {
            return Err(End::Refused(format!(
                "its certificate expired at {:.0}: revoke and remove it on the server, then enrol it anew (or set \
                 this machine's clock, if that is wrong)",
                facts.not_after
            )));
        }
        let config = tls::client_config(&self.data.root()?, &identity)
            .map_err(|error| End::Local(format!("the certificate cannot be used: {error}")))?;
        let dialer =
            Dialer { servers: self.servers.clone(), proxy: self.proxy.clone(), tls: Arc::new(config) };
        let channel = dialer.connect().await.map_err(End::Dial)?;

        let (up, outbound) = mpsc::channel(OUTBOUND);
        let offer = self.spool.hello();
        let guard = self.guard.load_full();
        // The channel is new and has room.
        let _ = up.try_send(message(Up::Hello(self.hello(&offer, &guard))));
        let mut client = UplinkClient::new(channel).max_decoding_message_size(MAX_DOWNLINK_BYTES);
        let welcome = async {
            let mut down = client.connect(ReceiverStream::new(outbound)).await?.into_inner();
            let first = down.message().await?;
            Ok::<_, Status>((down, first))
        };
        let (mut down, first) = tokio::time::timeout(WELCOME, welcome)
            .await
            .map_err(|_| End::Broken("the server accepted the connection and then said nothing".into()))?
            .map_err(|status| refusal(&status))?;
        let Some(v1::UplinkDown { message: Some(Down::Welcome(welcome)) }) = first else {
            return Err(End::Broken("the server did not say welcome".into()));
        };
        *welcomed = true;
        self.reconnect_spread = Duration::from_millis(welcome.reconnect_spread_ms.into());
        if !self.spool.welcome(welcome.acked_sequence, welcome.credit).await {
            return Ok(End::Renumbered);
        }
        tracing::info!(server_version = %welcome.version, "connected");
        // It was told which one stands here, and sends what is wanted now.
        self.unkept = None;
        let clock_offset_ms = welcome.clock_at_ms.saturating_sub(Timestamp::now().as_millisecond());
        self.serve(&up, &mut down, Renewal::new(&facts, clock_offset_ms), &offer, guard).await
    }

    fn hello(&self, offer: &Offer, guard: &Guard) -> v1::Hello {
        let mut running = self.scans.running();
        running.extend(self.spool.scans());
        running.sort();
        running.dedup();
        v1::Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            epoch: offer.epoch.as_bytes().to_vec(),
            capabilities: engine::capabilities(),
            running_scans: running.iter().map(|id| id.as_bytes().to_vec()).collect(),
            assignment_revision: self.standing.revision,
            spool_depth: offer.depth,
            clock_at_ms: Timestamp::now().as_millisecond(),
            process: self.process.as_bytes().to_vec(),
            acked_sequence: offer.acked,
            last_sequence: offer.last,
            scope: Some(scope_report(guard)),
        }
    }

    async fn serve(
        &mut self,
        up: &mpsc::Sender<v1::UplinkUp>,
        down: &mut Streaming<v1::UplinkDown>,
        mut renewal: Renewal,
        offer: &Offer,
        mut told: Arc<Guard>,
    ) -> Result<End, End> {
        let gone = |_| End::Broken("it was closed".into());
        let mut heartbeat = tokio::time::interval(self.standing.heartbeat());
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = down.message() => match received.map_err(|status| refusal(&status))? {
                    Some(v1::UplinkDown { message: Some(message) }) => {
                        let is_assignment = matches!(message, Down::Assignment(_));
                        if let Some(end) = self.obey(message, &mut renewal).await {
                            return Ok(end);
                        }
                        if is_assignment {
                            // The server learns at once that it was taken up.
                            heartbeat.reset_immediately();
                        }
                    }
                    // A later server's message; this version does without it.
                    Some(v1::UplinkDown { message: None }) => {}
                    None => return Ok(End::Goodbye),
                },
                // Room first: while the link is full nothing is taken out, and what the server says is still read.
                sent = async {
                    let room = up.reserve().await.map_err(gone)?;
                    room.send(message(Up::Record(self.spool.next().await)));
                    Ok::<_, End>(())
                } => sent?,
                () = self.spool.renumbered(offer.epoch) => return Ok(End::Renumbered),
                // Progress that the link has no room for is lost.
                Some(progress) = self.progress.recv() => drop(up.try_send(message(Up::Progress(progress)))),
                _ = heartbeat.tick() => {
                    // The server sends it once, and the disk may have room again.
                    if let Some(assignment) = self.unkept.take() {
                        self.take_up(assignment);
                    }
                    let guard = self.guard.load_full();
                    let beat = v1::Heartbeat {
                        clock_at_ms: Timestamp::now().as_millisecond(),
                        assignment_revision: self.standing.revision,
                        spool_depth: self.spool.depth(),
                        spool_bytes: self.spool.bytes(),
                        spool_error: self.spool.error().unwrap_or_default(),
                        scope: (!Arc::ptr_eq(&guard, &told)).then(|| scope_report(&guard)),
                    };
                    // Where there is no room, records are on their way and say as much.
                    if up.try_send(message(Up::Heartbeat(beat))).is_ok() {
                        told = guard;
                    }
                    if let Some(request) = renewal.request(Timestamp::now()) {
                        let _ = up.try_send(message(Up::Renewal(request)));
                    }
                    // The old certificate still holds; the new one is taken up when nothing is interrupted by it.
                    if renewal.done && self.scans.running().is_empty() && self.spool.is_settled() {
                        return Ok(End::Renewed);
                    }
                }
            }
        }
    }

    async fn obey(&mut self, message: Down, renewal: &mut Renewal) -> Option<End> {
        match message {
            Down::Ack(ack) => self.spool.ack(ack.sequence),
            Down::Credit(credit) => self.spool.credit(credit.records),
            Down::StartScan(start) => self.scans.start(start),
            Down::CancelScan(cancel) => self.scans.cancel(&cancel.scan_id),
            Down::PauseScan(pause) => self.scans.pause(&pause.scan_id, pause.paused),
            Down::Assignment(assignment) => {
                tracing::info!(
                    revision = assignment.revision,
                    segment = %assignment.segment,
                    checks = assignment.checks.len(),
                    "new assignment"
                );
                self.take_up(assignment);
            }
            Down::RunChecks(run) => self.orders.run(run.names),
            Down::Renewal(answer) => match renewal.accept(answer, &self.data) {
                Ok(expires) => tracing::info!(%expires, "the certificate was renewed"),
                Err(error) => tracing::error!(%error, "the certificate was not renewed; trying again"),
            },
            Down::Goodbye(goodbye) => {
                return Some(match goodbye.reason() {
                    v1::goodbye::Reason::Revoked => End::Revoked,
                    v1::goodbye::Reason::Replaced => End::Replaced,
                    _ => End::Goodbye,
                });
            }
            Down::Welcome(_) => {}
        }
        None
    }

    /// Does from now on what it says: only what holds after a restart, too, so it is kept first, or waits until it can be.
    fn take_up(&mut self, assignment: v1::Assignment) {
        match assignment::store(&assignment, &self.data) {
            Ok(()) => {
                self.unkept = None;
                self.standing = Standing::from(&assignment);
                self.orders.assign(assignment);
            }
            Err(error) => {
                tracing::error!(%error, "the assignment is not taken up; trying again");
                self.unkept = Some(assignment);
            }
        }
    }
}

/// CIDRs of one kind that a report names at most.
const MAX_REPORTED: usize = 1000;

/// What an operator is told of the scope.
fn scope_report(guard: &Guard) -> v1::ScopeReport {
    let scope = guard.scope();
    let cidrs = |nets: &[ipnet::IpNet]| nets.iter().take(MAX_REPORTED).map(ToString::to_string).collect();
    v1::ScopeReport { allow: cidrs(&scope.allow), deny: cidrs(&scope.deny), ports: scope.ports.to_string() }
}

fn message(message: Up) -> v1::UplinkUp {
    v1::UplinkUp { message: Some(message) }
}

fn refusal(status: &Status) -> End {
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => End::Refused(status.message().to_owned()),
        Code::Aborted => End::Replaced,
        _ => End::Broken(status.message().to_owned()),
    }
}

/// The certificate's renewal, from two thirds of its life on, always with a new key.
struct Renewal {
    /// By this machine's clock.
    due: Timestamp,
    pending: Option<KeyRequest>,
    done: bool,
}

/// How long an unanswered request stands, and how long to wait after a refusal.
const RETRY: SignedDuration = SignedDuration::from_mins(1);

impl Renewal {
    /// `clock_offset_ms` is how far the server's clock is ahead of this machine's: the dates in a certificate are the
    /// server's, and a clock that is weeks ahead must not mean a renewal every few seconds.
    fn new(facts: &LeafFacts, clock_offset_ms: i64) -> Self {
        let life = facts.not_before.duration_until(facts.not_after);
        let due = facts.not_before.saturating_add(life * 2 / 3).unwrap_or(facts.not_after);
        let due = due.saturating_sub(SignedDuration::from_millis(clock_offset_ms)).unwrap_or(due);
        Self { due, pending: None, done: false }
    }

    fn request(&mut self, now: Timestamp) -> Option<v1::RenewalRequest> {
        if self.done || now < self.due {
            return None;
        }
        self.due = now + RETRY;
        let request = KeyRequest::generate().inspect_err(|error| tracing::error!(%error, "renewal")).ok()?;
        let csr_der = request.csr_der.clone();
        self.pending = Some(request);
        Some(v1::RenewalRequest { csr_der })
    }

    fn accept(&mut self, answer: v1::Renewal, data: &DataDir) -> Result<Timestamp, RenewalError> {
        let request = self.pending.take().ok_or(RenewalError::Unasked)?;
        if answer.certificate_chain.is_empty() {
            return Err(RenewalError::Refused(answer.error));
        }
        let chain = answer.certificate_chain.into_iter().map(CertificateDer::from).collect();
        let identity = request.into_identity(chain)?;
        let facts = identity.facts()?;
        // A certificate that does not fit its key must not replace one that works.
        tls::client_config(&data.root()?, &identity)?;
        identity.store(&data.identity_file())?;
        self.done = true;
        Ok(facts.not_after)
    }
}

#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error("the server sent a certificate that nobody asked for")]
    Unasked,
    #[error("the server refused: {0}")]
    Refused(String),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("the new certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineContext, SharedLimits};
    use crate::spool::disk::Disk;
    use crate::spool::{Clock, SpoolSettings};
    use portolan_common::scope::Scope;

    fn uplink(data: DataDir) -> Uplink {
        let guard = Arc::new(ArcSwap::from_pointee(Guard::new(Scope::allowing(&[]))));
        let spool =
            Spool::open_on(Arc::new(Disk::default()), SpoolSettings::default(), Clock::system()).unwrap();
        let spool = Arc::new(spool);
        let context = EngineContext { guard: guard.clone(), limits: Arc::new(SharedLimits::new()) };
        let (sender, progress) = mpsc::channel(1);
        Uplink {
            data,
            servers: Vec::new(),
            proxy: None,
            scans: Arc::new(Scans::new(context, spool.clone(), sender, Orders::default().darkness())),
            spool,
            progress,
            standing: Standing::default(),
            orders: Arc::default(),
            unkept: None,
            guard,
            process: Uuid::nil(),
            reconnect_spread: Duration::ZERO,
        }
    }

    /// The server sends it once for each connection, and a disk may be full for a while.
    #[tokio::test]
    async fn an_assignment_that_cannot_be_kept_waits_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        // Something stands in its way.
        std::fs::create_dir_all(data.assignment_file().join("full")).unwrap();
        let mut uplink = uplink(data);
        let assignment = v1::Assignment { revision: 7, ..v1::Assignment::default() };
        uplink.take_up(assignment.clone());
        assert_eq!((uplink.standing.revision, uplink.unkept.as_ref()), (0, Some(&assignment)));
        std::fs::remove_dir_all(uplink.data.assignment_file()).unwrap();
        let waiting = uplink.unkept.take().unwrap();
        uplink.take_up(waiting);
        assert_eq!((uplink.standing.revision, uplink.unkept.as_ref()), (7, None));
        assert_eq!(uplink.orders.next().await.assignment, Some(assignment));
        assert_eq!(assignment::load(&uplink.data).revision, 7);
    }
}

//! The spool: what was seen and is not yet acked, on the disk. A record counts once it is durable, is sent in order
//! until the server has it, and stays a while longer, in case that server is restored from a backup.
//!
//! [`flow`], [`retention`], [`thinning`] and [`record`] decide and know no disk; `file` alone knows the engine;
//! `writer` is the one thread that changes the file: `op` is what it is asked for, `opening` how it opens the file,
//! `room` how it keeps it within its bounds. `reader` reads ahead of what is sent. This file is what the satellite's
//! tasks see of it.

pub mod disk;
mod file;
pub mod flow;
pub mod medium;
mod op;
mod opening;
mod reader;
pub mod record;
pub mod retention;
mod room;
mod shared;
#[cfg(test)]
mod tests;
pub mod thinning;
mod writer;

pub use file::Fault;
pub use retention::SpoolSettings;
pub use shared::Clock;

use file::SpoolFile;
use flow::Standing;
use medium::{Medium, SpoolDir};
use op::{Op, Push};
use portolan_common::ids::{Epoch, ScanId};
use portolan_proto::v1;
use prost::Message as _;
use reader::{ReadAhead, Source};
use record::Outgoing;
use shared::{Known, Shared};
use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use uuid::Uuid;
use writer::Writer;

/// Bytes that wait for the disk; whoever wants to add more waits, so a scan stands still while the disk is full.
const QUEUE_KIB: u32 = 4096;
/// How long until a file that could not be read is tried again.
const READ_AGAIN: Duration = Duration::from_millis(200);
/// How often it is looked at whether the server has all of it, while the satellite shuts down.
const SETTLE_POLL: Duration = Duration::from_millis(20);
/// Scans that a hello names at most; those whose records came last.
const MAX_NAMED_SCANS: usize = 2048;

/// See the module.
#[derive(Debug)]
pub struct Spool {
    source: Source,
    queue: mpsc::Sender<Op>,
    room: Arc<Semaphore>,
    /// There may be something to send.
    ready: Arc<Notify>,
    /// `None` until it is known.
    epoch: watch::Receiver<Option<[u8; 16]>>,
    reading: tokio::sync::Mutex<ReadAhead>,
}

/// What a hello says of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Names the sequences.
    pub epoch: Epoch,
    /// The highest sequence that a server ever acked.
    pub acked: u64,
    /// The last sequence that was given out.
    pub last: u64,
    /// Records that are not acked.
    pub depth: u64,
}

/// What was dropped unacked since the file was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedTotals {
    /// Records gone whole.
    pub records: u64,
    /// Host observations.
    pub hosts: u64,
    /// Those of them that only confirmed.
    pub confirmations: u64,
}

impl Spool {
    /// The spool in a directory of its own. What cannot be opened now is tried again and again in the background.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn open(directory: &Path, settings: SpoolSettings) -> std::io::Result<Self> {
        Self::open_on(Arc::new(SpoolDir::new(directory)), settings, Clock::system())
    }

    /// The spool on any medium, by any clock.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn open_on(medium: Arc<dyn Medium>, settings: SpoolSettings, clock: Clock) -> std::io::Result<Self> {
        let source = Source {
            file: Arc::new(SpoolFile::new(medium)),
            shared: Arc::new(Shared::new(&settings, clock, *Uuid::new_v4().as_bytes())),
            unsent: Arc::new(Mutex::new(())),
        };
        let ready = Arc::new(Notify::new());
        let (queue, operations) = mpsc::channel();
        let (known_epoch, epoch) = watch::channel(None);
        let writer = Writer::new(source.clone(), settings, operations, ready.clone(), known_epoch);
        std::thread::Builder::new().name("spool".into()).spawn(move || writer.run())?;
        let room = Arc::new(Semaphore::new(QUEUE_KIB as usize));
        Ok(Self { source, queue, room, ready, epoch, reading: tokio::sync::Mutex::default() })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.source.shared.lock()
    }

    /// Returns once the epoch is known: when the file is open, or there is none yet.
    pub async fn opened(&self) {
        if self.epoch.clone().wait_for(Option::is_some).await.is_err() {
            // The writer is gone: the satellite ends.
            pending().await
        }
    }

    /// Returns once the epoch is another than this.
    pub async fn renumbered(&self, epoch: Epoch) {
        let other = |known: &Option<[u8; 16]>| known.is_some_and(|known| known != *epoch.as_bytes());
        if self.epoch.clone().wait_for(other).await.is_err() {
            pending().await
        }
    }

    /// Notes durably that a scan begins: if the process ends before the scan does, its end is reported at the next
    /// start.
    pub async fn begin(&self, scan: ScanId) {
        self.ask(|reply| Op::Begin(scan, reply)).await;
    }

    /// Keeps a record, of a scan or of standing checks (`None`); returns once it is on the disk.
    pub async fn push(&self, scan: impl Into<Option<ScanId>>, body: v1::record::Body) {
        let mut push = self.admitted(scan.into(), body).await;
        self.ask(|reply| {
            push.reply = Some(reply);
            Op::Push(Box::new(push))
        })
        .await;
    }

    /// Keeps a record of standing checks; returns once it is in the queue for the disk, where it keeps its place. It
    /// waits while the queue is full, so what is not on the disk yet stays bounded.
    pub async fn enqueue(&self, body: v1::record::Body) {
        let push = self.admitted(None, body).await;
        if self.queue.send(Op::Push(Box::new(push))).is_err() {
            pending().await
        }
    }

    /// A record that has its share of the queue.
    async fn admitted(&self, scan: Option<ScanId>, body: v1::record::Body) -> Push {
        let mut push = Push::new(scan, body);
        let kib = u32::try_from(push.record.encoded_len() / 1024 + 1).unwrap_or(QUEUE_KIB).min(QUEUE_KIB);
        let Ok(room) = self.room.clone().acquire_many_owned(kib).await else { return pending().await };
        push.room = Some(room);
        push
    }

    /// After the spool was closed nothing is confirmed any more.
    async fn ask(&self, op: impl FnOnce(oneshot::Sender<()>) -> Op) {
        let (reply, done) = oneshot::channel();
        if self.queue.send(op(reply)).is_err() || done.await.is_err() {
            pending().await
        }
    }

    /// A new connection begins with this; nothing is sent until [`Spool::welcome`].
    pub fn hello(&self) -> Offer {
        let mut known = self.known();
        known.generation += 1;
        let greeting = known.flow.hello();
        Offer {
            epoch: epoch(known.epoch),
            acked: greeting.acked,
            last: greeting.last,
            depth: known.unacked.records,
        }
    }

    /// The server's answer: from where to send, and how many at once. What the server forgot is sent again. `false`
    /// when the server has more than this spool ever sent; it has a new epoch then, which wants a new hello.
    pub async fn welcome(&self, acked: u64, credit: Option<u32>) -> bool {
        let source = self.source.clone();
        // It may have to read what it counts.
        let standing = tokio::task::spawn_blocking(move || take_standing(&source, acked, credit)).await;
        if let Ok(Standing::Ahead { server, last }) = standing {
            tracing::error!(
                server,
                last,
                "the server has more than this satellite can have sent: its data directory was set back (a snapshot, a \
                 copy?); what is not acknowledged is sent under new numbers"
            );
            self.ask(Op::Renumber).await;
            return false;
        }
        if let Ok(Standing::Behind { server, acked }) = standing {
            tracing::warn!(
                server,
                acked,
                "the server went back (restored from a backup?): it gets the rest again"
            );
        }
        self.ready.notify_one();
        true
    }

    /// How many records may be on their way from now on.
    pub fn credit(&self, records: u32) {
        self.known().flow.credit(records);
        self.ready.notify_one();
    }

    /// The server has everything up to this sequence.
    pub fn ack(&self, sequence: u64) {
        let stuck = {
            let mut known = self.known();
            let acked = known.flow.ack(sequence);
            known.acknowledge(retention::Totals { records: acked.records, bytes: acked.bytes });
            known.error.is_some()
        };
        if stuck {
            // It may have waited for just this.
            let _ = self.queue.send(Op::Nudge);
        }
        self.ready.notify_one();
    }

    /// The connection is gone.
    pub fn disconnected(&self) {
        let mut known = self.known();
        known.generation += 1;
        known.flow.disconnected();
    }

    /// The next record to send, once there is one and the server has room for it. Whoever stops waiting loses nothing.
    pub async fn next(&self) -> v1::Record {
        loop {
            let (want, generation) = {
                let known = self.known();
                (known.flow.want().map(|sequence| (sequence, known.base + sequence)), known.generation)
            };
            let Some((sequence, key)) = want else {
                self.ready.notified().await;
                continue;
            };
            let read = self.reading.lock().await.get(key, generation, &self.source).await;
            match read {
                Ok(Some(outgoing)) => {
                    let mut known = self.known();
                    if known.generation == generation && known.flow.want() == Some(sequence) {
                        let kept = u64::from(outgoing.cost > 0);
                        let sequence = outgoing.key - known.base;
                        known.flow.sent(sequence, outgoing.cost, kept);
                        return wire(outgoing, &self.source.shared, &known);
                    }
                }
                // It is committed and not there: the file is being opened again.
                Ok(None) => tokio::time::sleep(READ_AGAIN).await,
                Err(fault) => {
                    if let Fault::Damaged(why) = fault {
                        let _ = self.queue.send(Op::Damaged(why));
                    }
                    tokio::time::sleep(READ_AGAIN).await;
                }
            }
        }
    }

    /// Records that are not acked.
    pub fn depth(&self) -> u64 {
        self.known().unacked.records
    }

    /// Whether the server has all of it.
    pub fn is_settled(&self) -> bool {
        let known = self.known();
        known.flow.acked() == known.flow.last()
    }

    /// Returns once the server has all of it, or is not there.
    pub async fn settled(&self) {
        loop {
            {
                let known = self.known();
                if !known.flow.connected() || known.flow.acked() == known.flow.last() {
                    return;
                }
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }

    /// What the file takes up.
    pub fn bytes(&self) -> u64 {
        self.known().bytes
    }

    /// Why nothing is taken at the moment.
    pub fn error(&self) -> Option<String> {
        self.known().error.clone()
    }

    /// What was dropped unacked.
    pub fn dropped(&self) -> DroppedTotals {
        let [records, hosts, confirmations] = self.known().dropped;
        DroppedTotals { records, hosts, confirmations }
    }

    /// Scans that have records here which are not acked, or that have not ended: those whose records came last.
    pub fn scans(&self) -> Vec<ScanId> {
        let known = self.known();
        let acked = known.acked();
        let mut scans: Vec<(u64, ScanId)> = known
            .scans
            .iter()
            .filter(|(_, entry)| entry.open || entry.last > acked)
            .map(|(scan, entry)| (if entry.open { u64::MAX } else { entry.last }, *scan))
            .collect();
        scans.sort_unstable_by(|a, b| b.cmp(a));
        scans.into_iter().take(MAX_NAMED_SCANS).map(|(_, scan)| scan).collect()
    }

    /// Returns if the spool's thread ends, which it does by itself only when it fails.
    pub async fn ended(&self) {
        let mut epoch = self.epoch.clone();
        while epoch.changed().await.is_ok() {}
    }

    /// Returns once everything that was given before is on the disk, or cannot be, and the file is closed.
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.queue.send(Op::Stop(reply)).is_ok() {
            let _ = done.await;
        }
    }
}

fn epoch(bytes: [u8; 16]) -> Epoch {
    Epoch(Uuid::from_bytes(bytes))
}

/// Takes the server's word, and counts what became acked or unacked by it.
fn take_standing(source: &Source, acked: u64, credit: Option<u32>) -> Standing {
    let _unsent = source.unsent.lock().unwrap_or_else(PoisonError::into_inner);
    let (standing, before, after) = {
        let mut known = source.shared.lock();
        let before = known.acked();
        let standing = known.flow.welcome(acked, credit);
        known.generation += 1;
        let after = known.acked();
        known.read_up_to = after;
        if after < before {
            known.unacked_beyond = Some(known.unacked_beyond.map_or(after, |key| key.min(after)));
        }
        (standing, before, after)
    };
    let moved =
        source.file.read(|view| Ok((view.measure(before + 1..=after)?, view.measure(after + 1..=before)?)));
    match moved {
        Ok((newly, again)) => {
            let mut known = source.shared.lock();
            known.acknowledge(newly);
            known.kept.remove(again);
            known.unacked.plus(again);
        }
        // Opening the file counts anew.
        Err(error) => tracing::debug!(%error, "cannot count what the server has"),
    }
    standing
}

fn wire(outgoing: Outgoing, shared: &Shared, known: &Known) -> v1::Record {
    let sequence = outgoing.key - known.base;
    let first = outgoing.first.saturating_sub(known.base);
    let (waited_ms, record) = match outgoing.spooled {
        Some(spooled) => (shared.moment(known).waited_ms(&spooled), spooled.record),
        None => (0, v1::Record::default()),
    };
    v1::Record {
        sequence,
        waited_ms,
        first_sequence: if first < sequence { first } else { 0 },
        dropped: outgoing.dropped,
        ..record
    }
}

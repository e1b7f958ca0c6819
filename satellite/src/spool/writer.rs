//! The one thread that changes the spool's file. It takes all that waits, makes it durable in one commit, and then
//! answers all of it. While the disk is full or fails it tries the same again, from opening the file on.

use super::file::{Fault, ScanEntry, SpoolFile};
use super::op::Op;
use super::record::State;
use super::retention::{AckMarks, SpoolSettings, Totals, step};
use super::room::{OnlyEnds, Room, Walk};
use super::shared::Shared;
use portolan_common::ids::ScanId;
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot, watch};
use uuid::Uuid;

/// How long after a failure the same is tried again, …
const RETRY: Duration = Duration::from_millis(500);
/// … and how often acks are written down and old records are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Bytes that one commit takes, roughly.
const GROUP_BYTES: u64 = 4 << 20;
/// Damage that opening the file again does not mend is met this often before the file is given up.
const DAMAGE_LIMIT: u32 = 3;
/// … within this time.
const DAMAGE_WINDOW: Duration = Duration::from_secs(60);
/// How often the spool's clock is written down when nothing else is.
const CLOCK_MS: u64 = 60_000;

/// What the thread has.
pub struct Writer {
    pub(super) file: Arc<SpoolFile>,
    pub(super) shared: Arc<Shared>,
    pub(super) settings: SpoolSettings,
    pub(super) unsent: Arc<Mutex<()>>,
    queue: Receiver<Op>,
    pub(super) ready: Arc<Notify>,
    pub(super) epoch: watch::Sender<Option<[u8; 16]>>,
    /// For a file that has yet to be made: whoever asks may know it before the disk has room for it.
    pub(super) fresh_epoch: [u8; 16],
    pub(super) open: bool,
    pub(super) known: bool,
    pub(super) waiting: Vec<Op>,
    /// What the last commit would have made so, if nobody knows whether it did.
    pub(super) attempt: Option<Attempt>,
    damage: Vec<Instant>,
    pub(super) marks: AckMarks,
    persisted: Option<State>,
    ticked: Instant,
    pub(super) walk: Option<Walk>,
    /// How far the oldest records are known to be ends of scans.
    pub(super) only_ends: Option<OnlyEnds>,
    pub(super) walked: Option<(Instant, u64)>,
    pub(super) frozen: Option<u64>,
    pub(super) compacted: Option<Instant>,
    stopped: Option<oneshot::Sender<()>>,
    /// Only the server's acks make room.
    stalled: bool,
}

/// A commit of some operations.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    operations: usize,
    pub(super) state: State,
    pub(super) added: Totals,
    /// Begun, or with a record more.
    scans: HashMap<ScanId, ScanEntry>,
    /// Scans to remember no longer; some may be among the others.
    forgotten: Vec<ScanId>,
}

/// What came of the work that waited.
enum Work {
    Done,
    /// Nothing failed, and yet nothing can be taken.
    Stalled(&'static str),
}

impl Writer {
    pub fn new(
        source: super::reader::Source,
        settings: SpoolSettings,
        queue: Receiver<Op>,
        ready: Arc<Notify>,
        epoch: watch::Sender<Option<[u8; 16]>>,
    ) -> Self {
        let fresh_epoch = source.shared.lock().epoch;
        Self {
            file: source.file,
            shared: source.shared,
            settings,
            unsent: source.unsent,
            queue,
            ready,
            epoch,
            fresh_epoch,
            open: false,
            known: false,
            waiting: Vec::new(),
            attempt: None,
            damage: Vec::new(),
            marks: AckMarks::default(),
            persisted: None,
            ticked: Instant::now(),
            walk: None,
            only_ends: None,
            walked: None,
            frozen: None,
            compacted: None,
            stopped: None,
            stalled: false,
        }
    }

    /// Until [`Op::Stop`], or nobody is left who could ask.
    pub fn run(mut self) {
        let mut pause = Duration::ZERO;
        loop {
            let more = self.gather(pause);
            let began = Instant::now();
            let outcome = self.work();
            self.stalled = matches!(outcome, Ok(Work::Stalled(_)));
            pause = match outcome {
                Ok(Work::Done) => {
                    self.calm();
                    Duration::ZERO
                }
                Ok(Work::Stalled(why)) => {
                    self.trouble(why.to_owned());
                    RETRY
                }
                Err(fault) => {
                    self.failed(&fault);
                    // At once, because what is there can be sent meanwhile.
                    if !self.open
                        && let Err(error) = self.open()
                    {
                        tracing::debug!(%error, "the spool's file cannot be opened");
                    }
                    // Opening a large file after a crash means reading it: that is not done without end.
                    RETRY.max(began.elapsed())
                }
            };
            let done = self.waiting.is_empty() || pause > Duration::ZERO;
            if done && (!more || self.stopped.is_some()) {
                break;
            }
        }
        self.persist_quietly();
        self.file.close();
        if let Some(stopped) = self.stopped.take() {
            let _ = stopped.send(());
        }
    }

    /// Waits for something to do, and takes all of it. `false` when nobody is left.
    fn gather(&mut self, pause: Duration) -> bool {
        let wait = match (pause.is_zero(), self.waiting.is_empty()) {
            (false, _) => pause,
            (true, true) if self.open && self.walk.is_none() => TICK.saturating_sub(self.ticked.elapsed()),
            _ => Duration::ZERO,
        };
        let until = Instant::now() + wait;
        loop {
            match self.queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(op) => {
                    let urgent = matches!(op, Op::Nudge) && self.stalled;
                    self.take(op);
                    if !pause.is_zero() && !urgent && self.stopped.is_none() {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            while self.stopped.is_none()
                && let Ok(op) = self.queue.try_recv()
            {
                self.take(op);
            }
            return true;
        }
    }

    fn take(&mut self, op: Op) {
        match op {
            Op::Stop(reply) => self.stopped = Some(reply),
            Op::Damaged(why) => self.failed(&Fault::Damaged(why)),
            Op::Nudge => {}
            op => self.waiting.push(op),
        }
    }

    /// Everything that waits, and what goes on beside.
    fn work(&mut self) -> Result<Work, Fault> {
        if !self.open {
            self.open()?;
        }
        while !self.waiting.is_empty() {
            if self.commit_some()? == Room::OnlyByAcks {
                return Ok(Work::Stalled(if self.frozen.is_some() {
                    "the file system has less than 64 MiB free, and the spool leaves that to others: scans wait until \
                     there is room, or the server has taken something"
                } else {
                    "the spool is full, and all of it is on its way to the server: scans wait for its acks"
                }));
            }
        }
        if self.walk.is_some() {
            self.make_room(0)?;
        }
        if self.ticked.elapsed() >= TICK {
            self.ticked = Instant::now();
            self.tidy()?;
        }
        Ok(Work::Done)
    }

    // --- committing ---

    /// Commits the first of what waits, if there is room for it.
    fn commit_some(&mut self) -> Result<Room, Fault> {
        let mut bytes = 0;
        let at_once = GROUP_BYTES.min(self.limit() / 8);
        let group = self
            .waiting
            .iter()
            .take_while(|op| {
                let fits = bytes < at_once;
                if let Op::Push(push) = op {
                    bytes += push.cost();
                }
                fits
            })
            .count();
        let need = self.waiting.iter().take(group).map(|op| op.cost()).sum();
        if need > 0 && self.make_room(need)? == Room::OnlyByAcks {
            return Ok(Room::OnlyByAcks);
        }
        let attempt = self.plan(group);
        let (file, shared) = (self.file.clone(), self.shared.clone());
        let (clock_ms, wall_ms) = (attempt.state.clock_ms, shared.wall_ms());
        self.attempt = Some(attempt.clone());
        file.write(|tables| {
            let mut key = shared.lock().last();
            for push in self.waiting.iter().take(group).filter_map(Op::push) {
                key += 1;
                tables.put(key, &push.spooled(clock_ms, wall_ms, attempt.state.process).encode(key))?;
            }
            for (scan, entry) in &attempt.scans {
                tables.put_scan(*scan, *entry)?;
            }
            for scan in &attempt.forgotten {
                tables.remove_scan(*scan)?;
            }
            tables.put_state(&attempt.state)
        })?;
        self.attempt = None;
        self.done(attempt);
        Ok(Room::Enough)
    }

    /// What committing the first `operations` will have changed.
    fn plan(&self, operations: usize) -> Attempt {
        let mut state = self.shared.state(&self.marks);
        let (mut added, mut scans) = (Totals::default(), HashMap::<ScanId, ScanEntry>::new());
        let known = self.shared.lock();
        let wall_ms = self.shared.wall_ms();
        let mut forgotten = known.settled_scans();
        for op in self.waiting.iter().take(operations) {
            match op {
                Op::Push(push) => {
                    state.last += 1;
                    added.add(push.cost());
                    let Some(scan) = push.scan else { continue };
                    let before = scans.get(&scan).or_else(|| known.scans.get(&scan));
                    let open = before.is_some_and(|before| before.open) && !push.ends;
                    let begun_at_ms = before.map_or(wall_ms, |before| before.begun_at_ms);
                    scans.insert(scan, ScanEntry { begun_at_ms, last: state.last, open });
                }
                Op::Begin(scan, _) => {
                    let before = scans.get(scan).or_else(|| known.scans.get(scan));
                    let last = before.map_or(0, |before| before.last);
                    scans.insert(*scan, ScanEntry { begun_at_ms: wall_ms, last, open: true });
                }
                Op::Renumber(_) => {
                    state.epoch = *Uuid::new_v4().as_bytes();
                    (state.base, state.ever) = (state.acked, state.acked);
                }
                Op::Damaged(_) | Op::Nudge | Op::Stop(_) => {}
            }
        }
        forgotten.retain(|scan| !scans.contains_key(scan));
        let surplus = known.surplus_scans(&scans, &forgotten);
        if !surplus.is_empty() {
            tracing::debug!(
                scans = surplus.len(),
                "too many scans are waiting for acks to remember them all"
            );
        }
        forgotten.extend(surplus);
        state.unacked.plus(added);
        Attempt { operations, state, added, scans, forgotten }
    }

    /// It is durable: now it counts, and whoever waits is told.
    pub(super) fn done(&mut self, attempt: Attempt) {
        {
            let mut known = self.shared.lock();
            let last = attempt.state.last - known.base;
            known.flow.committed(last);
            known.unacked.plus(attempt.added);
            known.scans.extend(attempt.scans);
            for scan in &attempt.forgotten {
                known.scans.remove(scan);
            }
            known.bytes = self.file.bytes();
        }
        if self.shared.lock().epoch != attempt.state.epoch {
            self.shared.renumber(attempt.state.epoch);
            self.epoch.send_replace(Some(attempt.state.epoch));
        }
        for op in self.waiting.drain(..attempt.operations) {
            match op {
                Op::Push(push) => drop(push.reply.map(|reply| reply.send(()))),
                Op::Begin(_, reply) | Op::Renumber(reply) => drop(reply.send(())),
                Op::Damaged(_) | Op::Nudge | Op::Stop(_) => {}
            }
        }
        self.persisted = Some(attempt.state);
        self.ready.notify_one();
    }

    // --- what goes on beside ---

    fn tidy(&mut self) -> Result<(), Fault> {
        let (acked, clock_ms, unacked_beyond) = {
            let mut known = self.shared.lock();
            (known.acked(), self.shared.clock_ms(&known), known.unacked_beyond.take())
        };
        if let Some(key) = unacked_beyond {
            // What is acked anew is kept anew.
            self.marks.rewind(key);
        }
        self.marks.note(clock_ms, acked, self.settings.keep_acked);
        self.drop_expired(clock_ms)?;
        self.compact_if_worth_it()?;
        let state = self.shared.state(&self.marks);
        let worth = self.persisted.as_ref().is_none_or(|persisted| {
            let holds = state.last > state.acked || state.kept.records > 0;
            (persisted.acked, persisted.ever, persisted.epoch) != (state.acked, state.ever, state.epoch)
                || holds && state.clock_ms.saturating_sub(persisted.clock_ms) >= CLOCK_MS
        });
        if worth {
            self.persist(state)?;
        }
        self.shared.lock().bytes = self.file.bytes();
        Ok(())
    }

    fn persist(&mut self, state: State) -> Result<(), Fault> {
        let settled = self.shared.lock().settled_scans();
        self.file.write(|tables| {
            for scan in &settled {
                tables.remove_scan(*scan)?;
            }
            tables.put_state(&state)
        })?;
        self.shared.lock().scans.retain(|scan, _| !settled.contains(scan));
        self.persisted = Some(state);
        Ok(())
    }

    fn persist_quietly(&mut self) {
        if self.open && self.known {
            let state = self.shared.state(&self.marks);
            if let Err(error) = self.persist(state) {
                tracing::error!(%error, "cannot note the last acks; the server knows them");
            }
        }
    }

    // --- trouble ---

    fn failed(&mut self, fault: &Fault) {
        self.open = false;
        self.walk = None;
        self.only_ends = None;
        self.file.close();
        if let Fault::Damaged(why) = fault {
            self.damage.retain(|met| met.elapsed() < DAMAGE_WINDOW);
            self.damage.push(Instant::now());
            if self.damage.len() as u32 >= DAMAGE_LIMIT && self.file.exists() == Ok(true) {
                self.damage.clear();
                match self.replace(why) {
                    Ok(found) => {
                        self.adopt(&found);
                        self.open = true;
                    }
                    Err(error) => {
                        tracing::error!(%error, "the damaged spool cannot be replaced; trying again")
                    }
                }
            }
        }
        self.trouble(match fault {
            Fault::Full(_) => format!("{fault}; scans wait until there is room"),
            _ => format!("{fault}; scans wait until it can"),
        });
    }

    fn trouble(&mut self, why: String) {
        let before = self.shared.lock().error.replace(why.clone());
        if before.is_none() {
            tracing::error!("the spool takes nothing at the moment: {why}");
        }
    }

    fn calm(&mut self) {
        if self.open && self.shared.lock().error.take().is_some() {
            tracing::info!("the spool takes records again");
        }
    }

    /// What the spool is to hold at most, and whether there is room for `need` more.
    pub(super) fn has_room(&mut self, need: u64) -> (bool, u64) {
        let limit = self.limit();
        let known = self.shared.lock();
        let live = known.unacked.bytes.saturating_add(known.kept.bytes);
        (live.saturating_add(need) <= limit, limit)
    }

    /// What to do for `need` more within `target`.
    pub(super) fn next_step(&self, target: u64, thinned: bool) -> super::retention::Step {
        let known = self.shared.lock();
        step(known.unacked, known.kept, target, thinned, known.floor() < known.last())
    }
}

//! The one thread that changes the spool's file. It takes all that waits, makes it durable in one commit, and then
//! answers all of it. While the disk is full or fails it tries the same again, from opening the file on.

use super::file::{Fault, Found, ScanEntry, SpoolFile};
use super::record::{Gap, Spooled, State};
use super::retention::{AckMarks, SpoolSettings, Totals, cost, step};
use super::room::Walk;
use super::shared::{Known, Shared};
use portolan_common::ids::ScanId;
use portolan_proto::v1::{self, dropped::Reason};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot, watch};
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

/// What the writer is asked for.
#[derive(Debug)]
pub enum Op {
    /// A record.
    Push(Box<Push>),
    /// A scan begins.
    Begin(ScanId, oneshot::Sender<()>),
    /// What is not acked gets a new epoch.
    Renumber(oneshot::Sender<()>),
    /// A reader met damage.
    Damaged(String),
    /// Something changed that may make room.
    Nudge,
    /// Finish what came before, close the file, end.
    Stop(oneshot::Sender<()>),
}

/// A record to be kept.
#[derive(Debug)]
pub struct Push {
    pub scan: ScanId,
    pub record: v1::Record,
    pub hosts: u32,
    pub ends: bool,
    /// Told once it is durable; the writer's own records tell nobody.
    pub reply: Option<oneshot::Sender<()>>,
    /// Its share of the queue, given back when it is done.
    pub room: Option<OwnedSemaphorePermit>,
}

/// What the thread has.
pub struct Writer {
    pub(super) file: Arc<SpoolFile>,
    pub(super) shared: Arc<Shared>,
    pub(super) settings: SpoolSettings,
    pub(super) turn: Arc<Mutex<()>>,
    queue: Receiver<Op>,
    ready: Arc<Notify>,
    epoch: watch::Sender<Option<[u8; 16]>>,
    /// For a file that has yet to be made: whoever asks may know it before the disk has room for it.
    fresh_epoch: [u8; 16],
    open: bool,
    known: bool,
    waiting: Vec<Op>,
    /// What the last commit would have made so, if nobody knows whether it did.
    attempt: Option<Attempt>,
    damage: Vec<Instant>,
    pub(super) marks: AckMarks,
    persisted: Option<State>,
    ticked: Instant,
    pub(super) walk: Option<Walk>,
    pub(super) walked: Option<(Instant, u64)>,
    pub(super) frozen: Option<u64>,
    pub(super) compacted: Option<Instant>,
    stopped: Option<oneshot::Sender<()>>,
    /// Only the server's acks make room.
    stalled: bool,
}

/// A commit of some operations.
#[derive(Clone, Debug)]
struct Attempt {
    operations: usize,
    state: State,
    added: Totals,
    scans: Vec<(ScanId, ScanEntry)>,
    forgotten: Vec<ScanId>,
}

/// What came of a turn.
enum Turn {
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
            turn: source.turn,
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
            let turn = self.turn();
            self.stalled = matches!(turn, Ok(Turn::Stalled(_)));
            pause = match turn {
                Ok(Turn::Done) => {
                    self.calm();
                    Duration::ZERO
                }
                Ok(Turn::Stalled(why)) => {
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

    fn turn(&mut self) -> Result<Turn, Fault> {
        if !self.open {
            self.open()?;
        }
        while !self.waiting.is_empty() {
            if !self.commit_some()? {
                return Ok(Turn::Stalled(if self.frozen.is_some() {
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
        Ok(Turn::Done)
    }

    // --- opening ---

    fn open(&mut self) -> Result<(), Fault> {
        let epoch = self.fresh_epoch;
        let found = match self.file.open(&|| State::new(epoch)) {
            Ok(found) => found,
            Err(Fault::Damaged(why)) => self.replace(&why)?,
            Err(fault) => {
                // There is nothing that could contradict the epoch, so the server can be told of the trouble.
                if !self.known && self.file.exists() == Ok(false) {
                    self.epoch.send_replace(Some(epoch));
                }
                return Err(fault);
            }
        };
        let _turn = self.turn.clone();
        let _turn = _turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !self.known {
            self.adopt(&found);
        } else {
            self.reconcile(found)?;
        }
        self.shared.lock().bytes = self.file.bytes();
        self.open = true;
        self.ready.notify_one();
        Ok(())
    }

    fn adopt(&mut self, found: &Found) {
        self.marks = found.state.marks.clone();
        self.walk = None;
        self.attempt = None;
        self.shared.adopt(found);
        let ended = found.scans.iter().filter(|(_, entry)| entry.open);
        let finished_at_ms = self.shared.wall_ms();
        let ends: Vec<Op> = ended
            .map(|(scan, entry)| {
                tracing::warn!(%scan, "the satellite restarted during this scan");
                let end = v1::ScanEnd {
                    outcome: v1::scan_end::Outcome::Failed.into(),
                    error: "the satellite restarted during the scan".into(),
                    started_at_ms: entry.begun_at_ms,
                    finished_at_ms,
                    ..v1::ScanEnd::default()
                };
                Op::Push(Box::new(Push::new(*scan, v1::record::Body::End(end))))
            })
            .collect();
        if !self.known {
            self.waiting.splice(0..0, ends);
        }
        self.known = true;
        if found.state.unacked.records > 0 {
            let records = found.state.unacked.records;
            tracing::info!(records, "the spool holds what the server does not have yet");
        }
        self.epoch.send_replace(Some(found.state.epoch));
    }

    /// The file was open before: what it says and what is known are made one.
    fn reconcile(&mut self, found: Found) -> Result<(), Fault> {
        // Without records nobody can tell whether it was done; then it is done again.
        if let Some(attempt) = self.attempt.take()
            && (attempt.added.records > 0 || attempt.state.epoch != self.shared.lock().epoch)
            && attempt.state.epoch == found.state.epoch
            && attempt.state.last == found.state.last
            && attempt.state.base == found.state.base
        {
            // The commit whose outcome was unknown is there after all.
            self.done(attempt);
        }
        let state = found.state.clone();
        if self.shared.lock().epoch != state.epoch {
            tracing::error!("the spool's file is not the one that was open before");
            self.adopt(&found);
            return Ok(());
        }
        let (acked, last) = {
            let known = self.shared.lock();
            (known.acked(), known.last())
        };
        let moved = self.file.read(|view| {
            Ok((view.measure(state.acked + 1..=acked)?, view.measure(acked + 1..=state.acked)?))
        })?;
        {
            let mut known = self.shared.lock();
            (known.unacked, known.kept, known.dropped) = (state.unacked, state.kept, state.dropped);
            known.unacked.remove(moved.0);
            known.kept.plus(moved.0);
            known.kept.remove(moved.1);
            known.unacked.plus(moved.1);
        }
        if state.last < last {
            let lost = last - state.last;
            tracing::error!(lost, "the spool's file went back; the server is told what is lost");
            let gap = Gap { first: state.last + 1, reason: Reason::Damaged, hosts: 0, confirmations: 0 };
            let state = self.shared.state(&self.marks);
            self.file.write(|tables| {
                tables.put_gap(last, gap)?;
                tables.put_state(&state)
            })?;
        }
        Ok(())
    }

    /// The file makes no sense: a new one takes its place, and what it should have held is reported as lost.
    fn replace(&mut self, why: &str) -> Result<Found, Fault> {
        let (lost, running) = if self.known {
            let known = self.shared.lock();
            let open = known.scans.iter().filter(|(_, entry)| entry.open).map(|(scan, _)| *scan);
            (known.unacked.records, open.collect())
        } else {
            (0, Vec::new())
        };
        let aside = self.file.set_aside(self.shared.wall_ms() / 1000)?;
        tracing::error!(
            "the spool was damaged ({why}) and begins anew; what was not acknowledged is lost, the damaged file is \
             kept as {aside}"
        );
        // The new file must know of them, too.
        let begun = running.into_iter().map(|scan| Op::Begin(scan, oneshot::channel().0));
        self.waiting.splice(0..0, begun);
        self.known = false;
        self.fresh_epoch = *Uuid::new_v4().as_bytes();
        // Sequences without records: the first that is sent accounts for them.
        let mut state = State::new(self.fresh_epoch);
        state.last = lost.max(1);
        self.file.open(&|| state.clone())
    }

    // --- committing ---

    /// Commits the first of what waits. `false` when there is no room for it.
    fn commit_some(&mut self) -> Result<bool, Fault> {
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
        if need > 0 && !self.make_room(need)? {
            return Ok(false);
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
        Ok(true)
    }

    /// What committing the first `operations` will have changed.
    fn plan(&self, operations: usize) -> Attempt {
        let mut state = self.shared.state(&self.marks);
        let (mut added, mut scans) = (Totals::default(), Vec::<(ScanId, ScanEntry)>::new());
        let known = self.shared.lock();
        let wall_ms = self.shared.wall_ms();
        let mut forgotten = known.settled_scans();
        for op in self.waiting.iter().take(operations) {
            match op {
                Op::Push(push) => {
                    state.last += 1;
                    added.add(push.cost());
                    let before = scan_entry(&scans, &known, push.scan);
                    let open = before.is_some_and(|before| before.open) && !push.ends;
                    let begun_at_ms = before.map_or(wall_ms, |before| before.begun_at_ms);
                    scans.push((push.scan, ScanEntry { begun_at_ms, last: state.last, open }));
                }
                Op::Begin(scan, _) => {
                    let last = scan_entry(&scans, &known, *scan).map_or(0, |before| before.last);
                    scans.push((*scan, ScanEntry { begun_at_ms: wall_ms, last, open: true }));
                }
                Op::Renumber(_) => {
                    state.epoch = *Uuid::new_v4().as_bytes();
                    (state.base, state.ever) = (state.acked, state.acked);
                }
                Op::Damaged(_) | Op::Nudge | Op::Stop(_) => {}
            }
        }
        forgotten.retain(|scan| scans.iter().all(|(id, _)| id != scan));
        state.unacked.plus(added);
        Attempt { operations, state, added, scans, forgotten }
    }

    /// It is durable: now it counts, and whoever waits is told.
    fn done(&mut self, attempt: Attempt) {
        let mut evicted = Vec::new();
        {
            let mut known = self.shared.lock();
            let last = attempt.state.last - known.base;
            known.flow.committed(last);
            known.unacked.plus(attempt.added);
            for scan in &attempt.forgotten {
                known.scans.remove(scan);
            }
            for (scan, entry) in attempt.scans {
                evicted.extend(known.note_scan(scan, entry));
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
        if !evicted.is_empty() {
            tracing::debug!(
                scans = evicted.len(),
                "too many scans are waiting for acks to remember them all"
            );
        }
    }

    // --- what goes on beside ---

    fn tidy(&mut self) -> Result<(), Fault> {
        let (acked, clock_ms) = {
            let known = self.shared.lock();
            (known.acked(), self.shared.clock_ms(&known))
        };
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

fn scan_entry(changed: &[(ScanId, ScanEntry)], known: &Known, scan: ScanId) -> Option<ScanEntry> {
    let changed = changed.iter().rev().find(|(id, _)| *id == scan).map(|(_, entry)| *entry);
    changed.or_else(|| known.scans.get(&scan).copied())
}

impl Op {
    fn push(&self) -> Option<&Push> {
        if let Self::Push(push) = self { Some(push) } else { None }
    }

    fn cost(&self) -> u64 {
        self.push().map_or(0, Push::cost)
    }
}

impl Push {
    pub fn new(scan: ScanId, body: v1::record::Body) -> Self {
        let (hosts, ends) = match &body {
            v1::record::Body::Observations(hosts) => {
                (portolan_proto::batch::encoded_hosts(hosts).count(), false)
            }
            v1::record::Body::End(_) => (0, true),
        };
        Self {
            scan,
            record: v1::Record {
                scan_id: scan.as_bytes().to_vec(),
                body: Some(body),
                ..v1::Record::default()
            },
            hosts: u32::try_from(hosts).unwrap_or(u32::MAX),
            ends,
            reply: None,
            room: None,
        }
    }

    fn cost(&self) -> u64 {
        cost(Spooled::OVERHEAD + prost::Message::encoded_len(&self.record))
    }

    fn spooled(&self, clock_ms: u64, wall_ms: i64, process: u32) -> Spooled {
        // The record is cloned so that a commit that fails can be tried again.
        Spooled {
            clock_ms,
            wall_ms,
            process,
            hosts: self.hosts,
            confirmations: 0,
            record: self.record.clone(),
        }
    }
}

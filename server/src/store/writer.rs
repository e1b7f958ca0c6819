//! The one writer thread: lets every waiting plan say what it wants written, writes all of it together, makes it
//! durable, then answers each.
//!
//! While the disk is nearly full it takes no observations; when the engine fails it answers whoever must know at once,
//! opens the store again as soon as that may work, and does then what was not done. Nobody needs to help it.

use super::engine::{Check, Engine, Trees};
use super::space::Space;
use super::sums::Sums;
use super::view::{Overlay, View, Writes};
use super::{Health, StoreError};
use arc_swap::ArcSwapOption;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// Plans that one commit takes at most, …
const GROUP: usize = 512;
/// … of which this many come from satellites that catch up, however much else there is.
const GROUP_BACKLOG: usize = 32;
/// Plans of a class that may wait; whoever comes then waits outside.
const QUEUE: usize = 1024;
/// How often a full disk or a failed engine is looked at again.
const RETRY: Duration = Duration::from_millis(250);
/// A backup that takes in nothing for this long is given up; observations do not wait for it.
const TAP_PATIENCE: Duration = Duration::from_secs(5);

/// How urgent a plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// An operator or a handshake waits for it; it is also tried on a nearly full disk, and told at once when it fails.
    Urgent,
    /// What a satellite sees now.
    Live,
    /// What a satellite saw while it was away.
    Backlog,
}

/// A handle to the thread, which ends when the last handle goes.
#[derive(Clone)]
pub(super) struct Writer(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread and the handles share.
struct Shared {
    queues: Mutex<Queues>,
    wake: Condvar,
    room: [Arc<Semaphore>; 3],
    trees: Arc<ArcSwapOption<Trees>>,
    health: watch::Sender<Health>,
}

#[derive(Default)]
struct Queues {
    /// By [`Class`].
    waiting: [VecDeque<Waiting>; 3],
    controls: Vec<Control>,
    closing: bool,
}

struct Waiting {
    job: Box<dyn Job>,
    class: Class,
    _room: OwnedSemaphorePermit,
}

/// What is done between two commits.
enum Control {
    /// Hands a copy of all that is written from now on to a backup; answers with the sums it starts from.
    Tap(SyncSender<Writes>, oneshot::Sender<Sums>),
    /// Ends that; answers with the sums at that point, or `None` when the tap was given up.
    Untap(oneshot::Sender<Option<Sums>>),
    /// Answers with the sums.
    Sums(oneshot::Sender<Sums>),
}

/// A plan and whoever waits for it.
trait Job: Send {
    /// May run again when the first try failed.
    fn plan(&mut self, view: &dyn View) -> Result<Writes, StoreError>;
    fn answer(self: Box<Self>, result: Result<(), StoreError>);
}

struct Typed<T, F> {
    plan: F,
    value: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Typed<T, F>
where
    T: Send,
    F: FnMut(&dyn View) -> Result<(T, Writes), StoreError> + Send,
{
    fn plan(&mut self, view: &dyn View) -> Result<Writes, StoreError> {
        let (value, writes) = (self.plan)(view)?;
        self.value = Some(value);
        Ok(writes)
    }

    fn answer(self: Box<Self>, result: Result<(), StoreError>) {
        let Self { value, answer, .. } = *self;
        // Whoever asked may have gone; the write stands.
        let _ = answer.send(result.and_then(|()| value.ok_or(StoreError::Crashed)));
    }
}

impl Writer {
    /// Starts the thread over an open engine. `trees` is where readers find what is open.
    pub(super) fn start(
        engine: Engine,
        space: Space,
        trees: Arc<ArcSwapOption<Trees>>,
        health: watch::Sender<Health>,
    ) -> Result<Self, StoreError> {
        trees.store(Some(engine.trees.clone()));
        let path = engine.trees.path().to_owned();
        let room = [(); 3].map(|()| Arc::new(Semaphore::new(QUEUE)));
        let shared = Arc::new(Shared { queues: Mutex::default(), wake: Condvar::new(), room, trees, health });
        let thread =
            Thread { shared: shared.clone(), engine: Some(engine), path: path.clone(), space, tap: None };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || thread.run())
            .map_err(|cause| StoreError::Directory { path, cause })?;
        Ok(Self(Arc::new(Handle { shared, thread: Mutex::new(Some(thread)) })))
    }

    /// Lets `plan` say what is to be written, and returns once that is on the disk. The plan may run more than once,
    /// the last time counts.
    pub(super) async fn write<T, F>(&self, class: Class, plan: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&dyn View) -> Result<(T, Writes), StoreError> + Send + 'static,
    {
        let shared = &self.0.shared;
        let room = shared.room[class as usize].clone();
        let room = room.acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let job = Box::new(Typed { plan, value: None, answer });
        {
            let mut queues = shared.queues();
            if queues.closing {
                return Err(StoreError::Closed);
            }
            queues.waiting[class as usize].push_back(Waiting { job, class, _room: room });
        }
        shared.wake.notify_one();
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Hands a copy of everything written from now on to `tap`; answers with the sums before the first of it.
    pub(super) fn tap(&self, tap: SyncSender<Writes>) -> Result<oneshot::Receiver<Sums>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.control(Control::Tap(tap, answer))?;
        Ok(answered)
    }

    /// Ends the tap; answers with the sums after the last of it, or `None` when it was given up because it did not keep
    /// up.
    pub(super) fn untap(&self) -> Result<oneshot::Receiver<Option<Sums>>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.control(Control::Untap(answer))?;
        Ok(answered)
    }

    /// Answers with the sums after the last commit.
    pub(super) fn sums(&self) -> Result<oneshot::Receiver<Sums>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.control(Control::Sums(answer))?;
        Ok(answered)
    }

    fn control(&self, control: Control) -> Result<(), StoreError> {
        let mut queues = self.0.shared.queues();
        if queues.closing {
            return Err(StoreError::Closed);
        }
        queues.controls.push(control);
        drop(queues);
        self.0.shared.wake.notify_one();
        Ok(())
    }

    /// Writes what waits, then ends the thread and lets go of the files. Blocking.
    pub(super) fn close(&self) {
        self.0.close();
    }
}

impl Handle {
    fn close(&self) {
        self.shared.queues().closing = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's writer ended by a panic");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|old| {
            let changed = *old != health;
            *old = health;
            changed
        });
    }
}

impl Queues {
    /// The next group: operators first, then what is seen now, then what was seen before.
    fn take(&mut self, observations: bool) -> Vec<Waiting> {
        let [urgent, live, backlog] = &mut self.waiting;
        let mut group: Vec<Waiting> = urgent.drain(..urgent.len().min(GROUP)).collect();
        if observations {
            let kept = GROUP_BACKLOG.min(backlog.len());
            let room = GROUP.saturating_sub(group.len() + kept);
            group.extend(live.drain(..live.len().min(room)));
            let room = GROUP.saturating_sub(group.len()).max(kept);
            group.extend(backlog.drain(..backlog.len().min(room)));
        }
        group
    }
}

struct Thread {
    shared: Arc<Shared>,
    /// `None` while it failed and is not open again.
    engine: Option<Engine>,
    path: PathBuf,
    space: Space,
    tap: Option<SyncSender<Writes>>,
}

impl Thread {
    fn run(mut self) {
        self.space.lay_ballast();
        while let Some(group) = self.next_group() {
            if !group.is_empty() {
                self.commit(group);
            }
        }
        self.shared.trees.store(None);
    }

    /// Waits for work; `None` when the store is closing and nothing waits. Empty when it is time to look around.
    fn next_group(&mut self) -> Option<Vec<Waiting>> {
        let enough = self.look_at_space();
        let shared = self.shared.clone();
        let mut queues = shared.queues();
        let controls = std::mem::take(&mut queues.controls);
        if !controls.is_empty() {
            drop(queues);
            self.control(controls);
            return Some(Vec::new());
        }
        let group = queues.take(enough);
        if !group.is_empty() {
            return Some(group);
        }
        if queues.closing {
            // What a full disk kept waiting was never acked; dropping it tells whoever waits.
            queues.waiting.iter_mut().for_each(VecDeque::clear);
            return None;
        }
        drop(shared.wake.wait_timeout(queues, RETRY));
        Some(Vec::new())
    }

    /// Whether there is room for observations.
    fn look_at_space(&self) -> bool {
        let free = self.space.free();
        let was_full = matches!(*self.shared.health.borrow(), Health::Full { .. });
        // A little more than the watermark to go on again, so that it does not change its mind with every file.
        let needed =
            self.space.watermark.saturating_add(if was_full { self.space.watermark / 16 } else { 0 });
        let enough = free >= needed;
        if enough {
            if was_full {
                tracing::info!(free, "there is room on the disk again: observations are taken");
                self.space.lay_ballast();
            }
            self.shared.set_health(Health::Good);
        } else {
            if !was_full {
                tracing::error!(
                    free,
                    needed = self.space.watermark,
                    path = %self.path.display(),
                    "the disk is nearly full: no observation is taken until there is room; satellites keep them"
                );
            }
            self.shared.set_health(Health::Full { free, needed: self.space.watermark });
        }
        enough
    }

    fn control(&mut self, controls: Vec<Control>) {
        for control in controls {
            let sums = self.engine.as_ref().map(|engine| engine.sums.clone()).unwrap_or_default();
            match control {
                Control::Tap(tap, answer) => {
                    self.tap = Some(tap);
                    let _ = answer.send(sums);
                }
                Control::Untap(answer) => {
                    let _ = answer.send(self.tap.take().map(|_| sums));
                }
                Control::Sums(answer) => {
                    let _ = answer.send(sums);
                }
            }
        }
    }

    fn commit(&mut self, mut group: Vec<Waiting>) {
        loop {
            let (writes, planned) = self.plan(&mut group);
            let is_urgent = group.iter().any(|waiting| waiting.class == Class::Urgent);
            if is_urgent && !writes.is_empty() && !self.space.has_room_to_open() && self.space.drop_ballast()
            {
                tracing::warn!("the disk is full: the ballast file was given up for what an operator does");
            }
            match self.write(&writes) {
                Ok(()) => {
                    for (waiting, planned) in group.into_iter().zip(planned) {
                        waiting.job.answer(planned);
                    }
                    self.feed_tap(writes);
                    return;
                }
                Err(error) => group = self.recover(&error, group),
            }
            if group.is_empty() {
                return;
            }
        }
    }

    fn plan(&self, group: &mut [Waiting]) -> (Writes, Vec<Result<(), StoreError>>) {
        let mut writes = Writes::default();
        let mut planned = Vec::with_capacity(group.len());
        for waiting in group {
            let result = match &self.engine {
                None => Err(StoreError::Crashed),
                Some(engine) => {
                    let view = Overlay { base: engine.trees.as_ref(), pending: &writes.state };
                    // A panic in one plan (sled panics on some damage) is that plan's failure alone.
                    let planned = catch_unwind(AssertUnwindSafe(|| waiting.job.plan(&view)));
                    planned.unwrap_or(Err(StoreError::Crashed))
                }
            };
            planned.push(result.map(|more| writes.absorb(more)));
        }
        (writes, planned)
    }

    fn write(&mut self, writes: &Writes) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let engine = self.engine.as_mut().ok_or(StoreError::Crashed)?;
        catch_unwind(AssertUnwindSafe(|| engine.write(writes))).unwrap_or(Err(StoreError::Crashed))
    }

    fn feed_tap(&mut self, writes: Writes) {
        let Some(tap) = &self.tap else { return };
        if writes.is_empty() {
            return;
        }
        let deadline = Instant::now() + TAP_PATIENCE;
        let mut writes = writes;
        loop {
            match tap.try_send(writes) {
                Ok(()) => return,
                Err(std::sync::mpsc::TrySendError::Full(back)) if Instant::now() < deadline => {
                    writes = back;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => break,
            }
        }
        tracing::warn!("a backup does not keep up or went away; it is given up");
        self.tap = None;
    }

    /// The engine failed. Opens the store again as soon as that works; returns what is to be tried again. Whether the
    /// failed group reached the disk is not known: plans see that when they run again.
    fn recover(&mut self, error: &StoreError, group: Vec<Waiting>) -> Vec<Waiting> {
        tracing::error!(%error, "the store cannot be written; nothing is acked until it can be opened again");
        let began = Instant::now();
        let why = error.to_string();
        self.shared.set_health(Health::Failed { why: why.clone() });
        // A backup that misses a commit is none.
        self.tap = None;
        let refuse = |waiting: Waiting| waiting.job.answer(Err(StoreError::Unwritable(why.clone())));
        let (urgent, kept): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|waiting| waiting.class == Class::Urgent);
        urgent.into_iter().for_each(refuse);
        if !self.space.has_room_to_open() {
            self.space.drop_ballast();
        }
        let mut next_try = Instant::now() + RETRY;
        loop {
            let shared = self.shared.clone();
            let mut queues = shared.queues();
            let urgent = std::mem::take(&mut queues.waiting[Class::Urgent as usize]);
            let closing = queues.closing;
            if urgent.is_empty() && !closing {
                let left = next_try.saturating_duration_since(Instant::now());
                drop(shared.wake.wait_timeout(queues, left));
            } else {
                drop(queues);
            }
            urgent.into_iter().for_each(refuse);
            if closing {
                kept.into_iter().for_each(refuse);
                self.engine = None;
                return Vec::new();
            }
            // Whoever asks in the meantime is answered, but does not make it go faster.
            if Instant::now() < next_try {
                continue;
            }
            let began_try = Instant::now();
            next_try = began_try + RETRY;
            if !self.space.has_room_to_open() {
                continue;
            }
            // Readers keep what was open until now, so that questions are answered meanwhile.
            self.shared.trees.store(None);
            if let Some(engine) = self.engine.take() {
                // Dropping a failed sled flushes once more, which may panic.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
            }
            match Engine::open(&self.path, Check::Again) {
                Ok(engine) => {
                    self.shared.trees.store(Some(engine.trees.clone()));
                    self.engine = Some(engine);
                    tracing::warn!(after = ?began.elapsed(), "the store is open again");
                    self.shared.set_health(Health::Good);
                    self.space.lay_ballast();
                    return kept;
                }
                Err(error) => {
                    self.shared.set_health(Health::Failed { why: error.to_string() });
                    tracing::debug!(%error, "the store cannot be opened again yet");
                    next_try = Instant::now() + RETRY.max(began_try.elapsed());
                }
            }
        }
    }
}

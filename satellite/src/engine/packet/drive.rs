//! The loop that brings the scheduler's decisions and the sockets together, on a thread of its own.

use super::scheduler::{Next, Scheduler};
use super::wires::{BATCH, Trouble, Wires};
use crate::engine::{Control, EngineContext, Outcome, SweepEvent};
use jiff::Zoned;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// The longest sleep: how late a cancellation or a new scope may be noticed while nothing is sent anyway.
const MAX_SLEEP: Duration = Duration::from_millis(10);

/// How soon to look again while neighbours are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(250);

/// The first pause when this host is short of something, which doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(256);

/// For how long this host may be short of something before the sweep is given up.
const MAX_SHORT: Duration = Duration::from_secs(30);

/// This host's shortage of buffers.
#[derive(Default)]
struct Shortage {
    since: Option<Instant>,
    until: Option<Instant>,
    pause: Duration,
}

/// Runs a sweep to its end.
pub(in crate::engine) fn run(
    scheduler: &mut Scheduler,
    wires: &mut Wires,
    context: &EngineContext,
    events: &Sender<SweepEvent>,
    control: &Control,
) -> Outcome {
    let mut guard = context.guard.load_full();
    let mut batch = Vec::with_capacity(BATCH);
    let mut told = Instant::now();
    let mut shortage = Shortage::default();
    let mut paused_since: Option<Instant> = None;
    loop {
        if control.cancel.is_cancelled() || events.is_closed() {
            return Outcome::Cancelled;
        }
        let now = Instant::now();
        let current = context.guard.load();
        if !Arc::ptr_eq(&guard, &current) {
            guard = Arc::clone(&current);
            scheduler.set_guard(Arc::clone(&guard), now);
        }
        drop(current);
        scheduler.tick(now, Zoned::now);
        let paused = *control.pause.borrow();
        match paused_since {
            None if paused => paused_since = Some(now),
            Some(since) if !paused => {
                paused_since = None;
                let time = now.saturating_duration_since(since);
                scheduler.stood_still(time);
                wires.stood_still(time);
            }
            _ => {}
        }
        let next = if paused || shortage.until.is_some_and(|until| until > now) {
            // Answers still count, and what waits in vain is noticed; nothing leaves.
            scheduler.wake(now);
            now + MAX_SLEEP
        } else {
            wires.find_ways(scheduler, now);
            let next = match scheduler.fill(now, wires.spacing(), BATCH, &mut batch) {
                Next::Done => {
                    return scheduler.unfinished().map_or(Outcome::Complete, Outcome::Failed);
                }
                Next::At(next) => next,
            };
            if !batch.is_empty() {
                match wires.send(scheduler, &batch) {
                    Some(Trouble::Short { errno, some_left }) => {
                        scheduler.relieve();
                        if some_left {
                            shortage = Shortage::default();
                        }
                        if let Some(why) = shortage.worse(errno, Instant::now()) {
                            return Outcome::Failed(why);
                        }
                    }
                    None => shortage = Shortage::default(),
                }
            }
            next
        };
        let came = wires.receive(scheduler);
        let told_all = tell(scheduler, events);
        let now = Instant::now();
        if now.saturating_duration_since(told) >= PROGRESS && told_all {
            told = now;
            let dropped = wires.dropped();
            if dropped > 0 {
                tracing::warn!(dropped, "answers were lost because this host was too slow to read them");
            }
            let mut progress = scheduler.progress();
            progress.paused = paused;
            // Left out while the receiver is busy: the next one says more.
            let _ = events.try_send(SweepEvent::Progress(progress));
        }
        let longest = if wires.is_looking() { LOOK_AGAIN } else { MAX_SLEEP };
        let sleep = next.saturating_duration_since(now).min(longest);
        // What came may be a reason to send.
        if !came
            && !sleep.is_zero()
            && let Err(error) = wires.wait(sleep)
        {
            return Outcome::Failed(format!("cannot wait for answers: {error}"));
        }
    }
}

impl Shortage {
    /// It goes on: sends nothing for a while. Why the sweep is given up, if it is.
    fn worse(&mut self, errno: nix::errno::Errno, now: Instant) -> Option<String> {
        let since = *self.since.get_or_insert(now);
        self.pause = if self.pause.is_zero() { FIRST_PAUSE } else { (self.pause * 2).min(MAX_PAUSE) };
        self.until = Some(now + self.pause);
        (now.saturating_duration_since(since) > MAX_SHORT)
            .then(|| format!("this host could not send a probe for 30 s: {}", errno.desc()))
    }
}

/// Hands finished hosts on; `false` when the receiver has no room.
fn tell(scheduler: &mut Scheduler, events: &Sender<SweepEvent>) -> bool {
    while let Some(host) = scheduler.take_finished() {
        if let Err(TrySendError::Full(SweepEvent::Host(host))) = events.try_send(SweepEvent::Host(host)) {
            scheduler.put_back_finished(host);
            return false;
        }
    }
    true
}

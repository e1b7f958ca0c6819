//! The loop that brings the scheduler's decisions and the sockets together, on a thread of its own: a round trip is
//! then measured when its answer comes, not when a busy runtime gets to it.

use super::intake::Intake;
use super::prober::{ConnectProber, Sent};
use super::scheduler::{Scheduler, Step};
use crate::engine::verdict::Answer;
use crate::engine::{Control, EngineContext, Outcome, SweepEvent};
use jiff::Zoned;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// Probes between two looks at what was answered: few, so that answers are not read late.
const BURST: usize = 16;

/// The longest sleep: how late a cancellation, a pause or a new scope may be noticed while nothing is sent anyway.
const MAX_SLEEP: Duration = Duration::from_millis(10);

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(250);

/// Runs a sweep to its end.
pub(in crate::engine) fn run(
    scheduler: &mut Scheduler,
    context: &EngineContext,
    events: &Sender<SweepEvent>,
    control: &Control,
) -> Outcome {
    let mut prober = match ConnectProber::new() {
        Ok(prober) => prober,
        Err(error) => return Outcome::Failed(format!("cannot watch connections: {error}")),
    };
    let mut guard = context.guard.load_full();
    let mut answers = Vec::new();
    let mut told = Instant::now();
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
        let pause = *control.pause.borrow();
        let turned = pause != scheduler.is_suspended();
        if turned {
            scheduler.suspend(pause, now);
        }
        scheduler.tick(now, Zoned::now);
        let wake = match send(scheduler, &mut prober) {
            Burst::Wait(wake) => wake,
            Burst::Done => return scheduler.unfinished().map_or(Outcome::Complete, Outcome::Failed),
            Burst::CutOff { address, errno } => {
                let error = std::io::Error::from_raw_os_error(errno);
                return Outcome::Failed(format!(
                    "this host could not open a connection to {address} for 30 s: {error}"
                ));
            }
        };
        let told_all = tell(scheduler, events);
        let now = Instant::now();
        if (turned || now.saturating_duration_since(told) >= PROGRESS) && told_all {
            told = now;
            // Left out while the receiver is busy: the next one says more.
            let _ = events.try_send(SweepEvent::Progress(scheduler.progress()));
        }
        let sleep = wake.saturating_duration_since(now).min(MAX_SLEEP);
        if let Err(error) = receive(scheduler, &mut prober, sleep, now, &mut answers) {
            return Outcome::Failed(format!("cannot wait for answers: {error}"));
        }
    }
}

/// What a burst of probes came to.
pub(super) enum Burst {
    /// When to look again.
    Wait(Instant),
    /// All is done.
    Done,
    /// This host has not opened a single connection for too long, the last time to this address, by this error.
    CutOff { address: IpAddr, errno: i32 },
}

/// Sends what may be sent now, a burst at most.
pub(super) fn send<I: Intake>(scheduler: &mut Scheduler<I>, prober: &mut ConnectProber) -> Burst {
    for _ in 0..BURST {
        forget(scheduler, prober);
        let now = Instant::now();
        let flight = match scheduler.next(now) {
            Step::Probe(flight) => flight,
            Step::Wait(until) => return Burst::Wait(until),
            Step::Done => return Burst::Done,
        };
        let Some((target, port)) = scheduler.destination(flight) else { continue };
        match prober.send(flight, target, port) {
            Sent::Pending => scheduler.pending(flight),
            Sent::Answered(answer) => scheduler.answered(flight, answer, now),
            Sent::Held { hold, errno } => {
                let address = target.address();
                if scheduler.held(flight, hold, errno, now) {
                    return Burst::CutOff { address, errno };
                }
            }
        }
    }
    Burst::Wait(Instant::now())
}

/// Takes the answers that are there or come meanwhile, then what is due by `now`: deadlines are judged only after all
/// answers up to them were read.
pub(super) fn receive<I: Intake>(
    scheduler: &mut Scheduler<I>,
    prober: &mut ConnectProber,
    sleep: Duration,
    now: Instant,
    answers: &mut Vec<(usize, Answer)>,
) -> std::io::Result<()> {
    prober.wait(sleep, answers)?;
    let at = Instant::now();
    for (flight, answer) in answers.drain(..) {
        scheduler.answered(flight, answer, at);
        forget(scheduler, prober);
    }
    scheduler.expire(now);
    forget(scheduler, prober);
    Ok(())
}

fn forget<I: Intake>(scheduler: &mut Scheduler<I>, prober: &mut ConnectProber) {
    while let Some(flight) = scheduler.take_ended() {
        prober.forget(flight);
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

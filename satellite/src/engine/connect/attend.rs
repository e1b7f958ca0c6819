//! The loop that brings single looks and the sockets together, for as long as the satellite runs. While nothing is
//! asked for it sleeps until the bell rings.

use super::drive::{Burst, receive, send};
use super::looks::Looks;
use super::prober::ConnectProber;
use super::scheduler::Scheduler;
use crate::engine::EngineContext;
use crate::engine::standing::Desk;
use jiff::Zoned;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The longest sleep while a look is under way: how late a new scope may be noticed while nothing is sent anyway.
const MAX_SLEEP: Duration = Duration::from_millis(50);

/// How long sockets and a share of the budgets are kept for the next look.
const LINGER: Duration = Duration::from_secs(1);

/// How often paths are forgotten.
const FORGETTING: Duration = Duration::from_secs(60);

/// Attends to the looks that come to the desk until it is left or everything is cancelled. An error is in words for the
/// operator.
pub(in crate::engine) fn attend(
    scheduler: &mut Scheduler<Looks>,
    prober: &mut ConnectProber,
    desk: &Arc<Desk>,
    context: &EngineContext,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let waker = Waker::from(Arc::clone(desk));
    let mut waking = Context::from_waker(&waker);
    let mut cancelled = pin!(cancel.cancelled());
    // Asked again below before anything is probed.
    let mut guard = None;
    let mut answers = Vec::new();
    let (mut busy_at, mut forgot_at) = (Instant::now(), Instant::now());
    loop {
        if cancelled.as_mut().poll(&mut waking).is_ready() {
            return Ok(());
        }
        let Some(mut calls) = desk.collect() else { return Ok(()) };
        let now = Instant::now();
        let current = context.guard.load();
        if !guard.as_ref().is_some_and(|guard| Arc::ptr_eq(guard, &current)) {
            guard = Some(Arc::clone(&current));
            scheduler.set_guard(Arc::clone(&current), now);
        }
        drop(current);
        scheduler.tick(now, Zoned::now);
        scheduler.take(&mut calls.orders);
        if calls.given_up {
            scheduler.drop_given_up(now);
        }
        let wake = match send(scheduler, prober) {
            Burst::Wait(wake) => wake,
            Burst::CutOff { errno, .. } => {
                scheduler.abandon_all(errno, Instant::now());
                Instant::now()
            }
            // Looks never come to an end.
            Burst::Done => Instant::now() + MAX_SLEEP,
        };
        let now = Instant::now();
        let mut has_paths = true;
        if now.saturating_duration_since(forgot_at) >= FORGETTING {
            forgot_at = now;
            has_paths = scheduler.forget_paths(now);
        }
        let sleep = if !scheduler.is_idle() {
            busy_at = now;
            wake.saturating_duration_since(now).min(MAX_SLEEP)
        } else if now.saturating_duration_since(busy_at) < LINGER {
            LINGER
        } else {
            scheduler.stand_down();
            prober.drop_idle();
            if has_paths { FORGETTING } else { Duration::MAX }
        };
        receive(scheduler, prober, sleep, now, &mut answers)
            .map_err(|error| format!("cannot wait for answers: {error}"))?;
    }
}

//! Bounded waiting by polling. A lab test never sleeps for a guessed time: it waits until something is so, and fails
//! with a sentence when it does not become so.

use std::time::{Duration, Instant};

/// The pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// What nearly everything in a lab takes at most, on a slow machine with other tests beside it.
pub const SOON: Duration = Duration::from_secs(30);

/// Looks until `look` finds something, or fails after `limit` saying `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    match try_wait_for(limit, look) {
        Some(found) => found,
        None => panic!("waited {limit:?} in vain: {what}"),
    }
}

/// As [`wait_for`], for a condition.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    wait_for(what, limit, || holds().then_some(()));
}

/// As [`wait_for`], but returns nothing when the time is over.
pub fn try_wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Fails when `holds` stops holding before `period` is over: for "and nothing happens".
#[track_caller]
pub fn stays(what: &str, period: Duration, mut holds: impl FnMut() -> bool) {
    let broken = try_wait_for(period, || (!holds()).then_some(()));
    assert!(broken.is_none(), "did not stay so for {period:?}: {what}");
}

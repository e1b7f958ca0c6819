//! Who may send how much. A satellite that comes back with a backlog waits for one of a few places, so that a thousand
//! of them after an outage neither fill the memory nor slow down those who report what they see now. A place is held
//! for a while, then given to the next who waits: a slow link keeps nobody else out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Satellites that catch up at the same time.
const PLACES: usize = 16;
/// How long one of them has its place while others wait.
pub(super) const TURN: Duration = Duration::from_secs(5);
/// Records that a satellite without a backlog may have on their way unacked; a backlog is what exceeds it.
pub(super) const LIVE_CREDIT: u32 = 32;
/// The same for one that catches up.
pub(super) const REPLAY_CREDIT: u32 = 64;
/// While it waits for its turn it goes on with one record at a time.
pub(super) const WAITING_CREDIT: u32 = 1;
/// After a break, so many satellites a second are asked to come back; a handshake costs about a millisecond.
const RETURNS_PER_SECOND: u64 = 500;
/// However many they are, nobody waits longer.
const MAX_SPREAD_MS: u64 = 60_000;

/// The places.
#[derive(Clone, Debug)]
pub struct Replays {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// Waits in the queue until it is dropped.
struct InLine<'a>(&'a AtomicUsize);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Replays {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(PLACES)), waiting: Arc::default() }
    }
}

impl Replays {
    /// A place, when it is one's turn.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _in_line = InLine(&self.waiting);
        // The semaphore is never closed.
        self.places.clone().acquire_owned().await.ok()
    }

    /// Whether somebody waits for a place.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Whether a satellite that says Hello with so many unacked records has to catch up.
pub(super) fn is_backlog(spool_depth: u64) -> bool {
    spool_depth > LIVE_CREDIT.into()
}

/// Over how long a fleet should come back after a break, milliseconds.
pub(super) fn reconnect_spread_ms(satellites: usize) -> u32 {
    let spread = (satellites as u64).saturating_mul(1000) / RETURNS_PER_SECOND;
    u32::try_from(spread.min(MAX_SPREAD_MS)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_few_and_given_in_turn() {
        let replays = Replays::default();
        let mut held = Vec::new();
        for _ in 0..PLACES {
            held.push(replays.place().await.unwrap());
        }
        assert!(!replays.is_awaited());
        let next = tokio::spawn({
            let replays = replays.clone();
            async move { replays.place().await.is_some() }
        });
        while !replays.is_awaited() {
            tokio::task::yield_now().await;
        }
        assert!(!next.is_finished());
        held.pop();
        assert!(next.await.unwrap() && !replays.is_awaited());
    }

    #[test]
    fn a_small_fleet_comes_back_at_once_and_a_large_one_spread() {
        assert_eq!(reconnect_spread_ms(3), 6);
        assert_eq!(reconnect_spread_ms(10_000), 20_000);
        assert_eq!(reconnect_spread_ms(1_000_000), 60_000);
    }
}

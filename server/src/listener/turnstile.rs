//! The way into the TLS handshake: few at a time and in the order of arrival, so that thousands who come at once are
//! served one after the other, instead of all together and each too late.
//!
//! A place is for computing, not for waiting: it is asked for when the peer has said something, and whoever then keeps
//! the server waiting goes on without it. So silence takes nothing from anybody.

use super::TURN_WAIT;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Handshakes at a time. With round trips of 50 ms these are more than a thousand a second.
const PLACES: usize = 64;
/// How long one has its place. Computing takes about a millisecond; the rest is the peer's way there and back.
const HOLD: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Turnstile {
    places: Semaphore,
}

impl Default for Turnstile {
    fn default() -> Self {
        Self { places: Semaphore::new(PLACES) }
    }
}

impl Turnstile {
    /// Runs a handshake when it is its turn. `None`: that would have been too late for the peer, and nothing was begun.
    pub(super) async fn pass<T>(&self, handshake: impl Future<Output = T>) -> Option<T> {
        // The semaphore is never closed.
        let place = timeout(TURN_WAIT, self.places.acquire()).await.ok()?.ok()?;
        let mut handshake = pin!(handshake);
        if let Ok(done) = timeout(HOLD, handshake.as_mut()).await {
            return Some(done);
        }
        drop(place);
        Some(handshake.await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::{Instant, sleep};

    #[tokio::test]
    async fn few_at_a_time_and_in_order() {
        let turnstile = Arc::new(Turnstile::default());
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let began = Instant::now();
        let work = (0..PLACES * 4).map(|_| {
            let (turnstile, inside, most) = (turnstile.clone(), inside.clone(), most.clone());
            tokio::spawn(async move {
                let work = async {
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    sleep(HOLD / 2).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                };
                turnstile.pass(work).await.map(|()| began.elapsed())
            })
        });
        let work: Vec<_> = work.collect();
        let mut ends = Vec::new();
        for task in work {
            ends.push(task.await.unwrap().expect("in time"));
        }
        assert_eq!(most.load(Ordering::SeqCst), PLACES);
        assert!(ends.is_sorted(), "who came first is through first");
    }

    #[tokio::test]
    async fn who_is_slow_keeps_nobody_out_and_who_is_late_is_not_begun() {
        let turnstile = Arc::new(Turnstile::default());
        let slow = |time| {
            let turnstile = turnstile.clone();
            tokio::spawn(async move { turnstile.pass(async { sleep(time).await }).await.is_some() })
        };
        let stalled: Vec<_> = (0..PLACES).map(|_| slow(HOLD * 50)).collect();
        tokio::task::yield_now().await;
        let began = Instant::now();
        assert!(slow(Duration::ZERO).await.unwrap());
        assert!(began.elapsed() < HOLD * 10, "it waited {:?}", began.elapsed());
        for stalled in stalled {
            assert!(stalled.await.unwrap(), "it went on without its place");
        }
        // More than can have their turn in time: each place is held as long as may be.
        let rounds = usize::try_from(TURN_WAIT.as_millis() / HOLD.as_millis()).unwrap();
        let crowd: Vec<_> = (0..PLACES * (rounds + 5)).map(|_| slow(HOLD * 2)).collect();
        let mut begun = 0;
        for one in crowd {
            begun += usize::from(one.await.unwrap());
        }
        // At least one round, also on a machine that is busy with something else.
        assert!((PLACES..=PLACES * (rounds + 1)).contains(&begun), "{begun}");
    }
}

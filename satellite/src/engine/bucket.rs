//! A token bucket: how often something may happen. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// How much sending may be made up for after a pause: the granularity of a sleeping thread, and no more, so that no
/// second sees much more than the rate.
const BURST: Duration = Duration::from_millis(10);

/// Lets `rate` things a second through, evenly; after a pause at most 10 ms worth of them (at least one) at once.
///
/// Kept as one time, like the generic cell rate algorithm (ITU-T I.371): the time at which the bucket will be full
/// again.
#[derive(Clone, Debug)]
pub(super) struct TokenBucket {
    rate: u32,
    interval: Duration,
    burst: Duration,
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// `rate` a second, 1 to 1,000,000,000; 0 counts as 1.
    pub(super) fn new(rate: u32) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Self { rate, interval, burst: BURST.max(interval), full_at: None }
    }

    /// Changes the rate; what was taken before stays taken.
    pub(super) fn set_rate(&mut self, rate: u32) {
        if rate != self.rate {
            *self = Self { full_at: self.full_at, ..Self::new(rate) };
        }
    }

    /// When the next token is there: `now` or later.
    pub(super) fn ready_at(&self, now: Instant) -> Instant {
        // The burst is at least one interval, so this never overflows below the start of the clock.
        match self.full_at {
            Some(full_at) => now.max(full_at + self.interval - self.burst),
            None => now,
        }
    }

    /// How many tokens are there.
    pub(super) fn available(&self, now: Instant) -> u32 {
        let behind = self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let left = self.burst.saturating_sub(behind);
        u32::try_from(left.as_nanos() / self.interval.as_nanos().max(1)).unwrap_or(u32::MAX)
    }

    /// Takes so many tokens; the caller has seen that they are [`TokenBucket::available`].
    pub(super) fn take_many(&mut self, tokens: u32, now: Instant) {
        if tokens > 0 {
            self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + self.interval * tokens);
        }
    }

    /// Takes one token; the caller has seen that [`TokenBucket::ready_at`] is not after `now`.
    pub(super) fn take(&mut self, now: Instant) {
        self.take_many(1, now);
    }

    /// Whether nothing of its past matters any more.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slow_rates_are_evenly_spaced() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(5);
        let mut now = start;
        for i in 0..10 {
            now = bucket.ready_at(now);
            assert_eq!(now, start + Duration::from_millis(200) * i);
            bucket.take(now);
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut bucket = TokenBucket::new(1000);
        let start = Instant::now();
        bucket.take(start);
        let later = start + Duration::from_secs(60);
        let mut burst = 0;
        while bucket.ready_at(later) == later {
            bucket.take(later);
            burst += 1;
        }
        assert_eq!(burst, 10, "10 ms worth");
    }

    #[test]
    fn a_new_rate_takes_hold() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1_000_000);
        bucket.take(start);
        bucket.set_rate(1);
        bucket.take(start);
        assert!(bucket.ready_at(start) >= start + Duration::from_secs(1));
        assert!(!bucket.is_full(start));
        assert!(bucket.is_full(start + Duration::from_secs(2)));
    }

    proptest! {
        #[test]
        fn no_window_sees_more_than_the_rate(rate in 1u32..200_000, gaps in prop::collection::vec(0u64..50_000_000, 1..200)) {
            let start = Instant::now();
            let (mut bucket, mut now, mut sent) = (TokenBucket::new(rate), start, Vec::new());
            for gap in gaps {
                now += Duration::from_nanos(gap);
                for _ in 0..100 {
                    if bucket.ready_at(now) > now { break }
                    bucket.take(now);
                    sent.push(now);
                }
            }
            let burst = (f64::from(rate) * 0.01).max(1.0);
            for (i, first) in sent.iter().enumerate() {
                let Some(last) = sent.last() else { break };
                let allowed = last.duration_since(*first).as_secs_f64() * f64::from(rate) * 1.001 + burst + 1.0;
                prop_assert!((sent.len() - i) as f64 <= allowed, "{} in {:?}", sent.len() - i, *last - *first);
            }
        }
    }
}

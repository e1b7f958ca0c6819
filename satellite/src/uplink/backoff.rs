//! When to try again: exponential with full jitter, so that a server that comes back is not overrun by everybody at
//! once.

use std::time::Duration;

const BASE: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_secs(30);
/// A server that says no is not asked often.
const REFUSED_CAP: Duration = Duration::from_secs(300);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A connection stood: the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after a failure; `random` is uniform in 0..1. At most 30 s, 5 min when the server refused.
    pub fn next(&mut self, refused: bool, random: f64) -> Duration {
        let cap = if refused { REFUSED_CAP } else { CAP };
        let ceiling = BASE.saturating_mul(1 << self.failures.min(16)).min(cap);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(random.clamp(0.0, 1.0))
    }
}

/// The longest that a server may ask a satellite to wait before its first attempt.
const SPREAD_CAP: Duration = Duration::from_secs(600);

/// How long to wait, beside [`Backoff::next`], after a connection that stood: a server that serves many says within
/// what time they are to come back, so that they do not all come at once. `random` is uniform in 0..1.
pub fn spread(asked: Duration, random: f64) -> Duration {
    asked.min(SPREAD_CAP).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_uniform_and_bounded() {
        let asked = Duration::from_secs(40);
        assert_eq!(spread(asked, 0.0), Duration::ZERO);
        assert_eq!(spread(asked, 0.25), Duration::from_secs(10));
        assert_eq!(spread(asked, 1.0), asked);
        assert_eq!(spread(Duration::MAX, 1.0), SPREAD_CAP);
    }

    #[test]
    fn it_doubles_up_to_the_cap_and_starts_again() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(false, 1.0), BASE);
        assert_eq!(backoff.next(false, 1.0), BASE * 2);
        assert_eq!(backoff.next(false, 0.0), Duration::ZERO);
        for _ in 0..100 {
            assert!(backoff.next(false, 1.0) <= CAP);
        }
        assert_eq!(backoff.next(true, 1.0), REFUSED_CAP);
        backoff.reset();
        assert_eq!(backoff.next(false, 1.0), BASE);
    }
}

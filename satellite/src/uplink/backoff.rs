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

#[cfg(test)]
mod tests {
    use super::*;

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

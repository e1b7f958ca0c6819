//! From the kernel's time stamps to the monotonic clock. Pure.

use std::time::{Duration, Instant, SystemTime};

/// Older stamps than this are not believed: the wall clock was set.
const MAX_AGE: Duration = Duration::from_secs(10);

/// The two clocks, read together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    pub(crate) monotonic: Instant,
    /// Since the epoch.
    pub(crate) real: Duration,
}

impl Clocks {
    pub(crate) fn now() -> Self {
        let monotonic = Instant::now();
        let real = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { monotonic, real }
    }

    /// Whether a stamp of the wall clock lies after this reading.
    pub(crate) fn precede(&self, stamp: Duration) -> bool {
        stamp > self.real
    }

    /// The monotonic time of a stamp: this reading's for one in the future, 10 s before it for one older than that.
    pub(crate) fn instant(&self, stamp: Duration) -> Instant {
        let age = self.real.saturating_sub(stamp).min(MAX_AGE);
        self.monotonic.checked_sub(age).unwrap_or(self.monotonic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_clamped_to_the_last_ten_seconds() {
        let monotonic = Instant::now() + Duration::from_secs(100);
        let real = Duration::from_secs(1_000);
        let clocks = Clocks { monotonic, real };
        let ago = |age: u64| monotonic - Duration::from_secs(age);
        assert_eq!(clocks.instant(Duration::from_secs(997)), ago(3));
        assert_eq!(clocks.instant(Duration::from_secs(1_005)), ago(0));
        assert_eq!(clocks.instant(Duration::from_secs(1)), ago(10));
        assert!(clocks.precede(Duration::from_secs(1_001)) && !clocks.precede(real));
    }
}

//! Time that only grows, for judging how old evidence is: the server's clock may be set an hour forward or back and
//! nothing becomes stale or young by it.

use jiff::{SignedDuration, Timestamp};
use std::time::Instant;

/// Begins at the wall clock's time and then follows the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct SteadyClock {
    began: Timestamp,
    anchor: Instant,
}

impl SteadyClock {
    /// Begins now.
    pub(super) fn start(wall: Timestamp, now: Instant) -> Self {
        Self { began: wall, anchor: now }
    }

    /// The steady time of an instant.
    pub(super) fn at(&self, now: Instant) -> Timestamp {
        let since = SignedDuration::try_from(now.saturating_duration_since(self.anchor));
        since.ok().and_then(|since| self.began.saturating_add(since).ok()).unwrap_or(Timestamp::MAX)
    }

    /// How far the wall clock has gone away from steady time, to whole seconds: a slow drift is none.
    pub(super) fn drift(&self, wall: Timestamp, now: Instant) -> SignedDuration {
        SignedDuration::from_secs(wall.duration_since(self.at(now)).as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_wall_clock_that_is_set_leaves_it_alone() {
        let (wall, now) = (Timestamp::from_second(1_800_000_000).unwrap(), Instant::now());
        let clock = SteadyClock::start(wall, now);
        let later = now + Duration::from_secs(10);
        assert_eq!(clock.at(later), wall + SignedDuration::from_secs(10));
        let set = wall + SignedDuration::from_secs(3610);
        assert_eq!(clock.drift(set, later), SignedDuration::from_hours(1));
        assert_eq!(clock.drift(wall + SignedDuration::from_millis(10_400), later), SignedDuration::ZERO);
    }
}

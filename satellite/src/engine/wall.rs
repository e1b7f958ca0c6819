//! The wall clock of a sweep: read now and then, and reckoned in between. Pure.

use jiff::{SignedDuration, Timestamp, Zoned};
use std::time::{Duration, Instant};

/// How often it is read.
pub(super) const CLOCK_AGE: Duration = Duration::from_secs(1);

/// A wall clock read some time ago.
#[derive(Debug)]
pub(super) struct Wall {
    read: Instant,
    zoned: Zoned,
}

impl Wall {
    pub(super) fn new(read: Instant, zoned: Zoned) -> Self {
        Self { read, zoned }
    }

    /// Reads it again if it was read too long ago: it may be set while a sweep runs.
    pub(super) fn tick(&mut self, now: Instant, read: impl FnOnce() -> Zoned) {
        if now.saturating_duration_since(self.read) > CLOCK_AGE {
            *self = Self { read: now, zoned: read() };
        }
    }

    /// The wall clock now.
    pub(super) fn at(&self, now: Instant) -> Zoned {
        let since = SignedDuration::try_from(now.saturating_duration_since(self.read)).unwrap_or_default();
        self.zoned.checked_add(since).unwrap_or_else(|_| self.zoned.clone())
    }

    /// The same as a timestamp.
    pub(super) fn timestamp(&self, now: Instant) -> Timestamp {
        self.at(now).timestamp()
    }
}

//! When something was seen, in both senses: its place in the order of what a satellite sent, which decides; and the
//! satellite's clock, which is shown.

use jiff::{SignedDuration, Timestamp};
use std::cmp::Ordering;

/// A place in everything that one satellite ever sent. Satellites' clocks jump; this does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// Counts the satellite's epochs, from 1; 0: from before they were counted, with milliseconds as the sequence.
    pub ordinal: u32,
    /// Within the epoch.
    pub sequence: u64,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What decides which of two came first.
    pub order: Order,
    /// By the satellite's clock, as it said.
    pub at: Timestamp,
    /// How far that clock was ahead of the server's, as measured when it was received; milliseconds.
    pub skew_ms: i64,
}

impl Moment {
    /// As people are shown it: the satellite's time, corrected by how wrong its clock was.
    pub fn shown(&self) -> Timestamp {
        corrected(self.at, self.skew_ms)
    }
}

/// A satellite's time, corrected by how wrong its clock was. What leaves the calendar stays as it was said.
pub(super) fn corrected(at: Timestamp, skew_ms: i64) -> Timestamp {
    at.checked_sub(SignedDuration::from_millis(skew_ms)).unwrap_or(at)
}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By order; the clock only parts what one record carried.
impl Ord for Moment {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.order, self.at, self.skew_ms).cmp(&(other.order, other.at, other.skew_ms))
    }
}

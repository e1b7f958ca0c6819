//! What goes when, as plain numbers: how full the spool is, what it drops first, and which acked records have been
//! kept for long enough. Time is the spool's own clock; the wall clock decides nothing here.

use std::collections::VecDeque;
use std::time::Duration;

/// The least that a spool may be bounded to.
pub const MIN_SIZE: u64 = 8 << 20;

/// The administrator's bounds: `[spool]` in satellite.toml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// The most that the file may take.
    pub max_size: u64,
    /// Unacked records that are older go.
    pub max_age: Duration,
    /// How long acked records stay.
    pub keep_acked: Duration,
}

impl Default for SpoolSettings {
    fn default() -> Self {
        Self {
            max_size: 1 << 30,
            max_age: Duration::from_secs(7 * 86_400),
            keep_acked: Duration::from_secs(72 * 3600),
        }
    }
}

impl SpoolSettings {
    /// What records may take up, as [`cost`] counts it. The rest is room for the engine: pages that a commit freed
    /// are used again by the one after the next.
    pub fn room(&self) -> u64 {
        self.max_size / 8 * 7 - (1 << 20)
    }
}

/// Records and what they take up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many.
    pub records: u64,
    /// As [`cost`] counts.
    pub bytes: u64,
}

impl Totals {
    /// With one more.
    pub fn add(&mut self, bytes: u64) {
        self.records = self.records.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// With one less.
    pub fn take(&mut self, bytes: u64) {
        self.remove(Self { records: 1, bytes });
    }

    /// With these more.
    pub fn plus(&mut self, other: Self) {
        self.records = self.records.saturating_add(other.records);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// With these less.
    pub fn remove(&mut self, other: Self) {
        self.records = self.records.saturating_sub(other.records);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// What a value of this length takes up in the file. The engine gives a large one pages of its own, a power of two of
/// them; of small ones as many share a page as fit. Measured by `what_small_records_take` among the tests.
pub fn cost(length: usize) -> u64 {
    const PAGE: u64 = 4096;
    let length = length as u64 + 24;
    if length > PAGE / 2 { length.next_power_of_two().max(PAGE) } else { PAGE.div_ceil(PAGE / length) }
}

/// What a spool does next that has to have room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is enough.
    Enough,
    /// The oldest acked records go.
    DropAcked,
    /// Confirmations go.
    Thin,
    /// The oldest records go, whatever they say.
    DropOldest,
    /// Everything there is is on its way to the server: its acks make room.
    Wait,
}

/// What goes first. `target` is what may stay; `thinned` says that a walk found no more confirmations, `movable` that
/// there are records that are neither acked nor on their way.
pub fn step(unacked: Totals, acked: Totals, target: u64, thinned: bool, movable: bool) -> Step {
    if unacked.bytes.saturating_add(acked.bytes) <= target {
        Step::Enough
    } else if acked.records > 0 {
        Step::DropAcked
    } else if !movable {
        Step::Wait
    } else if !thinned {
        Step::Thin
    } else {
        Step::DropOldest
    }
}

/// When was what acked: enough of it to know which records have been kept for long enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AckMarks(VecDeque<(u64, u64)>);

/// Marks at most; acked records stay up to a thirtieth longer than asked.
const MAX_MARKS: usize = 34;

impl AckMarks {
    /// At `clock_ms` everything up to `key` was acked. Whether that is worth writing down.
    pub fn note(&mut self, clock_ms: u64, key: u64, keep: Duration) -> bool {
        let spacing = millis(keep) / 30;
        let due =
            self.0.back().is_none_or(|(at, known)| clock_ms >= at.saturating_add(spacing) && key > *known);
        if due {
            if self.0.len() >= MAX_MARKS {
                self.0.pop_front();
            }
            self.0.push_back((clock_ms, key));
        }
        due
    }

    /// Up to this key records have been kept for long enough.
    pub fn expired(&self, clock_ms: u64, keep: Duration) -> Option<u64> {
        let horizon = clock_ms.checked_sub(millis(keep))?;
        self.0.iter().take_while(|(at, _)| *at <= horizon).last().map(|(_, key)| *key)
    }

    /// What was acked up to `key` is gone.
    pub fn forget(&mut self, key: u64) {
        while self.0.front().is_some_and(|(_, known)| *known <= key) {
            self.0.pop_front();
        }
    }

    /// The server went back: what is beyond `key` is unacked again.
    pub fn rewind(&mut self, key: u64) {
        for mark in &mut self.0 {
            mark.1 = mark.1.min(key);
        }
    }

    /// As pairs of clock and key.
    pub fn pairs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }
}

impl FromIterator<(u64, u64)> for AckMarks {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(pairs: I) -> Self {
        Self(pairs.into_iter().take(MAX_MARKS).collect())
    }
}

/// Whether an unacked record is too old.
pub fn too_old(clock_ms: u64, spooled_ms: u64, max_age: Duration) -> bool {
    clock_ms.saturating_sub(spooled_ms) > millis(max_age)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(records: u64, bytes: u64) -> Totals {
        Totals { records, bytes }
    }

    #[test]
    fn acked_records_go_first_then_confirmations_then_the_oldest() {
        assert_eq!(step(totals(5, 50), totals(5, 50), 100, false, true), Step::Enough);
        assert_eq!(step(totals(5, 60), totals(5, 50), 100, false, true), Step::DropAcked);
        assert_eq!(step(totals(9, 101), totals(0, 0), 100, false, true), Step::Thin);
        assert_eq!(step(totals(9, 101), totals(0, 0), 100, true, true), Step::DropOldest);
        assert_eq!(step(totals(9, 101), totals(0, 0), 100, true, false), Step::Wait);
    }

    #[test]
    fn a_value_costs_at_least_its_length() {
        for length in [0, 1, 100, 2000, 2001, 4000, 4096, 5000, 32_000, 33_000, 1_048_576] {
            assert!(cost(length) > length as u64, "{length}");
        }
        assert_eq!(cost(31 * 1024 + 400), 32 * 1024, "a full batch fits its pages");
    }

    #[test]
    fn acked_records_stay_as_long_as_asked_and_little_longer() {
        let keep = Duration::from_secs(30);
        let mut marks = AckMarks::default();
        for second in 0..200u64 {
            let clock = second * 1000;
            marks.note(clock, second, keep);
            if let Some(expired) = marks.expired(clock, keep) {
                marks.forget(expired);
                assert!(expired + 30 <= second && expired + 32 >= second, "{expired} at {second}");
            } else {
                assert!(second < 30);
            }
            assert!(marks.pairs().count() <= MAX_MARKS);
        }
        marks.rewind(180);
        assert!(marks.pairs().all(|(_, key)| key <= 180));
        assert_eq!(marks.pairs().collect::<AckMarks>(), marks);
        // A clock that stands still expires nothing.
        assert_eq!(AckMarks::default().expired(0, keep), None);
    }

    #[test]
    fn age_is_counted_by_the_spools_clock() {
        let day = Duration::from_secs(86_400);
        assert!(!too_old(86_400_000, 0, day) && too_old(86_400_001, 0, day));
        assert!(!too_old(0, 5_000_000_000, day), "a record from the future is not old");
    }
}

//! Flapping: a fault that begins and ends again and again is told once.

use jiff::{SignedDuration, Timestamp};

/// So many changes ...
const CHANGES: usize = 6;
/// ... within this are flapping.
const WITHIN: SignedDuration = SignedDuration::from_mins(30);
/// It is over after so long without a change.
const CALM: SignedDuration = SignedDuration::from_mins(15);

/// The last changes of a state machine between no fault and a fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Flaps {
    /// Oldest first.
    changes: [Option<Timestamp>; CHANGES],
    flapping: bool,
}

impl Flaps {
    /// As after a restart: it goes on for a while.
    pub(super) fn resumed(now: Timestamp) -> Self {
        let mut flaps = Self { flapping: true, ..Self::default() };
        flaps.push(now);
        flaps
    }

    /// A fault began or ended.
    pub(super) fn changed(&mut self, now: Timestamp) {
        self.push(now);
        let oldest = self.changes.first().copied().flatten();
        self.flapping |= oldest.is_some_and(|oldest| now.duration_since(oldest) <= WITHIN);
    }

    fn push(&mut self, now: Timestamp) {
        self.changes.rotate_left(1);
        if let Some(newest) = self.changes.last_mut() {
            *newest = Some(now);
        }
    }

    pub(super) fn is_flapping(&self) -> bool {
        self.flapping
    }

    /// Ends the flapping when it has been calm for long enough.
    pub(super) fn settle(&mut self, now: Timestamp) {
        self.flapping &= self.calm_at() > now;
    }

    /// Whether nothing of it matters any more.
    pub(super) fn is_forgotten(&self, now: Timestamp) -> bool {
        !self.flapping && self.forgotten_at() < now
    }

    /// When time alone makes a difference next.
    pub(super) fn deadline(&self) -> Timestamp {
        if self.flapping { self.calm_at() } else { self.forgotten_at() }
    }

    fn calm_at(&self) -> Timestamp {
        self.after_newest(CALM)
    }

    fn forgotten_at(&self) -> Timestamp {
        self.after_newest(WITHIN)
    }

    fn after_newest(&self, time: SignedDuration) -> Timestamp {
        let newest = self.changes.last().copied().flatten().unwrap_or(Timestamp::MIN);
        newest.checked_add(time).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(minute: i64) -> Timestamp {
        Timestamp::from_second(minute * 60).unwrap()
    }

    #[test]
    fn six_changes_in_half_an_hour_are_flapping_until_a_quarter_of_an_hour_is_calm() {
        let mut flaps = Flaps::default();
        for at in [0, 6, 12, 18, 24] {
            flaps.changed(minute(at));
            assert!(!flaps.is_flapping());
        }
        flaps.changed(minute(30));
        assert!(flaps.is_flapping());
        flaps.settle(minute(44));
        assert!(flaps.is_flapping());
        assert_eq!(flaps.deadline(), minute(45));
        flaps.settle(minute(45));
        assert!(!flaps.is_flapping() && !flaps.is_forgotten(minute(60)));
        assert!(flaps.is_forgotten(minute(61)));
    }

    #[test]
    fn slower_changes_are_each_told() {
        let mut flaps = Flaps::default();
        for at in 0..100 {
            flaps.changed(minute(at * 7));
            assert!(!flaps.is_flapping());
        }
    }
}

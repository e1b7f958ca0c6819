//! What the looks of one vantage point at one thing come to: how many in a row said the same, and how long the answers
//! took.

use jiff::Timestamp;
use portolan_common::expectation::Judgement;
use portolan_common::ids::SatelliteId;

/// Round-trip times that are kept.
const RTTS: usize = 24;
/// The usual round-trip time is a mean that moves by this part of each difference.
const USUAL_OF: u32 = 32;

/// See the module. What was never seen to contradict needs none.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// The vantage point.
    pub satellite: SatelliteId,
    /// What the last look that was decided said.
    pub judged: Judgement,
    /// Looks in a row that said so.
    pub in_a_row: u32,
    /// It confirmed a fault and has not confirmed its end.
    pub confirmed: bool,
    /// When the fault began, as it was seen.
    pub fault_since: Timestamp,
    rtts: Option<Box<Rtts>>,
}

impl Tally {
    pub(super) fn new(satellite: SatelliteId) -> Self {
        Self {
            satellite,
            judged: Judgement::Match,
            in_a_row: 0,
            confirmed: false,
            fault_since: Timestamp::UNIX_EPOCH,
            rtts: None,
        }
    }

    /// One more look. What is inconclusive neither confirms nor ends anything, and breaks no row.
    pub(super) fn look(&mut self, judgement: Judgement, confirm: u32, recover: u32, at: Timestamp) {
        if judgement == Judgement::Inconclusive {
            return;
        }
        self.in_a_row = if judgement == self.judged { self.in_a_row.saturating_add(1) } else { 1 };
        self.judged = judgement;
        if judgement == Judgement::Match {
            self.confirmed &= self.in_a_row < recover;
        } else {
            if self.in_a_row == 1 && !self.confirmed {
                self.fault_since = at;
            }
            self.confirmed |= self.in_a_row >= confirm;
        }
    }

    /// A fault that was confirmed before a restart.
    pub(super) fn restore(&mut self, in_a_row: u32, since: Timestamp) {
        (self.judged, self.confirmed) = (Judgement::Mismatch, true);
        (self.in_a_row, self.fault_since) = (in_a_row, since);
    }

    /// How long an answer took, microseconds; 0: there was none. Kept from the first answer on.
    pub(super) fn measured(&mut self, rtt_us: u32) {
        match &mut self.rtts {
            Some(rtts) => rtts.push(rtt_us),
            None if rtt_us > 0 => self.rtts.insert(Box::default()).push(rtt_us),
            None => {}
        }
    }

    /// The last times, oldest first, and the usual one.
    pub(super) fn rtts_us(&self) -> (Vec<u32>, u32) {
        self.rtts.as_ref().map_or_else(Default::default, |rtts| (rtts.all(), rtts.usual))
    }

    /// Whether nothing would be lost without it.
    pub(super) fn is_idle(&self) -> bool {
        self.judged == Judgement::Match && !self.confirmed && self.rtts.is_none()
    }
}

/// The last round-trip times, microseconds.
#[derive(Clone, Debug, Default)]
struct Rtts {
    ring: [u32; RTTS],
    /// How many were ever pushed.
    pushed: u64,
    /// How many of them were answers, up to where it makes no difference.
    answers: u32,
    usual: u32,
}

impl Rtts {
    fn push(&mut self, rtt_us: u32) {
        let place = (self.pushed % RTTS as u64) as usize;
        if let Some(slot) = self.ring.get_mut(place) {
            *slot = rtt_us;
        }
        self.pushed += 1;
        if rtt_us > 0 {
            self.answers = (self.answers + 1).min(USUAL_OF);
            let difference = i64::from(rtt_us) - i64::from(self.usual);
            let usual = i64::from(self.usual) + difference / i64::from(self.answers);
            // Between two u32, so it is one.
            self.usual = usual as u32;
        }
    }

    fn all(&self) -> Vec<u32> {
        let first = self.pushed.saturating_sub(RTTS as u64);
        (first..self.pushed)
            .filter_map(|number| self.ring.get((number % RTTS as u64) as usize))
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Judgement::{Inconclusive, Match, Mismatch};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn after(looks: &[Judgement]) -> Tally {
        let mut tally = Tally::new(SatelliteId(uuid::Uuid::nil()));
        for (second, judgement) in (0..).zip(looks) {
            tally.look(*judgement, 3, 2, at(second));
        }
        tally
    }

    #[test]
    fn a_fault_needs_confirm_and_its_end_recover() {
        assert!(!after(&[Mismatch, Mismatch]).confirmed);
        assert!(after(&[Mismatch, Mismatch, Mismatch]).confirmed);
        assert!(!after(&[Mismatch, Mismatch, Match, Mismatch]).confirmed, "not in a row");
        assert!(after(&[Mismatch, Mismatch, Mismatch, Match]).confirmed);
        assert!(!after(&[Mismatch, Mismatch, Mismatch, Match, Match]).confirmed);
        assert!(after(&[Mismatch, Mismatch, Mismatch, Match, Mismatch, Match]).confirmed);
    }

    #[test]
    fn what_is_inconclusive_breaks_no_row_and_counts_in_none() {
        let tally = after(&[Mismatch, Inconclusive, Mismatch, Inconclusive]);
        assert_eq!((tally.in_a_row, tally.confirmed), (2, false));
        assert!(after(&[Mismatch, Inconclusive, Mismatch, Mismatch]).confirmed);
    }

    #[test]
    fn a_fault_began_with_its_first_mismatch() {
        assert_eq!(after(&[Match, Mismatch, Mismatch]).fault_since, at(1));
        assert_eq!(after(&[Mismatch, Mismatch, Mismatch, Match, Mismatch]).fault_since, at(0));
        assert_eq!(after(&[Mismatch, Match, Mismatch]).fault_since, at(2));
    }

    #[test]
    fn round_trip_times_are_kept_from_the_first_answer_on() {
        let mut tally = after(&[]);
        tally.measured(0);
        assert!(tally.is_idle());
        for rtt in [400, 0, 420] {
            tally.measured(rtt);
        }
        assert_eq!(tally.rtts_us(), (vec![400, 0, 420], 410));
        for _ in 0..100 {
            tally.measured(900);
        }
        let (rtts, usual) = tally.rtts_us();
        assert_eq!(rtts, [900; RTTS]);
        assert!((850..=900).contains(&usual), "{usual}");
        tally.measured(u32::MAX);
        assert!(tally.rtts_us().1 > 100_000_000, "no overflow");
    }
}

//! How many vantage points it takes: from what each of them says to what holds.
//!
//! A vantage point *counts* when its satellite is connected, its evidence is fresh and decided (not `open|filtered`). It
//! sees a fault *confirmed* after `confirm` looks in a row, until `recover` looks in a row say the contrary.
//!
//! - Of `n` that count, `any` needs 1, `majority` more than half, `all` each, a number so many.
//! - A fault begins when as many as are needed of those that count see it confirmed, and one of them sees it now: looks
//!   that say the contrary begin none, though they do not yet confirm it.
//! - It ends only through evidence to the contrary: when those that see it confirmed, whether they still count or not,
//!   are fewer than are needed of themselves and those that count and see the contrary. Evidence that merely vanished
//!   ends nothing, and neither do satellites that are gone.
//! - A fault that began is firing while one of those that see it confirmed counts, and unknown otherwise.
//! - Without a fault: unknown when none counts, or when a number is asked for, fewer count, and one of them sees a
//!   mismatch; pending when one of them sees a mismatch; else ok.

use super::State;
use portolan_policy::model::Quorum;

/// What one vantage point says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vote {
    /// Its satellite is connected, its last evidence fresh and decided.
    pub counts: bool,
    /// That evidence contradicts what is expected.
    pub mismatch: bool,
    /// It confirmed a fault and has not confirmed its end.
    pub confirmed: bool,
}

/// How many say what.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// Count, and see nothing wrong.
    matching: usize,
    /// Count, and see a mismatch that is not confirmed.
    unconfirmed: usize,
    /// Count, and see a fault that is confirmed.
    confirmed: usize,
    /// Of these, have begun to see the contrary.
    recovering: usize,
    /// Saw a fault that was confirmed, and do not count any more.
    vanished: usize,
}

impl FromIterator<Vote> for Count {
    fn from_iter<I: IntoIterator<Item = Vote>>(votes: I) -> Self {
        let mut count = Self::default();
        for vote in votes {
            match vote {
                Vote { counts: true, confirmed: true, mismatch } => {
                    count.confirmed += 1;
                    count.recovering += usize::from(!mismatch);
                }
                Vote { counts: true, mismatch: true, .. } => count.unconfirmed += 1,
                Vote { counts: true, .. } => count.matching += 1,
                Vote { confirmed: true, .. } => count.vanished += 1,
                _ => {}
            }
        }
        count
    }
}

impl Count {
    /// Whether there is a fault, after there was one or not.
    pub(super) fn is_fault(self, quorum: Quorum, before: bool) -> bool {
        if before && self.matching == 0 {
            return true;
        }
        let confirmed = if before { self.confirmed + self.vanished } else { self.confirmed };
        let of = if before { self.matching + confirmed } else { self.fresh() };
        confirmed >= needed(quorum, of) && (before || self.recovering < self.confirmed)
    }

    /// The state that comes of it, given whether there is a fault.
    pub(super) fn state(self, quorum: Quorum, fault: bool) -> State {
        let mismatching = self.unconfirmed + self.confirmed;
        let too_few = matches!(quorum, Quorum::AtLeast(_)) && self.fresh() < needed(quorum, self.fresh());
        match (fault, self.fresh()) {
            (true, _) if self.confirmed > 0 => State::Firing,
            (true, _) | (false, 0) => State::Unknown,
            (false, _) if mismatching == 0 => State::Ok,
            (false, _) if too_few => State::Unknown,
            (false, _) => State::Pending,
        }
    }

    fn fresh(self) -> usize {
        self.matching + self.unconfirmed + self.confirmed
    }
}

/// How many of so many it takes, 1 at least.
fn needed(quorum: Quorum, of: usize) -> usize {
    match quorum {
        Quorum::Any => 1,
        Quorum::Majority => of / 2 + 1,
        Quorum::All => of.max(1),
        Quorum::AtLeast(number) => (number as usize).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::{Firing, Ok, Pending, Unknown};

    /// `matching`, `unconfirmed`, `confirmed`, `vanished`, then whether there was a fault; the state that follows.
    fn state(quorum: Quorum, votes: [usize; 4], before: bool) -> State {
        let [matching, unconfirmed, confirmed, vanished] = votes;
        let count = Count { matching, unconfirmed, confirmed, vanished, recovering: 0 };
        let fault = count.is_fault(quorum, before);
        count.state(quorum, fault)
    }

    #[test]
    fn it_takes_as_many_as_the_quorum_says() {
        assert_eq!(state(Quorum::Any, [2, 0, 1, 0], false), Firing);
        assert_eq!(state(Quorum::Majority, [1, 0, 1, 0], false), Pending, "half is not more than half");
        assert_eq!(state(Quorum::Majority, [1, 0, 2, 0], false), Firing);
        assert_eq!(state(Quorum::All, [1, 0, 2, 0], false), Pending);
        assert_eq!(state(Quorum::All, [0, 0, 3, 0], false), Firing);
        assert_eq!(state(Quorum::AtLeast(2), [5, 0, 1, 0], false), Pending);
        assert_eq!(state(Quorum::AtLeast(2), [5, 0, 2, 0], false), Firing);
    }

    #[test]
    fn nothing_is_known_of_no_evidence() {
        for quorum in [Quorum::Any, Quorum::Majority, Quorum::All, Quorum::AtLeast(1)] {
            assert_eq!(state(quorum, [0; 4], false), Unknown, "{quorum}");
            assert_eq!(state(quorum, [0, 0, 0, 1], false), Unknown, "{quorum}");
        }
    }

    #[test]
    fn a_number_that_is_not_there_decides_nothing_but_that_all_is_well() {
        assert_eq!(state(Quorum::AtLeast(3), [1, 0, 0, 0], false), Ok);
        assert_eq!(state(Quorum::AtLeast(3), [1, 0, 1, 0], false), Unknown);
        assert_eq!(state(Quorum::AtLeast(3), [0, 1, 0, 0], false), Unknown);
        assert_eq!(state(Quorum::AtLeast(3), [0, 0, 1, 2], true), Firing, "what fires goes on");
    }

    #[test]
    fn vanished_evidence_ends_nothing() {
        assert_eq!(state(Quorum::Majority, [1, 0, 1, 1], true), Firing, "one still sees it");
        assert_eq!(state(Quorum::Any, [2, 0, 0, 1], true), Unknown, "nobody who saw it can say");
        assert_eq!(state(Quorum::Majority, [2, 0, 0, 1], true), Ok, "two of three see the contrary");
        assert_eq!(state(Quorum::All, [1, 0, 0, 1], true), Ok);
        for quorum in [Quorum::Any, Quorum::Majority, Quorum::All, Quorum::AtLeast(2)] {
            assert_eq!(state(quorum, [0; 4], true), Unknown, "{quorum}: all who saw it are gone");
            assert_eq!(state(quorum, [1, 0, 0, 0], true), Ok, "{quorum}");
        }
        assert_eq!(state(Quorum::AtLeast(2), [0, 0, 1, 0], true), Firing, "one of two is gone");
    }

    #[test]
    fn newcomers_who_are_not_sure_end_nothing() {
        assert_eq!(state(Quorum::Majority, [1, 2, 2, 0], true), Firing);
        assert_eq!(state(Quorum::Majority, [1, 2, 2, 0], false), Pending);
    }

    #[test]
    fn a_fault_begins_only_while_somebody_sees_it() {
        let begins = |recovering| {
            let count = Count { confirmed: 2, recovering, ..Count::default() };
            count.is_fault(Quorum::All, false)
        };
        assert!(begins(0) && begins(1) && !begins(2));
        let over = Count { confirmed: 1, recovering: 1, ..Count::default() };
        assert!(over.is_fault(Quorum::Any, true), "it ends when that is confirmed");
    }

    #[test]
    fn what_ended_may_be_seen_by_some_still() {
        assert_eq!(state(Quorum::Majority, [2, 0, 1, 0], true), Pending);
    }
}

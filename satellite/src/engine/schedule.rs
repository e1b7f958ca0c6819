//! How often and after how long a silent port is probed again. Pure.

use std::time::Duration;

/// The fewest probes before silence counts as an answer.
pub(super) const MIN_PROBES: u8 = 4;

/// The most probes for one port.
pub(super) const MAX_PROBES: u8 = 8;

/// The longest wait for one probe.
const MAX_TIMEOUT: Duration = Duration::from_secs(3);

/// How likely a port that answers may be taken for a silent one: 1 in 10 million, so that a host with 65,535 ports is
/// right as a whole 99 times in 100.
const LN_TOLERANCE: f64 = -16.118;

/// How many answers it takes for half of them to be forgotten.
const FADING: u32 = 256;

/// How many probes answered at once, and how many only after others were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loss {
    answered: u32,
    answered_late: u32,
}

impl Loss {
    /// Nothing answered yet.
    pub(super) const NONE: Self = Self { answered: 0, answered_late: 0 };

    /// Counts an answer to the first, or only to a later probe of a port.
    pub(super) fn count(&mut self, late: bool) {
        self.answered = self.answered.saturating_add(1);
        self.answered_late = self.answered_late.saturating_add(late.into());
    }

    /// Lets what is long ago count less, once there is enough of it.
    pub(super) fn fade(&mut self) {
        if self.answered >= FADING {
            (self.answered, self.answered_late) = (self.answered / 2, self.answered_late / 2);
        }
    }

    /// The share of probes that get lost on the way there or back, 0 to 1: of the ports that answer, those that did
    /// not answer the first probe.
    fn rate(self) -> f64 {
        if self.answered == 0 { 0.0 } else { f64::from(self.answered_late) / f64::from(self.answered) }
    }

    /// How many probes it takes to believe in silence: four at least, six at 6 % (3 % each way), eight at most.
    pub(super) fn probes_needed(self) -> u8 {
        let rate = self.rate();
        if rate <= 0.0 {
            return MIN_PROBES;
        }
        // rate^n <= tolerance; a rate of 1 gives infinity, which the cast and the clamp turn into the most.
        ((LN_TOLERANCE / rate.min(1.0).ln()).abs().ceil() as u8).clamp(MIN_PROBES, MAX_PROBES)
    }
}

/// How long to wait for an answer to the `attempt`-th probe of a port, counted from 1. On a known round trip that is
/// once, once, twice, then four times the retransmission timeout; else long enough for a path through a satellite
/// in orbit to be noticed by the last.
pub(super) fn timeout(rto: Option<Duration>, attempt: u8) -> Duration {
    match rto {
        Some(rto) => (rto * [1, 1, 2, 4][step(attempt)]).min(MAX_TIMEOUT),
        None => Duration::from_millis([300, 300, 600, 1000][step(attempt)]),
    }
}

/// How long the last probe of a port is waited for in all, `timeout` being its wait in the windows and `up` whether the
/// host ever answered: an answer may take its time on a port that leads elsewhere, or while the path is down for a
/// moment.
pub(super) fn last_wait(timeout: Duration, up: bool) -> Duration {
    timeout.max(Duration::from_secs(if up { 1 } else { 2 }))
}

fn step(attempt: u8) -> usize {
    usize::from(attempt.clamp(1, 4)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loss(answered: u32, answered_late: u32) -> Loss {
        Loss { answered, answered_late }
    }

    #[test]
    fn probes_grow_with_loss() {
        assert_eq!(loss(0, 0).probes_needed(), 4);
        assert_eq!(loss(1000, 0).probes_needed(), 4);
        assert_eq!(loss(1000, 10).probes_needed(), 4);
        assert_eq!(loss(1000, 20).probes_needed(), 5);
        assert_eq!(loss(1000, 60).probes_needed(), 6);
        assert_eq!(loss(1000, 200).probes_needed(), 8);
        assert_eq!(loss(1, 1).probes_needed(), 8);
    }

    #[test]
    fn what_is_long_ago_counts_less() {
        let mut seen = loss(255, 200);
        seen.fade();
        assert_eq!(seen, loss(255, 200), "it is all there is");
        seen.count(true);
        seen.fade();
        assert_eq!(seen, loss(128, 100));
        for _ in 0..20 {
            (0..256).for_each(|_| seen.count(false));
            seen.fade();
        }
        assert_eq!(seen.probes_needed(), 4);
    }

    #[test]
    fn unknown_paths_get_the_long_waits() {
        let waits = |rto| (1..=6).map(|n| timeout(rto, n).as_millis()).collect::<Vec<_>>();
        assert_eq!(waits(None), [300, 300, 600, 1000, 1000, 1000]);
        assert_eq!(waits(Some(Duration::from_millis(100))), [100, 100, 200, 400, 400, 400]);
        assert_eq!(waits(Some(Duration::from_secs(2))), [2000, 2000, 3000, 3000, 3000, 3000]);
    }

    proptest! {
        #[test]
        fn always_between_four_and_eight(answers in prop::collection::vec(any::<bool>(), 0..300)) {
            let mut loss = Loss::default();
            for late in answers {
                loss.count(late);
                prop_assert!((MIN_PROBES..=MAX_PROBES).contains(&loss.probes_needed()));
            }
        }
    }
}

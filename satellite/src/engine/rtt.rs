//! How long a host takes to answer. Pure.

use std::time::Duration;

/// The shortest timeout: shorter ones catch a busy host's answer as lost (nmap's floor too).
pub(super) const MIN_RTO: Duration = Duration::from_millis(100);

/// The longest timeout that measurements lead to.
pub(super) const MAX_RTO: Duration = Duration::from_secs(2);

/// The retransmission timeout of RFC 6298, section 2, with alpha 1/8 and beta 1/4.
///
/// Samples come only from probes that tell which packet was answered (Karn's algorithm): every retransmission has a
/// socket of its own, and what the kernel retransmitted by itself is left out by the caller.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RttEstimator {
    smoothed: Option<(Duration, Duration)>,
}

impl RttEstimator {
    /// Takes one measured round trip.
    pub(super) fn sample(&mut self, rtt: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            Some((srtt, rttvar)) => ((srtt * 7 + rtt) / 8, (rttvar * 3 + srtt.abs_diff(rtt)) / 4),
        });
    }

    /// The timeout, between [`MIN_RTO`] and [`MAX_RTO`]; `None` while nothing was measured.
    pub(super) fn rto(&self) -> Option<Duration> {
        self.smoothed.map(|(srtt, rttvar)| (srtt + rttvar * 4).clamp(MIN_RTO, MAX_RTO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn follows_the_standard() {
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.rto(), None);
        rtt.sample(200 * MS);
        assert_eq!(rtt.rto(), Some(600 * MS), "SRTT + 4 x R/2");
        rtt.sample(200 * MS);
        assert_eq!(rtt.rto(), Some(500 * MS), "the variance shrinks by a quarter");
        rtt.sample(280 * MS);
        // SRTT 7/8 x 200 + 1/8 x 280 = 210; RTTVAR 3/4 x 75 + 1/4 x 80 = 76.25
        assert_eq!(rtt.rto(), Some(Duration::from_millis(210) + Duration::from_micros(76_250) * 4));
    }

    #[test]
    fn a_fast_host_still_gets_the_floor() {
        let mut rtt = RttEstimator::default();
        rtt.sample(Duration::from_micros(10));
        assert_eq!(rtt.rto(), Some(MIN_RTO));
    }

    proptest! {
        #[test]
        fn stays_in_bounds_and_covers_a_steady_path(base in 1u64..1900, samples in prop::collection::vec(0u64..5000, 0..50)) {
            let mut rtt = RttEstimator::default();
            for sample in samples {
                rtt.sample(Duration::from_millis(sample));
                let rto = rtt.rto().unwrap();
                prop_assert!((MIN_RTO..=MAX_RTO).contains(&rto));
            }
            for _ in 0..200 {
                rtt.sample(Duration::from_millis(base));
            }
            prop_assert!(rtt.rto().unwrap() >= Duration::from_millis(base));
        }
    }
}

//! How long a host takes to answer. Pure.

use std::time::{Duration, Instant};

/// The shortest timeout: shorter ones catch a busy host's answer as lost (nmap's floor too).
pub(super) const MIN_RTO: Duration = Duration::from_millis(100);

/// The longest timeout that measurements lead to.
pub(super) const MAX_RTO: Duration = Duration::from_secs(2);

/// The retransmission timeout of RFC 6298, section 2, with alpha 1/8 and beta 1/4.
///
/// Samples come only from probes that tell which packet was answered (Karn's algorithm): every retransmission has a
/// socket or a source port of its own, and what the kernel retransmitted by itself is left out by the caller.
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

/// For how long the shortest round trip is believed to be what the path takes without a queue: it may change its course.
const WINDOW: Duration = Duration::from_secs(10);

/// The shortest round trip of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ShortestRtt {
    /// Of the window before this one, and of this one; when this one began.
    before: Option<Duration>,
    current: Option<Duration>,
    began: Option<Instant>,
}

impl ShortestRtt {
    /// Takes a round trip that ended `now`: how much longer it was than need be, a quarter of that left to jitter.
    pub(super) fn excess(&mut self, rtt: Duration, now: Instant) -> Duration {
        let began = *self.began.get_or_insert(now);
        if now.saturating_duration_since(began) > WINDOW {
            (self.before, self.current, self.began) = (self.current, None, Some(now));
        }
        let current = self.current.map_or(rtt, |shortest| shortest.min(rtt));
        self.current = Some(current);
        let shortest = self.before.map_or(current, |before| before.min(current));
        rtt.saturating_sub(shortest + shortest / 4)
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

    #[test]
    fn a_queue_is_what_is_beyond_the_shortest() {
        let start = Instant::now();
        let mut shortest = ShortestRtt::default();
        assert_eq!(shortest.excess(40 * MS, start), Duration::ZERO);
        assert_eq!(shortest.excess(150 * MS, start), 100 * MS);
        assert_eq!(shortest.excess(20 * MS, start), Duration::ZERO);
        assert_eq!(shortest.excess(45 * MS, start), 20 * MS);
        // A path that became longer is believed after two windows.
        for seconds in [11, 22] {
            shortest.excess(200 * MS, start + Duration::from_secs(seconds));
        }
        assert_eq!(shortest.excess(200 * MS, start + Duration::from_secs(34)), Duration::ZERO);
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

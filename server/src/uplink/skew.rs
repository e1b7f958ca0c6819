//! How far a satellite's clock is ahead of the server's, from the times in its messages. Each message took its way, so
//! each says a little less than the truth; of the last few, the one that was fastest says most.

use std::collections::VecDeque;

/// Messages that count: about a minute of heartbeats.
const SAMPLES: usize = 12;
/// Less than this may be the way alone, …
const NOISE_MS: i64 = 1000;
/// … and of the first few messages more than that: the first one of a connection may have waited long.
const EARLY: usize = 3;
const EARLY_NOISE_MS: i64 = 60_000;

/// A clock is never believed to be more wrong than this: ten years.
pub(super) const MAX_SKEW_MS: i64 = 10 * 366 * 24 * 3600 * 1000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Skew {
    /// Satellite's time minus server's at arrival, milliseconds.
    samples: VecDeque<i64>,
}

impl Skew {
    /// Takes a message in; returns what is known then, milliseconds, 0 when it may be noise.
    pub(super) fn measure(&mut self, said_ms: i64, received_ms: i64) -> i64 {
        let sample = said_ms.saturating_sub(received_ms).clamp(-MAX_SKEW_MS, MAX_SKEW_MS);
        // A clock that was set makes what was measured before it worthless. (Set back by less, it looks like a slow
        // message until the window has passed.)
        if self.samples.back().is_some_and(|last| last.abs_diff(sample) > 10 * NOISE_MS.unsigned_abs()) {
            self.samples.clear();
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        let best = self.samples.iter().max().copied().unwrap_or(0);
        let noise = if self.samples.len() < EARLY { EARLY_NOISE_MS } else { NOISE_MS };
        if best.abs() < noise { 0 } else { best }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_message_counts_and_noise_is_none() {
        let mut skew = Skew::default();
        assert_eq!(skew.measure(1_000_000, 1_000_400), 0, "400 ms on the way");
        let mut skew = Skew::default();
        assert_eq!(skew.measure(5_000_000, 1_000_900), 3_999_100);
        assert_eq!(skew.measure(5_001_000, 1_001_010), 3_999_990, "this one was faster");
        assert_eq!(skew.measure(5_002_000, 1_002_500), 3_999_990);
    }

    #[test]
    fn no_clock_is_more_wrong_than_it_can_be() {
        for said in [i64::MIN, i64::MIN / 2, i64::MAX] {
            let skew = Skew::default().measure(said, 1_790_000_000_000);
            assert_eq!(skew.abs(), MAX_SKEW_MS);
        }
    }

    #[test]
    fn a_clock_that_is_set_right_is_believed_at_once() {
        let mut skew = Skew::default();
        skew.measure(5_000_000, 1_000_000);
        assert_eq!(skew.measure(1_001_000, 1_001_010), 0);
        assert_eq!(skew.measure(1_001_000, 1_011_010), 0, "late, not behind");
        for beat in 0..20 {
            skew.measure(1_001_000 - 7_000 + beat * 5_000, 1_001_000 + beat * 5_000);
        }
        assert_eq!(skew.measure(1_094_000, 1_101_000), -7_000, "after a minute");
    }
}

//! How many probes may be in flight at once, to one host or along one path. Pure.
//!
//! Grows by answers and shrinks by loss, as TCP's congestion window does (RFC 5681) and nmap's after it. Two things
//! are a scanner's own. Silence is no loss: a firewall that drops is not a path that is full, so ports that stay
//! silent to the end let the window grow as long as no loss was ever seen. And loss at random is not congestion: a
//! window that halves for every lost probe goes to nothing on a path that loses 2 %, so it halves only when a round
//! trip's worth of answers shows more loss than random loss explains.

use std::time::{Duration, Instant};

/// Loss is congestion when more than one in so many answers of a round came late.
const CONGESTED: u32 = 8;

/// A round with more than one late answer in so many does not let the window grow.
const HOLD: u32 = 32;

/// Fewer late answers than this in a round say nothing.
const MIN_LOSSES: u32 = 3;

/// Bounds of a window, in probes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Where it begins.
    pub(super) start: u32,
    /// What loss leaves of it.
    pub(super) min: u32,
    /// How far answers let it grow.
    pub(super) max: u32,
    /// How far silence lets it grow.
    pub(super) max_silent: u32,
}

/// One host's bounds. The most that silence allows decides how long a host takes that drops everything on 65,535
/// ports: 2.2 s for each port and 2,048 at once are some 80 s.
pub(super) const HOST: Bounds = Bounds { start: 100, min: 8, max: 1024, max_silent: 2048 };

/// The bounds of all hosts of one network together.
pub(super) const PATH: Bounds = Bounds { start: 512, min: 8, max: 8192, max_silent: 8192 };

/// A congestion window.
#[derive(Clone, Debug)]
pub(super) struct Window {
    bounds: Bounds,
    size: f64,
    /// Below it each answer counts whole, above it each round does (slow start and congestion avoidance).
    threshold: f64,
    round: Option<Round>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    since: Instant,
    answers: u32,
    losses: u32,
    halved: bool,
}

impl Window {
    /// A window at its start.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, size: f64::from(bounds.start), threshold: f64::INFINITY, round: None }
    }

    /// How many probes may be in flight, at least one.
    pub(super) fn limit(&self) -> u32 {
        self.size as u32
    }

    /// An answer came, `late` when probes before it were lost; a round lasts `round_trip`.
    pub(super) fn answered(&mut self, late: bool, now: Instant, round_trip: Duration) {
        let fresh = Round { since: now, answers: 0, losses: 0, halved: false };
        let round = self.round.get_or_insert(fresh);
        if now.saturating_duration_since(round.since) > round_trip {
            *round = fresh;
        }
        round.answers = round.answers.saturating_add(1);
        round.losses = round.losses.saturating_add(late.into());
        let Round { answers, losses, halved, .. } = *round;
        if losses >= MIN_LOSSES && losses.saturating_mul(CONGESTED) > answers {
            if !halved {
                round.halved = true;
                self.size = (self.size / 2.0).max(f64::from(self.bounds.min));
                self.threshold = self.size;
            }
        } else if losses.saturating_mul(HOLD) <= answers {
            self.grow(self.bounds.max);
        }
    }

    /// A port stayed silent to the end.
    pub(super) fn silent(&mut self) {
        if self.threshold.is_infinite() {
            self.grow(self.bounds.max_silent);
        }
    }

    fn grow(&mut self, max: u32) {
        let step = if self.size < self.threshold { 1.0 } else { 1.0 / self.size };
        if self.size < f64::from(max) {
            self.size = (self.size + step).min(f64::from(max));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RTT: Duration = Duration::from_millis(100);

    #[test]
    fn answers_double_it_each_round_trip() {
        let mut window = Window::new(HOST);
        let mut now = Instant::now();
        for _ in 0..2 {
            for _ in 0..window.limit() {
                window.answered(false, now, RTT);
            }
            now += RTT;
        }
        assert_eq!(window.limit(), 400);
        for _ in 0..10_000 {
            window.answered(false, now, RTT);
        }
        assert_eq!(window.limit(), HOST.max);
    }

    #[test]
    fn congestion_halves_it_once_a_round() {
        let mut window = Window::new(PATH);
        let mut now = Instant::now();
        for _ in 0..100 {
            window.answered(true, now, RTT);
        }
        assert_eq!(window.limit(), 256);
        now += 2 * RTT;
        for _ in 0..100 {
            window.answered(true, now, RTT);
        }
        assert_eq!(window.limit(), 128);
        // From here on a whole window of answers adds one.
        now += 2 * RTT;
        for _ in 0..129 {
            window.answered(false, now, RTT);
        }
        assert!((128..=129).contains(&window.limit()));
    }

    #[test]
    fn random_loss_is_not_congestion() {
        let mut window = Window::new(HOST);
        let start = Instant::now();
        for i in 0..20_000u32 {
            window.answered(i % 17 == 16, start + Duration::from_millis(1) * i, RTT);
        }
        assert!(window.limit() >= HOST.start / 2, "6 % left {}", window.limit());
    }

    #[test]
    fn silence_grows_it_until_loss_is_seen() {
        let mut window = Window::new(HOST);
        for _ in 0..5000 {
            window.silent();
        }
        assert_eq!(window.limit(), HOST.max_silent);
        for _ in 0..10 {
            window.answered(true, Instant::now(), RTT);
        }
        let after = window.limit();
        for _ in 0..5000 {
            window.silent();
        }
        assert_eq!(window.limit(), after);
    }

    proptest! {
        #[test]
        fn stays_in_bounds(events in prop::collection::vec((0u8..3, 0u64..300), 0..2000)) {
            let mut window = Window::new(HOST);
            let mut now = Instant::now();
            for (event, ms) in events {
                now += Duration::from_millis(ms);
                match event {
                    0 => window.answered(false, now, RTT),
                    1 => window.answered(true, now, RTT),
                    _ => window.silent(),
                }
                prop_assert!((HOST.min..=HOST.max_silent).contains(&window.limit()));
            }
        }
    }
}

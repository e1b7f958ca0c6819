//! How many probes may be in flight at once, to one host or along one path. Pure.
//!
//! Grows by answers and shrinks by loss, as TCP's congestion window does (RFC 5681) and nmap's after it. Two things
//! are a scanner's own. Silence is no loss: a firewall that drops is not a path that is full, so ports that stay
//! silent to the end let the window grow as long as no loss was ever seen. And loss at random is not congestion: a
//! window that halves for every lost probe goes to nothing on a path that loses 2 %, so it halves only for more loss
//! than that.

use crate::engine::lanes::Control;
use std::time::Instant;

/// Loss is congestion when more than one in so many answers came late.
///
/// Late answers come in clusters: what is lost stays in flight until its timeout, and a whole window may time out and
/// be answered at once. So they are weighed over a stretch of this many windows' answers, in which one window's worth
/// may be late.
const CONGESTED: u32 = 8;

/// Where more than one in so many answers of a stretch came late, the window does not grow.
const HOLD: u32 = 32;

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
pub(super) const HOST: Bounds = Bounds { start: 100, min: 24, max: 1024, max_silent: 2048 };

/// The bounds of all hosts of one network together.
pub(super) const PATH: Bounds = Bounds { start: 512, min: 64, max: 8192, max_silent: 8192 };

/// A congestion window.
#[derive(Clone, Debug)]
pub(super) struct Window {
    bounds: Bounds,
    size: f64,
    /// Below it each answer counts whole, above it each window's worth does (slow start and congestion avoidance).
    threshold: f64,
    /// The stretch so far: answers, and those of them that were late.
    answers: u32,
    losses: u32,
}

impl Window {
    /// A window at its start.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, size: f64::from(bounds.start), threshold: f64::INFINITY, answers: 0, losses: 0 }
    }

    /// How many probes may be in flight, at least one.
    pub(super) fn limit(&self) -> u32 {
        self.size as u32
    }

    /// An answer came, `late` when probes before it were lost.
    pub(super) fn answered(&mut self, late: bool) {
        let limit = self.limit();
        self.answers += 1;
        self.losses += u32::from(late);
        if self.losses > limit {
            self.size = (self.size / 2.0).max(f64::from(self.bounds.min));
            self.threshold = self.size;
            (self.answers, self.losses) = (0, 0);
        } else {
            if !late && self.losses.saturating_mul(HOLD) <= limit.saturating_mul(CONGESTED) {
                self.grow(self.bounds.max);
            }
            if self.answers >= limit.saturating_mul(CONGESTED) {
                (self.answers, self.losses) = (0, 0);
            }
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

/// How much may be in flight along one path.
#[derive(Debug)]
pub(super) struct PathWindow {
    pub(super) window: Window,
    pub(super) in_flight: u32,
}

impl PathWindow {
    /// Whether the window has room, and what else limits the path.
    pub(super) fn has_room(&self, limit: u32) -> bool {
        self.in_flight < self.window.limit().min(limit)
    }
}

impl Control for PathWindow {
    fn new(_: Instant) -> Self {
        Self { window: Window::new(PATH), in_flight: 0 }
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_double_it_each_round_trip() {
        let mut window = Window::new(HOST);
        for _ in 0..2 {
            for _ in 0..window.limit() {
                window.answered(false);
            }
        }
        assert_eq!(window.limit(), 400);
        for _ in 0..10_000 {
            window.answered(false);
        }
        assert_eq!(window.limit(), HOST.max);
    }

    #[test]
    fn congestion_halves_it() {
        let mut window = Window::new(PATH);
        for _ in 0..=512 {
            window.answered(true);
        }
        assert_eq!(window.limit(), 256);
        // From here on a whole window of answers adds one.
        let limit = window.limit();
        for _ in 0..=limit {
            window.answered(false);
        }
        assert_eq!(window.limit(), limit + 1);
        for _ in 0..100_000 {
            window.answered(true);
        }
        assert_eq!(window.limit(), PATH.min);
    }

    #[test]
    fn random_loss_is_not_congestion_even_in_clusters() {
        let mut window = Window::new(HOST);
        for i in 0..50_000u32 {
            // 6 %, first all that were answered at once and then a window of those that were not.
            window.answered(i % 1600 >= 1504);
        }
        assert!(window.limit() >= HOST.start, "6 % left {}", window.limit());
    }

    #[test]
    fn silence_grows_it_until_loss_is_seen() {
        let mut window = Window::new(HOST);
        for _ in 0..5000 {
            window.silent();
        }
        assert_eq!(window.limit(), HOST.max_silent);
        for _ in 0..5000 {
            window.answered(true);
        }
        let after = window.limit();
        assert!(after < HOST.max_silent);
        for _ in 0..5000 {
            window.silent();
        }
        assert_eq!(window.limit(), after);
    }

    proptest! {
        #[test]
        fn stays_in_bounds(events in prop::collection::vec(0u8..3, 0..5000)) {
            let mut window = Window::new(HOST);
            for event in events {
                match event {
                    0 => window.answered(false),
                    1 => window.answered(true),
                    _ => window.silent(),
                }
                prop_assert!((HOST.min..=HOST.max_silent).contains(&window.limit()));
            }
        }
    }
}

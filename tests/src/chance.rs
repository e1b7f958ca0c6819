//! What is random in a test, so that it can be repeated: a few numbers from one seed.
//!
//! The seed comes from `PORTOLAN_TEST_SEED`, which `tests/run.sh --seed N` sets, or from the clock. It is printed, and a
//! failing test's output is shown.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// The environment variable with the seed.
const SEED: &str = "PORTOLAN_TEST_SEED";

/// A stream of numbers that a seed fixes (SplitMix64). It is for tests; nobody should guess keys from it.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The stream of this run's seed for one purpose; different purposes get different numbers.
    pub fn of_run(purpose: &str) -> Self {
        let seed = seed();
        eprintln!("{purpose}: seed {seed}; to repeat it: {SEED}={seed}");
        Self::new(seed).branch(purpose)
    }

    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another stream, fixed by this one's seed and a name; this one is not moved.
    #[must_use]
    pub fn branch(&self, name: &str) -> Self {
        let mixed = name.bytes().fold(self.0 ^ 0xcbf2_9ce4_8422_2325, |mixed, byte| {
            (mixed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(Self(mixed).number())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// A number from `first` to `last`.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// A time from nothing up to this.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(limit.as_micros()).unwrap_or(u64::MAX).max(1)))
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        let at = self.below(among.len() as u64);
        &among[usize::try_from(at).unwrap_or_default()]
    }
}

/// How much of something a test does: what the environment variable says (`tests/run.sh --long` sets it), or `short`.
pub fn amount(variable: &str, short: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
        Err(_) => short,
    }
}

fn seed() -> u64 {
    static SEED_OF_RUN: OnceLock<u64> = OnceLock::new();
    *SEED_OF_RUN.get_or_init(new_seed)
}

fn new_seed() -> u64 {
    match std::env::var(SEED) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED} is no number: {text}")),
        Err(_) => {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            since.as_micros().try_into().unwrap_or(u64::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_the_numbers_and_a_purpose_changes_them() {
        let numbers = |mut chance: Chance| (0..8).map(|_| chance.below(1000)).collect::<Vec<_>>();
        assert_eq!(numbers(Chance::new(7)), numbers(Chance::new(7)));
        assert_ne!(numbers(Chance::new(7)), numbers(Chance::new(8)));
        let [a, b] = ["a", "b"].map(|name| numbers(Chance::new(7).branch(name)));
        assert_ne!(a, b);
    }

    #[test]
    fn bounds_are_reached_and_kept() {
        let mut chance = Chance::new(1);
        let seen: std::collections::BTreeSet<u64> = (0..200).map(|_| chance.between(3, 5)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 4, 5]);
        assert!((0..200).all(|_| chance.up_to(Duration::from_millis(2)) < Duration::from_millis(2)));
    }
}

//! A random order over 0..n that needs no memory for it. Pure: the seed is an argument.

/// How often both halves are mixed. Four rounds make a Feistel network a pseudo-random permutation (Luby and
/// Rackoff, 1988); six leave room for the mixing function being plain.
const ROUNDS: u64 = 6;

/// A permutation of `0..len`: a Feistel network over a rectangle of `width` x `height` at least `len` large (Black
/// and Rogaway, Ciphers with Arbitrary Finite Domains, 2002), walked on where it leads outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permutation {
    len: u64,
    width: u64,
    height: u64,
    seed: u64,
}

impl Permutation {
    /// The longest order: what keeps both sides of the rectangle within 32 bits.
    pub(super) const MAX_LEN: u64 = 1 << 62;

    /// An order of `len` things, at most [`Permutation::MAX_LEN`] of them (more are cut off).
    pub(super) fn new(len: u64, seed: u64) -> Self {
        let len = len.min(Self::MAX_LEN);
        let width = (len.isqrt() + 1).max(2);
        Self { len, width, height: len.div_ceil(width).max(2), seed }
    }

    /// The place of the `index`-th thing; `index` is below `len`.
    pub(super) fn at(&self, index: u64) -> u64 {
        let mut place = self.step(index);
        // The rectangle is barely larger than `len`, so this loop hardly ever runs; walking a cycle of a permutation
        // that began inside, it comes back inside.
        while place >= self.len && index < self.len {
            place = self.step(place);
        }
        place
    }

    fn step(&self, place: u64) -> u64 {
        let (mut x, mut y) = (place % self.width, place / self.width);
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                x = add(x, self.mix(round, y, self.width), self.width);
            } else {
                y = add(y, self.mix(round, x, self.height), self.height);
            }
        }
        y * self.width + x
    }

    /// A number below `bound`, which is below 2^32.
    fn mix(&self, round: u64, value: u64, bound: u64) -> u64 {
        // The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
        let mut z = self.seed ^ value.wrapping_add((round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 32) * bound) >> 32
    }
}

fn add(a: u64, b: u64, modulus: u64) -> u64 {
    let sum = a + b;
    if sum >= modulus { sum - modulus } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_orders_stay_inside() {
        for len in [u64::from(u32::MAX), 1 << 40, Permutation::MAX_LEN] {
            let order = Permutation::new(len, 7);
            for index in [0, 1, 2, len / 2, len - 1] {
                assert!(order.at(index) < len);
            }
        }
    }

    #[test]
    fn neighbours_are_spread() {
        let order = Permutation::new(65_536, 42);
        let near = (0..65_535).filter(|i| order.at(*i).abs_diff(order.at(i + 1)) < 256).count();
        // By chance 0.8 % are.
        assert!(near < 1000, "{near} of 65,535 neighbours stay neighbours");
    }

    #[test]
    fn seeds_differ() {
        let (a, b) = (Permutation::new(1000, 1), Permutation::new(1000, 2));
        assert!((0..1000).filter(|i| a.at(*i) == b.at(*i)).count() < 50);
    }

    proptest! {
        #[test]
        fn each_place_comes_exactly_once(len in 1u64..5000, seed: u64) {
            let order = Permutation::new(len, seed);
            let mut seen = vec![false; usize::try_from(len).unwrap()];
            for index in 0..len {
                let place = usize::try_from(order.at(index)).unwrap();
                prop_assert!(!seen[place], "{place} twice");
                seen[place] = true;
            }
        }
    }
}

//! What a trial writes: records whose length and content follow from their sequence alone, so that any process can
//! tell whether what it reads is what was written.

/// The smallest and the largest record of the mix; the outbox closes a record at 32 KiB.
pub const SMALLEST: usize = 200;
/// See [`SMALLEST`].
pub const LARGEST: usize = 30_000;
/// How many records one durable commit takes at most.
pub const GROUP: u64 = 64;

const HEAD: usize = 12;

/// splitmix64: one well mixed number for each input. Trials need to repeat, not to be unpredictable.
pub fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A fraction in [0, 1) for each input.
pub fn fraction(input: u64) -> f64 {
    (mix(input) >> 11) as f64 / (1u64 << 53) as f64
}

/// The length of a record: as many between 200 B and 400 B as between 15 KB and 30 KB. The mean is about 6 KB.
pub fn length(sequence: u64) -> usize {
    let span = (LARGEST as f64 / SMALLEST as f64).ln();
    (SMALLEST as f64 * (span * fraction(sequence ^ 0x5eed_0001)).exp()) as usize
}

/// The record of a sequence, `length` bytes long: sequence, CRC-32C, and bytes that do not compress.
pub fn content(sequence: u64, length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length + 8);
    body.extend(sequence.to_be_bytes());
    body.extend([0; 4]);
    let mut state = sequence ^ 0x5eed_0002;
    while body.len() < length {
        state = mix(state);
        body.extend(state.to_le_bytes());
    }
    body.truncate(length.max(HEAD));
    let crc = crc32c::crc32c(&body[HEAD..]).to_be_bytes();
    body[8..HEAD].copy_from_slice(&crc);
    body
}

/// The record of the mix with this sequence.
pub fn of_the_mix(sequence: u64) -> (u64, Vec<u8>) {
    (sequence, content(sequence, length(sequence)))
}

/// How many records the group holds that begins with this sequence.
pub fn group(first: u64) -> u64 {
    1 + mix(first ^ 0x5eed_0003) % GROUP
}

/// What a reader found in a spool, checked record by record.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// The lowest sequence; 0 when there is none.
    pub first: u64,
    /// The highest sequence; 0 when there is none.
    pub last: u64,
    /// How many records there are.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many are not what was written.
    pub wrong: u64,
}

impl Census {
    /// Takes the next record into account; sequences must come in order.
    pub fn add(&mut self, sequence: u64, found: &[u8]) {
        if self.count == 0 {
            self.first = sequence;
        } else if sequence <= self.last {
            self.wrong += 1;
        }
        self.last = sequence;
        self.count += 1;
        self.bytes += found.len() as u64;
        if found != of_the_mix(sequence).1 {
            self.wrong += 1;
        }
    }

    /// How many sequences between the first and the last are not there.
    pub fn missing(&self) -> u64 {
        if self.count == 0 { 0 } else { (self.last - self.first + 1).saturating_sub(self.count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_covers_its_range() {
        let lengths: Vec<usize> = (1..20_000).map(length).collect();
        assert!(lengths.iter().all(|l| (SMALLEST..=LARGEST).contains(l)));
        assert!(lengths.iter().any(|l| *l < 210) && lengths.iter().any(|l| *l > 29_000));
        let mean = lengths.iter().sum::<usize>() / lengths.len();
        assert!((5_000..7_000).contains(&mean), "{mean}");
    }

    #[test]
    fn groups_hold_one_to_sixty_four() {
        let sizes: Vec<u64> = (0..5_000).map(group).collect();
        assert_eq!((sizes.iter().min(), sizes.iter().max()), (Some(&1), Some(&GROUP)));
    }

    #[test]
    fn a_census_notices_what_is_wrong() {
        let mut good = Census::default();
        for sequence in 5..9 {
            good.add(sequence, &of_the_mix(sequence).1);
        }
        assert_eq!((good.first, good.last, good.count, good.wrong, good.missing()), (5, 8, 4, 0, 0));

        let mut gap = Census::default();
        gap.add(5, &of_the_mix(5).1);
        gap.add(8, &of_the_mix(8).1);
        assert_eq!((gap.wrong, gap.missing()), (0, 2));

        let mut flipped = of_the_mix(5).1;
        flipped[100] ^= 1;
        let mut bad = Census::default();
        bad.add(5, &flipped);
        bad.add(5, &of_the_mix(5).1);
        assert_eq!(bad.wrong, 2);
    }
}

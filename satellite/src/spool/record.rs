//! The spool's own form of what it keeps: a record behind a header, a gap that is accounted for, and the state of the
//! whole. Each carries a version and a CRC-32C that covers its key too, because the engine does not check what it
//! reads. What does not fit its checksum is [`Damaged`], never a wrong record.

use super::retention::{AckMarks, Totals, cost};
use portolan_proto::v1::{self, dropped::Reason};
use prost::Message as _;

const VERSION: u8 = 1;

/// Bytes that do not fit their checksum, or that a later version wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes that do not fit their checksum")]
pub struct Damaged;

/// A record as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Spooled {
    /// The spool's clock when it came.
    pub clock_ms: u64,
    /// This machine's clock then.
    pub wall_ms: i64,
    /// Which start of the process it came from.
    pub process: u32,
    /// Host observations that it still has.
    pub hosts: u32,
    /// Host observations that were thinned out, all of which repeated what was known.
    pub confirmations: u32,
    /// Scan and body; the sequence is the key's.
    pub record: v1::Record,
}

/// Sequences whose records are gone, accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first of them; the last is the key.
    pub first: u64,
    /// Why.
    pub reason: Reason,
    /// Host observations that they had; 0 with records: unknown.
    pub hosts: u64,
    /// How many of these repeated what was known.
    pub confirmations: u64,
}

/// The spool as a whole. Keys count through the life of the file; a sequence is a key less `base`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Names the sequences.
    pub epoch: [u8; 16],
    /// The key before the epoch's first.
    pub base: u64,
    /// Keys up to here are acked.
    pub acked: u64,
    /// Keys up to here were acked once.
    pub ever: u64,
    /// The last key that was given out.
    pub last: u64,
    /// The spool's clock.
    pub clock_ms: u64,
    /// Starts of the process on this file.
    pub process: u32,
    /// What is not acked.
    pub unacked: Totals,
    /// What is acked and kept.
    pub kept: Totals,
    /// What was dropped unacked since the file was made: records gone whole, hosts, confirmations among these.
    pub dropped: [u64; 3],
    /// When was what acked.
    pub marks: AckMarks,
}

/// A record on its way out, its numbers still keys.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The key that it is sent under.
    pub key: u64,
    /// The first key that it stands for.
    pub first: u64,
    /// Where it came from; `None` for one that only stands for others.
    pub spooled: Option<Spooled>,
    /// What it, or those that it stands for, lost.
    pub dropped: Option<v1::Dropped>,
    /// What it takes up in the file.
    pub cost: u64,
}

/// The time that a record's age on the wire is counted from.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The spool's clock now.
    pub clock_ms: u64,
    /// This start of the process.
    pub process: u32,
    /// The spool's clock when this process opened it.
    pub opened_clock_ms: u64,
    /// This machine's clock then.
    pub opened_wall_ms: i64,
}

/// Differences of the wall clock beyond this are a clock that was set, not time that passed.
const MAX_AWAY_MS: u64 = 30 * 86_400_000;

impl Moment {
    /// How long a record has waited: by the monotonic clock within this process. What came before it waited also
    /// while nothing ran, as far as the wall clock can be believed.
    pub fn waited_ms(&self, spooled: &Spooled) -> u64 {
        if spooled.process == self.process {
            return self.clock_ms.saturating_sub(spooled.clock_ms);
        }
        let here = self.clock_ms.saturating_sub(self.opened_clock_ms);
        let away = self.opened_wall_ms.checked_sub(spooled.wall_ms).and_then(|ms| u64::try_from(ms).ok());
        here.saturating_add(away.filter(|ms| *ms < MAX_AWAY_MS).unwrap_or(0))
    }
}

impl Spooled {
    /// What the value has beside the encoded record.
    pub const OVERHEAD: usize = 33;

    /// The value under `key`.
    pub fn encode(&self, key: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(40 + self.record.encoded_len());
        out.extend(self.clock_ms.to_le_bytes());
        out.extend(self.wall_ms.to_le_bytes());
        out.extend(self.process.to_le_bytes());
        out.extend(self.hosts.to_le_bytes());
        out.extend(self.confirmations.to_le_bytes());
        // The only error is a buffer that is too small, and a vector grows.
        let _ = self.record.encode(&mut out);
        sealed(&key.to_be_bytes(), out)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`Damaged`] when it is not what was written under this key.
    pub fn decode(key: u64, value: &[u8]) -> Result<Self, Damaged> {
        let mut reader = Fields(unsealed(&key.to_be_bytes(), value)?);
        Ok(Self {
            clock_ms: reader.u64()?,
            wall_ms: i64::from_le_bytes(reader.take()?),
            process: reader.u32()?,
            hosts: reader.u32()?,
            confirmations: reader.u32()?,
            record: v1::Record::decode(reader.0).map_err(|_| Damaged)?,
        })
    }
}

impl Gap {
    /// The value under `key`.
    pub fn encode(&self, key: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(40);
        out.extend(self.first.to_le_bytes());
        out.extend((self.reason as i32).to_le_bytes());
        out.extend(self.hosts.to_le_bytes());
        out.extend(self.confirmations.to_le_bytes());
        sealed(&key.to_be_bytes(), out)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`Damaged`] when it is not what was written under this key.
    pub fn decode(key: u64, value: &[u8]) -> Result<Self, Damaged> {
        let mut reader = Fields(unsealed(&key.to_be_bytes(), value)?);
        Ok(Self {
            first: reader.u64()?,
            reason: Reason::try_from(i32::from_le_bytes(reader.take()?)).map_err(|_| Damaged)?,
            hosts: reader.u64()?,
            confirmations: reader.u64()?,
        })
    }
}

impl State {
    /// Of a file that is just made.
    pub fn new(epoch: [u8; 16]) -> Self {
        Self {
            epoch,
            base: 0,
            acked: 0,
            ever: 0,
            last: 0,
            clock_ms: 0,
            process: 0,
            unacked: Totals::default(),
            kept: Totals::default(),
            dropped: [0; 3],
            marks: AckMarks::default(),
        }
    }

    /// The value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        out.extend(self.epoch);
        out.extend(self.process.to_le_bytes());
        let numbers = [self.base, self.acked, self.ever, self.last, self.clock_ms];
        let totals = [self.unacked.records, self.unacked.bytes, self.kept.records, self.kept.bytes];
        let marks = self.marks.pairs().flat_map(|(at, key)| [at, key]);
        for number in numbers.into_iter().chain(totals).chain(self.dropped).chain(marks) {
            out.extend(number.to_le_bytes());
        }
        sealed(b"state", out)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`Damaged`] when it is not what was written.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut reader = Fields(unsealed(b"state", value)?);
        let mut state = Self::new(reader.take()?);
        state.process = reader.u32()?;
        let numbers =
            [&mut state.base, &mut state.acked, &mut state.ever, &mut state.last, &mut state.clock_ms];
        for number in numbers {
            *number = reader.u64()?;
        }
        let Totals { records, bytes } = &mut state.unacked;
        let Totals { records: kept, bytes: kept_bytes } = &mut state.kept;
        for number in [records, bytes, kept, kept_bytes].into_iter().chain(&mut state.dropped) {
            *number = reader.u64()?;
        }
        let (marks, _) = reader.0.as_chunks::<16>();
        state.marks = marks
            .iter()
            .map(|mark| {
                let mut mark = Fields(mark);
                Ok((mark.u64()?, mark.u64()?))
            })
            .collect::<Result<_, Damaged>>()?;
        let ordered = state.base <= state.acked && state.acked <= state.ever && state.ever <= state.last;
        if ordered { Ok(state) } else { Err(Damaged) }
    }
}

/// A small value of another kind, such as a scan's.
pub fn sealed(key: &[u8], body: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + body.len());
    out.push(VERSION);
    out.extend(checksum(key, &body).to_le_bytes());
    out.extend(body);
    out
}

/// The body of a sealed value.
///
/// # Errors
/// [`Damaged`] when it is not what was sealed under this key.
pub fn unsealed<'v>(key: &[u8], value: &'v [u8]) -> Result<&'v [u8], Damaged> {
    let (version, rest) = value.split_first().ok_or(Damaged)?;
    let (sum, body) = rest.split_first_chunk::<4>().ok_or(Damaged)?;
    if *version == VERSION && u32::from_le_bytes(*sum) == checksum(key, body) {
        Ok(body)
    } else {
        Err(Damaged)
    }
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&[VERSION]), key);
    crc32c::crc32c_append(sum, body)
}

struct Fields<'v>(&'v [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(Damaged)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u64(&mut self) -> Result<u64, Damaged> {
        self.take().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Damaged> {
        self.take().map(u32::from_le_bytes)
    }
}

/// What is told of several losses at once: their sums, and the gravest reason.
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses(Option<v1::Dropped>);

impl Losses {
    /// One more.
    pub fn add(&mut self, reason: Reason, records: u64, hosts: u64, confirmations: u64) {
        let all = self.0.get_or_insert_default();
        if gravity(reason) > gravity(all.reason()) {
            all.reason = reason.into();
        }
        all.records = all.records.saturating_add(records);
        all.hosts = all.hosts.saturating_add(hosts);
        all.confirmations = all.confirmations.saturating_add(confirmations);
    }

    /// All of them; `None` when there were none.
    pub fn all(self) -> Option<v1::Dropped> {
        self.0
    }
}

fn gravity(reason: Reason) -> u8 {
    match reason {
        Reason::Unspecified => 0,
        Reason::Expired => 1,
        Reason::Full => 2,
        Reason::Age => 3,
        Reason::Damaged => 4,
    }
}

/// Puts together what is sent under `key`, where everything before `expected` has gone already. `gaps` are the gaps
/// that end from `expected` to `key`, ascending by key; `value` is the record, if there is one. What is missing and
/// in no gap was acked once (`ever`) and has expired, or else is damage.
pub fn outgoing(expected: u64, key: u64, gaps: &[(u64, Gap)], value: Option<&[u8]>, ever: u64) -> Outgoing {
    let mut losses = Losses::default();
    let mut next = expected;
    let unexplained = |losses: &mut Losses, from: u64, to: u64| {
        // Both ends belong to it.
        let expired = (ever.min(to) + 1).saturating_sub(from);
        let damaged = (to + 1).saturating_sub(from).saturating_sub(expired);
        for (reason, records) in [(Reason::Expired, expired), (Reason::Damaged, damaged)] {
            if records > 0 {
                losses.add(reason, records, 0, 0);
            }
        }
    };
    for (end, gap) in gaps.iter().filter(|(end, _)| *end >= expected && *end <= key) {
        let first = gap.first.max(next);
        if first > next {
            unexplained(&mut losses, next, first - 1);
        }
        losses.add(gap.reason, (end + 1).saturating_sub(first), gap.hosts, gap.confirmations);
        next = end + 1;
    }
    let spooled = value.map(|value| Spooled::decode(key, value));
    let until = if matches!(spooled, Some(Ok(_))) { key } else { key + 1 };
    if next < until {
        unexplained(&mut losses, next, until - 1);
    }
    let spooled = spooled.and_then(Result::ok);
    if let Some(spooled) = spooled.as_ref().filter(|spooled| spooled.confirmations > 0) {
        let confirmations = u64::from(spooled.confirmations);
        losses.add(Reason::Full, 0, confirmations, confirmations);
    }
    Outgoing {
        key,
        first: expected,
        spooled,
        dropped: losses.all(),
        cost: value.map_or(0, |value| cost(value.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spooled() -> Spooled {
        Spooled {
            clock_ms: 5,
            wall_ms: -7,
            process: 2,
            hosts: 3,
            confirmations: 0,
            record: v1::Record {
                scan_id: vec![9; 16],
                body: Some(v1::record::Body::Observations(vec![1, 2, 3])),
                ..v1::Record::default()
            },
        }
    }

    fn gap(first: u64, hosts: u64) -> Gap {
        Gap { first, reason: Reason::Full, hosts, confirmations: 1 }
    }

    #[test]
    fn everything_reads_back_and_no_flipped_bit_does() {
        let value = spooled().encode(77);
        assert_eq!(Spooled::decode(77, &value), Ok(spooled()));
        assert_eq!(value.len(), Spooled::OVERHEAD + spooled().record.encoded_len());
        assert_eq!(Spooled::decode(78, &value), Err(Damaged), "a record under another key");
        let mut state = State::new([7; 16]);
        (state.last, state.ever, state.acked) = (9, 8, 7);
        state.marks = [(1, 2), (3, 4)].into_iter().collect();
        state.unacked = Totals { records: 4, bytes: 5 };
        state.dropped = [1, 2, 3];
        let encoded = state.encode();
        assert_eq!(State::decode(&encoded), Ok(state));
        let gapped = gap(3, 4).encode(5);
        assert_eq!(Gap::decode(5, &gapped), Ok(gap(3, 4)));
        for bit in 0..value.len() * 8 {
            let mut bad = value.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Spooled::decode(77, &bad), Err(Damaged), "bit {bit}");
        }
        for length in 0..encoded.len() {
            assert_eq!(State::decode(&encoded[..length]), Err(Damaged));
        }
    }

    #[test]
    fn waiting_is_counted_by_the_clock_that_can_be_believed() {
        let moment = Moment { clock_ms: 100, process: 2, opened_clock_ms: 90, opened_wall_ms: 1000 };
        assert_eq!(moment.waited_ms(&spooled()), 95);
        let before = |wall_ms| moment.waited_ms(&Spooled { process: 1, wall_ms, ..spooled() });
        assert_eq!(before(400), 610, "ten here, and 600 while nothing ran");
        assert_eq!(before(2000), 10, "from the future");
        assert_eq!(before(1000 - MAX_AWAY_MS as i64), 10, "a clock that was set");
        assert_eq!(before(i64::MIN), 10);
    }

    #[test]
    fn what_is_missing_is_accounted_for_with_the_next_record() {
        let value = spooled().encode(10);
        let plain = outgoing(10, 10, &[], Some(&value), 0);
        assert!(plain.dropped.is_none() && plain.first == 10 && plain.spooled.is_some());
        // 4 to 6 were dropped, 7 and 9 are nowhere, 8 was thinned to nothing.
        let all = outgoing(4, 10, &[(6, gap(4, 30)), (8, gap(8, 2))], Some(&value), 0);
        let dropped = all.dropped.unwrap();
        assert_eq!((all.first, dropped.records, dropped.hosts, dropped.confirmations), (4, 6, 32, 2));
        assert_eq!(dropped.reason(), Reason::Damaged);
        // The server has 5 already: of the gap only 6 is new to it.
        let rest = outgoing(6, 7, &[(6, gap(4, 30))], None, 7);
        let dropped = rest.dropped.unwrap();
        assert_eq!((dropped.records, dropped.reason()), (2, Reason::Full));
        // What was acked once has expired, the rest is damage.
        let expired = outgoing(3, 10, &[], Some(&value), 9).dropped.unwrap();
        assert_eq!((expired.records, expired.reason()), (7, Reason::Expired));
        let damaged = outgoing(10, 10, &[], Some(&value[1..]), 9);
        assert!(damaged.spooled.is_none());
        assert_eq!(damaged.dropped.unwrap().reason(), Reason::Damaged);
        let half = outgoing(1, 4, &[], None, 2).dropped.unwrap();
        assert_eq!((half.records, half.reason()), (4, Reason::Damaged));
        let thinned = Spooled { confirmations: 5, ..spooled() }.encode(10);
        let thinned = outgoing(10, 10, &[], Some(&thinned), 0).dropped.unwrap();
        assert_eq!((thinned.records, thinned.hosts, thinned.confirmations), (0, 5, 5));
    }
}

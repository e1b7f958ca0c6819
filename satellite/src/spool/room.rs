//! How the writer keeps the spool within its bounds: acked records go first, then what only confirms, then the oldest.
//! Every drop is accounted for in the same commit.

use super::file::{Fault, Limit, Tables};
use super::record::{Gap, Spooled};
use super::retention::{Step, Totals, cost, too_old};
use super::thinning::{MAX_ADDRESSES, Seen};
use super::writer::Writer;
use portolan_proto::v1::{dropped::Reason, record::Body};
use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// What a file system keeps for others.
const RESERVE: u64 = 64 << 20;
/// A spool below this may grow all the same.
const ALWAYS: u64 = 1 << 20;
/// Looked at in one commit while thinning or dropping.
const BATCH: Limit = Limit { records: 128, bytes: 2 << 20 };
/// Acked records that go in one commit.
const ACKED_AT_ONCE: usize = 256;
/// While the file system is nearly full, how long until it is looked again for what only confirms.
const WALK_PAUSE: Duration = Duration::from_millis(200);
/// A file that is mostly empty is made smaller when it is larger than this, …
const WORTH_COMPACTING: u64 = 16 << 20;
/// … and not more often than this.
const COMPACT_PAUSE: Duration = Duration::from_secs(600);

/// A walk over the unacked records, from the oldest on, that thins them.
#[derive(Debug)]
pub struct Walk {
    next: u64,
    seen: Seen,
    finished: bool,
}

impl Writer {
    /// Makes room for `need` more, and once it is short, for a tenth of the whole: not all at once where the need is
    /// met already. `false` when only the server's acks can.
    pub(super) fn make_room(&mut self, need: u64) -> Result<bool, Fault> {
        loop {
            let (enough, limit) = self.has_room(need);
            if enough && self.walk.is_none() {
                return Ok(true);
            }
            let target = (limit / 10 * 9).min(limit.saturating_sub(need));
            let finished = self.walk.as_ref().is_some_and(|walk| walk.finished);
            if finished {
                self.walked = Some((Instant::now(), self.shared.lock().last()));
            }
            // Without new records another walk would find nothing.
            let last = self.shared.lock().last();
            let lately = self.walked.is_some_and(|(at, key)| at.elapsed() < WALK_PAUSE || key == last);
            let thinned = finished || (self.frozen.is_some() && lately);
            match self.next_step(target, thinned) {
                Step::Enough => {
                    self.walk = None;
                    return Ok(true);
                }
                Step::Wait => {
                    self.walk = None;
                    return Ok(enough);
                }
                // Changes are not given up because somebody else filled the disk: whoever has more waits.
                Step::DropOldest if self.frozen.is_some() => {
                    self.walk = None;
                    return Ok(enough);
                }
                Step::DropAcked => {
                    let acked = self.shared.lock().acked();
                    self.drop_acked(acked)?;
                }
                Step::Thin => self.thin_some()?,
                Step::DropOldest => self.drop_oldest(Reason::Full, limit.saturating_sub(target))?,
            }
            // Whoever waits to push goes before thinning ahead.
            if enough {
                return Ok(true);
            }
        }
    }

    /// What records may take up: less than the settings say while the file system has little left for others.
    pub(super) fn limit(&mut self) -> u64 {
        let room = self.settings.room();
        let Some(free) = self.file.free() else { return room };
        if free >= RESERVE + RESERVE / 8 {
            if self.frozen.take().is_some() {
                tracing::info!("the file system has room again; the spool may grow");
            }
        } else if free < RESERVE && self.frozen.is_none() && self.file.bytes() > ALWAYS {
            let known = self.shared.lock();
            let live = known.unacked.bytes.saturating_add(known.kept.bytes);
            drop(known);
            tracing::warn!(
                free_mib = free >> 20,
                "the file system is nearly full: the spool does not grow, and drops what only confirms earlier \
                 results; make room, or give it a smaller `max_size`"
            );
            // What the file has and does not use takes nothing from anybody.
            self.frozen = Some(live.max(self.file.bytes() / 4 * 3).max(ALWAYS));
        }
        self.frozen.map_or(room, |frozen| room.min(frozen))
    }

    /// Acked records up to a key, the oldest first, some of them. `false` when there are no more.
    fn drop_acked(&mut self, up_to: u64) -> Result<bool, Fault> {
        let turn = self.turn.clone();
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        // The server may have gone back meanwhile.
        let up_to = up_to.min(self.shared.lock().acked());
        let mut state = self.shared.state(&self.marks);
        let gone = self.file.write(|tables| {
            let gone = tables.pop_oldest(up_to, ACKED_AT_ONCE)?;
            match gone {
                Some((totals, last)) => {
                    state.kept.remove(totals);
                    tables.forget_gaps(last)?;
                }
                None => state.kept = Totals::default(),
            }
            tables.put_state(&state)?;
            Ok(gone)
        })?;
        let mut known = self.shared.lock();
        match gone {
            Some((totals, _)) => known.kept.remove(totals),
            // Whatever was miscounted, there are none.
            None if up_to >= known.acked() => known.kept = Totals::default(),
            None => {}
        }
        Ok(gone.is_some())
    }

    fn thin_some(&mut self) -> Result<(), Fault> {
        let turn = self.turn.clone();
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (acked, floor, last, merge) = {
            let known = self.shared.lock();
            (known.acked(), known.floor(), known.last(), !known.flow.connected())
        };
        let mut walk = self.walk.take().unwrap_or_else(|| {
            tracing::warn!("the spool is full: what only confirms earlier results is dropped first");
            Walk { next: acked + 1, seen: Seen::new(MAX_ADDRESSES), finished: false }
        });
        let batch = self.file.read(|view| view.walk(walk.next..=last, BATCH))?;
        walk.finished = batch.len() < BATCH.records
            && batch.iter().map(|(_, value)| value.len()).sum::<usize>() < BATCH.bytes;
        walk.next = batch.last().map_or(walk.next, |(key, _)| key + 1);
        let mut changes = Vec::new();
        let (mut before, mut after, mut confirmations) = (Totals::default(), Totals::default(), 0);
        for (key, value) in batch {
            let Ok(mut spooled) = Spooled::decode(key, &value) else { continue };
            let Some(Body::Observations(hosts)) = &spooled.record.body else { continue };
            // What is on its way is only learned from.
            let Some(thinned) = walk.seen.thin(hosts).filter(|_| key > floor) else { continue };
            confirmations += u64::from(thinned.confirmations);
            before.add(cost(value.len()));
            spooled.hosts = thinned.kept;
            spooled.confirmations = spooled.confirmations.saturating_add(thinned.confirmations);
            if thinned.kept == 0 {
                let all = spooled.confirmations.into();
                changes.push(Err((
                    key,
                    Gap { first: key, reason: Reason::Full, hosts: all, confirmations: all },
                )));
                continue;
            }
            spooled.record.body = Some(Body::Observations(thinned.batch));
            let value = spooled.encode(key);
            after.add(cost(value.len()));
            changes.push(Ok((key, value)));
        }
        self.walk = Some(walk);
        if changes.is_empty() {
            return Ok(());
        }
        let mut state = self.shared.state(&self.marks);
        let whole = before.records - after.records;
        state.unacked.remove(before);
        state.unacked.plus(after);
        let dropped = [whole, confirmations, confirmations];
        add(&mut state.dropped, dropped);
        self.file.write(|tables| {
            for change in &changes {
                match change {
                    Ok((key, value)) => tables.put(*key, value)?,
                    Err((key, gap)) => {
                        tables.remove(*key)?;
                        put_gap(tables, *key, *gap, merge.then_some(acked))?;
                    }
                }
            }
            tables.put_state(&state)
        })?;
        let mut known = self.shared.lock();
        known.unacked.remove(before);
        known.unacked.plus(after);
        add(&mut known.dropped, dropped);
        Ok(())
    }

    /// Drops the oldest unacked records whole until `bytes` are free, or for their age while they are too old; one
    /// batch at most.
    fn drop_oldest(&mut self, reason: Reason, bytes: u64) -> Result<(), Fault> {
        let turn = self.turn.clone();
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (acked, floor, last, merge, clock_ms) = {
            let known = self.shared.lock();
            let clock_ms = self.shared.clock_ms(&known);
            (known.acked(), known.floor(), known.last(), !known.flow.connected(), clock_ms)
        };
        let batch = self.file.read(|view| view.walk(floor + 1..=last, BATCH))?;
        let Some(first) = batch.first().map(|(key, _)| *key) else {
            // Counted, but not there: only damage does that.
            let mut known = self.shared.lock();
            if known.floor() == known.acked() {
                known.unacked = Totals::default();
            }
            return Ok(());
        };
        let mut gone = Totals::default();
        let mut gap = Gap { first, reason, hosts: 0, confirmations: 0 };
        let mut keys = Vec::new();
        let max_age = self.settings.max_age;
        let _ = batch.iter().try_for_each(|(key, value)| {
            let spooled = Spooled::decode(*key, value).ok();
            let old = spooled.as_ref().is_none_or(|spooled| too_old(clock_ms, spooled.clock_ms, max_age));
            if (reason == Reason::Age && !old) || (reason == Reason::Full && gone.bytes >= bytes) {
                return ControlFlow::Break(());
            }
            gone.add(cost(value.len()));
            keys.push(*key);
            if let Some(spooled) = spooled {
                gap.hosts += u64::from(spooled.hosts) + u64::from(spooled.confirmations);
                gap.confirmations += u64::from(spooled.confirmations);
            }
            ControlFlow::Continue(())
        });
        let Some(end) = keys.last().copied() else { return Ok(()) };
        let dropped = [gone.records, gap.hosts - gap.confirmations, 0];
        tracing::warn!(
            records = gone.records,
            hosts = gap.hosts,
            "dropped the oldest records of the spool: {}",
            if reason == Reason::Age { "they are older than `max_age`" } else { "it is full" }
        );
        let mut state = self.shared.state(&self.marks);
        state.unacked.remove(gone);
        add(&mut state.dropped, dropped);
        self.file.write(|tables| {
            for key in &keys {
                tables.remove(*key)?;
            }
            put_gap(tables, end, gap, merge.then_some(acked))?;
            tables.put_state(&state)
        })?;
        let mut known = self.shared.lock();
        known.unacked.remove(gone);
        add(&mut known.dropped, dropped);
        Ok(())
    }

    /// What has been kept for long enough, acked or not.
    pub(super) fn drop_expired(&mut self, clock_ms: u64) -> Result<(), Fault> {
        if let Some(key) = self.marks.expired(clock_ms, self.settings.keep_acked) {
            let mut more = true;
            for _ in 0..8 {
                more = more && self.shared.lock().kept.records > 0 && self.drop_acked(key)?;
            }
            if !more {
                self.marks.forget(key);
            }
        }
        for _ in 0..8 {
            let (kept, acked) = {
                let known = self.shared.lock();
                (known.kept, known.acked())
            };
            if kept.bytes > self.settings.max_size / 2 {
                self.drop_acked(acked)?;
            }
        }
        let (floor, last) = {
            let known = self.shared.lock();
            (known.floor(), known.last())
        };
        let one = Limit { records: 1, bytes: 1 };
        let oldest = self.file.read(|view| view.walk(floor + 1..=last, one))?;
        let spooled = oldest.first().and_then(|(key, value)| Spooled::decode(*key, value).ok());
        if spooled.is_some_and(|oldest| too_old(clock_ms, oldest.clock_ms, self.settings.max_age)) {
            self.drop_oldest(Reason::Age, 0)?;
        }
        Ok(())
    }

    /// The engine uses freed pages again but keeps them. A file that was full once and is nearly empty now is made
    /// smaller, when nothing else is to be done.
    pub(super) fn compact_if_worth_it(&mut self) -> Result<(), Fault> {
        let bytes = self.file.bytes();
        let idle = {
            let known = self.shared.lock();
            let live = known.unacked.bytes.saturating_add(known.kept.bytes);
            let scanning = known.scans.values().any(|scan| scan.open);
            !scanning && known.flow.acked() == known.flow.last() && live < bytes / 8
        };
        let paused = self.compacted.is_some_and(|at| at.elapsed() < COMPACT_PAUSE);
        if bytes > WORTH_COMPACTING && idle && !paused {
            self.compacted = Some(Instant::now());
            self.file.compact()?;
            tracing::info!(before = bytes, after = self.file.bytes(), "the spool's file was made smaller");
        }
        Ok(())
    }
}

/// Notes a gap; beside an earlier one that nobody has been told of yet it becomes one with it.
fn put_gap(tables: &mut Tables<'_>, key: u64, mut gap: Gap, untold_above: Option<u64>) -> Result<(), Fault> {
    let before = gap.first - 1;
    if untold_above.is_some_and(|acked| before > acked)
        && let Some(earlier) = tables.take_gap(before)?
    {
        if earlier.reason == gap.reason && untold_above.is_some_and(|acked| earlier.first > acked) {
            gap.first = earlier.first;
            gap.hosts += earlier.hosts;
            gap.confirmations += earlier.confirmations;
        } else {
            tables.put_gap(before, earlier)?;
        }
    }
    tables.put_gap(key, gap)
}

fn add(counters: &mut [u64; 3], more: [u64; 3]) {
    for (counter, more) in counters.iter_mut().zip(more) {
        *counter = counter.saturating_add(more);
    }
}

//! How the writer keeps the spool within its bounds: acked records go first, then what only confirms, then the oldest;
//! ends of scans and how checks fare go last. Every drop is accounted for in the same commit.

use super::file::{Fault, Limit, Tables};
use super::record::{Gap, Spooled};
use super::retention::{Step, Totals, cost, too_old};
use super::shared::Known;
use super::thinning::{MAX_REMEMBERED, Seen};
use super::writer::Writer;
use portolan_proto::v1::{dropped::Reason, record::Body};
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

/// Whether there is room for what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Enough,
    /// Only the server's acks can make it.
    OnlyByAcks,
}

/// How far the oldest unsent records are known to be ends of scans, so that they are not read again for every drop.
#[derive(Clone, Copy, Debug)]
pub struct OnlyEnds {
    up_to: u64,
    /// In another generation other records may be unsent.
    generation: u64,
}

impl Writer {
    /// Makes room for `need` more, and once it is short, for a tenth of the whole: not all at once where the need is
    /// met already.
    pub(super) fn make_room(&mut self, need: u64) -> Result<Room, Fault> {
        loop {
            let (enough, limit) = self.has_room(need);
            if enough && self.walk.is_none() {
                return Ok(Room::Enough);
            }
            let as_it_is = if enough { Room::Enough } else { Room::OnlyByAcks };
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
                    return Ok(Room::Enough);
                }
                Step::Wait => {
                    self.walk = None;
                    return Ok(as_it_is);
                }
                // Changes are not given up because somebody else filled the disk: whoever has more waits.
                Step::DropOldest if self.frozen.is_some() => {
                    self.walk = None;
                    return Ok(as_it_is);
                }
                Step::DropAcked => {
                    let acked = self.shared.lock().acked();
                    self.drop_acked(acked)?;
                }
                Step::Thin => self.thin_some()?,
                Step::DropOldest => {
                    if !self.drop_oldest(Reason::Full, limit.saturating_sub(target))? {
                        self.walk = None;
                        return Ok(as_it_is);
                    }
                }
            }
            // Whoever waits to push goes before thinning ahead.
            if enough {
                return Ok(Room::Enough);
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
        let unsent = self.unsent.clone();
        let _unsent = unsent.lock().unwrap_or_else(PoisonError::into_inner);
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
        let unsent = self.unsent.clone();
        let _unsent = unsent.lock().unwrap_or_else(PoisonError::into_inner);
        let (acked, floor, last, merge) = {
            let known = self.shared.lock();
            (known.acked(), known.floor(), known.last(), !known.flow.connected())
        };
        let mut walk = self.walk.take().unwrap_or_else(|| {
            tracing::warn!("the spool is full: what only confirms earlier results is dropped first");
            Walk { next: acked + 1, seen: Seen::new(MAX_REMEMBERED), finished: false }
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

    /// From here on unsent records have to be looked at; before it are only ends of scans.
    fn after_ends(&self, known: &Known) -> u64 {
        let floor = known.floor();
        let passed = self.only_ends.filter(|passed| passed.generation == known.generation);
        passed.map_or(floor, |passed| passed.up_to.max(floor)) + 1
    }

    /// Drops the oldest unsent records whole until `bytes` are free, or for their age while they are too old; one
    /// batch at most. The ends of scans stay: somebody waits for them, and they are few. Only where nothing else is
    /// left do they go, and never for their age. So does what checks say of themselves, but for age. `false` when
    /// nothing came of it.
    fn drop_oldest(&mut self, reason: Reason, bytes: u64) -> Result<bool, Fault> {
        let unsent = self.unsent.clone();
        let _unsent = unsent.lock().unwrap_or_else(PoisonError::into_inner);
        let (acked, floor, from, last, generation, merge, clock_ms) = {
            let known = self.shared.lock();
            let (floor, from) = (known.floor(), self.after_ends(&known));
            let clock_ms = self.shared.clock_ms(&known);
            let merge = !known.flow.connected();
            (known.acked(), floor, from, known.last(), known.generation, merge, clock_ms)
        };
        let mut batch = self.file.read(|view| view.walk(from..=last, BATCH))?;
        let ends_too = batch.is_empty() && from > floor + 1 && reason == Reason::Full;
        if ends_too {
            batch = self.file.read(|view| view.walk(floor + 1..=last, BATCH))?;
        }
        if batch.is_empty() {
            // Counted, but not there: only damage does that.
            let mut known = self.shared.lock();
            let all = reason == Reason::Full && known.floor() == known.acked();
            if all {
                known.unacked = Totals::default();
            }
            return Ok(all);
        }
        let mut cut = Cut::default();
        let max_age = self.settings.max_age;
        for (key, value) in &batch {
            let spooled = Spooled::decode(*key, value).ok();
            let old = spooled.as_ref().is_none_or(|spooled| too_old(clock_ms, spooled.clock_ms, max_age));
            if (reason == Reason::Age && !old) || (reason == Reason::Full && cut.gone.bytes >= bytes) {
                break;
            }
            // How a check fares is told once and not again: what is small and has no other copy stays, too, but not
            // for ever, since a check may fare differently every minute.
            let stays = match spooled.as_ref().and_then(|spooled| spooled.record.body.as_ref()) {
                Some(Body::End(_)) => true,
                Some(Body::CheckStatus(_)) => reason == Reason::Full,
                _ => false,
            };
            if stays && !ends_too {
                cut.leave(*key);
            } else {
                cut.take(*key, value.len(), reason, spooled.as_ref());
            }
        }
        if !cut.keys.is_empty() {
            cut.say(reason, ends_too);
            let dropped = [cut.gone.records, cut.hosts, 0];
            let mut state = self.shared.state(&self.marks);
            state.unacked.remove(cut.gone);
            add(&mut state.dropped, dropped);
            self.file.write(|tables| {
                for key in &cut.keys {
                    tables.remove(*key)?;
                }
                for (end, gap) in &cut.gaps {
                    put_gap(tables, *end, *gap, merge.then_some(acked))?;
                }
                tables.put_state(&state)
            })?;
            let mut known = self.shared.lock();
            known.unacked.remove(cut.gone);
            add(&mut known.dropped, dropped);
        }
        if !ends_too && let Some(up_to) = cut.looked_at {
            self.only_ends = Some(OnlyEnds { up_to, generation });
        }
        Ok(true)
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
        let one = Limit { records: 1, bytes: 1 };
        for _ in 0..8 {
            let (from, last) = {
                let known = self.shared.lock();
                (self.after_ends(&known), known.last())
            };
            let oldest = self.file.read(|view| view.walk(from..=last, one))?;
            let spooled = oldest.first().and_then(|(key, value)| Spooled::decode(*key, value).ok());
            if !spooled.is_some_and(|oldest| too_old(clock_ms, oldest.clock_ms, self.settings.max_age)) {
                break;
            }
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

/// What is dropped of one batch: each run of records between two that stay is a gap of its own.
#[derive(Debug, Default)]
struct Cut {
    keys: Vec<u64>,
    /// By their last keys.
    gaps: Vec<(u64, Gap)>,
    /// The last record stayed.
    left: bool,
    looked_at: Option<u64>,
    gone: Totals,
    /// Hosts that the records still had.
    hosts: u64,
}

impl Cut {
    fn leave(&mut self, key: u64) {
        self.left = true;
        self.looked_at = Some(key);
    }

    fn take(&mut self, key: u64, length: usize, reason: Reason, spooled: Option<&Spooled>) {
        let (hosts, confirmations) =
            spooled.map_or((0, 0), |spooled| (spooled.hosts.into(), spooled.confirmations.into()));
        match self.gaps.last_mut().filter(|_| !self.left) {
            Some((end, gap)) => {
                *end = key;
                gap.hosts += hosts + confirmations;
                gap.confirmations += confirmations;
            }
            None => {
                self.gaps.push((key, Gap { first: key, reason, hosts: hosts + confirmations, confirmations }))
            }
        }
        self.left = false;
        self.looked_at = Some(key);
        self.keys.push(key);
        self.gone.add(cost(length));
        self.hosts += hosts;
    }

    fn say(&self, reason: Reason, ends: bool) {
        let records = self.gone.records;
        if ends {
            tracing::error!(
                records,
                "the spool is full of ends of scans, and the oldest were dropped: the server will not hear how these \
                 scans ended"
            );
        } else {
            tracing::warn!(
                records,
                hosts = self.hosts,
                "dropped the oldest records of the spool: {}",
                if reason == Reason::Age { "they are older than `max_age`" } else { "it is full" }
            );
        }
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

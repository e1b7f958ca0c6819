//! What the satellite's tasks and the writer's thread both know of the spool: numbers only, each change of them after
//! it is on the disk. Nobody holds the lock while the disk is busy.

use super::file::{Found, ScanEntry};
use super::flow::Flow;
use super::record::{Moment, State};
use super::retention::{AckMarks, SpoolSettings, Totals};
use portolan_common::ids::ScanId;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Scans that are remembered at most; of more, those that ended first are forgotten.
const MAX_SCANS: usize = 4096;

/// Where the time comes from.
pub struct Clock {
    monotonic: Box<dyn Fn() -> Duration + Send + Sync>,
    wall_ms: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl Clock {
    /// This machine's.
    pub fn system() -> Self {
        let start = std::time::Instant::now();
        Self::new(move || start.elapsed(), || jiff::Timestamp::now().as_millisecond())
    }

    /// Another: time since any fixed moment, and milliseconds since the Unix epoch, which may jump.
    pub fn new(
        monotonic: impl Fn() -> Duration + Send + Sync + 'static,
        wall_ms: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Self {
        Self { monotonic: Box::new(monotonic), wall_ms: Box::new(wall_ms) }
    }

    /// Milliseconds since the Unix epoch, as far as this machine knows.
    pub fn wall_ms(&self) -> i64 {
        (self.wall_ms)()
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from((self.monotonic)().as_millis()).unwrap_or(u64::MAX)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Shared {
    clock: Clock,
    max_in_flight_bytes: u64,
    pub known: Mutex<Known>,
}

/// The numbers.
#[derive(Debug)]
pub struct Known {
    pub epoch: [u8; 16],
    /// The key before the epoch's first sequence.
    pub base: u64,
    pub flow: Flow,
    pub unacked: Totals,
    pub kept: Totals,
    pub dropped: [u64; 3],
    pub scans: HashMap<ScanId, ScanEntry>,
    /// Why nothing is taken at the moment.
    pub error: Option<String>,
    /// What the file takes up.
    pub bytes: u64,
    /// Changes when what was read ahead is void.
    pub generation: u64,
    /// Keys up to here have been read for sending: what they hold is on its way.
    pub read_up_to: u64,
    /// Since the writer last looked, a server took back what it had acked beyond this key.
    pub unacked_beyond: Option<u64>,
    process: u32,
    /// The spool's clock and the monotonic one at the same moment, and this machine's.
    opened_clock_ms: u64,
    opened_monotonic_ms: u64,
    opened_wall_ms: i64,
}

impl Shared {
    pub fn new(settings: &SpoolSettings, clock: Clock, epoch: [u8; 16]) -> Self {
        let max_in_flight_bytes = settings.max_size / 4;
        let known = Known {
            epoch,
            base: 0,
            flow: Flow::new(0, 0, 0, max_in_flight_bytes),
            unacked: Totals::default(),
            kept: Totals::default(),
            dropped: [0; 3],
            scans: HashMap::new(),
            error: None,
            bytes: 0,
            generation: 0,
            read_up_to: 0,
            unacked_beyond: None,
            process: 0,
            opened_clock_ms: 0,
            opened_monotonic_ms: clock.monotonic_ms(),
            opened_wall_ms: clock.wall_ms(),
        };
        Self { clock, max_in_flight_bytes, known: Mutex::new(known) }
    }

    pub fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    /// The spool's clock: it stands still while nothing runs, and never jumps.
    pub fn clock_ms(&self, known: &Known) -> u64 {
        let here = self.clock.monotonic_ms().saturating_sub(known.opened_monotonic_ms);
        known.opened_clock_ms.saturating_add(here)
    }

    pub fn moment(&self, known: &Known) -> Moment {
        Moment {
            clock_ms: self.clock_ms(known),
            process: known.process,
            opened_clock_ms: known.opened_clock_ms,
            opened_wall_ms: known.opened_wall_ms,
        }
    }

    /// Takes over what a file says that was not known before.
    pub fn adopt(&self, found: &Found) {
        let state = &found.state;
        let known = &mut *self.lock();
        known.epoch = state.epoch;
        known.base = state.base;
        known.flow = Flow::new(
            state.acked - state.base,
            state.ever - state.base,
            state.last - state.base,
            self.max_in_flight_bytes,
        );
        (known.unacked, known.kept, known.dropped) = (state.unacked, state.kept, state.dropped);
        known.scans.clone_from(&found.scans);
        known.generation += 1;
        known.read_up_to = state.acked;
        known.unacked_beyond = None;
        known.process = state.process + 1;
        known.opened_clock_ms = state.clock_ms;
        known.opened_monotonic_ms = self.clock.monotonic_ms();
        known.opened_wall_ms = self.clock.wall_ms();
    }

    /// A new epoch for what is not acked.
    pub fn renumber(&self, epoch: [u8; 16]) {
        let known = &mut *self.lock();
        let last = known.last() - known.acked();
        known.base = known.acked();
        known.epoch = epoch;
        known.flow = Flow::fresh(last, self.max_in_flight_bytes);
        known.generation += 1;
        known.read_up_to = known.base;
    }

    /// The state as it is now, for the disk.
    pub fn state(&self, marks: &AckMarks) -> State {
        let known = self.lock();
        State {
            epoch: known.epoch,
            base: known.base,
            acked: known.acked(),
            ever: known.base + known.flow.ever(),
            last: known.last(),
            clock_ms: self.clock_ms(&known),
            process: known.process,
            unacked: known.unacked,
            kept: known.kept,
            dropped: known.dropped,
            marks: marks.clone(),
        }
    }
}

impl Known {
    /// The key up to which everything is acked.
    pub fn acked(&self) -> u64 {
        self.base + self.flow.acked()
    }

    /// The last key that was given out.
    pub fn last(&self) -> u64 {
        self.base + self.flow.last()
    }

    /// Keys above this are neither acked nor on their way.
    pub fn floor(&self) -> u64 {
        if self.flow.connected() { self.read_up_to.max(self.acked()) } else { self.acked() }
    }

    /// Records were acked.
    pub fn acknowledge(&mut self, acked: Totals) {
        self.unacked.remove(acked);
        self.kept.plus(acked);
        if self.flow.acked() == self.flow.last() {
            // Whatever was miscounted, now there is nothing.
            self.unacked = Totals::default();
        }
    }

    /// The scans to forget once `changed` is taken in and `settled` is out, so that no more than [`MAX_SCANS`] are
    /// left: those that ended, the first to end first.
    pub fn surplus_scans(&self, changed: &HashMap<ScanId, ScanEntry>, settled: &[ScanId]) -> Vec<ScanId> {
        let settled: HashSet<&ScanId> = settled.iter().collect();
        let staying = self.scans.keys().filter(|scan| !settled.contains(scan) && !changed.contains_key(scan));
        let surplus = (staying.count() + changed.len()).saturating_sub(MAX_SCANS);
        if surplus == 0 {
            return Vec::new();
        }
        let before = self.scans.iter().filter(|(scan, _)| !changed.contains_key(scan));
        let mut ended: Vec<(u64, ScanId)> = before
            .chain(changed)
            .filter(|(scan, entry)| !entry.open && !settled.contains(scan))
            .map(|(scan, entry)| (entry.last, *scan))
            .collect();
        ended.sort_unstable();
        ended.into_iter().take(surplus).map(|(_, scan)| scan).collect()
    }

    /// Scans that nobody has to be told of any more.
    pub fn settled_scans(&self) -> Vec<ScanId> {
        let acked = self.acked();
        self.scans.iter().filter(|(_, entry)| !entry.open && entry.last <= acked).map(|(id, _)| *id).collect()
    }
}

//! When each check runs. Intervals are counted by the monotonic clock, so that a wall clock that is set neither stops
//! nor bunches anything; times of day by the wall clock. No I/O, and every `now` is an argument.
//!
//! A check that comes again and again has a place of its own in its interval, derived from its name and the
//! satellite's: a thousand checks are spread over their interval, a thousand satellites over theirs, and a restart
//! changes neither. It never overlaps itself: turns that come while it still runs are missed.

use jiff::{SignedDuration, Timestamp};
use portolan_common::schedule::{Cron, Schedule};
use siphasher::sip::SipHasher13;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hasher as _;
use std::time::{Duration, Instant};

/// New checks, and those that a blackout held back, begin within this, or within their interval where that is shorter.
pub const SPREAD: Duration = Duration::from_secs(5);
/// How often the wall clock is looked at for checks that run at times of day.
const WALL_PERIOD: Duration = Duration::from_secs(1);
/// A wall clock that leaps further than this was wrong before: what lay in between is neither made up nor held back.
const CORRECTION: SignedDuration = SignedDuration::from_hours(3);
/// An interval counts as held again after so many turns without a miss.
const HELD: u32 = 3;

/// One check of one assignment; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(pub u64);

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic one.
    pub at: Instant,
    /// The wall clock, which may be set at any time.
    pub wall: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub struct Timetable {
    entries: HashMap<CheckId, Entry>,
    /// By the monotonic clock; what no entry expects any more is stale.
    turns: BinaryHeap<Reverse<(Instant, CheckId)>>,
    /// By the wall clock.
    times: BinaryHeap<Reverse<(Timestamp, CheckId)>>,
    /// The clocks when they were last looked at, and the latest that the wall clock said.
    last: Now,
    reached: Timestamp,
}

#[derive(Debug)]
struct Entry {
    repeats: Repeats,
    seed: u64,
    /// A turn beside the schedule.
    extra: Option<Instant>,
    running: bool,
    /// Once it ends it is to run again.
    once_more: bool,
    /// A blackout held it back.
    deferred: bool,
    pace: Pace,
}

#[derive(Debug)]
enum Repeats {
    Every { every: Duration, next: Instant },
    Cron(Box<Cron>),
}

/// Whether the interval is held.
#[derive(Debug, Default)]
struct Pace {
    /// Turns since it last began that came too early for it.
    missed: u32,
    /// Runs since it last missed one.
    held: u32,
    /// Intervals that it takes from one run to the next, while it holds none.
    takes: Option<u32>,
}

impl Timetable {
    /// Without checks.
    pub fn new(now: Now) -> Self {
        Self {
            entries: HashMap::new(),
            turns: BinaryHeap::new(),
            times: BinaryHeap::new(),
            last: now,
            reached: now.wall,
        }
    }

    /// A check that is new or changed. One with an interval runs at once, spread a little, and then as scheduled; one
    /// with times of day at those alone, since somebody chose them.
    pub fn add(&mut self, id: CheckId, schedule: &Schedule, seed: u64, now: Now) {
        let (repeats, extra) = match schedule {
            Schedule::Every(every) => {
                let every = (*every).max(Duration::from_millis(1));
                let soon = now.at + spread(seed, every);
                // With an interval as short as the spread, its own place in it is soon enough.
                let (next, extra) = if every <= SPREAD {
                    (now.at + until_turn(seed, every, now.wall), None)
                } else {
                    (soon + until_turn(seed, every, later(now.wall, soon - now.at)), Some(soon))
                };
                self.turns.push(Reverse((next, id)));
                (Repeats::Every { every, next }, extra)
            }
            Schedule::Cron(cron) => {
                if let Some(next) = cron.next_after(now.wall.max(self.reached)) {
                    self.times.push(Reverse((next, id)));
                }
                (Repeats::Cron(Box::new(cron.clone())), None)
            }
        };
        self.turns.extend(extra.map(|extra| Reverse((extra, id))));
        let (running, once_more, deferred, pace) = (false, false, false, Pace::default());
        self.entries.insert(id, Entry { repeats, seed, extra, running, once_more, deferred, pace });
    }

    /// A check that is no more.
    pub fn remove(&mut self, id: CheckId) {
        self.entries.remove(&id);
        // Turns that are a month away do not wait there for checks that were replaced long ago.
        let most = 4 * self.entries.len() + 64;
        if self.turns.len() > most {
            self.turns.retain(|Reverse((_, id))| self.entries.contains_key(id));
        }
        if self.times.len() > most {
            self.times.retain(|Reverse((_, id))| self.entries.contains_key(id));
        }
    }

    /// Wants a check to run now, beside its schedule; one that runs, once more when it ends.
    pub fn order(&mut self, id: CheckId, now: Now) {
        if let Some(entry) = self.entries.get_mut(&id) {
            if entry.running {
                entry.once_more = true;
            } else if entry.extra.is_none_or(|extra| extra > now.at) {
                // One that is due already is not noted again, however often it is ordered while nothing can begin.
                entry.extra = Some(now.at);
                self.turns.push(Reverse((now.at, id)));
            }
        }
    }

    /// The next check whose turn has come, which thereby runs, until [`Timetable::finished`] or
    /// [`Timetable::defer`]; `None` when no more are due.
    pub fn next_due(&mut self, now: Now) -> Option<CheckId> {
        self.look_at_the_wall(now);
        while let Some((at, id)) = pop_until(&mut self.turns, now.at) {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if entry.extra == Some(at) {
                entry.extra = None;
                if entry.running {
                    entry.once_more = true;
                } else {
                    entry.begin(false);
                    return Some(id);
                }
            } else if let Repeats::Every { every, next } = &mut entry.repeats
                && *next == at
            {
                // What passed while the process stood still is not made up.
                *next = at + after(now.at - at, *every);
                self.turns.push(Reverse((*next, id)));
                if entry.turn() {
                    return Some(id);
                }
            }
        }
        while let Some((at, id)) = pop_until(&mut self.times, now.wall) {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let Repeats::Cron(cron) = &entry.repeats else { continue };
            // From the latest time that was reached, so that each comes once.
            if let Some(next) = cron.next_after(self.reached.max(at)) {
                self.times.push(Reverse((next, id)));
            }
            if entry.turn() {
                return Some(id);
            }
        }
        None
    }

    /// A check's run ended.
    pub fn finished(&mut self, id: CheckId, now: Now) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.running = false;
            if std::mem::take(&mut entry.once_more) {
                entry.extra = Some(now.at);
                self.turns.push(Reverse((now.at, id)));
            }
        }
    }

    /// A check may not run, or not to its end, because of a blackout: it is to run when that is over.
    pub fn defer(&mut self, id: CheckId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            (entry.running, entry.once_more, entry.deferred) = (false, false, true);
        }
    }

    /// The blackout is over: what it held back runs, spread a little.
    pub fn resume(&mut self, now: Now) {
        for (id, entry) in &mut self.entries {
            // What a blackout made late says nothing of the interval.
            entry.pace.missed = 0;
            if std::mem::take(&mut entry.deferred) {
                let every = if let Repeats::Every { every, .. } = entry.repeats { every } else { SPREAD };
                let at = now.at + spread(entry.seed, every);
                entry.extra = Some(at);
                self.turns.push(Reverse((at, *id)));
            }
        }
    }

    /// How many intervals a check takes from one run to the next; `None` while it holds its interval.
    pub fn takes(&self, id: CheckId) -> Option<u32> {
        self.entries.get(&id)?.pace.takes
    }

    /// When to look again, at the latest; `None` when nothing will be due.
    pub fn wake(&self, now: Now) -> Option<Instant> {
        let turn = self.turns.peek().map(|Reverse((at, _))| *at);
        let time = self.times.peek().map(|Reverse((at, _))| {
            let wait = Duration::try_from(at.duration_since(now.wall)).unwrap_or_default();
            // The wall clock may be set meanwhile.
            now.at + wait.min(WALL_PERIOD)
        });
        turn.into_iter().chain(time).min()
    }

    /// Finds out whether the wall clock was set.
    fn look_at_the_wall(&mut self, now: Now) {
        let passed = SignedDuration::try_from(now.at - self.last.at).unwrap_or(SignedDuration::MAX);
        let leapt = now.wall.duration_since(self.last.wall).saturating_sub(passed);
        let behind = self.reached.duration_since(now.wall);
        self.last = now;
        if leapt > CORRECTION || behind > CORRECTION {
            self.reached = now.wall;
            self.times.clear();
            for (id, entry) in &self.entries {
                if let Repeats::Cron(cron) = &entry.repeats
                    && let Some(next) = cron.next_after(now.wall)
                {
                    self.times.push(Reverse((next, *id)));
                }
            }
        }
        self.reached = self.reached.max(now.wall);
    }
}

impl Entry {
    /// Its turn has come; whether it runs.
    fn turn(&mut self) -> bool {
        if self.running {
            self.pace.missed = self.pace.missed.saturating_add(1);
            return false;
        }
        self.begin(true);
        true
    }

    fn begin(&mut self, scheduled: bool) {
        self.running = true;
        self.deferred = false;
        if scheduled {
            self.pace.began();
        }
    }
}

impl Pace {
    fn began(&mut self) {
        let takes = std::mem::take(&mut self.missed).saturating_add(1);
        if takes == 1 {
            self.held = self.held.saturating_add(1);
            if self.held >= HELD {
                self.takes = None;
            }
            return;
        }
        self.held = 0;
        // A little more or less from one time to the next is no news.
        if self.takes.is_none_or(|told| takes > told || takes * 2 <= told) {
            self.takes = Some(takes);
        }
    }
}

/// The earliest, if its time has come.
pub fn pop_until<T: Ord + Copy, V: Ord>(heap: &mut BinaryHeap<Reverse<(T, V)>>, now: T) -> Option<(T, V)> {
    let due = heap.peek().is_some_and(|Reverse((at, _))| *at <= now);
    if due { heap.pop().map(|Reverse(entry)| entry) } else { None }
}

/// The place of a check on a satellite, out of their names: the same whenever and wherever it is asked for.
pub fn seed(satellite: &str, check: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    for name in [satellite, check] {
        hasher.write(name.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.finish()
}

/// How long a check that is to begin now waits, so that not all begin together.
fn spread(seed: u64, every: Duration) -> Duration {
    let spread = every.min(SPREAD);
    // Not the bits that give its place in the interval.
    part(seed.rotate_left(32), spread)
}

/// From 0 to less than `whole`, in milliseconds.
fn part(seed: u64, whole: Duration) -> Duration {
    let whole = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(seed % whole)
}

/// How long it is from `wall` to the check's place in its interval, counted from 1970.
fn until_turn(seed: u64, every: Duration, wall: Timestamp) -> Duration {
    let every_ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
    let place = i64::try_from(part(seed, every).as_millis()).unwrap_or(0);
    let into = wall.as_millisecond().rem_euclid(every_ms);
    Duration::from_millis((place - into).rem_euclid(every_ms).unsigned_abs())
}

/// The first multiple of `every` that is later than `late`.
fn after(late: Duration, every: Duration) -> Duration {
    let whole = late.as_nanos() / every.as_nanos().max(1) + 1;
    u32::try_from(whole).map_or_else(|_| late + every, |whole| every * whole)
}

fn later(wall: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| wall.saturating_add(by).ok()).unwrap_or(wall)
}

#[cfg(test)]
mod tests;

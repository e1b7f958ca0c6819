//! What is wrong with this server or with what it was sent, and should be known although nobody asked. What is wrong
//! now is looked up when somebody asks; what happened is noted here, in the store, and told for a week.

use crate::registry::Registry;
use crate::store::{Health, ProblemRecord, Store, StoreError};
use crate::uplink::Hub;
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::SatelliteId;
use portolan_proto::v1;
use portolan_proto::v1::problem::Severity;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How long something that happened is told.
const TOLD_FOR: SignedDuration = SignedDuration::from_hours(24 * 7);
/// Problems told at once.
const MAX_TOLD: usize = 200;
/// A clock that is more wrong than this is worth a word.
const SKEW_MS: i64 = 30_000;

/// What may have happened to a satellite's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The satellite was acked more than the server has.
    WentBack,
    /// The satellite has given out less than this server has.
    SatelliteWentBack,
    /// Sequences are missing that nobody accounts for.
    RecordsMissing,
    /// The satellite dropped observations, and says so.
    ObservationsDropped,
}

impl Event {
    /// As scripts know it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::WentBack => "server-went-back",
            Self::SatelliteWentBack => "satellite-went-back",
            Self::RecordsMissing => "records-missing",
            Self::ObservationsDropped => "observations-dropped",
        }
    }

    fn severity(self) -> Severity {
        match self {
            Self::WentBack | Self::RecordsMissing => Severity::Critical,
            Self::ObservationsDropped | Self::SatelliteWentBack => Severity::Warning,
        }
    }

    const ALL: [Self; 4] =
        [Self::WentBack, Self::SatelliteWentBack, Self::RecordsMissing, Self::ObservationsDropped];

    /// Whether every note is something new. A satellite says with every Hello how far a server went back.
    fn adds_up(self) -> bool {
        matches!(self, Self::RecordsMissing | Self::ObservationsDropped)
    }

    fn message(self, count: u64, satellite: &str) -> String {
        let records = counted(count, "record");
        match self {
            Self::WentBack => format!(
                "this server had acknowledged {records} more than it has now (was it restored from a backup, or its \
                 files from elsewhere?); the satellite was asked to send them again, and what it no longer keeps \
                 shows as a gap in `portolan satellite show {satellite}`"
            ),
            Self::SatelliteWentBack => format!(
                "this server has {records} more than the satellite ever gave out: its data directory was set back (a \
                 snapshot, a copy?); it goes on under new numbers, and what it saw twice may be told twice"
            ),
            Self::RecordsMissing => format!(
                "{records} never arrived, and the satellite does not account for that: what was seen at that time may \
                 be incomplete (see `portolan satellite show {satellite}`, and the satellite's log)"
            ),
            Self::ObservationsDropped => format!(
                "the satellite dropped at least {} before this server had them (`portolan satellite show {satellite}` \
                 says which and why); more room in its [spool] keeps more",
                counted(count, "host observation")
            ),
        }
    }
}

/// What the satellite did about a server that went back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaughtUp {
    /// All came again.
    Whole,
    /// What it still kept came again.
    WithGaps,
}

impl CaughtUp {
    fn message(self, count: u64, satellite: &str) -> String {
        let records = counted(count, "record");
        let lead = format!(
            "this server had acknowledged {records} more than it had then (was it restored from a backup, or its files \
             from elsewhere?)"
        );
        match self {
            Self::Whole => format!("{lead}; the satellite has sent all of that again, nothing is lost"),
            Self::WithGaps => format!(
                "{lead}; the satellite has sent again what it still kept, and the rest shows as a gap in `portolan \
                 satellite show {satellite}`"
            ),
        }
    }
}

/// What is wrong as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lasting {
    StoreFull,
    StoreFailed,
    SpoolError(SatelliteId),
}

/// See the module.
pub struct Problems {
    store: Store,
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    happened: Mutex<BTreeMap<(Event, SatelliteId), ProblemRecord>>,
    /// What is not written yet.
    noted: Mutex<BTreeSet<(Event, SatelliteId)>>,
    /// What is wrong at this moment, and since when.
    lasting: Mutex<BTreeMap<Lasting, Timestamp>>,
    /// Who caught up after this server went back, with the last note that it did.
    caught_up: Mutex<BTreeMap<SatelliteId, (i64, CaughtUp)>>,
    export: Mutex<Option<(Timestamp, String)>>,
    damage: Mutex<Option<(Timestamp, String)>>,
}

impl Problems {
    /// Reads what happened before.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn load(store: Store, registry: Arc<Registry>, hub: Arc<Hub>) -> Result<Self, StoreError> {
        let mut happened = BTreeMap::new();
        for record in store.problems()? {
            let event = Event::ALL.into_iter().find(|event| event.kind() == record.kind);
            if let (Some(event), Some(satellite)) = (event, SatelliteId::from_slice(&record.satellite)) {
                happened.insert((event, satellite), record);
            }
        }
        Ok(Self {
            store,
            registry,
            hub,
            happened: Mutex::new(happened),
            noted: Mutex::default(),
            lasting: Mutex::default(),
            caught_up: Mutex::default(),
            export: Mutex::default(),
            damage: Mutex::default(),
        })
    }

    fn happened(&self) -> MutexGuard<'_, BTreeMap<(Event, SatelliteId), ProblemRecord>> {
        lock(&self.happened)
    }

    /// Notes that something happened, `count` times more; of what is told again with every Hello the most counts. It
    /// is kept with the next [`Problems::flush`]: nothing that carries records waits for it.
    pub fn note(&self, event: Event, satellite: SatelliteId, count: u64, now: Timestamp) {
        let mut happened = self.happened();
        let old = happened.get(&(event, satellite)).filter(|old| !is_over(old, now));
        let known = old.map_or(0, |old| old.count);
        let record = ProblemRecord {
            kind: event.kind().to_owned(),
            satellite: satellite.as_bytes().to_vec(),
            first_at_ms: old.map_or(now.as_millisecond(), |old| old.first_at_ms),
            last_at_ms: now.as_millisecond(),
            count: if event.adds_up() { known.saturating_add(count) } else { known.max(count) },
        };
        happened.insert((event, satellite), record);
        lock(&self.noted).insert((event, satellite));
    }

    /// Looks what is wrong at this moment, so that it is known later since when; called every few seconds.
    fn look(&self, now: Timestamp) {
        let live = self.hub.all();
        let store = match self.store.health() {
            Health::Good => None,
            Health::Full { .. } => Some(Lasting::StoreFull),
            Health::Failed { .. } => Some(Lasting::StoreFailed),
        };
        let spools = live.iter().filter(|(_, live)| !live.spool_error.is_empty());
        let wrong: BTreeSet<Lasting> = spools.map(|(id, _)| Lasting::SpoolError(*id)).chain(store).collect();
        let mut lasting = lock(&self.lasting);
        lasting.retain(|what, _| wrong.contains(what));
        for what in wrong {
            lasting.entry(what).or_insert(now);
        }
        drop(lasting);
        // The note is made before the first heartbeat, which alone knows the spool's bytes: so this depth is a later one.
        let done = live.iter().filter(|(_, l)| l.spool_bytes > 0 && l.spool_depth == 0 && !l.replaying);
        for (id, _) in done {
            self.note_caught_up(*id, now);
        }
    }

    fn note_caught_up(&self, satellite: SatelliteId, now: Timestamp) {
        let note =
            self.happened().get(&(Event::WentBack, satellite)).filter(|old| !is_over(old, now)).cloned();
        let Some(note) = note else { return };
        let known = lock(&self.caught_up).get(&satellite).is_some_and(|(at, _)| *at == note.last_at_ms);
        if known {
            return;
        }
        // While the store does not say what was lost, nothing is said of it.
        let Ok(gaps) = self.store.gaps(satellite, 1) else { return };
        let whole = gaps.first().is_none_or(|gap| gap.at.as_millisecond() < note.first_at_ms);
        let how = if whole { CaughtUp::Whole } else { CaughtUp::WithGaps };
        lock(&self.caught_up).insert(satellite, (note.last_at_ms, how));
    }

    /// Writes what was noted since.
    ///
    /// # Errors
    /// When the store fails; it is written with the next call then.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.look(Timestamp::now());
        let noted = std::mem::take(&mut *lock(&self.noted));
        let records: Vec<_> = noted.iter().filter_map(|key| self.happened().get(key).cloned()).collect();
        if records.is_empty() {
            return Ok(());
        }
        let written = self.store.put_problems(records).await;
        if written.is_err() {
            lock(&self.noted).extend(noted);
        }
        written
    }

    /// The last logical export failed, or worked again.
    pub fn set_export(&self, failure: Option<(Timestamp, String)>) {
        *lock(&self.export) = failure;
    }

    /// Damage was found in the running store.
    pub fn set_damage(&self, now: Timestamp, what: String) {
        lock(&self.damage).get_or_insert((now, what));
    }

    /// Everything that is to be told, worst first.
    pub fn list(&self, now: Timestamp) -> Vec<v1::Problem> {
        self.look(now);
        let lasting = lock(&self.lasting).clone();
        let since = |what: Lasting| lasting.get(&what).map_or(0, |at| at.as_millisecond());
        let mut problems = Vec::new();
        let mut tell = |severity: Severity, kind: &str, subject: &str, message: String, since_at_ms: i64| {
            problems.push(v1::Problem {
                severity: severity.into(),
                kind: kind.to_owned(),
                subject: subject.to_owned(),
                message,
                since_at_ms,
            });
        };
        match self.store.health() {
            Health::Good => {}
            Health::Full { free, needed } => tell(
                Severity::Critical,
                "store-full",
                "",
                format!(
                    "the store's disk has {} free, {} needed: no observation is taken (the satellites keep them); free \
                     some space, or set `min_free` lower",
                    size(free),
                    size(needed)
                ),
                since(Lasting::StoreFull),
            ),
            Health::Failed { why } => tell(
                Severity::Critical,
                "store-failed",
                "",
                format!("the store cannot be written and is being opened again: {why}"),
                since(Lasting::StoreFailed),
            ),
        }
        if let Some((at, what)) = &*lock(&self.damage) {
            let message = format!("{what}: stop the server and run `portolan-server doctor`");
            tell(Severity::Critical, "store-damaged", "", message, at.as_millisecond());
        }
        if let Some((at, why)) = &*lock(&self.export) {
            let message = format!(
                "the last export of the store failed, so `doctor --repair` would have an older one: {why}"
            );
            tell(Severity::Warning, "export-failed", "", message, at.as_millisecond());
        }
        for ((event, satellite), record) in self.happened().iter() {
            if is_over(record, now) {
                continue;
            }
            let name = self.registry.get(*satellite).map(|record| record.name).unwrap_or_default();
            let caught_up = (*event == Event::WentBack)
                .then(|| lock(&self.caught_up).get(satellite).copied())
                .flatten()
                .filter(|(at, _)| *at == record.last_at_ms);
            let (severity, message) = match caught_up {
                Some((_, how)) => (Severity::Warning, how.message(record.count, &name)),
                None => (event.severity(), event.message(record.count, &name)),
            };
            tell(severity, event.kind(), &name, message, record.first_at_ms);
        }
        for (satellite, live) in self.hub.all() {
            let name = || self.registry.get(satellite).map(|record| record.name).unwrap_or_default();
            if !live.spool_error.is_empty() {
                let message =
                    format!("its spool takes nothing, so its scans stand still: {}", live.spool_error);
                tell(
                    Severity::Critical,
                    "spool-error",
                    &name(),
                    message,
                    since(Lasting::SpoolError(satellite)),
                );
            }
            if let Some(skew) = live.clock_skew_ms.filter(|skew| skew.abs() > SKEW_MS) {
                let way = if skew > 0 { "ahead of" } else { "behind" };
                let length = length(skew.unsigned_abs() / 1000);
                let message = format!(
                    "its clock is {length} {way} this server's; times are shown corrected, set the clock (NTP)"
                );
                tell(Severity::Warning, "clock-skew", &name(), message, 0);
            }
        }
        worst_first(&mut problems);
        problems
    }
}

/// Puts them in the order in which they are told, and drops what is too much.
pub fn worst_first(problems: &mut Vec<v1::Problem>) {
    problems.sort_by(|a, b| (b.severity, &a.kind, &a.subject).cmp(&(a.severity, &b.kind, &b.subject)));
    problems.truncate(MAX_TOLD);
}

fn is_over(record: &ProblemRecord, now: Timestamp) -> bool {
    let age = now.as_millisecond().saturating_sub(record.last_at_ms);
    i128::from(age) > TOLD_FOR.as_millis()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `1 record`, `4 records`.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `19.5 MiB`; rounded down, so that what is too little never looks like enough.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((name, unit)) = UNITS.into_iter().find(|(_, unit)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit)
}

/// `45 s`, `1 min 30 s`, `2 h 5 min`.
fn length(seconds: u64) -> String {
    let (first, second) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => ((seconds / 60, "min"), (seconds % 60, "s")),
        _ => ((seconds / 3600, "h"), (seconds % 3600 / 60, "min")),
    };
    match second {
        (0, _) => format!("{} {}", first.0, first.1),
        (n, unit) => format!("{} {} {n} {unit}", first.0, first.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sample;
    use portolan_common::ids::ProcessId;
    use uuid::Uuid;

    struct Fixture {
        problems: Problems,
        store: Store,
        hub: Arc<Hub>,
        _dir: tempfile::TempDir,
    }

    fn fixture(min_free: u64) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        Store::create(&path).unwrap();
        let store = Store::open(&path, min_free).unwrap();
        let registry = Arc::new(Registry::load(store.clone()).unwrap());
        let hub = Arc::new(Hub::default());
        let problems = Problems::load(store.clone(), registry, hub.clone()).unwrap();
        Fixture { problems, store, hub, _dir: dir }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    impl Fixture {
        fn join(&self, satellite: SatelliteId) -> crate::uplink::Joined {
            let address = "127.0.0.1:1".parse().unwrap();
            self.hub.join(satellite, address, &v1::Hello::default(), ProcessId(Uuid::nil()), at(0))
        }

        fn beat(&self, satellite: SatelliteId, session: u64, spool_depth: u64, spool_error: &str) {
            let beat = v1::Heartbeat {
                spool_depth,
                spool_bytes: 4096,
                spool_error: spool_error.into(),
                ..v1::Heartbeat::default()
            };
            self.hub.seen(satellite, session, at(0), Some(&beat));
        }

        fn only(&self, now: Timestamp) -> v1::Problem {
            let [problem] = <[_; 1]>::try_from(self.problems.list(now)).unwrap();
            problem
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!((counted(1, "record"), counted(2, "record")), ("1 record".into(), "2 records".into()));
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (20_447_232, "19.5 MiB"),
            ((20 << 20) - 1, "19.9 MiB"),
            (20 << 20, "20.0 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in
            [(31, "31 s"), (60, "1 min"), (90, "1 min 30 s"), (3_600, "1 h"), (7_512, "2 h 5 min")]
        {
            assert_eq!(length(seconds), text);
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_told_with_its_sizes_and_since_when() {
        let f = fixture(1 << 50);
        let mut health = f.store.watch_health();
        health.wait_for(|health| *health != Health::Good).await.unwrap();
        assert_eq!(f.only(at(5)).since_at_ms, at(5).as_millisecond());
        let told = f.only(at(60));
        assert_eq!((told.kind.as_str(), told.since_at_ms), ("store-full", at(5).as_millisecond()));
        assert!(told.message.contains(" free, 1024.0 TiB needed"), "{}", told.message);
    }

    #[tokio::test]
    async fn a_spool_that_takes_nothing_and_a_clock_that_is_off_are_told_until_they_are_well() {
        let (f, id) = (fixture(0), sample::satellite(0));
        let session = f.join(id).session;
        f.beat(id, session, 3, "no space");
        f.problems.look(at(1));
        assert_eq!(f.only(at(9)).since_at_ms, at(1).as_millisecond());
        f.beat(id, session, 3, "");
        assert!(f.problems.list(at(10)).is_empty());
        f.beat(id, session, 3, "no space");
        assert_eq!(f.only(at(11)).since_at_ms, at(11).as_millisecond());
        f.beat(id, session, 3, "");
        f.hub.skewed(id, session, -5_430_000);
        assert!(f.only(at(12)).message.starts_with("its clock is 1 h 30 min behind this server's"));
    }

    #[tokio::test]
    async fn a_server_that_went_back_is_critical_until_the_satellite_has_caught_up() {
        let (f, id) = (fixture(0), sample::satellite(0));
        let session = f.join(id).session;
        f.problems.note(Event::WentBack, id, 1, at(0));
        let told = f.only(at(1));
        assert_eq!(told.severity(), Severity::Critical, "no heartbeat yet");
        assert!(told.message.starts_with("this server had acknowledged 1 record more"), "{}", told.message);
        f.beat(id, session, 7, "");
        assert_eq!(f.only(at(2)).severity(), Severity::Critical);
        f.hub.replays(id, session, true);
        f.beat(id, session, 0, "");
        assert_eq!(f.only(at(3)).severity(), Severity::Critical);
        f.hub.replays(id, session, false);
        let told = f.only(at(4));
        assert_eq!(told.severity(), Severity::Warning);
        assert!(told.message.contains("has sent all of that again"), "{}", told.message);
        f.beat(id, session, 2, "");
        assert_eq!(f.only(at(5)).severity(), Severity::Warning, "what it sees now is something else");
        f.problems.note(Event::WentBack, id, 3, at(6));
        assert_eq!(f.only(at(7)).severity(), Severity::Critical, "it happened again");
    }

    #[tokio::test]
    async fn what_a_satellite_no_longer_kept_is_not_said_to_have_come_again() {
        let (f, id) = (fixture(0), sample::satellite(0));
        let session = f.join(id).session;
        f.problems.note(Event::WentBack, id, 4, at(0));
        // The first that is not there: a gap.
        f.store.ingest(sample::batch(0, 9, at(1))).await.unwrap();
        assert_eq!(f.store.gaps(id, 9).unwrap().len(), 1);
        f.beat(id, session, 0, "");
        let told = f.problems.list(at(2)).into_iter().find(|p| p.kind == "server-went-back").unwrap();
        assert_eq!(told.severity(), Severity::Warning);
        assert!(told.message.contains("what it still kept"), "{}", told.message);
    }
}

//! What is wrong with this server or with what it was sent, and should be known although nobody asked. What is wrong
//! now is looked up when somebody asks; what happened is noted here, in the store, and told for a week.

use crate::registry::Registry;
use crate::store::{Health, ProblemRecord, Store, StoreError};
use crate::uplink::Hub;
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::SatelliteId;
use portolan_proto::v1;
use portolan_proto::v1::problem::Severity;
use std::collections::BTreeMap;
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

    fn message(self, count: u64, satellite: &str) -> String {
        match self {
            Self::WentBack => format!(
                "this server had acknowledged {count} records more than it has now (was it restored from a backup, or \
                 its files from elsewhere?); the satellite was asked to send them again, and what it no longer keeps \
                 shows as a gap in `portolan satellite show {satellite}`"
            ),
            Self::SatelliteWentBack => format!(
                "this server has {count} records more than the satellite ever gave out: its data directory was set back \
                 (a snapshot, a copy?); it goes on under new numbers, and what it saw twice may be told twice"
            ),
            Self::RecordsMissing => format!(
                "{count} records never arrived, and the satellite does not account for them: what was seen at that \
                 time may be incomplete (see `portolan satellite show {satellite}`, and the satellite's log)"
            ),
            Self::ObservationsDropped => format!(
                "the satellite dropped at least {count} host observations before this server had them (`portolan \
                 satellite show {satellite}` says which and why); more room in its [spool] keeps more"
            ),
        }
    }
}

/// See the module.
pub struct Problems {
    store: Store,
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    happened: Mutex<BTreeMap<(Event, SatelliteId), ProblemRecord>>,
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
            export: Mutex::default(),
            damage: Mutex::default(),
        })
    }

    fn happened(&self) -> MutexGuard<'_, BTreeMap<(Event, SatelliteId), ProblemRecord>> {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something happened, `count` times more.
    pub async fn note(&self, event: Event, satellite: SatelliteId, count: u64, now: Timestamp) {
        let record = {
            let mut happened = self.happened();
            let old = happened.get(&(event, satellite)).filter(|old| !is_over(old, now));
            let record = ProblemRecord {
                kind: event.kind().to_owned(),
                satellite: satellite.as_bytes().to_vec(),
                first_at_ms: old.map_or(now.as_millisecond(), |old| old.first_at_ms),
                last_at_ms: now.as_millisecond(),
                count: old.map_or(0, |old| old.count).saturating_add(count),
            };
            happened.insert((event, satellite), record.clone());
            record
        };
        if let Err(error) = self.store.put_problem(record).await {
            tracing::warn!(%error, kind = event.kind(), "cannot keep a problem; it is told until the next restart");
        }
    }

    /// The last logical export failed, or worked again.
    pub fn set_export(&self, failure: Option<(Timestamp, String)>) {
        *self.export.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Damage was found in the running store.
    pub fn set_damage(&self, now: Timestamp, what: String) {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((now, what));
    }

    /// Everything that is to be told, worst first.
    pub fn list(&self, now: Timestamp) -> Vec<v1::Problem> {
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
                    "the store's disk has {free} bytes free and {needed} are needed: no observation is taken (the \
                     satellites keep them); free some space, or set `min_free` lower"
                ),
                0,
            ),
            Health::Failed { why } => tell(
                Severity::Critical,
                "store-failed",
                "",
                format!("the store cannot be written and is being opened again: {why}"),
                0,
            ),
        }
        if let Some((at, what)) = &*self.damage.lock().unwrap_or_else(PoisonError::into_inner) {
            let message = format!("{what}: stop the server and run `portolan-server doctor`");
            tell(Severity::Critical, "store-damaged", "", message, at.as_millisecond());
        }
        if let Some((at, why)) = &*self.export.lock().unwrap_or_else(PoisonError::into_inner) {
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
            tell(
                event.severity(),
                event.kind(),
                &name,
                event.message(record.count, &name),
                record.first_at_ms,
            );
        }
        for (satellite, live) in self.hub.all() {
            let name = || self.registry.get(satellite).map(|record| record.name).unwrap_or_default();
            if !live.spool_error.is_empty() {
                let message =
                    format!("its spool takes nothing, so its scans stand still: {}", live.spool_error);
                tell(Severity::Critical, "spool-error", &name(), message, 0);
            }
            if let Some(skew) = live.clock_skew_ms.filter(|skew| skew.abs() > SKEW_MS) {
                let way = if skew > 0 { "ahead of" } else { "behind" };
                let seconds = skew.unsigned_abs() / 1000;
                let message = format!(
                    "its clock is {seconds} s {way} this server's; times are shown corrected, set the clock (NTP)"
                );
                tell(Severity::Warning, "clock-skew", &name(), message, 0);
            }
        }
        problems.sort_by(|a, b| (b.severity, &a.kind, &a.subject).cmp(&(a.severity, &b.kind, &b.subject)));
        problems.truncate(MAX_TOLD);
        problems
    }
}

fn is_over(record: &ProblemRecord, now: Timestamp) -> bool {
    let age = now.as_millisecond().saturating_sub(record.last_at_ms);
    i128::from(age) > TOLD_FOR.as_millis()
}

//! Alerts: what is told of faults, to whom it is not told, and who has seen it. Pure: no I/O and no clock; `now` is an
//! argument. What must survive a restart comes out as documents ([`Alerts::take_writes`]), what happened as entries of
//! timelines ([`Alerts::take_timeline`]) and as changes for who watches ([`Alerts::take_events`]).
//!
//! Of each subject (a port or host of a check, a satellite, a check) there is one unresolved alert at most. It fires,
//! somebody may acknowledge it, it resolves by itself; when the same fires again within [`HOLD_OFF`] it is the same
//! alert, which nobody has acknowledged. Whatever holds one back (`hold`) is looked at again with every change: it stands in the list, pages nobody,
//! and is `released` when the last reason is gone and it still fires.

mod actions;
mod alert;
mod baselines;
mod changes;
mod context;
mod error;
mod hold;
mod index;
mod kept;
mod raise;
mod record;
mod silences;
#[cfg(test)]
mod tests;
mod wire;
mod words;

pub use actions::ListQuery;
pub use alert::{Acknowledgement, Alert, AlertName, Comment, Ending, Fault, Fingerprint, Subject};
pub use baselines::{Baseline, BaselineScope, HostPort, Survey};
pub use changes::{Anticipated, ExpectedChange, speaks_of};
pub use context::{Context, Reach, SatelliteName};
pub use error::{AlertsError, Thing};
pub use kept::Unreadable;
pub use silences::{Silence, read_matchers};
pub use wire::{AlertChange, ChangeKind, sight, transition};

use crate::evaluate::Key;
use crate::store::{DocumentWrite, Kind, TimelineWrite};
use hold::Outlook;
use index::Index;
use jiff::{SignedDuration, Timestamp};
use kept::Kept;
use portolan_common::ids::SatelliteId;
use portolan_proto::v1;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// What fires again within this time after it was resolved is the same alert.
pub const HOLD_OFF: SignedDuration = SignedDuration::from_mins(15);
/// How long a resolved alert is kept, …
pub const RESOLVED_FOR: SignedDuration = SignedDuration::from_hours(24 * 7);
/// … and how many are, the first to resolve going first.
pub const MAX_RESOLVED: usize = 10_000;
/// Alerts that may be unresolved. What would be one more is counted and not raised; the check says that it fires.
pub const MAX_UNRESOLVED: usize = 100_000;
/// Other alerts of the host that an alert names.
const MAX_OTHERS: usize = 20;

/// Makes ids: a UUIDv7 of that time.
pub type Ids = Box<dyn FnMut(Timestamp) -> Uuid + Send + Sync>;

/// How much of a check is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckCounts<'a> {
    /// Its name.
    pub check: &'a str,
    /// Expectations (address and port) without evidence that counts.
    pub unknown: u64,
}

/// See the module.
pub struct Alerts {
    context: Arc<Context>,
    ids: Ids,
    alerts: Kept<Alert>,
    silences: Kept<Silence>,
    changes: Kept<ExpectedChange>,
    baselines: Kept<Baseline>,
    /// Counts how often baselines changed.
    baselines_revision: u64,
    index: Index,
    /// Since when a satellite is offline; `None`: it is online. One that is not in it was not told of yet.
    presence: HashMap<SatelliteId, Option<Timestamp>>,
    /// Checks of which something is unknown.
    blind: HashMap<String, Blind>,
    outlook: Outlook,
    /// Alerts whose reasons for being held back may have changed.
    unsettled: BTreeSet<Uuid>,
    /// What happened since the last settling.
    happened: Happened,
    events: Vec<AlertChange>,
    /// How many changes there were.
    changed: u64,
    timeline: Vec<TimelineWrite>,
    /// How many alerts were not raised for want of room, and since when.
    not_raised: Option<(u64, Timestamp)>,
}

/// A check of which something is unknown.
struct Blind {
    since: Timestamp,
    /// Since when evidence is waited for: since then, or since one of its satellites last came.
    awaited_since: Timestamp,
    /// How long that is not told; found out when it is needed.
    patience: Option<SignedDuration>,
}

/// What happened to alerts and was not told yet, in order.
#[derive(Default)]
struct Happened {
    all: Vec<(ChangeKind, Uuid)>,
    concerned: HashSet<Uuid>,
    fired: HashSet<Uuid>,
}

impl Happened {
    fn push(&mut self, kind: ChangeKind, id: Uuid) {
        self.all.push((kind, id));
        self.concerned.insert(id);
        if kind == ChangeKind::Firing {
            self.fired.insert(id);
        }
    }

    /// Whether anything happened to it.
    fn concerns(&self, id: Uuid) -> bool {
        self.concerned.contains(&id)
    }
}

/// Ids from the system's random numbers.
pub fn random_ids() -> Ids {
    Box::new(|now| {
        let (seconds, nanoseconds) = (now.as_second(), now.subsec_nanosecond());
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let nanoseconds = u32::try_from(nanoseconds).unwrap_or(0);
        Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanoseconds))
    })
}

impl Alerts {
    /// None at all.
    pub fn new(ids: Ids) -> Self {
        Self {
            context: Arc::default(),
            ids,
            alerts: Kept::default(),
            silences: Kept::default(),
            changes: Kept::default(),
            baselines: Kept::default(),
            baselines_revision: 0,
            index: Index::default(),
            presence: HashMap::new(),
            blind: HashMap::new(),
            outlook: Outlook::default(),
            unsettled: BTreeSet::new(),
            happened: Happened::default(),
            events: Vec::new(),
            changed: 0,
            timeline: Vec::new(),
            not_raised: None,
        }
    }

    /// Everything from before a restart. `documents` reads all of a kind. Nothing is told of what stands there; the next
    /// step is [`Alerts::set_context`].
    ///
    /// # Errors
    /// When documents cannot be read, or one cannot be understood.
    pub fn load<E: From<Unreadable>>(
        mut documents: impl FnMut(Kind) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, E>,
        ids: Ids,
    ) -> Result<Self, E> {
        let mut alerts = Self {
            alerts: Kept::load(&documents(Kind::Alert)?)?,
            silences: Kept::load(&documents(Kind::Silence)?)?,
            changes: Kept::load(&documents(Kind::ExpectedChange)?)?,
            baselines: Kept::load(&documents(Kind::Baseline)?)?,
            ..Self::new(ids)
        };
        let replaced: Vec<Uuid> =
            alerts.alerts.values().filter_map(|alert| alerts.index.add(alert)).collect();
        // Never written so; if it stands there all the same, the newer one counts.
        for id in replaced {
            if let Some(alert) = alerts.alerts.change(&id) {
                alert.resolved = Some((alert.changed_at, Ending::NotExpected));
            }
        }
        Ok(alerts)
    }

    /// What is there from now on. Alerts get the labels and severities that the checks have now; what is not expected
    /// any more resolves.
    pub fn set_context(&mut self, context: Arc<Context>, now: Timestamp) {
        let now = record::moment(now);
        self.context = context.clone();
        let mut reach: HashMap<Arc<str>, Option<Reach>> = HashMap::new();
        let mut unresolved: Vec<Uuid> = self.index.unresolved().map(|(_, id)| id).collect();
        unresolved.sort_unstable();
        for id in unresolved {
            let Some(alert) = self.alerts.get(&id) else { continue };
            if !self.is_expected(alert, &mut reach) {
                self.resolve(id, Ending::NotExpected, now);
            } else {
                self.relabel(id, &context, now);
            }
            self.unsettled.insert(id);
        }
        self.presence.retain(|id, _| context.satellite(*id).is_some());
        self.blind.retain(|check, _| context.check(check).is_some());
        self.blind.values_mut().for_each(|blind| blind.patience = None);
        for id in self.presence.keys().copied().collect::<BTreeSet<_>>() {
            self.review_satellite(id, now);
        }
        self.refresh_outlook(now);
        self.settle(now);
    }

    /// The wall clock was set: what is waited for is no nearer and no further than it was.
    pub fn clock_was_set(&mut self, by: SignedDuration) {
        for Blind { since, awaited_since, .. } in self.blind.values_mut() {
            for at in [since, awaited_since] {
                *at = at.saturating_add(by).unwrap_or(*at);
            }
        }
    }

    /// What is there.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Whether the policy still expects what an alert says is not so.
    fn is_expected(&self, alert: &Alert, reach: &mut HashMap<Arc<str>, Option<Reach>>) -> bool {
        let key = match &alert.subject {
            Subject::Key(key) => key,
            Subject::Check(name) => return self.context.check(name).is_some_and(|check| !check.paused),
            Subject::Satellite(id) => {
                return self.context.satellite(*id).is_some() && self.context.duties(*id) > 0;
            }
        };
        let Some(check) = self.context.check(&key.check) else { return false };
        let reach = reach.entry(key.check.clone()).or_insert_with(|| Some(Reach::of(check)));
        let ports = match alert.name {
            AlertName::PortOpen => &check.ports.closed,
            AlertName::PortReachable => &check.ports.blocked,
            AlertName::BaselineNew | AlertName::BaselineVanished => &check.ports.watch,
            _ => &check.ports.open,
        };
        let port = key.port.is_none_or(|(protocol, port)| ports.contains(protocol, port));
        port && reach.as_ref().is_some_and(|reach| reach.contains(key.address, &alert.target))
    }

    fn relabel(&mut self, id: Uuid, context: &Context, now: Timestamp) {
        let Some(mut alert) = self.alerts.get(&id).filter(|alert| !alert.is_labelled(context)).cloned()
        else {
            return;
        };
        self.index.remove(&alert);
        alert.label(context);
        alert.changed_at = now;
        self.index.add(&alert);
        self.alerts.insert(alert);
        self.happened.push(ChangeKind::Changed, id);
    }

    /// An alert by its id.
    pub fn get(&self, id: Uuid) -> Option<&Alert> {
        self.alerts.get(&id)
    }

    /// The unresolved alert of a port or host.
    pub fn of_key(&self, key: &Key) -> Option<&Alert> {
        self.index.open(&Subject::Key(key.clone())).and_then(|id| self.alerts.get(&id))
    }

    /// The unresolved ones, in no order. What of them has a key fires in the evaluator too.
    pub fn unresolved(&self) -> impl ExactSizeIterator<Item = &Alert> {
        let ids: Vec<Uuid> = self.index.unresolved().map(|(_, id)| id).collect();
        let found: Vec<&Alert> = ids.into_iter().filter_map(|id| self.alerts.get(&id)).collect();
        found.into_iter()
    }

    /// What keeps alerts of a check back, ascending.
    pub fn held_back_by(&self, check: &str) -> BTreeSet<&str> {
        let alerts = self.index.of_check(check).filter_map(|id| self.alerts.get(&id));
        alerts.flat_map(|alert| alert.held_back_by.iter().map(String::as_str)).collect()
    }

    /// The number of the last change: what has a lower one is in what can be read now.
    pub fn last_change(&self) -> u64 {
        self.changed
    }

    /// What operators should know of the alerts themselves.
    pub fn problems(&self) -> Vec<v1::Problem> {
        let told = |(number, since): (u64, Timestamp)| v1::Problem {
            severity: v1::problem::Severity::Critical.into(),
            kind: "alerts-not-raised".to_owned(),
            message: format!(
                "{number} faults got no alert, since {MAX_UNRESOLVED} alerts were unresolved: `portolan check list` says \
                 which checks fire; what they expect is probably wrong, or split over too many ports"
            ),
            since_at_ms: since.as_millisecond(),
            ..v1::Problem::default()
        };
        self.not_raised.map(told).into_iter().collect()
    }

    /// Documents that changed since it was last asked.
    pub fn take_writes(&mut self) -> Vec<DocumentWrite> {
        let alerts = self.alerts.take_writes().chain(self.silences.take_writes());
        alerts.chain(self.changes.take_writes()).chain(self.baselines.take_writes()).collect()
    }

    /// Every transition since it was last asked, in order; the values are [`portolan_proto::v1::Transition`].
    pub fn take_timeline(&mut self) -> Vec<TimelineWrite> {
        std::mem::take(&mut self.timeline)
    }

    /// What happened to alerts since it was last asked, in order.
    pub fn take_events(&mut self) -> Vec<AlertChange> {
        std::mem::take(&mut self.events)
    }

    /// Looks again at what may hold each alert back whose reasons may have changed, and tells what happened.
    fn settle(&mut self, now: Timestamp) {
        if !self.outlook.holds_at(now) {
            self.refresh_outlook(now);
        }
        for id in std::mem::take(&mut self.unsettled) {
            let Some(alert) = self.alerts.get(&id).filter(|alert| alert.is_unresolved()) else { continue };
            let reasons = self.reasons(alert);
            if reasons == alert.held_back_by {
                continue;
            }
            let kind = match (alert.held_back_by.is_empty(), reasons.is_empty()) {
                (true, _) => ChangeKind::HeldBack,
                (_, true) => ChangeKind::Released,
                _ => ChangeKind::Changed,
            };
            // Who is told that it fires is told with it what holds it back.
            if !self.happened.fired.contains(&id) {
                self.happened.push(kind, id);
            }
            if let Some(alert) = self.alerts.change(&id) {
                alert.held_back_by = reasons;
                alert.changed_at = now;
            }
        }
        for (kind, id) in std::mem::take(&mut self.happened).all {
            if let Some(alert) = self.alerts.get(&id) {
                let alert = Arc::new(self.to_wire(alert));
                self.changed += 1;
                self.events.push(AlertChange { number: self.changed, kind, alert, at: now });
            }
        }
    }

    /// Why nobody is told of an alert, ascending.
    fn reasons(&self, alert: &Alert) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Subject::Key(key) = &alert.subject
            && matches!(alert.name, AlertName::PortNotOpen | AlertName::BaselineVanished)
        {
            let host = Subject::Key(Key { port: None, ..key.clone() });
            reasons.extend(self.index.open(&host).map(|_| format!("host {}", key.address)));
        }
        if let Subject::Check(name) = &alert.subject
            && let Some(check) = self.context.check(name)
        {
            let vantage_points = self.context.vantage_points(check);
            let offline = vantage_points.filter(|id| self.index.open(&Subject::Satellite(*id)).is_some());
            reasons.extend(offline.map(|id| format!("satellite {}", self.context.name_of(id))));
        }
        if let Some(check) = alert.subject.check() {
            let upstream = self.context.upstream(check).into_iter();
            let firing = upstream.filter(|check| self.index.faults(check) > 0);
            reasons.extend(firing.map(|check| format!("check {check}")));
        }
        self.outlook.reasons(alert, &self.context, &mut reasons);
        reasons.sort_unstable();
        reasons.dedup();
        reasons
    }

    /// Looks which silences, windows and changes hold back now.
    fn refresh_outlook(&mut self, now: Timestamp) {
        self.changes.end(now);
        let outlook = Outlook::new(&self.silences, &self.changes, &self.context, now);
        let difference = outlook.difference(&self.outlook);
        let unresolved = self.index.unresolved().map(|(_, id)| id);
        let concerned = |id: &Uuid| self.alerts.get(id).is_some_and(|alert| difference.concerns(alert));
        self.unsettled.extend(unresolved.filter(concerned));
        self.outlook = outlook;
    }

    /// An alert with what else fires on its host.
    fn to_wire(&self, alert: &Alert) -> v1::Alert {
        let of_host = self.index.of_host_of(alert).filter(|id| *id != alert.id);
        let others = of_host.filter_map(|id| self.alerts.get(&id)).take(MAX_OTHERS).map(words::other);
        alert.to_wire(&self.context, others.collect())
    }
}

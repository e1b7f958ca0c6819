//! Evaluation at work: what was committed goes through the evaluator, its transitions become alerts, what changed is
//! written and then told to whoever watches. All deciding is done in [`crate::evaluate`] and [`crate::alerts`]; this is
//! where they meet the clock, the store and the satellites' connections.
//!
//! After a restart nothing is replayed: alerts are read back, and what satellites see from then on confirms or ends
//! them. A fault that lasts is found again however the server died.

mod clock;
mod flush;
mod plan;
mod start;
#[cfg(test)]
mod tests;

use crate::alerts::{AlertChange, Alerts, AlertsError, CheckCounts, Context, SatelliteName};
use crate::evaluate::{Counts, Evaluator, Sighting, State, Transition};
use crate::policies::{Compiled, Policies};
use crate::registry::Registry;
use crate::store::{Order, SatelliteRecord, Store, StoreError};
use crate::uplink::Hub;
use clock::SteadyClock;
use flush::Unwritten;
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::SatelliteId;
use portolan_common::observation::HostObservation;
use portolan_policy::CompiledCheck;
use portolan_proto::v1;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;

/// How long a satellite may be away before its evidence counts no more: a restart or a short break is no event.
const OFFLINE_GRACE: Duration = Duration::from_secs(30);
/// How often evidence and windows are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often it is written up to when checks were looked at.
const COVERAGE: Duration = Duration::from_secs(60);
/// How many times its interval a check may take, for its evidence to count as long as that.
const MAX_SLOWNESS: u32 = 10;
/// What any check may take: a round over many silent ports is no matter of a second.
const SLOW_AT_LEAST: Duration = Duration::from_secs(60);
/// How often it is looked for blackouts, …
const DARKNESS: SignedDuration = SignedDuration::from_secs(5);
/// … and how long after one checks may take to be looked at again.
const AFTER_DARKNESS: SignedDuration = SignedDuration::from_mins(1);
/// Changes of alerts that may wait for somebody who watches.
const EVENTS: usize = 4096;
/// How long to wait before a write is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How long an operator waits for a write.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
pub struct Evaluation {
    inner: Mutex<Inner>,
    store: Store,
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    policies: Arc<Policies>,
    clock: SteadyClock,
    events: broadcast::Sender<AlertChange>,
    dirty: Notify,
    /// Up to where everything is durable, as [`Unwritten::added`] counts.
    durable: watch::Sender<u64>,
}

struct Inner {
    evaluator: Evaluator,
    alerts: Alerts,
    compiled: Arc<Compiled>,
    /// As [`Alerts::baselines_revision`] counts: which baselines the evaluator has.
    baselines: u64,
    unwritten: Unwritten,
    /// Satellites that are in a blackout, with when that was last seen.
    dark: HashMap<String, Timestamp>,
    /// When that was last looked at.
    darkness_at: Option<Timestamp>,
    /// Until when rare checks have been looked at, as it is written.
    covered: HashMap<(String, SatelliteId), Timestamp>,
    /// How far the wall clock was from steady time at the last tick.
    drift: SignedDuration,
    /// Who was connected at the last look, and since when that has been so.
    presence: HashMap<SatelliteId, Presence>,
}

#[derive(Clone, Copy, Debug)]
struct Presence {
    online: bool,
    since: Instant,
    /// As the evaluator was told; `None`: not yet.
    told: Option<bool>,
}

/// How many checks and alerts are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// 0: there is no policy.
    pub policy_version: u64,
    /// Checks that are as expected.
    pub ok: u64,
    /// Checks with a fault that is not confirmed.
    pub pending: u64,
    /// Checks with a fault.
    pub firing: u64,
    /// Checks of which something is not known.
    pub unknown: u64,
    /// Checks that an operator paused.
    pub paused: u64,
    /// Alerts of which somebody should be told.
    pub alerts_firing: u64,
    /// Alerts that somebody took on.
    pub alerts_acknowledged: u64,
    /// Alerts of which nobody is told.
    pub alerts_held_back: u64,
}

/// Hosts of one commit.
pub struct Arrival<'a> {
    /// Whose address space.
    pub tenant: &'a str,
    /// Who saw them.
    pub satellite: SatelliteId,
    /// When they came.
    pub received: Instant,
    /// The records that counted.
    pub records: Vec<ArrivedRecord<'a>>,
}

/// Hosts of one record.
pub struct ArrivedRecord<'a> {
    /// Its place in everything that the satellite ever sent.
    pub order: Order,
    /// How long it waited on the satellite.
    pub waited: Duration,
    /// It waited so long that it is history.
    pub late: bool,
    /// What it holds.
    pub hosts: &'a [HostObservation],
}

/// An action that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum AlterError {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] AlertsError),
    /// It holds, but is not written yet.
    #[error(
        "it was done, but could not be written within 10 s and will be as soon as the store takes writes: see the server's log"
    )]
    Unwritten,
}

impl Evaluation {
    /// Reads back what fired and what was announced.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(
        store: Store,
        registry: Arc<Registry>,
        hub: Arc<Hub>,
        policies: Arc<Policies>,
    ) -> Result<Self, StoreError> {
        let (wall, now) = (Timestamp::now(), Instant::now());
        let clock = SteadyClock::start(wall, now);
        let alerts = start::alerts(&store)?;
        let inner = Inner {
            evaluator: Evaluator::new(),
            alerts,
            compiled: Arc::default(),
            baselines: 0,
            unwritten: Unwritten::default(),
            dark: HashMap::new(),
            darkness_at: None,
            covered: HashMap::new(),
            drift: SignedDuration::ZERO,
            presence: HashMap::new(),
        };
        let compiled = policies.compiled();
        let evaluation = Self {
            inner: Mutex::new(inner),
            store,
            registry,
            hub,
            policies,
            clock,
            events: broadcast::Sender::new(EVENTS),
            dirty: Notify::new(),
            durable: watch::Sender::new(0),
        };
        evaluation.expect(compiled);
        evaluation.resume(now)?;
        Ok(evaluation)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what the policy now comes to.
    pub fn expect(&self, compiled: Arc<Compiled>) {
        let mut inner = self.inner();
        inner.compiled = compiled;
        self.review(&mut inner);
    }

    /// Tells the evaluator and the alerts what is expected now, and of whom.
    fn review(&self, inner: &mut Inner) {
        let (wall, now) = (Timestamp::now(), Instant::now());
        let satellites = self.satellites();
        let ids: HashMap<&str, SatelliteId> =
            satellites.iter().map(|(id, satellite)| (satellite.name.as_str(), *id)).collect();
        let compiled = inner.compiled.clone();
        let spec_of = |check: &CompiledCheck| {
            let baseline = inner.alerts.baseline_ports(&check.name);
            plan::spec_of(check, baseline, self.pace_of(check, wall), |name| ids.get(name).copied())
        };
        let specs = compiled.checks.iter().map(spec_of).collect();
        inner.baselines = inner.alerts.baselines_revision();
        let (checks, segments) = (compiled.checks.clone(), compiled.segments.clone());
        let former = self.registry.former().into_iter();
        let former = former.filter_map(|record| Some((SatelliteId::from_slice(&record.id)?, record.name)));
        let context = Context::new(checks, satellites, segments, compiled.maintenance.clone())
            .with_former(former.collect());
        let mut transitions = Vec::new();
        inner.evaluator.set_checks(specs, self.clock.at(now), &mut transitions);
        // First what the evaluator ends; what is left over is expected by nobody.
        self.conclude(inner, transitions);
        inner.alerts.set_context(Arc::new(context), wall);
        self.hand_on(inner);
    }

    /// What satellites need from one look to the next where they cannot keep to the schedule, as far as that is believed:
    /// evidence that is ten times as old as it should be is none, whatever they say.
    fn pace_of(&self, check: &CompiledCheck, now: Timestamp) -> Duration {
        let most = check.schedule.interval(now).saturating_mul(MAX_SLOWNESS).max(SLOW_AT_LEAST);
        self.policies.interval_needed(&check.name).min(most)
    }

    /// Satellites said anew how they fare with these checks.
    pub fn fares(&self, checks: &BTreeSet<String>) {
        let (wall, now) = (Timestamp::now(), self.clock.at(Instant::now()));
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut transitions = Vec::new();
        for check in checks.iter().filter_map(|check| inner.compiled.check(check)) {
            inner.evaluator.set_pace(&check.name, self.pace_of(check, wall), now, &mut transitions);
        }
        if !transitions.is_empty() {
            self.conclude(inner, transitions);
        }
    }

    /// The satellites that are there, by id.
    fn satellites(&self) -> BTreeMap<SatelliteId, SatelliteName> {
        let records = self.registry.list();
        let there = |record: &SatelliteRecord| record.revoked_at_ms == 0;
        let named = records.into_iter().filter(there).filter_map(|record| {
            let id = SatelliteId::from_slice(&record.id)?;
            let (name, segment, tenant) = (record.name, record.segment, record.tenant);
            Some((id, SatelliteName { name, segment, tenant }))
        });
        named.collect()
    }

    /// Takes in what was committed.
    pub fn observed(&self, arrival: &Arrival<'_>) {
        let now = self.clock.at(Instant::now());
        let received = self.clock.at(arrival.received);
        let mut transitions = Vec::new();
        let mut inner = self.inner();
        self.greet(&mut inner, arrival.satellite, now, &mut transitions);
        for record in &arrival.records {
            let waited = SignedDuration::try_from(record.waited).unwrap_or(SignedDuration::MAX);
            let at = received.saturating_sub(waited).unwrap_or(Timestamp::MIN);
            for host in record.hosts {
                let sighting = Sighting {
                    tenant: arrival.tenant,
                    satellite: arrival.satellite,
                    order: record.order,
                    at,
                    late: record.late,
                    host,
                };
                inner.evaluator.observe(&sighting, now, &mut transitions);
            }
        }
        if !transitions.is_empty() {
            self.conclude(&mut inner, transitions);
        }
    }

    /// Whoever sends is there, although the next tick has not seen it yet: what an outage held back would count for
    /// nothing otherwise. If it is gone again already, the tick says so.
    fn greet(
        &self,
        inner: &mut Inner,
        satellite: SatelliteId,
        now: Timestamp,
        transitions: &mut Vec<Transition>,
    ) {
        let presence = inner.presence.get_mut(&satellite);
        if let Some(presence) = presence.filter(|presence| presence.told == Some(false)) {
            presence.told = Some(true);
            inner.evaluator.set_online(satellite, true, now, transitions);
            inner.alerts.satellite(satellite, None, Timestamp::now());
            self.hand_on(inner);
        }
    }

    /// Makes alerts of transitions, and hands on what they changed.
    fn conclude(&self, inner: &mut Inner, transitions: Vec<Transition>) {
        let wall = Timestamp::now();
        let drift = self.clock.drift(wall, Instant::now());
        let told: Vec<Transition> = transitions.into_iter().map(|t| at_the_wall(t, drift)).collect();
        inner.alerts.apply(&told, wall);
        self.hand_on(inner);
    }

    fn hand_on(&self, inner: &mut Inner) {
        let (documents, timeline, events) =
            (inner.alerts.take_writes(), inner.alerts.take_timeline(), inner.alerts.take_events());
        if documents.is_empty() && timeline.is_empty() && events.is_empty() {
            return;
        }
        inner.unwritten.add(documents, timeline, events);
        self.dirty.notify_one();
    }

    /// Lets an operator change something; returns once it is durable.
    ///
    /// # Errors
    /// What `work` refuses, or that it is not written yet.
    pub async fn alter<T>(
        &self,
        work: impl FnOnce(&mut Alerts, Timestamp) -> Result<T, AlertsError>,
    ) -> Result<T, AlterError> {
        let (value, wanted) = {
            let mut inner = self.inner();
            let value = work(&mut inner.alerts, Timestamp::now())?;
            if inner.alerts.baselines_revision() != inner.baselines {
                self.review(&mut inner);
            }
            self.hand_on(&mut inner);
            (value, inner.unwritten.added())
        };
        let mut durable = self.durable.subscribe();
        let written = tokio::time::timeout(PATIENCE, durable.wait_for(|durable| *durable >= wanted)).await;
        match written {
            Ok(Ok(_)) => Ok(value),
            _ => Err(AlterError::Unwritten),
        }
    }

    /// Looks at the alerts.
    pub fn read<T>(&self, work: impl FnOnce(&Alerts, Timestamp) -> T) -> T {
        work(&self.inner().alerts, Timestamp::now())
    }

    /// Looks at what holds of the checks; its times go through [`Evaluation::shown`] before anybody sees them.
    pub fn look<T>(&self, work: impl FnOnce(&Evaluator, &Alerts) -> T) -> T {
        let inner = self.inner();
        work(&inner.evaluator, &inner.alerts)
    }

    /// How many checks and alerts are how.
    pub fn overview(&self) -> Overview {
        let inner = self.inner();
        let mut overview = Overview { policy_version: inner.compiled.version, ..Overview::default() };
        for check in &inner.compiled.checks {
            let state = inner.evaluator.counts(&check.name).map_or(State::Unknown, Counts::worst);
            *match state {
                _ if check.paused => &mut overview.paused,
                State::Ok => &mut overview.ok,
                State::Pending => &mut overview.pending,
                State::Firing => &mut overview.firing,
                State::Unknown => &mut overview.unknown,
            } += 1;
        }
        for alert in inner.alerts.unresolved() {
            *match alert.status() {
                _ if !alert.held_back_by.is_empty() => &mut overview.alerts_held_back,
                v1::alert::Status::Acknowledged => &mut overview.alerts_acknowledged,
                _ => &mut overview.alerts_firing,
            } += 1;
        }
        overview
    }

    /// A time of the evaluator by the wall clock as it now goes.
    pub fn shown(&self, steady: Timestamp) -> Timestamp {
        let drift = self.clock.drift(Timestamp::now(), Instant::now());
        steady.saturating_add(drift).unwrap_or(steady)
    }

    /// Every change of an alert from now on, once it is durable.
    pub fn subscribe(&self) -> broadcast::Receiver<AlertChange> {
        self.events.subscribe()
    }

    /// Takes up what the policy comes to and what time does, until it is stopped.
    pub async fn keep_until(&self, mut compiled: watch::Receiver<Arc<Compiled>>, stop: CancellationToken) {
        // Satellites that come and go need not make a difference to what the policy comes to: one may stand in the place
        // of another of the same name.
        let mut registered = self.registry.changes();
        registered.mark_changed();
        let mut covered = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        compiled.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = compiled.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let now = compiled.borrow_and_update().clone();
                    self.expect(now);
                }
                Ok(()) = registered.changed() => self.review(&mut self.inner()),
                _ = ticks.tick() => {
                    self.tick(Instant::now());
                    if covered.elapsed() >= COVERAGE {
                        covered = Instant::now();
                        self.note_coverage();
                    }
                }
            }
        }
        self.note_coverage();
    }

    fn tick(&self, now: Instant) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let (steady, wall) = (self.clock.at(now), Timestamp::now());
        let drift = self.clock.drift(wall, Instant::now());
        if drift != inner.drift {
            inner.alerts.clock_was_set(drift - inner.drift);
            inner.drift = drift;
        }
        let mut transitions = Vec::new();
        let joined = |id| self.registry.get(id).is_some_and(|record| record.enrolled_at_ms != 0);
        for (id, offline_since) in inner.note_presence(&self.hub, joined, now) {
            inner.evaluator.set_online(id, offline_since.is_none(), steady, &mut transitions);
            let since = offline_since.map(|since| {
                let since = SignedDuration::try_from(now.duration_since(since)).unwrap_or_default();
                wall.saturating_sub(since).unwrap_or(wall)
            });
            inner.alerts.satellite(id, since, wall);
        }
        inner.evaluator.tick(steady, &mut transitions);
        self.conclude(inner, transitions);
        inner.note_darkness(wall);
        let Inner { evaluator, alerts, compiled, dark, .. } = inner;
        // Who must not look is not asked why nothing was seen.
        let unknown = |check: &CompiledCheck| match evaluator.counts(&check.name) {
            Some(counts) if !check.satellites.iter().any(|satellite| dark.contains_key(satellite)) => {
                counts.unknown
            }
            _ => 0,
        };
        let counts = compiled.checks.iter().map(|c| CheckCounts { check: &c.name, unknown: unknown(c) });
        alerts.tick(counts, wall);
        self.hand_on(inner);
    }

    /// Writes what changed and tells it, until it is stopped and nothing is left.
    pub async fn write_until(&self, stop: CancellationToken) {
        let mut told_failing = false;
        loop {
            let group = {
                let mut inner = self.inner();
                (!inner.unwritten.is_empty()).then(|| inner.unwritten.take())
            };
            let Some(mut group) = group else {
                if stop.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = self.dirty.notified() => {}
                    () = stop.cancelled() => {}
                }
                continue;
            };
            match group.write(&self.store, Timestamp::now()).await {
                Ok(()) => {
                    told_failing = false;
                    for event in group.events.drain(..) {
                        // Nobody may be watching.
                        let _ = self.events.send(event);
                    }
                    self.durable.send_if_modified(|durable| {
                        let grows = group.up_to > *durable;
                        *durable = group.up_to.max(*durable);
                        grows
                    });
                }
                Err(error) => {
                    if !std::mem::replace(&mut told_failing, true) {
                        tracing::error!(%error, "alerts cannot be written now; trying again");
                    }
                    self.inner().unwritten.put_back(group);
                    if stop.is_cancelled() {
                        return;
                    }
                    let _ = tokio::time::timeout(RETRY, stop.cancelled()).await;
                }
            }
        }
    }
}

impl Inner {
    /// Which satellites are in a blackout, or were a moment ago; looked at now and then, since windows are long.
    fn note_darkness(&mut self, wall: Timestamp) {
        if self.darkness_at.is_some_and(|at| wall.duration_since(at).abs() < DARKNESS) {
            return;
        }
        self.darkness_at = Some(wall);
        let context = self.alerts.context().clone();
        for (_, satellite) in context.satellites() {
            if self.compiled.dark_until(&satellite.name, &satellite.segment, wall).is_some() {
                self.dark.insert(satellite.name.clone(), wall);
            }
        }
        self.dark.retain(|_, last| wall.duration_since(*last).abs() < AFTER_DARKNESS);
    }

    /// Who came (`None`) or went, and when, as far as it counts: coming at once, going after a while.
    fn note_presence(
        &mut self,
        hub: &Hub,
        joined: impl Fn(SatelliteId) -> bool,
        now: Instant,
    ) -> Vec<(SatelliteId, Option<Instant>)> {
        let context = self.alerts.context().clone();
        self.presence.retain(|id, _| context.satellite(*id).is_some());
        let mut changed = Vec::new();
        for (id, _) in context.satellites() {
            let online = hub.live(id).is_some();
            // One that never joined is awaited, not missed.
            if !online && !self.presence.contains_key(&id) && !joined(id) {
                continue;
            }
            let presence = self.presence.entry(id).or_insert(Presence { online, since: now, told: None });
            if presence.online != online {
                (presence.online, presence.since) = (online, now);
            }
            let due = online || now.duration_since(presence.since) >= OFFLINE_GRACE;
            if presence.told != Some(online) && due {
                presence.told = Some(online);
                changed.push((id, (!online).then_some(presence.since)));
            }
        }
        changed
    }
}

/// The same by the wall clock as it now goes.
fn at_the_wall(mut transition: Transition, drift: SignedDuration) -> Transition {
    if !drift.is_zero() {
        let shown = |at: &mut Timestamp| *at = at.saturating_add(drift).unwrap_or(*at);
        shown(&mut transition.at);
        shown(&mut transition.since);
        for sight in &mut transition.sights {
            shown(&mut sight.seen);
            shown(&mut sight.since);
        }
    }
    transition
}

//! From the policy to the satellites: compiled whenever something changes that it depends on, a revision for each
//! satellite whose own part changed, and a word to its session, which fetches the message when it can send it.

use super::assignments::{self, Assignments, Content};
use super::sources::{self, MAX_SOURCES, SourceId};
use super::{Compiled, Current, Policies, lock, world};
use crate::store::{DocumentWrite, Kind, SatelliteRecord, StoreError};
use crate::uplink::Live;
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_common::schedule::Window;
use portolan_policy::compile::blackouts;
use portolan_policy::model::TargetSource;
use portolan_policy::{CompiledCheck, Policy, World, compile};
use portolan_proto::{MAX_ASSIGNMENT_BYTES, v1};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often what is only noted in memory is written, and what failed is tried again.
const TICK: Duration = Duration::from_secs(5);
/// Without a source, how long until it is looked for one again, at the latest.
const IDLE: Duration = Duration::from_secs(3600);
/// Targets over all checks, those of sources counted for each check that has them.
const MAX_TARGETS: usize = 1 << 20;

/// What one satellite is to do.
struct Part {
    digest: Vec<u8>,
    blackouts: Vec<Window>,
    /// It does not run checks: it is assigned none.
    is_too_old: bool,
}

impl Policies {
    /// What is there, for a policy.
    pub(super) fn world(&self, policy: &Policy) -> World {
        self.world_with(self.sources.answers(policy))
    }

    fn world_with(&self, sources: BTreeMap<TargetSource, Vec<String>>) -> World {
        let satellites = self.registry.list().into_iter().filter(|record| record.revoked_at_ms == 0);
        let facts = |record: SatelliteRecord| {
            let id = record.satellite_id().ok()?;
            let (live, scope) = (self.hub.live(id), self.scopes.of(id));
            let facts = world::facts(&record, live.as_ref(), scope.as_ref());
            Some((record.name, facts))
        };
        World {
            satellites: satellites.filter_map(facts).collect(),
            sources,
            paused: lock(&self.paused).keys().cloned().collect(),
        }
    }

    /// Puts a version in force, or (`None`) compiles the one in force anew.
    pub(super) async fn publish(&self, next: Option<(u64, Arc<Policy>)>, now: Timestamp) {
        let _publishing = self.publishing.lock().await;
        let old = self.current.load_full();
        let (version, policy) = next.unwrap_or_else(|| (old.version, old.policy.clone()));
        let world = self.world(&policy);
        let compiling = policy.clone();
        let compiled = tokio::task::spawn_blocking(move || {
            let checks = compile(&compiling, &world);
            let assignments = Assignments::new(&checks);
            (Compiled::new(version, checks, &compiling), assignments)
        });
        let (compiled, assignments) = match compiled.await {
            Ok(compiled) => compiled,
            Err(error) => {
                tracing::error!(%error, version, "the policy could not be compiled; what was in force stays");
                return;
            }
        };
        let is_same = compiled == *old.compiled;
        let compiled = if is_same { old.compiled.clone() } else { Arc::new(compiled) };
        self.current.store(Arc::new(Current { version, policy, compiled: compiled.clone(), assignments }));
        if !is_same {
            self.compiled.send_replace(compiled);
        }
        self.assign().await;
        if let Err(error) = self.forget(now).await {
            tracing::warn!(%error, "what was known of checks that are gone could not be removed");
        }
    }

    /// Gives every satellite whose part changed the next revision, and tells its session.
    async fn assign(&self) {
        // Nothing is known of what a policy asks that cannot be read; nobody is told to stop for it.
        if lock(&self.unreadable).is_some() {
            return;
        }
        let current = self.current.load_full();
        let satellites = self.registry.list().into_iter().filter(|record| record.revoked_at_ms == 0);
        let wanted = satellites.filter_map(|record| {
            let id = record.satellite_id().ok()?;
            let part = self.part(&current, &record, self.hub.live(id).as_ref())?;
            Some((id, part.digest))
        });
        match self.registry.assign(wanted.collect()).await {
            Ok(assigned) => {
                self.is_unassigned.store(false, Ordering::Relaxed);
                for (satellite, revision) in assigned {
                    self.hub.assign(satellite, revision);
                }
            }
            Err(error) => self.assign_later(&error),
        }
    }

    fn assign_later(&self, error: &StoreError) {
        tracing::error!(%error, "satellites' assignments could not be written; trying again");
        self.is_unassigned.store(true, Ordering::Relaxed);
    }

    /// What a satellite is to do; `None`: it cannot be told, and goes on with what it has.
    fn part(&self, current: &Current, record: &SatelliteRecord, live: Option<&Live>) -> Option<Part> {
        let is_too_old = world::runs_checks(record, live) == Some(false);
        if is_too_old {
            return Some(Part { digest: Vec::new(), blackouts: Vec::new(), is_too_old });
        }
        if !current.assignments.fits(&record.name) {
            return None;
        }
        let blackouts: Vec<Window> =
            blackouts(&current.policy.blackouts, &record.name, &record.segment).cloned().collect();
        let digest = current.assignments.digest(&record.name, &blackouts);
        Some(Part { digest, blackouts, is_too_old })
    }

    /// What a connected satellite is to do, unless `has` is the revision of just that. A session asks when it begins
    /// and whenever the hub tells it to.
    pub async fn assignment(&self, satellite: SatelliteId, has: u64) -> Option<v1::Assignment> {
        if lock(&self.unreadable).is_some() {
            return None;
        }
        let _publishing = self.publishing.lock().await;
        let current = self.current.load_full();
        let mut record = self.registry.get(satellite)?;
        let part = self.part(&current, &record, self.hub.live(satellite).as_ref())?;
        let mut assigned = Ok(());
        if has > record.assignment_revision {
            assigned = self.registry.assign_beyond(satellite, has).await;
        }
        // It may have learned to run checks since its last revision.
        if part.digest != record.assignment_digest && assigned.is_ok() {
            assigned = self.registry.assign(vec![(satellite, part.digest)]).await.map(drop);
        }
        if let Err(error) = assigned {
            self.assign_later(&error);
            return None;
        }
        record = self.registry.get(satellite).unwrap_or(record);
        if record.assignment_revision == has {
            return None;
        }
        let content = if part.is_too_old {
            Content::default()
        } else {
            current.assignments.content(&record.name, &part.blackouts)
        };
        Some(assignments::assignment(&record, content))
    }

    /// Drops what is known of checks that are gone.
    async fn forget(&self, now: Timestamp) -> Result<(), StoreError> {
        let compiled = self.compiled();
        let gone = |name: &String| compiled.check(name).is_none();
        let resumed: Vec<String> = lock(&self.paused).keys().filter(|name| gone(name)).cloned().collect();
        if lock(&self.unreadable).is_some() {
            return Ok(());
        }
        if !resumed.is_empty() {
            let remove = |name: &String| DocumentWrite {
                kind: Kind::Paused,
                key: name.as_bytes().to_vec(),
                value: None,
            };
            self.store.put_documents(resumed.iter().map(remove).collect(), Vec::new(), now).await?;
            lock(&self.paused).retain(|name, _| !gone(name));
        }
        let names: BTreeMap<SatelliteId, String> = self
            .registry
            .list()
            .into_iter()
            .filter_map(|record| Some((record.satellite_id().ok()?, record.name)))
            .collect();
        let is_kept = |check: &str, satellite: SatelliteId| {
            let name = names.get(&satellite);
            compiled.check(check).zip(name).is_some_and(|(check, name)| check.satellites.contains(name))
        };
        self.statuses.prune(is_kept, now).await
    }

    /// Compiles anew when satellites come and go, and writes what is only noted in memory, until it is stopped.
    pub async fn keep_current(&self, stop: CancellationToken) {
        let mut changes = self.registry.changes();
        // Whoever came before this began to listen.
        changes.mark_changed();
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = changes.changed() => match changed {
                    Ok(()) => self.publish(None, Timestamp::now()).await,
                    Err(_) => break,
                },
                _ = tick.tick() => {
                    if self.is_unassigned.load(Ordering::Relaxed) {
                        self.publish(None, Timestamp::now()).await;
                    }
                    self.flush().await;
                }
            }
        }
        self.flush().await;
    }

    pub(super) async fn flush(&self) {
        let now = Timestamp::now();
        let is_kept = |id| self.registry.get(id).is_some_and(|record| record.removed_at_ms == 0);
        // What a version that is being applied has asked for is not forgotten before it is in force.
        let sources = match self.applying.try_lock() {
            Ok(_applying) => self.sources.flush(&self.policy(), now).await,
            Err(_) => Ok(()),
        };
        for written in [self.scopes.flush(is_kept, now).await, sources] {
            if let Err(error) = written {
                tracing::warn!(%error, "what satellites and sources said could not be written; trying again");
            }
        }
    }

    /// Asks the sources of the policy in force whenever that is due, until it is stopped.
    pub async fn refresh_sources(&self, stop: CancellationToken) {
        let mut changes = self.watch();
        loop {
            let policy = self.policy();
            let now = Instant::now();
            let (due, next) = self.sources.due(&policy, now);
            if !due.is_empty() {
                let refreshed = stop.run_until_cancelled(self.refresh(&policy, due)).await;
                if refreshed.is_none() {
                    return;
                }
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(next.map_or(IDLE, |next| next.saturating_duration_since(now))) => {}
            }
        }
    }

    /// Asks sources of a policy and takes over what they say. Compiles anew when that changed something.
    pub(super) async fn refresh(&self, policy: &Arc<Policy>, due: Vec<SourceId>) {
        let mut is_changed = false;
        for (id, said) in self.sources.ask(due).await {
            let mut said = said.map_err(|error| error.to_string());
            if let Ok(answer) = &said
                && !self.sources.says_already(&id, answer)
            {
                let world = self.world_with(self.sources.answers_with(policy, &id, answer));
                let policy = policy.clone();
                let fits = tokio::task::spawn_blocking(move || compose(&policy, &world).map(drop)).await;
                if let Ok(Err(why)) = fits {
                    said = Err(format!("what it says now is not taken over: {}", why.join("; ")));
                }
            }
            is_changed |= self.sources.take(&id, said, Instant::now(), Timestamp::now());
        }
        if is_changed {
            self.publish(None, Timestamp::now()).await;
        }
    }

    /// Asks those sources of a policy that never answered, so that it does not begin without their targets.
    pub(super) async fn ask_new_sources(&self, policy: &Policy) {
        for (id, said) in self.sources.ask(self.sources.unanswered(policy)).await {
            let said = said.map_err(|error| error.to_string());
            self.sources.take(&id, said, Instant::now(), Timestamp::now());
        }
    }
}

/// Compiles a policy that is not in force yet.
///
/// # Errors
/// Everything of it that is too large to be done.
pub(super) fn compose(
    policy: &Policy,
    world: &World,
) -> Result<(Vec<CompiledCheck>, Assignments), Vec<String>> {
    let sources = sources::wanted(policy).len();
    if sources > MAX_SOURCES {
        return Err(vec![format!("{sources} sources of targets are more than {MAX_SOURCES}")]);
    }
    let targets = policy.checks.values().flat_map(|check| &check.targets).map(|source| match source {
        TargetSource::Literal(_) => 1,
        source => world.sources.get(source).map_or(0, Vec::len),
    });
    let targets: usize = targets.sum();
    if targets > MAX_TARGETS {
        return Err(vec![format!("{targets} targets over all checks are more than {MAX_TARGETS}")]);
    }
    let checks = compile(policy, world);
    let assignments = Assignments::new(&checks);
    let too_large: Vec<String> = assignments
        .too_large()
        .iter()
        .map(|(satellite, bytes)| {
            let (has, may) = (bytes.div_ceil(1 << 20), MAX_ASSIGNMENT_BYTES >> 20);
            format!("satellite `{satellite}` would be assigned {has} MiB, and {may} MiB is the most")
        })
        .collect();
    if too_large.is_empty() { Ok((checks, assignments)) } else { Err(too_large) }
}

//! The policy in force: its versions, what it comes to with the satellites and sources that are there, and what each
//! satellite is asked to do for it.
//!
//! A new version is durable first and in force after ([`apply`]). Whenever something changes that the policy depends
//! on, it is compiled anew ([`publish`]): the checks go to whoever judges what is seen ([`Policies::watch`]), and every
//! satellite whose own part changed gets the next revision of its assignment.

mod apply;
mod assignments;
mod compiled;
mod problems;
mod publish;
mod report;
#[cfg(test)]
mod sample;
mod sources;
mod statuses;
#[cfg(test)]
mod tests;
mod versions;
mod world;

pub use apply::{Apply, PolicyError};
pub use compiled::Compiled;
pub use versions::Version;
pub use world::CHECKS;

use crate::registry::Registry;
use crate::store::{DocumentWrite, Kind, Store, StoreError};
use crate::uplink::Hub;
use arc_swap::ArcSwap;
use assignments::Assignments;
use ipnet::IpNet;
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_policy::{Policy, PolicyFile};
use portolan_proto::v1;
use prost::Message as _;
use sources::Sources;
use statuses::Statuses;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use world::Scopes;

/// See the module.
pub struct Policies {
    store: Store,
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    sources: Sources,
    scopes: Scopes,
    statuses: Statuses,
    /// Oldest first.
    versions: Mutex<VecDeque<Version>>,
    paused: Mutex<BTreeMap<String, Paused>>,
    current: ArcSwap<Current>,
    compiled: watch::Sender<Arc<Compiled>>,
    /// One new version at a time.
    applying: tokio::sync::Mutex<()>,
    /// What is compiled and what satellites are assigned change together.
    publishing: tokio::sync::Mutex<()>,
    /// Some satellite's revision could not be written; it is tried again.
    is_unassigned: AtomicBool,
    /// The stored policy that this version of the server cannot read. Satellites go on with what they have.
    unreadable: Mutex<Option<Unreadable>>,
}

/// What is in force.
#[derive(Default)]
struct Current {
    version: u64,
    policy: Arc<Policy>,
    compiled: Arc<Compiled>,
    assignments: Assignments,
}

/// Who paused a check.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Paused {
    /// The operator.
    #[prost(string, tag = "1")]
    pub operator: String,
    /// Milliseconds.
    #[prost(int64, tag = "2")]
    pub at_ms: i64,
}

#[derive(Clone, Debug)]
struct Unreadable {
    version: u64,
    since: Timestamp,
    why: String,
}

impl Policies {
    /// Reads the last version and puts it in force. `directory` is where `file_sd` sources are read.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(
        store: Store,
        registry: Arc<Registry>,
        hub: Arc<Hub>,
        directory: Option<PathBuf>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let versions = versions::load(&store)?;
        let mut unreadable = None;
        let mut policy = Arc::default();
        let version = versions.back().map_or(0, |version| version.number);
        if let Some(newest) = versions.back() {
            match read_version(&store, newest)? {
                Ok(read) => policy = Arc::new(read),
                Err(why) => {
                    tracing::error!(version, why, "the policy in force cannot be read");
                    unreadable = Some(Unreadable { version, since: now, why });
                }
            }
        }
        let paused = store.documents(Kind::Paused)?.into_iter().filter_map(|(name, bytes)| {
            Some((String::from_utf8(name).ok()?, Paused::decode(bytes.as_slice()).ok()?))
        });
        let policies = Self {
            sources: Sources::load(store.clone(), directory)?,
            scopes: Scopes::load(store.clone())?,
            statuses: Statuses::load(store.clone())?,
            versions: Mutex::new(versions),
            paused: Mutex::new(paused.collect()),
            current: ArcSwap::default(),
            compiled: watch::Sender::new(Arc::default()),
            applying: tokio::sync::Mutex::default(),
            publishing: tokio::sync::Mutex::default(),
            is_unassigned: AtomicBool::new(false),
            unreadable: Mutex::new(unreadable),
            store,
            registry,
            hub,
        };
        policies.publish(Some((version, policy)), now).await;
        Ok(policies)
    }

    /// What the policy comes to, now and whenever that changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Compiled>> {
        self.compiled.subscribe()
    }

    /// What the policy comes to.
    pub fn compiled(&self) -> Arc<Compiled> {
        self.current.load().compiled.clone()
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.current.load().policy.clone()
    }

    /// Every version that is kept, newest first.
    pub fn versions(&self) -> Vec<Version> {
        lock(&self.versions).iter().rev().cloned().collect()
    }

    /// A version and its files; 0: the one in force.
    ///
    /// # Errors
    /// [`PolicyError::NoVersion`], or when the store cannot be read.
    pub async fn version(&self, number: u64) -> Result<(Version, Vec<PolicyFile>), PolicyError> {
        let version = {
            let versions = lock(&self.versions);
            let found = match number {
                0 => versions.back(),
                number => versions.iter().find(|version| version.number == number),
            };
            let kept = versions.front().map(|oldest| oldest.number).zip(versions.back().map(|v| v.number));
            found.cloned().ok_or(PolicyError::NoVersion { number, kept })?
        };
        let (store, number) = (self.store.clone(), version.number);
        let files = tokio::task::spawn_blocking(move || versions::files(&store, number)).await??;
        Ok((version, files.ok_or(PolicyError::Unreadable { number })?))
    }

    /// Pauses a check (`Some`: who) or resumes it. Says whether there is such a check.
    ///
    /// # Errors
    /// When the store fails; then nothing changed.
    pub async fn set_paused(
        &self,
        check: &str,
        operator: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        // A version that drops the check forgets that it was paused.
        let _applying = self.applying.lock().await;
        if self.compiled().check(check).is_none() {
            return Ok(false);
        }
        let paused =
            operator.map(|operator| Paused { operator: operator.to_owned(), at_ms: now.as_millisecond() });
        if paused.is_some() == lock(&self.paused).contains_key(check) {
            return Ok(true);
        }
        let value = paused.as_ref().map(Paused::encode_to_vec);
        let document = DocumentWrite { kind: Kind::Paused, key: check.as_bytes().to_vec(), value };
        self.store.put_documents(vec![document], Vec::new(), now).await?;
        match paused {
            Some(paused) => lock(&self.paused).insert(check.to_owned(), paused),
            None => lock(&self.paused).remove(check),
        };
        self.publish(None, now).await;
        Ok(true)
    }

    /// Who paused a check; `None`: it runs.
    pub fn paused(&self, check: &str) -> Option<Paused> {
        lock(&self.paused).get(check).cloned()
    }

    /// Notes what a satellite says of its scope file; written a little later.
    pub fn note_scope(&self, satellite: SatelliteId, report: &v1::ScopeReport) {
        self.scopes.note(satellite, report);
    }

    /// Keeps what a satellite says of its checks, the last of each, and returns once that is on the disk. What it says
    /// of a check that it does not have is passed over.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn note_statuses(
        &self,
        satellite: SatelliteId,
        mut statuses: Vec<v1::CheckStatus>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(record) = self.registry.get(satellite) else { return Ok(()) };
        let compiled = self.compiled();
        statuses.retain(|status| {
            compiled.check(&status.check).is_some_and(|check| check.satellites.contains(&record.name))
        });
        self.statuses.note(satellite, statuses, now).await
    }

    /// What a satellite last said of a check.
    pub fn status(&self, check: &str, satellite: SatelliteId) -> Option<v1::CheckStatus> {
        self.statuses.of(check, satellite)
    }

    /// The longest interval that satellites need for a check whose own they cannot hold; zero: they hold it.
    pub fn interval_needed(&self, check: &str) -> Duration {
        self.statuses.interval_needed(check)
    }

    /// The networks of every segment of a tenant.
    pub fn cidrs(&self, tenant: &str) -> Vec<IpNet> {
        self.compiled().cidrs_of(tenant).collect()
    }
}

/// The policy of a stored version, as it was read when it was applied: an exception that has run out since makes no
/// mistake of it. Or why it cannot be read.
fn read_version(store: &Store, version: &Version) -> Result<Result<Policy, String>, StoreError> {
    let Some(files) = versions::files(store, version.number)? else {
        return Ok(Err("its files are not there".to_owned()));
    };
    Ok(portolan_policy::read(&files, version.applied_at())
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Where targets come from beside the policy itself: inventories that people have already. Each source is asked again
//! and again; while it fails, what it last said holds.

mod discovery;
mod fetch;

pub use discovery::Answer;
use fetch::Asker;
pub use fetch::SourceError;

use crate::store::{DocumentWrite, Kind, Store, StoreError};
use jiff::Timestamp;
use portolan_policy::Policy;
use portolan_policy::model::TargetSource;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// Sources of one policy at most.
pub const MAX_SOURCES: usize = 1000;
/// Sources that are asked at the same time.
const AT_ONCE: usize = 8;

/// A source, however often it is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceId {
    /// A pattern of files.
    File(String),
    /// A URL.
    Http(String),
}

impl SourceId {
    /// The source behind a check's targets and how often it is asked; `None`: they stand in the policy.
    pub fn of(source: &TargetSource) -> Option<(Self, Duration)> {
        match source {
            TargetSource::Literal(_) => None,
            TargetSource::FileSd { file, refresh } => Some((Self::File(file.clone()), *refresh)),
            TargetSource::HttpSd { url, refresh } => Some((Self::Http(url.clone()), *refresh)),
        }
    }

    /// Its document's key: a URL may be longer than a key.
    fn key(&self) -> Vec<u8> {
        crate::pki::authority::sha256(self.to_string().as_bytes()).to_vec()
    }
}

/// As an operator knows it: `file_sd web/*.json`.
impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "file_sd {file}"),
            Self::Http(url) => write!(f, "http_sd {url}"),
        }
    }
}

/// A source that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Since when.
    pub since: Timestamp,
    /// Why, and what holds meanwhile.
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    /// The last good answer; `None`: there was none.
    targets: Option<Vec<String>>,
    answered_at: Option<Timestamp>,
    failing: Option<(Timestamp, String)>,
    /// When it was last asked by this process.
    asked: Option<Instant>,
}

/// A source as it is kept.
#[derive(Clone, PartialEq, prost::Message)]
struct SourceRecord {
    /// `file_sd …` or `http_sd …`.
    #[prost(string, tag = "1")]
    source: String,
    #[prost(string, repeated, tag = "2")]
    targets: Vec<String>,
    /// Milliseconds; 0: it never answered.
    #[prost(int64, tag = "3")]
    answered_at_ms: i64,
    /// Milliseconds; 0: it does not fail.
    #[prost(int64, tag = "4")]
    failing_since_ms: i64,
    #[prost(string, tag = "5")]
    why: String,
}

/// See the module.
pub struct Sources {
    store: Store,
    directory: Option<PathBuf>,
    known: Mutex<BTreeMap<SourceId, Known>>,
    /// What is not written yet.
    changed: Mutex<BTreeSet<SourceId>>,
}

impl Sources {
    /// Reads what sources said before.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(store: Store, directory: Option<PathBuf>) -> Result<Self, StoreError> {
        let mut known = BTreeMap::new();
        for bytes in store.documents(Kind::Source)?.values() {
            let Ok(record) = SourceRecord::decode(bytes.as_slice()) else { continue };
            let id = match record.source.split_once(' ') {
                Some(("file_sd", file)) => SourceId::File(file.to_owned()),
                Some(("http_sd", url)) => SourceId::Http(url.to_owned()),
                _ => continue,
            };
            let time = |ms| Timestamp::from_millisecond(ms).ok().filter(|_| ms != 0);
            let answered_at = time(record.answered_at_ms);
            let failing = time(record.failing_since_ms).map(|since| (since, record.why));
            let targets = answered_at.is_some().then_some(record.targets);
            known.insert(id, Known { targets, answered_at, failing, asked: None });
        }
        Ok(Self { store, directory, known: Mutex::new(known), changed: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<SourceId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the sources of a policy last said.
    pub fn answers(&self, policy: &Policy) -> BTreeMap<TargetSource, Vec<String>> {
        let known = self.known();
        let targets = policy.checks.values().flat_map(|check| &check.targets);
        let answer = |source: &TargetSource| {
            let (id, _) = SourceId::of(source)?;
            Some((source.clone(), known.get(&id)?.targets.clone()?))
        };
        targets.filter_map(answer).collect()
    }

    /// What the sources of a policy would say, were this the answer of one of them.
    pub fn answers_with(
        &self,
        policy: &Policy,
        id: &SourceId,
        answer: &Answer,
    ) -> BTreeMap<TargetSource, Vec<String>> {
        let mut answers = self.answers(policy);
        for source in policy.checks.values().flat_map(|check| &check.targets) {
            if SourceId::of(source).is_some_and(|(of, _)| of == *id) {
                answers.insert(source.clone(), answer.targets.clone());
            }
        }
        answers
    }

    /// Those sources of a policy that never answered.
    pub fn unanswered(&self, policy: &Policy) -> Vec<SourceId> {
        let known = self.known();
        let answered = |id: &SourceId| known.get(id).is_some_and(|known| known.targets.is_some());
        wanted(policy).into_keys().filter(|id| !answered(id)).collect()
    }

    /// Those sources of a policy that are to be asked now, and when the next one is; `None`: it has no sources.
    pub fn due(&self, policy: &Policy, now: Instant) -> (Vec<SourceId>, Option<Instant>) {
        let known = self.known();
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for (id, refresh) in wanted(policy) {
            let at = known.get(&id).and_then(|known| known.asked).map_or(now, |asked| asked + refresh);
            if at <= now {
                due.push(id);
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        (due, next)
    }

    /// Asks each of them, a few at a time.
    pub async fn ask(&self, ids: Vec<SourceId>) -> Vec<(SourceId, Result<Answer, SourceError>)> {
        if ids.is_empty() {
            return Vec::new();
        }
        let asker = Asker::new(self.directory.clone());
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let asking: Vec<_> = ids
            .into_iter()
            .map(|id| {
                let (turns, asker, asked) = (turns.clone(), asker.clone(), id.clone());
                let asking = tokio::spawn(async move {
                    // Never closed.
                    let _turn = turns.acquire_owned().await;
                    asker.ask(&asked).await
                });
                (id, AbortOnDropHandle::new(asking))
            })
            .collect();
        let mut said = Vec::with_capacity(asking.len());
        for (id, asking) in asking {
            let answer = asking.await.unwrap_or_else(|error| Err(error.into()));
            said.push((id, answer));
        }
        said
    }

    /// Whether a source's last good answer has the same targets.
    pub fn says_already(&self, id: &SourceId, answer: &Answer) -> bool {
        self.known().get(id).is_some_and(|known| known.targets.as_ref() == Some(&answer.targets))
    }

    /// Takes over what a source said. Says whether its targets changed.
    pub fn take(&self, id: &SourceId, said: Result<Answer, String>, asked: Instant, now: Timestamp) -> bool {
        let mut known = self.known();
        let entry = known.entry(id.clone()).or_default();
        entry.asked = Some(asked);
        let since = |failing: &Option<(Timestamp, String)>| failing.as_ref().map_or(now, |(since, _)| *since);
        let was_failing = entry.failing.clone();
        let mut changed = false;
        entry.failing = match said {
            Ok(answer) => {
                changed = entry.targets.as_ref() != Some(&answer.targets);
                entry.targets = Some(answer.targets);
                entry.answered_at = Some(now);
                answer.unread.map(|why| (since(&was_failing), why))
            }
            Err(why) => Some((since(&was_failing), why)),
        };
        if changed || entry.failing != was_failing {
            match (&was_failing, &entry.failing) {
                (_, Some((_, why))) => tracing::warn!(source = %id, why, "a source of targets fails"),
                (Some(_), None) => tracing::info!(source = %id, "a source of targets works again"),
                (None, None) => {}
            }
            drop(known);
            self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        }
        changed
    }

    /// Those sources of a policy that fail.
    pub fn failing(&self, policy: &Policy) -> Vec<(SourceId, Failing)> {
        let known = self.known();
        let failing = |id: SourceId| {
            let known = known.get(&id)?;
            let (since, why) = known.failing.clone()?;
            let holds = match (&known.targets, known.answered_at) {
                (Some(targets), Some(at)) => {
                    format!("its answer of {at:.0} holds meanwhile ({} targets)", targets.len())
                }
                _ => "it never answered, so it has no targets yet".to_owned(),
            };
            Some((id, Failing { since, why: format!("{why}; {holds}") }))
        };
        wanted(policy).into_keys().filter_map(failing).collect()
    }

    /// Writes what changed, and forgets sources that the policy no longer has.
    ///
    /// # Errors
    /// When the store fails; it is written with the next call then.
    pub async fn flush(&self, policy: &Policy, now: Timestamp) -> Result<(), StoreError> {
        let wanted = wanted(policy);
        let changed = std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner));
        let mut documents = Vec::new();
        {
            let mut known = self.known();
            known.retain(|id, _| {
                let is_wanted = wanted.contains_key(id);
                if !is_wanted {
                    documents.push(DocumentWrite { kind: Kind::Source, key: id.key(), value: None });
                }
                is_wanted
            });
            for id in &changed {
                let Some(known) = known.get(id) else { continue };
                let value = Some(record(id, known).encode_to_vec());
                documents.push(DocumentWrite { kind: Kind::Source, key: id.key(), value });
            }
        }
        if documents.is_empty() {
            return Ok(());
        }
        let written = self.store.put_documents(documents, Vec::new(), now).await;
        if written.is_err() {
            self.changed.lock().unwrap_or_else(PoisonError::into_inner).extend(changed);
        }
        written
    }
}

/// The sources of a policy, each with the shortest time between two questions that a check asks for.
pub fn wanted(policy: &Policy) -> BTreeMap<SourceId, Duration> {
    let mut wanted = BTreeMap::new();
    let targets = policy.checks.values().flat_map(|check| &check.targets);
    for (id, refresh) in targets.filter_map(SourceId::of) {
        let shortest = wanted.entry(id).or_insert(refresh);
        *shortest = refresh.min(*shortest);
    }
    wanted
}

fn record(id: &SourceId, known: &Known) -> SourceRecord {
    SourceRecord {
        source: id.to_string(),
        targets: known.targets.clone().unwrap_or_default(),
        answered_at_ms: known.answered_at.map_or(0, Timestamp::as_millisecond),
        failing_since_ms: known.failing.as_ref().map_or(0, |(since, _)| since.as_millisecond()),
        why: known.failing.as_ref().map(|(_, why)| why.clone()).unwrap_or_default(),
    }
}

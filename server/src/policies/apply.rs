//! Looking at a policy that is not in force, and putting it in force.

use super::publish::compose;
use super::versions::{self, Version};
use super::{Policies, lock, report};
use crate::store::StoreError;
use jiff::Timestamp;
use portolan_common::document::{Flaw, Mistakes};
use portolan_policy::{Policy, PolicyFile};
use portolan_proto::v1;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Files of a policy at most, …
const MAX_FILES: usize = 1000;
/// … and their bytes.
const MAX_BYTES: usize = 3 * 1024 * 1024;
/// Bytes of a file's name.
const MAX_NAME: usize = 255;
/// Characters of a message.
const MAX_MESSAGE: usize = 1000;

/// What to put in force.
#[derive(Clone, Debug, Default)]
pub struct Apply {
    /// The policy; none with `rollback_to`.
    pub files: Vec<PolicyFile>,
    /// Not 0: the files of that version once more.
    pub rollback_to: u64,
    /// Who.
    pub author: String,
    /// Why.
    pub message: String,
    /// Only say what it would change.
    pub dry_run: bool,
    /// The version that the author looked at.
    pub based_on: Option<u64>,
}

/// A policy that was not looked at, or not put in force, for another reason than its own mistakes.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It breaks the bounds of a request.
    #[error("{0}")]
    Invalid(String),
    /// There is no such version.
    #[error("{}", no_version(*number, *kept))]
    NoVersion {
        /// As asked; 0: the one in force.
        number: u64,
        /// The oldest and the newest that are kept.
        kept: Option<(u64, u64)>,
    },
    /// Another version came first.
    #[error(
        "version {number} was applied by {author} at {at:.0}, after the one that this is based on ({based_on}): nothing \
         was changed; look at it (`portolan policy diff`), then apply again"
    )]
    Overtaken {
        /// The version in force.
        number: u64,
        /// Who applied it.
        author: String,
        /// When.
        at: Timestamp,
        /// What the author of this one looked at.
        based_on: u64,
    },
    /// The files of a version are damaged.
    #[error("the files of version {number} cannot be read from the store; run `portolan-server doctor`")]
    Unreadable {
        /// Which.
        number: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Reading it failed in a way that it must not.
    #[error("the policy could not be worked on: {0}; see the server's log")]
    Failed(#[from] tokio::task::JoinError),
}

fn no_version(number: u64, kept: Option<(u64, u64)>) -> String {
    match kept {
        None => "there is no policy yet (`portolan policy apply FILE` makes the first version)".to_owned(),
        Some((oldest, newest)) => {
            format!("there is no version {number} of the policy: kept are {oldest} to {newest}")
        }
    }
}

/// A policy that could be put in force, and what is to be said of it.
struct Weighed {
    policy: Arc<Policy>,
    digest: Vec<u8>,
    bytes: u64,
    report: v1::PolicyReport,
}

impl Policies {
    /// Says everything that is wrong with a policy, what is merely missing, and what applying it would change.
    ///
    /// # Errors
    /// [`PolicyError`]; mistakes of the policy are no error.
    pub async fn check(
        &self,
        files: Vec<PolicyFile>,
        now: Timestamp,
    ) -> Result<v1::PolicyReport, PolicyError> {
        let weighed = self.weigh(Arc::new(files), now).await?;
        let report = weighed.map_or_else(|report| report, |weighed| weighed.report);
        Ok(v1::PolicyReport { version: self.newest().map_or(0, |newest| newest.number), ..report })
    }

    /// Puts a policy in force, unless it has mistakes: durable first, in force after, told to the satellites last.
    ///
    /// # Errors
    /// [`PolicyError`]; mistakes of the policy are no error, and stand in the report.
    pub async fn apply(&self, apply: Apply, now: Timestamp) -> Result<v1::PolicyReport, PolicyError> {
        if apply.message.chars().count() > MAX_MESSAGE {
            return Err(PolicyError::Invalid(format!("the message is longer than {MAX_MESSAGE} characters")));
        }
        if (apply.rollback_to != 0) != apply.files.is_empty() {
            return Err(PolicyError::Invalid("either files or a version to go back to, and not both".into()));
        }
        let _applying = self.applying.lock().await;
        let newest = self.newest();
        let number = newest.as_ref().map_or(0, |newest| newest.number);
        if let Some(based_on) = apply.based_on.filter(|based_on| *based_on != number) {
            let (author, at) = match &newest {
                Some(newest) => (newest.author.clone(), newest.applied_at()),
                None => ("nobody".to_owned(), now),
            };
            return Err(PolicyError::Overtaken { number, author, at, based_on });
        }
        let files = match apply.rollback_to {
            0 => apply.files,
            number => self.version(number).await?.1,
        };
        let files = Arc::new(files);
        let weighed = match self.weigh(files.clone(), now).await? {
            Ok(weighed) => weighed,
            Err(report) => return Ok(v1::PolicyReport { version: number, ..report }),
        };
        let report = weighed.report;
        let is_same = newest.as_ref().is_some_and(|newest| newest.digest == weighed.digest)
            && lock(&self.unreadable).is_none()
            && report.differences.is_empty();
        if apply.dry_run || is_same {
            return Ok(v1::PolicyReport { version: number, ..report });
        }
        let mut version = Version {
            number: number + 1,
            applied_at_ms: now.as_millisecond(),
            author: apply.author,
            message: apply.message,
            rollback_to: apply.rollback_to,
            digest: weighed.digest,
            bytes: weighed.bytes,
            ..Version::default()
        };
        version.set_changes(report.differences.iter().map(report::change_line));
        let (documents, dropped) = versions::add(&lock(&self.versions), &version, &files);
        self.store.put_documents(documents, Vec::new(), now).await?;
        {
            let mut versions = lock(&self.versions);
            versions.drain(..dropped);
            versions.push_back(version.clone());
        }
        *lock(&self.unreadable) = None;
        tracing::info!(operator = version.author, version = version.number, "policy applied");
        self.publish(Some((version.number, weighed.policy)), now).await;
        Ok(v1::PolicyReport { version: version.number, applied: true, ..report })
    }

    fn newest(&self) -> Option<Version> {
        lock(&self.versions).back().cloned()
    }

    /// Reads a policy and looks at it from all sides; the inner error is the report of its mistakes.
    async fn weigh(
        &self,
        files: Arc<Vec<PolicyFile>>,
        now: Timestamp,
    ) -> Result<Result<Weighed, v1::PolicyReport>, PolicyError> {
        check_bounds(&files)?;
        let reading = files.clone();
        let read = tokio::task::spawn_blocking(move || {
            let digest = versions::digest(&reading);
            portolan_policy::read(&reading, now).map(|policy| (Arc::new(policy), digest))
        });
        let (policy, digest) = match read.await? {
            Ok(read) => read,
            Err(mistakes) => return Ok(Err(report::mistaken(&mistakes))),
        };
        self.ask_new_sources(&policy).await;
        let world = self.world(&policy);
        let failing = self.sources.failing(&policy);
        let is_first = self.newest().is_none() || lock(&self.unreadable).is_some();
        let old = (!is_first).then(|| self.policy());
        let bytes = bytes_of(&files) as u64;
        let weighing = policy.clone();
        let weighing = tokio::task::spawn_blocking(move || {
            let (checks, _) = compose(&weighing, &world)?;
            Ok(report::report(old.as_deref(), &weighing, &world, checks.len(), &failing, now))
        });
        Ok(match weighing.await? {
            Ok(report) => Ok(Weighed { policy, digest, bytes, report }),
            Err(why) => Err(report::mistaken(&[unbearable(&files, why)])),
        })
    }
}

fn bytes_of(files: &[PolicyFile]) -> usize {
    files.iter().map(|file| file.name.len() + file.text.len()).sum()
}

fn check_bounds(files: &[PolicyFile]) -> Result<(), PolicyError> {
    let invalid = |words: String| Err(PolicyError::Invalid(words));
    if files.is_empty() {
        return invalid("a policy has at least one file".into());
    }
    if files.len() > MAX_FILES || bytes_of(files) > MAX_BYTES {
        let mib = MAX_BYTES >> 20;
        return invalid(format!("a policy has at most {MAX_FILES} files and {mib} MiB, all files together"));
    }
    let mut names = BTreeSet::new();
    for PolicyFile { name, .. } in files {
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return invalid(format!("a file's name has 1 to {MAX_NAME} bytes and no control characters"));
        }
        if !names.insert(name) {
            return invalid(format!("two files are named `{name}`"));
        }
    }
    Ok(())
}

/// What is too much of a policy is a mistake of it as a whole, so it stands where the policy begins.
fn unbearable(files: &[PolicyFile], why: Vec<String>) -> Mistakes {
    let (name, text) = files.first().map_or(("", ""), |file| (&file.name, &file.text));
    let mut mistakes = Mistakes::new(name, text);
    for words in why {
        let flaw = Flaw::new(format!("this policy cannot be carried out: {words}"));
        mistakes.add(0..0, flaw.hint("use networks and ranges, or fewer checks over the same source"));
    }
    mistakes
}

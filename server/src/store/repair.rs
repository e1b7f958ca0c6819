//! A store that works, made of what is left of one that does not.
//!
//! What is taken as the base is always whole in itself, so that no cursor is ahead of the data it stands for: satellites
//! send again what they kept since. In this order, but never an older one before a newer one: the store itself, if all of
//! it adds up; its current state with the logs completed from an export; the newest export that is intact; nothing. Over
//! it are laid the satellites, tokens and problems that can be read of the damaged store.

use super::dump::{self, Builder, Contents, DumpError, Part};
use super::engine::Trees;
use super::examine::{Examination, Opened, Variant, open_copy};
use super::record::{decode, encode_over, is_intact};
use super::sums::{self, Sums};
use super::view::TreeWrites;
use super::{SatelliteRecord, Store, StoreError, TokenRecord, keys};
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::DeploymentId;
use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Entries that are copied at once.
const AT_ONCE: usize = 500;
/// An export older than this is worth less than a store with holes: satellites keep what was acked for three days.
const FRESH: SignedDuration = SignedDuration::from_hours(48);

/// What the new store is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// The store as it was at this commit, whole.
    Store {
        /// The last commit in it.
        commit: u64,
        /// Commits that were acknowledged after it, where that is known.
        lost: Option<u64>,
        /// When the last observation in it was committed.
        until: Option<Timestamp>,
    },
    /// The store's current state, and what could be read of its logs; `missing` entries could not.
    State {
        /// The last commit in it.
        commit: u64,
        /// Entries of logs that are nowhere any more.
        missing: u64,
    },
    /// An export.
    Export {
        /// The file.
        path: PathBuf,
        /// When it was made.
        made: Timestamp,
        /// The last commit in it.
        commit: u64,
    },
    /// Neither the store nor an export could be used.
    Nothing,
}

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What the new store is made of.
    pub base: Base,
    /// Satellites in it.
    pub satellites: usize,
    /// Records of satellites, tokens and problems that were saved from the damaged store.
    pub saved: usize,
    /// Where the damaged store is kept, if there was one.
    pub kept: Option<PathBuf>,
    /// What could be read of the damaged store, if anything could.
    pub readable: Option<Readable>,
    /// The last commit that is known of: in the damaged store, or acknowledged.
    pub highest: u64,
    /// What was acknowledged is known: the mark can be read.
    pub is_mark_known: bool,
}

/// What could be read of a damaged store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readable {
    /// Its last commit, where that can be read.
    pub commit: Option<u64>,
    /// Entries that could be read.
    pub entries: u64,
    /// Entries that there should be.
    pub of: u64,
    /// The current state is whole, so that holes are in the history alone.
    pub state_is_whole: bool,
}

impl Repaired {
    /// Something that was acknowledged is not in the new store.
    pub fn loses(&self) -> bool {
        match &self.base {
            Base::Store { lost, .. } => lost.is_some(),
            Base::State { missing, .. } => *missing > 0,
            Base::Export { commit, .. } => !self.is_mark_known || self.highest > *commit,
            Base::Nothing => true,
        }
    }
}

/// What a repair works with.
pub struct Damage<'a> {
    /// The store.
    pub store: &'a Path,
    /// Exports, the newest first.
    pub exports: &'a [PathBuf],
    /// Whose store it is.
    pub deployment: DeploymentId,
    /// An empty directory on the same file system.
    pub work: &'a Path,
    /// Asked now and then.
    pub stop: &'a dyn Fn() -> bool,
}

impl Store {
    /// Builds a new store and puts it into the place of the damaged one, which is kept. The caller holds the lock.
    ///
    /// # Errors
    /// [`DumpError`]; the store that was there still is.
    pub fn repair(damage: &Damage<'_>, now: Timestamp) -> Result<Repaired, DumpError> {
        Self::repair_or_try(damage, now, true)
    }

    /// Says what [`Store::repair`] would do, by doing all of it but the last step: the new store stays in `work`.
    ///
    /// # Errors
    /// As [`Store::repair`].
    pub fn try_repair(damage: &Damage<'_>, now: Timestamp) -> Result<Repaired, DumpError> {
        Self::repair_or_try(damage, now, false)
    }

    fn repair_or_try(damage: &Damage<'_>, now: Timestamp, replace: bool) -> Result<Repaired, DumpError> {
        let attempts = attempts(damage)?;
        if let Some(found) = attempts.iter().filter_map(|opened| opened.examination.format).max()
            && found > super::SCHEMA
        {
            return Err(StoreError::Newer { path: damage.store.to_owned(), found }.into());
        }
        let export = intact_export(damage);
        let marked = attempts.iter().find_map(|opened| opened.examination.marked?.ok());
        let new = damage.work.join("new/store");
        let mut built = None;
        for choice in choices(&attempts, export.as_ref(), marked, now) {
            if let Some(builder) = build(&choice, &attempts, export.as_ref(), &new, damage.stop)? {
                built = Some((choice, builder));
                break;
            }
            std::fs::remove_dir_all(&new)
                .map_err(|cause| StoreError::Directory { path: new.clone(), cause })?;
        }
        // The last choice always stands.
        let (Choice { base, commit, source, .. }, (mut builder, missing)) =
            built.ok_or(StoreError::Crashed)?;
        let mut saved = 0;
        for (at, opened) in attempts.iter().enumerate() {
            if let Some(trees) = opened.trees.as_ref().filter(|_| source != Some(at)) {
                let is_newer = opened.examination.commit.is_some_and(|theirs| theirs > commit);
                saved += save_registry(trees, is_newer, &mut builder)?;
            }
        }
        let satellites = registry_of(builder.trees(), keys::SATELLITE).len();
        let highest = attempts.iter().filter_map(|opened| opened.examination.commit).chain(marked).max();
        // Above everything that was ever acknowledged, so that an old mark does not refuse it half-way through this.
        builder.finish(highest.unwrap_or(0).max(commit) + 1, None)?;
        let readable = readable(&attempts);
        drop(attempts);
        if (damage.stop)() {
            return Err(DumpError::Cancelled);
        }
        let mut kept = None;
        if replace {
            Self::prove(&new)?;
            kept = Self::replace(damage.store, &new, "damaged", now)?;
        }
        let base = match base {
            Base::State { commit, .. } => Base::State { commit, missing },
            base => base,
        };
        let (highest, is_mark_known) = (highest.unwrap_or(0), marked.is_some());
        Ok(Repaired { base, satellites, saved, kept, readable, highest, is_mark_known })
    }
}

/// What the attempt that reads most can read.
fn readable(attempts: &[Opened]) -> Option<Readable> {
    let of_one = |opened: &Opened| {
        let examination = &opened.examination;
        let sum = |count: fn(&super::TreeReport) -> u64| examination.trees.values().map(count).sum();
        opened.trees.is_some().then(|| Readable {
            commit: examination.commit,
            entries: sum(|tree| tree.found.count.saturating_sub(tree.damaged)),
            of: sum(|tree| tree.expected.count),
            state_is_whole: examination.state_is_whole(),
        })
    };
    attempts.iter().filter_map(of_one).max_by_key(|readable| readable.entries)
}

/// The store as it is, and, unless that is whole, without the files that sled can do without.
fn attempts(damage: &Damage<'_>) -> Result<Vec<Opened>, StoreError> {
    let mut attempts: Vec<Opened> = Vec::new();
    if !damage.store.join("db").exists() {
        return Ok(attempts);
    }
    for (number, variant) in Variant::fitting(damage.store, damage.work)?.into_iter().enumerate() {
        let work = damage.work.join(format!("attempt-{number}"));
        let opened = open_copy(damage.store, &work, variant, damage.stop)?;
        let is_whole = opened.examination.is_consistent() && reaches_mark(&opened.examination);
        attempts.push(opened);
        if is_whole {
            break;
        }
    }
    Ok(attempts)
}

fn reaches_mark(examination: &Examination) -> bool {
    match (examination.marked, examination.commit) {
        (Some(Ok(marked)), Some(commit)) => marked <= commit,
        _ => true,
    }
}

/// The newest export of this server that is whole.
fn intact_export(damage: &Damage<'_>) -> Option<(PathBuf, Contents)> {
    damage.exports.iter().find_map(|path| {
        let contents = dump::check(File::open(path).ok()?);
        match contents {
            Ok(contents) if contents.deployment == damage.deployment => Some((path.clone(), contents)),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "an export cannot be used");
                None
            }
        }
    })
}

/// A base that may be taken.
struct Choice {
    base: Base,
    /// The last commit in it.
    commit: u64,
    /// Which of the attempts it is.
    source: Option<usize>,
    /// With holes it is not taken: there is something better.
    must_be_complete: bool,
}

/// The bases in the order in which they are tried.
fn choices(
    attempts: &[Opened],
    export: Option<&(PathBuf, Contents)>,
    marked: Option<u64>,
    now: Timestamp,
) -> Vec<Choice> {
    let best = |wanted: fn(&Examination) -> bool| {
        let fitting = attempts.iter().enumerate().filter(|(_, opened)| wanted(&opened.examination));
        // The first of several at the same commit: the one that leaves out least.
        fitting.filter_map(|(at, opened)| Some((opened.examination.commit?, std::cmp::Reverse(at)))).max()
    };
    let exported = export.map_or(0, |(_, contents)| contents.sums.commit);
    let whole = best(Examination::is_consistent).filter(|(commit, _)| *commit >= exported);
    let state = best(Examination::state_is_whole).filter(|(commit, _)| *commit >= exported);
    let mut choices = Vec::new();
    // A state with holes in its history may reach further than what is whole.
    if let Some((commit, at)) = state
        && whole.is_none_or(|(of_whole, _)| of_whole < commit)
    {
        // Something that is whole and not old is better than holes: the satellites send the rest again.
        let is_fresh = |at: Timestamp| now.duration_since(at) < FRESH;
        let must_be_complete = export.is_some_and(|(_, contents)| is_fresh(contents.created_at))
            || whole.is_some_and(|(_, at)| attempts[at.0].examination.last_ingest.is_some_and(is_fresh));
        choices.push(Choice {
            base: Base::State { commit, missing: 0 },
            commit,
            source: Some(at.0),
            must_be_complete,
        });
    }
    let (base, commit, source) = match (whole, export) {
        (Some((commit, at)), _) => {
            let lost = marked.map(|marked| marked.saturating_sub(commit)).filter(|lost| *lost > 0);
            let until = attempts[at.0].examination.last_ingest;
            (Base::Store { commit, lost, until }, commit, Some(at.0))
        }
        (None, Some((path, contents))) => {
            let commit = contents.sums.commit;
            (Base::Export { path: path.clone(), made: contents.created_at, commit }, commit, None)
        }
        (None, None) => (Base::Nothing, 0, None),
    };
    choices.push(Choice { base, commit, source, must_be_complete: false });
    choices
}

/// Builds a base, and counts the entries that are missing in it; `None` when it is not complete and has to be.
fn build(
    choice: &Choice,
    attempts: &[Opened],
    export: Option<&(PathBuf, Contents)>,
    new: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<Option<(Builder, u64)>, DumpError> {
    let mut builder = Builder::start(new)?;
    let expected = match (&choice.base, choice.source.and_then(|at| attempts[at].trees.as_ref())) {
        (Base::Store { .. }, Some(trees)) => {
            copy_all(trees, &mut builder, stop)?;
            trees.sums()?
        }
        (Base::State { .. }, Some(trees)) => {
            let expected = trees.sums()?;
            copy_all(trees, &mut builder, stop)?;
            if let Some((path, _)) = export {
                add_logs(path, &expected, &mut builder, stop)?;
            }
            if expected.trees.keys().any(|name| builder.trees().verify(name, &expected).is_err()) {
                let missing = missing_in(builder.trees(), &expected)?;
                return Ok((!choice.must_be_complete).then_some((builder, missing)));
            }
            expected
        }
        (Base::Export { path, .. }, _) => builder.put_dump(path, stop)?,
        _ => {
            let schema = (keys::SCHEMA.to_vec(), Some(super::SCHEMA.to_be_bytes().to_vec()));
            builder.put(sums::STATE, &TreeWrites::from([schema]))?;
            return Ok(Some((builder, 0)));
        }
    };
    for name in expected.trees.keys() {
        builder.trees().verify(name, &expected)?;
    }
    Ok(Some((builder, 0)))
}

/// Copies every record that is intact.
fn copy_all(trees: &Trees, builder: &mut Builder, stop: &dyn Fn() -> bool) -> Result<(), StoreError> {
    let sums = trees.sums()?;
    for name in sums.trees.keys() {
        let mut changes = TreeWrites::new();
        // sled may give up in the middle of a tree that is damaged; what is missing then is counted at the end.
        let read = catch_unwind(AssertUnwindSafe(|| {
            trees.each(name, |key, value| {
                if stop() {
                    return Err(StoreError::Closed);
                }
                if key == keys::SCHEMA || is_intact(value) {
                    changes.insert(key.to_vec(), Some(value.to_vec()));
                }
                if changes.len() >= AT_ONCE {
                    builder.put(name, &std::mem::take(&mut changes))?;
                }
                Ok(())
            })
        }));
        if let Ok(Err(error)) = read {
            tracing::debug!(%error, name, "a part of it cannot be read");
        }
        if stop() {
            return Err(StoreError::Closed);
        }
        builder.put(name, &changes)?;
    }
    Ok(())
}

/// Adds what an export has of logs: an entry of a log never changes, so what it has is right.
fn add_logs(
    export: &Path,
    sums: &Sums,
    builder: &mut Builder,
    stop: &dyn Fn() -> bool,
) -> Result<(), DumpError> {
    dump::read(export, |part| match part {
        _ if stop() => Err(StoreError::Closed),
        Part::Changes(tree, changes) if tree != sums::STATE && sums.trees.contains_key(&tree) => {
            builder.put(&tree, &changes)
        }
        _ => Ok(()),
    })?;
    Ok(())
}

fn missing_in(trees: &Trees, sums: &Sums) -> Result<u64, StoreError> {
    let mut missing = 0;
    for (name, expected) in &sums.trees {
        let mut count = 0;
        trees.each(name, |_, _| {
            count += 1;
            Ok(())
        })?;
        missing += expected.count.saturating_sub(count);
    }
    Ok(missing)
}

/// Lays satellites, tokens, problems and documents over the base. A revocation, a removal and the use of a token hold, whichever
/// side knows of them.
fn save_registry(trees: &Trees, is_newer: bool, builder: &mut Builder) -> Result<usize, StoreError> {
    let mut changes = TreeWrites::new();
    for kind in [keys::SATELLITE, keys::TOKEN, keys::PROBLEM, keys::DOCUMENT] {
        let base = registry_of(builder.trees(), kind);
        for (key, theirs) in registry_of(trees, kind) {
            let merged = match base.get(&key) {
                None => Some(theirs),
                Some(ours) => {
                    let (first, second) = if is_newer { (&theirs, ours) } else { (ours, &theirs) };
                    let merged = match kind {
                        keys::SATELLITE => merge_satellites(first, second),
                        keys::TOKEN => merge_tokens(first, second),
                        _ => Some(first.clone()),
                    };
                    merged.filter(|merged| merged != ours)
                }
            };
            changes.extend(merged.map(|merged| (key, Some(merged))));
        }
    }
    builder.put(sums::STATE, &changes)?;
    Ok(changes.len())
}

fn merge_satellites(first: &[u8], second: &[u8]) -> Option<Vec<u8>> {
    let (mut merged, other): (SatelliteRecord, SatelliteRecord) = (decode(first).ok()?, decode(second).ok()?);
    let before = merged.clone();
    for (own, theirs) in [
        (&mut merged.revoked_at_ms, other.revoked_at_ms),
        (&mut merged.removed_at_ms, other.removed_at_ms),
        (&mut merged.enrolled_at_ms, other.enrolled_at_ms),
    ] {
        *own = if *own == 0 { theirs } else { *own };
    }
    Some(if merged == before { first.to_vec() } else { encode_over(&merged, Some(first)) })
}

fn merge_tokens(first: &[u8], second: &[u8]) -> Option<Vec<u8>> {
    let (merged, other): (TokenRecord, TokenRecord) = (decode(first).ok()?, decode(second).ok()?);
    let take_other = merged.used_at_ms == 0 && other.used_at_ms != 0;
    Some(if take_other { second.to_vec() } else { first.to_vec() })
}

/// The records of one kind that are intact, from both ends up to where sled gives up.
fn registry_of(trees: &Trees, kind: u8) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    for backwards in [false, true] {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let mut entries = trees.state.scan_prefix([kind]);
            while let Some(Ok((key, value))) = if backwards { entries.next_back() } else { entries.next() } {
                let is_good = match kind {
                    keys::SATELLITE => decode::<SatelliteRecord>(&value).is_ok(),
                    keys::TOKEN => decode::<TokenRecord>(&value).is_ok(),
                    _ => is_intact(&value),
                };
                if is_good {
                    found.insert(key.to_vec(), value.to_vec());
                }
            }
        }));
    }
    found
}

#[cfg(test)]
mod tests;

//! What is wrong with a store, and what can still be read of it: always on a copy of its files, since sled rewrites what
//! it opens.

use super::engine::Trees;
use super::ingest::CursorRecord;
use super::mark::{self, Reading};
use super::record::{decode, is_intact};
use super::rescue::files_of;
use super::sums::{self, Sum, Sums};
use super::{ProblemRecord, SCHEMA, SatelliteRecord, StoreError, TokenRecord, keys, upgrade};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Bytes that are copied between two looks at whether to stop.
const COPIED_AT_ONCE: u64 = 16 * 1024 * 1024;

/// What a store turned out to be.
#[derive(Clone, Debug, Default)]
pub struct Examination {
    /// The format, if the engine opens it and it says so.
    pub format: Option<u32>,
    /// Why nothing, or not more, can be said.
    pub failure: Option<String>,
    /// The number of its last commit.
    pub commit: Option<u64>,
    /// What it should have at least; `Err` when the mark cannot be read, `None` for a format that had none.
    pub marked: Option<Result<u64, &'static str>>,
    /// Each tree that it has or should have.
    pub trees: BTreeMap<String, TreeReport>,
    /// When the last observation was committed.
    pub last_ingest: Option<Timestamp>,
}

/// What one tree turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeReport {
    /// What it should add up to.
    pub expected: Sum,
    /// What could be read of it adds up to this.
    pub found: Sum,
    /// Records that are not as they were written.
    pub damaged: u64,
    /// The first thing that is wrong with its entries.
    pub first: Option<String>,
}

impl TreeReport {
    /// It is as it was written.
    pub fn is_whole(&self) -> bool {
        self.expected == self.found && self.damaged == 0 && self.first.is_none()
    }
}

impl Examination {
    /// All of it is as it was written at some commit; which may be an early one.
    pub fn is_consistent(&self) -> bool {
        self.failure.is_none() && self.commit.is_some() && self.trees.values().all(TreeReport::is_whole)
    }

    /// It lacks nothing that was acknowledged.
    pub fn is_whole(&self) -> bool {
        let reaches = match self.marked {
            Some(Ok(marked)) => self.commit.is_some_and(|commit| marked <= commit),
            Some(Err(_)) => false,
            // An earlier format, which had no mark.
            None => true,
        };
        self.is_consistent() && reaches
    }

    pub(super) fn state_is_whole(&self) -> bool {
        self.failure.is_none() && self.trees.get(sums::STATE).is_some_and(TreeReport::is_whole)
    }
}

/// How the copy is made: some of sled's files can be done without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    AsItIs,
    /// sled's settings, which every store of this version has alike, are written anew.
    NewSettings,
    /// sled reads its whole log instead of starting from a snapshot.
    NoSnapshot,
    Neither,
}

impl Variant {
    /// Those that are worth a try, the one that leaves out least first.
    pub(super) fn fitting(store: &Path, work: &Path) -> Result<Vec<Self>, StoreError> {
        let files =
            files_of(store).map_err(|cause| StoreError::Directory { path: store.to_owned(), cause })?;
        let has_snapshot = files.iter().any(|file| file.to_string_lossy().starts_with("snap."));
        let same =
            fs::read(store.join("conf")).is_ok_and(|conf| settings(work).is_ok_and(|usual| usual == conf));
        let mut variants = vec![Self::AsItIs];
        match same {
            true => variants.extend(has_snapshot.then_some(Self::NoSnapshot)),
            false => {
                variants.push(Self::NewSettings);
                variants.extend(has_snapshot.then_some(Self::Neither));
            }
        }
        Ok(variants)
    }
}

/// A copy that was opened, or could not be.
pub(super) struct Opened {
    pub examination: Examination,
    pub trees: Option<Trees>,
}

/// Examines a copy of the store's files that is made in `work`, an empty directory. `stop` is asked now and then.
///
/// # Errors
/// When the files cannot be copied, or `stop` says so; what is wrong with them is no error here.
pub fn examine(store: &Path, work: &Path, stop: &dyn Fn() -> bool) -> Result<Examination, StoreError> {
    Ok(open_copy(store, work, Variant::AsItIs, stop)?.examination)
}

/// Bytes that a copy of the store's files takes.
pub fn bytes_of(store: &Path) -> u64 {
    let files = files_of(store).unwrap_or_default();
    files.iter().filter_map(|file| store.join(file).metadata().ok()).map(|metadata| metadata.len()).sum()
}

pub(super) fn open_copy(
    store: &Path,
    work: &Path,
    variant: Variant,
    stop: &dyn Fn() -> bool,
) -> Result<Opened, StoreError> {
    let copy = copy(store, work, variant, stop)?;
    let mut examination = Examination { marked: read_mark(store)?, ..Examination::default() };
    let opened = catch_unwind(AssertUnwindSafe(|| Trees::open_patiently(&copy)));
    let trees = match opened {
        Ok(Ok(trees)) => trees,
        Ok(Err(error)) => {
            examination.failure = Some(format!("the engine does not open it ({})", cause_of(&error)));
            return Ok(Opened { examination, trees: None });
        }
        Err(_) => {
            examination.failure = Some("the engine gives up while it opens it".to_owned());
            return Ok(Opened { examination, trees: None });
        }
    };
    let looked = catch_unwind(AssertUnwindSafe(|| look(&trees, &mut examination, stop)));
    match looked {
        _ if stop() => return Err(StoreError::Closed),
        Ok(Ok(())) => {}
        Ok(Err(error)) => examination.failure = Some(cause_of(&error)),
        Err(_) => examination.failure = Some("the engine gives up while it reads it".to_owned()),
    }
    Ok(Opened { examination, trees: Some(trees) })
}

/// What went wrong, without where: that is a copy that nobody knows.
fn cause_of(error: &StoreError) -> String {
    plain(&match error {
        StoreError::Damaged { reason, .. } => reason.clone(),
        StoreError::Directory { cause, .. } => cause.to_string(),
        other => other.to_string(),
    })
}

impl StoreError {
    /// The same in words for people: the engine's own carry what only its authors can read.
    pub fn plainly(self) -> Self {
        let in_words = |cause: std::io::Error| match cause.raw_os_error() {
            Some(_) => cause,
            None => std::io::Error::new(cause.kind(), plain(&cause.to_string())),
        };
        match self {
            Self::Damaged { path, reason, untouched } => {
                Self::Damaged { path, reason: plain(&reason), untouched }
            }
            Self::Directory { path, cause } => Self::Directory { path, cause: in_words(cause) },
            Self::Engine(sled::Error::Io(cause)) => Self::Engine(sled::Error::Io(in_words(cause))),
            Self::Engine(error @ sled::Error::Corruption { .. }) => {
                let kind = std::io::ErrorKind::InvalidData;
                Self::Engine(sled::Error::Io(std::io::Error::new(kind, plain(&error.to_string()))))
            }
            other => other,
        }
    }
}

/// A message of the engine's without its traces and its programmers' forms of errors and options.
fn plain(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(at) = text.find(" backtrace ") {
        // The trace, printed or not, is all that follows; what stands around the message closes after it.
        let rest = text.split_off(at);
        let after = rest.strip_prefix(" backtrace ()").unwrap_or("");
        text.push_str(after);
    }
    while let Some(from) = text.find("Os { code: ") {
        let Some(length) = text[from..].find(" }") else { break };
        let message = text[from..from + length].split_once("message: \"").map(|(_, message)| message);
        let message = message.unwrap_or("an error of the system").trim_end_matches('"').to_owned();
        text.replace_range(from..from + length + 2, &message);
    }
    text = text.replace(" at file offset None", "");
    if let Some(from) = text.find("offset Some(")
        && let Some(length) = text[from..].find(')')
    {
        text.remove(from + length);
        text.replace_range(from..from + "offset Some(".len(), "offset ");
    }
    text
}

/// Copies a file, unless `stop` says otherwise.
fn copy_file(from: &Path, to: &Path, stop: &dyn Fn() -> bool) -> std::io::Result<()> {
    let (mut from, mut to) = (fs::File::open(from)?, fs::File::create(to)?);
    loop {
        if stop() {
            return Err(std::io::Error::other("interrupted"));
        }
        if std::io::copy(&mut (&mut from).take(COPIED_AT_ONCE), &mut to)? == 0 {
            return Ok(());
        }
    }
}

fn copy(store: &Path, work: &Path, variant: Variant, stop: &dyn Fn() -> bool) -> Result<PathBuf, StoreError> {
    let copy = work.join("store");
    let failed = |cause| StoreError::Directory { path: work.to_owned(), cause };
    if copy.exists() {
        fs::remove_dir_all(&copy).map_err(failed)?;
    }
    portolan_transport::files::create_private_dir(&copy).map_err(|error| failed(error.cause))?;
    for file in files_of(store).map_err(|cause| StoreError::Directory { path: store.to_owned(), cause })? {
        let name = file.to_string_lossy();
        let is_snapshot = name.starts_with("snap.");
        let left_out = match variant {
            Variant::AsItIs => false,
            Variant::NewSettings => name == "conf",
            Variant::NoSnapshot => is_snapshot,
            Variant::Neither => name == "conf" || is_snapshot,
        };
        if left_out || (is_snapshot && name.ends_with(".generating")) {
            continue;
        }
        let target = copy.join(&file);
        let made = target.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| copy_file(&store.join(&file), &target, stop)).map_err(failed)?;
    }
    if matches!(variant, Variant::NewSettings | Variant::Neither) {
        fs::write(copy.join("conf"), settings(work)?).map_err(failed)?;
    }
    Ok(copy)
}

/// What sled writes into `conf` of every store alike.
fn settings(work: &Path) -> Result<Vec<u8>, StoreError> {
    let failed = |cause| StoreError::Directory { path: work.to_owned(), cause };
    let empty = work.join("empty");
    if empty.exists() {
        fs::remove_dir_all(&empty).map_err(failed)?;
    }
    portolan_transport::files::create_private_dir(&empty).map_err(|error| failed(error.cause))?;
    drop(Trees::open_patiently(&empty)?);
    let settings = fs::read(empty.join("conf")).map_err(failed)?;
    fs::remove_dir_all(&empty).map_err(failed)?;
    Ok(settings)
}

fn read_mark(store: &Path) -> Result<Option<Result<u64, &'static str>>, StoreError> {
    Ok(match mark::read(store)? {
        Reading::Commit(commit) => Some(Ok(commit)),
        Reading::Absent => Some(Err("it is gone")),
        Reading::Damaged => Some(Err("it cannot be read")),
    })
}

fn look(trees: &Trees, examination: &mut Examination, stop: &dyn Fn() -> bool) -> Result<(), StoreError> {
    let found = trees.format()?;
    examination.format = Some(found);
    if found > SCHEMA {
        return Ok(());
    }
    if found < SCHEMA {
        // Of a copy; it had no sums and no mark yet.
        upgrade::upgrade(trees, found)?;
        examination.marked = None;
    }
    let sums = match trees.sums() {
        Ok(sums) => sums,
        Err(error) => {
            examination.failure = Some(cause_of(&error));
            Sums::default()
        }
    };
    examination.commit = (sums.commit > 0).then_some(sums.commit);
    // A log outside the sums was dropped by a commit, and would be dropped again at the next start.
    for name in sums.trees.keys().map(String::as_str).chain([sums::STATE]) {
        let expected = sums.trees.get(name).copied().unwrap_or_default();
        let report = report_on(trees, name, expected, &mut examination.last_ingest, stop);
        examination.trees.insert(name.to_owned(), report);
    }
    Ok(())
}

fn report_on(
    trees: &Trees,
    name: &str,
    expected: Sum,
    last_ingest: &mut Option<Timestamp>,
    stop: &dyn Fn() -> bool,
) -> TreeReport {
    let mut report = TreeReport { expected, ..TreeReport::default() };
    let read = catch_unwind(AssertUnwindSafe(|| {
        trees.each(name, |key, value| {
            if stop() {
                return Err(StoreError::Closed);
            }
            report.found.add(key, value);
            let is_good = match key.first() {
                _ if key == keys::SCHEMA => true,
                Some(&keys::SATELLITE) => decode::<SatelliteRecord>(value).is_ok(),
                Some(&keys::TOKEN) => decode::<TokenRecord>(value).is_ok(),
                Some(&keys::PROBLEM) => decode::<ProblemRecord>(value).is_ok(),
                Some(&keys::CURSOR) => decode::<CursorRecord>(value).is_ok_and(|cursor| {
                    let moved = Timestamp::from_millisecond(cursor.moved_at_ms).ok();
                    *last_ingest = (*last_ingest).max(moved);
                    true
                }),
                _ => is_intact(value),
            };
            if !is_good {
                report.damaged += 1;
                report.first.get_or_insert_with(|| format!("the record of key {}", super::dump::shown(key)));
            }
            Ok(())
        })
    }));
    let broken = match read {
        Ok(Ok(())) => return report,
        Ok(Err(error)) => cause_of(&error),
        Err(_) => "the engine gives up in it".to_owned(),
    };
    report.first.get_or_insert(broken);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_engine_are_told_in_words() {
        for (text, words) in [
            (
                "Read corrupted data at file offset Some(4096) backtrace ()",
                "Read corrupted data at file offset 4096",
            ),
            ("Read corrupted data at file offset None backtrace ()", "Read corrupted data"),
            ("a (Read corrupted data at file offset None backtrace ()): b", "a (Read corrupted data): b"),
            (
                "could not acquire lock on \"x\": Os { code: 28, kind: StorageFull, message: \"No space left on device\" }",
                "could not acquire lock on \"x\": No space left on device",
            ),
            ("as it was", "as it was"),
        ] {
            assert_eq!(plain(text), words);
        }
        let error = StoreError::Engine(sled::Error::Corruption { at: None, bt: () }).plainly().to_string();
        assert!(error.contains("corrupted data") && !error.contains("backtrace"), "{error}");
    }

    #[test]
    fn an_examination_that_is_stopped_is_no_finding() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        crate::store::Store::create(&store).unwrap();
        let work = dir.path().join("work");
        fs::create_dir(&work).unwrap();
        assert!(examine(&store, &work, &|| true).is_err());
        assert!(examine(&store, &work, &|| false).unwrap().is_whole());
    }
}

//! `doctor`: looks at everything in a data directory whose server does not run, says what is wrong and what to do, and
//! with `--repair` does it. Nothing is ever deleted: what is replaced is kept beside its successor.

use crate::backup::fresh_directory;
use crate::data_dir::{DataDir, DataDirError, Work};
use crate::export::{self, free_bytes};
use crate::pki::authority::Authority;
use crate::pki::server_certificate;
use crate::revocations::Journal;
use crate::store::{self, Base, Damage, DumpError, Repaired, Store, TreeReport};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::DeploymentId;
use portolan_transport::files::FileError;
use serde::Serialize;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// What stays free beside the copies that are made.
const SLACK: u64 = 64 * 1024 * 1024;
/// Copies of the store that a repair makes at most, the new one included.
const COPIES: u64 = 4;
/// An export that is older says that none was made for long.
const OLD: SignedDuration = SignedDuration::from_hours(48);

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a file or directory, below the data directory.
    pub subject: String,
    /// Whether it is known to be as it should be.
    pub ok: bool,
    /// Whether it could be looked at. What could not be is neither well nor damaged.
    pub examined: bool,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when nothing is to be done.
    pub todo: String,
}

/// What was found, and done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Everything is as it should be.
    pub well: bool,
    /// Everything that was looked at.
    pub findings: Vec<Finding>,
    /// What was repaired, in words.
    pub repaired: Vec<String>,
    /// What `--repair` would do to the store, in words; empty when nothing is to be done, or it was done.
    pub would: Vec<String>,
    /// The repair could not save everything that was acknowledged.
    pub lost: bool,
}

/// A data directory that cannot be examined or repaired.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// Ctrl-C.
    #[error("interrupted; nothing was changed")]
    Interrupted,
    /// A server runs on it.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The copies have no room.
    #[error(
        "{} bytes are free on the file system of {}, and {needed} are needed to work on copies: free some space first",
        free, path.display()
    )]
    NoRoom {
        /// The data directory.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        needed: u64,
    },
    /// Whose store it is must be known.
    #[error("the store is not repaired before {} is mended: it says whose exports fit", .0.display())]
    NoDeployment(PathBuf),
    /// The repair failed.
    #[error("the store in {} could not be repaired, and is as it was: {error}", path.display())]
    NotRepaired {
        /// The store.
        path: PathBuf,
        /// Why.
        error: DumpError,
    },
}

impl Report {
    fn add(&mut self, subject: &str, ok: bool, found: impl Into<String>, todo: &str) {
        let (subject, found, todo) = (subject.to_owned(), found.into(), todo.to_owned());
        self.well &= ok;
        self.findings.push(Finding { subject, ok, examined: true, found, todo });
    }

    /// What could not be looked at.
    fn add_unknown(&mut self, subject: &str, found: impl Into<String>, todo: &str) {
        self.add(subject, false, found, todo);
        if let Some(finding) = self.findings.last_mut() {
            finding.examined = false;
        }
    }

    fn is_wrong(&self, subject: &str) -> bool {
        self.findings.iter().any(|finding| !finding.ok && finding.examined && finding.subject == subject)
    }
}

/// Examines a data directory; with `repair`, repairs what can be, and examines it again.
///
/// # Errors
/// [`DoctorError`] when that is not possible at all; what is wrong with the server is in the report.
pub fn run(
    data: &DataDir,
    repair: bool,
    now: Timestamp,
    stop: &CancellationToken,
) -> Result<Report, DoctorError> {
    match examine_and_repair(data, repair, now, stop) {
        // What was done is told, whoever said stop meanwhile.
        Ok(report) if !report.repaired.is_empty() => Ok(report),
        _ if stop.is_cancelled() => Err(DoctorError::Interrupted),
        report => report,
    }
}

fn examine_and_repair(
    data: &DataDir,
    repair: bool,
    now: Timestamp,
    stop: &CancellationToken,
) -> Result<Report, DoctorError> {
    // Before the lock: nothing is left where there is no server.
    match data.deployment() {
        Ok(_) | Err(DataDirError::Damaged { .. } | DataDirError::Headless(_)) => {}
        Err(DataDirError::File(error)) if error.path != data.path() && data.path().is_dir() => {
            tracing::debug!(%error, "told in the report");
        }
        Err(error) => return Err(error.into()),
    }
    let _lock = data.lock_for(Work::Doctor)?;
    let mut report = examine(data, now, stop)?;
    if report.well || stop.is_cancelled() {
        return Ok(report);
    }
    if !repair {
        if report.is_wrong("store") {
            report.would = foresee(data, now, stop);
        }
        return Ok(report);
    }
    let (mut done, mut lost) = (Vec::new(), false);
    if report.is_wrong("store") {
        let (deployment, _) =
            data.deployment().map_err(|_| DoctorError::NoDeployment(data.deployment_file()))?;
        let repaired = repair_store(data, deployment, now, stop, true)?;
        lost = repaired.loses();
        done.extend(describe(&repaired));
    }
    if report.is_wrong("revocations.log") {
        done.push(rewrite_revocations(data, now)?);
        lost = true;
    }
    if report.is_wrong("server.pem") && !report.is_wrong("ca") {
        let kept = set_aside(&data.server_identity(), now)?;
        done.push(format!(
            "server.pem is kept as {}; the server makes a new one when it starts",
            kept.display()
        ));
    }
    let mut again = examine(data, now, &CancellationToken::new())?;
    (again.repaired, again.lost) = (done, lost);
    Ok(again)
}

/// What a repair of the store would do.
fn foresee(data: &DataDir, now: Timestamp, stop: &CancellationToken) -> Vec<String> {
    let tried = match data.deployment() {
        Ok((deployment, _)) => repair_store(data, deployment, now, stop, false),
        Err(_) => Err(DoctorError::NoDeployment(data.deployment_file())),
    };
    match tried {
        Ok(repaired) => describe(&repaired),
        Err(error) => vec![format!("it cannot be said what a repair would save: {error}")],
    }
}

fn examine(data: &DataDir, now: Timestamp, stop: &CancellationToken) -> Result<Report, DoctorError> {
    let mut report =
        Report { well: true, findings: Vec::new(), repaired: Vec::new(), would: Vec::new(), lost: false };
    let deployment = match data.deployment() {
        Ok((id, _)) => {
            report.add("deployment.toml", true, format!("deployment {id}"), "");
            Some(id)
        }
        Err(DataDirError::Headless(_)) => {
            let todo =
                "put it back from a backup: `portolan-server restore` into a new directory, then copy it";
            report.add("deployment.toml", false, "it is missing, the rest of a server is here", todo);
            None
        }
        Err(error) => {
            report.add("deployment.toml", false, error.to_string(), "mend it, or put it back from a backup");
            None
        }
    };
    examine_certificates(data, deployment, &mut report);
    match Journal::at(data.revocations()).read() {
        Ok(read) if read.damaged.is_empty() => {
            report.add("revocations.log", true, format!("{} revocations", read.revoked.len()), "");
        }
        Ok(read) => {
            let lines: Vec<String> = read.damaged.iter().take(10).map(usize::to_string).collect();
            let found = format!("damaged in line {}", lines.join(", "));
            let todo =
                "look in an older backup for a revocation that is missing; --repair keeps what can be read";
            report.add("revocations.log", false, found, todo);
        }
        Err(error) => {
            report.add("revocations.log", false, error.to_string(), "mend its permissions or its disk")
        }
    }
    examine_store(data, &mut report, stop)?;
    examine_exports(data, deployment, now, &mut report);
    Ok(report)
}

fn examine_certificates(data: &DataDir, deployment: Option<DeploymentId>, report: &mut Report) {
    // The id is only needed to issue with.
    let id = deployment.unwrap_or(DeploymentId(uuid::Uuid::nil()));
    let restore =
        "put the file back from a backup: `portolan-server restore` into a new directory, then copy it";
    let authority = match Authority::load(&data.ca(), id) {
        Ok(authority) => authority,
        Err(error) => {
            report.add("ca", false, error.without_advice(), restore);
            return;
        }
    };
    match authority.check_root_key(&data.ca()) {
        Ok(()) => report.add("ca", true, "certificates and keys fit", ""),
        Err(error) => report.add("ca", false, error.without_advice(), restore),
    }
    let path = data.server_identity();
    if !path.exists() {
        report.add("server.pem", true, "none: the server makes one when it starts", "");
        return;
    }
    match server_certificate::load(&path, &authority) {
        Ok(_) => report.add("server.pem", true, "certificate, chain and key fit", ""),
        Err(error) => {
            let todo = "move it away: the server makes a new one when it starts (--repair does that)";
            report.add("server.pem", false, error.without_advice(), todo);
        }
    }
}

fn examine_store(data: &DataDir, report: &mut Report, stop: &CancellationToken) -> Result<(), DoctorError> {
    const REPAIR: &str = "run `portolan-server doctor --repair`";
    let store = data.store();
    if !store.join("db").exists() {
        report.add(
            "store",
            false,
            "there is none",
            "restore a backup with --store-only, or run `portolan-server doctor --repair`",
        );
        return Ok(());
    }
    if let Err(error) = look_for_room(data, 1, 0) {
        let found = format!("not examined: {error}");
        report.add_unknown("store", found, "the store is examined on a copy");
        return Ok(());
    }
    let work = data.path().join("doctor.tmp");
    fresh_directory(&work)?;
    let examined = store::examine(&store, &work, &|| stop.is_cancelled());
    fs::remove_dir_all(&work).map_err(FileError::on("remove", &work))?;
    let examination = match examined {
        Ok(examination) => examination,
        // The copies, too, may find the disk full, or somebody may have said stop.
        Err(error) => {
            let found = format!("not examined: {error}");
            report.add_unknown("store", found, "mend its permissions or its disk, or free some space");
            return Ok(());
        }
    };
    if let Some(format) = examination.format.filter(|format| *format > store::SCHEMA) {
        report.add(
            "store",
            false,
            format!("it has format {format}, which a later version wrote"),
            "update portolan-server",
        );
        return Ok(());
    }
    if let Some(why) = &examination.failure {
        report.add("store", false, why.clone(), REPAIR);
    }
    for (name, tree) in &examination.trees {
        let subject = "store";
        match tree_in_words(tree) {
            None => report.add(
                subject,
                true,
                format!("`{name}`: {} entries, all as they were written", tree.found.count),
                "",
            ),
            Some(wrong) => report.add(subject, false, format!("`{name}`: {wrong}"), REPAIR),
        }
    }
    match (examination.marked, examination.commit) {
        (Some(Ok(marked)), Some(commit)) if marked > commit => {
            let found = format!("it went back: it ends at commit {commit}, and {marked} were acknowledged");
            report.add("store", false, found, REPAIR);
        }
        (Some(Err(why)), _) => report.add("store", false, format!("its high-water mark: {why}"), REPAIR),
        (_, Some(commit)) => report.add("store", true, format!("it ends at commit {commit}"), ""),
        (_, None) => {}
    }
    Ok(())
}

fn tree_in_words(tree: &TreeReport) -> Option<String> {
    if tree.is_whole() {
        return None;
    }
    let mut wrong = Vec::new();
    if tree.expected.count != tree.found.count {
        wrong.push(format!("{} entries of {} can be read", tree.found.count, tree.expected.count));
    } else if tree.expected != tree.found {
        wrong.push(format!("{} entries, but not those that were written", tree.found.count));
    }
    if tree.damaged > 0 {
        wrong.push(format!("{} damaged records", tree.damaged));
    }
    wrong.extend(tree.first.as_ref().map(|first| format!("first: {first}")));
    Some(wrong.join(", "))
}

fn examine_exports(data: &DataDir, deployment: Option<DeploymentId>, now: Timestamp, report: &mut Report) {
    let [newest, before] = export::files(data);
    for (path, subject) in [(newest, "exports/store.export"), (before, "exports/store.export.1")] {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                report.add(subject, true, "none", "");
                continue;
            }
            Err(error) => {
                report.add(
                    subject,
                    false,
                    format!("it cannot be opened: {error}"),
                    "mend its permissions or its disk",
                );
                continue;
            }
        };
        match store::check(file) {
            Ok(contents) if deployment.is_some_and(|id| id != contents.deployment) => {
                report.add(
                    subject,
                    false,
                    format!("it is of deployment {}", contents.deployment),
                    "remove it",
                );
            }
            Ok(contents) => {
                let age = now.duration_since(contents.created_at);
                let old =
                    if age > OLD { "; it is old: see `portolan status` while the server runs" } else { "" };
                let found = format!(
                    "intact: {} entries, commit {}, made {:.0}{old}",
                    contents.entries, contents.sums.commit, contents.created_at
                );
                report.add(subject, true, found, "");
            }
            Err(error) => {
                report.add(subject, false, error.to_string(), "nothing: the next export takes its place")
            }
        }
    }
}

fn look_for_room(data: &DataDir, copies: u64, more: u64) -> Result<(), DoctorError> {
    let needed =
        store::bytes_of(&data.store()).saturating_mul(copies).saturating_add(more).saturating_add(SLACK);
    let free = free_bytes(data.path());
    let path = data.path().to_owned();
    if free < needed { Err(DoctorError::NoRoom { path, free, needed }) } else { Ok(()) }
}

/// Repairs the store, or only finds out what that would save.
fn repair_store(
    data: &DataDir,
    deployment: DeploymentId,
    now: Timestamp,
    stop: &CancellationToken,
    replace: bool,
) -> Result<Repaired, DoctorError> {
    let exports = export::files(data);
    let largest = exports.iter().filter_map(|path| fs::metadata(path).ok()).map(|m| m.len()).max();
    // A store takes more than the entries in it.
    look_for_room(data, COPIES, largest.unwrap_or(0).saturating_mul(4))?;
    let work = data.path().join("doctor.tmp");
    fresh_directory(&work)?;
    let store = data.store();
    let damage =
        Damage { store: &store, exports: &exports, deployment, work: &work, stop: &|| stop.is_cancelled() };
    let repaired = if replace { Store::repair(&damage, now) } else { Store::try_repair(&damage, now) };
    let removed = fs::remove_dir_all(&work).map_err(FileError::on("remove", &work));
    let repaired = repaired.map_err(|error| DoctorError::NotRepaired { path: store.clone(), error })?;
    removed?;
    Ok(repaired)
}

/// What the new store is made of, from when, what is not in it and why.
fn describe(repaired: &Repaired) -> Vec<String> {
    // A satellite that is not known any more sends nothing.
    let again = match repaired.satellites {
        0 => "nobody sends it again",
        _ => "satellites send again what they kept, 72 h by default; what is older is lost",
    };
    let known = if repaired.is_mark_known {
        "nothing is missing"
    } else {
        "nothing is missing as far as can be told, the high-water mark cannot be read"
    };
    let mut words = vec![match &repaired.base {
        Base::Store { commit, lost: None, .. } => {
            format!("base: the store itself, written anew from its own records, to commit {commit}: {known}")
        }
        Base::Store { commit, lost: Some(lost), until } => {
            let until = until.map_or(String::new(), |until| format!(", the last observation of {until:.0}"));
            format!(
                "base: the store itself at commit {commit}{until}: {lost} commits after it are gone from here; {again}"
            )
        }
        Base::State { commit, missing: 0 } => format!(
            "base: the store's current state at commit {commit}, its history completed from the export: nothing is missing"
        ),
        Base::State { commit, missing } => format!(
            "base: the store's current state at commit {commit}, which is whole; {missing} entries of its history \
             (changes, sweeps) could not be read and are lost"
        ),
        Base::Export { path, made, commit } => {
            let after = match repaired.highest.saturating_sub(*commit) {
                0 if repaired.is_mark_known => "nothing came after it".to_owned(),
                0 => format!("how much came after it is not known; {again}"),
                lost => format!("{lost} commits after it are gone from here; {again}"),
            };
            format!("base: the export {} of {made:.0}, commit {commit}: {after}", path.display())
        }
        Base::Nothing => format!(
            "base: nothing, since no export is intact: the store begins anew without what was observed; {again}. A backup \
             (`portolan-server restore BACKUP --store-only`) has more"
        ),
    }];
    words.extend(why_not_used(repaired));
    words.push(match repaired.satellites {
        0 => "no satellite's record is in it: each must be added and enrolled again, unless a backup is restored".into(),
        count => format!(
            "{count} satellites are in it; {} records of satellites, tokens and problems come from the damaged store",
            repaired.saved
        ),
    });
    words.extend(repaired.kept.as_ref().map(|kept| {
        format!("the damaged store is kept as {}; remove it when nobody needs it", kept.display())
    }));
    words
}

/// What could be read of the damaged store, and why it is not what the new one is made of.
fn why_not_used(repaired: &Repaired) -> Option<String> {
    if !matches!(repaired.base, Base::Export { .. } | Base::Nothing) {
        return None;
    }
    let Some(readable) = repaired.readable.filter(|readable| readable.entries > 0) else {
        return Some("none of the damaged store's entries can be read".into());
    };
    let at = readable.commit.map_or(String::new(), |commit| format!(" at commit {commit}"));
    let read =
        format!("{} of {} entries of the damaged store{at} can be read", readable.entries, readable.of);
    let older = match (&repaired.base, readable.commit) {
        (Base::Export { commit, .. }, Some(readable)) => readable < *commit,
        _ => false,
    };
    let why = match (older, readable.state_is_whole) {
        (true, _) => "the export is newer",
        (_, true) => {
            "its history has holes, and the export is recent and has none: satellites send the rest again"
        }
        (_, false) => {
            "its current state is not whole, so nobody knows which satellite's results are all in it; on such a base \
             satellites would not send again what is missing"
        }
    };
    Some(format!("{read}; they are not used: {why}"))
}

fn rewrite_revocations(data: &DataDir, now: Timestamp) -> Result<String, DoctorError> {
    let journal = Journal::at(data.revocations());
    let read = journal.read()?;
    let kept = set_aside(journal.path(), now)?;
    journal.merge(&read)?;
    Ok(format!(
        "revocations.log was written anew with {} revocations; the old one is kept as {}",
        read.revoked.len(),
        kept.display()
    ))
}

fn set_aside(path: &Path, now: Timestamp) -> Result<PathBuf, FileError> {
    let time = now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut kept = path.as_os_str().to_owned();
    kept.push(format!(".damaged-{time}"));
    let kept = PathBuf::from(kept);
    fs::rename(path, &kept).map_err(FileError::on("move aside", path))?;
    Ok(kept)
}

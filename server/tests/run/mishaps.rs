//! What an operator does by mistake, and what befalls a data directory: nothing is lost by it, and it is named.

use jiff::Timestamp;
use portolan_server::backup::{self, BackupError, Made};
use portolan_server::data_dir::{DataDir, DataDirError, Making, Work};
use portolan_server::doctor::{self, DoctorError};
use portolan_server::store::{About, Store};
use portolan_server::{control, export, init};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

struct Server {
    dir: tempfile::TempDir,
    data: DataDir,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(&dir.path().join("data"));
        let out = dir.path().join("c.toml");
        init::init(&data, &["localhost".into()], Some(&out), Timestamp::now()).unwrap();
        Self { dir, data }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn back_up(&self, file: &Path, force: bool) -> Result<Made, BackupError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        backup::backup(&self.data, Some(file), force, &runtime, &CancellationToken::new())
    }

    /// Writes a dump as `backup` or the export does, without looking at what is in it.
    fn dump(&self, file: &Path, whole: bool) {
        let (id, _) = self.data.deployment().unwrap();
        let mut about = control::about(&self.data, id, Timestamp::now()).unwrap();
        if !whole {
            about = About { files: Vec::new(), ..about };
        }
        let store = Store::open(&self.data.store(), 0).unwrap();
        store.dump(&about, File::create(file).unwrap(), &|| false).unwrap();
        store.close();
    }
}

fn restore(file: &Path, to: &DataDir) -> Result<backup::Restored, BackupError> {
    backup::restore(file, to, false, Timestamp::now(), &CancellationToken::new())
}

fn examine(data: &DataDir, repair: bool) -> Result<doctor::Report, DoctorError> {
    doctor::run(data, repair, Timestamp::now(), &CancellationToken::new())
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_backup_never_goes_into_the_directory_that_it_saves() {
    let server = Server::new();
    let key = server.data.ca().join("root.key");
    let before = fs::read(&key).unwrap();
    let link = server.path("link");
    std::os::unix::fs::symlink(server.data.path(), &link).unwrap();
    fs::create_dir(server.path("outside")).unwrap();
    std::os::unix::fs::symlink(server.path("outside"), server.data.path().join("exports")).unwrap();
    for inside in [
        key.clone(),
        server.data.path().join("new"),
        link.join("ca/root.key"),
        link.join("new"),
        server.data.path().join("exports/new"),
        server.path("outside/../data/new"),
    ] {
        for force in [false, true] {
            let error = server.back_up(&inside, force).unwrap_err();
            assert!(matches!(error, BackupError::Inside { .. }), "{}: {error}", inside.display());
        }
    }
    assert_eq!(fs::read(&key).unwrap(), before);
    server.back_up(&server.path("outside/new"), false).unwrap();
}

#[test]
fn keys_that_do_not_fit_are_found_before_a_backup_counts_and_before_a_restore_touches_anything() {
    for (name, fatal) in [("ca/root.key", true), ("ca/issuing.crt", true), ("server.pem", false)] {
        let server = Server::new();
        let path = server.data.path().join(name);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("MI", "NI", 1)).unwrap();
        let file = server.path("backup");
        let error = server.back_up(&file, false).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("doctor"), "{error}");
        assert_eq!(names(server.dir.path()), ["c.toml", "data"], "no file is left");
        // Made by something that did not look.
        server.dump(&file, true);
        let target = DataDir::new(&server.path("target"));
        match restore(&file, &target) {
            Err(error) => {
                assert!(fatal && error.to_string().contains(name), "{error}");
                assert!(matches!(error, BackupError::Unfit { .. }), "{error}");
                assert!(!target.path().exists());
            }
            Ok(restored) => {
                assert!(!fatal && restored.without_certificate.is_some(), "the server makes that one anew");
                assert!(!target.server_identity().exists() && target.deployment().is_ok());
            }
        }
    }
}

#[test]
fn what_is_interrupted_leaves_nothing_and_a_restore_says_whether_it_knew_of_revocations() {
    let server = Server::new();
    let file = server.path("backup");
    server.back_up(&file, false).unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let target = DataDir::new(&server.path("target"));
    let (other, before) = (server.path("other"), names(server.data.path()));
    let made = backup::backup(&server.data, Some(&other), false, &runtime, &stop);
    assert!(matches!(made, Err(BackupError::Interrupted)));
    for (to, store_only) in [(&target, false), (&server.data, true)] {
        let restored = backup::restore(&file, to, store_only, Timestamp::now(), &stop);
        assert!(matches!(restored, Err(BackupError::Interrupted)));
    }
    let examined = doctor::run(&server.data, true, Timestamp::now(), &stop);
    assert!(matches!(examined, Err(DoctorError::Interrupted)));
    assert_eq!(names(server.dir.path()), ["backup", "c.toml", "data"]);
    assert_eq!(names(server.data.path()), before);

    assert!(!restore(&file, &target).unwrap().had_revocations);
    let second = DataDir::new(&server.path("second"));
    fs::create_dir(second.path()).unwrap();
    fs::write(second.revocations(), "").unwrap();
    assert!(restore(&file, &second).unwrap().had_revocations);
}

#[test]
fn a_directory_that_holds_no_whole_server_is_named_and_left_alone() {
    let server = Server::new();
    let file = server.path("backup");
    server.back_up(&file, false).unwrap();
    let empty = DataDir::new(&server.path("empty"));
    fs::create_dir(empty.path()).unwrap();
    let error = examine(&empty, false).unwrap_err();
    assert!(matches!(error, DoctorError::DataDir(DataDirError::NotInitialised(_))), "{error}");
    assert!(names(empty.path()).is_empty(), "not even a lock");
    let satellite = DataDir::new(&server.path("satellite"));
    fs::create_dir(satellite.path()).unwrap();
    fs::write(satellite.path().join("enrollment.json"), "{}").unwrap();
    for error in [
        examine(&satellite, true).unwrap_err().to_string(),
        restore(&file, &satellite).unwrap_err().to_string(),
        satellite.deployment().unwrap_err().to_string(),
    ] {
        assert!(error.contains("a satellite's data directory"), "{error}");
    }
    assert_eq!(names(satellite.path()), ["enrollment.json"]);

    // An interrupted restore, and a server whose deployment is gone.
    fs::rename(server.data.deployment_file(), server.data.marker(Making::Restore)).unwrap();
    let error = examine(&server.data, false).unwrap_err().to_string();
    assert!(error.contains("an interrupted restore"), "{error}");
    fs::remove_file(server.data.marker(Making::Restore)).unwrap();
    let key = fs::read(server.data.ca().join("root.key")).unwrap();
    let error = restore(&file, &server.data).unwrap_err().to_string();
    assert!(error.contains("the rest of a server is here"), "{error}");
    let report = examine(&server.data, false).unwrap();
    assert!(!report.well && report.findings[0].found.contains("missing"), "{report:#?}");
    assert_eq!(fs::read(server.data.ca().join("root.key")).unwrap(), key);
}

#[test]
fn a_backup_that_holds_the_directory_is_named_as_one() {
    let server = Server::new();
    let _lock = server.data.lock_for(Work::Backup).unwrap();
    for error in [
        server.back_up(&server.path("backup"), false).unwrap_err().to_string(),
        examine(&server.data, false).unwrap_err().to_string(),
    ] {
        assert!(
            error.contains(&format!("a backup is under way (process {})", std::process::id())),
            "{error}"
        );
    }
}

#[test]
fn doctor_foretells_what_a_repair_would_lose_and_loses_just_that() {
    for with_export in [false, true] {
        let server = Server::new();
        let [newest, _] = export::files(&server.data);
        fs::create_dir(server.data.exports()).unwrap();
        if with_export {
            server.dump(&newest, false);
        }
        // What is left of sled's file is too little to open.
        let db = File::options().write(true).open(server.data.store().join("db")).unwrap();
        db.set_len(100).unwrap();
        for entry in fs::read_dir(server.data.store()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("snap.") {
                fs::remove_file(path).unwrap();
            }
        }
        let before = names(server.data.path());
        let foretold = examine(&server.data, false).unwrap();
        assert!(!foretold.well && foretold.repaired.is_empty());
        let base = if with_export { "base: the export" } else { "base: nothing" };
        assert!(foretold.would[0].starts_with(base), "{foretold:#?}");
        assert_eq!(names(server.data.path()), before, "nothing was done");
        let done = examine(&server.data, true).unwrap();
        assert!(done.well && done.would.is_empty(), "{done:#?}");
        assert_eq!(done.repaired[..foretold.would.len()], foretold.would);
        assert_eq!(done.lost, !with_export, "the export had all of it: {done:#?}");
        let text = done.repaired.join("\n");
        assert!(!text.contains("satellites send again"), "there are none: {text}");
    }
}

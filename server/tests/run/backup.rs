//! Backups of a server that runs and of one that does not, and what becomes of them elsewhere.

use crate::deployment::{Deployment, PATIENCE};
use jiff::Timestamp;
use portolan_proto::v1;
use portolan_server::backup::{self, BackupError, Made};
use portolan_server::config::Config;
use portolan_server::data_dir::{DataDir, Making};
use portolan_server::registry::Registry;
use portolan_server::run::run;
use portolan_server::store::{Store, check};
use portolan_server::{doctor, export};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

async fn make(data: &DataDir, file: &Path, force: bool) -> Result<Made, BackupError> {
    let (data, file) = (data.clone(), file.to_owned());
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        backup::backup(&data, Some(&file), force, &runtime, &CancellationToken::new())
    })
    .await
    .unwrap()
}

async fn restore(data: &DataDir, file: &Path, store_only: bool) -> Result<backup::Restored, BackupError> {
    let (data, file) = (data.clone(), file.to_owned());
    tokio::task::spawn_blocking(move || {
        backup::restore(&file, &data, store_only, Timestamp::now(), &CancellationToken::new())
    })
    .await
    .unwrap()
}

/// All that a directory holds, by the path below it, with modes.
fn tree(path: &Path) -> Vec<(String, u32, u64)> {
    let mut found = Vec::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path_of = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path_of).unwrap();
            let name = path_of.strip_prefix(path).unwrap().display().to_string();
            if metadata.is_dir() {
                waiting.push(path_of);
            } else {
                found.push((name, metadata.permissions().mode() & 0o777, metadata.len()));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_moves_to_another_directory_with_everything_that_it_is() {
    let mut deployment = Deployment::start().await;
    let data = DataDir::new(deployment.deployment_file().parent().unwrap());
    let elsewhere = tempfile::tempdir().unwrap();
    let mut uplink = deployment.enrol("one").await.connect().await;
    uplink.is_served(1).await;
    uplink.is_served(2).await;
    let began = Instant::now();
    while !data.control_socket().exists() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }

    let file = elsewhere.path().join("backup");
    let made = make(&data, &file, false).await.unwrap();
    assert!(made.while_running);
    let files: Vec<&str> = made.contents.files.keys().map(String::as_str).collect();
    let ca = ["ca/issuing.crt", "ca/issuing.key", "ca/root.crt", "ca/root.key"];
    assert_eq!(files, [&ca[..], &["deployment.toml", "server.pem"]].concat());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(make(&data, &file, false).await, Err(BackupError::Exists(_))));
    make(&data, &file, true).await.unwrap();
    assert!(matches!(make(&data, Path::new("/dev/null"), true).await, Err(BackupError::NoFile(_))));
    let nowhere = elsewhere.path().join("no/such/directory");
    assert!(make(&data, &nowhere, false).await.unwrap_err().to_string().contains("no/such/directory"));
    // The satellite noticed nothing.
    uplink.is_served(3).await;
    let locked =
        doctor::run(&data, false, Timestamp::now(), &CancellationToken::new()).unwrap_err().to_string();
    assert!(locked.contains("stop it first"), "{locked}");

    // What comes after the backup.
    uplink.is_served(4).await;
    let (mut console, _) = deployment.console().await;
    console.revoke_satellite(v1::RevokeSatelliteRequest { name: "one".into() }).await.unwrap();
    deployment.shutdown.cancel();
    deployment.ended().await.unwrap();
    assert!(!data.control_socket().exists());

    // Elsewhere: as it was at the backup.
    let moved = DataDir::new(&elsewhere.path().join("moved"));
    restore(&moved, &file, false).await.unwrap();
    assert!(matches!(restore(&moved, &file, false).await, Err(BackupError::Occupied(_))));
    for (name, mode, _) in tree(moved.path()) {
        assert!(mode == 0o600 || name.starts_with("store/"), "{name} has mode {mode:o}");
    }
    let report = doctor::run(&moved, false, Timestamp::now(), &CancellationToken::new()).unwrap();
    assert!(report.well, "{report:#?}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(run(
        moved.clone(),
        Config::default(),
        listener,
        shutdown.clone(),
        Arc::new(Notify::new()),
    ));
    let began = Instant::now();
    while !moved.control_socket().exists() {
        assert!(began.elapsed() < PATIENCE && !running.is_finished(), "it starts");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    shutdown.cancel();
    running.await.unwrap().unwrap();

    // Here: the store goes back, the revocation does not.
    let satellite = Registry::load(Store::open(&data.store(), 0).unwrap()).unwrap().find("one").unwrap();
    let id = satellite.satellite_id().unwrap();
    let restored = restore(&data, &file, true).await.unwrap();
    assert!(restored.replaced.unwrap().join("db").exists(), "the store that was replaced is kept");
    let store = Store::open(&data.store(), 0).unwrap();
    assert_eq!(store.satellites().unwrap()[0].revoked_at_ms, 0, "the backup knew nothing of it");
    assert!(!Registry::load(store.clone()).unwrap().in_good_standing(id));
    store.close();
    drop(store);

    // A stopped server is backed up too, the journal with it.
    let second = elsewhere.path().join("second");
    let made = make(&data, &second, false).await.unwrap();
    assert!(!made.while_running && made.contents.files.contains_key("revocations.log"));
    let foreign = DataDir::new(&elsewhere.path().join("foreign"));
    portolan_server::init::init(
        &foreign,
        &["localhost".into()],
        Some(&elsewhere.path().join("f.toml")),
        Timestamp::now(),
    )
    .unwrap();
    assert!(matches!(restore(&foreign, &second, true).await, Err(BackupError::Foreign { .. })));
    assert!(tree(elsewhere.path()).iter().all(|(name, ..)| !name.contains(".tmp")), "no half files");
}

/// A server that dies in the middle, one that says nothing, and Ctrl-C.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_does_not_come_to_its_end_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(&dir.path().join("data"));
    portolan_server::init::init(
        &data,
        &["localhost".into()],
        Some(&dir.path().join("c.toml")),
        Timestamp::now(),
    )
    .unwrap();
    let whole = dir.path().join("whole");
    make(&data, &whole, false).await.unwrap();
    let whole = fs::read(whole).unwrap();
    // As a server does, without being one.
    let _lock = data.lock().unwrap();
    let before = tree(dir.path());
    let listener = UnixListener::bind(data.control_socket()).unwrap();
    for cut in [None, Some(0), Some(whole.len() / 2), Some(whole.len() - 1)] {
        let stop = CancellationToken::new();
        let asking = tokio::task::spawn_blocking({
            let (data, file, stop) = (data.clone(), dir.path().join("new"), stop.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                backup::backup(&data, Some(&file), false, &runtime, &stop)
            }
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 16];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"GET /backup HTTP");
        match cut {
            // Closed in order, and too short all the same.
            Some(cut) => {
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
                stream.write_all(&[head.as_bytes(), &whole[..cut]].concat()).await.unwrap();
                drop(stream);
                let error = asking.await.unwrap().unwrap_err();
                assert!(
                    matches!(error, BackupError::NotReadBack { .. } | BackupError::Control(_)),
                    "{error}"
                );
            }
            None => {
                stop.cancel();
                assert!(matches!(asking.await.unwrap(), Err(BackupError::Interrupted)));
            }
        }
    }
    fs::remove_file(data.control_socket()).unwrap();
    assert_eq!(tree(dir.path()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_cut_or_flipped_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(&dir.path().join("data"));
    portolan_server::init::init(
        &data,
        &["localhost".into()],
        Some(&dir.path().join("c.toml")),
        Timestamp::now(),
    )
    .unwrap();
    let file = dir.path().join("backup");
    make(&data, &file, false).await.unwrap();
    let good = fs::read(&file).unwrap();
    let before = tree(data.path());
    let target = DataDir::new(&dir.path().join("target"));
    for number in 0..60usize {
        let mut bad = good.clone();
        if number % 3 == 0 {
            bad.truncate(number * good.len() / 60);
        } else {
            let at = number * good.len() / 60;
            bad[at] ^= 1 << (number % 8);
        }
        let bad_file = dir.path().join("bad");
        fs::write(&bad_file, bad).unwrap();
        let error = restore(&target, &bad_file, false).await.unwrap_err();
        assert!(matches!(error, BackupError::Unusable { .. }), "{error}");
        assert!(!target.path().exists());
        assert!(matches!(restore(&data, &bad_file, true).await, Err(BackupError::Unusable { .. })));
    }
    assert_eq!(tree(data.path()), before);
    let error = restore(&target, &dir.path().join("c.toml"), false).await.unwrap_err().to_string();
    assert!(error.contains("no backup or export"), "{error}");

    // One that died half-way can be begun again; another's directory is left alone.
    fs::create_dir_all(target.store()).unwrap();
    fs::write(target.store().join("db"), "half").unwrap();
    let unmarked = restore(&target, &file, false).await.unwrap_err().to_string();
    assert!(unmarked.contains("the rest of a server is here"), "{unmarked}");
    fs::write(target.marker(Making::Restore), "half").unwrap();
    restore(&target, &file, false).await.unwrap();
    assert!(!target.marker(Making::Restore).exists());
    let other = DataDir::new(&dir.path().join("other"));
    fs::create_dir(other.path()).unwrap();
    fs::write(other.path().join("thesis.tex"), "").unwrap();
    assert!(matches!(restore(&other, &file, false).await, Err(BackupError::NotEmpty(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_says_what_is_wrong_changes_nothing_and_repairs_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(&dir.path().join("data"));
    portolan_server::init::init(
        &data,
        &["localhost".into()],
        Some(&dir.path().join("c.toml")),
        Timestamp::now(),
    )
    .unwrap();
    let examine = async |repair: bool| {
        let data = data.clone();
        tokio::task::spawn_blocking(move || {
            doctor::run(&data, repair, Timestamp::now(), &CancellationToken::new())
        })
        .await
        .unwrap()
        .unwrap()
    };
    // The lock is the only thing that it touches.
    let report = examine(false).await;
    assert!(report.well, "{report:#?}");
    let before = tree(data.path());
    assert!(examine(true).await.repaired.is_empty(), "nothing to repair");
    assert_eq!(tree(data.path()), before);

    fs::write(data.revocations(), "junk\n").unwrap();
    let pem = fs::read_to_string(data.server_identity()).unwrap();
    fs::write(data.server_identity(), pem.replacen("MII", "NII", 1)).unwrap();
    let conf = data.store().join("conf");
    let mut settings = fs::read(&conf).unwrap();
    settings[3] ^= 1;
    fs::write(&conf, settings).unwrap();
    fs::remove_file(data.path().join("high-water")).unwrap();
    let before = tree(data.path());
    let report = examine(false).await;
    let mut wrong: Vec<&str> = report.findings.iter().filter(|f| !f.ok).map(|f| f.subject.as_str()).collect();
    wrong.dedup();
    assert_eq!(wrong, ["server.pem", "revocations.log", "store"], "{report:#?}");
    assert!(report.findings.iter().filter(|finding| !finding.ok).all(|finding| !finding.todo.is_empty()));
    assert_eq!(tree(data.path()), before, "without --repair nothing changes");

    let report = examine(true).await;
    assert!(report.well, "{report:#?}");
    assert!(report.repaired.iter().any(|words| words.contains("nothing is missing")), "{report:#?}");
    let kept = tree(data.path());
    for part in ["server.pem.damaged-", "revocations.log.damaged-", "store.damaged-"] {
        assert!(kept.iter().any(|(name, ..)| name.starts_with(part)), "{part} is kept");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    run(data.clone(), Config::default(), listener, shutdown, Arc::new(Notify::new()))
        .await
        .expect("it starts again");

    // No store at all, but an export.
    let store = Store::open(&data.store(), 0).unwrap();
    let (id, _) = data.deployment().unwrap();
    let [newest, _] = export::files(&data);
    fs::create_dir(data.exports()).unwrap();
    let exporting = store.clone();
    let about =
        portolan_server::store::About { deployment: id, created_at: Timestamp::now(), files: Vec::new() };
    let target = newest.clone();
    tokio::task::spawn_blocking(move || exporting.dump(&about, File::create(target).unwrap(), &|| false))
        .await
        .unwrap()
        .unwrap();
    store.close();
    drop(store);
    let commit = check(File::open(&newest).unwrap()).unwrap().sums.commit;
    fs::remove_dir_all(data.store()).unwrap();
    assert!(!examine(false).await.well);
    let report = examine(true).await;
    assert!(report.well && report.repaired[0].contains(&format!("commit {commit}")), "{report:#?}");
}

//! The program itself: its exit codes, what it prints of damage, and what signals leave behind. Apart from the other tests,
//! since a child that is being started holds the locks of this process for a moment.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use jiff::Timestamp;
use portolan_server::data_dir::DataDir;
use portolan_server::init;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time starts children.
static ALONE: Mutex<()> = Mutex::new(());

struct Server {
    dir: tempfile::TempDir,
    data: DataDir,
    _alone: MutexGuard<'static, ()>,
}

impl Server {
    fn new() -> Self {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(&dir.path().join("data"));
        let out = dir.path().join("c.toml");
        init::init(&data, &["localhost".into()], Some(&out), Timestamp::now()).unwrap();
        Self { dir, data, _alone }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The program itself.
fn program(arguments: &[&std::ffi::OsStr]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portolan-server"));
    command.args(arguments).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

#[test]
fn every_signal_ends_a_backup_with_130_and_leaves_no_file() {
    let server = Server::new();
    // As a server does that never answers.
    let _lock = server.data.lock().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(server.data.control_socket()).unwrap();
    let file = server.path("backup");
    for signal in ["HUP", "INT", "TERM"] {
        let data = server.data.path().as_os_str();
        let child =
            program(&["backup".as_ref(), file.as_os_str(), "--data-dir".as_ref(), data]).spawn().unwrap();
        let _asked = listener.accept().unwrap();
        let killed =
            std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{signal}: {output:?}");
        assert_eq!(names(server.dir.path()), ["c.toml", "data"], "{signal}");
    }
}

#[test]
fn damage_is_told_in_words_without_the_engines_panic_and_a_repair_that_loses_ends_with_3() {
    let server = Server::new();
    let db = File::options().write(true).open(server.data.store().join("db")).unwrap();
    db.set_len(100).unwrap();
    let data = server.data.path().as_os_str();
    let file = server.path("backup");
    let run = |arguments: &[&std::ffi::OsStr]| {
        let output = program(arguments).args(["--data-dir".as_ref(), data]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    for (arguments, expected) in [
        (vec!["backup".as_ref(), file.as_os_str()], 1),
        (vec!["run".as_ref(), "--listen".as_ref(), "127.0.0.1:0".as_ref()], 1),
        (vec!["doctor".as_ref()], 1),
        (vec!["doctor".as_ref(), "--repair".as_ref()], 3),
        (vec!["doctor".as_ref(), "--repair".as_ref()], 0),
    ] {
        let (code, text) = run(&arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {text}");
        for noise in ["panicked", "backtrace", "Os {", "Some("] {
            assert!(!text.contains(noise), "{arguments:?}: {text}");
        }
        assert!(expected != 1 || text.contains("doctor") || text.contains("WRONG"), "{text}");
    }
}

//! Real signals, sent to a process of its own: this test binary, run again.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portolan_daemon::{Tasks, signals};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Set in the process that takes the signals.
const ROLE: &str = "PORTOLAN_TEST_SIGNALS";

struct Daemon {
    process: Child,
    words: BufReader<ChildStdout>,
}

impl Daemon {
    /// Runs `test` again in a process of its own, where it plays `role`.
    fn start(test: &str, role: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let words = BufReader::new(process.stdout.take().unwrap());
        let mut daemon = Self { process, words };
        daemon.wait_for("ready");
        daemon
    }

    /// Reads what it prints up to a line that ends so; the test's own harness prints in between.
    fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        while !line.trim_end().ends_with(word) {
            line.clear();
            assert_ne!(self.words.read_line(&mut line).unwrap(), 0, "it ended without saying `{word}`");
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), signal).unwrap();
    }

    fn code(mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

/// The program under test: a list with one task that takes a long time to end, if it is `deaf`.
fn play(deaf: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (shutdown, reload) = (CancellationToken::new(), Arc::new(Notify::new()));
        let mut tasks = Tasks::new(shutdown.clone());
        let stage = tasks.stage("only", Duration::from_secs(60));
        let asked = reload.clone();
        tasks.spawn(stage, "only", move |stop| async move {
            loop {
                tokio::select! {
                    () = asked.notified() => println!("reloading"),
                    () = stop.cancelled() => break,
                }
            }
            println!("stopping");
            if deaf {
                std::future::pending::<()>().await;
            }
            Ok(())
        });
        signals::listen(shutdown, Some(reload)).unwrap();
        println!("ready");
        tasks.run().await.unwrap();
    });
}

#[test]
fn one_signal_ends_in_order_and_a_reload_does_not_end() {
    const NAME: &str = "one_signal_ends_in_order_and_a_reload_does_not_end";
    if std::env::var_os(ROLE).is_some() {
        return play(false);
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(NAME, "obedient");
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for("reloading");
        daemon.signal(signal);
        daemon.wait_for("stopping");
        assert_eq!(daemon.code(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    const NAME: &str = "a_second_signal_ends_at_once";
    if std::env::var_os(ROLE).is_some() {
        return play(true);
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(NAME, "deaf");
        daemon.signal(Signal::SIGTERM);
        daemon.wait_for("stopping");
        daemon.signal(signal);
        assert_eq!(daemon.code(), Some(signals::INTERRUPTED));
    }
}

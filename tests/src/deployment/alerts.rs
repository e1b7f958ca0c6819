//! The alerts of a deployment: as `portolan alert list` tells them, and live as `portolan alert watch` does.

use std::fs::File;
use std::io::Read as _;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Deployment;
use crate::lab::{Finished, Process};
use crate::wait::{SOON, try_wait_for, wait_until};

/// The pause between two looks at what a watch printed.
const POLL: Duration = Duration::from_millis(1);

impl Deployment {
    /// `portolan alert list --all -o json`: resolved ones too, as long as they are kept.
    #[track_caller]
    pub fn alerts(&self) -> Vec<Value> {
        list(self.ask(&["alert", "list", "--all"]))
    }

    /// `portolan alert list --firing -o json`. It must exit with 3 when it lists any, with 0 otherwise.
    #[track_caller]
    pub fn firing(&self) -> Vec<Value> {
        let finished = self.console(&["alert", "list", "--firing", "-o", "json"]);
        let alerts = list(finished.json());
        finished.code_is(if alerts.is_empty() { 0 } else { 3 });
        alerts
    }

    /// Waits for an alert that is so.
    #[track_caller]
    pub fn wait_for_alert(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_alert_within(SOON, what, is_so)
    }

    /// The same within a time of the test's.
    #[track_caller]
    pub fn wait_for_alert_within(
        &self,
        limit: Duration,
        what: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut last = Vec::new();
        let found = try_wait_for(limit, || {
            last = self.alerts();
            last.iter().find(|alert| is_so(alert)).cloned()
        });
        found.unwrap_or_else(|| panic!("waited {limit:?} in vain for {what}; there are {last:#?}"))
    }

    /// Waits until an alert, by its id, has a `status`: `firing`, `acknowledged` or `resolved`.
    #[track_caller]
    pub fn wait_for_status_of_alert(&self, id: &str, status: &str) -> Value {
        let what = format!("alert {id} to be {status}");
        self.wait_for_alert(&what, |alert| alert["id"] == id && alert["status"] == status)
    }

    /// `portolan alert watch -o jsonl`, running, with what stood at its beginning already read.
    #[track_caller]
    pub fn watch_alerts(&self) -> AlertWatch {
        let process = self.console_command(&["alert", "watch", "-o", "jsonl"]).spawn();
        let file = process.open_stdout();
        let mut watch = AlertWatch { process, file, partial: Vec::new(), events: Vec::new() };
        wait_until("`alert watch` to be ready", SOON, || {
            watch.read();
            watch.events.iter().any(|event| event.kind == "ready")
        });
        watch
    }
}

/// One line of `alert watch`.
#[derive(Clone, Debug)]
pub struct AlertEvent {
    /// When the line was read here.
    pub at: Instant,
    /// `current`, `ready`, `firing`, `changed`, `acknowledged`, `commented`, `resolved`, `held-back`, `released`, `missed`.
    pub kind: String,
    /// As `alert list` has it; null with `ready` and `missed`.
    pub alert: Value,
}

/// A running `portolan alert watch`. It ends when dropped.
#[derive(Debug)]
pub struct AlertWatch {
    process: Process,
    file: File,
    partial: Vec<u8>,
    events: Vec<AlertEvent>,
}

impl AlertWatch {
    /// All it printed so far.
    #[track_caller]
    pub fn events(&mut self) -> &[AlertEvent] {
        self.read();
        &self.events
    }

    /// How many lines of a kind there were about an alert.
    #[track_caller]
    pub fn count(&mut self, kind: &str, id: &Value) -> usize {
        self.events().iter().filter(|event| event.kind == kind && event.alert["id"] == *id).count()
    }

    /// Waits for a line that is so, printed before or still to come.
    #[track_caller]
    pub fn wait_for(
        &mut self,
        limit: Duration,
        what: &str,
        is_so: impl Fn(&AlertEvent) -> bool,
    ) -> AlertEvent {
        self.wait_after(0, limit, what, is_so)
    }

    /// The same, among the lines after the first `seen`.
    #[track_caller]
    pub fn wait_after(
        &mut self,
        seen: usize,
        limit: Duration,
        what: &str,
        is_so: impl Fn(&AlertEvent) -> bool,
    ) -> AlertEvent {
        let (end, mut seen) = (Instant::now() + limit, seen);
        loop {
            self.read();
            if let Some(found) = self.events[seen..].iter().find(|event| is_so(event)) {
                return found.clone();
            }
            seen = self.events.len();
            if Instant::now() >= end {
                let last: Vec<_> = self.events.iter().rev().take(20).collect();
                panic!("waited {limit:?} in vain for {what}; the last lines, newest first: {last:#?}");
            }
            thread::sleep(POLL);
        }
    }

    /// Ends it as Ctrl-C does.
    #[track_caller]
    pub fn interrupt(mut self) -> Finished {
        self.process.signal(nix::sys::signal::Signal::SIGINT);
        self.process.wait(SOON)
    }

    #[track_caller]
    fn read(&mut self) {
        self.file.read_to_end(&mut self.partial).expect("a file below /run");
        let at = Instant::now();
        let whole = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        for line in self.partial.drain(..whole).collect::<Vec<_>>().split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let document: Value = serde_json::from_slice(line)
                .unwrap_or_else(|error| panic!("no JSON ({error}): {}", String::from_utf8_lossy(line)));
            let kind = document["kind"].as_str().unwrap_or_else(|| panic!("no `kind` in {document}"));
            let alert = document["alert"].clone();
            self.events.push(AlertEvent { at, kind: kind.to_owned(), alert });
        }
    }
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(all) => all,
        other => panic!("not a list: {other}"),
    }
}

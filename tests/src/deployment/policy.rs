//! The policy of a deployment and its checks, as `portolan policy` and `portolan check` tell them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::Deployment;
use crate::lab::{Finished, Lab};
use crate::wait::{SOON, try_wait_for, wait_for};

/// A policy with the lab's segments as they are at the moment, and what else it says.
pub fn with_segments(lab: &Lab, rest: &str) -> String {
    let segment = |segment: crate::lab::Segment| {
        format!("[segment.{}]\ncidrs = [\"{}\", \"{}\"]\n", segment.name, segment.v4, segment.v6)
    };
    let segments: String = lab.segments().into_iter().map(segment).collect();
    format!("version = 1\n{segments}{rest}")
}

impl Deployment {
    /// Writes a policy of several files into a directory of its own, in place of what was there.
    #[track_caller]
    pub fn policy_directory(&self, files: &[(&str, &str)]) -> PathBuf {
        let directory = self.directory().join("policy");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a directory below /run");
        for (name, text) in files {
            fs::write(directory.join(name), text).expect("a file below /run");
        }
        directory
    }

    /// `portolan policy apply … -o json` of one file with this text, whatever its exit code.
    #[track_caller]
    pub fn try_apply(&self, toml: &str, more: &[&str]) -> Finished {
        let path = self.policy_directory(&[("policy.toml", toml)]);
        self.policy(&[&["apply", &path.display().to_string()], more].concat())
    }

    /// The same, which must succeed: what it printed.
    #[track_caller]
    pub fn apply(&self, toml: &str) -> Value {
        let applied = self.try_apply(toml, &[]);
        applied.ok();
        applied.json()
    }

    /// `portolan policy … -o json`, whatever its exit code.
    #[track_caller]
    pub fn policy(&self, args: &[&str]) -> Finished {
        self.console(&[&["policy"], args, &["-o", "json"]].concat())
    }

    /// `portolan check show NAME -o json`.
    #[track_caller]
    pub fn check(&self, name: &str) -> Value {
        self.ask(&["check", "show", name])
    }

    /// Waits until every expectation of a check is in this state: `ok`, `pending`, `firing` or `unknown`.
    #[track_caller]
    pub fn wait_for_check(&self, name: &str, state: &str, limit: Duration) -> Value {
        let mut last = Value::Null;
        let found = try_wait_for(limit, || {
            last = self.check(name);
            let all = ["ok", "pending", "firing", "unknown"];
            let elsewhere = all.iter().filter(|other| **other != state).any(|other| last[*other] != 0);
            (last["state"] == state && last[state] != 0 && !elsewhere).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("check {name} does not become {state} as a whole: {last:#}"))
    }

    /// The `assignment_revision` that `satellite list` gives a satellite.
    #[track_caller]
    pub fn revision_of(&self, name: &str) -> u64 {
        let list = self.ask(&["satellite", "list"]);
        let found = list.as_array().and_then(|all| all.iter().find(|satellite| satellite["name"] == name));
        let revision = found.and_then(|satellite| satellite["assignment_revision"].as_u64());
        revision.unwrap_or_else(|| panic!("no revision of {name} in {list}"))
    }

    /// Waits until every expectation of a check is met, as seen from every vantage point that is online.
    #[track_caller]
    pub fn wait_until_ok(&self, name: &str) -> Value {
        wait_for(&format!("all of check {name} to be seen from everywhere"), SOON, || {
            let check = self.check(name);
            let online =
                check["vantage_points"].as_array()?.iter().filter(|point| point["status"] == "online");
            online.clone().all(|point| point["oldest_seen"].is_string()).then_some(())
        });
        self.wait_for_check(name, "ok", SOON)
    }

    /// Waits for a problem that `portolan status` tells.
    #[track_caller]
    pub fn wait_for_problem(&self, fragment: &str, limit: Duration) -> String {
        wait_for(&format!("`portolan status` to tell of {fragment}"), limit, || {
            let said = self.console(&["status"]).stdout;
            said.contains(fragment).then_some(said)
        })
    }
}

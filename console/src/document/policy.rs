//! `portolan policy … -o json`: what is to be said of a policy, and the versions that there were.

use super::{Row, cell, non_empty};
use crate::output::time;
use jiff::Timestamp;
use portolan_common::document::{Mistake, Mistakes};
use portolan_proto::v1::{self, policy_difference::Change};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// `policy check`, `apply` and `rollback`.
#[derive(Serialize)]
pub struct ReportDocument<'a> {
    /// There are no mistakes.
    pub valid: bool,
    pub mistakes: Vec<MistakeDocument<'a>>,
    /// How many more there are.
    pub mistakes_omitted: u64,
    /// Parts that are understood and kept, and that nothing acts upon yet.
    pub inactive: Vec<InactiveDocument>,
    // What only the server knows is null where it was not asked, or there are mistakes.
    pub warnings: Option<Vec<WarningDocument<'a>>>,
    /// What has to be added to satellites' own scope files.
    pub scope_changes: Option<Vec<ScopeChangeDocument<'a>>>,
    /// Against the policy in force.
    pub differences: Option<Vec<DifferenceDocument<'a>>>,
    pub load: Option<LoadDocument<'a>>,
    pub checks: Option<u64>,
    /// The version in force now; 0: none.
    pub version: Option<u64>,
    /// A new version was made.
    pub applied: bool,
}

#[derive(Serialize)]
pub struct MistakeDocument<'a> {
    pub file: &'a str,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Characters at fault, 1 at least.
    pub length: usize,
    pub message: &'a str,
    pub hint: Option<&'a str>,
    /// The line as it stands there.
    pub text: &'a str,
}

#[derive(Serialize)]
pub struct WarningDocument<'a> {
    /// `target-in-no-segment`, `no-vantage-point`, `unknown-satellite`, `satellite-pending`, `outside-scope`,
    /// `satellite-too-old`, `path-too-busy`, `udp-undecidable`, `source-failed`, …
    pub kind: &'a str,
    /// A check, a satellite, a segment.
    pub subject: &'a str,
    pub message: &'a str,
    /// The satellite whose scope file is concerned.
    pub satellite: Option<&'a str>,
    /// CIDRs to add to that file's `allow`.
    pub add_to_scope: &'a [String],
}

/// What a satellite's scope file lacks.
#[derive(Serialize)]
pub struct ScopeChangeDocument<'a> {
    pub satellite: &'a str,
    /// CIDRs for its `allow`, each once.
    pub add: Vec<&'a str>,
}

#[derive(Clone, Serialize)]
pub struct InactiveDocument {
    pub what: String,
    pub why: String,
}

#[derive(Serialize)]
pub struct DifferenceDocument<'a> {
    /// `start`, `stop`, `change`.
    pub change: &'static str,
    /// `check`, `segment`, `flow`, …
    pub kind: &'a str,
    pub name: &'a str,
    pub words: &'a str,
}

/// What a policy sends.
#[derive(Serialize)]
pub struct LoadDocument<'a> {
    /// Busiest first.
    pub pairs: Vec<PairDocument<'a>>,
    pub busiest: Option<PathDocument<'a>>,
}

#[derive(Serialize)]
pub struct PairDocument<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub probes_per_hour: u64,
}

#[derive(Serialize)]
pub struct PathDocument<'a> {
    pub satellite: &'a str,
    /// The /24 or /64.
    pub network: &'a str,
    pub probes_per_second: f64,
}

/// A version in the history.
#[derive(Serialize)]
pub struct VersionDocument<'a> {
    pub version: u64,
    pub applied_at: Option<Timestamp>,
    pub author: &'a str,
    pub message: Option<&'a str>,
    /// The version that it repeats.
    pub rollback_to: Option<u64>,
    /// What it changed, a line each; at most 50.
    pub changes: &'a [String],
    pub changes_omitted: u64,
}

/// `policy show`.
#[derive(Serialize)]
pub struct PolicyDocument<'a> {
    #[serde(flatten)]
    pub version: VersionDocument<'a>,
    pub files: Vec<FileDocument<'a>>,
}

#[derive(Serialize)]
pub struct FileDocument<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

/// `policy export`.
#[derive(Serialize)]
pub struct ExportDocument<'a> {
    pub version: u64,
    /// As it was typed.
    pub directory: String,
    pub files: Vec<&'a str>,
}

impl<'a> ReportDocument<'a> {
    /// Mistakes, or what else there is to say.
    pub fn new(
        mistakes: &'a [Mistakes],
        inactive: Vec<InactiveDocument>,
        report: Option<&'a v1::PolicyReport>,
    ) -> Self {
        let of_file =
            |file: &'a Mistakes| file.mistakes.iter().map(|mistake| MistakeDocument::new(file, mistake));
        let report = report.filter(|_| mistakes.is_empty());
        Self {
            valid: mistakes.is_empty(),
            mistakes: mistakes.iter().flat_map(of_file).collect(),
            mistakes_omitted: mistakes.iter().map(|file| file.omitted as u64).sum(),
            inactive,
            warnings: report.map(|report| report.warnings.iter().map(WarningDocument::from).collect()),
            scope_changes: report.map(|report| scope_changes(&report.warnings)),
            differences: report.map(differences),
            load: report.map(|report| LoadDocument::from(report.load.as_ref())),
            checks: report.map(|report| report.checks),
            version: report.map(|report| report.version),
            applied: report.is_some_and(|report| report.applied),
        }
    }
}

/// What would start, stop and change.
pub fn differences(report: &v1::PolicyReport) -> Vec<DifferenceDocument<'_>> {
    report.differences.iter().map(DifferenceDocument::from).collect()
}

impl<'a> MistakeDocument<'a> {
    fn new(file: &'a Mistakes, mistake: &'a Mistake) -> Self {
        let fault = file.source.get(mistake.span.clone()).and_then(|fault| fault.lines().next());
        Self {
            file: &file.file_name,
            line: mistake.line,
            column: mistake.column,
            length: fault.map_or(0, |fault| fault.chars().count()).max(1),
            message: &mistake.message,
            hint: mistake.hint.as_deref(),
            text: file.source.lines().nth(mistake.line - 1).unwrap_or_default(),
        }
    }
}

/// By satellite, each network once.
fn scope_changes(warnings: &[v1::PolicyWarning]) -> Vec<ScopeChangeDocument<'_>> {
    let mut by_satellite: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for warning in warnings.iter().filter(|warning| !warning.satellite.is_empty()) {
        let add = warning.add_to_scope.iter().map(String::as_str);
        by_satellite.entry(&warning.satellite).or_default().extend(add);
    }
    let changes = by_satellite.into_iter().filter(|(_, add)| !add.is_empty());
    changes
        .map(|(satellite, add)| ScopeChangeDocument { satellite, add: add.into_iter().collect() })
        .collect()
}

impl<'a> From<&'a v1::PolicyWarning> for WarningDocument<'a> {
    fn from(warning: &'a v1::PolicyWarning) -> Self {
        Self {
            kind: &warning.kind,
            subject: &warning.subject,
            message: &warning.message,
            satellite: non_empty(&warning.satellite),
            add_to_scope: &warning.add_to_scope,
        }
    }
}

impl From<&v1::PolicyInactive> for InactiveDocument {
    fn from(inactive: &v1::PolicyInactive) -> Self {
        Self { what: inactive.what.clone(), why: inactive.why.clone() }
    }
}

impl<'a> From<&'a v1::PolicyDifference> for DifferenceDocument<'a> {
    fn from(difference: &'a v1::PolicyDifference) -> Self {
        Self {
            change: match difference.change() {
                Change::Start => "start",
                Change::Stop => "stop",
                Change::Change | Change::Unspecified => "change",
            },
            kind: &difference.kind,
            name: &difference.name,
            words: &difference.words,
        }
    }
}

impl<'a> From<Option<&'a v1::PolicyLoad>> for LoadDocument<'a> {
    fn from(load: Option<&'a v1::PolicyLoad>) -> Self {
        let Some(load) = load else { return Self { pairs: vec![], busiest: None } };
        let pair = |pair: &'a v1::PairLoad| PairDocument {
            from: &pair.from,
            to: &pair.to,
            probes_per_hour: pair.probes_per_hour,
        };
        let path = |path: &'a v1::PathLoad| PathDocument {
            satellite: &path.satellite,
            network: &path.network,
            probes_per_second: path.probes_per_second,
        };
        Self { pairs: load.pairs.iter().map(pair).collect(), busiest: load.busiest.as_ref().map(path) }
    }
}

impl<'a> From<&'a v1::PolicyVersion> for VersionDocument<'a> {
    fn from(version: &'a v1::PolicyVersion) -> Self {
        Self {
            version: version.version,
            applied_at: time::from_wire(version.applied_at_ms),
            author: &version.author,
            message: non_empty(&version.message),
            rollback_to: (version.rollback_to != 0).then_some(version.rollback_to),
            changes: &version.changes,
            changes_omitted: version.changes_dropped,
        }
    }
}

impl<'a> From<&'a v1::PolicyFile> for FileDocument<'a> {
    fn from(file: &'a v1::PolicyFile) -> Self {
        Self { name: &file.name, text: &file.text }
    }
}

impl Row for VersionDocument<'_> {
    const HEADER: &'static [&'static str] =
        &["version", "applied_at", "author", "message", "rollback_to", "changes", "changes_omitted"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.version.to_string(),
            cell(self.applied_at),
            self.author.to_owned(),
            cell(self.message),
            cell(self.rollback_to),
            self.changes.join("; "),
            self.changes_omitted.to_string(),
        ]
    }
}

impl Row for DifferenceDocument<'_> {
    const HEADER: &'static [&'static str] = &["change", "kind", "name", "words"];

    fn cells(&self) -> Vec<String> {
        [self.change, self.kind, self.name, self.words].map(str::to_owned).to_vec()
    }
}

#[cfg(test)]
pub mod tests;

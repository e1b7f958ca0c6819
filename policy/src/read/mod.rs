//! Reading the files of a policy: each by itself, then what only all of them together can show. Every mistake of every
//! file is told at once.
//!
//! Reading goes on with a default where a value is wrong, so that one mistake does not cause others; what was read
//! counts only when nothing was noted.

mod checks;
mod fields;
mod flows;
mod receivers;
mod references;
mod routes;
mod secrets;
mod segments;
mod steps;
mod targets;
mod tenants;
mod whole;
mod windows;

use crate::model::{Blackout, Flow, Maintenance, Policy, Receiver, Route, Segment, Segmentation, Service};
use checks::CheckDraft;
use fields::{Named, default_timezone};
use jiff::Timestamp;
use portolan_common::document::{At, Flaw, Mistakes, Reader, read_with};
use references::Reference;
use segments::Claim;
use std::collections::HashMap;

/// The most files of a policy.
pub const MAX_FILES: usize = 1000;
/// The longest policy, all files together, in bytes.
pub const MAX_TEXT: usize = 3 * 1024 * 1024;
/// The most checks of a policy.
pub const MAX_CHECKS: usize = 100_000;
/// The most addresses that the targets of one check may come to.
pub const MAX_ADDRESSES: u128 = 1 << 16;
/// In how many mistakes about a time zone it is said which one may have been meant.
const MAX_ZONES_SUGGESTED: usize = 20;
/// The format that is read.
const VERSION: i64 = 1;

/// One file of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// As it is shown in mistakes; each name once.
    pub name: String,
    /// TOML.
    pub text: String,
}

/// Reads all files as one policy. `now` decides whether an exception has expired.
///
/// # Errors
/// The mistakes of every file that has any, in the order of the files.
pub fn read(files: &[PolicyFile], now: Timestamp) -> Result<Policy, Vec<Mistakes>> {
    let mut reports = Vec::new();
    let mut parts = Vec::new();
    let mut shared = Shared::new(now);
    let mut length = 0;
    for (i, file) in files.iter().enumerate() {
        length += file.text.len();
        if let Some(flaw) = beyond_limits(files, i, length) {
            let mut report = Mistakes::new(&file.name, "");
            report.add(0..0, flaw);
            reports.push(report);
            return Err(faulty(reports));
        }
        let (part, report) = read_with(&file.name, &file.text, |root| Some(Part::read(root, &mut shared)));
        parts.push(part.unwrap_or_default());
        reports.push(report);
    }
    if reports.is_empty() {
        let mut report = Mistakes::new("policy", "");
        report.add(0..0, Flaw::new("there is no file").hint("a policy has one .toml file at least"));
        reports.push(report);
    }
    let policy = whole::join(parts, &mut reports);
    let reports = faulty(reports);
    if reports.is_empty() { Ok(policy) } else { Err(reports) }
}

fn faulty(mut reports: Vec<Mistakes>) -> Vec<Mistakes> {
    reports.retain(|report| !report.is_empty());
    reports
}

fn beyond_limits(files: &[PolicyFile], i: usize, length: usize) -> Option<Flaw> {
    let file = files.get(i)?;
    if i >= MAX_FILES {
        return Some(Flaw::new(format!("there are more than {MAX_FILES} files")));
    }
    if length > MAX_TEXT {
        let flaw = Flaw::new(format!("with this file the policy is {length} bytes long"));
        return Some(flaw.hint(format!("{} MiB are the limit, all files together", MAX_TEXT >> 20)));
    }
    let earlier = files.get(..i)?;
    earlier
        .iter()
        .any(|other| other.name == file.name)
        .then(|| Flaw::new("two files have this name").hint("each name can be given once"))
}

/// What the reading of all files has in common.
struct Shared {
    now: Timestamp,
    /// Of whatever names none, in the file that is read.
    timezone: String,
    /// How many address ranges all targets came to so far.
    ranges: usize,
    /// The regular expressions that were compiled, and what was wrong with each.
    expressions: HashMap<String, Result<(), Flaw>>,
    /// How many more misspelt time zones are compared with all there are.
    zones_to_suggest: usize,
}

impl Shared {
    fn new(now: Timestamp) -> Self {
        let timezone = default_timezone();
        Self { now, timezone, ranges: 0, expressions: HashMap::new(), zones_to_suggest: MAX_ZONES_SUGGESTED }
    }
}

/// What one file says, with the places that are needed to judge all files together.
#[derive(Default)]
struct Part {
    /// Nothing of it was lost to broken syntax.
    whole: bool,
    version: bool,
    segments: Vec<Named<Segment>>,
    /// Every network of every segment.
    claims: Vec<Claim>,
    services: Vec<Named<Service>>,
    checks: Vec<Named<CheckDraft>>,
    segmentation: Option<At<Segmentation>>,
    flows: Vec<Named<Flow>>,
    receivers: Vec<Named<Receiver>>,
    routes: Vec<Route>,
    maintenance: Vec<Named<Maintenance>>,
    blackouts: Vec<Named<Blackout>>,
    references: Vec<Reference>,
}

impl Part {
    fn read(root: &mut Reader<'_>, shared: &mut Shared) -> Self {
        let mut part = Self { whole: root.is_whole(), version: version(root), ..Self::default() };
        shared.timezone = fields::timezone(root, shared).unwrap_or_else(default_timezone);
        segments::read(root, &mut part);
        segments::read_services(root, shared, &mut part);
        checks::read(root, shared, &mut part);
        flows::read_segmentation(root, &mut part);
        flows::read(root, shared, &mut part);
        receivers::read(root, &mut part);
        routes::read(root, &mut part);
        windows::read_maintenance(root, shared, &mut part);
        windows::read_blackouts(root, shared, &mut part);
        secrets::find(root);
        part
    }
}

/// Whether the file says which format it has.
fn version(root: &mut Reader<'_>) -> bool {
    if let Some(version) = root.integer("version", i64::MIN..=i64::MAX)
        && version.value != VERSION
    {
        let flaw = Flaw::new(format!("version {} is none that is known here", version.value));
        root.mistake(version.span, flaw.hint(format!("version = {VERSION}")));
    }
    root.has("version")
}

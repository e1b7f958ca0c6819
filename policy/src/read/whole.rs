//! What only all files together can show: names given twice, names of nothing, receivers that nobody hears of.

use super::checks::CheckDraft;
use super::fields::Named;
use super::references::{Kind, Reference};
use super::segments::Claim;
use super::{MAX_CHECKS, Part, VERSION, tenants};
use crate::model::{Check, Policy};
use portolan_common::document::{At, Flaw, MAX_MISTAKES, Mistakes};
use std::collections::{BTreeMap, BTreeSet};

/// How many names of a circle are shown.
const MAX_SHOWN: usize = 8;
/// It is told that all is well, not of alerts.
const WATCHDOG: &str = "watchdog";

/// A place in one of the files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Which file.
    pub(super) file: usize,
    /// Which byte.
    pub(super) at: usize,
}

/// `network.toml:12`.
pub(super) fn place(reports: &[Mistakes], place: &Place) -> String {
    reports
        .get(place.file)
        .map_or(String::new(), |report| format!("{}:{}", report.file_name, report.line_of(place.at)))
}

/// Joins what the files say, and notes what does not fit together.
pub(super) fn join(parts: Vec<Part>, reports: &mut [Mistakes]) -> Policy {
    let whole = parts.iter().all(|part| part.whole);
    judge_version(&parts, whole, reports);
    let mut all = Joined::default();
    for (file, part) in parts.into_iter().enumerate() {
        all.add(file, part);
    }
    let mut policy = Policy {
        segments: by_name("segment", all.segments, reports),
        services: by_name("service", all.services, reports),
        flows: by_name("flow", all.flows, reports),
        maintenance: by_name("maintenance", all.maintenance, reports),
        blackouts: by_name("blackout", all.blackouts, reports),
        routes: all.routes,
        segmentation: segmentation(all.segmentations, reports),
        ..Policy::default()
    };
    let receivers = places(&all.receivers);
    policy.receivers = by_name("receiver", all.receivers, reports);
    let places = places(&all.checks);
    let drafts = by_name("check", all.checks, reports);
    policy.checks = checks(&drafts, &places, &policy, reports);
    tenants::judge_claims(&mut all.claims, reports);
    // What seems to be missing may stand where the syntax is broken.
    if whole {
        for (file, reference) in &all.references {
            if let Some(report) = reports.get_mut(*file) {
                reference.judge(&policy, report);
            }
        }
        judge_circles(&drafts, &places, reports);
        judge_unheard(&policy, &receivers, &all.references, reports);
    }
    policy
}

/// All parts, each thing with the number of its file.
#[derive(Default)]
struct Joined {
    segments: Vec<(usize, Named<crate::model::Segment>)>,
    claims: Vec<(usize, Claim)>,
    services: Vec<(usize, Named<crate::model::Service>)>,
    checks: Vec<(usize, Named<CheckDraft>)>,
    segmentations: Vec<(usize, At<crate::model::Segmentation>)>,
    flows: Vec<(usize, Named<crate::model::Flow>)>,
    receivers: Vec<(usize, Named<crate::model::Receiver>)>,
    routes: Vec<crate::model::Route>,
    maintenance: Vec<(usize, Named<crate::model::Maintenance>)>,
    blackouts: Vec<(usize, Named<crate::model::Blackout>)>,
    references: Vec<(usize, Reference)>,
}

impl Joined {
    fn add(&mut self, file: usize, part: Part) {
        fn put<T>(all: &mut Vec<(usize, T)>, file: usize, some: impl IntoIterator<Item = T>) {
            all.extend(some.into_iter().map(|one| (file, one)));
        }
        put(&mut self.segments, file, part.segments);
        put(&mut self.claims, file, part.claims);
        put(&mut self.services, file, part.services);
        put(&mut self.checks, file, part.checks);
        put(&mut self.segmentations, file, part.segmentation);
        put(&mut self.flows, file, part.flows);
        put(&mut self.receivers, file, part.receivers);
        put(&mut self.maintenance, file, part.maintenance);
        put(&mut self.blackouts, file, part.blackouts);
        put(&mut self.references, file, part.references);
        self.routes.extend(part.routes);
    }
}

fn judge_version(parts: &[Part], whole: bool, reports: &mut [Mistakes]) {
    if let Some(report) = reports.first_mut()
        && whole
        && !parts.is_empty()
        && !parts.iter().any(|part| part.version)
    {
        let flaw = Flaw::new("the policy does not say which version of the format it has");
        report.add(0..0, flaw.hint(format!("begin a file with version = {VERSION}")));
    }
}

/// Where each name stands first.
fn places<T>(named: &[(usize, Named<T>)]) -> BTreeMap<String, (usize, std::ops::Range<usize>)> {
    let mut places = BTreeMap::new();
    for (file, named) in named {
        places.entry(named.name.value.clone()).or_insert((*file, named.name.span.clone()));
    }
    places
}

/// Each by its name; a name given twice is noted.
fn by_name<T>(kind: &str, named: Vec<(usize, Named<T>)>, reports: &mut [Mistakes]) -> BTreeMap<String, T> {
    let mut first = BTreeMap::new();
    let mut all = BTreeMap::new();
    for (file, Named { name, value }) in named {
        if let Some(earlier) = first.get(&name.value) {
            let hint = format!("the other one is at {}", place(reports, earlier));
            let flaw =
                Flaw::new(format!("two {kind}s have the name `{}`", name.value.escape_debug())).hint(hint);
            if let Some(report) = reports.get_mut(file) {
                report.add(name.span, flaw);
            }
            continue;
        }
        first.insert(name.value.clone(), Place { file, at: name.span.start });
        all.insert(name.value, value);
    }
    all
}

fn segmentation(
    all: Vec<(usize, At<crate::model::Segmentation>)>,
    reports: &mut [Mistakes],
) -> Option<crate::model::Segmentation> {
    let mut all = all.into_iter();
    let (file, first) = all.next()?;
    let hint = format!("the other one is at {}", place(reports, &Place { file, at: first.span.start }));
    for (file, other) in all {
        if let Some(report) = reports.get_mut(file) {
            report.add(other.span, Flaw::new("[segmentation] stands in two files").hint(&hint));
        }
    }
    Some(first.value)
}

type Places = BTreeMap<String, (usize, std::ops::Range<usize>)>;

fn checks(
    drafts: &BTreeMap<String, CheckDraft>,
    places: &Places,
    policy: &Policy,
    reports: &mut [Mistakes],
) -> BTreeMap<String, Check> {
    if drafts.len() > MAX_CHECKS
        && let Some((file, span)) = places.values().nth(MAX_CHECKS)
        && let Some(report) = reports.get_mut(*file)
    {
        let flaw = Flaw::new(format!("the policy has {} checks", drafts.len()));
        report
            .add(span.clone(), flaw.hint(format!("{MAX_CHECKS} are the limit: check more targets with one")));
    }
    let mut checks = BTreeMap::new();
    for (name, draft) in drafts {
        let Some(report) = places.get(name).and_then(|(file, _)| reports.get_mut(*file)) else { continue };
        let tenant = tenants::of_check(draft, &policy.segments, report);
        checks.insert(name.clone(), Check { tenant, ..draft.check.clone() });
    }
    checks
}

/// Notes checks that hold back each other, each circle once.
fn judge_circles(drafts: &BTreeMap<String, CheckDraft>, places: &Places, reports: &mut [Mistakes]) {
    // Names whose dependencies have all been followed to their ends.
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut circles = 0;
    for start in drafts.keys() {
        // The way to where the search stands: each name, and how many of its dependencies were followed.
        let mut way: Vec<(&str, usize)> = Vec::new();
        let mut on_way: BTreeSet<&str> = BTreeSet::new();
        let mut next = Some(start.as_str());
        loop {
            if let Some(name) = next.take().filter(|name| !done.contains(name) && drafts.contains_key(*name))
            {
                way.push((name, 0));
                on_way.insert(name);
            }
            let Some((name, followed)) = way.last_mut() else { break };
            let name = *name;
            let dependency = drafts.get(name).and_then(|draft| draft.depend_on.get(*followed));
            *followed += 1;
            match dependency {
                None => {
                    way.pop();
                    on_way.remove(name);
                    done.insert(name);
                }
                Some(dependency) if on_way.contains(dependency.as_str()) => {
                    circles += 1;
                    if circles > MAX_MISTAKES {
                        return;
                    }
                    let circle =
                        way.iter().map(|(name, _)| *name).skip_while(|name| *name != dependency.value);
                    let flaw = circle_flaw(&circle.collect::<Vec<_>>());
                    if let Some(report) = places.get(name).and_then(|(file, _)| reports.get_mut(*file)) {
                        report.add(dependency.span.clone(), flaw);
                    }
                }
                Some(dependency) => next = Some(&dependency.value),
            }
        }
    }
}

fn circle_flaw(circle: &[&str]) -> Flaw {
    let hint = "the alerts of a check hold back those that depend on it, so one must come first";
    let [first, others @ ..] = circle else { return Flaw::new("the checks depend on each other") };
    if others.is_empty() {
        return Flaw::new(format!("check `{first}` depends on itself")).hint(hint);
    }
    let mut shown: Vec<_> = circle.iter().take(MAX_SHOWN).map(|name| format!("`{name}`")).collect();
    if circle.len() > MAX_SHOWN {
        shown.push("…".to_owned());
    }
    Flaw::new(format!("checks depend on each other: {} → `{first}`", shown.join(" → "))).hint(hint)
}

/// Notes receivers that no route leads to.
fn judge_unheard(
    policy: &Policy,
    places: &Places,
    references: &[(usize, Reference)],
    reports: &mut [Mistakes],
) {
    let heard: BTreeSet<&str> = references
        .iter()
        .filter(|(_, reference)| reference.kind == Kind::Receiver)
        .map(|(_, reference)| reference.name.as_str())
        .collect();
    for (name, receiver) in &policy.receivers {
        if heard.contains(name.as_str()) || receiver.kind == WATCHDOG {
            continue;
        }
        if let Some((file, span)) = places.get(name)
            && let Some(report) = reports.get_mut(*file)
        {
            let flaw = Flaw::new(format!("no route leads to receiver `{name}`"));
            report.add(span.clone(), flaw.hint("name it in the `to` of a [[route]], or take it out"));
        }
    }
}

//! What another policy would start, stop and change, in words. What is only written otherwise is no difference: the
//! order of things, comments, `80,443` for `443,80`, `60s` for `1m`, two files for one.

mod checks;
mod others;
#[cfg(test)]
mod tests;

use crate::Policy;
use std::collections::{BTreeMap, BTreeSet};

/// What becomes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// It is new.
    Start,
    /// It is no more.
    Stop,
    /// It is another.
    Change,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What becomes of it.
    pub change: Change,
    /// `check`, `segment`, `flow`, …
    pub kind: &'static str,
    /// Its name; what a route, which has none, says; empty for the segmentation, of which there is one.
    pub name: String,
    /// In words: "every 30s instead of 1m; 8080 must be open".
    pub words: String,
}

/// What `new` does that `old` did not, and the other way round: by kind, checks first, and by name.
pub fn differences(old: Option<&Policy>, new: &Policy) -> Vec<Difference> {
    let nothing = Policy::default();
    let old = old.unwrap_or(&nothing);
    let mut all = Vec::new();
    by_name("check", &old.checks, &new.checks, checks::said, checks::changed, &mut all);
    by_name("segment", &old.segments, &new.segments, others::segment_said, others::segment_changed, &mut all);
    by_name("service", &old.services, &new.services, others::service_said, others::service_changed, &mut all);
    others::segmentation(old.segmentation.as_ref(), new.segmentation.as_ref(), &mut all);
    by_name("flow", &old.flows, &new.flows, others::flow_said, others::flow_changed, &mut all);
    by_name(
        "receiver",
        &old.receivers,
        &new.receivers,
        others::receiver_said,
        others::receiver_changed,
        &mut all,
    );
    others::routes(&old.routes, &new.routes, &mut all);
    by_name(
        "maintenance",
        &old.maintenance,
        &new.maintenance,
        others::maintenance_said,
        others::maintenance_changed,
        &mut all,
    );
    by_name(
        "blackout",
        &old.blackouts,
        &new.blackouts,
        others::blackout_said,
        others::blackout_changed,
        &mut all,
    );
    all
}

/// `said` puts a thing in words; `changed` says in what two of a name differ, and nothing when they mean the same.
fn by_name<T: PartialEq>(
    kind: &'static str,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    said: impl Fn(&T) -> String,
    changed: impl Fn(&T, &T) -> Words,
    all: &mut Vec<Difference>,
) {
    let first = all.len();
    for (name, before) in old {
        let (change, words) = match new.get(name) {
            None => (Change::Stop, said(before)),
            Some(after) if before == after => continue,
            Some(after) => match changed(before, after).0 {
                words if words.is_empty() => continue,
                words => (Change::Change, words.join("; ")),
            },
        };
        all.push(Difference { change, kind, name: name.clone(), words });
    }
    for (name, after) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        all.push(Difference { change: Change::Start, kind, name: name.clone(), words: said(after) });
    }
    if let Some(these) = all.get_mut(first..) {
        these.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// In what two things differ, a phrase each.
#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn say(&mut self, words: impl Into<String>) {
        self.0.push(words.into());
    }

    /// `tenant acme instead of default`, if they differ; `shown` puts a value in words.
    fn instead<T: PartialEq>(&mut self, what: &str, old: &T, new: &T, shown: impl Fn(&T) -> String) {
        if old != new {
            let (old, new) = (shown(old), shown(new));
            let gap = if what.is_empty() { "" } else { " " };
            self.say(match (old.is_empty(), new.is_empty()) {
                (false, true) => format!("no {what}{gap}{old}"),
                (true, _) => format!("{what}{gap}{new}"),
                (false, false) => format!("{what}{gap}{new} instead of {old}"),
            });
        }
    }

    /// What is in `new` alone after `gained`, what is in `old` alone after `lost`; the order means nothing.
    fn sets<T: Ord + ToString>(&mut self, gained: &str, lost: &str, old: &[T], new: &[T]) {
        let (before, after): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
        let only = |these: &BTreeSet<&T>, others: &BTreeSet<&T>| {
            crate::words::list(these.difference(others).map(|one| one.to_string()))
        };
        for (words, only) in [(gained, only(&after, &before)), (lost, only(&before, &after))] {
            if !only.is_empty() {
                self.say(format!("{words} {only}"));
            }
        }
    }
}

/// `team=shop, compliance=pci`.
fn labels(labels: &BTreeMap<String, String>) -> String {
    crate::words::list(labels.iter().map(|(name, value)| format!("{name}={value}")))
}

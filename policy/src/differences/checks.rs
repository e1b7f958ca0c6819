//! Checks in words.

use super::{Words, labels};
use crate::extent::Extent;
use crate::model::{Check, TargetSource};
use crate::words::list;
use portolan_common::addresses::AddressSet;
use portolan_common::expectation::ExpectedPorts;
use portolan_common::ports::{PortSet, PortSpec};
use portolan_common::schedule::Schedule;
use std::collections::BTreeSet;

/// What a check does.
pub(super) fn said(check: &Check) -> String {
    let mut words = vec![format!("looks at {} from {}", list(check.targets.iter()), list(check.from.iter()))];
    if !check.exclude.is_empty() {
        words.push(format!("but not at {}", list(&check.exclude)));
    }
    words.push(schedule(&check.schedule));
    let ports = written(check);
    for (ports, must) in [
        (&ports.open, "must be open"),
        (&ports.closed, "must be closed"),
        (&ports.blocked, "must be blocked"),
        (&ports.watch, "watched"),
    ] {
        if !ports.is_empty() {
            words.push(format!("{} {must}", shown(ports)));
        }
    }
    if check.exclusive {
        words.push("every other TCP port must be closed".to_owned());
    }
    words.join("; ")
}

/// In what two checks differ.
pub(super) fn changed(old: &Check, new: &Check) -> Words {
    let mut words = Words::default();
    words.instead("tenant", &old.tenant, &new.tenant, Clone::clone);
    words.sets("also from", "no longer from", &old.from, &new.from);
    if (&old.targets, &old.exclude) != (&new.targets, &new.exclude) {
        targets(old, new, &mut words);
    }
    words.instead("", &old.schedule, &new.schedule, schedule);
    ports(old, new, &mut words);
    words.instead("confirm", &old.confirm, &new.confirm, ToString::to_string);
    words.instead("recover", &old.recover, &new.recover, ToString::to_string);
    let (a, b) = (&old.quorum, &new.quorum);
    for (what, old, new) in [
        ("quorum of open", a.open, b.open),
        ("quorum of closed", a.closed, b.closed),
        ("quorum of blocked", a.blocked, b.blocked),
    ] {
        words.instead(what, &old, &new, ToString::to_string);
    }
    let (a, b) = (&old.severity, &new.severity);
    for (what, old, new) in [
        ("severity of open", a.open, b.open),
        ("severity of closed", a.closed, b.closed),
        ("severity of blocked", a.blocked, b.blocked),
    ] {
        words.instead(what, &old, &new, |severity| severity.as_str().to_owned());
    }
    words.instead("labels", &old.labels, &new.labels, labels);
    words.sets("depends on", "no longer depends on", &old.depend_on, &new.depend_on);
    words.instead("method", &old.method, &new.method, Clone::clone);
    let services = |check: &Check| -> Vec<String> {
        check.services.iter().map(|step| format!("{} {}", step.probe, step.text)).collect()
    };
    words.sets("asks the service by", "no longer asks the service by", &services(old), &services(new));
    words
}

fn schedule(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Every(_) => format!("every {schedule}"),
        Schedule::Cron(_) => format!("at {schedule}"),
    }
}

/// What is looked at more and less, address by address however it is written.
fn targets(old: &Check, new: &Check, words: &mut Words) {
    let (before, after) = (extent(old), extent(new));
    for (said, more, less) in [("also looks at", &after, &before), ("no longer looks at", &before, &after)] {
        let addresses = more.0.addresses.difference(&less.0.addresses);
        let names = more.0.names.difference(&less.0.names).cloned();
        let sources = more.1.difference(&less.1).map(ToString::to_string);
        let ranges = addresses.ranges().map(|range| range.to_string());
        let all = list(ranges.chain(names).chain(sources));
        if !all.is_empty() {
            words.say(format!("{said} {all}"));
        }
    }
    let excluded = |check: &Check| Extent::new(check.exclude.iter().map(String::as_str), &[]);
    // With names or sources it matters what is left out, even where no literal target has it.
    let open_ended =
        |extent: &(Extent, BTreeSet<&TargetSource>)| !extent.0.names.is_empty() || !extent.1.is_empty();
    if open_ended(&before) || open_ended(&after) {
        let (old, new) = (excluded(old), excluded(new));
        let only = |these: &Extent, others: &Extent| {
            let addresses: AddressSet = these.addresses.difference(&others.addresses);
            let ranges = addresses.ranges().map(|range| range.to_string()).collect::<Vec<_>>();
            list(ranges.into_iter().chain(these.names.difference(&others.names).cloned()))
        };
        for (said, only) in [("leaves out", only(&new, &old)), ("no longer leaves out", only(&old, &new))] {
            if !only.is_empty() {
                words.say(format!("{said} {only}"));
            }
        }
    }
}

/// What the literal targets come to, and the sources of others.
fn extent(check: &Check) -> (Extent, BTreeSet<&TargetSource>) {
    let literals = check.targets.iter().filter_map(|target| match target {
        TargetSource::Literal(text) => Some(text.as_str()),
        _ => None,
    });
    let sources = check.targets.iter().filter(|target| !matches!(target, TargetSource::Literal(_)));
    (Extent::new(literals, &check.exclude), sources.collect())
}

/// The ports as they were written: without what `exclusive` adds.
fn written(check: &Check) -> ExpectedPorts {
    let mut ports = check.ports.clone();
    if check.exclusive {
        ports.closed.tcp = PortSet::default();
    }
    ports
}

fn ports(old: &Check, new: &Check, words: &mut Words) {
    let (before, mut after) = (written(old), written(new));
    // What had a word of its own and is now left to `exclusive`.
    after.closed =
        after.closed.union(&before.all().difference(&before.closed).intersection(&new.ports.closed));
    for (of_old, of_new, must) in [
        (&before.open, &after.open, "open"),
        (&before.closed, &after.closed, "closed"),
        (&before.blocked, &after.blocked, "blocked"),
    ] {
        let gained = of_new.difference(of_old);
        if !gained.is_empty() {
            words.say(format!("{} must be {must}", shown(&gained)));
        }
    }
    let watched = after.watch.difference(&before.watch);
    if !watched.is_empty() {
        words.say(format!("{} watched", shown(&watched)));
    }
    match (old.exclusive, new.exclusive) {
        (false, true) => words.say("every other TCP port must be closed"),
        (true, false) => words.say("other TCP ports may be open"),
        _ => {}
    }
    // With `exclusive` every TCP port is looked at, so none is left to itself.
    let left = before.all().difference(&new.ports.all());
    if !left.is_empty() {
        words.say(format!("{} no longer looked at", shown(&left)));
    }
    let of_old = before.open.union(&before.closed).union(&before.blocked);
    let only_watched = of_old.intersection(&after.watch).difference(&watched);
    if !only_watched.is_empty() {
        words.say(format!("{} only watched", shown(&only_watched)));
    }
}

/// A port list that does not fill the page.
fn shown(ports: &PortSpec) -> String {
    const MAX_SHOWN: usize = 120;
    let text = ports.to_string();
    if text.len() <= MAX_SHOWN {
        return text;
    }
    let cut = text.get(..MAX_SHOWN).and_then(|text| text.rfind(',')).unwrap_or(0);
    format!("{},… ({} ports)", text.get(..cut).unwrap_or_default(), ports.len())
}

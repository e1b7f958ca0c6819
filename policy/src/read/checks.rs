//! `[[check]]`: what must be open, closed and blocked.

use super::fields::{self, Named, labels, ports};
use super::references::{Kind, Reference};
use super::{Part, Shared, segments, steps, targets};
use crate::model::{Check, From, Quorum, Quorums, Severities, Severity};
use portolan_common::document::{At, Flaw, Reader};
use portolan_common::expectation::ExpectedPorts;
use portolan_common::observation::Protocol;
use portolan_common::ports::{PortSet, PortSpec};
use portolan_common::schedule::{MAX_EVERY, MIN_EVERY, Schedule};
use std::collections::BTreeSet;
use std::time::Duration;

/// Labels that every alert has of its own.
const OWN_LABELS: [&str; 9] =
    ["alertname", "check", "target", "address", "protocol", "port", "severity", "segment", "tenant"];
const DEFAULT_EVERY: Duration = Duration::from_secs(60);
const DEFAULT_IN_A_ROW: u32 = 2;
const MAX_IN_A_ROW: u32 = 100;
const MAX_QUORUM: u32 = 1000;
const METHODS: [(&str, &str); 4] = [("auto", "auto"), ("connect", "connect"), ("syn", "syn"), ("udp", "udp")];

/// A check, and the places of what other parts of the policy decide about.
pub(super) struct CheckDraft {
    pub(super) check: Check,
    pub(super) tenant: Option<At<String>>,
    pub(super) from: Vec<At<From>>,
    pub(super) depend_on: Vec<At<String>>,
}

pub(super) fn read(root: &mut Reader<'_>, shared: &mut Shared, part: &mut Part) {
    for mut table in root.tables("check") {
        let name = fields::name(&mut table, "check");
        let value = check(&mut table, shared, &mut part.references);
        part.checks.extend(name.map(|name| Named { name, value }));
    }
}

fn check(table: &mut Reader<'_>, shared: &mut Shared, references: &mut Vec<Reference>) -> CheckDraft {
    let tenant = segments::tenant(table);
    let from = fields::from(table, references);
    let (targets, exclude) = targets::read(table, shared);
    let exclusive = table.boolean("exclusive").is_some_and(|flag| flag.value);
    let ports = expected_ports(table, exclusive);
    let depend_on = table.strings("depend_on").unwrap_or_default();
    references.extend(depend_on.iter().map(|name| Reference::new(Kind::Check, name, name.span.clone())));
    let check = Check {
        // Decided when all segments are known.
        tenant: String::new(),
        from: from.iter().map(|from| from.value.clone()).collect(),
        targets,
        exclude,
        schedule: schedule(table, shared),
        confirm: in_a_row(table, "confirm"),
        recover: in_a_row(table, "recover"),
        quorum: quorums(table),
        severity: severities(table),
        labels: labels(table, "labels", &OWN_LABELS),
        depend_on: depend_on
            .iter()
            .map(|name| name.value.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        method: table.choice("method", &METHODS).map_or("auto", |method| method.value).to_owned(),
        services: steps::read(table, &ports.open, shared),
        ports,
        exclusive,
    };
    CheckDraft { check, tenant, from, depend_on }
}

/// The ports by what is expected of them. Each may stand under one key only.
fn expected_ports(table: &mut Reader<'_>, exclusive: bool) -> ExpectedPorts {
    let keys = ["open", "closed", "blocked", "watch"];
    let of = keys.map(|key| ports(table, key));
    for (i, (key, later)) in keys.iter().zip(&of).enumerate() {
        for (other, earlier) in keys.iter().zip(&of).take(i) {
            let both = later.intersection(earlier);
            if !both.is_empty() {
                let flaw = format!("{} both `{other}` and `{key}`", is_or_are(&both));
                table.mistake(later.span.clone(), Flaw::new(flaw).hint("a port has one of them"));
            }
        }
    }
    if !exclusive && !keys.into_iter().any(|key| table.has(key)) {
        let flaw = Flaw::new("the check expects nothing of any port");
        table.mistake(table.span(), flaw.hint("give it open, closed, blocked, watch or exclusive = true"));
    }
    let [open, mut closed, blocked, watch] = of;
    if exclusive {
        if !watch.tcp.is_empty() {
            let flaw = format!(
                "{} watched, and by `exclusive` closed",
                is_or_are(&PortSpec::only(Protocol::Tcp, watch.tcp.clone()))
            );
            let hint = "with `exclusive` every TCP port has an expectation: leave it out of `watch`";
            table.mistake(watch.span.clone(), Flaw::new(flaw).hint(hint));
        }
        let every: PortSet = std::iter::once(1..=u16::MAX).collect();
        let others = every.difference(&open.tcp).difference(&blocked.tcp);
        closed.value.tcp = closed.tcp.union(&others);
    }
    ExpectedPorts { open: open.value, closed: closed.value, blocked: blocked.value, watch: watch.value }
}

fn is_or_are(ports: &PortSpec) -> String {
    if ports.len() == 1 { format!("port {ports} is") } else { format!("ports {ports} are") }
}

fn schedule(table: &mut Reader<'_>, shared: &mut Shared) -> Schedule {
    let every = table.duration("every", MIN_EVERY..=MAX_EVERY);
    let cron = fields::cron(table, shared);
    if table.has("every") && table.has("cron") {
        let flaw = Flaw::new("a check has either `every` or `cron`").hint("leave out one of them");
        fields::mistake_at(table, "cron", flaw);
    }
    if table.has("timezone") && !table.has("cron") {
        fields::mistake_at(table, "timezone", Flaw::new("`timezone` has a meaning with `cron` only"));
    }
    match cron {
        Some(cron) => Schedule::Cron(cron.value),
        None => Schedule::Every(every.map_or(DEFAULT_EVERY, |every| every.value)),
    }
}

fn in_a_row(table: &mut Reader<'_>, key: &'static str) -> u32 {
    table.integer(key, 1..=MAX_IN_A_ROW).map_or(DEFAULT_IN_A_ROW, |number| number.value)
}

/// One quorum for all expectations, or a table of them.
fn quorums(table: &mut Reader<'_>) -> Quorums {
    let default = Quorums::default();
    if !is_table(table, "quorum") {
        return quorum(table, "quorum").map_or(default, |all| Quorums {
            open: all,
            closed: all,
            blocked: all,
        });
    }
    let Some(mut table) = table.table("quorum") else { return default };
    Quorums {
        open: quorum(&mut table, "open").unwrap_or(default.open),
        closed: quorum(&mut table, "closed").unwrap_or(default.closed),
        blocked: quorum(&mut table, "blocked").unwrap_or(default.blocked),
    }
}

/// A word or a number.
fn quorum(table: &mut Reader<'_>, key: &'static str) -> Option<Quorum> {
    if table.raw(key)?.get_ref().is_integer() {
        return table.integer(key, 1..=MAX_QUORUM).map(|number| Quorum::AtLeast(number.value));
    }
    let found = table.parse_with(key, |word| match word {
        "any" => Ok(Quorum::Any),
        "majority" => Ok(Quorum::Majority),
        "all" => Ok(Quorum::All),
        _ => Err(Flaw::new("no such quorum").hint("\"any\", \"majority\", \"all\" or a number")),
    });
    found.map(|quorum| quorum.value)
}

/// One severity for all expectations, or a table of them.
fn severities(table: &mut Reader<'_>) -> Severities {
    let default = Severities::default();
    let read = |table: &mut Reader<'_>, key| table.parse::<Severity>(key).map(|severity| severity.value);
    if !is_table(table, "severity") {
        return read(table, "severity").map_or(default, |all| Severities {
            open: all,
            closed: all,
            blocked: all,
        });
    }
    let Some(mut table) = table.table("severity") else { return default };
    Severities {
        open: read(&mut table, "open").unwrap_or(default.open),
        closed: read(&mut table, "closed").unwrap_or(default.closed),
        blocked: read(&mut table, "blocked").unwrap_or(default.blocked),
    }
}

fn is_table(table: &mut Reader<'_>, key: &'static str) -> bool {
    table.raw(key).is_some_and(|value| value.get_ref().is_table())
}

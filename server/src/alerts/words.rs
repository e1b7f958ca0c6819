//! What is said of alerts and transitions, in plain words.

use super::alert::{Alert, AlertName, Ending, Fault, Subject};
use super::context::Context;
use crate::evaluate::{Expected, Key, Sight, State, Transition};
use portolan_common::expectation::Expectation;
use portolan_common::observation::{PortState, Protocol};
use portolan_common::ports::{PortSet, PortSpec};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Vantage points that are named one by one.
const NAMED: usize = 3;

/// What must be so: one word or few.
pub fn expected(name: AlertName) -> &'static str {
    match name {
        AlertName::PortNotOpen => "open",
        AlertName::PortOpen => "closed",
        AlertName::PortReachable => "blocked",
        AlertName::HostDown => "up",
        AlertName::BaselineNew | AlertName::BaselineVanished => "as in the baseline",
        AlertName::SatelliteOffline => "online",
        AlertName::CheckUnknown => "known",
    }
}

/// What is so instead: port states, each once, or a word.
pub fn observed(alert: &Alert) -> String {
    match alert.name {
        AlertName::HostDown => "down".to_owned(),
        AlertName::SatelliteOffline => "offline".to_owned(),
        AlertName::CheckUnknown => "unknown".to_owned(),
        _ => states(alert.faults.iter().filter_map(|fault| fault.state)),
    }
}

fn states(states: impl Iterator<Item = PortState>) -> String {
    let states: BTreeSet<PortState> = states.collect();
    states.into_iter().map(PortState::as_str).collect::<Vec<_>>().join(", ")
}

/// What happened, in a sentence without a full stop.
pub fn summary(alert: &Alert, context: &Context) -> String {
    let verb = if alert.is_unresolved() { "is" } else { "was" };
    let mut text = match &alert.subject {
        Subject::Satellite(id) => format!(
            "satellite {} {verb} offline: nothing is seen from there for {}",
            context.name_of(*id),
            counted(alert.affected, "check")
        ),
        Subject::Check(name) => {
            let check = context.check(name);
            let has_satellites = check.is_none_or(|check| context.vantage_points(check).next().is_some());
            let why = if has_satellites { "no satellite of it says anything" } else { "it has no satellite" };
            format!("of {} of check {name} nothing {verb} known: {why}", counted(alert.affected, "port"))
        }
        Subject::Key(key) => {
            let place = place(key, &alert.target);
            let observed = observed(alert);
            let fault = match alert.name {
                // Nobody who saw it is left to say what it was.
                name if observed.is_empty() => {
                    format!("{place} {verb} not as expected and must be {}", expected(name))
                }
                AlertName::HostDown => format!("{place} {verb} silent and must answer"),
                AlertName::BaselineNew => format!("{place} {verb} {observed} and was not in the baseline"),
                AlertName::BaselineVanished => {
                    format!("{place} {verb} {observed} and was open in the baseline")
                }
                AlertName::PortReachable if observed != "open" => {
                    format!("{place} {verb} reachable ({observed}) and must be blocked")
                }
                name => format!("{place} {verb} {observed} and must be {}", expected(name)),
            };
            match from(&alert.faults, context) {
                from if from.is_empty() => fault,
                from => format!("{fault}, as seen from {from}"),
            }
        }
    };
    let after = match alert.resolved {
        Some((_, Ending::AsExpected)) => "; it is as expected again",
        Some((_, Ending::NotExpected)) => "; it is not expected any more",
        None if alert.unknown => "; whether it still is so is not known",
        None => "",
    };
    text.push_str(after);
    if alert.flapping && alert.is_unresolved() {
        text.push_str("; it is flapping");
    }
    text
}

/// `tcp/23 on 10.99.2.10`, with the name where it has one.
fn place(key: &Key, target: &str) -> String {
    let host = match target {
        "" => key.address.to_string(),
        name => format!("{} ({name})", key.address),
    };
    match key.port {
        Some((protocol, port)) => format!("{protocol}/{port} on {host}"),
        None => host,
    }
}

/// The vantage points, few by name: `office-1, dmz-1 and 3 more`.
fn from(faults: &[Fault], context: &Context) -> String {
    let names: Vec<String> =
        faults.iter().take(NAMED).map(|fault| context.name_of(fault.satellite)).collect();
    let more = faults.len().saturating_sub(NAMED);
    match (names.split_last(), more) {
        (None, _) => String::new(),
        (Some(_), 1..) => format!("{} and {more} more", names.join(", ")),
        (Some((last, [])), 0) => last.clone(),
        (Some((last, rest)), 0) => format!("{} and {last}", rest.join(", ")),
    }
}

/// What to type to look closer, a command a line.
pub fn command(alert: &Alert, context: &Context) -> String {
    match &alert.subject {
        Subject::Satellite(id) => format!("portolan satellite show {}", context.name_of(*id)),
        Subject::Check(name) => format!("portolan check show {name}"),
        Subject::Key(key) => {
            let ports = match key.port {
                Some((protocol, port)) => PortSpec::only(protocol, PortSet::single(port)),
                None => context.check(&key.check).map(|check| check.ports.open.clone()).unwrap_or_default(),
            };
            let there = alert.faults.iter().filter_map(|fault| context.satellite(fault.satellite));
            let from: Vec<&str> = there.take(NAMED).map(|satellite| satellite.name.as_str()).collect();
            let scan = format!("portolan scan {} -p {ports} --from {}", key.address, from.join(","));
            let history = format!("portolan history {}", endpoint(key.address, key.port));
            // Nothing can be looked at from nowhere.
            if from.is_empty() || ports.is_empty() { history } else { format!("{scan}\n{history}") }
        }
    }
}

/// `10.0.0.1:22`, `[fd00::1]:22`, or the address alone.
pub fn endpoint(address: IpAddr, port: Option<(Protocol, u16)>) -> String {
    match (address, port) {
        (address, None) => address.to_string(),
        (IpAddr::V4(address), Some((_, port))) => format!("{address}:{port}"),
        (IpAddr::V6(address), Some((_, port))) => format!("[{address}]:{port}"),
    }
}

/// How sure it is; empty of what nobody looks at.
pub fn confidence(alert: &Alert) -> String {
    let fresh = alert.sights.iter().filter(|sight| !sight.stale).count();
    let says = |sight: &&Sight| sight.mismatch && !sight.stale;
    let Some(fewest) = alert.sights.iter().filter(says).map(|sight| sight.in_a_row).min() else {
        return match alert.sights.is_empty() {
            true => String::new(),
            false => "no vantage point with recent evidence says so".to_owned(),
        };
    };
    let saying = alert.sights.iter().filter(says).count();
    format!(
        "{} in a row from {saying} of {} with recent evidence",
        counted(u64::from(fewest), "look"),
        counted(fresh as u64, "vantage point")
    )
}

/// What a transition says: `open, expected closed (from office-1, dmz-1)`.
pub fn transition(transition: &Transition, context: &Context) -> String {
    if transition.gone {
        return "not expected any more".to_owned();
    }
    let expected = match transition.expected {
        Expected::Port(Expectation::Open) => "open",
        Expected::Port(Expectation::Closed) => "closed",
        Expected::Port(Expectation::Blocked) => "blocked",
        Expected::Up => "up",
        Expected::Baseline { open: true } => "open as in the baseline",
        Expected::Baseline { open: false } => "not open as in the baseline",
    };
    let wrong = matches!(transition.to, State::Pending | State::Firing);
    let mut told: Vec<&Sight> = transition.sights.iter().filter(|sight| sight.mismatch == wrong).collect();
    // A fault that is not confirmed to be over lasts although the last look found none.
    let recovering = wrong && told.is_empty();
    if told.is_empty() {
        told = transition.sights.iter().filter(|sight| !sight.stale).collect();
    }
    let seen = match transition.key.port {
        Some(_) => states(told.iter().filter_map(|sight| sight.state.map(|(state, _)| state))),
        None => if told.iter().all(|sight| sight.state.is_none()) { "silent" } else { "up" }.to_owned(),
    };
    let names: Vec<String> = told.iter().take(NAMED).map(|sight| context.name_of(sight.satellite)).collect();
    let from = match (names.is_empty(), told.len().saturating_sub(NAMED)) {
        (true, _) => String::new(),
        (false, 0) => format!(" (from {})", names.join(", ")),
        (false, more) => format!(" (from {} and {more} more)", names.join(", ")),
    };
    let words = match transition.to {
        State::Unknown => "no recent evidence".to_owned(),
        State::Ok if seen.is_empty() => format!("as expected: {expected}"),
        State::Ok => format!("{seen}, as expected{from}"),
        State::Pending | State::Firing if seen.is_empty() => format!("not as expected: {expected}"),
        State::Pending | State::Firing if recovering => {
            format!("{seen} as expected, not confirmed yet{from}")
        }
        State::Pending | State::Firing => format!("{seen}, expected {expected}{from}"),
    };
    if transition.flapping { format!("{words}, flapping") } else { words }
}

/// One other alert of the same host, in few words: `PortOpen tcp/23 (check shop-front)`.
pub fn other(alert: &Alert) -> String {
    let check = alert.subject.check().map(|check| format!(" (check {check})")).unwrap_or_default();
    match alert.subject.key().and_then(|key| key.port) {
        Some((protocol, port)) => format!("{} {protocol}/{port}{check}", alert.name),
        None => format!("{}{check}", alert.name),
    }
}

/// `1 check`, `2 checks`.
fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

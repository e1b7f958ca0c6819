//! `[[check.service]]`: what must stand behind an open port.

use super::Shared;
use super::fields::not_empty;
use crate::model::ServiceStep;
use portolan_common::document::{Flaw, Reader};
use portolan_common::observation::Protocol;
use portolan_common::ports::PortSpec;
use regex::Error;
use regex::bytes::RegexBuilder;
use std::time::Duration;

/// What a service can be asked by.
const PROBES: [&str; 16] = [
    "tcp", "http", "tls", "dns", "ssh", "smtp", "imap", "pop3", "ftp", "ldap", "ntp", "snmp", "mysql",
    "postgres", "redis", "rdp",
];
/// How much memory a compiled regular expression may take, in bytes.
const REGEX_SIZE: usize = 1 << 16;
/// How many different regular expressions a policy may have.
const MAX_EXPRESSIONS: usize = 10_000;
const DAY: Duration = Duration::from_secs(86_400);

/// The services of a check, whose open ports are given.
pub(super) fn read(check: &mut Reader<'_>, open: &PortSpec, shared: &mut Shared) -> Vec<ServiceStep> {
    check.tables("service").into_iter().filter_map(|mut table| step(&mut table, open, shared)).collect()
}

fn step(table: &mut Reader<'_>, open: &PortSpec, shared: &mut Shared) -> Option<ServiceStep> {
    table.require(&["port", "probe"]);
    let port = table.integer("port", 1..=u16::MAX);
    if let Some(port) = &port
        && !open.contains(Protocol::Tcp, port.value)
        && !open.contains(Protocol::Udp, port.value)
    {
        let flaw = Flaw::new(format!("port {} is not expected to be open", port.value));
        table.mistake(port.span.clone(), flaw.hint("add it to the check's `open`"));
    }
    let words = PROBES.map(|probe| (probe, probe));
    let probe = table.choice("probe", &words);
    table.boolean("tls");
    table.duration("max_latency", Duration::from_millis(1)..=Duration::from_secs(60));
    table.duration("cert_valid_for", DAY..=DAY * 3650);
    match probe.as_ref().map(|probe| probe.value) {
        Some("http") => http(table, shared),
        Some("tcp") => exchange(table, shared),
        Some("tls") => {}
        // Their own settings are kept as they are.
        _ => table.allow_unknown(),
    }
    Some(ServiceStep { port: port?.value, probe: probe?.value.to_owned(), text: table.to_inline() })
}

fn http(table: &mut Reader<'_>, shared: &mut Shared) {
    if let Some(mut request) = table.table("request") {
        request.parse_with("method", |text| {
            let token = !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            token.then_some(()).ok_or_else(|| Flaw::new("not a method of HTTP").hint("such as GET or HEAD"))
        });
        request.parse_with("path", |text| {
            let path = text.starts_with('/') && !text.contains(|c: char| c.is_whitespace() || c.is_control());
            path.then_some(())
                .ok_or_else(|| Flaw::new("not a path").hint("it begins with /, such as /healthz"))
        });
        request.string("host");
        request.string("body");
        request.string_map("headers");
        // Where the value of `Authorization` is.
        request.string("secret_file");
        request.string("secret_env");
    }
    if let Some(mut response) = table.table("response") {
        response.parse_with("status", status);
        response.parse_with("body", |text| regex(text, shared));
    }
}

/// `200-299`, `301`, `200,204,301-302`.
fn status(text: &str) -> Result<(), Flaw> {
    let code =
        |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code) && text.len() == 3);
    let fine = text.split(',').map(str::trim).all(|piece| match piece.split_once('-') {
        Some((first, last)) => {
            matches!((code(first), code(last)), (Some(first), Some(last)) if first <= last)
        }
        None => code(piece).is_some(),
    });
    fine.then_some(()).ok_or_else(|| {
        Flaw::new("not a list of HTTP status codes").hint("from 100 to 599, such as 200-299 or 200,301")
    })
}

fn exchange(table: &mut Reader<'_>, shared: &mut Shared) {
    let steps = table.tables("steps");
    not_empty(table, "steps", &steps);
    for mut step in steps {
        step.string("send");
        step.parse_with("expect", |text| regex(text, shared));
        if !step.has("send") && !step.has("expect") {
            step.mistake(step.span(), Flaw::new("a step sends something, expects something, or both"));
        }
    }
}

/// An expression that is searched for anywhere in an answer, which is bytes: `.` is any of them, and letters are those
/// of ASCII unless `(?u)` says otherwise.
fn regex(text: &str, shared: &mut Shared) -> Result<(), Flaw> {
    if let Some(known) = shared.expressions.get(text) {
        return known.clone();
    }
    if shared.expressions.len() >= MAX_EXPRESSIONS {
        return Err(Flaw::new(format!(
            "the policy has more than {MAX_EXPRESSIONS} different regular expressions"
        )));
    }
    let compiled = RegexBuilder::new(text).unicode(false).size_limit(REGEX_SIZE).build();
    let compiled = compiled.map(drop).map_err(|error| match error {
        Error::CompiledTooBig(_) => {
            Flaw::new("the regular expression is too large").hint("repeat less in it")
        }
        error => {
            let why = error.to_string();
            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Flaw::new(format!("the regular expression does not compile: {why}"))
        }
    });
    shared.expressions.insert(text.to_owned(), compiled.clone());
    compiled
}

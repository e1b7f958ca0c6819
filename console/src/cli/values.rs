//! The values that only this command line has: what is typed becomes what is meant, or an error that says how to type it.

use crate::output::text::is_dangerous;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use portolan_common::addresses::parse_network;
use portolan_common::document::{Flaw, parse_duration};
use portolan_common::names::check_name;
use portolan_policy::Matcher;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// The longest comment, message or reason, in characters.
const MAX_COMMENT: usize = 1000;

/// A host, perhaps one port of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: Option<u16>,
}

/// As it is typed: IPv6 with a port in brackets.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => f.write_str(&self.host),
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
        }
    }
}

/// A beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    At(Timestamp),
    Ago(Duration),
}

impl Since {
    /// As a point in time.
    pub fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(back) => now.checked_sub(back).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

/// A name of this kind of thing.
pub fn name_of(
    kind: &'static str,
) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |text| match check_name(kind, text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// `10.0.0.0/8` or one address.
pub fn network(text: &str) -> Result<String, String> {
    parse_network(text.trim()).map(|net| net.to_string()).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(in_words)
}

fn in_words(flaw: Flaw) -> String {
    match flaw.hint {
        Some(hint) => format!("{} ({hint})", flaw.message),
        None => flaw.message,
    }
}

/// How long a join token lives.
pub fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if (Duration::from_secs(60)..=Duration::from_secs(30 * 86_400)).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("a token lives from one minute (1m) to thirty days (30d)".to_owned())
    }
}

/// How long UDP ports may take.
pub fn udp_budget(text: &str) -> Result<Duration, String> {
    let budget = duration(text)?;
    if (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&budget) {
        Ok(budget)
    } else {
        Err("a budget is longer than nothing and at most a day (24h)".to_owned())
    }
}

/// A time that is not nothing, at most a year.
pub fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if (Duration::from_millis(1)..=Duration::from_secs(366 * 86_400)).contains(&time) {
        Ok(time)
    } else {
        Err("it is longer than nothing and at most a year (366d)".to_owned())
    }
}

/// How long a change may take.
pub fn change_length(text: &str) -> Result<Duration, String> {
    let length = duration(text)?;
    if (Duration::from_secs(60)..=Duration::from_secs(30 * 86_400)).contains(&length) {
        Ok(length)
    } else {
        Err("a change takes from one minute (1m) to thirty days (30d)".to_owned())
    }
}

/// The name of a change: 1 to 63 printable characters without spaces.
pub fn change_name(text: &str) -> Result<String, String> {
    let is_printable = |c: char| !c.is_whitespace() && !is_dangerous(c);
    if (1..=63).contains(&text.chars().count()) && text.chars().all(is_printable) {
        Ok(text.to_owned())
    } else {
        Err("a change's name has 1 to 63 printable characters and no spaces".to_owned())
    }
}

/// A comment, a message, a reason: 1 to [`MAX_COMMENT`] characters.
pub fn comment(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err("it is empty".to_owned()),
        1..=MAX_COMMENT => Ok(text.to_owned()),
        long => Err(format!("it is {long} characters long: 1,000 is the limit")),
    }
}

/// A matcher over an alert's labels, as it was typed.
pub fn matcher(text: &str) -> Result<String, String> {
    text.parse::<Matcher>().map(|_| text.to_owned()).map_err(in_words)
}

/// The id of this kind of thing (`an alert`) or the beginning of it, as the server writes it: lower case.
pub fn id_of(kind: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |text| {
        let id = text.trim().to_ascii_lowercase();
        if (4..=36).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            Ok(id)
        } else {
            Err(format!("the id of {kind} is made of 0-9, a-f and `-`; 4 characters of it at least"))
        }
    }
}

/// An address, perhaps with a port.
pub fn address_port(text: &str) -> Result<HostPort, String> {
    let read = host_port(text)?;
    match read.host.parse::<IpAddr>() {
        Ok(address) => Ok(HostPort { host: address.to_canonical().to_string(), ..read }),
        Err(_) => Err(format!("`{}` is not an address", read.host.escape_debug())),
    }
}

/// `HOST`, `HOST:PORT`, `ADDRESS`, `[ADDRESS]:PORT`.
pub fn host_port(text: &str) -> Result<HostPort, String> {
    let whole = |host: &str| HostPort { host: host.to_owned(), port: None };
    let with = |host: &str, port: &str| match port.parse() {
        Ok(port) => Ok(HostPort { host: host.to_owned(), port: Some(port) }),
        Err(_) => Err(format!("`{port}` is not a port (0 to 65535)")),
    };
    if text.is_empty() || text.starts_with(':') {
        return Err("the host is missing".to_owned());
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the bracket is not closed: [ADDRESS]:PORT")?;
        return match after.strip_prefix(':') {
            Some(port) => with(host, port),
            None if after.is_empty() => Ok(whole(host)),
            None => Err(format!("`{after}` after the bracket: [ADDRESS]:PORT")),
        };
    }
    match text.split_once(':') {
        None => Ok(whole(text)),
        // More colons: an IPv6 address without a port.
        Some((_, rest)) if rest.contains(':') => Ok(whole(text)),
        Some((host, port)) => with(host, port),
    }
}

/// A point in time; without an offset it is the operator's own clock.
pub fn point(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let local = text.parse::<DateTime>().map_err(|_| "not a time such as 2026-03-01T12:00:00Z".to_owned())?;
    local.to_zoned(TimeZone::system()).map(|zoned| zoned.timestamp()).map_err(|error| error.to_string())
}

/// A time, or a duration back.
pub fn since(text: &str) -> Result<Since, String> {
    point(text).map(Since::At).or_else(|_| duration(text).map(Since::Ago)).map_err(|_| {
        "neither a duration such as 24h or 7d nor a time such as 2026-03-01T12:00:00Z".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_ports() {
        let read = |text: &str| host_port(text).map(|h| (h.host, h.port));
        assert_eq!(read("10.0.0.1"), Ok(("10.0.0.1".into(), None)));
        assert_eq!(read("shop.internal:443"), Ok(("shop.internal".into(), Some(443))));
        assert_eq!(read("fd00::1"), Ok(("fd00::1".into(), None)));
        assert_eq!(read("[fd00::1]"), Ok(("fd00::1".into(), None)));
        assert_eq!(read("[fd00::1]:22"), Ok(("fd00::1".into(), Some(22))));
        for bad in ["", ":22", "a:", "a:x", "a:65536", "[fd00::1", "[fd00::1]x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn beginnings() {
        assert_eq!(since("24h"), Ok(Since::Ago(Duration::from_secs(86_400))));
        assert_eq!(
            since("2026-03-01T12:00:00+01:00"),
            Ok(Since::At("2026-03-01T11:00:00Z".parse().unwrap()))
        );
        assert!(matches!(since("2026-03-01"), Ok(Since::At(_))));
        let now: Timestamp = "2026-03-02T00:00:00Z".parse().unwrap();
        assert_eq!(since("1d").unwrap().before(now).to_string(), "2026-03-01T00:00:00Z");
        assert_eq!(Since::Ago(Duration::MAX).before(now), Timestamp::UNIX_EPOCH);
    }
}

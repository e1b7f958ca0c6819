//! The values that only this command line has: what is typed becomes what is meant, or an error that says how to type it.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use portolan_common::addresses::parse_network;
use portolan_common::document::parse_duration;
use portolan_common::names::check_name;
use std::time::Duration;

/// A host, perhaps one port of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: Option<u16>,
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
    parse_duration(text).map_err(|flaw| match flaw.hint {
        Some(hint) => format!("{} ({hint})", flaw.message),
        None => flaw.message,
    })
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

/// A scan's id or the beginning of it, as the server writes it: lower case.
pub fn scan_id(text: &str) -> Result<String, String> {
    let id = text.trim().to_ascii_lowercase();
    if (4..=36).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
        Ok(id)
    } else {
        Err("a scan's id is made of 0-9, a-f and `-`; 4 characters of it at least".to_owned())
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

/// A time, or a duration back.
pub fn since(text: &str) -> Result<Since, String> {
    if let Ok(at) = text.parse() {
        return Ok(Since::At(at));
    }
    // Without an offset it is the operator's own clock.
    if let Ok(local) = text.parse::<DateTime>() {
        return local
            .to_zoned(TimeZone::system())
            .map(|t| Since::At(t.timestamp()))
            .map_err(|e| e.to_string());
    }
    duration(text).map(Since::Ago).map_err(|_| {
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

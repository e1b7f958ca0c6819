//! What ports are usually for: service names, and the lists behind `top-1000` and `U:top-100`.
//!
//! All are the project's own: the names are IANA's facts with what operators call things today, and the ranking is
//! what an engineer would try first, not a measured frequency.

use crate::observation::Protocol;
use crate::ports::PortSet;
use std::collections::HashMap;
use std::sync::LazyLock;

/// How many ports the ranked list of TCP ports holds.
pub const TOP: usize = 1000;

/// How many ports the ranked list of UDP ports holds.
pub const TOP_UDP: usize = 100;

/// The name of the service that usually listens there, such as `ssh` for TCP 22.
pub fn name(protocol: Protocol, port: u16) -> Option<&'static str> {
    TABLE.names.get(&(protocol, port)).copied()
}

/// The port a service usually listens on, by its name or an alias (lower case), such as 22 for TCP `ssh`.
pub fn port(protocol: Protocol, name: &str) -> Option<u16> {
    TABLE.ports.get(&protocol)?.get(name).copied()
}

/// The first `n` of the ranked TCP ports; all 1,000 when `n` is larger, none when it is 0.
pub fn top(n: usize) -> PortSet {
    RANKED.iter().take(n).copied().collect()
}

/// The first `n` of the ranked UDP ports; all 100 when `n` is larger, none when it is 0.
pub fn top_udp(n: usize) -> PortSet {
    RANKED_UDP.iter().take(n).copied().collect()
}

/// Lines of `PORT/PROTOCOL[+PROTOCOL] NAME [ALIAS]…`; `#` begins a comment.
const SERVICES: &str = include_str!("services.txt");

/// Ports in order of rank, separated by white space; `#` begins a comment.
const RANKING: &str = include_str!("top-1000.txt");
const RANKING_UDP: &str = include_str!("top-udp-100.txt");

struct Table {
    names: HashMap<(Protocol, u16), &'static str>,
    ports: HashMap<Protocol, HashMap<&'static str, u16>>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table { names: HashMap::new(), ports: HashMap::new() };
    for (protocol, port, names) in entries() {
        for (i, name) in names.enumerate() {
            if i == 0 {
                table.names.entry((protocol, port)).or_insert(name);
            }
            table.ports.entry(protocol).or_default().entry(name).or_insert(port);
        }
    }
    table
});

static RANKED: LazyLock<Vec<u16>> = LazyLock::new(|| ranked(RANKING));
static RANKED_UDP: LazyLock<Vec<u16>> = LazyLock::new(|| ranked(RANKING_UDP));

fn ranked(ranking: &'static str) -> Vec<u16> {
    lines(ranking).flat_map(str::split_whitespace).filter_map(|port| port.parse().ok()).collect()
}

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines()
        .map(|line| line.split_once('#').map_or(line, |(before, _)| before).trim())
        .filter(|l| !l.is_empty())
}

/// The table, row by row and protocol by protocol. A row that cannot be read is left out here and found by the tests.
fn entries() -> impl Iterator<Item = (Protocol, u16, std::str::SplitWhitespace<'static>)> {
    lines(SERVICES)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (port, protocols) = words.next()?.split_once('/')?;
            let port = port.parse().ok()?;
            Some(protocols.split('+').filter_map(move |p| Some((p.parse().ok()?, port, words.clone()))))
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_rankings_have_exactly_as_many_distinct_ports_as_they_say() {
        for (ranking, most) in [(RANKING, TOP), (RANKING_UDP, TOP_UDP)] {
            let words: Vec<_> = lines(ranking).flat_map(str::split_whitespace).collect();
            let mut seen = HashSet::new();
            for word in &words {
                let port: u16 = word.parse().unwrap();
                assert!(port > 0 && seen.insert(port), "{word} is there twice");
            }
            assert_eq!(words.len(), most);
        }
        assert_eq!((top_udp(TOP_UDP).len(), top_udp(3).to_string().as_str()), (TOP_UDP, "53,123,161"));
        assert_eq!(top(TOP).len(), TOP);
        assert_eq!(top(usize::MAX), top(TOP));
        assert!(top(0).is_empty());
    }

    #[test]
    fn the_usual_suspects_come_first() {
        let first = top(50);
        for port in [
            21, 22, 23, 25, 53, 80, 88, 110, 111, 135, 139, 143, 389, 443, 445, 587, 993, 995, 1433, 1521,
            3306, 3389,
        ] {
            assert!(first.contains(port), "{port}");
        }
        for port in [5432, 5900, 5985, 6379, 8080, 8443, 9200, 27017] {
            assert!(first.contains(port), "{port}");
        }
        for port in
            [502, 102, 5060, 9100, 6443, 2375, 9092, 5672, 2049, 3260, 10250, 49152, 49170, 31337, 161]
        {
            assert!(top(TOP).contains(port), "{port}");
        }
    }

    #[test]
    fn every_row_of_the_table_is_read_and_none_contradicts_another() {
        let (mut ports, mut names) = (HashSet::new(), HashSet::new());
        for line in lines(SERVICES) {
            let (at, rest) = line.split_once(' ').expect(line);
            let (port, protocols) = at.split_once('/').expect(line);
            assert!(port.parse::<u16>().unwrap() > 0, "{line}");
            for protocol in protocols.split('+') {
                let protocol: Protocol = protocol.parse().unwrap();
                assert!(ports.insert((protocol, port)), "{line}: this port is there twice");
                for name in rest.split_whitespace() {
                    assert!(names.insert((protocol, name)), "{line}: {name} is there twice");
                    assert!(name.bytes().any(|b| b.is_ascii_alphabetic()), "{line}");
                    assert!(
                        name.bytes()
                            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)),
                        "{line}"
                    );
                    assert!(!name.starts_with("top-"), "{line}: the port syntax means something else by it");
                }
            }
        }
        assert!(ports.len() > 700, "{}", ports.len());
    }

    #[test]
    fn names_and_ports_find_each_other() {
        for (protocol, known, number) in [
            (Protocol::Tcp, "ssh", 22),
            (Protocol::Tcp, "http", 80),
            (Protocol::Tcp, "https", 443),
            (Protocol::Udp, "domain", 53),
            (Protocol::Udp, "snmp", 161),
            (Protocol::Tcp, "postgresql", 5432),
            (Protocol::Tcp, "modbus", 502),
        ] {
            assert_eq!(port(protocol, known), Some(number));
            assert_eq!(name(protocol, number), Some(known));
        }
        assert_eq!(port(Protocol::Tcp, "dns"), Some(53));
        assert_eq!(port(Protocol::Tcp, "no-such-service"), None);
        assert_eq!(name(Protocol::Tcp, 4), None);
    }
}

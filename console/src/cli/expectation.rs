//! What an announced change will do, as it is typed: `office->10.99.2.10:8443 open`.

use portolan_common::addresses::parse_network;
use portolan_common::names::check_name;
use portolan_common::observation::{PortState, Protocol};
use portolan_common::ports::PortSpec;
use std::fmt;

/// How it is written, for errors.
const SHAPE: &str = "write FROM->TARGET:PORTS[/udp] STATE, such as office->10.99.2.10:8443 open or *->[fd00:99:2::/64]:53/udp closed";

/// One expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// A segment, a satellite, or `*`.
    pub from: String,
    /// An address or network.
    pub target: String,
    pub protocol: Protocol,
    /// nmap syntax without a protocol's letter.
    pub ports: String,
    /// `open`, `closed` or `filtered`.
    pub state: PortState,
}

/// As it is typed.
impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, target, protocol, ports, state } = self;
        let target = if target.contains(':') { format!("[{target}]") } else { target.clone() };
        let protocol = if *protocol == Protocol::Udp { "/udp" } else { "" };
        write!(f, "{from}->{target}:{ports}{protocol} {state}")
    }
}

/// Reads one.
///
/// # Errors
/// What is wrong, at which column (in characters, from 1), and how it is written.
pub fn parse(text: &str) -> Result<Expected, String> {
    read(text).map_err(|(rest, problem)| {
        // What could not be read any more is always the end of the text.
        let before = text.len().saturating_sub(rest.len());
        let column = text.get(..before).map_or(1, |before| before.chars().count() + 1);
        format!("column {column}: {problem}; {SHAPE}")
    })
}

/// The text from the fault to the end, and what is wrong.
type Fault<'a> = (&'a str, String);

fn read(text: &str) -> Result<Expected, Fault<'_>> {
    let start = text.trim_start();
    let end = &text[text.trim_end().len()..];
    let (from, rest) = start.split_once("->").ok_or((end, "there is no `->`".to_owned()))?;
    let from = from.trim_end();
    if from != "*" {
        check_name("segment's or satellite's", from).map_err(|_| {
            (start, format!("`{}` is no name of a segment or satellite", from.escape_debug()))
        })?;
    }
    let (target, rest) = target(rest.trim_start(), end)?;
    let (ports, protocol, rest) = ports(rest)?;
    let state = rest.trim();
    let state = match state.parse() {
        Ok(state @ (PortState::Open | PortState::Closed | PortState::Filtered)) => state,
        _ if state.is_empty() => return Err((end, "the state is missing: open, closed or filtered".into())),
        _ => {
            let problem = format!("`{}` is not open, closed or filtered", state.escape_debug());
            return Err((rest.trim_start(), problem));
        }
    };
    Ok(Expected { from: from.to_owned(), target, protocol, ports, state })
}

/// An address or network up to its colon, and what follows that.
fn target<'a>(text: &'a str, end: &'a str) -> Result<(String, &'a str), Fault<'a>> {
    let (target, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let (target, rest) =
                inner.split_once(']').ok_or((text, "the bracket is not closed".to_owned()))?;
            let rest =
                rest.strip_prefix(':').ok_or((rest, "a colon and the ports are missing".to_owned()))?;
            (target, rest)
        }
        None => text.split_once(':').ok_or((end, "a colon and the ports are missing".to_owned()))?,
    };
    if !text.starts_with('[') && rest.contains(':') {
        return Err((text, "an IPv6 address stands in brackets".into()));
    }
    match parse_network(target.trim()) {
        // One address is written without a length.
        Ok(network) if network.prefix_len() == network.max_prefix_len() => {
            Ok((network.addr().to_string(), rest))
        }
        Ok(network) => Ok((network.to_string(), rest)),
        Err(error) => Err((text, error.to_string())),
    }
}

/// Ports in plain numbers, whose they are, and what follows.
fn ports(text: &str) -> Result<(String, Protocol, &str), Fault<'_>> {
    let (piece, rest) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
    let (list, word) = piece.split_once('/').unwrap_or((piece, Protocol::Tcp.as_str()));
    if list.is_empty() {
        return Err((text, "the ports are missing".into()));
    }
    let Ok(protocol) = word.parse() else {
        return Err((&text[list.len()..], "after the ports only /tcp or /udp may stand".into()));
    };
    let prefixed = match protocol {
        Protocol::Tcp => list.to_owned(),
        Protocol::Udp => format!("U:{list}"),
    };
    let ports = prefixed
        .parse::<PortSpec>()
        .map_err(|error| (text, format!("`{}`: {} ({})", error.piece, error.problem, error.hint)))?;
    Ok((ports.of(protocol).to_string(), protocol, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_read_and_written_alike() {
        for text in [
            "office->10.99.2.10:8443 open",
            "*->[fd00:99:2::/64]:53/udp closed",
            "dmz-1->10.99.2.0/24:80,443,8000-8100 filtered",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        let read = parse("  office -> 10.99.2.10:https,80/tcp   open ").unwrap();
        assert_eq!(read.to_string(), "office->10.99.2.10:80,443 open");
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        for (text, column, words) in [
            ("office 10.99.2.10:8443 open", 28, "no `->`"),
            ("Office->10.99.2.10:8443 open", 1, "`Office` is no name"),
            ("->10.99.2.10:8443 open", 1, "is no name"),
            ("office->10.99.2.10 open", 24, "colon and the ports"),
            ("office->10.99.2.256:8443 open", 9, "10.99.2.256"),
            ("office->10.99.2.5/24:8443 open", 9, "host bits"),
            ("office->fd00::1:8443 open", 9, "in brackets"),
            ("office->[fd00::1:8443 open", 9, "not closed"),
            ("office->[fd00::1] open", 18, "colon and the ports"),
            ("office->10.99.2.10: open", 20, "ports are missing"),
            ("office->10.99.2.10:99999 open", 20, "99999"),
            ("office->10.99.2.10:U:53 open", 9, "brackets"),
            ("office->10.99.2.10:53/sctp open", 22, "/tcp or /udp"),
            ("office->10.99.2.10:8443", 24, "state is missing"),
            ("bürö->10.99.2.10:8443 opened", 1, "bürö"),
            ("office->10.99.2.10:8443 opened", 25, "`opened` is not open"),
            ("office->10.99.2.10:8443 open|filtered", 25, "is not open, closed or filtered"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                error.starts_with(&format!("column {column}: ")) && error.contains(words),
                "{text}: {error}"
            );
            assert!(error.ends_with(SHAPE), "{error}");
        }
    }
}

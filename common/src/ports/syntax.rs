//! nmap's port syntax: `22,80,8000-8100`, `T:…,U:53`, `-`, `-100`, `60000-`, `top-100`, `U:top-50`, `http`.

use super::{PortSet, PortSpec};
use crate::document::Flaw;
use crate::observation::Protocol;
use crate::services;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

/// The longest text that is read, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;

/// How much of a piece an error repeats, in characters.
const MAX_QUOTED: usize = 60;

/// A port list that cannot be read: the piece at fault, where it is, what is wrong with it and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{piece}` at column {column} of the port list: {problem} ({hint})")]
pub struct PortSpecError {
    /// The offending piece, as written (cut when it is long).
    pub piece: String,
    /// Where it begins in the text, in characters, counted from 1.
    pub column: usize,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub hint: String,
    /// The piece's place in the text, in bytes.
    within: Range<usize>,
}

impl From<PortSpecError> for Flaw {
    fn from(error: PortSpecError) -> Self {
        Self::new(format!("`{}`: {}", error.piece, error.problem)).hint(error.hint).within(error.within)
    }
}

/// `-p` syntax. A number, range, list or name counts for TCP until a `U:`; port 0 is meant only by an explicit `0`.
impl FromStr for PortSpec {
    type Err = PortSpecError;

    fn from_str(text: &str) -> Result<Self, PortSpecError> {
        parse(text, Bare::Tcp)
    }
}

/// `22,80` when there is only TCP, else `T:22,80,U:53`; no ports at all are the empty string (which is not read back).
impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tcp.is_empty(), self.udp.is_empty()) {
            (_, true) => self.tcp.fmt(f),
            (true, false) => write!(f, "U:{}", self.udp),
            (false, false) => write!(f, "T:{},U:{}", self.tcp, self.udp),
        }
    }
}

impl PortSpec {
    /// Reads a port list in which what has no `T:` or `U:` before it counts for both protocols. Limits are written
    /// like this: who says "only ports 1-1024" or "never 9100" means it whatever the protocol.
    ///
    /// # Errors
    /// As [`PortSpec::from_str`].
    pub fn parse_both(text: &str) -> Result<Self, PortSpecError> {
        parse(text, Bare::Both)
    }

    /// The text that [`PortSpec::parse_both`] reads back: without a prefix when both protocols have the same ports.
    pub fn to_text_both(&self) -> String {
        if self.tcp == self.udp {
            self.tcp.to_string()
        } else if self.udp.is_empty() {
            format!("T:{}", self.tcp)
        } else {
            self.to_string()
        }
    }
}

/// What a piece without a prefix before it counts for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bare {
    Tcp,
    Both,
}

/// What the pieces now count for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Tcp,
    Udp,
    Both,
}

impl Scope {
    fn has(self, protocol: Protocol) -> bool {
        match self {
            Self::Tcp => protocol == Protocol::Tcp,
            Self::Udp => protocol == Protocol::Udp,
            Self::Both => true,
        }
    }
}

/// What is wrong with a piece, and what to write instead.
struct Fault(String, String);

impl Fault {
    fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self(problem.into(), hint.into())
    }
}

/// Everything read so far.
#[derive(Default)]
struct Found {
    tcp: Vec<RangeInclusive<u16>>,
    udp: Vec<RangeInclusive<u16>>,
    // Each list of the top N contains the shorter ones: the longest is enough, however often a text names one.
    tcp_top: usize,
    /// Of the TCP list, where a piece counts for both.
    udp_tcp_top: usize,
    udp_top: usize,
}

impl Found {
    fn add(&mut self, scope: Scope, range: RangeInclusive<u16>) {
        if scope.has(Protocol::Tcp) {
            self.tcp.push(range.clone());
        }
        if scope.has(Protocol::Udp) {
            self.udp.push(range);
        }
    }

    fn finish(self) -> PortSpec {
        let all = |ranges: Vec<_>, top| ranges.into_iter().collect::<PortSet>().union(&services::top(top));
        PortSpec {
            tcp: all(self.tcp, self.tcp_top),
            udp: all(self.udp, self.udp_tcp_top).union(&services::top_udp(self.udp_top)),
        }
    }
}

fn parse(text: &str, bare: Bare) -> Result<PortSpec, PortSpecError> {
    if text.len() > MAX_TEXT {
        let fault =
            Fault::new(format!("the list is {} bytes long", text.len()), "write ranges; 64 KiB is the limit");
        return Err(error(text, 0..text.len(), fault));
    }
    let mut found = Found::default();
    let mut scope = match bare {
        Bare::Tcp => Scope::Tcp,
        Bare::Both => Scope::Both,
    };
    let mut start = 0;
    for written in text.split(',') {
        let blank = written.len() - written.trim_start().len();
        let mut piece = written.trim();
        let within = start + blank..start + blank + piece.len();
        start += written.len() + 1;
        if let Some((prefix, rest)) = piece.split_once(':') {
            scope = match prefix {
                "T" | "t" => Scope::Tcp,
                "U" | "u" => Scope::Udp,
                _ => {
                    let fault = Fault::new("unknown protocol before the colon", "`T:` is TCP, `U:` is UDP");
                    return Err(error(text, within, fault));
                }
            };
            piece = rest.trim();
        }
        read_piece(piece, scope, &mut found).map_err(|fault| error(text, within, fault))?;
    }
    Ok(found.finish())
}

fn error(text: &str, within: Range<usize>, Fault(problem, hint): Fault) -> PortSpecError {
    let before = text.get(..within.start).unwrap_or_default();
    let written = text.get(within.clone()).unwrap_or_default();
    let mut piece: String = written.chars().take(MAX_QUOTED).flat_map(char::escape_debug).collect();
    if written.chars().nth(MAX_QUOTED).is_some() {
        piece.push('…');
    }
    PortSpecError { piece, column: before.chars().count() + 1, problem, hint, within }
}

fn read_piece(piece: &str, scope: Scope, found: &mut Found) -> Result<(), Fault> {
    if piece.is_empty() {
        return Err(Fault::new("a port is missing here", "such as `22,80,8000-8100`, or `-` for all"));
    }
    if piece.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        found.add(scope, range(piece)?);
        return Ok(());
    }
    if let Some(count) = piece.strip_prefix("top-").filter(|n| n.bytes().all(|b| b.is_ascii_digit())) {
        return top(count, scope, found);
    }
    named(piece, scope, found)
}

fn range(piece: &str) -> Result<RangeInclusive<u16>, Fault> {
    let Some((first, last)) = piece.split_once('-') else {
        let port = number(piece)?;
        return Ok(port..=port);
    };
    if last.contains('-') {
        return Err(Fault::new("more than one dash", "a range has two ends, such as `8000-8100`"));
    }
    let first = if first.is_empty() { 1 } else { number(first)? };
    let last = if last.is_empty() { u16::MAX } else { number(last)? };
    if first > last {
        return Err(Fault::new("the range runs backwards", format!("write `{last}-{first}`")));
    }
    Ok(first..=last)
}

fn number(digits: &str) -> Result<u16, Fault> {
    digits.parse().map_err(|_| Fault::new("not a port number", "ports are 0 to 65535"))
}

fn top(count: &str, scope: Scope, found: &mut Found) -> Result<(), Fault> {
    let (most, hint) = match scope {
        Scope::Udp => (services::TOP_UDP, "`U:top-1` to `U:top-100`, or `U:-` for all"),
        Scope::Tcp | Scope::Both => (services::TOP, "`top-1` to `top-1000`, or `-` for all"),
    };
    let count = count.parse::<usize>().ok().filter(|count| (1..=most).contains(count));
    let count = count.ok_or_else(|| Fault::new("there is no such list", hint))?;
    match scope {
        Scope::Tcp => found.tcp_top = found.tcp_top.max(count),
        Scope::Udp => found.udp_top = found.udp_top.max(count),
        // Who limits both means the same ports of both.
        Scope::Both => {
            found.tcp_top = found.tcp_top.max(count);
            found.udp_tcp_top = found.udp_tcp_top.max(count);
        }
    }
    Ok(())
}

fn named(piece: &str, scope: Scope, found: &mut Found) -> Result<(), Fault> {
    let name = piece.to_ascii_lowercase();
    let of = |protocol| services::port(protocol, &name);
    let asked: Vec<_> = Protocol::ALL.iter().copied().filter(|p| scope.has(*p)).collect();
    let mut any = false;
    for protocol in &asked {
        if let Some(port) = of(*protocol) {
            any = true;
            let list = if *protocol == Protocol::Tcp { &mut found.tcp } else { &mut found.udp };
            list.push(port..=port);
        }
    }
    if any {
        return Ok(());
    }
    Err(match (scope, of(Protocol::Tcp), of(Protocol::Udp)) {
        (Scope::Tcp, _, Some(_)) => {
            Fault::new("this service is known for UDP only", format!("write `U:{name}`"))
        }
        (Scope::Udp, Some(_), _) => {
            Fault::new("this service is known for TCP only", format!("write `T:{name}`"))
        }
        _ => Fault::new(
            "neither a port nor a service that is known",
            "write the number, a range such as `8000-8100`, `-` for all, `top-100`, or a name such as `http`",
        ),
    })
}

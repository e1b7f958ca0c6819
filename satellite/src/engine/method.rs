//! How to probe: what an operator may ask for, and what this satellite makes of it.

use portolan_common::ports::{PortSet, PortSpec};
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// A way of probing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The best that this host allows.
    Auto,
    /// TCP connections through the kernel, which need no privilege.
    Connect,
    /// TCP SYNs of our own, which need CAP_NET_RAW; UDP ports as [`Method::Udp`].
    Syn,
    /// UDP datagrams, which need no privilege.
    Udp,
}

/// What a satellite may offer, beside `auto`.
const OFFERED: &str = "connect, syn, udp";

/// A method that this satellite does not offer, or not for these ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// A word that names no method.
    #[error("`{0}` is not a scan method; this satellite offers: {OFFERED} (or auto)")]
    Unknown(String),
    /// UDP ports, by TCP connections.
    #[error(
        "UDP ports ({0}) cannot be scanned by TCP connections: ask for the method auto, syn or udp, or for TCP ports only"
    )]
    UdpByConnect(String),
    /// TCP ports, by UDP datagrams.
    #[error(
        "TCP ports ({0}) cannot be scanned by UDP datagrams: ask for the method auto, syn or connect, or for UDP ports only"
    )]
    TcpByUdp(String),
}

/// What a sweep comes to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// By TCP connections; otherwise by packets.
    pub(super) connect: bool,
    /// By TCP connections and then by UDP datagrams.
    pub(super) both: bool,
    /// Packets of our own, rather than UDP sockets alone.
    pub(super) raw: bool,
    /// The methods used, such as `syn` or `syn, udp`.
    pub(super) text: &'static str,
    /// Why.
    pub(super) reason: String,
}

impl Method {
    /// What this satellite does with these ports, and why. `why_not_raw` says why it may not send packets of its own.
    pub(super) fn choose(self, ports: &PortSpec, why_not_raw: Option<&str>) -> Result<Choice, MethodError> {
        let (tcp, udp) = (!ports.tcp.is_empty(), !ports.udp.is_empty());
        match self {
            Self::Connect if udp => return Err(MethodError::UdpByConnect(short(&ports.udp))),
            Self::Udp if tcp => return Err(MethodError::TcpByUdp(short(&ports.tcp))),
            _ => {}
        }
        let raw = why_not_raw.is_none();
        let asked = || "asked for".to_owned();
        let connect = |reason| Choice { connect: true, both: false, raw: false, text: "connect", reason };
        let choice = match (self, why_not_raw) {
            (Self::Connect, _) => connect(asked()),
            (Self::Auto | Self::Syn, Some(why)) if tcp && udp => Choice {
                both: true,
                text: "connect, udp",
                ..connect(format!("no CAP_NET_RAW for syn: {why}"))
            },
            (Self::Auto, Some(why)) if tcp => connect(format!("no CAP_NET_RAW for syn: {why}")),
            (Self::Syn, Some(why)) if tcp => {
                connect(format!("syn was asked for, but needs CAP_NET_RAW: {why}"))
            }
            (Self::Auto, _) => {
                let (text, reason) = match (tcp, udp) {
                    (true, false) => ("syn", "the best that this host allows"),
                    (true, true) => ("syn, udp", "the best that this host allows"),
                    (false, _) => ("udp", "only UDP ports were asked for"),
                };
                Choice { connect: false, both: false, raw, text, reason: reason.to_owned() }
            }
            (Self::Syn | Self::Udp, _) => {
                let text = match (tcp, udp) {
                    (true, false) => "syn",
                    (true, true) => "syn, udp",
                    (false, _) => "udp",
                };
                Choice { connect: false, both: false, raw, text, reason: asked() }
            }
        };
        Ok(choice)
    }
}

/// Why this process may not send packets of its own, if so.
pub(super) fn why_not_raw() -> Option<String> {
    static ALLOWED: OnceLock<()> = OnceLock::new();
    if ALLOWED.get().is_some() {
        return None;
    }
    match portolan_packet::why_not() {
        // A right that was there when the process began stays.
        None => {
            let _ = ALLOWED.set(());
            None
        }
        Some(error) => Some(error.to_string()),
    }
}

/// What this host lets a satellite do: its capabilities, as the server knows them.
pub fn capabilities() -> Vec<String> {
    let raw = why_not_raw().is_none();
    let words = [
        ("connect", true),
        ("udp", true),
        ("syn", raw),
        ("discover", raw),
        ("pause", true),
        ("max-rate", true),
        ("checks", true),
    ];
    words.into_iter().filter(|(_, offered)| *offered).map(|(word, _)| word.to_owned()).collect()
}

fn short(ports: &PortSet) -> String {
    let mut text = ports.to_string();
    if text.len() > 60 {
        text.truncate(60);
        text.push('…');
    }
    text
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Connect => "connect",
            Self::Syn => "syn",
            Self::Udp => "udp",
        })
    }
}

/// The empty text is `auto`.
impl FromStr for Method {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        match text {
            "" | "auto" => Ok(Self::Auto),
            "connect" => Ok(Self::Connect),
            "syn" => Ok(Self::Syn),
            "udp" => Ok(Self::Udp),
            // The cut keeps a hostile text from filling a log.
            _ => Err(MethodError::Unknown(text.chars().take(40).flat_map(char::escape_debug).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> PortSpec {
        text.parse().unwrap()
    }

    #[test]
    fn says_what_is_offered() {
        for text in ["auto", "connect", "syn", "udp"] {
            assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
        }
        let error = "SYN".parse::<Method>().unwrap_err().to_string();
        assert!(error.contains("not a scan") && error.contains("this satellite offers: connect"), "{error}");
    }

    #[test]
    fn the_best_is_taken_and_the_reason_said() {
        let choose = |method: Method, text, why| method.choose(&ports(text), why).map(|c| (c.text, c.reason));
        assert_eq!(choose(Method::Auto, "22", None).unwrap().0, "syn");
        assert_eq!(choose(Method::Auto, "T:22,U:53", None).unwrap().0, "syn, udp");
        assert_eq!(choose(Method::Auto, "U:53", Some("EPERM")).unwrap().0, "udp");
        for method in [Method::Auto, Method::Syn] {
            let (text, reason) = choose(method, "22", Some("Operation not permitted")).unwrap();
            assert_eq!(text, "connect");
            assert!(reason.contains("CAP_NET_RAW") && reason.contains("not permitted"), "{reason}");
        }
        assert_eq!(choose(Method::Connect, "22", None).unwrap(), ("connect", "asked for".to_owned()));
    }

    #[test]
    fn ports_that_a_method_cannot_probe_are_refused_before_anything_is_sent() {
        let error = Method::Connect.choose(&ports("T:22,U:53"), None).unwrap_err().to_string();
        assert!(error.contains("UDP ports (53)"), "{error}");
        let error = Method::Udp.choose(&ports("T:22,U:53"), None).unwrap_err().to_string();
        assert!(error.contains("TCP ports (22)"), "{error}");
        let choice = Method::Auto.choose(&ports("T:22,U:53"), Some("no")).unwrap();
        assert!(choice.both && choice.text == "connect, udp" && choice.reason.contains("CAP_NET_RAW"));
    }
}

//! How to probe: what an operator may ask for, and what this satellite makes of it.

use portolan_common::ports::PortSpec;
use std::fmt;
use std::str::FromStr;

/// A way of probing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The best that this host allows.
    Auto,
    /// TCP connections through the kernel, which need no privilege.
    Connect,
}

/// What this version offers beside [`Method::Auto`].
const OFFERED: &str = "connect";

/// Methods that other versions know.
const ELSEWHERE: [&str; 2] = ["syn", "udp"];

/// A method that this satellite does not offer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// A word that names no method.
    #[error("`{0}` is not a scan method; this satellite offers: {OFFERED} (or auto)")]
    Unknown(String),
    /// A method that this version lacks.
    #[error("this satellite cannot scan by `{0}`; this satellite offers: {OFFERED} (or auto)")]
    NotOffered(&'static str),
    /// UDP ports, which no method of this version can probe.
    #[error(
        "UDP ports ({0}) cannot be scanned by TCP connections, and this satellite offers: {OFFERED}; ask for TCP \
         ports only"
    )]
    Udp(String),
}

impl Method {
    /// What this satellite offers, beside [`Method::Auto`]: its capabilities, as the server knows them.
    pub const OFFERED: &[Self] = &[Self::Connect];

    /// The method to use for these ports and why; never [`Method::Auto`].
    pub(super) fn choose(self, ports: &PortSpec) -> Result<(Self, &'static str), MethodError> {
        if !ports.udp.is_empty() {
            let mut text = ports.udp.to_string();
            if text.len() > 60 {
                text.truncate(60);
                text.push('…');
            }
            return Err(MethodError::Udp(text));
        }
        Ok((
            Self::Connect,
            match self {
                Self::Auto => "this version has no raw engine",
                Self::Connect => "asked for",
            },
        ))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Connect => "connect",
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
            _ => Err(match ELSEWHERE.into_iter().find(|method| *method == text) {
                Some(method) => MethodError::NotOffered(method),
                // The cut keeps a hostile text from filling a log.
                None => MethodError::Unknown(text.chars().take(40).flat_map(char::escape_debug).collect()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_offered() {
        assert_eq!("auto".parse(), Ok(Method::Auto));
        assert_eq!("connect".parse(), Ok(Method::Connect));
        for (text, said) in
            [("syn", "cannot scan by `syn`"), ("udp", "cannot scan by `udp`"), ("SYN", "not a scan")]
        {
            let error = text.parse::<Method>().unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("this satellite offers: connect"), "{error}");
        }
    }

    #[test]
    fn udp_ports_are_refused_before_anything_is_sent() {
        let ports: PortSpec = "T:22,U:53".parse().unwrap();
        let error = Method::Auto.choose(&ports).unwrap_err().to_string();
        assert!(error.contains("UDP ports (53)"), "{error}");
        let ports: PortSpec = "22".parse().unwrap();
        assert_eq!(Method::Auto.choose(&ports).unwrap().0, Method::Connect);
    }
}

//! Networks as files write them: a CIDR or one address.

use crate::document::Flaw;
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr};

/// A text that is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a network: {problem} ({hint})")]
pub struct NetworkError {
    text: String,
    problem: &'static str,
    hint: String,
}

impl From<NetworkError> for Flaw {
    fn from(error: NetworkError) -> Self {
        Self::new(format!("not a network: {}", error.problem)).hint(error.hint)
    }
}

/// Reads `10.0.0.0/8`, `fd00::/32`, or one address as the network that holds it alone. IPv4-mapped networks come out
/// as IPv4. Host bits must be zero: in a file that fences something in, `10.0.0.5/8` is more likely a slip.
///
/// # Errors
/// When it is neither, or has host bits.
pub fn parse_network(text: &str) -> Result<IpNet, NetworkError> {
    let error = |problem, hint: String| NetworkError {
        text: text.chars().take(100).flat_map(char::escape_debug).collect(),
        problem,
        hint,
    };
    let shape = || "such as 10.99.0.0/16, fd00:99::/32 or a single address".to_owned();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    if text.contains('%') {
        return Err(error("a zone has no meaning here", "leave out what follows the `%`".to_owned()));
    }
    let Ok(net) = text.parse::<IpNet>() else {
        return Err(error("it cannot be read", shape()));
    };
    if net.addr() != net.network() {
        return Err(error("it has host bits", format!("write {} or {}", net.trunc(), net.addr())));
    }
    Ok(canonical_network(net))
}

/// The network without host bits, and an IPv4-mapped one as IPv4.
pub fn canonical_network(net: IpNet) -> IpNet {
    let net = net.trunc();
    let mapped = || {
        let IpNet::V6(net) = net else { return None };
        let address: Ipv4Addr = net.network().to_ipv4_mapped()?;
        Ipv4Net::new(address, net.prefix_len().checked_sub(96)?).ok()
    };
    mapped().map_or(net, IpNet::V4)
}

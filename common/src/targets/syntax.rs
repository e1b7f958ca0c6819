//! nmap's target syntax.

use super::{MAX_RANGES, MAX_TEXT, Target, TargetError, name};
use crate::addresses::{AddressRange, AddressSet};
use crate::ports::PortSet;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads one target, already trimmed.
pub(super) fn parse(text: &str) -> Result<Target, TargetError> {
    let error = |problem: &str, hint: &str| Err(TargetError::new(text, problem, hint));
    if text.is_empty() {
        return error("it is empty", "an address, a CIDR, a range such as 10.0.0.1-10.0.0.9, or a host name");
    }
    if text.len() > MAX_TEXT {
        return error("it is too long", "write each address or name as a target of its own");
    }
    if text.contains(char::is_whitespace) {
        return error("there is white space in it", "write each address or name as a target of its own");
    }
    if text.contains("://") {
        return error("this is a URL", "write the host alone; ports are given with -p");
    }
    if text.contains('%') {
        return error(
            "an IPv6 zone means something on one machine only",
            "leave out the `%` and what follows, and scan from a satellite on that link",
        );
    }
    let addresses = if text.contains([':', '[', ']']) {
        v6(text)?
    } else if text.contains('/') {
        v4_network(text)?
    } else if text.bytes().all(|b| b.is_ascii_digit() || b".,-*".contains(&b)) {
        v4(text)?
    } else {
        return name::parse(text).map(Target::Name);
    };
    Ok(Target::Addresses(addresses))
}

fn v6(text: &str) -> Result<AddressSet, TargetError> {
    let error = |problem: &str, hint: &str| Err(TargetError::new(text, problem, hint));
    let unbracketed = |part: &str| -> Option<IpAddr> {
        let part = match part.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?,
            None => part,
        };
        part.parse::<Ipv6Addr>().ok().map(IpAddr::from)
    };
    if let Some((first, last)) = text.split_once('-') {
        let (Some(first), Some(last)) = (unbracketed(first), unbracketed(last)) else {
            return error(
                "this is not a range of IPv6 addresses",
                "such as fd00::1-fd00::ff, both ends in full",
            );
        };
        return full_range(text, first, last);
    }
    if let Some((address, prefix)) = text.split_once('/') {
        let net = unbracketed(address).and_then(|address| IpNet::new(address, decimal(prefix)?).ok());
        return match net {
            Some(net) => Ok(net.into()),
            None => error("this is not an IPv6 network", "such as fd00::/64, the prefix being 0 to 128"),
        };
    }
    if let Some(address) = unbracketed(text) {
        return Ok(AddressSet::single(address));
    }
    // One colon, or one after a closing bracket: somebody added a port.
    if text.matches(':').count() == 1 || text.contains("]:") {
        return error("a target has no port", "write the host alone; ports are given with -p");
    }
    error("this is not an IPv6 address", "such as fd00::1 or [fd00::1]")
}

fn v4_network(text: &str) -> Result<AddressSet, TargetError> {
    let error = |problem: &str, hint: &str| Err(TargetError::new(text, problem, hint));
    let Some((address, prefix)) = text.split_once('/') else {
        return error("this is not a network", "such as 10.0.0.0/24");
    };
    let Ok(address) = address.parse::<Ipv4Addr>() else {
        return error(
            "only an address can stand before the `/`",
            "such as 10.0.0.0/24; names and ranges stand alone",
        );
    };
    match decimal(prefix).and_then(|prefix| IpNet::new(address.into(), prefix).ok()) {
        Some(net) => Ok(net.into()),
        None => error("the prefix must be 0 to 32", "such as 10.0.0.0/24; netmasks are not read"),
    }
}

/// A prefix length without sign or leading zeros.
fn decimal(text: &str) -> Option<u8> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn v4(text: &str) -> Result<AddressSet, TargetError> {
    if let Some((first, last)) = text.split_once('-')
        && let (Ok(first), Ok(last)) = (first.parse::<Ipv4Addr>(), last.parse::<Ipv4Addr>())
    {
        return full_range(text, first.into(), last.into());
    }
    octets(text)
}

fn full_range(text: &str, first: IpAddr, last: IpAddr) -> Result<AddressSet, TargetError> {
    match AddressRange::new(first, last) {
        Some(range) => Ok(range.into()),
        None if first.to_canonical().is_ipv4() != last.to_canonical().is_ipv4() => {
            Err(TargetError::new(text, "one end is IPv4 and the other IPv6", "write two targets"))
        }
        None => Err(TargetError::new(text, "the range runs backwards", format!("write {last}-{first}"))),
    }
}

/// `10.0.0-3.1-254`: each octet a list of numbers and ranges, or `*`.
fn octets(text: &str) -> Result<AddressSet, TargetError> {
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 4 {
        let hint = match parts.last() {
            Some(&"") => "leave out the trailing dot",
            _ if text.contains(',') => "write each address as a target of its own",
            _ => "such as 10.0.0.3 or 10.0.0-3.1-254",
        };
        let problem = format!("an IPv4 address has 4 numbers between dots, this has {}", parts.len());
        return Err(TargetError::new(text, problem, hint));
    }
    // From the last octet to the first: the ranges of the octets so far, as numbers in a space of `size` numbers.
    let mut ranges = vec![(0u32, 0u32)];
    let mut size = 1u64;
    for part in parts.into_iter().rev() {
        let values = octet(text, part)?;
        let whole = matches!(ranges.as_slice(), [(0, last)] if u64::from(*last) + 1 == size);
        let count = if whole { values.ranges().len() } else { values.len() * ranges.len() };
        if count > MAX_RANGES {
            return Err(TargetError::new(
                text,
                format!("this comes to more than {MAX_RANGES} separate ranges"),
                "write larger blocks, or several targets",
            ));
        }
        // The products stay below 2^32: an octet is below 256 and `size` is at most 2^24 here.
        let at = |value: u16, offset: u32| (u64::from(value) * size + u64::from(offset)) as u32;
        ranges = if whole {
            let last = (size - 1) as u32;
            values.ranges().map(|run| (at(*run.start(), 0), at(*run.end(), last))).collect()
        } else {
            values.iter().flat_map(|v| ranges.iter().map(move |(a, b)| (at(v, *a), at(v, *b)))).collect()
        };
        size *= 256;
    }
    Ok(ranges
        .into_iter()
        .filter_map(|(a, b)| AddressRange::new(Ipv4Addr::from_bits(a).into(), Ipv4Addr::from_bits(b).into()))
        .collect())
}

fn octet(text: &str, part: &str) -> Result<PortSet, TargetError> {
    // A set of numbers up to 255: what a port set is, with smaller numbers.
    let error = |problem: String, hint: &str| TargetError::new(text, problem, hint);
    let number = |digits: &str| -> Result<u16, TargetError> {
        if digits.len() > 1 && digits.starts_with('0') {
            let problem = format!("`{digits}` begins with a zero: some read it as octal");
            return Err(error(problem, "write it without leading zeros"));
        }
        match digits.parse::<u8>() {
            Ok(number) => Ok(number.into()),
            Err(_) if digits.is_empty() => {
                Err(error("a number is missing".to_owned(), "such as 10.0.0.1,5,9"))
            }
            Err(_) => {
                Err(error(format!("`{digits}` is not a number from 0 to 255"), "such as 10.0.0-3.1-254"))
            }
        }
    };
    part.split(',')
        .map(|piece| {
            if piece == "*" {
                return Ok(0..=255);
            }
            let Some((first, last)) = piece.split_once('-') else {
                let value = number(piece)?;
                return Ok(value..=value);
            };
            let first = if first.is_empty() { 0 } else { number(first)? };
            let last = if last.is_empty() { 255 } else { number(last)? };
            if first > last {
                return Err(error(format!("`{piece}` runs backwards"), "the smaller number comes first"));
            }
            Ok(first..=last)
        })
        .collect()
}

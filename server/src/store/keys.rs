//! Keys. The first byte says what a key is; numbers are big-endian, so that keys sort as the numbers do.

use super::moment::Order;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use portolan_common::ids::{Epoch, SatelliteId};
use portolan_common::observation::Protocol;
use std::net::IpAddr;

/// In `state`: the format of the whole store.
pub(super) const SCHEMA: &[u8] = b"\0schema";
/// In `state`: sums over every tree.
pub(super) const SUMS: &[u8] = b"\0sums";
/// In `state`: one a satellite.
pub(super) const SATELLITE: u8 = b'S';
/// In `state`: one a join token, by the hash of its secret.
pub(super) const TOKEN: u8 = b'T';
/// In `state`: one a (satellite, epoch).
pub(super) const CURSOR: u8 = b'C';
/// In `state`: the current ports of one (tenant, address, satellite, protocol), in parts.
pub(super) const HOST: u8 = b'H';
/// In `state`: (tenant, name) to the addresses that were scanned by it.
pub(super) const NAME: u8 = b'N';
/// In `state`: what happened to a satellite's records.
pub(super) const PROBLEM: u8 = b'P';
/// In `state`: one part of a document.
pub(super) const DOCUMENT: u8 = b'D';
/// In a log: what happened to a check, by time.
pub(super) const TIMELINE: u8 = b'x';
/// In a log: chunks of one satellite's changes, by their order.
pub(super) const CHANGES: u8 = b'd';
/// In a log: one sweep of one satellite, by their order.
pub(super) const SWEEP: u8 = b'w';
/// In a log: what never arrived from one satellite.
pub(super) const GAP: u8 = b'g';
/// In a log of format 1: changes, by the satellite's clock.
pub(super) const CHANGE_1: u8 = b'c';
/// In a log of format 1: sweeps, by the satellite's clock.
pub(super) const SWEEP_1: u8 = b's';

pub(super) fn satellite(id: SatelliteId) -> Vec<u8> {
    [&[SATELLITE], id.as_bytes().as_slice()].concat()
}

pub(super) fn token(secret_hash: &[u8; 32]) -> Vec<u8> {
    [&[TOKEN], secret_hash.as_slice()].concat()
}

pub(super) fn cursor(satellite: SatelliteId, epoch: Epoch) -> Vec<u8> {
    [&[CURSOR], satellite.as_bytes().as_slice(), epoch.as_bytes()].concat()
}

pub(super) fn problem(kind: &str, satellite: &[u8]) -> Vec<u8> {
    [&[PROBLEM], satellite, kind.as_bytes()].concat()
}

/// The cursors of every epoch of a satellite.
pub(super) fn cursors_of(satellite: SatelliteId) -> Vec<u8> {
    [&[CURSOR], satellite.as_bytes().as_slice()].concat()
}

/// Everything of a tenant under `tag`.
pub(super) fn tenant(tag: u8, tenant: &str) -> Vec<u8> {
    let mut key = vec![tag];
    // Names are at most 63 bytes; the length in front keeps `a` from being a prefix of `ab`.
    key.push(tenant.len().min(255) as u8);
    key.extend(tenant.as_bytes());
    key
}

/// Everything of one address of a tenant under `tag`.
pub(super) fn address(tag: u8, tenant_name: &str, address: IpAddr) -> Vec<u8> {
    let mut key = tenant(tag, tenant_name);
    match address {
        IpAddr::V4(v4) => {
            key.push(4);
            key.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            key.push(6);
            key.extend(v6.octets());
        }
    }
    key
}

/// All parts of one host's ports as one satellite sees them.
pub(super) fn host(tenant: &str, ip: IpAddr, satellite: SatelliteId, protocol: Protocol) -> Vec<u8> {
    let mut key = address(HOST, tenant, ip);
    key.extend(satellite.as_bytes());
    key.push(protocol_byte(protocol));
    key
}

/// Takes a host key apart: address, satellite, protocol, part.
pub(super) fn parse_host(key: &[u8]) -> Option<(IpAddr, SatelliteId, Protocol, u8)> {
    let (ip, rest) = parse_address(key)?;
    let (satellite, rest) = rest.split_at_checked(16)?;
    let [protocol, part] = rest else { return None };
    let protocol = Protocol::ALL.iter().copied().find(|p| protocol_byte(*p) == *protocol)?;
    Some((ip, SatelliteId::from_slice(satellite)?, protocol, *part))
}

/// Takes the tag, tenant and address off a key.
pub(super) fn parse_address(key: &[u8]) -> Option<(IpAddr, &[u8])> {
    let (head, rest) = key.split_at_checked(2)?;
    let (_, rest) = rest.split_at_checked(head[1].into())?;
    let (family, rest) = rest.split_first()?;
    match family {
        4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (IpAddr::from(*ip), rest)),
        6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (IpAddr::from(*ip), rest)),
        _ => None,
    }
}

pub(super) fn protocol_byte(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// Addresses that were scanned by a name.
pub(super) fn name(tenant_name: &str, host_name: &str) -> Vec<u8> {
    let mut key = tenant(NAME, tenant_name);
    key.extend(host_name.to_ascii_lowercase().as_bytes());
    key
}

/// All chunks of a satellite's changes.
pub(super) fn chunks_of(satellite: SatelliteId) -> Vec<u8> {
    [&[CHANGES], satellite.as_bytes().as_slice()].concat()
}

/// One chunk of a satellite's changes, in the place of the first record that it has changes of.
pub(super) fn chunk(satellite: SatelliteId, place: Order, chunk: u32) -> Vec<u8> {
    let mut key = chunks_of(satellite);
    key.extend(place.ordinal.to_be_bytes());
    key.extend(place.sequence.to_be_bytes());
    key.extend(chunk.to_be_bytes());
    key
}

/// All sweeps of a satellite.
pub(super) fn sweeps_of(tenant_name: &str, satellite: SatelliteId) -> Vec<u8> {
    let mut key = tenant(SWEEP, tenant_name);
    key.extend(satellite.as_bytes());
    key
}

/// One chunk of a sweep; within a satellite they sort by order.
pub(super) fn sweep(tenant: &str, satellite: SatelliteId, order: Order, chunk: u16) -> Vec<u8> {
    ordered(sweeps_of(tenant, satellite), order, chunk)
}

/// All gaps of a satellite.
pub(super) fn gaps_of(satellite: SatelliteId) -> Vec<u8> {
    [&[GAP], satellite.as_bytes().as_slice()].concat()
}

/// One gap; the chunk tells what is accounted for (0) from what is missing before it (1).
pub(super) fn gap(satellite: SatelliteId, order: Order, chunk: u16) -> Vec<u8> {
    ordered(gaps_of(satellite), order, chunk)
}

fn ordered(mut key: Vec<u8>, order: Order, chunk: u16) -> Vec<u8> {
    key.extend(order.ordinal.to_be_bytes());
    key.extend(order.sequence.to_be_bytes());
    key.extend(chunk.to_be_bytes());
    key
}

/// All documents of a kind.
pub(super) fn documents_of(kind: u8) -> Vec<u8> {
    vec![DOCUMENT, kind]
}

/// All parts of a document; what follows is the part's number, two bytes.
pub(super) fn document(kind: u8, name: &[u8]) -> Vec<u8> {
    let name = &name[..name.len().min(255)];
    // The length in front keeps one name from being a prefix of another.
    [&[DOCUMENT, kind, name.len() as u8], name].concat()
}

/// The name in the key of a document's part.
pub(super) fn parse_document(key: &[u8]) -> Option<&[u8]> {
    let (&length, rest) = key.get(2..)?.split_first()?;
    rest.split_at_checked(length.into()).filter(|(_, part)| part.len() == 2).map(|(name, _)| name)
}

/// Everything that happened to a check.
pub(super) fn timeline_of(check: &str) -> Vec<u8> {
    let check = &check.as_bytes()[..check.len().min(255)];
    [&[TIMELINE, check.len() as u8], check].concat()
}

/// One thing that happened to a check.
pub(super) fn timeline_entry(check: &str, at: Timestamp, unique: u64) -> Vec<u8> {
    let mut key = timeline_of(check);
    // With the sign turned, so that times before 1970 sort first.
    key.extend((at.as_millisecond() ^ i64::MIN).to_be_bytes());
    key.extend(unique.to_be_bytes());
    key
}

/// Reads the order at the front of what follows a prefix.
pub(super) fn parse_order(rest: &[u8]) -> Option<Order> {
    let (ordinal, rest) = rest.split_first_chunk::<4>()?;
    let sequence = rest.first_chunk::<8>()?;
    Some(Order { ordinal: u32::from_be_bytes(*ordinal), sequence: u64::from_be_bytes(*sequence) })
}

/// `log-2026-11`.
pub(super) fn log_tree(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("log-%Y-%m").to_string()
}

/// The year times 100 plus the month of a log tree.
pub(super) fn month(log_tree: &str) -> u32 {
    log_tree.bytes().filter(u8::is_ascii_digit).fold(0, |month, digit| month * 10 + u32::from(digit - b'0'))
}

/// The log tree of a month.
pub(super) fn log_tree_of(month: u32) -> String {
    format!("log-{:04}-{:02}", month / 100, month % 100)
}

pub(super) fn is_log_tree(name: &[u8]) -> bool {
    name.starts_with(b"log-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_keys_read_back_and_sort_by_address() {
        let id = SatelliteId(uuid::Uuid::from_u128(7));
        for text in ["10.0.0.1", "fd00::1"] {
            let ip: IpAddr = text.parse().unwrap();
            let mut key = host("default", ip, id, Protocol::Udp);
            key.push(3);
            assert_eq!(parse_host(&key), Some((ip, id, Protocol::Udp, 3)));
        }
        let low = host("default", "9.0.0.0".parse().unwrap(), id, Protocol::Tcp);
        let high = host("default", "10.0.0.0".parse().unwrap(), id, Protocol::Tcp);
        assert!(low < high);
        assert!(!host("ab", "9.0.0.0".parse().unwrap(), id, Protocol::Tcp).starts_with(&tenant(HOST, "a")));
    }

    #[test]
    fn damaged_keys_are_no_keys() {
        for key in [&b""[..], b"H", b"H\xff", b"H\x00\x05", b"H\x00\x04\x01\x02"] {
            assert_eq!(parse_host(key), None);
            assert_eq!(parse_order(key), None);
        }
    }

    #[test]
    fn months() {
        let at: Timestamp = "2026-11-30T23:59:59Z".parse().unwrap();
        assert_eq!(log_tree(at), "log-2026-11");
        assert_eq!(month("log-2026-11"), 202_611);
        assert_eq!(log_tree_of(202_601), "log-2026-01");
    }
}

//! The last record of a scan, bounded whatever was scanned: over a slow link it must pass well within the time that the
//! server waits for a sign of life, which is a whole message.

use crate::engine::{Outcome, Refusal, SweepSummary};
use crate::resolve::Unresolved;
use crate::shown::shown;
use portolan_common::addresses::AddressSet;
use portolan_common::ports::PortSpec;
use portolan_proto::v1;
use prost::Message as _;

/// All of it: within 16 s over 130 kbit/s. Of these are, at most, …
#[cfg(test)]
const MAX_BYTES: usize = 256 * 1024;
/// … its refusals, …
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// … its coverage, …
const MAX_COVERAGE_BYTES: usize = 150 * 1024;
/// … names that did not resolve, …
const MAX_UNRESOLVED_BYTES: usize = 24 * 1024;
/// … so many notes, …
const MAX_NOTES: usize = 20;
/// … and why it failed. A little is left for the rest, which is small.
const MAX_ERROR: usize = 4 * 1024;
/// Names that did not resolve.
const MAX_UNRESOLVED: usize = 1000;
/// Bytes of a note, of a rule, of a refused port list or of a resolver's words that are shown; a scope may list a thousand ports.
const MAX_SHOWN: usize = 400;

/// Of a scan that could not begin or go on.
pub fn failed(error: String) -> v1::ScanEnd {
    let error = shown(&error, MAX_ERROR);
    v1::ScanEnd { outcome: v1::scan_end::Outcome::Failed.into(), error, ..v1::ScanEnd::default() }
}

/// Of a scan that was cancelled before it began.
pub fn cancelled() -> v1::ScanEnd {
    v1::ScanEnd { outcome: v1::scan_end::Outcome::Cancelled.into(), ..v1::ScanEnd::default() }
}

/// Of a sweep that ended, and the names that did not resolve for it.
pub fn of(summary: SweepSummary, unresolved: Vec<Unresolved>) -> v1::ScanEnd {
    let (outcome, error) = match summary.outcome {
        Outcome::Complete => (v1::scan_end::Outcome::Complete, String::new()),
        Outcome::Cancelled => (v1::scan_end::Outcome::Cancelled, String::new()),
        Outcome::Failed(why) => (v1::scan_end::Outcome::Failed, shown(&why, MAX_ERROR)),
    };
    let (refusals, refusals_dropped) = bounded_refusals(summary.refusals);
    let (coverage, coverage_dropped) = bounded_coverage(summary.coverage);
    let (unresolved, unresolved_dropped) = bounded_unresolved(unresolved);
    v1::ScanEnd {
        outcome: outcome.into(),
        error,
        refusals,
        refusals_dropped: summary.refusals_dropped + refusals_dropped,
        coverage,
        coverage_dropped,
        unresolved,
        unresolved_dropped,
        hosts_up: summary.hosts_up,
        hosts_total: summary.hosts_total,
        probes_sent: summary.probes_sent,
        method: summary.method.to_string(),
        method_reason: shown(&summary.method_reason, MAX_SHOWN),
        notes: summary.notes.iter().take(MAX_NOTES).map(|note| shown(note, MAX_SHOWN)).collect(),
        ..v1::ScanEnd::default()
    }
}

/// As many refusals as fit, and how many do not.
fn bounded_refusals(refusals: Vec<Refusal>) -> (Vec<v1::Refusal>, u64) {
    let mut room = MAX_REFUSAL_BYTES;
    let mut kept = Vec::new();
    let mut dropped = 0;
    for refusal in refusals {
        let refusal = v1::Refusal {
            target: refusal.addresses.to_string(),
            ports: refusal.ports.map(|ports| shown(&ports.to_string(), MAX_SHOWN)).unwrap_or_default(),
            rule: shown(&refusal.rule, MAX_SHOWN),
        };
        match room.checked_sub(refusal.encoded_len() + 4) {
            Some(left) => {
                room = left;
                kept.push(refusal);
            }
            None => dropped += 1,
        }
    }
    (kept, dropped)
}

/// As much coverage as fits, and how many address ranges do not.
fn bounded_coverage(coverage: Vec<(AddressSet, PortSpec)>) -> (Vec<v1::Coverage>, u64) {
    let mut room = MAX_COVERAGE_BYTES;
    let mut kept = Vec::new();
    let mut dropped = 0;
    for (addresses, ports) in coverage {
        let mut part = v1::Coverage { addresses: Vec::new(), ports: ports.to_string() };
        let head = part.ports.len() + 8;
        for range in addresses.ranges().map(|range| range.to_string()) {
            let cost = range.len() + 4 + if part.addresses.is_empty() { head } else { 0 };
            match room.checked_sub(cost) {
                Some(left) => {
                    room = left;
                    part.addresses.push(range);
                }
                None => dropped += 1,
            }
        }
        if !part.addresses.is_empty() {
            kept.push(part);
        }
    }
    if dropped > 0 {
        tracing::warn!(dropped, "the coverage is too scattered to report in full");
    }
    (kept, dropped)
}

/// As many names as fit, and how many do not.
fn bounded_unresolved(unresolved: Vec<Unresolved>) -> (Vec<v1::Unresolved>, u64) {
    let mut room = MAX_UNRESOLVED_BYTES;
    let mut kept = Vec::new();
    let mut dropped = 0;
    for Unresolved { name, error } in unresolved {
        let unresolved = v1::Unresolved { name, error: shown(&error, MAX_SHOWN) };
        match room.checked_sub(unresolved.encoded_len() + 4).filter(|_| kept.len() < MAX_UNRESOLVED) {
            Some(left) => {
                room = left;
                kept.push(unresolved);
            }
            None => dropped += 1,
        }
    }
    (kept, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MAX_REFUSALS;
    use portolan_common::addresses::AddressRange;
    use portolan_common::ports::PortSet;
    use std::net::Ipv4Addr;

    /// A record that the server's limit turns away, or that does not pass in time, would be sent again for ever.
    #[test]
    fn the_end_of_the_most_scattered_scan_passes_over_a_slow_link() {
        let scattered: PortSet = (0..=u16::MAX).filter(|port| port % 4 == 0).collect();
        let ports = PortSpec { tcp: scattered, udp: PortSet::default() };
        let address = |n: u32| AddressRange::single(Ipv4Addr::from_bits(n * 2).into());
        let refusals = (0..MAX_REFUSALS as u32)
            .map(|n| Refusal {
                addresses: address(n),
                ports: Some(ports.clone()),
                rule: format!("ports {ports}"),
            })
            .collect();
        let coverage =
            (0..20).map(|n| ((n * 50_000..(n + 1) * 50_000).map(address).collect(), ports.clone())).collect();
        let summary = SweepSummary {
            outcome: Outcome::Failed("é".repeat(100_000)),
            hosts_up: 0,
            hosts_total: 1_000_000,
            probes_sent: 0,
            refusals,
            refusals_dropped: 5,
            coverage,
            method: "connect".to_owned(),
            method_reason: "é".repeat(1000),
            notes: vec!["é".repeat(1000); 100],
        };
        let unresolved = (0..2000)
            .map(|n| Unresolved { name: format!("{n}.example"), error: "no such name ".repeat(n) })
            .collect();
        let end = of(summary, unresolved);
        assert!(end.encoded_len() <= MAX_BYTES, "{} bytes", end.encoded_len());
        const { assert!(MAX_BYTES < portolan_proto::MAX_UPLINK_BYTES) };
        let named = end.refusals.len() as u64;
        assert!(named > 50 && end.refusals_dropped == MAX_REFUSALS as u64 - named + 5);
        let covered: usize = end.coverage.iter().map(|part| part.addresses.len()).sum();
        assert!(covered > 1000 && covered as u64 + end.coverage_dropped == 1_000_000);
        assert_eq!(end.notes.len(), MAX_NOTES);
        assert!(end.notes.iter().all(|note| note.len() <= MAX_SHOWN));
        let unresolved = end.unresolved.len() as u64;
        assert!(unresolved > 50 && unresolved + end.unresolved_dropped == 2000);
        assert!(failed("é".repeat(100_000)).encoded_len() < MAX_ERROR + 64);
    }

    /// Ports so scattered that they do not fit are not told in part.
    #[test]
    fn coverage_that_cannot_be_told_is_counted() {
        let scattered: PortSet = (0..=u16::MAX).filter(|port| port % 2 == 0).collect();
        let ports = PortSpec { tcp: scattered, udp: PortSet::default() };
        let one = PortSpec { tcp: [22].into_iter().collect(), udp: PortSet::default() };
        let range = |n: u32| AddressRange::single(Ipv4Addr::from_bits(n * 2).into());
        let addresses = || (0..10).map(range).collect::<AddressSet>();
        let (kept, dropped) = bounded_coverage(vec![(addresses(), ports), (addresses(), one)]);
        assert_eq!((kept.len(), kept[0].addresses.len(), kept[0].ports.as_str(), dropped), (1, 10, "22", 10));
    }
}

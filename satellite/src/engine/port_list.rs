//! A list of ports that hosts share. Pure.

use portolan_common::ports::{PortSet, PortSpec};
use std::ops::RangeInclusive;

/// The ports of a sweep, or what a scope leaves of them, by number.
#[derive(Debug)]
pub(super) struct PortList {
    /// The same as a set.
    pub(super) spec: PortSpec,
    /// TCP ports, ascending.
    pub(super) tcp: Box<[u16]>,
    /// UDP ports, ascending.
    pub(super) udp: Box<[u16]>,
}

impl PortList {
    pub(super) fn new(spec: PortSpec) -> Self {
        Self { tcp: spec.tcp.iter().collect(), udp: spec.udp.iter().collect(), spec }
    }

    /// How many, of both protocols: 131,072 at most.
    pub(super) fn len(&self) -> usize {
        self.tcp.len() + self.udp.len()
    }
}

/// A set of ascending ports.
pub(super) fn ascending(ports: impl Iterator<Item = u16>) -> PortSet {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some(range) if range.end().checked_add(1) == Some(port) => *range = *range.start()..=port,
            _ => ranges.push(port..=port),
        }
    }
    ranges.into_iter().collect()
}

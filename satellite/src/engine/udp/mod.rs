//! Probing UDP ports: what to send to each ([`payloads`]), how to send it and read what comes back ([`prober`]), and
//! how fast one host may be asked when it limits its ICMP errors ([`pacing`]).
//!
//! A UDP port answers with a datagram (open), with ICMP port unreachable (closed), or not at all, which may mean
//! anything: hence payloads that real servers answer, and patience with hosts that ration their errors.

mod pacing;
mod payloads;
mod prober;
#[cfg(test)]
mod sim;

pub(super) use pacing::Pacing;
pub(super) use prober::{UdpAnswer, UdpProber, UdpSeen};

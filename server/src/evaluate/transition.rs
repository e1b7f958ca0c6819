//! What the evaluator tells.

use jiff::Timestamp;
use portolan_common::expectation::Expectation;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol, Reason};
use std::net::IpAddr;
use std::sync::Arc;

/// What a state machine is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The check.
    pub check: Arc<str>,
    /// The target's address.
    pub address: IpAddr,
    /// The port; `None`: the host itself, which is down for all of them.
    pub port: Option<(Protocol, u16)>,
}

/// Where a state machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// As expected.
    Ok,
    /// A fault was seen and is not confirmed.
    Pending,
    /// A fault is confirmed.
    Firing,
    /// No evidence that counts. A fault that was firing is still firing, only that nobody knows.
    Unknown,
}

/// What was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// Of a port, by the policy.
    Port(Expectation),
    /// Of a port: as the baseline has it.
    Baseline {
        /// Whether it was open there, from the vantage points that now see it otherwise.
        open: bool,
    },
    /// Of a host: that it answers.
    Up,
}

/// A port as one vantage point last saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The vantage point.
    pub satellite: SatelliteId,
    /// What it saw; `None`: the host did not answer at all (of a key without a port).
    pub state: Option<(PortState, Reason)>,
    /// When it last looked.
    pub seen: Timestamp,
    /// Since when it has been so, as far as it was seen.
    pub since: Timestamp,
    /// Too old to count.
    pub stale: bool,
    /// It contradicts what is expected.
    pub mismatch: bool,
    /// Looks in a row that say the same of the expectation; 1 at least of what always was as expected.
    pub in_a_row: u32,
    /// The last round-trip times, oldest first, microseconds; 0: no answer.
    pub rtts_us: Vec<u32>,
    /// The usual one; 0: not known.
    pub usual_rtt_us: u32,
}

/// A state machine took a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// Which.
    pub key: Key,
    /// The target as the policy has it, where it is a name; else empty.
    pub target: String,
    /// What is expected.
    pub expected: Expected,
    /// From where; the same as `to` when only `flapping` or the evidence of something firing changed. That a key without
    /// a fault becomes known or unknown is not told; a fault that ends is told to end in `ok`, whatever comes then.
    pub from: State,
    /// To where.
    pub to: State,
    /// When, as it was seen.
    pub at: Timestamp,
    /// When the fault began, as it was seen, also while nobody knows whether it goes on; without a fault, when it became
    /// ok or unknown.
    pub since: Timestamp,
    /// It goes to and fro too often to tell each time.
    pub flapping: bool,
    /// It was learned long after it was seen.
    pub late: bool,
    /// The vantage points, ascending.
    pub sights: Vec<Sight>,
    /// The key is not expected any more (the check, the target or the port left the policy, or a name its address): it
    /// ends whatever it was, in `ok`.
    pub gone: bool,
}

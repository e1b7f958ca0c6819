//! What others ask of the evaluator, and what they give back to it after a restart.

use super::{Expected, Key, Sight, State};
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol};
use portolan_common::ports::PortSet;
use std::ops::{Add, Sub};

/// How many expectations, an address and a port each, are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// As expected.
    pub ok: u64,
    /// A fault was seen and is not confirmed.
    pub pending: u64,
    /// A fault is confirmed.
    pub firing: u64,
    /// No evidence that counts.
    pub unknown: u64,
}

impl Counts {
    pub(super) fn of_mut(&mut self, state: State) -> &mut u64 {
        match state {
            State::Ok => &mut self.ok,
            State::Pending => &mut self.pending,
            State::Firing => &mut self.firing,
            State::Unknown => &mut self.unknown,
        }
    }

    /// The worst state of any: firing, unknown, pending, ok; of none it is unknown.
    pub fn worst(self) -> State {
        match self {
            Self { firing: 1.., .. } => State::Firing,
            Self { unknown: 1.., .. } => State::Unknown,
            Self { pending: 1.., .. } => State::Pending,
            Self { ok: 1.., .. } => State::Ok,
            _ => State::Unknown,
        }
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            ok: self.ok + other.ok,
            pending: self.pending + other.pending,
            firing: self.firing + other.firing,
            unknown: self.unknown + other.unknown,
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            ok: self.ok.saturating_sub(other.ok),
            pending: self.pending.saturating_sub(other.pending),
            firing: self.firing.saturating_sub(other.firing),
            unknown: self.unknown.saturating_sub(other.unknown),
        }
    }
}

/// How a check is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its expectations, those of addresses that were never looked at too.
    pub counts: Counts,
    /// The worst state of any.
    pub state: State,
    /// Since when that is the worst.
    pub since: Timestamp,
    /// Deviating ports beyond what is followed; they count as unknown.
    pub untracked: u64,
    /// Its vantage points, ascending.
    pub vantages: Vec<VantageSummary>,
}

/// How far one vantage point of a check has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VantageSummary {
    /// Which.
    pub satellite: SatelliteId,
    /// The oldest of its last looks at the addresses; `None`: it has not looked at all of them.
    pub oldest: Option<Timestamp>,
    /// The newest; `None`: it never looked.
    pub newest: Option<Timestamp>,
    /// Addresses that it has looked at.
    pub addresses: u64,
}

/// Ports of one state at which a vantage point looked together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortsLooked {
    /// Their protocol.
    pub protocol: Protocol,
    /// What it saw.
    pub state: PortState,
    /// Which.
    pub ports: PortSet,
    /// When.
    pub seen: Timestamp,
}

/// One key and how it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Which.
    pub key: Key,
    /// The target as the policy has it, where it is a name; else empty.
    pub target: String,
    /// What is expected.
    pub expected: Expected,
    /// Where it stands.
    pub state: State,
    /// Since when; of a fault, when it began. `None`: it was never seen.
    pub since: Option<Timestamp>,
    /// It goes to and fro too often to tell each time.
    pub flapping: bool,
    /// The vantage points that saw it, ascending.
    pub sights: Vec<Sight>,
}

/// A fault that was known before a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// Of which key.
    pub key: Key,
    /// The target as the policy had it, where it is a name; else empty.
    pub target: String,
    /// What was expected.
    pub expected: Expected,
    /// Firing, or unknown while nobody could say.
    pub state: State,
    /// When it began.
    pub since: Timestamp,
    /// It went to and fro too often to tell each time.
    pub flapping: bool,
    /// What the vantage points saw. Those that saw the mismatch see it still, until they are heard of again; where none
    /// did, all of them; and where there are none, all of the check's.
    pub sights: Vec<Sight>,
}

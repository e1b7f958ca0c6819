//! What a check expects of a port, and what an observation says of that.

use crate::observation::{PortState, Protocol};
use crate::ports::PortSpec;
use std::fmt;

/// What must be so of a port as seen from a vantage point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expectation {
    /// It accepts connections.
    Open,
    /// It does not: a refusal and silence both pass.
    Closed,
    /// The path itself is shut: silence and a device's rejection pass, the target's own refusal does not.
    Blocked,
}

/// What an observation says of an expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// It is as expected.
    Match,
    /// It is not.
    Mismatch,
    /// UDP silence, `open|filtered`: it satisfies nothing and contradicts nothing.
    Inconclusive,
}

impl Expectation {
    /// The word of the policy file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Blocked => "blocked",
        }
    }

    /// What a port state says of it.
    pub const fn judge(self, state: PortState) -> Judgement {
        match (self, state) {
            (_, PortState::OpenFiltered) => Judgement::Inconclusive,
            (Self::Open, PortState::Open)
            | (Self::Closed, PortState::Closed | PortState::Filtered)
            | (Self::Blocked, PortState::Filtered) => Judgement::Match,
            _ => Judgement::Mismatch,
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The ports of a check by what is expected of them; disjoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedPorts {
    /// Must be open.
    pub open: PortSpec,
    /// Must not be open.
    pub closed: PortSpec,
    /// Must not be reachable.
    pub blocked: PortSpec,
    /// Are looked at without an expectation, for baselines.
    pub watch: PortSpec,
}

impl ExpectedPorts {
    /// All of them.
    pub fn all(&self) -> PortSpec {
        self.open.union(&self.closed).union(&self.blocked).union(&self.watch)
    }

    /// What is expected of a port; `None` where nothing is.
    pub fn of(&self, protocol: Protocol, port: u16) -> Option<Expectation> {
        [
            (&self.open, Expectation::Open),
            (&self.closed, Expectation::Closed),
            (&self.blocked, Expectation::Blocked),
        ]
        .into_iter()
        .find(|(ports, _)| ports.of(protocol).contains(port))
        .map(|(_, expectation)| expectation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Judgement::{Inconclusive, Match, Mismatch};

    #[test]
    fn every_state_is_judged_as_the_contract_says() {
        let states = [PortState::Open, PortState::Closed, PortState::Filtered, PortState::OpenFiltered];
        for (expectation, judgements) in [
            (Expectation::Open, [Match, Mismatch, Mismatch, Inconclusive]),
            (Expectation::Closed, [Mismatch, Match, Match, Inconclusive]),
            (Expectation::Blocked, [Mismatch, Mismatch, Match, Inconclusive]),
        ] {
            assert_eq!(states.map(|state| expectation.judge(state)), judgements, "{expectation}");
        }
    }
}

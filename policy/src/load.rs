//! What a policy has its satellites send.

use crate::{Policy, World};
use jiff::Timestamp;

/// The `from` or `to` of what lies in no segment.
pub const NO_SEGMENT: &str = "(none)";

/// What crosses from one segment to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairLoad {
    /// The segment of the satellites.
    pub from: String,
    /// The segment of the targets.
    pub to: String,
    /// A port that is looked at counts as one, rounded up.
    pub probes_per_hour: u64,
}

/// What one satellite sends to one network.
#[derive(Clone, Debug, PartialEq)]
pub struct PathLoad {
    /// Its name.
    pub satellite: String,
    /// The /24 or /64; a name where the address is not known.
    pub network: String,
    /// On an average.
    pub probes_per_second: f64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Busiest first.
    pub pairs: Vec<PairLoad>,
    /// `None`: nothing is sent.
    pub busiest: Option<PathLoad>,
}

/// What the checks of a policy send, paused ones left out.
pub fn load(_policy: &Policy, _world: &World, _now: Timestamp) -> Load {
    Load::default()
}

//! What is merely not there yet, or will not do what its author hopes. Nothing of it stops an apply.

use crate::{Policy, World};
use ipnet::IpNet;
use jiff::Timestamp;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// A stable word, such as `outside-scope`.
    pub kind: &'static str,
    /// What it is about: a check, a satellite, a segment.
    pub subject: String,
    /// For people, with what to do about it.
    pub message: String,
    /// The satellite whose scope file is concerned; may be empty.
    pub satellite: String,
    /// Networks to add to that file's `allow`.
    pub add_to_scope: Vec<IpNet>,
}

/// Everything that there is to warn of, satellites first.
pub fn warnings(_policy: &Policy, _world: &World, _now: Timestamp) -> Vec<Warning> {
    Vec::new()
}

//! The parts of a policy that are understood and kept, and that nothing acts upon yet.

use crate::Policy;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inactive {
    /// Such as `[[receiver]] oncall` or `check shop-front: service on port 443`.
    pub what: String,
    /// What does not happen.
    pub why: &'static str,
}

/// All of them, in the order of a policy file.
pub fn inactive(_policy: &Policy) -> Vec<Inactive> {
    Vec::new()
}

//! What another policy would start, stop and change, in words.

use crate::Policy;

/// What becomes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// It is new.
    Start,
    /// It is no more.
    Stop,
    /// It is another.
    Change,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What becomes of it.
    pub change: Change,
    /// `check`, `segment`, `flow`, …
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// In words: "every 30s instead of 1m; 8080 must be open".
    pub words: String,
}

/// What `new` does that `old` did not, and the other way round; by kind and name.
pub fn differences(_old: Option<&Policy>, _new: &Policy) -> Vec<Difference> {
    Vec::new()
}

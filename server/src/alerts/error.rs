//! What may be wrong with what an operator asks.

use std::fmt;

/// What is looked for by its id or name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    /// An alert.
    Alert,
    /// A silence.
    Silence,
    /// An open change.
    Change,
    /// A baseline.
    Baseline,
    /// A check.
    Check,
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alert => "alert",
            Self::Silence => "silence",
            Self::Change => "open change",
            Self::Baseline => "baseline",
            Self::Check => "check",
        })
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlertsError {
    /// It is not there.
    #[error("there is no {0} `{1}` ({hint})", hint = hint(*.0))]
    Unknown(Thing, String),
    /// An id was cut so short that it means several.
    #[error("`{1}` is the id of more than one {0}: write more of it, such as {2}")]
    Ambiguous(Thing, String, String),
    /// It cannot be so.
    #[error("{0}")]
    Invalid(String),
    /// It is there already.
    #[error("{0}")]
    Exists(String),
    /// It is not the time for it.
    #[error("{0}")]
    Untimely(String),
    /// There are too many.
    #[error("{0}")]
    Full(String),
}

fn hint(thing: Thing) -> &'static str {
    match thing {
        Thing::Alert => "`portolan alert list` has them; what is resolved is kept for a week",
        Thing::Silence => "`portolan silence list --expired` has them",
        Thing::Change => "`portolan change list` has them",
        Thing::Baseline => "`portolan baseline take NAME` makes one",
        Thing::Check => "`portolan check list` has them",
    }
}

/// What an operator typed, fit to be repeated to them.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

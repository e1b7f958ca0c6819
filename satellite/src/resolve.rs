//! Names to addresses, at the satellite and with its system's resolver.

/// Why a name has no address here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The name as it was asked for.
    pub name: String,
    /// Why, in words for the operator.
    pub error: String,
}
